"""Figures, tables and verdicts of the page on the synthetic mixture (Figure 5, claim C11)."""

from __future__ import annotations

from typing import Annotated, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field

from samlib.paper.general import NEAR_BAYES, NEAR_EACH_OTHER, bayes_error, verdict_few, verdict_many
from samlib.paper.mixture import BLUE, Mixture, PairedDraws, PairedTest, Predictor, errors, mass_apart
from samlib.paper.style import REFERENCE, SAM, SGD

RED_CLASS, BLUE_CLASS = "#CC79A7", "#56B4E9"  # told apart by markers as well
WINDOW = ((-3.4, 3.6), (-2.1, 2.1))
NAMES = {
    "error": "test error",
    "atypical_accuracy": "accuracy on the atypical cluster",
    "disagreement": "disagreement with the Bayes rule",
    "advantage": "confidence attacker's advantage",
}
DRAWS = {"smoke": (12, 4), "quick": (60, 20), "full": (400, 100)}  # of the claim, of each setting of the map

_Count = Annotated[int, Field(ge=0, le=100_000)]


class Parameters(BaseModel):
    """The page's parameters; a draw count that is None takes the profile's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: Literal[tuple(DRAWS)] = "quick"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    rho: Annotated[float, Field(gt=0, le=100)] = 1.0
    n_typical: Annotated[int, Field(ge=1, le=100_000)] = 40
    n_atypical: _Count = 2
    n_blue: Annotated[int, Field(ge=1, le=100_000)] = 40
    n_draws: Annotated[int, Field(ge=2, le=100_000)] | None = None
    map_draws: Annotated[int, Field(ge=2, le=100_000)] | None = None

    def model_post_init(self, _) -> None:
        for name, value in zip(("n_draws", "map_draws"), DRAWS[self.profile], strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)


def density(mixture: Mixture) -> Figure:
    """Figure 5 (a): contours of both classes' densities with the Bayes boundary."""
    figure, axes = _panel()
    x, grid = _grid()
    labels = ("red class", "blue class")
    for values, colour, style in zip(mixture.density(x).T, (RED_CLASS, BLUE_CLASS), ("-", "--"), strict=True):
        levels = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8]) * values.max()
        axes.contour(*grid, values.reshape(grid[0].shape), levels, colors=colour, linewidths=1.3, linestyles=style)
    _boundary(axes, mixture.log_density_ratio(x), grid, REFERENCE, "-")
    handles = [plt.Line2D([], [], color=c, ls=s) for c, s in ((RED_CLASS, "-"), (BLUE_CLASS, "--"), (REFERENCE, "-"))]
    axes.legend(handles, [*labels, "Bayes boundary"], loc="lower left", fontsize=9)
    for name, at, place in (
        ("typical", mixture.typical_mean, (0, 1.62)),
        ("atypical", mixture.atypical_mean, (0, 1.1)),
        ("blue", mixture.blue_mean, (0, 1.68)),
    ):
        axes.annotate(name, np.add(at, place), ha="center", fontsize=10, bbox={"fc": "white", "ec": "none", "pad": 1})
    return _closed(figure)


def boundaries(mixture: Mixture, draw, fits: dict[str, Predictor]) -> Figure:
    """Figure 5 (b), (c): one draw (x, y, atypical) with the boundaries of `fits` ("SGD", "SAM") and of the Bayes rule."""
    figure, axes = _panel()
    points, y, atypical = draw
    small = len(points) > 400
    for rows, marker, colour, label in (
        ((y == 1) & ~atypical, "o", RED_CLASS, "red, typical"),
        (y == BLUE, "^", BLUE_CLASS, "blue"),
        (atypical, "+", "#8B1A5B", "red, atypical"),
    ):
        size = (14 if small else 110) if marker == "+" else (3 if small else 22)
        width = 1.0 if small else 2.2
        axes.scatter(
            *points[rows].T,
            s=size,
            marker=marker,
            color=colour,
            label=label,
            lw=width if marker == "+" else 0,
            zorder=2,
        )
    x, grid = _grid()
    _boundary(axes, mixture.log_density_ratio(x), grid, REFERENCE, ":")
    for fit, colour, style in zip(fits.values(), (SGD, SAM), ("--", "-"), strict=False):
        _boundary(axes, fit.decision(x), grid, colour, style)
    lines = [(REFERENCE, ":", "Bayes"), *zip((SGD, SAM), ("--", "-"), fits, strict=False)]
    handles, labels = axes.get_legend_handles_labels()
    handles += [plt.Line2D([], [], color=colour, ls=style, lw=2) for colour, style, _ in lines]
    axes.legend(handles, [*labels, *(name for *_, name in lines)], loc="lower left", ncols=2, fontsize=9)
    return _closed(figure)


