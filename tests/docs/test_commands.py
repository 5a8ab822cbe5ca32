"""Every command in README.md and docs/ is run: here, or by the test that the table below names.

The commands of a page are run in the page's order in one folder, with a store in which a training `digits` has made
v1 to v5.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fededge.cli import main
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.cli.trainings import begin_training, open_round, publish_round
from tests.docs import pages
from tests.docs.pages import PAGES, ROOT

# What takes minutes, a network or a service, and where it is run: a test, or `file: text` for a step of the CI.
ELSEWHERE = {
    ". .venv/bin/activate": "tests/docs/test_commands.py::test_the_environment_has_the_command",
    "make run": "tests/pipeline/test_training.py::test_default_training_reaches_its_accuracy",
    "make test": ".ci/run: make test",
    "make images": "tests/conftest.py: build.sh",
    "fededge run": "tests/pipeline/test_training.py::test_default_training_reaches_its_accuracy",
    "fededge run --json": "tests/pipeline/test_training.py::test_what_people_look_at_is_kept",
    "fededge run --rounds 10 --clients 20 --clients-per-round 10": (
        "tests/pipeline/test_training.py::test_continued_training_has_the_rounds_of_one_that_never_stopped"
    ),
    "fededge run adam --server-optimizer adam --server-learning-rate 0.05": (
        "tests/pipeline/test_training.py::test_training_is_bit_for_bit_tff_in_one_process"
    ),
    "fededge run --new --seed 7": "tests/docs/test_commands.py::test_new_takes_the_first_free_name",
    "fededge run --new --initial-model my_model.keras": (
        "tests/steps/test_distribute_model.py::test_own_initial_weights_count_when_the_training_begins"
    ),
    "fededge run --runner docker": (
        "tests/docker/test_docker_runner.py::test_images_and_environments_give_the_same_bits"
    ),
    "fededge run --store s3://models/fededge --runner docker": (
        "tests/docker/test_docker_runner.py::test_a_store_in_s3_with_an_authority_of_its_own"
    ),
    "fededge run --workload mnist --rounds 1 --local-epochs 1 --batch-size 20 --client-learning-rate 0.05": (
        "tests/pipeline/test_mnist.py::test_mnist_trains_from_the_data_folder"
    ),
    "fededge run tumours --workload tumours.workload:workload --with ./examples/tumours --clients 6 --rounds 2": (
        "tests/pipeline/test_own_workload.py::test_example_trains_with_its_package_beside_the_lock"
    ),
    "fededge run tumours --workload tumours.workload:workload --clients 6 --runner docker "
    "--client-image harbor.example.org/me/tumours:1.0": (
        "tests/docker/test_docker_runner.py::test_own_workload_in_an_image_of_its_own"
    ),
    "docker build --tag harbor.example.org/me/tumours:1.0 examples/tumours": (
        "tests/docker/test_docker_runner.py::test_own_workload_in_an_image_of_its_own"
    ),
    "fededge run --clients 20 --rounds 15 --aggregation multi_krum --attackers 6": (
        "tests/steps/test_spool.py::test_a_rule_keeps_a_liar_out_of_the_model"
    ),
    "fededge env run tensorflow -- -m benchmarks.poison --seeds 3 --rounds 15": (
        "tests/benchmarks/test_poison.py::test_the_tables_have_every_rule_and_attack_and_come_out_again"
    ),
    "fededge env run tensorflow -- -m benchmarks.poison --check": (
        "tests/benchmarks/test_poison.py::test_a_client_learns_what_tensorflow_learns"
    ),
    "fededge env create": "Makefile: fededge env create tensorflow",  # `make setup`, before every test
    "fededge versions export digits": (
        "tests/pipeline/test_training.py::test_exported_model_loads_without_fededge"
    ),
    "fededge versions list --store s3://models/fededge": (
        "tests/store/test_s3_run.py::test_a_training_lives_in_s3"
    ),
    "kubectl apply --kustomize manifests/base --namespace my-team": (
        "tests/contract/test_manifests.py::test_kubernetes_takes_the_objects"
    ),
}  # fmt: skip
# Where the steps' environment is not made yet, the doctor says so.
CODES = {
    "fededge doctor": 3,
    "fededge doctor --namespace my-team --store s3://models/fededge": 3,
    # They ask, and there is no terminal.
    "fededge rounds abandon digits": 2,
    "fededge versions forget digits client-000001": 2,
}


class _ReachedError(Exception):
    """A command has understood its options and begins its work."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the commands name, on a machine that has nothing else."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    for name in list(os.environ):
        if name.startswith(("AWS_", "FEDEDGE_", "KUBERNETES_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")  # nothing answers
    monkeypatch.setenv("KUBECONFIG", str(home / "no-kubeconfig"))
    monkeypatch.setenv("FEDEDGE_ENVIRONMENTS", str(tmp_path / "environments"))
    _make_training(FolderStore(home / ".fededge" / "store"))
    for name in ("manifests", "examples"):
        shutil.copytree(ROOT / name, home / name)
    (home / "digests.json").write_text(f'{{"fededge-tensorflow:0.1.0": "sha256:{"ab" * 32}"}}')
    (home / "my_model.keras").touch()
    return home


def _make_training(store: FolderStore) -> None:
    """Begin `digits`, and publish v1 to v5."""
    trainings = begin_training(store, "digits")
    for _ in range(5):
        publish_round(trainings)


def _leave_a_round_open(store: FolderStore) -> None:
    """Do what a run does that is killed."""
    trainings = TrainingStore(store, "digits")
    _, token = open_round(trainings, "run 2")
    trainings.lease.release(token)


@pytest.mark.parametrize("page", PAGES, ids=pages.name)
def test_commands_work_in_their_order(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if any(command.startswith("fededge rounds") for command in pages.commands(page)):
        _leave_a_round_open(FolderStore(folder / ".fededge" / "store"))
    for command in pages.commands(page):
        program, *arguments = shlex.split(command)
        if program == "export":
            for assignment in arguments:
                name, _, value = assignment.partition("=")
                monkeypatch.setenv(name, os.path.expandvars(value))
        elif command in ELSEWHERE:
            if program == "fededge":
                _understands(arguments, monkeypatch)
        elif program == "fededge":
            assert _fededge(arguments, monkeypatch) == CODES.get(command, 0), f"{command}: {capfd.readouterr().err}"
        elif program == "kubectl":
            if shutil.which("kubectl"):
                subprocess.run([program, *arguments], check=True, capture_output=True)
        else:
            pytest.fail(f"{command}: nothing runs this; name its test in ELSEWHERE")


def _fededge(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["fededge", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    code = end.value.code
    assert code is None or isinstance(code, int)
    return code or 0


def _understands(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make sure that a command's options exist and go together, and stop it where its work begins."""

    def reached(*_: object, **__: object) -> None:
        raise _ReachedError

    with monkeypatch.context() as patch:
        for place in ("cli.run.open_store", "cli.versions.open_store", "cli.rounds.open_store", "environments.make"):
            patch.setattr(f"fededge.{place}", reached)
        patch.setattr("sys.argv", ["fededge", *arguments])
        with pytest.raises(_ReachedError):
            main()


def test_new_takes_the_first_free_name(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []

    def say(line: str) -> None:
        said.append(line)
        raise _ReachedError

    monkeypatch.setattr("fededge.cli.run.say", say)
    monkeypatch.setattr("sys.argv", ["fededge", "run", "--new", "--seed", "7"])
    with pytest.raises(_ReachedError):
        main()
    assert said[0].startswith("training digits-2 in ")


@pytest.mark.skipif(not (ROOT / ".venv" / "ready").exists(), reason="`make setup` has not made .venv")
def test_the_environment_has_the_command() -> None:
    command = ". .venv/bin/activate && fededge --version"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("evidence", sorted(set(ELSEWHERE.values())))
def test_what_runs_a_command_elsewhere_exists(evidence: str) -> None:
    if "::" in evidence:
        file, _, test = evidence.partition("::")
        assert re.search(rf"^def {test}\(", (ROOT / file).read_text(), re.MULTILINE)
    else:
        file, _, text = evidence.partition(": ")
        assert text in (ROOT / file).read_text()


def test_the_table_has_no_command_that_no_page_has() -> None:
    typed = {command for page in PAGES for command in pages.commands(page)}
    assert ELSEWHERE.keys() | CODES.keys() <= typed


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page in pages.ALL_PAGES:
        for target in re.findall(r"(?:`|^\$ )make ([a-z0-9-]+)", page.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{pages.name(page)}: make {target}"


def test_pages_have_commands() -> None:
    assert sum(len(pages.commands(page)) for page in PAGES) > 30
