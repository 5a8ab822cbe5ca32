"""Says in one line what Kubeflow Pipelines refused, or why it does not answer, and what to do."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from google.auth.exceptions import GoogleAuthError, TransportError
from kfp_server_api.exceptions import ApiException
from requests.exceptions import ConnectionError as NoConnectionError
from requests.exceptions import RequestException, Timeout
from urllib3.exceptions import HTTPError, NameResolutionError, SSLError

from fededge.errors import KubeflowError

_LENGTH = 300  # characters of an answer that a line shows
_BUSY = (429, 500, 502, 503, 504)
# Kubeflow says 500, too, when a manifest is wrong and when Kubernetes refuses it. Of a database that is away its driver
# says "invalid connection".
_FOR_GOOD = re.compile(r"\b(invalid(?! connection)|forbidden|not allowed|denied|too (large|long))\b", re.IGNORECASE)
_EXPIRED = "the token or the session has expired, or there is none"
_LOG_IN = "pass a fresh --token or --cookies, or --token-file, which is read anew for each request"
CLUSTER = "Kubeflow Pipelines of the cluster"  # in place of a host, where none was given
PORT_FORWARD = (
    "`kubectl port-forward --namespace kubeflow service/ml-pipeline 8888:8888`, then --host http://localhost:8888"
)


@contextlib.contextmanager
def translated(host: str) -> Iterator[None]:
    """Turn every error of kfp's client and of what is below it into a `KubeflowError`.

    Args:
      host: named in the message.
    """
    try:
        yield
    except ApiException as error:
        raise _refusal(error, host) from error
    except HTTPError as error:
        raise _no_answer(error, host) from error
    except (TransportError, NoConnectionError, Timeout) as error:
        raise KubeflowError(f"Google does not answer for {host}: {_line(error)}", passes=True) from error
    except (GoogleAuthError, RequestException) as error:
        raise KubeflowError(f"Google gives no token for {host}: {_line(error)}", 401) from error
    except OSError as error:  # the file with the token
        raise KubeflowError(f"the token cannot be read: {error}", 401) from error
    except ValueError as error:  # what kfp says itself
        raise KubeflowError(f"Kubeflow's client refuses it: {_line(error)}", 400) from error


def login_page(host: str) -> KubeflowError:
    """Return what to say where a page for people comes instead of an answer."""
    return KubeflowError(
        f"{host} answers with a web page: {_EXPIRED}: {_LOG_IN}; or the URL is not that of Kubeflow Pipelines, which "
        "on a whole Kubeflow ends in /pipeline",
        401,
    )


def _refusal(error: ApiException, host: str) -> KubeflowError:
    status, said = int(error.status or 0), _message(error)
    shown = _line(said)
    match status:
        case 401:
            return KubeflowError(f"{host} refuses the login (401): {_EXPIRED}: {_LOG_IN}", 401)
        case 403:
            remedy = "ask for the right in that namespace (contributor on Kubeflow), or pass another --namespace"
            return KubeflowError(f"{host} does not allow it (403): {shown}; {remedy}", 403)
        case status if status in _BUSY and not (status == 500 and _FOR_GOOD.search(said)):
            after = _seconds((error.headers or {}).get("Retry-After", ""))
            line = f"{host} does not do its part ({status}): {shown}; try again later, or look at its pods"
            return KubeflowError(line, status, passes=True, retry_after=after)
    return KubeflowError(f"Kubeflow refuses it ({status}): {shown}", status)


def _message(error: ApiException) -> str:
    """Return what an answer says, without the server's stack."""
    body = error.body.decode(errors="replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        document: Any = json.loads(body)
    except ValueError:
        document = None
    said = document if isinstance(document, dict) else {}
    text = said.get("message") or said.get("error_message") or said.get("error") or ""
    if not text and not body.lstrip().startswith("<"):
        text = body
    return str(text or error.reason or "no reason given")


def _no_answer(error: HTTPError, host: str) -> KubeflowError:
    cause = getattr(error, "reason", None) or error
    if isinstance(cause, SSLError) or "CERTIFICATE" in str(cause):
        return KubeflowError(
            f"{host} has a certificate that is not trusted: pass its authority's with --ca-cert, or --no-verify-ssl "
            f"({_line(cause)})"
        )
    if host.startswith(CLUSTER):
        line = f"{host} does not answer: check `kubectl cluster-info`, or pass --host ({_line(cause)})"
    elif isinstance(cause, NameResolutionError):
        line = f"there is no host {host}: look at --host"
    else:
        line = f"{host} does not answer: look at --host, or forward its port: {PORT_FORWARD} ({_line(cause)})"
    return KubeflowError(line, passes=True)


def _line(what: object) -> str:
    text = re.sub(r"\s+", " ", str(what)).strip()
    return text if len(text) <= _LENGTH else f"{text[:_LENGTH]}…"


def _seconds(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,4}", text) else 0.0
