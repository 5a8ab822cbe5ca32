"""Markdown of texts that others chose: clients name themselves and say why they failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_LENGTH = 200  # characters of one cell
_LARGE = 1e9
_MARKS = re.compile(r"[\\`*\[\]<>|&~]|\b_+|_+\b")


def cell(text: str) -> str:
    """Show a text as it is, on one line: it is no markup, and no control sequence for a terminal."""
    line = "".join(c if c.isprintable() else " " for c in text)
    shown = line if len(line) <= _LENGTH else f"{line[: _LENGTH - 1]}…"
    return _MARKS.sub(lambda marks: "".join(f"\\{mark}" for mark in marks[0]), shown)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw a table.

    Args:
      columns: their names; one that begins with `#` has numbers, which are aligned on the right.
      rows: cells that are Markdown already.
    """
    heads = [column.removeprefix("#") for column in columns]
    rules = ["---:" if column.startswith("#") else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows))


def names(clients: Sequence[str], most: int) -> str:
    """List clients; of many, the first ones and how many more there are."""
    shown = ", ".join(cell(client) for client in clients[:most])
    more = len(clients) - most
    return f"{shown} and {more} more" if more > 0 else shown


def number(value: float) -> str:
    """Show a number of any size shortly."""
    return f"{value:,.0f}" if isinstance(value, int) or 1000 <= abs(value) < _LARGE else f"{value:.4g}"
