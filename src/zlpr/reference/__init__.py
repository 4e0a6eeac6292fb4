"""The slow twins: what the right answer is, in mpmath, sharing no code with the rules."""

from zlpr.reference.activations import gelu, relu, sigmoid, softplus, tanh
from zlpr.reference.decision import (
    Tuned,
    calibration_gradient,
    metric_value,
    predict_labels,
    predict_proba,
    top_k_labels,
    tune_threshold,
)
from zlpr.reference.divergence import zlpr_divergence
from zlpr.reference.focal import asymmetric_loss, focal_loss
from zlpr.reference.gaussian import gaussian_kl, gaussian_nll
from zlpr.reference.k_subset import k_subset_cross_entropy
from zlpr.reference.losses import (
    Exact,
    ExactOfSeveral,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    sparse_zlpr_loss,
    zlpr_loss,
    zlpr_minimum,
)
from zlpr.reference.optim import adam_step, adax_step, global_norm
from zlpr.reference.pairs import circle_loss, lsep_loss

__all__ = [
    "Exact",
    "ExactOfSeveral",
    "Tuned",
    "adam_step",
    "adax_step",
    "asymmetric_loss",
    "calibration_gradient",
    "circle_loss",
    "focal_loss",
    "gaussian_kl",
    "gaussian_nll",
    "gelu",
    "global_norm",
    "k_subset_cross_entropy",
    "lsep_loss",
    "metric_value",
    "predict_labels",
    "predict_proba",
    "relu",
    "sigmoid",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "softplus",
    "sparse_zlpr_loss",
    "tanh",
    "top_k_labels",
    "tune_threshold",
    "zlpr_divergence",
    "zlpr_loss",
    "zlpr_minimum",
]
