"""Clipping by the global norm, at the ends of the range and in the middle."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest

from zlpr import optim
from zlpr.reference import optim as reference

EXTREMES = [
    ("float64", 1e300), ("float64", 1e-300), ("float32", 1e20), ("float32", 1e-25), ("float16", 300.0),
]  # fmt: skip


def clipped(xp, values, max_norm, **options):
    transform = optim.clip_by_global_norm(max_norm, **options)
    grads = [xp.asarray(v) for v in values]
    with xp.no_sync():
        updates, _ = transform.update(grads, transform.init(grads), grads)
    return [xp.to_numpy(u) for u in updates]


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("size", [5, 100_000])
@pytest.mark.parametrize(("dtype", "scale"), EXTREMES)
def test_finite_gradients_keep_their_direction(xp, dtype, scale, size, mode):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    if xp.name == "cupy" and size > 5:
        size = 1000
    direction = np.random.default_rng(0).uniform(-1, 1, size)
    direction[0] = 1.0
    grads = [(direction * scale).astype(dtype), np.full(3, scale, dtype)]
    bound = scale / 8
    exact = np.concatenate(grads).astype(np.longdouble)
    norm = np.sqrt(np.sum((exact / scale) ** 2)) * scale
    factor = bound / norm if mode == "hard" else bound / (bound + norm)
    actual = np.concatenate(clipped(xp, grads, float(bound), mode=mode))
    # A sum of 1e5 squares in float32, however it is ordered, and one rounding of the factor and of the product
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    tiny = float(np.finfo(actual.dtype).tiny)  # XLA flushes what is smaller to zero
    np.testing.assert_allclose(actual, (exact * factor).astype(actual.dtype), rtol=tolerance, atol=tiny)


def test_norm_within_the_bound_changes_nothing(xp):
    grads = [np.array([3.0]), np.array([[4.0]])]
    for bound in (5.0, 7.0):
        for actual, given in zip(clipped(xp, grads, bound), grads, strict=True):
            np.testing.assert_array_equal(actual, given)
    np.testing.assert_array_equal(clipped(xp, grads, 2.5)[1], [[2.0]])


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_zero_stays_zero(xp, mode):
    np.testing.assert_array_equal(clipped(xp, [np.zeros(4), np.zeros(())], 1.0, mode=mode)[0], np.zeros(4))


def test_soft_factor(xp):
    np.testing.assert_allclose(
        clipped(xp, [np.array([3.0, 4.0])], 5.0, mode="soft")[0], [1.5, 2.0], rtol=1e-15
    )


def test_soft_lies_between_half_of_hard_and_hard(xp):
    g = np.array([1.0])
    for bound in (0.01, 0.5, 1.0, 2.0, 100.0):
        hard, soft = clipped(xp, [g], bound)[0], clipped(xp, [g], bound, mode="soft")[0]
        assert 0.5 * hard <= soft <= hard


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_global_norm_agrees_with_its_twin(xp, dtype):
    rng = np.random.default_rng(0)
    leaves = [rng.standard_normal(n).astype(dtype) for n in (1, 20, 0, 300)]
    norm = optim.global_norm({str(i): xp.asarray(x) for i, x in enumerate(leaves)})
    xp.assert_like(norm, xp.asarray(leaves[0]))
    assert norm.shape == ()
    assert str(norm.dtype).endswith(dtype)
    with mp.workdps(30):
        truth = float(reference.global_norm([map(float, x) for x in leaves]))
    assert math.isclose(float(xp.to_numpy(norm)), truth, rel_tol=16 * np.finfo(dtype).eps)


def test_global_norm_of_mixed_dtypes(xp):
    tree = [
        xp.asarray(np.array([3e200])),
        xp.asarray(np.array([1.0], np.float32)),
        xp.asarray(np.array([4e200])),
    ]
    norm = optim.global_norm(tree)
    assert str(norm.dtype).endswith("float64")
    assert math.isclose(float(xp.to_numpy(norm)), 5e200, rel_tol=1e-15)


def test_global_norm_of_half_precision_is_float32(xp):
    if "float16" not in xp.dtypes:
        pytest.skip(f"{xp.name} has no float16")
    norm = optim.global_norm([xp.asarray(np.full(100, 6e4, np.float16))])
    assert str(norm.dtype).endswith("float32")
    assert math.isclose(float(xp.to_numpy(norm)), 10 * float(np.float16(6e4)), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("values", "truth"),
    [([math.inf, 1.0], math.inf), ([math.nan, 1.0], math.nan), ([math.inf, math.nan], math.nan), ([], 0.0)],
)
def test_global_norm_of_special_values(xp, values, truth):
    tree = [xp.asarray(np.array(values)), xp.asarray(np.ones(0))]
    np.testing.assert_equal(float(xp.to_numpy(optim.global_norm(tree))), truth)


def test_global_norm_of_nothing():
    assert optim.global_norm({}) == 0.0
    assert optim.global_norm({}).shape == ()


def test_global_norm_of_strided_and_of_many_blocks():
    x = np.random.default_rng(0).standard_normal((700, 301))
    for view in (x, x.T, x[::2, ::3], x[::-1]):
        assert math.isclose(float(optim.global_norm([view])), np.linalg.norm(view), rel_tol=1e-14)


@pytest.mark.library("numpy", "torch")
def test_squares_that_partly_underflow_are_scaled(xp):
    # (1e-22)^2 has hardly a bit left in float32, and 6e4 of them weigh more than the largest entry
    x = np.full(60_001, 1e-22, np.float32)
    x[0] = 1e-20
    assert math.isclose(float(optim.global_norm([xp.asarray(x)])), math.sqrt(7e-40), rel_tol=1e-5)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bad_bound(bound):
    with pytest.raises(ValueError, match="max_norm"):
        optim.clip_by_global_norm(bound)


def test_bad_mode():
    with pytest.raises(ValueError, match="mode must be 'hard' or 'soft', got 'firm'"):
        optim.clip_by_global_norm(1.0, mode="firm")
