"""`fededge metrics`: what Prometheus is told of trainings, read from their store."""

from __future__ import annotations

from typing import Annotated

import typer

from fededge.cli.output import DEFAULT_STORE, JsonOption, StoreOption, existing, print_json, say
from fededge.monitoring.exporter import parse_address, read_samples, serve
from fededge.monitoring.exposition import text
from fededge.store import open_store
from fededge.store.trainings import begun_trainings

_SERVE = "Answer scrapes on this address, as :9100, and read the store for each, until Ctrl-C."


def metrics(
    trainings: Annotated[
        list[str] | None, typer.Argument(help="Names of trainings; by default, all of the store.", show_default=False)
    ] = None,
    address: Annotated[str, typer.Option("--serve", metavar="[HOST]:PORT", help=_SERVE, show_default=False)] = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Print the metrics of trainings in Prometheus' format, or serve them.

    For example:

    - `fededge metrics digits`
    - `fededge metrics digits --json`
    - `fededge metrics --store s3://models/fededge --serve :9100`
    """
    names = trainings or []
    if address:
        parse_address(address)
    opened = open_store(store, hurried=True)
    for name in names:
        existing(opened, name)
    if address:
        say(f"metrics of {', '.join(names) or 'all trainings'} in {opened.url} on {address}; Ctrl-C ends this")
        serve(opened, names, address)
        return
    found = [sample for name in names or begun_trainings(opened) for sample in read_samples(opened, name)]
    if as_json:
        print_json([sample._asdict() for sample in found])
    else:
        typer.echo(text(found), nl=False)
