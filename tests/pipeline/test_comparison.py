"""The compiled comparison on a real training, as a person starts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fededge.core.comparison import Arm
from fededge.store.folder import FolderStore
from tests.pipeline.conftest import Run, fededge, store_in

HOW = ("--clients", "4", "--clients-per-pod", "4", "--local-epochs", "1", "--rounds", "1", "--json")
CLIENTS = {f"client-{i:06d}" for i in range(4)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("comparison")
    commands = (("run", *HOW), ("compare", "digits", "--clients-per-pod", "4", "--json"))
    return Run(folder, [fededge(folder, *command) for command in commands])


@pytest.fixture(scope="module")
def found(run: Run) -> Any:
    return run.outcomes[1].json


def test_every_arm_has_a_score_for_every_client(run: Run, found: Any) -> None:
    assert (found["metric"], found["higher_is_better"], found["version"]) == ("accuracy", True, "v1")
    assert {arm: set(one["scores"]) for arm, one in found["arms"].items()} == {str(arm): CLIENTS for arm in Arm}
    assert all(one["clients"]["clients"] == 4 and not one["failures"] for one in found["arms"].values())
    assert found["arms"]["federated"]["official"] == run.outcomes[0].json["metrics"]


def test_all_start_alike_and_are_trained_as_much(found: Any) -> None:
    assert found["budget"] == {"examples": 1437, "available": 1437, "epochs": 1, "rounds": [1]}


def test_training_on_all_data_in_one_place_is_better_than_alone(found: Any) -> None:
    arms = found["arms"]
    assert arms["centralized"]["official"]["accuracy"] > 0.7
    assert arms["centralized"]["raw_bytes_moved"] == 1437 * (64 * 4 + 4)
    assert arms["federated"]["raw_bytes_moved"] == arms["local"]["bytes_moved"] == 0
    assert found["than_local"]["clients"] == found["known"]["clients"] == 4
    assert found["cold"] is None


def test_the_report_and_the_figures_are_kept(found: Any) -> None:
    page = Path(found["report"]).read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    figures = json.loads(Path(found["figures"]).read_text())
    assert figures == {name: value for name, value in found.items() if name not in ("report", "figures", "log")}
    assert "fl-comparison" in Path(found["log"]).read_text()


def test_nothing_of_the_training_has_changed_and_no_data_were_written(run: Run) -> None:
    store = store_in(run.folder)
    assert fededge(run.folder, "versions", "verify", "digits").code == 0
    blobs = _blobs(store)
    collected = fededge(run.folder, "versions", "gc", "--dry-run", "--min-age-minutes", "0")
    assert collected.code == 0, collected.err
    assert _blobs(store) == blobs
    assert run.trainings("digits").lease.active() is None


def _blobs(store: FolderStore) -> list[str]:
    return store.keys("blobs/")
