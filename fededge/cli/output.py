"""What all commands share: where they print, and the options that several have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

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
TrainingArgument = Annotated[str, typer.Argument(help="The training's name.", show_default=False)]


def say(line: str) -> None:
    """Tell a person, where it does not get into a script's way."""
    errors.print(line, soft_wrap=True)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=1))
