"""One look for every figure: colour-blind safe, the same colours for SGD and SAM everywhere, text that reads at book width."""

from __future__ import annotations

from contextlib import contextmanager

import matplotlib.pyplot as plt
import seaborn as sns

SGD, SAM, GREY, GREEN, RED = "#0072B2", "#D55E00", "#6e6e6e", "#009E73", "#CC3311"
WIDTH = 7.2  # inches of a page's text


@contextmanager
def style():
    """The house's matplotlib settings, for the figures made inside."""
    with sns.axes_style("ticks"), sns.plotting_context("paper", font_scale=1.05):
        with plt.rc_context({"figure.dpi": 110, "savefig.dpi": 160, "axes.spines.top": False, "axes.spines.right": False,
                             "legend.frameon": False, "figure.constrained_layout.use": True}):  # fmt: skip
            yield


def dataset_title(runs) -> str:
    """What a run's data set is called in a figure."""
    import json

    return {"location30": "Location-30", "digits": "Digits"}.get(
        name := json.loads(runs.attrs["experiment"])["dataset"], name
    )
