"""gaussian_kl and gaussian_nll against their exact twins, PyTorch's own losses and SciPy's densities."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import SHAPES, XLA_SLACK, assert_ulps, scores_of
from zlpr import reference
from zlpr.losses import gaussian_kl, gaussian_nll
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
TWINS = {gaussian_kl: reference.gaussian_kl, gaussian_nll: reference.gaussian_nll}
EACH = pytest.mark.parametrize("loss", TWINS, ids=lambda loss: loss.__name__)
INF = math.inf


def exact_rows(loss, *arrays, **opts):
    """Values, a list of gradients an array, and the Hessian diagonal, row by row."""
    rows = [TWINS[loss](*(list(map(float, x)) for x in row), **opts) for row in zip(*arrays, strict=True)]
    return (
        [r.value for r in rows],
        *([r.gradients[n] for r in rows] for n in loss.wrt),
        [r.hessian for r in rows],
    )


def value_and_gradients(loss, *arrays, **opts):
    value, gradients = loss.value_and_grad(*arrays, argnums=tuple(range(len(arrays))), **opts)
    return value, *gradients


def normal(rng, loss, shape, scale=1.0):
    return [rng.normal(size=shape) * scale for _ in loss.wrt]


def log_variances_of(shape, dtype):
    """Near 0, everyday and large ones; their exponentials are finite."""
    elements = st.one_of(
        st.floats(-4, 4, width=16), st.sampled_from([0.0, 1e-7, -1e-4, 0.999, -1.0, 80.0, -80.0])
    )
    return hnp.arrays(np.float64, shape, elements=elements).map(lambda a: a.astype(dtype))


def with_largest_term(values, x, mean, log_variance):
    """Rows of the value and of the largest term of its sum: the error is measured in units of the larger one."""
    terms = np.stack([np.abs(log_variance), np.full_like(x, 2.0), (x - mean) ** 2 / np.exp(log_variance)])
    largest = terms.max(axis=(0, 2), initial=0.0) / 2
    return np.stack([np.asarray(values), largest], axis=-1), largest


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_kl(xp, shape, dtype, data):
    mean, log_variance = data.draw(scores_of(shape, dtype)), data.draw(log_variances_of(shape, dtype))
    with xp.no_sync():
        got = value_and_gradients(gaussian_kl, xp.asarray(mean), xp.asarray(log_variance), reduction="none")
    for actual, exact in zip(got, exact_rows(gaussian_kl, mean, log_variance), strict=False):
        xp.assert_like(actual, xp.asarray(mean))
        assert_ulps(xp, actual, exact, dtype, 4 + XLA_SLACK.get(xp.name, 0))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_nll(xp, shape, dtype, data):
    x, mean = (
        data.draw(hnp.arrays(np.float64, shape, elements=st.floats(-8, 8, width=16))) for _ in range(2)
    )
    x, mean, log_variance = x.astype(dtype), mean.astype(dtype), data.draw(log_variances_of(shape, dtype))
    with xp.no_sync():
        got = value_and_gradients(gaussian_nll, *map(xp.asarray, (x, mean, log_variance)), reduction="none")
    value, of_x, of_mean, of_log_variance, _ = exact_rows(gaussian_nll, x, mean, log_variance)
    bound = 4 + XLA_SLACK.get(xp.name, 0)
    for actual, exact in zip(got[1:3], (of_x, of_mean), strict=True):
        assert_ulps(xp, actual, exact, dtype, bound)
    wide = [a.astype(np.float64) for a in (x, mean, log_variance)]
    actual, scale = with_largest_term(xp.to_numpy(got[0]), *wide)
    assert_ulps(xp, xp.asarray(actual.astype(dtype)), _beside(value, scale.astype(dtype)), dtype, bound)
    # (1 - z²) / 2 is a difference of two terms as well
    scale = np.maximum(np.max((wide[0] - wide[1]) ** 2 / np.exp(wide[2]), axis=1), 1).astype(dtype) / 2
    actual = np.concatenate([xp.to_numpy(got[3]), scale[:, None]], axis=1)
    exact = [[*row, float(s)] for row, s in zip(of_log_variance, scale, strict=True)]
    assert_ulps(xp, xp.asarray(actual), exact, dtype, bound)


def _beside(values, scale):
    return [[value, float(s)] for value, s in zip(values, scale, strict=True)]


@EACH
@pytest.mark.parametrize("dtype", WIDE)
def test_random_rows_and_their_curvature(xp, loss, dtype):
    arrays = [a.astype(dtype) for a in normal(np.random.default_rng(0), loss, (4, 200), 2.0)]
    values, *gradients, hessian = exact_rows(loss, *arrays)
    arrays = [xp.asarray(a) for a in arrays]
    got = value_and_gradients(loss, *arrays, reduction="none")
    second = loss.value_grad_hess(*arrays, reduction="none")
    truth = (values, *gradients, values, gradients[0], hessian)
    for actual, exact in zip((*got, *second), truth, strict=True):
        assert_ulps(xp, actual, exact, dtype, 4 + XLA_SLACK.get(xp.name, 0))
    majorant = loss.value_grad_hess(*arrays, curvature="majorant", reduction="none")[2]
    np.testing.assert_array_equal(xp.to_numpy(majorant), xp.to_numpy(second[2]))  # convex in the first array


@pytest.mark.parametrize("dtype", WIDE)
def test_kl_keeps_its_digits_near_log_variance_0(xp, dtype):
    # Each is a row of its own; 1 is where the series ends.
    sizes = [1e-30, 1e-7, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.999, 1.0, 1.001, 2.0, 10.0]
    log_variance = np.asarray([*sizes, *(-s for s in sizes)])[:, None].astype(dtype)
    mean = np.zeros_like(log_variance)
    got = value_and_gradients(gaussian_kl, xp.asarray(mean), xp.asarray(log_variance), reduction="none")
    value, of_mean, of_log_variance, _ = exact_rows(gaussian_kl, mean, log_variance)
    exact = (np.asarray(value)[:, None], of_mean, of_log_variance)
    for actual, truth in zip((got[0][:, None], *got[1:]), exact, strict=True):
        assert_ulps(xp, actual, truth, dtype, 4 + XLA_SLACK.get(xp.name, 0))


@pytest.mark.library("torch")
def test_the_textbook_form_is_0_where_kl_is_not():
    # The line of the usual VAE, in float32 at log-variance 1e-4: 0 where 2.5000833e-9 is right.
    torch = pytest.importorskip("torch")
    mean, log_variance = torch.zeros((1, 1)), torch.full((1, 1), 1e-4)
    assert float(-0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()) == 0.0
    assert float(gaussian_kl(mean, log_variance)) == pytest.approx(2.5000833e-9, rel=1e-6)


@EACH
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_rounded_once(xp, loss, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    arrays = [xp.asarray(a, dtype) for a in normal(np.random.default_rng(7), loss, (20, 1))]
    _, *got = value_and_gradients(loss, *arrays, reduction="none")
    exact = exact_rows(loss, *(xp.to_numpy(a).astype(float) for a in arrays))
    for actual, truth in zip(got, exact[1:-1], strict=True):
        assert_ulps(xp, actual, truth, dtype, 0.51)


@pytest.mark.parametrize(
    ("loss", "arrays", "value", "gradients"),
    [  # the limits, worked out by hand
        (gaussian_kl, (0.0, 0.0), 0.0, (0.0, 0.0)),
        (gaussian_kl, (0.0, -INF), INF, (0.0, -0.5)),
        (gaussian_kl, (0.0, INF), INF, (0.0, INF)),
        (gaussian_kl, (-INF, 0.0), INF, (-INF, 0.0)),
        (gaussian_nll, (1.0, 1.0, 0.0), 0.5 * math.log(2 * math.pi), (0.0, 0.0, 0.5)),
        (gaussian_nll, (1.0, 1.0, -INF), -INF, (0.0, 0.0, 0.5)),
        (gaussian_nll, (1.0, 0.0, -INF), INF, (INF, -INF, -INF)),
        (gaussian_nll, (1.0, 0.0, INF), INF, (0.0, 0.0, 0.5)),
        (gaussian_nll, (INF, 0.0, 0.0), INF, (INF, -INF, -INF)),
        (
            gaussian_nll,
            (1e-300, 0.0, -1000.0),
            0.5 * math.log(2 * math.pi) - 500.0,
            None,
        ),  # e^1000 alone overflows
    ],
)
def test_edge_cases(xp, loss, arrays, value, gradients):
    got = value_and_gradients(loss, *(xp.asarray(np.asarray([[a]])) for a in arrays))
    np.testing.assert_allclose(float(got[0]), value, rtol=1e-15)
    if gradients is None:
        gradients = [g[0][0] for g in exact_rows(loss, *([[a]] for a in arrays))[1:-1]]
        gradients = [float(g) for g in gradients]
    found = [float(xp.to_numpy(g)[0, 0]) for g in got[1:]]
    np.testing.assert_allclose(found, gradients, rtol=1e-15)


@EACH
def test_nan_masks_and_empty_rows(xp, loss):
    arrays = normal(np.random.default_rng(3), loss, (2, 3))
    for a in arrays:
        a[0, 0] = a[1, 1] = np.nan
    mask = np.arange(6).reshape(2, 3) != 4
    value, *gradients = value_and_gradients(
        loss, *map(xp.asarray, arrays), reduction="none", mask=xp.asarray(mask)
    )
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False])
    for gradient in map(xp.to_numpy, gradients):
        np.testing.assert_array_equal(np.isnan(gradient), [[True, False, False], [False] * 3])
        assert gradient[1, 1] == 0.0
    exact = exact_rows(loss, *(a[1:, [0, 2]] for a in arrays))[0][0]
    assert float(xp.to_numpy(value)[1]) == pytest.approx(float(exact), rel=1e-14)
    empty = value_and_gradients(loss, *(xp.asarray(a[:, :0]) for a in arrays), reduction="none")
    np.testing.assert_array_equal(xp.to_numpy(empty[0]), [0.0, 0.0])


def test_arrays_must_fit(xp):
    x = xp.asarray(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"log_variance must have the shape of mean, \(2, 3\), not \(2,\)"):
        gaussian_kl(x, xp.asarray(np.zeros(2)))
    with pytest.raises(TypeError, match="mean must have a real floating dtype"):
        gaussian_nll(x, xp.asarray(np.zeros((2, 3), dtype=int)), x)


@EACH
def test_rule(xp, loss):
    rng = np.random.default_rng(8)
    arrays = [xp.asarray(a) for a in normal(rng, loss, (4, 5))]
    weight, mask = xp.asarray(rng.random(4)), xp.asarray(rng.random((4, 5)) < 0.7)
    check_rule(loss, *arrays)
    check_rule(loss, *arrays, reduction="none", mask=mask, axis=0)
    check_rule(loss, *arrays, reduction="sum", sample_weight=weight)


@EACH
def test_hessian_is_diagonal(xp, loss):
    rng = np.random.default_rng(9)
    first, *rest = normal(rng, loss, (3, 4))
    v, others = rng.normal(size=(3, 4)), [xp.asarray(a) for a in rest]
    product = xp.to_numpy(loss.hvp(xp.asarray(first), *others, xp.asarray(v)))
    ahead, behind = (
        xp.to_numpy(loss.value_and_grad(xp.asarray(first + h * v), *others)[1]) for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(product, (ahead - behind) / 2e-5, atol=1e-9)


@pytest.mark.library("torch")
def test_torch_kl_agrees():
    torch = pytest.importorskip("torch")
    from torch.distributions import Normal, kl_divergence

    rng = np.random.default_rng(13)
    arrays = [torch.tensor(a, requires_grad=True) for a in normal(rng, gaussian_kl, (4, 6))]
    mean, log_variance = arrays
    standard = Normal(torch.zeros(4, 6, dtype=mean.dtype), torch.ones(4, 6, dtype=mean.dtype))
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), standard).sum(-1).mean()
    gradients = torch.autograd.grad(theirs, arrays)
    ours = value_and_gradients(gaussian_kl, *(a.detach() for a in arrays))
    torch.testing.assert_close(ours, (theirs.detach(), *gradients), rtol=1e-12, atol=1e-14)


@pytest.mark.library("torch")
def test_torch_nll_agrees():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(14)
    arrays = [torch.tensor(a, requires_grad=True) for a in normal(rng, gaussian_nll, (4, 6))]
    x, mean, log_variance = arrays
    full = torch.nn.GaussianNLLLoss(full=True, reduction="none")
    theirs = full(mean, x, log_variance.exp()).sum(-1).mean()
    gradients = torch.autograd.grad(theirs, (x, mean))
    ours = value_and_gradients(gaussian_nll, *(a.detach() for a in arrays))
    torch.testing.assert_close(ours[:3], (theirs.detach(), *gradients), rtol=1e-12, atol=1e-14)


def test_scipy_density_agrees():
    stats = pytest.importorskip("scipy.stats")
    x, mean, log_variance = normal(np.random.default_rng(15), gaussian_nll, (4, 6))
    theirs = -stats.norm.logpdf(x, mean, np.exp(0.5 * log_variance)).sum(-1)
    np.testing.assert_allclose(gaussian_nll(x, mean, log_variance, reduction="none"), theirs, rtol=1e-14)


def test_kl_is_the_expected_difference_of_two_nlls():
    # E log(q / p) over x ~ q by Gauss-Hermite quadrature, exact for the quadratic in x.
    mean, log_variance = normal(np.random.default_rng(16), gaussian_kl, (1, 3))
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    zeros, total = np.zeros((1, 3)), 0.0
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        x = mean + np.exp(0.5 * log_variance) * node
        total += weight * (gaussian_nll(x, zeros, zeros) - gaussian_nll(x, mean, log_variance))
    assert total == pytest.approx(gaussian_kl(mean, log_variance), rel=1e-13)


@EACH
@pytest.mark.library("torch")
def test_torch_second_order(loss):
    torch = pytest.importorskip("torch")
    arrays = normal(np.random.default_rng(10), loss, (2, 4))
    arrays[0][:, 0], arrays[-1][:, 0] = arrays[-2][:, 0], 0.0  # no error and log-variance 0
    tensors = tuple(torch.tensor(a, requires_grad=True) for a in arrays)
    assert torch.autograd.gradcheck(lambda *a: loss(*a), tensors)
    assert torch.autograd.gradgradcheck(lambda *a: loss(*a), tensors)


@EACH
@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break(loss):
    torch = pytest.importorskip("torch")
    arrays = [torch.tensor(a) for a in normal(np.random.default_rng(12), loss, (3, 5))]

    def all_of_it(*arrays):
        return value_and_gradients(loss, *arrays)

    compiled = torch.compile(all_of_it, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*arrays), all_of_it(*arrays))


@EACH
@pytest.mark.library("jax")
def test_jax_hessian_under_jit(xp, loss):
    import jax

    first, *rest = (xp.asarray(a) for a in normal(np.random.default_rng(11), loss, 5))
    hessian = jax.jit(jax.hessian(lambda first: loss(first, *rest)))(first)
    np.testing.assert_allclose(hessian, np.diag(loss.value_grad_hess(first, *rest)[2]), atol=1e-15)


@pytest.mark.parametrize("log_variance", [3e38, 100.0])
def test_errors_that_overflow(xp, log_variance):
    # 6 10^38 is beyond float32; what it is over the variance is not.
    numbers = [np.asarray([[n]], dtype="float32") for n in (3e38, -3e38, log_variance)]
    value, slopes = gaussian_nll.value_and_grad(*map(xp.asarray, numbers), argnums=(0, 1), reduction="none")
    exact = reference.gaussian_nll(*([float(n[0, 0])] for n in numbers))
    if exact.value > float(np.finfo("float32").max):
        assert float(value[0]) == math.inf
    else:
        assert_ulps(xp, value, [exact.value], "float32", 4)
    for slope, name in zip(slopes, ("x", "mean"), strict=True):
        assert_ulps(xp, slope, [exact.gradients[name]], "float32", 4 + XLA_SLACK.get(xp.name, 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_series_reaches_to_where_the_difference_has_digits(xp, dtype):
    # One dimension and no mean: e^l - 1 - l alone, whose difference in float32 is more than 4 ulp off just above 0.3.
    log_variance = np.linspace(-1.2, 1.2, 481).astype(dtype)[:, None]
    zero = xp.asarray(np.zeros_like(log_variance))
    value = gaussian_kl(zero, xp.asarray(log_variance), reduction="none")
    exact = [reference.gaussian_kl([0.0], [float(x)]).value for x in log_variance[:, 0]]
    assert_ulps(xp, value, exact, dtype, 4 + XLA_SLACK.get(xp.name, 0))


def test_the_twin_keeps_the_digits_of_tiny_numbers():
    # The square of 6e-44 is 1e-87 of the 1 that is taken off beside it; of 1e-150 in the log-variance, a half is left.
    assert float(reference.gaussian_kl([6e-44], [0.0]).value) == pytest.approx(1.8e-87, rel=1e-14)
    assert float(reference.gaussian_kl([0.0], [1e-150]).value) == pytest.approx(2.5e-301, rel=1e-14)
