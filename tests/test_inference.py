"""Intervals and verdicts against closed forms and slow twins; coverage by simulation."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from samlib import inference as room
from samlib.inference import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, SUPPORTED, VERDICTS, Effect


def two_way(rng, k, n, rows=1.0, columns=1.0, rest=1.0):
    return rows * rng.normal(size=(k, 1)) + columns * rng.normal(size=n) + rest * rng.normal(size=(k, n))


def same(a, b):
    assert [float(v) for v in a] == pytest.approx([float(v) for v in b])


def means_left_out(terms, *sizes):
    """The mean with every choice of groups left out, group g of an axis being every size-th of it."""

    def statistic(*left):
        kept = [np.arange(n) % size + 1 != g for n, size, g in zip(terms.shape, sizes, left, strict=True)]
        return terms[np.ix_(*kept)].mean()

    return room.deletions(statistic, *sizes)


def test_the_variance_of_a_mean_is_anova_by_hand():
    terms = np.array([[1.0, 2.0, 6.0], [2.0, 5.0, 5.0], [3.0, 2.0, 1.0], [6.0, 7.0, 8.0]])
    k, n, mean = 4, 3, terms.mean()
    rows = n * sum((terms[i].mean() - mean) ** 2 for i in range(k)) / (k - 1)
    columns = k * sum((terms[:, j].mean() - mean) ** 2 for j in range(n)) / (n - 1)
    rest = sum((terms[i, j] - terms[i].mean() - terms[:, j].mean() + mean) ** 2 for i in range(k) for j in range(n)) / (
        (k - 1) * (n - 1)
    )
    variance = (rows + columns - rest) / (k * n)
    df = (rows + columns - rest) ** 2 / (rows**2 / (k - 1) + columns**2 / (n - 1) + rest**2 / ((k - 1) * (n - 1)))
    found = room.mean(terms)
    same(found, (mean, math.sqrt(variance), df, rows / (k * n)))
    reach = stats.t.ppf(1 - 0.01 / 2, df) * math.sqrt(variance)
    assert found.interval(0.01) == pytest.approx((mean - reach, mean + reach))
    assert found.p() == pytest.approx(2 * stats.t.sf(mean / math.sqrt(variance), df))
    assert found.interval(float(found.p()))[0] == pytest.approx(0)  # the p-value is the interval's twin


def test_where_the_residual_is_all_it_is_the_floor():
    terms = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = room.mean(terms)
    assert found.stderr == pytest.approx(math.sqrt(4 / 4))  # MS of the rest is 4, of both others 0
    assert found.df == pytest.approx(1)


@pytest.mark.parametrize("shape", [(1, 7), (7, 1)])
def test_one_row_or_one_column_is_a_t_test(shape):
    values = np.random.default_rng(0).normal(1, 1, shape)
    found, expected = room.mean(values), stats.ttest_1samp(values.ravel(), 0)
    assert found.p() == pytest.approx(expected.pvalue)
    assert found.interval(0.1) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert found.by_models == pytest.approx(0 if shape[0] == 1 else found.stderr**2)


def test_leading_axes_are_separate_statistics():
    terms = two_way(np.random.default_rng(0), 5, 6) + np.arange(3)[:, None, None] * np.arange(6)
    found = room.mean(terms)
    for i in range(3):
        same([part[i] for part in found], room.mean(terms[i]))


def test_a_mean_of_equal_terms_is_certain():
    found = room.mean(np.full((3, 4), 0.5))
    assert found.interval() == (0.5, 0.5)
    assert (found.stderr, found.p()) == (0, 0)
    assert room.mean(np.zeros((3, 4))).p() == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(2, 7), n=st.integers(2, 7))
def test_a_jackknife_with_groups_of_one_is_the_mean_s_anova(seed, k, n):
    terms = two_way(np.random.default_rng(seed), k, n)
    same(room.jackknife(means_left_out(terms, k, n)), room.mean(terms))


@pytest.mark.parametrize("sizes", [(4,), (4, 5), (3, 4, 5), (2, 2, 2)])
def test_the_jackknife_counts_each_part_of_the_variance_once(sizes):
    """Inclusion and exclusion, from the closed form of each part: factor effects and interactions of an array of means."""
    terms = np.random.default_rng(1).normal(size=sizes)
    expected, parts, mean = 0.0, {}, terms.mean()
    for size in range(1, len(sizes) + 1):
        for axes in itertools.combinations(range(len(sizes)), size):
            part = terms.mean(tuple(set(range(len(sizes))) - set(axes)))
            for axis in range(size):
                part = part - part.mean(axis, keepdims=True)
            cells, df = math.prod(sizes[a] for a in axes), math.prod(sizes[a] - 1 for a in axes)
            parts[axes] = (part**2).sum() / df / cells, df
            expected += (-1) ** (size + 1) * parts[axes][0]
    expected = max(expected, part_of_all := parts[tuple(range(len(sizes)))][0])
    found = room.jackknife(means_left_out(terms, *sizes), len(sizes))
    df = expected**2 / sum(part**2 / d for part, d in parts.values())
    same(found, (mean, math.sqrt(expected), df, min(parts[0,][0], expected)))
    assert expected >= part_of_all


@pytest.mark.parametrize("factors", [2, 3])
def test_without_interaction_the_variances_of_factors_add(factors):
    rng, sizes = np.random.default_rng(2), (6, 5, 4)[:factors]
    effects = [rng.normal(size=n) for n in sizes]
    terms = sum(np.expand_dims(e, [a for a in range(factors) if a != i]) for i, e in enumerate(effects))
    found = room.jackknife(means_left_out(terms, *sizes), factors)
    assert found.stderr**2 == pytest.approx(sum(e.var(ddof=1) / len(e) for e in effects))
    assert found.by_models == pytest.approx(effects[0].var(ddof=1) / sizes[0])


@pytest.mark.parametrize("factors", [2, 3])
@pytest.mark.slow
def test_the_jackknife_s_variance_is_unbiased_with_every_interaction(factors):
    rng, sizes = np.random.default_rng(3), (5, 4, 3)[:factors]
    sd = {
        axes: rng.uniform(0.3, 1)
        for size in range(1, factors + 1)
        for axes in itertools.combinations(range(factors), size)
    }
    truth = sum(s**2 / math.prod(sizes[a] for a in axes) for axes, s in sd.items())
    found = []
    for _ in range(1500):
        terms = sum(s * rng.normal(size=[n if a in axes else 1 for a, n in enumerate(sizes)]) for axes, s in sd.items())
        found.append(float(room.jackknife(means_left_out(terms, *sizes), factors).stderr) ** 2)
    assert np.mean(found) == pytest.approx(truth, abs=5 * np.std(found) / math.sqrt(1500))


def test_a_jackknife_sees_curved_statistics():
    """A ratio of means: its variance is that of the linearized terms."""
    rng = np.random.default_rng(0)
    a, b = 5 + two_way(rng, 20, 400, 0.1, 0.5), 4 + two_way(rng, 20, 400, 0.1, 0.5)
    rows, columns = np.arange(20) + 1, room.groups(np.arange(400), 20)

    def ratio(g, h):
        part = np.ix_(rows != g, columns != h)
        return a[part].mean() / b[part].mean()

    found = room.jackknife(room.deletions(ratio, 20, 20))
    linear = a.mean() / b.mean() + (a - a.mean() / b.mean() * b) / b.mean()
    assert float(found.stderr) == pytest.approx(float(room.mean(linear).stderr), rel=0.2)


def test_extra_variance_is_added_to_the_models_part():
    values = means_left_out(two_way(np.random.default_rng(0), 5, 6), 5, 6)
    plain, more = room.jackknife(values), room.jackknife(values, extra=0.3)
    same(more, (plain.estimate, math.sqrt(plain.stderr**2 + 0.3), plain.df, plain.by_models + 0.3))


def test_a_value_that_is_missing_has_no_interval():
    values = means_left_out(two_way(np.random.default_rng(0), 5, 6), 5, 6)
    values[2, 3] = np.nan
    found = room.jackknife(values)
    assert np.isnan([found.stderr, *found.interval(), found.p()]).all()
    zero = room.jackknife(np.where(np.isnan(values), np.nan, 0))
    assert np.isnan(zero.p())
    assert room.verdict(0.0, *zero.interval(), 1, 0.005) == INCONCLUSIVE
    with pytest.raises(ValueError, match="terms holds 1 NaN"):
        room.mean([[1, np.nan], [1, 2]])
    with pytest.raises(ValueError, match=r"at least 2 of them, but their shape is \(1, 1\)"):
        room.mean([[1]])
    with pytest.raises(ValueError, match=r"2 axes of at least 3 \(2 groups\)"):
        room.jackknife(np.zeros((3, 2)))


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, 10**9), min_size=1, max_size=60, unique=True), data=st.data())
def test_groups_depend_on_what_an_id_is_and_not_where_it_stands(ids, data):
    n = data.draw(st.integers(1, len(ids)))
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    found = room.groups(ids, n)
    assert np.array_equal(room.groups(np.array(ids)[order], n), found[order])
    sizes = np.bincount(found, minlength=n + 1)
    assert sizes[0] == 0
    assert np.ptp(sizes[1:]) <= 1


def test_groups_of_neighbours_are_mixed():
    found = room.groups(np.arange(6000), 20)
    assert abs(np.corrcoef(found, np.arange(6000))[0, 1]) < 0.05
    assert abs(np.corrcoef(found[1:], found[:-1])[0, 1]) < 0.05
    assert not np.array_equal(found, np.arange(6000) % 20 + 1)


@pytest.mark.parametrize(("n_groups", "parts"), [(20, 2), (20, 3), (12, 2), (9, 3)])
def test_partitions_are_balanced_and_rotate(n_groups, parts):
    found = room.partitions(n_groups, parts, 10)
    assert found.shape == (10 * parts, n_groups)
    assert np.array_equal(found, room.partitions(n_groups, parts, 10))
    for part in range(parts):
        assert ((found == part).sum(0) == 10).all()  # each group equally often in each
        assert set((found == part).sum(1)) <= {n_groups // parts, -(-n_groups // parts)}
    assert np.array_equal(found[10:20], (found[:10] + 1) % parts)
    assert len(np.unique(found[:10], axis=0)) == 10


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=40), data=st.data())
def test_shares_are_equal_buckets_in_which_ties_have_equal_parts(scores, data):
    n = data.draw(st.integers(1, len(scores)))
    scores = np.array(scores)
    weights = room.shares(scores, n)
    np.testing.assert_allclose(weights.sum(1), len(scores) / n)
    np.testing.assert_allclose(weights.sum(0), 1)
    for value in np.unique(scores):
        assert np.ptp(weights[:, scores == value], axis=1).max() < 1e-12
    means = weights @ scores / weights.sum(1)
    assert (np.diff(means) >= -1e-9).all()
    order = np.array(data.draw(st.permutations(range(len(scores)))))
    np.testing.assert_allclose(room.shares(scores[order], n), weights[:, order])


def test_shares_without_ties_are_array_split():
    scores = np.random.default_rng(0).permutation(12)
    for bucket, places in zip(room.shares(scores, 4), np.array_split(np.argsort(scores), 4), strict=True):
        assert np.array_equal(np.flatnonzero(bucket), np.sort(places))


def test_a_crossing_says_how_the_share_above_a_cut_moves():
    """Models that raise all scores alike: the share above a cut moves by the density there, which its terms know."""
    rng = np.random.default_rng(0)
    errors, reached, known = [], [], []
    for _ in range(300):
        terms = two_way(rng, 10, 300, 0.5, 1.0, 1.0)
        above = terms.mean(0) > 0.4
        found = room.mean(above + room.crossing(terms, 0.4))
        assert found.estimate == pytest.approx(above.mean())
        errors.append(above.mean())
        reached.append(float(found.stderr))
        known.append(float(room.mean(above[None].astype(float)).stderr))
    assert np.sqrt(np.mean(np.square(reached))) == pytest.approx(np.std(errors), rel=0.15)
    assert np.mean(known) < 0.6 * np.std(errors)  # examples alone: too narrow
    gone = np.column_stack([terms, np.full(10, np.nan)])
    assert (room.crossing(gone, 0.4)[:, -1] == 0).all()
    assert (room.crossing(np.ones((3, 4)), 1.0) == 0).all()


@pytest.mark.parametrize("true", [0.3, 0.6, 0.9])
def test_reliability_is_that_of_all_models(true):
    """Scores are a true value and each model's noise; the reliability of their mean is known."""
    rng, n_models, n = np.random.default_rng(0), 16, 20_000
    noise = math.sqrt(n_models * (1 - true) / true)
    score = rng.normal(size=n)
    terms, new = (score + noise * rng.normal(size=(n_models, n)) for _ in range(2))
    halves = [room.partitions(n_models, 2)[i] == 0 for i in range(20)]
    found = room.reliability([terms[h].mean(0) for h in halves], [terms[~h].mean(0) for h in halves], n_models)
    assert found.value == pytest.approx(stats.spearmanr(terms.mean(0), new.mean(0))[0], abs=0.02)
    assert found.value == pytest.approx(true, abs=0.03)  # of ranks, so a little less
    assert found.models == pytest.approx(n_models * 4 * (1 - true) / true, rel=0.15)


