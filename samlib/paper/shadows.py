"""How well attacks do with the first n models of a run. Each model is the target once; the others are its shadows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from samlib.audit import Pair, attack_scores, compared, usable
from samlib.evaluation import ENOUGH, auc_terms, tpr_terms
from samlib.paper.frames import EACH, Frames, Section, counted, table
from samlib.paper.panels import BOTH, DASHES, label_of, multiples, not_shown, sign, zero
from samlib.paper.style import INK

ATTACKS = ("LiRA offline", "LiRA online", "RMIA offline", "RMIA online", "BASE")
SHOWN = ("LiRA online", "RMIA offline", "BASE")  # of the figure
FEWEST = 8
NEAR = 0.005  # an AUC this near to the AUC with all models counts as reached; the smallest effect of C2
RATE = 0.001
AUC, TPR = "AUC", f"TPR at {RATE:.1%} FPR"


@counted()
def measure(pair: Pair) -> Frames:
    """Attack the first 8, 16, 32, ... models of each optimizer, and all of them.

    Parameters
    ----------
    pair : Pair
        Aligned runs.

    Returns
    -------
    dict of DataFrame
        "shadows" (models, attack, measure): sgd, sam, difference, and the ends low and high of its interval. The measures
        are the AUC and, if there are enough false positives, the TPR at RATE.
    """
    rows, numbers = {}, np.unique(np.minimum(FEWEST * 2 ** np.arange(20), pair.sgd.sizes["model"])).tolist()
    for n in numbers:
        first = [runs.isel(model=slice(n)) for runs in pair[:2]]
        try:
            usable(first[0])
        except ValueError:  # too few models for any example
            continue
        found = [attack_scores(runs, ATTACKS) for runs in first]
        for attack in ATTACKS:
            (sgd, sam), member = (each.scores[attack] for each in found), found[0].member
            rows[n, attack, AUC] = compared(auc_terms(sgd, member), auc_terms(sam, member), EACH)
            if (~member).sum() * RATE >= ENOUGH:
                rows[n, attack, TPR] = compared(tpr_terms(sgd, member, RATE), tpr_terms(sam, member, RATE), EACH)
    return {"shadows": table(rows, "models", "attack", "measure") if rows else pd.DataFrame()}


def shadow_curves(found: Section, measure: str = AUC):
    """A measure of three attacks over the number of models; beside it the difference, with simultaneous intervals."""

    def draw(left, right, rows):
        for attack in SHOWN:
            dash, own = DASHES[attack], rows.xs(attack, level="attack")
            for who, colour in BOTH:
                label = f"{label_of(who, found.name)}, {attack}"
                left.plot(own.index, own[who], dash, color=colour, marker="o", ms=3, label=label)
            right.plot(own.index, own["difference"], dash, color=INK, marker="o", ms=3)
            right.fill_between(own.index, own["low"], own["high"], color=INK, alpha=0.12, lw=0)
        zero(right)
        for ax, label in ((left, measure), (right, f"{found.name} − SGD")):
            ax.set(xscale="log", xlabel="models of each optimizer", ylabel=label)
            ax.grid(alpha=0.3)
            ticks = rows.index.unique("models")[::-2]
            ax.set_xticks(ticks, ticks)
            ax.set_xticks([], minor=True)

    return multiples(_of(found, measure), ["shadows"], draw, columns=2, height=1.8)


def enough(found: Section):
    """A table of the fewest models with which each attack's AUC is near its AUC with all models, for both optimizers."""
    least = {}
    for title, frames in _of(found, AUC).titled().items():
        if len(rows := frames["shadows"]):
            curves = rows[["sgd", "sam"]].unstack("attack")
            near = (~((curves - curves.iloc[-1]).abs() > NEAR)).T.groupby("attack").all().T
            least[title] = {**_stays(near)[list(SHOWN)], "all models": curves.index.max()}
    return pd.DataFrame.from_dict(least, orient="index").map("{:,}".format).style if least else not_shown(found)


def settled(found: Section):
    """A table of who leaks more to each attack by AUC, and from how many models on the answer is the same."""
    answers, who = {}, {1: found.name, -1: "SGD", 0: "neither is shown to"}
    for title, frames in _of(found, AUC).titled().items():
        if len(rows := frames["shadows"]):
            signs = rows.apply(sign, axis=1).unstack("attack")
            last, first = signs.iloc[-1], _stays(signs == signs.iloc[-1])
            answers[title] = {a: f"{who[last[a]]}, from {first[a]:,}" for a in SHOWN}
    return pd.DataFrame.from_dict(answers, orient="index").style if answers else not_shown(found)


def _stays(there: pd.DataFrame) -> pd.Series:
    """The first row from which a column is true to its end."""
    return there[::-1].cummin()[::-1].idxmax()


def _of(found: Section, measure: str) -> Section:
    """The rows of one measure. A data set without them gets an empty frame."""
    parts = {}
    for dataset, frames in found.items():
        rows = frames.get("shadows", pd.DataFrame())
        parts[dataset] = {"shadows": rows.xs(measure, level=-1) if measure in rows.index.unique(-1) else rows[:0]}
    return found.but(parts)
