"""What a person gets wrong ends in one line that says what to do, an exit code, and a store that is as it was."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import kfp
import pytest

from fededge import __version__, environments, errors
from fededge.cli.output import DEFAULT_STORE
from fededge.shipped import compiled_pipeline
from fededge.store import Store, keys
from fededge.store.folder import FolderStore
from fededge.store.trainings import TrainingStore
from tests.cli.command import Command, Done, error_line, snapshot
from tests.trainings import make_training

INPUT = errors.InputError.exit_code
SETUP = errors.SetupError.exit_code
STORE = errors.StoreError.exit_code
NOBODY = 65534

pytestmark = pytest.mark.usefixtures("unchanged", "no_installing")


@pytest.mark.parametrize(
    ("option", "value", "name"),
    [
        ("--clients", "-1", "clients"),
        ("--clients", "1000001", "clients"),
        ("--clients-per-round", "-1", "clients_per_round"),
        ("--clients-per-round", "11", "clients_per_round"),
        ("--clients-per-pod", "0", "clients_per_pod"),
        ("--min-clients", "0", "min_clients"),
        ("--min-clients", "11", "min_clients"),
        ("--local-epochs", "0", "local_epochs"),
        ("--local-epochs", "1001", "local_epochs"),
        ("--batch-size", "0", "batch_size"),
        ("--batch-size", "1000001", "batch_size"),
        ("--client-learning-rate", "0", "client_learning_rate"),
        ("--client-learning-rate", "-0.1", "client_learning_rate"),
        ("--client-learning-rate", "nan", "client_learning_rate"),
        ("--client-learning-rate", "inf", "client_learning_rate"),
        ("--client-momentum", "-0.1", "client_momentum"),
        ("--client-momentum", "1", "client_momentum"),
        ("--server-learning-rate", "0", "server_learning_rate"),
        ("--server-learning-rate", "inf", "server_learning_rate"),
        ("--server-momentum", "-0.1", "server_momentum"),
        ("--server-momentum", "1", "server_momentum"),
        ("--seed", "-1", "seed"),
        ("--seed", str(2**31), "seed"),
        ("--workload", "", "workload"),
    ],
)
def test_a_setting_out_of_range_is_named(fededge: Command, store: Store, option: str, value: str, name: str) -> None:
    line = fededge.fails(INPUT, "run", f"{option}={value}", "--store", store.url)
    assert f"{name}=" in line
    assert value in line


def test_settings_that_do_not_go_together(fededge: Command, store: Store) -> None:
    line = fededge.fails(INPUT, "run", "--server-optimizer=adam", "--server-momentum=0.9", "--store", store.url)
    assert "server_momentum goes with server_optimizer=sgd, not adam" in line


@pytest.mark.parametrize("rounds", [-1, 0, 21])
def test_rounds_out_of_range(fededge: Command, store: Store, rounds: int) -> None:
    line = fededge.fails(INPUT, "run", f"--rounds={rounds}", "--store", store.url)
    assert f"rounds={rounds} must be between 1 and 20" in line
    assert "run the pipeline again" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("run --clients many", "'--clients'"),
        ("run --server-optimizer lion", "'sgd', 'adam', 'yogi', 'adagrad'"),
        ("run --runner podman", "'environment', 'docker'"),
        ("run --initial-model missing.keras", "'missing.keras' does not exist"),
        ("run --pipeline missing.yaml", "'missing.yaml' does not exist"),
        ("run --colour red", "--colour"),
        ("walk", "'walk'"),
        ("versions rollback digits", "'version'"),
        ("versions export", "'training'"),
        ("pipelines export --digests missing.json", "'missing.json' does not exist"),
        ("pipelines export --rounds few", "'--rounds'"),
    ],
)
def test_what_is_no_option_or_value_at_all(fededge: Command, alone: Path, arguments: str, words: str) -> None:
    """The library of the command line tells these, in a box of its own."""
    done = fededge(*arguments.split())
    assert done.code == INPUT
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "--help" in done.err
    assert words in done.err
    assert list(alone.iterdir()) == []


@pytest.mark.parametrize("training", ["Digits", "a b", "a/b", "..", "-a", "a-", "ä", "a" * 64])
def test_a_name_that_is_none(fededge: Command, store: Store, training: str) -> None:
    commands = (["run", "--"], ["versions", "list", "--"], ["versions", "show", "--"], ["versions", "export", "--"])
    for command in commands:
        line = fededge.fails(INPUT, *command[:-1], "--store", store.url, "--", training)
        assert "lower-case letters, digits and hyphens" in line


@pytest.mark.parametrize("url", ["ftp://server/folder", "http://server/bucket", "gs://bucket", "S3://bucket"])
def test_a_store_of_another_kind(fededge: Command, url: str) -> None:
    for command in (["run"], ["versions", "list"]):
        assert "a store is s3://bucket/prefix or a folder" in fededge.fails(INPUT, *command, "--store", url)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings of an S3 server at a port that nobody listens to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setattr("urllib3.util.retry.Retry.get_backoff_time", lambda _: 0)
    return "s3://bucket/prefix"


@pytest.mark.parametrize("command", [["run"], ["versions", "list"], ["versions", "show", "digits"]], ids=" ".join)
def test_an_s3_server_that_does_not_answer(fededge: Command, s3: str, command: list[str]) -> None:
    line = fededge.fails(STORE, *command, "--store", s3)
    assert "http://127.0.0.1:1 does not answer" in line
    assert "check AWS_ENDPOINT_URL" in line
    assert "a-secret" not in line
    assert "Signature" not in line


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_s3_without_its_settings(fededge: Command, s3: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv(name)
    assert f"{name} is not set" in fededge.fails(SETUP, "run", "--store", s3)


def test_a_file_is_no_store(fededge: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = fededge.fails(STORE, "run", "--store", str(tmp_path / "file"))
    assert "is no folder: choose another with --store" in line


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _as_nobody(folder: Path, *arguments: str) -> Done:
    """Call the command as a user who may read everything here and write nothing."""
    # Imported first: the packages may be where only root can read them.
    modules = "os, fededge.cli, fededge.kubeflow.local, fededge.kubeflow.export"
    program = f"import {modules}\nos.geteuid() or os.setuid({NOBODY}); fededge.cli.main()"
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True)
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_store_that_may_not_be_written(public: Path) -> None:
    make_training(FolderStore(public / "store"))
    (public / "store").chmod(0o555)
    before = snapshot(public)
    line = error_line(_as_nobody(public, "run", "--store", str(public / "store")), STORE)
    assert "may not be read and written by this user" in line
    assert "choose another with --store" in line
    line = error_line(
        _as_nobody(public, "versions", "rollback", "digits", "v0", "--store", str(public / "store")), STORE
    )
    assert "choose another with --store" in line
    assert snapshot(public) == before


def test_a_working_folder_that_may_not_be_written(public: Path) -> None:
    (public / "here").mkdir(mode=0o555)
    (public / "store").mkdir()
    (public / "store").chmod(0o777)
    done = _as_nobody(public / "here", "run", "--store", str(public / "store"))
    assert ".fededge" in error_line(done, SETUP)


NEWER = {"format": 4, "invention": {}}


def _damage(store: Store, key: str, content: bytes) -> None:
    assert isinstance(store, FolderStore)
    path = Path(store.url, key)
    assert path.is_file()
    path.write_bytes(content)


@pytest.fixture
def damaged(template: Path, tmp_path: Path) -> Store:
    """A store to damage."""
    return FolderStore(shutil.copytree(template, tmp_path / "damaged"))


@pytest.mark.parametrize(
    "command",
    [["list", "digits"], ["show", "digits"], ["export", "digits"], ["rollback", "digits", "v0"]],
    ids=" ".join,
)
def test_a_manifest_of_a_newer_format(fededge: Command, damaged: Store, command: list[str]) -> None:
    for version in ("v2-b1", "v0"):
        _damage(damaged, keys.version("digits", version), json.dumps(NEWER).encode())
    before = snapshot(Path(damaged.url))
    line = fededge.fails(errors.FormatError.exit_code, "versions", *command, "--store", damaged.url)
    assert "has format 4 and this FedEdge reads format 3: upgrade FedEdge" in line
    assert snapshot(Path(damaged.url)) == before


@pytest.mark.parametrize("command", [["list"], ["list", "digits"], ["show", "digits", "v1"]], ids=" ".join)
def test_a_pointer_of_a_newer_format(fededge: Command, damaged: Store, command: list[str]) -> None:
    _damage(damaged, keys.pointer("digits"), json.dumps(NEWER).encode())
    line = fededge.fails(errors.FormatError.exit_code, "versions", *command, "--store", damaged.url)
    assert "upgrade FedEdge" in line


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b"{}", b'{"format": "new"}', b'{"format": 3}', b'{"format": 3, "version": 3}', b"\xff"],
    ids=repr,
)
@pytest.mark.parametrize("key", [keys.pointer("digits"), keys.version("digits", "v2-b1")], ids=["pointer", "manifest"])
def test_a_damaged_document(fededge: Command, damaged: Store, key: str, content: bytes) -> None:
    _damage(damaged, key, content)
    before = snapshot(Path(damaged.url))
    for command in (["show", "digits"], ["list", "digits"], ["list"]):
        line = fededge.fails(errors.CorruptError.exit_code, "versions", *command, "--store", damaged.url)
        assert key in line
    assert snapshot(Path(damaged.url)) == before


def _truncate(data: bytes) -> bytes:
    return data[:-1]


def _empty(data: bytes) -> bytes:
    return b""


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _grow(data: bytes) -> bytes:
    return data + b"\x00"


@pytest.mark.parametrize("damage", [_truncate, _empty, _flip, _grow], ids=lambda damage: damage.__name__)
def test_a_damaged_model_is_not_exported(
    fededge: Command, damaged: Store, alone: Path, damage: Callable[[bytes], bytes]
) -> None:
    key = keys.blob(TrainingStore(damaged, "digits").version("v3").model)
    _damage(damaged, key, damage(Path(damaged.url, key).read_bytes()))
    for name in ("model.safetensors", "model.keras"):
        line = fededge.fails(
            errors.CorruptError.exit_code, "versions", "export", "digits", "v3", "--to", name, "--store", damaged.url
        )
        assert "is damaged" in line
        assert "restore it from a backup" in line
    assert list(alone.iterdir()) == []


def test_a_missing_model_is_not_exported(fededge: Command, damaged: Store, alone: Path) -> None:
    Path(damaged.url, keys.blob(TrainingStore(damaged, "digits").version("v3").model)).unlink()
    command = ["versions", "export", "digits", "v3", "--to", "model.safetensors", "--store", damaged.url]
    assert "blobs/sha256/" in fededge.fails(errors.NotFoundError.exit_code, *command)
    assert list(alone.iterdir()) == []


def test_a_training_whose_start_was_cut_short_hides_no_other(fededge: Command, damaged: Store) -> None:
    training = Path(damaged.url, keys.training("digits")).read_bytes()
    damaged.create(keys.training("begun"), training.replace(b'"digits"', b'"begun"', 1))
    assert "v2-b1" in fededge.works("versions", "list", "--store", damaged.url)
    assert "begun" in fededge.fails(errors.NotFoundError.exit_code, "versions", "show", "begun", "--store", damaged.url)


@pytest.mark.parametrize("command", [["list"], ["show"], ["export"], ["rollback"]], ids=" ".join)
def test_an_unknown_training(fededge: Command, store: Store, command: list[str]) -> None:
    arguments = [*command, "other", *(["v0"] if command == ["rollback"] else [])]
    line = fededge.fails(errors.NotFoundError.exit_code, "versions", *arguments, "--store", store.url)
    assert f"no training other in {store.url}; there are: digits" in line


@pytest.mark.parametrize("command", [["show"], ["export"], ["rollback"]], ids=" ".join)
def test_an_unknown_version(fededge: Command, store: Store, command: list[str]) -> None:
    for version in ("v4", "v2-b2", "v1-b1"):
        arguments = [*command, "digits", version, "--store", store.url]
        line = fededge.fails(errors.NotFoundError.exit_code, "versions", *arguments)
        assert f"no version {version}: `fededge versions list digits` shows them" in line
    for version in ("3", "v03", "latest", "v1/../v2"):
        line = fededge.fails(INPUT, "versions", *command, "digits", version, "--store", store.url)
        assert "versions look like v4" in line


@pytest.mark.parametrize("to", ["model", "model.onnx", "model.pt", "model.safetensors.zip", "model.KERAS"])
def test_an_export_to_another_kind_of_file(fededge: Command, store: Store, alone: Path, to: str) -> None:
    line = fededge.fails(INPUT, "versions", "export", "digits", "--to", to, "--store", store.url)
    assert f"--to {to}: the file must end in .keras" in line
    assert ".safetensors" in line
    assert list(alone.iterdir()) == []


def test_an_export_to_a_missing_folder(fededge: Command, store: Store, alone: Path) -> None:
    to = "missing/model.safetensors"
    line = fededge.fails(INPUT, "versions", "export", "digits", "--to", to, "--store", store.url)
    assert f"there is no folder {alone / 'missing'}" in line
    line = fededge.fails(INPUT, "pipelines", "export", "--to", "missing/pipeline.yaml")
    assert "missing" in line


def test_an_export_to_a_folder(fededge: Command, store: Store, alone: Path) -> None:
    for name in ("model.safetensors", "pipeline.yaml"):
        (alone / name).mkdir()
    to = "model.safetensors"
    assert to in fededge.fails(INPUT, "versions", "export", "digits", "--to", to, "--store", store.url)
    assert "pipeline.yaml" in fededge.fails(INPUT, "pipelines", "export", "--to", "pipeline.yaml")


def test_docker_without_an_engine(fededge: Command, store: Store) -> None:
    line = fededge.fails(SETUP, "run", "--runner", "docker", "--store", store.url)
    assert "no Docker engine answers: start it, or set DOCKER_HOST" in line


def test_docker_at_an_address_that_is_none(fededge: Command, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "nonsense://x")
    line = fededge.fails(SETUP, "run", "--runner", "docker", "--store", store.url)
    assert "DOCKER_HOST" in line


def test_packages_do_not_go_into_containers(fededge: Command, store: Store) -> None:
    line = fededge.fails(INPUT, "run", "--runner", "docker", "--with", "numpy", "--store", store.url)
    assert "--with is for environments: build an image" in line
    assert "--client-image" in line


@pytest.mark.parametrize("extra", ["./missing", "missing/package", "~/missing"])
def test_packages_that_are_not_there(fededge: Command, store: Store, extra: str) -> None:
    for command in (
        ["run", "--store", store.url],
        ["env", "create"],
        ["versions", "export", "digits", "--store", store.url],
    ):
        line = fededge.fails(INPUT, *command, "--with", extra)
        assert f"--with {extra}: no such file or folder" in line


def test_an_unknown_environment(fededge: Command) -> None:
    assert "there are serving, serving-tensorflow, sklearn, tensorflow, torch" in fededge.fails(
        INPUT, "env", "create", "pytorch"
    )


@pytest.mark.parametrize("workload", ["nonsense", "my_package.module", "Digits"])
def test_an_unknown_workload_is_told_before_an_environment_is_made(
    fededge: Command, store: Store, workload: str
) -> None:
    line = fededge.fails(INPUT, "run", "--workload", workload, "--store", store.url)
    ours = "digits, mnist, wisdm, parkinsons, cmapss, buildings, traffic"
    assert f"unknown workload {workload!r}: choose {ours}, or name your own as package.module:attribute" in line


@pytest.fixture
def steps_here() -> None:
    """Have steps run with this interpreter, as if the environment had been made."""
    path = environments.environment("tensorflow").path
    (path / "bin").mkdir(parents=True)
    (path / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (path / "bin" / "python").chmod(0o755)
    (path / environments._COMPLETE).touch()


@pytest.mark.usefixtures("steps_here")
def test_a_workload_that_is_not_installed(fededge: Command, store: Store) -> None:
    done = fededge("run", "--workload", "my_package.module:workload", "--rounds", "1", "--store", store.url)
    line = error_line(done, errors.WorkloadError.exit_code)
    assert "No module named 'my_package'; install its package with --with, or build an image" in line
    assert "kfp.log" in line


def test_no_workload_at_all(fededge: Command, store: Store) -> None:
    assert "workload" in fededge.fails(INPUT, "run", "--workload", "!!!", "--store", store.url)


@pytest.fixture
def pipeline_file(alone: Path) -> Callable[[str, str], Path]:
    """Write the shipped training, changed."""

    def write(replace: str, by: str) -> Path:
        text = compiled_pipeline("fl_training").read_text()
        assert replace in text
        path = alone / "other.yaml"
        path.write_text(text.replace(replace, by))
        return path

    return write


@pytest.mark.parametrize("runner", ["environment", "docker"])
def test_a_pipeline_of_another_kfp(
    fededge: Command, store: Store, pipeline_file: Callable[[str, str], Path], runner: str
) -> None:
    path = pipeline_file(f"sdkVersion: kfp-{kfp.__version__}", "sdkVersion: kfp-2.9.0")
    line = fededge.fails(INPUT, "run", "--pipeline", str(path), "--runner", runner, "--store", store.url)
    assert "was compiled with kfp-2.9.0" in line
    assert "write it anew with `fededge pipelines export`" in line


def test_a_pipeline_on_an_image_without_an_environment(
    fededge: Command, store: Store, pipeline_file: Callable[[str, str], Path]
) -> None:
    path = pipeline_file(f"image: fededge-tensorflow:{__version__}", "image: harbor.example.org/me/mine:1")
    line = fededge.fails(INPUT, "run", "--pipeline", str(path), "--store", store.url)
    assert "no environment for image harbor.example.org/me/mine:1: use --runner docker" in line


@pytest.mark.parametrize("content", ["", "a: b", "[]", "text", "{", "\x00", "deploymentSpec: {}", "- deploymentSpec"])
def test_a_pipeline_that_is_none(fededge: Command, store: Store, alone: Path, content: str) -> None:
    (alone / "other.yaml").write_text(content)
    line = fededge.fails(INPUT, "run", "--pipeline", "other.yaml", "--store", store.url)
    assert "other.yaml" in line


def test_a_pipeline_that_has_no_executors(fededge: Command, store: Store, alone: Path) -> None:
    (alone / "other.yaml").write_text(f"sdkVersion: kfp-{kfp.__version__}\ndeploymentSpec: {{}}\n")
    line = fededge.fails(INPUT, "run", "--pipeline", "other.yaml", "--store", store.url)
    assert "other.yaml" in line


@pytest.mark.parametrize("rounds", ["0", "21"])
def test_pipelines_of_no_or_too_many_rounds(fededge: Command, alone: Path, rounds: str) -> None:
    line = fededge.fails(INPUT, "pipelines", "export", "--rounds", rounds)
    assert f"rounds={rounds} must be between 1 and 5" in line
    assert list(alone.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "digests.json"),
        ("[]", "digests.json"),
        ('{"fededge-tensorflow:1": "0123"}', "sha256:"),
        (json.dumps({"other:1": "sha256:" + 64 * "0"}), "no image other:1 in fl_training"),
    ],
)
def test_digests_that_are_none(fededge: Command, alone: Path, content: str, words: str) -> None:
    (alone / "digests.json").write_text(content)
    assert words in fededge.fails(INPUT, "pipelines", "export", "--digests", "digests.json")
    assert [path.name for path in alone.iterdir()] == ["digests.json"]


def test_an_unknown_pipeline(fededge: Command, alone: Path) -> None:
    assert "there are fl_round, fl_training, fl_round_job, fl_training_job" in fededge.fails(
        INPUT, "pipelines", "export", "fl_other"
    )
    assert list(alone.iterdir()) == []


def test_a_model_to_begin_with_that_is_not_used_is_not_kept(fededge: Command, store: Store, alone: Path) -> None:
    (alone / "model.safetensors").write_bytes(b"whatever")
    fededge.fails(SETUP, "run", "--initial-model", "model.safetensors", "--runner", "docker", "--store", store.url)


def test_the_default_store_is_beside_the_runs(fededge: Command, alone: Path) -> None:
    line = fededge.fails(errors.NotFoundError.exit_code, "versions", "show", "digits")
    assert str(alone / DEFAULT_STORE) in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--clients", "1"), "arm_clients=1 compares nobody"),
        (("--clients", "-1"), "arm_clients=-1"),
        (("--clients-per-pod", "0"), "clients_per_pod=0"),
        (("--deadline-s", "0"), "deadline_s=0"),
        (("--version", "../v1"), "'../v1' is no version"),
        (("--registry", "harbor.example.org"), "go with --runner docker"),
        (("--runner", "docker", "--with", "."), "--with is for environments"),
    ],
)
def test_a_comparison_that_cannot_be_asked_for(
    fededge: Command, store: Store, options: tuple[str, ...], words: str
) -> None:
    assert words in fededge.fails(INPUT, "compare", "digits", *options, "--store", store.url)


def test_a_comparison_of_what_is_not_there(fededge: Command, store: Store, alone: Path) -> None:
    assert "no training tumours" in fededge.fails(STORE, "compare", "tumours", "--store", store.url)
    assert "has no version v9" in fededge.fails(STORE, "compare", "digits", "--version", "v9", "--store", store.url)
    assert not (alone / ".fededge").exists()
