"""`fededge doctor`: what is missing, and how to get it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from fededge import doctor as checks
from fededge.cli.output import DEFAULT_STORE, JsonOption, StoreOption, console, print_json
from fededge.errors import SetupError

_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red", "unused": "dim", "unknown": "yellow"}


def doctor(
    store: StoreOption = DEFAULT_STORE,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Of the runs, on the cluster; kubeflow if not said.")
    ] = "",
    context: Annotated[str, typer.Option(help="Of the kubeconfig; its current one if not said.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Look at the environments, the store, Docker and a namespace of the cluster; say what is missing, how to get it.

    For example:

    - `fededge doctor`
    - `fededge doctor --store s3://models/fededge --namespace my-team --json`
    """
    found = checks.examine(store, namespace, context)
    if as_json:
        print_json([finding._asdict() for finding in found])
    else:
        for finding in found:
            state = (f"{finding.state:8}", _STYLES[finding.state])
            console.print(Text.assemble(state, f"{finding.what}: {finding.detail}"), soft_wrap=True)
    if missing := [finding.what for finding in found if finding.state == "missing"]:
        raise typer.Exit(SetupError.exit_code) if as_json else SetupError(f"missing: {', '.join(missing)}")
