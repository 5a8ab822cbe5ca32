"""The metrics of all rounds so far, as a page that needs nothing else: Kubeflow shows HTML in a sandbox."""

from __future__ import annotations

import html
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:1em}}table{{border-collapse:collapse}}
td,th{{padding:.2em 1em;text-align:right;border-bottom:1px solid #ddd}}svg{{max-width:100%;height:auto}}</style></head>
<body><h1>{title}</h1>
{picture}
<table><tr><th>round</th>{heads}</tr>
{rows}
</table></body></html>
"""


class Point(NamedTuple):
    """The metrics after one round."""

    round: int
    metrics: Mapping[str, float]


def learning_curve(training: str, metric: str, points: Sequence[Point]) -> str:
    """Draw the learning curve of a training.

    Args:
      training: its name.
      metric: the one to draw; all are in the table below.
      points: by round; at least one.

    Returns:
      An HTML page with an inline SVG and no script.
    """
    title = html.escape(f"{training}: {metric} by round")
    names = sorted({name for point in points for name in point.metrics})
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    rows = "\n".join(_row(point, names) for point in points)
    return _PAGE.format(title=title, picture=_picture(metric, points), heads=heads, rows=rows)


def _row(point: Point, names: Sequence[str]) -> str:
    cells = "".join(f"<td>{point.metrics[name]:.4f}</td>" if name in point.metrics else "<td></td>" for name in names)
    return f"<tr><td>{point.round}</td>{cells}</tr>"


def _picture(metric: str, points: Sequence[Point]) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    drawn = [point for point in points if metric in point.metrics]
    with rc_context({"svg.hashsalt": "fededge"}):  # the same points give the same bytes
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        axes = figure.subplots()
        axes.plot([p.round for p in drawn], [p.metrics[metric] for p in drawn], marker="o")
        axes.set(xlabel="round", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue().partition("?>")[2].partition(">")[2]  # without the XML prologue and doctype
