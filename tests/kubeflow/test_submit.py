"""`fededge submit`, `fededge stop` and `fededge upload` against a server that speaks Kubeflow's REST API."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path

import pytest
import yaml

from fededge.errors import InputError, KubeflowError, RunError
from fededge.kubeflow import runs
from fededge.kubeflow.client import Kubeflow
from fededge.kubeflow.submit import package, submit
from fededge.kubeflow.yaml_file import images
from fededge.settings import RoundSettings
from fededge.shipped import compiled_pipeline
from fededge.store.folder import FolderStore
from tests.kubeflow.conftest import Fededge, interrupted
from tests.kubeflow.kfp_server import Document, KfpServer
from tests.trainings import make_training

Capture = pytest.CaptureFixture[str]


def _inputs(run: Document) -> Document:
    inputs: Document = run["runtime_config"]["parameters"]
    return inputs


def _images(run: Document) -> set[str]:
    return set(images(run["pipeline_spec"]["pipeline_spec"]))


def test_a_training_is_submitted_as_it_would_run_here(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("submit", "fl_round", "--registry", "harbor.example.org/fl", "--clients", "6", "--json") == 0
    (run,) = server.runs()
    said = json.loads(capfd.readouterr().out)
    assert said["run"] == run["run_id"]
    assert said["inputs"] == _inputs(run)
    assert _inputs(run) == {**RoundSettings(clients=6).model_dump(mode="json"), "training": "digits"}
    assert run["service_account"] == "fededge-runner"
    assert run["display_name"].startswith("digits 20")
    experiment = server.documents["experiments"][run["experiment_id"]]
    assert experiment["display_name"] == "fededge"
    assert {image.rpartition(":")[0] for image in _images(run)} == {"harbor.example.org/fl/fededge-tensorflow"}


def test_the_pipeline_arrives_whole_with_its_platform_spec(kubeflow: Kubeflow, server: KfpServer) -> None:
    submit(kubeflow, "fl_round")
    sent = server.runs()[0]["pipeline_spec"]
    documents = list(yaml.load_all(compiled_pipeline("fl_round").read_text(), yaml.CSafeLoader))
    assert sent["platform_spec"].keys() == documents[1].keys()
    kubernetes = sent["platform_spec"]["platforms"]["kubernetes"]
    assert kubernetes["pipelineConfig"] == documents[1]["platforms"]["kubernetes"]["pipelineConfig"]
    configs = sent["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    theirs = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert [name for name in theirs.keys() | configs.keys() if theirs.get(name) != configs.get(name)] == []
    assert sent["pipeline_spec"]["root"]["dag"].keys() == documents[0]["root"]["dag"].keys()
    assert _caching(sent["pipeline_spec"]) == set()


def _caching(spec: Document) -> set[bool]:
    """List what the tasks say of caching; kfp leaves out what is false."""
    parts = [spec["root"], *spec["components"].values()]
    tasks = [task for part in parts if "dag" in part for task in part["dag"]["tasks"].values()]
    return {task["cachingOptions"]["enableCache"] for task in tasks if task.get("cachingOptions")}


def test_what_suits_a_workload_is_submitted_with_it(kubeflow: Kubeflow, server: KfpServer) -> None:
    submit(kubeflow, "fl_round", {"workload": "wisdm", "training": "wisdm", "local_epochs": 2})
    inputs = _inputs(server.runs()[0])
    assert inputs["local_epochs"] == 2
    assert inputs["batch_size"] != RoundSettings().batch_size
    assert any("fededge-sklearn" in image for image in _images(server.runs()[0]))


def test_other_pipelines_and_files(server: KfpServer, fededge: Fededge, tmp_path: Path) -> None:
    assert fededge("submit", "fl_comparison", "--training", "digits", "--input", "version=v3") == 0
    assert _inputs(server.runs()[0]) == {"training": "digits", "version": "v3"}
    file = tmp_path / "mine.yaml"
    file.write_bytes(compiled_pipeline("fl_round").read_bytes())
    assert fededge("submit", str(file), "--run-name", "mine", "--input", "cpu_limit=4", "--service-account", "me") == 0
    (run,) = server.runs("mine")
    assert (_inputs(run)["cpu_limit"], run["service_account"]) == ("4", "me")


def test_a_registry_is_not_for_a_file(
    server: KfpServer, fededge: Fededge, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the variable may be set for other pipelines."""
    file = str(compiled_pipeline("fl_round"))
    monkeypatch.setenv("FEDEDGE_REGISTRY", "harbor.example.org/fl")
    assert fededge("submit", file) == 0
    assert {image.partition(":")[0] for image in _images(server.runs()[0])} == {"fededge-tensorflow"}
    assert "no --registry" not in capfd.readouterr().err
    assert fededge("submit", file, "--registry", "harbor.example.org/other") == InputError.exit_code
    assert "is a file: its rounds and images are in it" in capfd.readouterr().err


