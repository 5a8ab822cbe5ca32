"""A Docker engine of the tests' own, and a stand-in for the base image where there is no registry to pull it from.

Use it where the machine has no engine, or none that tests may fill with images:

    python -m tests.images.engine run -- CMD…   # engine up, base image made, CMD with DOCKER_HOST, engine down

Needs root and Debian's packages docker.io and debootstrap. Several engines can run side by side: this one has its own
folder and leaves the machine's network alone, so a container has no network unless it asks for the host's.

An engine named by FEDEDGE_TEST_DOCKER_HOST, or else by DOCKER_HOST, is used instead of starting one.
Images and the build cache stay in FEDEDGE_TEST_DOCKER_DIR, by default ~/.cache/fededge/docker.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

BASE_IMAGE = "python:3.11-slim-bookworm"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
# Where Debian keeps dockerd and debootstrap; a user's PATH may lack it.
SBIN_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
DOCKERD_START_SECONDS = 60
# More than dockerd needs to end its containers (`shutdown-timeout` below).
DOCKERD_STOP_SECONDS = 30
# The engine makes sockets under its folder, and the kernel limits a socket's path to 107 characters.
FOLDER_LENGTH_LIMIT = 70

RECIPE_LABEL = "fededge.tests.recipe"
SUITE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv"
# What makes Debian's Python look like that of the official image: pip and setuptools under /usr/local, `python`,
# free to install into, no byte code in the standard library.
SETUP = """
set -eu
python3 -m venv /opt/pip
cp -r /opt/pip/lib/python3.11/site-packages/. /usr/local/lib/python3.11/dist-packages/
rm -r /opt/pip
ln -s python3 /usr/bin/python
rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED
find / -xdev -name __pycache__ -prune -exec rm -r {} +
rm -rf /var/cache/apt/* /var/lib/apt/lists/* /var/log/*
"""


class EngineError(RuntimeError):
    """The engine or the base image cannot be made; the message says why."""


def missing() -> str | None:
    """Say what this machine lacks to run an engine; None if nothing."""
    if existing_host():
        return None
    if os.geteuid() != 0:
        return "needs root, or DOCKER_HOST"
    absent = [name for name in ("docker", "dockerd", "debootstrap") if not _which(name)]
    return f"not installed: {', '.join(absent)} (Debian: docker.io, debootstrap)" if absent else None


def existing_host() -> str | None:
    return os.environ.get("FEDEDGE_TEST_DOCKER_HOST") or os.environ.get("DOCKER_HOST") or None


def default_folder() -> Path:
    return Path(os.environ.get("FEDEDGE_TEST_DOCKER_DIR") or Path.home() / ".cache" / "fededge" / "docker")


@contextlib.contextmanager
def engine(folder: Path | None = None) -> Iterator[str]:
    """Yield the DOCKER_HOST of an engine that can build our images; stop it at the end if it was started here.

    Args:
      folder: state of the engine: images, build cache, log; by default that of `default_folder`. One engine at a
        time uses it: a second one waits.

    Raises:
      EngineError: dockerd is missing or does not start.
    """
    if host := existing_host():
        yield host
        return
    if reason := missing():
        raise EngineError(reason)
    folder = (folder or default_folder()).resolve()
    with started_engine(folder) as host:
        make_base_image(host, cache=folder / "base")
        yield host


@contextlib.contextmanager
def started_engine(folder: Path) -> Iterator[str]:
    """Yield the DOCKER_HOST of a new engine; `folder` as in `engine`."""
    if len(str(folder)) > FOLDER_LENGTH_LIMIT:
        raise EngineError(f"longer than {FOLDER_LENGTH_LIMIT} characters, too long for sockets inside: {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = _start(folder)
        try:
            host = _host(folder)
            _await_answer(process, host, folder)
            _docker(host, "container", "prune", "--force")  # what a build that was cut off has left
            yield host
        finally:
            _stop(process)


def make_base_image(host: str, tag: str = BASE_IMAGE, cache: Path | None = None) -> None:
    """Make a stand-in for the official Python image from Debian's packages, if the engine has no such image.

    Args:
      host: DOCKER_HOST of the engine.
      tag: what the image is called.
      cache: folder that keeps the root file system for another engine; None keeps nothing.

    Raises:
      EngineError: debootstrap failed; the message ends with its output.
    """
    recipe = _recipe_digest()
    label = f'{{{{index .Config.Labels "{RECIPE_LABEL}"}}}}'
    present = _docker(host, "image", "inspect", "--format", label, tag, check=False)
    # The official image, which has no such label, or what this recipe makes.
    if present.returncode == 0 and present.stdout.strip() in ("", recipe):
        return
    with tempfile.TemporaryDirectory(prefix="fededge-base-") as work:
        archive = (cache or Path(work)) / f"{recipe}.tar"
        if not archive.exists():
            archive.parent.mkdir(parents=True, exist_ok=True)
            # Beside the cache, where there is room: /tmp may be small, or forbid devices.
            with tempfile.TemporaryDirectory(dir=archive.parent) as root:
                _make_archive(Path(root), archive)
        changes = ["--change", f"LABEL {RECIPE_LABEL}={recipe}", "--change", 'CMD ["python3"]']
        _docker(host, "import", *changes, str(archive), tag)


def debian_mirror() -> str | None:
    """Return the Debian mirror that this machine's apt uses; None for debootstrap's own default."""
    query = ["apt-get", "indextargets", "--format", "$(LABEL) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"]
    try:
        targets = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    mirrors = [
        uri
        for label, component, uri in (line.rsplit(" ", 2) for line in targets)
        if (label, component) == ("Debian", "main") and uri.startswith(("http://", "https://"))
    ]
    return mirrors[0] if mirrors else None


def _start(folder: Path) -> subprocess.Popen[bytes]:
    _await_predecessor(folder / "docker.pid")
    files = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    config = {
        "data-root": str(folder / "data"),
        "exec-root": str(folder / "exec"),
        "pidfile": str(folder / "docker.pid"),
        "hosts": [_host(folder)],
        # Neither a bridge nor firewall rules: the machine may run other engines.
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        # A container gets no more than this process has: where that is below dockerd's default, none would start.
        "default-ulimits": {"nofile": {"Name": "nofile", "Hard": files, "Soft": files}},
        "shutdown-timeout": 5,
    }
    (folder / "daemon.json").write_text(json.dumps(config))
    # setpriv: the kernel ends dockerd when this process dies, however it does. A session of its own: Ctrl-C ends
    # the command that uses the engine, and then the engine, not both at once. unshare: its mounts end with it.
    wrapper = ["setpriv", "--pdeathsig", "TERM", "unshare", "--mount", "--propagation", "slave"]
    with (folder / "dockerd.log").open("wb") as log:
        return subprocess.Popen(
            [*wrapper, _which("dockerd") or "dockerd", "--config-file", str(folder / "daemon.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PATH": SBIN_PATH},
        )


def _await_predecessor(pid_file: Path) -> None:
    """Wait for the engine of a process that was killed: the kernel told it to stop, which takes some seconds."""
    deadline = time.monotonic() + DOCKERD_STOP_SECONDS
    while pid_file.exists() and _is_dockerd(pid_file.read_text().strip()):
        if time.monotonic() > deadline:
            raise EngineError(f"another engine runs in {pid_file.parent}, process {pid_file.read_text().strip()}")
        time.sleep(0.2)
    # What a killed one leaves, or a crash of the machine: dockerd would take any process of that number for itself.
    pid_file.unlink(missing_ok=True)


def _is_dockerd(pid: str) -> bool:
    try:
        # Empty for a process that has ended and waits for its parent to notice.
        return bool(pid) and b"dockerd" in Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return False


def _await_answer(process: subprocess.Popen[bytes], host: str, folder: Path) -> None:
    deadline = time.monotonic() + DOCKERD_START_SECONDS
    while _docker(host, "version", check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            raise EngineError(f"dockerd does not answer:\n{_tail(folder / 'dockerd.log')}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(DOCKERD_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _make_archive(root: Path, archive: Path) -> None:
    log = archive.with_suffix(".log")
    mirror = debian_mirror()
    root.chmod(0o755)  # it becomes the image's /
    debootstrap = [_which("debootstrap") or "debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE]
    commands = [
        [*debootstrap, str(root), *([mirror] if mirror else [])],
        ["chroot", str(root), "/bin/sh", "-c", SETUP],
    ]
    for command in commands:
        # In namespaces of its own: neither its mounts nor its processes outlive an interruption.
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
        with log.open("ab") as output:
            done = subprocess.run(isolated, stdout=output, stderr=subprocess.STDOUT, env=_plain_environment())
        if done.returncode != 0:
            raise EngineError(f"{command[0]} failed:\n{_tail(log)}")
    _trust_as_this_machine_does(root)
    # Renamed when complete: a cache never holds half an image.
    partial = archive.with_suffix(".partial")
    subprocess.run(["tar", "--create", "--directory", str(root), "--file", str(partial), "."], check=True)
    partial.rename(archive)


def _trust_as_this_machine_does(root: Path) -> None:
    """Let pip in the image reach an index behind a certificate authority that only this machine knows."""
    if Path(CERTIFICATES).exists():
        shutil.copyfile(CERTIFICATES, root / CERTIFICATES.lstrip("/"))
        (root / "etc" / "pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")


def _recipe_digest() -> str:
    """Name the cached archive: another recipe, or other certificates, make another one."""
    recipe = hashlib.sha256("\0".join((SUITE, PACKAGES, SETUP)).encode())
    if Path(CERTIFICATES).exists():
        recipe.update(Path(CERTIFICATES).read_bytes())
    return recipe.hexdigest()[:16]


def _plain_environment() -> dict[str, str]:
    """Return this environment without what would change the result."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "VIRTUAL_"))}
    return {**kept, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "HOME": "/root"}


def _docker(host: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = ["docker", "--host", host, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=check)


def _which(name: str) -> str | None:
    return shutil.which(name, path=SBIN_PATH)


def _host(folder: Path) -> str:
    return f"unix://{folder / 'docker.sock'}"


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _run(command: list[str]) -> int:
    """Run a command with an engine, and return its exit code."""
    _end_on_signals()
    with engine() as host:
        # The classic builder: BuildKit would ask a registry for the base image, and needs a plug-in.
        environment = {**os.environ, "DOCKER_HOST": host, "DOCKER_BUILDKIT": "0"}
        process = subprocess.Popen(command, env=environment)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return code if code >= 0 else 128 - code


def _end_on_signals() -> None:
    """Turn SIGINT and SIGTERM into an exit that passes through every `finally`; later ones cannot cut those short."""

    def leave(number: int, _frame: FrameType | None) -> NoReturn:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, leave)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.images.engine", description="A Docker engine for tests.")
    commands = parser.add_subparsers(dest="action", required=True)
    run = commands.add_parser("run", help="run a command with an engine; its exit code is passed on")
    run.add_argument("command", nargs="+", metavar="CMD")
    arguments = parser.parse_args()
    try:
        return _run(arguments.command)
    except EngineError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    sys.exit(main())
