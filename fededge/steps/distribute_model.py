"""Opens a round: begins the training if there is none, picks the cohort, and plans who trains where."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from fededge.core.cohorts import sample_cohort
from fededge.core.parts import CONTROL, is_trained
from fededge.core.placement import place_clients
from fededge.core.robust import Rule
from fededge.core.seeds import Purpose, derive_seed
from fededge.core.tensors import Tensors, signature
from fededge.errors import ConflictError, InputError, LeaseError, NotFoundError, RoundError
from fededge.events import emit
from fededge.learners import Learner
from fededge.records import Attempt, AttemptRef, SittingRef, Training, Version
from fededge.settings import TRAINING_WIDE, ClientAlgorithm, Placement, RoundSettings
from fededge.steps.homes import (
    Homes,
    find_homes,
    find_population,
    look_at_devices,
    placement_of,
    report_left_out,
)
from fededge.steps.running import release, require_no_collection, run_name, running, tell_work
from fededge.store import keys, open_store
from fededge.store.blobs import get_bytes, get_tensors, put_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import HasRealClients, Workload, code_digest, learner_of, load_workload


class Distribution(NamedTuple):
    """What the rest of the round needs.

    Attributes:
      attempt: names the attempt, and this run's lease.
      plan: for each batch its name and placement, all strings: `{"batch": "digits/v4/1/7/b000", "data_claim": …}`.
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
    run: str,
    devices: str = "",
    interval_s: int = 0,
) -> Distribution:
    """Open a round, or find the open one, and hold the training for this run.

    Args:
      store: as in `open_store`.
      training: its name; it is begun if it is new.
      base_version: the version to start from, which must be current; or `current`.
      initial_model: digest of the blob with the weights of version 0, a safetensors or Keras file; empty for the
        workload's own. Another one than the training began with is refused.
      max_batches: more batches are refused; 0 for no limit.
      settings: of `RoundSettings`.
      placement: of `Placement`.
      run: names this run.
      devices: where to find those that clients live on, as in `find_devices`; empty if they live on none.
      interval_s: seconds between the rounds of a schedule, for its alert; 0 for none.
    """
    with running("distribute", training):
        asked, where = RoundSettings.parse(**settings), Placement.parse(**placement)
        workload = load_workload(asked.workload)
        living = look_at_devices(devices)
        population = find_population(workload, asked.clients, living)
        how = asked.of_population(len(population), at_most=isinstance(workload, HasRealClients))
        _check_batches(how.batch_count, max_batches)
        homes = find_homes(devices, living, where, population)
        trainings = TrainingStore(open_store(store), training)
        token = _acquire(trainings, how, run_name() or f"run {run}")
        try:
            _begin(trainings, how, workload, initial_model)
            trainings.fence(token)
            attempt = _open(trainings, asked, how, population, base_version, homes, max_batches, interval_s)
            sitting = SittingRef(attempt=attempt.ref, token=token)
            trainings.begin_sitting(sitting)
            tell_work(trainings, attempt)
            report_left_out(trainings, attempt)
        except BaseException:
            release(trainings, token)
            raise
        emit(
            "opened",
            "distribute",
            training=training,
            round=attempt.round,
            version=attempt.version,
            clients=len(attempt.cohort),
            detail=_opening(attempt),
        )
        plan = [
            {"batch": f"{sitting}/{batch}", **placement_of(attempt, batch, where).model_dump()}
            for batch in attempt.batches
        ]
        return Distribution(str(sitting), plan)


def _check_batches(batches: int, limit: int) -> None:
    if limit and batches > limit:
        raise InputError(
            f"{batches} pods a round are more than the {limit} this pipeline may start: "
            "raise clients_per_pod, run fewer rounds in one run, or train in Jobs, as fl_round_job does"
        )


def _opening(attempt: Attempt) -> str:
    batches, devices = len(attempt.batches), len({home.device for home in attempt.devices.values()})
    on = f" on {devices} device{'s' * (devices > 1)}" if devices else ""
    without = f", without {len(attempt.left_out)} whose devices are unavailable" if attempt.left_out else ""
    return f"{batches} batch{'es' * (batches != 1)}{on} from {attempt.base_version}{without}"


def _acquire(trainings: TrainingStore, how: RoundSettings, holder: str) -> int:
    """Hold the training until the round can be over.

    Raises:
      LeaseError: another run works on it, or garbage is being collected.
    """
    end = trainings.store.now() + timedelta(seconds=how.deadline_s + how.finish_s)
    token = trainings.acquire(holder, end)
    try:
        require_no_collection(trainings.store)
    except LeaseError:
        release(trainings, token)
        raise
    return token


def _begin(trainings: TrainingStore, how: RoundSettings, workload: Workload, initial_model: str) -> None:
    """Make sure that the training exists and is the one that is meant."""
    try:
        existing = trainings.training()
        trainings.head()
    except NotFoundError:
        existing = _create(trainings, how, workload, initial_model)
    # Costs building the model in every round; found later, a changed model would have failed every client.
    if signature(learner_of(how.workload).initial_weights(seed=0)) != existing.signature:
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
        if name == "clients" and isinstance(workload, HasRealClients):
            continue
        theirs, ours = getattr(existing.settings, name), getattr(how, name)
        if theirs != ours:
            raise InputError(
                f"training {trainings.name} has {name}={theirs}, not {ours}: go on with that, or begin another "
                "training, with another name or `fededge run --new`"
            )


