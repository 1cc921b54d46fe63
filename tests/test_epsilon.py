"""The lower bound on epsilon: valid where decisions go together, and near the truth."""

import math

import numpy as np
import pytest
from scipy.special import expit

from samlib.evaluation import _independent, epsilon
from samlib.inference import epsilon_lower_bound

pytestmark = pytest.mark.slow


def test_the_bound_on_epsilon_holds_where_no_member_is_missed():
    """One example in 250 is missed by every model. A hundred examples mostly show none, though models and pairs are many."""
    rng, truth, above = np.random.default_rng(0), math.log(0.5 * 250), 0
    for _ in range(200):
        member = rng.random((64, 100)) < 0.5
        told = np.where(member, rng.random(100) > 1 / 250, rng.random(member.shape) < 0.5)
        above += epsilon(told.astype(float), member, 0.95) > truth
    assert above <= 200 * 0.05


@pytest.mark.parametrize("models", [8, 32])
def test_the_bound_on_epsilon_holds_where_models_and_examples_miss_together(models):
    """Some models miss many times as many members as others do, and some examples are missed far more often."""
    rng, rate, above = np.random.default_rng(0), 1 / 150, 0
    for _ in range(200):
        member = rng.random((models, 200)) < 0.5
        miss = rate * rng.gamma(1, 1, (models, 1)) * rng.choice([0, 0, 0, 4], 200)
        told = np.where(member, rng.random(member.shape) > miss, rng.random(member.shape) < 0.5)
        above += epsilon(told.astype(float), member, 0.95) > math.log(0.5 / rate)
    assert above <= 200 * 0.05


def test_the_bound_on_epsilon_does_not_fall_as_models_are_added():
    """Forests are wrong on none of 14,000 members and on 15 % of the others. With many models the bound fell to 0."""
    rng, bounds = np.random.default_rng(0), []
    for models in (1, 4, 16, 64):
        member = rng.random((models, 1800)) < 0.5
        told = member | (rng.random(member.shape) > 0.15)
        bounds.append(epsilon(told.astype(float), member, 0.999))
    assert bounds == sorted(bounds)
    assert bounds[0] > 1.5
    assert bounds[-1] > 3


def test_the_bound_on_epsilon_stays_below_the_truth_and_near_it():
    """Randomized response: an example's signal tells its membership truly with probability e^eps / (1 + e^eps)."""
    rng, bounds = np.random.default_rng(0), []
    for _ in range(30):
        member = rng.random((8, 400)) < 0.5
        told = np.where(rng.random(member.shape) < expit(1.0), member, ~member)
        bounds.append(epsilon(told.astype(float), member, 0.95))
    assert np.mean(np.array(bounds) <= 1) >= 0.9
    assert np.median(bounds) > 0.7


def test_decisions_that_go_together_count_as_few():
    """Where all examples of a model are decided alike, a model counts once."""
    rng = np.random.default_rng(1)
    member = rng.random((12, 400)) < 0.5
    shared = np.repeat(rng.random((12, 1)) < 0.5, 400, 1)
    hits, n = _independent(shared, member, up=False)
    assert n < 40
    assert hits <= n
    assert epsilon(shared + 0.0, member, 0.95) < epsilon_lower_bound(300, 400, 100, 400)
