"""Memorization: the decided claims against slow twins, and faults that they replace."""

import numpy as np
import pytest
import stores
from simulated import swapped

from samlib.inference import shares
from samlib.paper import memorization, panels, sets
from samlib.paper.distances import atypicality
from samlib.paper.frames import Section

N = 300


@pytest.fixture(scope="module")
def pair():
    return stores.pair(np.random.default_rng(0), 24, N, 50)


def naive_scores(runs, models):
    """Memorization an example at a time, a mean of nothing taken for 0."""
    found = np.zeros(runs.sizes["example"])
    for i in range(len(found)):
        c, m = runs.correct.values[models, i], runs.member.values[models, i]
        found[i] = (c[m].mean() if m.any() else 0) - (c[~m].mean() if (~m).any() else 0)
    return found


def test_the_share_of_the_lowest_range_is_a_count(pair):
    sgd, sam = (naive_scores(runs, slice(None)) for runs in pair[:2])
    found = memorization.lowest_range(pair, memorization.Scores(pair))
    assert found.estimate == pytest.approx((sam < 0.1).mean() - (sgd < 0.1).mean())


@pytest.mark.slow
def test_lower_scores_are_chosen_on_other_models_over_many_halves(pair):
    scores, means = memorization.Scores(pair), []
    for half in sets.halves(sets.model_groups(pair.sgd.model.values)):
        for choose in (half, ~half):
            pooled = sum(naive_scores(runs, choose) for runs in pair[:2]) / 2
            gain = naive_scores(pair.sam, ~choose) - naive_scores(pair.sgd, ~choose)
            means.append(gain[(pooled >= 0.1) & (pooled < 0.5)].mean())
    assert len(means) == 40
    assert memorization.lower_scores(pair, scores).estimate == pytest.approx(np.mean(means))


def test_the_ends_of_the_difference_are_compared_with_each_other(pair):
    points = stores.points(np.random.default_rng(1), N)
    gain = naive_scores(pair.sam, slice(None)) - naive_scores(pair.sgd, slice(None))
    weights, away = shares(gain, 20), atypicality(points)
    expected = weights[-1] @ away / weights[-1].sum() - weights[0] @ away / weights[0].sum()
    assert memorization.more_memorized(pair, memorization.Scores(pair), points).estimate == pytest.approx(expected)


@pytest.mark.slow
def test_noisy_examples_at_both_ends_are_no_finding():
    """The fault that it replaces: atypical examples are noisy ones, so the top alone is atypical with nothing to find."""
    rng, points, said, top = np.random.default_rng(2), stores.points(np.random.default_rng(1), N), [], []
    away = atypicality(points)
    for _ in range(60):
        noisy = rng.random((2, 24, N)) < 1 - 0.5 * away  # atypical examples are right by a coin
        member = rng.random((24, N)) < 0.5
        both = [stores.runs(member, np.where(right, 1.0, -1.0), np.ones((24, 5))) for right in noisy]
        pair = memorization.Pair(both[0], both[1], "SAM")
        low, high = memorization.more_memorized(pair, memorization.Scores(pair), points).interval(0.05)
        said.append(low > 0 or high < 0)
        gain = naive_scores(both[1], slice(None)) - naive_scores(both[0], slice(None))
        top.append(away[np.argsort(-gain)[:15]].mean())
    assert np.mean(top) > 0.6  # not .5
    assert sum(said) <= 9  # binomial, .05


def test_scores_state_their_reliability(pair):
    found = memorization.measure(pair)
    assert (found["reliability"]["value"] <= 1).all()
    row = found["effects"].loc["C3"]
    assert row["reliability"] == pytest.approx(found["reliability"]["value"]["pooled"])
    assert np.isnan(found["effects"].loc["C5", "estimate"])  # these data are not at hand


def test_the_density_s_bins_add_up(pair):
    density = memorization.measure(pair)["density"]
    sgd = naive_scores(pair.sgd, slice(None))
    counts = np.histogram(np.clip(sgd, -0.19, 0.99), memorization.BINS)[0] / N
    assert density[["sgd", "sam"]].sum().tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(density["sgd"], counts, atol=0.03)
    assert (density["low"] <= density["difference"]).all()


def test_what_is_shown_does_not_know_the_order(pair):
    """Also what no claim stands on: link, its bins, the most different examples."""
    plain = memorization.measure(pair)
    moved = memorization.measure(stores.reordered(pair, np.random.default_rng(5)))
    for name in ("means", "density", "agreement", "link", "link_bins"):
        values = [frame.select_dtypes("number").to_numpy() for frame in (plain[name], moved[name])]
        np.testing.assert_allclose(*values, atol=1e-9)
    assert plain["most"].index.tolist() == moved["most"].index.tolist()
    mirrored = memorization.measure(swapped(pair))["density"]
    np.testing.assert_allclose(mirrored["difference"], -plain["density"]["difference"], atol=1e-12)


def test_four_models_have_scores_and_no_link():
    small = stores.pair(np.random.default_rng(0), 4, 100, 50)
    frames = memorization.measure(small)
    assert frames["link"].empty
    assert frames["link_bins"].empty
    assert len(frames["density"]) == 20
    found = Section({"digits": frames})
    assert "Not shown on Digits" in panels.across(found, "link", "correlation").data
    assert "Not shown on Digits" in memorization.link_curve(found).data
    assert panels.told(found, "link").data == "*These runs are too small to say it.*"


def test_the_figures_show_each_data_set_and_its_numbers(pair):
    frames = memorization.measure(pair)
    found = Section({"digits": frames, "location30": frames}, {"digits": "A", "location30": "B"}, "ASAM")
    axes = memorization.memorization_density(found).axes
    assert [ax.get_title(loc="left") for ax in axes] == ["A", "", "B", ""]
    for right in axes[1::2]:
        drawn = right.lines[0].get_ydata().astype(float)
        np.testing.assert_allclose(drawn, frames["density"]["difference"])
        assert right.get_ylabel() == "ASAM − SGD"
    for ax in memorization.memorization_scatter(found).axes:
        np.testing.assert_array_equal(ax.collections[0].get_offsets(), frames["examples"][["sgd", "sam"]])
    data = {"digits": None, "location30": None}
    assert "Not shown on Digits and Location-30" in memorization.most_images(found, data).data
    assert f"{frames['most']['chosen by'].iloc[0]:.3f}" in memorization.most_table(found, data).data
