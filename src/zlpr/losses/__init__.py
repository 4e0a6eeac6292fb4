"""Losses of the scores of each row, with hand-derived gradients and Hessians."""

from zlpr.losses.divergence import zlpr_divergence
from zlpr.losses.focal import asymmetric_loss, focal_loss
from zlpr.losses.gaussian import gaussian_kl, gaussian_nll
from zlpr.losses.gaussian_divergence import gaussian_divergence
from zlpr.losses.k_subset import k_subset_cross_entropy
from zlpr.losses.pairs import circle_loss, lsep_loss
from zlpr.losses.sigmoid import sigmoid_cross_entropy
from zlpr.losses.softmax import softmax_cross_entropy
from zlpr.losses.softmax_divergence import softmax_divergence
from zlpr.losses.zlpr import sparse_zlpr_loss, zlpr_loss, zlpr_minimum

__all__ = [
    "asymmetric_loss",
    "circle_loss",
    "focal_loss",
    "gaussian_divergence",
    "gaussian_kl",
    "gaussian_nll",
    "k_subset_cross_entropy",
    "lsep_loss",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "softmax_divergence",
    "sparse_zlpr_loss",
    "zlpr_divergence",
    "zlpr_loss",
    "zlpr_minimum",
]
