"""Connecting to Kubeflow Pipelines: every way to log in, and what is said when it does not work."""

from __future__ import annotations

import inspect
import time
from pathlib import Path

import kfp
import pytest
import requests
import yaml
from google.auth.exceptions import GoogleAuthError, TransportError
from kfp.client import TokenCredentialsBase

from fededge.errors import InputError, KubeflowError, SetupError
from fededge.kubeflow.client import Kubeflow, connect
from fededge.kubeflow.login import Login, variable
from fededge.kubeflow.refusals import translated
from tests.kubeflow.conftest import Fededge
from tests.kubeflow.kfp_server import KfpServer
from tests.store.ceph import make_certificate


def test_a_token_is_sent_with_each_request(server: KfpServer) -> None:
    server.require("Bearer secret")
    kubeflow = connect(host=server.url, token="secret")
    assert not kubeflow.call(kubeflow.client.list_runs).runs


def test_a_token_in_a_file_may_change(server: KfpServer, tmp_path: Path) -> None:
    """As the kubelet does with one that it projects."""
    file = tmp_path / "token"
    file.write_text("first\n")
    server.require("Bearer first")
    kubeflow = connect(host=server.url, token_file=str(file))
    server.require("Bearer second")
    file.write_text("second\n")
    kubeflow.call(kubeflow.client.list_runs)


def test_credentials_of_ones_own(server: KfpServer) -> None:
    class Mine(TokenCredentialsBase):  # type: ignore[misc]
        def refresh_api_key_hook(self, config: object) -> None:
            config.api_key["authorization"] = "made"  # type: ignore[attr-defined]

    server.require("Bearer made")
    connect(host=server.url, credentials=Mine())


