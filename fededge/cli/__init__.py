"""The command `fededge`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fededge import __version__
from fededge.cli import (
    compare,
    data,
    devices,
    doctor,
    env,
    evaluate,
    images,
    metrics,
    pipelines,
    rounds,
    run,
    schedule,
    simulate,
    submit,
    train,
    upload,
    versions,
)
from fededge.errors import FedEdgeError

app = typer.Typer(
    name="fededge",
    help="Federated learning on Kubernetes, as Kubeflow pipelines.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("run")(run.run)
app.command("simulate")(simulate.simulate)
app.command("compare")(compare.compare)
app.command("evaluate")(evaluate.evaluate)
app.command("submit")(submit.submit)
app.command("train")(train.train)
app.command("stop")(submit.stop)
app.command("upload")(upload.upload)
app.command("metrics")(metrics.metrics)
app.command("devices")(devices.devices)
app.command("doctor")(doctor.doctor)
app.add_typer(versions.app, name="versions")
app.add_typer(rounds.app, name="rounds")
app.add_typer(pipelines.app, name="pipelines")
app.add_typer(images.app, name="images")
app.add_typer(schedule.app, name="schedule")
app.add_typer(data.app, name="data")
app.add_typer(env.app, name="env")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; an error of ours is one line on standard error and an exit code."""
    try:
        app()
    except FedEdgeError as error:
        sys.stdout.flush()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
