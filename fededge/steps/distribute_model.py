"""Opens a round: begins the training if there is none, picks the cohort, and plans who trains where."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fededge.core.cohorts import batch_clients, sample_cohort
from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Tensors, signature
from fededge.errors import ConflictError, InputError, NotFoundError, WorkloadError
from fededge.events import emit
from fededge.records import Attempt, Training, Version
from fededge.settings import TRAINING_WIDE, Placement, RoundSettings
from fededge.steps.running import running
from fededge.store import keys, open_store
from fededge.store.blobs import get_bytes, put_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import Workload, load_workload


class Distribution(NamedTuple):
    """What the rest of the round needs.

    Attributes:
      attempt: names the attempt.
      plan: for each batch its name and placement, all strings: `{"batch": "digits/v4/1/b000", "data_claim": …}`.
    """

    attempt: str
    plan: list[dict[str, str]]


def distribute_model(
    store: str,
    training: str,
    base_version: str,
    initial_model: str,
    max_batches: int,
    settings: Mapping[str, Any],
    placement: Mapping[str, Any],
) -> Distribution:
    """Open a round, or find the open one.

    Args:
      store: as in `open_store`.
      training: its name; it is begun if it is new.
      base_version: the version to start from, which must be current; or `current`.
      initial_model: digest of the blob with the weights of version 0, a safetensors or Keras file; empty for the
        workload's own. Another one than the training began with is refused.
      max_batches: more batches are refused; 0 for no limit.
      settings: of `RoundSettings`.
      placement: of `Placement`.
    """
    with running("distribute", training):
        how, where = RoundSettings.parse(**settings), Placement.parse(**placement)
        if max_batches and how.batch_count > max_batches:
            raise InputError(
                f"{how.batch_count} pods a round are more than the {max_batches} this pipeline may start: "
                "raise clients_per_pod, or run fewer rounds in one run"
            )
        trainings = TrainingStore(open_store(store), training)
        workload = load_workload(how.workload)
        population = _population(workload, how)
        _begin(trainings, how, workload, initial_model)
        attempt = _open(trainings, how, population, base_version)
        emit(
            "opened",
            "distribute",
            training=training,
            round=attempt.round,
            version=attempt.version,
            clients=len(attempt.cohort),
            detail=f"{len(attempt.batches)} batch{'es' * (len(attempt.batches) > 1)} from {attempt.base_version}",
        )
        plan = [{"batch": f"{attempt.ref}/{batch}", **where.model_dump()} for batch in attempt.batches]
        return Distribution(str(attempt.ref), plan)


def _population(workload: Workload, how: RoundSettings) -> Sequence[str]:
    population = workload.population(how.clients)
    if len(set(population)) != len(population):
        twice = next(client for client in population if list(population).count(client) > 1)
        raise WorkloadError(f"workload {how.workload} names the client {twice} twice: ids must be distinct")
    return population


def _begin(trainings: TrainingStore, how: RoundSettings, workload: Workload, initial_model: str) -> None:
    """Make sure that the training exists and is the one that is meant."""
    try:
        existing = trainings.training()
        trainings.head()
    except NotFoundError:
        existing = _create(trainings, how, workload, initial_model)
    # Costs building the model in every round; found later, a changed model would have failed every client.
    if signature(workload.learner().initial_weights(seed=0)) != existing.signature:
        raise InputError(
            f"training {trainings.name} has versions of another model than workload {how.workload} makes now: begin "
            "another training, with another name or `fededge run --new`"
        )
    if initial_model not in ("", existing.initial_file):
        raise InputError(
            f"training {trainings.name} has begun with another initial model: begin another training, with another "
            "name or `fededge run --new`"
        )
    for name in TRAINING_WIDE:
        theirs, ours = getattr(existing.settings, name), getattr(how, name)
        if theirs != ours:
            raise InputError(
                f"training {trainings.name} has {name}={theirs}, not {ours}: go on with that, or begin another "
                "training, with another name or `fededge run --new`"
            )


def _create(trainings: TrainingStore, how: RoundSettings, workload: Workload, initial_model: str) -> Training:
    weights = _initial_weights(trainings, how, workload, initial_model)
    learner = workload.learner()
    digest = put_tensors(trainings.store, weights)
    training = Training(
        name=trainings.name,
        settings=how,
        signature=signature(weights),
        initial_model=digest,
        initial_file=initial_model or None,
    )
    initial = Version(
        training=trainings.name,
        version=keys.version_name(0, branch=0),
        round=0,
        parent=None,
        attempt=0,
        model=digest,
        server_state=None,
        signature=signature(weights),
        settings=how,
        accepted=[],
        excluded=[],
        metric=workload.metric,
        metrics={},
        data_schema={},
        runtime=learner.runtime(),
    )
    return trainings.create(training, initial)


def _initial_weights(trainings: TrainingStore, how: RoundSettings, workload: Workload, initial_model: str) -> Tensors:
    learner = workload.learner()
    if not initial_model:
        return learner.initial_weights(derive_seed(how.seed, Purpose.INIT))
    data = get_bytes(trainings.store, initial_model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"initial_model{_suffix(data)}")
        path.write_bytes(data)
        return learner.load_weights(path)


def _suffix(data: bytes) -> str:
    """Tell a file's format by how it begins; blobs have no names."""
    if data.startswith(b"PK"):
        return ".keras"
    return ".h5" if data.startswith(b"\x89HDF") else ".safetensors"


def _open(trainings: TrainingStore, how: RoundSettings, population: Sequence[str], base_version: str) -> Attempt:
    """Find the round's open attempt, or open the next."""
    pointer = trainings.head().pointer
    if base_version not in ("current", pointer.version):
        raise ConflictError(
            f"{trainings.name} is at {pointer.version}, not {base_version}: pass base_version=current, or move it "
            f"with `fededge versions rollback {trainings.name} {base_version}`"
        )
    base = trainings.version(pointer.version)
    version = keys.version_name(base.round + 1, pointer.branch)
    past = trainings.attempts(version)
    if past and not trainings.failed(past[-1]):
        return _resume(trainings.attempt(past[-1]), how)
    return trainings.open_attempt(_plan(trainings, base, version, len(past) + 1, how, population))


def _resume(attempt: Attempt, how: RoundSettings) -> Attempt:
    for name, ours in how:
        theirs = getattr(attempt.settings, name)
        if theirs != ours:
            raise InputError(
                f"round {attempt.round} of {attempt.training} was cut short with {name}={theirs}, not {ours}: "
                "finish it with the same settings first"
            )
    return attempt


def _plan(
    trainings: TrainingStore, base: Version, version: str, number: int, how: RoundSettings, population: Sequence[str]
) -> Attempt:
    round_number = base.round + 1
    seed = derive_seed(how.seed, Purpose.COHORT, round_number)
    cohort = sample_cohort(population, how.clients_per_round, seed)
    batches = batch_clients(cohort, how.clients_per_pod)
    return Attempt(
        training=trainings.name,
        version=version,
        round=round_number,
        number=number,
        base_version=base.version,
        base_model=base.model,
        base_server_state=base.server_state,
        settings=how,
        batches={f"b{i:03d}": clients for i, clients in enumerate(batches)},
    )
