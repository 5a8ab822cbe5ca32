"""Examples as TensorFlow reads them, one by one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fededge.core.tensors import Array
from fededge.learners import Examples
from fededge.learners.tff import tensorflow

LARGE = 64 * 2**20  # bytes; TFF sends its worker a data set of at most 100 MiB


@contextlib.contextmanager
def slices(examples: Examples) -> Iterator[Any]:
    """Make a data set of examples, for as long as the context lasts.

    Large ones come from files, which TFF's worker reads itself, and are the same examples in the same order.
    """
    tf = tensorflow()
    if examples.x.nbytes + examples.y.nbytes <= LARGE:
        yield tf.data.Dataset.from_tensor_slices((examples.x, examples.y))
        return
    with tempfile.TemporaryDirectory(prefix="fededge-examples-") as folder:
        yield tf.data.Dataset.zip(
            (_from_file(examples.x, Path(folder, "x")), _from_file(examples.y, Path(folder, "y")))
        )


def _from_file(array: Array, path: Path) -> Any:
    tf = tensorflow()
    array.tofile(path)
    shape, kind = array.shape[1:], tf.as_dtype(array.dtype)
    records = tf.data.FixedLengthRecordDataset(str(path), array[:1].nbytes)
    return records.map(lambda record: tf.reshape(tf.io.decode_raw(record, kind), shape))
