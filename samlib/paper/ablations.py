"""Ablations: change one setting at a time, and ask whether test accuracy alone explains an attack's success."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from statistics import mode
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from samlib.audit import Pair, compared
from samlib.experiment import Experiment
from samlib.inference import CONTRADICTED, LEVEL, NO_DIFFERENCE, RELIABLE, SUPPORTED, Effect, mean, verdict
from samlib.paper.draw import gaps
from samlib.paper.frames import Frames, table
from samlib.paper.lengths import common_models
from samlib.paper.optimizers import ACCURACY, AUC, COMPARABLE, TITLES, label, stores, terms, train_losses
from samlib.paper.style import GREEN, GREY, SAM, WIDTH, drawn

MEASURES = (ACCURACY, AUC)
SMALLEST = 0.005  # the difference in AUC at equal accuracy that counts
FEWEST = 6  # settings that a line needs


def measure(pairs: Mapping[tuple[str, Any], Pair]) -> Frames:
    """Measure the gains in each setting, and whether gains in accuracy explain gains in attack success.

    Parameters
    ----------
    pairs : mapping
        Pairs keyed by (field, value), as in `ablation_pairs`.

    Returns
    -------
    dict of DataFrame
        "ablations" (field, value, measure): differences with intervals that hold for all settings at once; `own`, whether the
        value is the recipe's; `comparable`, whether the train losses are within a factor of 2. Values are text.
        "explained": what `explained` returns for the comparable settings. "stores": what was trained.
    """
    named = {(field, label(value)): pair for (field, value), pair in pairs.items()}
    losses, own, rows = train_losses(named, "field", "value"), _recipe(pairs), {}
    each = LEVEL / (len(MEASURES) * len(named))
    for (field, value), pair in named.items():
        about = {"own": own[field] == value, "comparable": bool(losses.loc[(field, value), "comparable"])}
        for of in MEASURES:
            sgd, sam = terms(pair, of)
            rows[field, value, of] = compared(sgd, sam, each) | about
    return {
        "ablations": table(rows, "field", "value", "measure"),
        "explained": explained({key: pair for key, pair in named.items() if losses.loc[key, "comparable"]}),
        "stores": stores(pairs),
    }


def _recipe(pairs: Mapping[tuple[str, Any], Pair]) -> dict[str, str]:
    """The recipe's value of each ablated field: that of settings that change other fields, else the data set's default."""
    settings = [(field, json.loads(pair.sam.attrs["experiment"])) for (field, _), pair in pairs.items()]
    recipe = Experiment(**{key: settings[0][1][key] for key in ("dataset", "model", "optimizer")})
    others = {name: [fields[name] for field, fields in settings if field != name] for name in TITLES}
    return {name: label(mode(values or [getattr(recipe, name)])) for name, values in others.items()}


def explained(pairs: Mapping[tuple[str, Any], Pair]) -> pd.DataFrame:
    """Does test accuracy alone explain attack success? Fit a line to AUC gains over accuracy gains, one point for each setting.

    One row. settings: their number. reliability: that of their accuracy gains. slope: the line's. The fields of
    `inference.Effect`, and the ends low and high: its height at equal accuracy. share: the part of the variance between settings
    that accuracy explains. A setting that several fields share (the recipe) counts once. Changes in the number of models do not
    count. This question is a family of its own. NaN for fewer than `FEWEST` settings, or if noise makes more than half of the
    spread in accuracy.
    """
    several = [pair for (field, _), pair in pairs.items() if field != "n_models"]
    alone = {(pair.sgd.attrs["key"], pair.sam.attrs["key"]): pair for pair in several}
    row = dict.fromkeys(("reliability", "slope", *Effect._fields, "low", "high", "share"), math.nan)
    if len(alone) >= FEWEST:
        several = common_models(list(alone.values()))
        x, y = (np.array([np.subtract(*terms(pair, of)[::-1]) for pair in several]) for of in MEASURES)
        found = line(x, y)
        row["reliability"] = found.reliability
        if found.height:
            low, high = found.height.interval()
            share = np.corrcoef(x.mean((1, 2)), y.mean((1, 2)))[0, 1] ** 2
            row |= found.height._asdict() | {"slope": found.slope, "low": low, "high": high, "share": share}
    return pd.DataFrame([{"settings": len(alone)} | row], dtype=float)


class Line(NamedTuple):
    """A line through settings: its slope, the effect of its height at x = 0, and the reliability of the settings' x.

    If the reliability is below RELIABLE, the slope is NaN and the height is None.
    """

    slope: float
    height: Effect | None
    reliability: float


def line(x: np.ndarray, y: np.ndarray) -> Line:
    """Fit a line of y over x through settings, correcting for the noise of few models and few test points.

    Noise in x flattens a least-squares line and so shifts its height at 0. The height's variance comes from `inference.mean` of
    first-order terms (models, settings). The variance from points that all settings share is added to it.

    Parameters
    ----------
    x : float array (settings, models, tests)
        First-order terms; a setting's x is their mean over models and tests.
    y : float array (settings, models, examples)
        First-order terms; a setting's y is their mean over models and examples.

    Returns
    -------
    Line

    References
    ----------
    Fuller (1987), Measurement Error Models; MacKinnon and White (1985), for HC2.
    """
    noise = mean(x - x.mean(0)).stderr ** 2  # of each setting; noise that settings share moves no slope
    of_models = [each.mean(2) - each.mean((0, 2)) for each in (x, y)]
    shared = np.array([np.cov(a, b)[0, 1] for a, b in zip(*of_models, strict=True)]) / x.shape[1]
    at, up = x.mean((1, 2)), y.mean((1, 2))
    away = at - at.mean()
    spread = (away**2).mean() - noise.mean()
    reliability = float(spread / (away**2).mean()) if away.any() else 0.0
    if reliability < RELIABLE:
        return Line(math.nan, None, reliability)
    slope = ((away * up).mean() - shared.mean()) / spread
    height = up.mean() - slope * at.mean()
    rest, lever = up - height - slope * at, at.mean() / spread

    def moved(dx, dy):
        """How far the height moves if the settings' x and y move by dx and dy."""
        return (dy - slope * dx) * (1 - lever * away[:, None]) - lever * rest[:, None] * dx

    scatter = rest * (1 - lever * away) + lever * (shared - slope * noise)
    scatter = scatter / np.sqrt(1 - away**2 / (away**2).sum())  # a fitted line lies too near to outlying settings (HC2)
    terms = (scatter - scatter.mean())[:, None] + moved(x.mean(2) - at[:, None], y.mean(2) - up[:, None])
    found, n = mean(terms.T), len(at)
    square = found.stderr**2
    total = square + _shared(moved(x.mean(1) - at[:, None], 0)) + _shared(moved(0, y.mean(1) - up[:, None]))
    # A line takes two degrees of freedom.
    df = found.df * (n - 2) / (n - 1) * (total / square) ** 2
    effect = Effect(height, np.sqrt(total), df, found.by_models)
    return Line(float(slope), effect, reliability)


