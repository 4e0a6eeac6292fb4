"""Layers for the models: rules of parameters and input; parameters are plain dicts.

A layer is a rule with ``wrt=("params", "x")``. `sequential` carries the parameters of a stack of layers and
activations; its pullback runs theirs backwards. The algebra is in ``docs/derivations/layers.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from zlpr import _array
from zlpr._array import Array
from zlpr.rules import Rule, rule
from zlpr.rules._rule import Pullback

__all__ = ["dense", "dense_parameters", "sequential"]


@rule(wrt=("params", "x"))
def dense(params: dict[str, Array], x: Array, *, needs: tuple[str, ...] = ()) -> tuple[Array, Pullback]:
    r"""Affine map of the rows of x.

    .. math:: y = x W + b

    Parameters
    ----------
    params : dict
        ``weight`` of shape (d_in, d_out) and ``bias`` of shape (d_out,), floating.
    x : (n, d_in) floating array
    needs : tuple of str
        Which gradients are wanted, given by the rule's own machinery.

    Returns
    -------
    y : (n, d_out) array

    Raises
    ------
    TypeError
        If `x` is no array, not real floating, or of another library than the weight.
    ValueError
        If the width of `x` is not that of the weight.

    References
    ----------
    .. [1] I. Goodfellow, Y. Bengio, A. Courville, Deep Learning, MIT Press, 2016, section 6.5.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import dense
    >>> params = {"weight": np.asarray([[1.0], [2.0]]), "bias": np.asarray([0.5])}
    >>> dense(params, np.asarray([[1.0, 1.0]]))
    array([[3.5]])
    """
    weight, bias = params["weight"], params["bias"]
    _check_dense(x, weight, bias)
    xp, compute = _array.namespace(x), _array.compute_dtype(x)
    wide_x, wide_weight, wide_bias = (xp.astype(v, compute, copy=False) for v in (x, weight, bias))

    def dense_pullback(dy: Array) -> tuple[Any, ...]:
        dy = xp.astype(dy, compute, copy=False)
        gradients = []
        if "params" in needs:
            dweight, dbias = xp.matmul(wide_x.T, dy), xp.sum(dy, axis=0)
            gradients.append(
                {
                    "weight": xp.astype(dweight, weight.dtype, copy=False),
                    "bias": xp.astype(dbias, bias.dtype, copy=False),
                }
            )
        if "x" in needs:
            gradients.append(xp.astype(xp.matmul(dy, wide_weight.T), x.dtype, copy=False))
        return tuple(gradients)

    return xp.astype(xp.matmul(wide_x, wide_weight) + wide_bias, x.dtype, copy=False), dense_pullback


def _check_dense(x: Array, weight: Array, bias: Array) -> None:
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        _array.require_array(name, value)
        _array.require_real_floating(name, value)
    _array.require_same_home("x", x, "weight", weight)
    _array.require_same_home("x", x, "bias", bias)
    if x.ndim != 2 or x.shape[1] != weight.shape[0]:
        raise ValueError(f"x must have shape (n, {weight.shape[0]}) for this weight, not {tuple(x.shape)}")
    if tuple(bias.shape) != (weight.shape[1],):
        raise ValueError(
            f"bias must have shape ({weight.shape[1]},) for this weight, not {tuple(bias.shape)}"
        )


def sequential(*layers: Rule) -> Rule:
    """A stack of layers and activations as one rule of their parameters and the input.

    Parameters
    ----------
    *layers : Rule
        Innermost first: layers with ``wrt=("params", "x")``, and rules of one input.

    Returns
    -------
    Rule
        ``stack(params, x)``, where `params` is a tuple with an entry for each layer that has parameters.

    Raises
    ------
    ValueError
        If no layer is given, or at the call if the number of parameters is not that of the layers.

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
    if not layers:
        raise ValueError("sequential needs at least one layer, got none")
    with_parameters = [layer for layer in layers if layer.wrt[0] == "params"]

    def stack(params: tuple[Any, ...], x: Array, *, needs: tuple[str, ...] = ()) -> tuple[Array, Pullback]:
        if len(params) != len(with_parameters):
            raise ValueError(
                f"params must have {len(with_parameters)} entries, one a layer, not {len(params)}"
            )
        pullbacks: list[Pullback] = []
        own = iter(params)
        for layer in layers:
            wants_x = bool(pullbacks) or "x" in needs
            x, pullback = _forward(layer, own, x, wants_x)
            pullbacks.append(pullback)

        def stack_pullback(dy: Array) -> tuple[Any, ...]:
            dparams = []
            for pullback in reversed(pullbacks):
                dlayer, dy = pullback(dy)
                if dlayer is not None:
                    dparams.append(dlayer)
            every = {"params": tuple(reversed(dparams)), "x": dy}
            return tuple(every[name] for name in needs)

        return x, stack_pullback

    return rule(stack, wrt=("params", "x"))


def _forward(layer: Rule, own: Any, x: Array, wants_x: bool) -> tuple[Array, Pullback]:
    """A layer's value, and its pullback to (gradient of its parameters or None, gradient of x or None)."""
    if layer.wrt[0] != "params":
        y, pullback = layer.vjp(x, argnums=0)
        return y, lambda dy: (None, pullback(dy))
    y, pullback = layer.vjp(next(own), x, argnums=("params", "x") if wants_x else ("params",))
    return y, pullback if wants_x else lambda dy: (*pullback(dy), None)


def dense_parameters(
    sizes: Sequence[int], like: Array, *, gain: float = 1.0, rng: np.random.Generator | int
) -> tuple[dict[str, Array], ...]:
    r"""Initial parameters of dense layers: normal weights of variance :math:`g^2 / d_{in}`, biases zero.

    Drawn by NumPy and moved, so that one seed gives the same numbers on every library.

    Parameters
    ----------
    sizes : sequence of int
        Widths of the input, of the hidden layers, and of the output.
    like : floating array
        Library, device and dtype of the parameters.
    gain : float, default 1.0
        :math:`g`; :math:`\sqrt 2` suits rectifiers (He).
    rng : numpy.random.Generator or int
        Source of the draws, or its seed.

    Returns
    -------
    tuple of dict
        ``weight`` (d_in, d_out) and ``bias`` (d_out,) of each layer.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or one is not positive.

    References
    ----------
    .. [1] K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV 2015, eq. 10.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.nn import dense_parameters
    >>> [layer["weight"].shape for layer in dense_parameters((4, 3, 2), np.zeros(1), rng=0)]
    [(4, 3), (3, 2)]
    """
    if len(sizes) < 2 or any(size < 1 for size in sizes):
        raise ValueError(f"sizes must be two or more positive widths, not {tuple(sizes)}")
    xp, rng = _array.namespace(like), np.random.default_rng(rng)

    def moved(values: np.ndarray[Any, Any]) -> Array:
        return xp.astype(_array.from_numpy(values, like), like.dtype)

    layers = []
    for inputs, outputs in pairwise(sizes):
        weight = rng.standard_normal((inputs, outputs)) * (gain / inputs**0.5)
        layers.append({"weight": moved(weight), "bias": moved(np.zeros(outputs))})
    return tuple(layers)
