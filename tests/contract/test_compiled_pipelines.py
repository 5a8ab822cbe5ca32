"""The compiled YAML is what people upload and run, so the promises are tested on it and not on the DSL."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import kfp
import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2
from pydantic.fields import FieldInfo

import fededge
from fededge.errors import InputError, RoundError
from fededge.kubeflow.rounds import MAX_ROUNDS, ON_KUBEFLOW, compile_training
from fededge.settings import ComparisonSettings, FanOut, Placement, RoundSettings
from fededge.steps.distribute_model import distribute_model
from fededge.steps.plan_comparison import plan_comparison
from fededge.store.folder import FolderStore
from pipelines import compile as compile_module
from pipelines.compile import compile_all
from tests.contract import compiled
from tests.contract.compiled import (
    FOLDER,
    JOB_PIPELINES,
    LOOP_PIPELINES,
    PIPELINES,
    ROOT,
    ROUND_PIPELINES,
    Compiled,
    Node,
    parse,
)
from tests.contract.platform_spec import Pod, fields_read, function, pods
from tests.trainings import begin_training, close_round, make_manifest, open_round

STEPS = {"distribute_model", "train_clients", "aggregate_updates", "evaluate_model", "version_model"}
JOB_STEPS = STEPS - {"train_clients"} | {"train_in_jobs"}
COMPARISON_STEPS = {"plan_comparison", "train_arm", "compare_arms"}
DEPLOY_STEPS = {"deploy_model"}
ALL_STEPS = STEPS | JOB_STEPS | COMPARISON_STEPS | DEPLOY_STEPS
ROUNDS = {"fl_round": 1, "fl_training": 5, "fl_round_job": 1, "fl_training_job": 5}
LOOPS = {"fl_round": 1, "fl_training": 5, "fl_comparison": 1}
FANNED_OUT = {"fl_round": "train-clients", "fl_training": "train-clients", "fl_comparison": "train-arm"}
SETTINGS = {**RoundSettings.model_fields, **Placement.model_fields}
COMPARISON_SETTINGS = {**ComparisonSettings.model_fields, **Placement.model_fields}
SOURCE_HEADER = "\nimport kfp\nfrom kfp import dsl\nfrom kfp.dsl import *\nfrom typing import *\n\n"

Plan = list[dict[str, str]]


@pytest.fixture(scope="module", params=PIPELINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loop(loop_name: str) -> Compiled:
    """A pipeline that starts a task for each entry of a plan."""
    return parse((FOLDER / f"{loop_name}.yaml").read_text())


@pytest.fixture(scope="module")
def pipeline(name: str) -> Compiled:
    return parse((FOLDER / f"{name}.yaml").read_text())


@pytest.fixture(scope="module", params=ROUND_PIPELINES)
def rounds_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rounds(rounds_name: str) -> Compiled:
    """A pipeline that is made of rounds."""
    return parse((FOLDER / f"{rounds_name}.yaml").read_text())


@pytest.fixture(scope="module")
def comparison() -> Compiled:
    return parse((FOLDER / "fl_comparison.yaml").read_text())


def test_compiling_again_gives_the_same_bytes(tmp_path: Path) -> None:
    written = compile_all(tmp_path / "new")
    assert {path.name: path.read_bytes() for path in written} == {
        path.name: path.read_bytes() for path in FOLDER.iterdir()
    }
    assert compile_module.COMPILED == FOLDER


def test_nothing_is_cached(pipeline: Compiled) -> None:
    assert compiled.caching(pipeline) == []


def test_no_pipeline_takes_an_artifact(pipeline: Compiled) -> None:
    assert compiled.artifact_inputs(pipeline) == []


def test_conditions_look_only_at_inputs_and_single_return_values(pipeline: Compiled) -> None:
    assert compiled.conditions(pipeline) == []


def test_into_loops_go_only_their_items_and_inputs(name: str, pipeline: Compiled) -> None:
    assert sum("parameterIterator" in task for _, task in pipeline.tasks()) == LOOPS.get(name, 0)
    assert compiled.loops(pipeline) == []


def test_every_task_runs_as_the_images_user(pipeline: Compiled) -> None:
    assert compiled.users(pipeline) == []


def test_every_task_is_ended_some_day(pipeline: Compiled) -> None:
    assert compiled.deadlines(pipeline) == []


def test_the_stores_settings_secret_and_authorities_may_be_missing(pipeline: Compiled) -> None:
    assert compiled.store_settings(pipeline) == []


def test_no_variable_of_a_task_is_taken_by_kubeflows_launcher(pipeline: Compiled) -> None:
    """It runs in the same container, and would take those of AWS for its own artifact store."""
    named = {
        variable["envVar"]
        for config in pipeline.configs.values()
        for kind in ("configMapAsEnv", "secretAsEnv")
        for source in config.get(kind, [])
        for variable in source["keyToEnv"]
    }
    assert {"FEDEDGE_STORE", "FEDEDGE_AWS_ENDPOINT_URL", "FEDEDGE_AWS_SECRET_ACCESS_KEY"} <= named
    assert all(name.startswith("FEDEDGE_") for name in named)


def test_a_node_short_of_memory_does_not_evict_a_task_first(pipeline: Compiled) -> None:
    for container in pipeline.executors.values():
        assert {"resourceCpuRequest", "resourceMemoryRequest"} <= container["resources"].keys()


def test_kubernetes_is_told_about_executors_that_exist(pipeline: Compiled) -> None:
    assert pipeline.configs.keys() == pipeline.executors.keys()


def _uri_assignments(source: str) -> list[int]:
    """List the lines that assign to an attribute `uri`, in any way."""
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return [node.lineno for node in attributes if node.attr == "uri" and isinstance(node.ctx, ast.Store | ast.Del)]


def test_no_component_assigns_an_artifacts_uri(pipeline: Compiled) -> None:
    for container in pipeline.executors.values():
        assert _uri_assignments(container["command"][-1]) == []
    for path in (ROOT / "components").glob("*.py"):
        assert _uri_assignments(path.read_text()) == []


@pytest.mark.parametrize("source", ["a.uri = 'x'", "a.uri += 'x'", "a.b.uri, c = 1, 2", "with f() as a.uri: pass"])
def test_assigning_an_artifacts_uri_would_be_noticed(source: str) -> None:
    assert _uri_assignments(f"print(a.uri)\n{source}") == [2]


def _inputs(pipeline: Compiled) -> dict[str, Node]:
    inputs: dict[str, Node] = pipeline.spec["root"]["inputDefinitions"]["parameters"]
    return inputs


def test_every_input_has_a_description_and_a_default(pipeline: Compiled) -> None:
    for name, definition in _inputs(pipeline).items():
        assert len(definition.get("description", "")) > 10, name
        assert definition["description"].endswith("."), name
        assert "defaultValue" in definition, name
        assert definition["isOptional"] is True, name


def test_a_training_has_the_inputs_of_a_round() -> None:
    one_round, training = (_inputs(parse((FOLDER / f"{name}.yaml").read_text())) for name in LOOP_PIPELINES)
    del one_round["max_batches"]
    assert training == one_round


def test_a_round_by_jobs_has_the_inputs_of_a_round_and_its_own() -> None:
    one_round = _inputs(parse((FOLDER / "fl_round.yaml").read_text()))
    by_jobs, training = (_inputs(parse((FOLDER / f"{name}.yaml").read_text())) for name in JOB_PIPELINES)
    assert training == by_jobs
    assert by_jobs.keys() - one_round.keys() == FanOut.model_fields.keys()
    different = {name for name, definition in one_round.items() if by_jobs[name] != definition}
    assert different == {"max_batches"}


@pytest.mark.parametrize("setting", FanOut.model_fields)
def test_an_input_of_the_fan_out_is_the_setting_of_its_name(setting: str) -> None:
    for name in JOB_PIPELINES:
        inputs = _inputs(parse((FOLDER / f"{name}.yaml").read_text()))
        _require_setting(FanOut.model_fields[setting], inputs[setting])


@pytest.mark.parametrize("name", PIPELINES)
def test_each_task_knows_its_run(name: str) -> None:
    known = {"name": "FEDEDGE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
    configs = parse((FOLDER / f"{name}.yaml").read_text()).configs.values()
    assert all(known in config["fieldPathAsEnv"] for config in configs)


@pytest.mark.parametrize("name", JOB_PIPELINES)
def test_a_launcher_knows_its_pod_and_is_started_again_when_it_was_lost(name: str) -> None:
    pipeline = parse((FOLDER / f"{name}.yaml").read_text())
    configs = [config for label, config in pipeline.configs.items() if label.startswith("exec-train-in-jobs")]
    assert len(configs) == ROUNDS[name]
    assert all({"name": "FEDEDGE_POD", "fieldPath": "metadata.name"} in config["fieldPathAsEnv"] for config in configs)
    retries = [task.get("retryPolicy", {}) for path, task in pipeline.tasks() if path.endswith("/train-in-jobs")]
    assert [retry["maxRetryCount"] for retry in retries] == [2] * ROUNDS[name]


def test_the_image_of_a_launcher_is_that_of_the_clients() -> None:
    """Its Jobs run the image of its own pod, so whatever `export` puts there is theirs."""
    launcher = parse((FOLDER / "fl_round_job.yaml").read_text()).executors["exec-train-in-jobs"]
    clients = parse((FOLDER / "fl_round.yaml").read_text()).executors["exec-train-clients"]
    assert launcher["image"] == clients["image"]


@pytest.mark.parametrize("name", PIPELINES)
def test_a_task_is_tried_again_for_as_long_as_it_may_run(name: str) -> None:
    """Argo counts this time from the start of the first try, and the next have until its end."""
    pipeline = parse((FOLDER / f"{name}.yaml").read_text())
    for _, task in pipeline.tasks():
        if retry := task.get("retryPolicy"):
            label = pipeline.spec["components"][task["componentRef"]["name"]]["executorLabel"]
            longest = int(pipeline.configs[label]["activeDeadlineSeconds"])
            assert int(retry["backoffMaxDuration"].removesuffix("s")) >= longest > RoundSettings().deadline_s


@pytest.mark.parametrize("label", ["train-in-jobs", "aggregate-updates"])
def test_a_task_of_the_largest_round_fits_what_argo_tells_its_pod(label: str) -> None:
    """Argo writes its template into a variable; of one that does not fit it makes a ConfigMap, which it may not."""
    pipeline = parse((FOLDER / "fl_round_job.yaml").read_text())
    defaults = {name: definition["defaultValue"] for name, definition in _inputs(pipeline).items()}
    attempt, longest = f"{'t' * 63}/v1234-b12/12/1234", "c" * 63
    batches = [f"{attempt}/b{number:03d}" for number in range(int(defaults["max_batches"]))]
    values = {
        "attempt": attempt,
        "reports": [{"batch": batch, "delivered": 10_000, "failed": 10_000} for batch in batches],
        "data_claim": longest,
        "client_service_account": longest,
    }
    component, container = pipeline.spec["components"][f"comp-{label}"], pipeline.executors[f"exec-{label}"]
    wanted = component["inputDefinitions"]["parameters"]
    given = {"inputs": {"parameterValues": {name: values.get(name, defaults.get(name)) for name in wanted}}}
    launch = ["/kfp-launcher/launch", "--executor_input", json.dumps(given), "--component_spec", json.dumps(component)]
    patch = {"containers": [{"command": launch, "args": [*container["command"], *container["args"]]}]}
    own = 8 * 1024  # what Argo and Kubeflow write into every template
    size = len(_as_go_writes({"podSpecPatch": _as_go_writes(patch)}).encode())
    assert size + own < 128 * 1024


def _as_go_writes(document: Node) -> str:
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", json.dumps(document))


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_input_is_the_setting_of_its_name(rounds: Compiled, setting: str) -> None:
    _require_setting(SETTINGS[setting], _inputs(rounds)[setting])


@pytest.mark.parametrize("setting", COMPARISON_SETTINGS)
def test_an_input_of_a_comparison_is_the_setting_of_its_name(comparison: Compiled, setting: str) -> None:
    _require_setting(COMPARISON_SETTINGS[setting], _inputs(comparison)[setting])


def _require_setting(field: FieldInfo, definition: Node) -> None:
    assert definition["description"] == field.description
    assert definition["defaultValue"] == field.default
    assert definition["parameterType"] == _kfp_type(field)


def _kfp_type(field: FieldInfo) -> str:
    return {int: "NUMBER_INTEGER", float: "NUMBER_DOUBLE", bool: "BOOLEAN"}.get(field.annotation, "STRING")  # type: ignore[call-overload, no-any-return]


def test_the_defaults_are_valid_together(rounds: Compiled) -> None:
    defaults = {name: definition["defaultValue"] for name, definition in _inputs(rounds).items()}
    assert RoundSettings.parse(**{name: defaults[name] for name in RoundSettings.model_fields}) == RoundSettings()
    assert Placement.parse(**{name: defaults[name] for name in Placement.model_fields}) == Placement()


def test_every_round_starts_from_the_version_that_the_one_before_made() -> None:
    training = parse((FOLDER / "fl_training.yaml").read_text())
    found = {path.rpartition("/")[2]: inputs for path, _, inputs in compiled.origins(training) if path.count("/") == 1}
    rounds = ["fl-round", *(f"fl-round-{number}" for number in range(2, 6))]
    assert sorted(found) == sorted(rounds)
    assert found["fl-round"]["base_version"] == compiled.INPUT
    for before, after in pairwise(rounds):
        assert found[after]["base_version"] == (before, "Output")


def test_a_run_starts_no_more_pods_than_its_record_can_hold() -> None:
    training = parse((FOLDER / "fl_training.yaml").read_text())
    limits = [task["inputs"]["parameters"]["max_batches"] for task in training.spec["root"]["dag"]["tasks"].values()]
    assert [limit["runtimeValue"]["constant"] for limit in limits] == [20] * 5
    assert _inputs(parse((FOLDER / "fl_round.yaml").read_text()))["max_batches"]["defaultValue"] == 100
    assert MAX_ROUNDS <= 100


@pytest.mark.parametrize("name", ON_KUBEFLOW)
def test_the_longest_run_is_one_that_argo_keeps(name: str, tmp_path: Path) -> None:
    """By what Argo's own packer made of such runs: some two times the YAML as JSON, 4.8 KB a batch, 76 B a report."""
    to = tmp_path / "training.yaml"
    compile_training(FOLDER / f"{name.replace('training', 'round')}.yaml", ON_KUBEFLOW[name], to)
    size = len(json.dumps(list(yaml.load_all(to.read_text(), yaml.CSafeLoader))))
    batches = 4800 * 100 if name in LOOPS else 76 * 500 * ON_KUBEFLOW[name]
    assert 2 * size + batches < 1024 * 1024


