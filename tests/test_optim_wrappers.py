"""Masks, groups, accumulation, nan policies, and averages of the parameters."""

from __future__ import annotations

import pickle

import mpmath as mp
import numpy as np
import optree
import pytest

from zlpr import optim
from zlpr.reference import optim as reference


def tree_of(xp, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (200, 100), "b": (3,), "s": ()}
    return {"head": {k: xp.asarray(rng.standard_normal(shape)) for k, shape in shapes.items()}, "none": None,
            "tail": [xp.asarray(rng.standard_normal(4))]}  # fmt: skip


def run(transform, params, grads):
    state = transform.init(params)
    for g in grads:
        params, state = transform.step(params, g, state)
    return params, state


def assert_same(xp, actual, expected, rtol=1e-13):
    assert optree.tree_structure(actual) == optree.tree_structure(expected)
    for a, e in zip(optree.tree_leaves(actual), optree.tree_leaves(expected), strict=True):
        np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(e), rtol=rtol, atol=1e-14)


# --- masked, multi_transform --------------------------------------------------------------------------------


def test_groups_are_stepped_as_if_alone(xp):
    grads = [tree_of(xp, seed) for seed in (1, 2, 3)]
    head = optim.chain(optim.clip_by_global_norm(0.5), optim.adamw(0.1))
    tail = optim.chain(optim.clip_by_global_norm(0.1), optim.sgd(0.1, momentum=0.9))
    both = optim.multi_transform({"h": head, "t": tail}, {"head": "h", "none": None, "tail": "t"})
    params, state = run(both, tree_of(xp), grads)
    assert state.slots[1].m["tail"] == [None]
    assert state.slots[3].m["head"] == {"w": None, "b": None, "s": None}
    for name, alone in (("head", head), ("tail", tail)):
        expected, _ = run(alone, tree_of(xp)[name], [g[name] for g in grads])
        assert_same(xp, params[name], expected)


def test_masked_leaves_pass_through(xp):
    mask = lambda params: optree.tree_map(lambda x: x.ndim > 1, params)  # noqa: E731  # as users write it
    transform = optim.chain(optim.masked(optim.adam(1.0), mask), optim.scale(-0.5))
    grads, params = tree_of(xp, 1), tree_of(xp)
    updates, _ = transform.update(grads, transform.init(params), params)
    assert_same(xp, updates["tail"], [-0.5 * grads["tail"][0]])
    alone = optim.chain(optim.adam(1.0), optim.scale(-0.5))
    expected, _ = alone.update(grads["head"]["w"], alone.init(params["head"]["w"]), params["head"]["w"])
    assert_same(xp, updates["head"]["w"], expected)


def test_masks_of_masks_and_of_half_precision(xp):
    params = [xp.asarray(np.ones(3), "float32"), xp.asarray(np.ones(3))]
    transform = optim.masked(optim.masked(optim.sgd(1.0), [True, False]), [True, True])
    updates, _ = transform.update(params, transform.init(params), params)
    np.testing.assert_array_equal(xp.to_numpy(updates[0]), -np.ones(3))
    np.testing.assert_array_equal(xp.to_numpy(updates[1]), np.ones(3))


def test_frozen_group_does_not_move(xp):
    transform = optim.multi_transform(
        {1: optim.adam(0.1), 0: optim.set_to_zero()}, lambda p: {"a": 1, "b": 0}
    )
    params = {"a": xp.asarray(np.ones(3)), "b": xp.asarray(np.ones(3))}
    grads = {"a": xp.asarray(np.ones(3)), "b": xp.asarray(np.full(3, np.nan))}
    new, _ = run(transform, params, [grads])
    np.testing.assert_allclose(xp.to_numpy(new["a"]), np.full(3, 0.9))
    np.testing.assert_array_equal(xp.to_numpy(new["b"]), np.ones(3))


def test_wrong_masks_and_labels_are_named():
    params = {"a": np.ones(2), "b": np.ones(2)}
    with pytest.raises(ValueError, match="mask must be a tree of bools like params"):
        optim.masked(optim.sgd(0.1), {"a": True}).init(params)
    with pytest.raises(TypeError, match="mask must hold bools, not int"):
        optim.masked(optim.sgd(0.1), {"a": 1, "b": True}).init(params)
    with pytest.raises(ValueError, match=r"labels of transforms \('x'\), got 'y'"):
        optim.multi_transform({"x": optim.sgd(0.1)}, {"a": "x", "b": "y"}).init(params)
    with pytest.raises(TypeError, match=r"transforms\['x'\] must be a Transform"):
        optim.multi_transform({"x": 0.1}, "x")
    with pytest.raises(TypeError, match="inner must be a Transform"):
        optim.masked(0.1, True)


