"""What is said of a data set that is complete, cut, damaged or missing."""

from __future__ import annotations

import gzip
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from fededge.datasets import parkinsons, wisdm
from fededge.datasets.catalogue import DATA_SETS, DataSet, File, data_set
from fededge.datasets.checking import check, content_sha256, look
from fededge.errors import InputError
from tests.conftest import REPOSITORY
from tests.datasets import written
from tests.datasets.written import lines, write

CONTENT = written.PARKINSONS.files[parkinsons.FILE]


@pytest.fixture
def tiny() -> DataSet:
    """Parkinsons, had it been published with two people."""
    entry = DATA_SETS["parkinsons"]
    file = File(parkinsons.FILE, hashlib.sha256(CONTENT).hexdigest())
    return replace(entry, downloads=(replace(entry.downloads[0], files=(file,)),))


@pytest.mark.parametrize("place", ["{}", "folder/{}", "{}.gz", "folder/{}.gz"])
def test_the_publishers_bytes_are_complete(tiny: DataSet, tmp_path: Path, place: str) -> None:
    path = place.format(parkinsons.FILE)
    write(tmp_path, {path: gzip.compress(CONTENT) if path.endswith(".gz") else CONTENT})
    finding = check(tiny, tmp_path)
    assert (finding.state, finding.clients, finding.problem) == ("complete", 2, "")
    assert finding.files[0].path == tmp_path / path


def test_other_clients_are_readable(tiny: DataSet, tmp_path: Path) -> None:
    write(tmp_path, {parkinsons.FILE: lines(CONTENT.decode().splitlines()[:4]).encode()})
    finding = check(tiny, tmp_path)
    assert (finding.state, finding.clients, finding.problem) == ("other", 1, "")


@pytest.mark.parametrize("name", [parkinsons.FILE, f"{parkinsons.FILE}.gz"])
def test_a_file_that_is_cut_off_is_damaged(tiny: DataSet, tmp_path: Path, name: str) -> None:
    content = gzip.compress(CONTENT) if name.endswith(".gz") else CONTENT
    write(tmp_path, {name: content[:-20]})
    finding = check(tiny, tmp_path)
    assert (finding.state, finding.clients) == ("damaged", 0)
    assert name in finding.problem


def test_it_is_looked_at_again(tiny: DataSet, tmp_path: Path) -> None:
    states = []
    for content in (CONTENT, CONTENT[:200], CONTENT, lines(CONTENT.decode().splitlines()[:3]).encode()):
        write(tmp_path, {parkinsons.FILE: content})
        states.append(check(tiny, tmp_path).state)
    assert states == ["complete", "damaged", "complete", "other"]


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_set_can_be_missing_readable_or_there_in_part(name: str, tmp_path: Path) -> None:
    entry, files = DATA_SETS[name], written.ALL[name].files
    assert check(entry, tmp_path / "nothing").state == "missing"
    finding = check(entry, write(tmp_path / "all", files))
    assert (finding.state, finding.problem) == ("other", "")
    if len(files) > 1:
        first = next(iter(files))
        finding = check(entry, write(tmp_path / "part", {path: files[path] for path in files if path != first}))
        assert (finding.state == "damaged") != (name == "buildings")  # which has another one


def test_rows_are_compared_whatever_is_around_them(tmp_path: Path) -> None:
    row = written.wisdm_row(1, 33)
    forms = {
        "a": lines([*written.HEADER, row, row]),
        "b": "\r\n".join(["@relation other", "@data", row.replace("33", '"33"'), "", row + " "]),
        "c": f"{row}\n{row}\n",
    }
    write(tmp_path, {name: text.encode() for name, text in forms.items()})
    digests = {content_sha256(tmp_path / name, rows_only=True, packed=False) for name in forms}
    assert digests == {hashlib.sha256(f"{row}\n{row}\n".encode()).hexdigest()}
    assert content_sha256(tmp_path / "a", rows_only=False, packed=False) not in digests


def test_the_publishers_layout_is_known(data: Path, tmp_path: Path) -> None:
    """As in a copy of the publisher's repository."""
    weather = next(file for file in look(DATA_SETS["buildings"], data) if "weather" in file.file.path)
    assert weather.path
    write(tmp_path / "clone", {weather.file.also[0]: weather.path.read_bytes()})
    found = [file for file in look(DATA_SETS["buildings"], tmp_path) if file.path]
    assert [file.is_publishers for file in found] == [weather.is_publishers]


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(InputError, match=r"no data set .wisdom.: there are wisdm, parkinsons, cmapss, los, buildings"):
        data_set("wisdom")


def test_documents_are_not_compared() -> None:
    assert [file.path for file in DATA_SETS["wisdm"].files] == [wisdm.FILE]


@pytest.mark.parametrize("entry", DATA_SETS.values(), ids=list(DATA_SETS))
def test_the_page_for_users_knows_every_set(entry: DataSet) -> None:
    text = re.sub(r"\s+", " ", (REPOSITORY / "docs" / "data.md").read_text())
    assert f"`{entry.name}`" in text
    assert f"{entry.folder}/" in text
    assert entry.citation.split('"')[1].partition(",")[0] in text
    assert str(entry.clients or "nobody") in text
    names = {download.path.split("/")[-1] for download in entry.downloads if not download.is_archive}
    names |= {file.path.split("/")[-1] for file in entry.files} if any(d.is_archive for d in entry.downloads) else set()
    assert all(name in text for name in names if not name.endswith(".names"))
