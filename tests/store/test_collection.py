from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fededge.errors import CorruptError, LeaseError
from fededge.records import Digest
from fededge.steps.distribute_model import _acquire
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors
from fededge.store.collection import HOLD, MIN_AGE, Garbage, collect_garbage, find_garbage, hold
from fededge.store.folder import FolderStore
from fededge.store.port import Entry, Tagged
from fededge.store.trainings import TrainingStore, training_names
from fededge.store.verification import verify
from tests.store.faulty import FaultyStore, Killed, Phase
from tests.store.history import CLIENTS, SETTINGS, History, Later, long_history, path_of, random_history

pytestmark = pytest.mark.usefixtures("each_another_process")

LATER = timedelta(hours=2)


def _collect(store: Store, min_age: timedelta = MIN_AGE) -> Garbage:
    return collect_garbage(store, min_age, lambda *_: None)


def _blobs(store: Store) -> set[Digest | None]:
    return {keys.digest_of_blob(key) for key in store.keys(keys.BLOBS)}


def _documents(store: Store) -> dict[str, bytes]:
    return {key: store.get(key).data for key in store.keys(keys.TRAININGS)}


def _is_whole(store: Store) -> bool:
    """Whether everything that is needed is there, and each version's model can be read."""
    for name in training_names(store):
        for version in TrainingStore(store, name).versions():
            get_tensors(store, version.model)
        if verify(store, name, lambda report: None).findings:
            return False
    return True


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def store(folder: FolderStore) -> Later:
    """A store in which everything that is written now will be two hours old."""
    return Later(folder, LATER)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_needed_stays_and_all_else_goes(folder: FolderStore, store: Later, seed: int) -> None:
    histories = [random_history(folder, seed), random_history(folder, seed + 1000, "another")]
    needed = set().union(*(history.published | history.open for history in histories))
    before, there = _documents(folder), _blobs(folder)
    garbage = _collect(store)
    assert _blobs(folder) == needed
    assert {keys.digest_of_blob(entry.key) for entry in garbage.blobs} == there - needed
    assert there - needed
    assert _documents(folder) == before
    assert _is_whole(folder)
    assert _collect(store).blobs == []


@pytest.mark.parametrize("stage", ["training", "closed", "aggregated", "evaluated"])
def test_an_open_round_is_finished_after_a_collection(folder: FolderStore, store: Later, stage: str) -> None:
    history = long_history(folder, stage)
    _collect(store)
    plan = history.sit()
    assert plan.number == 2
    for client in CLIENTS:
        update = history.trainings.update(plan.ref, client)
        if update:
            get_tensors(folder, update.delta)
    closing = history.trainings.closing(plan.ref) or history.close(plan)
    for accepted in closing.accepted:
        get_tensors(folder, accepted.delta)
    if not history.trainings.aggregate(plan.ref):
        history.aggregate(plan)
    history.evaluate(plan)
    history.publish(plan)
    assert _is_whole(folder)


def test_updates_of_failed_attempts_stay_while_the_round_can_be_tried_again(folder: FolderStore, store: Later) -> None:
    history = History(folder)
    history.begin()
    plan = history.sit()
    delivered = {history.deliver(plan, client).delta for client in CLIENTS}
    history.close(plan)
    history.fail(plan)
    history.rise()
    _collect(store)
    assert _blobs(folder) >= delivered
    history.round()
    _collect(store)
    assert not _blobs(folder) & delivered


def test_an_attempt_beside_a_version_that_nobody_made_current_keeps_its_updates(
    folder: FolderStore, store: Later
) -> None:
    history = History(folder)
    history.begin()
    first = path_of(folder, keys.pointer("digits")).read_bytes()
    made = history.round()
    path_of(folder, keys.pointer("digits")).write_bytes(first)  # as if the run had been killed before it moved
    history.fail(history.trainings.attempt(history.trainings.attempts("v1")[0]))
    plan = history.sit()
    delivered = {history.deliver(plan, client).delta for client in CLIENTS}
    history.rise()
    _collect(store)
    assert _blobs(folder) >= delivered | {made.model}


def test_what_is_young_stays(folder: FolderStore) -> None:
    history = long_history(folder)
    before = _blobs(folder)
    assert before == history.everything
    assert _collect(folder).blobs == []
    assert _collect(Later(folder, timedelta(minutes=59))).blobs == []
    assert _blobs(folder) == before
    assert _collect(Later(folder, timedelta(minutes=6)), timedelta(minutes=5)).blobs != []


def test_to_look_changes_nothing(folder: FolderStore, store: Later) -> None:
    long_history(folder)
    before = {key: folder.get(key).data for key in folder.keys("")}
    found = find_garbage(store, MIN_AGE, lambda *_: None)
    assert {key: folder.get(key).data for key in folder.keys("")} == before
    assert _collect(store).blobs == found
    assert sum(entry.size for entry in found) == Garbage(found, 0).size > 0


