"""What the two autoencoders share: an encoder and a decoder of mirrored widths, fitted, saved, and used."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from zlpr import _array, _ops, activations, nn
from zlpr._array import Array
from zlpr.models import _estimator
from zlpr.models._codes import without_statistics
from zlpr.models._estimator import NetworkEstimator
from zlpr.models._progress import progress_bar
from zlpr.models._training import Arrays, Batches, Fit, LossAndGradients, copied
from zlpr.nn import Sequential

_OUTPUTS = {"identity": (), "sigmoid": (activations.sigmoid,)}


class Autoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NetworkEstimator):  # type: ignore[misc]  # scikit-learn is untyped
    """Encoder, decoder, and what a user does with them; a subclass has the objective."""

    latent_dim: int
    output_activation: str
    _code_width = 1  # columns of the encoder's output for each of the code

    def fit(self, X: Array, y: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        X = self._checked(X, reset=True)
        self._check_data(X)
        rng = _estimator.generator(self.random_state)
        params = self._initial_params(X, rng)
        (training,), held_out = self._split((X,), rng)
        self._finish(self._run(params, training, held_out, rng))
        self.params_ = self._with_statistics(self.params_, training)
        self._optimizer_state, self._rng = None, rng
        return self

    def partial_fit(self, X: Array, y: Any = None) -> Self:
        """Train for one epoch on these rows; the first call draws the parameters.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like
            Of the library of the rows before. Statistics for use after training are taken of these rows.
        y : ignored

        Returns
        -------
        self
        """
        first = not hasattr(self, "params_")
        self._check_parameters()
        X = self._checked(X, reset=first)
        self._check_data(X)
        rng = getattr(self, "_rng", None) or _estimator.generator(self.random_state)
        params = self._initial_params(X, rng) if first else self._own_params(X)
        descent = self._descent(self._objective(), params, self._batches(X), rng)
        descent.state = getattr(self, "_optimizer_state", None)
        loss = descent.epoch((X,))
        _estimator.require_finite("parameters", descent.params)
        self.params_ = self._with_statistics(descent.params, X)
        self._optimizer_state, self._rng = descent.state, rng
        self.loss_curve_ = [*getattr(self, "loss_curve_", []), loss]
        self.validation_curve_: list[float] = []
        self.n_iter_ = len(self.loss_curve_)
        return self

    def transform(self, X: Array) -> Array:
        """Codes of rows.

        Parameters
        ----------
        X : (n_samples, n_features) floating array of any library, or array-like

        Returns
        -------
        Z : (n_samples, latent_dim) array of the same library
        """
        check_is_fitted(self, "params_")
        X = self._checked(X, reset=False)
        return self._encode(self._params_for(X), X)

    def inverse_transform(self, X: Array) -> Array:
        """Rows from codes: the decoder.

        Parameters
        ----------
        X : (n_samples, latent_dim) floating array of any library, or array-like

        Returns
        -------
        (n_samples, n_features) array of the same library
        """
        check_is_fitted(self, "params_")
        is_floating = not isinstance(X, np.ndarray) or _array.kind(X) == "floating"
        codes = X if _array.is_array(X) and is_floating else np.asarray(X, dtype=np.float64)
        _array.require_real_floating("X", codes)
        if codes.ndim != 2 or codes.shape[1] != self.latent_dim:
            raise ValueError(f"X must have shape (n_samples, {self.latent_dim}), not {tuple(codes.shape)}")
        return self._decoded(self._params_for(codes), codes)

    def sample(self, n: int, *, random_state: Any = None) -> Array:
        """New rows: codes drawn from N(0, I), decoded.

        Parameters
        ----------
        n : int
        random_state : int, numpy.random.Generator, numpy.random.RandomState or None
            One seed gives the same rows on every library.

        Returns
        -------
        (n, n_features) array
            Of the library and on the device of the training data.
        """
        check_is_fitted(self, "params_")
        _estimator.require_count("n", n)
        like = self.params_["encoder"][0]["weight"]
        drawn = _estimator.generator(random_state).standard_normal((n, self.latent_dim))
        codes = _array.namespace(like).astype(_array.from_numpy(drawn, like), like.dtype)
        return self._decoded(self.params_, codes)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], **constructor_params: Any) -> Self:
        """Restore a fitted estimator from its parameters.

        Parameters
        ----------
        params : dict
            As in ``params_``.
        **constructor_params
            Of the estimator.

        Returns
        -------
        fitted estimator
        """
        model = cls(**constructor_params)
        model.params_ = copied(dict(params))
        model.n_features_in_ = int(params["encoder"][0]["weight"].shape[0])
        return model

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.array_api_support = True
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.params_["decoder"][0]["weight"].shape[0])

    def _check_parameters(self) -> None:
        _estimator.require_count("latent_dim", self.latent_dim)
        _estimator.require_choice("output_activation", self.output_activation, _OUTPUTS)
        self._check_training()

    def _check_data(self, X: Array) -> None:
        """Check what the objective asks of the rows."""

    def _objective(self) -> LossAndGradients:
        raise NotImplementedError

    def _encoder(self) -> Sequential:
        return _network(self.activation, len(self._hidden()), "identity")

    def _decoder(self) -> Sequential:
        return _network(self.activation, len(self._hidden()), self.output_activation)

    def _initial_params(self, X: Array, rng: np.random.Generator) -> dict[str, Any]:
        hidden = self._hidden()
        widths = {
            "encoder": (self.n_features_in_, *hidden, self._code_width * self.latent_dim),
            "decoder": (self.latent_dim, *hidden[::-1], self.n_features_in_),
        }
        return {
            name: nn.dense_parameters(sizes, X, initializer=nn.glorot, rng=rng)
            for name, sizes in widths.items()
        }

    def _own_params(self, X: Array) -> dict[str, Any]:
        """The parameters to train further, which must be of the library of X, without statistics."""
        _array.require_same_home("params_", self.params_["encoder"][0]["weight"], "X", X)
        if self.params_["encoder"][0]["weight"].dtype != X.dtype:
            raise TypeError(
                f"X must have the dtype of the training data, "
                f"{self.params_['encoder'][0]['weight'].dtype}, not {X.dtype}"
            )
        return without_statistics(self.params_)

    def _batches(self, X: Array) -> Batches:
        return Batches(self._rows_of_a_batch(X.shape[0]), whole=True, prepared=self._prepared)

    def _prepared(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """What the objective takes beside the rows, drawn."""
        return arrays

    def _run(self, params: Any, X: Array, held_out: Arrays | None, rng: np.random.Generator) -> Fit:
        descent = self._descent(self._objective(), params, self._batches(X), rng)
        watched = None if held_out is None else self._prepared(held_out, rng)
        with progress_bar("epoch", self.max_iter, self.verbose) as progress:
            return self._by_minibatches(descent, (X,), watched, progress)

    def _statistics(self, outputs: Array) -> dict[str, Array]:
        """What stands for the batch's statistics after training, of all outputs of the encoder."""
        return {}

    def _with_statistics(self, params: dict[str, Any], X: Array) -> dict[str, Any]:
        statistics = self._statistics(self._encoded(params, X))
        return {**params, "codes": {**params.get("codes", {}), **statistics}} if statistics else params

    def _encoded(self, params: dict[str, Any], X: Array) -> Array:
        return self._encoder()(params["encoder"], X)

    def _encode(self, params: dict[str, Any], X: Array) -> Array:
        raise NotImplementedError

    def _decoded(self, params: dict[str, Any], Z: Array) -> Array:
        return self._decoder()(params["decoder"], Z)


@functools.cache  # one rule for equal networks, so that JAX compiles it once
def _network(activation: str, hidden: int, output: str) -> Sequential:
    return nn.sequential(*_estimator.hidden_layers(activation, hidden), nn.dense, *_OUTPUTS[output])


def squared_error(x: Array, y: Array) -> tuple[Array, Array]:
    """Mean over the rows of the squared distance of y from x, and its gradient with respect to y."""
    n = x.shape[0]
    error = y - x
    value = _ops.row_sum(_ops.row_sum(error * error)) / n
    return value, _ops.multiply_(error, 2.0 / n)
