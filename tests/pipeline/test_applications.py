"""Each application on the real data: a short run through the compiled pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fededge.workloads import HasColdTests, load_workload, own_defaults
from tests.pipeline.conftest import Run, fededge

# Of its library, and how many of its clients to ask in a round.
APPLICATIONS = {
    "wisdm": ("scikit-learn", 6),
    "parkinsons": ("scikit-learn", 6),
    "cmapss": ("torch", 6),
    "buildings": ("torch", 4),
    "traffic": ("tensorflow", 4),
}
# After so many rounds the score is well beyond what says the same of everybody: the most frequent activity (accuracy
# 0.338), the mean of what is left (RMSE 42), a building's own mean (CV-RMSE 0.380), the mean speed (RMSE 14.5).
LEARNED = {
    "wisdm": (8, lambda accuracy: accuracy > 0.6),
    "parkinsons": (2, lambda error: error < 10),  # a common model says nothing there; of one's own, the learners' tests
    "cmapss": (6, lambda error: error < 32),
    "buildings": (1, lambda error: error < 0.36),
    "traffic": (2, lambda error: error < 12),
}


@pytest.fixture(scope="module", params=APPLICATIONS)
def run(
    request: pytest.FixtureRequest,
    data: Path,
    tensorflow: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[str, Run]]:
    """Two rounds of an application: the first of some measures what inputs are normalized by."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    asked = str(APPLICATIONS[name][1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDEDGE_DATA", str(data))
        done = fededge(folder, "run", "--workload", name, "--rounds", "2", "--clients-per-round", asked, "--json")
        yield name, Run(folder, [done])


def test_it_trains_on_the_real_data(run: tuple[str, Run]) -> None:
    name, made = run
    library, asked = APPLICATIONS[name]
    result = made.outcomes[0].json
    trainings = made.trainings(name)
    version = trainings.version()
    assert result["version"] == "v2"
    assert version.metric == load_workload(name).metric
    assert len(version.accepted) == asked
    assert version.settings.clients == len(load_workload(name).population(0))
    (ref,) = trainings.attempts("v2")
    assert library in trainings.attempt(ref).runtime.libraries
    for setting, value in own_defaults(load_workload(name)).items():
        if setting != "clients_per_round":
            assert getattr(version.settings, setting) == value, setting


def test_a_simulation_makes_the_same_versions_and_goes_on_to_a_model_that_knows_something(
    run: tuple[str, Run], tmp_path: Path
) -> None:
    """Normalized inputs, networks and the real data, bit for bit; and then further than a pipeline would in a test."""
    name, made = run
    rounds, has_learned = LEARNED[name]
    asked = str(APPLICATIONS[name][1])
    arguments = ("--workload", name, "--rounds", str(max(rounds, 2)), "--clients-per-round", asked, "--json")
    done = fededge(tmp_path, "simulate", *arguments).json
    simulated = Run(tmp_path, []).trainings(name)
    for version in ("v1", "v2"):
        ours, theirs = simulated.version(version), made.trainings(name).version(version)
        assert (ours.model, ours.server_state) == (theirs.model, theirs.server_state)
        assert ours.metrics == theirs.metrics
        assert [one.delta for one in ours.accepted] == [one.delta for one in theirs.accepted]
    assert has_learned(done["rounds"][rounds - 1]["value"])


def test_a_version_is_measured_on_each_client(run: tuple[str, Run]) -> None:
    name, made = run
    scores = fededge(made.folder, "evaluate", name, "--json").json["clients"]
    workload = load_workload(name)
    assert isinstance(workload, HasColdTests)
    taken_part = {one.client for version in made.trainings(name).versions() for one in version.accepted}
    tested = set(workload.test_clients(0)) | (set(workload.everyone()) - taken_part)
    assert {score["client"] for score in scores} == tested
    for score in scores:
        assert score["cold"] == (score["client"] not in taken_part)
        cold = workload.cold_test_data(score["client"]) if score["cold"] else None
        assert score["examples"] == len(cold or workload.client_test_data(score["client"], 0))


def test_it_is_compared_with_other_ways_to_train(run: tuple[str, Run]) -> None:
    name, made = run
    compared = fededge(made.folder, "compare", name, "--clients", "2", "--json").json
    arms = compared["arms"]
    assert set(arms) == {"federated", "centralized", "local", "fine_tuned"}
    assert not any(one["failures"] for one in arms.values())
    assert arms["federated"]["official"] == pytest.approx(made.outcomes[0].json["metrics"])
    assert arms["federated"]["raw_bytes_moved"] == 0 < arms["centralized"]["raw_bytes_moved"]
    assert Path(compared["report"]).read_text().count("<svg") == 1


def test_a_truncated_file_is_named_before_anything_begins(
    data: Path, tensorflow: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = next(data.glob("**/WISDM_ar_v1.1_transformed.arff"))
    (tmp_path / source.name).write_bytes(source.read_bytes()[:100_000])
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))
    done = fededge(tmp_path, "run", "--workload", "wisdm", "--rounds", "1")
    assert done.code == 2
    assert source.name in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / ".fededge").exists()


def test_without_the_data_it_says_what_to_do(
    tensorflow: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDEDGE_DATA", raising=False)
    done = fededge(tmp_path, "run", "--workload", "wisdm", "--rounds", "1")
    assert done.code == 3
    assert "FEDEDGE_DATA" in done.err
    assert not (tmp_path / ".fededge").exists()
