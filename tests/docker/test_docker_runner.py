"""Trainings in the real images, under kfp's own Docker runner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fededge.events import Tail
from fededge.store import Store, open_store
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.images.build import build

EXAMPLE = Path(__file__).parents[2] / "examples" / "tumours"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch, docker_host: str, image: str) -> None:
    """Have the command find the engine, with our image in it."""
    monkeypatch.setenv("DOCKER_HOST", docker_host)


def run(folder: Path, *arguments: str) -> Any:
    command = [sys.executable, "-m", "fededge", "run", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def models(store: Store, training: str) -> list[str]:
    return [version.model for version in TrainingStore(store, training).versions()]


def containers() -> list[str]:
    command = ["docker", "ps", "--all", "--format", "{{.ID}} {{.Labels}}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_images_and_environments_give_the_same_bits(tmp_path: Path) -> None:
    digests, before = [], containers()
    for runner in ("docker", "environment"):
        folder = tmp_path / runner
        folder.mkdir()
        result = run(folder, "--runner", runner, "--rounds", "2")
        assert result["version"] == "v2"
        assert result["metrics"]["accuracy"] > 0.5
        store = FolderStore(folder / ".fededge" / "store")
        assert all(Path(store.url, key).stat().st_uid == os.getuid() for key in store.keys("trainings/"))
        digests.append(models(store, "digits"))
    assert digests[0] == digests[1]
    assert containers() == before


@pytest.mark.parametrize(("library", "workload"), [("torch", "cmapss"), ("sklearn", "wisdm")])
def test_the_other_libraries_give_the_same_bits_too(
    library: str, workload: str, data: Path, docker_host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Round 1 measures what inputs are normalized by, round 2 trains."""
    build(docker_host, library)
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    digests = []
    for runner in ("docker", "environment"):
        folder = tmp_path / runner
        folder.mkdir()
        run(folder, "--workload", workload, "--runner", runner, "--rounds", "2", "--clients-per-round", "4")
        digests.append(models(FolderStore(folder / ".fededge" / "store"), workload))
    assert len(digests[0]) == 3
    assert digests[0] == digests[1]


@pytest.mark.s3
def test_a_store_in_s3_with_an_authority_of_its_own(s3_tls: str, tmp_path: Path) -> None:
    result = run(tmp_path, "--runner", "docker", "--rounds", "1", "--store", s3_tls)
    assert (result["store"], result["version"]) == (s3_tls, "v1")
    assert TrainingStore(open_store(s3_tls), "digits").version().version == "v1"
    assert not (tmp_path / ".fededge" / "store").exists()


def test_own_workload_in_an_image_of_its_own(image: str, tmp_path: Path) -> None:
    build = ["docker", "build", "--quiet", "--build-arg", f"BASE={image}", "--tag", "tumours:test", str(EXAMPLE)]
    subprocess.run(build, check=True, capture_output=True, env={**os.environ, "DOCKER_BUILDKIT": "0"})
    result = run(
        tmp_path, "tumours", "--runner", "docker", "--client-image", "tumours:test", "--rounds", "1",
        "--workload", "tumours.workload:workload", "--clients", "6",
    )  # fmt: skip
    assert result["rounds"][0]["delivered"] == 6
    accepted = TrainingStore(FolderStore(tmp_path / ".fededge" / "store"), "tumours").version().accepted
    assert [update.client for update in accepted] == [f"hospital-{i}" for i in range(6)]


def test_ctrl_c_leaves_no_container(tmp_path: Path) -> None:
    command, before = [sys.executable, "-m", "fededge", "run", "--runner", "docker", "--rounds", "1"], containers()
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as started:
        while started.poll() is None and not _training(tmp_path):
            time.sleep(0.05)
        assert containers() != before
        started.send_signal(signal.SIGINT)
        assert started.wait(60) == 130
    assert containers() == before


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fededge", "run", "--runner", "docker", "--client-image", "nobody/has-this:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3
    assert "nobody/has-this:1" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def _training(folder: Path) -> bool:
    paths = list(folder.glob(".fededge/runs/*/events.jsonl"))
    return any(event.kind == "started" and event.phase == "train" for path in paths for event in Tail(path))
