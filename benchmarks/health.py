"""What the workloads of health monitoring learn: the figures and pictures of docs/applications/wisdm.md, parkinsons.md.

Trains as `fededge run` does with the workload's own settings, all clients in each round, but in one process. After the
last round each client trains on from the model as the workload recommends, and, to compare, from the initial weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drawing import panels, save
from fededge.core.aggregation import Weighted, weighted_mean
from fededge.core.parts import is_trained
from fededge.core.seeds import Purpose, derive_seed
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Array, Tensors
from fededge.datasets import parkinsons as recordings
from fededge.datasets.wisdm import ACTIVITIES
from fededge.learners import ClientSeeds
from fededge.settings import LocalTraining, RoundSettings
from fededge.workloads import parkinsons, wisdm
from fededge.workloads.application import Application
from fededge.workloads.evaluation import mean_of

SHOWN = (14, 29, 40)  # subjects
_EVERY = 4  # recordings, of which one is drawn: there are some six a session


def initial(workload: Application, seed: int) -> Tensors:
    return workload.learner().initial_weights(derive_seed(seed, Purpose.INIT))


def train(
    workload: Application, seed: int, rounds: int = 0, see: Callable[[int, Tensors], None] = lambda *_: None
) -> Tensors:
    """Train as the workload recommends.

    Args:
      rounds: how many; 0 for the workload's own number.
      see: is given each round's number and model.
    """
    learner, how, weights = workload.learner(), RoundSettings.parse(**workload.defaults), initial(workload, seed)
    speed = {name: np.zeros_like(value) for name, value in weights.items() if is_trained(name)}
    for number in range(1, (rounds or workload.rounds) + 1):
        updates = []
        for client in workload.population(0):
            seeds = ClientSeeds(derive_seed(seed, Purpose.SHUFFLE, number, client), 0)
            update = learner.train(client, weights, workload.train_data(client, 0), how.in_round(number), seeds)
            updates.append(Weighted(update.delta, update.num_examples))
        if number == 1:  # which measures the inputs
            weights = {**weights, **pooled_statistics(updates)}
        else:
            for name, mean in weighted_mean(updates).items():
                speed[name] = np.float32(how.server_momentum) * speed[name] + mean
                weights[name] = weights[name] + np.float32(how.server_learning_rate) * speed[name]
        see(number, weights)
    return weights


def fine_tune(workload: Application, weights: Tensors, client: str, seed: int) -> Tensors:
    """Train on with one client's examples alone."""
    base = RoundSettings.parse(**workload.defaults).model_dump(include=set(LocalTraining.model_fields))
    seeds = ClientSeeds(derive_seed(seed, Purpose.FINE_TUNED_SHUFFLE, 1, client), 0)
    how = LocalTraining.parse(**{**base, **workload.fine_tuning})
    update = workload.learner().train(client, weights, workload.train_data(client, 0), how, seeds)
    return {name: value + update.delta[name] if name in update.delta else value for name, value in weights.items()}


def measure_own(workload: Application, models: Mapping[str, Tensors]) -> tuple[dict[str, float], dict[str, float]]:
    """Measure each client's model on its own held-out examples.

    Returns:
      Each metric as a mean over examples (of macro F1, which has none, nothing), and as a mean over clients.
    """
    learner, tests = workload.learner(), {client: workload.client_test_data(client, 0) for client in models}
    scores = [learner.evaluate(models[client], tests[client]) for client in models]
    sizes = [len(test) for test in tests.values()]
    pooled = {
        name: float(np.average([score[name] for score in scores], weights=sizes))
        for name in ("accuracy", "mae")
        if name in scores[0]
    }
    return pooled, mean_of(scores)


