"""Health monitoring by WISDM: who trains, who is never seen, and what a model is told of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from fededge.datasets import wisdm
from fededge.datasets.wisdm import ACTIVITIES
from fededge.errors import WorkloadError
from fededge.settings import LocalTraining, RoundSettings
from fededge.workloads import HasClientTests, load_workload
from fededge.workloads.wisdm import UNSEEN, workload
from tests.datasets.written import HEADER, lines, wisdm_row, write

Windows = Sequence[tuple[int, str]]
People = Callable[[Windows], None]


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    """Write a data set of (user, activity), and give it to the workload."""

    def give(windows: Windows) -> None:
        rows = [wisdm_row(number, user, activity) for number, (user, activity) in enumerate(windows)]
        write(tmp_path, {wisdm.FILE: lines([*HEADER, *rows]).encode()})
        monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))

    return give


def windows_of(*users: int) -> Windows:
    return [(user, "Walking") for user in users for _ in range(5)]


def numbers(x: np.ndarray) -> list[int]:
    """Tell which windows of `people` these are: RESULTANT, the 43rd feature, is number / 100 + 42."""
    return [round((float(value) - 42) * 100) for value in x[:, 10]]


def test_it_is_built_in_and_has_tests_of_each_client() -> None:
    assert load_workload("wisdm") is workload
    assert isinstance(workload, HasClientTests)


def test_the_fixed_users_are_never_trained_on(people: People) -> None:
    people(windows_of(1, 2, 7, 30, 36))
    assert workload.population(0) == ["user-2", "user-30", "user-36"]
    assert workload.official is not None
    assert workload.official() == ["user-1", "user-7"]
    assert len(workload.test_data()) == 10
    with pytest.raises(WorkloadError, match="no client user-7"):
        workload.train_data("user-7", 0)


@pytest.mark.parametrize(("users", "unseen"), [((2, 3, 4, 5, 6, 8, 9), ["user-2", "user-8"]), ((40, 38), ["user-38"])])
def test_without_those_every_fifth_is_unseen(people: People, users: Sequence[int], unseen: list[str]) -> None:
    people(windows_of(*users))
    assert workload.official is not None
    assert workload.official() == unseen
    assert set(workload.population(0)) == {f"user-{user}" for user in users} - set(unseen)


def test_a_lone_user_trains(people: People) -> None:
    """As where the data folder of a device has its owner's data alone."""
    people(windows_of(5))
    assert workload.population(0) == workload.test_clients(0) == ["user-5"]
    assert len(workload.train_data("user-5", 0)) == 4
    with pytest.raises(WorkloadError, match="no client to test on"):
        workload.test_data()


def test_with_unseen_users_alone_nobody_trains(people: People) -> None:
    people(windows_of(1, 20))
    with pytest.raises(WorkloadError, match="no client to train"):
        workload.population(0)
    assert len(workload.test_data()) == 10


def test_who_trains_keeps_the_last_fifth_of_each_activity(people: People) -> None:
    people([(2, activity) for activity in ("Walking", "Sitting") * 10] + [(1, "Jogging")])
    train, test = workload.train_data("user-2", 0), workload.client_test_data("user-2", 0)
    assert numbers(train.x) == list(range(16))
    assert numbers(test.x) == list(range(16, 20))
    assert [ACTIVITIES[label] for label in test.y] == ["Walking", "Sitting"] * 2
    assert train.schema() == test.schema() == {"x": "float32[13]", "y": "int32[]"}


def test_an_activity_of_few_windows_is_trained_on(people: People) -> None:
    people([(2, "Walking")] * 4 + [(1, "Walking")])
    assert len(workload.train_data("user-2", 0)) == 4
    assert workload.test_clients(0) == ["user-1"]
    assert len(workload.client_test_data("user-2", 0)) == 0


def test_on_a_device_whoever_the_round_asks_trains(people: People) -> None:
    """Of two people alone one would be unseen; of the fixed ones nobody trains anywhere."""
    people(windows_of(2, 4, 7))
    assert len(workload.train_data("user-2", 23)) == len(workload.train_data("user-4", 23)) == 4
    with pytest.raises(WorkloadError, match="no client user-7"):
        workload.train_data("user-7", 23)
    assert [user for user in ("user-2", "user-7", "user-", "subject-2") if workload.is_client(user)] == ["user-2"]


def test_who_never_trained_is_tested_on_everything(people: People) -> None:
    people(windows_of(1, 2))
    assert workload.everyone() == ["user-2", "user-1"]
    assert len(workload.client_test_data("user-2", 0)) == 1
    assert [len(workload.cold_test_data(user)) for user in workload.everyone()] == [5, 5]


def test_an_unseen_user_is_tested_on_everything(people: People) -> None:
    people([*windows_of(2), (7, "Standing"), (7, "Jogging")])
    assert [ACTIVITIES[label] for label in workload.client_test_data("user-7", 0).y] == ["Standing", "Jogging"]


def test_clients_who_are_not_there(people: People) -> None:
    people(windows_of(1, 2, 3))
    for stranger in ("user-99", "user-0", "2", ""):
        with pytest.raises(WorkloadError, match=f"no client {stranger}"):
            workload.train_data(stranger, 0)
    with pytest.raises(WorkloadError, match="clients=5"):
        workload.population(5)


def test_what_is_missing_stays_missing_and_all_else_is_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    still = dict.fromkeys(wisdm.FEATURES, "0")
    rows = [
        wisdm_row(1, 1, "Sitting", **{**still, "XPEAK": "?", "ZPEAK": "?"}),
        wisdm_row(2, 1, "Sitting", **{**still, "YAVG": "-9.8", "YPEAK": "100"}),
    ]
    write(tmp_path, {wisdm.FILE: lines([*HEADER, *rows]).encode()})
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))
    x = workload.test_data().x
    assert np.argwhere(np.isnan(x)).tolist() == [[0, 2], [0, 4]]
    assert not np.isinf(x).any()
    np.testing.assert_allclose(x[1, [0, 3]], [9.8, np.log(100)], rtol=1e-6)


def test_real_people(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    members = workload.population(0)
    unseen = {f"user-{number}" for number in UNSEEN}
    assert workload.official is not None
    assert set(workload.official()) <= unseen
    assert not unseen & set(members)
    assert list(workload.test_clients(0)) == sorted([*members, *workload.official()], key=lambda user: int(user[5:]))
    everyone = wisdm.read(data)
    for user in members:
        train, test = workload.train_data(user, 0), workload.client_test_data(user, 0)
        assert len(train) + len(test) == len(everyone[int(user.removeprefix("user-"))].y)
        assert 0.1 < len(test) / (len(train) + len(test)) <= 0.2
        assert set(test.y) <= set(train.y)
        assert not np.isinf(train.x).any()
        assert np.nanmax(np.abs(train.x)) < 50  # nothing with a long tail


def test_its_settings_are_a_rounds() -> None:
    RoundSettings.parse(workload="wisdm", **workload.defaults)
    LocalTraining.parse(**workload.fine_tuning)
