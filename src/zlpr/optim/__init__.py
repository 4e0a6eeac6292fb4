"""Optimizers: transforms of gradients that are chained like optax's and step in one pass over memory.

>>> import numpy as np
>>> from zlpr import optim
>>> params = {"w": np.array([1.0, -2.0])}
>>> optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adaxw(5e-3))
>>> state = optimizer.init(params)
>>> params, state = optimizer.step(params, {"w": 4 * params["w"] ** 3}, state)
"""

from zlpr.optim import schedules
from zlpr.optim._chain import State, Transform, apply_updates, chain
from zlpr.optim._checkpoint import load_state, save_state
from zlpr.optim.adafactor import adafactor
from zlpr.optim.adaptive import adam, adamw, adax, adaxw, amsgrad, rmsprop
from zlpr.optim.clipping import (
    adaptive_clip,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_per_example,
    global_norm,
)
from zlpr.optim.smoothness import Smoothness, estimate_smoothness
from zlpr.optim.transforms import add_decayed_weights, ema, scale, scale_by_schedule, set_to_zero, sgd
from zlpr.optim.wrappers import accumulate, masked, multi_transform, skip_nonfinite

__all__ = [
    "Smoothness",
    "State",
    "Transform",
    "accumulate",
    "adafactor",
    "adam",
    "adamw",
    "adaptive_clip",
    "adax",
    "adaxw",
    "add_decayed_weights",
    "amsgrad",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "clip_per_example",
    "ema",
    "estimate_smoothness",
    "global_norm",
    "load_state",
    "masked",
    "multi_transform",
    "rmsprop",
    "save_state",
    "scale",
    "scale_by_schedule",
    "schedules",
    "set_to_zero",
    "sgd",
    "skip_nonfinite",
]
