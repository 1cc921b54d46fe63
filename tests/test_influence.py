"""The measures behind the influence pages: against naive twins, and on runs in which one example carries one test point."""

import numpy as np
import pytest
from test_claims import simulate

import samlib
from samlib import audit, figures
from samlib.claims import entropy, influence

NO_ESTIMATE = "ignore:.*no estimate"


def carried(seed, weight, models=64, tests=60):
    """Runs in which test point z is right, with probability `weight`, only if its twin, example z, was trained on."""
    runs = simulate(seed, leak=0.5, skill=0, models=models, examples=90, tests=tests)
    rng = np.random.default_rng(seed)
    member = runs.member.values
    by_twin = np.where(member[:, :tests], 3.0, -3.0) + 0.1 * rng.normal(size=(models, tests))
    carried = rng.random((models, tests)) < weight
    logit = np.where(carried, by_twin, 3.0).astype(np.float32)
    return runs.assign(test_logit=(("model", "test"), logit), test_correct=(("model", "test"), logit > 0))


@pytest.fixture(scope="module")
def pair():
    return audit.align({"sgd": carried(1, 0.3), "sam": carried(2, 0.9)})


def test_terms_of_influence_are_its_first_order(pair):
    models = influence.of(pair.sam)
    full = samlib.influence(models.test_correct, models.member).value
    example, test = np.arange(20), np.arange(20)[::-1]
    terms = influence.influence_terms(models, test, example)
    np.testing.assert_allclose(terms.mean(0), full[test, example], atol=1e-6)


def test_a_group_mean_is_a_weighted_mean_and_linear_in_its_columns():
    rng = np.random.default_rng(0)
    terms, weights = rng.normal(size=(7, 40)), rng.random(40)
    found = influence.group_mean(terms, weights)
    assert found.mean() == pytest.approx(np.average(terms.mean(0), weights=weights))
    kept = np.arange(40) != 3
    moved = np.average(terms[:, kept].mean(0), weights=weights[kept]) - found.mean()
    assert found[:, kept].mean() - found.mean() == pytest.approx(moved, rel=0.1)


@pytest.mark.filterwarnings(NO_ESTIMATE)
def test_the_twin_is_found_on_the_even_models_and_measured_on_the_odd_ones(pair):
    found = influence.figure_2(pair)["sam"]
    assert (found.example[:60] < 90).all()
    twins = found.example == found.test
    assert twins.mean() > 0.5  # of 90 examples 60 are twins; the others have an accident for their strongest influence
    measured = found.terms.mean(0)
    assert measured[twins].mean() == pytest.approx(0.9, abs=0.1)
    assert abs(measured[~twins].mean()) < 0.15
    assert found.chosen_by[~twins].mean() > 0.2  # which is what choosing and measuring on the same models would report
    odd = pair.sam.copy(deep=True)
    odd.test_correct[1::2] = ~odd.test_correct[1::2]
    again = influence.figure_2(audit.Pair(pair.sgd, odd, "SAM"))["sam"]
    assert np.array_equal(again.example, found.example)
    assert again.terms.mean() < 0


@pytest.mark.filterwarnings(NO_ESTIMATE)
def test_figures_show_both_optimizers_and_swapping_them_turns_the_difference(pair):
    for figure in (figures.influence_scatter(pair), figures.influence_differences(pair)):
        assert all(axes.get_xlabel() for axes in figure.axes)
    table = influence.influence_by_interval(pair)
    swapped = influence.influence_by_interval(audit.Pair(pair.sam, pair.sgd, "SAM"))
    np.testing.assert_allclose(table["difference"], -swapped["difference"], atol=1e-12)
    assert (table["sam"] > table["sgd"]).all()
    assert entropy.low_entropy_gain(pair) is not None
