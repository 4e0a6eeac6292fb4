"""The entropy against its twin, closed forms, exact identities, and differences of the twin in high precision."""

import functools
import math

import numpy as np
import pytest
from mpmath import mp

from _exact import assert_ulps
from zlpr import _array, reference
from zlpr.entropy import knn_entropy
from zlpr.entropy._constants import digamma, digamma_of
from zlpr.entropy._metric import log_unit_ball
from zlpr.validation import check_rule

P = (1.0, 1.5, 2.0, 3.0, math.inf)
K = (1, 2, 4)
FALSE_ALARM = 4.0  # standard errors: one in 16,000 for a normal error, less as the jackknife's are too large


def sample(n=9, d=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def central_differences(function, points):
    """Derivatives of a function of lists of numbers, with 40 digits left after the subtraction."""
    with mp.workdps(60):
        step, slopes = mp.mpf(10) ** -18, []
        for i, point in enumerate(points):
            for j, value in enumerate(point):
                moved = [[list(p) for p in points] for _ in range(2)]
                moved[0][i][j], moved[1][i][j] = mp.mpf(value) + step, mp.mpf(value) - step
                slopes.append((function(moved[0]) - function(moved[1])) / (2 * step))
        return np.asarray(slopes, object).reshape(len(points), -1)


@functools.cache
def exact(p, k, smoothing=0.0):
    def entropy(points):
        return reference.knn_entropy(points, k=k, p=p, smoothing=smoothing)

    return entropy(sample().tolist()), central_differences(entropy, sample().tolist())


@pytest.mark.parametrize("p", P)
@pytest.mark.parametrize("k", K)
def test_value_and_gradient_are_those_of_the_twin(xp, p, k):
    value, gradient = knn_entropy.value_and_grad(xp.asarray(sample()), k=k, p=p)
    xp.assert_like(gradient, value)
    exact_value, exact_gradient = exact(p, k)
    assert abs(float(xp.to_numpy(value)) - exact_value) <= 1e-14
    np.testing.assert_allclose(xp.to_numpy(gradient), exact_gradient.astype(float), rtol=0, atol=1e-13)


def test_value_and_gradient_in_float32(xp):
    x = sample().astype("float32")
    value, gradient = knn_entropy.value_and_grad(xp.asarray(x), k=2)

    def entropy(points):
        return reference.knn_entropy(points, k=2)

    assert value.dtype == gradient.dtype == xp.float32
    # The log-lengths, of magnitude 1, times d, and the constants round a few times; a pull is a quotient of two.
    assert_ulps(xp, xp.reshape(value, (1,)), [entropy(x.tolist())], "float32", 6)
    exact_gradient = central_differences(entropy, x.tolist())
    assert_ulps(xp, xp.reshape(gradient, (1, -1)), exact_gradient.reshape(1, -1), "float32", 6)


def test_smoothed(xp):
    value, gradient = knn_entropy.value_and_grad(xp.asarray(sample()), k=2, smoothing=0.3)
    exact_value, exact_gradient = exact(2.0, 2, 0.3)
    assert abs(float(xp.to_numpy(value)) - exact_value) <= 1e-14
    np.testing.assert_allclose(xp.to_numpy(gradient), exact_gradient.astype(float), rtol=0, atol=1e-13)


# Values by hand and in 16 digits: numerics, section 3.5 of the design; the last one in post 7343's own form.
GOLDEN = [
    ([[0], [1], [3]], {"k": 1}, 2.4241962407465936),
    ([[0], [1], [3]], {"k": 2}, 2.156604433192),
    ([[0, 0], [3, 4]], {"k": 1}, 2 * math.log(5) + math.log(math.pi) + 1),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 1}, 3.9002830827112176),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 2}, 3.7705931050451405),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 3}, 4.1401327107447115),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 1, "p": 1}, 3.5662012847331966),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 2, "p": 1}, 3.7763853490584112),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 3, "p": 1}, 4.3161061198983291),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 1, "p": math.inf}, 4.1155074290672515),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 2, "p": math.inf}, 3.8086546096271968),
    ([[0, 0], [1, 0], [0, 2], [3, 3]], {"k": 3, "p": math.inf}, 3.9168522717894433),
    ([[0, 0], [3, 4]], {"k": 1, "form": "post"}, 2 * math.log(5) + math.log(math.pi) + 0.5772156649015329),
    # infomeasure's own tests, without noise, in bits.
    ([[1], [2], [3], [4], [5]], {"k": 2, "base": 2, "p": math.inf}, 2.96291962762),
    ([[1], [2], [3], [4], [5]], {"k": 3, "base": 2, "p": math.inf}, 3.0755571074),
]


