"""Trains in one process with nothing but TFF: `python -m tests.pipeline.tff_reference SETTINGS ROUNDS OUT`.

Writes the weights after each round to OUT/v1.safetensors, OUT/v2.safetensors, …
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.numpy

from fededge.core.cohorts import sample_cohort
from fededge.core.seeds import Purpose, derive_seed
from fededge.learners.keras import KerasLearner, client_optimizer, start_tff_worker, tensorflow_federated
from fededge.learners.server import server_optimizer
from fededge.settings import RoundSettings
from fededge.workloads import load_workload


def main(settings: RoundSettings, rounds: int, out: Path) -> None:
    start_tff_worker()
    tff = tensorflow_federated()
    workload = load_workload(settings.workload)
    learner = workload.learner()
    assert isinstance(learner, KerasLearner)
    population = workload.population(settings.clients)
    data = {client: workload.train_data(client, settings.clients) for client in population}
    initial = learner.initial_weights(derive_seed(settings.seed, Purpose.INIT))
    names = sorted(initial)
    process = tff.learning.algorithms.build_weighted_fed_avg(
        lambda: learner.tff_model(data[population[0]], 0, settings),
        client_optimizer_fn=client_optimizer(settings),
        server_optimizer_fn=server_optimizer(settings),
    )
    state = process.set_model_weights(
        process.initialize(), tff.learning.models.ModelWeights([initial[name] for name in names], [])
    )
    for number in range(1, rounds + 1):
        seed = derive_seed(settings.seed, Purpose.COHORT, number)
        cohort = sample_cohort(population, settings.clients_per_round, seed)
        shuffles = [derive_seed(settings.seed, Purpose.SHUFFLE, number, client) for client in cohort]
        datasets = [learner.dataset(data[c], settings, s) for c, s in zip(cohort, shuffles, strict=True)]
        state = process.next(state, datasets).state
        weights = dict(zip(names, process.get_model_weights(state).trainable, strict=True))
        safetensors.numpy.save_file(weights, out / f"v{number}.safetensors")


if __name__ == "__main__":
    main(RoundSettings.model_validate_json(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
