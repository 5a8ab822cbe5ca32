from __future__ import annotations

import json
from pathlib import Path

from fededge.core.updates import ExclusionReason
from fededge.records import AttemptRef
from fededge.store.trainings import TrainingStore
from tests.pipeline.conftest import fededge, store_in

DEVICES = [
    {"name": "one", "clients": ["p0", "p14"], "claim": "data-of-one"},
    {"name": "two", "clients": ["p7"], "claim": "data-of-two", "ready": False, "why_not": "is in repair"},
]


def test_a_run_by_a_file_of_devices(tiny: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "devices.json").write_text(json.dumps(DEVICES))
    done = fededge(tmp_path, "run", *tiny, "--rounds", "1", "--devices", "devices.json", "--json")
    assert done.json["version"] == "v1"
    assert "2 devices, 1 of them ready; claims do not count here" in done.err
    trainings = TrainingStore(store_in(tmp_path), "tiny")
    plan = trainings.attempt(AttemptRef(training="tiny", version="v1", number=1))
    assert plan.batches == {"b000": ["p0", "p14"], "b001": ["p21"]}
    (left_out,) = trainings.version().excluded
    assert (left_out.client, left_out.reason) == ("p7", ExclusionReason.DEVICE_UNAVAILABLE)
    assert left_out.detail == "device two is in repair"
