"""The tables of an audit. All intervals of a table, but those of `more`, hold at once with 95 %."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import xarray as xr

from samlib import inference
from samlib.estimators import memorization, memorization_terms, top_influences
from samlib.evaluation import auc_terms, epsilon, evaluate, vulnerability
from samlib.inference import LEVEL, clopper_pearson, crossing, mean
from samlib.report.attacking import CONTROL, attack, sided
from samlib.report.sample import MOST

RATES = (0.001, 0.01, 0.1)
MEASURES = ("auc", "balanced_accuracy", *(f"tpr@{rate:g}" for rate in RATES), "epsilon")
OWN_RATE = 0.1  # pooled false-positive rate at which each example's own rates are counted
MOST_PARTS = 50  # classes, or groups, that are shown: the largest
FEW = 20  # examples, at least, of a class or group with an AUC
HIDDEN = (math.nan,) * 3  # an interval that is not shown
MEMORIZED = 0.25  # Feldman and Zhang (2020) count an example as memorized from here


def risk(found: xr.Dataset) -> pd.DataFrame:
    """A row for each attack and measure: value, low, high, and a note, which is "too few" (non-members), "ties" or empty."""
    rows, each, member = [], LEVEL / (len(found) * len(MEASURES)), found.member.values
    for name in found:
        scores = found[name].values
        whole = evaluate(scores, member, fpr=RATES, confidence=1 - each)
        bound = epsilon(scores, member, 1 - each)
        measured = [whole.auc, whole.balanced_accuracy, *whole.tpr_at_fpr.values(), (bound, bound, math.inf)]
        at_rates = ["too few" * (r in whole.too_few) or "ties" * tied(scores, member, r) for r in RATES]
        for measure, values, note in zip(MEASURES, measured, ["", "", *at_rates, ""], strict=True):
            rows.append((name, measure, *(HIDDEN if note == "ties" else values), note))
    return pd.DataFrame(rows, columns=["attack", "measure", "value", "low", "high", "note"])


def tied(scores: np.ndarray, member: np.ndarray, rate: float) -> bool:
    """Whether more of the non-members share the highest score than may be accused, so that no threshold finds anyone."""
    return bool((scores[~member] == scores.max()).mean() > rate)


def curves(found: xr.Dataset, best: str) -> pd.DataFrame:
    """ROC curves of three attacks, at rates that allow ten false positives, on a logarithmic grid.

    Columns: attack, fpr, tpr, low, high. The last three are NaN where scores are `tied`.
    """
    rows, member = [], found.member.values
    least = max(10 / (~member).sum(), 1e-6)
    rates = np.unique(np.geomspace(min(least, 0.5), 0.9, 13).round(8)).tolist()
    names = [name for name in dict.fromkeys((best, "confidence", CONTROL)) if name in found]
    for name in names:
        scores = found[name].values
        whole = evaluate(scores, member, fpr=rates, confidence=1 - LEVEL / len(rates) / len(names))
        for rate, measured in whole.tpr_at_fpr.items():
            rows.append((name, rate, *(HIDDEN if tied(scores, member, rate) else measured)))
    return pd.DataFrame(rows, columns=["attack", "fpr", "tpr", "low", "high"])


def parts(found: xr.Dataset, best: str) -> pd.DataFrame:
    """The risk of each class and group: kind, part, examples, auc, low, high. NaN if a part is small or lacks a side."""
    which, of = [], known(found)
    for kind, values in of.items():
        names, counts = np.unique(values, return_counts=True)
        which += [(kind, name) for name in names[np.sort(np.argsort(-counts, kind="stable")[:MOST_PARTS])]]
    rows, confidence = [], 1 - LEVEL / len(which)
    for kind, name in which:
        inside = of[kind] == name
        member, scores = (found[each].values[:, inside] for each in ("member", best))
        usable = member.any(1) & ~member.all(1)
        auc = HIDDEN
        if usable.any() and inside.sum() >= FEW:
            auc = evaluate(scores[usable], member[usable], fpr=(), confidence=confidence).auc
        rows.append((kind, str(name), int(inside.sum()), *auc))
    return pd.DataFrame(rows, columns=["kind", "part", "examples", "auc", "low", "high"])


def own_rates(scores: np.ndarray, member: np.ndarray) -> pd.DataFrame:
    """Shares of examples by their own false-positive rate: left, right, share, chance, dispersion. Both: (targets, examples)."""
    own = vulnerability(scores, member, fpr=OWN_RATE)
    return own.shares().assign(dispersion=own.dispersion)


def exposed(found: xr.Dataset, best: str) -> pd.DataFrame:
    """The most exposed examples of the sample, measured on the odd-numbered targets: how often they are found, how often accused.

    An example is found by a hit if it is a member, and accused by a hit if it is not. The even-numbered targets set the
    threshold. Columns: those of `_sides`, and of `_example`. An example that is accused as often as found is left out.
    """
    odd, top = found.targets.values % 2 == 1, found.top.values
    if not top.any() or min(odd.sum(), (~odd).sum()) < 4:
        return pd.DataFrame()
    scores, member = found[best].values, found.member.values
    others = np.sort(scores[~odd][~member[~odd]])
    hit = scores[odd] > others[int(len(others) * (1 - OWN_RATE))]
    frame = _sides(hit[:, top], member[np.ix_(odd, top)]).assign(**_example(found.isel(examples=top)))
    return frame[frame["gap"] > 0].sort_values(["low", "gap"], ascending=False, ignore_index=True)


def known(s: xr.Dataset) -> dict[str, np.ndarray]:
    """Class and group of examples, if they are given."""
    return {kind: s[kind].values for kind in ("class", "group") if kind in s.variables}


def _example(s: xr.Dataset) -> dict[str, np.ndarray]:
    """Numbers in the file, class and group of examples."""
    return {"example": s.examples.values} | known(s)


def _sides(hit: np.ndarray, member: np.ndarray) -> pd.DataFrame:
    """A row for each column of (models, columns): hits, models, low, high of "found" (members) and "accused" (the others).

    Each interval is exact, and all hold at once. `gap` is the difference of the shares; its ends are differences of their ends.
    """
    columns: dict[str, np.ndarray] = {}
    for name, side in (("found", member), ("accused", ~member)):
        hits, n = (hit & side).sum(0), side.sum(0)
        low, high = clopper_pearson(hits, np.maximum(n, 1), 1 - LEVEL / (2 * len(n)))
        high = np.where(n > 0, high, 1)
        columns |= {f"{name}_hits": hits, f"{name}_models": n, f"{name}_low": low, f"{name}_high": high}
    found, accused = (columns[f"{s}_hits"] / np.maximum(columns[f"{s}_models"], 1) for s in ("found", "accused"))
    low, high = columns["found_low"] - columns["accused_high"], columns["found_high"] - columns["accused_low"]
    return pd.DataFrame(columns | {"gap": found - accused, "low": low, "high": high})


def memorized(s: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Two tables. "memorization": its mean and the share above MEMORIZED, and how reliable single scores are.

    Columns what, value, low, high, reliability, models_wanted. "memorization_bins": left, right, share of examples.
    """
    if not len(twice := _twice(s.member.values)):
        return {"memorization": pd.DataFrame(), "memorization_bins": pd.DataFrame()}
    correct, member = s.correct.values[:, twice], s.member.values[:, twice]
    terms = memorization_terms(correct, member)
    above = (terms.mean(0) > MEMORIZED) + crossing(terms, MEMORIZED)
    found = {"mean memorization": mean(terms), f"share above {MEMORIZED:g}": mean(above)}
    ways = inference.partitions(len(member), 2, 10)[:10] == 0
    first, second = ([memorization(correct[w], member[w], empty="zero").value for w in each] for each in (ways, ~ways))
    reliable = inference.reliability(first, second, len(member))
    rows = [(name, float(each.estimate), *map(float, each.interval(LEVEL / 2))) for name, each in found.items()]
    frame = pd.DataFrame(rows, columns=["what", "value", "low", "high"])
    count, edges = np.histogram(memorization(correct, member).value, np.linspace(-1, 1, 41))
    return {
        "memorization": frame.assign(reliability=reliable.value, models_wanted=reliable.models),
        "memorization_bins": pd.DataFrame({"left": edges[:-1], "right": edges[1:], "share": count / len(twice)}),
    }


