from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from fededge.core.updates import ExclusionReason
from fededge.errors import InputError, LeaseError
from fededge.records import Digest, Repeat, Version
from fededge.store import Store, keys
from fededge.store.blobs import get_tensors
from fededge.store.collection import HOLD, MIN_AGE, collect_garbage, hold
from fededge.store.folder import FolderStore
from fededge.store.forgetting import Deleted, forget, forgotten_in
from fededge.store.trainings import TrainingStore
from fededge.store.verification import Report, verify
from tests.store.faulty import FaultyStore, Killed, Phase
from tests.store.history import CLIENTS, SETTINGS, History, Later, long_history, path_of, random_history

pytestmark = pytest.mark.usefixtures("each_another_process")

CLIENT = CLIENTS[
    1
]  # counts in v1 and delivered again, failed in v2, counts in v3 and v2-b1, was left out of the open one


def _forget(trainings: TrainingStore, client: str = CLIENT) -> Deleted:
    return forget(trainings, client, lambda *_: None)


def _of(store: Store, client: str) -> list[str]:
    """The keys of a client's documents."""
    places = {key: keys.place(key) for key in store.keys(keys.rounds_folder("digits"))}
    return [key for key, place in places.items() if place and place.folder and place.name == client]


def _verified(store: Store) -> Report:
    return verify(store, "digits", lambda report: None)


def _blobs(store: Store) -> set[Digest | None]:
    return {keys.digest_of_blob(key) for key in store.keys(keys.BLOBS)}


def _deltas(trainings: TrainingStore, client: str) -> set[Digest]:
    return {a.delta for version in trainings.versions() for a in version.accepted if a.client == client}


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def history(folder: FolderStore) -> History:
    return long_history(folder)


def test_what_a_client_delivered_is_deleted_and_nothing_else(history: History, folder: FolderStore) -> None:
    trainings = history.trainings
    documents, deltas, before = _of(folder, CLIENT), _deltas(trainings, CLIENT), _blobs(folder)
    there = {key: folder.get(key).data for key in folder.keys(keys.TRAININGS)}
    manifests = trainings.versions()
    deleted = _forget(trainings)
    assert deleted == Deleted(updates=4, reports=2, deltas=5, kept=0, versions=["v1", "v2-b1", "v3"])
    left = {key: folder.get(key).data for key in folder.keys(keys.TRAININGS)}
    note = keys.forgotten("digits", CLIENT)
    assert {key for key in there.keys() | left.keys() if there.get(key) != left.get(key)} == {*documents, note}
    assert not _of(folder, CLIENT)
    assert len(before - _blobs(folder)) == 5
    assert before - _blobs(folder) > deltas
    assert trainings.versions() == manifests
    for version in manifests:
        get_tensors(folder, version.model)
    report = _verified(folder)
    assert (report.findings, report.gone) == ({}, {CLIENT: 5})


@pytest.mark.parametrize("seed", range(15))
def test_any_history_stays_whole(folder: FolderStore, seed: int) -> None:
    history = random_history(folder, seed)
    ref = history.trainings.attempts(_next(history))[-1]
    if not history.trainings.aggregate(ref):
        history.fail(history.trainings.attempt(ref))
    kept = history.published - _deltas(history.trainings, CLIENTS[2])
    _forget(history.trainings, CLIENTS[2])
    assert not _of(folder, CLIENTS[2])
    assert _blobs(folder) >= kept
    assert _verified(folder).findings == {}
    collect_garbage(Later(folder, timedelta(hours=2)), MIN_AGE, lambda *_: None)
    assert _blobs(folder) >= kept
    assert _verified(folder).findings == {}


def _next(history: History) -> str:
    pointer = history.trainings.head().pointer
    return keys.version_name(keys.version_round(pointer.version) + 1, pointer.branch)


def test_a_deletion_can_be_killed_anywhere_and_is_finished_by_asking_again(tmp_path: Path) -> None:
    template = tmp_path / "template"
    long_history(FolderStore(template))
    whole = FolderStore(shutil.copytree(template, tmp_path / "whole"))
    counting = FaultyStore(whole)
    _forget(TrainingStore(counting, "digits"))
    assert counting.writes == 1 + 1 + 6 + 5 + 1  # hold, note, documents, blobs, end of the hold
    phases: tuple[Phase, ...] = ("before", "during", "after")
    for at in range(1, counting.writes + 1):
        for phase in phases:
            folder = FolderStore(shutil.copytree(template, tmp_path / f"{phase}{at}"))
            with pytest.raises(Killed):
                _forget(TrainingStore(FaultyStore(folder, at, phase), "digits"))
            assert _verified(folder).findings == {}
            if at > 1:
                collect_garbage(Later(folder, HOLD), MIN_AGE, lambda *_: None)
                assert _verified(folder).findings == {}
            _forget(TrainingStore(Later(folder, HOLD * 2), "digits"))
            assert not _of(folder, CLIENT)
            assert _blobs(folder) == _blobs(whole)
            assert _verified(folder).findings == {}
            assert _verified(folder).gone == _verified(whole).gone


