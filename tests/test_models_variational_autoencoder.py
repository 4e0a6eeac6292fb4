"""VariationalAutoencoder: probabilistic PCA without hidden layers, bounds of the divergence, and its options."""

import math
import warnings

import numpy as np
import optree
import pytest
from sklearn.exceptions import ConvergenceWarning

from zlpr.losses import gaussian_kl
from zlpr.models import VariationalAutoencoder
from zlpr.models._codes import balanced
from zlpr.optim import adam
from zlpr.optim.schedules import cosine

D, LATENT = 6, 2
PCA = {"hidden_layer_sizes": (), "solver": "lbfgs", "max_iter": 5000, "random_state": 0}


@pytest.fixture(scope="module")
def X():  # noqa: N802  # scikit-learn's name
    """200 rows, not centred, of variances between 0.1 and 9 along turned axes."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    return rng.normal(size=(200, D)) * np.asarray([3.0, 2.0, 0.6, 0.5, 0.4, 0.3]) @ turn + np.arange(D)


def closed_form(X, noise=None):
    """Probabilistic PCA by eigen-decomposition (Tipping and Bishop, 1999): its parameters and mean log-likelihood."""
    centre = X.mean(axis=0)
    covariance = np.cov(X.T, bias=True)
    values, axes = np.linalg.eigh(covariance)
    values, axes = values[::-1], axes[:, ::-1]
    noise = values[LATENT:].mean() if noise is None else noise
    weight = axes[:, :LATENT] * np.sqrt(np.maximum(values[:LATENT] - noise, 0.0))  # (D, latent)
    model = weight @ weight.T + noise * np.eye(D)
    bound = -0.5 * (
        D * math.log(2 * math.pi) + np.linalg.slogdet(model)[1] + np.trace(np.linalg.solve(model, covariance))
    )
    return centre, weight, float(noise), float(bound)


def at_the_optimum(X, **params):
    """The linear model with the closed form's parameters and exact posteriors, which are diagonal in its axes."""
    centre, weight, noise, bound = closed_form(X)
    spread = np.diag(weight.T @ weight) + noise
    to_mean = weight / spread
    encoder = {
        "weight": np.concatenate([to_mean, np.zeros((D, LATENT))], axis=1),
        "bias": np.concatenate([-centre @ to_mean, np.log(noise / spread)]),
    }
    decoder = {"weight": weight.T.copy(), "bias": centre}
    values = {"encoder": (encoder,), "decoder": (decoder,), "noise": {"log_variance": np.log([noise])}}
    return VariationalAutoencoder.from_params(values, latent_dim=LATENT, **PCA, **params), bound


def test_the_bound_at_the_closed_form_is_the_exact_likelihood(xp, X):
    model, bound = at_the_optimum(X)
    assert abs(model.score(xp.asarray(X)) - bound) <= 1e-12 * abs(bound)
    gradients = model._objective()(model.params_, X)[1]
    assert max(np.max(np.abs(g)) for g in optree.tree_leaves(gradients)) <= 1e-12


@pytest.mark.parametrize("noise", ["learned", 0.5])
@pytest.mark.library("numpy", "torch", "jax")
def test_training_finds_probabilistic_pca(xp, X, noise):
    x = xp.asarray(X)
    model = VariationalAutoencoder(LATENT, noise_variance=noise, tol=1e-7, **PCA).fit(x)
    centre, weight, variance, bound = closed_form(X, None if noise == "learned" else noise)
    decoder = xp.to_numpy(model.params_["decoder"][0]["weight"]).T
    square = weight @ weight.T  # the axes and their lengths
    np.testing.assert_allclose(decoder @ decoder.T, square, rtol=0, atol=1e-6 * np.max(square))
    np.testing.assert_allclose(xp.to_numpy(model.params_["decoder"][0]["bias"]), centre, atol=1e-6)
    assert abs(model.noise_variance_ - variance) <= 1e-6
    assert abs(model.score(x) - bound) <= 1e-6


def test_minibatches_find_probabilistic_pca(X):
    centred, steps = X - X.mean(axis=0), 1500
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = VariationalAutoencoder(
            LATENT,
            (),
            optimizer=adam(cosine(0.05, 2 * steps)),
            max_iter=steps,
            batch_size=100,
            n_iter_no_change=steps,
            random_state=0,
        ).fit(centred)
    assert abs(model.score(centred) - closed_form(X)[3]) <= 1e-3


