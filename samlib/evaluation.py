"""Evaluate attacks: AUC, balanced accuracy, advantage and TPR at FPR, with intervals, paired differences and epsilon.

A higher score means a likelier member. An attack calls a member if score >= threshold. Tied scores go the same way, so rates
that no threshold attains are never interpolated. With one target, scores are (n,), and intervals are over examples. With
several, scores are (targets, n), and intervals are over targets and examples, since another run would have given other models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from samlib.checks import as_array, as_member, as_number, as_rates, same_shape
from samlib.inference import Effect, clopper_pearson, epsilon_lower_bound, groups, mean

Rates = float | Sequence[float]
ENOUGH = 10  # false positives that a rate must allow before a true-positive rate at it is worth showing


class Measure(NamedTuple):
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class AttackReport:
    """The measures of `evaluate`, or their differences in `compare`. `tpr_at_fpr` is keyed by the false-positive rate.

    `too_few` names the rates that allow fewer than 10 false positives: shown, but not to be relied on.
    """

    auc: Measure
    balanced_accuracy: Measure
    advantage: Measure
    tpr_at_fpr: dict[float, Measure]
    n_members: int
    n_nonmembers: int
    too_few: tuple[float, ...]

    def frame(self):
        """The measures as a pandas frame with columns value, low, high."""
        import pandas as pd

        rows = {name: getattr(self, name) for name in ("auc", "balanced_accuracy", "advantage")}
        rows |= {f"tpr_at_{rate:g}_fpr": measure for rate, measure in self.tpr_at_fpr.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=Measure._fields)


@dataclass(frozen=True)
class Comparison(AttackReport):
    """Paired differences, a minus b, in the fields of an `AttackReport`; and the reports of `a` and `b`."""

    a: AttackReport
    b: AttackReport


def evaluate(scores, member, *, fpr: Rates = (0.001, 0.01, 0.1), confidence: float = 0.95) -> AttackReport:
    """Measure how well scores tell members from non-members. scores: (n,) for one target, or (targets, n). member: bool, alike.

    `auc` counts a tie as one half. `advantage` is the largest TPR - FPR over thresholds (Yeom et al. 2018, def. 4, at the
    best threshold). `balanced_accuracy` is (1 + advantage) / 2. With several targets these are means over targets, each
    with a threshold of its own. `tpr_at_fpr` is the largest TPR of a threshold whose FPR is at most the rate, with the scores
    of all targets pooled (Carlini et al. 2022, section 4). `fpr` is a rate or any sequence or array of rates.

    Intervals are the t intervals of `inference.mean` on first-order terms. For one target, the interval of a TPR is Clopper and
    Pearson's at the chosen threshold.

    Raises ValueError for NaN, for shapes that disagree, for a target without members or non-members, and for a rate or a
    confidence outside (0, 1).
    """
    (scores, member), fpr = _checked(member, scores=scores), as_rates("fpr", fpr)
    confidence = as_number("confidence", confidence, 0, 1, strict=True)
    measures = {}
    for what in ("auc", "advantage", *fpr):
        measures[what] = _of_one(what, *_measured(what, scores, member), member, confidence)
    return AttackReport(**_fields(measures, member, fpr, base=1))


def compare(scores_a, scores_b, member, *, fpr: Rates = (0.001, 0.01, 0.1), confidence: float = 0.95) -> Comparison:
    """Paired differences, a minus b, of all measures of `evaluate`, for two attacks (or targets) on the same examples.

    Row k of a and of b is a pair (same members). What both share cancels in the difference, so its interval is narrow.
    Shapes, conventions and errors as `evaluate`.
    """
    b, _ = _checked(member, scores_b=scores_b)
    (a, member), fpr = _checked(member, scores_a=scores_a), as_rates("fpr", fpr)
    same_shape("scores_a", a, "scores_b", b)
    confidence = as_number("confidence", confidence, 0, 1, strict=True)
    of_a, of_b, gaps = {}, {}, {}
    for what in ("auc", "advantage", *fpr):
        (value_a, terms_a), (value_b, terms_b) = (_measured(what, scores, member) for scores in (a, b))
        of_a[what] = _of_one(what, value_a, terms_a, member, confidence)
        of_b[what] = _of_one(what, value_b, terms_b, member, confidence)
        gaps[what] = _measure(value_a - value_b, terms_a - terms_b, member, confidence, least=-1)
    alone = [AttackReport(**_fields(measures, member, fpr, base=1)) for measures in (of_a, of_b)]
    return Comparison(**_fields(gaps, member, fpr, base=0), a=alone[0], b=alone[1])


def roc(scores, member) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve as (fpr, tpr), with a point for each distinct score, from (0, 0) to (1, 1). Several targets are pooled.

    For log-log axes leave out the points of rate 0. Raises as `evaluate`.
    """
    return _curve(*_checked(member, scores=scores))[:2]


