"""`fededge images harbor-setup`, held against Harbor's Swagger on both sides."""

from __future__ import annotations

import base64
import json
import stat
from datetime import timedelta
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.cli.command import Command
from tests.registry.conftest import LogIn
from tests.registry.fake_harbor import NOW, READER, FakeHarbor

Checked = tuple[FakeHarbor, str]
METADATA = {
    "public": "false", "auto_scan": "true", "prevent_vul": "true", "severity": "high",
    "enable_content_trust": "false", "enable_content_trust_cosign": "false",
}  # fmt: skip


@pytest.fixture
def setup(checked_harbor: Checked) -> list[str]:
    server, url = checked_harbor
    return ["images", "harbor-setup", "--registry", f"{server.host}/fededge", "--api", url]


def test_all_is_made_as_harbor_wants_it(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    server, _ = checked_harbor
    made = json.loads(fededge.works(*setup, "--json"))
    assert server.projects["fededge"]["metadata"] == METADATA
    (rule,) = server.rules["fededge"]
    assert (
        rule["scope_selectors"]["repository"][0] | {"pattern": "**", "decoration": "repoMatches"}
        == (rule["scope_selectors"]["repository"][0])
    )
    assert rule["tag_selectors"] == [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}]
    (robot,) = server.robots
    access = [{"resource": "repository", "action": "pull"}]
    assert robot["permissions"] == [{"kind": "project", "namespace": "fededge", "access": access}]
    assert robot["duration"] == 365
    assert made["secret"] == robot["secret"]
    assert made["robot"] == "robot$fededge+fededge-pull"
    assert [step["action"] for step in made["steps"]] == ["created"] * 3


