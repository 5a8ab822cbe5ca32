"""The reported test: where it is made of clients' own, a bad one costs it that client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.store.blobs import encode_tensors
from fededge.workloads.application import Application, named, own
from fededge.workloads.evaluation import measure
from tests.steps.tiny import TinyLearner

WEIGHTS = TinyLearner().initial_weights(0)


def a_test(seed: int) -> Examples:
    rng = np.random.default_rng(seed)
    return Examples(rng.normal(size=(4 + seed, 3)).astype(np.float32), rng.normal(size=4 + seed).astype(np.float32))


TESTS = {f"p{seed}": a_test(seed) for seed in range(4)}


def nan_in(examples: Examples, what: str) -> Examples:
    x, y = examples.x.copy(), examples.y.copy()
    {"x": x, "y": y}[what].flat[0] = np.nan
    return Examples(x, y)


def made_of(tests: Mapping[str, Examples], damaged: str = "", *, mean_over_clients: bool = False) -> Application:
    def read(client: str) -> Examples:
        if client == damaged:
            raise WorkloadError(f"{client}.csv: it is damaged")
        return own(tests, client)

    return Application(
        image="tensorflow",
        metric="error",
        higher_is_better=False,
        mean_over_clients=mean_over_clients,
        is_client=named(r"p\d"),
        members=lambda: list(tests),
        read_train=read,
        tested=lambda: list(tests),
        read_test=read,
        learner=TinyLearner,
    )


def without(*clients: str) -> dict[str, Examples]:
    return {client: test for client, test in TESTS.items() if client not in clients}


@pytest.mark.parametrize("mean_over_clients", [False, True])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (lambda: made_of(TESTS, damaged="p2"), "p2.csv: it is damaged"),
        (lambda: made_of({**TESTS, "p2": nan_in(TESTS["p2"], "y")}), "its targets have values that are NaN"),
        (lambda: made_of({**TESTS, "p2": nan_in(TESTS["p2"], "x")}), "its inputs have values that are NaN"),
    ],
)
def test_a_bad_client_is_left_out_and_named(bad: Callable[[], Application], why: str, mean_over_clients: bool) -> None:
    found = measure(replace(bad(), mean_over_clients=mean_over_clients), TinyLearner(), WEIGHTS)
    wanted = measure(made_of(without("p2"), mean_over_clients=mean_over_clients), TinyLearner(), WEIGHTS)
    assert found._replace(untested={}) == wanted
    assert found.untested.keys() == {"p2"}
    assert why in found.untested["p2"]


def test_by_hand() -> None:
    errors = {name: TinyLearner().predict(WEIGHTS, test.x) - test.y for name, test in TESTS.items()}
    pooled = measure(made_of(TESTS), TinyLearner(), WEIGHTS)
    assert pooled.metrics["error"] == pytest.approx(np.square(np.concatenate([*errors.values()])).mean())
    mean = measure(made_of(TESTS, mean_over_clients=True), TinyLearner(), WEIGHTS)
    assert mean.metrics["error"] == pytest.approx(np.mean([np.square(error).mean() for error in errors.values()]))
    assert pooled.examples == mean.examples == 4 + 5 + 6 + 7


def test_a_model_that_diverged_is_not_hidden() -> None:
    """Good data and a metric that is not finite: that is the model's."""
    weights = {name: np.full_like(value, 3e38) for name, value in WEIGHTS.items()}
    with np.errstate(over="ignore", invalid="ignore"):
        found = measure(made_of(TESTS), TinyLearner(), weights)
    assert not np.isfinite(found.metrics["error"])
    assert not found.untested


def test_with_nobody_left_the_first_reason_is_told() -> None:
    with pytest.raises(WorkloadError, match=r"no client to test on: p0: p0\.csv: it is damaged"):
        measure(made_of({"p0": TESTS["p0"]}, damaged="p0"), TinyLearner(), WEIGHTS)


def test_a_client_without_a_test_is_no_problem() -> None:
    nothing = Examples(np.empty((0, 3), np.float32), np.empty(0, np.float32))
    found = measure(made_of({**TESTS, "p9": nothing}), TinyLearner(), WEIGHTS)
    assert found == measure(made_of(TESTS), TinyLearner(), WEIGHTS)


def test_scores_of_each_client(tmp_path: Path) -> None:
    """The program behind `fededge evaluate`: two who trained, one who did not, and one whose file is damaged."""
    (tmp_path / "weights").write_bytes(encode_tensors(WEIGHTS))
    command = [sys.executable, "-m", "fededge.workloads.score", "tests.workloads.test_evaluation:scored", "0"]
    done = subprocess.run(
        [*command, str(tmp_path / "weights")],
        input=json.dumps(["p0", "p1", "p4"]),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [(one["client"], one["examples"]) for one in found["clients"]] == [("p0", 4), ("p1", 5), ("p2", 7)]
    assert found["clients"][0]["metrics"] == TinyLearner().evaluate(WEIGHTS, TESTS["p0"])
    assert found["untested"] == {"p3": "p3.csv: it is damaged"}
    assert found["official"] == {}


def _scored() -> Application:
    """Make a workload of which p2, if it never trained, is tested on more, and whose reported test is not here."""

    def nobody() -> list[str]:
        raise WorkloadError("the reported test is not here")

    workload = made_of(TESTS, damaged="p3")

    def read_cold(client: str) -> Examples:
        return TESTS["p3"] if client == "p2" else workload.read_test(client)

    # p4 has trained, and kept nothing back.
    return replace(workload, members=lambda: [*TESTS, "p4"], official=nobody, read_cold=read_cold)


scored = _scored()
