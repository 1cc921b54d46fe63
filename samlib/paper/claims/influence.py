"""The measures of influence over memorization (C6, C7), and the selections that Figure 2 draws.

The largest of many noisy influences is mostly noise. So examples and test points are chosen on the even models, and their
influence is measured on the odd ones; and only pairs of one class are looked at, which leaves fewer accidents (our choice).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from samlib.audit import Pair, compared
from samlib.estimators import influential_by_interval, memorization, memorization_terms, strongest_influence
from samlib.evaluation import ENOUGH
from samlib.paper.claims.statistics import Effect, group_mean, halves, mean

EDGES = np.linspace(0, 1, 6)  # of the intervals of memorization
HIGHEST = len(EDGES) - 2  # the last interval
PER_INTERVAL = 20


class Models(NamedTuple):
    """What influence is estimated from, bool (models, examples) or (models, tests), and the labels of both."""

    correct: np.ndarray
    test_correct: np.ndarray
    member: np.ndarray
    labels: tuple[np.ndarray, np.ndarray]  # of test points, of examples


def of(*many: xr.Dataset) -> Models:
    """The models of one run, or of several together (then influence is their mean)."""
    arrays = [np.concatenate([runs[n].values for runs in many]) for n in ("correct", "test_correct", "member")]
    return Models(*arrays, (many[0].test_label.values, many[0].label.values))


class Influential(NamedTuple):
    """Examples of highest influence in each interval of memorization; m of them.

    `example` (m,), `test`, the test point of its class that it influences most, `interval`, 0 the lowest, `memorization` and
    `chosen_by`, the influence, all on the models that it was chosen on; `terms` (models, m), whose column means are the
    influence of the same pairs on other models.
    """

    example: np.ndarray
    test: np.ndarray
    interval: np.ndarray
    memorization: np.ndarray
    chosen_by: np.ndarray
    terms: np.ndarray


def influential(first: Models, second: Models, k: int = PER_INTERVAL) -> Influential:
    """Choose k examples in each interval of memorization by `first`, and measure their influence by `second`.

    Horizontal position (memorization) and height (influence) thus come from different models: noise that both would share,
    through the models' subsets, cannot tie them.
    """
    score = memorization(first.correct, first.member, empty="zero").value
    strongest = strongest_influence(first.test_correct, first.member, labels=first.labels)
    chosen = influential_by_interval(np.maximum(score, 0), strongest.value, EDGES, k)  # noise may go below 0
    interval = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
    example = np.concatenate(chosen)
    test = strongest.test[example]
    terms = influence_terms(second, test, example)
    known = ~np.isnan(terms[0])
    parts = (example, test, interval, score[example], strongest.value[example])
    return Influential(*(part[known] for part in parts), terms[:, known])


def influence_terms(models: Models, test, example) -> np.ndarray:
    """First-order terms (models, pairs) of the influence of each pair of an example and a test point."""
    return memorization_terms(models.test_correct[:, test], models.member[:, example])


def figure_2(pair: Pair) -> dict[str, Influential]:
    """Figures 2a and 2b: what each optimizer's own models choose; keys "sgd" and "sam"."""
    first, second = halves(pair)
    return {name: influential(of(a), of(b)) for name, a, b in zip(("sgd", "sam"), first[:2], second[:2], strict=True)}


class Differences(NamedTuple):
    """Figure 2c, for m examples: `memorization` (m,), SAM's minus SGD's by the even models; `interval` of their mean
    memorization; `sgd` and `sam` (models, m), terms whose column means are the influences by the odd models."""

    memorization: np.ndarray
    interval: np.ndarray
    sgd: np.ndarray
    sam: np.ndarray


def differences(pair: Pair, k: int = PER_INTERVAL) -> Differences:
    """SAM beside SGD, for examples and test points that both optimizers' even models chose together: neither is favoured."""
    first, second = halves(pair)
    found = influential(of(*first[:2]), of(*second[:2]), k)
    scores = [memorization(r.correct.values, r.member.values, empty="zero").value[found.example] for r in first[:2]]
    terms = [influence_terms(of(runs), found.test, found.example) for runs in second[:2]]
    return Differences(scores[1] - scores[0], found.interval, *terms)


def influence_by_interval(pair: Pair) -> pd.DataFrame:
    """Mean influence of all examples in each interval of memorization: columns sgd, sam, difference, low, high, examples."""
    found, rows = differences(pair, pair.sgd.sizes["example"]), {}
    for j, (low, high) in enumerate(zip(EDGES[:-1], EDGES[1:], strict=True)):
        inside = (found.interval == j).astype(float)
        if inside.sum() < ENOUGH:
            continue
        sgd, sam = (group_mean(terms, inside) for terms in (found.sgd, found.sam))
        rows[f"{low:.1f} to {high:.1f}"] = compared(sgd, sam) | {"examples": int(inside.sum())}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("memorization")


def leaning(pair: Pair) -> Effect | None:
    """C6: influence of the highest interval of memorization minus of the middle ones (the lowest left out), SAM - SGD."""
    n, contrast = pair.sgd.sizes["example"], []
    for found in figure_2(pair).values():
        groups = found.interval == HIGHEST, (found.interval > 0) & (found.interval < HIGHEST)
        if min(group.sum() for group in groups) < ENOUGH:
            return None
        terms = np.zeros((len(found.terms), n))
        terms[:, found.example] = found.terms
        high, middle = (group_mean(terms, np.bincount(found.example[g], minlength=n)) for g in groups)
        contrast.append(high - middle)
    return mean(contrast[1] - contrast[0])


def slope(pair: Pair) -> Effect | None:
    """C7: the least-squares slope of the difference in influence over that in memorization."""
    found = differences(pair)
    x = found.memorization - found.memorization.mean()
    if len(x) < 2 * ENOUGH or not x.any():
        return None
    each = found.sam - found.sgd
    each = each - each.mean()
    value = (each.mean(0) * x).sum() / (x**2).sum()
    return mean(value + len(x) * x * (each - value * x) / (x**2).sum())
