"""Talks to one server: logs in, asks again while it is busy, and says in one line what it refuses."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from pydantic import TypeAdapter, ValidationError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay
from tenacity.wait import wait_exponential_jitter
from urllib3.exceptions import HTTPError

from fededge.errors import RegistryError, SetupError
from fededge.registry.credentials import Credentials

T = TypeVar("T")
Say = Callable[[str], None]

PATIENCE = 60.0  # seconds for which a server may be busy or away

_TIMEOUT = urllib3.Timeout(connect=5, read=60)  # seconds without an answer
_BUSY = frozenset((0, 408, 429, 500, 502, 503, 504))  # 0 is no answer
_NEVER = 495  # nginx's number for a certificate that does not do; waiting does not make it better
_backoff = wait_exponential_jitter(multiplier=0.5, max=10, jitter=0.5)


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
      server: URL, for messages.
      headers: by name, of any case.
    """

    server: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def read(self, kind: TypeAdapter[T]) -> T:
        """Parse the body.

        Raises:
          RegistryError: it is something else.
        """
        try:
            return kind.validate_json(self.body or b"null")
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            text = f"does not speak the API that was expected ({where}: {first['msg']}): check its address"
            raise RegistryError(f"{self.server} {text}", self.status) from error

    def reason(self) -> str:
        """Return what an error says of itself, on one line."""
        try:
            found = [str(each.get("message") or each["code"]) for each in json.loads(self.body)["errors"]]
        except (ValueError, LookupError, TypeError, AttributeError):
            found = []
        return " ".join("; ".join(found).split()) or f"HTTP status {self.status}"


@dataclass(frozen=True)
class Server:
    """A server, and who we are to it.

    Attributes:
      url: what all paths are below.
      credentials: sent with each request; none to send none.
      ca: a PEM file: the only authorities that are trusted; none for those that this machine trusts, and certifi's.
      patience: seconds for which it may be busy or away.
      say: is told once when it is.
    """

    url: str
    credentials: Credentials | None = None
    ca: Path | None = None
    patience: float = PATIENCE
    say: Say = field(default=lambda _: None, repr=False)
    _pools: dict[str, urllib3.PoolManager] = field(default_factory=dict, repr=False, compare=False)

    def ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request, again while the server is busy.

        A request whose answer was lost is sent again as well: whoever creates must take a 409 for "it may be mine".

        Args:
          method: of HTTP.
          path: below the server's URL, quoted; or a whole URL, which gets the credentials too.
          query: parameters.
          body: sent as JSON.
          headers: more of them, which replace ours.

        Returns:
          The answer, whatever its status, but for one that means busy.

        Raises:
          RegistryError: still busy or away after the patience, or its certificate is not trusted.
        """
        url = path if "://" in path else self.url.rstrip("/") + path
        if query:
            url += f"?{urlencode(query)}"
        sent = {"Accept": "application/json", "User-Agent": "fededge", **self._login(), **(headers or {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, _BusyError)),
            wait=_wait,
            stop=stop_before_delay(self.patience),
            before_sleep=self._tell,
            reraise=True,
        )
        answer: Answer = retrying(self._once, method, url, data, sent)
        return answer

    def _login(self) -> dict[str, str]:
        if not self.credentials:
            return {}
        return urllib3.make_headers(basic_auth=f"{self.credentials.user}:{self.credentials.password}")

    def _once(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            # A redirection would carry the credentials to who knows where.
            response = self._pool(url).request(method, url, body=body, headers=headers, redirect=False, retries=False)
        except HTTPError as error:
            raise self._silent(error) from error
        answer = Answer(self.url, response.status, response.headers, response.data)
        if answer.status in _BUSY:
            raise _BusyError(f"{self.url} is busy: {answer.reason()}", answer.status, _seconds(answer.headers))
        if 300 <= answer.status < 400:
            where = urlsplit(answer.headers.get("Location", ""))
            raise RegistryError(f"{self.url} sends on to {where.scheme}://{where.netloc}: use that address", 300)
        return answer

    def _silent(self, error: HTTPError) -> RegistryError:
        if "CERTIFICATE_VERIFY_FAILED" in str(error) or "certificate verify failed" in str(error):
            text = "has a certificate that is not trusted: pass its authority's PEM file with --ca"
            return RegistryError(f"{self.url} {text}", _NEVER)
        if "WRONG_VERSION_NUMBER" in str(error) or "record layer failure" in str(error):
            return RegistryError(f"{self.url} does not speak TLS: pass --plain-http if that is meant", _NEVER)
        cause = " ".join(str(error).split()).rpartition(": ")[2]
        return _BusyError(f"{self.url} does not answer ({cause}): check its address, and that it runs", 0, 0.0)

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxy = "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")
        key = f"{parts.scheme} {proxy}"
        if key not in self._pools:
            context = _trusting(self.ca) if parts.scheme == "https" else None  # which takes a while
            made = (
                urllib3.ProxyManager(proxy, ssl_context=context, timeout=_TIMEOUT)
                if proxy
                else urllib3.PoolManager(ssl_context=context, timeout=_TIMEOUT)
            )
            self._pools[key] = made
        return self._pools[key]

    def _tell(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            self.say(f"{state.outcome.exception()}; asking again for up to {self.patience:.0f} s")


class _BusyError(RegistryError):
    """Worth another try."""

    def __init__(self, message: str, status: int, wait: float) -> None:
        super().__init__(message, status)
        self.wait = wait  # seconds for which it asked to be left alone


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(_backoff(state), error.wait if isinstance(error, _BusyError) else 0.0)


def _seconds(headers: Mapping[str, str]) -> float:
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() else 0.0


def _trusting(ca: Path | None) -> ssl.SSLContext:
    try:
        if ca:
            return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise SetupError(f"{ca} is no readable PEM file of certificates: pass an authority's with --ca") from error
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
