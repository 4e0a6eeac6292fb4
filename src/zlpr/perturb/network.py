"""The callables of a stack of layers, with the products of second order that the stack's rules allow exactly.

A tangent of the input goes up through the layers beside the values, and one of the cotangents comes down beside them
(forward over reverse); layers with a Jacobian that is diagonal or constant need nothing but what their rules give. The
algebra is in ``docs/derivations/perturb.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from zlpr import _array
from zlpr._array import Array
from zlpr.nn import Sequential, dense, dropout
from zlpr.rules import Elementwise, RowLoss, Rule

__all__ = ["NetworkObjective"]


class NetworkObjective:
    r"""A loss of a stack of layers as a function of its input, with exact derivatives of its gradients.

    Parameters
    ----------
    network : Sequential
        Of `zlpr.nn.dense`, `zlpr.nn.dropout` and activations with a second derivative, as `zlpr.nn.sequential` makes
        it.
    params : tuple
        Its parameters.
    loss : RowLoss, optional
        Such as `zlpr.losses.zlpr_loss`; only the products of the scores go without.
    targets : array, optional
        Of the loss.
    masks : tuple, optional
        Of the dropouts.
    **options
        Of the loss: ``reduction``, ``sample_weight`` ...

    Raises
    ------
    TypeError
        At once, if a layer has no second derivative here.

    Notes
    -----
    The object itself is a ``value_and_grad``: ``objective(x) -> (value, (dparams, dx))``. `gradient_penalty` finds its
    ``jvp`` and takes no difference; `virtual_adversarial` takes ``objective.forward_vjp`` and
    ``forward_jvp=objective.forward_jvp``.

    References
    ----------
    .. [1] B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6, 1994.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.losses import sigmoid_cross_entropy
    >>> from zlpr.nn import dense, sequential
    >>> from zlpr.perturb import NetworkObjective, gradient_penalty
    >>> params = ({"weight": np.asarray([[4.0]]), "bias": np.zeros(1)},)
    >>> objective = NetworkObjective(sequential(dense), params, sigmoid_cross_entropy, np.asarray([[True]]))

    The loss log(1 + exp(-w x)) has the slope -w / 2 at 0, and the penalty the slope w / 4:

    >>> penalty, (dparams, dx) = gradient_penalty(objective, np.zeros((1, 1)))
    >>> float(penalty), dparams[0]["weight"], dx
    (2.0, array([[1.]]), array([[-8.]]))
    """

    def __init__(
        self,
        network: Sequential,
        params: tuple[Any, ...],
        loss: RowLoss | None = None,
        targets: Array | None = None,
        *,
        masks: tuple[Any, ...] | None = None,
        **options: Any,
    ) -> None:
        self._network, self._params, self._masks = network, params, masks
        self._loss, self._targets, self._options = loss, targets, options
        for layer in network.layers:
            if layer not in (dense, dropout) and not isinstance(layer, Elementwise):
                raise TypeError(f"network must be of dense, dropout and activations, but has {layer!r}")

    def __call__(self, x: Array) -> tuple[Array, Any]:
        """The value, and the gradients with respect to the parameters and to x."""
        scores, pullback = self.forward_vjp(x)
        value, dscores = self._checked_loss().value_and_grad(scores, self._targets, **self._options)
        return value, pullback(dscores)

    def forward_vjp(self, x: Array) -> tuple[Array, Callable[[Array], Any]]:
        """The scores, and the pullback to the gradients of the parameters and of x."""
        return self._network.vjp(self._params, x, masks=self._masks)

    def forward_jvp(self, x: Array, u: Array) -> Array:
        """The derivative of the scores as x moves along `u`."""
        return self._upwards(x, u)[2]

    def jvp(self, x: Array, v: Array) -> tuple[Any, Array]:
        """The derivatives of the gradients, of the parameters and of x, as x moves along `v`."""
        loss = self._checked_loss()
        layers, scores, tangent = self._upwards(x, v)
        _, slope = loss.value_and_grad(scores, self._targets, **self._options)
        turn = loss.hvp(scores, self._targets, tangent, **self._options)
        of_params = []
        for layer in reversed(layers):
            if layer.own is not None:
                of_params.append(_weights_turn(layer, slope, turn))
            slope, turn = layer.down(slope, turn)
        return tuple(reversed(of_params)), turn

    def _upwards(self, x: Array, tangent: Array) -> tuple[list[_Layer], Array, Array]:
        """What each layer leaves for the way down, the scores, and their tangent."""
        layers: list[_Layer] = []
        for rule, own, noise in self._network.parts(self._params, self._masks):
            x, tangent, layer = _up(rule, own, noise, x, tangent)
            layers.append(layer)
        return layers, x, tangent

    def _checked_loss(self) -> RowLoss:
        if self._loss is None:
            raise TypeError("loss must be given for a value and its gradients")
        return self._loss


class _Layer(NamedTuple):
    """A layer on the way down: its input and the input's tangent, its parameters if any, and what pulls back."""

    x: Array
    tangent: Array
    own: Any
    down: Callable[[Array, Array], tuple[Array, Array]]
    """of a cotangent and its derivative"""


def _up(rule: Rule, own: Any, noise: dict[str, Any], x: Array, tangent: Array) -> tuple[Array, Array, _Layer]:
    """The value of a layer, its tangent, and the layer as it will be needed."""
    if isinstance(rule, Elementwise):
        y, slope, bend = rule.value_grad_hess(x, **noise)
        bend = bend * tangent

        def bent(dy: Array, turn: Array) -> tuple[Array, Array]:
            return slope * dy, slope * turn + bend * dy

        return y, slope * tangent, _Layer(x, tangent, None, bent)
    arguments = (x,) if own is None else (own, x)
    y, pullback = rule.vjp(*arguments, argnums="x", **noise)

    def straight(dy: Array, turn: Array) -> tuple[Array, Array]:
        return pullback(dy), pullback(turn)

    if own is None:  # a product with a mask, which is its own transpose
        return y, pullback(tangent), _Layer(x, tangent, None, straight)
    moved = dense({**own, "bias": _array.namespace(x).zeros_like(own["bias"])}, tangent)
    return y, moved, _Layer(x, tangent, own, straight)


def _weights_turn(layer: _Layer, slope: Array, turn: Array) -> dict[str, Array]:
    """The derivatives of the gradients of weight and bias, ``x^T dy`` and the sum of ``dy``, by the product rule."""
    by_input = dense.vjp(layer.own, layer.tangent, argnums="params")[1](slope)["weight"]
    gradients: dict[str, Array] = dense.vjp(layer.own, layer.x, argnums="params")[1](turn)
    return {**gradients, "weight": gradients["weight"] + by_input}
