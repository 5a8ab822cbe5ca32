"""What `pip install fededge` brings: the package, and the files that it ships."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from uv import find_uv_bin

from fededge.shipped import image_names

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's content."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [find_uv_bin(), "build", "--quiet", "--wheel", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_holds_the_compiled_pipelines_and_the_locks_as_they_are(installed: Path) -> None:
    names = [f"pipelines/compiled/{path.name}" for path in (ROOT / "pipelines" / "compiled").iterdir()]
    names += [f"images/{name}/{file}" for name in image_names() for file in ("requirements.lock", "overrides.txt")]
    for name in names:
        assert (installed / "fededge" / "shipped" / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_holds_neither_the_authoring_ring_nor_tests(installed: Path) -> None:
    top = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert top == {"fededge"}


def test_command_works_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    program = "from fededge.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "pipelines", "export", "--rounds", "2", "--to", "two.yaml"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.yaml").read_text().count("  exec-version-model") == 4