def tpr_at(scores, member, fpr: float) -> float:
    """The largest TPR of a threshold whose FPR is at most `fpr`; several targets are pooled. Raises as `evaluate`."""
    return _pooled(scores, member, fpr)[0]


class Vulnerability(NamedTuple):
    """Rates of each example at one pooled threshold. All are (n,) but `threshold` and `dispersion`.

    `p` tests whether an example's own FPR is the pooled one: a two-sided binomial p-value of its count of false positives.
    `dispersion` is the variance of the examples' own FPR, over that of binomial chance; it is near 1 if all FPRs are equal.
    """

    tpr: np.ndarray
    fpr: np.ndarray
    n_in: np.ndarray
    n_out: np.ndarray
    p: np.ndarray
    threshold: float
    dispersion: float

    def shares(self, bins: int = 20):
        """Shares of examples in bins of their own FPR, and those by chance if every FPR were the pooled one.

        A pandas frame: left, right, share, chance.
        """
        import pandas as pd

        edges, known = np.linspace(0, 1, bins + 1), self.n_out > 0
        fpr, n_out = self.fpr[known], self.n_out[known]
        pooled, chance = (fpr * n_out).sum() / n_out.sum(), np.zeros(bins)
        for n, many in zip(*np.unique(n_out, return_counts=True), strict=True):
            k = np.arange(n + 1)
            chance += many * np.histogram(k / n, edges, weights=stats.binom.pmf(k, n, pooled))[0]
        share = np.histogram(fpr, edges)[0]
        return pd.DataFrame(
            {"left": edges[:-1], "right": edges[1:], "share": share / len(fpr), "chance": chance / len(fpr)}
        )


def vulnerability(scores, member, *, fpr: float = 0.1) -> Vulnerability:
    """Does each example's own false-positive rate match the pooled one? scores, member (targets, n).

    An FPR of 0.1 % may be an average of examples at 0 and at 10 %. Then the attack accuses the same non-members in every model.
    The rates of an example that was never in (or never out) are NaN. Raises as `evaluate`.
    """
    scores, member = _checked(member, scores=scores)
    rates, _, cuts = _curve(scores, member)
    threshold = cuts[_place(rates, as_number("fpr", fpr, 0, 1, strict=True))]
    hit = scores >= threshold
    n_in, n_out = member.sum(0), (~member).sum(0)
    true, false = (hit & member).sum(0), (hit & ~member).sum(0)
    pooled, known = false.sum() / n_out.sum(), n_out > 0
    counts, which = np.unique([false[known], n_out[known]], axis=1, return_inverse=True)  # few, of many examples
    p = np.full(len(n_out), np.nan)
    p[known] = np.array([stats.binomtest(int(k), int(n), pooled).pvalue for k, n in counts.T])[which.ravel()]
    with np.errstate(invalid="ignore", divide="ignore"):
        own = false / n_out
        spread = ((own - pooled)[known] ** 2).mean() / (pooled * (1 - pooled) / n_out)[known].mean()
        return Vulnerability(true / n_in, own, n_in, n_out, p, float(threshold), float(spread))


def auc_terms(scores, member) -> np.ndarray:
    """First-order terms (targets, n) of the AUC: the mean of each row is the target's AUC (DeLong et al. 1988).

    To first order, the AUC varies over examples as a row's mean does. The term of a member is AUC + (n / members) (share of
    non-members below it - AUC), and that of a non-member is alike. Raises as `evaluate`.
    """
    scores, member = _checked(member, scores=scores)
    terms = np.empty(scores.shape)
    for row, s, m in zip(terms, scores, member, strict=True):
        ranks, n_in, n_out = stats.rankdata(s), m.sum(), (~m).sum()
        below, above = (ranks[m] - stats.rankdata(s[m])) / n_out, 1 - (ranks[~m] - stats.rankdata(s[~m])) / n_in
        auc = below.mean()
        row[m], row[~m] = auc + len(s) / n_in * (below - auc), auc + len(s) / n_out * (above - auc)
    return terms


