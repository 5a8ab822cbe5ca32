"""Servers in their own environments, and stores that were trained in the clients'."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import urllib3

from fededge.environments import environment, make
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.conftest import REPOSITORY
from tests.serving.trained import NAME

SERVERS = {"sklearn": "serving", "torch": "serving", "tensorflow": "serving-tensorflow"}
_PATIENCE = 120  # seconds; TensorFlow on a busy machine


@dataclass(frozen=True)
class Trained:
    """A store, and what the learner said where it was trained.

    Attributes:
      folder: with the store and the arrays.
      server: the environment that serves it.
    """

    folder: Path
    server: str

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def trainings(self) -> TrainingStore:
        return TrainingStore(FolderStore(self.store), NAME)

    def array(self, name: str) -> np.ndarray[Any, Any]:
        return np.load(self.folder / f"{name}.npy")


@dataclass(frozen=True)
class Answer:
    status: int
    json: Any


class Server:
    """A server that runs, and its output so far."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, grpc_port: int, log: Path) -> None:
        self.process, self.grpc_port, self._log = process, grpc_port, log
        self._url, self._http = f"http://127.0.0.1:{port}/v2", urllib3.PoolManager(retries=False)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def get(self, path: str) -> Answer:
        answer = self._http.request("GET", self._url + path)
        return Answer(answer.status, answer.json() if answer.data else None)

    def infer(self, body: dict[str, Any], path: str = f"/models/{NAME}/infer") -> Answer:
        answer = self._http.request("POST", self._url + path, json=body)
        return Answer(answer.status, answer.json())

    def ask(self, x: np.ndarray[Any, Any], **changed: Any) -> Answer:
        """Ask about inputs; `changed` are fields of the tensor."""
        tensor = {"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
        return self.infer({"inputs": [{**tensor, **changed}]})

    def wait(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not is_so():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < end, self.log
            time.sleep(0.1)

    def ready(self) -> bool:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            return self.get(f"/models/{NAME}/ready").status == 200
        return False


@contextlib.contextmanager
def serving(image: str, folder: Path, *arguments: str) -> Iterator[Server]:
    """Start a server; it ends with the block."""
    http, grpc, metrics = _ports(3)
    variables = {"MLSERVER_HTTP_PORT": http, "MLSERVER_GRPC_PORT": grpc, "MLSERVER_METRICS_PORT": metrics}
    own = {**_environment(), **{name: str(port) for name, port in variables.items()}}
    log = folder / f"server-{http}.log"
    with log.open("wb") as output:
        command = [python_of(image), "-m", "fededge.serving", "--training", NAME, *arguments]
        process = subprocess.Popen(command, env=own, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Server(process, http, grpc, log)
    finally:
        process.terminate()
        process.wait(60)


def python_of(image: str) -> str:
    wanted = environment(image)
    make(wanted, print)
    return str(wanted.python)


def run(image: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in an environment; its output goes to files, which no process that it leaves can hold open."""
    return subprocess.run(
        [python_of(image), *arguments], env=_environment(), cwd=REPOSITORY, capture_output=True, text=True, timeout=300
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONNOUSERSITE": "1"}


def _ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture(scope="session", params=sorted(SERVERS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two versions of a library's model, trained where its clients train."""
    return _trained(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def light(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same of the library that starts fastest, for what is the same in all."""
    return _trained("sklearn", tmp_path_factory.mktemp("light"))


def _trained(library: str, folder: Path) -> Trained:
    workload = f"tests.serving.workloads:{library}"
    with (folder / "training.log").open("wb") as output:
        subprocess.run(
            [python_of(library), "-m", "tests.serving.trained", str(folder / "store"), workload, str(folder)],
            env=_environment(), cwd=REPOSITORY, stdout=output, stderr=output, timeout=300, check=True,
        )  # fmt: skip
    return Trained(folder, SERVERS[library])
