"""Batch normalisation against its twin, PyTorch's autograd and differences; constant columns and single rows."""

import numpy as np
import pytest
from mpmath import mp

from _exact import assert_ulps
from zlpr import reference
from zlpr.activations import tanh
from zlpr.nn import batch_norm, batch_norm_parameters, dense, sequential, with_statistics
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
VARIANTS = {
    "plain": (),
    "affine": ("scale", "shift"),
    "fixed": ("mean", "variance"),
    "affine-fixed": ("scale", "shift", "mean", "variance"),
}
variants = pytest.mark.parametrize("names", VARIANTS.values(), ids=VARIANTS)


def inputs(names, dtype="float64", offset=0.0):
    """x and a cotangent of six rows and three columns, the last one constant, and parameters."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 3)) + offset
    x[:, 2] = 0.1 + offset
    of_params = {
        "scale": rng.uniform(0.5, 2, size=3),
        "shift": rng.normal(size=3),
        "mean": rng.normal(size=3) + offset,
        "variance": rng.uniform(0.5, 2, size=3),
    }
    return (
        x.astype(dtype),
        rng.normal(size=(6, 3)).astype(dtype),
        {n: of_params[n].astype(dtype) for n in names},
    )


def on(xp, params, dtype=None):
    return {name: xp.asarray(value, dtype) for name, value in params.items()}


def assert_within(xp, actual, exact, scale, eps_count):
    """Within so many eps of a size: for differences, which may cancel."""
    values, exact = xp.to_numpy(actual), np.asarray(exact, dtype=object)
    assert values.shape == exact.shape
    error = max(abs(mp.mpf(float(v)) - e) for v, e in zip(values.ravel(), exact.ravel(), strict=True))
    assert error <= eps_count * float(np.finfo(values.dtype).eps) * scale


@variants
@pytest.mark.parametrize("dtype", WIDE)
def test_value_and_gradients_are_those_of_the_twin(xp, names, dtype):
    x, dy, params = inputs(names, dtype)
    array = xp.asarray(x)
    with xp.no_sync():
        value, pullback = batch_norm.vjp(on(xp, params), array)
        dparams, dx = pullback(xp.asarray(dy))
    xp.assert_like(value, array)
    xp.assert_like(dx, array)
    exact = reference.batch_norm(x.tolist(), dy.tolist(), {n: p.tolist() for n, p in params.items()})
    assert_ulps(xp, value, exact.value, dtype, 6)  # two centrings, a root, a quotient, a product and a sum
    assert set(dparams) == set(params)
    constant = np.sqrt(1e5)  # the factor of the constant column, by which its gradient cancels
    for j, factor in enumerate((8, 8, 8 if "mean" in params else 2 * constant)):
        assert_within(xp, dx[:, j], [row[j] for row in exact.dx], factor, 4)
    for name in params:
        assert_within(xp, dparams[name], exact.params[name], 20, 4)


@pytest.mark.parametrize(("dtype", "offset"), [("float32", 1000.0), ("float64", 1e9)])
def test_columns_far_from_zero_keep_their_digits(xp, dtype, offset):
    # The second centring takes off what the rounding of the mean left: one alone is off by half an ulp of the offset.
    x, dy, _ = inputs((), dtype, offset)
    value = batch_norm({}, xp.asarray(x))
    assert_ulps(xp, value, reference.batch_norm(x.tolist(), dy.tolist()).value, dtype, 6)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("rows", [1, 2, 7, 100])
@pytest.mark.parametrize("entry", [0.1, -3e5, 1e-30])
def test_a_constant_column_gives_the_shift_and_no_gradient(xp, dtype, rows, entry):
    x = xp.asarray(np.full((rows, 2), entry, dtype))
    shift = np.asarray([0.5, -2.0], dtype)
    params = {"scale": xp.asarray(np.asarray([3.0, 4.0], dtype)), "shift": xp.asarray(shift)}
    value, (dparams, dx) = batch_norm.value_and_grad(params, x, argnums=("params", "x"))
    np.testing.assert_array_equal(xp.to_numpy(value), np.broadcast_to(shift, (rows, 2)))
    np.testing.assert_array_equal(xp.to_numpy(batch_norm(params, x)), np.broadcast_to(shift, (rows, 2)))
    np.testing.assert_array_equal(xp.to_numpy(dparams["scale"]), [0, 0])
    np.testing.assert_allclose(xp.to_numpy(dx), 0, atol=1e-4)  # ones less their mean, times 4 / sqrt(epsilon)


@variants
@pytest.mark.parametrize("dtype", WIDE)
def test_rule(xp, names, dtype):
    x, _, params = inputs(names, dtype)
    x[:, 2] = np.asarray([1, 2, 4, 0, 3, 1])  # the spread of a constant column is no smooth function
    # Not batch_norm alone: the sum of its value does not depend on x.
    check_rule(sequential(batch_norm, tanh), (on(xp, params),), xp.asarray(x))


@pytest.mark.library("torch")
@variants
def test_gradients_are_those_of_torch_autograd(xp, names):
    torch = pytest.importorskip("torch")
    x, dy, params = inputs(names)
    ours = on(xp, params)
    leaf, theirs = torch.tensor(x, requires_grad=True), on(xp, params)
    for name in {"scale", "shift"} & set(names):
        theirs[name].requires_grad_()
    value = torch.nn.functional.batch_norm(
        leaf,
        theirs.get("mean"),
        theirs.get("variance"),
        theirs.get("scale"),
        theirs.get("shift"),
        "mean" not in names,
    )
    value.backward(torch.tensor(dy))
    found, pullback = batch_norm.vjp(ours, torch.tensor(x))
    dparams, dx = pullback(torch.tensor(dy))
    torch.testing.assert_close(found, value.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(dx, leaf.grad, rtol=1e-10, atol=1e-10)
    for name in {"scale", "shift"} & set(names):
        torch.testing.assert_close(dparams[name], theirs[name].grad, rtol=1e-10, atol=1e-10)


@pytest.mark.library("torch")
def test_second_order_under_torch(xp):
    torch = pytest.importorskip("torch")
    x = torch.tensor(inputs(())[0][:, :2], requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: batch_norm({}, z), (x,))


@variants
def test_half_precisions_are_computed_in_float32(xp, names):
    for dtype in sorted({"float16", "bfloat16"} & set(xp.dtypes)):
        x, dy, params = inputs(names, "float32")
        x[:, 2] = np.arange(6)
        half = [xp.asarray(x, dtype), xp.asarray(dy, dtype), on(xp, params, dtype)]
        value, pullback = batch_norm.vjp(half[2], half[0])
        dparams, dx = pullback(half[1])
        wide_x, wide_dy = (xp.astype(v, xp.float32) for v in half[:2])
        wide_value, wide_pullback = batch_norm.vjp(
            {name: xp.astype(p, xp.float32) for name, p in half[2].items()}, wide_x
        )
        wide_dparams, wide_dx = wide_pullback(wide_dy)
        pairs = [(value, wide_value), (dx, wide_dx), *((dparams[n], wide_dparams[n]) for n in params)]
        for narrow, wide in pairs:
            assert narrow.dtype == half[0].dtype
            np.testing.assert_array_equal(xp.to_numpy(narrow), xp.to_numpy(xp.astype(wide, half[0].dtype)))


def test_parameters_of_the_affine_map_are_neutral(xp):
    x = xp.asarray(inputs(())[0])
    params = batch_norm_parameters(3, x)
    xp.assert_like(params["scale"], x)
    np.testing.assert_array_equal(xp.to_numpy(batch_norm(params, x)), xp.to_numpy(batch_norm({}, x)))
    with pytest.raises(ValueError, match=r"^width must be positive, got 0$"):
        batch_norm_parameters(0, x)


@pytest.fixture
def stack():
    """A stack with two normalisations, one in a stack of its own, with its parameters in NumPy."""
    rng = np.random.default_rng(1)
    inner = sequential(batch_norm, tanh)
    layer = {"weight": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)}
    affine = {"scale": rng.uniform(0.5, 2, 4), "shift": rng.normal(size=4)}
    return sequential(dense, inner, batch_norm), (layer, ({},), affine)


def test_with_statistics_of_the_data_the_stack_gives_what_it_gave_on_the_data(xp, stack):
    model, (layer, _, affine) = stack
    x = xp.asarray(inputs(())[0])
    params = (on(xp, layer), ({},), on(xp, affine))
    filled = with_statistics(model, params, x)
    assert [set(part) for part in (filled[0], filled[1][0], filled[2])] == [
        {"weight", "bias"},
        {"mean", "variance"},
        {"scale", "shift", "mean", "variance"},
    ]
    hidden = xp.to_numpy(x) @ layer["weight"] + layer["bias"]
    np.testing.assert_allclose(xp.to_numpy(filled[1][0]["mean"]), hidden.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(xp.to_numpy(filled[1][0]["variance"]), hidden.var(axis=0), rtol=1e-13)
    whole = xp.to_numpy(model(params, x))
    np.testing.assert_allclose(xp.to_numpy(model(filled, x)), whole, rtol=1e-11, atol=1e-13)
    one = model(filled, x[:1, ...])  # a row alone is treated as it was among the others
    np.testing.assert_allclose(xp.to_numpy(one), whole[:1], rtol=1e-11, atol=1e-13)
    again = with_statistics(model, filled, 2 * x)
    assert not np.allclose(xp.to_numpy(again[1][0]["mean"]), xp.to_numpy(filled[1][0]["mean"]))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scale": np.ones(3)}, r"^params must have both scale and shift or neither$"),
        ({"variance": np.ones(3)}, r"^params must have both mean and variance or neither$"),
        ({"gamma": np.ones(3)}, r"^params may have scale, shift, mean, variance, not gamma$"),
        (
            {"scale": np.ones(2), "shift": np.ones(2)},
            r"^scale must have shape \(3,\) for this x, not \(2,\)$",
        ),
    ],
)
def test_parameters_that_do_not_fit_are_refused(xp, params, message):
    with pytest.raises(ValueError, match=message):
        batch_norm.vjp(on(xp, params), xp.asarray(np.zeros((2, 3))))


def test_what_cannot_be_normalised_is_refused(xp):
    with pytest.raises(ValueError, match=r"^x must have shape \(n, d\), not \(3,\)$"):
        batch_norm.vjp({}, xp.asarray(np.zeros(3)))
    with pytest.raises(ValueError, match=r"^x must have a row at least"):
        batch_norm.vjp({}, xp.asarray(np.zeros((0, 3))))
    with pytest.raises(ValueError, match=r"^x must have a row at least"):
        with_statistics(sequential(batch_norm), ({},), xp.asarray(np.zeros((0, 3))))
    with pytest.raises(ValueError, match=r"^epsilon must be positive, got 0$"):
        batch_norm.vjp({}, xp.asarray(np.zeros((2, 3))), epsilon=0)
    with pytest.raises(TypeError, match=r"^x must have a real floating dtype"):
        batch_norm.vjp({}, xp.asarray(np.zeros((2, 3), dtype="int64")))
    with pytest.raises(TypeError, match=r"^scale must be an array of"):
        batch_norm.vjp({"scale": [1.0], "shift": [1.0]}, xp.asarray(np.zeros((2, 1))))


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_it_without_parameters(xp):
    import torch

    x = xp.asarray(inputs(())[0])
    expected = batch_norm({}, x)
    compiled = torch.compile(lambda x: batch_norm({}, x), fullgraph=True, backend="aot_eager")
    np.testing.assert_allclose(xp.to_numpy(compiled(x)), xp.to_numpy(expected), rtol=1e-14)
