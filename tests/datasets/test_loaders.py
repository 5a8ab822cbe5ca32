"""The loaders, on small files in the publishers' formats: what they return, and what they say of what is wrong."""

from __future__ import annotations

import gzip
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.datasets import buildings, cmapss, los, parkinsons, wisdm
from fededge.errors import SetupError, WorkloadError
from tests.datasets import written
from tests.datasets.written import ALL, BUILDING, ELECTRICITY, HEADER, HOURS, PARKINSONS_HEADER, lines, write

WEATHER_FILE = "weather/bedford/2018.csv"


def test_wisdm_by_user_in_the_order_of_the_file(tmp_path: Path) -> None:
    people = wisdm.read(write(tmp_path, written.WISDM.files))
    assert list(people) == [7, 33]
    person = people[33]
    assert person.x.shape == (2, 43)
    assert (person.x.dtype, person.y.dtype) == (np.float32, np.int32)
    assert [wisdm.ACTIVITIES[i] for i in person.y] == ["Walking", "Sitting"]
    assert np.argwhere(np.isnan(person.x)).tolist() == [[1, person.features.index("XPEAK")]]
    np.testing.assert_allclose(person.x[0, :2], [0.01, 1.01])
    assert person.features[30:34] == ("XAVG", "YAVG", "ZAVG", "XPEAK")


def test_wisdm_as_it_also_goes_around(tmp_path: Path) -> None:
    """With types in the header, quotes around cells, and the line ends of Windows."""
    header = [*HEADER[:3], '@attribute "user" {"33" , "7"}', *HEADER[4:-3], '@attribute class{ "Walking" , "Jogging" }']
    row = written.wisdm_row(1, 33).replace(",33,", ',"33",').replace("Walking", '"Walking"')
    text = "\ufeff" + "\r\n".join([*header, "", "@DATA", row, "", ""])
    people = wisdm.read(write(tmp_path, {wisdm.FILE: text.encode()}))
    assert [(user, len(person.y)) for user, person in people.items()] == [(33, 1)]


def test_parkinsons_by_subject_in_the_order_of_the_file(tmp_path: Path) -> None:
    people = parkinsons.read(write(tmp_path, written.PARKINSONS.files))
    assert list(people) == [3, 42]
    person = people[3]
    assert person.test_time.tolist() == [5.5, 12.25, -1]
    assert (person.age[0], person.sex[0], person.motor_updrs[0]) == (72, 1, 28.5)
    assert person.total_updrs[0] == np.float32(34.4)
    assert person.voice.shape == (3, 16)
    assert person.voice[0, 4] == np.float32(0.004e-1)
    assert person.voice.dtype == np.float32


def test_cmapss_by_engine_in_the_order_of_cycles(tmp_path: Path) -> None:
    folder = write(tmp_path, written.CMAPSS.files)
    assert {number: flights.shape for number, flights in cmapss.read_train(folder).items()} == {2: (3, 24), 9: (2, 24)}
    assert cmapss.read_train(folder)[2][0].tolist() == [i + 0.5 for i in range(24)]
    assert {number: len(flights) for number, flights in cmapss.read_test(folder).items()} == {1: 2, 2: 1}
    assert cmapss.read_rul(folder) == {1: 112, 2: 98}


def test_remaining_lives_belong_to_the_test_engines_in_their_order(tmp_path: Path) -> None:
    engines = lines([*written.engine(4, 1), *written.engine(11, 2)]).encode()
    folder = write(tmp_path, {cmapss.TEST_FILE: engines, cmapss.RUL_FILE: b"5\n6\n"})
    assert cmapss.read_rul(folder) == {4: 5, 11: 6}


def test_los_by_column(tmp_path: Path) -> None:
    folder = write(tmp_path, written.LOS.files)
    speeds = los.read(folder)
    assert speeds.sensors == ("773869", "767542", "717447")
    np.testing.assert_array_equal(speeds.mph, np.array([[64.375, 67.125, 61.5], [62, 66.56, 1]], np.float32))
    np.testing.assert_array_equal(los.read_adjacency(folder).diagonal(), [1, 1, 1])


