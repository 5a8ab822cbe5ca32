"""Fetching from a real server: whole, cut off, wrong, out of reach; and from a mirror."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import ssl
import tarfile
import threading
import time
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fededge.datasets import archives
from fededge.datasets.catalogue import DATA_SETS, DataSet, Download, File
from fededge.datasets.checking import look
from fededge.datasets.fetch import fetch
from fededge.errors import InputError, SetupError
from tests.cli.command import snapshot
from tests.datasets import written
from tests.datasets.server import Server
from tests.datasets.written import lines
from tests.store.ceph import make_certificate

CONTENT = lines([f"{i},{i * i}" for i in range(3000)]).encode()
PAGE = "https://example.org/data"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def one_file(server: Server, content: bytes = CONTENT, name: str = "numbers.csv") -> DataSet:
    """Publish a data set of one file."""
    server.files.setdefault(f"/pub/{name}", content)
    unpacked = gzip.decompress(content) if name.endswith(".gz") else content
    file = File(name.removesuffix(".gz"), sha256(unpacked))
    return replace(
        DATA_SETS["parkinsons"], name="tiny", folder="tiny_set", page=PAGE, count=lambda _: 1,
        downloads=(Download(f"{server.url}/pub/{name}", name, (file,)),),
    )  # fmt: skip


def test_a_file_is_fetched_once(publisher: Server, tmp_path: Path) -> None:
    tiny = one_file(publisher)
    seen: list[tuple[str, int, int | None]] = []
    done = fetch(tiny, tmp_path / "new", watch=lambda *state: seen.append(state))
    path = tmp_path / "new" / "tiny_set" / "numbers.csv"
    assert done.files == [path]
    assert snapshot(tmp_path) == {"new/tiny_set/numbers.csv": sha256(CONTENT)}
    assert seen[0] == ("numbers.csv", 0, len(CONTENT))
    assert seen[-1] == ("numbers.csv", len(CONTENT), len(CONTENT))
    assert fetch(tiny, tmp_path / "new").files == []
    assert len(publisher.asked) == 1


@pytest.mark.parametrize("cuts", [[0], [1], [20_000], [5000, 5000, 0, 0, 1, 9999]])
def test_a_connection_that_breaks_is_taken_up_where_it_broke(
    publisher: Server, tmp_path: Path, cuts: list[int]
) -> None:
    publisher.cuts = list(cuts)
    assert fetch(one_file(publisher), tmp_path).files
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(CONTENT)}
    come = [sum(cuts[: i + 1]) for i in range(len(cuts))]
    assert [wanted for _, wanted in publisher.asked] == ["", *(f"bytes={n}-" if n else "" for n in come)]


def test_one_that_breaks_all_the_time_is_told_and_what_came_is_kept(publisher: Server, tmp_path: Path) -> None:
    publisher.cuts = [7000] + [0] * 50
    with pytest.raises(
        SetupError, match=r"numbers\.csv: the connection fails .*to get it by hand, put numbers\.csv from"
    ):
        fetch(one_file(publisher), tmp_path)
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv.partial": sha256(CONTENT[:7000])}
    publisher.cuts, asked = [], len(publisher.asked)
    fetch(one_file(publisher), tmp_path)
    assert publisher.asked[asked:] == [("/pub/numbers.csv", "bytes=7000-")]
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(CONTENT)}


@pytest.mark.parametrize("have", [1, 7000, len(CONTENT) - 1, len(CONTENT)])
@pytest.mark.parametrize("ranges", [True, False])
def test_what_an_earlier_fetch_left_is_used_or_replaced(
    publisher: Server, tmp_path: Path, have: int, ranges: bool
) -> None:
    publisher.ranges = ranges
    (tmp_path / "tiny_set").mkdir()
    (tmp_path / "tiny_set" / "numbers.csv.partial").write_bytes(CONTENT[:have])
    fetch(one_file(publisher), tmp_path)
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(CONTENT)}
    assert publisher.asked == [("/pub/numbers.csv", f"bytes={have}-")]


@pytest.mark.parametrize("left", [b"of another file", b"x" * len(CONTENT), b"x" * 2 * len(CONTENT)], ids=len)
def test_what_an_earlier_fetch_left_of_another_file_is_let_go(publisher: Server, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "tiny_set").mkdir()
    (tmp_path / "tiny_set" / "numbers.csv.partial").write_bytes(left)
    fetch(one_file(publisher), tmp_path)
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(CONTENT)}


def test_a_file_that_the_publisher_has_changed_is_refused(publisher: Server, tmp_path: Path) -> None:
    tiny = one_file(publisher)
    publisher.files["/pub/numbers.csv"] = changed = CONTENT.replace(b"7", b"8")
    with pytest.raises(SetupError) as caught:
        fetch(tiny, tmp_path)
    assert f"SHA-256 {sha256(changed)}, not {sha256(CONTENT)}" in str(caught.value)
    assert f"put numbers.csv from {PAGE} into {tmp_path / 'tiny_set'}" in str(caught.value)
    assert snapshot(tmp_path) == {}


def test_an_answer_without_a_length_that_is_cut_off_is_refused(publisher: Server, tmp_path: Path) -> None:
    publisher.length, publisher.cuts = False, [5000]
    with pytest.raises(SetupError, match="SHA-256"):
        fetch(one_file(publisher), tmp_path)
    fetch(one_file(publisher), tmp_path)
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(CONTENT)}


def test_a_server_that_is_busy_is_asked_again(publisher: Server, tmp_path: Path) -> None:
    publisher.failures = [503, 429]
    fetch(one_file(publisher), tmp_path)
    assert len(publisher.asked) == 3


@pytest.mark.parametrize(("status", "words"), [(404, "there is no numbers.csv at http"), (418, "answers 418")])
def test_an_answer_that_is_none_is_told(publisher: Server, tmp_path: Path, status: int, words: str) -> None:
    publisher.failures = [status]
    with pytest.raises(SetupError, match=f"{words}.* by hand"):
        fetch(one_file(publisher), tmp_path)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("status", [206, 416])
def test_a_server_that_does_not_go_on_where_it_should_is_asked_for_everything(
    publisher: Server, tmp_path: Path, status: int
) -> None:
    (tmp_path / "tiny_set").mkdir()
    (tmp_path / "tiny_set" / "numbers.csv.partial").write_bytes(CONTENT[:100])
    publisher.failures = [status]
    fetch(one_file(publisher), tmp_path)
    assert [wanted for _, wanted in publisher.asked] == ["bytes=100-", ""]
    publisher.failures = [416]
    with pytest.raises(SetupError, match="answers 416"):
        fetch(one_file(publisher), tmp_path / "again")


def test_a_proxy_is_asked_unless_the_address_is_excepted(
    publisher: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "http://data.invalid/numbers.csv"
    tiny = one_file(publisher)
    tiny = replace(tiny, downloads=(replace(tiny.downloads[0], url=address),))
    publisher.files[address] = CONTENT
    monkeypatch.setenv("http_proxy", publisher.url)
    assert fetch(tiny, tmp_path).files
    monkeypatch.setenv("no_proxy", "data.invalid")
    with pytest.raises(SetupError, match="no such host"):
        fetch(tiny, tmp_path / "again")


def test_an_authority_of_ones_own_is_trusted_if_it_is_named(
    publisher: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    publisher.socket = context.wrap_socket(publisher.socket, server_side=True)
    publisher.files = {"/tiny_set/numbers.csv": CONTENT}
    tiny, mirror = one_file(publisher), publisher.url.replace("http:", "https:")
    with pytest.raises(SetupError, match="CERTIFICATE_VERIFY_FAILED"):
        fetch(tiny, tmp_path / "to", mirror)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))
    assert fetch(tiny, tmp_path / "to", mirror).files


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/x", "refused"),
        ("http://no-such-host.invalid/x", "no such host, or this machine is offline"),
    ],
)
def test_a_server_out_of_reach_is_told(publisher: Server, tmp_path: Path, url: str, words: str) -> None:
    tiny = one_file(publisher)
    with pytest.raises(SetupError, match=f"{words}.* by hand"):
        fetch(replace(tiny, downloads=(replace(tiny.downloads[0], url=url),)), tmp_path)


def test_a_packed_file_is_compared_unpacked(publisher: Server, tmp_path: Path) -> None:
    """Who packs it again gets other bytes of the same content."""
    tiny = one_file(publisher, gzip.compress(CONTENT, mtime=0), "numbers.csv.gz")
    publisher.files["/pub/numbers.csv.gz"] = gzip.compress(CONTENT, compresslevel=1, mtime=7)
    assert fetch(tiny, tmp_path).files == [tmp_path / "tiny_set" / "numbers.csv.gz"]
    assert fetch(tiny, tmp_path).files == []
    publisher.files["/pub/numbers.csv.gz"] = b"no gzip"
    with pytest.raises(SetupError, match="is damaged"):
        fetch(tiny, tmp_path / "other")


def test_what_is_in_the_way_is_set_aside(publisher: Server, tmp_path: Path) -> None:
    tiny, folder = one_file(publisher), tmp_path / "tiny_set"
    folder.mkdir()
    (folder / "numbers.csv").write_bytes(b"mine")
    (folder / "numbers.csv.gz").write_bytes(b"cut off")
    done = fetch(tiny, tmp_path)
    assert done.set_aside == [folder / "numbers.csv.old", folder / "numbers.csv.gz.old"]
    assert snapshot(folder) == {
        "numbers.csv": sha256(CONTENT), "numbers.csv.old": sha256(b"mine"), "numbers.csv.gz.old": sha256(b"cut off")
    }  # fmt: skip


def test_a_failed_fetch_leaves_what_is_here_alone(publisher: Server, tmp_path: Path) -> None:
    tiny = one_file(publisher)
    del publisher.files["/pub/numbers.csv"]
    (tmp_path / "tiny_set").mkdir()
    (tmp_path / "tiny_set" / "numbers.csv").write_bytes(b"mine")
    with pytest.raises(SetupError):
        fetch(tiny, tmp_path)
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(b"mine")}


def test_a_folder_that_cannot_be_made_is_told(publisher: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match=r"file.*: (Not a directory|File exists)"):
        fetch(one_file(publisher), tmp_path / "file")


def test_two_at_a_time_do_not_write_into_one_file(publisher: Server, tmp_path: Path) -> None:
    publisher.pace = 0.02
    tiny = one_file(publisher)
    first = threading.Thread(target=fetch, args=(tiny, tmp_path))
    first.start()
    while not publisher.asked:
        time.sleep(0.01)
    with pytest.raises(SetupError, match="is being fetched by another process"):
        fetch(tiny, tmp_path)
    first.join()
    assert snapshot(tmp_path) == {"tiny_set/numbers.csv": sha256(CONTENT)}


FILES = {"a.txt": b"of a\n" * 500, "b.txt": b"of b\n" * 300}


def tar(files: Mapping[str, bytes], folder: str = "set_v1/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in files.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes], folder: str = "The Set/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in files.items():
            file.writestr(folder + name, content)
    return buffer.getvalue()


def archive(server: Server, content: bytes, name: str) -> DataSet:
    """Publish a data set of two files and a readme.txt in an archive."""
    server.files[f"/pub/{name}"] = content
    files = (*(File(path, sha256(known)) for path, known in FILES.items()), File("readme.txt"))
    return replace(one_file(server), downloads=(Download(f"{server.url}/pub/{name}", name, files, ("Inner.zip",)),))


EXTRA = {"readme.txt": b"read me", "raw.txt": b"not wanted", "x/a.txt": b"a second one"}
PACKED = {
    "set.tar.gz": tar({**FILES, **EXTRA}),
    "set.zip": zipped({**FILES, **EXTRA}),
    "twice.zip": zipped({"Inner.zip": zipped({**FILES, **EXTRA}, ""), "other.txt": b""}),
}


@pytest.mark.parametrize("name", PACKED)
def test_an_archive_gives_the_files_that_are_wanted(publisher: Server, tmp_path: Path, name: str) -> None:
    publisher.cuts = [100, 50]
    wanted = {f"tiny_set/{path}": sha256(content) for path, content in {**FILES, "readme.txt": b"read me"}.items()}
    tiny = archive(publisher, PACKED[name], name)
    assert len(fetch(tiny, tmp_path).files) == 3
    assert snapshot(tmp_path) == wanted
    assert fetch(tiny, tmp_path).files == []
    (tmp_path / "tiny_set" / "b.txt").write_bytes(b"damaged")
    assert fetch(tiny, tmp_path).files == [tmp_path / "tiny_set" / "b.txt"]


@pytest.mark.parametrize("prefix", ["../../", "/tmp/fededge-test-out/", "a/../../../", "C:\\"])
def test_paths_in_an_archive_lead_nowhere(publisher: Server, tmp_path: Path, prefix: str) -> None:
    for name, pack in (("set.tar.gz", tar), ("set.zip", zipped)):
        with pytest.raises(SetupError, match=r"holds no a\.txt") if "\\" in prefix else contextlib.nullcontext():
            fetch(archive(publisher, pack(FILES, prefix), name), tmp_path / name)
        assert set(snapshot(tmp_path / name)) <= {"tiny_set/a.txt", "tiny_set/b.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"set.tar.gz", "set.zip"}
    assert not Path("/tmp/fededge-test-out").exists()


def test_a_link_in_an_archive_is_no_file(publisher: Server, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        link = tarfile.TarInfo("a.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    with pytest.raises(SetupError, match=r"holds no a\.txt"):
        fetch(archive(publisher, buffer.getvalue(), "set.tar.gz"), tmp_path)


def test_a_member_that_is_too_large_is_not_unpacked(
    publisher: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, "_LARGEST", 1000)
    for name, content in PACKED.items():
        with pytest.raises(SetupError, match="more than 1,000 bytes"):
            fetch(archive(publisher, content, name), tmp_path)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("name", PACKED)
def test_an_archive_with_another_file_is_refused(publisher: Server, tmp_path: Path, name: str) -> None:
    other = {"a.txt": FILES["a.txt"], "b.txt": b"another"}
    content = tar(other) if name.endswith(".tar.gz") else zipped(other)
    with pytest.raises(SetupError, match=rf"has another b\.txt than the publisher had: SHA-256 {sha256(b'another')}"):
        fetch(archive(publisher, content, name), tmp_path)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("name", PACKED)
@given(data=st.data())
@settings(max_examples=25, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_archive_is_read_or_told(name: str, tmp_path: Path, data: st.DataObject) -> None:
    content = PACKED[name]
    place = data.draw(st.integers(0, len(content)))
    broken = content[:place] + data.draw(st.binary(max_size=5)) + content[data.draw(st.integers(place, place + 9)) :]
    (tmp_path / name).write_bytes(data.draw(st.sampled_from([broken, content[:place]])))
    with contextlib.suppress(*archives.BROKEN):
        archives.members(tmp_path / name, FILES.keys(), tar=name.endswith(".tar.gz"))


@pytest.mark.parametrize("layout", ["tiny_set/numbers.csv", "numbers.csv", "tiny_set/numbers.csv.gz", "numbers.csv.gz"])
def test_a_mirror_has_the_files_in_their_folder_or_not_plain_or_packed(
    publisher: Server, tmp_path: Path, layout: str
) -> None:
    tiny = one_file(publisher)
    content = gzip.compress(CONTENT) if layout.endswith(".gz") else CONTENT
    publisher.files = {f"/copy of it/{layout}": content}
    written.write(tmp_path / "copy", {layout: content})
    for number, mirror in enumerate((f"{publisher.url}/copy%20of%20it/", str(tmp_path / "copy"))):
        (path,) = fetch(tiny, tmp_path / str(number), mirror).files
        assert path.name == Path(layout).name
        assert fetch(tiny, tmp_path / str(number)).files == []


def test_a_mirror_has_an_archive_or_what_is_in_it(publisher: Server, tmp_path: Path) -> None:
    tiny = archive(publisher, b"", "set.zip")
    publisher.files = {f"/m/{path}": content for path, content in {**FILES, "readme.txt": b"somebody's"}.items()}
    assert len(fetch(tiny, tmp_path / "files", f"{publisher.url}/m").files) == 2
    written.write(tmp_path / "inner", {"Inner.zip": zipped(FILES, "")})
    assert len(fetch(tiny, tmp_path / "archive", str(tmp_path / "inner")).files) == 2
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    with pytest.raises(SetupError, match=r"there is no a\.txt at .*/nothing"):
        fetch(tiny, tmp_path / "none", str(nothing))


def test_a_mirror_with_other_bytes_is_refused(publisher: Server, tmp_path: Path) -> None:
    written.write(tmp_path / "copy", {"tiny_set/numbers.csv": b"mine"})
    with pytest.raises(SetupError, match="SHA-256"):
        fetch(one_file(publisher), tmp_path / "to", str(tmp_path / "copy"))
    assert snapshot(tmp_path / "to") == {}
    assert publisher.asked == []


@pytest.mark.parametrize("mirror", ["no-such-folder", "ftp://example.org", "http://", "http://[", "s3://bucket"])
def test_a_mirror_that_is_none_is_told(publisher: Server, tmp_path: Path, mirror: str) -> None:
    with pytest.raises(InputError, match="is neither a folder nor an address"):
        fetch(one_file(publisher), tmp_path, mirror)


@pytest.mark.parametrize("name", ["buildings", "mnist"])
def test_the_publishers_files_from_a_mirror(name: str, data: Path, tmp_path: Path) -> None:
    if any(not file.is_publishers for file in look(DATA_SETS[name], data)):
        pytest.skip("the files are not the publisher's")
    assert len(fetch(DATA_SETS[name], tmp_path, str(data)).files) == len(DATA_SETS[name].files)
    assert all(file.is_publishers for file in look(DATA_SETS[name], tmp_path))


def test_addresses_are_whole(tmp_path: Path) -> None:
    downloads = [download for entry in DATA_SETS.values() for download in entry.downloads]
    assert all(download.url.startswith("https://") and " " not in download.url for download in downloads)
    assert all(len(file.sha256) in (0, 64) for download in downloads for file in download.files)
    assert len({download.url for download in downloads}) == len(downloads)
