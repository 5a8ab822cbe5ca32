"""The store of the tests that dies at a write: it must die where it says, and change nothing otherwise."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from fededge.errors import ConflictError, ExistsError
from fededge.store import Store, open_store
from tests.store.faulty import PHASES, FaultyStore, Killed, Phase
from tests.store.work import contents, work


class Write(NamedTuple):
    """A write to a store that has `a/value`, what half of it is, and which values there are after it."""

    write: Callable[[Store], None]
    half: list[bytes]
    after: dict[str, bytes]


WRITES = {
    "create": Write(lambda store: store.create("a/new", b"12"), [b"1"], {"a/new": b"12", "a/value": b"0"}),
    "replace": Write(
        lambda store: store.replace("a/value", b"34", store.get("a/value").tag), [b"3"], {"a/value": b"34"}
    ),
    "delete": Write(lambda store: store.delete("a/value"), [], {}),
}


def test_a_store_that_does_not_die_is_the_store(folder_store: Store) -> None:
    faulty = FaultyStore(folder_store)
    work(faulty)
    assert contents(faulty) == contents(folder_store)
    assert faulty.url == folder_store.url
    assert faulty.entries("") == folder_store.entries("")
    assert faulty.now() <= folder_store.now()
    faulty.check()


def test_only_writes_are_counted(folder_store: Store) -> None:
    faulty = FaultyStore(folder_store)
    faulty.create("a/value", b"1")
    with pytest.raises(ExistsError):
        faulty.create("a/value", b"2")
    with pytest.raises(ConflictError):
        faulty.replace("a/value", b"2", "no tag")
    assert faulty.get("a/value", 1).data == b"1"
    assert faulty.keys("a/") == ["a/value"]
    faulty.check()
    faulty.now()
    faulty.sweep(timedelta())
    faulty.delete("a/value")
    assert faulty.writes == 4


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_it_dies_where_it_should(folder_store: Store, write: Write, phase: Phase) -> None:
    faulty = FaultyStore(folder_store, 2, phase)
    faulty.create("a/value", b"0")
    for attempt in (write.write, lambda store: store.create("b", b"5")):
        with pytest.raises(Killed):
            attempt(faulty)
    values = {key: folder_store.get(key).data for key in folder_store.keys("")}
    assert values == (write.after if phase == "after" else {"a/value": b"0"})
    torn = [path.read_bytes() for path in Path(folder_store.url).rglob(".writing-*")]
    assert torn == (write.half if phase == "during" else [])
    assert folder_store.sweep(timedelta()) == len(torn)


@pytest.mark.parametrize("phase", PHASES)
def test_work_that_dies_at_any_write_is_completed_by_the_next(
    folder_store: Store, unsynced: None, phase: Phase
) -> None:
    whole = FaultyStore(open_store(f"{folder_store.url}/whole"))
    work(whole, rounds=2, clients=2)
    kept = contents(whole)
    for at in range(1, whole.writes + 1):
        store = open_store(f"{folder_store.url}/{at}")
        with pytest.raises(Killed):
            work(FaultyStore(store, at, phase), rounds=2, clients=2)
        work(store, rounds=2, clients=2)
        assert contents(store) == kept


def test_a_process_can_be_killed_in_a_write(folder_store: Store) -> None:
    child = os.fork()
    if not child:
        try:
            work(FaultyStore(folder_store, 3, "during", _kill))
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(list(Path(folder_store.url).rglob(".writing-*"))) == 1
    work(folder_store)


def _kill() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError
