"""Runs a compiled pipeline on this machine, under kfp's local runner."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

from fededge import events
from fededge.environments import environment, link_library, make
from fededge.errors import InputError, RunError, SetupError
from fededge.events import Event, Tail
from fededge.kubeflow.job import LABEL, Docker, Interpreter, Job
from fededge.kubeflow.yaml_file import images, read_pipeline
from fededge.run_folder import CLIENT_STATE, RunFolder, client_state
from fededge.signals import terminable
from fededge.store.leases import HOLDER

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_PASSED_ON = ("AWS_", "FEDEDGE_")  # how variables begin that steps in containers get
_PATHS = ("AWS_CA_BUNDLE", "FEDEDGE_DATA")  # those of them that name what a container must see
_IMAGE_PREFIX = "fededge-"


Arguments = Mapping[str, str | bool | int | float]


def environments_job(
    folder: RunFolder,
    pipeline: Path,
    arguments: Arguments,
    extras: Sequence[str],
    holder: str,
    say: Callable[[str], None],
) -> Job:
    """Prepare a run in the images' environments, making those that are missing.

    Args:
      folder: of the run.
      pipeline: the YAML.
      arguments: its inputs.
      extras: the user's own packages.
      holder: names the run to others that want the training.
      say: told what is going on.
    """
    library = link_library(folder.path)
    folder.temporary.mkdir()
    common = folder.variables(holder)
    if "FEDEDGE_DATA" in os.environ:  # the pipeline sets it to a container's folder
        common["FEDEDGE_DATA"] = os.environ["FEDEDGE_DATA"]
    interpreters = {}
    for image in images(read_pipeline(pipeline)):
        wanted = environment(_short_name(image), extras)
        make(wanted, say)
        interpreters[image] = Interpreter(python=wanted.python, environment={**wanted.variables(library), **common})
    return Job(pipeline=pipeline, arguments=dict(arguments), root=folder.outputs, interpreters=interpreters)


def docker_job(
    folder: RunFolder, pipeline: Path, arguments: Arguments, folders: Sequence[Path], network: str, holder: str
) -> Job:
    """Prepare a run in containers.

    Args:
      folder: of the run.
      pipeline: the YAML.
      arguments: its inputs.
      folders: that the steps read or write, beside those that variables name.
      network: a Docker network, or `host`.
      holder: names the run to others that want the training.

    Raises:
      SetupError: no Docker engine answers, or it lacks an image.
    """
    _require_images(images(read_pipeline(pipeline)))
    set_paths = {name: Path(os.environ[name]).absolute() for name in _PATHS if os.environ.get(name)}
    paths = {name: path for name, path in set_paths.items() if path.exists()}
    clients = client_state()
    clients.mkdir(parents=True, exist_ok=True)
    docker = Docker(
        folders=sorted({folder.path, clients, *(path.absolute() for path in folders), *paths.values()}),
        passed_on=sorted(name for name in os.environ if name.startswith(_PASSED_ON)),
        environment={
            events.VARIABLE: str(folder.events),
            HOLDER: holder,
            CLIENT_STATE: str(clients),
            **{name: str(path) for name, path in paths.items()},
        },
        user=f"{os.getuid()}:{os.getgid()}",
        network=network,
        run=folder.name,
    )
    return Job(pipeline=pipeline, arguments=dict(arguments), root=folder.outputs, docker=docker)


def run(job: Job, folder: RunFolder) -> Generator[Event, None, None]:
    """Run a job, and yield what its steps tell, as they tell it.

    However this ends – the pipeline, an exception, Ctrl-C, SIGTERM – no process or container of the run is left.

    Raises:
      RunError: the pipeline failed.
    """
    job_file = folder.path / "job.json"
    job_file.write_text(job.model_dump_json(indent=1), encoding="utf-8")
    tail = Tail(folder.events)
    command = [sys.executable, "-P", "-m", "fededge.kubeflow.child", str(job_file)]
    with folder.log.open("wb") as log:
        # Its standard input is how the child notices that this process is gone.
        child = subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        with terminable():
            while child.poll() is None:
                yield from tail
                time.sleep(_POLL_SECONDS)
            yield from tail
    finally:
        _end_group(child)
        shutil.rmtree(folder.temporary, ignore_errors=True)
        if job.docker:
            _remove_containers(job.docker.run)
    if child.returncode:
        raise RunError(f"the pipeline failed; its log is {folder.log}")


def _short_name(image: str) -> str:
    """Return `tensorflow` for `registry/fededge-tensorflow:0.1.0`."""
    name = image.rpartition("/")[2].partition(":")[0].partition("@")[0]
    if not name.startswith(_IMAGE_PREFIX):
        raise InputError(f"there is no environment for image {image}: use --runner docker, or --with for your packages")
    return name.removeprefix(_IMAGE_PREFIX)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """End every process of the child's group, first asking."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE_SECONDS)
    if child.stdin:
        child.stdin.close()


def _require_images(wanted: Sequence[str]) -> None:
    import docker
    from docker.errors import DockerException, ImageNotFound

    try:
        client = docker.from_env()
    except DockerException as error:
        raise SetupError("no Docker engine answers: start it, or set DOCKER_HOST") from error
    with contextlib.closing(client):
        for image in wanted:
            try:
                client.images.get(image)
            except ImageNotFound as error:
                raise SetupError(
                    f"no image {image} on the Docker engine: `make images` builds ours, `docker pull` fetches others"
                ) from error


def _remove_containers(run: str) -> None:
    """Remove the containers of a run, and see that they are gone."""
    import docker
    from docker.errors import APIError

    end = time.monotonic() + _GRACE_SECONDS
    with contextlib.closing(docker.from_env()) as client:
        # The engine may still be making one that was asked for, or removing one that has just ended.
        while left := client.containers.list(all=True, filters={"label": f"{LABEL}={run}"}, ignore_removed=True):
            for container in left:
                with contextlib.suppress(APIError):
                    container.remove(force=True)
            if time.monotonic() > end:
                break
            time.sleep(_POLL_SECONDS)
