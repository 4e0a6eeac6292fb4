"""Each fast form against the generic one and against exact sums; the primitives at ties, at width 0, in every dtype."""

import math
from fractions import Fraction

import numpy as np
import pytest
from mpmath import mp

from _exact import assert_ulps
from zlpr import _array, _ops, _walk

WIDE = ("float32", "float64")
TABLES = {
    "exp_": "_EXP_",
    "expm1": "_EXPM1",
    "relu": "_RELU",
    "clip": "_CLIP",
    "row_sum": "_SUM",
    "segment_sum": "_SEGMENT_SUM",
    "where": "_WHERE",
    "largest": "_MAX",
    "extent": "_EXTENT",
    "chosen": "_CHOSEN",
    "argmax": "_ARGMAX",
    "top": "_TOP",
    "first_true": "_FIRST_TRUE",
    "put_": "_PUT_",
    "stacked": "_STACKED",
    "where_few": "_WHERE_FEW",
    "replaced_": "_REPLACED_",
    "marked": "_MARKED",
    "flat_positions": "_FLAT_POSITIONS",
    "move_": "_MOVE_",
    "move_to_square_": "_MOVE_TO_SQUARE_",
    "smallest": "_SMALLEST",
    "sum_by_target": "_TARGET_SUM",
    "product": "_PRODUCT",
    "pairs": "_PAIRS",
    "ratio": "_RATIO",
    "root": "_ROOT",
}


def generic(monkeypatch, name):
    """The primitive as it is with its table of fast forms emptied, which it is for its own calls alone."""

    def call(*args):
        with monkeypatch.context() as patch:
            patch.setattr(_ops, TABLES[name], {})
            return getattr(_ops, name)(*args)

    return call


def exact_sums(rows):
    """Correctly rounded sums of rows: beside them, half an ulp of float32 is seen."""
    return [[mp.mpf(math.fsum(map(float, row)))] for row in rows]


@pytest.mark.parametrize("dtype", WIDE)
def test_exp_agrees_with_its_generic_form(xp, monkeypatch, dtype):
    x = np.linspace(-80, 80, 65).astype(dtype)[:, None]
    with mp.workdps(40):
        exact = [[mp.exp(mp.mpf(float(entry)))] for entry in x[:, 0]]
    assert_ulps(xp, _ops.exp_(xp.asarray(x)), exact, dtype, 2)  # every library's own exp is within 2 ulp
    assert_ulps(xp, generic(monkeypatch, "exp_")(xp.asarray(x)), exact, dtype, 2)


@pytest.mark.parametrize("dtype", WIDE)
def test_expm1_agrees_with_its_generic_form(xp, monkeypatch, dtype):
    x = np.concatenate([np.linspace(-0.6, 0.6, 61), [-80, -3, -1e-30, 1e-30, 3, 80]]).astype(dtype)[:, None]
    with mp.workdps(80):
        exact = [[mp.expm1(mp.mpf(float(entry)))] for entry in x[:, 0]]
    for form, limit in ((_ops.expm1, 3), (generic(monkeypatch, "expm1"), 6 if xp.name == "jax" else 3)):
        assert_ulps(xp, form(xp.asarray(x)), exact, dtype, limit)
    ends = np.asarray([np.inf, -np.inf, 0.0, np.nan], dtype=dtype)
    np.testing.assert_array_equal(xp.to_numpy(_ops.expm1(xp.asarray(ends))), [np.inf, -1.0, 0.0, np.nan])


@pytest.mark.library("numpy", "torch")
def test_exp_works_in_the_memory_of_its_argument(xp):
    x = xp.asarray(np.asarray([0.0, 1.0]))
    assert _ops.exp_(x) is x
    np.testing.assert_allclose(xp.to_numpy(x), [1.0, math.e], rtol=4e-16)


@pytest.mark.parametrize("dtype", WIDE)
def test_relu_agrees_with_its_generic_form(xp, monkeypatch, dtype):
    x = np.asarray([-np.inf, -1.5, -0.0, 0.0, 2.5, np.inf, np.nan], dtype=dtype)
    for form in (_ops.relu, generic(monkeypatch, "relu")):
        array = xp.asarray(x)
        result = form(array)
        xp.assert_like(result, array)
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(xp.to_numpy(result), [0, 0, 0, 0, 2.5, np.inf, np.nan])
        np.testing.assert_array_equal(xp.to_numpy(array), x)  # no temporary of ours: it must stay


