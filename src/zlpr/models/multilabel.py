"""A multi-label classifier: a linear model or a multi-layer perceptron trained with ZLPR, by hand-derived gradients.

Backpropagation runs through the pullbacks of `zlpr.nn`; no autograd is used on any library.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optree
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, validate_data

from zlpr import _array, activations, losses, nn, optim
from zlpr._array import Array
from zlpr.decision import predict_labels
from zlpr.models import _targets
from zlpr.models._progress import progress_bar
from zlpr.models._training import Fit, Stopping, fit_lbfgs, fit_minibatches
from zlpr.rules import Rule

_LOSSES = {"zlpr": losses.zlpr_loss, "sigmoid": losses.sigmoid_cross_entropy}
_ACTIVATIONS = {"gelu": activations.gelu, "relu": activations.relu}
_OPTIMIZERS: dict[str, tuple[Callable[[float], optim.Transform], float]] = {
    "sgd": (optim.sgd, 1e-1),
    "adam": (optim.adam, 1e-3),
    "adamw": (optim.adamw, 1e-3),
    "adax": (optim.adax, 5e-3),
    "adaxw": (optim.adaxw, 5e-3),
}


class MultilabelClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    r"""Multi-label classifier: linear scores or a multi-layer perceptron, trained with ZLPR.

    .. math::

        \min_\theta \; \frac1n \sum_i L(f_\theta(x_i), y_i) + \frac{\alpha}{2} \sum_l \lVert W_l \rVert^2,
        \qquad \hat y = [f_\theta(x) > s_0]

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, or int, default (100,)
        Widths of the hidden layers; ``()`` for the linear model.
    loss : {"zlpr", "sigmoid"}, default "zlpr"
        The ZLPR loss, or the sum of the labels' sigmoid cross-entropies.
    solver : {"minibatch", "lbfgs"}, default "minibatch"
        ``"lbfgs"`` is for the linear model, which is convex: no learning rate, all rows at once, by SciPy.
    optimizer : str or zlpr.optim.Transform, default "adaxw"
        For minibatches: "sgd", "adam", "adamw", "adax", "adaxw", or a transform of your own.
    learning_rate : float, optional
        For an optimizer given by name; 0.005 for adax and adaxw, 0.001 for adam and adamw, 0.1 for sgd by default.
    max_iter : int, default 200
        Epochs, or iterations of L-BFGS.
    batch_size : int, optional
        Rows in a minibatch; ``min(200, n_samples)`` by default.
    clip_norm : float, optional
        Largest global norm of the gradients of a minibatch.
    noise : float, default 0.0
        Standard deviation of the Gaussian noise added to the inputs of each minibatch.
    adversarial : None
        Reserved; adversarial training comes with `zlpr.perturb`.
    label_smoothing : float, default 0.0
        Passed to the loss.
    threshold : float, default 0.0
        :math:`s_0`: a label is predicted where its score exceeds it; part of the ZLPR loss.
    early_stopping : bool, default False
        Whether minibatch training watches the loss on a held-out part of the data, stops when it no longer falls,
        and keeps the best epoch. Otherwise the training loss is watched.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Seed of the initial parameters, the order of the rows and the noise, drawn by NumPy: one seed gives the same
        model on every library.
    verbose : int, default 0
        Whether to show a progress bar on standard error.
    activation : {"gelu", "relu"}, default "gelu"
        Of the hidden layers.
    alpha : float, optional
        Weight of the squared weights. By default ``3 / n_samples`` for L-BFGS, and 0 for minibatches, where adamw
        and adaxw decay the weights themselves.
    validation_fraction : float, default 0.1
        Held-out share of the rows for `early_stopping`.
    n_iter_no_change : int, default 10
        Epochs without a gain of `tol` after which minibatch training stops.
    tol : float, default 1e-4
        That gain; for L-BFGS ``tol / 10`` bounds the largest entry of the gradient at the solution.

    Attributes
    ----------
    params_ : tuple of dict
        ``weight`` and ``bias`` of each layer, of the library of the training data.
    label_values_ : ndarray
        The values that stand for absent and present in the training targets, such as 0 and 1; the only one if
        there is but one, and then that is what is predicted.
    classes_ : ndarray
        Numbers of the labels, ``arange(n_outputs_)``, as scikit-learn has it; `label_values_` where y was a vector.
    n_outputs_ : int
        Number of labels.
    n_features_in_ : int
    feature_names_in_ : ndarray
        Where X had string column names.
    n_iter_ : int
        Epochs or iterations run.
    loss_curve_ : list of float
        Objective after each.
    validation_curve_ : list of float
        Held-out loss after each epoch, with `early_stopping`.

    See Also
    --------
    zlpr.losses.zlpr_loss : The loss.

    Notes
    -----
    Standardise the features first, with a scikit-learn pipeline for instance. An interrupted fit (Ctrl-C) warns and
    keeps the parameters reached.

    References
    ----------
    .. [1] J. Su et al., "ZLPR: A Novel Loss for Multi-label Classification", arXiv:2208.02955, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.models import MultilabelClassifier
    >>> X = np.asarray([[-2.0, 0.0], [-1.0, 1.0], [1.0, -1.0], [2.0, 0.0]])
    >>> Y = np.asarray([[0, 1], [0, 1], [1, 0], [1, 0]])
    >>> model = MultilabelClassifier(hidden_layer_sizes=(), solver="lbfgs", alpha=0.01).fit(X, Y)
    >>> model.predict(np.asarray([[3.0, 0.0]]))
    array([[1, 0]])
    """

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] | int = (100,),
        loss: Literal["zlpr", "sigmoid"] = "zlpr",
        solver: Literal["minibatch", "lbfgs"] = "minibatch",
        optimizer: str | optim.Transform = "adaxw",
        learning_rate: float | None = None,
        max_iter: int = 200,
        batch_size: int | None = None,
        clip_norm: float | None = None,
        noise: float = 0.0,
        adversarial: None = None,
        label_smoothing: float = 0.0,
        threshold: float = 0.0,
        early_stopping: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        *,
        activation: Literal["gelu", "relu"] = "gelu",
        alpha: float | None = None,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.loss = loss
        self.solver = solver
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.noise = noise
        self.adversarial = adversarial
        self.label_smoothing = label_smoothing
        self.threshold = threshold
        self.early_stopping = early_stopping
        self.random_state = random_state
        self.verbose = verbose
        self.activation = activation
        self.alpha = alpha
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol

    @classmethod
    def from_params(
        cls, params: Sequence[dict[str, Array]], *, classes: Any = (0, 1), **constructor_params: Any
    ) -> MultilabelClassifier:
        """Restore a fitted estimator from its layers' parameters.

        Parameters
        ----------
        params : sequence of dict
            As in ``params_``.
        classes : sequence of two values, default (0, 1)
            As in ``label_values_``.
        **constructor_params
            Of the estimator.

        Returns
        -------
        MultilabelClassifier

        Examples
        --------
        >>> import numpy as np
        >>> from zlpr.models import MultilabelClassifier
        >>> layer = {"weight": np.asarray([[1.0]]), "bias": np.asarray([0.5])}
        >>> MultilabelClassifier.from_params([layer], hidden_layer_sizes=()).decision_function([[2.0]])
        array([[2.5]])
        """
        model = cls(**constructor_params)
        model.params_ = tuple(dict(layer) for layer in params)
        model.label_values_ = np.asarray(classes)
        model.n_features_in_ = int(params[0]["weight"].shape[0])
        model.n_outputs_ = int(params[-1]["weight"].shape[1])
        model.classes_ = np.arange(model.n_outputs_)
        model._target_dtype, model._flat = model.label_values_.dtype.name, False
        return model

    def fit(self, X: Array, y: Array) -> MultilabelClassifier:
        """Fit the model.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like
        y : (n_samples, n_labels) array of the same library
            Indicator matrix: 0-1, bool, or any two values. One label may be given as (n_samples,).

        Returns
        -------
        self
        """
        self._check_parameters()
        X = self._checked(X, reset=True)
        y = _targets.checked_indicator(y, X)
        self.label_values_ = _targets.label_values(y)
        self._target_dtype = _array.dtype_name(y)
        self._flat = y.ndim == 1
        targets = _targets.encoded(y, self.label_values_)
        self.n_outputs_ = int(targets.shape[1])
        self.classes_ = self.label_values_ if self._flat else np.arange(self.n_outputs_)
        if X.shape[0] < 2 and self.early_stopping:
            raise ValueError(f"early_stopping needs at least 2 samples, got n_samples = {X.shape[0]}")
        rng = _generator(self.random_state)
        sizes = (self.n_features_in_, *self._hidden(), self.n_outputs_)
        gain = 2.0**0.5 if self._hidden() else 1.0
        params: Any = nn.dense_parameters(sizes, X, gain=gain, rng=rng)
        if self.solver == "lbfgs":
            params = optree.tree_map(_array.namespace(X).zeros_like, params)  # a convex problem needs no luck
        self._finish(self._run(params, X, targets, rng))
        return self

    def decision_function(self, X: Array) -> Array:
        """Scores of the labels.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like

        Returns
        -------
        scores : (n_samples, n_labels) array of the same library
            A label is predicted where its score exceeds the threshold. (n_samples,) where y was so.
        """
        check_is_fitted(self, "params_")
        X = self._checked(X, reset=False)
        scores = self._network()(self._params_for(X), X)
        return scores[:, 0] if self._flat else scores

    def predict(self, X: Array) -> Array:
        """Indicator matrix of the predicted labels, in the values of the training targets.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like

        Returns
        -------
        y : (n_samples, n_labels) array of the same library, shaped as in training
        """
        present = predict_labels(self.decision_function(X), threshold=self.threshold)
        return _targets.decoded(present, self.label_values_, self._target_dtype)

    def score(self, X: Array, y: Array, sample_weight: Any = None) -> float:
        """Subset accuracy: the share of rows whose labels are all right.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like
        y : (n_samples, n_labels) array of the same library
        sample_weight : (n_samples,) array-like, optional

        Returns
        -------
        float
        """
        predicted = self.predict(X)
        truth = y if _array.is_array(y) else np.asarray(y)
        right = _array.to_numpy(predicted) == _array.to_numpy(truth)
        right = right if self._flat else np.all(right, axis=1)
        return float(accuracy_score(np.ones_like(right), right, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.array_api_support = True
        return tags

    def _check_parameters(self) -> None:
        _require_choice("loss", self.loss, _LOSSES)
        _require_choice("solver", self.solver, ("minibatch", "lbfgs"))
        _require_choice("activation", self.activation, _ACTIVATIONS)
        if not isinstance(self.optimizer, optim.Transform):
            _require_choice("optimizer", self.optimizer, _OPTIMIZERS)
        if self.solver == "lbfgs" and self._hidden():
            raise ValueError(
                f'solver="lbfgs" is for the linear model, hidden_layer_sizes=(), not {self.hidden_layer_sizes!r}'
            )
        if self.adversarial is not None:
            raise ValueError(f"adversarial must be None, not {self.adversarial!r}")
        for name in ("max_iter", "n_iter_no_change", "batch_size"):
            value = getattr(self, name)
            if not (name == "batch_size" and value is None) and not (_is_integer(value) and value >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        for name in ("alpha", "noise", "learning_rate", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {value!r}")
        if any(not _is_integer(width) or width < 1 for width in self._hidden()):
            raise ValueError(f"hidden_layer_sizes must be positive integers, got {self.hidden_layer_sizes!r}")
        if self.early_stopping and not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(f"validation_fraction must be in (0, 1), got {self.validation_fraction}")

    def _checked(self, X: Array, *, reset: bool) -> Array:
        if not _array.is_array(X) or isinstance(X, np.ndarray):
            return validate_data(self, X, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=1)
        _array.require_real_floating("X", X)
        if X.ndim != 2:
            raise ValueError(f"X must have shape (n_samples, n_features), not {tuple(X.shape)}")
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
        return (sizes,) if _is_integer(sizes) else tuple(sizes)

    def _network(self) -> Rule:
        return _network(self.activation, len(self._hidden()))

    def _params_for(self, X: Array) -> Any:
        """The parameters on the library of X, moved there if the model was fitted on another."""
        own = self.params_[0]["weight"]
        if _array.library(own) == _array.library(X):
            return self.params_
        xp = _array.namespace(X)
        return optree.tree_map(
            lambda p: xp.astype(_array.from_numpy(_array.to_numpy(p), X), X.dtype), self.params_
        )

    def _run(self, params: Any, X: Array, targets: Array, rng: np.random.Generator) -> Fit:
        objective = _Objective.of(self, self._alpha(X.shape[0]))
        unit = "iteration" if self.solver == "lbfgs" else "epoch"
        with progress_bar(unit, self.max_iter, self.verbose) as progress:
            if self.solver == "lbfgs":
                return fit_lbfgs(
                    objective,
                    params,
                    (X, targets),
                    max_iter=self.max_iter,
                    tol=self.tol / 10,
                    progress=progress,
                )
            data, held_out = self._split(X, targets, rng)
            return fit_minibatches(
                objective,
                params,
                data,
                held_out,
                optimizer=self._transform(),
                epochs=self.max_iter,
                batch_size=self.batch_size or min(200, data[0].shape[0]),
                stopping=Stopping(self.tol, self.n_iter_no_change),
                noise=self.noise,
                rng=rng,
                progress=progress,
            )

    def _alpha(self, rows: int) -> float:
        if self.alpha is not None:
            return self.alpha
        return 3.0 / rows if self.solver == "lbfgs" else 0.0

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

    def _split(self, X: Array, targets: Array, rng: np.random.Generator) -> tuple[Any, Any]:
        if not self.early_stopping:
            return (X, targets), None
        order = rng.permutation(X.shape[0])
        held = min(max(1, round(self.validation_fraction * len(order))), len(order) - 1)
        xp = _array.namespace(X)
        parts = [_array.from_numpy(part, X) for part in (order[held:], order[:held])]
        training, held_out = ((xp.take(X, part, axis=0), xp.take(targets, part, axis=0)) for part in parts)
        return training, held_out

    def _finish(self, fit: Fit) -> None:
        self.params_, self.n_iter_ = fit.params, max(1, fit.iterations)
        self.loss_curve_, self.validation_curve_ = fit.loss_curve, fit.validation_curve
        for leaf in optree.tree_leaves(fit.params):
            if not bool(_array.namespace(leaf).all(_array.namespace(leaf).isfinite(leaf))):
                raise ValueError("training diverged: parameters are not finite; try a smaller learning_rate")
        if fit.interrupted:
            warnings.warn("Training was interrupted; the parameters reached are kept.", stacklevel=3)
        elif not fit.converged:
            warnings.warn(
                f"Training ended at max_iter={self.max_iter} before it converged.",
                ConvergenceWarning,
                stacklevel=3,
            )


@functools.cache  # one rule for equal networks, so that JAX compiles it once
def _network(activation: str, hidden: int) -> Rule:
    return nn.sequential(
        *(layer for _ in range(hidden) for layer in (nn.dense, _ACTIVATIONS[activation])), nn.dense
    )


@dataclass(frozen=True)
class _Objective:
    """The penalised mean loss of a batch and its gradients; equal ones are compiled once."""

    network: Rule
    loss: Rule
    alpha: float
    options: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, model: MultilabelClassifier, alpha: float) -> _Objective:
        """The objective of a model's parameters."""
        options = [("label_smoothing", model.label_smoothing)]
        if model.loss == "zlpr":
            options.append(("threshold", model.threshold))
        return cls(model._network(), _LOSSES[model.loss], alpha, tuple(options))

    def __call__(self, params: Any, x: Array, targets: Array, weights: Array) -> tuple[Array, Any]:
        scores, pullback = self.network.vjp(params, x, argnums="params")
        loss, dscores = self.loss.value_and_grad(scores, targets, sample_weight=weights, **dict(self.options))
        gradients = pullback(dscores)
        if not self.alpha:
            return loss, gradients
        squares = sum(_array.namespace(x).sum(layer["weight"] * layer["weight"]) for layer in params)
        penalised = tuple(
            {**gradient, "weight": gradient["weight"] + self.alpha * layer["weight"]}
            for gradient, layer in zip(gradients, params, strict=True)
        )
        return loss + 0.5 * self.alpha * squares, penalised


def _require_choice(name: str, value: Any, choices: Any) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _generator(random_state: Any) -> np.random.Generator:
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(2**31 - 1))
    return np.random.default_rng(random_state)
