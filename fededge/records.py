"""The JSON documents of the store. All but `Pointer`, `Lease` and `Forgotten` are written once and never changed.

A document ends with the digest of what is before it, so that a flipped bit anywhere in it is found when it is read.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fededge.core.comparison import Arm
from fededge.core.updates import ExclusionReason
from fededge.errors import CorruptError, FormatError, InputError
from fededge.settings import LocalTraining, RoundSettings

FORMAT = 3
GIVEN_UP = "given up by hand"  # why an attempt failed that `fededge rounds abandon` ended
Digest = str  # "sha256:" and 64 hexadecimal digits
_DIGEST = r"^sha256:[0-9a-f]{64}$"

_SEALED = re.compile(rb'(.*),\n "sha256": "([0-9a-f]{64})"\n\}', re.DOTALL)


def now() -> datetime:
    return datetime.now(UTC)


def digest_of(data: bytes) -> Digest:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Record(BaseModel):
    """Base of all documents; knows how to become bytes and back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    noun: ClassVar[str] = "record"

    format: int = FORMAT

    def dump(self) -> bytes:
        body = self.model_dump_json(indent=1).encode().removesuffix(b"\n}")
        return body + f',\n "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}'.encode()

    @property
    def digest(self) -> Digest:
        """Of the document as it is stored; other documents name it by this."""
        return digest_of(self.dump())

    @classmethod
    def load(cls, data: bytes, key: str) -> Self:
        """Parse a document.

        Args:
          data: as it was read.
          key: where it was read, for the message.

        Raises:
          FormatError: another FedEdge wrote it.
          CorruptError: it is not such a document, or not as it was written.
        """
        try:
            header = _Header.model_validate_json(data)
        except ValidationError as error:
            raise CorruptError(f"{key} is no FedEdge document; restore it from a backup") from error
        if header.format != FORMAT:
            remedy = (
                "upgrade FedEdge" if header.format > FORMAT else "go on with the older FedEdge, or in another store"
            )
            raise FormatError(f"{key} has format {header.format} and this FedEdge reads format {FORMAT}: {remedy}")
        sealed = _SEALED.fullmatch(data)
        if not sealed or hashlib.sha256(sealed[1]).hexdigest() != sealed[2].decode():
            raise CorruptError(f"{key} is damaged ({len(data)} bytes); restore it from a backup")
        try:
            record = cls.model_validate_json(sealed[1] + b"\n}")
        except ValidationError as error:
            raise CorruptError(f"{key} is no valid {cls.noun}: {error.errors()[0]['msg']}") from error
        if record.dump() != data:  # or its digest would not be that of the bytes
            raise CorruptError(f"{key} is not written as FedEdge writes a {cls.noun}")
        return record


class _Header(BaseModel):
    format: int


class Runtime(BaseModel):
    """What computed a result. The same bits are promised for the same runtime only.

    Attributes:
      packages: digest of the names and versions of all installed packages: what an image is made of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fededge: str
    python: str
    machine: str
    cpu_features: str
    threads: int
    libraries: dict[str, str]
    packages: Digest


class Training(Record):
    """A named series of versions.

    Attributes:
      initial_model: the weights of version 0.
      initial_file: what the user brought for them; None where they are the workload's own.
    """

    noun: ClassVar[str] = "training"

    name: str
    settings: RoundSettings
    signature: dict[str, str]
    initial_model: Digest
    initial_file: Digest | None = None
    created_at: datetime = Field(default_factory=now)


class Excluded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str
    reason: ExclusionReason
    detail: str


class OnDevice(BaseModel):
    """Where a batch of clients lives.

    Attributes:
      device: its name.
      node: of the cluster; empty where nobody said.
      claim: the PersistentVolumeClaim with the clients' data; empty where nobody said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    node: str = ""
    claim: str = ""


def _is_empty(value: object) -> bool:
    return not value


