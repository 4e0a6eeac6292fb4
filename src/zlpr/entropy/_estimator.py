"""Rules that estimate from samples, and can tell how far the estimate is likely to be off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from zlpr import _array, _bridges
from zlpr._array import Array
from zlpr.rules import Rule


class CompiledRule(Rule):
    """A rule whose value and gradient are one program where the library compiles."""

    def value_and_grad(self, *args: Any, argnums: Any = 0, **opts: Any) -> tuple[Array, Any]:
        """The value and the gradient of its sum, in one program where the library compiles.

        Parameters
        ----------
        *args, **opts
            As for the value.
        argnums : int, str, or a sequence of them, default 0
            The differentiable inputs wanted, by name or by their position in `wrt`.

        Returns
        -------
        value : array
        gradient : array, or a tuple where several inputs were asked for
        """
        needs, single = self.select(argnums)
        lead = self.locate(self.wrt[0], args, opts)
        value, gradients = _bridges.compiled(lead, self._value_and_gradients, needs, args, opts)
        return value, gradients[0] if single else gradients

    def _value_and_gradients(
        self, needs: tuple[str, ...], args: tuple[Any, ...], opts: dict[str, Any]
    ) -> tuple[Array, tuple[Array, ...]]:
        value, pull = self.forward(args, opts, needs)
        return value, pull(_array.namespace(value).ones_like(value))


class Estimator(CompiledRule):
    """A rule whose plain call gives a standard error beside the value where ``return_std=True``."""

    _error: Callable[..., Array]  # by the jackknife: see _jackknife.py

    def error(self, function: Callable[..., Array]) -> Callable[..., Array]:
        """Decorator: register the standard error, a function of the same arguments."""
        self._error = function
        return function

    def __call__(self, *args: Any, return_std: bool = False, **opts: Any) -> Any:
        """The value; with ``return_std=True`` the value and its standard error."""
        value = super().__call__(*args, **opts)
        if not return_std:
            return value
        if opts.get("reduction", "mean") != "mean":
            raise ValueError(f'return_std takes reduction="mean", not {opts["reduction"]!r}')
        args = tuple(_array.detached(x) if _array.is_array(x) else x for x in args)
        opts = {name: _array.detached(x) if _array.is_array(x) else x for name, x in opts.items()}
        return value, _bridges.compiled(value, self._error_of, args, opts)

    def _error_of(self, args: tuple[Any, ...], opts: dict[str, Any]) -> Array:
        return self._error(*args, **opts)


def estimator(*, wrt: Sequence[str]) -> Callable[[Callable[..., Any]], Estimator]:
    """Decorator: a function that returns value and pullback becomes an `Estimator`."""
    return lambda function: Estimator(function, wrt)


def compiled_rule(*, wrt: Sequence[str]) -> Callable[[Callable[..., Any]], CompiledRule]:
    """Decorator: a function that returns value and pullback becomes a `CompiledRule`."""
    return lambda function: CompiledRule(function, wrt)
