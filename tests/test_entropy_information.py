"""Mutual information and its relatives against their twins, published values, closed forms and other programs."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _data import real_data
from test_entropy_knn import central_differences
from zlpr import reference
from zlpr.entropy import (
    knn_conditional_mutual_information,
    knn_mutual_information,
    knn_total_correlation,
    knn_transfer_entropy,
)
from zlpr.entropy._constants import digamma
from zlpr.entropy._within import count_within
from zlpr.validation import check_rule

RULES = {
    "mutual information": (knn_mutual_information, (2, 1)),
    "conditional": (knn_conditional_mutual_information, (1, 2, 1)),
    "total correlation": (knn_total_correlation, (3,)),
    "transfer entropy": (knn_transfer_entropy, (1, 1)),
}
COUNTS = ["ksg1", "ksg2"]
not_jax = pytest.mark.library("numpy", "torch", "strict", "cupy")  # which compiles for seconds a case


def variables(widths, n=12, seed=0):
    """Variables that have something in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 1))
    return [100.0**i * (common + rng.normal(size=(n, width))) for i, width in enumerate(widths)]


@functools.cache
def exact(name, **options):
    rule, widths = RULES[name]
    return getattr(reference, rule.__name__)(*[v.tolist() for v in variables(widths)], **options)


def close(xp, found, expected, tolerance=1e-12):
    np.testing.assert_allclose(xp.to_numpy(found).astype(float), float(expected), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("estimator", ["ksg1", "ksg2", "3h"])
def test_value_is_that_of_the_twin(xp, name, estimator):
    rule, widths = RULES[name]
    given = list(map(xp.asarray, variables(widths)))
    value = rule(*given, k=2, estimator=estimator)
    xp.assert_like(value, given[0])
    close(xp, value, exact(name, k=2, estimator=estimator))


@pytest.mark.parametrize("standardize", [False, "rank"])
@pytest.mark.parametrize("estimator", COUNTS)
def test_other_units(xp, standardize, estimator):
    x, y = map(xp.asarray, variables((2, 1)))
    found = knn_mutual_information(x, y, k=2, estimator=estimator, standardize=standardize)
    close(xp, found, exact("mutual information", k=2, estimator=estimator, standardize=standardize))


@pytest.mark.parametrize("p", [1.0, 2.0])  # whose balls have another volume in more dimensions
def test_sums_of_entropies_in_other_norms(xp, p):
    x, y = map(xp.asarray, variables((2, 1)))
    found = knn_mutual_information(x, y, k=2, estimator="3h", p=p)
    close(xp, found, exact("mutual information", k=2, estimator="3h", p=p))


def test_histories_and_lag(xp):
    source, target = map(xp.asarray, variables((1, 1)))
    options = {"lag": 2, "history": 2, "source_history": 2, "k": 1}
    for estimator in ("ksg1", "3h"):
        found = knn_transfer_entropy(source, target, estimator=estimator, **options)
        close(xp, found, exact("transfer entropy", estimator=estimator, **options))


@functools.cache
def exact_slopes(name, which):
    rule, widths = RULES[name]
    twin, given = getattr(reference, rule.__name__), [v.tolist() for v in variables(widths)]

    def moved(points):
        return twin(*given[:which], points, *given[which + 1 :], k=1, estimator="3h")

    return central_differences(moved, given[which]).astype(float)


@pytest.mark.parametrize("name", RULES)
def test_gradients_of_the_sum_of_entropies_are_those_of_the_twin(xp, name):
    rule, widths = RULES[name]
    given = list(map(xp.asarray, variables(widths)))
    _, gradients = rule.value_and_grad(*given, k=1, estimator="3h", argnums=tuple(range(len(given))))
    for i, (gradient, like) in enumerate(zip(gradients, given, strict=True)):
        xp.assert_like(gradient, like)
        unit = 100.0**i  # gradients are per unit of the variable
        np.testing.assert_allclose(xp.to_numpy(gradient) * unit, exact_slopes(name, i) * unit, atol=1e-12)


@not_jax
@pytest.mark.parametrize("standardize", [True, False])
def test_rule(xp, standardize):
    x, y = variables((2, 1))
    options = {"estimator": "3h", "standardize": standardize, "k": (1, 3), "base": 2, "reduction": "none"}
    check_rule(knn_mutual_information, xp.asarray(x), xp.asarray(y / 100), p=2.0, smoothing=0.1, **options)


@not_jax
def test_rule_of_the_transfer(xp):
    source, target = map(xp.asarray, variables((1, 1)))
    check_rule(knn_transfer_entropy, source, target / 100, estimator="3h", source_history=2)


@pytest.mark.library("numpy")
@pytest.mark.parametrize("case", range(8))
def test_values_of_kraskovs_own_program(case):
    with np.load(real_data("ref_ksg_milca.npz"), allow_pickle=False) as file:
        data = file[f"data_{file[f'case{case}_data']}"]
        x, y = (data[:, file[f"case{case}_{name}"]] for name in ("x", "y"))
        ks, expected = file[f"case{case}_k"], file[f"case{case}_mi_nats"]
    count = 1 if x.shape[1] == 5 else len(ks)  # five and five columns take a while
    found = knn_mutual_information(x, y, k=ks[:count].tolist(), estimator="ksg2", k_reduction="none")
    np.testing.assert_allclose(found, expected[:count], rtol=0, atol=5e-9)  # its eight decimals


@pytest.mark.library("numpy")
def test_values_of_scikit_learn():
    from sklearn.feature_selection import mutual_info_regression

    x, y = variables((3, 1), 400)
    expected = mutual_info_regression(x, y[:, 0], n_neighbors=4, random_state=0)  # it adds noise of 1e-10
    found = [float(knn_mutual_information(x[:, i : i + 1], y, k=4)) for i in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-9)


FALSE_ALARM = (
    4.5  # standard errors of the mean of 20 samples: 1 in 3,700 by Student's law, plus what bias is let by
)


@pytest.mark.library("numpy")
@pytest.mark.parametrize(("estimator", "bias"), [("ksg1", 0.01), ("ksg2", 0.01), ("3h", 0.03)])
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_normal_laws_within_the_standard_error(estimator, bias, rho):
    rng = np.random.default_rng(2)
    found = []
    for _ in range(20):
        x, noise = rng.normal(size=(2, 1000, 1))
        y = rho * x + math.sqrt(1 - rho**2) * noise
        found.append(float(knn_mutual_information(x, y, estimator=estimator)))
    error = np.std(found, ddof=1) / math.sqrt(20)
    assert abs(np.mean(found) + 0.5 * math.log(1 - rho**2)) <= FALSE_ALARM * error + bias
    assert error < 0.02


@pytest.mark.library("numpy")
@pytest.mark.parametrize("estimator", ["ksg1", "ksg2", "3h"])
def test_conditioning_on_the_common_cause_leaves_nothing(estimator):
    rng = np.random.default_rng(5)
    z = rng.normal(size=(3000, 1))
    x, y = (z + 0.5 * rng.normal(size=(3000, 1)) for _ in range(2))
    conditional = float(knn_conditional_mutual_information(x, y, z, estimator=estimator))
    assert abs(conditional) < 0.06
    assert float(knn_mutual_information(x, y, estimator=estimator)) > 0.4  # -log(1 - 0.8²) / 2 = 0.51


@pytest.mark.library("numpy")
def test_independent_variables_have_nothing_in_common():
    # infomeasure 0.6.3, with one radius where the formula has a box, gives -0.27 for data like these, -1/k or so.
    x, y = np.random.default_rng(0).normal(size=(2, 3000, 2))
    assert abs(float(knn_mutual_information(x, y, k=4, estimator="ksg2"))) < 0.03


@pytest.mark.parametrize("estimator", ["ksg1", "ksg2", "3h"])
def test_units_and_repetition(xp, estimator):
    # NPEET, entropy_estimators and infomeasure give -0.33 for 0.88 with x in units of 1e-9, and two of them another
    # number at every call.
    x, y = variables((2, 1), 60)
    value, again, scaled = (
        knn_mutual_information(xp.asarray(u), xp.asarray(y), estimator=estimator)
        for u in (x, x, 2.0**30 * x * np.asarray([-1.0, 4.0]))
    )
    assert float(xp.to_numpy(value)) == float(xp.to_numpy(again))
    close(xp, scaled, float(xp.to_numpy(value)))
    small, large = (
        knn_mutual_information(xp.asarray(u * x), xp.asarray(y), estimator=estimator) for u in (1e-200, 1e250)
    )
    close(xp, small, float(xp.to_numpy(value)))
    close(xp, large, float(xp.to_numpy(value)))


@not_jax
@pytest.mark.parametrize("estimator", COUNTS)
def test_ranks_know_no_monotone_transformations(xp, estimator):
    x, y = variables((2, 1), 40)
    options = {"estimator": estimator, "standardize": "rank"}
    value, bent = (
        knn_mutual_information(xp.asarray(u), xp.asarray(y), **options) for u in (x, np.exp(2 * x))
    )
    assert float(xp.to_numpy(value)) == float(xp.to_numpy(bent))


@not_jax
@pytest.mark.parametrize("estimator", ["ksg1", "ksg2", "3h"])
def test_symmetry_and_order(xp, estimator):
    x, y = variables((2, 1), 40)
    there, back = (
        float(xp.to_numpy(knn_mutual_information(*map(xp.asarray, pair), estimator=estimator)))
        for pair in ((x, y), (y[::-1], x[::-1]))
    )
    assert there == pytest.approx(back, abs=1e-13)


@not_jax
def test_identities_of_the_gradient(xp):
    x, y = variables((2, 1), 30)
    for standardize in (True, False):
        _, (dx, dy) = knn_mutual_information.value_and_grad(
            xp.asarray(x), xp.asarray(y), estimator="3h", argnums=(0, 1), standardize=standardize
        )
        dx, dy = xp.to_numpy(dx), xp.to_numpy(dy)
        np.testing.assert_allclose(dx.sum(axis=0), 0, atol=1e-11)
        along = np.append((dx * x).sum(axis=0), np.sum(dy * y))
        if standardize:  # the unit of no coordinate matters
            np.testing.assert_allclose(along, 0, atol=1e-11)
        else:  # that of all together does not
            assert np.sum(along) == pytest.approx(0, abs=1e-11)


def test_one_variable_given_a_constant_or_as_two_coordinates(xp):
    x, y = variables((1, 1), 30)
    value = float(xp.to_numpy(knn_mutual_information(xp.asarray(x), xp.asarray(y))))
    constant = xp.asarray(np.full((30, 1), 0.1))
    close(xp, knn_conditional_mutual_information(xp.asarray(x), xp.asarray(y), constant), value)
    close(xp, knn_total_correlation(xp.asarray(np.concatenate([x, y], axis=1))), value)
    close(xp, knn_mutual_information(xp.asarray(x), constant), 0.0, 1e-13)


def test_batches_local_values_and_several_k(xp):
    pairs = [variables((2, 1), seed=seed) for seed in (0, 1)]
    x, y = (xp.asarray(np.stack(both)) for both in zip(*pairs, strict=True))
    for estimator in ("ksg1", "3h"):
        options = {"estimator": estimator, "k": (1, 3), "k_reduction": "none", "base": 2}
        value = xp.to_numpy(knn_mutual_information(x, y, **options))
        local = xp.to_numpy(knn_mutual_information(x, y, reduction="none", **options))
        assert value.shape == (2, 2)
        assert local.shape == (2, 12, 2)
        np.testing.assert_allclose(local.mean(axis=1), value, atol=1e-13)
        for i, (a, b) in enumerate(pairs):
            for j, k in enumerate((1, 3)):
                own = knn_mutual_information(a, b, k=k, estimator=estimator) / math.log(2)
                assert value[i, j] == pytest.approx(float(own), abs=1e-12)


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("estimator", COUNTS)
def test_all_ways_of_counting_agree(xp, estimator):
    x, y, z = (xp.asarray(v) for v in variables((2, 3, 2), 700))
    found = [
        float(knn_conditional_mutual_information(x, y, z, estimator=estimator, method=method))
        for method in ("auto", "tree", "brute")
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-13)
    assert found[0] == pytest.approx(found[2], abs=1e-13)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_on_a_line_are_those_of_all_pairs(xp, strict, dtype):
    """Where every distance is that of some point, sums of them round, and many points and distances are equal."""
    rng = np.random.default_rng(3)
    x = (rng.integers(-20, 20, size=80) * 0.1 + rng.choice([0.0, 1e3, 1e-4], size=80)).astype(dtype)
    sides = np.abs(x - x[rng.permutation(80)])
    gaps = np.abs(x[:, None] - x[None, :])
    expected = np.sum(gaps < sides[:, None] if strict else gaps <= sides[:, None], axis=1)
    for method in ("auto", "brute", "tree") if xp.name in ("numpy", "torch") else ("auto", "brute"):
        found = count_within([xp.asarray(x[:, None])], [xp.asarray(sides)], strict, None, method)
        np.testing.assert_array_equal(xp.to_numpy(found), expected)


@given(
    hnp.arrays(np.float64, (9, 2), elements=st.integers(-4, 4)),
    hnp.arrays(np.float64, (9, 1), elements=st.integers(-8, 8), unique=True),
    st.sampled_from(COUNTS),
)
def test_ties_are_those_of_the_twin(xp, x, y, estimator):
    """Whole numbers, whose differences are exact: neighbours tie, points lie on faces, and coordinates repeat."""
    options = {"k": 2, "estimator": estimator, "standardize": False}
    found = knn_mutual_information(xp.asarray(x), xp.asarray(y), **options)
    close(xp, found, reference.knn_mutual_information(x.tolist(), y.tolist(), **options))


def with_duplicates():
    x, y = variables((2, 1))
    return np.concatenate([x, x[[4, 2, 4]]]), np.concatenate([y, y[[4, 2, 4]]])


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("estimator", COUNTS)
def test_duplicates_are_refused_on_the_host(xp, estimator):
    x, y = map(xp.asarray, with_duplicates())
    with pytest.raises(
        ValueError, match=r"\(x, y\) has 5 points at distance 0 .* number 1, the first at index 2"
    ):
        knn_mutual_information(x, y, k=1, estimator=estimator)
    assert math.isfinite(float(knn_mutual_information(x, y, k=1, estimator=estimator, duplicates="clamp")))
    with pytest.raises(ValueError, match=r"x has 5 points at distance 0"):
        knn_mutual_information(x, y, k=1, estimator="3h")


@pytest.mark.library("strict", "jax", "cupy")
@pytest.mark.parametrize("estimator", COUNTS)
def test_duplicates_give_nan_where_values_are_not_read(xp, estimator):
    x, y = map(xp.asarray, with_duplicates())
    with xp.no_sync():
        value = knn_mutual_information(x, y, k=1, estimator=estimator)
        clamped = knn_mutual_information(x, y, k=1, estimator=estimator, duplicates="clamp")
    assert np.isnan(xp.to_numpy(value))
    expected = knn_mutual_information(*with_duplicates(), k=1, estimator=estimator, duplicates="clamp")
    close(xp, clamped, expected)


@pytest.mark.parametrize("estimator", COUNTS)
def test_dropped_duplicates_are_absent(xp, estimator):
    options = {"k": 2, "estimator": estimator, "duplicates": "drop", "standardize": False}
    x, y = with_duplicates()
    with xp.no_sync():
        found = knn_mutual_information(xp.asarray(x), xp.asarray(y), **options)
        local = knn_mutual_information(xp.asarray(x), xp.asarray(y), reduction="none", **options)
    close(xp, found, knn_mutual_information(x[:12], y[:12], **options))
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(local)), [False] * 12 + [True] * 3)


