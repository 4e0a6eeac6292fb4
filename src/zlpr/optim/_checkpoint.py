"""Trees of arrays to a safetensors file and back, bit for bit, from any library to any library."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import optree
import safetensors.numpy

from zlpr import _array
from zlpr._array import Array
from zlpr._treewalk import Tree


def save_state(path: str | os.PathLike[str], tree: Tree) -> None:
    """Write a tree of arrays and numbers to a file in the safetensors format.

    The file is written under another name and then moved into place, so that `path` always holds a complete
    file: the old one or the new one.

    Parameters
    ----------
    path : path-like
        Where to; an existing file is replaced.
    tree : tree of arrays, ints and floats
        A state, parameters, or both in a dict. Leaves are named by the expression that reaches them.

    Raises
    ------
    TypeError
        If a leaf is neither an array nor a number.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from zlpr import optim
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> state = optim.adam(1e-3).init(params)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_state(f"{folder}/state.safetensors", state)
    ...     load_state(f"{folder}/state.safetensors", like=state).slots[0].m
    {'w': array([0., 0.])}
    """
    named = zip(_names(tree), optree.tree_leaves(tree), strict=True)
    content = safetensors.numpy.save({name: _host_values(name, leaf) for name, leaf in named})
    target = Path(path)
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()


def load_state(path: str | os.PathLike[str], like: Tree) -> Tree:
    """Read what `save_state` wrote into a tree like another one.

    Parameters
    ----------
    path : path-like
        The file.
    like : tree of arrays, ints and floats
        Says the structure, and of each leaf the library, the device, the shape and the dtype.
        ``transform.init(params)`` is one for a transform's state.

    Returns
    -------
    tree
        New arrays with the values of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or its names, shapes or dtypes are not those of `like`.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from zlpr import optim
    >>> path = tempfile.mkdtemp() + "/state.safetensors"
    >>> optim.save_state(path, {"w": np.asarray([1.0, 2.0])})
    >>> optim.load_state(path, {"w": np.zeros(2)})["w"]
    array([1., 2.])
    """
    content = Path(path).read_bytes()
    try:
        tensors = safetensors.numpy.load(content)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path must lead to a complete safetensors file, but {path} is not: {error}"
        ) from error
    leaves, spec = optree.tree_flatten(like)
    names = _names(like)
    if set(names) != set(tensors):
        missing, extra = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
        raise ValueError(f"like must have the leaves of {path}: the file lacks {missing} and adds {extra}")
    return spec.unflatten(
        [_leaf(name, tensors[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
    )


def _names(tree: Tree) -> list[str]:
    return [accessor.codify("state") for accessor in optree.tree_accessors(tree)]


def _host_values(name: str, leaf: Any) -> np.ndarray[Any, Any]:
    """Values of one leaf as the file holds them."""
    if isinstance(leaf, int | float):
        return np.asarray(leaf)
    _array.require_array(name, leaf)
    if _is_bfloat16(leaf):
        leaf = _bits(leaf)
    return np.asarray(_array.to_numpy(leaf), order="C")


def _leaf(name: str, found: np.ndarray[Any, Any], like: Any) -> Any:
    """Make a leaf like another from the values found in the file."""
    if isinstance(like, int | float):
        _require_equal(name, "shape", found.shape, ())
        return type(like)(found.item())
    _require_equal(name, "shape", found.shape, tuple(like.shape))
    expected = "int16" if _is_bfloat16(like) else _array.dtype_name(like)
    _require_equal(name, "dtype", found.dtype.name, expected)
    values = found.copy()  # the buffer is read-only, and a step writes into what it is given
    if not _is_bfloat16(like):
        return _array.from_numpy(values, like)
    if _array.library(like) == "torch":
        return _array.from_numpy(values, like).view(like.dtype)
    return _array.from_numpy(values.view(np.dtype(like.dtype)), like)


def _require_equal(name: str, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{name} must have the {what} {expected} of like, but the file has {found}")


def _bits(x: Array) -> Array:
    """View bfloat16 as integers: it travels as its bits, for NumPy has no such dtype."""
    return (
        x.detach().view(_array.namespace(x).int16)
        if _array.library(x) == "torch"
        else _array.to_numpy(x).view("int16")
    )


def _is_bfloat16(x: Array) -> bool:
    return _array.dtype_name(x) == "bfloat16"