def test_to_ask_twice_changes_nothing(history: History, folder: FolderStore) -> None:
    _forget(history.trainings)
    before = {key: folder.get(key).data for key in folder.keys("") if key != keys.COLLECTING}
    assert _forget(history.trainings)[:2] == (0, 0)
    assert {key: folder.get(key).data for key in folder.keys("") if key != keys.COLLECTING} == before


def test_later_rounds_are_forgotten_by_another_request(history: History, folder: FolderStore) -> None:
    _forget(history.trainings)
    first = history.trainings.forgotten()[CLIENT]
    history.publish(history.sit())
    history.round()
    assert _verified(folder).findings == {}
    assert forgotten_in(history.trainings, history.trainings.version()) == []
    deleted = _forget(history.trainings)
    assert (deleted.updates, deleted.versions[-1]) == (1, "v4-b1")
    second = history.trainings.forgotten()[CLIENT]
    assert set(second.deltas) > set(first.deltas)
    assert second.at > first.at
    assert forgotten_in(history.trainings, history.trainings.version()) == [CLIENT]
    assert _verified(folder).findings == {}


def test_versions_tell_whose_updates_are_gone(history: History) -> None:
    trainings = history.trainings
    assert forgotten_in(trainings, trainings.version("v1")) == []
    _forget(trainings, CLIENTS[3])
    _forget(trainings, CLIENT)
    gone = {version.version: forgotten_in(trainings, version) for version in trainings.versions()}
    # Of v2, nothing of theirs had come to the attempt that made it.
    assert gone == {
        "v0": [],
        "v1": [CLIENT, CLIENTS[3]],
        "v2": [],
        "v2-b1": [CLIENT, CLIENTS[3]],
        "v3": [CLIENT, CLIENTS[3]],
    }


def test_tensors_that_others_have_too_stay_until_they_are_forgotten_too(folder: FolderStore) -> None:
    histories = [random_history(folder, 3, name) for name in ("digits", "another")]
    assert histories[0].everything == histories[1].everything
    for history in histories:
        ref = history.trainings.attempts(_next(history))[-1]
        history.fail(history.trainings.attempt(ref))
    deltas = _deltas(histories[0].trainings, CLIENTS[2])
    assert _forget(histories[0].trainings, CLIENTS[2]).kept >= len(deltas) > 0
    assert _blobs(folder) >= deltas
    assert verify(folder, "another", lambda report: None).findings == {}
    _forget(histories[1].trainings, CLIENTS[2])
    assert not _blobs(folder) & deltas
    for name in ("digits", "another"):
        assert verify(folder, name, lambda report: None).findings == {}


def test_the_same_bytes_that_come_again_are_needed_again(folder: FolderStore) -> None:
    history = History(folder)
    history.begin()
    made = history.round()
    delta = made.accepted[1].delta
    tensors = folder.get(keys.blob(delta)).data
    _forget(history.trainings)
    history.rollback("v0")
    plan = history.sit()
    folder.create(keys.blob(delta), tensors)  # trained again, with the same seed
    history.deliver(plan, CLIENT, delta)
    history.rise()
    collect_garbage(Later(folder, timedelta(hours=2)), MIN_AGE, lambda *_: None)
    assert delta in _blobs(folder)
    plan = history.sit()
    history.close(plan)
    history.aggregate(plan)
    history.evaluate(plan)
    again = history.publish(plan)
    collect_garbage(Later(folder, timedelta(hours=2)), MIN_AGE, lambda *_: None)
    assert delta in _blobs(folder)
    assert forgotten_in(history.trainings, again) == []
    path_of(folder, keys.blob(delta)).write_bytes(b"")
    assert set(_verified(folder).findings) == {keys.blob(delta)}


