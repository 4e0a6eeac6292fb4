"""Schedules against optax, whose names and meanings they share, and inside a trace."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zlpr.optim import schedules

CASES = [
    (schedules.constant(0.3), "constant_schedule", (0.3,)),
    (schedules.linear(1.0, 0.25, 7), "linear_schedule", (1.0, 0.25, 7)),
    (schedules.cosine(2.0, 9, 0.1), "cosine_decay_schedule", (2.0, 9, 0.1)),
    (schedules.warmup_cosine(0.1, 1.0, 3, 10, 0.2), "warmup_cosine_decay_schedule", (0.1, 1.0, 3, 10, 0.2)),
    (schedules.exponential(1.5, 4, 0.5), "exponential_decay", (1.5, 4, 0.5)),
]


@pytest.mark.library("jax")
@pytest.mark.parametrize(("ours", "name", "arguments"), CASES)
def test_equals_optax_eager_and_traced(xp, ours, name, arguments):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    theirs, traced = getattr(optax, name)(*arguments), jax.jit(ours)
    for step in range(13):
        assert isinstance(ours(step), float)
        # optax counts in float32 at places
        np.testing.assert_allclose(ours(step), float(theirs(step)), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(float(traced(step)), ours(step), rtol=1e-6, atol=1e-12)


def test_end_points():
    warm = schedules.warmup_cosine(0.0, 1.0, 4, 12, 0.1)
    assert [warm(0), warm(4), warm(12), warm(10**9)] == [0.0, 1.0, 0.1, 0.1]
    assert math.isclose(warm(8), 0.55)
    line = schedules.linear(0.1, 0.7, 3)
    assert [line(0), line(3), line(4)] == [0.1, 0.7, 0.7]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: schedules.linear(1.0, 0.0, 0), "transition_steps"),
        (lambda: schedules.cosine(1.0, -1), "decay_steps"),
        (lambda: schedules.warmup_cosine(0.0, 1.0, 0, 5), "warmup_steps"),
        (lambda: schedules.warmup_cosine(0.0, 1.0, 5, 5), "decay_steps"),
        (lambda: schedules.exponential(1.0, 5, 0.0), "decay_rate"),
    ],
)
def test_bad_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()
