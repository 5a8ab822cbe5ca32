"""What a user can set for a round. The inputs of the pipelines, by the same names and defaults."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fededge import __version__
from fededge.core.quantities import quantity
from fededge.core.robust import Rule, precondition
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


class ClientAlgorithm(StrEnum):
    FEDAVG = "fedavg"
    FEDPROX = "fedprox"
    SCAFFOLD = "scaffold"


class LocalTraining(_Settings):
    """How a client trains."""

    local_epochs: int = Field(5, ge=1, le=1000, description="How often a client goes through its data.")
    local_steps: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="How many minibatches a client trains on, in place of local_epochs. 0 goes by epochs.",
    )
    batch_size: int = Field(10, ge=1, le=1_000_000, description="Examples in a client's minibatch.")
    client_learning_rate: float = Field(0.1, gt=0, description="Learning rate of the clients' SGD.")
    learning_rate_decay: float = Field(
        1.0, gt=0, le=1, description="The clients' learning rate is multiplied by this in each round after the first."
    )
    client_momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of the clients' SGD, at least 0 and below 1.")
    client_algorithm: ClientAlgorithm = Field(
        ClientAlgorithm.FEDAVG,
        description="What keeps clients from drifting apart: fedavg (nothing), fedprox or scaffold.",
    )
    proximal_mu: float = Field(0.0, ge=0, description="How strongly fedprox pulls clients to the global model.")

    @model_validator(mode="after")
    def _suits_the_algorithm(self) -> Self:
        prox = self.client_algorithm is ClientAlgorithm.FEDPROX
        if prox != bool(self.proximal_mu):
            raise ValueError("client_algorithm=fedprox goes with a proximal_mu above 0, such as 0.01, and only with it")
        if self.client_algorithm is ClientAlgorithm.SCAFFOLD and self.client_momentum:
            raise ValueError("client_algorithm=scaffold goes with client_momentum=0: its control variates are SGD's")
        return self

    def in_round(self, number: int) -> LocalTraining:
        """Return how clients train in a round, from 1, with that round's learning rate and no further decay."""
        rate = self.client_learning_rate * self.learning_rate_decay ** (number - 1)
        values = {name: getattr(self, name) for name in LocalTraining.model_fields}
        return LocalTraining(**{**values, "client_learning_rate": rate, "learning_rate_decay": 1.0})

    def steps(self, examples: int) -> int:
        """Count the minibatches that a client with so many examples trains on; an epoch's last one may be smaller."""
        return self.local_steps or self.local_epochs * math.ceil(examples / self.batch_size)


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


class Admission(_Settings):
    """Which updates count, and how much."""

    max_client_share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="The most that one client may weigh in a round, or 2/clients if that is more. 1 is no limit.",
    )
    max_update_norm: float = Field(0.0, ge=0, description="Updates with a larger L2 norm are refused. 0 refuses none.")
    clip_norm: float = Field(
        0.0, ge=0, description="Updates with a larger L2 norm are scaled down to it. 0 clips none."
    )
    aggregation: Rule = Field(
        Rule.MEAN,
        description="How updates become one: mean (weighted by examples), median, trimmed_mean, krum or multi_krum.",
    )
    attackers: int = Field(
        0, ge=0, description="How many lying clients trimmed_mean, krum and multi_krum have to bear."
    )

    @model_validator(mode="after")
    def _attackers_are_borne(self) -> Self:
        if self.attackers and self.aggregation in (Rule.MEAN, Rule.MEDIAN):
            raise ValueError(
                f"attackers goes with aggregation=trimmed_mean, krum or multi_krum, not {self.aggregation.value}"
            )
        return self


