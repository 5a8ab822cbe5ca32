"""Brings a version to the requests of a service on the cluster, step by step: a canary, then all, or back.

deploy_model ─► SeldonDeployment or InferenceService: v6 90 %, v7 10 %
"""

from kfp import dsl

from components import deploy_model
from components.images import SERVING, SERVING_TENSORFLOW
from pipelines.task_settings import CLIENT_HOURS, prepare, within

HOURS = 2 * 24 + CLIENT_HOURS  # until the server is ready, and for its canary


@dsl.pipeline(
    name="fl-deploy",
    description="Puts a version behind a server: as a canary, then for all requests.",
    pipeline_config=within(HOURS + 1),
)
def fl_deploy(
    store: str = "",
    training: str = "digits",
    version: str = "current",
    platform: str = "kserve",
    action: str = "auto",
    name: str = "",
    serving_image: str = SERVING,
    serving_tensorflow_image: str = SERVING_TENSORFLOW,
    replicas: int = 1,
    traffic: int = 10,
    bar: str = "",
    timeout_s: int = 600,
    soak_s: int = 300,
    cpu_request: str = "500m",
    cpu_limit: str = "2",
    memory_request: str = "1Gi",
    memory_limit: str = "4Gi",
) -> str:
    """Puts a version behind a server: as a canary, then for all requests.

    Args:
        store: Where the training is: s3://bucket/prefix. Empty takes the cluster's own, from the ConfigMap fededge.
        training: Name of the training whose version is served.
        version: Version of it, by its name, or current.
        platform: What serves it: kserve or seldon.
        action: auto puts a canary up and promotes it when it has stayed ready; canary, promote and rollback do one step.
        name: Name of the service, and of the model in its URLs; empty for the training's.
        serving_image: Image of the server for models of PyTorch and scikit-learn, with its registry.
        serving_tensorflow_image: Image of the server for models of Keras, with its registry.
        replicas: How many pods serve each version.
        traffic: Percent of the requests for the canary; 100 skips it, once the server is ready.
        bar: What the version must have measured, as accuracy>=0.9 or rmse<=2; empty for anything.
        timeout_s: Seconds until the server must be ready.
        soak_s: Seconds that a canary must stay ready before auto promotes it.
        cpu_request: CPUs to reserve for each pod that serves.
        cpu_limit: CPUs it may use at most.
        memory_request: Memory to reserve for it.
        memory_limit: Memory it may use at most.

    Returns:
        What was done: promoted, canary, rolled back or unchanged.
    """
    deployed = deploy_model(
        store=store,
        training=training,
        version=version,
        platform=platform,
        action=action,
        name=name,
        serving_image=serving_image,
        serving_tensorflow_image=serving_tensorflow_image,
        replicas=replicas,
        traffic=traffic,
        bar=bar,
        timeout_s=timeout_s,
        soak_s=soak_s,
        cpu_request=cpu_request,
        cpu_limit=cpu_limit,
        memory_request=memory_request,
        memory_limit=memory_limit,
    )
    return prepare(deployed, "deploy model", hours=HOURS).output