def test_a_run_ends_though_a_pod_is_never_started(name: str, pipeline: Compiled) -> None:
    """Kubernetes counts a task's seconds from when its pod has a node."""
    run = pipeline.platform["platforms"]["kubernetes"]["pipelineConfig"]["activeDeadlineSeconds"]
    one_round = parse((FOLDER / f"{name.replace('training', 'round')}.yaml").read_text())
    seconds = [config["activeDeadlineSeconds"] for config in one_round.configs.values()]
    assert run >= ROUNDS.get(name, 1) * sum(map(int, seconds))


def test_every_component_runs_its_step(name: str, pipeline: Compiled) -> None:
    functions = [function(container) for container in pipeline.executors.values()]
    steps = JOB_STEPS if name in JOB_PIPELINES else STEPS
    others = {"fl_comparison": COMPARISON_STEPS, "fl_deploy": DEPLOY_STEPS}
    assert Counter(functions) == Counter([*steps] * ROUNDS[name] if name in ROUNDS else others[name])
    for container in pipeline.executors.values():
        step = function(container)
        assert f"from fededge.steps.{step} import {step} as step" in container["command"][-1]
    for label, container in pipeline.executors.items():
        assert re.sub(r"-\d+$", "", label) == f"exec-{function(container).replace('_', '-')}"


