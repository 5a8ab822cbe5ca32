"""Exported pipelines differ from the shipped ones in their images and the number of rounds, and in nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import kfp
import pytest
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from fededge import __version__
from fededge.errors import InputError
from fededge.kubeflow import export
from fededge.kubeflow.export import Images, export_pipeline, read_digests
from fededge.shipped import image_names
from tests.contract import compiled
from tests.contract.compiled import FOLDER, PIPELINES, ROUND_PIPELINES, Compiled, parse
from tests.contract.platform_spec import function

IMAGE = f"fededge-tensorflow:{__version__}"
REGISTRY = "harbor.example.org:8443/fededge"
CLIENT = "harbor.example.org:8443/me/my-workload:1.0"
SERVERS = {  # by the input of fl_deploy
    "serving_image": f"fededge-serving:{__version__}",
    "serving_tensorflow_image": f"fededge-serving-tensorflow:{__version__}",
}
DIGEST = "sha256:" + "0123456789abcdef" * 4
OTHER_DIGEST = "sha256:" + "fedcba9876543210" * 4
CLIENT_STEPS = {  # these load the workload
    "deploy_model", "distribute_model", "train_clients", "train_in_jobs", "evaluate_model",
    "plan_comparison", "train_arm", "compare_arms",
}  # fmt: skip
RULES = (
    compiled.caching,
    compiled.artifact_inputs,
    compiled.conditions,
    compiled.loops,
    compiled.users,
    compiled.deadlines,
    compiled.store_settings,
)


@pytest.fixture(scope="module", params=PIPELINES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _export(folder: Path, name: str, images: Images | None = None, rounds: int | None = None) -> str:
    to = folder / "exported.yaml"
    export_pipeline(name, images or Images(), rounds, to)
    return to.read_text(encoding="utf-8")


def _shipped(name: str) -> str:
    return (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def _images(text: str) -> dict[str, set[str]]:
    """Return the images of each component's function."""
    images: dict[str, set[str]] = {}
    for container in parse(text).executors.values():
        images.setdefault(function(container), set()).add(container["image"])
    return images


def _servers(text: str) -> dict[str, str]:
    inputs = parse(text).spec["root"]["inputDefinitions"]["parameters"]
    return {name: inputs[name]["defaultValue"] for name in SERVERS if name in inputs}


def _without_images(text: str) -> list[str]:
    """Leave out the lines that name an image: a task's, or a server's and the comment on it."""
    kept, name = [], ""
    for line in text.splitlines(keepends=True):
        before, name = name, line.strip(" #\n").partition(":")[0]
        if not (line.startswith("        image: ") or before in SERVERS or (name in SERVERS and line.startswith("#"))):
            kept.append(line)
    return kept


