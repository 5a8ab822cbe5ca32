"""A server that speaks Kubernetes' API, with faults on request.

It keeps objects (`objects.py`), and has neither controllers nor a kubelet: a test says with `put` and `patch_status`
what they would have done, and with `remove` what is gone. Every object of Kubernetes' own kinds that it is sent is
checked against the strict schema.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import re
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.cluster.certificate import authority_pem, server_context
from tests.cluster.objects import ApiError, Document, Key, Objects, Resource, merge, now, selector

USER = "system:serviceaccount:fededge:fededge-runner"
NAMESPACE = "fededge"
TOKEN = "a-token-of-the-tests"

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+)(?:/(?P<part>[a-z]+))?)?"
)
_REVIEW = re.compile(r"/apis/authorization\.k8s\.io/v1/namespaces/(?P<namespace>[^/]+)/localsubjectaccessreviews")
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Asked(NamedTuple):
    """A request: `verb` as roles name it, `resource` with its part, such as jobs/status."""

    verb: str
    resource: str
    namespace: str
    name: str
    query: dict[str, str]


@dataclass
class _Fault:
    times: int
    status: int
    verb: str
    resource: str
    retry_after: int | None
    after: bool
    message: str
    cut: bool = False


class ApiServer(ThreadingHTTPServer):
    """The server; all that tests may touch.

    Attributes:
      objects: every object, by (plural, namespace, name); change them with the methods alone.
      requests: all that was asked, in its order.
      logs: what pods/log answers, by the pod's name.
      token: who sends another one gets 401.
      bookmarks: seconds between the bookmarks of a watch.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, kubernetes: str = "1.36.0") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kept = Objects(kubernetes)
        self.kubernetes = kubernetes
        self.requests: list[Asked] = []
        self.logs: dict[str, str] = {}
        self.token = TOKEN
        self.bookmarks = 60.0
        self.generation = 0  # of the watches; those of an older one end
        self.closing = False
        for name in ("default", "kubeflow", NAMESPACE):
            self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self._faults: list[_Fault] = []
        self._forbidden: set[tuple[str, str]] = set()
        self._away_until = 0.0

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; its handshake is left to the thread that answers it."""
        connection, address = self.socket.accept()
        context = server_context()
        return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    @property
    def objects(self) -> dict[Key, Document]:
        return self.kept.objects

    def get(self, plural: str, name: str, namespace: str = NAMESPACE) -> Document:
        """Return a copy of an object."""
        return copy.deepcopy(self.objects[self._key(plural, name, namespace)])

    def named(self, plural: str, namespace: str = NAMESPACE) -> list[str]:
        """Name the objects of a kind."""
        with self.kept.changed:
            space = namespace if self.resource(plural).namespaced else ""
            return sorted(key[2] for key in self.objects if key[:2] == (plural, space))

    def put(self, document: Document) -> Document:
        """Make or replace an object, its status included; fills in what metadata lacks."""
        new = copy.deepcopy(document)
        resource = next(r for r in self.kept.resources if r.kind == new["kind"] and r.api_version == new["apiVersion"])
        metadata = new["metadata"]
        if resource.namespaced:
            metadata.setdefault("namespace", NAMESPACE)
        key = (resource.plural, metadata.get("namespace", ""), metadata["name"])
        with self.kept.changed:
            old = self.objects.get(key, {"metadata": {}})["metadata"]
            metadata.setdefault("uid", old.get("uid") or f"uid-of-{resource.plural}-{metadata['name']}")
            metadata.setdefault("creationTimestamp", old.get("creationTimestamp") or now())
            return self.kept.write(key, new)

    def patch(self, plural: str, name: str, patch: Document, namespace: str = NAMESPACE) -> Document:
        """Merge a patch into an object."""
        with self.kept.changed:
            key = self._key(plural, name, namespace)
            return self.kept.write(key, merge(copy.deepcopy(self.objects[key]), patch))

    def patch_status(self, plural: str, name: str, status: Document, namespace: str = NAMESPACE) -> Document:
        """Merge into an object's status."""
        return self.patch(plural, name, {"status": status}, namespace)

    def remove(self, plural: str, name: str, namespace: str = NAMESPACE) -> None:
        """Take an object away, as when its deletion has come to its end."""
        self.kept.remove(self._key(plural, name, namespace))

    def fail(
        self,
        times: int = 1,
        status: int = 503,
        verb: str = "",
        resource: str = "",
        *,
        retry_after: int | None = None,
        after: bool = False,
        message: str = "",
    ) -> None:
        """Answer the next requests with an error.

        Args:
          times: how many of them.
          status: of HTTP; 0 drops the connection instead.
          verb: only requests with this one.
          resource: only requests for this one.
          retry_after: seconds that the answer asks to wait.
          after: do what was asked for first, so that only the answer is lost.
          message: for people.
        """
        self._faults.append(_Fault(times, status, verb, resource, retry_after, after, message))

    def cut(self, times: int = 1, verb: str = "", resource: str = "") -> None:
        """Drop the connection in the middle of the next answers."""
        self._faults.append(_Fault(times, 200, verb, resource, None, True, "", cut=True))

    def forbid(self, verb: str, resource: str) -> None:
        """Answer 403, as role-based access control does; `resource` may be such as pods/log."""
        self._forbidden.add((verb, resource))

    def allow(self, verb: str, resource: str) -> None:
        self._forbidden.discard((verb, resource))

    def quota(self, plural: str, limit: int) -> None:
        """Let a namespace have no more objects of a kind."""
        self.kept.quotas[plural] = limit

    def drop_watches(self) -> None:
        """Cut all watches, without a word."""
        with self.kept.changed:
            self.generation += 1
            self.kept.changed.notify_all()

    def compact(self) -> None:
        """Forget the history: what goes on from an older version gets 410."""
        self.kept.compact()

    def go_away(self, seconds: float) -> None:
        """Answer nobody for some time; watches are cut."""
        self._away_until = time.monotonic() + seconds
        self.drop_watches()

    @property
    def away(self) -> bool:
        return time.monotonic() < self._away_until

    def resource(self, plural: str) -> Resource:
        return next(resource for resource in self.kept.resources if resource.plural == plural)

    def is_forbidden(self, verb: str, resource: str) -> bool:
        return (verb, resource) in self._forbidden

    def fault(self, asked: Asked, after: bool) -> _Fault | None:
        """Find the fault that a request has before, or after, it is done."""
        with self.kept.changed:
            for fault in self._faults:
                wanted = fault.verb in ("", asked.verb) and fault.resource in ("", asked.resource)
                if fault.times > 0 and fault.after == after and wanted:
                    fault.times -= 1
                    return fault
        return None

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return not self.away

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""

    def stop(self) -> None:
        with self.kept.changed:
            self.closing = True
            self.generation += 1
            self.kept.changed.notify_all()
        self.shutdown()

    def _key(self, plural: str, name: str, namespace: str) -> Key:
        return (plural, namespace if self.resource(plural).namespaced else "", name)


