"""The normal distribution's tail to the last digits, in standard calls alone: no library's erfc keeps them.

``erfc(u)`` is ``erfcx(u) exp(-u²)``, where the scaled function is smooth and the square is split so that its
rounding error, which the exponential would magnify, does not arise.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction
from itertools import accumulate

from zlpr import _array, _ops
from zlpr._array import Array

_SCALE = 3.0
_TERMS = {4: 12, 8: 25}
DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)
_SQUARE_GRID = {4: (2.0**8, 16.0), 8: (2.0**20, 64.0)}
_CHEBYSHEV = (  # python tools/erfcx_coefficients.py
    1.17756257419656,
    0.005353904539615676,
    -0.09377550342284209,
    0.05436652555744322,
    -0.018976596707845208,
    0.004453426061462712,
    -0.0006335531710553147,
    1.7661719523171593e-05,
    1.2841532864056671e-05,
    -2.0072285659059913e-06,
    -1.807522790414837e-07,
    7.549828343825093e-08,
    1.885668523838603e-09,
    -2.699519049798364e-09,
    -1.460079119939105e-11,
    1.0361607445969489e-10,
    1.475715976623473e-12,
    -4.277340064396911e-12,
    -2.07922492859799e-13,
    1.8134502003176963e-13,
    1.973425574544739e-14,
    -7.287943737592673e-15,
    -1.5169878690228116e-15,
    2.3514112258781403e-16,
    1.0006111691821667e-16,
    -2.0572528169538546e-18,
    -5.608608218863183e-18,
    -5.546884725994431e-19,
)


def erfcx(u: Array) -> Array:
    """``exp(u²) erfc(u)`` for u >= 0, float32 or float64."""
    full_like = _array.namespace(u).full_like
    t = 1.0 - full_like(u, 2.0 * _SCALE) / (
        u + _SCALE
    )  # of a number PyTorch would take the rounded reciprocal
    highest, *others, at_zero = _powers(_TERMS[_array.itemsize(u)])
    value = highest * t
    for c in others[:-1]:
        value = _ops.multiply_(_ops.add_(value, c), t)
    value = _ops.add_(value, others[-1])
    return _ops.add_(_ops.multiply_(value, 1.0 + t), at_zero) / (1.0 + 2.0 * u)


@functools.cache
def _powers(terms: int) -> list[float]:
    """The Chebyshev series as ``r(t) (1 + t) + c``: powers of r, the highest first, and c, the series at t = -1.

    Horner is cheaper than Clenshaw, and the factor keeps its rounding errors small where they are largest, near t = -1.
    """
    total = [Fraction(0)] * terms
    before, now = [Fraction(0)] * terms, [Fraction(1)] + [Fraction(0)] * (terms - 1)
    for k, c in enumerate(_CHEBYSHEV[:terms]):
        total = [p + Fraction(c) * q for p, q in zip(total, now, strict=True)]
        factor = 2 if k else 1
        before, now = now, [factor * p - q for p, q in zip([Fraction(0), *now[:-1]], before, strict=True)]
    return [float(q) for q in accumulate(reversed(total), lambda q, p: p - q)]  # the remainder comes last


def near(x: Array) -> Array:
    """x, moved to where ``exp(-x²/2)`` is 0 already if it is further away: a finite factor for it."""
    reach = _SQUARE_GRID[_array.itemsize(x)][1]
    return _ops.clip(x, -reach, reach)


def half_square_exp(x: Array) -> Array:
    """``exp(-x²/2)``, relatively exact also where x² is large; x as `near` gives it."""
    xp, steps = _array.namespace(x), _SQUARE_GRID[_array.itemsize(x)][0]
    head = _ops.multiply_(xp.round(x * steps), 1.0 / steps)  # few enough bits for an exact square
    rest = _ops.multiply_(_ops.multiply_(x - head, x + head), -0.5)
    growth = rest * (1.0 / 24.0)  # a series: rest is at most 0.03, and 6e-5 in float64
    for c in (1.0 / 6.0, 0.5, 1.0):
        growth = _ops.multiply_(_ops.add_(growth, c), rest)
    growth = _ops.add_(growth, 1.0)
    return _ops.multiply_(_ops.exp_(_ops.multiply_(head * head, -0.5)), growth)


def normal(x: Array) -> tuple[Array, Array]:
    """The cumulative distribution and the density of the standard normal law at x."""
    bell, scaled = normal_factors(near(x))
    tail = bell * scaled
    below = _array.namespace(x).where(x < 0, tail, 1.0 - tail)
    return below, bell * DENSITY_AT_0


def normal_factors(x: Array) -> tuple[Array, Array]:
    """``exp(-x²/2)``, and the mass beyond |x| divided by it, which does not underflow; x as `near` gives it."""
    mass = erfcx(_ops.multiply_(_array.namespace(x).abs(x), math.sqrt(0.5)))
    return half_square_exp(x), _ops.multiply_(mass, 0.5)
