"""What one server may do to us: be busy, be away, be another than we think."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from fededge.errors import InputError, RegistryError, SetupError
from fededge.registry.connect import Way
from fededge.registry.harbor import Harbor
from fededge.registry.harbor_data import Project, Robot, Rule, Summary
from fededge.registry.reference import Place, Reference, parse_place, parse_reference
from fededge.registry.server import Server
from tests.prism import prism_mock
from tests.registry.conftest import LogIn
from tests.registry.fake_harbor import ADMIN, NOW, FakeHarbor, fake_harbor
from tests.store.ceph import Certificate

DIGEST = "sha256:" + "cd" * 32


def _refusal(server: Server) -> RegistryError:
    with pytest.raises(RegistryError) as raised:
        Harbor(server).now()
    assert "\n" not in str(raised.value)
    return raised.value


def test_patience_has_an_end(harbor: FakeHarbor) -> None:
    harbor.failures += [503] * 100
    said: list[str] = []
    error = _refusal(Server(harbor.url, patience=1.0, say=said.append))
    assert error.status == 503
    assert "is busy: try later" in str(error)
    assert len(said) == 1


def test_retry_after_is_obeyed(harbor: FakeHarbor) -> None:
    harbor.failures, harbor.retry_after = [429], "2"
    begin = time.monotonic()
    assert Harbor(Server(harbor.url)).now() > 0
    assert time.monotonic() - begin >= 2
    harbor.failures, harbor.retry_after = [429], "3600"
    assert _refusal(Server(harbor.url, patience=5)).status == 429


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = _refusal(Server(f"http://127.0.0.1:{port}", patience=0.1))
    assert error.status == 0
    assert "does not answer (" in str(error)


def test_the_clock_is_harbors(harbor: FakeHarbor) -> None:
    assert Way().harbor(harbor.host).now() == NOW.timestamp()
    assert Harbor(Server(harbor.url)).now() == pytest.approx(time.time(), abs=60)  # it tells strangers nothing


def test_tls_with_an_authority_of_its_own(certificate: Certificate, log_in: LogIn) -> None:
    log_in(*ADMIN)
    with fake_harbor("/api/v2.0", certificate) as server:
        assert Way(ca=certificate.authority).harbor(server.host).now() == NOW.timestamp()
        error = _refusal(Server(server.url))
        assert "--ca" in str(error)
        with pytest.raises(SetupError, match="no readable PEM"):
            Way(ca=certificate.key).harbor(server.host).now()


def test_tls_where_there_is_none(harbor: FakeHarbor) -> None:
    assert "--plain-http" in str(_refusal(Server(harbor.url.replace("http:", "https:"), patience=1)))


def test_a_server_that_is_no_harbor(harbor: FakeHarbor) -> None:
    with pytest.raises(RegistryError, match="knows nothing of what is needed"):
        Harbor(Server(f"http://{harbor.host}/elsewhere")).now()
    harbor.rules["x"], harbor.projects["x"] = [{"id": "seven"}], {"project_id": 1, "name": "x", "metadata": {}}
    with pytest.raises(RegistryError, match="does not speak the API that was expected"):
        Way().harbor(harbor.host).rules("x")


def test_answers_that_the_swagger_makes_up_are_understood(contracts: Path, log_in: LogIn) -> None:
    """The report of a scan is left out: there Harbor gives a document and its Swagger says text."""
    log_in(*ADMIN)
    with prism_mock(contracts / "harbor" / "swagger.yaml") as url:
        harbor = Way(api=url).harbor("harbor.example.org")
        assert harbor.now() > 0
        artifact = harbor.artifact("a/b", "1")
        assert artifact is not None
        assert artifact.report is not None
        assert artifact.report.summary == Summary(total=500, fixable=100, summary={"Critical": 5, "High": 5})
        project = Project(project_id=1, name="a")
        assert all(isinstance(each, Rule) for each in harbor.rules("a"))
        assert all(isinstance(each, Robot) for each in harbor.robots(project))
        assert harbor.project("a") is None
        assert harbor.scan("a/b", "1")
        assert harbor.create_project("a", {"auto_scan": "true"})
        assert isinstance(harbor.create_robot({"name": "r", "level": "project", "permissions": []}), Robot)


def test_harbor_holds_back_what_it_has_not_scanned(harbor: FakeHarbor) -> None:
    """Right after a push: then its API tells the digest."""
    harbor.projects["fededge"] = {"project_id": 1, "name": "fededge", "metadata": {"prevent_vul": "true"}}
    image = harbor.push("fededge/fededge-torch", DIGEST, "1.0")
    reference = parse_reference(f"{harbor.host}/fededge/fededge-torch:1.0")
    with pytest.raises(RegistryError, match="a policy of its project") as raised:
        Way().registry(harbor.host).digest(reference)
    assert raised.value.status == 412
    assert Way().digest(reference) == DIGEST
    image.status = "Success"
    assert Way().registry(harbor.host).digest(reference) == DIGEST


def test_no_credentials_without_tls_where_there_was_tls(certificate: Certificate, log_in: LogIn) -> None:
    log_in(*ADMIN)
    with fake_harbor("/api/v2.0", certificate) as server:
        server.scheme = "http"  # what it says of itself, and where it would have the password sent
        with pytest.raises(RegistryError, match="without TLS: refused"):
            Way(ca=certificate.authority).registry(server.host).digest(parse_reference(f"{server.host}/x/y:1"))


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("fededge-torch:0.1.0", ("", "fededge-torch", "0.1.0", "")),
        ("harbor.example.org:8443/a/b_c:1", ("harbor.example.org:8443", "a/b_c", "1", "")),
        (f"localhost/x@{DIGEST}", ("localhost", "x", "", DIGEST)),
        (f"h.io/x:1@{DIGEST}", ("h.io", "x", "1", DIGEST)),
        ("me/my-workload", ("", "me/my-workload", "latest", "")),
    ],
)
def test_names_of_images(image: str, parts: tuple[str, str, str, str]) -> None:
    assert parse_reference(image) == Reference(*parts)


@pytest.mark.parametrize("image", ["", "a b", "UPPER/x", "a//b", "x:", "x@sha256:1", "host:5/x:", "-h.io/x", "x:1:2"])
def test_what_is_no_name(image: str) -> None:
    with pytest.raises(InputError, match="no name of an image"):
        parse_reference(image)


def test_places() -> None:
    assert parse_place("harbor.example.org:8443/fededge/") == Place("harbor.example.org:8443", "fededge")
    assert parse_place("localhost").image("x:1") == "localhost/x:1"
    for wrong in ("", "fededge", "https://h.io/x", "h.io/UP", "h.io/a b"):
        with pytest.raises(InputError, match="is no registry"):
            parse_place(wrong)
