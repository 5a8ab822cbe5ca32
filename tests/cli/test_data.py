"""`fededge data` as a person types it: what it prints, its exit codes, and being interrupted."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fededge.datasets.catalogue import DATA_SETS, Download, File
from fededge.errors import InputError, SetupError
from tests.cli.command import Command, snapshot
from tests.datasets import written
from tests.datasets.server import Server, serving

INPUT, SETUP = InputError.exit_code, SetupError.exit_code
CONTENT = next(iter(written.PARKINSONS.files.values()))


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch, alone: Path) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A publisher of parkinsons with two people."""
    with serving() as server:
        name = "parkinsons_updrs.data"
        server.files[f"/{name}"] = CONTENT
        file = File(name, hashlib.sha256(CONTENT).hexdigest())
        download = Download(f"{server.url}/{name}", name, (file,))
        monkeypatch.setitem(DATA_SETS, "parkinsons", replace(DATA_SETS["parkinsons"], downloads=(download,)))
        yield server


def test_fetch_check_and_list(
    fededge: Command, alone: Path, publisher: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = alone / ".local" / "share" / "fededge"
    done = fededge("data", "fetch", "parkinsons")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        f"parkinsons: 1 file fetched to {folder}/health_parkinsons",
        "For the runs to find them, type",
        f"export FEDEDGE_DATA={folder}",
    ]
    assert fededge.works("data", "check", "parkinsons") == "parkinsons: complete, 2 people\n"
    monkeypatch.setenv("FEDEDGE_DATA", str(folder))
    assert fededge.works("data", "fetch", "parkinsons") == (
        f"parkinsons: is here already, in {folder}/health_parkinsons\n"
    )
    listed = {entry["name"]: entry for entry in json.loads(fededge.works("data", "list", "--json"))}
    assert (listed["parkinsons"]["here"], listed["wisdm"]["here"]) == ("complete", "missing")
    assert {"licence", "citation", "page", "addresses", "clients", "application"} <= listed["parkinsons"].keys()


def test_list_is_a_table(fededge: Command, tmp_path: Path) -> None:
    written.write(tmp_path, written.LOS.files)
    written.write(tmp_path, {"train_FD001.txt": b"1 1\n"})
    rows = {
        row.split("│")[1].strip(): row
        for row in fededge.works("data", "list", "--data", str(tmp_path)).splitlines()
        if "│" in row
    }
    assert set(DATA_SETS) <= rows.keys()
    assert "207 road" in rows["los"]  # the terminal may be too narrow for more
    assert [rows[name].split("│")[-2].strip() for name in ("los", "cmapss", "mnist")] == ["differs", "in part", "no"]


def test_a_space_in_the_folder_can_be_typed(fededge: Command, alone: Path, publisher: Server) -> None:
    out = fededge.works("data", "fetch", "parkinsons", "--to", "my data")
    assert f"export FEDEDGE_DATA='{alone}/my data'" in out.splitlines()
    assert fededge.works("data", "check", "parkinsons", "--data", "my data").startswith("parkinsons: complete")


def test_what_is_in_the_way_is_told(fededge: Command, tmp_path: Path, publisher: Server) -> None:
    written.write(tmp_path / "health_parkinsons", {"parkinsons_updrs.data": b"mine"})
    done = fededge("data", "fetch", "parkinsons", "--to", str(tmp_path))
    assert f"what was in the way is now {tmp_path}/health_parkinsons/parkinsons_updrs.data.old" in done.err


