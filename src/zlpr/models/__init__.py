"""Estimators that follow scikit-learn's conventions; arrays of any library in, the same library out."""

from zlpr.models.entropic_autoencoder import EntropicAutoencoder
from zlpr.models.multilabel import MultilabelClassifier
from zlpr.models.variational_autoencoder import VariationalAutoencoder

__all__ = ["EntropicAutoencoder", "MultilabelClassifier", "VariationalAutoencoder"]
