"""Divergence and cross-entropy of two samples against their twins, closed forms and each other."""

import functools
import math

import numpy as np
import pytest

from test_entropy_knn import FALSE_ALARM, central_differences
from zlpr import reference
from zlpr.entropy import knn_cross_entropy, knn_entropy, knn_kl_divergence
from zlpr.validation import check_rule

CASES = [(1, 2.0), (3, 2.0), (2, math.inf)]  # the other norms have the entropy


def two_samples(n=8, m=6, d=2):
    rng = np.random.default_rng(4)
    return rng.normal(size=(n, d)), 0.5 + rng.normal(size=(m, d))


@functools.cache
def exact(name, k, p):
    twin, (x, y) = getattr(reference, name), [v.tolist() for v in two_samples()]
    return (
        twin(x, y, k=k, p=p),
        central_differences(lambda points: twin(points, y, k=k, p=p), x),
        central_differences(lambda points: twin(x, points, k=k, p=p), y),
    )


@pytest.mark.parametrize("rule", [knn_kl_divergence, knn_cross_entropy], ids=lambda r: r.__name__)
@pytest.mark.parametrize(("k", "p"), CASES)
def test_values_and_both_gradients_are_those_of_the_twin(xp, rule, k, p):
    x, y = map(xp.asarray, two_samples())
    value, gradients = rule.value_and_grad(x, y, k=k, p=p, argnums=(0, 1))
    exact_value, *exact_gradients = exact(rule.__name__, k, p)
    assert abs(float(xp.to_numpy(value)) - exact_value) <= 1e-14
    for gradient, truth, like in zip(gradients, exact_gradients, (x, y), strict=True):
        xp.assert_like(gradient, like)
        np.testing.assert_allclose(xp.to_numpy(gradient), truth.astype(float), rtol=0, atol=1e-13)


def test_divergence_is_cross_entropy_less_entropy(xp):
    x, y = map(xp.asarray, two_samples())
    divergence = knn_kl_divergence(x, y)
    parts = knn_cross_entropy(x, y, form="post") - knn_entropy(x, form="post")
    assert float(xp.to_numpy(divergence)) == pytest.approx(float(xp.to_numpy(parts)), abs=1e-13)


def test_identities(xp):
    x, y = two_samples()
    value, (dx, dy) = knn_kl_divergence.value_and_grad(xp.asarray(x), xp.asarray(y), argnums=(0, 1))
    dx, dy = xp.to_numpy(dx), xp.to_numpy(dy)
    np.testing.assert_allclose(dx.sum(axis=0) + dy.sum(axis=0), 0, atol=1e-12)  # translation
    assert np.sum(dx * x) + np.sum(dy * y) == pytest.approx(0, abs=1e-12)  # units
    moved = knn_kl_divergence(xp.asarray(3.0 * x - 1.0), xp.asarray(3.0 * y - 1.0))
    assert float(xp.to_numpy(moved)) == pytest.approx(float(xp.to_numpy(value)), abs=1e-12)


@pytest.mark.parametrize("rule", [knn_kl_divergence, knn_cross_entropy], ids=lambda r: r.__name__)
def test_rule(xp, rule):
    x, y = two_samples()
    weights = np.random.default_rng(0).random(8)
    check_rule(rule, xp.asarray(x), xp.asarray(y), k=(1, 3), sample_weight=xp.asarray(weights), base=2)


@pytest.mark.library("numpy")
@pytest.mark.parametrize(("n", "m"), [(4000, 4000), (2000, 6000), (6000, 2000)])
def test_normal_laws_within_the_standard_error(n, m):
    # KL(N(a, s² I) || N(0, I)) = (d s² + |a|² - d - d log s²) / 2. With unequal sizes infomeasure gives -0.77 for +0.5.
    rng = np.random.default_rng(9)
    mean, scale = np.asarray([1.0, -0.5]), 0.8
    x, y = mean + scale * rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
    truth = (2 * scale**2 + mean @ mean - 2 - 4 * math.log(scale)) / 2
    value, error = knn_kl_divergence(x, y, k=3, return_std=True)
    assert abs(value - truth) <= FALSE_ALARM * error
    assert error < 0.1
    crossed = math.log(2 * math.pi) + (2 * scale**2 + mean @ mean) / 2
    value, error = knn_cross_entropy(x, y, k=3, return_std=True)
    assert abs(value - crossed) <= FALSE_ALARM * error
    assert error < 0.1


