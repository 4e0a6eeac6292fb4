"""Every convention against its owner, step by step: PyTorch, optax, the published recursions, the mpmath twins."""

from __future__ import annotations

import math
from functools import partial

import mpmath as mp
import numpy as np
import pytest

from zlpr import optim
from zlpr.reference import optim as reference

LENGTH = 1000
SETTINGS = {"lr": 0.1, "b1": 0.8, "b2": 0.02, "eps": 1e-2}  # an eps whose place shows
ADAM = {"paper": {}, "torch": {}, "optax": {}, "keras": {}}
ADAX = {"paper": {}, "official": {}, "post": {}}


def gradients(steps, shape, seed=0):
    return np.random.default_rng(seed).standard_normal((steps, *shape))


def run(transform, start, grads):
    params, state = start, transform.init(start)
    for g in grads:
        params, state = transform.step(params, g, state)
    return params


def twin_of(step, n_slots, grads, start, **options):
    """Parameters after the steps of a twin that takes p, g, its slots and t."""
    p, slots = start, [[0] * len(start)] * n_slots
    with mp.workdps(40):
        for t, g in enumerate(grads, 1):
            p, *slots = step(p, g, *slots, t, **options)
    return np.array(p, dtype=float)


def without_t(step):
    return lambda p, g, m, t, **options: step(p, g, m, **options)


@pytest.mark.parametrize(
    ("ours", "twin", "n_slots", "options"),
    [
        *((optim.adam, reference.adam_step, 2, SETTINGS | {"convention": c}) for c in ADAM),
        *((optim.adamw, reference.adam_step, 2, SETTINGS | {"convention": c, "weight_decay": 0.3}) for c in ADAM),
        *((optim.amsgrad, reference.amsgrad_step, 3, SETTINGS | {"convention": c}) for c in ADAM),
        *((optim.adax, reference.adax_step, 2, SETTINGS | {"convention": c}) for c in ADAX),
        *((optim.adaxw, reference.adax_step, 2, SETTINGS | {"convention": c, "weight_decay": 0.3}) for c in ADAX),
        *(
            (optim.sgd, without_t(reference.sgd_step), 1, {"lr": 0.1, "momentum": 0.8, "nesterov": n, "convention": c})
            for n in (False, True)
            for c in ("paper", "torch")
        ),
        *(
            (optim.rmsprop, reference.rmsprop_step, 3, {"lr": 0.1, "eps": 1e-2, "convention": c} | more)
            for c in ("torch", "optax")
            for more in (
                {},
                {"centered": True, "decay": 0.5},
                {"momentum": 0.5, "nesterov": True, "bias_correction": True},
            )
        ),
    ],
)  # fmt: skip
def test_agrees_with_its_twin(xp, ours, twin, n_slots, options):
    start, grads = np.array([1.0, -2.0, 0.5]), gradients(12, (3,))
    actual = run(ours(**options), xp.asarray(start), [xp.asarray(g) for g in grads])
    # 12 steps of a few roundings each, of numbers around 1
    np.testing.assert_allclose(
        xp.to_numpy(actual), twin_of(twin, n_slots, grads, start, **options), atol=5e-15
    )


@pytest.mark.parametrize(
    "options", [{}, {"lr": 0.3, "clipping_threshold": 0.5, "decay_rate": 0.6, "eps_scale": 5.0}]
)
def test_adafactor_agrees_with_its_twin(xp, options):
    start, grads = gradients(1, (3, 4), 1)[0], gradients(12, (3, 4))
    actual = run(optim.adafactor(**options), xp.asarray(start), [xp.asarray(g) for g in grads])
    p, row, column = start, [0] * 3, [0] * 4
    with mp.workdps(40):
        for t, g in enumerate(grads, 1):
            p, row, column = reference.adafactor_step(p, g, row, column, t, **options)
    np.testing.assert_allclose(xp.to_numpy(actual), np.array(p, dtype=float), atol=5e-15)


# --- PyTorch ------------------------------------------------------------------------------------------------


def decayed(weight_decay, transform):
    return optim.chain(optim.add_decayed_weights(weight_decay), transform)