@pytest.mark.parametrize(("points", "options", "value"), GOLDEN)
def test_golden_values(xp, points, options, value):
    found = knn_entropy(xp.asarray(np.asarray(points, dtype="float64")), **options)
    given = 1e-10 if "base" in options else 1e-12  # the digits of the literals
    assert float(xp.to_numpy(found)) == pytest.approx(value, abs=given)


LAWS = {  # draws, entropy, and the bias at n = 2000: numerics, section 3.5
    "normal, d = 1": (lambda r, n: r.normal(size=(n, 1)), 0.5 * math.log(2 * math.pi * math.e)),
    "normal, correlated": (
        lambda r, n: r.normal(size=(n, 2)) @ np.asarray([[1.0, 2.0], [0.0, 3.0]]),
        math.log(2 * math.pi * math.e) + math.log(3.0),
    ),
    "uniform in a box": (lambda r, n: r.random(size=(n, 2)) * np.asarray([2.0, 5.0]), math.log(10.0)),
    "exponential": (lambda r, n: r.exponential(0.5, size=(n, 1)), 1 - math.log(2.0)),
    "Laplace": (lambda r, n: r.laplace(scale=3.0, size=(n, 1)), 1 + math.log(6.0)),
}


@pytest.mark.library("numpy")
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("k", [1, 3])
def test_closed_forms_within_the_standard_error(law, k):
    draw, truth = LAWS[law]
    x = draw(np.random.default_rng(7), 4000)
    value, error = knn_entropy(x, k=k, return_std=True)
    assert abs(value - truth) <= FALSE_ALARM * error
    assert error < 0.06  # and it is not met by a large one


@pytest.mark.library("numpy")
def test_the_standard_error_is_that_of_repeated_samples():
    rng = np.random.default_rng(3)
    found = np.asarray([knn_entropy(rng.normal(size=(150, 2)), return_std=True) for _ in range(150)])
    spread, errors = found[:, 0].std(ddof=1), found[:, 1].mean()
    # The spread itself is known to 6 %; the jackknife's bias is 1.02 to 1.55 (docs/derivations/entropy.md).
    assert 0.85 * spread <= errors <= 1.8 * spread


def test_the_jackknife_is_that_of_samples_with_one_point_less(xp):
    x = sample(12)
    weights = np.random.default_rng(1).random(12)
    options = {"k": (1, 3), "base": 2}
    _, error = knn_entropy(xp.asarray(x), return_std=True, sample_weight=xp.asarray(weights), **options)
    without = [
        knn_entropy(np.delete(x, i, axis=0), sample_weight=np.delete(weights, i), **options)
        for i in range(12)
    ]
    expected = math.sqrt(11 / 12 * np.sum((without - np.mean(without)) ** 2))
    assert float(xp.to_numpy(error)) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("p", P)
def test_identities(xp, p):
    x, d = sample(30, 3), 3
    value, gradient = map(xp.to_numpy, knn_entropy.value_and_grad(xp.asarray(x), k=4, p=p))
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-12)
    assert np.sum(gradient * x) == pytest.approx(d, abs=1e-12)
    scaled = knn_entropy(xp.asarray(-7.0 * x), k=4, p=p)
    assert float(xp.to_numpy(scaled)) == pytest.approx(float(value) + d * math.log(7.0), abs=1e-12)
    moved = knn_entropy(xp.asarray(x[::-1] + 3.0), k=4, p=p)
    assert float(xp.to_numpy(moved)) == pytest.approx(float(value), abs=1e-12)


