"""Cambridge University Estates: the electricity that buildings use in each hour of 2018, and the weather.

A client is a building. The publisher put 0 where a reading was missing, and clipped at 10 times the mean.

Source: M. Langtry, R. Choudhary, "Cambridge University Estates building energy usage archive", version 2.1, 2024,
doi:10.5281/zenodo.10955332. Weather: Met Office MIDAS Open, station Bedford.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fededge.datasets.files import DataFile, Floats, data_file, data_folder, find, floats
from fededge.errors import MissingDataError

HOURS = 8760
ELECTRICITY_FILE = "processed_data/{building}/electricity/2018.csv"
# Ours, and the publisher's.
WEATHER_FILES = ("weather/bedford/2018.csv", "aux_data/MetOffice Weather Data/processed_data/bedford/2018.csv")

_DATA_SET = "buildings"
_ELECTRICITY = ("datetime", "equipment load [kWh]")
_WEATHER = ("datetime", "air_temperature [degC]", "rltv_hum [%]", "glbl_irad_amt [W/m2]")


class Weather(NamedTuple):
    """The weather of Bedford in each hour of 2018.

    Attributes:
      temperature: °C, float32 [8760].
      humidity: relative, %, float32 [8760].
      irradiance: W/m², float32 [8760].
    """

    temperature: Floats
    humidity: Floats
    irradiance: Floats


def hours() -> npt.NDArray[np.datetime64]:
    """Return the hours of 2018 that all arrays are about, datetime64[h] [8760]."""
    return np.datetime64("2018-01-01T00", "h") + np.arange(HOURS)


def read(folder: Path | None = None) -> dict[str, Floats]:
    """Read the electricity of each building.

    Args:
      folder: that has the files, or a folder inside that does; without it, `FEDEDGE_DATA`.

    Returns:
      By the building's name, ascending: kWh in each of `hours`, float32 [8760].

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: there are no files, or one is damaged, or of another format.
    """
    return {name: read_building(file) for name, file in building_files(folder or data_folder()).items()}


def read_building(file: DataFile) -> Floats:
    """Read the electricity of one building: kWh in each of `hours`, float32 [8760].

    Raises:
      WorkloadError: the file is damaged, or of another format.
    """
    return _read(file, _ELECTRICITY)[0]


def read_weather(folder: Path | None = None) -> Weather:
    """Read the weather.

    Args:
      folder: as in `read`.

    Raises:
      SetupError: `FEDEDGE_DATA` names no folder.
      WorkloadError: the file is missing, damaged, or of another format.
    """
    return Weather(*_read(find(folder or data_folder(), _DATA_SET, *WEATHER_FILES), _WEATHER))


def building_files(folder: Path) -> dict[str, DataFile]:
    """Find the file of each building, in a folder or up to two folders inside it.

    Raises:
      MissingDataError: there are none.
    """
    for depth in ("", "*/", "*/*/"):
        wanted = ELECTRICITY_FILE.format(building="*")
        # Of one building's files the last stays: the plain one.
        paths = [path for end in (".gz", "") for path in sorted(folder.glob(depth + wanted + end))]
        files = {path.parts[-3]: file for path in paths if (file := data_file(path, _DATA_SET))}
        if files:
            return dict(sorted(files.items()))
    raise MissingDataError(
        f"no {ELECTRICITY_FILE.format(building='<building>')} in {folder} or a folder inside it: get them with "
        f"`fededge data fetch {_DATA_SET}`, or put the publisher's folder processed_data there"
    )


@cache
def _read(file: DataFile, columns: Sequence[str]) -> tuple[Floats, ...]:
    """Read the columns but the first, which has to go through the hours of 2018."""
    rows = file.rows()
    if (found := next(rows).cells) != list(columns):
        raise file.error(f"its first line should be {','.join(columns)}, and is {','.join(found)[:80]}", 1)
    values = []
    for row, hour in zip(rows, [*_stamps(), ""], strict=False):
        file.check_width(row, len(columns))
        if row.cells[0] != hour:
            raise file.error(f"{row.cells[0][:30]!r} is not the hour {hour or 'after 2018'}", row.line)
        values.append(file.numbers(row.cells[1:], row.line))
    if len(values) != HOURS:
        raise file.error(f"it has {len(values)} of the {HOURS} hours of 2018")
    return tuple(map(floats, zip(*values, strict=True)))


@cache
def _stamps() -> list[str]:
    return [str(hour).replace("T", " ") + ":00:00" for hour in hours()]
