"""A training whose store is a real S3 server, credentials from the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from fededge.store import open_store
from fededge.store.trainings import TrainingStore
from tests.pipeline.conftest import fededge

pytestmark = pytest.mark.s3


def test_a_training_lives_in_s3(s3: str, tmp_path: Path) -> None:
    first = fededge(tmp_path, "run", "--store", s3, "--rounds", "1", "--json").json
    second = fededge(tmp_path, "run", "--store", s3, "--rounds", "1", "--json").json
    assert (first["version"], second["version"]) == ("v1", "v2")
    assert second["metrics"]["accuracy"] > 0.8
    assert not (tmp_path / ".fededge" / "store").exists()
    trainings = TrainingStore(open_store(s3), "digits")
    assert [version.version for version in trainings.lineage("v2")] == ["v2", "v1", "v0"]


def test_wrong_credentials_are_one_line(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not the secret")
    done = fededge(tmp_path, "run", "--store", s3)
    assert done.code == 4
    assert done.err.splitlines()[-1].startswith("error: ")
    assert "AWS_SECRET_ACCESS_KEY" in done.err
    assert "Traceback" not in done.err
