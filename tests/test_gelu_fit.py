"""The constants of GELU's approximations: published ones, and what makes a fit the best."""

import functools
import importlib.util
import inspect
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp

from zlpr import activations
from zlpr.activations import fit_gelu

TOOL = Path(__file__).parents[1] / "tools" / "gelu_constants.py"
ROOT_2_PI = math.sqrt(2 / math.pi)

fitted = functools.cache(fit_gelu)  # half a second each


def error_at(fit, form, target, x):
    """The target less the approximation, straight from the docstring's formulas."""
    with mp.workdps(40):
        x = mp.mpf(x)
        if form == "sigmoid":
            share = 1 / (1 + mp.exp(-fit.slope * x))
        else:
            share = (1 + mp.tanh(fit.slope * (x + fit.cubic * x**3 + fit.quintic * x**5))) / 2
        return float((mp.ncdf(x) - share) * (x if target == "gelu" else 1))


# Found independently at 25 to 40 digits by minimisation; the minimax constants of the distribution are also in post
# 7309 (0.04471491123850965 and 1.7017449256323682, ten digits right).
@pytest.mark.parametrize(
    ("form", "target", "slope", "cubic", "error"),
    [
        ("tanh", "cdf", ROOT_2_PI, 0.0447149112276328, 1.78921e-4),
        ("sigmoid", "cdf", 1.70174492533800, 0, 9.457309e-3),
        ("tanh", "gelu", ROOT_2_PI, 0.0443829438, 3.87419e-4),
        ("sigmoid", "gelu", 1.77293396562, 0, 1.39222e-2),
    ],
)
def test_minimax_constants(form, target, slope, cubic, error):
    fit = fitted(form, free_slope=False, target=target)
    assert fit.slope == pytest.approx(slope, rel=1e-11)
    assert fit.cubic == pytest.approx(cubic, rel=1e-9)
    assert fit.quintic == 0
    assert fit.error == pytest.approx(error, rel=5e-6)  # half a unit in the sixth digit


def test_the_published_constants_are_those_of_the_distribution():
    assert round(fitted("tanh", free_slope=False, target="cdf").cubic, 6) == activations._TANH_CUBIC
    assert round(fitted("sigmoid", free_slope=False, target="cdf").slope, 3) == activations._SIGMOID_SLOPE
    assert fitted("tanh", free_slope=False, target="cdf").cubic * ROOT_2_PI == pytest.approx(
        0.0356773373061989, rel=1e-14
    )


# As above, coefficients of x, x³ and x⁵ of the argument, to the digits that minimisation gave.
@pytest.mark.parametrize(
    ("form", "free", "coefficients", "error", "digits"),
    [
        ("tanh", True, (0.80015708, 0.03470089, 0), 2.7073e-4, 2e-7),
        ("quintic", False, (ROOT_2_PI, 0.03673514, -3.1509e-4), 4.645e-5, 1e-5),
        ("quintic", True, (0.797507945, 0.0370055911, -3.51508661e-4), 2.519e-5, 3e-5),
    ],
)
def test_more_constants_for_gelu(form, free, coefficients, error, digits):
    fit = fitted(form, free_slope=free, target="gelu")
    found = (fit.slope, fit.slope * fit.cubic, fit.slope * fit.quintic)
    assert found == pytest.approx(coefficients, rel=digits)
    assert fit.error == pytest.approx(error, rel=2e-4)


@pytest.mark.parametrize("target", ["gelu", "cdf"])
@pytest.mark.parametrize(
    ("form", "free", "count"),
    [
        ("sigmoid", False, 2),
        ("tanh", False, 2),
        ("tanh", True, 3),
        ("quintic", False, 3),
        ("quintic", True, 4),
    ],
)
def test_the_best_fit_errs_alike_with_signs_in_turn(form, free, count, target):
    # One extremum more than constants, equal and alternating (Chebyshev): no other constants can do better.
    fit = fitted(form, free_slope=free, target=target)
    errors = [error_at(fit, form, target, x) for x in fit.extrema[:count]]
    np.testing.assert_allclose(np.abs(errors), fit.error, rtol=1e-9)
    assert all(a * b < 0 for a, b in itertools.pairwise(errors))
    x = np.linspace(0.01, 8, 200) if form != "quintic" else np.linspace(0.01, 5, 200)  # before it turns back
    assert max(abs(error_at(fit, form, target, z)) for z in x) <= fit.error * (1 + 1e-12)


@pytest.mark.parametrize(("form", "known"), [("tanh", 3.13467e-4), ("sigmoid", None), ("quintic", None)])
def test_taylor_constants(form, known):
    fit = fitted(form, criterion="taylor", target="cdf")
    with mp.workdps(40):
        series = mp.taylor(lambda x: mp.atanh(mp.erf(x / mp.sqrt(2))), 0, 5)
    expected = (series[1], series[3] / series[1], series[5] / series[1])
    kept = {"sigmoid": 1, "tanh": 2, "quintic": 3}[form]
    factor = 2 if form == "sigmoid" else 1  # σ(2u) = (1 + tanh u) / 2
    assert fit[:3] == pytest.approx(
        [factor * float(expected[0]), *map(float, expected[1:kept]), *[0] * (3 - kept)]
    )
    if known:
        assert fit.error == pytest.approx(known, rel=2e-6)
        assert fit.cubic == pytest.approx((4 - math.pi) / (6 * math.pi), rel=1e-15)
        gelu = fitted(form, criterion="taylor")
        assert gelu[:3] == fit[:3]
        assert gelu.error == pytest.approx(7.46169e-4, rel=2e-6)


@pytest.mark.parametrize("name", ["form", "criterion", "target"])
def test_an_unknown_option_is_refused(name):
    options = {"form": "tanh", name: "erf"}
    with pytest.raises(ValueError, match=rf"^{name} must be \".*, not 'erf'$"):
        fit_gelu(**options)


def test_without_mpmath_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpmath", None)
    with pytest.raises(ImportError, match=r'^fit_gelu needs mpmath: pip install "zlpr\[validate\]"$'):
        fit_gelu("tanh")


def test_the_tool_prints_the_constants_of_the_rule(capsys):
    spec = importlib.util.spec_from_file_location("gelu_constants", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.main()
    printed = tuple(float(line) for line in capsys.readouterr().out.split())
    assert printed == activations._MINIMAX
    twin = inspect.getsource(__import__("zlpr.reference.activations", fromlist=["gelu"]))
    assert all(repr(c) in twin for c in printed)