class _DroppedError(Exception):
    """The connection is to be closed without a word more."""


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._answering()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    def _answering(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.server.away:
                raise _DroppedError
            self._route(body)
        except ApiError as refused:
            self._send(refused.status, refused.document())
        except (KeyError, TypeError, ValueError, AttributeError):
            traceback.print_exc()  # of a request that this server does not understand
            self._send(500, ApiError(500, "InternalError", traceback.format_exc()).document())
        except (_DroppedError, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _route(self, body: bytes) -> None:
        if body and "json" not in self.headers.get("Content-Type", "json"):
            raise ApiError(415, "UnsupportedMediaType", "this server reads JSON alone")
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if (scheme.lower(), token) != ("bearer", self.server.token):
            raise ApiError(401, "Unauthorized", "Unauthorized")
        url = urlsplit(self.path)
        path, query = unquote(url.path).rstrip("/"), dict(parse_qsl(url.query))
        if (found := _discovery(self.server, path)) is not None:
            self._send(200, found)
        elif match := _REVIEW.fullmatch(path):
            self._send(201, self._reviewed(match["namespace"], json.loads(body)))
        else:
            self._resource(path, query, json.loads(body or b"null"))

    def _resource(self, path: str, query: dict[str, str], body: Any) -> None:
        match = _PATH.fullmatch(path)
        resource = self._known(match) if match else None
        if match is None or resource is None:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        namespace, name, part = (match[group] or "" for group in ("namespace", "name", "part"))
        asked = Asked(self._verb(name, query), "/".join(filter(None, (resource.plural, part))), namespace, name, query)
        self.server.requests.append(asked)
        self._fail(self.server.fault(asked, after=False))
        self._allowed(asked, resource)
        if asked.verb == "watch":
            self._watch(resource, asked)
            return
        status, answer = self._do(resource, asked, part, body)
        fault = self.server.fault(asked, after=True)
        if fault is None or not fault.cut:
            self._fail(fault)
        self._send(status, answer, cut=fault is not None)

    def _known(self, match: re.Match[str]) -> Resource | None:
        for resource in self.server.kept.resources:
            same = (resource.group, resource.version, resource.plural) == (
                match["group"] or "",
                match["version"],
                match["plural"],
            )
            if same and (not match["part"] or match["part"] in resource.parts):
                return resource
        return None

    def _verb(self, name: str, query: dict[str, str]) -> str:
        if self.command == "GET":
            if query.get("watch") in ("true", "1", "True"):
                return "watch"
            return "get" if name else "list"
        return _VERBS[self.command] + ("collection" if self.command == "DELETE" and not name else "")

    def _fail(self, fault: _Fault | None) -> None:
        if fault is None:
            return
        if not fault.status:
            raise _DroppedError
        message = fault.message or "made to fail"
        refused = ApiError(fault.status, _REASONS.get(fault.status, "Unknown"), message)
        if fault.retry_after is not None:
            refused.details["retryAfterSeconds"] = fault.retry_after
        raise refused

    def _allowed(self, asked: Asked, resource: Resource) -> None:
        if not self.server.is_forbidden(asked.verb, asked.resource):
            return
        where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
        what = f'resource "{asked.resource}" in API group "{resource.group}" {where}'
        name = f' "{asked.name}"' if asked.name else ""
        text = f'{resource.qualified}{name} is forbidden: User "{USER}" cannot {asked.verb} {what}'
        raise ApiError(403, "Forbidden", text)

    def _reviewed(self, namespace: str, review: Document) -> Document:
        """Tell whether a user may do something: all have the same rights, but for asking this."""
        spec = review["spec"]
        wanted = spec["resourceAttributes"]
        self.server.requests.append(Asked("create", "localsubjectaccessreviews", namespace, spec["user"], {}))
        if self.server.is_forbidden("create", "localsubjectaccessreviews"):
            raise ApiError(403, "Forbidden", "localsubjectaccessreviews.authorization.k8s.io is forbidden")
        if {review["metadata"]["namespace"], wanted["namespace"]} != {namespace}:
            raise ApiError(400, "BadRequest", f"this review is for the namespace {namespace} alone")
        return {**review, "status": {"allowed": not self.server.is_forbidden(wanted["verb"], wanted["resource"])}}

    def _do(self, resource: Resource, asked: Asked, part: str, body: Any) -> tuple[int, Any]:
        kept, key = self.server.kept, (resource.plural, asked.namespace, asked.name)
        if part == "log":
            kept.read(key)
            return 200, self.server.logs.get(asked.name, "")
        if part == "eviction":
            return 201, kept.delete(resource, key, (body or {}).get("deleteOptions") or {})
        match asked.verb:
            case "list":
                return 200, self._list(resource, asked)
            case "get":
                return 200, kept.read(key)
            case "create":
                return 201, kept.create(resource, asked.namespace, body)
            case "update":
                return 200, kept.replace(resource, key, body, part)
            case "patch":
                return 200, kept.patch(resource, key, body, self.headers.get("Content-Type", ""), part)
            case "delete":
                return 200, self._deleted(resource, asked, {**asked.query, **(body or {})})
        return 200, self._delete_all(resource, asked, {**asked.query, **(body or {})})

    def _list(self, resource: Resource, asked: Asked) -> Document:
        matches = self._selector(asked, resource)
        items, metadata = self.server.kept.page(
            lambda: self.server.kept.select(resource.plural, asked.namespace, matches),
            int(asked.query.get("limit") or 0),
            asked.query.get("continue", ""),
        )
        if asked.query.get("labelSelector") or asked.query.get("fieldSelector"):
            metadata.pop("remainingItemCount", None)
        head = {"apiVersion": resource.api_version, "kind": f"{resource.kind}List"}
        return {**head, "metadata": metadata, "items": items}

    def _deleted(self, resource: Resource, asked: Asked, options: Document) -> Document:
        gone = self.server.kept.delete(resource, (resource.plural, asked.namespace, asked.name), options)
        if resource.plural == "pods":
            return gone
        details = {"name": asked.name, "group": resource.group, "kind": resource.plural, "uid": gone["metadata"]["uid"]}
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def _delete_all(self, resource: Resource, asked: Asked, options: Document) -> Document:
        matches = self._selector(asked, resource)
        for document in self.server.kept.select(resource.plural, asked.namespace, matches):
            key = (resource.plural, asked.namespace, document["metadata"]["name"])
            with contextlib.suppress(ApiError):
                self.server.kept.delete(resource, key, options)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    @staticmethod
    def _selector(asked: Asked, resource: Resource) -> Any:
        fields = asked.query.get("fieldSelector", "")
        if asked.name:
            fields = f"metadata.name={asked.name}"
        return selector(asked.query.get("labelSelector", ""), fields, resource.plural)

    def _watch(self, resource: Resource, asked: Asked) -> None:
        """Tell of changes until the time is over, or somebody cuts the watch."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in self._events(resource, asked):
            content = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.write(b"0\r\n\r\n")

    def _events(self, resource: Resource, asked: Asked) -> Iterator[Document]:
        kept, matches = self.server.kept, self._selector(asked, resource)
        end = time.monotonic() + float(asked.query.get("timeoutSeconds") or 1800)
        bookmarks = asked.query.get("allowWatchBookmarks") in ("true", "True", "1")
        generation, mark = self.server.generation, time.monotonic() + self.server.bookmarks
        if self.server.away:  # since it was asked
            raise _DroppedError
        with kept.changed:
            version = int(asked.query.get("resourceVersion") or 0)
            found = [] if version else kept.select(resource.plural, asked.namespace, matches)
            news: list[Document] = [{"type": "ADDED", "object": document} for document in found]
            reached = version or kept.version
            if version and version < kept.oldest:
                text = f"too old resource version: {version} ({kept.oldest})"
                news = [{"type": "ERROR", "object": ApiError(410, "Expired", text).document()}]
                end = 0.0
        while True:
            yield from news
            with kept.changed:
                news = []
                while time.monotonic() < min(end, mark) and self.server.generation == generation and not news:
                    news = list(kept.since(reached, resource.plural, asked.namespace, matches))
                    reached = kept.version
                    if not news:
                        kept.changed.wait(max(0.0, min(end, mark) - time.monotonic()))
                if self.server.generation != generation:
                    raise _DroppedError
            if not news and bookmarks and end:
                metadata = {"resourceVersion": str(reached), "creationTimestamp": None}
                head = {"apiVersion": resource.api_version, "kind": resource.kind}
                news = [{"type": "BOOKMARK", "object": {**head, "metadata": metadata}}]
            if time.monotonic() >= end:
                yield from news
                return
            if time.monotonic() >= mark:
                mark = time.monotonic() + self.server.bookmarks

    def _send(self, status: int, answer: Any, cut: bool = False) -> None:
        text = isinstance(answer, str)
        content = answer.encode() if text else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if text else "application/json")
        self.send_header("Content-Length", str(len(content)))
        if not text and answer.get("kind") == "Status" and "retryAfterSeconds" in (answer.get("details") or {}):
            self.send_header("Retry-After", str(answer["details"]["retryAfterSeconds"]))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            raise _DroppedError

    def log_message(self, *_: Any) -> None:
        pass


def _discovery(server: ApiServer, path: str) -> Document | None:
    """Answer what kubectl and other clients ask first."""
    groups = sorted({(resource.group, resource.version) for resource in server.kept.resources if resource.group})
    if path == "/version":
        major, minor, _ = server.kubernetes.split(".")
        return {"major": major, "minor": minor, "gitVersion": f"v{server.kubernetes}", "platform": "linux/amd64"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*group) for group in groups]}
    match = re.fullmatch(r"/(?:api|apis/([^/]+))/(v[^/]+)", path)
    if not match or (match[1] or "", match[2]) not in [("", "v1"), *groups]:
        return None
    found = [r for r in server.kept.resources if (r.group, r.version) == (match[1] or "", match[2])]
    listed = [
        {
            "name": r.plural,
            "singularName": r.kind.lower(),
            "namespaced": r.namespaced,
            "kind": r.kind,
            "verbs": ["get", "list"],
        }
        for r in found
    ]
    return {"kind": "APIResourceList", "groupVersion": found[0].api_version, "resources": listed}


def _group(name: str, version: str) -> Document:
    entry = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [entry], "preferredVersion": entry}


def write_kubeconfig(server: ApiServer, path: Path) -> Path:
    """Write a kubeconfig with the contexts `tests`, which is current, and `elsewhere`, where nobody listens."""

    def context(name: str) -> Document:
        return {"name": name, "context": {"cluster": name, "user": "runner", "namespace": NAMESPACE}}

    def cluster(name: str, url: str) -> Document:
        authority = base64.b64encode(authority_pem()).decode()
        return {"name": name, "cluster": {"server": url, "certificate-authority-data": authority}}

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "tests",
        "clusters": [cluster("tests", server.url), cluster("elsewhere", "https://127.0.0.1:1")],
        "contexts": [context("tests"), context("elsewhere")],
        "users": [{"name": "runner", "user": {"token": server.token}}],
    }
    path.write_text(json.dumps(document))
    return path


@contextlib.contextmanager
def serving(kubernetes: str = "1.36.0") -> Iterator[ApiServer]:
    with ApiServer(kubernetes) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()
