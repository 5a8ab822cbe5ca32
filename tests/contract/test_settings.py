from __future__ import annotations

import pytest

from fededge.errors import InputError
from fededge.settings import LocalTraining, Placement, RoundSettings


@pytest.mark.parametrize(
    ("wanted", "size", "target"),
    [
        ({"clients": 10}, 10, 10),
        ({"clients": 10, "clients_per_round": 4}, 4, 4),
        ({"clients": 10, "clients_per_round": 4, "over_selection": 1.3}, 6, 4),
        ({"clients": 100, "clients_per_round": 10, "over_selection": 1.1}, 11, 10),
        ({"clients": 10, "clients_per_round": 9, "over_selection": 2}, 10, 9),
        ({"clients": 10, "over_selection": 3}, 10, 10),
        ({"clients": 10, "target_clients": 7}, 10, 7),
    ],
)
def test_the_cohort_and_its_target(wanted: dict[str, float], size: int, target: int) -> None:
    settings = RoundSettings.parse(**wanted)
    assert (settings.cohort_size, settings.target) == (size, target)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"clients": 10, "target_clients": 11}, "target_clients=11 is more than the 10"),
        ({"clients": 10, "clients_per_round": 4, "min_clients": 5, "over_selection": 2}, "more than the target of 4"),
        ({"attackers": 1}, "attackers goes with aggregation=trimmed_mean, krum or multi_krum, not mean"),
        ({"attackers": 1, "aggregation": "median"}, "not median"),
        (
            {"clients": 10, "attackers": 4, "aggregation": "krum"},
            "krum needs at least 11 clients against 4 attackers, there are 10",
        ),
        ({"clients": 10, "attackers": 5, "aggregation": "trimmed_mean"}, "trimmed_mean needs at least 11 clients"),
        ({"clients": 2000, "aggregation": "multi_krum"}, "at most 1000 clients"),
        ({"max_client_share": 0}, "max_client_share"),
        ({"clip_norm": -1}, "clip_norm"),
        ({"deadline_s": 100_000}, "deadline_s"),
        ({"over_selection": 0.5}, "over_selection"),
    ],
)
def test_what_cannot_be_is_refused_before_the_round(wanted: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        RoundSettings.parse(**wanted)


def test_each_round_has_its_learning_rate() -> None:
    how = LocalTraining(client_learning_rate=0.4, learning_rate_decay=0.5, local_steps=7)
    assert [how.in_round(number).client_learning_rate for number in (1, 2, 3)] == [0.4, 0.2, 0.1]
    assert how.in_round(3).in_round(5) == how.in_round(3)
    assert how.in_round(1).local_steps == 7


@pytest.mark.parametrize(
    ("how", "examples", "steps"),
    [
        ({"local_epochs": 2, "batch_size": 10}, 25, 6),
        ({"local_epochs": 2, "batch_size": 10}, 20, 4),
        ({"local_epochs": 3, "batch_size": 100}, 1, 3),
        ({"local_epochs": 3, "batch_size": 10, "local_steps": 11}, 25, 11),
    ],
)
def test_steps_count_minibatches(how: dict[str, int], examples: int, steps: int) -> None:
    assert LocalTraining(**how).steps(examples) == steps


def test_how_many_clients_there_are_is_known_with_the_workload() -> None:
    asked = RoundSettings.parse(clients_per_round=5)
    assert asked.clients == 0
    assert asked.of_population(7).cohort_size == 5
    with pytest.raises(InputError, match="clients_per_round=5 is more than clients=4"):
        asked.of_population(4)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"cpu_request": "3"}, "cpu_request=3 is more than cpu_limit=2: raise the limit, too"),
        ({"cpu_request": "2001m"}, "cpu_request=2001m is more than cpu_limit=2"),
        ({"cpu_limit": "0.4"}, "cpu_request=500m is more than cpu_limit=0.4"),
        ({"memory_request": "5G"}, "memory_request=5G is more than memory_limit=4Gi"),
        ({"memory_limit": "1G"}, "memory_request=1Gi is more than memory_limit=1G"),
        ({"memory_limit": "1024"}, "memory_request=1Gi is more than memory_limit=1024"),
        ({"memory_limit": "4096ki"}, "memory_limit='4096ki': String should match pattern"),
    ],
)
def test_a_pod_may_not_reserve_more_than_it_may_use(wanted: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        Placement.parse(**wanted)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    "wanted",
    [
        {"cpu_request": "2"},
        {"cpu_request": "2000m"},
        {"memory_request": "4Gi"},
        {"memory_request": "4194304Ki"},
        {"memory_request": "4G"},
        {"cpu_request": "9", "cpu_limit": "9.5"},
    ],
)
def test_a_pod_may_reserve_all_that_it_may_use(wanted: dict[str, str]) -> None:
    Placement.parse(**wanted)