def test_again_changes_nothing_and_says_so(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    server, _ = checked_harbor
    secret = json.loads(fededge.works(*setup, "--json"))["secret"]
    server.writes.clear()
    assert "nothing was changed" in fededge.works(*setup)
    again = json.loads(fededge.works(*setup, "--json"))
    assert (again["changed"], again["secret"]) == (False, None)
    assert server.writes == []
    assert server.robots[0]["secret"] == secret


def test_a_dry_run_does_nothing(fededge: Command, checked_harbor: Checked, setup: list[str], home: Path) -> None:
    server, _ = checked_harbor
    said = fededge.works(*setup, "--dry-run", "--secret-file", "secret.yaml")
    assert said.count("would be created") == 3
    assert (server.writes, server.projects) == ([], {})
    assert list(home.iterdir()) == []


def test_what_differs_is_mended_and_nothing_else(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    server, _ = checked_harbor
    fededge.works(*setup)
    server.projects["fededge"]["metadata"] |= {
        "auto_scan": "false",
        "public": "true",
        "reuse_sys_cve_allowlist": "true",
    }
    server.rules["fededge"][0]["disabled"] = True
    server.robots[0]["permissions"][0]["access"].append({"resource": "repository", "action": "push"})
    server.robots[0]["disable"] = True
    server.writes.clear()
    done = json.loads(fededge.works(*setup, "--json"))
    assert [step["action"] for step in done["steps"]] == ["changed"] * 3
    assert [write.split()[0] for write in server.writes] == ["PUT"] * 3
    # Who may see it, and what it allows, is for its owner to say.
    assert server.projects["fededge"]["metadata"] == METADATA | {"public": "true", "reuse_sys_cve_allowlist": "true"}
    assert server.rules["fededge"][0]["disabled"] is False
    assert server.robots[0]["disable"] is False
    assert server.robots[0]["permissions"][0]["access"] == [{"resource": "repository", "action": "pull"}]
    assert "nothing was changed" in fededge.works(*setup)


def test_rules_and_robots_of_others_stay(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    """More of them than Harbor gives at once."""
    server, _ = checked_harbor
    fededge.works(*setup)
    rule, robot = server.rules["fededge"][0], server.robots[0]
    for number in range(120):
        others = {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": f"other-{number}"}]}
        server.rules["fededge"].insert(0, {**rule, "id": 1000 + number, "scope_selectors": others})
        server.robots.insert(0, {**robot, "id": 1000 + number, "name": f"robot$fededge+other-{number}"})
    server.writes.clear()
    assert "nothing was changed" in fededge.works(*setup)
    assert server.writes == []


def test_other_wishes_are_kept_to(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    server, _ = checked_harbor
    fededge.works(*setup, "--severity", "critical", "--robot", "puller", "--days", "-1")
    assert server.projects["fededge"]["metadata"]["severity"] == "critical"
    assert (server.robots[0]["name"], server.robots[0]["expires_at"]) == ("robot$fededge+puller", -1)


def test_the_secret_is_written_for_kubernetes_and_shown_to_nobody(
    fededge: Command, checked_harbor: Checked, setup: list[str], home: Path
) -> None:
    server, _ = checked_harbor
    said = fededge.works(*setup, "--secret-file", "secret.yaml")
    path = home / "secret.yaml"
    assert server.robots[0]["secret"] not in said
    assert "secret.yaml" in said
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    manifest = yaml.safe_load(path.read_text())
    kubernetes_validate.validate(manifest, "1.32.0", strict=True)
    assert manifest["type"] == "kubernetes.io/dockerconfigjson"
    assert manifest["metadata"]["name"] == "fededge-registry"
    login = json.loads(base64.b64decode(manifest["data"][".dockerconfigjson"]))["auths"][server.host]
    assert (login["username"], login["password"]) == (server.robots[0]["name"], server.robots[0]["secret"])
    assert base64.b64decode(login["auth"]).decode() == f"{login['username']}:{login['password']}"
    # The secret is known no more; the file stays.
    assert "--new-secret makes another" in fededge.works(*setup, "--secret-file", "secret.yaml")
    assert yaml.safe_load(path.read_text()) == manifest
    fededge.works(*setup, "--secret-file", "secret.yaml", "--new-secret")
    login = json.loads(base64.b64decode(yaml.safe_load(path.read_text())["data"][".dockerconfigjson"]))
    assert login["auths"][server.host]["password"] == server.robots[0]["secret"]
    assert [each.name for each in home.iterdir() if each.name != "docker"] == ["secret.yaml"]


def test_a_secret_that_cannot_be_kept_is_not_made(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    said = fededge.fails(2, *setup, "--secret-file", "no/such/folder/secret.yaml")
    assert "cannot be written" in said
    assert checked_harbor[0].writes == []


def test_an_expired_robot_is_made_anew(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    server, _ = checked_harbor
    fededge.works(*setup)
    old = server.robots[0]
    old["expires_at"] = int((NOW - timedelta(days=1)).timestamp())
    done = json.loads(fededge.works(*setup, "--json"))
    assert done["steps"][2]["action"] == "replaced"
    assert server.robots[0]["id"] != old["id"]
    assert done["secret"] == server.robots[0]["secret"] != old["secret"]


def test_somebody_who_may_not(fededge: Command, checked_harbor: Checked, setup: list[str], log_in: LogIn) -> None:
    log_in(*READER)
    said = fededge.fails(7, *setup)
    assert "does not let this account create the project fededge" in said


def test_a_project_that_is_somebody_elses(fededge: Command, checked_harbor: Checked, setup: list[str]) -> None:
    server, _ = checked_harbor
    fededge.works(*setup)
    server.hidden.add("fededge")
    assert "take one that administers it" in fededge.fails(7, *setup)


def test_a_busy_harbor_is_asked_again(fededge: Command, harbor: FakeHarbor) -> None:
    harbor.failures += [503, 429, 500]
    done = fededge("images", "harbor-setup", "--registry", f"{harbor.host}/fededge", "--json")
    assert done.code == 0
    assert "asking again" in done.err
    assert (len(harbor.projects), len(harbor.rules["fededge"]), len(harbor.robots)) == (1, 1, 1)


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_a_create_whose_answer_is_lost(fededge: Command, harbor: FakeHarbor, lost: int) -> None:
    """It is sent again, and the 409 is taken for what it is."""
    harbor.lose(lost)
    done = json.loads(fededge.works("images", "harbor-setup", "--registry", f"{harbor.host}/fededge", "--json"))
    assert (len(harbor.projects), len(harbor.rules["fededge"]), len(harbor.robots)) == (1, 1, 1)
    assert done["robot"] == "robot$fededge+fededge-pull"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--registry", "harbor.example.org"], "no project of a Harbor"),
        (["--registry", "harbor.example.org/a/b"], "no project of a Harbor"),
        (["--registry", "fededge"], "is no registry"),
        (["--registry", "harbor.example.org/fededge", "--days", "0"], "for 0 days"),
        (["--registry", "harbor.example.org/fededge", "--robot", "Pull Me"], "no name for Harbor"),
        (["--registry", "harbor.example.org/fededge", "--api", "harbor"], "is no URL"),
    ],
)
def test_bad_input(fededge: Command, options: list[str], text: str) -> None:
    assert text in fededge.fails(2, "images", "harbor-setup", *options)
