"""Shared by all tests: stores, a real S3 server, a Docker engine with our image."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fededge.store import Store
from fededge.store.folder import FolderStore

if TYPE_CHECKING:
    from fededge.cluster.api import Cluster
    from tests.cluster.api_server import ApiServer
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
def contracts() -> Path:
    """The folder with the published schemas of the systems that FedEdge talks to."""
    folder = Path(os.environ.get("FEDEDGE_CONTRACTS") or REPOSITORY.parent / "shared" / "contracts")
    if not folder.is_dir():
        pytest.skip("no published schemas: set FEDEDGE_CONTRACTS to the folder that has them")
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
    from tests.images.build import build

    return build(docker_host, "tensorflow")


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    """An API server of Kubernetes, with nothing on it."""
    from tests.cluster.api_server import serving

    with serving() as server:
        yield server


@pytest.fixture
def kubeconfig(api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubeconfig for that server, in KUBECONFIG; its context `elsewhere` leads nowhere."""
    from tests.cluster.api_server import write_kubeconfig

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return write_kubeconfig(api_server, tmp_path / "kubeconfig")


@pytest.fixture
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    """A way to that server, which gives up after 10 s."""
    from fededge.cluster.api import connect

    with connect(patience=10) as cluster:
        yield cluster
