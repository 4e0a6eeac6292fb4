"""Trees of arrays to a safetensors file and back, bit for bit, from any library to any library."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import optree
import safetensors.numpy

from zlpr import _array
from zlpr._array import Array
from zlpr._treewalk import Tree

_DTYPES = {
    "BOOL": "bool",
    **{
        f"{kind}{bits}": f"{name}{bits}"
        for kind, name in (("I", "int"), ("U", "uint"))
        for bits in (8, 16, 32, 64)
    },
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
}
"""Dtypes of the format and of arrays."""

_PREFIXES = {bool: ("bool",), int: ("int", "uint"), float: ("float",)}
"""How the dtypes begin that a Python number may be read from."""


def save_state(path: str | os.PathLike[str], tree: Tree) -> None:
    """Write a tree of arrays and numbers to a file in the safetensors format.

    The file is written under another name and then moved into place, so that `path` always holds a complete
    file: the old one or the new one.

    Parameters
    ----------
    path : path-like
        Where to; an existing file is replaced.
    tree : tree of arrays, bools, ints and floats
        A state, parameters, or both in a dict. Leaves are named by the expression that reaches them; None is
        part of the structure, not a leaf.

    Raises
    ------
    TypeError
        If a leaf is neither an array nor a number.

    Notes
    -----
    Equal values give equal files, whatever the library. Any reader of the format can open them.

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
    named = dict(zip(_names(tree), optree.tree_leaves(tree), strict=True))
    content = safetensors.numpy.save({name: _host_values(name, leaf) for name, leaf in named.items()})
    content = _declared_bfloat16(content, {name for name, leaf in named.items() if _is_bfloat16(leaf)})
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
    like : tree of arrays, bools, ints and floats
        Says the structure, and of each leaf the library, the device, the shape and the dtype.
        ``transform.init(params)`` is one for a transform's state. A single integer is read as whichever integer
        `like` has in its place: the count of a state may be a Python int or an array.

    Returns
    -------
    tree
        New arrays with the values of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or none of the format, or its names, shapes or dtypes are not those of `like`.

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
        tensors = dict(safetensors.deserialize(content))  # type: ignore[no-untyped-call]  # has no types
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"path must lead to a complete safetensors file, but {path} is not: {error}"
        ) from error
    leaves, spec = optree.tree_flatten(like)
    names = _names(like)
    if set(names) != set(tensors):
        missing, extra = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
        raise ValueError(f"like must have the leaves of {path}: the file lacks {missing} and adds {extra}")
    try:
        return spec.unflatten(
            [_leaf(name, tensors[name], leaf) for name, leaf in zip(names, leaves, strict=True)]
        )
    except ValueError as error:
        raise ValueError(f"{error} ({path})") from None


def _names(tree: Tree) -> list[str]:
    return [accessor.codify("state") for accessor in optree.tree_accessors(tree)]


def _host_values(name: str, leaf: Any) -> np.ndarray[Any, Any]:
    """Values of one leaf as the file holds them; bfloat16, which NumPy does not have, as integers."""
    if _is_number(leaf):
        return np.asarray(leaf)
    _array.require_array(name, leaf)
    if _is_bfloat16(leaf):
        leaf = _bits(leaf)
    return np.asarray(_array.to_numpy(leaf), order="C")


def _declared_bfloat16(content: bytes, names: Set[str]) -> bytes:
    """Declare tensors of a file that were written as their bits to be what they are."""
    if not names:
        return content
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    for name in names:
        header[name]["dtype"] = "BF16"
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[end:]


def _leaf(name: str, tensor: dict[str, Any], like: Any) -> Any:
    """Make a leaf like another from a tensor of the file."""
    dtype, shape = _DTYPES.get(tensor["dtype"], tensor["dtype"]), tuple(tensor["shape"])
    if _is_number(like):
        _require_equal(name, "shape", shape, ())
        if not dtype.startswith(_PREFIXES[type(like)]):
            _require_equal(name, "type", dtype, type(like).__name__)
        return type(like)(np.frombuffer(tensor["data"], dtype=dtype)[0])
    _require_equal(name, "shape", shape, tuple(like.shape))
    expected = _array.dtype_name(like)
    if shape == () and dtype.startswith(_PREFIXES[int]) and expected.startswith(_PREFIXES[int]):
        return _integer(name, np.frombuffer(tensor["data"], dtype=dtype)[0], like)
    _require_equal(name, "dtype", dtype, expected)
    values = np.frombuffer(tensor["data"], dtype="int16" if dtype == "bfloat16" else dtype)
    values = values.reshape(shape).copy()  # the buffer is read-only, and a step writes into what it is given
    if not _is_bfloat16(like):
        return _array.from_numpy(values, like)
    if _array.library(like) == "torch":
        return _array.from_numpy(values, like).view(like.dtype)
    return _array.from_numpy(values.view(np.dtype(like.dtype)), like)


def _integer(name: str, value: np.integer[Any], like: Array) -> Array:
    """A single integer in another integer dtype that holds it."""
    values = np.asarray(value).astype(_array.dtype_name(like))
    if int(values) != int(value):
        raise ValueError(
            f"{name} must be an integer that {values.dtype} holds, but the file has {int(value)}"
        )
    return _array.from_numpy(values, like)


def _require_equal(name: str, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise ValueError(f"{name} must have the {what} {expected} of like, but the file has {found}")


def _bits(x: Array) -> Array:
    """View bfloat16 as integers."""
    return (
        x.detach().view(_array.namespace(x).int16)
        if _array.library(x) == "torch"
        else _array.to_numpy(x).view("int16")
    )


def _is_number(x: Any) -> bool:
    """Whether a leaf is a Python number; a NumPy scalar is an array without axes, whatever it inherits from."""
    return isinstance(x, int | float) and not isinstance(x, np.generic)


def _is_bfloat16(x: Any) -> bool:
    return not _is_number(x) and _array.dtype_name(x) == "bfloat16"
