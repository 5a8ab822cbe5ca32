"""Canaries on an API server: promoted, rolled back, interrupted; whatever happens, nothing half-made stays."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from fededge.cluster.api import Cluster
from fededge.errors import ClusterError, InputError, RolloutError, SetupError
from fededge.rollout import rollout as rolling
from fededge.rollout.kserve import KServe
from fededge.rollout.platform import Platform, Split
from fededge.rollout.rollout import Outcome, Rollout
from fededge.rollout.server import Release
from tests.cluster.api_server import ApiServer
from tests.rollout.operators import Operator

NAME = "digits"
V6 = Release(NAME, "digits", "v6", "", "registry.example.org/fededge-serving:1", 1, "500m", "2", "1Gi", "4Gi")
V7 = replace(V6, version="v7")
PATIENT, IMPATIENT = 20.0, 0.5  # seconds


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def rollout(cluster: Cluster, platform: Platform, told: list[str]) -> Rollout:
    return Rollout(cluster, platform, NAME, "digits", told.append)


def service(api_server: ApiServer, platform: Platform) -> dict[str, Any]:
    return api_server.get(platform.plural, NAME)


def split(api_server: ApiServer, platform: Platform) -> Split:
    return platform.split(service(api_server, platform))


def writes(api_server: ApiServer, platform: Platform) -> list[str]:
    return [a.verb for a in api_server.requests if a.resource == platform.plural and a.verb not in ("list", "watch")]


def test_the_first_version_gets_all_requests(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    assert rollout.deploy(V6, 10, PATIENT, 0, promote=True) is Outcome.PROMOTED
    assert split(api_server, platform) == Split("v6")
    labels = service(api_server, platform)["metadata"]["labels"]
    assert labels["app.kubernetes.io/part-of"] == "fededge"


def test_a_version_goes_from_a_canary_to_all_requests(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, told: list[str]
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    assert rollout.deploy(V7, 25, PATIENT, 0.2, promote=True) is Outcome.PROMOTED
    assert split(api_server, platform) == Split("v7")
    assert told[-2:] == ["v6 serves, v7 gets 25 % of the requests", "promoted: v7 serves"]
    # 0 % until it is ready, its share, all
    assert writes(api_server, platform) == ["create", "update", "update", "update"]


def test_a_canary_waits_for_people(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    assert rollout.deploy(V7, 10, PATIENT, 0, promote=False) is Outcome.CANARY
    assert split(api_server, platform) == Split("v6", "v7", 10)
    assert rollout.deploy(V7, 50, PATIENT, 0, promote=False) is Outcome.CANARY
    assert split(api_server, platform) == Split("v6", "v7", 50)
    assert rollout.promote("v7") is Outcome.PROMOTED
    assert rollout.promote("v7") is Outcome.UNCHANGED
    assert split(api_server, platform) == Split("v7")
    assert rollout.roll_back() is Outcome.UNCHANGED


def test_rolled_back_the_old_version_is_as_it_was(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    before = service(api_server, platform)["spec"]
    rollout.deploy(V7, 10, PATIENT, 0, promote=False)
    assert rollout.roll_back() is Outcome.ROLLED_BACK
    assert split(api_server, platform) == Split("v6")
    after = service(api_server, platform)["spec"]
    if isinstance(platform, KServe):  # or the new revision of v6 would take the requests from the old one
        assert after["predictor"].pop("canaryTrafficPercent") == 0
    assert after == before
    assert rollout.deploy(V7, 10, PATIENT, 0, promote=True) is Outcome.PROMOTED
    assert split(api_server, platform) == Split("v7")


@pytest.mark.parametrize("promote", [True, False])
def test_the_same_version_again_changes_nothing(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, promote: bool
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    rollout.deploy(V7, 10, PATIENT, 0, promote=promote)
    spec, done = service(api_server, platform)["spec"], len(writes(api_server, platform))
    outcome = rollout.deploy(V7, 10, PATIENT, 0, promote=promote)
    assert outcome is (Outcome.UNCHANGED if promote else Outcome.CANARY)
    assert service(api_server, platform)["spec"] == spec
    assert len(writes(api_server, platform)) == done


def test_all_requests_at_once_when_it_is_ready(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    assert rollout.deploy(V7, 100, PATIENT, 0, promote=True) is Outcome.PROMOTED
    assert writes(api_server, platform) == ["create", "update", "update"]


def test_a_canary_that_does_not_get_ready_never_gets_a_request(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, told: list[str]
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    operator.broken.add("v7")
    with pytest.raises(RolloutError, match=r"v7 of \w+ digits is not ready after 0 s: .*(a Deployment|unready status)"):
        rollout.deploy(V7, 10, IMPATIENT, 0, promote=True)
    assert split(api_server, platform) == Split("v6")
    assert writes(api_server, platform) == ["create", "update", "update"]
    assert told[-1] == "rolled v7 back: v6 serves"


CRASHED = {"exitCode": 3, "reason": "Error", "message": "WARN …\nStoreError: version v6 is damaged\n"}
BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ({"state": {"waiting": BACK_OFF}, "lastState": {"terminated": CRASHED}}, "exit code 3: StoreError: version v6"),
        ({"state": {"waiting": BACK_OFF}}, "CrashLoopBackOff: back-off 40s"),
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "none such"}}}, "ImagePullBackOff: none such"),
    ],
)
def test_the_reason_is_that_of_a_pod(rollout: Rollout, operator: Operator, state: dict[str, Any], reason: str) -> None:
    """Such a pod is Running as a whole: a proxy in it may be."""
    operator.broken.add("v6")
    operator.crashed = state
    with pytest.raises(RolloutError, match=reason):
        rollout.deploy(V6, 10, IMPATIENT, 0, promote=True)


def test_of_a_first_version_that_does_not_get_ready_nothing_is_left(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, told: list[str]
) -> None:
    operator.broken.add("v6")
    with pytest.raises(RolloutError, match="is not ready"):
        rollout.deploy(V6, 10, IMPATIENT, 0, promote=True)
    assert api_server.named(platform.plural) == []
    assert told[-1].startswith("deleted")


def _break_canary(operator: Operator, told: list[str], mended_after: float = 0.0) -> threading.Thread:
    """Break v7 once it has its share; mend it after some seconds, or never."""

    def break_it() -> None:
        while "v6 serves, v7 gets 10 % of the requests" not in told:
            time.sleep(0.02)
        time.sleep(0.3)
        operator.broken.add("v7")
        if mended_after:
            time.sleep(mended_after)
            operator.broken.clear()

    breaking = threading.Thread(target=break_it)
    breaking.start()
    return breaking


def test_a_canary_that_does_not_stay_ready_is_rolled_back(
    rollout: Rollout,
    api_server: ApiServer,
    platform: Platform,
    operator: Operator,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rolling, "_OUTAGE_S", IMPATIENT)
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)

    breaking = _break_canary(operator, told)
    with pytest.raises(RolloutError, match="did not stay ready"):
        rollout.deploy(V7, 10, PATIENT, PATIENT, promote=True)
    breaking.join()
    assert split(api_server, platform) == Split("v6")


def test_a_canary_that_is_away_for_a_moment_is_promoted(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, told: list[str]
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)

    moving = _break_canary(operator, told, mended_after=0.5)
    assert rollout.deploy(V7, 10, PATIENT, 2.0, promote=True) is Outcome.PROMOTED
    moving.join()
    assert split(api_server, platform) == Split("v7")


def test_an_interrupted_run_takes_its_canary_back(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout, "_wait_until_ready", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rollout.deploy(V7, 10, PATIENT, 0, promote=True)
    assert split(api_server, platform) == Split("v6")


def test_a_killed_run_is_gone_on_with(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    api_server.put(platform.with_canary(service(api_server, platform), V7, 0))  # and no more
    assert rollout.deploy(V7, 10, PATIENT, 0, promote=True) is Outcome.PROMOTED
    assert split(api_server, platform) == Split("v7")


def test_one_canary_at_a_time(rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    rollout.deploy(V7, 10, PATIENT, 0, promote=False)
    with pytest.raises(InputError, match="promote v7 or roll it back before v8 is the canary"):
        rollout.deploy(replace(V6, version="v8"), 10, PATIENT, 0, promote=True)
    with pytest.raises(InputError, match=r"v8 is no canary of \w+ digits: v6 serves, v7 gets 10 %"):
        rollout.promote("v8")
    assert split(api_server, platform) == Split("v6", "v7", 10)


@pytest.mark.parametrize(
    ("labels", "whose"),
    [
        ({}, "was not made by FedEdge"),
        ({"app.kubernetes.io/part-of": "fededge", "fededge.io/training": "wisdm"}, "serves the training wisdm"),
    ],
)
def test_a_name_that_is_somebody_elses_is_left_alone(
    rollout: Rollout, api_server: ApiServer, platform: Platform, labels: dict[str, str], whose: str
) -> None:
    theirs = platform.alone(V6)
    theirs["metadata"]["labels"] = labels
    api_server.put(theirs)
    with pytest.raises(InputError, match=f"{whose}: choose another name"):
        rollout.deploy(V7, 10, PATIENT, 0, promote=True)
    with pytest.raises(InputError, match=whose):
        rollout.roll_back()
    assert writes(api_server, platform) == []


def test_a_platform_that_is_not_installed(rollout: Rollout, api_server: ApiServer, platform: Platform) -> None:
    api_server.kept.resources = [one for one in api_server.kept.resources if one.plural != platform.plural]
    with pytest.raises(SetupError, match=f"the cluster has no {platform.kind}s .*: install the platform"):
        rollout.deploy(V6, 10, PATIENT, 0, promote=True)


GRANTED_BY = {"seldondeployments": "manifests/components/seldon", "inferenceservices": "manifests/components/kserve"}


@pytest.mark.parametrize("verb", ["list", "create"])
def test_what_is_forbidden_names_the_manifest_that_grants_it(
    rollout: Rollout, api_server: ApiServer, platform: Platform, verb: str
) -> None:
    api_server.forbid(verb, platform.plural)
    forbidden = rf"does not let \S+ {verb} {platform.plural}\S+ .*{GRANTED_BY[platform.plural]} grants it"
    with pytest.raises(ClusterError, match=forbidden):
        rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    assert api_server.named(platform.plural) == []


def test_a_canary_that_may_not_be_written_changes_nothing(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    api_server.forbid("update", platform.plural)
    with pytest.raises(ClusterError, match=r"does not let \S+ update"):
        rollout.deploy(V7, 10, PATIENT, 0, promote=True)
    assert split(api_server, platform) == Split("v6")


def test_an_answer_that_was_lost_and_writes_of_others_are_borne(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator
) -> None:
    api_server.cut(1, "create", platform.plural)
    rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    api_server.fail(2, 409, "update", platform.plural)
    api_server.fail(1, 503, "update", platform.plural)
    assert rollout.deploy(V7, 10, PATIENT, 0, promote=True) is Outcome.PROMOTED
    assert split(api_server, platform) == Split("v7")


def test_a_service_that_somebody_deletes(
    rollout: Rollout, api_server: ApiServer, platform: Platform, operator: Operator, told: list[str]
) -> None:
    operator.broken.add("v6")

    def delete() -> None:
        while not any(line.startswith("made") for line in told):
            time.sleep(0.02)
        time.sleep(0.3)
        api_server.remove(platform.plural, NAME)

    deleting = threading.Thread(target=delete)
    deleting.start()
    with pytest.raises(RolloutError, match="somebody deleted"):
        rollout.deploy(V6, 10, PATIENT, 0, promote=True)
    deleting.join()


def test_names_that_are_too_long(rollout: Rollout, platform: Platform) -> None:
    with pytest.raises(InputError, match=r"too long a name for .*: choose one of at most (28|40) characters"):
        rollout.deploy(replace(V6, name="a" * 50), 10, PATIENT, 0, promote=True)


@pytest.fixture
def kserve(cluster: Cluster, told: list[str]) -> Rollout:
    return Rollout(cluster, KServe(), NAME, "digits", told.append)


def test_kserve_without_knative_updates_by_rolling(kserve: Rollout, api_server: ApiServer, operator: Operator) -> None:
    operator.standard = True
    kserve.deploy(V6, 10, PATIENT, 0, promote=True)
    with pytest.raises(InputError, match="mode Standard, which splits no requests: take 100 %"):
        kserve.deploy(V7, 10, PATIENT, 0, promote=True)
    assert kserve.deploy(V7, 100, PATIENT, 0, promote=True) is Outcome.PROMOTED
    assert split(api_server, KServe()) == Split("v7")


def test_a_service_that_old_pods_keep_ready_is_no_ready_version(
    kserve: Rollout, api_server: ApiServer, operator: Operator
) -> None:
    operator.standard = True
    kserve.deploy(V6, 10, PATIENT, 0, promote=True)
    operator.broken.add("v7")
    with pytest.raises(RolloutError, match=r"v7 of .* is not ready after 0 s: 0 of 1 pods are ready"):
        kserve.deploy(V7, 100, IMPATIENT, 0, promote=True)
    conditions = service(api_server, KServe())["status"]["conditions"]
    assert conditions == [{"type": "Ready", "status": "True"}]
    assert split(api_server, KServe()) == Split("v6")


def test_pods_of_another_service_do_not_count(kserve: Rollout, api_server: ApiServer, operator: Operator) -> None:
    """It may serve the same version."""
    operator.standard = True
    kserve.deploy(V6, 10, PATIENT, 0, promote=True)
    operator.broken.add("v7")
    api_server.put({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other-0", "labels": {**V7.pod_labels, "serving.kserve.io/inferenceservice": "other"}},
        "spec": {"containers": [{"name": "other", "image": "x"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    })  # fmt: skip
    with pytest.raises(RolloutError, match="0 of 1 pods are ready"):
        kserve.deploy(V7, 100, IMPATIENT, 0, promote=True)


def test_a_version_makes_one_revision(kserve: Rollout, operator: Operator) -> None:
    """Its shares and its promotion make none: pods would start again."""
    kserve.deploy(V6, 10, PATIENT, 0, promote=True)
    kserve.deploy(V7, 10, PATIENT, 0, promote=False)
    kserve.deploy(V7, 50, PATIENT, 0, promote=True)
    kserve.deploy(V7, 10, PATIENT, 0, promote=True)
    assert operator.revisions(NAME) == 2


def test_the_generation_that_kserve_tells_is_another_objects(
    kserve: Rollout, api_server: ApiServer, operator: Operator
) -> None:
    """Of two writes that are seen as one, or one that changes no template, it stays behind for ever."""
    kserve.deploy(V6, 10, PATIENT, 0, promote=True)
    api_server.patch("inferenceservices", NAME, {"metadata": {"generation": 9}})
    assert kserve.deploy(V7, 10, PATIENT, 0, promote=True) is Outcome.PROMOTED


def test_a_canary_that_was_taken_back_and_comes_again(
    kserve: Rollout, api_server: ApiServer, operator: Operator
) -> None:
    """The old revision of v7 may have pods still, which say nothing of the new one."""
    kserve.deploy(V6, 10, PATIENT, 0, promote=True)
    kserve.deploy(V7, 10, PATIENT, 0, promote=False)
    kserve.roll_back()
    left = {"serving.knative.dev/revision": "digits-predictor-00002", "serving.kserve.io/inferenceservice": NAME}
    ready = [pod("digits-predictor-00002-0", {**V7.pod_labels, **left})]
    told = {"latestCreatedRevision": "digits-predictor-00003", "latestReadyRevision": "digits-predictor-00003"}
    put = KServe().with_canary(service(api_server, KServe()), V7, 0)
    put["status"] = {"conditions": [{"type": "Ready", "status": "True"}], "components": {"predictor": told}}
    assert not KServe().state(put, "v7", ready).ready


def pod(name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


@pytest.mark.parametrize(
    ("percent", "ready"), [(10, True), (0, False), (100, False)], ids=["its share", "none yet", "another"]
)
def test_a_canary_counts_when_it_has_its_share(percent: int, ready: bool) -> None:
    """Else what Knative tells while it changes the route would be taken for trouble with the canary."""
    newest = {"revisionName": "b", "latestRevision": True, "percent": percent}
    before = {"revisionName": "a", "latestRevision": False, "percent": 100 - percent}
    told = {"latestCreatedRevision": "b", "latestReadyRevision": "b", "traffic": [newest, before]}
    canary = KServe().with_canary(KServe().alone(V6), V7, 10)
    canary["status"] = {"conditions": [{"type": "Ready", "status": "True"}], "components": {"predictor": told}}
    state = KServe().state(canary, "v7", [pod("one", {"serving.knative.dev/revision": "b"})])
    assert state.ready is ready
