"""Figures, tables and verdicts of the page on the synthetic mixture (Figure 5, claim C11)."""

from typing import Annotated, Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from samlib import inference
from samlib.paper.draw import BOTH, gaps, panels
from samlib.paper.general import YARDSTICK, bayes_error
from samlib.paper.mixture import measures
from samlib.paper.mixture.fitting import Predictor
from samlib.paper.mixture.measures import LEVEL, PairedDraws
from samlib.paper.mixture.model import BLUE, Mixture
from samlib.paper.panels import listed, sign
from samlib.paper.parameters import Page
from samlib.paper.style import GREY, REFERENCE, SAM, SGD, drawn

RED_CLASS, BLUE_CLASS = "#B8325A", "#5A6FB5"  # as in the explorers; markers distinguish the classes as well
GRID = np.meshgrid(np.linspace(-3.4, 3.6, 281), np.linspace(-2.1, 2.1, 169))
POINTS = np.stack(GRID, -1).reshape(-1, 2)
PLANE = {"aspect": "equal", "xlabel": "$x_1$", "ylabel": "$x_2$"}
NAMES = {
    "error": "test error",
    "atypical_accuracy": "accuracy on the atypical cluster",
    "disagreement": "disagreement with the Bayes rule",
    "advantage": "confidence attacker's advantage",
}
LATER = 0.005  # a yardstick that was set after trial runs, shown beside the first
INTERVAL = f"{1 - LEVEL:.1%} interval"
SIDES = {1: "SAM better", -1: "SGD better", 0: "not settled"}  # by the sign of a row's interval
# Rows of the map that have what is suspected to spoil the gain, and those without it.
UNDONE = {
    "origin = -0.5": "origin, small penalty = -0.5",
    "origin = 1.5": "origin, small penalty = 1.5",
    "batch size = 1": "batch size 1, steps = 10,000",
    "32 ReLU units, batch size = 4": "32 ReLU units, batch size = 82",
}

_Draws = Annotated[int, Field(ge=2, le=100_000)]


class Parameters(Page):
    """The page's parameters: `n_draws`, the draws that test the claim; `map_draws`, the draws for each setting of the map."""

    profiles: ClassVar = {"smoke": {"n_draws": 12, "map_draws": 4}, "paper": {"n_draws": 400, "map_draws": 100}}
    rho: Annotated[float, Field(gt=0, le=100)] = 1.0
    n_typical: Annotated[int, Field(ge=1, le=100_000)] = 40
    n_atypical: Annotated[int, Field(ge=0, le=100_000)] = 2
    n_blue: Annotated[int, Field(ge=1, le=100_000)] = 40
    n_draws: _Draws = 60
    map_draws: _Draws = 20


@drawn
def density(mixture: Mixture) -> Figure:
    """Figure 5 (a): contours of both classes' densities with the Bayes boundary.

    Parameters
    ----------
    mixture : Mixture
        The population.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (axes,) = panels(1, 4.5, subplot_kw=PLANE)
    density, levels = mixture.density(POINTS).T, [0.02, 0.05, 0.1, 0.2, 0.4, 0.8]
    for values, name, colour, style in zip(density, ("red", "blue"), (RED_CLASS, BLUE_CLASS), ("-", "--"), strict=True):
        _contour(axes, values / values.max(), levels, f"{name} class", colour, style, 1.3)
    _contour(axes, mixture.decision(POINTS), [0], "Bayes boundary", REFERENCE, "-")
    for name, (mean, _), up in zip(("typical", "atypical", "blue"), mixture.clusters, (1.62, 1.1, 1.68), strict=True):
        box = {"fc": "white", "ec": "none", "pad": 1}
        axes.annotate(name, np.add(mean, [0, up]), ha="center", fontsize=10, bbox=box)
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


@drawn
def boundaries(mixture: Mixture, draw, fits: dict[str, Predictor]) -> Figure:
    """Figure 5 (b), (c): one draw (x, y, atypical) with the boundaries of `fits` ("SGD", "SAM") and of the Bayes rule.

    Parameters
    ----------
    mixture : Mixture
        The population.
    draw : (x, y, atypical)
        One draw, as `Mixture.sample` returns it.
    fits : dict of str to Predictor
        "SGD" and "SAM", fitted to the draw.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (axes,) = panels(1, 4.5, subplot_kw=PLANE)
    points, y, atypical = draw
    scale = 0.14 if len(points) > 400 else 1
    for rows, marker, colour, label, size in (
        ((y == 1) & ~atypical, "o", RED_CLASS, "red, typical", 22),
        (y == BLUE, "^", BLUE_CLASS, "blue", 22),
        (atypical, "+", RED_CLASS, "red, atypical", 110),
    ):
        width = 2.2 * scale**0.4 if marker == "+" else 0
        x1, x2 = points[rows].T
        axes.scatter(x1, x2, size * scale, marker=marker, color=colour, label=label, lw=width, zorder=2)
    looks = {name: (fit, *BOTH[name][:2]) for name, fit in fits.items()} | {"Bayes": (mixture, REFERENCE, ":")}
    for name, (rule, colour, style) in looks.items():
        _contour(axes, rule.decision(POINTS), [0], name, colour, style)
    figure.legend(loc="outside upper center", ncols=6, fontsize=9)
    return figure


