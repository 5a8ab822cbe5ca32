"""The rings are kept apart, and what keeps them apart notices when they are not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.compiled import ROOT

LINT = Path(sys.executable).with_name("lint-imports")

pytestmark = pytest.mark.skipif(not LINT.exists(), reason="import-linter is not installed")


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(LINT), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code, to break."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("fededge", "components", "pipelines"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def now() -> subprocess.CompletedProcess[str]:
    return _lint(ROOT)


def test_the_contracts_are_kept(now: subprocess.CompletedProcess[str]) -> None:
    assert now.returncode == 0, now.stdout + now.stderr
    assert "0 broken" in now.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("fededge/core/seeds.py", "import fededge.records"),
        ("fededge/core/aggregation.py", "import fededge.store.port"),
        ("fededge/core/cohorts.py", "import tensorflow"),
        ("fededge/core/tensors.py", "import minio"),
        ("fededge/core/updates.py", "def later():\n    import kfp"),
        ("fededge/core/updates.py", "from fededge import events"),
        ("fededge/core/placement.py", "import fededge.cluster.devices"),
        ("fededge/core/robust.py", "def later():\n    import torch"),
        ("fededge/core/statistics.py", "from sklearn import metrics"),
        ("fededge/core/placement.py", "import kubernetes"),
        ("fededge/cluster/nodes.py", "import kfp"),
        ("fededge/cluster/devices.py", "import fededge.cli.output"),
        ("fededge/steps/train_clients.py", "import kfp"),
        ("fededge/steps/train_clients.py", "def later():\n    from kfp import dsl"),
        ("fededge/store/folder.py", "import fededge.kubeflow.rounds"),
        ("fededge/store/trainings.py", "import fededge.environments"),
        ("fededge/workloads/digits.py", "import fededge.cli"),
        ("fededge/learners/alone.py", "import fededge.workloads"),
        ("fededge/monitoring/phases.py", "import fededge.learners"),
        ("fededge/kubeflow/driver.py", "import fededge.simulation.rounds"),
        ("fededge/steps/running.py", "import fededge.environments"),
        ("fededge/a_newcomer.py", "import fededge.errors"),
        ("fededge/learners/keras.py", "import kfp"),
        ("fededge/monitoring/send.py", "def later():\n    import kfp"),
        ("fededge/settings.py", "import kfp"),
        ("fededge/simulation/rounds.py", "import kfp"),
        ("fededge/rollout/rollout.py", "import kfp"),
        ("fededge/serving/served.py", "import fededge.rollout.server"),
        ("fededge/serving/process.py", "import fededge.steps.running"),
        ("fededge/run_folder.py", "import fededge.kubeflow.local"),
        ("fededge/registry/scans.py", "import fededge.kubeflow.yaml_file"),
        ("components/train_clients.py", "import tensorflow"),
        ("components/aggregate_updates.py", "import tensorflow_federated"),
        ("pipelines/fl_round.py", "import torch"),
        ("pipelines/train_on_device.py", "from sklearn import linear_model"),
    ],
)
def test_an_import_across_the_rings_breaks_a_contract(
    tree: Path, now: subprocess.CompletedProcess[str], module: str, line: str
) -> None:
    with (tree / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = _lint(tree)
    assert done.returncode == 1, done.stdout + done.stderr
    assert _broken(done.stdout) - _broken(now.stdout)


def _broken(output: str) -> set[str]:
    """Name the contracts that do not hold, and the imports that break them."""
    return {line.strip() for line in output.splitlines() if "BROKEN" in line or " -> " in line}
