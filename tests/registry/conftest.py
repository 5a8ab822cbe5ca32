from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fededge.cli import output
from tests.cli.command import Command
from tests.prism import prism_proxy
from tests.registry import docker_registry
from tests.registry.fake_harbor import ADMIN, FakeHarbor, fake_harbor
from tests.store.ceph import Certificate, make_certificate

LogIn = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder that has nothing, as somebody without credentials."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DOCKER_CONFIG", str(home / "docker"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(output.console, "width", 200)
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("FEDEDGE_REGISTRY_USER", "FEDEDGE_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def log_in(monkeypatch: pytest.MonkeyPatch) -> LogIn:
    def log_in(user: str, password: str) -> None:
        monkeypatch.setenv("FEDEDGE_REGISTRY_USER", user)
        monkeypatch.setenv("FEDEDGE_REGISTRY_PASSWORD", password)

    return log_in


@pytest.fixture
def fededge(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(capfd, monkeypatch)


@pytest.fixture
def harbor(log_in: LogIn) -> Iterator[FakeHarbor]:
    """A Harbor of our own, at the usual path, and we its administrator."""
    log_in(*ADMIN)
    with fake_harbor("/api/v2.0") as server:
        yield server


@pytest.fixture(scope="session")
def behind_prism(contracts: Path) -> Iterator[tuple[FakeHarbor, str]]:
    with fake_harbor() as server, prism_proxy(contracts / "harbor" / "swagger.yaml", server.url) as url:
        yield server, url


@pytest.fixture
def checked_harbor(behind_prism: tuple[FakeHarbor, str], log_in: LogIn) -> tuple[FakeHarbor, str]:
    """An empty Harbor, and the URL where Prism holds all that is said against Harbor's Swagger."""
    server, url = behind_prism
    server.clear()
    log_in(*ADMIN)
    return server, url


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def registry_program() -> None:
    if reason := docker_registry.missing():
        if os.environ.get("FEDEDGE_REQUIRE_DOCKER") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_DOCKER=1, but: {reason}")
        pytest.skip(reason)
