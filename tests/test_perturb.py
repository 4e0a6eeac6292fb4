"""Noise on inputs and targets: against exact twins, the same on every library, and no state disturbed."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import assert_ulps
from zlpr import perturb, reference
from zlpr.validation import check_rule


def same_bits(xp, actual, expected):
    np.testing.assert_array_equal(xp.to_numpy(actual), np.asarray(expected))


@pytest.mark.parametrize("draw", [
    lambda x: perturb.gaussian_noise(x, 0.3, rng=5),
    lambda x: perturb.dropout_noise(x, 0.3, rng=5),
    lambda x: perturb.random_direction(x, rng=5),
    lambda x: perturb.mixup(x, x, rng=5)[0],
], ids=["gaussian", "dropout", "direction", "mixup"])  # fmt: skip
def test_one_seed_gives_the_same_bits_on_every_library(xp, draw):
    x = np.random.default_rng(0).normal(size=(4, 3))
    for dtype in [d for d in xp.dtypes if d != "bfloat16"]:
        got = draw(xp.asarray(x, dtype))
        xp.assert_like(got, xp.asarray(x))
        assert str(got.dtype).endswith(dtype)
        same_bits(xp, got, draw(x.astype(dtype)))


def test_noise_has_the_scale_that_was_asked_for(xp):
    # 12,000 draws: the sample's standard deviation is off by more than 4 % once in 10^9 seeds.
    x = xp.asarray(np.full((200, 60), 3.0))
    noise = xp.to_numpy(perturb.gaussian_noise(x, 0.5, rng=np.random.default_rng(0))) - 3.0
    assert abs(noise.std() / 0.5 - 1) < 0.04
    assert abs(noise.mean()) < 6.1 * 0.5 / math.sqrt(noise.size)
    assert perturb.gaussian_noise(x, 0.0, rng=0) is x
    kept = xp.to_numpy(perturb.dropout_noise(x, 0.25, rng=0)) / 3.0
    assert set(kept.ravel()) == {0.0, 1 / 0.75 * 3.0 / 3.0}
    assert abs((kept == 0).mean() - 0.25) < 6.1 * math.sqrt(0.25 * 0.75 / kept.size)


def test_directions_have_length_1_in_each_sample(xp):
    x = xp.asarray(np.zeros((3, 4, 5)))
    lengths = np.linalg.norm(xp.to_numpy(perturb.random_direction(x, rng=1)).reshape(3, -1), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=4e-16)
    lengths = np.linalg.norm(xp.to_numpy(perturb.random_direction(x, rng=1, axis=-1)), axis=-1)
    np.testing.assert_allclose(lengths, 1, rtol=4e-16)


def states():
    """Everything global that draws depend on."""
    import sys

    found = [random.getstate(), str(np.random.get_state())]
    if "torch" in sys.modules:
        found.append(sys.modules["torch"].get_rng_state().tolist())
    return found


def test_no_global_random_state_is_touched_and_the_generator_moves_on(xp):
    x, rng = xp.asarray(np.ones((3, 2))), np.random.default_rng(0)
    before = states()
    draws = [
        lambda: perturb.gaussian_noise(x, 1.0, rng=rng),
        lambda: perturb.dropout_noise(x, 0.5, rng=rng),
        lambda: perturb.random_direction(x, rng=rng),
        lambda: perturb.pgd(lambda z: (0.0, z), x, epsilon=1.0, rng=rng),
        lambda: perturb.mixup(x, x, rng=rng)[0],
    ]
    for draw in draws:
        state = rng.bit_generator.state
        draw()
        assert rng.bit_generator.state != state
    assert states() == before


@pytest.mark.parametrize("prior", [0.5, 0.1])
@given(data=st.data())
def test_label_smoothing_agrees_with_its_twin(xp, prior, data):
    dtype = data.draw(st.sampled_from([d for d in xp.dtypes if d in ("float32", "float64")]))
    targets = data.draw(hnp.arrays(np.float64, (3, 4), elements=st.floats(0, 1, width=16))).astype(dtype)
    amount = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    got = perturb.label_smoothing(xp.asarray(targets), amount, prior=prior)
    exact = [reference.label_smoothing(row, amount, prior=prior) for row in targets.tolist()]
    assert_ulps(xp, got, exact, dtype, 2)


def test_label_smoothing_is_a_rule_and_takes_labels_of_any_kind(xp):
    targets = np.asarray([[True, False]])
    check_rule(perturb.label_smoothing, xp.asarray(targets.astype(np.float64)), 0.1)
    for kind in (np.bool_, np.int64):
        got = perturb.label_smoothing(xp.asarray(targets.astype(kind)), 0.1)
        np.testing.assert_allclose(xp.to_numpy(got), [[0.95, 0.05]], rtol=1e-6)
    spread = perturb.label_smoothing(xp.asarray(targets.astype(float)), 0.1, prior=xp.asarray([0.2, 0.8]))
    np.testing.assert_allclose(xp.to_numpy(spread), [[0.92, 0.08]], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mixup_agrees_with_its_twin(xp, dtype):
    rng = np.random.default_rng(0)
    x, targets, order = rng.normal(size=(4, 3)).astype(dtype), rng.random((4, 2)) < 0.5, [2, 0, 3, 1]
    got, mixed = perturb.mixup(xp.asarray(x), xp.asarray(targets), weight=0.3, order=xp.asarray(order))
    assert_ulps(xp, got, reference.mixup(x.tolist(), 0.3, order), dtype, 4)
    assert_ulps(xp, mixed, reference.mixup(targets.astype(int).tolist(), 0.3, order), dtype, 4)
    weights = rng.random(4).astype(dtype)
    got, _ = perturb.mixup(
        xp.asarray(x), xp.asarray(targets), weight=xp.asarray(weights), order=xp.asarray(order)
    )
    rows = weights[:, None] * x + (1 - weights[:, None]) * x[order]
    np.testing.assert_allclose(xp.to_numpy(got), rows, rtol=2e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda x: perturb.gaussian_noise([1.0], 0.1, rng=0), TypeError, "x must be an array"),
    (lambda x: perturb.gaussian_noise(x, -0.1, rng=0), ValueError, "scale must be a number of at least 0"),
    (lambda x: perturb.dropout_noise(x, 1.0, rng=0), ValueError, r"rate must be in \[0, 1\)"),
    (lambda x: perturb.random_direction(x, rng=0, axis=2), ValueError, "axis must name axes of x"),
    (lambda x: perturb.label_smoothing(x, 1.5), ValueError, "amount must be a number"),
    (lambda x: perturb.label_smoothing(x, 0.5, prior=2.0), ValueError, "prior must be a number"),
    (lambda x: perturb.mixup(x, x), ValueError, "either rng must be given"),
    (lambda x: perturb.mixup(x, x, rng=0, weight=0.5), ValueError, "either rng must be given"),
    (lambda x: perturb.mixup(x, x[:1, ...], rng=0), ValueError, "targets must have an entry for each"),
    (lambda x: perturb.mixup(x, x, alpha=0.0, rng=0), ValueError, "alpha must be a positive number"),
])  # fmt: skip
def test_bad_arguments_are_named(xp, call, error, words):
    with pytest.raises(error, match=words):
        call(xp.asarray(np.ones((3, 2))))


def test_class_indices_have_no_mixture(xp):
    with pytest.raises(TypeError, match="class indices have no mixture"):
        perturb.mixup(xp.asarray(np.ones((3, 2))), xp.asarray(np.asarray([0, 1, 2])), rng=0)


@pytest.mark.library("jax")
def test_a_compiled_function_does_not_draw_from_a_generator_once_and_for_all(xp):
    import jax

    x, rng = xp.asarray(np.ones((2, 3))), np.random.default_rng(0)
    for draw in (perturb.gaussian_noise, perturb.dropout_noise):
        with pytest.raises(ValueError, match="draw outside"):
            jax.jit(lambda x, draw=draw: draw(x, 0.5, rng=rng))(x)
    with pytest.raises(ValueError, match="draw outside"):
        jax.jit(lambda x: perturb.random_direction(x, rng=rng))(x)
    same_bits(
        xp, jax.jit(lambda x: perturb.gaussian_noise(x, 0.5, rng=3))(x), perturb.gaussian_noise(x, 0.5, rng=3)
    )
