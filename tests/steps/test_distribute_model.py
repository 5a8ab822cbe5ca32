from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fededge.core.seeds import Purpose, derive_seed
from fededge.errors import ExistsError, InputError, StoreError
from fededge.records import Failed
from fededge.settings import Placement
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors, put_bytes, put_tensors
from fededge.workloads import load_workload
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner, TinyWorkload


def test_begins_a_training_with_version_0(store: Store) -> None:
    a_round.distribute(store, seed=5)
    version = a_round.trainings(store).version()
    assert (version.version, version.round, version.parent) == ("v0", 0, None)
    expected = TinyLearner().initial_weights(derive_seed(5, Purpose.INIT))
    assert get_tensors(store, version.model)["0000/w"].tobytes() == expected["0000/w"].tobytes()


def test_plan_names_every_client_once_and_is_complete(store: Store) -> None:
    distributed = a_round.distribute(store, clients=5)
    attempt = a_round.trainings(store).attempt(a_round.trainings(store).attempts("v1")[0])
    assert distributed.attempt == "tiny/v1/1/1"
    assert attempt.batches == {"b000": ["p0", "p14"], "b001": ["p21", "p28"], "b002": ["p7"]}
    assert [entry["batch"] for entry in distributed.plan] == [f"tiny/v1/1/1/b00{i}" for i in range(3)]
    for entry in distributed.plan:
        assert entry.keys() == {"batch", *Placement().model_dump()}
        assert all(entry.values())


def test_cohort_is_drawn_anew_each_round_from_the_seed(store: Store, tmp_path: Path) -> None:
    cohorts = []
    for round_number in range(1, 5):
        a_round.run_round(store, tmp_path / "out", clients=20, clients_per_round=5)
        attempt = a_round.trainings(store).attempts(f"v{round_number}")[0]
        cohorts.append(tuple(a_round.trainings(store).attempt(attempt).cohort))
    assert len(set(cohorts)) == 4
    assert all(len(set(cohort)) == 5 for cohort in cohorts)


def test_finds_the_open_attempt_again(store: Store) -> None:
    first, second = a_round.distribute(store), a_round.distribute(store)
    assert first == second
    assert len(a_round.trainings(store).attempts("v1")) == 1


def test_opens_the_next_attempt_after_a_failed_one(store: Store) -> None:
    a_round.distribute(store)
    trainings = a_round.trainings(store)
    trainings.fail_attempt(trainings.attempts("v1")[0], Failed(reason="for the test"))
    assert a_round.distribute(store).attempt == "tiny/v1/2/1"


def test_completes_a_beginning_that_was_cut_short(store: Store) -> None:
    """A run killed between the training's document and the pointer leaves the next run nothing to stumble on."""

    class KilledError(StoreError):
        pass

    url = store.url
    real_create = type(store).create
    written: list[str] = []

    def create(self: Store, key: str, data: bytes) -> None:
        if key == keys.pointer(a_round.NAME):
            raise KilledError("killed")
        written.append(key)
        real_create(self, key, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(store), "create", create)
        with pytest.raises(SystemExit):
            a_round.distribute(store)
    assert keys.training(a_round.NAME) in written
    assert a_round.distribute(store).attempt == "tiny/v1/1/2"
    assert store.url == url


@pytest.mark.parametrize(("name", "value"), [("seed", 1), ("clients", 3), ("server_optimizer", "adam")])
def test_other_settings_for_the_same_training_are_refused(
    store: Store, capsys: pytest.CaptureFixture[str], name: str, value: int | str
) -> None:
    a_round.distribute(store)
    with a_round.refused(capsys, InputError.exit_code, f"{name}=", str(value)):
        a_round.distribute(store, **{name: value})


def test_other_settings_for_an_open_round_are_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    a_round.distribute(store)
    with a_round.refused(capsys, InputError.exit_code, "local_epochs=2", "not 3"):
        a_round.distribute(store, local_epochs=3)


def test_a_version_that_is_not_current_is_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    a_round.distribute(store)
    with a_round.refused(capsys, StoreError.exit_code, "tiny is at v0, not v3"):
        a_round.distribute(store, base_version="v3")


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"workload": "nothing"}, "nothing"),
        ({"workload": "no.such.module:workload"}, "--with"),
        ({"workload": "tests.steps.tiny:TRUE_WEIGHTS"}, "TRUE_WEIGHTS"),
        ({"max_batches": 1}, "2 pods"),
        ({"clients_per_round": 9}, "clients_per_round=9"),
        ({"min_clients": 9}, "min_clients=9"),
        ({"server_optimizer": "adam", "server_momentum": 0.9}, "server_momentum"),
        ({"cpu_request": "3"}, "cpu_request=3 is more than cpu_limit=2"),
        ({"client_learning_rate": float("nan")}, "client_learning_rate"),
    ],
)
def test_bad_input_leaves_the_store_as_it_was(
    store: Store, capsys: pytest.CaptureFixture[str], changed: dict[str, object], word: str
) -> None:
    with a_round.refused(capsys, InputError.exit_code, word):
        a_round.distribute(store, **changed)
    assert not Path(store.url).exists()


def test_own_initial_weights_count_when_the_training_begins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = TinyLearner().initial_weights(77)
    monkeypatch.setattr(TinyLearner, "load_weights", lambda self, path: mine)
    digest = put_tensors(store, mine)
    a_round.distribute(store, initial_model=digest)
    assert a_round.trainings(store).version("v0").model == digest


def test_another_model_than_the_versions_is_refused_and_nothing_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    a_round.run_round(store, tmp_path / "out")
    before = everything_but_the_lease(store)
    monkeypatch.setattr(TinyLearner, "initial_weights", lambda self, seed: {"0000/w": np.zeros(4, np.float32)})
    capsys.readouterr()
    with a_round.refused(capsys, InputError.exit_code, "another model", "--new"):
        a_round.distribute(store)
    assert everything_but_the_lease(store) == before


def everything_but_the_lease(store: Store) -> dict[str, bytes]:
    found = {key for folder in ("trainings/", "blobs/") for key in store.keys(folder)}
    return {key: store.get(key).data for key in found - {keys.lease(a_round.NAME)}}


def test_a_client_that_is_named_twice_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TinyWorkload, "population", lambda self, clients: ["a", "b", "a", "c"])
    with a_round.refused(capsys, InputError.exit_code, "client a twice"):
        a_round.distribute(store)


def test_another_initial_model_than_the_training_began_with_is_refused(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    a_round.distribute(store)
    with a_round.refused(capsys, InputError.exit_code, "another initial model"):
        a_round.distribute(store, initial_model=f"sha256:{'0' * 64}")


def test_a_keras_file_can_be_what_a_training_begins_with(store: Store, tmp_path: Path) -> None:
    learner = load_workload("digits").learner()
    mine = learner.initial_weights(77)
    learner.export(mine, tmp_path / "mine.keras")
    digest = put_bytes(store, (tmp_path / "mine.keras").read_bytes())
    a_round.distribute(store, workload="digits", initial_model=digest)
    begun = get_tensors(store, a_round.trainings(store).version("v0").model)
    assert {name: a.tobytes() for name, a in begun.items()} == {name: a.tobytes() for name, a in mine.items()}


def test_documents_are_written_once(store: Store) -> None:
    a_round.distribute(store)
    with pytest.raises(ExistsError):
        store.create(keys.training(a_round.NAME), b"{}")
