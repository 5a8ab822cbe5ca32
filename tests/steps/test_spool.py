from __future__ import annotations

import numpy as np
import pytest

from fededge.core.robust import Rule
from fededge.steps import spool
from fededge.steps.aggregate_updates import aggregate_updates
from fededge.store import Store
from fededge.store.blobs import get_tensors
from tests.steps import round as a_round
from tests.steps.tiny import TinyLearner


def test_updates_come_back_from_disk_as_they_went(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in slices, tensor by tensor, whatever their shapes: the median of three is the second one."""
    rng = np.random.default_rng(0)
    deltas = [
        {"b": np.float32(c) + np.zeros((), np.float32), "a": c + rng.random((3, 5, 2)).astype(np.float32) / 10}
        for c in (1, 2, 3)
    ]
    monkeypatch.setattr("fededge.core.robust.CHUNK_BYTES", 3 * 4 * 7)  # seven coordinates at a time
    median, counted = spool.robust_mean(Rule.MEDIAN, 0, iter(deltas))
    assert counted == [0, 1, 2]
    assert {name: a.shape for name, a in median.items()} == {"a": (3, 5, 2), "b": ()}
    for name in median:
        assert median[name].tobytes() == deltas[1][name].tobytes()


@pytest.mark.parametrize(
    ("rule", "attackers", "counted"),
    [
        (Rule.MEDIAN, 0, 7),
        (Rule.TRIMMED_MEAN, 1, 7),
        (Rule.KRUM, 1, 1),
        (Rule.MULTI_KRUM, 1, 4),
    ],
)
def test_a_rule_keeps_a_liar_out_of_the_model(
    store: Store, monkeypatch: pytest.MonkeyPatch, rule: Rule, attackers: int, counted: int
) -> None:
    real = TinyLearner.train

    def lie(self: TinyLearner, client: str, *arguments: object) -> object:
        made = real(self, client, *arguments)  # type: ignore[arg-type]
        if client != "p0":
            return made
        return type(made)(client, {n: np.full_like(a, -1e6) for n, a in made.delta.items()}, 10**5, made.metrics)

    monkeypatch.setattr(TinyLearner, "train", lie)
    distributed = a_round.distribute(store, clients=7, clients_per_pod=7, aggregation=rule, attackers=attackers)
    reports = a_round.train(store, distributed)
    model = get_tensors(store, aggregate_updates(store.url, distributed.attempt, reports).model)
    assert all(float(np.abs(array).max()) < 10 for array in model.values())
    trainings = a_round.trainings(store)
    aggregate = trainings.aggregate(trainings.attempts("v1")[0])
    assert aggregate is not None
    assert len(aggregate.counted) == counted
    if rule in (Rule.KRUM, Rule.MULTI_KRUM):
        assert "p0" not in aggregate.counted
