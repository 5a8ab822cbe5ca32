from __future__ import annotations

import json
from pathlib import Path

import pytest

from fededge.errors import ConflictError, RoundError
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.evaluate_model import evaluate_model
from fededge.steps.version_model import version_model
from fededge.store import Store, keys
from tests.steps import round as a_round


def evaluated(store: Store, folder: Path) -> tuple[str, str, str, str]:
    """Run a round up to its last step, and return that step's arguments."""
    distributed = a_round.distribute(store)
    model = aggregate_updates(store.url, distributed.attempt, a_round.train(store, distributed)).model
    evaluate_model(store.url, distributed.attempt, model, str(folder / "curve.html"))
    return distributed.attempt, model, str(folder / "model.json"), str(folder / "report.md")


def test_the_version_becomes_current_with_its_lineage(store: Store, tmp_path: Path) -> None:
    versions = [a_round.run_round(store, tmp_path / "out") for _ in range(3)]
    assert versions == ["v1", "v2", "v3"]
    lineage = [v.version for v in a_round.trainings(store).lineage("v3")]
    assert lineage == ["v3", "v2", "v1", "v0"]
    current = a_round.trainings(store).version()
    assert current.version == "v3"
    assert [accepted.client for accepted in current.accepted] == ["p0", "p14", "p21", "p7"]
    assert current.server_state is not None
    assert current.metrics["error"] < a_round.trainings(store).version("v1").metrics["error"]


def test_the_reference_and_the_report_say_what_was_made(store: Store, tmp_path: Path) -> None:
    a_round.run_round(store, tmp_path / "out")
    version = a_round.trainings(store).version()
    reference = json.loads((tmp_path / "out" / "model.json").read_text())
    assert reference["store"] == store.url
    assert (reference["version"], reference["digest"]) == ("v1", version.model)
    assert reference["error"] == version.metrics["error"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| p14 | 14 |" in report
    assert "4 of 4 clients" in report


def test_the_report_says_who_was_left_out_and_why(store: Store, tmp_path: Path) -> None:
    a_round.run_round(store, tmp_path / "out", workload="tests.steps.tiny:faulty", clients=8)
    report = (tmp_path / "out" / "report.md").read_text()
    assert "2 of 8 clients" in report
    assert "| p35 | TRAINING_FAILED | OSError: the disk of this device is gone |" in report


def test_running_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    arguments = evaluated(store, tmp_path)
    first = version_model(store.url, *arguments)
    before = store.get(keys.version(a_round.NAME, "v1"))
    assert version_model(store.url, *arguments) == first
    assert store.get(keys.version(a_round.NAME, "v1")) == before


def test_a_model_that_was_not_evaluated_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt, model, *paths = evaluated(store, tmp_path)
    store.delete(keys.evaluation(a_round.trainings(store).attempts("v1")[0]))
    capsys.readouterr()
    with a_round.refused(capsys, RoundError.exit_code, "did not evaluate"):
        version_model(store.url, attempt, model, *paths)
    assert a_round.trainings(store).version().version == "v0"


def test_a_model_that_was_not_aggregated_is_refused(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt, _, *paths = evaluated(store, tmp_path)
    capsys.readouterr()
    with a_round.refused(capsys, RoundError.exit_code, "did not aggregate"):
        version_model(store.url, attempt, a_round.trainings(store).version("v0").model, *paths)


def test_a_pointer_that_moved_meanwhile_is_not_overwritten(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of a round after a rollback: the slower one publishes nothing."""
    a_round.run_round(store, tmp_path)
    late = evaluated(store, tmp_path)
    a_round.trainings(store).rollback("v0")
    capsys.readouterr()
    with a_round.refused(capsys, ConflictError.exit_code, "no longer at v1"):
        version_model(store.url, *late)
    assert [v.version for v in a_round.trainings(store).versions()] == ["v0", "v1"]


def test_two_rollbacks_leave_no_attempt_in_the_way(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        a_round.run_round(store, tmp_path / "out")
    a_round.trainings(store).rollback("v1")
    a_round.distribute(store)  # v2-b1, cut short
    a_round.trainings(store).rollback("v0")
    assert [a_round.run_round(store, tmp_path / "out") for _ in range(2)] == ["v1-b2", "v2-b2"]


def test_going_on_after_a_rollback_makes_a_branch(store: Store, tmp_path: Path) -> None:
    first = [a_round.run_round(store, tmp_path / "out") for _ in range(2)]
    kept = store.get(keys.version(a_round.NAME, "v2"))
    a_round.trainings(store).rollback("v1")
    second = a_round.run_round(store, tmp_path / "out")
    assert (first, second) == (["v1", "v2"], "v2-b1")
    assert store.get(keys.version(a_round.NAME, "v2")) == kept
    assert a_round.trainings(store).version().parent == "v1"
    # The same round from the same version with the same seed is the same model.
    assert a_round.trainings(store).version("v2-b1").model == a_round.trainings(store).version("v2").model
