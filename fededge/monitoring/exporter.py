"""Serves the metrics of a store's trainings, for where there is no Pushgateway.

The store is read on each scrape, so nothing can be stale; only which trainings there are is asked less often, as that
lists all of the store. As a program, for a container: `python -m fededge.monitoring.exporter :9100 [TRAINING]…`, with
the store that `FEDEDGE_STORE` names.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fededge.errors import FedEdgeError, InputError
from fededge.monitoring.exposition import Samples
from fededge.monitoring.history import read_history
from fededge.monitoring.logs import lines, warn
from fededge.monitoring.metrics import STORE_UP, Sample, samples
from fededge.signals import terminable
from fededge.store import Store, open_store
from fededge.store.trainings import TrainingStore, begun_trainings

T = TypeVar("T")

_KNOWN_SECONDS = 600.0  # until the trainings of a store are listed again


def read_samples(store: Store, training: str) -> list[Sample]:
    """Compute the metrics of a training."""
    return list(samples(read_history(TrainingStore(store, training))))


def parse_address(text: str) -> tuple[str, int]:
    """Read `host:port`, or `:port` for all addresses of this machine.

    Raises:
      InputError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"{text!r} is no address to listen on; they look like :9100 or 127.0.0.1:9100")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104


def serve(store: Store, trainings: Sequence[str], address: str) -> None:
    """Answer scrapes until this process is ended.

    Raises:
      InputError: the address cannot be listened on.
    """
    host, port = parse_address(address)
    registry = CollectorRegistry()
    registry.register(_Trainings(store, trainings))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise InputError(f"cannot listen on {address}: {error.strerror or error}; choose another port") from error
    try:
        with terminable():
            threading.Event().wait()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Trainings(Collector):
    """Reads the store for each scrape; what cannot be read is told, and is a metric."""

    def __init__(self, store: Store, trainings: Sequence[str]) -> None:
        self._store = store
        self._trainings = trainings
        self._begun: list[str] = []
        self._known_until = 0.0
        self._is_up = True

    def collect(self) -> Iterator[Metric]:
        self._is_up = True
        names = self._trainings or self._try(self._names)
        found = [sample for name in names for sample in self._try(partial(read_samples, self._store, name))]
        yield GaugeMetricFamily(STORE_UP.name, STORE_UP.help, value=self._is_up)
        yield from Samples(found).collect()

    def _names(self) -> list[str]:
        if time.monotonic() >= self._known_until:
            self._begun = begun_trainings(self._store)
            self._known_until = time.monotonic() + _KNOWN_SECONDS
        return self._begun

    def _try(self, read: Callable[[], list[T]]) -> list[T]:
        try:
            return read()
        except FedEdgeError as error:
            self._is_up = False
            warn(str(error))
            return []


def main() -> None:
    with lines(step="metrics"):
        try:
            serve(open_store(""), sys.argv[2:], sys.argv[1] if len(sys.argv) > 1 else ":9100")
        except FedEdgeError as error:
            warn(str(error))
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
