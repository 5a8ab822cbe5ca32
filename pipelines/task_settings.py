"""What every task gets: who it runs as, how long it may take, where its store is."""

from kfp import dsl, kubernetes

from fededge.cluster.environment import (
    AUTHORITIES,
    AUTHORITIES_PATH,
    COMPONENT,
    CONFIG,
    DATA_PATH,
    DATA_VARIABLES,
    EDGE,
    PART_OF,
    RUN,
    SECRET,
    SECRETS,
    SETTINGS,
    UID,
    in_tasks,
)

SHARED_CLAIM = "fededge-data"  # for what is on no device of its own: the test data, and trying things out
RUN_ID = "metadata.labels['pipeline/runid']"  # Kubeflow's own label, on each of a run's pods
CLIENT_HOURS = 25  # for a batch of clients: beyond any deadline
ROUND_HOURS = CLIENT_HOURS + 4  # and for each of its other steps


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
    # Without a request a node that is short of memory evicts it first. No limit: models differ, and these are few.
    task.set_cpu_request("100m").set_memory_request("512Mi")
    kubernetes.add_pod_label(task, PART_OF, "fededge")  # what network policies select by
    kubernetes.add_pod_label(task, COMPONENT, name.replace(" ", "-"))
    kubernetes.use_field_path_as_env(task, RUN, RUN_ID)
    kubernetes.use_config_map_as_env(task, CONFIG, in_tasks(SETTINGS), optional=True)
    kubernetes.use_secret_as_env(task, SECRET, in_tasks(SECRETS), optional=True)
    kubernetes.use_secret_as_volume(task, AUTHORITIES, mount_path=AUTHORITIES_PATH, optional=True)
    return task


def within(hours: int) -> dsl.PipelineConfig:
    """End a run after some hours: a task's own begin when its pod gets a node, and there may be none for it."""
    return dsl.PipelineConfig(active_deadline_seconds=hours * 3600)


def place(
    task: dsl.PipelineTask,
    data_claim: str,
    cpu_request: str,
    cpu_limit: str,
    memory_request: str,
    memory_limit: str,
) -> None:
    """Put a task where its data are: the arguments are inputs of the pipeline that it is in, or nothing is placed."""
    mount_data(task, data_claim)
    task.set_cpu_request(cpu_request).set_cpu_limit(cpu_limit)
    task.set_memory_request(memory_request).set_memory_limit(memory_limit)
    kubernetes.add_toleration(task, key=EDGE, operator="Exists", effect="NoSchedule")
    kubernetes.add_node_affinity(task, match_expressions=[{"key": EDGE, "operator": "Exists"}], weight=100)


def mount_data(task: dsl.PipelineTask, claim: str) -> None:
    """Put a claim where workloads look for data, and clients keep what stays with them."""
    kubernetes.mount_pvc(task, pvc_name=claim, mount_path=DATA_PATH)
    for variable, path in DATA_VARIABLES.items():
        task.set_env_variable(variable, path)