def test_rotations_change_nothing_for_p_2(xp):
    x = sample(30, 3)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
    turned, still = (knn_entropy(xp.asarray(z)) for z in (x @ rotation, x))
    assert float(xp.to_numpy(turned)) == pytest.approx(float(xp.to_numpy(still)), abs=1e-12)


@pytest.mark.parametrize("p", [2.0, math.inf])  # the others have the twin
def test_rule(xp, p):
    check_rule(knn_entropy, xp.asarray(sample(30, 3)), k=4, p=p)


def test_rule_with_options(xp):
    weights = xp.asarray(np.random.default_rng(1).random(9))
    options = {"k": (1, 3), "sample_weight": weights, "base": 2, "smoothing": 0.2}
    check_rule(knn_entropy, xp.asarray(sample()), reduction="none", k_reduction="none", **options)


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("k_reduction", ["mean", "none"])
def test_rule_with_every_reduction(xp, reduction, k_reduction):
    x = xp.asarray(np.stack([sample(), sample(seed=1)]))
    weights = xp.asarray(np.random.default_rng(1).random((2, 9)))
    for given in ({}, {"sample_weight": weights}, {"duplicates": "clamp"}, {"duplicates": "drop"}):
        check_rule(knn_entropy, x, k=(1, 3), reduction=reduction, k_reduction=k_reduction, **given)


@pytest.mark.library("torch")
def test_second_derivatives_under_autograd(xp):
    import torch

    x = xp.asarray(sample()).requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda z: knn_entropy(z, k=2), x)
    assert torch.autograd.gradcheck(lambda z: knn_entropy(z, k=2, duplicates="clamp"), x)


@pytest.mark.library("jax")
def test_transformations_of_jax(xp):
    import jax

    x = xp.asarray(sample())
    value, gradient = knn_entropy.value_and_grad(x, k=2)
    jitted = jax.jit(jax.value_and_grad(lambda z: knn_entropy(z, k=2)))(x)
    np.testing.assert_allclose(jitted[0], value, rtol=1e-15)
    np.testing.assert_allclose(jitted[1], gradient, atol=1e-15)
    twice = jax.hessian(lambda z: knn_entropy(z, k=2))(x)
    step = 1e-6 * np.eye(9 * 2)[3].reshape(9, 2)
    up, down = (knn_entropy.value_and_grad(xp.asarray(sample() + s * step), k=2)[1] for s in (1, -1))
    np.testing.assert_allclose(twice[:, :, 1, 1], (up - down) / 2e-6, rtol=1e-6, atol=1e-6)


def test_batches_are_separate_samples(xp):
    samples = np.stack([sample(seed=i) for i in range(4)]).reshape(2, 2, 9, 2)
    value, gradient = knn_entropy.value_and_grad(xp.asarray(samples), k=2)
    assert tuple(value.shape) == (2, 2)
    assert tuple(gradient.shape) == samples.shape
    for i in range(2):
        for j in range(2):
            own, slope = knn_entropy.value_and_grad(samples[i, j], k=2)
            np.testing.assert_allclose(xp.to_numpy(value)[i, j], own, rtol=1e-14)
            np.testing.assert_allclose(xp.to_numpy(gradient)[i, j], slope, atol=1e-14)


