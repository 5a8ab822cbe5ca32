"""Every key of the store. Nothing else puts one together.

blobs/sha256/ab/abcd…                           tensors, by content
trainings/<training>/training.json
trainings/<training>/current.json               the pointer
trainings/<training>/lease.json
trainings/<training>/versions/<version>.json
trainings/<training>/forgotten/<client>.json
trainings/<training>/rounds/<version>/<attempt>/attempt.json
                                               /sittings/<token>.json
                                               /updates/<client>.json
                                               /repeats/<client>.json
                                               /failures/<client>.json
                                               /closing.json
                                               /aggregate.json
                                               /evaluation.json
                                               /failed.json
comparisons/<training>/<version>/<name>/comparison.json
                                       /batches/<batch>.json
collecting.json                                 the lease of garbage collection

and in the store on a client's own device:

clients/<training>/<client>/<version>/<digest of the update's tensors>-<digest of the variate>.safetensors
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from fededge.errors import InputError
from fededge.records import AttemptRef, ComparisonRef, Digest, Pointer

_TRAINING = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"v(0|[1-9][0-9]*)(-b([1-9][0-9]*))?")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_IN_TRAINING = re.compile(rf"trainings/({_TRAINING.pattern})/.+")
_IN_ATTEMPT = re.compile(
    rf"trainings/(?P<training>{_TRAINING.pattern})/rounds/(?P<version>{_VERSION.pattern})"
    r"/(?P<number>[0-9]{4,})/((?P<folder>[a-z]+)/)?(?P<name>[^/]+)\.json"
)
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})")
_CONTROL = re.compile(
    rf"clients/({_TRAINING.pattern})/(?P<client>[^/]+)/(?P<version>{_VERSION.pattern})"
    r"/(?P<delta>[0-9a-f]{64})-(?P<control>[0-9a-f]{64})\.safetensors"
)
_COMPARISON = re.compile(r"[0-9a-f]{12}")
_BATCH = re.compile(r"[a-z_]+(-b[0-9]{3,})?")
_CLIENT_BYTES = 80  # quoted three to one, a client's key still fits a file name

TRAININGS = "trainings/"
BLOBS = "blobs/"
COLLECTING = "collecting.json"
CLIENT_FOLDERS = ("updates", "repeats", "failures")  # of an attempt, with one document a client


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


def lease(training: str) -> str:
    return f"{training_folder(training)}lease.json"


def version_folder(training: str) -> str:
    return f"{training_folder(training)}versions/"


def version(training: str, version: str) -> str:
    version_round(version)
    return f"{version_folder(training)}{version}.json"


def version_name(round_number: int, branch: int) -> str:
    """Name the version of a round: `v4`, or `v4-b1` after the first rollback."""
    return f"v{round_number}-b{branch}" if branch else f"v{round_number}"


def next_version(pointer: Pointer) -> str:
    """Name the version that the next round makes, which is the only one that a run can still make."""
    return version_name(version_round(pointer.version) + 1, pointer.branch)


def version_round(version: str) -> int:
    match = _VERSION.fullmatch(version)
    if not match:
        raise InputError(f"{version!r} is no version; versions look like v4, or v4-b1 after a rollback")
    return int(match[1])


def is_version(text: str) -> bool:
    return bool(_VERSION.fullmatch(text))


def version_branch(version: str) -> int:
    """Return how many rollbacks there had been when a version was made."""
    version_round(version)
    return int(version.partition("-b")[2] or 0)


def training_of(key: str) -> str | None:
    """Return the training that a key belongs to, if it is one's."""
    match = _IN_TRAINING.fullmatch(key)
    return match[1] if match else None


def forgotten_folder(training: str) -> str:
    return f"{training_folder(training)}forgotten/"


def forgotten(training: str, client: str) -> str:
    return f"{forgotten_folder(training)}{_client(client)}.json"


def rounds_folder(training: str) -> str:
    return f"{training_folder(training)}rounds/"


def round_folder(training: str, version: str) -> str:
    version_round(version)
    return f"{rounds_folder(training)}{version}/"


def attempt_folder(ref: AttemptRef) -> str:
    return f"{round_folder(ref.training, ref.version)}{ref.number:04d}/"


def attempt(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}attempt.json"


class Place(NamedTuple):
    """What a key of an attempt is for.

    Attributes:
      folder: `updates`, `repeats`, `failures` or `sittings`; empty for a document of the attempt itself.
      name: the document's; of a client's, the client.
    """

    ref: AttemptRef
    folder: str
    name: str