@pytest.mark.parametrize("step", sorted(ALL_STEPS))
def test_a_component_has_a_step_and_a_test_of_its_name(step: str) -> None:
    assert (ROOT / "components" / f"{step}.py").is_file()
    assert (ROOT / "fededge" / "steps" / f"{step}.py").is_file()
    assert (ROOT / "tests" / "steps" / f"test_{step}.py").is_file()


def test_there_is_no_component_that_no_pipeline_uses() -> None:
    assert {path.stem for path in (ROOT / "components").glob("*.py")} - {"__init__", "images"} == ALL_STEPS


def test_images_are_ours_and_of_this_version(pipeline: Compiled) -> None:
    for container in pipeline.executors.values():
        match = re.fullmatch(r"fededge-([a-z]+):(.+)", container["image"])
        assert match
        folder = ROOT / "images" / match[1]
        assert {"Dockerfile", "requirements.lock"} <= {path.name for path in folder.iterdir()}
        assert match[2] == fededge.__version__


def _component_function(step: str) -> ast.FunctionDef:
    (found,) = [
        node
        for node in ast.parse(_component_source(step)).body
        if isinstance(node, ast.FunctionDef) and node.name == step
    ]
    return found


def _component_source(step: str) -> str:
    return (ROOT / "components" / f"{step}.py").read_text()


