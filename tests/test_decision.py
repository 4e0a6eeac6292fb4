"""zlpr.decision against its brute-force twins, against scikit-learn, and at the edges."""

import itertools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import XLA_SLACK, assert_ulps, hard_targets_of
from zlpr import reference
from zlpr.decision import (
    Calibration,
    fit_calibration,
    predict_labels,
    predict_proba,
    top_k_labels,
    tune_threshold,
)
from zlpr.losses import zlpr_loss

INF = math.inf
SHAPES = ((1, 4), (5, 3), (9, 1))  # few: JAX compiles for each
TIED = st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
ANY = st.one_of(TIED, st.floats(-8, 8, width=16), st.sampled_from([INF, -INF, 60000.0, -60000.0]))
METRICS = ("micro_f1", "macro_f1", "subset_accuracy", "hamming")
CASES = [(m, False) for m in METRICS] + [(m, True) for m in METRICS if m != "subset_accuracy"]


def scores_of(shape, elements=ANY):
    return hnp.arrays(np.float64, shape, elements=elements)


def as_float(xp, array):
    return xp.to_numpy(array).astype(np.float64)


def tuned(xp, scores, targets, dtype="float64", **opts):
    """The thresholds as NumPy numbers, and the scores as the library holds them, after the checks of the kind."""
    s = xp.asarray(scores, dtype)
    with xp.no_sync():
        t = tune_threshold(s, xp.asarray(targets), **opts)
    xp.assert_like(t, s)
    assert t.dtype == s.dtype
    assert tuple(t.shape) == ((scores.shape[1],) if opts.get("per_label") else ())
    t = as_float(xp, t)
    assert np.all(np.isfinite(t))
    return t, as_float(xp, s)


