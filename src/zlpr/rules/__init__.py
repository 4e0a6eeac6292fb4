"""Rules: differentiable functions as a value and a pullback, and the losses that work row by row."""

from zlpr._walk import set_workers
from zlpr.rules._elementwise import Elementwise, elementwise
from zlpr.rules._row_loss import RowLoss, Rows, row_loss
from zlpr.rules._rule import Rule, compose, rule

__all__ = [
    "Elementwise",
    "RowLoss",
    "Rows",
    "Rule",
    "compose",
    "elementwise",
    "row_loss",
    "rule",
    "set_workers",
]
