"""How the arguments beside the scores are read: checked at the boundary, then given a form block by block.

A reader knows the names of a loss's arrays, makes rows of those that come after the first, and says in which form a
kernel gets a block of them: labels of several kinds, or arrays like the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, TypeAlias

from zlpr import _array, _ops
from zlpr._array import Array, Place
from zlpr.rules._labels import (
    Chosen,
    Dense,
    Distribution,
    Finite,
    Indexed,
    Labels,
    SingleLabels,
    Weighted,
)
from zlpr.rules._layout import Layout

_INDEX_SHARE = 128  # positions pay while at most a class in 128 per byte of a score is positive ...
_INDEX_LEAST = 1 << 13  # ... and while a pass over the block costs more than a call
_SAMPLE = 64
_NO_CLASS, _OUT_OF_RANGE = -1, -2

Arrays: TypeAlias = tuple[Any, ...]


class Folding(NamedTuple):
    """What is folded into the labels of a block: a smoothing, class weights, and whether they must stay soft."""

    smoothing: float
    class_weight: Array | None
    soft: bool


class Reader(Protocol):
    """How a loss reads the arrays that come after its first."""

    names: tuple[str, ...]

    def rows(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        """The arrays with rows as their first axis; raises unless they fit the first. May take its own options."""

    def values(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        """The same for arrays that differ in their values alone from others that `rows` let pass."""
        return rest

    def form(
        self, rest: Arrays, scores: Array, mask: Array | None, where: Place, folding: Folding
    ) -> tuple[Any, Array | None]:
        """The form the kernel works with, and which rows are valid where that cannot be raised."""


class MultiLabel(Reader):
    """Targets with an entry a class: hard (bool or integer 0-1) or soft (floating in [0, 1])."""

    names: tuple[str, ...] = ("scores", "targets")

    def rows(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        (targets,) = rest
        _array.require_array("targets", targets)
        _array.require_same_home("scores", lead, "targets", targets)
        return (_like_scores(targets, lead, layout),)

    def form(
        self, rest: Arrays, scores: Array, mask: Array | None, where: Place, folding: Folding
    ) -> tuple[Labels, Array | None]:
        (targets,) = rest
        xp = _array.namespace(targets)
        if mask is not None:
            targets = xp.where(mask, targets, xp.zeros_like(targets))
        positives, count, valid = _read(targets) if where == "host" else _unread(targets)
        if positives is None or folding.soft or folding.smoothing or folding.class_weight is not None:
            return _weighted(_array.as_dtype(targets, scores.dtype), folding), valid
        if count is None:
            return Dense(positives, scores), valid
        size = positives.shape[0] * positives.shape[1]
        if size >= _INDEX_LEAST and count * _INDEX_SHARE <= size * _array.itemsize(scores):
            return Indexed(scores, positives=positives), valid
        return Finite(positives, scores), valid


class SingleLabel(Reader):
    """Targets that name one class a row (integer indices), or a distribution over the classes (floating)."""

    names: tuple[str, ...] = ("scores", "targets")

    def rows(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        (targets,) = rest
        _array.require_array("targets", targets)
        _array.require_same_home("scores", lead, "targets", targets)
        if _array.kind(targets) != "integral":
            return (_like_scores(targets, lead, layout),)
        if tuple(targets.shape) != layout.batch:
            raise ValueError(
                f"targets of class indices must have one entry a row, shape {layout.batch}, "
                f"not {tuple(targets.shape)}"
            )
        return (_array.namespace(targets).reshape(targets, (-1,)),)

    def form(
        self, rest: Arrays, scores: Array, mask: Array | None, where: Place, folding: Folding
    ) -> tuple[SingleLabels, Array | None]:
        (targets,) = rest
        if targets.ndim == 2:
            weights, valid = self._weights(targets, scores, mask, where)
        else:
            labels, valid = self._chosen(targets, scores, where)
            if mask is None and not folding.smoothing:
                return labels, valid
            weights = labels.dense().weights
            weights = weights if mask is None else _ops.where(mask, weights, 0.0, weights)
        return Distribution(_spread_evenly(weights, mask, folding.smoothing)), valid

    def _weights(
        self, targets: Array, scores: Array, mask: Array | None, where: Place
    ) -> tuple[Array, Array | None]:
        xp = _array.namespace(targets)
        if mask is not None:
            targets = xp.where(mask, targets, xp.zeros_like(targets))
        if where == "host":
            _require_in_unit_interval(targets)
        return _array.as_dtype(targets, scores.dtype), None if where == "host" else _unread(targets)[2]

    def _chosen(self, targets: Array, scores: Array, where: Place) -> tuple[Chosen, Array | None]:
        xp, classes = _array.namespace(targets), scores.shape[-1]
        valid = (targets >= 0) & (targets < classes)
        if where != "host":
            return Chosen(xp.where(valid, targets, xp.zeros_like(targets)), scores), valid
        if not bool(xp.all(valid)):
            row = int(_ops.flat_positions(~valid)[0])
            raise ValueError(f"targets must be class indices in 0..{classes - 1}, got {int(targets[row])}")
        return Chosen(targets, scores), None


def _spread_evenly(weights: Array, mask: Array | None, smoothing: float) -> Array:
    """Weights of which a share is spread over the classes that count."""
    if not smoothing:
        return weights
    mass = _ops.row_sum(weights)
    if mask is None:
        even = (mass / weights.shape[-1])[:, None]
    else:
        counting = _array.as_dtype(mask, weights.dtype)
        count = _ops.row_sum(counting)
        even = counting * (mass / _ops.where(count == 0, 1.0, count, count))[:, None]
    return (1 - smoothing) * weights + smoothing * even


class Positives(Reader):
    """Indices of each row's positive classes, padded to one length, or a SciPy matrix of 0 and 1."""

    names: tuple[str, ...] = ("scores", "positives")

    def rows(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        (positives,), padding = rest, options.pop("padding")
        if hasattr(positives, "tocsr"):
            return (_LabelMatrix.of(positives, lead, layout),)
        _array.require_array("positives", positives)
        _array.require_same_home("scores", lead, "positives", positives)
        _require_index_dtype(positives)
        if tuple(positives.shape[:-1]) != layout.batch or positives.ndim != len(layout.batch) + 1:
            raise ValueError(
                f"positives must have the shape {(*layout.batch, 'K')}, the indices of each row's positive classes, "
                f"not {tuple(positives.shape)}"
            )
        return self.values(lead, rest, layout, {"padding": padding})

    def values(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        """The rows of indices whose shape and dtype are right; raises on the host where one is out of range."""
        (positives,), padding = rest, options["padding"]
        xp = _array.namespace(positives)
        if _array.dtype_name(positives).startswith("uint"):
            positives = positives + xp.zeros((), dtype=xp.int8, device=_array.device(positives))
        rows, classes = (math.prod(layout.batch), positives.shape[-1]), lead.shape[layout.axis]
        on_host = _array.place(lead) == "host"
        seen = on_host and padding == _NO_CLASS and 0 not in positives.shape
        if seen and _ops.lies_in(positives, _NO_CLASS, classes - 1):
            return (xp.reshape(positives, rows),)
        padded = positives == padding
        if on_host:
            self._require_in_range(positives, padded, classes)
        else:
            positives = xp.where(positives < 0, xp.full_like(positives, _OUT_OF_RANGE), positives)
        if padding != _NO_CLASS or not on_host:
            positives = xp.where(padded, xp.full_like(positives, _NO_CLASS), positives)
        return (xp.reshape(positives, rows),)

    def form(
        self, rest: Arrays, scores: Array, mask: Array | None, where: Place, folding: Folding
    ) -> tuple[Labels, Array | None]:
        (positives,) = rest
        xp, classes = _array.namespace(scores), scores.shape[-1]
        valid = None
        if where == "host":
            labels: Labels = Indexed(scores, positions=self._positions(positives, classes))
        else:
            given = positives != _NO_CLASS
            in_range = (positives >= 0) & (positives < classes)
            valid = xp.all(in_range | ~given, axis=-1)
            labels = Dense(_ops.marked(positives, in_range, classes), scores)
        if folding.class_weight is not None:
            labels = _weighted(labels.dense().weights, folding)
        return labels, valid

    def _positions(self, positives: Array, classes: int) -> Array:
        """Positions of the positives in the flattened block of scores, each once."""
        if isinstance(positives, _LabelMatrix):
            return positives.positions()
        xp = _array.namespace(positives)
        rows = xp.arange(positives.shape[0], device=_array.device(positives))[:, None]
        return _ops.distinct((rows * classes + positives)[positives != _NO_CLASS])

    def _require_in_range(self, positives: Array, padded: Array, classes: int) -> None:
        bad = ~padded & ((positives < 0) | (positives >= classes))
        if bool(_array.namespace(bad).any(bad)):
            place = int(_ops.flat_positions(bad)[0])
            value = int(_array.namespace(bad).reshape(positives, (-1,))[place])
            raise ValueError(
                f"positives must be class indices in 0..{classes - 1} or the padding, "
                f"got {value} in row {place // positives.shape[-1]}"
            )


@dataclass(frozen=True)
class _LabelMatrix:
    """The rows of a SciPy matrix of 0 and 1: positions of its ones, counted along the flattened matrix."""

    ones: Array
    first_row: int
    rows: int
    classes: int

    @classmethod
    def of(cls, matrix: Any, lead: Array, layout: Layout) -> _LabelMatrix:
        """The ones of a SciPy sparse matrix shaped like the scores."""
        if tuple(matrix.shape) != tuple(lead.shape) or not layout.is_plain:
            raise ValueError(
                f"positives as a SciPy matrix must have the shape of scores with axis=-1, {tuple(lead.shape)}, "
                f"not {tuple(matrix.shape)}"
            )
        if _array.place(lead) != "host":
            raise TypeError(
                f"positives as a SciPy matrix need scores in host memory, not a {_array.library(lead)} array on "
                f"{_array.device(lead)}; give padded indices of that library instead"
            )
        entries = matrix.tocoo()
        kept = entries.data != 0
        if (entries.data[kept] != 1).any():
            place = (kept & (entries.data != 1)).argmax()
            raise ValueError(
                f"positives as a SciPy matrix must hold 0 and 1, got {entries.data[place]} in row {entries.row[place]}"
            )
        positions = entries.row[kept].astype("int64") * matrix.shape[1] + entries.col[kept]
        return cls(_ops.distinct(_array.from_numpy(positions, lead)), 0, *matrix.shape)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and classes."""
        return self.rows, self.classes

    def __getitem__(self, block: Any) -> _LabelMatrix:
        """A block of rows, as of an array."""
        start, stop, _ = block[0].indices(self.rows)
        return replace(self, first_row=self.first_row + start, rows=stop - start)

    def positions(self) -> Array:
        """Positions of the ones, counted along these rows alone."""
        xp = _array.namespace(self.ones)
        ends = (self.first_row * self.classes, (self.first_row + self.rows) * self.classes)
        first, last = (int(i) for i in xp.searchsorted(self.ones, xp.asarray(ends)))
        return self.ones[first:last] - ends[0]


class Companions(Reader):
    """Floating arrays shaped like the first; the kernel gets them as a tuple, in the dtype to compute in."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def rows(self, lead: Array, rest: Arrays, layout: Layout, options: dict[str, Any]) -> Arrays:
        for name, x in zip(self.names[1:], rest, strict=True):
            require_like(name, x, self.names[0], lead)
            _array.require_real_floating(name, x)
        return tuple(layout.as_rows(x) for x in rest)

    def form(
        self, rest: Arrays, scores: Array, mask: Array | None, where: Place, folding: Folding
    ) -> tuple[Arrays, None]:
        return tuple(_array.as_dtype(x, scores.dtype) for x in rest), None


def require_like(name: str, x: Array, lead_name: str, lead: Array) -> None:
    """Raise unless `x` is an array of the library, on the device and of the shape of the leading one."""
    _array.require_array(name, x)
    _array.require_same_home(lead_name, lead, name, x)
    if tuple(x.shape) != tuple(lead.shape):
        raise ValueError(
            f"{name} must have the shape of {lead_name}, {tuple(lead.shape)}, not {tuple(x.shape)}"
        )


def _weighted(positive: Array, folding: Folding) -> Weighted:
    """Labels with a weight in both sums."""
    negative = 1 - positive
    if folding.smoothing:
        keep, spread = 1.0 - folding.smoothing, 0.5 * folding.smoothing
        positive, negative = positive * keep + spread, negative * keep + spread
    if folding.class_weight is None:
        return Weighted(negative, positive)
    return Weighted(negative * folding.class_weight, positive * folding.class_weight, may_exceed_1=True)


def _like_scores(targets: Array, scores: Array, layout: Layout) -> Array:
    if tuple(targets.shape) != tuple(scores.shape):
        raise ValueError(
            f"targets must have the shape of scores, {tuple(scores.shape)}, not {tuple(targets.shape)}"
        )
    require_label_kind(targets)
    return layout.as_rows(targets)


def require_label_kind(targets: Array) -> None:
    """Raise a TypeError unless the dtype of targets can hold truth values."""
    if _array.kind(targets) == "other":
        raise TypeError(f"targets must be bool, integer or real floating, not {targets.dtype}")


def _require_index_dtype(positives: Array) -> None:
    if _array.kind(positives) != "integral" or _array.dtype_name(positives) == "uint64":
        raise TypeError(f"positives must have an integer dtype (not uint64), not {positives.dtype}")


def _read(targets: Array) -> tuple[Array | None, int | None, None]:
    """Host targets: the positives of hard labels and their number, or None; raises outside [0, 1]."""
    xp = _array.namespace(targets)
    if _array.kind(targets) == "bool":
        return targets, int(xp.count_nonzero(targets)), None
    if _are_hard(targets[:1, :_SAMPLE]):  # soft labels show at once, as a rule
        positives, ones = targets != 0, targets == 1
        count = int(xp.count_nonzero(positives))
        if count == int(xp.count_nonzero(ones)):
            return positives, count, None
    _require_in_unit_interval(targets)
    return None, None, None


def _are_hard(targets: Array) -> bool:
    if 0 not in targets.shape and targets[0, 0] not in (0, 1):
        return False
    return bool(_array.namespace(targets).all((targets == 0) | (targets == 1)))


def _unread(targets: Array) -> tuple[Array | None, None, Array | None]:
    """Targets whose values cannot be read: hard by their dtype; and which rows hold nothing outside [0, 1]."""
    if _array.kind(targets) == "bool":
        return targets, None, None
    valid = _array.namespace(targets).all((targets >= 0) & (targets <= 1), axis=-1)
    return targets != 0 if _array.kind(targets) == "integral" else None, None, valid


def _require_in_unit_interval(targets: Array) -> None:
    if 0 in targets.shape or _ops.lies_in(targets, 0, 1):
        return
    inside = (targets >= 0) & (targets <= 1)
    row, column = divmod(int(_ops.flat_positions(~inside)[0]), targets.shape[1])
    kind = "0 or 1" if _array.kind(targets) == "integral" else "in [0, 1]"
    raise ValueError(f"targets must be {kind}, got {targets[row, column]} for class {column}")
