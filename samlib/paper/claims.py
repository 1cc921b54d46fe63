"""The claims ledger: what the paper claims, how it is decided here, and what the effects on each data set say about it.

The table, `claims.toml` beside this file, was written before the runs that it decides. A verdict is read from one interval.
The intervals of all rows of a data set hold at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import pandas as pd

from samlib import inference
from samlib.audit import Pair
from samlib.inference import LEVEL as LEVEL
from samlib.inference import RELIABLE, VERDICTS, Effect, verdict
from samlib.paper import frames, values
from samlib.paper.records import provenance

SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE, NOT_MEASURABLE = VERDICTS
SECTIONS = ("membership", "memorization", "influence", "entropy")  # they decide the claims on a single pair
GENERATED = ("subclasses",)  # generated data, which are no evidence about real data
FEASIBLE = 50  # times the models of a run; beyond that, more models are not suggested


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
        A "contrast" is a difference of the optimizers: exchanging them changes its sign. A "pooled" claim treats both alike.
    scale : bool
        Whether the statistic stays the same if all logits of an optimizer are multiplied by a positive number.
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


# The columns of the ledger: those that come from the claim, and those that are measured.
KEPT = ("statistic", "direction", "smallest", "text", "reported", "section", "control")
NUMBERS = ("estimate", "low", "high", "stderr", "p", "reliability", "needed", "grown")
_TABLE = values("claims")
EVERY = tuple(Claim(**row) for row in _TABLE["claim"])
CLAIMS = tuple(
    claim for claim in EVERY if not claim.control
)  # a control, which reviewers ask for, is no row of the ledger


def ledger(pairs: Mapping[str, Pair], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Decide every claim on every data set. Rows at equal train loss take several pairs, and stay open.

    Parameters
    ----------
    pairs : mapping
        From a data set's name to its aligned runs.
    claims : sequence of Claim
        The rows of the ledger.

    Returns
    -------
    DataFrame
        As `ledger_of`.

    Examples
    --------
    >>> ledger({"digits": samlib.audit.align(runs)}).loc[("C1", "digits"), "verdict"]  # doctest: +SKIP
    'supported'
    """
    effects = {dataset: frames.effects(measured(pair)) for dataset, pair in pairs.items()}
    about = {dataset: cost(provenance(pair[:2])) for dataset, pair in pairs.items()}
    return ledger_of(effects, about, claims)


@frames.counted()
def measured(pair: Pair) -> dict[str, Any]:
    """What decides each claim on a pair, from every one of SECTIONS."""
    decided = [import_module(f"samlib.paper.{section}").decided(pair) for section in SECTIONS]
    return {claim: found for each in decided for claim, found in each.items()}


