"""`fededge images check`: what it lets through, what it refuses, and what it says to do."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fededge import __version__
from fededge.registry import scans
from tests.cli.command import Command
from tests.registry.conftest import LogIn
from tests.registry.fake_harbor import NOW, READER, FakeHarbor

IMAGE = f"fededge-tensorflow:{__version__}"
REPOSITORY = "fededge/fededge-tensorflow"
DIGEST = "sha256:" + "ab" * 32


def found(severity: str, fixed: str = "", number: int = 1) -> dict[str, str]:
    return {
        "id": f"CVE-2026-{number:04}", "package": "openssl", "version": "3.0.1", "fix_version": fixed,
        "severity": severity, "description": "x",
    }  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "_POLL", 0.01)


@pytest.fixture
def pipeline(fededge: Command, harbor: FakeHarbor, home: Path) -> str:
    """A pipeline that names its image by a digest in this Harbor."""
    (home / "digests.json").write_text(json.dumps({IMAGE: DIGEST}))
    registry = f"{harbor.host}/fededge"
    fededge.works("pipelines", "export", "fl_round", "--registry", registry, "--digests", "digests.json")
    return "fl_round.yaml"


def _check(fededge: Command, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Return the verdict on the only image."""
    done = fededge("images", "check", *arguments, "--json")
    assert done.code == code, done.err
    (verdict,) = json.loads(done.out)["images"]
    assert verdict["passed"] == (code == 0)
    return verdict


