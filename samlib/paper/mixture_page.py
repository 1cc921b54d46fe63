"""Figures, tables and verdicts of the page on the synthetic mixture (Figure 5, claim C11)."""

from typing import Annotated, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from samlib.paper.general import YARDSTICK, bayes_error, verdict_few, verdict_many
from samlib.paper.mixture import (
    BLUE,
    LEVEL,
    Mixture,
    PairedDraws,
    PairedTest,
    Predictor,
    errors,
    mass_apart,
    mean_interval,
    population_fit,
)
from samlib.paper.style import GREY, REFERENCE, SAM, SGD, drawn

RED_CLASS, BLUE_CLASS = "#CC79A7", "#56B4E9"  # told apart by markers as well
WINDOW = ((-3.4, 3.6), (-2.1, 2.1))
NAMES = {
    "error": "test error",
    "atypical_accuracy": "accuracy on the atypical cluster",
    "disagreement": "disagreement with the Bayes rule",
    "advantage": "confidence attacker's advantage",
}
PROFILES = {
    "smoke": (12, 4),
    "quick": (60, 20),
    "standard": (60, 20),
    "paper": (400, 100),
}  # draws of the claim, and of each setting of the map
LATER = 0.005  # a yardstick that was set after trial runs, shown beside the first
INTERVAL = f"{1 - LEVEL:.1%} interval"

_Count = Annotated[int, Field(ge=0, le=100_000)]
_Some = Annotated[int, Field(ge=1, le=100_000)]
_Draws = Annotated[int, Field(ge=2, le=100_000)]


class Parameters(BaseModel):
    """The page's parameters; a number of draws that is None takes the profile's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: Literal["smoke", "quick", "standard", "paper"] = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    rho: Annotated[float, Field(gt=0, le=100)] = 1.0
    n_typical: _Some = 40
    n_atypical: _Count = 2
    n_blue: _Some = 40
    n_draws: _Draws | None = None
    map_draws: _Draws | None = None

    def model_post_init(self, _) -> None:
        for name, value in zip(("n_draws", "map_draws"), PROFILES[self.profile], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


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
    figure, axes = _panel()
    x, grid = _grid()
    levels = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8])
    for values, colour, style in zip(mixture.density(x).T, (RED_CLASS, BLUE_CLASS), ("-", "--"), strict=True):
        values = values.reshape(grid[0].shape) / values.max()
        axes.contour(*grid, values, levels, colors=colour, linewidths=1.3, linestyles=style)
    _boundary(axes, mixture, REFERENCE, "-")
    lines = {"red class": (RED_CLASS, "-"), "blue class": (BLUE_CLASS, "--"), "Bayes boundary": (REFERENCE, "-")}
    axes.legend(_lines(lines.values()), lines, loc="lower left", fontsize=9)
    for name, (mean, _), up in zip(("typical", "atypical", "blue"), mixture.clusters, (1.62, 1.1, 1.68), strict=True):
        axes.annotate(
            name, np.add(mean, [0, up]), ha="center", fontsize=10, bbox={"fc": "white", "ec": "none", "pad": 1}
        )
    return figure


@drawn
def boundaries(mixture: Mixture, draw, fits: dict[str, Predictor]) -> Figure:
    """Figure 5 (b), (c): one draw (x, y, atypical) with the boundaries of `fits` ("SGD", "SAM") and of the Bayes rule.

    Parameters
    ----------
    mixture : Mixture
        The population.
    draw : (x, y, atypical)
        One draw, as of `Mixture.sample`.
    fits : dict of str to Predictor
        "SGD" and "SAM", fitted to the draw.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = _panel()
    points, y, atypical = draw
    small = len(points) > 400
    for rows, marker, colour, label, size in (
        ((y == 1) & ~atypical, "o", RED_CLASS, "red, typical", 3 if small else 22),
        (y == BLUE, "^", BLUE_CLASS, "blue", 3 if small else 22),
        (atypical, "+", "#8B1A5B", "red, atypical", 14 if small else 110),
    ):
        width = (1.0 if small else 2.2) if marker == "+" else 0
        axes.scatter(*points[rows].T, s=size, marker=marker, color=colour, label=label, lw=width, zorder=2)
    lines = {"Bayes": (REFERENCE, ":")} | dict(zip(fits, ((SGD, "--"), (SAM, "-")), strict=True))
    for rule, style in zip((mixture, *fits.values()), lines.values(), strict=True):
        _boundary(axes, rule, *style)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend([*handles, *_lines(lines.values())], [*labels, *lines], loc="lower left", ncols=2, fontsize=9)
    return figure


