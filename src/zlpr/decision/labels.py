"""Label sets from scores: all labels above a threshold, or the k best.

Which rule serves when is the subject of ``docs/decision.md``.
"""

from __future__ import annotations

import math
from typing import Any

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.decision import _arguments
from zlpr.rules._layout import split_axis

__all__ = ["predict_labels", "top_k_labels"]


def predict_labels(scores: Array, *, threshold: Any = 0.0, axis: int = -1) -> Array:
    r"""Labels whose score exceeds the threshold.

    .. math:: \hat y_i = [s_i > s_0]

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    threshold : float or array, default 0.0
        A number; (C,), one entry a label along `axis`; or an array that broadcasts to the shape of the scores, such as
        (B, 1) with one entry a row. It is rounded to the dtype of the scores, so that every library compares alike.
    axis : int, default -1
        The axis of the labels; it matters only to a threshold of shape (C,).

    Returns
    -------
    labels : bool array like scores
        True where the score is greater; not where it equals the threshold.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If the shape of the threshold does not fit, or (on the host) a score is nan; elsewhere that is no label.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 7359 (the rule that goes with ZLPR).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.decision import predict_labels
    >>> predict_labels(np.asarray([[1.5, -0.5, 0.0]]))
    array([[ True, False, False]])
    >>> predict_labels(np.asarray([[1.5, -0.5, 0.0]]), threshold=np.asarray([2.0, -1.0, 0.0]))
    array([[False,  True, False]])
    """
    _arguments.checked_scores(scores)
    threshold = _arguments.along("threshold", threshold, scores, axis)
    if isinstance(threshold, float):
        threshold = _array.namespace(scores).full(
            (), _representable(threshold, scores), dtype=scores.dtype, device=_array.device(scores)
        )
    return scores > _array.as_dtype(threshold, scores.dtype)


def _representable(x: float, like: Array) -> float:
    """Infinity in place of a number that the dtype cannot hold: PyTorch would raise, NumPy warn."""
    return x if abs(x) <= float(_array.namespace(like).finfo(like.dtype).max) else math.copysign(math.inf, x)


def top_k_labels(scores: Array, k: int, *, axis: int = -1) -> Array:
    """The k labels of the greatest scores, for tasks where each row has the same number of labels.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    k : int
        From 0 to C.
    axis : int, default -1
        The axis of the labels.

    Returns
    -------
    labels : bool array like scores
        Exactly k True a row. Of equal scores the one with the lowest index comes first, on every library.

    Raises
    ------
    TypeError
        If `scores` is no array or not real floating, or `k` no integer.
    ValueError
        If `k` is out of range, or (on the host) a score is nan; elsewhere nan counts as ``-inf``.

    Notes
    -----
    The rows are sorted; the k-th greatest score says which labels are in, and a running count which of its equals.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.decision import top_k_labels
    >>> top_k_labels(np.asarray([[1.0, 3.0, 3.0, 3.0], [-1.0, -4.0, -2.0, -3.0]]), 2)
    array([[False,  True,  True, False],
           [ True, False,  True, False]])
    """
    _arguments.checked_scores(scores)
    axis, _ = split_axis("scores", scores, axis)
    classes = int(scores.shape[axis])
    if not _constants.is_integer(k):
        raise TypeError(f"k must be an integer, not {type(k).__qualname__}")
    if not 0 <= k <= classes:
        raise ValueError(f"k must be from 0 to the number of labels, {classes}, not {k}")
    xp = _array.namespace(scores)
    if k == 0:
        return xp.zeros(scores.shape, dtype=xp.bool, device=_array.device(scores))
    x = xp.moveaxis(_array.as_dtype(scores, _array.compute_dtype(scores)), axis, -1)
    x = _ops.where(xp.isnan(x), -math.inf, x, x)
    last = xp.sort(x, axis=-1)[..., classes - int(k), None]
    above, equal = x > last, x == last
    room = int(k) - xp.sum(xp.astype(above, xp.int32), axis=-1, keepdims=True)
    chosen = above | (equal & (xp.cumulative_sum(xp.astype(equal, xp.int32), axis=-1) <= room))
    return xp.moveaxis(chosen, -1, axis)
