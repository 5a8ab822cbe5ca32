"""The JSON documents of the store. All but `Pointer` are written once and never changed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fededge.core.updates import ExclusionReason
from fededge.errors import CorruptError, FormatError, InputError
from fededge.settings import RoundSettings

FORMAT = 1
Digest = str  # "sha256:" and 64 hexadecimal digits


def now() -> datetime:
    return datetime.now(UTC)


class Record(BaseModel):
    """Base of all documents; knows how to become bytes and back."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    noun: ClassVar[str] = "record"

    format: int = FORMAT

    def dump(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def load(cls, data: bytes, key: str) -> Self:
        """Parse a document.

        Args:
          data: as it was read.
          key: where it was read, for the message.

        Raises:
          FormatError: a newer FedEdge wrote it.
          CorruptError: it is not such a document.
        """
        try:
            header = _Header.model_validate_json(data)
        except ValidationError as error:
            raise CorruptError(f"{key} is no FedEdge document; restore it from a backup") from error
        if header.format > FORMAT:
            raise FormatError(
                f"{key} has format {header.format} and this FedEdge reads up to {FORMAT}: upgrade FedEdge"
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise CorruptError(f"{key} is no valid {cls.noun}: {error.errors()[0]['msg']}") from error


class _Header(BaseModel):
    format: int


class Runtime(BaseModel):
    """What computed a result. The same bits are promised for the same runtime only."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fededge: str
    python: str
    machine: str
    cpu_features: str
    threads: int
    libraries: dict[str, str]


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


class Attempt(Record):
    """One try at one round: its plan, and the version it starts from."""

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
    opened_at: datetime = Field(default_factory=now)

    @property
    def cohort(self) -> list[str]:
        return [client for batch in self.batches.values() for client in batch]

    @property
    def ref(self) -> AttemptRef:
        return AttemptRef(training=self.training, version=self.version, number=self.number)


class AttemptRef(BaseModel):
    """Names an attempt; as a string it goes from step to step, as `digits/v4/1`."""

    model_config = ConfigDict(frozen=True)

    training: str
    version: str
    number: int

    def __str__(self) -> str:
        return f"{self.training}/{self.version}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> AttemptRef:
        try:
            training, version, number = text.split("/")
            return cls(training=training, version=version, number=int(number))
        except ValueError as error:
            raise InputError(f"{text!r} is no attempt; it looks like digits/v4/1") from error


class Update(Record):
    """A client's delivery: what it trained, on what, and where the tensors are."""

    noun: ClassVar[str] = "update"

    training: str
    version: str
    attempt: int
    round: int
    client: str
    base_model: Digest
    delta: Digest
    num_examples: int
    metrics: dict[str, float]
    seconds: float
    runtime: Runtime


class Failure(Record):
    """Why a client delivered nothing."""

    noun: ClassVar[str] = "failure report"

    client: str
    reason: ExclusionReason
    detail: str


class Accepted(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str
    delta: Digest
    num_examples: int
    metrics: dict[str, float]


class Excluded(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    client: str
    reason: ExclusionReason
    detail: str


class Closing(Record):
    """Which updates count. Written before aggregation; all that follows is a function of it."""

    noun: ClassVar[str] = "closing record"

    accepted: list[Accepted]
    excluded: list[Excluded]
    closed_at: datetime = Field(default_factory=now)

    @property
    def num_examples(self) -> int:
        return sum(update.num_examples for update in self.accepted)


class Failed(Record):
    """An attempt that made no version, and why; a later run opens the next attempt."""

    noun: ClassVar[str] = "failed attempt"

    reason: str
    failed_at: datetime = Field(default_factory=now)


class Aggregate(Record):
    """The new model before it is a version."""

    noun: ClassVar[str] = "aggregate"

    model: Digest
    server_state: Digest
    runtime: Runtime


class Evaluation(Record):
    """The new model's metrics on the held-out test data."""

    noun: ClassVar[str] = "evaluation"

    model: Digest
    metric: str
    metrics: dict[str, float]
    num_examples: int
    data_schema: dict[str, str]


class Version(Record):
    """An immutable version of the global model, with its lineage and everything later rounds depend on."""

    noun: ClassVar[str] = "version manifest"

    training: str
    version: str
    round: int
    parent: str | None
    attempt: int
    model: Digest
    server_state: Digest | None
    signature: dict[str, str]
    settings: RoundSettings
    accepted: list[Accepted]
    excluded: list[Excluded]
    metric: str
    metrics: dict[str, float]
    data_schema: dict[str, str]
    runtime: Runtime
    variants: list[Digest] = []
    created_at: datetime = Field(default_factory=now)


class Pointer(Record):
    """The current version. The only document that changes, by compare-and-swap.

    Attributes:
      branch: how often a rollback has moved the pointer back; later versions carry it in their names, so that
        a version that was rolled back over is never written again.
    """

    noun: ClassVar[str] = "pointer"

    version: str
    branch: int = 0
