from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from minio import Minio

from fededge.store import Store, open_store
from tests.store import ceph

BUCKET = "fededge-tests"
VARIABLES = ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "CA_BUNDLE")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ceph.S3Server]:
    """A real S3 server with one bucket. FEDEDGE_REQUIRE_S3=1 makes it an error that this machine cannot run one."""
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
def s3(no_s3: None, monkeypatch: pytest.MonkeyPatch, server: ceph.S3Server) -> str:
    """The URL of an empty store in S3, with the environment that opens it over http."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}/store"


@pytest.fixture
def s3_tls(s3: str, monkeypatch: pytest.MonkeyPatch, server: ceph.S3Server) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.tls_endpoint)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(server.authority))
    return s3


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture(
    params=["folder", pytest.param("s3", marks=pytest.mark.s3), pytest.param("s3_tls", marks=pytest.mark.s3)]
)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store, of each kind in turn."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


@pytest.fixture
def folder_store(folder: str) -> Store:
    return open_store(folder)
