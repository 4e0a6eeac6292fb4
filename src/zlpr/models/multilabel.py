"""A multi-label classifier: a linear model or a multi-layer perceptron trained with ZLPR, by hand-derived gradients.

Backpropagation runs through the pullbacks of `zlpr.nn`; no autograd is used on any library.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optree
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from zlpr import _array, losses, nn, optim
from zlpr._array import Array
from zlpr.decision import predict_labels
from zlpr.models import _estimator, _targets
from zlpr.models._estimator import NetworkEstimator
from zlpr.models._progress import progress_bar
from zlpr.models._training import Arrays, Batches, Fit, drawn_normal, fit_lbfgs, ones
from zlpr.rules import Rule

_LOSSES = {"zlpr": losses.zlpr_loss, "sigmoid": losses.sigmoid_cross_entropy}


class MultilabelClassifier(ClassifierMixin, NetworkEstimator):  # type: ignore[misc]  # scikit-learn is untyped
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
        rng = _estimator.generator(self.random_state)
        sizes = (self.n_features_in_, *self._hidden(), self.n_outputs_)
        params: Any = nn.dense_parameters(sizes, X, gain=_estimator.gain(len(sizes) - 2), rng=rng)
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
        _estimator.require_choice("loss", self.loss, _LOSSES)
        _estimator.require_choice("solver", self.solver, ("minibatch", "lbfgs"))
        self._check_training()
        if self.solver == "lbfgs" and self._hidden():
            raise ValueError(
                f'solver="lbfgs" is for the linear model, hidden_layer_sizes=(), not {self.hidden_layer_sizes!r}'
            )
        if self.adversarial is not None:
            raise ValueError(f"adversarial must be None, not {self.adversarial!r}")
        _estimator.require_magnitude("noise", self.noise)
        if self.alpha is not None:
            _estimator.require_magnitude("alpha", self.alpha)

    def _network(self) -> Rule:
        return _network(self.activation, len(self._hidden()))

    def _run(self, params: Any, X: Array, targets: Array, rng: np.random.Generator) -> Fit:
        objective = _Objective.of(self, self._alpha(X.shape[0]))
        unit = "iteration" if self.solver == "lbfgs" else "epoch"
        with progress_bar(unit, self.max_iter, self.verbose) as progress:
            if self.solver == "lbfgs":
                return fit_lbfgs(
                    objective,
                    params,
                    (X, targets, ones(X)),
                    max_iter=self.max_iter,
                    tol=self.tol / 10,
                    progress=progress,
                )
            data, held_out = self._split((X, targets), rng)
            batches = Batches(self._rows_of_a_batch(data[0].shape[0]), prepared=self._with_noise)
            return self._by_minibatches(
                self._descent(objective, params, batches, rng),
                data,
                None if held_out is None else (*held_out, ones(held_out[0])),
                progress,
            )

    def _with_noise(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        x, targets = arrays
        return (x + self.noise * drawn_normal(tuple(x.shape), x, rng) if self.noise else x), targets

    def _alpha(self, rows: int) -> float:
        if self.alpha is not None:
            return self.alpha
        return 3.0 / rows if self.solver == "lbfgs" else 0.0


@functools.cache  # one rule for equal networks, so that JAX compiles it once
def _network(activation: str, hidden: int) -> Rule:
    return nn.sequential(*_estimator.hidden_layers(activation, hidden), nn.dense)


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
