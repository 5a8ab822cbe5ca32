"""`fededge data`: the public data sets that the applications learn from."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from platformdirs import user_data_path
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table

from fededge.cli.output import JsonOption, console, errors, print_json, say
from fededge.datasets.catalogue import DATA_SETS, DataSet, data_set
from fededge.datasets.checking import Finding, Found, check, look
from fededge.datasets.fetch import fetch
from fededge.errors import InputError, SetupError, WorkloadError
from fededge.signals import terminable

app = typer.Typer(help="List, fetch and check the public data sets of the applications.", no_args_is_help=True)

_VARIABLE = "FEDEDGE_DATA"
_HERE = {"complete": "complete", "other": "differs", "partial": "in part", "missing": "no"}

FolderOption = Annotated[
    Path | None,
    typer.Option("--data", help=f"The folder of the data sets; without it {_VARIABLE}, else the user's own."),
]


@app.command("list")
def list_data_sets(folder: FolderOption = None, as_json: JsonOption = False) -> None:
    """List the data sets: what they are, whose, under which licence, and whether they are here.

    For example:

    - `fededge data list`
    - `fededge data list --json`
    """
    here = _folder(folder)
    found = [(entry, look(entry, here)) for entry in DATA_SETS.values()]
    if as_json:
        print_json([{**_about(entry), "folder": str(here), "here": _presence(files)} for entry, files in found])
        return
    table = Table(Column("name", no_wrap=True), "application", "data", "clients", "licence", "here")
    for entry, files in found:
        clients = f"{entry.clients} {entry.client}" if entry.client else "none of its own"
        state = _HERE[_presence(files)]
        table.add_row(entry.name, entry.application, entry.title, clients, entry.licence, state)
    console.print(table)
    console.print(f"here is {here}", soft_wrap=True)


@app.command("fetch")
def fetch_data_sets(
    names: Annotated[list[str] | None, typer.Argument(help="As wisdm.", show_default=False)] = None,
    everything: Annotated[bool, typer.Option("--all", help="Fetch all of them, some 30 MB.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", help=f"The folder; without it {_VARIABLE}, else the user's own.")
    ] = None,
    mirror: Annotated[
        str, typer.Option("--from", help="A folder, or an address, with somebody's copy of such a folder.")
    ] = "",
) -> None:
    """Download data sets from their publishers, and check every file against the digest of the publisher's.

    One that is cut off goes on where it stopped when the command is typed again. What is here is not fetched again;
    what is in the way and is not the publisher's gets another name.

    For example:

    - `fededge data fetch wisdm buildings`
    - `fededge data fetch --all --to ~/data`
    - `fededge data fetch cmapss --from ~/Downloads`
    """
    if bool(names) == everything:
        raise InputError(f"name data sets, or say --all: there are {', '.join(DATA_SETS)}")
    wanted = [data_set(name) for name in names or DATA_SETS]
    folder = _folder(to).absolute()
    failed: dict[str, SetupError] = {}
    for entry in wanted:
        try:
            _fetch(entry, folder, mirror)
        except SetupError as error:  # one publisher's trouble is not the others'
            failed[entry.name] = error
    if len(failed) < len(wanted) and os.environ.get(_VARIABLE) != str(folder):
        console.print("For the runs to find them, type", soft_wrap=True)
        console.print(f"export {_VARIABLE}={shlex.quote(str(folder))}", soft_wrap=True)
    _end_fetch(failed)


@app.command("check")
def check_data_sets(
    names: Annotated[
        list[str] | None, typer.Argument(help="As wisdm; without any, all that are here.", show_default=False)
    ] = None,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read data sets as a run does, and compare every file with the digest of the publisher's.

    Files with other bytes, as with some of the clients, are told and are no error. The exit code is 2 if something
    cannot be read, and 3 if it is missing.

    For example:

    - `fededge data check`
    - `fededge data check wisdm --data ~/data --json`
    """
    here = _folder(folder)
    findings = [check(data_set(name), here) for name in names or DATA_SETS]
    if as_json:
        print_json({"folder": str(here), "data_sets": [_finding_json(finding) for finding in findings]})
    else:
        for finding in findings:
            console.print(f"{finding.data_set.name}: {_told(finding)}", soft_wrap=True)
    _end(findings, here, all_must_be_here=bool(names), told=as_json)


