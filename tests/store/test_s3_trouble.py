"""S3 servers that are away, that refuse, that fail and that are none: one clear line each, and no secret in it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import socketserver
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from minio import Minio

from fededge.errors import (
    ConflictError,
    ExistsError,
    FedEdgeError,
    InputError,
    NotFoundError,
    SetupError,
    StoreUnavailableError,
    TooLargeError,
)
from fededge.store import Store, open_store
from fededge.store.s3 import S3Store
from tests.store import ceph
from tests.store.line import Cable, Fault, Handler, Line, in_order, serving

SECRET = "A-Secret/that+nobody=sees"
XML_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'

Attempt = Callable[[Store], object]
ATTEMPTS: dict[str, Attempt] = {
    "check": lambda store: store.check(),
    "get": lambda store: store.get("a/key"),
    "create": lambda store: store.create("a/key", b"1" * 100_000),
    "replace": lambda store: store.replace("a/key", b"2", "0" * 32),
    "delete": lambda store: store.delete("a/key"),
    "keys": lambda store: store.keys("a/"),
}


@pytest.fixture
def settings(no_s3: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Let every library log all it can, and see that no signature is in it."""
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "urllib3")  # the client of Kubernetes sets a level of its own
    yield
    records = caplog.get_records("call")
    assert records
    _nothing_secret("\n".join(record.getMessage() for record in records))


def _troubles(url: str, attempts: dict[str, Attempt] = ATTEMPTS) -> list[str]:
    """Make all attempts, each on a store of its own and at the same time; return what each raises."""
    with ThreadPoolExecutor(len(attempts)) as pool:
        return list(pool.map(lambda attempt: _trouble(url, attempt), attempts.values()))


def _trouble(url: str, attempt: Attempt) -> str:
    with pytest.raises(StoreUnavailableError) as caught:
        attempt(open_store(url))
    return _clear_line(caught.value)


def _clear_line(error: FedEdgeError) -> str:
    text = str(error)
    assert len(text.splitlines()) == 1
    assert len(text) < 300
    _nothing_secret("".join(traceback.format_exception(error)))
    return text


def _nothing_secret(text: str) -> None:
    assert SECRET not in text
    assert not re.search(r"Signature[=:]", text)


