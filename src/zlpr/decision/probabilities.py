"""Probabilities of the single labels from scores, as the loss implies them or with a fitted calibration.

What a score of ZLPR says about a probability, and what it does not, is in ``docs/decision.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.activations import sigmoid
from zlpr.decision import _arguments
from zlpr.decision._arguments import Samples

__all__ = ["Calibration", "fit_calibration", "predict_proba"]

_MODES = ("bernoulli", "soft", "calibrated")


@dataclass(frozen=True, eq=False)
class Calibration:
    r"""A line in the scores that gives the log-odds of the labels.

    .. math:: p_i = \sigma(a s_i + b)

    Parameters
    ----------
    slope, intercept : float or array
        Of all labels; or (C,), one entry a label.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.decision import Calibration, predict_proba
    >>> predict_proba(np.asarray([0.5]), mode="calibrated", calibration=Calibration(2.0, -1.0))
    array([0.5])
    """

    slope: Any
    intercept: Any


def predict_proba(
    scores: Array,
    *,
    mode: Literal["bernoulli", "soft", "calibrated"] = "bernoulli",
    threshold: Any = 0.0,
    calibration: Calibration | None = None,
    axis: int = -1,
) -> Array:
    r"""Probability of each label.

    .. math:: \sigma(s_i - s_0), \qquad \sigma(2 (s_i - s_0)), \qquad \sigma(a s_i + b)

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64.
    mode : {"bernoulli", "soft", "calibrated"}, default "bernoulli"
        Which of the three. ``"bernoulli"`` is what sigmoid cross-entropy fits, and ZLPR with a single label;
        ``"soft"`` what ZLPR fits where the targets are the probabilities; ``"calibrated"`` what `fit_calibration`
        found, the one to take for ZLPR with hard labels.
    threshold : float or array, default 0.0
        The score :math:`s_0` of probability one half, finite; shaped as in `predict_labels`. Not with
        ``"calibrated"``, whose intercept stands for it.
    calibration : Calibration, optional
        For ``"calibrated"``.
    axis : int, default -1
        The axis of the labels; it matters only to arrays of shape (C,).

    Returns
    -------
    probabilities : array like scores
        In [0, 1].

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If a shape does not fit, the mode and the other arguments do not go together, or (on the host) a score is nan;
        elsewhere its probability is nan.

    Notes
    -----
    With hard labels, ZLPR is not a proper loss of the labels' marginal probabilities: the score of its minimum is
    :math:`\operatorname{logit} p` for one label and tends to :math:`\tfrac12 \operatorname{logit} p` for many, so
    that neither of the first two modes is right in between.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 9064 (the second form, for soft targets).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.decision import predict_proba
    >>> scores = np.log(np.asarray([[1.0, 3.0]]))
    >>> print(predict_proba(scores), predict_proba(scores, mode="soft"))
    [[0.5  0.75]] [[0.5 0.9]]
    """
    _arguments.checked_scores(scores)
    if mode not in _MODES:
        raise ValueError(f'mode must be "bernoulli", "soft" or "calibrated", not {mode!r}')
    if (calibration is not None) != (mode == "calibrated"):
        raise ValueError(f'calibration goes with mode="calibrated" and with no other, not with {mode!r}')
    x = _array.as_dtype(scores, _array.compute_dtype(scores))
    if calibration is not None:
        if getattr(threshold, "ndim", 0) or threshold != 0.0:
            raise ValueError("threshold must stay 0 with a calibration, whose intercept stands for it")
        log_odds = _line(x, calibration, axis)
    else:
        threshold = _arguments.along("threshold", threshold, scores, axis)
        if isinstance(threshold, float) and math.isinf(threshold):
            raise ValueError("threshold must be finite")
        log_odds = x - _like(threshold, x) if mode == "bernoulli" else 2.0 * (x - _like(threshold, x))
    return _array.as_dtype(sigmoid(log_odds), scores.dtype)


def _line(x: Array, calibration: Calibration, axis: int) -> Array:
    """The log-odds of a calibration; a slope of 0 takes no notice of infinite scores."""
    slope, intercept = (
        _like(_arguments.along(f"calibration.{name}", getattr(calibration, name), x, axis), x)
        for name in ("slope", "intercept")
    )
    with _walk.quiet(x):
        rise = slope * x
        return intercept + _ops.where(slope == 0, 0.0, rise, rise)


def _like(value: Any, x: Array) -> Array:
    if isinstance(value, float):
        return _array.namespace(x).full((), value, dtype=x.dtype, device=_array.device(x))
    return _array.as_dtype(value, x.dtype)


def fit_calibration(
    scores: Array, targets: Array, *, per_label: bool = False, mask: Array | None = None, axis: int = -1
) -> Calibration:
    r"""Fit the line of a `Calibration` by sigmoid cross-entropy on held-out data.

    .. math::

        \min_{a, b} \sum_n \log(1 + e^{z_n}) - t_n z_n, \quad z_n = a s_n + b, \qquad
        t_n = \frac{N_+ + 1}{N_+ + 2} \text{ or } \frac{1}{N_- + 2}

    for positives and negatives, of which there are :math:`N_+` and :math:`N_-`.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64; finite.
    targets : (..., C) array
        bool, or integer or floating 0 and 1.
    per_label : bool, default False
        A line for each label, in place of one for all.
    mask : (..., C) bool array, optional
        True where the entry counts.
    axis : int, default -1
        The axis of the labels.

    Returns
    -------
    calibration : Calibration
        Slope and intercept 0-d, or (C,) if `per_label`; arrays of the library and on the device of the scores, float32
        for half precisions.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, or (on the host) a score is not finite or a target neither 0 nor 1; elsewhere the
        result is nan.

    Notes
    -----
    The targets are Platt's: within (0, 1), so that the convex problem has a finite minimum for separable data too, and
    for data of one kind, where it is the slope 0 and Laplace's rule of succession. Scores that are all equal leave the
    slope open; it is 0 then. The steps are Newton's, shortened until they decrease the loss; at most 64 are made, and
    all of them where no value can be read.

    References
    ----------
    .. [1] J. C. Platt, "Probabilistic Outputs for Support Vector Machines", in Advances in Large Margin Classifiers,
       1999.
    .. [2] H.-T. Lin, C.-J. Lin, R. C. Weng, "A note on Platt's probabilistic outputs for support vector machines",
       Machine Learning 68, 2007.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.decision import fit_calibration
    >>> scores = np.asarray([[1.0]] * 10 + [[-1.0]] * 10)
    >>> targets = np.asarray([[1]] * 7 + [[0]] * 3 + [[1]] * 3 + [[0]] * 7)
    >>> line = fit_calibration(scores, targets)
    >>> print(round(float(line.slope), 4), abs(round(float(line.intercept), 4)))
    0.6931 0.0

    Of ten scores at 1 seven are positive, of ten at -1 three. Platt's targets 11/12 and 1/12 have the means 2/3 and
    1/3, and these the log-odds log(2) and -log(2).
    """
    samples = _finite(_arguments.samples_of(scores, targets, mask, axis))
    samples = samples if per_label else samples.pooled()
    with _walk.quiet(scores):
        slope, intercept = _fitted(samples)
    slope, intercept = (_ops.where(samples.valid, x, math.nan, x) for x in (slope, intercept))
    return Calibration(slope, intercept) if per_label else Calibration(slope[0], intercept[0])


_LIMIT = 64
_SUFFICIENT = 1e-4  # of the decrease that the slope promises: Armijo's usual constant


def _finite(samples: Samples) -> Samples:
    """The samples, where infinite scores are no more valid than nan; what is not counted has the score 0."""
    xp = _array.namespace(samples.scores)
    scores = samples.scores
    if samples.counted is not None:
        scores = _ops.where(samples.counted, scores, 0.0, scores)
    finite = xp.isfinite(scores)
    if _array.place(scores) == "host" and not bool(xp.all(finite)):
        raise ValueError("scores must be finite to fit a calibration")
    return samples._replace(scores=scores, valid=samples.valid & xp.all(finite, axis=-1))


def _fitted(samples: Samples) -> tuple[Array, Array]:
    """Slope and intercept of each line of samples."""
    feature, centre, scale = _normalised(samples.scores)
    xp, like = _array.namespace(feature), feature[:, 0] if feature.shape[1] else centre
    weights = xp.ones_like(feature) if samples.counted is None else xp.astype(samples.counted, feature.dtype)
    ones = xp.astype(samples.positives, feature.dtype)
    positives, count = _ops.row_sum(ones), _ops.row_sum(weights)
    high = (positives + 1.0) / (positives + 2.0)
    low = 1.0 / (count - positives + 2.0)
    targets = xp.where(samples.positives, high[:, None], low[:, None])
    odds = _ops.row_sum(weights * targets) / _ops.row_sum(weights * (1.0 - targets))
    start = _ops.where(count > 0, xp.log(odds), 0.0, odds)
    problem = _Problem(feature, targets, weights)
    zero = xp.zeros_like(like)
    state = (zero, start, xp.ones_like(like), problem.value(zero, start))
    slope, intercept, _, _ = _ops.iterate(_newton_step, state, tuple(problem), _LIMIT)
    return slope / scale, intercept - slope * (centre / scale)


def _normalised(scores: Array) -> tuple[Array, Array, Array]:
    """Scores moved and scaled to [-1, 1], with what was taken off and divided by; all 0 where they are equal."""
    xp = _array.namespace(scores)
    largest, smallest = _ops.row_max(scores), -_ops.row_max(-scores)
    centre, scale = 0.5 * largest + 0.5 * smallest, 0.5 * largest - 0.5 * smallest
    usable = xp.isfinite(scale) & (scale > 0)
    centre = _ops.where(xp.isfinite(centre), centre, 0.0, centre)
    scale = _ops.where(usable, scale, 1.0, scale)
    feature = (scores - centre[:, None]) / scale[:, None]
    return _ops.where(usable[:, None], feature, 0.0, feature), centre, scale


class _Problem(NamedTuple):
    """Sigmoid cross-entropy of lines in one feature, (L, N) each."""

    feature: Array
    targets: Array
    weights: Array

    def value(self, slope: Array, intercept: Array) -> Array:
        """The loss of each line, (L,)."""
        xp = _array.namespace(slope)
        z = self.log_odds(slope, intercept)
        linear = z * xp.where(z >= 0, 1.0 - self.targets, -self.targets)
        return _ops.row_sum(self.weights * (linear + xp.log1p(xp.exp(-xp.abs(z)))))

    def newton_direction(self, slope: Array, intercept: Array) -> tuple[Array, Array, Array]:
        """Newton's step for slope and intercept, and the decrease it promises; 0 where the curvature is.

        The feature is centred by the curvatures of the entries, which makes the Hessian diagonal, without a difference
        of sums.
        """
        xp = _array.namespace(slope)
        z = self.log_odds(slope, intercept)
        tail = xp.exp(-xp.abs(z))
        share = xp.where(z >= 0, xp.ones_like(tail), tail) / (1.0 + tail)
        residual = self.weights * (share - self.targets)
        curvature = self.weights * tail / ((1.0 + tail) * (1.0 + tail))
        total = _ops.row_sum(curvature)
        middle = _quotient(_ops.row_sum(curvature * self.feature), total)
        lever = self.feature - middle[:, None]
        along, whole = _ops.row_sum(residual * lever), _ops.row_sum(residual)
        dslope = -_quotient(along, _ops.row_sum(curvature * lever * lever))
        at_middle = -_quotient(whole, total)
        return dslope, at_middle - middle * dslope, -(along * dslope + whole * at_middle)

    def log_odds(self, slope: Array, intercept: Array) -> Array:
        """The line at each entry, (L, N)."""
        return slope[:, None] * self.feature + intercept[:, None]


def _newton_step(state: tuple[Array, ...], given: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
    """A fraction of Newton's step, taken if it decreases the loss enough; and whether all lines are done."""
    problem = _Problem(*given)
    slope, intercept, fraction, value = state
    dslope, dintercept, decrease = problem.newton_direction(slope, intercept)
    there = slope + fraction * dslope, intercept + fraction * dintercept
    new_value = problem.value(*there)
    xp, eps = _array.namespace(slope), float(_array.namespace(slope).finfo(slope.dtype).eps)
    taken = new_value <= value - _SUFFICIENT * fraction * decrease + 8.0 * eps * value
    size = xp.abs(dslope) + xp.abs(dintercept)
    last = taken & (size <= 0.01 * eps**0.5 * (1.0 + xp.abs(slope) + xp.abs(intercept)))
    longer = _ops.clip(4.0 * fraction, 0.0, 1.0)
    new_state = (
        xp.where(taken, there[0], slope),
        xp.where(taken, there[1], intercept),
        xp.where(taken, longer, 0.25 * fraction),
        xp.where(taken, new_value, value),
    )
    return new_state, xp.all(last | ~xp.isfinite(value))


def _quotient(x: Array, y: Array) -> Array:
    """The quotient, and 0 where the divisor is 0."""
    return _ops.where(y > 0, x / y, 0.0, x)
