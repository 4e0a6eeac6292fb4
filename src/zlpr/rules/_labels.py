"""The forms in which targets come, behind one interface, so that a loss states its formula once.

Every loss of several labels is a function of exponents: ``s`` for a class in the negative sum, ``-s`` for one in the
positive sum. A form knows which class is on which side. `Dense` holds a truth value a class; on the host, where
reading values is free, `Finite` is its faster kin and `Indexed` holds the few positive positions. `Weighted` holds a
weight in both sums, for soft labels, and then has two exponents a class; `Paired` is its faster kin. The algebra is
derived in ``docs/derivations/zlpr.md``. The forms of a single label, at the end, are `Distribution` and `Chosen`.
"""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

from zlpr import _array, _ops
from zlpr._array import Array

Split: TypeAlias = tuple[Array, Array]
"""Terms of the negative and of the positive side, as the form keeps them."""


class Dense:
    """Hard labels as a truth value a class; the negatives' weight ``1 - w`` is never stored."""

    def __init__(self, positives: Array, like: Array, weights: Array | None = None) -> None:
        self.positives = positives
        self.weights = _array.as_dtype(positives, like.dtype) if weights is None else weights
        self._of_sides: Array | None = None

    def dense(self) -> Dense:
        """The form that serves any place and any term: here itself."""
        return self

    def of_moderate_exponents(self) -> AnyLabels:
        """The form for an unmasked host block whose exponents are in half the range."""
        return self

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        """``s`` of each negative and ``-s`` of each positive class, a temporary of the caller's own."""
        return self._signs() * scores

    def counting(self, exponents: Array, mask: Array | None) -> Array:
        """``-inf`` in place of every exponent that does not count."""
        return exponents if mask is None else _ops.where(mask, exponents, -math.inf, exponents)

    def headroom(self) -> Array | float:
        """What the weights may add to the largest exponent."""
        return 0.0

    def peak(self, exponents: Array) -> Array:
        """The largest exponent of any class, 0-d."""
        return _ops.largest(exponents)

    def tops(self, exponents: Array) -> Split:
        """The largest exponent of each side, (B,) each."""
        negatives = _ops.where(self.positives, -math.inf, exponents, exponents)
        positives = _ops.where(self.positives, exponents, -math.inf, exponents)
        return _ops.row_max(negatives), _ops.row_max(positives)

    def spread(self, negative: Array, positive: Array) -> Array:
        """One number a row and side, (B,) or (1,) each, given to every exponent of that side."""
        return _ops.where(self.positives, positive[:, None], negative[:, None], negative)

    def constants(self, negative: float, positive: float, like: Array) -> Array:
        """A number a side, given to every exponent of that side."""
        return _ops.where(self.positives, positive, negative, like)

    def sides(self, x: Array) -> Split:
        """What multiplies the terms of the negative and of the positive side, of one array of both."""
        return x, x

    def split(self, terms: Array) -> tuple[Split, Split]:
        """Terms of each side with their weights, 0 for the other side's, and their sums, (B,) each.

        May overwrite the terms.
        """
        negatives = _ops.where(self.positives, 0.0, terms, terms)
        return _with_sums(negatives, _ops.where(self.positives, terms, 0.0, terms))

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        """Terms times a factor a row and side, added up by class, (B, C); may overwrite the terms."""
        return _ops.where(
            self.positives, split[1] * positive[:, None], split[0] * negative[:, None], negative
        )

    def weighed(self, terms: Array, positive_weight: Array | float | None) -> Array:
        """Terms times their class's weight, and times another one where it is positive."""
        if positive_weight is None:
            return terms
        return _ops.where(self.positives, terms * positive_weight, terms, terms)

    def folded(self, terms: Array, sign: int) -> Array:
        """Negatives' terms and `sign` times the positives', (B, C); overwrites the terms."""
        return terms if sign > 0 else _ops.multiply_(terms, self._signs())

    def _signs(self) -> Array:
        """1 for negatives, -1 for positives."""
        if self._of_sides is None:
            self._of_sides = _ops.add_(self.weights * -2.0, 1.0)
        return self._of_sides


def _with_sums(negatives: Array, positives: Array) -> tuple[Split, Split]:
    return (negatives, positives), (_ops.row_sum(negatives), _ops.row_sum(positives))


class Finite(Dense):
    """Hard labels of a host block whose terms are finite: sides are told apart by products, the faster way."""

    def dense(self) -> Dense:
        return Dense(self.positives, self.weights, self.weights)

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        at_positives = scores * self.weights
        return _ops.subtract_(_ops.subtract_(_ops.copied(scores, buffer), at_positives), at_positives)

    def split(self, terms: Array) -> tuple[Split, Split]:
        positives = terms * self.weights
        return _with_sums(_ops.subtract_(terms, positives), positives)

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        negatives = _ops.multiply_(split[0], negative[:, None])
        return _ops.add_(negatives, _ops.multiply_(split[1], positive[:, None]))


