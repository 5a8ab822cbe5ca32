"""Which of the tests can run here: each framework is in its own image's environment."""

from __future__ import annotations

import importlib.util
import warnings

HAVE_TENSORFLOW = importlib.util.find_spec("tensorflow_federated") is not None


def ignore_without_tensorflow() -> list[str]:
    """Tell pytest's collection what to leave out of a folder whose tests need TensorFlow.

    Warnings are errors in our tests; those that TensorFlow's own modules give while they load are not ours.
    """
    if not HAVE_TENSORFLOW:
        return ["test_*.py"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fededge.learners.keras import tensorflow_federated

        tensorflow_federated()
    return []
