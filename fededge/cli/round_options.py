"""An option for each setting of a round, made from the settings themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from fededge.settings import Admission, LocalTraining, RoundSettings, Server, Waiting
from fededge.workloads import BUILT_IN, HasRealClients, Workload, import_path, load_workload, own_defaults

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


def settings_of(context: typer.Context, chosen: Mapping[str, Any], *, here: bool = True) -> RoundSettings:
    """Make the settings of what the user typed; all else is as suits the workload.

    Args:
      context: of the command; it knows what was typed.
      chosen: the value of each option.
      here: the round runs on this machine, so the data that say who the clients are can be asked.

    Raises:
      InputError: a value is out of range, or there is no such workload.
    """
    RoundSettings.parse(**chosen)
    import_path(chosen["workload"])
    typed = typed_of(context, chosen)
    workload = built_in(chosen["workload"])
    suited = {name: value for name, value in own_defaults(workload).items() if name not in typed} if workload else {}
    if "clients" in typed:  # of which the suited number may be more than there are
        suited.pop("clients_per_round", None)
    settings = RoundSettings.parse(**{**chosen, **suited})
    if workload and here:
        population = workload.population(settings.clients)
        settings.of_population(len(population), at_most=isinstance(workload, HasRealClients))
    return settings


def typed_of(context: typer.Context, chosen: Iterable[str]) -> set[str]:
    """Say which of some options the user typed, or set in the environment."""
    sources = {name: context.get_parameter_source(name) for name in chosen}
    return {name for name, source in sources.items() if source and source.name != "DEFAULT"}


def built_in(name: str) -> Workload | None:
    """Load a workload of ours; a user's own may need what only its image has."""
    return load_workload(name) if name in BUILT_IN else None
