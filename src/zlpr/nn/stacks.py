"""Stacks of layers and activations as one rule of all their parameters and the input."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from zlpr._array import Array
from zlpr.nn.layers import batch_norm, dense, statistics_of
from zlpr.rules import Rule, rule
from zlpr.rules._rule import Pullback

__all__ = ["Sequential", "mlp", "sequential", "with_statistics"]


def sequential(*layers: Rule) -> Sequential:
    """A stack of layers and activations as one rule of their parameters and the input.

    Parameters
    ----------
    *layers : Rule
        Innermost first: layers with ``wrt=("params", "x")``, and rules of one input, `dropout` among them.

    Returns
    -------
    Sequential
        ``stack(params, x, *, masks=None)``, a rule of the first two: `params` is a tuple with an entry for each layer
        that has parameters, `masks` one with an entry for each `dropout`. Without masks nothing is dropped.

    Raises
    ------
    ValueError
        If no layer is given, or at the call if the number of parameters or of masks is not that of the layers.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, Deep Learning, MIT Press, 2016, section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import relu
    >>> from zlpr.nn import dense, sequential
    >>> params = ({"weight": np.asarray([[-1.0, 1.0]]), "bias": np.asarray([0.0, 0.0])},)
    >>> value, (slope,) = sequential(dense, relu).value_and_grad(params, np.asarray([[2.0]]))
    >>> value, slope["bias"]
    (array([[0., 2.]]), array([0., 1.]))
    """
    return Sequential(*layers)


class Sequential(Rule):
    """The rule that `sequential` makes; ``stack.layers`` are its layers.

    Parameters
    ----------
    *layers : Rule

    Examples
    --------
    >>> from zlpr.nn import dense, sequential
    >>> sequential(dense, dense).layers
    (<rule zlpr.nn.layers.dense>, <rule zlpr.nn.layers.dense>)
    """

    def __init__(self, *layers: Rule) -> None:
        if not layers:
            raise ValueError("sequential needs at least one layer, got none")
        self.layers = layers
        self._plan = tuple((layer, has_parameters(layer), _mask_name(layer)) for layer in layers)
        super().__init__(self._stack(), ("params", "x"))

    def __reduce__(self) -> Any:
        return sequential, self.layers

    def _stack(self) -> Any:
        def stack(
            params: tuple[Any, ...],
            x: Array,
            *,
            masks: tuple[Any, ...] | None = None,
            needs: tuple[str, ...] = (),
        ) -> tuple[Array, Pullback]:
            return _chained(self.parts(params, masks), x, needs)

        return stack

    def parts(self, params: Sequence[Any], masks: Sequence[Any] | None) -> list[_Part]:
        """Each layer with its parameters, None where it has none, and its mask as an option."""
        owners = sum(has for _, has, _ in self._plan)
        droppers = sum(name is not None for _, _, name in self._plan)
        if len(params) != owners:
            raise ValueError(f"params must have {owners} entries, one a layer, not {len(params)}")
        if masks is not None and len(masks) != droppers:
            raise ValueError(f"masks must have {droppers} entries, one a dropout, not {len(masks)}")
        own, noise = iter(params), iter(masks or ())
        return [
            (
                layer,
                next(own) if has else None,
                {name: next(noise)} if masks is not None and name is not None else {},
            )
            for layer, has, name in self._plan
        ]


_Part = tuple[Rule, Any, dict[str, Any]]


def _chained(parts: Sequence[_Part], x: Array, needs: tuple[str, ...]) -> tuple[Array, Pullback]:
    """The layers one after the other, and the pullback that runs theirs backwards."""
    pullbacks: list[Pullback] = []
    for layer, own, noise in parts:
        wants_x = bool(pullbacks) or "x" in needs
        x, pullback = _forward(layer, own, x, noise, wants_x)
        pullbacks.append(pullback)

    def chained_pullback(dy: Array) -> tuple[Any, ...]:
        dparams = []
        for pullback in reversed(pullbacks):
            dlayer, dy = pullback(dy)
            if dlayer is not None:
                dparams.append(dlayer)
        every = {"params": tuple(reversed(dparams)), "x": dy}
        return tuple(every[name] for name in needs)

    return x, chained_pullback


def has_parameters(layer: Rule) -> bool:
    """Whether a rule is a layer with parameters."""
    return layer.wrt[0] == "params"


def _mask_name(layer: Rule) -> str | None:
    """The option by which a layer takes its mask or, a stack, those of its layers; None where it has none."""
    if isinstance(layer, Sequential):
        return "masks" if any(_mask_name(inner) for inner in layer.layers) else None
    return "mask" if "mask" in inspect.signature(layer.function).parameters else None


def _forward(layer: Rule, own: Any, x: Array, noise: dict[str, Any], wants_x: bool) -> tuple[Array, Pullback]:
    """A layer's value, and its pullback to (gradient of its parameters or None, gradient of x or None)."""
    if not has_parameters(layer):
        y, pullback = layer.vjp(x, argnums=0, **noise)
        return y, lambda dy: (None, pullback(dy))
    y, pullback = layer.vjp(own, x, argnums=("params", "x") if wants_x else ("params",), **noise)
    return y, pullback if wants_x else lambda dy: (*pullback(dy), None)


