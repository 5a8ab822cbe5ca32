"""Work on a real S3 server over a line that breaks: what is transient changes no byte, what is not is said at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fededge.errors import StoreUnavailableError
from fededge.store import open_store
from fededge.store.folder import FolderStore
from tests.store import ceph
from tests.store.line import Fault, Line, at_random
from tests.store.owner import TROUBLES, Owner, Trouble
from tests.store.work import contents, work

pytestmark = pytest.mark.s3

SEEDS = (1, 3)
MIDWAY = 20  # requests


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, str]:
    """What the work leaves in a store to which nothing happens."""
    store = FolderStore(tmp_path / "whole")
    work(store)
    return contents(store)


@pytest.mark.parametrize("seed", SEEDS)
def test_transient_faults_change_no_byte(s3: str, line: Line, expected: dict[str, str], seed: int) -> None:
    line.plan = at_random(seed, 0.3)
    work(open_store(s3))
    assert all(line.injected[fault] > 0 for fault in Fault), line.injected
    line.plan = at_random(seed, 0)
    assert contents(open_store(s3)) == expected
    assert sum(line.injected.values()) > 25


def test_transient_faults_with_many_at_work(s3: str, line: Line) -> None:
    line.plan = at_random(1, 0.3, without=Fault.RESTART)  # it would break off all the others too, again and again
    places = [f"device-{number}/" for number in range(6)]
    with ThreadPoolExecutor(len(places)) as pool:
        list(pool.map(lambda place: work(open_store(s3), 1, prefix=place), places))
    line.plan = at_random(1, 0)
    whole = open_store(f"{s3}/whole")
    for place in places:
        work(whole, 1, prefix=place)
    store = open_store(s3)
    assert [contents(store, place) for place in places] == [contents(whole, place) for place in places]
    assert store.keys("blobs/") == whole.keys("blobs/")
    assert all(line.injected[fault] > 0 for fault in set(Fault) - {Fault.RESTART}), line.injected


def test_a_server_that_is_stopped_and_started_again(s3: str, server: ceph.S3Server, expected: dict[str, str]) -> None:
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work, open_store(s3))
        while not open_store(s3).keys("rounds/1/updates/"):
            pass
        server.stop()
        try:
            assert not working.done()
            time.sleep(1)
        finally:
            server.start()
        working.result()
    assert contents(open_store(s3)) == expected


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_lasting_trouble_is_one_clear_error_and_work_goes_on_after_it(
    owner: Owner, line: Line, waits: list[float], expected: dict[str, str], trouble: Trouble
) -> None:
    line.before = lambda number: number == MIDWAY and trouble.begin(owner)
    store = open_store(owner.url)
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            work(store)
    finally:
        trouble.end(owner)
    assert trouble.message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert line.answers[403] == 1 or (line.answers[403] == 0 and line.requests == MIDWAY)  # it is not asked again
    assert not waits
    kept = contents(store)
    assert bool(kept) == trouble.keeps
    assert all(expected.get(key, digest) == digest for key, digest in kept.items() if key != "pointer")
    work(store)
    assert contents(store) == expected


def test_a_line_that_is_gone_for_good_is_one_clear_error(
    s3: str, server: ceph.S3Server, line: Line, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.before = lambda number: number == MIDWAY and threading.Thread(target=line.close).start()
    with pytest.raises(StoreUnavailableError, match=f"{line.endpoint} does not answer \\("):
        work(open_store(s3))
    assert len(waits) > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    work(open_store(s3))
