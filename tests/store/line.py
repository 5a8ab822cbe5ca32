"""A line to the real S3 server on which things go wrong, as they do between a device and a data centre."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_PASSED_ON = ("ETag", "Content-Type", "Content-Range", "Date", "Last-Modified")
_RESET = struct.pack("ii", 1, 0)  # with this linger, closing a socket sends a reset
_BUSY = (429, 500, 502, 503, 504)
_SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code></Error>'
_DELAY_SECONDS = 0.05
_AWAY_SECONDS = 0.6
_IN_A_ROW = 3  # more faults of one request would spend what a retry may


class Fault(StrEnum):
    DELAY = auto()
    BUSY = auto()  # an answer that asks to come back, in place of the server's
    RESET_UPLOAD = auto()  # when half of the value is sent
    LOST_ANSWER = auto()  # the server has done what it was asked for
    RESET_DOWNLOAD = auto()  # when half of the answer is sent
    RESTART = auto()  # every connection is reset, and new ones are refused for a while


EVERYWHERE = (Fault.DELAY, Fault.BUSY, Fault.LOST_ANSWER, Fault.RESTART)
OF_METHOD = {"PUT": (*EVERYWHERE, Fault.RESET_UPLOAD), "GET": (*EVERYWHERE, Fault.RESET_DOWNLOAD)}
Plan = Callable[[str, str], Fault | None]


def in_order(*faults: Fault) -> Plan:
    """Plan the faults for the next requests that they are possible on."""
    left = list(faults)

    def plan(method: str, path: str) -> Fault | None:
        return left.pop(0) if left and left[0] in OF_METHOD.get(method, EVERYWHERE) else None

    return plan


def at_random(seed: int, share: float, without: Fault | None = None) -> Plan:
    """Plan a fault for a share of the requests; with one client the same ones in each run."""
    rng = random.Random(seed)
    row: Counter[str] = Counter()

    def plan(method: str, path: str) -> Fault | None:
        what = path.partition("?")[0] if "X-Amz-Signature" in path else path  # each signature is another
        row[what] = row[what] + 1 if row[what] < _IN_A_ROW and rng.random() < share else 0
        faults = [fault for fault in OF_METHOD.get(method, EVERYWHERE) if fault is not without]
        return rng.choice(faults) if row[what] else None

    return plan


class Line:
    """Passes requests on to the server, but for those that `plan` has a fault for.

    Attributes:
      plan: is asked for each request, with its method and its path.
      requests: how many there were, with those that had a fault.
      injected: how many faults of each kind there were.
      answers: how many answers of each status the server gave.
      before: called with the number of each request, from 1, before it is passed on.
      slow: take a second for 7 MB of an upload.
    """

    def __init__(self, server: str) -> None:
        self.plan = in_order()
        self.injected: Counter[Fault] = Counter()
        self.answers: Counter[int] = Counter()
        self.before: Callable[[int], object] = lambda number: None
        self.slow = False
        self.requests = 0
        self._server = server.removeprefix("http://")
        self._open_lines: set[socket.socket] = set()
        self._planning = threading.Lock()
        self._restarting = threading.Lock()
        self._listener = self._listen(0)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        with self._restarting:
            self._hang_up()

    def restart(self) -> None:
        """Reset all connections and refuse new ones for a while."""
        with self._restarting:
            self._hang_up()
            time.sleep(_AWAY_SECONDS)
            self._listener = self._listen(self._port)

    def fault(self, method: str, path: str) -> Fault | None:
        with self._planning:
            self.requests += 1
            self.before(self.requests)
            fault = self.plan(method, path)
            self.injected.update([fault] if fault else [])
        return fault

    def begin(self, method: str, path: str, headers: dict[str, str]) -> http.client.HTTPConnection:
        """Send the head of a request to the server."""
        connection = http.client.HTTPConnection(self._server, timeout=60)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection

    def _listen(self, port: int) -> ThreadingHTTPServer:
        line = self

        class Listener(ThreadingHTTPServer):
            def process_request(self, request: socket.socket, client_address: object) -> None:
                line._open_lines.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request: socket.socket) -> None:
                line._open_lines.discard(request)
                super().shutdown_request(request)

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing of connections that were reset, as was meant."""

        listener = Listener(("127.0.0.1", port), _handler(self))
        self._port = listener.server_address[1]
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        return listener

    def _hang_up(self) -> None:
        self._listener.shutdown()
        self._listener.server_close()
        for connection in list(self._open_lines):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def length(self) -> int:
        return int(self.headers.get("Content-Length", "0"))

    def body(self) -> bytes:
        return self.rfile.read(self.length())

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.start(status, len(body), headers)
        self.wfile.write(body)

    def start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def reset(self) -> None:
        """Break the connection off so that the client gets an error, not an end."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.rfile.close()
        self.connection.close()


def _handler(line: Line) -> type[Handler]:
    class Forwarding(Handler):
        def forward(self) -> None:
            fault = line.fault(self.command, self.path)
            if fault is Fault.RESET_UPLOAD:
                self.lose_half()
            elif fault is Fault.BUSY:
                self.body()
                self.answer(_BUSY[line.injected[fault] % len(_BUSY)], _SLOW_DOWN, {"Content-Type": "application/xml"})
            elif fault is Fault.RESTART:
                line.restart()
            else:
                self.pass_on(fault)

        do_GET = do_PUT = do_DELETE = forward  # noqa: N815

        def pass_on(self, fault: Fault | None) -> None:
            if fault is Fault.DELAY:
                time.sleep(_DELAY_SECONDS)
            body = self.slow_body() if line.slow else self.body()
            with contextlib.closing(line.begin(self.command, self.path, dict(self.headers))) as server:
                server.send(body)
                answer = server.getresponse()
                data = answer.read()
            line.answers[answer.status] += 1
            kept = {name: value for name, value in answer.getheaders() if name in _PASSED_ON}
            if fault is Fault.LOST_ANSWER:
                self.reset()
            elif fault is Fault.RESET_DOWNLOAD:
                self.start(answer.status, len(data), kept)
                self.wfile.write(data[: len(data) // 2])
                self.reset()
            else:
                self.answer(answer.status, data, kept)

        def lose_half(self) -> None:
            half = self.rfile.read(self.length() // 2)
            with contextlib.closing(line.begin(self.command, self.path, dict(self.headers))) as server:
                server.send(half)
                server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.reset()

        def slow_body(self) -> bytes:
            blocks = []
            for start in range(0, self.length(), 1_000_000):
                time.sleep(0.15)
                blocks.append(self.rfile.read(min(1_000_000, self.length() - start)))
            return b"".join(blocks)

    return Forwarding


@contextlib.contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Cable:
    """Passes bytes on, also those of TLS, but for the first connections, which it cuts.

    Attributes:
      cuts: for each of the next connections, the number of bytes from the server after which it is cut.
      cut: how many were.
    """

    def __init__(self, server: str) -> None:
        self.cuts: list[int] = []
        self.cut = 0
        host, _, port = server.rpartition("//")[2].partition(":")
        self._server = (host, int(port))

    def open(self) -> contextlib.AbstractContextManager[str]:
        cable = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with socket.create_connection(cable._server) as server:
                    threading.Thread(target=_pump, args=(self.request, server), daemon=True).start()
                    if cable.cuts:
                        _pump(server, self.request, cable.cuts.pop(0))
                        cable.cut += 1
                    else:
                        _pump(server, self.request)

        return serving(_Cables(("127.0.0.1", 0), Connection))


class _Cables(socketserver.ThreadingTCPServer):
    daemon_threads = True


def _pump(source: socket.socket, to: socket.socket, limit: int | None = None) -> None:
    """Pass bytes on until there are no more, or as many as the limit; then say that there are no more."""
    with contextlib.suppress(OSError):
        while limit != 0 and (data := source.recv(min(limit or 65536, 65536))):
            to.sendall(data)
            limit = None if limit is None else limit - len(data)
    for end in (source, to):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
