"""What FedEdge says to Kubeflow Pipelines, and what the tests' server answers, held against KFP's own Swagger."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fededge import client
from fededge.client import Goal, Kubeflow
from fededge.errors import KubeflowError
from fededge.kubeflow import EXPERIMENT, runs
from fededge.store.folder import FolderStore
from tests.kubeflow.kfp_server import Document, KfpServer
from tests.prism import prism_proxy
from tests.trainings import begin_training, publish_round


@pytest.fixture(scope="module")
def swagger(contracts: Path) -> Path:
    return contracts / "kfp" / "kfp_api_single_file.swagger.json"


@pytest.fixture(scope="module")
def checked(swagger: Path) -> Iterator[tuple[KfpServer, str]]:
    """The server, and the URL of what checks each request and each answer before it lets them through."""
    with KfpServer() as server, prism_proxy(swagger, server.url) as url:
        yield server, url


@pytest.fixture
def strict(checked: tuple[KfpServer, str]) -> Kubeflow:
    return client.connect(host=checked[1], token="a token, which the Swagger asks for", patience_s=0.5)


def test_runs(checked: tuple[KfpServer, str], strict: Kubeflow) -> None:
    server = checked[0]
    run = client.submit(strict, "fl_round", {"training": "digits", "clients": 4}, run_name="checked")
    server.tell(run.id, state="RUNNING")
    server.add_task(run.id, "distribute-model", "FAILED", "no store")
    threading.Timer(0.2, server.end_run, (run.id, "FAILED", "no store")).start()
    seen = list(client.watch(strict, run.id, poll_s=0.05))
    assert (seen[-1].state, seen[-1].error) == ("FAILED", "no store; distribute-model: no store")
    assert runs.find(strict, "checked", runs.experiment_id(strict, EXPERIMENT))[0].id == run.id
    assert client.stop(strict, client.submit(strict, "fl_round").id).state == "CANCELED"


def test_recurring_runs(strict: Kubeflow) -> None:
    with client.package("fl_round") as package:
        client.schedule(strict, package, {"training": "digits"}, "nightly", "0 2 * * *")
        made = client.schedule(strict, package, {"training": "digits"}, "nightly", "1h", replace=True)
    assert not client.pause(strict, "nightly").enabled
    assert client.resume(strict, "nightly").enabled
    assert [one.id for one in client.schedules(strict)] == [made.id]
    client.delete(strict, "nightly")
    assert client.schedules(strict) == []


def test_uploads(strict: Kubeflow) -> None:
    with client.package("fl_round") as package:
        assert [client.upload(strict, package, "fl_round").new for _ in range(2)] == [True, False]


def test_a_training(
    checked: tuple[KfpServer, str], strict: Kubeflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, trainings = checked[0], begin_training(FolderStore(tmp_path / "store"), "digits")

    def work(run: Document) -> None:
        publish_round(trainings)
        server.end_run(run["run_id"])

    monkeypatch.setattr(server, "work", work)  # the server is the module's
    news = list(client.train(strict, "digits", Goal(rounds=2), trainings.store.url, poll_s=0.05))
    assert news[-1].because == "rounds"


def test_every_call_of_the_api_that_is_made_was_checked(checked: tuple[KfpServer, str], swagger: Path) -> None:
    """Those that the other tests of FedEdge make are among those made here, by method and path."""
    made = {(method, _template(path, swagger)) for method, path in checked[0].requests}
    assert made == {
        ("GET", "healthz"),
        ("GET", "experiments"),
        ("POST", "experiments"),
        ("GET", "runs"),
        ("POST", "runs"),
        ("GET", "runs/{run_id}"),
        ("POST", "runs/{run_id}:terminate"),
        ("GET", "recurringruns"),
        ("POST", "recurringruns"),
        ("POST", "recurringruns/{recurring_run_id}:disable"),
        ("POST", "recurringruns/{recurring_run_id}:enable"),
        ("DELETE", "recurringruns/{recurring_run_id}"),
        ("GET", "pipelines"),
        ("POST", "pipelines"),
        ("GET", "pipelines/{pipeline_id}/versions"),
        ("POST", "pipelines/upload_version"),
    }


def _template(path: str, swagger: Path) -> str:
    """Find the path of the Swagger that a path is one of."""
    parts = path.replace(":", "/:").split("/")
    for known in sorted(json.loads(swagger.read_text())["paths"], key=lambda known: known.count("{")):
        template = known.replace(":", "/:").split("/")
        if len(parts) == len(template) and all(
            ours == theirs or theirs.startswith("{") for ours, theirs in zip(parts, template, strict=True)
        ):
            return str(known).removeprefix("/apis/v2beta1/")
    return path


def test_a_wrong_body_is_noticed(checked: tuple[KfpServer, str], strict: Kubeflow) -> None:
    """A number where JSON of the API has an int64 as a string, as kfp itself sends it if it is given one."""
    with client.package("fl_round") as package, pytest.raises(KubeflowError, match=r"\(422\)"):
        strict.call(
            strict.client.create_recurring_run,
            runs.experiment_id(strict, "fededge"), "wrong", cron_expression="0 0 2 * * *",
            pipeline_package_path=str(package.path), max_concurrency=1, no_catchup=True,
        )  # fmt: skip
    assert not any(made["display_name"] == "wrong" for made in checked[0].documents["recurringruns"].values())


def test_a_wrong_answer_is_noticed(checked: tuple[KfpServer, str], strict: Kubeflow) -> None:
    server, run = checked[0], client.submit(strict, "fl_round")
    server.tell(run.id, created_at=7)
    with pytest.raises(KubeflowError, match=r"\(500\)"):
        client.get(strict, run.id)


def test_a_login_without_a_token_is_noticed(checked: tuple[KfpServer, str]) -> None:
    with pytest.raises(KubeflowError, match=r"\(401\)"):
        client.connect(host=checked[1])
