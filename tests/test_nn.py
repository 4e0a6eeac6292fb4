"""Layers against their formulas in NumPy, and against differences; one seed, the same parameters everywhere."""

import pickle

import numpy as np
import pytest

from _exact import assert_ulps
from zlpr import reference
from zlpr.activations import gelu, relu, sigmoid, softplus, tanh
from zlpr.nn import dense, dense_parameters, dropout, dropout_mask, glorot, he, mlp, sequential
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dense_is_its_twin(xp, layer, dtype):
    weight, bias, x, dy = (a.astype(dtype) for a in layer)
    params = {"weight": xp.asarray(weight), "bias": xp.asarray(bias)}
    value, pullback = dense.vjp(params, xp.asarray(x))
    dparams, dx = pullback(xp.asarray(dy))
    exact = reference.dense(x.tolist(), weight.tolist(), bias.tolist(), dy.tolist())
    for actual, truth in ((value, exact.value), (dx, exact.dx), (dparams["weight"], exact.params["weight"])):
        assert_ulps(xp, actual, truth, dtype, 16)  # five terms at most, which may cancel


@pytest.fixture
def masked():
    """An input with an infinite entry that is dropped, a mask and a cotangent, in NumPy."""
    x = np.asarray([[1.0, -2.0, np.inf], [0.3, 0.0, 5.0]])
    return (
        x,
        np.asarray([[1.25, 0.0, 0.0], [0.0, 1.25, 1.25]]),
        np.asarray([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]]),
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_multiplies_by_its_mask(xp, masked, dtype):
    x, mask, dy = (a.astype(dtype) for a in masked)
    with xp.no_sync():
        value, pullback = dropout.vjp(xp.asarray(x), xp.asarray(mask))
        dx = pullback(xp.asarray(dy))
    exact = reference.dropout(x.tolist(), mask.tolist(), dy.tolist())
    assert_ulps(xp, value, exact.value, dtype, 0.5)
    assert_ulps(xp, dx, exact.dx, dtype, 0.5)


def test_dropout_rule(xp, masked):
    _, mask, dy = masked
    x = xp.asarray(np.nan_to_num(dy))
    check_rule(dropout, x, xp.asarray(mask))
    check_rule(dropout, x)
    np.testing.assert_array_equal(xp.to_numpy(dropout(x)), xp.to_numpy(x))


def test_half_precisions_are_dropped_with_a_float32_mask(xp):
    for dtype in sorted({"float16", "bfloat16"} & set(xp.dtypes)):
        x = xp.asarray(np.full((2, 50), 3.0, "float32"), dtype)
        mask = dropout_mask((2, 50), x, rate=0.1, rng=0)
        assert mask.dtype == xp.float32
        value, slope = dropout.value_and_grad(x, mask)
        assert value.dtype == slope.dtype == x.dtype
        kept = xp.to_numpy(mask) != 0
        expected = xp.to_numpy(xp.astype(xp.asarray(np.where(kept, 3 / 0.9, 0).astype("float32")), x.dtype))
        np.testing.assert_array_equal(xp.to_numpy(value), expected)


def test_one_seed_draws_the_same_mask_on_every_library(xp):
    like = xp.asarray(np.zeros(1))
    expected = np.where(np.random.default_rng(3).random((200, 50)) >= 0.2, 1.25, 0)  # the definition
    for seed in (3, np.random.default_rng(3)):
        mask = dropout_mask((200, 50), like, rate=0.2, rng=seed)
        xp.assert_like(mask, like)
        np.testing.assert_array_equal(xp.to_numpy(mask), expected)
    # 10,000 draws: the standard error of their mean is 1.25 * 0.4 / 100 = 0.005; this is 4 of them.
    assert expected.mean() == pytest.approx(1, abs=0.02)
    assert xp.to_numpy(dropout_mask((3,), like, rate=0, rng=0)).tolist() == [1, 1, 1]


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_must_leave_something(rate):
    with pytest.raises(ValueError, match=r"^rate must be in \[0, 1\), got "):
        dropout_mask((3,), np.zeros(1), rate=rate, rng=0)


def test_a_mask_that_does_not_fit_is_refused(xp):
    x = xp.asarray(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"^mask must have the shape of x, \(2, 3\), not \(3,\)$"):
        dropout.vjp(x, xp.asarray(np.ones(3)))
    with pytest.raises(TypeError, match=r"^mask must have a real floating dtype"):
        dropout.vjp(x, xp.asarray(np.ones((2, 3), dtype="bool")))


def test_sequential_hands_masks_to_the_dropouts(xp, stack):
    ((w1, b1), (w2, b2)), x, dy = stack
    mask = np.asarray(dropout_mask((5, 6), np.zeros(1), rate=0.5, rng=0))
    inner = sequential(dense, tanh, dropout)
    model = sequential(inner, dropout, dense)
    first, second = params_of(xp, *stack[0])
    params, ones = ((first,), second), xp.asarray(np.ones((5, 6)))
    masks = ((xp.asarray(mask),), ones)
    value, pullback = model.vjp(params, xp.asarray(x), masks=masks)
    hidden = np.tanh(x @ w1 + b1)
    assert_close(xp, value, (hidden * mask) @ w2 + b2)
    assert_close(xp, model(params, xp.asarray(x), masks=masks), (hidden * mask) @ w2 + b2)
    ((dfirst,), _), dx = pullback(xp.asarray(dy))
    assert_close(xp, dfirst["weight"], x.T @ (dy @ w2.T * mask * (1 - hidden**2)))
    assert_close(xp, dx, (dy @ w2.T * mask * (1 - hidden**2)) @ w1.T)
    assert_close(xp, model(params, xp.asarray(x)), hidden @ w2 + b2)
    with pytest.raises(ValueError, match=r"^masks must have 2 entries, one a dropout, not 1$"):
        model.vjp(params, xp.asarray(x), masks=(ones,))
    check_rule(model, params, xp.asarray(x), masks=masks)


