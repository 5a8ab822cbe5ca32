"""`fededge train`: rounds one after the other, each a run of Kubeflow's that a fake ends as a real one would.

What a round puts into the store is made by the store's own code, as all steps do it, without training.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from fededge import __version__
from fededge.errors import InputError, KubeflowError, RunError, SetupError, StoreError
from fededge.kubeflow.client import Kubeflow, connect
from fededge.kubeflow.driver import News, train
from fededge.kubeflow.goal import Goal
from fededge.kubeflow.yaml_file import images
from fededge.records import Version
from fededge.store import keys
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.kubeflow.conftest import Fededge, interrupted
from tests.kubeflow.kfp_server import Document, KfpServer
from tests.trainings import begin_training, make_training, publish_round

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cluster(server: KfpServer, tmp_path: Path) -> TrainingStore:
    """A store in which each run of the server makes a version, with accuracy 0.1 more than the one before."""
    trainings = TrainingStore(FolderStore(tmp_path / "store"), "digits")
    server.work = lambda run: _round(server, trainings, run)
    return trainings


def _round(server: KfpServer, trainings: TrainingStore, run: Document) -> None:
    server.tell(run["run_id"], state="RUNNING")
    if not (trainings.store.keys("trainings/digits")):
        begin_training(trainings.store, "digits")
    publish_round(trainings)
    server.end_run(run["run_id"])


def _train(kubeflow: Kubeflow, trainings: TrainingStore, **goal: float) -> list[News]:
    return [*train(kubeflow, "digits", Goal.parse(**goal), trainings.store.url, {"clients": 3}, poll_s=0.02)]


def test_rounds_are_runs_until_there_are_enough(kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore) -> None:
    news = _train(kubeflow, cluster, rounds=3)
    assert [run["display_name"] for run in server.runs()] == ["digits v1", "digits v2", "digits v3"]
    inputs = [run["runtime_config"]["parameters"] for run in server.runs()]
    assert [given["base_version"] for given in inputs] == ["current", "v1", "v2"]
    assert all(given["clients"] == 3 and "store" not in given for given in inputs)
    assert [one.making for one in news if one.kind == "made"] == ["v1", "v2", "v3"]
    last = news[-1]
    assert (last.kind, last.because) == ("ended", "rounds")
    assert last.version
    assert last.version.version == cluster.version().version == "v3"


def test_the_target_ends_it(kubeflow: Kubeflow, cluster: TrainingStore) -> None:
    news = _train(kubeflow, cluster, rounds=9, target=0.2)
    assert (news[-1].because, cluster.version().round) == ("target", 2)


def test_started_again_it_goes_on_where_it_was(kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore) -> None:
    _train(kubeflow, cluster, rounds=1)
    _train(kubeflow, cluster, rounds=2)
    assert [run["display_name"] for run in server.runs()] == ["digits v1", "digits v2"]
    assert [one.kind for one in _train(kubeflow, cluster, rounds=2)] == ["ended"]


def test_a_driver_adopts_the_run_of_one_that_is_gone(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore
) -> None:
    work, server.work = server.work, None
    gone = train(kubeflow, "digits", Goal(rounds=1), cluster.store.url, poll_s=0.02)
    assert next(gone).kind == "submitted"
    gone.close()
    (run,) = server.runs()
    assert run["state"] == "PENDING", "whoever stops listening leaves it going"
    server.work = work
    threading.Timer(0.2, _round, (server, cluster, run)).start()
    news = _train(kubeflow, cluster, rounds=1)
    assert news[0].kind == "adopted"
    assert len(server.runs()) == 1


def test_of_two_drivers_at_once_one_run_is_left(server: KfpServer, cluster: TrainingStore) -> None:
    server.work = None
    drivers = [connect(host=server.url) for _ in range(3)]
    goal = Goal(rounds=1)
    begun: list[News] = []
    threads = [
        threading.Thread(
            target=lambda one=one: begun.append(next(train(one, "digits", goal, cluster.store.url, poll_s=0.02)))
        )
        for one in drivers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    going = [run["run_id"] for run in server.runs("digits v1") if run["state"] == "PENDING"]
    assert len(going) == 1
    assert {one.run.id for one in begun if one.run} == set(going)


def test_a_run_of_the_same_second_that_is_listed_later(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubeflow tells whole seconds, and lists a run only once its Workflow is there."""
    monkeypatch.setattr("fededge.kubeflow.driver._SETTLED_S", 0.6)

    def meanwhile(run: Document) -> None:
        time.sleep(0.2)
        server.documents["runs"]["0"] = {**run, "run_id": "0"}

    server.work = meanwhile
    news = next(train(kubeflow, "digits", Goal(rounds=1), cluster.store.url, poll_s=0.02))
    assert news.run
    assert (news.kind, news.run.id) == ("adopted", "0")
    assert {run["run_id"]: run["state"] for run in server.runs() if run["run_id"] != "0"}.popitem()[1] == "CANCELED"


