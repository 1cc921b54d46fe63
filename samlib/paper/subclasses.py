"""Memorization, influence and membership risk of the majority and the minority, on data with known subclasses.

Models select nothing here, so all models measure. Tables hold a row for each measure and group: the majority, the minority,
and the minority minus the majority.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from samlib.audit import Pair, attack_scores, compared, usable
from samlib.estimators import memorization, memorization_terms
from samlib.evaluation import auc_terms
from samlib.inference import jackknife
from samlib.paper import tables
from samlib.paper.frames import EACH, Frames, Section, contrast, counted, table
from samlib.paper.panels import comparisons, histograms, not_shown
from samlib.paper.sets import model_groups, point_groups, without_each

GROUPS = ("majority", "minority")
BETWEEN = "minority − majority"
ATTACKS = ("confidence", "LiRA online", "RMIA offline")
BINS = 24
NAMES = ("memorization", "influence", "attacks", "densities")


@counted()
def measure(pair: Pair) -> Frames:
    """Measure what differs between the majority and the minority of each class.

    Parameters
    ----------
    pair : Pair
        Runs whose data have known subclasses.

    Returns
    -------
    dict of DataFrame
        Those of `NAMES`; empty if the subclasses are not known. "memorization" (and test accuracy), "influence" and "attacks"
        (AUC within a group) have an index (measure, group). "influence" is the mean influence of a group's examples on test
        points of their class, for each group of test points. "densities": the histogram of memorization; optimizer, group,
        left, right, share.
    """
    if "subclass" not in pair.sgd.coords:
        return {name: pd.DataFrame() for name in NAMES}
    found = (_memorization(pair), _influence(pair), _attacks(pair), _densities(pair))
    return dict(zip(NAMES, found, strict=True))


def _memorization(pair: Pair) -> pd.DataFrame:
    terms = [memorization_terms(runs.correct.values, runs.member.values) for runs in pair[:2]]
    right = [runs.test_correct.values.astype(float) for runs in pair[:2]]
    rows = _rows("memorization", pair.sgd.subclass.values, terms)
    return table(rows | _rows("test accuracy", pair.sgd.test_subclass.values, right), "measure", "group")


def _attacks(pair: Pair) -> pd.DataFrame:
    """The attacks' AUC within each group: they tell members of the group from its non-members."""
    rows: dict[tuple[str, str], dict] = {}
    subclass = pair.sgd.subclass.values[usable(pair.sgd)[1]]
    found = [attack_scores(runs, ATTACKS) for runs in pair[:2]]
    for attack in ATTACKS:
        terms = [np.empty(each.member.shape) for each in found]
        for each, filled in zip(found, terms, strict=True):
            for ours in (subclass == code for code in range(len(GROUPS))):
                filled[:, ours] = auc_terms(each.scores[attack][:, ours], each.member[:, ours])
        rows |= _rows(f"AUC, {attack}", subclass, terms)
    return table(rows, "measure", "group")


def _rows(measure: str, subclass: np.ndarray, terms: list[np.ndarray]) -> dict[tuple[str, str], dict]:
    """The rows of a measure, from both optimizers' terms."""
    means = [[group_mean(each, subclass == code) for code in range(len(GROUPS))] for each in terms]
    sides = zip((*GROUPS, BETWEEN), *([*each, each[1] - each[0]] for each in means), strict=True)
    return {(measure, group): compared(sgd, sam, EACH) for group, sgd, sam in sides}