torch_adam = partial(optim.adam, convention="torch")
torch_rms = partial(optim.rmsprop, decay=0.99, convention="torch")


@pytest.mark.library("torch")
@pytest.mark.parametrize(
    ("name", "options", "ours"),
    [
        ("SGD", {}, optim.sgd(1e-2)),
        ("SGD", {"momentum": 0.9, "dampening": 0.5}, optim.sgd(1e-2, momentum=0.9, dampening=0.5)),
        ("SGD", {"momentum": 0.9, "weight_decay": 0.1}, decayed(0.1, optim.sgd(1e-2, momentum=0.9))),
        ("SGD", {"momentum": 0.9, "nesterov": True}, optim.sgd(1e-2, momentum=0.9, nesterov=True)),
        ("Adam", {"eps": 1e-3}, torch_adam(1e-2, eps=1e-3)),
        ("Adam", {"weight_decay": 0.1}, decayed(0.1, torch_adam(1e-2))),
        ("Adam", {"amsgrad": True, "eps": 1e-3}, optim.amsgrad(1e-2, eps=1e-3)),
        ("AdamW", {"weight_decay": 0.1}, optim.adamw(1e-2, weight_decay=0.1)),
        ("AdamW", {"weight_decay": 0.1, "amsgrad": True},
         optim.chain(optim.amsgrad(1e-2), optim.add_decayed_weights(-1e-3))),
        ("RMSprop", {"eps": 1e-3}, torch_rms(1e-2, eps=1e-3)),
        ("RMSprop", {"centered": True, "momentum": 0.5}, torch_rms(1e-2, centered=True, momentum=0.5)),
        ("RMSprop", {"weight_decay": 0.1}, decayed(0.1, torch_rms(1e-2))),
        ("Adafactor", {}, optim.adafactor(1e-2, convention="torch")),
        ("Adafactor", {"weight_decay": 0.1, "d": 1.5, "beta2_decay": -0.6, "eps": (1e-2, 0.5)},
         optim.adafactor(1e-2, weight_decay=0.1, clipping_threshold=1.5, decay_rate=0.6, eps=1e-2, eps_scale=0.5,
                         convention="torch")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("shape", [(30,), (5, 6), (2, 3, 5)])
def test_torch_step_by_step(name, options, ours, shape):
    torch = pytest.importorskip("torch")
    start, grads = gradients(1, shape, 1)[0], torch.from_numpy(gradients(LENGTH, shape))
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = getattr(torch.optim, name)([theirs], lr=1e-2, **options)
    params, worst = torch.from_numpy(start.copy()), 0.0
    state = ours.init(params)
    for g in grads:
        theirs.grad = g.clone()
        optimizer.step()
        params, state = ours.step(params, g, state)
        worst = max(worst, float((params - theirs.detach()).abs().max() / theirs.detach().abs().max()))
    assert worst < 1e-12


# --- optax --------------------------------------------------------------------------------------------------

SCHEDULE = optim.schedules.exponential(1e-2, 100, 0.9)


def optax_adafactor(optax, **options):
    """``optax.adafactor`` with its decay computed in double precision: optax computes it in float32."""
    factored = optax._src.factorized.scale_by_factored_rms(
        min_dim_size_to_factor=options.get("min_dim_size_to_factor", 128),
        decay_rate_fn=lambda step, rate: 1.0 - (step + 1.0) ** -rate,
    )
    parts = [factored, optax.clip_by_block_rms(1.0), optax.scale_by_learning_rate(SCHEDULE, flip_sign=False),
             optax.scale_by_param_block_rms()]  # fmt: skip
    if "momentum" in options:
        parts.append(optax.ema(options["momentum"], debias=False))
    if "weight_decay" in options:
        parts.append(optax.add_decayed_weights(options["weight_decay"]))
    return optax.chain(*parts, optax.scale(-1))


@pytest.mark.library("jax")
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda o: o.sgd(SCHEDULE, 0.9, nesterov=True),
         optim.sgd(SCHEDULE, momentum=0.9, nesterov=True, convention="optax")),
        (lambda o: o.adam(SCHEDULE, eps=1e-3), optim.adam(SCHEDULE, eps=1e-3, convention="optax")),
        (lambda o: o.adamw(SCHEDULE, weight_decay=0.1), optim.adamw(SCHEDULE, weight_decay=0.1, convention="optax")),
        (lambda o: o.amsgrad(SCHEDULE, b2=0.9), optim.amsgrad(SCHEDULE, b2=0.9, convention="optax")),
        (lambda o: o.rmsprop(SCHEDULE, eps=1e-3), optim.rmsprop(SCHEDULE, eps=1e-3)),
        # at the first step v - m^2 is rounding error: eps must be well above it
        (lambda o: o.rmsprop(SCHEDULE, eps=1e-2, centered=True, momentum=0.5, nesterov=True, bias_correction=True),
         optim.rmsprop(SCHEDULE, eps=1e-2, centered=True, momentum=0.5, nesterov=True, bias_correction=True)),
        (lambda o: optax_adafactor(o, min_dim_size_to_factor=2, momentum=0.5, weight_decay=1e-3),
         optim.adafactor(SCHEDULE, min_dim_size_to_factor=2, momentum=0.5, weight_decay=1e-3, convention="optax")),
        (lambda o: optax_adafactor(o), optim.adafactor(SCHEDULE, convention="optax")),
        (lambda o: o.chain(o.add_decayed_weights(0.1), o.scale_by_schedule(SCHEDULE), o.scale(-1.0)),
         optim.chain(optim.add_decayed_weights(0.1), optim.scale_by_schedule(SCHEDULE), optim.scale(-1.0))),
    ],
)  # fmt: skip
def test_optax_step_by_step(xp, theirs, ours):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    start, grads = xp.asarray(gradients(1, (3, 4, 2), 1)[0]), xp.asarray(gradients(LENGTH, (3, 4, 2)))
    optimizer = theirs(optax)

    def both(carry, g):
        (their_params, their_state), (params, state) = carry
        updates, their_state = optimizer.update(g, their_state, their_params)
        their_params = optax.apply_updates(their_params, updates)
        params, state = ours.step(params, g, state)
        worst = xp.max(xp.abs(params - their_params)) / xp.max(xp.abs(their_params))
        return ((their_params, their_state), (params, state)), worst

    state = ours.init(start)._replace(count=jax.numpy.asarray(0))
    _, worst = jax.lax.scan(both, ((start, optimizer.init(start)), (start, state)), grads)
    assert float(xp.max(worst)) < 1e-12


