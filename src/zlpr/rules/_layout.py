"""How a caller's axes lie: which one holds the classes, and the shape of the others."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from zlpr import _array
from zlpr._array import Array


class Layout(NamedTuple):
    """How the caller's axes lie: which one holds the classes, and the shape of the others."""

    batch: tuple[int, ...]
    axis: int
    shared_threshold: bool

    @classmethod
    def of(cls, args: tuple[Any, ...], opts: dict[str, Any]) -> Layout:
        """The layout of a call's arguments."""
        axis, batch = split_axis("scores", args[0], opts.get("axis", -1))
        return cls(batch, axis, not getattr(opts.get("threshold"), "ndim", 0))

    @property
    def is_plain(self) -> bool:
        """Whether the caller's arrays have rows and classes as their two axes already."""
        return len(self.batch) == 1 and self.axis == 1

    def as_rows(self, x: Array) -> Array:
        """An array like the scores, as (B, C)."""
        if self.is_plain:
            return x
        xp = _array.namespace(x)
        last = xp.moveaxis(x, self.axis, -1)
        return xp.reshape(last, (math.prod(self.batch), last.shape[-1]))

    def restored(self, x: Array) -> Array:
        """(B, C) in the caller's shape."""
        if self.is_plain:
            return x
        xp = _array.namespace(x)
        return xp.moveaxis(xp.reshape(x, (*self.batch, x.shape[-1])), -1, self.axis)

    def scaled(self, name: str, gradient: Array, dvalue: Array) -> Array:
        """A gradient in the caller's shape for the cotangent `dvalue`, when the rows' own is 1."""
        xp = _array.namespace(gradient)
        if name == "threshold":
            scaled = gradient * dvalue
            return xp.sum(scaled) if self.shared_threshold else scaled
        if getattr(dvalue, "ndim", 0) and self.batch:
            dvalue = xp.expand_dims(dvalue, axis=self.axis)
        return _array.as_dtype(gradient * dvalue, gradient.dtype)


def split_axis(name: str, lead: Array, axis: int) -> tuple[int, tuple[int, ...]]:
    """The class axis counted from the front, and the shape of the other axes."""
    if not lead.ndim or not -lead.ndim <= axis < lead.ndim:
        raise ValueError(f"axis {axis} is out of bounds for {name} of shape {tuple(lead.shape)}")
    axis %= lead.ndim
    return axis, tuple(lead.shape[:axis]) + tuple(lead.shape[axis + 1 :])


def scaled_gradients(
    layout: Layout,
    needs: tuple[str, ...],
    shape: tuple[int, ...],
    gradients: tuple[Array, ...],
    dvalue: Array | float,
) -> tuple[Array, ...]:
    """Gradients in the caller's shape for the cotangent `dvalue` of a value of this shape."""
    found = () if isinstance(dvalue, int | float) else getattr(dvalue, "shape", None)
    if found is None or tuple(found) != shape:
        what = type(dvalue).__name__ if found is None else tuple(found)
        raise ValueError(f"dvalue must have the shape of the value, {shape}, not {what}")
    return tuple(layout.scaled(name, g, dvalue) for name, g in zip(needs, gradients, strict=True))