def _shared(terms: np.ndarray) -> float:
    """The variance of a mean over settings that comes from the points they share. terms: (settings, points)."""
    n_settings, n = terms.shape
    common = terms.mean(0)
    rest = ((terms - common) ** 2).sum() / ((n_settings - 1) * (n - 1) * n_settings)
    return max(common.var(ddof=1) - rest, 0.0) / n


def explained_sentence(found: pd.DataFrame) -> str:
    """The answer of "explained" in a sentence."""
    row = found.iloc[0]
    if math.isnan(row.low):
        return (
            f"**Not measurable.** {row.settings:.0f} settings of comparable train loss are too few, or their gains in accuracy "
            "differ by little more than noise."
        )
    no = "No, test accuracy alone does not explain it."
    head = {SUPPORTED: no, CONTRADICTED: no, NO_DIFFERENCE: "At equal test accuracy, no difference that counts."}
    said = head.get(verdict(row.estimate, row.low, row.high, 1, SMALLEST), "Inconclusive.")
    return (
        f"**{said}** Across {row.settings:.0f} settings of comparable train loss, the gain in test accuracy explains "
        f"{row.share:.0%} of the differences in the gain of the attack's AUC (slope {row.slope:+.2f}). At equal test accuracy "
        f"the fitted difference in AUC is {row.estimate:+.4f} ({1 - LEVEL:.0%} interval over settings, models and examples "
        f"{row.low:+.4f} to {row.high:+.4f}; {SMALLEST:g} counts)."
    )