@pytest.mark.parametrize("rule", [knn_kl_divergence, knn_cross_entropy], ids=lambda r: r.__name__)
def test_the_jackknife_is_that_of_samples_with_one_point_less(xp, rule):
    x, y = two_samples(10, 9)
    _, error = rule(xp.asarray(x), xp.asarray(y), k=2, return_std=True)
    variance = 0.0
    for without in (
        [rule(np.delete(x, i, axis=0), y, k=2) for i in range(10)],
        [rule(x, np.delete(y, i, axis=0), k=2) for i in range(9)],
    ):
        n = len(without)
        variance += (n - 1) / n * np.sum((without - np.mean(without)) ** 2)
    assert float(xp.to_numpy(error)) == pytest.approx(math.sqrt(variance), rel=1e-11)


def test_batches_are_separate_pairs_of_samples(xp):
    (x, y), (other_x, other_y) = two_samples(), (v[::-1] * 2.0 for v in two_samples())
    value = knn_kl_divergence(xp.asarray(np.stack([x, other_x])), xp.asarray(np.stack([y, other_y])), k=2)
    expected = [knn_kl_divergence(x, y, k=2), knn_kl_divergence(other_x, other_y, k=2)]
    np.testing.assert_allclose(xp.to_numpy(value), expected, rtol=1e-13)


def test_dropped_duplicates_are_absent_from_both(xp):
    x, y = two_samples()
    repeated = (xp.asarray(np.concatenate([v, v[[3, 1]]])) for v in (x, y))
    value, (dx, dy) = knn_kl_divergence.value_and_grad(*repeated, k=1, duplicates="drop", argnums=(0, 1))
    own, slopes = knn_kl_divergence.value_and_grad(x, y, k=1, argnums=(0, 1))
    assert float(xp.to_numpy(value)) == pytest.approx(float(own), abs=1e-13)
    for gradient, slope in zip((dx, dy), slopes, strict=True):
        np.testing.assert_allclose(
            xp.to_numpy(gradient), np.concatenate([slope, np.zeros((2, 2))]), atol=1e-13
        )


@pytest.mark.library("numpy", "torch")
def test_points_in_both_samples_are_refused_on_the_host(xp):
    x, y = two_samples()
    y[2] = x[5]
    with pytest.raises(ValueError, match=r"x, beside y, has 1 points at distance 0 .* at index 5"):
        knn_kl_divergence(xp.asarray(x), xp.asarray(y), k=1)
    assert np.isfinite(float(knn_kl_divergence(xp.asarray(x), xp.asarray(y), k=1, duplicates="clamp")))


def test_errors_name_the_argument(xp):
    x, y = map(xp.asarray, two_samples())
    for args, opts, message in (
        ((x, y), {"k": 7}, "k must be at least 1 and at most 6, the number of points of y"),
        ((y, x), {"k": 6}, "k must be at least 1 and at most 5, the number of other points of x"),
        ((x, y[:, :1]), {}, "y must have the coordinates and batch axes of x"),
        ((x, xp.astype(y, xp.float32)), {}, "y must have the dtype of x"),
        ((x, y), {"k": 6, "return_std": True}, "a standard error takes"),
        ((x, y), {"sample_weight": y[:, 0]}, "sample_weight must have one entry a point"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            knn_kl_divergence(*args, **opts)
    with pytest.raises(ValueError, match='form must be "psi" or "post"'):
        knn_cross_entropy(x, y, form="log")


@pytest.mark.library("torch")
def test_second_derivatives_under_autograd(xp):
    import torch

    x, y = (xp.asarray(v).requires_grad_(True) for v in two_samples())
    assert torch.autograd.gradgradcheck(lambda a, b: knn_kl_divergence(a, b, k=2), (x, y))
