"""The store in a bucket of an S3 server: one object a key.

A write carries S3's own condition, `If-None-Match: *` or `If-Match: <etag>`. The client library has no argument for
them, so values are read and written at presigned URLs, over the library's own connections. Such a URL holds a
signature: it never gets into a message, a traceback or a log.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import re
import ssl
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from io import BytesIO
from typing import Any, NamedTuple, Self
from xml.etree.ElementTree import ParseError

import certifi
import minio.time
import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import MinioException, S3Error
from urllib3 import BaseHTTPResponse, exceptions

from fededge.errors import (
    ConflictError,
    ExistsError,
    InputError,
    NotFoundError,
    SetupError,
    StoreUnavailableError,
    TooLargeError,
)
from fededge.store.port import Entry, Store, Tagged

_ENDPOINT = re.compile(r"(https?)://([\w.:\[\]-]+)")
_TIMEOUT = urllib3.Timeout(connect=2, read=30)  # seconds without an answer, or without progress
_BUSY = frozenset((408, 429, 500, 502, 503, 504))
# S3 answers 409 while another conditional write of the key is under way; who won is known a moment later.
_WRITE_BUSY = _BUSY | {409}
_URL_LIFE = timedelta(hours=1)  # bears the clock skew that S3 bears
_SKEW = timedelta(minutes=15)
_ONE_CLOCK = timedelta(minutes=1)  # what two clocks of one server may differ by
_CONNECTIONS = 32
_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

_CLUSTER = "on a cluster in the ConfigMap or the Secret `fededge` of manifests/base/store.yaml"
_CREDENTIALS = f"refuses the credentials ({{code}}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, {_CLUSTER}"
_DENIED = "denies these credentials the bucket {bucket} ({code}): let them get, put, delete and list its objects"
_FULL = "has no space or quota left ({code}): free some and run again; what was written is kept"
_REGION = "has the bucket {bucket} in another region ({code}): set AWS_REGION, and AWS_ENDPOINT_URL to match"
_CLOCK = "finds this machine's clock wrong ({code}): set it"
_CLOCKS = (
    "dates its answers and its objects by two clocks ({code}), and no deadline could be kept: set the clocks of the "
    "server and of the proxy before it"
)
_UNCONDITIONAL = (
    "ignores If-None-Match or If-Match ({code}), and runs would overwrite each other: use another, or a newer one"
)
_FAILED = "failed ({code}): run again later, and look into the server's own log"
_FOREIGN = "did not answer as S3 does ({code}): check that AWS_ENDPOINT_URL is the address of its S3 API"
_SILENT = "does not answer ({code}): check AWS_ENDPOINT_URL, also whether it is http or https, and that the server runs"
_UNTRUSTED = (
    "has a certificate that is not trusted ({code}): set AWS_CA_BUNDLE to the PEM file of its authority, "
    "and call it by the name in the certificate"
)
_REMEDIES: dict[str | int, str] = {
    "NoSuchBucket": "has no bucket {bucket}: make it, as with `aws s3 mb s3://{bucket}`, or choose another store",
    "InvalidAccessKeyId": _CREDENTIALS,
    "SignatureDoesNotMatch": _CREDENTIALS,
    "ExpiredToken": _CREDENTIALS,
    "InvalidToken": _CREDENTIALS,
    "AccessDenied": _DENIED,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "AuthorizationHeaderMalformed": _REGION,
    "PermanentRedirect": _REGION,
    "RequestTimeTooSkewed": _CLOCK,
    "NotImplemented": _UNCONDITIONAL,
    401: _CREDENTIALS,
    403: _DENIED,
    507: _FULL,
}


def _hides_signature(record: logging.LogRecord) -> bool:
    return "X-Amz-Signature" not in record.getMessage()


for _module in ("connection", "connectionpool", "poolmanager", "util.retry"):  # each logs the URLs it opens
    logging.getLogger(f"urllib3.{_module}").addFilter(_hides_signature)


class _Retry(urllib3.Retry):
    """Does not ask again where TLS was refused, as with a certificate that is not trusted."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Self:
        if isinstance(error, exceptions.SSLError) and not isinstance(error.args[0], _CUT_OFF):
            pool: Any = kwargs.get("_pool")
            raise exceptions.MaxRetryError(pool, url, error) from error
        return super().increment(method, url, response, error, *args, **kwargs)


