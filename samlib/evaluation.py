"""Evaluate attacks: AUC, balanced accuracy, advantage and TPR at FPR, with intervals, paired differences and epsilon.

A higher score means a likelier member. An attack calls a member if score >= threshold. Tied scores go the same way, so rates
that no threshold attains are never interpolated. With one target, scores are (n,), and intervals are over examples. With
several, scores are (targets, n), and intervals are over targets and examples, since another run would have given other models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import stats

from samlib.checks import as_array, as_member, as_number, as_rates, same_shape
from samlib.inference import Effect, clopper_pearson, mean
from samlib.inference import epsilon_lower_bound as epsilon_lower_bound

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


def evaluate(
    scores,
    member,
    *,
    fpr: float | Sequence[float] = (0.001, 0.01, 0.1),
    confidence: float = 0.95,
) -> AttackReport:
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
    return _report(_points(scores, member, fpr), _effects([scores], member, fpr)[0], member, fpr, confidence)


def compare(
    scores_a,
    scores_b,
    member,
    *,
    fpr: float | Sequence[float] = (0.001, 0.01, 0.1),
    confidence: float = 0.95,
) -> Comparison:
    """Paired differences, a minus b, of all measures of `evaluate`, for two attacks (or targets) on the same examples.

    Row k of a and of b is a pair (same members). What both share cancels in the difference, so its interval is narrow.
    Shapes, conventions and errors as `evaluate`.
    """
    b, _ = _checked(member, scores_b=scores_b)
    (a, member), fpr = _checked(member, scores_a=scores_a), as_rates("fpr", fpr)
    same_shape("scores_a", a, "scores_b", b)
    confidence = as_number("confidence", confidence, 0, 1, strict=True)
    points = [_points(scores, member, fpr) for scores in (a, b)]
    *own, gap = _effects([a, b], member, fpr)
    alone = [_report(values, found, member, fpr, confidence) for values, found in zip(points, own, strict=True)]
    measures = {name: _measure(points[0][name] - points[1][name], found, confidence, -1) for name, found in gap.items()}
    return Comparison(**_fields(measures, member, fpr, base=0), a=alone[0], b=alone[1])


def roc(scores, member) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve as (fpr, tpr), with a point for each distinct score, from (0, 0) to (1, 1). Several targets are pooled.

    For log-log axes leave out the points of rate 0. Raises as `evaluate`.
    """
    scores, member = _checked(member, scores=scores)
    scores, member = scores.ravel(), member.ravel()
    order = np.argsort(-scores, kind="stable")
    ends = _tie_ends(scores[order])
    hits = member[order]
    tp, fp = np.cumsum(hits)[ends], np.cumsum(~hits)[ends]
    return np.r_[0, fp / fp[-1]], np.r_[0, tp / tp[-1]]


def tpr_at(scores, member, fpr: float) -> float:
    """The largest TPR of a threshold whose FPR is at most `fpr`; several targets are pooled. Raises as `evaluate`."""
    return _at(roc(scores, member), as_number("fpr", fpr, 0, 1, strict=True))


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

    @property
    def pooled(self) -> float:
        """The false-positive rate of all examples together."""
        known = self.n_out > 0
        return (self.fpr * self.n_out)[known].sum() / self.n_out.sum()

    def shares(self, edges) -> tuple[np.ndarray, np.ndarray]:
        """Shares of examples in bins of their own FPR, and the shares by chance if every FPR were the pooled one."""
        known = self.n_out > 0
        chance = sum(
            many
            * np.histogram(np.arange(n + 1) / n, edges, weights=stats.binom.pmf(np.arange(n + 1), n, self.pooled))[0]
            for n, many in zip(*np.unique(self.n_out[known], return_counts=True), strict=True)
        )
        return np.histogram(self.fpr[known], edges)[0] / known.sum(), chance / known.sum()


def vulnerability(scores, member, *, fpr: float = 0.1) -> Vulnerability:
    """Does each example's own false-positive rate match the pooled one? scores, member (targets, n).

    An FPR of 0.1 % may be an average of examples at 0 and at 10 %. Then the attack accuses the same non-members in every model.
    The rates of an example that was never in (or never out) are NaN. Raises as `evaluate`.
    """
    scores, member = _checked(member, scores=scores)
    threshold = _threshold(scores, _place(roc(scores, member), as_number("fpr", fpr, 0, 1, strict=True)))
    hit = scores >= threshold
    n_in, n_out = member.sum(0), (~member).sum(0)
    true, false = (hit & member).sum(0), (hit & ~member).sum(0)
    pooled = false.sum() / n_out.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        own = false / n_out
        expected = pooled * (1 - pooled) / n_out
    known = n_out > 0
    counts, which = np.unique([false[known], n_out[known]], axis=1, return_inverse=True)  # few, of many examples
    p = np.full(len(own), np.nan)
    p[known] = np.array([stats.binomtest(int(k), int(n), pooled).pvalue for k, n in counts.T])[which.ravel()]
    spread = ((own - pooled)[known] ** 2).mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        return Vulnerability(
            true / n_in, own, n_in, n_out, p, float(threshold), float(np.divide(spread, expected[known].mean()))
        )