def describe(mixture: Mixture, draw, fits: dict[str, Predictor]) -> str:
    """A sentence on one draw: both fits' errors, and the share of the population on which they differ.

    Parameters
    ----------
    mixture : Mixture
        The population.
    draw : (x, y, atypical)
        One draw, as of `Mixture.sample`.
    fits : dict of str to Predictor
        "SGD" and "SAM", fitted to the draw.

    Returns
    -------
    str
    """
    said = {name: errors(fit, mixture) for name, fit in fits.items()}
    parts = [
        f"{name} errs on {value['error']:.1%} and recognizes {value['atypical_accuracy']:.0%} of the atypical cluster"
        for name, value in said.items()
    ]
    first, second = fits.values()
    apart, atypical = mass_apart(first, second, mixture), int(draw[2].sum())
    return f"In this draw with {atypical} atypical samples {'; '.join(parts)}. They differ on {apart:.1%} of the population."


def comparison(draws: PairedDraws) -> pd.DataFrame:
    """A row for each measure: both means, the difference with its interval, paired t and p.

    Parameters
    ----------
    draws : PairedDraws

    Returns
    -------
    pandas.DataFrame
    """
    rows = {
        NAMES[name]: {
            "SGD": f"{test.sgd:.4f}",
            "SAM": f"{test.sam:.4f}",
            "SAM - SGD": f"{test.difference:+.4f}",
            INTERVAL: f"{test.low:+.4f} to {test.high:+.4f}",
            "paired t": f"{test.t:.1f}",
            "p": f"{test.p:.1g}".replace("-", "\N{MINUS SIGN}"),  # no line break inside a narrow column
        }
        for name, test in draws.summary().items()
    }
    return pd.DataFrame(rows).T


def coincidence(draws: PairedDraws, mixture: Mixture, rho: float) -> pd.DataFrame:
    """Both optimizers' excess over the Bayes error on draws with many samples, and the part that more samples would leave.

    Parameters
    ----------
    draws : PairedDraws
    mixture : Mixture
        The population.
    rho : float
        SAM's radius.

    Returns
    -------
    pandas.DataFrame
    """
    bayes, rows = bayes_error(mixture), {}
    for name, part, radius in (("SGD", draws.sgd, 0.0), ("SAM", draws.sam, rho)):
        excess, low, high = mean_interval(part["error"] - bayes, LEVEL / 2)
        limit = population_fit(mixture, rho=radius)
        rows[name] = {
            "excess over the Bayes error": f"{excess:.4f}",
            f"{1 - LEVEL / 2:.2%} interval": f"{low:.4f} to {high:.4f}",
            "with the whole population": f"{limit:.4f}",
            "excess over that": f"{excess - limit:+.4f}",
        }
    return pd.DataFrame(rows).T


