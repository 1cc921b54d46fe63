"""Parts that several figures share: named curves, and differences with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samlib.paper.style import GREEN, GREY, SAM, SGD, WIDTH

THREE = ((GREEN, ":"), (SAM, "-"), (SGD, "--"))  # colours and styles of three curves
BOTH = {"SGD": (SGD, "--", "o"), "SAM": (SAM, "-", "s")}  # colour, style and marker of each optimizer


def panels(n: int, height: float = 3.3, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure as wide as a page's text, of `n` panels side by side."""
    figure, axes = plt.subplots(1, n, figsize=(WIDTH, height), squeeze=False, **options)
    return figure, list(axes[0])


def curves(axes: Axes, x, named: Mapping[str, Any], looks: Iterable = THREE, **settings: Any) -> None:
    """Curves of `named` values over x, each in one of the `looks`; `settings` are those of `Axes.set`."""
    for (label, y), (colour, style) in zip(named.items(), looks, strict=True):
        axes.plot(x, y, color=colour, ls=style, lw=2, label=label)
    axes.set(**settings)


def gaps(axes: Axes, place, found, colours="black", filled=True, *, across: bool = False) -> None:
    """Differences with vertical intervals and a line at 0. With `across`, intervals are horizontal, one to a row.

    `found` has columns difference, low and high. `place`: positions on the other axis. A marker is filled if `filled` is true.
    """
    difference, low, high = (np.asarray(found[name], float) for name in ("difference", "low", "high"))
    (axes.axvline if across else axes.axhline)(0, color=GREY, lw=1)
    (axes.hlines if across else axes.vlines)(place, low, high, color=colours, lw=1.4)
    faces = np.where(np.broadcast_to(filled, len(difference)), colours, "white")
    x, y = (difference, place) if across else (place, difference)
    axes.scatter(x, y, s=26, zorder=3, ec=colours, fc=faces)