def test_the_embedded_source_is_the_components_function(pipeline: Compiled) -> None:
    for container in pipeline.executors.values():
        source = ast.get_source_segment(
            _component_source(function(container)), _component_function(function(container))
        )
        assert container["command"][-1] == f"{SOURCE_HEADER}{source}\n\n"


@pytest.mark.parametrize("step", sorted(ALL_STEPS))
def test_a_component_only_calls_its_step(step: str) -> None:
    body = _component_function(step).body
    assert body[-1].end_lineno is not None
    assert body[-1].end_lineno - body[0].lineno < 60
    assert not any(isinstance(node, ast.If | ast.While | ast.Try) for statement in body for node in ast.walk(statement))


def test_kfp_is_not_installed_when_a_step_starts(pipeline: Compiled) -> None:
    for container in pipeline.executors.values():
        assert "pip" not in " ".join(container["command"][:-1])


def test_the_yaml_is_what_the_backend_reads(pipeline: Compiled) -> None:
    spec = json_format.ParseDict(pipeline.spec, pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name.startswith("fl-")
    deployment = json_format.ParseDict(pipeline.spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    assert deployment.executors.keys() == pipeline.executors.keys()
    json_format.ParseDict(pipeline.platform, pipeline_spec_pb2.PlatformSpec())
    for config in pipeline.configs.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


@pytest.mark.parametrize("unknown", ["activeDeadline", "pvcMounts"])
def test_a_field_that_the_backend_does_not_know_would_be_noticed(unknown: str) -> None:
    pipeline = parse((FOLDER / "fl_round.yaml").read_text())
    config = {**pipeline.configs["exec-train-clients"], unknown: []}
    with pytest.raises(json_format.ParseError, match=unknown):
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())


def test_the_kfp_at_hand_compiled_it(pipeline: Compiled) -> None:
    assert pipeline.spec["sdkVersion"] == f"kfp-{kfp.__version__}"
    assert pipeline.spec["schemaVersion"] == "2.1.0"


def test_training_goes_to_the_edge(loop_name: str, loop: Compiled) -> None:
    edge = "node-role.kubernetes.io/edge"
    trains = [config for label, config in loop.configs.items() if label.startswith(f"exec-{FANNED_OUT[loop_name]}")]
    assert len(trains) == LOOPS[loop_name]
    for config in trains:
        assert config["tolerations"] == [{"key": edge, "operator": "Exists", "effect": "NoSchedule"}]
        assert config["nodeAffinity"] == [{"matchExpressions": [{"key": edge, "operator": "Exists"}], "weight": 100.0}]


def test_nothing_else_goes_to_the_edge(name: str, pipeline: Compiled) -> None:
    trains = f"exec-{FANNED_OUT.get(name, 'nobody')}"
    others = [config for label, config in pipeline.configs.items() if not label.startswith(trains)]
    assert not any(config.keys() & {"tolerations", "nodeAffinity", "nodeSelector"} for config in others)


def _plan(store: Path, training: str = "digits", devices: str = "", **placement: str) -> Plan:
    """Have the step plan a round, without a framework."""
    settings = {**RoundSettings().model_dump(mode="json"), "workload": "tests.steps.tiny:workload"}
    where = {**Placement().model_dump(), **placement}
    # kfp's local runner hands numbers over as floats.
    asked = {**settings, "clients": 12.0}
    return distribute_model(str(store), training, "current", "", 100, asked, where, "a-run", devices).plan


ELSEWHERE = {
    "data_claim": "building-7",
    "cpu_request": "250m",
    "cpu_limit": "1",
    "memory_request": "512Mi",
    "memory_limit": "2Gi",
}


def test_a_plan_has_exactly_the_fields_that_the_pipeline_reads(tmp_path: Path, loop: Compiled) -> None:
    plan = _plan(tmp_path)
    assert len(plan) == 3
    for entry in plan:
        assert entry.keys() == fields_read(loop) == {"batch", *Placement.model_fields}
        assert all(isinstance(value, str) and value for value in entry.values())


def test_an_entry_of_a_plan_is_small(tmp_path: Path) -> None:
    # Plans are outputs of a task, which the backend keeps in one record for the whole run.
    for entry in _plan(tmp_path, "smart-building-hvac", **ELSEWHERE):
        assert len(json.dumps(entry).encode()) < 200


def _results(plans: Iterator[Plan]) -> Any:
    versions = count(1)

    def results(step: str, inputs: dict[str, Any]) -> dict[str, Any]:
        match step:
            case "distribute_model":
                return {"Output": next(plans), "attempt": "digits/v1/1"}
            case "plan_comparison":
                return {"Output": next(plans), "compared": "digits/v1/0123456789ab"}
            case "train_in_jobs":
                return {"Output": [{"batch": f"{inputs['attempt']}/b000", "delivered": 5, "failed": 0}]}
            case "train_clients" | "train_arm":
                return {"Output": {"batch": inputs["batch"], "delivered": 5, "failed": 0}}
            case "aggregate_updates":
                return {"Output": "sha256:0"}
            case "version_model":
                return {"Output": f"v{next(versions)}"}
        return {}

    return results


def _training_pods(found: list[Pod]) -> list[Pod]:
    return [pod for pod in found if pod.function in ("train_clients", "train_arm")]


def test_two_plans_are_placed_in_two_ways(tmp_path: Path, loop_name: str, loop: Compiled) -> None:
    for where in ({}, ELSEWHERE):
        plan = _plan(tmp_path, **where)
        found = _training_pods(pods(loop, {"store": "s3://b/p"}, _results(iter([plan] * LOOPS[loop_name]))))
        wanted = {**Placement().model_dump(), **where}
        claim = wanted.pop("data_claim")
        assert [pod.inputs["batch"] for pod in found] == [entry["batch"] for entry in plan] * LOOPS[loop_name]
        for pod in found:
            assert pod.claims == {"/data": claim}
            assert pod.resources == wanted
            assert pod.inputs["store"] == "s3://b/p"


def test_each_entry_of_a_plan_is_placed_on_its_own() -> None:
    pipeline = parse((FOLDER / "fl_round.yaml").read_text())
    plan = [
        {
            "batch": f"digits/v1/1/b00{number}",
            "data_claim": f"device-{number}",
            "cpu_request": f"{number}00m",
            "cpu_limit": f"{number}",
            "memory_request": f"{number}Mi",
            "memory_limit": f"{number}Gi",
        }
        for number in range(1, 4)
    ]
    found = _training_pods(pods(pipeline, {}, _results(iter([plan]))))
    for pod, entry in zip(found, plan, strict=True):
        assert {"batch": pod.inputs["batch"], "data_claim": pod.claims["/data"], **pod.resources} == entry


def test_a_plan_is_never_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The backend's driver fails at a loop over nothing, so the step before it fails first, and says why."""
    everybody = {"name": "one", "clients": [f"p{7 * i}" for i in range(12)], "ready": False, "why_not": "is in repair"}
    (tmp_path / "devices.json").write_text(json.dumps([everybody]))
    for _ in range(2):  # the next attempt is no other
        with pytest.raises(SystemExit) as ended:
            _plan(tmp_path / "store", devices=str(tmp_path / "devices.json"))
        assert ended.value.code == RoundError.exit_code
        assert "0 of 12 clients can train, min_clients=1: 12 DEVICE_UNAVAILABLE" in capsys.readouterr().err
    with pytest.raises(InputError, match="min_clients=0"):
        RoundSettings.parse(min_clients=0)


def test_reports_of_all_batches_reach_the_aggregator(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    aggregate = _aggregator("fl_round", plan)
    assert [report["batch"] for report in aggregate.inputs["reports"]] == [entry["batch"] for entry in plan]
    assert aggregate.inputs["attempt"] == "digits/v1/1"


def test_reports_of_a_launcher_reach_the_aggregator(tmp_path: Path) -> None:
    aggregate = _aggregator("fl_round_job", _plan(tmp_path))
    assert [report["batch"] for report in aggregate.inputs["reports"]] == ["digits/v1/1/b000"]
    assert aggregate.inputs["attempt"] == "digits/v1/1"


def _aggregator(name: str, plan: Plan) -> Pod:
    pipeline = parse((FOLDER / f"{name}.yaml").read_text())
    (found,) = [pod for pod in pods(pipeline, {}, _results(iter([plan]))) if pod.function == "aggregate_updates"]
    return found


def test_a_launcher_is_told_where_batches_run_as_who_plans_them() -> None:
    pipeline = parse((FOLDER / "fl_round_job.yaml").read_text())
    asked = {**Placement().model_dump(), **ELSEWHERE}
    found = {pod.function: pod.inputs for pod in pods(pipeline, ELSEWHERE, _results(iter([[]])))}
    for step in ("distribute_model", "train_in_jobs"):
        assert {name: found[step][name] for name in asked} == asked


def test_names_and_test_data_come_from_the_shared_claim_and_no_other_task_mounts_any(
    tmp_path: Path, rounds_name: str, rounds: Compiled
) -> None:
    plans = iter([_plan(tmp_path, **ELSEWHERE)] * 5)
    claims = {pod.function: pod.claims for pod in pods(rounds, {}, _results(plans))}
    trains = {"train_in_jobs": {}} if rounds_name in JOB_PIPELINES else {"train_clients": {"/data": "building-7"}}
    assert claims == {
        "distribute_model": {"/data": "fededge-data"},
        **trains,
        "aggregate_updates": {},
        "evaluate_model": {"/data": "fededge-data"},
        "version_model": {},
    }


def _comparison_plan(store: Path, **placement: str) -> Plan:
    """Have the step plan a comparison; the federated and the centralized arm are each a batch of their own."""
    trainings = begin_training(FolderStore(store), "tiny")
    settings = RoundSettings(workload="tests.steps.tiny:workload", clients=4)
    attempt, token = open_round(trainings, "a run", settings)
    trainings.publish(make_manifest(trainings, attempt, close_round(trainings, attempt)), token)
    asked = {**ComparisonSettings().model_dump(), "clients_per_pod": 2.0}
    where = {**Placement().model_dump(), **placement}
    return plan_comparison(str(store), "tiny", "current", 100, asked, where).plan


def test_a_comparisons_plan_has_the_fields_that_the_pipeline_reads(tmp_path: Path, comparison: Compiled) -> None:
    plan = _comparison_plan(tmp_path / "store", **ELSEWHERE)
    assert len(plan) == 6
    for entry in plan:
        assert entry.keys() == fields_read(comparison)
        assert all(isinstance(value, str) and value for value in entry.values())
        assert len(json.dumps(entry).encode()) < 200


def test_what_needs_all_data_is_where_they_are_and_clients_are_on_their_devices(
    tmp_path: Path, comparison: Compiled
) -> None:
    plan = _comparison_plan(tmp_path / "store", **ELSEWHERE)
    found = pods(comparison, {}, _results(iter([plan])))
    claims = {pod.inputs["batch"].rpartition("/")[2]: pod.claims["/data"] for pod in _training_pods(found)}
    shared = ("federated", "centralized")
    assert claims == {name: "fededge-data" if name in shared else "building-7" for name in claims}
    assert set(shared) < claims.keys()
    plans, compares = found[0], found[-1]
    assert (plans.function, plans.claims) == ("plan_comparison", {"/data": "fededge-data"})
    assert (compares.function, compares.claims) == ("compare_arms", {})
    assert [report["batch"] for report in compares.inputs["reports"]] == [entry["batch"] for entry in plan]
    assert compares.inputs["compared"] == "digits/v1/0123456789ab"


def test_data_are_where_workloads_look(pipeline: Compiled) -> None:
    for label, container in pipeline.executors.items():
        mounts = [mount["mountPath"] for mount in pipeline.configs[label].get("pvcMount", [])]
        folders = [variable["value"] for variable in container.get("env", []) if variable["name"] == "FEDEDGE_DATA"]
        assert mounts == folders


def test_a_claim_that_is_fixed_would_be_noticed(tmp_path: Path) -> None:
    text = (FOLDER / "fl_round.yaml").read_text()
    fixed = "            pvcNameParameter:\n              componentInputParameter: data_claim\n"
    assert fixed in text
    constant = "            pvcNameParameter:\n              runtimeValue:\n                constant: fededge-data\n"
    pipeline = parse(text.replace(fixed, constant))
    found = _training_pods(pods(pipeline, {}, _results(iter([_plan(tmp_path, **ELSEWHERE)]))))
    assert {pod.claims["/data"] for pod in found} == {"fededge-data"}


def test_the_files_hold_two_documents_and_no_more() -> None:
    for name in PIPELINES:
        assert len(list(yaml.load_all((FOLDER / f"{name}.yaml").read_text(), yaml.CSafeLoader))) == 2


def test_every_round_holds_the_training_in_the_name_of_its_run(rounds: Compiled) -> None:
    """The run's id, the same in all its tasks and in no other run."""
    found = [
        task["inputs"]["parameters"]["run"]["runtimeValue"]["constant"]
        for path, task, _ in compiled.origins(rounds)
        if path.endswith("/distribute-model")
    ]
    assert found == ["{{$.pipeline_job_uuid}}"] * len(found)
    assert found
