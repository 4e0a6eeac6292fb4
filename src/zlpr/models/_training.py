"""The two ways to fit the parameters of a model: minibatches with an optimizer, and L-BFGS on all of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optree

from zlpr import _array, _bridges
from zlpr._array import Array
from zlpr.optim import Transform

Params = Any
LossAndGradients = Callable[[Params, Array, Array, Array], tuple[Array, Params]]
"""``(params, x, targets, row_weights) -> (weighted mean loss, gradients)``."""


@dataclass
class Fit:
    """What a fit leaves behind."""

    params: Params
    loss_curve: list[float] = field(default_factory=list)
    validation_curve: list[float] = field(default_factory=list)
    iterations: int = 0
    converged: bool = False
    interrupted: bool = False


@dataclass(frozen=True)
class Stopping:
    """When minibatch training ends before its last epoch: no gain above `tol` for `patience` epochs."""

    tol: float
    patience: int


def fit_minibatches(
    objective: LossAndGradients,
    params: Params,
    data: tuple[Array, Array],
    held_out: tuple[Array, Array] | None,
    *,
    optimizer: Transform,
    epochs: int,
    batch_size: int,
    stopping: Stopping,
    noise: float,
    rng: np.random.Generator,
    progress: Callable[[int, float], None],
) -> Fit:
    """Train by epochs of shuffled batches of one size; the last one is padded with rows of weight 0.

    With held-out data the parameters of the best epoch are kept.
    """
    x, targets = data
    fit, state = Fit(params), optimizer.init(params)
    best, best_params, waited = math.inf, params, 0
    try:
        for epoch in range(epochs):
            total: Array | float = 0.0
            batches = list(_batches(x, batch_size, rng))
            for rows, weights, share in batches:
                xp = _array.namespace(x)
                xb = _with_noise(xp.take(x, rows, axis=0), noise, rng)
                tb = xp.take(targets, rows, axis=0)
                loss, gradients = _bridges.compiled(x, objective, fit.params, xb, tb, weights)
                fit.params, state = optimizer.step(fit.params, gradients, state)
                total = total + share * loss
            fit.loss_curve.append(float(total))
            fit.iterations = epoch + 1
            watched = fit.loss_curve[-1]
            if held_out is not None:
                watched = float(_bridges.compiled(x, objective, fit.params, *held_out, _ones(held_out[0]))[0])
                fit.validation_curve.append(watched)
            progress(epoch + 1, watched)
            waited = 0 if watched < best - stopping.tol else waited + 1
            if watched < best:
                best = watched
                if held_out is not None:
                    best_params = _copied(fit.params)
            if waited >= stopping.patience:
                fit.converged = True
                break
    except KeyboardInterrupt:
        fit.interrupted = True
    if held_out is not None and fit.validation_curve:
        fit.params = best_params
    return fit


def _ones(x: Array) -> Array:
    xp = _array.namespace(x)
    return xp.ones((x.shape[0],), dtype=x.dtype, device=_array.device(x))


def _copied(params: Params) -> Params:
    return optree.tree_map(lambda p: _array.namespace(p).asarray(p, copy=True), params)


def _batches(x: Array, size: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array, float]]:
    """Row indices, row weights, and the share of all rows, of each batch; the order is drawn by NumPy."""
    n = x.shape[0]
    order = rng.permutation(n)
    padded = np.concatenate((order, np.zeros(-n % size, dtype=order.dtype)))
    weights = np.concatenate((np.ones(n), np.zeros(len(padded) - n)))
    xp = _array.namespace(x)
    on_device = _array.from_numpy(padded, x)
    weights_on_device = xp.astype(_array.from_numpy(weights, x), x.dtype)
    for start in range(0, len(padded), size):
        batch = slice(start, start + size)
        yield on_device[batch], weights_on_device[batch], min(size, n - start) / n


def _with_noise(x: Array, scale: float, rng: np.random.Generator) -> Array:
    if not scale:
        return x
    noise = _array.from_numpy(rng.standard_normal(tuple(x.shape)) * scale, x)
    return x + _array.namespace(x).astype(noise, x.dtype)


def fit_lbfgs(
    objective: LossAndGradients,
    params: Params,
    data: tuple[Array, Array],
    *,
    max_iter: int,
    tol: float,
    progress: Callable[[int, float], None],
) -> Fit:
    """Minimise the objective over all rows by SciPy's L-BFGS; parameters and gradients cross to the host each time."""
    from scipy.optimize import minimize

    x, targets = data
    weights = _ones(x)
    leaves, tree = optree.tree_flatten(params)
    fit = Fit(params)
    last = math.nan

    def unpacked(flat: np.ndarray[Any, Any]) -> Params:
        parts = np.split(flat, np.cumsum([math.prod(leaf.shape) for leaf in leaves])[:-1])
        xp = _array.namespace(x)
        moved = [
            xp.astype(_array.from_numpy(part.reshape(leaf.shape), leaf), leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        return optree.tree_unflatten(tree, moved)

    def packed(values: Params) -> np.ndarray[Any, Any]:
        flat = [_array.to_numpy(leaf).astype(np.float64).ravel() for leaf in optree.tree_leaves(values)]
        return np.concatenate(flat)

    def value_and_grad(flat: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        nonlocal last
        loss, gradients = _bridges.compiled(x, objective, unpacked(flat), x, targets, weights)
        last = float(loss)
        return last, packed(gradients)

    def after_iteration(flat: np.ndarray[Any, Any]) -> None:
        fit.params = unpacked(flat)
        fit.iterations += 1
        fit.loss_curve.append(last)
        progress(fit.iterations, last)

    try:
        result = minimize(
            value_and_grad,
            packed(params),
            jac=True,
            method="L-BFGS-B",
            callback=after_iteration,
            options={
                "maxiter": max_iter,
                "maxfun": 10 * max_iter,
                "gtol": tol,
                "ftol": _rounding(x),
            },
        )
        fit.params, fit.converged = unpacked(result.x), bool(result.success)
    except KeyboardInterrupt:
        fit.interrupted = True
    return fit


def _rounding(x: Array) -> float:
    """The relative change of a loss that rounding alone can make."""
    return 64 * float(_array.namespace(x).finfo(x.dtype).eps)
