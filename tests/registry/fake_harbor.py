"""A small Harbor: it keeps what it is told, and refuses what Harbor refuses where its Swagger does not say so.

Its answers are held against Harbor's Swagger by Prism; what Harbor does beyond it is read from goharbor/harbor 2.15:
src/server/v2.0/handler, src/controller/{robot,scan} and src/server/middleware/vulnerable.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.store.ceph import Certificate

ADMIN = ("admin", "Harbor12345")
READER = ("reader", "Reader12345")  # may look, and change nothing
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPORT = "application/vnd.security.vulnerability.report; version=1.1"
RANKS = ("None", "Negligible", "Low", "Medium", "High", "Critical")

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_REPOSITORY = r"/projects/([^/]+)/repositories/([^/]+)/artifacts/([^/]+)"


@dataclass
class Image:
    """An image that was pushed.

    Attributes:
      status: of its scan; empty where there was none.
      percent: how much of it is scanned.
      pending: how often a scan is still Pending, then Running, before it ends with `found`.
    """

    digest: str
    tags: list[str] = field(default_factory=list)
    status: str = ""
    scanned: datetime = NOW
    found: list[dict[str, str]] = field(default_factory=list)
    scans: int = 0
    pending: int = 0
    ends: str = "Success"
    scannable: bool = True
    percent: int = 100

    def overview(self) -> dict[str, Any]:
        if not self.status:
            return {}
        counts = {level: sum(each["severity"] == level for each in self.found) for level in RANKS}
        report: dict[str, Any] = {
            "report_id": f"report-{self.scans}",
            "scan_status": self.status,
            "severity": "Unknown",
        }
        if self.status == "Success":
            worst = max((each["severity"] for each in self.found), key=RANKS.index, default="None")
            fixable = sum(bool(each.get("fix_version")) for each in self.found)
            summary = {level: count for level, count in counts.items() if count}
            report |= {
                "severity": worst,
                "complete_percent": self.percent,
                "end_time": self.scanned.isoformat().replace("+00:00", "Z"),
                "summary": {"total": len(self.found), "fixable": fixable, "summary": summary},
            }
        return {REPORT: report}

    def advance(self) -> None:
        """Let a scan go on, each time that somebody looks."""
        if self.status in ("Pending", "Running"):
            self.pending -= 1
            self.status = self.ends if self.pending <= 0 else "Running"
            self.scanned = NOW


class FakeHarbor(ThreadingHTTPServer):
    """Its state, which tests read and change.

    Attributes:
      hidden: projects that nobody sees who asks.
      scanner: whether there is one.
      base: path of the API.
      asked: how many requests there were.
      writes: method and path of each request that may have changed something.
      failures: the statuses of the next answers.
      retry_after: seconds that an answer of `failures` asks to be left alone.
    """

    daemon_threads = True

    def __init__(self, base: str, certificate: Certificate | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base = base
        self.scheme = "https" if certificate else "http"
        self.clear()
        self._ids = iter(range(1, 1_000_000))
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def clear(self) -> None:
        """Forget everything."""
        self.projects: dict[str, dict[str, Any]] = {}
        self.rules: dict[str, list[dict[str, Any]]] = {}
        self.robots: list[dict[str, Any]] = []
        self.images: dict[str, list[Image]] = {}
        self.writes: list[str] = []
        self.failures: list[int] = []
        self.retry_after = ""
        self.asked = 0
        self.lost: set[int] = set()
        self.scanner = True
        self.hidden: set[str] = set()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """Of the API."""
        return f"{self.scheme}://{self.host}{self.base}"

    def push(self, repository: str, digest: str, *tags: str, **about: Any) -> Image:
        image = Image(digest, list(tags), **about)
        self.images.setdefault(repository, []).append(image)
        return image

    def lose(self, number: int) -> None:
        """Do what the request of that number asks, counted from 0, and cut the connection without an answer."""
        self.lost = {self.asked + number}

    def find(self, repository: str, reference: str) -> Image | None:
        images = self.images.get(repository, [])
        return next((each for each in images if each.digest == reference or reference in each.tags), None)

    def new_id(self) -> int:
        return next(self._ids)

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def fake_harbor(base: str = "", certificate: Certificate | None = None) -> Iterator[FakeHarbor]:
    with FakeHarbor(base, certificate) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    server: FakeHarbor
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Tests look at what is kept."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        failure = self.server.failures.pop(0) if self.server.failures else None
        lost = self.server.asked in self.server.lost
        self.server.asked += 1
        if failure:
            self._answer(failure, {"errors": [{"code": "UNKNOWN", "message": "try later"}]})
            return
        try:
            status, document = self._route(json.loads(body) if body else {})
        except _RefusedError as error:
            status, document = error.status, {"errors": [{"code": error.code, "message": error.message}]}
        if lost:
            self.close_connection = True
            self.connection.close()
        else:
            self._answer(status, document)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 names of the standard library

    def _answer(self, status: int, document: Any) -> None:
        headers = document.pop("headers", {}) if isinstance(document, dict) else {}
        data = b"" if document in (None, {}) and status != 200 else json.dumps(document).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if self.server.retry_after and status in (429, 503):
            self.send_header("Retry-After", self.server.retry_after)
        if data:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _route(self, body: dict[str, Any]) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        if parts.path == "/service/token" or parts.path.startswith("/v2/"):
            return self._registry(parts.path)
        path = parts.path.removeprefix(self.server.base)
        if not parts.path.startswith(self.server.base):
            raise _RefusedError(404, "NOT_FOUND", "no such page")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        for method, pattern, serve in _ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                if path != "/systeminfo":
                    self._require_user(write=method not in ("GET", "HEAD"))
                if method not in ("GET", "HEAD"):
                    self.server.writes.append(f"{method} {path}")
                return serve(self, [unquote(unquote(each)) for each in match.groups()], query, body)
        raise _RefusedError(404, "NOT_FOUND", f"no path {path}")

    def _user(self) -> tuple[str, str] | None:
        scheme, _, rest = self.headers.get("Authorization", "").partition(" ")
        if scheme != "Basic":
            return None
        user, _, password = base64.b64decode(rest).decode().partition(":")
        return (user, password) if (user, password) in (ADMIN, READER) else None

    def _require_user(self, write: bool) -> None:
        user = self._user()
        if user is None:
            raise _RefusedError(401, "UNAUTHORIZED", "unauthorized")
        if write and user == READER:
            raise _RefusedError(403, "FORBIDDEN", "forbidden")

    # What Harbor's registry does: a token for who logs in, and no manifest of what is held back.
    def _registry(self, path: str) -> tuple[int, Any]:
        if path == "/service/token":
            if not self._user():
                raise _RefusedError(401, "UNAUTHORIZED", "unauthorized")
            return 200, {"token": "a-token", "expires_in": 1800}
        realm = f"{self.server.scheme}://{self.server.host}/service/token"
        if self.headers.get("Authorization") != "Bearer a-token":
            challenge = f'Bearer realm="{realm}",service="harbor-registry",scope="repository:x:pull"'
            return 401, {"headers": {"WWW-Authenticate": challenge}, "errors": []}
        match = re.fullmatch(r"/v2/(.+)/manifests/([^/]+)", path)
        image = self.server.find(match[1], match[2]) if match else None
        if image is None or match is None:
            raise _RefusedError(404, "NOT_FOUND", "no such manifest")
        metadata = self.server.projects.get(match[1].partition("/")[0], {}).get("metadata", {})
        if metadata.get("prevent_vul") == "true" and image.status != "Success":
            raise _RefusedError(412, "PROJECTPOLICYVIOLATION", "current image without vulnerability scanning")
        return 200, {"headers": {"Docker-Content-Digest": image.digest}}

    def _info(self, *_: Any) -> tuple[int, Any]:
        known = {"current_time": NOW.isoformat().replace("+00:00", "Z"), "harbor_version": "v2.15.2"}
        return 200, {"auth_mode": "db_auth", **(known if self._user() else {})}

    def _list_projects(self, _: list[str], query: dict[str, str], __: Any) -> tuple[int, Any]:
        visible = [each for each in self.server.projects.values() if each["name"] not in self.server.hidden]
        return 200, self._page([each for each in visible if query.get("name", "") in each["name"]], query)

    def _project(self, name: str) -> dict[str, Any]:
        if name not in self.server.projects:
            raise _RefusedError(404, "NOT_FOUND", f"project {name} not found")
        return self.server.projects[name]

    def _get_project(self, names: list[str], *_: Any) -> tuple[int, Any]:
        return 200, self._project(names[0])

    def _post_project(self, _: list[str], __: Any, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["project_name"]
        if name in self.server.projects:
            raise _RefusedError(409, "CONFLICT", f"The project named {name} already exists")
        self._check_metadata(body["metadata"])
        self.server.projects[name] = {
            "project_id": self.server.new_id(), "name": name, "metadata": body["metadata"], "repo_count": 0
        }  # fmt: skip
        return 201, None

    def _put_project(self, names: list[str], _: Any, body: dict[str, Any]) -> tuple[int, Any]:
        self._check_metadata(body["metadata"])
        self._project(names[0])["metadata"].update(body["metadata"])
        return 200, None

    def _check_metadata(self, metadata: dict[str, str]) -> None:
        for name, value in metadata.items():
            allowed = ("none", "low", "medium", "high", "critical") if name == "severity" else ("true", "false")
            if value not in allowed:
                raise _RefusedError(400, "BAD_REQUEST", f"metadata.{name} cannot be {value}")

    def _get_rules(self, names: list[str], query: dict[str, str], __: Any) -> tuple[int, Any]:
        self._project(names[0])
        return 200, self._page(self.server.rules.get(names[0], []), query)

    def _post_rule(self, names: list[str], _: Any, body: dict[str, Any]) -> tuple[int, Any]:
        self._project(names[0])
        rules = self.server.rules.setdefault(names[0], [])
        selectors = ("tag_selectors", "scope_selectors")
        if any(all(rule[each] == body[each] for each in selectors) for rule in rules):
            raise _RefusedError(409, "CONFLICT", "immutable rule already exists")
        rules.append({**body, "id": self.server.new_id(), "disabled": False, "priority": 0})
        return 201, None

    def _put_rule(self, names: list[str], _: Any, body: dict[str, Any]) -> tuple[int, Any]:
        rule = next(rule for rule in self.server.rules[names[0]] if rule["id"] == int(names[1]) == body["id"])
        rule["disabled"] = body["disabled"]
        return 200, None

    def _get_robots(self, _: list[str], query: dict[str, str], __: Any) -> tuple[int, Any]:
        match = re.fullmatch(r"Level=project,ProjectID=(\d+)", query["q"])
        if not match:
            raise _RefusedError(400, "BAD_REQUEST", "must with project ID when to query project robots")
        mine = [robot for robot in self.server.robots if robot["project_id"] == int(match[1])]
        hidden = ("secret", "project_id")
        return 200, self._page([{k: v for k, v in robot.items() if k not in hidden} for robot in mine], query)

    def _post_robot(self, _: list[str], __: Any, body: dict[str, Any]) -> tuple[int, Any]:
        if not _NAME.fullmatch(body["name"]):
            raise _RefusedError(400, "BAD_REQUEST", "robot name is not in lower case or contains illegal characters")
        self._check_robot(body)
        project = self._project(body["permissions"][0]["namespace"])
        name = f"robot${project['name']}+{body['name']}"
        if any(robot["name"] == name for robot in self.server.robots):
            raise _RefusedError(409, "CONFLICT", "robot account already exists")
        robot = {**body, "id": self.server.new_id(), "name": name, "secret": f"Secret{self.server.new_id()}"}
        robot |= {"expires_at": _expiry(body["duration"]), "editable": True, "project_id": project["project_id"]}
        self.server.robots.append(robot)
        return 201, {key: robot[key] for key in ("id", "name", "secret", "expires_at")}

    def _check_robot(self, body: dict[str, Any]) -> None:
        wrong = [
            access
            for permission in body["permissions"]
            for access in permission["access"]
            if (access["resource"], access["action"]) not in (("repository", "pull"), ("repository", "push"))
        ]
        if wrong or not body["permissions"] or (body["duration"] != -1 and body["duration"] < 1):
            raise _RefusedError(400, "BAD_REQUEST", f"bad request permission or duration: {wrong}")

    def _robot(self, names: list[str]) -> dict[str, Any]:
        found = next((robot for robot in self.server.robots if robot["id"] == int(names[0])), None)
        if not found:
            raise _RefusedError(404, "NOT_FOUND", f"robot {names[0]} not found")
        return found

    def _put_robot(self, names: list[str], _: Any, body: dict[str, Any]) -> tuple[int, Any]:
        robot = self._robot(names)
        self._check_robot(body)
        if (body["name"], body["level"]) != (robot["name"], robot["level"]):
            raise _RefusedError(400, "BAD_REQUEST", "cannot update the level or name of robot")
        robot |= {key: body[key] for key in ("description", "disable", "permissions")}
        if robot["duration"] != body["duration"]:
            robot |= {"duration": body["duration"], "expires_at": _expiry(body["duration"])}
        return 200, None

    def _patch_robot(self, names: list[str], *_: Any) -> tuple[int, Any]:
        robot = self._robot(names)
        robot["secret"] = f"Secret{self.server.new_id()}"
        return 200, {"secret": robot["secret"]}

    def _delete_robot(self, names: list[str], *_: Any) -> tuple[int, Any]:
        self.server.robots.remove(self._robot(names))
        return 200, None

    def _image(self, names: list[str]) -> Image:
        image = self.server.find(f"{names[0]}/{names[1]}", names[2])
        if not image:
            raise _RefusedError(404, "NOT_FOUND", f"artifact {names[0]}/{names[1]}:{names[2]} not found")
        return image

    def _get_artifact(self, names: list[str], query: dict[str, str], _: Any) -> tuple[int, Any]:
        image = self._image(names)
        artifact: dict[str, Any] = {"digest": image.digest, "id": 1, "type": "IMAGE", "size": 1000}
        if query.get("with_scan_overview") == "true" and image.status:
            if REPORT not in self.headers.get("X-Accept-Vulnerabilities", ""):
                raise _RefusedError(400, "BAD_REQUEST", "mime type is not supported")
            artifact["scan_overview"] = image.overview()
            image.advance()
        return 200, artifact

    def _vulnerabilities(self, names: list[str], *_: Any) -> tuple[int, Any]:
        return 200, {REPORT: {"severity": "Unknown", "vulnerabilities": self._image(names).found}}

    def _scan(self, names: list[str], _: Any, body: dict[str, Any]) -> tuple[int, Any]:
        image = self._image(names)
        if not self.server.scanner:
            raise _RefusedError(412, "PRECONDITION", "no available scanner for project: 1")
        if not image.scannable:
            raise _RefusedError(400, "BAD_REQUEST", "the configured scanner Trivy does not support scanning artifact")
        if image.status in ("Pending", "Running"):
            raise _RefusedError(409, "CONFLICT", f"a previous scan process is {image.status}")
        image.status, image.scans = "Pending", image.scans + 1
        return 202, None

    def _page(self, found: list[Any], query: dict[str, str]) -> list[Any]:
        page, size = int(query.get("page", 1)), min(int(query.get("page_size", 10)), 100)
        return found[(page - 1) * size : page * size]


def _expiry(days: int) -> int:
    return -1 if days == -1 else int((NOW + timedelta(days=days)).timestamp())


_RULES = r"/projects/([^/]+)/immutabletagrules"
_ROUTES: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/systeminfo", _Handler._info),
    ("GET", "/projects", _Handler._list_projects),
    ("POST", "/projects", _Handler._post_project),
    ("GET", "/projects/([^/]+)", _Handler._get_project),
    ("PUT", "/projects/([^/]+)", _Handler._put_project),
    ("GET", _RULES, _Handler._get_rules),
    ("POST", _RULES, _Handler._post_rule),
    ("PUT", _RULES + r"/(\d+)", _Handler._put_rule),
    ("GET", "/robots", _Handler._get_robots),
    ("POST", "/robots", _Handler._post_robot),
    ("PUT", r"/robots/(\d+)", _Handler._put_robot),
    ("PATCH", r"/robots/(\d+)", _Handler._patch_robot),
    ("DELETE", r"/robots/(\d+)", _Handler._delete_robot),
    ("GET", _REPOSITORY, _Handler._get_artifact),
    ("GET", _REPOSITORY + "/additions/vulnerabilities", _Handler._vulnerabilities),
    ("POST", _REPOSITORY + "/scan", _Handler._scan),
)
