"""Activations against their twins entry by entry, far into the tails, at the infinities and at half precision."""

import math

import numpy as np
import pytest
from mpmath import mp

from _exact import assert_ulps
from zlpr import activations, reference
from zlpr.activations import gelu, relu, sigmoid, softplus, tanh
from zlpr.rules import compose
from zlpr.validation import check_rule, max_ulps

WIDE = ("float32", "float64")
HALVES = {"float16", "bfloat16"}
FORMS = ("none", "tanh", "sigmoid", "minimax")
EVERY = [
    (sigmoid, {}),
    (softplus, {}),
    (tanh, {}),
    (relu, {}),
    *((gelu, {"approximate": form}) for form in FORMS),
]
INF = math.inf


def name_of(case):
    rule, opts = case
    return "-".join([rule.__name__, *opts.values()])


every = pytest.mark.parametrize(("rule", "opts"), EVERY, ids=map(name_of, EVERY))


def grid(lowest, highest, dtype):
    """Even steps through the range, seeded points between them, and both signs near zero; one column."""
    rng = np.random.default_rng(0)
    near = np.asarray([-1.0, -1e-3, -1e-6, 0.0, 1e-6, 1e-3, 1.0])
    points = np.concatenate((np.linspace(lowest, highest, 81), rng.uniform(lowest, highest, 60), near))
    return points.astype(dtype)[:, None]  # each entry is a row of its own to max_ulps


def twins(name, x, **opts):
    """Exact values and derivatives, shaped like x."""
    pairs = [getattr(reference, name)(float(entry), **opts) for entry in x[:, 0]]
    return [[value] for value, *_ in pairs], [[slope] for _, slope, _ in pairs]


def each_ulps(xp, actual, exact, dtype):
    """The errors of the single entries, in ulps of each."""
    return np.asarray([max_ulps(a, e, dtype) for a, e in zip(xp.to_numpy(actual), exact, strict=True)])


def each_eps(xp, actual, exact, dtype):
    """The absolute errors of the single entries, in units of the dtype's eps."""
    errors = [abs(mp.mpf(float(a[0])) - e[0]) for a, e in zip(xp.to_numpy(actual), exact, strict=True)]
    return np.asarray(errors, dtype=float) / float(np.finfo(dtype).eps)


# Ends of the normal numbers: below them an ulp is no longer relative, and some libraries flush to zero.
RANGES = {
    "sigmoid": {"float32": (-87, 40), "float64": (-708, 40)},
    "softplus": {"float32": (-87, 40), "float64": (-708, 40)},
    "tanh": {"float32": (-43, 43), "float64": (-350, 350)},
    "relu": {"float32": (-50, 50), "float64": (-50, 50)},
}


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", RANGES)
def test_values_and_derivatives_are_within_4_ulp(xp, name, dtype):
    # An exponential (1 ulp), and up to four more roundings of half an ulp to an ulp each.
    x = grid(*RANGES[name][dtype], dtype)
    array = xp.asarray(x)
    with xp.no_sync():
        value, slope = getattr(activations, name).value_and_grad(array)
    xp.assert_like(value, array)
    xp.assert_like(slope, array)
    values, slopes = twins(name, x)
    # XLA's own tanh is off by 6.5 ulp near saturation (jax 0.10 on a CPU: -19.02 gives 1 - 7e-16).
    assert_ulps(xp, value, values, dtype, 7 if (name, xp.name) == ("tanh", "jax") else 4)
    assert_ulps(xp, slope, slopes, dtype, 4)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", RANGES)
def test_zero_goes_through_exactly(xp, name, dtype):
    value, slope = getattr(activations, name).value_and_grad(xp.asarray(np.zeros((1, 1), dtype=dtype)))
    expected = {"sigmoid": (0.5, 0.25), "softplus": (math.log(2), 0.5), "tanh": (0, 1), "relu": (0, 0)}[name]
    np.testing.assert_allclose(float(xp.to_numpy(value)[0, 0]), expected[0], rtol=float(np.finfo(dtype).eps))
    assert float(xp.to_numpy(slope)[0, 0]) == expected[1]


