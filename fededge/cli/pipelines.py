"""`fededge pipelines`: the compiled pipelines, for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fededge.cli.kubeflow_options import DigestsOption, RegistryOption, RoundsOption
from fededge.cli.output import LibraryOption, console
from fededge.cli.round_options import built_in
from fededge.errors import InputError
from fededge.shipped import pipeline_names
from fededge.workloads import BUILT_IN, image_of, own_defaults

app = typer.Typer(help="Write the compiled pipelines for a cluster.", no_args_is_help=True)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(pipeline_names())}.")] = "fl_training",
    to: Annotated[Path | None, typer.Option("--to", "-o", help="The file; by default NAME.yaml.")] = None,
    registry: RegistryOption = "",
    client_image: Annotated[
        str, typer.Option(help="Image with your own workload, whole, for the tasks that load it.")
    ] = "",
    digests: DigestsOption = None,
    rounds: RoundsOption = None,
    workload: Annotated[
        str, typer.Option(help="A workload of ours: its library's image, and defaults that suit it.")
    ] = "",
    library: LibraryOption = None,
    sidecars: Annotated[
        bool, typer.Option("--sidecars", help="Put the pods into an Istio mesh: see docs/install.md.")
    ] = False,
) -> None:
    """Write a pipeline's YAML, to upload to Kubeflow.

    For example:

    - `fededge pipelines export --registry harbor.example.org/fededge`
    - `fededge pipelines export fl_training --rounds 3 --to three_rounds.yaml`
    - `fededge pipelines export fl_training_job --registry harbor.example.org/fededge`
    - `fededge pipelines export --client-image harbor.example.org/me/my-workload:1.0`
    - `fededge pipelines export --registry harbor.example.org/fededge --digests digests.json`
    - `fededge pipelines export --workload cmapss`
    """
    from fededge.kubeflow.export import Images, export_pipeline, read_digests
    from fededge.kubeflow.rounds import check_rounds

    if rounds is not None:
        check_rounds(rounds, name)
    path = to or Path(f"{name}.yaml")
    defaults: dict[str, Any] = {}
    image: str = library or "tensorflow"
    if workload:
        ours = built_in(workload)
        if not ours or library:
            raise InputError(f"--workload is for {', '.join(BUILT_IN)}; for your own, pass --library or --client-image")
        image, defaults = image_of(ours), {"training": workload}
        if name != "fl_comparison":  # which takes the settings of the training
            defaults |= {"workload": workload, **own_defaults(ours)}
    images = Images(registry, client_image, image, read_digests(digests) if digests else {})
    export_pipeline(name, images, rounds, path, defaults, sidecars)
    console.print(f"{name} is in {path}: upload it in the Kubeflow UI, or with kfp.Client", soft_wrap=True)
