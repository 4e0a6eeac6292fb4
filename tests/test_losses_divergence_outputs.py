"""softmax_divergence and gaussian_divergence against their exact twins, PyTorch's own, and by their identities."""

import math

import numpy as np
import pytest

from _exact import XLA_SLACK, assert_ulps
from zlpr import reference
from zlpr.losses import gaussian_divergence, gaussian_kl, softmax_cross_entropy, softmax_divergence
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
INF = math.inf
GAPS = (0.0, 1e-7, 1e-3, 0.3, 2.0, 8.0, 30.0, 200.0)
LIMIT = 10
CURVATURE_LIMIT = 12  # a difference, where the scores are a unit apart
CASES = [(softmax_divergence, 7), (softmax_divergence, 80), (gaussian_divergence, 8)]
NAMED = pytest.mark.parametrize(("rule", "width"), CASES, ids=[f"{r.__name__}-{w}" for r, w in CASES])


def pairs(width, dtype, seed=0):
    """Scores, and others that are equal to them, agree to many digits, to few, or not at all; a shift besides."""
    rng = np.random.default_rng(seed)
    p = (rng.normal(size=(len(GAPS), width)) * 3).astype(dtype)
    q = (p + rng.normal(size=p.shape) * np.asarray(GAPS)[:, None]).astype(dtype)
    return p, q


def exact_rows(rule, p, q, **opts):
    twin = getattr(reference, rule.__name__)
    rows = [twin(list(map(float, a)), list(map(float, b)), **opts) for a, b in zip(p, q, strict=True)]
    return (
        [r.value for r in rows],
        *([r.gradients[n] for r in rows] for n in rule.wrt),
        [r.hessian for r in rows],
    )


def all_parts(rule, p, q, **opts):
    value, gradients = rule.value_and_grad(p, q, argnums=(0, 1), reduction="none", **opts)
    return value, *gradients, rule.value_grad_hess(p, q, reduction="none", **opts)[2]


def assert_parts(xp, rule, p, q, dtype, **opts):
    with xp.no_sync():
        got = all_parts(rule, xp.asarray(p, dtype), xp.asarray(q, dtype), **opts)
    slack = XLA_SLACK.get(xp.name, 0)
    limits = (LIMIT + slack,) * 3 + (CURVATURE_LIMIT + slack,)
    for actual, exact, limit in zip(got, exact_rows(rule, p, q, **opts), limits, strict=True):
        xp.assert_like(actual, xp.asarray(p))
        assert_ulps(xp, actual, exact, dtype, limit)


@NAMED
@pytest.mark.parametrize("dtype", WIDE)
def test_value_gradients_and_curvature(xp, rule, width, dtype):
    assert_parts(xp, rule, *pairs(width, dtype), dtype)


@pytest.mark.parametrize(
    ("p", "q"),
    [([-46.5, 0.0], [-1e29, -1.0]), ([12.75, 9.0, 6.5], [0.0, 0.0, -1e12]), ([0.0, 0.0], [1e38, -1e38])],
)
def test_a_divergence_beyond_the_spacing_of_the_exponents_is_no_nan(xp, p, q):
    # The divergence is up to 10^38, and the numbers near it are up to 10^31 apart.
    p, q = np.asarray([p], dtype="float32"), np.asarray([q], dtype="float32")
    value, (slope,) = softmax_divergence.value_and_grad(
        xp.asarray(p), xp.asarray(q), argnums=(1,), reduction="none"
    )
    exact, exact_slope, *_ = (exact_rows(softmax_divergence, p, q)[i] for i in (0, 2))
    assert_ulps(xp, value, exact, "float32", LIMIT)
    assert_ulps(xp, slope, exact_slope, "float32", LIMIT)


