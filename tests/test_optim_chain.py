"""The mechanism: purity, ownership, order, trees, memory and compilation."""

from __future__ import annotations

import math
import tracemalloc
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import optree
import pytest

from zlpr import _treewalk, optim

TRANSFORMS = {
    "sgd": lambda: optim.sgd(0.1),
    "momentum": lambda: optim.sgd(0.1, momentum=0.9),
    "nesterov": lambda: optim.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: optim.adamw(0.1),
    "adax": lambda: optim.adax(0.1),
    "clip, adaxw": lambda: optim.chain(optim.clip_by_global_norm(1.0), optim.adaxw(0.1)),
    "amsgrad": lambda: optim.amsgrad(0.1),
    "rmsprop": lambda: optim.rmsprop(0.1, centered=True, momentum=0.5, nesterov=True),
    "adafactor": lambda: optim.adafactor(momentum=0.5, weight_decay=0.1),
    "groups": lambda: optim.multi_transform(
        {
            "f": optim.adafactor(factored=False),
            "s": optim.chain(optim.skip_nonfinite("zero"), optim.sgd(0.1)),
        },
        {"z": "f", "a": "s", "o": "s"},
    ),
    "skip, accumulate, adam, ema": lambda: optim.chain(
        optim.skip_nonfinite(), optim.accumulate(2), optim.adam(0.1), optim.ema(0.5)
    ),
    "adam, clip, sgd": lambda: optim.chain(optim.adam(1.0), optim.clip_by_global_norm(0.5), optim.sgd(0.5)),
}


class Layer(NamedTuple):
    weight: object
    bias: object


def tree_of(xp, seed=0, large=(300, 70), dtype=np.float64):
    """Every container, a None, an empty and a 0-d leaf, small leaves and one of more than a pack."""
    rng = np.random.default_rng(seed)

    def leaf(*shape):
        return xp.asarray(rng.standard_normal(shape).astype(dtype))

    return {
        "z": Layer(leaf(*large), leaf(5)),
        "a": [leaf(), None, (leaf(0, 3), leaf(2, 2, 2))],
        "o": OrderedDict(y=leaf(3), x=leaf(3)),
    }


def numbers(xp, tree):
    return [xp.to_numpy(x) for x in optree.tree_leaves(tree) if not isinstance(x, int)]


def run(transform, params, grads, *, by_update=False):
    state = transform.init(params)
    for g in grads:
        if by_update:
            updates, state = transform.update(g, state, params)
            params = optim.apply_updates(params, updates)
        else:
            params, state = transform.step(params, g, state)
    return params, state


