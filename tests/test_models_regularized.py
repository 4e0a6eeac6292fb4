"""The regularisers of MultilabelClassifier: the gradient of the whole, one model on every library, unlabelled rows."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_moons
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import check_estimator

from zlpr import nn, perturb
from zlpr.losses import zlpr_divergence, zlpr_loss
from zlpr.models import MultilabelClassifier
from zlpr.models._objective import Objective, Regularisers, network
from zlpr.models._unlabelled import PairedBatches, unlabelled

SEMI = {"adversarial": "vat"}


@pytest.fixture(scope="module")
def data():
    """90 rows of 6 features and 4 labels; the last 50 rows come without theirs in `hidden`."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 6))
    return X, (X @ rng.normal(size=(6, 4)) + 0.5 * rng.normal(size=(90, 4)) > 0.3).astype(np.int64)


def hidden(Y, mark=np.nan):
    Y = Y.astype(np.float64 if np.isnan(mark) else Y.dtype)
    Y[40:] = mark
    return Y


def fitted(X, Y, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        params = {"hidden_layer_sizes": (9,), "random_state": 0, "max_iter": 30, "tol": 0.0, **params}
        return MultilabelClassifier(**params).fit(X, Y)


# ---- the gradient of the whole objective

XI, EPSILON, THRESHOLD, SMOOTHING = 1e-3, 0.4, 0.3, 0.1


class Autograd:
    """The same objective by PyTorch's autograd from its formulas, with perturbations that can be kept."""

    def __init__(self, params, batch, loss):
        import torch

        self.torch, self.loss = torch, loss
        self.leaves = [
            torch.tensor(layer[k], requires_grad=True) for layer in params for k in ("weight", "bias")
        ]
        self.x, self.targets, self.direction, self.everyone, self.weights = map(torch.tensor, batch)
        self.kept = {}

    def scores(self, x):
        for i in range(0, len(self.leaves), 2):
            x = x if i == 0 else self.torch.nn.functional.gelu(x)
            x = x @ self.leaves[i] + self.leaves[i + 1]
        return x

    def losses(self, x):
        s = self.scores(x)
        soft = (1 - SMOOTHING) * self.targets.to(s.dtype) + SMOOTHING / 2
        if self.loss == "sigmoid":
            return self.torch.nn.functional.binary_cross_entropy_with_logits(s, soft, reduction="none").sum(1)
        s = s - THRESHOLD
        return ((1 - soft) * s.exp()).sum(1).log1p() + (soft * (-s).exp()).sum(1).log1p()

    def mean(self, values, weights):
        return (weights * values).sum() / weights.sum()

    def divergences(self, clean, x):
        s = self.scores(x) - (THRESHOLD if self.loss == "zlpr" else 0.0)
        p = (clean - (THRESHOLD if self.loss == "zlpr" else 0.0)).sigmoid()
        entropy = -(p * p.log() + (1 - p) * (1 - p).log())
        crossed = self.torch.nn.functional.binary_cross_entropy_with_logits(s, p, reduction="none")
        return (crossed - entropy).sum(1)

    def slope(self, values, x, **options):
        return self.torch.autograd.grad(values.sum(), x, **options)[0]

    def unit(self, g):
        norm = g.norm(dim=1, keepdim=True)
        return self.torch.where(norm > 0, g / norm, 0.0)

    def remembered(self, name, find):
        if name not in self.kept:
            self.kept[name] = find().detach()
        return self.kept[name]

    def value(self, added, alpha):
        x = self.x.clone().requires_grad_()
        losses = self.losses(x)
        total = self.mean(losses, self.weights)
        total = total + alpha / 2 * sum((w**2).sum() for w in self.leaves[::2])
        if added.gradient_penalty:
            g = self.slope(losses, x, create_graph=True)
            total = total + added.gradient_penalty * self.mean((g**2).sum(1) / 2, self.weights)
        if added.adversarial == "fgm":
            r = self.remembered("r", lambda: EPSILON * self.unit(self.slope(losses, x, retain_graph=True)))
            total = total + added.weight * self.mean(self.losses(self.x + r), self.weights)
        if added.adversarial == "vat":
            clean = self.remembered("clean", lambda: self.scores(self.x))
            r = self.remembered("r", lambda: EPSILON * self.ascended(clean, added))
            total = total + added.weight * self.mean(self.divergences(clean, self.x + r), self.everyone)
        return total

    def ascended(self, clean, added):
        u = self.unit(self.direction)
        for _ in range(added.power_iterations):
            x = (self.x + (added.xi or 0.0) * u).requires_grad_()
            slope = self.slope(self.divergences(clean, x), x, create_graph=True)
            u = self.unit(slope.detach() if added.xi else self.slope(slope * u, x))
        return u


def batch_of(rng):
    """Seven rows: five labelled, one of them filling the batch with weight 0, and two without labels."""
    weights = np.asarray([1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0])
    everyone = np.asarray([1.0, 1.0, 1.0, 2.0, 0.0, 3.0, 3.0])
    x, targets = rng.normal(size=(7, 5)), rng.random((7, 3)) < 0.4
    return x, targets, rng.normal(size=(7, 5)), everyone, weights


ADDED = [
    Regularisers(gradient_penalty=0.7),
    Regularisers("fgm", EPSILON, 0.6),
    Regularisers("vat", EPSILON, 1.3, XI, 1),
    Regularisers("vat", EPSILON, 1.3, None, 0),
    Regularisers("vat", EPSILON, 1.3, None, 2, gradient_penalty=0.7),
]


@pytest.mark.library("torch")
@pytest.mark.parametrize("loss", ["zlpr", "sigmoid"])
@pytest.mark.parametrize(
    "added", ADDED, ids=lambda a: f"{a.adversarial}-{a.power_iterations}-{a.gradient_penalty:g}"
)
def test_gradient_of_the_whole_objective(xp, added, loss):
    rng = np.random.default_rng(3)
    batch = batch_of(rng)
    params = nn.dense_parameters((5, 6, 4, 3), batch[0], rng=rng)
    objective = Objective(network("gelu", 2), loss, THRESHOLD, SMOOTHING, 0.05, added)
    x, targets, direction, everyone, weights = (xp.asarray(a) for a in batch)
    drawn = (direction, everyone) if added.adversarial == "vat" else ()
    moved = tuple({k: xp.asarray(v) for k, v in layer.items()} for layer in params)
    value, gradients = objective(moved, x, targets, *drawn, weights)
    ours = np.concatenate([xp.to_numpy(g[k]).ravel() for g in gradients for k in ("weight", "bias")])

    oracle = Autograd(params, batch, loss)
    total = oracle.value(added, 0.05)
    assert float(value) == pytest.approx(float(total.detach()), rel=1e-11)
    theirs = oracle.torch.autograd.grad(total, oracle.leaves)
    theirs = np.concatenate([g.numpy().ravel() for g in theirs])
    rounding = 1e-12 / (added.xi or 1.0)  # by which the difference of a power iteration divides it
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=rounding * np.abs(theirs).max())

    v = rng.normal(size=ours.size)
    ends = []
    for step in (1e-5, -2e-5):
        shift = oracle.torch.tensor(step * v)
        for leaf, part in zip(oracle.leaves, shift.split([p.numel() for p in oracle.leaves]), strict=True):
            leaf.data += part.reshape(leaf.shape)
        ends.append(float(oracle.value(added, 0.05).detach()))  # the perturbations are those from before
    assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(ours @ v, rel=1e-7)


