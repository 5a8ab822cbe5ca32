"""Judges images by what Harbor's scanner found in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel

from fededge.errors import RegistryError
from fededge.registry.harbor import Harbor
from fededge.registry.harbor_data import Artifact, Report, Vulnerability, rank
from fededge.registry.reference import Reference

Level = Literal["low", "medium", "high", "critical"]
State = Literal["ok", "vulnerable", "elsewhere", "missing", "unscanned", "scanning", "failed", "stale"]
# What a scan makes better.
_SCANNABLE = ("unscanned", "failed", "stale")
_ADVICE: dict[State, str] = {
    "ok": "",
    "vulnerable": "use a newer base image or newer packages, build and push again",
    "elsewhere": "push it to this Harbor, whose scanner sees it: fededge images push",
    "missing": "push it: fededge images push",
    "unscanned": "start a scan with --scan, and have Harbor scan on push: fededge images harbor-setup",
    "scanning": "wait for it with --scan",
    "failed": "start another with --scan; Harbor has the log of the scan",
    "stale": "scan again with --scan, or have Harbor scan every day",
}
_SHOWN = 5  # vulnerabilities that a reason names

_POLL = 2.0  # seconds


@dataclass(frozen=True)
class Policy:
    """When an image is refused.

    Attributes:
      severity: a vulnerability as bad as this, or worse, is one too many.
      fixable_only: count only those that a newer version of the package fixes.
      max_age: days for which a scan counts: new vulnerabilities become known every day.
    """

    severity: Level = "high"
    fixable_only: bool = False
    max_age: float = 7.0


class Verdict(BaseModel):
    """What became of one image.

    Attributes:
      image: as it was named.
      digest: what the name means to Harbor now; empty if nothing.
      reason: why it is refused; empty if it is not.
      advice: what to do about that.
      found: vulnerabilities by severity, as `{"High": 5}`.
      fixable: how many of all that a newer version fixes.
      scanned: when the scan ended.
    """

    image: str
    state: State
    digest: str = ""
    reason: str = ""
    advice: str = ""
    found: dict[str, int] = {}
    fixable: int = 0
    scanned: datetime | None = None

    @property
    def passed(self) -> bool:
        return self.state == "ok"


@dataclass(frozen=True)
class Checker:
    """Judges images.

    Attributes:
      hosts: those whose images are in this Harbor.
      now: seconds of Unix time, by Harbor's clock.
    """

    harbor: Harbor
    hosts: frozenset[str]
    policy: Policy
    now: float

    def judge(self, image: Reference) -> Verdict:
        """Judge an image by the scan that there is."""
        if image.host not in self.hosts:
            hosts = ", ".join(sorted(self.hosts))
            return _verdict(image, "elsewhere", f"is in {image.host or 'no registry'}, not in {hosts}")
        artifact = self.harbor.artifact(image.repository, image.version)
        if artifact is None:
            return _verdict(image, "missing", "is not in Harbor")
        return self._judge(image, artifact)

    def scan(self, images: Sequence[Reference], wait: float, progress: Callable[[str, str], None]) -> list[Verdict]:
        """Judge images, after a scan of those that have none that counts.

        Args:
          images: to judge.
          wait: seconds for all scans together; what is not scanned by then is refused.
          progress: is told an image and the state of its scan, whenever it asks.
        """
        verdicts = {image: self.judge(image) for image in images}
        before = {image: self._start(image, verdict) for image, verdict in verdicts.items() if _lacks_scan(verdict)}
        deadline = time.monotonic() + wait
        while before and time.monotonic() < deadline:
            time.sleep(_POLL)
            for image, old in list(before.items()):
                status, verdicts[image] = self._look(image, old)
                progress(str(image), status)
                if status in ("Success", "Error", "Stopped"):
                    del before[image]
        return [verdicts[image] for image in images]

    def _start(self, image: Reference, verdict: Verdict) -> str:
        """Start a scan unless one is under way; return the id of the report that it replaces."""
        artifact = self.harbor.artifact(image.repository, image.version)
        old = artifact.report.report_id if artifact and artifact.report else ""
        started = verdict.state != "scanning" and self.harbor.scan(image.repository, image.version)
        return old if started else ""

    def _look(self, image: Reference, old: str) -> tuple[str, Verdict]:
        """Return the state of the scan and what it means; of a report that is to be replaced, that it is pending."""
        artifact = self.harbor.artifact(image.repository, image.version)
        if artifact is None:
            raise RegistryError(f"{image} was deleted from Harbor while it was scanned", 404)
        report = artifact.report
        if report is None or report.report_id == old:
            return "Pending", _verdict(image, "scanning", "is being scanned (Pending)", artifact.digest)
        return report.scan_status, self._judge(image, artifact)

    def _judge(self, image: Reference, artifact: Artifact) -> Verdict:
        report = artifact.report
        if report is None:
            return _verdict(image, "unscanned", "was never scanned", artifact.digest)
        if report.scan_status in ("Error", "Stopped"):
            return _verdict(image, "failed", f"has no scan: the last ended with {report.scan_status}", artifact.digest)
        if report.scan_status != "Success" or report.end_time is None:
            state = report.scan_status or "Pending"
            return _verdict(image, "scanning", f"is being scanned ({state})", artifact.digest)
        if 0 < report.complete_percent < 100:  # of the images of an index
            text = f"is scanned in part ({report.complete_percent} %)"
            return _verdict(image, "failed", text, artifact.digest, report)
        age = (self.now - _utc(report.end_time).timestamp()) / 86_400
        if age > self.policy.max_age:
            text = f"was scanned {age:.0f} days ago, more than {self.policy.max_age:g}"
            return _verdict(image, "stale", text, artifact.digest, report)
        too_bad = self._too_bad(image, report)
        return _verdict(image, "vulnerable" if too_bad else "ok", too_bad, artifact.digest, report)

    def _too_bad(self, image: Reference, report: Report) -> str:
        """Say which vulnerabilities are too bad; empty if none are."""
        counts = report.summary.summary if report.summary else None
        if counts is None:  # a scanner may give no more than the worst
            worst = {report.severity: 1} if rank(report.severity) >= rank(self.policy.severity) else {}
        else:
            worst = {name: n for name, n in counts.items() if n and rank(name) >= rank(self.policy.severity)}
        if not worst:
            return ""
        listed = sorted(self._listed(image), key=lambda each: (-rank(each.severity), each.id))
        if self.policy.fixable_only:
            listed = [each for each in listed if each.fix_version]
            worst = {}
            for each in listed:
                worst[each.severity] = worst.get(each.severity, 0) + 1
        kind = " with a fix" if self.policy.fixable_only else ""
        numbers = " and ".join(
            f"{n} {name.lower()}" for name, n in sorted(worst.items(), key=lambda one: -rank(one[0]))
        )
        noun = "vulnerability" if sum(worst.values()) == 1 else "vulnerabilities"
        return f"has {numbers} {noun}{kind}: {_names(listed)}" if worst else ""

    def _listed(self, image: Reference) -> list[Vulnerability]:
        found = self.harbor.vulnerabilities(image.repository, image.version)
        return [each for each in found if rank(each.severity) >= rank(self.policy.severity)]


def _lacks_scan(verdict: Verdict) -> bool:
    return verdict.state == "scanning" or verdict.state in _SCANNABLE


def _verdict(image: Reference, state: State, reason: str, digest: str = "", report: Report | None = None) -> Verdict:
    summary = report.summary if report else None
    return Verdict(
        image=str(image),
        state=state,
        digest=digest,
        reason=reason,
        advice=_ADVICE[state],
        found=(summary.summary or {}) if summary else {},
        fixable=summary.fixable if summary else 0,
        scanned=_utc(report.end_time) if report and report.end_time else None,
    )


def _names(listed: Sequence[Vulnerability]) -> str:
    """Name the worst, with the version that fixes each."""
    named = [
        f"{each.id} in {each.package} {each.version}" + (f" (fixed in {each.fix_version})" if each.fix_version else "")
        for each in listed[:_SHOWN]
    ]
    return ", ".join(named) + (f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else "")


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
