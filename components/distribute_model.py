from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def distribute_model(
    store: str,
    training: str,
    base_version: str,
    initial_model: str,
    max_batches: int,
    workload: str,
    seed: int,
    clients: int,
    clients_per_round: int,
    clients_per_pod: int,
    min_clients: int,
    local_epochs: int,
    batch_size: int,
    client_learning_rate: float,
    client_momentum: float,
    server_optimizer: str,
    server_learning_rate: float,
    server_momentum: float,
    data_claim: str,
    cpu_request: str,
    cpu_limit: str,
    memory_request: str,
    memory_limit: str,
    attempt: dsl.OutputPath(str),
) -> list:
    """Open a round: pick the cohort, and plan who trains where."""
    from pathlib import Path

    from fededge.steps.distribute_model import distribute_model as step

    done = step(
        store=store,
        training=training,
        base_version=base_version,
        initial_model=initial_model,
        max_batches=max_batches,
        settings={
            "workload": workload,
            "seed": seed,
            "clients": clients,
            "clients_per_round": clients_per_round,
            "clients_per_pod": clients_per_pod,
            "min_clients": min_clients,
            "local_epochs": local_epochs,
            "batch_size": batch_size,
            "client_learning_rate": client_learning_rate,
            "client_momentum": client_momentum,
            "server_optimizer": server_optimizer,
            "server_learning_rate": server_learning_rate,
            "server_momentum": server_momentum,
        },
        placement={
            "data_claim": data_claim,
            "cpu_request": cpu_request,
            "cpu_limit": cpu_limit,
            "memory_request": memory_request,
            "memory_limit": memory_limit,
        },
    )
    Path(attempt).write_text(done.attempt)
    return done.plan
