from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def plan_comparison(
    store: str,
    training: str,
    version: str,
    max_batches: int,
    clients_per_pod: int,
    arm_clients: int,
    deadline_s: int,
    data_claim: str,
    cpu_request: str,
    cpu_limit: str,
    memory_request: str,
    memory_limit: str,
    compared: dsl.OutputPath(str),
) -> list:
    """Decide what is compared, and return the plan: which pod trains and measures what."""
    from pathlib import Path

    from fededge.steps.plan_comparison import plan_comparison as step

    done = step(
        store=store,
        training=training,
        version=version,
        max_batches=int(max_batches),
        settings={"clients_per_pod": clients_per_pod, "arm_clients": arm_clients, "deadline_s": deadline_s},
        placement={
            "data_claim": data_claim,
            "cpu_request": cpu_request,
            "cpu_limit": cpu_limit,
            "memory_request": memory_request,
            "memory_limit": memory_limit,
        },
    )
    Path(compared).write_text(done.comparison)
    return done.plan