class Attempt(Record):
    """One try at one round: its plan, and the version it starts from.

    Attributes:
      devices: of the batches whose clients live on one; no batch has clients of two.
      left_out: clients of the cohort that are in no batch, and why.
      update_signature: of the tensors that each client has to deliver.
      interval_s: seconds between the rounds of the schedule that opened it; 0 for none.
      data_schema: of the examples that the base version was made from; empty before the first round.
      code: digest of the workload's module.
      runtime: of the client image that opened the attempt.
    """

    noun: ClassVar[str] = "attempt"

    training: str
    version: str
    round: int
    number: int
    base_version: str
    base_model: Digest
    base_server_state: Digest | None
    settings: RoundSettings
    batches: dict[str, list[str]]
    devices: dict[str, OnDevice] = Field(default={}, exclude_if=_is_empty)
    left_out: list[Excluded] = Field(default=[], exclude_if=_is_empty)
    update_signature: dict[str, str]
    interval_s: int = Field(default=0, exclude_if=_is_empty)
    data_schema: dict[str, str]
    code: Digest
    runtime: Runtime
    opened_at: datetime = Field(default_factory=now)

    @property
    def cohort(self) -> list[str]:
        planned = [client for batch in self.batches.values() for client in batch]
        return planned + [excluded.client for excluded in self.left_out]

    @property
    def ref(self) -> AttemptRef:
        return AttemptRef(training=self.training, version=self.version, number=self.number)


class AttemptRef(BaseModel):
    """Names an attempt."""

    model_config = ConfigDict(frozen=True)

    training: str
    version: str
    number: int

    def __str__(self) -> str:
        return f"{self.training}/{self.version}/{self.number}"


class SittingRef(BaseModel):
    """Names one run's work on an attempt; as a string it goes from step to step, as `digits/v4/1/7`.

    Attributes:
      attempt: worked on. Starting again resumes it in another sitting.
      token: the fencing token of the lease that the run holds; the highest one alone may publish.
    """

    model_config = ConfigDict(frozen=True)

    attempt: AttemptRef
    token: int

    def __str__(self) -> str:
        return f"{self.attempt}/{self.token}"

    @classmethod
    def parse(cls, text: str) -> SittingRef:
        try:
            training, version, number, token = text.split("/")
            return cls(attempt=AttemptRef(training=training, version=version, number=int(number)), token=int(token))
        except ValueError as error:
            raise InputError(f"{text!r} is no attempt; it looks like digits/v4/1/7") from error


class Sitting(Record):
    """One run's work on an attempt begins. When it did is what the store says of this document.

    Attributes:
      spent_s: how much of the deadline's seconds earlier sittings have used. The time between them does not count.
    """

    noun: ClassVar[str] = "sitting"

    spent_s: float


class Lease(Record):
    """Who works on a training. Changes by compare-and-swap.

    Attributes:
      token: grows by one with each new holder.
      holder: names a run, for people, and for this machine's own.
      expires_at: by the store's clock; from then on another run may take over.
    """

    noun: ClassVar[str] = "lease"

    token: int
    holder: str
    expires_at: datetime


class Update(Record):
    """A client's delivery: what it trained, on what, and where the tensors are.

    Attributes:
      num_examples: the weight that the client claims; nothing here is believed before admission.
      data_schema: of one example.
      work: digest of all that decides the result: base model, client, seeds, settings, examples, code and image. A
        later attempt reuses an update of the same work.
      reused_from: the attempt that trained it, where this one did not.
    """

    noun: ClassVar[str] = "update"

    training: str
    version: str
    attempt: int
    round: int
    client: str
    base_model: Digest
    delta: str = Field(pattern=_DIGEST)
    num_examples: Any
    metrics: dict[str, float]
    data_schema: dict[str, str]
    seconds: float
    work: Digest
    reused_from: int | None = None
    runtime: Runtime

    @property
    def attempt_ref(self) -> AttemptRef:
        """The attempt that it says it is for."""
        return AttemptRef(training=self.training, version=self.version, number=self.attempt)


class Repeat(Record):
    """A client delivered again, and other bytes: told, and never used."""

    noun: ClassVar[str] = "repeated delivery"

    client: str
    kept: Digest
    dropped: Digest


