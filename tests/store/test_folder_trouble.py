"""A folder that refuses, that is full, and writers that are killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

import fededge
from fededge.errors import StoreUnavailableError
from fededge.store import open_store

PACKAGE = Path(fededge.__file__).parents[1]
NOBODY = 65534
# Prints each error's type and text; whatever else is raised fails the process.
TRY_ALL = """
import os, sys
from pathlib import Path
from fededge.errors import FedEdgeError
from fededge.store.folder import FolderStore
if len(sys.argv) > 2:
    os.setuid(int(sys.argv[2]))
store = FolderStore(Path(sys.argv[1]))
tag = store.get("present").tag
for attempt in (
    store.check,
    lambda: store.create("new", b"1" * 4_000_000),
    lambda: store.create("new/folder", b"1" * 4_000_000),
    lambda: store.replace("present", b"2" * 4_000_000, tag),
):
    try:
        attempt()
        print("done")
    except FedEdgeError as error:
        print(type(error).__name__, error)
print(store.keys(""), store.get("present").data)
"""
WRITE_ON = """
import sys
from itertools import count
from pathlib import Path
from fededge.store.folder import FolderStore
store = FolderStore(Path(sys.argv[1]))
for number in count(1):
    store.create(f"new/{number}", b"%d " % number * 1_000_000)
    present = store.get("pointer")
    store.replace("pointer", b"%d " % number * 1_000_000, present.tag)
"""
# Leaves ever less room, works until the disk is full, makes room, and works on; prints what was said when it was full.
FILL_UP = """
import os, shutil, sys
from pathlib import Path
from fededge.errors import StoreUnavailableError
from fededge.store.folder import FolderStore
from tests.store.work import contents, work

