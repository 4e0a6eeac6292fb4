"""Activations straight from their formulas, at high precision: value and two derivatives of one number."""

from __future__ import annotations

from typing import Any

from mpmath import mp

_DIGITS = 60


def sigmoid(x: float) -> tuple[Any, Any, Any]:
    """1 / (1 + e^-x), and its first two derivatives.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative, second_derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import sigmoid
    >>> print(sigmoid(0.0)[1])
    0.25
    """
    with mp.workdps(_DIGITS):
        z = mp.mpf(x)
        slope = mp.exp(-abs(z)) / (1 + mp.exp(-abs(z))) ** 2
        return 1 / (1 + mp.exp(-z)), slope, -slope * mp.tanh(z / 2)


def softplus(x: float) -> tuple[Any, Any, Any]:
    """log(1 + e^x), and its first two derivatives.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative, second_derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import softplus
    >>> print(softplus(0.0)[1])
    0.5
    """
    with mp.workdps(_DIGITS):
        term = mp.exp(mp.mpf(x))
        return (mp.log1p(term) if mp.isfinite(term) else term), *sigmoid(x)[:2]


def tanh(x: float) -> tuple[Any, Any, Any]:
    """Tanh, and its first two derivatives.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative, second_derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import tanh
    >>> print(tanh(0.0)[1])
    1.0
    """
    with mp.workdps(_DIGITS):
        value, slope = mp.tanh(mp.mpf(x)), mp.sech(mp.mpf(x)) ** 2
        return value, slope, -2 * value * slope


def relu(x: float) -> tuple[Any, Any, Any]:
    """Rectifier max(x, 0), its derivative, 0 unless x is positive, and that one's.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative, second_derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import relu
    >>> print(relu(-1.0)[0])
    0.0
    """
    return mp.mpf(x) if x > 0 or mp.isnan(x) else mp.mpf(0), mp.mpf(x > 0), mp.mpf(0)


def gelu(x: float, approximate: str = "none") -> tuple[Any, Any, Any]:
    """Exact form x Φ(x) or one of its approximations, and the first two derivatives.

    Parameters
    ----------
    x : float
    approximate : {"none", "tanh", "sigmoid", "minimax"}

    Returns
    -------
    value, derivative, second_derivative : mpf

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import gelu
    >>> nstr(gelu(-8.0)[0], 8)
    '-4.9767685e-15'
    """
    with mp.workdps(_DIGITS):
        z = mp.mpf(x)
        if mp.isinf(z):
            return (z, mp.mpf(1), mp.mpf(0)) if z > 0 else (mp.mpf(0), mp.mpf(0), mp.mpf(0))
        if approximate == "none":
            share, density, bend = mp.erfc(-z / mp.sqrt(2)) / 2, mp.npdf(z), -z * mp.npdf(z)
        else:
            v, dv, ddv = _sigmoid_argument(z, approximate)
            share, slope, curvature = sigmoid(v)
            density, bend = slope * dv, curvature * dv**2 + slope * ddv
        return z * share, share + z * density, 2 * density + z * bend


def _sigmoid_argument(z: Any, approximate: str) -> tuple[Any, Any, Any]:
    """What the sigmoid is taken of, and its first two derivatives."""
    if approximate == "sigmoid":
        return mp.mpf("1.702") * z, mp.mpf("1.702"), mp.mpf(0)
    if approximate == "tanh":
        slope, cubic, quintic = mp.sqrt(2 / mp.pi), mp.mpf("0.044715"), mp.mpf(0)
    else:  # the constants of the rule, which are numbers to float64
        slope, cubic, quintic = map(
            mp.mpf, (0.7975078842853995, 0.04640160523993667, -0.00044076904500218485)
        )
    end = mp.sqrt(-3 * cubic / (10 * quintic)) if quintic else mp.inf
    at = mp.sign(z) * end if abs(z) > end else z
    value = 2 * slope * (at + cubic * at**3 + quintic * at**5)
    first = 2 * slope * (1 + 3 * cubic * at**2 + 5 * quintic * at**4)
    second = 2 * slope * (6 * cubic * at + 20 * quintic * at**3)
    return value + first * (z - at), first, second
