"""The slow twins: what the right answer is, in mpmath, sharing no code with the rules."""

from zlpr.reference.activations import gelu, relu, sigmoid, softplus, tanh
from zlpr.reference.clipping import (
    adaptive_clip,
    clip_by_global_norm,
    clip_by_norm,
    clip_by_value,
    clip_per_example,
    smoothness_bound,
)
from zlpr.reference.decision import (
    Tuned,
    calibration_gradient,
    metric_value,
    predict_labels,
    predict_proba,
    top_k_labels,
    tune_threshold,
)
from zlpr.reference.divergence import gaussian_divergence, softmax_divergence, zlpr_divergence
from zlpr.reference.entropy import knn_cross_entropy, knn_entropy, knn_kl_divergence, neighbors
from zlpr.reference.focal import asymmetric_loss, focal_loss
from zlpr.reference.gaussian import gaussian_kl, gaussian_nll
from zlpr.reference.k_subset import k_subset_cross_entropy
from zlpr.reference.layers import ExactLayer, batch_norm, dense, dropout
from zlpr.reference.losses import (
    Exact,
    ExactOfSeveral,
    sigmoid_cross_entropy,
    softmax_cross_entropy,
    sparse_zlpr_loss,
    zlpr_loss,
    zlpr_minimum,
)
from zlpr.reference.mutual_information import (
    knn_conditional_mutual_information,
    knn_mutual_information,
    knn_mutual_information_discrete,
    knn_total_correlation,
    knn_transfer_entropy,
)
from zlpr.reference.optim import (
    adafactor_step,
    adam_step,
    adax_step,
    amsgrad_step,
    average,
    global_norm,
    rmsprop_step,
    sgd_step,
)
from zlpr.reference.pairs import circle_loss, lsep_loss
from zlpr.reference.perturb import fgm, gradient_penalty, label_smoothing, mixup, project

__all__ = [
    "Exact",
    "ExactLayer",
    "ExactOfSeveral",
    "Tuned",
    "adafactor_step",
    "adam_step",
    "adaptive_clip",
    "adax_step",
    "amsgrad_step",
    "asymmetric_loss",
    "average",
    "batch_norm",
    "calibration_gradient",
    "circle_loss",
    "clip_by_global_norm",
    "clip_by_norm",
    "clip_by_value",
    "clip_per_example",
    "dense",
    "dropout",
    "fgm",
    "focal_loss",
    "gaussian_divergence",
    "gaussian_kl",
    "gaussian_nll",
    "gelu",
    "global_norm",
    "gradient_penalty",
    "k_subset_cross_entropy",
    "knn_conditional_mutual_information",
    "knn_cross_entropy",
    "knn_entropy",
    "knn_kl_divergence",
    "knn_mutual_information",
    "knn_mutual_information_discrete",
    "knn_total_correlation",
    "knn_transfer_entropy",
    "label_smoothing",
    "lsep_loss",
    "metric_value",
    "mixup",
    "neighbors",
    "predict_labels",
    "predict_proba",
    "project",
    "relu",
    "rmsprop_step",
    "sgd_step",
    "sigmoid",
    "sigmoid_cross_entropy",
    "smoothness_bound",
    "softmax_cross_entropy",
    "softmax_divergence",
    "softplus",
    "sparse_zlpr_loss",
    "tanh",
    "top_k_labels",
    "tune_threshold",
    "zlpr_divergence",
    "zlpr_loss",
    "zlpr_minimum",
]
