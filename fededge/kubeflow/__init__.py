"""The only part that imports kfp at run time: composing, exporting and running pipelines."""

EXPERIMENT = "fededge"  # that runs belong to if nobody says another
SERVICE_ACCOUNT = "fededge-runner"  # of their pods; in manifests/base
