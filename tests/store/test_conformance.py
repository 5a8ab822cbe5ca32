"""What every adapter of the store port must do."""

from __future__ import annotations

import multiprocessing
import threading
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, timedelta
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fededge.errors import ConflictError, ExistsError, NotFoundError, TooLargeError
from fededge.records import AttemptRef
from fededge.store import Store, keys, open_store

REF = AttemptRef(training="digits", version="v1", number=1)
VALUES = {
    "empty": b"",
    "text": "größer\r\n".encode(),
    "every byte": bytes(range(256)) * 3,
    "20 MB": bytes(range(251)) * 83_000,
}
CLIENTS = [
    "plain",
    "with space",
    "ünïcödé-雪-😀",
    "100%",
    "%20",
    "a/b//c",
    "../../etc/passwd",
    ".",
    "..",
    ".hidden",
    ".writing-" + "0" * 32,
    ".lock",
    "a+b&c=d?e#f",
    "quote'\"`\\",
    "line\nfeed",
    "client-007",
    "client-9",
    "\N{SNOWMAN}" * 26,
]
STALE = "0" * 32


@pytest.mark.parametrize("data", VALUES.values(), ids=VALUES)
def test_a_value_is_read_as_it_was_written(store: Store, data: bytes) -> None:
    store.create("a/value", data)
    assert store.get("a/value").data == data
    store.replace("a/value", data + b"more", store.get("a/value").tag)
    assert store.get("a/value").data == data + b"more"


def test_a_value_is_there_for_who_opens_the_store_next(url: str) -> None:
    open_store(url).create("a/value", b"1")
    assert open_store(url).get("a/value").data == b"1"
    assert open_store(open_store(url).url).get("a/value").data == b"1"


def test_a_key_without_value_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError, match="a/value"):
        store.get("a/value")
    store.create("a/value", b"1")
    for key in ("a", "a/value/below", "a/val", "a/value2"):
        with pytest.raises(NotFoundError):
            store.get(key)


def test_a_key_is_created_once(store: Store) -> None:
    store.create("a/value", b"1")
    with pytest.raises(ExistsError, match="a/value"):
        store.create("a/value", b"2")
    assert store.get("a/value").data == b"1"


def test_creating_the_same_bytes_again_succeeds(store: Store) -> None:
    for _ in range(3):
        store.create("a/value", b"1")
    assert store.get("a/value").data == b"1"


def test_replace_wants_the_tag_of_the_present_value(store: Store) -> None:
    store.create("a/value", b"1")
    first = store.get("a/value").tag
    store.replace("a/value", b"2", first)
    for tag in (first, STALE, ""):
        with pytest.raises(ConflictError, match="a/value"):
            store.replace("a/value", b"3", tag)
    assert store.get("a/value").data == b"2"


def test_replacing_by_the_bytes_that_are_there_succeeds_with_any_tag(store: Store) -> None:
    store.create("a/value", b"1")
    first = store.get("a/value").tag
    for _ in range(3):
        store.replace("a/value", b"2", first)
    assert store.get("a/value").data == b"2"


def test_replace_creates_nothing(store: Store) -> None:
    with pytest.raises(ConflictError):
        store.replace("a/value", b"1", STALE)
    store.create("a/value", b"1")
    tag = store.get("a/value").tag
    store.delete("a/value")
    with pytest.raises(ConflictError):
        store.replace("a/value", b"2", tag)
    assert store.keys("a/") == []


def test_a_removed_value_is_gone_and_can_be_created_anew(store: Store) -> None:
    store.create("a/value", b"1")
    store.delete("a/value")
    store.delete("a/value")
    store.delete("never/there")
    with pytest.raises(NotFoundError):
        store.get("a/value")
    store.create("a/value", b"2")
    assert store.get("a/value").data == b"2"


def test_a_listing_has_the_keys_below_its_prefix_sorted(store: Store) -> None:
    assert store.keys("a/") == []
    made = ["a/b/2", "a/b/10", "a/c", "a/B", "ab/c", "b/a/c", "a/b.json", "a/b-1/x"]
    for key in made:
        store.create(key, key.encode())
    assert store.keys("a/") == sorted(key for key in made if key.startswith("a/"))
    assert store.keys("a/b/") == ["a/b/10", "a/b/2"]
    assert store.keys("none/") == []


def test_a_listing_says_how_large_a_value_is_and_when_it_was_written(store: Store) -> None:
    start = store.now()
    for size in (0, 1, 70_000):
        store.create(f"a/{size}", b"1" * size)
    end = store.now()
    listed = store.entries("a/")
    assert [(entry.key, entry.size) for entry in listed] == [("a/0", 0), ("a/1", 1), ("a/70000", 70_000)]
    assert all(start <= entry.written_at < end + timedelta(seconds=1) for entry in listed)
    assert all(entry.written_at.tzinfo is UTC or entry.written_at.utcoffset() == timedelta() for entry in listed)
    assert store.entries("none/") == []


