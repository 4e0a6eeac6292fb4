"""Checks of rules, here and on the user's own machine, against differences and against exact twins."""

from zlpr.validation._check_rule import RuleReport, check_rule
from zlpr.validation._ulps import max_ulps

__all__ = ["RuleReport", "check_rule", "max_ulps"]
