"""Rules under PyTorch's autograd and compiler, and under JAX's transformations."""

import numpy as np
import pytest

from zlpr.activations import gelu, softplus
from zlpr.losses import sigmoid_cross_entropy, softmax_cross_entropy, zlpr_loss
from zlpr.nn import dense, sequential

pytestmark = pytest.mark.library("torch", "jax")


def inputs(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(4, 6)), rng.random((4, 6)) < 0.4, rng.random((4, 6)), rng.normal(size=4)


# ---- PyTorch ---------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def leaf(torch, values):
    return torch.tensor(values, requires_grad=True)


@pytest.mark.library("torch")
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_first_and_second_order(torch, reduction):
    scores, hard, soft, thresholds = inputs()
    y, w = torch.tensor(hard), torch.rand(4, dtype=torch.float64)
    cases = [
        (lambda s: zlpr_loss(s, y, reduction=reduction, sample_weight=w), (scores,)),
        (lambda s, t: zlpr_loss(s, t, reduction=reduction, label_smoothing=0.1), (scores, soft)),
        (lambda s, h: zlpr_loss(s, y, threshold=h, reduction=reduction), (scores, thresholds)),
        (lambda s, h: zlpr_loss(s, y, threshold=h, reduction=reduction), (scores, np.asarray(0.3))),
        (lambda s: zlpr_loss(s, y, mask=~y, axis=0, reduction=reduction), (scores,)),
        (lambda s: sigmoid_cross_entropy(s, y, reduction=reduction), (scores,)),
        (lambda s: softmax_cross_entropy(s, torch.tensor([0, 1, 2, 3]), reduction=reduction), (scores,)),
    ]
    for function, arguments in cases:
        leaves = tuple(leaf(torch, a) for a in arguments)
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.library("torch")
def test_torch_rules_with_trees_of_parameters(torch):
    rng = np.random.default_rng(1)
    weight, bias, x = (leaf(torch, rng.normal(size=n)) for n in ((6, 3), (3,), (4, 6)))
    stack = sequential(dense, gelu)
    assert torch.autograd.gradcheck(lambda w, b, x: stack(({"weight": w, "bias": b},), x), (weight, bias, x))
    assert torch.autograd.gradgradcheck(
        lambda w, b, x: stack(({"weight": w, "bias": b},), x), (weight, bias, x)
    )


@pytest.mark.library("torch")
def test_torch_hessian_product_is_the_hand_derived_one(torch):
    scores, hard, _, _ = inputs()
    s, y, v = torch.tensor(scores), torch.tensor(hard), torch.ones(4, 6, dtype=torch.float64)
    product = torch.autograd.functional.hvp(lambda s: zlpr_loss(s, y), s, v)[1]
    np.testing.assert_allclose(product, zlpr_loss.hvp(s, y, v), atol=1e-16)


@pytest.mark.library("torch")
def test_torch_penalty_on_the_gradient_reaches_the_parameters(torch):
    # A gradient that is merely saved would be constant here, and silently so.
    scores, hard, _, _ = inputs()
    s, y = leaf(torch, scores), torch.tensor(hard)
    (gradient,) = torch.autograd.grad(zlpr_loss(s, y, reduction="sum"), s, create_graph=True)
    (gradient**2).sum().backward()
    expected = 2 * zlpr_loss.hvp(s.detach(), y, gradient.detach(), reduction="sum")
    np.testing.assert_allclose(s.grad, expected, atol=1e-15)


@pytest.mark.library("torch")
def test_torch_an_argument_without_a_gradient_is_refused(torch):
    scores, hard, _, thresholds = inputs()
    with pytest.raises(TypeError, match="zlpr_loss is differentiable in scores, threshold, targets alone"):
        zlpr_loss(torch.tensor(scores), torch.tensor(hard), sample_weight=leaf(torch, thresholds))


@pytest.mark.library("torch")
def test_torch_no_graph_without_need(torch):
    scores, hard, _, _ = inputs()
    s, y = leaf(torch, scores), torch.tensor(hard)
    assert not zlpr_loss(s.detach(), y).requires_grad
    with torch.no_grad():
        assert not zlpr_loss(s, y).requires_grad
    assert zlpr_loss(s, y).requires_grad