def _require_valid(pipeline: Compiled) -> None:
    json_format.ParseDict(pipeline.spec, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(pipeline.spec["deploymentSpec"], pipeline_spec_pb2.PipelineDeploymentConfig())
    json_format.ParseDict(pipeline.platform, pipeline_spec_pb2.PlatformSpec())
    for config in pipeline.configs.values():
        json_format.ParseDict(config, kubernetes_executor_config_pb2.KubernetesExecutorConfig())
    assert [wrong for rule in RULES for wrong in rule(pipeline)] == []


def test_without_wishes_it_is_the_shipped_file(tmp_path: Path, name: str) -> None:
    assert _export(tmp_path, name) == _shipped(name)


@pytest.mark.parametrize("registry", [REGISTRY, f"{REGISTRY}/"])
def test_a_registry_goes_before_every_image(tmp_path: Path, name: str, registry: str) -> None:
    exported = _export(tmp_path, name, Images(registry=registry))
    assert set.union(*_images(exported).values()) == {f"{REGISTRY}/{IMAGE}"}
    assert exported.count(f"        image: {REGISTRY}/{IMAGE}\n") == _shipped(name).count(f"        image: {IMAGE}\n")
    assert _without_images(exported) == _without_images(_shipped(name))
    _require_valid(parse(exported))


def test_a_registry_and_digests_are_for_servers_too(tmp_path: Path) -> None:
    """They are inputs, which a run could still give another image."""
    assert _servers(_shipped("fl_deploy")) == SERVERS
    digests = dict.fromkeys([IMAGE, *SERVERS.values()], DIGEST)
    exported = _export(tmp_path, "fl_deploy", Images(REGISTRY, CLIENT, "torch", digests))
    names = {name: image.partition(":")[0] for name, image in SERVERS.items()}
    assert _servers(exported) == {name: f"{REGISTRY}/{image}@{DIGEST}" for name, image in names.items()}
    for name, image in names.items():
        assert f"#    {name}: str [Default: '{REGISTRY}/{image}@{DIGEST}']\n" in exported
    _require_valid(parse(exported))
    exported = _export(tmp_path, "fl_deploy", Images(REGISTRY))
    assert _servers(exported) == {name: f"{REGISTRY}/{image}" for name, image in SERVERS.items()}


@pytest.mark.parametrize("registry", ["", REGISTRY])
def test_a_client_image_is_for_the_steps_that_load_the_workload(tmp_path: Path, name: str, registry: str) -> None:
    exported = _export(tmp_path, name, Images(registry=registry, client=CLIENT))
    ours = f"{registry}/{IMAGE}" if registry else IMAGE
    assert _images(exported) == {step: {CLIENT if step in CLIENT_STEPS else ours} for step in _images(_shipped(name))}
    assert _without_images(exported) == _without_images(_shipped(name))
    _require_valid(parse(exported))


def test_digests_name_images_beyond_doubt(tmp_path: Path, name: str) -> None:
    digests = {IMAGE: DIGEST, CLIENT: OTHER_DIGEST, **dict.fromkeys(SERVERS.values(), DIGEST)}
    images = Images(registry=REGISTRY, client=CLIENT, digests=digests)
    found = _images(_export(tmp_path, name, images))
    ours, theirs = f"{REGISTRY}/fededge-tensorflow@{DIGEST}", f"harbor.example.org:8443/me/my-workload@{OTHER_DIGEST}"
    assert found == {step: {theirs if step in CLIENT_STEPS else ours} for step in found}


def test_a_digest_does_not_need_a_registry(tmp_path: Path, name: str) -> None:
    found = _images(_export(tmp_path, name, Images(digests=dict.fromkeys([IMAGE, *SERVERS.values()], DIGEST))))
    assert set.union(*found.values()) == {f"fededge-tensorflow@{DIGEST}"}


@pytest.mark.parametrize("client", ["harbor.example.org:8443/me/my-workload", "me/my-workload"])
def test_a_client_image_without_a_tag_can_have_a_digest(tmp_path: Path, client: str) -> None:
    found = _images(_export(tmp_path, "fl_round", Images(client=client, digests={client: DIGEST, IMAGE: DIGEST})))
    assert found["train_clients"] == {f"{client}@{DIGEST}"}


@pytest.mark.parametrize("rounds", [1, 5, 20])
@pytest.mark.parametrize("name", ["fl_training", "fl_training_job"])
def test_any_number_of_rounds_up_to_20(tmp_path: Path, name: str, rounds: int) -> None:
    text = _export(tmp_path, name, rounds=rounds)
    exported, one_round = parse(text), parse(_shipped(name.replace("training", "round")))
    tasks = exported.spec["root"]["dag"]["tasks"]
    assert [task["taskInfo"]["name"] for task in tasks.values()].count(f"round {rounds} of {rounds}") == 1
    assert len(tasks) == rounds
    for step, executors in _by_step(exported).items():
        assert len(executors) == rounds
        assert all(executor == _by_step(one_round)[step][0] for executor in executors)
    for label, config in exported.configs.items():
        assert config == one_round.configs[_first(label)]
    limits = [task["inputs"]["parameters"]["max_batches"] for task in tasks.values()]
    fixed = {"runtimeValue": {"constant": 100 // rounds}}
    given = {"componentInputParameter": "max_batches"}  # Jobs are not in the run's record
    assert limits == [fixed if name == "fl_training" else given] * rounds
    assert len(text.encode()) < 1_000_000  # what a run's record holds, and the YAML is in it
    _require_valid(exported)


def _first(label: str) -> str:
    """Return the label of an executor in a pipeline of one round."""
    base, _, number = label.rpartition("-")
    return base if number.isdigit() else label


def _by_step(pipeline: Compiled) -> dict[str, list[dict[str, object]]]:
    found: dict[str, list[dict[str, object]]] = {}
    for container in pipeline.executors.values():
        found.setdefault(function(container), []).append(container)
    return found


@pytest.mark.parametrize("name", ["fl_training", "fl_training_job"])
def test_five_rounds_are_the_shipped_file(tmp_path: Path, name: str) -> None:
    assert _export(tmp_path, name, rounds=5) == _shipped(name)


def test_rounds_and_images_go_together(tmp_path: Path) -> None:
    exported = _export(tmp_path, "fl_training", Images(registry=REGISTRY, client=CLIENT), rounds=12)
    found = _images(exported)
    assert found["train_clients"] == {CLIENT}
    assert found["version_model"] == {f"{REGISTRY}/{IMAGE}"}
    assert len(parse(exported).executors) == 60
    assert _without_images(exported) == _without_images(_export(tmp_path, "fl_training", rounds=12))


def test_exporting_again_gives_the_same_bytes(tmp_path: Path) -> None:
    images = Images(registry=REGISTRY, digests={IMAGE: DIGEST})
    assert _export(tmp_path, "fl_training", images, 3) == _export(tmp_path, "fl_training", images, 3)


def _refusal(folder: Path, name: str, images: Images | None = None, rounds: int | None = None) -> str:
    """Return why nothing is exported, and make sure that nothing is."""
    with pytest.raises(InputError) as raised:
        export_pipeline(name, images or Images(), rounds, folder / "exported.yaml")
    assert not (folder / "exported.yaml").exists()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("rounds", [-1, 0, 21, 1000])
def test_rounds_out_of_range_are_refused(tmp_path: Path, rounds: int) -> None:
    assert f"rounds={rounds} must be between 1 and 20" in _refusal(tmp_path, "fl_training", rounds=rounds)


def test_a_round_has_no_rounds(tmp_path: Path) -> None:
    assert "--rounds goes with fl_training and fl_training_job" in _refusal(tmp_path, "fl_round", rounds=3)


@pytest.mark.parametrize("name", ["fl-round", "../fl_round", "fl_round.yaml", ""])
def test_an_unknown_pipeline_is_refused(tmp_path: Path, name: str) -> None:
    assert "there are fl_round, fl_training, fl_round_job, fl_training_job" in _refusal(tmp_path, name)


def test_a_digest_of_an_image_that_is_not_used_is_refused(tmp_path: Path, name: str) -> None:
    wrong = _refusal(tmp_path, name, Images(digests={IMAGE: DIGEST, "fededge-tensorflow:0.0.9": DIGEST}))
    assert "no image fededge-tensorflow:0.0.9" in wrong
    assert IMAGE in wrong.partition("it uses ")[2].split(", ")


def test_each_image_of_ours_needs_a_digest_if_there_are_any(tmp_path: Path) -> None:
    images = Images(library="torch", digests={IMAGE: DIGEST})
    assert f"the digests have none of fededge-torch:{__version__}: " in _refusal(tmp_path, "fl_round", images)
    servers = ", ".join(sorted(SERVERS.values()))
    assert f"the digests have none of {servers}: " in _refusal(tmp_path, "fl_deploy", Images(digests={IMAGE: DIGEST}))


def test_the_digests_of_a_push_have_images_that_one_pipeline_does_not_use(tmp_path: Path, name: str) -> None:
    digests = {f"fededge-{image}:{__version__}": DIGEST for image in image_names()}
    found = _images(_export(tmp_path, name, Images(registry=REGISTRY, digests=digests)))
    assert set.union(*found.values()) == {f"{REGISTRY}/fededge-tensorflow@{DIGEST}"}


@pytest.mark.parametrize("rounds", [None, 3])
def test_a_pipeline_of_another_kfp_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int | None
) -> None:
    for name in PIPELINES:
        (tmp_path / f"{name}.yaml").write_text(
            _shipped(name).replace(f"sdkVersion: kfp-{kfp.__version__}", "sdkVersion: kfp-2.9.0")
        )
    monkeypatch.setattr(export, "compiled_pipeline", lambda name: tmp_path / f"{name}.yaml")
    wrong = _refusal(tmp_path, "fl_training", rounds=rounds)
    assert "compiled with kfp-2.9.0" in wrong
    assert "`fededge pipelines export`" in wrong


def test_digests_are_read(tmp_path: Path) -> None:
    path = tmp_path / "digests.json"
    path.write_text(json.dumps({IMAGE: DIGEST, CLIENT: OTHER_DIGEST}))
    assert read_digests(path) == {IMAGE: DIGEST, CLIENT: OTHER_DIGEST}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"a": 1}',
        '{"a": null}',
        '{"a": {"digest": "sha256:0"}}',
        '"sha256:0"',
        json.dumps({IMAGE: "0123456789abcdef" * 4}),
        json.dumps({IMAGE: "md5:0123456789abcdef"}),
        json.dumps({IMAGE: "sha256:"}),
        json.dumps({IMAGE: "sha256:zz"}),
        json.dumps({IMAGE: DIGEST[:-1]}),
        json.dumps({IMAGE: f"{DIGEST}\n        command: [evil]"}),
        "\x00\xff",
    ],
    ids=repr,
)
def test_a_malformed_digest_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "digests.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError) as raised:
        read_digests(path)
    assert str(path) in str(raised.value)
    assert "sha256:" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_digest_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"missing\.json"):
        read_digests(tmp_path / "missing.json")