# Waits 0, 0.5, 1, 2 … s, and some more at random, lest all devices come back at once: an endpoint that is away is given
# up after half a minute, or a whole one where packets vanish.
_PATIENT = _Retry(
    total=7,
    redirect=0,  # a signature is good for one host only
    status_forcelist=_BUSY,
    backoff_factor=0.25,
    backoff_jitter=1,
    respect_retry_after_header=False,
    raise_on_redirect=False,
    raise_on_status=False,
)
_HURRIED = _PATIENT.new(total=4, backoff_jitter=0.5)  # some 4 s, for who waits to be told that a setting is wrong


class _Way(NamedTuple):
    """A way to the server; `client` goes it too, with the same retries."""

    client: Minio
    http: urllib3.PoolManager
    retries: urllib3.Retry


class S3Store(Store):
    """Writes each value as one object, with one conditional PUT."""

    def __init__(self, endpoint: str, bucket: str, prefix: str, way: _Way, hurried: _Way) -> None:
        self._endpoint = endpoint
        self._bucket = bucket
        self._prefix = prefix
        self._folder = f"{prefix}/" if prefix else ""
        self._way = way
        self._hurried = hurried

    @classmethod
    def from_environment(cls, url: str, *, hurried: bool = False) -> S3Store:
        """Open `s3://bucket/prefix` with the variables that other S3 programs read; nothing is contacted yet.

        They are AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and where there is need
        AWS_SESSION_TOKEN, AWS_REGION and AWS_CA_BUNDLE (a PEM file: the only authorities that are trusted). Where
        FEDEDGE_AWS_ENDPOINT_URL is set, all have FEDEDGE_ before their names.

        Args:
          url: of the store.
          hurried: give a server that does not answer up after some 4 s, not half a minute.

        Raises:
          SetupError: a variable is missing or wrong.
          InputError: the URL names no bucket, or one that cannot be.
        """
        endpoint = _needed("AWS_ENDPOINT_URL").rstrip("/")
        context = _context(endpoint)
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        patient_way, hurried_way = (_way(endpoint, context, retries) for retries in (_PATIENT, _HURRIED))
        store = cls(endpoint, bucket, prefix.strip("/"), hurried_way if hurried else patient_way, hurried_way)
        try:
            store._presigned("GET", "check")
        except ValueError as error:
            raise InputError(f"{url}: a store is s3://bucket/prefix; {error}") from error
        return store

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._folder}".rstrip("/")

    def check(self) -> None:
        S3Store(self._endpoint, self._bucket, self._prefix, self._hurried, self._hurried)._try()

    def _try(self) -> None:
        key = f"check/{uuid.uuid4().hex}"
        self.create(key, b"first")
        try:
            if not self._keeps_conditions(key):
                raise self._trouble_with(_UNCONDITIONAL, "tried")
            dates = [entry.written_at for entry in self.entries("check/") if entry.key == key]
            if not dates:
                raise self._trouble_with(_FOREIGN, "a new object is not listed")
            if abs(self.now() - dates[0]) > _ONE_CLOCK:
                raise self._trouble_with(_CLOCKS, f"{dates[0]} is not now")
        finally:
            self.delete(key)

    def now(self) -> datetime:
        response, _ = self._send("GET", "now")  # any answer has a date, also that there is no such key
        code = None if response.status == 200 else _code(response)
        if response.status != 200 and code != "NoSuchKey":
            raise self._refusal(response, code)
        date = _date(response)
        if date is None:
            raise self._trouble_with(_FOREIGN, "no Date")
        return date

    def get(self, key: str, limit: int | None = None) -> Tagged:
        response, data = self._send("GET", key, limit=limit)
        if response.status != 200:
            code = _code(response)
            if code == "NoSuchKey":
                raise NotFoundError(f"no {key} in {self.url}")
            raise self._refusal(response, code)
        if data is None:
            raise TooLargeError(f"{key} in {self.url} has more than {limit} bytes")
        return Tagged(data, self._tag(response))

    def create(self, key: str, data: bytes) -> None:
        if not self._write(key, data, {"If-None-Match": "*"}):
            raise ExistsError(f"{key} is already in {self.url}")

    def replace(self, key: str, data: bytes, tag: str) -> None:
        if not self._write(key, data, {"If-Match": tag}):
            raise ConflictError(f"{key} in {self.url} has changed meanwhile")

    def delete(self, key: str) -> None:
        with self._trouble():
            self._way.client.remove_object(self._bucket, self._name(key))

    def entries(self, prefix: str) -> list[Entry]:
        with self._trouble():
            found = self._way.client.list_objects(self._bucket, prefix=self._name(prefix), recursive=True)
            return sorted(self._entry(item) for item in found)

    def sweep(self, older_than: timedelta) -> int:  # noqa: ARG002 - a PUT leaves all or nothing
        return 0

    def _name(self, key: str) -> str:
        return f"{self._folder}{key}"

    def _write(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        """Write if the condition holds, and say whether the key holds `data` now.

        A write whose answer was lost is sent again and then fails its own condition, hence the look at what is there.
        """
        response, _ = self._send("PUT", key, data, condition)
        if response.status == 200:
            self._tag(response)
            return True
        code = _code(response)
        if response.status not in (409, 412) and code != "NoSuchKey":
            raise self._refusal(response, code)
        try:
            return self.get(key, len(data)).data == data
        except (NotFoundError, TooLargeError):
            return False

    def _keeps_conditions(self, key: str) -> bool:
        """Say whether the server writes when it should and only then: some ignore the conditions."""
        tag = self.get(key).tag
        with contextlib.suppress(ExistsError):
            self.create(key, b"second")
            return False
        with contextlib.suppress(ConflictError):
            self.replace(key, b"third", tag)
            with contextlib.suppress(ConflictError):
                self.replace(key, b"fourth", tag)
                return False
            return True
        return False

    def _presigned(self, method: str, key: str) -> str:
        return self._way.client.get_presigned_url(method, self._bucket, self._name(key), expires=_URL_LIFE)

    def _send(
        self,
        method: str,
        key: str,
        data: bytes | None = None,
        condition: dict[str, str] | None = None,
        limit: int | None = None,
    ) -> tuple[BaseHTTPResponse, bytes | None]:
        """Return an answer and, if it has no more bytes than the limit, what is in it.

        The library asks again when the way to an answer's head is broken; here it is told of what breaks after that.
        """
        url = self._presigned(method, key)
        headers = (condition or {}) | _description(data)
        retries = self._way.retries.new(status_forcelist=_BUSY if data is None else _WRITE_BUSY)
        with self._trouble():
            while True:
                # Sent in blocks, as a file: the time limit is then on each block, not on all of a slow upload.
                body = None if data is None else BytesIO(data)
                response = self._way.http.urlopen(
                    method, url, body=body, headers=headers, retries=retries, preload_content=False
                )
                try:
                    return response, _content(response, limit)
                except exceptions.HTTPError as error:
                    retries = (response.retries or retries).increment(method, url, error=error)
                    retries.sleep()

    def _entry(self, item: Object) -> Entry:
        if item.object_name is None or item.size is None or item.last_modified is None:
            raise ValueError("an object without name, size or date")
        return Entry(item.object_name.removeprefix(self._folder), item.size, item.last_modified)

    def _tag(self, response: BaseHTTPResponse) -> str:
        tag = response.headers.get("ETag")
        if not tag:
            raise self._trouble_with(_FOREIGN, "no ETag")
        return tag.strip('"')  # Ceph compares what is sent with an etag without quotes; S3 takes both

    def _refusal(self, response: BaseHTTPResponse, code: str | None) -> StoreUnavailableError:
        status = response.status
        other = _FAILED if code or status >= 500 else _FOREIGN
        remedy = _REMEDIES.get(code or "") or _REMEDIES.get(status, other)
        date = _date(response)
        if remedy == _DENIED and date and abs(date - minio.time.utcnow()) > _SKEW:
            remedy = _CLOCK  # a URL that was signed by a clock far behind is denied as one that has expired
        return self._trouble_with(remedy, code if code and code.isalnum() else f"HTTP {status}")

    def _trouble_with(self, remedy: str, code: str) -> StoreUnavailableError:
        return StoreUnavailableError(f"the S3 server {self._endpoint} {remedy.format(bucket=self._bucket, code=code)}")

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        """Say in one line what is wrong with the server or the way to it.

        The causes are cut off: their texts have several lines, and signatures.
        """
        try:
            yield
        except S3Error as error:
            raise self._refusal(error.response, error.code) from None
        except exceptions.HTTPError as error:
            raise self._trouble_with(*_broken(error)) from None
        except (MinioException, ParseError, ValueError):
            raise self._trouble_with(_FOREIGN, "no S3 document") from None


def _description(data: bytes | None) -> dict[str, str]:
    if data is None:
        return {}
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return {"Content-Length": str(len(data)), "Content-MD5": base64.b64encode(digest).decode()}


def _content(response: BaseHTTPResponse, limit: int | None) -> bytes | None:
    """Read a value, or nothing of one that has more bytes than the limit."""
    if response.status != 200:
        response.read(cache_content=True)  # for `_code`
        if response.status == 400 and _code(response) == "RequestTimeout":  # S3's word for an upload that stalled
            raise exceptions.TimeoutError
        return b""
    if limit is None:
        return response.read()
    if (response.length_remaining or 0) <= limit and len(data := response.read(limit + 1)) <= limit:
        return data
    response.close()  # what is left is not worth reading for the connection's sake
    return None


def _broken(error: exceptions.HTTPError) -> tuple[str, str]:
    """Return the remedy and, in a few words, what broke a connection."""
    cause: BaseException = error.reason or error if isinstance(error, exceptions.MaxRetryError) else error
    nested = [argument for argument in cause.args if isinstance(argument, Exception)]
    root = cause.__cause__ or (nested[-1] if nested else cause)
    if isinstance(root, ssl.SSLCertVerificationError):
        return _UNTRUSTED, root.verify_message
    if isinstance(root, exceptions.ResponseError):
        return _FAILED, str(root)
    return _SILENT, getattr(root, "strerror", None) or type(root).__name__


def _date(response: BaseHTTPResponse) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers.get("Date", "")).astimezone(UTC)
    except ValueError:
        return None