class Waiting(_Settings):
    """Whom a round waits for, and how long."""

    clients: int = Field(
        0, ge=0, le=1_000_000, description="How many clients there are. 0 is all that the workload has."
    )
    clients_per_round: int = Field(
        0, ge=0, description="How many of them take part in the round, drawn at random. 0 takes all."
    )
    over_selection: float = Field(
        1.0, ge=1, le=10, description="So many times as many are drawn, as some will not deliver."
    )
    clients_per_pod: int = Field(5, ge=1, description="How many clients one pod trains, one after the other.")
    min_clients: int = Field(1, ge=1, description="The round fails when fewer clients deliver.")
    target_clients: int = Field(
        0, ge=0, description="How many updates are wanted. 0 is clients_per_round, before over_selection."
    )
    close_at_target: bool = Field(
        False, description="Begin no more clients once the target is reached. Faster, and slow clients count less."
    )
    deadline_s: int = Field(
        3600, ge=1, le=86_400, description="Seconds that a round waits for its clients, from its opening."
    )
    finish_s: int = Field(
        1800,
        ge=1,
        le=86_400,
        description="Seconds for aggregating, evaluating and versioning; then others may take over.",
    )
    max_attempts: int = Field(
        3,
        ge=1,
        le=1000,
        description="How often a round is tried, each time with other clients, before somebody must look.",
    )

    @model_validator(mode="after")
    def _cohort_fits(self) -> Self:
        if not self.clients:  # known once the workload has named them
            return self
        if self.clients_per_round > self.clients:
            raise ValueError(f"clients_per_round={self.clients_per_round} is more than clients={self.clients}")
        if self.min_clients > self.cohort_size:
            raise ValueError(f"min_clients={self.min_clients} is more than the {self.cohort_size} of a round")
        if self.target_clients > self.cohort_size:
            raise ValueError(f"target_clients={self.target_clients} is more than the {self.cohort_size} of a round")
        if self.target < self.min_clients:
            raise ValueError(f"min_clients={self.min_clients} is more than the target of {self.target}")
        return self

    @property
    def cohort_size(self) -> int:
        wanted = self.clients_per_round or self.clients
        return min(self.clients, math.ceil(round(wanted * self.over_selection, 6)))

    @property
    def target(self) -> int:
        return self.target_clients or self.clients_per_round or self.clients

    @property
    def batch_count(self) -> int:
        return -(-self.cohort_size // self.clients_per_pod)


class RoundSettings(LocalTraining, Server, Admission, Waiting):
    """Everything that decides what model a round makes, given the version it starts from."""

    workload: str = Field(
        "digits",
        min_length=1,
        description="What to train: one of ours, as digits, or the import path of your own, package.module:attribute.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Decides every random number. The same seed gives the same model.")

    @model_validator(mode="after")
    def _scaffold_takes_the_mean(self) -> Self:
        if self.client_algorithm is ClientAlgorithm.SCAFFOLD and (self.aggregation is not Rule.MEAN or self.clip_norm):
            raise ValueError("client_algorithm=scaffold goes with aggregation=mean and clip_norm=0")
        return self

    @model_validator(mode="after")
    def _enough_for_the_rule(self) -> Self:
        if self.clients and (unmet := precondition(self.aggregation, self.cohort_size, self.attackers)):
            raise ValueError(unmet)
        return self

    def of_population(self, clients: int, *, at_most: bool = False) -> RoundSettings:
        """Return the settings with the number of clients that the workload names.

        Args:
          clients: how many there are.
          at_most: a round that wants more of them takes all, as where clients come and go.

        Raises:
          InputError: the settings do not go with so many.
        """
        per_round = min(self.clients_per_round, clients) if at_most else self.clients_per_round
        return RoundSettings.parse(**{**self.model_dump(), "clients": clients, "clients_per_round": per_round})


# Settings that every round of a training shares: they define the data, the random streams and the server state.
TRAINING_WIDE = ("workload", "seed", "clients", "server_optimizer", "client_algorithm")


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
        "1Gi", pattern=r"^[0-9]+(\.[0-9]+)?([kMGT]|[KMGT]i)?$", description="Memory to reserve for it."
    )
    memory_limit: str = Field(
        "4Gi", pattern=r"^[0-9]+(\.[0-9]+)?([kMGT]|[KMGT]i)?$", description="Memory it may use at most."
    )

    @model_validator(mode="after")
    def _requests_are_within_limits(self) -> Self:
        for what in ("cpu", "memory"):
            request, limit = getattr(self, f"{what}_request"), getattr(self, f"{what}_limit")
            if quantity(request) > quantity(limit):
                raise ValueError(f"{what}_request={request} is more than {what}_limit={limit}: raise the limit, too")
        return self


