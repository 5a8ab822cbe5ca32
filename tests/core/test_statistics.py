from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fededge.core.aggregation import NoUpdatesError, Weighted
from fededge.core.statistics import pooled_statistics
from fededge.core.tensors import Tensors

few = settings(derandomize=True, deadline=None, max_examples=30)
NAMES = ("mean", "variance", "present")


def measured(x: np.ndarray, what: str = "input", present: bool = True) -> Weighted:
    """Measure one client's examples, shape [examples, features], as a client does."""
    number = np.maximum((~np.isnan(x)).sum(axis=0), 1)
    mean = np.nansum(x, axis=0) / number
    values = {"mean": mean, "variance": np.nansum(np.square(x - mean), axis=0) / number}
    if present:
        values["present"] = (~np.isnan(x)).mean(axis=0)
    return Weighted({f"statistics/{what}/{k}": v.astype(np.float32) for k, v in values.items()}, len(x))


def pooled(clients: Sequence[np.ndarray], present: bool = True) -> list[np.ndarray]:
    tensors = pooled_statistics(measured(x, present=present) for x in clients)
    return [tensors[f"statistics/input/{name}"] for name in NAMES if f"statistics/input/{name}" in tensors]


def test_a_small_case_by_hand() -> None:
    clients = [np.array([[1.0], [3.0]]), np.array([[5.0], [5.0], [11.0]])]
    mean, variance = pooled(clients, present=False)
    # 1, 3, 5, 5, 11: the mean is 25 / 5, the squares are 16 + 4 + 0 + 0 + 36
    assert mean.tolist() == [5.0]
    assert variance.tolist() == pytest.approx([56 / 5])


