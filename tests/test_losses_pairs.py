"""lsep_loss and circle_loss against their exact twins, written-out pairs, softmax and the published formula."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import SHAPES, XLA_SLACK, assert_ulps, hard_targets_of, scores_of, soft_targets_of
from zlpr import reference
from zlpr.losses import circle_loss, lsep_loss, softmax_cross_entropy, zlpr_loss
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
INF = math.inf
CIRCLES = [
    {},
    {"margin": 0.3, "scale": 80.1, "detach_weights": False},  # neither has an end in binary digits
    {"margin": -0.1, "scale": 0.7, "detach_weights": True},
    {"weighting": "unified", "margin": 0.1, "scale": 30.3},
]
TWINS = {lsep_loss: reference.lsep_loss, circle_loss: reference.circle_loss}


def exact_rows(loss, scores, targets, **opts):
    rows = [
        TWINS[loss](list(map(float, s)), list(map(float, t)), **opts)
        for s, t in zip(scores, targets, strict=True)
    ]
    return [r.value for r in rows], [r.gradient for r in rows], [r.hessian for r in rows]


def similarities_of(shape, dtype):
    """Cosine similarities, their ends and zeros of the weights, ties, and scores far beyond."""
    cosine = st.floats(-1, 1, width=16)
    special = st.sampled_from([0.0, 1.0, -1.0, 0.25, 0.75, -0.25, 1.25, 0.3, 0.7, -0.3, 1.3])
    large = st.floats(-2e3, 2e3, width=32)
    elements = st.one_of(cosine, cosine, special, large)
    return hnp.arrays(np.float64, shape, elements=elements).map(lambda a: a.astype(dtype))


def assert_value_and_gradient(xp, loss, scores, targets, dtype, **opts):
    s = xp.asarray(scores)
    with xp.no_sync():
        got = loss.value_and_grad(s, xp.asarray(targets), reduction="none", **opts)
    xp.assert_like(got[1], s)
    # Circle: a weight, its scale and what rounding took off the exponent are three more rounded factors of a slope.
    limit = 4 if loss is lsep_loss else 6
    for actual, exact in zip(got, exact_rows(loss, scores, targets, **opts)[:2], strict=True):
        assert_ulps(xp, actual, exact, dtype, limit + XLA_SLACK.get(xp.name, 0))


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_lsep_hard_labels(xp, shape, dtype, data):
    scores, targets = data.draw(scores_of(shape, dtype, infinite=True)), data.draw(hard_targets_of(shape))
    assert_value_and_gradient(xp, lsep_loss, scores, targets, dtype)


@pytest.mark.parametrize(
    ("shape", "opts"), [*(((3, 5), opts) for opts in CIRCLES), *(((2, 40), opts) for opts in CIRCLES[:2])]
)
@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_circle_hard_labels(xp, shape, dtype, opts, data):
    scores, targets = data.draw(similarities_of(shape, dtype)), data.draw(hard_targets_of(shape))
    assert_value_and_gradient(xp, circle_loss, scores, targets, dtype, **opts)


@pytest.mark.parametrize("dtype", WIDE)
@given(data=st.data())
def test_unified_infinite_scores(xp, dtype, data):
    scores, targets = data.draw(scores_of((3, 5), dtype, infinite=True)), data.draw(hard_targets_of((3, 5)))
    opts = {"weighting": "unified", "margin": 0.4, "scale": 7.3}
    assert_value_and_gradient(xp, circle_loss, scores, targets, dtype, **opts)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("opts", "near"),
    [
        ({}, (1.0, 20.0, 200.0, 2e3)),
        ({"scale": 80.1}, (1.0, 20.0, 200.0, 2e3)),
        ({"margin": 1e3, "scale": 1.0}, (1e3, -1e3, 0.0, 999.0)),  # x² - m² cancels
        ({"scale": 30.3, "weighting": "unified"}, (20.0, 300.0, 4e4, 1e6)),  # and so do the sides
    ],
)
def test_neighbours_far_out(xp, dtype, opts, near):
    # Of exponents of 10^9, what rounding takes off is more than 1 in float32.
    above = np.nextafter(np.asarray(near, dtype), np.asarray(np.inf, dtype))
    scores = np.stack((near, near, above, np.nextafter(above, np.asarray(np.inf, dtype))), axis=1).astype(
        dtype
    )
    for targets in ([0, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 1]):
        assert_value_and_gradient(
            xp, circle_loss, scores, np.broadcast_to(np.asarray(targets), scores.shape), dtype, **opts
        )


@pytest.mark.parametrize("dtype", WIDE)
def test_small_weights_of_large_exponents(xp, dtype):
    # The loss of weights of 1e-9 and exponents of 60 is log(1 + 1e-18 e^120).
    scores = np.asarray([[60.0, -60.0, 0.0], [10.0, -10.0, 1.0], [30.0, -9.0, 9.0]])
    targets = np.asarray([[1 - 2.0**-24, 2.0**-30, 0.0], [0.0, 2.0**-30, 1.0], [2.0**-20, 2.0**-30, 0.5]])
    value = lsep_loss(xp.asarray(scores.astype(dtype)), xp.asarray(targets.astype(dtype)), reduction="none")
    exact = exact_rows(lsep_loss, scores.astype(dtype), targets.astype(dtype))[0]
    assert_ulps(xp, value, exact, dtype, 8)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    ("loss", "opts"), [(lsep_loss, {}), *((circle_loss, opts) for opts in CIRCLES)], ids=str
)
def test_random_rows_and_their_curvature(xp, dtype, loss, opts):
    rng = np.random.default_rng(0)
    scores = (rng.normal(size=(4, 60)) * np.asarray([[0.1], [0.4], [3.0], [30.0]])).astype(dtype)
    targets = rng.random(scores.shape) < 0.3
    got = loss.value_grad_hess(xp.asarray(scores), xp.asarray(targets), reduction="none", **opts)
    for actual, exact, limit in zip(got, exact_rows(loss, scores, targets, **opts), (4, 4, 8), strict=True):
        assert_ulps(xp, actual, exact, dtype, limit + XLA_SLACK.get(xp.name, 0))


@pytest.mark.parametrize(
    ("loss", "opts"),
    [
        (lsep_loss, {}),
        (circle_loss, {"scale": 8.0}),
        (circle_loss, {"scale": 8.0, "detach_weights": False}),
        (circle_loss, {"scale": 3.3, "weighting": "unified"}),
    ],
    ids=str,
)
@given(data=st.data())
def test_soft_labels_put_a_class_on_both_sides(xp, loss, opts, data):
    shape = (3, 5)
    scores, targets = (
        data.draw(similarities_of(shape, "float64")),
        data.draw(soft_targets_of(shape, "float64")),
    )
    got = loss.value_grad_hess(
        xp.asarray(scores), xp.asarray(targets), label_smoothing=0.1, reduction="none", **opts
    )
    values, gradients, hessians = exact_rows(loss, scores, targets, label_smoothing=0.1, **opts)
    assert_ulps(xp, got[0], values, "float64", 8)  # the smoothed weights are rounded too
    # The two exponents of a class may cancel in its derivatives: compared with the size of what is added.
    size = np.maximum(opts.get("scale", 1.0) * (np.abs(scores) + 1.25), 1.0).max(axis=1)[:, None]
    for actual, exact, scale in zip(got[1:], (gradients, hessians), (size, size**2), strict=True):
        difference = (xp.to_numpy(actual) - np.asarray(exact, dtype=float)) / scale
        np.testing.assert_allclose(difference, 0.0, atol=8e-15)


@pytest.mark.parametrize("margin", [10.0, 40.0])
def test_saturated_rows_keep_their_digits(xp, margin):
    targets = np.arange(6)[None] < 2
    scores = np.where(targets, margin, -margin)  # eight pairs of e^(-2 margin)
    value, gradient = lsep_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets))
    (exact,), (slopes,), _ = exact_rows(lsep_loss, scores, targets)
    assert float(value) == pytest.approx(float(exact), rel=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], [float(g) for g in slopes], rtol=1e-15)


def test_one_positive_is_softmax_cross_entropy(xp):
    rng = np.random.default_rng(1)
    s, y = xp.asarray(rng.normal(size=(6, 30)) * 8), rng.integers(0, 30, size=6)
    one_hot = xp.asarray(np.arange(30) == y[:, None])
    ours = lsep_loss.value_grad_hess(s, one_hot, reduction="none")
    theirs = softmax_cross_entropy.value_grad_hess(s, xp.asarray(y), reduction="none")
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=2e-14)


def test_written_out_pairs(xp):
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(size=(5, 12)), rng.random((5, 12)) < 0.4
    s, y = xp.asarray(scores), xp.asarray(targets)
    for loss, opts, pair in (
        (lsep_loss, {}, lambda n, p: n - p),
        (
            circle_loss,
            {"weighting": "unified", "margin": 0.3, "scale": 2.5},
            lambda n, p: 2.5 * (n - p + 0.3),
        ),
    ):
        pairs = [pair(row[~t][:, None], row[t][None]) for row, t in zip(scores, targets, strict=True)]
        expected = [math.log1p(math.fsum(np.exp(of_row).ravel())) for of_row in pairs]
        np.testing.assert_allclose(xp.to_numpy(loss(s, y, reduction="none", **opts)), expected, rtol=2e-15)


def test_unified_without_margin_and_scale_is_lsep(xp):
    rng = np.random.default_rng(3)
    s, y = xp.asarray(rng.normal(size=(5, 30)) * 8), xp.asarray(rng.random((5, 30)) < 0.3)
    ours = circle_loss.value_grad_hess(s, y, weighting="unified", margin=0.0, scale=1.0, reduction="none")
    for a, b in zip(ours, lsep_loss.value_grad_hess(s, y, reduction="none"), strict=True):
        np.testing.assert_array_equal(xp.to_numpy(a), xp.to_numpy(b))


@given(data=st.data())
def test_not_above_zlpr_at_any_threshold(xp, data):
    # (1 + e^-c S-)(1 + e^c S+) = 1 + S- S+ + what is positive
    scores, targets = data.draw(scores_of((3, 5), "float64")), data.draw(hard_targets_of((3, 5)))
    s, y = xp.asarray(scores), xp.asarray(targets)
    pairs = xp.to_numpy(lsep_loss(s, y, reduction="none"))
    for threshold in (0.0, 3.0):
        above = xp.to_numpy(zlpr_loss(s, y, threshold=threshold, reduction="none"))
        assert (pairs <= above * (1 + 1e-15) + 1e-300).all()


def published_circle_loss(torch, s, y, margin, scale):
    """Eq. 4 to 6 of arXiv:2002.10857 for one row, as the authors' appendix has it: the weights detached."""
    negatives, positives = s[~y], s[y]
    of_negatives = torch.clamp_min(negatives.detach() + margin, 0.0)
    of_positives = torch.clamp_min(1 + margin - positives.detach(), 0.0)
    logits_n = scale * of_negatives * (negatives - margin)
    logits_p = -scale * of_positives * (positives - (1 - margin))
    pairs = torch.logsumexp(logits_n, 0) + torch.logsumexp(logits_p, 0)
    return torch.logaddexp(pairs, torch.zeros_like(pairs))  # softplus drops the 1 from an exponent of 20 on