def left_out_sentence(frame: pd.DataFrame, name: str = "SAM") -> str:
    """Which settings "explained" leaves out, from "ablations"."""
    out = frame.index[~frame["comparable"]].droplevel("measure").unique()
    if not len(out):
        return f"In every setting the train losses of SGD and {name} are within a factor of {COMPARABLE}."
    listed = ", ".join(f"{TITLES[field]} {value}" for field, value in out)
    return f"Not comparable, since the train losses of SGD and {name} are more than a factor of {COMPARABLE} apart: {listed}."


@drawn
def ablations(frame: pd.DataFrame, name: str = "SAM"):
    """Gains over SGD in each setting: a column for each field, a row for each measure.

    The marker of the recipe's own value is filled. Grey settings have train losses that are not comparable. A column is wide
    enough for its values and its title.
    """
    fields = [field for field in TITLES if field in frame.index.get_level_values("field")]
    widths = [max(len(frame.loc[field]) // 2 + 2, 6) for field in fields]
    grid: dict[str, Any] = {"sharex": "col", "sharey": "row", "squeeze": False, "width_ratios": widths}
    figure, axes = plt.subplots(len(MEASURES), len(fields), figsize=(WIDTH, 3.9), **grid)
    for column, field in zip(axes.T, fields, strict=True):
        for ax, of in zip(column, MEASURES, strict=True):
            part = frame.xs((field, of), level=("field", "measure"))
            x = np.arange(len(part))
            gaps(ax, x, part, np.where(part["comparable"], SAM, GREY), part["own"])
            ax.grid(axis="y", alpha=0.3)
            ax.set_xlim(-0.6, len(x) - 0.4)
        column[1].set_xticks(x, part.index, rotation=60, fontsize="small")
        column[0].set_title("\n".join(TITLES[field].rsplit(" ", 1)), fontsize="small")
    for ax, of in zip(axes[:, 0], MEASURES, strict=True):
        ax.set_ylabel(f"{of},\n{name} − SGD")
    figure.align_ylabels()
    return figure


@drawn
def gain_against_gain(frame: pd.DataFrame, found: pd.DataFrame, name: str = "SAM"):
    """Each comparable setting's gain in AUC over its gain in test accuracy, and the line of "explained"."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, 3.3))
    gains = frame.loc[frame["comparable"], "difference"].unstack("measure").rename(index=TITLES, level="field")
    gains = gains.drop(TITLES["n_models"], level="field", errors="ignore")
    sns.scatterplot(gains, x=ACCURACY, y=AUC, hue="field", style="field", palette="colorblind", s=36, ax=ax)
    row = found.iloc[0]
    if not math.isnan(row.low):
        ends = np.array([min(gains[ACCURACY].min(), 0), max(gains[ACCURACY].max(), 0)])
        ax.plot(ends, row.slope * ends + row.estimate, color=GREEN, lw=2, label="line of best fit")
        interval = [[row.estimate - row.low], [row.high - row.estimate]]
        ax.errorbar(0, row.estimate, yerr=interval, fmt="D", ms=5, color="black", label="at equal accuracy")
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=GREY, lw=0.8)
    ax.set(xlabel=f"{ACCURACY}, {name} − SGD", ylabel=f"{AUC}, {name} − SGD")
    ax.xaxis.set_major_locator(plt.MaxNLocator(3))  # so that labels of three decimals do not overlap
    ax.legend(title="what was changed", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