def both_forms(monkeypatch, name):
    """The primitive as it is, then without its fast forms."""
    yield getattr(_ops, name)
    yield generic(monkeypatch, name)


@pytest.mark.parametrize("dtype", WIDE)
def test_clip_agrees_with_its_generic_form(xp, monkeypatch, dtype):
    x = xp.asarray(np.asarray([-np.inf, -3.0, -1.0, 0.5, 2.0, 2.5, np.inf, np.nan], dtype=dtype))
    for form in both_forms(monkeypatch, "clip"):
        result = form(x, -1.0, 2.0)
        assert result.dtype == x.dtype
        np.testing.assert_array_equal(xp.to_numpy(result), [-1.0, -1.0, -1.0, 0.5, 2.0, 2.0, 2.0, np.nan])


@pytest.mark.parametrize("dtype", WIDE)
def test_segment_sum_agrees_with_its_generic_form(xp, monkeypatch, dtype):
    rng = np.random.default_rng(0)
    x, segments = rng.random(60).astype(dtype), rng.integers(0, 6, 60)
    segments[segments == 3] = 5  # a segment in the middle and two at the end stay empty
    exact = exact_sums([x[segments == i] for i in range(8)])
    for form in (_ops.segment_sum, generic(monkeypatch, "segment_sum")):
        # A dozen positive terms added up in whatever order, half an ulp at most for each; 4 was never seen.
        assert_ulps(xp, form(xp.asarray(x), xp.asarray(segments), 8)[:, None], exact, dtype, 4)


def test_segment_sum_of_nothing_is_zero(xp):
    x, segments = xp.asarray(np.zeros(0, dtype="float32")), xp.asarray(np.zeros(0, dtype="int64"))
    total = _ops.segment_sum(x, segments, 3)
    assert total.dtype == xp.float32
    np.testing.assert_array_equal(xp.to_numpy(total), [0, 0, 0])


@pytest.mark.parametrize("width", [1, 512, 1000, 1025, 50000])
@pytest.mark.parametrize("spread", ["even", "wide"])
def test_row_sum_is_within_4_ulp_however_long_the_row(xp, width, spread):
    # One accumulator in float32 would be off by some 100 ulp at 50,000 columns.
    rng = np.random.default_rng(width)
    rows = (rng.random((4, width)) if spread == "even" else np.exp(rng.normal(size=(4, width)) * 3)).astype(
        "float32"
    )
    with xp.no_sync():
        total = _ops.row_sum(xp.asarray(rows))
    assert_ulps(xp, total[:, None], exact_sums(rows), "float32", 4)


@pytest.mark.parametrize("width", [1, 33, 257, 1025])
def test_row_sum_agrees_with_its_generic_form(xp, monkeypatch, width):
    rows = np.random.default_rng(width).random((4, width))
    fast = xp.to_numpy(_ops.row_sum(xp.asarray(rows)))
    slow = xp.to_numpy(generic(monkeypatch, "row_sum")(xp.asarray(rows)))
    np.testing.assert_allclose(
        fast, slow, rtol=1e-13
    )  # a library's own sum of a thousand terms: some hundred ulp


@pytest.mark.library("jax")
@pytest.mark.parametrize("width", [20, 33, 129, 512, 1000, 50000])
def test_row_sum_stays_within_4_ulp_when_fused(xp, width):
    # What XLA makes of a sum together with what it sums is not what it makes of either alone.
    import jax

    rows = np.random.default_rng(width).random((4, width)).astype("float32")
    total = jax.jit(lambda x: _ops.row_sum(0.5 * x))(xp.asarray(rows))  # halves are exact
    assert_ulps(xp, total[:, None], exact_sums(0.5 * rows), "float32", 4)


@pytest.mark.parametrize("width", [3, 1025])
def test_row_sum_takes_any_leading_axes(xp, width):
    rows = np.random.default_rng(1).random((2, 3, width))
    for x, exact in ((rows, rows.sum(axis=-1)), (rows[0, 0], rows[0, 0].sum())):
        total = _ops.row_sum(xp.asarray(x))
        assert tuple(total.shape) == x.shape[:-1]
        np.testing.assert_allclose(xp.to_numpy(total), exact, rtol=4e-15)


