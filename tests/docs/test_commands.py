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
from tests.docs import pages
from tests.docs.pages import PAGES, ROOT
from tests.trainings import begin_training, open_round, publish_round

# What takes minutes, a network or a service, and where it is run: a test, or `file: text` for a step of the CI.
ELSEWHERE = {
    ". .venv/bin/activate": "tests/docs/test_commands.py::test_the_environment_has_the_command",
    "make run": "tests/pipeline/test_training.py::test_default_training_reaches_its_accuracy",
    "make test": ".ci/run: make test",
    "make images": "tests/images/build.py: build.sh",
    "fededge run": "tests/pipeline/test_training.py::test_default_training_reaches_its_accuracy",
    "fededge run --json": "tests/pipeline/test_training.py::test_what_people_look_at_is_kept",
    "fededge run --rounds 10 --clients 20 --clients-per-round 10": (
        "tests/pipeline/test_training.py::test_continued_training_has_the_rounds_of_one_that_never_stopped"
    ),
    "fededge run adam --server-optimizer adam --server-learning-rate 0.05": (
        "tests/pipeline/test_training.py::test_training_is_bit_for_bit_tff_in_one_process"
    ),
    "fededge run drift --client-algorithm scaffold --client-momentum 0 --rounds 2": (
        "tests/steps/test_controls.py::test_four_rounds_by_its_own_arithmetic"
    ),
    "fededge evaluate digits": "tests/pipeline/test_equal_learners.py::test_a_version_is_measured_on_each_client",
    "fededge run --workload my_package.module:workload --with ./my_package --library torch": (
        "tests/pipeline/test_equal_learners.py::test_two_rounds_agree"
    ),
    "fededge simulate --rounds 100": (
        "tests/pipeline/test_simulate.py::test_versions_are_the_pipelines_bit_for_bit"
    ),
    "fededge simulate --rounds 100 --store /dev/shm/fededge": (
        "tests/pipeline/test_simulate.py::test_versions_are_the_pipelines_bit_for_bit"
    ),
    "fededge simulate many --rounds 200 --clients 500 --clients-per-round 20": (
        "tests/pipeline/test_simulate.py::test_versions_are_the_pipelines_bit_for_bit"
    ),
    "fededge simulate tumours --workload tumours.workload:workload --with ./examples/tumours --clients 6 --rounds 50": (
        "tests/pipeline/test_simulate.py::test_a_client_that_fails_is_left_out_and_its_worker_lives_on"
    ),
    "fededge simulate digits --rounds 20": (
        "tests/pipeline/test_simulate.py::test_versions_are_the_pipelines_bit_for_bit"
    ),
    "fededge run digits --rounds 1": "tests/pipeline/test_training.py::test_default_training_reaches_its_accuracy",
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
    "fededge run --workload mnist --rounds 1": (
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
    "fededge devices": "tests/cli/test_devices.py::test_lists_devices_and_why_one_cannot_train",
    "fededge devices --context factory --selector site=north": "tests/cli/test_devices.py::test_only_some",
    "fededge devices --all": "tests/cli/test_devices.py::test_all_nodes",
    "fededge devices --from configmap:our-devices --namespace my-team": (
        "tests/cli/test_devices.py::test_from_a_config_map"
    ),
    "fededge run --devices examples/devices.yaml": (
        "tests/pipeline/test_devices.py::test_a_run_by_a_file_of_devices"
    ),
    "fededge env create": "Makefile: fededge env create tensorflow",  # `make setup`, before every test
    "fededge versions export digits": (
        "tests/pipeline/test_training.py::test_exported_model_loads_without_fededge"
    ),
    "fededge versions list --store s3://models/fededge": (
        "tests/store/test_s3_run.py::test_a_training_lives_in_s3"
    ),
    "fededge data fetch wisdm buildings": "tests/cli/test_data.py::test_fetch_check_and_list",
    "fededge data fetch mnist --to data": "tests/datasets/test_fetch.py::test_a_file_is_fetched_once",
    "fededge data fetch --all --to data": "tests/datasets/test_fetch.py::test_a_file_is_fetched_once",
    "fededge data fetch cmapss --from downloads": (
        "tests/datasets/test_fetch.py::test_a_mirror_has_an_archive_or_what_is_in_it"
    ),
    "fededge data fetch --all --from https://mirror.example.org/data": (
        "tests/datasets/test_fetch.py::test_a_mirror_has_the_files_in_their_folder_or_not_plain_or_packed"
    ),
    "fededge compare digits": (
        "tests/pipeline/test_comparison.py::test_every_arm_has_a_score_for_every_client"
    ),
    "fededge compare digits --version v3 --clients 20 --clients-per-pod 10": (
        "tests/steps/test_plan_comparison.py::test_so_many_clients_are_drawn_by_the_seed"
    ),
    "fededge metrics --store s3://models/fededge --serve :9100": (
        "tests/monitoring/test_exporter.py::test_each_scrape_reads_the_store_anew"
    ),
    "fededge compare digits --json": (
        "tests/pipeline/test_comparison.py::test_the_report_and_the_figures_are_kept"
    ),
    "make setup": ".ci/run: make test",  # of which it is a part
    "fededge images push --registry harbor.example.org/fededge": (
        "tests/registry/test_docker_registry.py::test_pushed_exported_by_digest_and_pulled"
    ),
    "fededge images digests --registry harbor.example.org/fededge": (
        "tests/registry/test_docker_registry.py::test_a_digest_is_what_the_registry_says"
    ),
    "fededge images sbom torch --image fededge-torch:0.1.0 --to torch.cdx.json": (
        "tests/registry/test_docker_registry.py::test_an_image_of_ours_with_its_bill"
    ),
    "fededge images harbor-setup --registry harbor.example.org/fededge --dry-run": (
        "tests/registry/test_setup.py::test_a_dry_run_does_nothing"
    ),
    "fededge images harbor-setup --registry harbor.example.org/fededge --secret-file secret.yaml": (
        "tests/registry/test_setup.py::test_the_secret_is_written_for_kubernetes_and_shown_to_nobody"
    ),
    "fededge images check fl_training.yaml": (
        "tests/registry/test_check.py::test_a_clean_image_passes"
    ),
    "fededge images check fl_training.yaml --severity critical --fixable-only": (
        "tests/registry/test_check.py::test_only_what_can_be_fixed"
    ),
    "fededge images check --registry harbor.example.org/fededge --digests digests.json --scan": (
        "tests/registry/test_check.py::test_a_scan_is_started_and_waited_for"
    ),
    "fededge submit --watch": (
        "tests/kubeflow/test_submit.py::test_watching_shows_the_tasks_and_ends_with_the_run"
    ),
    "fededge submit fl_round --training digits --clients 20": (
        "tests/kubeflow/test_submit.py::test_a_training_is_submitted_as_it_would_run_here"
    ),
    "fededge submit fl_comparison --training digits --input version=v3": (
        "tests/kubeflow/test_submit.py::test_other_pipelines_and_files"
    ),
    "fededge submit my_round.yaml --input cpu_limit=4 --json": (
        "tests/kubeflow/test_submit.py::test_other_pipelines_and_files"
    ),
    "fededge train digits --target 0.95 --rounds 50": (
        "tests/kubeflow/test_driver.py::test_the_command_tells_what_happens"
    ),
    "fededge train digits --plateau 5 --min-improvement 0.002": (
        "tests/kubeflow/test_driver.py::test_when_it_is_enough"
    ),
    "fededge schedule create '0 2 * * *' --training digits": (
        "tests/kubeflow/test_schedule.py::test_one_round_at_a_time_and_none_for_what_was_missed"
    ),
    "fededge schedule create 1h --name hourly --training hourly --clients-per-round 5": (
        "tests/kubeflow/test_schedule.py::test_times"
    ),
    "fededge schedule pause digits": (
        "tests/kubeflow/test_schedule.py::test_pause_resume_and_delete"
    ),
    "fededge schedule resume digits": (
        "tests/kubeflow/test_schedule.py::test_pause_resume_and_delete"
    ),
    "fededge schedule create '0 3 * * *' --training digits --replace": (
        "tests/kubeflow/test_schedule.py::test_a_name_is_taken_once"
    ),
    "fededge schedule delete digits --yes": (
        "tests/kubeflow/test_schedule.py::test_pause_resume_and_delete"
    ),
    "fededge upload": (
        "tests/kubeflow/test_submit.py::test_a_pipeline_is_uploaded_once"
    ),
    "fededge upload fl_round --digests digests.json": (
        "tests/kubeflow/test_submit.py::test_a_pipeline_is_uploaded_once"
    ),
    "fededge submit --registry harbor.example.org/fededge --digests digests.json --watch": (
        "tests/kubeflow/test_submit.py::test_watching_shows_the_tasks_and_ends_with_the_run"
    ),
    "fededge submit --workload mnist --registry harbor.example.org/fededge --digests digests.json": (
        "tests/kubeflow/test_submit.py::test_watching_shows_the_tasks_and_ends_with_the_run"
    ),
    "fededge upload --registry harbor.example.org/fededge --digests digests.json": (
        "tests/kubeflow/test_submit.py::test_a_pipeline_is_uploaded_once"
    ),
    "fededge schedule create '0 2 * * *' --registry harbor.example.org/fededge --digests digests.json": (
        "tests/kubeflow/test_schedule.py::test_one_round_at_a_time_and_none_for_what_was_missed"
    ),
    "fededge schedule create '0 2 * * *' fl_round_job --workload mnist --registry harbor.example.org/fededge "
    "--digests digests.json": (
        "tests/kubeflow/test_schedule.py::test_one_round_at_a_time_and_none_for_what_was_missed"
    ),
    "fededge schedule list": "tests/kubeflow/test_schedule.py::test_pause_resume_and_delete",
    "fededge env run serving-tensorflow -- -m fededge.serving --training digits --store .fededge/store": (
        "tests/serving/test_server.py::test_the_answers_have_the_bits_of_the_learner_where_it_was_trained"
    ),
    "fededge submit fl_deploy --training digits --input version=v3 --input traffic=10 --input 'bar=accuracy>=0.9'": (
        "tests/steps/test_deploy_model.py::test_step_by_step"
    ),
    "kubectl apply --kustomize manifests/overlays/kubeflow --namespace my-team": (
        "tests/contract/test_manifests.py::test_the_overlay_for_kubeflow_leaves_the_namespace_as_it_is"
    ),
    "kubectl apply --kustomize manifests/overlays/k3s": (
        "tests/contract/test_manifests.py::test_the_other_overlays_are_whole"
    ),
    "kubectl apply --kustomize manifests/overlays/development": (
        "tests/contract/test_manifests.py::test_development_needs_nothing_replaced"
    ),
    "kubectl apply --kustomize manifests/components/devices": (
        "tests/contract/test_manifests_access.py::test_the_rights_on_the_whole_cluster_are_those_of_the_table"
    ),
    "kubectl create clusterrolebinding fededge-devices-my-team --clusterrole fededge-devices "
    "--serviceaccount my-team:fededge-runner": (
        "tests/contract/test_manifests_access.py::test_the_command_of_the_documentation_grants_it_to_a_namespace"
    ),
}  # fmt: skip
_APPLICATION = {
    "fededge data fetch {}": "tests/cli/test_data.py::test_fetch_check_and_list",
    "fededge run --workload {}": "tests/pipeline/test_applications.py::test_it_trains_on_the_real_data",
    "fededge simulate --workload {}": "tests/pipeline/test_simulate.py::test_versions_are_the_pipelines_bit_for_bit",
    "fededge evaluate {}": "tests/pipeline/test_applications.py::test_a_version_is_measured_on_each_client",
    "fededge compare {}": "tests/pipeline/test_applications.py::test_it_is_compared_with_other_ways_to_train",
}
ELSEWHERE |= {
    command: evidence
    for page in PAGES
    if page.parent.name == "applications"
    for command in pages.commands(page)
    for begin, evidence in _APPLICATION.items()
    if re.match(begin.format(r"(wisdm|parkinsons|cmapss|traffic|los|buildings)\b"), command)
}
# Where the steps' environment is not made yet, the doctor says so.
CODES = {
    "fededge doctor": 3,
    "fededge doctor --namespace my-team --store s3://models/fededge": 3,
    # There are no data sets.
    "fededge data check": 3,
    "fededge data check wisdm --json": 3,
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
        if name.startswith(("AWS_", "FEDEDGE_", "KF_PIPELINES_", "KUBERNETES_")):
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
    page: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    if any(command.startswith("fededge rounds") for command in pages.commands(page)):
        _leave_a_round_open(FolderStore(folder / ".fededge" / "store"))
    for command in pages.commands(page):
        program, *arguments = shlex.split(command)
        if program == "export":
            for assignment in arguments:
                name, _, value = assignment.partition("=")
                if page.parent.name == "applications":  # whose commands need the data themselves
                    value = str(request.getfixturevalue("data"))
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
        commands = (
            "run.open_store",
            "simulate.open_store",
            "versions.open_store",
            "rounds.open_store",
            "compare.open_store",
            "evaluate.open_store",
            "submit.connected",
            "train.open_store",
            "schedule.connected",
            "upload.connected",
            "data.fetch",
            "images.Way",
            "images_view.waiting",
            "metrics.open_store",
        )
        for place in (*(f"cli.{command}" for command in commands), "environments.make", "cluster.api.connect"):
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
