"""Small files in the publishers' formats, with made-up values."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fededge.datasets import buildings, cmapss, los, mnist, parkinsons, wisdm

HEADER = ["@relation activity_recognition_labeled", "", '@attribute "UNIQUE_ID" numeric', '@attribute "user" ']
HEADER += [f'@attribute "{name}" numeric' for name in wisdm.FEATURES] + ["@attribute class", "", "@data"]
PARKINSONS_HEADER = ",".join(("subject#", "age", "sex", "test_time", "motor_UPDRS", "total_UPDRS", *parkinsons.VOICE))
HOURS = [f"{str(hour).replace('T', ' ')}:00:00" for hour in buildings.hours()]
BUILDING = "processed_data/UCam_Building_b{}/electricity/2018.csv"


def lines(rows: Sequence[str]) -> str:
    return "".join(f"{row}\n" for row in rows)


def wisdm_row(number: int, user: int, activity: str = "Walking", **features: str) -> str:
    cells = [features.get(name, f"{number / 100 + i:g}") for i, name in enumerate(wisdm.FEATURES)]
    return ",".join([str(number), str(user), *cells, activity])


def parkinsons_row(subject: int, days: float, motor: float = 28.5) -> str:
    return f"{subject},72,1,{days},{motor},34.4," + ",".join(f"{i / 1000:g}e-00{i % 3}" for i in range(16))


def engine(number: int, cycles: int, first: int = 1) -> list[str]:
    values = " ".join(f"{i}.5" for i in range(24))
    return [f"{number} {cycle} {values}  " for cycle in range(first, first + cycles)]


def hourly(columns: str, *values: float) -> str:
    return lines([columns, *(",".join([hour, *(f"{v + i % 24}" for v in values)]) for i, hour in enumerate(HOURS))])


ELECTRICITY = hourly("datetime,equipment load [kWh]", 2.5)
WEATHER = hourly("datetime,air_temperature [degC],rltv_hum [%],glbl_irad_amt [W/m2]", 5.8, 60, 0)
MNIST = {
    f"{part}-{kind}-ubyte": header + bytes(range(count)) * (784 if kind == "images-idx3" else 1)
    for part, count in (("train", 3), ("t10k", 2))
    for kind, header in (
        ("images-idx3", bytes([0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 28, 0, 0, 0, 28])),
        ("labels-idx1", bytes([0, 0, 8, 1, 0, 0, 0, count])),
    )
}


class Written(NamedTuple):
    """A small data set.

    Attributes:
      files: their content by path.
      read: reads everything in a folder.
    """

    files: Mapping[str, bytes]
    read: Callable[[Path], Any]


def _texts(**files: str) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


WISDM = Written(
    _texts(**{wisdm.FILE: lines([*HEADER, wisdm_row(1, 33), wisdm_row(2, 33, "Sitting", XPEAK="?"), wisdm_row(1, 7)])}),
    wisdm.read,
)
PARKINSONS = Written(
    _texts(**{
        parkinsons.FILE: "\n".join(
            [PARKINSONS_HEADER, *(parkinsons_row(3, days) for days in (5.5, 12.25, -1)), parkinsons_row(42, 7)]
        )
    }),
    parkinsons.read,
)  # fmt: skip
CMAPSS = Written(
    _texts(**{
        cmapss.TRAIN_FILE: lines([*engine(2, 3), *engine(9, 2)]),
        cmapss.TEST_FILE: lines([*engine(1, 2), *engine(2, 1)]),
        cmapss.RUL_FILE: "112 \n98 \n",
    }),
    lambda folder: (cmapss.read_train(folder), cmapss.read_test(folder), cmapss.read_rul(folder)),
)  # fmt: skip
LOS = Written(
    _texts(**{
        los.SPEED_FILE: lines(["773869,767542,717447", "64.375,67.125,61.5", "62,66.56,1"]),
        los.ADJACENCY_FILE: lines(["1,0,0.26", "0,1,0", "0.26,0,1"]),
    }),
    lambda folder: (los.read(folder), los.read_adjacency(folder)),
)  # fmt: skip
BUILDINGS = Written(
    _texts(**{BUILDING.format(7): ELECTRICITY, BUILDING.format(12): ELECTRICITY, "weather/bedford/2018.csv": WEATHER}),
    lambda folder: (buildings.read(folder), buildings.read_weather(folder)),
)
DIGITS = Written(MNIST, lambda folder: (mnist.read_train(folder), mnist.read_test(folder)))
ALL = {
    "wisdm": WISDM,
    "parkinsons": PARKINSONS,
    "cmapss": CMAPSS,
    "los": LOS,
    "buildings": BUILDINGS,
    "mnist": DIGITS,
}


def write(folder: Path, files: Mapping[str, bytes], *, packed: bool = False) -> Path:
    for name, content in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content) if packed else content)
    return folder
