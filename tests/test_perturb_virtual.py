"""Virtual adversarial perturbations: the top eigenvector, by differences and by products; the seed's equivalences."""

from __future__ import annotations

import math

import numpy as np
import pytest

import _libraries
from zlpr import perturb
from zlpr.activations import tanh
from zlpr.losses import gaussian_divergence, softmax_divergence, zlpr_divergence, zlpr_loss
from zlpr.nn import dense_parameters, mlp

DIVERGENCES = {"softmax": softmax_divergence, "labels": zlpr_divergence, "gaussian": gaussian_divergence}
EACH = pytest.mark.parametrize("output", list(DIVERGENCES))
N_IN, N_OUT, ROWS = 6, 4, 5


def fisher(output, scores):
    """The Hessian of the divergence at agreement, in NumPy, from the table of the derivations."""
    probability = 1 / (1 + np.exp(-scores))
    if output == "labels":
        return np.diag(2 * probability * (1 - probability))
    if output == "gaussian":
        half = len(scores) // 2
        return np.diag(np.concatenate([np.exp(-scores[half:]), np.full(half, 0.5)]))
    p = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    return np.diag(p) - np.outer(p, p)


def model(xp, dtype="float64"):
    """Parameters, inputs and forward_vjp of a small network."""
    params = dense_parameters((N_IN, 9, N_OUT), xp.asarray(np.zeros(1), dtype), rng=0)
    x = xp.asarray(np.random.default_rng(1).normal(size=(ROWS, N_IN)), dtype)
    return params, x, lambda x: mlp.vjp(params, x, activation=tanh)


