"""The claims ledger: what the paper claims, how it is decided here, and what the effects of a data set say of it.

The table, `claims.toml` beside this file, was written before the runs that it decides. A verdict is read from one interval,
which holds at the same time for all rows of a data set.
"""

from __future__ import annotations

import math
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from samlib.audit import Pair
from samlib.inference import (
    CONTRADICTED,
    INCONCLUSIVE,
    LEVEL,
    NO_DIFFERENCE,
    NOT_MEASURABLE,
    RELIABLE,
    SUPPORTED,
    VERDICTS,
    Across,
    Effect,
    across,
    models_to_decide,
    needed_models,
    verdict,
)
from samlib.paper.frames import EACH, FAMILY

__all__ = [
    "CLAIMS", "CONTRADICTED", "CONTROLS", "INCONCLUSIVE", "LEVEL", "NOT_MEASURABLE", "NO_DIFFERENCE", "SUPPORTED", "VERDICTS",
    "Claim", "across_datasets", "decide", "ledger", "ledger_of", "sentence", "verdict",
]  # fmt: skip
SECTIONS = ("membership", "memorization", "influence", "entropy")  # those that decide claims of a single pair
FEASIBLE = 50  # times the models that a run has: beyond, more models are no advice


@dataclass(frozen=True)
class Claim:
    """What the paper claims and how it is decided here.

    Attributes
    ----------
    direction : int
        The sign that the claim gives the statistic.
    smallest : float
        The smallest effect that counts.
    section : str
        The module of `samlib.paper` that measures it.
    kind : str
        A "contrast" is a difference of the optimizers: exchanging them turns its sign. In a "pooled" claim both enter alike.
    scale : bool
        Whether the statistic stays the same when all logits of an optimizer are multiplied.
    reported : str
        The paper's numbers, SGD → SAM, second-hand.
    """

    id: str
    text: str
    statistic: str
    direction: int
    smallest: float
    section: str
    kind: Literal["contrast", "pooled"] = "contrast"
    scale: bool = True
    reported: str = ""
    control: bool = False


_TABLE = tomllib.loads(Path(__file__).with_name("claims.toml").read_text())["claim"]
EVERY = tuple(Claim(**row) for row in _TABLE)
CLAIMS = tuple(claim for claim in EVERY if not claim.control)
CONTROLS = tuple(claim for claim in EVERY if claim.control)  # questions that reviewers asked: no rows of the ledger


def ledger(
    pairs: Mapping[str, Pair], claims: Sequence[Claim] = CLAIMS, *, lengths: Mapping[str, Mapping] | None = None
):
    """Decide every claim on every data set.

    Parameters
    ----------
    pairs : mapping
        From a data set's name to its aligned runs.
    claims : sequence of Claim
        The rows of the ledger.
    lengths : mapping, optional
        From a data set's name to pairs of several lengths of training, for the rows at equal train loss.

    Returns
    -------
    DataFrame
        As `ledger_of`.

    Examples
    --------
    >>> ledger({"digits": samlib.audit.align(runs)}).loc[("C1", "digits"), "verdict"]  # doctest: +SKIP
    'supported'
    """
    effects, about = {}, {}
    for dataset, pair in pairs.items():
        parts = measured(pair)
        if lengths and dataset in lengths:
            parts |= import_module("samlib.paper.lengths").decided(lengths[dataset])
        effects[dataset], about[dataset] = import_module("samlib.paper.frames").effects(parts), cost(pair)
    return ledger_of(effects, about, claims)


def measured(pair: Pair) -> dict[str, Any]:
    """What decides each claim of a pair, from every section."""
    found: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*are left out")  # the pages count them
        for section in SECTIONS:
            found |= import_module(f"samlib.paper.{section}").decided(pair)
    return found


