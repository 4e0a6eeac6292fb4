"""The two ways to fit the parameters of a model: minibatches with an optimizer, and L-BFGS on all of the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import optree

from zlpr import _array, _bridges
from zlpr._array import Array
from zlpr.optim import Transform

Params = Any
Arrays = tuple[Array, ...]
LossAndGradients = Callable[..., tuple[Array, Params]]
"""``(params, *arrays) -> (mean loss, gradients)``; the arrays are those of a batch, rows first."""


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


def _as_they_are(arrays: Arrays, rng: np.random.Generator) -> Arrays:
    return arrays


class BatchSource(Protocol):
    """Where the batches of an epoch come from."""

    def of(self, data: Arrays, rng: np.random.Generator) -> Iterator[tuple[Arrays, float]]:
        """The arrays of each batch as the objective takes them, and its share of the epoch."""


@dataclass(frozen=True)
class Batches:
    """Batches of one size, in an order that NumPy draws each epoch."""

    size: int
    whole: bool = False
    """Whether rows that fill no batch are left out, others each epoch; else rows of weight 0 fill it up."""
    prepared: Callable[[Arrays, np.random.Generator], Arrays] = _as_they_are
    """Adds what is drawn for each batch."""

    def of(self, data: Arrays, rng: np.random.Generator) -> Iterator[tuple[Arrays, float]]:
        """The arrays of each batch as the objective takes them, and its share of the rows; weights come last."""
        lead, size = data[0], self.size
        xp, n = _array.namespace(lead), lead.shape[0]
        order = rng.permutation(n)
        filling = -n % size
        counted = n - n % size if self.whole else n
        rows = _array.from_numpy(np.concatenate((order, np.zeros(filling, dtype=order.dtype))), lead)
        weights = np.concatenate((np.ones(n), np.zeros(filling)))
        weights_on_device = xp.astype(_array.from_numpy(weights, lead), lead.dtype)
        for start in range(0, counted, size):
            batch = slice(start, start + size)
            arrays = self.prepared(tuple(xp.take(x, rows[batch], axis=0) for x in data), rng)
            yield (
                arrays if self.whole else (*arrays, weights_on_device[batch]),
                min(size, n - start) / counted,
            )


@dataclass
class Descent:
    """Parameters on their way, with the optimizer's state and the source of all draws."""

    objective: LossAndGradients
    optimizer: Transform
    batches: BatchSource
    rng: np.random.Generator
    params: Params
    state: Any = None
    held_out_objective: LossAndGradients | None = None
    """What is watched on held-out rows, where it is not the objective itself."""

    def epoch(self, data: Arrays) -> float:
        """Go through the rows once; the mean of the losses met."""
        if self.state is None:
            self.state = self.optimizer.init(self.params)
        total: Array | float = 0.0
        for arrays, share in self.batches.of(data, self.rng):
            loss, gradients = _bridges.compiled(arrays[0], self.objective, self.params, *arrays)
            self.params, self.state = self.optimizer.step(self.params, gradients, self.state)
            total = total + share * loss
        return float(total)


def fit_minibatches(
    descent: Descent,
    data: Arrays,
    held_out: Arrays | None,
    *,
    epochs: int,
    stopping: Stopping,
    progress: Callable[[int, float], None],
) -> Fit:
    """Train by epochs of shuffled batches of one size.

    With held-out data, arrays as the objective takes them, the parameters of the best epoch are kept.
    """
    fit = Fit(descent.params)
    best, best_params, waited = math.inf, descent.params, 0
    try:
        for epoch in range(epochs):
            fit.loss_curve.append(descent.epoch(data))
            fit.iterations = epoch + 1
            watched = fit.loss_curve[-1]
            if held_out is not None:
                watch = descent.held_out_objective or descent.objective
                found = _bridges.compiled(held_out[0], watch, descent.params, *held_out)
                watched = float(found[0])
                fit.validation_curve.append(watched)
            progress(epoch + 1, watched)
            waited = 0 if watched < best - stopping.tol else waited + 1
            if watched < best:
                best = watched
                if held_out is not None:
                    best_params = copied(descent.params)
            if waited >= stopping.patience:
                fit.converged = True
                break
    except KeyboardInterrupt:
        fit.interrupted = True
    fit.params = best_params if held_out is not None and fit.validation_curve else descent.params
    return fit


def ones(x: Array) -> Array:
    """A weight of 1 for each row."""
    xp = _array.namespace(x)
    return xp.ones((x.shape[0],), dtype=x.dtype, device=_array.device(x))


def copied(params: Params) -> Params:
    """The parameters in arrays of their own."""
    return optree.tree_map(lambda p: _array.namespace(p).asarray(p, copy=True), params)


def drawn_normal(shape: tuple[int, ...], like: Array, rng: np.random.Generator) -> Array:
    """Draws of the standard normal law, by NumPy and moved."""
    return _array.namespace(like).astype(_array.from_numpy(rng.standard_normal(shape), like), like.dtype)


def fit_lbfgs(
    objective: LossAndGradients,
    params: Params,
    data: Arrays,
    *,
    max_iter: int,
    tol: float,
    progress: Callable[[int, float], None],
) -> Fit:
    """Minimise the objective over all rows by SciPy's L-BFGS; parameters and gradients cross to the host each time.

    The data are arrays as the objective takes them.
    """
    from scipy.optimize import minimize

    x = data[0]
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
        loss, gradients = _bridges.compiled(x, objective, unpacked(flat), *data)
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
                "ftol": float(_array.namespace(x).finfo(x.dtype).eps),
                "maxcor": 30,  # pairs; a third of the iterations that SciPy's 10 take on the linear autoencoder
            },
        )
        fit.params, fit.converged = unpacked(result.x), bool(result.success)
    except KeyboardInterrupt:
        fit.interrupted = True
    return fit
