"""The environments in which a local run's steps run: what an image holds, from the same lock, without a container.

An environment is one folder of the lock's packages and, if the user brings packages, a second one of those. Neither
ever changes: its name is a digest of what is in it, and a change makes another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

import fededge
from fededge.errors import InputError, SetupError
from fededge.shipped import image_names, shipped_file

_COMPLETE = ".complete"
# What each takes on the disk.
SIZES = {
    "serving": "1.5 GB",
    "serving-tensorflow": "2.0 GB",
    "sklearn": "0.4 GB",
    "tensorflow": "2.5 GB",
    "torch": "1.3 GB",
}
_PYTORCH = "--torch-backend=cpu"  # uv's name for the index below, which it asks for PyTorch's packages alone
_PYTORCH_HINT = (
    "; PyTorch for CPUs comes from https://download.pytorch.org/whl/cpu: where that is out of reach, "
    "put its wheel into a folder and set PIP_FIND_LINKS to the folder"
)
_NO_SOURCE = ("__pycache__", ".git", ".venv", "build", "dist", ".egg-info", ".mypy_cache", ".ruff_cache", ".fededge")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Environment:
    """An image's environment on this machine.

    Attributes:
      image: as in the folder `images/`, without prefix or version.
      path: of the lock's packages.
      extras: the user's own packages: requirement specifiers or folders.
      extras_path: of those; None if there are none.
    """

    image: str
    path: Path
    extras: tuple[str, ...]
    extras_path: Path | None

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def ready(self) -> bool:
        return all((path / _COMPLETE).exists() for path in (self.path, self.extras_path) if path)

    def variables(self, library: Path) -> dict[str, str]:
        """Name the variables that a process in this environment needs.

        Args:
          library: the folder of `link_library`.
        """
        folders = [library, *([self.extras_path] if self.extras_path else [])]
        # Without the safe path, a random.py where the command is typed would be imported for the library's.
        path = os.pathsep.join(map(str, folders))
        return {"PYTHONPATH": path, "PYTHONNOUSERSITE": "1", "PYTHONSAFEPATH": "1"}


def environment(image: str, extras: Sequence[str] = ()) -> Environment:
    """Find the environment of an image.

    Raises:
      InputError: there is no such image, or an extra folder does not exist.
    """
    if image not in image_names():
        raise InputError(f"no environment {image!r}: there are {', '.join(image_names())}")
    digest = hashlib.sha256(_lock(image).read_bytes() + f"{sys.version_info[:2]} {sys.platform}".encode())
    path = environments_folder() / f"{image}-{digest.hexdigest()[:12]}"
    for extra in extras:
        _digest_extra(digest, extra)
    extras_path = environments_folder() / f"{image}-extras-{digest.hexdigest()[:12]}" if extras else None
    return Environment(image, path, tuple(extras), extras_path)


def environments_folder() -> Path:
    return Path(os.environ.get("FEDEDGE_ENVIRONMENTS") or user_cache_path("fededge") / "environments")


def make(wanted: Environment, say: Say) -> None:
    """Make an environment unless it is there; two that make the same one wait for each other.

    Args:
      wanted: what to make.
      say: told what is going on.

    Raises:
      SetupError: a package cannot be installed.
    """
    with _making(wanted.path) as missing:
        if missing:
            say(f"making the environment {wanted.image} in {wanted.path}: once, {SIZES[wanted.image]}")
            _uv("venv", "--quiet", "--python", f"{sys.version_info.major}.{sys.version_info.minor}", str(wanted.path))
            # Without byte-code every step would spend seconds on compiling TensorFlow again.
            _uv("pip", "install", "--python", str(wanted.python), "--no-deps", "--require-hashes",
                "--compile-bytecode", *_sources(wanted.image), "--requirement", str(_lock(wanted.image)))  # fmt: skip
    if wanted.extras_path:
        with _making(wanted.extras_path) as missing:
            if missing:
                _install_extras(wanted, wanted.extras_path, say)


def link_library(folder: Path) -> Path:
    """Make this very FedEdge importable in environments, which hold none of their own.

    Args:
      folder: where to put the link; it must outlive the processes that use it.
    """
    library = folder / "library"
    library.mkdir()
    (library / "fededge").symlink_to(Path(fededge.__file__).parent)
    return library


def existing() -> list[Path]:
    """List the environments' folders on this machine, whole or not."""
    folder = environments_folder()
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def remove(path: Path) -> None:
    """Remove an environment's folder; a run that uses it fails."""
    (path / _COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(path)


def _install_extras(wanted: Environment, to: Path, say: Say) -> None:
    """Install the user's packages and what they need beyond the lock, whose pins decide."""
    say(f"installing {', '.join(wanted.extras)}")
    lock = _lock(wanted.image)
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), re.MULTILINE)
    to.mkdir(parents=True)
    (to / "wanted.in").write_text("\n".join(_requirement(extra) for extra in wanted.extras))
    overrides = str(shipped_file(f"images/{wanted.image}/overrides.txt"))
    target = ["--python", str(wanted.python), *_sources(wanted.image)]
    _uv("pip", "compile", "--quiet", "--no-header", "--no-annotate", *target, "--constraint", str(lock),
        "--override", overrides, *(f"--no-emit-package={name}" for name in locked),
        "--output-file", str(to / "extras.lock"), str(to / "wanted.in"))  # fmt: skip
    # uv keeps what it once built of a folder until its pyproject.toml changes, whatever else does.
    _uv("pip", "install", *target, "--no-deps", "--target", str(to), "--compile-bytecode", "--reinstall",
        "--requirement", str(to / "extras.lock"))  # fmt: skip


