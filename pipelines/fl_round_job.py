"""One round of federated learning in which Kubernetes Jobs train the clients.

    distribute_model ─► train_in_jobs ─► aggregate_updates ─► evaluate_model ─► version_model
                              │
                              └─► Jobs: an index, or a Job, for each batch of the plan

A loop of `fl_round` ends when all its pods have ended, and one that Kubernetes loses fails it. Here a launcher watches:
pods that run out of memory, are evicted, vanish with their node or never start cost a round their clients, not itself.
"""

from typing import Any

from kfp import dsl, kubernetes

from components import train_in_jobs
from fededge.cluster.environment import POD
from fededge.settings import Placement
from pipelines.fl_round import fl_round
from pipelines.round_parts import close_round, open_round
from pipelines.shared_inputs import with_inputs_of
from pipelines.task_settings import CLIENT_HOURS, ROUND_HOURS, prepare, within

MAX_BATCHES = 500  # their reports are an input of a task, and Argo has 128 KiB for it and all the rest of the task


@dsl.pipeline(
    name="fl-round-job",
    description="One round of federated learning: Kubernetes Jobs train the clients.",
    pipeline_config=within(ROUND_HOURS),
)
@with_inputs_of(fl_round, max_batches=MAX_BATCHES)
def fl_round_job(
    inputs: dict[str, Any],
    parallelism: int = 100,
    retries: int = 1,
    start_s: int = 600,
    keep_jobs_s: int = 3600,
    client_service_account: str = "fededge-client",
) -> str:
    """One round of federated learning: Kubernetes Jobs train the clients.

    Args:
        parallelism: How many pods of each Job, and how many Jobs of devices, train clients at once.
        retries: How often a batch of clients is tried again when its pod crashes or runs out of memory.
        start_s: Seconds after which a Job is given up of which Kubernetes can start no pod.
        keep_jobs_s: Seconds that finished Jobs are kept, with the logs of their pods.
        client_service_account: Service account of the pods that train clients; it needs no rights.
    """
    distributed = open_round(**inputs)
    attempt = distributed.outputs["attempt"]
    trained = train_in_jobs(
        store=inputs["store"],
        attempt=attempt,
        **{name: inputs[name] for name in Placement.model_fields},
        parallelism=parallelism,
        retries=retries,
        start_s=start_s,
        keep_jobs_s=keep_jobs_s,
        client_service_account=client_service_account,
    )
    prepare(trained, "train in jobs", hours=CLIENT_HOURS)
    kubernetes.use_field_path_as_env(trained, POD, "metadata.name")
    # A launcher that is started again finds its Jobs. Argo counts the longest time from the start of the first.
    longest = f"{CLIENT_HOURS * 3600}s"
    trained.set_retry(2, backoff_duration="10s", backoff_factor=2, backoff_max_duration=longest)
    return close_round(inputs["store"], attempt, trained.output)
