"""Decides what a federated model is compared with, and with how much training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fededge.core.cohorts import batch_clients, client_order, sample_cohort
from fededge.core.comparison import Arm, RoundTraffic, bytes_moved, epochs_for
from fededge.core.headers import data_size
from fededge.core.parts import CONTROL, STATISTICS
from fededge.core.seeds import Purpose, derive_seed
from fededge.errors import FedEdgeError, InputError, NotFoundError
from fededge.events import emit
from fededge.learners.alone import without_server
from fededge.records import ArmBatch, Attempt, Budget, Comparison, Version
from fededge.settings import ComparisonSettings, LocalTraining, Placement, RoundSettings
from fededge.steps.running import in_a_line, running
from fededge.store import open_store
from fededge.store.comparisons import ComparisonStore
from fededge.store.trainings import TrainingStore
from fededge.workloads import HasRealClients, Workload, code_digest, fine_tuning, load_workload
from fededge.workloads.evaluation import higher_is_better


class Planned(NamedTuple):
    """What the rest of the comparison needs.

    Attributes:
      comparison: its name.
      plan: for each batch its name and placement, all strings: `{"batch": "digits/v5/0123456789ab/local-b000", …}`.
    """

    comparison: str
    plan: list[dict[str, str]]


def plan_comparison(
    store: str,
    training: str,
    version: str,
    max_batches: int,
    settings: Mapping[str, Any],
    placement: Mapping[str, Any],
) -> Planned:
    """Plan a comparison, or find the same one.

    Args:
      store: as in `open_store`.
      training: whose federated model it is about.
      version: of the training; or `current`.
      max_batches: more batches are refused; 0 for no limit.
      settings: of `ComparisonSettings`.
      placement: of `Placement`, for the batches of clients; the other arms are where the shared data are.
    """
    with running("plan", training):
        asked, where = ComparisonSettings.parse(**settings), Placement.parse(**placement)
        opened = open_store(store)
        comparison = _plan(_lineage(TrainingStore(opened, training), version), TrainingStore(opened, training), asked)
        if max_batches and len(comparison.batches) > max_batches:
            raise InputError(
                f"{len(comparison.batches)} pods are more than the {max_batches} this pipeline may start: raise "
                "clients_per_pod, or take fewer arm_clients"
            )
        ref = ComparisonStore(opened).begin(comparison)
        emit(
            "opened",
            "plan",
            training=training,
            version=comparison.version,
            clients=sum(len(batch.clients) for batch in comparison.batches.values()),
            detail=f"comparison {ref}: {len(comparison.batches)} batches, {comparison.budget.epochs} epochs",
        )
        shared = where.model_copy(update={"data_claim": Placement().data_claim})
        plan = [
            {"batch": f"{ref}/{name}", **(where if batch.clients else shared).model_dump()}
            for name, batch in comparison.batches.items()
        ]
        return Planned(str(ref), plan)


def _lineage(trainings: TrainingStore, version: str) -> list[Version]:
    """Read the manifests from version 0 to the one that is compared.

    Raises:
      NotFoundError: there is no such training or version.
      InputError: nothing was trained yet.
    """
    try:
        trainings.head()
    except NotFoundError as error:
        raise NotFoundError(
            f"no training {trainings.name} in {trainings.store.url} to compare: `fededge run {trainings.name}` makes it"
        ) from error
    lineage = [*trainings.lineage(trainings.version(version).version)][::-1]
    if len(lineage) == 1:
        raise InputError(f"{trainings.name} is at v0, which has learned nothing yet: train a round before comparing")
    return lineage


def _plan(lineage: Sequence[Version], trainings: TrainingStore, asked: ComparisonSettings) -> Comparison:
    version, how = lineage[-1], lineage[-1].settings
    workload = load_workload(how.workload)
    asked_clients = 0 if isinstance(workload, HasRealClients) else how.clients  # real ones come and go
    population = sorted(workload.population(asked_clients), key=client_order)
    if len(population) < 2:
        raise InputError(f"workload {how.workload} has {len(population)} client: a comparison needs 2 at least")
    if asked.arm_clients > len(population):
        raise InputError(f"arm_clients={asked.arm_clients} is more than the {len(population)} clients there are")
    rounds = [(manifest, trainings.attempt(manifest.attempt_ref)) for manifest in lineage[1:]]
    return Comparison(
        training=version.training,
        version=version.version,
        manifest=version.digest,
        model=version.model,
        initial_model=lineage[0].model,
        settings=how,
        population=population,
        fine_tuning=_fine_tuning(workload, how, version.round),
        budget=_budget(rounds, workload, population),
        bytes_moved=bytes_moved(_traffic(manifest, plan) for manifest, plan in rounds),
        batches=_batches(population, asked, how.seed),
        metric=workload.metric,
        unit=getattr(workload, "unit", ""),
        higher_is_better=higher_is_better(workload),
        deadline_s=asked.deadline_s,
        code=code_digest(how.workload),
        runtime=workload.learner().runtime(),
    )


def _fine_tuning(workload: Workload, how: RoundSettings, round_number: int) -> LocalTraining:
    """Say how a client goes on from the model: as the workload says, else as in the round that made it."""
    before = without_server(how.in_round(round_number))
    return LocalTraining.parse(**{**before.model_dump(), **fine_tuning(workload)})


def _budget(rounds: Sequence[tuple[Version, Attempt]], workload: Workload, population: Sequence[str]) -> Budget:
    """Count what the federated model was trained on. A round in which clients only measured trained on nothing."""
    trained = [manifest for manifest, plan in rounds if not _only_measures(plan)]
    examples = sum(accepted.num_examples for manifest in trained for accepted in manifest.accepted)
    if not trained:
        raise InputError("the version has only measured its clients' data: train another round before comparing")
    clients = rounds[-1][0].settings.clients
    available = sum(_count(workload, client, clients) for client in population)
    if not available:
        raise InputError("no client's examples can be read here: mount the data of all clients, or set FEDEDGE_DATA")
    return Budget(
        examples=examples,
        available=available,
        epochs=epochs_for(examples, available),
        rounds=[manifest.round for manifest in trained],
    )


def _only_measures(plan: Attempt) -> bool:
    return bool(plan.update_signature) and all(name.startswith(STATISTICS) for name in plan.update_signature)


def _count(workload: Workload, client: str, clients: int) -> int:
    """Count a client's examples. Why there are none to be read, the arms will say."""
    try:
        return len(workload.train_data(client, clients))
    except FedEdgeError as error:
        sys.stdout.write(f"{client}: {error}\n")
    except Exception as error:  # whatever a client's data do must not end the others
        sys.stdout.write(f"{client}: {in_a_line(error)}\n")
    return 0


def _traffic(manifest: Version, plan: Attempt) -> RoundTraffic:
    """Say what a round moved; the server's control variates go to the clients too."""
    update = plan.update_signature or manifest.signature
    control = {name: kind for name, kind in update.items() if name.startswith(CONTROL)}
    return RoundTraffic(
        cohort=len(manifest.accepted) + len(manifest.excluded),
        accepted=len(manifest.accepted),
        down=data_size(manifest.signature) + data_size(control),
        up=data_size(update),
    )


def _batches(population: Sequence[str], asked: ComparisonSettings, seed: int) -> dict[str, ArmBatch]:
    chosen = sample_cohort(population, asked.arm_clients, derive_seed(seed, Purpose.COMPARED))
    batches = {str(arm): ArmBatch(arm=arm, clients=[]) for arm in (Arm.FEDERATED, Arm.CENTRALIZED)}
    for arm in (Arm.LOCAL, Arm.FINE_TUNED):
        for number, clients in enumerate(batch_clients(chosen, asked.clients_per_pod)):
            batches[f"{arm}-b{number:03d}"] = ArmBatch(arm=arm, clients=clients)
    return batches
