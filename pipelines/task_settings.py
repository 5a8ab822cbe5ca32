"""What every task gets: who it runs as, how long it may take, where its store is."""

from kfp import dsl, kubernetes

UID = 1000  # of the user that the images make
SHARED_CLAIM = "fededge-data"  # for what is on no device of its own: the test data, and trying things out
_DATA_PATH = "/data"
_STORE_SETTINGS = (
    "FEDEDGE_STORE",
    "AWS_ENDPOINT_URL",
    "AWS_REGION",
    "AWS_CA_BUNDLE",
)
_STORE_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def prepare(task: dsl.PipelineTask, name: str, hours: int = 1) -> dsl.PipelineTask:
    """Give a task what every task needs.

    Args:
      task: of one of our components.
      name: what the Kubeflow UI calls it.
      hours: after which Kubernetes ends it; a backstop beyond any deadline of a step's own.
    """
    task.set_display_name(name)
    task.set_caching_options(False)  # a second tick of a recurring run would do nothing
    kubernetes.set_security_context(task, run_as_user=UID, run_as_non_root=True)
    kubernetes.set_timeout(task, hours * 3600)
    kubernetes.use_config_map_as_env(task, "fededge", {key: key for key in _STORE_SETTINGS}, optional=True)
    kubernetes.use_secret_as_env(task, "fededge", {key: key for key in _STORE_SECRETS}, optional=True)
    kubernetes.use_secret_as_volume(task, "fededge-ca", mount_path="/etc/fededge/ca", optional=True)
    return task


def mount_data(task: dsl.PipelineTask, claim: str) -> None:
    """Put a claim where workloads look for data."""
    kubernetes.mount_pvc(task, pvc_name=claim, mount_path=_DATA_PATH)
    task.set_env_variable("FEDEDGE_DATA", _DATA_PATH)
