"""The line across data sets."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from samlib import inference as room


def naive_across(x, se, level):
    """Hartung and Knapp's interval about the random-effects mean, tau2 by Paule and Mandel; their q is at least 1."""
    k = len(x)

    def parts(tau2):
        w = 1 / (se**2 + tau2)
        mean = (w * x).sum() / w.sum()
        return w, mean, (w * (x - mean) ** 2).sum()

    tau2 = 0.0 if parts(0)[2] <= k - 1 else optimize.brentq(lambda t: parts(t)[2] - (k - 1), 0, 1e3, xtol=1e-14)
    w, mean, q = parts(tau2)
    reach = stats.t.isf(level / 2, k - 1) * math.sqrt(max(q / (k - 1), 1) / w.sum())
    return mean, mean - reach, mean + reach, math.sqrt(tau2)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_across_data_sets_is_hartung_and_knapp_s(k, spread):
    rng = np.random.default_rng(k)
    se = rng.uniform(0.003, 0.01, k)
    x = 0.01 + spread * rng.normal(size=k) + se * rng.normal(size=k)
    found = room.across(x, se, 0.02)
    assert found[:4] == pytest.approx(naive_across(x, se, 0.02), rel=1e-3, abs=1e-5)
    assert 0 <= found.i2 < 1


def test_data_sets_that_agree_by_chance_do_not_make_a_narrow_interval():
    found = room.across([0.01, 0.01, 0.01], [0.004, 0.004, 0.004])
    assert found.high - found.estimate == pytest.approx(stats.t.isf(0.025, 2) * 0.004 / math.sqrt(3))


def test_across_needs_two_data_sets():
    assert np.isnan(room.across([0.1], [0.1])).all()
    assert np.isnan(room.across([0.1, 0.2], [0.1, 0])).all()