@pytest.mark.parametrize("name", TRANSFORMS)
def test_step_is_update_and_apply(xp, name):
    grads = [tree_of(xp, seed) for seed in (1, 2, 3)]
    stepped, state = run(TRANSFORMS[name](), tree_of(xp), grads)
    updated, other = run(TRANSFORMS[name](), tree_of(xp), grads, by_update=True)
    assert state.count == other.count == 3
    assert optree.tree_structure(stepped) == optree.tree_structure(tree_of(xp))
    # XLA contracts p + a * b into one rounding where it sees both
    close = {"rtol": 1e-12, "atol": 1e-15} if xp.name == "jax" else {"rtol": 0, "atol": 0}
    for a, b in zip(numbers(xp, (stepped, state)), numbers(xp, (updated, other)), strict=True):
        np.testing.assert_allclose(a, b, **close)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_library_takes_numpys_step(xp, name):
    class Numpy:
        asarray = staticmethod(np.array)

    actual, _ = run(TRANSFORMS[name](), tree_of(xp), [tree_of(xp, seed) for seed in (1, 2)])
    expected, _ = run(TRANSFORMS[name](), tree_of(Numpy), [tree_of(Numpy, seed) for seed in (1, 2)])
    for a, e in zip(numbers(xp, actual), optree.tree_leaves(expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_update_writes_into_nothing(xp, name):
    transform, params, grads = TRANSFORMS[name](), tree_of(xp), tree_of(xp, 1)
    _, state = transform.update(grads, transform.init(params), params)
    before = numbers(xp, (params, grads, state))
    with xp.no_sync():
        updates, _ = transform.update(grads, state, params)
        optim.apply_updates(params, updates)
    for a, b in zip(numbers(xp, (params, grads, state)), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_step_leaves_gradients_alone_and_reads_no_value(xp):
    transform, params, grads = TRANSFORMS["adam, clip, sgd"](), tree_of(xp), tree_of(xp, 1)
    before, state = numbers(xp, grads), transform.init(params)
    with xp.no_sync():
        transform.step(params, grads, state)
    for a, b in zip(numbers(xp, grads), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.library("numpy", "torch", "cupy", "strict")
def test_step_returns_the_arrays_it_was_given(xp):
    transform, params = optim.adamw(0.1), tree_of(xp)
    state = transform.init(params)
    new_params, new_state = transform.step(params, tree_of(xp, 1), state)
    for old, new in zip(optree.tree_leaves((params, state.slots)), optree.tree_leaves((new_params, new_state.slots)),
                        strict=True):  # fmt: skip
        assert old is new


def test_read_only_arrays_are_replaced():
    params = np.broadcast_to(np.array(1.0), (3,))
    new, _ = optim.sgd(0.5).step(params, np.ones(3), optim.sgd(0.5).init(params))
    np.testing.assert_array_equal(new, np.full(3, 0.5))
    np.testing.assert_array_equal(params, np.ones(3))


def test_clip_after_the_optimizer_bounds_the_step(xp):
    transform = optim.chain(optim.adax(1.0), optim.clip_by_global_norm(0.1))
    params, grads = tree_of(xp), tree_of(xp, 1)
    updates, _ = transform.update(grads, transform.init(params), params)
    assert math.isclose(float(xp.to_numpy(optim.global_norm(updates))), 0.1, rel_tol=1e-13)


def test_clip_before_the_optimizer_bounds_the_gradient(xp):
    params, grads = tree_of(xp), tree_of(xp, 1)
    chained = optim.chain(optim.clip_by_global_norm(0.1), optim.sgd(1.0))
    updates, _ = chained.update(grads, chained.init(params), params)
    clip = optim.clip_by_global_norm(0.1)
    clipped, _ = clip.update(grads, clip.init(params), params)
    for u, c in zip(numbers(xp, updates), numbers(xp, clipped), strict=True):
        np.testing.assert_allclose(u, -c, rtol=1e-15)


def test_chains_of_chains_are_chains():
    a, b = optim.sgd(0.1), optim.clip_by_global_norm(1.0)
    assert optim.chain(optim.chain(a), optim.chain(b, a)).stages == optim.chain(a, b, a).stages


def count_walks(monkeypatch, transform, params, grads):
    walks = []
    real = _treewalk.walk
    monkeypatch.setattr(_treewalk, "walk", lambda *args: walks.append(len(args)) or real(*args))
    transform.step(params, grads, transform.init(params))
    return sum(n == 3 for n in walks), sum(n == 2 for n in walks)  # those that write, those that measure


@pytest.mark.parametrize(
    ("parts", "expected"),
    [("s", (1, 0)), ("sss", (1, 0)), ("cs", (1, 1)), ("css", (1, 1)), ("sc", (2, 1)), ("scscs", (3, 2))],
)
def test_chain_is_cut_before_later_measures_only(monkeypatch, parts, expected):
    make = {"s": lambda: optim.sgd(0.1), "c": lambda: optim.clip_by_global_norm(1.0)}
    transform = optim.chain(*(make[p]() for p in parts))
    assert count_walks(monkeypatch, transform, np.ones(10), np.ones(10)) == expected


def test_small_leaves_share_one_call():
    rounds = []

    def body(g, p):
        rounds.append(g.shape)
        return [p + g]

    grads, params = [np.ones(100)] * 200, [np.full((10, 10), float(i)) for i in range(200)]
    _treewalk.walk(body, [[g.reshape(10, 10) for g in grads]], [params])
    assert rounds == [(20_000,)]
    assert all((p == i + 1).all() for i, p in enumerate(params))


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("shape", [(300, 301), (3, 200_001), (90_001,), (40, 50, 60)])
def test_strided_leaves_are_written_where_they_lie(xp, shape):
    rng = np.random.default_rng(0)
    padded = tuple(2 * n for n in shape)
    whole, slots = rng.standard_normal(padded), tuple(slice(None, None, 2) for _ in shape)
    grads = rng.standard_normal(shape)
    base = xp.asarray(whole)
    params = base[slots]
    transform = optim.adamw(0.1)
    new, _ = transform.step(params, xp.asarray(np.asfortranarray(grads)), transform.init(params))
    assert new is params
    expected, _ = transform.step(whole[slots].copy(), grads, transform.init(whole[slots].copy()))
    np.testing.assert_allclose(xp.to_numpy(base)[slots], expected, rtol=1e-14)
    untouched = np.ones(padded, bool)
    untouched[slots] = False
    np.testing.assert_array_equal(xp.to_numpy(base)[untouched], whole[untouched])


@pytest.mark.parametrize("shape", [(1,), (70_000,), (3, 70_000), (2, 3, 50_000), (500, 400)])
def test_block_indices_cover_every_element_once(shape):
    seen = np.zeros(shape, int)
    for index in _treewalk._block_indices(shape, 60_000):
        assert seen[index].size <= 60_000
        seen[index] += 1
    assert (seen == 1).all()


def test_mixed_dtypes(xp):
    params = [xp.asarray(np.ones(4, np.float32)), xp.asarray(np.ones(3)), xp.asarray(np.ones(2, np.float32))]
    grads = [xp.asarray(np.full(4, 2.0)), xp.asarray(np.full(3, 2.0, np.float32)), params[2]]
    transform = optim.chain(optim.clip_by_global_norm(100.0), optim.sgd(0.25, momentum=0.5))
    updates, state = transform.update(grads, transform.init(params), params)
    assert [str(u.dtype).rpartition(".")[2] for u in updates] == ["float32", "float64", "float32"]
    new, _ = transform.step(params, grads, state)
    np.testing.assert_allclose(xp.to_numpy(new[0]), np.full(4, 0.25))
    np.testing.assert_allclose(xp.to_numpy(new[1]), np.full(3, 0.25))


@pytest.mark.parametrize("params", [{}, [], (None, {"a": None})])
def test_tree_without_leaves(params):
    transform = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.1))
    new, state = transform.step(params, params, transform.init(params))
    assert new == params
    assert state.count == 1
    assert transform.update(params, state, params)[0] == params


def test_dicts_keep_their_order():
    params = {"z": np.ones(1), "a": np.ones(1), 3: np.ones(1)}
    new, state = optim.adam(0.1).step(params, params, optim.adam(0.1).init(params))
    assert list(new) == list(state.slots[0].m) == ["z", "a", 3]


def peak_of_a_later_step(transform, dtype, shape=(4_000_000,)):
    params, grads = {"w": np.ones(shape, dtype)}, {"w": np.ones(shape, dtype)}
    state = transform.init(params)
    for _ in range(3):  # a chain that waits for two gradients makes its first real step at the second
        params, state = transform.step(params, grads, state)
    tracemalloc.start()
    transform.step(params, grads, state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_step_allocates_only_blocks(dtype):
    assert peak_of_a_later_step(optim.adaxw(0.1), dtype) < 2_000_000
    transform = optim.chain(optim.clip_by_global_norm(1.0), optim.adaxw(0.1), optim.sgd(0.5, momentum=0.9))
    assert peak_of_a_later_step(transform, dtype) < 3_000_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.chain(optim.adaxw(0.1), optim.clip_by_global_norm(1.0), optim.sgd(0.5), optim.ema(0.9)),
        lambda: optim.chain(optim.skip_nonfinite(), optim.clip_by_global_norm(1.0), optim.amsgrad(0.1)),
        lambda: optim.chain(optim.accumulate(2), optim.adafactor()),
        lambda: optim.adafactor(factored=False),
        lambda: optim.masked(optim.rmsprop(0.1, centered=True), True),
    ],
)
def test_no_chain_allocates_what_grows_with_the_parameters(make):
    """16 MB an array; blocks of 32,768 entries, and rows and columns of a matrix of 2,000."""
    assert peak_of_a_later_step(make(), np.float32, (2000, 2000)) < 3_000_000


@pytest.mark.library("jax")
def test_new_steps_do_not_recompile(xp):
    transform = optim.chain(optim.clip_by_global_norm(1.0), optim.adaxw(optim.schedules.cosine(0.1, 10)))
    params, grads = tree_of(xp), tree_of(xp, 1)
    state = transform.init(params)
    for _ in range(5):
        params, state = transform.step(params, grads, state)
    assert state.count == 5
    assert transform._compiled_sweep._cache_size() == 1


@pytest.mark.library("jax")
def test_runs_inside_a_users_jit_and_compiles_once(xp):
    jax = pytest.importorskip("jax")
    traces = []
    transform = optim.chain(
        optim.clip_by_global_norm(1.0), optim.adaxw(optim.schedules.warmup_cosine(0.01, 0.1, 2, 9))
    )

    @jax.jit
    def train_step(params, grads, state):
        traces.append(1)
        return transform.step(params, grads, state)

    params, grads = tree_of(xp), tree_of(xp, 1)
    expected, _ = run(transform, params, [grads] * 4)
    state = transform.init(params)
    for _ in range(4):
        params, state = train_step(params, grads, state)
    assert len(traces) == 1
    for a, e in zip(numbers(xp, params), numbers(xp, expected), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12, atol=1e-14)


@pytest.mark.library("jax")
def test_float32_stays_float32_in_a_trace_with_a_count(xp):
    jax = pytest.importorskip("jax")
    transform, params = optim.adam(optim.schedules.linear(0.1, 0.0, 5)), tree_of(xp, dtype=np.float32)
    new, state = jax.jit(transform.step)(params, params, transform.init(params))
    leaves = optree.tree_leaves((new, state.slots))
    assert {str(x.dtype) for x in leaves} == {"float32"}


@pytest.mark.library("torch")
def test_torch_parameters_are_stepped_outside_the_graph():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(3, 2)
    params = dict(layer.named_parameters())
    transform = optim.adamw(0.1)
    state = transform.init(params)
    layer(torch.ones(1, 3)).sum().backward()
    grads = {name: p.grad for name, p in params.items()}
    before = layer.weight.detach().clone()
    params, state = transform.step(params, grads, state)
    assert params["weight"] is layer.weight
    assert layer.weight.requires_grad
    assert layer.weight.grad_fn is None
    assert not torch.equal(layer.weight, before)
    assert not state.slots[0].m["weight"].requires_grad


def step_of(params, grads, state=None):
    transform = optim.adam(0.1)
    return transform.step(params, grads, transform.init(params) if state is None else state)


def test_mismatches_are_named():
    params = {"w": np.ones((2, 3)), "b": [np.ones(3)]}
    with pytest.raises(ValueError, match="grads must have the same tree structure as params"):
        step_of(params, {"w": np.ones((2, 3))})
    with pytest.raises(
        ValueError, match=r"grads\['b'\]\[0\] must have the shape \(3,\) of params\['b'\]\[0\], not \(4,\)"
    ):
        step_of(params, {"w": np.ones((2, 3)), "b": [np.ones(4)]})
    with pytest.raises(TypeError, match=r"params\['w'\] must have a real floating dtype"):
        step_of({"w": np.ones(2, int)}, {"w": np.ones(2)})
    with pytest.raises(TypeError, match=r"grads\['w'\] must be an array"):
        step_of({"w": np.ones(2)}, {"w": "text"})
    with pytest.raises(ValueError, match="state must come from this transform"):
        step_of(params, params, optim.sgd(0.1).init(params))
    with pytest.raises(ValueError, match=r"state.slots\[0\].m must have the same tree structure as params"):
        step_of(params, params, optim.adam(0.1).init({"w": np.ones(2)}))
    with pytest.raises(ValueError, match="updates must have the same tree structure as params"):
        optim.apply_updates(params, [])


@pytest.mark.library("torch")
def test_two_libraries_are_an_error():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        TypeError, match=r"params\[1\] must be a numpy array like params\[0\], not a torch array"
    ):
        optim.adam(0.1).init([np.ones(2), torch.ones(2)])
    with pytest.raises(TypeError, match="grads must be a numpy array like params"):
        step_of([np.ones(2)], [torch.ones(2)])


