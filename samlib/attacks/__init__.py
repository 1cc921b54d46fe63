"""Membership inference attacks: arrays in, scores out, higher = more likely a member."""

from samlib.attacks.calibrated import difficulty_calibration, label_only, population
from samlib.attacks.likelihood import Moments, lira, moments
from samlib.attacks.quantile import quantile_regression
from samlib.attacks.relative import base, rmia
from samlib.attacks.thresholds import confidence, correctness, entropy, loss, modified_entropy, threshold

__all__ = [
    "Moments",
    "base",
    "confidence",
    "correctness",
    "difficulty_calibration",
    "entropy",
    "label_only",
    "lira",
    "loss",
    "modified_entropy",
    "moments",
    "population",
    "quantile_regression",
    "rmia",
    "threshold",
]
