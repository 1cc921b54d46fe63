"""Figures of data whose subclasses are known: how scores lie in each, and where the optimizers differ."""

from __future__ import annotations

import functools
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib.audit import Pair
from samlib.estimators import memorization
from samlib.paper.claims.subclasses import BETWEEN, GROUPS
from samlib.paper.figures.tables import table
from samlib.paper.style import GREY, SAM, SGD, WIDTH, drawn


def _known(function: Callable) -> Callable:
    """Let a function say in a sentence that it shows nothing where the subclasses are not known."""

    @functools.wraps(function)
    def wrapped(first, *args, **kwargs):
        unknown = "subclass" not in first.sgd.coords if isinstance(first, Pair) else first is None
        if unknown:
            return Markdown(
                "*Not shown: nobody knows the subclasses of these data. Those of the data set `subclasses` are known.*"
            )
        return function(first, *args, **kwargs)

    return wrapped


@_known
@drawn
def subclass_densities(pair: Pair, n_bins: int = 24):
    """The share of each subclass at each memorization score, SGD beside SAM: filled, the minority; outlined, the majority."""
    scores = [memorization(runs.correct.values, runs.member.values).value for runs in pair[:2]]
    bins = np.linspace(min(0, *(np.nanmin(s) for s in scores)), 1, n_bins + 1)
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.7), sharex=True, sharey=True)
    for ax, score, colour, label in zip(axes, scores, (SGD, SAM), ("SGD", pair.name), strict=True):
        for code, group in enumerate(GROUPS):
            own = score[(pair.sgd.subclass.values == code) & ~np.isnan(score)]
            style = {"fill": True, "alpha": 0.5} if code else {"lw": 1.5}
            ax.stairs(
                np.histogram(own, bins)[0] / len(own), bins, color=colour if code else "black", label=group, **style
            )
        ax.set(title=label, xlabel="memorization")
        ax.legend(loc="upper center")
    axes[0].set_ylabel("share of the subclass")
    return figure


@_known
@drawn
def subclass_differences(frame: pd.DataFrame, name: str = "SAM"):
    """A table of `claims.subclasses` as a picture: both optimizers in each group on the left, the difference on the right."""
    measures = list(dict.fromkeys(frame.index.get_level_values(0)))
    figure, axes = plt.subplots(
        len(measures),
        2,
        figsize=(WIDTH, 0.95 * len(measures) + 0.6),
        width_ratios=(1.1, 1),
        squeeze=False,
        sharex="col",
    )
    for (left, right), measure in zip(axes, measures, strict=True):
        rows = frame.loc[measure]
        y = -np.arange(len(GROUPS))
        for column, colour, label, shift in (("sgd", SGD, "SGD", 0.17), ("sam", SAM, name, -0.17)):
            left.plot(rows.loc[list(GROUPS), column], y + shift, "o", ms=5, color=colour, label=label)
        left.set(yticks=y, yticklabels=GROUPS, ylim=(-1.6, 0.6))
        left.set_title(measure, loc="left", fontsize="medium")
        at = -np.arange(3) * 0.8
        ends = np.abs(rows[["low", "high"]].to_numpy().T - rows["difference"].to_numpy())
        right.errorbar(rows["difference"], at, xerr=ends, fmt="D", ms=4, color="black", lw=1.2)
        right.axvline(0, color=GREY, lw=1)
        right.set(yticks=at, yticklabels=[*GROUPS, BETWEEN], ylim=(-2.1, 0.5))
        for ax in (left, right):
            ax.grid(axis="x", alpha=0.3)
    axes[-1, 0].legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncols=2)
    axes[-1, 1].set_xlabel(f"{name} − SGD")
    return figure


@_known
def subclass_table(frame: pd.DataFrame, name: str = "SAM"):
    """The same in numbers."""
    return table(frame, digits=4, name=name)


@_known
def subclass_sentences(frame: pd.DataFrame, name: str = "SAM") -> Markdown:
    """One sentence for each measure of a table: in which groups the two optimizers differ, as far as the intervals tell."""
    said = []
    for measure, rows in frame.groupby(level=0, sort=False):
        found = []
        for group, row in rows.droplevel(0).iterrows():
            sign = "higher" if row.low > 0 else "lower" if row.high < 0 else "not told apart"
            where = "in the minority less the majority" if group == BETWEEN else f"in the {group}"
            found.append(f"{sign} {where} ({row.difference:+.4f}, interval {row.low:+.4f} to {row.high:+.4f})")
        said.append(f"**{measure[0].upper()}{measure[1:]}**, {name} against SGD: {', '.join(found)}.")
    return Markdown("\n\n".join(said))