@pytest.fixture(scope="module")
def trained(X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return {
            name: VariationalAutoencoder(3, (8,), max_iter=40, batch_size=50, random_state=0, **params).fit(X)
            for name, params in {
                "plain": {"noise_variance": 50.0},
                "batch norm": {"noise_variance": 50.0, "batch_norm": True},
                "free bits": {"noise_variance": 50.0, "free_bits": 0.5},
            }.items()
        }


def test_a_strong_divergence_collapses_the_posterior_unless_codes_are_normalised(X, trained):
    # The lower bound -log(1 - tau) / 2 a dimension, and E mean² + E variance = 1.
    kl = {
        name: np.mean(gaussian_kl(*model.posterior(X), axis=0, reduction="none")) / len(X)
        for name, model in trained.items()
    }
    assert kl["plain"] < 0.3
    mean, log_variance = trained["batch norm"].posterior(X)
    each = gaussian_kl(mean, log_variance, axis=0, reduction="none") / len(X)
    assert np.all(each >= -0.5 * math.log(0.5))
    np.testing.assert_allclose(np.mean(mean**2 + np.exp(log_variance), axis=0), 1.0, atol=1e-6)
    assert kl["free bits"] > 1.3 * kl["plain"]


def test_score_is_the_bound_whatever_the_weight(X, trained):
    model = trained["free bits"]
    mean, log_variance = model.posterior(X)
    kl = np.sum(mean**2 + np.exp(log_variance) - 1 - log_variance, axis=1) / 2
    z = mean + np.exp(log_variance / 2) * np.random.default_rng(0).standard_normal(mean.shape)
    error = np.sum((model.inverse_transform(z) - X) ** 2, axis=1)
    bound = -error / 100 - D / 2 * math.log(2 * math.pi * 50) - kl
    np.testing.assert_allclose(model.score(X), bound.mean(), rtol=1e-12)
    assert model.score(X) == model.score(X)
    np.testing.assert_array_equal(model.transform(X), mean)


def test_bernoulli_decodes_to_probabilities(X):
    binary = (X.mean(axis=0) < X).astype(np.float64)
    model = VariationalAutoencoder(
        2, (6,), likelihood="bernoulli", max_iter=100, random_state=0, batch_size=20
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(binary)
    drawn = model.sample(50, random_state=0)
    assert np.all((drawn > 0) & (drawn < 1))
    assert model.score(binary) > -D * math.log(2)  # a fair coin for each feature
    with pytest.raises(AttributeError, match="noise_variance_"):
        model.noise_variance_  # noqa: B018  # raises
    with pytest.raises(ValueError, match=r"X must be in \[0, 1\]"):
        model.fit(X)


def test_log_variances_stay_within_bounds(X):
    model, _ = at_the_optimum(X)
    model.params_["encoder"][0]["bias"][LATENT:] = [1e4, -1e4]
    np.testing.assert_array_equal(model.posterior(X)[1][0], [20.0, -30.0])
    assert np.isfinite(model.score(X))


@pytest.mark.parametrize("statistics", [False, True])
def test_balanced_codes_are_a_rule(xp, statistics):
    rng = np.random.default_rng(0)
    params = {"scale": rng.normal(size=2)}
    if statistics:
        params |= {
            "mean": rng.normal(size=2),
            "variance": rng.uniform(1, 2, size=2),
            "log_mean": rng.normal(size=2),
        }
    x = xp.asarray(rng.normal(size=(5, 4)))
    value, pullback = balanced.vjp({name: xp.asarray(v) for name, v in params.items()}, x, tau=0.4)
    xp.assert_like(value, x)
    mean, variance = xp.to_numpy(value)[:, :2], np.exp(xp.to_numpy(value)[:, 2:])
    if not statistics:
        share = 1 / (1 + np.exp(-params["scale"]))
        np.testing.assert_allclose(np.mean(mean**2, axis=0), 0.4 + 0.6 * share, rtol=1e-7)  # epsilon 1e-8
        np.testing.assert_allclose(np.mean(variance, axis=0), 0.6 * (1 - share), rtol=1e-12)
    for array in optree.tree_leaves(pullback(value)):
        xp.assert_like(array, x)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"noise_variance": 0.0}, "noise_variance must be positive and finite"),
        ({"noise_variance": "fixed"}, "noise_variance must be positive and finite"),
        ({"kl_weight": -1.0}, "kl_weight must be finite and not negative"),
        ({"free_bits": math.nan}, "free_bits must be finite and not negative"),
        ({"tau": 1.0}, r"tau must be in \(0, 1\)"),
        ({"solver": "lbfgs"}, 'solver="lbfgs" is for a loss without draws'),
        ({"likelihood": "bernoulli", "output_activation": "sigmoid"}, "output_activation must be"),
    ],
)
def test_parameters_are_checked_at_fit(X, params, message):
    with pytest.raises(ValueError, match=message):
        VariationalAutoencoder(2).set_params(**params).fit(X)