def ledger_of(
    effects: Mapping[str, pd.DataFrame], about: Mapping[str, Mapping], claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """The ledger from frames of effects, as sections measure them or records hold them.

    Parameters
    ----------
    effects : mapping
        From a data set's name to its frame of effects (`frames.effects`).
    about : mapping
        From a data set's name to models (of both optimizers together), seconds and machine.

    Returns
    -------
    DataFrame
        Rows (claim, dataset). Columns statistic, estimate, low, high (the simultaneous interval), stderr, level, p, reliability,
        verdict, needed (models of each that would settle it; NaN where only examples would), direction, smallest, text,
        reported, models, seconds, machine. Where the runs are too small for a statistic its numbers are NaN.
    """
    rows = []
    for dataset, frame in effects.items():
        for claim, row in zip(claims, decide(frame, claims, about[dataset]["models"] // 2), strict=True):
            rows.append({"claim": claim.id, "dataset": dataset, **row, **about[dataset]})
    return pd.DataFrame(rows).set_index(["claim", "dataset"])


def decide(effects: pd.DataFrame, claims: Sequence[Claim], n_models: int, level: float = EACH) -> list[dict[str, Any]]:
    """The rows of one data set, in the order of `claims`: `level` is that of each interval, .05 over the size of the family."""
    rows = []
    for claim in claims:
        row = {
            "statistic": claim.statistic,
            "estimate": math.nan,
            "low": math.nan,
            "high": math.nan,
            "stderr": math.nan,
        }
        row |= {"level": level, "p": math.nan, "reliability": math.nan, "verdict": INCONCLUSIVE, "needed": math.nan}
        if claim.id in effects.index and (found := effects.loc[claim.id]).notna().all():
            effect = Effect(*(found[name] for name in Effect._fields))
            low, high = (float(end) for end in effect.interval(level))
            row |= {
                "estimate": effect.estimate,
                "low": low,
                "high": high,
                "stderr": effect.stderr,
                "p": float(effect.p()),
            }
            row["reliability"] = found["reliability"]
            row["verdict"] = verdict(float(effect.estimate), low, high, claim.direction, claim.smallest)
            if found["reliability"] < RELIABLE:
                row["verdict"] = NOT_MEASURABLE
                row["needed"] = needed_models(found["reliability"], n_models, RELIABLE)
            elif row["verdict"] == INCONCLUSIVE:
                row["needed"] = models_to_decide(effect, claim.smallest, level, n_models)
        rows.append(row | {name: getattr(claim, name) for name in ("direction", "smallest", "text", "reported")})
    return rows


def sentence(row: pd.Series) -> str:
    """One sentence on a row of the ledger, for the text under a figure."""
    if math.isnan(row.estimate):
        return f"**Inconclusive.** {row.text} These runs are too small to decide it, or their data not at hand ({row.statistic})."
    text = (
        f"**{row.verdict.capitalize()}.** {row.text} Measured: {row.statistic}, {row.estimate:+.4f} "
        f"({1 - row.level:.2%} interval {row.low:+.4f} to {row.high:+.4f}; smallest effect that counts {row.smallest:g})."
    )
    n_models = row.models // 2
    if row.verdict == NOT_MEASURABLE:
        would = (
            f"about {row.needed:,.0f} would do" if math.isfinite(row.needed) else "nor can it be said how many would do"
        )
        text += f" The scores that it stands on have a reliability of {row.reliability:.2f} with {n_models} models; {would}."
    if row.verdict == INCONCLUSIVE:
        if math.isnan(row.needed):
            text += " More examples, not more models, would settle it."
        elif row.needed > FEASIBLE * n_models:
            text += " No feasible number of models would settle it: it is too near to the smallest effect that counts."
        else:
            text += f" About {row.needed:,.0f} models of each would settle it."
    if row.reported:
        text += f" The paper reports {row.reported}."
    return text


def across_datasets(found: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """One row a claim over independent data sets: the random-effects mean, its interval, heterogeneity, and what agrees.

    Parameters
    ----------
    found : DataFrame
        A ledger.
    datasets : sequence of str
        Columns of it that stand on different real data. Rows that are not measurable are left out.

    Returns
    -------
    DataFrame
        Index claim; columns estimate, low, high, tau, i2, datasets (how many), and agree: "yes", or "no" where the claim is
        supported on one and contradicted on another.
    """
    rows = {}
    for claim, part in found[found.index.get_level_values("dataset").isin(datasets)].groupby("claim", sort=False):
        known = part[part["estimate"].notna() & (part["verdict"] != NOT_MEASURABLE) & (part["stderr"] > 0)]
        line = across(known["estimate"], known["stderr"]) if len(known) > 1 else Across(*[math.nan] * 5)
        said = set(known["verdict"])
        rows[claim] = line._asdict() | {
            "datasets": len(known),
            "agree": "no" if {SUPPORTED, CONTRADICTED} <= said else "yes",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("claim")


def cost(pair: Pair) -> dict[str, Any]:
    """Columns models, seconds and machine of a pair of runs."""
    return {
        "models": 2 * pair.sgd.sizes["model"],
        "seconds": pair.sgd.attrs["seconds"] + pair.sam.attrs["seconds"],
        "machine": ", ".join(sorted({*pair.sgd.attrs["machine"], *pair.sam.attrs["machine"]})),
    }


assert len(CLAIMS) == FAMILY, "frames.FAMILY is the number of rows that share the level"
