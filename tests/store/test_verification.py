from __future__ import annotations

import itertools
import random
import shutil
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from fededge.core.updates import ExclusionReason
from fededge.records import Lease, Pointer
from fededge.store import Store, keys
from fededge.store.collection import MIN_AGE, collect_garbage
from fededge.store.folder import FolderStore
from fededge.store.forgetting import forget
from fededge.store.port import Tagged
from fededge.store.verification import Report, verify
from tests.store.faulty import FaultyStore
from tests.store.history import CLIENTS, History, Later, long_history, path_of, random_history

STAGES = ["training", "closed", "aggregated", "evaluated"]


def _verify(store: Store) -> Report:
    return verify(store, "digits", lambda report: None)


def _wrong(store: Store) -> set[str]:
    return set(_verify(store).findings)


@pytest.fixture(params=["training", "evaluated"])
def history(request: pytest.FixtureRequest, tmp_path: Path) -> History:
    return long_history(FolderStore(tmp_path / "store"), request.param)


def _needed(history: History) -> list[str]:
    """The keys of everything of the training, but for the blobs that nothing needs."""
    documents = history.store.keys(keys.training_folder("digits"))
    return [*documents, *(keys.blob(digest) for digest in sorted(history.published | history.open))]


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_that_has_been_through_much_is_whole(tmp_path: Path, stage: str) -> None:
    history = long_history(FolderStore(tmp_path / "store"), stage)
    report = _verify(history.store)
    assert report.findings == {}
    assert report.versions == 5
    assert report.objects == len(_needed(history))
    sizes = {entry.key: entry.size for entry in history.store.entries("")}
    assert report.size == sum(sizes[key] for key in _needed(history))


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_are_whole(tmp_path: Path, seed: int) -> None:
    history = random_history(FolderStore(tmp_path / "store"), seed)
    report = _verify(history.store)
    assert report.findings == {}
    assert report.versions == len(history.trainings.versions())


class Watched(FaultyStore):
    """Is verified after each write, as if the writer had been killed there."""

    moments = 0

    def create(self, key: str, data: bytes) -> None:
        super().create(key, data)
        self._look()

    def replace(self, key: str, data: bytes, tag: str) -> None:
        super().replace(key, data, tag)
        self._look()

    def _look(self) -> None:
        assert _verify(self.inner).findings == {}
        self.moments += 1


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_at_no_moment_of_a_training_is_anything_wrong(tmp_path: Path, seed: int | None) -> None:
    watched = Watched(FolderStore(tmp_path / "store"))
    if seed is None:
        long_history(watched)
    else:
        random_history(watched, seed)
    assert watched.moments > 30


def test_in_every_store(store: Store) -> None:
    history = long_history(store)
    assert _verify(store).findings == {}
    collect_garbage(Later(store, timedelta(hours=2)), MIN_AGE, lambda *_: None)
    assert {keys.digest_of_blob(key) for key in store.keys(keys.BLOBS)} == history.published | history.open
    forget(history.trainings, CLIENTS[1], lambda *_: None)
    report = _verify(store)
    assert (report.findings, report.gone) == ({}, {CLIENTS[1]: 5})
    model = keys.blob(history.trainings.version().model)
    store.delete(model)
    assert _wrong(store) == {model}


def _positions(size: int, rng: random.Random) -> set[int]:
    return {rng.randrange(8), 8 * size - 1, 4 * size, rng.randrange(8 * size)}


@pytest.mark.parametrize("stage", ["training", "evaluated"])
def test_a_flipped_bit_anywhere_is_found(tmp_path: Path, stage: str) -> None:
    history = long_history(FolderStore(tmp_path / "store"), stage)
    rng = random.Random(1)
    flipped = 0
    for key in _of_round(history, "v3-b1") if stage == "training" else _needed(history):
        path = path_of(history.store, key)
        data = path.read_bytes()
        for bit in _positions(len(data), rng):
            path.write_bytes(_flip(data, bit))
            assert _wrong(history.store) == {key}, bit
            flipped += 1
        path.write_bytes(data)
    assert flipped > (50 if stage == "training" else 350)
    assert _wrong(history.store) == set()