@pytest.mark.library("torch")
@pytest.mark.parametrize(("margin", "scale"), [(0.25, 256.0), (0.4, 64.0), (0.1, 7.3)])
def test_the_published_formula_agrees(margin, scale):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    s, y = torch.tensor(rng.uniform(-1, 1, size=(6, 9)), requires_grad=True), rng.random((6, 9)) < 0.4
    y[:, 0], y[:, 1] = True, False
    theirs = sum(
        published_circle_loss(torch, row, t, margin, scale) for row, t in zip(s, torch.tensor(y), strict=True)
    )
    theirs.backward()
    ours, gradient = circle_loss.value_and_grad(
        s.detach(), torch.tensor(y), margin=margin, scale=scale, reduction="sum"
    )
    assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-13)
    np.testing.assert_allclose(gradient.numpy(), s.grad.numpy(), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "opts", "scores", "targets", "value", "gradient"),
    [  # by hand
        (lsep_loss, {}, [INF, 0.0, 0.0], [0, 1, 1], INF, [1.0, -0.5, -0.5]),
        (lsep_loss, {}, [-INF, INF, 3.0], [0, 1, 0], 0.0, [0.0, 0.0, 0.0]),
        (lsep_loss, {}, [-INF, 0.0, 0.0], [1, 0, 0], INF, [-1.0, 0.5, 0.5]),
        (lsep_loss, {}, [1e300, -1e300], [0, 1], 2e300, [1.0, -1.0]),
        (lsep_loss, {}, [9.0, 7.0], [0, 0], 0.0, [0.0, 0.0]),
        (lsep_loss, {}, [INF, 7.0], [0, 0], 0.0, [0.0, 0.0]),
        (lsep_loss, {}, [-INF, -7.0], [1, 1], 0.0, [0.0, 0.0]),
        # margin 1: a weight of 0 for the positive at 2, hence an exponent of 0; (s + 1)(s - 1) = 0 at 1
        (circle_loss, {"margin": 1.0, "scale": 1.0}, [2.0, 1.0], [1, 0], math.log(2), [0.0, 1.0]),
        (circle_loss, {}, [-INF, INF], [0, 1], math.log(2), [0.0, 0.0]),
        (circle_loss, {}, [INF, 0.5], [0, 0], 0.0, [0.0, 0.0]),
        (circle_loss, {}, [0.5, INF, 0.5], [1, 0, 0], INF, [-192.0, INF, 0.0]),  # 256 (1.25 - 0.5)
    ],
)
def test_edge_cases(xp, loss, opts, scores, targets, value, gradient):
    s, y = xp.asarray(np.asarray([scores])), xp.asarray(np.asarray([targets]))
    got, slope = loss.value_and_grad(s, y, **opts)
    np.testing.assert_allclose(float(got), value, rtol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(slope)[0], gradient, rtol=4e-16)