def test_buildings_by_name_with_the_weather(tmp_path: Path) -> None:
    folder = write(tmp_path, written.BUILDINGS.files)
    energy = buildings.read(folder)
    assert list(energy) == ["UCam_Building_b12", "UCam_Building_b7"]
    assert energy["UCam_Building_b7"].shape == (8760,)
    assert energy["UCam_Building_b7"][:2].tolist() == [2.5, 3.5]
    weather = buildings.read_weather(folder)
    assert (weather.temperature[0], weather.humidity[1], weather.irradiance[2]) == (np.float32(5.8), 61, 2)
    assert str(buildings.hours()[-1]) == "2018-12-31T23"


def test_one_building_as_its_publisher_lays_it_out(tmp_path: Path) -> None:
    archive = tmp_path / "Cambridge-Estates-Building-Energy-Archive"
    weather = "aux_data/MetOffice Weather Data/processed_data/bedford/2018.csv"
    write(archive, {f"building_data/{BUILDING.format(3)}": ELECTRICITY.encode(), weather: written.WEATHER.encode()})
    assert list(buildings.read(tmp_path)) == ["UCam_Building_b3"]
    assert len(buildings.read_weather(tmp_path).humidity) == 8760


@pytest.mark.parametrize("name", ALL)
def test_files_may_be_packed_and_in_a_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ALL[name].read(write(tmp_path / "plain", ALL[name].files))
    write(tmp_path / "packed" / "folder", ALL[name].files, packed=True)
    packed = ALL[name].read(tmp_path / "packed")
    assert repr(packed) == repr(plain)


@pytest.mark.parametrize("read", [wisdm.read, parkinsons.read, cmapss.read_train, los.read, buildings.read])
def test_without_a_folder_the_variable_counts(read: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(read)
    for data_set in ALL.values():
        write(tmp_path, data_set.files)
    monkeypatch.setenv("FEDEDGE_DATA", str(tmp_path))
    assert read()
    monkeypatch.delenv("FEDEDGE_DATA")
    with pytest.raises(SetupError, match="FEDEDGE_DATA"):
        read()


def test_one_client_is_enough(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            wisdm.FILE: lines([*HEADER, written.wisdm_row(5, 36, "Upstairs")]).encode(),
            parkinsons.FILE: lines([PARKINSONS_HEADER, written.parkinsons_row(42, 1)]).encode(),
            cmapss.TRAIN_FILE: lines(written.engine(77, 1)).encode(),
            cmapss.TEST_FILE: lines(written.engine(5, 1)).encode(),
            cmapss.RUL_FILE: b"0",
            los.SPEED_FILE: b"773869\n64.4\n",
            los.ADJACENCY_FILE: b"1\n",
        },
    )
    assert list(wisdm.read(tmp_path)) == [36]
    assert list(parkinsons.read(tmp_path)) == [42]
    assert list(cmapss.read_train(tmp_path)) == [77]
    assert cmapss.read_rul(tmp_path) == {5: 0}
    assert los.read(tmp_path).mph.shape == los.read_adjacency(tmp_path).shape == (1, 1)


def test_missing_values_and_constant_columns_are_no_errors(tmp_path: Path) -> None:
    write(tmp_path, {los.SPEED_FILE: b"1,2\nnan,5\n5,5\n"})
    np.testing.assert_array_equal(los.read(tmp_path).mph, np.array([[np.nan, 5], [5, 5]], np.float32))


def test_what_is_read_cannot_be_changed_under_others(tmp_path: Path) -> None:
    folder = write(tmp_path, written.LOS.files)
    with pytest.raises(ValueError, match="read-only"):
        los.read(folder).mph[0] = 0
    assert los.read(folder).mph is los.read(folder).mph
    people = wisdm.read(write(tmp_path, written.WISDM.files))
    people.clear()
    assert wisdm.read(folder)


def test_a_file_that_has_changed_is_read_again(tmp_path: Path) -> None:
    folder = write(tmp_path, written.LOS.files)
    assert len(los.read(folder).sensors) == 3
    path = folder / los.SPEED_FILE
    path.write_text("1,2\n3,4\n")
    os.utime(path, ns=(0, 0))
    assert los.read(folder).sensors == ("1", "2")


def _replaced(name: str, old: str, new: str, path: str = "") -> tuple[str, str, bytes]:
    path = path or next(iter(ALL[name].files))
    text = ALL[name].files[path].decode()
    assert old in text
    return name, path, text.replace(old, new, 1).encode()


