"""Los-loop: the speed of the traffic in Los Angeles, every 5 minutes of 1 to 7 March 2012. A client is a road sensor.

The file has no times: row 0 is 00:00 on 1 March. There are no gaps, as the publisher filled them.

Source: L. Zhao et al., "T-GCN: A Temporal Graph Convolutional Network for Traffic Prediction", IEEE Transactions on
Intelligent Transportation Systems 21(9), 2020, arXiv:1811.05320; a part of METR-LA.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from fededge.datasets.files import DataFile, Floats, data_folder, find, floats

SPEED_FILE = "los_speed.csv"
ADJACENCY_FILE = "los_adj.csv"
STEPS_PER_DAY = 288

_DATA_SET = "los"


class Speeds(NamedTuple):
    """What all sensors measured.

    Attributes:
      sensors: their ids, in the order of the file.
      mph: miles per hour, float32 [times, sensors].
    """

    sensors: tuple[str, ...]
    mph: Floats


def read(folder: Path | None = None) -> Speeds:
    """Read the speeds.

    Args:
      folder: that has the files, or a folder inside that does; without it, `FEDEDGE_DATA`.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: the file is missing, damaged, or of another format.
    """
    return _read(find(folder or data_folder(), _DATA_SET, SPEED_FILE))


def read_adjacency(folder: Path | None = None) -> Floats:
    """Read how near the sensors are to each other by road.

    Args:
      folder: as in `read`.

    Returns:
      Weights, 0 for far, 1 on the diagonal; float32 [sensors, sensors] in the order of `Speeds.sensors`.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: a file is missing, damaged, or of another format, or the two have not as many sensors.
    """
    folder = folder or data_folder()
    return _read_adjacency(find(folder, _DATA_SET, ADJACENCY_FILE), len(read(folder).sensors))


@cache
def _read(file: DataFile) -> Speeds:
    rows = file.rows()
    sensors = tuple(next(rows).cells)
    _check_sensors(file, sensors)
    speeds = []
    for row in rows:
        file.check_width(row, len(sensors))
        speeds.append(file.numbers(row.cells, row.line))
    if not speeds:
        raise file.error("it has no rows")
    return Speeds(sensors, floats(speeds))


def _check_sensors(file: DataFile, sensors: tuple[str, ...]) -> None:
    for sensor in sensors:
        if not sensor.isdecimal():
            raise file.error(f"its first line should name sensors by their numbers, and has {sensor[:30]!r}", 1)
    if len(set(sensors)) != len(sensors):
        twice = next(sensor for sensor in sensors if sensors.count(sensor) > 1)
        raise file.error(f"its first line names sensor {twice} twice", 1)


@cache
def _read_adjacency(file: DataFile, sensors: int) -> Floats:
    weights = []
    for row in file.rows():
        file.check_width(row, sensors)
        weights.append(file.numbers(row.cells, row.line))
    if len(weights) != sensors:
        raise file.error(f"it has {len(weights)} rows, and {SPEED_FILE} has {sensors} sensors")
    return floats(weights)
