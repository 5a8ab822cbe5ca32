"""A small server that speaks the REST API of Kubeflow Pipelines, v2beta1, as far as FedEdge uses it.

    with KfpServer() as server:
        server.work = …          # what a run does; by default it waits until a test says how it ends
        connect(host=server.url)

What it keeps are plain documents. It takes a pipeline only if the message classes that kfp installs take it, and
like the real one it takes two runs, or two recurring runs, of one name, but not two experiments or pipelines; the tasks
of a run are nodes of Argo, and the runs of a recurring run go with it unless that is asked for. `fail`, `go_away`,
`stall`, `lose_answers`, `require` and `log_out` make faults.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import itertools
import json
import re
import ssl
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

Document = dict[str, Any]
Fault = tuple[int, str, dict[str, str]]
FINISHED = ("SUCCEEDED", "FAILED", "SKIPPED", "CANCELED")
_PREFIX = "/apis/v2beta1/"
_START = datetime(2026, 1, 1, tzinfo=UTC)


class Refused(Exception):  # noqa: N818
    """What the server answers with something else than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class KfpServer:
    """The server, running inside `with`.

    Attributes:
      url: of the API.
      work: called with a run in a thread of its own when it is created.
      requests: method and path of each, in order.
      headers: of each.
      prefix: what paths begin with, behind a proxy.

    Args:
      multi_user: lists ask for a namespace.
      certificate: serve over TLS, with this certificate and this key.
    """

    def __init__(self, *, multi_user: bool = False, certificate: tuple[Path, Path] | None = None) -> None:
        self.documents: dict[str, dict[str, Document]] = {
            kind: {} for kind in ("experiments", "runs", "recurringruns", "pipelines", "versions")
        }
        self.work: Callable[[Document], None] | None = None
        self.requests: list[tuple[str, str]] = []
        self.headers: list[Mapping[str, str]] = []
        self.prefix = "/"
        self._multi_user = multi_user
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        self._faults: list[tuple[str, Fault]] = []
        self._refused: dict[tuple[str, str], Fault] = {}
        self._lost: list[str] = []
        self._authorization = ""
        self._logged_out = False
        self._away_until = 0.0
        self._stalled = 0
        self._ended = threading.Event()
        self._http = _Http(("127.0.0.1", 0), type("Handler", (_Handler,), {"kfp": self}))
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"http{'s' if certificate else ''}://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> KfpServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._http.shutdown()
        self._http.server_close()

    def fail(
        self, times: int, status: int, path: str = "", message: str = "Internal error", retry_after: int | None = None
    ) -> None:
        """Answer the next requests whose path has `path` in it with an error."""
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._faults += [(path, (status, message, headers))] * times

    def refuse(self, method: str, path: str, status: int, message: str) -> None:
        """Answer every request of a method and a path with an error."""
        self._refused[method, path] = (status, message, {})

    def go_away(self, seconds: float) -> None:
        """Take no connections for a while."""
        self._away_until = time.monotonic() + seconds

    def stall(self, times: int) -> None:
        """Take the next requests and say nothing."""
        self._stalled += times

    def lose_answers(self, times: int, path: str) -> None:
        """Do what the next POSTs to `path` ask for, and drop their connections instead of an answer."""
        self._lost += [path] * times

    def require(self, authorization: str) -> None:
        """Refuse every other Authorization header with 401."""
        self._authorization = authorization

    def log_out(self) -> None:
        """Answer everything with a page to log in, as a proxy does before a Kubeflow whose session has expired."""
        self._logged_out = True

    def end_run(self, run: str, state: str = "SUCCEEDED", error: str = "") -> None:
        """Let a run end."""
        self.tell(
            run, state=state, finished_at=self._now(), **({"error": {"code": 2, "message": error}} if error else {})
        )

    def tell(self, run: str, **fields: Any) -> None:
        """Change what is known of a run; one that has ended stays as it is."""
        with self._lock:
            document = self.documents["runs"][run]
            if document["state"] not in FINISHED:
                document.update(fields)

    def tick(self, recurring_run: str) -> Document:
        """Start a run of a recurring run, as when its time has come."""
        with self._lock:
            body = self.documents["recurringruns"][recurring_run]
            taken = ("display_name", "experiment_id", "pipeline_spec", "runtime_config", "recurring_run_id")
            return self._create("runs", {name: body[name] for name in taken})

    def add_task(self, run: str, name: str, state: str, error: str = "") -> None:
        """Add a task to a run, or change the one of that name: Argo's node for it, and that of its first try.

        The entry's, called after the Workflow, is the first.
        """
        document = self.documents["runs"][run]
        workflow = f"{document['pipeline_spec']['pipeline_spec']['pipelineInfo']['name']}-x7k2p"
        with self._lock:
            details = document.setdefault("run_details", {}).setdefault("task_details", [])
            for node in (workflow, f"{workflow}(0)", name, f"{name}(0)"):
                found = next((task for task in details if task["display_name"] == node), None)
                if found is None:
                    children = [] if node.endswith(")") else [{"pod_name": f"{workflow}-{1000 + len(details)}"}]
                    identity = str(uuid.uuid4())
                    found = {"run_id": run, "task_id": identity, "display_name": node, "child_tasks": children}
                    details.append(found)
                found["state"] = "RUNNING" if node.startswith(workflow) else state
                if error and node.startswith(name):
                    found["error"] = {"code": 2, "message": error}

    def runs(self, name: str = "") -> list[Document]:
        """List the runs, of a name if one is given, the oldest first."""
        return [run for run in self.documents["runs"].values() if name in ("", run["display_name"])]

    # What the routes do.

    def answer(self, method: str, path: str, query: dict[str, str], body: Any) -> Document:
        with self._lock:
            kind, _, rest = path.removeprefix(_PREFIX).partition("/")
            if path == f"{_PREFIX}healthz":
                return {"multi_user": self._multi_user}
            if path == f"{_PREFIX}pipelines/upload_version":
                return self._upload(query, body)
            if kind == "pipelines" and (match := re.fullmatch(r"([^/]+)/versions(?:/([^/]+))?", rest)):
                kind, rest, query = "versions", match[2] or "", {**query, "pipeline_id": match[1]}
            if kind not in self.documents:
                raise Refused(404, f"Not Found: {path}")
            identity, _, verb = rest.partition(":")
            if method == "POST" and not rest:
                return self._create(kind, body)
            if method == "GET" and not rest:
                return self._list(kind, query)
            return self._act(kind, self._get(kind, identity), method, verb, query)

    def _get(self, kind: str, identity: str) -> Document:
        try:
            return self.documents[kind][identity]
        except KeyError:
            raise Refused(404, f"{kind} {identity} not found") from None

    def _act(self, kind: str, document: Document, method: str, verb: str, query: dict[str, str]) -> Document:
        if method == "DELETE":
            del self.documents[kind][document[_identity(kind)]]
            for run in [] if query.get("propagation_policy") == "ORPHAN" else self.runs():
                if run.get("recurring_run_id") == document.get("recurring_run_id", ""):
                    self.end_run(run["run_id"], "FAILED", "its Workflow was deleted")
            return {}
        if verb == "terminate":
            self.end_run(document["run_id"], "CANCELED")
            return {}
        if verb in ("enable", "disable"):
            document["status"] = f"{verb.upper()}D"
            return {}
        return document

    def _list(self, kind: str, query: dict[str, str]) -> Document:
        if self._multi_user and not (query.get("namespace") or query.get("experiment_id") or query.get("pipeline_id")):
            raise Refused(400, "Resource cannot have an empty namespace and experiment id in multi-user mode")
        found = [document for document in self.documents[kind].values() if _matches(document, query)]
        begin, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
        page: Document = {_plural(kind): found[begin : begin + size], "total_size": len(found)}
        if begin + size < len(found):
            page["next_page_token"] = str(begin + size)
        return page

    def _create(self, kind: str, body: Document) -> Document:
        if kind in ("experiments", "pipelines"):
            self._require_new(kind, body["display_name"], body.get("namespace"))
        if kind in ("runs", "recurringruns"):
            _require_pipeline(body["pipeline_spec"])
            _require_inputs(body)
            namespace = self._get("experiments", body["experiment_id"]).get("namespace")
            body = {**body, **({"namespace": namespace} if namespace and kind == "recurringruns" else {})}
        document = {**body, _identity(kind): str(uuid.uuid4()), "created_at": self._now()}
        if kind == "runs":
            document["state"] = "PENDING"
        if kind == "recurringruns":
            document["status"] = "DISABLED" if body["mode"] == "DISABLE" else "ENABLED"
        self.documents[kind][document[_identity(kind)]] = document
        if kind == "runs" and self.work:
            threading.Thread(target=self.work, args=(document,), daemon=True).start()
        return document

    def _upload(self, query: dict[str, str], body: bytes) -> Document:
        pipeline = self._get("pipelines", query["pipelineid"])
        documents = list(yaml.load_all(body, yaml.CSafeLoader))
        _require_pipeline({"pipeline_spec": documents[0], "platform_spec": (documents[1:] or [{}])[0]})
        taken = [v for v in self.documents["versions"].values() if v["pipeline_id"] == pipeline["pipeline_id"]]
        if any(version["display_name"] == query["name"] for version in taken):
            raise Refused(409, "Failed to create a pipeline version")
        identity = str(uuid.uuid4())
        self.documents["versions"][identity] = {
            "pipeline_id": pipeline["pipeline_id"], "pipeline_version_id": identity, "display_name": query["name"],
            "name": query["name"], "description": query.get("description", ""), "created_at": self._now(),
        }  # fmt: skip
        return self.documents["versions"][identity]

    def _require_new(self, kind: str, name: str, namespace: str | None) -> None:
        for other in self.documents[kind].values():
            if (other["display_name"], other.get("namespace")) == (name, namespace):
                raise Refused(409, f"Failed to create: the name {name} already exists. Please specify a new name")

    def _now(self) -> str:
        moment = _START + timedelta(seconds=next(self._numbers))
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    # Faults.

    def fault(self, method: str, path: str, authorization: str) -> Fault | None:
        """Take the fault that is due, if one is: a status, a message and headers."""
        with self._lock:
            if self._authorization and authorization != self._authorization:
                return 401, "Request header error: there is no user identity header.: Unauthenticated", {}
            if (method, path) in self._refused:
                return self._refused[method, path]
            for due in self._faults:
                if due[0] in path:
                    self._faults.remove(due)
                    return due[1]
        return None

    def is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def stalls(self) -> bool:
        """Whether to say nothing to this request; returns when nobody waits any more."""
        with self._lock:
            stalled, self._stalled = self._stalled > 0, max(0, self._stalled - 1)
        return stalled and self._ended.wait(30)

    def is_logged_out(self) -> bool:
        return self._logged_out

    def loses(self, method: str, path: str) -> bool:
        with self._lock:
            if method == "POST" and path in self._lost:
                self._lost.remove(path)
                return True
        return False


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that go away."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kfp: KfpServer

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.kfp.is_away() or self.kfp.stalls():
            self.close_connection = True
            return
        if self.kfp.is_logged_out():
            self._send(200, b"<html><body>Log in to Kubeflow</body></html>", "text/html; charset=utf-8")
            return
        path = f"/{path.removeprefix(self.kfp.prefix).lstrip('/')}"  # kfp makes two slashes behind a proxy
        self.kfp.requests.append((self.command, path))
        self.kfp.headers.append(dict(self.headers.items()))
        if fault := self.kfp.fault(self.command, path, self.headers.get("Authorization", "")):
            self._refuse(*fault)
            return
        try:
            document = self.kfp.answer(self.command, path, dict(urllib.parse.parse_qsl(query)), self._read(body))
        except Refused as refused:
            self._refuse(refused.status, str(refused), {})
            return
        if self.kfp.loses(self.command, path):
            self.close_connection = True
            return
        self._send(200, json.dumps(document).encode(), "application/json")

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def _read(self, body: bytes) -> Any:
        kind = self.headers.get("Content-Type", "")
        if kind.startswith("multipart/form-data"):
            parser = email.parser.BytesParser(policy=email.policy.HTTP)
            (part,) = parser.parsebytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body).iter_parts()
            if part.get_param("name", header="content-disposition") != "uploadfile":
                raise Refused(400, "Failed to read pipeline from file")
            return part.get_payload(decode=True)
        return json.loads(body) if body else {}

    def _refuse(self, status: int, message: str, headers: dict[str, str]) -> None:
        document = {"error": message, "code": 2, "message": message, "details": []}
        self._send(status, json.dumps(document).encode(), "application/json", headers)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)


