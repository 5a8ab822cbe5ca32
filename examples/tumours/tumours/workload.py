"""Scikit-learn's breast cancer data set: 569 tumours with 30 measurements each.

A hospital stands for a client. Hospitals see tumours of different sizes: the data are sorted by radius and cut.
"""

from functools import cache

import numpy as np
from fededge.errors import WorkloadError
from fededge.learners import Examples
from fededge.learners.keras import classifier
from sklearn.datasets import load_breast_cancer

_TEST_EVERY = 5  # every fifth tumour is held out


@cache
def _data() -> tuple[Examples, Examples]:
    """Return the training examples, sorted by radius, and the test examples."""
    raw = load_breast_cancer()
    order = np.argsort(raw.data[:, 0], kind="stable")
    x = np.log1p(raw.data[order]).astype(np.float32)  # no statistics of the data: they would have to be shared
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
