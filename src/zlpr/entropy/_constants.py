"""Constants of the estimators, functions of whole numbers: on the host, in plain Python, to the last digits."""

from __future__ import annotations

import math

from zlpr import _array
from zlpr._array import Array

EULER = 0.5772156649015329
_SERIES = (
    1 / 12,
    -1 / 120,
    1 / 252,
    -1 / 240,
    1 / 132,
    -691 / 32760,
)  # B_2j / 2j: Abramowitz and Stegun, 6.3.18
_LARGE = 32  # from here on the series has all digits


def digamma(n: int) -> float:
    """ψ(n) for a positive integer: a harmonic sum, or its asymptotic series."""
    if n < _LARGE:
        return math.fsum((-EULER, *(1.0 / j for j in range(1, n))))
    inverse_square, series = 1.0 / (n * n), 0.0
    for coefficient in reversed(_SERIES):
        series = (series + coefficient) * inverse_square
    return math.fsum((math.log(n), -0.5 / n, -series))


def digamma_of(n: Array) -> Array:
    """ψ of an array of positive whole numbers, where their values are not known on the host."""
    xp = _array.namespace(n)
    rest, large = xp.zeros_like(n), n + 10.0
    for j in range(10):
        rest = rest + 1.0 / (n + float(j))
    inverse_square, series = 1.0 / (large * large), xp.zeros_like(n)
    for coefficient in reversed(_SERIES):
        series = (series + coefficient) * inverse_square
    return xp.log(large) - 0.5 / large - series - rest


def log_count(n: int, form: str) -> float:
    """What n points have in place of log n: ψ(n), or log(n - 1) in the form of the post."""
    return digamma(n) if form == "psi" else math.log(n - 1)


def log_count_of(n: Array, form: str) -> Array:
    """The same of an array."""
    return digamma_of(n) if form == "psi" else _array.namespace(n).log(n - 1.0)
