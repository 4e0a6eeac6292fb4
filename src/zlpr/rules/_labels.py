"""The forms in which multi-label targets come, behind one interface, so that a loss states its formula once.

Every loss of the family is a function of exponents: ``s`` for a class in the negative sum, ``-s`` for one in the
positive sum. A form knows which class is on which side. `Dense` holds a truth value a class; on the host, where
reading values is free, `Finite` is its faster kin and `Indexed` holds the few positive positions. `Weighted` holds a
weight in both sums, for soft labels, and then has two exponents a class. The algebra is derived in
``docs/derivations/zlpr.md``.
"""

from __future__ import annotations

import math
from typing import TypeAlias

from zlpr import _array, _ops
from zlpr._array import Array, Place
from zlpr.rules._layout import Layout

_INDEX_SHARE = 16  # positions pay while at most one class in sixteen is positive

Split: TypeAlias = tuple[Array, Array]
"""Terms of the negative and of the positive side, as the form keeps them."""


class Dense:
    """Hard labels as a truth value a class; the negatives' weight ``1 - w`` is never stored."""

    def __init__(self, positives: Array, like: Array) -> None:
        self.positives = positives
        self.weights = _array.namespace(positives).astype(positives, like.dtype)

    def dense(self) -> Dense:
        """The form that serves any place and any term: here itself."""
        return self

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        """``s`` of each negative and ``-s`` of each positive class, a temporary of the caller's own."""
        return _ops.multiply_(self._signs(), scores)

    def counting(self, exponents: Array, mask: Array | None) -> Array:
        """``-inf`` in place of every exponent that does not count."""
        return exponents if mask is None else _ops.where(mask, exponents, -math.inf, exponents)

    def tops(self, exponents: Array) -> Split:
        """The largest exponent of each side, (B,) each."""
        negatives = _ops.where(self.positives, -math.inf, exponents, exponents)
        positives = _ops.where(self.positives, exponents, -math.inf, exponents)
        return _ops.row_max(negatives), _ops.row_max(positives)

    def spread(self, negative: Array, positive: Array) -> Array:
        """One number a row and side, (B,) each, given to every exponent of that side."""
        return _array.namespace(negative).where(self.positives, positive[:, None], negative[:, None])

    def split(self, terms: Array) -> Split:
        """Terms of each side with their weights, 0 for the other side's; may overwrite the terms."""
        negatives = _ops.where(self.positives, 0.0, terms, terms)
        return negatives, _ops.where(self.positives, terms, 0.0, terms)

    def sums(self, split: Split) -> Split:
        """Sum of the terms of each side, (B,) each."""
        return _ops.row_sum(split[0]), _ops.row_sum(split[1])

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        """Terms times a factor a row and side, added up by class, (B, C); may overwrite the terms."""
        xp = _array.namespace(negative)
        return xp.where(self.positives, split[1] * positive[:, None], split[0] * negative[:, None])

    def weighed(self, terms: Array, positive_weight: Array | float | None) -> Array:
        """Terms times their class's weight, and times another one where it is positive."""
        if positive_weight is None:
            return terms
        return _array.namespace(terms).where(self.positives, terms * positive_weight, terms)

    def folded(self, terms: Array, sign: int) -> Array:
        """Negatives' terms and `sign` times the positives', (B, C); overwrites the terms."""
        return terms if sign > 0 else _ops.multiply_(terms, self._signs())

    def _signs(self) -> Array:
        """1 for negatives, -1 for positives."""
        return _ops.add_(self.weights * -2.0, 1.0)


class Finite(Dense):
    """Hard labels of a host block whose terms are finite: sides are told apart by products, the faster way."""

    def dense(self) -> Dense:
        return Dense(self.positives, self.weights)

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        at_positives = scores * self.weights
        if buffer is None:
            z = scores - at_positives
        else:
            z = buffer
            z[...] = scores
            z -= at_positives
        z -= at_positives
        return z

    def split(self, terms: Array) -> Split:
        positives = terms * self.weights
        return _ops.subtract_(terms, positives), positives

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        negatives = _ops.multiply_(split[0], negative[:, None])
        return _ops.add_(negatives, _ops.multiply_(split[1], positive[:, None]))


