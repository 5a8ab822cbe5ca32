"""Health monitoring by Parkinsons Telemonitoring: what is earlier and what is later, and in what unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fededge.datasets import parkinsons
from fededge.errors import WorkloadError
from fededge.settings import LocalTraining, RoundSettings
from fededge.workloads import HasClientTests, load_workload
from fededge.workloads.parkinsons import SCALE, TYPICAL, workload
from tests.datasets.written import PARKINSONS_HEADER, lines, parkinsons_row, write

Recorded = Sequence[tuple[int, float]]
People = Callable[[Recorded], None]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    """Write a data set of (subject, days), and give it to the workload; the score is the days."""

    def give(recorded: Recorded) -> None:
        rows = [parkinsons_row(subject, days, motor=days) for subject, days in recorded]
        write(tmp_path, {parkinsons.FILE: lines([PARKINSONS_HEADER, *rows]).encode()})
        monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))

    return give


def days(y: np.ndarray) -> list[float]:
    """Tell when recordings were made that `people` has written."""
    return [round(float(value) * SCALE + TYPICAL, 3) for value in y]


def test_it_is_built_in_and_has_tests_of_each_client() -> None:
    assert load_workload("parkinsons") is workload
    assert isinstance(workload, HasClientTests)


def test_the_first_part_in_time_trains_and_the_later_one_tests(people: People) -> None:
    """The file goes through the months several times, and ids have gaps."""
    people([(3, float(day)) for day in (*range(0, 100, 20), *range(10, 100, 20))] + [(42, 1.0), (42, 9.0)])
    assert workload.population(0) == ["subject-3", "subject-42"]
    train, test = workload.train_data("subject-3", 0), workload.client_test_data("subject-3", 0)
    assert days(train.y) == list(range(0, 80, 10))
    assert days(test.y) == [80, 90]
    assert train.schema() == test.schema() == {"x": "float32[22]", "y": "float32[]"}


def test_a_session_is_not_on_both_sides(people: People) -> None:
    people([(1, float(day)) for day in range(7)] + [(1, 7 + minute / 1000) for minute in range(3)])
    assert days(workload.train_data("subject-1", 0).y) == list(range(7))
    assert days(workload.client_test_data("subject-1", 0).y) == [7, 7.001, 7.002]


@pytest.mark.parametrize("recorded", [(5.0,), (5.0, 5.001), (5.0, 5.001, 5.002, 5.003, 5.004, 30.0)])
def test_who_has_no_later_session_only_trains(people: People, recorded: Sequence[float]) -> None:
    """In the last case, the second session begins after 80 % of the recordings."""
    people([(1, day) for day in recorded])
    assert len(workload.train_data("subject-1", 0)) == len(recorded)
    assert not workload.test_clients(0)
    with pytest.raises(WorkloadError, match="no client to test on"):
        workload.test_data()


def test_the_reported_test_is_everybodys(people: People) -> None:
    people([(subject, float(day)) for subject in (2, 5) for day in range(10)])
    assert workload.test_clients(0) == ["subject-2", "subject-5"]
    assert days(workload.test_data().y) == [8, 9, 8, 9]


def test_subjects_who_are_not_there(people: People) -> None:
    people([(1, float(day)) for day in range(10)])
    for stranger in ("subject-2", "1", ""):
        with pytest.raises(WorkloadError, match=f"no client {stranger}"):
            workload.train_data(stranger, 0)
    with pytest.raises(WorkloadError, match=r"no client subject-2 .*such as subject-1"):
        workload.client_test_data("subject-2", 0)


def test_a_missing_measure_stays_missing_and_zero_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voice = ["nan", "0", *(["0.5"] * 13), "nan"]
    row = ",".join(["1", "72", "1", "14", "28", "34", *voice])
    write(tmp_path, {parkinsons.FILE: lines([PARKINSONS_HEADER, row]).encode()})
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))
    x = workload.train_data("subject-1", 0).x
    assert np.flatnonzero(np.isnan(x[0])).tolist() == [0, 15]
    assert not np.isinf(x).any()


def test_no_score_is_among_the_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = []
    for score in (10, 40):
        rows = [parkinsons_row(1, day, score) for day in range(10)]
        write(tmp_path / str(score), {parkinsons.FILE: lines([PARKINSONS_HEADER, *rows]).encode()})
        monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path / str(score)))
        inputs.append(workload.train_data("subject-1", 0).x)
    np.testing.assert_array_equal(*inputs)


def test_real_people(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    people = parkinsons.read(data)
    members = workload.population(0)
    assert members == workload.test_clients(0) == [f"subject-{number}" for number in people]
    errors = []
    for subject in members:
        train, test = workload.train_data(subject, 0), workload.client_test_data(subject, 0)
        recordings = people[int(subject.removeprefix("subject-"))]
        assert len(train) + len(test) == len(recordings.test_time)
        assert 0.2 <= len(test) / (len(train) + len(test)) < 0.25
        first = np.sort(recordings.test_time)[len(train)]
        assert first - np.sort(recordings.test_time)[len(train) - 1] > 0.5
        assert np.isfinite(train.x).all()
        errors.append(np.abs(test.y - train.y.mean()) * SCALE)
    assert 3.0 < np.concatenate(errors).mean() < 3.4  # what a person's own mean is worth, in points


def test_its_settings_are_a_rounds() -> None:
    RoundSettings.parse(workload="parkinsons", **workload.defaults)
    LocalTraining.parse(**workload.fine_tuning)
