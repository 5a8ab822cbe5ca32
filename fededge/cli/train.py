"""`fededge train`: round after round on Kubeflow, until the model is good enough."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fededge.cli.kubeflow_options import (
    ClientImageOption,
    DigestsOption,
    ExperimentOption,
    InputOption,
    PollOption,
    RegistryOption,
    RunStoreOption,
    ServiceAccountOption,
    connected,
    inputs_of,
    package_of,
    take_login,
    with_login_options,
)
from fededge.cli.local_run import INTERRUPTED
from fededge.cli.output import JsonOption, LibraryOption, console, print_json, say
from fededge.cli.round_options import built_in, with_round_options
from fededge.cli.submit import line
from fededge.cli.training import name_of
from fededge.kubeflow import EXPERIMENT, SERVICE_ACCOUNT
from fededge.signals import terminable
from fededge.store import open_store
from fededge.store.trainings import TrainingStore
from fededge.workloads.evaluation import higher_is_better

if TYPE_CHECKING:
    from fededge.kubeflow.driver import Driver, News
    from fededge.kubeflow.goal import Goal


@with_login_options
@with_round_options
def train(
    context: typer.Context,
    training: Annotated[
        str, typer.Argument(help="The training to begin or go on with; by default, the workload's.")
    ] = "",
    rounds: Annotated[int | None, typer.Option(help="Stop when it has had so many rounds, with those before.")] = None,
    target: Annotated[float | None, typer.Option(help="Stop when the metric is this, or better.")] = None,
    plateau: Annotated[
        int | None, typer.Option(help="Stop when so many rounds in a row have made nothing better.")
    ] = None,
    min_improvement: Annotated[float, typer.Option(help="With --plateau: what counts as better.")] = 0.0,
    store: RunStoreOption = "",
    pipeline: Annotated[
        str, typer.Option(help="That makes one round: fl_round, another one that comes with FedEdge, or a file.")
    ] = "fl_round",
    typed_inputs: InputOption = None,
    registry: RegistryOption = "",
    client_image: ClientImageOption = "",
    library: LibraryOption = None,
    digests: DigestsOption = None,
    experiment: ExperimentOption = EXPERIMENT,
    service_account: ServiceAccountOption = SERVICE_ACCOUNT,
    retries: Annotated[int, typer.Option(min=0, help="How often a round whose run failed is started again.")] = 2,
    poll_s: PollOption = 5.0,
    as_json: JsonOption = False,
    **chosen: Any,
) -> None:
    """Train round after round on Kubeflow; stop at a target, at a plateau, or after so many rounds.

    Each round is a run. The metric is read from the store. Ctrl-C leaves the round's run going; the same command
    adopts it and goes on.

    For example:

    - `fededge train --target 0.95 --rounds 50 --store s3://models/fededge --registry harbor.example.org/fededge`
    - `fededge train digits --plateau 5 --min-improvement 0.002 --clients-per-round 10 --store s3://models/fededge`
    """
    from fededge.kubeflow.goal import Goal

    goal = Goal.parse(
        rounds=rounds,
        target=target,
        plateau=plateau,
        min_improvement=min_improvement,
        higher_is_better=_higher(chosen["workload"]),
    )
    login = take_login(chosen)
    opened = open_store(store, hurried=True)
    trainings = TrainingStore(opened, name_of(training, chosen["workload"]))
    with package_of(pipeline, chosen["workload"], None, registry, client_image, library, digests) as package:
        inputs = inputs_of(context, package, chosen, training, opened.url, typed_inputs)
        kubeflow = connected(login)
        from fededge.kubeflow.driver import Driver

        driver = Driver(kubeflow, trainings, package, inputs, experiment, service_account, retries, poll_s)
        last = _follow(driver, goal)
    if last:
        _tell(last, trainings, as_json)


def _higher(workload: str) -> bool | None:
    """Whether a larger metric is a better one; a workload of the user's own is known to its image alone."""
    ours = built_in(workload)
    return higher_is_better(ours) if ours else None


def _follow(driver: Driver, goal: Goal) -> News | None:
    news, going = None, ""
    try:
        with terminable(), contextlib.closing(driver.train(goal)) as told:
            for news in told:
                going = news.run.id if news.run and not news.run.finished else ""
                say(_said(news))
    except KeyboardInterrupt:
        still = f"the round's run goes on, and `fededge stop {going}` ends it; " if going else ""
        say(f"interrupted: {still}the same command goes on with the training")
        raise typer.Exit(INTERRUPTED) from None
    return news


def _said(news: News) -> str:
    where = (news.run.link or news.run.id) if news.run else ""
    match news.kind:
        case "submitted":
            return f"{news.making}: run {where}"
        case "adopted":
            return f"{news.making}: a run goes on already: {where}"
        case "changed" if news.run:
            return line(news.run)
        case "failed" if news.run:
            return f"{news.making}: {news.run.error or 'the run failed'}; trying again"
        case "made" if news.version:
            return f"{news.making}: {_score(news)}"
    return f"{news.making}: {news.because}"


def _score(news: News) -> str:
    version = news.version
    return f"{version.metric} {version.metrics[version.metric]:.4f}" if version and version.metrics else "no metric"


def _tell(last: News, trainings: TrainingStore, as_json: bool) -> None:
    version = last.version
    if as_json and version:
        document = {"training": trainings.name, "store": trainings.store.url, "stopped": last.because}
        print_json({**document, "version": version.version, "round": version.round, "metrics": version.metrics})
    elif version:
        console.print(f"{trainings.name} is at {version.version}: {_score(last)} ({last.because})", soft_wrap=True)
