"""Buildings of Cambridge: what a model is told a day ahead, and that a building's mean is of its past alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from fededge.datasets import buildings
from fededge.errors import WorkloadError
from fededge.settings import LocalTraining, RoundSettings
from fededge.workloads import HasClientTests, load_workload
from fededge.workloads.buildings import TEST_BEGINS, measure, workload
from tests.datasets.written import BUILDING, HOURS, lines, write

Loads = Mapping[int, np.ndarray]
Estate = Callable[[Loads], None]

HOUR = np.arange(8760)
COUNTING = 1000.0 + HOUR  # kWh
MEAN = 1000 + (7008 - 1) / 2  # of the first 7008 hours
NAME = "UCam_Building_b{}"


def table(header: str, *columns: np.ndarray) -> bytes:
    values = zip(HOURS, *(column.tolist() for column in columns), strict=True)
    return lines([header, *(",".join(map(str, row)) for row in values)]).encode()


@pytest.fixture
def estate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Estate:
    """Write buildings' electricity, and temperatures of a thousandth of the hour, and give them to the workload."""
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))
    weather = table("datetime,air_temperature [degC],rltv_hum [%],glbl_irad_amt [W/m2]", HOUR / 1000, HOUR, HOUR)
    write(tmp_path, {"weather/bedford/2018.csv": weather})

    def give(loads: Loads) -> None:
        files = {BUILDING.format(n): table("datetime,equipment load [kWh]", load) for n, load in loads.items()}
        write(tmp_path, files)

    return give


def hours_seen(x: np.ndarray) -> list[int]:
    """Tell which hours of COUNTING a row's 24 lags and its value of a week before are of."""
    return np.rint((x[:25].astype(np.float64) + 1) * MEAN - 1000).astype(int).tolist()


def test_it_is_built_in_and_has_tests_of_each_client() -> None:
    assert load_workload("buildings") is workload
    assert isinstance(workload, HasClientTests)


def test_what_is_told_ends_a_day_before(estate: Estate) -> None:
    estate({7: COUNTING})
    train = workload.train_data(NAME.format(7), 0)
    assert hours_seen(train.x[0]) == [*range(144, 120, -1), 0]  # of hour 168
    assert hours_seen(train.x[100]) == [*range(244, 220, -1), 100]
    assert train.y[0] == pytest.approx(1168 / MEAN)
    assert train.schema() == {"x": "float32[57]", "y": "float32[]"}


def test_the_hour_the_weekday_and_the_temperature_are_the_targets(estate: Estate) -> None:
    """2018 began on a Monday."""
    estate({7: COUNTING})
    train = workload.train_data(NAME.format(7), 0)
    for row, hour, weekday in ((0, 0, 0), (5, 5, 0), (24 + 23, 23, 1), (6 * 24, 0, 6), (7 * 24 + 1, 1, 0)):
        clock = train.x[row, 25:56]
        assert np.flatnonzero(clock).tolist() == [hour, 24 + weekday]
        assert train.x[row, 56] == pytest.approx(((168 + row) / 1000 - 10) / 10)


def test_learning_ends_where_the_test_begins(estate: Estate) -> None:
    estate({7: COUNTING})
    train, test = workload.train_data(NAME.format(7), 0), workload.client_test_data(NAME.format(7), 0)
    assert TEST_BEGINS == 7008
    assert (len(train), len(test)) == (7008 - 168, 8760 - 7008)
    assert train.y[-1] == pytest.approx(8007 / MEAN)
    assert test.y[0] == pytest.approx(8008 / MEAN)
    assert hours_seen(test.x[0]) == [*range(6984, 6960, -1), 6840]
    assert hours_seen(test.x[-1])[0] == 8735


def test_nothing_to_learn_from_depends_on_the_test(estate: Estate) -> None:
    """The building's mean neither; it is the same in the test, also of a building that nobody trains on."""
    other = COUNTING.copy()
    other[7008:] *= 50
    estate({7: COUNTING, 8: other})
    trains = [workload.train_data(NAME.format(number), 0) for number in (7, 8)]
    np.testing.assert_array_equal(trains[0].x, trains[1].x)
    np.testing.assert_array_equal(trains[0].y, trains[1].y)
    assert workload.client_test_data(NAME.format(8), 0).y[0] == pytest.approx(50 * 8008 / MEAN)


