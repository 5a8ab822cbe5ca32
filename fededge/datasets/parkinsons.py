"""Parkinsons Telemonitoring: the voice of people with early Parkinson's disease, recorded at home over six months.

A client is a person. A row is a recording; the scores are clinical ones (UPDRS, in points), which were taken three
times and are interpolated in between.

Source: A. Tsanas, M. A. Little, P. E. McSharry, L. O. Ramig, "Accurate telemonitoring of Parkinson's disease
progression by non-invasive speech tests", IEEE Transactions on Biomedical Engineering 57, 2010. UCI data set 189.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fededge.datasets.files import DataFile, Floats, data_folder, find, floats

FILE = "parkinsons_updrs.data"
VOICE = (
    *("Jitter(%)", "Jitter(Abs)", "Jitter:RAP", "Jitter:PPQ5", "Jitter:DDP"),
    *("Shimmer", "Shimmer(dB)", "Shimmer:APQ3", "Shimmer:APQ5", "Shimmer:APQ11", "Shimmer:DDA"),
    *("NHR", "HNR", "RPDE", "DFA", "PPE"),
)

_COLUMNS = ("subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS", *VOICE)


@dataclass(frozen=True, eq=False)
class Recordings:
    """One person's recordings in the order of the file, which is not that of time: it goes through it several times.

    Attributes:
      age: years, float32 [rows].
      sex: 0 male, 1 female, float32 [rows].
      test_time: days since the person was recruited, float32 [rows]; can be a little below 0.
      voice: float32 [rows, 16], columns as `VOICE`.
      motor_updrs: points, float32 [rows].
      total_updrs: points, float32 [rows].
    """

    age: Floats
    sex: Floats
    test_time: Floats
    motor_updrs: Floats
    total_updrs: Floats
    voice: Floats


def read(folder: Path | None = None) -> dict[int, Recordings]:
    """Read the recordings of each subject.

    Args:
      folder: that has the file, or a folder inside that does; without it, `FEDEDGE_DATA`.

    Returns:
      By the subject's number, ascending.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: the file is missing, damaged, or of another format.
    """
    return dict(_read(find(folder or data_folder(), "parkinsons", FILE)))


@cache
def _read(file: DataFile) -> dict[int, Recordings]:
    rows = file.rows()
    if tuple(next(rows).cells) != _COLUMNS:
        raise file.error("its first line does not name the 22 columns of Parkinsons Telemonitoring", 1)
    values: dict[int, list[list[float]]] = defaultdict(list)
    for row in rows:
        file.check_width(row, len(_COLUMNS))
        subject, *cells = row.cells
        values[file.integer(subject, row.line)].append(file.numbers(cells, row.line))
    if not values:
        raise file.error("it has no rows")
    return {subject: _recordings(floats(values[subject])) for subject in sorted(values)}


def _recordings(table: Floats) -> Recordings:
    age, sex, test_time, motor, total = table[:, :5].T
    return Recordings(age, sex, test_time, motor, total, table[:, 5:])
