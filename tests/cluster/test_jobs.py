"""The Jobs as they are sent, without a cluster."""

from __future__ import annotations

from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fededge.cluster.environment import SECRETS, SETTINGS
from fededge.cluster.jobs import REFUSED, SPEC, Round, device_job, from_ranges, pooled_job, spec_digest, to_ranges
from fededge.settings import Placement
from tests.contract.compiled import FOLDER, Node, parse

KUBERNETES = ("1.32", "1.36", "1.37")  # successPolicy and the other fields are general from 1.33 on, and beta before
OWNER = {
    "apiVersion": "argoproj.io/v1alpha1",
    "kind": "Workflow",
    "name": "fl-round-job-abcde",
    "uid": "11111111-2222-3333-4444-555555555555",
    "blockOwnerDeletion": False,
}
LABELS = {"fededge.io/training": "digits", "fededge.io/round": "4", "fededge.io/attempt": "1"}


def a_round(**changed: Any) -> Round:
    values: dict[str, Any] = {
        "store": "s3://models/fededge",
        "identity": "s3://models/fededge/digits/v4/1",
        "sitting": "digits/v4/1/7",
        "labels": LABELS,
        "image": "harbor.example.org/fededge/fededge-tensorflow:0.1.0",
        "pull_policy": "IfNotPresent",
        "pull_secrets": ("harbor",),
        "service_account": "fededge-client",
        "owner": OWNER,
        "mesh": {"labels": {}, "annotations": {}},
        "parallelism": 5,
        "retries": 1,
        "keep_s": 3600,
    }
    return Round(**{**values, **changed})


POOLED = pooled_job(a_round(), Placement(), range(10), left_s=3000, max_failed=4, enough=7)
DEVICE = device_job(a_round(), Placement(data_claim="building-7", memory_limit="2Gi"), 3, left_s=3000)
JOBS = pytest.mark.parametrize("job", [POOLED, DEVICE], ids=["pooled", "device"])


@JOBS
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_them(job: Node, version: str) -> None:
    kubernetes_validate.validate(job, version, strict=True)


def test_a_field_of_another_name_would_be_noticed() -> None:
    wrong = {**POOLED, "spec": {**POOLED["spec"], "successPolicies": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, KUBERNETES[0], strict=True)


def test_a_resource_class_is_one_job_with_an_index_a_batch() -> None:
    spec = POOLED["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 10, 5)
    assert (spec["backoffLimitPerIndex"], spec["maxFailedIndexes"]) == (1, 4)
    assert spec["successPolicy"] == {"rules": [{"succeededCount": 7}]}
    assert spec["podFailurePolicy"]["rules"] == [
        {
            "action": "FailIndex",
            "onExitCodes": {"containerName": "client", "operator": "In", "values": [2, 3, 5, REFUSED]},
        },
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
    ]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (3000, 3600)
    assert spec["podReplacementPolicy"] == "Failed"
    pod = spec["template"]["spec"]
    assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 5)


def test_a_device_is_a_plain_job_with_its_own_claim() -> None:
    spec = DEVICE["spec"]
    assert "completionMode" not in spec
    assert not spec.keys() & {"backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"}
    assert (spec["completions"], spec["backoffLimit"]) == (1, 1)
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "FailJob"
    pod = spec["template"]["spec"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "building-7"}} in pod["volumes"]
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}


@pytest.mark.parametrize(("batches", "enough"), [(7, 7), (7, 8), (7, None)])
def test_a_job_that_has_to_do_all_has_no_success_policy(batches: int, enough: int | None) -> None:
    assert "successPolicy" not in pooled_job(a_round(), Placement(), range(batches), 60, 0, enough)["spec"]


def test_no_more_than_there_are_run_at_once_or_fail() -> None:
    spec = pooled_job(a_round(), Placement(), [3], left_s=0, max_failed=99)["spec"]
    assert (spec["parallelism"], spec["maxFailedIndexes"], spec["activeDeadlineSeconds"]) == (1, 1, 1)


@JOBS
def test_pod_security_restricted_admits_the_pods(job: Node) -> None:
    """The rules of the profile that a Job's pods can break.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    """
    pod = job["spec"]["template"]["spec"]
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"}
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    assert all(volume.keys() - {"name"} <= allowed for volume in pod["volumes"])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert "ports" not in container


@JOBS
def test_a_volume_that_belongs_to_root_can_be_written(job: Node) -> None:
    context = job["spec"]["template"]["spec"]["securityContext"]
    assert (context["fsGroup"], context["fsGroupChangePolicy"]) == (1000, "OnRootMismatch")


@JOBS
def test_a_client_cannot_ask_kubernetes_for_anything(job: Node) -> None:
    pod = job["spec"]["template"]["spec"]
    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("fededge-client", False)


