"""Runs that no model made, whose effects are known: for tests of what is computed from runs."""

import numpy as np
from stores import runs


def simulate(seed, *, leak, skill, spread=1.0, models=24, examples=300, tests=300, like=None):
    """Runs of models whose logits rise by `leak` on members and whose test accuracy rises with `skill`."""
    rng = np.random.default_rng(0)  # what is paired: subsets, examples' difficulty
    member = rng.random((models, examples)) < 0.5
    easy, easy_test = 2 * rng.normal(size=examples), 2 * rng.normal(size=tests)
    rng = np.random.default_rng(seed)
    logit = easy + leak * member + spread * rng.normal(size=(models, examples))
    test_logit = easy_test + skill + spread * rng.normal(size=(models, tests))
    return runs(member, logit, test_logit).assign(train_loss=("model", np.ones(models)))
