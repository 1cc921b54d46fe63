"""Membership inference attacks: arrays in, scores out. A higher score means a likelier member.

Some need only the target's outputs: `correctness`, `confidence`, `loss`, `entropy`, `modified_entropy`, and `label_only`
for predicted labels. `threshold` turns a score into a decision. Others need points outside the training set:
`population` and `quantile_regression`. The rest need shadow models: `difficulty_calibration`, `lira`, `rmia`, `base`.

The last four compare models that saw an example with models that did not. `moments` computes the means and deviations of
both once, for all four, and `leave_one_out` for each model as the target of the others. `difficulty_calibration` uses the
out means, `base` and `rmia` the means of probabilities, `lira` the means and deviations of logits.
"""

from samlib.attacks.calibrated import difficulty_calibration, label_only, population
from samlib.attacks.likelihood import Moments, leave_one_out, lira, moments
from samlib.attacks.quantile import quantile_regression
from samlib.attacks.relative import base, rmia
from samlib.attacks.thresholds import confidence, correctness, entropy, loss, modified_entropy, threshold