class Failure(Record):
    """Why a client delivered nothing."""

    noun: ClassVar[str] = "failure report"

    client: str
    reason: ExclusionReason
    detail: str


class Accepted(BaseModel):
    """An update that counts.

    Attributes:
      update: digest of the document.
      delta: digest of the tensors.
      num_examples: as claimed, up to the most that any client may claim.
      weight: what is left of `num_examples` after the cap on a client's share.
      norm: L2 norm of the delta, before clipping.
      seconds: that the client took.
      reused_from: the attempt that it was trained in, where that is an earlier one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str
    update: Digest
    delta: Digest
    num_examples: int
    weight: int
    norm: float
    clipped: bool
    metrics: dict[str, float]
    seconds: float
    reused_from: int | None = None


class ClosedBecause(StrEnum):
    ALL_ANSWERED = "ALL_ANSWERED"
    TARGET_REACHED = "TARGET_REACHED"
    DEADLINE = "DEADLINE"
    TASKS_ENDED = "TASKS_ENDED"  # and not every client was heard of


class Closing(Record):
    """Which updates count. Written before aggregation; all that follows is a function of it.

    Attributes:
      accepted: in client order.
      excluded: everybody else of the cohort, in client order.
      repeats: clients that delivered again, with other bytes.
      data_schema: of the examples that the accepted updates were made from.
    """

    noun: ClassVar[str] = "closing record"

    because: ClosedBecause
    accepted: list[Accepted]
    excluded: list[Excluded]
    repeats: list[str]
    data_schema: dict[str, str]
    closed_at: datetime = Field(default_factory=now)


class Failed(Record):
    """An attempt that made no version, and why; a later run opens the next attempt."""

    noun: ClassVar[str] = "failed attempt"

    reason: str
    failed_at: datetime = Field(default_factory=now)


class Aggregate(Record):
    """The new model before it is a version.

    Attributes:
      counted: the clients whose updates the aggregation rule used; Krum chooses.
    """

    noun: ClassVar[str] = "aggregate"

    model: Digest
    server_state: Digest
    counted: list[str]
    runtime: Runtime


class Evaluation(Record):
    """The new model's metrics on the held-out test data.

    Attributes:
      untested: the clients whose part of those cannot be used, and why.
    """

    noun: ClassVar[str] = "evaluation"

    model: Digest
    metric: str
    metrics: dict[str, float]
    num_examples: int
    data_schema: dict[str, str]
    untested: dict[str, str] = {}


class Version(Record):
    """An immutable version of the global model, with its lineage and everything later rounds depend on.

    Attributes:
      parent_manifest: digest of the parent's manifest, which makes the lineage a chain.
      documents: digests of the other documents that this version was made from, by their keys.
    """

    noun: ClassVar[str] = "version manifest"

    training: str
    version: str
    round: int
    parent: str | None
    parent_manifest: Digest | None
    attempt: int
    model: Digest
    server_state: Digest | None
    signature: dict[str, str]
    settings: RoundSettings
    because: ClosedBecause | None
    accepted: list[Accepted]
    excluded: list[Excluded]
    repeats: list[str]
    counted: list[str]
    metric: str
    metrics: dict[str, float]
    data_schema: dict[str, str]
    documents: dict[str, Digest]
    runtime: Runtime
    variants: list[Digest] = []
    created_at: datetime = Field(default_factory=now)

    @property
    def attempt_ref(self) -> AttemptRef:
        """The attempt that made it; version 0 has none, and so nothing is there."""
        return AttemptRef(training=self.training, version=self.version, number=self.attempt)


class Rollback(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    left: str
    to: str
    at: datetime = Field(default_factory=now)


class Pointer(Record):
    """The current version. Changes by compare-and-swap.

    Attributes:
      manifest: digest of the version's manifest.
      token: the highest fencing token of a lease that has been seen; a run with a lower one publishes nothing.
      branch: how often a rollback has moved the pointer back; later versions carry it in their names, so that
        a version that was rolled back over is never written again.
      rollbacks: each of them, oldest first.
    """

    noun: ClassVar[str] = "pointer"

    version: str
    manifest: Digest
    token: int = 0
    branch: int = 0
    rollbacks: list[Rollback] = []

    @property
    def known_versions(self) -> list[str]:
        """Those that are or were current, as far as it tells: its own, and both ends of each rollback."""
        ends = (version for rollback in self.rollbacks for version in (rollback.left, rollback.to))
        return list(dict.fromkeys([self.version, *ends]))


class Forgotten(Record):
    """A client's updates were deleted on its request; manifests still name them.

    Attributes:
      deltas: digests of the tensors that are gone.
    """

    noun: ClassVar[str] = "note of what was forgotten"

    client: str
    deltas: list[Digest]
    at: datetime = Field(default_factory=now)


class ComparisonRef(BaseModel):
    """Names a comparison; as a string it goes from step to step, as `digits/v5/0123456789ab`.

    Attributes:
      name: the beginning of the digest of its plan.
    """

    model_config = ConfigDict(frozen=True)

    training: str
    version: str
    name: str

    def __str__(self) -> str:
        return f"{self.training}/{self.version}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> ComparisonRef:
        try:
            training, version, name = text.split("/")
        except ValueError as error:
            raise InputError(f"{text!r} is no comparison; it looks like digits/v5/0123456789ab") from error
        return cls(training=training, version=version, name=name)


class Budget(BaseModel):
    """How much is trained, the same in the federated, the centralized and the local arm.

    Attributes:
      examples: that the version's lineage was trained on, each as often as it was.
      available: the examples that all clients have.
      epochs: how often these have to be gone through for as many.
      rounds: numbers of the rounds that trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    examples: int
    available: int
    epochs: int
    rounds: list[int]