@pytest.mark.parametrize("dtype", WIDE)
def test_row_sum_of_an_empty_row_is_zero(xp, dtype):
    total = _ops.row_sum(xp.asarray(np.zeros((3, 0), dtype=dtype)))
    assert total.dtype == getattr(xp, dtype)
    np.testing.assert_array_equal(xp.to_numpy(total), [0, 0, 0])


def test_row_sum_lets_nan_and_infinity_through_in_their_rows(xp):
    rows = np.ones((3, 2000))
    rows[0, 1999], rows[1, 700] = np.inf, np.nan
    np.testing.assert_array_equal(xp.to_numpy(_ops.row_sum(xp.asarray(rows))), [np.inf, np.nan, 2000])


@pytest.mark.parametrize(
    ("name", "expected"), [("multiply_", [3.0, 8.0]), ("add_", [4.0, 6.0]), ("subtract_", [-2.0, -2.0])]
)
def test_arithmetic_on_temporaries(xp, name, expected):
    x, y = xp.asarray(np.asarray([1.0, 2.0])), xp.asarray(np.asarray([3.0, 4.0]))
    result = getattr(_ops, name)(x, y)
    np.testing.assert_array_equal(xp.to_numpy(result), expected)
    np.testing.assert_array_equal(xp.to_numpy(y), [3.0, 4.0])
    if _array.place(y) != "traced":
        np.testing.assert_array_equal(xp.to_numpy(x), expected)  # in its memory


@pytest.mark.library("torch")
@pytest.mark.parametrize("name", ["exp_", "multiply_", "add_", "subtract_"])
def test_temporaries_in_a_graph_are_not_overwritten(xp, name):
    # The graph holds them for the backward pass.
    start = xp.asarray(np.asarray([0.5, -1.0])).requires_grad_(True)
    x = start * 2
    kept = x.detach().clone()
    other = () if name == "exp_" else (xp.asarray(np.asarray([3.0, 4.0])),)
    (getattr(_ops, name)(x, *other) * x).sum().backward()
    assert xp.all(x == kept)
    if other:
        constant = other[0].clone()
        getattr(_ops, name)(constant, x)
        assert xp.all(constant == other[0])


def towards_root(state, given):
    """A step of Newton's towards a square root, and whether it is there."""
    better = 0.5 * (state[0] + given[0] / state[0])
    return (better, state[1] + 1), abs(better * better - given[0]) < 1e-12


def test_iterate_stops_when_it_is_done_or_at_the_limit(xp):
    two, none = (xp.asarray(np.asarray(value)) for value in (2.0, 0.0))
    for limit in (3, 20):
        root, steps = _ops.iterate(towards_root, (two, none), (two,), limit)
        xp.assert_like(root, two)
        # From 2: 3/2, 17/12, 577/408, 665857/470832, whose square is 2 + 4.5e-12, and one more.
        assert steps == (min(limit, 5) if xp.name in ("numpy", "torch", "jax") else limit)
        expected = 577 / 408 if limit == 3 else math.sqrt(2)
        np.testing.assert_allclose(xp.to_numpy(root), expected, rtol=1e-15)


