"""Checkpoints: bit for bit, between libraries, and honest about damage."""

from __future__ import annotations

import numpy as np
import optree
import pytest
import safetensors.numpy

from zlpr import optim


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
    with pytest.raises(ValueError, match=message):
        optim.load_state(tmp_path / "state", like)


def test_missing_file_and_bad_leaf(tmp_path):
    with pytest.raises(FileNotFoundError):
        optim.load_state(tmp_path / "nothing", {})
    with pytest.raises(TypeError, match=r"state\['w'\] must be an array"):
        optim.save_state(tmp_path / "state", {"w": "text"})
