"""NASA C-MAPSS FD001: turbofan engines until they fail. A client is an engine.

Not measured on engines: the publisher made it with the C-MAPSS simulator, with noise and variation between engines. A
row is a flight. Some of the columns are constant.

Source: A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage Propagation Modeling for Aircraft Engine Run-to-Failure
Simulation", PHM 2008.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path

from fededge.datasets.files import DataFile, Floats, data_folder, find, floats

TRAIN_FILE = "train_FD001.txt"
TEST_FILE = "test_FD001.txt"
RUL_FILE = "RUL_FD001.txt"
COLUMNS = (*(f"setting_{i}" for i in range(1, 4)), *(f"sensor_{i}" for i in range(1, 22)))

_DATA_SET = "cmapss"


def read_train(folder: Path | None = None) -> dict[int, Floats]:
    """Read the engines that ran until they failed: an engine's last row is its last flight.

    Args:
      folder: that has the files, or a folder inside that does; without it, `FEDEDGE_DATA`.

    Returns:
      By the engine's number, ascending: float32 [cycles, 24], columns as `COLUMNS` (mixed units, which the publisher
      does not give). Row i is cycle i + 1.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: the file is missing, damaged, or of another format.
    """
    return dict(_read(find(folder or data_folder(), _DATA_SET, TRAIN_FILE)))


def read_test(folder: Path | None = None) -> dict[int, Floats]:
    """Read the engines that were cut off before they failed; otherwise as `read_train`. They are other engines."""
    return dict(_read(find(folder or data_folder(), _DATA_SET, TEST_FILE)))


def read_rul(folder: Path | None = None) -> dict[int, int]:
    """Read how many cycles each test engine has left after its last row.

    Args:
      folder: as in `read_train`.

    Returns:
      By the engine's number, the engines of `read_test`.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: a file is missing, damaged, or of another format, or the two have not as many engines.
    """
    folder = folder or data_folder()
    engines = read_test(folder)
    file = find(folder, _DATA_SET, RUL_FILE)
    left = []
    for row in file.rows(separator=None):
        file.check_width(row, 1)
        left.append(file.integer(row.cells[0], row.line))
    if len(left) != len(engines):
        raise file.error(f"it has {len(left)} lines, and {TEST_FILE} has {len(engines)} engines")
    return dict(zip(engines, left, strict=True))


@cache
def _read(file: DataFile) -> dict[int, Floats]:
    cycles: dict[int, list[list[float]]] = defaultdict(list)
    for row in file.rows(separator=None):
        file.check_width(row, 2 + len(COLUMNS))
        engine, cycle = (file.integer(cell, row.line) for cell in row.cells[:2])
        if cycle != len(cycles[engine]) + 1:
            raise file.error(f"cycle {cycle} of engine {engine} follows cycle {len(cycles[engine])}", row.line)
        cycles[engine].append(file.numbers(row.cells[2:], row.line))
    return {engine: floats(cycles[engine]) for engine in sorted(cycles)}