def test_the_clock_of_the_store_goes_forward_only(store: Store) -> None:
    seen = []
    for number in range(15):
        seen.append(store.now())
        store.create(f"a/{number:02d}", b"1")
        seen.append(store.entries("a/")[-1].written_at)
        assert seen[-2] <= seen[-1]
    assert sorted(seen[::2]) == seen[::2]
    assert all(moment.utcoffset() == timedelta() for moment in seen)
    assert len(store.keys("")) == 15


def test_a_value_that_is_replaced_was_written_then(store: Store) -> None:
    store.create("a/value", b"1")
    end = store.now() + timedelta(seconds=1)
    while (now := store.now()) < end:
        pass
    store.replace("a/value", b"22", store.get("a/value").tag)
    (entry,) = store.entries("a/")
    assert entry.size == 2
    assert entry.written_at >= now


def test_a_value_is_read_up_to_a_limit(store: Store) -> None:
    store.create("a/value", b"1" * 1000)
    store.create("a/empty", b"")
    for limit in (None, 1000, 10**12):
        assert store.get("a/value", limit) == store.get("a/value")
    for limit in (0, 1, 999):
        with pytest.raises(TooLargeError, match=f"a/value in .* has more than {limit} bytes"):
            store.get("a/value", limit)
        assert store.get("a/empty", limit).data == b""
        with pytest.raises(NotFoundError):
            store.get("a/none", limit)


def test_a_value_over_the_limit_is_not_read_into_memory(store: Store) -> None:
    store.create("a/value", b"1" * 20_000_000)
    store.keys("")  # what is allocated once
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError):
            store.get("a/value", 1000)
        with pytest.raises(ExistsError):
            store.create("a/value", b"2")
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_sweep_leaves_every_value(store: Store) -> None:
    assert store.sweep(timedelta()) == 0
    store.create("a/value", b"1")
    store.replace("a/value", b"2", store.get("a/value").tag)
    assert store.sweep(timedelta()) == 0
    assert store.get("a/value").data == b"2"


def test_a_listing_has_more_than_a_thousand_keys(store: Store) -> None:
    made = [f"many/{number // 100:02d}/{number:04d}.json" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.create(key, b"1"), made))
    assert store.keys("many/") == made


def test_any_client_has_keys_of_its_own(store: Store) -> None:
    for client in CLIENTS:
        store.create(keys.update(REF, client), client.encode())
        store.create(keys.failure(REF, client), b"failed " + client.encode())
    for client in CLIENTS:
        assert store.get(keys.update(REF, client)).data == client.encode()
    for folder in (keys.update_folder(REF), keys.failure_folder(REF)):
        assert sorted(keys.client_of(key) for key in store.keys(folder)) == sorted(CLIENTS)


def test_the_longest_key_fits(store: Store) -> None:
    key = "/".join(["x" * 178] * 5)[:900]
    store.create(key, b"1")
    assert store.get(key).data == b"1"
    assert store.keys("x" * 178 + "/") == [key]


def test_one_of_sixteen_threads_creates(store: Store) -> None:
    for number in range(5):
        key = f"race/{number}"
        winners = _race(16, partial(_create, store, key), ExistsError)
        assert len(winners) == 1
        assert store.get(key).data == b"%d" % winners[0] * 1000


def test_one_of_sixteen_threads_replaces(store: Store) -> None:
    store.create("race", b"first")
    for _ in range(5):
        tag = store.get("race").tag
        value = uuid.uuid4().bytes
        winners = _race(16, partial(_replace, store, value, tag), ConflictError)
        assert len(winners) == 1
        assert store.get("race").data == value + b"%d" % winners[0]


def test_all_of_sixteen_threads_that_write_the_same_succeed(store: Store) -> None:
    assert len(_race(16, lambda me: store.create("race", b"same" * 1000), ExistsError)) == 16
    tag = store.get("race").tag
    assert len(_race(16, lambda me: store.replace("race", b"other" * 1000, tag), ConflictError)) == 16


def test_counting_by_compare_and_swap_loses_nothing(store: Store) -> None:
    store.create("count", b"0")

    def count(me: int) -> None:
        done = 0
        while done < 5:
            present = store.get("count")
            new = b"%d by %d at %d" % (int(present.data.split()[0]) + 1, me, done)
            try:
                store.replace("count", new, present.tag)
            except ConflictError:
                continue
            done += 1

    assert len(_race(4, count)) == 4
    assert store.get("count").data.split()[0] == b"20"


def _create(store: Store, key: str, me: int) -> None:
    store.create(key, b"%d" % me * 1000)


def _replace(store: Store, value: bytes, tag: str, me: int) -> None:
    store.replace("race", value + b"%d" % me, tag)


def _race(runners: int, run: Callable[[int], None], *losing: type[Exception]) -> list[int]:
    """Run at the same time; return who did not lose."""
    start = threading.Barrier(runners)

    def runner(me: int) -> bool:
        start.wait()
        try:
            run(me)
        except losing:
            return False
        return True

    with ThreadPoolExecutor(runners) as pool:
        won = list(pool.map(runner, range(runners)))
    return [me for me, winner in enumerate(won) if winner]


