"""Takes one step's effect out of the compiled pipeline at a time: no such pipeline passes for a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fededge.errors import NotFoundError
from fededge.shipped import compiled_pipeline
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.pipeline.conftest import fededge, store_in

_PLAN = (
    "[{'batch': 'tiny/v1/1/1/b000', 'data_claim': 'a', 'cpu_request': '1', 'cpu_limit': '1', "
    "'memory_request': '1Gi', 'memory_limit': '1Gi'}]"
)
# For each step what it returns when it does nothing else.
STUBS = {
    "distribute_model": f"__import__('types').SimpleNamespace(attempt='tiny/v1/1/1', plan={_PLAN})",
    "train_clients": "{'batch': 'b000', 'delivered': 2, 'failed': 0}",
    "aggregate_updates": f"__import__('types').SimpleNamespace(model='sha256:{'0' * 64}', clients={{}})",
    "evaluate_model": "{'error': 0.0}",
    "version_model": "__import__('types').SimpleNamespace(version='v1', reference={})",
}


def trained(store: FolderStore) -> bool:
    """Whether the store holds a whole round that made the model better."""
    trainings = TrainingStore(store, "tiny")
    try:
        version = trainings.version()
        first = trainings.version("v0")
    except NotFoundError:
        return False
    return (
        (version.version, version.parent) == ("v1", "v0")
        and len(version.accepted) == 4
        and version.model != first.model
        and version.metrics["error"] < 3.0
    )


@pytest.mark.parametrize("step", [None, *STUBS])
def test_without_a_step_there_is_no_training(step: str | None, tiny: tuple[str, ...], tmp_path: Path) -> None:
    pipeline = tmp_path / "fl_round.yaml"
    pipeline.write_text(_without(step))
    (tmp_path / "random.py").write_text("raise SystemExit('a module of the folder was imported for the library')")
    done = fededge(tmp_path, "run", *tiny, "--pipeline", str(pipeline))
    passed = done.code == 0 and trained(store_in(tmp_path))
    assert passed == (step is None), done.err


def _without(step: str | None) -> str:
    documents = list(yaml.safe_load_all(compiled_pipeline("fl_round").read_text()))
    if step:
        container = documents[0]["deploymentSpec"]["executors"][f"exec-{step.replace('_', '-')}"]["container"]
        source = container["command"][-1]
        real = f"    from fededge.steps.{step} import {step} as step\n"
        assert real in source
        container["command"][-1] = source.replace(real, f"    step = lambda **arguments: {STUBS[step]}\n")
    return yaml.safe_dump_all(documents)
