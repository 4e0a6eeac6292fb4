"""Inputs that bring out the worst, and the comparison with the exact twins in units in the last place."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mpmath import mp

from zlpr.validation import max_ulps

XLA_SLACK = {"jax": 2.0}  # ulp: XLA's own exp and log1p are off by more than the other libraries'
SHAPES = ((1, 1), (3, 5), (2, 40))  # few: JAX compiles once for each


def scores_of(shape, dtype, infinite=False):
    """Scores from everyday size to huge, on the grid of the dtype, with ties."""
    bound = 2e3
    everyday = st.floats(-8, 8, width=16)
    large = st.floats(-bound, bound, width=32)
    special = st.sampled_from([0.0, 20.0, -20.0, 80.0, -80.0] + [np.inf, -np.inf] * infinite)
    elements = st.one_of(everyday, everyday, large, special)
    return hnp.arrays(np.float64, shape, elements=elements).map(lambda a: a.astype(dtype))


def hard_targets_of(shape):
    """Label sets, the empty and the full one among them."""
    return st.one_of(
        hnp.arrays(np.bool_, shape),
        st.sampled_from([np.zeros(shape, dtype=np.bool_), np.ones(shape, dtype=np.bool_)]),
    )


def soft_targets_of(shape, dtype):
    """Targets in [0, 1], the ends among them."""
    elements = st.one_of(st.floats(0, 1, width=16), st.sampled_from([0.0, 1.0]))
    return hnp.arrays(np.float64, shape, elements=elements).map(lambda a: a.astype(dtype))


def assert_ulps(xp, actual, exact, dtype, limit):
    """Fail unless an array of this library is within `limit` ulp of the exact numbers, row by row.

    A vector is one of values of rows: each counts for itself.
    """
    assert str(actual.dtype).rpartition(".")[2] == dtype, f"{actual.dtype} where {dtype} was expected"
    exact = np.asarray(exact, dtype=object)
    assert tuple(actual.shape) == exact.shape
    values = xp.to_numpy(actual).astype(np.float64)
    exact = _flushed(exact, dtype)
    values = np.where(np.abs(values) < float(_vanishing(dtype)), 0.0, values)
    if xp.name == "jax":  # whose sums lack the subnormal terms, of which rows here have fewer than 64
        with np.errstate(invalid="ignore"):
            met = np.abs(values - exact.astype(float)) <= 64 * np.finfo(_held(dtype)).tiny
        values = np.where(met, exact.astype(float), values)
    if values.ndim == 1:
        values, exact = values[:, None], exact[:, None]
    error = max_ulps(values, exact, dtype)
    assert error <= limit, f"{error:.2f} ulp\nactual {values}\nexact {exact.astype(float)}"


def _held(dtype):
    return "float32" if dtype == "bfloat16" else dtype


def _flushed(exact, dtype):
    """Numbers so small that their terms are subnormal as 0: they are rounded absolutely, and by XLA to 0 at once."""
    return np.vectorize(lambda e: mp.mpf(0) if abs(e) < _vanishing(dtype) else e, otypes=[object])(exact)


def _vanishing(dtype):
    return 100 * mp.mpf(float(np.finfo(_held(dtype)).tiny))