def _folder(option: Path | None) -> Path:
    if option is not None:
        return option.expanduser()
    return Path(os.environ.get(_VARIABLE) or user_data_path("fededge"))


def _about(entry: DataSet) -> dict[str, object]:
    return {
        "name": entry.name,
        "title": entry.title,
        "application": entry.application,
        "client": entry.client,
        "clients": entry.clients,
        "licence": entry.licence,
        "citation": entry.citation,
        "page": entry.page,
        "addresses": [download.url for download in entry.downloads],
    }


def _presence(files: Sequence[Found]) -> str:
    if not any(file.path for file in files):
        return "missing"
    if not all(file.path for file in files):
        return "partial"
    return "complete" if all(file.is_publishers for file in files) else "other"


def _end_fetch(failed: dict[str, SetupError]) -> None:
    """Raise the error of the one data set that failed, or tell those of several.

    Raises:
      SetupError: one has failed.
    """
    if len(failed) == 1:
        raise next(iter(failed.values()))
    for name, error in failed.items():
        say(f"{name}: {error}")
    if failed:
        raise SetupError(f"not fetched, for the reasons above: {', '.join(failed)}")


def _fetch(entry: DataSet, folder: Path, mirror: str) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with terminable(), Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as progress:
        task = progress.add_task(entry.name, total=None)

        def watch(name: str, here: int, total: int | None) -> None:
            progress.update(task, description=f"{entry.name}: {name}", completed=here, total=total)

        try:
            done = fetch(entry, folder, mirror, watch)
        except (KeyboardInterrupt, SystemExit):
            say("what has come is kept; the same command goes on from there")
            raise
    for path in done.set_aside:
        say(f"{entry.name}: what was in the way is now {path}")
    files = "1 file" if len(done.files) == 1 else f"{len(done.files)} files"
    outcome = f"{files} fetched to" if done.files else "is here already, in"
    console.print(f"{entry.name}: {outcome} {folder / entry.folder}", soft_wrap=True)


def _told(finding: Finding) -> str:
    if finding.state == "missing":
        return f"missing; get it with `fededge data fetch {finding.data_set.name}`"
    if finding.problem:
        return f"{finding.state}: {finding.problem}"
    counted = f"{finding.clients} {finding.data_set.client or 'examples'}"
    if finding.state == "complete":
        return f"complete, {counted}"
    return f"readable, not the publisher's complete files ({counted})"


def _finding_json(finding: Finding) -> dict[str, object]:
    return {
        "name": finding.data_set.name,
        "state": finding.state,
        "clients" if finding.data_set.client else "examples": finding.clients,
        "problem": finding.problem,
        "files": [
            {
                "file": found.file.path,
                "path": str(found.path) if found.path else None,
                "sha256": found.sha256,
                "publisher_sha256": found.file.sha256,
            }
            for found in finding.files
        ],
    }


def _end(findings: Sequence[Finding], folder: Path, *, all_must_be_here: bool, told: bool) -> None:
    """End with an error if there is one; `told` says that the document on standard output has it.

    Raises:
      WorkloadError: something cannot be read.
      SetupError: something is missing that was named, or everything is.
    """
    states = {state: [f.data_set.name for f in findings if f.state == state] for state in ("damaged", "missing")}
    if damaged := states["damaged"]:
        error: SetupError | WorkloadError = WorkloadError(
            f"damaged or in part missing: fetch again with `fededge data fetch {' '.join(damaged)}`"
        )
    elif (missing := states["missing"]) and (all_must_be_here or len(missing) == len(findings)):
        error = SetupError(f"missing from {folder}: get them with `fededge data fetch {' '.join(missing)}`")
    else:
        return
    raise typer.Exit(error.exit_code) if told else error
