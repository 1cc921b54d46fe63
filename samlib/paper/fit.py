"""Does how far training went order the attacks? All runs of a ledger beside each other: looked at, and not decided."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import kendalltau

from samlib.inference import CONTRADICTED, SUPPORTED
from samlib.paper.cards import dataset_in, title_of
from samlib.paper.draw import panels
from samlib.paper.findings import ATTACKS, COLOURS
from samlib.paper.panels import interval_points
from samlib.paper.style import GREY, drawn

FEWEST = 4  # runs of which a rank correlation is said


@drawn
def attacks_over_fit(ledger: pd.DataFrame, fits: pd.Series, name: str = "SAM") -> Figure:
    """The difference in each attack's AUC over how much looser than SGD's the other optimizer's fit is, a point for each run.

    Parameters
    ----------
    ledger : DataFrame
        As `claims.ledger_of` gives it.
    fits : Series
        From a column of the ledger to the ratio of train losses, as `Study.fits` gives them.
    name : str
        The optimizer that is compared with SGD.
    """
    figure, axes = panels(len(ATTACKS), 3.8, sharey=True)
    names = [dataset_in(column) for column in fits.index]
    colours = dict(zip(dict.fromkeys(names), itertools.cycle(COLOURS), strict=False))
    shapes = ("oDsv^P"[names[:i].count(name) % 6] for i, name in enumerate(names))
    marks = {column: (shape, colours[name]) for column, shape, name in zip(fits.index, shapes, names, strict=True)}
    for ax, (claim, attack) in zip(axes, ATTACKS.items(), strict=True):
        for column, (mark, colour) in marks.items():
            interval_points(ax, fits[[column]], ledger.loc[[(claim, column)]], "estimate", fmt=mark, color=colour, ms=5)
        ax.axhline(0, color=GREY, lw=1)
        ax.axvline(1, color=GREY, lw=1, ls=":")
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.set_title(attack)
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_ylabel(f"AUC, {name} − SGD")
    axes[1].set_xlabel(f"train loss, {name} over SGD")
    own = []
    for column, (mark, colour) in marks.items():
        said = f"{title_of(column)}, {ledger.loc[('C1', column), 'source']}"
        own.append(Line2D([], [], color=colour, marker=mark, ls="", label=said))
    figure.legend(handles=own, loc="outside lower center", ncols=2, fontsize="small")
    return figure


def turned(ledger: pd.DataFrame, largest: Iterable[str]) -> Markdown:
    """Name the claims that a smaller run decides otherwise than the largest run of the same data set does.

    ledger: as above. largest: the columns of the largest runs.
    """
    of, said = {dataset_in(column): column for column in largest}, []
    smaller = ledger[~ledger.index.isin(of.values(), level="dataset")]
    for column, rows in smaller.groupby("dataset", sort=False):
        full = ledger.xs(of[dataset_in(column)], level="dataset")["verdict"]
        own = rows["verdict"].droplevel("dataset")
        apart = own[own.isin((SUPPORTED, CONTRADICTED)) & (own != full[own.index])]
        each = [f"{claim} {verdict}, here {full[claim]}" for claim, verdict in apart.items()]
        source = rows["source"].iloc[0].rpartition(",")[0]
        said.append(f"- {title_of(column)}, {source}: {'; '.join(each) or 'none'}.")
    return Markdown("\n".join(["Decided there, and not so by the largest run (whose verdict follows):", "", *said]))


def order(ledger: pd.DataFrame, fits: pd.Series) -> Markdown:
    """The rank correlation of each attack's difference with the ratio of train losses, over runs. Arguments as above."""
    said = []
    for claim, attack in ATTACKS.items():
        found = ledger.xs(claim)["estimate"].reindex(fits.index).dropna()
        tau = kendalltau(found, fits[found.index]).statistic if len(found) >= FEWEST else math.nan
        said.append(f"{attack} {tau:+.2f} ({len(found)} runs)" if math.isfinite(tau) else f"{attack}: too few runs")
    return Markdown(f"Rank correlation (Kendall's tau; -1 or +1 would be a perfect order): {'; '.join(said)}.")