def test_another_pipeline_with_digests_and_without_retries(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore
) -> None:
    server.work = lambda run: server.end_run(run["run_id"], "FAILED")
    digests = {f"fededge-tensorflow:{__version__}": f"sha256:{'0' * 64}"}
    news = train(
        kubeflow, "digits", Goal(rounds=1), cluster.store.url,
        pipeline="fl_round_job", digests=digests, retries=0, poll_s=0.02,
    )  # fmt: skip
    with pytest.raises(RunError, match="failed"):
        list(news)
    (run,) = server.runs()
    spec = run["pipeline_spec"]["pipeline_spec"]
    assert spec["pipelineInfo"]["name"] == "fl-round-job"
    assert images(spec) == [f"fededge-tensorflow@sha256:{'0' * 64}"]


def test_a_round_that_fails_is_tried_again(kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore) -> None:
    work, tries = server.work, []
    assert work

    def unlucky(run: Document) -> None:
        tries.append(run)
        if len(tries) == 1:
            server.end_run(run["run_id"], "FAILED", "a node was lost")
        else:
            work(run)

    server.work = unlucky
    news = _train(kubeflow, cluster, rounds=1)
    assert [one.kind for one in news if one.kind != "changed"] == ["submitted", "failed", "submitted", "made", "ended"]


def test_a_round_that_fails_too_often_ends_it(kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore) -> None:
    server.work = lambda run: server.end_run(run["run_id"], "FAILED", "2 of 10 delivered")
    with pytest.raises(RunError, match=r"run digits v1 failed .*: 2 of 10 delivered"):
        _train(kubeflow, cluster, rounds=1)
    assert len(server.runs()) == 3


def test_a_run_that_somebody_ended_is_not_started_again(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore
) -> None:
    server.work = lambda run: server.end_run(run["run_id"], "CANCELED")
    with pytest.raises(RunError, match="was ended by somebody"):
        _train(kubeflow, cluster, rounds=1)
    assert len(server.runs()) == 1


def test_another_store_than_that_of_the_runs_is_noticed(kubeflow: Kubeflow, server: KfpServer, tmp_path: Path) -> None:
    server.work = lambda run: server.end_run(run["run_id"])
    other = TrainingStore(FolderStore(tmp_path / "other"), "digits")
    with pytest.raises(RunError, match=r"succeeded, and .*other has no v1: is it the store of the runs"):
        _train(kubeflow, other, rounds=1)


def test_after_a_rollback_the_rounds_have_names_of_their_own(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore
) -> None:
    make_training(cluster.store)  # at v2-b1
    _train(kubeflow, cluster, rounds=3)
    assert [run["display_name"] for run in server.runs()] == ["digits v3-b1"]


def test_rounds_that_others_make_meanwhile_count(kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore) -> None:
    """As those of a schedule do, beside the driver."""

    def two(run: Document) -> None:
        begin_training(cluster.store, "digits")
        publish_round(cluster)
        publish_round(cluster)
        server.end_run(run["run_id"])

    server.work = two
    assert _train(kubeflow, cluster, rounds=2)[-1].because == "rounds"
    assert len(server.runs()) == 1


def test_a_damaged_store_is_no_training_that_has_not_begun(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore
) -> None:
    make_training(cluster.store)
    cluster.store.delete(keys.version("digits", "v1"))
    with pytest.raises(StoreError, match="training digits has no version v1"):
        _train(kubeflow, cluster, rounds=9)
    assert not server.runs()


def test_an_api_that_is_away_for_a_while_is_waited_for(
    kubeflow: Kubeflow, server: KfpServer, cluster: TrainingStore
) -> None:
    work = server.work
    assert work

    def away(run: Document) -> None:
        server.go_away(0.7)
        work(run)

    server.work = away
    assert _train(kubeflow, cluster, rounds=2)[-1].because == "rounds"
    assert len(server.runs()) == 2


def test_a_token_that_expires_leaves_the_run_to_the_next_driver(server: KfpServer, cluster: TrainingStore) -> None:
    work, server.work = server.work, None
    news = train(connect(host=server.url), "digits", Goal(rounds=1), cluster.store.url, poll_s=0.02)
    next(news)
    server.require("Bearer fresh")
    with pytest.raises(KubeflowError, match="has expired"):
        list(news)
    (run,) = server.runs()
    assert work
    work(run)
    assert _train(connect(host=server.url, token="fresh"), cluster, rounds=1)[-1].because == "rounds"
    assert len(server.runs()) == 1


