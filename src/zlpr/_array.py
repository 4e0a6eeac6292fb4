"""Which library an array belongs to and where it lives: the only file that asks.

Everything above this file takes arrays of NumPy, PyTorch, CuPy, JAX or any other library that follows the
array API standard, and never asks whose they are. Namespaces, places, the dtype policy and the checks at the
public boundary are decided here, once.
"""

from __future__ import annotations

import functools
import sys
from types import ModuleType
from typing import Any, Literal, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
"""An array of any library; the standard has no common type to name."""

Namespace: TypeAlias = Any
"""The array API namespace of such an array."""

Place: TypeAlias = Literal["host", "device", "traced"]
"""``host``: values may be read and slices written; ``device``: no value is read; ``traced``: a compiler looks on."""

_NAMESPACES: dict[type, ModuleType] = {np.ndarray: np}
_LIBRARY_NAMES: dict[type, str] = {np.ndarray: "numpy"}


def is_array(x: object) -> bool:
    """Whether `x` is an array of a library that follows the array API (NumPy scalars are not)."""
    cls = type(x)
    return cls is np.ndarray or (
        not isinstance(x, np.generic) and (cls in _NAMESPACES or bool(array_api_compat.is_array_api_obj(x)))
    )


def _register(x: Array) -> None:
    cls = type(x)
    if isinstance(x, np.ndarray | np.generic):
        _NAMESPACES[cls], _LIBRARY_NAMES[cls] = np, "numpy"
        return
    _NAMESPACES[cls] = array_api_compat.array_namespace(x)
    _LIBRARY_NAMES[cls] = _root_module(_NAMESPACES[cls])


def _root_module(xp: ModuleType) -> str:
    name = xp.__name__.removeprefix("array_api_compat.")
    return name.partition(".")[0]


def namespace(x: Array) -> Namespace:
    """The array API namespace of one array."""
    try:
        return _NAMESPACES[type(x)]
    except KeyError:
        _register(x)
        return _NAMESPACES[type(x)]


def library(x: Array) -> str:
    """The name of the library of an array: ``numpy``, ``torch``, ``cupy``, ``jax``, ``array_api_strict`` ..."""
    try:
        return _LIBRARY_NAMES[type(x)]
    except KeyError:
        _register(x)
        return _LIBRARY_NAMES[type(x)]


def place(x: Array) -> Place:
    """Where an array lives, as far as the walk and a kernel's shortcuts care."""
    name = library(x)
    if name == "numpy":
        return "host"
    if name == "torch":
        return _torch_place(x)
    if name in ("jax", "dask"):
        return "traced"
    return "device"


def _torch_place(x: Array) -> Place:
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled()):
        return "traced"  # a graph records the operations: no value may be read, nothing overwritten
    return "host" if x.device.type == "cpu" and type(x) in (torch.Tensor, torch.nn.Parameter) else "device"


def is_abstract(x: Array) -> bool:
    """Whether an array stands for others in a program that is being compiled once, to be run many times."""
    name = library(x)
    if name == "jax":
        return isinstance(x, sys.modules["jax"].core.Tracer)
    return name == "torch" and bool(sys.modules["torch"].compiler.is_compiling())


def device(x: Array) -> Any:
    """The device of an array, as its library names it."""
    return "cpu" if type(x) is np.ndarray else array_api_compat.device(x)


def require_array(name: str, x: object) -> None:
    """Raise a TypeError that names the argument unless `x` is an array, or what NumPy turns one without axes into."""
    if not (is_array(x) or isinstance(x, np.generic)):
        raise TypeError(
            f"{name} must be an array of NumPy, CuPy, PyTorch, JAX or another array API library, "
            f"not {type(x).__module__}.{type(x).__qualname__}"
        )


def require_same_home(name: str, x: Array, other_name: str, other: Array) -> None:
    """Raise unless two arrays are of one library and on one device; nothing is ever moved silently."""
    if type(x) is np.ndarray and type(other) is np.ndarray:
        return
    require_array(other_name, other)
    if library(x) != library(other):
        raise TypeError(
            f"{other_name} must be a {library(x)} array like {name}, not a {library(other)} array; "
            f"convert one of them first"
        )
    if "traced" not in (place(x), place(other)) and device(x) != device(other):
        raise ValueError(
            f"{other_name} must be on the device of {name} ({device(x)}), but it is on {device(other)}"
        )


_DTYPE_NAMES: dict[tuple[type, Any], str] = {}


