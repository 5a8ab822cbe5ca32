from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console
from rich.markdown import Markdown

from fededge.core.updates import ExclusionReason
from fededge.records import ClosedBecause, Version
from fededge.reports.markdown import cell
from fededge.reports.round_report import exclusions, round_report
from tests.reports.made import left_out, update, version


def _report(made: Version) -> str:
    return round_report(made, [made])


@pytest.mark.parametrize(
    ("because", "words"),
    [
        (ClosedBecause.ALL_ANSWERED, "because every client had answered"),
        (ClosedBecause.TARGET_REACHED, "because its target was reached"),
        (ClosedBecause.DEADLINE, "because its deadline had passed"),
        (ClosedBecause.TASKS_ENDED, "because all its tasks had ended; some clients did not deliver"),
    ],
)
def test_it_says_why_the_round_closed(because: ClosedBecause, words: str) -> None:
    assert words in _report(version([update("a")], because=because))


def test_it_says_where_the_version_comes_from_and_how_good_it_is() -> None:
    report = _report(version([update("a")]))
    assert "# Round 3 of digits: v3" in report
    assert "Made from v2 in attempt 2. On the test data: accuracy **0.9000**." in report


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "Updates that count: 2, 1 more than min_clients asks for; 1 fewer than the target of 3."),
        ({"min_clients": 2, "target_clients": 2}, "2, 0 more than min_clients asks for; the target was reached."),
    ],
)
def test_it_says_how_near_the_quorum_was(settings: dict[str, Any], words: str) -> None:
    assert words in _report(version([update("a"), update("b")], [left_out("c")], settings))


def test_it_shows_each_update_with_what_it_claims_and_what_it_weighs() -> None:
    accepted = [
        update("a", 1000, 12.34, weight=30),
        update("b", 10, norm=123.456, clipped=True),
        update("c", 20, metrics={}),
    ]
    report = _report(version(accepted, settings={"clip_norm": 5.0}))
    assert "| a | 1,000 | 30 (capped) | 50.0% | 1 | 12.3 | 0.5000 |" in report
    assert "| b | 10 | 10 | 16.7% | 123.5 (clipped) | 1.0 | 0.5000 |" in report
    assert "| c | 20 | 20 | 33.3% | 1 | 1.0 |  |" in report
    assert "1 claimed more examples than may weigh and were capped (max_client_share=0.2)." in report
    assert "1 were scaled down to the norm 5.0 (clip_norm)." in report


def test_it_names_those_that_the_rule_chose() -> None:
    accepted = [update(name) for name in "abcde"]
    settings = {"aggregation": "krum", "attackers": 1}
    report = _report(version(accepted, settings=settings, counted=["d"]))
    assert "They were combined by krum, which used 1 of 5, all alike: d." in report
    assert "| d | 10 | 10 | 100.0% |" in report
    assert "| a | 10 | 10 | 0.0% |" in report


def test_it_says_that_a_rule_used_all() -> None:
    assert "combined by median, all alike" in _report(version([update("a")], settings={"aggregation": "median"}))


def test_it_names_those_that_delivered_twice() -> None:
    assert "something else, of which the first counts: a, b." in _report(version([update("a")], repeats=["a", "b"]))


def test_version_0_has_no_clients() -> None:
    report = _report(version([], parent=None, version="v0", round=0, because=None, metrics={}))
    assert "The model that the training began with." in report
    assert "Took part" not in report
    assert "None" not in report


def test_it_looks_back_on_the_lineage() -> None:
    made = version([update("a")])
    assert "## Who completes\n" in _report(made)
    report = round_report(made, [made, made, version([], parent=None)])
    assert "## Who completes, in the last 2 rounds" in report
    assert "| 10 | 1 | 2 | 2 | 100.0% | 100.0% |" in report


def test_twenty_updates_are_shown_in_client_order() -> None:
    report = _report(version([update(f"c{i:02d}", i + 1) for i in range(20)]))
    assert [f"| c{i:02d} |" in report for i in range(20)] == [True] * 20
    assert report.index("| c00 |") < report.index("| c19 |")
    assert "more, which weigh" not in report


def test_of_many_updates_the_heaviest_are_shown_and_the_rest_is_summed_up() -> None:
    # 1 + … + 100 = 5050, of which 81 + … + 100 = 1810
    report = _report(version([update(f"c{i:03d}", i) for i in range(1, 101)]))
    assert "| c100 | 100 | 100 | 2.0% |" in report
    assert "| c081 |" in report
    assert "| c080 |" not in report
    assert "and 80 more, which weigh 64.2% together. Of all 100:" in report
    assert "| examples | 1 | 50.5 | 100 |" in report


def test_a_report_of_many_clients_stays_short() -> None:
    detail = "OSError: " + "x" * 1000
    reasons = list(ExclusionReason)
    accepted = [update(f"client-{i:06d}", i + 1, float(i % 97)) for i in range(20_000)]
    excluded = [left_out(f"client-{i:06d}", reasons[i % len(reasons)], detail) for i in range(20_000, 30_000)]
    repeats = [one.client for one in accepted]
    report = _report(version(accepted, excluded, {"clip_norm": 1.0}, repeats=repeats))
    assert len(report.encode()) < 20_000
    assert "and 19,980 more" in report


def test_nobody_left_out_is_said() -> None:
    assert exclusions([]) == "Nobody."


def test_exclusions_are_grouped_by_reason_the_most_frequent_first() -> None:
    shown = exclusions(
        [
            left_out("a", ExclusionReason.LATE, "arrived 3 s after the deadline"),
            left_out("b", ExclusionReason.NO_UPDATE),
            left_out("c", ExclusionReason.NO_UPDATE),
        ]
    )
    assert shown.splitlines()[2:] == [
        "| b | NO_UPDATE |  |",
        "| c | NO_UPDATE |  |",
        "| a | LATE | arrived 3 s after the deadline |",
    ]


def test_of_many_exclusions_each_reason_has_examples() -> None:
    many = [left_out(f"a{i:03d}", ExclusionReason.NO_UPDATE) for i in range(500)]
    some = [left_out(f"b{i:03d}", ExclusionReason.LATE) for i in range(30)]
    one = [left_out("c", ExclusionReason.CORRUPT)]
    shown = exclusions([*many, *some, *one])
    assert [line.count("|") for line in shown.splitlines()].count(4) == 2 + 6 + 6 + 1
    assert "| c | CORRUPT |" in shown
    assert "and 518 more: 494 NO_UPDATE, 24 LATE." in shown


@pytest.mark.parametrize(
    "text",
    [
        "OSError: [Errno 5] no __init__ in _x_",
        "a | b * c ** d ` e",
        "<script>alert(1)</script> &amp;",
        "[here](https://example.org) ~~gone~~ \\",
        "snake_case_name",
    ],
)
def test_what_clients_say_is_no_markup(text: str) -> None:
    console = Console(file=io.StringIO(), width=300, force_terminal=False)
    console.print(Markdown(exclusions([left_out("client", detail=text)])))
    assert isinstance(console.file, io.StringIO)
    assert text in console.file.getvalue()


def test_what_clients_say_is_one_short_line_without_control_characters() -> None:
    assert cell("a\nb\x1b[31m\u2028c") == "a b \\[31m c"
    assert len(cell("x" * 10_000)) == 200
