"""The environments in which a local run's steps run: what an image holds, from the same lock, without a container.

An environment never changes: its name is a digest of everything in it, and a change makes another.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
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

_COMPLETE = "complete"
_IGNORED = ("__pycache__", ".git", ".venv", "build", "dist", ".egg-info", ".mypy_cache", ".ruff_cache")


@dataclass(frozen=True)
class Environment:
    """An image's environment on this machine.

    Attributes:
      image: as in the folder `images/`, without prefix or version.
      extras: the user's own packages beside the lock: requirement specifiers or folders.
      path: where it is, or will be.
    """

    image: str
    extras: tuple[str, ...]
    path: Path

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def ready(self) -> bool:
        return (self.path / _COMPLETE).exists()


def environment(image: str, extras: Sequence[str] = ()) -> Environment:
    """Find the environment of an image.

    Raises:
      InputError: there is no such image, or an extra folder does not exist.
    """
    if image not in image_names():
        raise InputError(f"no environment {image!r}: there are {', '.join(image_names())}")
    digest = hashlib.sha256(_lock(image).read_bytes())
    digest.update(f"{sys.version_info[:2]} {sys.platform}".encode())
    for extra in extras:
        _digest_extra(digest, extra)
    return Environment(image, tuple(extras), environments_folder() / f"{image}-{digest.hexdigest()[:12]}")


def environments_folder() -> Path:
    return Path(os.environ.get("FEDEDGE_ENVIRONMENTS") or user_cache_path("fededge") / "environments")


def make(wanted: Environment, say: Callable[[str], None]) -> None:
    """Make an environment unless it is there; two that make the same one wait for each other.

    Args:
      wanted: what to make.
      say: told what is going on.

    Raises:
      SetupError: a package cannot be installed.
    """
    with _locked(wanted.path):
        if wanted.ready:
            return
        shutil.rmtree(wanted.path, ignore_errors=True)
        say(f"Making the environment {wanted.image} in {wanted.path} (once; some minutes and gigabytes)")
        _uv("venv", "--quiet", "--python", f"{sys.version_info.major}.{sys.version_info.minor}", str(wanted.path))
        lock = str(_lock(wanted.image))
        # Without byte-code every step would spend seconds on compiling TensorFlow again.
        _uv("pip", "install", "--python", str(wanted.python), "--no-deps", "--require-hashes", "--compile-bytecode",
            "--requirement", lock)  # fmt: skip
        for extra in wanted.extras:
            say(f"Installing {extra}")
            _uv("pip", "install", "--python", str(wanted.python), "--constraint", lock, *_overrides(wanted.image),
                str(Path(extra).absolute()) if _is_path(extra) else extra)  # fmt: skip
        (wanted.path / _COMPLETE).touch()


def link_library(folder: Path) -> dict[str, str]:
    """Make this very FedEdge importable in an environment, which holds none of its own.

    Args:
      folder: where to put the link; it must outlive the processes that use it.

    Returns:
      The variables that those processes need.
    """
    library = folder / "library"
    library.mkdir()
    (library / "fededge").symlink_to(Path(fededge.__file__).parent)
    return {"PYTHONPATH": str(library), "PYTHONNOUSERSITE": "1"}


def existing() -> list[Path]:
    """List the environments on this machine, whole or not."""
    folder = environments_folder()
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def remove(path: Path) -> None:
    """Remove an environment; a run that uses it fails."""
    (path / _COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(path)


def _lock(image: str) -> Path:
    return shipped_file(f"images/{image}/requirements.lock")


def _overrides(image: str) -> list[str]:
    return ["--override", str(shipped_file(f"images/{image}/overrides.txt"))]


def _is_path(extra: str) -> bool:
    return extra.startswith((".", "/", "~")) or os.sep in extra


def _digest_extra(digest: hashlib._Hash, extra: str) -> None:
    digest.update(extra.encode())
    if not _is_path(extra):
        return
    root = Path(extra).expanduser()
    if not root.exists():
        raise InputError(f"--with {extra}: no such file or folder")
    files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    for file in files:
        if not any(part.endswith(_IGNORED) for part in file.parts):
            digest.update(str(file).encode() + file.read_bytes())


def _uv(*arguments: str) -> None:
    from uv import find_uv_bin

    done = subprocess.run([find_uv_bin(), *arguments], stdout=sys.stderr, stderr=subprocess.PIPE, text=True)  # noqa: S603
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise SetupError(f"uv {' '.join(arguments[:2])} failed: {' '.join(line.strip() for line in lines[-4:])}")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
