"""zlpr_loss against its exact twin, the golden values, the identities, and the failures of its peers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _exact import SHAPES, assert_ulps, hard_targets_of, scores_of, soft_targets_of
from zlpr import reference
from zlpr.losses import sigmoid_cross_entropy, softmax_cross_entropy, zlpr_loss, zlpr_minimum
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
GOLDEN_SCORES = np.asarray([[1.5, -0.5, 0.25, -2.0, 3.0]])


def exact_of(scores, targets, **opts):
    """The twins of the rows; an option with an axis holds a number a row."""
    per_row = {k: v for k, v in opts.items() if np.ndim(v) and k != "class_weight"}
    shared = {k: v for k, v in opts.items() if k not in per_row}
    return [
        reference.zlpr_loss(
            list(map(float, s)), list(map(float, t)), **shared, **{k: v[i] for k, v in per_row.items()}
        )
        for i, (s, t) in enumerate(zip(scores, targets, strict=True))
    ]


def exact_rows(scores, targets, **opts):
    """Values, gradients and Hessian diagonals of the rows."""
    rows = exact_of(scores, targets, **opts)
    return (
        [r.value for r in rows],
        [r.gradient for r in rows],
        [r.hessian for r in rows],
        [r.threshold_gradient for r in rows],
    )


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_hard_labels_are_within_4_ulp(xp, shape, dtype, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    s, t = xp.asarray(scores), xp.asarray(targets)
    with xp.no_sync():
        value, gradient = zlpr_loss.value_and_grad(s, t, reduction="none")
    xp.assert_like(gradient, s)
    values, gradients, *_ = exact_rows(scores, targets)
    assert_ulps(xp, value, values, dtype, 4)
    assert_ulps(xp, gradient, gradients, dtype, 4)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_soft_labels_are_within_4_ulp(xp, shape, dtype, data):
    scores, targets = data.draw(scores_of(shape, dtype)), data.draw(soft_targets_of(shape, dtype))
    value, gradient = zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets), reduction="none")
    values, gradients, *_ = exact_rows(scores, targets)
    assert_ulps(xp, value, values, dtype, 4)
    assert_cancelling(xp, gradient, gradients, scores, targets, dtype)


def assert_cancelling(xp, gradient, gradients, scores, targets, dtype):
    """A soft gradient is p - q of one class: its scale is the larger of the two, which 1 bounds."""
    scale = [[*map(abs, row), 1] for row in gradients]
    padded = np.concatenate((xp.to_numpy(gradient), np.ones((len(scale), 1))), axis=1).astype(dtype)
    exact = [[*row, 1] for row in gradients]
    assert np.all(np.isfinite(padded))
    assert_ulps(xp, xp.asarray(padded), exact, dtype, 4)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("scale", [1, 3, 30])
def test_random_rows_are_within_4_ulp(xp, dtype, scale):
    rng = np.random.default_rng(scale)
    scores = (rng.normal(size=(6, 300)) * scale).astype(dtype)
    for share in (0.01, 0.4):
        targets = rng.random(scores.shape) < share
        value, gradient = zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets), reduction="none")
        values, gradients, *_ = exact_rows(scores, targets)
        assert_ulps(xp, value, values, dtype, 4)
        assert_ulps(xp, gradient, gradients, dtype, 4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-14)])
@pytest.mark.parametrize("margin", [10.0, 15.0, 20.0, 40.0, 80.0])
def test_saturated_rows_keep_their_digits(xp, dtype, tolerance, margin):
    # Two positives at the margin, eight negatives at its opposite: here the popular forms give 0 or less.
    targets = np.arange(10)[None] < 2
    scores = np.where(targets, margin, -margin).astype(dtype)
    value, gradient = zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets))
    (exact,), (slopes,), *_ = exact_rows(scores, targets)
    assert float(xp.to_numpy(value)) == pytest.approx(float(exact), rel=tolerance, abs=0)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], [float(g) for g in slopes], rtol=tolerance, atol=0)


def test_golden_values(xp):
    # From mpmath, 40 digits.
    s, y = xp.asarray(GOLDEN_SCORES), xp.asarray(np.asarray([[1, 0, 1, 0, 0]]))
    value, gradient = zlpr_loss.value_and_grad(s, y)
    assert float(value) == pytest.approx(3.7772783790266635, rel=1e-15)
    expected = [
        -0.11145747105020276,
        0.027787578001485764,
        -0.38902479913658226,
        0.0062002467296085042,
        0.9201982043566172,
    ]
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], expected, rtol=1e-15)
    assert float(zlpr_loss(s, y, threshold=0.5)) == pytest.approx(3.5877317923801084, rel=1e-15)
    assert float(zlpr_loss(s, y * 0)) == pytest.approx(3.3175663703627007, rel=1e-15)
    assert float(zlpr_loss(s, y * 0 + 1)) == pytest.approx(2.4059982981826102, rel=1e-15)


def test_golden_values_of_soft_labels(xp):
    s, t = xp.asarray(GOLDEN_SCORES), xp.asarray(np.asarray([[0.9, 0.1, 0.5, 0.0, 1.0]]))
    value, gradient = zlpr_loss.value_and_grad(s, t)
    assert float(value) == pytest.approx(1.6098429168030153, rel=1e-15)
    expected = [
        0.050448784821388574,
        0.1056204270164147,
        0.015907895516317174,
        0.048832919171163878,
        -0.027584747207263871,
    ]
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], expected, rtol=1e-14)


INF = math.inf


@pytest.mark.parametrize(
    ("scores", "targets", "value", "gradient"),
    [  # the limits, worked out by hand
        ([0.0, 0.0, 0.0], [0, 0, 0], 1.3862943611198906, [0.25, 0.25, 0.25]),
        ([0.0, 0.0, 0.0], [1, 1, 1], 1.3862943611198906, [-0.25, -0.25, -0.25]),
        ([1000.0], [0], 1000.0, [1.0]),
        ([-1000.0], [1], 1000.0, [-1.0]),
        ([-INF, 0.0], [0, 0], math.log(2), [0.0, 0.5]),
        ([INF, 0.0], [1, 0], math.log(2), [0.0, 0.5]),
        ([INF, 5.0, INF], [0, 0, 0], INF, [0.5, 0.0, 0.5]),
        ([-INF, -5.0, -INF], [1, 1, 1], INF, [-0.5, 0.0, -0.5]),
        ([-1e12, 0.0], [0, 0], math.log(2), [0.0, 0.5]),
        ([-1e12], [1], 1e12, [-1.0]),
    ],
)
def test_edge_cases(xp, scores, targets, value, gradient):
    got, slope = zlpr_loss.value_and_grad(xp.asarray(np.asarray([scores])), xp.asarray(np.asarray([targets])))
    np.testing.assert_allclose(float(got), value, rtol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(slope)[0], gradient, rtol=1e-15)


def test_nan_stays_in_its_row_and_block(xp):
    s = xp.asarray(np.asarray([[np.nan, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]))
    y = xp.asarray(np.asarray([[1, 1, 0, 0], [1, 1, 0, 0]]))
    value, gradient = zlpr_loss.value_and_grad(s, y, reduction="none")
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False])
    np.testing.assert_array_equal(
        np.isnan(xp.to_numpy(gradient)), [[True, True, False, False], [False, False, False, False]]
    )


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_empty_axes(xp, shape):
    s, y = xp.asarray(np.zeros(shape)), xp.asarray(np.zeros(shape, dtype=bool))
    value, gradient = zlpr_loss.value_and_grad(s, y, reduction="none")
    assert tuple(gradient.shape) == shape
    np.testing.assert_array_equal(xp.to_numpy(value), np.zeros(shape[0]))
    assert float(zlpr_loss(s, y, reduction="sum")) == 0.0


def test_everything_masked_is_zero(xp):
    s, y = xp.asarray(np.asarray([[np.inf, np.nan]])), xp.asarray(np.asarray([[0, 1]]))
    value, gradient = zlpr_loss.value_and_grad(s, y, mask=xp.asarray(np.zeros((1, 2), dtype=bool)))
    assert float(value) == 0.0
    np.testing.assert_array_equal(xp.to_numpy(gradient), [[0.0, 0.0]])


@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_threshold_and_its_gradient(xp, dtype, data):
    shape = (3, 5)
    scores, targets = data.draw(scores_of(shape, dtype)), data.draw(hard_targets_of(shape))
    thresholds = data.draw(scores_of((3,), dtype))
    value, (gradient, slope) = zlpr_loss.value_and_grad(
        xp.asarray(scores),
        xp.asarray(targets),
        threshold=xp.asarray(thresholds),
        argnums=(0, 1),
        reduction="none",
    )
    values, gradients, _, slopes = exact_rows(scores, targets, threshold=[float(t) for t in thresholds])
    assert_ulps(xp, value, values, dtype, 4)
    assert_ulps(xp, gradient, [[*row] for row in gradients], dtype, 4)
    assert np.all(np.abs(xp.to_numpy(slope) - np.asarray(slopes, dtype=float)) <= 4 * np.finfo(dtype).eps)


def test_scores_and_threshold_move_together(xp):
    # Joint shift invariance: the gradients sum to zero.
    rng = np.random.default_rng(0)
    s, y = xp.asarray(rng.normal(size=(4, 9)) * 5), xp.asarray(rng.random((4, 9)) < 0.4)
    _, (gradient, slope) = zlpr_loss.value_and_grad(
        s, y, threshold=xp.asarray(rng.normal(size=4)), argnums=(0, 1), reduction="none"
    )
    np.testing.assert_allclose(xp.to_numpy(gradient).sum(axis=1) + xp.to_numpy(slope), 0, atol=1e-15)


def test_a_shared_threshold_gets_the_sum(xp):
    rng = np.random.default_rng(1)
    s, y = xp.asarray(rng.normal(size=(4, 9))), xp.asarray(rng.random((4, 9)) < 0.4)
    one, many = xp.asarray(np.asarray(0.25)), xp.asarray(np.full(4, 0.25))
    _, shared = zlpr_loss.value_and_grad(s, y, threshold=one, argnums="threshold")
    _, each = zlpr_loss.value_and_grad(s, y, threshold=many, argnums="threshold")
    assert tuple(shared.shape) == ()
    assert float(shared) == pytest.approx(xp.to_numpy(each).sum(), rel=1e-14)
    _, pullback = zlpr_loss.vjp(s, y, threshold=one, argnums=1, reduction="none")
    weights = rng.random(4)
    _, rows = zlpr_loss.value_and_grad(s, y, threshold=many, argnums=1, reduction="none")
    assert float(pullback(xp.asarray(weights))) == pytest.approx(
        float(weights @ xp.to_numpy(rows)), rel=1e-14
    )


@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_hessian_diagonal(xp, dtype, data):
    shape = (3, 5)
    scores, targets = data.draw(scores_of(shape, dtype)), data.draw(hard_targets_of(shape))
    value, gradient, hessian = zlpr_loss.value_grad_hess(
        xp.asarray(scores), xp.asarray(targets), reduction="none"
    )
    values, gradients, hessians, _ = exact_rows(scores, targets)
    assert_ulps(xp, value, values, dtype, 4)
    assert_ulps(xp, gradient, gradients, dtype, 4)
    assert_ulps(xp, hessian, hessians, dtype, 8)


def test_hessian_product_is_the_derivative_of_the_gradient(xp):
    rng = np.random.default_rng(2)
    scores, targets, v = rng.normal(size=(3, 6)), rng.random((3, 6)), rng.normal(size=(3, 6))
    mask, weight = rng.random((3, 6)) < 0.8, rng.random(3)
    opts = {"mask": xp.asarray(mask), "sample_weight": xp.asarray(weight)}
    t = xp.asarray(targets)
    product = zlpr_loss.hvp(xp.asarray(scores), t, xp.asarray(v), **opts)
    ahead, behind = (
        xp.to_numpy(zlpr_loss.value_and_grad(xp.asarray(scores + h * v), t, **opts)[1]) for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(xp.to_numpy(product), (ahead - behind) / 2e-5, atol=1e-10)


def test_one_class_is_binary_cross_entropy(xp):
    # scikit-learn's HalfBinomialLoss, goldens of its own tests: y, s, loss, gradient, hessian. The
    # Hessian at 232.8 is exp(-232.8) here: theirs, 1.43e-101, is compared with an absolute tolerance there, and wrong.
    for y, s, loss, gradient, hessian in (
        (0, -37.0, 8.533047625744065e-17, 8.533047625744065e-17, 8.533047625744065e-17),
        (0, -36.9, 9.430476078526806e-17, 9.430476078526806e-17, 9.430476078526806e-17),
        (1, -37.0, 37.0, -1.0, 8.533047625744065e-17),
        (0, 232.8, 232.8, 1.0, math.exp(-232.8)),
        (1, 1e20, 0.0, 0.0, 0.0),
        (0, -1e20, 0.0, 0.0, 0.0),
    ):
        got = zlpr_loss.value_grad_hess(xp.asarray(np.asarray([[s]])), xp.asarray(np.asarray([[y]])))
        np.testing.assert_allclose(
            [float(xp.to_numpy(x).ravel()[0]) for x in got], [loss, gradient, hessian], rtol=2e-15
        )


def test_at_most_the_sum_of_the_sigmoid_losses(xp):
    rng = np.random.default_rng(3)
    s, y = xp.asarray(rng.normal(size=(50, 8)) * 3), xp.asarray(rng.random((50, 8)) < 0.3)
    ours = xp.to_numpy(zlpr_loss(s, y, reduction="none"))
    theirs = xp.to_numpy(sigmoid_cross_entropy(s, y, reduction="none"))
    assert np.all(ours <= theirs * (1 + 1e-15))


def test_two_softmax_losses_with_an_added_zero(xp):
    # Composition: zlpr = CE([negatives, 0], the 0) + CE([-positives, 0], the 0).
    rng = np.random.default_rng(4)
    scores, targets = rng.normal(size=(1, 7)) * 4, np.asarray([[1, 0, 0, 1, 0, 1, 0]])
    parts = [np.append(scores[targets == 0], 0.0), np.append(-scores[targets == 1], 0.0)]
    total = sum(
        float(softmax_cross_entropy(xp.asarray(p[None]), xp.asarray(np.asarray([len(p) - 1])))) for p in parts
    )
    assert float(zlpr_loss(xp.asarray(scores), xp.asarray(targets))) == pytest.approx(total, rel=1e-14)


def test_label_smoothing_mixes_the_targets(xp):
    rng = np.random.default_rng(5)
    scores, targets = rng.normal(size=(3, 6)), rng.random((3, 6)) < 0.5
    s = xp.asarray(scores)
    smoothed = zlpr_loss(s, xp.asarray(targets), label_smoothing=0.1, reduction="none")
    values, *_ = exact_rows(scores, targets, label_smoothing=0.1)
    np.testing.assert_allclose(xp.to_numpy(smoothed), np.asarray(values, dtype=float), rtol=1e-14)


def test_the_minimum_over_scores_of_soft_labels(xp):
    # At s = logit(t) / 2 the gradient is 0 and the loss 2 log(1 + Σ sqrt(t (1 - t))).
    targets = np.asarray([[0.2, 0.7, 0.5]])
    s = xp.asarray(0.5 * np.log(targets / (1 - targets)))
    value, gradient = zlpr_loss.value_and_grad(s, xp.asarray(targets))
    assert float(value) == pytest.approx(2 * math.log1p(np.sqrt(targets * (1 - targets)).sum()), rel=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient), 0, atol=1e-16)


def test_rule(xp):
    rng = np.random.default_rng(6)
    s, t = xp.asarray(rng.normal(size=(4, 5))), xp.asarray(rng.random((4, 5)))
    y = xp.asarray(rng.random((4, 5)) < 0.4)
    check_rule(zlpr_loss, s, y)
    check_rule(
        zlpr_loss, s, t, threshold=xp.asarray(rng.normal(size=4)), reduction="none", label_smoothing=0.1
    )
    check_rule(zlpr_loss, s, t, threshold=xp.asarray(np.asarray(0.3)), mask=y, reduction="sum")


def test_the_gradient_of_the_targets(xp):
    # e^-s / B - e^s / A, and no nan where an exponential overflows.
    rng = np.random.default_rng(7)
    scores, targets = rng.normal(size=(1, 5)), rng.random((1, 5))
    _, gradient = zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets), argnums="targets")
    up, down = 1 + np.sum((1 - targets) * np.exp(scores)), 1 + np.sum(targets * np.exp(-scores))
    np.testing.assert_allclose(
        xp.to_numpy(gradient), np.exp(-scores) / down - np.exp(scores) / up, rtol=1e-13
    )
    huge = np.asarray([[1e38, 0.0], [np.inf, 0.0], [-3e38, 3e38]], dtype=np.float32)
    half = np.full((3, 2), 0.5, dtype=np.float32)
    for threshold in (0.0, -3e38):
        _, slope = zlpr_loss.value_and_grad(
            xp.asarray(huge), xp.asarray(half), argnums="targets", threshold=threshold
        )
        assert not np.any(np.isnan(xp.to_numpy(slope)))


@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_the_gradient_of_the_targets_is_exact(xp, dtype, data):
    shape = (3, 5)
    scores, targets = data.draw(scores_of(shape, dtype)), data.draw(soft_targets_of(shape, dtype))
    _, slope = zlpr_loss.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), argnums="targets", reduction="none", label_smoothing=0.25
    )
    rows = exact_of(scores, targets, label_smoothing=0.25)
    slope = xp.to_numpy(slope).astype(float)
    eps = float(np.finfo(dtype).eps)
    for got, exact in zip(slope, rows, strict=True):
        size = max(1.0, max(abs(float(e)) for e in exact.targets_gradient))
        for a, e in zip(got, exact.targets_gradient, strict=True):
            assert abs(a - float(e)) <= 8 * eps * size


@pytest.mark.parametrize(
    ("scores", "targets", "opts"),
    [
        ([0.3, 0.5], [1.0, 1.0], {"threshold": 1000.0}),
        ([0.3, 0.1, -0.2], [0.0, 0.0, 1.0], {"threshold": -1e4}),
        ([-11.882906], [1.0], {"threshold": 1e4}),
        ([50.3, 50.3001, 50.29], [0.0, 0.0, 0.0], {"temperature": 1e-3}),
        ([50.3, 50.30001, 50.29], [0.0, 0.0, 0.0], {"temperature": 1e-4}),
        ([-4.44, 2.0], [0.5, 0.0], {"threshold": 100.0, "temperature": 1e-2, "label_smoothing": 0.1}),
    ],
)
def test_what_rounding_takes_off_far_scores_is_counted(xp, scores, targets, opts):
    # It is up to half the spacing of numbers of the size of the threshold: no small number, as which it had counted.
    scores, targets = (np.asarray([x], dtype="float32") for x in (scores, targets))
    value, slopes = zlpr_loss.value_and_grad(
        *map(xp.asarray, (scores, targets)), argnums=("scores", "targets"), reduction="none", **opts
    )
    (exact,) = exact_of(scores, targets, **opts)
    assert_ulps(xp, value, [exact.value], "float32", 4)
    assert_ulps(xp, slopes[0], [exact.gradient], "float32", 4)
    assert_ulps(xp, slopes[1], [exact.targets_gradient], "float32", 4)


def test_a_threshold_beyond_all_digits_of_the_scores(xp):
    # Of scores less -10^10 float32 keeps multiples of 1024: all that tells them apart is what rounding took.
    scores = xp.asarray(np.asarray([[45.0, 23.0]], dtype="float32"))
    targets = xp.asarray(np.zeros((1, 2), dtype="float32"))
    slopes = zlpr_loss.value_and_grad(scores, targets, argnums=("scores", "targets"), threshold=-1e10)[1]
    for slope, sign in zip(slopes, (1, -1), strict=True):
        np.testing.assert_allclose(xp.to_numpy(slope), [[sign, sign * math.exp(-22)]], rtol=1e-6)


def test_a_weight_of_0_leaves_a_row_out_whose_gradient_overflows(xp):
    scores, targets = np.asarray([[800.0, 700.0], [1.0, 2.0]]), np.asarray([[1.0, 1.0], [1.0, 0.0]])
    weights = xp.asarray(np.asarray([0.0, 1.0]))
    slope = zlpr_loss.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), argnums="targets", sample_weight=weights
    )[1]
    alone = zlpr_loss.value_and_grad(xp.asarray(scores[1:]), xp.asarray(targets[1:]), argnums="targets")[1]
    np.testing.assert_allclose(xp.to_numpy(slope), [[0.0, 0.0], *xp.to_numpy(alone)], rtol=1e-14)


@pytest.mark.parametrize(
    ("scores", "product"),
    [  # q - p.v and p (v - p.v) for v = 1, 3, worked out with the shares e^-40 and e^-40 of another class and of 0
        ([40.0, 0.0], [-math.exp(-40), 2 * math.exp(-40)]),
        ([-40.0, -41.0], [math.exp(-40), 3 * math.exp(-41)]),
    ],
)
def test_hessian_products_of_decided_rows(xp, scores, product):
    v, none = np.asarray([[1.0, 3.0]]), np.zeros((1, 2), dtype=bool)
    got = zlpr_loss.hvp(xp.asarray(np.asarray([scores])), xp.asarray(none), xp.asarray(v))
    np.testing.assert_allclose(xp.to_numpy(got), [product], rtol=1e-14)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("temperature", [0.3, 3.0])
@given(data=st.data())
def test_temperature_is_within_4_ulp(xp, dtype, temperature, data):
    shape = (3, 5)
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    got = zlpr_loss.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), temperature=temperature, reduction="none"
    )
    for actual, exact in zip(got, exact_rows(scores, targets, temperature=temperature)[:2], strict=True):
        assert_ulps(xp, actual, exact, dtype, 4)


@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_class_weights_are_within_5_ulp(xp, dtype, data):
    # One more than without: the product of the weight and the exponential is rounded.
    shape, weights = (3, 5), np.asarray([0.25, 1.0, 3.0, 1e-3, 70.0])
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    got = zlpr_loss.value_and_grad(
        xp.asarray(scores),
        xp.asarray(targets),
        class_weight=xp.asarray(weights.astype(dtype)),
        reduction="none",
    )
    exact = exact_rows(scores, targets, class_weight=[float(w) for w in weights.astype(dtype)])
    for actual, truth in zip(got, exact[:2], strict=True):
        assert_ulps(xp, actual, truth, dtype, 5)


def test_class_weights_are_margins(xp):
    # log w added to a negative's score and taken off a positive's.
    rng = np.random.default_rng(8)
    scores, targets, weights = rng.normal(size=(4, 6)), rng.random((4, 6)) < 0.4, rng.random(6) + 0.1
    moved = scores + np.where(targets, -1, 1) * np.log(weights)
    s, y = xp.asarray(scores), xp.asarray(targets)
    ours = zlpr_loss.value_grad_hess(s, y, class_weight=xp.asarray(weights), reduction="none")
    theirs = zlpr_loss.value_grad_hess(xp.asarray(moved), y, reduction="none")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=1e-14)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_scales_scores_and_loss(xp, temperature):
    rng = np.random.default_rng(9)
    scores, targets, thresholds = rng.normal(size=(4, 6)), rng.random((4, 6)), rng.normal(size=4)
    t = xp.asarray(targets)
    ours = zlpr_loss.value_and_grad(
        xp.asarray(scores),
        t,
        threshold=xp.asarray(thresholds),
        temperature=temperature,
        argnums=(0, 1, 2),
        reduction="none",
    )
    theirs = zlpr_loss.value_and_grad(
        xp.asarray(scores / temperature),
        t,
        threshold=xp.asarray(thresholds / temperature),
        argnums=(0, 1, 2),
        reduction="none",
    )
    np.testing.assert_allclose(xp.to_numpy(ours[0]), temperature * xp.to_numpy(theirs[0]), rtol=1e-14)
    for a, b, factor in zip(ours[1], theirs[1], (1, 1, temperature), strict=True):
        np.testing.assert_allclose(xp.to_numpy(a), factor * xp.to_numpy(b), rtol=1e-12, atol=1e-14)
    v = rng.normal(size=(4, 6))
    np.testing.assert_allclose(
        xp.to_numpy(zlpr_loss.hvp(xp.asarray(scores), t, xp.asarray(v), temperature=temperature)),
        xp.to_numpy(zlpr_loss.hvp(xp.asarray(scores / temperature), t, xp.asarray(v))) / temperature,
        rtol=1e-12,
        atol=1e-14,
    )


def test_exponents_without_a_digit_behind_the_point(xp):
    # What rounding takes off 1e30 / 0.3 is no small number, and no correction of an exponential.
    scores, targets = np.asarray([[1e30, 2.0], [-1e30, 5e29]]), np.asarray([[0, 1], [1, 0]])
    value, gradient = zlpr_loss.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), temperature=0.3, threshold=30.0, reduction="none"
    )
    np.testing.assert_allclose(xp.to_numpy(value), [1e30, 1.5e30], rtol=1e-14)
    np.testing.assert_allclose(xp.to_numpy(gradient), [[1.0, -1.0], [-1.0, 1.0]], rtol=1e-14)


def test_a_low_temperature_is_the_worst_class_of_each_side(xp):
    # Towards 0: max(0, max of the negatives) + max(0, max of -positives).
    scores, targets = np.asarray([[3.0, 1.0, -2.0, 0.5]]), np.asarray([[0, 0, 1, 1]])
    value = zlpr_loss(xp.asarray(scores), xp.asarray(targets), temperature=1e-3)
    assert float(value) == pytest.approx(3.0 + 2.0, rel=1e-12)


OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"temperature": 0.5},
    {"class_weight": np.asarray([0.5, 1.0, 2.0, 3.0, 1.0])},
]


@pytest.mark.parametrize("opts", OPTIONS)
@pytest.mark.parametrize("soft", [True, False])
def test_the_minimum_is_exact_and_the_excess_is_not_negative(xp, soft, opts):
    rng = np.random.default_rng(10)
    targets = rng.random((4, 5)) if soft else rng.random((4, 5)) < 0.5
    given = {k: xp.asarray(v) if np.ndim(v) else v for k, v in opts.items()}
    told = {k: [float(w) for w in v] if np.ndim(v) else v for k, v in opts.items()}
    floor = zlpr_minimum(xp.asarray(targets), reduction="none", **given)
    exact = [reference.zlpr_minimum(list(map(float, row)), **told) for row in targets]
    if soft:
        assert_ulps(xp, floor[:, None], [[e] for e in exact], "float64", 4)
    for scale in (0.1, 1.0, 10.0):
        loss = zlpr_loss(
            xp.asarray(rng.normal(size=(4, 5)) * scale), xp.asarray(targets), reduction="none", **given
        )
        assert np.all(xp.to_numpy(loss) >= xp.to_numpy(floor) * (1 - 1e-15))


def test_the_minimum_of_hard_labels_is_0(xp):
    targets = xp.asarray(np.asarray([[True, False], [False, False]]))
    np.testing.assert_array_equal(xp.to_numpy(zlpr_minimum(targets, reduction="none")), [0.0, 0.0])
    assert float(zlpr_minimum(targets, label_smoothing=0.1)) == pytest.approx(
        2 * math.log1p(2 * math.sqrt(0.05 * 0.95)), rel=1e-6
    )


def test_the_minimum_takes_masks_and_weights(xp):
    targets, mask = np.asarray([[0.5, 0.2], [0.5, 0.7]]), np.asarray([[True, False], [True, True]])
    weights = np.asarray([3.0, 1.0])
    each = [2 * math.log1p(0.5), 2 * math.log1p(0.5 + math.sqrt(0.21))]
    got = zlpr_minimum(xp.asarray(targets), mask=xp.asarray(mask), sample_weight=xp.asarray(weights))
    assert float(got) == pytest.approx((3 * each[0] + each[1]) / 4, rel=1e-14)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a positive finite number, got 0.0"),
        ({"temperature": "hot"}, "temperature must be a positive finite number, got 'hot'"),
        (
            {"temperature": 1e-310},
            "temperature must be a normal number of the dtype to compute in, got 1e-310",
        ),
        ({"class_weight": np.ones(3)}, r"class_weight must have one entry a class, shape \(2,\), not \(3,\)"),
    ],
)
def test_options_are_checked(xp, opts, message):
    given = {k: xp.asarray(v) if np.ndim(v) else v for k, v in opts.items()}
    with pytest.raises(ValueError, match=message):
        zlpr_loss(xp.asarray(np.zeros((1, 2))), xp.asarray(np.zeros((1, 2), dtype=bool)), **given)


def test_a_threshold_beyond_the_dtype_is_refused(xp):
    scores, targets = xp.asarray(np.zeros((1, 2), dtype="float32")), xp.asarray(np.zeros((1, 2), dtype=bool))
    with pytest.raises(ValueError, match=r"threshold must be a finite number or an array, got 1e\+39"):
        zlpr_loss(scores, targets, threshold=1e39)


@pytest.mark.library("numpy", "torch")
def test_class_weights_are_positive(xp):
    with pytest.raises(ValueError, match=r"class_weight must be positive and finite, got 0"):
        zlpr_loss(
            xp.asarray(np.zeros((1, 2))),
            xp.asarray(np.zeros((1, 2), dtype=bool)),
            class_weight=xp.asarray(np.asarray([1.0, 0.0])),
        )


def test_the_majorant_is_nowhere_below_the_hessian(xp):
    rng = np.random.default_rng(11)
    scores = rng.normal(size=(6, 5)) * 3
    for targets in (rng.random((6, 5)) < 0.4, rng.random((6, 5))):
        s, t = xp.asarray(scores), xp.asarray(targets)
        _, _, bound = zlpr_loss.value_grad_hess(s, t, curvature="majorant", reduction="sum")
        columns = [
            xp.to_numpy(zlpr_loss.hvp(s, t, xp.asarray(np.tile(e, (6, 1))), reduction="sum"))
            for e in np.eye(5)
        ]
        for row, hessian in zip(xp.to_numpy(bound), np.stack(columns, axis=-1), strict=True):
            assert np.linalg.eigvalsh(np.diag(row) - hessian).min() >= -1e-14
    with pytest.raises(ValueError, match='curvature must be "exact" or "majorant", not'):
        zlpr_loss.value_grad_hess(s, t, curvature="bound")
