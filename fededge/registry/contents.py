"""What is in an image: asked of the image itself, or read from what it is built from."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from fededge.errors import InputError, SetupError

# Runs on the Python of an image, with its standard library alone.
_PROGRAM = r"""
import importlib.metadata as metadata, json, pathlib, platform

def field(package, name):
    return package.metadata.get(name) or ""

def text(path):
    path = pathlib.Path(path)
    return path.read_text(errors="replace") if path.is_file() else ""

print(json.dumps({
    "python": platform.python_version(),
    "packages": [
        {
            "name": field(each, "Name"),
            "version": each.version,
            "expression": field(each, "License-Expression"),
            "licence": field(each, "License"),
            "classifiers": [c for c in each.metadata.get_all("Classifier") or () if c.startswith("License :: ")],
        }
        for each in metadata.distributions()
    ],
    "dpkg": text("/var/lib/dpkg/status"),
    "release": text("/etc/os-release"),
}))
"""
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Package(BaseModel):
    """A Python package; of its licence whatever its metadata say.

    Attributes:
      expression: an SPDX expression.
      licence: free text.
      classifiers: as `License :: OSI Approved :: MIT License`.
    """

    name: str
    version: str
    expression: str = ""
    licence: str = ""
    classifiers: list[str] = []


class DebianPackage(BaseModel):
    name: str
    version: str
    architecture: str


class Contents(BaseModel):
    """What is in an image.

    Attributes:
      python: version of its interpreter.
      dpkg: Debian's record of what is installed; empty where there is no Debian.
      release: of its Debian, as in /etc/os-release.
    """

    python: str = ""
    packages: list[Package]
    dpkg: str = ""
    release: str = ""

    @property
    def debian(self) -> list[DebianPackage]:
        """Debian's packages that are installed."""
        return [package for stanza in self.dpkg.split("\n\n") if (package := _installed(stanza))]

    @property
    def debian_version(self) -> str:
        found = re.search(r'^VERSION_ID="?([^"\n]+)', self.release, re.MULTILINE)
        return found[1] if found else ""


class Pin(BaseModel):
    """A package of a lock.

    Attributes:
      hashes: SHA-256 of its files; the one that was installed is among them.
    """

    name: str
    version: str
    hashes: list[str]


_CONTENTS = TypeAdapter(Contents)


def look_into(run: Callable[..., str], what: str) -> Contents:
    """Ask an image, or an environment, what is in it.

    Args:
      run: runs a command in it and returns what that prints.
      what: it is, for messages.

    Raises:
      SetupError: it does not tell.
    """
    try:
        return _CONTENTS.validate_json(run("python3", "-c", _PROGRAM))
    except ValidationError as error:
        raise SetupError(f"{what} does not tell what is in it: it has no Python of its own") from error


def run_in_environment(python: Path) -> Callable[..., str]:
    """Return what runs a command on an environment's interpreter, which is asked for by name."""

    def run(_python: str, *arguments: str) -> str:
        done = subprocess.run([python, "-I", *arguments], capture_output=True, text=True)  # noqa: S603 ours
        if done.returncode != 0:
            raise SetupError(f"{python} does not run: make the environment anew with `fededge env create`")
        return done.stdout

    return run


def read_lock(path: Path) -> list[Pin]:
    """Read a lock with hashes, as pip and uv write it.

    Raises:
      InputError: it cannot be read, or pins nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: pass a lock with --lock") from error
    found = list(_PINNED.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    if not found:
        raise InputError(f"{path} is no lock: it has no line as numpy==1.25.2")
    return [
        Pin(name=normal(match[1]), version=match[2], hashes=_HASH.findall(text, match.end(), end))
        for match, end in zip(found, ends, strict=True)
    ]


def normal(name: str) -> str:
    """Write a Python package's name as the index does."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(stanza: str) -> DebianPackage | None:
    fields = dict(line.split(": ", 1) for line in stanza.splitlines() if re.match(r"[A-Z][\w-]*: ", line))
    if fields.get("Status") != "install ok installed":
        return None
    return DebianPackage(name=fields["Package"], version=fields["Version"], architecture=fields["Architecture"])