@pytest.mark.parametrize(("dtype", "lowest"), [("float32", -13), ("float64", -37.4)])
def test_gelu_keeps_its_digits_in_the_tail(xp, dtype, lowest):
    # erfcx 5.5 ulp at worst, times a bell and x. The derivative passes through 0 at -0.75, as a sum of two terms of
    # size 0.2: there only the absolute error can be small.
    x = grid(lowest, 8, dtype)
    with xp.no_sync():
        value, slope = gelu.value_and_grad(xp.asarray(x))
    values, slopes = twins("gelu", x)
    assert_ulps(xp, value, values, dtype, 6.5)
    assert_ulps(xp, gelu(xp.asarray(x)), values, dtype, 6.5)  # in JAX this one is compiled
    small = (each_ulps(xp, slope, slopes, dtype) <= 6.5) | (each_eps(xp, slope, slopes, dtype) <= 1.5)
    assert np.all(small), x[~small]
    tail = x[:, 0] < -2  # and away from the zero the relative error holds alone
    assert np.all(each_ulps(xp, slope, slopes, dtype)[tail] <= 8)


def argument_of(form, x):
    """The argument of the sigmoid in one of the approximations."""
    if form == "sigmoid":
        return 1.702 * x
    slope, cubic, quintic = (
        activations._MINIMAX if form == "minimax" else (math.sqrt(2 / math.pi), 0.044715, 0)
    )
    end = math.sqrt(-0.3 * cubic / quintic) if quintic else INF
    at = np.clip(x, -end, end)
    steepness = 2 * slope * (1 + 3 * cubic * at**2 + 5 * quintic * at**4)
    return 2 * slope * (at + cubic * at**3 + quintic * at**5) + steepness * (x - at)


def assert_approximation(xp, form, x, values, slopes):
    """The exponential magnifies the roundings of its argument: they count once for each unit of the argument."""
    dtype = str(x.dtype)
    value, slope = gelu.value_and_grad(xp.asarray(x), approximate=form)
    roundings = {"tanh": 3, "sigmoid": 2, "minimax": 6}[
        form
    ]  # six, two and twelve of half an eps, up to an ulp
    limit = 6 + roundings * np.maximum(0, -argument_of(form, x[:, 0].astype(float)))
    assert np.all(each_ulps(xp, value, values, dtype) <= limit)
    small = (each_ulps(xp, slope, slopes, dtype) <= limit + 6) | (each_eps(xp, slope, slopes, dtype) <= 2)
    assert np.all(small), x[~small]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("form", "lowest"),
    [
        ("tanh", {"float32": -9.5, "float64": -10}),
        ("sigmoid", {"float32": -50, "float64": -400}),
        ("minimax", {"float32": -18, "float64": -130}),
    ],
)
def test_approximations_of_gelu(xp, dtype, form, lowest):
    x = grid(lowest[dtype], 8, dtype)
    assert_approximation(xp, form, x, *twins("gelu", x, approximate=form))


def test_the_tanh_form_of_gelu_has_a_tail(xp):
    # As x sigmoid(2u) and its derivative, in 60 digits: 1 + tanh(u) would leave none of them at -12.
    x = np.linspace(-21, -10, 45)[:, None]
    values, slopes = [], []
    with mp.workdps(60):
        for entry in x[:, 0]:
            z, c, a = mp.mpf(entry), mp.mpf("0.044715"), 2 * mp.sqrt(2 / mp.pi)
            share, falling = (1 / (1 + mp.exp(sign * a * (z + c * z**3))) for sign in (-1, 1))
            values.append([z * share])
            slopes.append([share + z * share * falling * a * (1 + 3 * c * z**2)])
    assert_approximation(xp, "tanh", x, values, slopes)


def test_gelu_golden_values(xp):
    # From mpmath, 17 digits; 6.5 ulp are at most 1.5e-15.
    x = [-8.0, -5.5, -3.0, -1.0, 1.0, 3.0]
    expected = [
        *(-4.9767684594174273e-15, -1.0444259356238246e-7, -0.0040496940948902836),
        *(-0.15865525393145705, 0.84134474606854295, 2.9959503059051097),
    ]
    value, slope = gelu.value_and_grad(xp.asarray(np.asarray(x)))
    np.testing.assert_allclose(xp.to_numpy(value), expected, rtol=1.5e-15)
    np.testing.assert_allclose(
        xp.to_numpy(slope)[[2, 4]], [-0.011945647204183927, 1.0833154705876863], rtol=1.5e-15
    )
    one = xp.asarray(np.asarray([1.0]))
    assert float(gelu(one, approximate="tanh")[0]) == pytest.approx(0.8411919906082767, rel=1e-15)
    assert float(gelu(one, approximate="sigmoid")[0]) == pytest.approx(0.8457957659328213, rel=1e-15)


