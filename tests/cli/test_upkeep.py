from __future__ import annotations

import itertools
import json
import os
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest

from fededge.errors import (
    CorruptError,
    InputError,
    LeaseError,
    NotFoundError,
)
from fededge.store import Store, keys
from fededge.store.blobs import put_bytes
from fededge.store.trainings import TrainingStore
from tests.cli.command import Command, error_line, snapshot
from tests.trainings import open_round


def _json(text: str) -> object:
    return json.loads(text)


@pytest.mark.usefixtures("unchanged")
def test_a_training_that_is_whole(fededge: Command, store: Store) -> None:
    for name in ([], ["digits"]):
        said = fededge.works("versions", "verify", *name, "--store", store.url)
        line = r"digits: 5 versions, 8 updates, [0-9]+ objects, [0-9.]+ kB read: everything is whole\n"
        assert re.fullmatch(line, said)


@pytest.mark.usefixtures("unchanged")
def test_a_whole_training_as_json(fededge: Command, store: Store) -> None:
    found = _json(fededge.works("versions", "verify", "digits", "--json", "--store", store.url))
    assert isinstance(found, dict)
    assert found["whole"] is True
    (training,) = found["trainings"]
    assert (training["training"], training["versions"], training["updates"]) == ("digits", 5, 8)
    assert (training["findings"], training["gone"]) == ([], {})
    assert training["objects"] > 20
    assert training["bytes"] > 10_000


def test_each_thing_that_is_damaged_is_told(fededge: Command, store: Store, folder: Path) -> None:
    trainings = TrainingStore(store, "digits")
    manifest, model = keys.version("digits", "v3"), keys.blob(trainings.version("v2").model)
    (folder / manifest).write_bytes(b"{")
    (folder / model).unlink()
    done = fededge("versions", "verify", "digits", "--store", store.url)
    assert "2 objects are damaged or missing" in error_line(done, CorruptError.exit_code)
    lines = done.out.splitlines()
    assert f"{manifest} is no FedEdge document, and needed by v3" in lines
    assert any(re.fullmatch(f"{model} is missing, and needed by .*v2.*", line) for line in lines)
    assert lines[-1].endswith(": 2 damaged or missing")
    done = fededge("versions", "verify", "--json", "--store", store.url)
    assert error_line(done, CorruptError.exit_code)
    found = _json(done.out)
    assert isinstance(found, dict)
    assert found["whole"] is False
    findings = found["trainings"][0]["findings"]
    assert {finding["key"] for finding in findings} == {manifest, model}
    assert {"key": manifest, "problem": "is no FedEdge document", "versions": ["v3"]} in findings


def test_a_pointer_that_is_damaged_is_told_like_anything_else(fededge: Command, store: Store, folder: Path) -> None:
    (folder / keys.pointer("digits")).write_bytes(b"{")
    done = fededge("versions", "verify", "digits", "--store", store.url)
    assert error_line(done, CorruptError.exit_code)
    assert done.out.startswith(f"{keys.pointer('digits')} is no FedEdge document")


@pytest.mark.parametrize("name", ["other", "no name"])
def test_what_is_not_there_is_not_verified(fededge: Command, store: Store, name: str) -> None:
    assert fededge("versions", "verify", name, "--store", store.url).code in (2, 4)


@pytest.mark.parametrize("command", ["verify", "gc", "forget digits client-000000 --yes"])
def test_a_store_without_trainings_is_more_likely_a_mistyped_one(
    fededge: Command, tmp_path: Path, command: str
) -> None:
    line = fededge.fails(NotFoundError.exit_code, "versions", *command.split(), "--store", str(tmp_path / "mistyped"))
    assert "no training" in line
    assert not (tmp_path / "mistyped").exists()


def test_progress_is_for_terminals_only(fededge: Command, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 10)
    monkeypatch.setattr("fededge.cli.upkeep.time.monotonic", lambda: next(clock))
    done = fededge("versions", "verify", "digits", "--store", store.url)
    assert (done.code, done.err) == (0, "")


def _orphan(store: Store, folder: Path, hours: int = 2) -> str:
    """Put a blob there that nothing names."""
    key = keys.blob(put_bytes(store, b"orphan"))
    written = time.time() - 3600 * hours
    os.utime(folder / key, (written, written))
    return key


