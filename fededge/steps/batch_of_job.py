"""What a pod of a Job does: finds its batch by its index, and trains the batch's clients.

    python3 -m fededge.steps.batch_of_job --store s3://models/fededge --attempt digits/v4/1/7 --batches 0-19

It ends with 0 if every client has delivered, or is not needed; with `REFUSED` if one has not, and told why: then the
Job does not try the batch again. Other exit codes are those of the steps.
"""

from __future__ import annotations

import argparse
import os
import sys

from fededge.cluster.jobs import REFUSED, from_ranges
from fededge.core.updates import ExclusionReason
from fededge.errors import InputError
from fededge.records import SittingRef
from fededge.steps.running import running
from fededge.steps.train_clients import train_clients
from fededge.store import open_store
from fededge.store.trainings import TrainingStore

_INDEX = "JOB_COMPLETION_INDEX"


def train_batch(store: str, attempt: str, batches: str, index: int) -> int:
    """Train the batch of an index.

    Args:
      store: as in `open_store`.
      attempt: as `distribute_model` named it.
      batches: numbers of the Job's batches in the attempt's plan, as `to_ranges` writes them.
      index: of the pod in its Job.

    Returns:
      The exit code.
    """
    with running("train", sitting=attempt):
        ref = SittingRef.parse(attempt).attempt
        trainings = TrainingStore(open_store(store), ref.training)
        name, clients = _batch(list(trainings.attempt(ref).batches.items()), batches, index)
    train_clients(store, f"{attempt}/{name}", ends_run=False)
    arrived = trainings.arrivals(ref)
    failures = [trainings.failure(ref, client) for client in clients if client not in arrived]
    refused = [failure for failure in failures if failure and failure.reason is not ExclusionReason.NOT_NEEDED]
    return REFUSED if refused else 0


def _batch(plan: list[tuple[str, list[str]]], batches: str, index: int) -> tuple[str, list[str]]:
    try:
        return plan[from_ranges(batches)[index]]
    except (ValueError, IndexError) as error:
        raise InputError(f"the plan of {len(plan)} batches has none for index {index} of {batches!r}") from error


def main() -> None:
    parser = argparse.ArgumentParser(prog="fededge.steps.batch_of_job", description=(__doc__ or "").splitlines()[0])
    for name in ("store", "attempt", "batches"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    sys.exit(train_batch(given.store, given.attempt, given.batches, int(os.environ.get(_INDEX, "0"))))


if __name__ == "__main__":
    main()
