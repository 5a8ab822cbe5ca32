from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fededge.cluster.api import Cluster, connect
from fededge.cluster.devices import LABEL, Device, find_devices, homes_of, image_architectures
from fededge.cluster.nodes import EDGE
from fededge.errors import ClusterError, InputError
from fededge.settings import Placement
from tests.cluster.api_server import ApiServer
from tests.cluster.made import CONDITIONS, device, fill, node, pod

GOOD = """
- name: gateway-7
  node: gateway-7.example.org
  clients: [building-12, building-13]
  claim: data-of-gateway-7
  cpu_free: 1500m
  memory_free: 2Gi
- name: gateway-8
  clients: [building-14]
  claim: data-of-gateway-8
  ready: false
  why_not: is in repair
"""


def nodes(kubeconfig: Path) -> list[Device]:
    return find_devices("nodes", lambda: connect(patience=10))


def own_labels(name: str, architecture: str = "amd64") -> dict[str, str]:
    return {"kubernetes.io/hostname": name, "kubernetes.io/arch": architecture}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "devices.yaml"
    path.write_text(GOOD)
    return path


def test_a_device_is_a_node_with_the_label(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(
        device("edge-2", "c3", labels={"fededge.io/tier": "small"}, architecture="arm64", version="v1.31.2+k3s1")
    )
    api_server.put(device("edge-1", "c1", "c2", labels={"fededge.io/device": "gateway"}))
    api_server.put(node("server"))
    api_server.put(pod("p", "edge-2", {"cpu": "3500m", "memory": "7Gi"}))
    first, second = nodes(kubeconfig)
    assert first == Device(
        name="edge-2", node="edge-2", clients=["c3"], claim="data-edge-2", architecture="arm64", system="K3s",
        cpu_free=0.5, memory_free=2**30, tier="small",
        labels={"fededge.io/device": "", "fededge.io/tier": "small", **own_labels("edge-2", "arm64")},
        conditions={"Ready": "True", **dict.fromkeys(CONDITIONS, "False")},
    )  # fmt: skip
    assert (second.name, second.node, second.clients) == ("gateway", "edge-1", ["c1", "c2"])


def test_a_device_tells_what_its_node_says(api_server: ApiServer, kubeconfig: Path) -> None:
    taints = [{"key": EDGE, "effect": "NoSchedule"}, {"key": "gpu", "value": "yes", "effect": "PreferNoSchedule"}]
    labels = {EDGE: "", "node-role.kubernetes.io/agent": "", "site": "north"}
    api_server.put(device("a", "c1", labels=labels, taints=taints, conditions={"Ready": "Unknown"}))
    (found,) = nodes(kubeconfig)
    assert found.labels == {LABEL: "", **labels, **own_labels("a")}
    assert found.taints == ["node-role.kubernetes.io/edge:NoSchedule", "gpu=yes:PreferNoSchedule"]
    assert found.conditions == {"Ready": "Unknown", **dict.fromkeys(CONDITIONS, "False")}


def test_what_a_file_says_of_labels_taints_and_conditions_decides_nothing(file: Path) -> None:
    told = "labels: {site: north}, taints: ['gpu=yes:NoSchedule'], conditions: {Ready: Unknown}"
    file.write_text(f"- {{name: a, clients: [c], claim: d, {told}}}")
    (found,) = find_devices(str(file))
    assert (found.labels, found.lacks(Placement())) == ({"site": "north"}, "")


def every_node(kubeconfig: Path) -> list[Device]:
    return find_devices("nodes", lambda: connect(patience=10), others=True)


def test_nodes_that_are_no_devices_are_shown_on_request(
    api_server: ApiServer, kubeconfig: Path, tmp_path: Path
) -> None:
    api_server.put(device("b", "c1"))
    api_server.put(node("a.example.org", architecture="arm64", annotations={"fededge.io/clients": "c1"}))
    api_server.put(node("c", unschedulable=True))
    assert [one.name for one in nodes(kubeconfig)] == ["b"]
    first, second, third = every_node(kubeconfig)
    assert (first.name, first.node, first.ready, first.clients) == ("a-example-org", "a.example.org", False, [])
    assert first.why_not == "is no device: `kubectl label node a.example.org fededge.io/device=` makes it one"
    assert (first.architecture, first.cpu_free, first.conditions["Ready"]) == ("arm64", 4, "True")
    assert (second.ready, second.clients) == (True, ["c1"])
    assert "makes it one; is cordoned: " in third.why_not
    (tmp_path / "kept.json").write_text(json.dumps([one.model_dump() for one in (first, second, third)]))
    assert homes_of(find_devices(str(tmp_path / "kept.json"))) == {"c1": second}


def test_a_node_that_is_no_device_is_in_nobodys_way(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(device("a", "c1", labels={LABEL: "b"}))
    api_server.put(node("b"))
    api_server.put(node(f"{'long-' * 20}name"))
    assert [(one.name[:9], one.node[:9]) for one in every_node(kubeconfig)] == [
        ("b", "a"),
        ("b", "b"),
        ("long-long", "long-long"),
    ]


def test_files_have_no_others(file: Path) -> None:
    with pytest.raises(InputError, match="only among nodes"):
        find_devices(str(file), others=True)


def test_ten_thousand_nodes(api_server: ApiServer, kubeconfig: Path) -> None:
    fill(api_server, nodes=10_000, devices=5_000)
    begun = time.process_time()
    found = every_node(kubeconfig)
    assert time.process_time() - begun < 15  # of CPU, with that of the server; some 4 are usual
    assert (len(found), sum(one.ready for one in found)) == (10_000, 5_000)


def test_a_nodes_name_with_dots_becomes_a_devices(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(device("ip-10-0-0-1.example.org", "c1", claim="data"))
    (found,) = nodes(kubeconfig)
    assert (found.name, found.node) == ("ip-10-0-0-1-example-org", "ip-10-0-0-1.example.org")


def test_a_claim_can_be_a_label_and_clients_have_spaces_around(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(
        node(
            "a",
            labels={"fededge.io/device": "", "fededge.io/claim": "data"},
            annotations={"fededge.io/clients": " c1, c2,,c1 "},
        )
    )
    (found,) = nodes(kubeconfig)
    assert (found.claim, found.clients, found.ready) == ("data", ["c1", "c2"], True)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"unschedulable": True}, "is cordoned"),
        ({"conditions": {"Ready": "Unknown"}}, "is not Ready"),
        ({"annotations": {"fededge.io/claim": ""}}, "has no claim: `kubectl annotate node a fededge.io/claim=NAME`"),
        ({"allocatable": {"pods": "0"}}, "has as many pods as it may have"),
    ],
)
def test_a_device_that_cannot_train_says_why(
    api_server: ApiServer, kubeconfig: Path, changed: dict[str, Any], words: str
) -> None:
    api_server.put(device("a", "c1", **changed))
    api_server.put(device("b", "c2"))
    bad, good = nodes(kubeconfig)
    assert words in bad.why_not
    assert (bad.ready, good.ready) == (False, True)
    assert f"device a {words}" in bad.lacks(Placement())
    assert good.lacks(Placement()) == ""


