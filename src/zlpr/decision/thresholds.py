"""Thresholds that make a metric greatest: an exact search over the sorted scores.

n scores in rising order leave n + 1 *cuts*: cut i predicts all but the i lowest. Every metric is a function of counts
at the cuts, which are running sums; no threshold is tried. That the search is exact is shown in ``docs/decision.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

from zlpr import _array, _ops, _walk
from zlpr._array import Array
from zlpr.decision import _arguments
from zlpr.decision._arguments import Samples

__all__ = ["tune_threshold"]

Metric = Literal["micro_f1", "macro_f1", "subset_accuracy", "hamming"]


def tune_threshold(
    scores: Array,
    targets: Array,
    *,
    metric: Metric = "micro_f1",
    per_label: bool = False,
    mask: Array | None = None,
    axis: int = -1,
) -> Array:
    r"""The threshold for which a metric of the predicted labels is greatest, among all thresholds.

    .. math:: \arg\max_{s_0} \; m\big([s > s_0],\, y\big)

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64, of held-out data. Infinite ones are on the same side of every threshold.
    targets : (..., C) array
        bool, or integer or floating 0 and 1.
    metric : {"micro_f1", "macro_f1", "subset_accuracy", "hamming"}, default "micro_f1"
        F1 of all entries; mean over the labels of each label's F1; share of rows that are right as a whole; share of
        right entries. F1 is 0 where there are neither positives nor predictions, as by default in scikit-learn.
    per_label : bool, default False
        A threshold for each label, which together make the metric greatest. Not for ``"subset_accuracy"``.
    mask : (..., C) bool array, optional
        True where the entry counts.
    axis : int, default -1
        The axis of the labels.

    Returns
    -------
    threshold : array
        0-d, or (C,) if `per_label`; of the library, the device and the dtype of the scores, finite. For
        `predict_labels`.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, the metric is none of the four, or (on the host) a score is nan or a target neither
        0 nor 1; elsewhere the threshold is nan. For ``"subset_accuracy"`` with `per_label`: to find thresholds of
        several labels that together make most rows right is a combinatorial problem that no sweep solves.

    Notes
    -----
    All thresholds between two neighbouring distinct scores predict the same; the one returned is midway. Below all
    scores it is twice the lowest less 1, above all twice the greatest plus 1, or 0 where that is beyond all of them. Of
    several best thresholds the one nearest 0 is taken, and the lower one of two that are equally near. For
    ``"subset_accuracy"``, neighbours are the scores at which some row becomes right or wrong.

    The maximum is that over all finite numbers of the dtype. Counts are integers, and ratios of them are compared in
    float64, which tells them apart up to 2^26 entries. The mean of ``"macro_f1"`` is summed in integer multiples of
    2^-52 (of more from 2048 labels on, so that the sum fits into 63 bits), and means that differ by no more count as
    equal. JAX without 64 bits counts in int32 and compares in float32.

    The cost is that of sorting the scores. Tune on data that were not trained on, and do not report the metric of the
    data tuned on: their own best threshold flatters them.

    References
    ----------
    .. [1] Z. C. Lipton, C. Elkan, B. Narayanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure",
       ECML PKDD 2014.
    .. [2] W. Dinkelbach, "On Nonlinear Fractional Programming", Management Science 13, 1967 (for micro-F1 with a
       threshold a label).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.decision import tune_threshold
    >>> scores = np.asarray([[2.0, -1.0], [-0.5, -3.0]])
    >>> tune_threshold(scores, np.asarray([[1, 1], [0, 0]]))
    array(-2.)

    The three highest scores are two hits and one false alarm, and nothing is missed: F1 is 4/5.
    """
    if metric not in _POOLED:
        raise ValueError(f"metric must be one of {', '.join(map(repr, _POOLED))}, not {metric!r}")
    if per_label and metric == "subset_accuracy":
        raise ValueError(
            'per_label=True is not possible with metric="subset_accuracy": all thresholds together decide which rows '
            "are right, a combinatorial problem that no sweep solves; use one threshold, or another metric"
        )
    samples = _arguments.samples_of(scores, targets, mask, axis)
    if samples.counted is not None:  # never predicted, never missed, and between no two scores
        hidden = _ops.where(samples.counted, samples.scores, -math.inf, samples.scores)
        samples = samples._replace(scores=hidden)
    find = (_PER_LABEL if per_label else _POOLED)[metric]
    with _walk.quiet(scores):
        threshold = find(samples, scores)
    valid = samples.valid if per_label else _array.namespace(scores).all(samples.valid)
    threshold = threshold if per_label else threshold[0]
    return _array.as_dtype(_ops.where(valid, threshold, math.nan, threshold), scores.dtype)


class _Sweep(NamedTuple):
    """The cuts of each line of n scores."""

    order: Array
    """(L, n): where the scores are, in rising order."""
    thresholds: Array
    """(L, n + 1): a threshold that makes the cut."""
    possible: Array
    """(L, n + 1) bool: whether it does; equal scores cannot be parted, nor can infinite ones be passed."""

    def running(self, amounts: Array) -> Array:
        """Sums over the entries below each cut, (L, n) to (L, n + 1)."""
        xp = _array.namespace(amounts)
        sorted_amounts = xp.take_along_axis(amounts, self.order, axis=-1)
        return xp.cumulative_sum(sorted_amounts, axis=-1, include_initial=True)

    def best(self, gain: Array, slack: int = 0) -> Array:
        """The threshold nearest 0 among those of the greatest gain, up to `slack`, (L,)."""
        xp = _array.namespace(gain)
        gain = xp.where(self.possible, gain, xp.min(gain, axis=-1, keepdims=True))
        tied = self.possible & (gain >= xp.max(gain, axis=-1, keepdims=True) - slack)
        distance = _ops.where(tied, xp.abs(self.thresholds), math.inf, self.thresholds)
        at = xp.argmin(distance, axis=-1)[:, None]
        return xp.take_along_axis(self.thresholds, at, axis=-1)[:, 0]


class _Counts(NamedTuple):
    """What each cut predicts, (L, n + 1) integers."""

    hits: Array
    predicted: Array
    positives: Array
    """(L, 1)"""

    def f1(self) -> Array:
        """2 hits / (predicted + positives); 0 where there are neither."""
        xp = _array.namespace(self.hits)
        real, _ = _array.counting_dtypes(self.hits)
        either = self.predicted + self.positives
        either = xp.where(either > 0, either, xp.ones_like(either))
        return xp.astype(2 * self.hits, real) / xp.astype(either, real)


def _sweep(values: Array, like: Array) -> _Sweep:
    """The cuts of lines of values, by thresholds in the dtype of `like`."""
    xp = _array.namespace(values)
    order = xp.argsort(values, axis=-1)
    rising = xp.take_along_axis(values, order, axis=-1)
    beyond = xp.full((values.shape[0], 1), math.inf, dtype=values.dtype, device=_array.device(values))
    lower, upper = xp.concat((-beyond, rising), axis=-1), xp.concat((rising, beyond), axis=-1)
    thresholds = _between(lower, upper, like)
    return _Sweep(order, thresholds, (lower <= thresholds) & (thresholds < upper) & xp.isfinite(thresholds))


def _between(lower: Array, upper: Array, like: Array) -> Array:
    """A number t of the dtype of `like`, and near the middle, with ``lower <= t < upper`` where there is one."""
    xp = _array.namespace(lower)
    greatest = float(xp.finfo(like.dtype).max)
    middle = 0.5 * lower + 0.5 * upper
    below = _ops.where(upper > 0, 0.0, _ops.clip(2.0 * upper - 1.0, -greatest, greatest), upper)
    above = _ops.where(lower <= 0, 0.0, _ops.clip(2.0 * lower + 1.0, -greatest, greatest), lower)
    t = xp.where(lower == -math.inf, below, xp.where(upper == math.inf, above, middle))
    t = _array.as_dtype(_array.as_dtype(t, like.dtype), lower.dtype)
    return xp.where((lower <= t) & (t < upper), t, lower)  # no number between neighbours of the dtype


def _counts(sweep: _Sweep, positives: Array) -> _Counts:
    xp = _array.namespace(positives)
    _, integer = _array.counting_dtypes(positives)
    missed = sweep.running(xp.astype(positives, integer))
    total = missed[:, -1:]
    n = positives.shape[-1]
    predicted = n - xp.arange(n + 1, dtype=integer, device=_array.device(positives))[None, :]
    return _Counts(total - missed, predicted, total)


def _micro_f1(samples: Samples, like: Array) -> Array:
    return _f1_of_lines(samples.pooled(), like)


def _hamming(samples: Samples, like: Array) -> Array:
    return _hamming_of_lines(samples.pooled(), like)


def _f1_of_lines(samples: Samples, like: Array) -> Array:
    sweep = _sweep(samples.scores, like)
    return sweep.best(_counts(sweep, samples.positives).f1())


def _hamming_of_lines(samples: Samples, like: Array) -> Array:
    """Right entries are hits and what is rightly not predicted: but for a constant, twice the hits less predictions."""
    sweep = _sweep(samples.scores, like)
    counts = _counts(sweep, samples.positives)
    return sweep.best(2 * counts.hits - counts.predicted)


def _macro_f1(samples: Samples, like: Array) -> Array:
    """One sweep a label gives what each of its scores changes, one sweep of all scores adds the changes up.

    F1 is counted in integer steps, whose sums do not depend on the order.
    """
    xp = _array.namespace(samples.scores)
    sweep = _sweep(samples.scores, like)
    counts = _counts(sweep, samples.positives)
    labels, (_, integer) = samples.scores.shape[0], _array.counting_dtypes(like)
    bits = min(52, xp.iinfo(integer).bits - 1 - labels.bit_length())
    steps = xp.astype(xp.round(counts.f1() * 2.0**bits), integer)
    changes = xp.reshape(steps[:, 1:] - steps[:, :-1], (1, -1))
    rising = xp.reshape(xp.take_along_axis(samples.scores, sweep.order, axis=-1), (1, -1))
    every = _sweep(rising, like)
    return every.best(every.running(changes), slack=labels)


def _micro_f1_per_label(samples: Samples, like: Array) -> Array:
    """Dinkelbach's iteration: while a ratio can be exceeded, the cuts that exceed it most give the next one.

    The difference ``2 hits - ratio * predicted`` is a sum over the labels, each of which makes its own term greatest.
    """
    xp = _array.namespace(samples.scores)
    sweep = _sweep(samples.scores, like)
    counts = _counts(sweep, samples.positives)
    real, _ = _array.counting_dtypes(like)
    twice, predicted = xp.astype(2 * counts.hits, real), xp.astype(counts.predicted, real)
    positives = xp.sum(xp.astype(counts.positives, real))

    start = (xp.zeros_like(positives), xp.ones_like(positives))
    given = (twice, predicted, positives, sweep.possible)
    limit = 2 + 2 * math.prod(samples.scores.shape).bit_length()  # as many as there can be
    return sweep.best(_excess(_ops.iterate(_exceeded, start, given, limit), twice, predicted))


def _excess(ratio: tuple[Array, ...], twice: Array, predicted: Array) -> Array:
    """By how much each cut exceeds a ratio, times its denominator: whole numbers."""
    return ratio[1] * twice - ratio[0] * predicted


def _exceeded(ratio: tuple[Array, ...], given: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
    """The ratio of the cuts that exceed the present one most, and whether none does."""
    twice, predicted, positives, possible = given
    xp = _array.namespace(twice)
    gain = _ops.where(possible, _excess(ratio, twice, predicted), -math.inf, twice)
    at = xp.argmax(gain, axis=-1)[:, None]
    above = xp.sum(xp.take_along_axis(twice, at, axis=-1))
    below = xp.sum(xp.take_along_axis(predicted, at, axis=-1)) + positives
    done = above * ratio[1] <= ratio[0] * below
    return (xp.where(done, ratio[0], above), xp.where(done, ratio[1], below)), done


def _subset_accuracy(samples: Samples, like: Array) -> Array:
    """A row is right from its greatest negative up to below its lowest positive: count the rows that are open."""
    xp = _array.namespace(samples.scores)
    scores, positives = samples.scores.T, samples.positives.T
    opens = _ops.row_max(_ops.where(positives, -math.inf, scores, scores))
    closes = -_ops.row_max(_ops.where(positives, -scores, -math.inf, scores))
    never = opens >= closes
    opens, closes = (_ops.where(never, math.inf, end, end) for end in (opens, closes))
    _, integer = _array.counting_dtypes(like)
    one = xp.ones(opens.shape, dtype=integer, device=_array.device(opens))
    sweep = _sweep(xp.concat((opens, closes))[None, :], like)
    return sweep.best(sweep.running(xp.concat((one, -one))[None, :]))


_Find = Callable[[Samples, Array], Array]
_POOLED: dict[str, _Find] = {
    "micro_f1": _micro_f1,
    "macro_f1": _macro_f1,
    "subset_accuracy": _subset_accuracy,
    "hamming": _hamming,
}
_PER_LABEL: dict[str, _Find] = {
    "micro_f1": _micro_f1_per_label,
    "macro_f1": _f1_of_lines,
    "hamming": _hamming_of_lines,
}