def group_mean(terms: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """First-order terms (models, n) of the mean over the columns inside a group. Columns with NaN are left out."""
    known = inside & ~np.isnan(terms).any(0)
    terms = np.where(known, terms, 0)
    value = terms.sum() / (len(terms) * known.sum())
    return value + known / known.mean() * (terms - value)


def _influence(pair: Pair) -> pd.DataFrame:
    """The frame "influence". Models, examples and test points vary, so the jackknife leaves out groups of all three."""
    of_models = model_groups(pair.sgd.model.values)
    of_examples, of_tests = point_groups(pair.sgd.example.values), point_groups(pair.sgd.test.values)
    sides = [(of_tests, pair.sgd.test_subclass.values), (of_examples, pair.sgd.subclass.values)]
    cells = [np.eye(len(GROUPS) * of.max())[(of - 1) * len(GROUPS) + code] for of, code in sides]
    both = []
    for runs in pair[:2]:
        means = [_cells(runs, of_models != g, *cells) for g in range(of_models.max() + 1)]
        parts = np.array(means).reshape(len(means), 2, of_tests.max(), len(GROUPS), of_examples.max(), len(GROUPS))
        total, count = without_each(without_each(parts, 2), 4).transpose(1, 0, 4, 2, 3, 5)
        each = total / count
        both.append(np.concatenate([each, each[..., 1:] - each[..., :1]], -1))
    sgd, sam = both
    rows = {}
    for (code, group), (of, name) in itertools.product(enumerate(GROUPS), enumerate((*GROUPS, BETWEEN))):
        values = [each[..., code, of] for each in (sgd, sam, sam - sgd)]
        rows[f"influence on the {group}", name] = contrast(*(jackknife(each, 3) for each in values))
    return table(rows, "measure", "group")


def _cells(runs, kept: np.ndarray, tests: np.ndarray, examples: np.ndarray) -> list[np.ndarray]:
    """Influence by the kept models, summed over pairs of one class, and the number of pairs: (test cells, example cells)."""
    member, right = runs.member.values[kept].astype(float), runs.test_correct.values[kept].astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        influence = right.T @ (member / member.sum(0) - (1 - member) / (1 - member).sum(0))
    known = ~np.isnan(influence) & (runs.test_label.values[:, None] == runs.label.values)
    return [tests.T @ np.where(known, each, 0) @ examples for each in (influence, 1)]


def _densities(pair: Pair) -> pd.DataFrame:
    scores = [memorization(runs.correct.values, runs.member.values).value for runs in pair[:2]]
    bins = np.linspace(min(0, *(np.nanmin(each) for each in scores)), 1, BINS + 1)
    parts = []
    for (optimizer, score), (code, group) in itertools.product(
        zip(("sgd", "sam"), scores, strict=True), enumerate(GROUPS)
    ):
        own = score[(pair.sgd.subclass.values == code) & ~np.isnan(score)]
        part = {"left": bins[:-1], "right": bins[1:], "share": np.histogram(own, bins)[0] / len(own)}
        parts.append(pd.DataFrame(part).assign(optimizer=optimizer, group=group))
    return pd.concat(parts, ignore_index=True)


def subclass_densities(found: Section):
    """Histograms of memorization, SGD beside SAM: the minority filled, the majority outlined."""
    majority, minority = ({group: lambda rows, g=group: rows[rows["group"] == g]} for group in GROUPS)
    shown = {"height": 2.3, "sharex": True, "sharey": True}
    return histograms(known(found), "densities", "share", minority, majority, "memorization", **shown)


def subclass_differences(found: Section, frame: str):
    """One of the frames as a picture: both optimizers in each group, and the difference with its interval."""
    height = 0.3 * max((len(frames[frame]) for frames in found.values()), default=0) + 0.4
    label = {"attacks": "AUC", "memorization": "memorization, accuracy"}.get(frame, frame)
    return comparisons(known(found), frame, label, height=height, sharey=True)


def subclass_table(found: Section, frame: str):
    """One of the frames as a table."""
    rows = known(found).stacked(frame)
    return tables.table(rows, name=found.name) if len(rows) else not_shown(found)


def known(found: Section) -> Section:
    """The data sets with known subclasses. If there are none, all data sets, so that the page names them as not shown."""
    inside = {dataset: frames for dataset, frames in found.items() if len(frames["densities"])}
    return found.but(inside or found)
