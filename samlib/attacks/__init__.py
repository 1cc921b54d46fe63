"""Membership inference attacks: arrays in, scores out, higher = more likely a member.

From the target's outputs alone: `correctness`, `confidence`, `loss`, `entropy`, `modified_entropy`; `threshold` turns
such a score into a decision, `label_only` takes predicted labels. With points that the target did not train on:
`population`, `quantile_regression`. With shadow models: `difficulty_calibration`, `lira`, `rmia`, `base`.

The last four look at the same thing, the signals of the models that saw an example and of those that did not: `moments`
computes their means and deviations once. `difficulty_calibration` uses the out mean, `base` and `rmia` the means of
probabilities, `lira` means and deviations of logits.
"""

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
