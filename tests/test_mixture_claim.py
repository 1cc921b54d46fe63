"""Claim C11 on the mixture, and where it fails: SGD and SAM of the specification's table."""

import numpy as np
import pytest
from test_mixture import MIX, Bayes

from samlib.mixture import (
    errors,
    fit,
    fit_mlp,
    hidden_units,
    mass_apart,
    paired_draws,
)  # fmt: skip

TABLE = {  # n_atypical: SGD and SAM error, atypical accuracy, disagreement with Bayes; t of each difference
    1: ((0.0953, 0.0896), (0.549, 0.606), (0.0659, 0.0592), (-6.6, 6.7, -6.9)),
    2: ((0.0829, 0.0775), (0.685, 0.742), (0.0512, 0.0449), (-8.1, 9.1, -8.5)),
    5: ((0.0704, 0.0687), (0.844, 0.865), (0.0382, 0.0357), (-4.6, 7.2, -4.6)),
    20: ((0.0649, 0.0648), (0.948, 0.954), (0.0295, 0.0294), (-0.5, 7.2, -0.3)),
}
MEASURES = ("error", "atypical_accuracy", "disagreement")


@pytest.fixture(scope="module")
def exact():
    return {n: paired_draws(120, n_atypical=n) for n in TABLE}


@pytest.mark.slow
def test_with_few_atypical_samples_sam_generalizes_better(exact):
    for n in (1, 2):
        tests = exact[n].summary()
        for name in MEASURES:
            assert tests[name].p < 1e-4
            assert (tests[name].difference > 0) == (name == "atypical_accuracy")
            assert tests[name].low * tests[name].high > 0  # the interval agrees


@pytest.mark.slow
def test_the_optimizer_itself_gains_too():
    tests = paired_draws(60, solver="minibatch").summary()
    for name in MEASURES:
        assert tests[name].p < 1e-3
        assert (tests[name].difference > 0) == (name == "atypical_accuracy")


@pytest.mark.slow
def test_the_gain_shrinks_with_more_atypical_samples(exact):
    gains = [exact[n].summary()["atypical_accuracy"].difference for n in TABLE]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] < gains[0] / 5


@pytest.mark.slow
def test_every_row_of_the_table_is_within_its_spread(exact):
    for n, (*rows, ts) in TABLE.items():
        for name, (sgd, sam), t in zip(MEASURES, rows, ts, strict=True):
            one, other = exact[n].sgd[name], exact[n].sam[name]
            # theirs is a mean over 60 draws, ours over 120
            spread = np.sqrt(1 / 60 + 1 / 120)
            assert abs(one.mean() - sgd) < 4 * one.std() * spread + 1e-3  # their test sample is finite
            assert abs(other.mean() - sam) < 4 * other.std() * spread + 1e-3
            difference = sam - sgd
            theirs = 60 * (difference / t) ** 2
            se = np.sqrt(max(theirs, np.var(other - one)) / 60 + np.var(other - one) / 120)
            assert abs((other - one).mean() - difference) < 4 * se


def test_with_many_samples_both_coincide():
    x, y, _ = MIX.sample(1600, 400, 2000, seed=0)
    sgd, sam = fit(x, y), fit(x, y, rho=1.0)
    a, b = errors(sgd, MIX), errors(sam, MIX)
    assert abs(a["error"] - b["error"]) < 0.002
    assert 0 < mass_apart(sgd, sam, MIX) < 0.01
    assert mass_apart(sgd, Bayes, MIX) == pytest.approx(a["disagreement"])
    assert max(a["disagreement"], b["disagreement"]) < 0.03  # what is left is misspecification


@pytest.mark.slow
def test_an_origin_beyond_the_clusters_reverses_the_gain():
    for origin in ((-3.05, -0.6), (3.95, 1.0)):  # half the clusters' distance beyond the typical and the atypical one
        test = paired_draws(40, origin=origin).summary()["atypical_accuracy"]
        assert test.difference < -0.1
        assert test.p < 1e-4
        # the penalty on the large weights that this takes is the reason of nine tenths of it
        freed = paired_draws(40, origin=origin, l2=1e-6).summary()["atypical_accuracy"]
        assert abs(freed.difference) < abs(test.difference) / 10


def weight(rho: float, origin) -> float:
    """The mean squared length of the weights of fits that pay next to no penalty."""
    return np.mean(
        [
            (fit(*MIX.sample(40, 2, 40, seed=(0, k))[:2], rho=rho, origin=origin, l2=1e-8).weights ** 2).sum()
            for k in range(10)
        ]
    )


def test_far_origins_take_large_weights_and_sam_takes_larger_ones():
    near = (0.45, 0.2)  # between the clusters
    for origin in ((-3.05, -0.6), (3.95, 1.0)):
        assert weight(0.0, origin) > 4 * weight(0.0, near)
        assert weight(1.0, origin) > 4 * weight(0.0, origin)


@pytest.mark.slow
def test_full_batch_sam_and_a_small_network_do_not_share_the_gain():
    full = paired_draws(40, solver="minibatch", batch_size=100).summary()["atypical_accuracy"]
    assert 0 < full.difference < 0.02
    network = paired_draws(20, fitter=fit_mlp, rho=0.2, width=8).summary()["atypical_accuracy"]
    assert network.difference < 0.02


def rising(rho: float, batch_size: int, steps: int = 1000, lr: float = 0.3) -> float:
    """Of 32 ReLU units, those on for an atypical sample that rise from blue towards its cluster: the mean of ten draws."""
    way, found = np.subtract(MIX.atypical_mean, MIX.blue_mean), []
    for k in range(10):
        x, y, atypical = MIX.sample(40, 2, 40, seed=(0, k))
        given = {"activation": "relu", "batch_size": batch_size, "steps": steps, "lr": lr}
        weights = fit_mlp(x, y, rho=rho, seed=k, **given).weights
        on = (hidden_units(weights, x[atypical] / 2, "relu")[0] > 0).any(0)
        found.append((on & (weights[96:128] > 0) & (way @ weights[:64].reshape(2, 32) > 0)).sum())
    return np.mean(found)


@pytest.mark.slow
def test_small_batches_switch_off_the_relu_units_that_serve_the_atypical_cluster():
    start, whole = rising(0.0, 4, steps=1, lr=0.0), rising(0.2, 82)
    assert rising(0.2, 4) < rising(0.0, 4) < start / 4
    assert whole > start / 2
