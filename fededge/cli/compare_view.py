"""Shows a comparison while it goes on, and what it came to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Column, Table

from fededge.events import Event
from fededge.reports.comparison_figures import ArmFigures, Figures


class CompareView:
    """Follows a comparison's events."""

    def __init__(self, console: Console) -> None:
        self.failure: Event | None = None
        self._console = console
        self._live: Live | None = None
        self._phase = "starting"
        self._clients = 0
        self._done = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw what is going on inside, if the console is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        self._live = Live(console=self._console, refresh_per_second=8, transient=True, get_renderable=self._render)
        with self._live:
            yield

    def follow(self, event: Event) -> None:
        """Take note of an event, and show it."""
        if event.kind == "started":
            self._phase = event.phase
        if event.kind == "opened":
            self._clients = event.clients
        if event.kind == "client" and event.client:
            self._done += 1
        if event.kind == "failed":
            self.failure = self.failure or event
        if self._live is None and (line := self._line(event)):
            self._console.print(line, soft_wrap=True, markup=False)

    def so_far(self) -> None:
        """An interrupted comparison has nothing to draw; what was done is in the store."""

    def _line(self, event: Event) -> str:
        match event.kind:
            case "opened":
                return f"{event.clients} clients' models: {event.detail}"
            case "client" if event.client:
                return f"{event.client} {event.detail} ({self._done}/{self._clients})"
            case "client":
                return event.detail
            case "evaluated":
                return f"{event.detail}: {event.metric} {event.value:.4f}"
        return ""

    def _render(self) -> Spinner:
        return Spinner("dots", f"{self._phase}: {self._done} of {self._clients} clients' models")


def figures_table(figures: Figures) -> Table:
    """Draw the arms' figures."""
    unit = f" ({figures.unit})" if figures.unit else ""
    head = Column(f"{figures.metric}{unit}", no_wrap=True)
    table = Table(head, "reported", "clients", "mean", "median", "worst tenth", "raw data")
    for arm, one in figures.arms.items():
        table.add_row(str(arm), *_row(one, figures.metric))
    return table


def _row(one: ArmFigures, metric: str) -> list[str]:
    official = one.official.get(metric)
    spread = one.clients or one.cold
    values = [f"{value:.4f}" for value in (spread.mean, spread.median, spread.worst_decile)] if spread else [""] * 3
    reported = "" if official is None else f"{official:.4f}"
    return [reported, str(spread.clients if spread else 0), *values, f"{one.raw_bytes_moved:,} B"]