@pytest.mark.parametrize(("x", "y"), [(1.0, None), (None, 0.25), (1.0, 0.25), (None, None)])
def test_where_with_numbers_keeps_the_dtype(xp, x, y):
    condition = np.asarray([True, False, True])
    for dtype in xp.dtypes:
        like = xp.asarray(np.asarray([2.0, 3.0, 4.0]), dtype)
        result = _ops.where(xp.asarray(condition), like if x is None else x, like if y is None else y, like)
        xp.assert_like(result, like)
        assert result.dtype == like.dtype
        values = [np.asarray([2.0, 3.0, 4.0]) if side is None else side for side in (x, y)]
        np.testing.assert_array_equal(xp.to_numpy(result), np.where(condition, *values))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_of_many_entries_keeps_every_bit(xp, monkeypatch, dtype):
    # NumPy selects the bits of large arrays; nan, -0 and infinity must come through, and rows broadcast.
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 180, 100)).astype(dtype)
    x[0, :3], y[0, :3] = [np.nan, -0.0, np.inf], [-np.inf, np.nan, -0.0]
    condition = rng.random(x.shape) < 0.5
    for left, right in ((x, y), (x, 0.0), (-np.inf, y), (x[:1], y), (x, y[:, :1])):
        sides = [xp.asarray(side) if np.ndim(side) else side for side in (left, right)]
        expected = np.where(condition, np.asarray(left, dtype=dtype), np.asarray(right, dtype=dtype))
        for form in both_forms(monkeypatch, "where"):
            result = xp.to_numpy(form(xp.asarray(condition), *sides, xp.asarray(x)))
            np.testing.assert_array_equal(result, expected)
            np.testing.assert_array_equal(np.signbit(result), np.signbit(expected))


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize(
    ("shape", "share"), [((3, 5), 0.3), ((200, 100), 0.0), ((200, 100), 0.1), ((200, 100), 0.9)]
)
def test_a_function_of_few_entries(xp, monkeypatch, shape, share):
    rng = np.random.default_rng(0)
    x, y = rng.random((2, *shape))
    condition = rng.random(shape) < share
    for form in both_forms(monkeypatch, "where_few"):
        otherwise = -(xp.asarray(x.T.copy()).T)
        operands = xp.asarray(x), xp.asarray(y.T.copy()).T  # of any layout
        found = form(xp.asarray(condition), lambda a, b: a + b, otherwise, *operands)
        np.testing.assert_array_equal(xp.to_numpy(found), np.where(condition, x + y, -x))


def test_flat_positions_count_along_the_rows(xp, monkeypatch):
    mask = np.asarray([[False, True, True], [False, False, False], [True, False, True]])
    for form in both_forms(monkeypatch, "flat_positions"):
        np.testing.assert_array_equal(xp.to_numpy(form(xp.asarray(mask))), [1, 2, 6, 8])
        np.testing.assert_array_equal(xp.to_numpy(form(xp.asarray(mask[1:2]))), [])


@pytest.mark.library("numpy", "torch")
def test_distinct_is_in_order(xp):
    # NumPy's unique_values finds integers by their hashes, in no order.
    x = np.random.default_rng(3).integers(0, 10**6, 500)
    np.testing.assert_array_equal(xp.to_numpy(_ops.distinct(xp.asarray(np.tile(x, 2)))), np.unique(x))
    assert _ops.distinct(xp.asarray(x[:0])).shape == (0,)


def test_marked_are_the_valid_indices(xp, monkeypatch):
    indices = np.asarray([[0, 2, 2], [-1, 9, 1], [-1, -1, -1], [3, 0, 1]])
    valid = (indices >= 0) & (indices < 4)
    expected = [
        [True, False, True, False],
        [False, True, False, False],
        [False] * 4,
        [True, True, False, True],
    ]
    for form in both_forms(monkeypatch, "marked"):
        array = xp.asarray(indices)
        with xp.no_sync():
            marks = form(array, xp.asarray(valid), 4)
        xp.assert_like(marks, array)
        assert marks.dtype == xp.bool
        np.testing.assert_array_equal(xp.to_numpy(marks), expected)


def test_chosen_and_replaced_entries(xp, monkeypatch):
    x, columns = np.arange(12.0).reshape(3, 4), xp.asarray(np.asarray([3, 0, 2]))
    for form in both_forms(monkeypatch, "chosen"):
        np.testing.assert_array_equal(xp.to_numpy(form(xp.asarray(x), columns)), [3.0, 4.0, 10.0])
    for form in both_forms(monkeypatch, "replaced_"):
        zeroed = form(xp.asarray(x), columns, 0.0)
        put = form(xp.asarray(x), columns, xp.asarray(np.asarray([-1.0, np.inf, -3.0])))
        for result, values in ((zeroed, [0.0, 0.0, 0.0]), (put, [-1.0, np.inf, -3.0])):
            expected = x.copy()
            expected[[0, 1, 2], [3, 0, 2]] = values
            np.testing.assert_array_equal(xp.to_numpy(result), expected)


@pytest.mark.parametrize("dtype", WIDE)
def test_argmax_is_the_first_of_the_largest(xp, monkeypatch, dtype):
    x = np.random.default_rng(0).integers(0, 5, size=(8, 203)).astype(dtype)
    x[1], x[2, 7:9] = -np.inf, np.inf
    for form in both_forms(monkeypatch, "argmax"):
        np.testing.assert_array_equal(xp.to_numpy(form(xp.asarray(x))), x.argmax(axis=-1))


