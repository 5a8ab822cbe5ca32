"""Shows a run while it goes on: a table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from fededge.events import Event

_ROWS = 20  # rounds that the table shows
_PRECISE = 5.0  # seconds, below which tenths count


@dataclass
class RoundView:
    """What is known of one round.

    Attributes:
      started: when the first task of each phase did, seconds since 1970.
      seconds: by phase, from its first task's start to its last one's end.
      ended: when the version was published; 0 before.
    """

    round: int = 0
    clients: int = 0
    delivered: int = 0
    failed: int = 0
    version: str = ""
    metric: str = ""
    value: float | None = None
    started: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    ended: float = 0

    def as_json(self) -> dict[str, Any]:
        names = ("round", "version", "clients", "delivered", "failed", "metric", "value", "seconds")
        return {name: getattr(self, name) for name in names}


class RunView:
    """Follows a run's events."""

    def __init__(self, total_rounds: int, console: Console) -> None:
        self.rounds: list[RoundView] = []
        self.failure: Event | None = None
        self._total = total_rounds
        self._console = console
        self._live: Live | None = None
        self._phase = "starting"
        self._next = RoundView()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw a table inside, if the console is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        self._live = Live(console=self._console, refresh_per_second=8, transient=True, get_renderable=self._render)
        with self._live:
            yield

    def follow(self, event: Event) -> None:
        """Take note of an event, and show it."""
        if event.kind == "started" and event.phase == "distribute":
            self._next = RoundView(started={"distribute": event.time})
        if event.kind == "started":
            self._phase = event.phase
        if event.kind == "opened":
            self._next.round, self._next.clients = event.round, event.clients
            self.rounds.append(self._next)
        if event.kind == "failed":
            self.failure = self.failure or event
        if self.rounds:
            self._note(self.rounds[-1], event)
        if self._live is None and (line := self._line(event)):
            self._console.print(line, soft_wrap=True, markup=False)

    def so_far(self) -> Table | None:
        """Draw the rounds of a run that was interrupted."""
        return self.table() if self.rounds else None

    def table(self) -> Table:
        """Draw the rounds so far, of many the last."""
        table = Table("round", "version", "clients", "score", "training", "round in all")
        for view in self.rounds[-_ROWS:]:
            clients = f"{view.delivered} of {view.clients}" + (f", {view.failed} failed" if view.failed else "")
            score = "" if view.value is None else f"{view.metric} {view.value:.4f}"
            train = _duration(view.seconds["train"]) if "train" in view.seconds else ""
            whole = _duration(view.ended - view.started["distribute"]) if view.ended else ""
            table.add_row(str(view.round), view.version, clients, score, train, whole)
        return table

    def _note(self, view: RoundView, event: Event) -> None:
        match event.kind:
            case "started":
                view.started.setdefault(event.phase, event.time)
            case "finished":
                view.seconds[event.phase] = round(event.time - view.started.get(event.phase, event.time), 1)
            case "client" if event.ok:
                view.delivered += 1
            case "client":
                view.failed += 1
                view.delivered -= event.phase == "aggregate"  # it had delivered, and does not count
            case "evaluated":
                view.metric, view.value = event.metric, event.value
            case "published":
                view.version, view.ended = event.version, event.time

    def _line(self, event: Event) -> str:
        view = self.rounds[-1] if self.rounds else RoundView()
        match event.kind:
            case "opened":
                return f"round {event.round}: {event.clients} clients, {event.detail}"
            case "client":
                outcome = event.detail or f"trained in {event.seconds:.1f} s"
                return f"round {event.round}: {event.client} {outcome} ({view.delivered}/{view.clients})"
            case "evaluated":
                return f"round {event.round}: {event.metric} {event.value:.4f}"
            case "published":
                return f"round {event.round}: {event.version} is current"
        return ""

    def _now(self) -> str:
        view = self.rounds[-1] if self.rounds else RoundView()
        clients = f", {view.delivered} of {view.clients} clients" if self._phase == "train" else ""
        current = max(1, len(self.rounds) + (self._phase == "distribute" and bool(view.version)))
        return f"round {current} of {self._total}: {self._phase}{clients}"

    def _render(self) -> RenderableType:
        return Group(*([self.table()] if self.rounds else []), Spinner("dots", self._now()))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < _PRECISE else f"{seconds:.0f} s"
