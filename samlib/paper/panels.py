"""Small multiples: the same picture for each data set, with one look on every page."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samlib.data import Dataset
from samlib.inference import CONTRADICTED, NO_DIFFERENCE, SUPPORTED
from samlib.paper import claims, values
from samlib.paper.frames import Section
from samlib.paper.style import GREY, INK, SAM, SGD, WIDTH, dataset_title, drawn

BOTH = (("sgd", SGD), ("sam", SAM))
# of attacks
DASHES = {"LiRA online": "-", "RMIA online": "--", "RMIA offline": "--", "confidence": ":", "BASE": "-."}
SIGNS = {1: "higher", -1: "lower", 0: "open"}
_TOLD = values("told")


@drawn
def multiples(
    found: Section, needs: Sequence[str], draw: Callable, *, columns: int = 1, height: float = 2.1, **options: Any
) -> Figure | Markdown:
    """Draw a row of panels for each data set; panels that stand alone wrap, two in a row.

    Parameters
    ----------
    found : Section
        Frames of each data set.
    needs : sequence of str
        The frames that a row is drawn from. A data set that lacks rows in one of them is left out, and named below.
    draw : function
        Called with a row's axes and these frames.
    columns : int
        Panels of a data set.
    height : float
        Of a panel, in inches.
    **options
        Of `matplotlib.pyplot.subplots`.

    Returns
    -------
    Figure or Markdown
        A sentence if no data set can be shown.
    """
    ready = {dataset: frames for dataset, frames in found.items() if all(len(frames[name]) for name in needs)}
    left_out = [dataset_title(dataset) for dataset in found if dataset not in ready]
    if not ready:
        return not_shown(found)
    across = columns if columns > 1 else min(2, len(ready))
    down = -(-columns * len(ready) // across)
    figure, grid = plt.subplots(down, across, figsize=(WIDTH, 0.9 * height * down + 0.6), squeeze=False, **options)
    used, spare = np.split(grid.ravel(), [columns * len(ready)])
    for row, (dataset, frames) in zip(used.reshape(-1, columns), ready.items(), strict=True):
        draw(*row, *(frames[name] for name in needs))
        title = found.titles[dataset] if columns > 1 else found.titles[dataset].replace(": ", "\n")  # two in a row
        row[0].set_title(title, loc="left", fontsize="medium", fontweight="bold")
    for k, ax in enumerate(used):
        last = k + across >= len(used)
        ax.tick_params(labelbottom=last or not options.get("sharex"))
        ylabel = textwrap.fill(ax.get_ylabel(), round(9 * height), break_long_words=False)  # no longer than its panel
        ax.set(xlabel=ax.get_xlabel() if last else "", ylabel=ylabel if columns > 1 or k % across == 0 else "")
    for ax in spare:
        ax.set_axis_off()
    marks = {label: mark for ax in used for mark, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if left_out:
        marks[f"not shown: {listed(left_out)}"] = Line2D([], [], ls="")
    if marks:
        columns = 2 if max(map(len, marks)) > 24 else min(len(marks), 3)
        figure.legend(marks.values(), marks, loc="outside lower center", ncols=columns, fontsize="small")
    return figure


def not_shown(datasets: Iterable[str]) -> Markdown:
    """The sentence in place of a picture or a table that cannot be shown."""
    names = listed([dataset_title(dataset) for dataset in datasets])
    why = "these runs are too small for it, or their data are not at hand or lack it"
    return Markdown(f"*Not shown on {names}: {why}.*")


def label_of(who: str, name: str) -> str:
    """How a legend names an optimizer."""
    return "SGD" if who == "sgd" else name


def interval_points(
    ax: Axes, at, frame: pd.DataFrame, column: str, ends=("low", "high"), *, flat=False, **shown
) -> None:
    """Points of a column, with intervals where the frame has them; `flat`: along the horizontal axis."""
    value = frame[column].to_numpy(float)
    error = np.abs(frame[list(ends)].to_numpy(float).T - value) if set(ends) <= set(frame) else None
    places = (value, at) if flat else (at, value)
    ax.errorbar(*places, **{"xerr" if flat else "yerr": error, "ms": 4.5, "lw": 1.2, "fmt": "o", **shown})


def comparisons(
    found: Section, frame: str, value: str, pick: Callable | None = None, *, at=None, axis=None, band=0.0, **options
):
    """A row for each data set: both optimizers' values, and beside them the difference with its interval.

    pick: function from the frame to the rows to draw (sgd, sam, difference, low, high). at: function from these rows to their
    places on the horizontal axis; None draws them one below the other, with their names. axis: settings of both axes. band: the
    smallest difference that counts, shaded around 0. options: those of `multiples`.
    """

    def draw(left, right, whole):
        rows, flat = pick(whole) if pick else whole, at is None
        places = -np.arange(len(rows)) if flat else np.array(at(rows), float)
        for (who, colour), move in zip(BOTH, (0.1, -0.1) if flat else (-0.1, 0.1), strict=True):
            shown = {"color": colour, "label": label_of(who, found.name), "flat": flat}
            interval_points(left, places + move, rows, who, (f"{who}_low", f"{who}_high"), **shown)
        interval_points(right, places, rows, "difference", fmt="D", color=INK, flat=flat)
        zero(right, flat)
        (right.axvspan if flat else right.axhspan)(-band, band, color=GREY, alpha=0.15, lw=0)
        for ax, label in ((left, value), (right, f"{found.name} − SGD")):
            ax.set(**{"xlabel" if flat else "ylabel": label}, **(axis or {}))
            ax.grid(axis="x" if flat else "y", alpha=0.3)
        if flat:
            names = [each if isinstance(each, str) else ": ".join(each) for each in rows.index]
            left.set(yticks=places, yticklabels=names)
            right.locator_params(axis="x", nbins=4)
            right.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))

    return multiples(found, [frame], draw, columns=2, **options)


def histograms(found: Section, frame: str, column: str, filled: dict, outlined: dict, xlabel: str, **options):
    """A row for each data set, SGD beside the other: shares by bin, some filled and others outlined.

    filled, outlined: from a label to a function that picks rows out of those of one optimizer.
    """

    def draw(*axes_and_rows):
        *axes, rows = axes_and_rows
        for ax, (who, colour) in zip(axes, BOTH, strict=True):
            own = rows[rows["optimizer"] == who]
            for label, pick in filled.items():
                said = f"{label}, {label_of(who, found.name)}"
                stairs(ax, pick(own), column, fill=True, alpha=0.5, color=colour, label=said)
            for label, pick in outlined.items():
                stairs(ax, pick(own), column, lw=1.5, color=INK, label=label)
            ax.set(xlabel=xlabel, ylabel="share" if ax is axes[0] else "")

    return multiples(found, [frame], draw, columns=2, **options)


def zero(ax: Axes, upright: bool = False) -> None:
    """A line at no difference."""
    (ax.axvline if upright else ax.axhline)(0, color=GREY, lw=1)


def stairs(ax: Axes, part: pd.DataFrame, column: str, **style) -> None:
    """A histogram of shares from a frame with bins left to right."""
    ax.stairs(part[column] / part[column].sum(), [*part["left"], part["right"].iloc[-1]], **style)


def scroll(table, said: str) -> Markdown:
    """Put a wide or long table into a box that scrolls and can be reached by keyboard. A line above says that it scrolls."""
    box = '<div class="samlib-scroll" role="region" tabindex="0" aria-label="{}">\n\n{}\n\n</div>'
    return Markdown(f"*{said} The table scrolls.*\n\n" + box.format(said, table.to_html()))


def image(ax: Axes, x: np.ndarray, said: str, colour: str | None = None) -> None:
    """A picture with words below it, and with a frame if a colour is given."""
    ax.imshow(x, cmap="gray_r" if x.ndim == 2 else None, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=colour is not None, color=colour, linewidth=2.2)
    said = "\n".join(textwrap.fill(line.replace("_", " "), 14) for line in said.split("\n"))
    ax.text(0.5, -0.06, said, transform=ax.transAxes, ha="center", va="top", fontsize=7.5, color=colour)


def classes_of(data: Dataset | None, labels) -> list[str]:
    """The names of classes; their numbers where the data are not at hand."""
    return [str(label) if data is None else data.classes[int(label)] for label in labels]


def across(found: Section, frame: str, column: str, form: str = "{:+.2f}"):
    """A table of one column of a frame, with intervals if there are any. It has a column for each data set."""
    rows = found.stacked(frame)
    if rows.empty:
        return not_shown(found)
    said = rows[column].map(form.format)
    if {"low", "high"} <= set(rows):
        said += [f" ({form.format(low)} to {form.format(high)})" for low, high in rows[["low", "high"]].to_numpy()]
    return said.unstack(0, sort=False).rename({"sgd": "SGD", "sam": found.name}).style


def reliability_table(found: Section):
    """How reliable the scores of a section are, and how many models would bring them to .5 and to .8."""
    shown = found.stacked("reliability").rename({"sgd": "SGD", "sam": found.name})
    columns = {"reliability": shown["value"].map("{:.3f}".format)}
    for goal, times in ((".5, for a verdict", 0.25), (".8", 1)):  # by the formula of Spearman and Brown
        models = (shown["models"] * times).map("{:,.0f}".format)
        columns[f"models for {goal}"] = models.replace("inf", "none can be told")
    return pd.DataFrame(columns).style


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: "A, B and C"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def sign(row: pd.Series | Mapping[str, float]) -> int:
    """1 or -1 where the interval of a difference lies beyond 0; else 0."""
    return int(row["low"] > 0) - int(row["high"] < 0)


def together(said: Mapping[str, str]) -> Markdown:
    """A sentence for each data set, one below the other; data sets share a sentence, and one alone stands as a paragraph.

    said: from a data set's title to what is said of it.
    """
    groups: dict[str, list[str]] = {}
    for title, sentence in said.items():
        groups.setdefault(sentence, []).append(title)
    whole = [f"On {listed(titles)} {sentence}" for sentence, titles in groups.items()]
    return Markdown("\n".join(f"- {each}" for each in whole) if len(whole) > 1 else "".join(whole))


def told(found: Section, what: str) -> Markdown:
    """The sentences of `told.toml` on two rows of a section. One sentence covers all data sets with the same pair of signs."""
    telling, said = _TOLD[what], {}
    for dataset, frames in found.items():
        signs: list[Any] = [sign_in(frames[each["frame"]], each["row"]) for each in telling["rows"]]
        if None not in signs:
            both = " ".join(signs).replace("small", "open")
            words = " and ".join(each[one] for each, one in zip(telling["rows"], signs, strict=True))
            words = telling.get("instead", {}).get(both, words)
            why = telling["because"].get(both, "")
            said[dataset_title(dataset)] = f"{telling.get('subject', found.name)} {words}. {why}".strip()
    return together(said) if said else Markdown("*These runs are too small to say it.*")


def sign_in(frame: pd.DataFrame, row: str | list[str]) -> str | None:
    """One of SIGNS or "small" for a row of a frame, None if there is no such row. In a frame "effects" the verdict decides it."""
    key = tuple(row) if isinstance(row, list) else row
    if key not in frame.index:
        return None
    if "stderr" not in frame:
        return None if frame.loc[key].isna().any() else SIGNS[sign(frame.loc[key])]
    (claim,) = (each for each in claims.EVERY if each.id == key)
    (decided,) = claims.decide(frame, [claim], 1)
    if math.isnan(decided["estimate"]):
        return None
    side = {SUPPORTED: claim.direction, CONTRADICTED: -claim.direction}.get(decided["verdict"], 0)
    return "small" if decided["verdict"] == NO_DIFFERENCE else SIGNS[side]
