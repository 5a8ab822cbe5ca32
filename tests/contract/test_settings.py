from __future__ import annotations

import pytest

from fededge.errors import InputError
from fededge.settings import RoundSettings


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
        ({"attackers": 4, "aggregation": "krum"}, "krum needs at least 11 clients against 4 attackers, there are 10"),
        ({"attackers": 5, "aggregation": "trimmed_mean"}, "trimmed_mean needs at least 11 clients"),
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
