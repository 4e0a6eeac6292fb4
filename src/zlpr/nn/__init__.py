"""Layers for the models: rules of parameters and input; parameters are plain dicts.

A layer is a rule with ``wrt=("params", "x")``; `sequential` and `mlp` carry the parameters of a stack of layers and
activations. The algebra is in ``docs/derivations/layers.md``.
"""

from zlpr.nn.initializers import batch_norm_parameters, dense_parameters, glorot, he
from zlpr.nn.layers import batch_norm, dense, dropout, dropout_mask
from zlpr.nn.stacks import Sequential, mlp, sequential, with_statistics

__all__ = [
    "Sequential",
    "batch_norm",
    "batch_norm_parameters",
    "dense",
    "dense_parameters",
    "dropout",
    "dropout_mask",
    "glorot",
    "he",
    "mlp",
    "sequential",
    "with_statistics",
]
