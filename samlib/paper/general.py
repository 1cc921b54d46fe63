"""Claims that belong to no single pair of runs: the mixture (C11), the theorems (C12, C13), other optimizers (C14)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from samlib.inference import CONTRADICTED, INCONCLUSIVE, LEVEL, SUPPORTED, clopper_pearson, verdict
from samlib.paper import values
from samlib.paper.claims import cost
from samlib.paper.frames import Frames, table
from samlib.paper.mixture.measures import LEVEL as MIXTURE_LEVEL
from samlib.paper.mixture.measures import PairedDraws, errors, paired_draws
from samlib.paper.mixture.model import Mixture
from samlib.paper.optimizers import optimizer_ledger
from samlib.paper.study import SHARPNESS_AWARE
from samlib.paper.style import dataset_title, optimizer_title
from samlib.paper.theory import order
from samlib.paper.theory.model import Problems, advantage, error

CLAIMS: dict[str, dict[str, Any]] = values("general")
LEAST_GAIN, YARDSTICK = CLAIMS["C11 few"]["smallest"], CLAIMS["C11 many"]["smallest"]
PROVED = "proved under our conditions"  # a theorem has this in place of a verdict
FEW: dict[str, Any] = {"n_typical": 40, "n_atypical": 2, "n_blue": 40}  # samples of a draw
MANY: dict[str, Any] = {"n_typical": 1600, "n_atypical": 400, "n_blue": 2000}
MIXTURE, THEORY = "the mixture", "random alignments"


def general_ledger(frames: Mapping[str, Frames], about: Mapping[str, Mapping], *, seed: int = 0) -> pd.DataFrame:
    """The rows of all general claims, C11 to C14.

    C11 is measured on 60 draws with few atypical samples and on 20 with many; C12 and C13 on 100,000 random pairs. C14 is read
    from `frames`, what `optimizers.measure` returns for each data set, and from `about`, what `Study.about` says of each.
    """
    few, many = paired_draws(60, seed=seed, **FEW), paired_draws(20, seed=seed, **MANY)
    others = [optimizers_ledger(each, dataset, about[dataset]) for dataset, each in frames.items()]
    return pd.concat([mixture_ledger(few, many, Mixture()), theorem_ledger(seed=seed), *others])


def mixture_ledger(few: PairedDraws, many: PairedDraws, mixture: Mixture) -> pd.DataFrame:
    """C11 on draws with few and with many atypical samples, as rows of `ledger`. Both intervals hold at once.

    They are exploratory: the mixture was chosen after trials, since the paper does not publish its own.

    "Coincide" is one-sided, since no rule has a lower error than the Bayes rule. It is supported if the interval of the excess
    ends at or below the yardstick, and contradicted if it begins above.
    """
    gain, (excess, low, high) = few.summary()["atypical_accuracy"], many.excess(mixture)
    found = {
        "C11 few": (few, gain.difference, gain.low, gain.high, gain.p, verdict_few(few)),
        "C11 many": (many, excess, low, high, math.nan, verdict_many(many, mixture)),
    }
    rows = {}
    for claim, (draws, *numbers) in found.items():
        row = dict(zip(("estimate", "low", "high", "p", "verdict"), numbers, strict=True)) | {"level": MIXTURE_LEVEL}
        rows[claim, MIXTURE] = row | {"confirmatory": False} | _said(claim, draws=len(draws.sgd["error"]))
    return _frame(rows)


def theorem_ledger(trials: int = 100_000, seed: int = 0) -> pd.DataFrame:
    """C12 and C13 as rows of `ledger`. They are theorems and get no verdict; the rows say how often the bare statements fail.

    The estimate is a share of random pairs ordered by Definition 2: those for which the statement fails, whether or not they
    meet the theorem's condition. Its interval is Clopper and Pearson's. If the statement fails for a pair that meets the
    condition, the verdict is "contradicted".
    """
    drawn = Problems(seed).pairs(trials)
    M1, A1, M2, A2, s, pi = drawn.values()
    rows = {}
    for claim, gain, condition in (
        ("C12", error(M2, A2, s, pi) - error(M1, A1, s, pi), order.theorem1_condition(**drawn)),
        ("C13", advantage(M1, A1, s, pi) - advantage(M2, A2, s, pi), order.theorem2_condition(**drawn)),
    ):
        fails = gain < -1e-12  # rounding
        low, high = (float(end) for end in clopper_pearson(fails.sum(), len(fails), 1 - LEVEL))
        proved = CONTRADICTED if fails[condition].any() else PROVED
        row = {"estimate": float(fails.mean()), "low": low, "high": high, "level": LEVEL, "verdict": proved}
        said = _said(claim, trials=len(fails), failing=fails[condition].sum(), share=condition.mean())
        rows[claim, THEORY] = row | said
    return _frame(rows)


def optimizers_ledger(frames: Frames, dataset: str, about: Mapping[str, Any]) -> pd.DataFrame:
    """C14 as rows of `ledger`: the gains over SGD of each comparable sharpness-aware optimizer other than SAM.

    Each measure is a claim of its own. frames: what `optimizers.measure` returns. about: what `Study.about` says of the runs.
    """
    rows, runs = {}, cost(about) | {"models": sum(about["models"][:2])}  # of SGD and one other
    for (name, measure), row in optimizer_ledger(frames).iterrows():
        if name in SHARPNESS_AWARE and name != "sam":
            rows[f"C14 {measure}", f"{dataset_title(dataset)} with {optimizer_title(name)}"] = {**row, **runs}
    return _frame(rows)


def verdict_few(draws: PairedDraws) -> str:
    """The verdict, one of `VERDICTS`: with few atypical samples, does SAM do better on the atypical cluster?"""
    gain = draws.summary()["atypical_accuracy"]
    return verdict(gain.difference, gain.low, gain.high, 1, LEAST_GAIN)


def verdict_many(draws: PairedDraws, mixture: Mixture) -> str:
    """The verdict on many samples: is the larger excess over the Bayes error at most the yardstick? From its interval alone."""
    _, low, high = draws.excess(mixture)
    return SUPPORTED if high <= YARDSTICK else CONTRADICTED if low > YARDSTICK else INCONCLUSIVE


def bayes_error(mixture: Mixture) -> float:
    """The error of the Bayes rule, by quadrature."""
    return errors(mixture, mixture)["error"]


def _said(claim: str, **numbers: float) -> dict[str, Any]:
    """What a row says of its claim, with these numbers in its statistic."""
    return CLAIMS[claim] | {"statistic": CLAIMS[claim]["statistic"].format(**numbers)}


def _frame(rows: Mapping[tuple[str, str], dict]) -> pd.DataFrame:
    blank = {
        "p": math.nan, "needed": math.nan, "reported": "", "models": 0, "seconds": 0.0, "machine": "",
        "confirmatory": None, "section": "general",
    }  # fmt: skip
    return table({key: blank | row for key, row in rows.items()}, "claim", "dataset")
