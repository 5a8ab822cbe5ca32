from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import fededge as package
from fededge.cli import output
from fededge.store import Store
from fededge.store.folder import FolderStore
from tests.cli.command import Command, snapshot
from tests.trainings import make_training


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, and keep the machine's own environments, engine, cluster and S3 settings out of it."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in ("STORE", "REGISTRY", "DATA", "EVENTS"):
        monkeypatch.delenv(f"FEDEDGE_{name}", raising=False)
    for name in ("DOCKER_CONTEXT", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "CA_BUNDLE"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(package.__file__).parents[1]))
    monkeypatch.setenv("FEDEDGE_ENVIRONMENTS", str(tmp_path / "environments"))
    # No engine there. (Docker's client leaves a Unix socket that it could not connect to open, which is a warning.)
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    for console in (output.console, output.errors):  # which have read it when they were made
        monkeypatch.setattr(console, "width", 200)
    monkeypatch.setenv("NO_COLOR", "1")
    return home


@pytest.fixture
def no_installing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is wrong may cost minutes and gigabytes before it is told."""

    def install(*_: object) -> None:
        pytest.fail("an environment is being made")

    monkeypatch.setattr("fededge.environments._uv", install)


@pytest.fixture
def fededge(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capfd, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "store"
    make_training(FolderStore(folder))
    return folder


@pytest.fixture
def store(template: Path, folder: Path) -> Store:
    """Holds the training `digits`: v0 to v3, a rollback to v1, and v2-b1, which is current."""
    return FolderStore(shutil.copytree(template, folder))


@pytest.fixture
def unchanged(store: Store, folder: Path) -> Iterator[None]:
    """Make sure that the store is as it was, byte for byte."""
    before = snapshot(folder)
    yield
    assert snapshot(folder) == before
