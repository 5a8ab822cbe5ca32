"""Lasting trouble with a real S3 server: what is taken away from a user of it, and given back."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import minio.time
from minio import Minio

from tests.store.ceph import S3Server


class Owner(NamedTuple):
    """A user of the server with a bucket, both of which can be taken away."""

    server: S3Server
    name: str
    access_key: str
    secret_key: str

    @classmethod
    def new(cls, server: S3Server) -> Owner:
        owner = cls(server, f"owner-{secrets.token_hex(4)}", secrets.token_hex(10).upper(), secrets.token_urlsafe(30))
        server.admin("user", "create", f"--uid={owner.name}", f"--display-name={owner.name}")
        owner.give_key()
        owner.make_bucket()
        return owner

    @property
    def url(self) -> str:
        return f"s3://{self.name}/store"

    def make_bucket(self) -> None:
        self.client().make_bucket(self.name)

    def remove_bucket(self) -> None:
        self.server.admin("bucket", "rm", f"--bucket={self.name}", "--purge-objects")

    def give_key(self) -> None:
        keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
        self.server.admin("key", "create", f"--uid={self.name}", *keys)

    def take_key(self) -> None:
        self.server.admin("key", "rm", f"--uid={self.name}", f"--access-key={self.access_key}")

    def let(self, operations: str) -> None:
        self.server.admin("user", "modify", f"--uid={self.name}", f"--op-mask={operations}")

    def allow(self, objects: int) -> None:
        quota = (f"--bucket={self.name}", f"--uid={self.name}", "--quota-scope=bucket")
        self.server.admin("quota", "set", *quota, f"--max-objects={objects}")
        self.server.admin("quota", "enable", *quota)

    def client(self) -> Minio:
        host = self.server.endpoint.removeprefix("http://")
        return Minio(host, self.access_key, self.secret_key, secure=False, region="us-east-1")


class Trouble(NamedTuple):
    """What begins midway and does not end by itself, how it is ended, and what is said of it."""

    begin: Callable[[Owner], object]
    end: Callable[[Owner], object]
    message: str
    keeps: bool = True  # what was written before


UTCNOW = minio.time.utcnow  # signs by it


def _skew(hours: float) -> Callable[[Owner], None]:
    def begin(owner: Owner) -> None:
        minio.time.utcnow = lambda: UTCNOW() + timedelta(hours=hours)

    return begin


TROUBLES = {
    "key": Trouble(Owner.take_key, Owner.give_key, "refuses the credentials (InvalidAccessKeyId)"),
    "rights": Trouble(
        lambda owner: owner.let("read"), lambda owner: owner.let("*"), "denies these credentials the bucket"
    ),
    "bucket": Trouble(Owner.remove_bucket, Owner.make_bucket, "has no bucket owner-", keeps=False),
    "quota": Trouble(
        lambda owner: owner.allow(1), lambda owner: owner.allow(-1), "has no space or quota left (QuotaExceeded)"
    ),
    "clock ahead": Trouble(_skew(1), _skew(0), "finds this machine's clock wrong (RequestTimeTooSkewed)"),
    "clock behind": Trouble(_skew(-1.1), _skew(0), "finds this machine's clock wrong ("),
}
