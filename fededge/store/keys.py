"""Every key of the store. Nothing else puts one together.

blobs/sha256/ab/abcd…                           tensors, by content
trainings/<training>/training.json
trainings/<training>/current.json               the pointer
trainings/<training>/versions/<version>.json
trainings/<training>/rounds/<version>/<attempt>/attempt.json
                                               /updates/<client>.json
                                               /failures/<client>.json
                                               /closing.json
                                               /aggregate.json
                                               /evaluation.json
                                               /failed.json
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from fededge.errors import InputError
from fededge.records import AttemptRef, Digest

_TRAINING = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"v(0|[1-9][0-9]*)(-b([1-9][0-9]*))?")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CLIENT_BYTES = 80  # quoted three to one, a client's key still fits a file name

TRAININGS = "trainings/"


def training_folder(training: str) -> str:
    if not _TRAINING.fullmatch(training):
        raise InputError(
            f"{training!r} is no name for a training: use 1 to 63 lower-case letters, digits and hyphens, "
            "with a letter or digit first and last"
        )
    return f"{TRAININGS}{training}/"


def training(name: str) -> str:
    return f"{training_folder(name)}training.json"


def pointer(training: str) -> str:
    return f"{training_folder(training)}current.json"


def version_folder(training: str) -> str:
    return f"{training_folder(training)}versions/"


def version(training: str, version: str) -> str:
    version_round(version)
    return f"{version_folder(training)}{version}.json"


def version_name(round_number: int, branch: int) -> str:
    """Name the version of a round: `v4`, or `v4-b1` after the first rollback."""
    return f"v{round_number}-b{branch}" if branch else f"v{round_number}"


def version_round(version: str) -> int:
    match = _VERSION.fullmatch(version)
    if not match:
        raise InputError(f"{version!r} is no version; versions look like v4, or v4-b1 after a rollback")
    return int(match[1])


def round_folder(training: str, version: str) -> str:
    version_round(version)
    return f"{training_folder(training)}rounds/{version}/"


def attempt_folder(ref: AttemptRef) -> str:
    return f"{round_folder(ref.training, ref.version)}{ref.number:04d}/"


def attempt(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}attempt.json"


def update_folder(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}updates/"


def update(ref: AttemptRef, client: str) -> str:
    return f"{update_folder(ref)}{_client(client)}.json"


def failure_folder(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}failures/"


def failure(ref: AttemptRef, client: str) -> str:
    return f"{failure_folder(ref)}{_client(client)}.json"


def client_of(key: str) -> str:
    """Return the client whose update or failure report a key names."""
    return unquote(key.rpartition("/")[2].removesuffix(".json"))


def closing(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}closing.json"


def aggregate(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}aggregate.json"


def evaluation(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}evaluation.json"


def failed(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}failed.json"


def blob(digest: Digest) -> str:
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise InputError(f"{digest!r} is no digest; digests look like sha256: and 64 hexadecimal digits")
    return f"blobs/sha256/{match[1][:2]}/{match[1]}"


def _client(client: str) -> str:
    if not 1 <= len(client.encode()) <= _CLIENT_BYTES:
        raise InputError(f"client id {client!r} must have between 1 and {_CLIENT_BYTES} bytes")
    return quote(client, safe="")
