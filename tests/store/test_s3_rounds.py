"""Whole rounds on a real S3 server over a line that breaks: the steps, their leases, and what they publish."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from fededge.store import Store, open_store
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.faults.rounds import assert_whole, essence
from tests.frameworks import load_tensorflow
from tests.steps import round as a_round
from tests.store.line import Fault, Line, at_random, in_order
from tests.store.owner import TROUBLES, Owner

pytestmark = pytest.mark.s3
load_tensorflow()

VERSIONS = ("v1", "v2")
MIDWAY = 60  # requests
ADAM = {"server_optimizer": "adam", "server_learning_rate": 0.1}  # has a state of its own


def _train(store: Store, folder: Path) -> None:
    """Run the rounds that are not done."""
    for version in VERSIONS:
        if version not in _versions(store):
            assert a_round.run_round(store, folder, **ADAM) == version


def _versions(store: Store) -> list[str]:
    return [version.version for version in TrainingStore(store, a_round.NAME).versions()]


def _essences(store: Store) -> list[dict[str, Any]]:
    assert_whole(store)
    return [essence(TrainingStore(store, a_round.NAME), version) for version in VERSIONS]


def _unattended(found: list[str]) -> list[str]:
    """Leave out who sat at an attempt: another does when it is gone on with."""
    return [key for key in found if "/sittings/" not in key]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The same rounds where nothing happened."""
    folder = tmp_path_factory.mktemp("undisturbed")
    store = FolderStore(folder / "store")
    _train(store, folder / "out")
    return store


def test_transient_faults_change_nothing(s3: str, line: Line, undisturbed: Store, tmp_path: Path) -> None:
    line.plan = at_random(1, 0.3)
    store = open_store(s3)
    _train(store, tmp_path)
    assert all(line.injected[fault] > 0 for fault in Fault), line.injected
    assert line.injected.total() > 25
    line.plan = in_order()
    assert _essences(store) == _essences(undisturbed)
    assert store.keys("") == undisturbed.keys("")  # nothing lost, nothing doubled


@pytest.mark.parametrize("name", ["key", "bucket", "clock ahead"])
def test_lasting_trouble_is_one_line_and_the_round_goes_on_after_it(
    owner: Owner,
    line: Line,
    waits: list[float],
    undisturbed: Store,
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trouble = TROUBLES[name]
    line.before = lambda number: number == MIDWAY and trouble.begin(owner)
    store = open_store(owner.url)
    with contextlib.ExitStack() as stack:
        stack.callback(trouble.end, owner)
        stack.enter_context(a_round.refused(capsys, 4, trouble.message))
        _train(store, tmp_path)
    assert not waits
    if trouble.keeps:
        assert_whole(store)
    _train(store, tmp_path)
    assert _essences(store) == _essences(undisturbed)
    assert _unattended(store.keys("")) == _unattended(undisturbed.keys(""))
