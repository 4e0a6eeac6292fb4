"""Adversarial perturbations: exact twins, extremes, boxes, equal bits, and callables of every origin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import _libraries
from _exact import assert_ulps
from zlpr import perturb, reference
from zlpr.activations import gelu
from zlpr.losses import zlpr_loss
from zlpr.nn import dense_parameters, mlp

NORMS = pytest.mark.parametrize("norm", ["l2", "linf"])
LIMIT = 4  # ulp: two divisions, a root, a product, and a sum by halves


def giving(gradient):
    """A callable whose gradient is known."""
    return lambda x: (0.0, gradient)


@st.composite
def gradients(draw, shape=(3, 5)):
    """A dtype and gradients whose samples are of any size its numbers have, or zero."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    top = float(np.finfo(dtype).max)
    scales = draw(hnp.arrays(np.float64, (shape[0], 1), elements=st.sampled_from([1.0, 16 / top, top, 0.0])))
    return dtype, (draw(hnp.arrays(np.float64, shape, elements=st.floats(-1, 1, width=16))) * scales).astype(
        dtype
    )


@NORMS
@given(case=gradients())
def test_fgm_and_projection_agree_with_their_twins(xp, norm, case):
    dtype, g = case
    flushed = np.where(np.abs(g) < np.finfo(dtype).tiny, 0, g)  # subnormal numbers are 0 to some compilers
    x = xp.asarray(np.zeros_like(g))
    with xp.no_sync():
        r = perturb.fgm(giving(xp.asarray(flushed)), x, epsilon=0.3, norm=norm)
        projected = perturb.project(xp.asarray(flushed), 0.3, norm=norm)
    xp.assert_like(r, x)
    rows = flushed.astype(float).tolist()
    assert_ulps(xp, r, [reference.fgm(row, 0.3, norm=norm) for row in rows], dtype, LIMIT)
    assert_ulps(xp, projected, [reference.project(row, 0.3, norm=norm) for row in rows], dtype, LIMIT)


