from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fededge.core.comparison import Arm
from fededge.core.updates import ExclusionReason
from fededge.records import ArmResult, ArmScore, ComparisonRef, Excluded
from fededge.reports.comparison import comparison_page, reading_of
from fededge.reports.comparison_figures import Figures, figures_of
from fededge.steps.compare_arms import compare_arms
from fededge.store import Store, keys
from tests.steps import comparing
from tests.steps.comparing import COLD, compare, plan, results, train_arms, train_rounds
from tests.steps.round import refused

MEMBERS = {"p0", "p7", "p14", "p21"}


@pytest.fixture
def made(store: Store, tmp_path: Path) -> tuple[Store, Path, comparing.Planned]:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)
    train_arms(store, planned)
    return store, tmp_path, planned


def test_the_figures_are_of_the_scores(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, folder, planned = made
    figures = compare(store, folder, planned)
    found = {arm: [s for r in results(store, planned, arm) for s in r.scores] for arm in Arm}
    scores = {arm: {s.client: s.metrics["error"] for s in found[arm]} for arm in Arm}
    assert {arm: one.scores for arm, one in figures.arms.items()} == scores
    federated, local = figures.arms[Arm.FEDERATED], figures.arms[Arm.LOCAL]
    assert federated.clients is not None
    assert federated.cold is not None
    assert (federated.clients.clients, federated.cold.clients) == (3, 2)  # p21 has no test of its own
    assert federated.clients.mean == pytest.approx(sum(scores[Arm.FEDERATED][c] for c in MEMBERS - {"p21"}) / 3)
    assert figures.higher_is_better is False
    assert federated.clients.worst.value == max(scores[Arm.FEDERATED][c] for c in MEMBERS - {"p21"})
    assert local.cold is None
    assert figures.known is not None
    assert figures.cold is not None
    assert (figures.known.clients, figures.cold.clients) == (3, 2)
    both = MEMBERS - {"p21"}
    wanted = sum(scores[Arm.FEDERATED][c] - scores[Arm.CENTRALIZED][c] for c in both) / 3
    assert figures.known.mean.value == pytest.approx(wanted)
    assert figures.official == federated.official["error"] - figures.arms[Arm.CENTRALIZED].official["error"]


def test_the_federated_model_is_beside_the_local_one_on_the_same_test(
    made: tuple[Store, Path, comparing.Planned],
) -> None:
    store, folder, planned = made
    figures = compare(store, folder, planned)
    federated, local = figures.arms[Arm.FEDERATED], figures.arms[Arm.LOCAL].scores
    beside = {**{c: federated.scores[c] for c in MEMBERS - {"p21"}}, "p21": federated.official["error"]}
    assert figures.federated_beside == beside
    assert figures.than_local is not None
    assert figures.than_local.clients == 4
    assert figures.than_local.better == sum(beside[client] < local[client] for client in MEMBERS)


def test_what_moved(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, folder, planned = made
    arms = compare(store, folder, planned).arms
    assert {arm: (one.bytes_moved, one.raw_bytes_moved) for arm, one in arms.items()} == {
        Arm.FEDERATED: (2 * 8 * 16, 0),
        Arm.CENTRALIZED: (26 * 16, 26 * 16),
        Arm.LOCAL: (0, 0),
        Arm.FINE_TUNED: (2 * 8 * 16, 0),
    }


def test_what_kubeflow_shows(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, folder, planned = made
    shown = compare_arms(store.url, planned.comparison, [], str(folder / "a.html"), str(folder / "a.json"))
    assert shown["federated_error"] == compare(store, folder, planned).arms[Arm.FEDERATED].official["error"]
    assert {"local_error_mean_of_clients", "centralized_bytes_moved", "share_better_off_than_alone"} <= shown.keys()
    assert all(isinstance(value, int | float) for value in shown.values())


def test_comparing_again_gives_the_same_bytes(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, folder, planned = made
    written = []
    for name in ("a", "b"):
        page, figures = folder / f"{name}.html", folder / f"{name}.json"
        compare_arms(store.url, planned.comparison, [], str(page), str(figures))
        written.append((page.read_bytes(), figures.read_bytes()))
    assert written[0] == written[1]


def test_the_page_needs_nothing_else(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, folder, planned = made
    compare(store, folder, planned)
    page = (folder / "page.html").read_text()
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    for name in ("federated", "centralized", "local", "fine-tuned", "never trained"):
        assert name in page


def test_without_tests_of_clients_the_reported_one_is_compared(store: Store, tmp_path: Path) -> None:
    train_rounds(store, tmp_path / "run", workload="tests.steps.comparing:plain")
    planned = plan(store)
    train_arms(store, planned)
    figures = compare(store, tmp_path, planned)
    assert figures.known is None
    assert figures.cold is None
    assert figures.official is not None
    assert figures.than_local is not None
    assert figures.than_local.clients == 4
    assert set(figures.federated_beside.values()) == {figures.arms[Arm.FEDERATED].official["error"]}


def test_a_batch_without_a_result_is_named(
    made: tuple[Store, Path, comparing.Planned], capsys: pytest.CaptureFixture[str]
) -> None:
    store, folder, planned = made
    store.delete(keys.arm_result(ComparisonRef.parse(planned.comparison), "local-b001"))
    capsys.readouterr()
    with refused(capsys, 4, "no result of local-b001", "run it again"):
        compare(store, folder, planned)
    assert not (folder / "page.html").exists()


def test_fewer_than_two_clients_are_told_in_a_line(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train_rounds(store, tmp_path / "run")
    planned = plan(store)

    def gone(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(comparing.workload, "train_data", gone)
    train_arms(store, planned)
    capsys.readouterr()
    with refused(capsys, 2, "0 of 4 clients", "p0: TRAINING_FAILED", "the disk is gone", "centralized: NO_DATA"):
        compare(store, tmp_path, planned)


def test_clients_that_failed_are_on_the_page_and_in_no_pair(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, _, planned = made
    found = comparing.comparison(store, planned)
    all_results = [r for arm in Arm for r in results(store, planned, arm)]
    spoiled = [_without(result, "p0") if result.arm is Arm.LOCAL else result for result in all_results]
    figures = figures_of(found, spoiled)
    assert figures.than_local is not None
    assert figures.than_local.clients == 3
    page = comparison_page(figures)
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "TRAINING_FAILED" in page


def _without(result: ArmResult, client: str) -> ArmResult:
    failure = Excluded(client=client, reason=ExclusionReason.TRAINING_FAILED, detail="<script>")
    scores = [score for score in result.scores if score.client != client]
    return result.model_copy(update={"scores": scores, "failures": [failure]})


def test_a_model_that_was_not_made_is_said(made: tuple[Store, Path, comparing.Planned]) -> None:
    store, _, planned = made
    found = comparing.comparison(store, planned)
    changes = {"official": {}, "scores": [], "problem": "not done after 5 s"}
    all_results = [
        result.model_copy(update=changes) if arm is Arm.CENTRALIZED else result
        for arm in Arm
        for result in results(store, planned, arm)
    ]
    figures = figures_of(found, all_results)
    assert figures.official is None
    assert figures.known is None
    assert "There is no centralized model to compare: not done after 5 s." in list(reading_of(figures))
    comparison_page(figures)
    json.loads(figures.model_dump_json())


def _many(store: Store, planned: comparing.Planned, clients: int) -> Figures:
    names = [f"person-{i:05d}" for i in range(clients)]
    found = comparing.comparison(store, planned).model_copy(update={"population": names[: clients // 2]})
    made = []
    for arm in Arm:
        whose = names if arm in (Arm.FEDERATED, Arm.CENTRALIZED) else names[: clients // 2]
        scores = [
            ArmScore(client=c, own=True, examples=9, metrics={"error": (i * 7919 % 1009) / 1009})
            for i, c in enumerate(whose)
        ]
        made.append(results(store, planned, arm)[0].model_copy(update={"scores": scores}))
    return figures_of(found, made)


@pytest.mark.parametrize("clients", [166, 20_000])
def test_the_page_stays_small(made: tuple[Store, Path, comparing.Planned], clients: int) -> None:
    store, folder, planned = made
    page = comparison_page(_many(store, planned, clients))
    (folder / "many.html").write_text(page)
    assert len(page.encode()) < 400_000
    assert set(COLD).isdisjoint(page.split())