def test_the_command_tells_what_happens(
    fededge: Fededge, server: KfpServer, cluster: TrainingStore, capfd: Capture
) -> None:
    options = ("--store", cluster.store.url, "--poll-s", "0.02", "--clients", "3")
    assert fededge("train", "--rounds", "1", *options) == 0
    shown = capfd.readouterr()
    assert shown.out == "digits is at v1: accuracy 0.1000 (rounds)\n"
    assert f"v1: run {server.url}/#/runs/details/{server.runs()[0]['run_id']}" in shown.err
    assert "v1: accuracy 0.1000" in shown.err
    assert fededge("train", "--target", "0.2", "--json", *options) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["stopped"], said["version"], said["metrics"]["accuracy"]) == ("target", "v2", 0.2)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), InputError.exit_code, "say when to stop: rounds, target or plateau"),
        (("--rounds", "0"), InputError.exit_code, "rounds=0"),
        (("--rounds", "1", "--min-improvement", "1"), InputError.exit_code, "min_improvement goes with plateau"),
        (("--rounds", "1", "--workload", "nothing", "--store", "a"), InputError.exit_code, "unknown workload"),
        (("--rounds", "1"), SetupError.exit_code, "no store: pass one, or set FEDEDGE_STORE"),
    ],
)
def test_what_cannot_be(
    fededge: Fededge, server: KfpServer, capfd: Capture, arguments: tuple[str, ...], code: int, said: str
) -> None:
    assert fededge("train", *arguments) == code
    error = capfd.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not server.runs()


def test_ctrl_c_leaves_the_rounds_run_and_says_how_to_end_it(server: KfpServer, cluster: TrainingStore) -> None:
    server.work = None
    code, out, error = interrupted(server, "train", "--rounds", "2", "--store", cluster.store.url)
    (run,) = server.runs()
    assert (code, out) == (130, "")
    assert error.splitlines()[-1] == (
        f"interrupted: the round's run goes on, and `fededge stop {run['run_id']}` ends it; "
        "the same command goes on with the training"
    )
    assert "Traceback" not in error
    assert run["state"] == "PENDING"


def _lineage(store: FolderStore, values: list[float | None], metric: str = "accuracy") -> list[Version]:
    """Make the versions of a training with these values of the metric, v0 without one first."""
    first = begin_training(store, "digits").version().model_copy(update={"metric": metric})
    known = [{} if value is None else {metric: value} for value in values]
    return [first, *(first.model_copy(update={"round": n, "metrics": one}) for n, one in enumerate(known, 1))]


@pytest.mark.parametrize(
    ("goal", "values", "because"),
    [
        (Goal(plateau=2), [0.1, 0.2, 0.2, 0.2], "plateau"),
        (Goal(plateau=2), [0.1, 0.2, 0.1, 0.3], None),
        (Goal(plateau=2), [0.3, 0.1, 0.2], "plateau"),
        (Goal(plateau=2, min_improvement=0.05), [0.10, 0.14, 0.14], "plateau"),
        (Goal(plateau=2, min_improvement=0.05), [0.10, 0.14, 0.16], None),
        (Goal(target=0.3), [0.1, 0.3], "target"),
        (Goal(target=0.3), [0.4, 0.2], None),
        (Goal(target=0.3, rounds=2), [0.1, 0.2], "rounds"),
        (Goal(target=0.3, plateau=1), [], None),
        (Goal(target=0.3), [None], None),
        (Goal(target=0.3, higher_is_better=False), [0.3], "target"),
        (Goal(plateau=1, higher_is_better=False), [0.3, 0.2], None),
        (Goal(plateau=1, higher_is_better=False), [0.3, 0.4], "plateau"),
    ],
)
def test_when_it_is_enough(tmp_path: Path, goal: Goal, values: list[float | None], because: str | None) -> None:
    assert goal.reached(_lineage(FolderStore(tmp_path), values)) == because


def test_the_name_of_a_metric_says_which_way_is_better(tmp_path: Path) -> None:
    assert Goal(target=5.0).reached(_lineage(FolderStore(tmp_path / "a"), [4.0], "rmse")) == "target"
    assert Goal(target=5.0).reached(_lineage(FolderStore(tmp_path / "b"), [4.0], "accuracy")) is None


def test_a_training_that_has_not_begun_is_never_enough() -> None:
    assert Goal(rounds=1, target=0.5, plateau=1).reached([]) is None
