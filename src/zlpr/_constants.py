"""Constants of a formula to more digits than a dtype has: numbers the user gives, their products and their logits.

All in whole numbers, which are exact, and which PyTorch's compiler can trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from zlpr import _array
from zlpr._array import Array


def is_number(x: Any) -> bool:
    """Whether an option is a real number, of Python's or NumPy's."""
    return isinstance(x, int | float | np.number)


def is_integer(x: Any) -> bool:
    """Whether an option is an integer, of Python's or NumPy's; truth values are not."""
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def product(x: float, y: float) -> tuple[int, int]:
    """The exact product, as a ratio of whole numbers."""
    (above, below), (other_above, other_below) = x.as_integer_ratio(), y.as_integer_ratio()
    return above * other_above, below * other_below


def rounded(ratio: tuple[int, int], like: Array) -> tuple[float, float]:
    """A ratio in the dtype of `like`, and what rounding took off it."""
    numerator, denominator = ratio
    scalar = np.float32 if _array.itemsize(like) == 4 else np.float64
    high = float(scalar(numerator / denominator))
    above, below = high.as_integer_ratio()
    return high, (numerator * below - above * denominator) / (denominator * below)


def whole_and_rest(ratio: tuple[int, int]) -> tuple[float, float]:
    """A ratio as the nearest whole number and what is left of it."""
    numerator, denominator = ratio
    whole = (2 * numerator + denominator) // (2 * denominator)
    return float(whole), (numerator - whole * denominator) / denominator


_BITS = 128
_logits: dict[float, tuple[int, int]] = {}


def logit(probability: float) -> tuple[int, int]:
    """``log(p / (1 - p))`` of a p between 0 and 1 to 33 decimals, as a ratio."""
    if probability not in _logits:
        numerator, denominator = probability.as_integer_ratio()
        _logits[probability] = (_fixed_log(numerator, denominator - numerator), 1 << _BITS)
    return _logits[probability]


def _fixed_log(numerator: int, denominator: int) -> int:
    """Logarithm of a ratio, times 2^128."""
    halvings = numerator.bit_length() - denominator.bit_length()
    near_1 = _fixed_log_near_1(numerator << max(-halvings, 0), denominator << max(halvings, 0))
    return near_1 + halvings * _fixed_log_near_1(2, 1)


def _fixed_log_near_1(numerator: int, denominator: int) -> int:
    """``2 artanh(y)``, y = (x - 1) / (x + 1), by its series."""
    y = (abs(numerator - denominator) << _BITS) // (numerator + denominator)
    square, power, total, odd = (y * y) >> _BITS, y, 0, 1
    while power:
        total += power // odd
        power = (power * square) >> _BITS
        odd += 2
    return 2 * total if numerator >= denominator else -2 * total


def economized(series: Sequence[Fraction], span: Fraction, tolerance: float) -> list[float]:
    """Coefficients of a shorter polynomial, the highest first, within the tolerance of a series on [0, span].

    As long as it stays within, the highest term is replaced by what it has in common with the Chebyshev polynomial of
    its degree, which is the least error there (Lanczos).
    """
    shorter, error = list(series), Fraction(0)
    while len(shorter) > 1:
        degree = len(shorter) - 1
        share = shorter[-1] * span**degree / 2 ** (2 * degree - 1)
        error += abs(share)
        if error > tolerance:
            break
        chebyshev = _shifted_chebyshev(degree)
        shorter = [c - share * t / span**i for i, (c, t) in enumerate(zip(shorter, chebyshev, strict=True))][
            :-1
        ]
    return [float(c) for c in reversed(shorter)]


def _shifted_chebyshev(degree: int) -> list[int]:
    """Coefficients of ``T_n(2x - 1)``, the lowest first."""
    before, now = [1], [-1, 2]
    for _ in range(degree - 1):
        doubled = [0, *(4 * c for c in now)]
        rest = [*(2 * c for c in now), 0]
        before, now = now, [d - r - b for d, r, b in zip(doubled, rest, [*before, 0, 0], strict=True)]
    return now
