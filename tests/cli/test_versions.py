from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import fededge as package
from fededge.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    StoreUnavailableError,
)
from fededge.store import Store
from fededge.store.trainings import TrainingStore
from tests.cli.command import Command, snapshot
from tests.trainings import make_training, weights


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
