from __future__ import annotations

import json
from pathlib import Path

import pytest

from fededge.cluster import api
from tests.cli.command import Command
from tests.cluster.api_server import ApiServer
from tests.cluster.made import device, node, pod
from tests.cluster.test_devices import GOOD


@pytest.fixture
def factory(api_server: ApiServer, kubeconfig: Path) -> ApiServer:
    """A cluster with two devices, one of which is cordoned, and a node that is none."""
    api_server.put(device("edge-1", "c1", "c2", version="v1.31.2+k3s1", labels={"site": "north"}))
    api_server.put(device("edge-2", "c3", unschedulable=True))
    api_server.put(node("server"))
    api_server.put(pod("p", "edge-1", {"cpu": "1500m", "memory": "2Gi"}))
    return api_server


def test_lists_devices_and_why_one_cannot_train(fededge: Command, factory: ApiServer) -> None:
    shown = fededge.works("devices")
    first, second = (next(line for line in shown.splitlines() if name in line) for name in ("edge-1", "edge-2"))
    for part in ("K3s amd64", " 2 ", "data-edge-1", "2.5", "6.0", "ready"):
        assert part in first
    for part in ("amd64", "data-edge-2", "4.0", "8.0", "is cordoned"):
        assert part in second
    assert "server" not in shown
    assert shown.endswith("2 devices with 3 clients, 1 of them ready\n")


def test_shows_who_is_of_another_architecture_than_the_image(
    fededge: Command, factory: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory.put(device("edge-1", "c1", "c2", architecture="arm64"))
    shown = " ".join(fededge.works("devices").split())
    assert "is arm64, and the clients' image is for amd64: FEDEDGE_ARCHITECTURES names those of an image" in shown
    assert shown.endswith("2 devices with 3 clients, 0 of them ready")
    monkeypatch.setenv("FEDEDGE_ARCHITECTURES", "amd64,arm64")
    assert fededge.works("devices").endswith("2 devices with 3 clients, 1 of them ready\n")


def test_what_json_says_can_be_read_again(fededge: Command, factory: ApiServer, tmp_path: Path) -> None:
    shown = fededge.works("devices", "--json")
    first, second = json.loads(shown)
    assert (first["clients"], first["cpu_free"], first["memory_free"]) == (["c1", "c2"], 2.5, 6 * 2**30)
    assert (second["ready"], second["why_not"][:11]) == (False, "is cordoned")
    (tmp_path / "kept.json").write_text(shown)
    factory.token = "nobody is asked any more"
    assert fededge.works("devices", "--json", "--from", str(tmp_path / "kept.json")) == shown


def test_json_has_what_the_node_says(fededge: Command, factory: ApiServer) -> None:
    taints = [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]
    factory.put(device("edge-2", "c3", taints=taints, labels={"node-role.kubernetes.io/edge": ""}))
    _, second = json.loads(fededge.works("devices", "--json"))
    assert second["labels"]["node-role.kubernetes.io/edge"] == ""
    assert (second["system"], second["taints"]) == ("KubeEdge", ["gpu=yes:NoSchedule"])
    assert second["conditions"]["Ready"] == "True"
    assert second["why_not"].startswith("has the taint gpu=yes:NoSchedule")


def test_all_nodes(fededge: Command, factory: ApiServer) -> None:
    shown = fededge.works("devices", "--all")
    assert "is no device: `kubectl label node server fededge.io/device=`" in " ".join(shown.split())
    assert shown.endswith("2 devices with 3 clients, 1 of them ready; nodes that are none: 1\n")
    assert [one["name"] for one in json.loads(fededge.works("devices", "--all", "--json"))] == [
        "edge-1",
        "edge-2",
        "server",
    ]
    assert "there is no node with site=south" in fededge("devices", "--all", "-l", "site=south").err


def test_only_some(fededge: Command, factory: ApiServer) -> None:
    shown = fededge.works("devices", "--selector", "site=north", "--context", "tests")
    assert "edge-1" in shown
    assert "edge-2" not in shown


def test_from_a_config_map(fededge: Command, factory: ApiServer) -> None:
    data = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours", "namespace": "default"}}
    factory.put({**data, "data": {"devices.yaml": GOOD}})
    shown = fededge.works("devices", "--from", "configmap:ours", "-n", "default")
    assert "gateway-7" in shown
    assert "is in repair" in shown
    assert "no ConfigMap ours in fededge" in fededge.fails(2, "devices", "--from", "configmap:ours")


def test_no_device_says_how_to_make_one(fededge: Command, api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(node("server"))
    done = fededge("devices")
    assert (done.code, done.out) == (0, "")
    for part in ("no node has the label fededge.io/device", "`kubectl label node NODE fededge.io/device=`"):
        assert part in done.err
    done = fededge("devices", "--json", "-l", "site=north")
    assert (done.code, json.loads(done.out)) == (0, [])
    assert "among those with site=north" in done.err


def test_a_file_with_no_devices(fededge: Command, tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("[]")
    done = fededge("devices", "--from", str(tmp_path / "none.json"))
    assert (done.code, done.err) == (0, f"{tmp_path / 'none.json'} names no devices\n")


def test_what_is_free_is_not_known_without_the_right_to_list_pods(fededge: Command, factory: ApiServer) -> None:
    factory.forbid("list", "pods")
    done = fededge("devices")
    assert done.code == 0
    assert "what is free on the nodes is not known" in done.err
    assert " ? " in done.out


def test_a_cluster_that_refuses(fededge: Command, factory: ApiServer) -> None:
    factory.forbid("list", "nodes")
    assert "manifests/components/devices grants it" in fededge.fails(6, "devices")
    factory.token = "another"
    assert "refuses the login (401)" in fededge.fails(6, "devices")
    assert "no context no-such" in fededge.fails(3, "devices", "--context", "no-such")


def test_a_cluster_that_does_not_answer(fededge: Command, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "HURRY", 0.5)
    assert "does not answer" in fededge.fails(6, "devices", "--context", "elsewhere")


def test_no_cluster_at_all(fededge: Command) -> None:
    assert "set KUBECONFIG" in fededge.fails(3, "devices")


@pytest.mark.parametrize("text", ["- {name: A}", "- {", "nonsense"])
def test_a_file_that_is_wrong(fededge: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "devices.yaml").write_text(text)
    assert "devices.yaml" in fededge.fails(2, "devices", "--from", str(tmp_path / "devices.yaml"))


def test_run_looks_into_the_file_before_it_begins(fededge: Command, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "devices.yaml").write_text("- {name: A}")
    command = ("run", "--store", str(folder), "--devices")
    assert "must be a DNS label" in fededge.fails(2, *command, str(tmp_path / "devices.yaml"))
    assert "cannot be read" in fededge.fails(2, *command, str(tmp_path / "none.yaml"))
    assert not folder.exists()