def test_garbage_is_listed_and_then_removed(fededge: Command, store: Store, folder: Path) -> None:
    key = _orphan(store, folder)
    before = snapshot(folder)
    shown = fededge.works("versions", "gc", "--dry-run", "--store", store.url)
    assert shown.splitlines() == [f"{key}  6 bytes", f"1 object, 6 bytes would be removed from {store.url}"]
    found = _json(fededge.works("versions", "gc", "--dry-run", "--json", "--store", store.url))
    expected = {"objects": [{"key": key, "bytes": 6}], "bytes": 6, "leftovers": 0}
    assert found == {**expected, "dry_run": True}
    assert snapshot(folder) == before
    found = _json(fededge.works("versions", "gc", "--json", "--store", store.url))
    assert found == {**expected, "dry_run": False}
    assert key not in store.keys("")
    assert fededge.works("versions", "gc", "--store", store.url) == f"0 objects, 0 bytes removed from {store.url}\n"
    fededge.works("versions", "verify", "--store", store.url)


def test_what_is_young_is_kept(fededge: Command, store: Store, folder: Path) -> None:
    key = _orphan(store, folder)
    assert fededge.works("versions", "gc", "--min-age-minutes", "180", "--store", store.url).startswith("0 objects")
    assert key in store.keys("")
    assert fededge.works("versions", "gc", "--min-age-minutes", "110", "--store", store.url).startswith("1 object,")


def test_garbage_waits_for_a_run(fededge: Command, store: Store, folder: Path) -> None:
    key = _orphan(store, folder)
    TrainingStore(store, "digits").lease.acquire("run 7", store.now() + timedelta(hours=1))
    line = fededge.fails(LeaseError.exit_code, "versions", "gc", "--store", store.url)
    assert "digits is being worked on by run 7" in line
    assert "`fededge rounds release digits`" in line
    assert key in store.keys("")
    assert "1 object" in fededge.works("versions", "gc", "--dry-run", "--store", store.url)


def _forget(*options: str) -> list[str]:
    return ["versions", "forget", "digits", "client-000001", *options]


def test_a_client_is_forgotten(fededge: Command, store: Store) -> None:
    # Both clients of these trainings have the same tensors, which are also the model's.
    said = fededge.works(*_forget("--yes", "--store", store.url))
    assert said.splitlines()[0] == "digits: 4 updates and 0 reports of client-000001 deleted"
    assert said.splitlines()[1] == ("3 blobs stay: other clients, versions or trainings have the very same tensors")
    assert said.splitlines()[-1] == "v1, v2, v2-b1, v3 stay, with what they learned from it"
    said = fededge.works("versions", "verify", "digits", "--store", store.url)
    assert said.splitlines()[0] == "digits: 4 deliveries of client-000001 gone, on its request"
    assert said.splitlines()[-1].endswith("everything is whole")
    shown = fededge.works("versions", "show", "digits", "v1", "--store", store.url)
    assert shown.splitlines()[-1] == "deleted on the clients' request: what client-000001 delivered"
    found = _json(fededge.works("versions", "show", "digits", "v1", "--json", "--store", store.url))
    assert isinstance(found, dict)
    assert found["forgotten"] == ["client-000001"]
    assert "0 updates and 0 reports" in fededge.works(*_forget("-y", "--store", store.url))


@pytest.mark.usefixtures("unchanged")
def test_nobody_is_forgotten_by_accident(fededge: Command, store: Store) -> None:
    assert "--yes" in fededge.fails(InputError.exit_code, *_forget("--store", store.url))


def test_who_is_not_known_is_not_forgotten(fededge: Command, store: Store) -> None:
    command = ["versions", "forget", "digits", "client-1", "--yes", "--store", store.url]
    assert "nothing of a client 'client-1'" in fededge.fails(InputError.exit_code, *command)


def test_an_open_round_is_finished_before_a_client_is_forgotten(fededge: Command, store: Store) -> None:
    trainings = TrainingStore(store, "digits")
    _, token = open_round(trainings, "run 7")
    assert "run 7" in fededge.fails(LeaseError.exit_code, *_forget("--yes", "--store", store.url))
    trainings.lease.release(token)
    line = fededge.fails(InputError.exit_code, *_forget("--yes", "--store", store.url))
    assert "`fededge run digits`, or give it up with `fededge rounds abandon digits`" in line


def test_what_forgetting_cannot_do_is_said(fededge: Command) -> None:
    said = " ".join(fededge.works("versions", "forget", "--help").replace("│", " ").split())
    assert "It cannot take back what the models have learned" in said
