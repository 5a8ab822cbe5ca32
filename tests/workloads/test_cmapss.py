"""Engines of C-MAPSS: the window that a model sees, what it is to tell, and who is tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fededge.datasets import cmapss
from fededge.errors import WorkloadError
from fededge.settings import RoundSettings
from fededge.workloads import HasClientTests, load_workload
from fededge.workloads.cmapss import measure, workload
from tests.datasets.written import lines, write

Engines = Sequence[tuple[int, int]]
Fleet = Callable[[Engines, Engines], None]


def rows(engines: Engines) -> list[str]:
    """Write engines of so many cycles, whose first setting is 1000 times the engine's number and the cycle."""
    return [
        f"{engine} {cycle} {1000 * engine + cycle} " + "0.5 " * 23
        for engine, cycles in engines
        for cycle in range(1, cycles + 1)
    ]


def seen(window: np.ndarray) -> list[int]:
    """Tell of which engine and cycle each row of a window is."""
    return [int(value) for value in window[:, 0]]


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Write (engine, cycles) to train and to test on, and give them to the workload; of those, 7, 8, … are left."""
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))

    def give(train: Engines, test: Engines) -> None:
        left = "".join(f"{7 + i}\n" for i in range(len(test)))
        files = {cmapss.TRAIN_FILE: lines(rows(train)), cmapss.TEST_FILE: lines(rows(test)), cmapss.RUL_FILE: left}
        write(tmp_path, {name: text.encode() for name, text in files.items()})

    return give


def test_it_is_built_in_and_has_tests_of_each_client() -> None:
    assert load_workload("cmapss") is workload
    assert isinstance(workload, HasClientTests)


def test_ids_have_gaps_and_test_engines_are_others(fleet: Fleet) -> None:
    fleet([(2, 3), (9, 2)], [(1, 4), (2, 1)])
    assert workload.population(0) == ["engine-2", "engine-9"]
    assert workload.test_clients(0) == ["test-engine-1", "test-engine-2"]
    assert seen(workload.train_data("engine-2", 0).x[-1])[-1] == 2003
    assert seen(workload.client_test_data("test-engine-2", 0).x[0])[-1] == 2001
    for stranger in ("engine-1", "test-engine-1", "2", ""):
        with pytest.raises(WorkloadError, match=f"no client {stranger}"):
            workload.train_data(stranger, 0)
    with pytest.raises(WorkloadError, match="no client engine-2"):
        workload.client_test_data("engine-2", 0)


def test_an_engine_that_never_trained_is_tested_on_all_its_life(fleet: Fleet) -> None:
    fleet([(2, 3), (9, 40)], [(1, 4)])
    assert workload.everyone() == ["engine-2", "engine-9", "test-engine-1"]
    cold = workload.cold_test_data("engine-9")
    assert len(cold) == 40
    np.testing.assert_array_equal(cold.y, np.arange(40)[::-1])
    assert len(workload.cold_test_data("test-engine-1")) == 1


def test_without_the_publishers_test_the_others_are_tested(fleet: Fleet, tmp_path: Path) -> None:
    fleet([(2, 3)], [(1, 4)])
    (tmp_path / cmapss.TEST_FILE).unlink()
    assert workload.everyone() == ["engine-2"]
    with pytest.raises(WorkloadError, match=cmapss.TEST_FILE):
        workload.test_data()


def test_a_window_is_the_last_thirty_cycles_and_ends_with_its_own(fleet: Fleet) -> None:
    fleet([(3, 40)], [(1, 1)])
    train = workload.train_data("engine-3", 0)
    assert len(train) == 40
    assert seen(train.x[39]) == list(range(3011, 3041))
    assert seen(train.x[29]) == list(range(3001, 3031))


def test_before_its_first_cycle_an_engine_was_as_in_that(fleet: Fleet) -> None:
    fleet([(3, 40)], [(1, 2)])
    train, test = workload.train_data("engine-3", 0), workload.client_test_data("test-engine-1", 0)
    assert seen(train.x[0]) == [3001] * 30
    assert seen(train.x[28]) == [3001, *range(3001, 3030)]
    assert seen(test.x[0]) == [1001] * 29 + [1002]


def test_the_target_is_what_is_left_capped(fleet: Fleet) -> None:
    fleet([(3, 128)], [(1, 1)])
    assert workload.train_data("engine-3", 0).y.tolist() == [125, 125, *range(125, -1, -1)]


def test_a_test_engine_is_one_example(fleet: Fleet) -> None:
    fleet([(1, 1)], [(1, 50), (4, 60)])
    test = workload.client_test_data("test-engine-4", 0)
    assert seen(test.x[0]) == list(range(4031, 4061))
    assert test.y.tolist() == [8]
    everyone = workload.test_data()
    assert [seen(window)[-1] for window in everyone.x] == [1050, 4060]
    assert everyone.y.tolist() == [7, 8]
    assert everyone.schema() == workload.train_data("engine-1", 0).schema() == {"x": "float32[30,24]", "y": "float32[]"}


def test_what_a_test_engine_has_left_is_capped_too(fleet: Fleet, tmp_path: Path) -> None:
    fleet([(1, 1)], [(1, 1)])
    write(tmp_path, {cmapss.RUL_FILE: b"145\n"})
    assert workload.test_data().y.tolist() == [125]


def test_an_engine_alone_with_its_data(fleet: Fleet, tmp_path: Path) -> None:
    """As on a device: no other engine, and no test."""
    fleet([(5, 2)], [(1, 1)])
    for name in (cmapss.TEST_FILE, cmapss.RUL_FILE):
        (tmp_path / name).unlink()
    assert workload.population(0) == ["engine-5"]
    assert workload.train_data("engine-5", 0).y.tolist() == [1, 0]


def test_a_bad_reading_stays_one(fleet: Fleet, tmp_path: Path) -> None:
    """The learner refuses it, or takes it for missing; nobody makes a number up."""
    fleet([(1, 2)], [(1, 1)])
    row = "1 1 nan " + "0.5 " * 23
    write(tmp_path, {cmapss.TRAIN_FILE: lines([row]).encode()})
    assert np.isnan(workload.train_data("engine-1", 0).x[0, :, 0]).all()


def test_predictions_are_clipped_as_the_targets_are() -> None:
    measured = measure(np.array([125, 0, 50], np.float32), np.array([180, -20, 53], np.float32))
    assert measured == {"rmse": pytest.approx(3**0.5), "mae": pytest.approx(1)}


def test_real_engines(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    engines = cmapss.read_train(data)
    members = workload.population(0)
    assert members == [f"engine-{number}" for number in engines]
    for engine, cycles in zip(members, engines.values(), strict=True):
        train = workload.train_data(engine, 0)
        assert len(train) == len(cycles)
        assert (train.y.max(), train.y.min()) == (125, 0)
    test = workload.test_data()
    assert len(test) == 100
    mean = np.full(100, np.concatenate([workload.train_data(engine, 0).y for engine in members]).mean())
    assert measure(test.y, mean)["rmse"] == pytest.approx(42.0, abs=0.3)  # what the training mean is worth


def test_its_settings_are_a_rounds() -> None:
    RoundSettings.parse(workload="cmapss", **workload.defaults)
