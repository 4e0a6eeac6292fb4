"""Perturbations of inputs and targets for better generalisation, from plain callables.

Noise, the gradient penalty, adversarial (FGM, PGD, FreeLB) and virtual adversarial perturbations. A callable gives a
value with its gradient, or scores with their pullback; whose it is does not matter: a model in NumPy, a module of
PyTorch, a function of JAX, a rule. The algebra is in ``docs/derivations/perturb.md``.
"""

from zlpr.perturb.adversarial import FreeAdversarial, fgm, free_adversarial, pgd, project
from zlpr.perturb.network import NetworkObjective
from zlpr.perturb.noise import dropout_noise, gaussian_noise, random_direction
from zlpr.perturb.penalty import gradient_penalty
from zlpr.perturb.targets import label_smoothing, mixup
from zlpr.perturb.virtual import consistency, virtual_adversarial

__all__ = [
    "FreeAdversarial",
    "NetworkObjective",
    "consistency",
    "dropout_noise",
    "fgm",
    "free_adversarial",
    "gaussian_noise",
    "gradient_penalty",
    "label_smoothing",
    "mixup",
    "pgd",
    "project",
    "random_direction",
    "virtual_adversarial",
]