def test_gelu_extrema(xp):
    # From mpmath: the places to 17 digits, so that the derivative there is a rounding error.
    lowest, steepest = -0.75179152469356446, math.sqrt(2)
    value, slope = map(
        xp.to_numpy, gelu.value_and_grad(xp.asarray(np.asarray([lowest, steepest, -steepest])))
    )
    assert value[0] == pytest.approx(-0.16997120747990367, rel=1.5e-15)
    np.testing.assert_allclose(slope, [0, 1.128904145185155, -0.128904145185155], atol=3e-16)
    for form, place, low in (
        ("tanh", -0.752461, -0.1700407505712541),
        ("sigmoid", None, -0.1636101896363536),
    ):
        x = np.linspace(-2, 0, 2001) if place is None else np.asarray([place])
        found = xp.to_numpy(gelu(xp.asarray(x), approximate=form)).min()
        assert found == pytest.approx(low, abs=1e-7)  # flat there: the place is known to 1e-6 or 1e-3


def test_gelu_approximations_err_by_what_is_known(xp):
    # From mpmath: the largest errors and their places.
    for form, place, error in (
        ("tanh", 2.699, 4.73236e-4),
        ("sigmoid", 2.270, 2.03349e-2),
        ("minimax", None, 2.51872151e-5),
    ):
        x = np.linspace(-8, 8, 401)
        gap = np.abs(xp.to_numpy(gelu(xp.asarray(x), approximate=form) - gelu(xp.asarray(x))))
        assert gap.max() <= error * (1 + 1e-5)
        if place is not None:  # the minimax error is as large at four places
            assert abs(abs(x[gap.argmax()]) - place) <= 0.04  # a step of the grid


@pytest.mark.parametrize("x", [-3.0, -4.0, -5.0, -5.5, -6.0, -8.0, -12.0])
def test_gelu_where_others_have_no_digits(xp, x):
    # Measured: torch 2.13 F.gelu in float32 is off by 17 % at -5, by 57 % at -5.5, and 0 from -6 on; its gradient is
    # off by 16 % at -6.
    value, slope = gelu.value_and_grad(xp.asarray(np.asarray([x], dtype=np.float32)))
    exact_value, exact_slope, _ = reference.gelu(x)
    assert float(value[0]) == pytest.approx(float(exact_value), rel=6.5 * 2.0**-23, abs=0)
    assert float(slope[0]) == pytest.approx(float(exact_slope), rel=8 * 2.0**-23, abs=0)


@pytest.mark.parametrize(("rule", "at"), [(sigmoid, -60.0), (softplus, -60.0), (tanh, 1e-6)])
def test_small_results_keep_their_digits(xp, rule, at):
    # log(1 + exp(-60)) as written gives 0, and 2 sigmoid(2e-6) - 1 for tanh keeps ten digits.
    exact, *_ = getattr(reference, rule.__name__)(at)
    assert float(rule(xp.asarray(np.asarray([at])))[0]) == pytest.approx(float(exact), rel=1e-15, abs=0)


@every
@pytest.mark.parametrize("dtype", WIDE)
def test_limits_at_infinity(xp, rule, opts, dtype):
    # Beyond the square root of the largest number, x² is infinite too and must not make a nan.
    huge = [1e15, 1e25, 1e38] if dtype == "float32" else [1e15, 1e160, 1e300]
    x = np.asarray([INF, *huge, *(-h for h in huge), -INF]).astype(dtype)
    value, slope = rule.value_and_grad(xp.asarray(x), **opts)
    values = {"sigmoid": (x > 0) * 1.0, "tanh": np.sign(x)}.get(rule.__name__, np.maximum(x, 0))
    slopes = (x > 0) * 1.0 if rule.__name__ in ("relu", "softplus", "gelu") else np.zeros(8)
    np.testing.assert_array_equal(xp.to_numpy(value), values.astype(dtype))
    np.testing.assert_array_equal(xp.to_numpy(slope), slopes)


@every
@pytest.mark.parametrize("dtype", WIDE)
def test_nan_stays_nan_in_its_place(xp, rule, opts, dtype):
    value, slope = rule.value_and_grad(xp.asarray(np.asarray([1.0, np.nan, -1.0], dtype=dtype)), **opts)
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [False, True, False])
    if rule is not relu:  # whose derivative tells signs alone, as in PyTorch and JAX
        np.testing.assert_array_equal(np.isnan(xp.to_numpy(slope)), [False, True, False])


