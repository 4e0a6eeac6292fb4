"""Activations straight from their formulas, at high precision: (value, derivative) of one number."""

from __future__ import annotations

from typing import Any

from mpmath import mp

_DIGITS = 60


def sigmoid(x: float) -> tuple[Any, Any]:
    """1 / (1 + e^-x), and its derivative.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import sigmoid
    >>> print(sigmoid(0.0)[1])
    0.25
    """
    with mp.workdps(_DIGITS):
        return 1 / (1 + mp.exp(-mp.mpf(x))), mp.exp(-abs(mp.mpf(x))) / (1 + mp.exp(-abs(mp.mpf(x)))) ** 2


def softplus(x: float) -> tuple[Any, Any]:
    """log(1 + e^x), and its derivative.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import softplus
    >>> print(softplus(0.0)[1])
    0.5
    """
    with mp.workdps(_DIGITS):
        term = mp.exp(mp.mpf(x))
        return (mp.log1p(term) if mp.isfinite(term) else term), sigmoid(x)[0]


def tanh(x: float) -> tuple[Any, Any]:
    """Tanh, and its derivative.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import tanh
    >>> print(tanh(0.0)[1])
    1.0
    """
    with mp.workdps(_DIGITS):
        return mp.tanh(mp.mpf(x)), mp.sech(mp.mpf(x)) ** 2


def relu(x: float) -> tuple[Any, Any]:
    """Rectifier max(x, 0), and its derivative, 0 unless x is positive.

    Parameters
    ----------
    x : float

    Returns
    -------
    value, derivative : mpf

    Examples
    --------
    >>> from zlpr.reference import relu
    >>> print(relu(-1.0)[0])
    0.0
    """
    return mp.mpf(x) if x > 0 or mp.isnan(x) else mp.mpf(0), mp.mpf(x > 0)


def gelu(x: float, approximate: str = "none") -> tuple[Any, Any]:
    """Exact form x Φ(x) or one of its two approximations, and the derivative.

    Parameters
    ----------
    x : float
    approximate : {"none", "tanh", "sigmoid"}

    Returns
    -------
    value, derivative : mpf

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
            return (z, mp.mpf(1)) if z > 0 else (mp.mpf(0), mp.mpf(0))
        if approximate == "none":
            share, density = mp.erfc(-z / mp.sqrt(2)) / 2, mp.npdf(z)
        elif approximate == "tanh":
            a, b = mp.sqrt(2 / mp.pi), mp.mpf("0.044715")
            u, du = a * (z + b * z**3), a * (1 + 3 * b * z**2)
            share, density = 1 / (1 + mp.exp(-2 * u)), mp.sech(u) ** 2 / 2 * du
        else:
            slope = mp.mpf("1.702")
            share = 1 / (1 + mp.exp(-slope * z))
            density = slope * share * (1 - share)
        return z * share, share + z * density
