"""Pictures of docs/applications: what a version of cmapss, traffic or buildings says beside what was measured.

The version is one that `fededge simulate` or `fededge run` made, in the store.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.drawing import panels, save
from fededge.core.tensors import Array, Tensors
from fededge.store import open_store
from fededge.store.blobs import get_tensors
from fededge.store.trainings import TrainingStore
from fededge.workloads import buildings, cmapss, traffic

Predict = Callable[[Array], Array]

_ROADS = 3
_WEEK = 7 * 24  # hours
_BUILDINGS = 3


def draw_cmapss(predict: Predict) -> Any:
    """Draw what each test engine had left against what the model says."""
    test = cmapss.workload.test_data()
    figure, (place,) = panels(1, (5, 4.2))
    ends = [0, cmapss.LONGEST_LIFE]
    place.plot(ends, ends, color="black", linewidth=1, label="as it was")
    place.plot(test.y, predict(test.x).clip(*ends), ".", label="an engine of the test")
    place.set(xlabel=f"cycles it had left, {ends[1]} at most", ylabel="cycles the model says", aspect="equal")
    place.legend()
    return figure


def draw_traffic(predict: Predict) -> Any:
    """Draw the roads whose speed changes most, over the test's time."""
    tests = {sensor: traffic.workload.client_test_data(sensor, 0) for sensor in traffic.workload.test_clients(0)}
    shown = sorted(tests, key=lambda sensor: -tests[sensor].y[:, 0].std())[: _ROADS * 8 : 8]
    figure, places = panels(len(shown), (9, 3))
    for place, sensor in zip(places, shown, strict=True):
        said = predict(tests[sensor].x)
        for i, minutes in ((2, "60"), (0, "15")):
            ahead = traffic.AHEAD[minutes]
            hours = 5 / 60 * (ahead - traffic.AHEAD["15"] + np.arange(len(said)))
            place.plot(hours, said[:, i], linewidth=1, label=f"told {minutes} minutes before")
        hours = 5 / 60 * np.arange(len(said))
        place.plot(hours, tests[sensor].y[:, 0], color="black", linewidth=0.7, label="measured")
        place.set(title=sensor, xlabel="hours of the test")
    places[0].set(ylabel="speed, mph")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def draw_buildings(predict: Predict) -> Any:
    """Draw the first week of the test of buildings that are told well, usually and badly."""
    tests = {name: buildings.workload.client_test_data(name, 0) for name in buildings.workload.test_clients(0)}
    said = {name: predict(test.x) for name, test in tests.items()}
    error = {name: buildings.measure(test.y, said[name])["cv_rmse"] for name, test in tests.items()}
    ranked = sorted(error, key=error.__getitem__)
    shown = [ranked[round(share * (len(ranked) - 1))] for share in np.linspace(0.1, 0.9, _BUILDINGS)]
    figure, places = panels(len(shown), (9, 3), share_y=False)
    days = np.arange(_WEEK) / 24
    for place, name in zip(places, shown, strict=True):
        place.plot(days, said[name][:_WEEK], label="told 24 hours before")
        place.plot(days, tests[name].y[:_WEEK], color="black", linewidth=1, label="measured")
        place.set(title=f"{name.rpartition('_')[2]}: CV-RMSE {error[name]:.2f}", xlabel="days of the test")
    places[0].set(ylabel="electricity, share of the mean")
    figure.legend(*places[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


DRAW: Mapping[str, tuple[Any, Callable[[Predict], Any]]] = {
    "cmapss": (cmapss.workload, draw_cmapss),
    "traffic": (traffic.workload, draw_traffic),
    "buildings": (buildings.workload, draw_buildings),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw what a version says beside what was measured.")
    parser.add_argument("workload", choices=DRAW)
    parser.add_argument("--store", default=".fededge/store")
    parser.add_argument("--version", default="current")
    parser.add_argument("--to", type=Path, default=Path("docs/applications"), help="The folder to draw into.")
    asked = parser.parse_args()
    workload, draw = DRAW[asked.workload]
    trainings = TrainingStore(open_store(asked.store), asked.workload)
    weights: Tensors = get_tensors(trainings.store, trainings.version(asked.version).model)
    learner = workload.learner()
    save(draw(lambda x: learner.predict(weights, x)), asked.to / f"{asked.workload}.svg")


if __name__ == "__main__":
    main()