@pytest.mark.parametrize(
    ("p", "q"),
    [([0.0, 1.0], [3e38, -3e38]), ([-3e38, 1.0, 0.0], [3e38, -1.0, 3e38]), ([3e38, -3e38], [-3e38, 3e38])],
)
def test_scores_whose_differences_overflow(xp, p, q):
    # The divergence is infinite in float32 where it is above 3.4 10^38, and the gradients are what they are.
    p, q = np.asarray([p], dtype="float32"), np.asarray([q], dtype="float32")
    got = softmax_divergence.value_and_grad(xp.asarray(p), xp.asarray(q), argnums=(0, 1), reduction="none")
    value, *slopes = exact_rows(softmax_divergence, p, q)[:3]
    if value[0] > float(np.finfo("float32").max):
        assert float(got[0][0]) == INF
    else:
        assert_ulps(xp, got[0], value, "float32", LIMIT)
    for slope, exact in zip(got[1], slopes, strict=True):
        assert_ulps(xp, slope, exact, "float32", LIMIT)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([-5.31, 12.13, -0.55], [-82.11, 12.13, -0.55]),
        ([2.36, 7.46, -1.66, -1.65], [2.36, 7.46, -1.66, -48.85]),
        ([0.0, 0.5, -17.0], [0.0, 0.5, -1e12]),
        ([0.0, 0.0, -20.0], [0.0, 0.0, 10.0]),
    ],
)
def test_an_unlikely_class_that_goes_far_moves_the_others_little(xp, p, q):
    # The likely classes share what the unlikely one loses: far less than the divergence and than their own shares.
    slope = softmax_divergence.value_and_grad(xp.asarray([p]), xp.asarray([q]), argnums=1)[1]
    exact = exact_rows(softmax_divergence, [p], [q])[2]
    assert_ulps(xp, slope, exact, "float64", LIMIT + XLA_SLACK.get(xp.name, 0))


def test_normals_that_agree_to_the_last_digits_of_tiny_numbers(xp):
    # What rounding takes off a difference of 10^-28 is far above the divergence, 10^-57.
    p, q = np.asarray([[1e-30, 9e-31]]), np.asarray([[1e-30, 9.15e-29]])
    value = gaussian_divergence(xp.asarray(p), xp.asarray(q), reduction="none")
    assert_ulps(xp, value, exact_rows(gaussian_divergence, p, q)[0], "float64", LIMIT)


def test_classes_that_do_not_count(xp):
    p, q = pairs(5, "float64")
    mask = np.random.default_rng(1).random(p.shape) < 0.6
    mask[0] = False
    value, slopes = softmax_divergence.value_and_grad(
        *map(xp.asarray, (p, q)), argnums=(0, 1), mask=xp.asarray(mask), reduction="none"
    )
    rows = [
        reference.softmax_divergence(list(a), list(b), mask=list(m))
        for a, b, m in zip(p, q, mask, strict=True)
    ]
    assert_ulps(xp, value, [r.value for r in rows], "float64", LIMIT + XLA_SLACK.get(xp.name, 0))
    for slope, name in zip(slopes, softmax_divergence.wrt, strict=True):
        exact = [r.gradients[name] for r in rows]
        assert_ulps(xp, slope, exact, "float64", LIMIT + XLA_SLACK.get(xp.name, 0))


def test_rows_of_which_nothing_counts_have_no_curvature(xp):
    p, q = (xp.asarray(np.asarray([x])) for x in ([1.0, 2.0], [2.0, 4.0]))
    mask = xp.asarray(np.zeros((1, 2), dtype=bool))
    for part in (
        softmax_divergence.value_grad_hess(p, q, mask=mask)[2],
        softmax_divergence.hvp(p, q, p, mask=mask),
    ):
        np.testing.assert_array_equal(xp.to_numpy(part), [[0.0, 0.0]])


def test_a_hessian_product_of_a_decided_row_keeps_its_digits(xp):
    scores, v = (xp.asarray(np.asarray([x])) for x in ([40.0, 0.0], [1.0, 3.0]))
    got = xp.to_numpy(softmax_divergence.hvp(scores, scores, v))
    np.testing.assert_allclose(got, [[-2 * math.exp(-40), 2 * math.exp(-40)]], rtol=1e-14)


def test_saturated_rows_and_gaps_of_any_size(xp):
    # The differences of the scores, or of the probabilities, alone would lose up to all digits in each of these rows.
    p = [
        [-20.0, 1e-6, -1e-6],
        [-300.0, -80.0, -3.0],
        [80.0, 0.5, -300.0],
        [0.0, -20.0, -40.0],
        [1.0, 1.0, 0.0],
    ]
    q = [
        [-1e30, 1.8, -3.7],
        [-80.0, 81.0, 1e30],
        [1e30, -299.0, 21.0],
        [1e-9, -19.0, -10.0],
        [1.0, 1.0, -1e30],
    ]
    got = all_parts(softmax_divergence, xp.asarray(p), xp.asarray(q))[:3]
    for actual, exact in zip(got, exact_rows(softmax_divergence, p, q)[:3], strict=True):
        assert_ulps(xp, actual, exact, "float64", 16)


