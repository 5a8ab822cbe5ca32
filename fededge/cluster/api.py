"""The way to the API server: logs in, asks again while it is away, and says in one line what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay
from tenacity.wait import wait_exponential_jitter

from fededge.errors import ClusterError, SetupError

T = TypeVar("T")
Document = dict[str, Any]

ACCESS = "manifests/base/access.yaml"
_GRANTED_BY = {  # what a namespace's own role does not, by scope or API group
    "at the cluster scope": "manifests/components/devices",
    "machinelearning.seldon.io": "manifests/components/seldon",
    "serving.kserve.io": "manifests/components/kserve",
}
PATIENCE = 120.0  # seconds; an API server that is upgraded is away for about one minute
HURRY = 10.0  # seconds, for who waits at a keyboard
PAGE = 500  # objects, as kubectl asks for

_TIMEOUT = (5, 60)  # seconds to connect, and without a byte of the answer
BUSY = frozenset((0, 408, 429, 500, 502, 503, 504))  # 0 is no answer
_GONE = 410
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CONNECTION = re.compile(r"^HTTPS?Connection\([^)]*\): ")
_DENIED = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\S+) resource "(?P<resource>[^"]*)" in API group "(?P<group>[^"]*)"'
)


class Cluster:
    """A cluster, and who we are on it.

    Attributes:
      core: its `CoreV1Api`; call what it has through `call`, which knows how to wait.
      batch: its `BatchV1Api`.
      custom: its `CustomObjectsApi`.
      namespace: where to work if nobody says.
      host: the URL of its API server.
    """

    def __init__(self, client: Any, namespace: str, patience: float, say: Callable[[str], None]) -> None:
        from kubernetes.client import BatchV1Api, CoreV1Api, CustomObjectsApi

        self.core = CoreV1Api(client)
        self.batch = BatchV1Api(client)
        self.custom = CustomObjectsApi(client)
        self.namespace = namespace
        self.host = str(client.configuration.host)
        self._client = client
        self._patience = patience
        self._say = say

    def call(self, function: Callable[..., T], *args: Any, verb: str, resource: str, **kwargs: Any) -> T:
        """Call a method of one of the APIs; again while the server is busy or away.

        A create whose answer was lost is sent again as well: whoever creates must take a 409 for "it may be mine".

        Args:
          function: such as `cluster.core.read_node`.
          args: for it.
          verb: what it does, in the words of Kubernetes' roles: get, list, watch, create, update, patch, delete.
          resource: with what, such as nodes or jobs.
          kwargs: for it.

        Returns:
          What the function returns.

        Raises:
          ClusterError: refused, or still no answer after the cluster's patience; its `status` says which.
        """
        kwargs.setdefault("_request_timeout", _TIMEOUT)
        return self._patiently(lambda: function(*args, **kwargs), verb, resource)

    def call_plain(self, function: Callable[..., Any], *args: Any, verb: str, resource: str, **kwargs: Any) -> Document:
        """Call as `call` does, and return the answer as plain JSON.

        The client's own classes refuse what an API server of another version has more of.
        """

        def call(**more: Any) -> Document:
            answer: Document = json.loads(function(*args, **kwargs, **more, _preload_content=False).data)
            return answer

        return self.call(call, verb=verb, resource=resource)

    def read_all(
        self,
        function: Callable[..., Any],
        *args: Any,
        resource: str,
        read: Callable[[Document], T],
        found: Callable[[int], None] = lambda _: None,
        **kwargs: Any,
    ) -> list[T]:
        """List all objects of a kind, page by page, and keep of each only what `read` returns.

        A list that changed too much while it was read (410) is read again from its beginning.

        Args:
          function: such as `cluster.core.list_node`.
          args: for it.
          resource: of what, such as nodes.
          read: gets each object as plain JSON: the client's own classes take some twenty times as long.
          found: is told how many there are so far, after each page.
          kwargs: for the function, such as `label_selector`.

        Raises:
          ClusterError: as in `call`.
        """
        for last in (False, False, True):
            try:
                pages = self._pages(function, args, resource, kwargs)
                return _collect(pages, read, found)
            except ClusterError as error:
                if error.status != _GONE or last:
                    raise
        raise AssertionError("not reached")

    @contextlib.contextmanager
    def translated(self, verb: str, resource: str) -> Iterator[None]:
        """Make a `ClusterError` of what the Kubernetes client raises, for what is not one call, such as a watch."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ApiException as error:
            if not error.status:  # how the client tells of TLS
                raise self._silent(HTTPError(error.reason)) from error
            raise self._refused(error, verb, resource) from error
        except HTTPError as error:
            raise self._silent(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pages(
        self, function: Callable[..., Any], args: tuple[Any, ...], resource: str, kwargs: Document
    ) -> Iterator[list[Document]]:
        kwargs = {"_request_timeout": _TIMEOUT, "limit": PAGE, **kwargs, "_preload_content": False}
        while True:
            # The answer is read within the call: a connection that drops in its middle is asked again, too.
            page = self._patiently(lambda: json.loads(function(*args, **kwargs).data), "list", resource)
            yield page.get("items") or []
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            kwargs["_continue"] = token

    def _patiently(self, call: Callable[[], T], verb: str, resource: str) -> T:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClusterError) and error.status in BUSY),
            wait=_wait,
            stop=stop_before_delay(self._patience),
            before_sleep=self._tell,
            reraise=True,
        )
        result: T = retrying(self._once, call, verb, resource)
        return result

    def _once(self, call: Callable[[], T], verb: str, resource: str) -> T:
        with self.translated(verb, resource):
            return call()

    def _tell(self, state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome:
            self._say(f"{state.outcome.exception()}; asking again for up to {self._patience:.0f} s")

    def _refused(self, error: Any, verb: str, resource: str) -> ClusterError:
        """Say what the API server answered, and what to do."""
        status, body = int(error.status), _status_of(error.body)
        reason = str(body.get("reason") or error.reason or "")
        message = " ".join(str(body.get("message") or error.reason or "").split())
        text = _remedy(status, reason, message, verb, resource)
        wait = _seconds((error.headers or {}).get("Retry-After"))
        return ClusterError(f"Kubernetes at {self.host} {text}", status, reason, message, wait)

    def _silent(self, error: Exception) -> ClusterError:
        from urllib3.exceptions import LocationParseError

        if "certificate verify failed" in str(error):
            text = "has a certificate that the kubeconfig does not trust: check its certificate-authority"
            return ClusterError(f"Kubernetes at {self.host} {text}", status=495, reason="Certificate")
        if isinstance(error, LocationParseError):
            return ClusterError(f"{self.host!r} is no address of an API server: check the kubeconfig", status=400)
        text = f"does not answer ({_short(error)}): check that it runs, and `kubectl cluster-info`"
        return ClusterError(f"Kubernetes at {self.host} {text}")


def connect(
    context: str = "",
    *,
    namespace: str = "",
    patience: float = PATIENCE,
    say: Callable[[str], None] = lambda _: None,
) -> Cluster:
    """Log in to a cluster as kubectl does: by the kubeconfig, or in a pod by its service account. Asks it nothing yet.

    Args:
      context: of the kubeconfig; empty for its current one.
      namespace: empty for the context's, or the pod's.
      patience: seconds for which to go on asking a server that is busy or away.
      say: gets one line when that begins.

    Raises:
      SetupError: there is no cluster to log in to, or no such context.
    """
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config.config_exception import ConfigException
    from yaml import YAMLError

    configuration = Configuration()
    configuration.retries = False  # we do that, and say so
    try:
        own = _load(configuration, context)
    except (ConfigException, YAMLError, OSError, TypeError, ValueError, KeyError, AttributeError) as error:
        text = f"the kubeconfig cannot be used ({_short(error)}): check it with `kubectl config view`"
        raise SetupError(text) from error
    return Cluster(ApiClient(configuration), namespace or own, patience, say)


def _load(configuration: Any, context: str) -> str:
    """Fill in where and who, and return the namespace."""
    from kubernetes.config import load_incluster_config
    from kubernetes.config.kube_config import KubeConfigLoader, KubeConfigMerger

    files = _kubeconfig()
    if not files and os.environ.get("KUBERNETES_SERVICE_HOST"):
        load_incluster_config(client_configuration=configuration)
        return _POD_NAMESPACE.read_text().strip()
    if not files:
        raise SetupError("no cluster: there is no kubeconfig, and this is no pod; set KUBECONFIG to the cluster's file")
    merger = KubeConfigMerger(files)
    _check_context(context, [str(entry["name"]) for entry in merger.config["contexts"].value])
    loader = KubeConfigLoader(
        merger.config, context or None, config_base_path=None, config_persister=merger.save_changes
    )
    loader.load_and_set(configuration)
    return str(loader.current_context["context"].get("namespace") or "default")


def _kubeconfig() -> str:
    """Name the kubeconfigs that exist: the client's own default is that of the moment when it was imported."""
    named = os.environ.get("KUBECONFIG") or "~/.kube/config"
    paths = (Path(path).expanduser() for path in named.split(os.pathsep) if path)
    return os.pathsep.join(str(path) for path in paths if path.is_file())


def _check_context(context: str, known: list[str]) -> None:
    if context and context not in known:
        raise SetupError(f"no context {context} in the kubeconfig; there are: {', '.join(sorted(known)) or 'none'}")


def _collect(pages: Iterator[list[Document]], read: Callable[[Document], T], found: Callable[[int], None]) -> list[T]:
    kept: list[T] = []
    for page in pages:
        kept += map(read, page)
        found(len(kept))
    return kept


_backoff = wait_exponential_jitter(multiplier=0.25, exp_base=2, max=15, jitter=1)


def _wait(state: RetryCallState) -> float:
    """Wait longer each time, with some chance in it, and at least what the server asked for."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ClusterError) else 0.0
    return max(asked, _backoff(state))


def _remedy(status: int, reason: str, message: str, verb: str, resource: str) -> str:
    if status == 401:
        return "refuses the login (401): the token or certificate is wrong or has expired; log in again"
    if status == 403:
        return _forbidden(message, verb, resource)
    if status == 404:
        return f"has no such {resource} (404): {message}"
    if status in BUSY:
        return f"cannot {verb} {resource} now ({status} {reason}): {message}"
    return f"refuses to {verb} {resource} ({status} {reason}): {message}"


def _forbidden(message: str, verb: str, resource: str) -> str:
    if denied := _DENIED.search(message):
        resource = denied["resource"] + (f".{denied['group']}" if denied["group"] else "")
        where = message[denied.end() :].strip() or "there"
        grants = _GRANTED_BY.get(where) or _GRANTED_BY.get(denied["group"], ACCESS)
        return f"does not let {denied['user']} {denied['verb']} {resource} {where} (403): {grants} grants it"
    if "exceeded quota" in message:
        return f"has no quota left to {verb} {resource} (403): {message}; remove what is done, or ask for more"
    return f"forbids to {verb} {resource} (403): {message}"


def _status_of(body: str | bytes | None) -> Document:
    """Read the `Status` that Kubernetes explains its refusals with; a proxy before it may send anything."""
    try:
        document = json.loads(body or "{}")
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() else 0.0


def _short(error: Exception) -> str:
    """Say what happened in one line, without the objects that urllib3 puts around it."""
    texts = [argument for argument in error.args if isinstance(argument, str)] or [str(error)]
    return _CONNECTION.sub("", " ".join(texts[-1].split())) or type(error).__name__
