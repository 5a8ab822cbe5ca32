"""What a user can set for a round. The inputs of the pipelines, by the same names and defaults."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fededge.errors import InputError


class ServerOptimizer(StrEnum):
    SGD = "sgd"
    ADAM = "adam"
    YOGI = "yogi"
    ADAGRAD = "adagrad"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, **values: Any) -> Self:
        """Validate what a user passed.

        Raises:
          InputError: naming the first wrong parameter, its value and what is allowed.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            where = f"{name}={first['input']!r}: " if name else ""
            raise InputError(f"{where}{first['msg'].removeprefix('Value error, ')}") from error


class LocalTraining(_Settings):
    """How a client trains."""

    local_epochs: int = Field(5, ge=1, le=1000, description="How often a client goes through its data.")
    batch_size: int = Field(10, ge=1, le=1_000_000, description="Examples in a client's minibatch.")
    client_learning_rate: float = Field(0.1, gt=0, description="Learning rate of the clients' SGD.")
    client_momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of the clients' SGD, at least 0 and below 1.")


class Server(_Settings):
    """How the server turns the mean update into the next model."""

    server_optimizer: ServerOptimizer = Field(
        ServerOptimizer.SGD, description="What makes the new model of the mean update: sgd, adam, yogi or adagrad."
    )
    server_learning_rate: float = Field(
        1.0, gt=0, description="Learning rate of the server's optimizer. 1 with sgd is plain federated averaging."
    )
    server_momentum: float = Field(0.0, ge=0, lt=1, description="Momentum of the server's sgd, at least 0 and below 1.")

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> Self:
        if self.server_momentum and self.server_optimizer is not ServerOptimizer.SGD:
            raise ValueError(f"server_momentum goes with server_optimizer=sgd, not {self.server_optimizer.value}")
        return self


class RoundSettings(LocalTraining, Server):
    """Everything that decides what model a round makes, given the version it starts from."""

    workload: str = Field(
        "digits",
        min_length=1,
        description="What to train: digits, mnist, or the import path of your own, package.module:attribute.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Decides every random number. The same seed gives the same model.")
    clients: int = Field(10, ge=1, le=1_000_000, description="How many clients there are.")
    clients_per_round: int = Field(
        0, ge=0, description="How many of them take part in the round, drawn at random. 0 takes all."
    )
    clients_per_pod: int = Field(5, ge=1, description="How many clients one pod trains, one after the other.")
    min_clients: int = Field(1, ge=1, description="The round fails when fewer clients deliver.")

    @model_validator(mode="after")
    def _cohort_fits(self) -> Self:
        if self.clients_per_round > self.clients:
            raise ValueError(f"clients_per_round={self.clients_per_round} is more than clients={self.clients}")
        if self.min_clients > self.cohort_size:
            raise ValueError(f"min_clients={self.min_clients} is more than the {self.cohort_size} of a round")
        return self

    @property
    def cohort_size(self) -> int:
        return self.clients_per_round or self.clients

    @property
    def batch_count(self) -> int:
        return -(-self.cohort_size // self.clients_per_pod)


# Settings that every round of a training shares: they define the data, the random streams and the server state.
TRAINING_WIDE = ("workload", "seed", "clients", "server_optimizer")


class Placement(_Settings):
    """Where a batch of clients runs, and what it may use. Decides nothing about the model.

    Kubernetes reads the quantities, so none may be empty: the backend fails the task otherwise.
    """

    data_claim: str = Field(
        "fededge-data",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="PersistentVolumeClaim with the clients' data.",
    )
    cpu_request: str = Field(
        "500m", pattern=r"^[0-9]+(\.[0-9]+)?m?$", description="CPUs to reserve for each pod that trains clients."
    )
    cpu_limit: str = Field("2", pattern=r"^[0-9]+(\.[0-9]+)?m?$", description="CPUs it may use at most.")
    memory_request: str = Field(
        "1Gi", pattern=r"^[0-9]+(\.[0-9]+)?([kMGT]i?)?$", description="Memory to reserve for it."
    )
    memory_limit: str = Field(
        "4Gi", pattern=r"^[0-9]+(\.[0-9]+)?([kMGT]i?)?$", description="Memory it may use at most."
    )
