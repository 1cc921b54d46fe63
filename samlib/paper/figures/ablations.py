"""Table 3 and the ablations: many settings beside each other, and SGD and SAM at equal train loss or test accuracy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import patheffects

from samlib.audit import Pair
from samlib.paper.claims.settings import ACCURACY, AUC, TRAIN_LOSS, Explained, Matched, category
from samlib.paper.figures.tables import table
from samlib.paper.study import NO_PART
from samlib.paper.style import GREEN, GREY, SAM, SGD, WIDTH, drawn

TITLES = {
    "rho": "rho",
    "subset_fraction": "subset fraction",
    "weight_decay": "weight decay",
    "epochs": "epochs",
    "n_models": "number of models",
    "norm": "normalization",
    "augment": "augmentation",
}
MARKERS = dict(zip(TITLES, "osD^vPX", strict=True))
COLOURS = dict(zip(TITLES, (SGD, "#E69F00", "#CC79A7", GREEN, GREY, "#56B4E9", "black"), strict=True))


def optimizer_comparison(frame: pd.DataFrame):
    """Table 3, from `claims.settings.optimizer_table`: differences whose interval lies beyond zero in bold."""
    return table(frame.rename(index=str.upper, level="optimizer"), digits=4, name="other")


@drawn
def optimizer_differences(frame: pd.DataFrame):
    """Table 3 as a picture: each optimizer minus SGD in each measure, with 95 % intervals."""
    optimizers, measures = (
        list(dict.fromkeys(frame.index.get_level_values(level))) for level in ("optimizer", "measure")
    )
    y = np.arange(len(optimizers))[::-1]
    figure, axes = plt.subplots(1, len(measures), figsize=(WIDTH, 0.32 * len(optimizers) + 1.0), sharey=True)
    for ax, measure in zip(axes, measures, strict=True):
        part = frame.xs(measure, level="measure").loc[optimizers]
        gap = part["difference"].to_numpy()
        error = np.maximum([gap - part["low"], part["high"] - gap], 0)
        ax.axvline(0, color=GREY, lw=1)
        ax.errorbar(gap, y, xerr=error, fmt="D", ms=4, color="black", lw=1.2)
        ax.set(title=measure, yticks=y, yticklabels=[name.upper() for name in optimizers])
        ax.title.set_fontsize("small")
        ax.tick_params(axis="x", labelsize="x-small", rotation=30)
        ax.grid(axis="x", alpha=0.3)
        ax.xaxis.set_major_locator(plt.MaxNLocator(3))
    figure.supxlabel("difference from SGD", fontsize="medium")
    return figure


@drawn
def ablations(frame: pd.DataFrame, recipe: Mapping[str, Any], name: str = "SAM"):
    """Gains over SGD in each setting: a column for each field, a row for each measure; the recipe's own value is filled.

    frame: `claims.settings.ablation_table`; recipe: the own value of each field. A column is as wide as its values, or its title.
    """
    fields = [field for field in TITLES if field in frame.index.get_level_values("field")]
    widths = {"width_ratios": [max(len(frame.loc[field]) // 2 + 2, 6) for field in fields]}
    figure, axes = plt.subplots(
        2, len(fields), figsize=(WIDTH, 3.9), sharex="col", sharey="row", squeeze=False, gridspec_kw=widths
    )
    for column, field in zip(axes.T, fields, strict=True):
        for ax, measure in zip(column, (ACCURACY, AUC), strict=True):
            part = frame.xs((field, measure), level=("field", "measure"))
            values = part.index.tolist()
            x, gap = np.arange(len(values)), part["difference"].to_numpy()
            error = np.maximum([gap - part["low"], part["high"] - gap], 0)
            ax.axhline(0, color=GREY, lw=1)
            ax.errorbar(x, gap, yerr=error, fmt="none", color=SAM, lw=1.3)
            own = [_same(value, recipe.get(field)) for value in values]
            ax.scatter(x, gap, s=26, zorder=3, ec=SAM, fc=np.where(own, SAM, "white"))
            ax.grid(axis="y", alpha=0.3)
            ax.set_xlim(-0.6, len(x) - 0.4)
        column[1].set_xticks(x, [_label(value) for value in values], rotation=60, fontsize="small")
        column[0].set_title("\n".join(TITLES[field].rsplit(" ", 1)), fontsize="small")
    axes[0, 0].set_ylabel(f"{ACCURACY},\n{name} − SGD")
    axes[1, 0].set_ylabel(f"{AUC},\n{name} − SGD")
    figure.align_ylabels()
    return figure


@drawn
def gain_against_gain(frame: pd.DataFrame, found: Explained, name: str = "SAM"):
    """Each setting's gain in AUC over its gain in test accuracy, and the line of `found`."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, 3.3))
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=GREY, lw=0.8)
    gains = frame["difference"].unstack("measure").drop("n_models", level="field", errors="ignore")
    for field in dict.fromkeys(gains.index.get_level_values("field")):
        part = gains.loc[field]
        style = {"marker": MARKERS[field], "color": COLOURS[field]}
        ax.scatter(part[ACCURACY], part[AUC], s=30, alpha=0.85, lw=0, label=TITLES[field], **style)
    ends = np.array([min(gains[ACCURACY].min(), 0), max(gains[ACCURACY].max(), 0)])
    ax.plot(ends, found.slope * ends + found.intercept, color=GREEN, lw=2, label="line of best fit")
    ax.errorbar(
        0,
        found.intercept,
        yerr=[[max(found.intercept - found.low, 0)], [max(found.high - found.intercept, 0)]],
        fmt="D",
        ms=5,
        color="black",
        label="at equal accuracy",
    )
    ax.set(xlabel=f"{ACCURACY}, {name} − SGD", ylabel=f"{AUC}, {name} − SGD")
    ax.xaxis.set_major_locator(plt.MaxNLocator(4))  # labels of four decimals stand clear of each other
    ax.legend(title="what was changed", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@drawn
def matched_curves(by_loss: Matched, by_accuracy: Matched, name: str = "SAM"):
    """AUC of the confidence attack over train loss and over test accuracy, a point for each number of epochs, joined in order."""
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.1), sharey=True)
    for ax, found, label in zip(axes, (by_loss, by_accuracy), (TRAIN_LOSS, ACCURACY), strict=True):
        for column, colour, who in ((0, SGD, "SGD"), (1, SAM, name)):
            ax.plot(found.x[:, column], found.auc[:, column], "o-", color=colour, label=who)
        ax.set(xlabel=label)
        ax.margins(0.08, 0.14)
        ax.grid(alpha=0.3)
    axes[0].set(xscale="log", ylabel=AUC)
    axes[0].invert_xaxis()
    axes[1].legend(loc="best")
    for ax, found in zip(axes, (by_loss, by_accuracy), strict=True):
        _number(ax, found)
    return figure


