"""Layers against their formulas in NumPy, and against differences; one seed, the same parameters everywhere."""

import numpy as np
import pytest

from zlpr.activations import gelu, relu, sigmoid, softplus, tanh
from zlpr.nn import dense, dense_parameters, sequential
from zlpr.validation import check_rule


@pytest.fixture
def layer():
    """Parameters, inputs and a cotangent of one layer, in NumPy."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(4, 3)), rng.normal(size=3)
    return weight, bias, rng.normal(size=(5, 4)), rng.normal(size=(5, 3))


def params_of(xp, *layers):
    return tuple({"weight": xp.asarray(w), "bias": xp.asarray(b)} for w, b in layers)


def assert_close(xp, actual, expected):
    # Sums of a handful of products: some eps of the largest entry.
    np.testing.assert_allclose(xp.to_numpy(actual), expected, rtol=1e-14, atol=1e-14)


def test_dense_is_an_affine_map(xp, layer):
    weight, bias, x, dy = layer
    (params,) = params_of(xp, (weight, bias))
    array = xp.asarray(x)
    with xp.no_sync():
        value, pullback = dense.vjp(params, array)
        dparams, dx = pullback(xp.asarray(dy))
    xp.assert_like(value, array)
    assert_close(xp, value, x @ weight + bias)
    assert_close(xp, dense(params, array), x @ weight + bias)
    assert set(dparams) == {"weight", "bias"}
    assert_close(xp, dparams["weight"], x.T @ dy)
    assert_close(xp, dparams["bias"], dy.sum(axis=0))
    assert_close(xp, dx, dy @ weight.T)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_rule(xp, layer, dtype):
    weight, bias, x, _ = (a.astype(dtype) for a in layer)
    (params,) = params_of(xp, (weight, bias))
    assert dense(params, xp.asarray(x)).dtype == getattr(xp, dtype)
    check_rule(dense, params, xp.asarray(x))


def test_dense_computes_no_gradient_that_is_not_wanted(xp, layer):
    weight, bias, x, dy = layer
    (params,) = params_of(xp, (weight, bias))
    _, pullback = dense.vjp(params, xp.asarray(x), argnums="x")
    assert_close(xp, pullback(xp.asarray(dy)), dy @ weight.T)
    _, pullback = dense.vjp(params, xp.asarray(x), argnums=("params",))
    (dparams,) = pullback(xp.asarray(dy))
    assert_close(xp, dparams["bias"], dy.sum(axis=0))


def test_dense_of_no_rows(xp, layer):
    weight, bias, x, _ = layer
    (params,) = params_of(xp, (weight, bias))
    value, dparams = dense.value_and_grad(params, xp.asarray(x[:0]))
    assert tuple(value.shape) == (0, 3)
    assert_close(xp, dparams["weight"], np.zeros((4, 3)))
    assert_close(xp, dparams["bias"], np.zeros(3))


@pytest.mark.parametrize("shape", [(5, 3), (4,), (2, 5, 4), ()])
def test_dense_refuses_another_width(xp, layer, shape):
    (params,) = params_of(xp, layer[:2])
    with pytest.raises(ValueError, match=r"^x must have shape \(n, 4\) for this weight, not \(") as caught:
        dense.vjp(params, xp.asarray(np.zeros(shape)))
    assert str(caught.value).endswith(str(shape))


def test_dense_refuses_what_is_no_floating_array(xp, layer):
    (params,) = params_of(xp, layer[:2])
    with pytest.raises(TypeError, match=r"^x must be an array of .*, not builtins\.list$"):
        dense.vjp(params, [[1.0, 2.0, 3.0, 4.0]])
    with pytest.raises(TypeError, match=r"^x must have a real floating dtype .*, not .*int64$"):
        dense.vjp(params, xp.asarray(np.zeros((2, 4), dtype="int64")))


@pytest.mark.library("torch", "jax", "strict", "cupy")
def test_dense_refuses_parameters_of_another_library(xp, layer):
    weight, bias, x, _ = layer
    with pytest.raises(TypeError, match=r"^weight must be a .* array like x, not a numpy array; convert"):
        dense.vjp({"weight": weight, "bias": bias}, xp.asarray(x))


@pytest.fixture
def stack():
    """Two layers, inputs and a cotangent, in NumPy."""
    rng = np.random.default_rng(1)
    layers = [(rng.normal(size=(4, 6)), rng.normal(size=6)), (rng.normal(size=(6, 2)), rng.normal(size=2))]
    return layers, rng.normal(size=(5, 4)), rng.normal(size=(5, 2))


def test_sequential_is_its_layers_one_after_the_other(xp, stack):
    ((w1, b1), (w2, b2)), x, dy = stack
    model = sequential(dense, tanh, dense)
    params = params_of(xp, *stack[0])
    value, pullback = model.vjp(params, xp.asarray(x))
    hidden = np.tanh(x @ w1 + b1)
    assert_close(xp, value, hidden @ w2 + b2)
    assert_close(xp, model(params, xp.asarray(x)), hidden @ w2 + b2)
    (first, second), dx = pullback(xp.asarray(dy))
    dhidden = dy @ w2.T * (1 - hidden**2)
    assert_close(xp, second["weight"], hidden.T @ dy)
    assert_close(xp, second["bias"], dy.sum(axis=0))
    assert_close(xp, first["weight"], x.T @ dhidden)
    assert_close(xp, first["bias"], dhidden.sum(axis=0))
    assert_close(xp, dx, dhidden @ w1.T)


LAYERS = [
    ((dense, gelu, dense), 2),
    ((dense, softplus, dense, sigmoid), 2),  # an activation last
    ((tanh, dense, gelu, dense), 2),  # an activation first
    ((sigmoid, softplus, dense, tanh, tanh), 1),
    ((dense, dense), 2),
    ((dense,), 1),
    ((softplus, tanh), 0),
]


def name_of(layers):
    return "-".join(layer.__name__ for layer in layers) if isinstance(layers, tuple) else None


@pytest.mark.parametrize(("layers", "n_layers"), LAYERS, ids=name_of)
def test_sequential_rule(xp, stack, layers, n_layers):
    check_rule(sequential(*layers), params_of(xp, *stack[0][:n_layers]), xp.asarray(stack[1]))


@pytest.mark.parametrize(("layers", "n_layers"), LAYERS, ids=name_of)
def test_sequential_gives_the_gradients_that_are_wanted(xp, stack, layers, n_layers):
    model, params, x = sequential(*layers), params_of(xp, *stack[0][:n_layers]), xp.asarray(stack[1])
    _, (dparams, dx) = model.value_and_grad(params, x, argnums=("params", "x"))
    assert len(dparams) == n_layers
    _, alone = model.value_and_grad(params, x, argnums="x")
    np.testing.assert_array_equal(xp.to_numpy(alone), xp.to_numpy(dx))
    _, alone = model.value_and_grad(params, x)
    for one, other in zip(alone, dparams, strict=True):
        for name in ("weight", "bias"):
            np.testing.assert_array_equal(xp.to_numpy(one[name]), xp.to_numpy(other[name]))


def test_sequential_in_sequential(xp, stack):
    layers, x, dy = stack
    inner, params = sequential(dense, tanh), params_of(xp, *layers)
    nested = sequential(inner, dense)
    value, pullback = nested.vjp(((params[0],), params[1]), xp.asarray(x))
    flat, flat_pullback = sequential(dense, tanh, dense).vjp(params, xp.asarray(x))
    np.testing.assert_array_equal(xp.to_numpy(value), xp.to_numpy(flat))
    (((first,), _), dx), ((flat_first, _), flat_dx) = pullback(xp.asarray(dy)), flat_pullback(xp.asarray(dy))
    np.testing.assert_array_equal(xp.to_numpy(first["weight"]), xp.to_numpy(flat_first["weight"]))
    np.testing.assert_array_equal(xp.to_numpy(dx), xp.to_numpy(flat_dx))


def test_a_stack_needs_a_layer():
    with pytest.raises(ValueError, match=r"^sequential needs at least one layer, got none$"):
        sequential()


@pytest.mark.parametrize("n_params", [0, 1, 3])
def test_a_stack_needs_the_parameters_of_its_layers(xp, stack, n_params):
    params = params_of(xp, *(stack[0] * 2)[:n_params])
    with pytest.raises(ValueError, match=rf"^params must have 2 entries, one a layer, not {n_params}$"):
        sequential(dense, relu, dense).vjp(params, xp.asarray(stack[1]))


def test_one_seed_gives_the_same_parameters_on_every_library(xp):
    rng = np.random.default_rng(7)
    draws = [rng.standard_normal(shape) / shape[0] ** 0.5 for shape in ((4, 3), (3, 2))]  # the definition
    on_numpy = [layer["weight"] for layer in dense_parameters((4, 3, 2), np.zeros(1), rng=7)]
    for weight, draw in zip(on_numpy, draws, strict=True):
        np.testing.assert_allclose(weight, draw, rtol=4e-16)
    like = xp.asarray(np.zeros(1))
    for seed in (7, np.random.default_rng(7)):
        params = dense_parameters((4, 3, 2), like, rng=seed)
        assert len(params) == 2
        for layer, weight in zip(params, on_numpy, strict=True):
            xp.assert_like(layer["weight"], like)
            xp.assert_like(layer["bias"], like)
            np.testing.assert_array_equal(xp.to_numpy(layer["weight"]), weight)
            np.testing.assert_array_equal(xp.to_numpy(layer["bias"]), np.zeros(weight.shape[1]))


def test_parameters_have_the_dtype_that_is_asked_for(xp):
    exact = dense_parameters((4, 3), xp.asarray(np.zeros(1)), rng=0)[0]["weight"]
    for dtype in xp.dtypes:
        layer = dense_parameters((4, 3), xp.asarray(np.zeros(1), dtype), rng=0)[0]
        assert layer["weight"].dtype == layer["bias"].dtype == getattr(xp, dtype)
        rounded = xp.to_numpy(xp.astype(exact, layer["weight"].dtype))
        np.testing.assert_array_equal(xp.to_numpy(layer["weight"]), rounded)


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_the_weights_have_their_variance(gain):
    (layer,) = dense_parameters((400, 100), np.zeros(1), gain=gain, rng=0)
    # 40,000 draws: the standard error of their deviation is 1 / sqrt(2 * 40000) = 0.0035 of it; this is 4 of them.
    assert layer["weight"].std() == pytest.approx(gain / 20, rel=0.014)
    assert abs(layer["weight"].mean()) <= 4 * gain / 20 / 200


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (-1, 2)])
def test_sizes_must_be_two_or_more_widths(sizes):
    with pytest.raises(ValueError, match=r"^sizes must be two or more positive widths, not \("):
        dense_parameters(sizes, np.zeros(1), rng=0)
