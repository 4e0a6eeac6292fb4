"""focal_loss and asymmetric_loss against their exact twins, and against PyTorch, optax and the authors' formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from _exact import SHAPES, XLA_SLACK, assert_ulps, hard_targets_of, scores_of, soft_targets_of
from zlpr import reference
from zlpr.losses import asymmetric_loss, focal_loss, sigmoid_cross_entropy
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
INF = math.inf


def exact_rows(twin, scores, targets, **opts):
    rows = [
        twin(list(map(float, s)), list(map(float, t)), **opts) for s, t in zip(scores, targets, strict=True)
    ]
    return [r.value for r in rows], [r.gradient for r in rows], [r.hessian for r in rows]


def limit(xp, gamma, clip=0.0):
    """4 ulp; a power beyond 2 multiplies the error of what is raised to it, and so does one of ``p - clip``."""
    return max(4, 2 + gamma, 4 + gamma if clip else 0) + XLA_SLACK.get(xp.name, 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.0])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_focal_hard_labels(xp, shape, dtype, gamma, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    s, t = xp.asarray(scores), xp.asarray(targets)
    with xp.no_sync():
        got = focal_loss.value_and_grad(s, t, gamma=gamma, reduction="none")
    xp.assert_like(got[1], s)
    for actual, exact in zip(
        got, exact_rows(reference.focal_loss, scores, targets, gamma=gamma)[:2], strict=True
    ):
        assert_ulps(xp, actual, exact, dtype, limit(xp, gamma))


@pytest.mark.parametrize(("gamma_negative", "clip"), [(4.0, 0.05), (2.0, 0.3), (2.5, 1e-6), (4.0, 0.0)])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_asymmetric_hard_labels(xp, shape, dtype, gamma_negative, clip, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    opts = {"gamma_negative": gamma_negative, "clip": clip}
    with xp.no_sync():
        got = asymmetric_loss.value_and_grad(
            xp.asarray(scores), xp.asarray(targets), reduction="none", **opts
        )
    for actual, exact in zip(
        got, exact_rows(reference.asymmetric_loss, scores, targets, **opts)[:2], strict=True
    ):
        assert_ulps(xp, actual, exact, dtype, limit(xp, gamma_negative, clip))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("loss", "opts"),
    [
        ("focal_loss", {}),
        ("focal_loss", {"gamma": 0.5, "alpha": 0.25}),
        ("asymmetric_loss", {}),
        ("asymmetric_loss", {"gamma_positive": 0.0, "gamma_negative": 3.0, "clip": 0.2}),
    ],
)
def test_random_rows_and_their_curvature(xp, dtype, loss, opts):
    rng = np.random.default_rng(0)
    rule, twin = (
        {"focal_loss": focal_loss, "asymmetric_loss": asymmetric_loss}[loss],
        getattr(reference, loss),
    )
    scores = (rng.normal(size=(4, 200)) * np.asarray([[1.0], [3.0], [10.0], [30.0]])).astype(dtype)
    targets = rng.random(scores.shape) < 0.3
    got = rule.value_grad_hess(xp.asarray(scores), xp.asarray(targets), reduction="none", **opts)
    for actual, exact in zip(got, exact_rows(twin, scores, targets, **opts), strict=True):
        assert_ulps(xp, actual, exact, dtype, limit(xp, 4.0))


@pytest.mark.parametrize(
    ("loss", "opts"),
    [("focal_loss", {"gamma": 1.5, "alpha": 0.25}), ("asymmetric_loss", {"gamma_negative": 2.0})],
)
@given(data=st.data())
def test_soft_labels_mix_both_terms(xp, loss, opts, data):
    shape = (3, 5)
    rule, twin = (
        {"focal_loss": focal_loss, "asymmetric_loss": asymmetric_loss}[loss],
        getattr(reference, loss),
    )
    scores, targets = data.draw(scores_of(shape, "float64")), data.draw(soft_targets_of(shape, "float64"))
    got = rule.value_grad_hess(
        xp.asarray(scores), xp.asarray(targets), label_smoothing=0.1, reduction="none", **opts
    )
    values, *derivatives = exact_rows(twin, scores, targets, label_smoothing=0.1, **opts)
    assert_ulps(xp, got[0], values, "float64", 8)  # the smoothed weights are rounded too
    for actual, exact in zip(got[1:], derivatives, strict=True):
        np.testing.assert_allclose(xp.to_numpy(actual), np.asarray(exact, dtype=float), atol=1e-14)


@pytest.mark.parametrize("margin", [10.0, 40.0])
def test_saturated_rows_keep_their_digits(xp, margin):
    # (1 - p)^γ (-log p) is e^(-(γ + 1) s) to first order: 1 - p itself is 0 from 37 on.
    targets = np.arange(6)[None] < 2
    scores = np.where(targets, margin, -margin)
    value, gradient = focal_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets))
    (exact,), (slopes,), _ = exact_rows(reference.focal_loss, scores, targets)
    assert float(value) == pytest.approx(float(exact), rel=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], [float(g) for g in slopes], rtol=1e-15)


def test_gamma_0_is_sigmoid_cross_entropy(xp):
    rng = np.random.default_rng(1)
    s, y = xp.asarray(rng.normal(size=(5, 30)) * 8), xp.asarray(rng.random((5, 30)) < 0.4)
    for ours in (
        focal_loss.value_grad_hess(s, y, gamma=0.0, reduction="none"),
        asymmetric_loss.value_grad_hess(
            s, y, gamma_positive=0.0, gamma_negative=0.0, clip=0.0, reduction="none"
        ),
    ):
        for a, b in zip(ours, sigmoid_cross_entropy.value_grad_hess(s, y, reduction="none"), strict=True):
            np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=2e-15)


def test_equal_exponents_and_no_clip_are_focal_loss(xp):
    rng = np.random.default_rng(2)
    s, t = xp.asarray(rng.normal(size=(5, 30)) * 8), xp.asarray(rng.random((5, 30)))
    ours = asymmetric_loss.value_grad_hess(s, t, gamma_positive=3.0, gamma_negative=3.0, clip=0.0)
    for a, b in zip(ours, focal_loss.value_grad_hess(s, t, gamma=3.0), strict=True):
        np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=1e-15)


def test_alpha_balances_the_sides(xp):
    rng = np.random.default_rng(3)
    s, y = xp.asarray(rng.normal(size=(5, 8))), rng.random((5, 8)) < 0.4
    plain = focal_loss.value_and_grad(s, xp.asarray(y))[1]
    balanced = focal_loss.value_and_grad(s, xp.asarray(y), alpha=0.25)[1]
    weights = np.where(y, 0.25, 0.75)
    np.testing.assert_allclose(xp.to_numpy(balanced), xp.to_numpy(plain) * weights, rtol=1e-15)


@pytest.mark.library("torch")
def test_torchvision_formula_agrees():
    # torchvision.ops.sigmoid_focal_loss, for hard labels.
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    s = torch.tensor(rng.normal(size=(6, 9)) * 4, requires_grad=True)
    y = torch.tensor((rng.random((6, 9)) < 0.3).astype(float))
    p = torch.sigmoid(s)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(s, y, reduction="none")
    theirs = cross_entropy * (1 - (p * y + (1 - p) * (1 - y))) ** 2.0 * (0.25 * y + 0.75 * (1 - y))
    theirs.sum().backward()
    ours, gradient = focal_loss.value_and_grad(s.detach(), y, alpha=0.25, reduction="sum")
    assert float(ours) == pytest.approx(float(theirs.sum().detach()), rel=1e-14)
    np.testing.assert_allclose(gradient.numpy(), s.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.library("jax")
def test_optax_agrees(xp):
    optax = pytest.importorskip("optax")
    rng = np.random.default_rng(5)
    s, y = xp.asarray(rng.normal(size=(6, 9)) * 4), xp.asarray((rng.random((6, 9)) < 0.3).astype(float))
    theirs = optax.losses.sigmoid_focal_loss(s, y, alpha=0.25, gamma=1.5).sum(axis=-1)
    ours = focal_loss(s, y, alpha=0.25, gamma=1.5, reduction="none")
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-12)


def authors_asymmetric_loss(torch, s, y, gamma_positive=1.0, gamma_negative=4.0, clip=0.05, eps=1e-8):
    """The loss of Alibaba-MIIL/ASL, `AsymmetricLoss.forward`, with its gradient through the powers."""
    p = torch.sigmoid(s)
    negative = (1 - p + clip).clamp(max=1)
    loss = y * torch.log(p.clamp(min=eps)) + (1 - y) * torch.log(negative.clamp(min=eps))
    wrong = 1 - (p * y + negative * (1 - y))
    return -(loss * wrong ** (gamma_positive * y + gamma_negative * (1 - y))).sum()


@pytest.mark.library("torch")
def test_the_authors_formula_agrees_where_it_is_right():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    s = torch.tensor(rng.normal(size=(6, 9)) * 3, requires_grad=True)
    y = torch.tensor((rng.random((6, 9)) < 0.3).astype(float))
    theirs = authors_asymmetric_loss(torch, s, y)
    theirs.backward()
    ours, gradient = asymmetric_loss.value_and_grad(s.detach(), y, reduction="sum")
    assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-13)
    np.testing.assert_allclose(gradient.numpy(), s.grad.numpy(), rtol=1e-10, atol=1e-14)


@pytest.mark.library("torch")
def test_no_saturation_at_margins_of_40():
    # The authors' logarithm stops at log(1e-8), 18.4, with the gradient 0; the loss of a positive at -40 is 40.
    torch = pytest.importorskip("torch")
    s, y = torch.tensor([[-40.0]], dtype=torch.float64, requires_grad=True), torch.tensor([[1.0]])
    theirs = authors_asymmetric_loss(torch, s, y.double())
    theirs.backward()
    assert float(theirs.detach()) == pytest.approx(18.420680743952367)
    value, gradient = asymmetric_loss.value_and_grad(s.detach(), y.double())
    assert (float(value), float(gradient)) == pytest.approx((40.0, -1.0), rel=1e-15)
    assert abs(float(s.grad)) < 1e-14


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("clip", [0.05, 0.5, 0.9, 1e-6])
@pytest.mark.parametrize("gamma", [1.0, 4.0])
def test_digits_are_kept_next_to_the_clip(xp, dtype, clip, gamma):
    # p - clip cancels there: at 2^-20 above, 20 bits of it would be lost, and four times that in its fourth power.
    start = math.log(clip / (1 - clip))
    steps = np.asarray([[2.0**-23], [2.0**-22], [2.0**-20], [2.0**-12], [1e-3], [0.1], [1.0]])
    scores = (start + steps * max(1, abs(start))).astype(dtype)
    targets = np.zeros(scores.shape, dtype=bool)
    got = asymmetric_loss.value_and_grad(
        xp.asarray(scores), xp.asarray(targets), clip=clip, gamma_negative=gamma, reduction="none"
    )
    exact = exact_rows(reference.asymmetric_loss, scores, targets, clip=clip, gamma_negative=gamma)
    for actual, truth in zip(got, exact[:2], strict=True):
        assert_ulps(xp, actual, truth, dtype, limit(xp, gamma, clip))


def test_a_subnormal_step_above_the_clip_is_no_nan(xp):
    scores, targets = xp.asarray(np.asarray([[1e-310]])), xp.asarray(np.zeros((1, 1), dtype=bool))
    for part in asymmetric_loss.value_grad_hess(scores, targets, clip=0.5, gamma_negative=0.0):
        assert np.isfinite(xp.to_numpy(part)).all()


def test_negatives_below_the_clip_cost_nothing(xp):
    s, y = xp.asarray(np.asarray([[-3.0, -80.0, -2.95, -INF]])), xp.asarray(np.zeros((1, 4), dtype=bool))
    for part in asymmetric_loss.value_grad_hess(s, y, gamma_negative=0.0):  # sigmoid(-2.944) is 0.05
        np.testing.assert_array_equal(xp.to_numpy(part), np.zeros_like(xp.to_numpy(part)))


SURE_AND_WRONG = -(0.95**4) * math.log(0.05)  # the limit of m^4 (-log(1 - m)) as m goes to 0.95


@pytest.mark.parametrize(
    ("loss", "scores", "targets", "value", "gradient"),
    [  # the limits, worked out by hand
        (focal_loss, [-INF, INF], [0, 1], 0.0, [0.0, 0.0]),
        (
            focal_loss,
            [INF, 0.0],
            [0, 0],
            INF,
            [1.0, (0.5 + math.log(2)) / 4],
        ),  # σ² (σ + 2 (1 - σ) log 2) at 1/2
        (focal_loss, [-1e300], [1], 1e300, [-1.0]),
        (asymmetric_loss, [-INF, INF], [0, 1], 0.0, [0.0, 0.0]),
        (asymmetric_loss, [INF], [0], SURE_AND_WRONG, [0.0]),
        (asymmetric_loss, [1e300], [0], SURE_AND_WRONG, [0.0]),
        (asymmetric_loss, [-INF], [1], INF, [-1.0]),
    ],
)
def test_edge_cases(xp, loss, scores, targets, value, gradient):
    got, slope = loss.value_and_grad(xp.asarray(np.asarray([scores])), xp.asarray(np.asarray([targets])))
    np.testing.assert_allclose(float(got), value, rtol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(slope)[0], gradient, rtol=4e-16)


@pytest.mark.parametrize("loss", [focal_loss, asymmetric_loss])
def test_nan_masks_and_empty_rows(xp, loss):
    scores = np.asarray([[np.nan, 1.0, 2.0], [1.0, np.nan, -2.0]])
    s, y = xp.asarray(scores), xp.asarray(np.asarray([[0, 1, 0], [0, 1, 1]]))
    value, gradient = loss.value_and_grad(
        s, y, reduction="none", mask=xp.asarray(np.arange(6).reshape(2, 3) != 4)
    )
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [True, False])
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(gradient)), [[True, False, False], [False] * 3])
    assert float(xp.to_numpy(gradient)[1, 1]) == 0.0
    empty = loss.value_and_grad(s[:, :0], y[:, :0], reduction="none")
    np.testing.assert_array_equal(xp.to_numpy(empty[0]), [0.0, 0.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("loss", "twin"),
    [(focal_loss, reference.focal_loss), (asymmetric_loss, reference.asymmetric_loss)],
)
def test_half_precisions_are_rounded_once(xp, loss, twin, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(7)
    s = xp.asarray(rng.normal(size=(20, 1)) * 2, dtype)
    scores, targets = xp.to_numpy(s).astype(float), rng.random((20, 1)) < 0.5
    _, gradient = loss.value_and_grad(s, xp.asarray(targets), reduction="none")
    _, slopes, _ = exact_rows(twin, scores, targets)
    assert_ulps(xp, gradient, slopes, dtype, 0.51)


def test_options_are_checked(xp):
    s, y = xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="gamma must be a finite number that is not negative, got -1"):
        focal_loss(s, y, gamma=-1.0)
    with pytest.raises(ValueError, match=r"alpha must be None or a number in \[0, 1\], got 1.5"):
        focal_loss(s, y, alpha=1.5)
    with pytest.raises(ValueError, match=r"gamma_negative must be a finite number .* got 'four'"):
        asymmetric_loss(s, y, gamma_negative="four")
    with pytest.raises(ValueError, match=r"clip must be a number in \[0, 1\), got 1.0"):
        asymmetric_loss(s, y, clip=1.0)


def test_rule(xp):
    rng = np.random.default_rng(8)
    s, t = xp.asarray(rng.normal(size=(4, 5))), xp.asarray(rng.random((4, 5)))
    y = xp.asarray(rng.random((4, 5)) < 0.4)
    check_rule(focal_loss, s, y)
    check_rule(focal_loss, s, t, gamma=0.7, alpha=0.3, reduction="none", label_smoothing=0.1)
    check_rule(asymmetric_loss, s, y, reduction="sum")
    check_rule(asymmetric_loss, s, t, gamma_negative=1.5, clip=0.3, mask=y)


@pytest.mark.parametrize("loss", [focal_loss, asymmetric_loss])
def test_hessian_is_diagonal(xp, loss):
    rng = np.random.default_rng(9)
    scores, v, y = rng.normal(size=(3, 4)), rng.normal(size=(3, 4)), xp.asarray(rng.random((3, 4)) < 0.4)
    product = xp.to_numpy(loss.hvp(xp.asarray(scores), y, xp.asarray(v)))
    ahead, behind = (
        xp.to_numpy(loss.value_and_grad(xp.asarray(scores + h * v), y)[1]) for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(product, (ahead - behind) / 2e-5, atol=1e-10)
    curvature = loss.value_grad_hess(xp.asarray(scores), y, curvature="majorant")[2]
    np.testing.assert_allclose(xp.to_numpy(curvature), np.maximum(product / v, 0), rtol=1e-12, atol=1e-16)


@pytest.mark.library("torch")
def test_torch_second_order():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    scores, y = rng.normal(size=(3, 5)), torch.tensor(rng.random((3, 5)) < 0.4)
    scores[0, :2] = 0.0  # where the sides of the formulas meet
    s = torch.tensor(scores, requires_grad=True)
    for loss in (focal_loss, asymmetric_loss):
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(s, y), (s,))
        assert torch.autograd.gradgradcheck(lambda s, loss=loss: loss(s, y), (s,))


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(12)
    s, y = torch.tensor(rng.normal(size=(3, 5))), torch.tensor(rng.random((3, 5)) < 0.4)
    for loss in (focal_loss, asymmetric_loss):
        compiled = torch.compile(
            lambda s, y, loss=loss: loss.value_and_grad(s, y), fullgraph=True, backend="aot_eager"
        )
        torch.testing.assert_close(compiled(s, y), loss.value_and_grad(s, y))


@pytest.mark.library("jax")
def test_jax_hessian_under_jit(xp):
    import jax

    rng = np.random.default_rng(11)
    scores, y = rng.normal(size=5), xp.asarray(rng.random(5) < 0.4)
    scores[:2] = 0.0
    s = xp.asarray(scores)
    for loss in (focal_loss, asymmetric_loss):
        hessian = jax.jit(jax.hessian(lambda s, loss=loss: loss(s, y)))(s)
        np.testing.assert_allclose(hessian, np.diag(loss.value_grad_hess(s, y)[2]), atol=1e-15)
