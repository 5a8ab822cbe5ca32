"""A comparison as a page that needs nothing else: Kubeflow shows HTML in a sandbox."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fededge.core.comparison import Arm, Difference, Distribution, Estimate
from fededge.reports.comparison_figures import ArmFigures, Figures

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:1em;max-width:70em}}table{{border-collapse:collapse;margin:1em 0}}
td,th{{padding:.2em .8em;text-align:right;border-bottom:1px solid #ddd}}td:first-child,th:first-child{{text-align:left}}
svg{{max-width:100%;height:auto}}</style></head>
<body><h1>{title}</h1>
{reading}
{picture}
{tables}
</body></html>
"""
_NAMES = {
    Arm.FEDERATED: "federated",
    Arm.CENTRALIZED: "centralized",
    Arm.LOCAL: "local",
    Arm.FINE_TUNED: "fine-tuned",
}
_COLORS = {  # that colour-blind people tell apart: Okabe, Ito 2008, "Color Universal Design"
    Arm.FEDERATED: "#0072B2",
    Arm.CENTRALIZED: "#E69F00",
    Arm.LOCAL: "#009E73",
    Arm.FINE_TUNED: "#CC79A7",
}
_POINTS = 200  # of an arm that are drawn one by one; of more clients, as many quantiles
_FAILURES = 20  # in the table


class _Series(NamedTuple):
    """The scores of an arm's clients of one kind; `line` is how matplotlib draws their curve."""

    label: str
    color: str
    line: str
    values: list[float]


def comparison_page(figures: Figures) -> str:
    """Draw a comparison.

    Returns:
      An HTML page with an inline SVG and no script.
    """
    title = html.escape(f"{figures.training} {figures.version}: {figures.metric} of four ways to train")
    reading = "\n".join(f"<p>{html.escape(sentence)}</p>" for sentence in reading_of(figures))
    tables = "\n".join((_arms_table(figures), _differences_table(figures), _failures_table(figures)))
    return _PAGE.format(title=title, reading=reading, picture=_picture(figures), tables=tables)


def reading_of(figures: Figures) -> Iterator[str]:
    """Say what the figures say, a sentence each."""
    better = "Higher" if figures.higher_is_better else "Lower"
    unit = f", in {figures.unit}" if figures.unit else ""
    budget = figures.budget
    yield (
        f"{better} {figures.metric} is better{unit}. Federated, centralized and local models start alike and are "
        f"trained on {budget.examples:,} examples, each as often as it was used: {budget.epochs} epochs of the "
        f"{budget.available:,} there are."
    )
    yield from _official(figures)
    for difference, whom in ((figures.known, "clients"), (figures.cold, "clients that never trained")):
        if difference:
            yield _sentence(difference, whom, higher_is_better=figures.higher_is_better)
    if share := figures.than_local:
        equal = f", and {share.equal} just as well" if share.equal else ""
        yield (
            f"The federated model serves {share.better} of {share.clients} clients better than the model that each "
            f"trains alone{equal}."
        )
    if share := figures.tuned_than_federated:
        yield f"Going on from it alone is better still for {share.better} of {share.clients} clients."
    federated, centralized = figures.arms[Arm.FEDERATED], figures.arms[Arm.CENTRALIZED]
    yield (
        f"Federated training moved {_size(federated.bytes_moved)} of models and updates and no raw data; centralized "
        f"training needs {_size(centralized.raw_bytes_moved)} of raw data in one place."
    )


def _official(figures: Figures) -> Iterator[str]:
    metric = figures.metric
    found = [(arm, figures.arms[arm].official.get(metric)) for arm in (Arm.FEDERATED, Arm.CENTRALIZED)]
    scores = [f"the {_NAMES[arm]} model has {value:.4f}" for arm, value in found if value is not None]
    if scores:
        yield f"On the reported test, {' and '.join(scores)}."
    for arm, one in figures.arms.items():
        if one.problem:
            yield f"There is no {_NAMES[arm]} model to compare: {one.problem}."


def _sentence(difference: Difference, whom: str, *, higher_is_better: bool) -> str:
    low, high = difference.mean.low, difference.mean.high
    if low <= 0 <= high:
        verdict = "which holds 0, so these clients do not tell the two apart"
    else:
        verdict = f"so the federated model is {'better' if (low > 0) == higher_is_better else 'worse'}"
    return (
        f"Over {difference.clients} {whom}, federated minus centralized is {difference.mean.value:+.4f} in the mean, "
        f"with a 95 % interval from {low:+.4f} to {high:+.4f}, {verdict}."
    )


def _arms_table(figures: Figures) -> str:
    spread = ("clients", "mean", "median", "st. dev.", "worst tenth", "worst", "best")
    heads = ("", "reported", *spread, "moved", "of it raw data")
    rows = [
        (
            f"{_NAMES[arm]}{kind}",
            _number(one.official.get(figures.metric)) if not kind else "",
            *_spread(spread),
            _size(one.bytes_moved) if not kind else "",
            _size(one.raw_bytes_moved) if not kind else "",
        )
        for arm, one in figures.arms.items()
        for kind, spread in _kinds(one)
    ]
    return _table(heads, rows)


def _kinds(one: ArmFigures) -> Iterator[tuple[str, Distribution | None]]:
    """Return an arm's rows: of clients that can train, and of cold ones where there are any."""
    yield "", one.clients
    if one.cold:
        yield ", never trained", one.cold