@pytest.mark.library("numpy", "torch", "strict", "cupy")  # JAX compiles each anew: see test_rule_with_options
def test_local_values_weights_and_reductions(xp):
    x, weights = sample(), np.random.default_rng(2).random(9)
    local = xp.to_numpy(knn_entropy(xp.asarray(x), reduction="none"))
    assert local.shape == (9,)
    for reduction, expected in (
        ("none", weights * local),
        ("sum", np.sum(weights * local)),
        ("mean", np.sum(weights * local) / np.sum(weights)),
    ):
        found = knn_entropy(xp.asarray(x), reduction=reduction, sample_weight=xp.asarray(weights))
        np.testing.assert_allclose(xp.to_numpy(found), expected, rtol=1e-13)
    np.testing.assert_allclose(xp.to_numpy(knn_entropy(xp.asarray(x))), local.mean(), rtol=1e-14)


@pytest.mark.library("numpy", "torch", "strict", "cupy")  # JAX compiles each anew: see test_rule_with_options
def test_several_k_from_one_search(xp):
    x = xp.asarray(sample())
    each = [float(xp.to_numpy(knn_entropy(x, k=k))) for k in (1, 2, 4)]
    together = knn_entropy(x, k=(1, 2, 4), k_reduction="none")
    np.testing.assert_allclose(xp.to_numpy(together), each, rtol=1e-14)
    np.testing.assert_allclose(xp.to_numpy(knn_entropy(x, k=(1, 2, 4))), np.mean(each), rtol=1e-14)
    assert tuple(knn_entropy(x, k=(1, 2, 4), k_reduction="none", reduction="none").shape) == (9, 3)


def with_duplicates():
    return np.concatenate([sample(), sample()[[4, 2, 4]]])


@pytest.mark.library("numpy", "torch")
def test_duplicates_are_refused_on_the_host(xp):
    message = r'x has 5 points at distance 0 from their neighbour number 1, the first at index 2.*"drop"'
    with pytest.raises(ValueError, match=message):
        knn_entropy(xp.asarray(with_duplicates()), k=1)
    assert math.isfinite(float(knn_entropy(xp.asarray(with_duplicates()), k=3)))


@pytest.mark.library("strict", "jax", "cupy")
def test_duplicates_give_nan_where_values_are_not_read(xp):
    with xp.no_sync():
        value, gradient = knn_entropy.value_and_grad(xp.asarray(with_duplicates()), k=1)
    assert np.isnan(xp.to_numpy(value))
    assert np.all(np.isfinite(xp.to_numpy(gradient)))


def test_dropped_duplicates_are_absent(xp):
    with xp.no_sync():
        value, gradient = knn_entropy.value_and_grad(xp.asarray(with_duplicates()), k=2, duplicates="drop")
    own, slope = knn_entropy.value_and_grad(sample(), k=2)
    np.testing.assert_allclose(xp.to_numpy(value), own, rtol=1e-14)
    np.testing.assert_allclose(xp.to_numpy(gradient), np.concatenate([slope, np.zeros((3, 2))]), atol=1e-14)
    local = xp.to_numpy(knn_entropy(xp.asarray(with_duplicates()), k=2, duplicates="drop", reduction="none"))
    np.testing.assert_array_equal(np.isnan(local), [False] * 9 + [True] * 3)
    _, error = knn_entropy(xp.asarray(with_duplicates()), k=2, duplicates="drop", return_std=True)
    np.testing.assert_allclose(xp.to_numpy(error), knn_entropy(sample(), k=2, return_std=True)[1], rtol=1e-13)


def test_clamped_duplicates_count_as_the_shortest_distance(xp):
    x = with_duplicates()
    lengths = np.asarray([np.sort(np.linalg.norm(x - z, axis=-1))[1] for z in x])
    lengths[lengths == 0] = np.min(lengths[lengths > 0])
    expected = 2 * np.mean(np.log(lengths)) + math.log(math.pi) + digamma(12) - digamma(1)
    value, gradient = knn_entropy.value_and_grad(xp.asarray(x), k=1, duplicates="clamp")
    assert float(xp.to_numpy(value)) == pytest.approx(expected, abs=1e-13)
    gradient = xp.to_numpy(gradient)
    np.testing.assert_allclose(gradient.sum(axis=0), 0, atol=1e-12)
    assert np.sum(gradient * x) == pytest.approx(2, abs=1e-12)
    check_rule_of_clamped(xp, x)


