"""A server that speaks Kubeflow's REST API, and a machine that knows of no other one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from fededge.cli import main
from fededge.kubeflow import client as client_module
from fededge.kubeflow.client import Kubeflow, connect
from tests.contract.compiled import ROOT
from tests.kubeflow.kfp_server import KfpServer

Fededge = Callable[..., int]


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them, and wait less between two tries."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "FEDEDGE_STORE", "FEDEDGE_REGISTRY", "KF_PIPELINES_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    # The kubernetes client looks at KUBECONFIG when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr(client_module, "_backoff", lambda _: 0.05)
    monkeypatch.setattr("fededge.kubeflow.driver._SETTLED_S", 0.05)
    monkeypatch.setattr("yaml.SafeLoader", yaml.CSafeLoader)  # the same, ten times as fast; kfp takes the slow one


@pytest.fixture
def server() -> Iterator[KfpServer]:
    with KfpServer() as server:
        yield server


@pytest.fixture
def kubeflow(server: KfpServer) -> Kubeflow:
    return connect(host=server.url)


@pytest.fixture
def fededge(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> Fededge:
    """Run the command against the server; returns its exit code."""
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    monkeypatch.setenv("FEDEDGE_REGISTRY", "harbor.example.org/fededge")

    def run(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["fededge", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code or 0)

    return run


def interrupted(server: KfpServer, *arguments: str) -> tuple[int, str, str]:
    """Run the command in a process of its own, and press Ctrl-C when it watches a run.

    Returns:
      Its exit code, and what it wrote to standard output and standard error.
    """
    command = [sys.executable, "-P", "-m", "fededge", *arguments, "--poll-s", "0.05", "--host", server.url]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            while not any("/runs/" in path for _, path in server.requests):
                assert process.poll() is None, process.communicate()
                time.sleep(0.05)
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, out, error
