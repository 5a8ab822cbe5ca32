"""Trains the clients of a round in Kubernetes Jobs, and says of each pod that was lost why."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fededge.cluster.api import Cluster, connect
from fededge.cluster.environment import RUN
from fededge.cluster.jobs import Round, device_job, pooled_job, selector
from fededge.cluster.launched import End, Launched
from fededge.cluster.launcher import Launcher, Limits
from fededge.cluster.own_pod import own_pod
from fededge.cluster.pods import Trouble
from fededge.errors import ClusterError
from fededge.events import emit
from fededge.records import Failure, SittingRef
from fededge.settings import FanOut, Placement
from fededge.steps.homes import placement_of
from fededge.steps.running import Work, working

Groups = dict[Placement, list[int]]


def train_in_jobs(
    store: str, attempt: str, placement: Mapping[str, Any], fan_out: Mapping[str, Any]
) -> list[dict[str, int | str]]:
    """Train the clients of a round in Jobs, until all are done, enough are, or the deadline has come.

    A pod that is lost is data, as a client that fails is: its clients get a failure report, and what counts is decided
    when the round is closed. Only a cluster that refuses or stays away, or a round of which no pod could start, makes
    the step fail. A launcher that was killed leaves its Jobs, and goes on with them when it is run again.

    Args:
      store: as in `open_store`; the pods get it as it is.
      attempt: as `distribute_model` named it.
      placement: of `Placement`, as `distribute_model` got it. Batches with its claim are trained in the Job of their
        resource class, those with another on a device; which are, the attempt says.
      fan_out: of `FanOut`.

    Returns:
      For each batch what `train_clients` returns.

    Raises:
      ClusterError: Kubernetes refuses, or is away for too long, or could start no pod.
      SetupError: this is no pod of a cluster.
    """
    with working("train", store, attempt, comes_back=True) as work, connect(say=partial(_say, work)) as cluster:
        how, where = FanOut.parse(**fan_out), Placement.parse(**placement)
        shared = _round(work, cluster, store, attempt, how)
        launched = [*_launched(work, shared, where)]
        limits = Limits(_until(work), partial(_has_enough, work, launched), how.start_s, how.parallelism)
        Launcher(cluster, launched, selector(shared), limits, partial(_say, work)).run()
        _require_a_start(work, launched, how.start_s)
        work.renew()  # a run that was taken over meanwhile must not report
        _report_losses(work, launched)
        return _reports(work, attempt)


def _say(work: Work, line: str) -> None:
    emit("progress", "train", training=work.plan.training, round=work.plan.round, detail=line)


def _until(work: Work) -> float:
    return time.monotonic() + (work.deadline - work.store.now()).total_seconds()


def _has_enough(work: Work, launched: Sequence[Launched]) -> bool:
    """Tell whether the round has enough; where it is one Job and an index is a client, its success policy tells."""
    is_told = len(launched) == 1 and all(len(clients) == 1 for clients in work.plan.batches.values())
    return work.has_enough and not is_told


def _round(work: Work, cluster: Cluster, store: str, attempt: str, how: FanOut) -> Round:
    pod, plan = own_pod(cluster), work.plan
    if not pod.owner:
        _say(work, "this pod is of no Argo Workflow: the Jobs are not deleted with the run")
    labels = {"training": plan.training, "round": str(plan.round), "attempt": str(plan.number)}
    return Round(
        store=store,
        identity=f"{work.store.url}/{plan.ref}",
        sitting=str(SittingRef.parse(attempt)),
        labels={f"fededge.io/{name}": value for name, value in labels.items()},
        image=pod.image,
        pull_policy=pod.pull_policy,
        pull_secrets=pod.pull_secrets,
        service_account=how.client_service_account,
        owner=pod.owner,
        mesh=pod.mesh,
        parallelism=how.parallelism,
        retries=how.retries,
        keep_s=how.keep_jobs_s,
        run=os.environ.get(RUN, ""),
    )


def _launched(work: Work, shared: Round, own: Placement) -> Iterator[Launched]:
    """Make one Job for each resource class of the shared claim, and one for each batch of a device."""
    groups = _groups(work, own)
    pooled = {where: batches for where, batches in groups.items() if where.data_claim == own.data_claim}
    how, clients = work.plan.settings, sum(map(len, work.plan.batches.values()))
    spare = max(clients - how.min_clients, 0)
    for where, batches in pooled.items():
        enough = _batches_enough(work) if how.close_at_target and len(groups) == 1 else None
        yield Launched(batches, partial(_pooled, shared, where, batches, spare, enough), is_pooled=True)
    devices = [(where, batch) for where, batches in groups.items() if where not in pooled for batch in batches]
    for where, batch in devices:
        yield Launched([batch], partial(device_job, shared, where, batch), is_pooled=False)


def _pooled(
    shared: Round, where: Placement, batches: Sequence[int], spare: int, enough: int | None, left_s: int
) -> dict[str, Any]:
    return pooled_job(shared, where, batches, left_s, spare, enough)


def _groups(work: Work, own: Placement) -> Groups:
    """Sort the batches, by their numbers, into resource classes."""
    groups: Groups = {}
    for number, name in enumerate(work.plan.batches):
        groups.setdefault(placement_of(work.plan, name, own), []).append(number)
    return groups


def _batches_enough(work: Work) -> int:
    """Count the batches that have the target's clients, whichever they are."""
    clients = 0
    for batches, size in enumerate(sorted(map(len, work.plan.batches.values())), start=1):
        clients += size
        if clients >= work.plan.settings.target:
            return batches
    return len(work.plan.batches)


def _require_a_start(work: Work, launched: Sequence[Launched], start_s: int) -> None:
    """Make sure that a pod has started, or that would be no round that failed but a cluster that is not set up."""
    if launched and all(one.end is End.NOT_STARTED for one in launched) and not work.trainings.arrivals(work.ref):
        details = sorted({one.detail for one in launched})
        raise ClusterError(f"no pod of round {work.plan.round} could start within {start_s} s: {'; '.join(details)}")


def _report_losses(work: Work, launched: Sequence[Launched]) -> None:
    """Write down why clients have neither delivered nor said why."""
    arrived = work.trainings.arrivals(work.ref)
    batches = list(work.plan.batches.values())
    for one in launched:
        for index, batch in enumerate(one.batches):
            for client in batches[batch]:
                if client not in arrived and not work.trainings.failure(work.ref, client):
                    _report(work, client, one.why(index, work.plan.settings.deadline_s))


def _report(work: Work, client: str, trouble: Trouble) -> None:
    plan, (reason, detail) = work.plan, trouble
    work.trainings.report_failure(work.ref, Failure(client=client, reason=reason, detail=detail))
    emit("client", "train", training=plan.training, round=plan.round, client=client, ok=False, reason=reason,
         detail=f"{reason}: {detail}")  # fmt: skip


def _reports(work: Work, attempt: str) -> list[dict[str, int | str]]:
    arrived = work.trainings.arrivals(work.ref)
    reports: list[dict[str, int | str]] = []
    for name, clients in work.plan.batches.items():
        delivered = sum(client in arrived for client in clients)
        reports.append({"batch": f"{attempt}/{name}", "delivered": delivered, "failed": len(clients) - delivered})
    return reports
