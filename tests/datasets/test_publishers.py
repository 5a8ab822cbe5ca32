"""The loaders on the publishers' files, where they are: whichever of the clients are in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fededge.datasets import buildings, cmapss, los, mnist, parkinsons, wisdm
from fededge.datasets.catalogue import DATA_SETS
from fededge.datasets.checking import check, look


@pytest.mark.parametrize("name", DATA_SETS)
def test_they_are_whole(name: str, data: Path) -> None:
    finding = check(DATA_SETS[name], data)
    assert finding.state in ("complete", "other"), finding.problem
    assert finding.clients > 0


@pytest.mark.parametrize("name", ["buildings", "mnist"])
def test_files_that_hold_no_other_clients_have_the_publishers_bytes(name: str, data: Path) -> None:
    files = [file for file in look(DATA_SETS[name], data) if file.path]
    assert files
    assert all(file.is_publishers for file in files)


def test_wisdm(data: Path) -> None:
    people = wisdm.read(data)
    x = np.concatenate([person.x for person in people.values()])
    column = {name: x[:, i] for i, name in enumerate(wisdm.FEATURES)}
    assert {name for name, values in column.items() if np.isnan(values).any()} <= {"XPEAK", "YPEAK", "ZPEAK"}
    assert not column["XAVG"].any()
    np.testing.assert_array_equal(column["ZSTANDDEV"], column["XSTANDDEV"])
    np.testing.assert_allclose(x[:, :10].sum(axis=1).max(), 1, atol=0.06)
    assert all(set(person.y.tolist()) <= set(range(6)) for person in people.values())


def test_parkinsons(data: Path) -> None:
    people = parkinsons.read(data)
    assert all(len(set(person.age.tolist())) == 1 and set(person.sex.tolist()) <= {0, 1} for person in people.values())
    assert all(person.motor_updrs.min() >= 5 and person.total_updrs.max() < 60 for person in people.values())
    assert all(person.test_time.min() > -5 and person.test_time.max() < 220 for person in people.values())
    # The file goes through a person's months several times.
    assert all((np.diff(person.test_time) < 0).any() for person in people.values())
    assert all(np.isfinite(person.voice).all() for person in people.values())


def test_cmapss(data: Path) -> None:
    engines = cmapss.read_train(data)
    assert 128 <= min(map(len, engines.values())) <= max(map(len, engines.values())) <= 362
    together = np.concatenate(list(engines.values()))
    constant = [name for name, column in zip(cmapss.COLUMNS, together.T, strict=True) if len(set(column.tolist())) == 1]
    assert {"setting_3", "sensor_1", "sensor_19"} <= set(constant)
    tests = cmapss.read_test(data)
    assert (len(tests), sum(map(len, tests.values()))) == (100, 13_096)
    left = cmapss.read_rul(data)
    assert list(left) == list(tests)
    assert [left[engine] for engine in (1, 2, 100)] == [112, 98, 20]


def test_los(data: Path) -> None:
    speeds = los.read(data)
    assert speeds.mph.shape == (7 * los.STEPS_PER_DAY, len(speeds.sensors))
    assert 1 <= speeds.mph.min() <= speeds.mph.max() <= 70
    adjacency = los.read_adjacency(data)
    np.testing.assert_array_equal(adjacency, adjacency.T)
    np.testing.assert_array_equal(adjacency.diagonal(), 1)


def test_buildings(data: Path) -> None:
    energy = buildings.read(data)
    assert all((series >= 0).all() and series.mean() > 0 for series in energy.values())
    weather = buildings.read_weather(data)
    july, january = (
        weather.temperature[[str(hour).startswith(f"2018-{m}") for hour in buildings.hours()]] for m in ("07", "01")
    )
    assert july.mean() > january.mean() + 10
    assert weather.irradiance.reshape(365, 24)[:, 0].max() == 0


def test_mnist(data: Path) -> None:
    assert mnist.read_train(data).images.shape == (60_000, 28, 28)
    assert mnist.read_test(data).labels[:4].tolist() == [7, 2, 1, 0]