def _create(trainings: TrainingStore, how: RoundSettings, workload: Workload, initial_model: str) -> Training:
    weights = _initial_weights(trainings, how, initial_model)
    learner = learner_of(how.workload)
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
        parent_manifest=None,
        attempt=0,
        model=digest,
        server_state=None,
        signature=signature(weights),
        settings=how,
        because=None,
        accepted=[],
        excluded=[],
        repeats=[],
        counted=[],
        metric=workload.metric,
        metrics={},
        data_schema={},
        documents={keys.training(trainings.name): training.digest},
        runtime=learner.runtime(),
    )
    return trainings.create(training, initial)


def _initial_weights(trainings: TrainingStore, how: RoundSettings, initial_model: str) -> Tensors:
    learner = learner_of(how.workload)
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
        return ".pt" if b"/data.pkl" in data else ".keras"  # both are zip files
    return ".h5" if data.startswith(b"\x89HDF") else ".safetensors"


def _open(
    trainings: TrainingStore,
    asked: RoundSettings,
    how: RoundSettings,
    population: Sequence[str],
    base_version: str,
    homes: Homes,
    max_batches: int,
    interval_s: int,
) -> Attempt:
    """Find the round's open attempt, or open the next."""
    pointer = trainings.head().pointer
    if base_version not in ("current", pointer.version):
        raise ConflictError(
            f"{trainings.name} is at {pointer.version}, not {base_version}: pass base_version=current, or move it "
            f"with `fededge versions rollback {trainings.name} {base_version}`"
        )
    base = trainings.version(pointer.version)
    version = keys.next_version(pointer)
    past = trainings.attempts(version)
    ours = _plan(trainings, base, version, len(past) + 1, how, population, homes)
    if past and not trainings.failed(past[-1]):
        theirs = trainings.attempt(past[-1])
        if not asked.clients:  # some may have come or gone since
            as_then = asked.of_population(theirs.settings.clients, at_most=True)
            ours = ours.model_copy(update={"settings": as_then})
        return _resume(theirs, ours)
    if len(past) >= how.max_attempts:
        raise RoundError(_given_up(trainings, base.round + 1, past))
    _check_batches(len(ours.batches), max_batches)  # devices make more of them
    return trainings.open_attempt(ours.model_copy(update={"interval_s": interval_s}))


def _given_up(trainings: TrainingStore, round_number: int, past: Sequence[AttemptRef]) -> str:
    failed = trainings.failed(past[-1])
    return (
        f"round {round_number} of {trainings.name} has failed {len(past)} times, the last time because "
        f"{failed.reason if failed else 'it was given up'}; see `fededge rounds show {trainings.name}`, mend the cause "
        f"and set max_attempts to {len(past) + 1} or more"
    )


def _resume(theirs: Attempt, ours: Attempt) -> Attempt:
    """Go on with an attempt that was cut short.

    Raises:
      InputError: something that decides the result is not as it was.
    """
    if difference := _difference(theirs, ours):
        raise InputError(
            f"round {theirs.round} of {theirs.training} was cut short with {difference}: finish it as it was begun, or "
            f"give it up with `fededge rounds abandon {theirs.training}`"
        )
    return theirs


def _difference(theirs: Attempt, ours: Attempt) -> str:
    """Name what two attempts at the same round do not share; empty if nothing."""
    for name, value in ours.settings:
        if (before := getattr(theirs.settings, name)) != value:
            return f"{name}={before}, not {value}"
    if theirs.code != ours.code:
        return f"other code of the workload {ours.settings.workload}"
    there, here = theirs.runtime, ours.runtime
    versions = {**there.libraries, "fededge": there.fededge, "python": there.python}
    for name, version in {**here.libraries, "fededge": here.fededge, "python": here.python}.items():
        if versions.get(name) != version:
            return f"an image with {name} {versions.get(name)}, not {version}"
    return "an image with other packages" if there.packages != here.packages else ""


def _plan(
    trainings: TrainingStore,
    base: Version,
    version: str,
    number: int,
    how: RoundSettings,
    population: Sequence[str],
    homes: Homes,
) -> Attempt:
    round_number = base.round + 1
    seed = derive_seed(how.seed, Purpose.COHORT, round_number)
    size = 0 if how.cohort_size == how.clients else how.cohort_size
    cohort = sample_cohort(population, size, seed, number)
    able = [client for client in cohort if client not in homes.unavailable]
    placed = place_clients(able, homes.names, how.clients_per_pod)
    batches = {f"b{i:03d}": batch for i, batch in enumerate(placed)}
    learner = learner_of(how.workload)
    return Attempt(
        training=trainings.name,
        version=version,
        round=round_number,
        number=number,
        base_version=base.version,
        base_model=base.model,
        base_server_state=base.server_state,
        settings=how,
        batches={name: batch.clients for name, batch in batches.items()},
        devices={name: homes.of[batch.clients[0]] for name, batch in batches.items() if batch.device},
        left_out=homes.left_out(cohort),
        update_signature=_update_signature(trainings, base, how, learner),
        data_schema=base.data_schema,
        code=code_digest(how.workload),
        runtime=learner.runtime(),
    )


def _update_signature(trainings: TrainingStore, base: Version, how: RoundSettings, learner: Learner) -> dict[str, str]:
    """Say what each client has to deliver, after making sure that the round can use it."""
    wanted = learner.update_signature(get_tensors(trainings.store, base.model), how)
    special = [name for name in wanted if not is_trained(name)]
    if special and (how.aggregation is not Rule.MEAN or how.clip_norm):
        raise InputError(
            f"workload {how.workload} has clients deliver {special[0]}, which only aggregation=mean with clip_norm=0 "
            "combines rightly"
        )
    if how.client_algorithm is ClientAlgorithm.SCAFFOLD:
        wanted |= {f"{CONTROL}{name}": kind for name, kind in wanted.items() if is_trained(name)}
    return dict(sorted(wanted.items()))