@pytest.mark.parametrize("command", [("submit", "fl_round"), ("schedule", "create", "1h"), ("upload", "fl_round")])
def test_without_a_registry_the_nodes_need_the_images(
    fededge: Fededge, capfd: Capture, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.delenv("FEDEDGE_REGISTRY")
    assert fededge(*command) == 0
    said = "no --registry or FEDEDGE_REGISTRY: the nodes must have FedEdge's images already"
    assert said in capfd.readouterr().err.splitlines()


def test_rounds_of_a_training(server: KfpServer, fededge: Fededge) -> None:
    assert fededge("submit", "--rounds", "2") == 0
    spec = server.runs()[0]["pipeline_spec"]["pipeline_spec"]
    assert sorted(spec["root"]["dag"]["tasks"]) == ["fl-round", "fl-round-2"]


def test_only_a_store_in_s3_is_the_pods_too(server: KfpServer, fededge: Fededge, tmp_path: Path) -> None:
    assert fededge("submit", "fl_round", "--store", "s3://models/fededge") == 0
    assert fededge("submit", "fl_round", "--store", str(tmp_path)) == 0
    assert [_inputs(run).get("store") for run in server.runs()] == ["s3://models/fededge", None]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "nothing is none of fl_round"),
        (("no.yaml",), "no.yaml cannot be read as YAML"),
        (("--input", "nothing=1"), "the pipeline has no input nothing; it has aggregation,"),
        (("--input", "nothing"), "--input nothing: write it as NAME=VALUE"),
        (("--input", "deadline_s=soon"), "deadline_s='soon' is no number, true or false, or JSON"),
        (("--input", "cpu_limit=4", "--input", "deadline_s=true"), "deadline_s=True is no number integer"),
        (("--input", "memory_request=8Gi"), "memory_request=8Gi is more than memory_limit=4Gi: raise the limit, too"),
        (("--input", "cpu_limit=plenty"), "cpu_limit='plenty': String should match"),
        (("fl_round_job", "--input", "parallelism=0"), "parallelism=0: Input should be greater than or equal to 1"),
        (("fl_comparison", "--input", "arm_clients=1"), "arm_clients=1 compares nobody"),
        (("fl_deploy", "--training", "digits", "--input", "traffic=300"), "traffic=300: Input should be less than"),
        (("--registry", "harbor.example.org/FedEdge"), "'harbor.example.org/FedEdge' is no registry, as"),
        (("--clients", "5", "--clients-per-round", "6"), "clients_per_round=6 is more than clients=5"),
        (
            ("fl_comparison", "--seed", "3"),
            "--seed goes with a pipeline of rounds, and fl_comparison has no such input",
        ),
        (("--workload", "nothing"), "unknown workload 'nothing'"),
        (("--training", "Not a name"), "'Not a name' is no name for a training"),
        (("--rounds", "7"), "rounds=7 must be between 1 and 5: more are too much for one run on Kubeflow"),
        (("fl_training_job", "--rounds", "11"), "rounds=11 must be between 1 and 8"),
        (("--token-file", "nowhere"), "--token-file nowhere: there is no such file"),
        (("--input", f"initial_model={'x' * 10_000}"), "bytes and Kubeflow takes 10000"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    server: KfpServer, fededge: Fededge, capfd: Capture, arguments: tuple[str, ...], said: str
) -> None:
    if not arguments[0].startswith(("fl_", "no")) and "--rounds" not in arguments:
        arguments = ("fl_round", *arguments)
    assert fededge("submit", *arguments) == InputError.exit_code
    error = capfd.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not server.runs()
    assert not server.documents["experiments"]


def test_watching_shows_the_tasks_and_ends_with_the_run(
    server: KfpServer, fededge: Fededge, capfd: Capture, tmp_path: Path
) -> None:
    make_training(FolderStore(tmp_path / "store"), "digits")

    def work(run: Document) -> None:
        server.tell(run["run_id"], state="RUNNING")
        for name in ("root", "root-driver", "distribute-model", "distribute-model-driver", "executor"):
            server.add_task(run["run_id"], name, "RUNNING")
        time.sleep(0.3)
        server.add_task(run["run_id"], "distribute-model", "SUCCEEDED")
        server.end_run(run["run_id"])

    server.work = work
    assert fededge("submit", "fl_round", "--watch", "--poll-s", "0.05", "--store", str(tmp_path / "store")) == 0
    shown = capfd.readouterr()
    assert "running (1 distribute-model running)" in shown.err
    assert not re.search(r"driver|executor|x7k2p|\(\d\)", shown.err), "what is Argo's own"
    assert shown.err.splitlines()[-1].endswith("succeeded (1 distribute-model succeeded)")
    assert shown.out == "digits is at v2-b1: accuracy 0.2000, loss 0.8000\n"


