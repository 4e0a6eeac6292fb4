"""The gradient penalty: its value against the twin, its gradient against second derivatives, and what it is worth."""

from __future__ import annotations

import math

import numpy as np
import optree
import pytest

from _exact import assert_ulps
from zlpr import perturb, reference
from zlpr.activations import gelu, tanh
from zlpr.losses import softmax_cross_entropy, zlpr_loss
from zlpr.nn import batch_norm, dense, dense_parameters, dropout, mlp, sequential

EXTREMES = [("float64", 1e150), ("float64", 1e-150), ("float32", 1e18), ("float32", 1e-18), ("float32", 1.0)]


def giving(gradient):
    return lambda x: (0.0, gradient)


@pytest.mark.parametrize(("dtype", "size"), EXTREMES)
def test_penalty_agrees_with_its_twin(xp, dtype, size):
    g = (
        np.random.default_rng(0).normal(size=(4, 6)) * size * np.asarray([[1.0], [0.5], [0.0], [1e-3]])
    ).astype(dtype)
    weights = np.asarray([0.5, 2.0, 1.0, 0.0], dtype)
    x = xp.asarray(np.zeros_like(g))
    plain, _ = perturb.gradient_penalty(giving(xp.asarray(g)), x)
    exact = reference.gradient_penalty(g.astype(float).tolist())
    assert_ulps(xp, plain[None], [exact], dtype, 8)
    weighted = g * (weights > 0)[:, None]
    value, _ = perturb.gradient_penalty(giving(xp.asarray(weighted)), x, sample_weight=xp.asarray(weights))
    exact = reference.gradient_penalty(weighted.astype(float).tolist(), weights.astype(float).tolist())
    assert_ulps(xp, value[None], [exact], dtype, 8)


def test_no_gradient_no_penalty(xp):
    x = xp.asarray(np.zeros((3, 2)))
    penalty, dx = perturb.gradient_penalty(giving(x), x)
    assert float(penalty) == 0.0
    np.testing.assert_array_equal(xp.to_numpy(dx), np.zeros((3, 2)))


def problem(xp, dtype="float64", scale=1.0, rows=7):
    """Parameters of a network, inputs of the given scale, and what `value_and_grad` takes from them."""
    rng = np.random.default_rng(1)
    params = dense_parameters((6, 9, 4), xp.asarray(np.zeros(1), dtype), rng=0)
    params = ({**params[0], "weight": params[0]["weight"] / scale}, params[1])
    targets = xp.asarray(rng.random((rows, 4)) < 0.4)
    return params, xp.asarray(rng.normal(size=(rows, 6)) * scale, dtype), targets


def objective(params, targets, **opts):
    def value_and_grad(x):
        scores, pullback = mlp.vjp(params, x, activation=tanh)
        value, dscores = zlpr_loss.value_and_grad(scores, targets, **opts)
        return value, pullback(dscores)

    return value_and_grad


def exact_gradients(params, x, targets, reduction):
    """By PyTorch's double backward, in float64."""
    import torch

    def tensor(a):
        return torch.tensor(np.asarray(a, np.float64), requires_grad=True)

    leaves, spec = optree.tree_flatten(params)
    leaves, x = [tensor(a) for a in leaves], tensor(x)
    first, second = spec.unflatten(leaves)
    scores = torch.tanh(x @ first["weight"] + first["bias"]) @ second["weight"] + second["bias"]
    losses = zlpr_loss(scores, torch.tensor(np.asarray(targets)), reduction="none")
    (dx,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    penalties = 0.5 * (dx * dx).sum(dim=1)
    penalty = penalties.sum() if reduction == "sum" else penalties.mean()
    return float(penalty.detach()), [g.numpy() for g in torch.autograd.grad(penalty, [*leaves, x])]


def relative_error(got, exact):
    distance = math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in zip(got, exact, strict=True)))
    return distance / math.sqrt(sum(float(np.sum(b**2)) for b in exact))


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("scale", [1.0, 255.0, 1e-6])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_its_gradient_is_that_of_double_backward(xp, reduction, scale):
    # The promise: relative error at most 1e-9 in float64 from two first-order gradients, whatever the units of x.
    pytest.importorskip("torch")
    for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-3)):
        params, x, targets = problem(xp, dtype, scale)
        f = objective(params, targets, reduction=reduction)
        penalty, gradients = perturb.gradient_penalty(f, x, reduction=reduction)
        exact_penalty, exact = exact_gradients(
            optree.tree_map(xp.to_numpy, params), xp.to_numpy(x), xp.to_numpy(targets), reduction
        )
        assert abs(float(penalty) / exact_penalty - 1) < tolerance
        got = [xp.to_numpy(g).astype(np.float64) for g in optree.tree_leaves(gradients)]
        assert relative_error(got[:-1], exact[:-1]) <= tolerance
        assert relative_error(got[-1:], exact[-1:]) <= tolerance


