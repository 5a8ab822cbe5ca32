"""`fededge pipelines`: the compiled pipelines, for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fededge.cli.output import console

app = typer.Typer(help="Write the compiled pipelines for a cluster.", no_args_is_help=True)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="fl_round or fl_training.")] = "fl_training",
    to: Annotated[Path | None, typer.Option("--to", "-o", help="The file; by default NAME.yaml.")] = None,
    registry: Annotated[
        str, typer.Option(help="Registry and project of the images, as harbor.example.org/fededge.")
    ] = "",
    client_image: Annotated[
        str, typer.Option(help="Image with your own workload, whole, for the tasks that load it.")
    ] = "",
    digests: Annotated[
        Path | None,
        typer.Option(help='JSON {"name:tag": "sha256:…"}: name images by digest.', exists=True, dir_okay=False),
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of fl_training, 1 to 20; 5 as shipped.")] = None,
) -> None:
    """Write a pipeline's YAML, to upload to Kubeflow.

    For example:

    - `fededge pipelines export --registry harbor.example.org/fededge`
    - `fededge pipelines export fl_training --rounds 10 --to ten_rounds.yaml`
    - `fededge pipelines export --client-image harbor.example.org/me/my-workload:1.0`
    - `fededge pipelines export --registry harbor.example.org/fededge --digests digests.json`
    """
    from fededge.kubeflow.export import Images, export_pipeline, read_digests

    path = to or Path(f"{name}.yaml")
    images = Images(registry, client_image, read_digests(digests) if digests else {})
    export_pipeline(name, images, rounds, path)
    console.print(f"{name} is in {path}: upload it in the Kubeflow UI, or with kfp.Client", soft_wrap=True)