def curvatures(output):
    """J' F J of every sample, from a Jacobian by differences."""
    params, x, _ = model(_libraries.load("numpy"))

    def f(x):
        return mlp(params, x, activation=tanh)

    step = 1e-6
    columns = [(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(N_IN)]
    jacobians = np.stack(columns, axis=2)
    return [j.T @ fisher(output, s) @ j for j, s in zip(jacobians, f(x), strict=True)]


def rayleigh_quotients(output, r):
    """u' H u over the largest eigenvalue."""
    r = np.asarray(r, np.float64)
    return np.asarray(
        [u @ h @ u / (u @ u) / np.linalg.eigvalsh(h)[-1] for u, h in zip(r, curvatures(output), strict=True)]
    )


@EACH
def test_the_direction_is_the_top_eigenvector(xp, output):
    _, x, forward_vjp = model(xp)
    r = perturb.virtual_adversarial(
        DIVERGENCES[output], forward_vjp, x, epsilon=0.3, n_iter=60, rng=0, exact=True
    )
    xp.assert_like(r, x)
    vectors = np.stack([np.linalg.eigh(h)[1][:, -1] for h in curvatures(output)])
    np.testing.assert_allclose(np.abs((xp.to_numpy(r) * vectors).sum(axis=1)), 0.3, rtol=1e-5)
    start = xp.to_numpy(perturb.random_direction(x, rng=0))
    assert ((xp.to_numpy(r) * start).sum(axis=1) > 0).all()  # of both signs the one that was drawn


@EACH
def test_one_exact_step_is_a_product_with_the_curvature(xp, output):
    params, x, forward_vjp = model(xp)
    u = perturb.random_direction(x, rng=0)
    r = perturb.virtual_adversarial(DIVERGENCES[output], forward_vjp, x, epsilon=1.0, direction=u, exact=True)
    expected = np.stack([h @ v for h, v in zip(curvatures(output), xp.to_numpy(u), strict=True)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(xp.to_numpy(r), expected, rtol=1e-7, atol=1e-8)  # the Jacobian is a difference

    def forward_jvp(x, u):  # of a dense layer, an elementwise one, and a dense one
        hidden, _ = mlp.vjp(params[:1], x, activation=tanh)
        slope = tanh.value_and_grad(hidden)[1]
        return (u @ params[0]["weight"] * slope) @ params[1]["weight"]

    same = perturb.virtual_adversarial(
        DIVERGENCES[output], forward_vjp, x, epsilon=1.0, direction=u, forward_jvp=forward_jvp
    )
    np.testing.assert_allclose(xp.to_numpy(same), xp.to_numpy(r), rtol=1e-12, atol=1e-14)


@EACH
@pytest.mark.parametrize(("dtype", "least"), [("float64", 0.999), ("float32", 0.99), ("float16", 0.9)])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_differences_find_it_in_every_precision_and_unit(xp, output, dtype, least, scale):
    if dtype not in xp.dtypes:
        pytest.skip("no such dtype here")
    if dtype == "float16" and scale != 1.0:
        scale = 30.0
    params, x, _ = model(xp, dtype)
    scaled = ({**params[0], "weight": params[0]["weight"] / scale}, params[1])
    r = perturb.virtual_adversarial(
        DIVERGENCES[output],
        lambda x: mlp.vjp(scaled, x, activation=tanh),
        x * scale,
        epsilon=1.0,
        n_iter=25,
        rng=1,
    )
    assert rayleigh_quotients(output, xp.to_numpy(r)).min() > least
    np.testing.assert_allclose(np.linalg.norm(xp.to_numpy(r).astype(float), axis=1), 1.0, rtol=2e-3)


def test_the_usual_step_is_lost_in_float32_but_never_nan(xp):
    _, x, forward_vjp = model(xp, "float32")
    opts = {"epsilon": 1.0, "n_iter": 25, "rng": 1}
    lost = perturb.virtual_adversarial(softmax_divergence, forward_vjp, x, xi=1e-7, **opts)
    assert np.isfinite(xp.to_numpy(lost)).all()
    ours = perturb.virtual_adversarial(softmax_divergence, forward_vjp, x, **opts)
    assert rayleigh_quotients("softmax", xp.to_numpy(ours)).min() > 0.99
    lost = xp.to_numpy(lost)
    assert (lost == 0).all(axis=1).any() or rayleigh_quotients("softmax", lost).min() < 0.9


def test_an_output_that_does_not_depend_on_a_sample_gives_0(xp):
    x = xp.asarray(np.asarray([[1.0, 2.0], [0.0, 0.0]]))
    flat = lambda x: (x * 0.0, lambda dscores: dscores * 0.0)  # noqa: E731
    for exact in (False, True):
        r = perturb.virtual_adversarial(zlpr_divergence, flat, x, epsilon=1.0, n_iter=3, rng=0, exact=exact)
        np.testing.assert_array_equal(xp.to_numpy(r), 0.0)
    moving = perturb.virtual_adversarial(
        zlpr_divergence, lambda x: (x, lambda dscores: dscores), x, epsilon=1.0, rng=0
    )
    np.testing.assert_allclose(np.linalg.norm(xp.to_numpy(moving), axis=1), 1.0, rtol=1e-14)


def test_a_plain_function_does_for_a_divergence(xp):
    xpn = xp.namespace
    _, x, forward_vjp = model(xp)

    def squared_error(clean, moved):
        return 0.5 * xpn.sum((moved - clean) ** 2), moved - clean

    r = perturb.virtual_adversarial(squared_error, forward_vjp, x, epsilon=0.5, rng=0)
    value, (dparams, dx) = perturb.consistency(squared_error, forward_vjp, x, r)
    assert float(value) > 0.0
    assert tuple(dx.shape) == tuple(x.shape)
    assert len(dparams) == 2
    with pytest.raises(TypeError, match="divergence must have hvp"):
        perturb.virtual_adversarial(squared_error, forward_vjp, x, epsilon=0.5, rng=0, exact=True)
    with pytest.raises(TypeError, match="dclean, dmoved"):
        perturb.consistency(squared_error, forward_vjp, x, r, through_clean=True)


@EACH
@pytest.mark.parametrize("through_clean", [False, True])
def test_consistency_has_the_gradient_of_its_value(xp, output, through_clean):
    params, x, forward_vjp = model(xp)
    r = 0.3 * perturb.random_direction(x, rng=2)
    divergence = DIVERGENCES[output]
    value, (dparams, _) = perturb.consistency(divergence, forward_vjp, x, r, through_clean=through_clean)
    direction = np.random.default_rng(3).normal(size=(9, N_OUT))

    def moved(step):
        other = (params[0], {**params[1], "weight": params[1]["weight"] + step * xp.asarray(direction)})
        scores = [
            mlp(p, z, activation=tanh) for p, z in ((other if through_clean else params, x), (other, x + r))
        ]
        return float(divergence(*scores))

    slope = (moved(1e-5) - moved(-1e-5)) / 2e-5
    np.testing.assert_allclose((xp.to_numpy(dparams[1]["weight"]) * direction).sum(), slope, rtol=1e-7)
    np.testing.assert_allclose(float(value), moved(0.0), rtol=1e-14)
    known = perturb.consistency(divergence, forward_vjp, x, r, clean=forward_vjp(x)[0])
    assert float(known[0]) == float(value)


@EACH
@pytest.mark.library("numpy")
def test_random_consistency_is_the_trace_of_the_fisher_form(xp, output):
    # E D(f(x), f(x + εu)) = ε² / 2d tr(J'FJ) for random directions u, and with normal noise σ² / 2 tr(J'FJ). 20,000
    # draws within 5 standard errors (one seed in 1.7 million fails), and 1e-3 for what is beyond second order.
    _, x, forward_vjp = model(xp)
    trace = np.trace(curvatures(output)[0])
    copies = np.repeat(x[:1], 20_000, axis=0)
    directions = 1e-2 * perturb.random_direction(copies, rng=4)
    noise = perturb.gaussian_noise(np.zeros_like(copies), 1e-2, rng=5)
    for r, expected in ((directions, 1e-4 / (2 * N_IN) * trace), (noise, 0.5e-4 * trace)):
        sides = [
            perturb.consistency(DIVERGENCES[output], forward_vjp, copies, s * r, reduction="none")[0]
            for s in (1, -1)
        ]
        values = 0.5 * (sides[0] + sides[1]) / expected
        assert abs(values.mean() - 1) < 5 * values.std() / math.sqrt(values.size) + 1e-3


@EACH
@pytest.mark.library("numpy")
def test_the_virtual_adversarial_divergence_is_half_the_top_eigenvalue(xp, output):
    _, x, forward_vjp = model(xp)
    divergence, epsilon = DIVERGENCES[output], 1e-3
    r = perturb.virtual_adversarial(divergence, forward_vjp, x, epsilon=epsilon, n_iter=60, rng=0, exact=True)
    values = (
        sum(perturb.consistency(divergence, forward_vjp, x, s * r, reduction="none")[0] for s in (1, -1)) / 2
    )
    top = [np.linalg.eigvalsh(h)[-1] for h in curvatures(output)]
    np.testing.assert_allclose(values, epsilon**2 / 2 * np.asarray(top), rtol=1e-4)


@pytest.mark.parametrize("exact", [False, True])
def test_options_reach_the_divergence(xp, exact):
    # Where only the first of two scores counts, the direction is that of the first input.
    x = xp.asarray(np.zeros((3, 2)))
    mask = xp.asarray(np.asarray([[True, False]] * 3))
    opts = {"epsilon": 1.0, "rng": 0, "symmetric": False, "mask": mask, "exact": exact}
    r = perturb.virtual_adversarial(zlpr_divergence, lambda x: (x, lambda d: d), x, **opts)
    np.testing.assert_array_equal(np.abs(xp.to_numpy(r)), [[1.0, 0.0]] * 3)


def test_one_seed_gives_the_same_perturbation_to_the_last_digits(xp):
    # Matrix products and exponentials differ in their last digits, which differences divide by the step, 1e-4.
    numpy = _libraries.load("numpy")
    for exact, tolerance in ((True, 1e-12), (False, 1e-9)):
        opts = {"epsilon": 0.5, "n_iter": 2, "rng": 7, "exact": exact}
        (_, x, f), (_, x_numpy, by_numpy) = model(xp), model(numpy)
        r = perturb.virtual_adversarial(softmax_divergence, f, x, **opts)
        expected = perturb.virtual_adversarial(softmax_divergence, by_numpy, x_numpy, **opts)
        np.testing.assert_allclose(xp.to_numpy(r), expected, rtol=0, atol=tolerance)


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break(xp):
    import torch

    params, x, _ = model(xp)
    u = perturb.random_direction(x, rng=0)

    def both(x, u):
        def forward_vjp(x):
            return mlp.vjp(params, x, activation=tanh)

        r = perturb.virtual_adversarial(zlpr_divergence, forward_vjp, x, epsilon=0.5, direction=u)
        return r, perturb.consistency(zlpr_divergence, forward_vjp, x, r)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, u), both(x, u), rtol=1e-8, atol=1e-10)


def test_a_box_is_kept(xp):
    _, x, forward_vjp = model(xp)
    low, high = float(xp.to_numpy(x).min()), float(xp.to_numpy(x).max())
    r = perturb.virtual_adversarial(zlpr_divergence, forward_vjp, x, epsilon=2.0, rng=0, bounds=(low, high))
    moved = xp.to_numpy(x + r)
    assert low <= moved.min()
    assert moved.max() <= high


@pytest.mark.library("jax")
def test_a_training_objective_may_be_jitted_with_all_of_it(xp):
    import jax

    params, x, _ = model(xp)
    targets = xp.asarray(np.random.default_rng(6).random((ROWS, N_OUT)) < 0.4)
    weights = xp.asarray(np.asarray([1.0, 1.0, 1.0, 1.0, 0.0]))

    def training_loss(params, x, targets, weights, direction):
        def value_and_grad(x):
            scores, pullback = mlp.vjp(params, x, activation=tanh)
            value, dscores = zlpr_loss.value_and_grad(scores, targets, sample_weight=weights)
            return value, pullback(dscores)

        def forward_vjp(x):
            return mlp.vjp(params, x, activation=tanh)

        value, (gradients, _) = value_and_grad(x + perturb.fgm(value_and_grad, x, epsilon=0.1))
        r = perturb.virtual_adversarial(zlpr_divergence, forward_vjp, x, epsilon=0.5, direction=direction)
        parts = [
            perturb.gradient_penalty(value_and_grad, x, reduction="mean", sample_weight=weights),
            perturb.consistency(zlpr_divergence, forward_vjp, x, r, sample_weight=weights),
            perturb.free_adversarial(value_and_grad, x, epsilon=0.1)[:2],
        ]
        for part, (dparams, _) in parts:
            value = value + part
            gradients = jax.tree.map(lambda a, b: a + b, gradients, dparams)
        return value, gradients

    given = (params, x, targets, weights, perturb.random_direction(x, rng=0))
    compiled, eager = jax.jit(training_loss)(*given), training_loss(*given)
    for a, b in zip(jax.tree.leaves(compiled), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)  # differences of gradients in the penalty


@pytest.mark.library("jax")
def test_a_function_of_jax_with_its_own_products(xp):
    import jax

    params, x, forward_vjp = model(xp)

    def f(params, x):
        return mlp(params, x, activation=tanh)

    opts = {"epsilon": 0.5, "n_iter": 3, "rng": 0}
    r = perturb.virtual_adversarial(
        zlpr_divergence,
        lambda x: jax.vjp(f, params, x),
        x,
        forward_jvp=lambda x, u: jax.jvp(lambda x: f(params, x), (x,), (u,))[1],
        **opts,
    )
    same = perturb.virtual_adversarial(zlpr_divergence, forward_vjp, x, exact=True, **opts)
    np.testing.assert_allclose(r, same, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("opts", "words"), [
    ({}, "one of rng and direction must be given"),
    ({"rng": 0, "direction": 0}, "one of rng and direction must be given"),
    ({"rng": 0, "n_iter": -1}, "n_iter must be an integer"),
    ({"rng": 0, "xi": -1.0}, "xi must be above 0"),
    ({"rng": 0, "axis": 7}, "axis must name axes"),
    ({"rng": 0, "exact": True, "axis": (0, 1)}, "give forward_jvp otherwise"),
])  # fmt: skip
def test_bad_arguments_are_named(xp, opts, words):
    with pytest.raises(ValueError, match=words):
        perturb.virtual_adversarial(
            zlpr_divergence, lambda x: (x, lambda d: d), xp.asarray(np.ones((3, 2))), epsilon=1.0, **opts
        )