def advantage_terms(scores, member) -> np.ndarray:
    """As `auc_terms`, for the advantage at each target's best threshold, which does not move to first order."""
    scores, member = _checked(member, scores=scores)
    terms = np.empty(scores.shape)
    for row, s, m in zip(terms, scores, member, strict=True):
        fpr, tpr, cuts = _curve(s, m)
        hit = s >= cuts[1 + int(np.argmax((tpr - fpr)[1:]))]
        row[:] = rate_terms(hit, m) - rate_terms(hit, ~m)
    return terms


def rate_terms(hit, member) -> np.ndarray:
    """As `auc_terms`, for the share of members that are hit. hit: bool, as member. With ~member, it is that of non-members."""
    hit, member = _checked(member, hit=as_member("hit", hit))
    rate = hit[member].mean()
    return rate + hit.size / member.sum() * member * (hit - rate)


def tpr_terms(scores, member, fpr: float) -> np.ndarray:
    """As `auc_terms`, for the TPR at an FPR with all targets pooled. The mean of the whole matrix is what `tpr_at` gives.

    A non-member above the threshold raises the threshold, which loses members in proportion to the slope of the ROC curve
    (Hsieh and Turnbull 1996). The slope is taken across two binomial standard deviations of the FPR to either side.
    """
    return _pooled(scores, member, fpr)[1]


def _pooled(scores, member, fpr: float) -> tuple[float, np.ndarray]:
    """What `tpr_at` and `tpr_terms` give."""
    scores, member = _checked(member, scores=scores)
    fpr = as_number("fpr", fpr, 0, 1, strict=True)
    rates, hits, cuts = _curve(scores, member)
    reach = 2 * math.sqrt(fpr * (1 - fpr) / (~member).sum())
    low, at, high = (_place(rates, rate) for rate in (fpr - reach, fpr, fpr + reach))
    slope = (hits[high] - hits[low]) / (rates[high] - rates[low]) if rates[high] > rates[low] else 0.0
    hit = scores >= cuts[at]
    return float(hits[at]), rate_terms(hit, member) - slope * (rate_terms(hit, ~member) - rates[at])


def epsilon(scores, member, confidence: float = 0.95) -> float:
    """A lower bound on epsilon. Half of the targets set the threshold; the rest give the counts.

    If there are fewer than 4 targets, the examples are halved instead. Errors of one model, and errors on one example, are
    correlated. So counts are scaled down to the number of independent ones with the same variance (Korn and Graubard 1998).
    That keeps the rates valid. Privacy itself limits what errors can share: where membership is drawn by coins, none of n errors
    is as unlikely as if they were independent (Steinke et al. 2023). Raises as `evaluate`.
    """
    scores, member = _checked(member, scores=scores)
    confidence, by_model = as_number("confidence", confidence, 0, 1, strict=True), len(scores) >= 4
    half = groups(np.arange(scores.shape[1 - by_model]), 2) == 1
    first, rest = ((v[side] if by_model else v[:, side] for v in (scores, member)) for side in (half, ~half))
    (chosen_by, of), (scores, member) = first, rest
    if not all(m.any(1).all() and not m.all(1).any() for m in (of, member)):
        return 0.0  # a half lacks members or others

    def bound(scores, member, threshold: float) -> float:
        hit = scores >= threshold
        counts = [*_independent(hit, member, up=False), *_independent(hit, ~member, up=True)]
        return epsilon_lower_bound(*counts, confidence=confidence)

    cuts = np.quantile(chosen_by[~of], [1 - rate for rate in (0.001, 0.01, 0.1, 0.5, 0.9)])
    return bound(scores, member, max(cuts, key=lambda cut: bound(chosen_by, of, cut)))


def _independent(hit: np.ndarray, side: np.ndarray, up: bool) -> tuple[int, int]:
    """Hits among (targets, examples) of one side, and their number, both scaled to independent ones of equal variance.

    If all or none are hit, no variance can be seen. Then each example of this side counts once, however many targets decide on
    it: a share r of examples that are always missed stays unseen with probability (1 - r)^n.
    """
    n, rate = int(side.sum()), hit[side].mean()
    stderr = float(mean(rate_terms(hit, side)).stderr)
    n = max(1, min(n, int(rate * (1 - rate) / stderr**2))) if stderr > 0 else int(side.any(0).sum())
    return (math.ceil if up else math.floor)(rate * n - 1e-9 * (1 if up else -1)), n


