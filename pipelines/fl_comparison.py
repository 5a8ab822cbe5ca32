"""A federated model beside those that other ways of training make of the same data, with as much training.

    plan_comparison ─► ParallelFor(plan) { train_arm_on_device } ─► compare_arms

Of the data, only scores go through the store. The centralized arm needs the data of all clients on the shared claim;
the other arms move none.
"""

from kfp import dsl

from components import compare_arms, plan_comparison
from pipelines.task_settings import SHARED_CLAIM, mount_data, prepare, within
from pipelines.train_arm_on_device import train_arm_on_device

COMPARISON_HOURS = 7 * 24  # its pods may have to wait for each other


@dsl.pipeline(
    name="fl-comparison",
    description="A federated model beside centralized, local and fine-tuned ones of the same data.",
    pipeline_config=within(COMPARISON_HOURS),
)
def fl_comparison(
    store: str = "",
    training: str = "digits",
    version: str = "current",
    clients_per_pod: int = 5,
    arm_clients: int = 0,
    deadline_s: int = 3600,
    data_claim: str = SHARED_CLAIM,
    cpu_request: str = "500m",
    cpu_limit: str = "2",
    memory_request: str = "1Gi",
    memory_limit: str = "4Gi",
    max_batches: int = 100,
):
    """A federated model beside centralized, local and fine-tuned ones of the same data.

    Args:
        store: Where the training is: s3://bucket/prefix. Empty takes the cluster's own, from the ConfigMap fededge.
        training: Name of the training whose federated model is compared.
        version: Version of it, by its name, or current.
        clients_per_pod: How many clients one pod trains, one after the other.
        arm_clients: How many clients are trained alone and fine-tuned, drawn at random. 0 takes all.
        deadline_s: Seconds that each pod may take; whoever is not done by then is left out.
        data_claim: PersistentVolumeClaim with the clients' data.
        cpu_request: CPUs to reserve for each pod that trains clients.
        cpu_limit: CPUs it may use at most.
        memory_request: Memory to reserve for it.
        memory_limit: Memory it may use at most.
        max_batches: The comparison is refused when it needs more pods that train. 0 is no limit.
    """
    planned = prepare(
        plan_comparison(
            store=store,
            training=training,
            version=version,
            max_batches=max_batches,
            clients_per_pod=clients_per_pod,
            arm_clients=arm_clients,
            deadline_s=deadline_s,
            data_claim=data_claim,
            cpu_request=cpu_request,
            cpu_limit=cpu_limit,
            memory_request=memory_request,
            memory_limit=memory_limit,
        ),
        "plan comparison",
    )
    mount_data(planned, SHARED_CLAIM)  # to count the examples that the arms are trained on
    with dsl.ParallelFor(items=planned.outputs["Output"], name="arms") as batch:
        trained = train_arm_on_device(
            store=store,
            batch=batch.batch,
            data_claim=batch.data_claim,
            cpu_request=batch.cpu_request,
            cpu_limit=batch.cpu_limit,
            memory_request=batch.memory_request,
            memory_limit=batch.memory_limit,
        )
        trained.set_display_name("train arm on device").set_caching_options(False)
    compared = compare_arms(store=store, compared=planned.outputs["compared"], reports=dsl.Collected(trained.output))
    prepare(compared, "compare arms")
