"""Where the environments' packages come from: PyPI, where pip is told to look, and PyTorch's index."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fededge import environments
from fededge.environments import SIZES, environment, make
from fededge.errors import SetupError
from fededge.shipped import image_names, shipped_file
from tests.contract.compiled import ROOT

PYTORCH = "--torch-backend=cpu"
WHEEL = "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that pip is told of."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", f"{folder} https://example.org/wheels {tmp_path}/no-such-folder")
    return folder


@pytest.fixture
def uv_asks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand in for uv; returns the file of what it is called with. It fails when it would need a network."""
    calls = tmp_path / "calls"
    program = tmp_path / "uv"
    program.write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\n[ "$1" = venv ] || {{ echo "error: no network" >&2; exit 2; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr("uv.find_uv_bin", lambda: str(program))
    monkeypatch.setenv("FEDEDGE_ENVIRONMENTS", str(tmp_path / "environments"))
    return calls


def test_every_image_says_how_large_its_environment_is() -> None:
    assert SIZES.keys() == set(image_names())


@pytest.mark.parametrize(("image", "asked"), [("sklearn", False), ("tensorflow", False), ("torch", True)])
def test_only_builds_for_cpus_are_sought_at_pytorch(image: str, asked: bool, folder: Path) -> None:
    assert (PYTORCH in environments._sources(image)) is asked


def test_pip_is_told_of_folders_and_pages_that_uv_is_told_of(folder: Path) -> None:
    links = [f"--find-links={folder}", "--find-links=https://example.org/wheels"]
    assert environments._sources("sklearn") == links
    assert environments._sources("torch") == [*links, PYTORCH]


def test_pytorchs_index_is_not_asked_for_what_a_folder_has(folder: Path) -> None:
    (folder / WHEEL.replace("2.13.0", "2.12.0")).touch()
    assert PYTORCH in environments._sources("torch")
    (folder / WHEEL).touch()
    assert PYTORCH not in environments._sources("torch")


def test_a_wheel_that_cannot_be_had_is_one_error_that_says_what_to_do(folder: Path, uv_asks: Path) -> None:
    with pytest.raises(SetupError) as caught:
        make(environment("torch"), print)
    (line,) = str(caught.value).splitlines()
    assert "no network; PyTorch for CPUs comes from https://" in line
    assert "set PIP_FIND_LINKS to the folder" in line
    assert PYTORCH in uv_asks.read_text().splitlines()[-1].split()
    with pytest.raises(SetupError, match="no network") as caught:
        make(environment("sklearn"), print)
    assert "PyTorch" not in str(caught.value)


def test_torch_is_locked_as_one_wheel_without_cuda() -> None:
    """One hash, as PyTorch's index has it and as a folder has it: the lock does not depend on where it was written."""
    lock = shipped_file("images/torch/requirements.lock").read_text()
    entry = re.search(r"^torch==(\S+) \\\n((?: +--hash=.*\n)+)", lock, re.MULTILINE)
    assert entry
    assert entry[1].endswith("+cpu")
    assert entry[2].count("--hash=sha256:") == 1
    assert "nvidia" not in lock


def test_the_steps_load_no_framework_by_themselves() -> None:
    """Each image has its own."""
    names = sorted(path.stem for path in (ROOT / "fededge" / "steps").glob("*.py"))
    program = f"""
import importlib, sys
for name in {names}:
    importlib.import_module(f"fededge.steps.{{name}}")
print({{"sklearn", "tensorflow", "tensorflow_federated", "torch"}} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
