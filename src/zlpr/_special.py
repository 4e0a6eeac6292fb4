"""The normal distribution's tail to the last digits, in standard calls alone: no library's erfc keeps them.

``erfc(u)`` is ``erfcx(u) exp(-u²)``, where the scaled function is smooth and the square is split so that its
rounding error, which the exponential would magnify, does not arise.
"""

from __future__ import annotations

import math

from zlpr import _array
from zlpr._array import Array

_SCALE = 3.0
_TERMS = {4: 14, 8: 28}
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
    t = 1.0 - (2.0 * _SCALE) / (u + _SCALE)
    twice = 2.0 * t
    above = before = _array.namespace(u).zeros_like(u)
    for c in reversed(_CHEBYSHEV[1 : _TERMS[_array.itemsize(u)]]):  # Clenshaw's recurrence
        above, before = twice * above - before + c, above
    return (t * above - before + _CHEBYSHEV[0]) / (1.0 + 2.0 * u)


def half_square_exp(x: Array) -> Array:
    """``exp(-x²/2)``, relatively exact also where x² is large."""
    xp = _array.namespace(x)
    steps, reach = _SQUARE_GRID[_array.itemsize(x)]
    head = xp.round(x * steps) * (1.0 / steps)  # few enough bits for an exact square
    head = xp.where(xp.abs(x) < reach, head, xp.zeros_like(x))  # beyond, the result is 0 in any case
    rest = xp.expm1(-0.5 * (x - head) * (x + head))  # not exp: XLA merges a product of two exponentials
    return xp.exp(-0.5 * head * head) * (1.0 + rest)


def normal(x: Array) -> tuple[Array, Array]:
    """The cumulative distribution and the density of the standard normal law at x."""
    bell, scaled = normal_factors(x)
    tail = bell * scaled
    below = _array.namespace(x).where(x < 0, tail, 1.0 - tail)
    return below, bell * DENSITY_AT_0


def normal_factors(x: Array) -> tuple[Array, Array]:
    """``exp(-x²/2)``, and the mass beyond |x| divided by it, which does not underflow."""
    return half_square_exp(x), 0.5 * erfcx(_array.namespace(x).abs(x) * math.sqrt(0.5))