def check_rule_of_clamped(xp, x):
    """With a least distance the clamped terms are constants, so that the sum of the others' weights is left."""
    options = {"k": 1, "duplicates": "clamp", "min_distance": 0.2}
    value, gradient = knn_entropy.value_and_grad(xp.asarray(x), **options)
    lengths = np.asarray([np.sort(np.linalg.norm(x - z, axis=-1))[1] for z in x])
    expected = 2 * np.mean(np.log(np.maximum(lengths, 0.2))) + math.log(math.pi) + digamma(12) - digamma(1)
    assert float(xp.to_numpy(value)) == pytest.approx(expected, abs=1e-13)
    assert np.sum(xp.to_numpy(gradient) * x) == pytest.approx(2 * np.mean(lengths >= 0.2), abs=1e-12)


def test_smoothing_is_finite_on_duplicates(xp):
    x = xp.asarray(with_duplicates())
    value, gradient = map(xp.to_numpy, knn_entropy.value_and_grad(x, k=1, smoothing=1e-3))
    assert np.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_points_in_one_place(xp):
    x = xp.asarray(np.ones((5, 2)))
    if xp.name in ("numpy", "torch"):
        with pytest.raises(ValueError, match="no distance to clamp to"):
            knn_entropy(x, k=1, duplicates="clamp")
        with pytest.raises(ValueError, match="fewer than 2 different points"):
            knn_entropy(x, k=1, duplicates="drop")
    else:
        assert np.isnan(xp.to_numpy(knn_entropy(x, k=1, duplicates="clamp")))
        assert np.isnan(xp.to_numpy(knn_entropy(x, k=1, duplicates="drop")))
    np.testing.assert_array_equal(xp.to_numpy(knn_entropy.value_and_grad(x, k=1, smoothing=0.1)[1]), 0)


@pytest.mark.library("strict", "jax", "cupy")
def test_what_is_not_finite_gives_nan_where_values_are_not_read(xp):
    x = np.stack([sample(), sample()])
    x[0, 3, 1] = np.nan
    with xp.no_sync():
        value, gradient = knn_entropy.value_and_grad(xp.asarray(x))
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False])
    assert np.all(np.isnan(xp.to_numpy(gradient)[0]))
    assert np.all(np.isfinite(xp.to_numpy(gradient)[1]))


@pytest.mark.library("numpy", "torch")
def test_what_is_not_finite_is_refused_on_the_host(xp):
    x = sample()
    x[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"x must be finite, but x\[3, 1\] is inf"):
        knn_entropy(xp.asarray(x))


