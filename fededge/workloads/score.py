"""Measures a model on each client's held-out examples: `python -m fededge.workloads.score WORKLOAD CLIENTS WEIGHTS`.

Reads from standard input who has taken part in training, a JSON list: a workload may have more to test the others on.
Prints JSON: `{"official": metrics, "clients": [{"client", "examples", "metrics"}, …], "untested": {client: why}}`. Runs
in the environment of the learner's image.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

from fededge.errors import FedEdgeError, InputError, MissingDataError, WorkloadError
from fededge.learners import Examples
from fededge.store.blobs import decode_tensors
from fededge.workloads import HasClientTests, HasColdTests, load_workload
from fededge.workloads.evaluation import measure, read_tests, score_clients


def main(name: str, population: int, weights: Path, known: Set[str]) -> dict[str, Any]:
    workload = load_workload(name)
    if not isinstance(workload, HasClientTests):
        raise InputError(f"workload {name} has no held-out examples by client: give it test_clients, client_test_data")
    learner, model = workload.learner(), decode_tensors(weights.read_bytes(), weights.name)
    tests, untested = _tests(workload, population, known)
    scores = [
        {"client": score.client, "examples": score.examples, "metrics": dict(score.metrics)}
        for score in score_clients(learner, model, tests.items())
    ]
    try:
        official = dict(measure(workload, learner, model).metrics)
    except WorkloadError:  # its files are not here, or are of none of these clients
        official = {}
    return {"official": official, "clients": scores, "untested": untested}


def _tests(workload: HasClientTests, population: int, known: Set[str]) -> tuple[dict[str, Examples], dict[str, str]]:
    def read(client: str) -> Examples:
        if isinstance(workload, HasColdTests) and client not in known:
            return workload.cold_test_data(client)
        return workload.client_test_data(client, population)

    return read_tests(read, _clients(workload, population, known))


def _clients(workload: HasClientTests, population: int, known: Set[str]) -> Sequence[str]:
    """Name who has something to be tested on: held-out examples, or no part in what was learned."""
    if not isinstance(workload, HasColdTests):
        return workload.test_clients(population)
    held_out: Set[str] = frozenset()
    with contextlib.suppress(MissingDataError):  # they may be in files that are not here
        held_out = frozenset(workload.test_clients(population))
    return [client for client in workload.everyone() if client in held_out or client not in known]


if __name__ == "__main__":
    try:
        found = main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), {*json.load(sys.stdin)})
        sys.stdout.write(f"\n{json.dumps(found)}\n")
    except FedEdgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
