"""An option for each setting of a round, made from the settings themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from fededge.settings import Admission, LocalTraining, RoundSettings, Server, Waiting

_PANELS: dict[str, type[BaseModel]] = {
    "Clients of a round": Waiting,
    "Training on a client": LocalTraining,
    "Server": Server,
    "Which updates count": Admission,
}


def with_round_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `**settings` an option for each field of `RoundSettings`."""
    own = inspect.signature(command, eval_str=True)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*parameters, *(_option(name) for name in RoundSettings.model_fields)]
    )
    return command


def _option(name: str) -> inspect.Parameter:
    field = RoundSettings.model_fields[name]
    panel = next((panel for panel, settings in _PANELS.items() if name in settings.model_fields), None)
    option: Any = Annotated[field.annotation, typer.Option(help=field.description, rich_help_panel=panel)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=option)
