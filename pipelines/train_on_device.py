"""One batch of clients on one device.

A pipeline of its own, because only a pipeline's own inputs can place a task at run time. A local PersistentVolume
carries its node's affinity, so mounting a device's claim puts the pod on that device, and its data never moves.
"""

from kfp import dsl

from components import train_clients
from pipelines.task_settings import CLIENT_HOURS, SHARED_CLAIM, place, prepare


@dsl.pipeline(name="train-on-device", description="Trains one batch of clients on the device that holds their data.")
def train_on_device(
    store: str = "",
    batch: str = "",
    data_claim: str = SHARED_CLAIM,
    cpu_request: str = "500m",
    cpu_limit: str = "2",
    memory_request: str = "1Gi",
    memory_limit: str = "4Gi",
) -> dict:
    """Train one batch of clients on the device that holds their data.

    Args:
        store: Where models and updates are kept.
        batch: The batch, as the plan names it.
        data_claim: The PersistentVolumeClaim with the clients' data.
        cpu_request: CPUs to reserve.
        cpu_limit: CPUs to use at most.
        memory_request: Memory to reserve.
        memory_limit: Memory to use at most.

    Returns:
        How many clients delivered and failed.
    """
    task = prepare(train_clients(store=store, batch=batch), "train clients", hours=CLIENT_HOURS)
    place(task, data_claim, cpu_request, cpu_limit, memory_request, memory_limit)
    return task.output
