"""When a training has had enough rounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fededge.errors import InputError
from fededge.records import Version
from fededge.workloads.evaluation import better_if_higher

Because = Literal["target", "plateau", "rounds"]


class Goal(BaseModel):
    """What ends a training; the first of them that comes.

    Attributes:
      rounds: so many, with those that it has had before.
      target: the version's metric has this value, or a better one.
      plateau: so many rounds in a row have made nothing better.
      min_improvement: what counts as better, in the metric's unit.
      higher_is_better: of the metric; None goes by its name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rounds: int | None = Field(None, ge=1)
    target: float | None = None
    plateau: int | None = Field(None, ge=1)
    min_improvement: float = Field(0.0, ge=0)
    higher_is_better: bool | None = None

    @model_validator(mode="after")
    def _ends(self) -> Goal:
        if self.rounds is None and self.target is None and self.plateau is None:
            raise ValueError("say when to stop: rounds, target or plateau")
        if self.min_improvement and self.plateau is None:
            raise ValueError("min_improvement goes with plateau")
        return self

    @classmethod
    def parse(cls, **values: object) -> Goal:
        """Validate what a user asked for.

        Raises:
          InputError: it is out of range, or there is no end.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = f"{'.'.join(map(str, first['loc']))}={first['input']!r}: " if first["loc"] else ""
            raise InputError(f"{where}{first['msg'].removeprefix('Value error, ')}") from error

    def reached(self, lineage: Sequence[Version]) -> Because | None:
        """Say what ends the training, if something does.

        Args:
          lineage: the current version and those before it, the oldest first.
        """
        values = [version.metrics[version.metric] for version in lineage if version.metric in version.metrics]
        sign = 1 if self._higher(lineage) else -1
        values = [sign * value for value in values]
        if self.target is not None and values and values[-1] >= sign * self.target:
            return "target"
        if self.plateau is not None and self._stuck(values) >= self.plateau:
            return "plateau"
        if self.rounds is not None and lineage and lineage[-1].round >= self.rounds:
            return "rounds"
        return None

    def _stuck(self, values: Sequence[float]) -> int:
        """Count the rounds since the last one that made something better."""
        best, rounds = None, 0
        for value in values:
            if best is None or value - best > self.min_improvement:
                best, rounds = value, 0
            else:
                rounds += 1
        return rounds

    def _higher(self, lineage: Sequence[Version]) -> bool:
        if self.higher_is_better is not None:
            return self.higher_is_better
        return bool(lineage) and better_if_higher(lineage[-1].metric)
