"""Connects to Kubeflow Pipelines.

What kfp's client does stays with it; around it are one kind of error, and patience with an API that is busy or away.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import kfp
from kfp.client import ServiceAccountTokenVolumeCredentials, TokenCredentialsBase
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter
from urllib3 import Retry

from fededge.cluster import api as cluster
from fededge.errors import InputError, KubeflowError, SetupError
from fededge.kubeflow.login import Login
from fededge.kubeflow.refusals import CLUSTER, PORT_FORWARD, login_page, translated

PATIENCE_S = 120.0  # an API server that is upgraded is back by then
_CONNECT_S = 5.0  # a person waits, and the host may be wrong
_TIMEOUT_S = (5.0, 60.0)  # to connect, and between two bytes of an answer
_SENDING_S = (60.0, 60.0)  # the first is also that of sending: a training has 200 KB
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")  # every pod's
_INVERSE_PROXY = re.compile(r"\S+\.googleusercontent\.com/?")  # of Google's hosted Kubeflow Pipelines
_PAGE = 100
_backoff = wait_exponential_jitter(multiplier=0.5, max=15, jitter=1)

_ALONE = threading.RLock()  # standard output and warnings are the process's

R = TypeVar("R")


class _Client(kfp.Client):  # type: ignore[misc]
    """kfp's client, but no request waits for ever, and asking again is left to us."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        api = self._healthz_api.api_client
        ask = api.request

        def request(*arguments: Any, _request_timeout: Any = None, **named: Any) -> Any:
            sends = named.get("body") or named.get("post_params")
            return ask(*arguments, _request_timeout=_request_timeout or (_SENDING_S if sends else _TIMEOUT_S), **named)

        api.request = request
        api.rest_client.pool_manager.connection_pool_kw["retries"] = Retry(
            connect=0, read=0, respect_retry_after_header=False
        )

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002
        """Ask once, also while this is being made; kfp asks five times and logs a traceback each time."""
        return self.healthzs.healthz_service_get_healthz(_request_timeout=_TIMEOUT_S)

    def take_login(self, other: _Client) -> None:
        """Go on with the token of another one."""
        self._existing_config.api_key.update(other._existing_config.api_key)

    def require_json(self, host: str) -> None:
        """Make sure that the API answers, and not a page to log in, which kfp reads as an empty answer."""
        answer = self.healthzs.healthz_service_get_healthz(_preload_content=False)
        answer.drain_conn()  # or it would stay open
        if "json" not in answer.headers.get("Content-Type", ""):
            raise login_page(host)


class Kubeflow:
    """Kubeflow Pipelines, connected.

    Attributes:
      client: kfp's own, for what has no name here.
      namespace: the user's; empty where there is one for everybody.
      host: as in messages.
    """

    def __init__(
        self,
        client: Any,
        namespace: str,
        host: str,
        pages: str = "",
        say: Callable[[str], None] | None = None,
        patience_s: float = PATIENCE_S,
        renew: Callable[[], None] | None = None,
    ) -> None:
        self.client = client
        self.namespace = namespace
        self.host = host
        self._pages = pages.rstrip("/")
        self._say = say
        self._patience_s = patience_s
        self._renew = renew

    def link(self, path: str) -> str:
        """Return the address of a page, such as `runs/details/…`; empty where only the API is known."""
        return f"{self._pages}/#/{path}" if self._pages else ""

    def call(self, function: Callable[..., R], *arguments: Any, **named: Any) -> R:
        """Call a function that asks Kubeflow; again while the API is busy or away, for some two minutes.

        Where the login can be renewed, one that is refused is, once.

        Raises:
          KubeflowError: it refuses, or does not answer for so long.
        """
        renew = self._renew

        def ask() -> R:
            with translated(self.host), _quiet():
                result = function(*arguments, **named)
                if _is_empty(result):
                    self.client.require_json(self.host)
                return result

        def once() -> R:
            nonlocal renew
            try:
                return ask()
            except KubeflowError as error:
                if error.status != 401 or not renew:
                    raise
            renew()
            renew = None
            return ask()

        return _patiently(once, self._patience_s, self._say)

    def create(self, make: Callable[[], R], find: Callable[[], R | None]) -> R:
        """Make something once, although the answer to a try may have been lost.

        Args:
          make: asks for it.
          find: returns what an earlier try has made, if it has.
        """
        tried = False

        def once() -> R:
            nonlocal tried
            if tried and (made := find()) is not None:
                return made
            tried = True
            return make()

        return self.call(once)

    def listed(self, function: Callable[..., Any], field: str, **named: Any) -> Iterator[Any]:
        """Walk through all pages of a list.

        Args:
          function: of kfp's client.
          field: of its answer, with the items.
          named: more arguments.
        """
        token = ""
        while True:
            page = self.call(function, page_token=token, page_size=_PAGE, **named)
            yield from getattr(page, field) or []
            token = page.next_page_token or ""
            if not token:
                return


