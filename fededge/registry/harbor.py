"""Harbor's REST API, as far as FedEdge needs it.

Source: goharbor/harbor, api/v2.0/swagger.yaml.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from fededge.errors import InputError, RegistryError
from fededge.registry.harbor_data import Answered, Artifact, Project, Robot, Rule, Vulnerability
from fededge.registry.server import Answer, Server

T = TypeVar("T")

BASE_PATH = "/api/v2.0"

_PAGE = 100  # the most that Harbor gives at once
# The same reports in two dresses; the first that there is, is given.
_REPORTS = (
    "application/vnd.security.vulnerability.report; version=1.1, "
    "application/vnd.scanner.adapter.vuln.report.harbor+json; version=1.0"
)
_BY_NAME = {"X-Is-Resource-Name": "true"}  # a project may be called 2026


class _Info(Answered):
    current_time: datetime | None = None


class _Report(Answered):
    vulnerabilities: list[Vulnerability] | None = None


class _Secret(Answered):
    secret: str


_INFO = TypeAdapter(_Info)
_ARTIFACT = TypeAdapter(Artifact)
_REPORT = TypeAdapter(dict[str, _Report])
_PROJECT = TypeAdapter(Project)
_PROJECTS = TypeAdapter(list[Project] | None)
_RULES = TypeAdapter(list[Rule] | None)
_ROBOTS = TypeAdapter(list[Robot] | None)
_ROBOT = TypeAdapter(Robot)
_SECRET = TypeAdapter(_Secret)


@dataclass(frozen=True)
class Harbor:
    """A Harbor.

    Attributes:
      server: its URL ends with the API's base path.
    """

    server: Server

    def now(self) -> float:
        """Return the time by Harbor's clock, in seconds of Unix time; by ours where it does not tell strangers."""
        info = _good(self.server.ask("GET", "/systeminfo"), "tell about itself").read(_INFO)
        return info.current_time.timestamp() if info.current_time else time.time()

    def artifact(self, repository: str, reference: str) -> Artifact | None:
        """Find an image with the overview of its scan; None if there is none.

        Args:
          repository: with its project, as `fededge/fededge-torch`.
          reference: a digest or a tag.
        """
        query = {"with_scan_overview": "true", "with_tag": "false"}
        accept = {"X-Accept-Vulnerabilities": _REPORTS}
        answer = self.server.ask("GET", _artifact(repository, reference), query, headers=accept)
        if answer.status == 404:
            return None
        return _good(answer, f"read {repository}").read(_ARTIFACT)

    def vulnerabilities(self, repository: str, reference: str) -> list[Vulnerability]:
        """List what the scan of an image found."""
        path = _artifact(repository, reference) + "/additions/vulnerabilities"
        answer = self.server.ask("GET", path, headers={"X-Accept-Vulnerabilities": _REPORTS})
        reports = _good(answer, f"read the scan of {repository}").read(_REPORT)
        return [found for report in reports.values() for found in report.vulnerabilities or []]

    def scan(self, repository: str, reference: str) -> bool:
        """Have an image scanned; False if a scan is already under way."""
        path = _artifact(repository, reference) + "/scan"
        answer = self.server.ask("POST", path, body={"scan_type": "vulnerability"})
        if answer.status == 409:
            return False
        _good(answer, f"scan {repository}")
        return True

    def project(self, name: str) -> Project | None:
        """Find a project; None if there is none that this account sees."""
        similar = self._all("/projects", {"name": name}, _PROJECTS, "list projects")
        if all(each.name != name for each in similar):
            return None
        answer = self.server.ask("GET", f"/projects/{_quoted(name)}", headers=_BY_NAME)
        return _good(answer, f"read the project {name}").read(_PROJECT)

    def create_project(self, name: str, metadata: Mapping[str, str]) -> bool:
        """Make a project; False if there is one of that name."""
        body = {"project_name": name, "metadata": dict(metadata)}
        return self._create("/projects", body, f"create the project {name}") is not None

    def update_project(self, name: str, metadata: Mapping[str, str]) -> None:
        """Change some settings of a project; the others stay."""
        answer = self.server.ask("PUT", f"/projects/{_quoted(name)}", body={"metadata": metadata}, headers=_BY_NAME)
        _good(answer, f"change the project {name}")

    def rules(self, project: str) -> list[Rule]:
        """List a project's rules for immutable tags."""
        return self._all(_rules(project), {}, _RULES, f"read the tag rules of {project}")

    def create_rule(self, project: str, rule: Rule) -> None:
        """Make a rule for immutable tags; it may be there already."""
        body = rule.model_dump(mode="json", exclude={"id"})
        self._create(_rules(project), body, f"make tags of {project} immutable")

    def update_rule(self, project: str, rule: Rule) -> None:
        """Change a rule for immutable tags."""
        path = f"{_rules(project)}/{rule.id}"
        answer = self.server.ask("PUT", path, body=rule.model_dump(mode="json"), headers=_BY_NAME)
        _good(answer, f"change the tag rules of {project}")

    def robots(self, project: Project) -> list[Robot]:
        """List a project's robot accounts."""
        query = {"q": f"Level=project,ProjectID={project.project_id}"}
        return self._all("/robots", query, _ROBOTS, f"read the robot accounts of {project.name}")

    def create_robot(self, body: Mapping[str, Any]) -> Robot | None:
        """Make a robot account, with its secret; None if there is one of that name."""
        answer = self._create("/robots", body, f"create the robot account {body['name']}")
        return answer.read(_ROBOT) if answer else None

    def update_robot(self, robot: Robot, body: Mapping[str, Any]) -> None:
        """Change a robot account."""
        changed = {**body, "id": robot.id, "name": robot.name}
        _good(self.server.ask("PUT", f"/robots/{robot.id}", body=changed), f"change the robot account {robot.name}")

    def delete_robot(self, robot: Robot) -> None:
        """Delete a robot account; it may be gone."""
        answer = self.server.ask("DELETE", f"/robots/{robot.id}")
        if answer.status != 404:
            _good(answer, f"delete the robot account {robot.name}")

    def new_secret(self, robot: Robot) -> str:
        """Give a robot account another secret; the one that it had is refused from then on."""
        answer = self.server.ask("PATCH", f"/robots/{robot.id}", body={})
        return _good(answer, f"change the secret of {robot.name}").read(_SECRET).secret

    def _create(self, path: str, body: Mapping[str, Any], what: str) -> Answer | None:
        answer = self.server.ask("POST", path, body=body, headers=_BY_NAME)
        return None if answer.status == 409 else _good(answer, what)

    def _all(self, path: str, query: Mapping[str, str], kind: TypeAdapter[list[T] | None], what: str) -> list[T]:
        found: list[T] = []
        page = 1
        while True:
            pages: dict[str, str | int] = {"page": page, "page_size": _PAGE, **query}
            some = _good(self.server.ask("GET", path, pages, headers=_BY_NAME), what).read(kind) or []
            found += some
            if len(some) < _PAGE:
                return found
            page += 1