def test_one_set_that_cannot_be_had_does_not_keep_the_others_back(
    fededge: Command, tmp_path: Path, publisher: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = replace(DATA_SETS["parkinsons"].downloads[0], url=f"{publisher.url}/gone")
    for name in ("los", "wisdm"):
        monkeypatch.setitem(DATA_SETS, name, replace(DATA_SETS[name], downloads=(gone,)))
    line = fededge.fails(SETUP, "data", "fetch", "los", "parkinsons", "wisdm", "--to", str(tmp_path))
    assert line == "error: not fetched, for the reasons above: los, wisdm"
    assert set(snapshot(tmp_path)) == {"health_parkinsons/parkinsons_updrs.data"}


@pytest.mark.parametrize("mirror", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_offline(fededge: Command, tmp_path: Path, mirror: str) -> None:
    line = fededge.fails(SETUP, "data", "fetch", "los", "--to", str(tmp_path), "--from", mirror)
    assert f"{mirror}/traffic_los/los_speed.csv: " in line
    assert "put los_speed.csv, los_adj.csv from https://github.com/lehaifeng/T-GCN" in line
    assert f"into {tmp_path}/traffic_los" in line


def test_other_bytes_than_the_publishers(fededge: Command, tmp_path: Path) -> None:
    mirror = written.write(tmp_path / "mirror", {"traffic_los/los_speed.csv": b"1\n2\n"})
    line = fededge.fails(SETUP, "data", "fetch", "los", "--to", str(tmp_path / "to"), "--from", str(mirror))
    assert hashlib.sha256(b"1\n2\n").hexdigest() in line
    assert DATA_SETS["los"].files[0].sha256 in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fetch"], "name data sets, or say --all: there are wisdm, parkinsons"),
        (["fetch", "wisdm", "--all"], "name data sets, or say --all"),
        (["fetch", "wisdom"], "no data set 'wisdom': there are wisdm"),
        (["check", "wisdom"], "no data set 'wisdom': there are wisdm"),
        (["fetch", "los", "--from", "no-such-folder"], "--from no-such-folder is neither a folder nor an address"),
    ],
)
def test_what_is_typed_wrong(fededge: Command, alone: Path, arguments: list[str], words: str) -> None:
    assert words in fededge.fails(INPUT, "data", *arguments)
    assert snapshot(alone) == {}


def test_check_tells_the_states_apart(fededge: Command, tmp_path: Path) -> None:
    written.write(tmp_path, written.LOS.files)
    out = fededge.works("data", "check", "--data", str(tmp_path))
    assert "los: readable, not the publisher's complete files (3 road sensors)" in out
    assert "wisdm: missing; get it with `fededge data fetch wisdm`" in out
    line = fededge.fails(SETUP, "data", "check", "los", "wisdm", "--data", str(tmp_path))
    assert "get them with `fededge data fetch wisdm`" in line
    written.write(tmp_path, {"train_FD001.txt": b"1 1\n"})
    done = fededge("data", "check", "--data", str(tmp_path))
    assert (done.code, done.err) == (
        INPUT, "error: damaged or in part missing: fetch again with `fededge data fetch cmapss`\n"
    )  # fmt: skip
    assert "cmapss: damaged: no test_FD001.txt" in done.out
    line = fededge.fails(SETUP, "data", "check", "--data", str(tmp_path / "nothing"))
    assert f"missing from {tmp_path}/nothing" in line


def test_check_for_scripts(fededge: Command, tmp_path: Path) -> None:
    written.write(tmp_path, written.LOS.files)
    done = fededge("data", "check", "los", "mnist", "--data", str(tmp_path), "--json")
    assert (done.code, done.err) == (SETUP, "")
    document = json.loads(done.out)
    los, mnist = document["data_sets"]
    assert (document["folder"], los["name"], los["state"], los["clients"]) == (str(tmp_path), "los", "other", 3)
    assert los["files"][0]["sha256"] == hashlib.sha256(written.LOS.files["los_speed.csv"]).hexdigest()
    assert (mnist["state"], mnist["examples"], mnist["files"][0]["path"]) == ("missing", 0, None)


def test_an_interrupted_fetch_goes_on_where_it_stopped(fededge: Command, tmp_path: Path, publisher: Server) -> None:
    publisher.files = {"/health_parkinsons/parkinsons_updrs.data": CONTENT * 100}
    publisher.pace = 0.02
    command = [sys.executable, "-m", "fededge", "data", "fetch", "parkinsons"]
    command += ["--to", str(tmp_path), "--from", publisher.url]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ.copy()
    )
    partial = tmp_path / "health_parkinsons" / "parkinsons_updrs.data.partial"
    while not (partial.exists() and partial.stat().st_size):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (128 + signal.SIGINT, "")
    assert err == "what has come is kept; the same command goes on from there\n"
    (left,) = snapshot(tmp_path)
    assert left.endswith(".partial")
    had, publisher.pace = partial.stat().st_size, 0
    fededge.fails(SETUP, "data", "fetch", "parkinsons", "--to", str(tmp_path), "--from", publisher.url)
    assert publisher.asked[1] == ("/health_parkinsons/parkinsons_updrs.data", f"bytes={had}-")
