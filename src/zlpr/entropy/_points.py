"""What every estimator of this room checks first: points, the number of neighbours, the norm, the method."""

from __future__ import annotations

from typing import Any

from zlpr import _array
from zlpr._array import Array

METHODS = ("auto", "tree", "brute")


def require_points(name: str, x: Any) -> None:
    """Raise unless `x` is a floating array with points as its last but one axis, and coordinates as its last."""
    _array.require_array(name, x)
    _array.require_real_floating(name, x)
    if x.ndim < 2:
        raise ValueError(
            f"{name} must have points and coordinates as its last two axes, but its shape is {tuple(x.shape)}; "
            f"numbers are points of one coordinate: reshape them to (n, 1)"
        )
    if 0 in x.shape[:-2]:
        raise ValueError(f"{name} must have at least one sample, but its shape is {tuple(x.shape)}")
    if x.shape[-1] == 0:
        raise ValueError(
            f"{name} must have at least one coordinate a point, but its shape is {tuple(x.shape)}"
        )


def is_host(x: Array) -> bool:
    """Whether values of an array may be read."""
    return _array.place(_array.detached(x)) == "host"


def require_finite(name: str, x: Array) -> None:
    """Raise if an array in host memory holds a nan or an infinity; elsewhere that is not known."""
    if not is_host(x):
        return
    xp = _array.namespace(x)
    finite = xp.isfinite(x)
    if not bool(xp.all(finite)):
        where = xp.nonzero(~finite)
        place = tuple(int(axis[0]) for axis in where)
        raise ValueError(f"{name} must be finite, but {name}{list(place)} is {float(x[place])}")


def require_like_points(name: str, x: Array, other_name: str, other: Any) -> None:
    """Raise unless a second set of points lives beside the first, with the same coordinates and batch axes."""
    require_points(other_name, other)
    _array.require_same_home(name, x, other_name, other)
    if other.dtype != x.dtype:
        raise TypeError(f"{other_name} must have the dtype of {name}, {x.dtype}, not {other.dtype}")
    shape, wanted = tuple(other.shape), tuple(x.shape)
    if shape[:-2] != wanted[:-2] or shape[-1] != wanted[-1]:
        raise ValueError(
            f"{other_name} must have the coordinates and batch axes of {name}, whose shape is {wanted}, not {shape}"
        )


def require_paired_points(name: str, x: Array, other_name: str, other: Any) -> None:
    """Raise unless another variable has a point for every point of the first, of the same library and dtype."""
    require_points(other_name, other)
    _array.require_same_home(name, x, other_name, other)
    if other.dtype != x.dtype:
        raise TypeError(f"{other_name} must have the dtype of {name}, {x.dtype}, not {other.dtype}")
    if tuple(other.shape[:-1]) != tuple(x.shape[:-1]):
        raise ValueError(
            f"{other_name} must have a point for every point of {name}, whose shape is {tuple(x.shape)}, "
            f"but its own is {tuple(other.shape)}"
        )


def checked_k(k: Any, available: int, others: str) -> int:
    """The number of neighbours; a ValueError unless there are as many."""
    if isinstance(k, bool) or not hasattr(k, "__index__"):
        raise TypeError(f"k must be an integer, got {k!r}")
    k = k.__index__()
    if not 1 <= k <= available:
        raise ValueError(f"k must be at least 1 and at most {available}, the number of {others}, got {k}")
    return int(k)


def checked_method(method: Any) -> str:
    """The search method."""
    if method not in METHODS:
        raise ValueError(f'method must be "auto", "tree" or "brute", not {method!r}')
    return str(method)