class Indexed(Dense):
    """Hard labels of a host block as the positions of its few positives, counted along the flattened block."""

    def __init__(
        self, scores: Array, *, positives: Array | None = None, positions: Array | None = None
    ) -> None:
        self.scores, self._given = scores, positives
        if positions is not None:
            self.positions = positions

    @functools.cached_property
    def positions(self) -> Array:
        return _ops.flat_positions(self._given)

    @functools.cached_property
    def rows(self) -> Array:
        return self.positions // max(1, self.scores.shape[1])

    def dense(self) -> Dense:
        if self._given is not None:
            return Dense(self._given, self.scores)
        xp = _array.namespace(self.scores)
        positives = xp.zeros(self.scores.shape, dtype=xp.bool)
        self._flat(positives)[self.positions] = True
        return Dense(positives, self.scores)

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        z = _ops.copied(scores, buffer)
        flat = self._flat(z)
        flat[self.positions] = -flat[self.positions]
        return z

    def tops(self, exponents: Array) -> Split:
        xp = _array.namespace(exponents)
        sides = xp.asarray(exponents, copy=True), xp.full_like(exponents, -math.inf)
        self._flat(sides[0])[self.positions] = -math.inf
        self._flat(sides[1])[self.positions] = self._flat(exponents)[self.positions]
        return _ops.row_max(sides[0]), _ops.row_max(sides[1])

    def spread(self, negative: Array, positive: Array) -> Array:
        xp = _array.namespace(negative)
        spread = xp.asarray(xp.broadcast_to(negative[:, None], self.scores.shape), copy=True)
        self._flat(spread)[self.positions] = positive[self.rows] if positive.shape[0] > 1 else positive
        return spread

    def constants(self, negative: float, positive: float, like: Array) -> Array:
        constants = _array.namespace(like).full(self.scores.shape, negative, dtype=like.dtype)
        self._flat(constants)[self.positions] = positive
        return constants

    def sides(self, x: Array) -> Split:
        return x, self._flat(x)[self.positions]

    def split(self, terms: Array) -> tuple[Split, Split]:
        flat = self._flat(terms)
        positives = flat[self.positions]
        flat[self.positions] = 0.0
        sums = _ops.row_sum(terms), _ops.segment_sum(positives, self.rows, terms.shape[0])
        return (terms, positives), sums

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        terms = _ops.multiply_(split[0], negative[:, None])
        self._flat(terms)[self.positions] = split[1] * positive[self.rows]
        return terms

    def _flat(self, x: Array) -> Array:
        return x.reshape(-1)


class Weighted:
    """Soft labels: each class has an exponent and a weight on both sides, negatives first, (2, B, C)."""

    def __init__(self, negative_weights: Array, positive_weights: Array, may_exceed_1: bool = False) -> None:
        self.of_sides, self.may_exceed_1 = (negative_weights, positive_weights), may_exceed_1
        self._weights: Array | None = None

    @property
    def weights(self) -> Array:
        """The weights of both sides, (2, B, C)."""
        if self._weights is None:
            self._weights = _ops.stacked(*self.of_sides)
        return self._weights

    def dense(self) -> Weighted:
        """The form that serves any place and any term: here itself."""
        return self

    def of_moderate_exponents(self) -> Paired:
        """The form for an unmasked host block whose exponents are in half the range."""
        return Paired(self)

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        """``s`` and ``-s`` of each class, a temporary of the caller's own."""
        return _ops.stacked(scores, -scores)

    def counting(self, exponents: Array, mask: Array | None) -> Array:
        """``-inf`` in place of every exponent that does not count; one of weight zero is absent, and does not."""
        counts = self.weights > 0
        return _ops.where(counts if mask is None else counts & mask, exponents, -math.inf, exponents)

    def headroom(self) -> Array | float:
        """What the weights may add to the largest exponent."""
        if not self.may_exceed_1:
            return 0.0
        return _ops.relu(_array.namespace(self.weights).log(_ops.largest(self.weights)))

    def peak(self, exponents: Array) -> Array:
        """The largest exponent of any class, 0-d."""
        return _ops.largest(exponents)

    def tops(self, exponents: Array) -> Split:
        """The largest exponent of each side, (B,) each."""
        return self.sides(_ops.row_max(exponents))

    def spread(self, negative: Array, positive: Array) -> Array:
        """One number a row and side, (B,) or (1,) each, for every exponent of that side."""
        return _ops.stacked(negative[:, None], positive[:, None])

    def constants(self, negative: float, positive: float, like: Array) -> Array:
        """A number a side, for every exponent of that side."""
        xp, device = _array.namespace(like), _array.device(like)
        return _ops.stacked(
            *(xp.full((1, 1), x, dtype=like.dtype, device=device) for x in (negative, positive))
        )

    def split(self, terms: Array) -> tuple[Split, Split]:
        """Terms of each side with their weights, and their sums, (B,) each; overwrites the terms."""
        terms = _ops.multiply_(terms, self.weights)
        return self.sides(terms), self.sides(_ops.row_sum(terms))

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        """Terms times a factor a row and side, added up by class, (B, C)."""
        return split[0] * negative[:, None] + split[1] * positive[:, None]

    def weighed(self, terms: Array, positive_weight: Array | float | None) -> Array:
        """Terms times their class's weight, and times another one on the positive side."""
        terms = terms * self.weights
        if positive_weight is None:
            return terms
        negatives, positives = self.sides(terms)
        return _ops.stacked(negatives, positives * positive_weight)

    def folded(self, terms: Array, sign: int) -> Array:
        """Negatives' terms and `sign` times the positives', added up by class, (B, C)."""
        negatives, positives = self.sides(terms)
        return negatives + sign * positives

    def sides(self, x: Array) -> Split:
        """What belongs to the negative and to the positive sum, of one array of both."""
        return x[0, ...], x[1, ...]