# --- accumulate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_accumulation_is_the_step_of_the_mean(xp, n):
    grads = [tree_of(xp, seed) for seed in range(1, 3 * n)]  # the last step is not complete
    transform = optim.chain(
        optim.accumulate(n), optim.clip_by_global_norm(1.0), optim.adam(lambda t: 0.1 / (1 + t))
    )
    params, state = run(transform, tree_of(xp), grads)
    means = [
        optree.tree_map(lambda *g: sum(g[1:], start=g[0]) / n, *grads[i : i + n])
        for i in range(0, len(grads) - n + 1, n)
    ]
    plain = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(lambda t: 0.1 / (1 + t)))
    expected, _ = run(plain, tree_of(xp), means)
    assert_same(xp, params, expected, rtol=1e-12)
    assert int(state.count) == len(grads)


def test_nan_leaves_no_trace_in_the_next_mean(xp):
    transform = optim.chain(optim.accumulate(2), optim.sgd(1.0))
    params, state = xp.asarray(np.zeros(2)), transform.init(xp.asarray(np.zeros(2)))
    for g in (np.nan, 1.0):
        updates, state = transform.update(xp.asarray(np.full(2, g)), state, params)
    for g in (1.0, 3.0):
        updates, state = transform.update(xp.asarray(np.full(2, g)), state, params)
    np.testing.assert_array_equal(xp.to_numpy(updates), [-2.0, -2.0])


def test_accumulation_of_a_group_leaves_the_others_alone(xp):
    slow = optim.chain(optim.accumulate(2), optim.sgd(1.0))
    transform = optim.multi_transform({"s": slow, "f": optim.sgd(1.0)}, {"a": "s", "b": "f"})
    one = {"a": xp.asarray(np.ones(2)), "b": xp.asarray(np.ones(2))}
    params, _ = run(transform, {"a": xp.asarray(np.ones(2)), "b": xp.asarray(np.ones(2))}, [one] * 3)
    np.testing.assert_array_equal(xp.to_numpy(params["a"]), [0.0, 0.0])
    np.testing.assert_array_equal(xp.to_numpy(params["b"]), [-2.0, -2.0])


@pytest.mark.library("jax")
def test_accumulation_is_that_of_optax(xp):
    optax = pytest.importorskip("optax")
    grads = [tree_of(xp, seed)["head"] for seed in range(1, 8)]
    theirs, ours = optax.MultiSteps(optax.adam(0.1), 3), optim.chain(optim.accumulate(3), optim.adam(0.1))
    params, state = tree_of(xp)["head"], theirs.init(tree_of(xp)["head"])
    for g in grads:
        updates, state = theirs.update(g, state, params)
        params = optax.apply_updates(params, updates)
    found, _ = run(ours, tree_of(xp)["head"], grads)
    for a, e in zip(optree.tree_leaves(found), optree.tree_leaves(params), strict=True):
        np.testing.assert_allclose(
            xp.to_numpy(a), xp.to_numpy(e), rtol=0, atol=1e-6
        )  # their mean is not of doubles


# --- skip_nonfinite -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_skipped_steps_leave_no_trace(xp, bad):
    good = [tree_of(xp, seed) for seed in (1, 2, 3)]
    spoiled = tree_of(xp, 4)
    spoiled["head"]["w"] = xp.asarray(np.where(np.arange(20_000).reshape(200, 100) == 12_345, bad, 1.0))
    rest = optim.clip_by_global_norm(1.0), optim.adam(optim.schedules.cosine(0.1, 9)), optim.ema(0.5)
    transform = optim.chain(optim.skip_nonfinite(), *rest)
    with np.errstate(
        invalid="ignore"
    ):  # array-api-strict computes what is thrown away, with NumPy and its warnings
        params, state = run(transform, tree_of(xp), [good[0], spoiled, spoiled, good[1], good[2]])
    expected, plain = run(optim.chain(*rest), tree_of(xp), good)
    assert_same(xp, params, expected)
    assert_same(xp, state.slots[2:], plain.slots[1:])
    assert int(state.slots[0].total_notfinite) == 2
    assert int(state.count) == 5


def test_zeroed_leaves_do_not_hold_back_the_others(xp):
    transform = optim.chain(optim.skip_nonfinite("zero"), optim.sgd(1.0))
    params = [xp.asarray(np.ones(3)), xp.asarray(np.ones((2, 2))), xp.asarray(np.ones((150, 150)))]
    grads = [xp.asarray(np.array([1.0, np.nan, 1.0])), xp.asarray(np.ones((2, 2))),
             xp.asarray(np.full((150, 150), np.inf))]  # fmt: skip
    state = transform.init(params)
    with xp.no_sync():
        params, state = transform.step(params, grads, state)
    for p, value in zip(params, (1.0, 0.0, 1.0), strict=True):
        np.testing.assert_array_equal(xp.to_numpy(p), np.full(p.shape, value))
    assert int(state.slots[0].total_notfinite) == 1


def test_raising_writes_nothing():
    transform = optim.chain(optim.skip_nonfinite("raise"), optim.sgd(1.0))
    params = [np.ones(2), np.ones(3)]
    with pytest.raises(FloatingPointError, match=r"leaf 1 of 2, of the shape \(3,\)"):
        transform.step(params, [np.ones(2), np.array([1.0, np.inf, 1.0])], transform.init(params))
    np.testing.assert_array_equal(params[0], np.ones(2))
    assert transform.step(params, params, transform.init(params))[1].slots[0].total_notfinite == 0


