"""Sends a training's metrics where the environment says: to a Pushgateway, into a folder, or nowhere.

A Pushgateway keeps a group for each training, which is replaced as a whole. What goes wrong here is a warning: no round
fails because nobody watches it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path

from fededge.errors import FedEdgeError
from fededge.monitoring.history import read_history
from fededge.monitoring.logs import warn
from fededge.monitoring.metrics import Sample, samples
from fededge.store.trainings import TrainingStore

GATEWAY = "FEDEDGE_PUSHGATEWAY"
TEXTFILE = "FEDEDGE_METRICS_TEXTFILE"
JOB = "fededge"
_SECONDS = 5.0  # for a gateway that does not answer
_TROUBLE = (FedEdgeError, HTTPException, ImportError, OSError, ValueError)


def send_metrics(trainings: TrainingStore) -> None:
    """Send the metrics of a training; what goes wrong is told in a line."""
    ways: tuple[tuple[str, Callable[[str, str, Sequence[Sample]], None]], ...] = ((GATEWAY, _push), (TEXTFILE, _write))
    for variable, send in ways:
        if target := os.environ.get(variable):
            try:
                send(target, trainings.name, list(samples(read_history(trainings))))
            except _TROUBLE as error:
                warn(f"no metrics of {trainings.name} were sent ({variable}): {error}")


def _push(gateway: str, training: str, found: Sequence[Sample]) -> None:
    from prometheus_client import push_to_gateway

    from fededge.monitoring.exposition import registry

    if "@" in gateway:  # and errors of the HTTP client would tell it
        raise ValueError("the URL of a Pushgateway cannot hold a password")
    push_to_gateway(gateway, JOB, registry(found), {"training": training}, timeout=_SECONDS)


def _write(folder: str, training: str, found: Sequence[Sample]) -> None:
    from prometheus_client import write_to_textfile

    from fededge.monitoring.exposition import registry

    Path(folder).mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(Path(folder, f"{JOB}-{training}.prom")), registry(found))