def connect(
    login: Login | None = None,
    *,
    credentials: TokenCredentialsBase | None = None,
    say: Callable[[str], None] | None = None,
    patience_s: float = PATIENCE_S,
    **options: Any,
) -> Kubeflow:
    """Connect to Kubeflow Pipelines.

    Args:
      login: where and who; by default made of `options` and the environment.
      credentials: an object of kfp that makes tokens, where a file or a token will not do.
      say: told when the API has to be asked again.
      patience_s: seconds for which an API that is busy or away is asked again.
      options: fields of `Login`, such as `host="http://localhost:8888"`.

    Raises:
      KubeflowError: it does not answer, or refuses the login.
      SetupError: nothing says where it is.
      InputError: an option is wrong, or Kubeflow asks for a namespace, or has but one.
    """
    login = login or Login.of(**options)
    if not login.host:
        _require_cluster(login.kube_context)
    host = login.host or (f"{CLUSTER} (context {login.kube_context})" if login.kube_context else CLUSTER)

    def once() -> tuple[Any, bool]:
        with translated(host), _quiet():
            client = _Client(**_arguments(login, credentials))
            client.require_json(host)
            return client, bool(client.get_kfp_healthz().multi_user)

    def renew() -> None:
        with translated(host), _quiet():
            client.take_login(_Client(**_arguments(login, credentials)))

    client, many_users = _patiently(once, min(patience_s, _CONNECT_S), say)
    if login.namespace and not many_users:
        raise InputError(f"{host} has one namespace for everybody: leave out --namespace and KF_PIPELINES_NAMESPACE")
    namespace = login.namespace or client.get_user_namespace()
    if many_users and not namespace:
        raise InputError(
            f"{host} has a namespace for each user: pass yours with --namespace, as the dashboard shows it"
        )
    pages = login.ui_host or login.host
    return Kubeflow(client, namespace, host, pages, say, patience_s, renew if _is_googles(login) else None)


def _is_googles(login: Login) -> bool:
    """Whether kfp asks Google for a token: it does when it is made, and the token is good for an hour."""
    return not login.token.get_secret_value() and bool(login.client_id or _INVERSE_PROXY.fullmatch(login.host))


def _arguments(login: Login, credentials: TokenCredentialsBase | None) -> dict[str, Any]:
    if not credentials and login.token_file:
        credentials = ServiceAccountTokenVolumeCredentials(login.token_file)
    return {
        "host": login.host or None,
        "ui_host": login.ui_host or None,
        # To kfp this is also the user's, where it is another than its default: that one we pass with each call.
        "namespace": "kubeflow" if login.host else login.kubeflow_namespace,
        "existing_token": login.token.get_secret_value() or None,
        "cookies": login.cookies.get_secret_value() or None,
        "client_id": login.client_id or None,
        "other_client_id": login.other_client_id or None,
        "other_client_secret": login.other_client_secret.get_secret_value() or None,
        "proxy": login.proxy or None,
        "ssl_ca_cert": login.ca_cert or None,
        "verify_ssl": login.verify_ssl,
        "kube_context": login.kube_context or None,
        "credentials": credentials,
    }


def _require_cluster(context: str) -> None:
    """Make sure that there is a cluster to look in; kfp goes on without one and asks localhost."""
    if _SERVICE_ACCOUNT.exists() and not context:
        return
    try:
        cluster.connect(context).close()
    except SetupError as error:
        raise SetupError(
            f"nothing says where Kubeflow Pipelines is: {error}; or pass --host, set KF_PIPELINES_ENDPOINT, or forward "
            f"its port: {PORT_FORWARD}"
        ) from error


def _patiently(once: Callable[[], R], patience_s: float, say: Callable[[str], None] | None) -> R:
    def before_sleep(state: RetryCallState) -> None:
        if say and state.attempt_number == 1 and state.outcome:
            say(f"{state.outcome.exception()}; asking again for {patience_s:.0f} s")

    policy = Retrying(
        stop=stop_after_delay(patience_s),
        wait=_pause,
        retry=retry_if_exception(lambda error: isinstance(error, KubeflowError) and error.passes),
        before_sleep=before_sleep,
        reraise=True,
    )
    return policy(once)


def _pause(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return max(getattr(error, "retry_after", 0.0), _backoff(state))


def _is_empty(result: Any) -> bool:
    """Whether an answer has nothing in it: there is nothing, or it was no answer of the API."""
    fields = getattr(result, "openapi_types", None)
    return bool(fields) and all(getattr(result, name) is None for name in fields or ())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what kfp prints and warns of, and how often a server was asked that did not answer."""
    logger = logging.getLogger("urllib3.connectionpool")
    with _ALONE, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before, logger.disabled = logger.disabled, True  # kfp's client sets levels itself
        try:
            yield
        finally:
            logger.disabled = before