@pytest.mark.library("jax")
def test_optax_adafactor_as_it_is(xp):
    optax = pytest.importorskip("optax")
    start, grads = xp.asarray(gradients(1, (4, 5), 1)[0]), xp.asarray(gradients(20, (4, 5)))
    optimizer = optax.adafactor(1e-2, min_dim_size_to_factor=2)
    params, state = start, optimizer.init(start)
    for g in grads:
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    ours = run(optim.adafactor(1e-2, min_dim_size_to_factor=2, convention="optax"), start, grads)
    np.testing.assert_allclose(xp.to_numpy(ours), xp.to_numpy(params), rtol=1e-6)  # its decay is float32


# --- published recursions -----------------------------------------------------------------------------------


def official_adax(p, grads, lr, b1=0.9, b2=1e-4, eps=1e-12, weight_decay=0.0):
    """AdaX and AdaXW of switchablenorms/adax, AdaX.py, written out."""
    p, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        m = b1 * m + (1 - b1) * g
        v = (1 + b2) * v + b2 * g * g
        denominator = np.sqrt(v) + eps
        step = lr * math.sqrt((1 + b2) ** t - 1)
        p = p - lr * weight_decay * p
        p = p - step * m / denominator
        yield p


@pytest.mark.parametrize("eps", [1e-12, 1e-3])
@pytest.mark.parametrize("decay", [0.0, 5e-2])
def test_official_adax_step_by_step(decay, eps):
    start, grads = gradients(1, (50,), 1)[0], gradients(LENGTH, (50,))
    ours = optim.adaxw(5e-3, eps=eps, weight_decay=decay, convention="official")
    params, state = start.copy(), ours.init(start)
    for g, theirs in zip(grads, official_adax(start, grads, 5e-3, eps=eps, weight_decay=decay), strict=True):
        params, state = ours.step(params, g, state)
        assert np.abs(params - theirs).max() < 1e-12 * np.abs(theirs).max()


