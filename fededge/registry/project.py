"""Sets up a project in Harbor: scanned on push, immutable tags, a robot account that can pull and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from fededge.errors import InputError, RegistryError
from fededge.registry.harbor import Harbor
from fededge.registry.harbor_data import Access, Permission, Project, Robot, Rule, Selector
from fededge.registry.scans import Level

Action = Literal["created", "changed", "replaced", "unchanged"]

_PULL = Access(resource="repository", action="pull")
_EVERYTHING = "**"
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")


@dataclass(frozen=True)
class Wish:
    """What a project is to be like.

    Attributes:
      project: its name.
      severity: images with a vulnerability as bad as this, or worse, cannot be pulled.
      robot: name of the robot account, without the project's.
      days: for which the robot account is valid; -1 for ever.
      new_secret: give a robot account that there is already another secret.
    """

    project: str
    severity: Level = "high"
    robot: str = "fededge-pull"
    days: int = 365
    new_secret: bool = False

    @property
    def metadata(self) -> dict[str, str]:
        return {
            "auto_scan": "true",
            "prevent_vul": "true",
            "severity": self.severity,
            # Docker's notary, which Harbor has no more, and cosign's: nothing here signs images.
            "enable_content_trust": "false",
            "enable_content_trust_cosign": "false",
        }

    @property
    def rule(self) -> Rule:
        """Every tag of every repository: what was pushed stays what it was."""
        return Rule(
            tag_selectors=(Selector(decoration="matches", pattern=_EVERYTHING),),
            scope_selectors={"repository": (Selector(decoration="repoMatches", pattern=_EVERYTHING),)},
        )

    @property
    def permissions(self) -> tuple[Permission, ...]:
        return (Permission(kind="project", namespace=self.project, access=(_PULL,)),)

    @property
    def robot_body(self) -> dict[str, Any]:
        return {
            "name": self.robot,
            "level": "project",
            "description": "Pulls the images of FedEdge's pipelines",
            "duration": self.days,
            "disable": False,
            "permissions": [each.model_dump() for each in self.permissions],
        }


@dataclass(frozen=True)
class Step:
    """What was done to one thing, or with a dry run would be."""

    what: str
    action: Action
    detail: str = ""


@dataclass(frozen=True)
class Setup:
    """How a project was set up.

    Attributes:
      robot: with its secret where it got one now; None for a dry run that would make it.
    """

    steps: tuple[Step, ...]
    robot: Robot | None

    @property
    def changed(self) -> bool:
        return any(step.action != "unchanged" for step in self.steps)


def set_up(harbor: Harbor, wish: Wish, dry_run: bool = False) -> Setup:
    """Make a project as it is wished for; what is so already is left alone.

    Args:
      harbor: as somebody who may create projects, or administers this one.
      wish: what it is to be like.
      dry_run: only tell what would be done.

    Raises:
      RegistryError: Harbor refuses.
    """
    if wrong := [name for name in (wish.project, wish.robot) if not _NAME.fullmatch(name)]:
        raise InputError(f"{wrong[0]!r} is no name for Harbor: small letters and digits, with . _ or - between them")
    if wish.days != -1 and wish.days < 1:
        raise InputError(f"a robot account for {wish.days} days: take 1 or more, or -1 for ever")
    work = _Work(harbor, wish, dry_run)
    project, first = work.project()
    second = work.rule(project)
    third, robot = work.robot(project)
    return Setup((first, second, third), robot)


@dataclass(frozen=True)
class _Work:
    harbor: Harbor
    wish: Wish
    dry_run: bool

    def project(self) -> tuple[Project | None, Step]:
        """Make the project, or change it; none where a dry run would make it."""
        what, metadata = f"project {self.wish.project}", self.wish.metadata
        project = self.harbor.project(self.wish.project)
        if project is None:
            made = Step(what, "created", _settings(metadata))
            if self.dry_run:
                return None, made
            # Who may see a project that there is already, is for its owner to say.
            created = self.harbor.create_project(self.wish.project, {"public": "false", **metadata})
            project = self._existing()
            if created:
                return project, made
        other = {key: value for key, value in metadata.items() if (project.metadata.get(key) or "false") != value}
        if not other:
            return project, Step(what, "unchanged")
        if not self.dry_run:
            self.harbor.update_project(self.wish.project, other)
        return project, Step(what, "changed", _settings(other))

    def _existing(self) -> Project:
        project = self.harbor.project(self.wish.project)
        if project is None:
            name = self.wish.project
            raise RegistryError(
                f"Harbor has a project {name} that this account does not see: take one that administers it"
            )
        return project

    def rule(self, project: Project | None) -> Step:
        """Make the rule for immutable tags, or enable it."""
        what, wanted = "rule for immutable tags", self.wish.rule
        rules = self.harbor.rules(project.name) if project else []
        same = [rule for rule in rules if rule.model_copy(update={"id": 0, "disabled": False}) == wanted]
        if any(not rule.disabled for rule in same):
            return Step(what, "unchanged")
        if same:
            if not self.dry_run:
                self.harbor.update_rule(self.wish.project, same[0].model_copy(update={"disabled": False}))
            return Step(what, "changed", "enabled again")
        if not self.dry_run:
            self.harbor.create_rule(self.wish.project, wanted)
        return Step(what, "created", "every tag of every repository")

    def robot(self, project: Project | None) -> tuple[Step, Robot | None]:
        """Make the robot account, or mend it; none where a dry run would make it."""
        what = f"robot account {self.wish.robot}"
        robot = self._find(project)
        if robot is None:
            made = None if self.dry_run else self.harbor.create_robot(self.wish.robot_body)
            if made or self.dry_run:
                return Step(what, "created", self._abilities()), made
            robot = self._find(project)  # the answer that made it was lost
        if robot is None:
            raise RegistryError(f"Harbor has another {what} that it does not list: choose another name with --robot")
        if 0 <= robot.expires_at <= self.harbor.now():
            return Step(what, "replaced", f"it had expired; {self._abilities()}"), self._replace(robot)
        return self._mend(robot, what)

    def _find(self, project: Project | None) -> Robot | None:
        robots = self.harbor.robots(project) if project else []
        # Harbor puts a prefix before it that its administrator chooses.
        ending = f"{self.wish.project}+{self.wish.robot}"
        return next((robot for robot in robots if robot.name.endswith(ending)), None)

    def _replace(self, robot: Robot) -> Robot | None:
        """Make an expired account anew: Harbor counts its days from the day when it was made."""
        if self.dry_run:
            return robot
        self.harbor.delete_robot(robot)
        return self.harbor.create_robot(self.wish.robot_body)

    def _mend(self, robot: Robot, what: str) -> tuple[Step, Robot]:
        said = []
        if _mismatch(robot, self.wish):
            said.append(self._abilities())
            if not self.dry_run:
                self.harbor.update_robot(robot, self.wish.robot_body)
        if self.wish.new_secret:
            said.append("another secret; the one before is refused from now on")
            if not self.dry_run:
                robot = robot.model_copy(update={"secret": self.harbor.new_secret(robot)})
        return Step(what, "changed" if said else "unchanged", "; ".join(said)), robot

    def _abilities(self) -> str:
        days = "for ever" if self.wish.days == -1 else f"for {self.wish.days} days"
        return f"can pull from {self.wish.project} and nothing else, {days}"


def _settings(metadata: dict[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in metadata.items())


def _mismatch(robot: Robot, wish: Wish) -> bool:
    return robot.disable or robot.duration != wish.days or _rights(robot.permissions or ()) != _rights(wish.permissions)


def _rights(permissions: tuple[Permission, ...]) -> set[tuple[str, str, str, str]]:
    return {
        (each.kind, each.namespace, access.resource, access.action) for each in permissions for access in each.access
    }
