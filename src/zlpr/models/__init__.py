"""Estimators that follow scikit-learn's conventions; arrays of any library in, the same library out."""

from zlpr.models.multilabel import MultilabelClassifier

__all__ = ["MultilabelClassifier"]
