"""The tensorflow image as Kubernetes and the Docker runner use it."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

import fededge

REPOSITORY = Path(__file__).parents[2]

# What a person's Docker runner and a restricted pod give a container at worst.
NOBODY_KNOWN = ["--user", "12345:12345", "--read-only", "--tmpfs", "/tmp"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]  # the first build downloads a gigabyte


@pytest.fixture
def run(docker_host: str, image: str):
    def run(*command: str, options: list[str] | None = None) -> str:
        """Run a command in a container without a network or privileges, and return what it printed."""
        restricted = ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none"]
        docker = ["docker", "--host", docker_host, "run", "--rm", *restricted, *(options or [])]
        done = subprocess.run([*docker, image, *command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def config(docker_host: str, image: str) -> dict:
    inspect = ["docker", "--host", docker_host, "image", "inspect", "--format", "{{json .Config}}", image]
    return json.loads(subprocess.run(inspect, capture_output=True, check=True).stdout)


def locked() -> dict[str, str]:
    lock = (REPOSITORY / "images" / "tensorflow" / "requirements.lock").read_text()
    return dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))


def test_user_is_numeric_and_not_root(config: dict, run) -> None:
    assert config["User"] == "1000:1000"
    assert run("id", "-u").strip() == "1000"


def test_labels(config: dict) -> None:
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in config["Labels"].items() if name.startswith(prefix)}
    assert labels["title"] == "fededge-tensorflow"
    assert labels["version"] == fededge.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["revision"])


def test_has_no_tools_to_build_or_install_with(run) -> None:
    tools = "gcc g++ cc c++ clang ld make cmake pip pip3 uv"
    assert run("sh", "-c", f"for tool in {tools}; do command -v $tool; done; true") == ""
    for python in ("python3", "$(python3 -c 'import sys; print(sys._base_executable)')"):
        found = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'wheel') if u.find_spec(n)])"
        assert run("sh", "-c", f"{python} -c {shlex.quote(found)}").strip() == "[]"


def test_has_exactly_what_is_locked(run) -> None:
    program = """
import importlib.metadata, json, re
packages = importlib.metadata.distributions()
print(json.dumps({re.sub("[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in packages}))
"""
    assert json.loads(run("python3", "-c", program)) == {**locked(), "fededge": fededge.__version__}


def test_code_is_compiled(run) -> None:
    """TensorFlow takes three times as long to import without byte code, and no container can keep what it compiles."""
    program = """
import fededge, importlib.util, json, pathlib, tensorflow
for module in (json, tensorflow, fededge):
    assert pathlib.Path(importlib.util.cache_from_source(module.__file__)).exists(), module
"""
    run("python3", "-c", program)


@pytest.mark.parametrize("options", [[], NOBODY_KNOWN], ids=["uid-1000", "unknown-uid-read-only"])
def test_imports(run, options: list[str]) -> None:
    program = """
import getpass, os, pathlib, tempfile
os.environ["_KFP_RUNTIME"] = "true"  # as in the command of a component
import tensorflow, tensorflow_federated, tensorflow_model_optimization, kfp, kfp.dsl, fededge
import matplotlib.pyplot as plot, minio, psutil, pydantic, safetensors, sklearn.datasets
assert getpass.getuser() == "fededge"
assert pathlib.Path.home() == pathlib.Path("/tmp")
plot.plot([1, 2])
plot.savefig(pathlib.Path(tempfile.gettempdir(), "curve.svg"))
print(sklearn.datasets.load_digits().data.shape)
"""
    assert run("python3", "-c", program, options=options).strip() == "(1797, 64)"


@pytest.mark.parametrize("options", [[], NOBODY_KNOWN], ids=["uid-1000", "unknown-uid-read-only"])
def test_federated_computation(run, options: list[str]) -> None:
    program = """
import psutil, tensorflow as tf, tensorflow_federated as tff

@tff.tensorflow.computation(tf.int32)
def successor(x):
    return x + 1

print(successor(41))
assert "worker_binary" in [child.name() for child in psutil.Process().children(recursive=True)]
"""
    assert run("python3", "-c", program, options=options).strip() == "42"


def test_executes_a_component(run, image: str) -> None:
    """The command that KFP compiles, as its backend would fill it in."""
    dsl = pytest.importorskip("kfp.dsl")

    @dsl.component(base_image=image, install_kfp_package=False)
    def successor(number: int) -> int:
        import fededge

        print("fededge", fededge.__version__, "says", number + 1)  # noqa: T201 a container's only output here
        return number + 1

    container = successor.component_spec.implementation.container
    executor_input = {
        "inputs": {"parameterValues": {"number": 41}},
        "outputs": {"parameters": {"Output": {"outputFile": "/tmp/Output"}}, "outputFile": "/tmp/outputs.json"},
    }
    arguments = [json.dumps(executor_input) if argument == "{{$}}" else argument for argument in container.args]
    printed = run(*container.command, *arguments, options=NOBODY_KNOWN)
    assert f"fededge {fededge.__version__} says 42" in printed
