"""A real S3 server on loopback for the tests: Ceph with one monitor, one OSD on a sparse file and one RGW."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_TOOLS = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin", "setpriv")
_START_SECONDS = 120  # for each part; a busy machine with a slow disk needs far less
_STOP_SECONDS = 20
_OSD_BYTES = 20 * 2**30  # of address space: the file is sparse

_CONF = """
[global]
fsid = {fsid}
keyring = {folder}/keyring
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
mon allow pool size one = true
mon data avail crit = 1
mon max pg per osd = 500
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
run dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
[mon]
mon data = {folder}/mon
[osd]
osd data = {folder}/osd
osd objectstore = bluestore
bluestore block size = {osd_bytes}
osd memory target = 939524096
[client.rgw.a]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} ssl_certificate={certificate} ssl_private_key={key}
"""  # noqa: E501

_CAPABILITIES = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
    "client.rgw.a": {"mon": "allow rw", "osd": "allow rwx"},
}


@dataclass(frozen=True)
class S3Server:
    """Where the server listens and who may use it; `authority` is the PEM file that its certificate needs."""

    cluster: _Cluster
    gateway: _Gateway
    endpoint: str
    tls_endpoint: str
    authority: Path
    access_key: str
    secret_key: str

    def admin(self, *arguments: str) -> None:
        self.cluster.run("radosgw-admin", *arguments)

    def stop(self) -> None:
        """Stop answering; what is kept is kept."""
        self.gateway.stop()

    def start(self) -> None:
        self.gateway.start()


@dataclass(frozen=True)
class Certificate:
    authority: Path
    certificate: Path
    key: Path


def missing() -> str:
    """Say what this machine lacks to run Ceph, or nothing."""
    if os.geteuid() != 0:
        return "needs root"
    tools = [tool for tool in _TOOLS if shutil.which(tool) is None]
    return f"needs {', '.join(tools)}: apt install ceph-mon ceph-osd radosgw" if tools else ""


@contextlib.contextmanager
def ceph_rgw(folder: Path) -> Iterator[S3Server]:
    """Run an S3 server, over http and https, with a user of its own; no process of it stays.

    Args:
      folder: empty or absent, so that no start that was interrupted is ever gone on with.
    """
    for name in ("run", "log", "mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    certificate = make_certificate(folder)
    fsid = str(uuid.uuid4())
    mon_v2, mon_v1, http, https = _free_ports(4)
    cluster = _Cluster(folder)
    cluster.conf.write_text(
        _CONF.format(
            fsid=fsid,
            folder=folder,
            mon_v1=mon_v1,
            mon_v2=mon_v2,
            http=http,
            https=https,
            certificate=certificate.certificate,
            key=certificate.key,
            osd_bytes=_OSD_BYTES,
        )
    )
    gateway = _Gateway(cluster, (http, https))
    user = S3Server(
        cluster=cluster,
        gateway=gateway,
        endpoint=f"http://127.0.0.1:{http}",
        tls_endpoint=f"https://localhost:{https}",
        authority=certificate.authority,
        access_key=secrets.token_hex(10).upper(),
        secret_key=secrets.token_urlsafe(30),
    )
    with contextlib.ExitStack() as stack:
        _start_monitor(cluster, stack, fsid, (mon_v2, mon_v1))
        _start_osd(cluster, stack)
        _make_user(cluster, user)
        stack.callback(gateway.stop)
        gateway.start()
        yield user


@dataclass(frozen=True)
class _Cluster:
    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "ceph.conf"

    @property
    def keyring(self) -> Path:
        return self.folder / "keyring"

    def run(self, tool: str, *arguments: str) -> str:
        return _run((tool, "--conf", str(self.conf), *arguments))

    @contextlib.contextmanager
    def daemon(self, tool: str, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a daemon as a child that dies with this process, however that ends."""
        command = ("setpriv", "--pdeathsig", "KILL", tool, "-f", "--conf", str(self.conf), "--name", name)
        with (self.folder / "log" / f"{name}.out").open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield process
        finally:
            _stop(process)


class _Gateway:
    """The part of a cluster that answers over http."""

    def __init__(self, cluster: _Cluster, ports: Sequence[int]) -> None:
        self._cluster = cluster
        self._ports = ports
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        process = self._running.enter_context(self._cluster.daemon("radosgw", "client.rgw.a"))
        _wait(lambda: all(_listens(port) for port in self._ports), process)

    def stop(self) -> None:
        self._running.close()


def _start_monitor(cluster: _Cluster, stack: contextlib.ExitStack, fsid: str, ports: Sequence[int]) -> None:
    for entity, capabilities in _CAPABILITIES.items():
        create = () if cluster.keyring.exists() else ("--create-keyring",)
        caps = [word for service, allowed in capabilities.items() for word in ("--cap", service, allowed)]
        _run(("ceph-authtool", *create, str(cluster.keyring), "--gen-key", "--name", entity, *caps))
    monmap = str(cluster.folder / "monmap")
    addresses = f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]"
    _run(("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, monmap))
    cluster.run("ceph-mon", "--mkfs", "--id", "a", "--monmap", monmap, "--keyring", str(cluster.keyring))
    process = stack.enter_context(cluster.daemon("ceph-mon", "mon.a"))
    _wait(lambda: "quorum" in cluster.run("ceph", "--connect-timeout", "60", "quorum_status"), process)


def _start_osd(cluster: _Cluster, stack: contextlib.ExitStack) -> None:
    osd_uuid = str(uuid.uuid4())
    cluster.run("ceph", "osd", "new", osd_uuid, "0")
    cluster.run("ceph-osd", "--mkfs", "--id", "0", "--osd-uuid", osd_uuid)
    process = stack.enter_context(cluster.daemon("ceph-osd", "osd.0"))
    _wait(lambda: "1 up" in cluster.run("ceph", "osd", "stat"), process)


def _make_user(cluster: _Cluster, user: S3Server) -> None:
    keys = ("--access-key", user.access_key, "--secret-key", user.secret_key)
    cluster.run("radosgw-admin", "user", "create", "--uid=tests", "--display-name=tests", *keys)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")
    return done.stdout


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        if time.monotonic() > end:
            raise TimeoutError(f"{process.args!r} is not ready after {_START_SECONDS} s")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def make_certificate(folder: Path) -> Certificate:
    """Make a certificate for loopback, signed by an authority that nobody else knows."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _sign("FedEdge test authority", authority_key, authority_key, None)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign("localhost", key, authority_key, authority)
    made = Certificate(folder / "authority.pem", folder / "certificate.pem", folder / "key.pem")
    made.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def _sign(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
) -> x509.Certificate:
    """Sign a certificate for `key`; without an issuer it is an authority's own."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=issuer is None,
        crl_sign=issuer is None,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    loopback = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName(loopback), critical=False)
        .sign(signer, hashes.SHA256())
    )