class Indexed(Dense):
    """Hard labels as the positions of the few positives in the flattened block."""

    def __init__(self, positives: Array, positions: Array, like: Array) -> None:
        self.positives, self.positions, self.like = positives, positions, like
        self.rows = positions // positives.shape[1]

    def dense(self) -> Dense:
        return Dense(self.positives, self.like)

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        if buffer is None:
            z = _array.namespace(scores).asarray(scores, copy=True)
        else:
            z = buffer
            z[...] = scores
        flat = self._flat(z)
        flat[self.positions] = -flat[self.positions]
        return z

    def split(self, terms: Array) -> Split:
        flat = self._flat(terms)
        positives = flat[self.positions]
        flat[self.positions] = 0.0
        return terms, positives

    def sums(self, split: Split) -> Split:
        negatives, positives = split
        return _ops.row_sum(negatives), _ops.segment_sum(positives, self.rows, negatives.shape[0])

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        terms = _ops.multiply_(split[0], negative[:, None])
        self._flat(terms)[self.positions] = split[1] * positive[self.rows]
        return terms

    def _flat(self, x: Array) -> Array:
        return _array.namespace(x).reshape(x, (-1,))


class Weighted:
    """Soft labels: each class has an exponent and a weight on both sides, negatives first, (B, 2C)."""

    def __init__(self, negative_weights: Array, positive_weights: Array) -> None:
        xp = _array.namespace(negative_weights)
        self.weights = xp.concat((negative_weights, positive_weights), axis=-1)
        self.classes = negative_weights.shape[-1]

    def dense(self) -> Weighted:
        """The form that serves any place and any term: here itself."""
        return self

    def exponents(self, scores: Array, buffer: Array | None) -> Array:
        """``s`` and ``-s`` of each class, a temporary of the caller's own."""
        return _array.namespace(scores).concat((scores, -scores), axis=-1)

    def counting(self, exponents: Array, mask: Array | None) -> Array:
        """``-inf`` in place of every exponent that does not count; one of weight zero is absent, and does not."""
        counts = self.weights > 0
        if mask is not None:
            counts = counts & _array.namespace(mask).concat((mask, mask), axis=-1)
        return _ops.where(counts, exponents, -math.inf, exponents)

    def tops(self, exponents: Array) -> Split:
        """The largest exponent of each side, (B,) each."""
        negatives, positives = self._sides(exponents)
        return _ops.row_max(negatives), _ops.row_max(positives)

    def spread(self, negative: Array, positive: Array) -> Array:
        """One number a row and side, (B,) each, given to every exponent of that side."""
        xp = _array.namespace(negative)
        shape = (negative.shape[0], self.classes)
        sides = (xp.broadcast_to(side[:, None], shape) for side in (negative, positive))
        return xp.concat(tuple(sides), axis=-1)

    def split(self, terms: Array) -> Split:
        """Terms of each side with their weights; overwrites the terms."""
        return self._sides(_ops.multiply_(terms, self.weights))

    def sums(self, split: Split) -> Split:
        """Sum of the terms of each side, (B,) each."""
        return _ops.row_sum(split[0]), _ops.row_sum(split[1])

    def scaled(self, split: Split, negative: Array, positive: Array) -> Array:
        """Terms times a factor a row and side, added up by class, (B, C)."""
        return split[0] * negative[:, None] + split[1] * positive[:, None]

    def weighed(self, terms: Array, positive_weight: Array | float | None) -> Array:
        """Terms times their class's weight, and times another one on the positive side."""
        terms = terms * self.weights
        if positive_weight is None:
            return terms
        negatives, positives = self._sides(terms)
        return _array.namespace(terms).concat((negatives, positives * positive_weight), axis=-1)

    def folded(self, terms: Array, sign: int) -> Array:
        """Negatives' terms and `sign` times the positives', added up by class, (B, C)."""
        negatives, positives = self._sides(terms)
        return negatives + sign * positives

    def _sides(self, x: Array) -> Split:
        return x[:, : self.classes], x[:, self.classes :]


Labels: TypeAlias = Dense | Weighted


