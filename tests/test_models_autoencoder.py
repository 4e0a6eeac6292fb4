"""What both autoencoders do alike: gradients, one model on every library, and scikit-learn's conventions."""

import _thread
import pickle
import warnings
from contextlib import contextmanager

import numpy as np
import optree
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from zlpr.models import EntropicAutoencoder, VariationalAutoencoder

CASES = {
    "entropic": EntropicAutoencoder(3, (6,), entropy_weight=0.3, k=2),
    "entropic, linear, sigmoid": EntropicAutoencoder(2, (), entropy_weight=0.3, output_activation="sigmoid"),
    "entropic, no batch norm": EntropicAutoencoder(3, (6,), entropy_weight=0.3, batch_norm=False),
    "plain": EntropicAutoencoder(3, (6, 4), entropy_weight=0.0, batch_norm=False, activation="relu"),
    "variational": VariationalAutoencoder(3, (6,), kl_weight=0.7),
    "variational, free bits": VariationalAutoencoder(3, (6,), noise_variance=0.5, free_bits=0.4),
    "variational, batch norm": VariationalAutoencoder(3, (6,), batch_norm=True, tau=0.3),
    "variational, bernoulli": VariationalAutoencoder(3, (6,), likelihood="bernoulli", batch_norm=True),
    "variational, linear": VariationalAutoencoder(2, (), kl_weight=0.7),
    "variational, linear, batch norm": VariationalAutoencoder(2, (), noise_variance=0.3, batch_norm=True),
}
ON_EVERY_LIBRARY = ("entropic", "variational, bernoulli", "variational, linear")
cases = pytest.mark.parametrize("model", CASES.values(), ids=CASES)
both = pytest.mark.parametrize("kind", [EntropicAutoencoder, VariationalAutoencoder])


@pytest.fixture(scope="module")
def X():  # noqa: N802  # scikit-learn's name
    """60 rows of 5 features in [0, 1] on a curved surface of two dimensions, and a little noise."""
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, 60))
    rows = np.stack([u, v, u * v, u - v, np.abs(u)], axis=1) + 0.05 * rng.normal(size=(60, 5))
    return (rows - rows.min(axis=0)) / np.ptp(rows, axis=0)


