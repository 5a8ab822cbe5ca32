"""The compiled pipelines, with clients in Jobs and in tasks: the same model."""

from __future__ import annotations

from pathlib import Path

import pytest

from fededge.environments import Environment
from fededge.records import Version
from tests.cluster.api_server import ApiServer
from tests.cluster.kubelet import POD, Kubelet
from tests.contract.compiled import FOLDER
from tests.pipeline.conftest import Run, fededge

OPTIONS = ("digits", "--clients", "4", "--clients-per-pod", "2", "--local-epochs", "1", "--json")


def test_a_round_by_jobs_makes_the_very_model_of_a_round_by_tasks(
    tmp_path: Path,
    tensorflow: tuple[Environment, dict[str, str]],
    api_server: ApiServer,
    kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, variables = tensorflow
    monkeypatch.setenv("FEDEDGE_POD", POD["metadata"]["name"])
    api_server.put(POD)
    with Kubelet(api_server, python=str(wanted.python), variables=variables) as kubelet:
        by_jobs = _version(tmp_path / "jobs", "fl_round_job")
    assert sorted(kubelet.ran) == [0, 1]
    by_tasks = _version(tmp_path / "tasks", "fl_round")
    assert by_jobs.model == by_tasks.model
    assert [a.delta for a in by_jobs.accepted] == [a.delta for a in by_tasks.accepted]
    assert by_jobs.metrics == by_tasks.metrics


def _version(folder: Path, pipeline: str) -> Version:
    folder.mkdir()
    done = fededge(folder, "run", *OPTIONS, "--pipeline", str(FOLDER / f"{pipeline}.yaml"))
    assert done.code == 0, done.err
    return Run(folder, [done]).trainings("digits").version("v1")
