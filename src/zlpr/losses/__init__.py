"""Losses of the scores of each row, with hand-derived gradients and Hessians."""

from zlpr.losses.sigmoid import sigmoid_cross_entropy
from zlpr.losses.softmax import softmax_cross_entropy
from zlpr.losses.zlpr import zlpr_loss

__all__ = ["sigmoid_cross_entropy", "softmax_cross_entropy", "zlpr_loss"]