class FanOut(_Settings):
    """How Jobs train the clients of a round. Decides nothing about the model."""

    parallelism: int = Field(
        100,
        ge=1,
        le=10_000,
        description="How many pods of each Job, and how many Jobs of devices, train clients at once.",
    )
    retries: int = Field(
        1,
        ge=0,
        le=10,
        description="How often a batch of clients is tried again when its pod crashes or runs out of memory.",
    )
    start_s: int = Field(
        600, ge=1, le=86_400, description="Seconds after which a Job is given up of which Kubernetes can start no pod."
    )
    keep_jobs_s: int = Field(
        3600, ge=0, le=2_592_000, description="Seconds that finished Jobs are kept, with the logs of their pods."
    )
    client_service_account: str = Field(
        "fededge-client",
        pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$",
        description="Service account of the pods that train clients; it needs no rights.",
    )


class ComparisonSettings(_Settings):
    """How a federated model is compared with others."""

    clients_per_pod: int = Field(5, ge=1, description="How many clients one pod trains, one after the other.")
    arm_clients: int = Field(
        0, ge=0, description="How many clients are trained alone and fine-tuned, drawn at random. 0 takes all."
    )
    deadline_s: int = Field(
        3600, ge=1, le=86_400, description="Seconds that each pod may take; whoever is not done by then is left out."
    )

    @model_validator(mode="after")
    def _two_at_least(self) -> Self:
        if self.arm_clients == 1:
            raise ValueError("arm_clients=1 compares nobody: take 2 or more, or 0 for all")
        return self


class Platform(StrEnum):
    SELDON = "seldon"
    KSERVE = "kserve"


class Action(StrEnum):
    """What to do with a version that is to be served.

    `auto` goes from a canary to all requests by itself; the other three leave that to people.
    """

    AUTO = "auto"
    CANARY = "canary"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Deployment(_Settings):
    """How a version is brought to the requests."""

    platform: Platform = Field(Platform.KSERVE, description="What serves it: kserve or seldon.")
    action: Action = Field(
        Action.AUTO,
        description="auto puts a canary up and promotes it when it has stayed ready; canary, promote and rollback do "
        "one step.",
    )
    name: str = Field(
        "",
        pattern=r"^([a-z]([-a-z0-9]{0,61}[a-z0-9])?)?$",
        description="Name of the service, and of the model in its URLs; empty for the training's.",
    )
    serving_image: str = Field(
        f"fededge-serving:{__version__}",
        min_length=1,
        description="Image of the server for models of PyTorch and scikit-learn, with its registry.",
    )
    serving_tensorflow_image: str = Field(
        f"fededge-serving-tensorflow:{__version__}",
        min_length=1,
        description="Image of the server for models of Keras, with its registry.",
    )
    replicas: int = Field(1, ge=1, le=1000, description="How many pods serve each version.")
    traffic: int = Field(
        10, ge=1, le=100, description="Percent of the requests for the canary; 100 skips it, once the server is ready."
    )
    bar: str = Field(
        "",
        pattern=r"^(\w+(>=|<=)-?[0-9.]+(e-?[0-9]+)?)?$",
        description="What the version must have measured, as accuracy>=0.9 or rmse<=2; empty for anything.",
    )
    timeout_s: int = Field(600, ge=1, le=86_400, description="Seconds until the server must be ready.")
    soak_s: int = Field(
        300, ge=0, le=86_400, description="Seconds that a canary must stay ready before auto promotes it."
    )