def test_edges_of_the_gradient(xp):
    g = xp.asarray(
        np.asarray([[0.0, 0.0], [math.inf, 1.0], [math.inf, -math.inf], [math.nan, 1.0], [5e-324, 0.0]])
    )
    r = xp.to_numpy(perturb.fgm(giving(g), xp.asarray(np.zeros((5, 2))), epsilon=2.0))
    half = math.sqrt(2.0)
    np.testing.assert_allclose(r[:3], [[0.0, 0.0], [2.0, 0.0], [half, -half]], rtol=1e-15)
    assert np.isnan(r[3]).all()
    assert r[4].tolist() in ([2.0, 0.0], [0.0, 0.0])  # a compiler may take a subnormal number for 0
    signs = xp.to_numpy(perturb.fgm(giving(g), xp.asarray(np.zeros((5, 2))), epsilon=2.0, norm="linf"))
    np.testing.assert_array_equal(signs[:3], [[0.0, 0.0], [2.0, 2.0], [2.0, -2.0]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_norms_do_not_overflow(xp, dtype):
    # FreeLB's norms overflow in float16: entries of 300 have squares of 90,000, and the largest number is 65,504.
    if dtype not in xp.dtypes:
        pytest.skip("no such dtype here")
    g = xp.asarray(np.asarray([[300.0, 400.0], [6e4, 0.0], [6e-8, 0.0]]), dtype)
    r = perturb.fgm(giving(g), xp.asarray(np.zeros((3, 2)), dtype), epsilon=1.0)
    np.testing.assert_allclose(xp.to_numpy(r), [[0.6, 0.8], [1.0, 0.0], [1.0, 0.0]], rtol=4e-3)
    assert str(r.dtype).endswith(dtype)


def test_what_a_sample_is(xp):
    g = np.random.default_rng(0).normal(size=(2, 3, 4))
    for axis, axes in ((None, (1, 2)), (-1, (2,)), ((0, 1, 2), (0, 1, 2)), ((0, 2), (0, 2))):
        r = perturb.fgm(giving(xp.asarray(g)), xp.asarray(np.zeros_like(g)), epsilon=1.0, axis=axis)
        expected = g / np.sqrt((g * g).sum(axis=axes, keepdims=True))
        np.testing.assert_allclose(xp.to_numpy(r), expected, rtol=1e-14)
    vector = perturb.fgm(giving(xp.asarray([3.0, 4.0])), xp.asarray([0.0, 0.0]), epsilon=xp.asarray([5.0]))
    np.testing.assert_allclose(xp.to_numpy(vector), [3.0, 4.0], rtol=1e-15)
    assert tuple(perturb.fgm(giving(x0 := xp.asarray(np.zeros((0, 3)))), x0, epsilon=1.0).shape) == (0, 3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("low", [0.0, 1e-20, -0.3])
def test_a_box_is_never_left(xp, dtype, low):
    rng = np.random.default_rng(0)
    x = np.clip(rng.random((40, 25)) * rng.choice([1.0, 1e-3, 1e-12], size=(40, 1)) + low, low, 0.9).astype(
        dtype
    )
    low, high = float(np.asarray(low, dtype)), float(np.asarray(0.9, dtype))
    x = np.clip(x, low, high)
    g = rng.normal(size=x.shape).astype(dtype)
    for norm in ("l2", "linf"):
        r = perturb.fgm(giving(xp.asarray(g)), xp.asarray(x), epsilon=3.0, norm=norm, bounds=(low, high))
        moved = xp.to_numpy(xp.asarray(x) + r)
        assert low <= moved.min()
        assert moved.max() <= high
        assert ((moved == low) | (moved == high)).mean() > 0.1  # the box did something
        size = (
            np.abs(xp.to_numpy(r)).max() if norm == "linf" else np.linalg.norm(xp.to_numpy(r), axis=1).max()
        )
        assert size <= 3.0 * (1 + 1e-6)


def elementwise_problem(xp, shape=(4, 6), dtype="float64"):
    """A loss whose gradient takes additions and comparisons alone, which every library rounds alike."""
    rng = np.random.default_rng(1)
    x, slope = rng.normal(size=shape), rng.normal(size=shape)

    def value_and_grad_of(slope):
        return lambda x: (0.0, slope + (x + x))

    return xp.asarray(x, dtype), value_and_grad_of(xp.asarray(slope, dtype))


METHODS = {
    "fgm": lambda f, x: perturb.fgm(f, x, epsilon=0.3),
    "pgd": lambda f, x: perturb.pgd(f, x, epsilon=0.3, n_steps=4, rng=0, bounds=(-5.0, 5.0)),
    "pgd-linf": lambda f, x: perturb.pgd(f, x, epsilon=0.3, n_steps=2, norm="linf", rng=0),
    "free": lambda f, x: perturb.free_adversarial(f, x, epsilon=0.3, rng=0).perturbation,
}


@pytest.mark.parametrize(
    ("method", "shape"), [*((m, (4, 6)) for m in METHODS), ("fgm", (3, 1000)), ("pgd", (2, 3, 7))]
)
def test_equal_gradients_give_equal_bits_on_every_library(xp, method, shape):
    # Not by chance: sums go in one order, and no division is turned into a product with an inverse.
    numpy = _libraries.load("numpy")
    for dtype in ("float32", "float64"):
        x, value_and_grad = elementwise_problem(xp, shape, dtype)
        x_numpy, by_numpy = elementwise_problem(numpy, shape, dtype)
        expected = METHODS[method](by_numpy, x_numpy)
        if xp.name != "jax" or shape == (4, 6):  # eager JAX compiles every operation for itself
            np.testing.assert_array_equal(xp.to_numpy(METHODS[method](value_and_grad, x)), expected)
        if xp.name == "jax":
            import jax

            compiled = jax.jit(lambda x, f=value_and_grad: METHODS[method](f, x))(x)
            np.testing.assert_array_equal(xp.to_numpy(compiled), expected)


@pytest.mark.library("jax")
def test_a_compiled_program_adds_the_perturbation_that_it_returns(xp):
    # XLA would contract x + ε u into one rounding, and the perturbation used would not be the one that was made.
    import jax

    x, value_and_grad = elementwise_problem(xp, (40, 25))

    def both(x):
        r = perturb.fgm(value_and_grad, x, epsilon=0.3)
        return r, x + r

    r, moved = map(xp.to_numpy, jax.jit(both)(x))
    np.testing.assert_array_equal(moved, xp.to_numpy(x) + r)


def test_pgd_climbs_and_stays_in_the_ball(xp):
    # x'Ax on a sphere has its maximum at the top eigenvector, which normalised ascent finds.
    rng = np.random.default_rng(2)
    root = rng.normal(size=(5, 5))
    matrix = xp.asarray(root @ root.T)
    x = xp.asarray(np.zeros((3, 5)))

    def value_and_grad(z):
        return 0.0, 2.0 * (z @ matrix)

    r = xp.to_numpy(perturb.pgd(value_and_grad, x, epsilon=0.7, n_steps=200, step_size=5.0, rng=3))
    np.testing.assert_allclose(np.linalg.norm(r, axis=1), 0.7, rtol=1e-14)
    values = np.einsum("bi,ij,bj->b", r, root @ root.T, r) / 0.49
    np.testing.assert_allclose(values, np.linalg.eigvalsh(root @ root.T)[-1], rtol=1e-3)


def test_one_step_of_pgd_is_fgm(xp):
    x, value_and_grad = elementwise_problem(xp)
    one = perturb.pgd(value_and_grad, x, epsilon=0.3, n_steps=1, step_size=0.3)
    np.testing.assert_allclose(
        xp.to_numpy(one), xp.to_numpy(perturb.fgm(value_and_grad, x, epsilon=0.3)), rtol=1e-15
    )


def network(xp, dtype="float64"):
    """Parameters of a small network, inputs and targets."""
    rng = np.random.default_rng(3)
    like = xp.asarray(np.zeros(1), dtype)
    targets = xp.asarray(rng.random((6, 3)) < 0.4)
    return dense_parameters((5, 8, 3), like, rng=0), xp.asarray(rng.normal(size=(6, 5)), dtype), targets


def objective(params, targets):
    def value_and_grad(x):
        scores, pullback = mlp.vjp(params, x, activation=gelu)
        value, dscores = zlpr_loss.value_and_grad(scores, targets)
        return value, pullback(dscores)

    return value_and_grad


def test_the_loss_grows_by_epsilon_times_the_norm_of_the_gradient(xp):
    # The seed's claim: to first order FGM adds ε‖g‖; second order is of the relative size ε.
    params, x, targets = network(xp)
    f, epsilon = objective(params, targets), 1e-6
    value, (_, dx) = f(x)
    grown = float(f(x + perturb.fgm(f, x, epsilon=epsilon))[0]) - float(value)
    first_order = epsilon * np.linalg.norm(xp.to_numpy(dx), axis=1).sum()
    assert abs(grown / first_order - 1) < 1e-5


def test_free_adversarial_training_is_the_mean_over_the_steps_of_pgd(xp):
    params, x, targets = network(xp)
    f, seen = objective(params, targets), []

    def watched(z):
        seen.append(f(z))
        return seen[-1]

    value, (dparams, dx), r = perturb.free_adversarial(watched, x, epsilon=0.4, n_steps=3, start=x * 0.01)
    assert len(seen) == 3
    np.testing.assert_allclose(float(value), np.mean([float(v) for v, _ in seen]), rtol=1e-14)
    for k, name in ((0, "weight"), (1, "bias")):
        steps = [xp.to_numpy(g[0][k][name]) for _, g in seen]
        np.testing.assert_allclose(
            xp.to_numpy(dparams[k][name]), np.mean(steps, axis=0), rtol=1e-13, atol=1e-15
        )
    np.testing.assert_allclose(
        xp.to_numpy(dx), np.mean([xp.to_numpy(g[1]) for _, g in seen], axis=0), rtol=1e-13, atol=1e-15
    )
    same = perturb.pgd(f, x, epsilon=0.4, n_steps=3, start=x * 0.01)
    np.testing.assert_allclose(xp.to_numpy(r), xp.to_numpy(same), rtol=1e-12)


def test_a_scikit_learn_model():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 3))
    y = (x @ [1.0, -2.0, 0.5] > 0).astype(int)
    model = LogisticRegression().fit(x, y)

    def value_and_grad(x):
        probability = model.predict_proba(x)[:, 1]
        value = -np.log(np.where(y == 1, probability, 1 - probability)).sum()
        return value, (probability - y)[:, None] * model.coef_

    r = perturb.fgm(value_and_grad, x, epsilon=0.2)
    np.testing.assert_allclose(np.abs(r @ model.coef_[0]), 0.2 * np.linalg.norm(model.coef_), rtol=1e-12)
    assert value_and_grad(x + r)[0] > value_and_grad(x)[0]


@pytest.mark.library("torch")
def test_a_torch_module_keeps_its_gradients_and_its_random_state(xp):
    # A peer's VAT wipes gradients that were accumulated before, a peer's penalty doubles them.
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))
    x, y = torch.randn(5, 4), torch.tensor([0, 2, 1, 0, 1])
    torch.nn.functional.cross_entropy(module(x), y).backward()
    leaf = x.clone().requires_grad_(True)
    leaf.grad = torch.full_like(leaf, 7.0)
    kept = [p.grad.clone() for p in module.parameters()]
    state = torch.get_rng_state()
    parameters = list(module.parameters())

    def value_and_grad(x):
        x = x.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(module(x), y)
        *dparams, dx = torch.autograd.grad(loss, [*parameters, x])
        return loss.detach(), (dparams, dx)

    def forward_vjp(x):
        x = x.requires_grad_(True)
        scores = module(x)

        def pullback(dscores):
            *dparams, dx = torch.autograd.grad(scores, [*parameters, x], dscores, retain_graph=True)
            return dparams, dx

        return scores, pullback

    from zlpr.losses import softmax_divergence

    r = perturb.fgm(value_and_grad, leaf, epsilon=0.5)
    perturb.pgd(value_and_grad, leaf, epsilon=0.5, rng=0)
    _, (dparams, _), _ = perturb.free_adversarial(value_and_grad, leaf, epsilon=0.5)
    perturb.gradient_penalty(value_and_grad, leaf, reduction="mean")
    r_virtual = perturb.virtual_adversarial(softmax_divergence, forward_vjp, leaf, epsilon=0.5, rng=0)
    perturb.consistency(softmax_divergence, forward_vjp, leaf, r_virtual, through_clean=True)
    assert not r.requires_grad
    assert not r_virtual.requires_grad
    assert all(torch.equal(p.grad, g) for p, g in zip(module.parameters(), kept, strict=True))
    assert torch.equal(leaf.grad, torch.full_like(leaf, 7.0))
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad for p in parameters)
    assert [g.shape for g in dparams] == [p.shape for p in parameters]


