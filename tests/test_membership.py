"""Membership risk: the decided claims against slow twins, and the coverage of their intervals."""

import numpy as np
import pytest
import stores
from benchmarks import coverage
from scipy import stats
from sklearn.metrics import roc_auc_score

from samlib import audit
from samlib.evaluation import tpr_at
from samlib.paper import membership


@pytest.fixture(scope="module")
def pair():
    return stores.pair(np.random.default_rng(0), 24, 300, 200)


def naive_spread(runs):
    """Log of the mean deviation out over the mean gap, an example at a time."""
    deviations, gaps = [], []
    for z, m in zip(runs.logit.values.T.astype(float), runs.member.values.T, strict=True):
        if m.sum() > 1 and (~m).sum() > 1:
            deviations.append(z[~m].std(ddof=1))
            gaps.append(z[m].mean() - z[~m].mean())
    return np.log(np.mean(deviations) / np.mean(gaps))


def test_each_claim_is_what_a_slow_twin_says(pair):
    found = membership.decided(pair)
    assert found["C1"].effect.estimate == pytest.approx(
        float(pair.sam.test_correct.mean() - pair.sgd.test_correct.mean())
    )
    aucs = [
        np.mean([roc_auc_score(m, z) for m, z in zip(r.member.values, r.logit.values, strict=True)]) for r in pair[:2]
    ]
    assert found["C2 confidence"].effect.estimate == pytest.approx(aucs[1] - aucs[0])
    assert found["C15"].effect.estimate == pytest.approx(naive_spread(pair.sam) - naive_spread(pair.sgd))
    assert found["C16"] is None  # 3,600 non-members allow three false positives
    attacked = [audit.attack_scores(runs, ("LiRA online",)) for runs in pair[:2]]
    rates = [tpr_at(each.scores["LiRA online"], each.member, 0.01) for each in attacked]
    assert membership.tpr(attacked, rate=0.01).effect.estimate == pytest.approx(rates[1] - rates[0])


def test_the_spread_of_outputs_does_not_know_the_scale(pair):
    """The fault that it replaces: SAM's logits times .9 turned the verdict, with every AUC unchanged."""
    effects = [
        membership.output_spread(p).effect for p in (pair, stores.stretched(pair, 0.9), stores.stretched(pair, 3))
    ]
    for other in effects[1:]:
        assert [float(v) for v in other] == pytest.approx([float(v) for v in effects[0]], rel=1e-4)


def test_the_terms_of_the_spread_are_its_first_order(pair):
    logit, member = pair.sam.logit.values, pair.sam.member.values
    deviation, apart = membership._moment_terms(logit, member)
    kept = np.arange(24) != 5
    for whole, part in zip((deviation, apart), membership._moment_terms(logit[kept], member[kept]), strict=True):
        moved, expected = part.mean() - whole.mean(), whole[kept].mean() - whole.mean()
        assert moved == pytest.approx(expected, abs=0.15 * abs(expected) + 1e-3)


def test_outputs_without_a_gap_have_no_spread_over_it():
    rng = np.random.default_rng(0)
    flat = stores.pair(
        rng, 24, 100, 50, sgd={"leak": 0.0, "skill": 0, "scale": 1}, sam={"leak": 0.0, "skill": 0, "scale": 1}
    )
    assert membership.output_spread(flat) is None


def test_the_tables_hold_the_simultaneous_interval(pair):
    frames = membership.measure(pair)
    own = {"effects", "accuracy", "attacks", "thresholds", "roc", "logits", "own_rates", "models", "counts", "moments"}
    assert set(frames) == own
    row, effect = frames["attacks"].loc[("confidence", "AUC")], membership.decided(pair)["C2 confidence"].effect
    assert (row.low, row.high) == pytest.approx(tuple(map(float, effect.interval(membership.EACH))))
    assert frames["attacks"].loc[("confidence", "TPR at 0.1% FPR"), "too_few"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(12, 250), (48, 250)])
def test_intervals_cover_and_the_family_does(shape):
    """A quick form of the benchmark. Online LiRA with 12 models is left to it: shadows that targets share make it cover .92."""
    draws = 120
    names = {"C1", "AUC confidence", "AUC LiRA offline", "TPR at 0.1", "C3", "C4", "C5", "C15"}
    found = coverage.table(draws, *shape, seed=3, only=names)
    lowest, highest = stats.binom.ppf(5e-4, draws, 0.92) / draws, stats.binom.ppf(1 - 5e-4, draws, 0.975) / draws
    inside = found.drop(index="family at once")["coverage"]
    assert set(inside.index) == names
    assert inside.between(lowest, highest).all(), inside
    assert found.loc["family at once", "coverage"] >= stats.binom.ppf(5e-4, draws, 0.95) / draws
