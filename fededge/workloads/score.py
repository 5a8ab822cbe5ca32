"""Measures a model on each client's held-out examples: `python -m fededge.workloads.score WORKLOAD CLIENTS WEIGHTS`.

Prints JSON: `{"official": metrics, "clients": [{"client", "examples", "metrics"}, …]}`. Runs in the environment of the
learner's image.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fededge.errors import FedEdgeError, InputError
from fededge.store.blobs import decode_tensors
from fededge.workloads import HasClientTests, load_workload
from fededge.workloads.evaluation import measure, score_clients


def main(name: str, population: int, weights: Path) -> None:
    workload = load_workload(name)
    if not isinstance(workload, HasClientTests):
        raise InputError(f"workload {name} has no held-out examples by client: give it test_clients, client_test_data")
    learner, model = workload.learner(), decode_tensors(weights.read_bytes(), weights.name)
    tests = ((client, workload.client_test_data(client, population)) for client in workload.test_clients(population))
    scores = [
        {"client": score.client, "examples": score.examples, "metrics": dict(score.metrics)}
        for score in score_clients(learner, model, tests)
    ]
    official = dict(measure(workload, learner, model).metrics)
    sys.stdout.write(f"\n{json.dumps({'official': official, 'clients': scores})}\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    except FedEdgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
