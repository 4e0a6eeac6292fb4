"""Row losses: everything that is the same for every loss, so that a loss states its formula for one block of rows.

`row_loss` adds the class axis, the mask, the sample weights, the threshold, the reduction, half precisions, the
checks at the boundary and the walk. A loss is its kernel: a function of `Rows` and of the rows' cotangent that
returns the values and the gradients together, linear in the cotangent.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from zlpr import _array, _bridges, _ops, _walk
from zlpr._array import Array, Place
from zlpr.rules._labels import MULTI_LABEL, SINGLE_LABEL
from zlpr.rules._layout import Layout, scaled_gradients, split_axis
from zlpr.rules._rule import Pullback, Rule

Reduction = Literal["mean", "sum", "none"]
THRESHOLD_REACH = 16.0  # e^16 leaves the sums room; what is beyond is taken off the scores


class Targets(Protocol):
    """How a loss reads its targets: the checks at the boundary, and the form for a block of rows."""

    def rows(self, scores: Array, targets: Array, layout: Layout) -> Array:
        """The targets with rows as their first axis; raises unless shape and dtype fit the scores."""

    def form(
        self, targets: Array, scores: Array, where: Place, smoothing: float, soft: bool
    ) -> tuple[Any, Array | None]:
        """The form the kernel works with, and which rows are valid where that cannot be raised."""


@dataclass
class Rows:
    """One block of rows as a kernel sees it, in the dtype to compute in.

    Parameters
    ----------
    scores : (B, C) array
    labels : the form of the targets that the loss asked for
    mask : (B, C) bool array or None
    threshold : (B,) array of magnitude at most 16, or None for zero
    smoothing : the label smoothing asked for
    host : whether values may be read and memory of this block's own written
    buffer : (B, C) array or None, where the gradient may be written
    needs : the names of the gradients wanted
    options : the keyword options of the loss itself

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.rules import Rows
    >>> rows = Rows(np.zeros((2, 3)), labels=None, mask=None, threshold=None, smoothing=0.0, host=True)
    >>> rows.scores.shape
    (2, 3)
    """

    scores: Array
    labels: Any
    mask: Array | None
    threshold: Array | None
    smoothing: float
    host: bool
    buffer: Array | None = None
    needs: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


Kernel = Callable[..., tuple[Array, dict[str, Array]]]


class _Call(NamedTuple):
    """A call of a row loss after the checks, with rows and classes as two axes."""

    scores: Array
    targets: Array
    mask: Array | None
    weights: Array | None
    threshold: Array | None
    layout: Layout
    reduction: Reduction
    smoothing: float
    options: dict[str, Any]

    def shares(self) -> Array:
        """The cotangent of each row when that of the reduced value is 1, (B,)."""
        if self.weights is None:
            rows = self.scores.shape[0]
            share = 1.0 / rows if self.reduction == "mean" and rows else 1.0
            return _full_rows(self.scores, share)
        with _walk.quiet(self.scores):
            return self.weights / _ops.row_sum(self.weights) if self.reduction == "mean" else self.weights

    def reduced(self, values: Array) -> Array:
        """The values of the rows, (B,), as the reduction asks."""
        xp = _array.namespace(values)
        if self.weights is not None:
            with _walk.quiet(values):
                return self._reduced_with_weights(values, self.weights)
        if self.reduction == "none":
            return xp.reshape(xp.astype(values, self.scores.dtype, copy=False), self.layout.batch)
        if self.reduction == "mean" and values.shape[0] == 0:
            return xp.full((), math.nan, dtype=values.dtype, device=_array.device(values))
        total = _ops.row_sum(values)
        return total / values.shape[0] if self.reduction == "mean" else total

    def _reduced_with_weights(self, values: Array, weights: Array) -> Array:
        """A row of weight 0 is absent, also where its loss is infinite; the mean of no weight is nan."""
        xp = _array.namespace(values)
        weighted = _ops.where(weights == 0, 0.0, values * weights, values)
        if self.reduction == "none":
            return xp.reshape(xp.astype(weighted, self.scores.dtype, copy=False), self.layout.batch)
        total = _ops.row_sum(weighted)
        return total / _ops.row_sum(weights) if self.reduction == "mean" else total


def _full_rows(scores: Array, value: float) -> Array:
    xp = _array.namespace(scores)
    dtype = _array.compute_dtype(scores)
    return xp.full((scores.shape[0],), value, dtype=dtype, device=_array.device(scores))


class RowLoss(Rule):
    """A loss of the scores of each row, with its gradient, Hessian diagonal and Hessian-vector product.

    Made by `row_loss`; every loss of `zlpr.losses` is one. Calls take ``reduction``, ``sample_weight``, ``mask``
    and ``axis`` beside the options of the loss itself.

    Parameters
    ----------
    kernel : callable
        As `row_loss` describes it.
    wrt : sequence of str
        Names of the differentiable inputs, the scores first.
    targets : object
        How the loss reads its targets.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_loss
    >>> value, gradient, hessian = zlpr_loss.value_grad_hess(np.zeros((1, 2)), np.asarray([[True, False]]))
    >>> gradient, hessian
    (array([[-0.5,  0.5]]), array([[0.25, 0.25]]))
    """

    def __init__(self, kernel: Kernel, *, wrt: Sequence[str], targets: Targets) -> None:
        functools.update_wrapper(self, kernel)
        self.kernel, self.targets = kernel, targets
        self.wrt = tuple(wrt)
        self._positions = {"scores": 0, "targets": 1, "threshold": sys.maxsize}
        own = [p for p in inspect.signature(kernel).parameters.values() if p.kind is p.KEYWORD_ONLY]
        self._own = {p.name: p.default for p in own}
        self.__signature__ = _public_signature(own)
        self._diagonal: Callable[..., Array]
        self._product: Callable[..., Array]

    def diagonal(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Decorator: the diagonal of each row's Hessian, (B, C)."""
        self._diagonal = function
        return function

    def product(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Decorator: each row's Hessian applied to a vector, (B, C)."""
        self._product = function
        return function

    @property
    def default_argnums(self) -> Any:
        """What `vjp` differentiates by default: the scores."""
        return 0

    def __call__(self, scores: Array, targets: Array, **opts: Any) -> Array:
        """The value."""
        return super().__call__(scores, targets, **opts)

    def vjp(  # type: ignore[override]  # a row loss names its two arguments
        self, scores: Array, targets: Array, *, argnums: Any = None, **opts: Any
    ) -> tuple[Array, Pullback]:
        """The value, and the pullback from its cotangent to the gradient of the scores.

        Parameters
        ----------
        scores, targets, **opts
            As for the value.
        argnums : int, str, or a sequence of them, optional
            The differentiable inputs wanted, by name or by their position in `wrt`; the scores by default.

        Returns
        -------
        value : array
        pullback : callable
            ``pullback(dvalue)`` gives an array for one input, a tuple for several. It may be called twice.
        """
        return super().vjp(scores, targets, argnums=argnums, **opts)

    def forward(
        self, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
    ) -> tuple[Array, Any]:
        value, gradients, scale = self.value_and_saved(args, opts, needs)
        return value, lambda dvalue: scale(gradients, dvalue)

    def value_and_saved(
        self, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
    ) -> tuple[Array, tuple[Array, ...], Any]:
        value, gradients = _bridges.compiled(args[0], self._value_and_gradients, needs, None, args, opts)
        return (
            value,
            gradients,
            functools.partial(scaled_gradients, Layout.of(args, opts), needs, tuple(value.shape)),
        )

    def value_and_grad(  # type: ignore[override]  # a row loss names its two arguments
        self, scores: Array, targets: Array, *, argnums: Any = 0, out: Array | None = None, **opts: Any
    ) -> tuple[Array, Any]:
        """The value and its gradient; with ``reduction="none"``, each row's value and own gradient.

        Parameters
        ----------
        scores, targets, **opts
            As for the value.
        argnums : int, str, or a sequence of them, default 0
            The differentiable inputs wanted, by name or by their position in `wrt`.
        out : host array like the scores, optional
            Where the gradient with respect to the scores is written; nothing else of that size is allocated.

        Returns
        -------
        value : array
        gradient : array, or a tuple where several inputs were asked for
        """
        needs, single = self.select(argnums)
        args = (scores, targets)
        value, gradients = _bridges.compiled(scores, self._value_and_gradients, needs, out, args, opts)
        if "threshold" in needs:
            ones = _array.namespace(value).ones_like(value)
            gradients = scaled_gradients(Layout.of(args, opts), needs, tuple(value.shape), gradients, ones)
        return value, gradients[0] if single else gradients

    def value_grad_hess(self, scores: Array, targets: Array, **opts: Any) -> Any:
        """The value, its gradient and the diagonal of its Hessian, both like the scores.

        Parameters
        ----------
        scores, targets, **opts
            As for the value.

        Returns
        -------
        value, gradient, hessian_diagonal : array
        """
        return _bridges.compiled(scores, self._value_grad_hess, scores, targets, opts)

    def hvp(self, scores: Array, targets: Array, v: Array, **opts: Any) -> Array:
        """The Hessian applied to `v`, like the scores.

        Parameters
        ----------
        scores, targets, **opts
            As for the value.
        v : array like the scores

        Returns
        -------
        product : array like the scores
        """
        return _bridges.compiled(scores, self._hvp, scores, targets, v, opts)

    def _value_and_gradients(
        self, needs: tuple[str, ...], out: Array | None, args: tuple[Any, ...], opts: dict[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        call = self._prepare(*args, **opts)
        layout = call.layout
        if not needs:
            return call.reduced(self._run(call, None, ())[0]), ()
        buffer = _gradient_buffer(call, out) if "scores" in needs else None
        values, *gradients = self._run(call, call.shares(), needs, buffer)
        shaped = tuple(
            layout.restored(g) if g.ndim == 2 else _array.namespace(g).reshape(g, layout.batch)
            for g in gradients
        )
        if out is not None and "scores" in needs:
            shaped = tuple(
                _written(out, g) if n == "scores" else g for n, g in zip(needs, shaped, strict=True)
            )
        return call.reduced(values), shaped

    def _value_grad_hess(
        self, scores: Array, targets: Array, opts: dict[str, Any]
    ) -> tuple[Array, Array, Array]:
        call = self._prepare(scores, targets, **opts)

        def kernel(rows: Rows, shares: Array) -> tuple[Array, ...]:
            values, gradients = self.kernel(rows, shares, **rows.options)
            return values, gradients["scores"], self._diagonal(rows, **rows.options) * shares[:, None]

        values, gradient, diagonal = self._walk(kernel, call, ("scores",), call.shares())
        return call.reduced(values), call.layout.restored(gradient), call.layout.restored(diagonal)

    def _hvp(self, scores: Array, targets: Array, v: Array, opts: dict[str, Any]) -> Array:
        call = self._prepare(scores, targets, **opts)
        _require_like_scores("v", v, scores)

        def kernel(rows: Rows, shares: Array, v: Array) -> tuple[Array, ...]:
            vector = _array.namespace(v).astype(v, rows.scores.dtype, copy=False)
            return (self._product(rows, vector, **rows.options) * shares[:, None],)

        (product,) = self._walk(kernel, call, ("scores",), call.shares(), call.layout.as_rows(v))
        return call.layout.restored(product)

    def _run(
        self, call: _Call, shares: Array | None, needs: tuple[str, ...], buffer: Array | None = None
    ) -> Any:
        def kernel(rows: Rows, shares: Array | None) -> tuple[Array, ...]:
            values, gradients = self.kernel(rows, shares, **rows.options)
            return values, *(gradients[name] for name in needs)

        memory = (None, *(buffer if name == "scores" else None for name in needs))
        return self._walk(kernel, call, needs, shares, memory=memory)

    def _walk(
        self,
        kernel: Any,
        call: _Call,
        needs: tuple[str, ...],
        *extra: Array | None,
        memory: Sequence[Array | None] = (),
    ) -> Any:
        """`kernel` over blocks of the call's rows; every two-dimensional result goes back to the scores' dtype."""
        dtype, compute = call.scores.dtype, _array.compute_dtype(call.scores)
        where = _array.place(call.scores)
        threshold, offset = _reachable(call.threshold, where)

        def block(
            scores: Array,
            targets: Array,
            mask: Array | None,
            threshold: Array | None,
            offset: Array | None,
            *rest: Any,
        ) -> tuple[Array | None, ...]:
            *extra, places = rest
            buffer = next((place for place in places if place is not None), None)
            xp = _array.namespace(scores)
            scores = xp.astype(scores, compute, copy=False)
            if offset is not None:
                scores = scores - offset[:, None]
            if mask is not None and targets.ndim == 2:
                targets = xp.where(mask, targets, xp.zeros_like(targets))
            labels, valid = self.targets.form(targets, scores, where, call.smoothing, "targets" in needs)
            rows = Rows(
                scores, labels, mask, threshold, call.smoothing, where == "host", buffer, needs, call.options
            )
            results = kernel(rows, *extra)
            if valid is not None:
                results = tuple(_nan_unless(valid, r) for r in results)
            return tuple(r if r.ndim == 1 else xp.astype(r, dtype, copy=False) for r in results)

        return _walk.walk_rows(
            block, call.scores, call.targets, call.mask, threshold, offset, *extra, memory=memory
        )

    def _prepare(
        self,
        scores: Array,
        targets: Array,
        *,
        reduction: Reduction = "mean",
        sample_weight: Array | None = None,
        mask: Array | None = None,
        axis: int = -1,
        **options: Any,
    ) -> _Call:
        """The checks at the boundary, and everything with rows and classes as two axes."""
        _array.require_array("scores", scores)
        _array.require_real_floating("scores", scores)
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f'reduction must be "mean", "sum" or "none", not {reduction!r}')
        axis, batch = split_axis(scores, axis)
        _array.require_array("targets", targets)
        _array.require_same_home("scores", scores, "targets", targets)
        options = self._with_defaults(options)
        smoothing = options.pop("label_smoothing", 0.0)
        if not isinstance(smoothing, int | float) or not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"label_smoothing must be a number in [0, 1], got {smoothing!r}")
        smoothing = float(smoothing)
        threshold = options.pop("threshold", 0.0)
        layout = Layout(batch, axis, not getattr(threshold, "ndim", 0))
        rows = layout.as_rows(scores)
        return _Call(
            rows,
            self.targets.rows(scores, targets, layout),
            None if mask is None else layout.as_rows(_checked_mask(mask, scores)),
            None if sample_weight is None else _checked_weights(sample_weight, scores, batch),
            _checked_threshold(threshold, scores, rows, batch),
            layout,
            reduction,
            smoothing,
            options,
        )

    def _with_defaults(self, options: dict[str, Any]) -> dict[str, Any]:
        unknown = options.keys() - self._own.keys()
        if unknown:
            raise TypeError(f"{self.__name__} got an unexpected keyword argument {sorted(unknown)[0]!r}")
        return {**self._own, **options}


_TARGETS: dict[str, Targets] = {"multi-label": MULTI_LABEL, "single-label": SINGLE_LABEL}


def row_loss(
    *, wrt: Sequence[str], targets: Literal["multi-label", "single-label"]
) -> Callable[[Kernel], RowLoss]:
    """Decorator: turn the kernel of a loss, for one block of rows, into a `RowLoss`.

    Parameters
    ----------
    wrt : sequence of str
        Names of the differentiable inputs, the scores first.
    targets : {"multi-label", "single-label"}
        Hard or soft labels shaped like the scores; or class indices or distributions.

    Returns
    -------
    callable
        Takes ``kernel(rows, shares, **options) -> (values, gradients)``: the values (B,) and, unless the
        cotangents `shares` are None, the gradients that ``rows.needs`` names, times the shares. ``threshold`` and
        ``label_smoothing`` among the options are folded into the rows; the kernel is not given them.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.rules import row_loss
    >>> @row_loss(wrt=("scores",), targets="multi-label")
    ... def squared_error(rows, shares):
    ...     signs = rows.labels.dense().folded(np.ones_like(rows.scores), -1)  # 1 for negatives, -1 for positives
    ...     errors = np.where(rows.mask if rows.mask is not None else True, rows.scores + signs, 0.0)
    ...     values = (errors * errors).sum(axis=-1)
    ...     return values, {} if shares is None else {"scores": 2 * errors * shares[:, None]}
    >>> squared_error.value_and_grad(np.zeros((1, 2)), np.asarray([[True, False]]))
    (np.float64(2.0), array([[-2.,  2.]]))
    """
    return functools.partial(RowLoss, wrt=wrt, targets=_TARGETS[targets])


def _public_signature(own: list[inspect.Parameter]) -> inspect.Signature:
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = {"reduction": "mean", "sample_weight": None, "mask": None, "axis": -1}
    return inspect.Signature(
        [
            *(
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for name in ("scores", "targets")
            ),
            *own,
            *(inspect.Parameter(name, keyword, default=default) for name, default in shared.items()),
        ]
    )


def _require_like_scores(name: str, x: Array, scores: Array) -> None:
    _array.require_array(name, x)
    _array.require_same_home("scores", scores, name, x)
    if tuple(x.shape) != tuple(scores.shape):
        raise ValueError(f"{name} must have the shape of scores, {tuple(scores.shape)}, not {tuple(x.shape)}")


def _checked_mask(mask: Array, scores: Array) -> Array:
    _require_like_scores("mask", mask, scores)
    if _array.kind(mask) != "bool":
        raise TypeError(f"mask must be a bool array, True where the class counts, not {mask.dtype}")
    return mask


def _checked_weights(weights: Array, scores: Array, batch: tuple[int, ...]) -> Array:
    _require_batch_shaped("sample_weight", weights, scores, batch)
    xp = _array.namespace(weights)
    return xp.reshape(xp.astype(weights, _array.compute_dtype(scores), copy=False), (-1,))


def _require_batch_shaped(name: str, x: Array, scores: Array, batch: tuple[int, ...]) -> None:
    _array.require_array(name, x)
    _array.require_same_home("scores", scores, name, x)
    if tuple(x.shape) != batch:
        raise ValueError(f"{name} must have one entry a row, shape {batch}, not {tuple(x.shape)}")


def _checked_threshold(threshold: Any, scores: Array, rows: Array, batch: tuple[int, ...]) -> Array | None:
    """The threshold of each row, (B,), or None for zero."""
    if not _array.is_array(threshold):
        if not isinstance(threshold, int | float | np.number) or not math.isfinite(threshold):
            raise ValueError(f"threshold must be a finite number or an array, got {threshold!r}")
        return _full_rows(rows, float(threshold)) if threshold else None
    xp = _array.namespace(threshold)
    shared = threshold.ndim == 0
    if not shared:
        _require_batch_shaped("threshold", threshold, scores, batch)
    else:
        _array.require_same_home("scores", scores, "threshold", threshold)
    flat = xp.astype(threshold, _array.compute_dtype(scores), copy=False)
    return xp.reshape(flat, (-1,)) if threshold.ndim else xp.broadcast_to(flat, (rows.shape[0],))


def _reachable(threshold: Array | None, where: Place) -> tuple[Array | None, Array | None]:
    """A threshold of magnitude at most 16, and what to take off the scores for the rest.

    Scores and threshold may be moved together without a change of the loss.
    """
    if threshold is None:
        return None, None
    beyond = _ops.relu(threshold - THRESHOLD_REACH) - _ops.relu(-threshold - THRESHOLD_REACH)
    if where == "host" and not bool(_array.namespace(beyond).any(beyond != 0)):
        return threshold, None
    return threshold - beyond, beyond


def _nan_unless(valid: Array, x: Array) -> Array:
    xp = _array.namespace(x)
    return _ops.where(xp.reshape(valid, (-1,) + (1,) * (x.ndim - 1)), x, math.nan, x)


def _gradient_buffer(call: _Call, out: Array | None) -> Array | None:
    """Memory in which a host kernel may build the gradient, where the kernel's dtype is the scores'."""
    if out is not None:
        _require_like_scores("out", out, call.layout.restored(call.scores))
        if _array.place(out) != "host":
            raise TypeError("out must be an array in host memory")
        if out.dtype != call.scores.dtype:
            raise TypeError(f"out must have the dtype of scores, {call.scores.dtype}, not {out.dtype}")
        if not _array.host_view("out", out).flags.writeable:
            raise ValueError("out must be writable, but it is read-only")
        if np.may_share_memory(_array.host_view("out", out), _array.host_view("scores", call.scores)):
            raise ValueError("out must not share memory with scores: they are read again after it is written")
    if _array.place(call.scores) != "host" or _array.is_half(call.scores):
        return None
    if out is not None and call.layout.is_plain:
        return out
    return _array.namespace(call.scores).empty_like(call.scores)


def _written(out: Array, gradient: Array) -> Array:
    if gradient is not out:
        out[...] = gradient
    return out
