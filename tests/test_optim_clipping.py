"""Clipping and norms, at the ends of the range and in the middle."""

from __future__ import annotations

import functools
import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import assert_ulps
from zlpr import optim, reference

EXTREMES = [
    ("float64", 1e300), ("float64", 1e-300), ("float32", 1e20), ("float32", 1e-25), ("float16", 300.0),
]  # fmt: skip


INF_LIMIT = math.sqrt(0.5)


def applied(xp, transform, values, params=None):
    grads = [xp.asarray(v) for v in values]
    params = grads if params is None else [xp.asarray(p) for p in params]
    with xp.no_sync():
        return transform.update(grads, transform.init(params), params)[0]


def clipped(xp, values, max_norm, **options):
    updates = applied(xp, optim.clip_by_global_norm(max_norm, **options), values)
    return [xp.to_numpy(u) for u in updates]


@functools.cache
def transform_of(factory, *args, **options):
    """One transform for equal arguments: JAX compiles each anew."""
    return factory(*args, **options)


@st.composite
def gradients(draw, shapes=((5,), (2, 3))):
    """A dtype, leaves of any size that its numbers have, and a bound that may be far from their norm."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    top = float(np.finfo(dtype).max)
    scale = draw(st.sampled_from([1.0, 8 / top, top**0.75, top]))
    leaves = [
        (draw(hnp.arrays(np.float64, s, elements=st.floats(-1, 1, width=16))) * scale).astype(dtype)
        for s in shapes
    ]
    return dtype, leaves, draw(st.sampled_from([0.5, 1e-30, top / 8]))


def assert_clipped(xp, actual, exact, dtype, limit=6):
    """Compare all leaves as one row: what is small beside the largest entry is rounded beside it."""
    row = xp.namespace.concat([xp.namespace.reshape(x, (-1,)) for x in actual])
    assert_ulps(xp, row[None, :], [[x for leaf in exact for x in leaf]], dtype, limit)


def flat(leaves):
    return [[float(x) for x in np.ravel(leaf)] for leaf in leaves]


@pytest.mark.parametrize("mode", ["hard", "soft"])
@given(case=gradients())
def test_global_norm_clipping_agrees_with_its_twin(xp, mode, case):
    dtype, leaves, bound = case
    actual = applied(xp, transform_of(optim.clip_by_global_norm, bound, mode=mode), leaves)
    assert_clipped(xp, actual, reference.clip_by_global_norm(flat(leaves), bound, mode=mode), dtype)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@given(case=gradients())
def test_clipping_each_leaf_agrees_with_its_twin(xp, mode, case):
    dtype, leaves, bound = case
    actual = applied(xp, transform_of(optim.clip_by_norm, bound, mode=mode), leaves)
    exact = reference.clip_by_norm(flat(leaves), bound, mode=mode)
    for a, e in zip(actual, exact, strict=True):
        assert_clipped(xp, [a], [e], dtype)


@given(case=gradients(), data=st.data())
def test_adaptive_clipping_agrees_with_its_twin(xp, case, data):
    dtype, leaves, _ = case
    params = [data.draw(hnp.arrays(dtype, x.shape, elements=st.floats(-2, 2, width=16))) for x in leaves]
    actual = applied(xp, transform_of(optim.adaptive_clip, 0.25), leaves, params)
    for a, g, p in zip(actual, leaves, params, strict=True):
        columns = (g.T, p.T) if g.ndim == 2 else (g.reshape(1, -1), p.reshape(1, -1))
        exact = reference.adaptive_clip(*map(flat, columns), 0.25, eps=1e-3)
        units = xp.namespace.reshape(
            xp.namespace.permute_dims(a, (1, 0)) if g.ndim == 2 else a, columns[0].shape
        )
        assert_ulps(xp, units, exact, dtype, 8)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@given(case=gradients(shapes=((4, 5), (4, 2, 3), (4,), (4, 0))))
def test_clipping_each_example_agrees_with_its_twin(xp, mode, case):
    dtype, leaves, bound = case
    with xp.no_sync():
        actual = optim.clip_per_example([xp.asarray(x) for x in leaves], bound, mode=mode, reduction="sum")
    examples = [flat([x[b] for x in leaves]) for b in range(4)]
    exact = [
        [e for leaf in reference.clip_by_global_norm(x, bound, mode=mode) for e in leaf] for x in examples
    ]
    size = max((abs(e) for row in exact for e in row), default=0)  # terms may cancel: an ulp of the largest
    sums = [e for leaf in reference.clip_per_example(examples, bound, mode=mode) for e in leaf]
    row = xp.namespace.concat([xp.namespace.reshape(x, (-1,)) for x in actual])
    row = xp.namespace.concat([row, xp.asarray(np.asarray([float(size)], dtype))])
    assert_ulps(xp, row[None, :], [[*sums, size]], dtype, 16)


# Gradients that are finite and should stay so; the cases of PyTorch 2.13 and optax 0.2.8 are measured: zeros for the
# first two and the last but one, (nan, 0) for the infinity, 4.5e-9 for 1e-7 clipped to 5e-8, .99999905 for the norm of
# 1; float16 is burn's issue 5699.
@pytest.mark.parametrize(
    ("dtype", "values", "bound", "expected"),
    [
        ("float32", [3e19, 3e19], 1.0, [INF_LIMIT, INF_LIMIT]),
        ("float32", [1e-30, 1e-30], 1e-31, [1e-31 * INF_LIMIT] * 2),
        ("float32", [1e-7], 5e-8, [5e-8]),
        ("float64", [math.inf, 1.0], 1.0, [1.0, 0.0]),
        ("float32", [-math.inf, 1.0, math.inf], 2.0, [-2 * INF_LIMIT, 0.0, 2 * INF_LIMIT]),
        ("float64", [1.0, 0.0], 1.0, [1.0, 0.0]),
        ("float16", [300.0, 400.0], 1.0, [0.6, 0.8]),
        ("float64", [1.7e308, -1.7e308], 1e-3, [1e-3 * INF_LIMIT, -1e-3 * INF_LIMIT]),
        ("float32", [3.4e38, 3.4e38], 1.0, [INF_LIMIT, INF_LIMIT]),
    ],
)  # fmt: skip
def test_gradients_that_peers_lose(xp, dtype, values, bound, expected):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    grads = [np.asarray(values, dtype)]
    rtol = 1e-15 if dtype == "float64" else 3e-7
    for transform in (optim.clip_by_global_norm(bound), optim.clip_by_norm(bound)):
        np.testing.assert_allclose(xp.to_numpy(applied(xp, transform, grads)[0]), expected, rtol=rtol)
    each = optim.clip_per_example([xp.asarray(grads[0][None, :])], bound)[0]
    np.testing.assert_allclose(xp.to_numpy(each), expected, rtol=rtol)


def test_nan_is_not_hidden(xp):
    for transform in (optim.clip_by_global_norm(1.0), optim.clip_by_global_norm(1.0, mode="soft")):
        found = applied(xp, transform, [np.array([math.nan, math.inf]), np.array([1.0])])
        assert all(np.isnan(xp.to_numpy(x)).all() for x in found)
    leaves = applied(xp, optim.clip_by_norm(1.0), [np.array([math.nan, 1.0]), np.array([2.0])])
    np.testing.assert_array_equal(xp.to_numpy(leaves[1]), [1.0])
    assert np.isnan(xp.to_numpy(leaves[0])).all()


def test_infinite_bound_changes_nothing(xp):
    grads = [np.array([1e300, math.inf, -1.0]), np.array([[2.0]])]
    for transform in (optim.clip_by_global_norm(math.inf), optim.clip_by_norm(math.inf)):
        for actual, before in zip(applied(xp, transform, grads), grads, strict=True):
            np.testing.assert_array_equal(xp.to_numpy(actual), before)
    each = optim.clip_per_example(xp.asarray(grads[0][None, :]), math.inf, reduction="none")
    np.testing.assert_array_equal(xp.to_numpy(each)[0], grads[0])


def test_bound_that_the_dtype_does_not_have(xp):
    grads = [np.array([3.0, 4.0], np.float32)]
    for mode in ("hard", "soft"):
        np.testing.assert_array_equal(clipped(xp, grads, 1e300, mode=mode)[0], grads[0])
        assert np.max(np.abs(clipped(xp, grads, 1e-60, mode=mode)[0])) <= 2e-38
        np.testing.assert_array_equal(clipped(xp, [np.zeros(2, np.float32)], 1e-60, mode=mode)[0], [0.0, 0.0])


def test_a_measure_sees_the_updates_as_they_reach_it(xp):
    chain = optim.chain(optim.adax(1.0), optim.clip_by_global_norm(0.1))
    found = applied(xp, chain, [np.array([3.0, -2.0]), np.array([[0.5]])])
    assert math.isclose(float(xp.to_numpy(optim.global_norm(found))), 0.1, rel_tol=1e-14)


def test_clipping_by_value_agrees_with_its_twin(xp):
    values = [-np.inf, -2.0, -0.5, -0.0, 0.3, 1.0, 5.0, np.inf]
    found = xp.to_numpy(applied(xp, optim.clip_by_value(1.0), [np.array([*values, np.nan])])[0])
    np.testing.assert_array_equal(found, [*map(float, reference.clip_by_value(values, 1.0)), np.nan])


def test_half_precision_comes_back_in_float32(xp):
    if "bfloat16" not in xp.dtypes:
        pytest.skip(f"{xp.name} has no bfloat16")
    grads = [xp.asarray(np.array([3e38, 3e38]), "bfloat16")]
    transform = optim.clip_by_global_norm(1.0)
    for found in (
        transform.update(grads, transform.init(grads), grads)[0][0],
        optim.clip_per_example([grads[0][None, :]], 1.0)[0],
    ):
        assert str(found.dtype).endswith("float32")
        np.testing.assert_allclose(xp.to_numpy(found), [INF_LIMIT] * 2, rtol=3e-7)


def test_units_of_adaptive_clipping(xp):
    ones = np.ones((2, 3, 4, 5))
    for axis, over in ((None, (0, 1, 2)), (3, (3,)), ((0, -1), (0, 3))):
        found = applied(xp, optim.adaptive_clip(0.5, axis=axis), [4 * ones], [ones])[0]
        norms = np.sqrt(np.sum(xp.to_numpy(found) ** 2, axis=over))
        np.testing.assert_allclose(norms, 0.5 * np.sqrt(np.sum(ones**2, axis=over)), rtol=1e-14)
    with pytest.raises(
        ValueError, match=r"axis must name axes of every leaf, got 1 and a leaf of the shape \(3,\)"
    ):
        applied(xp, optim.adaptive_clip(0.5, axis=1), [np.ones(3)])


def test_reductions_of_examples(xp):
    grads = {"w": np.array([[[3.0], [4.0]], [[0.3], [0.4]]]), "b": np.zeros(2)}
    tree = {name: xp.asarray(x) for name, x in grads.items()}
    each = optim.clip_per_example(tree, 1.0, reduction="none")
    np.testing.assert_allclose(xp.to_numpy(each["w"])[:, :, 0], [[0.6, 0.8], [0.3, 0.4]], rtol=1e-15)
    for reduction, expected in (("sum", [0.9, 1.2]), ("mean", [0.45, 0.6])):
        found = optim.clip_per_example(tree, 1.0, reduction=reduction)
        xp.assert_like(found["w"], tree["w"])
        np.testing.assert_allclose(xp.to_numpy(found["w"])[:, 0], expected, rtol=1e-15)
        assert found["b"].shape == ()
    assert optim.clip_per_example({}, 1.0) == {}


def test_examples_that_do_not_match():
    with pytest.raises(
        ValueError, match=r"grads must have the batch .* \(2, \.\.\.\), but grads\['b'\] has the shape \(3,\)"
    ):
        optim.clip_per_example({"a": np.ones((2, 2)), "b": np.ones(3)}, 1.0)
    with pytest.raises(ValueError, match="first axis of every leaf"):
        optim.clip_per_example([np.ones(())], 1.0)
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'max'"):
        optim.clip_per_example([np.ones((2, 2))], 1.0, reduction="max")


@pytest.mark.library("torch")
def test_agrees_with_torch_where_torch_is_right():
    import torch

    rng = np.random.default_rng(0)
    leaves = [rng.standard_normal(s) for s in ((30, 4), (7,))]
    for bound in (0.5, 100.0):
        mine = optim.clip_by_global_norm(bound)
        grads = [torch.asarray(x) for x in leaves]
        found = mine.update(grads, mine.init(grads), grads)[0]
        theirs = [torch.nn.Parameter(torch.zeros(x.shape, dtype=torch.float64)) for x in leaves]
        for p, x in zip(theirs, leaves, strict=True):
            p.grad = torch.asarray(x.copy())
        torch.nn.utils.clip_grad_norm_(theirs, bound)
        for a, p in zip(found, theirs, strict=True):
            torch.testing.assert_close(a, p.grad, rtol=1e-6, atol=0.0)  # 1e-6 is added to its norm
    mine = optim.clip_by_value(0.5)
    found = mine.update(grads, mine.init(grads), grads)[0]
    for p, x in zip(theirs, leaves, strict=True):
        p.grad = torch.asarray(x.copy())
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    assert all(torch.equal(a, p.grad) for a, p in zip(found, theirs, strict=True))


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:.*lru_cache")  # Dynamo looks through it, and says so
def test_compiles_in_torch_without_a_graph_break():
    import torch

    transform = optim.chain(
        optim.clip_by_global_norm(1.0, mode="soft"),
        optim.clip_by_norm(0.5),
        optim.adaptive_clip(0.1),
        optim.clip_by_value(0.3),
    )
    params = {"w": torch.ones(5, 4), "b": torch.ones(4)}
    grads = {"w": 3e38 * torch.linspace(-1.0, 1.0, 20).reshape(5, 4), "b": torch.ones(4)}
    state = transform.init(params)
    compiled = torch.compile(
        lambda g, p: (transform.update(g, state, p)[0], optim.clip_per_example(g["w"], 0.5)),
        fullgraph=True,
        backend="eager",
    )
    expected = transform.update(grads, state, params)[0], optim.clip_per_example(grads["w"], 0.5)
    torch.testing.assert_close(compiled(grads, params), expected)


@pytest.mark.library("jax")
def test_agrees_with_optax_where_optax_is_right():
    import jax
    import jax.numpy as jnp
    import optax

    rng = np.random.default_rng(0)
    shapes = ((6, 4), (7,), (), (2, 3, 4), (2, 2, 3, 4), (1, 5))
    grads, params = ([jnp.asarray(rng.standard_normal(s)) for s in shapes] for _ in range(2))
    for mine, theirs in (
        (optim.clip_by_global_norm(0.5), optax.clip_by_global_norm(0.5)),
        (optim.clip_by_global_norm(100.0), optax.clip_by_global_norm(100.0)),
        (optim.clip_by_value(0.5), optax.clip(0.5)),
        (optim.adaptive_clip(0.3, eps=0.1), optax.adaptive_grad_clip(0.3, eps=0.1)),
    ):
        found = mine.update(grads, mine.init(params), params)[0]
        expected = theirs.update(grads, theirs.init(params), params)[0]
        for a, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-14)
    batch = [jnp.asarray(rng.standard_normal((4, *s))) for s in shapes]
    expected = optax.per_example_global_norm_clip(batch, 3.0)[0]
    clip = jax.jit(lambda g: optim.clip_per_example(g, 3.0, reduction="sum"))
    for a, e in zip(clip(batch), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-13)


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
        for actual, before in zip(clipped(xp, grads, bound), grads, strict=True):
            np.testing.assert_array_equal(actual, before)
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


def test_global_norm_up_to_the_largest_numbers(xp):
    for dtype in ("float32", "float64"):
        limits = np.finfo(dtype)
        for top in (limits.max, 8 * limits.tiny):
            leaves = [np.asarray([top / 2, -top / 2], dtype), np.asarray(top / 2, dtype)]
            norm = xp.to_numpy(optim.global_norm([xp.asarray(x) for x in leaves]))
            assert math.isclose(norm, math.sqrt(0.75) * float(top), rel_tol=4 * limits.eps)


@pytest.mark.parametrize("bound", [0.0, -1.0, -math.inf, math.nan])
def test_bad_bound(bound):
    for clip, name in (
        (optim.clip_by_global_norm, "max_norm"),
        (optim.clip_by_norm, "max_norm"),
        (optim.clip_by_value, "max_value"),
        (optim.adaptive_clip, "clipping"),
        (lambda b: optim.clip_per_example([np.ones((1, 1))], b), "max_norm"),
        (lambda b: optim.adaptive_clip(eps=b), "eps"),
    ):
        with pytest.raises(ValueError, match=f"{name} must be a positive number, got"):
            clip(bound)


def test_bad_mode():
    with pytest.raises(ValueError, match="mode must be 'hard' or 'soft', got 'firm'"):
        optim.clip_by_global_norm(1.0, mode="firm")
