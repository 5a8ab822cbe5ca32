"""The IDX reader, on files made by hand and, where they are, the publisher's own."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from fededge.datasets.files import data_folder
from fededge.datasets.idx import read_idx
from fededge.errors import SetupError, WorkloadError

IMAGES = struct.pack(">HBB3I", 0, 8, 3, 2, 1, 3) + bytes(range(6))


def test_reads_plain_and_gzipped(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(IMAGES)
    (tmp_path / "zipped.gz").write_bytes(gzip.compress(IMAGES))
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "deeper.gz").write_bytes(gzip.compress(IMAGES))
    for name in ("plain", "zipped", "deeper"):
        np.testing.assert_array_equal(read_idx(tmp_path, name), [[[0, 1, 2]], [[3, 4, 5]]])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("short", IMAGES[:-1]),
        ("long", IMAGES + b"x"),
        ("header", IMAGES[:9]),
        ("floats", struct.pack(">HBBI", 0, 13, 1, 1) + bytes(4)),
        ("empty", b""),
        ("cut.gz", gzip.compress(IMAGES)[:-4]),
        ("other.gz", b"no gzip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damaged_files_are_named(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(WorkloadError, match=name):
        read_idx(tmp_path, name.removesuffix(".gz"))


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"no train or train\.gz"):
        read_idx(tmp_path, "train")


def test_no_data_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, message in (
        ("", "reads its data from FEDEDGE_DATA"),
        ("/no/such", "FEDEDGE_DATA=/no/such is no folder"),
    ):
        monkeypatch.setenv("FEDEDGE_DATA", value)
        with pytest.raises(SetupError, match=message):
            data_folder()


def test_reads_the_publishers_files(data: Path) -> None:
    images, labels = (read_idx(data, f"t10k-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))
    assert images.shape == (10_000, 28, 28)
    assert labels[:4].tolist() == [7, 2, 1, 0]
