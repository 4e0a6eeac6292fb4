"""Neighbours against the twin, index by index: data made to mislead, ties, scales at the ends of the dtypes."""

import functools
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import assert_ulps
from zlpr import _ops, reference
from zlpr.entropy import _brute, _metric, _tree, neighbors
from zlpr.entropy._ranking import Space

WIDE = ("float32", "float64")
N = 26


def misleading(name, d, dtype):
    """N points on which a plain matrix product takes wrong neighbours."""
    rng = np.random.default_rng(d)
    half = rng.normal(size=(N // 2, d))
    with_twin = np.concatenate([half, half])
    away = rng.normal(size=(N // 2, d))
    points = {
        "normal": lambda: rng.normal(size=(N, d)),
        "far from the origin": lambda: rng.normal(size=(N, d)) + 1e6,
        "pairs 1e-5 apart": lambda: np.concatenate([half, half + 1e-5 * away]),
        "pairs 1e-3 apart, shifted": lambda: np.concatenate([half, half + 1e-3 * away]) + 1000.0,
        "a cluster and an outlier": lambda: np.concatenate(
            [1e-6 * rng.normal(size=(N - 1, d)), np.full((1, d), 1e4)]
        ),
        "duplicates": lambda: with_twin,
        "one place": lambda: np.full((N, d), 0.3),
        "a crowd to the left": lambda: np.maximum(np.arange(float(N)) - 20, 0)[::-1, None] * np.ones(d),
        "a grid": lambda: rng.integers(-2, 3, size=(N, d)).astype(float),
        "permuted coordinates": lambda: np.asarray(
            list(itertools.islice(itertools.cycle(itertools.permutations(rng.random(d))), N))
        ),
        "tiny": lambda: rng.normal(size=(N, d)) * (1e-30 if dtype == "float32" else 1e-250),
        "huge": lambda: rng.normal(size=(N, d)) * (1e30 if dtype == "float32" else 1e250),
    }[name]()
    return points.astype(dtype)


NAMES = (
    *(
        "normal",
        "far from the origin",
        "pairs 1e-5 apart",
        "pairs 1e-3 apart, shifted",
        "a cluster and an outlier",
    ),
    *("duplicates", "one place", "a crowd to the left", "a grid", "permuted coordinates", "tiny", "huge"),
)


@functools.cache
def exact(name, d, dtype, k, p):
    return reference.neighbors(misleading(name, d, dtype).tolist(), k, p=p)


def assert_exact(xp, found, truth, dtype, ulps=2):
    distances, indices = found
    np.testing.assert_array_equal(xp.to_numpy(indices), truth[1])
    k = len(truth[0][0])
    assert_ulps(
        xp, xp.reshape(distances, (-1, 1)), np.reshape(np.asarray(truth[0], object), (-1, 1)), dtype, ulps
    )
    assert tuple(distances.shape) == (len(truth[0]), k)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("d", "p"), [(1, 2.0), (3, 1.0), (3, 2.0), (3, math.inf)])
@pytest.mark.parametrize("dtype", WIDE)
def test_neighbours_are_those_of_exact_distances(xp, name, d, p, dtype):
    x = xp.asarray(misleading(name, d, dtype))
    with xp.no_sync():
        found = neighbors(x, 3, p=p)
    xp.assert_like(found[0], x)
    xp.assert_like(found[1], x)
    truth, rows = exact(name, d, dtype, 3, p), N
    if name == "a cluster and an outlier" and xp.name not in ("numpy", "torch"):
        rows = (
            N - 1
        )  # seen from the outlier, more points than there are candidates differ by rounding errors alone
    assert_exact(xp, [v[:rows, ...] for v in found], [v[:rows] for v in truth], dtype)


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", ["tree", "brute"])
@pytest.mark.parametrize(("d", "p"), [(1, 1.0), (3, 1.0), (3, 2.0), (3, math.inf)])
def test_tree_and_brute_force_are_exact_as_well(xp, name, method, d, p):
    for dtype in WIDE:
        found = neighbors(xp.asarray(misleading(name, d, dtype)), 3, p=p, method=method)
        assert_exact(xp, found, exact(name, d, dtype, 3, p), dtype)


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_other_norms(xp, p):
    # Distances by powers: the sum, its root, and the product with the largest coordinate round once each.
    for name in ("normal", "pairs 1e-3 apart, shifted", "a grid"):
        found = neighbors(xp.asarray(misleading(name, 3, "float64")), 2, p=p)
        assert_exact(xp, found, exact(name, 3, "float64", 2, p), "float64", 4)


@pytest.mark.parametrize("d", [1, 3])
def test_queries_from_elsewhere(xp, d):
    rng = np.random.default_rng(0)
    x = np.round(rng.normal(size=(N, d)), 1)
    queries = np.concatenate(
        [x[:4], np.round(rng.normal(size=(5, d)), 1)]
    )  # an equal point is a neighbour here
    found = neighbors(xp.asarray(x), 3, queries=xp.asarray(queries))
    assert_exact(xp, found, reference.neighbors(x.tolist(), 3, queries=queries.tolist()), "float64")


COORDINATES = st.one_of(
    st.integers(-2, 2).map(float),
    st.integers(-(2**20), 2**20).map(lambda i: i / 2**10),
    st.sampled_from([1e6, 1e6 + 2**-10, -1e6, 2.0**-10, -0.0]),
)


@given(x=hnp.arrays(np.float64, (11, 2), elements=COORDINATES))
def test_points_of_any_size(xp, x):
    # Squared distances are multiples of 2^-20 below 2^44, so that twice the digits of float64 tell all of them apart.
    assert_exact(xp, neighbors(xp.asarray(x), 2), reference.neighbors(x.tolist(), 2), "float64")


def all_pairs(x, k, p):
    """An oracle for more points than the twin can take: longer floats, and a stable sort."""
    gaps = np.abs(x.astype(np.longdouble)[:, None] - x.astype(np.longdouble)[None])
    distances = gaps.max(axis=-1) if math.isinf(p) else (gaps**p).sum(axis=-1)
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


@pytest.mark.library("numpy", "torch", "jax")
@pytest.mark.parametrize("shape", ["ball", "clusters", "grid"])
def test_many_points_in_many_blocks(xp, shape):
    # Several blocks, the last one shorter; candidates by groups; rows that the product leaves unsure.
    rng, n = np.random.default_rng(1), 1500
    x = rng.normal(size=(n, 4))
    if shape == "clusters":
        x = np.repeat(rng.normal(size=(n // 50, 4)), 50, axis=0) + 1e-6 * x
    if shape == "grid":
        x = np.round(x)
    _, indices = neighbors(xp.asarray(x.astype("float32")), 2, method="brute")
    np.testing.assert_array_equal(xp.to_numpy(indices), all_pairs(x.astype("float32"), 2, 2.0))


@pytest.mark.parametrize("d", [1, 3])
def test_no_queries_have_no_neighbours(xp, d):
    x = xp.asarray(misleading("normal", d, "float64"))
    for p in (2.0, math.inf):
        distances, indices = neighbors(x, 2, queries=x[:0, :], p=p)
        assert tuple(distances.shape) == tuple(indices.shape) == (0, 2)


@pytest.mark.library("numpy", "torch")
def test_no_queries_in_a_tree(xp):
    x = xp.asarray(misleading("normal", 3, "float64"))
    assert tuple(neighbors(x, 2, queries=x[:0, :], method="tree")[0].shape) == (0, 2)


def test_every_number_of_neighbours(xp):
    x = misleading("a grid", 3, "float64")
    everyone = reference.neighbors(x.tolist(), N - 1)
    assert_exact(xp, neighbors(xp.asarray(x), N - 1), everyone, "float64")


def test_half_precisions_are_searched_in_float32(xp):
    x = misleading("normal", 3, "float64")
    for dtype in set(xp.dtypes) & {"float16", "bfloat16"}:
        half = xp.asarray(x, dtype)
        distances, indices = neighbors(half, 2)
        wide = neighbors(xp.astype(half, xp.float32), 2)
        assert distances.dtype == half.dtype
        np.testing.assert_array_equal(xp.to_numpy(indices), xp.to_numpy(wide[1]))


@pytest.mark.parametrize("dtype", WIDE)
def test_keys_have_twice_the_digits(xp, dtype):
    rng = np.random.default_rng(6)
    x, y = (
        np.asarray(rng.normal(size=(40, 7)) * 2.0 ** rng.integers(-12, 12, (40, 7)), dtype=dtype)
        for _ in "xy"
    )
    gaps = _ops.exact_difference(xp.asarray(x), xp.asarray(y))
    tail, head, _ = map(xp.to_numpy, _metric.exact_keys(*gaps, 2.0))
    for row, other, high, low in zip(x, y, head, tail, strict=True):
        exact_sum = sum(
            (Fraction(float(a)) - Fraction(float(b))) ** 2 for a, b in zip(row, other, strict=True)
        )
        off = abs(Fraction(float(high)) + Fraction(float(low)) - exact_sum)
        assert off <= exact_sum * 16 * Fraction(float(np.finfo(dtype).eps)) ** 2


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, math.inf])
def test_keys_of_permuted_coordinates_are_the_same(xp, p):
    rng = np.random.default_rng(8)
    x, y = (rng.normal(size=(200, 41)) * 2.0 ** rng.integers(-20, 20, (200, 41)) for _ in "xy")
    order = rng.permutation(41)
    other = (np.ascontiguousarray(z[:, order]) for z in (y, x))
    keys, permuted = (
        _metric.exact_keys(*_ops.exact_difference(xp.asarray(a), xp.asarray(b)), p)
        for a, b in ((x, y), other)
    )
    for key, same in zip(keys, permuted, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(key), xp.to_numpy(same))


@pytest.mark.library("numpy")
def test_memory_is_that_of_a_few_blocks():
    # All pairs at once would be 16 n² = 1.6 GB here; a block has 2^20 entries, and a few of them are held.
    import tracemalloc

    x = np.random.default_rng(0).normal(size=(10_000, 12))
    tracemalloc.start()
    neighbors(x, 3, method="brute")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 2**20


@pytest.mark.library("numpy")
def test_the_bound_on_the_product_holds():
    # The error of a rounded product against exact integers, for points that are far apart, near, and off the centre.
    rng = np.random.default_rng(3)
    for d in (1, 3, 40):
        x = (rng.normal(size=(300, d)) * np.exp(3 * rng.normal(size=(300, 1))) + rng.normal(size=d)).astype(
            "float32"
        )
        space = Space(x, None, 2.0)
        search = _brute._Search(space, *_brute.unit(x, x), 1, True)
        y = search.centred(x)
        product = _ops.product(np.concatenate([y, np.ones_like(y[:, :1])], axis=1), search.table())
        wide = x.astype("float64")
        squares = ((wide[:, None] - wide[None]) ** 2).sum(axis=-1) * float(search.factor) ** 2
        off = np.abs(product + (y.astype("float64") ** 2).sum(axis=-1)[:, None] - squares)
        reach = np.linalg.norm(y.astype("float64"), axis=-1)
        bound = (3 * d + 10) * 2.0**-24 * (reach[:, None] + reach[None, :]) ** 2
        assert np.all(off <= bound)
        assert np.max(off / bound) > 1e-3  # it is a bound on something


@pytest.mark.library("numpy")
def test_what_the_product_leaves_unsure_is_compared_again(monkeypatch):
    # Within the cluster, and seen from the outlier, the product knows nothing.
    x, seen = misleading("a cluster and an outlier", 3, "float32"), []
    whole = _brute._nearest_by_subtraction

    def counting(search, queries, own):
        seen.append(len(queries))
        return whole(search, queries, own)

    monkeypatch.setattr(_brute, "_nearest_by_subtraction", counting)
    neighbors(x, 3, method="brute")
    neighbors(misleading("normal", 3, "float32"), 3, method="brute")
    assert seen == [N]  # and nothing of the normal sample


@pytest.mark.library("numpy")
def test_the_tree_is_taken_where_it_is_faster(monkeypatch):
    asked = []
    monkeypatch.setattr(_tree, "nearest", lambda space, *rest: asked.append(space.points.shape))
    x = np.random.default_rng(0).normal(size=(3000, 2))
    with pytest.raises(TypeError):
        neighbors(x, 1)
    assert asked == [(3000, 2)]


BAD = {
    "x must be an array": lambda xp, x: ((x.tolist(), 1), {}),
    "x must have a real floating dtype": lambda xp, x: ((xp.asarray(x.astype("int64")), 1), {}),
    "x must have points and coordinates": lambda xp, x: ((xp.asarray(x[:, 0]), 1), {}),
    "at least one coordinate": lambda xp, x: ((xp.asarray(x[:, :0]), 1), {}),
    r"x must be of shape \(n, d\)": lambda xp, x: ((xp.asarray(x[None]), 1), {}),
    "k must be at least 1 and at most 4, the number of other points, got 5": lambda xp, x: (
        (xp.asarray(x), 5),
        {},
    ),
    "k must be at least 1 and at most 5, the number of points, got 6": lambda xp, x: (
        (xp.asarray(x), 6),
        {"queries": xp.asarray(x)},
    ),
    "k must be an integer": lambda xp, x: ((xp.asarray(x), 1.5), {}),
    "p must be a number of at least 1": lambda xp, x: ((xp.asarray(x), 1), {"p": 0.5}),
    'method must be "auto"': lambda xp, x: ((xp.asarray(x), 1), {"method": "ball"}),
    "queries must have the coordinates": lambda xp, x: (
        (xp.asarray(x), 1),
        {"queries": xp.asarray(x[:, :1])},
    ),
    "queries must have the dtype": lambda xp, x: (
        (xp.asarray(x), 1),
        {"queries": xp.asarray(x.astype("float32"))},
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_errors_name_the_argument(xp, message):
    args, opts = BAD[message](xp, np.arange(10.0).reshape(5, 2))
    with pytest.raises((TypeError, ValueError), match=message):
        neighbors(*args, **opts)


@pytest.mark.library("numpy", "torch")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite_are_refused_on_the_host(xp, value):
    x = np.arange(10.0).reshape(5, 2)
    x[3, 1] = value
    with pytest.raises(ValueError, match=r"x must be finite, but x\[3, 1\] is"):
        neighbors(xp.asarray(x), 1)
    with pytest.raises(ValueError, match=r"queries must be finite"):
        neighbors(xp.asarray(np.arange(4.0).reshape(2, 2)), 1, queries=xp.asarray(x))


@pytest.mark.library("strict", "jax")
def test_the_tree_takes_host_arrays_alone(xp):
    with pytest.raises(TypeError, match="takes arrays in host memory"):
        neighbors(xp.asarray(np.arange(10.0).reshape(5, 2)), 1, method="tree")


@pytest.mark.library("jax")
def test_under_jit(xp):
    import jax

    x = misleading("a grid", 3, "float64")
    found = jax.jit(lambda z: neighbors(z, 3))(xp.asarray(x))
    assert_exact(xp, found, exact("a grid", 3, "float64", 3, 2.0), "float64")


@pytest.mark.library("torch")
def test_distances_carry_no_graph(xp):
    x = xp.asarray(misleading("normal", 3, "float64")).requires_grad_(True)
    distances, _ = neighbors(x, 2)
    assert not distances.requires_grad
