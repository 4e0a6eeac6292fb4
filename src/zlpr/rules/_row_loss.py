"""Row losses: everything that is the same for every loss, so that a loss states its formula for one block of rows.

`row_loss` adds the class axis, the mask, the sample weights, the threshold, the temperature, the reduction, half
precisions, the checks at the boundary and the walk. A loss is its kernel: a function of `Rows` and of the rows'
cotangent that returns the values and the gradients together, linear in the cotangent.
"""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from zlpr import _array, _bridges, _ops, _walk
from zlpr._array import Array
from zlpr.rules._call import Call, prepare, signature
from zlpr.rules._layout import Layout, scaled_gradients
from zlpr.rules._readers import Companions, Folding, MultiLabel, Positives, Reader, SingleLabel, require_like
from zlpr.rules._rule import Rule

Curvature = Literal["exact", "majorant"]


@dataclass
class Rows:
    """One block of rows as a kernel sees it, in the dtype to compute in.

    Parameters
    ----------
    scores : (B, C) array
    labels : the form of the targets that the loss asked for, or a tuple of its other arrays, like the scores
    mask : (B, C) bool array or None
    threshold : (B,) array of magnitude at most 16, or None for zero
    smoothing : the label smoothing asked for
    host : whether values may be read and memory of this block's own written
    buffer : (B, C) array or None, where the gradient may be written
    needs : the names of the gradients wanted
    low : (B, C) array or None, what rounding took off the scores when a far threshold or a temperature moved them
    class_weight : (C,) array or None, already in the weights of the labels
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
    low: Array | None = None
    class_weight: Array | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def lies_within(self, bound: float, x: Array) -> bool:
        """Whether all entries of a host array are smaller than a bound; False where that cannot be read."""
        return self.host and 0 not in x.shape and bool(_ops.extent(x) < bound)

    def is_first_order(self, low: Array) -> bool:
        """Whether ``e^low`` is known to be ``1 + low``."""
        return self.lies_within(2.0**-12 if _array.itemsize(low) == 4 else 2.0**-26, low)

    def counted(self, terms: Array) -> Array:
        """Terms of the classes, 0 in place of those that do not count, (B, C)."""
        return terms if self.mask is None else _ops.where(self.mask, terms, 0.0, terms)


Kernel = Callable[..., tuple[Array, dict[str, Array]]]


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
    reader : object
        How the loss reads its arrays.
    separable : bool
        Whether the Hessian is its diagonal.
    workspace : float
        Arrays like the scores that the kernel holds at a time, in those that a plain loss holds.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import zlpr_loss
    >>> value, gradient, hessian = zlpr_loss.value_grad_hess(np.zeros((1, 2)), np.asarray([[True, False]]))
    >>> gradient, hessian
    (array([[-0.5,  0.5]]), array([[0.25, 0.25]]))
    """

    def __init__(
        self, kernel: Kernel, *, wrt: Sequence[str], reader: Reader, separable: bool, workspace: float
    ) -> None:
        functools.update_wrapper(self, kernel)
        self.kernel, self.reader, self.wrt = kernel, reader, tuple(wrt)
        self.names, self.separable, self.workspace = reader.names, separable, workspace
        self._positions = {
            name: self.names.index(name) if name in self.names else sys.maxsize for name in wrt
        }
        own = [p for p in inspect.signature(kernel).parameters.values() if p.kind is p.KEYWORD_ONLY]
        self._own = {p.name: p.default for p in own}
        self._calls: dict[Any, Call] = {}
        self.__signature__ = _public_signature(self.names, own)
        self._diagonal: Callable[..., Array]
        self._product: Callable[..., Array]

    def diagonal(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Decorator: the diagonal of each row's Hessian, (B, C)."""
        self._diagonal = function
        if self.separable:
            self._product = lambda rows, v, **options: function(rows, **options) * v
        return function

    def product(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Decorator: each row's Hessian applied to a vector, (B, C)."""
        self._product = function
        return function

    @property
    def default_argnums(self) -> Any:
        """What `vjp` differentiates by default: the scores; of a loss without targets, every array."""
        arrays = tuple(i for i, name in enumerate(self.wrt) if name in self.names)
        return arrays if isinstance(self.reader, Companions) and len(arrays) > 1 else 0

    def __call__(self, *args: Any, **opts: Any) -> Array:
        """The value."""
        if len(args) != len(self.names):
            args, opts = self._bound(args, opts)
        return super().__call__(*args, **opts)

    def forward(
        self, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
    ) -> tuple[Array, Any]:
        value, gradients, scale = self.value_and_saved(*self._bound(args, opts), needs)
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

    def value_and_grad(
        self, *args: Any, argnums: Any = 0, out: Array | None = None, **opts: Any
    ) -> tuple[Array, Any]:
        """The value and its gradient; with ``reduction="none"``, each row's value and own gradient.

        Parameters
        ----------
        *args, **opts
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
        args, opts = self._bound(args, opts)
        needs, single = self.select(argnums)
        value, gradients = _bridges.compiled(args[0], self._value_and_gradients, needs, out, args, opts)
        if "threshold" in needs:
            ones = _array.namespace(value).ones_like(value)
            gradients = scaled_gradients(Layout.of(args, opts), needs, tuple(value.shape), gradients, ones)
        return value, gradients[0] if single else gradients

    def value_grad_hess(self, *args: Any, curvature: Curvature = "exact", **opts: Any) -> Any:
        """The value, its gradient and the diagonal of its Hessian, the latter two like the scores.

        Parameters
        ----------
        *args, **opts
            As for the value.
        curvature : {"exact", "majorant"}, default "exact"
            The diagonal itself, which may be negative where the loss is not convex; or a diagonal matrix that is
            nowhere below the Hessian, and not negative, as boosting by Newton steps wants it.

        Returns
        -------
        value, gradient, hessian_diagonal : array
        """
        args, opts = self._bound(args, opts)
        if curvature not in ("exact", "majorant"):
            raise ValueError(f'curvature must be "exact" or "majorant", not {curvature!r}')
        return _bridges.compiled(args[0], self._value_grad_hess, curvature, args, opts)

    def hvp(self, *args: Any, **opts: Any) -> Array:
        """The Hessian with respect to the scores, applied to a vector.

        Parameters
        ----------
        *args
            As for the value, and after them `v`, an array like the scores.
        **opts
            As for the value; `v` may be given by name.

        Returns
        -------
        product : array like the scores
        """
        *arrays, v = args if "v" not in opts else (*args, opts.pop("v"))
        arguments, opts = self._bound(tuple(arrays), opts)
        return _bridges.compiled(arguments[0], self._hvp, arguments, v, opts)

    def _bound(self, args: tuple[Any, ...], opts: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arrays of a call in their order, also those given by name, and the other options."""
        if len(args) == len(self.names):
            return args, opts
        named = self.names[len(args) :]
        if len(args) > len(self.names) or not all(name in opts for name in named):
            raise TypeError(
                f"{self.__name__} takes {len(self.names)} arrays ({', '.join(self.names)}) and the rest by keyword, "
                f"but got {len(args)} and {', '.join(opts) or 'no keyword'}"
            )
        rest = {name: value for name, value in opts.items() if name not in named}
        return (*args, *(opts[name] for name in named)), rest

    def _value_and_gradients(
        self, needs: tuple[str, ...], out: Array | None, args: tuple[Any, ...], opts: dict[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        call = self._prepared(args, opts)
        layout, lead_name = call.layout, self.wrt[0]
        if not needs:
            return call.reduced(self._run(call, None, ())[0]), ()
        buffer = call.gradient_buffer(out, lead_name) if lead_name in needs else None
        values, *gradients = self._run(call, call.shares, needs, buffer)
        if not layout.is_plain:
            gradients = [
                layout.restored(g) if g.ndim == 2 else _array.namespace(g).reshape(g, layout.batch)
                for g in gradients
            ]
        if out is not None and lead_name in needs:
            gradients = [
                _written(out, g) if n == lead_name else g for n, g in zip(needs, gradients, strict=True)
            ]
        return call.reduced(values), tuple(gradients)

    def _value_grad_hess(
        self, curvature: Curvature, args: tuple[Any, ...], opts: dict[str, Any]
    ) -> tuple[Array, Array, Array]:
        call, lead_name = self._prepared(args, opts), self.wrt[0]

        def kernel(rows: Rows, shares: Array) -> tuple[Array, ...]:
            values, gradients = self.kernel(rows, shares, **rows.options)
            diagonal = self._diagonal(rows, **rows.options)
            if curvature == "majorant":
                diagonal = _ops.relu(diagonal) * (1.0 if self.separable else 2.0)
            shares = shares / call.temperature if call.temperature != 1 else shares
            return values * call.temperature, gradients[lead_name], diagonal * shares[:, None]

        values, gradient, diagonal = self._walk(kernel, call, (lead_name,), call.shares)
        return call.reduced(values), call.layout.restored(gradient), call.layout.restored(diagonal)

    def _hvp(self, args: tuple[Any, ...], v: Array, opts: dict[str, Any]) -> Array:
        call = self._prepared(args, opts)
        require_like("v", v, self.names[0], args[0])

        def kernel(rows: Rows, shares: Array, v: Array) -> tuple[Array, ...]:
            vector = _array.as_dtype(v, rows.scores.dtype)
            return (self._product(rows, vector, **rows.options) * (shares / call.temperature)[:, None],)

        (product,) = self._walk(kernel, call, (self.wrt[0],), call.shares, call.layout.as_rows(v))
        return call.layout.restored(product)

    def _run(
        self, call: Call, shares: Array | None, needs: tuple[str, ...], buffer: Array | None = None
    ) -> Any:
        def kernel(rows: Rows, shares: Array | None) -> tuple[Array, ...]:
            values, gradients = self.kernel(rows, shares, **rows.options)
            wanted = [gradients[name] for name in needs]
            if call.temperature == 1:
                return values, *wanted
            scaled = [
                g * (call.temperature if n == "targets" else 1.0) for n, g in zip(needs, wanted, strict=True)
            ]
            return values * call.temperature, *scaled

        memory = () if buffer is None else (*(None,) * (1 + needs.index(self.wrt[0])), buffer)
        return self._walk(kernel, call, needs, shares, memory=memory)

    def _walk(
        self,
        kernel: Any,
        call: Call,
        needs: tuple[str, ...],
        *extra: Array | None,
        memory: Sequence[Array | None] = (),
    ) -> Any:
        """`kernel` over blocks of the call's rows; every two-dimensional result goes back to the scores' dtype.

        Of the memory only the last one is the scores' gradient's.
        """
        dtype, compute, where, n_rest = call.lead.dtype, call.compute, call.where, len(call.rest)
        folding = Folding(call.smoothing, call.class_weight, "targets" in needs)

        def block(
            scores: Array,
            mask: Array | None,
            threshold: Array | None,
            offset: Array | None,
            *others: Any,
        ) -> tuple[Array | None, ...]:
            rest, extra, places = others[:n_rest], others[n_rest:-1], others[-1]
            buffer, low = (places[-1] if places else None), None
            scores = _array.as_dtype(scores, compute)
            if moved:
                scores, low = _moved(scores, offset, call.temperature)
            labels, valid = self.reader.form(rest, scores, mask, where, folding)
            rows = Rows(
                *(scores, labels, mask, threshold, call.smoothing, where == "host", buffer, needs),
                *(low, call.class_weight, call.options),
            )
            results = kernel(rows, *extra)
            if absent:
                results = _instead(0.0, extra[0] == 0, results)
            if valid is not None:
                results = _instead(math.nan, ~valid, results)
            return results if dtype == compute else _rounded(results, dtype)

        absent = extra[0] is not None and call.has_absent_rows()
        threshold, offset = call.origin()
        moved = offset is not None or call.temperature != 1
        inputs = (call.lead, call.mask, threshold, offset, *call.rest, *extra)
        return _walk.walk_rows(block, *inputs, memory=memory, workspace=self.workspace)

    def _prepared(self, args: tuple[Any, ...], opts: dict[str, Any]) -> Call:
        """The call after the checks, which of a small array take as long as the work: like calls pass them once."""
        like = signature(args, opts)
        known = None if like is None else self._calls.get(like)
        if known is not None:
            options = {**self._own, **opts} if opts else self._own
            return Call(args[0], self.reader.values(args[0], args[1:], known.layout, options), *known[2:])
        call = self._checked(args, opts)
        if like is not None and call.layout.is_plain and call.threshold is None:
            if len(self._calls) >= _CALLS_KEPT:
                self._calls.clear()
            call.shares.flags.writeable = False  # all like calls are given the same one
            self._calls[like] = call._replace(lead=None, rest=())
        return call

    def _checked(self, args: tuple[Any, ...], opts: dict[str, Any]) -> Call:
        own: dict[str, Any] = dict(self._own)
        shared: dict[str, Any] = {}
        for name, value in opts.items():
            if name not in own and name not in _SHARED:
                raise TypeError(f"{self.__name__} got an unexpected keyword argument {name!r}")
            (own if name in own else shared)[name] = value
        return prepare(self.reader, args, own, **shared)


_CALLS_KEPT = 256
_SHARED: dict[str, Any] = {"reduction": "mean", "sample_weight": None, "mask": None, "axis": -1}
_READERS: dict[str, Reader] = {
    "multi-label": MultiLabel(),
    "single-label": SingleLabel(),
    "positives": Positives(),
}


def row_loss(
    *,
    wrt: Sequence[str],
    targets: Literal["multi-label", "single-label", "positives"] | None = None,
    arrays: Sequence[str] = (),
    separable: bool = False,
    workspace: float = 1.0,
) -> Callable[[Kernel], RowLoss]:
    """Decorator: turn the kernel of a loss, for one block of rows, into a `RowLoss`.

    Parameters
    ----------
    wrt : sequence of str
        Names of the differentiable inputs, the scores first.
    targets : {"multi-label", "single-label", "positives"}, optional
        Hard or soft labels shaped like the scores; class indices or distributions; or indices of the positive
        classes.
    arrays : sequence of str, optional
        Instead of targets: the names of the arrays the loss takes, all floating and of one shape. The kernel gets
        the first as ``rows.scores`` and a tuple of the others as ``rows.labels``.
    separable : bool, default False
        Whether the Hessian of a row is its diagonal, so that it needs no product of its own.
    workspace : float, default 1.0
        By how much blocks are smaller than those of a plain loss, for a kernel that holds more arrays at a time.

    Returns
    -------
    callable
        Takes ``kernel(rows, shares, **options) -> (values, gradients)``: the values (B,) and, unless the
        cotangents `shares` are None, the gradients that ``rows.needs`` names, times the shares, which are (B,) or, the
        same for all rows, (1,), and not to be written. ``threshold``,
        ``temperature``, ``class_weight`` and ``label_smoothing`` among the options are folded into the rows; the
        kernel is not given them.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.rules import row_loss
    >>> @row_loss(wrt=("scores",), targets="multi-label")
    ... def squared_error(rows, shares):
    ...     signs = rows.labels.dense().folded(np.ones_like(rows.scores), -1)  # 1 for negatives, -1 for positives
    ...     errors = rows.counted(rows.scores + signs)
    ...     values = (errors * errors).sum(axis=-1)
    ...     return values, {} if shares is None else {"scores": 2 * errors * shares[:, None]}
    >>> squared_error.value_and_grad(np.zeros((1, 2)), np.asarray([[True, False]]))
    (np.float64(2.0), array([[-2.,  2.]]))
    """
    if (targets is None) == (not arrays):
        raise ValueError(f"row_loss takes either targets or arrays, got {targets!r} and {tuple(arrays)}")
    reader = Companions(tuple(arrays)) if targets is None else _READERS[targets]
    return functools.partial(RowLoss, wrt=wrt, reader=reader, separable=separable, workspace=workspace)


def _public_signature(names: tuple[str, ...], own: list[inspect.Parameter]) -> inspect.Signature:
    by_place, by_name = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    return inspect.Signature(
        [
            *(inspect.Parameter(name, by_place) for name in names),
            *own,
            *(inspect.Parameter(name, by_name, default=default) for name, default in _SHARED.items()),
        ]
    )


def _moved(scores: Array, offset: Array | None, temperature: float) -> tuple[Array, Array | None]:
    """``(scores - offset) / temperature``, and what rounding took off it."""
    low = None
    if offset is not None:
        scores, low = _ops.exact_difference(scores, offset[:, None])
    if temperature != 1:
        scores, rounding = _ops.exact_quotient(scores, temperature)
        low = rounding if low is None else rounding + low / temperature
    return scores, low


def _rounded(results: tuple[Array, ...], dtype: Any) -> tuple[Array, ...]:
    """Gradients in the dtype of the scores; values stay in the dtype they were computed in."""
    return tuple(r if r.ndim == 1 else _array.as_dtype(r, dtype) for r in results)


def _instead(number: float, rows: Array, results: tuple[Array, ...]) -> tuple[Array, ...]:
    """A number in place of these rows' results, (B,) or (B, C) each."""
    return tuple(_ops.where(rows if x.ndim == 1 else rows[:, None], number, x, x) for x in results)


def _written(out: Array, gradient: Array) -> Array:
    if gradient is not out:
        out[...] = gradient
    return out
