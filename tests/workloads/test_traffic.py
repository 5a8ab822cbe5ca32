"""Road sensors of Los-loop: what a model is told at a time, and where the times to learn from end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fededge.datasets import los
from fededge.errors import WorkloadError
from fededge.settings import LocalTraining, RoundSettings
from fededge.workloads import HasClientTests, load_workload
from fededge.workloads.traffic import measure, workload
from tests.datasets.written import lines, write

Roads = Callable[..., None]


@pytest.fixture
def roads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roads:
    """Write sensors whose reading is 1000 times their place and the row, and give them to the workload."""
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))

    def give(steps: int, *sensors: int) -> None:
        rows = [",".join(str(1000 * place + step) for place in range(len(sensors))) for step in range(steps)]
        write(tmp_path, {los.SPEED_FILE: lines([",".join(map(str, sensors)), *rows]).encode()})

    return give


def readings(x: np.ndarray) -> list[list[int]]:
    return np.rint(60 + 70 * x[:, :12].astype(np.float64)).astype(int).tolist()


def test_it_is_built_in_and_has_tests_of_each_client() -> None:
    assert load_workload("traffic") is workload
    assert isinstance(workload, HasClientTests)


def test_what_is_told_and_what_is_to_be_told(roads: Roads) -> None:
    roads(100, 773869)
    train = workload.train_data("sensor-773869", 0)
    assert readings(train.x)[0] == list(range(11, -1, -1))
    assert train.y[0].tolist() == [14, 17, 23]
    assert train.schema() == {"x": "float32[14]", "y": "float32[3]"}


def test_no_target_to_learn_from_is_in_the_part_to_test_on(roads: Roads) -> None:
    """Of 100 rows the last 20 are to test on: 80 to 99."""
    roads(100, 773869)
    train, test = workload.train_data("sensor-773869", 0), workload.client_test_data("sensor-773869", 0)
    assert train.y.max() == 79
    assert [row[0] for row in readings(train.x)] == list(range(11, 68))
    assert test.y[0].tolist() == [80, 83, 89]
    assert test.y[-1].tolist() == [90, 93, 99]
    assert [row[0] for row in readings(test.x)] == list(range(77, 88))


def test_the_time_of_day_is_that_of_the_latest_reading(roads: Roads) -> None:
    roads(500, 773869)
    times = workload.train_data("sensor-773869", 0).x[:, 12:]  # from row 11 on; row 72 is 6 h, 144 noon, 288 midnight
    for row, expected in ((72, [1, 0]), (144, [0, -1]), (288, [0, 1])):
        np.testing.assert_allclose(times[row - 11], expected, atol=1e-6)


def test_a_sensor_reads_its_own_column(roads: Roads) -> None:
    roads(100, 767542, 12, 773869)
    assert workload.population(0) == ["sensor-767542", "sensor-12", "sensor-773869"]
    train = workload.train_data("sensor-12", 0)
    assert readings(train.x)[0] == list(range(1011, 999, -1))
    assert train.y.min() == 1014
    assert len(workload.test_data()) == 3 * len(workload.client_test_data("sensor-12", 0))
    for stranger in ("sensor-1", "12", ""):
        with pytest.raises(WorkloadError, match=f"no client {stranger}"):
            workload.train_data(stranger, 0)


@pytest.mark.parametrize(("steps", "train", "test"), [(5, 0, 0), (29, 0, 0), (30, 1, 0), (45, 13, 0), (49, 16, 1)])
def test_too_few_readings_are_no_examples(roads: Roads, steps: int, train: int, test: int) -> None:
    """A time has 11 readings before it and 12 after, all targets on one side; else the round leaves the client out."""
    roads(steps, 7)
    examples = workload.train_data("sensor-7", 0)
    assert len(examples) == train
    assert examples.schema() == {"x": "float32[14]", "y": "float32[3]"}
    assert workload.test_clients(0) == (["sensor-7"] if test else [])
    if test:
        assert len(workload.test_data()) == test
    else:
        with pytest.raises(WorkloadError, match="no client to test on"):
            workload.test_data()


def test_a_bad_reading_stays_one(roads: Roads, tmp_path: Path) -> None:
    rows = ["nan" if step == 20 else "60" for step in range(100)]
    write(tmp_path, {los.SPEED_FILE: lines(["7", *rows]).encode()})
    train = workload.train_data("sensor-7", 0)
    assert np.isnan(train.x).sum() == 12
    assert np.isnan(train.y).sum() == 2  # seen from rows 14 and 17


def test_errors_are_told_for_each_time_ahead() -> None:
    targets = np.zeros((2, 3), np.float32)
    measured = measure(targets, np.array([[1, 2, 3], [1, -2, -3]], np.float32))
    assert measured == pytest.approx({"rmse": (28 / 6) ** 0.5, "mae": 2, "rmse_15": 1, "rmse_30": 2, "rmse_60": 3})


def test_real_sensors(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    speeds = los.read(data)
    members = workload.population(0)
    assert members == workload.test_clients(0) == [f"sensor-{sensor}" for sensor in speeds.sensors]
    assert len(workload.train_data(members[0], 0)) == 1589
    test = workload.test_data()
    assert len(test) == 395 * len(members)
    last = np.repeat(60 + 70 * test.x[:, :1], 3, axis=1)
    worth = measure(test.y, last)  # of the last reading
    assert worth["rmse_15"] == pytest.approx(6.38, abs=0.05)
    assert worth["rmse_30"] == pytest.approx(8.12, abs=0.05)
    assert worth["rmse_60"] == pytest.approx(10.74, abs=0.06)


def test_its_settings_are_a_rounds() -> None:
    RoundSettings.parse(workload="traffic", **workload.defaults)
    LocalTraining.parse(**workload.fine_tuning)