def test_no_target_is_among_the_inputs_of_its_day(estate: Estate) -> None:
    """What comes in the 24 hours up to the target changes nothing of what is told."""
    other = COUNTING.copy()
    other[8000 - 23 : 8001] = 0
    estate({7: COUNTING, 8: other})
    tests = [workload.client_test_data(NAME.format(number), 0) for number in (7, 8)]
    row = 8000 - 7008
    np.testing.assert_array_equal(tests[0].x[row], tests[1].x[row])
    assert (tests[0].x[row + 1] != tests[1].x[row + 1]).sum() == 1  # one hour later, the first of them is told


def test_large_and_small_buildings_look_alike(estate: Estate) -> None:
    estate({7: COUNTING, 8: COUNTING / 200})
    trains = [workload.train_data(NAME.format(number), 0) for number in (7, 8)]
    np.testing.assert_allclose(trains[0].x, trains[1].x, atol=1e-5)
    np.testing.assert_allclose(trains[0].y, trains[1].y, rtol=1e-5)


def test_buildings_are_those_whose_files_are_there(estate: Estate) -> None:
    estate({104: COUNTING, 7: COUNTING})
    assert workload.population(0) == [NAME.format(104), NAME.format(7)]  # by name
    assert workload.test_clients(0) == workload.population(0)
    for stranger in (NAME.format(8), "7", ""):
        with pytest.raises(WorkloadError, match=f"no client {stranger}"):
            workload.train_data(stranger, 0)


def test_a_building_alone(estate: Estate) -> None:
    estate({12: COUNTING})
    assert workload.population(0) == [NAME.format(12)]
    assert len(workload.train_data(NAME.format(12), 0)) == 6840
    assert len(workload.test_data()) == 1752


def test_a_building_reads_no_other_ones_file(estate: Estate, tmp_path: Path) -> None:
    estate({7: COUNTING})
    write(tmp_path, {BUILDING.format(8): b"damaged"})
    assert len(workload.train_data(NAME.format(7), 0)) == 6840
    with pytest.raises(WorkloadError, match=r"UCam_Building_b8.*fetch buildings"):
        workload.train_data(NAME.format(8), 0)


def test_a_building_without_use_has_no_examples(estate: Estate) -> None:
    """There is nothing to divide by; the round leaves it out."""
    idle = np.where(HOUR < 7008, 0.0, 5.0)
    estate({7: COUNTING, 8: idle})
    train = workload.train_data(NAME.format(8), 0)
    assert len(train) == 0
    assert train.schema() == workload.train_data(NAME.format(7), 0).schema()
    assert workload.population(0) == [NAME.format(7), NAME.format(8)]
    assert len(workload.client_test_data(NAME.format(8), 0)) == 0


@pytest.mark.parametrize(("begins", "examples"), [(700, 6840), (702, 0), (6900, 0)])
def test_a_meter_that_was_put_in_late_has_no_mean_to_share(estate: Estate, begins: int, examples: int) -> None:
    """The publisher put 0 where there is no reading; up to a tenth of those to learn from is borne."""
    estate({7: np.where(begins > HOUR, 0.0, 5.0)})
    assert len(workload.train_data(NAME.format(7), 0)) == examples
    assert bool(len(workload.client_test_data(NAME.format(7), 0))) == bool(examples)


def test_a_bad_reading_stays_one(estate: Estate) -> None:
    """The learner refuses it, rather than that the building silently goes missing."""
    bad = COUNTING.copy()
    bad[3000] = np.nan
    estate({7: bad})
    train = workload.train_data(NAME.format(7), 0)
    assert len(train) == 6840
    assert np.isnan(train.y).any()


def test_errors_are_shares_of_the_mean() -> None:
    measured = measure(np.array([1, 1], np.float32), np.array([1.3, 0.9], np.float32))
    assert measured == pytest.approx({"cv_rmse": 0.05**0.5, "mae": 0.2})


def test_real_buildings(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    members = workload.population(0)
    assert members == workload.test_clients(0) == list(buildings.read(data))
    last_known, last_week = [], []
    for building in members:
        test = workload.client_test_data(building, 0)
        assert np.isfinite(test.x).all()
        last_known.append(measure(test.y, test.x[:, 0] + 1)["cv_rmse"])
        last_week.append(measure(test.y, test.x[:, 24] + 1)["cv_rmse"])
        train = workload.train_data(building, 0)
        assert train.y.mean() == pytest.approx(1, abs=0.05)
    assert np.mean(last_known) == pytest.approx(0.257, abs=0.001)
    assert np.mean(last_week) == pytest.approx(0.225, abs=0.001)


def test_its_settings_are_a_rounds() -> None:
    RoundSettings.parse(workload="buildings", **workload.defaults)
    LocalTraining.parse(**workload.fine_tuning)