@pytest.mark.parametrize(
    ("free", "asked", "words"),
    [
        ({"cpu_free": "0.4"}, {}, "has no room: 0.4 CPUs are free, 500m are requested"),
        ({"memory_free": "512Mi"}, {}, "bytes of memory are free, 1Gi are requested"),
        ({"cpu_free": "500m", "memory_free": "1Gi"}, {}, ""),
        ({"cpu_free": 8}, {"cpu_request": "9", "cpu_limit": "9"}, "8 CPUs are free, 9 are requested"),
        ({}, {"cpu_request": "99", "cpu_limit": "99"}, ""),
    ],
)
def test_room(free: dict[str, Any], asked: dict[str, str], words: str) -> None:
    lacks = Device.model_validate({"name": "a", **free}).lacks(Placement(**asked))
    assert words in lacks
    assert bool(words) == bool(lacks)


@pytest.mark.parametrize(
    ("architecture", "said", "words"),
    [
        ("arm64", "", "is arm64, and the clients' image is for amd64: FEDEDGE_ARCHITECTURES names those of an image"),
        ("arm64", "amd64, arm64", ""),
        ("amd64", "amd64,arm64", ""),
        ("amd64", "arm64", "is amd64, and the clients' image is for arm64"),
        ("arm", "amd64,arm64,", "is arm, and the clients' image is for amd64, arm64"),
        ("", "arm64", ""),
        ("amd64", " , ", ""),
    ],
)
def test_a_device_of_another_architecture_than_the_image(
    api_server: ApiServer,
    kubeconfig: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    said: str,
    words: str,
) -> None:
    monkeypatch.setenv("FEDEDGE_ARCHITECTURES", said)
    api_server.put(device("a", "c1", architecture=architecture))
    (found,) = nodes(kubeconfig)
    assert (found.architecture, found.ready) == (architecture, True)
    lacks = found.lacks(Placement(), image_architectures())
    assert lacks.startswith(f"device a {words}" if words else "")
    assert bool(lacks) == bool(words)


def test_the_images_are_for_amd64_unless_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDEDGE_ARCHITECTURES", raising=False)
    assert image_architectures() == ("amd64",)


def test_two_nodes_that_claim_one_client(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(device("a", "c1", "c2"))
    api_server.put(device("b", "c2"))
    with pytest.raises(InputError, match="the devices a and b both claim the client c2"):
        nodes(kubeconfig)


def test_two_nodes_of_one_name(api_server: ApiServer, kubeconfig: Path) -> None:
    api_server.put(device("a", labels={"fededge.io/device": "x"}))
    api_server.put(device("b", labels={"fededge.io/device": "x"}))
    with pytest.raises(InputError, match="two devices have the name x"):
        nodes(kubeconfig)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": {"fededge.io/device": "Gateway_7"}}, "name='Gateway_7': must be a DNS label"),
        ({"annotations": {"fededge.io/claim": "My.Claim"}}, "claim='My.Claim': must be a DNS label"),
    ],
)
def test_a_node_with_a_wrong_label(
    api_server: ApiServer, kubeconfig: Path, changed: dict[str, Any], words: str
) -> None:
    api_server.put(device("a", "c1", **changed))
    with pytest.raises(InputError) as caught:
        nodes(kubeconfig)
    assert f"node a: {words}" in str(caught.value)


