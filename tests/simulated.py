"""Runs that no model made, whose effects are known: for tests of what is computed from runs."""

import numpy as np
import xarray as xr
from stores import runs

from samlib.audit import Pair


def simulate(seed, *, leak, skill, spread=1.0, models=24, examples=300, tests=300, like=None):
    """Runs of models whose logits rise by `leak` on members and whose test accuracy rises with `skill`."""
    rng = np.random.default_rng(0)  # what is paired: subsets, examples' difficulty
    member = rng.random((models, examples)) < 0.5
    easy, easy_test = 2 * rng.normal(size=examples), 2 * rng.normal(size=tests)
    rng = np.random.default_rng(seed)
    logit = easy + leak * member + spread * rng.normal(size=(models, examples))
    test_logit = easy_test + skill + spread * rng.normal(size=(models, tests))
    return runs(member, logit, test_logit).assign(train_loss=("model", np.ones(models)))


def swapped(pair, which=None):
    """The pair with the two optimizers exchanged, in the models `which` (bool) or in all.

    An exchange at random removes every difference between the optimizers, so no difference should show.
    """
    if which is None:
        return Pair(pair.sam, pair.sgd, pair.name)
    mask = xr.DataArray(which, dims="model")
    data = [v for v in pair.sgd.data_vars if v in pair.sam]
    sgd, sam = (own[data].where(~mask, other) for own, other in (pair[:2], pair[1::-1]))
    return Pair(sgd, sam, pair.name)
