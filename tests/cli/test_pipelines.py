from __future__ import annotations

from pathlib import Path

import pytest

from fededge.errors import InputError
from fededge.kubeflow.export import PIPELINES
from fededge.kubeflow.yaml_file import images, read_pipeline
from fededge.shipped import pipeline_names
from tests.cli.command import Command


def test_help_lists_every_pipeline(fededge: Command) -> None:
    assert sorted(PIPELINES) == pipeline_names()
    said = fededge.works("pipelines", "export", "--help")
    assert [name for name in PIPELINES if name not in said] == []


def test_the_registry_may_be_in_a_variable(fededge: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for the other commands that write a pipeline."""
    monkeypatch.setenv("FEDEDGE_REGISTRY", "harbor.example.org/fl")
    fededge.works("pipelines", "export", "fl_round")
    (image,) = images(read_pipeline(Path("fl_round.yaml")))
    assert image.startswith("harbor.example.org/fl/fededge-tensorflow:")


@pytest.mark.parametrize("registry", ["harbor.example.org/FedEdge", "harbour", "https://harbor.example.org"])
def test_what_is_no_registry(fededge: Command, registry: str) -> None:
    assert "is no registry, as" in fededge.fails(InputError.exit_code, "pipelines", "export", "--registry", registry)
