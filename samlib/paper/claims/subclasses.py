"""What only data of known subclasses can show: memorization, influence and membership risk of the majority and the minority.

Nothing is chosen by a model, so all models measure. Tables hold a row for each measure and group: the majority, the minority, and
the minority less the majority; columns sgd, sam, difference, low, high (95 %, over models and examples).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import xarray as xr

from samlib.audit import Attacked, Pair, compared, usable
from samlib.estimators import memorization_terms
from samlib.evaluation import auc_terms
from samlib.paper.claims.influence import influence_terms, of
from samlib.paper.claims.statistics import group_mean

GROUPS = ("majority", "minority")
BETWEEN = "minority − majority"
ATTACKS = ("confidence", "LiRA online", "RMIA offline")


def memorization_by_subclass(pair: Pair) -> pd.DataFrame | None:
    """Mean memorization and mean test accuracy of each group; None where the subclasses are not known."""
    if "subclass" not in pair.sgd.coords:
        return None
    rows = _rows("memorization", pair.sgd.subclass.values, [_memorization(runs) for runs in pair[:2]])
    right = [runs.test_correct.values.astype(float) for runs in pair[:2]]
    return _frame(rows | _rows("test accuracy", pair.sgd.test_subclass.values, right))


def influence_by_subclass(pair: Pair) -> pd.DataFrame | None:
    """Mean influence of an example of each group on the test points of its class, those of the majority and of the minority.

    None where the subclasses are not known.
    """
    if "subclass" not in pair.sgd.coords:
        return None
    rows = {}
    for code, group in enumerate(GROUPS):
        terms = [_influence(runs, code) for runs in pair[:2]]
        rows |= _rows(f"influence on the {group}", pair.sgd.subclass.values, terms)
    return _frame(rows)


def attacks_by_subclass(pair: Pair, sgd: Attacked, sam: Attacked) -> pd.DataFrame | None:
    """The AUC of some attacks within each group: members of it against non-members of it.

    sgd, sam: of `audit.attack_scores`. None where the subclasses are not known.
    """
    if "subclass" not in pair.sgd.coords:
        return None
    subclass, rows = pair.sgd.subclass.values[usable(pair.sgd)[1]], {}
    for attack in ATTACKS:
        terms = [_within(found, attack, subclass) for found in (sgd, sam)]
        rows |= _rows(f"AUC, {attack}", subclass, terms)
    return _frame(rows)


def _memorization(runs: xr.Dataset) -> np.ndarray:
    return memorization_terms(runs.correct.values, runs.member.values)


def _influence(runs: xr.Dataset, code: int) -> np.ndarray:
    """Terms (models, examples) of the mean influence of each example on the test points of its class and of one subclass."""
    models = of(runs)
    terms = np.full(models.member.shape, np.nan)
    for label in np.unique(runs.label):
        ours = np.flatnonzero(runs.label.values == label)
        points = np.flatnonzero((runs.test_label.values == label) & (runs.test_subclass.values == code))
        if len(points):
            each = (influence_terms(models, np.full(len(ours), point), ours) for point in points)
            terms[:, ours] = sum(each) / len(points)
    return terms


def _within(found: Attacked, attack: str, subclass: np.ndarray) -> np.ndarray:
    """Terms (targets, examples) whose means over a group's examples are the attack's AUC within it."""
    terms = np.empty(found.member.shape)
    for code in np.unique(subclass):
        ours = subclass == code
        terms[:, ours] = auc_terms(found.scores[attack][:, ours], found.member[:, ours])
    return terms


def _rows(measure: str, subclass: np.ndarray, terms: list[np.ndarray]) -> dict[tuple[str, str], Mapping]:
    means: list[Callable] = [lambda t, c=code: group_mean(t, subclass == c) for code in range(len(GROUPS))]
    groups = dict(zip(GROUPS, means, strict=True)) | {BETWEEN: lambda t: means[1](t) - means[0](t)}
    return {(measure, group): compared(*map(mean, terms)) for group, mean in groups.items()}


def _frame(rows: Mapping) -> pd.DataFrame:
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["measure", "group"])
    return frame