@pytest.mark.parametrize("sizes", [(1,), (7,), (1, 1), (40, 3, 200, 1)])
def test_pooling_is_measuring_all_examples_together(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(sizes))
    clients = [rng.normal(rng.normal(), rng.uniform(0.1, 5), (size, 3)) for size in sizes]
    mean, variance, present = pooled(clients)
    together = np.concatenate(clients)
    np.testing.assert_allclose(mean, together.mean(axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(variance, together.var(axis=0), rtol=1e-5, atol=1e-6)
    assert present.tolist() == [1.0, 1.0, 1.0]


def test_a_sensor_that_hardly_moves_keeps_its_deviation() -> None:
    """Sums of squares in float32 make 2,388² = 5,702,544 ± 0.25: nothing is left of a variance of 0.0025."""
    rng = np.random.default_rng(0)
    clients = [(2388 + rng.normal(0.01 * k, 0.05, (500 + k, 1))) for k in range(20)]
    mean, variance, _ = pooled(clients)
    together = np.concatenate(clients)
    assert mean[0] == pytest.approx(together.mean(), abs=2e-4)  # float32's step at 2,388 is 0.00024
    assert np.sqrt(variance[0]) == pytest.approx(together.std(), rel=1e-4)
    naive = np.float32(np.square(together.astype(np.float32)).mean(dtype=np.float32) - mean[0] ** 2)
    assert abs(naive - together.var()) > together.var()


def test_clients_that_differ_only_in_their_means() -> None:
    mean, variance, _ = pooled([np.full((3, 1), -1.0), np.full((1, 1), 7.0)])
    assert mean.tolist() == [1.0]
    assert variance.tolist() == [12.0]  # (3 · 2² + 1 · 6²) / 4


def test_missing_values_do_not_count() -> None:
    nan = np.nan
    clients = [np.array([[1.0, nan], [nan, nan]]), np.array([[2.0, 4.0], [3.0, 8.0], [nan, nan]])]
    mean, variance, present = pooled(clients)
    np.testing.assert_allclose(mean, [2.0, 6.0], rtol=1e-6)
    np.testing.assert_allclose(variance, [2 / 3, 4.0], rtol=1e-6)
    np.testing.assert_allclose(present, [3 / 5, 2 / 5], rtol=1e-6)


def test_a_feature_that_nobody_has_is_zero() -> None:
    mean, variance, present = pooled([np.full((4, 1), np.nan), np.full((2, 1), np.nan)])
    assert [mean.tolist(), variance.tolist(), present.tolist()] == [[0.0], [0.0], [0.0]]


def test_what_a_client_says_of_a_feature_it_has_not_does_not_count() -> None:
    def says(mean: float, present: float) -> Weighted:
        values = {"mean": mean, "variance": 9.0, "present": present}
        return Weighted({f"statistics/input/{k}": np.array([v], np.float32) for k, v in values.items()}, 10)

    for clients in ([says(5.0, 0.0), says(2.0, 1.0)], [says(2.0, 1.0), says(5.0, 0.0)]):
        tensors = pooled_statistics(clients)
        assert tensors["statistics/input/mean"].tolist() == [2.0]
        assert tensors["statistics/input/variance"].tolist() == [9.0]
        assert tensors["statistics/input/present"].tolist() == [0.5]


@pytest.mark.parametrize(("name", "lie", "counts_as"), [("present", 1e6, 1.0), ("present", -3.0, 0.0)])
def test_a_share_is_between_0_and_1_whatever_a_client_says(name: str, lie: float, counts_as: float) -> None:
    def says(share: float) -> Weighted:
        values = {"mean": 4.0, "variance": 0.0, "present": share}
        return Weighted({f"statistics/input/{k}": np.array([v], np.float32) for k, v in values.items()}, 1)

    honest = measured(np.zeros((1, 1)))
    assert pooled_statistics([honest, says(lie)]) == pooled_statistics([honest, says(counts_as)])


def test_a_negative_variance_does_not_make_the_pool_negative() -> None:
    lie = Weighted({f"statistics/x/{k}": np.array([v], np.float32) for k, v in (("mean", 0.0), ("variance", -1e30))}, 5)
    assert pooled_statistics([lie])["statistics/x/variance"].tolist() == [0.0]


def test_variance_beyond_float32_is_infinite_and_no_warning() -> None:
    def says(mean: float) -> Weighted:
        return Weighted(
            {f"statistics/x/{k}": np.array([v], np.float32) for k, v in (("mean", mean), ("variance", 0))}, 1
        )

    assert np.isinf(pooled_statistics([says(1e30), says(-1e30)])["statistics/x/variance"]).all()


def test_several_measurements_keep_their_names_shapes_and_width() -> None:
    def client(value: float) -> Tensors:
        shapes: dict[str, tuple[int, ...]] = {"input": (2,), "bn/1": (3, 2), "scalar": ()}
        names = [(f"statistics/{what}/{k}", shape) for what, shape in shapes.items() for k in ("mean", "variance")]
        return {name: np.full(shape, value, np.float32) for name, shape in names}

    clients = [client(1.0), client(3.0)]
    tensors = pooled_statistics(Weighted({**c, "coefs_/0": np.ones(4, np.float32)}, 2) for c in clients)
    assert {name: value.shape for name, value in tensors.items()} == {n: v.shape for n, v in clients[0].items()}
    assert all(isinstance(value, np.ndarray) and value.dtype == np.float32 for value in tensors.values())
    assert tensors["statistics/bn/1/mean"].tolist() == [[2.0] * 2] * 3
    assert tensors["statistics/scalar/variance"].tolist() == 3.0  # (1 + 3) / 2 within, 1 between


def test_there_is_nothing_to_pool_of_nobody_or_of_training_alone() -> None:
    for nothing in ([], [Weighted({"w": np.ones(2, np.float32)}, 3)]):
        with pytest.raises(NoUpdatesError, match="no statistics"):
            pooled_statistics(nothing)


def test_updates_are_not_changed() -> None:
    first, second = measured(np.array([[1.0], [2.0]])), measured(np.array([[5.0]]))
    copies = [{name: value.copy() for name, value in update.delta.items()} for update in (first, second)]
    pooled_statistics([first, second])
    assert [first.delta, second.delta] == copies


def _clients(seed: int, sizes: list[int], scale: float, offset: float, missing: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    clients = [offset + scale * rng.normal(rng.normal(), 1, (size, 2)) for size in sizes]
    return [np.where(rng.random(x.shape) < missing, np.nan, x) for x in clients]


@few
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 60), min_size=1, max_size=8),
    st.sampled_from([1e-3, 1.0, 1e4]),
    st.sampled_from([0.0, -1.0, 5.0]),
    st.sampled_from([0.0, 0.3]),
    st.randoms(use_true_random=False),
)
def test_pooling_agrees_with_numpy_in_any_order(
    seed: int, sizes: list[int], scale: float, offset: float, missing: float, random: object
) -> None:
    clients = _clients(seed, sizes, scale, offset * scale, missing)
    other = list(clients)
    random.shuffle(other)  # type: ignore[attr-defined]
    together = np.concatenate(clients)
    there = ~np.isnan(together)
    number = np.maximum(there.sum(axis=0), 1)
    expected_mean = np.nansum(together, axis=0) / number
    expected_variance = np.nansum(np.square(together - expected_mean), axis=0) / number
    for order in (clients, other):
        mean, variance, present = pooled(order)
        np.testing.assert_allclose(mean, expected_mean, rtol=1e-5, atol=1e-5 * scale)
        np.testing.assert_allclose(variance, expected_variance, rtol=1e-4, atol=1e-6 * scale**2)
        np.testing.assert_allclose(present, there.mean(axis=0), rtol=1e-6)


@few
@given(st.integers(0, 10**6), st.lists(st.integers(1, 60), min_size=2, max_size=8))
def test_the_same_order_gives_the_same_bits(seed: int, sizes: list[int]) -> None:
    clients = _clients(seed, sizes, 1.0, 3.0, 0.2)
    first, again = pooled(clients), pooled(clients)
    assert [a.tobytes() for a in first] == [a.tobytes() for a in again]