class _MultiLabel:
    """Targets with an entry a class: hard (bool or integer 0-1) or soft (floating in [0, 1])."""

    def rows(self, scores: Array, targets: Array, layout: Layout) -> Array:
        """The targets as (B, C)."""
        if tuple(targets.shape) != tuple(scores.shape):
            raise ValueError(
                f"targets must have the shape of scores, {tuple(scores.shape)}, not {tuple(targets.shape)}"
            )
        _require_label_dtype(targets)
        return layout.as_rows(targets)

    def form(
        self, targets: Array, scores: Array, where: Place, smoothing: float, soft: bool
    ) -> tuple[Labels, Array | None]:
        """The form of a block of targets, and where values cannot be read which rows are valid, (B,)."""
        xp = _array.namespace(targets)
        positives, count, valid = _read(targets) if where == "host" else _unread(targets)
        if positives is None or soft or smoothing:
            positive = xp.astype(targets, scores.dtype, copy=False)
            keep, spread = 1.0 - smoothing, 0.5 * smoothing
            return Weighted((1 - positive) * keep + spread, positive * keep + spread), valid
        if count is None:
            return Dense(positives, scores), valid
        if count * _INDEX_SHARE <= positives.shape[0] * positives.shape[1]:
            return Indexed(positives, _ops.flat_positions(positives), scores), valid
        return Finite(positives, scores), valid


class _SingleLabel:
    """Targets that name one class a row (integer indices), or a distribution over the classes (floating)."""

    def rows(self, scores: Array, targets: Array, layout: Layout) -> Array:
        """Indices as (B,), distributions as (B, C)."""
        xp = _array.namespace(targets)
        _require_label_dtype(targets)
        if _array.kind(targets) == "integral":
            if tuple(targets.shape) != layout.batch:
                raise ValueError(
                    f"targets of class indices must have one entry a row, shape {layout.batch}, "
                    f"not {tuple(targets.shape)}"
                )
            return xp.reshape(targets, (-1,))
        return MULTI_LABEL.rows(scores, targets, layout)

    def form(
        self, targets: Array, scores: Array, where: Place, smoothing: float, soft: bool
    ) -> tuple[Array, Array | None]:
        """The weight of each class, (B, C), and where values cannot be read which rows are valid, (B,)."""
        xp = _array.namespace(targets)
        if targets.ndim == 2:
            valid = None
            if where == "host":
                _require_in_unit_interval(targets)
            else:
                valid = _unread(targets)[2]
            return xp.astype(targets, scores.dtype, copy=False), valid
        classes = scores.shape[-1]
        valid = (targets >= 0) & (targets < classes)
        if where == "host" and not bool(xp.all(valid)):
            row = int(_ops.flat_positions(~valid)[0])
            raise ValueError(f"targets must be class indices in 0..{classes - 1}, got {int(targets[row])}")
        every = xp.arange(classes, dtype=targets.dtype, device=_array.device(scores))
        one_hot = xp.astype(every[None, :] == targets[:, None], scores.dtype)
        return one_hot, None if where == "host" else valid


MULTI_LABEL = _MultiLabel()
SINGLE_LABEL = _SingleLabel()


def _require_label_dtype(targets: Array) -> None:
    if _array.kind(targets) == "other":
        raise TypeError(f"targets must be bool, integer or real floating, not {targets.dtype}")


def _read(targets: Array) -> tuple[Array | None, int | None, None]:
    """Host targets: the positives of hard labels and their number, or None; raises outside [0, 1]."""
    xp = _array.namespace(targets)
    if _array.kind(targets) == "bool":
        return targets, int(xp.count_nonzero(targets)), None
    positives, ones = targets != 0, targets == 1
    count = int(xp.count_nonzero(positives))
    if count == int(xp.count_nonzero(ones)):
        return positives, count, None
    _require_in_unit_interval(targets)
    return None, None, None


def _unread(targets: Array) -> tuple[Array | None, None, Array | None]:
    """Targets whose values cannot be read: hard by their dtype; and which rows hold nothing outside [0, 1]."""
    if _array.kind(targets) == "bool":
        return targets, None, None
    valid = _array.namespace(targets).all((targets >= 0) & (targets <= 1), axis=-1)
    return targets != 0 if _array.kind(targets) == "integral" else None, None, valid


def _require_in_unit_interval(targets: Array) -> None:
    inside = (targets >= 0) & (targets <= 1)
    if not bool(_array.namespace(targets).all(inside)):
        row, column = divmod(int(_ops.flat_positions(~inside)[0]), targets.shape[1])
        kind = "0 or 1" if _array.kind(targets) == "integral" else "in [0, 1]"
        raise ValueError(f"targets must be {kind}, got {targets[row, column]} for class {column}")