def fitted(model, X, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return clone(model).set_params(**{"random_state": 0, **params}).fit(X)


def small(kind, **params):
    return kind(2, **{"hidden_layer_sizes": (6,), "max_iter": 3, "batch_size": 20, **params})


def a_batch(model, X):
    """The loss of a model on 12 rows, with parameters of no particular kind, and what else it takes."""
    model.n_features_in_ = X.shape[1]
    rng = np.random.default_rng(1)
    params = model._initial_params(X[:12], rng)
    params = optree.tree_map(lambda p: p + 0.3 * rng.normal(size=p.shape), params)
    return model._objective(), params, model._prepared((X[:12],), rng)


@cases
def test_gradients_of_the_loss_against_differences(model, X):
    loss, params, arrays = a_batch(clone(model), X)
    leaves, tree = optree.tree_flatten(params)
    gradients = tree.flatten_up_to(loss(params, *arrays)[1])
    for i, (leaf, gradient) in enumerate(zip(leaves, gradients, strict=True)):
        assert gradient.shape == leaf.shape
        for place in np.ndindex(leaf.shape):

            def moved(step, i=i, leaf=leaf, place=place):
                other = leaf.copy()
                other[place] += step
                return float(loss(tree.unflatten([*leaves[:i], other, *leaves[i + 1 :]]), *arrays)[0])

            h = 1e-4  # differences of fourth order
            slope = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
            assert abs(slope - gradient[place]) <= 1e-7 * max(1.0, abs(slope))


@cases
@pytest.mark.library("torch")
def test_gradients_of_the_loss_against_autograd(xp, model, X):
    loss, params, arrays = a_batch(clone(model), X)
    value, gradients = loss(params, *arrays)
    leaves = optree.tree_map(lambda p: xp.asarray(p).requires_grad_(), params)
    theirs = loss_in_torch(model, leaves, *map(xp.asarray, arrays))
    theirs.backward()
    assert abs(float(value) - float(theirs.detach())) <= 1e-10 * abs(float(value))
    for ours, leaf in zip(optree.tree_leaves(gradients), optree.tree_leaves(leaves), strict=True):
        expected = xp.to_numpy(leaf.grad)
        assert np.max(np.abs(ours - expected)) <= 1e-10 * max(1.0, np.max(np.abs(expected)))


def loss_in_torch(model, params, x, noise=None):
    """The losses once more, in plain PyTorch from the formulas."""
    import torch
    from torch.nn import functional as F  # noqa: N812  # its usual name

    act = {"gelu": F.gelu, "relu": F.relu}[model.activation]

    def network(layers, h):
        for layer in layers[:-1]:
            h = act(h @ layer["weight"] + layer["bias"])
        return h @ layers[-1]["weight"] + layers[-1]["bias"]

    def decoded(z):
        y = network(params["decoder"], z)
        return torch.sigmoid(y) if model.output_activation == "sigmoid" else y

    def normalised(h):
        return F.batch_norm(h, None, None, training=True, eps=1e-8)

    h, d = network(params["encoder"], x), model.latent_dim
    if isinstance(model, EntropicAutoencoder):
        z = normalised(h) if model.batch_norm else h
        error = ((decoded(z) - x) ** 2).sum(1).mean()
        if not model.entropy_weight:
            return error
        n = x.shape[0]
        radii = torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(model.k + 1, 1).values
        ball = d / 2 * np.log(np.pi) - torch.lgamma(torch.tensor(d / 2 + 1, dtype=x.dtype))
        psi = torch.digamma(torch.tensor([float(n), float(model.k)], dtype=x.dtype))
        entropy = d * radii.log().mean() + ball + psi[0] - psi[1]
        energy = 0.0 if model.batch_norm else d / 2 * np.log(2 * np.pi) + 0.5 * (z**2).sum(1).mean()
        return error + model.entropy_weight * (energy - entropy)
    mean, log = h[:, :d], h[:, d:]
    if model.batch_norm:
        share = torch.sigmoid(params["codes"]["scale"])
        mean = normalised(mean) * (model.tau + (1 - model.tau) * share).sqrt()
        log = (log.exp() / log.exp().mean(0) * (1 - model.tau) * (1 - share)).log()
    if model.hidden_layer_sizes == ():  # E |x - Wz - b|², by the covariance of z
        weight = params["decoder"][0]["weight"]
        spread = torch.einsum("ij,jk->i", log.exp(), weight**2).mean()
        y = network(params["decoder"], mean)
    else:
        spread, y = 0.0, decoded(mean + (log / 2).exp() * noise)
    if model.likelihood == "bernoulli":
        nll = F.binary_cross_entropy_with_logits(y, x, reduction="none").sum(1).mean()
    else:
        log_noise = (
            params["noise"]["log_variance"]
            if model.noise_variance == "learned"
            else np.log(model.noise_variance)
        )
        error = ((y - x) ** 2).sum(1).mean() + spread
        variance = torch.as_tensor(log_noise).exp()
        nll = (error / (2 * variance) + x.shape[1] / 2 * (2 * np.pi * variance).log()).sum()
    standard = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    kl = torch.distributions.kl_divergence(torch.distributions.Normal(mean, (log / 2).exp()), standard).mean(
        0
    )
    return nll + model.kl_weight * kl.clamp(min=model.free_bits).sum()


@pytest.mark.parametrize("name", ["entropic", "variational", "variational, batch norm"])
def test_one_seed_gives_the_same_model_on_every_library(xp, X, name):
    # 200 steps of float64: the parameters within 1e-8.
    epochs = 1 if xp.name == "cupy" else 67
    ours, numpys = (
        fitted(CASES[name], x, max_iter=epochs, batch_size=20, tol=0.0) for x in (xp.asarray(X), X)
    )
    pairs = zip(optree.tree_leaves(ours.params_), optree.tree_leaves(numpys.params_), strict=True)
    for actual, expected in pairs:
        xp.assert_like(actual, xp.asarray(X))
        assert np.max(np.abs(xp.to_numpy(actual) - expected)) <= 1e-8
    np.testing.assert_allclose(ours.loss_curve_, numpys.loss_curve_, rtol=1e-8)


@pytest.mark.parametrize("model", [CASES[name] for name in ON_EVERY_LIBRARY], ids=ON_EVERY_LIBRARY)
def test_arrays_of_a_library_in_and_out(xp, X, model):
    x = xp.asarray(X)
    model = fitted(model, x, max_iter=1, batch_size=20)  # as above, which JAX has compiled
    codes = model.transform(x)
    back, drawn = model.inverse_transform(codes), model.sample(4, random_state=0)
    for array, shape in ((codes, (60, model.latent_dim)), (back, X.shape), (drawn, (4, 5))):
        xp.assert_like(array, x)
        assert (tuple(array.shape), array.dtype) == (shape, x.dtype)
    assert isinstance(model.score(x), float)
    np.testing.assert_array_equal(xp.to_numpy(model.sample(4, random_state=0)), xp.to_numpy(drawn))


@both
@pytest.mark.library("numpy", "torch")
def test_float32_stays(xp, X, kind):
    x = xp.asarray(X.astype(np.float32))
    model = fitted(small(kind), x, max_iter=1)
    assert model.transform(x).dtype == model.sample(2).dtype == x.dtype
    wide = xp.asarray(X)
    assert model.transform(wide).dtype == wide.dtype


@both
def test_samples_are_decoded_normal_codes(X, kind):
    model = fitted(small(kind), X)
    codes = np.random.default_rng(7).normal(size=(4, 2))
    np.testing.assert_array_equal(model.sample(4, random_state=7), model.inverse_transform(codes))


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks raise what they want to see
@both
def test_scikit_learn_checks(kind):
    model = kind(2, (8,), max_iter=20, random_state=0)
    results = check_estimator(model, on_fail=None, on_skip=None)
    assert not [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]
    # What is skipped needs pandas, polars, a GPU or SCIPY_ARRAY_API.
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert all("array_api" in name or "output" in name for name in skipped), skipped


@both
def test_scikit_learns_tools_take_it(X, kind):
    search = GridSearchCV(small(kind, random_state=0), {"latent_dim": [1, 3]}, cv=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search.fit(X)
        codes = make_pipeline(StandardScaler(), small(kind)).fit_transform(X)
    assert codes.shape == (60, 2)
    restored = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(restored.transform(X), search.transform(X))
    assert search.best_estimator_.get_feature_names_out()[0] == f"{kind.__name__.lower()}0"


@cases
def test_from_params_restores_a_model(X, model):
    model = fitted(model, X, max_iter=2)
    restored = type(model).from_params(model.params_, **model.get_params())
    np.testing.assert_array_equal(restored.transform(X), model.transform(X))
    np.testing.assert_array_equal(restored.sample(3, random_state=0), model.sample(3, random_state=0))
    assert restored.score(X) == model.score(X)
    before = model.transform(X)
    restored.partial_fit(X)  # writes into parameters of its own
    np.testing.assert_array_equal(model.transform(X), before)


@both
def test_partial_fits_are_a_fit_by_epochs(X, kind):
    whole = fitted(small(kind), X)
    model = small(kind, random_state=0)
    for _ in range(3):
        model.partial_fit(X)
    np.testing.assert_allclose(model.transform(X), whole.transform(X), atol=1e-12)
    assert (model.n_iter_, model.loss_curve_) == (3, whole.loss_curve_)
    model = pickle.loads(pickle.dumps(model)).partial_fit(X)
    assert model.n_iter_ == 4
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :3])
    with pytest.raises(TypeError, match="dtype of the training data"):
        model.partial_fit(X.astype(np.float32))


