"""Tables that repeat the code say what the code says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from fededge import errors
from fededge.core.updates import ExclusionReason
from fededge.errors import FedEdgeError
from fededge.settings import FanOut
from fededge.store import keys
from tests.docs.pages import ROOT

DOCS = ROOT / "docs"
_ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)


def _rows(page: Path, heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    section = page.read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in row.split(" | ")] for row in _ROW.findall(section)][1:]


def test_the_inputs_are_those_of_the_pipelines() -> None:
    inputs = {}
    for name in ("fl_training", "fl_round"):
        text = (ROOT / "pipelines" / "compiled" / f"{name}.yaml").read_text()
        spec = next(yaml.load_all(text, yaml.CSafeLoader))
        inputs[name] = spec["root"]["inputDefinitions"]["parameters"]
    rows = _rows(DOCS / "on-kubeflow.md", "## The pipeline")
    assert {name.strip("`") for name, *_ in rows} == inputs["fl_training"].keys()
    for name, cell, description in rows:
        definition = inputs["fl_round"][name.strip("`")]
        shown = "" if cell == "empty" else cell.strip("`")
        default = definition["defaultValue"]
        assert shown == str(default).lower() if isinstance(default, bool) else type(default)(shown) == default, name
        assert description == definition["description"]


def test_the_inputs_of_the_fan_out_are_those_of_its_pipelines() -> None:
    text = (ROOT / "pipelines" / "compiled" / "fl_round_job.yaml").read_text()
    inputs = next(yaml.load_all(text, yaml.CSafeLoader))["root"]["inputDefinitions"]["parameters"]
    rows = _rows(DOCS / "jobs.md", "## The pipelines")
    assert [row[0].strip("`") for row in rows] == list(FanOut.model_fields)
    for name, default, description in rows:
        definition = inputs[name.strip("`")]
        assert type(definition["defaultValue"])(default.strip("`")) == definition["defaultValue"]
        assert description == definition["description"]


def test_where_the_manifests_name_the_namespace_of_kubeflow_pipelines() -> None:
    """Each place is in the table of what to change where it is another one."""
    named = re.compile(r"^(?!\s*#).*(?:[Nn]amespace|metadata\.name): kubeflow\b|^\s*- kubeflow/", re.MULTILINE)
    files = {path for path in (ROOT / "manifests").rglob("*.yaml") if named.search(path.read_text())}
    table = (
        (DOCS / "install.md").read_text().partition("in another namespace than `kubeflow`")[2].partition("\n\n## ")[0]
    )
    linked = {(DOCS / link).resolve() for link in re.findall(r"\((\.\./manifests/[^)]+)\)", table)}
    assert linked == files
    policies = {
        policy["metadata"]["name"]
        for policy in yaml.safe_load_all((ROOT / "manifests" / "base" / "network.yaml").read_text())
        if "kubernetes.io/metadata.name': 'kubeflow'" in str(policy)
    }
    assert policies == set(re.findall(r"policy `(fededge-\w+)`", table))


def test_exit_codes_are_those_of_the_errors() -> None:
    rows = _rows(DOCS / "troubleshooting.md", "## Exit codes")
    table = {name: int(row[0].split(",")[0]) for row in rows for name in re.findall(r"`(\w+Error)`", row[-1])}
    for name, code in table.items():
        assert getattr(errors, name).exit_code == code
    every = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedEdgeError)
    }
    assert {int(code) for row in rows for code in row[0].split(",")} == {0, 130, 143} | every


def test_reasons_of_exclusion_are_all_there() -> None:
    rows = _rows(DOCS / "troubleshooting.md", "## Why a client was left out")
    assert [row[0].strip("`") for row in rows] == [reason.value for reason in ExclusionReason]


def _said() -> str:
    """Return every text of the package; `…` stands for what is put in when it is told."""
    texts = []
    for path in sorted((ROOT / "fededge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"\{\w+\}", "…", node.value))
    return "\n".join(texts)


@pytest.fixture(scope="module")
def said() -> str:
    return _said()


@pytest.mark.parametrize(
    "heading", ["## What was asked for (2)", "## Something is missing (3)", "## The store (4)", "## The round (5)"]
)
def test_messages_are_the_codes(said: str, heading: str) -> None:
    rows = _rows(DOCS / "troubleshooting.md", heading)
    assert rows
    for message, _ in rows:
        pattern = ".*".join(re.escape(part) for part in message.strip("`").split("…"))
        assert re.search(pattern, said), message


def test_the_top_of_keys_lists_what_the_store_page_lists() -> None:
    listed = set(re.findall(r"(\w+)\.json", keys.__doc__ or ""))
    assert set(re.findall(r"(\w+)\.json", (DOCS / "store.md").read_text().partition("## Keys")[2])) == listed