def test_a_file(file: Path) -> None:
    first, second = find_devices(str(file))
    assert (first.cpu_free, first.memory_free, first.ready) == (1.5, 2 * 2**30, True)
    assert second.lacks(Placement()) == "device gateway-8 is in repair"
    assert {client: one.name for client, one in homes_of((first, second)).items()} == {
        "building-12": "gateway-7",
        "building-13": "gateway-7",
        "building-14": "gateway-8",
    }


def test_what_was_found_is_such_a_file(api_server: ApiServer, kubeconfig: Path, tmp_path: Path) -> None:
    api_server.put(device("a", "c1"))
    api_server.put(device("b", "c2", "c3", unschedulable=True, annotations={"fededge.io/claim": ""}))
    found = nodes(kubeconfig)
    for document in ([one.model_dump() for one in found], {"devices": [one.model_dump() for one in found]}):
        (tmp_path / "kept.json").write_text(json.dumps(document))
        assert find_devices(str(tmp_path / "kept.json")) == found


def test_a_config_map(api_server: ApiServer, cluster: Cluster, kubeconfig: Path) -> None:
    config: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}}
    api_server.put({**config, "data": {"devices.yaml": GOOD}})
    assert [one.name for one in find_devices("configmap:ours")] == ["gateway-7", "gateway-8"]
    api_server.put({**config, "data": {"devices.json": "[]"}})
    assert find_devices("configmap:ours") == []


def test_a_config_map_that_is_none(api_server: ApiServer, kubeconfig: Path) -> None:
    with pytest.raises(InputError, match=r"no ConfigMap ours in fededge: make it with `kubectl create configmap ours"):
        find_devices("configmap:ours")
    config: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ours"}}
    api_server.put({**config, "data": {"other.yaml": GOOD}})
    with pytest.raises(InputError, match=r"ConfigMap ours of fededge has no key devices\.yaml or devices\.json"):
        find_devices("configmap:ours")
    api_server.put({**config, "data": {"devices.yaml": "- name: A"}})
    with pytest.raises(InputError, match="ConfigMap ours of fededge, device 1: name='A': must be a DNS label"):
        find_devices("configmap:ours")
    api_server.forbid("get", "configmaps")
    with pytest.raises(ClusterError, match=r"get configmaps in the namespace .fededge."):
        find_devices("configmap:ours")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a list of devices"),
        ("just text", "must be a list of devices"),
        ("name: a", "must be a list of devices"),
        ("devices: []\nmore: 1", "must be a list of devices"),
        ("- {", "is neither YAML nor JSON"),
        ("- a", "device 1: Input should be"),
        ("- {}", "device 1: name: Field required"),
        ("- {name: a}\n- {name: a}", "two devices have the name a"),
        ("- {name: a.b}", "device 1: name='a.b': must be a DNS label"),
        (f"- {{name: {'a' * 64}}}", "must be a DNS label"),
        ("- {name: a, claim: Data}", "claim='Data': must be a DNS label"),
        ("- {name: a, colour: red}", "device 1: there is no field colour; there are name, node, clients, claim"),
        ("- {name: a, labels: [x]}", "labels=['x']"),
        ("- {name: a, taints: x}", "taints='x'"),
        ("- {name: a, cpu_free: lots}", "cpu_free='lots': 'lots' is no quantity of Kubernetes"),
        ("- {name: a, memory_free: -1}", "'-1' is no quantity"),
        ("- {name: a, memory_free: [1]}", "memory_free=[1]"),
        ("- {name: a, cpu_free: true}", "cpu_free=True"),
        ("- {name: a, clients: c1, claim: d}", "clients='c1'"),
        ("- {name: a, clients: [1], claim: d}", "clients.0=1"),
        ("- {name: a, clients: [c, c], claim: d}", "the client c is there twice"),
        ("- {name: a, clients: [c]}", "device a has clients, and no claim with their data"),
        (
            "- {name: a, clients: [c], claim: d}\n- {name: b, clients: [d, c], claim: e}",
            "the devices a and b both claim the client c",
        ),
    ],
)
def test_a_file_that_is_wrong(file: Path, text: str, words: str) -> None:
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        find_devices(str(file))
    message = str(caught.value)
    assert words in message
    assert message.startswith(str(file))
    assert "\n" not in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nods cannot be read .*neither `nodes` nor `configmap:NAME`"):
        find_devices(str(tmp_path / "nods"))
    (tmp_path / "picture").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="it is no text"):
        find_devices(str(tmp_path / "picture"))