@pytest.mark.library("torch")
@pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`"
)  # array-api-compat's, harmless
@pytest.mark.filterwarnings(
    "ignore:.*should not be instantiated:DeprecationWarning"
)  # Dynamo's own tracing does it
def test_torch_compiles_without_a_graph_break(torch):
    scores, hard, soft, _ = inputs()
    s, y = leaf(torch, scores), torch.tensor(hard)
    compiled = torch.compile(lambda s, y: zlpr_loss(s, y), fullgraph=True, backend="aot_eager")
    compiled(s, y).backward()
    np.testing.assert_allclose(s.grad, zlpr_loss.value_and_grad(s.detach(), y)[1], rtol=1e-14)
    both = torch.compile(lambda s, t: zlpr_loss.value_and_grad(s, t), fullgraph=True, backend="aot_eager")
    value, gradient = both(s.detach(), torch.tensor(soft))
    expected = zlpr_loss.value_and_grad(s.detach(), torch.tensor(soft))
    np.testing.assert_allclose(float(value), float(expected[0]), rtol=1e-14)
    np.testing.assert_allclose(gradient, expected[1], rtol=1e-12)


# ---- JAX -------------------------------------------------------------------------------------------------


@pytest.fixture
def jax():
    module = pytest.importorskip("jax")
    module.config.update("jax_enable_x64", True)
    return module


@pytest.mark.library("jax")
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_jax_forward_and_reverse_mode_to_second_order(jax, reduction):
    from jax.test_util import check_grads

    scores, hard, soft, thresholds = map(jax.numpy.asarray, inputs())

    def array(x):  # check_grads moves its points as NumPy arrays
        return jax.numpy.asarray(x)

    check_grads(lambda s: zlpr_loss(array(s), hard, reduction=reduction), (scores,), order=2)
    check_grads(lambda s, t: zlpr_loss(array(s), array(t), reduction=reduction), (scores, soft), order=2)
    check_grads(
        lambda s, h: zlpr_loss(array(s), hard, threshold=array(h), reduction=reduction),
        (scores, thresholds),
        order=2,
    )
    check_grads(lambda x: softplus(array(x)), (scores,), order=2)


@pytest.mark.library("jax")
def test_jax_jit_vmap_and_hessian(jax):
    scores, hard, *_ = map(jax.numpy.asarray, inputs())
    by_row = jax.vmap(jax.grad(lambda s, y: zlpr_loss(s, y, reduction="sum")))(scores, hard)
    np.testing.assert_allclose(
        by_row, zlpr_loss.value_and_grad(scores, hard, reduction="none")[1], atol=1e-16
    )
    hessian = jax.jit(jax.hessian(lambda s: zlpr_loss(s, hard[0], reduction="sum")))(scores[0])
    v = jax.numpy.arange(6.0)
    np.testing.assert_allclose(hessian @ v, zlpr_loss.hvp(scores[0], hard[0], v, reduction="sum"), atol=1e-15)


@pytest.mark.library("jax")
def test_jax_compiles_once_for_the_same_shapes(jax):
    scores, hard, *_ = map(jax.numpy.asarray, inputs())
    zlpr_loss.value_and_grad(scores, hard)
    with jax.log_compiles(False), jax.checking_leaks():
        before = _compilations(jax)
        for shift in range(5):
            zlpr_loss.value_and_grad(scores + shift, hard)
            zlpr_loss(scores - shift, hard)
    assert _compilations(jax) - before <= 3  # the first plain call, and the two shifts


def _compilations(jax):
    from zlpr._bridges import _jax

    return _jax._jitted.cache_info().misses + _jax._jax_function.cache_info().misses


@pytest.mark.library("jax")
def test_jax_rules_with_trees_of_parameters(jax):
    rng = np.random.default_rng(2)
    params = (
        {"weight": jax.numpy.asarray(rng.normal(size=(6, 3))), "bias": jax.numpy.asarray(rng.normal(size=3))},
    )
    x = jax.numpy.asarray(rng.normal(size=(4, 6)))
    stack = sequential(dense, gelu)
    theirs = jax.grad(lambda p: stack(p, x).sum())(params)
    ours = stack.value_and_grad(params, x)[1]
    np.testing.assert_allclose(theirs[0]["weight"], ours[0]["weight"], rtol=1e-13)
    np.testing.assert_allclose(theirs[0]["bias"], ours[0]["bias"], rtol=1e-13)


@pytest.mark.library("jax")
def test_jax_an_argument_without_a_gradient_is_refused(jax):
    # A derivative of zero would be silently wrong.
    scores, hard, soft, _ = map(jax.numpy.asarray, inputs())
    with pytest.raises(TypeError, match="zlpr_loss is differentiable in scores, threshold, targets alone"):
        jax.grad(lambda w: zlpr_loss(scores, hard, sample_weight=w))(jax.numpy.ones(4))
    with pytest.raises(TypeError, match="sigmoid_cross_entropy is differentiable in scores alone"):
        jax.jit(jax.grad(sigmoid_cross_entropy, argnums=1))(scores, soft)


@pytest.mark.library("jax")
def test_jax_inputs_may_differ_in_dtype(jax):
    jnp = jax.numpy
    scores, hard, soft, _ = map(jnp.asarray, inputs())
    wide = scores.astype(jnp.float32)
    by_scores, by_targets = jax.grad(zlpr_loss, argnums=(0, 1))(wide, soft.astype(jnp.bfloat16))
    assert (by_scores.dtype, by_targets.dtype) == (jnp.float32, jnp.bfloat16)
    by_threshold = jax.grad(lambda h: zlpr_loss(wide, hard, threshold=h))(jnp.asarray(0.3, dtype=jnp.float64))
    assert by_threshold.dtype == jnp.float64


@pytest.mark.library("jax")
def test_a_numpy_array_beside_a_jax_array_is_refused(jax):
    with pytest.raises(TypeError, match="targets must be a jax array like scores, not a numpy array"):
        zlpr_loss(jax.numpy.zeros((2, 3)), np.zeros((2, 3), dtype=bool))