@rule(wrt=("params", "x"))
def mlp(
    params: tuple[dict[str, Array], ...], x: Array, *, activation: Rule, needs: tuple[str, ...] = ()
) -> tuple[Array, Pullback]:
    r"""Multilayer perceptron: dense layers with an activation between them.

    .. math:: y = W_L^\top f(\dots f(W_1^\top x + b_1) \dots) + b_L

    Parameters
    ----------
    params : sequence of dict
        ``weight`` and ``bias`` of each dense layer, as `dense_parameters` draws them; their number is the depth.
    x : (n, d_in) floating array
    activation : Rule
        Of one input, such as `zlpr.activations.gelu`.
    needs : tuple of str
        Which gradients are wanted, given by the rule's own machinery.

    Returns
    -------
    y : (n, d_out) array

    Raises
    ------
    ValueError
        If there is no layer, or a width does not fit.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, Deep Learning, MIT Press, 2016, chapter 6.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.activations import relu
    >>> from zlpr.nn import dense_parameters, mlp
    >>> mlp(dense_parameters((4, 8, 2), np.zeros(1), rng=0), np.ones((3, 4)), activation=relu).shape
    (3, 2)
    """
    if not params:
        raise ValueError("params must have an entry at least, one a dense layer")
    parts: list[_Part] = [(dense, params[0], {})]
    for own in params[1:]:
        parts += [(activation, None, {}), (dense, own, {})]
    value, pullback = _chained(parts, x, needs)
    if not isinstance(params, list) or "params" not in needs:
        return value, pullback
    return value, lambda dy: _params_as_list(needs, pullback(dy))


def _params_as_list(needs: tuple[str, ...], gradients: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(list(g) if name == "params" else g for name, g in zip(needs, gradients, strict=True))


def with_statistics(model: Sequential, params: tuple[Any, ...], x: Array) -> tuple[Any, ...]:
    """The parameters of a stack with the statistics of x in every `batch_norm`, for use after training.

    One pass over the data takes the place of averages kept along training: each layer sees x as the layers before
    leave it, normalised by the statistics of all of x, and nothing is dropped.

    Parameters
    ----------
    model : Sequential
    params : tuple
        Its parameters; statistics that are there already are computed anew.
    x : (n, d_in) floating array
        The training data, or as much of it as fits.

    Returns
    -------
    tuple
        Like `params`, with ``mean`` and ``variance`` beside what each `batch_norm` has.

    Raises
    ------
    ValueError
        If the number of parameters is not that of the layers, or x has no row.

    References
    ----------
    .. [1] Y. Wu, J. Johnson, "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3.2 (precise statistics).

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import batch_norm, sequential, with_statistics
    >>> with_statistics(sequential(batch_norm), ({},), np.asarray([[1.0], [3.0]]))
    ({'mean': array([2.]), 'variance': array([1.])},)
    """
    return _with_statistics(model, params, x)[0]


def _with_statistics(model: Sequential, params: Sequence[Any], x: Array) -> tuple[tuple[Any, ...], Array]:
    """The parameters with statistics, and the value of the stack under them."""
    filled = []
    for layer, own, _ in model.parts(params, None):
        if isinstance(layer, Sequential):
            own, x = _with_statistics(layer, own, x)
        else:
            if layer is batch_norm:
                own = {**own, **statistics_of(x)}
            x = layer(own, x) if has_parameters(layer) else layer(x)
        if has_parameters(layer):
            filled.append(own)
    return tuple(filled), x