def auc_terms(scores, member) -> np.ndarray:
    """First-order terms (targets, n) of the AUC: the mean of each row is the target's AUC (DeLong et al. 1988).

    To first order, the AUC varies over examples as a row's mean does. The term of a member is AUC + (n / members) (share of
    non-members below it - AUC), and that of a non-member is alike. Raises as `evaluate`.
    """
    scores, member = _checked(member, scores=scores)
    terms = np.empty(scores.shape)
    for row, s, m in zip(terms, scores, member, strict=True):
        members, others = np.sort(s[m]), np.sort(s[~m])
        below = (np.searchsorted(others, s[m], "left") + np.searchsorted(others, s[m], "right")) / (2 * len(others))
        above = 1 - (np.searchsorted(members, s[~m], "left") + np.searchsorted(members, s[~m], "right")) / (
            2 * len(members)
        )
        auc = below.mean()
        row[m], row[~m] = auc + len(s) / len(members) * (below - auc), auc + len(s) / len(others) * (above - auc)
    return terms


def advantage_terms(scores, member) -> np.ndarray:
    """As `auc_terms`, for the advantage at each target's best threshold, which does not move to first order."""
    scores, member = _checked(member, scores=scores)
    terms = np.empty(scores.shape)
    for row, s, m in zip(terms, scores, member, strict=True):
        order = np.argsort(-s, kind="stable")
        hits, ends = m[order], _tie_ends(s[order])
        tpr, fpr = np.cumsum(hits)[ends] / m.sum(), np.cumsum(~hits)[ends] / (~m).sum()
        best = int(np.argmax(tpr - fpr))
        hit = s >= s[order][ends[best]]
        row[:] = tpr[best] - fpr[best]
        row[m] += len(s) / m.sum() * (hit[m] - tpr[best])
        row[~m] -= len(s) / (~m).sum() * (hit[~m] - fpr[best])
    return terms


def tpr_terms(scores, member, fpr: float) -> np.ndarray:
    """As `auc_terms`, for the TPR at an FPR with all targets pooled. The mean of the whole matrix is what `tpr_at` gives.

    A non-member above the threshold raises the threshold, which loses members in proportion to the slope of the ROC curve
    (Hsieh and Turnbull 1996). The slope is taken across two binomial standard deviations of the FPR to either side.
    """
    scores, member = _checked(member, scores=scores)
    fpr = as_number("fpr", fpr, 0, 1, strict=True)
    rates, hits = curve = roc(scores, member)
    n, n_in = member.size, member.sum()
    reach = 2 * math.sqrt(fpr * (1 - fpr) / (n - n_in))
    low, at, high = (_place(curve, rate) for rate in (fpr - reach, fpr, fpr + reach))
    slope = (hits[high] - hits[low]) / (rates[high] - rates[low]) if rates[high] > rates[low] else 0.0
    hit = scores >= _threshold(scores, at)
    inside = n / n_in * (hit - hits[at])
    return hits[at] + np.where(member, inside, -slope * n / (n - n_in) * (hit - rates[at]))


def _points(scores, member, fpr) -> dict:
    """The measures themselves."""
    curve = roc(scores, member)
    values = {"auc": auc_terms(scores, member).mean(), "advantage": advantage_terms(scores, member).mean()}
    return values | {rate: _at(curve, rate) for rate in fpr}


def _place(curve, rate: float) -> int:
    """Where on a ROC curve the FPR is the largest that is at most `rate`."""
    return max(int(np.searchsorted(curve[0], rate * (1 + 1e-12), side="right")) - 1, 0)


def _threshold(scores, place: int) -> float:
    """The score at a place of a ROC curve."""
    return np.inf if place == 0 else -np.unique(-scores)[place - 1]


def _at(curve, rate: float) -> float:
    return float(curve[1][_place(curve, rate)])


def _effects(many: Sequence[np.ndarray], member, fpr) -> list[dict]:
    """The effects of all measures: for each score matrix, and then for the first matrix minus the last."""
    found: list[dict] = [{} for _ in range(len(many) + 1)]
    measures: dict = {"auc": auc_terms, "advantage": advantage_terms}
    if len(member) > 1 or len(many) > 1:  # one target alone has Clopper and Pearson's interval
        measures |= {rate: partial(tpr_terms, fpr=rate) for rate in fpr}
    for name, terms in measures.items():
        each = [terms(scores, member) for scores in many]
        for effects, part in zip(found, [*each, each[0] - each[-1]], strict=True):
            effects[name] = mean(part)
    return found


def _report(values, effects, member, fpr, confidence) -> AttackReport:
    measures = {name: _measure(value, effects.get(name), confidence) for name, value in values.items()}
    if len(member) == 1:
        for rate in fpr:
            n = int(member.sum())
            ends = clopper_pearson(round(values[rate] * n), n, confidence)
            measures[rate] = Measure(float(values[rate]), *map(float, ends))
    return AttackReport(**_fields(measures, member, fpr, base=1))


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


def _measure(value, effect: Effect | None, confidence, least: float = 0) -> Measure:
    ends = (math.nan, math.nan) if effect is None else np.clip(effect.interval(1 - confidence), least, 1)
    return Measure(float(value), *map(float, ends))


def _tie_ends(ordered: np.ndarray) -> np.ndarray:
    """The last index of each run of equal values."""
    return np.flatnonzero(np.r_[ordered[1:] != ordered[:-1], True])


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
