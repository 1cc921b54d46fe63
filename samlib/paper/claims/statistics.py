"""The measures of accuracy, attacks and memorization: functions of a pair of runs to an `Effect`.

Where a statistic selects, it selects on the even models and measures on the odd ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from samlib.audit import Pair, attack_scores
from samlib.estimators import memorization, memorization_terms, weighted_memorization
from samlib.evaluation import ENOUGH, auc_terms, resampled, tpr_at, tpr_replicates, two_way

N_RESAMPLES = 4000
LOWEST, LOW = 0.1, 0.5  # memorization below the one is "the lowest range", between them "the lower score range"


class Effect(NamedTuple):
    """An estimate, bootstrap replicates of it, and the part of their deviation that more models would not remove."""

    estimate: float
    replicates: np.ndarray
    example_sd: float = 0.0


def mean(terms: np.ndarray) -> Effect:
    """The mean of first-order terms (models, examples), a column of NaN left out."""
    terms = terms[:, ~np.isnan(terms).any(0)]
    draws = two_way(terms, n_resamples=N_RESAMPLES)
    return Effect(float(terms.mean()), draws, math.sqrt(_by_examples(terms) / terms.shape[1]))


def _by_examples(terms: np.ndarray) -> float:
    """The variance between examples, less what few models add to it: a column's mean over models is a noisy one."""
    between = terms.mean(0).var()
    if len(terms) > 1:
        between -= (terms - terms.mean(1, keepdims=True)).var(0, ddof=1).mean() / len(terms)
    return max(float(between), 0.0)


def group_mean(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """First-order terms (models, n) of a weighted mean over the columns, so that a resampled column changes its weight too."""
    known = ~np.isnan(terms).any(0)
    weights = np.where(known, weights, 0) / np.sum(weights[known])
    terms = np.where(known, terms, 0)
    value = (terms.mean(0) * weights).sum()
    return value + terms.shape[1] * weights * (terms - value)


def accuracy(pair: Pair) -> Effect:
    return mean(gain(pair))


def gain(pair: Pair) -> np.ndarray:
    return pair.sam.test_correct.values.astype(float) - pair.sgd.test_correct.values


def auc(attack: str) -> Callable[[Pair], Effect]:
    def measure(pair):
        sam, sgd = (attack_scores(runs, (attack,)) for runs in (pair.sam, pair.sgd))
        return mean(auc_terms(sam.scores[attack], sam.member) - auc_terms(sgd.scores[attack], sgd.member))

    return measure


def tpr(attack: str, rate: float) -> Callable[[Pair], Effect | None]:
    def measure(pair):
        sam, sgd = (attack_scores(runs, (attack,)) for runs in (pair.sam, pair.sgd))
        if (~sam.member).sum() * rate < ENOUGH:
            return None
        both = [sam.scores[attack], sgd.scores[attack]]
        once = [tpr_at(scores, sam.member, rate) for scores in both]
        drawn = tpr_replicates(both, sam.member, (rate,), n_resamples=N_RESAMPLES // 2)[0]
        return Effect(once[0] - once[1], drawn[0] - drawn[1])

    return measure


def lowest_range(pair: Pair) -> Effect:
    """SAM's minus SGD's share of examples with memorization below LOWEST; both have as many models, so the same noise."""
    scores = [weighted_memorization(runs.correct.values, runs.member.values) for runs in (pair.sam, pair.sgd)]

    def shares(rows, columns):
        low = [score(rows) < LOWEST for score in scores]
        return ((low[0].astype(float) - low[1]) * columns).sum(1) / columns.sum(1)

    return _centred(pair, shares)


def output_spread(pair: Pair) -> Effect:
    """Mean over examples of log(deviation of the logit over SAM's out models / the same of SGD)."""
    out = (~pair.sgd.member.values).astype(float)
    logits = [runs.logit.values.astype(float) for runs in (pair.sam, pair.sgd)]
    logits = [z - z.mean() for z in logits]

    def ratio(rows, columns):
        n = rows @ out
        with np.errstate(invalid="ignore", divide="ignore"):
            variances = [rows @ (out * z * z) / n - (rows @ (out * z) / n) ** 2 for z in logits]
            value = 0.5 * np.log(variances[0] / variances[1])
        known = np.isfinite(value)
        return (np.where(known, value, 0) * columns).sum(1) / (known * columns).sum(1)

    return _centred(pair, ratio)


def _centred(pair: Pair, statistic: Callable) -> Effect:
    """The bootstrap of a statistic of row and column weights; centred, since resampling fewer distinct models biases it."""
    shape = pair.sgd.member.shape
    estimate = float(statistic(np.ones((1, shape[0])), np.ones((1, shape[1])))[0])
    draws = resampled(shape, statistic, n_resamples=N_RESAMPLES // 2)
    return Effect(estimate, draws - draws.mean() + estimate)


def halves(pair: Pair) -> tuple[Pair, Pair]:
    """Even models, to select on, and odd ones, to measure on."""
    return tuple(Pair(*(runs.isel(model=slice(s, None, 2)) for runs in pair[:2]), pair.name) for s in (0, 1))


def lower_scores(pair: Pair) -> Effect | None:
    first, second = halves(pair)
    score = memorization(first.sgd.correct.values, first.sgd.member.values).value
    chosen = (score >= LOWEST) & (score < LOW)
    return mean(_memorization_gain(second)[:, chosen]) if chosen.sum() >= ENOUGH else None


def _memorization_gain(pair: Pair) -> np.ndarray:
    sam, sgd = (memorization_terms(runs.correct.values, runs.member.values) for runs in (pair.sam, pair.sgd))
    return sam - sgd