PANEL = np.array([270, 170])  # about the size of a panel of `matched_curves`, in points
CLEAR = np.array([10, 8])  # what a number takes up
SIDES = np.array([(0, 9), (0, -9), (11, 0), (-11, 0), (9, 8), (-9, 8), (9, -8), (-9, -8)])


def _number(ax, found: Matched) -> None:
    """Epochs beside the points, each on the first side that is clear of points and other numbers; without one, none."""
    data = np.stack([found.x, found.auc], -1)  # (epochs, 2 optimizers, x and y)
    at = ax.transAxes.inverted().transform(ax.transData.transform(data.reshape(-1, 2))).reshape(data.shape) * PANEL
    taken = list(at.reshape(-1, 2))
    halo = [patheffects.withStroke(linewidth=2, foreground="white")]
    for epochs, values, points in zip(found.epochs, data, at, strict=True):
        for column, colour in enumerate((SGD, SAM)):
            up = points[column, 1] > points[1 - column, 1] or (column == 0 and points[0, 1] == points[1, 1])
            for side in SIDES * (1, 1 if up else -1):  # the higher of two above, the lower below
                place = points[column] + side
                if (np.abs(np.array(taken) - place) >= CLEAR).any(1).all():
                    taken.append(place)
                    ax.annotate(
                        f"{epochs}", values[column], side, textcoords="offset points",
                        fontsize="x-small", ha="center", va="center", color=colour, path_effects=halo,
                    )  # fmt: skip
                    break


def recipe_of(pairs: Mapping[tuple[str, Any], Pair]) -> dict[str, Any]:
    """The value that each ablated field has in the recipe: the one that most settings share."""
    recipes = [json.loads(pair.sam.attrs["experiment"]) for pair in pairs.values()]
    return {name: category(Counter(fields[name] for fields in recipes).most_common(1)[0][0]) for name in TITLES}


def _label(value: Any) -> str:
    value = category(value)
    return value if isinstance(value, str) else f"{value:g}"


def _same(value: Any, own: Any) -> bool:
    return value == own if isinstance(value, str) or own is None else bool(np.isclose(value, own))


def settings_table(pairs: Mapping[Hashable, Pair]):
    """What was trained for a page of many settings: a row for each store, with its accuracies and what its models cost."""
    stores = {}
    for runs in (runs for pair in pairs.values() for runs in pair[:2]):
        known = stores.setdefault(runs.attrs["key"], runs)
        if known.sizes["model"] < runs.sizes["model"]:  # a setting of fewer models shows the first of them
            stores[runs.attrs["key"]] = runs
    rows = {}
    for key, runs in stores.items():
        fields = json.loads(runs.attrs["experiment"])
        without = {name for name, models in NO_PART.items() if fields["model"] in models}
        rows[key] = {
            "model": fields["model"],
            "optimizer": fields["optimizer"],
            **{title: "" if name in without else _label(fields[name]) for name, title in TITLES.items()},
            "diverged": f"{len(runs.attrs['diverged'])}",
            "train accuracy": f"{float(runs.train_accuracy.mean()):.3f}",
            "test accuracy": f"{float(runs.test_accuracy.mean()):.3f}",
            "core seconds": f"{runs.attrs['seconds']:.0f}",
            "machine": ", ".join(runs.attrs["machine"]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").style
