"""From scores to labels: rules, probabilities with a calibration, thresholds tuned for a metric."""

from zlpr.decision.labels import predict_labels, top_k_labels
from zlpr.decision.probabilities import Calibration, fit_calibration, predict_proba
from zlpr.decision.thresholds import tune_threshold

__all__ = [
    "Calibration",
    "fit_calibration",
    "predict_labels",
    "predict_proba",
    "top_k_labels",
    "tune_threshold",
]