def test_nothing_added_is_the_loss_alone(xp):
    rng = np.random.default_rng(3)
    x, targets, _, _, weights = (xp.asarray(a) for a in batch_of(rng))
    params = nn.dense_parameters((5, 4, 3), x, rng=rng)
    objective = Objective(
        network("relu", 1), "zlpr", 0.0, 0.0, 0.0, Regularisers(gradient_penalty=1.0)
    ).plain()
    value, _ = objective(params, x, targets, weights)
    scores = network("relu", 1)(params, x)
    assert float(value) == float(zlpr_loss(scores, targets, sample_weight=weights))


# ---- training


@pytest.mark.parametrize(
    "params",
    [
        {"adversarial": "fgm", "noise": 0.1, "adversarial_epsilon": 0.3},
        {"gradient_penalty": 0.5, "label_smoothing": 0.1},
        SEMI,
        {"adversarial": "vat", "power_iterations": 2, "loss": "sigmoid", "batch_size": 45},
    ],
)
def test_one_seed_gives_the_same_model_on_every_library(xp, data, params):
    # The bound asked for: max |Δ| / max |score| at most 1e-9 in float64 after 50 epochs.
    X, Y = data
    Y = hidden(Y) if params is SEMI else Y
    ours = fitted(xp.asarray(X), xp.asarray(Y), max_iter=50, **params)
    expected = fitted(X, Y, max_iter=50, **params).decision_function(X)
    scores = ours.decision_function(xp.asarray(X))
    xp.assert_like(scores, xp.asarray(X))
    assert np.max(np.abs(xp.to_numpy(scores) - expected)) <= 1e-9 * np.max(np.abs(expected))


