"""MNIST from the publisher's files, through the pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.conftest import fededge


def test_mnist_trains_from_the_data_folder(
    data: Path, tensorflow: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDEDGE_DATA", str(data))
    result = fededge(
        tmp_path, "run", "--workload", "mnist", "--clients", "40", "--clients-per-round", "4", "--clients-per-pod", "2",
        "--local-epochs", "1", "--rounds", "1", "--json",
    ).json  # fmt: skip
    assert result["version"] == "v1"
    assert result["metrics"]["accuracy"] > 0.2


def test_without_the_data_the_round_fails_and_says_so(
    tensorflow: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDEDGE_DATA", raising=False)
    done = fededge(tmp_path, "run", "--workload", "mnist", "--rounds", "1", "--clients", "2")
    assert done.code == 5
    assert "FEDEDGE_DATA" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
