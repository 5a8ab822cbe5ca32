"""The same work done twice at once counts once."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from fededge.errors import ConflictError
from fededge.records import Closing, Version
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.evaluate_model import evaluate_model
from fededge.steps.train_clients import train_clients
from fededge.steps.version_model import version_model
from fededge.store import Store, keys
from fededge.store.trainings import TrainingStore
from tests.faults.pipeline_run import NAME, PipelineRun
from tests.faults.processes import side_by_side
from tests.faults.rounds import settings

CLIENTS = ["p0", "p14", "p21", "p7"]


def begun(store: Store, folder: Path) -> tuple[str, str]:
    """Open a round with one batch; name the attempt and the batch."""
    distributed = PipelineRun(store.url, folder, settings(clients_per_pod=4)).distribute()
    return distributed.attempt, distributed.plan[0]["batch"]


def closed(store: Store, attempt: str) -> tuple[str, Closing]:
    """Aggregate; return the new model's digest, and the closing record."""
    model = aggregate_updates(store.url, attempt, []).model
    trainings = TrainingStore(store, NAME)
    closing = trainings.closing(trainings.attempts("v1")[0])
    assert closing is not None
    return model, closing


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model of a round in which nothing is done twice."""
    folder = tmp_path_factory.mktemp("once")
    run = PipelineRun(str(folder / "store"), folder, settings(clients_per_pod=4))
    run.go()
    return str(run.returned["aggregate"].model)


def test_invariant_01_an_update_counts_once(store: Store, tmp_path: Path, expected: str) -> None:
    """Two processes train the same batch at the same time, and both deliver each client."""
    attempt, batch = begun(store, tmp_path)
    said = side_by_side(
        ("train", store.url, batch, str(tmp_path / "meeting"), "first", ""),
        ("train", store.url, batch, str(tmp_path / "meeting"), "second", ""),
    )
    assert all(sum(f'"client":"{client}"' in line for line in said[0].splitlines()) == 1 for client in CLIENTS)
    model, closing = closed(store, attempt)
    assert model == expected
    assert [accepted.client for accepted in closing.accepted] == CLIENTS
    assert (closing.excluded, closing.repeats) == ([], [])


@pytest.mark.parametrize("spoils", ["first", "second"])
def test_invariant_01_of_two_deliveries_the_first_counts_and_the_other_is_told(
    store: Store, tmp_path: Path, expected: str, spoils: str
) -> None:
    attempt, batch = begun(store, tmp_path)
    said = side_by_side(
        *(
            ("train", store.url, batch, str(tmp_path / "meeting"), me, "p14" if me == spoils else "")
            for me in ("first", "second")
        )
    )
    assert ["the first one counts" in out for out in said] == [False, True]
    model, closing = closed(store, attempt)
    assert (model == expected) == (spoils == "second")
    assert [accepted.client for accepted in closing.accepted] == CLIENTS
    assert closing.repeats == ["p14"]
    published = version_of(store, attempt, model, tmp_path)
    assert published.repeats == ["p14"]
    assert re.search(r"again.*p14", (tmp_path / "report.md").read_text())


def version_of(store: Store, attempt: str, model: str, folder: Path) -> Version:
    evaluate_model(store.url, attempt, model, str(folder / "curve.html"))
    made = version_model(store.url, attempt, model, str(folder / "model.json"), str(folder / "report.md"))
    return TrainingStore(store, NAME).version(made.version)


def test_two_processes_that_publish_the_same_version_publish_one(store: Store, tmp_path: Path) -> None:
    """As when a cluster starts a task again whose node it has lost, and the node comes back."""
    attempt, batch = begun(store, tmp_path)
    train_clients(store.url, batch)
    model, _ = closed(store, attempt)
    evaluate_model(store.url, attempt, model, str(tmp_path / "curve.html"))
    said = side_by_side(
        *(("version", store.url, attempt, model, str(tmp_path / "meeting"), me) for me in ("first", "second"))
    )
    assert all('"version":"v1"' in out for out in said)
    references = [(tmp_path / "meeting" / f"{me}.json").read_text() for me in ("first", "second")]
    assert references[0] == references[1]
    trainings = TrainingStore(store, NAME)
    assert [version.version for version in trainings.versions()] == ["v0", "v1"]
    assert trainings.version().model == model
    assert trainings.lease.active() is None


def test_of_two_models_for_one_version_one_is_published_and_the_other_dropped(store: Store, tmp_path: Path) -> None:
    """Both written at once; every caller is given the one that stands, or told that its own was dropped."""
    PipelineRun(store.url, tmp_path, settings()).go()
    trainings = TrainingStore(store, NAME)
    for number in range(2, 12):
        parent = trainings.version()
        made = [_manifest(parent, number, attempt) for attempt in (1, 2)]
        answers = _publish_at_once(trainings, made)
        current = trainings.version()
        assert current in made
        assert current in answers
        assert all(answer == current or "another run" in str(answer) for answer in answers)
        assert trainings.head().pointer.manifest == current.digest


def _manifest(parent: Version, number: int, attempt: int) -> Version:
    changed = {"version": f"v{number}", "round": number, "parent": parent.version, "attempt": attempt}
    model = parent.model if attempt == 1 else f"sha256:{number:064d}"
    return parent.model_copy(update={**changed, "model": model, "parent_manifest": parent.digest})


def _publish_at_once(trainings: TrainingStore, made: list[Version]) -> list[Version | ConflictError]:
    """Publish from two threads; return what each was told."""
    answers: dict[int, Version | ConflictError] = {}
    barrier = threading.Barrier(len(made))

    def publish(index: int) -> None:
        barrier.wait()
        try:
            answers[index] = trainings.publish(made[index], trainings.head().pointer.token)
        except ConflictError as error:
            answers[index] = error

    threads = [threading.Thread(target=publish, args=[index]) for index in range(len(made))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return list(answers.values())


def test_a_run_whose_model_was_not_the_first_says_so(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another attempt's manifest was written, and its run died before it moved the pointer."""
    attempt, batch = begun(store, tmp_path)
    train_clients(store.url, batch)
    model, _ = closed(store, attempt)
    trainings = TrainingStore(store, NAME)
    first = _manifest(trainings.version(), 1, attempt=7)
    store.create(keys.version(NAME, "v1"), first.dump())
    assert version_of(store, attempt, model, tmp_path) == first
    assert "attempt 7 made v1 first; this one's model is dropped" in capsys.readouterr().out
