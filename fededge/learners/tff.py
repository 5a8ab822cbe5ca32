"""TensorFlow and TensorFlow Federated, imported late and set up so that the same program gives the same bits."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from fededge.learners import needing

_MOST_BYTES = 2**30
THREADS = 1  # TensorFlow gives other bits with 1, 2 and 4 threads; parallelism is across clients


def tensorflow() -> Any:
    """Import TensorFlow, set up so that the same program gives the same bits."""
    # TFF's worker process reads these too. They count only before the first import.
    os.environ.update(
        TF_NUM_INTRAOP_THREADS=str(THREADS), TF_NUM_INTEROP_THREADS=str(THREADS), TF_DETERMINISTIC_OPS="1"
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with needing("TensorFlow", "tensorflow"):
        import tensorflow as tf

    return tf


def tensorflow_federated() -> Any:
    tensorflow()
    import tensorflow_federated as tff

    return tff


@cache
def start_tff_worker() -> None:
    """Start the process in which TFF computes, and have it ended with this one."""
    _compute()
    atexit.register(_end_tff_worker)


def bound_tff_worker() -> None:
    """Begin TFF's process anew if it has grown large: it keeps every graph that it was given, some megabytes each."""
    for worker in _tff_workers():
        if worker.memory_info().rss > _MOST_BYTES:
            worker.kill()
            _compute()


def _compute() -> None:
    """Compute something, for which TFF starts its process unless there is one."""
    tff = tensorflow_federated()
    # The worker would inherit our output and hold it open: whoever reads it would wait for ever.
    with (
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        tff.tensorflow.computation(lambda: 0)()


def _end_tff_worker() -> None:
    for worker in _tff_workers():
        worker.kill()


def _tff_workers() -> Iterator[Any]:
    import psutil

    return (child for child in psutil.Process().children() if child.name() == "worker_binary")