def _twice(*members: np.ndarray) -> np.ndarray:
    """The examples that at least two models saw and two did not, in each of some sets of models."""
    return np.flatnonzero(np.all([(v.sum(0) > 1) & ((~v).sum(0) > 1) for v in members], axis=0))


def influential(s: xr.Dataset) -> pd.DataFrame:
    """Pairs of a test point and the example that helps it most: chosen by even models, measured on odd ones."""
    even, odd = (s.isel(models=slice(first, None, 2)) for first in (0, 1))
    if not len(twice := _twice(even.member.values, odd.member.values)):
        return pd.DataFrame()
    labels = (s.test_class.values, s["class"].values[twice]) if {"class", "test_class"} <= s.keys() else None
    best, value = top_influences(even.test_correct.values, even.member.values[:, twice], 1, labels=labels)
    tests = np.argsort(-value[:, 0], kind="stable")[:MOST]
    pairs = twice[best[tests, 0]]
    frame = _sides(odd.test_correct.values[:, tests], odd.member.values[:, pairs])
    return frame.assign(test=s.tests.values[tests], **_example(s.isel(examples=pairs)))


def more(s: xr.Dataset, best: str) -> pd.DataFrame:
    """The interval of the AUC against the number of models, measured up to all of them and projected beyond.

    Columns models, examples, auc, low, high, measured. With one model, the number of examples grows instead.
    """
    order, rows, models = np.argsort(~s.target.values, kind="stable"), [], s.sizes["models"]
    for k in np.unique(np.minimum(2 ** np.arange(3, 20), models)).tolist():
        found = attack(s.isel(models=order[:k]), (best,))
        if best in found and sided(found.member.values):
            effect = mean(auc_terms(found[best].values, found.member.values))
            rows.append((k, found.sizes["examples"], float(effect.estimate), *map(float, effect.interval()), True))
    alone, whole, n = found.sizes["targets"] == 1, float(effect.stderr) ** 2, found.sizes["examples"]
    grows = whole if alone else float(effect.by_models)
    for factor in (2, 4):
        more = effect._replace(stderr=np.sqrt(whole - grows + grows / factor))
        size = (models, n * factor) if alone else (models * factor, n)
        rows.append((*size, float(more.estimate), *map(float, more.interval()), False))
    return pd.DataFrame(rows, columns=["models", "examples", "auc", "low", "high", "measured"])