@pytest.mark.parametrize("wrong", ["a b", "harbor.example.org/x: y", "a\n        command: [evil]", "#", "{x}"])
@pytest.mark.parametrize("which", ["registry", "client"])
def test_what_is_no_image_name_is_refused(tmp_path: Path, which: str, wrong: str) -> None:
    _refusal(tmp_path, "fl_round", Images(**{which: wrong}))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ROUND_PIPELINES)
def test_a_workload_of_ours_brings_its_library_and_its_defaults(name: str, tmp_path: Path) -> None:
    to = tmp_path / "exported.yaml"
    export_pipeline(name, Images(library="torch"), None, to, {"workload": "cmapss", "clients": 0, "local_steps": 3})
    text = to.read_text(encoding="utf-8")
    for component, images in _images(text).items():
        wanted = "torch" if component in CLIENT_STEPS else "tensorflow"
        assert images == {f"fededge-{wanted}:{__version__}"}, component


def test_other_defaults_change_nothing_else(tmp_path: Path) -> None:
    to = tmp_path / "exported.yaml"
    defaults = {"workload": "cmapss", "local_steps": 3, "client_learning_rate": 0.5, "close_at_target": True}
    export_pipeline("fl_training", Images(), None, to, defaults)
    before, after = (parse(text).spec["root"] for text in (_shipped("fl_training"), to.read_text(encoding="utf-8")))
    inputs, changed = (root["inputDefinitions"]["parameters"] for root in (before, after))
    assert {name: spec["defaultValue"] for name, spec in changed.items() if spec != inputs[name]} == defaults
    assert before["dag"] == after["dag"]
    with pytest.raises(InputError, match="no input frobnicate"):
        export_pipeline("fl_training", Images(), None, to, {"frobnicate": 1})


def test_with_sidecars_every_pod_joins_the_mesh_and_nothing_else_changes(name: str, tmp_path: Path) -> None:
    to = tmp_path / "exported.yaml"
    export_pipeline(name, Images(), None, to, sidecars=True)
    before, after = (parse(text) for text in (_shipped(name), to.read_text(encoding="utf-8")))
    _require_valid(after)
    for label, config in after.configs.items():
        assert config["podMetadata"].pop("annotations") == {"sidecar.istio.io/nativeSidecar": "true"}
        assert config["podMetadata"]["labels"].pop("sidecar.istio.io/inject") == "true"
        assert config == before.configs[label]
    assert after.spec == before.spec
