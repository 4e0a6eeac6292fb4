"""The softmax over subsets: of all choices of k classes from n, or of at most K, the right one is the label set.

A partition function is an elementary symmetric polynomial in the exponentials of the scores. It is taken as the
probability that independent classes, each in or out, give a set of the right size, with the odds moved so that this
size is likely; every term is positive, and the label set's own is kept apart from the others. The algebra is in
``docs/derivations/k_subset.md``.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

from zlpr import _array, _ops
from zlpr._array import Array
from zlpr._polynomials import ProductTree
from zlpr.rules import Rows, row_loss
from zlpr.rules._labels import Weighted

__all__ = ["k_subset_cross_entropy"]


@row_loss(wrt=("scores", "threshold"), targets="multi-label", workspace=8.0)
def k_subset_cross_entropy(
    rows: Rows,
    shares: Array | None,
    *,
    at_most: int | None = None,
    threshold: Any = 0.0,
    max_positives: int | None = None,
) -> tuple[Array, dict[str, Array]]:
    r"""Softmax cross-entropy of the label set among all sets of its size, or of at most K classes, in nats.

    .. math::

        L = \log \sum_{|S| = k} e^{\sum_{i \in S} s_i} - \sum_{i \in T} s_i
        \qquad \text{or} \qquad
        L = \log \sum_{|S| \le K} e^{\sum_{i \in S} (s_i - s_0)} - \sum_{i \in T} (s_i - s_0)

    with scores :math:`s` and the label set :math:`T` of the row's own :math:`k` positive classes. The first form, the
    default, takes :math:`k` as known; the second one fills the places up to :math:`K` with a class of the score
    :math:`s_0`.

    Parameters
    ----------
    scores : (..., C) array
        float16, bfloat16, float32 or float64. Half precisions are computed in float32.
    targets : (..., C) array
        Hard labels: bool, or 0 and 1 in an integer or floating dtype.
    at_most : int, optional
        :math:`K`, at least 1 and at least the number of positives of every row. None is the form of known :math:`k`.
    threshold : float or (...) array, default 0.0
        :math:`s_0` of the form with `at_most`, one for all rows or one a row. Differentiable. The other form does not
        depend on it.
    max_positives : int, optional
        What no row's number of positives exceeds. Time and memory grow with it where values are not read (JAX, other
        devices); by default it is C there, or `at_most`. In host memory the targets tell.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean divides by the sum of the sample weights.
    sample_weight : (...) array, optional
        Multiplies each row's loss and gradient.
    mask : (..., C) bool array, optional
        True where the class counts.
    axis : int, default -1
        The class axis.

    Returns
    -------
    loss : array
        0-d, or (...) for ``reduction="none"``; nats. At least float32 where reduced.

    Raises
    ------
    TypeError
        If an argument is no array, of another library than the scores, or of a wrong dtype.
    ValueError
        If shapes or devices differ, if `at_most` or `max_positives` is not a positive integer, or (on the host) a
        target is neither 0 nor 1, or a row has more positives than either allows; elsewhere such a row is nan.

    Notes
    -----
    The gradient of a negative class is the probability that it is in the set, that of a positive one minus the
    probability that it is not; neither is a difference, so that saturated rows keep their digits. For k = 1 the loss
    is `softmax_cross_entropy`; with ``at_most=1``, that with one more class of score :math:`s_0`; with ``at_most=C``,
    `sigmoid_cross_entropy` of :math:`s - s_0`. Newton's identities, with alternating sums, lose all digits from
    k = 25 of 50 on.

    With m the smaller of k and n - k, time grows as C m, and memory as C log m. Infinite scores give the limits as
    they grow together. A row with no positive class, or with all positive, has the loss 0 in the first form. Scores
    beyond an eighth of the largest number of the dtype count as that.

    References
    ----------
    .. [1] J. Su, Scientific Spaces, post 7359 (its first half, choosing k of n, known and unknown k).
    .. [2] S. X. Chen, J. S. Liu, "Statistical Applications of the Poisson-Binomial and Conditional Bernoulli
       Distributions", Statistica Sinica 7, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import k_subset_cross_entropy
    >>> scores, targets = np.log(np.asarray([[1.0, 2.0, 3.0]])), np.asarray([[0, 1, 1]])
    >>> value, gradient = k_subset_cross_entropy.value_and_grad(scores, targets)
    >>> print(round(float(np.exp(value)), 6), gradient.round(6))  # (1*2 + 1*3 + 2*3) / (2*3); 5/11, -3/11, -2/11
    1.833333 [[ 0.454545 -0.272727 -0.181818]]
    """
    problem = _problem(rows, at_most, max_positives)
    if problem is None:
        zeros = _ops.row_sum(rows.scores)
        return zeros, {"scores": rows.scores, "threshold": zeros}
    values = problem.values()
    if shares is None:
        return values, {}
    gradients: dict[str, Array] = {}
    if "threshold" in rows.needs:
        gradients["threshold"] = problem.threshold_gradient() * shares
    if "scores" in rows.needs:
        gradients["scores"] = problem.gradient() * shares[:, None]
    return values, gradients


@k_subset_cross_entropy.diagonal
def _diagonal(rows: Rows, *, at_most: int | None, max_positives: int | None) -> Array:
    """``π (1 - π)`` of each class, π the probability that it is in the set."""
    problem = _problem(rows, at_most, max_positives)
    return rows.scores if problem is None else problem.variances()


@k_subset_cross_entropy.product
def _hessian_product(rows: Rows, v: Array, *, at_most: int | None, max_positives: int | None) -> Array:
    """The covariance of being in the set, times v: how π moves along v."""
    problem = _problem(rows, at_most, max_positives)
    return rows.scores * v if problem is None else problem.hessian_product(v)


class _Sizes(Protocol):
    """Which sets may be: a bilinear form ``Σ_ab W_ab N_a P_b`` of the coefficients of both sides, (D + 1, B) each.

    N_a is the probability that a of the negative classes come in, P_b that b of the positive ones go out.
    """

    def terms(self, comes_in: Array, goes_out: Array) -> tuple[Array, Array]:
        """The sum without the pair (0, 0), which is the label set, and that pair, (B,) each."""

    def adjoints(self, comes_in: Array, goes_out: Array) -> tuple[Array, Array]:
        """The derivatives of the sum in the coefficients of either side."""

    def mean_shrinkage(self, comes_in: Array, goes_out: Array) -> Array:
        """``Σ_ab (b - a) W_ab N_a P_b``."""

    def own_exponent(self) -> Array | float:
        """``-log W_00``."""


class _SameSize:
    """As many come in as go out."""

    def terms(self, comes_in: Array, goes_out: Array) -> tuple[Array, Array]:
        products = comes_in * goes_out
        return _sum_of_first_axis(products[1:, ...]), products[0, ...]

    def adjoints(self, comes_in: Array, goes_out: Array) -> tuple[Array, Array]:
        return goes_out, comes_in

    def mean_shrinkage(self, comes_in: Array, goes_out: Array) -> Array:
        return _array.namespace(comes_in).zeros_like(comes_in[0, ...])

    def own_exponent(self) -> float:
        return 0.0


class _AtMost(NamedTuple):
    """At most so many more come in as go out as places are free; one left free costs a factor ``e^-tilt``."""

    free: Array
    """places, less the positives, (B,)"""
    tilt: Array

    def terms(self, comes_in: Array, goes_out: Array) -> tuple[Array, Array]:
        table = self._weights(comes_in, goes_out) * comes_in[:, None, :] * goes_out[None, :, :]
        flat = _array.namespace(table).reshape(table, (-1, table.shape[-1]))
        return _sum_of_first_axis(flat[1:, :]), flat[0, :]

    def adjoints(self, comes_in: Array, goes_out: Array) -> tuple[Array, Array]:
        xp, weights = _array.namespace(comes_in), self._weights(comes_in, goes_out)
        return xp.sum(weights * goes_out[None, :, :], axis=1), xp.sum(weights * comes_in[:, None, :], axis=0)

    def mean_shrinkage(self, comes_in: Array, goes_out: Array) -> Array:
        table = self._weights(comes_in, goes_out) * comes_in[:, None, :] * goes_out[None, :, :]
        flat = self._shrinkage(comes_in, goes_out) * table
        return _sum_of_first_axis(_array.namespace(table).reshape(flat, (-1, table.shape[-1])))

    def own_exponent(self) -> Array:
        return self.free * self.tilt

    def _weights(self, comes_in: Array, goes_out: Array) -> Array:
        """(A, B', B), one for each number that comes in, number that goes out, and row."""
        left = self.free + self._shrinkage(comes_in, goes_out)
        exponents = _ops.where(left > 0, -left * self.tilt, 0.0, left)
        return _ops.where(left < 0, 0.0, _array.namespace(left).exp(exponents), left)

    def _shrinkage(self, comes_in: Array, goes_out: Array) -> Array:
        """``b - a``, (A, B', 1)."""
        come, out = (_numbers(x.shape[0], x) for x in (comes_in, goes_out))
        return (out[None, :] - come[:, None])[:, :, None]


class _Side(NamedTuple):
    """The classes of one side, each staying where its label has it or moving: probabilities, (B, N) each."""

    stay: Array
    move: Array
    tree: ProductTree

    @classmethod
    def of(cls, stay: Array, move: Array, degree: int) -> _Side:
        return cls(stay, move, ProductTree.of(stay, move, degree))

    def shares(self, adjoint: Array) -> tuple[Array, Array]:
        """The probabilities that each class stays and that it moves, given that the set is one that may be.

        The sum of both terms is the same for every class; over a class's own, what is wrong in both falls out.
        """
        of_stay, of_move = self.tree.adjoints(adjoint)
        stays, moves = of_stay * self.stay, of_move * self.move
        total = stays + moves
        return stays / total, moves / total


class _Problem(NamedTuple):
    """A block of rows, the negatives in place and the positives moved together to the front."""

    negative: _Side
    positive: _Side
    sizes: _Sizes
    cost: Array
    """minus the log of the probability that every class stays, (B,)"""
    labels: _Labels

    def values(self) -> Array:
        """``log(1 + Σ / w)``, w the label set's own term; by logarithms where that is out of range."""
        xp, (others, own) = _array.namespace(self.cost), self.sizes.terms(*self._coefficients())
        plain = xp.log1p(others / own)
        far = self.cost + self.sizes.own_exponent() + xp.log(others + own)
        values = xp.where(own > math.exp(-0.8 * _ops.log_max(own)), plain, far)
        return self.labels.checked(_ops.where(values > _infinite_level(values) / 2, math.inf, values, values))

    def gradient(self) -> Array:
        """The probability that a class comes in, and minus the probability that it goes out."""
        (_, comes_in), (_, goes_out) = self._shares()
        return self.labels.joined(comes_in, -goes_out)

    def threshold_gradient(self) -> Array:
        return self.labels.checked(self.sizes.mean_shrinkage(*self._coefficients()) / self._total())

    def variances(self) -> Array:
        (stays_out, comes_in), (stays_in, goes_out) = self._shares()
        return self.labels.joined(comes_in * stays_out, goes_out * stays_in)

    def hessian_product(self, v: Array) -> Array:
        """How the gradient moves along v, by the product rule through the trees."""
        total, sides = self._total(), (self.negative, self.positive)
        along = (v, -self.labels.gathered(v))
        levels = tuple(s.tree.tangents(s.move * d) for s, d in zip(sides, along, strict=True))
        moves = tuple(level[-1][..., 0] for level in levels)
        adjoints, adjoint_moves = self.sizes.adjoints(*self._coefficients()), self.sizes.adjoints(*moves)
        growth = sum(_sum_of_first_axis(a * m) for a, m in zip(adjoints, moves, strict=True)) / total
        products = []
        for i, side in enumerate(sides):
            of_move, moving = side.tree.adjoint_tangents(adjoints[i], levels[i], adjoint_moves[i])
            share = side.move * (of_move / total[:, None])
            products.append(share * (along[i] - growth[:, None]) + side.move * (moving / total[:, None]))
        return self.labels.joined(products[0], -products[1])

    def _coefficients(self) -> tuple[Array, Array]:
        return self.negative.tree.coefficients(), self.positive.tree.coefficients()

    def _total(self) -> Array:
        others, own = self.sizes.terms(*self._coefficients())
        return others + own

    def _shares(self) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        of_negatives, of_positives = self.sizes.adjoints(*self._coefficients())
        return self.negative.shares(of_negatives), self.positive.shares(of_positives)


class _Labels(NamedTuple):
    """Which classes are positive and which count, how many of either there are, and which rows are valid."""

    positives: Array
    places: Array
    """columns of the positives, and then of others, (B, most)"""
    counts: Array | None
    k: Array
    n: Array
    valid: Array | None
    most: int
    """what no row's number of positives exceeds, at least 1"""

    def counting(self, x: Array, otherwise: float) -> Array:
        return x if self.counts is None else _ops.where(self.counts, x, otherwise, x)

    def gathered(self, x: Array) -> Array:
        """The entries of the positive classes, at the front of each row, (B, most)."""
        return _array.namespace(x).take_along_axis(x, self.places, axis=-1)

    def present(self, like: Array) -> Array:
        """True where a gathered entry is one of a positive class."""
        return _numbers(self.most, like)[None, :] < self.k[:, None]

    def joined(self, of_negatives: Array, of_positives: Array) -> Array:
        """One array of all classes, (B, C), from the negatives' and the gathered positives'."""
        xp = _array.namespace(of_negatives)
        values = xp.where(self.present(of_negatives), of_positives, self.gathered(of_negatives))
        return self.checked(_ops.put_(of_negatives, self.places, values))

    def checked(self, x: Array) -> Array:
        """Rows whose labels could not be refused become nan."""
        if self.valid is None:
            return x
        valid = self.valid if x.ndim == 1 else self.valid[:, None]
        return _ops.where(valid, x, math.nan, x)


def _problem(rows: Rows, at_most: int | None, max_positives: int | None) -> _Problem | None:
    """The block with its trees; None for rows without classes, whose loss is 0."""
    _require_count("at_most", at_most)
    _require_count("max_positives", max_positives)
    if 0 in rows.scores.shape:
        return None
    classes = rows.scores.shape[-1]
    places = None if at_most is None else min(at_most, classes)
    labels = _labels(rows, at_most, max_positives)
    exponents, low, tilt = _tilted(rows, labels, places)
    stay, move, costs = _odds(labels, exponents, low)
    present = labels.present(stay)
    stay_in, go_out = labels.gathered(stay), labels.gathered(move)
    degree = _degree(rows, labels) if places is None else places
    negative = _Side.of(
        _ops.where(labels.positives, 1.0, stay, stay), _ops.where(labels.positives, 0.0, move, move), degree
    )
    positive = _Side.of(
        _ops.where(present, stay_in, 1.0, stay),
        _ops.where(present, go_out, 0.0, move),
        min(degree, labels.most),
    )
    sizes: _Sizes = _SameSize() if places is None else _AtMost(places - labels.k, tilt)
    return _Problem(negative, positive, sizes, _ops.row_sum(costs), labels)


def _labels(rows: Rows, at_most: int | None, max_positives: int | None) -> _Labels:
    xp, scores, valid = _array.namespace(rows.scores), rows.scores, None
    if isinstance(rows.labels, Weighted):
        _, weights = rows.labels.sides(rows.labels.weights)
        positives, hard = weights > 0, (weights == 0) | (weights == 1)
        if rows.host:
            _refuse_soft(weights, hard)
        valid = xp.all(hard, axis=-1)
    else:
        positives = rows.labels.dense().positives
    k = _ops.row_sum(xp.astype(positives, scores.dtype))
    everything = positives == positives if rows.mask is None else rows.mask
    n = _ops.row_sum(xp.astype(everything, scores.dtype))
    limits = {"at_most": at_most, "max_positives": max_positives}
    if not rows.host:
        most = min([scores.shape[-1], *(x for x in limits.values() if x is not None)])
        few = k <= most
        places = _ops.first_true(positives, most)
        return _Labels(positives, places, rows.mask, k, n, few if valid is None else valid & few, most)
    most = int(_ops.largest(k))
    for name, limit in limits.items():
        if limit is not None and most > limit:
            raise ValueError(f"targets must have at most {name}={limit} positives a row, but one has {most}")
    most = max(1, most)
    return _Labels(positives, _ops.first_true(positives, most), rows.mask, k, n, None, most)


def _refuse_soft(weights: Array, hard: Array) -> None:
    if not bool(_array.namespace(hard).all(hard)):
        row, column = divmod(int(_ops.flat_positions(~hard)[0]), weights.shape[1])
        raise ValueError(f"targets must be hard, 0 or 1, got {weights[row, column]} for class {column}")


def _degree(rows: Rows, labels: _Labels) -> int:
    """How many classes of a side may move where as many move on either."""
    if not rows.host:
        return min(labels.most, int(rows.scores.shape[-1]) // 2)
    out = labels.n - labels.k
    return int(_ops.largest(_ops.where(labels.k < out, labels.k, out, out)))


def _odds(labels: _Labels, exponents: Array, low: Array) -> tuple[Array, Array, Array]:
    """The probabilities that a class stays where its label has it and that it moves, and minus the log of the first.

    Neither is a difference; the logarithm is that of the probability as rounded, since that is what the sums hold.
    """
    xp = _array.namespace(exponents)
    z = labels.counting(xp.where(labels.positives, -exponents, exponents), -math.inf)
    low = labels.counting(xp.where(labels.positives, -low, low), 0.0)
    wrong = z > 0
    tail = _ops.exp_(xp.where(wrong, -z, z))
    tail = tail + tail * xp.where(wrong, -low, low)
    large = 1.0 / (1.0 + tail)
    small = tail * large
    stay, move = xp.where(wrong, small, large), xp.where(wrong, large, small)
    return stay, move, _ops.relu(z) - xp.log(large)


def _tilted(rows: Rows, labels: _Labels, places: int | None) -> tuple[Array, Array, Array]:
    """Log-odds at which a set of the right size is likely, what rounding took off them, and the tilt of free places.

    The odds may be moved together, since that weighs all sets of one size alike. They are moved by multiples of a
    power of two, so that little is rounded.
    """
    xp, level = _array.namespace(rows.scores), _infinite_level(rows.scores)
    scores = _finite(labels.counting(rows.scores, 0.0), rows.host)
    zeros = xp.zeros_like(labels.k)
    size = labels.k if places is None else zeros + places
    most = labels.most if places is None else places
    base, center, full = _center(labels, scores, size, most)
    step = _tilt_step(most)
    threshold = zeros if places is None or rows.threshold is None else rows.threshold
    if places is not None:
        base = _ops.where(base > 0, base, 0.0, base)
        threshold = _ops.where(base > 0, 0.0, threshold, threshold)
    tilt = step * xp.floor((center - threshold) / step + 0.5)
    if places is not None:
        tilt = _ops.where(full & (base == 0), 0.0, xp.where(base > 0, tilt, _ops.relu(tilt)), tilt)
    above, low = _ops.exact_difference(scores - base[:, None], threshold[:, None])
    exponents, rounding = _ops.exact_difference(above, tilt[:, None])
    low = low + rounding if rows.low is None else low + rounding + rows.low
    return exponents, low, _ops.where(base > 0, level, tilt, tilt)


def _tilt_step(most: int) -> float:
    """Fine enough for the spread of a set's size, at most the root of its number of classes."""
    return 2.0 ** -max(0, math.ceil(math.log2(math.sqrt(most) / 4)))


def _center(labels: _Labels, scores: Array, size: Array, most: int) -> tuple[Array, Array, Array]:
    """Where the odds of a class are even if as many classes come into the best set of this size as go out of it.

    Returns what is to be taken off the scores first (where infinite ones tie for the last place), the center, and
    whether every class has a place. No size is larger than `most`.
    """
    xp = _array.namespace(scores)
    scores = labels.counting(scores, -math.inf)
    ordered = _ops.top(scores, min(most + 1, scores.shape[-1]))
    none_in, full = size < 1, size >= labels.n
    size = xp.where(full, labels.n, size)
    last, next_one = (_taken(ordered, size - 1.0), _taken(ordered, size))
    room = 2.0 * xp.log(2.0 * labels.n + 2.0)
    last = _ops.where(labels.n > 0, last, 0.0, last)
    low = xp.where(full, last - room, next_one)
    high = xp.where(none_in & ~full, low + room, last)
    tied = (high == low) & (xp.abs(high) == _infinite_level(scores))
    base = _ops.where(tied, high, 0.0, high)
    scores, high, low = scores - base[:, None], high - base, low - base
    cut = _Cut.at(labels, scores, size, high, low)
    center = cut.first_center()
    for _ in range(2):
        center = cut.improved(center)
    return base, center, full


def _taken(ordered: Array, place: Array) -> Array:
    xp = _array.namespace(ordered)
    place = _within(xp.astype(place, xp.int64), ordered.shape[-1])
    return xp.take_along_axis(ordered, place[:, None], axis=-1)[:, 0]


class _Cut(NamedTuple):
    """The best set of a size, and the classes beside it.

    Those better than its last one, those worse than the next one, and how many are as good as either, at least one.
    """

    scores: Array
    high: Array
    low: Array
    above: Array
    below: Array
    at_high: Array
    at_low: Array

    @classmethod
    def at(cls, labels: _Labels, scores: Array, size: Array, high: Array, low: Array) -> _Cut:
        xp = _array.namespace(scores)
        above = xp.astype(scores > high[:, None], scores.dtype)
        below = xp.astype((scores < low[:, None]) & (scores > -math.inf), scores.dtype)
        at_high, at_low = size - _ops.row_sum(above), labels.n - size - _ops.row_sum(below)
        return cls(scores, high, low, above, below, _at_least_1(at_high), _at_least_1(at_low))

    def first_center(self) -> Array:
        """As if all odds were those of the last and of the next class: the root of a quadratic equation."""
        xp = _array.namespace(self.scores)
        inside = self.scores > self.high[:, None]
        terms = xp.exp(xp.where(inside, self.high[:, None] - self.scores, self.scores - self.low[:, None]))
        terms_out, terms_in = _ops.where(inside, terms, 0.0, terms), terms
        out = _ops.row_sum(terms_out * self.above) + self.at_high
        come = _ops.row_sum(_ops.where(self.below > 0, terms_in, 0.0, terms)) + self.at_low
        gap = self.high - self.low
        linear = (come - out) * xp.exp(-0.5 * gap)
        root = xp.sqrt(linear * linear + 4.0 * out * come)
        larger = xp.abs(linear) + root
        odds = xp.where(linear > 0, larger / (2.0 * out), 2.0 * come / larger)
        return self.low + 0.5 * gap + xp.log(odds)

    def improved(self, center: Array) -> Array:
        """A Newton step for the log of the number that goes out less the log of the number that comes in."""
        xp = _array.namespace(center)
        out, come, out_slope, come_slope = self._numbers(center)
        distance = xp.log(out) - xp.log(come)
        slope = out_slope / out + come_slope / come
        step = distance / _ops.where(slope > 0.25, slope, 0.25, slope)
        return center - _ops.where(xp.isfinite(step), step, 0.0, step)

    def _numbers(self, center: Array) -> tuple[Array, Array, Array, Array]:
        """The mean numbers that go out and that come in, and how fast they change."""
        to_low, to_low_slope = _logistic(self.low - center)
        to_high, to_high_slope = _logistic(center - self.high)
        shares, slopes = _logistic(
            _array.namespace(center).where(
                self.above > 0, center[:, None] - self.scores, self.scores - center[:, None]
            )
        )
        return (
            _ops.row_sum(shares * self.above) + self.at_high * to_high,
            _ops.row_sum(shares * self.below) + self.at_low * to_low,
            _ops.row_sum(slopes * self.above) + self.at_high * to_high_slope,
            _ops.row_sum(slopes * self.below) + self.at_low * to_low_slope,
        )


def _logistic(x: Array) -> tuple[Array, Array]:
    """``σ(x)`` and its slope."""
    xp = _array.namespace(x)
    tail = xp.exp(-xp.abs(x))
    total = 1.0 + tail
    return xp.where(x > 0, xp.ones_like(tail), tail) / total, tail / (total * total)


def _at_least_1(x: Array) -> Array:
    return _ops.where(x < 1, 1.0, x, x)


def _finite(scores: Array, host: bool) -> Array:
    """A number beyond all others for infinity, far enough from overflow to be added to."""
    level = _infinite_level(scores)
    if host and float(_ops.extent(scores)) <= level / 2:
        return scores
    clipped = _ops.clip(scores, -level / 2, level / 2)
    clipped = _ops.where(scores == math.inf, level, clipped, scores)
    return _ops.where(scores == -math.inf, -level, clipped, scores)


def _infinite_level(x: Array) -> float:
    """A quarter of the largest number of the dtype, about, and a power of two."""
    return 2.0**126 if _array.itemsize(x) == 4 else 2.0**1022


def _within(places: Array, count: int) -> Array:
    """Integers, or the nearer end of 0 to count - 1; the standard's clip waits for the device in CuPy."""
    xp = _array.namespace(places)
    return xp.maximum(xp.minimum(places, xp.full_like(places, count - 1)), xp.zeros_like(places))


def _sum_of_first_axis(x: Array) -> Array:
    return _ops.row_sum(_array.namespace(x).moveaxis(x, 0, -1))


def _numbers(count: int, like: Array) -> Array:
    """0, 1, ... in the dtype of an array."""
    return _array.namespace(like).arange(count, dtype=like.dtype, device=_array.device(like))


def _require_count(name: str, count: Any) -> None:
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ValueError(f"{name} must be None or a positive integer, got {count!r}")
