"""A real server, which answers as the learner does where the model was trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fededge.store import keys
from tests.serving.conftest import Server, Trained, run, serving
from tests.serving.trained import NAME

FP = {"float32": "FP32", "float64": "FP64"}


def _array(tensor: dict[str, Any]) -> np.ndarray[Any, Any]:
    dtype = {"FP32": np.float32, "FP64": np.float64}[tensor["datatype"]]
    return np.array(tensor["data"], dtype).reshape(tensor["shape"])


@pytest.fixture(scope="module")
def server(light: Trained) -> Iterator[Server]:
    """A server of v2, pinned."""
    with serving(light.server, light.folder, "--store", str(light.store), "--version", "v2") as server:
        server.wait(server.ready)
        yield server


def test_the_answers_have_the_bits_of_the_learner_where_it_was_trained(trained: Trained, tmp_path: Path) -> None:
    x = trained.array("x")
    with serving(trained.server, tmp_path, "--store", str(trained.store)) as server:
        server.wait(server.ready)
        answer = server.ask(x).json
        (output,) = answer["outputs"]
        assert (answer["model_name"], answer["model_version"], output["name"]) == (NAME, "v2", "predictions")
        assert output["datatype"] == FP[trained.array("v2").dtype.name]
        np.testing.assert_array_equal(_array(output), trained.array("v2"), strict=True)
        (first,) = server.ask(x[:1], data=x[:1].tolist()).json["outputs"]  # nested, as some clients send it
        np.testing.assert_array_equal(_array(first), trained.array("v2-first"), strict=True)
        np.save(tmp_path / "x.npy", x)
        done = run(
            trained.server, "-m", "tests.serving.call_grpc", str(server.grpc_port),
            str(tmp_path / "x.npy"), str(tmp_path / "grpc.npy"),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        np.testing.assert_array_equal(np.load(tmp_path / "grpc.npy"), trained.array("v2"), strict=True)


def test_metadata_tell_what_the_model_takes_and_which_version_it_is(server: Server, light: Trained) -> None:
    answer = server.get(f"/models/{NAME}").json
    assert answer["versions"] == ["v2"]
    assert answer["platform"] == "fededge_tests.serving.workloads:sklearn"
    assert answer["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}]
    (output,) = answer["outputs"]
    assert (output["name"], output["shape"]) == ("predictions", [-1, 10])
    assert output["datatype"] == FP[light.array("v2").dtype.name]
    assert answer["parameters"]["model"] == light.trainings.version("v2").model


def test_a_pinned_version_is_there_under_its_own_name(server: Server, light: Trained) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}]}
    assert server.infer(body, f"/models/{NAME}/versions/v2/infer").status == 200
    missing = server.infer(body, f"/models/{NAME}/versions/v9/infer")
    assert (missing.status, missing.json) == (404, {"error": f"Model {NAME} with version v9 not found"})
    assert server.infer(body, "/models/nonesuch/infer").status == 404


ZEROS = [0.0] * 64
BAD = {
    "shape": ({"shape": [1, 63], "data": ZEROS[:63]}, "has the shape [1, 63]: it must be [-1, 64]"),
    "no batch": ({"shape": [64]}, "has the shape [64]"),
    "no rows": ({"shape": [0, 64], "data": []}, "one row or more"),
    "too few": ({"data": ZEROS[:5]}, "has 5 values: its shape [1, 64] needs 64"),
    "datatype": ({"datatype": "INT32"}, "input x is INT32: it must be FP32"),
    "name": ({"name": "input-0"}, "the inputs are input-0: there must be one, x, FP32 [-1, 64]"),
    "strings": ({"data": ["1.5"] * 64}, "not all numbers"),
    "booleans": ({"data": [True] * 64}, "not all numbers"),
    "ragged": ({"data": [[1.0], [1.0, 2.0]]}, "no tensor of numbers"),
    "missing": ({"data": [None, *ZEROS[1:]]}, "the model has no finite answer"),
    "too large": ({"data": [1e300, *ZEROS[1:]]}, "too large for float32"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_the_callers_fault_and_says_why(server: Server, what: str) -> None:
    changed, message = BAD[what]
    answer = server.ask(np.zeros((1, 64), np.float32), **changed)
    assert answer.status == 400, answer.json
    assert message in answer.json["error"]
    assert server.ask(np.zeros((1, 64), np.float32)).status == 200


def test_a_request_that_is_none_is_refused(server: Server) -> None:
    assert server.infer({"inputs": [{"name": "x"}]}).status == 422
    assert server.infer({"inputs": []}).status == 400
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 64], "data": ZEROS}
    answer = server.infer({"inputs": [tensor], "outputs": [{"name": "label"}]})
    assert (answer.status, answer.json["error"]) == (400, "there is no output label: the only one is predictions")


def test_an_answer_that_is_not_finite_is_none(server: Server) -> None:
    answer = server.ask(np.full((1, 64), 3e38, np.float32))
    assert answer.status == 400
    assert "no finite answer" in answer.json["error"]


def test_it_goes_over_to_each_new_current_version(light: Trained, tmp_path: Path) -> None:
    shutil.copytree(light.store, tmp_path / "store")
    copy = Trained(tmp_path, light.server)
    copy.trainings.rollback("v1")
    x = light.array("x")
    with serving(light.server, tmp_path, "--store", str(copy.store), "--follow-s", "0.2") as server:
        server.wait(server.ready)
        assert server.ask(x).json["model_version"] == "v1"
        copy.trainings.rollback("v0")  # which cannot be served
        server.wait(lambda: "staying with v1: digits v0 was made by no round" in server.log)
        answer = server.ask(x).json
        np.testing.assert_array_equal(_array(answer["outputs"][0]), light.array("v1"), strict=True)
        assert server.ready()


def _refused(light: Trained, folder: Path, *arguments: str) -> str:
    with serving(light.server, folder, *arguments) as server:
        code = server.process.wait(60)
        lines = [line for line in server.log.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in server.log
        assert len(lines) == 1
        return f"{code} {lines[0]}"


def test_what_cannot_be_served_ends_the_process_with_one_line(light: Trained, tmp_path: Path) -> None:
    store = ("--store", str(light.store))
    assert _refused(light, tmp_path, *store, "--version", "v9").startswith("4 error: training digits has no version v9")
    assert "v0 was made by no round: serve a version that was trained" in _refused(
        light, tmp_path, *store, "--version", "v0"
    )
    assert _refused(light, tmp_path, *store, "--follow-s", "-1").startswith("2 error: follow_s: ")


def test_a_damaged_model_is_never_served(light: Trained, tmp_path: Path) -> None:
    shutil.copytree(light.store, tmp_path / "store")
    copy = Trained(tmp_path, light.server)
    blob = copy.store / keys.blob(copy.trainings.version("v2").model)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert "is damaged" in _refused(light, tmp_path, "--store", str(copy.store))


DECODING = """
import numpy as np
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, RequestInput
from fededge.serving.served import Spec
from fededge.serving.tensors import decode

def given(datatype, dtype, data):
    tensor = RequestInput(name="x", datatype=datatype, shape=[len(data)], data=data)
    try:
        return decode(InferenceRequest(inputs=[tensor]), Spec(dtype, ())).tolist()
    except InferenceError as error:
        return str(error)

assert given("INT64", "int64", [1, -2**62]) == [1, -2**62]
assert given("UINT8", "uint8", [0, 255]) == [0, 255]
assert given("BOOL", "bool", [True, False]) == [True, False]
assert np.isnan(given("FP64", "float64", [None, 1])[0])
assert given("FP32", "float32", [16777217])  == [16777216.0]
assert "not all integers" in given("INT32", "int32", [1.5])
assert "not all integers" in given("INT32", "int32", [True])
assert "not all booleans" in given("BOOL", "bool", [1])
assert "too large for uint8" in given("UINT8", "uint8", [256])
assert "too large for int32" in given("INT32", "int32", [2**40])
assert "not all" in given("INT64", "int64", [10**300])
assert "not all numbers" in given("FP32", "float32", [None, "1"])
"""


def test_numbers_are_taken_as_what_they_are() -> None:
    done = run("serving", "-W", "error", "-c", DECODING)
    assert done.returncode == 0, done.stderr
