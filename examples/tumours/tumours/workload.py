"""Scikit-learn's breast cancer data set: 569 tumours with 30 measurements each.

A hospital stands for a client. Hospitals see tumours of different sizes: the data are sorted by radius and cut.
"""

from functools import cache

import numpy as np
from sklearn.datasets import load_breast_cancer

from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.learners.keras import classifier

_TEST_EVERY = 5  # every fifth tumour is held out
# What a physician would call usual: ten measurements' means, their standard errors, and the largest values.
TYPICAL = np.array(
    [
        *(14, 19, 92, 650, 0.1, 0.1, 0.09, 0.05, 0.18, 0.06),
        *(0.4, 1.2, 2.9, 40, 0.007, 0.025, 0.03, 0.012, 0.02, 0.004),
        *(16, 26, 107, 880, 0.13, 0.25, 0.27, 0.11, 0.29, 0.08),
    ]
)


@cache
def _data() -> tuple[Examples, Examples]:
    """Return the training examples, sorted by radius, and the test examples."""
    raw = load_breast_cancer()
    order = np.argsort(raw.data[:, 0], kind="stable")
    # Around 0 without any statistic of the data, which the hospitals would have to share.
    x = (raw.data[order] / TYPICAL - 1).astype(np.float32)
    y = raw.target[order].astype(np.int32)
    held_out = np.arange(len(x)) % _TEST_EVERY == 0
    return Examples(x[~held_out], y[~held_out]), Examples(x[held_out], y[held_out])


class Tumours:
    """The workload; FedEdge asks nothing else of it than these."""

    metric = "accuracy"

    def population(self, clients: int) -> list[str]:
        if clients > 20:
            raise WorkloadError(f"clients={clients}: there are 20 hospitals at most")
        return [f"hospital-{i}" for i in range(clients)]

    def train_data(self, client: str, clients: int) -> Examples:
        everything, _ = _data()
        mine = np.array_split(np.arange(len(everything)), clients)[self.population(clients).index(client)]
        return Examples(everything.x[mine], everything.y[mine])

    def test_data(self) -> Examples:
        return _data()[1]

    def learner(self):
        return classifier(_model)


def _model():
    import tensorflow as tf

    return tf.keras.Sequential(
        [tf.keras.Input((30,)), tf.keras.layers.Dense(16, activation="relu"), tf.keras.layers.Dense(2)]
    )


workload = Tumours()