@both
def test_early_stopping_keeps_the_best_epoch(X, kind):
    model = fitted(
        small(kind),
        X,
        early_stopping=True,
        validation_fraction=0.3,
        max_iter=100,
        learning_rate=0.1,
    )
    assert len(model.validation_curve_) == len(model.loss_curve_) == model.n_iter_
    assert model.n_iter_ < 100
    assert min(model.validation_curve_) < model.validation_curve_[-1]


@both
def test_an_interrupted_fit_warns_and_keeps_what_it_reached(X, kind):
    def interrupt(done, loss):
        if done == 3:
            _thread.interrupt_main()

    @contextmanager
    def bar(unit, total, verbose):
        yield interrupt

    model = small(kind, max_iter=50, random_state=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zlpr.models._autoencoder.progress_bar", bar)
        with pytest.warns(UserWarning, match="interrupted"):
            model.fit(X)
    assert model.n_iter_ in (3, 4)
    assert model.transform(X).shape == (60, 2)


@both
def test_verbose_shows_a_bar_on_standard_error(X, kind, capsys):
    fitted(small(kind), X, verbose=1)
    captured = capsys.readouterr()
    assert "epoch" in captured.err
    assert captured.out == ""


@both
def test_a_diverged_fit_raises(X, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="training diverged"):
            small(kind, optimizer="sgd", learning_rate=1e200).fit(X)


COMMON = [
    ({"latent_dim": 0}, "latent_dim must be an integer of at least 1"),
    ({"optimizer": "adamm"}, "optimizer must be one of"),
    ({"activation": "swish"}, "activation must be one of"),
    ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
    ({"clip_norm": -1.0}, "clip_norm must be finite and not negative"),
    ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction must be in"),
]


@both
@pytest.mark.parametrize(("params", "message"), COMMON)
def test_parameters_are_checked_at_fit(X, kind, params, message):
    with pytest.raises(ValueError, match=message):
        small(kind).set_params(**params).fit(X)


@both
@pytest.mark.library("numpy", "torch")
def test_bad_data_is_named(xp, X, kind):
    model = fitted(small(kind), xp.asarray(X), max_iter=1)
    with pytest.raises(ValueError, match="features"):
        model.transform(xp.asarray(X[:, :3]))
    with pytest.raises(ValueError, match=r"X must have shape \(n_samples, 2\)"):
        model.inverse_transform(xp.asarray(X))
    with pytest.raises(ValueError, match="n must be an integer of at least 1"):
        model.sample(0)


@pytest.mark.library("jax")
def test_jax_compiles_a_network_once(xp, X):
    from zlpr._bridges import _jax

    x, few = xp.asarray(X), {"max_iter": 1, "batch_size": 20}
    fitted(CASES["entropic"], x, **few).transform(x)
    before = _jax._jax_function.cache_info().misses + _jax._jitted.cache_info().misses
    fitted(CASES["entropic"], x, random_state=1, **few).transform(x)
    assert _jax._jax_function.cache_info().misses + _jax._jitted.cache_info().misses == before
