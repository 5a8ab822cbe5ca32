"""`fededge upload`: the pipelines on Kubeflow's own pages, with versions."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fededge.cli.kubeflow_options import (
    ClientImageOption,
    DigestsOption,
    PipelineArgument,
    RegistryOption,
    RoundsOption,
    connected,
    package_of,
    take_login,
    with_login_options,
)
from fededge.cli.output import JsonOption, LibraryOption, console, print_json


@with_login_options
def upload(
    pipeline: PipelineArgument = "fl_training",
    name: Annotated[str, typer.Option(help="On Kubeflow; by default as it is called here.", show_default=False)] = "",
    version_name: Annotated[
        str, typer.Option(help="By default FedEdge's version and a digest of the file.", show_default=False)
    ] = "",
    workload: Annotated[str, typer.Option(help="Which of our images the tasks run on.")] = "digits",
    rounds: RoundsOption = None,
    registry: RegistryOption = "",
    client_image: ClientImageOption = "",
    library: LibraryOption = None,
    digests: DigestsOption = None,
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Upload a pipeline, or a version of one that is there, for people who start runs from Kubeflow's pages.

    Doing it again does nothing: the same file has the same version name.

    For example:

    - `fededge upload --registry harbor.example.org/fededge`
    - `fededge upload fl_round --registry harbor.example.org/fededge --digests digests.json`
    - `fededge upload my_pipeline.yaml --name mine --version-name 2`
    """
    login = take_login(chosen)
    with package_of(pipeline, workload, rounds, registry, client_image, library, digests) as package:
        kubeflow = connected(login)
        from fededge.kubeflow.upload import upload as send

        done = send(kubeflow, package, name or package.path.stem, version_name)
    if as_json:
        print_json(done._asdict())
    else:
        news = "is uploaded" if done.new else "was there already"
        console.print(f"{done.pipeline} {done.version} {news}  {done.link}", soft_wrap=True)