def _curve(scores, member) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve of all targets together: fpr, tpr, and the threshold of each point. The first is above all scores."""
    order = np.argsort(-scores, axis=None, kind="stable")
    ordered, hits = scores.ravel()[order], member.ravel()[order]
    ends = np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])  # the last of each run of equal scores
    tp, fp = np.cumsum(hits)[ends], np.cumsum(~hits)[ends]
    return np.r_[0, fp / fp[-1]], np.r_[0, tp / tp[-1]], np.r_[np.nan, ordered[ends]]


def _place(rates: np.ndarray, rate: float) -> int:
    """Where on a ROC curve the FPR is the largest that is at most `rate`."""
    return max(int(np.searchsorted(rates, rate * (1 + 1e-12), side="right")) - 1, 0)


def _measured(what, scores, member) -> tuple[float, np.ndarray]:
    """The value of a measure, and its first-order terms. what: "auc", "advantage", or the rate of `tpr_at`."""
    if isinstance(what, float):
        return _pooled(scores, member, what)
    terms = (auc_terms if what == "auc" else advantage_terms)(scores, member)
    return terms.mean(), terms


def _of_one(what, value: float, terms: np.ndarray, member, confidence: float) -> Measure:
    """A measure of one attack. If it has one target, the interval of a TPR is Clopper and Pearson's.

    Scores that are parted without an error have no first-order variance. Then low is the exact bound of the smaller side.
    """
    n = int(member.sum())
    if len(member) == 1 and isinstance(what, float):
        return Measure(value, *map(float, clopper_pearson(round(value * n), n, confidence)))
    found = _measure(value, terms, member, confidence)
    if isinstance(what, float) or found.low < 1:
        return found
    n = min(n, member.size - n)
    low = float(clopper_pearson(n, n, confidence)[0])
    return found._replace(low=low if what == "auc" else max(2 * low - 1, 0.0))


def _measure(value: float, terms: np.ndarray, member, confidence: float, least: float = 0) -> Measure:
    effect = mean(terms) if len(member) > 1 else _welch(terms[0], member[0])
    return Measure(float(value), *map(float, np.clip(effect.interval(1 - confidence), least, 1)))


def _welch(terms: np.ndarray, member: np.ndarray) -> Effect:
    """The mean of one target's terms. Members and others vary apart, each with its own degrees of freedom (Welch 1947)."""
    value, sides = terms.mean(), [np.array(terms[side]) for side in (member, ~member)]
    sizes, stderr, df = np.array([*map(len, sides)]), np.inf, 1.0
    if sizes.min() > 1:
        parts = np.array([((side - value) ** 2).sum() for side in sides]) * sizes / (sizes - 1) / terms.size**2
        stderr = np.sqrt(parts.sum())
        df = stderr**4 / (parts**2 / (sizes - 1)).sum() if stderr else np.inf
    return Effect(*map(np.asarray, (value, stderr, df, 0.0)))


def _fields(measures: dict, member, fpr, base: float) -> dict:
    non_members = int((~member).sum())
    return {
        "auc": measures["auc"],
        "advantage": measures["advantage"],
        "balanced_accuracy": Measure(*((base + v) / 2 for v in measures["advantage"])),
        "tpr_at_fpr": {rate: measures[rate] for rate in fpr},
        "n_members": int(member.sum()),
        "n_nonmembers": non_members,
        "too_few": tuple(rate for rate in fpr if rate * non_members < ENOUGH),
    }


def _checked(member, **named) -> tuple[np.ndarray, np.ndarray]:
    (name, scores), *_ = named.items()
    scores = _row(as_array(name, scores, ndim=(1, 2), infinite=True))
    member = _row(as_member("member", member, ndim=(1, 2)))
    same_shape(name, scores, "member", member)
    member = np.atleast_2d(member)
    if (lone := member.all(1) | ~member.any(1)).any():
        which = f" of target {int(np.flatnonzero(lone)[0])}" if len(member) > 1 else ""
        raise ValueError(f"member{which} must hold both members and non-members.")
    return np.atleast_2d(scores).astype(float, copy=False), member


def _row(array: np.ndarray) -> np.ndarray:
    """A column is one target's: a target needs more than one example."""
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
