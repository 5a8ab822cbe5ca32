"""The default training, as `make run` starts it, and one with Adam that was stopped and continued."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from fededge.environments import Environment
from fededge.settings import RoundSettings
from fededge.store.blobs import get_tensors
from tests.pipeline.conftest import Run, fededge

ROOT = Path(__file__).parents[2]


def test_default_training_reaches_its_accuracy(default: Run) -> None:
    result = default.outcomes[0].json
    assert result["metrics"]["accuracy"] >= 0.94
    assert result["version"] == "v5"
    assert [done["version"] for done in result["rounds"]] == ["v1", "v2", "v3", "v4", "v5"]
    assert all((done["delivered"], done["failed"]) == (10, 0) for done in result["rounds"])


def test_every_phase_of_every_round_is_timed(default: Run) -> None:
    for done in default.outcomes[0].json["rounds"]:
        assert done["seconds"].keys() == {"distribute", "train", "aggregate", "evaluate", "version"}


def test_what_people_look_at_is_kept(default: Run) -> None:
    result = default.outcomes[0].json
    curve = Path(result["learning_curve"]).read_text()
    assert re.findall(r"<tr><td>(\d)</td>", curve) == ["1", "2", "3", "4", "5"]
    assert "10 of 10 clients" in Path(result["report"]).read_text()
    assert "fl-training" in Path(result["log"]).read_text()


def test_model_artifacts_refer_to_versions(default: Run) -> None:
    outputs = Path(default.outcomes[0].json["log"]).parent / "outputs"
    references = [json.loads(path.read_text()) for path in outputs.glob("**/global_model")]
    versions = {v.version: v for v in default.trainings("digits").versions()}
    assert {reference["version"] for reference in references} == {"v1", "v2", "v3", "v4", "v5"}
    for reference in references:
        assert reference["digest"] == versions[reference["version"]].model
        assert reference["accuracy"] == versions[reference["version"]].metrics["accuracy"]


def test_lineage_goes_back_to_the_first_model(default: Run) -> None:
    lineage = list(default.trainings("digits").lineage("v5"))
    assert [v.version for v in lineage] == ["v5", "v4", "v3", "v2", "v1", "v0"]
    assert [v.round for v in lineage] == [5, 4, 3, 2, 1, 0]


def test_the_report_records_what_bits_depend_on(default: Run) -> None:
    runtime = default.trainings("digits").version().runtime
    assert runtime.threads == 1
    assert runtime.libraries.keys() == {"tensorflow", "tensorflow-federated", "numpy"}
    assert runtime.machine


@pytest.mark.parametrize(("name", "rounds"), [("digits", 5), ("adam", 3)])
def test_training_is_bit_for_bit_tff_in_one_process(
    default: Run, adam: Run, tensorflow: tuple[Environment, dict[str, str]], tmp_path: Path, name: str, rounds: int
) -> None:
    """Steps in processes of their own, files between them; Adam's also stopped after v2 and continued."""
    run = {"digits": default, "adam": adam}[name]
    trainings = run.trainings(name)
    settings = trainings.version().settings
    _reference(tensorflow, settings, rounds, tmp_path)
    for number in range(1, rounds + 1):
        ours = get_tensors(trainings.store, trainings.version(f"v{number}").model)
        theirs = safetensors.numpy.load_file(tmp_path / f"v{number}.safetensors")
        assert ours.keys() == theirs.keys()
        assert max(float(np.abs(ours[key] - theirs[key]).max()) for key in ours) == 0.0
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in ours)


def test_continued_training_has_the_rounds_of_one_that_never_stopped(adam: Run) -> None:
    assert [outcome.json["version"] for outcome in adam.outcomes] == ["v2", "v3"]
    assert [v.version for v in adam.trainings("adam").lineage("v3")] == ["v3", "v2", "v1", "v0"]


def test_exported_model_loads_without_fededge(
    default: Run, tensorflow: tuple[Environment, dict[str, str]], tmp_path: Path
) -> None:
    done = fededge(default.folder, "versions", "export", "digits", "v5", "--to", str(tmp_path / "digits.keras"))
    assert done.code == 0, done.err
    program = (
        "import sys, tensorflow as tf; from sklearn.datasets import load_digits\n"
        "digits = load_digits()\n"
        "model = tf.keras.models.load_model(sys.argv[1], compile=False)\n"
        "right = (model(digits.data.astype('float32') / 16).numpy().argmax(1) == digits.target).mean()\n"
        "assert 'fededge' not in sys.modules\n"
        "print(right)"
    )
    python = str(tensorflow[0].python)
    answer = subprocess.run(
        [python, "-c", program, str(tmp_path / "digits.keras")], capture_output=True, text=True, check=True
    )
    assert float(answer.stdout) >= 0.94


def test_rollback_and_new(default: Run) -> None:
    """The next training of the same name is refused other data; --new has a name of its own."""
    refused = fededge(default.folder, "run", "--rounds", "1", "--seed", "99")
    assert refused.code == 2
    assert "seed=0, not 99" in refused.err
    assert default.trainings("digits").version().version == "v5"


def _reference(tensorflow: tuple[Environment, dict[str, str]], settings: RoundSettings, rounds: int, out: Path) -> None:
    wanted, variables = tensorflow
    command = [
        str(wanted.python),
        "-m",
        "tests.pipeline.tff_reference",
        settings.model_dump_json(),
        str(rounds),
        str(out),
    ]
    path = os.pathsep.join([variables["PYTHONPATH"], str(ROOT)])
    done = subprocess.run(
        command, env={**os.environ, **variables, "PYTHONPATH": path}, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