def fill(kind, part):
    disk = os.statvfs(root)
    if kind == "bytes":
        filler.joinpath("1").write_bytes(bytes(disk.f_bavail * disk.f_frsize - used * part // 8))
    for number in range(disk.f_favail - files * part // 8 if kind == "files" else 0):
        filler.joinpath(str(number)).touch()

root = Path(sys.argv[1])
filler = root / "filler"
store = FolderStore(root / "store")
before = os.statvfs(root)
work(store)
after = os.statvfs(root)
used, files = (before.f_bavail - after.f_bavail) * after.f_frsize, before.f_favail - after.f_favail
expected = contents(store)
for kind in ("bytes", "files"):
    for part in range(8):
        shutil.rmtree(store.url)
        filler.mkdir()
        fill(kind, part)
        try:
            work(store)
        except StoreUnavailableError as error:
            print(error)
        kept = contents(store) if Path(store.url).exists() else {}
        assert all(expected.get(key, digest) == digest for key, digest in kept.items() if key != "pointer")
        assert not list(root.rglob(".writing-*"))
        shutil.rmtree(filler)
        work(store)
        assert contents(store) == expected
        print(len(kept))
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Callable[..., list[str]]:
    """Run a script on a file system of 2 MB that nobody else sees, after a shell command in it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to mount a small file system")

    def run(prepare: str, script: str = TRY_ALL) -> list[str]:
        mount = f'mount -t tmpfs -o size=2m,nr_inodes=400 tmpfs "$0" && cd "$0" && printf 1 > present && {prepare}'
        command = ["unshare", "--mount", "sh", "-ec", f'{mount}; exec "$@"', str(tmp_path)]
        return _lines([*command, sys.executable, "-c", script, str(tmp_path)])

    return run


def test_a_folder_that_may_not_be_written(public_folder: Path) -> None:
    (public_folder / "present").write_bytes(b"1")
    public_folder.chmod(0o555)
    user = [str(NOBODY)] if os.geteuid() == 0 else []
    lines = _lines([sys.executable, "-c", TRY_ALL, str(public_folder), *user])
    _refused(lines, f"StoreUnavailableError the store {public_folder} may not be read and written by this user")


def test_a_folder_that_may_not_be_read(public_folder: Path) -> None:
    inner = public_folder / "inner"
    inner.mkdir()
    (inner / "value").write_bytes(b"1")
    inner.chmod(0)
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from fededge.errors import StoreUnavailableError\n"
        "from fededge.store.folder import FolderStore\n"
        f"os.geteuid() or os.setuid({NOBODY})\n"
        "store = FolderStore(Path(sys.argv[1]))\n"
        "for attempt in (lambda: store.get('inner/value'), lambda: store.keys('')):\n"
        "    try:\n"
        "        print('read', attempt())\n"
        "    except StoreUnavailableError as error:\n"
        "        print(error)\n"
    )
    lines = _lines([sys.executable, "-c", script, str(public_folder)])
    inner.chmod(0o755)
    assert len(lines) == 2
    assert all(line.startswith(f"the store {public_folder} may not be read") for line in lines)


def test_a_read_only_file_system(small_disk: Callable[..., list[str]], tmp_path: Path) -> None:
    lines = small_disk('mount -o remount,ro "$0"')
    _refused(lines, f"StoreUnavailableError the store {tmp_path} is on a read-only file system")


def test_a_full_file_system(small_disk: Callable[..., list[str]], tmp_path: Path) -> None:
    lines = small_disk("head -c 3000000 /dev/zero > filler || true")
    full = f"StoreUnavailableError the store {tmp_path} is full: free some space"
    assert all(line.startswith(full) for line in lines[:4])
    assert lines[4:] == ["['filler', 'present'] b'1'"]


def test_a_value_that_does_not_fit(small_disk: Callable[..., list[str]], tmp_path: Path) -> None:
    lines = small_disk("true")
    full = f"StoreUnavailableError the store {tmp_path} is full: free some space"
    assert lines[0] == "done"
    assert all(line.startswith(full) for line in lines[1:4])
    assert lines[4:] == ["['present'] b'1'"]


def test_work_goes_on_after_the_disk_was_full(small_disk: Callable[..., list[str]], tmp_path: Path) -> None:
    lines = small_disk("true", FILL_UP)
    kept = [int(line) for line in lines if line.isdigit()]
    said = [line for line in lines if not line.isdigit()]
    assert len(kept) == len(said) == 16  # one clear error each time
    assert all(line.startswith(f"the store {tmp_path}/store is full: free some space and run again") for line in said)
    for of_kind in (kept[:8], kept[8:]):
        assert of_kind == sorted(of_kind)  # the more room there was, the more is kept
        assert of_kind[0] == 0
        assert of_kind[-1] > 10


@pytest.mark.parametrize("below", ["", "/a/b"])
def test_a_file_where_the_folder_should_be(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = open_store(f"{tmp_path}/file{below}")
    for attempt in (store.check, lambda: store.create("a/b", b"1")):
        with pytest.raises(StoreUnavailableError, match="is no folder: choose another"):
            attempt()


def test_a_killed_writer_leaves_no_half_value(folder: str) -> None:
    store = open_store(folder)
    store.create("pointer", b"0 " * 1_000_000)
    for number in range(1, 9):
        _kill_in_write(Path(folder), number)
        for key in store.keys(""):
            data = store.get(key).data
            assert data == (data.split(maxsplit=1)[0] + b" ") * 1_000_000
        for key in store.keys("new/"):
            store.delete(key)
    store.replace("pointer", b"on it goes", store.get("pointer").tag)
    store.create("new/1", b"on it goes")
    left = _unfinished(Path(folder))
    assert store.sweep(timedelta(hours=1)) == 0  # another writer may be at it
    assert _unfinished(Path(folder)) == left
    assert store.sweep(timedelta()) == len(left) > 0
    assert _unfinished(Path(folder)) == set()
    assert store.keys("") == ["new/1", "pointer"]


def test_only_what_is_old_is_swept(folder: str) -> None:
    store = open_store(folder)
    store.create("a/value", b"1")
    ages = {".writing-" + "0" * 32: 10, ".writing-" + "1" * 32: 50, ".writing-short": 100, ".lock": 100, "value": 100}
    for name, minutes in ages.items():
        path = Path(folder, "a", name)
        path.touch()
        written = time.time() - 60 * minutes
        os.utime(path, (written, written))
    assert store.sweep(timedelta(minutes=51)) == 0
    assert store.sweep(timedelta(minutes=49)) == 1
    assert sorted(path.name for path in Path(folder, "a").iterdir()) == sorted(ages.keys() - {".writing-" + "1" * 32})


def test_a_listing_is_whole_while_others_write_and_delete(folder: str) -> None:
    store = open_store(folder)
    store.create("kept/1", b"1")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            store.create("kept/2/new", b"22")
            store.delete("kept/2/new")

    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(come_and_go)
        try:
            listings = {tuple((entry.key, entry.size) for entry in store.entries("")) for _ in range(300)}
        finally:
            done.set()
        other.result()
    assert listings <= {(("kept/1", 1),), (("kept/1", 1), ("kept/2/new", 2))}


def _kill_in_write(folder: Path, number: int) -> None:
    """Start a writer, and kill it in its write of that number, as soon as the unfinished file is seen."""
    seen = _unfinished(folder)
    end = len(seen) + number
    writer = subprocess.Popen([sys.executable, "-c", WRITE_ON, str(folder)], env=_environment())
    try:
        while len(seen) < end:
            assert writer.poll() is None
            seen |= _unfinished(folder)
    finally:
        writer.kill()
        writer.wait()


def _unfinished(folder: Path) -> set[Path]:
    return set(folder.rglob(".writing-*"))


def _refused(lines: list[str], message: str) -> None:
    assert all(line.startswith(message) for line in lines[:4])
    assert lines[4:] == ["['present'] b'1'"]


def _lines(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