@pytest.mark.library("strict", "jax", "cupy")
def test_what_is_not_finite_gives_nan_where_values_are_not_read(xp):
    x, y = (np.stack([v, v]) for v in variables((2, 1)))
    y[1, 3, 0] = np.inf
    for estimator in ("ksg1", "3h"):
        found = xp.to_numpy(knn_mutual_information(xp.asarray(x), xp.asarray(y), estimator=estimator))
        np.testing.assert_array_equal(np.isnan(found), [False, True])


def test_half_precision_and_float32(xp):
    x, y = (v.astype(np.float32) for v in variables((2, 1), 40))
    single = knn_mutual_information(xp.asarray(x), xp.asarray(y), estimator="ksg1")
    assert single.dtype == xp.float32
    close(
        xp, single, knn_mutual_information(x.astype(float), y.astype(float)), 0.05
    )  # a tie may fall either way


def test_errors_name_the_argument(xp):
    x, y = map(xp.asarray, variables((2, 1)))
    for args, opts, message in (
        ((x, y), {"k": 12}, "k must be at least 1 and at most 11, the number of other points"),
        ((x, y[:5, ...]), {}, "y must have a point for every point of x, whose shape is"),
        ((x, y[:, 0]), {}, "y must have points and coordinates as its last two axes"),
        ((x, xp.astype(y, xp.float32)), {}, "y must have the dtype of x"),
        ((x[:1, ...], y[:1, ...]), {}, "x must have at least 2 points"),
        ((x, y), {"estimator": "ksg"}, 'estimator must be "ksg1", "ksg2" or "3h"'),
        ((x, y), {"standardize": "z"}, 'standardize must be True, False or "rank"'),
        ((x, y), {"p": 2}, "p must be inf"),
        ((x, y), {"estimator": "3h", "duplicates": "drop"}, 'takes duplicates="raise" or "clamp"'),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            knn_mutual_information(*args, **opts)
    with pytest.raises(ValueError, match="x must have at least 2 coordinates"):
        knn_total_correlation(y)
    with pytest.raises(ValueError, match="history must be an integer of at least 1"):
        knn_transfer_entropy(y, y, history=0)
    with pytest.raises(ValueError, match="must have more than 12 points in time"):
        knn_transfer_entropy(y, y, history=11)


@pytest.mark.parametrize(
    "options", [{"estimator": "ksg1"}, {"estimator": "ksg2"}, {"estimator": "3h", "standardize": "rank"}]
)
def test_there_is_no_gradient_of_counts_and_ranks(xp, options):
    x, y = map(xp.asarray, variables((2, 1)))
    with pytest.raises(ValueError, match="has no gradient"):
        knn_mutual_information.value_and_grad(x, y, **options)


@pytest.mark.library("torch")
def test_autograd(xp):
    import torch

    x, y = (xp.asarray(v).requires_grad_(True) for v in variables((2, 1)))
    assert torch.autograd.gradcheck(
        lambda a, b: knn_mutual_information(a, b, estimator="3h", standardize=False), (x, y / 100)
    )
    value = knn_mutual_information(x, y)
    close(xp, value, exact("mutual information", k=3))
    with pytest.raises(ValueError, match="has no gradient"):
        value.backward()


@pytest.mark.library("jax")
def test_under_jit(xp):
    import jax

    x, y = map(xp.asarray, variables((2, 1)))
    found = jax.jit(lambda a, b: knn_mutual_information(a, b, estimator="ksg2"))(x, y)
    assert float(found) == pytest.approx(float(exact("mutual information", k=3, estimator="ksg2")), abs=1e-12)
    slope = jax.jit(jax.grad(lambda a: knn_mutual_information(a, y, k=1, estimator="3h")))(x)
    np.testing.assert_allclose(slope, exact_slopes("mutual information", 0), atol=1e-12)


def test_a_variable_and_itself(xp):
    x = xp.asarray(variables((1,), 30)[0])
    close(xp, knn_mutual_information(x, x, k=2), digamma(30) - digamma(2))
