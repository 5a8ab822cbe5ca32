"""Rounds in a row. `fededge.kubeflow.rounds` chains them, here and for `fededge pipelines export --rounds`."""

ROUNDS = 5  # as shipped