@drawn
def excess(curve: dict[int, PairedDraws], mixture: Mixture, rho: float) -> Figure:
    """The excess over the Bayes error over the number of samples, its limits (dashed), and both yardsticks (dotted).

    Parameters
    ----------
    curve : dict of int to PairedDraws
        By the number of samples in a draw.
    mixture : Mixture
        The population.
    rho : float
        SAM's radius.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(7.2, 3.6))
    bayes, shift = bayes_error(mixture), (0.97, 1.03)
    for name, colour, marker, radius, by in zip(("sgd", "sam"), (SGD, SAM), "os", (0.0, rho), shift, strict=True):
        found = [mean_interval(getattr(draws, name)["error"] - bayes, LEVEL / 2) for draws in curve.values()]
        mean, low, high = np.transpose(found)
        place, ends = np.multiply(list(curve), by), (mean - low, high - mean)
        axes.errorbar(place, mean, ends, color=colour, marker=marker, capsize=2, label=name.upper())
        axes.axhline(population_fit(mixture, rho=radius), color=colour, lw=1, ls="--")
    for value, text in ((YARDSTICK, "fixed first"), (LATER, "set after trials")):
        axes.axhline(value, color=GREY, lw=1, ls=":")
        at = (1.01, value)
        axes.annotate(f"{value:g}, {text}", at, xycoords=("axes fraction", "data"), va="center", fontsize=9, color=GREY)
    axes.set(xscale="log", xlabel="samples in a draw, in the population's proportions", ylim=(0, None))
    axes.set_ylabel("test error less the Bayes rule's")
    axes.legend()
    return figure


@drawn
def by_count(results: dict[int, PairedDraws]) -> Figure:
    """Over the number of atypical samples: both accuracies on the atypical cluster (left), their paired difference (right).

    Parameters
    ----------
    results : dict of int to PairedDraws
        By the number of atypical samples in a draw.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3))
    place, tests = np.arange(len(results)), [result.summary()["atypical_accuracy"] for result in results.values()]
    for which, colour, marker, style in (("sgd", SGD, "o", "--"), ("sam", SAM, "s", "-")):
        mean = [getattr(test, which) for test in tests]
        left.plot(place, mean, color=colour, marker=marker, ls=style, lw=1.8, label=which.upper())
    left.set_ylabel(NAMES["atypical_accuracy"])
    left.legend()
    right.vlines(place, [test.low for test in tests], [test.high for test in tests], color=REFERENCE, lw=2)
    right.plot(place, [test.difference for test in tests], "o", color=REFERENCE)
    right.axhline(0, color=REFERENCE, lw=0.8)
    right.set_ylabel(f"SAM - SGD, {INTERVAL}")
    for axes in (left, right):
        axes.set_xticks(place, [str(n) for n in results])
        axes.set_xlabel("atypical samples in the draw")
    return figure


@drawn
def failures(rows: list[dict], measure: str = "atypical_accuracy") -> Figure:
    """The map of where the effect holds: SAM - SGD with its interval, a row for each setting of `failure_map`.

    Parameters
    ----------
    rows : list of dict
        As of `failure_map`.
    measure : str
        A key of `NAMES`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(figsize=(7.2, 0.2 * len(rows) + 2.2))
    groups = pd.Series([row["group"] for row in rows])
    place = np.arange(len(rows)) + 0.7 * (groups != groups.shift()).cumsum()  # a gap before each group
    for at, row in zip(place, rows, strict=True):
        test = row[measure]
        worse, clear = test.difference * (1 if measure == "atypical_accuracy" else -1) < 0, test.low * test.high > 0
        colour = REFERENCE if not clear else SGD if worse else SAM
        axes.plot([test.low, test.high], [at, at], color=colour, lw=2)
        axes.plot(test.difference, at, "v" if worse else "^", color=colour, mfc=colour if clear else "white", ms=6)
    axes.axvline(0, color=REFERENCE, lw=0.8)
    axes.set_yticks(place, [f"{row['group']} = {row['setting']}" for row in rows], fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlim(*np.clip(axes.get_xlim(), -1, 1))  # of 2 draws an interval may be longer than any difference
    axes.set_xlabel(f"SAM - SGD: {NAMES[measure]}, {INTERVAL}")
    handles = [
        plt.Line2D([], [], color=SAM, marker="^", lw=2), plt.Line2D([], [], color=SGD, marker="v", lw=2),
        plt.Line2D([], [], color=REFERENCE, marker="^", mfc="white", lw=2),
    ]  # fmt: skip
    labels = ["SAM better, interval clear of 0", "SGD better, interval clear of 0", "not settled"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def failure_table(rows: list[dict]) -> pd.DataFrame:
    """The same map as numbers: differences of all measures, with the paired t of the atypical accuracy.

    Parameters
    ----------
    rows : list of dict
        As of `failure_map`.

    Returns
    -------
    pandas.DataFrame
    """
    table = [
        {"what varies": row["group"], "value": f"{row['setting']:g}"}
        | {NAMES[name]: f"{row[name].difference:+.4f}" for name in NAMES}
        | {"paired t (atypical)": f"{row['atypical_accuracy'].t:.1f}"}
        for row in rows
    ]
    return pd.DataFrame(table).set_index(["what varies", "value"])


def summary(few: PairedDraws, many: PairedDraws, rows: list[dict], mixture: Mixture) -> str:
    """The page's conclusion, every number and word of it from the runs.

    Parameters
    ----------
    few, many : PairedDraws
        Draws with few and with many samples.
    rows : list of dict
        As of `failure_map`.
    mixture : Mixture
        The population.

    Returns
    -------
    str
    """
    first, both, (excess, low, high) = few.summary(), many.summary(), many.excess(mixture)
    gain, error, leak = (first[name] for name in ("atypical_accuracy", "error", "advantage"))
    worse = [row for row in rows if row["atypical_accuracy"].high < 0]
    better = sum(row["atypical_accuracy"].low > 0 for row in rows)
    where = "; ".join(f"{row['group']} = {row['setting']}" for row in worse) or "none"
    return f"""\
