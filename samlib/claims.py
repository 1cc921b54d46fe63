"""The claims ledger: for each claim a statistic, a direction and the smallest effect that counts, written before any run.

A verdict is computed from a bootstrap over models and examples, Holm-corrected over a data set's claims. Where a statistic
selects (examples, buckets), it selects on the even models and measures on the odd ones.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from samlib.audit import Pair, attack_scores
from samlib.estimators import entropy_buckets, memorization, memorization_terms, streamed_entropy, top_influences
from samlib.evaluation import ENOUGH, auc_terms, resampled, tpr_at, tpr_replicates, two_way

LEVEL = 0.05
N_RESAMPLES = 4000
FEASIBLE = 50  # times the models that a run has: beyond, more models are no advice
LOWEST, LOW = 0.1, 0.5  # memorization below the one is "the lowest range", between them "the lower score range"
SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE = VERDICTS = (
    "supported", "contradicted", "no difference that counts", "inconclusive",
)  # fmt: skip


class Effect(NamedTuple):
    """An estimate, bootstrap replicates of it, and the part of their deviation that more models would not remove."""

    estimate: float
    replicates: np.ndarray
    example_sd: float = 0.0


@dataclass(frozen=True)
class Claim:
    """What the paper claims and how it is decided here. `direction` is the sign that the claim gives the statistic.

    `measure` returns an Effect, or None where the runs are too small for the statistic to mean anything.
    """

    id: str
    text: str
    statistic: str
    direction: int
    smallest: float
    measure: Callable[[Pair], Effect | None]
    reported: str = ""  # the paper's numbers, SGD → SAM, second-hand


def _mean(terms: np.ndarray) -> Effect:
    """The mean of first-order terms (models, examples), a column of NaN left out."""
    terms = terms[:, ~np.isnan(terms).any(0)]
    examples = terms.mean(0)
    draws = two_way(terms, n_resamples=N_RESAMPLES)
    return Effect(float(terms.mean()), draws, float(examples.std() / math.sqrt(len(examples))))


def _accuracy(pair: Pair) -> Effect:
    return _mean(_gain(pair))


def _gain(pair: Pair) -> np.ndarray:
    return pair.sam.test_correct.values.astype(float) - pair.sgd.test_correct.values


def _auc(attack: str) -> Callable[[Pair], Effect]:
    def measure(pair):
        sam, sgd = (attack_scores(runs, (attack,)) for runs in (pair.sam, pair.sgd))
        return _mean(auc_terms(sam.scores[attack], sam.member) - auc_terms(sgd.scores[attack], sgd.member))

    return measure


def _tpr(attack: str, rate: float) -> Callable[[Pair], Effect | None]:
    def measure(pair):
        sam, sgd = (attack_scores(runs, (attack,)) for runs in (pair.sam, pair.sgd))
        if (~sam.member).sum() * rate < ENOUGH:
            return None
        both = [sam.scores[attack], sgd.scores[attack]]
        once = [tpr_at(scores, sam.member, rate) for scores in both]
        drawn = tpr_replicates(both, sam.member, (rate,), n_resamples=N_RESAMPLES // 2)[0]
        return Effect(once[0] - once[1], drawn[0] - drawn[1])

    return measure


def _lowest_range(pair: Pair) -> Effect:
    """SAM's minus SGD's share of examples with memorization below LOWEST; both have as many models, so the same noise."""
    counts = [_counts(runs) for runs in (pair.sam, pair.sgd)]

    def shares(rows, columns):
        with np.errstate(invalid="ignore", divide="ignore"):
            low = [
                np.divide(rows @ right_in, rows @ seen) - np.divide(rows @ right_out, rows @ unseen) < LOWEST
                for right_in, seen, right_out, unseen in counts
            ]
        return ((low[0].astype(float) - low[1]) * columns).sum(1) / columns.sum(1)

    return _centred(pair, shares)


def _counts(runs: xr.Dataset) -> tuple[np.ndarray, ...]:
    correct, member = runs.correct.values, runs.member.values
    return tuple(mask.astype(float) for mask in (correct & member, member, correct & ~member, ~member))


def _output_spread(pair: Pair) -> Effect:
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


def _halves(pair: Pair) -> tuple[Pair, Pair]:
    """Even models, to select on, and odd ones, to measure on."""
    return tuple(Pair(*(runs.isel(model=slice(s, None, 2)) for runs in pair[:2]), pair.name) for s in (0, 1))


def _lower_scores(pair: Pair) -> Effect | None:
    first, second = _halves(pair)
    score = memorization(first.sgd.correct.values, first.sgd.member.values).value
    chosen = (score >= LOWEST) & (score < LOW)
    return _mean(_memorization_gain(second)[:, chosen]) if chosen.sum() >= ENOUGH else None


def _memorization_gain(pair: Pair) -> np.ndarray:
    sam, sgd = (memorization_terms(runs.correct.values, runs.member.values) for runs in (pair.sam, pair.sgd))
    return sam - sgd


def _buckets(runs: xr.Dataset) -> np.ndarray:
    return entropy_buckets(streamed_entropy(runs.test_correct.values, runs.member.values))


def _low_entropy_gain(pair: Pair) -> Effect:
    first, second = _halves(pair)
    lowest = _buckets(first.sgd) == 1
    contrast = np.where(lowest, 1 / lowest.mean(), -1 / (~lowest).mean())
    return _mean(_gain(second) * contrast)


def _top_influence_memorized(pair: Pair) -> Effect:
    first, second = (half.sam for half in _halves(pair))
    bucket = _buckets(first)
    top = top_influences(first.test_correct.values, first.member.values, 1)[0][:, 0]
    terms = memorization_terms(second.correct.values, second.member.values)[:, top]  # (models, tests)
    return _mean(terms * ((bucket == 1) / (bucket == 1).mean() - (bucket == 5) / (bucket == 5).mean()))


CLAIMS = (
    Claim("C1", "SAM has lower test error than SGD.", "test accuracy, SAM - SGD", 1, 0.002, _accuracy,
          "test accuracies of 80.30 → 81.60 % on CIFAR-100, 96.00 → 96.72 % on CIFAR-10"),
    Claim("C2 confidence", "SAM is easier to attack by confidence.", "AUC of the confidence attack, SAM - SGD", 1, 0.005,
          _auc("confidence"), "attack accuracies of 77.19 → 79.10 % on CIFAR-100, 59.37 → 61.64 % on CIFAR-10"),
    Claim("C2 LiRA", "SAM is easier to attack by likelihood ratios.", "AUC of online LiRA, SAM - SGD", 1, 0.005,
          _auc("LiRA online"), "AUCs of .926 → .937 on CIFAR-100, .730 → .764 on CIFAR-10"),
    Claim("C2 RMIA", "SAM is easier to attack by RMIA.", "AUC of offline RMIA, SAM - SGD", 1, 0.005,
          _auc("RMIA offline"), "AUCs of .904 → .916 on CIFAR-100"),
    Claim("C3", "SAM's memorization scores have less density in the lowest range.",
          f"share of examples with memorization below {LOWEST}, SAM - SGD", -1, 0.005, _lowest_range),
    Claim("C4", "SAM memorizes more samples of the lower score range.",
          f"memorization, SAM - SGD, of examples that SGD memorizes by {LOWEST} to {LOW}", 1, 0.005, _lower_scores),
    Claim("C9", "SAM's accuracy gain comes from test points of low influence entropy.",
          "accuracy gain of SAM in bucket 1 minus in buckets 2 to 5", 1, 0.002, _low_entropy_gain),
    Claim("C10", "The most influential example of a bucket-1 test point is memorized, of a bucket-5 one it is not.",
          "SAM's memorization of the top-1 influence, bucket 1 - bucket 5", 1, 0.005, _top_influence_memorized),
    Claim("C15", "SAM's outputs vary less on unseen examples.",
          "mean log ratio of the logit's deviation over models that did not see it, SAM / SGD", -1, 0.01, _output_spread),
    Claim("C16", "SAM's true-positive rate at a false-positive rate of 0.1 % is higher.",
          "TPR of online LiRA at 0.1 % FPR, SAM - SGD", 1, 0.005, _tpr("LiRA online", 0.001), "8.8 → 12.5 % on CIFAR-10"),
)  # fmt: skip


def ledger(pairs: Mapping[str, Pair], claims: tuple[Claim, ...] = CLAIMS) -> pd.DataFrame:
    """Every claim on every data set: `pairs` maps a data set's name to its aligned runs.

    Rows (claim, dataset); columns statistic, estimate, low, high (the interval at the Holm-adjusted level), level, p, verdict,
    needed (models that would settle an inconclusive one; NaN where only more examples would), direction, smallest, text,
    reported, models, seconds, machine. A claim whose statistic the runs are too small for has the verdict "inconclusive"
    and NaN for numbers.
    """
    rows = []
    for dataset, pair in pairs.items():
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "(?s).*(no estimate|are left out)"
            )  # halves of few models; the tables say so
            effects = {claim.id: claim.measure(pair) for claim in claims}
        rows += [
            {"claim": claim.id, "dataset": dataset, **row, **_cost(pair)}
            for claim, row in zip(claims, decide(effects, claims, pair.sgd.sizes["model"]), strict=True)
        ]
    return pd.DataFrame(rows).set_index(["claim", "dataset"])


def decide(effects: Mapping[str, Effect | None], claims: tuple[Claim, ...], n_models: int) -> list[dict]:
    """Verdicts of one data set's claims, in the order of `claims`: Holm's step-down levels, then `verdict`."""
    p = {name: _p_value(e) for name, e in effects.items() if e is not None}
    levels, level, stopped = {}, LEVEL, False
    for rank, name in enumerate(sorted(p, key=p.get)):
        if not stopped:  # after the first that fails, none is tested at a milder level
            level = LEVEL / (len(p) - rank)
            stopped = p[name] > level
        levels[name] = level
    rows = []
    for claim in claims:
        found = effects[claim.id]
        row = {"statistic": claim.statistic, "estimate": math.nan, "low": math.nan, "high": math.nan, "level": math.nan}
        row |= {"p": math.nan, "verdict": INCONCLUSIVE, "needed": math.nan}
        if found is not None:
            level = levels[claim.id]
            low, high = (float(v) for v in np.quantile(found.replicates, [level / 2, 1 - level / 2]))
            said = verdict(found.estimate, low, high, claim.direction, claim.smallest)
            row |= {
                "estimate": found.estimate,
                "low": low,
                "high": high,
                "level": level,
                "p": p[claim.id],
                "verdict": said,
            }
            row["needed"] = _needed(found, claim.smallest, level, n_models) if said == INCONCLUSIVE else math.nan
        rows.append(row | {name: getattr(claim, name) for name in ("direction", "smallest", "text", "reported")})
    return rows


def verdict(estimate: float, low: float, high: float, direction: int, smallest: float) -> str:
    """One of `VERDICTS`, from an estimate and its interval.

    Supported: the interval lies beyond zero in the claimed direction and the estimate reaches the smallest effect.
    Contradicted: the same in the other direction. No difference that counts: the interval lies within the smallest effect.
    """
    if direction < 0:
        estimate, low, high = -estimate, -high, -low
    if low > 0 and estimate >= smallest:
        return SUPPORTED
    if high < 0 and estimate <= -smallest:
        return CONTRADICTED
    return NO_DIFFERENCE if -smallest < low and high < smallest else INCONCLUSIVE


def sentence(row: pd.Series) -> str:
    """One sentence on a row of `ledger`, for the text under a figure."""
    if math.isnan(row.estimate):
        return f"**Inconclusive.** {row.text} These runs are too small to decide it ({row.statistic})."
    text = (
        f"**{row.verdict.capitalize()}.** {row.text} Measured: {row.statistic}, {row.estimate:+.4f} "
        f"({1 - row.level:.1%} interval {row.low:+.4f} to {row.high:+.4f}; smallest effect that counts {row.smallest:g})."
    )
    if row.verdict == INCONCLUSIVE:
        if math.isnan(row.needed):
            text += " More examples, not more models, would settle it."
        elif row.needed > FEASIBLE * row.models:
            text += " It is so near to the smallest effect that counts that no feasible number of models would settle it."
        else:
            text += f" About {row.needed:.0f} models of each would settle it."
    if row.reported:
        text += f" The paper reports {row.reported}."
    return text


def _p_value(found: Effect) -> float:
    deviation = found.replicates.std()
    if deviation == 0:
        return 1.0 if found.estimate == 0 else 0.0
    return float(2 * stats.norm.sf(abs(found.estimate) / deviation))


def _needed(found: Effect, smallest: float, level: float, n_models: int) -> float:
    """Models for which the interval would exclude zero (or, for a small estimate, lie within the smallest effect)."""
    size = abs(found.estimate)
    target = (size if size >= smallest else smallest - size) / stats.norm.isf(level / 2)
    by_examples = found.example_sd**2
    if target**2 <= by_examples:
        return math.nan
    return math.ceil(n_models * max(found.replicates.var() - by_examples, 0) / (target**2 - by_examples))


def _cost(pair: Pair) -> dict:
    return {
        "models": 2 * pair.sgd.sizes["model"],
        "seconds": pair.sgd.attrs["seconds"] + pair.sam.attrs["seconds"],
        "machine": ", ".join(sorted({*pair.sgd.attrs["machine"], *pair.sam.attrs["machine"]})),
    }
