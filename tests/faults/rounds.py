"""For rounds that die and go on: a clock that jumps, who was trained, and what must be the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fededge.errors import NotFoundError
from fededge.records import Version, digest_of
from fededge.settings import RoundSettings
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors
from fededge.store.folder import FolderStore
from fededge.store.leases import HOLDER
from fededge.store.port import Entry
from fededge.store.trainings import TrainingStore
from tests.faults.pipeline_run import NAME
from tests.steps.tiny import TinyLearner

DAY = timedelta(days=1)  # longer than any lease here
# What says when, and what says what was timed: digests of documents that hold seconds.
_TIMED = {"created_at", "closed_at", "seconds", "update", "parent_manifest", "documents"}


class JumpingStore(FolderStore):
    """A folder whose clock can be put forward a day, so that leases end and no test waits for it."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._jumps: list[datetime] = []

    def now(self) -> datetime:
        return self._shown(super().now())

    def entries(self, prefix: str) -> list[Entry]:
        return [entry._replace(written_at=self._shown(entry.written_at)) for entry in super().entries(prefix)]

    def jump(self) -> None:
        written = [entry.written_at for entry in super().entries("")]
        while (now := super().now()) in written:  # a file system's clock ticks
            pass
        self._jumps.append(now)

    def _shown(self, time: datetime) -> datetime:
        return time + DAY * sum(jump <= time for jump in self._jumps)


def settings(**changed: Any) -> RoundSettings:
    """Settings of a round of the quick workload that no framework is needed for."""
    own = {"workload": "tests.steps.tiny:workload", "clients": 4, "clients_per_pod": 2, "local_epochs": 2}
    return RoundSettings.parse(**{**own, **changed})


@contextmanager
def opened(store: Store) -> Iterator[None]:
    """Have the steps open this store, and be nobody's but the run's that they are told."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("distribute_model", "running", "controls"):
            patch.setattr(f"fededge.steps.{module}.open_store", lambda url: store)
        patch.setenv("FEDEDGE_CLIENT_STATE", store.url)  # clients' devices die at their writes, too
        patch.delenv(HOLDER, raising=False)
        yield


@contextmanager
def trained() -> Iterator[list[str]]:
    """List the clients that are trained inside."""
    clients: list[str] = []
    real = TinyLearner.train

    def train(self: TinyLearner, client: str, *arguments: Any) -> Any:
        clients.append(client)
        return real(self, client, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TinyLearner, "train", train)
        yield clients


def essence(trainings: TrainingStore, version: str) -> dict[str, Any]:
    """Everything of a version but what the clock decides: its manifest, and how its round was closed."""
    manifest = trainings.version(version)
    (ref,) = trainings.attempts(version)
    closing = trainings.closing(ref)
    assert closing is not None
    return {
        "manifest": _timeless(manifest.model_dump(mode="json")),
        "closing": _timeless(closing.model_dump(mode="json")),
        "documents": sorted(manifest.documents),
        "versions": [version.version for version in trainings.versions()],
        "current": trainings.head().pointer.version,
    }


def delivered(trainings: TrainingStore, version: str) -> set[str]:
    """Who has delivered in the round's one attempt."""
    attempts = trainings.attempts(version)
    return {client for ref in attempts for client in trainings.arrivals(ref)}


def assert_whole(store: Store) -> None:
    """Everything that the pointer's version names, and its parents', can be read and is what they say."""
    trainings = TrainingStore(store, NAME)
    try:
        head = trainings.head()
    except NotFoundError:
        return  # nothing is named
    expected = head.pointer.manifest
    for manifest in trainings.lineage(head.pointer.version):
        assert expected in (manifest.digest, None)
        expected = manifest.parent_manifest
        for key, digest in manifest.documents.items():
            assert digest_of(store.get(key).data) == digest, key
        for blob in (manifest.model, manifest.server_state, *(update.delta for update in manifest.accepted)):
            assert blob is None or get_tensors(store, blob)
        _assert_updates(trainings, manifest)


def _assert_updates(trainings: TrainingStore, manifest: Version) -> None:
    for ref in trainings.attempts(manifest.version):
        for accepted in manifest.accepted if ref.number == manifest.attempt else []:
            document = trainings.store.get(keys.update(ref, accepted.client)).data
            assert digest_of(document) == accepted.update


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if name not in _TIMED}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
