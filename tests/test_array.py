"""The one file that asks whose an array is: names, places, dtypes, checks at the boundary, ways to NumPy."""

import array_api_compat
import numpy as np
import pytest

from zlpr import _array

NAMES = {"strict": "array_api_strict"}  # the others are called as in the tests
PLACES = {"numpy": "host", "torch": "host", "jax": "traced", "strict": "device", "cupy": "device"}
OTHERS = pytest.mark.library("torch", "jax", "strict", "cupy")


def test_each_array_knows_its_library(xp):
    x = xp.asarray(np.zeros(2))
    assert _array.is_array(x)
    assert _array.namespace(x) is xp.namespace
    assert _array.library(x) == NAMES.get(xp.name, xp.name)
    assert _array.place(x) == PLACES[xp.name]
    assert _array.device(x) == array_api_compat.device(x)


def test_what_is_no_array():
    class Duck:
        shape, dtype = (2,), np.dtype(float)

    for x in (1.0, [1.0], None, "x", Duck()):
        assert not _array.is_array(x)


def test_numpy_scalars_are_no_arrays_whatever_came_before():
    # Their type may have been asked for its namespace, as an intermediate result.
    x = np.float64(1.0)
    assert _array.namespace(x) is np
    assert _array.library(x) == "numpy"
    assert _array.place(x) == "host"
    assert not _array.is_array(x)
    _array.require_array("x", x)  # but they will do for an argument: NumPy makes one of every 0-d result


def test_a_subclass_of_numpy_arrays_is_numpys():
    class Mine(np.ndarray):
        pass

    x = np.zeros(3).view(Mine)
    assert _array.is_array(x)
    assert _array.namespace(x) is np
    assert _array.library(x) == "numpy"
    assert _array.place(x) == "host"


@pytest.mark.library("torch")
def test_torch_is_traced_where_a_graph_is_recorded(xp, monkeypatch):
    import torch

    x = torch.zeros(2, requires_grad=True)
    assert _array.place(x) == "traced"
    with torch.no_grad():
        assert _array.place(x) == "host"
        assert _array.place(torch.nn.Parameter(torch.zeros(2))) == "host"
    assert _array.place(torch.zeros(2)) == "host"
    assert _array.place(torch.zeros(2, device="meta")) == "device"
    assert _array.place(torch.zeros(2).as_subclass(type("Wrapped", (torch.Tensor,), {}))) == "device"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert _array.place(torch.zeros(2)) == "traced"


@pytest.mark.library("jax")
def test_a_tracer_is_an_array_of_jax(xp):
    import jax

    seen = []
    jax.jit(lambda x: seen.append((_array.is_array(x), _array.library(x), _array.place(x))) or x)(
        xp.asarray(np.ones(2))
    )
    assert seen == [(True, "jax", "traced")]


def test_kinds_of_dtypes(xp):
    kinds = {
        "bool": "bool",
        "int8": "integral",
        "int64": "integral",
        "uint8": "integral",
        "complex64": "other",
    }
    for dtype, kind in kinds.items():
        x = xp.asarray(np.zeros(2, dtype=dtype))
        assert _array.kind(x) == kind
        assert not _array.is_half(x)
        with pytest.raises(TypeError, match=rf"^grads must have a real floating dtype .*, not .*{dtype}"):
            _array.require_real_floating("grads", x)


def test_floating_dtypes(xp):
    sizes = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
    for dtype in xp.dtypes:
        x = xp.asarray(np.zeros(2), dtype)
        assert _array.kind(x) == "floating"
        assert _array.itemsize(x) == sizes[dtype]
        assert _array.is_half(x) == (sizes[dtype] == 2)
        assert _array.compute_dtype(x) == (xp.float32 if sizes[dtype] == 2 else x.dtype)
        _array.require_real_floating("x", x)


@pytest.mark.parametrize(
    ("x", "kind"), [([1.0], "builtins.list"), (None, "builtins.NoneType"), (1.5, "builtins.float")]
)
def test_require_array_names_the_argument_and_what_came(x, kind):
    with pytest.raises(TypeError) as caught:
        _array.require_array("scores", x)
    expected = "scores must be an array of NumPy, CuPy, PyTorch, JAX or another array API library, not "
    assert str(caught.value) == expected + kind


def test_require_array_takes_arrays(xp):
    _array.require_array("x", xp.asarray(np.zeros(())))


def test_arrays_of_one_home_go_together(xp):
    _array.require_same_home("x", xp.asarray(np.zeros(2)), "y", xp.asarray(np.zeros(3, dtype="int64")))


