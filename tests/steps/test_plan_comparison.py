from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fededge.core.comparison import Arm
from fededge.errors import InputError, NotFoundError
from fededge.learners.alone import parts_of
from fededge.settings import LocalTraining, RoundSettings
from fededge.steps.plan_comparison import plan_comparison
from fededge.store import Store, keys
from tests.steps import comparing
from tests.steps.comparing import plan, train_rounds
from tests.steps.round import refused, trainings

# p0, p7, p14 and p21 have 5, 6, 7 and 8 examples.
EXAMPLES = 26


def test_the_plan_has_all_four_arms(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store, placement={"data_claim": "devices", "cpu_limit": "1"})
    found = comparing.comparison(store, planned)
    assert {name: (batch.arm, batch.clients) for name, batch in found.batches.items()} == {
        "federated": (Arm.FEDERATED, []),
        "centralized": (Arm.CENTRALIZED, []),
        "local-b000": (Arm.LOCAL, ["p0", "p14", "p21"]),
        "local-b001": (Arm.LOCAL, ["p7"]),
        "fine_tuned-b000": (Arm.FINE_TUNED, ["p0", "p14", "p21"]),
        "fine_tuned-b001": (Arm.FINE_TUNED, ["p7"]),
    }
    assert [entry["batch"].rpartition("/")[::2] for entry in planned.plan] == [
        (planned.comparison, name) for name in found.batches
    ]
    assert planned.comparison.startswith("tiny/v2/")
    claims = [entry["data_claim"] for entry in planned.plan]
    assert claims == ["fededge-data", "fededge-data", "devices", "devices", "devices", "devices"]
    assert {entry["cpu_limit"] for entry in planned.plan} == {"1"}


def test_the_budget_is_what_the_lineage_was_trained_on(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", rounds=3)  # 2 epochs each
    budget = comparing.comparison(store, plan(store)).budget
    assert (budget.examples, budget.available, budget.epochs) == (3 * 2 * EXAMPLES, EXAMPLES, 6)
    assert budget.rounds == [1, 2, 3]
    earlier = comparing.comparison(store, plan(store, "v1")).budget
    assert (earlier.examples, earlier.epochs) == (2 * EXAMPLES, 2)


def test_clients_that_sit_out_train_less(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", rounds=2, clients_per_round=1)
    budget = comparing.comparison(store, plan(store)).budget
    counted = [accepted.num_examples for v in trainings(store).lineage("v2") for accepted in v.accepted]
    assert len(counted) == 2
    assert budget.examples == sum(counted)
    assert budget.epochs == 1


def test_bytes_are_models_down_and_updates_up(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", rounds=2)
    model = 4 * 4  # three weights and an intercept, float32
    assert comparing.comparison(store, plan(store)).bytes_moved == 2 * (4 * model + 4 * model)


def test_a_client_that_failed_moved_nothing_up(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", rounds=1, workload="tests.steps.tiny:faulty", clients=8)
    version = trainings(store).version()
    accepted, cohort = len(version.accepted), len(version.accepted) + len(version.excluded)
    assert 0 < accepted < cohort == 8
    assert comparing.comparison(store, plan(store)).bytes_moved == 16 * (cohort + accepted)


def test_planning_again_finds_the_same(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run")
    assert plan(store) == plan(store, "v2")
    assert plan(store) != plan(store, "v1")
    assert len(store.keys("comparisons/")) == 2
    assert plan(store, arm_clients=2) != plan(store)
    with pytest.raises(InputError):
        keys.comparison_folder(comparing.ComparisonRef(training="tiny", version="v1", name="../x"))


def test_so_many_clients_are_drawn_by_the_seed(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", clients=40, seed=3)
    batches = comparing.comparison(store, plan(store, arm_clients=8)).batches
    drawn = [client for name, batch in batches.items() if name.startswith("local") for client in batch.clients]
    assert len(set(drawn)) == 8
    assert drawn == [c for name, batch in batches.items() if name.startswith("fine_tuned") for c in batch.clients]
    assert drawn != sorted(comparing.workload.population(40), key=str.encode)[:8]


def test_a_client_goes_on_as_in_the_last_round(store: Store, tmp_path: Path) -> None:
    how = {"learning_rate_decay": 0.5, "client_algorithm": "fedprox", "proximal_mu": 0.1}
    train_rounds(store, tmp_path / "run", rounds=3, **how)
    tuning = comparing.comparison(store, plan(store)).fine_tuning
    assert (tuning.client_learning_rate, tuning.learning_rate_decay, tuning.local_epochs) == (0.025, 1, 2)
    assert (tuning.client_algorithm, tuning.proximal_mu) == ("fedavg", 0)


def test_a_workload_says_how_clients_go_on(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", workload="tests.steps.comparing:tuned")
    how = comparing.comparison(store, plan(store)).fine_tuning
    assert (how.client_learning_rate, how.local_epochs, how.batch_size) == (0.05, 3, 10)


def test_what_cannot_be_compared(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with refused(capsys, NotFoundError.exit_code, "no training tiny", "`fededge run tiny`"):
        plan(store)
    train_rounds(store, tmp_path / "run", rounds=1)
    capsys.readouterr()
    with refused(capsys, NotFoundError.exit_code, "no version v7"):
        plan(store, "v7")
    with refused(capsys, InputError.exit_code, "v0", "learned nothing"):
        plan(store, "v0")
    with refused(capsys, InputError.exit_code, "arm_clients=1"):
        plan(store, arm_clients=1)
    with refused(capsys, InputError.exit_code, "arm_clients=5", "4 clients"):
        plan(store, arm_clients=5)
    with refused(capsys, InputError.exit_code, "6 pods", "clients_per_pod"):
        plan(store, max_batches=5)
    assert store.keys("comparisons/") == []


def test_one_client_is_nobody_to_compare(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_rounds(store, tmp_path / "run", rounds=1, clients=1)
    capsys.readouterr()
    with refused(capsys, InputError.exit_code, "has 1 client", "2 at least"):
        plan_comparison(store.url, "tiny", "current", 0, {}, {})


def test_without_decay_the_work_is_one_call() -> None:
    how = RoundSettings(local_epochs=2, client_algorithm="fedprox", proximal_mu=0.5)
    (part,) = parts_of(how, 7, 100, [1, 2, 3])
    assert (part.local_epochs, part.local_steps, part.client_algorithm, part.proximal_mu) == (7, 0, "fedavg", 0)


def test_more_epochs_than_a_call_may_have_are_several_calls() -> None:
    parts = parts_of(LocalTraining(), 2500, 10, [1])
    assert [part.local_epochs for part in parts] == [1000, 1000, 500]


def test_with_decay_each_part_has_its_rounds_learning_rate() -> None:
    how = LocalTraining(client_learning_rate=0.8, learning_rate_decay=0.5, batch_size=10)
    parts = parts_of(how, 2, 35, [2, 3, 4])  # round 1 only measured; 2 epochs of 4 minibatches
    assert [part.local_steps for part in parts] == [3, 3, 2]
    np.testing.assert_allclose([part.client_learning_rate for part in parts], [0.4, 0.2, 0.1])
    assert {part.learning_rate_decay for part in parts} == {1}


def test_parts_without_a_step_are_left_out() -> None:
    how = LocalTraining(learning_rate_decay=0.5, batch_size=10)
    assert [part.local_steps for part in parts_of(how, 1, 5, [1, 2, 3])] == [1]
