"""The server's optimizers, by hand; bit equality with TFF is in test_keras."""

from __future__ import annotations

import numpy as np
import pytest

from fededge.core.tensors import Tensors
from fededge.errors import CorruptError
from fededge.learners.server import apply_update
from fededge.settings import Server, ServerOptimizer


def tensors(*values: float) -> Tensors:
    return {"0000/w": np.array(values, np.float32)}


def test_sgd_with_rate_one_adds_the_mean() -> None:
    weights, _ = apply_update(Server(), tensors(1, 2), tensors(0.5, -1), {})
    np.testing.assert_array_equal(weights["0000/w"], np.array([1.5, 1], np.float32))


def test_momentum_is_carried_in_the_state() -> None:
    """v₁ = 1, w₁ = 1; v₂ = 0.5·1 + 1 = 1.5, w₂ = 2.5."""
    how = Server(server_momentum=0.5)
    weights, state = apply_update(how, tensors(0), tensors(1), {})
    weights, state = apply_update(how, weights, tensors(1), state)
    np.testing.assert_array_equal(weights["0000/w"], np.array([2.5], np.float32))


def test_adam_first_step_is_the_rate() -> None:
    """In the first step Adam's m̂/√v̂ is the sign of the gradient."""
    how = Server(server_optimizer=ServerOptimizer.ADAM, server_learning_rate=0.25)
    weights, _ = apply_update(how, tensors(0, 0), tensors(3, -0.01), {})
    np.testing.assert_allclose(weights["0000/w"], [0.25, -0.25], rtol=1e-3)


def test_adam_counts_steps_in_the_state() -> None:
    how = Server(server_optimizer=ServerOptimizer.ADAM, server_learning_rate=0.25)
    weights, state = apply_update(how, tensors(0), tensors(1), {})
    carried, _ = apply_update(how, weights, tensors(-1), state)
    afresh, _ = apply_update(how, weights, tensors(-1), {})
    assert carried["0000/w"] != afresh["0000/w"]


@pytest.mark.parametrize("optimizer", list(ServerOptimizer))
def test_learning_rate_may_change_between_rounds(optimizer: ServerOptimizer) -> None:
    _, state = apply_update(Server(server_optimizer=optimizer, server_learning_rate=0.5), tensors(0), tensors(1), {})
    moved = [
        apply_update(Server(server_optimizer=optimizer, server_learning_rate=rate), tensors(0), tensors(1), state)[0]
        for rate in (0.25, 0.5)
    ]
    assert moved[1]["0000/w"] == pytest.approx(2 * moved[0]["0000/w"], rel=1e-5)


def test_state_of_another_model_is_refused() -> None:
    how = Server(server_momentum=0.9)
    _, state = apply_update(how, tensors(0, 0), tensors(1, 1), {})
    with pytest.raises(CorruptError, match="another optimizer or model"):
        apply_update(how, tensors(0), tensors(1), state)
