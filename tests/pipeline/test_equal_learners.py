"""The same model, trained in three libraries from one start, through the compiled pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fededge.store.blobs import get_tensors
from fededge.store.trainings import TrainingStore
from tests.pipeline.conftest import fededge, store_in
from tests.pipeline.linear.linear import as_matrix

PACKAGE = Path(__file__).parent / "linear"
# Full-batch gradient descent.
HOW = ("--rounds", "2", "--clients", "3", "--local-epochs", "4", "--batch-size", "1000000", "--client-momentum", "0")
LIBRARIES = {"tensorflow": "keras", "torch": "torch", "sklearn": "sklearn"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each library has trained two rounds."""
    made = {}
    for library, name in LIBRARIES.items():
        made[library] = tmp_path_factory.mktemp(library)
        done = fededge(
            made[library], "run", "linear", "--workload", f"linear:{name}", "--library", library,
            "--with", str(PACKAGE), "--json", *HOW,
        )  # fmt: skip
        assert done.json["version"] == "v2"
    return made


def model(folder: Path) -> np.ndarray:
    trainings = TrainingStore(store_in(folder), "linear")
    return np.asarray(as_matrix(get_tensors(trainings.store, trainings.version("v2").model)), np.float32)


@pytest.mark.parametrize("library", ["torch", "sklearn"])
def test_two_rounds_agree(library: str, folders: dict[str, Path]) -> None:
    keras = model(folders["tensorflow"])
    assert np.abs(keras).max() > 0.01
    np.testing.assert_allclose(model(folders[library]), keras, atol=1e-5)


@pytest.mark.parametrize(("library", "suffix"), [("tensorflow", "keras"), ("torch", "pt2"), ("sklearn", "skops")])
def test_each_is_exported_in_its_own_form(library: str, suffix: str, folders: dict[str, Path]) -> None:
    done = fededge(folders[library], "versions", "export", "linear", "--with", str(PACKAGE))
    assert done.code == 0, done.err
    assert (folders[library] / f"linear-v2.{suffix}").stat().st_size > 1000
    other = fededge(folders[library], "versions", "export", "linear", "--to", "model.pickle")
    assert (other.code, other.err.count("\n")) == (2, 1)
    assert f".{suffix} or .safetensors" in other.err


def test_a_version_is_measured_on_each_client(folders: dict[str, Path]) -> None:
    said = fededge(folders["sklearn"], "evaluate", "linear", "--with", str(PACKAGE), "--json").json
    assert [score["client"] for score in said["clients"]] == [f"client-{i:06d}" for i in range(3)]
    total = sum(score["examples"] for score in said["clients"])
    right = sum(score["examples"] * score["metrics"]["accuracy"] for score in said["clients"])
    assert total == 360
    assert said["official"]["accuracy"] == pytest.approx(right / total)
    assert said["cold"] == {}
    none = fededge(folders["sklearn"], "evaluate", "linear", "--with", str(PACKAGE), "--cold")
    assert (none.code, none.err.splitlines()[-1]) == (
        2,
        "error: there is no cold client with held-out examples in the data",
    )
