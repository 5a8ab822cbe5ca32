"""The options of all commands that talk to Kubeflow: where it is, how to log in, and what a run is made of."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import SecretStr

from fededge.cli.output import say
from fededge.cli.round_options import settings_of, typed_of
from fededge.cli.training import name_of
from fededge.errors import InputError
from fededge.kubeflow.login import Login, variable

if TYPE_CHECKING:
    from fededge.kubeflow.client import Kubeflow
    from fededge.kubeflow.submit import Package

_PANEL = "Kubeflow"

PipelineArgument = Annotated[
    str, typer.Argument(help="fl_training, fl_round, fl_comparison, … or the path of a compiled one.")
]
TrainingOption = Annotated[
    str, typer.Option(help="The training to begin or go on with; by default, the workload's.", show_default=False)
]
RoundsOption = Annotated[
    int | None, typer.Option(help="Rounds of fl_training, 1 to 5, or of fl_training_job, 1 to 8; 5 by default.")
]
InputOption = Annotated[
    list[str] | None,
    typer.Option("--input", help="NAME=VALUE of an input that has no option here, as cpu_limit=4; repeat it."),
]
RunStoreOption = Annotated[
    str,
    typer.Option(
        "--store", envvar="FEDEDGE_STORE", help="The store of the runs, as this machine reaches it: s3://bucket/prefix."
    ),
]
_REGISTRY = "FEDEDGE_REGISTRY"
RegistryOption = Annotated[
    str,
    typer.Option(
        envvar=_REGISTRY,
        help="Registry and project of the images, as harbor.example.org/fededge.",
        show_default=False,
    ),
]
ClientImageOption = Annotated[str, typer.Option(help="Image with a workload of your own, whole.")]
DigestsOption = Annotated[
    Path | None,
    typer.Option(help='JSON {"name:tag": "sha256:…"}: name images by digest.', exists=True, dir_okay=False),
]
ExperimentOption = Annotated[str, typer.Option(help="The experiment that the runs belong to; made if there is none.")]
PollOption = Annotated[float, typer.Option(min=0.01, help="Seconds between two looks at a run.")]
ServiceAccountOption = Annotated[str, typer.Option(help="The service account of the runs' pods.")]


@contextlib.contextmanager
def package_of(
    pipeline: str,
    workload: str,
    rounds: int | None,
    registry: str,
    client_image: str,
    library: str | None,
    digests: Path | None,
) -> Iterator[Package]:
    """Write a pipeline's YAML for the images that were typed."""
    from fededge.kubeflow.export import PIPELINES, read_digests
    from fededge.kubeflow.submit import package

    if pipeline not in PIPELINES and registry == os.environ.get(_REGISTRY):
        registry = ""  # the variable is for our pipelines; a file has its own
    with package(
        pipeline,
        workload=workload,
        rounds=rounds,
        registry=registry,
        client_image=client_image,
        library=library or "",
        digests=read_digests(digests) if digests else None,
    ) as ready:
        if pipeline in PIPELINES and not registry:
            say(f"no --registry or {_REGISTRY}: the nodes must have FedEdge's images already")
        yield ready


def with_login_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `**chosen` an option for each field of `Login`."""
    own = inspect.signature(command, eval_str=True)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*parameters, *(_option(name) for name in Login.model_fields)]
    )
    return command


def _option(name: str) -> inspect.Parameter:
    field = Login.model_fields[name]
    secret = field.annotation is SecretStr
    kind = str if secret else field.annotation
    option: Any = Annotated[
        kind,
        typer.Option(help=field.description, envvar=variable(name), rich_help_panel=_PANEL, show_default=False),
    ]
    default = "" if secret else field.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=option)


def take_login(chosen: dict[str, Any]) -> Login:
    """Take the options of the login out of all that were given."""
    return Login.of(**{name: chosen.pop(name) for name in Login.model_fields})


def connected(login: Login) -> Kubeflow:
    """Connect; only what is asked of Kubeflow needs kfp, which takes a second to import."""
    from fededge.kubeflow.client import connect

    return connect(login, say=say)


def inputs_of(
    context: typer.Context,
    package: Package,
    chosen: Mapping[str, Any],
    training: str,
    store: str,
    typed_inputs: list[str] | None,
) -> dict[str, Any]:
    """Make the inputs of a pipeline of what was typed.

    Args:
      context: of the command.
      package: the pipeline.
      chosen: the value of each option of a round.
      training: as typed.
      store: as typed; pods reach one in S3, a folder of this machine they do not.
      typed_inputs: as NAME=VALUE.

    Raises:
      InputError: something of this is no input of the pipeline, or out of range.
    """
    from fededge.kubeflow.inputs import definitions, parse

    known, typed = definitions(package.document), typed_of(context, chosen)
    if strange := sorted(typed - known.keys()):
        option = strange[0].replace("_", "-")
        raise InputError(f"--{option} goes with a pipeline of rounds, and {package.path.stem} has no such input")
    if package.rounds:
        values = settings_of(context, chosen, here=False).model_dump(mode="json")
    else:
        values = {name: _plain(chosen[name]) for name in typed}
    if "training" in known:
        values["training"] = name_of(training, str(chosen["workload"]))
    if store.startswith("s3://") and "store" in known:
        values["store"] = store
    return {
        **{name: value for name, value in values.items() if name in known},
        **parse(package.document, typed_inputs or []),
    }


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