def test_scores_without_order_are_not_reliable():
    assert room.reliability([[1, 2, 3]], [[3, 2, 1]], 8) == (0, math.inf)
    assert room.reliability([[1, 1, 1]], [[3, 2, 1]], 8) == (0, math.inf)
    assert room.reliability([[1, 2, 3]], [[1, 2, 3]], 8) == (1, 0)


@given(half=st.floats(0.01, 0.99), n=st.integers(2, 2000), goal=st.floats(0.05, 0.95))
def test_needed_models_inverts_spearman_and_brown(half, n, goal):
    models = room.needed_models(half, n, goal)
    times = models / n
    assert times * half / (1 + (times - 1) * half) == pytest.approx(goal)
    assert room.needed_models(goal, models, half) == pytest.approx(n)
    assert room.needed_models(0, n, goal) == math.inf


def test_the_plan_s_figures_of_needed_models():
    """Split halves of 64 models at .12, as digits had: .5 needs about 235, .8 about 950."""
    whole = 2 * 0.12 / 1.12
    assert room.needed_models(whole, 64, 0.5) == pytest.approx(235, abs=2)
    assert room.needed_models(whole, 64, 0.8) == pytest.approx(939, abs=12)


@pytest.mark.parametrize(
    ("estimate", "low", "high", "expected"),
    [
        (0.02, 0.01, 0.03, SUPPORTED),
        (-0.02, -0.03, -0.01, CONTRADICTED),
        (0.001, -0.002, 0.004, NO_DIFFERENCE),
        (0.003, 0.001, 0.0049, NO_DIFFERENCE),
        (-0.003, -0.0049, -0.001, NO_DIFFERENCE),
        (0.0, 0.0, 0.0, NO_DIFFERENCE),
        (0.02, -0.01, 0.05, INCONCLUSIVE),
        (0.004, 0.001, 0.007, INCONCLUSIVE),
        (-0.004, -0.007, -0.001, INCONCLUSIVE),
        (0.0, -0.0027, 0.0051, INCONCLUSIVE),
        (0.02, 0.0, 0.04, INCONCLUSIVE),
        (0.005, 0.001, 0.009, SUPPORTED),
        (0.02, math.nan, math.nan, INCONCLUSIVE),
    ],
)
def test_verdicts(estimate, low, high, expected):
    assert room.verdict(estimate, low, high, 1, 0.005) == expected
    assert room.verdict(-estimate, -high, -low, -1, 0.005) == expected


