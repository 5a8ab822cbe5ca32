"""One round of federated learning.

    distribute_model ─► ParallelFor(plan) { train_on_device } ─► aggregate_updates ─► evaluate_model ─► version_model

Weights and updates go through the store. Between the tasks pass the attempt's name, the new model's digest and the
version: strings.
"""

from kfp import dsl

from pipelines.round_parts import close_round, open_round
from pipelines.task_settings import ROUND_HOURS, SHARED_CLAIM, within
from pipelines.train_on_device import train_on_device


@dsl.pipeline(
    name="fl-round",
    description="One round of federated learning: data stay on the devices.",
    pipeline_config=within(ROUND_HOURS),
)
def fl_round(
    store: str = "",
    training: str = "digits",
    base_version: str = "current",
    workload: str = "digits",
    initial_model: str = "",
    clients: int = 0,
    clients_per_round: int = 0,
    over_selection: float = 1.0,
    clients_per_pod: int = 5,
    min_clients: int = 1,
    target_clients: int = 0,
    close_at_target: bool = False,
    deadline_s: int = 3600,
    finish_s: int = 1800,
    max_attempts: int = 3,
    local_epochs: int = 5,
    local_steps: int = 0,
    batch_size: int = 10,
    client_learning_rate: float = 0.1,
    learning_rate_decay: float = 1.0,
    client_momentum: float = 0.9,
    client_algorithm: str = "fedavg",
    proximal_mu: float = 0.0,
    server_optimizer: str = "sgd",
    server_learning_rate: float = 1.0,
    server_momentum: float = 0.0,
    aggregation: str = "mean",
    attackers: int = 0,
    max_client_share: float = 0.2,
    max_update_norm: float = 0.0,
    clip_norm: float = 0.0,
    seed: int = 0,
    devices: str = "",
    data_claim: str = SHARED_CLAIM,
    cpu_request: str = "500m",
    cpu_limit: str = "2",
    memory_request: str = "1Gi",
    memory_limit: str = "4Gi",
    interval_s: int = 0,
    max_batches: int = 100,
) -> str:
    """One round of federated learning: data stay on the devices.

    Args:
        store: Where models and updates are kept: s3://bucket/prefix. Empty takes the cluster's own, from the ConfigMap fededge.
        training: Name of the training to begin or go on with: lower-case letters, digits and hyphens.
        base_version: Version to start from, which must be the current one: current, or its name.
        workload: What to train: one of ours, as digits, or the import path of your own, package.module:attribute.
        initial_model: Digest of a model in the store to begin a new training with. Empty takes the workload's own.
        clients: How many clients there are. 0 is all that the workload has.
        clients_per_round: How many of them take part in the round, drawn at random. 0 takes all.
        over_selection: So many times as many are drawn, as some will not deliver.
        clients_per_pod: How many clients one pod trains, one after the other.
        min_clients: The round fails when fewer clients deliver.
        target_clients: How many updates are wanted. 0 is clients_per_round, before over_selection.
        close_at_target: Begin no more clients once the target is reached. Faster, and slow clients count less.
        deadline_s: Seconds that a round waits for its clients, from its opening.
        finish_s: Seconds for aggregating, evaluating and versioning; then others may take over.
        max_attempts: How often a round is tried, each time with other clients, before somebody must look.
        local_epochs: How often a client goes through its data.
        local_steps: How many minibatches a client trains on, in place of local_epochs. 0 goes by epochs.
        batch_size: Examples in a client's minibatch.
        client_learning_rate: Learning rate of the clients' SGD.
        learning_rate_decay: The clients' learning rate is multiplied by this in each round after the first.
        client_momentum: Momentum of the clients' SGD, at least 0 and below 1.
        client_algorithm: What keeps clients from drifting apart: fedavg (nothing), fedprox or scaffold.
        proximal_mu: How strongly fedprox pulls clients to the global model.
        server_optimizer: What makes the new model of the mean update: sgd, adam, yogi or adagrad.
        server_learning_rate: Learning rate of the server's optimizer. 1 with sgd is plain federated averaging.
        server_momentum: Momentum of the server's sgd, at least 0 and below 1.
        aggregation: How updates become one: mean (weighted by examples), median, trimmed_mean, krum or multi_krum.
        attackers: How many lying clients trimmed_mean, krum and multi_krum have to bear.
        max_client_share: The most that one client may weigh in a round, or 2/clients if that is more. 1 is no limit.
        max_update_norm: Updates with a larger L2 norm are refused. 0 refuses none.
        clip_norm: Updates with a larger L2 norm are scaled down to it. 0 clips none.
        seed: Decides every random number. The same seed gives the same model.
        devices: Where clients live: nodes (of this cluster, by their labels), configmap:NAME, or the path of a file. Empty is no device.
        data_claim: PersistentVolumeClaim with the clients' data.
        cpu_request: CPUs to reserve for each pod that trains clients.
        cpu_limit: CPUs it may use at most.
        memory_request: Memory to reserve for it.
        memory_limit: Memory it may use at most.
        interval_s: Seconds between the rounds of a schedule, for the alert when no version comes. 0 is no schedule.
        max_batches: The round is refused when it needs more pods that train clients. 0 is no limit.

    Returns:
        The new version.
    """
    distributed = open_round(**locals())
    with dsl.ParallelFor(items=distributed.outputs["Output"], name="clients") as batch:
        trained = train_on_device(
            store=store,
            batch=batch.batch,
            data_claim=batch.data_claim,
            cpu_request=batch.cpu_request,
            cpu_limit=batch.cpu_limit,
            memory_request=batch.memory_request,
            memory_limit=batch.memory_limit,
        )
        trained.set_display_name("train on device").set_caching_options(False)
    return close_round(store, distributed.outputs["attempt"], dsl.Collected(trained.output))
