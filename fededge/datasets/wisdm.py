"""WISDM Activity Prediction v1.1: what people do, from the phone in their pocket. A client is a person.

A row is a window of 10 seconds of the accelerometer at 20 Hz, as 43 features: histograms of each axis in 10 bins
(X0 to Z9, fractions), means (m/s²), time between peaks (ms), mean absolute and standard deviation, and the mean length
of the vector. The time between peaks is missing where there are no peaks. XAVG is always 0 and ZSTANDDEV always
XSTANDDEV: so in the publisher's file.

Source: J. R. Kwapisz, G. M. Weiss, S. A. Moore, "Activity Recognition using Cell Phone Accelerometers", SensorKDD 2010.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fededge.datasets.files import DataFile, Floats, Row, data_folder, find, floats, frozen

FILE = "WISDM_ar_v1.1_transformed.arff"
ACTIVITIES = ("Walking", "Jogging", "Upstairs", "Downstairs", "Sitting", "Standing")
FEATURES = (
    *(f"{axis}{part}" for axis in "XYZ" for part in range(10)),
    *(f"{axis}{kind}" for kind in ("AVG", "PEAK", "ABSOLDEV", "STANDDEV") for axis in "XYZ"),
    "RESULTANT",
)

_COLUMNS = ("UNIQUE_ID", "user", *FEATURES, "class")
_MISSING = "?"
# As `@attribute "X0" numeric`, and in some copies `@attribute class{ "Walking" , …`.
_ATTRIBUTE = re.compile(r"@attribute\s+[\"']?([^\s\"'{]+)")


@dataclass(frozen=True, eq=False)
class Recordings:
    """What one person did, in the order of the file.

    Attributes:
      x: float32 [rows, 43], columns as `features`; NaN is missing.
      y: int32 [rows], index into `ACTIVITIES`.
    """

    x: Floats
    y: npt.NDArray[np.int32]
    features: tuple[str, ...] = FEATURES


def read(folder: Path | None = None) -> dict[int, Recordings]:
    """Read the windows of each user.

    Args:
      folder: that has the file, or a folder inside that does; without it, `FEDEDGE_DATA`.

    Returns:
      By the user's number, ascending.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: the file is missing, damaged, or of another format.
    """
    return dict(_read(find(folder or data_folder(), "wisdm", FILE)))


@cache
def _read(file: DataFile) -> dict[int, Recordings]:
    features: dict[int, list[list[float]]] = defaultdict(list)
    activities: dict[int, list[int]] = defaultdict(list)
    for row in _data(file):
        file.check_width(row, len(_COLUMNS))
        _, person, *cells, activity = row.cells
        user = file.integer(person, row.line)
        features[user].append(file.numbers(cells, row.line, _MISSING))
        activities[user].append(_activity(file, activity, row.line))
    return {
        user: Recordings(floats(features[user]), frozen(np.array(activities[user], np.int32)))
        for user in sorted(features)
    }


def _data(file: DataFile) -> Sequence[Row]:
    """Return the rows after the header, which has no types that an ARFF parser asks for."""
    rows = list(file.rows())
    words = [" ".join(row.cells).lower() for row in rows]
    if "@data" not in words:
        raise file.error("it has no @data: it is cut off, or no file of WISDM")
    at = words.index("@data")
    columns = [match[1] for match in map(_ATTRIBUTE.match, words[:at]) if match]
    if columns != [name.lower() for name in _COLUMNS]:
        raise file.error(f"its columns are not the {len(_COLUMNS)} of WISDM's transformed data")
    if at + 1 == len(rows):
        raise file.error("it has no rows")
    return rows[at + 1 :]


def _activity(file: DataFile, name: str, line: int) -> int:
    if name not in ACTIVITIES:
        raise file.error(f"there is no activity {name[:30]!r}", line)
    return ACTIVITIES.index(name)