def describe(mixture: Mixture, draw, fits: dict[str, Predictor]) -> str:
    """A sentence on one draw: both fits' errors, and the share of the population on which they differ."""
    said = {name: errors(fit, mixture) for name, fit in fits.items()}
    parts = [
        f"{name} errs on {value['error']:.1%} and recognizes {value['atypical_accuracy']:.0%} of the atypical cluster"
        for name, value in said.items()
    ]
    apart = mass_apart(*fits.values(), mixture)
    atypical = int(draw[2].sum())
    return f"In this draw with {atypical} atypical samples {'; '.join(parts)}. They differ on {apart:.1%} of the population."


def comparison(draws: PairedDraws) -> pd.DataFrame:
    """One row per measure: both means, the difference with its bootstrap interval, paired t and p."""
    rows = {
        NAMES[name]: {
            "SGD": f"{test.sgd:.4f}",
            "SAM": f"{test.sam:.4f}",
            "SAM - SGD": f"{test.difference:+.4f}",
            "95 % interval": f"{test.low:+.4f} to {test.high:+.4f}",
            "paired t": f"{test.t:.1f}",
            "p": f"{test.p:.1g}".replace("-", "\N{MINUS SIGN}"),  # no line break inside a narrow column
        }
        for name, test in draws.summary().items()
    }
    return pd.DataFrame(rows).T


