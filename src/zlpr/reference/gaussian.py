"""Losses of normal distributions straight from their densities, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpmath import mp

from zlpr.reference.losses import ExactOfSeveral

_DIGITS = 80


def gaussian_kl(
    mean: Sequence[float], log_variance: Sequence[float], *, mask: Sequence[bool] | None = None
) -> ExactOfSeveral:
    """Σ (μ² + σ² - 1 - log σ²) / 2 with σ² = e^ℓ.

    Parameters
    ----------
    mean, log_variance : sequences of D floats
    mask : sequence of D bools, optional

    Returns
    -------
    ExactOfSeveral
        Value in nats, gradients with respect to ``mean`` and ``log_variance``, and the Hessian diagonal of the former.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import gaussian_kl
    >>> nstr(gaussian_kl([0.0], [1e-4]).value, 10)
    '2.500083335e-9'
    """
    with mp.workdps(_digits([*mean, *log_variance])):
        counts = [True] * len(mean) if mask is None else mask
        rows = [
            _kl(mp.mpf(m), mp.mpf(v)) if c else (mp.mpf(0),) * 4
            for m, v, c in zip(mean, log_variance, counts, strict=True)
        ]
        values, of_mean, of_log_variance, hessian = ([row[i] for row in rows] for i in range(4))
        return ExactOfSeveral(mp.fsum(values), {"mean": of_mean, "log_variance": of_log_variance}, hessian)


def _digits(numbers: Sequence[float]) -> int:
    """So many that the square of the smallest number keeps its own beside 1."""
    sizes = [abs(mp.mpf(x)) for x in numbers if x and mp.isfinite(x)]
    return _DIGITS + 2 * max(0, int(-mp.log10(min(sizes, default=mp.mpf(1)))) + 1)


def _kl(mean: Any, log_variance: Any) -> tuple[Any, Any, Any, Any]:
    variance = mp.exp(log_variance)
    value = mp.inf if mp.isinf(log_variance) else (mean**2 + variance - 1 - log_variance) / 2
    return value, mean, (variance - 1) / 2, mp.mpf(1)


def gaussian_nll(
    x: Sequence[float],
    mean: Sequence[float],
    log_variance: Sequence[float],
    *,
    mask: Sequence[bool] | None = None,
) -> ExactOfSeveral:
    """-Σ log(e^(-(x - μ)² / 2σ²) / √(2πσ²)) with σ² = e^ℓ.

    Parameters
    ----------
    x, mean, log_variance : sequences of D floats
    mask : sequence of D bools, optional

    Returns
    -------
    ExactOfSeveral
        Value in nats, gradients with respect to ``x``, ``mean`` and ``log_variance``, and the Hessian diagonal of the
        first.

    Examples
    --------
    >>> from mpmath import nstr
    >>> from zlpr.reference import gaussian_nll
    >>> nstr(gaussian_nll([2.0], [1.0], [0.0]).value, 10)
    '1.418938533'
    """
    with mp.workdps(_DIGITS):
        counts = [True] * len(x) if mask is None else mask
        rows = [
            _nll(*map(mp.mpf, numbers)) if c else (mp.mpf(0),) * 5
            for *numbers, c in zip(x, mean, log_variance, counts, strict=True)
        ]
        values, of_x, of_mean, of_log_variance, hessian = ([row[i] for row in rows] for i in range(5))
        gradients = {"x": of_x, "mean": of_mean, "log_variance": of_log_variance}
        return ExactOfSeveral(mp.fsum(values), gradients, hessian)


def _nll(x: Any, mean: Any, log_variance: Any) -> tuple[Any, Any, Any, Any, Any]:
    precision, error = mp.exp(-log_variance), x - mean
    squared = error**2 * precision if error else mp.mpf(0)
    value = mp.inf if mp.isinf(squared) else (mp.log(2 * mp.pi) + log_variance + squared) / 2
    slope = error * precision if error else mp.mpf(0)
    return value, slope, -slope, (1 - squared) / 2, precision
