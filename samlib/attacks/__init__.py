"""Membership inference attacks: arrays in, scores out, higher = more likely a member."""

from samlib.attacks.likelihood import Moments, lira, moments
from samlib.attacks.relative import base, rmia
from samlib.attacks.thresholds import confidence, correctness, entropy, loss, modified_entropy, threshold

__all__ = [
    "Moments",
    "base",
    "confidence",
    "correctness",
    "entropy",
    "lira",
    "loss",
    "modified_entropy",
    "moments",
    "rmia",
    "threshold",
]