def _code(response: BaseHTTPResponse) -> str | None:
    """Return S3's own code of an error, if the answer has one."""
    try:
        return S3Error.fromxml(response).code
    except (ParseError, ValueError):
        return None


def _setting(name: str) -> str:
    """Read a variable of AWS, by its name or by our own for it.

    In Kubeflow's tasks they have ours, and those of AWS are about another server: never some of both.
    """
    own = "FEDEDGE_" if os.environ.get("FEDEDGE_AWS_ENDPOINT_URL") else ""
    return os.environ.get(f"{own}{name}", "").strip()  # a Secret made from a file ends in a line feed


def _needed(name: str) -> str:
    value = _setting(name)
    if not value:
        raise SetupError(f"{name} is not set, and a store in S3 needs it: set it, {_CLUSTER}")
    return value


def _context(endpoint: str) -> ssl.SSLContext | None:
    if not endpoint.startswith("https://"):
        return None
    bundle = _setting("AWS_CA_BUNDLE") or certifi.where()
    try:
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:
        raise SetupError(f"AWS_CA_BUNDLE: {bundle} is no readable PEM file of certificates") from error


def _way(endpoint: str, context: ssl.SSLContext | None, retries: urllib3.Retry) -> _Way:
    # The client takes the page of a gateway that fails for a foreign server; it must not see it.
    failing = retries.new(raise_on_status=True)
    http = urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=_TIMEOUT, retries=failing, ssl_context=context)
    return _Way(_client(endpoint, http), http, retries)


def _client(endpoint: str, http: urllib3.PoolManager) -> Minio:
    match = _ENDPOINT.fullmatch(endpoint)
    if not match:
        raise SetupError("AWS_ENDPOINT_URL must look like http://10.0.0.5:9000 or https://s3.example.org")
    try:
        return Minio(
            match[2],
            access_key=_needed("AWS_ACCESS_KEY_ID"),
            secret_key=_needed("AWS_SECRET_ACCESS_KEY"),
            session_token=_setting("AWS_SESSION_TOKEN") or None,
            secure=match[1] == "https",
            region=_setting("AWS_REGION") or "us-east-1",
            http_client=http,
        )
    except ValueError as error:
        raise SetupError(f"AWS_ENDPOINT_URL or AWS_REGION is wrong: {error}") from error
