from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import fededge as package
from fededge.errors import (
    ConflictError,
    CorruptError,
    InputError,
    LeaseError,
    NotFoundError,
    StoreUnavailableError,
)
from fededge.store import Store, keys
from fededge.store.blobs import put_bytes
from fededge.store.trainings import TrainingStore
from tests.cli.command import Command, error_line, snapshot
from tests.cli.trainings import make_training, open_round, weights


def _json(text: str) -> object:
    return json.loads(text)


def test_the_version_is_told(fededge: Command) -> None:
    assert fededge.works("--version") == f"{package.__version__}\n"


def test_the_command_can_be_called_from_a_shell(folder: Path, store: Store) -> None:
    program = "from fededge.cli import main; main()"
    command = [sys.executable, "-c", program, "versions", "show", "digits", "--json", "--store", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["version"] == "v2-b1"


def test_trainings_are_listed(fededge: Command, store: Store) -> None:
    make_training(store, "another")
    shown = fededge.works("versions", "list", "--store", store.url)
    rows = [line for line in shown.splitlines() if "v2-b1" in line]
    assert ["another" in rows[0], "digits" in rows[1]] == [True, True]
    assert all("accuracy 0.2000" in row for row in rows)


def test_trainings_are_listed_as_json(fededge: Command, store: Store) -> None:
    make_training(store, "another")
    found = _json(fededge.works("versions", "list", "--store", store.url, "--json"))
    assert isinstance(found, list)
    moves = [training.pop("rollbacks") for training in found]
    assert found == [
        {"training": name, "version": "v2-b1", "metrics": {"accuracy": 0.2, "loss": 0.8}}
        for name in ("another", "digits")
    ]
    assert [[(move["left"], move["to"]) for move in training] for training in moves] == [[("v3", "v1")]] * 2


def test_an_empty_store_says_how_to_begin(fededge: Command, tmp_path: Path) -> None:
    empty = str(tmp_path / "empty")
    assert "`fededge run` begins one" in fededge.works("versions", "list", "--store", empty)
    assert _json(fededge.works("versions", "list", "--store", empty, "--json")) == []


def test_the_store_can_be_named_by_a_variable(fededge: Command, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEDEDGE_STORE", store.url)
    assert "v2-b1 (current)" in fededge.works("versions", "list", "digits")


def test_versions_are_listed_with_the_current_one_marked(fededge: Command, store: Store) -> None:
    shown = fededge.works("versions", "list", "digits", "--store", store.url)
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    names = [row.split("│")[1].strip() for row in rows]
    assert names == ["v0", "v1", "v2", "v2-b1 (current)", "v3"]
    parents = [row.split("│")[2].strip() for row in rows]
    assert parents == ["", "v0", "v1", "v1", "v2"]
    assert "accuracy 0.3000" in rows[-1]


def test_rollbacks_are_listed_with_their_time(fededge: Command, store: Store) -> None:
    fededge.works("versions", "rollback", "digits", "v0", "--store", store.url)
    shown = fededge.works("versions", "list", "digits", "--store", store.url)
    moved = [line for line in shown.splitlines() if "rolled back" in line]
    assert re.fullmatch(r"rolled back from v3 to v1, \d\d \w{3} \d\d:\d\d", moved[0])
    assert moved[1].startswith("rolled back from v2-b1 to v0, ")


@pytest.mark.parametrize("command", [["list"], ["list", "digits"], ["show", "digits"], ["verify"], ["gc", "--dry-run"]])
def test_a_file_is_no_store(fededge: Command, alone: Path, command: list[str]) -> None:
    (alone / "file").touch()
    line = fededge.fails(StoreUnavailableError.exit_code, "versions", *command, "--store", str(alone / "file"))
    assert f"{alone / 'file'} is no folder: choose another with --store" in line


def test_versions_are_listed_as_json(fededge: Command, store: Store) -> None:
    found = _json(fededge.works("versions", "list", "digits", "--store", store.url, "--json"))
    assert isinstance(found, list)
    assert {version["version"]: version["current"] for version in found} == {
        "v0": False,
        "v1": False,
        "v2": False,
        "v2-b1": True,
        "v3": False,
    }
    assert found[1]["parent"] == "v0"
    assert found[1]["excluded"][0]["reason"] == "NON_FINITE"


def test_a_version_is_shown_with_who_was_left_out_and_why(fededge: Command, store: Store) -> None:
    shown = fededge.works("versions", "show", "digits", "v3", "--store", store.url)
    for part in ("v3", "Made from v2", "client-000000", "75.0%", "client-000002", "NON_FINITE", "NaN or infinity"):
        assert part in shown


def test_the_current_version_is_shown_by_default(fededge: Command, store: Store) -> None:
    for version in ([], ["current"], ["v2-b1"]):
        shown = _json(fededge.works("versions", "show", "digits", *version, "--store", store.url, "--json"))
        assert isinstance(shown, dict)
        assert (shown["version"], shown["parent"], shown["round"]) == ("v2-b1", "v1", 2)


def test_version_0_is_shown(fededge: Command, store: Store) -> None:
    shown = fededge.works("versions", "show", "digits", "v0", "--store", store.url)
    assert "v0" in shown
    assert "None" not in shown


def test_a_rollback_moves_the_pointer_and_nothing_else(fededge: Command, store: Store, folder: Path) -> None:
    before = snapshot(folder)
    said = fededge.works("versions", "rollback", "digits", "v0", "--store", store.url)
    assert "digits is at v0" in said
    assert "-b2" in said
    after = snapshot(folder)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert {key for key in changed if not key.endswith(".lock")} == {"trainings/digits/current.json"}
    assert TrainingStore(store, "digits").head().pointer.version == "v0"


@pytest.mark.parametrize(
    ("version", "code", "words"),
    [
        ("v2-b1", InputError.exit_code, "v2-b1 is the current version already"),
        ("v3", InputError.exit_code, "v3 is not an ancestor of the current version, v2-b1"),
        ("v2", InputError.exit_code, "v2 is not an ancestor of the current version, v2-b1"),
        ("v9", NotFoundError.exit_code, "no version v9: `fededge versions list digits` shows them"),
        ("3", InputError.exit_code, "'3' is no version; versions look like v4"),
        ("../v1", InputError.exit_code, "is no version; versions look like v4"),
        ("", InputError.exit_code, "is no version; versions look like v4"),
        ("current", InputError.exit_code, "v2-b1 is the current version already"),
    ],
)
@pytest.mark.usefixtures("unchanged")
def test_a_rollback_goes_to_an_ancestor_and_no_other(
    fededge: Command, store: Store, version: str, code: int, words: str
) -> None:
    assert words in fededge.fails(code, "versions", "rollback", "digits", version, "--store", store.url)


@pytest.mark.usefixtures("unchanged")
def test_a_rollback_that_comes_late_is_refused(fededge: Command, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*_: object) -> None:
        raise ConflictError("trainings/digits/current.json has changed meanwhile")

    monkeypatch.setattr("fededge.store.folder.FolderStore.replace", replace)
    fededge.fails(ConflictError.exit_code, "versions", "rollback", "digits", "v0", "--store", store.url)


def test_weights_are_exported_without_a_framework(fededge: Command, store: Store, alone: Path) -> None:
    said = fededge.works("versions", "export", "digits", "v3", "--to", "model.safetensors", "--store", store.url)
    assert str(alone / "model.safetensors") in said
    found = safetensors.numpy.load_file(alone / "model.safetensors")
    assert found.keys() == weights(3).keys()
    assert all(np.array_equal(found[name], value) for name, value in weights(3).items())


def test_names_of_files_are_no_markup(fededge: Command, store: Store, alone: Path) -> None:
    to = "model[final].safetensors"
    said = fededge.works("versions", "export", "digits", "v3", "--to", to, "--store", store.url)
    assert str(alone / to) in said
    assert (alone / to).is_file()


@pytest.mark.usefixtures("unchanged")
def test_exporting_again_overwrites(fededge: Command, store: Store, alone: Path) -> None:
    to = alone / "model.safetensors"
    for version, number in (("v1", 1), ("current", 2)):
        fededge.works("versions", "export", "digits", version, "--to", str(to), "--store", store.url)
        assert np.array_equal(safetensors.numpy.load_file(to)["0000/w"], weights(number)["0000/w"])


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
    monkeypatch.setattr("fededge.cli.versions.time.monotonic", lambda: next(clock))
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


COMMANDS = [
    ["run"],
    ["doctor"],
    ["versions", "list"],
    ["versions", "show"],
    ["versions", "rollback"],
    ["versions", "export"],
    ["versions", "verify"],
    ["versions", "gc"],
    ["versions", "forget"],
    ["pipelines", "export"],
    ["env", "list"],
    ["env", "create"],
    ["env", "run"],
    ["env", "prune"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_examples_each_on_its_line(fededge: Command, command: list[str]) -> None:
    lines = [line.strip(" │•") for line in fededge.works(*command, "--help").splitlines()]
    assert any("xample" in line for line in lines)
    assert any(line.startswith(f"fededge {' '.join(command)}") for line in lines)
    assert not any(re.search("xamples?: .*fededge", line) for line in lines)


@pytest.mark.parametrize("command", [[], ["versions"], ["pipelines"], ["env"]], ids=" ".join)
def test_without_a_command_there_is_help(fededge: Command, command: list[str]) -> None:
    done = fededge(*command)
    assert "Commands" in done.out + done.err
    assert "Traceback" not in done.err


def test_help_of_the_whole_names_each_command(fededge: Command) -> None:
    shown = fededge.works("--help")
    for command in COMMANDS:
        assert command[0] in shown


def test_environments_are_listed_as_json(fededge: Command, tmp_path: Path) -> None:
    (tmp_path / "environments" / "tensorflow-old").mkdir(parents=True)
    found = _json(fededge.works("env", "list", "--json"))
    assert isinstance(found, list)
    assert [entry["image"] for entry in found] == [
        "serving", "serving-tensorflow", "sklearn", "tensorflow", "torch", "",
    ]  # fmt: skip
    assert not any(entry["ready"] for entry in found)
    assert all(Path(entry["path"]).parent == tmp_path / "environments" for entry in found)


def test_environments_that_are_not_needed_are_removed(fededge: Command, tmp_path: Path) -> None:
    old = tmp_path / "environments" / "tensorflow-old"
    old.mkdir(parents=True)
    assert f"removed {old}" in fededge.works("env", "prune")
    assert not old.exists()
    assert fededge.works("env", "prune") == ""
