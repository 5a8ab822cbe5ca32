"""`fededge env`: the environments that local runs use in place of images."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from fededge import environments
from fededge.cli.output import JsonOption, WithOption, console, print_json, say
from fededge.shipped import image_names

app = typer.Typer(help="The environments that local runs use in place of images.", no_args_is_help=True)

ImageArgument = Annotated[
    str, typer.Argument(help="tensorflow, torch, sklearn; of servers: serving-tensorflow, serving.")
]


@app.command("list")
def list_environments(as_json: JsonOption = False) -> None:
    """List the environments on this machine, and those that this FedEdge needs.

    For example:

    - `fededge env list`
    """
    needed = {name: environments.environment(name) for name in image_names()}
    found = [path for path in environments.existing() if path not in [e.path for e in needed.values()]]
    if as_json:
        rows = [{"image": n, "path": str(e.path), "ready": e.ready} for n, e in needed.items()]
        print_json([*rows, *({"image": "", "path": str(path), "ready": False} for path in found)])
        return
    table = Table("image", "state", "folder")
    for name, wanted in needed.items():
        table.add_row(name, "ready" if wanted.ready else "not made yet", str(wanted.path))
    for path in found:
        table.add_row("", "of other packages or an older FedEdge", str(path))
    console.print(table)


@app.command()
def create(
    image: ImageArgument = "tensorflow",
    packages: WithOption = None,
) -> None:
    """Make an environment now, so that the first run need not.

    For example:

    - `fededge env create`
    - `fededge env create torch --with ./my_package`
    """
    wanted = environments.environment(image, packages or [])
    environments.make(wanted, say)
    folders = " and ".join(str(path) for path in (wanted.path, wanted.extras_path) if path)
    console.print(f"{image} is ready in {folders}", soft_wrap=True)


@app.command("run", context_settings={"ignore_unknown_options": True})
def run_python(
    image: ImageArgument,
    arguments: Annotated[list[str], typer.Argument(help="What to pass to Python, after --.")],
    packages: WithOption = None,
) -> None:
    """Run the Python of an environment, with FedEdge importable, and what PYTHONPATH names.

    For example:

    - `fededge env run tensorflow -- -c "import tensorflow; print(tensorflow.__version__)"`
    """
    wanted = environments.environment(image, packages or [])
    environments.make(wanted, say)
    with tempfile.TemporaryDirectory() as folder:
        variables = wanted.variables(environments.link_library(Path(folder)))
        if own := os.environ.get("PYTHONPATH"):
            variables["PYTHONPATH"] += os.pathsep + own
        done = subprocess.run([str(wanted.python), *arguments], env={**os.environ, **variables})  # noqa: S603
    raise typer.Exit(done.returncode)


@app.command()
def prune() -> None:
    """Remove the environments that this FedEdge does not need.

    For example:

    - `fededge env prune`
    """
    needed = [environments.environment(name).path for name in image_names()]
    for path in environments.existing():
        if path not in needed:
            environments.remove(path)
            console.print(f"removed {path}", soft_wrap=True)
