"""The process in which kfp runs a pipeline: `python -m fededge.kubeflow.child job.json`.

A process of its own, because kfp's local runner replaces `print` and keeps global state; in a group of its own, so
that ending the group ends every step. It ends itself when its parent is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from kfp import components, local

from fededge.kubeflow.interpreters import use_interpreters
from fededge.kubeflow.job import LABEL, Docker, Job


def main(path: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = Job.model_validate_json(path.read_bytes())
    # kfp removes the workspace at the end, so it must not be where the outputs are.
    local.init(runner=_runner(job), pipeline_root=str(job.root), workspace_root=str(job.root / "workspace"))
    components.load_component_from_file(str(job.pipeline))(**job.arguments)


def _runner(job: Job) -> local.SubprocessRunner | local.DockerRunner:
    if job.docker:
        return _docker_runner(job.docker)
    use_interpreters(job.interpreters)
    return local.SubprocessRunner(use_venv=False)


def _docker_runner(docker: Docker) -> local.DockerRunner:
    from docker.types import Mount

    return local.DockerRunner(
        mounts=[Mount(target=str(folder), source=str(folder), type="bind") for folder in docker.folders],
        environment={**{name: os.environ[name] for name in docker.passed_on}, **docker.environment},
        user=docker.user,
        network=docker.network,
        labels={LABEL: docker.run},
    )


def _end_with_parent() -> None:
    """Wait until the parent's end of our standard input is closed, then end this process group."""
    os.read(sys.stdin.fileno(), 1)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