@pytest.mark.library("torch")
def test_pytorch_finds_the_same_perturbation(xp):
    import torch

    params, x, targets = network(xp)
    leaf = x.clone().requires_grad_(True)
    zlpr_loss(mlp(params, leaf, activation=gelu), targets).backward()
    expected = 0.5 * torch.nn.functional.normalize(leaf.grad, dim=1)
    torch.testing.assert_close(
        perturb.fgm(objective(params, targets), x, epsilon=0.5), expected, rtol=1e-12, atol=0
    )


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break(xp):
    import torch

    x, g = torch.randn(4, 3), torch.randn(4, 3)

    def all_of_it(x, g):
        f = giving(g)
        r = perturb.pgd(f, x, epsilon=0.5, bounds=(-9.0, 9.0))
        return r, perturb.fgm(f, x, epsilon=0.5, norm="linf"), perturb.gradient_penalty(f, x)

    compiled = torch.compile(all_of_it, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, g), all_of_it(x, g))


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda f, x: perturb.fgm(f, [1.0], epsilon=1.0), TypeError, "x must be an array"),
    (lambda f, x: perturb.fgm(f, x, epsilon=-1.0), ValueError, "epsilon must be a number of at least 0"),
    (lambda f, x: perturb.fgm(f, x, epsilon=1.0, norm="l1"), ValueError, 'norm must be "l2" or "linf"'),
    (lambda f, x: perturb.fgm(f, x, epsilon=1.0, axis=5), ValueError, "axis must name axes"),
    (lambda f, x: perturb.fgm(lambda z: z, x, epsilon=1.0), TypeError, "must return a pair"),
    (lambda f, x: perturb.fgm(lambda z: (0.0, (z, z, z)), x, epsilon=1.0), TypeError, "not 3 gradients"),
    (lambda f, x: perturb.fgm(lambda z: (0.0, [1.0]), x, epsilon=1.0), TypeError, "must give dx"),
    (lambda f, x: perturb.fgm(lambda z: (0.0, z[:1, ...]), x, epsilon=1.0), ValueError, "of the shape of x"),
    (lambda f, x: perturb.pgd(f, x, epsilon=1.0, n_steps=0), ValueError, "n_steps must be a positive integer"),
    (lambda f, x: perturb.pgd(f, x, epsilon=1.0, start=x, rng=0), ValueError, "must not both be given"),
    (lambda f, x: perturb.pgd(f, x, epsilon=1.0, start=x[:1, ...]), ValueError, "start must have the shape of x"),
])  # fmt: skip
def test_bad_arguments_are_named(xp, call, error, words):
    with pytest.raises(error, match=words):
        call(lambda z: (0.0, z), xp.asarray(np.ones((3, 2))))


@pytest.mark.library("numpy", "torch")
def test_x_outside_its_box_is_an_error_on_the_host(xp):
    with pytest.raises(ValueError, match="x must lie within bounds"):
        perturb.fgm(lambda z: (0.0, z), xp.asarray(np.full((2, 2), 3.0)), epsilon=1.0, bounds=(0.0, 1.0))