def _of_round(history: History, version: str) -> list[str]:
    blobs = (keys.blob(digest) for digest in sorted(history.open))
    return [*history.store.keys(keys.round_folder("digits", version)), *blobs]


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_file_that_is_cut_off_or_longer_is_found(tmp_path: Path) -> None:
    history = long_history(FolderStore(tmp_path / "store"))
    for key in _needed(history):
        path = path_of(history.store, key)
        data = path.read_bytes()
        for changed in (b"", data[:-1], data + b"\n"):
            path.write_bytes(changed)
            assert _wrong(history.store) == {key}
        path.write_bytes(data)


def test_a_flipped_bit_in_what_nothing_needs_is_none_of_our_business(history: History) -> None:
    for digest in history.everything - history.published - history.open:
        path = path_of(history.store, keys.blob(digest))
        path.write_bytes(_flip(path.read_bytes(), 9))
    assert _wrong(history.store) == set()


def _as_if_never_written(history: History) -> set[str]:
    """What can be gone as if the run had been killed before it wrote it; it is written again, or nobody misses it."""
    trainings = history.trainings
    failed, second = trainings.attempts("v3-b1")
    unnoticed = {
        keys.update(trainings.attempts("v4")[-1], CLIENTS[0]),
        keys.update(failed, CLIENTS[0]),
        keys.closing(trainings.attempts("v2")[0]),
        keys.evaluation(second),
    }
    if not trainings.closing(second):
        unnoticed |= {keys.repeat(second, CLIENTS[2]), keys.failure(second, CLIENTS[3])}
        unnoticed |= {keys.update(second, client) for client in CLIENTS[:3]}
    return unnoticed & set(_needed(history))


def test_what_is_deleted_is_found(history: History) -> None:
    missed = set()
    for key in _needed(history):
        path = path_of(history.store, key)
        data = path.read_bytes()
        path.unlink()
        wrong = _wrong(history.store)
        if not wrong:
            missed.add(key)
        elif "/sittings/" not in key:
            assert wrong == {key}
        path.write_bytes(data)
    # Of several sittings the last one leaves no trace either.
    assert {key for key in missed if "/sittings/" not in key} == _as_if_never_written(history)
    assert len([key for key in missed if "/sittings/" in key]) == 1


def test_what_is_in_anothers_place_is_found(history: History) -> None:
    rng = random.Random(2)
    documents = history.store.keys(keys.training_folder("digits"))
    alike = [pair for pair in itertools.combinations(documents, 2) if _kind(pair[0]) == _kind(pair[1])]
    pairs = [*rng.sample(alike, 100), *rng.sample(list(itertools.combinations(_needed(history), 2)), 50)]
    exchanged = 0
    for one, other in pairs:
        first, second = (path_of(history.store, key) for key in (one, other))
        data = first.read_bytes(), second.read_bytes()
        if data[0] == data[1] or _has_no_identity(one, other):
            continue
        first.write_bytes(data[1])
        second.write_bytes(data[0])
        wrong = _wrong(history.store)
        # A closing record that no version names is told by the updates that it names.
        assert wrong if _kind(one) == _kind(other) == "closing" else wrong & {one, other}, (one, other)
        first.write_bytes(data[0])
        second.write_bytes(data[1])
        exchanged += 1
    assert exchanged > 100
    assert _wrong(history.store) == set()


def _kind(key: str) -> str:
    if place := keys.place(key):
        return place.folder or place.name
    return key.split("/")[0 if key.startswith("blobs/") else 2]


def _has_no_identity(one: str, other: str) -> bool:
    """Why an attempt failed, and how long a sitting was, is not told of an attempt by name, and nothing names it.

    Nor does anything name a client's reports before the round is closed.
    """
    if _kind(one) != _kind(other):
        return False
    return _kind(one) in ("failed", "sittings") or (_kind(one) == "failures" and "/v3-b1/" in one + other)


