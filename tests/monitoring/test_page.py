"""The page says what the code and the manifests have."""

from __future__ import annotations

import re
from urllib.request import Request, urlopen

import yaml

from fededge.events import Event
from fededge.monitoring import send
from fededge.monitoring.metrics import METRICS, STORE_UP, Outcome, WhyFailed
from fededge.monitoring.phases import PHASES
from tests.conftest import REPOSITORY
from tests.docs.test_tables import _rows
from tests.monitoring.programs import read

PAGE = REPOSITORY / "docs" / "monitoring.md"
RULES = REPOSITORY / "manifests" / "components" / "monitoring" / "rules.yaml"


def _tables(heading: str) -> list[list[str]]:
    """Return the cells of all tables below a heading."""
    section = PAGE.read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \|$", section, re.MULTILINE)
    return [[cell.replace("`", "") for cell in re.split(r" *\| *", row)] for row in rows]


def test_the_metrics_are_those_of_the_code() -> None:
    table = [row for row in _tables("## Metrics") if row[0].startswith("fededge_")]
    assert table == [
        [metric.name, "gauge", ", ".join(metric.labels), metric.unit, metric.help] for metric in (*METRICS, STORE_UP)
    ]


def test_the_values_of_labels_are_those_of_the_code() -> None:
    said = {row[0]: set(re.findall(r"[a-z_]+", row[1])) for row in _tables("## Metrics")}
    assert said["reason of failed attempts"] == set(WhyFailed)
    assert said["phase"] == set(PHASES)
    assert set(Outcome) <= said["outcome"]


def test_the_alerts_are_those_of_the_rules() -> None:
    rules = yaml.safe_load(RULES.read_text())["spec"]["groups"][0]["rules"]
    assert [row[0].strip("`") for row in _rows(PAGE, "## Alerts")] == [rule["alert"] for rule in rules]


def test_the_fields_of_a_line_are_those_of_the_code() -> None:
    fields = {name for row in _rows(PAGE, "## Logs") for name in re.findall(r"`(\w+)`", row[0])}
    assert fields - {"level", "message", "step", "run", "attempt", "traceback", "logger"} <= Event.model_fields.keys()


def test_a_training_is_removed_as_the_page_says(gateway: str) -> None:
    (path,) = re.findall(r"curl --request DELETE http://localhost:9091(\S+)", PAGE.read_text())
    send._push(gateway, "digits", [])
    assert 'push_time_seconds{instance="",job="fededge",training="digits"}' in read(gateway)
    with urlopen(Request(f"{gateway}{path}", method="DELETE")) as answer:
        assert answer.status == 202
    assert 'training="digits"' not in read(gateway)
