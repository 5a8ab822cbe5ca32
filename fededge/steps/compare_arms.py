"""Puts the arms of a comparison side by side."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from fededge.core.comparison import Arm
from fededge.errors import InputError, NotFoundError
from fededge.records import ArmResult, Comparison, ComparisonRef
from fededge.reports.comparison import comparison_page
from fededge.reports.comparison_figures import figures_of
from fededge.reports.round_report import exclusions
from fededge.steps.running import running
from fededge.store import open_store
from fededge.store.comparisons import ComparisonStore


def compare_arms(
    store: str, comparison: str, reports: Sequence[Mapping[str, int | str]], page_path: str, figures_path: str
) -> dict[str, float]:
    """Compare the arms of a comparison, all of whose batches have been trained.

    Args:
      store: as in `open_store`.
      comparison: as `plan_comparison` named it.
      reports: what `train_arm` returned for each batch; only told.
      page_path: where to write the report, HTML.
      figures_path: where to write all figures, JSON.

    Returns:
      The figures that people look at first, by name.

    Raises:
      NotFoundError: a batch has no result.
      InputError: fewer than two clients have a score.
    """
    with running("compare"):
        for report in reports:
            sys.stdout.write(f"{dict(report)}\n")
        comparisons = ComparisonStore(open_store(store))
        plan = comparisons.comparison(ComparisonRef.parse(comparison))
        results = [_result(comparisons, plan, batch) for batch in plan.batches]
        _require_two(results)
        figures = figures_of(plan, results)
        Path(figures_path).write_text(figures.model_dump_json(indent=1), encoding="utf-8")
        Path(page_path).write_text(comparison_page(figures), encoding="utf-8")
        return figures.metrics()


def _result(comparisons: ComparisonStore, plan: Comparison, batch: str) -> ArmResult:
    if result := comparisons.result(plan.ref, batch):
        return result
    raise NotFoundError(f"comparison {plan.ref} has no result of {batch}: run it again")


def _require_two(results: Sequence[ArmResult]) -> None:
    """Make sure that there is something to compare.

    Raises:
      InputError: there is not.
    """
    problems = [f"{result.arm}: {result.problem}" for result in results if result.problem]
    alone = [result for result in results if result.arm is Arm.LOCAL]
    scored = sum(len(result.scores) for result in alone)
    if scored >= 2:
        return
    failures = [failure for result in alone for failure in result.failures]
    sys.stdout.write(f"{exclusions(failures)}\n")
    first = f" ({failures[0].client}: {failures[0].reason}: {failures[0].detail})" if failures else ""
    raise InputError(
        f"{scored} of {scored + len(failures)} clients have a local model with a score, and a comparison needs 2"
        f"{first}{''.join(f'; {problem}' for problem in problems)}"
    )