@every
def test_half_precisions_are_computed_in_float32(xp, rule, opts):
    x = np.asarray(
        [-9, -5.5, -3.25, -1.5, -0.5, -1e-3, 0.0, 1e-3, 0.25, 1.0, 2.5, 6.0, 40.0], dtype="float32"
    )
    for dtype in sorted(HALVES & set(xp.dtypes)):
        half = xp.asarray(x[:, None], dtype)
        value, slope = rule.value_and_grad(half, **opts)
        values, slopes = twins(rule.__name__, xp.to_numpy(half), **opts)
        assert_ulps(
            xp, value, values, dtype, 1
        )  # half an ulp to store it, and the little that float32 was off
        assert_ulps(xp, slope, slopes, dtype, 1)


@every
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3, 4)])
def test_any_shape_stays(xp, rule, opts, shape):
    x = xp.asarray(np.full(shape, 0.5))
    value, slope = rule.value_and_grad(x, **opts)
    assert tuple(value.shape) == tuple(slope.shape) == shape
    alone, _ = rule.value_and_grad(xp.asarray(np.asarray([0.5])), **opts)
    np.testing.assert_array_equal(xp.to_numpy(value), np.broadcast_to(xp.to_numpy(alone)[0], shape))


def test_the_parts_of_x_add_up_to_it(xp):
    # f(x) - f(-x) = x for softplus and gelu; σ(x) + σ(-x) = 1; softplus' = σ; tanh(x) = 2 σ(2x) - 1.
    x = xp.asarray(np.linspace(-6, 6, 49))
    for odd in (softplus, gelu):
        np.testing.assert_allclose(xp.to_numpy(odd(x) - odd(-x)), xp.to_numpy(x), rtol=0, atol=2e-15)
    np.testing.assert_allclose(xp.to_numpy(sigmoid(x) + sigmoid(-x)), 1, rtol=4e-16)
    np.testing.assert_allclose(
        xp.to_numpy(softplus.value_and_grad(x)[1]), xp.to_numpy(sigmoid(x)), rtol=1e-15
    )
    np.testing.assert_allclose(xp.to_numpy(tanh(x)), xp.to_numpy(2 * sigmoid(2 * x) - 1), rtol=0, atol=1e-15)


@every
@pytest.mark.parametrize("dtype", WIDE)
def test_rule(xp, rule, opts, dtype):
    x = np.asarray(
        [[-3.0, -1.5, -0.25], [0.5, 1.0, 2.75]], dtype=dtype
    )  # off relu's kink by more than a step
    check_rule(rule, xp.asarray(x), **opts)


@every
def test_what_is_not_real_floating_is_refused(xp, rule, opts):
    for call in (rule, rule.vjp):
        with pytest.raises(TypeError, match=r"^x must have a real floating dtype \(.*float64\), not .*int64"):
            call(xp.asarray(np.asarray([1, 2], dtype="int64")), **opts)
        with pytest.raises(TypeError, match=r"^x must have a real floating dtype"):
            call(xp.asarray(np.asarray([True])), **opts)


@every
@pytest.mark.parametrize("x", [1.0, [1.0], None, "x"])
def test_what_is_no_array_is_refused(rule, opts, x):
    kind = rf"{type(x).__module__}\.{type(x).__qualname__}"
    with pytest.raises(TypeError, match=rf"^x must be an array of NumPy, CuPy, PyTorch, JAX .*, not {kind}$"):
        rule(x, **opts)


@every
def test_a_numpy_scalar_is_an_array_without_axes(rule, opts):
    # NumPy makes one of every 0-d result: the value of one rule must do as the input of the next.
    plain, slope = rule.value_and_grad(np.asarray([0.5]), **opts)
    for x in (np.float64(0.5), np.asarray(0.5)):
        assert [*rule.value_and_grad(x, **opts)] == [plain[0], slope[0]]
    assert compose(softplus, rule)(np.asarray(0.5)) == pytest.approx(float(softplus(rule(np.asarray(0.5)))))
    with pytest.raises(TypeError, match=r"^x must have a real floating dtype"):
        rule(np.int64(1), **opts)


def test_gelu_has_four_forms(xp):
    x = xp.asarray(np.asarray([1.0]))
    for call in (gelu, gelu.vjp):
        with pytest.raises(
            ValueError, match=r'^approximate must be "none", "tanh", "sigmoid" or "minimax", not \'erf\''
        ):
            call(x, approximate="erf")