def test_chain_takes_transforms_only():
    with pytest.raises(ValueError, match="at least one"):
        optim.chain()
    with pytest.raises(TypeError, match=r"transforms\[1\] must be a Transform, not float"):
        optim.chain(optim.sgd(0.1), 0.5)


def test_numpy_scalars_are_arrays_without_axes():
    params, grads = {"s": np.float32(1.0), "a": np.array(1.0)}, {"s": np.float32(2.0), "a": np.float64(2.0)}
    transform = optim.sgd(0.25)
    new, _ = transform.step(params, grads, transform.init(params))
    assert new == {"s": 0.5, "a": 0.5}
    assert new["a"] is params["a"]
    assert new["s"].dtype == np.float32


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:.*lru_cache")  # Dynamo looks through it, and says so
def test_compiles_once_in_torch_without_a_graph_break():
    torch = pytest.importorskip("torch")
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    transform = optim.chain(optim.clip_by_global_norm(1.0), optim.adaxw(optim.schedules.cosine(0.1, 9)))
    compiled = torch.compile(transform.step, fullgraph=True, backend=counter)
    grads = {"w": torch.linspace(-1.0, 1.0, 50)}
    expected, _ = run(transform, {"w": torch.ones(50)}, [grads] * 4)
    params = {"w": torch.ones(50)}
    state = transform.init(params)._replace(count=torch.tensor(0, dtype=torch.int32))
    for _ in range(4):
        params, state = compiled(params, grads, state)
    assert counter.frame_count == 1
    assert int(state.count) == 4
    torch.testing.assert_close(params, expected)


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:.*lru_cache")  # Dynamo looks through it, and says so
@pytest.mark.parametrize(
    "make",
    [
        lambda: optim.chain(optim.amsgrad(0.1), optim.ema(0.5)),
        lambda: optim.rmsprop(0.1, centered=True, momentum=0.5),
        lambda: optim.chain(optim.accumulate(2), optim.sgd(0.1, momentum=0.5)),
        lambda: optim.adafactor(),
        lambda: optim.masked(optim.adam(0.1), lambda params: [True, False]),
    ],
)
def test_every_family_compiles_in_torch_without_a_graph_break(make):
    torch = pytest.importorskip("torch")
    transform, grads = make(), [torch.linspace(-1.0, 1.0, 12).reshape(3, 4), torch.ones(5)]
    compiled = torch.compile(transform.step, fullgraph=True, backend="eager")
    expected, _ = run(transform, [torch.ones(3, 4), torch.ones(5)], [grads] * 3)
    params = [torch.ones(3, 4), torch.ones(5)]
    state = transform.init(params)._replace(count=torch.tensor(0, dtype=torch.int32))
    for _ in range(3):
        params, state = compiled(params, grads, state)
    torch.testing.assert_close(params, expected)