@pytest.mark.parametrize("options", [{"noise": 0.3}, {"gradient_penalty": 0.5}, {"adversarial": "fgm"}, SEMI])
def test_each_reaches_the_training(data, options):
    X, Y = data
    plain, other = (fitted(X, Y, max_iter=3, **o).decision_function(X) for o in ({}, options))
    assert np.max(np.abs(plain - other)) > 1e-4


def test_each_makes_small_what_it_asks_for(data):
    X, Y = data
    run = {"max_iter": 150, "learning_rate": 0.05, "adversarial_epsilon": 0.5}
    models = {
        name: fitted(X, Y, **run, **options)
        for name, options in {
            "none": {},
            "penalty": {"gradient_penalty": 10.0},
            "fgm": {"adversarial": "fgm"},
            "vat": SEMI,
        }.items()
    }

    def value_and_grad(model):
        return lambda x: Objective(network("gelu", 1), "zlpr", 0.0, 0.0, 0.0)._loss(
            model.params_, x, Y, None, ("params", "x")
        )

    slopes = {k: float(perturb.gradient_penalty(value_and_grad(m), X)[0]) for k, m in models.items()}
    assert slopes["penalty"] < 0.5 * slopes["none"]

    def at_worst(model):
        r = perturb.fgm(value_and_grad(model), X, epsilon=0.5)
        return float(zlpr_loss(model.decision_function(X + r), Y))

    assert at_worst(models["fgm"]) < at_worst(models["none"])

    def sensitivity(model):
        r = 0.5 * perturb.random_direction(X, rng=1)
        return float(zlpr_divergence(model.decision_function(X), model.decision_function(X + r)))

    assert sensitivity(models["vat"]) < 0.5 * sensitivity(models["none"])


def test_each_batch_has_noise_and_directions_of_its_own(data):
    model, rng, before = (
        MultilabelClassifier(noise=0.1, **SEMI),
        np.random.default_rng(0),
        np.random.get_state(),
    )
    first, second = (model._drawn(data, rng) for _ in range(2))
    for a, b in ((first[0], second[0]), (first[2], second[2])):
        assert np.all(a != b)
    np.testing.assert_allclose(np.linalg.norm(first[2], axis=1), 1.0)
    np.testing.assert_equal(np.random.get_state(), before)  # NumPy's global state


def test_default_length_follows_the_units(data):
    X, Y = data
    X = 1000.0 * (X - X.mean(axis=0)) / X.std(axis=0) + 5.0
    assert fitted(X, Y, max_iter=1, **SEMI).adversarial_epsilon_ == pytest.approx(500.0)


@pytest.mark.library("jax")
def test_jax_compiles_the_objective_once(xp, data):
    from zlpr._bridges import _jax

    X, Y = data
    options = {"adversarial": "vat", "adversarial_epsilon": 0.5, "max_iter": 2}
    fitted(xp.asarray(X), xp.asarray(Y), **options)
    before = _jax._jitted.cache_info().misses
    fitted(xp.asarray(X), xp.asarray(Y), random_state=1, **options)
    assert _jax._jitted.cache_info().misses == before


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks raise what they want to see
def test_scikit_learn_checks():
    model = MultilabelClassifier(
        (8,), max_iter=30, learning_rate=0.05, activation="relu", random_state=0, **SEMI
    )
    results = check_estimator(model, on_fail=None, on_skip=None)
    assert not [f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"]


def test_copies_and_files(data):
    X, Y = data
    model = fitted(
        X, hidden(Y), max_iter=2, adversarial="vat", xi=1e-3, power_iterations=2, adversarial_weight=0.5
    )
    scores = model.decision_function(X)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).decision_function(X), scores)
    again = clone(model)
    assert again.get_params() == model.get_params()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        np.testing.assert_array_equal(again.fit(X, hidden(Y)).decision_function(X), scores)
    restored = MultilabelClassifier.from_params(model.params_, **model.get_params())
    np.testing.assert_array_equal(restored.decision_function(X), scores)