def test_cookies_of_a_session(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KF_PIPELINES_COOKIES", "oauth2_proxy_kubeflow=abc")
    kubeflow = connect(host=server.url)
    kubeflow.call(kubeflow.client.list_runs)
    assert server.headers[-1]["Cookie"] == "oauth2_proxy_kubeflow=abc"


def test_a_context_of_the_kubeconfig_goes_through_the_api_servers_proxy(server: KfpServer, tmp_path: Path) -> None:
    _write_kubeconfig(tmp_path, server.url)
    server.require("Bearer kube")
    server.prefix = "/api/v1/namespaces/kf/services/ml-pipeline:http/proxy/"
    connect(kube_context="there", kubeflow_namespace="kf")
    assert server.requests[-1][1] == "/apis/v2beta1/healthz"


def test_in_a_pod_the_projected_token_goes_to_the_clusters_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of a proxy, as the service's name means nothing here."""
    token = tmp_path / "token"
    token.write_text("projected")
    monkeypatch.setattr("kubernetes.config.load_incluster_config", lambda: None)
    monkeypatch.setattr("fededge.kubeflow.client._SERVICE_ACCOUNT", token)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    with KfpServer(multi_user=True) as server:
        server.require("Bearer projected")
        server.prefix = "http://ml-pipeline.kubeflow.svc.cluster.local:8888/"
        kubeflow = connect(proxy=server.url, namespace="my-team")
        assert kubeflow.namespace == "my-team"
        assert kubeflow.link("runs/details/1") == ""
        assert ("GET", "/apis/v2beta1/healthz") in server.requests


def test_a_context_goes_before_a_current_one_that_is_gone(server: KfpServer, tmp_path: Path) -> None:
    _write_kubeconfig(tmp_path, server.url, current="gone")
    server.prefix = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy/"
    connect(kube_context="there")


def test_a_context_that_is_not_in_the_kubeconfig(tmp_path: Path) -> None:
    _write_kubeconfig(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(SetupError, match=r"Pipelines is: no context nowhere in the kubeconfig; there are: there; or"):
        connect(kube_context="nowhere")


def test_a_kubeconfig_that_is_broken(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("[")
    with pytest.raises(SetupError, match=r"Pipelines is: the kubeconfig cannot be used \("):
        connect()


def test_who_gave_no_host_is_not_told_to_look_at_it(tmp_path: Path) -> None:
    _write_kubeconfig(tmp_path, "http://127.0.0.1:1")
    with pytest.raises(KubeflowError, match=r"cluster \(context there\) does not answer: check `kubectl cluster-info`"):
        connect(kube_context="there", patience_s=0.2)


def _write_kubeconfig(folder: Path, url: str, current: str = "there") -> None:
    document = {
        "apiVersion": "v1", "kind": "Config", "current-context": current,
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "kube"}}],
        "contexts": [{"name": "there", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (folder / "kubeconfig").write_text(yaml.safe_dump(document))


def test_nothing_says_where_kubeflow_is(
    fededge: Fededge, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert fededge("schedule", "list") == SetupError.exit_code
    error = capfd.readouterr().err
    assert error.startswith("error: nothing says where Kubeflow Pipelines is: no cluster: there is no kubeconfig")
    assert "set KUBECONFIG" in error
    assert "or pass --host" in error
    assert "kubectl port-forward --namespace kubeflow service/ml-pipeline 8888:8888" in error
    assert len(error.splitlines()) == 1


def test_a_host_that_does_not_answer_is_given_up_soon() -> None:
    began = time.monotonic()
    with pytest.raises(KubeflowError, match=r"http://127\.0\.0\.1:1 does not answer: look at --host, or forward"):
        connect(host="http://127.0.0.1:1", patience_s=0.2)
    assert time.monotonic() - began < 10


def test_an_expired_token_says_what_to_do(server: KfpServer, kubeflow: Kubeflow) -> None:
    server.require("Bearer newer")
    before = len(server.requests)
    with pytest.raises(KubeflowError, match=r"\(401\).*has expired.*--token-file, which is read anew") as caught:
        kubeflow.call(kubeflow.client.list_runs)
    assert caught.value.status == 401
    assert len(server.requests) == before + 1, "it is not asked again"


def test_a_session_that_has_expired_is_no_empty_answer(server: KfpServer, kubeflow: Kubeflow) -> None:
    """kfp takes the page to log in for a list without items."""
    server.log_out()
    assert kubeflow.client.list_runs().runs is None
    with pytest.raises(KubeflowError, match="answers with a web page: the token or the session has expired"):
        kubeflow.call(kubeflow.client.list_runs)
    with pytest.raises(KubeflowError, match="web page"):
        connect(host=server.url)


def test_forbidden_names_the_right_that_is_missing(server: KfpServer, kubeflow: Kubeflow) -> None:
    said = "User 'me' is not authorized with reason: no (request: &ResourceAttributes{Verb:list,Resource:runs})"
    server.fail(1, 403, message=said)
    with pytest.raises(KubeflowError, match=r"\(403\): User 'me' is not authorized.*Verb:list.*--namespace"):
        kubeflow.call(kubeflow.client.list_runs)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(server: KfpServer, kubeflow: Kubeflow, status: int) -> None:
    server.fail(3, status)
    assert kubeflow.call(kubeflow.client.list_runs).total_size == 0


def test_retry_after_is_kept_to(server: KfpServer, kubeflow: Kubeflow) -> None:
    server.fail(1, 429, retry_after=1)
    began = time.monotonic()
    kubeflow.call(kubeflow.client.list_runs)
    assert time.monotonic() - began >= 1


def test_an_api_that_is_away_comes_back(server: KfpServer) -> None:
    said: list[str] = []
    kubeflow = connect(host=server.url, say=said.append)
    server.go_away(1.0)
    assert kubeflow.call(kubeflow.client.list_runs).total_size == 0
    assert len(said) == 1
    assert "does not answer" in said[0]
    assert "asking again for 120 s" in said[0]


def test_a_server_that_says_nothing_is_asked_again(
    server: KfpServer, kubeflow: Kubeflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fededge.kubeflow.client._TIMEOUT_S", (5.0, 0.2))
    server.stall(2)
    began = time.monotonic()
    assert kubeflow.call(kubeflow.client.list_runs).total_size == 0
    assert time.monotonic() - began < 10
    server.stall(9)
    with pytest.raises(KubeflowError, match="does not answer"):
        connect(host=server.url, patience_s=0.3)


@pytest.mark.parametrize(
    "said",
    [
        'Failed to create a workflow for (fl-round-): Workflow.argoproj.io "fl-round-x" is invalid: spec.templates',
        'Failed to create a workflow for (fl-round-): admission webhook "policy" denied the request',
        'workflows.argoproj.io is forbidden: User "ml-pipeline" cannot create resource',
        "Failed to create a run due to error fetching manifest: Invalid input error: unknown template format",
        "etcdserver: request is too large",
    ],
)
def test_a_500_that_stays_is_not_asked_again(server: KfpServer, kubeflow: Kubeflow, said: str) -> None:
    server.fail(2, 500, message=said)
    with pytest.raises(KubeflowError, match=r"Kubeflow refuses it \(500\): ") as caught:
        kubeflow.call(kubeflow.client.list_runs)
    assert said in str(caught.value)
    with pytest.raises(KubeflowError):  # the second one
        kubeflow.call(kubeflow.client.list_runs)


def test_a_database_that_is_away_is_no_refusal(server: KfpServer, kubeflow: Kubeflow) -> None:
    server.fail(1, 500, message="Failed to list runs: InternalServerError: invalid connection")
    assert kubeflow.call(kubeflow.client.list_runs).total_size == 0


def test_google_that_does_not_answer_is_asked_again() -> None:
    for passing in (TransportError("away"), requests.ConnectionError("away"), requests.Timeout("slow")):
        with pytest.raises(KubeflowError, match="Google does not answer") as caught, translated("host"):
            raise passing
        assert caught.value.passes
    with pytest.raises(KubeflowError, match="gives no token") as caught, translated("host"):
        raise GoogleAuthError("revoked")
    assert not caught.value.passes


def test_a_token_of_googles_is_renewed(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """kfp asks for one when its client is made; it is good for an hour."""
    tokens = ["first"]
    monkeypatch.setattr("kfp.client.auth.get_auth_token", lambda *_: (tokens[-1], False))
    server.require("Bearer first")
    kubeflow = connect(host=server.url, client_id="the proxy's")
    server.require("Bearer second")
    with pytest.raises(KubeflowError, match=r"\(401\)"):
        kubeflow.call(kubeflow.client.list_runs)
    tokens.append("second")
    assert kubeflow.call(kubeflow.client.list_runs).total_size == 0


def test_an_api_that_stays_away_is_given_up(server: KfpServer) -> None:
    kubeflow = connect(host=server.url, patience_s=0.3)
    server.go_away(60)
    with pytest.raises(KubeflowError, match="does not answer"):
        kubeflow.call(kubeflow.client.list_runs)


def test_what_kubeflow_refuses_is_said_in_a_line(server: KfpServer, kubeflow: Kubeflow) -> None:
    with pytest.raises(KubeflowError, match=r"Kubeflow refuses it \(404\): runs nothing not found"):
        kubeflow.call(kubeflow.client.get_run, "nothing")


def test_many_users_need_a_namespace() -> None:
    with KfpServer(multi_user=True) as server:
        with pytest.raises(InputError, match="has a namespace for each user: pass yours with --namespace"):
            connect(host=server.url)
        assert connect(host=server.url, namespace="my-team").namespace == "my-team"


def test_a_namespace_where_there_is_one_for_everybody(server: KfpServer) -> None:
    with pytest.raises(InputError, match="has one namespace for everybody: leave out --namespace"):
        connect(host=server.url, namespace="my-team")


@pytest.mark.parametrize("name", Login.model_fields)
def test_every_option_has_a_variable(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "true").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable(name), "true")
    value = getattr(Login.of(), name)
    assert value is True or str(getattr(value, "get_secret_value", lambda: value)()) == "true"


def test_secrets_are_not_shown() -> None:
    login = Login.of(token="abc123", cookies="abc123", other_client_secret="abc123")
    assert "abc123" not in repr(login)
    with pytest.raises(InputError) as caught:
        Login.of(token=["abc123"])
    assert "abc123" not in str(caught.value)


@pytest.mark.parametrize("option", ["token_file", "ca_cert"])
def test_a_file_that_is_not_there(option: str) -> None:
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')} none: there is no such file"):
        Login.of(**{option: "none"})


def test_an_option_that_kfp_does_not_have() -> None:
    with pytest.raises(InputError, match="tokn: Extra inputs are not permitted"):
        connect(host="http://localhost", tokn="abc")


def test_every_argument_of_kfps_client_is_an_option() -> None:
    theirs = {"existing_token": "token", "ssl_ca_cert": "ca_cert"}
    for name in inspect.signature(kfp.Client.__init__).parameters:
        if name not in ("self", "credentials"):  # which are an object
            assert theirs.get(name, name) in Login.model_fields


def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    with KfpServer(certificate=(made.certificate, made.key)) as server:
        with pytest.raises(KubeflowError, match="certificate that is not trusted: pass its authority's with --ca-cert"):
            connect(host=server.url)
        connect(host=server.url, ca_cert=str(made.authority))
        connect(host=server.url, verify_ssl=False)
