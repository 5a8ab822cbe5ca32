"""What Harbor answers, as far as FedEdge needs it.

Source: goharbor/harbor, api/v2.0/swagger.yaml.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

_RANKS = {name: rank for rank, name in enumerate(("none", "negligible", "low", "medium", "high", "critical"))}


def rank(severity: str) -> int:
    """Order severities as Harbor does: what has no priority yet is last, a word that is unknown to both is first."""
    return _RANKS.get("none" if severity.lower() in ("unknown", "") else severity.lower(), 99)


class Answered(BaseModel):
    """Part of an answer; what we do not need of it is left out."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Summary(Answered):
    """How many vulnerabilities a scan found: altogether, with a fix, and by severity, as `{"High": 5}`."""

    total: int = 0
    fixable: int = 0
    summary: dict[str, int] | None = None


class Report(Answered):
    """What Harbor knows of the scan of an image.

    Attributes:
      scan_status: Pending, Scheduled, Running, Success, Error or Stopped.
      severity: of the worst vulnerability; Unknown until there is one.
      complete_percent: how many of an index's images are scanned; 0 where that is not said.
    """

    report_id: str = ""
    scan_status: str = ""
    severity: str = ""
    complete_percent: int = 0
    end_time: datetime | None = None
    summary: Summary | None = None


class Artifact(Answered):
    """An image in Harbor.

    Attributes:
      scan_overview: by the report's media type; None where nothing was ever scanned.
    """

    digest: str
    scan_overview: dict[str, Report] | None = None

    @property
    def report(self) -> Report | None:
        """The scan's report; of several, the worst."""
        reports = (self.scan_overview or {}).values()
        return max(reports, key=lambda report: (report.scan_status != "Success", rank(report.severity)), default=None)


class Vulnerability(Answered):
    id: str
    package: str = ""
    version: str = ""
    fix_version: str = ""
    severity: str = "Unknown"


class Project(Answered):
    project_id: int
    name: str
    metadata: dict[str, str | None] = Field(default_factory=dict)


class Selector(Answered):
    kind: str = "doublestar"
    decoration: str
    pattern: str


class Rule(Answered):
    """A rule that makes tags immutable."""

    id: int = 0
    disabled: bool = False
    action: str = "immutable"
    template: str = "immutable_template"
    tag_selectors: tuple[Selector, ...] = ()
    scope_selectors: dict[str, tuple[Selector, ...]] = Field(default_factory=dict)


class Access(Answered):
    resource: str
    action: str


class Permission(Answered):
    kind: str
    namespace: str
    access: tuple[Access, ...] = ()


class Robot(Answered):
    """A robot account.

    Attributes:
      name: as Harbor shows it, and as it logs in: `robot$project+name`.
      duration: days; -1 for ever.
      expires_at: seconds of Unix time; -1 for never.
      secret: only in the answer that makes it.
    """

    id: int
    name: str
    level: str = "project"
    disable: bool = False
    duration: int | None = None
    expires_at: int = -1
    permissions: tuple[Permission, ...] | None = None
    secret: str = Field(default="", repr=False)
