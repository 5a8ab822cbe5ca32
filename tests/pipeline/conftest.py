"""Runs of the compiled pipelines through the command, as a person would start them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fededge.environments import Environment, environment, link_library, make
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


def fededge(folder: Path, *arguments: str) -> Outcome:
    """Run the command in a folder."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fededge", *arguments], cwd=folder, capture_output=True, text=True, timeout=600
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def store_in(folder: Path) -> FolderStore:
    """Open the store that a run makes by default."""
    return FolderStore(folder / ".fededge" / "store")


@dataclass(frozen=True)
class Run:
    """A training that was run to its end, perhaps by several commands."""

    folder: Path
    outcomes: list[Outcome]

    def trainings(self, name: str) -> TrainingStore:
        return TrainingStore(store_in(self.folder), name)


ADAM = (
    "adam", "--server-optimizer", "adam", "--server-learning-rate", "0.05", "--local-epochs", "2",
    "--clients", "6", "--clients-per-round", "4", "--clients-per-pod", "4", "--seed", "11", "--json",
)  # fmt: skip


@pytest.fixture(scope="session")
def tensorflow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Environment, dict[str, str]]:
    """The steps' environment, and the variables that its processes need."""
    wanted = environment("tensorflow")
    make(wanted, print)
    return wanted, wanted.variables(link_library(tmp_path_factory.mktemp("library")))


@pytest.fixture(scope="session")
def default_and_adam(
    tmp_path_factory: pytest.TempPathFactory, tensorflow: tuple[Environment, dict[str, str]]
) -> tuple[Run, Run]:
    """The default training of 5 rounds, and beside it one with Adam, 2 rounds and then one more by another command."""
    runs = (Run(tmp_path_factory.mktemp("default"), []), Run(tmp_path_factory.mktemp("adam"), []))
    commands = ((("run", "--json"),), (("run", *ADAM, "--rounds", "2"), ("run", *ADAM, "--rounds", "1")))

    def start(run: Run, sequence: tuple[tuple[str, ...], ...]) -> None:
        run.outcomes.extend(fededge(run.folder, *command) for command in sequence)

    threads = [threading.Thread(target=start, args=pair) for pair in zip(runs, commands, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return runs


@pytest.fixture(scope="session")
def default(default_and_adam: tuple[Run, Run]) -> Run:
    return default_and_adam[0]


@pytest.fixture(scope="session")
def adam(default_and_adam: tuple[Run, Run]) -> Run:
    return default_and_adam[1]


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package to pass to --with, holding the quick workload of the steps' tests."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "tiny"\nversion = "1"\n[tool.hatch.build.targets.wheel]\ninclude = ["tiny.py"]\n'
    )
    (folder / "tiny.py").write_bytes((Path(__file__).parents[1] / "steps" / "tiny.py").read_bytes())
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_package: Path) -> tuple[str, ...]:
    """The arguments of a training that takes seconds."""
    return ("tiny", "--workload", "tiny:workload", "--with", str(tiny_package), "--clients", "4", "--clients-per-pod",
            "2", "--server-momentum", "0.5")  # fmt: skip
