"""Downloads one file over HTTP, and goes on where an earlier attempt was cut off."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, MaxRetryError, NameResolutionError

from fededge.errors import SetupError

# Told the bytes that are here and, where it is known, those that there are.
Watch = Callable[[int, int | None], None]

_TIMEOUT = urllib3.Timeout(connect=10, read=30)  # seconds without an answer, or without progress
_RETRIES = urllib3.Retry(
    connect=2,
    read=2,
    status=3,
    redirect=5,
    other=1,  # as a certificate that is not trusted
    backoff_factor=0.3,
    status_forcelist=(429, 500, 502, 503, 504),
    raise_on_status=False,
    respect_retry_after_header=False,  # it may say hours
)
_BREAKS = 4  # broken connections one after the other that bring nothing new
_PAUSE = 0.3  # seconds after a broken connection, and twice that after the next
_CHUNK = 1 << 16


class _OtherFileError(Exception):
    """What is here is longer than the server's file, or the server does not go on where it was asked to."""


def open_pool(url: str) -> urllib3.PoolManager:
    """Make the connections to a server; a context.

    They trust what this machine trusts, and certifi's authorities, and go through the proxy that the environment names.
    """
    trusted = ssl.create_default_context()
    trusted.load_verify_locations(certifi.where())
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if proxy:
        return urllib3.ProxyManager(proxy, ssl_context=trusted, timeout=_TIMEOUT, retries=_RETRIES)
    return urllib3.PoolManager(ssl_context=trusted, timeout=_TIMEOUT, retries=_RETRIES)


def download(pool: urllib3.PoolManager, url: str, partial: Path, watch: Watch) -> None:
    """Download a file; what `partial` already has of it is not fetched again.

    Whether the bytes are right is not known here: the server may have another file by now.

    Args:
      partial: grows with each byte that arrives, and stays when the download is cut off.

    Raises:
      FileNotFoundError: the server has no such file.
      SetupError: the server is out of reach, or fails.
      OSError: the file cannot be written.
    """
    most, breaks = _size(partial), 0
    while True:
        try:
            _go_on(pool, url, partial, watch)
        except _OtherFileError:
            os.truncate(partial, 0)
        except HTTPError as error:
            breaks = 0 if _size(partial) > most else breaks + 1
            most = max(most, _size(partial))
            if breaks >= _BREAKS or isinstance(error, MaxRetryError):
                raise SetupError(f"{url}: {_cause(error)}") from error
            time.sleep(_PAUSE * 2**breaks)
        else:
            return


def _go_on(pool: urllib3.PoolManager, url: str, partial: Path, watch: Watch) -> None:
    here = _size(partial)
    # Packed for the way, the bytes would not be those that are counted.
    headers = {"Accept-Encoding": "identity", "User-Agent": "fededge", **({"Range": f"bytes={here}-"} if here else {})}
    with contextlib.closing(pool.request("GET", url, headers=headers, preload_content=False)) as response:
        start = _start(response, url, here)
        if start is None:
            return
        with partial.open("ab") as file:
            file.truncate(start)
            _append(response, file, start, watch)


def _start(response: BaseHTTPResponse, url: str, here: int) -> int | None:
    """Tell where in the file the bytes of an answer belong; None if nothing is missing.

    Raises:
      FileNotFoundError: the server has no such file.
      SetupError: it answers with something else.
      _OtherFileError: what is here cannot be of its file.
    """
    part = response.headers.get("Content-Range", "")
    match response.status:
        case 403 | 404 | 410:  # S3 says 403 for what is not there
            raise FileNotFoundError(f"{url} answers {response.status}")
        case 200:
            return 0
        case 206 if part.startswith(f"bytes {here}-"):
            return here
        case 416 if part == f"bytes */{here}":
            return None
        case 206 | 416 if here:
            raise _OtherFileError
    raise SetupError(f"{url} answers {response.status}")


def _append(response: BaseHTTPResponse, file: BinaryIO, here: int, watch: Watch) -> None:
    length = response.headers.get("Content-Length", "")
    total = here + int(length) if length.isdecimal() else None
    watch(here, total)
    for piece in response.stream(_CHUNK, decode_content=False):
        file.write(piece)
        file.flush()
        here += len(piece)
        watch(here, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _cause(error: HTTPError) -> str:
    cause = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(cause, NameResolutionError):
        return "there is no such host, or this machine is offline"
    return f"the connection fails ({cause})"
