"""Finds and reads the files of the data sets that users download themselves: plain, or gzipped by another name."""

from __future__ import annotations

import gzip
import math
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fededge.errors import MissingDataError, SetupError, WorkloadError

Floats = npt.NDArray[np.float32]

_LARGEST = float(np.finfo(np.float32).max)
_SHOWN = 30  # characters of a wrong cell, in a message


class Row(NamedTuple):
    """A line of a text file that is not blank.

    Attributes:
      line: its number, from 1.
    """

    line: int
    cells: list[str]


class DataFile(NamedTuple):
    """A file of a data set, as it was when it was found: a key to cache what is read from it.

    Attributes:
      data_set: its name, which is what `fededge data fetch` takes; for messages.
      changed: when it was last written, in nanoseconds.
      size: bytes.
    """

    path: Path
    data_set: str
    changed: int
    size: int

    def error(self, problem: str, line: int = 0) -> WorkloadError:
        """Make the error that names the file, the line and the remedy."""
        where = f"{self.path}, line {line}" if line else str(self.path)
        return WorkloadError(f"{where}: {problem}; fetch it again with `fededge data fetch {self.data_set}`")

    def content(self) -> bytes:
        """Read the file, unpacked.

        Raises:
          WorkloadError: it cannot be read, or is a damaged gzip file.
        """
        try:
            data = self.path.read_bytes()
            return gzip.decompress(data) if self.path.suffix == ".gz" else data
        except (OSError, EOFError, zlib.error) as error:
            raise self.error(f"it is damaged or cannot be read ({error})") from error

    def rows(self, separator: str | None = ",") -> Iterator[Row]:
        """Read the lines of a text file, without quotes around cells and without blank lines.

        Args:
          separator: of cells; None for white space.

        Raises:
          WorkloadError: as `content`; or it is no text, or empty.
        """
        try:
            text = self.content().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error(f"it is no text (byte {error.start})") from error
        if "\0" in text:
            raise self.error(f"it is no text (byte {text.index(chr(0))})")
        if not text.strip():
            raise self.error("it is empty")
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield Row(number, [cell.strip().strip("\"'") for cell in line.split(separator)])

    def check_width(self, row: Row, width: int) -> None:
        """Refuse a row that has not `width` cells.

        Raises:
          WorkloadError: it has not.
        """
        if len(row.cells) != width:
            raise self.error(f"it has {len(row.cells)} columns where there should be {width}", row.line)

    def number(self, cell: str, line: int, missing: str | None = None) -> float:
        """Read a number that float32 can hold.

        Args:
          missing: what stands for a missing value, if the format has such a thing.

        Returns:
          The number; NaN for a missing one.

        Raises:
          WorkloadError: it is none.
        """
        if cell == missing:
            return math.nan
        try:
            value = float(cell)
        except ValueError as error:
            raise self.error(f"{cell[:_SHOWN]!r} is no number", line) from error
        if abs(value) > _LARGEST:
            raise self.error(f"{cell[:_SHOWN]} is too large", line)
        return value

    def numbers(self, cells: Iterable[str], line: int, missing: str | None = None) -> list[float]:
        """Read numbers, as `number` does."""
        return [self.number(cell, line, missing) for cell in cells]

    def integer(self, cell: str, line: int) -> int:
        """Read a whole number, 0 or more.

        Raises:
          WorkloadError: it is none.
        """
        if not cell.isdecimal() or len(cell) > 18:  # 64 bits
            raise self.error(f"{cell[:_SHOWN]!r} is no whole number", line)
        return int(cell)


def data_folder() -> Path:
    """Find the folder of the data sets that users download themselves.

    Raises:
      SetupError: `FEDEDGE_DATA` is not set, or names no folder.
    """
    name = os.environ.get("FEDEDGE_DATA")
    if not name:
        raise SetupError(
            "this workload reads its data from FEDEDGE_DATA: set it to the folder that has them; "
            "`fededge data fetch` fills one"
        )
    if not Path(name).is_dir():
        raise SetupError(f"FEDEDGE_DATA={name} is no folder: set it to the one that has the workload's data")
    return Path(name)


def data_file(path: Path, data_set: str) -> DataFile | None:
    """Look at a file; None if there is no such file, or it is out of reach."""
    try:
        status = path.stat()
    except OSError:
        return None
    return DataFile(path, data_set, status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def find(folder: Path, data_set: str, *names: str) -> DataFile:
    """Find a file in a folder or a folder inside it.

    Args:
      data_set: that it belongs to.
      names: that it may have, the best first; plain or with .gz. One can have folders, as `weather/2018.csv`.

    Raises:
      MissingDataError: there is none; the message says where it is looked for.
    """
    for wanted in [name + end for name in names for end in ("", ".gz")]:
        for path in (folder / wanted, *sorted(folder.glob(f"*/{wanted}"))):
            if file := data_file(path, data_set):
                return file
    raise MissingDataError(
        f"no {names[0]} or {names[0]}.gz in {folder} or a folder inside it: "
        f"get it with `fededge data fetch {data_set}`, or put the publisher's file there"
    )


def floats(rows: Sequence[Sequence[float]] | Sequence[float]) -> Floats:
    """Make a float32 array of parsed numbers that nobody can write to."""
    return frozen(np.array(rows, np.float64).astype(np.float32))


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Make an array that several share read-only."""
    array.setflags(write=False)
    return array
