"""The manifests on a real API server: taken as they are, with the rights that they say, by pods that are admitted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import yaml
from kubernetes.client import AuthorizationV1Api

from tests.contract.builds import BUILDS, build
from tests.live.conftest import MANIFESTS, Live, moved

RUNNER, CLIENT = "fededge-runner", "fededge-client"
# All that a run may do, by resource.
RIGHTS = {
    "configmaps": {"get"},
    "events": {"list", "watch"},
    "jobs.batch": {"create", "delete", "get", "list", "watch"},
    "pods": {"get", "list", "watch"},
    "secrets": set[str](),
    "secrets/mlpipeline-minio-artifact": {"get"},
    "workflows.argoproj.io": {"get"},
    "workflowtaskresults.argoproj.io": {"create", "patch"},
}
VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


def test_a_run_may_do_what_its_role_says_and_a_client_nothing(live: Live) -> None:
    asked = [(verb, resource) for resource in RIGHTS for verb in VERBS]
    assert _may(live, RUNNER, asked) == {(verb, resource) for resource, verbs in RIGHTS.items() for verb in verbs}
    assert _may(live, CLIENT, asked) == set()


def test_with_the_devices_component_a_run_may_list_nodes_and_pods_everywhere(live: Live) -> None:
    asked = [(verb, resource) for resource in ("nodes", "pods") for verb in VERBS]
    assert _may(live, RUNNER, asked, everywhere=True) == set()
    live.kubectl("apply", "--kustomize", str(MANIFESTS / "components/devices"))
    binding, account = f"devices-{live.namespace}", f"{live.namespace}:{RUNNER}"
    live.kubectl(
        "create", "clusterrolebinding", binding, "--clusterrole", "fededge-devices", "--serviceaccount", account
    )
    try:
        assert _may(live, RUNNER, asked, everywhere=True) == {("list", "nodes"), ("list", "pods")}
    finally:
        live.kubectl("delete", "clusterrolebinding", binding)


@pytest.mark.parametrize("name", BUILDS)
def test_kubernetes_takes_every_object(name: str, live: Live) -> None:
    """Strictly: a field that it does not know is an error. All that a build has, into one namespace that enforces."""
    documents = [moved(document, live.namespace) for document in build(name) if document["kind"] != "Namespace"]
    given = yaml.safe_dump_all(documents)
    live.kubectl("apply", "--dry-run=server", "--validate=strict", "--filename", "-", given=given)


def test_the_pods_of_development_are_admitted_and_fit_its_quota(live: Live) -> None:
    """By pod security `restricted`, the quota and the limits; no kubelet runs them."""
    documents = [moved(document, live.namespace) for document in build("overlays/development")]
    documents = [document for document in documents if document["kind"] not in ("Namespace", "ConfigMap")]
    live.kubectl("apply", "--filename", "-", given=yaml.safe_dump_all(documents))
    made = ("deployments.apps", "statefulsets.apps", "jobs.batch")
    owners = [one["metadata"]["name"] for resource in made for one in live.listed(resource)]
    assert owners
    live.until(lambda: all(any(pod.startswith(owner) for pod in _pods(live)) for owner in owners), 30)


def _pods(live: Live) -> list[str]:
    return [pod["metadata"]["name"] for pod in live.listed("pods")]


def _may(
    live: Live, account: str, asked: Sequence[tuple[str, str]], *, everywhere: bool = False
) -> set[tuple[str, str]]:
    """Return which verbs on which resources a service account may, in its namespace or everywhere."""
    user, where = f"system:serviceaccount:{live.namespace}:{account}", "" if everywhere else live.namespace
    review = AuthorizationV1Api(live.admin.core.api_client).create_subject_access_review

    def is_allowed(verb: str, resource: str) -> bool:
        resource, _, name = resource.partition("/")
        resource, _, group = resource.partition(".")
        what = {"namespace": where, "verb": verb, "group": group, "resource": resource, "name": name}
        body = {"spec": {"user": user, "resourceAttributes": what}}
        answer = live.admin.call_plain(review, body, verb="create", resource="subjectaccessreviews")
        return bool(answer["status"]["allowed"])

    return {one for one in asked if is_allowed(*one)}