@pytest.mark.parametrize("count", [1, 3, 7])
def test_top_falls(xp, monkeypatch, count):
    x = np.random.default_rng(0).integers(0, 9, size=(5, 7)).astype("float32")
    x[1, 2:], x[2, :2] = -np.inf, np.inf
    for form in both_forms(monkeypatch, "top"):
        array = xp.asarray(x)
        np.testing.assert_array_equal(xp.to_numpy(form(array, count)), -np.sort(-x)[:, :count])
        np.testing.assert_array_equal(xp.to_numpy(array), x)


def test_true_entries_come_first_in_their_order(xp, monkeypatch):
    mask = np.asarray([[0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]], dtype=bool)
    for form in both_forms(monkeypatch, "first_true"):
        places = xp.to_numpy(form(xp.asarray(mask), 3))
        np.testing.assert_array_equal(places, [[1, 3, 4], [0, 1, 2], [0, 1, 2], [4, 0, 1]])


def test_entries_are_put_at_their_columns(xp, monkeypatch):
    x, columns = np.zeros((2, 4), dtype="float32"), np.asarray([[3, 0], [1, 2]])
    values = xp.asarray(np.asarray([[1.0, 2.0], [3.0, np.inf]], dtype="float32"))
    for form in both_forms(monkeypatch, "put_"):
        found = form(xp.asarray(x), xp.asarray(columns), values)
        assert found.dtype == xp.float32
        np.testing.assert_array_equal(xp.to_numpy(found), [[2, 0, 0, 1], [0, 3, np.inf, 0]])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1)])
def test_stacked_arrays_lie_one_above_the_other(xp, monkeypatch, shape):
    x = np.random.default_rng(0).random(shape).astype("float32")
    for form in both_forms(monkeypatch, "stacked"):
        np.testing.assert_array_equal(xp.to_numpy(form(xp.asarray(x), xp.asarray(-x))), np.stack((x, -x)))


def test_largest_and_extent(xp, monkeypatch):
    x = xp.asarray(np.asarray([[1.0, -5.0], [3.0, 2.0]]))
    for name, expected in (("largest", 3.0), ("extent", 5.0)):
        for form in both_forms(monkeypatch, name):
            assert float(form(x)) == expected
            assert np.isnan(float(form(xp.asarray(np.asarray([1.0, np.nan, 2.0])))))


@pytest.mark.library("numpy", "torch")
def test_an_interval_holds_no_nan(xp):
    inside, outside = np.asarray([0.0, 0.5, 1.0]), np.asarray([0.0, 1.5])
    assert _ops.lies_in(xp.asarray(inside), 0, 1)
    assert not _ops.lies_in(xp.asarray(outside), 0, 1)
    assert not _ops.lies_in(xp.asarray(-outside), 0, 1)
    assert not _ops.lies_in(xp.asarray(np.asarray([0.5, np.nan])), 0, 1)


@pytest.mark.library("numpy", "torch")
def test_a_copy_goes_into_the_buffer(xp):
    x, buffer = xp.asarray(np.ones(3)), xp.asarray(np.zeros(3))
    assert _ops.copied(x, buffer) is buffer
    np.testing.assert_array_equal(xp.to_numpy(buffer), np.ones(3))
    fresh = _ops.copied(x, None)
    fresh += 1
    np.testing.assert_array_equal(xp.to_numpy(x), np.ones(3))


@pytest.mark.parametrize("dtype", WIDE)
def test_row_max(xp, dtype):
    x = np.asarray([[1.0, 3.0, 2.0], [-np.inf, -5.0, -np.inf], [-np.inf] * 3], dtype=dtype)
    np.testing.assert_array_equal(xp.to_numpy(_ops.row_max(xp.asarray(x))), [3.0, -5.0, -np.inf])
    empty = xp.asarray(x[:, :0])
    largest = _ops.row_max(empty)
    xp.assert_like(largest, empty)
    assert largest.dtype == empty.dtype
    np.testing.assert_array_equal(xp.to_numpy(largest), [-np.inf] * 3)