def keras_adam(p, grads, lr, b1=0.9, b2=0.999, eps=1e-7, amsgrad=False):
    """Keras 3, keras/src/optimizers/adam.py, written out."""
    m, v, v_hat = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(grads, 1):
        alpha = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
        m = m + (g - m) * (1 - b1)
        v = v + (g * g - v) * (1 - b2)
        v_hat = np.maximum(v_hat, v)
        p = p - m * alpha / (np.sqrt(v_hat if amsgrad else v) + eps)
        yield p


@pytest.mark.parametrize("amsgrad", [False, True])
def test_keras_step_by_step(amsgrad):
    start, grads = gradients(1, (50,), 1)[0], gradients(LENGTH, (50,))
    ours = (optim.amsgrad if amsgrad else optim.adam)(1e-2, eps=1e-2, convention="keras")
    params, state = start.copy(), ours.init(start)
    for g, theirs in zip(grads, keras_adam(start, grads, 1e-2, eps=1e-2, amsgrad=amsgrad), strict=True):
        params, state = ours.step(params, g, state)
        assert np.abs(params - theirs).max() < 1e-12 * np.abs(theirs).max()


def test_keras_golden_values(xp):
    # keras/src/optimizers/adam_test.py: correctness_with_golden, single_step, weight_decay, clip_norm
    optimizer = optim.amsgrad(1e-3, eps=1e-7, convention="keras")
    params = xp.asarray(np.ones(10, np.float32))
    state = optimizer.init(params)
    gradient = np.full(10, 0.01, np.float32)
    for golden in (0.999, 0.9982, 0.9974, 0.9965, 0.9955):
        params, state = optimizer.step(params, xp.asarray(gradient), state)
        np.testing.assert_allclose(xp.to_numpy(params), np.full(10, golden), rtol=5e-4, atol=5e-4)
        gradient = np.arange(0.1, 1.05, 0.1, dtype=np.float32)

    single = run(optim.adam(0.5, eps=1e-7, convention="keras"), xp.asarray(np.array([1.0, 2.0, 3.0, 4.0])),
                 [xp.asarray(np.array([1.0, 6.0, 7.0, 2.0]))])  # fmt: skip
    np.testing.assert_allclose(xp.to_numpy(single), [0.5, 1.5, 2.5, 3.5], rtol=1e-4, atol=1e-4)

    decay = optim.adamw(1.0, eps=1e-7, weight_decay=0.004, convention="keras")
    two, zero = xp.asarray(np.array(2.0)), xp.asarray(np.array(0.0))
    assert (
        abs(float(xp.to_numpy(run(decay, two, [zero] * 3))) - 1.9760959) < 1e-6
    )  # theirs is stepped three times

    clip, large = optim.clip_by_global_norm(1.0), xp.asarray(np.array([100.0, 100.0]))
    clipped, _ = clip.update(large, clip.init(large), large)
    np.testing.assert_allclose(xp.to_numpy(clipped), [2**0.5 / 2] * 2)


def test_conventions_that_do_not_exist_are_named():
    for make in (optim.adam, optim.adax, optim.amsgrad, optim.rmsprop, optim.adafactor, optim.sgd):
        with pytest.raises(ValueError, match=r"convention must be one of 'paper', .*, got 'jaxopt'"):
            make(0.1, convention="jaxopt")
    with pytest.raises(ValueError, match="lr must be a number with convention='paper'"):
        optim.adamw(optim.schedules.constant(0.1), convention="paper")
    with pytest.raises(ValueError, match="b2 must be positive"):
        optim.adax(0.1, b2=0.0, convention="official")