@drawn
def remembered(frame: pd.DataFrame) -> Figure:
    """The points of one draw under both optimizers: darker ones are memorized more, larger ones more exposed to LiRA.

    Parameters
    ----------
    frame : DataFrame
        What `samlib.widgets.MemorizationExplorer.frame` returns.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, both = panels(2, 2.7, sharey=True)
    colours = frame["cluster"].map({"typical": RED_CLASS, "atypical": RED_CLASS, "blue": BLUE_CLASS})
    for axes, (name, part) in zip(both, frame.groupby("optimizer", sort=False), strict=True):
        colour, size = colours[part.index], (3 + 20 * (part["exposure"] - 0.5).clip(0)) ** 2
        rare = part["cluster"] == "atypical"
        axes.scatter(part["x1"], part["x2"], size, fc="none", ec=colour, lw=np.where(rare, 2, 0.8))
        axes.scatter(part["x1"], part["x2"], size, color=colour, alpha=part["memorization"].clip(0, 1), lw=0)
        axes.set(title=name, **PLANE)
    return figure


def describe(mixture: Mixture, draw, fits: dict[str, Predictor]) -> str:
    """A sentence on one draw: both fits' errors, and the share of the population on which they differ.

    Parameters
    ----------
    mixture, draw, fits
        As for `boundaries`.

    Returns
    -------
    str
    """
    said = [
        f"{name} errs on {found['error']:.1%} and recognizes {found['atypical_accuracy']:.0%} of the atypical cluster"
        for name, found in ((name, measures.errors(fit, mixture)) for name, fit in fits.items())
    ]
    apart, (_, y, atypical) = measures.mass_apart(fits["SGD"], fits["SAM"], mixture), draw
    red, blue = f"{np.sum(y == 1) - atypical.sum()} typical and {atypical.sum()} atypical", np.sum(y == BLUE)
    whole = f"This draw has {red} red samples and {blue} blue ones. Here {'; '.join(said)}."
    return f"{whole} They differ on {apart:.1%} of the population."


def comparison(draws: PairedDraws) -> pd.DataFrame:
    """A row for each measure: both means, the difference with its interval, paired t and p.

    Parameters
    ----------
    draws : PairedDraws

    Returns
    -------
    pandas.DataFrame
    """
    tests = draws.summary().T.rename(NAMES)
    looks = {"SGD": ("sgd", "{:.4f}"), "SAM": ("sam", "{:.4f}"), "SAM - SGD": ("difference", "{:+.4f}")}
    table = {title: tests[name].map(look.format) for title, (name, look) in looks.items()}
    table |= {INTERVAL: tests.apply(_interval, axis=1), "paired t": tests["t"].map("{:.1f}".format)}
    p = tests["p"].map("{:.1g}".format).str.replace("-", "\N{MINUS SIGN}")  # no line break inside a narrow column
    return pd.DataFrame(table | {"p": p})


@drawn
def excess(curve: dict[int, PairedDraws], mixture: Mixture, rho: float) -> Figure:
    """The test error's excess over the Bayes error, by number of samples: its limits (dashed) and both yardsticks (dotted).

    Parameters
    ----------
    curve : dict of int to PairedDraws
        From the number of samples in a draw to the draws.
    mixture : Mixture
        The population.
    rho : float
        SAM's radius.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (axes,) = panels(1, 3.6)
    for (name, (colour, _, marker)), radius, by in zip(BOTH.items(), (0, rho), (0.97, 1.03), strict=True):
        errors = np.stack([getattr(draws, name.lower())["error"] for draws in curve.values()])
        found = inference.mean(errors[..., None] - bayes_error(mixture))
        place, reach = np.multiply(list(curve), by), found.interval(LEVEL / 2)[1] - found.estimate
        axes.errorbar(place, found.estimate, reach, color=colour, marker=marker, capsize=2, label=name)
        axes.axhline(measures.population_fit(mixture, rho=radius), color=colour, lw=1, ls="--")
    for value, text in ((YARDSTICK, "fixed first"), (LATER, "set after trials")):
        axes.axhline(value, color=GREY, lw=1, ls=":")
        at, said = (1.01, value), f"{value:g},\n{text}"
        axes.annotate(said, at, xycoords=("axes fraction", "data"), va="center", fontsize=9, color=GREY)
    axes.set(xscale="log", xlabel="samples in a draw, in the population's proportions", ylim=(0, None))
    axes.set_ylabel("test error less the Bayes rule's")
    axes.legend()
    return figure


