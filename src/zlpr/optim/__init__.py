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
from zlpr.optim.clipping import clip_by_global_norm, global_norm
from zlpr.optim.transforms import adam, adamw, adax, adaxw, sgd

__all__ = [
    "State",
    "Transform",
    "adam",
    "adamw",
    "adax",
    "adaxw",
    "apply_updates",
    "chain",
    "clip_by_global_norm",
    "global_norm",
    "load_state",
    "save_state",
    "schedules",
    "sgd",
]