@pytest.mark.parametrize(
    ("p", "q", "value"),
    [  # the limits, worked out by hand
        ([INF, 0.0], [INF, 0.0], 0.0),
        ([INF, 0.0], [0.0, 0.0], math.log(2)),
        ([INF, INF], [0.0, 0.0], 0.0),
        ([0.0, -INF], [0.0, 0.0], math.log(2)),
        ([0.0, 0.0], [0.0, -INF], INF),
        ([0.0, 0.0, 0.0], [1e300, 0.0, -INF], INF),
        ([-INF, 0.0], [-INF, 3.0], 0.0),
        ([1e300, 0.0], [0.0, 1e300], 1e300),
        ([math.nan, 0.0], [0.0, 0.0], math.nan),
    ],
)
def test_infinite_scores(xp, p, q, value):
    got, slopes = softmax_divergence.value_and_grad(xp.asarray([p]), xp.asarray([q]), argnums=(0, 1))
    np.testing.assert_allclose(float(got), value, rtol=1e-15)
    if math.isfinite(value):
        assert all(np.isfinite(xp.to_numpy(s)).all() for s in slopes)


@NAMED
def test_the_rule_and_its_curvature_at_agreement(xp, rule, width):
    rng = np.random.default_rng(0)
    p, q, v = (xp.asarray(rng.normal(size=(3, width))) for _ in range(3))
    check_rule(rule, p, q)
    product = xp.to_numpy(rule.hvp(p, p, v, reduction="sum"))
    step = 1e-5  # the gradient with respect to the second argument has the same Hessian there
    ahead, behind = (
        xp.to_numpy(rule.value_and_grad(p, p + s * v, argnums=1, reduction="sum")[1]) for s in (step, -step)
    )
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)


@NAMED
def test_hessian_product_away_from_agreement(xp, rule, width):
    rng = np.random.default_rng(1)
    p, q, v = (xp.asarray(rng.normal(size=(3, width))) for _ in range(3))
    step = 1e-5
    ahead, behind = (
        xp.to_numpy(rule.value_and_grad(p + s * v, q, reduction="sum")[1]) for s in (step, -step)
    )
    product = xp.to_numpy(rule.hvp(p, q, v, reduction="sum"))
    np.testing.assert_allclose(product, (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-8)


def test_it_is_cross_entropy_less_entropy(xp):
    rng = np.random.default_rng(2)
    p, q = rng.normal(size=(2, 5, 6)) * 3
    targets = np.exp(p) / np.exp(p).sum(axis=-1, keepdims=True)
    cross, entropy = (softmax_cross_entropy(s, targets, reduction="none") for s in (q, p))
    got = xp.to_numpy(softmax_divergence(xp.asarray(p), xp.asarray(q), reduction="none"))
    np.testing.assert_allclose(got, cross - entropy, rtol=1e-12)


def test_from_the_standard_normal_it_is_gaussian_kl(xp):
    rng = np.random.default_rng(3)
    outputs = rng.normal(size=(4, 6))
    got = xp.to_numpy(
        gaussian_divergence(xp.asarray(outputs), xp.asarray(np.zeros((4, 6))), reduction="none")
    )
    np.testing.assert_allclose(
        got, gaussian_kl(outputs[:, :3].copy(), outputs[:, 3:].copy(), reduction="none"), rtol=1e-14
    )


@pytest.mark.library("torch")
def test_pytorch_agrees(xp):
    import torch
    from torch.distributions import Categorical, Independent, Normal, kl_divergence

    rng = np.random.default_rng(4)
    p, q = (torch.asarray(a) for a in rng.normal(size=(2, 5, 6)))

    def normal(outputs):
        return Independent(Normal(outputs[:, :3], (0.5 * outputs[:, 3:]).exp()), 1)

    expected = kl_divergence(Categorical(logits=p), Categorical(logits=q))
    torch.testing.assert_close(softmax_divergence(p, q, reduction="none"), expected, rtol=1e-12, atol=0)
    expected = kl_divergence(normal(p), normal(q))
    torch.testing.assert_close(gaussian_divergence(p, q, reduction="none"), expected, rtol=1e-12, atol=0)


def test_outputs_come_in_pairs(xp):
    with pytest.raises(ValueError, match="as many log-variances as means"):
        gaussian_divergence(xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 3))))