# ---- unlabelled rows


def test_which_rows_are_unlabelled():
    rows = np.asarray([[0, 1], [-1, -1], [1, 1]])
    np.testing.assert_array_equal(unlabelled(rows), [False, True, False])
    np.testing.assert_array_equal(unlabelled(np.where(rows < 0, np.nan, rows)), [False, True, False])
    assert not unlabelled(np.asarray([[-1, 1], [-1, -1]])).any()  # two values: -1 is one of the labels
    assert not unlabelled(np.asarray([[0, 1], [-1, 1]])).any()  # not the whole row
    assert not unlabelled(np.asarray([["no", "yes"]])).any()
    np.testing.assert_array_equal(unlabelled(np.asarray([0.0, np.nan, 1.0])), [False, True, False])


def test_rows_without_labels_join_the_consistency_alone(xp, data):
    X, Y = data
    few = {"max_iter": 5, **SEMI}
    models = [fitted(xp.asarray(X), xp.asarray(hidden(Y, mark)), **few) for mark in (np.nan, -1)]
    scores = [xp.to_numpy(m.decision_function(xp.asarray(X))) for m in models]
    np.testing.assert_array_equal(*scores)
    without = fitted(X[:40], Y[:40], **few)
    assert np.max(np.abs(scores[0] - without.decision_function(X))) > 1e-4
    for model, mark in zip(models, (np.nan, -1), strict=True):
        np.testing.assert_array_equal(model.label_values_, [0, 1])
        np.testing.assert_array_equal(model.classes_, np.arange(4))
        predicted = model.predict(xp.asarray(X))
        xp.assert_like(predicted, xp.asarray(X))
        assert predicted.dtype == xp.asarray(hidden(Y, mark)).dtype
        assert set(np.unique(xp.to_numpy(predicted))) <= {0, 1}


def test_points_without_labels_show_where_the_boundary_is():
    X, y = make_moons(200, noise=0.1, shuffle=False, random_state=0)  # as in docs/regularizers.md
    some = [16, 50, 84, 116, 150, 184]
    known = np.full(200, np.nan)
    known[some] = y[some]
    options = {"hidden_layer_sizes": (30, 30), "activation": "relu", "max_iter": 500, "n_iter_no_change": 500}
    assert fitted(X[some], known[some], **options).score(X, y) < 0.95
    assert fitted(X, known, adversarial="vat", adversarial_epsilon=0.2, **options).score(X, y) > 0.98


def test_score_counts_the_labelled_rows(data):
    X, Y = data
    model = fitted(X, hidden(Y), **SEMI)
    weight = np.arange(90.0)
    assert model.score(X, hidden(Y)) == model.score(X[:40], Y[:40])
    assert model.score(X, hidden(Y), weight) == model.score(X[:40], Y[:40], weight[:40])
    with pytest.raises(ValueError, match="y must have a labelled row to score on"):
        model.score(X[40:], np.full((50, 4), np.nan))


def test_one_label_may_be_a_vector(data):
    X, Y = data
    model = fitted(X, hidden(Y)[:, 0], **SEMI)
    assert model.predict(X).shape == (90,)
    np.testing.assert_array_equal(model.classes_, [0, 1])


def test_early_stopping_holds_labelled_rows_out(data):
    X, Y = data
    moved = X.copy()
    moved[40:] *= 100.0  # what is held out must not see these
    models = [
        fitted(x, hidden(Y), max_iter=1, early_stopping=True, adversarial_weight=0.0, **SEMI)
        for x in (X, moved)
    ]
    assert len(models[0].validation_curve_) == 1
    np.testing.assert_allclose(models[0].validation_curve_, models[1].validation_curve_, rtol=1e-12)
    # Nothing of the regularisers is in it: the first epoch of this model and of the plain one differ in that alone.
    plain = fitted(X[:40], Y[:40], max_iter=1, early_stopping=True)
    noisy = fitted(X[:40], Y[:40], max_iter=1, early_stopping=True, gradient_penalty=1e-12)
    np.testing.assert_allclose(noisy.validation_curve_, plain.validation_curve_, rtol=1e-9)