def test_a_run_that_fails_is_an_error_with_its_reason(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    def work(run: Document) -> None:
        server.add_task(run["run_id"], "aggregate-updates", "FAILED", "2 of 10 delivered,\n and 5 are needed")
        server.end_run(run["run_id"], "FAILED", "the workflow failed")

    server.work = work
    assert (
        fededge("submit", "fl_round", "--watch", "--poll-s", "0.05", "--json", "--run-name", "mine")
        == RunError.exit_code
    )
    shown = capfd.readouterr()
    assert json.loads(shown.out)["state"] == "FAILED"
    reason = "the workflow failed; aggregate-updates: 2 of 10 delivered, and 5 are needed"
    assert shown.err.splitlines()[-1] == f"error: run mine failed: {reason}"


def test_a_run_that_somebody_ended_ends_the_watching(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    """kfp's own `wait_for_run_completion` would wait for ever."""
    server.work = lambda run: server.end_run(run["run_id"], "CANCELED")
    assert fededge("submit", "fl_round", "--watch", "--poll-s", "0.05") == RunError.exit_code
    assert "canceled" in capfd.readouterr().err


def test_ctrl_c_leaves_the_run_and_says_how_to_end_it(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    """In a process of its own, as a person does it."""
    code, out, error = interrupted(server, "submit", "fl_round", "--watch")
    (run,) = server.runs()
    assert (code, out) == (130, "")
    assert error.splitlines()[-1] == f"the run goes on; `fededge stop {run['run_id']}` ends it"
    assert "Traceback" not in error
    assert run["state"] == "PENDING"
    assert fededge("stop", run["run_id"]) == 0
    assert run["state"] == "CANCELED"
    assert fededge("stop", run["run_id"]) == 0, "nothing happens to one that has ended"


JOBS = "kubectl delete jobs --selector app.kubernetes.io/part-of=fededge,fededge.io/training={} --namespace {}"


@pytest.mark.parametrize("pipeline", ["fl_round_job", "fl_training_job"])
def test_ending_a_run_says_how_to_end_its_jobs(
    server: KfpServer, fededge: Fededge, capfd: Capture, pipeline: str
) -> None:
    assert fededge("submit", pipeline, "--training", "mine") == 0
    (run,) = server.runs()
    capfd.readouterr()
    assert fededge("stop", run["run_id"], "--json") == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)["state"] == "CANCELED"
    said = "the Jobs that train its clients go on to the round's deadline; `{}` ends them now"
    assert shown.err.splitlines()[-1] == said.format(JOBS.format("mine", "kubeflow"))


def test_the_jobs_are_in_the_namespace_of_the_runs(fededge: Fededge, capfd: Capture) -> None:
    with KfpServer(multi_user=True) as shared:
        where = ("--host", shared.url, "--namespace", "my-team")
        assert fededge("submit", "fl_round_job", "--training", "mine", *where) == 0
        assert fededge("stop", shared.runs()[0]["run_id"], *where) == 0
    assert f"`{JOBS.format('mine', 'my-team')}`" in capfd.readouterr().err


def test_ending_a_run_without_jobs_says_nothing_of_them(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("submit", "fl_training") == 0
    assert fededge("stop", server.runs()[0]["run_id"]) == 0
    assert "Jobs" not in capfd.readouterr().err


def test_jobs_of_a_run_that_ended_by_itself_are_no_matter(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    assert fededge("submit", "fl_round_job") == 0
    server.end_run(server.runs()[0]["run_id"], "SUCCEEDED")
    assert fededge("stop", server.runs()[0]["run_id"]) == 0
    assert "Jobs" not in capfd.readouterr().err


def test_of_a_pipeline_that_was_uploaded_kubeflow_tells_the_tasks_at_most(
    server: KfpServer, fededge: Fededge, capfd: Capture
) -> None:
    """Such a run refers to the pipeline, and has no spec of its own."""
    assert fededge("submit", "fl_round_job", "--training", "mine") == 0
    (run,) = server.runs()
    server.add_task(run["run_id"], "distribute-model", "SUCCEEDED")
    server.add_task(run["run_id"], "train-in-jobs", "RUNNING")
    del run["pipeline_spec"]
    assert fededge("stop", run["run_id"]) == 0
    assert f"the Jobs that train its clients go on to the round's deadline; `{JOBS.format('mine', 'kubeflow')}`" in (
        capfd.readouterr().err
    )
    del run["run_details"], run["runtime_config"]
    assert fededge("stop", run["run_id"]) == 0
    assert (
        f"if Jobs train its clients, they go on to the round's deadline; `{JOBS.format('TRAINING', 'kubeflow')}`"
        in (capfd.readouterr().err)
    )


def test_a_run_whose_answer_was_lost_is_not_started_twice(kubeflow: Kubeflow, server: KfpServer) -> None:
    before = submit(kubeflow, "fl_round", run_name="mine")
    server.lose_answers(1, "/apis/v2beta1/runs")
    run = submit(kubeflow, "fl_round", run_name="mine")
    assert [one["run_id"] for one in server.runs("mine")] == [before.id, run.id]


def test_a_busy_server_gets_one_run(kubeflow: Kubeflow, server: KfpServer) -> None:
    server.fail(2, 503)
    run = submit(kubeflow, "fl_round")
    assert [one["run_id"] for one in server.runs()] == [run.id]


def test_an_experiment_that_another_one_makes_meanwhile(kubeflow: Kubeflow, server: KfpServer) -> None:
    threads = [threading.Thread(target=submit, args=(kubeflow, "fl_round")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.documents["experiments"]) == 1
    assert len(server.runs()) == 4


def test_runs_of_a_name_are_found_on_all_pages(
    kubeflow: Kubeflow, server: KfpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fededge.kubeflow.client._PAGE", 2)
    made = [submit(kubeflow, "fl_round", run_name="mine").id for _ in range(5)]
    found = runs.find(kubeflow, "mine", server.runs()[0]["experiment_id"])
    assert [run.id for run in found] == made


def test_a_pipeline_is_uploaded_once(server: KfpServer, fededge: Fededge, capfd: Capture) -> None:
    for _ in range(2):
        assert fededge("upload", "fl_round", "--registry", "harbor.example.org/fl", "--json") == 0
    first, second = (json.loads(part + "}") for part in capfd.readouterr().out.strip().removesuffix("}").split("}\n"))
    assert (first["new"], second["new"]) == (True, False)
    assert first["version"] == second["version"]
    assert fededge("upload", "fl_round", "--registry", "other.example.org/fl") == 0
    (pipeline,) = server.documents["pipelines"].values()
    assert pipeline["display_name"] == "fl_round"
    assert len(server.documents["versions"]) == 2


def test_a_version_is_never_another_file(fededge: Fededge, server: KfpServer, capfd: Capture) -> None:
    assert fededge("upload", "fl_round", "--version-name", "1") == 0
    assert (
        fededge("upload", "fl_round", "--version-name", "1", "--registry", "other.example.org") == InputError.exit_code
    )
    assert "fl_round has another version 1: pass another --version-name" in capfd.readouterr().err
    assert len(server.documents["versions"]) == 1


def test_an_upload_whose_answer_was_lost_is_not_made_twice(kubeflow: Kubeflow, server: KfpServer) -> None:
    from fededge.kubeflow.upload import upload

    server.lose_answers(1, "/apis/v2beta1/pipelines")
    server.lose_answers(1, "/apis/v2beta1/pipelines/upload_version")
    with package("fl_round") as ready:
        upload(kubeflow, ready, "fl_round")
    assert len(server.documents["pipelines"]) == len(server.documents["versions"]) == 1


def test_a_kubeflow_that_refuses_the_pipeline(kubeflow: Kubeflow, server: KfpServer) -> None:
    server.fail(1, 400, "/runs", "Failed to create a run: the service account fededge-runner is not there")
    with pytest.raises(KubeflowError, match=r"refuses it \(400\): Failed to create a run: the service account"):
        submit(kubeflow, "fl_round")


def test_tasks_of_a_loop_are_counted_once_each(kubeflow: Kubeflow, server: KfpServer) -> None:
    """Argo may list only the tries of one, or a task whose name ends as a try's does not."""
    run = submit(kubeflow, "fl_round")
    names = ["train-clients", "train-clients(0)", "train-clients", "train-clients(0)", "evaluate-model(1)"]
    details = [{"run_id": run.id, "display_name": name, "state": "RUNNING"} for name in names]
    server.tell(run.id, run_details={"task_details": details})
    counted = {("evaluate-model", "RUNNING"): 1, ("train-clients", "RUNNING"): 2}
    assert runs.get(kubeflow, run.id).tasks == counted
