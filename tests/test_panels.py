"""Sentences that follow from a run's numbers, and pictures of several data sets beside each other."""

import itertools
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from samlib.paper import claims, panels
from samlib.paper.frames import Section

TOLD = tomllib.loads(Path(panels.__file__).with_name("told.toml").read_text())
SIGNS = {"higher": 1, "lower": -1, "open": 0}
STDERR = {"higher": 1 / 9, "lower": 1 / 9, "small": 1 / 9, "open": 9}  # of claims, in smallest effects that count


def frame_of(each, word):
    """A frame with the one row that a sentence asks for, and a difference of which this word is true."""
    sign = SIGNS.get(word, 0)
    if each["frame"] == "effects":
        smallest = next(claim.smallest for claim in claims.EVERY if claim.id == each["row"])
        values = {
            "estimate": 9 * sign * smallest,
            "stderr": smallest * STDERR[word],
            "df": 50.0,
            "by_models": 0.0,
            "reliability": 1.0,
        }
        return pd.DataFrame([values], [each["row"]])
    row = {"difference": sign * 1.0, "low": sign - 0.5, "high": sign + 0.5}
    key = each["row"]
    index = pd.MultiIndex.from_tuples([key]) if isinstance(key, list) else [key]
    return pd.DataFrame([row], index)


@pytest.mark.parametrize("what", TOLD)
def test_no_sentence_contradicts_its_numbers_whichever_way_they_fall(what):
    rows = TOLD[what]["rows"]
    assert {*TOLD[what].get("instead", ())} <= {"higher open", "lower open", "open open"}  # the second is not decided
    assert all(("small" in each) == (each["frame"] == "effects") for each in rows)
    for words in itertools.product(*([word for word in STDERR if word in each] for each in rows)):
        frames = {}
        for each, word in zip(rows, words, strict=True):
            found = frame_of(each, word)
            frames[each["frame"]] = pd.concat([frames[each["frame"]], found]) if each["frame"] in frames else found
        said = panels.told(Section({"digits": frames}), what).data
        both = " ".join(words).replace("small", "open")
        if instead := TOLD[what].get("instead", {}).get(both):
            assert said.startswith(f"On Digits {TOLD[what].get('subject', 'SAM')} {instead}.")
            continue
        for each, word in zip(rows, words, strict=True):
            for other in {*STDERR} & {*each}:
                assert (each[other] in said) == (other == word), (words, said)
        reasons = TOLD[what]["because"]
        own = reasons.get(both, "")
        assert own in said
        assert not any(why in said for why in reasons.values() if why != own), said


def test_data_sets_that_say_the_same_share_a_sentence():
    first, second = TOLD["amount"]["rows"]
    found = {}
    for name, word in (("digits", "higher"), ("subclasses", "lower"), ("location30", "higher")):
        found[name] = {"means": frame_of(first, word), "effects": frame_of(second, "open")}
    said = panels.told(Section(found, name="ASAM"), "amount").data
    assert said.startswith("- On Digits and Location-30 ASAM memorizes more in the mean and ")
    assert "\n- On Subclasses ASAM memorizes less in the mean and " in said
    found["subclasses"]["effects"] = found["subclasses"]["effects"].head(0)
    assert "Subclasses" not in panels.told(Section(found), "amount").data


def test_what_is_too_small_to_count_is_told_as_the_verdict_has_it():
    rows = TOLD["surprise"]["rows"]
    effects = pd.concat([frame_of(each, "higher") for each in rows])
    assert "tests better and leaks more" in panels.told(Section({"digits": {"effects": effects}}), "surprise").data
    effects.loc["C2 LiRA", ["estimate", "stderr"]] = 0.002, 0.0001  # beyond 0, and below what counts
    said = panels.told(Section({"digits": {"effects": effects}}), "surprise").data
    assert "tests better and shows no difference that counts to online LiRA. Half of the surprise." in said


def comparison(values):
    return pd.DataFrame(dict.fromkeys(("sgd", "sam", "difference", "low", "high"), values), range(len(values)))


def test_each_data_set_has_its_panels_and_those_without_rows_are_named():
    frames = {"digits": [0.1, 0.2], "subclasses": [], "location30": [0.3, 0.4]}
    found = Section({name: {"x": comparison(np.array(values))} for name, values in frames.items()}, name="ASAM")
    figure = panels.comparisons(found, "x", "accuracy", at=lambda rows: rows.index)
    left, right, *below = figure.axes
    assert [left.get_title(loc="left"), below[0].get_title(loc="left")] == ["Digits", "Location-30"]
    assert [left.get_ylabel(), right.get_ylabel()] == ["accuracy", "ASAM − SGD"]
    np.testing.assert_allclose(below[1].lines[0].get_ydata(), [0.3, 0.4])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SGD", "ASAM", "not shown: Subclasses"]
    nothing = Section({"subclasses": found["subclasses"], "digits": found["subclasses"]})
    assert "Not shown on Subclasses and Digits" in panels.comparisons(nothing, "x", "accuracy").data
    assert not plt.get_fignums()


def test_flat_comparisons_name_their_rows():
    rows = comparison(np.array([0.1, 0.2])).set_index(pd.MultiIndex.from_tuples([("m", "a"), ("m", "b")]))
    left, right = panels.comparisons(Section({"digits": {"x": rows}}), "x", "AUC").axes
    assert [tick.get_text() for tick in left.get_yticklabels()] == ["m: a", "m: b"]
    assert [left.get_xlabel(), right.get_xlabel()] == ["AUC", "SAM − SGD"]
    np.testing.assert_allclose(right.lines[0].get_xdata(), [0.1, 0.2])


def test_tables_set_data_sets_beside_each_other_or_scroll():
    rows = pd.DataFrame({"correlation": [0.5], "low": [0.4], "high": [0.6]}, ["sam"])
    found = Section({"digits": {"link": rows}, "subclasses": {"link": -rows}}, name="ASAM")
    table = panels.across(found, "link", "correlation").data
    assert table.loc["ASAM"].tolist() == ["+0.50 (+0.40 to +0.60)", "-0.50 (-0.40 to -0.60)"]
    assert table.columns.tolist() == ["Digits", "Subclasses"]
    boxed = panels.scroll(table.style, "Numbers.").data
    assert boxed.startswith("*Numbers. The table scrolls.*")
    assert 'role="region" tabindex="0" aria-label="Numbers."' in boxed
