"""What becomes of BatchNorm's statistics: the mean and variance of a layer's inputs, which no gradient trains."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from fededge.errors import WorkloadError


class BatchNorm(StrEnum):
    """How a learner treats a model with BatchNorm layers.

    REFUSED: not at all. GroupNorm and LayerNorm keep no statistics and mostly do as well: take one of them if you can.
    FEDERATED: clients measure the statistics with the weights they trained, and the server pools them exactly. For a
      model that must have BatchNorm, such as a pretrained one, and clients whose inputs are alike.
    LOCAL: statistics never leave the client; whoever predicts measures them on the very inputs to predict. For clients
      whose inputs are shifted or scaled, such as sensors of several makes. Predict many inputs of one client at
      once: a single one, or those of several clients together, have statistics that fit nobody.

    Source: LOCAL: Li et al. 2018, "Adaptive Batch Normalization for practical domain adaptation" (arXiv:1603.04779);
    Andreux et al. 2020, "Siloed Federated Learning for Multi-Centric Histopathology Datasets" (arXiv:2008.07424).
    """

    REFUSED = "refused"
    FEDERATED = "federated"
    LOCAL = "local"


def refused(names: Sequence[str]) -> WorkloadError:
    """Make the error of a model that has such layers although nobody opted in.

    Args:
      names: of the layers or their statistics.
    """
    more = ", …" if len(names) > 3 else ""
    return WorkloadError(
        f"the model keeps statistics outside training ({', '.join(names[:3])}{more}), and averaging weights alone "
        "ruins them: use GroupNorm or LayerNorm (in Keras GroupNormalization or LayerNormalization) in place of "
        "BatchNorm, or opt in with batch_norm=BatchNorm.FEDERATED or BatchNorm.LOCAL"
    )
