"""One look for every figure: colour-blind safe, the same colours for SGD and SAM everywhere, text that reads at book width."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Callable

import matplotlib.pyplot as plt
import seaborn as sns
from IPython.display import Markdown

SGD, SAM, REFERENCE = "#0072B2", "#D55E00", "#333333"
GREY, GREEN, RED = "#6e6e6e", "#009E73", "#CC3311"
WIDTH = 7.2  # inches of a page's text


def drawn(function: Callable) -> Callable:
    """Let a function draw with the house's matplotlib settings; its figure is closed, so that a notebook shows it once."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        settings = {
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
        with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=1.05), plt.rc_context(settings):
            figure = function(*args, **kwargs)
            plt.close(figure)
            return figure

    return wrapped


def needs_data(function: Callable) -> Callable:
    """Let a function of a data set say in a sentence that it shows nothing where that is None, as for recorded runs it may be."""

    @functools.wraps(function)
    def wrapped(first, second, *args, **kwargs):
        if first is None or second is None:
            return Markdown("*Not shown: the data that these runs were trained on are not at hand on this machine.*")
        return function(first, second, *args, **kwargs)

    return wrapped


def class_title(name: str, width: int) -> str:
    """A class's name in lines of at most so many letters, to stand over an image."""
    return textwrap.fill(name.replace("_", " "), width)


def dataset_title(name: str) -> str:
    """A data set's name as people write it; what follows a comma stays."""
    known = {
        "location30": "Location-30", "digits": "Digits", "purchase100": "Purchase-100", "texas100": "Texas-100",
        "cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "cifar100-coarse": "CIFAR-100 (20 classes)",
        "fashion_mnist": "Fashion-MNIST", "eyepacs": "EyePACS",
    }  # fmt: skip
    name, comma, rest = name.partition(",")
    return known.get(name, name) + comma + rest
