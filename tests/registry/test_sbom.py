"""Bills of materials: valid CycloneDX, and what they say is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.validation.json import JsonStrictValidator

from fededge import __version__
from fededge.errors import InputError
from fededge.registry.contents import Contents, Package, Pin, read_lock
from fededge.registry.sbom import SCHEMA, Subject, write_bill
from fededge.registry.secret import NAME
from fededge.shipped import image_names, shipped_file
from tests.cli.command import Command
from tests.contract.builds import build

DIGEST = "sha256:" + "ab" * 32
HASHES = ["11" * 32, "22" * 32]
DPKG = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc
Version: 2.36-9+deb12u13
Description: GNU C Library
 Status: not a field, but part of the description

Package: removed
Status: deinstall ok config-files
Architecture: amd64
Version: 1

"""


def _bill(text: str, valid: bool = True) -> dict[str, Any]:
    assert not valid or JsonStrictValidator(SCHEMA).validate_str(text) is None
    document: dict[str, Any] = json.loads(text)
    assert len({each["bom-ref"] for each in document["components"]}) == len(document["components"])
    return document


def _by_name(bill: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in bill["components"]}


@pytest.mark.parametrize("name", image_names())
def test_a_lock_alone(fededge: Command, home: Path, name: str) -> None:
    """Every package of the lock with every hash of it, and nothing else."""
    assert f"{name}.cdx.json" in fededge.works("images", "sbom", name)
    # The validator takes seconds for a long one; the others have nothing that these have not.
    bill = _bill((home / f"{name}.cdx.json").read_text(), valid=name in ("sklearn", "torch"))
    pins = read_lock(shipped_file(f"images/{name}/requirements.lock"))
    assert bill["metadata"]["component"] == {
        "bom-ref": f"image:fededge-{name}:{__version__}", "name": f"fededge-{name}", "type": "container",
        "version": __version__,
    }  # fmt: skip
    assert bill["metadata"]["properties"] == [{"name": "fededge:source", "value": "lock"}]
    listed = {
        each["purl"]: [one["content"] for one in each["externalReferences"][0]["hashes"]] for each in bill["components"]
    }
    assert len(listed) == len(pins)
    for pin in pins:
        purl = f"pkg:pypi/{pin.name}@{pin.version.replace('+', '%2B')}"
        assert sorted(listed[purl]) == sorted(pin.hashes) != []


def test_what_an_image_says_of_itself() -> None:
    packages = [
        Package(name="One_Package", version="1.0", expression="MIT OR Apache-2.0"),
        Package(name="two", version="2.0", licence="BSD-3-Clause"),
        Package(
            name="three", version="3.0", licence="A licence\nof many lines", classifiers=["License :: OSI Approved"]
        ),
        Package(name="four", version="4.0", licence="UNKNOWN", classifiers=["License :: OSI Approved :: MIT License"]),
    ]
    release = 'ID=debian\nVERSION_ID="12"\n'
    contents = Contents(python="3.11.9", packages=packages, dpkg=DPKG, release=release)
    subject = Subject("fededge-torch:0.1.0", "harbor.example.org/fededge/fededge-torch", DIGEST)
    pins = [Pin(name="one-package", version="1.0", hashes=HASHES), Pin(name="two", version="2.1", hashes=HASHES)]
    bill = _bill(write_bill(subject, pins, contents, ()))
    found = _by_name(bill)
    assert found.keys() == {"One_Package", "two", "three", "four", "python", "libc6"}
    assert found["One_Package"]["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert found["two"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert "licenses" not in found["three"]
    assert found["four"]["licenses"] == [{"license": {"name": "MIT License"}}]
    # The lock has hashes of another version of it.
    assert [name for name in found if "externalReferences" in found[name]] == ["One_Package"]
    assert found["libc6"]["purl"].startswith("pkg:deb/debian/libc6@2.36-9")
    assert "distro=debian-12" in found["libc6"]["purl"]
    image = bill["metadata"]["component"]
    assert image["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert "repository_url=harbor.example.org/fededge/fededge-torch" in image["purl"].replace("%2F", "/")
    assert len(bill["dependencies"]) == len(bill["components"]) + 1


def test_the_same_image_has_the_same_bill() -> None:
    pins = read_lock(shipped_file("images/sklearn/requirements.lock"))
    first, again = (_bill(write_bill(Subject("x:1"), order, None, ())) for order in (pins, pins[::-1]))
    other = _bill(write_bill(Subject("x:2"), pins, None, ()))
    for bill in (first, again):
        del bill["metadata"]["timestamp"]
    assert first == again
    assert first["serialNumber"] != other["serialNumber"]


def test_licences_of_an_environment() -> None:
    pins = [Pin(name="numpy", version="1.25.2", hashes=HASHES), Pin(name="scipy", version="1.9.3", hashes=HASHES)]
    known = [Package(name="NumPy", version="1.25.2", licence="BSD-3-Clause"), Package(name="scipy", version="1.8")]
    found = _by_name(_bill(write_bill(Subject("x:1"), pins, None, known)))
    assert found["NumPy"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert (found["scipy"]["version"], "licenses" in found["scipy"]) == ("1.9.3", False)


def test_what_cannot_be_listed(fededge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no image jax" in fededge.fails(2, "images", "sbom", "jax")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert "no Docker engine answers" in fededge.fails(3, "images", "sbom", "torch", "--image", "fededge-torch:0.1.0")
    assert "cannot be written" in fededge.fails(2, "images", "sbom", "torch", "--to", "/proc/x/y.json")
    (tmp_path / "lock").write_text("# nothing\n")
    with pytest.raises(InputError, match="is no lock"):
        read_lock(tmp_path / "lock")


def test_the_service_accounts_pull_with_the_secret() -> None:
    accounts = [each for each in build("components/harbor") if each["kind"] == "ServiceAccount"]
    pull = {each["metadata"]["name"]: each.get("imagePullSecrets") for each in accounts}
    assert pull == {name: [{"name": NAME}] for name in ("fededge-runner", "fededge-client")}
