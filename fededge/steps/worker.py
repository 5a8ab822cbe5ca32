"""A process that does step after step, for simulations: `python -m fededge.steps.worker <descriptor>`.

    standard input   {"step": "train_clients", "arguments": {"store": …, "batch": …}}       a line for each job
    the descriptor   {"result": …}, or {"exit_code": 5} where the step would have ended so   a line for each answer

In a pipeline each step is a process of its own. Here the framework is loaded once, and what a learner has built serves
every round. Nothing else is kept from one step to the next, so the bits are the pipeline's. It ends itself, with all
that it has started, when its standard input does: whoever gave the jobs is gone.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any

from fededge.signals import TERMINATED
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.steps.distribute_model import distribute_model
from fededge.steps.evaluate_model import evaluate_model
from fededge.steps.running import running
from fededge.steps.train_clients import train_clients
from fededge.steps.version_model import version_model
from fededge.workloads import learner_of, load_workload


def count_clients(workload: str, clients: int) -> int:
    """Return how many clients there are.

    Args:
      workload: its name.
      clients: as in `Workload.population`.

    Raises:
      WorkloadError: there is no such workload, or there cannot be so many clients.
    """
    with running("prepare"):
        return len(load_workload(workload).population(clients))


def prepare_clients(workload: str) -> None:
    """Load what training needs, while other workers do, too."""
    with running("prepare"):
        learner_of(workload).prepare()


def prepare_server() -> None:
    """Load what aggregation needs."""
    with running("prepare"):
        from fededge.learners.tff import tensorflow_federated

        tensorflow_federated()


JOBS: Mapping[str, Callable[..., Any]] = {
    job.__name__: job
    for job in (
        count_clients,
        prepare_clients,
        prepare_server,
        distribute_model,
        train_clients,
        aggregate_updates,
        evaluate_model,
        version_model,
    )
}


def main(descriptor: int) -> None:
    os.set_inheritable(descriptor, False)  # what a step starts may outlive us, and must not seem to be us
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read_jobs, args=(_take_input(), lines), daemon=True).start()
    with open(descriptor, "w", encoding="utf-8") as answers:
        while True:  # in the main thread, which alone gets the signal of a deadline
            job = json.loads(lines.get())
            answers.write(json.dumps(_do(JOBS[job["step"]], job["arguments"])) + "\n")
            answers.flush()


def _do(step: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do a step, and answer as its own process would have ended."""
    try:
        return {"result": step(**arguments)}
    except SystemExit as end:
        if end.code == TERMINATED:
            raise
        return {"exit_code": end.code}
    except Exception:
        traceback.print_exc()
        return {"exit_code": 1}


def _take_input() -> int:
    """Return standard input under another number: neither a workload nor what it starts is to read jobs."""
    jobs, nowhere = os.dup(sys.stdin.fileno()), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, sys.stdin.fileno())
    os.close(nowhere)
    return jobs


def _read_jobs(jobs: int, lines: SimpleQueue[bytes]) -> None:
    with open(jobs, "rb") as file:
        for line in file:
            lines.put(line)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]))