@pytest.mark.library("jax")
def test_jax_fuses_all_kernels_of_a_leaf(xp):
    """One loop for each array that is written: XLA's CPU compiler makes no loop with several outputs."""
    jax = pytest.importorskip("jax")
    transform, params = optim.chain(optim.adaxw(0.1), optim.ema(0.5)), xp.asarray(np.ones(1000))
    lowered = jax.jit(transform.step).lower(params, params, transform.init(params))
    program = lowered.compile().as_text()
    made = [line.split(" = ")[1] for line in program[program.index("ENTRY") :].splitlines() if " = " in line]
    over_the_leaf = [line for line in made if line.startswith("f64[1000]") and "parameter(" not in line]
    assert len(over_the_leaf) <= 4  # p, m, v and the average
    assert all("fusion(" in line for line in over_the_leaf)


@pytest.mark.library("torch")
def test_one_transform_steps_trees_of_several_libraries():
    """What a chain keeps between steps is not mistaken for another library's, or for another dtype's."""
    torch = pytest.importorskip("torch")
    transform = optim.chain(optim.adam(1.0), optim.clip_by_global_norm(0.5))
    ends = []
    for params in (np.ones(3), torch.ones(3, dtype=torch.float64), np.ones(3, np.float32), np.ones(3)):
        new, _ = transform.step(params, params * 1.0, transform.init(params))
        assert type(new) is type(params)
        assert new.dtype == params.dtype
        ends.append(np.asarray(new))
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[3])
    np.testing.assert_allclose(ends[0], ends[2], rtol=1e-6)


def test_saved_states_of_masks_and_gates_come_back(tmp_path):
    transform = optim.chain(
        optim.skip_nonfinite(), optim.accumulate(2), optim.masked(optim.adafactor(), {"a": True, "b": False})
    )
    params = {"a": np.ones((2, 3)), "b": np.ones(2, np.float16)}
    _, state = transform.update(
        {"a": np.ones((2, 3)), "b": np.full(2, np.nan)}, transform.init(params), params
    )
    _, state = transform.update(params, state, params)
    optim.save_state(tmp_path / "state", state)
    restored = optim.load_state(tmp_path / "state", like=transform.init(params))
    assert optree.tree_structure(restored) == optree.tree_structure(state)
    assert restored.slots[0].total_notfinite == 1
    for a, b in zip(
        *(optree.tree_leaves(transform.update(params, s, params)) for s in (state, restored)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