def test_one_of_eight_processes_creates_and_replaces(folder: str) -> None:
    races = 100
    store = open_store(folder)
    tags = []
    for number in range(races):
        store.create(f"pointer/{number}", b"first")
        tags.append(store.get(f"pointer/{number}").tag)
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("fork")) as pool:
        won = list(pool.map(partial(_write_all, folder, tags), range(8)))
    for number in range(races):
        for kind in ("value", "pointer"):
            key = f"{kind}/{number}"
            winners = [process for process, writes in enumerate(won) if key in writes]
            assert len(winners) == 1
            assert store.get(key).data == b"%d" % winners[0]


def _write_all(folder: str, tags: list[str], process: int) -> set[str]:
    """Run every race as one of the processes; return those won."""
    store = open_store(folder)
    won = set()
    for number, tag in enumerate(tags):
        try:
            store.create(f"value/{number}", b"%d" % process)
            won.add(f"value/{number}")
        except ExistsError:
            pass
        try:
            store.replace(f"pointer/{number}", b"%d" % process, tag)
            won.add(f"pointer/{number}")
        except ConflictError:
            pass
    return won


def test_a_value_is_never_seen_half_written(store: Store) -> None:
    whole = {b"%d" % n * 300_000 for n in range(3)}
    store.create("value", next(iter(whole)))
    done = threading.Event()

    def read() -> Counter[bool]:
        seen: Counter[bool] = Counter()
        while not done.is_set():
            listed = [(entry.key, entry.size) for entry in store.entries("")]
            seen[store.get("value").data in whole and listed == [("value", 300_000)]] += 1
        return seen

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for value in sorted(whole) * 5:
                store.replace("value", value, store.get("value").tag)
        finally:
            done.set()
    assert {outcome for reader in readers for outcome in reader.result()} == {True}


def test_check_leaves_nothing_behind(store: Store) -> None:
    store.check()
    store.check()
    assert store.keys("") == []


class Against(RuleBasedStateMachine):
    """A store beside a dict that should hold the same."""

    key = st.sampled_from([keys.update(REF, "a b"), keys.update(REF, "%"), keys.pointer("digits"), "x/y", "x/z/1"])
    value = st.binary(max_size=3)

    def __init__(self, url: str) -> None:
        super().__init__()
        self.store = open_store(f"{url}/{uuid.uuid4().hex}")
        self.model: dict[str, bytes] = {}
        self.tags: dict[bytes, str] = {}

    @rule(key=key, value=value)
    def create(self, key: str, value: bytes) -> None:
        if self.model.setdefault(key, value) == value:
            self.store.create(key, value)
        else:
            with pytest.raises(ExistsError):
                self.store.create(key, value)

    @rule(key=key, value=value)
    def replace(self, key: str, value: bytes) -> None:
        if key in self.model:
            self.store.replace(key, value, self.store.get(key).tag)
            self.model[key] = value

    @precondition(lambda self: self.tags)
    @rule(key=key, value=value, data=st.data())
    def replace_with_a_tag_seen_before(self, key: str, value: bytes, data: st.DataObject) -> None:
        seen = data.draw(st.sampled_from(sorted(self.tags)))
        if self.model.get(key) in (seen, value):
            self.store.replace(key, value, self.tags[seen])
            self.model[key] = value
        else:
            with pytest.raises(ConflictError):
                self.store.replace(key, value, self.tags[seen])

    @rule(key=key)
    def delete(self, key: str) -> None:
        self.store.delete(key)
        self.model.pop(key, None)

    @rule(key=key)
    def get(self, key: str) -> None:
        if key in self.model:
            found = self.store.get(key)
            assert found.data == self.model[key]
            self.tags[found.data] = found.tag
        else:
            with pytest.raises(NotFoundError):
                self.store.get(key)

    @rule(key=key, limit=st.integers(0, 3))
    def get_up_to(self, key: str, limit: int) -> None:
        if key in self.model and len(self.model[key]) > limit:
            with pytest.raises(TooLargeError):
                self.store.get(key, limit)

    @invariant()
    def same_keys(self) -> None:
        listed = [(entry.key, entry.size) for entry in self.store.entries("")]
        assert listed == sorted((key, len(value)) for key, value in self.model.items())
        assert self.store.keys("x/") == sorted(key for key in self.model if key.startswith("x/"))


def test_a_folder_is_like_a_dict(folder: str, unsynced: None) -> None:
    run_state_machine_as_test(lambda: Against(folder), settings=settings(max_examples=100, deadline=None))


@pytest.mark.s3
def test_a_bucket_is_like_a_dict(s3: str) -> None:
    run_state_machine_as_test(
        lambda: Against(s3), settings=settings(max_examples=8, stateful_step_count=15, deadline=None)
    )