@pytest.mark.parametrize(("metric", "per_label"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_tuned_threshold_is_that_of_the_search_through_all(xp, shape, metric, per_label, data):
    scores, targets = data.draw(scores_of(shape)), data.draw(hard_targets_of(shape))
    t, held = tuned(xp, scores, targets, metric=metric, per_label=per_label)
    best = reference.tune_threshold(held.tolist(), targets.tolist(), metric, per_label=per_label)
    reached = reference.metric_value(
        held.tolist(), targets.tolist(), np.broadcast_to(t, shape[1:]).tolist(), metric
    )
    assert reached == best.value
    # The midpoint of two halves is a float64, and so is all that is compared.
    assert [Fraction(x) for x in np.atleast_1d(t).tolist()] == best.thresholds


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("metric", "per_label"), CASES)
def test_tuned_threshold_is_the_best_in_every_dtype(xp, metric, per_label, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(0)
    for steps in (1, 40):  # neighbours of the dtype, with nothing between them, and everyday scores
        grid = 1.0 + rng.integers(-3, 4, (5, 3)) * 2.0**-7 * steps  # 2^-7: the spacing of bfloat16 at 1
        targets = rng.random((5, 3)) < 0.4
        t, held = tuned(xp, grid, targets, dtype, metric=metric, per_label=per_label)
        best = reference.tune_threshold(held.tolist(), targets.tolist(), metric, per_label=per_label)
        at = np.broadcast_to(t, (3,)).tolist()
        assert reference.metric_value(held.tolist(), targets.tolist(), at, metric) == best.value


def test_threshold_between_neighbouring_numbers_is_the_lower(xp):
    for dtype in xp.dtypes:
        eps = float(xp.finfo(xp.asarray(np.zeros(1), dtype).dtype).eps)
        for lower in (
            1.0,
            1.0 + eps,
        ):  # of which one has an even last digit, to which the midpoint is rounded
            s = xp.asarray(np.asarray([[lower], [lower + eps]]), dtype)
            t = tune_threshold(s, xp.asarray(np.asarray([[0], [1]])), metric="hamming")
            assert float(as_float(xp, t)) == lower
            np.testing.assert_array_equal(xp.to_numpy(predict_labels(s, threshold=t)), [[False], [True]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_at_the_ends_of_the_range(xp, dtype):
    greatest = float(np.finfo(dtype).max)
    for sign in (1.0, -1.0):
        s = xp.asarray(np.asarray([[sign * greatest], [sign * greatest]], dtype=dtype))
        for truth in (0, 1):
            t = tune_threshold(s, xp.asarray(np.asarray([[truth]] * 2)), metric="hamming")
            # Nothing finite is below the lowest number: it cannot be predicted, like -inf.
            expected = sign > 0 if truth else False
            assert np.isfinite(as_float(xp, t))
            assert bool(xp.to_numpy(predict_labels(s, threshold=t))[0, 0]) == expected


def sklearn_metric(metric, targets, predicted):
    metrics = pytest.importorskip("sklearn.metrics")
    if metric == "hamming":
        return 1 - metrics.hamming_loss(targets, predicted)
    if metric == "subset_accuracy":
        return metrics.accuracy_score(targets, predicted)
    return metrics.f1_score(targets, predicted, average=metric.removesuffix("_f1"), zero_division=0.0)


@pytest.mark.library("numpy")  # an oracle of what the metrics mean; the libraries agree by the twin
@pytest.mark.parametrize(("metric", "per_label"), CASES)
def test_scikit_learn_knows_no_better_threshold(xp, metric, per_label):
    rng = np.random.default_rng(3)
    targets = rng.random((40, 4)) < [0.5, 0.2, 0.1, 0.0]
    scores = rng.normal(size=(40, 4)).round(1) + targets
    s = xp.asarray(scores)
    t = tune_threshold(s, xp.asarray(targets.astype("int64")), metric=metric, per_label=per_label)
    reached = sklearn_metric(metric, targets, xp.to_numpy(predict_labels(s, threshold=t)))
    t = np.broadcast_to(xp.to_numpy(t), (4,))
    for label in range(4) if per_label else [slice(None)]:
        for other in np.arange(-4.05, 5, 0.1):
            changed = t.copy()
            changed[label] = other
            assert sklearn_metric(metric, targets, scores > changed) <= reached + 1e-12
    assert reached >= sklearn_metric(metric, targets, scores > 0)


def test_a_global_macro_f1_of_many_ties_and_labels(xp):
    rng = np.random.default_rng(5)
    scores, targets = rng.integers(-6, 7, (40, 4)) / 4, rng.random((40, 4)) < 0.3
    t, _ = tuned(xp, scores, targets, metric="macro_f1")
    best = reference.tune_threshold(scores.tolist(), targets.tolist(), "macro_f1")
    assert [Fraction(float(t))] == best.thresholds


@pytest.mark.parametrize(("metric", "per_label"), CASES)
def test_masked_entries_take_no_part(xp, metric, per_label):
    rng = np.random.default_rng(7)
    scores, targets = rng.integers(-8, 9, (5, 3)) / 4, rng.random((5, 3)) < 0.4
    mask = np.ones((5, 3), dtype=bool)
    mask[3:] = False  # whole rows, which can be left out instead
    poisoned = np.where(mask, scores, np.nan)
    t, _ = tuned(xp, poisoned, targets, metric=metric, per_label=per_label, mask=xp.asarray(mask))
    best = reference.tune_threshold(scores[:3].tolist(), targets[:3].tolist(), metric, per_label=per_label)
    assert [Fraction(x) for x in np.atleast_1d(t).tolist()] == best.thresholds


def test_axis_and_leading_axes(xp):
    rng = np.random.default_rng(8)
    scores, targets = rng.normal(size=(1, 5, 3)), rng.random((1, 5, 3)) < 0.4
    s, y = xp.asarray(scores), xp.asarray(targets)
    moved_s, moved_y = xp.asarray(np.moveaxis(scores, -1, 0)), xp.asarray(np.moveaxis(targets, -1, 0))
    for opts in ({"metric": "subset_accuracy"}, {"metric": "micro_f1", "per_label": True}):
        t = tune_threshold(s, y, **opts)
        flat = tune_threshold(xp.reshape(s, (5, 3)), xp.reshape(y, (5, 3)), **opts)
        np.testing.assert_array_equal(xp.to_numpy(t), xp.to_numpy(flat))
        moved = tune_threshold(moved_s, moved_y, axis=0, **opts)
        np.testing.assert_array_equal(xp.to_numpy(t), xp.to_numpy(moved))
    labels = xp.to_numpy(predict_labels(s, threshold=t))
    np.testing.assert_array_equal(labels, scores > xp.to_numpy(t))
    moved = xp.to_numpy(predict_labels(moved_s, threshold=t, axis=0))
    np.testing.assert_array_equal(np.moveaxis(moved, 0, -1), labels)
    top = xp.to_numpy(top_k_labels(moved_s, 2, axis=0))
    np.testing.assert_array_equal(np.moveaxis(top, 0, -1), xp.to_numpy(top_k_labels(s, 2)))


@pytest.mark.parametrize(("metric", "per_label"), CASES)
def test_no_rows_and_no_positives_leave_the_threshold_at_its_nearest_to_0(xp, metric, per_label):
    t, _ = tuned(xp, np.zeros((0, 3)), np.zeros((0, 3), dtype=bool), metric=metric, per_label=per_label)
    np.testing.assert_array_equal(t, np.zeros_like(t))


@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_top_k_labels(xp, shape, data):
    scores, k = data.draw(scores_of(shape)), data.draw(st.integers(0, shape[1]))
    s = xp.asarray(scores)
    with xp.no_sync():
        labels = top_k_labels(s, k)
    xp.assert_like(labels, s)
    assert labels.dtype == xp.bool
    assert xp.to_numpy(labels).tolist() == [reference.top_k_labels(row, k) for row in scores.tolist()]


def test_every_dtype_is_decided_alike(xp):
    scores = np.asarray([[1.0, 0.5, -0.25, 0.5]])
    for dtype in xp.dtypes:
        s = xp.asarray(scores, dtype)
        assert xp.to_numpy(top_k_labels(s, 2)).tolist() == [[True, True, False, False]]
        assert xp.to_numpy(predict_labels(s, threshold=0.5)).tolist() == [[True, False, False, False]]
        assert not xp.to_numpy(predict_labels(s, threshold=1e39)).any()  # beyond float32: no score is greater
        for mode in ("bernoulli", "soft"):
            p = predict_proba(s, mode=mode)
            xp.assert_like(p, s)
            assert p.dtype == s.dtype


def test_a_threshold_of_any_shape_that_fits(xp):
    scores = np.asarray([[1.0, -1.0, 0.0], [3.0, 0.5, 2.0]])
    s = xp.asarray(scores)
    for threshold in (
        np.asarray(0.5),
        np.asarray([0.5, -2.0, 2.0]),
        np.asarray([[-5.0], [1.0]]),
        scores - 0.5,
    ):
        labels = predict_labels(s, threshold=xp.asarray(threshold))
        np.testing.assert_array_equal(xp.to_numpy(labels), scores > threshold)
        np.testing.assert_allclose(
            xp.to_numpy(predict_proba(s, threshold=xp.asarray(threshold), mode="soft")),
            1 / (1 + np.exp(-2 * (scores - threshold))),
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_probabilities_to_the_last_digits(xp, dtype):
    scores = np.asarray([[-80.0, -3.0, -1e-3, 0.0, 0.5, 30.0, INF, -INF]], dtype=dtype)
    s = xp.asarray(scores)
    cases = {
        "bernoulli": (predict_proba(s), {}),
        "soft": (predict_proba(s, mode="soft"), {"slope": 2.0}),
        "calibrated": (
            predict_proba(s, mode="calibrated", calibration=Calibration(0.5, 0.25)),
            {"slope": 0.5, "intercept": 0.25},
        ),
    }
    for p, line in cases.values():
        exact = reference.predict_proba(scores[0].tolist(), **line)
        # One entry a row, so that each is compared in its own ulp. Rounding the log-odds, of magnitude up to 40, moves
        # the probability by 20 ulp; only the calibration rounds them.
        assert_ulps(
            xp,
            p[0, :, None],
            [[e] for e in exact],
            dtype,
            3 + XLA_SLACK.get(xp.name, 0) + 20 * (line == cases["calibrated"][1]),
        )


def test_a_slope_of_0_takes_no_notice_of_infinite_scores(xp):
    p = predict_proba(
        xp.asarray(np.asarray([INF, 0.0])), mode="calibrated", calibration=Calibration(0.0, 0.0)
    )
    np.testing.assert_array_equal(xp.to_numpy(p), [0.5, 0.5])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_calibration_is_where_the_gradient_vanishes(xp, dtype, data):
    shape = (12, 1)
    everyday = st.one_of(TIED, st.floats(-8, 8, width=16))
    outlying = st.one_of(everyday, st.sampled_from([-3000.0, 3000.0]))
    scores = data.draw(scores_of(shape, data.draw(st.sampled_from([everyday, outlying])))).astype(dtype)
    targets = data.draw(hard_targets_of(shape))
    line = fit_calibration(xp.asarray(scores), xp.asarray(targets))
    slope, intercept = float(xp.to_numpy(line.slope)), float(xp.to_numpy(line.intercept))
    pair = scores[:, 0].tolist(), targets[:, 0].tolist()
    gradient = reference.calibration_gradient(*pair, slope, intercept)
    # Relative to its terms; what a slope or an intercept rounded to this dtype may leave, times the log-odds.
    size = 1 + abs(slope) * np.abs(scores).max() + abs(intercept)
    assert max(map(abs, gradient)) <= 16 * size * np.finfo(dtype).eps


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("per_label", [False, True])
def test_calibration_is_that_of_scikit_learn(xp, per_label):
    calibration = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(11)
    targets = rng.random((40, 2)) < 0.4
    scores = rng.normal(size=(40, 2)) + targets
    s, y = xp.asarray(scores), xp.asarray(targets)
    line = fit_calibration(s, y, per_label=per_label)
    xp.assert_like(line.slope, s)
    p = xp.to_numpy(predict_proba(s, mode="calibrated", calibration=line))
    columns = ([0], [1]) if per_label else ([0, 1],)
    for column in columns:
        oracle = calibration._SigmoidCalibration().fit(scores[:, column].ravel(), targets[:, column].ravel())
        expected = oracle.predict(scores[:, column].ravel())
        np.testing.assert_allclose(p[:, column].ravel(), expected, atol=2e-5)  # its L-BFGS stops there


def test_calibration_of_separable_constant_one_sided_and_no_data(xp):
    def line_of(scores, targets, **opts):
        line = fit_calibration(xp.asarray(np.asarray(scores)), xp.asarray(np.asarray(targets)), **opts)
        return np.asarray([xp.to_numpy(line.slope), xp.to_numpy(line.intercept)])

    ups, downs = [[1.0]] * 6 + [[-1.0]] * 6, [[1]] * 6 + [[0]] * 6
    # Separable: Platt's targets, 7/8 and 1/8, are met.
    np.testing.assert_allclose(line_of(ups, downs), [math.log(7), 0], atol=1e-14)
    # Equal scores: the mean of the targets.
    mean = (9 * Fraction(10, 11) + 3 * Fraction(1, 5)) / 12
    equal = line_of([[0.7]] * 12, [[1]] * 9 + [[0]] * 3)
    np.testing.assert_allclose(equal, [0, math.log(mean / (1 - mean))], rtol=1e-14)
    # Twelve negatives and no positive: Laplace's 1/14.
    np.testing.assert_allclose(line_of(ups, [[0]] * 12), [0, -math.log(13)], atol=1e-9)
    np.testing.assert_array_equal(line_of(np.zeros((0, 1)), np.zeros((0, 1), dtype=bool)), [0, 0])
    # Masked, all but two of each: targets 3/4 and 1/4; what is masked has the wrong sign.
    counted = np.asarray([[True]] * 2 + [[False]] * 8 + [[True]] * 2)
    wrong = np.where(counted, ups, -9.0 * np.asarray(ups))
    masked = line_of(wrong, downs, mask=xp.asarray(counted))
    np.testing.assert_allclose(masked, [math.log(3), 0], atol=1e-14)


def test_a_calibration_can_be_kept(xp):
    scores = np.asarray([[1.0]] * 6 + [[-1.0]] * 6)
    line = fit_calibration(xp.asarray(scores), xp.asarray(scores > 0))
    if xp.name != "strict":  # whose arrays refuse to be pickled
        kept = pickle.loads(pickle.dumps(line))
        np.testing.assert_array_equal(xp.to_numpy(kept.slope), xp.to_numpy(line.slope))
    with pytest.raises(AttributeError):
        line.slope = 1.0


@pytest.mark.library("numpy", "torch")
def test_wrong_values_raise_on_the_host(xp):
    nan, y = xp.asarray(np.asarray([[0.0, np.nan]])), xp.asarray(np.asarray([[0, 1]]))
    for call in (
        lambda: predict_labels(nan),
        lambda: predict_proba(nan),
        lambda: top_k_labels(nan, 1),
        lambda: tune_threshold(nan, y),
        lambda: fit_calibration(nan, y),
    ):
        with pytest.raises(ValueError, match=r"scores must not be nan, but the entry at \(0, 1\) is"):
            call()
    good = xp.asarray(np.asarray([[0.0, 1.0]]))
    for wrong in ([[0, 2]], [[0.0, 0.5]], [[1.0, np.nan]]):
        for function in (tune_threshold, fit_calibration):
            with pytest.raises(ValueError, match=r"targets must be 0 or 1, but the entry at \(0, 1\)"):
                function(good, xp.asarray(np.asarray(wrong)))
    with pytest.raises(ValueError, match="scores must be finite"):
        fit_calibration(xp.asarray(np.asarray([[0.0, INF]])), y)


@pytest.mark.library("jax", "strict", "cupy")
def test_wrong_values_give_nan_where_none_is_read(xp):
    scores, targets = np.ones((5, 3)), np.zeros((5, 3))
    scores[0, 1], targets[0, 0] = np.nan, 1.0
    s, y = xp.asarray(scores), xp.asarray(targets)
    with xp.no_sync():
        one, several = tune_threshold(s, y), tune_threshold(s, y, per_label=True)
        line = fit_calibration(s, y, per_label=True)
        top = top_k_labels(s, 1)
    assert np.isnan(xp.to_numpy(one))
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(several)), [False, True, False])
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(line.slope)), [False, True, False])
    np.testing.assert_array_equal(xp.to_numpy(top), [[True, False, False]] * 5)
    targets[3, 2] = 0.5
    t = tune_threshold(s, xp.asarray(targets), per_label=True)
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(t)), [False, True, True])