class ArmBatch(BaseModel):
    """What one pod does.

    Attributes:
      clients: to train, one after the other; in the federated and the centralized arm empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    arm: Arm
    clients: list[str]


class Comparison(Record):
    """What is compared, and how. It has no date: asked for again, it is the same document.

    Attributes:
      manifest: digest of the version's manifest.
      model: of the version.
      initial_model: that the centralized and the local arm start from.
      settings: of the version's round.
      population: the clients that can train; whoever else has held-out examples is cold.
      fine_tuning: how clients go on from the federated model.
      bytes_moved: by the federated training: models to clients, and accepted updates from them.
      unit: of the metric; empty for a share.
      code: digest of the workload's module.
      runtime: of the image that made the plan.
    """

    noun: ClassVar[str] = "comparison"

    training: str
    version: str
    manifest: Digest
    model: Digest
    initial_model: Digest
    settings: RoundSettings
    population: list[str]
    fine_tuning: LocalTraining
    budget: Budget
    bytes_moved: int
    batches: dict[str, ArmBatch]
    metric: str
    unit: str
    higher_is_better: bool
    deadline_s: int
    code: Digest
    runtime: Runtime

    @property
    def ref(self) -> ComparisonRef:
        return ComparisonRef(training=self.training, version=self.version, name=self.digest[7:19])


class ArmScore(BaseModel):
    """What an arm's model is worth to one client.

    Attributes:
      own: whether on the client's own held-out examples; else on the test that is reported for all.
      examples: how many these are.
      metrics: those that are finite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str
    own: bool
    examples: int
    metrics: dict[str, float]


class ArmResult(Record):
    """What became of one batch of a comparison.

    Attributes:
      official: metrics of the arm's one model on the test that is reported; empty where each client has its own model.
      scores: of the clients, in client order.
      failures: clients without a score or whose data were not used, and why.
      problem: why the arm's one model could not be made; empty if it could.
      raw_bytes: of clients' examples that were brought together.
    """

    noun: ClassVar[str] = "result of a comparison"

    batch: str
    arm: Arm
    official: dict[str, float]
    scores: list[ArmScore]
    failures: list[Excluded]
    problem: str
    raw_bytes: int
    seconds: float
    runtime: Runtime
