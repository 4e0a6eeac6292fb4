"""Rules of elementwise functions, which have a second derivative besides."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from zlpr import _array, _bridges, _walk
from zlpr._array import Array
from zlpr.rules._rule import Pullback, Rule

__all__ = ["Elementwise", "elementwise"]


class Elementwise(Rule):
    """A rule of one array, entry by entry, with the second derivative. Made by `elementwise`.

    Parameters
    ----------
    function : callable
        ``function(x, **options) -> (value, pullback)`` for float32 and float64.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import softplus
    >>> [float(part[0]) for part in softplus.value_grad_hess(np.asarray([0.0]))][1:]
    [0.5, 0.25]
    """

    def __init__(self, function: Callable[..., tuple[Array, Pullback]]) -> None:
        super().__init__(_checked(function), tuple(inspect.signature(function).parameters)[:1])
        self._diagonal: Callable[..., Array] | None = None

    def diagonal(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Decorator: the second derivative, ``function(x, **options)``, for float32 and float64."""
        self._diagonal = function
        return function

    def value_grad_hess(self, x: Array, **opts: Any) -> tuple[Array, Array, Array]:
        """The value, its derivative and its second derivative, each like x.

        Parameters
        ----------
        x, **opts
            As for the value.

        Returns
        -------
        value, derivative, second_derivative : array
            The last one is the diagonal of the Hessian of the sum of the value, which has nothing beside it.

        Raises
        ------
        NotImplementedError
            If the rule was made without a second derivative.
        """
        _require_floating(x)
        if self._diagonal is None:
            raise NotImplementedError(
                f"{self.__name__} has no second derivative; @{self.__name__}.diagonal gives it one"
            )
        value, gradient, diagonal = _bridges.compiled(x, self._value_grad_hess, self._diagonal, x, opts)
        return value, gradient, diagonal

    def _value_grad_hess(
        self, second: Callable[..., Array], x: Array, opts: dict[str, Any]
    ) -> tuple[Array, Array, Array]:
        value, gradient = self.value_and_grad(x, **opts)
        xp = _array.namespace(x)
        with _walk.quiet(x):
            diagonal = second(xp.astype(x, _array.compute_dtype(x), copy=False), **opts)
            return value, gradient, xp.astype(diagonal, x.dtype, copy=False)


def elementwise(function: Callable[..., tuple[Array, Pullback]]) -> Elementwise:
    """Decorator: an elementwise formula becomes a rule with checks, half precisions and quiet limits.

    Parameters
    ----------
    function : callable
        ``function(x, **options) -> (value, pullback)`` of one array, for float32 and float64: half precisions are
        computed in float32.

    Returns
    -------
    Elementwise
        A `Rule`; with ``@f.diagonal`` above a function for the second derivative also ``f.value_grad_hess(x)``.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.rules import elementwise
    >>> @elementwise
    ... def cube(x):
    ...     def cube_pullback(dy):
    ...         return 3 * x * x * dy
    ...     return x * x * x, cube_pullback
    >>> @cube.diagonal
    ... def cube_diagonal(x):
    ...     return 6 * x
    >>> cube.value_grad_hess(np.asarray([2.0]))
    (array([8.]), array([12.]), array([12.]))
    """
    return Elementwise(function)


def _checked(function: Callable[..., tuple[Array, Pullback]]) -> Callable[..., tuple[Array, Pullback]]:
    @functools.wraps(function)
    def checked(x: Array, **opts: Any) -> tuple[Array, Pullback]:
        _require_floating(x)
        xp, compute = _array.namespace(x), _array.compute_dtype(x)
        with _walk.quiet(x):
            y, pullback = function(xp.astype(x, compute, copy=False), **opts)

        def checked_pullback(dy: Array) -> Array:
            with _walk.quiet(x):
                return xp.astype(pullback(xp.astype(dy, compute, copy=False)), x.dtype, copy=False)

        return xp.astype(y, x.dtype, copy=False), checked_pullback

    checked.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]  # what a reader should see
    return checked


def _require_floating(x: Array) -> None:
    _array.require_array("x", x)
    _array.require_real_floating("x", x)
