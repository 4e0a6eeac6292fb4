"""k_subset_cross_entropy against its exact twin, against all subsets one by one, and against what it contains."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _exact import SHAPES, XLA_SLACK, assert_ulps, hard_targets_of, scores_of
from zlpr import reference
from zlpr.losses import k_subset_cross_entropy, sigmoid_cross_entropy, softmax_cross_entropy
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
INF = math.inf


def exact_rows(scores, targets, **opts):
    rows = [
        reference.k_subset_cross_entropy(list(map(float, s)), list(map(int, t)), **opts)
        for s, t in zip(scores, targets, strict=True)
    ]
    return [r.value for r in rows], [r.gradient for r in rows], [r.hessian for r in rows]


def assert_exact(xp, got, exact, dtype):
    """4 ulp of value and gradient; 6 of the curvature, a product of two probabilities."""
    for actual, truth, limit in zip(got, exact, (4, 4, 6), strict=False):
        assert_ulps(xp, actual, truth, dtype, limit + XLA_SLACK.get(xp.name, 0))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_sets_of_one_size(xp, shape, dtype, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    s, t = xp.asarray(scores), xp.asarray(targets)
    with xp.no_sync():
        got = k_subset_cross_entropy.value_and_grad(s, t, reduction="none")
    xp.assert_like(got[1], s)
    assert_exact(xp, got, exact_rows(scores, targets), dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_sets_of_at_most_a_size(xp, shape, dtype, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    targets = targets & (np.cumsum(targets, axis=1) <= 3)
    opts = {"at_most": 3, "threshold": 0.5}
    with xp.no_sync():
        got = k_subset_cross_entropy.value_and_grad(
            xp.asarray(scores), xp.asarray(targets), reduction="none", **opts
        )
    assert_exact(xp, got, exact_rows(scores, targets, **opts), dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("opts", [{}, {"at_most": 12, "threshold": -1.0}])
def test_random_and_confident_rows_and_their_curvature(xp, dtype, opts):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(8, 60)) * np.asarray([[0.1], [1.0], [3.0], [20.0]] * 2)
    targets = rng.random(scores.shape) < 0.1
    scores[4:] = np.where(targets[4:], np.abs(scores[4:]), -np.abs(scores[4:]))
    scores = scores.astype(dtype)
    got = k_subset_cross_entropy.value_grad_hess(
        xp.asarray(scores), xp.asarray(targets), reduction="none", **opts
    )
    assert_exact(xp, got, exact_rows(scores, targets, **opts), dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("n", "k", "spread"), [(20, 10, 1), (50, 10, 3), (50, 25, 1), (100, 50, 1), (100, 10, 10)]
)
def test_where_newtons_identities_fail(xp, dtype, n, k, spread):
    # In float64 they are off by 1e-2 at the third of these, and nan at the last.
    scores = (np.random.default_rng(n + k).normal(size=(1, n)) * spread).astype(dtype)
    targets = np.arange(n)[None] < k
    got = k_subset_cross_entropy.value_and_grad(xp.asarray(scores), xp.asarray(targets), reduction="none")
    assert_exact(xp, got, exact_rows(scores, targets), dtype)


@pytest.mark.parametrize("at_most", [None, 4])
def test_all_subsets_one_by_one(xp, at_most):
    rng = np.random.default_rng(1)
    s, v, s0 = rng.normal(size=6) * 2, rng.normal(size=6), 0.3
    y = np.asarray([0, 1, 0, 0, 1, 0])
    sizes = [2] if at_most is None else range(at_most + 1)
    sets = np.asarray([np.isin(range(6), c) for j in sizes for c in itertools.combinations(range(6), j)])
    logs = sets @ (s - s0)
    shares = np.exp(logs - np.log(np.exp(logs).sum()))
    mean = shares @ sets
    covariance = (sets * shares[:, None]).T @ sets - np.outer(mean, mean)
    args, opts = (xp.asarray(s[None]), xp.asarray(y[None])), {"at_most": at_most, "threshold": s0}
    value, gradient, hessian = k_subset_cross_entropy.value_grad_hess(*args, **opts)
    np.testing.assert_allclose(float(value), np.log(np.exp(logs).sum()) - y @ (s - s0), rtol=1e-14)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], mean - y, atol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(hessian)[0], np.diag(covariance), atol=1e-15)
    product = k_subset_cross_entropy.hvp(*args, xp.asarray(v[None]), **opts)
    np.testing.assert_allclose(xp.to_numpy(product)[0], covariance @ v, atol=1e-15)


def test_golden_values(xp):
    # To 40 digits in mpmath; log Z and the probabilities of the pairs, of the post's partition functions.
    scores = np.asarray([[1.5, -0.5, 0.25, -2.0, 3.0]])
    log_z = [3.280652436185398, 4.9474989673530138, 5.3370045096841702]
    chances = [
        0.70369913753973468,
        0.11192587480893595,
        0.23076964562247741,
        0.025426873964521889,
        0.92817846806433008,
    ]
    for k, exact in enumerate(log_z, start=1):
        targets = np.arange(5)[None] < k
        value, gradient = k_subset_cross_entropy.value_and_grad(xp.asarray(scores), xp.asarray(targets))
        assert float(value) + scores[targets].sum() == pytest.approx(exact, rel=4e-16)
        if k == 2:
            np.testing.assert_allclose(xp.to_numpy(gradient)[0] + targets[0], chances, rtol=1e-15)


@pytest.mark.parametrize("margin", [10.0, 40.0, 300.0])
def test_saturated_rows_keep_their_digits(xp, margin):
    targets = np.arange(9)[None] < 3
    scores = np.where(targets, margin, -margin) + np.linspace(0, 1, 9)
    value, gradient = k_subset_cross_entropy.value_and_grad(xp.asarray(scores), xp.asarray(targets))
    (exact,), (slopes,), _ = exact_rows(scores, targets)
    assert float(value) == pytest.approx(float(exact), rel=1.5e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], [float(g) for g in slopes], rtol=1.5e-15)


def assert_same(xp, ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=1e-14, atol=1e-15)


def test_one_of_n_is_softmax_cross_entropy(xp):
    rng = np.random.default_rng(2)
    scores, classes = rng.normal(size=(5, 30)) * 6, rng.integers(0, 30, 5)
    s, y = xp.asarray(scores), xp.asarray(np.arange(30) == classes[:, None])
    ours = k_subset_cross_entropy.value_grad_hess(s, y, reduction="none")
    assert_same(xp, ours, softmax_cross_entropy.value_grad_hess(s, xp.asarray(classes), reduction="none"))


def test_at_most_one_is_softmax_with_one_more_class(xp):
    rng = np.random.default_rng(3)
    scores, classes = (
        rng.normal(size=(5, 30)) * 3,
        np.asarray([0, 7, 30, 2, 30]),
    )  # the last class is the filler
    extended = np.concatenate([scores, np.full((5, 1), 0.7)], axis=1)
    s, y = xp.asarray(scores), xp.asarray(np.arange(30) == classes[:, None])
    ours = k_subset_cross_entropy.value_and_grad(s, y, at_most=1, threshold=0.7, reduction="none")
    value, gradient = softmax_cross_entropy.value_and_grad(
        xp.asarray(extended), xp.asarray(classes), reduction="none"
    )
    assert_same(xp, ours, (value, gradient[:, :30]))


def test_at_most_all_is_sigmoid_cross_entropy(xp):
    rng = np.random.default_rng(4)
    scores, y = rng.normal(size=(5, 30)) * 3, xp.asarray(rng.random((5, 30)) < 0.3)
    ours = k_subset_cross_entropy.value_grad_hess(
        xp.asarray(scores), y, at_most=30, threshold=0.5, reduction="none"
    )
    assert_same(
        xp, ours, sigmoid_cross_entropy.value_grad_hess(xp.asarray(scores - 0.5), y, reduction="none")
    )


def test_probabilities_add_up_to_the_size(xp):
    rng = np.random.default_rng(5)
    scores, targets = rng.normal(size=(6, 300)) * 4, rng.random((6, 300)) < 0.05
    _, gradient = k_subset_cross_entropy.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), reduction="none", max_positives=30
    )
    chances = xp.to_numpy(gradient) + targets
    assert chances.min() >= 0
    assert chances.max() <= 1
    np.testing.assert_allclose(chances.sum(axis=1), targets.sum(axis=1), rtol=1e-14)


def test_threshold_has_a_gradient(xp):
    rng = np.random.default_rng(6)
    scores, s0 = rng.normal(size=(4, 8)) * 2, np.asarray([0.0, 1.5, -20.0, 30.0])
    targets = (rng.random((4, 8)) < 0.4) & (np.arange(8) < 3)
    _, (slopes, of_threshold) = k_subset_cross_entropy.value_and_grad(
        xp.asarray(scores),
        xp.asarray(targets),
        at_most=3,
        threshold=xp.asarray(s0),
        argnums=("scores", "threshold"),
        reduction="none",
    )
    exact = [
        reference.k_subset_cross_entropy(list(s), list(t), at_most=3, threshold=float(x))
        for s, t, x in zip(scores, targets, s0, strict=True)
    ]
    theirs = np.asarray([float(e.threshold_gradient) for e in exact])
    np.testing.assert_allclose(xp.to_numpy(of_threshold), theirs, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(slopes).sum(axis=1), -theirs, rtol=1e-13, atol=1e-14)


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize(("n", "k"), [(10_000, 50), (2000, 1000), (1000, 999)])
@pytest.mark.parametrize("dtype", WIDE)
def test_many_ties_neither_overflow_nor_vanish(xp, dtype, n, k):
    targets = np.arange(n)[None] < k
    value, gradient = k_subset_cross_entropy.value_and_grad(
        xp.asarray(np.zeros((1, n), dtype)), xp.asarray(targets), reduction="none"
    )
    assert_ulps(xp, value, [math.log(math.comb(n, k))], dtype, 4)
    exact = np.where(targets, k / n - 1, k / n)
    np.testing.assert_allclose(xp.to_numpy(gradient), exact, rtol=0, atol=4 * np.finfo(dtype).eps)


@pytest.mark.library("numpy")
def test_memory_is_a_few_arrays_of_scores():
    rng = np.random.default_rng(7)
    scores = rng.normal(size=(32, 10_000))
    targets = np.argsort(rng.random(scores.shape), axis=1) < 50
    k_subset_cross_entropy.value_and_grad(scores, targets)  # what is kept from call to call
    tracemalloc.start()
    k_subset_cross_entropy.value_and_grad(scores, targets)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < scores.nbytes + 40 * scores[0].nbytes  # the gradient, and 40 arrays like one row


@pytest.mark.parametrize(
    ("scores", "targets", "value", "gradient"),
    [  # the limits as infinite scores grow together, worked out by hand
        ([0.0, 0.0, 0.0], [0, 0, 0], 0.0, [0.0, 0.0, 0.0]),
        ([0.0, 5.0, -700.0], [1, 1, 1], 0.0, [0.0, 0.0, 0.0]),
        ([INF, 0.0, -INF], [1, 0, 0], 0.0, [0.0, 0.0, 0.0]),
        ([INF, 0.0, 1.0], [0, 1, 0], INF, [1.0, -1.0, 0.0]),
        ([-INF, 0.0, 0.0], [1, 0, 0], INF, [-1.0, 0.5, 0.5]),
        ([INF, INF, INF], [1, 0, 0], math.log(3), [-2 / 3, 1 / 3, 1 / 3]),
        ([1e300, 0.0, 0.0], [0, 1, 0], 1e300, [1.0, -1.0, 0.0]),
    ],
)
def test_edge_cases(xp, scores, targets, value, gradient):
    got, slope = k_subset_cross_entropy.value_and_grad(
        xp.asarray(np.asarray([scores])), xp.asarray(np.asarray([targets]))
    )
    np.testing.assert_allclose(float(got), value, rtol=4e-16)
    np.testing.assert_allclose(xp.to_numpy(slope)[0], gradient, rtol=4e-16)


@pytest.mark.parametrize("opts", [{}, {"at_most": 2}])
def test_nan_masks_and_empty_rows(xp, opts):
    scores = np.asarray([[np.nan, 1.0, 2.0], [1.0, np.nan, -2.0]])
    s, y = xp.asarray(scores), xp.asarray(np.asarray([[0, 1, 0], [0, 1, 1]]))
    value, gradient = k_subset_cross_entropy.value_and_grad(
        s, y, reduction="none", mask=xp.asarray(np.arange(6).reshape(2, 3) != 4), **opts
    )
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False])
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(gradient)), [[True] * 3, [False] * 3])
    assert float(xp.to_numpy(gradient)[1, 1]) == 0.0
    kept = k_subset_cross_entropy(
        xp.asarray(np.asarray([[1.0, -2.0]])), xp.asarray(np.asarray([[0, 1]])), **opts
    )
    assert float(xp.to_numpy(value)[1]) == pytest.approx(float(kept), rel=1e-15)
    empty = k_subset_cross_entropy.value_and_grad(s[:, :0], y[:, :0], reduction="none", **opts)
    np.testing.assert_array_equal(xp.to_numpy(empty[0]), [0.0, 0.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_rounded_once(xp, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(8)
    s, targets = xp.asarray(rng.normal(size=(6, 10)) * 3, dtype), rng.random((6, 10)) < 0.3
    got = k_subset_cross_entropy.value_and_grad(s, xp.asarray(targets), reduction="none")
    for actual, exact in zip(got, exact_rows(xp.to_numpy(s).astype(float), targets)[:2], strict=True):
        assert_ulps(xp, actual, exact, dtype, 0.51)


@pytest.mark.library("numpy", "torch")
def test_labels_that_do_not_fit_are_refused(xp):
    s = xp.asarray(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"targets must be hard, 0 or 1, got 0.25 for class 1"):
        k_subset_cross_entropy(s, xp.asarray(np.asarray([[0.0, 0.25, 1.0], [0.0, 1.0, 0.0]])))
    full = xp.asarray(np.ones((2, 3)))
    for name in ("at_most", "max_positives"):
        with pytest.raises(
            ValueError, match=f"targets must have at most {name}=2 positives a row, but one has 3"
        ):
            k_subset_cross_entropy(s, full, **{name: 2})


@pytest.mark.library("jax", "strict", "cupy")
def test_labels_that_do_not_fit_give_nan_in_their_row(xp):
    s = xp.asarray(np.zeros((3, 3)))
    y = xp.asarray(np.asarray([[0.0, 0.25, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]]))
    value, gradient = k_subset_cross_entropy.value_and_grad(s, y, max_positives=2, reduction="none")
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False, True])
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(gradient)).all(axis=1), [True, False, True])


def test_options_are_checked(xp):
    s, y = xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 3), dtype=bool))
    for name, wrong in (("at_most", 0), ("at_most", 1.5), ("max_positives", -1), ("max_positives", True)):
        with pytest.raises(ValueError, match=f"{name} must be None or a positive integer, got {wrong}"):
            k_subset_cross_entropy(s, y, **{name: wrong})


@pytest.mark.parametrize("opts", [{}, {"at_most": 3}])
def test_the_rule_as_a_rule(xp, opts):
    rng = np.random.default_rng(9)
    s, y = xp.asarray(rng.normal(size=(3, 4))), xp.asarray((np.arange(12).reshape(3, 4) % 3) == 0)
    check_rule(k_subset_cross_entropy, s, y, **opts)


@pytest.mark.library("torch")
def test_torch_second_order():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    scores, y = rng.normal(size=(2, 5)), torch.tensor(np.asarray([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0]]))
    scores[0, :3] = 0.0  # ties, in the set and out of it
    s = torch.tensor(scores, requires_grad=True)
    for opts in ({}, {"at_most": 3}):
        assert torch.autograd.gradcheck(lambda s, opts=opts: k_subset_cross_entropy(s, y, **opts), (s,))
        assert torch.autograd.gradgradcheck(lambda s, opts=opts: k_subset_cross_entropy(s, y, **opts), (s,))


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(11)
    s, y = torch.tensor(rng.normal(size=(3, 5))), torch.tensor(rng.random((3, 5)) < 0.4)
    compiled = torch.compile(k_subset_cross_entropy.value_and_grad, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(s, y), k_subset_cross_entropy.value_and_grad(s, y))


@pytest.mark.library("jax")
def test_jax_hessian_under_jit(xp):
    import jax

    scores, y = np.random.default_rng(12).normal(size=5), xp.asarray(np.asarray([1, 0, 0, 1, 0]))
    scores[:3] = 0.0
    s = xp.asarray(scores)
    hessian = jax.jit(jax.hessian(lambda s: k_subset_cross_entropy(s, y)))(s)
    product = [k_subset_cross_entropy.hvp(s, y, v) for v in xp.asarray(np.eye(5))]
    np.testing.assert_allclose(hessian, np.asarray(product), atol=1e-15)
