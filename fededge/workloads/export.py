"""Writes a model in its library's own format: `python -m fededge.workloads.export WORKLOAD WEIGHTS FILE`.

Runs in the environment of the learner's image.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fededge.errors import FedEdgeError
from fededge.store.blobs import decode_tensors
from fededge.workloads import load_workload


def main(workload: str, weights: Path, to: Path) -> None:
    load_workload(workload).learner().export(decode_tensors(weights.read_bytes(), weights.name), to)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    except FedEdgeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
