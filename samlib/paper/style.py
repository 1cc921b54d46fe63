"""The look of every figure: safe colours for colour-blind readers, always the same for SGD and SAM, and legible text."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython.display import Markdown
from matplotlib.figure import Figure

from samlib.paper import values

LOOK = values("style")
SGD, SAM, REFERENCE = "#0072B2", "#D55E00", "#333333"
INK, GREY, GREEN, RED = "black", "#6e6e6e", "#009E73", "#CC3311"
WIDTH = 5.8  # inches of a figure; a page widens it, so that a phone can show its text
FEW_POINTS = 20_000  # with more points, an SVG takes more than a third of a megabyte


def drawn(function: Callable) -> Callable:
    """Decorate a function that draws: apply the book's matplotlib settings, and close the figure, so a notebook shows it once.

    A figure with few points and no images also gets an SVG form, which a page prefers.
    """

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=1.1), plt.rc_context(LOOK["settings"]):
            figure = function(*args, **kwargs)
            if isinstance(figure, Markdown):  # a sentence in its place
                return figure
            plt.close(figure)
            titles = [ax.get_title(loc="left") for ax in figure.axes] + [each.get_suptitle() for each in figure.subfigs]
            figure._repr_mimebundle_ = lambda **_: ({}, {"shown": list(filter(None, titles))})
            if points(figure) <= FEW_POINTS:
                figure._repr_svg_ = lambda: vectors(figure)
            return figure

    return wrapped


def points(figure: Figure) -> float:
    """The number of points that a figure draws; infinite if it has an image."""
    count = 0.0
    for ax in figure.axes:
        count += math.inf if ax.images else 0
        drawn_at = [line.get_xydata() for line in ax.lines]
        for each in ax.collections:
            drawn_at += [each.get_offsets(), *(path.vertices for path in each.get_paths())]
        count += sum(np.size(points) / 2 for points in drawn_at) + len(ax.patches)
    return count


def vectors(figure: Figure) -> str:
    """The figure as SVG, the same bytes whenever it is drawn."""
    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": "samlib"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
    return buffer.getvalue()


def dataset_title(name: str) -> str:
    """A data set's name as people write it. Text after a comma stays as it is."""
    name, comma, rest = name.partition(",")
    return LOOK["titles"].get(name, name) + comma + rest


def optimizer_title(name: str) -> str:
    """An optimizer's name as people write it. Text after a comma is a network."""
    name, comma, model = name.partition(", ")
    return LOOK["optimizers"].get(name, name.upper()) + comma + model_title(model)


def model_title(name: str) -> str:
    """A network's name as people write it."""
    return name.upper() if name in ("mlp", "cnn") else name.replace("resnet", "ResNet-").replace("vgg", "VGG-")
