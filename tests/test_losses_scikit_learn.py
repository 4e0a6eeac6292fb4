"""scikit-learn's own tests of its losses, as they stand in its wheel, run against ours.

One class of ZLPR with a hard label is `HalfBinomialLoss`, and softmax cross-entropy is `HalfMultinomialLoss`.
"""

import numpy as np
import pytest

from zlpr.losses import softmax_cross_entropy, zlpr_loss

theirs = pytest.importorskip("sklearn._loss.tests.test_loss")
from sklearn._loss import HalfBinomialLoss, HalfMultinomialLoss  # noqa: E402  # after the check that it is there


class Ours:
    """Our rule behind scikit-learn's interface."""

    def loss(self, y_true, raw_prediction, sample_weight=None, loss_out=None, n_threads=1):
        return self._written(self._run(y_true, raw_prediction, sample_weight)[0], loss_out)

    def gradient(self, y_true, raw_prediction, sample_weight=None, gradient_out=None, n_threads=1):
        return self._written(self._run(y_true, raw_prediction, sample_weight)[1], gradient_out)

    def loss_gradient(
        self, y_true, raw_prediction, sample_weight=None, loss_out=None, gradient_out=None, n_threads=1
    ):
        value, gradient, _ = self._run(y_true, raw_prediction, sample_weight)
        return self._written(value, loss_out), self._written(gradient, gradient_out)

    def gradient_hessian(
        self, y_true, raw_prediction, sample_weight=None, gradient_out=None, hessian_out=None, n_threads=1
    ):
        _, gradient, hessian = self._run(y_true, raw_prediction, sample_weight)
        return self._written(gradient, gradient_out), self._written(hessian, hessian_out)

    def __call__(self, y_true, raw_prediction, sample_weight=None):
        return np.average(self.loss(y_true, raw_prediction), weights=sample_weight)

    @staticmethod
    def _written(result, out):
        if out is None:
            return result
        out[...] = result
        return out


class OneClassZLPR(Ours, HalfBinomialLoss):
    def _run(self, y_true, raw_prediction, sample_weight):
        if raw_prediction.ndim == 2:  # their tests of squeezing
            raw_prediction = raw_prediction[:, 0]
        value, *derivatives = zlpr_loss.value_grad_hess(
            raw_prediction[:, None], y_true[:, None], sample_weight=sample_weight, reduction="none"
        )
        return value, *(d[:, 0] for d in derivatives)


class Softmax(Ours, HalfMultinomialLoss):
    def _run(self, y_true, raw_prediction, sample_weight):
        return softmax_cross_entropy.value_grad_hess(
            raw_prediction, y_true.astype(int), sample_weight=sample_weight, reduction="none"
        )


LOSSES = [pytest.param(OneClassZLPR, id="zlpr"), pytest.param(lambda: Softmax(n_classes=3), id="softmax")]
GOLDEN = [
    values
    for mark in theirs.test_loss_on_specific_values.pytestmark
    if mark.name == "parametrize"
    for values in mark.args[1]
    if type(values[0]) in (HalfBinomialLoss, HalfMultinomialLoss)
    and values[1] == int(values[1])  # hard labels
]


def test_there_are_golden_values():
    assert len(GOLDEN) >= 15


@pytest.mark.parametrize("values", GOLDEN, ids=lambda v: f"{type(v[0]).__name__}, {v[1]}, {v[2]}")
def test_golden_values(values):
    oracle, *rest = values
    ours = OneClassZLPR() if isinstance(oracle, HalfBinomialLoss) else Softmax(n_classes=3)
    theirs.test_loss_on_specific_values(ours, *rest)


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("sample_weight", [None, "range"])
def test_gradients_and_hessians_numerically(make, sample_weight):
    theirs.test_gradients_hessians_numerically(make(), sample_weight, 42)


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("sample_weight", ["ones", "random"])
def test_sample_weight_multiplies(make, sample_weight):
    theirs.test_sample_weight_multiplies(make(), sample_weight, 42)


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("sample_weight", [None, "range"])
def test_every_way_to_a_gradient_gives_the_same(make, sample_weight):
    theirs.test_loss_gradients_are_the_same(make(), sample_weight, 42)


@pytest.mark.parametrize("sample_weight", [None, "range"])
def test_softmax_is_their_compiled_code(sample_weight):
    theirs.test_loss_same_as_C_functions(Softmax(n_classes=3), sample_weight)


def test_one_class_of_zlpr_is_their_compiled_code():
    rng = np.random.default_rng(0)
    scores, targets, weights = rng.normal(size=300) * 20, rng.integers(0, 2, 300) * 1.0, rng.random(300)
    value, gradient, hessian = OneClassZLPR()._run(targets, scores, weights)
    oracle = HalfBinomialLoss()
    np.testing.assert_allclose(
        value, oracle.loss(targets, scores, weights), rtol=1e-13, atol=1e-14
    )  # it subtracts
    for ours, other in zip(
        (gradient, hessian), oracle.gradient_hessian(targets, scores, weights), strict=True
    ):
        np.testing.assert_allclose(ours, other, rtol=1e-9, atol=1e-15)  # theirs is p (1 - p), which cancels
