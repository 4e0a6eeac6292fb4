"""softmax_cross_entropy against its exact twin; PyTorch's and optax's lost digits are its regression tests."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _exact import XLA_SLACK, assert_ulps, scores_of, soft_targets_of
from zlpr import reference
from zlpr.losses import softmax_cross_entropy
from zlpr.validation import check_rule

WIDE = ("float32", "float64")


def exact_rows(scores, targets, **opts):
    rows = [
        reference.softmax_cross_entropy(
            list(map(float, s)), int(t) if np.ndim(t) == 0 else list(map(float, t)), **opts
        )
        for s, t in zip(scores, targets, strict=True)
    ]
    return [r.value for r in rows], [r.gradient for r in rows], [r.hessian for r in rows]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 40)])
@given(data=st.data())
def test_indices_are_within_4_ulp(xp, shape, dtype, data):
    scores = data.draw(scores_of(shape, dtype))
    targets = np.asarray(
        data.draw(st.lists(st.integers(0, shape[1] - 1), min_size=shape[0], max_size=shape[0]))
    )
    with xp.no_sync():
        value, gradient, hessian = softmax_cross_entropy.value_grad_hess(
            xp.asarray(scores), xp.asarray(targets), reduction="none"
        )
    values, gradients, hessians = exact_rows(scores, targets)
    assert_ulps(xp, value, values, dtype, 4 + XLA_SLACK.get(xp.name, 0))
    assert_ulps(xp, gradient, gradients, dtype, 4 + XLA_SLACK.get(xp.name, 0))
    assert_ulps(xp, hessian, hessians, dtype, 8)


@given(data=st.data())
def test_distributions(xp, data):
    shape = (3, 5)
    scores, weights = data.draw(scores_of(shape, "float64")), data.draw(soft_targets_of(shape, "float64"))
    targets = (weights + 1e-3) / (weights + 1e-3).sum(axis=1, keepdims=True)
    value, gradient = softmax_cross_entropy.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), reduction="none"
    )
    values, gradients, _ = exact_rows(scores, targets)
    assert_ulps(xp, value, values, "float64", 4)
    np.testing.assert_allclose(xp.to_numpy(gradient), np.asarray(gradients, dtype=float), atol=2e-15)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("margin", [17.0, 20.0, 40.0, 80.0])
def test_a_confident_right_answer_keeps_its_digits(xp, dtype, margin):
    # PyTorch and optax: loss 0 and gradient 0 from margin 17 in float32.
    scores = np.asarray([[margin, 0.1, 0.0]]).astype(dtype)
    value, gradient = softmax_cross_entropy.value_and_grad(
        xp.asarray(scores), xp.asarray(np.asarray([0])), reduction="none"
    )
    values, gradients, _ = exact_rows(scores, [0])
    assert_ulps(xp, value, values, dtype, 4 + XLA_SLACK.get(xp.name, 0))
    assert_ulps(xp, gradient, gradients, dtype, 4 + XLA_SLACK.get(xp.name, 0))


def test_edge_cases(xp):
    inf = math.inf
    rows = np.asarray(
        [[inf, 0.0, inf], [-inf, 0.0, -inf], [0.0, -inf, 1.0], [-inf, -inf, -inf], [np.nan, 0.0, 1.0]]
    )
    value, gradient = softmax_cross_entropy.value_and_grad(
        xp.asarray(rows), xp.asarray(np.asarray([0, 1, 1, 2, 0])), reduction="none"
    )
    np.testing.assert_allclose(xp.to_numpy(value), [math.log(2), 0.0, inf, math.log(3), np.nan], rtol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], [-0.5, 0.0, 0.5])
    np.testing.assert_array_equal(xp.to_numpy(gradient)[1], [0.0, 0.0, 0.0])


def test_a_masked_target_leaves_nothing(xp):
    scores = xp.asarray(np.asarray([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]))
    mask = xp.asarray(np.asarray([[True, True, False], [False, False, False]]))
    value, gradient = softmax_cross_entropy.value_and_grad(
        scores, xp.asarray(np.asarray([2, 0])), mask=mask, reduction="none"
    )
    np.testing.assert_array_equal(xp.to_numpy(value), [0.0, 0.0])
    smoothed = softmax_cross_entropy(
        scores, xp.asarray(np.asarray([2, 0])), mask=mask, label_smoothing=0.1, reduction="none"
    )
    np.testing.assert_array_equal(xp.to_numpy(smoothed), [0.0, 0.0])
    np.testing.assert_array_equal(xp.to_numpy(gradient), np.zeros((2, 3)))


def test_smoothing_spreads_over_the_classes_that_count(xp):
    rng = np.random.default_rng(0)
    scores, mask = rng.normal(size=(2, 4)), np.asarray([[True, True, True, False]] * 2)
    s, y = xp.asarray(scores), xp.asarray(np.asarray([0, 1]))
    got = softmax_cross_entropy(s, y, label_smoothing=0.2, mask=xp.asarray(mask), reduction="none")
    kept = softmax_cross_entropy(s[:, :3], y, label_smoothing=0.2, reduction="none")
    np.testing.assert_allclose(xp.to_numpy(got), xp.to_numpy(kept), rtol=1e-15)


@pytest.mark.library("torch")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pytorch_agrees_at_small_margins(smoothing):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    s, y = torch.from_numpy(rng.normal(size=(8, 5))), torch.from_numpy(rng.integers(0, 5, 8))
    theirs = torch.nn.functional.cross_entropy(s, y, label_smoothing=smoothing)
    assert float(softmax_cross_entropy(s, y, label_smoothing=smoothing)) == pytest.approx(
        float(theirs), rel=1e-14
    )


@pytest.mark.library("jax")
def test_optax_golden_values():
    # optax/losses/_classification_test.py: these logits and labels give these losses.
    import jax.numpy as jnp

    value = softmax_cross_entropy(
        jnp.asarray([[10.0, 1.0, -2.0], [1.0, 4.0, 0.2]]), jnp.asarray([1, 0]), reduction="none"
    )
    np.testing.assert_allclose(np.asarray(value), [9.00013, 3.0696733], rtol=1e-6)


def test_scikit_learn_agrees():
    HalfMultinomialLoss = pytest.importorskip("sklearn._loss").HalfMultinomialLoss
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(size=(20, 4)) * 3, rng.integers(0, 4, 20)
    oracle = HalfMultinomialLoss(n_classes=4)
    value, gradient, hessian = softmax_cross_entropy.value_grad_hess(scores, targets, reduction="none")
    np.testing.assert_allclose(value, oracle.loss(targets.astype(float), scores), rtol=1e-13)
    theirs = oracle.gradient_hessian(targets.astype(float), scores)
    np.testing.assert_allclose(gradient, theirs[0], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(hessian, theirs[1], rtol=1e-12, atol=1e-15)


def test_hessian_product_is_the_derivative_of_the_gradient(xp):
    rng = np.random.default_rng(3)
    scores, v, y = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), xp.asarray(np.asarray([0, 4, 2]))
    product = softmax_cross_entropy.hvp(xp.asarray(scores), y, xp.asarray(v))
    ahead, behind = (
        xp.to_numpy(softmax_cross_entropy.value_and_grad(xp.asarray(scores + h * v), y)[1])
        for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(xp.to_numpy(product), (ahead - behind) / 2e-5, atol=1e-10)


def test_a_hessian_product_of_a_decided_row_keeps_its_digits(xp):
    # The mean of v under the shares is v of the likely class to all digits but the last.
    scores, v = (xp.asarray(np.asarray([x])) for x in ([40.0, 0.0], [1.0, 3.0]))
    got = softmax_cross_entropy.hvp(scores, xp.asarray(np.asarray([0])), v)
    np.testing.assert_allclose(xp.to_numpy(got), [[-2 * math.exp(-40), 2 * math.exp(-40)]], rtol=1e-14)


@pytest.mark.library("numpy", "torch")
def test_an_index_out_of_range_is_named(xp):
    with pytest.raises(ValueError, match=r"targets must be class indices in 0\.\.2, got 3"):
        softmax_cross_entropy(xp.asarray(np.zeros((2, 3))), xp.asarray(np.asarray([0, 3])))


@pytest.mark.library("jax", "strict", "cupy")
def test_an_index_out_of_range_gives_nan_where_values_are_not_read(xp):
    value = softmax_cross_entropy(
        xp.asarray(np.zeros((2, 3))), xp.asarray(np.asarray([0, 3])), reduction="none"
    )
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [False, True])


def test_rule(xp):
    rng = np.random.default_rng(4)
    s, t = xp.asarray(rng.normal(size=(4, 5))), rng.random((4, 5))
    check_rule(softmax_cross_entropy, s, xp.asarray(t / t.sum(axis=1, keepdims=True)), label_smoothing=0.1)
    check_rule(softmax_cross_entropy, s, xp.asarray(np.asarray([0, 4, 1, 1])), reduction="none")
