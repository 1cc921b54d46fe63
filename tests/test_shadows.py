"""Attacks against the number of models: what the curves end at, what the sentences count, and what a record lacks."""

import numpy as np
import pandas as pd
import pytest
import stores
from matplotlib.figure import Figure
from simulated import simulate

from samlib.audit import align
from samlib.evaluation import epsilon
from samlib.paper import membership, shadows
from samlib.paper.frames import Section, table


@pytest.mark.slow
def test_the_curve_over_models_ends_at_the_attacks_of_all():
    pair = align({"sgd": simulate(1, leak=0.5, skill=0), "sam": simulate(2, leak=2.5, skill=1.0)})
    frame = shadows.measure(pair)["shadows"]
    all_models = membership.measure(pair)["attacks"]
    for attack in shadows.ATTACKS:
        last = frame.loc[(pair.sgd.sizes["model"], attack, "AUC")]
        assert last["difference"] == pytest.approx(all_models.loc[(attack, "AUC"), "difference"], abs=1e-12)
        assert last["low"] == pytest.approx(all_models.loc[(attack, "AUC"), "low"], abs=1e-12)


def test_too_few_models_have_no_curve_and_the_page_says_so():
    pair = stores.pair(np.random.default_rng(0), 2, 30, 10)
    found = Section({"digits": shadows.measure(pair)})
    assert found["digits"]["shadows"].empty
    for shown in (shadows.shadow_curves(found), shadows.enough(found), shadows.settled(found)):
        assert shown.data.startswith("*Not shown on Digits")


def frame(values):
    """Models 8, 16, ... of one data set, whose AUC by every attack is that of both optimizers."""
    rows = {
        (8 * 2**i, attack, shadows.AUC): {"sgd": v, "sam": v, "difference": 0.0, "low": -0.1, "high": 0.1}
        for i, v in enumerate(values)
        for attack in shadows.ATTACKS
    }
    return {"shadows": table(rows, "models", "attack", "measure")}


@pytest.mark.parametrize(
    ("values", "least"), [((0.6, 0.6), 8), ((0.5, 0.6), 16), ((0.6, 0.5, 0.6), 32), ((0.5, 0.596, 0.6), 16)]
)
def test_enough_is_the_number_from_which_the_curve_stays_near_its_end(values, least):
    shown = shadows.enough(Section({"digits": frame(values)})).data
    assert shown.loc["Digits"].tolist() == [str(least)] * len(shadows.SHOWN) + [str(8 * 2 ** (len(values) - 1))]
    assert shown.columns.tolist() == [*shadows.SHOWN, "all models"]


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ((0, 1, 1), "ASAM, from 16"),
        ((-1, -1), "SGD, from 8"),
        ((1, 0, 1, 0), "neither is shown to, from 64"),
        ((1, -1, 0, 0), "neither is shown to, from 32"),
    ],
)
def test_who_leaks_more_is_settled_where_the_answer_stays(signs, said):
    rows = frame([0.6] * len(signs))["shadows"]
    ends = 0.01 * np.repeat(signs, len(shadows.ATTACKS))
    found = Section({"digits": {"shadows": rows.assign(low=ends - 0.001, high=ends + 0.001)}}, name="ASAM")
    assert shadows.settled(found).data.loc["Digits"].tolist() == [said] * len(shadows.SHOWN)


def test_a_data_set_whose_record_lacks_the_curve_is_named_below_the_others():
    found = Section({"digits": frame((0.6, 0.6)), "subclasses": {}, "location30": {"shadows": pd.DataFrame()}})
    figure = shadows.shadow_curves(found)
    assert isinstance(figure, Figure)
    (legend,) = figure.legends
    assert "not shown: Subclasses and Location-30" in [text.get_text() for text in legend.get_texts()]
    assert shadows.enough(found).data.index.tolist() == ["Digits"]


@pytest.mark.slow
def test_table_one_has_the_bound_on_epsilon_that_an_audit_reports():
    pair = stores.pair(np.random.default_rng(0), 24, 300, 200)
    whole, found = membership.measure(pair)["attacks"], [membership.attack_scores(runs) for runs in pair[:2]]
    for attack in ("correctness", "confidence", "LiRA online"):
        row = whole.loc[(attack, membership.EPSILON)]
        wanted = [epsilon(each.scores[attack], each.member, 1 - membership.EACH) for each in found]
        assert row[["sgd", "sam"]].tolist() == wanted
    shown = membership.attack_table(Section({"digits": {"attacks": whole}})).data
    assert f"{wanted[0]:.3f} → {wanted[1]:.3f}</td>" in shown
