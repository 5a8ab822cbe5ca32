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
    clients_per_pod: int = 5,
    min_clients: int = 1,
    local_epochs: int = 5,
    batch_size: int = 10,
    client_learning_rate: float = 0.1,
    client_momentum: float = 0.9,
    server_optimizer: str = "sgd",
    server_learning_rate: float = 1.0,
    server_momentum: float = 0.0,
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
        clients_per_pod: How many clients one pod trains, one after the other.
        min_clients: The round fails when fewer clients deliver.
        local_epochs: How often a client goes through its data.
        batch_size: Examples in a client's minibatch.
        client_learning_rate: Learning rate of the clients' SGD.
        client_momentum: Momentum of the clients' SGD, at least 0 and below 1.
        server_optimizer: What makes the new model of the mean update: sgd, adam, yogi or adagrad.
        server_learning_rate: Learning rate of the server's optimizer. 1 with sgd is plain federated averaging.
        server_momentum: Momentum of the server's sgd, at least 0 and below 1.
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
            clients_per_pod=clients_per_pod,
            min_clients=min_clients,
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
    evaluated = prepare(evaluate_model(store=store, attempt=attempt, model=aggregated.output), "evaluate model")
    mount_data(evaluated, SHARED_CLAIM)
    versioned = version_model(store=store, attempt=attempt, model=aggregated.output).after(evaluated)
    return prepare(versioned, "version model").outputs["Output"]
