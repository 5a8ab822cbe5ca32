"""What the commands share that run a compiled pipeline on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

import typer
from rich.console import RenderableType

from fededge.cli.output import errors, say
from fededge.errors import FedEdgeError, InputError, RunError
from fededge.events import Event
from fededge.store import Store
from fededge.store.folder import FolderStore

if TYPE_CHECKING:
    from fededge.kubeflow.job import Job
    from fededge.kubeflow.local import Arguments
    from fededge.run_folder import RunFolder

INTERRUPTED = 130  # what shells expect after Ctrl-C

RunnerOption = Annotated[
    Literal["environment", "docker"],
    typer.Option(help="Run steps in environments made from the images' locks, or in the images."),
]
RegistryOption = Annotated[str, typer.Option(help="With docker: the registry of our images.")]
ClientImageOption = Annotated[str, typer.Option(help="With docker: the image with your workload.")]
NetworkOption = Annotated[str, typer.Option(help="With docker: the network of the containers.")]


class StepError(FedEdgeError):
    """What a step of the run said, with the exit code that it chose."""

    def __init__(self, detail: str, exit_code: int) -> None:
        super().__init__(detail)
        self.exit_code = exit_code


class View(Protocol):
    """Shows a run while it goes on.

    Attributes:
      failure: the first that was told.
    """

    failure: Event | None

    def shown(self) -> AbstractContextManager[None]:
        """Draw on a terminal inside."""

    def follow(self, event: Event) -> None:
        """Take note of an event, and show it."""

    def so_far(self) -> RenderableType | None:
        """Draw what an interrupted run has done."""


def check_combination(runner: str, packages: Sequence[str], *, other_images: bool) -> None:
    """Make sure that options go together.

    Raises:
      InputError: they do not.
    """
    if runner == "docker" and packages:
        raise InputError("--with is for environments: build an image with your packages, and pass --client-image")
    if other_images and runner != "docker":
        raise InputError("--registry and --client-image go with --runner docker")


def make_job(
    runner: str,
    folder: RunFolder,
    pipeline: Path,
    arguments: Arguments,
    opened: Store,
    packages: Sequence[str],
    network: str,
    holder: str,
    folders: Sequence[Path] = (),
) -> Job:
    """Prepare a run.

    Args:
      runner: `environment` or `docker`.
      folder: of the run.
      pipeline: the YAML.
      arguments: its inputs.
      opened: the store; containers see it if it is a folder.
      packages: the user's own, for environments.
      network: of containers.
      holder: names the run to others that want the training.
      folders: more of them for containers to see.
    """
    from fededge.kubeflow import local

    if runner == "docker":
        folders = [*folders, *([Path(opened.url)] if isinstance(opened, FolderStore) else [])]
        return local.docker_job(folder, pipeline, arguments, folders, network, holder)
    return local.environments_job(folder, pipeline, arguments, packages, holder, say)


def follow(job: Job, folder: RunFolder, view: View) -> None:
    """Run a job, and show what happens.

    Raises:
      StepError: a step failed.
      RunError: the pipeline failed without a word.
    """
    from fededge.kubeflow import local

    watch(local.run(job, folder), folder, view)


def watch(happening: Generator[Event, None, None], folder: RunFolder, view: View) -> None:
    """Show what happens until it ends; raises as `follow` does."""
    try:
        with view.shown(), contextlib.closing(happening):
            for event in happening:
                view.follow(event)
    except KeyboardInterrupt:
        if (drawn := view.so_far()) is not None:
            errors.print(drawn)
        say("interrupted: nothing of it runs any more; the same command goes on where it stopped")
        raise typer.Exit(INTERRUPTED) from None
    except RunError as error:
        if view.failure:
            raise StepError(f"{view.failure.detail} (log: {folder.log})", view.failure.exit_code) from error
        raise
