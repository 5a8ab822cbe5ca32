from kfp import dsl

from components.images import CLIENT


@dsl.component(base_image=CLIENT, install_kfp_package=False)
def deploy_model(
    store: str,
    training: str,
    version: str,
    platform: str,
    action: str,
    name: str,
    serving_image: str,
    serving_tensorflow_image: str,
    replicas: int,
    traffic: int,
    bar: str,
    timeout_s: int,
    soak_s: int,
    cpu_request: str,
    cpu_limit: str,
    memory_request: str,
    memory_limit: str,
) -> str:
    """Bring a version to the requests of a service, and return what was done."""
    from fededge.steps.deploy_model import deploy_model as step

    return step(
        store=store,
        training=training,
        version=version,
        deployment={
            "platform": platform,
            "action": action,
            "name": name,
            "serving_image": serving_image,
            "serving_tensorflow_image": serving_tensorflow_image,
            "replicas": replicas,
            "traffic": traffic,
            "bar": bar,
            "timeout_s": timeout_s,
            "soak_s": soak_s,
        },
        placement={
            "cpu_request": cpu_request,
            "cpu_limit": cpu_limit,
            "memory_request": memory_request,
            "memory_limit": memory_limit,
        },
    )
