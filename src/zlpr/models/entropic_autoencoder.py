r"""An autoencoder whose codes are normal because nothing of mean 0 and variance 1 has more entropy.

Backpropagation runs through the pullbacks of `zlpr.nn` and `zlpr.entropy`; no autograd is used on any library. The
algebra is in ``docs/derivations/autoencoders.md``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.utils.validation import check_is_fitted

from zlpr import _array, _ops, nn, optim
from zlpr._array import Array
from zlpr.entropy import knn_entropy
from zlpr.models import _estimator
from zlpr.models._autoencoder import Autoencoder, squared_error
from zlpr.models._codes import CODE_EPSILON, normal_statistics, without_shift
from zlpr.models._training import Arrays
from zlpr.nn import Sequential
from zlpr.rules._rule import Pullback

_MIN_DISTANCE = 1e-6  # of codes of variance 1: nearer ones, duplicates among them, count as so far apart


class EntropicAutoencoder(Autoencoder):
    r"""Autoencoder with batch-normalised codes of maximal entropy: a generative model.

    .. math::

        L = \frac1n \sum_i \lVert x_i - F(z_i) \rVert^2 - \lambda \hat H(z_1, \dots, z_n), \qquad z = N(E(x))

    with the encoder :math:`E`, batch normalisation without affine map :math:`N`, the decoder :math:`F` and the
    estimate :math:`\hat H` of the entropy from nearest neighbours. Among the laws with mean 0 and variance 1 in each
    dimension the standard normal has the largest entropy, so codes drawn from it are ones the decoder knows.

    Parameters
    ----------
    latent_dim : int
        Numbers in a code.
    hidden_layer_sizes : sequence of int, or int, default (256, 128)
        Widths of the encoder's hidden layers, and in reverse of the decoder's; ``()`` for linear maps.
    entropy_weight : float, default 0.05
        :math:`\lambda`, in squared units of the data a nat; with 0 it is a plain autoencoder.
    k : int, default 3
        Which neighbour the estimate takes.
    batch_norm : bool, default True
        Without batch normalisation the loss is
        :math:`\lambda` times an estimate of :math:`\mathrm{KL}(q(z) \| N(0, I))` in place of the entropy term,
        which has the same gradient where the codes are normalised.
    activation : {"gelu", "relu"}, default "gelu"
        Of the hidden layers.
    output_activation : {"identity", "sigmoid"}, default "identity"
        Of the decoder's output; "sigmoid" is for data in [0, 1], such as images, and reconstructs them better.
    optimizer : str or zlpr.optim.Transform, default "adam"
        "sgd", "adam", "adamw", "adax", "adaxw", or a transform of your own.
    learning_rate : float, optional
        For an optimizer given by name; 0.005 for adax and adaxw, 0.001 for adam and adamw, 0.1 for sgd by default.
    max_iter : int, default 300
        Epochs.
    batch_size : int, optional
        Rows in a minibatch, more than k; ``min(200, n_samples)`` by default. Rows that do not fill one are left out
        of that epoch, others in each.
    clip_norm : float, optional
        Largest global norm of the gradients of a minibatch.
    early_stopping : bool, default False
        Whether training watches the loss on a held-out part of the data, stops when it no longer falls, and keeps
        the best epoch. Otherwise the training loss is watched.
    validation_fraction : float, default 0.1
        Held-out share of the rows for `early_stopping`.
    n_iter_no_change : int, default 10
        Epochs without a gain of `tol` after which training stops.
    tol : float, default 1e-4
        That gain.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Seed of the initial parameters and of the order of the rows, drawn by NumPy: one seed gives the same model on
        every library.
    verbose : int, default 0
        Whether to show a progress bar on standard error.

    Attributes
    ----------
    params_ : dict
        ``encoder`` and ``decoder``, each a tuple with ``weight`` and ``bias`` of each layer, and ``codes``, the
        ``mean`` and ``variance`` of the encoder's outputs over all training rows, where they are normalised; of the
        library of the training data.
    n_features_in_ : int
    feature_names_in_ : ndarray
        Where X had string column names.
    n_iter_ : int
        Epochs run.
    loss_curve_ : list of float
        Mean loss of the batches of each epoch.
    validation_curve_ : list of float
        Held-out loss after each epoch, with `early_stopping`.

    See Also
    --------
    zlpr.entropy.knn_entropy : The estimate.
    VariationalAutoencoder : Asks normality of each row's code instead.

    Notes
    -----
    Bring the features to one scale first. An interrupted fit (Ctrl-C) warns and keeps the parameters reached.
    Codes nearer than 1e-6 count as so far apart, without a gradient: repeated rows do no harm. After training the
    estimate is above the entropy of the codes, which have learned to avoid each other.

    References
    ----------
    .. [1] J. Su, "EAE: Autoencoder + BN + Maximum Entropy = Generative Model", Scientific Spaces, post 7343.
    .. [2] J. Su, "Improving Generative Models with Maximum Entropy", arXiv:2002.10631.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.models import EntropicAutoencoder
    >>> X = np.random.default_rng(0).normal(size=(100, 1)) * np.asarray([[3.0, 4.0]])  # on a line
    >>> model = EntropicAutoencoder(1, hidden_layer_sizes=(), learning_rate=0.1, tol=0.01, random_state=0).fit(X)
    >>> model.transform(X).shape, model.sample(5, random_state=0).shape
    ((100, 1), (5, 2))
    >>> bool(model.score(X) > -0.1)  # of a total variance near 25
    True
    """

    def __init__(
        self,
        latent_dim: int,
        hidden_layer_sizes: Sequence[int] | int = (256, 128),
        *,
        entropy_weight: float = 0.05,
        k: int = 3,
        batch_norm: bool = True,
        activation: Literal["gelu", "relu"] = "gelu",
        output_activation: Literal["identity", "sigmoid"] = "identity",
        optimizer: str | optim.Transform = "adam",
        learning_rate: float | None = None,
        max_iter: int = 300,
        batch_size: int | None = None,
        clip_norm: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden_layer_sizes = hidden_layer_sizes
        self.entropy_weight = entropy_weight
        self.k = k
        self.batch_norm = batch_norm
        self.activation = activation
        self.output_activation = output_activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.clip_norm = clip_norm
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def score(self, X: Array, y: Any = None) -> float:
        """Negative mean over the rows of the squared reconstruction error, summed over the features.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like
        y : ignored

        Returns
        -------
        float
            In squared units of the data.
        """
        check_is_fitted(self, "params_")
        X = self._checked(X, reset=False)
        params = self._params_for(X)
        return -float(squared_error(X, self._decoded(params, self._encode(params, X)))[0])

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _estimator.require_magnitude("entropy_weight", self.entropy_weight)
        _estimator.require_count("k", self.k)

    def _check_data(self, X: Array) -> None:
        if (rows := self._rows_of_a_batch(X.shape[0])) <= self.k:
            raise ValueError(
                f"a batch must have more than k={self.k} samples, but batch_size={self.batch_size!r} and "
                f"n_samples = {X.shape[0]} leave {rows}"
            )

    def _split(self, data: Arrays, rng: np.random.Generator) -> tuple[Arrays, Arrays | None]:
        training, held_out = super()._split(data, rng)
        if held_out is not None and held_out[0].shape[0] <= self.k:
            raise ValueError(
                f"validation_fraction must hold out more than k={self.k} samples, but "
                f"validation_fraction={self.validation_fraction} and n_samples = {data[0].shape[0]} leave "
                f"{held_out[0].shape[0]}"
            )
        return training, held_out

    def _objective(self) -> EntropicLoss:
        return EntropicLoss(self._encoder(), self._decoder(), self.entropy_weight, self.k, self.batch_norm)

    def _statistics(self, outputs: Array) -> dict[str, Array]:
        return normal_statistics(outputs) if self.batch_norm else {}

    def _encode(self, params: dict[str, Any], X: Array) -> Array:
        outputs = self._encoded(params, X)
        return nn.batch_norm(params["codes"], outputs, epsilon=CODE_EPSILON) if self.batch_norm else outputs


@dataclass(frozen=True)
class EntropicLoss:
    """The loss of a batch and its gradients; equal ones are compiled once."""

    encoder: Sequential
    decoder: Sequential
    weight: float
    k: int
    batch_norm: bool

    def __call__(self, params: Any, x: Array) -> tuple[Array, Any]:
        """The loss of the rows, whose codes are normalised together."""
        z, to_encoder = self._codes(params["encoder"], x)
        y, to_decoder = self.decoder.vjp(params["decoder"], z)
        loss, dy = squared_error(x, y)
        ddecoder, dz = to_decoder(dy)
        if self.weight:
            penalty, slope = self._penalty(z)
            loss, dz = loss + self.weight * penalty, dz + self.weight * slope
        return loss, {"encoder": to_encoder(dz), "decoder": ddecoder}

    def _codes(self, params: Any, x: Array) -> tuple[Array, Pullback]:
        outputs, to_params = self.encoder.vjp(params, x, argnums="params")
        if not self.batch_norm:
            return outputs, to_params
        z, to_outputs = nn.batch_norm.vjp({}, outputs, epsilon=CODE_EPSILON, argnums="x")
        return z, lambda dz: without_shift(to_params(to_outputs(dz)), z.shape[1])

    def _penalty(self, z: Array) -> tuple[Array, Array]:
        """Minus the entropy or, for codes of any mean and variance, the divergence from the normal law."""
        if _array.place(z) == "host":  # elsewhere the loss is nan, and so are the parameters in the end
            _estimator.require_finite("codes", z)
        entropy, slope = knn_entropy.value_and_grad(
            z, k=self.k, duplicates="clamp", min_distance=_MIN_DISTANCE
        )
        if self.batch_norm:
            return -entropy, -slope
        n, d = z.shape
        energy = _ops.row_sum(_ops.row_sum(z * z)) * (0.5 / n)
        return energy + 0.5 * d * math.log(2 * math.pi) - entropy, z * (1.0 / n) - slope