def test_wrong_arguments_are_named(xp):
    s, y = xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 3), dtype=bool))
    raises = pytest.raises
    with raises(TypeError, match="scores must be an array"):
        predict_labels([1.0])
    with raises(TypeError, match="scores must have a real floating dtype"):
        tune_threshold(xp.asarray(np.zeros((2, 3), dtype="int64")), y)
    with raises(ValueError, match="targets must have the shape of scores"):
        tune_threshold(s, y[:1, ...])
    with raises(TypeError, match="mask must be a bool array"):
        tune_threshold(s, y, mask=s)
    with raises(ValueError, match="metric must be one of 'micro_f1'"):
        tune_threshold(s, y, metric="f1")
    with raises(ValueError, match=r"per_label=True is not possible with metric=\"subset_accuracy\""):
        tune_threshold(s, y, metric="subset_accuracy", per_label=True)
    with raises(ValueError, match="axis 2 is out of bounds"):
        tune_threshold(s, y, axis=2)
    with raises(ValueError, match="k must be from 0 to the number of labels, 3, not 4"):
        top_k_labels(s, 4)
    with raises(TypeError, match="k must be an integer, not float"):
        top_k_labels(s, 1.0)
    with raises(ValueError, match="threshold must be a number, an array with one entry a label"):
        predict_labels(s, threshold=xp.asarray(np.zeros(2)))
    with raises(TypeError, match="threshold must have a real floating dtype"):
        predict_labels(s, threshold=xp.asarray(np.zeros(3, dtype="int64")))
    with raises(ValueError, match="threshold must not be nan"):
        predict_labels(s, threshold=np.nan)
    with raises(ValueError, match="threshold must be finite"):
        predict_proba(s, threshold=INF)
    with raises(ValueError, match='mode must be "bernoulli"'):
        predict_proba(s, mode="bce")
    for opts in ({"mode": "calibrated"}, {"calibration": Calibration(1.0, 0.0)}):
        with raises(ValueError, match='calibration goes with mode="calibrated"'):
            predict_proba(s, **opts)
    with raises(ValueError, match="threshold must stay 0 with a calibration"):
        predict_proba(s, mode="calibrated", calibration=Calibration(1.0, 0.0), threshold=1.0)
    with raises(ValueError, match=r"calibration.slope must be a number, an array with one entry a label"):
        predict_proba(s, mode="calibrated", calibration=Calibration(xp.asarray(np.zeros(2)), 0.0))


