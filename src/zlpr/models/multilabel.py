"""A multi-label classifier: a linear model or a multi-layer perceptron trained with ZLPR, by hand-derived gradients.

Backpropagation runs through the pullbacks of `zlpr.nn`; no autograd is used on any library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import optree
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted

from zlpr import _array, _constants, nn, optim, perturb
from zlpr._array import Array
from zlpr.decision import predict_labels
from zlpr.models import _estimator, _objective, _targets, _unlabelled
from zlpr.models._estimator import NetworkEstimator
from zlpr.models._objective import Objective, Regularisers
from zlpr.models._progress import progress_bar
from zlpr.models._training import Arrays, Batches, BatchSource, Fit, fit_lbfgs, ones
from zlpr.models._unlabelled import PairedBatches


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
        Standard deviation of the Gaussian noise added to the inputs of each minibatch. L-BFGS takes no noise, no
        gradient penalty and no `adversarial`.
    adversarial : {"fgm", "vat"}, optional
        Adversarial training, with minibatches. ``"fgm"`` adds the loss at inputs moved against their labels by
        `zlpr.perturb.fgm`. ``"vat"`` adds the divergence of the prediction at inputs moved to where it changes most, by
        `zlpr.perturb.virtual_adversarial`; it needs no labels and takes rows without any.
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
        That gain; L-BFGS ends where no entry of the gradient is above ``tol / 10``, or where an iteration lowers the
        loss by no more than its last digit.
    gradient_penalty : float, default 0.0
        Weight of half the squared slope of the loss in the inputs, with minibatches; `zlpr.perturb.gradient_penalty`.
    adversarial_epsilon : float, optional
        Euclidean length of the adversarial perturbation of a row, all features together. By default half the root mean
        square of the features' standard deviations: 0.5 for standardised features, however many.
    adversarial_weight : float, default 1.0
        Weight of what `adversarial` adds; the weight of the loss itself is 1.
    power_iterations : int, default 1
        Of ``"vat"``; with 0 the perturbation is the random direction that they begin with.
    xi : float, optional
        Step by which the iterations of ``"vat"`` take differences, as published; by default they take none, and are
        exact products with the Jacobian.

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
        Held-out loss after each epoch, with `early_stopping`; without noise, penalty and adversarial terms.
    adversarial_epsilon_ : float
        Length of the adversarial perturbations, with `adversarial`.

    See Also
    --------
    zlpr.losses.zlpr_loss : The loss.

    Notes
    -----
    Standardise the features first, with a scikit-learn pipeline for instance. An interrupted fit (Ctrl-C) warns and
    keeps the parameters reached.

    Rows whose labels are all nan are unlabelled: with ``adversarial="vat"`` they join its term, and nothing else. So
    are rows of -1 alone, if the others hold two values of their own, such as 0 and 1. A batch then has up to
    `batch_size` rows of either kind, and `early_stopping` holds labelled rows out. A problem with one class a row is
    given as an indicator matrix; its prediction is the largest score, ``decision_function(X).argmax(axis=1)``.

    What the regularisers do is shown in ``docs/regularizers.md``. Each takes further passes through the network: one
    for ``"fgm"``, two for the penalty, and about ``power_iterations + 2`` for ``"vat"``.

    References
    ----------
    .. [1] J. Su et al., "ZLPR: A Novel Loss for Multi-label Classification", arXiv:2208.02955, 2022.
    .. [2] T. Miyato, S. Maeda, M. Koyama, S. Ishii, "Virtual adversarial training: a regularization method for
       supervised and semi-supervised learning", arXiv:1704.03976, 2017.

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
        adversarial: Literal["fgm", "vat"] | None = None,
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
        gradient_penalty: float = 0.0,
        adversarial_epsilon: float | None = None,
        adversarial_weight: float = 1.0,
        power_iterations: int = 1,
        xi: float | None = None,
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
        self.gradient_penalty = gradient_penalty
        self.adversarial_epsilon = adversarial_epsilon
        self.adversarial_weight = adversarial_weight
        self.power_iterations = power_iterations
        self.xi = xi

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
            Indicator matrix: 0-1, bool, or any two values. One label may be given as (n_samples,). With
            ``adversarial="vat"`` rows of nan alone, or of -1 alone beside two other values, are unlabelled.

        Returns
        -------
        self
        """
        self._check_parameters()
        self.__dict__.pop("adversarial_epsilon_", None)  # of an earlier fit
        X = self._checked(X, reset=True)
        y = _targets.checked_indicator(y, X)
        unlabelled = self._unlabelled(y)
        self.label_values_ = _targets.label_values(_array.to_numpy(y)[~unlabelled])
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
        self._finish(self._run(params, X, targets, unlabelled, rng))
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
        """Subset accuracy: the share of rows whose labels are all right; unlabelled rows do not count.

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
        truth = _array.to_numpy(y) if _array.is_array(y) else np.asarray(y)
        known = ~_unlabelled.unlabelled(truth, self.label_values_)
        if not known.any():
            raise ValueError("y must have a labelled row to score on, but all are unlabelled")
        right = _array.to_numpy(predicted) == truth
        right = (right if self._flat else np.all(right, axis=1))[known]
        if sample_weight is not None:
            sample_weight = np.asarray(sample_weight)[known]
        return float(accuracy_score(np.ones_like(right), right, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.classifier_tags.multi_class = False
        tags.classifier_tags.multi_label = True
        tags.array_api_support = True
        return tags

    def _check_parameters(self) -> None:
        _estimator.require_choice("loss", self.loss, _objective.LOSSES)
        _estimator.require_choice("solver", self.solver, ("minibatch", "lbfgs"))
        self._check_training()
        if self.solver == "lbfgs" and self._hidden():
            raise ValueError(
                f'solver="lbfgs" is for the linear model, hidden_layer_sizes=(), not {self.hidden_layer_sizes!r}'
            )
        _estimator.require_choice("adversarial", self.adversarial, (None, "fgm", "vat"))
        for name in ("noise", "gradient_penalty", "adversarial_weight"):
            _estimator.require_magnitude(name, getattr(self, name))
        for name in ("alpha", "adversarial_epsilon", "xi"):
            if getattr(self, name) is not None:
                _estimator.require_magnitude(name, getattr(self, name))
        if self.xi == 0:
            raise ValueError("xi must be positive, got 0: no difference can be taken over no distance")
        if not (_constants.is_integer(self.power_iterations) and self.power_iterations >= 0):
            raise ValueError(
                f"power_iterations must be an integer of at least 0, got {self.power_iterations!r}"
            )
        for name in ("noise", "adversarial", "gradient_penalty") if self.solver == "lbfgs" else ():
            if getattr(self, name):
                raise ValueError(
                    f'{name}={getattr(self, name)!r} needs solver="minibatch": L-BFGS is for a fixed, convex function'
                )

    def _unlabelled(self, y: Array) -> np.ndarray[Any, Any]:
        """Which rows have no labels; refused where they are all, or where no term takes them."""
        rows = _unlabelled.unlabelled(y)
        if rows.all():
            raise ValueError("y must have at least one labelled row, but all are nan")
        if rows.any() and self.adversarial != "vat":
            raise ValueError(
                f"y has {rows.sum()} unlabelled rows, of nan or -1 alone, the first of them row {np.argmax(rows)}: "
                f'leave them out, or take adversarial="vat", which learns from them, not {self.adversarial!r}'
            )
        return rows

    def _network(self) -> nn.Sequential:
        return _objective.network(self.activation, len(self._hidden()))

    def _run(
        self,
        params: Any,
        X: Array,
        targets: Array,
        unlabelled: np.ndarray[Any, Any],
        rng: np.random.Generator,
    ) -> Fit:
        objective = self._objective(X)
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
            data: Arrays = (X, targets)
            if unlabelled.any():
                data = tuple(_unlabelled.chosen(part, ~unlabelled) for part in data)
            data, held_out = self._split(data, rng)
            batches: BatchSource = Batches(self._rows_of_a_batch(data[0].shape[0]), prepared=self._drawn)
            if unlabelled.any():
                data = (*data, _unlabelled.chosen(X, unlabelled))
                batches = PairedBatches(self.batch_size or 200, prepared=self._drawn)
            descent = self._descent(objective, params, batches, rng)
            descent.held_out_objective = objective.plain()
            return self._by_minibatches(
                descent, data, None if held_out is None else (*held_out, ones(held_out[0])), progress
            )

    def _drawn(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The batch with noise on the inputs, and the first directions of virtual adversarial training."""
        x, targets = arrays
        x = perturb.gaussian_noise(x, self.noise, rng=rng)
        if self.adversarial != "vat":
            return x, targets
        return x, targets, perturb.random_direction(x, rng=rng)

    def _objective(self, X: Array) -> Objective:
        added = Regularisers(gradient_penalty=self.gradient_penalty)
        if self.adversarial is not None:
            self.adversarial_epsilon_ = self._epsilon(X)
            added = Regularisers(
                self.adversarial,
                self.adversarial_epsilon_,
                self.adversarial_weight,
                self.xi,
                int(self.power_iterations),
                self.gradient_penalty,
            )
        alpha = self.alpha
        if alpha is None:
            alpha = 3.0 / X.shape[0] if self.solver == "lbfgs" else 0.0
        return Objective(self._network(), self.loss, self.threshold, self.label_smoothing, alpha, added)

    def _epsilon(self, X: Array) -> float:
        if self.adversarial_epsilon is not None:
            return float(self.adversarial_epsilon)
        xp = _array.namespace(X)
        return 0.5 * math.sqrt(float(xp.mean(xp.var(X, axis=0))))
