from __future__ import annotations

import json
from typing import Any

import pytest

import fededge
from fededge.errors import InputError
from fededge.rollout.kserve import KServe
from fededge.rollout.platform import Split
from fededge.settings import Deployment
from fededge.steps.deploy_model import deploy_model
from fededge.store import Store, keys
from fededge.store.trainings import TrainingStore
from tests.cluster.api_server import ApiServer
from tests.rollout.operators import Operator
from tests.steps.round import refused
from tests.trainings import make_training, publish_round

NAME = "digits"


@pytest.fixture
def trainings(store: Store) -> TrainingStore:
    """v1 to v3, and v2-b1, which is current and has accuracy 0.2."""
    return make_training(store, NAME)


@pytest.fixture
def operator(api_server: ApiServer, kubeconfig: object) -> Any:
    operator = Operator(api_server)
    with operator.running():
        yield operator


def deploy(store: Store, version: str = "current", **deployment: Any) -> str:
    return deploy_model(store.url, NAME, version, {"timeout_s": 20.0, "soak_s": 0.0, **deployment}, {})


def served(api_server: ApiServer, name: str = NAME) -> Split:
    return KServe().split(api_server.get("inferenceservices", name))


def container(api_server: ApiServer) -> dict[str, Any]:
    predictor = api_server.get("inferenceservices", NAME)["spec"]["predictor"]
    found: dict[str, Any] = predictor["containers"][0]
    return found


def test_current_is_looked_up_and_pinned(
    store: Store, trainings: TrainingStore, api_server: ApiServer, operator: Operator
) -> None:
    assert deploy(store) == "promoted"
    server = container(api_server)
    assert server["args"] == ["--training", NAME, "--version", "v2-b1", "--name", NAME]
    assert server["image"] == f"fededge-serving-tensorflow:{fededge.__version__}"
    assert server["env"][0] == {"name": "FEDEDGE_STORE", "value": store.url}
    assert deploy(store) == "unchanged"
    publish_round(trainings)
    ours = "registry.example.org/ours@sha256:0"
    assert deploy(store, serving_tensorflow_image=ours, serving_image="not this") == "promoted"
    assert served(api_server) == Split("v3-b1")
    assert container(api_server)["image"] == ours


def test_step_by_step(store: Store, trainings: TrainingStore, api_server: ApiServer, operator: Operator) -> None:
    assert deploy(store, "v2", action="canary") == "promoted"  # the first has no other beside it
    assert deploy(store, "v3", action="canary", traffic=30.0) == "canary"
    assert served(api_server) == Split("v2", "v3", 30)
    assert deploy(store, "v3", action="promote") == "promoted"
    assert deploy(store, "v2", action="canary") == "canary"
    assert deploy(store, "", action="rollback") == "rolled back"
    assert served(api_server) == Split("v3")


def test_a_service_of_another_name_and_platform(
    store: Store, trainings: TrainingStore, api_server: ApiServer, operator: Operator
) -> None:
    assert deploy(store, platform="seldon", name="reader", replicas=2.0) == "promoted"
    (predictor,) = api_server.get("seldondeployments", "reader")["spec"]["predictors"]
    assert (predictor["name"], predictor["replicas"]) == ("v2-b1", 2)
    assert predictor["graph"]["name"] == predictor["componentSpecs"][0]["spec"]["containers"][0]["name"] == "reader"


def test_a_version_below_the_bar_is_not_put_up(
    store: Store, trainings: TrainingStore, api_server: ApiServer, operator: Operator, capsys: Any
) -> None:
    with refused(capsys, 2, "digits v2-b1 has accuracy 0.2, and the bar is accuracy>=0.9"):
        deploy(store, bar="accuracy>=0.9")
    with refused(capsys, 2, "bar='rmse<=2'", "has measured accuracy, loss"):
        deploy(store, bar="rmse<=2")
    assert api_server.requests == []
    assert deploy(store, bar="loss<=0.8") == "promoted"


def test_what_a_server_could_not_serve_is_not_put_up(
    store: Store, trainings: TrainingStore, api_server: ApiServer, kubeconfig: object, capsys: Any
) -> None:
    with refused(capsys, 2, "digits v0 was made by no round"):
        deploy(store, "v0")
    with refused(capsys, 4, "has no version v9"):
        deploy(store, "v9")
    blob = keys.blob(trainings.version("v3").model)
    store.replace(blob, b"other bytes", store.get(blob).tag)
    with refused(capsys, 4, "is damaged"):
        deploy(store, "v3")
    assert api_server.requests == []


def test_faults_of_the_cluster_are_one_line(
    store: Store, trainings: TrainingStore, api_server: ApiServer, operator: Operator, capsys: Any
) -> None:
    operator.broken.add("v2-b1")
    with refused(capsys, 10, "v2-b1 of InferenceService digits is not ready after 1 s"):
        deploy(store, timeout_s=1.0)
    api_server.forbid("create", "inferenceservices")
    with refused(capsys, 6, "create inferenceservices", "manifests/components/kserve grants it"):
        deploy(store)
    api_server.kept.resources = [one for one in api_server.kept.resources if one.plural != "inferenceservices"]
    with refused(capsys, 3, "the cluster has no InferenceServices"):
        deploy(store)


def test_no_cluster(store: Store, trainings: TrainingStore, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with refused(capsys, 3, "no cluster"):
        deploy(store)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"platform": "triton"}, "'seldon' or 'kserve'"),
        ({"action": "undo"}, "action='undo'"),
        ({"name": "Digits"}, "name='Digits'"),
        ({"traffic": 0}, "traffic=0"),
        ({"serving_image": ""}, "serving_image=''"),
        ({"bar": "accuracy>0.9"}, "bar='accuracy>0.9'"),
        ({"timeout_s": 0}, "timeout_s=0"),
    ],
)
def test_bad_input(wrong: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        Deployment.parse(**wrong)


def test_each_line_of_the_log_has_the_run_and_the_round(
    store: Store, trainings: TrainingStore, operator: Operator, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("FEDEDGE_LOG", "json")
    monkeypatch.setenv("FEDEDGE_RUN", "7e4a")
    deploy(store, "v3", traffic=100)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["run"] for line in lines} == {"run 7e4a"}
    known = next(index for index, line in enumerate(lines) if "round" in line)
    assert {(line["round"], line["version"]) for line in lines[known:]} == {(3, "v3")}
    assert lines[-1]["kind"] == "finished"
