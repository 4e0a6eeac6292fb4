"""sigmoid_cross_entropy against its exact twin, and against PyTorch and scikit-learn where they are right."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _exact import SHAPES, XLA_SLACK, assert_ulps, hard_targets_of, scores_of, soft_targets_of
from zlpr import reference
from zlpr.losses import sigmoid_cross_entropy
from zlpr.validation import check_rule


def exact_rows(scores, targets, **opts):
    rows = [
        reference.sigmoid_cross_entropy(list(map(float, s)), list(map(float, t)), **opts)
        for s, t in zip(scores, targets, strict=True)
    ]
    return [r.value for r in rows], [r.gradient for r in rows], [r.hessian for r in rows]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_hard_labels_are_within_4_ulp(xp, shape, dtype, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    with xp.no_sync():
        got = sigmoid_cross_entropy.value_grad_hess(xp.asarray(scores), xp.asarray(targets), reduction="none")
    for actual, exact in zip(got, exact_rows(scores, targets), strict=True):
        assert_ulps(xp, actual, exact, dtype, 4 + XLA_SLACK.get(xp.name, 0))


@given(data=st.data())
def test_soft_labels_and_positive_weight(xp, data):
    shape = (3, 5)
    scores, targets = data.draw(scores_of(shape, "float64")), data.draw(soft_targets_of(shape, "float64"))
    value, gradient = sigmoid_cross_entropy.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), positive_weight=2.5, label_smoothing=0.1, reduction="none"
    )
    values, gradients, _ = exact_rows(scores, targets, positive_weight=2.5, label_smoothing=0.1)
    assert_ulps(xp, value, values, "float64", 6)  # the smoothed weights are rounded too
    np.testing.assert_allclose(xp.to_numpy(gradient), np.asarray(gradients, dtype=float), atol=2e-15)


def test_positive_weight_of_each_class(xp):
    rng = np.random.default_rng(0)
    scores, targets, weights = rng.normal(size=(4, 3)), rng.random((4, 3)) < 0.5, np.asarray([0.5, 1.0, 3.0])
    got = sigmoid_cross_entropy(
        xp.asarray(scores), xp.asarray(targets), positive_weight=xp.asarray(weights), reduction="none"
    )
    one_by_one = [
        sigmoid_cross_entropy(
            xp.asarray(scores[:, [i]]),
            xp.asarray(targets[:, [i]]),
            positive_weight=float(w),
            reduction="none",
        )
        for i, w in enumerate(weights)
    ]
    np.testing.assert_allclose(xp.to_numpy(got), sum(map(xp.to_numpy, one_by_one)), rtol=1e-14)


def test_positive_weight_is_checked(xp):
    s, y = xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 3), dtype=bool))
    with pytest.raises(
        ValueError, match=r"positive_weight must be a number or have one entry a class, shape \(3,\)"
    ):
        sigmoid_cross_entropy(s, y, positive_weight=xp.asarray(np.ones(2)))
    with pytest.raises(ValueError, match="positive_weight must be finite and not negative, got -1"):
        sigmoid_cross_entropy(s, y, positive_weight=-1.0)


def test_positive_weight_does_not_widen_the_result(xp):
    s, y = xp.asarray(np.zeros((2, 3), dtype=np.float32)), xp.asarray(np.ones((2, 3), dtype=bool))
    for weight in (np.float64(2.0), xp.asarray(np.asarray(2.0)), xp.asarray(np.full(3, 2.0))):
        assert sigmoid_cross_entropy(s, y, positive_weight=weight).dtype == xp.float32


@pytest.mark.library("torch")
def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    s = torch.from_numpy(rng.normal(size=(6, 9)) * 4)
    y = torch.from_numpy((rng.random((6, 9)) < 0.3).astype(float))
    weight = torch.from_numpy(rng.random(9) + 0.5)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(s, y, pos_weight=weight, reduction="sum")
    ours = sigmoid_cross_entropy(s, y, positive_weight=weight, reduction="sum")
    assert float(ours) == pytest.approx(float(theirs), rel=1e-14)


def test_scikit_learn_agrees():
    HalfBinomialLoss = pytest.importorskip("sklearn._loss").HalfBinomialLoss
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(size=50) * 10, (rng.random(50) < 0.5).astype(float)
    oracle = HalfBinomialLoss()
    value, gradient, hessian = sigmoid_cross_entropy.value_grad_hess(
        scores[:, None], targets[:, None], reduction="none"
    )
    np.testing.assert_allclose(
        value, oracle.loss(targets, scores), rtol=1e-13, atol=1e-14
    )  # theirs is exact to 1e-15 of 1
    their_gradient, their_hessian = oracle.gradient_hessian(targets, scores)
    np.testing.assert_allclose(gradient[:, 0], their_gradient, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(hessian[:, 0], their_hessian, atol=1e-15)  # theirs is p (1 - p), which cancels


def test_hessian_is_diagonal(xp):
    rng = np.random.default_rng(3)
    scores, v = xp.asarray(rng.normal(size=(3, 4))), xp.asarray(rng.normal(size=(3, 4)))
    targets = xp.asarray(rng.random((3, 4)))
    hessian = sigmoid_cross_entropy.value_grad_hess(scores, targets)[2]
    product = sigmoid_cross_entropy.hvp(scores, targets, v)
    np.testing.assert_allclose(xp.to_numpy(product), xp.to_numpy(hessian * v), rtol=1e-15)


def test_rule(xp):
    rng = np.random.default_rng(4)
    s, t = xp.asarray(rng.normal(size=(4, 5))), xp.asarray(rng.random((4, 5)))
    check_rule(sigmoid_cross_entropy, s, t)
    check_rule(
        sigmoid_cross_entropy, s, xp.asarray(rng.random((4, 5)) < 0.4), positive_weight=2.0, reduction="none"
    )
