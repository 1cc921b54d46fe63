"""Figures of the membership room: Table 1 as a picture, ROC curves on log axes, what members and non-members look like."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import binom

from samlib.audit import Attacked, Pair
from samlib.evaluation import Comparison, roc, vulnerability
from samlib.paper.style import GREY, SAM, SGD, WIDTH, drawn


@drawn
def attack_differences(comparisons: Mapping[str, Comparison], name: str = "SAM"):
    """Table 1 as a picture: each attack's AUC for both optimizers, and the paired difference with its 95 % interval."""
    attacks = list(comparisons)
    y = np.arange(len(attacks))[::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(WIDTH, 0.34 * len(attacks) + 1.1), sharey=True, width_ratios=(1.2, 1)
    )
    for side, colour, label, shift in (("b", SGD, "SGD", 0.12), ("a", SAM, name, -0.12)):
        auc = [getattr(comparisons[attack], side).auc for attack in attacks]
        values = np.array([m.value for m in auc])
        error = np.abs(np.array([[m.low, m.high] for m in auc]).T - values)
        left.errorbar(values, y + shift, xerr=error, fmt="o", ms=5, color=colour, label=label, lw=1.2)
    left.set(yticks=y, yticklabels=attacks, xlabel="AUC")
    left.grid(axis="x", alpha=0.3)
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    gaps = np.array([comparisons[attack].auc for attack in attacks])
    right.axvline(0, color=GREY, lw=1)
    right.errorbar(gaps[:, 0], y, xerr=np.abs(gaps[:, 1:].T - gaps[:, 0]), fmt="D", ms=4, color="black", lw=1.2)
    right.set(xlabel=f"AUC, {name} − SGD")
    right.grid(axis="x", alpha=0.3)
    right.tick_params(axis="y", length=0)
    return figure


@drawn
def roc_curves(sgd: Attacked, sam: Attacked, attacks=("confidence", "LiRA online", "RMIA online"), name: str = "SAM"):
    """ROC curves of some attacks on logarithmic axes, all targets pooled; dotted, guessing."""
    dashes = ["-", "--", "-.", ":"]
    figure, axes = plt.subplots(figsize=(WIDTH * 0.66, WIDTH * 0.56))
    floor = 10.0 / (~sgd.member).sum()  # where ten false positives stand
    for dash, attack in zip(dashes, attacks, strict=False):
        for found, colour, label in ((sgd, SGD, "SGD"), (sam, SAM, name)):
            fpr, tpr = roc(found.scores[attack], found.member)
            shown = fpr >= floor
            grid = np.unique(np.searchsorted(fpr[shown], np.geomspace(floor, 1, 400)).clip(max=shown.sum() - 1))
            axes.plot(fpr[shown][grid], tpr[shown][grid], dash, color=colour, lw=1.5, label=f"{label}, {attack}")
    line = np.geomspace(floor, 1, 50)
    axes.plot(line, line, ":", color=GREY, lw=1, label="guessing")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="false-positive rate",
        ylabel="true-positive rate",
        xlim=(floor, 1),
        ylim=(floor, 1.1),
    )
    axes.legend(fontsize="small", loc="lower right")
    axes.grid(alpha=0.25, which="major")
    return figure


@drawn
def confidence_distributions(pair: Pair):
    """The logit of the true class on members and on non-members, SGD beside SAM, with quartiles of each."""
    member = pair.sgd.member.values
    values = {"SGD": pair.sgd.logit.values, pair.name: pair.sam.logit.values}
    low, high = np.quantile(np.concatenate([v.ravel() for v in values.values()]), [0.0005, 0.9995])
    bins = np.linspace(low, high, 90)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.6), sharex=True, sharey=True)
    for ax, (label, logit), colour in zip(axes, values.items(), (SGD, SAM), strict=True):
        for mask, face, what in ((member, True, "members"), (~member, False, "non-members")):
            kind = {"histtype": "stepfilled", "alpha": 0.45} if face else {"histtype": "step", "lw": 1.6}
            ax.hist(
                np.clip(logit[mask], low, high),
                bins,
                density=True,
                color=colour if face else "black",
                label=what,
                **kind,
            )
        ax.set(title=label, xlabel=r"$\log\,p_y/(1-p_y)$")
        ax.legend(loc="upper left", fontsize="small")
    axes[0].set_ylabel("density")
    return figure


@drawn
def own_rates(sgd: Attacked, sam: Attacked, attack: str = "LiRA online", fpr: float = 0.1, name: str = "SAM"):
    """Each example's own false-positive rate at one pooled threshold; grey, what chance alone would give if all were alike."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.6), sharex=True, sharey=True)
    for ax, found, colour, label in zip(axes, (sgd, sam), (SGD, SAM), ("SGD", name), strict=True):
        own = vulnerability(found.scores[attack], found.member, fpr=fpr)
        bins = np.linspace(0, 1, 21)
        counts = np.unique(own.n_out, return_counts=True)
        pooled = (own.fpr * own.n_out).sum() / own.n_out.sum()
        expected = sum(
            share * np.histogram(np.arange(n + 1) / n, bins, weights=binom.pmf(np.arange(n + 1), n, pooled))[0]
            for n, share in zip(*counts, strict=True)
        ) / len(own.fpr)
        ax.stairs(expected, bins, fill=True, color="0.85", label="chance alone")
        ax.stairs(np.histogram(own.fpr, bins)[0] / len(own.fpr), bins, color=colour, lw=1.7, label=label)
        ax.axvline(pooled, color=GREY, lw=1, ls=":")
        ax.set(
            xlabel="an example's own false-positive rate", title=f"variance {own.dispersion:.1f} times that of chance"
        )
        ax.legend()
    axes[0].set_ylabel("share of examples")
    return figure