def _requirement(extra: str) -> str:
    return str(Path(extra).expanduser().absolute()) if _is_path(extra) else extra


def _lock(image: str) -> Path:
    return shipped_file(f"images/{image}/requirements.lock")


def _sources(image: str) -> list[str]:
    """Tell uv where wheels are, beside PyPI: where pip is told to look, and what PyTorch builds for CPUs.

    uv fails if a place that it is told of is out of reach, so PyTorch's index is named only where no folder has what
    is locked.
    """
    links = [link for link in os.environ.get("PIP_FIND_LINKS", "").split() if "://" in link or Path(link).is_dir()]
    options = [f"--find-links={link}" for link in links]
    builds = re.findall(r"^([A-Za-z0-9._-]+)==(\S+\+cpu)", _lock(image).read_text(), re.MULTILINE)
    found = [any(any(Path(link).glob(f"{name}-{version}-*.whl")) for link in links) for name, version in builds]
    return options if all(found) else [*options, _PYTORCH]


def _is_path(extra: str) -> bool:
    return extra.startswith((".", "~")) or os.sep in extra


def _digest_extra(digest: hashlib._Hash, extra: str) -> None:
    digest.update(extra.encode())
    if not _is_path(extra):
        return
    root = Path(extra).expanduser()
    if not root.exists():
        raise InputError(f"--with {extra}: no such file or folder")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    for file in files:
        if not any(part.endswith(_NO_SOURCE) for part in file.relative_to(root).parts):
            digest.update(str(file).encode() + file.read_bytes())


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    # What uv shows while it works goes to the terminal; what it says of an error is kept for ours.
    shown = subprocess.PIPE if not sys.stderr.isatty() else None
    done = subprocess.run([find_uv_bin(), *arguments], stdout=sys.stderr.fileno(), stderr=shown, text=True)  # noqa: S603
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or "see above").strip().splitlines() if line.strip()]
        hint = _PYTORCH_HINT if _PYTORCH in arguments else ""
        raise SetupError(f"uv {' '.join(arguments[:2])} failed: {' '.join(lines[-4:])}{hint}")


@contextlib.contextmanager
def _making(path: Path) -> Iterator[bool]:
    """Say whether a folder is to be made, and mark it whole afterwards; others wait meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        missing = not (path / _COMPLETE).exists()
        if missing:
            shutil.rmtree(path, ignore_errors=True)
        yield missing
        (path / _COMPLETE).touch()
