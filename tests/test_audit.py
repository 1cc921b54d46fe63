"""Audits of simulated runs whose effects are known: attacks on each model by the others, tables, links."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import spearmanr
from simulated import simulate
from sklearn.metrics import roc_auc_score

import samlib
from samlib import attacks, audit
from samlib.paper import style


@pytest.fixture(scope="module")
def pair():
    """SAM leaks much more, and tests better."""
    return audit.align({"sgd": simulate(1, leak=0.5, skill=0), "sam": simulate(2, leak=2.5, skill=1.0)})


def compared(pair, *names):
    return audit.compare_attacks(*(audit.attack_scores(runs, names or tuple(audit.ATTACKS)) for runs in pair[:2]))


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_axes_in_another_order_say_the_same(pair):
    turned = audit.align({"sgd": pair.sgd.transpose("example", "test", "model"), "sam": pair.sam.transpose()})
    pd.testing.assert_frame_equal(audit.memorization_table(turned), audit.memorization_table(pair))
    alone = audit.attack_scores(pair.sgd.transpose("example", "test", "model"))
    np.testing.assert_array_equal(alone.member, audit.attack_scores(pair.sgd).member)


def test_each_model_is_the_target_once_and_never_its_own_shadow(pair):
    found = audit.attack_scores(pair.sgd)
    assert list(found.scores) == list(audit.ATTACKS)
    logit, member = pair.sgd.logit.values, pair.sgd.member.values
    others = np.arange(24) != 5
    assert np.array_equal(found.scores["confidence"], logit)
    expected = attacks.lira(logit[5], logit[others], member[others], variance="residual")
    np.testing.assert_allclose(found.scores["LiRA online"][5], expected, rtol=1e-9, atol=1e-12)
    test = expit(pair.sgd.test_logit.values)
    expected = attacks.rmia(
        expit(logit[5]), expit(logit[others]), member[others], population=test[5], population_shadow=test[others]
    )
    np.testing.assert_array_equal(found.scores["RMIA offline"][5], expected)
    # the target's own signals, were they among its shadows, would be seen: change them all, and others' scores stay
    changed = pair.sgd.copy(deep=True)
    changed.logit[5] += 100
    again = audit.attack_scores(changed, ("LiRA online",)).scores["LiRA online"]
    assert not np.array_equal(again[5], found.scores["LiRA online"][5])
    assert not np.array_equal(again[6], found.scores["LiRA online"][6])


def test_examples_with_too_few_models_are_left_out_and_counted(pair):
    runs = pair.sgd.copy(deep=True)
    runs.member[:, 0], runs.member[2:, 1], runs.member[:2, 1] = True, False, True
    with pytest.warns(UserWarning, match="2 of 300 examples have too few models in or out"):
        found = audit.attack_scores(runs, ("LiRA online",))
    assert found.member.shape == (24, 298)
    with pytest.raises(ValueError, match="n_models must be larger: with 4 no example has 3 models in and 3 out"):
        audit.attack_scores(pair.sgd.isel(model=slice(4)))
    with pytest.raises(ValueError, match="attack 'magic' is not one of correctness"):
        audit.attack_scores(pair.sgd, ("magic",))


def test_the_membership_table_is_what_evaluation_says(pair):
    table = audit.membership_table(compared(pair, "confidence"))
    expected = [
        np.mean([roc_auc_score(m, s) for m, s in zip(r.member.values, r.logit.values, strict=True)]) for r in pair[:2]
    ]
    row = table.loc[("confidence", "AUC")]
    assert [row.sgd, row.sam] == pytest.approx(expected)
    assert row.difference == pytest.approx(expected[1] - expected[0])
    assert row.low < row.difference < row.high
    assert table.loc[("confidence", "TPR at 0.1% FPR"), "too_few"]
    assert not table.loc[("confidence", "TPR at 1.0% FPR"), "too_few"]
    whole = audit.membership_table(compared(pair, "confidence"), ends=True)
    pd.testing.assert_frame_equal(whole[table.columns], table)
    own = samlib.evaluate(pair.sam.logit.values, pair.sam.member.values).auc
    assert tuple(whole.loc[("confidence", "AUC"), ["sam", "sam_low", "sam_high"]]) == pytest.approx(own)


@pytest.mark.slow
def test_the_link_sees_memorized_examples_and_not_accidents():
    """Examples whose logit rises when they are trained on are found; noise alone, however shared, is not a link."""
    rng = np.random.default_rng(0)
    strength = 6 * rng.random(300) * (rng.random(300) < 0.5)
    runs = simulate(1, leak=0, skill=0, models=48)
    hard = np.random.default_rng(1).normal(size=(48, 300)) - 1 + strength * runs.member.values
    leaky = runs.assign(logit=(runs.logit.dims, hard.astype(np.float32)), correct=(runs.correct.dims, hard > 0))
    found = audit.link(leaky)
    assert spearmanr(found.memorization, found.success)[0] > 0.6
    naive = []
    member = leaky.member.values[1::2]
    scores = audit.attack_scores(leaky.isel(model=slice(1, None, 2)), ("LiRA online",)).scores["LiRA online"]
    for i in range(scores.shape[1]):
        naive.append(roc_auc_score(member[:, i], scores[:, i]))
    np.testing.assert_allclose(found.success, naive)
    none = audit.link(runs)
    assert abs(spearmanr(none.memorization, none.success)[0]) < 0.2


def test_threshold_accuracy_comes_from_other_models(pair):
    table = audit.threshold_table(pair)
    scores, member = pair.sam.logit.values, pair.sam.member.values
    naive = []
    for k in range(24):
        shadows = [(k + 1 + j) % 24 for j in range(8)]
        hit = attacks.threshold(scores[shadows].ravel(), member[shadows].ravel(), scores[k])
        naive.append((hit[member[k]].mean() + (~hit)[~member[k]].mean()) / 2)
    assert table.loc[("confidence", "global"), "sam"] == pytest.approx(np.mean(naive))
    assert 0.5 < table.loc[("confidence", "class-dependent"), "sam"] < 1


def test_runs_that_are_not_paired_are_refused(pair):
    other = pair.sam.copy(deep=True)
    other.member[0] = ~other.member[0]
    with pytest.raises(ValueError, match="different subsets"):
        audit.align({"sgd": pair.sgd, "sam": other})
    other = pair.sam.assign_attrs(data_checksum="1")
    with pytest.raises(ValueError, match="different data"):
        audit.align({"sgd": pair.sgd, "sam": other})
    with pytest.raises(ValueError, match="'sgd' and one other optimizer, not 'sam'"):
        audit.align({"sam": pair.sam})
    with pytest.raises(ValueError, match="have 1 models in common"):
        audit.align({"sgd": pair.sgd.isel(model=[0]), "sam": pair.sam})
    found = audit.align({"sgd": pair.sgd.isel(model=[0, 2, 3, 9]), "asam": pair.sam.isel(model=[0, 1, 3, 9])})
    assert found.sgd.model.values.tolist() == found.sam.model.values.tolist() == [0, 3, 9]
    assert found.name == "ASAM"


def test_first_order_terms_of_memorization():
    from samlib.estimators import memorization_terms

    rng = np.random.default_rng(0)
    member, correct = rng.random((40, 50)) < 0.5, rng.random((40, 50)) < 0.6
    terms = memorization_terms(correct, member)
    np.testing.assert_allclose(terms.mean(0), samlib.memorization(correct, member).value)
    kept = np.arange(40) != 7
    moved = samlib.memorization(correct[kept], member[kept]).value - terms.mean(0)
    np.testing.assert_allclose(terms[kept].mean(0) - terms.mean(0), moved, atol=0.01)


def test_a_figure_of_few_points_is_vectors_and_one_of_many_or_of_images_is_not():
    @style.drawn
    def draw(n, image=False):
        figure, ax = plt.subplots()
        ax.scatter(np.arange(n), np.arange(n))
        if image:
            ax.imshow(np.eye(3))
        return figure

    few = draw(50)
    assert few._repr_svg_() == draw(50)._repr_svg_()
    assert "<svg" in few._repr_svg_()
    assert style.points(few) >= 50
    assert not any(hasattr(figure, "_repr_svg_") for figure in (draw(style.FEW_POINTS + 1), draw(50, image=True)))
