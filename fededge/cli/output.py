"""What all commands share: where they print and ask, and the options that several have."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from fededge.errors import InputError, NotFoundError
from fededge.store import Store
from fededge.store.trainings import TrainingStore, training_names

# What is printed can hold names of other people's choice, so none of it is markup.
console = Console(highlight=False, markup=False)
errors = Console(stderr=True, highlight=False, markup=False)

HOME = Path(".fededge")
DEFAULT_STORE = str(HOME / "store")

StoreOption = Annotated[
    str,
    typer.Option("--store", envvar="FEDEDGE_STORE", help="A folder, or s3://bucket/prefix.", show_default=True),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")]
WithOption = Annotated[
    list[str] | None,
    typer.Option("--with", help="A package or folder of your own to install beside the steps' locked packages."),
]
LibraryOption = Annotated[
    Literal["tensorflow", "torch", "sklearn"] | None,
    typer.Option(help="What a workload of your own is made with; tensorflow if not said.", show_default=False),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TrainingArgument = Annotated[str, typer.Argument(help="The training's name.", show_default=False)]


def say(line: str) -> None:
    """Tell a person, where it does not get into a script's way."""
    errors.print(line, soft_wrap=True)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=1))


def existing(store: Store, training: str) -> TrainingStore:
    """Find a training.

    Raises:
      NotFoundError: there is none of that name; the message has those that there are.
    """
    trainings = TrainingStore(store, training)
    try:
        trainings.head()
    except NotFoundError as error:
        known = ", ".join(training_names(store)) or "none"
        raise NotFoundError(f"no training {training} in {store.url}; there are: {known}") from error
    return trainings


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone; a no ends the command with code 1.

    Raises:
      InputError: there is nobody to ask.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to ask on: say so with --yes")
    if not typer.confirm(question, err=True):
        say("nothing was changed")
        raise typer.Exit(1)