@given(
    estimate=st.floats(-1, 1), reach=st.floats(0, 1), direction=st.sampled_from([-1, 1]), smallest=st.floats(1e-3, 0.5)
)
def test_a_mirrored_effect_has_the_mirrored_verdict(estimate, reach, direction, smallest):
    mirror = {SUPPORTED: CONTRADICTED, CONTRADICTED: SUPPORTED}
    said = room.verdict(estimate, estimate - reach, estimate + reach, direction, smallest)
    other = room.verdict(-estimate, -estimate - reach, -estimate + reach, direction, smallest)
    assert other == mirror.get(said, said)
    assert said in VERDICTS
    if said in mirror:
        assert abs(estimate) >= smallest
        assert abs(estimate) > reach


@settings(max_examples=100)
@given(
    estimate=st.floats(-0.03, 0.03), models=st.floats(0, 0.02), rest=st.floats(0, 0.01), df=st.floats(2, 500),
    k=st.integers(4, 500),
)  # fmt: skip
def test_so_many_models_would_decide(estimate, models, rest, df, k):
    """With the models' part of the variance so much smaller the interval just touches; with fewer models it does not."""
    smallest, level = 0.005, 0.01
    effect = Effect(*map(np.float64, (estimate, math.hypot(models, rest), df, models**2)))
    low, high = (float(end) for end in effect.interval(level))
    if room.verdict(estimate, low, high, 1, smallest) != INCONCLUSIVE:
        return
    needed, grown = room.to_decide(effect, smallest, level, k)
    assert (grown < 1) != math.isnan(needed)
    if math.isnan(needed):  # the examples' part alone is too much
        for sign in (-1, 1):
            alone = Effect(effect.estimate, np.float64(rest * (1 - 1e-6)), effect.df, np.float64(0))
            ends = [float(end) for end in alone.interval(level)]
            assert room.verdict(estimate, *ends, sign, smallest) in (INCONCLUSIVE, NO_DIFFERENCE) or rest == 0
        return
    assert needed >= k
    then = Effect(effect.estimate, np.sqrt(rest**2 + models**2 * k / (needed * (1 + 1e-6))), effect.df, np.float64(0))
    assert room.verdict(estimate, *map(float, then.interval(level)), 1, smallest) != INCONCLUSIVE


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 500), data=st.data(), confidence=st.floats(0.5, 0.999))
def test_clopper_pearson_is_scipys(n, data, confidence):
    k = data.draw(st.integers(0, n))
    low, high = room.clopper_pearson(k, n, confidence)
    expected = stats.binomtest(k, n).proportion_ci(confidence)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_bad_counts_are_one_sentence():
    for k, n in ((-1, 3), (4, 3), (0, 0), (0.5, 3)):
        with pytest.raises(ValueError, match="successes must be whole numbers"):
            room.clopper_pearson(k, n)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "columns"), [(0.1, 0.1), (0.5, 0.1), (0.0, 0.5)])
def test_the_mean_covers_with_both_sources_of_randomness(rows, columns):
    rng, draws = np.random.default_rng(0), 600
    found = [room.mean(two_way(rng, 12, 250, rows, columns)) for _ in range(draws)]
    covered = sum(low <= 0 <= high for low, high in (each.interval() for each in found))
    assert stats.binom.ppf(5e-4, draws, 0.92) <= covered <= stats.binom.ppf(1 - 5e-4, draws, 0.975)
    if rows:
        deviation = pd.Series([float(each.estimate) for each in found]).std()
        assert np.sqrt(np.mean([float(each.stderr) ** 2 for each in found])) == pytest.approx(deviation, rel=0.1)