@pytest.mark.parametrize("loss", [lsep_loss, circle_loss])
def test_nan_masks_and_empty_rows(xp, loss):
    scores = np.asarray([[np.nan, 1.0, 0.5], [1.0, np.nan, -0.5]])
    targets, mask = np.asarray([[0, 1, 0], [1, 0, 0]]), np.arange(6).reshape(2, 3) != 4
    s, y = xp.asarray(scores), xp.asarray(targets)
    value, gradient = loss.value_and_grad(s, y, reduction="none", mask=xp.asarray(mask))
    assert np.isnan(xp.to_numpy(value)[0])
    assert np.isnan(xp.to_numpy(gradient)[0]).all()
    (exact,), (slopes,), _ = exact_rows(loss, scores[1:], targets[1:], mask=[True, False, True])
    assert float(xp.to_numpy(value)[1]) == pytest.approx(float(exact), rel=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient)[1], [float(g) for g in slopes], rtol=1e-15)
    for part in loss.value_grad_hess(s[:, :0], y[:, :0], reduction="none"):
        np.testing.assert_array_equal(xp.to_numpy(part), np.zeros_like(xp.to_numpy(part)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("loss", [lsep_loss, circle_loss])
def test_half_precisions_are_rounded_once(xp, loss, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(5)
    s = xp.asarray(rng.uniform(-1, 1, size=(20, 6)), dtype)
    scores, targets = xp.to_numpy(s).astype(float), rng.random((20, 6)) < 0.5
    _, gradient = loss.value_and_grad(s, xp.asarray(targets), reduction="none")
    assert_ulps(xp, gradient, exact_rows(loss, scores, targets)[1], dtype, 0.51)


def test_options_are_checked(xp):
    s, y = xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 3), dtype=bool))
    with pytest.raises(ValueError, match="margin must be a finite number, got nan"):
        circle_loss(s, y, margin=math.nan)
    with pytest.raises(ValueError, match="scale must be a positive finite number, got -2"):
        circle_loss(s, y, scale=-2)
    with pytest.raises(ValueError, match='weighting must be "circle" or "unified", not \'arcface\''):
        circle_loss(s, y, weighting="arcface")


