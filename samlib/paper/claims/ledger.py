"""The claims ledger: for each claim a statistic, a direction and the smallest effect that counts, written before any run.

A verdict is computed from a bootstrap over models and examples, Holm-corrected over a data set's claims.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from samlib.audit import Pair
from samlib.paper.claims.distance import MORE, more_memorized
from samlib.paper.claims.entropy import beyond_difficulty, low_entropy_gain, near_duplicates, top_memorization
from samlib.paper.claims.influence import EDGES, PER_INTERVAL, leaning, slope
from samlib.paper.claims.statistics import (
    LOW,
    LOWEST,
    Effect,
    accuracy,
    auc,
    lower_scores,
    lowest_range,
    output_spread,
    tpr,
)  # fmt: skip

LEVEL = 0.05
FEASIBLE = 50  # times the models that a run has: beyond, more models are no advice
SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE = VERDICTS = (
    "supported", "contradicted", "no difference that counts", "inconclusive",
)  # fmt: skip


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


CLAIMS = (
    Claim("C1", "SAM has lower test error than SGD.", "test accuracy, SAM - SGD", 1, 0.002, accuracy,
          "test accuracies of 80.30 → 81.60 % on CIFAR-100, 96.00 → 96.72 % on CIFAR-10"),
    Claim("C2 confidence", "SAM is easier to attack by confidence.", "AUC of the confidence attack, SAM - SGD", 1, 0.005,
          auc("confidence"), "attack accuracies of 77.19 → 79.10 % on CIFAR-100, 59.37 → 61.64 % on CIFAR-10"),
    Claim("C2 LiRA", "SAM is easier to attack by likelihood ratios.", "AUC of online LiRA, SAM - SGD", 1, 0.005,
          auc("LiRA online"), "AUCs of .926 → .937 on CIFAR-100, .730 → .764 on CIFAR-10"),
    Claim("C2 RMIA", "SAM is easier to attack by RMIA.", "AUC of offline RMIA, SAM - SGD", 1, 0.005,
          auc("RMIA offline"), "AUCs of .904 → .916 on CIFAR-100"),
    Claim("C3", "SAM's memorization scores have less density in the lowest range.",
          f"share of examples with memorization below {LOWEST}, SAM - SGD", -1, 0.005, lowest_range),
    Claim("C4", "SAM memorizes more samples of the lower score range.",
          f"memorization, SAM - SGD, of examples that SGD memorizes by {LOWEST} to {LOW}", 1, 0.005, lower_scores),
    Claim("C5", "The examples that SAM memorizes more look atypical.",
          f"atypicality (share of the class that is nearer to its mean) of the {MORE:.0%} of examples that SAM memorizes more by "
          "most, less that of all", 1, 0.02, more_memorized),
    Claim("C6", "SGD's influence leans on a narrow set of highly memorized examples, SAM's is spread more smoothly.",
          f"influence (odd models) of the {PER_INTERVAL} most influential examples (even models) of memorization {EDGES[-2]:.1f} "
          f"to 1, less those of {EDGES[1]:.1f} to {EDGES[-2]:.1f}, SAM - SGD",
          -1, 0.01, leaning),
    Claim("C7", "Where SAM memorizes more than SGD, it also gives more influence.",
          "slope of the difference in influence (odd models) over the difference in memorization (even models), SAM - SGD, of "
          f"the {PER_INTERVAL} most influential examples in each fifth of memorization", 1, 0.05, slope),
    Claim("C8", "Test points of low influence entropy have a near duplicate in the training data.",
          "distance of the most influential example of its class, over the class's typical distance, bucket 1 - bucket 5",
          -1, 0.02, near_duplicates),
    Claim("C9", "SAM's accuracy gain comes from test points of low influence entropy.",
          "accuracy gain of SAM in bucket 1 minus in buckets 2 to 5", 1, 0.002, low_entropy_gain),
    Claim("C10", "The most influential example of a bucket-1 test point is memorized, of a bucket-5 one it is not.",
          "SAM's memorization of the most influential example of its class, bucket 1 - bucket 5", 1, 0.005, top_memorization),
    Claim("C15", "SAM's outputs vary less on unseen examples.",
          "mean log ratio of the logit's deviation over models that did not see it, SAM / SGD", -1, 0.01, output_spread),
    Claim("C16", "SAM's true-positive rate at a false-positive rate of 0.1 % is higher.",
          "TPR of online LiRA at 0.1 % FPR, SAM - SGD", 1, 0.005, tpr("LiRA online", 0.001), "8.8 → 12.5 % on CIFAR-10"),
)  # fmt: skip
# Questions that reviewers asked: no claims of the paper, so no rows of its ledger.
CONTROLS = (
    Claim("C9 beyond difficulty", "SAM's gain at low influence entropy is more than its gain on difficult test points.",
          "accuracy gain of SAM at low minus at high entropy, among test points of equal difficulty (five bins)", 1, 0.002,
          beyond_difficulty),
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
            {"claim": claim.id, "dataset": dataset, **row, **cost(pair)}
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
        return f"**Inconclusive.** {row.text} These runs are too small to decide it, or their data not at hand ({row.statistic})."
    text = (
        f"**{row.verdict.capitalize()}.** {row.text} Measured: {row.statistic}, {row.estimate:+.4f} "
        f"({1 - row.level:.1%} interval {row.low:+.4f} to {row.high:+.4f}; smallest effect that counts {row.smallest:g})."
    )
    if row.verdict == INCONCLUSIVE:
        if math.isnan(row.needed):
            text += " More examples, not more models, would settle it."
        elif row.needed > FEASIBLE * row.models:
            text += (
                " It is so near to the smallest effect that counts that no feasible number of models would settle it."
            )
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


def cost(pair: Pair) -> dict:
    """Columns models, seconds and machine of a pair of runs."""
    return {
        "models": 2 * pair.sgd.sizes["model"],
        "seconds": pair.sgd.attrs["seconds"] + pair.sam.attrs["seconds"],
        "machine": ", ".join(sorted({*pair.sgd.attrs["machine"], *pair.sam.attrs["machine"]})),
    }
