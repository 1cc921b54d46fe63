"""Influence energy: against a naive twin, its sign where the truth is known, and what exchanging the optimizers does to it."""

import warnings

import matplotlib
import numpy as np
import pytest
from carried import carried, drawn, numbers, permuted
from scipy.stats import binom
from simulated import swapped

from samlib import estimators
from samlib.inference import CONTRADICTED, SUPPORTED, groups, partitions, verdict
from samlib.paper import influence
from samlib.paper.frames import EACH, Section
from samlib.paper.sets import PARTITIONS, Sets, dealt, models_of, without_each

matplotlib.use("Agg")
CLAIMS = {"C6": (-1, 0.005), "C7": (1, 0.05)}  # direction and smallest effect


def verdicts(pair, level=EACH):
    found = influence.decided(pair)
    return {
        claim: verdict(found[claim].effect.estimate, *found[claim].effect.interval(level), direction, smallest)
        for claim, (direction, smallest) in CLAIMS.items()
    }


def test_many_sets_agree_with_the_estimators():
    pair = drawn(0, examples=30, models=16)
    models, group = models_of(pair), groups(np.arange(16), 6)
    kept = dealt(6, 2)[0].reshape(-1, 6)[:9]
    member = models.member.copy()
    member[:, 4] = group == 1  # in the sets without group 1, no model saw it
    correct, test_correct = models.correct[0], models.test_correct[0]
    by = Sets(kept, group, member)
    scores = by.memorization(correct)
    blocks = np.stack([by.influence(test_correct[:, z]) for z in range(30)], 1)
    for chosen, score, block in zip(kept[:, group - 1], scores, blocks, strict=True):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no estimate")
            np.testing.assert_allclose(score, estimators.memorization(correct[chosen], member[chosen]).value)
            full = estimators.influence(test_correct[chosen], member[chosen]).value
        np.testing.assert_allclose(block, np.nan_to_num(full), atol=1e-6)
    assert np.isnan(scores[:, 4]).any()


