"""Indicator matrices in the caller's labels, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from zlpr import _array
from zlpr._array import Array


def checked_indicator(y: Array, X: Array) -> Array:
    """The targets as an array of one or two dimensions, in the library and with the rows of X."""
    if y is None:
        raise ValueError("The estimator requires y to be passed, but the target y is None")
    if not _array.is_array(y):
        y = np.asarray(y)
    _array.require_same_home("X", X, "y", y)
    if y.ndim not in (1, 2):
        raise ValueError(
            f"y must be an indicator matrix of shape (n_samples, n_labels), not an array of shape {tuple(y.shape)}"
        )
    if y.shape[0] != X.shape[0]:
        raise ValueError(f"X and y must have the same number of rows, not {X.shape[0]} and {y.shape[0]}")
    if 0 in y.shape:
        raise ValueError(f"y must have at least one label column, not shape {tuple(y.shape)}")
    return y


def label_values(y: Array) -> np.ndarray[Any, Any]:
    """The values in the targets, in rising order: absent and present, or the only one there is."""
    values = np.unique(_plain(_array.to_numpy(y)))
    if values.dtype.kind == "f" and not np.all(np.isfinite(values)):
        raise ValueError("Input y contains NaN or infinity. A row without labels is nan throughout.")
    if values.dtype.kind == "f" and np.any(values != np.round(values)):
        raise ValueError(
            "Unknown label type: continuous. y must be an indicator matrix of two values, such as 0 and 1"
        )
    if values.shape[0] > 2:
        raise ValueError(
            f"Only binary classification is supported. The type of the target is multiclass: y must hold two values, "
            f"such as 0 and 1, in each label's column, but it holds {values[:5]}"
        )
    return values


def _plain(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Python strings in an object array as strings."""
    return values.astype(str) if values.dtype.kind == "O" and isinstance(values.flat[0], str) else values


def encoded(y: Array, values: np.ndarray[Any, Any]) -> Array:
    """Truth values, (n_samples, n_labels): whether a label is present; a lone value is so unless it is 0."""
    present = values[-1] if len(values) == 2 or values[0] != 0 else 1
    found = _plain(y) == present if isinstance(y, np.ndarray) else y == np.asarray(present).item()
    return found if y.ndim == 2 else found[:, None]


def decoded(present: Array, values: np.ndarray[Any, Any], dtype: str) -> Array:
    """The caller's values for an array of truth values, of its library."""
    if isinstance(present, np.ndarray):
        return values[present.astype(np.intp)] if len(values) == 2 else np.full(present.shape, values[0])
    xp = _array.namespace(present)
    absent, value = (
        xp.full(present.shape, v.item(), dtype=getattr(xp, dtype), device=_array.device(present))
        for v in (values[0], values[-1])
    )
    return xp.where(present, value, absent)
