"""The server of these tests answers the real client as Kubernetes does, where what is tested with it relies on that."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
from kubernetes import watch
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from fededge.cluster.api import Cluster
from tests.cluster.api_server import ApiServer
from tests.cluster.made import container, device, node, pod
from tests.cluster.test_api import JOB

INDEXED = {
    "completions": 3,
    "completionMode": "Indexed",
    "backoffLimitPerIndex": 1,
    "maxFailedIndexes": 2,
    "podFailurePolicy": {"rules": [{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [42]}}]},
}
WORKFLOWS = ("argoproj.io", "v1alpha1", "fededge", "workflows")


def job(name: str = "work", **spec: Any) -> dict[str, Any]:
    made = copy.deepcopy(JOB)
    made["metadata"]["name"] = name
    made["spec"].update(copy.deepcopy(spec))
    return made


def create(cluster: Cluster, document: dict[str, Any]) -> Any:
    return cluster.batch.create_namespaced_job("fededge", document)


def owned(name: str, uid: str) -> dict[str, Any]:
    made = pod(name, "a", {"cpu": "1"}, namespace="fededge")
    made["metadata"]["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": "work", "uid": uid}]
    return made


def refused(status: int, *words: str) -> Any:
    def is_it(error: BaseException) -> bool:
        return isinstance(error, ApiException) and error.status == status and all(word in error.body for word in words)

    return pytest.raises(ApiException, check=is_it)


@pytest.mark.parametrize("document", [node("a", taints=[{"key": "x", "effect": "NoSchedule"}]), device("a", "c1")])
def test_the_nodes_of_these_tests_are_such_as_kubernetes_has(cluster: Cluster, document: dict[str, Any]) -> None:
    assert cluster.core.create_node(document).metadata.name == "a"
    assert cluster.core.patch_node_status("a", {"status": document["status"]}).status.node_info.architecture == "amd64"


def test_the_pods_of_these_tests_are_such_as_kubernetes_has(cluster: Cluster) -> None:
    sidecar = container("s", {"cpu": "1"}, restartPolicy="Always")
    document = pod("p", "a", {"cpu": "500m"}, initContainers=[sidecar], overhead={"cpu": "1"}, namespace="fededge")
    document["spec"]["resources"] = {"requests": {"cpu": "2"}}
    assert cluster.core.create_namespaced_pod("fededge", document).status.phase == "Pending"


def test_fills_in_what_kubernetes_fills_in(cluster: Cluster) -> None:
    made = create(cluster, job(**INDEXED))
    assert made.spec.selector.match_labels == {"batch.kubernetes.io/controller-uid": made.metadata.uid}
    assert made.spec.template.metadata.labels["job-name"] == "work"
    assert (made.spec.parallelism, made.spec.backoff_limit, made.spec.suspend) == (1, 2147483647, False)
    assert (made.metadata.generation, made.metadata.namespace) == (1, "fededge")


@pytest.mark.parametrize(
    ("spec", "status", "word"),
    [
        ({"completion": 3}, 400, "completion"),
        ({"completions": "3"}, 400, "spec.completions"),
        ({"backoffLimitPerIndex": 1}, 422, "requires indexed"),
        ({**INDEXED, "maxFailedIndexes": 4}, 422, "maxFailedIndexes"),
        ({"maxFailedIndexes": 4, "completionMode": "Indexed", "completions": 5}, 422, "backoffLimitPerIndex"),
        ({"successPolicy": {"rules": [{"succeededCount": 1}]}}, 422, "successPolicy"),
        ({"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}, 422, "restartPolicy"),
    ],
)
def test_refuses_a_wrong_job(cluster: Cluster, spec: dict[str, Any], status: int, word: str) -> None:
    with refused(status, word):
        create(cluster, job(**spec))


@pytest.mark.parametrize("name", ["Work", "work_1", "w" * 64, "-work"])
def test_refuses_a_wrong_name(cluster: Cluster, name: str) -> None:
    with refused(422, "metadata.name"):
        create(cluster, job(name))


def test_refuses_another_namespace_and_one_that_is_not_there(cluster: Cluster) -> None:
    document = job()
    document["metadata"]["namespace"] = "elsewhere"
    with refused(400, "namespace"):
        create(cluster, document)
    with refused(404, "namespaces"):
        cluster.batch.create_namespaced_job("elsewhere", job())


def test_a_jobs_template_cannot_be_changed_and_its_parallelism_can(cluster: Cluster) -> None:
    create(cluster, job())
    changed = cluster.batch.patch_namespaced_job("work", "fededge", {"spec": {"parallelism": 3}})
    assert (changed.spec.parallelism, changed.metadata.generation) == (3, 2)
    with refused(422, "immutable"):
        cluster.batch.patch_namespaced_job("work", "fededge", {"spec": {"completions": 3}})


def test_the_second_of_two_writers_gets_a_conflict(api_server: ApiServer, cluster: Cluster) -> None:
    create(cluster, job())
    mine = cluster.batch.read_namespaced_job("work", "fededge")
    api_server.patch("jobs", "work", {"metadata": {"labels": {"their": "change"}}})
    with refused(409, "the object has been modified"):
        cluster.batch.replace_namespaced_job("work", "fededge", mine)


def test_a_status_is_written_on_its_own(api_server: ApiServer, cluster: Cluster) -> None:
    create(cluster, {**job(), "status": {"succeeded": 3}})
    assert cluster.batch.read_namespaced_job("work", "fededge").status.succeeded is None
    cluster.batch.patch_namespaced_job_status("work", "fededge", {"status": {"active": 1}, "spec": {"parallelism": 9}})
    done = cluster.batch.patch_namespaced_job("work", "fededge", {"status": {"active": 5}})
    assert (done.status.active, done.spec.parallelism) == (1, 1)


def test_a_strategic_patch_merges_conditions_by_their_type(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put(node("a"))
    ready = {"type": "Ready", "status": "False"}
    after = cluster.core.patch_node_status("a", {"status": {"conditions": [ready]}}).status.conditions
    assert [(one.type, one.status) for one in after[:2]] == [("Ready", "False"), ("MemoryPressure", "False")]


def test_a_job_that_is_deleted_leaves_its_pods_unless_told_otherwise(api_server: ApiServer, cluster: Cluster) -> None:
    for policy, left in ((None, ["p"]), ("Background", []), ("Foreground", [])):
        uid = create(cluster, job()).metadata.uid
        api_server.put(owned("p", uid))
        cluster.batch.delete_namespaced_job("work", "fededge", **({"propagation_policy": policy} if policy else {}))
        assert api_server.named("pods") == left
        assert api_server.named("jobs") == []


def test_what_a_workflow_owns_goes_with_it(api_server: ApiServer, cluster: Cluster) -> None:
    run = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "run"}, "spec": {}}
    uid = cluster.custom.create_namespaced_custom_object(*WORKFLOWS, run)["metadata"]["uid"]
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "run", "uid": uid}
    document = job()
    document["metadata"]["ownerReferences"] = [{**owner, "blockOwnerDeletion": False}]
    made = create(cluster, document)
    api_server.put(owned("p", made.metadata.uid))
    cluster.custom.delete_namespaced_custom_object(*WORKFLOWS, "run")
    assert (api_server.named("jobs"), api_server.named("pods")) == ([], [])


def test_an_object_with_a_finalizer_waits_for_it(api_server: ApiServer, cluster: Cluster) -> None:
    document = job()
    document["metadata"]["finalizers"] = ["example.org/wait"]
    create(cluster, document)
    cluster.batch.delete_namespaced_job("work", "fededge")
    assert cluster.batch.read_namespaced_job("work", "fededge").metadata.deletion_timestamp
    cluster.batch.patch_namespaced_job("work", "fededge", {"metadata": {"finalizers": None}})
    assert api_server.named("jobs") == []


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ("site", "ab"),
        ("!site", "c"),
        ("site=north", "a"),
        ("site==north,tier=1", ""),
        ("site!=north", "bc"),
        ("site in (north, south)", "ab"),
        ("site notin (north),tier", "b"),
    ],
)
def test_label_selectors(api_server: ApiServer, cluster: Cluster, labels: str, found: str) -> None:
    api_server.put(node("a", labels={"site": "north"}))
    api_server.put(node("b", labels={"site": "south", "tier": "1"}))
    api_server.put(node("c"))
    assert "".join(one.metadata.name for one in cluster.core.list_node(label_selector=labels).items) == found


def test_field_selectors(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.put(pod("a", "one", {}))
    api_server.put(pod("b", "two", {}, phase="Failed"))
    list_pods = cluster.core.list_pod_for_all_namespaces
    assert [one.metadata.name for one in list_pods(field_selector="status.phase!=Failed").items] == ["a"]
    assert [one.metadata.name for one in list_pods(field_selector="spec.nodeName=two").items] == ["b"]
    with refused(400, "field label not supported"):
        list_pods(field_selector="spec.hostNetwork=true")


def test_pages_are_of_one_moment(api_server: ApiServer, cluster: Cluster) -> None:
    for name in "abcde":
        api_server.put(node(name))
    first = cluster.core.list_node(limit=2)
    api_server.remove("nodes", "d")
    rest = cluster.core.list_node(limit=10, _continue=first.metadata._continue)
    assert [one.metadata.name for one in first.items + rest.items] == list("abcde")
    assert (first.metadata.remaining_item_count, rest.metadata._continue) == (3, None)
    assert first.metadata.resource_version == rest.metadata.resource_version


def _watch(cluster: Cluster, server: ApiServer, change: Any, **arguments: Any) -> list[tuple[str, str]]:
    """Watch Jobs while something changes, and return what was told."""
    version = cluster.batch.list_namespaced_job("fededge").metadata.resource_version
    threading.Timer(0.1, change).start()
    arguments = {"resource_version": version, "timeout_seconds": 1, **arguments}
    events = watch.Watch().stream(cluster.batch.list_namespaced_job, "fededge", **arguments)
    return [(event["type"], event["raw_object"]["metadata"].get("name", "")) for event in events]


def test_a_watch_tells_of_each_change_in_its_order(api_server: ApiServer, cluster: Cluster) -> None:
    def change() -> None:
        create(cluster, job())
        api_server.patch_status("jobs", "work", {"active": 1})
        api_server.put(pod("unheard", "a", {}))
        api_server.remove("jobs", "work")

    told = _watch(cluster, api_server, change)
    assert told == [("ADDED", "work"), ("MODIFIED", "work"), ("DELETED", "work")]


def test_what_no_longer_matches_is_deleted_for_a_watch(api_server: ApiServer, cluster: Cluster) -> None:
    document = job()
    document["metadata"]["labels"] = {"mine": "yes"}
    create(cluster, document)
    told = _watch(
        cluster,
        api_server,
        lambda: api_server.patch("jobs", "work", {"metadata": {"labels": {"mine": "no"}}}),
        label_selector="mine=yes",
    )
    assert told == [("DELETED", "work")]


def test_bookmarks_say_how_far_a_watch_is(api_server: ApiServer, cluster: Cluster) -> None:
    api_server.bookmarks = 0.3
    told = _watch(cluster, api_server, lambda: None, allow_watch_bookmarks=True)
    assert {kind for kind, _ in told} == {"BOOKMARK"}
    assert len(told) >= 3


def test_a_watch_that_is_too_old_is_told_so(api_server: ApiServer, cluster: Cluster) -> None:
    old = cluster.batch.list_namespaced_job("fededge").metadata.resource_version
    create(cluster, job())
    api_server.compact()
    events = watch.Watch().stream(cluster.batch.list_namespaced_job, "fededge", resource_version=old, timeout_seconds=1)
    with pytest.raises(ApiException, check=lambda error: error.status == 410):
        list(events)


def test_watches_can_be_dropped(api_server: ApiServer, cluster: Cluster) -> None:
    with pytest.raises(HTTPError):
        _watch(cluster, api_server, api_server.drop_watches, timeout_seconds=30)