@OTHERS
def test_two_libraries_do_not_mix(xp):
    mine, numpys, name = xp.asarray(np.zeros(2)), np.zeros(2), NAMES.get(xp.name, xp.name)
    for first, second, wanted, came in ((mine, numpys, name, "numpy"), (numpys, mine, "numpy", name)):
        with pytest.raises(TypeError) as caught:
            _array.require_same_home("scores", first, "targets", second)
        assert str(caught.value) == (
            f"targets must be a {wanted} array like scores, not a {came} array; convert one of them first"
        )


def test_the_second_of_two_homes_must_be_an_array(xp):
    with pytest.raises(TypeError, match=r"^targets must be an array of .*, not builtins\.list$"):
        _array.require_same_home("scores", xp.asarray(np.zeros(2)), "targets", [0.0, 1.0])


@pytest.mark.library("strict", "torch")
def test_two_devices_do_not_mix(xp):
    # The second device of array-api-strict, and PyTorch's device without memory.
    elsewhere = xp.Device("CPU_DEVICE") if xp.name == "strict" else "meta"
    x, y = xp.asarray(np.zeros(2)), xp.zeros(2, device=elsewhere)
    with pytest.raises(
        ValueError, match=r"^targets must be on the device of scores \(.*\), but it is on "
    ) as caught:
        _array.require_same_home("scores", x, "targets", y)
    assert str(x.device) in str(caught.value)
    assert str(caught.value).endswith(str(elsewhere))


def test_host_view_shares_the_memory_of_host_arrays(xp):
    x = xp.asarray(np.asarray([1.0, 2.0]))
    if PLACES[xp.name] == "host":
        view = _array.host_view("X", x)
        view[0] = 5.0
        np.testing.assert_array_equal(xp.to_numpy(x), [5.0, 2.0])
    else:
        name = NAMES.get(xp.name, xp.name)
        with pytest.raises(TypeError, match=rf"^X must live in host memory, not in a {name} array on "):
            _array.host_view("X", x)


@pytest.mark.library("torch")
def test_host_view_looks_through_a_graph(xp):
    view = _array.host_view("X", xp.asarray(np.asarray([1.0])).requires_grad_(True))
    np.testing.assert_array_equal(view, [1.0])


@pytest.mark.parametrize("dtype", ["bool", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3)])
def test_to_numpy_and_back(xp, dtype, shape):
    values = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    x = xp.asarray(values)
    host = _array.to_numpy(x)
    assert type(host) is np.ndarray
    assert host.dtype == values.dtype
    np.testing.assert_array_equal(host, values, strict=True)
    back = _array.from_numpy(host, like=xp.asarray(np.zeros(1, dtype="float32")))
    xp.assert_like(back, x)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(xp.to_numpy(back), values)


def test_to_numpy_of_half_precisions(xp):
    for dtype in sorted({"float16", "bfloat16"} & set(xp.dtypes)):
        host = _array.to_numpy(xp.asarray(np.asarray([0.5, -1.25]), dtype))
        np.testing.assert_array_equal(np.asarray(host, dtype=np.float64), [0.5, -1.25])


@pytest.mark.library("torch")
def test_to_numpy_looks_through_a_graph(xp):
    np.testing.assert_array_equal(_array.to_numpy(xp.asarray(np.ones(2)).requires_grad_(True)), [1.0, 1.0])


def test_to_numpy_of_numpy_copies_nothing():
    x = np.zeros(2)
    assert _array.to_numpy(x) is x
    assert _array.from_numpy(x, like=np.zeros(1)) is x


@OTHERS
def test_read_only_values_are_copied(xp):
    # PyTorch warns of sharing memory it must not write to, and warnings are errors here.
    values = np.asarray([1.0, 2.0])
    values.flags.writeable = False
    x = _array.from_numpy(values, like=xp.asarray(np.zeros(1)))
    if xp.name != "jax":  # whose arrays cannot be written to
        x[0] = 9.0
    np.testing.assert_array_equal(values, [1.0, 2.0])
    np.testing.assert_array_equal(xp.to_numpy(x)[1:], [2.0])


def test_detached_is_a_constant_of_the_same_values(xp):
    x = xp.asarray(np.asarray([1.0, 2.0]))
    found = _array.detached(x)
    xp.assert_like(found, x)
    np.testing.assert_array_equal(xp.to_numpy(found), [1.0, 2.0])


@pytest.mark.library("torch")
def test_detached_leaves_the_graph(xp):
    assert not _array.detached(xp.asarray(np.asarray([1.0])).requires_grad_(True) * 2).requires_grad


@pytest.mark.library("jax")
def test_detached_has_no_derivative(xp):
    import jax

    slope = jax.grad(lambda v: (v * _array.detached(v)).sum())(xp.asarray(np.asarray([3.0])))
    np.testing.assert_array_equal(slope, [3.0])