@drawn
def by_count(results: dict[int, PairedDraws]) -> Figure:
    """Accuracy on the atypical cluster by number of atypical samples (left), and the paired difference (right).

    Parameters
    ----------
    results : dict of int to PairedDraws
        From the number of atypical samples in a draw to the draws.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (left, right) = panels(2)
    counts = [str(n) for n in results]
    tests = pd.DataFrame([draws.summary()["atypical_accuracy"] for draws in results.values()])
    for name, (colour, style, marker) in BOTH.items():
        left.plot(counts, tests[name.lower()], color=colour, marker=marker, ls=style, lw=1.8, label=name)
    left.legend()
    gaps(right, counts, tests, REFERENCE)
    for axes, label in ((left, NAMES["atypical_accuracy"]), (right, f"SAM - SGD, {INTERVAL}")):
        axes.set(xlabel="atypical samples in the draw", ylabel=label)
    return figure


@drawn
def failures(rows: pd.DataFrame) -> Figure:
    """Where the effect holds: SAM - SGD on the atypical cluster with its interval, a row for each setting of `failure_map`.

    Parameters
    ----------
    rows : DataFrame
        What `failure_map` returns.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (axes,) = panels(1, 0.2 * len(rows) + 2.2)
    tests, names, groups = rows["atypical_accuracy"], named(rows), rows.index.get_level_values("group")
    place = np.arange(len(rows)) + 0.7 * (groups != np.roll(groups, 1)).cumsum()  # a gap before each group
    sides = tests.apply(sign, axis=1)
    for side, colour in ((1, SAM), (-1, SGD), (0, REFERENCE)):
        which, label = sides == side, f"{SIDES[side]}{', interval clear of 0' * abs(side)}"
        gaps(axes, place[which], tests[which], colour, which[which] & (side != 0), across=True)
        axes.plot([], [], "o-", color=colour, mfc=colour if side else "white", label=label)
    axes.set_yticks(place, names, fontsize=8.5)
    axes.invert_yaxis()
    # A few rows lie so far out that the others would be specks: the picture ends before, and says in words where those are.
    wide = 10 * np.median(np.abs(tests[["low", "high"]]))
    axes.set_xlim(*np.clip(axes.get_xlim(), -wide, wide))
    edge: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "bottom", "fontsize": 8.5}
    for at, row in zip(place, tests.itertuples(), strict=True):
        said = f"{row.difference:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
        if row.difference < -wide:
            axes.text(0.01, at, f"← {said}", **edge)
        elif row.difference > wide:
            axes.text(0.99, at, f"{said} →", ha="right", **edge)
        for x, beyond, mark in ((0, row.low < -wide, "<"), (1, row.high > wide, ">")):
            if beyond:
                axes.plot(x, at, mark, transform=axes.get_yaxis_transform(), color=REFERENCE, ms=5, clip_on=False)
    axes.set_xlabel(f"SAM - SGD: {NAMES['atypical_accuracy']}, {INTERVAL}")
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    return figure


