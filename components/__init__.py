"""The steps of a round, declared to Kubeflow. The programs are in `fededge.steps`, by the same names."""

from components.aggregate_updates import aggregate_updates
from components.distribute_model import distribute_model
from components.evaluate_model import evaluate_model
from components.train_clients import train_clients
from components.version_model import version_model

__all__ = ["aggregate_updates", "distribute_model", "evaluate_model", "train_clients", "version_model"]
