from __future__ import annotations

import pytest

from fededge.reports.participation import Group, Participant, fifths, participants, participation, shares
from fededge.settings import RoundSettings
from tests.reports.made import left_out, update, version


def _client(name: str, seconds: float | None, completed: int = 1, weight: float = 1.0) -> Participant:
    return Participant(name, selected=2, completed=completed, weight=weight, seconds=seconds, num_examples=None)


def _members(seconds: list[float | None]) -> list[tuple[float | None, float | None, int]]:
    groups = fifths([_client(f"c{i}", s) for i, s in enumerate(seconds)], lambda p: p.seconds)
    return [(group.least, group.most, group.clients) for group in groups]


def test_clients_are_counted_over_the_lineage() -> None:
    # The latest first: a completes twice, at last in 3 s with 30 examples; b once of two; c never of one.
    lineage = [
        version([update("a", 30, 3.0), update("b", 10, 1.0)]),
        version([update("a", 20, 2.0)], [left_out("b"), left_out("c")]),
        version([], parent=None),
    ]
    assert participants(lineage) == [
        Participant("a", selected=2, completed=2, weight=0.75 + 1.0, seconds=3.0, num_examples=30),
        Participant("b", selected=2, completed=1, weight=0.25, seconds=1.0, num_examples=10),
        Participant("c", selected=1, completed=0, weight=0.0, seconds=None, num_examples=None),
    ]


def test_the_weight_is_the_one_that_counted() -> None:
    made = [update("a", 100, weight=30), update("b", 10), update("c", 20)]
    assert shares(RoundSettings(), made, ["a", "b", "c"]) == {
        "a": 0.5,
        "b": pytest.approx(1 / 6),
        "c": pytest.approx(1 / 3),
    }


def test_a_robust_rule_weighs_those_alike_that_it_uses() -> None:
    made = [update("a", 100), update("b", 10), update("c", 20)]
    assert shares(RoundSettings(aggregation="krum"), made, ["b"]) == {"a": 0, "b": 1, "c": 0}
    assert shares(RoundSettings(aggregation="median"), made, ["a", "b", "c"]) == {
        name: pytest.approx(1 / 3) for name in "abc"
    }


def test_ten_clients_make_five_pairs() -> None:
    seconds: list[float | None] = [9, 3, 5, 1, 7, 2, 4, 6, 8, 10]
    assert _members(seconds) == [(1, 2, 2), (3, 4, 2), (5, 6, 2), (7, 8, 2), (9, 10, 2)]


def test_seven_clients_differ_by_at_most_one() -> None:
    # floor(5 i / 7) for i from 0 to 6: 0 0 1 2 2 3 4
    assert _members([1, 2, 3, 4, 5, 6, 7]) == [(1, 2, 2), (3, 3, 1), (4, 5, 2), (6, 6, 1), (7, 7, 1)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_clients_are_a_group_each(count: int) -> None:
    assert _members([float(i) for i in range(count)]) == [(i, i, 1) for i in range(count)]


def test_equal_clients_are_in_one_group() -> None:
    assert _members([2.0] * 8) == [(2.0, 2.0, 8)]
    # Ranks of ten: 1 is the first, the five 2s are all the second, 3 to 6 are the 7th to 10th: 0, 0, 3, 3, 4, 4.
    assert _members([1, 2, 2, 2, 2, 2, 3, 4, 5, 6]) == [(1, 2, 6), (3, 4, 2), (5, 6, 2)]


def test_those_who_never_completed_are_a_group_of_their_own() -> None:
    groups = fifths([_client("a", 1.0), _client("b", None, completed=0, weight=0)], lambda p: p.seconds)
    assert groups == [
        Group(least=1.0, most=1.0, clients=1, selected=2, completed=1, share=1.0),
        Group(least=None, most=None, clients=1, selected=2, completed=0, share=0.0),
    ]


def test_nobody_known_is_one_group_without_weight() -> None:
    groups = fifths([_client(name, None, completed=0, weight=0) for name in "abc"], lambda p: p.seconds)
    assert groups == [Group(least=None, most=None, clients=3, selected=6, completed=0, share=0.0)]


def test_shares_are_of_all_rounds() -> None:
    clients = [_client("a", 1.0, weight=1.5), _client("b", 2.0, weight=0.5), _client("c", None, weight=0)]
    assert [group.share for group in fifths(clients, lambda p: p.seconds)] == [0.75, 0.25, 0]


def test_rounds_that_close_early_show_in_the_slowest_fifth() -> None:
    # Ten clients of 1 to 10 s, ten rounds; the two slowest are cut off in all rounds but the first.
    fast = [update(f"c{i}", 10, float(i)) for i in range(1, 9)]
    slow = [update("c9", 10, 9.0), update("d10", 10, 10.0)]
    cut = [version(fast, [left_out("c9"), left_out("d10")])] * 9
    groups = fifths(participants([*cut, version([*fast, *slow])]), lambda p: p.seconds)
    # The others have 9 rounds of 1/8 each and one of 1/10: 1.225 of 10 a client.
    assert [(g.selected, g.completed) for g in groups] == [(20, 20)] * 4 + [(20, 2)]
    assert [g.share for g in groups] == [pytest.approx(0.245)] * 4 + [pytest.approx(0.02)]


def test_two_tables_are_drawn() -> None:
    shown = participation([version([update("a", 30, 3.25), update("b", 10, 1.0)], [left_out("c")])])
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert rows == [
        "| seconds, fastest first | clients | times drawn | completed | completion | share of the weight |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| 1 | 1 | 1 | 1 | 100.0% | 25.0% |",
        "| 3.25 | 1 | 1 | 1 | 100.0% | 75.0% |",
        "| unknown, never completed | 1 | 1 | 0 | 0.0% | 0.0% |",
        "| examples, fewest first | clients | times drawn | completed | completion | share of the weight |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| 10 | 1 | 1 | 1 | 100.0% | 25.0% |",
        "| 30 | 1 | 1 | 1 | 100.0% | 75.0% |",
        "| unknown, never completed | 1 | 1 | 0 | 0.0% | 0.0% |",
    ]


def test_without_rounds_nobody_has_been_drawn() -> None:
    assert participation([version([], parent=None)]) == "Nobody has been drawn yet."