class Paired:
    """Soft labels of an unmasked host block whose exponentials have reciprocals: one of ``s`` serves both sides."""

    def __init__(self, weighted: Weighted) -> None:
        self._weighted = weighted

    def dense(self) -> Weighted:
        return self._weighted

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        return _ops.copied(scores, buffer)

    def headroom(self) -> Array | float:
        return self._weighted.headroom()

    def peak(self, exponents: Array) -> Array:
        """The largest exponent of either side."""
        return _ops.extent(exponents)

    def split(self, terms: Array) -> tuple[Split, Split]:
        negative_weights, positive_weights = self._weighted.of_sides
        positives = positive_weights / terms
        return _with_sums(_ops.multiply_(terms, negative_weights), positives)

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        negatives = _ops.multiply_(split[0], negative[:, None])
        return _ops.add_(negatives, _ops.multiply_(split[1], positive[:, None]))


class Distribution:
    """Targets of a softmax as a weight a class, (B, C), not negative; the reference class is the likeliest one."""

    needs_distance = True

    def __init__(self, weights: Array) -> None:
        self.weights = weights
        self._mass = _ops.row_sum(weights)

    def dense(self) -> Distribution:
        """The form that serves any place and any scores: here itself."""
        return self

    def reference(self, scores: Array) -> Array:
        """The class that the others are measured from, (B,)."""
        return _ops.argmax(scores)

    def mass(self) -> Array:
        """The sum of the weights, (B,)."""
        return self._mass

    def surprise(self, distance: Array, finite: bool) -> Array:
        """Weighted sum of the distances below the reference, (B,); one of weight 0 is absent, also at infinity."""
        terms = self.weights * distance
        return -_ops.row_sum(terms if finite else _ops.where(self.weights > 0, terms, 0.0, terms))

    def taken_off(self, slopes: Array, shares: Array) -> Array:
        """Slopes less the weights times the rows' cotangents; overwrites the slopes."""
        return _ops.subtract_(slopes, self.weights * shares[:, None])

    def slope_at_reference(self, chosen: Array, others: Array, reference: Array) -> Array:
        """``m p - t`` of the reference, from its own and from the others' probability, (B,), with fewer digits lost."""
        weight = _ops.chosen(self.weights, reference)
        from_others, from_own = (self._mass - weight) - self._mass * others, self._mass * chosen - weight
        return _array.namespace(chosen).where(others < 0.5, from_others, from_own)


class Chosen:
    """Targets of a softmax as the index of one class a row, which is the reference."""

    needs_distance = False

    def __init__(self, columns: Array, like: Array) -> None:
        self.columns, self.like = columns, like

    def dense(self) -> Distribution:
        return Distribution(
            _ops.replaced_(_array.namespace(self.like).zeros_like(self.like), self.columns, 1.0)
        )

    def reference(self, scores: Array) -> Array:
        return self.columns

    def mass(self) -> float:
        return 1.0

    def surprise(self, distance: Array, finite: bool) -> float:
        return 0.0

    def taken_off(self, slopes: Array, shares: Array) -> Array:
        return slopes

    def slope_at_reference(self, chosen: Array, others: Array, reference: Array) -> Array:
        return -others


Labels: TypeAlias = Dense | Weighted
"""Serve any place and any term."""
AnyLabels: TypeAlias = Labels | Paired
SingleLabels: TypeAlias = Distribution | Chosen