def test_first_largest_of_ties(xp):
    x = np.asarray([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-np.inf, -np.inf, -np.inf], [0.0, -1.0, 5.0]])
    array = xp.asarray(x)
    first = _ops.first_largest(array)
    xp.assert_like(first, array)
    assert first.dtype == xp.bool
    np.testing.assert_array_equal(
        xp.to_numpy(first),
        [[False, True, False], [True, False, False], [True, False, False], [False, False, True]],
    )


def test_first_largest_of_an_empty_row(xp):
    first = _ops.first_largest(xp.asarray(np.zeros((2, 0))))
    assert tuple(first.shape) == (2, 0)
    assert first.dtype == xp.bool


def pairs(dtype):
    """Numbers of very different size, whose errors stay normal numbers."""
    rng = np.random.default_rng(2)
    x, y = (rng.normal(size=200) * 2.0 ** rng.integers(-30, 30, 200) for _ in range(2))
    return x.astype(dtype), y.astype(dtype)


def assert_exact(x, y, difference, error):
    for a, b, d, e in zip(x, y, difference, error, strict=True):
        assert Fraction(float(d)) + Fraction(float(e)) == Fraction(float(a)) - Fraction(float(b))


@pytest.mark.parametrize("dtype", WIDE)
def test_exact_difference_is_exact(xp, dtype):
    x, y = pairs(dtype)
    difference, error = map(xp.to_numpy, _ops.exact_difference(xp.asarray(x), xp.asarray(y)))
    assert difference.dtype == error.dtype == dtype
    np.testing.assert_array_equal(difference, x - y)
    assert np.any(error != 0)
    assert_exact(x, y, difference, error)


@pytest.mark.library("jax")
@pytest.mark.parametrize("dtype", WIDE)
def test_exact_difference_stays_exact_when_compiled(xp, dtype):
    import jax

    x, y = pairs(dtype)
    difference, error = map(xp.to_numpy, jax.jit(_ops.exact_difference)(xp.asarray(x), xp.asarray(y)))
    assert_exact(x, y, difference, error)  # a compiler that reorders sums would find 0


FACTORS = (256.0, 80.0, 1 / 3, 0.1, -7.5, 1e-3)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("factor", FACTORS)
def test_products_squares_and_quotients_beyond_the_digits(xp, dtype, factor, compiled):
    # What is lacking is itself rounded: it is a product of halves, of half the digits each, and their sum.
    eps = float(np.finfo(dtype).eps)
    if compiled and xp.name != "jax":
        pytest.skip("nothing to compile with")
    x, _ = pairs(dtype)
    run = __import__("jax").jit if compiled else lambda f: f
    exact_factor = Fraction(factor)
    for rounded, function in (
        (lambda a: a * exact_factor, lambda a: _ops.exact_product(a, factor)),
        (lambda a: a / exact_factor, lambda a: _ops.exact_quotient(a, factor)),
        (lambda a: a * a, _ops.exact_square),
    ):
        high, low = run(function)(xp.asarray(x))
        low = np.zeros_like(x) if low is None else xp.to_numpy(low)
        for a, h, e in zip(x, xp.to_numpy(high), low, strict=True):
            exact = rounded(Fraction(float(a)))
            assert abs(Fraction(float(h)) + Fraction(float(e)) - exact) <= abs(exact) * Fraction(4 * eps**1.5)


def test_exact_arithmetic_lacks_nothing_at_infinity(xp):
    x = xp.asarray(np.asarray([np.inf, -np.inf, 1e300]))
    with _walk.quiet(x):
        results = _ops.exact_product(x, 3.0), _ops.exact_quotient(x, 3.0), _ops.exact_square(x)
    for high, low in results:
        assert not np.isnan(xp.to_numpy(high)).any()
        np.testing.assert_array_equal(xp.to_numpy(low)[:2], [0.0, 0.0])
        assert np.isfinite(xp.to_numpy(low)[2])


@pytest.mark.parametrize("dtype", WIDE)
def test_exact_square_has_twice_the_digits(xp, dtype):
    x, _ = pairs(dtype)
    square, error = map(xp.to_numpy, _ops.exact_square(xp.asarray(x)))
    for value, head, tail in zip(x, square, error, strict=True):
        exact = Fraction(float(value)) ** 2
        off = abs(Fraction(float(head)) + Fraction(float(tail)) - exact)
        assert off <= exact * Fraction(float(np.finfo(dtype).eps)) ** 2