def test_a_client_that_names_others_tensors_takes_nothing_with_it(folder: FolderStore) -> None:
    history = History(folder)
    history.begin()
    made = history.round(CLIENTS[2:])
    plan = history.sit()
    named = [made.model, made.accepted[0].delta]
    history.deliver(plan, CLIENT, named[0])
    wrong = Repeat(client=CLIENT, kept=named[1], dropped="../../versions")
    folder.create(keys.repeat(plan.ref, CLIENT), wrong.dump())
    history.fail(plan)
    history.rise()
    assert _forget(history.trainings).kept == 2
    assert _blobs(folder) >= set(named)
    assert _verified(folder).findings == {}


def test_updates_that_cannot_be_read_go_too(history: History, folder: FolderStore) -> None:
    ref = next(ref for ref in history.trainings.attempts("v1"))
    path_of(folder, keys.update(ref, CLIENT)).write_bytes(b"{")
    deltas = _deltas(history.trainings, CLIENT)
    _forget(history.trainings)
    assert not _of(folder, CLIENT)
    assert not _blobs(folder) & deltas
    assert _verified(folder).findings == {}


@pytest.mark.parametrize("client", ["nobody", "client-1", "x" * 80, "%00"])
def test_who_was_never_there_is_not_forgotten(history: History, folder: FolderStore, client: str) -> None:
    before = {key: folder.get(key).data for key in folder.keys("")}
    with pytest.raises(InputError, match=r"nothing of a client.*fededge versions show digits"):
        _forget(history.trainings, client)
    after = {key: folder.get(key).data for key in folder.keys("")}
    assert {key: value for key, value in after.items() if key != keys.COLLECTING} == before


def test_who_was_only_left_out_is_forgotten(folder: FolderStore) -> None:
    history = History(folder)
    history.begin()
    plan = history.sit()
    history.deliver(plan, CLIENTS[0])
    history.report(plan, CLIENT, ExclusionReason.NO_DATA)
    history.close(plan)
    history.aggregate(plan)
    history.evaluate(plan)
    made: Version = history.publish(plan)
    assert _forget(history.trainings) == Deleted(updates=0, reports=1, deltas=0, kept=0, versions=[])
    assert forgotten_in(history.trainings, made) == [CLIENT]
    assert _verified(folder).gone == {CLIENT: 1}


@pytest.mark.parametrize("stage", ["training", "closed"])
def test_an_open_round_is_finished_or_given_up_first(folder: FolderStore, stage: str) -> None:
    history = long_history(folder, stage)
    before = {key: folder.get(key).data for key in folder.keys("")}
    with pytest.raises(InputError, match=r"round 3 of digits is open.*`fededge run digits`.*rounds abandon digits"):
        _forget(history.trainings)
    after = {key: folder.get(key).data for key in folder.keys("")}
    assert {key: value for key, value in after.items() if key != keys.COLLECTING} == before
    history.fail(history.trainings.attempt(history.trainings.attempts("v3-b1")[-1]))
    assert _forget(history.trainings).updates
    assert _verified(folder).findings == {}


def test_nothing_is_deleted_while_a_run_is_under_way(history: History, folder: FolderStore) -> None:
    token = history.trainings.lease.acquire("the run of Anna", folder.now() + timedelta(hours=1))
    before = _of(folder, CLIENT)
    with pytest.raises(LeaseError, match=r"the run of Anna.*wait for it"):
        _forget(history.trainings)
    assert _of(folder, CLIENT) == before
    assert not history.trainings.forgotten()
    history.trainings.lease.release(token)
    assert _forget(history.trainings).updates


def test_no_run_begins_while_updates_are_deleted(history: History, folder: FolderStore) -> None:
    from fededge.steps.distribute_model import _acquire

    with hold(folder, "deletion"), pytest.raises(LeaseError, match="run again in some minutes"):
        _acquire(history.trainings, SETTINGS, "a run")
    _acquire(history.trainings, SETTINGS, "a run")


def test_two_requests_at_once_are_both_noted(history: History, folder: FolderStore) -> None:
    """One that was held up past its hold and one that came after it do not overwrite each other's note."""
    from fededge.store import forgetting

    found = forgetting._Belongings({}, {"sha256:" + 64 * "a"}, [], mentioned=True)
    _forget(history.trainings)
    forgetting._remember(history.trainings, CLIENT, found)
    assert "sha256:" + 64 * "a" in history.trainings.forgotten()[CLIENT].deltas
    assert len(history.trainings.forgotten()[CLIENT].deltas) == 6
