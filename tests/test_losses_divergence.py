"""zlpr_divergence against its exact twin, PyTorch's own divergence and SciPy's, and the identities it keeps."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import SHAPES, XLA_SLACK, assert_ulps, scores_of
from zlpr import reference
from zlpr.losses import zlpr_divergence
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
BOTH = pytest.mark.parametrize("symmetric", [True, False], ids=["both ways", "one way"])
ARGUMENTS = ("scores_p", "scores_q")
INF = math.inf


def exact_rows(p, q, **opts):
    """Values, both gradients and the Hessian diagonal, row by row."""
    rows = [
        reference.zlpr_divergence(list(map(float, a)), list(map(float, b)), **opts)
        for a, b in zip(p, q, strict=True)
    ]
    return (
        [r.value for r in rows],
        *([r.gradients[n] for r in rows] for n in ARGUMENTS),
        [r.hessian for r in rows],
    )


def value_and_both_gradients(p, q, **opts):
    value, gradients = zlpr_divergence.value_and_grad(p, q, argnums=(0, 1), **opts)
    return value, *gradients


def limit(xp, classes):
    """4 ulp; a row of one class has the whole error of a product of eight factors, two of them exponentials."""
    return (4 if classes > 1 else 6) + XLA_SLACK.get(xp.name, 0)


def pairs_of(shape, dtype):
    """Scores and others that are equal to them, agree to many digits, to few, or not at all."""
    infinite = scores_of(shape, dtype, infinite=True)
    distances = hnp.arrays(
        np.float64, shape, elements=st.sampled_from([0.0, 1e-7, -1e-3, 0.5, -1.9, 2.1, 7.0])
    )
    moved = st.tuples(infinite, distances).map(lambda pair: (pair[0], (pair[0] + pair[1]).astype(dtype)))
    return st.one_of(moved, moved, st.tuples(infinite, infinite))


@BOTH
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES[:2])  # the twin is slow, and the next test has longer rows
@given(data=st.data())
def test_value_and_gradients(xp, shape, dtype, symmetric, data):
    p, q = data.draw(pairs_of(shape, dtype))
    with xp.no_sync():
        got = value_and_both_gradients(xp.asarray(p), xp.asarray(q), symmetric=symmetric, reduction="none")
    for actual, exact in zip(got, exact_rows(p, q, symmetric=symmetric), strict=False):
        xp.assert_like(actual, xp.asarray(p))
        assert_ulps(xp, actual, exact, dtype, limit(xp, shape[1]))


@BOTH
@pytest.mark.parametrize("dtype", WIDE)
def test_random_rows_and_their_curvature(xp, dtype, symmetric):
    rng = np.random.default_rng(0)
    p = (rng.normal(size=(6, 80)) * 3).astype(dtype)
    q = (p + rng.normal(size=p.shape) * np.asarray([[1e-7], [1e-3], [0.3], [2.0], [8.0], [30.0]])).astype(
        dtype
    )
    opts = {"symmetric": symmetric, "reduction": "none"}
    values, of_p, of_q, hessian = exact_rows(p, q, symmetric=symmetric)
    p, q = xp.asarray(p), xp.asarray(q)
    got = value_and_both_gradients(p, q, **opts)
    second = zlpr_divergence.value_grad_hess(p, q, **opts)
    for actual, exact in zip((*got, *second), (values, of_p, of_q, values, of_p, hessian), strict=True):
        assert_ulps(xp, actual, exact, dtype, limit(xp, 80))
    majorant = zlpr_divergence.value_grad_hess(p, q, curvature="majorant", **opts)[2]
    np.testing.assert_array_equal(xp.to_numpy(majorant), np.maximum(xp.to_numpy(second[2]), 0))


@BOTH
@pytest.mark.parametrize("dtype", WIDE)
def test_digits_are_kept_however_near_the_scores_are(xp, dtype, symmetric):
    # Each class is a row of its own, so that no larger neighbour hides an error; 2 is where the series ends.
    eps = float(np.finfo(dtype).eps)
    p = np.repeat([-30.0, -3.0, 0.0, 0.25, 3.0, 30.0], 8)[:, None].astype(dtype)
    gap = np.tile([4 * eps, 1e-5, 1e-2, 0.5, 1.99, 2.01, -1e-2, -2.5], 6)[:, None]
    q = (p + gap * np.maximum(1, np.abs(p) * (np.abs(gap) < 1e-4))).astype(dtype)
    got = value_and_both_gradients(xp.asarray(p), xp.asarray(q), symmetric=symmetric, reduction="none")
    exact = exact_rows(p, q, symmetric=symmetric)[:3]
    for actual, truth in zip(got, exact, strict=True):
        assert_ulps(xp, actual, truth, dtype, limit(xp, 1))


def test_the_textbook_form_has_no_digits_there(xp):
    # Cross-entropy less entropy, as PyTorch's and everybody's: 100 % off in float32 where the scores differ by 2^-12.
    p = np.asarray([[1.0]], dtype=np.float32)
    q = p + np.float32(2.0**-12)
    textbook = np.logaddexp(0, q) - np.logaddexp(0, p) - (q - p) / (1 + np.exp(-p))
    exact = exact_rows(p, q, symmetric=False)[0]
    assert abs(float(textbook[0, 0]) / float(exact[0]) - 1) > 0.5
    got = zlpr_divergence(xp.asarray(p), xp.asarray(q), symmetric=False, reduction="none")
    assert_ulps(xp, got, exact, "float32", limit(xp, 1))


def test_symmetric_is_the_sum_of_both_ways(xp):
    rng = np.random.default_rng(1)
    p, q = (xp.asarray(rng.normal(size=(5, 30)) * 4) for _ in range(2))
    whole = value_and_both_gradients(p, q, reduction="none")
    there = value_and_both_gradients(p, q, symmetric=False, reduction="none")
    back = value_and_both_gradients(q, p, symmetric=False, reduction="none")
    for both, one, other in zip(whole, there, (back[0], back[2], back[1]), strict=True):
        np.testing.assert_allclose(xp.to_numpy(both), xp.to_numpy(one) + xp.to_numpy(other), rtol=2e-14)


@BOTH
@given(scores=scores_of((3, 5), "float64", infinite=True))
def test_equal_scores_agree_exactly(xp, symmetric, scores):
    s = xp.asarray(scores)
    for part in value_and_both_gradients(s, s, symmetric=symmetric, reduction="none"):
        np.testing.assert_array_equal(xp.to_numpy(part), np.zeros(tuple(part.shape)))


@BOTH
@given(pair=pairs_of((3, 5), "float32"))
def test_never_negative(xp, symmetric, pair):
    value = zlpr_divergence(*map(xp.asarray, pair), symmetric=symmetric, reduction="none")
    assert (xp.to_numpy(value) >= 0).all()


@pytest.mark.parametrize(
    ("p", "q", "symmetric", "value", "of_p", "of_q"),
    [  # the limits, worked out by hand
        (INF, INF, True, 0.0, 0.0, 0.0),
        (-INF, -INF, False, 0.0, 0.0, 0.0),
        (INF, -INF, True, INF, 1.0, -1.0),
        (INF, -INF, False, INF, 0.0, -1.0),
        (INF, 0.0, True, INF, 0.5, -INF),
        (INF, 0.0, False, math.log(2), 0.0, -0.5),
        (0.0, -INF, False, INF, INF, -0.5),
        (1e300, -1e300, True, 2e300, 1.0, -1.0),
        (1e308, -1e308, False, 1e308, 0.0, -1.0),
    ],
)
def test_edge_cases(xp, p, q, symmetric, value, of_p, of_q):
    p, q = (xp.asarray(np.asarray([[s]])) for s in (p, q))
    got = [
        float(part.reshape(-1)[0])
        for part in map(xp.to_numpy, value_and_both_gradients(p, q, symmetric=symmetric))
    ]
    np.testing.assert_allclose(got, [value, of_p, of_q], rtol=1e-15)


@BOTH
def test_nan_masks_and_empty_rows(xp, symmetric):
    p, q = (
        np.asarray([[np.nan, 1.0, 2.0], [1.0, np.nan, -2.0]]),
        np.asarray([[0.5, 1.0, 3.0], [1.5, 0.0, -2.0]]),
    )
    mask = np.arange(6).reshape(2, 3) != 4
    p, q = xp.asarray(p), xp.asarray(q)
    value, of_p, of_q = value_and_both_gradients(
        p, q, symmetric=symmetric, reduction="none", mask=xp.asarray(mask)
    )
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False])
    for gradient in map(xp.to_numpy, (of_p, of_q)):
        np.testing.assert_array_equal(np.isnan(gradient), [[True, False, False], [False] * 3])
        assert gradient[1, 1] == 0.0
    exact = exact_rows([[1.0, -2.0]], [[1.5, -2.0]], symmetric=symmetric)[0][0]
    assert float(xp.to_numpy(value)[1]) == pytest.approx(float(exact), rel=1e-15)
    empty = value_and_both_gradients(p[:, :0], q[:, :0], symmetric=symmetric, reduction="none")
    np.testing.assert_array_equal(xp.to_numpy(empty[0]), [0.0, 0.0])


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_rounded_once(xp, dtype, symmetric):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(7)
    p, q = (xp.asarray(rng.normal(size=(20, 1)) * 2, dtype) for _ in range(2))
    _, *got = value_and_both_gradients(p, q, symmetric=symmetric, reduction="none")
    exact = exact_rows(*(xp.to_numpy(s).astype(float) for s in (p, q)), symmetric=symmetric)
    for actual, truth in zip(got, exact[1:3], strict=True):
        assert_ulps(xp, actual, truth, dtype, 0.51)


def test_arrays_must_fit(xp):
    p = xp.asarray(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"scores_q must have the shape of scores_p, \(2, 3\), not \(2, 4\)"):
        zlpr_divergence(p, xp.asarray(np.zeros((2, 4))))
    with pytest.raises(TypeError, match="scores_q must have a real floating dtype"):
        zlpr_divergence(p, xp.asarray(np.zeros((2, 3), dtype=bool)))
    with pytest.raises(TypeError, match=r"takes 2 arrays \(scores_p, scores_q\)"):
        zlpr_divergence(p)


@BOTH
def test_rule(xp, symmetric):
    rng = np.random.default_rng(8)
    p, q = (xp.asarray(rng.normal(size=(4, 5))) for _ in range(2))
    weight, mask = xp.asarray(rng.random(4)), xp.asarray(rng.random((4, 5)) < 0.7)
    check_rule(zlpr_divergence, p, q, symmetric=symmetric)
    check_rule(zlpr_divergence, p, q, symmetric=symmetric, reduction="none", mask=mask, axis=0)
    check_rule(zlpr_divergence, p, q, symmetric=symmetric, reduction="sum", sample_weight=weight)


@BOTH
def test_hessian_is_diagonal(xp, symmetric):
    rng = np.random.default_rng(9)
    p, q, v = (rng.normal(size=(3, 4)) for _ in range(3))
    product = zlpr_divergence.hvp(*map(xp.asarray, (p, q, v)), symmetric=symmetric)
    ahead, behind = (
        xp.to_numpy(
            zlpr_divergence.value_and_grad(xp.asarray(p + h * v), xp.asarray(q), symmetric=symmetric)[1]
        )
        for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(xp.to_numpy(product), (ahead - behind) / 2e-5, atol=1e-10)


@BOTH
@pytest.mark.library("torch")
def test_torch_distributions_agree(symmetric):
    torch = pytest.importorskip("torch")
    from torch.distributions import Bernoulli, kl_divergence

    rng = np.random.default_rng(13)
    p, q = (torch.tensor(rng.normal(size=(4, 6)) * 2, requires_grad=True) for _ in range(2))
    theirs = kl_divergence(Bernoulli(logits=p), Bernoulli(logits=q))
    if symmetric:
        theirs = theirs + kl_divergence(Bernoulli(logits=q), Bernoulli(logits=p))
    gradients = torch.autograd.grad(theirs.sum(-1).mean(), (p, q))
    ours = value_and_both_gradients(p.detach(), q.detach(), symmetric=symmetric)
    torch.testing.assert_close(ours, (theirs.sum(-1).mean().detach(), *gradients), rtol=1e-12, atol=1e-14)


def test_scipy_agrees():
    special = pytest.importorskip("scipy.special")
    rng = np.random.default_rng(14)
    p, q = (rng.normal(size=(4, 6)) * 2 for _ in range(2))
    a, b = special.expit(p), special.expit(q)
    theirs = special.rel_entr(a, b) + special.rel_entr(1 - a, 1 - b)
    ours = zlpr_divergence(p, q, symmetric=False, reduction="none")
    np.testing.assert_allclose(ours, theirs.sum(-1), rtol=1e-13)


@BOTH
@pytest.mark.library("torch")
def test_torch_second_order(symmetric):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    p, q = rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    q[:, 0], p[0, 1], q[0, 2] = p[:, 0], 0.0, p[0, 2] + 4  # equal, at the fold of |p|, and beyond the series
    p, q = (torch.tensor(s, requires_grad=True) for s in (p, q))
    assert torch.autograd.gradcheck(lambda p, q: zlpr_divergence(p, q, symmetric=symmetric), (p, q))
    assert torch.autograd.gradgradcheck(lambda p, q: zlpr_divergence(p, q, symmetric=symmetric), (p, q))


@BOTH
@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break(symmetric):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(12)
    p, q = (torch.tensor(rng.normal(size=(3, 5))) for _ in range(2))

    def both(p, q):
        return value_and_both_gradients(p, q, symmetric=symmetric)

    torch.testing.assert_close(torch.compile(both, fullgraph=True, backend="aot_eager")(p, q), both(p, q))


@BOTH
@pytest.mark.library("jax")
def test_jax_hessian_under_jit(xp, symmetric):
    import jax

    rng = np.random.default_rng(11)
    p, q = rng.normal(size=5), rng.normal(size=5)
    p[0], q[1] = 0.0, p[1]
    p, q = xp.asarray(p), xp.asarray(q)
    hessian = jax.jit(jax.hessian(lambda p: zlpr_divergence(p, q, symmetric=symmetric)))(p)
    diagonal = zlpr_divergence.value_grad_hess(p, q, symmetric=symmetric)[2]
    np.testing.assert_allclose(hessian, np.diag(diagonal), atol=1e-15)
