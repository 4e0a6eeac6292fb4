"""The scaled tail and the normal law against mpmath, and the table of coefficients against the tool that made it."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from mpmath import mp

from _exact import assert_ulps
from zlpr import _special, _walk

WIDE = ("float32", "float64")
TOOL = Path(__file__).parents[1] / "tools" / "erfcx_coefficients.py"


def exact_erfcx(u):
    with mp.workdps(60):
        z = mp.mpf(float(u))
        return mp.exp(z * z) * mp.erfc(z)


@pytest.mark.parametrize("dtype", WIDE)
def test_erfcx_is_within_6_ulp(xp, dtype):
    # Horner's scheme adds up half an ulp a term where the terms are large, and the quotient adds one.
    u = np.concatenate((np.linspace(0, 12, 121), np.geomspace(1e-7, 1e4, 60))).astype(dtype)[:, None]
    with xp.no_sync():
        actual = _special.erfcx(xp.asarray(u))
    assert_ulps(xp, actual, [[exact_erfcx(entry)] for entry in u[:, 0]], dtype, 6)


@pytest.mark.parametrize("dtype", WIDE)
def test_erfcx_at_its_ends(xp, dtype):
    u = xp.asarray(np.asarray([0, np.inf, np.nan], dtype=dtype))
    with _walk.quiet(u):
        at_zero, at_infinity, nan = xp.to_numpy(_special.erfcx(u))
    assert at_zero == pytest.approx(1, rel=6 * float(np.finfo(dtype).eps))
    assert at_infinity == 0
    assert np.isnan(nan)


@pytest.mark.parametrize(("dtype", "lowest", "highest"), [("float32", -13, 13), ("float64", -37, 37)])
def test_the_normal_law_keeps_its_digits(xp, dtype, lowest, highest):
    # Two exponentials and three products for the density; the tail has erfcx besides.
    x = np.linspace(lowest, highest, 181).astype(dtype)[:, None]
    with xp.no_sync():
        below, density = _special.normal(xp.asarray(x))
    with mp.workdps(60):
        exact = [(mp.erfc(-mp.mpf(float(z)) / mp.sqrt(2)) / 2, mp.npdf(mp.mpf(float(z)))) for z in x[:, 0]]
    assert_ulps(xp, below, [[b] for b, _ in exact], dtype, 6)
    assert_ulps(xp, density, [[d] for _, d in exact], dtype, 5)


@pytest.mark.parametrize("dtype", WIDE)
def test_the_normal_law_at_infinity(xp, dtype):
    x = xp.asarray(np.asarray([-np.inf, -1e30, -70.0, 0.0, 70.0, 1e30, np.inf], dtype=dtype))
    with _walk.quiet(x):
        below, density = map(xp.to_numpy, _special.normal(x))
    np.testing.assert_allclose(below, [0, 0, 0, 0.5, 1, 1, 1], rtol=4 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(
        density, [0, 0, 0, 0.3989422804014327, 0, 0, 0], rtol=float(np.finfo(dtype).eps)
    )


@pytest.mark.parametrize("dtype", WIDE)
def test_the_bell_is_relatively_exact_where_its_exponent_is_large(xp, dtype):
    # exp(-x * x / 2) as written is off by x²/4 ulp: 340 at 37.
    x = (
        np.linspace(-37, 37, 75).astype(dtype)
        if dtype == "float64"
        else np.linspace(-13, 13, 53, dtype=dtype)
    )
    with mp.workdps(60):
        exact = [[mp.exp(-(mp.mpf(float(z)) ** 2) / 2)] for z in x]
    assert_ulps(xp, _special.half_square_exp(xp.asarray(x[:, None])), exact, dtype, 3)


def test_the_table_is_what_its_tool_computes():
    spec = importlib.util.spec_from_file_location("erfcx_coefficients", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.SCALE == _special._SCALE
    assert [float(c) for c in tool.coefficients()] == list(_special._CHEBYSHEV)


def test_the_terms_left_out_are_below_the_last_digit():
    # The sum of what follows bounds the truncation; the polynomial is 0.56 at its least, (1 + 2u) erfcx(u) at infinity
    # being 2 / sqrt(pi), hence eps / 2 is far below an ulp.
    for itemsize, eps in ((4, 2.0**-23), (8, 2.0**-52)):
        dropped = _special._CHEBYSHEV[_special._TERMS[itemsize] :] or (_special._CHEBYSHEV[-1],)
        assert sum(map(abs, dropped)) <= eps / 2
