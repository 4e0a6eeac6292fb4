"""The `xp` fixture itself."""

import numpy as np
import pytest


def test_values_and_dtypes_survive_the_way_there_and_back(xp):
    for dtype in ("bool", "int32", "int64", "float32", "float64"):
        values = np.arange(6).reshape(2, 3).astype(dtype)
        array = xp.asarray(values)
        back = xp.to_numpy(array)
        assert back.dtype == values.dtype
        assert np.array_equal(back, values)
        xp.assert_like(array + array if dtype != "bool" else array, array)


def test_every_floating_dtype_can_be_made(xp):
    assert {"float32", "float64"} <= set(xp.dtypes)
    for dtype in xp.dtypes:
        array = xp.asarray(np.ones(3, "float32"), dtype)
        assert array.dtype == getattr(xp, dtype)
        assert np.array_equal(xp.to_numpy(array), np.ones(3))


def test_an_array_of_another_library_is_noticed(xp):
    array = xp.asarray(np.ones(3))
    with pytest.raises(AssertionError, match="not an array"):
        xp.assert_like(1.0, array)
    if xp.name != "numpy":
        with pytest.raises(AssertionError, match="was expected"):
            xp.assert_like(np.ones(3), array)


@pytest.mark.library("strict")
def test_a_silent_transfer_is_noticed(xp):
    moved = xp.asarray(np.ones(3)).to_device(xp.Device("CPU_DEVICE"))
    with pytest.raises(AssertionError, match="was expected"):
        xp.assert_like(moved, xp.asarray(np.ones(3)))


@pytest.mark.library("cupy")
def test_reading_a_value_raises_where_no_sync_is_asked_for(xp):
    array = xp.asarray(np.ones(3))
    with xp.no_sync():
        total = xp.sum(array)
        with pytest.raises(RuntimeError):
            float(total)
    assert float(total) == 3.0
