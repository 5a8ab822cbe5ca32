"""Starts a round's Jobs, and watches them until the round can go on.

    pooled Jobs, at once ──┐            ┌─► each is over: SuccessCriteriaMet, FailureTarget, deleted, given up
    device Jobs, in waves ─┴─► watch ───┼─► the round has enough
                                        ├─► all that is left is on nodes that do not answer
                                        └─► its deadline has come

A Job goes by a name that whoever starts it again finds: a launcher that was killed leaves its Jobs, and the next one
takes them over, before it starts any other. One that fails leaves none.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fededge.cluster.api import BUSY, Cluster
from fededge.cluster.job_calls import create_or_adopt, delete, is_quota_full
from fededge.cluster.jobs import from_ranges
from fededge.cluster.launched import End, Launched, Seen
from fededge.cluster.pods import Trouble, has_started, index_of, trouble_of
from fededge.cluster.watch import Change, Feed
from fededge.core.updates import ExclusionReason
from fededge.errors import ClusterError

Document = dict[str, Any]

_SUCCEEDED = ("SuccessCriteriaMet", "Complete")
_FAILED = ("FailureTarget", "Failed")
# Events that keep a pod from starting; others pass, as FailedScheduling once there is a node.
_KEEPING = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox", "NetworkNotReady")
_LONG = 3600.0  # seconds
_RETURN = 30.0  # seconds; a node that was away for a moment ends its pod, and the Job makes another
_KNOCK = 10.0  # seconds after which a Job that the quota refused is tried again


@dataclass(frozen=True)
class Limits:
    """When to stop waiting.

    Attributes:
      until: the round's deadline, by this process's own `time.monotonic`: a Job's is in seconds, too.
      enough: tells whether the round has all that it wants.
      start_s: seconds after which a Job is given up of which no pod can start, or that the quota does not let be.
      at_once: how many device Jobs may run.
    """

    until: float
    enough: Callable[[], bool]
    start_s: float
    at_once: int

    @property
    def left(self) -> float:
        return self.until - time.monotonic()


class Launcher:
    """Runs the Jobs of a round.

    Args:
      cluster: where.
      launched: the Jobs; what becomes of them is noted in each.
      selector: label selector of what is made for the attempt.
      limits: when to stop.
      say: gets a line on each thing that happens.
    """

    def __init__(
        self, cluster: Cluster, launched: Sequence[Launched], selector: str, limits: Limits, say: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._launched = [*launched]
        self._selector = selector
        self._limits = limits
        self._say = say
        self._by_uid: dict[str, Launched] = {}
        self._knock_at = 0.0  # before, the quota has no room
        self._held_since = math.inf  # by the quota, with nothing of ours left that would make room
        self._removed: set[str] = set()  # uids of Jobs that made room
        for one in launched:
            one.name = one.manifest(1)["metadata"]["name"]

    def run(self) -> None:
        """Start the Jobs and wait for them.

        Raises:
          ClusterError: Kubernetes refuses, or is away for too long.
        """
        feed = Feed(self._cluster, self._say)
        try:
            self._follow(feed)
            self._find_those_there()
            self._wait(feed)
            with contextlib.suppress(ClusterError):  # without it less is known, and the round is none the worse
                self._look_at_pods()
        except Exception as error:
            if not isinstance(error, ClusterError) or error.status not in BUSY:  # or it cannot be told either
                self._clear_away()
            raise
        finally:
            feed.close()

    def _follow(self, feed: Feed) -> None:
        core, batch = self._cluster.core, self._cluster.batch
        feed.follow(batch.list_namespaced_job, "jobs", label_selector=self._selector)
        feed.follow(core.list_namespaced_pod, "pods", label_selector=self._selector)
        feed.follow(core.list_namespaced_event, "events", optional=True, field_selector="type=Warning")
        feed.ready()

    def _find_those_there(self) -> None:
        """Put first what a launcher before us has left, of whichever wave: if the round has enough, it is to end."""
        there = self._read(self._cluster.batch.list_namespaced_job, "jobs")
        names = {job["metadata"]["name"] for job in there}
        self._launched.sort(key=lambda one: one.name not in names)

    def _wait(self, feed: Feed) -> None:
        news = False
        while running := [one for one in self._launched if not one.end]:
            if (left := self._limits.left) <= 0:
                return self._stop(running, End.DEADLINE)
            if news and self._limits.enough():
                return self._stop(running, End.ENOUGH)
            if time.monotonic() >= self._lost_by(running):
                return self._stop(running, End.LOST)
            if news := self._start_due():
                continue
            change = feed.next(min(left, self._next_limit(running)))
            news = change is not None and self._take(change)
            self._give_up_blocked()
        return None

    def _start_due(self) -> bool:
        """Start the pooled Jobs, and as many device Jobs as may run at once; say whether some were there."""
        devices = sum(one.is_running and not one.is_pooled and not one.is_lost for one in self._launched)
        were_there = False
        for one in self._launched:
            if one.uid or one.end or (not one.is_pooled and devices >= self._limits.at_once):
                continue
            if (left := self._limits.left) <= 0 or time.monotonic() < self._knock_at:
                break
            were_there |= self._start(one, math.ceil(left))
            devices += one.is_running and not one.is_pooled
        if were_there:  # what was told of them before nobody has kept
            self._look_at_pods()
        return were_there

    def _start(self, one: Launched, left_s: int) -> bool:
        """Start a Job, unless the quota is full, and say whether it was there."""
        try:
            made, is_new = create_or_adopt(self._cluster, one.manifest(left_s))
        except ClusterError as error:
            if not self._by_uid or not is_quota_full(error):
                raise
            self._hold(one, error.detail)
            return False
        one.uid, one.began, one.no_pod = made["metadata"]["uid"], time.monotonic(), None
        self._by_uid[one.uid] = one
        self._held_since = math.inf
        batches = f"{len(one.batches)} batch{'es' * (len(one.batches) > 1)} of clients"
        self._say(f"{one.name}: {'started' if is_new else 'goes on'} with {batches}")
        if not is_new:
            self._take_job(one, Change("jobs", made, is_deleted=False))
        return not is_new

    def _hold(self, refused: Launched, message: str) -> None:
        """Wait until the quota has room."""
        if refused.no_pod is None:
            self._say(f"{refused.name}: not started yet: {message}")
        self._make_room()
        for one in self._launched:
            if not one.uid and not one.end:
                one.no_pod = Trouble(ExclusionReason.NOT_STARTED, message)
        self._knock_at = time.monotonic() + _KNOCK
        self._held_since = min(self._held_since, time.monotonic())

    def _make_room(self) -> None:
        """Delete our Jobs that are over: they count until they are gone."""
        over = [one for one in self._by_uid.values() if one.end and one.uid not in self._removed]
        if over:
            self._look_at_pods()  # which go with them
        for one in over:
            delete(self._cluster, one.name, one.uid)
            self._removed.add(one.uid)

    def _take(self, change: Change) -> bool:
        """Note a change, and say whether a batch or a Job may be done by it."""
        match change.resource:
            case "jobs":
                one = self._by_uid.get(change.object["metadata"]["uid"])
                return one is not None and not one.end and self._take_job(one, change)
            case "pods":
                owners = change.object["metadata"].get("ownerReferences") or []
                found = [self._by_uid[owner["uid"]] for owner in owners if owner["uid"] in self._by_uid]
                return bool(found) and self._take_pod(found[0], change.object, change.is_deleted)
        if not change.is_deleted:
            self._take_warning(change.object)
        return False

    def _take_job(self, one: Launched, change: Change) -> bool:
        status = change.object.get("status") or {}
        # Of a pooled Job the batches, not the pods: what is tried again has not failed.
        batches = from_ranges(status.get("failedIndexes") or "")
        failed = len(batches) if one.is_pooled else int(status.get("failed") or 0)
        counts = (int(status.get("succeeded") or 0), failed, int(status.get("active") or 0))
        moved, one.counts = counts != one.counts, counts
        if moved:
            succeeded, failed, active = counts
            self._say(f"{one.name}: {succeeded} of {len(one.batches)} done, {failed} failed, {active} running")
        for condition in status.get("conditions") or []:
            if condition["status"] == "True" and condition["type"] in _SUCCEEDED + _FAILED and not one.end:
                self._end_by(one, condition)
        if change.is_deleted and not one.end:
            self._end(one, End.DELETED, "")
        return moved or one.end is not None

    def _end_by(self, one: Launched, condition: Document) -> None:
        detail = ": ".join(condition[key] for key in ("reason", "message") if condition.get(key))
        if condition["type"] in _SUCCEEDED:
            self._end(one, End.SUCCEEDED, detail)
        else:
            self._end(one, End.DEADLINE if condition.get("reason") == "DeadlineExceeded" else End.FAILED, detail)

    def _take_pod(self, one: Launched, pod: Document, is_deleted: bool = False) -> bool:
        metadata, index = pod["metadata"], index_of(pod)
        if one.end and metadata.get("deletionTimestamp"):  # it was ended, and has not failed
            return False
        one.has_started |= has_started(pod)
        one.no_pod = None
        before = one.pods.get(index)
        if before and metadata["creationTimestamp"] < before.pod["metadata"]["creationTimestamp"]:
            return False  # another has been made since for the same clients
        trouble = trouble_of(pod, one.warnings.get(metadata.get("uid", ""), ""))
        is_over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        one.see(index, Seen(pod, trouble, is_over or is_deleted))
        if trouble and (before is None or before.trouble is None or trouble.reason != before.trouble.reason):
            self._say(f"{metadata['name']}: {trouble.reason}: {trouble.detail}")
        return is_over

    def _look_at_pods(self) -> None:
        """Take in what pods met with that cost their Job its success; their watch may be behind that of the Jobs."""
        for pod in self._read(self._cluster.core.list_namespaced_pod, "pods"):
            self._take(Change("pods", pod, is_deleted=False))

    def _read(self, function: Callable[..., Any], resource: str) -> list[Document]:
        where, chosen = self._cluster.namespace, self._selector
        return self._cluster.read_all(function, where, resource=resource, read=_as_it_is, label_selector=chosen)

    def _take_warning(self, event: Document) -> None:
        """Note why a Job has no pod, or what keeps a pod from starting: of volumes only events tell."""
        involved, message = event["involvedObject"], str(event.get("message", ""))
        uid, name = involved.get("uid", ""), str(involved.get("name", ""))
        if one := self._by_uid.get(uid):
            if event.get("reason") == "FailedCreate":
                self._take_refusal(one, message)
            return
        one = next((one for one in self._by_uid.values() if name.startswith(f"{one.name}-")), None)
        if one and event.get("reason") in _KEEPING:
            one.warnings[uid] = message
            for seen in [*one.pods.values()]:
                if seen.pod["metadata"].get("uid") == uid:
                    self._take_pod(one, seen.pod, seen.is_over)

    def _take_refusal(self, one: Launched, message: str) -> None:
        if one.no_pod is None and not one.end:
            self._say(f"{one.name}: no pod: {message}")
        one.no_pod = Trouble(ExclusionReason.NOT_STARTED, message)

    def _end(self, one: Launched, end: End, detail: str) -> None:
        one.end, one.detail = end, detail
        if one.uid:
            self._say(f"{one.name}: over ({end}{f': {detail}' if detail else ''})")

    def _next_limit(self, running: Sequence[Launched]) -> float:
        """Return the seconds until something is to be given up, or tried again."""
        now, start_s = time.monotonic(), self._limits.start_s
        blocked = [one.began + start_s for one in running if self._is_blocked(one)]
        times = [*blocked, self._held_since + start_s, self._knock_at, self._lost_by(running)]
        return min((at - now for at in times if now < at < math.inf), default=_LONG)

    def _give_up_blocked(self) -> None:
        now, start_s = time.monotonic(), self._limits.start_s
        for one in self._launched:
            if self._is_blocked(one) and now >= one.began + start_s:
                delete(self._cluster, one.name, one.uid)
                self._end(one, End.NOT_STARTED, one.blocked.detail if one.blocked else "")
        if self._held_since < math.inf and any(one.is_running and not one.is_lost for one in self._launched):
            self._held_since = now
        for one in self._launched:
            if not one.uid and not one.end and now >= self._held_since + start_s:
                self._end(one, End.NOT_STARTED, one.no_pod.detail if one.no_pod else "")

    def _lost_by(self, running: Sequence[Launched]) -> float:
        """Say when to stop waiting because all that runs is lost; never while something is not, or is to start."""
        is_held = self._held_since < math.inf
        return max((one.lost_at for one in running if one.uid or not is_held), default=math.inf) + _RETURN

    def _is_blocked(self, one: Launched) -> bool:
        return one.is_running and one.blocked is not None

    def _stop(self, running: Sequence[Launched], end: End) -> None:
        """End what still runs; a Job that was not started has no end to wait for either."""
        for one in running:
            if one.uid:
                delete(self._cluster, one.name, one.uid)
            self._end(one, end, "")

    def _clear_away(self) -> None:
        """Leave no Job behind that nobody would wait for."""
        for one in self._by_uid.values():
            if not one.end:
                with contextlib.suppress(ClusterError):
                    delete(self._cluster, one.name, one.uid)


def _as_it_is(found: Document) -> Document:
    return found
