"""Other people's suites: optax's alias tests and the optimizer configurations that PyTorch tests itself with."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zlpr import optim

# The learning rates of optax/_src/alias_test.py; AdaX is not in optax, and steps shorter than Adam while it warms up
OPTIMIZERS = {
    "sgd": lambda: optim.sgd(1e-3, momentum=0.9),
    "adam": lambda: optim.adam(1e-1),
    "adamw": lambda: optim.adamw(1e-1, weight_decay=1e-4),
    "amsgrad": lambda: optim.amsgrad(1e-1, convention="optax"),
    "adafactor": lambda: optim.adafactor(5e-3, convention="optax"),
    "rmsprop": lambda: optim.rmsprop(5e-3),
    "rmsprop, momentum": lambda: optim.rmsprop(5e-3, momentum=0.9),
    "adax": lambda: optim.adax(1e-1),
    "adaxw": lambda: optim.adaxw(1e-1, weight_decay=1e-4),
    "wrapped": lambda: optim.chain(
        optim.skip_nonfinite(), optim.clip_by_global_norm(1e3), optim.masked(optim.adam(1e-1), True), optim.ema(0.9)
    ),
}  # fmt: skip


def parabola(p):
    return 2.0 * (p - np.array([1.0, -1.0, 1.0]))


def rosenbrock(p):
    slope = 200.0 * (p[1] - p[0] ** 2)
    return np.array([-2.0 * (1.0 - p[0]) - 2.0 * p[0] * slope, slope])


TARGETS = {
    "parabola": (parabola, [-1.0, 10.0, 1.0], [1.0, -1.0, 1.0]),
    "rosenbrock": (rosenbrock, [0.0, 0.0], [1.0, 1.0]),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_alias_suite(xp, name, target):
    """Within 3e-2 after 10,000 steps, as optax asks.

    JAX takes them all. NumPy and PyTorch stop once they are within 1e-2, array-api-strict and CuPy after ten steps that
    must be NumPy's.
    """
    gradient, start, end = TARGETS[target]
    transform = OPTIMIZERS[name]()
    if xp.name == "jax":
        found = descend_in_jax(transform, gradient, start, 10_000)
    elif xp.name in ("strict", "cupy"):
        found, end = descend(xp, transform, gradient, start, 10), descend(np, transform, gradient, start, 10)
    else:
        found = descend(xp, transform, gradient, start, 10_000, until=np.array(end))
    np.testing.assert_allclose(found, end, **({"rtol": 1e-10} if xp.name in ("strict", "cupy") else CLOSE))


CLOSE = {"rtol": 3e-2, "atol": 3e-2}


def descend(xp, transform, gradient, start, steps, until=None):
    to, back = (np.array, np.asarray) if xp is np else (xp.asarray, xp.to_numpy)
    params = to(np.array(start))
    state = transform.init(params)
    for _ in range(steps):
        values = back(params)
        if until is not None and np.abs(values - until).max() < 1e-2:
            break
        params, state = transform.step(params, to(gradient(values)), state)
    return back(params)


def descend_in_jax(transform, gradient, start, steps):
    import jax

    params = jax.numpy.asarray(start)
    state = transform.init(params)._replace(count=jax.numpy.asarray(0))
    grad = {
        parabola: lambda p: 2.0 * (p - jax.numpy.asarray([1.0, -1.0, 1.0])),
        rosenbrock: rosenbrock_in_jax,
    }[gradient]

    def step(_, carry):
        params, state = carry
        return transform.step(params, grad(params), state)

    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, step, carry))((params, state))
    return np.asarray(params)


def rosenbrock_in_jax(p):
    import jax

    slope = 200.0 * (p[1] - p[0] ** 2)
    return jax.numpy.stack([-2.0 * (1.0 - p[0]) - 2.0 * p[0] * slope, slope])


# --- the configurations of torch.testing._internal.common_optimizers, which wheels carry but cannot import without
# --- expecttest: written down as facts, so that the test runs without it, and read from there where it is installed

CONFIGURATIONS = {
    "SGD": [
        {}, {"lr": 0.01}, {"weight_decay": 0.5}, {"momentum": 0.9}, {"weight_decay": 0.1, "maximize": True},
        {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ],
    "Adam": [
        {}, {"lr": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "amsgrad": True},
    ],
    "AdamW": [
        {}, {"lr": 0.01}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "maximize": True},
        {"weight_decay": 0.1, "amsgrad": True},
    ],
    "RMSprop": [
        {}, {"lr": 0.001}, {"weight_decay": 0.1}, {"maximize": True}, {"weight_decay": 0.1, "centered": True},
        {"maximize": True, "weight_decay": 0.1}, {"weight_decay": 0.1, "centered": True, "momentum": 0.1},
        {"weight_decay": 0.1, "centered": True, "momentum": 0.1, "maximize": True},
    ],
    "Adafactor": [
        {}, {"weight_decay": 0.1, "lr": 0.01}, {"weight_decay": 0.1, "maximize": True}, {"beta2_decay": -1.0},
        {"d": 1.5},
    ],
}  # fmt: skip


def twin(name, lr=None, weight_decay=None, maximize=False, amsgrad=False, beta2_decay=-0.8, d=1.0, **options):
    """The transform that does what a PyTorch optimizer with these options does."""
    lr = (
        {"SGD": 1e-3, "Adam": 1e-3, "AdamW": 1e-3, "RMSprop": 1e-2, "Adafactor": 1e-2}[name]
        if lr is None
        else lr
    )
    decay = {"AdamW": 1e-2}.get(name, 0.0) if weight_decay is None else weight_decay
    first = [optim.scale(-1.0)] if maximize else []
    if name == "Adafactor":
        return optim.chain(*first, optim.adafactor(lr, weight_decay=decay, decay_rate=-beta2_decay,
                                                   clipping_threshold=d, convention="torch"))  # fmt: skip
    if name == "AdamW" and amsgrad:
        return optim.chain(*first, optim.amsgrad(lr), optim.add_decayed_weights(-lr * decay))
    if name == "AdamW":
        return optim.chain(*first, optim.adamw(lr, weight_decay=decay))
    if decay:
        first.append(optim.add_decayed_weights(decay))
    if name == "SGD":
        return optim.chain(*first, optim.sgd(lr, **options))
    if name == "Adam":
        return optim.chain(*first, optim.amsgrad(lr) if amsgrad else optim.adam(lr))
    return optim.chain(*first, optim.rmsprop(lr, decay=0.99, convention="torch", **options))


def configurations_of_torch():
    common = pytest.importorskip("torch.testing._internal.common_optimizers", exc_type=ImportError)
    return {
        info.optim_cls.__name__: [config.kwargs for config in info.optim_inputs_func(device="cpu")]
        for info in common.optim_db
        if info.optim_cls.__name__ in CONFIGURATIONS
    }


@pytest.mark.library("torch")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_torch_configurations(name):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for options in CONFIGURATIONS[name]:
        start = {
            k: torch.from_numpy(rng.standard_normal(shape))
            for k, shape in (("w", (4, 3)), ("b", (3,)), ("s", ()))
        }
        theirs = {k: torch.nn.Parameter(p.clone()) for k, p in start.items()}
        optimizer = getattr(torch.optim, name)(list(theirs.values()), **options)
        transform = twin(name, **options)
        params, state = {k: p.clone() for k, p in start.items()}, transform.init(start)
        for _ in range(50):
            grads = {k: torch.from_numpy(np.asarray(rng.standard_normal(p.shape))) for k, p in start.items()}
            for k, p in theirs.items():
                p.grad = grads[k].clone()
            optimizer.step()
            params, state = transform.step(params, grads, state)
        for k, p in theirs.items():
            torch.testing.assert_close(params[k], p.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.library("torch")
def test_torch_has_no_other_configurations():
    """Needs expecttest. A configuration that PyTorch adds is one that we should run."""
    for name, configurations in configurations_of_torch().items():
        plain = [
            c for c in configurations if not any(hasattr(v, "dim") for v in c.values())
        ]  # lr as a tensor
        known = [c for c in plain if not {"capturable", "fused", "foreach", "differentiable"} & set(c)]
        assert known == CONFIGURATIONS[name]


# --- the counter-example of Reddi, Kale and Kumar (arXiv:1904.09237, section 3) --------------------------------


def end_of_reddi(transform, large, small, period, steps):
    """Where x ends on [-1, 1] if one gradient in a period is large, the others small and of the other sign."""
    x = np.zeros(1)
    state = transform.init(x)
    for t in range(1, steps + 1):
        x, state = transform.step(x, np.full(1, large if t % period == 1 else small), state)
        x.clip(-1.0, 1.0, out=x)
    return float(x[0])


def test_adax_converges_where_adam_does_not():
    """C = 4 and -1, -1 in turn: the best x is -1. 6,000 steps with lr = 0.5 / sqrt(t); b2 of theorem 1 for Adam."""
    rate = lambda step: 0.5 / math.sqrt(step + 1)  # noqa: E731  # as users write it
    problem = (4.0, -1.0, 3, 6_000)
    assert end_of_reddi(optim.adam(rate, b1=0.0, b2=1 / 17), *problem) > 0.9
    assert end_of_reddi(optim.amsgrad(rate, b1=0.0, b2=1 / 17), *problem) < -0.9
    assert end_of_reddi(optim.adax(rate, b1=0.0), *problem) < -0.9


@pytest.mark.library("jax")
def test_the_long_counter_example(xp):
    """1010 and 100 times -10: after 2,000,000 steps Adam is at +1, AMSGrad and AdaX at -0.998."""
    import jax

    def rate(step):
        return 0.5 / xp.sqrt(step + 1.0)

    transforms = (
        optim.adam(rate, b2=0.99),
        optim.adam(rate, b1=0.0),
        optim.amsgrad(rate, b2=0.99),
        optim.adax(rate),
    )
    both = optim.multi_transform(dict(enumerate(transforms)), [0, 1, 2, 3])

    def step(t, carry):
        params, state = carry
        g = xp.where(t % 101 == 0, 1010.0, -10.0)
        params, state = both.step(params, [g] * 4, state)
        return [xp.clip(x, -1.0, 1.0) for x in params], state

    params = [xp.asarray(np.array(0.0))] * 4
    start = params, both.init(params)._replace(count=xp.asarray(np.int32(0)))
    params, _ = jax.jit(lambda carry: jax.lax.fori_loop(0, 2_000_000, step, carry))(start)
    np.testing.assert_allclose([float(x) for x in params], [1.0, 1.0, -0.998, -0.998], atol=1e-3)
