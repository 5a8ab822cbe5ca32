"""What `fededge images` shows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Column, Table

from fededge.cli.output import console, errors, print_json, say
from fededge.registry.project import Setup
from fededge.registry.reference import parse_reference
from fededge.registry.scans import Verdict

_LEVELS = ("Critical", "High", "Medium")


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Show that something is going on; yields what changes the text. Without a terminal, each change is a line."""
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        if errors.is_terminal:
            status.update(text)
        elif text != last:
            say(text)
        last = text

    with errors.status(text) as status:
        yield tell


@contextlib.contextmanager
def pushing(image: str) -> Iterator[Callable[[int, int], None]]:
    """Show how much of an image is pushed."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(f"pushing {image}", total=None)
        yield lambda sent, size: progress.update(task, completed=sent, total=size)


def show_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print a table, and below it why images are refused."""
    table = Table(
        Column("image", overflow="fold"), *(level.lower() for level in _LEVELS), "fixable", "scanned", "verdict"
    )
    for each in verdicts:
        counts = [str(each.found.get(level, 0)) if each.scanned else "" for level in _LEVELS]
        scanned = f"{each.scanned:%Y-%m-%d}" if each.scanned else ""
        fixable = str(each.fixable) if each.scanned else ""
        table.add_row(_short(each), *counts, fixable, scanned, "passed" if each.passed else each.state)
    console.print(table)
    for each in verdicts:
        if not each.passed:
            console.print(f"{each.image} {each.reason}: {each.advice}", soft_wrap=True)


def show_setup(setup: Setup, dry_run: bool, file: Path | None, as_json: bool) -> None:
    """Tell what was done, and the robot account's secret this once."""
    robot = setup.robot
    secret = robot.secret if robot and not file else ""
    if as_json:
        steps = [{"what": step.what, "action": step.action, "detail": step.detail} for step in setup.steps]
        login = {"robot": robot.name if robot else None, "secret": secret or None}
        print_json({"changed": setup.changed, "dry_run": dry_run, "steps": steps, **login})
        return
    for step in setup.steps:
        action = f"would be {step.action}" if dry_run and step.action != "unchanged" else step.action
        console.print(f"{step.what}: {action}{f' ({step.detail})' if step.detail else ''}", soft_wrap=True)
    if not setup.changed:
        console.print("nothing was changed: all is as it should be")
    if secret and robot:
        console.print(f"log in as {robot.name} with {secret}: it is shown this once", soft_wrap=True)
    elif robot and robot.secret and file:
        console.print(f"its secret is in {file}: kubectl apply --filename {file}", soft_wrap=True)
    elif file and not dry_run:
        console.print(
            f"{file} is not written: the secret was told when the account was made; --new-secret makes another"
        )


def _short(verdict: Verdict) -> str:
    """Return an image's name without its host, and with as much of its digest as people compare."""
    image = parse_reference(verdict.image)
    return f"{image.repository}@{image.digest[:19]}" if image.digest else f"{image.repository}:{image.tag}"