def _identity(kind: str) -> str:
    names = {"recurringruns": "recurring_run_id", "versions": "pipeline_version_id"}
    return names.get(kind, f"{kind.removesuffix('s')}_id")


def _plural(kind: str) -> str:
    return {"recurringruns": "recurringRuns", "versions": "pipeline_versions"}.get(kind, kind)


def _matches(document: Document, query: dict[str, str]) -> bool:
    for name in ("experiment_id", "pipeline_id", "namespace"):
        if query.get(name) and document.get(name, query[name]) != query[name]:
            return False
    predicates = json.loads(query["filter"])["predicates"] if query.get("filter") else []
    return all(document[one["key"]] == one["stringValue"] for one in predicates if one["operation"] == 1)


def _require_pipeline(spec: Document) -> None:
    try:
        pipeline = json_format.ParseDict(spec["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(spec.get("platform_spec", {}), pipeline_spec_pb2.PlatformSpec())
    except (KeyError, json_format.ParseError) as error:
        raise Refused(400, f"Failed to parse the pipeline: {error}") from error
    if not pipeline.root.dag.tasks:
        raise Refused(400, "the pipeline has no tasks")


def _require_inputs(body: Document) -> None:
    given = body.get("runtime_config", {}).get("parameters", {})
    known = body["pipeline_spec"]["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
    if strange := sorted(given.keys() - known.keys()):
        raise Refused(400, f"parameter {strange[0]} is not defined")
    if len(json.dumps(given)) > 10_000:
        raise Refused(400, "The input parameter length exceed maximum size of 10000.")
