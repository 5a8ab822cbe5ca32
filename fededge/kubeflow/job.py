"""What a local run's parent tells its child."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Docker(BaseModel):
    """How containers reach what is outside of them.

    Attributes:
      folders: bound at the same path inside.
      environment: variables of every container.
      user: `uid:gid`; files in the folders belong to it.
      network: a Docker network, or `host`.
      label: on every container, so that those of an interrupted run can be found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: list[Path]
    environment: dict[str, str]
    user: str
    network: str
    label: str


class Job(BaseModel):
    """One execution of a compiled pipeline on this machine.

    Attributes:
      pipeline: the YAML.
      arguments: its inputs.
      root: where kfp writes outputs.
      pythons: for each image the interpreter of its environment; empty with Docker.
      environment: variables of every step.
      docker: run in containers; None runs in environments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: Path
    arguments: dict[str, str | int | float]
    root: Path
    pythons: dict[str, Path] = {}
    environment: dict[str, str] = {}
    docker: Docker | None = None


Runner = Literal["environment", "docker"]