def ledger_of(
    effects: Mapping[str, pd.DataFrame], about: Mapping[str, Mapping], claims: Sequence[Claim] = CLAIMS
) -> pd.DataFrame:
    """The ledger from frames of effects, as sections measure them or records hold them.

    Parameters
    ----------
    effects : mapping
        From a data set's name to its frame of effects (`frames.effects`).
    about : mapping
        From a data set's name to what `cost` says of its runs.

    Returns
    -------
    DataFrame
        Rows (claim, dataset). Columns on the claim: `KEPT`. On the effect: estimate, low, high (the simultaneous interval),
        stderr, level, p, reliability, verdict, tried and needed. tried: whether the claim's section was measured. needed: the
        models of each optimizer that would settle an open row; NaN if only more examples would. On the runs: as `cost`. If the
        runs are too small for a statistic, its numbers are NaN. grown: how many times as many examples an open row takes at
        least.
    """
    rows = []
    for dataset, frame in effects.items():
        for claim, row in zip(claims, decide(frame, claims, about[dataset]["models"] // 2), strict=True):
            rows.append({"claim": claim.id, "dataset": dataset, **row, **about[dataset]})
    return pd.DataFrame(rows).set_index(["claim", "dataset"])


def decide(
    effects: pd.DataFrame, claims: Sequence[Claim], n_models: int, level: float = frames.EACH
) -> list[dict[str, Any]]:
    """The rows of one data set, in the order of `claims`. level: of each interval; by default .05 over the family's size."""
    rows, columns = [], [*Effect._fields, "reliability", "models"]
    wanted = effects.reindex(index=[claim.id for claim in claims], columns=columns)
    for claim, (_, found) in zip(claims, wanted.iterrows(), strict=True):
        row = dict.fromkeys(NUMBERS, math.nan) | {name: getattr(claim, name) for name in KEPT}
        row |= {"level": level, "verdict": NOT_MEASURABLE, "tried": claim.id in effects.index}
        rows.append(row)
        if found[columns[:-1]].isna().any():
            continue
        effect, reliability = Effect(*found[[*Effect._fields]]), found["reliability"]
        own = n_models if math.isnan(found["models"]) else found["models"]  # runs of other lengths may have fewer
        low, high = (float(end) for end in effect.interval(level))
        row |= {"estimate": effect.estimate, "low": low, "high": high, "stderr": effect.stderr, "p": float(effect.p())}
        said = verdict(float(effect.estimate), low, high, claim.direction, claim.smallest)
        if reliability < RELIABLE:
            said, row["needed"] = NOT_MEASURABLE, inference.needed_models(reliability, own, RELIABLE)
        elif said == INCONCLUSIVE:
            row["needed"], row["grown"] = inference.to_decide(effect, claim.smallest, level, own)
        row |= {"reliability": reliability, "verdict": said}
    return rows


def was_asked(row: pd.Series) -> bool:
    """Whether the runs of a row of the ledger were to decide its claim, and were not fixed to decide others.

    Rows at equal train loss take runs of their own, so they count as asked.
    """
    return row.get("tried", True) or not row.get("confirmatory") or row.get("section") == "lengths"


def outlook(row: pd.Series) -> str:
    """Say what would settle a row of the ledger, in one sentence. The text is empty if the row is settled.

    Parameters
    ----------
    row : Series
        A row of `ledger_of`.
    """
    n_models = row["models"] // 2
    if math.isnan(row["estimate"]):
        if not was_asked(row):
            return "This run was fixed to decide other claims."
        small = "These runs are too small to decide it, or their data are not at hand."
        return _TABLE["lacking" if row.get("tried", True) else "untried"].get(row.get("section"), small)
    if row["verdict"] == NOT_MEASURABLE:
        if row["needed"] < 1.05 * n_models:  # rounded, it might be fewer than there are
            enough = "A few more"
        else:
            enough = f"About {_rounded(row['needed'])}" if math.isfinite(row["needed"]) else "No known number of"
        return f"{enough} models of each would make its scores reliable enough."
    if row["verdict"] != INCONCLUSIVE or not n_models:
        return ""
    lead = "It is not zero, but may be too small to count. " if row["low"] * row["high"] > 0 else ""
    if math.isnan(row["needed"]):
        if row["grown"] > FEASIBLE:
            return f"{lead}It lies too near the smallest effect that counts: no feasible number of models or examples settles it."
        return f"{lead}It would take at least {row['grown']:.1f} times as many examples; more models alone do not settle it."
    models = f"{_rounded(row['needed'])} models of each{' length' * (row['section'] == 'lengths')}"
    if row["needed"] > FEASIBLE * n_models:
        return f"{lead}It would take about {models} to settle it, more than can be trained."
    return f"{lead}About {models} would settle it."


def _rounded(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}"


def across_datasets(found: pd.DataFrame, datasets: Sequence[str]) -> pd.DataFrame:
    """Combine each claim over independent data sets: random-effects mean, interval, heterogeneity, and agreement.

    Parameters
    ----------
    found : DataFrame
        A ledger.
    datasets : sequence of str
        Data sets of the ledger with different real data. Rows that are not measurable are left out.

    Returns
    -------
    DataFrame
        Index claim; columns estimate, low, high, tau, i2, datasets (how many), and agree. This is "no" if the claim is supported
        on one data set and contradicted on another. It is "too few are decided" if fewer than two have a verdict, else "yes".
    """
    rows = {}
    for claim, part in found[found.index.get_level_values("dataset").isin(datasets)].groupby("claim", sort=False):
        known = part[part["estimate"].notna() & (part["verdict"] != NOT_MEASURABLE) & (part["stderr"] > 0)]
        line = inference.across(known["estimate"], known["stderr"])
        said = known["verdict"]
        agree = "no" if {SUPPORTED, CONTRADICTED} <= set(said) else "yes"
        if said.isin([SUPPORTED, CONTRADICTED, NO_DIFFERENCE]).sum() < 2:
            agree = "too few are decided"
        rows[claim] = line._asdict() | {"datasets": len(known), "agree": agree}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("claim")


def cost(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ledger's columns on the runs behind a row.

    Parameters
    ----------
    about : mapping
        As `records.provenance` returns it. "live" is False for a record; "fixed" is True for runs that were fixed beforehand.

    Returns
    -------
    dict
        models (of both optimizers), seconds, machine, confirmatory, and source: epochs of training, and "live" or "recorded".
    """
    lengths = sorted({each["epochs"] for each in about["experiments"]})
    length = "".join(f"{epochs} epoch{'s'[: epochs > 1]}, " for epochs in lengths)
    return {
        "models": sum(about["models"]),
        "seconds": about["seconds"],
        "machine": ", ".join(about["machine"]),
        "source": length + ("live" if about.get("live", True) else "recorded"),
        "confirmatory": about.get("fixed", False),
    }


assert len(CLAIMS) == frames.FAMILY, "frames.FAMILY is the number of rows that share the level"
