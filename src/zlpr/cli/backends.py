"""The array libraries a command can train on: which are usable here, and how an array gets there.

The command line reads files into NumPy; this is the one place where it makes an array of another library. A library
is imported only when it was asked for by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np

from zlpr._array import Array
from zlpr.cli.errors import InputError

BACKENDS = ("numpy", "torch", "cupy", "jax")

_INSTALL = {"torch": "torch", "cupy": "cupy-cuda12x", "jax": "jax"}


def why_unusable(name: str) -> str | None:
    """Why an array library cannot be used here, or None when it can."""
    if find_spec(name) is None:
        return "not installed"
    try:
        library = importlib.import_module(name)
    except ImportError as error:
        return f"cannot be imported: {error}"
    return _why_no_device(library) if name == "cupy" else None


def _why_no_device(cupy: ModuleType) -> str | None:
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no CUDA device: {error}"
    return None if devices > 0 else "no CUDA device"


def require_backend(name: str) -> None:
    """Raise InputError unless the library is known and usable here."""
    if name not in BACKENDS:
        raise InputError(f"--backend must be one of {', '.join(BACKENDS)}, not {name!r}")
    why = why_unusable(name)
    if why == "not installed":
        raise InputError(f"--backend {name}: {name} is not installed; pip install {_INSTALL[name]}")
    if why:
        raise InputError(f"--backend {name}: {why}")


def converter(name: str) -> Callable[[np.ndarray[Any, Any]], Array]:
    """The function that makes an array of library `name` out of a NumPy array and keeps its dtype."""
    if name == "numpy":
        return np.asarray
    library: Any = importlib.import_module(name)
    if name == "jax":
        library.config.update("jax_enable_x64", True)  # else float64 would silently become float32
        return library.numpy.asarray  # type: ignore[no-any-return]
    return library.asarray  # type: ignore[no-any-return]