def _good(answer: Answer, what: str) -> Answer:
    """Return an answer that is a success.

    Raises:
      RegistryError: it is none; the message says what was refused, and what to do.
    """
    if answer.status < 300:
        return answer
    who = f"Harbor at {answer.server}"
    advice = {
        401: "refuses the credentials: `docker login`, or set FEDEDGE_REGISTRY_USER and FEDEDGE_REGISTRY_PASSWORD",
        403: f"does not let this account {what}: take one that administers the project",
        404: f"knows nothing of what is needed to {what}: check the project's name and the address",
        412: f"cannot {what} as it is set up",
    }.get(answer.status, f"does not {what}")
    raise RegistryError(f"{who} {advice} ({answer.reason()})", answer.status)


def _artifact(repository: str, reference: str) -> str:
    project, slash, name = repository.partition("/")
    if not slash:
        raise InputError(f"{repository} is no repository of a Harbor, as fededge/fededge-torch: the project is missing")
    # Harbor unquotes once before it looks for slashes, and once after.
    return f"/projects/{_quoted(project)}/repositories/{_quoted(_quoted(name))}/artifacts/{_quoted(reference)}"


def _rules(project: str) -> str:
    return f"/projects/{_quoted(project)}/immutabletagrules"


def _quoted(part: str) -> str:
    return quote(part, safe="")