def run(workload: Application, seed: int, figures: dict[str, list[float]], quick: bool) -> tuple[Tensors, Any]:
    """Train once; add what was measured to the figures, and return the model and the clients' own."""
    rounds = 3 if quick else 0
    every = 10 if workload.rounds > 20 else 5

    def see(number: int, weights: Tensors) -> None:
        if number % every == 0 or number == (rounds or workload.rounds):
            note(f"reported test, round {number}", workload.learner().evaluate(weights, workload.test_data()))

    def note(what: str, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            if name != "loss":
                figures.setdefault(f"{what}: {name}", []).append(value)

    weights = train(workload, seed, rounds, see)
    measured = {name: value for name, value in weights.items() if not is_trained(name)}
    fresh = {**initial(workload, seed), **measured}
    clients = [client for client in workload.population(0) if client in workload.test_clients(0)]
    own = {client: fine_tune(workload, weights, client, seed) for client in clients}
    alone = {client: fine_tune(workload, fresh, client, seed) for client in clients}
    for what, models in (("common", dict.fromkeys(clients, weights)), ("fine-tuned", own), ("alone", alone)):
        pooled, mean = measure_own(workload, models)
        note(f"own later data, {what}, over examples", pooled)
        note(f"own later data, {what}, over clients", mean)
    return weights, own


def draw_wisdm(weights: Tensors) -> Any:
    """Draw what unseen users do against what the model says."""
    test = wisdm.workload.test_data()
    said = wisdm.workload.learner().predict(weights, test.x).argmax(axis=1)
    counts = np.zeros((len(ACTIVITIES), len(ACTIVITIES)))
    np.add.at(counts, (test.y, said), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = panels(1, (6.5, 3.6))
    axes[0].imshow(shares, cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    for row, column in np.ndindex(*shares.shape):
        share = shares[row, column]
        color = "white" if share > 0.7 else "black"
        axes[0].text(column, row, f"{100 * share:.0f} %", ha="center", va="center", color=color)
    places = range(len(ACTIVITIES))
    axes[0].set(xlabel="the model says", ylabel="the person does", xticks=places, yticks=places)
    axes[0].set_xticklabels(ACTIVITIES)
    axes[0].set_yticklabels(ACTIVITIES)
    return figure


def draw_parkinsons(weights: Tensors, own: Mapping[str, Tensors]) -> Any:
    """Draw the course of a few people: their score, and what the common model and their own say of it."""
    people, learner = recordings.read(), parkinsons.workload.learner()
    shown = [number for number in SHOWN if f"subject-{number}" in own] or [int(client[8:]) for client in own][:3]
    figure, axes = panels(len(shown), (8, 3))
    for place, number in zip(axes, shown, strict=True):
        client = f"subject-{number}"
        train, test = parkinsons.workload.train_data(client, 0), parkinsons.workload.client_test_data(client, 0)
        days = np.sort(people[number].test_time)
        x, y = np.concatenate([train.x, test.x]), np.concatenate([train.y, test.y])
        for model, name in ((weights, "common model"), (own[client], "own model")):
            said = _points(learner.predict(model, x))
            place.plot(days[::_EVERY], said[::_EVERY], ".", markersize=3, label=name)
        place.plot(days[::_EVERY], _points(y)[::_EVERY], color="black", linewidth=1, label="score (interpolated)")
        place.axvspan(days[len(train)], days[-1], color="0.92", zorder=0)
        place.set(title=f"subject {number}", xlabel="days")
    axes[0].set(ylabel="motor UPDRS, points")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def _points(targets: Array) -> Array:
    return targets.astype(np.float64) * parkinsons.SCALE + parkinsons.TYPICAL


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the workloads of health monitoring.")
    parser.add_argument("workloads", nargs="*", default=["wisdm", "parkinsons"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=Path, help="A folder to draw the pictures of seed 0 into.")
    parser.add_argument("--quick", action="store_true", help="3 rounds of one seed, to test the program.")
    asked = parser.parse_args()
    for name in asked.workloads:
        workload, figures = {"wisdm": wisdm.workload, "parkinsons": parkinsons.workload}[name], {}
        for seed in range(1 if asked.quick else asked.seeds):
            begun = time.monotonic()
            weights, own = run(workload, seed, figures, asked.quick)
            sys.stderr.write(f"{name}, seed {seed}: {time.monotonic() - begun:.0f} s\n")
            if seed == 0 and asked.pictures:
                drawn = draw_wisdm(weights) if name == "wisdm" else draw_parkinsons(weights, own)
                save(drawn, asked.pictures / f"{name}.svg")
        print(f"\n{name}\n")  # noqa: T201
        for what, values in figures.items():
            spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
            print(f"{what:60} {np.mean(values):.3f} ± {spread:.3f}")  # noqa: T201


if __name__ == "__main__":
    main()
