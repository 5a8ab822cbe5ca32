from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def train_in_jobs(
    store: str,
    attempt: str,
    data_claim: str,
    cpu_request: str,
    cpu_limit: str,
    memory_request: str,
    memory_limit: str,
    parallelism: int,
    retries: int,
    start_s: int,
    keep_jobs_s: int,
    client_service_account: str,
) -> list:
    """Train the clients in Kubernetes Jobs, which run this task's own image."""
    from fededge.steps.train_in_jobs import train_in_jobs as step

    return step(
        store=store,
        attempt=attempt,
        placement={
            "data_claim": data_claim,
            "cpu_request": cpu_request,
            "cpu_limit": cpu_limit,
            "memory_request": memory_request,
            "memory_limit": memory_limit,
        },
        fan_out={
            "parallelism": parallelism,
            "retries": retries,
            "start_s": start_s,
            "keep_jobs_s": keep_jobs_s,
            "client_service_account": client_service_account,
        },
    )