@pytest.mark.library("torch")
def test_arrays_of_another_library_are_named(xp):
    s = xp.asarray(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="targets must be a torch array like scores, not a numpy array"):
        tune_threshold(s, np.zeros((2, 3)))
    with pytest.raises(TypeError, match="threshold must be a torch array like scores"):
        predict_labels(s, threshold=np.zeros(3))


@pytest.mark.library("jax")
def test_everything_runs_under_jit(xp):
    import jax

    rng = np.random.default_rng(13)
    targets = rng.random((5, 3)) < 0.4
    s, y = xp.asarray(rng.normal(size=(5, 3)) + targets), xp.asarray(targets)
    for metric, per_label in [("macro_f1", False), ("micro_f1", True)]:
        opts = {"metric": metric, "per_label": per_label}
        compiled = jax.jit(lambda s, y, opts=opts: tune_threshold(s, y, **opts))(s, y)
        np.testing.assert_array_equal(compiled, tune_threshold(s, y, **opts))
    line = jax.jit(lambda s, y: (lambda c: (c.slope, c.intercept))(fit_calibration(s, y)))(s, y)
    np.testing.assert_allclose(line[0], fit_calibration(s, y).slope, rtol=1e-12)
    np.testing.assert_array_equal(jax.jit(lambda s: top_k_labels(s, 2))(s), top_k_labels(s, 2))
    np.testing.assert_array_equal(jax.jit(lambda s, t: predict_labels(s, threshold=t))(s, s[0]), s > s[0])


