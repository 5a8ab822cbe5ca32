"""What the metrics of a training are, from what is in the store."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from fededge.monitoring.exposition import text
from fededge.monitoring.history import read_history
from fededge.monitoring.metrics import METRICS, quorum, samples
from fededge.records import GIVEN_UP, Failed
from fededge.settings import RoundSettings
from fededge.store import Store, keys
from tests.monitoring.programs import promtool
from tests.monitoring.rounds import SIGNATURE, fail_quorum, publish, set_times, values
from tests.trainings import START, begin_training, close_round, make_training, open_round


def test_a_training_without_a_round_has_its_version_alone(store: Store) -> None:
    found = values(begin_training(store, "digits"))
    assert found.keys() == {"version_number", "version_timestamp_seconds"}
    assert found["version_number"] == 0


def test_a_round_that_made_a_version(store: Store, tmp_path: Path) -> None:
    trainings = publish(store, tmp_path)
    set_times(store, {keys.version("digits", "v1"): 90})
    found = {name: value for name, value in values(trainings).items() if not name.startswith("round_phase")}
    assert found == {
        "version_number": 1,
        "version_timestamp_seconds": (START + timedelta(seconds=90)).timestamp(),
        "version_metric metric=accuracy": 0.1,
        "version_metric metric=loss": 0.9,
        "round_number": 1,
        "round_succeeded": 1,
        "round_attempts": 1,
        "round_failed_attempts reason=quorum": 0,
        "round_failed_attempts reason=non_finite": 0,
        "round_failed_attempts reason=given_up": 0,
        "round_failed_attempts reason=other": 0,
        "round_runs": 1,
        "round_clients outcome=accepted": 2,
        "round_clients outcome=failed reason=NON_FINITE": 1,
        "round_quorum_margin": 1,
        "round_bytes direction=down": 3 * (6 + 3) * 4,  # to the cohort: two tensors, float32
        "round_bytes direction=up": 0,  # of a plan that asks for nothing
    }


def test_bytes_up_are_those_of_the_updates_that_count(store: Store, tmp_path: Path) -> None:
    history = read_history(publish(store, tmp_path))
    control = {f"control/{name}": kind for name, kind in SIGNATURE.items()}
    plan = history.tries[-1].plan.model_copy(update={"update_signature": {**SIGNATURE, **control}})
    history = replace(history, tries=[replace(history.tries[-1], plan=plan)])
    found = {sample.labels["direction"]: sample.value for sample in samples(history) if sample.name.endswith("bytes")}
    # The server's control variate goes down with the model, a client's comes up with its update.
    assert found == {"down": 3 * 2 * 36, "up": 2 * 2 * 36}


def test_a_failed_round_tells_who_was_refused_and_who_failed(store: Store) -> None:
    found = values(fail_quorum(store))
    clients = {name.removeprefix("round_clients outcome="): n for name, n in found.items() if "outcome" in name}
    assert clients == {
        "accepted": 2,
        "refused reason=NON_FINITE": 1,
        "refused reason=WRONG_TENSORS": 2,
        "refused reason=BAD_COUNT": 1,
        "failed reason=NO_DATA": 1,
        "failed reason=TRAINING_FAILED": 1,
    }
    assert (found["version_number"], found["round_number"], found["round_succeeded"]) == (0, 1, 0)
    assert found["round_quorum_margin"] == -1
    assert found["round_failed_attempts reason=quorum"] == 1
    assert (found["round_bytes direction=down"], found["round_bytes direction=up"]) == (8 * 16, 2 * 16)


def test_failed_attempts_add_up_until_the_next_round(store: Store) -> None:
    fail_quorum(store)
    trainings = fail_quorum(store)
    found = values(trainings)
    assert (found["round_attempts"], found["round_failed_attempts reason=quorum"]) == (2, 2)


@pytest.mark.parametrize(
    ("reason", "closed", "label"),
    [
        (GIVEN_UP, False, "given_up"),
        (GIVEN_UP, True, "given_up"),
        ("NaN or infinity in 0000/w", True, "non_finite"),
        ("nobody knows", False, "other"),
    ],
)
def test_why_an_attempt_failed_is_told_from_its_documents(store: Store, reason: str, closed: bool, label: str) -> None:
    trainings = begin_training(store, "digits")
    plan, _ = open_round(trainings, "run 1")
    if closed:
        close_round(trainings, plan)
    trainings.fail_attempt(plan.ref, Failed(reason=reason))
    found = values(trainings)
    assert [name for name, value in found.items() if "failed_attempts" in name and value] == [
        f"round_failed_attempts reason={label}"
    ]


def test_the_interval_is_that_of_the_schedule_which_opened_the_round(store: Store) -> None:
    trainings = fail_quorum(store, interval_s=3600)
    assert values(trainings)["interval_seconds"] == 3600
    assert "interval_seconds" not in values(fail_quorum(store)), "that round was started by hand"
    first, second = (store.get(keys.attempt(ref)).data for ref in trainings.attempts("v1"))
    assert b'"interval_s": 3600' in first
    assert b"interval_s" not in second, "and the document is as it was before there were intervals"


def test_each_run_that_takes_an_attempt_up_counts(store: Store) -> None:
    trainings = begin_training(store, "digits")
    for run in ("run 1", "run 2", "run 3"):
        _, token = open_round(trainings, run)
        trainings.lease.release(token)
    assert values(trainings)["round_runs"] == 3


def test_after_a_rollback_the_current_version_counts(store: Store) -> None:
    trainings = make_training(store)
    trainings.rollback("v1")
    found = values(trainings)
    assert (found["version_number"], found["round_number"], found["round_succeeded"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ({"min_clients": 4}, 4),
        ({"min_clients": 2, "aggregation": "krum", "attackers": 2}, 7),
        ({"min_clients": 9, "aggregation": "krum", "attackers": 2}, 9),
        ({"aggregation": "trimmed_mean", "attackers": 3}, 7),
    ],
)
def test_the_quorum_is_what_the_rule_needs_if_that_is_more(settings: dict[str, object], needed: int) -> None:
    assert quorum(RoundSettings.parse(clients=20, **settings)) == needed


def test_phases_follow_each_other_by_the_stores_clock(store: Store, tmp_path: Path) -> None:
    trainings = publish(store, tmp_path)
    plan = trainings.attempt(trainings.attempts("v1")[0])
    set_times(
        store,
        {
            keys.attempt(plan.ref): 0,
            keys.sitting(plan.ref, 1): 1,
            keys.update(plan.ref, "client-000000"): 11.5,  # took 1.5 s
            keys.update(plan.ref, "client-000001"): 30,
            keys.failure(plan.ref, "client-000002"): 25,
            keys.closing(plan.ref): 40,
            keys.aggregate(plan.ref): 45,
            keys.evaluation(plan.ref): 52,
            keys.version("digits", "v1"): 60,
        },
    )
    phases = {name.partition("phase=")[2]: value for name, value in values(trainings).items() if "phase=" in name}
    assert phases == {"distribute": 10, "train": 20, "aggregate": 15, "evaluate": 7, "version": 8}


def test_a_failed_round_ends_in_the_phase_where_it_failed(store: Store) -> None:
    trainings = fail_quorum(store)
    ref = trainings.attempts("v1")[0]
    entries = {entry.key: 10.0 for entry in store.entries(keys.attempt_folder(ref))}
    set_times(store, {**entries, keys.attempt(ref): 0, keys.closing(ref): 14, keys.failed(ref): 16})
    phases = {name.partition("phase=")[2]: value for name, value in values(trainings).items() if "phase=" in name}
    assert phases.keys() == {"distribute", "train", "aggregate"}
    assert phases["aggregate"] == pytest.approx(6)
    assert phases["distribute"] + phases["train"] == pytest.approx(10)


def test_time_between_two_runs_belongs_to_no_phase(store: Store) -> None:
    trainings = begin_training(store, "digits")
    plan, token = open_round(trainings, "run 1")
    trainings.lease.release(token)
    _, later = open_round(trainings, "run 2")
    close_round(trainings, plan)
    day = 86_400
    set_times(
        store,
        {
            keys.attempt(plan.ref): 0,
            keys.sitting(plan.ref, token): 1,
            keys.update(plan.ref, "client-000000"): 21.5,  # the run dies; another takes over, a day later
            keys.sitting(plan.ref, later): day,
            keys.update(plan.ref, "client-000001"): day + 10,
            keys.failure(plan.ref, "client-000002"): day + 5,
            keys.closing(plan.ref): day + 11,
        },
    )
    found = values(trainings)
    assert found["round_phase_seconds phase=distribute"] == pytest.approx(20)
    assert found["round_phase_seconds phase=train"] == pytest.approx(1.5 + 10)


def test_runs_of_the_same_second_leave_no_gap(store: Store) -> None:
    """S3 tells whole seconds."""
    trainings = begin_training(store, "digits")
    for run in ("run 1", "run 2"):
        plan, token = open_round(trainings, run)
        trainings.lease.release(token)
    close_round(trainings, plan)
    set_times(store, {entry.key: 5 for entry in store.entries(keys.attempt_folder(plan.ref))})
    phases = [value for name, value in values(trainings).items() if "phase=" in name]
    assert phases == [0, 0]


def test_prometheus_reads_them(store: Store, tmp_path: Path) -> None:
    fail_quorum(store)
    publish(store, tmp_path)
    found = [*samples(read_history(fail_quorum(store, 60))), *samples(read_history(publish(store, tmp_path, "other")))]
    shown = text(found)
    assert promtool("check", "metrics", given=shown) == ""
    about = 'training="tiny",workload="tests.steps.tiny:faulty"'
    assert f'fededge_round_clients{{outcome="refused",reason="BAD_COUNT",{about}}} 1.0' in shown
    assert {line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE")} == {m.name for m in METRICS}


def test_no_metric_names_a_client(store: Store) -> None:
    trainings = fail_quorum(store)
    shown = text(samples(read_history(trainings)))
    for client in trainings.attempt(trainings.attempts("v1")[0]).cohort:
        assert f'"{client}"' not in shown
