"""Work on a real S3 server over a line that breaks: what is transient changes no byte, what is not is said at once."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import minio.time
import pytest
from minio import Minio

from fededge.errors import StoreUnavailableError
from fededge.store import open_store
from fededge.store.folder import FolderStore
from tests.store import ceph
from tests.store.line import Fault, Line, at_random
from tests.store.work import contents, work

pytestmark = pytest.mark.s3

SEEDS = (1, 2, 3)


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


def test_the_same_seed_has_the_same_faults(s3: str, line: Line) -> None:
    injected = []
    for place in ("a", "b"):
        line.injected.clear()
        line.plan = at_random(1, 0.2)
        work(open_store(f"{s3}/{place}"), rounds=1)
        injected.append(line.injected.copy())
    assert injected[0] == injected[1]


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


def test_devices_outlast_a_restart(s3: str, line: Line, expected: dict[str, str]) -> None:
    restarts = 5
    line.before = lambda number: number % 20 == 0 and threading.Thread(target=line.restart).start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda worker: work(open_store(s3)), range(1)))
    assert line.requests > 20 * restarts
    line.before = lambda number: None
    assert contents(open_store(s3)) == expected


class Owner(NamedTuple):
    """A user of the server with a bucket, both of which can be taken away."""

    server: ceph.S3Server
    name: str
    access_key: str
    secret_key: str

    def make_bucket(self) -> None:
        self.client().make_bucket(self.name)

    def remove_bucket(self) -> None:
        self.server.admin("bucket", "rm", f"--bucket={self.name}", "--purge-objects")

    def give_key(self) -> None:
        keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
        self.server.admin("key", "create", f"--uid={self.name}", *keys)

    def take_key(self) -> None:
        self.server.admin("key", "rm", f"--uid={self.name}", f"--access-key={self.access_key}")

    def let(self, operations: str) -> None:
        self.server.admin("user", "modify", f"--uid={self.name}", f"--op-mask={operations}")

    def allow(self, objects: int) -> None:
        quota = (f"--bucket={self.name}", f"--uid={self.name}", "--quota-scope=bucket")
        self.server.admin("quota", "set", *quota, f"--max-objects={objects}")
        self.server.admin("quota", "enable", *quota)

    def client(self) -> Minio:
        host = self.server.endpoint.removeprefix("http://")
        return Minio(host, self.access_key, self.secret_key, secure=False, region="us-east-1")


@pytest.fixture
def owner(server: ceph.S3Server, line: Line, monkeypatch: pytest.MonkeyPatch) -> Owner:
    owner = Owner(server, f"owner-{secrets.token_hex(4)}", secrets.token_hex(10).upper(), secrets.token_urlsafe(30))
    server.admin("user", "create", f"--uid={owner.name}", f"--display-name={owner.name}")
    owner.give_key()
    owner.make_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", owner.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", owner.secret_key)
    return owner


class Trouble(NamedTuple):
    """What begins midway and does not end by itself, how it is ended, and what is said of it."""

    begin: Callable[[Owner], object]
    end: Callable[[Owner], object]
    message: str
    keeps: bool = True  # what was written before


def _skew(hours: float) -> Callable[[Owner], None]:
    def begin(owner: Owner) -> None:
        minio.time.utcnow = lambda: utcnow() + timedelta(hours=hours)

    return begin


utcnow = minio.time.utcnow
TROUBLES = {
    "key": Trouble(Owner.take_key, Owner.give_key, "refuses the credentials (InvalidAccessKeyId)"),
    "rights": Trouble(
        lambda owner: owner.let("read"), lambda owner: owner.let("*"), "denies these credentials the bucket"
    ),
    "bucket": Trouble(Owner.remove_bucket, Owner.make_bucket, "has no bucket owner-", keeps=False),
    "quota": Trouble(
        lambda owner: owner.allow(1), lambda owner: owner.allow(-1), "has no space or quota left (QuotaExceeded)"
    ),
    "clock ahead": Trouble(_skew(1), _skew(0), "finds this machine's clock wrong (RequestTimeTooSkewed)"),
    "clock behind": Trouble(_skew(-1.1), _skew(0), "finds this machine's clock wrong ("),
}


@pytest.mark.parametrize("at", [7, 20])
@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES)
def test_lasting_trouble_is_one_clear_error_and_work_goes_on_after_it(
    owner: Owner, line: Line, waits: list[float], expected: dict[str, str], trouble: Trouble, at: int
) -> None:
    begun: list[int] = []

    def before(number: int) -> None:
        if number == at:
            trouble.begin(owner)
            begun.append(number)

    line.before = before
    store = open_store(f"s3://{owner.name}/store")
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            work(store)
    finally:
        trouble.end(owner)
    assert trouble.message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert begun
    assert not waits
    kept = contents(store)
    assert bool(kept) == trouble.keeps
    assert all(expected.get(key, digest) == digest for key, digest in kept.items() if key != "pointer")
    work(store)
    assert contents(store) == expected


def test_a_line_that_is_gone_for_good_is_one_clear_error(
    s3: str, server: ceph.S3Server, line: Line, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    line.before = lambda number: number == 20 and threading.Thread(target=line.close).start()
    with pytest.raises(StoreUnavailableError, match=f"{line.endpoint} does not answer \\("):
        work(open_store(s3))
    assert len(waits) > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    work(open_store(s3))
