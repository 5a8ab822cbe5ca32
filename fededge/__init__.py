"""Federated learning on Kubernetes, as Kubeflow pipelines."""

__version__ = "0.1.0"