def test_what_is_not_ours_stays(folder: FolderStore, store: Later) -> None:
    long_history(folder)
    _collect(store)
    names = ("blobs/README", f"blobs/sha256/aa/{64 * 'b'}", f"blobs/sha256/ab/{'ab' * 31}.part", "notes.txt")
    for name in names:
        folder.create(name, b"mine")
    assert _collect(store).blobs == []
    assert all(folder.get(name).data == b"mine" for name in names)


def test_what_killed_writers_left_is_removed(folder: FolderStore, store: Later) -> None:
    long_history(folder)
    _collect(store)
    left = path_of(folder, f"blobs/sha256/.writing-{32 * 'a'}")
    left.write_bytes(b"half")
    assert _collect(store, timedelta(0)).leftovers == 0
    written = time.time() - MIN_AGE.total_seconds() - 1
    os.utime(left, (written, written))
    assert _collect(store).leftovers == 1
    assert not left.exists()


def test_a_collection_can_be_killed_anywhere(tmp_path: Path) -> None:
    history = long_history(FolderStore(tmp_path / "template"))
    needed = history.published | history.open
    counting = FaultyStore(Later(FolderStore(shutil.copytree(tmp_path / "template", tmp_path / "all")), LATER))
    removed = len(_collect(counting).blobs)
    assert removed == len(history.everything - needed) == 5
    assert counting.writes == removed + 2  # its hold, and the end of it
    phases: tuple[Phase, ...] = ("before", "during", "after")
    for at in range(1, counting.writes + 1):
        for phase in phases:
            folder = FolderStore(shutil.copytree(tmp_path / "template", tmp_path / f"{phase}{at}"))
            with pytest.raises(Killed):
                _collect(FaultyStore(Later(folder, LATER), at, phase))
            assert _blobs(folder) >= needed
            assert _is_whole(folder)
            _collect(Later(folder, LATER + HOLD))
            assert _blobs(folder) == needed
            assert _is_whole(folder)


def test_a_killed_collection_keeps_others_away_for_minutes_only(folder: FolderStore, store: Later) -> None:
    history = long_history(folder)
    with pytest.raises(Killed):
        _collect(FaultyStore(store, at=3))
    with pytest.raises(LeaseError, match=r"garbage collection \(process [0-9]+ on .*wait for it"):
        _collect(store)
    with pytest.raises(LeaseError, match="is being collected"):
        _acquire(TrainingStore(store, "digits"), SETTINGS, "a run")
    soon = Later(folder, LATER + HOLD)
    _acquire(TrainingStore(soon, "digits"), SETTINGS, "a run")
    assert _blobs(folder) >= history.published | history.open


def test_nothing_is_collected_while_a_run_is_under_way(folder: FolderStore, store: Later) -> None:
    history = long_history(folder)
    before = _blobs(folder)
    token = history.trainings.lease.acquire("the run of Anna", store.now() + timedelta(hours=1))
    with pytest.raises(LeaseError, match=r"digits is being worked on by the run of Anna.*rounds release digits"):
        _collect(store)
    assert _blobs(folder) == before
    history.trainings.lease.release(token)
    assert _collect(store).blobs


def test_nothing_is_collected_while_a_run_begins_its_training(folder: FolderStore, store: Later) -> None:
    long_history(folder)
    TrainingStore(store, "new").lease.acquire("a run", store.now() + timedelta(hours=1))
    with pytest.raises(LeaseError, match="training new is being worked on by a run"):
        _collect(store)


def test_the_store_is_free_again_after_a_refusal(folder: FolderStore, store: Later) -> None:
    history = long_history(folder)
    token = history.trainings.lease.acquire("a run", store.now() + timedelta(hours=1))
    with pytest.raises(LeaseError):
        _collect(store)
    history.trainings.lease.release(token)
    _acquire(history.trainings, SETTINGS, "another run")


class Meanwhile(FaultyStore):
    """Somebody else acts at a moment."""

    def __init__(self, inner: Store, act: Callable[[], object], *, at: str) -> None:
        super().__init__(inner)
        self._act = act
        self._where = at
        self._done = False

    def entries(self, prefix: str) -> list[Entry]:
        self._once(f"entries {prefix}")
        return super().entries(prefix)

    def delete(self, key: str) -> None:
        self._once("delete")
        super().delete(key)

    def create(self, key: str, data: bytes) -> None:
        self._once(f"create {key}")
        super().create(key, data)

    def _once(self, moment: str) -> None:
        if moment == self._where and not self._done:
            self._done = True
            self._act()


def test_no_run_begins_while_garbage_is_collected(folder: FolderStore, store: Later) -> None:
    history = long_history(folder)
    refused = []

    def begin() -> None:
        with pytest.raises(LeaseError, match="run again in some minutes"):
            _acquire(TrainingStore(store, "digits"), SETTINGS, "a run")
        refused.append(True)

    for moment in ("delete", f"entries {keys.BLOBS}"):
        _collect(Meanwhile(store, begin, at=moment))
    assert len(refused) == 2
    assert _blobs(folder) == history.published | history.open
    _acquire(TrainingStore(store, "digits"), SETTINGS, "a run")


