"""What the functions of this room are given: checked at the boundary, and laid out for the work.

Values are read on the host only, where a wrong one raises; elsewhere `Samples.valid` remembers it, and the result is
nan.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from zlpr import _array, _constants, _ops
from zlpr._array import Array
from zlpr.rules._layout import Layout, split_axis
from zlpr.rules._readers import require_label_kind, require_like


class Samples(NamedTuple):
    """Scores and truth as lines, one a label, (C, N) each."""

    scores: Array
    """In the dtype to compute in."""
    positives: Array
    """bool; False where masked."""
    counted: Array | None
    """bool, the mask."""
    valid: Array
    """(C,) bool: whether nothing in the line is nan or no truth value."""

    def pooled(self) -> Samples:
        """The entries of all labels as one line, (1, C * N)."""
        xp = _array.namespace(self.scores)
        scores, positives = (xp.reshape(x, (1, -1)) for x in self[:2])
        counted = None if self.counted is None else xp.reshape(self.counted, (1, -1))
        return Samples(scores, positives, counted, xp.reshape(xp.all(self.valid), (1,)))


def checked_scores(scores: Array) -> None:
    """Raise unless the scores are a real floating array, on the host without nan."""
    _array.require_array("scores", scores)
    _array.require_real_floating("scores", scores)
    if _array.place(scores) == "host":
        require_all("scores must not be nan", ~_array.namespace(scores).isnan(scores))


def samples_of(scores: Array, targets: Array, mask: Array | None, axis: int) -> Samples:
    """The lines of the labels, after all checks."""
    _array.require_array("scores", scores)
    _array.require_real_floating("scores", scores)
    require_like("targets", targets, "scores", scores)
    require_label_kind(targets)
    if mask is not None:
        require_like("mask", mask, "scores", scores)
        if _array.kind(mask) != "bool":
            raise TypeError(f"mask must be a bool array, True where the entry counts, not {mask.dtype}")
    xp = _array.namespace(scores)
    is_bool = _array.kind(targets) == "bool"
    positives = targets if is_bool else targets == 1
    right = xp.ones_like(positives) if is_bool else positives | (targets == 0)
    numbers = ~xp.isnan(scores)
    if mask is not None:
        positives, right, numbers = positives & mask, right | ~mask, numbers | ~mask
    if _array.place(scores) == "host":
        require_all("scores must not be nan", numbers)
        require_all("targets must be 0 or 1", right)
    axis, batch = split_axis("scores", scores, axis)
    layout = Layout(batch, axis, True)
    return Samples(
        layout.as_rows(_array.as_dtype(scores, _array.compute_dtype(scores))).T,
        layout.as_rows(positives).T,
        None if mask is None else layout.as_rows(mask).T,
        xp.all(layout.as_rows(right & numbers), axis=0),
    )


def require_all(what: str, right: Array) -> None:
    """Raise a ValueError with the place of the first entry of a host array that is not right."""
    xp = _array.namespace(right)
    if not bool(xp.all(right)):
        place = np.unravel_index(int(_ops.flat_positions(~right)[0]), tuple(right.shape))
        raise ValueError(f"{what}, but the entry at {tuple(int(i) for i in place)} is")


def along(name: str, x: Any, scores: Array, axis: int) -> Any:
    """A number, or an array that broadcasts against the scores; one of a single axis has an entry a label."""
    if _constants.is_number(x):
        if math.isnan(x):
            raise ValueError(f"{name} must not be nan")
        return float(x)
    _array.require_array(name, x)
    _array.require_same_home("scores", scores, name, x)
    _array.require_real_floating(name, x)
    shape, full = tuple(x.shape), tuple(scores.shape)
    if x.ndim == 1:
        axis, _ = split_axis("scores", scores, axis)
        shape = tuple(shape[0] if i == axis else 1 for i in range(scores.ndim))
    if x.ndim and (len(shape) != len(full) or any(n not in (1, m) for n, m in zip(shape, full, strict=True))):
        raise ValueError(
            f"{name} must be a number, an array with one entry a label along axis {axis}, or one that broadcasts to "
            f"the shape of scores, {full}, not {tuple(x.shape)}"
        )
    return _array.namespace(scores).reshape(x, shape)