def test_the_versions_that_need_a_blob_are_named(history: History) -> None:
    model = history.trainings.version("v1").model
    path_of(history.store, keys.blob(model)).write_bytes(b"")
    assert _verify(history.store).findings[keys.blob(model)].versions == ["v1"]
    base = history.trainings.version("v2-b1").model
    path_of(history.store, keys.blob(base)).unlink()
    found = _verify(history.store).findings[keys.blob(base)]
    assert (found.problem, found.versions) == ("is missing", ["v2-b1", "v3-b1 (open)"])


def test_each_blob_is_read_once(history: History) -> None:
    class Counting(FaultyStore):
        def get(self, key: str, limit: int | None = None) -> Tagged:
            read[key] += 1
            return super().get(key, limit)

    read: Counter[str] = Counter()
    _verify(Counting(history.store))
    assert set(read.values()) == {1}


def test_what_was_forgotten_is_no_damage(tmp_path: Path) -> None:
    history = long_history(FolderStore(tmp_path / "store"), "evaluated")
    for client in (CLIENTS[0], CLIENTS[3]):
        forget(history.trainings, client, lambda *_: None)
    report = _verify(history.store)
    assert report.findings == {}
    # Client 0 counts in v1, v2, v3, in the round that is open, and in the failed attempt at v2; 3 in v3, v2-b1.
    assert report.gone == {CLIENTS[0]: 5, CLIENTS[3]: 4}
    note = keys.forgotten("digits", CLIENTS[0])
    path_of(history.store, note).write_bytes(_flip(path_of(history.store, note).read_bytes(), 99))
    assert note in _wrong(history.store)


def test_what_a_hostile_client_wrote_is_no_damage_once_it_was_left_out(tmp_path: Path) -> None:
    history = History(FolderStore(tmp_path / "store"))
    history.begin()
    plan = history.sit()
    for client in CLIENTS[2:]:
        history.deliver(plan, client)
    for client, reason in zip(CLIENTS, (ExclusionReason.CORRUPT, ExclusionReason.TOO_LARGE), strict=False):
        history.report(plan, client, reason)
    history.close(plan)
    history.aggregate(plan)
    history.evaluate(plan)
    history.publish(plan)
    for client, data in zip(CLIENTS, (b"{", b" " * 2**20 + b" "), strict=False):
        path_of(history.store, keys.failure(plan.ref, client)).unlink()
        history.store.create(keys.update(plan.ref, client), data)
    assert _wrong(history.store) == set()


def test_a_start_that_was_cut_short_is_no_damage(tmp_path: Path) -> None:
    history = History(FolderStore(tmp_path / "store"))
    history.begin()
    path_of(history.store, keys.pointer("digits")).unlink()
    assert _wrong(history.store) == set()
    path_of(history.store, keys.version("digits", "v0")).unlink()
    assert _wrong(history.store) == set()


def test_a_run_that_never_began_its_training_is_no_damage(tmp_path: Path) -> None:
    history = History(FolderStore(tmp_path / "store"))
    history.trainings.lease.acquire("run", history.store.now() + timedelta(hours=1))
    assert _wrong(history.store) == set()


def test_a_lease_that_forgot_its_tokens_is_found(history: History) -> None:
    key = keys.lease("digits")
    lease = Lease.load(path_of(history.store, key).read_bytes(), key)
    path_of(history.store, key).write_bytes(lease.model_copy(update={"token": 1}).dump())
    assert _wrong(history.store) == {key}


def test_the_pointer_of_another_store_is_found(history: History) -> None:
    key = keys.pointer("digits")
    pointer = Pointer.load(path_of(history.store, key).read_bytes(), key)
    changed = pointer.model_copy(update={"manifest": history.trainings.version("v1").digest})
    path_of(history.store, key).write_bytes(changed.dump())
    assert _wrong(history.store) == {key}


def test_a_training_under_another_name_is_found(tmp_path: Path) -> None:
    history = long_history(FolderStore(tmp_path / "store"))
    shutil.copytree(path_of(history.store, "trainings/digits"), path_of(history.store, "trainings/other"))
    report = verify(history.store, "other", lambda report: None)
    assert keys.training("other") in report.findings
    assert keys.version("other", "v3") in report.findings
