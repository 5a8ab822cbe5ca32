from __future__ import annotations

import threading
from datetime import datetime, timedelta

import pytest

from fededge.errors import LeaseError
from fededge.store import Store, keys
from fededge.store.folder import FolderStore
from fededge.store.leases import Leases

MINUTE = timedelta(minutes=1)


class Clocked(FolderStore):
    """A store whose clock the test sets."""

    later = timedelta()

    def now(self) -> datetime:
        return super().now() + self.later


@pytest.fixture
def store(tmp_path: object) -> Clocked:
    return Clocked(tmp_path / "store")  # type: ignore[operator]


@pytest.fixture
def leases(store: Clocked) -> Leases:
    return Leases(store, "digits")


def in_a_minute(store: Store) -> datetime:
    return store.now() + MINUTE


def test_one_holds_and_the_other_is_told_who_and_until_when(store: Clocked, leases: Leases) -> None:
    assert leases.active() is None
    end = in_a_minute(store)
    assert leases.acquire("monday", end) == 1
    with pytest.raises(LeaseError, match=rf"monday, until {end:%Y-%m-%d %H:%M:%S} UTC.*fededge rounds release digits"):
        leases.acquire("tuesday", in_a_minute(store))
    assert leases.acquire("monday", in_a_minute(store)) == 1
    held = leases.active()
    assert held is not None
    assert held.holder == "monday"


def test_an_expired_lease_is_taken_over_with_a_higher_token(store: Clocked, leases: Leases) -> None:
    leases.acquire("monday", in_a_minute(store))
    store.later = 2 * MINUTE
    assert leases.active() is None
    assert leases.acquire("tuesday", in_a_minute(store)) == 2
    for act in (lambda: leases.renew(1, in_a_minute(store)), lambda: leases.release(1)):
        with pytest.raises(LeaseError, match="tuesday has taken over training digits"):
            act()
    leases.renew(2, in_a_minute(store))


def test_an_expired_lease_that_nobody_took_over_can_be_renewed(store: Clocked, leases: Leases) -> None:
    leases.acquire("monday", in_a_minute(store))
    store.later = 2 * MINUTE
    leases.renew(1, in_a_minute(store))
    assert leases.active() is not None


def test_renewing_never_shortens(store: Clocked, leases: Leases) -> None:
    end = in_a_minute(store)
    leases.acquire("monday", end)
    leases.renew(1, store.now())
    held = leases.active()
    assert held is not None
    assert held.expires_at == end


def test_a_released_lease_is_free_at_once(store: Clocked, leases: Leases) -> None:
    leases.acquire("monday", in_a_minute(store))
    leases.release(1)
    assert leases.active() is None
    assert leases.acquire("monday", in_a_minute(store)) == 2


def test_a_revoked_lease_is_obsolete(store: Clocked, leases: Leases) -> None:
    leases.acquire("monday", in_a_minute(store))
    assert leases.revoke(1, "the admin") == 2
    assert leases.active() is None
    with pytest.raises(LeaseError, match="the admin has taken over"):
        leases.renew(1, in_a_minute(store))
    with pytest.raises(LeaseError, match="meanwhile"):
        leases.revoke(1, "the admin")
    assert leases.acquire("tuesday", in_a_minute(store)) == 3


def test_a_lease_that_was_lost_begins_above_what_was_seen(store: Clocked, leases: Leases) -> None:
    assert leases.acquire("monday", in_a_minute(store), above=6) == 7
    store.delete(keys.lease("digits"))
    with pytest.raises(LeaseError):
        leases.renew(7, in_a_minute(store))
    assert leases.acquire("tuesday", in_a_minute(store), above=7) == 8


def test_of_eight_that_race_one_holds(store: Clocked) -> None:
    tokens: list[int] = []
    refused: list[str] = []

    def race(name: str) -> None:
        try:
            tokens.append(Leases(store, "digits").acquire(name, in_a_minute(store)))
        except LeaseError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=race, args=(f"run {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tokens == [1]
    assert len(refused) == 7


def test_every_one_of_eight_that_take_turns_has_a_token_of_its_own(store: Clocked) -> None:
    tokens: list[int] = []

    def turn(name: str) -> None:
        mine = Leases(store, "digits")
        while True:
            try:
                token = mine.acquire(name, in_a_minute(store))
            except LeaseError:
                continue
            tokens.append(token)
            mine.release(token)
            return

    threads = [threading.Thread(target=turn, args=(f"run {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tokens) == list(range(1, 9))
