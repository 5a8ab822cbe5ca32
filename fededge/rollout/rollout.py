"""Deploys a version step by step; whatever goes wrong, the version that served before goes on serving alone.

                     no service ──► alone ─────────────────────► ready? ──► promoted
                                                                   └─ no ─► deleted
    another version serves ──► canary, 0 % ──► ready? ──► canary, its share ──► soak ──► promoted
                                                └─ no ────────────┴── not ready any more ─► rolled back

Each arrow is one write, which names the state that it changes; a run that was killed goes on where it was.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

from fededge.cluster.api import Cluster
from fededge.errors import FedEdgeError, InputError, RolloutError
from fededge.rollout.platform import Platform, Split, State
from fededge.rollout.server import Release
from fededge.rollout.service import Service

Document = dict[str, Any]

_OUTAGE_S = 60.0  # that a soak bears: a pod that moves is back by then


class Outcome(StrEnum):
    UNCHANGED = "unchanged"
    CANARY = "canary"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"


class Rollout:
    """What can be done with one service.

    Args:
      cluster: to work on, in its namespace.
      platform: Seldon or KServe.
      name: of the service.
      training: whose versions it serves.
      say: gets a line for each step.
    """

    def __init__(
        self, cluster: Cluster, platform: Platform, name: str, training: str, say: Callable[[str], None]
    ) -> None:
        self._service = Service(cluster, platform, name, training, say)
        self._platform, self._say = platform, say

    def deploy(self, release: Release, share: int, timeout_s: float, soak_s: float, *, promote: bool) -> Outcome:
        """Bring a version to the requests, all of them if it is the first.

        Args:
          release: the version.
          share: percent of the requests for the canary; 100 gives it all of them at once, when it is ready.
          timeout_s: seconds until it must be ready.
          soak_s: seconds that it must stay ready with its share, before it is promoted.
          promote: go on to all requests; else stay with the share.

        Raises:
          RolloutError: it did not get, or stay, ready; what served before serves alone.
          InputError: another canary is under way, or the name is taken.
          SetupError: the platform is not installed.
          ClusterError: Kubernetes refuses.
        """
        self._platform.check(release)
        service = self._service.find()
        if service is None:
            return self._begin(release, timeout_s)
        split = self._platform.split(service)
        if split == Split(release.version):
            self._wait_until_ready(release.version, timeout_s)
            return self._tell(Outcome.UNCHANGED, split)
        if share < 100:
            self._platform.check_split(service)
        self._put(release, split.share if split.canary else 0)
        with self._guarded(release.version):
            self._give(release, share, timeout_s)
            if promote:
                self._require_still_ready(release.version, soak_s)
        return self.promote(release.version) if promote else self._tell(Outcome.CANARY, self._service.split())

    def promote(self, version: str) -> Outcome:
        """Give a canary all requests.

        Raises:
          InputError: the version is not the canary.
        """
        split = self._service.split()
        if split == Split(version):
            return self._tell(Outcome.UNCHANGED, split)

        def edit(service: Document) -> Document:
            now = self._platform.split(service)
            if now.canary != version:
                raise InputError(f"{version} is no canary of {self._service}: {now}")
            return self._platform.promoted(service)

        return self._tell(Outcome.PROMOTED, self._service.change(edit))

    def roll_back(self) -> Outcome:
        """Take the canary away, if there is one."""
        split = self._service.split()
        if not split.canary:
            return self._tell(Outcome.UNCHANGED, split)
        return self._tell(Outcome.ROLLED_BACK, self._take_back(split.canary))

    def _begin(self, release: Release, timeout_s: float) -> Outcome:
        """Make the service; without a version that served before, nothing is left of one that fails."""
        self._service.create(release)
        self._say(f"made {self._service} with {release.version}")
        try:
            self._wait_until_ready(release.version, timeout_s)
        except BaseException:
            with self._telling(f"{self._service} could not be deleted"):
                self._service.delete()
                self._say(f"deleted {self._service}")
            raise
        return self._tell(Outcome.PROMOTED, Split(release.version))

    def _put(self, release: Release, share: int) -> Split:
        """Have a release as the canary, with a share."""

        def edit(service: Document) -> Document:
            now, version = self._platform.split(service), release.version
            if now.canary not in ("", version):
                raise InputError(
                    f"{self._service}: {now}; promote {now.canary} or roll it back before {version} is the canary"
                )
            return self._platform.with_canary(service, release, share)

        return self._service.change(edit)

    def _give(self, release: Release, share: int, timeout_s: float) -> None:
        """Give a canary its share as soon as it is ready; all requests it gets by its promotion."""
        self._wait_until_ready(release.version, timeout_s)
        if share < 100:
            self._say(str(self._put(release, share)))
            self._wait_until_ready(release.version, timeout_s)

    def _take_back(self, version: str) -> Split:
        """Take a canary away, unless somebody has already."""

        def edit(service: Document) -> Document:
            is_there = self._platform.split(service).canary == version
            return self._platform.rolled_back(service) if is_there else service

        return self._service.change(edit)

    @contextlib.contextmanager
    def _guarded(self, version: str) -> Iterator[None]:
        """Take a canary back if it fails, or the run is ended."""
        try:
            yield
        except BaseException:
            with self._telling(f"{version} could not be rolled back; do it by the action rollback"):
                self._say(f"rolled {version} back: {self._take_back(version)}")
            raise

    @contextlib.contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        """Tell of an error while there is another one to raise."""
        try:
            yield
        except FedEdgeError as error:
            self._say(f"{what}: {error}")

    def _wait_until_ready(self, version: str, seconds: float) -> None:
        unheard = State(False, "nothing was heard of it")
        state = self._service.watch(version, seconds, unheard, lambda state: state.ready)
        if not state.ready:
            raise self._failed(version, f"is not ready after {seconds:.0f} s", state)

    def _require_still_ready(self, version: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            state = self._service.watch(version, left, State(True), lambda state: not state.ready)
            if not state.ready:
                state = self._service.watch(version, _OUTAGE_S, state, lambda state: state.ready)
            if not state.ready:
                raise self._failed(version, "did not stay ready", state)

    def _failed(self, version: str, what: str, state: State) -> RolloutError:
        why = self._service.why_not_ready(version) or state.detail
        return RolloutError(f"{version} of {self._service} {what}: {why}")

    def _tell(self, outcome: Outcome, split: Split) -> Outcome:
        self._say(f"{outcome}: {split}")
        return outcome
