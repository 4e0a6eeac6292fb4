"""A check must be able to fail: each kind of broken rule is caught, and ulps are counted as one would by hand."""

import numpy as np
import pytest
from mpmath import mp, mpf

from zlpr import activations
from zlpr.activations import softplus
from zlpr.losses import zlpr_loss
from zlpr.rules import Rule, rule
from zlpr.validation import RuleReport, check_rule, max_ulps

HOSTS_AND_DEVICES = pytest.mark.library(
    "numpy", "torch", "strict", "cupy"
)  # JAX's arrays cannot be written to


@pytest.fixture
def x(xp):
    return xp.asarray(np.linspace(-2.0, 2.0, 6).reshape(2, 3))


@rule
def square(x):
    return x * x, lambda dy: 2 * x * dy


def test_a_good_rule_passes(xp, x):
    report = check_rule(square, x)
    assert isinstance(report, RuleReport)
    assert 0 <= report.difference <= 1e-7
    if xp.name in ("torch", "jax"):
        assert 0 <= report.autograd <= 1e-13
    else:
        assert report.autograd is None


def test_every_floating_dtype_can_be_checked(xp):
    # Of half precisions no differences are taken, which leaves everything else.
    for dtype in xp.dtypes:
        scores = xp.asarray(np.linspace(-2.0, 2.0, 6).reshape(2, 3), dtype)
        check_rule(softplus, scores)
        check_rule(zlpr_loss, scores, xp.asarray(np.eye(2, 3) > 0))  # its mean is a float32 for a half


@pytest.mark.parametrize("error", [1.0 + 1e-5, -1.0, 0.0, np.nan])
def test_a_wrong_gradient_is_caught(x, error):
    wrong = rule(lambda x: (x * x, lambda dy: 2 * x * dy * error))
    with pytest.raises(AssertionError, match=r"the gradient of x is off its difference by|differ by nan"):
        check_rule(wrong, x)


def test_a_wrong_gradient_in_float32_is_caught(xp):
    wrong = rule(lambda x: (x * x, lambda dy: 2.2 * x * dy))
    with pytest.raises(AssertionError, match="the gradient of x is off its difference by"):
        check_rule(wrong, xp.asarray(np.linspace(0.5, 2.0, 6, dtype="float32")))


def test_a_nan_in_half_precision_is_caught(xp):
    wrong = rule(lambda x: (x * x, lambda dy: 2 * x * dy * float("nan")))
    for dtype in sorted({"float16", "bfloat16"} & set(xp.dtypes)):
        with pytest.raises(AssertionError, match="the pullback at 2 dy and twice that at dy differ by nan"):
            check_rule(wrong, xp.asarray(np.asarray([0.5, 2.0]), dtype))


def test_the_wrong_one_of_several_gradients_is_named(x):
    wrong = rule(lambda a, b: (a * b, lambda dy: (b * dy, b * dy)), wrt=("a", "b"))
    with pytest.raises(AssertionError, match="the gradient of b is off its difference by"):
        check_rule(wrong, x, x + 1)


def test_a_gradient_of_another_dtype_is_caught(xp):
    def widened(x):
        return x * x, lambda dy: xp.astype(2 * x * dy, xp.float64)

    with pytest.raises(
        AssertionError, match=r"the gradient of x is \(.*float64.*\), the argument \(.*float32"
    ):
        check_rule(rule(widened), xp.asarray(np.linspace(0.5, 2, 4, dtype="float32")))


def test_a_gradient_of_another_shape_is_caught(xp, x):
    def summed(x):
        return x * x, lambda dy: xp.sum(2 * x * dy, axis=0, keepdims=True)

    with pytest.raises(AssertionError):
        check_rule(rule(summed), x)


@pytest.mark.parametrize(("dtype", "other"), [("float32", "float64"), ("float64", "float32")])
def test_a_value_of_another_dtype_is_caught(xp, dtype, other):
    def converted(x):
        return xp.astype(x * x, getattr(xp, other)), lambda dy: 2 * x * xp.astype(dy, x.dtype)

    with pytest.raises(AssertionError, match=f"a {other} value of {dtype} inputs"):
        check_rule(rule(converted), xp.asarray(np.linspace(0.5, 2, 4), dtype))


@HOSTS_AND_DEVICES
def test_a_value_of_another_library_is_caught(x, xp):
    if xp.name == "numpy":
        strict = pytest.importorskip("array_api_strict")
        wrong = rule(lambda x: (strict.asarray(x * x), lambda dy: 2 * x * dy))
        with pytest.raises(AssertionError, match="a array_api_strict value"):
            check_rule(wrong, x)
    else:
        wrong = rule(lambda x: (xp.to_numpy(x) ** 2, lambda dy: 2 * x * dy))
        with pytest.raises(AssertionError, match="a numpy value"):
            check_rule(wrong, x)


@HOSTS_AND_DEVICES
def test_writing_into_an_argument_is_caught(x):
    def scribbling(x, scratch):
        scratch[...] = x
        return x * x, lambda dy: 2 * x * dy

    with pytest.raises(AssertionError, match="scribbling wrote into an argument"):
        check_rule(rule(scribbling), x, x * 0)


@HOSTS_AND_DEVICES
def test_writing_into_the_cotangent_is_caught(x):
    def hasty(x):
        def hasty_pullback(dy):
            dy *= 2 * x
            return dy

        return x * x, hasty_pullback

    with pytest.raises(AssertionError, match="hasty: the pullback at 2 dy and twice that at dy differ"):
        check_rule(rule(hasty), x)