@pytest.mark.library("torch")
def test_probabilities_have_a_gradient(xp):
    s = xp.asarray(np.asarray([0.0, 1.0])).requires_grad_(True)
    predict_proba(s, mode="soft").sum().backward()
    p = 1 / (1 + np.exp(-2 * np.asarray([0.0, 1.0])))
    np.testing.assert_allclose(s.grad.numpy(), 2 * p * (1 - p))


def test_what_a_score_of_zlpr_says_about_a_probability():
    # The score of the least expected loss of n independent labels of probability 0.3, over all 2^n label sets.
    p, scores = 0.3, {}
    for n in (1, 4):
        sets = np.asarray(list(itertools.product([False, True], repeat=n)))
        chances = np.prod(np.where(sets, p, 1 - p), axis=1)

        def slope(s, sets=sets, chances=chances):
            gradient = zlpr_loss.value_and_grad(np.full(sets.shape, s), sets, sample_weight=chances)[1]
            return gradient.sum()

        scores[n] = pytest.importorskip("scipy.optimize").brentq(slope, -9, 9, xtol=1e-14)
    one, several = np.asarray([scores[1]]), np.asarray([scores[4]])
    np.testing.assert_allclose(predict_proba(one), p, rtol=1e-12)
    assert predict_proba(several, mode="soft") < p - 0.05
    assert predict_proba(several) > p + 0.02
    # Soft targets of several labels: the second mode exactly.
    s = 0.5 * np.log([[p / (1 - p)] * 4])
    np.testing.assert_allclose(zlpr_loss.value_and_grad(s, np.full((1, 4), p))[1], 0, atol=1e-16)
    np.testing.assert_allclose(predict_proba(s, mode="soft"), p, rtol=1e-15)
