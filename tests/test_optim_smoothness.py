"""Smoothness along a path: against functions whose smoothness is known, and the fitted line against its twin."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zlpr import optim, reference


def quadratic(xp, curvatures):
    """The function of half the sum of curvature times square, on a tree of two leaves."""
    h = [xp.asarray(np.asarray(c)) for c in curvatures]

    def value_and_grad(params):
        grads = {"a": h[0] * params["a"], "b": h[1] * params["b"]}
        return None, grads

    return value_and_grad


def test_quadratic(xp):
    path = [
        {"a": xp.asarray(np.array([x, 0.0])), "b": xp.asarray(np.array(float(y)))}
        for x, y in ((1, 2), (1, 1), (0, 1))
    ]
    found = optim.estimate_smoothness(quadratic(xp, ([3.0, 9.0], 5.0)), path)
    np.testing.assert_allclose(found.smoothness, [5.0, 3.0], rtol=1e-14)  # along b, then along a
    np.testing.assert_allclose(found.gradient_norm, [math.hypot(3, 10), math.hypot(3, 5)], rtol=1e-14)
    assert isinstance(found.smoothness, np.ndarray)
    assert found.smoothness.dtype == found.gradient_norm.dtype == np.float64


def test_inner_points_find_what_the_ends_miss():
    def sine(x):
        return None, np.sin(x)  # back to the same slope after a period

    path = [np.array([0.0]), np.array([2 * math.pi])]
    ends = optim.estimate_smoothness(sine, path).smoothness[0]
    inner = optim.estimate_smoothness(sine, path, points=4).smoothness[0]
    assert ends < 1e-15
    assert math.isclose(inner, 1 / (math.pi / 2), rel_tol=1e-14)  # at a quarter of the way


@pytest.mark.parametrize("fit", ["bound", "least_squares"])
def test_a_line_is_found_again(fit):
    # f'' = 2 exp(3x) = 2 + 3 f'
    def value_and_grad(x):
        return None, 2 * np.expm1(3 * x) / 3

    found = optim.estimate_smoothness(
        value_and_grad, [np.array([x]) for x in np.linspace(0, 1, 2001)], fit=fit
    )
    assert math.isclose(found.l0, 2.0, rel_tol=2e-3)  # steps of 5e-4 have 1.5e-3 / 2 more, relatively
    assert math.isclose(found.l1, 3.0, rel_tol=2e-3)


def test_cosh_is_one_one_smooth():
    path = [
        np.array([x]) for x in np.linspace(8.0, 0.0, 1001)
    ]  # steps of 0.008, and downhill: that much less
    found = optim.estimate_smoothness(lambda x: (None, np.sinh(x)), path)
    assert math.isclose(found.l0, 1.0, rel_tol=0.01)
    assert math.isclose(found.l1, 1.0, rel_tol=0.01)


def measured(slopes, fit):
    """What is found on a path of unit steps whose gradients are these numbers."""
    grads = iter(slopes)
    path = [np.array([float(i)]) for i in range(len(slopes))]
    found = optim.estimate_smoothness(lambda x: (None, np.array([float(next(grads))])), path, fit=fit)
    np.testing.assert_array_equal(found.gradient_norm, np.abs(slopes[:-1]))
    np.testing.assert_array_equal(found.smoothness, np.abs(np.diff(slopes)))
    return found, [(abs(a), abs(b - a)) for a, b in itertools.pairwise(slopes) if a != b]


SLOPES = st.lists(st.integers(-20, 20), min_size=2, max_size=9).filter(lambda s: len(set(s)) > 1)


@given(slopes=SLOPES)
def test_bound_agrees_with_its_twin(slopes):
    found, points = measured(slopes, "bound")
    exact = reference.smoothness_bound(*zip(*points, strict=True))
    assert all(found.l0 + found.l1 * x >= y * (1 - 1e-12) for x, y in points)
    prices = [float(sum((l0 + l1 * x) / y for x, y in points)) for l0, l1 in ((found.l0, found.l1), exact)]
    assert math.isclose(*prices, rel_tol=1e-12)


@given(slopes=SLOPES)
def test_no_line_has_smaller_relative_squares(slopes):
    found, points = measured(slopes, "least_squares")
    assert min(found.l0, found.l1) >= 0.0

    def error(l0, l1):
        return sum(((l0 + l1 * x) / y - 1) ** 2 for x, y in points)

    least = error(found.l0, found.l1)
    for l0 in (0.0, 0.99 * found.l0, found.l0, found.l0 + 0.01):
        for l1 in (0.0, 0.99 * found.l1, found.l1, found.l1 + 0.01):
            assert error(l0, l1) >= least * (1 - 1e-9)


def test_a_generator_may_step_in_place(xp):
    optimizer = optim.sgd(0.1)

    def value_and_grad(x):
        return None, 2.0 * x

    def training():
        x = xp.asarray(np.array([1.0, -1.0]))
        state = optimizer.init(x)
        for _ in range(4):
            yield x
            x, state = optimizer.step(x, value_and_grad(x)[1], state)

    found = optim.estimate_smoothness(value_and_grad, training())
    np.testing.assert_allclose(found.smoothness, [2.0] * 3, rtol=1e-13)
    np.testing.assert_allclose(found.gradient_norm, math.sqrt(8) * 0.8 ** np.arange(3), rtol=1e-14)


def test_steps_without_a_smoothness_are_left_out():
    path = [np.array([x]) for x in (1.0, 1.0, 2.0, math.inf)]
    found = optim.estimate_smoothness(lambda x: (None, 3 * x), path)
    np.testing.assert_array_equal(found.smoothness[:2], [math.nan, 3.0])
    assert np.isnan(found.smoothness[2])
    assert (found.l0, found.l1) == (3.0, 0.0)  # at the price of a line through the origin
    still = optim.estimate_smoothness(lambda x: (None, 3 * x), path[:2])
    assert np.isnan([still.l0, still.l1]).all()
    flat = optim.estimate_smoothness(lambda x: (None, 0 * x + 7), [np.array([1.0]), np.array([2.0])])
    assert (flat.l0, flat.l1) == (0.0, 0.0)


def test_bad_arguments():
    def value_and_grad(x):
        return None, x

    path = [np.zeros(2), np.ones(2)]
    with pytest.raises(ValueError, match="path must have at least two points"):
        optim.estimate_smoothness(value_and_grad, path[:1])
    with pytest.raises(ValueError, match="points must be at least 1, got 0"):
        optim.estimate_smoothness(value_and_grad, path, points=0)
    with pytest.raises(ValueError, match="fit must be 'bound' or 'least_squares', got 'ridge'"):
        optim.estimate_smoothness(value_and_grad, path, fit="ridge")
    with pytest.raises(ValueError, match="path must keep its tree structure"):
        optim.estimate_smoothness(value_and_grad, [*path, [np.ones(2)]])
    with pytest.raises(ValueError, match="grads must have the shape"):
        optim.estimate_smoothness(lambda x: (None, x[:1]), path)
