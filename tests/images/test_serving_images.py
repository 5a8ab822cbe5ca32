"""The images of the servers, as a restricted pod has them."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

import fededge
from tests.images.build import REPOSITORY, build

LIBRARIES = {"serving": "torch, sklearn.linear_model", "serving-tensorflow": "tensorflow, sklearn.datasets"}
RESTRICTED = [
    "--user", "12345:12345", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL",
    "--security-opt", "no-new-privileges", "--network", "none",
]  # fmt: skip

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=sorted(LIBRARIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def image(docker_host: str, name: str) -> str:
    return build(docker_host, name)


def _run(docker_host: str, image: str, *command: str) -> subprocess.CompletedProcess[str]:
    docker = ["docker", "--host", docker_host, "run", "--rm", *RESTRICTED, image, *command]
    return subprocess.run(docker, capture_output=True, text=True, timeout=300)


def test_has_exactly_what_is_locked(docker_host: str, image: str, name: str) -> None:
    lock = (REPOSITORY / "images" / name / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))
    program = """
import importlib.metadata, json, re
packages = importlib.metadata.distributions()
print(json.dumps({re.sub("[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in packages}))
"""
    done = _run(docker_host, image, "python3", "-c", program)
    assert json.loads(done.stdout) == {**locked, "fededge": fededge.__version__}


def test_it_serves_when_it_is_started(docker_host: str, image: str) -> None:
    done = _run(docker_host, image)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == "error: training: Field required; see --help"


def test_libraries_load_where_nothing_can_be_written(docker_host: str, image: str, name: str) -> None:
    done = _run(docker_host, image, "python3", "-c", f"import mlserver, {LIBRARIES[name]}; print('loaded')")
    assert done.stdout.strip() == "loaded", done.stderr