**C11, few atypical samples: {verdict_few(few)}.** Over {len(few.sgd["error"])} paired draws SAM's accuracy on the atypical
cluster differs by {points(gain)}, paired t = {gain.t:.1f}, p = {gain.p:.1g}; its test error by {points(error)}.

**C11, many atypical samples: {verdict_many(many, mixture)}.** SGD errs on {both["error"].sgd:.2%}, SAM on
{both["error"].sam:.2%}, and the Bayes rule on {bayes_error(mixture):.2%}. The larger excess is {excess:.4f}
({INTERVAL} {low:.4f} to {high:.4f}); {YARDSTICK:g} was fixed beforehand as what "coincide" means. SAM and SGD differ by
{points(both["error"])}, on the atypical cluster alone by {points(both["atypical_accuracy"])}.

**Map.** Of {len(rows)} settings SAM is better on the atypical cluster in {better}, worse in {len(worse)}, and
{len(rows) - better - len(worse)} are not settled at this number of draws. Worse: {where}.

**Leakage.** On these two-dimensional draws the confidence attacker's advantage changes by {leak.difference:+.4f}
({leak.low:+.4f} to {leak.high:+.4f}): {"no difference" if leak.low <= 0 <= leak.high else "a difference"} that the draws
can show. The model is far too small to interpolate, so this is not the regime of the theory."""


def points(test: PairedTest) -> str:
    """A `PairedTest` of shares in percentage points, with its interval."""
    return f"{100 * test.difference:+.2f} points ({INTERVAL} {100 * test.low:+.2f} to {100 * test.high:+.2f})"


def _panel():
    figure, axes = plt.subplots(figsize=(7.2, 4.5))
    axes.set(xlim=WINDOW[0], ylim=WINDOW[1], aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    return figure, axes


def _grid():
    grid = np.meshgrid(np.linspace(*WINDOW[0], 281), np.linspace(*WINDOW[1], 169))
    return np.stack(grid, -1).reshape(-1, 2), grid


def _boundary(axes, rule, colour, style) -> None:
    x, grid = _grid()
    values = rule.decision(x).reshape(grid[0].shape)
    if values.min() < 0 < values.max():
        axes.contour(*grid, values, [0.0], colors=colour, linestyles=style, linewidths=2.2, zorder=3)


def _lines(styles) -> list:
    return [plt.Line2D([], [], color=colour, ls=style, lw=2) for colour, style in styles]
