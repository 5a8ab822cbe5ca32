"""The notebooks, from top to bottom, against a Kubeflow whose runs really run on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from fededge.environments import Environment
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.contract.compiled import ROOT
from tests.kubeflow.kfp_server import KfpServer
from tests.pipeline.local_cluster import LocalCluster

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
_CELL_SECONDS = 800  # of a busy machine


@pytest.fixture
def cluster(
    tmp_path: Path, tensorflow: tuple[Environment, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[KfpServer, Path]]:
    """A Kubeflow, and the store of its runs; the notebooks find both in the environment."""
    store = tmp_path / "store"
    with KfpServer() as server:
        LocalCluster(server, tmp_path / "runs", store)
        for name, value in {
            "KF_PIPELINES_ENDPOINT": server.url, "FEDEDGE_STORE": str(store), "HOME": str(tmp_path),
            "FEDEDGE_CLIENT_STATE": str(tmp_path / "clients"), "PYTHONPATH": str(ROOT),
            "IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield server, store


def _executed(name: str, folder: Path) -> list[str]:
    """Run a notebook in a kernel of its own, and return what its cells show, as text."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=_CELL_SECONDS, kernel_name="python3", resources=resources).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(_text(output) for output in cell.outputs) for cell in cells]


def _text(output: Any) -> str:
    if output.output_type == "stream":
        return str(output.text)
    return str(output.data.get("text/markdown") or output.data.get("text/plain"))


def test_a_first_run_from_a_notebook(cluster: tuple[KfpServer, Path], tmp_path: Path) -> None:
    server, store = cluster
    shown = "\n".join(_executed("first_run", tmp_path))
    versions = TrainingStore(FolderStore(store), "first-run").versions()
    assert [version.version for version in versions] == ["v0", "v1", "v2"]
    assert versions[1].metrics["accuracy"] > 0.2, "of ten digits: more than by chance"
    assert f"v1 4 clients {versions[1].metrics}" in shown
    assert f"client-000000 {versions[1].accepted[0].num_examples}" in shown
    assert f"ended v2 {versions[2].metrics} rounds" in shown
    assert "version-model succeeded" in shown
    assert [run["state"] for run in server.runs()] == ["SUCCEEDED"] * 2
    assert server.runs()[1]["display_name"] == "first-run v2"


def test_runs_are_compared_in_a_notebook(cluster: tuple[KfpServer, Path], tmp_path: Path) -> None:
    _, store = cluster
    shown = "\n".join(_executed("compare_runs", tmp_path))
    ends = {name: TrainingStore(FolderStore(store), name).version() for name in ("one-epoch", "five-epochs")}
    for name, version in ends.items():
        assert f"| {name} | v1 | 4 |" in shown
        assert f"{version.metrics['accuracy']:.4f}" in shown
    assert "| local_epochs | 1 | 5 |" in shown
    better = max(ends, key=lambda name: ends[name].metrics["accuracy"])
    assert f"{better} {ends[better].metrics}" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_notebook_has_shown_is_not_kept(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_every_notebook_is_executed() -> None:
    assert {path.stem for path in NOTEBOOKS} == {"first_run", "compare_runs"}