def test_of_a_run_and_a_collection_that_begin_at_once_one_is_refused(folder: FolderStore, store: Later) -> None:
    history = long_history(folder)
    before = _blobs(folder)

    def take() -> None:
        history.trainings.lease.acquire("a run", store.now() + timedelta(hours=1))

    # The run is between its two steps, having taken its lease, when the collection takes its hold or looks around.
    for moment in (f"create {keys.COLLECTING}", f"entries {keys.TRAININGS}"):
        with pytest.raises(LeaseError, match="worked on by a run"):
            _collect(Meanwhile(store, take, at=moment))
        lease = history.trainings.lease.active()
        assert lease
        history.trainings.lease.release(lease.token)
    assert _blobs(folder) == before


def test_two_collections_keep_apart(folder: FolderStore, store: Later) -> None:
    long_history(folder)
    with hold(store, "garbage collection"), pytest.raises(LeaseError, match="wait for it"):
        _collect(store)


class Slow(Later):
    """A store whose clock goes on by so much with each removal."""

    def __init__(self, inner: Store, step: timedelta) -> None:
        super().__init__(inner, LATER)
        self.step = step
        self.late = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.late

    def delete(self, key: str) -> None:
        super().delete(key)
        self.late += self.step


def test_a_collection_that_takes_long_keeps_its_hold(folder: FolderStore) -> None:
    history = long_history(folder)
    slow = Slow(folder, timedelta(minutes=3))
    assert len(_collect(slow).blobs) * slow.step > HOLD
    assert _blobs(folder) == history.published | history.open


def test_a_collection_that_was_held_up_removes_nothing_more(folder: FolderStore) -> None:
    history = long_history(folder)
    before = _blobs(folder)
    slow = Slow(folder, timedelta(minutes=9))
    with pytest.raises(LeaseError, match="type it again"):
        _collect(slow)
    assert len(_blobs(folder)) == len(before) - 1
    assert _blobs(folder) >= history.published | history.open


def test_reading_for_long_keeps_the_hold(folder: FolderStore, store: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    long_history(folder)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    class SlowToRead(Slow):
        def get(self, key: str, limit: int | None = None) -> Tagged:
            clock[0] += 40
            self.late += timedelta(seconds=40)
            return super().get(key, limit)

    slow = SlowToRead(folder, timedelta(0))
    assert _collect(slow).blobs
    assert slow.late > HOLD


@pytest.mark.parametrize(
    "what", ["versions/v3.json", "training.json", "current.json", "rounds/v3-b1/0002/closing.json"]
)
def test_nothing_is_removed_where_it_is_not_known_what_is_needed(folder: FolderStore, store: Later, what: str) -> None:
    long_history(folder)
    before = _blobs(folder)
    path = path_of(folder, f"trainings/digits/{what}")
    path.write_bytes(path.read_bytes().replace(b":", b";", 1))
    with pytest.raises(CorruptError):
        _collect(store)
    assert _blobs(folder) == before


def test_a_damaged_update_keeps_what_the_closed_round_needs(folder: FolderStore, store: Later) -> None:
    history = long_history(folder, "closed")
    ref = history.trainings.attempts("v3-b1")[-1]
    closing = history.trainings.closing(ref)
    assert closing
    for accepted in closing.accepted:
        path_of(folder, keys.update(ref, accepted.client)).write_bytes(b"{")
    _collect(store)
    assert _blobs(folder) >= {accepted.delta for accepted in closing.accepted}


def test_a_hostile_client_stops_no_collection(folder: FolderStore, store: Later) -> None:
    history = long_history(folder, "training")
    ref = history.trainings.attempts("v3-b1")[-1]
    for client, data in zip(CLIENTS[3:], (b'{"format": 99}', b" " * (2**20 + 1)), strict=False):
        folder.create(keys.update(ref, client), data)
    folder.create(f"{keys.update_folder(ref)}%zz.json", b"{")
    assert _collect(store).blobs
    assert _blobs(folder) == history.published | history.open


def test_nothing_is_removed_from_a_store_that_lacks_a_document(folder: FolderStore, store: Later) -> None:
    """What a missing manifest needs is not known: restored from a backup, it must find all of it."""
    long_history(folder)
    names = {v.version for v in TrainingStore(folder, "digits").versions()}
    for version in sorted(names):
        path = path_of(folder, keys.version("digits", version))
        kept = path.read_bytes()
        path.unlink()
        before = _blobs(folder)
        with pytest.raises(CorruptError, match="is missing, and what it needs is not known"):
            _collect(store, timedelta())
        assert _blobs(folder) == before
        path.write_bytes(kept)
    assert _is_whole(folder)