def test_mlp_is_a_stack_of_dense_layers(xp, stack):
    layers, x, dy = stack
    params = params_of(xp, *layers)
    expected, pullback = sequential(dense, tanh, dense).vjp(params, xp.asarray(x))
    value, own_pullback = mlp.vjp(params, xp.asarray(x), activation=tanh)
    np.testing.assert_array_equal(xp.to_numpy(value), xp.to_numpy(expected))
    (own, own_dx), (dparams, dx) = own_pullback(xp.asarray(dy)), pullback(xp.asarray(dy))
    np.testing.assert_array_equal(xp.to_numpy(own_dx), xp.to_numpy(dx))
    for one, other in zip(own, dparams, strict=True):
        for name in ("weight", "bias"):
            np.testing.assert_array_equal(xp.to_numpy(one[name]), xp.to_numpy(other[name]))
    single = mlp(params[:1], xp.asarray(x), activation=tanh)  # no hidden layer, no activation
    assert_close(xp, single, x @ layers[0][0] + layers[0][1])
    with pytest.raises(ValueError, match=r"^params must have an entry at least, one a dense layer$"):
        mlp.vjp((), xp.asarray(x), activation=tanh)


@pytest.mark.parametrize("kind", [tuple, list])
def test_mlp_rule(xp, stack, kind):
    layers, x, _ = stack
    check_rule(mlp, kind(params_of(xp, *layers)), xp.asarray(x), activation=gelu)


@pytest.mark.library("torch")
def test_gradients_of_an_mlp_are_those_of_torch_autograd(xp, stack):
    torch = pytest.importorskip("torch")
    ((w1, b1), (w2, b2)), x, dy = stack
    leaves = [torch.tensor(a, requires_grad=True) for a in (w1, b1, w2, b2, x)]
    hidden = torch.nn.functional.gelu(leaves[4] @ leaves[0] + leaves[1])
    (hidden @ leaves[2] + leaves[3]).backward(torch.tensor(dy))
    _, pullback = mlp.vjp(params_of(xp, *stack[0]), torch.tensor(x), activation=gelu)
    (first, second), dx = pullback(torch.tensor(dy))
    ours = (first["weight"], first["bias"], second["weight"], second["bias"], dx)
    for actual, leaf in zip(ours, leaves, strict=True):
        torch.testing.assert_close(actual, leaf.grad, rtol=1e-10, atol=1e-10)


def test_a_stack_can_be_pickled(stack):
    layers, x, _ = stack
    params = params_of(np, *layers)
    model = sequential(sequential(dense, tanh), dense)
    copy = pickle.loads(pickle.dumps(model))
    nested = ((params[0],), params[1])
    np.testing.assert_array_equal(copy(nested, x), model(nested, x))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize(("initializer", "variance"), [(he, 2 / 300), (glorot, 2 / 400)])
def test_initializers_have_their_variance_on_every_library(xp, initializer, variance, distribution):
    rng = np.random.default_rng(5)
    end = (3 * variance) ** 0.5
    if distribution == "normal":
        expected = rng.standard_normal((300, 100)) * variance**0.5
    else:
        expected = rng.uniform(-end, end, (300, 100))
    for dtype in xp.dtypes:
        like = xp.asarray(np.zeros(1), dtype)
        weight = initializer((300, 100), like, distribution=distribution, rng=5)
        assert weight.dtype == like.dtype
        rounded = xp.to_numpy(xp.astype(xp.asarray(expected), like.dtype))
        np.testing.assert_array_equal(xp.to_numpy(weight), rounded)
    # 30,000 draws: the standard error of their deviation is 1 / sqrt(2 * 30000) = 0.004 of it; this is 4 of them.
    assert expected.std() == pytest.approx(variance**0.5, rel=0.016)


def test_dense_parameters_of_an_initializer(xp):
    like = xp.asarray(np.zeros(1))
    layers = dense_parameters((4, 3, 2), like, initializer=glorot, rng=2)
    rng = np.random.default_rng(2)
    for layer, shape in zip(layers, ((4, 3), (3, 2)), strict=True):
        expected = glorot(shape, np.zeros(1), rng=rng)
        np.testing.assert_array_equal(xp.to_numpy(layer["weight"]), expected)
        np.testing.assert_array_equal(xp.to_numpy(layer["bias"]), np.zeros(shape[1]))
    with pytest.raises(
        ValueError, match=r"^gain must stay 1 where an initializer draws the weights, got 2\.0$"
    ):
        dense_parameters((4, 3), like, gain=2.0, initializer=he, rng=0)


@pytest.mark.parametrize("initializer", [he, glorot])
def test_initializers_refuse_what_they_do_not_know(initializer):
    with pytest.raises(
        ValueError, match=r"^shape must be that of a weight, two positive widths, not \(3,\)$"
    ):
        initializer((3,), np.zeros(1), rng=0)
    with pytest.raises(ValueError, match=r'^distribution must be "normal" or "uniform", not \'cauchy\'$'):
        initializer((3, 2), np.zeros(1), distribution="cauchy", rng=0)
