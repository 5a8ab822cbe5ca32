"""`fededge compare`: a federated model beside those of other ways to train, as the pipeline that a cluster runs."""

from __future__ import annotations

from typing import Annotated

import typer

from fededge.cli.compare_view import CompareView, figures_table
from fededge.cli.learner_call import image_of_training
from fededge.cli.local_run import (
    ClientImageOption,
    NetworkOption,
    RegistryOption,
    RunnerOption,
    check_combination,
    follow,
    make_job,
)
from fededge.cli.output import (
    DEFAULT_STORE,
    HOME,
    JsonOption,
    StoreOption,
    TrainingArgument,
    WithOption,
    console,
    errors,
    existing,
    print_json,
    say,
)
from fededge.errors import RunError
from fededge.reports.comparison_figures import Figures
from fededge.run_folder import RunFolder
from fededge.settings import ComparisonSettings
from fededge.store import open_store


def _help(name: str) -> str:
    return ComparisonSettings.model_fields[name].description or ""


def compare(
    training: TrainingArgument,
    version: Annotated[str, typer.Option(help="Which of its versions: its name, as v4; or current.")] = "current",
    clients: Annotated[int, typer.Option(help=_help("arm_clients"))] = 0,
    clients_per_pod: Annotated[int, typer.Option(help=_help("clients_per_pod"))] = 5,
    deadline_s: Annotated[int, typer.Option(help=_help("deadline_s"))] = 3600,
    store: StoreOption = DEFAULT_STORE,
    runner: RunnerOption = "environment",
    packages: WithOption = None,
    registry: RegistryOption = "",
    client_image: ClientImageOption = "",
    network: NetworkOption = "host",
    as_json: JsonOption = False,
) -> None:
    """Compare a federated model with centralized, local and fine-tuned ones: same data, same model, as much training.

    Running it again finds what was done before; what was cut short is taken up where it stopped.

    For example:

    - `fededge compare digits`
    - `fededge compare digits --version v3 --clients 20`
    - `fededge compare tumours --with ./examples/tumours --json`
    """
    asked = ComparisonSettings.parse(clients_per_pod=clients_per_pod, arm_clients=clients, deadline_s=deadline_s)
    check_combination(runner, packages or [], other_images=bool(registry or client_image))
    opened = open_store(store)
    trainings = existing(opened, training)
    manifest = trainings.version(version)
    # kfp takes a second to import, and --help needs none of it.
    from fededge.kubeflow.export import Images, export_pipeline

    folder = RunFolder(HOME / "runs")
    say(f"comparing {training} {manifest.version} in {opened.url}; log {folder.log}")
    yaml = folder.path / "fl_comparison.yaml"
    export_pipeline("fl_comparison", Images(registry, client_image, image_of_training(trainings)), None, yaml)
    arguments = {"store": opened.url, "training": training, "version": manifest.version, **asked.model_dump()}
    holder = f"a comparison of {training}"  # holds nothing: versions never change
    job = make_job(runner, folder, yaml, {**arguments, "max_batches": 0}, opened, packages or [], network, holder)
    follow(job, folder, CompareView(errors if as_json else console))
    _tell_result(folder, as_json)


def _tell_result(folder: RunFolder, as_json: bool) -> None:
    page = folder.keep_artifact("comparison", "comparison.html")
    path = folder.keep_artifact("figures", "comparison.json")
    if path is None:
        raise RunError(f"the comparison has left no figures; its log is {folder.log}")
    figures = Figures.model_validate_json(path.read_bytes())
    if as_json:
        files = {"report": str(page), "figures": str(path), "log": str(folder.log)}
        print_json({**files, **figures.model_dump(mode="json")})
        return
    console.print(figures_table(figures))
    console.print(f"report   {page}\nfigures  {path}\nlog      {folder.log}", soft_wrap=True)
