"""Checkpoints: bit for bit, between libraries, and honest about damage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import optree
import pytest
import safetensors
import safetensors.numpy

from zlpr import optim


class Layer(NamedTuple):
    weight: object
    bias: object


def trained(xp):
    transform = optim.chain(optim.clip_by_global_norm(1.0), optim.adaxw(0.1))
    rng = np.random.default_rng(0)
    params = {
        "layers": [(xp.asarray(rng.standard_normal((3, 4))), None), (xp.asarray(np.float32(0.3)),)],
        "empty": xp.asarray(np.ones((0, 2))),
        "b.c": xp.asarray(np.array([np.pi, -0.0, 5e-324])),
    }  # fmt: skip
    state = transform.init(params)
    grads = optree.tree_map(lambda x: x + 1.0, params)
    return transform, *transform.step(params, grads, state)


def assert_same_bits(xp, actual, expected):
    assert optree.tree_structure(actual) == optree.tree_structure(expected)
    for a, e in zip(optree.tree_leaves(actual), optree.tree_leaves(expected), strict=True):
        if isinstance(e, int):
            assert type(a) is int
            assert a == e
        else:
            xp.assert_like(a, e)
            assert a.dtype == e.dtype
            assert xp.to_numpy(a).tobytes() == xp.to_numpy(e).tobytes()


def test_comes_back_bit_for_bit(xp, tmp_path):
    transform, params, state = trained(xp)
    tree = {"params": params, "state": state}
    optim.save_state(tmp_path / "state", tree)
    like = {"params": optree.tree_map(lambda x: x * 0.0, params), "state": transform.init(params)}
    found = optim.load_state(tmp_path / "state", like)
    assert_same_bits(xp, found, tree)
    transform.step(found["params"], params, found["state"])  # what came back may be written to
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_interrupted_training_goes_on_bit_for_bit(xp, tmp_path, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(0)

    def arrays():
        values = rng.standard_normal((3, 4)), rng.standard_normal(())
        weight, scale = (xp.asarray(np.asarray(v), dtype) for v in values)
        return {"layers": [Layer(weight, None)], "scale": scale, "empty": weight[:0, ...]}

    def trained(params, state, batches):
        for grads in batches:
            params, state = optimizer.step(params, grads, state)
        return params, state

    optimizer = optim.chain(
        optim.clip_by_global_norm(1.0), optim.adaxw(optim.schedules.cosine(0.1, 8)), optim.clip_by_norm(0.5)
    )
    params, batches = arrays(), [arrays() for _ in range(6)]
    path = tmp_path / "state"
    half = trained(params, optimizer.init(params), batches[:3])
    optim.save_state(path, half)
    expected = trained(*half, batches[3:])
    like = optree.tree_map(lambda x: x * 0, params)
    found = trained(*optim.load_state(path, (like, optimizer.init(like))), batches[3:])
    assert_same_bits(xp, found, expected)


def test_every_library_writes_the_same_file(xp, tmp_path):
    # So a file from one of them loads wherever the file of another does
    _, params, state = trained(xp)
    tree = {"params": params, "state": state}
    optim.save_state(tmp_path / "here", tree)
    optim.save_state(
        tmp_path / "numpy", optree.tree_map(lambda x: x if isinstance(x, int) else xp.to_numpy(x), tree)
    )
    assert (tmp_path / "here").read_bytes() == (tmp_path / "numpy").read_bytes()


@pytest.mark.library("jax")
def test_a_state_of_torch_loads_into_jax(tmp_path):
    torch = pytest.importorskip("torch")
    import jax.numpy as jnp

    transform = optim.adamw(0.1)
    params = {
        "w": torch.asarray([0.1, -2.0], dtype=torch.float32),
        "h": torch.asarray([0.1], dtype=torch.bfloat16),
    }
    params, state = transform.step(params, optree.tree_map(torch.ones_like, params), transform.init(params))
    optim.save_state(tmp_path / "state", {"params": params, "state": state})
    theirs = {"w": jnp.zeros(2, jnp.float32), "h": jnp.zeros(1, jnp.bfloat16)}
    found = optim.load_state(tmp_path / "state", {"params": theirs, "state": transform.init(theirs)})
    mine, others = optree.tree_leaves(found), optree.tree_leaves({"params": params, "state": state})
    for a, b in zip(mine, others, strict=True):
        assert float(np.sum(a)) == float(b.sum()) if not isinstance(a, int) else a == b == 1


def test_moves_between_libraries(xp, tmp_path):
    transform, params, state = trained(xp)
    as_numpy = optree.tree_map(xp.to_numpy, params)
    optim.save_state(tmp_path / "state", state)
    middle = optim.load_state(tmp_path / "state", transform.init(as_numpy))
    assert all(isinstance(x, int | np.ndarray) for x in optree.tree_leaves(middle))
    optim.save_state(tmp_path / "state", middle)
    assert_same_bits(xp, optim.load_state(tmp_path / "state", transform.init(params)), state)


def test_bfloat16_keeps_its_bits(xp, tmp_path):
    if "bfloat16" not in xp.dtypes:
        pytest.skip(f"{xp.name} has no bfloat16")
    tree = [xp.asarray(np.array([0.1, 3e38, -0.0]), "bfloat16"), xp.asarray(np.array(0.1), "bfloat16")]
    optim.save_state(tmp_path / "state", tree)
    assert_same_bits(xp, optim.load_state(tmp_path / "state", optree.tree_map(lambda x: x * 0, tree)), tree)


@pytest.mark.library("torch")
def test_bfloat16_is_declared_to_other_readers(tmp_path):
    import safetensors.torch
    import torch

    x = torch.asarray([0.1, 3e38, -0.0], dtype=torch.bfloat16)
    optim.save_state(tmp_path / "state", {"x": x, "n": 3})
    found = safetensors.torch.load_file(tmp_path / "state")
    assert torch.equal(found["state['x']"], x)
    assert found["state['n']"].item() == 3
    header = int.from_bytes((tmp_path / "state").read_bytes()[:8], "little")
    assert header % 8 == 0  # so that a reader may map the numbers as they lie


def test_python_numbers_keep_their_types(tmp_path):
    tree = {"flag": True, "count": 3, "rate": 0.1, "scalar": np.float32(0.3), "nothing": None}
    optim.save_state(tmp_path / "state", tree)
    found = optim.load_state(tmp_path / "state", tree)
    assert {name: type(x) for name, x in found.items() if name != "scalar"} == {
        name: type(x) for name, x in tree.items() if name != "scalar"
    }
    assert found == tree


def test_count_may_be_a_number_or_an_array(tmp_path):
    path = tmp_path / "state"
    optim.save_state(path, {"count": 7})
    found = optim.load_state(path, {"count": np.zeros((), np.int32)})["count"]
    assert found == 7
    assert found.dtype == np.int32
    optim.save_state(path, {"count": 1000})
    with pytest.raises(
        ValueError, match=r"state\['count'\] must be an integer that int8 holds, but the file has 1000"
    ):
        optim.load_state(path, {"count": np.zeros((), np.int8)})


@pytest.mark.parametrize(
    ("like", "found"), [(3, "float64"), (0.5, "int64"), (True, "int64"), (3, "bfloat16")]
)
def test_a_number_is_not_read_from_another_kind(tmp_path, like, found):
    values = {"float64": 0.5, "int64": 3, "bfloat16": None}[found]
    if values is None:
        torch = pytest.importorskip("torch")
        values = torch.ones((), dtype=torch.bfloat16)
    optim.save_state(tmp_path / "state", {"n": values})
    with pytest.raises(
        ValueError, match=rf"must have the type {type(like).__name__} of like, but the file has {found}"
    ):
        optim.load_state(tmp_path / "state", {"n": like})


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 an archive", b"\x80\x04\x95 a pickle that is long enough", b"{}" * 40]
)
def test_foreign_file_is_named(tmp_path, content):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"complete safetensors file, but .*weights\.pt is not"):
        optim.load_state(path, {"w": np.ones(2)})


def test_file_with_dtypes_of_its_own(tmp_path):
    header = b'{"state[\'w\']":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}'
    (tmp_path / "state").write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(ValueError, match="the dtype float64 of like, but the file has F8_E4M3"):
        optim.load_state(tmp_path / "state", {"w": np.ones(2)})


def test_strided_arrays_are_saved_in_order(tmp_path):
    x = np.arange(12.0).reshape(3, 4)
    optim.save_state(tmp_path / "state", {"x": x.T, "y": x[::2, ::-1]})
    found = optim.load_state(tmp_path / "state", {"x": x.T.copy(), "y": x[::2].copy()})
    np.testing.assert_array_equal(found["x"], x.T)
    np.testing.assert_array_equal(found["y"], x[::2, ::-1])


def test_traced_count_comes_back_as_int(tmp_path):
    transform, params = optim.adam(0.1), np.ones(2)
    state = transform.init(params)
    optim.save_state(tmp_path / "state", state._replace(count=np.asarray(7, np.int32)))
    assert optim.load_state(tmp_path / "state", state).count == 7


def test_file_is_readable_without_us(tmp_path):
    optim.save_state(tmp_path / "state", {"w": np.ones(2, np.float32), "t": 3})
    found = safetensors.numpy.load_file(tmp_path / "state")
    assert set(found) == {"state['w']", "state['t']"}
    np.testing.assert_array_equal(found["state['w']"], np.ones(2, np.float32))


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "state"
    optim.save_state(path, {"w": np.ones(100)})
    content = path.read_bytes()
    for length in (0, 5, 20, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="complete safetensors file"):
            optim.load_state(path, {"w": np.ones(100)})


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state"
    optim.save_state(path, {"w": np.ones(2)})

    def full_disk(descriptor):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        optim.save_state(path, {"w": np.zeros(2)})
    assert [p.name for p in tmp_path.iterdir()] == ["state"]
    np.testing.assert_array_equal(optim.load_state(path, {"w": np.zeros(2)})["w"], np.ones(2))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"w": np.ones(3)}, r"state\['w'\] must have the shape \(3,\) of like, but the file has \(2,\)"),
        (
            {"w": np.ones(2, np.float32)},
            r"state\['w'\] must have the dtype float32 of like, but the file has float64",
        ),
        ({"v": np.ones(2)}, r"lacks \[.state\['v'\].\] and adds \[.state\['w'\].\]"),
    ],
)
def test_other_tree_is_named(tmp_path, like, message):
    optim.save_state(tmp_path / "state", {"w": np.ones(2)})
    with pytest.raises(ValueError, match=message) as caught:
        optim.load_state(tmp_path / "state", like)
    assert str(tmp_path / "state") in str(caught.value)


def test_missing_file_and_bad_leaf(tmp_path):
    with pytest.raises(FileNotFoundError):
        optim.load_state(tmp_path / "nothing", {})
    with pytest.raises(TypeError, match=r"state\['w'\] must be an array"):
        optim.save_state(tmp_path / "state", {"w": "text"})
