"""Constants beyond the digits of a dtype, against mpmath and exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mp

from zlpr import _constants

FINITE = st.floats(-1e30, 1e30)


@given(x=FINITE, y=FINITE)
def test_products_are_exact(x, y):
    assert Fraction(*_constants.product(x, y)) == Fraction(x) * Fraction(y)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(x=st.floats(1e-20, 1e30), y=st.floats(1e-10, 1e5))
def test_a_ratio_and_what_rounding_took_off(dtype, x, y):
    exact = Fraction(x) * Fraction(y)
    high, low = _constants.rounded(_constants.product(x, y), np.empty(0, dtype))
    assert float(np.dtype(dtype).type(high)) == high
    assert abs(Fraction(high) - exact) <= Fraction(float(np.spacing(np.dtype(dtype).type(high)))) * Fraction(
        1, 2
    )
    assert abs(Fraction(high) + Fraction(low) - exact) <= abs(exact) * Fraction(1, 2**76)


@given(x=FINITE, y=st.floats(-50, 50))
def test_the_whole_number_is_the_nearest(x, y):
    whole, rest = _constants.whole_and_rest(_constants.product(math.remainder(x, 1e6), y))
    assert whole == int(whole)
    assert abs(rest) <= 0.5
    assert whole + rest == pytest.approx(math.remainder(x, 1e6) * y, rel=1e-15, abs=1e-300)


@given(probability=st.floats(1e-300, 1 - 2.0**-53))
def test_logits_have_33_decimals(probability):
    with mp.workdps(80):
        p = mp.mpf(probability)
        ratio = _constants.logit(probability)
        assert abs(mp.mpf(ratio[0]) / ratio[1] - mp.log(p / (1 - p))) < mp.mpf(10) ** -33


@pytest.mark.parametrize(("x", "expected"), [(1, True), (np.float32(0.5), True), ("1", False), (None, False)])
def test_what_a_number_is(x, expected):
    assert _constants.is_number(x) is expected
