"""Digests and pushes, against Debian's docker-registry and a Docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

import fededge as package
from fededge.shipped import image_names
from tests.cli.command import Command
from tests.contract.compiled import ROOT, parse
from tests.images import engine
from tests.images.build import build
from tests.registry.conftest import LogIn
from tests.registry.docker_registry import HTPASSWD, PASSWORD, USER, docker_registry, put_image, token_server
from tests.store.ceph import Certificate

VERSION = package.__version__
TORCH = f"fededge-torch:{VERSION}"

pytestmark = [pytest.mark.docker, pytest.mark.usefixtures("registry_program")]


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    with docker_registry(tmp_path) as host:
        yield host


def _digests(fededge: Command, host: str, *options: str, name: str = "torch") -> dict[str, str]:
    command = ("images", "digests", name, "--registry", f"{host}/fededge", *options, "--json")
    found: dict[str, str] = json.loads(fededge.works(*command))
    return found


def test_a_digest_is_what_the_registry_says(fededge: Command, registry: str, home: Path) -> None:
    digest = put_image(f"http://{registry}", "fededge/fededge-torch", VERSION, b"content")
    assert _digests(fededge, registry) == {TORCH: digest}
    assert json.loads((home / "digests.json").read_text()) == {TORCH: digest}
    assert "--digests digests.json" in fededge.works("images", "digests", "torch", "--registry", f"{registry}/fededge")


def test_an_image_that_is_not_there(fededge: Command, registry: str, home: Path) -> None:
    said = fededge.fails(7, "images", "digests", "torch", "--registry", f"{registry}/fededge")
    assert f"has no image {registry}/fededge/{TORCH}" in said
    assert not (home / "digests.json").exists()


def test_who_needs_a_password(fededge: Command, tmp_path: Path, log_in: LogIn) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with docker_registry(tmp_path, {"htpasswd": {"realm": "x", "path": str(tmp_path / "htpasswd")}}) as host:
        login = urllib3.make_headers(basic_auth=f"{USER}:{PASSWORD}")
        digest = put_image(f"http://{host}", "fededge/fededge-torch", VERSION, b"content", login)
        command = ("images", "digests", "torch", "--registry", f"{host}/fededge")
        assert "`docker login`" in fededge.fails(7, *command)
        log_in(USER, "wrong")
        assert "`docker login`" in fededge.fails(7, *command)
        log_in(USER, PASSWORD)
        assert _digests(fededge, host) == {TORCH: digest}


def test_what_docker_login_keeps_is_used(fededge: Command, tmp_path: Path, home: Path) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with docker_registry(tmp_path, {"htpasswd": {"realm": "x", "path": str(tmp_path / "htpasswd")}}) as host:
        login = urllib3.make_headers(basic_auth=f"{USER}:{PASSWORD}")
        digest = put_image(f"http://{host}", "fededge/fededge-torch", VERSION, b"content", login)
        auth = login["authorization"].removeprefix("Basic ")
        (home / "docker").mkdir()
        (home / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
        assert _digests(fededge, host) == {TORCH: digest}


def test_tokens_as_harbor_gives_them(fededge: Command, tmp_path: Path, log_in: LogIn) -> None:
    with token_server(tmp_path) as tokens, docker_registry(tmp_path, tokens.auth) as host:
        push = {"Authorization": f"Bearer {tokens.token('repository:fededge/fededge-torch:pull,push')}"}
        digest = put_image(f"http://{host}", "fededge/fededge-torch", VERSION, b"content", push)
        assert "`docker login`" in fededge.fails(7, "images", "digests", "torch", "--registry", f"{host}/fededge")
        log_in(USER, PASSWORD)
        assert _digests(fededge, host) == {TORCH: digest}
        assert tokens.asked[-1] == {"service": ["harbor-registry"], "scope": ["repository:fededge/fededge-torch:pull"]}


def test_an_authority_of_its_own(fededge: Command, tmp_path: Path, certificate: Certificate) -> None:
    with docker_registry(tmp_path, certificate=certificate) as host:
        authority = certificate.authority
        digest = put_image(f"https://{host}", "fededge/fededge-torch", VERSION, b"content", ca=authority)
        assert _digests(fededge, host, "--ca", str(certificate.authority)) == {TORCH: digest}
        other = ("images", "digests", "torch", "--registry", f"{host}/fededge", "--ca", str(certificate.certificate))
        assert "certificate that is not trusted" in fededge.fails(7, *other)


@pytest.fixture
def own_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An engine that has nothing but tiny images by our images' names."""
    if (reason := engine.missing()) or (engine.existing_host() and not engine._which("dockerd")):
        pytest.skip(reason or "needs an engine of its own")
    for name in ("FEDEDGE_TEST_DOCKER_HOST", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    folder = Path(tempfile.mkdtemp(prefix="fededge-"))  # a short path, for the engine's sockets
    with engine.started_engine(folder) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        for name in image_names():
            (tmp_path / name).write_text(f"what {name} has\n")
            with tarfile.open(tmp_path / "root.tar", "w") as archive:
                archive.add(tmp_path / name, name)
            _docker("import", str(tmp_path / "root.tar"), f"fededge-{name}:{VERSION}")
        yield
    subprocess.run(["rm", "--recursive", "--force", str(folder)], check=True)


def _docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def test_pushed_exported_by_digest_and_pulled(fededge: Command, own_engine: None, registry: str, home: Path) -> None:
    place = f"{registry}/fededge"
    pushed = json.loads(fededge.works("images", "push", "--registry", place, "--json"))
    assert pushed.keys() == {f"fededge-{name}:{VERSION}" for name in image_names()}
    assert len(set(pushed.values())) == len(pushed)
    assert json.loads((home / "digests.json").read_text()) == pushed
    before = {name: _docker("inspect", "--format", "{{.Id}}", f"fededge-{name}:{VERSION}") for name in image_names()}
    for name in image_names():
        _docker("rmi", f"fededge-{name}:{VERSION}", f"{place}/fededge-{name}:{VERSION}")

    export = ["pipelines", "export", "--registry", place, "--digests", "digests.json", "--to", "p.yaml"]
    fededge.works(*export, "--library", "torch")
    images = {container["image"] for container in parse((home / "p.yaml").read_text()).executors.values()}
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(rf"{place}/fededge-(torch|tensorflow)@sha256:[0-9a-f]{{64}}", image)
        _docker("pull", "--quiet", image)
        name = image.partition("@")[0].rpartition("fededge-")[2]
        assert _docker("inspect", "--format", "{{.Id}}", image) == before[name]
    assert _digests(fededge, registry) == {TORCH: pushed[TORCH]}


def test_pushing_again_gives_the_same_digests(fededge: Command, own_engine: None, registry: str) -> None:
    command = ("images", "push", "torch", "sklearn", "--registry", f"{registry}/fededge", "--json")
    assert fededge.works(*command) == fededge.works(*command)


def test_what_cannot_be_pushed(fededge: Command, own_engine: None, registry: str, home: Path) -> None:
    place = f"{registry}/fededge"
    missing = fededge.fails(3, "images", "push", "torch", "--tag", "0.0.9", "--registry", place)
    assert "no image fededge-torch:0.0.9 on the Docker engine" in missing
    assert "no image jax: there are" in fededge.fails(2, "images", "push", "jax", "--registry", place)
    away = fededge.fails(7, "images", "push", "torch", "--registry", "127.0.0.1:1/fededge")
    assert f"127.0.0.1:1/fededge/{TORCH} is not pushed" in away
    assert not (home / "digests.json").exists()


def test_a_password_is_needed_to_push(fededge: Command, own_engine: None, tmp_path: Path, log_in: LogIn) -> None:
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    (tmp_path / "registry").mkdir()
    auth = {"htpasswd": {"realm": "x", "path": str(tmp_path / "htpasswd")}}
    with docker_registry(tmp_path / "registry", auth) as host:
        command = ("images", "push", "torch", "--registry", f"{host}/fededge")
        assert f"`docker login {host}`" in fededge.fails(7, *command)
        log_in(USER, PASSWORD)
        fededge.works(*command)


@pytest.mark.timeout(1800)
def test_an_image_of_ours_with_its_bill(
    fededge: Command, docker_host: str, registry: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built, pushed by make, taken apart for its bill, pulled by digest and run."""
    image = build(docker_host, "sklearn")
    monkeypatch.setenv("DOCKER_HOST", docker_host)
    place = f"{registry}/fededge"
    _make("images-push", "IMAGES=sklearn", f"REGISTRY={place}")
    digest = json.loads((ROOT / "dist" / "digests.json").read_text())[image]
    _check_bill(_bill(image), digest, place)
    assert _digests(fededge, registry, name="sklearn") == {image: digest}
    _make("sbom", "IMAGES=sklearn")
    assert _bill(image)["bomFormat"] == "CycloneDX"
    pulled = f"{place}/fededge-sklearn@{digest}"
    try:
        _docker("pull", "--quiet", pulled)
        printed = _docker("run", "--rm", "--network", "none", pulled, "python3", "-c", "import sklearn; print(42)")
    finally:
        _docker("rmi", pulled, f"{place}/{image}")
    assert printed == "42\n"


def _bill(image: str) -> dict:
    found: dict = json.loads((ROOT / "dist" / "sbom" / f"{image.replace(':', '-')}.cdx.json").read_text())
    return found


def _check_bill(bill: dict, digest: str, place: str) -> None:
    from cyclonedx.validation.json import JsonStrictValidator

    from fededge.registry.sbom import SCHEMA

    assert JsonStrictValidator(SCHEMA).validate_str(json.dumps(bill)) is None
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}]
    assert f"oci/fededge-sklearn@{digest}" in bill["metadata"]["component"]["purl"].replace("%3A", ":")
    assert bill["metadata"]["properties"] == [{"name": "fededge:source", "value": "image"}]
    components = {component["purl"]: component for component in bill["components"]}
    lock = (ROOT / "images" / "sklearn" / "requirements.lock").read_text()
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE):
        component = components[f"pkg:pypi/{name}@{version}"]
        assert component["externalReferences"][0]["hashes"]
    assert components[f"pkg:pypi/fededge@{VERSION}"]["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    debian = [purl for purl in components if purl.startswith("pkg:deb/debian/")]
    assert any("/libc6@" in purl and "distro=debian-12" in purl for purl in debian)
    assert any(purl.startswith("pkg:generic/python@3.11") for purl in components)


def _make(*arguments: str) -> None:
    """Run make with this environment in place of its own."""
    command = ["make", "--assume-old=.venv/ready", f"BIN={Path(sys.executable).parent}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