@pytest.mark.parametrize("bent", [lambda dy: dy * dy, lambda dy: dy + 1e-6], ids=["square", "affine"])
def test_a_pullback_that_is_not_linear_is_caught(x, bent):
    wrong = rule(lambda x: (x * x, lambda dy: 2 * x * bent(dy)))
    with pytest.raises(AssertionError, match="the pullback at 2 dy and twice that at dy differ"):
        check_rule(wrong, x)


def test_a_pullback_that_works_once_is_caught(x):
    def spent(x):
        slopes = [2 * x]
        return x * x, lambda dy: (slopes.pop() if slopes else 0 * x) * dy

    with pytest.raises(AssertionError, match="the pullback at 2 dy and twice that at dy differ"):
        check_rule(rule(spent), x)


def test_a_value_that_depends_on_what_is_wanted_is_caught(x):
    def moody(x, *, needs=()):
        return (x * x if needs else x * x * (1 + 1e-9)), lambda dy: (2 * x * dy,)

    with pytest.raises(AssertionError, match=r"moody: vjp and the plain call differ by 1\.00e-09"):
        check_rule(rule(moody), x)


@pytest.mark.library("torch")
def test_what_the_bridge_saved_wrongly_is_caught(x):
    class Saving(Rule):
        def value_and_saved(self, args, opts, needs):
            (x,) = args
            return x * x, (3 * x,), lambda saved, dy: (saved[0] * dy,)

    with pytest.raises(AssertionError, match=r"autograd and the pullback differ by 5\.00e-01"):
        check_rule(Saving(square.function, ("x",)), x)


RULES = [name for name in activations.__all__ if isinstance(getattr(activations, name), Rule)]


@pytest.mark.parametrize("name", RULES)
def test_a_kinked_rule_passes_away_from_its_kink(xp, name):
    check_rule(getattr(activations, name), xp.asarray(np.asarray([-2.0, -0.5, 0.5, 2.0])))


EPS = 2.0**-52


@pytest.mark.parametrize(
    ("actual", "exact", "dtype", "ulps"),
    [
        ([1.0], [mpf(1)], "float64", 0.0),
        ([1 + EPS], [mpf(1)], "float64", 1.0),
        ([1 - EPS / 2], [mpf(1)], "float64", 0.5),  # the ulp is that of the exact number
        ([1.0], [1 - mpf(2) ** -53], "float64", 1.0),  # here of the numbers below 1
        ([1024 - 2.0**-42], [1024 - mpf(2) ** -43], "float64", 1.0),  # whose logarithm rounds to 10
        ([2.0**-1022 * 3], [mpf(2) ** -1022 * 3 + mpf(2) ** -1073], "float64", 1.0),
        ([0.5 + 2.0**-24], [mpf("0.5")], "float32", 1.0),
        ([1 + 2.0**-10], [mpf(1)], "float16", 1.0),
        ([1 + 2.0**-7], [mpf(1)], "bfloat16", 1.0),
        ([-3.0], [mpf(-3) + mpf(2) ** -51], "float64", 1.0),
        # The unit of the row is that of its largest entry, and the largest error counts.
        ([4.0, 1 + 4 * EPS], [mpf(4), mpf(1)], "float64", 1.0),
        ([[4.0, 1.0], [1 + 3 * EPS, 1.0]], [[mpf(4), mpf(1)], [mpf(1), mpf(1)]], "float64", 3.0),
        # Below the smallest normal number the unit stays that of the smallest normal number.
        ([0.0], [mpf(2) ** -1074], "float64", 1.0),
        ([3 * 2.0**-149], [mpf(0)], "float32", 3.0),
        ([0.0], [mpf(0)], "float64", 0.0),
        ([0.0], [mpf(10) ** -400], "float64", 0.0),
        # Nothing but the same meets a nan or an infinity.
        ([np.nan], [mp.nan], "float64", 0.0),
        ([np.inf], [mp.inf], "float64", 0.0),
        ([-np.inf], [-mp.inf], "float64", 0.0),
        ([np.inf], [-mp.inf], "float64", np.inf),
        ([1.0], [mp.nan], "float64", np.inf),
        ([1.0], [mp.inf], "float64", np.inf),
        ([np.nan], [mp.inf], "float64", np.inf),
        ([np.nan], [mpf(1)], "float64", np.inf),
        ([np.inf], [mpf(1)], "float64", np.inf),
        ([1.0, np.nan, 2.0], [mpf(1), mp.nan, mpf(2) + 2 * mpf(2) ** -51], "float64", 2.0),
        # What is beyond the largest number of the dtype is infinite there.
        ([np.inf], [mpf(2) ** 128], "float32", 0.0),
        ([2.0**127], [mpf(2) ** 128], "float32", np.inf),
        ([np.inf], [mpf(2) ** 127], "float32", np.inf),
        ([-np.inf], [-(mpf(2) ** 1024)], "float64", 0.0),
        ([np.inf], [mpf(2) ** 16], "float16", 0.0),
    ],
)
def test_ulps_counted_by_hand(actual, exact, dtype, ulps):
    found = max_ulps(np.asarray(actual), exact, dtype)
    assert found == pytest.approx(ulps, rel=1e-2)
    assert isinstance(found, float)


def test_ulps_of_one_number_and_of_none():
    assert max_ulps(np.asarray(1 + EPS), mpf(1), "float64") == 1.0
    for shape in ((0,), (0, 3), (3, 0)):
        assert max_ulps(np.zeros(shape), np.zeros(shape), "float64") == 0.0


def test_ulps_do_not_depend_on_the_working_precision():
    with mp.workdps(5):
        assert max_ulps(np.asarray([1 + EPS]), [mpf(1)], "float64") == 1.0
    with mp.workdps(5), pytest.raises(AssertionError):  # as it would be by hand
        assert mpf(1 + EPS) - 1 == EPS