@pytest.mark.parametrize("dtype", WIDE)
def test_log_max_is_the_largest_exponent(xp, dtype):
    limit = _ops.log_max(xp.asarray(np.zeros(1, dtype=dtype)))
    assert limit == pytest.approx(
        {"float32": 88.72283905206835, "float64": 709.782712893384}[dtype], rel=1e-15
    )


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.75, 1.0])
@pytest.mark.parametrize("name", ["move_", "move_to_square_"])
def test_moves_agree_with_their_generic_form(xp, monkeypatch, name, weight):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 50))
    exact = x + weight * ((y if name == "move_" else y * y) - x)
    for form in (getattr(_ops, name), generic(monkeypatch, name)):
        found = xp.to_numpy(form(xp.asarray(x), xp.asarray(y), weight))
        np.testing.assert_allclose(found, exact, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize(("width", "k"), [(5, 5), (40, 3), (203, 4), (700, 4), (703, 4), (3000, 20)])
def test_smallest_agrees_with_its_generic_form(xp, monkeypatch, width, k):
    x = np.random.default_rng(width).normal(size=(6, width))
    x[1, : width - k + 1] = x[2, : width - 1] = np.inf  # fewer finite ones than asked for: still k places
    expected = np.sort(x, axis=-1)[:, :k]
    for form in (_ops.smallest, generic(monkeypatch, "smallest")):
        array = xp.asarray(x)
        with xp.no_sync():
            places = form(array, k)
        places = xp.to_numpy(places)
        assert all(len(set(row)) == k for row in places)
        np.testing.assert_array_equal(np.sort(np.take_along_axis(x, places, axis=-1), axis=-1), expected)
        np.testing.assert_array_equal(xp.to_numpy(array), x)


@pytest.mark.parametrize("width", [30, 203])
def test_smallest_takes_the_first_of_equals_where_it_cannot_be_asked_again(xp, monkeypatch, width):
    x = np.random.default_rng(0).integers(0, 4, size=(8, width)).astype("float32")
    places = generic(monkeypatch, "smallest")(xp.asarray(x), 5)
    expected = np.argsort(x, axis=-1, kind="stable")[:, :5]
    np.testing.assert_array_equal(np.sort(xp.to_numpy(places), axis=-1), np.sort(expected, axis=-1))


@pytest.mark.parametrize("dtype", WIDE)
def test_sum_by_target_agrees_with_its_generic_form(xp, monkeypatch, dtype):
    rng = np.random.default_rng(0)
    rows, targets = rng.random((30, 2)).astype(dtype), rng.integers(0, 6, 30)
    targets[targets == 3] = 5
    exact = exact_sums([rows[targets == i, j] for i in range(8) for j in range(2)])
    for form in (_ops.sum_by_target, generic(monkeypatch, "sum_by_target")):
        with xp.no_sync():
            total = form(xp.asarray(rows), xp.asarray(targets), 8)
        assert tuple(total.shape) == (8, 2)
        assert_ulps(xp, xp.reshape(total, (-1, 1)), exact, dtype, 3)  # up to 10 positive terms


def test_product_agrees_with_its_generic_form(xp, monkeypatch):
    x, y = (
        np.random.default_rng(i).normal(size=shape).astype("float32")
        for i, shape in enumerate([(5, 7), (7, 4)])
    )
    for form in (_ops.product, generic(monkeypatch, "product")):
        found = form(xp.asarray(x), xp.asarray(y))
        np.testing.assert_allclose(xp.to_numpy(found), x.astype("float64") @ y, atol=7 * 2**-23 * 10)


@pytest.mark.parametrize("join", ["add", "maximum"])
def test_pairs_agree_with_their_generic_form(xp, monkeypatch, join):
    x, y = (np.random.default_rng(i).normal(size=(n, 3)) for i, n in enumerate((4, 6)))
    gaps = np.abs(x[:, None] - y[None])
    expected = gaps.sum(axis=-1) if join == "add" else gaps.max(axis=-1)
    for form in (_ops.pairs, generic(monkeypatch, "pairs")):
        found = form(xp.asarray(x), xp.asarray(y), xp.abs, join)
        np.testing.assert_allclose(xp.to_numpy(found), expected, rtol=1e-15)


@pytest.mark.parametrize("width", [1, 2, 7, 64])
def test_exact_row_sum_has_twice_the_digits(xp, width):
    rows = np.random.default_rng(width).normal(size=(20, width)) ** 3
    total, lost = map(xp.to_numpy, _ops.exact_row_sum(xp.asarray(rows)))
    for row, head, tail in zip(rows, total, lost, strict=True):
        exact = sum(map(Fraction, map(float, row)))
        size = sum(abs(Fraction(float(v))) for v in row)
        assert abs(Fraction(float(head)) + Fraction(float(tail)) - exact) <= size * width * Fraction(
            1, 2**104
        )
        assert abs(tail) <= 2.0**-53 * abs(head)


@pytest.mark.library("numpy", "torch", "jax")
def test_either_runs_one_of_two(xp):
    x = xp.asarray(np.asarray([1.0, 2.0]))
    assert _ops.can_branch(x)
    for bound, expected in ((5.0, [2.0, 3.0]), (1.5, [0.0, 1.0])):
        found = _ops.either(xp.all(x < bound), lambda v: v + 1.0, lambda v: v - 1.0, x)
        np.testing.assert_array_equal(xp.to_numpy(found), expected)


@pytest.mark.library("strict", "cupy")
def test_there_is_no_branch_on_a_device(xp):
    assert not _ops.can_branch(xp.asarray(np.asarray([1.0])))


def test_map_blocks_puts_the_rows_together(xp):
    x = np.arange(14.0).reshape(7, 2)
    doubled, sums = _ops.map_blocks(lambda v, _: (2 * v, xp.sum(v, axis=-1)), 3, (xp.asarray(x), None))
    np.testing.assert_array_equal(xp.to_numpy(doubled), 2 * x)
    np.testing.assert_array_equal(xp.to_numpy(sums), x.sum(axis=-1))


def test_settled_changes_nothing(xp):
    x = np.asarray([[0.0, -0.0, 1.5], [-np.inf, np.inf, np.nan]])
    np.testing.assert_array_equal(xp.to_numpy(_ops.settled(xp.asarray(x))), x)


@pytest.mark.library("jax")
def test_differences_of_what_is_settled_are_those_of_rounded_numbers(xp):
    import jax

    def numbers_and_gaps(x):
        z = _ops.settled(x * xp.max(x, axis=0, keepdims=True))
        return z, z[:, None, :] - z[None, :, :]

    z, gaps = map(np.asarray, jax.jit(numbers_and_gaps)(np.random.default_rng(0).normal(size=(12, 2))))
    np.testing.assert_array_equal(gaps, z[:, None, :] - z[None, :, :])


@pytest.mark.parametrize("dtype", WIDE)
def test_ratios_and_roots_are_rounded_correctly(xp, monkeypatch, dtype):
    # NumPy's are the processor's own; of PyTorch's roots one in two hundred is not, of XLA's such ratios one in four.
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 20)).astype(dtype), np.exp(rng.normal(size=(200, 1))).astype(dtype)
    squares = np.concatenate([np.abs(x), np.zeros((1, 20), dtype)])
    np.testing.assert_array_equal(xp.to_numpy(_ops.ratio(xp.asarray(x), xp.asarray(y))), x / y)
    np.testing.assert_array_equal(xp.to_numpy(_ops.root(xp.asarray(squares))), np.sqrt(squares))
    plain = xp.to_numpy(generic(monkeypatch, "ratio")(xp.asarray(x), xp.asarray(y)))
    assert_ulps(xp, xp.asarray(plain), (x.astype(object) * mp.mpf(1)) / y.astype(object), dtype, 2)
    plain = xp.to_numpy(generic(monkeypatch, "root")(xp.asarray(squares)))
    np.testing.assert_allclose(plain, np.sqrt(squares), rtol=2 * np.finfo(dtype).eps)


@pytest.mark.parametrize("width", [1, 2, 7, 64, 1001])
def test_a_sum_in_order_has_the_same_bits_everywhere(xp, width):
    x = np.random.default_rng(0).normal(size=(3, width)) * 10.0 ** np.arange(3)[:, None]
    got = _ops.ordered_row_sum(xp.asarray(x))
    np.testing.assert_array_equal(xp.to_numpy(got), _ops.ordered_row_sum(x))
    assert_ulps(xp, got[:, None], exact_sums(x), "float64", 64)
