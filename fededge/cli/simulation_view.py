"""Shows a simulation while it goes on: rounds are many and quick, so each is one line, with the time that is left."""

from __future__ import annotations

from datetime import timedelta

from fededge.cli.run_view import RoundView, RunView
from fededge.events import Event

_LOOK_BACK = 20  # rounds whose mean says how long the others will take


class SimulationView(RunView):
    """Follows a simulation's events."""

    def _line(self, event: Event) -> str:
        if event.kind != "published" or not self.rounds:
            return ""
        view = self.rounds[-1]
        score = f"{view.metric} {view.value:.4f}" if view.value is not None else "not measured"
        failed = f", {view.failed} failed" if view.failed else ""
        took = f"{_seconds(view):.1f} s"
        return f"round {view.round}: {score}, {view.delivered} of {view.clients} clients{failed}, {took}{self._left()}"

    def _now(self) -> str:
        return super()._now() + self._left()

    def _left(self) -> str:
        """Say how many rounds are to come and how long they will take."""
        done = [_seconds(view) for view in self.rounds if view.ended][-_LOOK_BACK:]
        left = self._total - sum(1 for view in self.rounds if view.ended)
        if not done or not left:
            return ""
        mean = sum(done) / len(done)
        return f"; {left} to go, {timedelta(seconds=round(left * mean))}"


def _seconds(view: RoundView) -> float:
    return view.ended - view.started["distribute"]
