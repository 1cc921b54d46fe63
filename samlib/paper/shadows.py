"""How well attacks do with the first so many of a run's models: each once the target, the others its shadows."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import pandas as pd

from samlib.audit import Pair, attack_scores, compared, usable
from samlib.evaluation import ENOUGH, auc_terms, tpr_terms
from samlib.paper.frames import EACH, Frames, table
from samlib.paper.style import GREY, SAM, SGD, WIDTH, drawn

ATTACKS = ("LiRA offline", "LiRA online", "RMIA offline", "RMIA online", "BASE")
FEWEST = 8
RATE = 0.001
AUC, TPR = "AUC", f"TPR at {RATE:.1%} FPR"


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
        are the AUC, and the TPR at a rate where that allows enough false positives.
    """
    n_models, rows = pair.sgd.sizes["model"], {}
    numbers = [n for n in (FEWEST * 2**i for i in range(30)) if n < n_models] + [n_models]
    for n in numbers:
        first = [runs.isel(model=slice(n)) for runs in pair[:2]]
        if not usable(first[0])[1].size:
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(?s).*are left out")  # of few models, and the page says so
            found = [attack_scores(runs, ATTACKS) for runs in first]
        for attack in ATTACKS:
            (sgd, sam), member = (each.scores[attack] for each in found), found[0].member
            rows[n, attack, AUC] = compared(auc_terms(sgd, member), auc_terms(sam, member), EACH)
            if (~member).sum() * RATE >= ENOUGH:
                rows[n, attack, TPR] = compared(tpr_terms(sgd, member, RATE), tpr_terms(sam, member, RATE), EACH)
    return {"shadows": table(rows, "models", "attack", "measure")}


@drawn
def shadow_curves(shadows: pd.DataFrame, name: str = "SAM"):
    """An attack's AUC and TPR over the number of models, and below how SAM's differ, with simultaneous intervals."""
    measures = [of for of in (AUC, TPR) if of in shadows.index.get_level_values("measure")]
    figure, axes = plt.subplots(2, len(measures), figsize=(WIDTH, 4.4), sharex=True, squeeze=False)
    for (top, below), of in zip(axes.T, measures, strict=True):
        for dash, attack in zip(("-", "--", ":"), ("LiRA online", "RMIA offline", "BASE"), strict=True):
            rows = shadows.xs((attack, of), level=("attack", "measure"))
            for who, colour, label in (("sgd", SGD, "SGD"), ("sam", SAM, name)):
                top.plot(rows.index, rows[who], dash, color=colour, marker="o", ms=3, label=f"{label}, {attack}")
            below.plot(rows.index, rows["difference"], dash, color="black", marker="o", ms=3, label=attack)
            below.fill_between(rows.index, rows["low"], rows["high"], color=GREY, alpha=0.2, lw=0)
        below.axhline(0, color=GREY, lw=1)
        top.set(title=of, xscale="log")
        below.set(xlabel="models of each optimizer")
        below.set_xticks(rows.index, [f"{n}" for n in rows.index], minor=False)
        below.xaxis.set_minor_locator(plt.NullLocator())
        for ax in (top, below):
            ax.grid(alpha=0.3)
    axes[1, 0].set_ylabel(f"{name} − SGD")
    axes[0, -1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    axes[1, -1].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