def _spread(found: Distribution | None) -> tuple[str, ...]:
    if found is None:
        return ("0", *[""] * 6)
    worst, best = (f"{_number(one.value)} ({one.client})" for one in (found.worst, found.best))
    values = (found.mean, found.median, found.deviation, found.worst_decile)
    return (f"{found.clients:,}", *map(_number, values), worst, best)


def _differences_table(figures: Figures) -> str:
    found = (("clients", figures.known), ("clients that never trained", figures.cold))
    rows = [
        (whom, str(one.clients), _interval(one.mean), _interval(one.median), _percent(one.relative))
        for whom, one in found
        if one
    ]
    heads = ("federated − centralized", "clients", "mean (95 %)", "median (95 %)", "mean, relative")
    return _table(heads, rows) if rows else ""


def _failures_table(figures: Figures) -> str:
    found = [(_NAMES[arm], failure) for arm, one in figures.arms.items() for failure in one.failures]
    rows = [(name, one.client, one.reason.value, one.detail) for name, one in found[:_FAILURES]]
    more = f"<p>and {len(found) - _FAILURES:,} more, in the figures.</p>" if len(found) > _FAILURES else ""
    return f"{_table(('left out', 'client', 'reason', 'detail'), rows)}{more}" if rows else ""


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heads)
    body = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}\n</table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:+.1%}"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _picture(figures: Figures) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    series = [one for one in _series(figures) if one.values]
    with rc_context({"svg.hashsalt": "fededge"}):  # the same figures give the same bytes
        figure = Figure(figsize=(11, 8), layout="constrained")
        spread, curves, alone, moved = figure.subplots(2, 2).flat
        _draw_spread(spread, series, figures.metric)
        _draw_curves(curves, series, figures.metric)
        _draw_alone(alone, figures)
        _draw_moved(moved, figures)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue().partition("?>")[2].partition(">")[2]  # without the XML prologue and doctype


def _series(figures: Figures) -> Iterator[_Series]:
    known = set(figures.population)
    for arm, one in figures.arms.items():
        members = [value for client, value in one.scores.items() if client in known]
        cold = [value for client, value in one.scores.items() if client not in known]
        yield _Series(_NAMES[arm], _COLORS[arm], "-", _thinned(members))
        yield _Series(f"{_NAMES[arm]},\nnever trained", _COLORS[arm], "--", _thinned(cold))


def _thinned(values: Sequence[float]) -> list[float]:
    """Sort scores; of very many, keep quantiles, or the page would grow with the clients."""
    ordered = sorted(values)
    if len(ordered) <= _POINTS:
        return ordered
    return [float(value) for value in np.quantile(ordered, np.linspace(0, 1, _POINTS))]


def _draw_spread(axes: Any, series: Sequence[_Series], metric: str) -> None:
    axes.set_title("each client's score")
    places = range(len(series))
    boxes = axes.boxplot([one.values for one in series], positions=places, widths=0.5, showfliers=False)
    for box, median, one in zip(boxes["boxes"], boxes["medians"], series, strict=True):
        box.set_color(one.color)
        median.set_color("black")
    aside = np.random.default_rng(0)
    for place, one in zip(places, series, strict=True):
        axes.scatter(place + aside.uniform(-0.2, 0.2, len(one.values)), one.values, s=9, color=one.color, alpha=0.6)
    axes.set_xticks(list(places), [one.label for one in series])
    axes.set_ylabel(metric)
    axes.grid(axis="y", alpha=0.3)


def _draw_curves(axes: Any, series: Sequence[_Series], metric: str) -> None:
    axes.set_title("share of clients with at most this score")
    for one in series:
        shares = np.arange(len(one.values) + 1) / len(one.values)
        scores = [one.values[0], *one.values]
        axes.step(scores, shares, where="post", color=one.color, linestyle=one.line, label=one.label)
    axes.set(xlabel=metric, ylabel="share of clients", ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()


def _draw_alone(axes: Any, figures: Figures) -> None:
    local = figures.arms[Arm.LOCAL].scores
    beside = figures.federated_beside
    both = [(value, beside[client]) for client, value in local.items() if client in beside]
    axes.set_title("each client's local model and the federated one")
    axes.set(xlabel=f"{figures.metric} of the local model", ylabel=f"{figures.metric} of the federated model")
    axes.grid(alpha=0.3)
    if not both:
        return
    ends = [min(map(min, both)), max(map(max, both))]
    side = "above" if figures.higher_is_better else "below"
    axes.plot(ends, ends, color="gray", linewidth=1, label=f"equal; {side} it, federated is better")
    drawn = both[:: -(-len(both) // _POINTS)]
    axes.scatter([x for x, _ in drawn], [y for _, y in drawn], s=14, color=_COLORS[Arm.FEDERATED], alpha=0.7)
    axes.legend()


def _draw_moved(axes: Any, figures: Figures) -> None:
    axes.set_title("bytes moved from and to clients")
    arms = list(figures.arms)[::-1]
    moved = [figures.arms[arm].bytes_moved for arm in arms]
    names, colors = [_NAMES[arm] for arm in arms], [_COLORS[arm] for arm in arms]
    bars = axes.barh(names, [size / 1e6 for size in moved], color=colors)
    raw = [", raw data" if figures.arms[arm].raw_bytes_moved else "" for arm in arms]
    axes.bar_label(bars, [f"{_size(size)}{what}" for size, what in zip(moved, raw, strict=True)], padding=4)
    axes.set_xlabel("MB")
    axes.margins(x=0.45)
    axes.grid(axis="x", alpha=0.3)
