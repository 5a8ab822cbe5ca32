"""One batch of a comparison where its data are: a pipeline of its own, as `train_on_device` is and why."""

from kfp import dsl

from components import train_arm
from pipelines.task_settings import CLIENT_HOURS, SHARED_CLAIM, place, prepare


@dsl.pipeline(name="train-arm-on-device", description="Trains and measures one batch of a comparison.")
def train_arm_on_device(
    store: str = "",
    batch: str = "",
    data_claim: str = SHARED_CLAIM,
    cpu_request: str = "500m",
    cpu_limit: str = "2",
    memory_request: str = "1Gi",
    memory_limit: str = "4Gi",
) -> dict:
    """Train and measure one batch of a comparison.

    Args:
        store: Where models and scores are kept.
        batch: The batch, as the plan names it.
        data_claim: The PersistentVolumeClaim with the data.
        cpu_request: CPUs to reserve.
        cpu_limit: CPUs to use at most.
        memory_request: Memory to reserve.
        memory_limit: Memory to use at most.

    Returns:
        How many clients have a score, and how many have none.
    """
    task = prepare(train_arm(store=store, batch=batch), "train arm", hours=CLIENT_HOURS)
    place(task, data_claim, cpu_request, cpu_limit, memory_request, memory_limit)
    return task.output