def test_a_client_knows_its_run() -> None:
    job = device_job(a_round(run="7e4a"), Placement(), 3, left_s=3000)
    assert {"name": "FEDEDGE_RUN", "value": "7e4a"} in job["spec"]["template"]["spec"]["containers"][0]["env"]


@JOBS
def test_a_client_finds_what_a_task_of_a_pipeline_finds(job: Node) -> None:
    """Its environment and its volumes are those of `train_clients` in the compiled pipeline."""
    pipeline = parse((FOLDER / "fl_round.yaml").read_text())
    task, config = pipeline.executors["exec-train-clients"], pipeline.configs["exec-train-clients"]
    container, pod = job["spec"]["template"]["spec"]["containers"][0], job["spec"]["template"]["spec"]
    fixed = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
    assert fixed == {entry["name"]: entry["value"] for entry in task["env"]}
    references = [entry["valueFrom"] for entry in container["env"] if "valueFrom" in entry]
    settings = [ref["configMapKeyRef"] for ref in references if "configMapKeyRef" in ref]
    secrets = [ref["secretKeyRef"] for ref in references if "secretKeyRef" in ref]
    (source,), (secret,), (authorities,) = config["configMapAsEnv"], config["secretAsEnv"], config["secretAsVolume"]
    assert [ref["key"] for ref in settings] == [key["configMapKey"] for key in source["keyToEnv"]] == list(SETTINGS)
    assert [ref["key"] for ref in secrets] == [key["secretKey"] for key in secret["keyToEnv"]] == list(SECRETS)
    assert {ref["name"] for ref in settings} == {source["configMapName"]}
    assert {ref["name"] for ref in secrets} == {secret["secretName"]}
    assert all(ref["optional"] for ref in settings + secrets)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert (mounts["ca"], mounts["data"]) == (authorities["mountPath"], config["pvcMount"][0]["mountPath"])
    assert {"name": "ca", "secret": {"secretName": authorities["secretName"], "optional": True}} in pod["volumes"]
    assert pod["tolerations"][:1] == config["tolerations"]
    (preferred,) = pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert [preferred["preference"]["matchExpressions"]] == [
        rule["matchExpressions"] for rule in config["nodeAffinity"]
    ]


@JOBS
def test_a_node_that_does_not_answer_loses_its_pods_soon(job: Node) -> None:
    """Kubernetes gives a pod that says nothing 300 s."""
    patience = {one["key"]: one for one in job["spec"]["template"]["spec"]["tolerations"][1:]}
    assert patience.keys() == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert all((one["effect"], one["tolerationSeconds"]) == ("NoExecute", 30) for one in patience.values())


@JOBS
def test_the_run_owns_it_and_need_not_wait_for_it(job: Node) -> None:
    assert job["metadata"]["ownerReferences"] == [OWNER]


@JOBS
def test_labels_say_whose_it_is(job: Node) -> None:
    wanted = {"app.kubernetes.io/part-of": "fededge", "app.kubernetes.io/component": "client", **LABELS}
    assert job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"] == wanted


def test_a_name_is_that_of_the_attempt_and_the_class() -> None:
    def name(where: Placement | None = None, **changed: Any) -> str:
        job: Node = pooled_job(a_round(**changed), where or Placement(), range(3), 60, 0)
        return str(job["metadata"]["name"])

    assert name() == name(sitting="digits/v4/1/8", image="another", parallelism=1)
    different = [name(), name(identity="s3://models/fededge/digits/v4/2"), name(Placement(cpu_limit="3"))]
    devices = [device_job(a_round(), Placement(), batch, 60)["metadata"]["name"] for batch in range(3)]
    assert len({*different, *devices}) == 6
    assert all(len(f"{one}-99999") <= 63 for one in different)  # the name of an index's host


def test_how_much_time_is_left_does_not_make_it_another() -> None:
    def digest(left_s: int, **changed: Any) -> str:
        job: Node = pooled_job(a_round(**changed), Placement(), range(3), left_s, 0)
        assert job["metadata"]["annotations"][SPEC] == spec_digest(job["spec"])
        return str(job["metadata"]["annotations"][SPEC])

    assert digest(3000) == digest(2990)
    assert digest(3000) != digest(3000, image="another")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([4], "4"), (range(20), "0-19"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8")]
)
def test_numbers_are_written_in_short(numbers: list[int], text: str) -> None:
    assert to_ranges(numbers) == text


@given(st.sets(st.integers(0, 300)))
def test_numbers_are_read_as_they_were_written(numbers: set[int]) -> None:
    assert from_ranges(to_ranges(sorted(numbers))) == sorted(numbers)


def test_a_hundred_thousand_batches_fit_a_job() -> None:
    job = pooled_job(a_round(), Placement(), range(100_000), 60, 0)
    assert len(str(job)) < 6000
