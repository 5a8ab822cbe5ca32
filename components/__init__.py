"""The steps, declared to Kubeflow. The programs are in `fededge.steps`, by the same names."""

from components.aggregate_updates import aggregate_updates
from components.compare_arms import compare_arms
from components.deploy_model import deploy_model
from components.distribute_model import distribute_model
from components.evaluate_model import evaluate_model
from components.plan_comparison import plan_comparison
from components.train_arm import train_arm
from components.train_clients import train_clients
from components.train_in_jobs import train_in_jobs
from components.version_model import version_model

__all__ = [
    "aggregate_updates",
    "compare_arms",
    "deploy_model",
    "distribute_model",
    "evaluate_model",
    "plan_comparison",
    "train_arm",
    "train_clients",
    "train_in_jobs",
    "version_model",
]
