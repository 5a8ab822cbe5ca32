"""The rules and the dashboard of the manifests, in a real Prometheus and its own promtool."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from fededge.monitoring import send
from fededge.monitoring.exporter import main, parse_address
from fededge.monitoring.metrics import METRICS, STORE_UP
from fededge.store import Store
from tests.conftest import REPOSITORY
from tests.contract import builds
from tests.monitoring import programs
from tests.monitoring.programs import ask, promtool
from tests.monitoring.rounds import fail_quorum, publish

FOLDER = REPOSITORY / "manifests" / "components" / "monitoring"
CASES = Path(__file__).with_name("alerts.yaml")
Rules = dict[str, Any]

_NAMES = re.compile(r"\b(?:fededge|push)_\w+")
OWN = {metric.name for metric in (*METRICS, STORE_UP)}
OF_THE_PUSHGATEWAY = {"push_time_seconds", "push_failure_time_seconds"}


def _spec() -> Rules:
    spec: Rules = yaml.safe_load((FOLDER / "rules.yaml").read_text())["spec"]
    return spec


@pytest.fixture
def rules() -> Rules:
    return _spec()


@pytest.fixture(scope="module")
def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    found: list[dict[str, Any]] = dashboard["panels"]
    return found


def _alerts(rules: Rules) -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}


def test_the_rules_are_rules(rules: Rules, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml"))


def test_each_alert_fires_and_does_not(rules: Rules, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    (tmp_path / "alerts.yaml").write_text(CASES.read_text())
    assert "SUCCESS" in promtool("test", "rules", str(tmp_path / "alerts.yaml"))


def test_no_alert_is_untried(rules: Rules) -> None:
    tried = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    for fires in (True, False):
        assert {case["alertname"] for case in tried if bool(case["exp_alerts"]) == fires} == _alerts(rules).keys()


def test_a_wrong_rule_does_not_pass(rules: Rules, tmp_path: Path) -> None:
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = rule["expr"].replace("0.2", "0.4")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    (tmp_path / "alerts.yaml").write_text(CASES.read_text())
    with pytest.raises(AssertionError, match="FedEdgeManyRefused"):
        promtool("test", "rules", str(tmp_path / "alerts.yaml"))


def test_what_the_rules_and_panels_name_is_what_the_code_makes(panels: list[dict[str, Any]]) -> None:
    text = json.dumps([_spec(), panels]) + (FOLDER / "dashboard.json").read_text()
    assert set(_NAMES.findall(text)) <= OWN | OF_THE_PUSHGATEWAY


def test_the_dashboard_shows_each_metric_of_a_round(panels: list[dict[str, Any]]) -> None:
    shown = set(_NAMES.findall(json.dumps(panels)))
    # The version's number is shown, and the others are in alerts.
    assert OWN - shown <= {"fededge_round_number", "fededge_interval_seconds", STORE_UP.name}


def test_each_panel_and_rule_has_an_answer_in_a_real_prometheus(
    store: Store, tmp_path: Path, gateway: str, monkeypatch: pytest.MonkeyPatch, panels: list[dict[str, Any]],
    rules: Rules,
) -> None:  # fmt: skip
    monkeypatch.setenv(send.GATEWAY, gateway)
    publish(store, tmp_path)
    fail_quorum(store)
    fail_quorum(store, interval_s=1)
    with programs.prometheus(tmp_path, gateway, rules) as url:
        _wait_for(url, 'ALERTS{alertname="FedEdgeRoundFailsRepeatedly"}')
        _wait_for(url, 'ALERTS{alertname="FedEdgeNoNewVersion"}')
        for panel in panels:
            query = re.sub(r"\$(namespace|training)\b", ".*", panel["targets"][0]["expr"])
            assert ask(url, query), panel["title"]
            assert set(re.findall(r"{{(\w+)}}", panel["targets"][0]["legendFormat"])) <= _labels(ask(url, query))
        firing = {found["metric"]["alertname"] for found in ask(url, 'ALERTS{training="tiny"}')}
        of_rounds = {"FedEdgeManyRefused", "FedEdgeQuorumFailed", "FedEdgeRoundFailsRepeatedly"}
        assert firing == {"FedEdgeNoNewVersion", *of_rounds}
        assert not ask(url, 'ALERTS{training="digits"}')  # as old, and on no schedule
        assert {found["metric"]["job"] for found in ask(url, "fededge_version_number")} == {send.JOB}


def _labels(found: list[dict[str, Any]]) -> set[str]:
    return {label for one in found for label in one["metric"]}


def _wait_for(url: str, query: str) -> None:
    until = time.monotonic() + 30
    while not ask(url, query):
        assert time.monotonic() < until, f"no {query}"
        time.sleep(0.2)


def test_in_a_mesh_prometheus_still_reads_both(monkeypatch: pytest.MonkeyPatch) -> None:
    order = ("components/monitoring/exporter", "components/minio", "components/istio", "components/monitoring")
    monkeypatch.setitem(builds.TOGETHER, "watched", order)
    pods = {
        document["metadata"]["name"]: document["spec"]["template"]["metadata"]
        for document in builds.build("watched")
        if document["kind"] == "Deployment"
    }
    assert pods["fededge-pushgateway"]["labels"]["sidecar.istio.io/inject"] == "false"
    exporter = pods["fededge-exporter"]
    assert exporter["labels"]["sidecar.istio.io/inject"] == "true"
    assert exporter["annotations"]["traffic.sidecar.istio.io/excludeInboundPorts"] == "9100"


def test_runs_are_told_where_to_push() -> None:
    built = builds.build("components/monitoring")
    found = {(document["kind"], document["metadata"]["name"]): document for document in built}
    url = found["ConfigMap", "fededge"]["data"][send.GATEWAY]
    service = found["Service", "fededge-pushgateway"]
    assert url == f"http://fededge-pushgateway:{service['spec']['ports'][0]['port']}"
    pod = found["Deployment", "fededge-pushgateway"]["spec"]["template"]
    monitor = found["ServiceMonitor", "fededge-pushgateway"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert json.loads(found["ConfigMap", "fededge-dashboard"]["data"]["fededge.json"])["uid"] == "fededge"


def test_the_exporter_is_found_by_its_monitor() -> None:
    found = {document["kind"]: document for document in builds.build("components/monitoring/exporter")}
    pod, monitor = found["Deployment"]["spec"]["template"], found["PodMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    assert {port["name"] for port in container["ports"]} == {monitor["podMetricsEndpoints"][0]["port"]}
    host, port = parse_address(container["command"][-1])
    assert container["command"][1:3] == ["-m", main.__module__]
    assert (host, port) == ("0.0.0.0", container["ports"][0]["containerPort"])


def test_the_dashboard_is_as_grafanas_sidecar_looks_for_it() -> None:
    (made,) = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["configMapGenerator"]
    assert made["options"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    assert dashboard["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