@pytest.mark.library("jax", "strict", "cupy")
def test_raising_is_refused_where_no_value_is_read(xp):
    transform, params = optim.skip_nonfinite("raise"), xp.asarray(np.ones(2))
    with pytest.raises(ValueError, match="policy='raise' has to read"):
        transform.step(params, params, transform.init(params))


@pytest.mark.library("jax")
def test_gates_do_not_recompile(xp):
    transform = optim.chain(
        optim.skip_nonfinite(), optim.accumulate(2), optim.adam(optim.schedules.cosine(0.1, 9))
    )
    params, state = xp.asarray(np.ones(3)), transform.init(xp.asarray(np.ones(3)))
    for g in (1.0, np.nan, 2.0, 3.0, 4.0):
        params, state = transform.step(params, xp.asarray(np.full(3, g)), state)
    assert transform._compiled_sweep._cache_size() == 1
    assert int(state.slots[0].total_notfinite) == 1


# --- ema, scales, decay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.9, 1.0])
def test_ema_agrees_with_its_twin(xp, decay):
    grads = np.random.default_rng(0).standard_normal((12, 3))
    transform = optim.chain(optim.sgd(0.1), optim.ema(decay))
    _, state = run(transform, xp.asarray(np.ones(3)), map(xp.asarray, grads))
    path = [[mp.mpf(1) - mp.mpf(0.1) * mp.fsum(column) for column in zip(*grads[:t].tolist(), strict=True)]
            for t in range(1, 13)]  # fmt: skip
    exact = np.array(reference.average(path, decay), dtype=float)
    np.testing.assert_allclose(xp.to_numpy(state.slots[-1].average), exact, rtol=1e-14)


@pytest.mark.library("torch")
def test_ema_without_correction_is_that_of_torch():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)
    transform = optim.chain(optim.sgd(0.1), optim.ema(0.75, debias=False))
    params = {name: p for name, p in layer.named_parameters()}
    averaged = torch.optim.swa_utils.AveragedModel(
        layer, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)
    )
    state = transform.init(params)
    for seed in range(5):
        grads = {k: torch.full_like(p, float(seed)) for k, p in params.items()}
        params, state = transform.step(params, grads, state)
        averaged.update_parameters(layer)
    for name, p in averaged.module.named_parameters():
        torch.testing.assert_close(state.slots[-1].average[name], p.detach())


def test_updates_of_one_kernel_are_nobody_elses(xp):
    """Neither the gradient nor the momentum comes out as the update itself."""
    for transform in (optim.ema(0.5), optim.sgd(0.5, momentum=0.5, convention="paper")):
        params, grads = xp.asarray(np.ones(2)), xp.asarray(np.ones(2))
        updates, state = transform.update(grads, transform.init(params), params)
        before = xp.to_numpy(updates)
        transform.step(params, grads, state)
        grads *= 3.0
        np.testing.assert_array_equal(xp.to_numpy(updates), before)


@pytest.mark.parametrize(
    ("make", "error", "word"),
    [
        (lambda: optim.accumulate(0), ValueError, "n must be"),
        (lambda: optim.accumulate(2.5), ValueError, "n must be"),
        (lambda: optim.skip_nonfinite("stop"), ValueError, "policy must be"),
        (lambda: optim.ema(1.5), ValueError, "decay must be"),
        (lambda: optim.scale(np.nan), ValueError, "step_size must be"),
        (lambda: optim.scale_by_schedule(0.1), TypeError, "step_size_fn must be callable"),
        (lambda: optim.add_decayed_weights(np.inf), ValueError, "weight_decay must be"),
        (lambda: optim.adafactor(decay_rate=0.0), ValueError, "decay_rate must be"),
        (lambda: optim.adafactor(clipping_threshold=0.0), ValueError, "clipping_threshold must be"),
        (lambda: optim.sgd(0.1, momentum=0.5, dampening=0.5, nesterov=True), ValueError, "nesterov needs"),
        (lambda: optim.rmsprop(0.1, decay=1.0), ValueError, "decay must be"),
    ],
)
def test_bad_settings_are_named(make, error, word):
    with pytest.raises(error, match=word):
        make()


def test_wrappers_are_pickled_as_the_calls_that_made_them():
    groups = {
        "a": optim.chain(optim.accumulate(2), optim.adafactor()),
        "b": optim.masked(optim.amsgrad(0.1), True),
    }
    transform = optim.multi_transform(groups, {"x": "a", "y": "b"})
    params, grads = {"x": np.ones((2, 3)), "y": np.ones(2)}, {"x": np.ones((2, 3)), "y": np.ones(2)}
    restored = pickle.loads(pickle.dumps(transform))
    expected, _ = transform.update(grads, transform.init(params), params)
    found, _ = restored.update(grads, restored.init(params), params)
    np.testing.assert_array_equal(found["y"], expected["y"])
    np.testing.assert_array_equal(found["x"], expected["x"])
