"""One round of federated learning.

    distribute_model ─► ParallelFor(plan) { train_on_device } ─► aggregate_updates ─► evaluate_model ─► version_model

Weights and updates go through the store. Between the tasks pass the attempt's name, the new model's digest and the
version: strings.
"""

from kfp import dsl

from components import aggregate_updates, distribute_model, evaluate_model, version_model
from pipelines.task_settings import SHARED_CLAIM, mount_data, prepare
from pipelines.train_on_device import train_on_device


@dsl.pipeline(name="fl-round", description="One round of federated learning: data stay on the devices.")
def fl_round(
    store: str = "",
    training: str = "digits",
    base_version: str = "current",
    workload: str = "digits",
    initial_model: str = "",
    clients: int = 10,
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
    batch_size: int = 10,
    client_learning_rate: float = 0.1,
    client_momentum: float = 0.9,
    server_optimizer: str = "sgd",
    server_learning_rate: float = 1.0,
    server_momentum: float = 0.0,
    aggregation: str = "mean",
    attackers: int = 0,
    max_client_share: float = 0.2,
    max_update_norm: float = 0.0,
    clip_norm: float = 0.0,
    seed: int = 0,
    data_claim: str = SHARED_CLAIM,
    cpu_request: str = "500m",
    cpu_limit: str = "2",
    memory_request: str = "1Gi",
    memory_limit: str = "4Gi",
    max_batches: int = 100,
) -> str:
    """One round of federated learning: data stay on the devices.

    Args:
        store: Where models and updates are kept: s3://bucket/prefix. Empty takes the cluster's own, from the ConfigMap fededge.
        training: Name of the training to begin or go on with: lower-case letters, digits and hyphens.
        base_version: Version to start from, which must be the current one: current, or its name.
        workload: What to train: digits, mnist, or the import path of your own, package.module:attribute.
        initial_model: Digest of a model in the store to begin a new training with. Empty takes the workload's own.
        clients: How many clients there are.
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
        batch_size: Examples in a client's minibatch.
        client_learning_rate: Learning rate of the clients' SGD.
        client_momentum: Momentum of the clients' SGD, at least 0 and below 1.
        server_optimizer: What makes the new model of the mean update: sgd, adam, yogi or adagrad.
        server_learning_rate: Learning rate of the server's optimizer. 1 with sgd is plain federated averaging.
        server_momentum: Momentum of the server's sgd, at least 0 and below 1.
        aggregation: How updates become one: mean (weighted by examples), median, trimmed_mean, krum or multi_krum.
        attackers: How many lying clients trimmed_mean, krum and multi_krum have to bear.
        max_client_share: The most that one client may weigh in a round, or 2/clients if that is more. 1 is no limit.
        max_update_norm: Updates with a larger L2 norm are refused. 0 refuses none.
        clip_norm: Updates with a larger L2 norm are scaled down to it. 0 clips none.
        seed: Decides every random number. The same seed gives the same model.
        data_claim: PersistentVolumeClaim with the clients' data.
        cpu_request: CPUs to reserve for each pod that trains clients.
        cpu_limit: CPUs it may use at most.
        memory_request: Memory to reserve for it.
        memory_limit: Memory it may use at most.
        max_batches: The round is refused when it needs more pods that train clients. 0 is no limit.

    Returns:
        The new version.
    """
    distributed = prepare(
        distribute_model(
            store=store,
            training=training,
            base_version=base_version,
            initial_model=initial_model,
            max_batches=max_batches,
            workload=workload,
            seed=seed,
            clients=clients,
            clients_per_round=clients_per_round,
            over_selection=over_selection,
            clients_per_pod=clients_per_pod,
            min_clients=min_clients,
            target_clients=target_clients,
            close_at_target=close_at_target,
            deadline_s=deadline_s,
            finish_s=finish_s,
            max_attempts=max_attempts,
            max_client_share=max_client_share,
            max_update_norm=max_update_norm,
            clip_norm=clip_norm,
            aggregation=aggregation,
            attackers=attackers,
            local_epochs=local_epochs,
            batch_size=batch_size,
            client_learning_rate=client_learning_rate,
            client_momentum=client_momentum,
            server_optimizer=server_optimizer,
            server_learning_rate=server_learning_rate,
            server_momentum=server_momentum,
            data_claim=data_claim,
            cpu_request=cpu_request,
            cpu_limit=cpu_limit,
            memory_request=memory_request,
            memory_limit=memory_limit,
            run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        ),
        "distribute model",
    )
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
    attempt = distributed.outputs["attempt"]
    aggregated = prepare(
        aggregate_updates(store=store, attempt=attempt, reports=dsl.Collected(trained.output)), "aggregate updates"
    )
    model = aggregated.outputs["Output"]
    evaluated = prepare(evaluate_model(store=store, attempt=attempt, model=model), "evaluate model")
    mount_data(evaluated, SHARED_CLAIM)
    versioned = version_model(store=store, attempt=attempt, model=model).after(evaluated)
    return prepare(versioned, "version model").outputs["Output"]
