"""What SAM's two passes do, and whether the minima that it finds are flatter."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from samlib.audit import compared
from samlib.paper.draw import panels
from samlib.paper.frames import EACH, table
from samlib.paper.style import GREY, REFERENCE, SAM, SGD, dataset_title, drawn
from samlib.paper.tables import table as table_of
from samlib.sharpness import AT_RHO, EFFORT, GRID, Landscape, Landscapes, descent, valley, valley_eigenvalue

START, RADIUS, RATE, STEPS = (2.4, 0.8), 0.3, 0.05, 200  # of the two-weight net; large enough to be visible
STEP, WHOLE, CURVATURE = "rise along a batch's gradient", "rise along the whole gradient", "largest eigenvalue"
ADAPTIVE, GRADIENT = "rise along ASAM's step", "norm of the whole gradient"
FEWEST = EFFORT["mlp"].models
DIRECTIONS = {"batches": ("-", "a batch's gradient"), "ascent": ("--", "the whole gradient"), "random": (":", "random")}


def measure(found: Landscapes) -> pd.DataFrame:
    """Compare the sharpness of two optimizers.

    Parameters
    ----------
    found : Landscapes
        What `samlib.sharpness.landscapes` returns.

    Returns
    -------
    DataFrame
        Index measure; columns sgd, sam, difference, and the ends low, high of its interval over pairs.
    """
    sgd, sam = (_figures(one) for one in found[:2])
    return table({of: compared(sgd[of][:, None], sam[of][:, None], EACH) for of in sgd}, "measure")


def _figures(one: Landscape) -> dict[str, Any]:
    """Each measure of the models of one optimizer: from its name to an array (models,)."""
    return {
        STEP: one.batches[:, AT_RHO],
        WHOLE: one.ascent[:, AT_RHO],
        CURVATURE: one.eigenvalue,
        ADAPTIVE: one.adaptive,
        "rise along random directions": one.random[:, AT_RHO],
        GRADIENT: one.gradient_norm,
        "loss": one.loss,
    }


def _paths() -> list[np.ndarray]:
    return [descent(START, rho=rho, lr=RATE, steps=STEPS) for rho in (0, RADIUS)]


@drawn
def two_passes():
    """A net of two weights: left, one step of SGD and of SAM from the same point; right, where many steps end."""
    figure, (left, right) = panels(2, 3.2)
    for ax, spans, levels in ((left, ((1.75, 2.85), (0.15, 1.25)), 14), (right, ((0.6, 2.7), (0.2, 1.5)), 22)):
        a, b = np.meshgrid(*(np.linspace(*span, 200) for span in spans))
        ax.contour(a, b, np.sqrt(valley(a, b)), levels, colors="0.8", linewidths=0.7)
        ax.plot(a[0], 1 / a[0], color=GREY, lw=1.2, ls="--", label="loss 0: $ab = 1$")
        ax.set(xlim=spans[0], ylim=spans[1], xlabel="$a$", ylabel="$b$")
    w = np.array(START)
    sgd, sam = (descent(START, rho=rho, lr=0.12, steps=1)[1] for rho in (0, RADIUS))
    top = w + RADIUS * (w - sgd) / np.linalg.norm(w - sgd)  # SGD's step is along the gradient
    arrows = ((w, top, REFERENCE, "-"), (w, sam, SAM, "-"), (w, sgd, SGD, "-"), (top, top + sam - w, SAM, ":"))
    for start, end, colour, style in arrows:
        arrow = {"arrowstyle": "->", "color": colour, "ls": style, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        left.annotate("", tuple(end), tuple(start), arrowprops=arrow)
    left.plot(*w, "o", color="black", ms=5, zorder=4)
    left.plot(*top, "^", color=REFERENCE, ms=6, zorder=4)
    first = r"first pass: $w + \rho\,\nabla L/\Vert\nabla L\Vert$"
    for text, at, offset, colour, ha in (
        ("$w$", w, (7, -4), "black", "left"), (first, top, (-14, 8), "black", "center"),
        ("SGD", sgd, (8, 0), SGD, "left"), ("SAM", sam, (-4, -13), SAM, "left"),
    ):  # fmt: skip
        left.annotate(text, tuple(at), offset, textcoords="offset points", color=colour, ha=ha)
    for path, colour, name in zip(_paths(), (SGD, SAM), ("SGD", "SAM"), strict=True):
        right.plot(*path.T, "-", color=colour, lw=0.9, alpha=0.75)
        right.plot(*path[-1], "s", color=colour, ms=6, label=f"{name}, {STEPS} steps")
    right.plot(*w, "o", color="black", ms=5)
    right.plot(1, 1, "*", color="black", ms=10, label="flattest minimum")
    left.set_title("one step")
    right.set_title("many steps")
    right.legend(loc="upper right", fontsize="small", frameon=True, framealpha=0.9, edgecolor="none")
    return figure


def two_passes_sentence() -> str:
    """Where the paths of `two_passes` end, and how sharp it is there."""
    ends = [path[-1] for path in _paths()]
    said = [f"at ({a:.2f}, {b:.2f}), where the largest curvature is {valley_eigenvalue(a, b):.2f}" for a, b in ends]
    return (
        f"SGD ends {said[0]}; SAM {said[1]} (at the flattest minimum it is {valley_eigenvalue(1, 1):.2f}). "
        f"The functions are almost the same: the product of the weights is {np.prod(ends[0]):.3f} and {np.prod(ends[1]):.3f}."
    )


@drawn
def loss_around(found: Landscapes):
    """How the loss rises around the models: in three directions, with bands over all models; and sharpness of each pair."""
    figure, axes = panels(4, 3.0, width_ratios=(2.6, 1, 1, 1))
    for one, colour, label in ((found.sgd, SGD, "SGD"), (found.sam, SAM, found.name)):
        axes[0].plot([], [], "s", color=colour, label=label)
        for direction, (style, _) in DIRECTIONS.items():
            rise, distance = getattr(one, direction), found.rho * GRID
            axes[0].fill_between(distance, rise.min(0), rise.max(0), color=colour, alpha=0.15, lw=0)
            axes[0].plot(distance, rise.mean(0), style, color=colour, lw=1.6)
    for style, what in DIRECTIONS.values():
        axes[0].plot([], [], style, color=GREY, lw=1.6, label=what)
    axes[0].axvline(found.rho, ymax=0.3, color=GREY, lw=1)
    at: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes[0].annotate(r"$\rho$", (found.rho, 0.3), (-2, 2), **at)
    axes[0].set(title=dataset_title(found.dataset), xlabel="distance from the weights", ylabel="rise of the loss")
    figure.legend(fontsize="small", loc="outside lower center", ncols=5, handlelength=1.5)
    titles = {STEP: "a batch's\ngradient, at ρ", WHOLE: "the whole\ngradient, at ρ", CURVATURE: "largest\neigenvalue"}
    for ax, (of, title) in zip(axes[1:], titles.items(), strict=True):
        values = np.array([_figures(one)[of] for one in found[:2]])
        ax.plot([0, 1], values, color="0.7", lw=1)
        for x, colour in enumerate((SGD, SAM)):
            ax.plot(np.full(len(values[x]), x), values[x], "o", color=colour, ms=4)
        ax.set(xticks=[0, 1], xticklabels=["SGD", found.name], xlim=(-0.5, 1.5))
        ax.set_ylim(1.08 * min(0, values.min()), 1.08 * values.max())
        ax.set_title(title, fontsize="small")
        ax.tick_params(labelsize="x-small")
        ax.yaxis.set_major_locator(plt.MaxNLocator(4))
    return figure


def sharpness_table(found: Landscapes):
    """What `measure` returns with three digits for each value, since the measures differ by orders of magnitude."""
    return table_of(measure(found), name=found.name, forms=("{:.3g}", "{:+.2g}"))


def sharpness_sentence(found: Landscapes) -> str:
    """Are the other optimizer's models flatter? By four measures: ASAM's step, its own on a batch and on all, and curvature."""
    frame, name, pairs = measure(found), found.name, len(found.sgd.batches)
    sgd_rise, sam_rise = (found.rho * np.mean(np.square(one.gradient_norm)) for one in found[:2])
    rows = frame.loc[[ADAPTIVE, STEP, WHOLE, CURVATURE]]
    words = ["flatter" if r.high < 0 else "sharper" if r.low > 0 else "no difference shown" for r in rows.itertuples()]
    if pairs < FEWEST:
        head = f"{pairs} pairs of models are too few to decide."
    elif len(set(words)) > 1:
        parts = "; ".join(f"{of}: {word}" for of, word in zip(rows.index, words, strict=True))
        head = f"Whether {name}'s models are flatter than SGD's depends on the measure. {parts[0].upper()}{parts[1:]}."
    else:
        said = {"flatter": "flatter", "sharper": "not flatter but sharper"}.get(words[0], "not shown to be flatter")
        head = f"By all four measures, {name}'s models are {said} than SGD's."
    cut = " and, to keep this page cheap, fewer epochs or examples than the recipe's" if found.shortened else ""
    norm = frame.loc[GRADIENT]
    return (
        f"**{head}** {dataset_title(found.dataset)}, means over {pairs} of these pairs, at distance {found.rho:g}, with "
        f"{found.epochs} epochs{cut}, each model on the {found.examples} examples that it was trained on.\n\n"
        f"The gradient of all examples is short, {norm.sgd:.2g} after SGD and {norm.sam:.2g} after {name}. A step of that length "
        f"times ρ would raise the loss by only {sgd_rise:.1g} and {sam_rise:.1g}; so each step is scaled to length ρ."
    )
