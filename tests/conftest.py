"""Shared by all tests: stores, a real S3 server, a Docker engine with our image."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import fededge
from fededge.store import Store
from fededge.store.folder import FolderStore

if TYPE_CHECKING:
    from tests.store.ceph import S3Server

REPOSITORY = Path(__file__).parents[1]
BUCKET = "fededge-tests"
VARIABLES = ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "CA_BUNDLE")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in a folder, empty."""
    return FolderStore(tmp_path / "store")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with the public data sets that users download themselves."""
    folder = Path(os.environ.get("FEDEDGE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no public data sets: set FEDEDGE_DATA to the folder that has them")
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server with one bucket. FEDEDGE_REQUIRE_S3=1 makes it an error that this machine cannot run one."""
    from minio import Minio

    from tests.store import ceph

    if lacking := ceph.missing():
        if os.environ.get("FEDEDGE_REQUIRE_S3") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_S3=1, but the S3 server {lacking}")
        pytest.skip(f"the S3 server {lacking}")
    with ceph.ceph_rgw(tmp_path_factory.mktemp("ceph")) as server:
        host = server.endpoint.removeprefix("http://")
        Minio(host, server.access_key, server.secret_key, secure=False, region="us-east-1").make_bucket(BUCKET)
        yield server


@pytest.fixture
def no_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the S3 settings of whoever runs the tests out of them."""
    for name in VARIABLES:
        monkeypatch.delenv(f"AWS_{name}", raising=False)


@pytest.fixture
def s3(no_s3: None, monkeypatch: pytest.MonkeyPatch, server: S3Server) -> str:
    """The URL of an empty store in S3, with the environment that opens it over http."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture
def s3_tls(s3: str, monkeypatch: pytest.MonkeyPatch, server: S3Server) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.tls_endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(server.authority))
    return s3


@pytest.fixture(scope="session")
def docker_host() -> Iterator[str]:
    from tests.images import engine

    if reason := engine.missing():
        if os.environ.get("FEDEDGE_REQUIRE_DOCKER") == "1":
            pytest.fail(f"FEDEDGE_REQUIRE_DOCKER=1, but: {reason}")
        pytest.skip(reason)
    with engine.engine() as host:
        yield host


@pytest.fixture(scope="session")
def image(docker_host: str) -> str:
    environment = {
        **os.environ,
        "DOCKER_HOST": docker_host,
        "DOCKER_BUILDKIT": "0",
        "TAG": fededge.__version__,
        "BUILD_FLAGS": os.environ.get("BUILD_FLAGS", "--network host"),
        # uv is beside this interpreter, also where the environment is not activated.
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    build = subprocess.run(
        [REPOSITORY / "images" / "build.sh", "tensorflow"], env=environment, capture_output=True, text=True
    )
    assert build.returncode == 0, (build.stdout + build.stderr)[-3000:]
    return f"fededge-tensorflow:{fededge.__version__}"