def worst_of_second_derivative(xp, rule, opts, x):
    """Errors in ulps of each entry, and absolute ones in eps."""
    dtype = str(x.dtype)
    exact = [[getattr(reference, rule.__name__)(float(entry), **opts)[2]] for entry in x[:, 0]]
    actual = rule.value_grad_hess(xp.asarray(x), **opts)[2]
    assert str(actual.dtype).rpartition(".")[2] == dtype
    return each_ulps(xp, actual, exact, dtype), each_eps(xp, actual, exact, dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("name", RANGES)
def test_second_derivatives_are_within_9_ulp(xp, name, dtype):
    # Two exponentials and up to six more roundings; XLA's tanh is off by 6.5 ulp alone.
    x = grid(*RANGES[name][dtype], dtype)
    ulps, _ = worst_of_second_derivative(xp, getattr(activations, name), {}, x)
    assert ulps.max() <= 9


@pytest.mark.parametrize("dtype", WIDE)
def test_second_derivative_of_gelu_keeps_its_digits_in_the_tails(xp, dtype):
    # φ(x) (2 - x²): 5 ulp for the density, and the factor as a product of sum and difference, which near √2 keeps
    # what the rounding of √2 leaves it.
    x = grid(-12.5, 12.5, dtype) if dtype == "float32" else grid(-37, 37, dtype)
    ulps, eps = worst_of_second_derivative(xp, gelu, {"approximate": "none"}, x)
    assert np.all((ulps <= 8) | (eps <= 0.5))
    assert np.all(ulps[np.abs(x[:, 0]) > 2] <= 8)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("form", FORMS[1:])
def test_second_derivatives_of_the_approximations(xp, form, dtype):
    # Differences of terms up to 4 in size, each with the roundings of the first derivative.
    x = grid(-8, 8, dtype)
    _, eps = worst_of_second_derivative(xp, gelu, {"approximate": form}, x)
    assert eps.max() <= 8


@every
@pytest.mark.parametrize("dtype", WIDE)
def test_second_derivatives_vanish_at_infinity(xp, rule, opts, dtype):
    huge = [1e15, 1e25, 1e38] if dtype == "float32" else [1e15, 1e160, 1e300]
    x = np.asarray([INF, *huge, *(-h for h in huge), -INF]).astype(dtype)
    value, slope, curvature = rule.value_grad_hess(xp.asarray(x), **opts)
    np.testing.assert_array_equal(xp.to_numpy(curvature), np.zeros(8))
    expected = rule.value_and_grad(xp.asarray(x), **opts)
    np.testing.assert_array_equal(xp.to_numpy(value), xp.to_numpy(expected[0]))
    np.testing.assert_array_equal(xp.to_numpy(slope), xp.to_numpy(expected[1]))


@every
def test_second_derivative_of_half_precisions_is_computed_in_float32(xp, rule, opts):
    x = np.asarray([-5.5, -3.25, -1.0, -0.5, 0.0, 0.25, 1.0, 2.5, 40.0], dtype="float32")
    for dtype in sorted(HALVES & set(xp.dtypes)):
        half = xp.asarray(x, dtype)
        curvature = rule.value_grad_hess(half, **opts)[2]
        wide = rule.value_grad_hess(xp.astype(half, xp.float32), **opts)[2]
        assert curvature.dtype == half.dtype
        np.testing.assert_array_equal(xp.to_numpy(curvature), xp.to_numpy(xp.astype(wide, half.dtype)))


@every
@pytest.mark.parametrize("x", [[1.0], None])
def test_second_derivative_refuses_what_is_no_array(rule, opts, x):
    with pytest.raises(TypeError, match=r"^x must be an array"):
        rule.value_grad_hess(x, **opts)


SMOOTH = [-9.0, -3.0, -0.5, 0.25, 1.0, 3.0, 7.0]


@pytest.mark.library("torch")
@every
def test_second_derivative_is_that_of_torch_autograd(xp, rule, opts):
    torch = pytest.importorskip("torch")
    x = torch.tensor(SMOOTH, dtype=torch.float64, requires_grad=True)
    if rule is not relu:  # a constant slope has no graph
        (slope,) = torch.autograd.grad(rule(x, **opts).sum(), x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), x)
        expected = rule.value_grad_hess(x.detach(), **opts)[2]
        torch.testing.assert_close(curvature, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.library("jax")
@every
def test_second_derivative_is_that_of_jax(xp, rule, opts):
    jax = pytest.importorskip("jax")
    x = xp.asarray(np.asarray(SMOOTH))
    second = jax.vmap(jax.grad(jax.grad(lambda z: rule(z, **opts))))(x)
    np.testing.assert_allclose(second, rule.value_grad_hess(x, **opts)[2], rtol=1e-12, atol=1e-14)
    jitted = jax.jit(lambda z: rule.value_grad_hess(z, **opts)[2])(x)
    np.testing.assert_allclose(jitted, second, rtol=1e-12, atol=1e-14)
