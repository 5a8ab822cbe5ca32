"""Figures of the documentation, as SVG whose bytes depend on what is drawn and on nothing else."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def panels(number: int, size: tuple[float, float], *, share_y: bool = True) -> tuple[Any, Sequence[Any]]:
    """Make a figure with panels side by side; `size` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, np.atleast_1d(figure.subplots(1, number, sharey=share_y)).tolist()


def save(figure: Any, path: Path) -> None:
    from matplotlib import rc_context

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "fededge", "svg.fonttype": "none"}):  # the same points give the same bytes
        figure.savefig(path, format="svg", metadata={"Date": None})
    sys.stderr.write(f"wrote {path}\n")
