"""What the rounds of a training do to a store, without the training; the same bytes each time."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from datetime import timedelta

from fededge.errors import ExistsError
from fededge.store import Store, blobs

LARGE = 400_000


def work(store: Store, rounds: int = 3, clients: int = 4, prefix: str = "", seed: int = 1) -> None:
    """Do all rounds that are not done, whatever an earlier try has left."""
    rng = random.Random(f"{prefix}{seed}")
    with suppress(ExistsError):
        store.create(f"{prefix}pointer", b"0")
    for number in range(1, rounds + 1):
        values = [rng.randbytes(rng.choice([0, 10, 5000, LARGE])) for _ in range(clients)]
        _round(store, f"{prefix}rounds/{number}/", values)
        _move(store, f"{prefix}pointer", number)


def contents(store: Store, prefix: str = "") -> dict[str, str]:
    """Map the keys to digests of their values."""
    return {key: hashlib.sha256(store.get(key).data).hexdigest() for key in store.keys(prefix)}


def _round(store: Store, folder: str, values: list[bytes]) -> None:
    for client, value in enumerate(values):
        digest = blobs.put_bytes(store, value)
        store.create(f"{folder}updates/{client}.json", digest.encode())
        store.create(f"{folder}seen/{client}.json", b"")
    found = store.entries(f"{folder}updates/")
    assert [entry.key for entry in found] == [f"{folder}updates/{client}.json" for client in range(len(values))]
    assert all(entry.written_at < store.now() + timedelta(seconds=1) for entry in found)
    total = hashlib.sha256()
    for entry in found:
        total.update(blobs.get_bytes(store, store.get(entry.key, 100).data.decode(), LARGE))
    store.create(f"{folder}model", total.hexdigest().encode() * 1000)
    for key in store.keys(f"{folder}seen/"):
        store.delete(key)


def _move(store: Store, pointer: str, number: int) -> None:
    head = store.get(pointer)
    if int(head.data) < number:
        store.replace(pointer, b"%d" % number, head.tag)