def test_a_batch_has_rows_of_both_kinds(xp):
    x, others = np.arange(5.0)[:, None], 10.0 + np.arange(13.0)[:, None]
    batches = PairedBatches(4, prepared=lambda arrays, rng: arrays)
    data = (xp.asarray(x), xp.asarray(x > 1.0), xp.asarray(others))
    met = [
        ([xp.to_numpy(a) for a in arrays], share)
        for arrays, share in batches.of(data, np.random.default_rng(0))
    ]
    assert len(met) == 4  # a lap of 13 in fours, while the five go round more than thrice
    assert sum(share for _, share in met) == 1.0
    for (rows, targets, everyone, weights), _ in met:
        np.testing.assert_array_equal(targets[:4], rows[:4] > 1.0)
        assert not targets[4:].any()
        np.testing.assert_array_equal(weights, [1.0] * 4 + [0.0] * 4)
        np.testing.assert_array_equal(everyone, [5 / 4] * 4 + [13 / 4] * 4)
    seen = np.concatenate([rows[:, 0] for (rows, *_), _ in met])
    assert set(seen) == {*range(5), *range(10, 23)}
    assert np.unique(seen[seen < 10], return_counts=True)[1].tolist().count(3) >= 4


# ---- what is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"adversarial": "pgd"}, "adversarial must be one of None, 'fgm', 'vat', not 'pgd'"),
        ({"gradient_penalty": -1.0}, "gradient_penalty must be finite and not negative"),
        ({"adversarial": "fgm", "adversarial_epsilon": np.inf}, "adversarial_epsilon must be finite"),
        ({"adversarial": "vat", "adversarial_weight": -0.5}, "adversarial_weight must be finite"),
        (
            {"adversarial": "vat", "power_iterations": 1.5},
            "power_iterations must be an integer of at least 0",
        ),
        ({"adversarial": "vat", "xi": 0.0}, "xi must be positive"),
        *(
            ({"solver": "lbfgs", "hidden_layer_sizes": (), **options}, 'needs solver="minibatch"')
            for options in ({"noise": 0.1}, {"gradient_penalty": 0.1}, {"adversarial": "fgm"}, SEMI)
        ),
    ],
)
def test_parameters_are_checked_at_fit(data, params, message):
    with pytest.raises(ValueError, match=message):
        MultilabelClassifier(**params).fit(*data)


@pytest.mark.parametrize("mark", [np.nan, -1])
@pytest.mark.parametrize("adversarial", [None, "fgm"])
def test_unlabelled_rows_need_virtual_adversarial_training(data, mark, adversarial):
    X, Y = data
    with pytest.raises(ValueError, match=r'50 unlabelled rows.*first of them row 40.*adversarial="vat"'):
        MultilabelClassifier(adversarial=adversarial).fit(X, hidden(Y, mark))


def test_a_row_is_labelled_or_not(data):
    X, Y = data
    with pytest.raises(ValueError, match="at least one labelled row"):
        MultilabelClassifier(**SEMI).fit(X, np.full(Y.shape, np.nan))
    partly = Y.astype(float)
    partly[3, 1] = np.nan
    with pytest.raises(ValueError, match="A row without labels is nan throughout"):
        MultilabelClassifier(**SEMI).fit(X, partly)


@pytest.mark.library("numpy")
@pytest.mark.parametrize("mark", [-1.0, np.nan])
def test_score_leaves_out_rows_of_the_mark_also_beside_one_value(xp, mark):
    X = np.linspace(-1.0, 1.0, 12)[:, None]
    y = np.where(np.arange(12) % 3 == 2, mark, (X[:, 0] > 0) * 1.0)
    options = {"hidden_layer_sizes": (), "adversarial": "vat", "max_iter": 50, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = MultilabelClassifier(**options).fit(X, y)
    right = X[:, 0] > 0.5
    assert model.score(X[right], np.where(np.arange(right.sum()) % 2, mark, 1.0)) == 1.0
