"""A real HTTP server with ranges, whose connections can be cut and whose answers can be wrong."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


class Server(ThreadingHTTPServer):
    """Serves `files`.

    Attributes:
      files: content by path, which begins with a slash.
      asked: the path and the Range of each request, in their order.
      ranges: whether a Range is obeyed.
      cuts: after how many bytes of the answer each next connection is cut; None for not.
      failures: the statuses of the next answers.
      pace: seconds between pieces of 1,000 bytes.
      length: whether answers say how long they are.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.ranges = True
        self.cuts: list[int] = []
        self.failures: list[int] = []
        self.pace = 0.0
        self.length = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, wanted = unquote(self.path), self.headers.get("Range", "")
        self.server.asked.append((path, wanted))
        if self.server.failures:
            self._answer(self.server.failures.pop(0), b"busy")
        elif path not in self.server.files:
            self._answer(HTTPStatus.NOT_FOUND, b"no such file")
        elif (match := re.fullmatch(r"bytes=(\d+)-", wanted)) and self.server.ranges:
            self._part(self.server.files[path], int(match[1]))
        else:
            self._answer(HTTPStatus.OK, self.server.files[path])

    def _part(self, content: bytes, start: int) -> None:
        if start >= len(content):
            self._answer(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", f"bytes */{len(content)}")
        else:
            part = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self._answer(HTTPStatus.PARTIAL_CONTENT, content[start:], part)

    def _answer(self, status: int, content: bytes, part: str = "") -> None:
        self.send_response(status)
        if part:
            self.send_header("Content-Range", part)
        if self.server.length:
            self.send_header("Content-Length", str(len(content)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts and status < HTTPStatus.BAD_REQUEST else len(content)
        for start in range(0, cut, 1000):
            self.wfile.write(content[start : min(start + 1000, cut)])
            time.sleep(self.server.pace)
        if cut < len(content):
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
