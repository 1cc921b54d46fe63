"""Claims that belong to no single pair of runs: the mixture (C11), the theorems (C12, C13), other optimizers (C14)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from samlib.audit import Pair
from samlib.evaluation import clopper_pearson
from samlib.paper.claims.ledger import CONTRADICTED, INCONCLUSIVE, LEVEL, SUPPORTED, Claim, cost, decide, verdict
from samlib.paper.claims.settings import ACCURACY, AUC, terms
from samlib.paper.claims.statistics import mean
from samlib.paper.mixture import Mixture, PairedDraws, PairedTest, errors, paired_draws
from samlib.paper.study import SHARPNESS_AWARE
from samlib.paper.theory import order
from samlib.paper.theory.model import advantage, error
from samlib.paper.theory.verify.alignment import random_pairs

# A gain that counts, and what "coincides" means: ours, set after trial runs, NEAR_EACH_OTHER alone before them.
LEAST_GAIN, NEAR_EACH_OTHER, NEAR_BAYES = 0.01, 0.002, 0.005
BROKEN = 1e-3  # share of random pairs that may break a theorem before it counts as refuted: rounding alone breaks none
FEW, MANY = (40, 2, 40), (1600, 400, 2000)  # typical, atypical and blue samples of a draw
MIXTURE, THEORY = "the mixture", "random alignments"


def general_ledger(
    pairs: Mapping[str, Pair], *, n_draws: int = 60, trials: int = 100_000, seed: int = 0
) -> pd.DataFrame:
    """All of them: C11 on `n_draws` draws with few atypical samples and a third as many with many, the theorems on `trials`
    random pairs, and C14 on `pairs`, as of `study.optimizer_pairs`, aligned."""
    names, mixture = ("n_typical", "n_atypical", "n_blue"), Mixture()
    few, many = (
        paired_draws(n, **dict(zip(names, counts, strict=True)), seed=seed)
        for n, counts in ((n_draws, FEW), (max(n_draws // 3, 2), MANY))
    )
    return pd.concat([mixture_ledger(few, many, mixture), theorem_ledger(trials, seed), optimizers_ledger(pairs)])


def mixture_ledger(few: PairedDraws, many: PairedDraws, mixture: Mixture) -> pd.DataFrame:
    """C11 of draws with few and with many atypical samples, as rows of `ledger`."""
    gain, coincide = few.summary()["atypical_accuracy"], many.summary()["error"]
    excess = max(coincide.sgd, coincide.sam) - bayes_error(mixture)
    rows = {
        ("C11 few", MIXTURE): _tested(gain, verdict_few(few), LEAST_GAIN)
        | {"statistic": f"accuracy on the atypical cluster, SAM - SGD, over {len(few.sgd['error'])} draws",
           "text": "With few atypical samples SAM does better on the atypical cluster."},
        ("C11 many", MIXTURE): _tested(coincide, verdict_many(many, mixture), NEAR_EACH_OTHER)
        | {"statistic": f"test error, SAM - SGD, over {len(many.sgd['error'])} draws, and the larger one less the Bayes rule's, "
           f"{excess:+.4f}, which may be {NEAR_BAYES:g}",
           "text": "With many samples SAM and SGD coincide with the Bayes-optimal classifier."},
    }  # fmt: skip
    return _frame(rows)


def theorem_ledger(trials: int = 100_000, seed: int = 0) -> pd.DataFrame:
    """C12 and C13: the share of random MSA-ordered pairs that break Theorem 1 or 2, as rows of `ledger`.

    The interval is Clopper and Pearson's. The statistic also says how many break the claim where its condition fails.
    """
    drawn = random_pairs(np.random.default_rng(seed), trials)
    M1, A1, M2, A2, s, pi = drawn.values()
    rows = {}
    for claim, text, said, difference, condition in (
        ("C12", "Higher minority-subclass alignment implies better generalization.", "have a larger error",
         error(M2, A2, s, pi) - error(M1, A1, s, pi), order.theorem1_condition(**drawn)),
        ("C13", "Higher minority-subclass alignment implies a higher attacker's advantage.", "have a smaller advantage",
         advantage(M1, A1, s, pi) - advantage(M2, A2, s, pi), order.theorem2_condition(**drawn)),
    ):  # fmt: skip
        broken = difference < -1e-12  # rounding
        under, outside = broken[condition], broken[~condition]
        low, high = (float(end) for end in clopper_pearson(under.sum(), len(under), 1 - LEVEL))
        kept = SUPPORTED if high < BROKEN else CONTRADICTED if low > BROKEN else INCONCLUSIVE
        where = f"of {len(under)} ordered pairs under the theorem's condition"
        rows[claim, THEORY] = {
            "statistic": f"share {where} that {said} (where the condition fails: {outside.mean():.0%})",
            "estimate": float(under.mean()), "low": low, "high": high, "level": LEVEL, "verdict": kept,
            "direction": 1, "smallest": BROKEN, "text": text,
        }  # fmt: skip
    return _frame(rows)


def optimizers_ledger(pairs: Mapping[str, Pair]) -> pd.DataFrame:
    """C14: the mean gain of the sharpness-aware optimizers other than SAM over SGD, in accuracy and in the confidence attack's
    AUC, as rows of `ledger`. `pairs` as of `study.optimizer_pairs`, aligned; no rows where none is of that kind.
    """
    others = {name: pair for name, pair in pairs.items() if name in SHARPNESS_AWARE and name != "sam"}
    if not others:
        return _frame({})
    common = sorted(set.intersection(*(set(pair.sgd.model.values.tolist()) for pair in others.values())))
    aligned = [Pair(*(runs.sel(model=common) for runs in pair[:2]), pair.name) for pair in others.values()]
    named, sgd = ", ".join(others), aligned[0].sgd
    measures = {
        "accuracy": ("test better than SGD", "test accuracy", 0.002, ACCURACY),
        "confidence": ("are easier to attack", "AUC of the confidence attack", 0.005, AUC),
    }
    claims, effects = [], {}
    for name, (text, statistic, smallest, measure) in measures.items():
        claims.append(
            Claim(f"C14 {name}", f"Other sharpness-aware optimizers {text}.", f"{statistic}, mean of {named}, - SGD", 1,
                  smallest, lambda pair: None)
        )  # fmt: skip
        gains = [other - own for own, other in (terms(pair, measure) for pair in aligned)]
        effects[claims[-1].id] = mean(np.mean(gains, axis=0))
    dataset = json.loads(sgd.attrs["experiment"])["dataset"]
    rows = decide(effects, tuple(claims), len(common))
    total = cost(aligned[0]) | {
        "models": len(common) * (1 + len(others)),
        "seconds": sgd.attrs["seconds"] + sum(pair.sam.attrs["seconds"] for pair in aligned),
    }
    return _frame({(claim.id, dataset): row | total for claim, row in zip(claims, rows, strict=True)})


def verdict_few(draws: PairedDraws) -> str:
    """Of draws with few atypical samples: does SAM do better on the atypical cluster? One of `VERDICTS`."""
    gain = draws.summary()["atypical_accuracy"]
    return verdict(gain.difference, gain.low, gain.high, 1, LEAST_GAIN)


def verdict_many(draws: PairedDraws, mixture: Mixture) -> str:
    """Of draws with many: both within `NEAR_BAYES` of the Bayes error and within `NEAR_EACH_OTHER` of each other?"""
    bayes, test = bayes_error(mixture), draws.summary()["error"]
    near = max(test.sgd, test.sam) - bayes <= NEAR_BAYES
    ends = sorted((abs(test.low), abs(test.high)))
    if near and ends[1] <= NEAR_EACH_OTHER:
        return SUPPORTED
    return INCONCLUSIVE if near and ends[0] < NEAR_EACH_OTHER else CONTRADICTED


def bayes_error(mixture: Mixture) -> float:
    """The error of the Bayes rule, by quadrature."""

    class Bayes:
        decision = staticmethod(mixture.log_density_ratio)

    return errors(Bayes, mixture)["error"]


def _tested(test: PairedTest, said: str, smallest: float) -> dict:
    row = {
        "estimate": test.difference,
        "low": test.low,
        "high": test.high,
        "level": LEVEL,
        "p": test.p,
        "verdict": said,
    }
    return row | {"direction": 1, "smallest": smallest}


def _frame(rows: Mapping[tuple[str, str], dict]) -> pd.DataFrame:
    blank = {"p": math.nan, "needed": math.nan, "reported": "", "models": 0, "seconds": 0.0, "machine": ""}
    index = pd.MultiIndex.from_tuples(rows, names=["claim", "dataset"])
    return pd.DataFrame([blank | row for row in rows.values()], index=index)