def dtype_name(x: Array) -> str:
    """The name of the dtype of an array, without its library's: ``float32``, ``bfloat16``, ``bool`` ..."""
    key = (type(x), x.dtype)  # the type keeps dtypes of different libraries from being compared
    if key not in _DTYPE_NAMES:
        _DTYPE_NAMES[key] = str(x.dtype).rpartition(".")[2]
    return _DTYPE_NAMES[key]


def is_half(x: Array) -> bool:
    """Whether an array is float16 or bfloat16."""
    return dtype_name(x) in ("float16", "bfloat16")


def kind(x: Array) -> str:
    """``bool``, ``integral``, ``floating`` or ``other``: what the dtype of an array holds."""
    name = dtype_name(x)
    if name == "bool":
        return name
    if name in _BYTES:
        return "floating"
    return "integral" if name.startswith(("int", "uint")) else "other"


def require_real_floating(name: str, x: Array) -> None:
    """Raise a TypeError that names the argument unless its dtype is float16, bfloat16, float32 or float64."""
    if kind(x) != "floating":
        raise TypeError(
            f"{name} must have a real floating dtype (float16, bfloat16, float32 or float64), not {x.dtype}"
        )


_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


def itemsize(x: Array) -> int:
    """Bytes of one entry of a floating array; not every library's dtypes tell."""
    return _BYTES[dtype_name(x)]


def compute_dtype(x: Array) -> Any:
    """The dtype to compute in: float32 for half precisions, else the array's own."""
    return namespace(x).float32 if is_half(x) else x.dtype


def counting_dtypes(x: Array) -> tuple[Any, Any]:
    """The floating and the integer dtype to count in: float64 and int64; in JAX without 64 bits, those of 32."""
    xp = namespace(x)
    integer = xp.arange(1, device=device(x)).dtype
    return (xp.float32 if integer == xp.int32 else xp.float64), integer


def as_dtype(x: Array, dtype: Any) -> Array:
    """`x` in a dtype of its library, itself where it has that already."""
    if x.dtype == dtype:
        return x
    return x.astype(dtype) if type(x) is np.ndarray else namespace(x).astype(x, dtype)


def beside(x: Array) -> dict[str, Any]:
    """Return the keyword that puts a new array on the device of `x`; JAX moves what nobody has put anywhere."""
    return {} if library(x) == "jax" else {"device": device(x)}


def as_real(count: Any) -> Any:
    """Return a step count to compute with: a 0-d integer array in the widest dtype that its library is set to."""
    if not is_array(count):
        return count
    xp = namespace(count)
    return xp.astype(count, xp.asarray(0.0).dtype if library(count) == "jax" else xp.float64)


def detached(x: Array) -> Array:
    """`x` as a constant to autograd and to transformations: what is sought in it has no derivative."""
    name = library(x)
    if name == "torch":
        return x.detach()
    return sys.modules["jax"].lax.stop_gradient(x) if name == "jax" else x


def host_view(name: str, x: Array) -> np.ndarray[Any, Any]:
    """A NumPy view of an array whose memory is the host's; a TypeError for any other."""
    if isinstance(x, np.ndarray):
        return x
    if library(x) == "torch" and x.device.type == "cpu":
        return np.asarray(x.detach())
    raise TypeError(f"{name} must live in host memory, not in a {library(x)} array on {device(x)}")


def to_numpy(x: Array) -> np.ndarray[Any, Any]:
    """Copy the values of any array to NumPy: for outputs to files and people, never inside a computation."""
    if isinstance(x, np.ndarray):
        return x
    name = library(x)
    if name == "torch":
        x = x.detach().cpu()
        return np.asarray(x.float() if dtype_name(x) == "bfloat16" else x)  # which NumPy does not have
    if name == "cupy":
        return np.asarray(x.get())
    if name == "array_api_strict":
        return np.asarray(x.to_device(namespace(x).Device("CPU_DEVICE")))
    return np.asarray(x)


def from_numpy(values: np.ndarray[Any, Any], like: Array) -> Array:
    """`values` as an array of the library and on the device of `like`; the dtype stays."""
    if isinstance(like, np.ndarray):
        return values
    if not values.flags.writeable:
        values = values.copy()  # PyTorch shares memory and cannot mark it read-only
    xp = namespace(like)
    return xp.asarray(values) if library(like) == "jax" else xp.asarray(values, device=device(like))


@functools.cache  # once in a process
def keep_freed_blocks() -> None:
    """Have the C library keep a walk's freed temporaries for its next block instead of returning them.

    glibc hands freed memory above a threshold back to the system, so that every block pays page faults anew: twelve
    times the time of a step was measured. The threshold follows the largest chunk freed.
    """
    np.empty(1 << 24, dtype=np.uint8)
