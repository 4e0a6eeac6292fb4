"""Distances from exact numbers, in units in the last place."""

from __future__ import annotations

from typing import Any

import numpy as np
from mpmath import mp

_MANTISSA_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
_LEAST_EXPONENT = {"float16": -14, "bfloat16": -126, "float32": -126, "float64": -1022}


def ulp(scale: Any, dtype: str) -> Any:
    """A unit in the last place of a number of this size, which counts as no smaller than the smallest normal one."""
    exponent = (
        mp.frexp(abs(scale))[1] - 1 if scale else _LEAST_EXPONENT[dtype]
    )  # a rounded log may be one too large
    return mp.ldexp(1, max(exponent, _LEAST_EXPONENT[dtype]) - _MANTISSA_BITS[dtype])


def max_ulps(actual: np.ndarray[Any, Any], exact: Any, dtype: str) -> float:
    """The largest error of an array, in ulps of the largest exact entry of its row (the last axis).

    Parameters
    ----------
    actual : (..., C) array
        Values of the named dtype, held in any dtype that holds them exactly.
    exact : nested sequence of mpf, shaped like `actual`
    dtype : {"float16", "bfloat16", "float32", "float64"}

    Returns
    -------
    float
        ``inf`` where an exact nan or infinity is not met by the same.

    Examples
    --------
    >>> import numpy as np
    >>> from mpmath import mpf
    >>> from zlpr.validation import max_ulps
    >>> max_ulps(np.asarray([1.0 + 2**-52]), [mpf(1)], "float64")
    1.0
    """
    rows = np.asarray(actual, dtype=np.float64)
    truth = np.asarray(exact, dtype=object).reshape(rows.shape)
    if rows.ndim == 0:
        rows, truth = rows[None], truth[None]
    if rows.size == 0:
        return 0.0
    width = rows.shape[-1]
    pairs = zip(rows.reshape(-1, width), truth.reshape(-1, width), strict=True)
    with mp.workdps(60):  # whatever the caller computed in
        return max(_row_error(a, e, dtype) for a, e in pairs)


def _row_error(actual: Any, exact: Any, dtype: str) -> float:
    finite = [abs(e) for e in exact if mp.isfinite(e)]
    unit = ulp(max(finite, default=mp.mpf(0)), dtype)
    largest = mp.ldexp(2, -_LEAST_EXPONENT[dtype] + 1)  # beyond it the dtype has infinity
    worst = 0.0
    for a, e in zip(actual, exact, strict=True):
        if mp.isnan(e) or mp.isinf(e) or abs(e) >= largest:
            met = np.isnan(a) if mp.isnan(e) else a == float(mp.sign(e)) * np.inf
            worst = max(worst, 0.0 if met else np.inf)
        else:
            worst = max(worst, float(abs(mp.mpf(float(a)) - e) / unit) if np.isfinite(a) else np.inf)
    return worst
