"""Blocks are nobody's business but the walk's: many give what one would, in the memory that was handed in."""

import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest

from zlpr import _array, _walk, losses
from zlpr.rules import set_workers

HOSTS = pytest.mark.library("numpy", "torch")
WIDTH, ROWS = 4, 10


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of twelve elements, three rows of four, on host and device."""
    monkeypatch.setattr(_walk, "_HOST_BLOCK_BYTES", {"numpy": 12 * 8, "torch": 12 * 8})
    monkeypatch.setattr(_walk, "_DEVICE_BLOCK_BYTES", 12 * 8)
    monkeypatch.setattr(_walk, "_SURELY_ONE_BLOCK", 0)


class Recorder:
    """A kernel that notes how many rows each block has."""

    def __init__(self, kernel):
        self.kernel, self.rows = kernel, []

    def __call__(self, *blocks):
        self.rows.append(int(blocks[0].shape[0]))
        return self.kernel(*blocks)


def matrix(rows=ROWS, width=WIDTH):
    return np.random.default_rng(0).normal(size=(rows, width))


def some_results(x, shift, nothing, memory):
    """A result of each kind: a number a row, a row a row, another dtype, none."""
    assert nothing is None
    xp = _array.namespace(x)
    return xp.max(x, axis=1) + shift, x * x, x > 0, None


def test_many_blocks_give_what_one_gives(xp, small_blocks):
    x, shift = matrix(), np.arange(ROWS) * 1.0
    kernel = Recorder(some_results)
    blocked = _walk.walk_rows(kernel, xp.asarray(x), xp.asarray(shift), None)
    assert kernel.rows == ([ROWS] if xp.name == "jax" else [3, 3, 3, 1])
    for result, expected in zip(blocked, (x.max(axis=1) + shift, x * x, x > 0, None), strict=True):
        if expected is None:
            assert result is None
        else:
            xp.assert_like(result, xp.asarray(x))
            np.testing.assert_array_equal(xp.to_numpy(result), expected)
            assert result.dtype == getattr(xp, str(expected.dtype))


def test_few_rows_go_in_one_block(xp):
    kernel = Recorder(some_results)
    _walk.walk_rows(kernel, xp.asarray(matrix()), xp.asarray(np.zeros(ROWS)), None)
    assert kernel.rows == [ROWS]


def test_blocks_hold_the_bytes_of_their_dtype(xp, small_blocks):
    # Twelve float64 numbers, and as many bytes whatever their type.
    kernel = Recorder(lambda x, memory: (x,))
    _walk.walk_rows(kernel, xp.asarray(matrix(), "float32"))
    assert kernel.rows == ([ROWS] if xp.name == "jax" else [6, 4])


def test_a_row_wider_than_a_block_is_one(xp, small_blocks):
    x = matrix(3, 20)
    kernel = Recorder(lambda x, memory: (x + 1,))
    (result,) = _walk.walk_rows(kernel, xp.asarray(x))
    assert kernel.rows == ([3] if xp.name == "jax" else [1, 1, 1])
    np.testing.assert_array_equal(xp.to_numpy(result), x + 1)


@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (0, 0)])
def test_nothing_is_one_block(xp, small_blocks, shape):
    kernel = Recorder(lambda x, memory: (x + 1, None))
    result, nothing = _walk.walk_rows(kernel, xp.asarray(np.zeros(shape)))
    assert tuple(result.shape) == shape
    assert nothing is None
    assert kernel.rows == [shape[0]]


def doubled_into(x, memory):
    """Three times x in an array of its own, twice x in the memory of the second result."""
    memory[1][...] = 2 * x
    return 3 * x, memory[1]


@HOSTS
@pytest.mark.parametrize("rows", [2, ROWS])
def test_what_is_in_its_memory_is_not_copied(xp, small_blocks, monkeypatch, rows):
    x = xp.asarray(matrix(rows))
    buffer, made, make = xp.zeros_like(x), [], _walk._empty_like_rows
    monkeypatch.setattr(_walk, "_empty_like_rows", lambda part, n: made.append(n) or make(part, n))
    beside, inside = _walk.walk_rows(doubled_into, x, memory=(None, buffer))
    assert inside is buffer
    assert made == [rows] * (rows > 3)  # for the first result alone
    np.testing.assert_array_equal(xp.to_numpy(inside), 2 * xp.to_numpy(x))
    np.testing.assert_array_equal(xp.to_numpy(beside), 3 * xp.to_numpy(x))


@HOSTS
def test_what_the_kernel_put_elsewhere_is_moved_to_its_memory(xp, small_blocks):
    x = xp.asarray(matrix())
    buffer = xp.zeros_like(x)
    result, other = _walk.walk_rows(lambda x, memory: (x + 1, x - 1), x, memory=(buffer,))
    assert result is buffer
    np.testing.assert_array_equal(xp.to_numpy(buffer), xp.to_numpy(x) + 1)
    np.testing.assert_array_equal(xp.to_numpy(other), xp.to_numpy(x) - 1)


def test_the_inputs_are_cut_alike(xp, small_blocks):
    x, per_row = matrix(), np.arange(ROWS) * 1.0
    (result,) = _walk.walk_rows(lambda x, r, memory: (x * r[:, None],), xp.asarray(x), xp.asarray(per_row))
    np.testing.assert_array_equal(xp.to_numpy(result), x * per_row[:, None])


def test_an_input_of_one_row_is_every_rows(xp, small_blocks):
    x, shared = matrix(), np.full((1,), 3.0)
    (result,) = _walk.walk_rows(lambda x, r, memory: (x * r[:, None],), xp.asarray(x), xp.asarray(shared))
    np.testing.assert_array_equal(xp.to_numpy(result), 3 * x)


class Visits:
    """A kernel that waits, in the blocks after the first, until it runs on two threads at once."""

    def __init__(self):
        self.meeting, self.threads = threading.Barrier(2, timeout=30), set()

    def __call__(self, x, memory):
        if x[0, 0]:
            self.meeting.wait()
        self.threads.add(threading.current_thread().name)
        return (overflowing(x * 1e4), x[:, 0] * 2)


@pytest.fixture
def shared(small_blocks, monkeypatch):
    """Small blocks, of which few are worth sharing."""
    monkeypatch.setattr(_walk, "_WORTH_SHARING", 2)
    monkeypatch.setattr(_walk, "_SHARED_BLOCKS", 1)


@pytest.mark.library("numpy")
def test_workers_visit_blocks_at_the_same_time(xp, shared):
    x = np.arange(5.0).repeat(3)[:, None] * np.ones((1, WIDTH))
    kernel = Visits()
    with set_workers(2):
        _, firsts = _walk.walk_rows(kernel, x)
    np.testing.assert_array_equal(firsts, 2 * x[:, 0])
    assert len(kernel.threads) == 3  # the caller's own for the first block


@pytest.mark.library("numpy")
def test_of_several_errors_the_first_blocks_leaves(xp, shared):
    def failing(x, memory):
        if x[0, 0]:
            raise ValueError(f"row {int(x[0, 0])}")
        return (x,)

    with set_workers(2), pytest.raises(ValueError, match="row 3"):
        _walk.walk_rows(failing, np.arange(ROWS)[:, None] * np.ones((1, WIDTH)))


@pytest.mark.parametrize("rows", [2, ROWS])
def test_workers_change_no_value_of_a_loss(xp, shared, rows):
    scores, targets = matrix(rows), matrix(rows) > 0.5
    alone = losses.zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets))
    with set_workers(3):
        together = losses.zlpr_loss.value_and_grad(xp.asarray(scores), xp.asarray(targets))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(xp.to_numpy(one), xp.to_numpy(other))


@pytest.mark.library("numpy")
def test_an_interrupt_leaves_no_thread_writing(xp, shared):
    x = np.arange(16.0)[:, None] * np.ones((1, WIDTH))
    begun, ended = [], []

    def interrupted(x, memory):
        if x[0, 0] == 6:
            raise KeyboardInterrupt
        begun.append(x[0, 0])
        time.sleep(0.02)
        ended.append(x[0, 0])
        return (x,)

    with set_workers(2), pytest.raises(KeyboardInterrupt):
        _walk.walk_rows(interrupted, x)
    count = len(begun)
    assert sorted(ended) == sorted(begun)
    time.sleep(0.1)
    assert len(begun) == count


@pytest.mark.library("numpy")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_threads_of_its_own(xp, shared):
    scores = np.arange(40.0).reshape(10, 4)
    with set_workers(2):
        expected = losses.lsep_loss(scores, scores > 20)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # that threads do not survive, which is the point
            child = os.fork()
        if not child:
            os._exit(0 if losses.lsep_loss(scores, scores > 20) == expected else 1)
    deadline = time.monotonic() + 20
    while not (found := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() < deadline:
        time.sleep(0.01)
    if not found[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert found == (child, 0)


@pytest.mark.parametrize("workers", [0, -1, 1.0, True, "2", None])
def test_workers_are_counted(workers):
    with pytest.raises(ValueError, match="workers must be an integer from 1 on"), set_workers(workers):
        pass


def test_workers_are_set_within_the_context_alone():
    with set_workers(4):
        assert _walk._workers.get() == 4
        with pytest.raises(ZeroDivisionError), set_workers(2):
            _ = 1 / 0
        assert _walk._workers.get() == 4
    assert _walk._workers.get() == 1


@pytest.mark.library("torch")
def test_a_graph_is_walked_whole(xp, small_blocks):
    x = xp.asarray(matrix()).requires_grad_(True)
    kernel = Recorder(lambda x, memory: (x * x,))
    (result,) = _walk.walk_rows(kernel, x)
    assert kernel.rows == [ROWS]
    result.sum().backward()
    np.testing.assert_array_equal(xp.to_numpy(x.grad), 2 * xp.to_numpy(x))


def overflowing(x):
    """An overflow and a nan: what a kernel meets at its limits."""
    xp = _array.namespace(x)
    return xp.exp(x) - xp.exp(x)


def test_quiet_silences_what_the_library_reports(xp):
    x = xp.asarray(np.asarray([1e4, 1.0]))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with _walk.quiet(x):
            result = overflowing(x)
    assert not seen
    np.testing.assert_array_equal(xp.to_numpy(result), [np.nan, 0.0])


@pytest.mark.library("numpy", "strict")
def test_without_quiet_numpy_reports(xp):
    # So that the test above shows something; and outside the context the caller's own setting is back.
    x = xp.asarray(np.asarray([1e4, 1.0]))
    with _walk.quiet(x):
        overflowing(x)
    with pytest.warns(RuntimeWarning, match="overflow"), np.errstate(over="warn", invalid="ignore"):
        overflowing(x)


@pytest.mark.parametrize("rows", [2, ROWS])
def test_a_walk_is_quiet(xp, small_blocks, rows):
    (result,) = _walk.walk_rows(lambda x, memory: (overflowing(x),), xp.asarray(np.full((rows, WIDTH), 1e4)))
    assert np.all(np.isnan(xp.to_numpy(result)))
