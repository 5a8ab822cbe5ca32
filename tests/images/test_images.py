"""Each image as Kubernetes and the Docker runner use it."""

import json
import re
import shlex
import subprocess

import pytest

import fededge
from fededge.shipped import image_names
from tests.images.build import REPOSITORY, build

# By image: what its workloads import, and a computation whose result is 42.
LIBRARIES = {
    "sklearn": "sklearn.datasets, skops.io",
    "tensorflow": "tensorflow, tensorflow_federated, tensorflow_model_optimization, psutil, sklearn.datasets",
    "torch": "torch, sklearn.datasets",
}
COMPUTATIONS = {
    "sklearn": """
import skops.io
from sklearn.linear_model import LinearRegression
model = skops.io.loads(skops.io.dumps(LinearRegression().fit([[1], [2]], [2, 3])))
print(round(model.predict([[41]])[0]))
""",
    "tensorflow": """
import psutil, tensorflow as tf, tensorflow_federated as tff

@tff.tensorflow.computation(tf.int32)
def successor(x):
    return x + 1

print(successor(41))
assert "worker_binary" in [child.name() for child in psutil.Process().children(recursive=True)]
""",
    "torch": """
import torch
assert torch.version.cuda is None
weight = torch.nn.Parameter(torch.tensor(41.0))
(-weight).backward()
torch.optim.SGD([weight], lr=1.0).step()
print(round(weight.item()))
""",
}

# What a person's Docker runner and a restricted pod give a container at worst.
NOBODY_KNOWN = ["--user", "12345:12345", "--read-only", "--tmpfs", "/tmp"]

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]  # the first build downloads a gigabyte


# Servers run no components, and have a test of their own.
STEP_IMAGES = [name for name in image_names() if (REPOSITORY / "images" / name / "executor.in").exists()]


@pytest.fixture(scope="module", params=STEP_IMAGES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def image(docker_host: str, name: str) -> str:
    return build(docker_host, name)


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


def test_user_is_numeric_and_not_root(config: dict, run) -> None:
    assert config["User"] == "1000:1000"
    assert run("id", "-u").strip() == "1000"


def test_labels(config: dict, name: str) -> None:
    prefix = "org.opencontainers.image."
    labels = {key.removeprefix(prefix): value for key, value in config["Labels"].items() if key.startswith(prefix)}
    assert labels["title"] == f"fededge-{name}"
    assert labels["version"] == fededge.__version__
    assert labels["licenses"] == "Apache-2.0"
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", labels["revision"])


def test_has_no_tools_to_build_or_install_with(run) -> None:
    tools = "gcc g++ cc c++ clang ld make cmake pip pip3 uv"
    assert run("sh", "-c", f"for tool in {tools}; do command -v $tool; done; true") == ""
    for python in ("python3", "$(python3 -c 'import sys; print(sys._base_executable)')"):
        found = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'wheel') if u.find_spec(n)])"
        assert run("sh", "-c", f"{python} -c {shlex.quote(found)}").strip() == "[]"


def test_has_exactly_what_is_locked(run, name: str) -> None:
    lock = (REPOSITORY / "images" / name / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", lock, flags=re.MULTILINE))
    program = """
import importlib.metadata, json, re
packages = importlib.metadata.distributions()
print(json.dumps({re.sub("[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in packages}))
"""
    assert json.loads(run("python3", "-c", program)) == {**locked, "fededge": fededge.__version__}


def test_code_is_compiled(run, name: str) -> None:
    """TensorFlow takes three times as long to import without byte code, and no container can keep what it compiles."""
    program = f"""
import fededge, importlib.util, json, pathlib, {name}
for module in (json, {name}, fededge):
    assert pathlib.Path(importlib.util.cache_from_source(module.__file__)).exists(), module
"""
    run("python3", "-c", program)


@pytest.mark.parametrize("options", [[], NOBODY_KNOWN], ids=["uid-1000", "unknown-uid-read-only"])
def test_imports(run, name: str, options: list[str]) -> None:
    program = f"""
import getpass, os, pathlib, tempfile
os.environ["_KFP_RUNTIME"] = "true"  # as in the command of a component
import {LIBRARIES[name]}, kfp, kfp.dsl, fededge
import matplotlib.pyplot as plot, minio, pydantic, safetensors
assert getpass.getuser() == "fededge"
assert pathlib.Path.home() == pathlib.Path("/tmp")
plot.plot([1, 2])
plot.savefig(pathlib.Path(tempfile.gettempdir(), "curve.svg"))
print(sklearn.datasets.load_digits().data.shape)
"""
    assert run("python3", "-c", program, options=options).strip() == "(1797, 64)"


def test_steps_that_load_a_workload_load_no_framework_themselves(run) -> None:
    program = """
import sys
import fededge.steps.distribute_model, fededge.steps.evaluate_model, fededge.steps.train_clients
print({"sklearn", "tensorflow", "tensorflow_federated", "torch"} & sys.modules.keys())
"""
    assert run("python3", "-c", program).strip() == "set()"


@pytest.mark.parametrize("options", [[], NOBODY_KNOWN], ids=["uid-1000", "unknown-uid-read-only"])
def test_computes(run, name: str, options: list[str]) -> None:
    assert run("python3", "-c", COMPUTATIONS[name], options=options).strip() == "42"


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
