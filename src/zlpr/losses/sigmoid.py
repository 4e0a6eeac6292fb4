"""Sigmoid cross-entropy: every class is a yes-or-no question of its own.

The sum of the Bernoulli log-losses of the classes, which ZLPR bounds from below and equals for one class of either
kind. The algebra is in ``docs/derivations/zlpr.md``.
"""

from __future__ import annotations

import math
from typing import Any

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.rules import Rows, row_loss
from zlpr.rules._labels import Labels

__all__ = ["sigmoid_cross_entropy"]


@row_loss(wrt=("scores",), targets="multi-label", separable=True)
def sigmoid_cross_entropy(
    rows: Rows, shares: Array | None, *, positive_weight: Any = None, label_smoothing: float = 0.0
) -> tuple[Array, dict[str, Array]]:
    r"""Sum over the classes of the Bernoulli negative log-likelihood, in nats.

    .. math::

        L = \sum_i w_i\, t_i \log(1 + e^{-s_i}) + (1 - t_i) \log(1 + e^{s_i})

    with scores :math:`s`, targets :math:`t` and positive weights :math:`w`. A row's loss is the *sum* over its
    classes, as for every row loss; divide by C for the mean that some libraries take.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    targets : (..., C) array
        Hard: bool or integer, 0 or 1. Soft: floating, in [0, 1].
    positive_weight : float or (C,) array, optional
        Multiplies the loss of the positive targets, of every class or class by class.
    label_smoothing : float, default 0.0
        Replaces each target by ``(1 - label_smoothing) * t + label_smoothing / 2``.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean over rows divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts.
    axis : int, default -1
        The class axis.

    Returns
    -------
    loss : array
        0-d, or (...) for ``reduction="none"``; nats.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or (on the host) a target is outside [0, 1]; elsewhere such a row is nan.

    Notes
    -----
    Large margins keep their digits: the loss of a confident right answer is ``exp(-|s|)``, not 0. Infinite scores
    give the limits.

    References
    ----------
    .. [1] C. M. Bishop, Pattern Recognition and Machine Learning, Springer, 2006, eq. 4.90.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import sigmoid_cross_entropy
    >>> value, gradient = sigmoid_cross_entropy.value_and_grad(np.asarray([[0.0, 0.0]]), np.asarray([[1, 0]]))
    >>> print(round(float(value), 6), gradient)
    1.386294 [[-0.5  0.5]]
    """
    labels = rows.labels.dense()
    positive_weight = _checked_positive_weight(positive_weight, rows.scores)
    z, tail = _exponents_and_tails(rows, labels)
    xp = _array.namespace(z)
    costs = labels.weighed(_ops.add_(_ops.relu(z), xp.log1p(tail)), positive_weight)
    values = _ops.row_sum(labels.folded(costs, 1))
    if shares is None:
        return values, {}
    slopes = xp.maximum(tail, _array.as_dtype(z >= 0, z.dtype)) / (1 + tail)
    slopes = _ops.multiply_(labels.weighed(slopes, positive_weight), shares[:, None])
    return values, {"scores": labels.folded(slopes, -1)}


@sigmoid_cross_entropy.diagonal
def _diagonal(rows: Rows, *, positive_weight: Any = None) -> Array:
    """``σ(s) σ(-s)``, weighted as the loss is."""
    labels = rows.labels.dense()
    positive_weight = _checked_positive_weight(positive_weight, rows.scores)
    _, tail = _exponents_and_tails(rows, labels)
    return labels.folded(labels.weighed(tail / ((1 + tail) * (1 + tail)), positive_weight), 1)


def _exponents_and_tails(rows: Rows, labels: Labels) -> tuple[Array, Array]:
    """The exponents z, and ``exp(-|z|)``, from which loss, slope and curvature follow without cancellation."""
    z = labels.counting(labels.exponents(rows.scores, None), rows.mask)
    return z, _ops.exp_(-_array.namespace(z).abs(z))


def _checked_positive_weight(weight: Any, scores: Array) -> Any:
    """The weight as a Python number, or as an array in the dtype to compute in."""
    if weight is None:
        return None
    if _constants.is_number(weight):
        if not 0 <= weight < math.inf:
            raise ValueError(f"positive_weight must be finite and not negative, got {weight}")
        return float(weight)
    _array.require_array("positive_weight", weight)
    _array.require_same_home("scores", scores, "positive_weight", weight)
    if tuple(weight.shape) not in ((), (scores.shape[-1],)):
        raise ValueError(
            f"positive_weight must be a number or have one entry a class, shape ({scores.shape[-1]},), "
            f"not {tuple(weight.shape)}"
        )
    return _array.as_dtype(weight, scores.dtype)
