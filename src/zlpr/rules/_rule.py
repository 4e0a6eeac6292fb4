"""Rules: a differentiable function as one Python function that returns its value and a pullback.

The pullback is a named inner function that turns the gradient of the output into the gradients of the inputs.
Everything that differentiates (training, the PyTorch and JAX bridges, validation) uses only this interface, so a
new function gets all of them by being written. Nothing in this file is mathematical.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload

from zlpr import _array, _bridges
from zlpr._array import Array

__all__ = ["Rule", "compose", "rule"]

Pullback = Callable[[Array], Any]


class Rule:
    """A differentiable function: its value, its pullback, and its value and gradient together.

    Made by `rule`; not called directly.

    Parameters
    ----------
    function : callable
        ``function(*args, **opts) -> (value, pullback)``.
    wrt : sequence of str
        Names of the arguments that can be differentiated, in the order of the pullback's results.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import softplus
    >>> value, pullback = softplus.vjp(np.asarray([0.0]))
    >>> float(pullback(np.asarray([1.0]))[0])
    0.5
    """

    __name__: str
    __qualname__: str

    def __init__(self, function: Callable[..., tuple[Array, Pullback]], wrt: Sequence[str]) -> None:
        functools.update_wrapper(self, function)
        parameters = inspect.signature(function).parameters
        unknown = [name for name in wrt if name not in parameters]
        if unknown:
            raise ValueError(
                f"wrt must name parameters of {function.__name__}{tuple(parameters)}, not {unknown}"
            )
        self.function = function
        self.wrt = tuple(wrt)
        self._positions = {name: list(parameters).index(name) for name in wrt}
        self._told_needs = "needs" in parameters

    def __repr__(self) -> str:
        return f"<rule {self.__module__}.{self.__qualname__}>"

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by name, like a function

    def __call__(self, *args: Any, **opts: Any) -> Array:
        """The value."""
        call = _bridges.find(args, opts)
        return call(self, args, opts) if call else self.forward(args, opts, ())[0]

    def vjp(self, *args: Any, argnums: Any = None, **opts: Any) -> tuple[Array, Pullback]:
        """The value, and the pullback from the gradient of the value to the gradients of the inputs.

        Parameters
        ----------
        *args, **opts
            As for the value.
        argnums : int, str, or a sequence of them, optional
            The differentiable inputs wanted, by name or by their position in `wrt`; all of them by default.

        Returns
        -------
        value : array
        pullback : callable
            ``pullback(dvalue)`` gives an array for one input, a tuple for several. It may be called twice.
        """
        needs, single = self.select(argnums if argnums is not None else self.default_argnums)
        value, pull = self.forward(args, opts, needs)

        def pullback(dvalue: Array) -> Any:
            gradients = pull(dvalue)
            return gradients[0] if single else gradients

        return value, pullback

    def value_and_grad(self, *args: Any, argnums: Any = 0, **opts: Any) -> tuple[Array, Any]:
        """The value and the gradient of its sum.

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
        value, pullback = self.vjp(*args, argnums=argnums, **opts)
        return value, pullback(_array.namespace(value).ones_like(value))

    @property
    def default_argnums(self) -> Any:
        """What `vjp` differentiates by default: every differentiable input."""
        return 0 if len(self.wrt) == 1 else tuple(range(len(self.wrt)))

    def select(self, argnums: Any) -> tuple[tuple[str, ...], bool]:
        """Names of the inputs that `argnums` asks for, and whether it asks for one alone."""
        single = isinstance(argnums, int | str)
        if single and argnums == 0:
            return self.wrt[:1], True
        return tuple(self._name(a) for a in ([argnums] if single else argnums)), single

    def _name(self, argnum: int | str) -> str:
        if isinstance(argnum, str) and argnum in self.wrt:
            return argnum
        if isinstance(argnum, int) and -len(self.wrt) <= argnum < len(self.wrt):
            return self.wrt[argnum]
        raise ValueError(
            f"argnums must be positions or names in {self.wrt}, the differentiable inputs of {self.__name__}, "
            f"not {argnum!r}"
        )

    def forward(
        self, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
    ) -> tuple[Array, Any]:
        """The value, and the pullback to a tuple of the gradients that `needs` names."""
        if self._told_needs:
            value, pull = self.function(*args, needs=needs, **opts)
            return value, pull
        value, pull = self.function(*args, **opts)

        def pull_needed(dvalue: Array) -> tuple[Any, ...]:
            gradients = pull(dvalue)
            every = dict(zip(self.wrt, gradients if len(self.wrt) > 1 else (gradients,), strict=True))
            return tuple(every[name] for name in needs)

        return value, pull_needed

    def value_and_saved(
        self, args: tuple[Any, ...], opts: dict[str, Any], needs: tuple[str, ...]
    ) -> tuple[Array, tuple[Array, ...], Any]:
        """The value, gradients for the bridge to save, and how to scale them by the value's cotangent.

        Here no gradients: the bridge runs the rule again from the inputs.
        """
        return self.forward(args, opts, ())[0], (), None

    def locate(self, name: str, args: tuple[Any, ...], opts: dict[str, Any]) -> Any:
        """The argument of that name in a call, or None where its default stands."""
        position = self._positions[name]
        return args[position] if position < len(args) else opts.get(name)

    def replaced(
        self, name: str, value: Any, args: tuple[Any, ...], opts: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with another value for the one of that name."""
        position = self._positions[name]
        if position < len(args):
            return (*args[:position], value, *args[position + 1 :]), opts
        return args, {**opts, name: value}


@overload
def rule(function: Callable[..., Any], *, wrt: Sequence[str] | None = None) -> Rule: ...
@overload
def rule(*, wrt: Sequence[str] | None = None) -> Callable[[Callable[..., Any]], Rule]: ...
def rule(function: Callable[..., Any] | None = None, *, wrt: Sequence[str] | None = None) -> Any:
    """Turn a function that returns its value and a pullback into a `Rule`.

    Parameters
    ----------
    function : callable
        ``function(x, ...) -> (value, pullback)``; the pullback takes the gradient of the value and returns the
        gradients of the differentiable inputs, an array for one and a tuple for several. Its arithmetic must be
        linear in what it takes. A function with a parameter ``needs`` is told which gradients are wanted and
        returns just those, as a tuple.
    wrt : sequence of str, optional
        Names of the differentiable inputs; the first parameter by default.

    Returns
    -------
    Rule
        Callable; with ``.vjp`` and ``.value_and_grad``; under PyTorch's autograd and JAX's transformations a plain
        call is differentiated by this pullback.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.rules import rule
    >>> @rule
    ... def square(x):
    ...     def square_pullback(dy):
    ...         return 2 * x * dy
    ...     return x * x, square_pullback
    >>> square.value_and_grad(np.asarray([3.0]))
    (array([9.]), array([6.]))
    """
    if function is None:
        return functools.partial(rule, wrt=wrt)
    return Rule(function, wrt or (next(iter(inspect.signature(function).parameters)),))


def compose(*rules: Rule) -> Rule:
    """The composition of rules of one input: ``compose(f, g)(x)`` is ``f(g(x))``.

    Parameters
    ----------
    *rules : Rule
        Outermost first. Each is called with the value of the next one alone.

    Returns
    -------
    Rule
        Its pullback runs the pullbacks from the outermost to the innermost.

    Raises
    ------
    ValueError
        If no rule is given.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import sigmoid, softplus
    >>> from zlpr.rules import compose
    >>> value, gradient = compose(softplus, sigmoid).value_and_grad(np.asarray([0.0]))
    >>> round(float(gradient[0]), 6)
    0.155615
    """
    if not rules:
        raise ValueError("compose needs at least one rule, got none")

    def composed(x: Array) -> tuple[Array, Pullback]:
        pullbacks = []
        for inner in reversed(rules):
            x, pullback = inner.vjp(x, argnums=0)
            pullbacks.append(pullback)

        def composed_pullback(dvalue: Array) -> Array:
            for pullback in reversed(pullbacks):
                dvalue = pullback(dvalue)
            return dvalue

        return x, composed_pullback

    names = ", ".join(r.__name__ for r in rules)
    composed.__name__ = composed.__qualname__ = f"compose({names})"
    composed.__doc__ = f"The composition of {names}."
    return Rule(composed, ("x",))