@pytest.mark.s3
def test_names_of_our_own_go_before_those_of_aws(s3_tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the tasks of a pipeline, where those of AWS are for others."""
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "CA_BUNDLE"):
        monkeypatch.setenv(f"FEDEDGE_AWS_{name}", os.environ[f"AWS_{name}"])
        monkeypatch.setenv(f"AWS_{name}", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "elsewhere-1")
    monkeypatch.setenv("FEDEDGE_AWS_REGION", "us-east-1")
    store = open_store(s3_tls)
    store.create("a/key", b"1")
    assert store.get("a/key").data == b"1"
    monkeypatch.delenv("FEDEDGE_AWS_CA_BUNDLE")
    monkeypatch.setenv("AWS_CA_BUNDLE", "what Kubeflow trusts")
    with pytest.raises(StoreUnavailableError, match="certificate that is not trusted"):
        open_store(s3_tls, hurried=True).get("a/key")


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("value", [None, "", " \n"])
def test_a_missing_variable(settings: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None) -> None:
    monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    with pytest.raises(SetupError) as caught:
        open_store("s3://bucket/store")
    text = _clear_line(caught.value)
    assert text.startswith(f"{name} is not set")
    assert "ConfigMap or the Secret `fededge`" in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000"),
        ("AWS_ENDPOINT_URL", "ftp://localhost"),
        ("AWS_ENDPOINT_URL", "https://"),
        ("AWS_ENDPOINT_URL", "http://localhost/path"),
        ("AWS_ENDPOINT_URL", "http://localhost:99999"),
        ("AWS_ENDPOINT_URL", "http://localhost:http"),
        ("AWS_ENDPOINT_URL", "http://local host"),
        ("AWS_ENDPOINT_URL", f"http://me:{SECRET.replace('/', '')}@localhost"),
        ("AWS_REGION", "no region"),
    ],
)
def test_a_wrong_variable(settings: None, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError, match=name) as caught:
        open_store("s3://bucket/store")
    assert SECRET.replace("/", "") not in _clear_line(caught.value)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///store", "s3://B/store", "s3://no_bucket!/x", "s3://127.0.0.1/x", "s3://bucket/../x"]
)
def test_a_url_that_names_no_bucket(settings: None, url: str) -> None:
    with pytest.raises(InputError, match=re.escape(url)) as caught:
        open_store(url)
    _clear_line(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_wrong_ca_bundle(
    settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    bundle = tmp_path / "authority.pem"
    if content is not None:
        bundle.write_bytes(content)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    with pytest.raises(SetupError, match=f"AWS_CA_BUNDLE: {re.escape(str(bundle))}") as caught:
        open_store("s3://bucket/store")
    _clear_line(caught.value)


def test_the_url_names_the_store_and_nothing_else(settings: None) -> None:
    assert open_store("s3://bucket").url == "s3://bucket"
    assert open_store("s3://bucket/").url == "s3://bucket"
    assert open_store("s3://bucket/a/b/").url == "s3://bucket/a/b"


def test_an_endpoint_where_nobody_listens(
    settings: None, logged: None, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for text in _troubles("s3://bucket/store"):
            assert text.startswith(f"the S3 server {endpoint} does not answer (Connection refused)")


def test_an_endpoint_that_is_away_is_waited_for_half_a_minute_but_in_a_check(
    settings: None, waits: list[float]
) -> None:
    for name, attempt in ATTEMPTS.items():
        waits.clear()
        _trouble("s3://bucket/store", attempt)
        assert (3 < sum(waits) < 6) if name == "check" else (30 < sum(waits) < 40)


def test_a_person_is_not_kept_waiting(settings: None, waits: list[float]) -> None:
    with pytest.raises(StoreUnavailableError):
        open_store("s3://bucket/store", hurried=True).keys("a/")
    assert 3 < sum(waits) < 6


def test_not_all_come_back_at_once(settings: None, waits: list[float]) -> None:
    for _ in range(5):
        _trouble("s3://bucket/store", ATTEMPTS["get"])
    assert len(set(waits)) == len(waits)


@pytest.mark.s3
def test_a_wrong_secret(s3: str, logged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for text in _troubles(s3):
        assert "refuses the credentials (SignatureDoesNotMatch)" in text
        assert "AWS_SECRET_ACCESS_KEY" in text


@pytest.mark.s3
def test_an_unknown_key_id(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    for text in _troubles(s3):
        assert "refuses the credentials (InvalidAccessKeyId)" in text


@pytest.mark.s3
def test_credentials_with_a_line_feed_are_good(s3: str, monkeypatch: pytest.MonkeyPatch, server: ceph.S3Server) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{server.access_key}\n")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{server.secret_key}\n")
    open_store(s3).check()


@pytest.mark.s3
def test_a_missing_bucket(s3: str) -> None:
    for text in _troubles("s3://no-such-bucket/store"):
        assert "has no bucket no-such-bucket: make it" in text


@pytest.mark.s3
def test_a_bucket_of_somebody_else(s3: str, server: ceph.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("--access-key=another", f"--secret-key={SECRET}")
    server.admin("user", "create", "--uid=another", "--display-name=another", *keys)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for text in _troubles(s3):
        assert "denies these credentials the bucket fededge-tests (AccessDenied)" in text


@pytest.mark.s3
def test_a_bucket_without_quota_left(s3: str, server: ceph.S3Server) -> None:
    host = server.endpoint.removeprefix("http://")
    bucket = "small-bucket"
    Minio(host, server.access_key, server.secret_key, secure=False, region="us-east-1").make_bucket(bucket)
    server.admin("quota", "set", "--quota-scope=bucket", f"--bucket={bucket}", "--uid=tests", "--max-objects=0")
    server.admin("quota", "enable", "--quota-scope=bucket", f"--bucket={bucket}", "--uid=tests")
    text = _trouble(f"s3://{bucket}/store", ATTEMPTS["create"])
    assert "has no space or quota left (QuotaExceeded): free some" in text


@pytest.mark.s3
def test_a_certificate_of_an_unknown_authority(s3_tls: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE")
    for text in _troubles(s3_tls):
        assert "certificate that is not trusted (unable to get local issuer certificate): set AWS_CA_BUNDLE" in text


@pytest.mark.s3
def test_an_authority_that_signed_another_certificate(
    s3_tls: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ceph.make_certificate(tmp_path).authority))
    assert "is not trusted (" in _trouble(s3_tls, ATTEMPTS["get"])


@pytest.mark.s3
def test_https_and_http_mixed_up(
    s3_tls: str, server: ceph.S3Server, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    swapped = [
        server.endpoint.replace("http:", "https:"),
        server.tls_endpoint.replace("https:", "http:"),
    ]
    for endpoint in swapped:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert "AWS_ENDPOINT_URL" in _trouble(s3_tls, ATTEMPTS["get"])


def _http(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body.encode())}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", body]).encode()


def _s3_error(status: str, code: str) -> bytes:
    xml = f"{XML_HEAD}<Error><Code>{code}</Code><Message>Signature: {SECRET}</Message></Error>"
    return _http(status, xml, "Content-Type: application/xml")


GARBAGE = {
    "nothing": b"",
    "noise": b"\x00\xff" * 500,
    "a page": _http("200 OK", "<html>It works!</html>", "Content-Type: text/html"),
    "an empty answer": _http("200 OK"),
    "other XML": _http("200 OK", f"{XML_HEAD}<feed/>", "Content-Type: application/xml"),
    "broken XML": _http("404 Not Found", f"{XML_HEAD}<Error><Code>", "Content-Type: application/xml"),
    "no UTF-8": _http("404 Not Found", "", "Content-Type: application/xml").replace(b": 0", b": 2") + b"\xff\xfe",
    "a page that is not there": _http("404 Not Found", "<html>\nNo\n</html>", "Content-Type: text/html"),
    "a page for members": _http("401 Unauthorized", "<html>\nNo\n</html>", "Content-Type: text/html"),
    "a redirect": _http("301 Moved Permanently", "", "Location: http://127.0.0.1:9/elsewhere"),
    "an odd status": _http("418 I'm a teapot", "short and stout"),
    "half an answer": _http("404 Not Found", "half").replace(b": 4", b": 400"),
    "broken headers": b"HTTP/1.1 200 OK\r\nnonsense\r\n: :\r\nContent-Length: x\r\n\r\n",
    "an error of two lines": _s3_error("403 Forbidden", f"Two\nLines {SECRET}"),
    "an error of no code": _s3_error("400 Bad Request", ""),
    "always busy": _s3_error("503 Slow Down", "SlowDown"),
    "always broken": _http("502 Bad Gateway", "<html>nginx</html>", "Content-Type: text/html", "Retry-After: 900"),
    "no conditional writes": _s3_error("501 Not Implemented", "NotImplemented"),
    "another region": _s3_error("301 Moved Permanently", "PermanentRedirect"),
    "a wrong clock": _s3_error("403 Forbidden", "RequestTimeTooSkewed"),
}


def _answering(answer: bytes) -> contextlib.AbstractContextManager[str]:
    """Serve the same bytes, whatever the request."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while line := self.rfile.readline().strip().lower():
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.rfile.read(length)
            self.wfile.write(answer)

    return serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
def test_a_server_that_talks_nonsense(
    settings: None, logged: None, waits: list[float], monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    attempts = {name: attempt for name, attempt in ATTEMPTS.items() if name != "delete"}  # any 200 is good for that
    with _answering(answer) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for text in _troubles("s3://bucket/store", attempts):
            assert text.startswith(f"the S3 server {endpoint} ")
            assert ": " in text.removeprefix(f"the S3 server {endpoint} ")


@pytest.mark.parametrize("name", ["always busy", "always broken"])
def test_a_server_that_goes_on_failing_is_not_taken_for_another(
    settings: None, waits: list[float], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with _answering(GARBAGE[name]) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        for text in _troubles("s3://bucket/store"):
            assert text.startswith(f"the S3 server {endpoint} failed (")


def _forgetful() -> contextlib.AbstractContextManager[str]:
    """Serve a store that writes whatever the condition, as some servers do."""
    values: dict[str, bytes] = {}

    class Values(Handler):
        def put(self) -> None:
            values[self.path.partition("?")[0]] = self.body()
            self.answer(200, b"", {"ETag": '"1"'})

        def get(self) -> None:
            self.answer(200, values[self.path.partition("?")[0]], {"ETag": '"1"'})

        def delete(self) -> None:
            del values[self.path.partition("?")[0]]
            self.answer(204, b"", {})

        do_PUT, do_GET, do_DELETE = put, get, delete  # noqa: N815

    return serving(ThreadingHTTPServer(("127.0.0.1", 0), Values))


def test_a_server_that_ignores_conditions_is_found_out(settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with _forgetful() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        text = _trouble("s3://bucket/store", ATTEMPTS["check"])
    assert "ignores If-None-Match or If-Match" in text


@pytest.mark.s3
def test_a_server_whose_two_clocks_differ_is_found_out(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Store, "now", lambda store: datetime.now(UTC) + timedelta(minutes=2))
    assert "dates its answers and its objects by two clocks (" in _trouble(s3, ATTEMPTS["check"])
    assert open_store(s3).keys("") == []


def test_a_value_whose_length_is_not_told_is_read_up_to_a_limit(
    settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n'
    with _answering(head + b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n") as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = open_store("s3://bucket/store")
        assert store.get("a/key", 6).data == b"abcdef"
        for limit in (0, 3, 5):
            with pytest.raises(TooLargeError):
                store.get("a/key", limit)


def test_an_upload_that_stalled_is_sent_again(
    settings: None, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with _answering(_s3_error("400 Bad Request", "RequestTimeout")) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert "does not answer (TimeoutError)" in _trouble("s3://bucket/store", ATTEMPTS["create"])
    assert len(waits) > 5


@pytest.mark.s3
def test_a_write_whose_answer_was_lost_is_no_error(s3: str, line: Line, logged: None) -> None:
    store = open_store(s3)
    line.plan = in_order(*[Fault.LOST_ANSWER] * 2)
    store.create("a/key", b"1" * 100_000)
    tag = store.get("a/key").tag
    line.plan = in_order(*[Fault.LOST_ANSWER] * 2)
    store.replace("a/key", b"2" * 100_000, tag)
    assert store.get("a/key").data == b"2" * 100_000
    line.plan = in_order(Fault.LOST_ANSWER)
    with pytest.raises(ExistsError):
        store.create("a/key", b"3")
    line.plan = in_order(Fault.LOST_ANSWER)
    with pytest.raises(ConflictError):
        store.replace("a/key", b"3", tag)
    line.plan = in_order(Fault.LOST_ANSWER)
    store.delete("a/key")
    line.plan = in_order(Fault.LOST_ANSWER)
    with pytest.raises(NotFoundError):
        store.get("a/key")
    assert line.injected == {Fault.LOST_ANSWER: 8}


@pytest.mark.s3
@pytest.mark.parametrize("limit", [None, 1_000_000])
def test_a_value_whose_reading_broke_off_is_read_again(s3: str, line: Line, limit: int | None) -> None:
    store = open_store(s3)
    store.create("a/key", b"1" * 1_000_000)
    line.plan = in_order(*[Fault.RESET_DOWNLOAD] * 2)
    assert store.get("a/key", limit).data == b"1" * 1_000_000
    line.plan = in_order(*[Fault.RESET_DOWNLOAD] * 2)
    assert store.keys("a/") == ["a/key"]
    assert line.injected == {Fault.RESET_DOWNLOAD: 4}


@pytest.mark.s3
def test_a_server_that_is_busy_is_asked_again(s3: str, line: Line) -> None:
    line.plan = in_order(*[Fault.BUSY] * 2)
    store = open_store(s3)
    store.check()
    line.plan = in_order(*[Fault.BUSY] * 2)
    store.create("a/key", b"1")
    line.plan = in_order(*[Fault.BUSY] * 2)
    assert store.keys("a/") == ["a/key"]
    assert line.injected == {Fault.BUSY: 6}


@pytest.mark.s3
def test_a_slow_upload_that_goes_on_is_not_given_up(s3: str, line: Line) -> None:
    line.slow = True
    store = open_store(s3)
    store.create("a/key", b"1" * 30_000_000)
    assert store.get("a/key").data == b"1" * 30_000_000


@pytest.mark.s3
def test_tls_that_is_cut_off_is_no_refusal(s3_tls: str, server: ceph.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    cable = Cable(server.tls_endpoint)
    with cable.open() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint.replace("http:", "https:"))
        cable.cuts = [0, 100]  # before anything of the handshake, and within it
        open_store(s3_tls).create("a/key", b"1" * 1_000_000)
        for attempt in (lambda store: store.get("a/key").data, lambda store: store.get("a/key", 1_000_000).data):
            cable.cuts = [100, 600_000]
            assert attempt(open_store(s3_tls)) == b"1" * 1_000_000
        cable.cuts = [0, 100]
        assert open_store(s3_tls).keys("a/") == ["a/key"]
    assert cable.cut == 8