BAD = {
    "wisdm without @data": (_replaced("wisdm", "@data", ""), "no @data"),
    "wisdm with other columns": (_replaced("wisdm", '"XAVG"', '"AVG"'), "columns are not the 46"),
    "wisdm without rows": (("wisdm", wisdm.FILE, lines(HEADER).encode()), "has no rows"),
    "wisdm, a cell too few": (_replaced("wisdm", "1,33,", "1,"), "line 51: it has 45 columns where there should be 46"),
    "wisdm, a user that is none": (_replaced("wisdm", ",33,", ",x,"), "line 51: 'x' is no whole number"),
    "wisdm, an activity that is none": (_replaced("wisdm", "Sitting", "Sleeping"), "line 52: there is no activity"),
    "wisdm, a cell that is none": (_replaced("wisdm", "1,33,0.01", "1,33,0.0.1"), "line 51: '0.0.1' is no number"),
    "wisdm, an empty cell": (_replaced("wisdm", "1,33,0.01", "1,33,"), "line 51: '' is no number"),
    "parkinsons without a header": (_replaced("parkinsons", PARKINSONS_HEADER + "\n", ""), "does not name the 22"),
    "parkinsons without rows": (("parkinsons", parkinsons.FILE, PARKINSONS_HEADER.encode()), "has no rows"),
    "parkinsons, a ? for a value": (_replaced("parkinsons", "12.25", "?"), "line 3: '\\?' is no number"),
    "parkinsons, too large": (_replaced("parkinsons", "12.25", "1e39"), "line 3: 1e39 is too large"),
    "parkinsons, infinite": (_replaced("parkinsons", "12.25", "-inf"), "line 3: -inf is too large"),
    "cmapss of another set": (("cmapss", cmapss.TRAIN_FILE, b"1 2 3\n"), "line 1: it has 3 columns"),
    "cmapss, a cycle left out": (_replaced("cmapss", "2 2 0.5", "2 3 0.5"), "line 2: cycle 3 of engine 2 follows"),
    "cmapss, a cycle twice": (_replaced("cmapss", "2 2 0.5", "2 1 0.5"), "line 2: cycle 1 of engine 2 follows"),
    "cmapss, no first cycle": (_replaced("cmapss", "2 1 0.5", "2 0 0.5"), "line 1: cycle 0 of engine 2 follows"),
    "cmapss, half an engine": (_replaced("cmapss", "9 1 0.5", "9 1.5 0.5"), "line 4: '1.5' is no whole number"),
    "cmapss, a life too many": (("cmapss", cmapss.RUL_FILE, b"1\n2\n3\n"), "has 3 lines, and .* has 2 engines"),
    "cmapss, a life too few": (("cmapss", cmapss.RUL_FILE, b"1\n"), "has 1 lines, and .* has 2 engines"),
    "cmapss, a life that is none": (("cmapss", cmapss.RUL_FILE, b"1\n-2\n"), "line 2: '-2' is no whole number"),
    "los, a sensor twice": (_replaced("los", "767542", "773869"), "names sensor 773869 twice"),
    "los without a header": (_replaced("los", "773869,767542,717447\n", ""), "should name sensors by their numbers"),
    "los without rows": (("los", los.SPEED_FILE, b"773869\n"), "has no rows"),
    "los, a cell too many": (_replaced("los", "62,", "62,1,"), "line 3: it has 4 columns where there should be 3"),
    "los, not square": (("los", los.ADJACENCY_FILE, b"1,0,0\n0,1,0\n"), "has 2 rows, and los_speed.csv has 3 sensors"),
    "los, other sensors": (("los", los.ADJACENCY_FILE, b"1,0\n0,1\n"), "line 1: it has 2 columns where"),
    "buildings, other columns": (_replaced("buildings", "equipment", "gas"), "and is datetime,gas load"),
    "buildings, an hour left out": (_replaced("buildings", f"{HOURS[2]},4.5\n", ""), "line 4: .* not the hour .*02:00"),
    "buildings, cut off": (("buildings", BUILDING.format(7), ELECTRICITY[:1262].encode()), "has 50 of the 8760 hours"),
    "buildings, another year": (_replaced("buildings", "2018-01-01", "2017-01-01"), "line 2: .* is not the hour 2018"),
    "buildings, too long": (
        ("buildings", BUILDING.format(7), f"{ELECTRICITY}2019-01-01 00:00:00,1\n".encode()),
        "line 8762: .* is not the hour after 2018",
    ),
    "buildings, weather cut off": (("buildings", WEATHER_FILE, written.WEATHER[:500].encode()), "line 16: it has 1 c"),
    "mnist, other pictures": (
        ("mnist", "t10k-images-idx3-ubyte", bytes([0, 0, 8, 1, 0, 0, 0, 2, 0, 0])),
        "do not belong together",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("bad", "words"), BAD.values(), ids=list(BAD))
def test_what_is_wrong_is_named(bad: tuple[str, str, bytes], words: str, tmp_path: Path) -> None:
    name, path, content = bad
    write(tmp_path, {**ALL[name].files, path: content})
    with pytest.raises(WorkloadError, match=words) as caught:
        ALL[name].read(tmp_path)
    assert Path(path).name in str(caught.value) or name == "mnist"
    assert f"`fededge data fetch {name}`" in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_every_file_can_be_missing_empty_damaged_or_of_another_set(name: str, tmp_path: Path) -> None:
    for path in ALL[name].files:
        for case, content in (
            ("missing", None),
            ("empty", b""),
            ("blank", b"\n \n"),
            ("binary", bytes(range(256))),
            ("nul", b"\0" * 64),
            ("page", b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n"),
        ):
            files = {other: known for other, known in _files(name, path).items() if other != path}
            here = {path: content} if content is not None else {}
            _is_told(name, path, write(tmp_path / path.replace("/", "-") / case, {**files, **here}))
        others = (
            content[:9999] for other, data_set in ALL.items() for content in data_set.files.values() if other != name
        )
        for number, content in enumerate(others):
            files = {**_files(name, path), path: content}
            _is_told(name, path, write(tmp_path / path.replace("/", "-") / str(number), files))


def _files(name: str, path: str) -> Mapping[str, bytes]:
    """Return the files that are read with one of a data set: of the buildings, none, as reading them all is slow."""
    return {path: ALL[name].files[path]} if name == "buildings" else ALL[name].files


def _read(name: str, path: str, folder: Path) -> None:
    if path.startswith("weather/"):
        buildings.read_weather(folder)
    elif name == "buildings":
        buildings.read(folder)
    else:
        ALL[name].read(folder)


def _is_told(name: str, path: str, folder: Path) -> None:
    with pytest.raises(WorkloadError) as caught:
        _read(name, path, folder)
    assert str(folder) in str(caught.value)
    assert f"`fededge data fetch {name}`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / los.SPEED_FILE).mkdir()
    with pytest.raises(WorkloadError, match=r"no los_speed\.csv or los_speed\.csv\.gz in "):
        los.read(tmp_path)
    with pytest.raises(WorkloadError, match="or a folder inside it"):
        los.read(tmp_path / "no-such-folder")


def test_no_buildings_at_all(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"no processed_data/<building>/electricity/2018\.csv in .* data fetch"):
        buildings.read(tmp_path)


def _reads_or_says(name: str, path: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        others = _files(name, path.removesuffix(".gz")).items()
        files = {other: known for other, known in others if other != path.removesuffix(".gz")}
        write(Path(folder), {**files, path: content})
        try:
            _read(name, path, Path(folder))
        except WorkloadError as error:
            assert "\n" not in str(error)  # noqa: PT017


@cache
def _packed(name: str, path: str) -> bytes:
    return gzip.compress(ALL[name].files[path], compresslevel=1)


PATHS = [(name, path) for name in ALL for path in ALL[name].files if path != BUILDING.format(12)]


@pytest.mark.parametrize(("name", "path"), PATHS)
@given(data=st.data())
@settings(max_examples=10, deadline=None, database=None)
def test_cut_anywhere_it_is_read_or_told(name: str, path: str, data: st.DataObject) -> None:
    content, packed = ALL[name].files[path], _packed(name, path)
    _reads_or_says(name, path, content[: data.draw(st.integers(0, len(content)))])
    _reads_or_says(name, f"{path}.gz", packed[: data.draw(st.integers(0, len(packed)))])


@pytest.mark.parametrize(("name", "path"), PATHS)
@given(data=st.data())
@settings(max_examples=10, deadline=None, database=None)
def test_with_any_bytes_in_it_it_is_read_or_told(name: str, path: str, data: st.DataObject) -> None:
    content = ALL[name].files[path]
    place = data.draw(st.integers(0, min(len(content), 4000)))
    _reads_or_says(name, path, content[:place] + data.draw(st.binary(max_size=9)) + content[place + 3 :])
