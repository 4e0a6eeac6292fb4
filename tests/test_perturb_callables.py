"""What callables may do: flag the input they are given, write over gradients they gave before, give a tuple of one."""

import numpy as np
import pytest

from zlpr.losses import softmax_divergence
from zlpr.perturb import fgm, free_adversarial, gradient_penalty, virtual_adversarial

X = np.random.default_rng(0).normal(size=(3, 4))
WEIGHT = np.random.default_rng(1).normal(size=(4, 2))


@pytest.mark.library("torch")
def test_a_callable_may_flag_its_input(xp):
    import torch

    weight = torch.tensor(WEIGHT, requires_grad=True)

    def classical(x):
        x.requires_grad_(True)
        loss = ((x @ weight) ** 3).sum()
        loss.backward()
        return loss, x.grad

    def functional(x):
        x.requires_grad_(True)
        loss = ((x @ weight) ** 3).sum()
        return loss, torch.autograd.grad(loss, (weight, x))

    x = torch.tensor(X)
    expected = gradient_penalty(functional, x)[1][1]
    for found in (
        gradient_penalty(classical, x)[1],
        *gradient_penalty(functional, x)[1],
        fgm(functional, x, epsilon=0.1, bounds=(-9.0, 9.0)),
        fgm(classical, x, epsilon=0.1, bounds=(-9.0, 9.0)),
    ):
        assert not found.requires_grad
    np.testing.assert_allclose(
        xp.to_numpy(gradient_penalty(classical, x)[1]), xp.to_numpy(expected), rtol=1e-12
    )
    assert not x.requires_grad


def cube(buffers=None):
    """The sum of the cubes and its gradient, each time in the same memory where one is given."""

    def value_and_grad(x):
        gradient = 3 * x * x
        if buffers is None:
            return (x**3).sum(), gradient
        buffers[...] = gradient
        return (x**3).sum(), buffers

    return value_and_grad


@pytest.mark.library("numpy")
@pytest.mark.parametrize(
    "method", [gradient_penalty, lambda f, x: free_adversarial(f, x, epsilon=0.1).gradients]
)
def test_a_callable_may_write_over_its_gradients(xp, method):
    expected, found = method(cube(), X), method(cube(np.empty_like(X)), X)
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.library("numpy")
def test_a_pullback_may_give_a_tuple_of_one(xp):
    def forward_vjp(x):
        return x @ WEIGHT, lambda dscores: (dscores @ WEIGHT.T,)

    def plain(x):
        return x @ WEIGHT, lambda dscores: dscores @ WEIGHT.T

    found, expected = (
        virtual_adversarial(softmax_divergence, f, X, epsilon=1.0, xi=1e-3, rng=0)
        for f in (forward_vjp, plain)
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.library("numpy")
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_the_penalty_of_nothing_is_nothing(xp, shape):
    penalty, gradient = gradient_penalty(cube(), np.zeros(shape))
    assert float(penalty) == 0.0
    assert gradient.shape == shape


@pytest.mark.library("numpy")
def test_steps_of_no_length_are_refused(xp):
    with pytest.raises(ValueError, match="step must be above 0"):
        gradient_penalty(cube(), X, step=0.0)
    with pytest.raises(ValueError, match="xi must be above 0"):
        virtual_adversarial(softmax_divergence, lambda x: (x, lambda d: d), X, epsilon=1.0, xi=0.0, rng=0)


@pytest.mark.parametrize(
    ("p", "q"),
    [([0.0, -np.inf], [-np.inf, 0.0]), ([5.0, 0.0], [-np.inf, 0.0]), ([np.inf, 0.0], [0.0, np.inf])],
)
def test_what_is_likeliest_and_impossible_makes_the_divergence_infinite(xp, p, q):
    value = softmax_divergence(xp.asarray(np.asarray([p])), xp.asarray(np.asarray([q])))
    assert float(value) == np.inf