@pytest.mark.library("numpy")
def test_a_forward_difference_would_not_do(xp):
    params, x, targets = problem(xp)
    f = objective(params, targets)
    _, (central, _) = perturb.gradient_penalty(f, x)
    _, (_, dx) = f(x)
    h = 1e-6 / np.linalg.norm(dx, axis=1).max()
    forward = optree.tree_map(lambda a, b: (a - b) / h, f(x + h * dx)[1][0], f(x)[1][0])
    leaves = [optree.tree_leaves(tree) for tree in (forward, central)]
    assert relative_error(*leaves) > 1e-7


@pytest.mark.library("numpy", "torch")
def test_samples_may_have_weights(xp):
    # A batch that is filled up with rows of weight 0 has the penalty of the rows that count.
    params, x, targets = problem(xp)
    weights = np.asarray([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    f = objective(params, targets, sample_weight=xp.asarray(weights))
    padded, (dpadded, dx) = perturb.gradient_penalty(
        f, x, reduction="mean", sample_weight=xp.asarray(weights)
    )
    penalty, (dparams, _) = perturb.gradient_penalty(
        objective(params, targets[:5, ...]), x[:5, ...], reduction="mean"
    )
    np.testing.assert_allclose(float(padded), float(penalty), rtol=1e-13)
    for got, expected in zip(optree.tree_leaves(dpadded), optree.tree_leaves(dparams), strict=True):
        np.testing.assert_allclose(xp.to_numpy(got), xp.to_numpy(expected), rtol=1e-7, atol=1e-10)
    np.testing.assert_array_equal(xp.to_numpy(dx)[5:], 0.0)


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_exactly_by_the_products_of_a_network_of_rules(xp, reduction):
    pytest.importorskip("torch")
    params, x, targets = problem(xp)
    objective = perturb.NetworkObjective(
        sequential(dense, tanh, dense), params, zlpr_loss, targets, reduction=reduction
    )
    penalty, gradients = perturb.gradient_penalty(objective, x, reduction=reduction)
    exact_penalty, exact = exact_gradients(
        optree.tree_map(xp.to_numpy, params), xp.to_numpy(x), xp.to_numpy(targets), reduction
    )
    assert abs(float(penalty) / exact_penalty - 1) < 1e-14
    assert relative_error([xp.to_numpy(g) for g in optree.tree_leaves(gradients)], exact) < 1e-14


def test_a_network_with_dropout_has_the_products_of_its_differences(xp):
    rng = np.random.default_rng(7)
    params, x, targets = problem(xp)
    masks = (xp.asarray(2.0 * (rng.random((7, 9)) < 0.5)),)
    network = sequential(dense, gelu, dropout, dense)
    objective = perturb.NetworkObjective(network, params, zlpr_loss, targets, masks=masks)
    v, step = xp.asarray(rng.normal(size=(7, 6))), 1e-5
    ahead, behind = (optree.tree_leaves(objective(x + s * v)[1]) for s in (step, -step))
    for exact, a, b in zip(optree.tree_leaves(objective.jvp(x, v)), ahead, behind, strict=True):
        difference = (xp.to_numpy(a) - xp.to_numpy(b)) / (2 * step)
        np.testing.assert_allclose(xp.to_numpy(exact), difference, rtol=1e-6, atol=1e-8)
    up = (xp.to_numpy(objective.forward_vjp(x + s * v)[0]) for s in (step, -step))
    difference = np.subtract(*up) / (2 * step)
    np.testing.assert_allclose(xp.to_numpy(objective.forward_jvp(x, v)), difference, rtol=1e-6, atol=1e-8)


def test_what_a_network_of_exact_products_may_hold(xp):
    with pytest.raises(TypeError, match="network must be of dense, dropout and activations"):
        perturb.NetworkObjective(sequential(dense, batch_norm), ({}, {}))
    with pytest.raises(TypeError, match="loss must be given"):
        perturb.NetworkObjective(sequential(tanh), ())(xp.asarray(np.ones((1, 1))))


@pytest.mark.library("jax")
def test_exactly_by_the_products_of_jax(xp):
    import jax

    pytest.importorskip("torch")
    params, x, targets = problem(xp)

    def loss(params, x):
        return zlpr_loss(mlp(params, x, activation=tanh), targets, reduction="sum")

    gradients_of = jax.grad(loss, argnums=(0, 1))
    _, gradients = perturb.gradient_penalty(
        lambda x: (0.0, gradients_of(params, x)),
        x,
        jvp=lambda x, v: jax.jvp(lambda x: gradients_of(params, x), (x,), (v,))[1],
    )
    _, exact = exact_gradients(
        optree.tree_map(xp.to_numpy, params), xp.to_numpy(x), xp.to_numpy(targets), "sum"
    )
    assert relative_error([xp.to_numpy(g) for g in optree.tree_leaves(gradients)], exact) < 1e-14


@pytest.mark.parametrize(("opts", "words"), [
    ({"reduction": "none"}, 'reduction must be "sum" or "mean"'),
    ({"sample_weight": [1.0]}, "sample_weight must be an array"),
    ({"step": -1.0}, "step must be above 0"),
])  # fmt: skip
def test_bad_arguments_are_named(xp, opts, words):
    with pytest.raises((TypeError, ValueError), match=words):
        perturb.gradient_penalty(lambda z: (0.0, z), xp.asarray(np.ones((3, 2))), **opts)


def test_training_with_noise_is_training_with_the_penalty():
    # E (f(x + ε) - f(x))² = σ² ‖∇f‖² + O(σ⁴), which is 2 σ² times the penalty of f. 40,000 draws; within 5 standard
    # errors, so that one seed in 1.7 million fails, and 1e-3 for the terms of fourth order, σ² being 1e-4.
    params = dense_parameters((6, 9, 1), np.zeros(1), rng=0)
    x = np.random.default_rng(2).normal(size=(1, 6))

    def value_and_grad(x):
        value, pullback = mlp.vjp(params, x, activation=tanh)
        return value.sum(), pullback(np.ones_like(value))

    penalty, _ = perturb.gradient_penalty(value_and_grad, x)
    noisy = perturb.gaussian_noise(np.repeat(x, 40_000, axis=0), 1e-2, rng=3)
    squares = (mlp(params, noisy, activation=tanh) - mlp(params, x, activation=tanh))[:, 0] ** 2
    ratio = squares / (2 * 1e-4 * penalty)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(ratio.size) + 1e-3


def test_noise_penalises_the_curvature_of_the_loss():
    # E l(x + ε) - l(x) = ½ σ² tr ∇²l + O(σ⁴), with ε and -ε together, whose first order cancels. As above: 5 standard
    # errors, one seed in 1.7 million. The trace by central differences of gradients.
    params = dense_parameters((5, 8, 3), np.zeros(1), rng=1)
    x, target = np.random.default_rng(4).normal(size=(1, 5)), np.asarray([1])

    def losses(x):
        return softmax_cross_entropy(
            mlp(params, x, activation=tanh), np.repeat(target, len(x)), reduction="none"
        )

    def gradient(x):
        scores, pullback = mlp.vjp(params, x, argnums="x", activation=tanh)
        return pullback(softmax_cross_entropy.value_and_grad(scores, target)[1])

    step = 1e-5
    trace = sum((gradient(x + step * e) - gradient(x - step * e))[0, i] for i, e in enumerate(np.eye(5))) / (
        2 * step
    )
    copies = np.repeat(x, 40_000, axis=0)
    ahead = perturb.gaussian_noise(copies, 1e-2, rng=5)
    grown = 0.5 * (losses(ahead) + losses(2 * copies - ahead)) - losses(x)
    assert abs(grown.mean() - 0.5e-4 * trace) < 5 * grown.std() / math.sqrt(grown.size) + 1e-3 * 0.5e-4 * abs(
        trace
    )
