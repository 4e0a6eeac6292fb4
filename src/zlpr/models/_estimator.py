"""What the estimators share: checks at the boundary, the network, the optimizer, the split, and the end of a fit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optree
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from zlpr import _array, _constants, activations, nn, optim
from zlpr._array import Array
from zlpr.models._training import (
    Arrays,
    BatchSource,
    Descent,
    Fit,
    LossAndGradients,
    Stopping,
    fit_minibatches,
)
from zlpr.rules import Rule

_ACTIVATIONS = {"gelu": activations.gelu, "relu": activations.relu}
_OPTIMIZERS: dict[str, tuple[Callable[[float], optim.Transform], float]] = {
    "sgd": (optim.sgd, 1e-1),
    "adam": (optim.adam, 1e-3),
    "adamw": (optim.adamw, 1e-3),
    "adax": (optim.adax, 5e-3),
    "adaxw": (optim.adaxw, 5e-3),
}


class NetworkEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """An estimator with hidden layers, trained by an optimizer on minibatches."""

    hidden_layer_sizes: Any
    activation: str
    optimizer: str | optim.Transform
    learning_rate: float | None
    max_iter: int
    batch_size: int | None
    clip_norm: float | None
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    tol: float
    random_state: Any
    verbose: int

    def _check_training(self) -> None:
        """Check the parameters that every estimator has."""
        require_choice("activation", self.activation, _ACTIVATIONS)
        if not isinstance(self.optimizer, optim.Transform):
            require_choice("optimizer", self.optimizer, _OPTIMIZERS)
        for name in ("max_iter", "n_iter_no_change", "batch_size"):
            value = getattr(self, name)
            if not (name == "batch_size" and value is None):
                require_count(name, value)
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) is not None:
                require_magnitude(name, getattr(self, name))
        if any(not _constants.is_integer(width) or width < 1 for width in self._hidden()):
            raise ValueError(f"hidden_layer_sizes must be positive integers, got {self.hidden_layer_sizes!r}")
        if self.early_stopping and not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(f"validation_fraction must be in (0, 1), got {self.validation_fraction}")

    def _checked(self, X: Array, *, reset: bool) -> Array:
        if not _array.is_array(X) or isinstance(X, np.ndarray):
            return validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=1)
        _array.require_real_floating("X", X)
        if X.ndim != 2:
            raise ValueError(f"X must have shape (n_samples, n_features), not {tuple(X.shape)}")
        if not X.shape[0]:
            raise ValueError(f"X must have at least one sample, not the shape {tuple(X.shape)}")
        X = _array.detached(X)
        if not bool(_array.namespace(X).all(_array.namespace(X).isfinite(X))):
            raise ValueError("X must be finite, but holds NaN or infinity")
        if reset:
            self.n_features_in_ = int(X.shape[1])
        elif X.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X must have the {self.n_features_in_} features of the training data, not {X.shape[1]}"
            )
        return X

    def _hidden(self) -> tuple[int, ...]:
        sizes: Any = self.hidden_layer_sizes
        return (sizes,) if _constants.is_integer(sizes) else tuple(sizes)

    def _params_for(self, X: Array) -> Any:
        """The parameters on the library of X, moved there if the model was fitted on another, and in its dtype."""
        own = optree.tree_leaves(self.params_)[0]
        if _array.library(own) == _array.library(X) and own.dtype == X.dtype:
            return self.params_
        xp = _array.namespace(X)
        foreign = _array.library(own) != _array.library(X)
        return optree.tree_map(
            lambda p: xp.astype(_array.from_numpy(_array.to_numpy(p), X) if foreign else p, X.dtype),
            self.params_,
        )

    def _transform(self) -> optim.Transform:
        transform = self.optimizer
        if not isinstance(transform, optim.Transform):
            make, default_rate = _OPTIMIZERS[transform]
            transform = make(default_rate if self.learning_rate is None else self.learning_rate)
        return (
            transform
            if self.clip_norm is None
            else optim.chain(optim.clip_by_global_norm(self.clip_norm), transform)
        )

    def _split(self, data: Arrays, rng: np.random.Generator) -> tuple[Arrays, Arrays | None]:
        """The rows to train on and, for early stopping, the rows held out."""
        if not self.early_stopping:
            return data, None
        n = data[0].shape[0]
        if n < 2:
            raise ValueError(f"early_stopping needs at least 2 samples, got n_samples = {n}")
        order = rng.permutation(n)
        held = min(max(1, round(self.validation_fraction * n)), n - 1)
        rows = [_array.from_numpy(part, data[0]) for part in (order[held:], order[:held])]
        training, held_out = (tuple(_array.namespace(x).take(x, part, axis=0) for x in data) for part in rows)
        return training, held_out

    def _rows_of_a_batch(self, rows: int) -> int:
        return min(self.batch_size or 200, rows)

    def _descent(
        self, objective: LossAndGradients, params: Any, batches: BatchSource, rng: np.random.Generator
    ) -> Descent:
        return Descent(objective, self._transform(), batches, rng, params)

    def _by_minibatches(
        self, descent: Descent, data: Arrays, held_out: Arrays | None, progress: Callable[[int, float], None]
    ) -> Fit:
        return fit_minibatches(
            descent,
            data,
            held_out,
            epochs=self.max_iter,
            stopping=Stopping(self.tol, self.n_iter_no_change),
            progress=progress,
        )

    def _finish(self, fit: Fit) -> None:
        self.params_, self.n_iter_ = fit.params, max(1, fit.iterations)
        self.loss_curve_, self.validation_curve_ = fit.loss_curve, fit.validation_curve
        require_finite("parameters", fit.params)
        if fit.interrupted:
            warnings.warn("Training was interrupted; the parameters reached are kept.", stacklevel=3)
        elif not fit.converged:
            warnings.warn(
                f"Training ended at max_iter={self.max_iter} before it converged.",
                ConvergenceWarning,
                stacklevel=3,
            )


def hidden_layers(activation: str, hidden: int) -> tuple[Rule, ...]:
    """A dense layer and an activation for each hidden layer."""
    return tuple(layer for _ in range(hidden) for layer in (nn.dense, _ACTIVATIONS[activation]))


def gain(hidden: int) -> float:
    """What keeps the scale of the values in a network: that of rectifiers, or of a linear map."""
    return 2.0**0.5 if hidden else 1.0


def require_finite(what: str, values: Any) -> None:
    """Raise a ValueError where training has diverged."""
    for leaf in optree.tree_leaves(values):
        if not bool(_array.namespace(leaf).all(_array.namespace(leaf).isfinite(leaf))):
            raise ValueError(f"training diverged: {what} are not finite; try a smaller learning_rate")


def require_choice(name: str, value: Any, choices: Any) -> None:
    """Raise a ValueError that names the parameter and the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def require_count(name: str, value: Any) -> None:
    """Raise a ValueError unless the value is an integer of at least 1."""
    if not (_constants.is_integer(value) and value >= 1):
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")


def require_magnitude(name: str, value: Any) -> None:
    """Raise a ValueError unless the value is finite and not negative."""
    if not _constants.is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")


def generator(random_state: Any) -> np.random.Generator:
    """A generator from whatever scikit-learn's users give."""
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31 - 1))
    return np.random.default_rng(random_state)
