"""EntropicAutoencoder: normal codes, the entropy's part in the loss, and batches that make it hard."""

import math
import warnings

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning

from zlpr.entropy import knn_entropy
from zlpr.models import EntropicAutoencoder


@pytest.fixture(scope="module")
def X():  # noqa: N802  # scikit-learn's name
    """400 rows near a curve in three dimensions, which gather at one of its ends."""
    rng = np.random.default_rng(0)
    t = rng.exponential(size=400)
    return np.stack([t, np.sin(t), t * t / 4], axis=1) + 0.02 * rng.normal(size=(400, 3))


def fitted(X, latent_dim=1, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return EntropicAutoencoder(
            latent_dim, **{"hidden_layer_sizes": (16,), "random_state": 0, **params}
        ).fit(X)


def test_the_entropy_makes_the_codes_normal(X):
    # Quantiles of the normal law; batch norm alone leaves the codes as they lie along the curve.
    plain, normal = (
        fitted(X, entropy_weight=w, max_iter=150, learning_rate=0.01).transform(X)[:, 0] for w in (0.0, 1.0)
    )
    levels = [0.025, 0.16, 0.5, 0.84, 0.975]
    off = [np.max(np.abs(np.quantile(codes, levels) - norm.ppf(levels))) for codes in (plain, normal)]
    assert off[1] < 0.3 < off[0]
    for codes in (plain, normal):
        assert abs(codes.mean()) <= 1e-12
        assert abs(codes.var() - 1.0) <= 1e-6  # v / (v + 1e-8)


def test_without_batch_norm_the_divergence_brings_mean_and_variance_too(X):
    model = fitted(X, batch_norm=False, entropy_weight=1.0, max_iter=150, learning_rate=0.01)
    codes = model.transform(X)
    assert abs(codes.mean()) < 0.2
    assert abs(codes.var() - 1.0) < 0.2
    assert "codes" not in model.params_


def test_the_loss_is_the_error_less_the_weighted_entropy(X):
    for batch_norm in (True, False):
        model = fitted(X, batch_norm=batch_norm, entropy_weight=0.7, k=2, max_iter=2)
        params = {name: value for name, value in model.params_.items() if name != "codes"}
        z = model.transform(X)  # of all rows, whose statistics are the batch's
        entropy = float(knn_entropy(z, k=2))
        if not batch_norm:
            entropy -= z.shape[1] / 2 * math.log(2 * math.pi) + np.mean(np.sum(z * z, axis=1)) / 2
        error = np.mean(np.sum((model.inverse_transform(z) - X) ** 2, axis=1))
        np.testing.assert_allclose(model._objective()(params, X)[0], error - 0.7 * entropy, rtol=1e-12)
        np.testing.assert_allclose(model.score(X), -error, rtol=1e-12)


def test_repeated_rows_do_no_harm(xp, X):
    for rows in (np.repeat(X[:10], 4, axis=0), np.ones((40, 3))):
        model = fitted(xp.asarray(rows), max_iter=2, batch_size=20)
        xp.assert_like(model.transform(xp.asarray(rows)), xp.asarray(rows))
        assert np.all(np.isfinite(model.loss_curve_))


def test_every_epoch_leaves_other_rows_out(X):
    seen = []

    def loss(params, rows):
        seen.append(rows[:, 0])
        return np.asarray(0.0), params

    from zlpr import optim
    from zlpr.models._training import Batches, Descent

    descent = Descent(loss, optim.sgd(0.0), Batches(15, whole=True), np.random.default_rng(0), np.zeros(1))
    left = []
    for _ in range(2):
        seen.clear()
        descent.epoch((X[:40],))
        assert [len(rows) for rows in seen] == [15, 15]
        left.append(set(X[:40, 0]) - set(np.concatenate(seen)))
    assert [len(rows) for rows in left] == [10, 10]
    assert left[0] != left[1]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"entropy_weight": -1.0}, "entropy_weight must be finite and not negative"),
        ({"k": 0}, "k must be an integer of at least 1"),
        ({"batch_size": 3}, "a batch must have more than k=3 samples, but batch_size=3"),
        ({"output_activation": "tanh"}, "output_activation must be one of 'identity', 'sigmoid'"),
        ({"early_stopping": True, "validation_fraction": 0.005}, "hold out more than k=3 samples"),
    ],
)
def test_parameters_are_checked_at_fit(X, params, message):
    with pytest.raises(ValueError, match=message):
        EntropicAutoencoder(1).set_params(**params).fit(X)
