"""sparse_zlpr_loss against its exact twin, against the dense form, and where the form that circulates goes wrong."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from _exact import assert_ulps, scores_of
from zlpr import _walk, reference
from zlpr.losses import sparse_zlpr_loss, zlpr_loss
from zlpr.validation import check_rule

WIDE = ("float32", "float64")
SHAPES = ((1, 1, 1), (3, 5, 4), (2, 40, 3))  # rows, classes, places for positives


def positives_of(rows, classes, places):
    """Class indices and padding in any order, repeated or not."""
    return hnp.arrays(np.int64, (rows, places), elements=st.integers(-1, classes - 1))


def exact_rows(scores, positives, **opts):
    rows = [
        reference.sparse_zlpr_loss(list(map(float, s)), list(map(int, p)), **opts)
        for s, p in zip(scores, positives, strict=True)
    ]
    return [r.value for r in rows], [r.gradient for r in rows], [r.hessian for r in rows]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
def test_value_and_gradient_are_within_4_ulp(xp, shape, dtype, data):
    scores, positives = data.draw(scores_of(shape[:2], dtype, infinite=True)), data.draw(positives_of(*shape))
    s = xp.asarray(scores)
    with xp.no_sync():
        value, gradient = sparse_zlpr_loss.value_and_grad(s, xp.asarray(positives), reduction="none")
    xp.assert_like(gradient, s)
    for actual, exact in zip((value, gradient), exact_rows(scores, positives)[:2], strict=True):
        assert_ulps(xp, actual, exact, dtype, 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_are_rounded_once(xp, dtype):
    if dtype not in xp.dtypes:
        pytest.skip(f"{xp.name} has no {dtype}")
    rng = np.random.default_rng(0)
    s, positives = xp.asarray(rng.normal(size=(20, 6)) * 3, dtype), rng.integers(-1, 6, (20, 2))
    got = sparse_zlpr_loss.value_and_grad(s, xp.asarray(positives), reduction="none")
    for actual, exact in zip(got, exact_rows(xp.to_numpy(s).astype(float), positives)[:2], strict=True):
        assert_ulps(xp, actual, exact, dtype, 0.51)


def circulating_form(scores, positives):
    """The sum of all classes less the positives, kept from 0 by 1e-7, and its gradient by differences in float64."""
    chosen = scores[positives]
    every, some = np.logaddexp.reduce(np.append(scores, 0)), np.logaddexp.reduce(chosen)
    negative = every + np.log(np.clip(1 - np.exp(some - every), 1e-7, 1))
    return negative + np.logaddexp.reduce(np.append(-chosen, 0))


@pytest.mark.parametrize(
    ("margin", "exact", "theirs"),
    [  # two positives at the margin, eight negatives at its opposite; what bert4keras and bert4torch give
        (20.0, 2.0611536e-08, 4.58),
        (30.0, 9.3576229e-13, 14.58),
    ],
)
def test_confident_rows_where_the_circulating_form_is_wrong(xp, margin, exact, theirs):
    scores, positives = np.where(np.arange(10) < 2, margin, -margin), np.asarray([0, 1])
    assert circulating_form(scores, positives) == pytest.approx(theirs, abs=0.01)
    value, gradient = sparse_zlpr_loss.value_and_grad(xp.asarray(scores[None]), xp.asarray(positives[None]))
    assert float(value) == pytest.approx(exact, rel=1e-7)
    (truth,), (slopes,), _ = exact_rows(scores[None], positives[None])
    assert float(value) == pytest.approx(float(truth), rel=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient)[0], [float(g) for g in slopes], rtol=1e-15)
    assert np.all(xp.to_numpy(gradient)[0][:2] < 0)  # theirs pushes positives down: +0.5


def test_repeated_indices_count_once(xp):
    # The circulating form subtracts a repeated class twice: -12.4 here.
    scores, positives = np.asarray([[3.0, -1.0, 2.0, -2.0, 0.5]]), np.asarray([[0, 2, 2]])
    value = sparse_zlpr_loss(xp.asarray(scores), xp.asarray(positives))
    negatives, positives = (math.exp(z) for z in (-1.0, -2.0, 0.5)), (math.exp(-z) for z in (3.0, 2.0))
    assert float(value) == pytest.approx(math.log1p(sum(negatives)) + math.log1p(sum(positives)), rel=1e-15)


@pytest.mark.parametrize("opts", [{}, {"threshold": 0.7}, {"temperature": 0.3}, {"threshold": -40.0}])
def test_the_dense_form_agrees(xp, opts):
    rng = np.random.default_rng(1)
    scores, positives = rng.normal(size=(50, 60)) * 4, rng.integers(-1, 60, (50, 7))
    targets = np.zeros((50, 61), dtype=bool)
    np.put_along_axis(targets, positives % 61, True, axis=1)  # the padding goes to a column of its own
    s, mask, w = xp.asarray(scores), rng.random((50, 60)) < 0.9, rng.random(60) + 0.5
    for more in ({}, {"mask": xp.asarray(mask)}, {"class_weight": xp.asarray(w)}):
        both = {**opts, **more, "reduction": "none"}
        ours = sparse_zlpr_loss.value_grad_hess(s, xp.asarray(positives), **both)
        theirs = zlpr_loss.value_grad_hess(s, xp.asarray(targets[:, :60]), **both)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=1e-13, atol=1e-300)
    v = xp.asarray(rng.normal(size=(50, 60)))
    np.testing.assert_allclose(
        xp.to_numpy(sparse_zlpr_loss.hvp(s, xp.asarray(positives), v, **opts)),
        xp.to_numpy(zlpr_loss.hvp(s, xp.asarray(targets[:, :60]), v, **opts)),
        rtol=1e-12,
        atol=1e-18,
    )


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8])
def test_any_padding_and_any_integers(xp, dtype):
    scores = xp.asarray(np.asarray([[0.5, -1.0, 2.0], [1.0, 0.0, -3.0]]))
    expected = sparse_zlpr_loss.value_and_grad(scores, xp.asarray(np.asarray([[2, -1], [-1, -1]])))
    padded = xp.asarray(np.asarray([[2, 100], [100, 100]], dtype=dtype))
    got = sparse_zlpr_loss.value_and_grad(scores, padded, padding=100)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(a), xp.to_numpy(b))


def test_a_class_that_is_the_padding_is_never_positive(xp):
    # The convention of bert4keras: class 0 marks unused places.
    scores, positives = np.asarray([[0.5, -1.0, 2.0]]), np.asarray([[2, 0, 0]])
    value = sparse_zlpr_loss(xp.asarray(scores), xp.asarray(positives), padding=0)
    assert float(value) == pytest.approx(float(zlpr_loss(scores, np.asarray([[0, 0, 1]]))), rel=1e-15)


@pytest.mark.library("numpy", "torch")
def test_an_index_out_of_range_is_named_with_its_row(xp):
    scores = xp.asarray(np.zeros((3, 4)))
    for bad in (4, -2):
        positives = xp.asarray(np.asarray([[0, -1], [1, 2], [bad, 3]]))
        with pytest.raises(ValueError, match=rf"indices in 0\.\.3 or the padding, got {bad} in row 2"):
            sparse_zlpr_loss(scores, positives)


@pytest.mark.library("jax", "strict", "cupy")
def test_an_index_out_of_range_gives_nan_where_values_are_not_read(xp):
    scores, positives = (
        xp.asarray(np.zeros((4, 3))),
        xp.asarray(np.asarray([[0, -1], [3, 0], [-2, 1], [2, 2]])),
    )
    with xp.no_sync():
        value, gradient = sparse_zlpr_loss.value_and_grad(scores, positives, reduction="none")
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(value)), [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(xp.to_numpy(gradient)).all(axis=1), [False, True, True, False])


@pytest.mark.parametrize(
    ("positives", "error", "message"),
    [
        (np.zeros((2, 1)), TypeError, "positives must have an integer dtype .not uint64., not"),
        (np.zeros((2, 1), dtype=bool), TypeError, "positives must have an integer dtype"),
        (np.zeros((2, 1), dtype=np.uint64), TypeError, "positives must have an integer dtype"),
        (np.zeros((3, 1), dtype=int), ValueError, r"positives must have the shape \(2, 'K'\)"),
        (np.zeros(2, dtype=int), ValueError, r"positives must have the shape \(2, 'K'\)"),
    ],
)
def test_positives_are_checked(xp, positives, error, message):
    with pytest.raises(error, match=message):
        sparse_zlpr_loss(xp.asarray(np.zeros((2, 3))), xp.asarray(positives))


def test_no_places_and_no_rows(xp):
    value, gradient = sparse_zlpr_loss.value_and_grad(
        xp.asarray(np.zeros((2, 3))), xp.asarray(np.zeros((2, 0), dtype=int)), reduction="none"
    )
    np.testing.assert_allclose(xp.to_numpy(value), math.log(4), rtol=1e-15)
    np.testing.assert_allclose(xp.to_numpy(gradient), 0.25, rtol=1e-15)
    empty = sparse_zlpr_loss(
        xp.asarray(np.zeros((0, 3))), xp.asarray(np.zeros((0, 2), dtype=int)), reduction="sum"
    )
    assert float(empty) == 0.0


def test_the_class_axis_of_the_scores_may_be_anywhere(xp):
    rng = np.random.default_rng(2)
    scores, positives = rng.normal(size=(2, 5, 3)), rng.integers(-1, 5, (2, 3, 2))
    moved = np.moveaxis(scores, 1, -1)
    value, gradient = sparse_zlpr_loss.value_and_grad(
        xp.asarray(scores), xp.asarray(positives), axis=1, reduction="none"
    )
    plain, slope = sparse_zlpr_loss.value_and_grad(xp.asarray(moved), xp.asarray(positives), reduction="none")
    np.testing.assert_array_equal(xp.to_numpy(value), xp.to_numpy(plain))
    np.testing.assert_array_equal(np.moveaxis(xp.to_numpy(gradient), 1, -1), xp.to_numpy(slope))


def label_matrices(targets):
    sparse = pytest.importorskip("scipy.sparse")
    coo = sparse.coo_array(targets.astype(float))
    zero = coo.copy()
    zero.data, zero.coords = (  # an explicit zero is no label
        np.append(zero.data, 0.0),
        tuple(np.append(c, [0]) for c in zero.coords),
    )
    makers = (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array, sparse.lil_array)
    return [*(make(targets.astype(float)) for make in makers), sparse.csr_array(targets), zero]


@pytest.mark.library("numpy", "torch")
def test_scipy_label_matrices(xp, monkeypatch):
    # Many blocks: positions must be in order for a block to find its own.
    monkeypatch.setattr(_walk, "_HOST_BLOCK_BYTES", {"numpy": 800, "torch": 800})
    rng = np.random.default_rng(3)
    scores, targets = rng.normal(size=(40, 30)), rng.random((40, 30)) < 0.1
    targets[0, 0] = False
    expected = zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets), reduction="none")
    for matrix in label_matrices(targets):
        got = sparse_zlpr_loss.value_and_grad(xp.asarray(scores), matrix, reduction="none")
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(xp.to_numpy(a), xp.to_numpy(b), rtol=1e-14)


@pytest.mark.library("numpy", "torch")
def test_scipy_label_matrices_are_checked(xp):
    sparse = pytest.importorskip("scipy.sparse")
    scores = xp.asarray(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"positives as a SciPy matrix must have the shape of scores"):
        sparse_zlpr_loss(scores, sparse.csr_array(np.zeros((3, 2))))
    with pytest.raises(ValueError, match=r"must hold 0 and 1, got 2.0 in row 1"):
        sparse_zlpr_loss(scores, sparse.csr_array(np.asarray([[0.0, 1.0, 0.0], [2.0, 0.0, 1.0]])))


@pytest.mark.library("jax", "strict", "cupy")
def test_scipy_label_matrices_need_scores_on_the_host(xp):
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="positives as a SciPy matrix need scores in host memory"):
        sparse_zlpr_loss(xp.asarray(np.zeros((2, 3))), sparse.csr_array(np.zeros((2, 3))))


def test_extra_memory_is_the_gradient_and_a_block():
    rng = np.random.default_rng(4)
    scores, positives = rng.normal(size=(64, 50_000)).astype(np.float32), rng.integers(0, 50_000, (64, 5))
    sparse_zlpr_loss.value_and_grad(scores, positives)
    tracemalloc.start()
    sparse_zlpr_loss.value_and_grad(scores, positives)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= scores.nbytes + 2 * _walk._HOST_BLOCK_BYTES["numpy"]


def test_rule(xp):
    rng = np.random.default_rng(5)
    s, positives = xp.asarray(rng.normal(size=(4, 6))), xp.asarray(rng.integers(-1, 6, (4, 3)))
    check_rule(sparse_zlpr_loss, s, positives)
    check_rule(
        sparse_zlpr_loss,
        s,
        positives,
        threshold=xp.asarray(rng.normal(size=4)),
        reduction="none",
        temperature=2.0,
    )


@pytest.mark.library("torch")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # array-api-compat's
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # Dynamo's own tracing
def test_torch_compiles_without_a_graph_break():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(6)
    s, positives = torch.tensor(rng.normal(size=(3, 5))), torch.tensor(rng.integers(-1, 5, (3, 2)))
    compiled = torch.compile(sparse_zlpr_loss.value_and_grad, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(s, positives), sparse_zlpr_loss.value_and_grad(s, positives))


@pytest.mark.library("jax")
def test_jax_jits_value_gradient_and_hessian(xp):
    import jax

    rng = np.random.default_rng(7)
    s, positives = xp.asarray(rng.normal(size=6)), xp.asarray(rng.integers(-1, 6, 3))
    value, gradient = jax.jit(jax.value_and_grad(sparse_zlpr_loss))(s, positives)
    ours = sparse_zlpr_loss.value_and_grad(s, positives)
    np.testing.assert_allclose(np.asarray(gradient), np.asarray(ours[1]), rtol=1e-14)
    assert float(value) == pytest.approx(float(ours[0]), rel=1e-14)
    hessian = jax.jit(jax.hessian(sparse_zlpr_loss))(s, positives)
    diagonal = sparse_zlpr_loss.value_grad_hess(s, positives)[2]
    np.testing.assert_allclose(np.diag(hessian), np.asarray(diagonal), rtol=1e-12)