def place(key: str) -> Place | None:
    """Tell what a key of an attempt is for; None for any other key, and for one that is not made here."""
    match = _IN_ATTEMPT.fullmatch(key)
    if not match:
        return None
    training, version, number, folder, name = match.group("training", "version", "number", "folder", "name")
    found = Place(AttemptRef(training=training, version=version, number=int(number)), folder or "", unquote(name))
    try:
        name = quote(found.name, safe="") if folder == "sittings" or not folder else _client(found.name)
    except InputError:
        return None
    made = f"{attempt_folder(found.ref)}{f'{folder}/' if folder else ''}{name}.json"
    return found if made == key else None


def sitting_folder(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}sittings/"


def sitting(ref: AttemptRef, token: int) -> str:
    return f"{sitting_folder(ref)}{token:09d}.json"


def update_folder(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}updates/"


def update(ref: AttemptRef, client: str) -> str:
    return f"{update_folder(ref)}{_client(client)}.json"


def repeat_folder(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}repeats/"


def repeat(ref: AttemptRef, client: str) -> str:
    return f"{repeat_folder(ref)}{_client(client)}.json"


def failure_folder(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}failures/"


def failure(ref: AttemptRef, client: str) -> str:
    return f"{failure_folder(ref)}{_client(client)}.json"


def client_of(key: str) -> str:
    """Return the client whose update or failure report a key names."""
    return unquote(key.rpartition("/")[2].removesuffix(".json"))


class ControlPlace(NamedTuple):
    """Where a client's control variate is.

    Attributes:
      delta: digest of the tensors of the update that it belongs to.
      control: digest of the variate's bytes.
    """

    training: str
    client: str
    version: str
    delta: Digest
    control: Digest

    @property
    def key(self) -> str:
        name = f"{self.delta.removeprefix('sha256:')}-{self.control.removeprefix('sha256:')}"
        return f"{control_folder(self.training, self.client)}{self.version}/{name}.safetensors"


def control_folder(training: str, client: str) -> str:
    training_folder(training)
    return f"clients/{training}/{_client(client)}/"


def control_place(key: str) -> ControlPlace | None:
    """Tell which control variate a key is of; None for any other key."""
    match = _CONTROL.fullmatch(key)
    if not match:
        return None
    client, delta, control = unquote(match["client"]), f"sha256:{match['delta']}", f"sha256:{match['control']}"
    return ControlPlace(match[1], client, match["version"], delta, control)


def closing(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}closing.json"


def aggregate(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}aggregate.json"


def evaluation(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}evaluation.json"


def failed(ref: AttemptRef) -> str:
    return f"{attempt_folder(ref)}failed.json"


def comparisons_folder(training: str) -> str:
    training_folder(training)
    return f"comparisons/{training}/"


def comparison_folder(ref: ComparisonRef) -> str:
    version_round(ref.version)
    if not _COMPARISON.fullmatch(ref.name):
        raise InputError(f"{ref.name!r} names no comparison; names look like 0123456789ab")
    return f"{comparisons_folder(ref.training)}{ref.version}/{ref.name}/"


def comparison(ref: ComparisonRef) -> str:
    return f"{comparison_folder(ref)}comparison.json"


def arm_result(ref: ComparisonRef, batch: str) -> str:
    if not _BATCH.fullmatch(batch):
        raise InputError(f"{batch!r} is no batch of a comparison; they look like local-b000")
    return f"{comparison_folder(ref)}batches/{batch}.json"


def is_arm_result(key: str) -> bool:
    """Whether a key below `comparisons_folder` is of a batch's result."""
    return key.split("/")[4:5] == ["batches"]


def blob(digest: Digest) -> str:
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise InputError(f"{digest!r} is no digest; digests look like sha256: and 64 hexadecimal digits")
    return f"{BLOBS}sha256/{match[1][:2]}/{match[1]}"


def is_digest(text: str) -> bool:
    return bool(_DIGEST.fullmatch(text))


def digest_of_blob(key: str) -> Digest | None:
    """Return the digest of the bytes that must be at a blob's key; None for any other key."""
    match = _BLOB.fullmatch(key)
    return f"sha256:{match[2]}" if match else None


def _client(client: str) -> str:
    if not 1 <= len(client.encode()) <= _CLIENT_BYTES:
        raise InputError(f"client id {client!r} must have between 1 and {_CLIENT_BYTES} bytes")
    return quote(client, safe="")