def by_count(results: dict[int, PairedDraws]) -> Figure:
    """Over the number of atypical samples: both accuracies on the atypical cluster (left), their paired difference (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.3), layout="constrained")
    place, name = np.arange(len(results)), "atypical_accuracy"
    for which, colour, marker, style in (("sgd", SGD, "o", "--"), ("sam", SAM, "s", "-")):
        mean = [getattr(result, which)[name].mean() for result in results.values()]
        left.plot(place, mean, color=colour, marker=marker, ls=style, lw=1.8, label=which.upper())
    left.set_ylabel(NAMES[name])
    left.legend(frameon=False)
    for at, result in zip(place, results.values(), strict=True):
        test = result.summary()[name]
        right.plot([at, at], [test.low, test.high], color=REFERENCE, lw=2)
        right.plot(at, test.difference, "o", color=REFERENCE)
    right.axhline(0, color=REFERENCE, lw=0.8)
    right.set_ylabel("SAM - SGD, 95 % interval")
    for axes in (left, right):
        axes.set_xticks(place, results)
        axes.set_xlabel("atypical samples in the draw")
        axes.spines[["top", "right"]].set_visible(False)
    return _closed(figure)


def failures(rows: list[dict], measure: str = "atypical_accuracy") -> Figure:
    """The map of where the effect holds: SAM - SGD with its bootstrap interval, one row per setting of `failure_map`."""
    figure, axes = plt.subplots(figsize=(7.2, 0.2 * len(rows) + 2.2), layout="constrained")
    place, groups, at = 0, [], {}
    for i, row in enumerate(rows):
        if i == 0 or row["group"] != rows[i - 1]["group"]:
            place += 0.7
            groups.append((place, row["group"]))
        at[i] = place
        place += 1
    for i, row in enumerate(rows):
        test = row[measure]
        worse = test.difference < 0 if measure == "atypical_accuracy" else test.difference > 0
        clear = test.low * test.high > 0
        colour = REFERENCE if not clear else (SGD if worse else SAM)
        axes.plot([test.low, test.high], [at[i]] * 2, color=colour, lw=2)
        axes.plot(test.difference, at[i], "v" if worse else "^", color=colour, mfc=colour if clear else "white", ms=6)
    axes.axvline(0, color=REFERENCE, lw=0.8)
    short = [f"{row['group']} = {row['setting']}" for row in rows]
    axes.set_yticks(list(at.values()), short, fontsize=8.5)
    axes.invert_yaxis()
    axes.set_xlabel(f"SAM - SGD: {NAMES[measure]}")
    handles = [
        plt.Line2D([], [], color=SAM, marker="^", lw=2), plt.Line2D([], [], color=SGD, marker="v", lw=2),
        plt.Line2D([], [], color=REFERENCE, marker="^", mfc="white", lw=2),
    ]  # fmt: skip
    labels = ["SAM better, interval clear of 0", "SGD better, interval clear of 0", "not settled"]
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return _closed(figure)


def failure_table(rows: list[dict]) -> pd.DataFrame:
    """The same map as numbers: differences of all measures, with the paired t of the atypical accuracy."""
    table = [
        {"what varies": row["group"], "value": f"{row['setting']:g}"}
        | {NAMES[name]: f"{row[name].difference:+.4f}" for name in NAMES}
        | {"paired t (atypical)": f"{row['atypical_accuracy'].t:.1f}"}
        for row in rows
    ]
    return pd.DataFrame(table).set_index(["what varies", "value"])


def summary(few: PairedDraws, many: PairedDraws, rows: list[dict], mixture: Mixture) -> str:
    """The page's conclusion, every number and word of it from the runs."""
    first, both = few.summary(), many.summary()
    gain, error, leak = (first[name] for name in ("atypical_accuracy", "error", "advantage"))
    left = both["atypical_accuracy"]
    bayes = bayes_error(mixture)
    worse = [row for row in rows if row["atypical_accuracy"].high < 0]
    better = [row for row in rows if row["atypical_accuracy"].low > 0]
    where = "; ".join(f"{row['group']} = {row['setting']}" for row in worse) or "none"
    n = len(few.sgd["error"])
    return f"""\
**C11, few atypical samples: {verdict_few(few)}.** Over {n} paired draws SAM's accuracy on the atypical cluster differs by
{points(gain)}, paired t = {gain.t:.1f}, p = {gain.p:.1g}; its test error by {points(error)}.

**C11, many atypical samples: {verdict_many(many, mixture)}.** SGD errs on {both["error"].sgd:.2%} and SAM on
{both["error"].sam:.2%}, the Bayes rule on {bayes:.2%}; SAM - SGD is {points(both["error"])}. By our yardstick
"coincide" means errors within {NEAR_EACH_OTHER:.1%} of each other and within {NEAR_BAYES:.1%} of the Bayes rule's, which no
quadratic boundary reaches. On the atypical cluster alone the difference is {points(left)}.

**Map.** Of {len(rows)} settings SAM is better on the atypical cluster in {len(better)}, worse in {len(worse)}, and
{len(rows) - len(better) - len(worse)} are not settled at this number of draws. Worse: {where}.

**Leakage.** On these two-dimensional draws the confidence attacker's advantage changes by {leak.difference:+.4f}
({leak.low:+.4f} to {leak.high:+.4f}): {"no difference" if leak.low <= 0 <= leak.high else "a difference"} that the draws
can show. The model is far too small to interpolate, so this is not the regime of the theory."""


def points(test: PairedTest) -> str:
    """A difference of shares in percentage points, with its interval."""
    return f"{100 * test.difference:+.2f} points (95 % interval {100 * test.low:+.2f} to {100 * test.high:+.2f})"


def _panel():
    figure, axes = plt.subplots(figsize=(7.2, 4.5), layout="constrained")
    axes.set(xlim=WINDOW[0], ylim=WINDOW[1], aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    return figure, axes


def _grid():
    grid = np.meshgrid(np.linspace(*WINDOW[0], 281), np.linspace(*WINDOW[1], 169))
    return np.stack(grid, -1).reshape(-1, 2), grid


def _boundary(axes, score, grid, colour, style) -> None:
    values = score.reshape(grid[0].shape)
    if values.min() < 0 < values.max():
        axes.contour(*grid, values, [0.0], colors=colour, linestyles=style, linewidths=2.2, zorder=3)


def _closed(figure: Figure) -> Figure:
    plt.close(figure)  # shown where it is returned to, and not a second time by pyplot
    return figure
