"""A call of a row loss: the checks at the boundary, rows and classes as two axes, weights and the reduction."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from zlpr import _array, _constants, _ops, _walk
from zlpr._array import Array, Place
from zlpr.rules._layout import Layout, split_axis
from zlpr.rules._readers import Arrays, Reader, require_like

Reduction = Literal["mean", "sum", "none"]
THRESHOLD_REACH = 16.0  # e^16 leaves the sums room; what is beyond is taken off the scores


class Call(NamedTuple):
    """A call of a row loss after the checks, with rows and classes as two axes."""

    lead: Array
    rest: Arrays
    mask: Array | None
    weights: Array | None
    threshold: Array | None
    class_weight: Array | None
    temperature: float
    smoothing: float
    layout: Layout
    reduction: Reduction
    options: dict[str, Any]
    where: Place
    compute: Any
    """the dtype to compute in"""
    shares: Array
    """the cotangent of each row when that of the reduced value is 1, (B,); (1,) where it is the same for all"""

    def reduced(self, values: Array) -> Array:
        """The values of the rows, (B,), as the reduction asks."""
        xp = _array.namespace(values)
        if self.weights is not None:
            with _walk.quiet(values):
                return self._reduced_with_weights(values, self.weights)
        if self.reduction == "none":
            with _walk.quiet(values):  # a half precision may not hold the value
                return xp.reshape(_array.as_dtype(values, self.lead.dtype), self.layout.batch)
        if self.reduction == "mean" and values.shape[0] == 0:
            return xp.full((), math.nan, dtype=values.dtype, device=_array.device(values))
        total = _ops.row_sum(values)
        return total / values.shape[0] if self.reduction == "mean" else total

    def _reduced_with_weights(self, values: Array, weights: Array) -> Array:
        """A row of weight 0 is absent, also where its loss is infinite; the mean of no weight is nan."""
        xp = _array.namespace(values)
        weighted = _ops.where(weights == 0, 0.0, values * weights, values)
        if self.reduction == "none":
            return xp.reshape(_array.as_dtype(weighted, self.lead.dtype), self.layout.batch)
        total = _ops.row_sum(weighted)
        return total / _ops.row_sum(weights) if self.reduction == "mean" else total

    def has_absent_rows(self) -> bool:
        """Whether rows may have the weight 0, which count nothing, also where a gradient is infinite."""
        if self.weights is None or self.where != "host":
            return self.weights is not None
        return bool(_array.namespace(self.weights).any(self.weights == 0))

    def origin(self) -> tuple[Array | None, Array | None]:
        """The threshold a kernel is given, of magnitude at most 16, and what to take off the scores for the rest.

        Scores and threshold may be moved together without a change of the loss.
        """
        threshold = self.threshold
        if threshold is None or self.temperature != 1:
            return None, threshold
        beyond = _ops.relu(threshold - THRESHOLD_REACH) - _ops.relu(-threshold - THRESHOLD_REACH)
        if self.where == "host" and not bool(_array.namespace(beyond).any(beyond != 0)):
            return threshold, None
        return threshold - beyond, beyond

    def gradient_buffer(self, out: Array | None, name: str) -> Array | None:
        """Memory in which a host kernel may build the gradient, where the kernel's dtype is the scores'."""
        if out is not None:
            _require_writable(out, self.layout.restored(self.lead), name)
        if self.where != "host" or self.compute != self.lead.dtype:
            return None
        if out is not None and self.layout.is_plain and _array.host_view("out", out).flags.c_contiguous:
            return out
        xp = _array.namespace(self.lead)
        return xp.empty(tuple(self.lead.shape), dtype=self.lead.dtype, device=_array.device(self.lead))


def prepare(
    reader: Reader,
    arrays: Arrays,
    options: dict[str, Any],
    *,
    reduction: Reduction = "mean",
    sample_weight: Array | None = None,
    mask: Array | None = None,
    axis: int = -1,
) -> Call:
    """The checks at the boundary, and everything with rows and classes as two axes."""
    (name, *_), (lead, *rest) = reader.names, arrays
    _array.require_array(name, lead)
    _array.require_real_floating(name, lead)
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
    axis, batch = split_axis(name, lead, axis)
    threshold = options.pop("threshold", 0.0)
    layout = Layout(batch, axis, not getattr(threshold, "ndim", 0))
    rows = layout.as_rows(lead)
    weights = None if sample_weight is None else _checked_weights(sample_weight, name, lead, batch)
    return Call(
        rows,
        reader.rows(lead, tuple(rest), layout, options),
        None if mask is None else layout.as_rows(_checked_mask(mask, name, lead)),
        weights,
        _checked_threshold(threshold, lead, rows, batch),
        _checked_class_weight(options.pop("class_weight", None), lead, rows),
        _checked_temperature(options.pop("temperature", 1.0), lead),
        _checked_smoothing(options.pop("label_smoothing", 0.0)),
        layout,
        reduction,
        options,
        _array.place(lead),
        _array.compute_dtype(lead),
        _shares(rows, weights, reduction),
    )


def signature(arrays: Arrays, options: dict[str, Any]) -> Any:
    """All that `prepare` looks at in NumPy arrays and plain options, to be compared; None for any others."""
    for x in arrays:
        if type(x) is not np.ndarray:
            return None
    for value in options.values():
        if type(value) not in _PLAIN:
            return None
    found = [(x.dtype, x.shape) for x in arrays]
    return (
        (*found, *((name, type(value), value) for name, value in options.items())) if options else (*found,)
    )


_PLAIN = (float, int, bool, str, type(None))


def _shares(rows: Array, weights: Array | None, reduction: Reduction) -> Array:
    if weights is None:
        count = rows.shape[0]
        return _full_rows(rows, 1, 1.0 / count if reduction == "mean" and count else 1.0)
    with _walk.quiet(rows):
        return weights / _ops.row_sum(weights) if reduction == "mean" else weights


def _full_rows(scores: Array, rows: int, value: float) -> Array:
    xp = _array.namespace(scores)
    return xp.full((rows,), value, dtype=_array.compute_dtype(scores), device=_array.device(scores))


def _checked_smoothing(smoothing: Any) -> float:
    if not _constants.is_number(smoothing) or not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be a number in [0, 1], got {smoothing!r}")
    return float(smoothing)


def _checked_temperature(temperature: Any, lead: Array) -> float:
    if not _constants.is_number(temperature) or not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be a positive finite number, got {temperature!r}")
    if temperature == 1:
        return 1.0
    info = _array.namespace(lead).finfo(_array.compute_dtype(lead))
    if not float(info.smallest_normal) <= temperature <= float(info.max):
        raise ValueError(
            f"temperature must be a normal number of the dtype to compute in, got {temperature!r}"
        )
    return float(temperature)


def _checked_mask(mask: Array, name: str, lead: Array) -> Array:
    require_like("mask", mask, name, lead)
    if _array.kind(mask) != "bool":
        raise TypeError(f"mask must be a bool array, True where the class counts, not {mask.dtype}")
    return mask


def _checked_weights(weights: Array, name: str, lead: Array, batch: tuple[int, ...]) -> Array:
    _require_batch_shaped("sample_weight", weights, name, lead, batch)
    xp = _array.namespace(weights)
    return xp.reshape(_array.as_dtype(weights, _array.compute_dtype(lead)), (-1,))


def _require_batch_shaped(argument: str, x: Array, name: str, lead: Array, batch: tuple[int, ...]) -> None:
    _array.require_array(argument, x)
    _array.require_same_home(name, lead, argument, x)
    if tuple(x.shape) != batch:
        raise ValueError(f"{argument} must have one entry a row, shape {batch}, not {tuple(x.shape)}")


def _checked_class_weight(weight: Array | None, lead: Array, rows: Array) -> Array | None:
    if weight is None:
        return None
    _array.require_array("class_weight", weight)
    _array.require_same_home("scores", lead, "class_weight", weight)
    if tuple(weight.shape) != (rows.shape[-1],):
        raise ValueError(
            f"class_weight must have one entry a class, shape ({rows.shape[-1]},), not {tuple(weight.shape)}"
        )
    xp = _array.namespace(weight)
    weight = _array.as_dtype(weight, _array.compute_dtype(lead))
    positive = (weight > 0) & (weight < math.inf)
    if _array.place(lead) == "host" and not bool(xp.all(positive)):
        raise ValueError(
            f"class_weight must be positive and finite, got {weight[int(_ops.flat_positions(~positive)[0])]}"
        )
    return _ops.where(positive, weight, math.nan, weight)


def _checked_threshold(threshold: Any, scores: Array, rows: Array, batch: tuple[int, ...]) -> Array | None:
    """The threshold of each row, (B,), or None for zero."""
    if _constants.is_number(threshold):
        if threshold == 0:
            return None
        if abs(threshold) <= float(_array.namespace(rows).finfo(_array.compute_dtype(rows)).max):
            return _full_rows(rows, rows.shape[0], float(threshold))
    if not _array.is_array(threshold):
        raise ValueError(f"threshold must be a finite number or an array, got {threshold!r}")
    xp = _array.namespace(threshold)
    if threshold.ndim:
        _require_batch_shaped("threshold", threshold, "scores", scores, batch)
    else:
        _array.require_same_home("scores", scores, "threshold", threshold)
    flat = _array.as_dtype(threshold, _array.compute_dtype(scores))
    return xp.reshape(flat, (-1,)) if threshold.ndim else xp.broadcast_to(flat, (rows.shape[0],))


def _require_writable(out: Array, lead: Array, name: str) -> None:
    require_like("out", out, name, lead)
    if _array.place(out) != "host":
        raise TypeError("out must be an array in host memory")
    if out.dtype != lead.dtype:
        raise TypeError(f"out must have the dtype of {name}, {lead.dtype}, not {out.dtype}")
    if not _array.host_view("out", out).flags.writeable:
        raise ValueError("out must be writable, but it is read-only")
    if np.may_share_memory(_array.host_view("out", out), _array.host_view(name, lead)):
        raise ValueError(f"out must not share memory with {name}: they are read again after it is written")
