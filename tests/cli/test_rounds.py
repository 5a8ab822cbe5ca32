from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fededge.cli.output import console
from fededge.core.updates import ExclusionReason
from fededge.errors import ConflictError, InputError, LeaseError, NotFoundError
from fededge.records import Attempt, ClosedBecause, Closing, Excluded, Failed, Failure
from fededge.settings import RoundSettings
from fededge.store import Store, keys
from fededge.store.trainings import TrainingStore
from tests.cli.command import Command, Done
from tests.trainings import (
    BAD,
    BROKEN,
    begin_training,
    close_round,
    deliver,
    make_manifest,
    open_round,
    publish_round,
)

HELD = "by run 7, until "


@pytest.fixture
def trainings(store: Store) -> TrainingStore:
    return TrainingStore(store, "digits")


@pytest.fixture
def rounds(fededge: Command, store: Store) -> Callable[..., Done]:
    def call(command: str, *arguments: str) -> Done:
        return fededge("rounds", command, *arguments, "--store", store.url)

    return call


@pytest.fixture
def show(fededge: Command, store: Store) -> Callable[..., dict[str, Any]]:
    """Show an attempt as JSON."""

    def call(*arguments: str) -> dict[str, Any]:
        shown = json.loads(fededge.works("rounds", "show", "digits", *arguments, "--json", "--store", store.url))
        assert isinstance(shown, dict)
        return shown

    return call


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no cell of a table wrapped."""
    monkeypatch.setattr(console, "_width", 200)


def _rows(fededge: Command, store: Store) -> list[list[str]]:
    shown = fededge.works("rounds", "list", "digits", "--store", store.url)
    return [[c.strip() for c in row.split("│")[1:6]] for row in shown.splitlines() if row.startswith("│")]


def _begin(trainings: TrainingStore, **settings: Any) -> tuple[Attempt, int]:
    """Have run 7 open a round of six clients; one has delivered, and one failed."""
    plan, token = open_round(trainings, "run 7", RoundSettings(clients=6, **settings))
    deliver(trainings, plan, "client-000000")
    trainings.report_failure(plan.ref, Failure(client=BAD, reason=ExclusionReason.TRAINING_FAILED, detail="OSError"))
    return plan, token


def _fail(trainings: TrainingStore) -> None:
    """Have a round fail for want of clients."""
    plan, token = open_round(trainings, "run 6")
    excluded = [Excluded(client=c, reason=ExclusionReason.NO_DATA, detail="no examples") for c in plan.cohort]
    closing = Closing(because=ClosedBecause.ALL_ANSWERED, accepted=[], excluded=excluded, repeats=[], data_schema={})
    trainings.close(plan.ref, closing)
    trainings.fail_attempt(plan.ref, Failed(reason="0 of 3 clients delivered, min_clients=1: 3 NO_DATA"))
    trainings.lease.release(token)


def test_published_rounds_are_listed_in_the_order_of_their_opening(fededge: Command, store: Store) -> None:
    done = ["1", "published", "2 of 3", "1 NON_FINITE"]
    assert _rows(fededge, store) == [[version, *done] for version in ("v1", "v2", "v3", "v2-b1")]


def test_failed_and_open_attempts_are_listed(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    _fail(trainings)
    _, token = _begin(trainings)
    assert _rows(fededge, store)[-2:] == [
        ["v3-b1", "1", "failed", "0 of 3", "3 NO_DATA"],
        ["v3-b1", "2", "open, worked on by run 7", "1 of 6 delivered", "1 failed"],
    ]
    trainings.lease.release(token)
    assert _rows(fededge, store)[-1][2] == "open, waiting for a run"


def test_a_closed_round_waits_for_being_published(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    plan, token = open_round(trainings, "run 7")
    close_round(trainings, plan)
    assert _rows(fededge, store)[-1] == ["v3-b1", "1", "closed, worked on by run 7", "2 of 3", "1 NON_FINITE"]
    trainings.lease.release(token)
    assert _rows(fededge, store)[-1][2] == "closed, waiting for a run"


def test_a_round_left_behind_by_a_rollback_is_listed(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    _, token = _begin(trainings)
    trainings.lease.release(token)
    trainings.rollback("v1")
    publish_round(trainings)
    found = {row[0]: row[2] for row in _rows(fededge, store)}
    assert found["v3-b1"] == "left behind"
    assert found["v2-b2"] == "published"


def test_attempts_are_listed_as_json(rounds: Callable[..., Done], trainings: TrainingStore) -> None:
    _fail(trainings)
    _begin(trainings)
    found = json.loads(rounds("list", "digits", "--json").out)
    assert [(a["version"], a["attempt"], a["state"]) for a in found[-3:]] == [
        ("v2-b1", 1, "published"),
        ("v3-b1", 1, "failed"),
        ("v3-b1", 2, "open"),
    ]
    assert [(a["accepted"], a["excluded"], a["holder"]) for a in found[-3:]] == [
        (2, {"NON_FINITE": 1}, None),
        (0, {"NO_DATA": 3}, None),
        (None, {}, "run 7"),
    ]
    assert found[-2]["failure"] == "0 of 3 clients delivered, min_clients=1: 3 NO_DATA"


def test_a_training_without_rounds_says_how_to_begin_one(fededge: Command, store: Store) -> None:
    begin_training(store, "young")
    assert "`fededge run` opens one" in fededge.works("rounds", "list", "young", "--store", store.url)
    assert json.loads(fededge.works("rounds", "list", "young", "--json", "--store", store.url)) == []
    assert "no round was opened since young is at v0" in fededge.fails(
        NotFoundError.exit_code, "rounds", "show", "young", "--store", store.url
    )


def test_the_latest_attempt_is_shown(show: Callable[..., dict[str, Any]], trainings: TrainingStore) -> None:
    assert (show()["version"], show()["state"]) == ("v2-b1", "published")
    _fail(trainings)
    assert (show()["version"], show()["state"]) == ("v3-b1", "failed")
    _begin(trainings)
    assert (show()["version"], show()["attempt"], show()["state"]) == ("v3-b1", 2, "open")


def test_any_attempt_is_shown(show: Callable[..., dict[str, Any]], trainings: TrainingStore) -> None:
    _fail(trainings)
    _begin(trainings)
    assert show("v1")["version"] == "v1"
    assert show("current")["version"] == "v2-b1"
    assert show("v3-b1")["attempt"] == 2
    assert show("v3-b1", "--attempt", "1")["failure"].startswith("0 of 3 clients")
    assert show("--attempt", "1")["version"] == "v3-b1"


def test_an_open_attempt_shows_who_has_answered(show: Callable[..., dict[str, Any]], trainings: TrainingStore) -> None:
    _begin(trainings)
    clients = show()["clients"]
    assert list(clients["delivered"]) == ["client-000000"]
    assert clients["failing"] == [{"client": BAD, "reason": "TRAINING_FAILED", "detail": "OSError"}]
    assert clients["silent"] == ["client-000001", "client-000003", "client-000004", "client-000005"]
    assert clients["accepted"] is None


def test_a_client_that_failed_and_then_delivered_has_delivered(
    show: Callable[..., dict[str, Any]], trainings: TrainingStore
) -> None:
    plan, _ = _begin(trainings)
    deliver(trainings, plan, BAD)
    clients = show()["clients"]
    assert list(clients["delivered"]) == ["client-000000", BAD]
    assert clients["failing"] == []


def test_a_damaged_report_of_a_client_is_told(
    show: Callable[..., dict[str, Any]], trainings: TrainingStore, folder: Path
) -> None:
    _begin(trainings)
    report = next(folder.rglob(f"v3-b1/0001/failures/{BAD}.json"))
    report.write_bytes(b"{")
    assert show()["clients"]["failing"][0]["reason"] == "CORRUPT"


def test_a_closed_attempt_shows_what_its_closing_record_says(show: Callable[..., dict[str, Any]]) -> None:
    shown = show("v1")
    assert shown["because"] == "ALL_ANSWERED"
    assert [one["client"] for one in shown["clients"]["accepted"]] == ["client-000000", "client-000001"]
    assert shown["clients"]["excluded"] == [{"client": BAD, "reason": "NON_FINITE", "detail": BROKEN}]
    assert shown["clients"]["silent"] == []


def test_the_lease_and_the_plan_are_shown(show: Callable[..., dict[str, Any]], trainings: TrainingStore) -> None:
    assert show()["lease"] is None
    plan, _ = _begin(trainings, min_clients=2)
    assert show()["lease"]["holder"] == "run 7"
    assert show()["plan"] == json.loads(plan.model_dump_json())


def test_the_deadline_is_spent_while_a_run_works(
    show: Callable[..., dict[str, Any]], trainings: TrainingStore, folder: Path
) -> None:
    _, token = _begin(trainings, deadline_s=600)
    _age(folder, timedelta(seconds=100))
    assert show()["deadline"] == {"seconds": 600, "spent": pytest.approx(100, abs=20)}
    trainings.lease.release(token)
    assert show()["deadline"]["spent"] < 10  # nothing was heard of the run since


def test_the_time_between_sittings_is_not_spent(
    show: Callable[..., dict[str, Any]], trainings: TrainingStore, folder: Path
) -> None:
    _, token = _begin(trainings)
    _age(folder, timedelta(seconds=100))
    deliver(trainings, trainings.attempt(trainings.attempts("v3-b1")[-1]), "client-000001")  # after 100 s
    trainings.lease.release(token)
    _age(folder, timedelta(seconds=1000))
    open_round(trainings, "run 8")
    assert show()["deadline"]["spent"] == pytest.approx(100, abs=20)


def _age(folder: Path, by: timedelta) -> None:
    """Make what is written of the open round older."""
    for path in (folder / "trainings/digits/rounds/v3-b1").rglob("*.json"):
        written = path.stat().st_mtime - by.total_seconds()
        os.utime(path, (written, written))


def test_people_see_the_same(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    _fail(trainings)
    _begin(trainings)
    shown = fededge.works("rounds", "show", "digits", "--store", store.url)
    for part in ("attempt 2: open, worked on by run 7", "3,600 s of the deadline", "run 7 holds the training, until"):
        assert part in shown
    for part in ("TRAINING_FAILED", "Not heard of: 4", "client-000005", "6 drawn, 1 needed, 6 wanted"):
        assert part in shown
    failed = fededge.works("rounds", "show", "digits", "--attempt", "1", "--store", store.url)
    assert "It failed: 0 of 3 clients delivered, min_clients=1: 3 NO_DATA" in failed
    published = fededge.works("rounds", "show", "digits", "v1", "--store", store.url)
    for part in ("every client had answered", "75.0%", "NON_FINITE", "run 7 holds the training"):
        assert part in published


@pytest.mark.parametrize("command", ["list", "show", "release", "abandon"])
@pytest.mark.usefixtures("unchanged")
def test_an_unknown_training_is_told(fededge: Command, store: Store, command: str) -> None:
    said = fededge.fails(NotFoundError.exit_code, "rounds", command, "nothing", "--store", store.url)
    assert f"no training nothing in {store.url}; there are: digits" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["v9"], NotFoundError.exit_code, "no round of v9: `fededge rounds list digits` shows what there is"),
        (["v0"], NotFoundError.exit_code, "no round of v0"),
        (["v1", "--attempt", "2"], NotFoundError.exit_code, "no attempt 2 at v1"),
        (["4"], InputError.exit_code, "'4' is no version; versions look like v4"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_an_unknown_attempt_is_told(
    fededge: Command, store: Store, arguments: list[str], code: int, words: str
) -> None:
    assert words in fededge.fails(code, "rounds", "show", "digits", *arguments, "--store", store.url)


def test_a_released_training_is_free_and_the_run_that_held_it_publishes_nothing(
    rounds: Callable[..., Done], trainings: TrainingStore
) -> None:
    plan, token = open_round(trainings, "run 7")
    closing = close_round(trainings, plan)
    done = rounds("release", "digits", "--yes")
    assert (done.code, "run 7 held digits" in done.out) == (0, True)
    assert trainings.lease.active() is None
    with pytest.raises(LeaseError):
        trainings.publish(make_manifest(trainings, plan, closing), token)
    with pytest.raises(LeaseError, match="`fededge rounds release` has taken over training digits"):
        trainings.lease.renew(token, trainings.store.now())
    with pytest.raises(LeaseError):
        trainings.fence(token)
    assert trainings.head().pointer.version == "v2-b1"


def test_the_next_run_goes_on_after_a_release(rounds: Callable[..., Done], trainings: TrainingStore) -> None:
    plan, token = open_round(trainings, "run 7")
    rounds("release", "digits", "--yes")
    again, newer = open_round(trainings, "run 8")
    assert (again.ref, newer > token + 1) == (plan.ref, True)
    trainings.lease.release(newer)
    assert publish_round(trainings).version == "v3-b1"


@pytest.mark.usefixtures("unchanged")
def test_releasing_what_nobody_holds_changes_nothing(rounds: Callable[..., Done]) -> None:
    for _ in range(2):
        assert "no run holds digits" in rounds("release", "digits").out


def test_a_release_that_was_cut_short_can_be_given_again(rounds: Callable[..., Done], trainings: TrainingStore) -> None:
    _, token = _begin(trainings)
    trainings.fence(token + 1)
    assert rounds("release", "digits", "--yes").code == 0
    assert trainings.lease.active() is None
    assert open_round(trainings, "run 8")[1] == token + 2


def test_a_training_whose_beginning_was_cut_short_is_released(fededge: Command, store: Store) -> None:
    young = TrainingStore(store, "young")
    token = young.lease.acquire("run 7", store.now() + timedelta(hours=1))
    assert "run 7 held young" in fededge.works("rounds", "release", "young", "--yes", "--store", store.url)
    with pytest.raises(LeaseError):
        young.lease.renew(token, store.now())


def test_a_lease_that_changed_hands_meanwhile_is_not_released(
    fededge: Command, store: Store, trainings: TrainingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, token = _begin(trainings)

    def change_hands(*_: object) -> None:
        trainings.lease.release(token)
        trainings.lease.acquire("run 8", store.now() + timedelta(hours=1))

    monkeypatch.setattr("fededge.cli.rounds.confirm", change_hands)
    said = fededge.fails(LeaseError.exit_code, "rounds", "release", "digits", "--store", store.url)
    assert "run 8 has taken over training digits meanwhile" in said
    lease = trainings.lease.active()
    assert lease is not None
    trainings.fence(lease.token)


def test_an_abandoned_attempt_has_failed(
    rounds: Callable[..., Done], show: Callable[..., dict[str, Any]], trainings: TrainingStore
) -> None:
    plan, token = _begin(trainings)
    trainings.lease.release(token)
    assert "the next run opens attempt 2" in rounds("abandon", "digits", "--yes").out
    assert (show()["state"], show()["failure"]) == ("failed", "given up by hand")
    assert trainings.lease.active() is None
    assert open_round(trainings, "run 8")[0].number == 2
    assert trainings.update(plan.ref, "client-000000") is not None


def test_a_run_that_wakes_does_not_publish_an_abandoned_attempt(
    rounds: Callable[..., Done], trainings: TrainingStore
) -> None:
    plan, token = open_round(trainings, "run 7")
    closing = close_round(trainings, plan)
    trainings.lease.release(token)
    assert rounds("abandon", "digits", "--yes").code == 0
    with pytest.raises(LeaseError):
        trainings.publish(make_manifest(trainings, plan, closing), token)


def test_nothing_is_abandoned_while_a_run_works_on_it(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    plan, _ = _begin(trainings)
    said = fededge.fails(LeaseError.exit_code, "rounds", "abandon", "digits", "--yes", "--store", store.url)
    assert HELD in said
    assert "`fededge rounds release digits`" in said
    assert trainings.failed(plan.ref) is None


@pytest.mark.usefixtures("unchanged")
def test_without_an_open_attempt_nothing_is_abandoned(fededge: Command, store: Store) -> None:
    said = fededge.fails(InputError.exit_code, "rounds", "abandon", "digits", "--yes", "--store", store.url)
    assert "digits has no open attempt to give up" in said


def test_a_failed_attempt_is_not_abandoned_again(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    _fail(trainings)
    fededge.fails(InputError.exit_code, "rounds", "abandon", "digits", "--yes", "--store", store.url)


def test_a_version_that_was_made_is_not_abandoned(fededge: Command, store: Store, trainings: TrainingStore) -> None:
    plan, token = open_round(trainings, "run 7")
    closing = close_round(trainings, plan)

    store.create(keys.version("digits", "v3-b1"), make_manifest(trainings, plan, closing).dump())
    trainings.lease.release(token)  # the pointer was not moved any more
    said = fededge.fails(InputError.exit_code, "rounds", "abandon", "digits", "--yes", "--store", store.url)
    assert "v3-b1 is made already" in said
    assert publish_round(trainings).version == "v3-b1"


def test_an_attempt_that_is_over_meanwhile_is_not_abandoned(
    fededge: Command, store: Store, trainings: TrainingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, token = _begin(trainings)
    trainings.lease.release(token)

    def go_on(*_: object) -> None:
        trainings.fail_attempt(plan.ref, Failed(reason="too few"))
        trainings.lease.release(open_round(trainings, "run 8")[1])

    monkeypatch.setattr("fededge.cli.rounds.confirm", go_on)
    said = fededge.fails(ConflictError.exit_code, "rounds", "abandon", "digits", "--store", store.url)
    assert "has moved on meanwhile" in said
    assert trainings.failed(trainings.attempts("v3-b1")[-1]) is None
    assert trainings.lease.active() is None


@pytest.mark.parametrize("command", ["release", "abandon"])
def test_without_a_terminal_yes_must_be_said(
    fededge: Command, store: Store, trainings: TrainingStore, command: str
) -> None:
    plan, token = _begin(trainings)
    if command == "abandon":
        trainings.lease.release(token)
    said = fededge.fails(InputError.exit_code, "rounds", command, "digits", "--store", store.url)
    assert "say so with --yes" in said
    assert trainings.failed(plan.ref) is None
    assert (trainings.lease.active() is None) == (command == "abandon")


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 1)])
def test_on_a_terminal_it_asks(store: Store, trainings: TrainingStore, answer: str, code: int) -> None:
    _begin(trainings)
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", "from fededge.cli import main; main()"]
    arguments = ["rounds", "release", "digits", "--store", store.url]
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run([*command, *arguments], stdin=theirs, capture_output=True, text=True, timeout=60)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code
    assert re.search(r"run 7 holds digits, until .* at most\. End that now\?", done.stdout + done.stderr)
    assert (trainings.lease.active() is None) == (answer == "y")
    assert ("nothing was changed" in done.stderr) == (answer == "n")


@pytest.mark.parametrize("command", ["list", "show", "release", "abandon"])
def test_help_has_examples(fededge: Command, command: str) -> None:
    lines = [line.strip(" │•") for line in fededge.works("rounds", command, "--help").splitlines()]
    assert any(line.startswith(f"fededge rounds {command} digits") for line in lines)


def test_a_run_of_this_machine_that_died_holds_nothing(
    fededge: Command, store: Store, trainings: TrainingStore, tmp_path: Path
) -> None:
    """Its folder says so: nobody has its lock any more."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "alive").touch()
    holder = f"{socket.gethostname()}:{folder}"
    open_round(trainings, holder)
    with (folder / "alive").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert _rows(fededge, store)[-1][2] == f"open, worked on by {holder}"
    assert _rows(fededge, store)[-1][2] == "open, waiting for a run"
    fededge.works("rounds", "abandon", "digits", "--yes", "--store", store.url)
