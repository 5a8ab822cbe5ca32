"""One seed for each random stream.

A seed is a hash of what the stream is for, so that it does not depend on the pod, the batch, the attempt, the
order in which clients finish, or what was drawn before.
"""

from __future__ import annotations

import hashlib
import json
from enum import StrEnum


class Purpose(StrEnum):
    INIT = "init"
    COHORT = "cohort"
    SHUFFLE = "shuffle"
    DROPOUT = "dropout"
    COMPARED = "compared"  # which clients a comparison trains alone
    BOOTSTRAP = "bootstrap"
    CENTRALIZED_SHUFFLE = "centralized-shuffle"
    CENTRALIZED_DROPOUT = "centralized-dropout"
    LOCAL_SHUFFLE = "local-shuffle"
    LOCAL_DROPOUT = "local-dropout"
    FINE_TUNED_SHUFFLE = "fine_tuned-shuffle"
    FINE_TUNED_DROPOUT = "fine_tuned-dropout"


def derive_seed(training_seed: int, purpose: Purpose, round_number: int = 0, client: str = "") -> int:
    """Derive the seed of one random stream.

    Args:
      training_seed: the seed that the user chose for the whole training.
      purpose: what the stream is for.
      round_number: from 1; 0 for what belongs to no round.
      client: the client's id; empty for what belongs to the server.

    Returns:
      An integer in [0, 2**31), a range that numpy, TensorFlow and PyTorch all take.
    """
    # JSON keeps ("a", "b") and ("ab", "") apart, which joined strings would not.
    key = json.dumps([training_seed, purpose.value, round_number, client])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") >> 1