def naive(models, group, of_example, of_test, without):
    """C6 and C7, one partition and one rotation after the other, with one group of each kind left out (0: none)."""
    kept_models, kept, tests = (g != w for g, w in zip((group, of_example, of_test), without, strict=True))
    energy, count = np.zeros((2, 5)), np.zeros(5)
    for deal in partitions(group.max(), 3, PARTITIONS):
        thirds = [(deal[group - 1] == part) & kept_models for part in range(3)]
        binning, first, second = thirds
        score = estimators.memorization(
            np.concatenate(models.correct[:, binning]), np.concatenate([models.member[binning]] * 2)
        ).value
        for i in np.flatnonzero(kept & ~np.isnan(score)):
            j = min(max(int(score[i] * 5 + 1e-9), 0), 4)
            count[j] += 1
            same = tests & (models.test_label == models.label[i])
            for o in range(2):
                parts = [
                    np.nan_to_num(
                        estimators.influence(models.test_correct[o][third][:, same], models.member[third][:, [i]]).value
                    )
                    for third in (first, second)
                ]
                energy[o, j] += (parts[0] * parts[1]).sum()
    total, one = energy.sum(1), energy.sum() / (2 * count.sum())
    middle, low = energy[:, 2:4].sum(1) / count[2:4].sum(), energy[:, 0] / count[0]
    share, gap = energy[:, 4] / total, (middle - low) / one
    return share[1] - share[0], gap[1] - gap[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no estimate")
@pytest.mark.parametrize("without", [(0, 0, 0), (4, 0, 0), (0, 3, 0), (0, 0, 2), (12, 1, 4)])
def test_sums_agree_with_a_naive_twin_that_leaves_groups_out(without, monkeypatch):
    monkeypatch.setattr(influence, "POINT_GROUPS", 4)
    monkeypatch.setattr(influence, "CHUNK", 5)
    pair = permuted(drawn(3, examples=24, models=13))
    models = models_of(pair)
    energy, count, *_ = influence._sums(models)
    energy, count = without_each(without_each(energy, 1), 2), without_each(count, 1)[:, :, None]
    found = {name: values[without] for name, values in influence._statistics(energy, count).items()}
    of_models, of_points = groups(np.arange(13), 12), groups(np.arange(24), 4)
    expected = naive(models, of_models, of_points, of_points, without)
    np.testing.assert_allclose([found["share"][2, 4], found["middle"]], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def narrow():
    """SGD gives its influence to highly memorized examples alone; SAM to those of the middle range too."""
    memorized = np.repeat([0.95, 0.6, 0.0], [40, 50, 60])
    return carried(1, [memorized * (memorized > 0.8), memorized], memorized, models=48, skill=0.9)


@pytest.mark.slow
def test_a_narrow_set_of_memorized_examples_is_seen_and_mirrors_exactly(narrow):
    assert verdicts(narrow) == {"C6": SUPPORTED, "C7": SUPPORTED}
    assert verdicts(swapped(narrow)) == {"C6": CONTRADICTED, "C7": CONTRADICTED}
    seen, mirrored = influence.decided(narrow), influence.decided(swapped(narrow))
    for claim in CLAIMS:
        assert seen[claim].effect.estimate == -mirrored[claim].effect.estimate
        assert seen[claim].effect.stderr == mirrored[claim].effect.stderr
        assert seen[claim].reliability == mirrored[claim].reliability


@pytest.mark.slow
def test_where_memorization_differs_too_exchanging_still_mirrors():
    """The fault of a slope of differences: both its axes change sign, so that it said the same of either optimizer."""
    strong, weak = np.repeat([0.9, 0.65, 0.0], [40, 50, 60]), np.repeat([0.9, 0.25, 0.0], [40, 50, 60])
    pair = carried(2, [weak, strong], models=72, skill=0.9)
    part = influence.measure(pair)["chosen"].query("by == 'both'")
    x, y = part["memorization_sam"] - part["memorization_sgd"], part["sam"] - part["sgd"]
    assert np.polyfit(x, y, 1)[0] == pytest.approx(np.polyfit(-x, -y, 1)[0])
    assert verdicts(pair)["C7"] == SUPPORTED
    assert verdicts(swapped(pair))["C7"] == CONTRADICTED


@pytest.mark.slow
def test_the_order_of_models_examples_and_tests_changes_nothing(narrow):
    frames, again = influence.measure(narrow), influence.measure(permuted(narrow))
    for name, frame in frames.items():
        assert frame.equals(again[name]), name


@pytest.mark.slow
def test_noise_alone_has_no_energy():
    """A squared influence of no influence is positive; the product over other models is 0 on average."""
    memorized = np.linspace(0, 1, 120)
    energy = []
    for seed in range(6):
        models = models_of(carried(seed, np.zeros(120), memorized, models=24))
        energy += list(influence._sums(models)[2].sum((0, 2)) / (3 * PARTITIONS * 120))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*no estimate")
        value = estimators.influence(models.test_correct[0], models.member).value
    squares = (value[models.test_label[:, None] == models.label] ** 2).sum() / 120
    assert squares > 1
    assert abs(np.mean(energy)) < 3 * np.std(energy, ddof=1) / np.sqrt(len(energy)) < 0.2 * squares
    assert influence.energies(models) is None


def test_too_few_models_give_no_claim_and_a_sentence_in_place_of_the_figure():
    frames = influence.measure(drawn(0, examples=60, models=10))
    assert frames["effects"]["estimate"].isna().all()
    found = Section({"digits": frames})
    assert "Not shown" in influence.influence_energy(found).data
    assert influence.influence_scatter(found).axes


@pytest.mark.slow
def test_examples_are_chosen_on_even_models_and_measured_on_odd_ones(narrow):
    chosen = influence.measure(narrow)["chosen"]
    part = chosen.query("by == 'sam'")
    high = part["interval"] == influence.HIGHEST
    assert high.sum() == influence.PER_INTERVAL
    assert (part["example"] == part["test"])[high].mean() > 0.8  # test point i hangs on example i
    assert part["sam"][high].mean() > 0.6
    odd = narrow.sam.copy(deep=True)
    odd.test_correct[1::2] = ~odd.test_correct[1::2]
    again = influence.measure(narrow._replace(sam=odd))["chosen"].query("by == 'sam'")
    assert (again["example"].to_numpy() == part["example"].to_numpy()).all()
    assert again["sam"][high].mean() < -0.6


def test_the_figures_show_the_numbers(narrow):
    frames = influence.measure(narrow)
    found = Section({"digits": frames})
    for who, ax in zip(("sgd", "sam"), influence.influence_scatter(found).axes, strict=True):
        part = frames["chosen"].query("by == @who")
        slope = np.polyfit(part[f"memorization_{who}"], part[who], 1)[0]
        assert f"slope {slope:+.3f}" in ax.texts[0].get_text()
        assert np.isin(part[who].to_numpy(), numbers(ax)).all()
    ax = influence.influence_differences(found).axes[0]
    part = frames["chosen"].query("by == 'both'")
    assert np.isin((part["sam"] - part["sgd"]).to_numpy(), numbers(ax)).all()
    energy = frames["energy"]
    for measure in influence.MEASURES:
        left, right = influence.influence_energy(found, measure).axes
        assert np.isin(energy.loc[measure][["sgd", "sam"]].to_numpy(), numbers(left)).all()
        assert np.isin(energy.loc[measure]["difference"].to_numpy(), numbers(right)).all()
    assert energy["difference"][influence.MEASURES[0], "0.8 to 1.0"] == frames["effects"]["estimate"]["C6"]


@pytest.mark.slow
def test_optimizers_exchanged_at_random_get_a_verdict_no_oftener_than_the_level():
    """What differs not, must not show: in each pair of models chance decides which is SAM's."""
    said, n = [], 20
    for seed in range(n):
        pair = drawn(seed, examples=90, models=30, sam=(1.3, 0.6))
        pair = swapped(pair, np.random.default_rng(seed).random(30) < 0.5)
        energy = influence.energies(models_of(pair))
        said += (
            [] if energy is None else [energy.middle.interval(0.05), influence.one(energy.share, 2, 4).interval(0.05)]
        )
    assert len(said) > n / 2
    beyond = sum(low > 0 or high < 0 for low, high in said)
    assert beyond <= binom.ppf(0.99, len(said), 0.05)


@pytest.mark.slow
def test_intervals_cover_what_new_models_examples_and_tests_give(monkeypatch):
    """The quick form of benchmarks/coverage_influence.py, which needs minutes."""
    monkeypatch.setattr(influence, "EACH", 1.9)  # whatever the energy in all is
    found = [influence.energies(models_of(drawn(seed, examples=120, spread=0.05))).middle for seed in range(16)]
    estimates, errors = (np.array([getattr(each, field) for each in found]) for field in ("estimate", "stderr"))
    assert 0.75 < np.sqrt((errors**2).mean()) / estimates.std(ddof=1) < 1.8
    assert np.mean([low < estimates.mean() < high for low, high in (each.interval(0.05) for each in found)]) > 0.8