def test_a_clean_image_passes(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    harbor.push(REPOSITORY, DIGEST, status="Success", found=[found("Medium"), found("Low", "3.0.2")])
    verdict = _check(fededge, pipeline)
    assert (verdict["digest"], verdict["found"], verdict["fixable"]) == (DIGEST, {"Medium": 1, "Low": 1}, 1)
    table = fededge.works("images", "check", pipeline)
    assert f"{REPOSITORY}@{DIGEST[:19]}" in table
    assert "passed" in table
    assert harbor.writes == []


@pytest.mark.parametrize(
    ("worst", "severity", "code"),
    [
        ("Critical", "critical", 8), ("High", "critical", 0), ("High", "high", 8), ("Medium", "high", 0),
        ("Medium", "medium", 8), ("Low", "low", 8), ("Negligible", "low", 0), ("Unknown", "low", 0),
    ],
)  # fmt: skip
def test_the_severity_decides(
    fededge: Command, harbor: FakeHarbor, pipeline: str, worst: str, severity: str, code: int
) -> None:
    listed = [found(worst)] if worst != "Unknown" else []
    harbor.push(REPOSITORY, DIGEST, status="Success", found=listed)
    verdict = _check(fededge, pipeline, "--severity", severity, code=code)
    assert verdict["state"] == ("vulnerable" if code else "ok")


def test_a_refusal_says_what_and_what_to_do(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    listed = [found("High", number=n) for n in range(2, 9)] + [found("Critical", "3.0.2")]
    harbor.push(REPOSITORY, DIGEST, status="Success", found=listed)
    said = fededge.fails(8, "images", "check", pipeline)
    assert "1 of 1 images refused" in said
    assert "has 1 critical and 7 high vulnerabilities: CVE-2026-0001 in openssl 3.0.1 (fixed in 3.0.2), " in said
    assert "and 3 more" in said
    assert "newer base image" in said


def test_only_what_can_be_fixed(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    image = harbor.push(REPOSITORY, DIGEST, status="Success", found=[found("Critical"), found("Low", "3.0.2")])
    assert _check(fededge, pipeline, code=8)["state"] == "vulnerable"
    assert _check(fededge, pipeline, "--fixable-only")["state"] == "ok"
    image.found.append(found("High", "3.0.2", 2))
    refused = _check(fededge, pipeline, "--fixable-only", code=8)
    assert refused["reason"].startswith("has 1 high vulnerability with a fix: CVE-2026-0002")


@pytest.mark.parametrize(
    ("about", "state", "advice"),
    [
        ({}, "unscanned", "--scan"),
        ({"status": "Pending", "pending": 9}, "scanning", "--scan"),
        ({"status": "Running", "pending": 9}, "scanning", "--scan"),
        ({"status": "Error"}, "failed", "log of the scan"),
        ({"status": "Stopped"}, "failed", "--scan"),
        ({"status": "Success", "percent": 50}, "failed", "--scan"),
        ({"status": "Success", "scanned": NOW - timedelta(days=8)}, "stale", "--scan"),
    ],
)
def test_no_scan_that_counts_is_a_refusal(
    fededge: Command, harbor: FakeHarbor, pipeline: str, about: dict[str, Any], state: str, advice: str
) -> None:
    harbor.push(REPOSITORY, DIGEST, **about)
    verdict = _check(fededge, pipeline, code=8)
    assert verdict["state"] == state
    assert advice in verdict["advice"]
    assert harbor.writes == []


def test_how_old_a_scan_may_be(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    """By Harbor's clock, which stands in March."""
    harbor.push(REPOSITORY, DIGEST, status="Success", scanned=NOW - timedelta(days=8))
    assert _check(fededge, pipeline, "--max-age", "9")["state"] == "ok"
    assert "8 days ago" in _check(fededge, pipeline, code=8)["reason"]


@pytest.mark.parametrize("about", [{}, {"status": "Error"}, {"status": "Success", "scanned": NOW - timedelta(days=99)}])
def test_a_scan_is_started_and_waited_for(
    fededge: Command, harbor: FakeHarbor, pipeline: str, about: dict[str, Any]
) -> None:
    image = harbor.push(REPOSITORY, DIGEST, pending=3, **about)
    done = fededge("images", "check", pipeline, "--scan", "--json")
    assert done.code == 0, done.err
    assert [line.rpartition(": ")[2] for line in done.err.splitlines()] == [
        "scan pending",
        "scan running",
        "scan success",
    ]
    assert (image.scans, len(harbor.writes)) == (1, 1)
    assert json.loads(done.out)["images"][0]["state"] == "ok"


def test_what_a_scan_finds_counts(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    harbor.push(REPOSITORY, DIGEST, pending=2, found=[found("Critical")])
    assert _check(fededge, pipeline, "--scan", code=8)["state"] == "vulnerable"


def test_a_scan_under_way_is_not_started_again(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    image = harbor.push(REPOSITORY, DIGEST, status="Running", pending=4)
    assert _check(fededge, pipeline, "--scan")["state"] == "ok"
    assert (image.scans, harbor.writes) == (0, [])


def test_a_good_scan_is_not_repeated(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    harbor.push(REPOSITORY, DIGEST, status="Success")
    assert _check(fededge, pipeline, "--scan")["state"] == "ok"
    assert harbor.writes == []


def test_a_scan_that_fails_or_takes_too_long(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    image = harbor.push(REPOSITORY, DIGEST, pending=2, ends="Error")
    assert _check(fededge, pipeline, "--scan", code=8)["state"] == "failed"
    image.pending = 1_000_000
    assert _check(fededge, pipeline, "--scan", "--wait", "0.1", code=8)["state"] == "scanning"


def test_harbor_cannot_scan(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    image = harbor.push(REPOSITORY, DIGEST)
    harbor.scanner = False
    said = fededge.fails(7, "images", "check", pipeline, "--scan")
    assert f"cannot scan {REPOSITORY} as it is set up (no available scanner for project: 1)" in said
    harbor.scanner, image.scannable = True, False
    assert "does not support scanning artifact" in fededge.fails(7, "images", "check", pipeline, "--scan")


def test_an_image_that_is_missing_or_elsewhere(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    assert _check(fededge, pipeline, code=8)["state"] == "missing"
    other = ("--image", "registry.example.org/x/y:1", "--registry", harbor.host)
    assert _check(fededge, *other, code=8)["state"] == "elsewhere"
    assert _check(fededge, "--image", "python:3.11", "--registry", harbor.host, code=8)["state"] == "elsewhere"


def test_the_shipped_pipelines(fededge: Command, harbor: FakeHarbor, home: Path) -> None:
    """By tag, of which Harbor says the digest; or by the digests of a push."""
    harbor.push(REPOSITORY, DIGEST, __version__, status="Success")
    registry = f"{harbor.host}/fededge"
    done = json.loads(fededge("images", "check", "--registry", registry, "--json").out)["images"]
    (ours,) = (each for each in done if each["image"] == f"{registry}/{IMAGE}")
    assert (ours["passed"], ours["digest"]) == (True, DIGEST)
    (home / "digests.json").write_text(json.dumps({IMAGE: DIGEST}))
    done = fededge("images", "check", "--registry", registry, "--digests", "digests.json", "--json")
    named = {each["image"] for each in json.loads(done.out)["images"]}
    assert f"{registry}/{IMAGE}@{DIGEST}" in named


def test_the_images_of_servers(fededge: Command, harbor: FakeHarbor, home: Path) -> None:
    """Of a pipeline that was exported, and of those that are shipped."""
    servers = [f"fededge-serving:{__version__}", f"fededge-serving-tensorflow:{__version__}"]
    (home / "digests.json").write_text(json.dumps(dict.fromkeys([IMAGE, *servers], DIGEST)))
    where = ("--registry", f"{harbor.host}/fededge", "--digests", "digests.json")
    fededge.works("pipelines", "export", "fl_deploy", *where)
    for arguments in (("fl_deploy.yaml",), where):
        done = fededge("images", "check", *arguments, "--json")
        checked = {each["image"]: each["state"] for each in json.loads(done.out)["images"]}
        for image in servers:
            (found,) = [name for name in checked if f"/{image}@" in name or f"/{image.partition(':')[0]}@" in name]
            assert found.endswith(DIGEST)
            assert checked[found] == "missing"


def test_the_api_may_be_elsewhere(fededge: Command, checked_harbor: tuple[FakeHarbor, str]) -> None:
    """Here behind Prism, and the repository's name has a slash."""
    server, url = checked_harbor
    server.push("fededge/deep/fededge-torch", DIGEST, "1.0", pending=2)
    image = ("--image", f"{server.host}/fededge/deep/fededge-torch:1.0")
    assert _check(fededge, *image, "--api", url, "--scan")["digest"] == DIGEST
    assert "knows nothing of what is needed" in fededge.fails(7, "images", "check", *image, "--api", f"{url}/api/v3")


def test_who_may_not(fededge: Command, harbor: FakeHarbor, pipeline: str, log_in: LogIn) -> None:
    harbor.push(REPOSITORY, DIGEST)
    log_in(*READER)
    assert "does not let this account scan" in fededge.fails(7, "images", "check", pipeline, "--scan")
    log_in("admin", "wrong")
    said = fededge.fails(7, "images", "check", pipeline)
    assert "refuses the credentials" in said
    assert "wrong" not in said
    log_in("admin", "")
    assert "FEDEDGE_REGISTRY_PASSWORD is not" in fededge.fails(3, "images", "check", pipeline)


def test_the_credentials_of_docker_login_are_used(
    fededge: Command, harbor: FakeHarbor, pipeline: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harbor.push(REPOSITORY, DIGEST, status="Success")
    monkeypatch.delenv("FEDEDGE_REGISTRY_USER")
    auth = base64.b64encode(":".join(READER).encode()).decode()
    (home / "docker").mkdir()
    (home / "docker" / "config.json").write_text(json.dumps({"auths": {harbor.host: {"auth": auth}}}))
    assert _check(fededge, pipeline)["state"] == "ok"


def test_a_busy_harbor_is_asked_again(fededge: Command, harbor: FakeHarbor, pipeline: str) -> None:
    harbor.push(REPOSITORY, DIGEST, status="Success")
    harbor.failures += [502, 429, 503]
    assert _check(fededge, pipeline)["state"] == "ok"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name a pipeline's YAML"),
        (["no.yaml"], "no.yaml cannot be read"),
        (["--image", "A B", "--registry", "harbor.example.org"], "is no name of an image"),
        (["--image", "python"], "in no registry"),
        (["--image", "a.example.org/b/c", "--image", "d.example.org/e/f"], "name one with --registry"),
        (["--image", "a.example.org/b/c", "--digests", "digests.json"], "--digests is for the shipped pipelines"),
    ],
)
def test_bad_input(fededge: Command, home: Path, arguments: list[str], text: str) -> None:
    (home / "digests.json").write_text("{}")
    assert text in fededge.fails(2, "images", "check", *arguments)
