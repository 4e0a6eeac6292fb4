"""Mutual information of points and labels against its twin and scikit-learn, and permutation tests."""

import functools
import math

import numpy as np
import pytest

from zlpr import reference
from zlpr.entropy import (
    knn_conditional_mutual_information,
    knn_mutual_information,
    knn_mutual_information_discrete,
    permutation_test,
)


def labelled(n=14, d=2):
    """Points around places that depend on their label, of which one is there once."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, size=n)
    labels[5] = 7
    return labels[:, None] + rng.normal(size=(n, d)), labels


@functools.cache
def exact(k, standardize=True):
    x, labels = labelled()
    twin = reference.knn_mutual_information_discrete
    return float(twin(x.tolist(), labels.tolist(), k=k, standardize=standardize))


def number(xp, value):
    return float(xp.to_numpy(value))


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("method", ["auto", "brute"])
def test_value_is_that_of_the_twin(xp, k, method):
    x, labels = map(xp.asarray, labelled())
    with xp.no_sync():
        value = knn_mutual_information_discrete(x, labels, k=k, method=method)
    xp.assert_like(value, x)
    assert number(xp, value) == pytest.approx(exact(k), abs=1e-12)


@pytest.mark.parametrize("standardize", [False, "rank"])
def test_other_units(xp, standardize):
    value = knn_mutual_information_discrete(*map(xp.asarray, labelled()), k=2, standardize=standardize)
    assert number(xp, value) == pytest.approx(exact(2, standardize), abs=1e-12)


@pytest.mark.library("numpy")
def test_values_of_scikit_learn():
    from sklearn.feature_selection import mutual_info_classif

    x, labels = labelled(300, 3)
    expected = mutual_info_classif(x, labels, n_neighbors=3, random_state=0)  # it adds noise of 1e-10
    found = [float(knn_mutual_information_discrete(x[:, i : i + 1], labels)) for i in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
    ways = [float(knn_mutual_information_discrete(x, labels, method=m)) for m in ("auto", "tree", "brute")]
    np.testing.assert_allclose(ways, ways[0], atol=1e-13)


@pytest.mark.library("numpy")
def test_a_closed_form():
    # Uniform on [0, 1] or [0.5, 1.5]: half of the points tell their label, the others nothing. log(2) / 2.
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, size=4000)
    local = knn_mutual_information_discrete(
        rng.random((4000, 1)) + labels[:, None] / 2, labels, reduction="none"
    )
    # The spread of the local values is 0.6 to 1 times the error's; 6 of them are at least 3.6 standard errors.
    error = np.std(local) / math.sqrt(4000)
    assert abs(np.mean(local) - math.log(2) / 2) <= 6 * error + 0.005
    assert error < 0.02


def test_local_values_and_base(xp):
    x, labels = map(xp.asarray, labelled())
    local = xp.to_numpy(knn_mutual_information_discrete(x, labels, reduction="none", base=2))
    np.testing.assert_array_equal(np.isnan(local), np.arange(14) == 5)
    assert np.nanmean(local) == pytest.approx(exact(3) / math.log(2), abs=1e-12)
    total = knn_mutual_information_discrete(x, labels, reduction="sum")
    assert number(xp, total) == pytest.approx(13 * exact(3), abs=1e-11)


def test_equal_points_and_booleans(xp):
    x = np.zeros((8, 1))
    x[4:] = 1.0
    found = knn_mutual_information_discrete(xp.asarray(x), xp.asarray(x[:, 0] > 0), k=1)
    # psi(8) + psi(1) - psi(4) - psi(1): no point is nearer than 0.
    assert number(xp, found) == pytest.approx(1 / 4 + 1 / 5 + 1 / 6 + 1 / 7, abs=1e-13)


def test_errors_name_the_argument(xp):
    x, labels = map(xp.asarray, labelled())
    for args, opts, message in (
        ((x[:, 0], labels), {}, "x must have points and coordinates"),
        ((x, x[:, 0]), {}, "labels must be integers or booleans"),
        ((x, labels[:4]), {}, r"labels must be one for each point, shape \(14,\), not \(4,\)"),
        ((x, labels), {"k": 0}, "k must be at least 1"),
        ((x, labels), {"reduction": "max"}, "reduction must be"),
        ((x, labels), {"standardize": 1}, 'standardize must be True, False or "rank"'),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            knn_mutual_information_discrete(*args, **opts)
    apart = xp.asarray(np.arange(14))
    if xp.name in ("numpy", "torch"):
        with pytest.raises(ValueError, match="at least twice"):
            knn_mutual_information_discrete(x, apart)
    else:
        assert math.isnan(number(xp, knn_mutual_information_discrete(x, apart)))


def test_permutations_are_the_same_on_every_library(xp):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 1))
    y = x + rng.normal(size=(20, 1))
    options = {"k": 2, "estimator": "ksg1"}
    expected = permutation_test(knn_mutual_information, x, y, n=5, rng=3, **options)
    found = permutation_test(knn_mutual_information, xp.asarray(x), xp.asarray(y), n=5, rng=3, **options)
    xp.assert_like(found.p_value, found.value)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(xp.to_numpy(one), other, atol=1e-12)
    assert tuple(found.null.shape) == (5,)


@pytest.mark.library("numpy")
def test_p_values_are_uniform_without_dependence_and_small_with_it():
    rng = np.random.default_rng(4)
    found = []
    for _ in range(60):
        x, labels = rng.normal(size=(30, 1)), rng.integers(0, 2, size=30)
        found.append(
            float(permutation_test(knn_mutual_information_discrete, x, labels, n=19, rng=rng).p_value)
        )
    # Multiples of 1/20. At most 1/4 with probability 1/4: more than 28 of 60 do so once in 5,000 tries.
    assert np.all(np.isin(np.round(20 * np.asarray(found)), np.arange(1, 21)))
    assert 4 <= np.sum(np.asarray(found) <= 0.25) <= 28
    x = rng.normal(size=(200, 1))
    y = x + 0.5 * rng.normal(size=(200, 1))
    assert permutation_test(knn_mutual_information, x, y, n=49).p_value == 0.02


def test_permutation_errors(xp):
    x, labels = map(xp.asarray, labelled())
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        permutation_test(knn_mutual_information_discrete, x, labels, n=0)
    with pytest.raises(ValueError, match="x must have points and coordinates"):
        permutation_test(knn_mutual_information_discrete, labels, labels)


@pytest.mark.library("jax", "strict")
def test_a_test_of_nan_is_nan(xp):
    x, labels = labelled()
    x[2, 0] = np.nan
    found = permutation_test(knn_mutual_information_discrete, xp.asarray(x), xp.asarray(labels), n=2)
    assert math.isnan(number(xp, found.p_value))


def test_given_a_third_variable_is_no_test_of_two(xp):
    x = xp.asarray(labelled()[0])
    with pytest.raises(TypeError):
        permutation_test(knn_conditional_mutual_information, x, x, n=2)