def failure_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The map of `failures` as a table: differences of all measures, and the paired t of the atypical accuracy.

    Parameters
    ----------
    rows : DataFrame
        What `failure_map` returns.

    Returns
    -------
    pandas.DataFrame
    """
    table = {title: rows[name, "difference"].map("{:+.4f}".format) for name, title in NAMES.items()}
    table["paired t (atypical)"] = rows["atypical_accuracy", "t"].map("{:.1f}".format)
    values = [(group, f"{setting:,g}") for group, setting in rows.index]
    return pd.DataFrame(table).set_axis(pd.MultiIndex.from_tuples(values, names=["what varies", "value"]))


def named(rows: pd.DataFrame) -> list[str]:
    """The names of the rows of `failure_map`."""
    return [f"{group} = {setting:,g}" for group, setting in rows.index]


def summary(few: PairedDraws, rows: pd.DataFrame, mixture: Mixture, rho: float) -> str:
    """What the cards of C11 leave out. The runs give every number and every outcome in it.

    Parameters
    ----------
    few : PairedDraws
        Draws with few samples.
    rows : DataFrame
        What `failure_map` returns.
    mixture : Mixture
        The population.
    rho : float
        SAM's radius.

    Returns
    -------
    str
    """
    leak = few.summary()["advantage"]
    sides = rows["atypical_accuracy"].apply(sign, axis=1).set_axis(named(rows))
    worse, better = sides.index[sides < 0], (sides > 0).sum()
    stays = [measures.population_fit(mixture, rho=radius) for radius in (0, rho)]
    above = [name for name, excess in zip(BOTH, stays, strict=True) if excess > YARDSTICK]
    short = f": no number of samples brings {listed(above)} to the yardstick of {YARDSTICK:g}" if above else ""
    return f"""\
**Many samples.** The excess is the error less the Bayes rule's. With the whole population as training data,
{stays[0]:.4f} of SGD's excess stays, and {stays[1]:.4f} of SAM's{short}.

**Map.** Of {len(rows)} rows SAM is better on the atypical cluster in {better}, worse in {len(worse)}, and
{len(rows) - better - len(worse)} are not settled at this number of draws. Worse: {"; ".join(worse) or "none"}.

**Leakage.** On these two-dimensional draws the confidence attacker's advantage changes by {leak.difference:+.4f}
({_interval(leak)}): {"a difference" if sign(leak) else "no difference"} that the draws
can show. The model is far too small to interpolate, so this is not the regime of the theory."""


def causes(rows: pd.DataFrame) -> str:
    """Rows with a suspected cause beside those without it, so that a reader sees whether the loss of the gain goes with it.

    Parameters
    ----------
    rows : DataFrame
        What `failure_map` returns.

    Returns
    -------
    str
    """
    said = {}
    for name, (_, row) in zip(named(rows), rows["atypical_accuracy"].iterrows(), strict=True):
        said[name] = f"*{name}*, {row['difference']:+.4f} ({_interval(row)}), {SIDES[sign(row)]}"
    return "\n".join(f"- {said[row]}; {said[without]}." for row, without in UNDONE.items())


def _interval(test: pd.Series) -> str:
    return f"{test['low']:+.4f} to {test['high']:+.4f}"


def _contour(axes, values, levels, label: str, colour: str, style: str, width: float = 2.2) -> None:
    """Level lines of values on `GRID`, with an entry in the legend."""
    axes.plot([], [], color=colour, ls=style, lw=2, label=label)
    if values.min() < max(levels) < values.max():
        values = values.reshape(GRID[0].shape)
        axes.contour(*GRID, values, levels, colors=colour, linestyles=style, linewidths=width, zorder=3)
