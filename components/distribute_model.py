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
    over_selection: float,
    clients_per_pod: int,
    min_clients: int,
    target_clients: int,
    close_at_target: bool,
    deadline_s: int,
    finish_s: int,
    max_attempts: int,
    max_client_share: float,
    max_update_norm: float,
    clip_norm: float,
    aggregation: str,
    attackers: int,
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
    run: str,
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
            "over_selection": over_selection,
            "clients_per_pod": clients_per_pod,
            "min_clients": min_clients,
            "target_clients": target_clients,
            "close_at_target": close_at_target,
            "deadline_s": deadline_s,
            "finish_s": finish_s,
            "max_attempts": max_attempts,
            "max_client_share": max_client_share,
            "max_update_norm": max_update_norm,
            "clip_norm": clip_norm,
            "aggregation": aggregation,
            "attackers": attackers,
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
        run=run,
    )
    Path(attempt).write_text(done.attempt)
    return done.plan
