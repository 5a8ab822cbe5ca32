"""What a local run's parent tells its child."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

LABEL = "fededge.run"


class Docker(BaseModel):
    """How containers reach what is outside of them.

    Attributes:
      folders: bound at the same path inside.
      passed_on: names of this process's variables that every container gets; they can be secrets, so their values
        are not written down.
      environment: more variables.
      user: `uid:gid`; files in the folders belong to it.
      network: a Docker network, or `host`.
      run: the run's name, which every container carries as `LABEL`, so that those of an ended run can be found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folders: list[Path]
    passed_on: list[str]
    environment: dict[str, str]
    user: str
    network: str
    run: str


class Interpreter(BaseModel):
    """Runs the steps of one image.

    Attributes:
      python: of the image's environment.
      environment: variables of its processes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    python: Path
    environment: dict[str, str]


class Job(BaseModel):
    """One execution of a compiled pipeline on this machine.

    Attributes:
      pipeline: the YAML.
      arguments: its inputs.
      root: where kfp writes outputs.
      interpreters: by image; empty with Docker.
      docker: run in containers; None runs in environments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pipeline: Path
    arguments: dict[str, str | bool | int | float]
    root: Path
    interpreters: dict[str, Interpreter] = {}
    docker: Docker | None = None
