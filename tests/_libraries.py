"""The array libraries the suite runs on, and how a test talks to one of them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import array_api_compat
import numpy as np

Array = Any
FLOATING = ("float16", "bfloat16", "float32", "float64")
STRICT_VERSION = "2024.12"  # the version of the standard that src is written against


@dataclass(frozen=True)
class Library:
    """One array library as the `xp` fixture hands it out; other attributes are those of its namespace."""

    name: str
    namespace: Any
    device: Any = None  # where `asarray` puts arrays; None is the library's own choice
    no_sync: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """A context in which reading a value of a device array raises, where the library can tell."""

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.namespace, attribute)

    def __repr__(self) -> str:
        return f"<xp: {self.name}>"

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The names of the floating dtypes that the library has."""
        return tuple(name for name in FLOATING if hasattr(self.namespace, name))

    def asarray(self, values: Any, dtype: str | None = None) -> Array:
        """NumPy `values` copied to the library's test device; the dtype stays unless one is named."""
        values = np.array(values)
        array = self.namespace.asarray(values, **({} if self.device is None else {"device": self.device}))
        return array if dtype is None else self.namespace.astype(array, getattr(self.namespace, dtype))

    def to_numpy(self, array: Array) -> np.ndarray[Any, Any]:
        """The values of an array of this library in a new NumPy array; bfloat16 comes back as float32."""
        if str(array.dtype).endswith("bfloat16"):
            array = self.namespace.astype(array, self.namespace.float32)
        return np.array(_TO_HOST[self.name](array))

    def assert_like(self, actual: Array, like: Array) -> None:
        """Fail unless `actual` is an array of the library, and on the device, of `like`."""
        assert array_api_compat.is_array_api_obj(actual), f"not an array but {type(actual)}"
        libraries = [array_api_compat.array_namespace(array).__name__ for array in (actual, like)]
        assert libraries[0] == libraries[1], f"a {libraries[0]} array where {libraries[1]} was expected"
        devices = [array_api_compat.device(array) for array in (actual, like)]
        assert devices[0] == devices[1], f"on {devices[0]} where {devices[1]} was expected"


# Written out for each library rather than taken from zlpr: a test must not rest on what it tests.
_TO_HOST: dict[str, Callable[[Array], Any]] = {
    "numpy": lambda array: array,
    "torch": lambda array: array.detach().cpu().numpy(),
    "jax": np.asarray,
    "strict": lambda array: np.asarray(array.to_device(array.__array_namespace__().Device("CPU_DEVICE"))),
    "cupy": lambda array: array.get(),
}


def _numpy(strict_version: str) -> Library:
    return Library("numpy", np)


def _torch(strict_version: str) -> Library:
    namespace = importlib.import_module("array_api_compat.torch")
    return Library("torch", namespace, namespace.device("cpu"))


def _jax(strict_version: str) -> Library:
    jax = importlib.import_module("jax")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    return Library("jax", jax.numpy)


def _strict(strict_version: str) -> Library:
    strict = importlib.import_module("array_api_strict")
    newest = strict.get_array_api_strict_flags()["api_version"]
    strict.set_array_api_strict_flags(api_version=newest if strict_version == "latest" else strict_version)
    return Library("strict", strict, strict.Device("device1"))  # not the default: a hidden transfer fails


def _cupy(strict_version: str) -> Library:
    return Library("cupy", importlib.import_module("array_api_compat.cupy"), no_sync=_cupy_without_sync)


_LOADERS = {"numpy": _numpy, "torch": _torch, "jax": _jax, "strict": _strict, "cupy": _cupy}
NAMES = tuple(_LOADERS)


@functools.cache
def load(name: str, strict_version: str = STRICT_VERSION) -> Library:
    """Import one library; the error of a library that cannot be used is the caller's to see."""
    return _LOADERS[name](strict_version)


def why_unusable(name: str) -> str | None:
    """Why a library cannot be used here, in a few words; None when it can."""
    if importlib.util.find_spec("array_api_strict" if name == "strict" else name) is None:
        return "no module"
    return _why_no_cupy() if name == "cupy" else None


def cupy_runs_on() -> str:
    """What stands behind a usable CuPy: that its import succeeds says nothing."""
    if "cupy_cpu" in sys.modules:
        return "real CuPy code on the CPU emulator (no GPU)"
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
    return f"real CuPy on CUDA device {name}"


def _why_no_cupy() -> str | None:
    if "cupy_cpu" in sys.modules:
        return None
    try:
        import cupy

        return None if cupy.cuda.runtime.getDeviceCount() else "no GPU"
    except Exception as error:  # a missing driver shows itself in several ways
        return f"no GPU: {type(error).__name__}"


@contextlib.contextmanager
def _cupy_without_sync() -> Iterator[None]:
    import cupyx

    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():  # around the entry only: the warnings of the body are the test's
            warnings.filterwarnings("ignore", message=r".*allow_synchronize")
            stack.enter_context(cupyx.allow_synchronize(False))
        yield
