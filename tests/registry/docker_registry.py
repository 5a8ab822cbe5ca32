"""Debian's docker-registry on loopback, with or without who may pull, and images put into it without Docker."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import urllib3
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.store.ceph import Certificate, make_certificate

USER, PASSWORD = "ada", "Lovelace1815"
# Of that password, by bcrypt, which the registry insists on.
HTPASSWD = "ada:$2b$05$abcdefghijklmnopqrstuu0H//.KzLQV1CxzFrQ8T.lQhNKKa9Bki\n"
ISSUER, SERVICE = "fededge tests", "harbor-registry"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
START_SECONDS = 30

_LISTENS = re.compile(r"listening on (127\.0\.0\.1:\d+)")


def missing() -> str | None:
    """Say what this machine lacks to run a registry; None if nothing."""
    return None if shutil.which("docker-registry") else "not installed: docker-registry (Debian: docker-registry)"


@contextlib.contextmanager
def docker_registry(
    folder: Path, auth: Mapping[str, Any] | None = None, certificate: Certificate | None = None
) -> Iterator[str]:
    """Yield host and port of a new registry.

    Args:
      folder: for all that it keeps.
      auth: as in its configuration; None for everybody.
      certificate: for TLS; None for none.
    """
    http: dict[str, Any] = {"addr": "127.0.0.1:0", "secret": "tests"}
    if certificate:
        http["tls"] = {"certificate": str(certificate.certificate), "key": str(certificate.key)}
    config = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": http,
        **({"auth": auth} if auth else {}),
    }
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    with (folder / "registry.log").open("wb") as log:
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield _address(process, folder / "registry.log")
    finally:
        process.terminate()
        process.wait()


def put_image(
    url: str,
    repository: str,
    tag: str,
    content: bytes,
    headers: Mapping[str, str] | None = None,
    ca: Path | None = None,
) -> str:
    """Put an image of one layer into a registry and return its digest."""
    pool = urllib3.PoolManager(ca_certs=str(ca) if ca else None, headers=dict(headers or {}))
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    blobs = [_put_blob(pool, url, repository, each) for each in (config, content)]
    types = ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip")
    described = [{"mediaType": kind, **blob} for kind, blob in zip(types, blobs, strict=True)]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
    body = json.dumps(manifest).encode()
    headers = {**pool.headers, "Content-Type": MANIFEST}
    answer = pool.request("PUT", f"{url}/v2/{repository}/manifests/{tag}", body=body, headers=headers)
    assert answer.status == 201, answer.data
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


def _put_blob(pool: urllib3.PoolManager, url: str, repository: str, content: bytes) -> dict[str, Any]:
    begun = pool.request("POST", f"{url}/v2/{repository}/blobs/uploads/")
    assert begun.status == 202, begun.data
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    where = begun.headers["Location"]
    where = where if where.startswith("http") else url + where
    headers = {**pool.headers, "Content-Type": "application/octet-stream"}
    done = pool.request("PUT", f"{where}&digest={digest}", body=content, headers=headers)
    assert done.status == 201, done.data
    return {"digest": digest, "size": len(content)}


class TokenServer(ThreadingHTTPServer):
    """Gives tokens to who knows the password, as Harbor does for its registry."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Tokens)
        self._files = make_certificate(folder)
        self._key = serialization.load_pem_private_key(self._files.key.read_bytes(), None)
        self.asked: list[dict[str, list[str]]] = []

    @property
    def auth(self) -> dict[str, Any]:
        """For the registry's configuration."""
        realm = f"http://127.0.0.1:{self.server_address[1]}/service/token"
        return {
            "token": {
                "realm": realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self._files.authority),
            }
        }

    def token(self, *scopes: str) -> str:
        certificate = x509.load_pem_x509_certificate(self._files.certificate.read_bytes())
        der = certificate.public_bytes(serialization.Encoding.DER)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": USER, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1"}
        signed = b".".join(_base64(json.dumps(each).encode()) for each in (header, {**claims, "access": access}))
        assert isinstance(self._key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + _base64(r.to_bytes(32) + s.to_bytes(32))).decode()


@contextlib.contextmanager
def token_server(folder: Path) -> Iterator[TokenServer]:
    with TokenServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Tokens(BaseHTTPRequestHandler):
    server: TokenServer

    def log_message(self, *_: Any) -> None:
        """Tests look at what was asked."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(query)
        known = urllib3.make_headers(basic_auth=f"{USER}:{PASSWORD}")["authorization"]
        good = self.headers.get("Authorization") == known
        data = json.dumps({"token": self.server.token(*query["scope"])} if good else {"errors": []}).encode()
        self.send_response(200 if good else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not (match := _LISTENS.search(log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return match[1]