def test_rule(xp):
    rng = np.random.default_rng(6)
    s, t = xp.asarray(rng.normal(size=(4, 5))), xp.asarray(rng.random((4, 5)))
    y = xp.asarray(rng.random((4, 5)) < 0.4)
    check_rule(lsep_loss, s, y)
    check_rule(lsep_loss, s, t, reduction="none", label_smoothing=0.1)
    check_rule(circle_loss, s, y, scale=4.0, detach_weights=False)
    check_rule(circle_loss, s, t, scale=2.3, weighting="unified", reduction="sum", mask=y)


SMOOTH = [
    (lsep_loss, {}),
    (circle_loss, {"scale": 4.0, "detach_weights": False}),
    (circle_loss, {"scale": 4.0, "weighting": "unified"}),
]


@pytest.mark.parametrize(("loss", "opts"), SMOOTH, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_hessian_products_are_differences_of_gradients(xp, loss, opts, soft):
    rng = np.random.default_rng(7)
    scores, v = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    t = xp.asarray(rng.random((3, 4)) if soft else rng.random((3, 4)) < 0.4)
    product = xp.to_numpy(loss.hvp(xp.asarray(scores), t, xp.asarray(v), **opts))
    ahead, behind = (
        xp.to_numpy(loss.value_and_grad(xp.asarray(scores + h * v), t, **opts)[1]) for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(product, (ahead - behind) / 2e-5, atol=1e-8)


def hessians(loss, scores, targets, **opts):
    """Each row's whole Hessian, (B, C, C)."""
    columns = [
        loss.hvp(scores, targets, np.broadcast_to(e, scores.shape), reduction="none", **opts)
        for e in np.eye(scores.shape[-1])
    ]
    return np.stack(columns, axis=-1)


CURVED = [*SMOOTH, (circle_loss, {"scale": 4.0}), (circle_loss, {"margin": -0.2, "scale": 9.0})]


@pytest.mark.parametrize(("loss", "opts"), CURVED, ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_the_hessian_and_its_majorant(loss, opts, soft):
    rng = np.random.default_rng(8)
    scores = rng.normal(size=(300, 5)) * np.geomspace(0.1, 10, 300)[:, None]
    targets = np.sqrt(rng.random((300, 5))) if soft else rng.random((300, 5)) < 0.4
    _, gradient, exact = loss.value_grad_hess(scores, targets, reduction="none", **opts)
    _, _, above = loss.value_grad_hess(scores, targets, curvature="majorant", reduction="none", **opts)
    # Products with the Hessian are sums of terms up to the size of a gradient times a slope, and may cancel.
    slopes = opts.get("scale", 1.0) * (np.abs(scores).max(axis=1) + 1.25)
    size = (np.abs(gradient).max(axis=1) * slopes + 1e-300)[:, None, None]
    whole, majorant = hessians(loss, scores, targets, **opts) / size, np.eye(5) * (above[:, None, :] / size)
    np.testing.assert_allclose(whole, np.swapaxes(whole, 1, 2), atol=1e-14)
    np.testing.assert_allclose(exact / size[..., 0], np.einsum("bii->bi", whole), atol=1e-14)
    assert np.linalg.eigvalsh(whole).min() > -1e-14  # convex, also where the weights are held constant
    assert (above >= 0).all()
    assert np.linalg.eigvalsh(majorant - whole).min() > -1e-14


@pytest.mark.library("torch")
def test_torch_second_order():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    y = torch.tensor(rng.random((3, 5)) < 0.4)
    s = torch.tensor(rng.normal(size=(3, 5)), requires_grad=True)
    for loss, opts in SMOOTH:
        assert torch.autograd.gradcheck(lambda s, loss=loss, opts=opts: loss(s, y, **opts), (s,))
        assert torch.autograd.gradgradcheck(lambda s, loss=loss, opts=opts: loss(s, y, **opts), (s,))


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
@pytest.mark.parametrize(("loss", "opts"), CURVED, ids=str)
def test_torch_compiles_without_a_graph_break(loss, opts):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(10)
    s, y = torch.tensor(rng.normal(size=(3, 5))), torch.tensor(rng.random((3, 5)) < 0.4)
    compiled = torch.compile(
        lambda s, y: loss.value_and_grad(s, y, **opts), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(s, y), loss.value_and_grad(s, y, **opts))


@pytest.mark.library("jax")
@pytest.mark.parametrize(("loss", "opts"), SMOOTH, ids=str)
def test_jax_hessian_under_jit(xp, loss, opts):
    import jax

    rng = np.random.default_rng(11)
    scores, targets = rng.normal(size=5), rng.random(5) < 0.4
    hessian = jax.jit(jax.hessian(lambda s: loss(s, xp.asarray(targets), **opts)))(xp.asarray(scores))
    expected = hessians(loss, scores[None], targets[None], **opts)[0]
    np.testing.assert_allclose(hessian, expected, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("opts", "scores", "positive"),
    [
        ({"weighting": "unified", "margin": 0.4}, [0.3, -0.1], False),
        ({"weighting": "unified", "margin": 3.0}, [0.3, -0.1], False),
        ({}, [2896.5173], False),
        ({}, [-2047.0436], True),
        ({"scale": 80.3}, [-5901.82421875, -6000.0], True),
    ],
)
def test_rows_with_one_side_alone_cost_nothing(xp, opts, scores, positive):
    # What all pairs have in addition, and what rounding takes off a side, count nothing where there is no pair.
    s, t = np.asarray([scores], dtype="float32"), np.full((1, len(scores)), positive)
    got = (
        *circle_loss.value_grad_hess(xp.asarray(s), xp.asarray(t), **opts),
        circle_loss.hvp(xp.asarray(s), xp.asarray(t), xp.asarray(s), **opts),
    )
    for part in got:
        np.testing.assert_array_equal(xp.to_numpy(part), np.zeros(part.shape))


def test_hessian_products_of_decided_rows_are_those_of_softmax(xp):
    # With one positive the two losses are one; the mean of v is v of the likely class to all digits but the last.
    scores, v = (xp.asarray(np.asarray([x])) for x in ([0.0, 40.0, 1.0], [5.0, 1.0, 3.0]))
    expected = xp.to_numpy(softmax_cross_entropy.hvp(scores, xp.asarray(np.asarray([0])), v))
    got = lsep_loss.hvp(scores, xp.asarray(np.asarray([[True, False, False]])), v)
    np.testing.assert_allclose(xp.to_numpy(got), expected, rtol=1e-13)


@pytest.mark.parametrize("loss", [zlpr_loss, lsep_loss, circle_loss])
def test_hessian_products_without_classes(xp, loss):
    scores, targets = (xp.asarray(np.zeros((2, 0), dtype=dtype)) for dtype in (float, bool))
    assert loss.hvp(scores, targets, scores).shape == (2, 0)


def test_tiny_weights_leave_a_sum_below_1_its_digits(xp):
    scores, targets = np.asarray([[-35.1334071168853, 6.569225491431338]]), np.asarray([[1e-30, 1e-30]])
    exact = reference.lsep_loss(list(scores[0]), list(targets[0])).value
    for mask in (None, xp.asarray(np.ones((1, 2), dtype=bool))):
        value = lsep_loss(xp.asarray(scores), xp.asarray(targets), mask=mask, reduction="none")
        np.testing.assert_allclose(xp.to_numpy(value), [float(exact)], rtol=1e-14)


@pytest.mark.parametrize(("dtype", "margin"), [("float32", 1e19), ("float64", 1e154)])
def test_a_margin_beyond_all_scores_gives_no_nan(xp, dtype, margin):
    scores = xp.asarray(np.asarray([[0.5, -0.5, 1.0]]), dtype)
    targets = xp.asarray(np.asarray([[1, 0, 0]]))
    value, gradient = circle_loss.value_and_grad(scores, targets, margin=margin, scale=80.0)
    assert float(value) == 0.0
    np.testing.assert_array_equal(xp.to_numpy(gradient), 0.0)


def test_what_rounding_takes_off_the_largest_exponents_is_counted_when_compiled(xp):
    # XLA makes exp(a) exp(b) into exp(a + b): with the rest of the exponents rounded away, 14 ulp.
    scores, targets = np.asarray([[0.947765, 0.13046251, 0.8647974]], dtype="float32"), [True, False, True]
    value = circle_loss(xp.asarray(scores), xp.asarray(np.asarray([targets])), reduction="none")
    exact = reference.circle_loss(list(map(float, scores[0])), targets).value
    assert_ulps(xp, value, [exact], "float32", 6)