BAD = {
    "k must be at least 1 and at most 8, the number of other points, got 9": {"k": 9},
    "k must be at least 1": {"k": 0},
    "k must be an integer or a sequence": {"k": ()},
    "k must be an integer, got 2.5": {"k": (1, 2.5)},
    "p must be a number of at least 1": {"p": 0.9},
    'duplicates must be "raise", "drop" or "clamp"': {"duplicates": "jitter"},
    'reduction must be "mean"': {"reduction": "median"},
    'k_reduction must be "mean"': {"k_reduction": "sum"},
    'form must be "psi" or "post"': {"form": "log"},
    "base must be None": {"base": 1},
    "smoothing must be a distance": {"smoothing": -1.0},
    "min_distance must be a positive distance": {"min_distance": 1.0},
    'relative_to must be None or "gaussian"': {"relative_to": "uniform"},
    'method must be "auto"': {"method": "ball"},
    "a standard error takes": {"k": 8, "return_std": True},
    'return_std takes reduction="mean"': {"reduction": "sum", "return_std": True},
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_argument(xp, message):
    with pytest.raises((TypeError, ValueError), match=message):
        knn_entropy(xp.asarray(sample()), **BAD[message])


def test_errors_of_shapes(xp):
    x = xp.asarray(sample())
    for bad, message in (
        (x[:, :0], "at least one coordinate"),
        (x[:1, :], "at least 2 points"),
        (xp.reshape(x, (1, 9, 2))[:0, :, :], "at least one sample"),
        (x[:, 0], "points and coordinates as its last two axes"),
    ):
        with pytest.raises(ValueError, match=message):
            knn_entropy(bad)
    with pytest.raises(ValueError, match="sample_weight must have one entry a point"):
        knn_entropy(x, sample_weight=x)
    with pytest.raises(ValueError, match="dvalue must have the shape of the value"):
        knn_entropy.vjp(x)[1](x)


@pytest.mark.library("numpy")
@pytest.mark.parametrize("d", [16, 64])
def test_relative_to_the_normal_law(d):
    # The bias of 128 points is 0.8 nats at d = 16 and 10 at d = 64; that of a law of twice the width is the same.
    rng = np.random.default_rng(11)
    x = 2.0 * rng.normal(size=(128, d))
    level = knn_entropy(x, k=1, relative_to="gaussian")
    assert level == pytest.approx(
        d * math.log(2.0), abs=1.5
    )  # 4 standard deviations of 16 samples' mean and one's
    assert level == knn_entropy(x, k=1, relative_to="gaussian")  # the same draw
    plain, relative = (knn_entropy.value_and_grad(x, k=1, relative_to=r)[1] for r in (None, "gaussian"))
    np.testing.assert_array_equal(plain, relative)


def test_faults_of_others(xp):
    # entropy_estimators: d log 2 too high in the Euclidean norm. hoi: negative entropies are 0. NPEET and infomeasure:
    # noise of 1e-10, which shows at small scales and makes every call differ.
    x = sample(40, 5) * 1e-12
    first, second = (knn_entropy(xp.asarray(x)) for _ in range(2))
    value = float(xp.to_numpy(first))
    assert value == float(xp.to_numpy(second))
    assert value < -100
    assert value == pytest.approx(float(knn_entropy(x * 1e12)) - 5 * math.log(1e12), abs=1e-10)
    assert value == pytest.approx(float(xp.to_numpy(knn_entropy(xp.asarray(x), p=math.inf))), abs=3)


@pytest.mark.library("numpy")
def test_all_norms_and_ks_estimate_the_same_number():
    x = np.random.default_rng(0).normal(size=(3000, 2))
    found = [knn_entropy(x, k=k, p=p) for k in (1, 3, 10) for p in P]
    assert np.ptp(found) < 0.12  # entropy_estimators is off by 1.39 here for p = 2


def test_gradients_do_not_depend_on_the_call(xp):
    x = xp.asarray(sample(40, 3))
    first, second = (xp.to_numpy(knn_entropy.value_and_grad(x)[1]) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_value_is_read_on_a_device(xp):
    x = xp.asarray(sample())
    with xp.no_sync():
        value, pullback = knn_entropy.vjp(x, k=2)
        gradient = pullback(_array.namespace(value).ones_like(value))
    xp.assert_like(value, x)
    xp.assert_like(gradient, x)


@pytest.mark.library("numpy")
def test_constants():
    with mp.workdps(40):
        for n in (1, 2, 5, 31, 32, 100, 10**6, 10**9):
            assert abs(digamma(n) - mp.digamma(n)) <= 4e-16 * max(1, abs(mp.digamma(n)))
            assert abs(float(digamma_of(np.asarray(float(n)))) - mp.digamma(n)) <= 2e-15 * max(1, mp.log(n))
        for d in (1, 2, 3, 64, 1000):
            octahedron = d * mp.log(2) - mp.loggamma(d + 1)
            ball = d * mp.log(mp.pi) / 2 - mp.loggamma(1 + mp.mpf(d) / 2)
            for p, truth in ((1.0, octahedron), (2.0, ball)):
                assert abs(log_unit_ball(d, p) - truth) <= 4e-16 * (abs(truth) + 5 * d)
