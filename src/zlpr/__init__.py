"""zlpr: the mathematics of training, without a deep-learning framework.

Losses, activations, entropy, layers and optimizers with hand-derived gradients, written once against the array API
standard: the same line runs on NumPy, CuPy, PyTorch and JAX, on the array's own device. Rooms are imported when first
used.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "activations",
    "decision",
    "entropy",
    "losses",
    "models",
    "nn",
    "optim",
    "perturb",
    "reference",
    "rules",
    "validation",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"zlpr.{name}")
    raise AttributeError(f"module 'zlpr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
