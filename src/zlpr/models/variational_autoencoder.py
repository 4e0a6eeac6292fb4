r"""The variational autoencoder, by hand-derived gradients; without hidden layers it is probabilistic PCA.

Backpropagation runs through the pullbacks of `zlpr.nn` and `zlpr.losses`; no autograd is used on any library. The
algebra is in ``docs/derivations/autoencoders.md``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from zlpr import _array, _bridges, _ops, activations, losses, optim
from zlpr._array import Array
from zlpr.models import _codes, _estimator
from zlpr.models._autoencoder import Autoencoder, squared_error
from zlpr.models._progress import progress_bar
from zlpr.models._training import Arrays, Fit, drawn_normal, fit_lbfgs
from zlpr.nn import Sequential
from zlpr.rules._rule import Pullback

_LIKELIHOODS = ("gaussian", "bernoulli")


class VariationalAutoencoder(Autoencoder):
    r"""Autoencoder whose codes are normal laws, one a row, held near the standard one: a generative model.

    .. math::

        L = \frac1n \sum_i \mathbb E_{z \sim N(\mu_i, \operatorname{diag} \sigma_i^2)} [-\log p(x_i | z)]
            + w \, \mathrm{KL}\big(N(\mu_i, \operatorname{diag} \sigma_i^2) \,\|\, N(0, I)\big)

    with :math:`\mu_i` and :math:`\log \sigma_i^2` from the encoder; for :math:`w = 1` the negative of the evidence
    lower bound (ELBO). The expectation is taken at one draw a row and batch, :math:`z = \mu + \sigma \varepsilon`,
    and exactly for a Gaussian likelihood of linear maps, where the model is probabilistic PCA.

    Parameters
    ----------
    latent_dim : int
        Numbers in a code.
    hidden_layer_sizes : sequence of int, or int, default (256, 128)
        Widths of the encoder's hidden layers, and in reverse of the decoder's; ``()`` for linear maps.
    likelihood : {"gaussian", "bernoulli"}, default "gaussian"
        Of the features given the decoder's output: normal of one variance, or 0-1 with logits as outputs. The latter
        takes data in [0, 1].
    noise_variance : float or "learned", default "learned"
        Variance of the Gaussian likelihood. With 0.5 the reconstruction term is the squared error summed over the
        features, plus a constant, and `kl_weight` is in squared units of the data a nat, like the `entropy_weight`
        of `EntropicAutoencoder`. With "learned" the optimum does not depend on the scale of the data; the way
        there does, so standardise the features.
    kl_weight : float, default 1.0
        :math:`w`.
    free_bits : float, default 0.0
        Nats: a dimension of the code whose divergence, averaged over the batch, is below costs as much.
    batch_norm : bool, default False
        Against posterior collapse: normalises the codes over the batch, so that
        :math:`\mathbb E \mu^2 = \tau + (1 - \tau) s` and :math:`\mathbb E \sigma^2 = (1 - \tau)(1 - s)` in each
        dimension, with a learned share :math:`s` in (0, 1). The divergence of a dimension is then at least
        :math:`-\tfrac12 \log(1 - \tau)`.
    tau : float, default 0.5
        :math:`\tau`, in (0, 1).
    solver : {"minibatch", "lbfgs"}, default "minibatch"
        ``"lbfgs"`` is for the loss that has no draws, a Gaussian likelihood without hidden layers: all rows at once,
        by SciPy.
    activation : {"gelu", "relu"}, default "gelu"
        Of the hidden layers.
    output_activation : {"identity", "sigmoid"}, default "identity"
        Of the means of a Gaussian likelihood; "sigmoid" is for data in [0, 1], such as images.
    optimizer : str or zlpr.optim.Transform, default "adam"
        "sgd", "adam", "adamw", "adax", "adaxw", or a transform of your own.
    learning_rate : float, optional
        For an optimizer given by name; 0.005 for adax and adaxw, 0.001 for adam and adamw, 0.1 for sgd by default.
    max_iter : int, default 300
        Epochs, or iterations of L-BFGS.
    batch_size : int, optional
        Rows in a minibatch; ``min(200, n_samples)`` by default. Rows that do not fill one are left out of that epoch,
        others in each.
    clip_norm : float, optional
        Largest global norm of the gradients of a minibatch.
    early_stopping : bool, default False
        Whether minibatch training watches the loss on a held-out part of the data, with the same draws each time,
        stops when it no longer falls, and keeps the best epoch. Otherwise the training loss is watched.
    validation_fraction : float, default 0.1
        Held-out share of the rows for `early_stopping`.
    n_iter_no_change : int, default 10
        Epochs without a gain of `tol` after which minibatch training stops.
    tol : float, default 1e-4
        That gain; L-BFGS ends where no entry of the gradient is above ``tol / 10``, or where an iteration lowers the
        loss by no more than its last digit.
    random_state : int, numpy.random.Generator, numpy.random.RandomState or None
        Seed of the initial parameters, the order of the rows and the codes, drawn by NumPy: one seed gives the same
        model on every library.
    verbose : int, default 0
        Whether to show a progress bar on standard error.

    Attributes
    ----------
    params_ : dict
        ``encoder`` and ``decoder``, each a tuple with ``weight`` and ``bias`` of each layer, of the library of the
        training data; the encoder gives means and log-variances side by side. ``noise`` has the ``log_variance`` of
        the likelihood where it is learned, ``codes`` what `batch_norm` needs.
    noise_variance_ : float
        Of the Gaussian likelihood.
    n_features_in_ : int
    feature_names_in_ : ndarray
        Where X had string column names.
    n_iter_ : int
        Epochs or iterations run.
    loss_curve_ : list of float
        Mean loss of the batches of each epoch, nats.
    validation_curve_ : list of float
        Held-out loss after each epoch, with `early_stopping`.

    See Also
    --------
    zlpr.losses.gaussian_kl : The divergence.
    EntropicAutoencoder : Asks normality of all codes together instead.

    Notes
    -----
    Bring the features to one scale first. An interrupted fit (Ctrl-C) warns and keeps the parameters reached.
    Log-variances of codes are kept in [-30, 20], that of the likelihood above -30.

    References
    ----------
    .. [1] D. P. Kingma, M. Welling, "Auto-Encoding Variational Bayes", arXiv:1312.6114, 2013.
    .. [2] D. P. Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow", arXiv:1606.04934,
       2016, appendix C.8 (free bits).
    .. [3] J. Su, Scientific Spaces, posts 5253, 5343, 7381 (batch normalisation) and 7725.
    .. [4] J. Lucas et al., "Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse", NeurIPS 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from zlpr.models import VariationalAutoencoder
    >>> X = np.asarray([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # variances 4.5 and 0.5
    >>> model = VariationalAutoencoder(1, hidden_layer_sizes=(), solver="lbfgs", tol=1e-8, random_state=0).fit(X)
    >>> round(model.noise_variance_, 6)
    0.5
    >>> round(model.score(X), 6)  # -(2 + 2 log(2 pi) + log(4.5) + log(0.5)) / 2
    -3.243342
    """

    _code_width = 2

    def __init__(
        self,
        latent_dim: int,
        hidden_layer_sizes: Sequence[int] | int = (256, 128),
        *,
        likelihood: Literal["gaussian", "bernoulli"] = "gaussian",
        noise_variance: float | Literal["learned"] = "learned",
        kl_weight: float = 1.0,
        free_bits: float = 0.0,
        batch_norm: bool = False,
        tau: float = 0.5,
        solver: Literal["minibatch", "lbfgs"] = "minibatch",
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
        self.likelihood = likelihood
        self.noise_variance = noise_variance
        self.kl_weight = kl_weight
        self.free_bits = free_bits
        self.batch_norm = batch_norm
        self.tau = tau
        self.solver = solver
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

    def posterior(self, X: Array) -> tuple[Array, Array]:
        """The laws of the codes of rows.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like

        Returns
        -------
        mean, log_variance : (n_samples, latent_dim) arrays of the same library
            The means are what `transform` gives.
        """
        check_is_fitted(self, "params_")
        X = self._checked(X, reset=False)
        return self._posterior(self._params_for(X), X)

    def score(self, X: Array, y: Any = None) -> float:
        """Evidence lower bound (ELBO), the mean over the rows, whatever `kl_weight` and `free_bits` are.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like
        y : ignored

        Returns
        -------
        float
            Nats a row. With draws of fixed seed where the expectation is not exact.
        """
        check_is_fitted(self, "params_")
        X = self._checked(X, reset=False)
        self._check_data(X)
        drawn = self._prepared((X,), np.random.default_rng(0))[1:]
        bound = replace(self._objective(), kl_weight=1.0, free_bits=0.0)
        return -float(_bridges.compiled(X, bound, self._params_for(X), X, *drawn)[0])

    @property
    def noise_variance_(self) -> float:
        """Variance of the Gaussian likelihood."""
        check_is_fitted(self, "params_")
        if self.likelihood != "gaussian":
            raise AttributeError("a Bernoulli likelihood has no noise_variance_")
        if self.noise_variance != "learned":
            return float(self.noise_variance)
        return math.exp(float(self.params_["noise"]["log_variance"][0]))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        _estimator.require_choice("likelihood", self.likelihood, _LIKELIHOODS)
        if self.likelihood == "bernoulli" and self.output_activation != "identity":
            raise ValueError(
                f'output_activation must be "identity" for the Bernoulli likelihood, whose outputs are logits, not '
                f"{self.output_activation!r}"
            )
        _estimator.require_choice("solver", self.solver, ("minibatch", "lbfgs"))
        _estimator.require_magnitude("kl_weight", self.kl_weight)
        _estimator.require_magnitude("free_bits", self.free_bits)
        if self.noise_variance != "learned" and not (
            not isinstance(self.noise_variance, str) and 0 < self.noise_variance < math.inf
        ):
            raise ValueError(
                f'noise_variance must be positive and finite or "learned", got {self.noise_variance!r}'
            )
        if not 0 < self.tau < 1:
            raise ValueError(f"tau must be in (0, 1), got {self.tau!r}")
        if self.solver == "lbfgs" and not self._is_exact():
            raise ValueError(
                'solver="lbfgs" is for a loss without draws: a Gaussian likelihood, output_activation="identity" and '
                f"hidden_layer_sizes=(), not {self.likelihood!r}, {self.output_activation!r} and "
                f"{self.hidden_layer_sizes!r}"
            )

    def _check_data(self, X: Array) -> None:
        if self.likelihood == "bernoulli" and not bool(_array.namespace(X).all((X >= 0) & (X <= 1))):
            raise ValueError("X must be in [0, 1] for the Bernoulli likelihood")

    def _is_exact(self) -> bool:
        return self.likelihood == "gaussian" and self.output_activation == "identity" and not self._hidden()

    def _objective(self) -> NegativeBound:
        fixed = None if self.noise_variance == "learned" else math.log(self.noise_variance)
        return NegativeBound(
            self._encoder(),
            self._decoder(),
            self.likelihood,
            fixed,
            self.kl_weight,
            self.free_bits,
            self.tau if self.batch_norm else None,
        )

    def _initial_params(self, X: Array, rng: np.random.Generator) -> dict[str, Any]:
        params = super()._initial_params(X, rng)
        xp, place = _array.namespace(X), {"dtype": X.dtype, "device": _array.device(X)}
        if self.batch_norm:
            params["codes"] = {"scale": xp.zeros((self.latent_dim,), **place)}
        if self.likelihood == "gaussian" and self.noise_variance == "learned":
            variance = max(float(xp.mean(xp.var(X, axis=0))), math.exp(_codes.LOG_VARIANCES[0]))
            params["noise"] = {"log_variance": xp.full((1,), math.log(variance), **place)}
        return params

    def _prepared(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        if self._is_exact():
            return arrays
        (x,) = arrays
        return x, drawn_normal((x.shape[0], self.latent_dim), x, rng)

    def _run(self, params: Any, X: Array, held_out: Arrays | None, rng: np.random.Generator) -> Fit:
        if self.solver == "minibatch":
            return super()._run(params, X, held_out, rng)
        with progress_bar("iteration", self.max_iter, self.verbose) as progress:
            return fit_lbfgs(
                self._objective(), params, (X,), max_iter=self.max_iter, tol=self.tol / 10, progress=progress
            )

    def _split(self, data: Arrays, rng: np.random.Generator) -> tuple[Arrays, Arrays | None]:
        return super()._split(data, rng) if self.solver == "minibatch" else (data, None)

    def _statistics(self, outputs: Array) -> dict[str, Array]:
        mean, log_variance = _codes.halves(outputs)
        if not bool(_array.namespace(outputs).all(_codes.within_bounds(log_variance)[1] == 1)):
            warnings.warn(
                f"log-variances of codes are beyond {_codes.LOG_VARIANCES}, where training cannot move them; "
                f"standardise the features, or try a smaller learning_rate",
                ConvergenceWarning,
                stacklevel=4,
            )
        if not self.batch_norm:
            return {}
        return {**_codes.normal_statistics(mean), "log_mean": _codes.log_mean_exp(log_variance)}

    def _posterior(self, params: dict[str, Any], X: Array) -> tuple[Array, Array]:
        return _codes.halves(self._objective().codes(params, self._encoded(params, X))[0])

    def _encode(self, params: dict[str, Any], X: Array) -> Array:
        return self._posterior(params, X)[0]

    def _decoded(self, params: dict[str, Any], Z: Array) -> Array:
        outputs = super()._decoded(params, Z)
        return activations.sigmoid(outputs) if self.likelihood == "bernoulli" else outputs


@dataclass(frozen=True)
class NegativeBound:
    """The loss of a batch and its gradients; equal ones are compiled once."""

    encoder: Sequential
    decoder: Sequential
    likelihood: str
    log_noise: float | None
    kl_weight: float
    free_bits: float
    tau: float | None

    def __call__(self, params: Any, x: Array, noise: Array | None = None) -> tuple[Array, Any]:
        """The loss at the draws or, without, in exact expectation over the codes, which takes a linear decoder."""
        outputs, to_encoder = self.encoder.vjp(params["encoder"], x, argnums="params")
        laws, to_outputs = self.codes(params, outputs)
        mean, log_variance = _codes.halves(laws)
        half = noise if noise is None else 0.5 * noise * _array.namespace(x).exp(0.5 * log_variance)
        z = mean if half is None else mean + 2.0 * half
        y, to_decoder = self.decoder.vjp(params["decoder"], z)
        spread = 0.0 if half is not None else _spread(params["decoder"], log_variance)
        loss, dy, dspread, gradients = self._reconstruction(params, x, y, spread)
        ddecoder, dz = to_decoder(dy)
        divergence, dmean, dlog = self._divergence(mean, log_variance)
        if half is None:
            ddecoder, slope = _with_spread(ddecoder, params["decoder"], log_variance, dspread)
        else:
            slope = dz * half
        dcodes, doutputs = to_outputs(_codes.joined(dz + dmean, slope + dlog))
        gradients |= {"encoder": to_encoder(doutputs), "decoder": ddecoder}
        if self.tau is not None:
            gradients |= {
                "encoder": _codes.without_shift(gradients["encoder"], 2 * mean.shape[1]),
                "codes": dcodes,
            }
        return loss + divergence, gradients

    def codes(self, params: Any, outputs: Array) -> tuple[Array, Pullback]:
        """Means and log-variances side by side, and the pullback to ``codes`` and the encoder's outputs."""
        if self.tau is None:
            return _codes.bounded.vjp({}, outputs)
        return _codes.balanced.vjp(params["codes"], outputs, tau=self.tau)

    def _reconstruction(
        self, params: Any, x: Array, y: Array, spread: Array | float
    ) -> tuple[Array, Array, Array | float, dict[str, Any]]:
        """Mean negative log-likelihood; its slopes by the outputs and the spread, and by ``noise`` where learned."""
        if self.likelihood == "bernoulli":
            loss, dy = losses.sigmoid_cross_entropy.value_and_grad(y, x)
            return loss, dy, 0.0, {}
        error, dy = squared_error(x, y)
        error = error + spread
        if self.log_noise is not None:
            precision = math.exp(-self.log_noise)
            loss = 0.5 * (error * precision + x.shape[1] * (math.log(2 * math.pi) + self.log_noise))
            return loss, dy * (0.5 * precision), 0.5 * precision, {}
        log_noise, inside = _codes.within_bounds(params["noise"]["log_variance"])
        precision = _array.namespace(x).exp(-log_noise)
        loss = 0.5 * (error * precision + x.shape[1] * (math.log(2 * math.pi) + log_noise))[0]
        slope = 0.5 * inside * (x.shape[1] - error * precision)
        return loss, dy * (0.5 * precision), 0.5 * precision, {"noise": {"log_variance": slope}}

    def _divergence(self, mean: Array, log_variance: Array) -> tuple[Array, Array, Array]:
        """Mean divergence of the codes from N(0, I), at least `free_bits` a dimension, weighted; and its slopes."""
        xp, n = _array.namespace(mean), mean.shape[0]
        totals, slopes = losses.gaussian_kl.value_and_grad(
            mean, log_variance, axis=0, reduction="none", argnums=("mean", "log_variance")
        )
        averages = totals / n
        above = xp.astype(averages > self.free_bits, mean.dtype)
        value = _ops.row_sum(_ops.where(averages > self.free_bits, averages, self.free_bits, averages))
        dmean, dlog = (slope * (above * (self.kl_weight / n)) for slope in slopes)
        return self.kl_weight * value, dmean, dlog


def _spread(decoder: Any, log_variance: Array) -> Array:
    """Mean over the rows of the expected squared distance of a linear decoder's output from that of the mean."""
    weight = decoder[0]["weight"]
    variances = _array.namespace(log_variance).exp(log_variance)
    return _ops.row_sum(_ops.row_sum(variances * _ops.row_sum(weight * weight))) / log_variance.shape[0]


def _with_spread(
    ddecoder: Any, decoder: Any, log_variance: Array, dspread: Array | float
) -> tuple[Any, Array]:
    """The decoder's gradient with that of the spread, and the gradient of the spread by the log-variances."""
    weight, n = decoder[0]["weight"], log_variance.shape[0]
    variances = _array.namespace(log_variance).exp(log_variance) * (dspread / n)
    dweight = 2.0 * _ops.row_sum(variances.T)[:, None] * weight
    (dense,) = ddecoder
    return ({**dense, "weight": dense["weight"] + dweight},), variances * _ops.row_sum(weight * weight)
