"""MultilabelClassifier: scikit-learn's own checks, the same model on every library, and what a user relies on."""

import _thread
import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from zlpr import optim
from zlpr.models import MultilabelClassifier

LINEAR = {"hidden_layer_sizes": (), "solver": "lbfgs"}


@pytest.fixture(scope="module")
def data():
    """120 rows of 8 features and 5 labels, of which three follow the features and the last never occurs."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 8))
    Y = (X @ rng.normal(size=(8, 5)) + rng.normal(size=(120, 5)) > 0.5).astype(np.int64)
    Y[:, 4] = 0
    return X, Y


def fitted(X, Y, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return MultilabelClassifier(**{"random_state": 0, **params}).fit(X, Y)


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks raise what they want to see
@pytest.mark.parametrize(
    "model", [MultilabelClassifier(max_iter=60, random_state=0), MultilabelClassifier(**LINEAR)]
)
def test_scikit_learn_checks(model):
    results = check_estimator(model, on_fail=None, on_skip=None)
    failed = [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]
    assert not failed
    # What is skipped needs pandas, a GPU or SCIPY_ARRAY_API, or predict_proba, which comes with zlpr.decision.
    skipped = {r["check_name"] for r in results if r["status"] == "skipped"}
    assert all("array_api" in name or name in SKIPPED for name in skipped)


SKIPPED = {
    "check_classifier_data_not_an_array",
    "check_classifiers_multilabel_output_format_predict_proba",
}


@pytest.mark.parametrize(
    "params", [{"max_iter": 50}, {"max_iter": 50, "loss": "sigmoid", "activation": "relu"}]
)
def test_one_seed_gives_the_same_model_on_every_library(xp, data, params):
    # The bound asked for: max |Δ| / max |score| at most 1e-9 in float64 after 50 epochs.
    X, Y = data
    if xp.name == "cupy":
        params = {**params, "max_iter": 2}  # the emulator is a thousand times slower
    ours = fitted(xp.asarray(X), xp.asarray(Y), tol=0.0, **params)
    numpys = fitted(X, Y, tol=0.0, **params)
    scores = ours.decision_function(xp.asarray(X))
    xp.assert_like(scores, xp.asarray(X))
    expected = numpys.decision_function(X)
    assert np.max(np.abs(xp.to_numpy(scores) - expected)) <= 1e-9 * np.max(np.abs(expected))
    assert ours.n_iter_ == numpys.n_iter_


def test_the_linear_model_is_the_minimum_of_a_convex_problem(xp, data):
    X, Y = data
    model = fitted(xp.asarray(X), xp.asarray(Y), **LINEAR, max_iter=20 if xp.name == "cupy" else 500)
    predicted = model.predict(xp.asarray(X))
    xp.assert_like(predicted, xp.asarray(Y))
    assert predicted.dtype == xp.asarray(Y).dtype
    if xp.name != "cupy":
        scores = fitted(X, Y, **LINEAR, max_iter=500).decision_function(X)
        np.testing.assert_allclose(xp.to_numpy(model.decision_function(xp.asarray(X))), scores, atol=1e-3)


def test_about_as_good_as_one_logistic_regression_a_label(data):
    X, Y = data
    model = make_pipeline(StandardScaler(), MultilabelClassifier(**LINEAR)).fit(X[:80], Y[:80])
    peer = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer warns of the label that never occurs
        peer.fit(X[:80], Y[:80])
    ours, theirs = (np.mean(m.predict(X[80:]) == Y[80:]) for m in (model, peer))
    assert ours >= theirs - 0.03


@pytest.mark.parametrize(
    ("values", "dtype"), [((0, 1), bool), ((0, 1), np.int8), ((-1, 1), np.int64), ((0.0, 1.0), np.float64)]
)
def test_predictions_are_in_the_callers_labels(xp, data, values, dtype):
    X, Y = data
    given = np.where(Y == 1, values[1], values[0]).astype(dtype)
    model = fitted(xp.asarray(X), xp.asarray(given), **LINEAR, max_iter=5)
    predicted = model.predict(xp.asarray(X))
    assert predicted.dtype == xp.asarray(given).dtype
    assert set(np.unique(xp.to_numpy(predicted))) <= set(np.asarray(values, dtype=dtype))


def test_strings_are_labels_too(data):
    X, Y = data
    given = np.where(Y == 1, "yes", "no")
    predicted = fitted(X, given, **LINEAR).predict(X)
    np.testing.assert_array_equal(predicted == "yes", fitted(X, Y, **LINEAR).predict(X) == 1)


def test_one_label_may_be_a_vector(data):
    X, Y = data
    model = fitted(X, Y[:, 0], **LINEAR)
    assert model.predict(X).shape == (120,)
    assert model.decision_function(X).shape == (120,)
    assert model.score(X, Y[:, 0]) == np.mean(model.predict(X) == Y[:, 0])


def test_score_is_subset_accuracy(data):
    X, Y = data
    model = fitted(X, Y, **LINEAR)
    assert model.score(X, Y) == np.mean(np.all(model.predict(X) == Y, axis=1))


def test_threshold_moves_the_predictions_and_the_scores(data):
    X, Y = data
    plain, moved = (fitted(X, Y, **LINEAR, alpha=1e-3, max_iter=1000, threshold=t) for t in (0.0, 2.0))
    np.testing.assert_array_equal(plain.predict(X), moved.predict(X))  # scores and threshold move together
    occurring = slice(0, 4)  # the bias of the label that never occurs runs away slowly
    scores = plain.decision_function(X)[:, occurring]
    np.testing.assert_allclose(moved.decision_function(X)[:, occurring], scores + 2.0, atol=1e-2)


def test_early_stopping_keeps_the_best_epoch(xp, data):
    X, Y = data
    few = {"max_iter": 4} if xp.name == "cupy" else {"max_iter": 300, "n_iter_no_change": 5}
    model = fitted(xp.asarray(X), xp.asarray(Y), early_stopping=True, learning_rate=0.05, **few)
    curve = model.validation_curve_
    assert len(curve) == len(model.loss_curve_) == model.n_iter_
    if xp.name != "cupy":
        assert model.n_iter_ < 300
        assert min(curve) < curve[-1]


def test_noise_clipping_and_smoothing_reach_the_training(data):
    X, Y = data
    plain = fitted(X, Y, max_iter=3).decision_function(X)
    for change in (
        {"noise": 0.3},
        {"clip_norm": 1e-3},
        {"label_smoothing": 0.2},
        {"alpha": 0.1},
        {"batch_size": 7},
    ):
        assert np.max(np.abs(fitted(X, Y, max_iter=3, **change).decision_function(X) - plain)) > 1e-6


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adax", "adaxw", optim.adam(3e-3)])
def test_every_optimizer_lowers_the_loss(data, optimizer):
    curve = fitted(*data, optimizer=optimizer, max_iter=30).loss_curve_
    assert curve[-1] < 0.8 * curve[0]


@pytest.mark.parametrize("params", [{"max_iter": 50, "batch_size": 40}, LINEAR])
def test_an_interrupted_fit_warns_and_can_predict(data, params):
    X, Y = data
    model = MultilabelClassifier(random_state=0, **params)
    reported = []

    def interrupt(done, loss):
        reported.append(done)
        if done == 3:
            _thread.interrupt_main()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zlpr.models.multilabel.progress_bar", _calling(interrupt))
        with pytest.warns(UserWarning, match="interrupted"):
            model.fit(X, Y)
    assert model.n_iter_ in (3, 4)
    assert model.predict(X).shape == Y.shape


def _calling(report):
    from contextlib import contextmanager

    @contextmanager
    def bar(unit, total, verbose):
        yield report

    return bar


def test_verbose_shows_a_bar_on_standard_error(data, capsys):
    fitted(*data, max_iter=3, verbose=1)
    captured = capsys.readouterr()
    assert "epoch" in captured.err
    assert captured.out == ""


def test_from_params_restores_a_model(xp, data):
    X, Y = data
    model = fitted(X, Y, max_iter=2, hidden_layer_sizes=(4,))
    restored = MultilabelClassifier.from_params(model.params_, hidden_layer_sizes=(4,))
    x = xp.asarray(X)
    scores = restored.decision_function(x)  # fitted on NumPy, used on this library
    xp.assert_like(scores, x)
    np.testing.assert_allclose(xp.to_numpy(scores), model.decision_function(X), rtol=1e-12)


def test_an_unconverged_fit_warns(data):
    for params in ({"max_iter": 2}, {**LINEAR, "max_iter": 2}):
        with pytest.warns(ConvergenceWarning, match="max_iter=2"):
            MultilabelClassifier(random_state=0, **params).fit(*data)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"loss": "hinge"}, "loss must be one of 'zlpr', 'sigmoid', not 'hinge'"),
        ({"solver": "newton"}, "solver must be one of"),
        ({"optimizer": "adamm"}, "optimizer must be one of"),
        ({"activation": "swish"}, "activation must be one of"),
        ({"solver": "lbfgs"}, r'solver="lbfgs" is for the linear model'),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1"),
        ({"max_iter": 2.5}, "max_iter must be an integer of at least 1"),
        ({"batch_size": -1}, "batch_size must be an integer of at least 1"),
        ({"n_iter_no_change": 0}, "n_iter_no_change must be an integer of at least 1"),
        ({"alpha": -1.0}, "alpha must be finite and not negative"),
        ({"noise": float("nan")}, "noise must be finite and not negative"),
        ({"hidden_layer_sizes": (0,)}, "hidden_layer_sizes must be positive integers"),
        ({"early_stopping": True, "validation_fraction": 1.5}, "validation_fraction must be in"),
    ],
)
def test_parameters_are_checked_at_fit(data, params, message):
    with pytest.raises(ValueError, match=message):
        MultilabelClassifier(**params).fit(*data)


def test_a_diverged_fit_raises(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="training diverged"):
            MultilabelClassifier(optimizer="sgd", learning_rate=1e200, max_iter=5).fit(*data)


def test_scikit_learns_tools_take_it(data):
    X, Y = data
    model = MultilabelClassifier(**LINEAR)
    scores = cross_val_predict(model, X, Y, method="decision_function", cv=3)
    assert scores.shape == Y.shape
    search = GridSearchCV(model, {"alpha": [0.01, 0.1]}, cv=3).fit(X, Y)
    restored = pickle.loads(pickle.dumps(search.best_estimator_))
    np.testing.assert_array_equal(restored.predict(X), search.predict(X))
    np.testing.assert_array_equal(clone(model).fit(X, Y).predict(X), model.fit(X, Y).predict(X))


def test_one_hidden_layer_may_be_given_as_a_number(data):
    X, Y = data
    as_number, as_tuple = (fitted(X, Y, hidden_layer_sizes=h, max_iter=2) for h in (7, (7,)))
    np.testing.assert_array_equal(as_number.decision_function(X), as_tuple.decision_function(X))


@pytest.mark.library("jax")
def test_jax_compiles_a_network_once(xp, data):
    from zlpr._bridges import _jax

    X, Y = data
    model = fitted(xp.asarray(X), xp.asarray(Y), max_iter=2)
    model.predict(xp.asarray(X))
    before = _jax._jax_function.cache_info().misses + _jax._jitted.cache_info().misses
    again = fitted(xp.asarray(X), xp.asarray(Y), max_iter=2, random_state=1)
    again.predict(xp.asarray(X))
    assert _jax._jax_function.cache_info().misses + _jax._jitted.cache_info().misses == before


def test_float32_converges_on_lbfgs(xp, data):
    if xp.name == "cupy":
        pytest.skip("the emulator is a thousand times slower")
    X, Y = data
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        MultilabelClassifier(**LINEAR).fit(xp.asarray(X.astype(np.float32)), xp.asarray(Y))


def test_bad_data_is_named(xp, data):
    X, Y = data
    model = MultilabelClassifier(**LINEAR)
    bad = X.copy()
    bad[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"NaN|finite"):
        model.fit(xp.asarray(bad), xp.asarray(Y))
    with pytest.raises(ValueError, match=r"same number of rows"):
        model.fit(xp.asarray(X), xp.asarray(Y[:5]))
    with pytest.raises(ValueError, match="indicator matrix"):
        model.fit(xp.asarray(X), xp.asarray(Y[:, :, None]))
    with pytest.raises(ValueError, match="multiclass"):
        model.fit(xp.asarray(X), xp.asarray(Y + np.arange(5)))
    fit = fitted(xp.asarray(X), xp.asarray(Y), **LINEAR, max_iter=2)
    with pytest.raises(ValueError, match="features"):
        fit.predict(xp.asarray(X[:, :3]))


@pytest.mark.library("torch", "jax", "strict", "cupy")
def test_two_libraries_are_refused(xp, data):
    X, Y = data
    with pytest.raises(TypeError, match=r"y must be a \w+ array like X, not a numpy array"):
        MultilabelClassifier(**LINEAR).fit(xp.asarray(X), Y)
