"""The first page: what was found, in three sentences and one picture, and what that stands on.

All is read from a frame of `claims.ledger_of`, so no number and no outcome is typed by hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samlib.data import shape_of
from samlib.data.files import PUBLISHED
from samlib.inference import CONTRADICTED, NOT_MEASURABLE, SUPPORTED
from samlib.models import build_model
from samlib.paper.cards import TABLE, dataset_in, title_of
from samlib.paper.claims import GENERATED, was_asked
from samlib.paper.panels import listed
from samlib.paper.style import GREY, drawn

ACCURACY, SURE = "C1", "C16"  # SURE: members that are found with hardly a false accusation
ATTACKS = {claim: word for claim, word in TABLE["finding"]["Leakage"]["claims"].items() if claim != SURE}  # by AUC
COLOURS = ("#CC79A7", "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#333333")  # of data sets (Okabe and Ito 2008)


def findings(ledger: pd.DataFrame, name: str = "SAM") -> Markdown:
    """Say of accuracy, leakage and memorization, a line each, which data sets agree with the paper and which do not.

    Parameters
    ----------
    ledger : DataFrame
        As `claims.ledger_of` gives it, with one column for each data set.
    name : str
        The optimizer that is compared with SGD.

    Returns
    -------
    Markdown
        Paragraphs on the rows of `counted`, and a line on which data sets are not. A measure is named where the verdicts of
        one data set differ. What no run has measured at equal train loss is left out.
    """
    every, ledger = ledger, counted(ledger)
    found = {what: _finding(ledger, name, **of) for what, of in TABLE["finding"].items()}
    said = [f"**{what}.** {sentences}" for what, sentences in found.items() if sentences]
    tried = every.index.unique("dataset").difference(ledger.index.unique("dataset"), sort=False)
    if len(tried):
        others = "All others were fixed in writing before they were made."
        said.append(f"*Not counted, because exploratory: {listed(list(map(title_of, tried)))}. {others}*")
    return Markdown("\n\n".join(said))


def counted(ledger: pd.DataFrame) -> pd.DataFrame:
    """The rows that the findings count: of confirmatory runs, or all if there are none."""
    return ledger[fixed] if (fixed := ledger["confirmatory"].astype(bool)).any() else ledger


def surprise(ledger: pd.DataFrame, name: str = "SAM") -> Markdown:
    """Say where the paper's surprise shows: better accuracy and more leakage at once, by the verdicts of both.

    Parameters
    ----------
    ledger, name
        As for `findings`.

    Returns
    -------
    Markdown
        A sentence on AUC, which names the data sets and the attacks, and one on C16.
    """
    holds = (counted(ledger)["verdict"] == SUPPORTED).unstack("claim", sort=False, fill_value=False)
    holds = holds.reindex(columns=[ACCURACY, *ATTACKS, SURE], fill_value=False)
    better = holds[holds[ACCURACY]]
    shown = [
        f"on {title_of(dataset, ', '.join(word for attack, word in ATTACKS.items() if said[attack]))}"
        for dataset, said in better[better[[*ATTACKS]].any(axis=1)].iterrows()
    ]
    sure = [title_of(dataset) for dataset in better.index[better[SURE]]]
    made = sum(dataset_in(dataset) in GENERATED for dataset in holds.index)
    of = f"{len(holds)} data sets{f', {made} of them generated' if made else ''}"
    where = f"{listed(shown)}, out of" if shown else "on none of"
    said = f"{name} tests better and is easier to attack by AUC, both by enough to count, {where} {of}"
    other = f"it does both {f'on {listed(sure)}' if sure else 'on none'}"
    return Markdown(f"*{said}. By the members found while one non-member in a thousand is accused, {other}.*")


def scale(about: Mapping[str, Mapping[str, Any]]) -> Markdown:
    """Say what each column of a ledger stands on: what its examples are, how many models, and how small they are.

    Parameters
    ----------
    about : mapping
        From a column to `records.provenance` of its runs, as `Study.sources` gives them.

    Returns
    -------
    Markdown
        A caveat, and a line for each column.
    """
    said = []
    for column, each in about.items():
        fields, models = each["experiments"][0], " + ".join(map(str, each["models"]))
        what = PUBLISHED.get(fields["dataset"], {}).get("what", "")
        said.append(f"- {title_of(column)}: {what}{'; ' * bool(what)}{models} models, {_network(fields)}")
    return Markdown(
        "*Most of these experiments are smaller than the paper's*, whose settings are not known to us. "
        "A claim that is contradicted here may hold there.\n\n" + "\n".join(said)
    )


def _network(fields: Mapping[str, Any]) -> str:
    """A network and how many weights and examples it has; by its name alone where the data are not at hand."""
    try:
        shape = shape_of(fields["dataset"], fields["image_size"])
    except ValueError:
        return fields["model"]
    model = build_model(fields["model"], shape.example, shape.classes, hidden=fields["hidden"], norm=fields["norm"])
    examples = round((fields["pool"] or shape.n_train) * fields["subset_fraction"])
    return f"{fields['model']} of {sum(p.numel() for p in model.parameters()):,} weights, {examples:,} examples each"


@drawn
def answer(ledger: pd.DataFrame, name: str = "SAM") -> Figure:
    """The title's question in one picture: gain in accuracy across, gain in leakage up, with simultaneous intervals.

    A cross for each data set (its colour) and attack (its marker), hollow where the findings do not count it. The quadrant of
    the paper's surprise is shaded, and so are the bands of effects too small to count.

    Parameters
    ----------
    ledger, name
        As for `findings`.
    """
    figure, ax = plt.subplots(figsize=(5.4, 4.6))
    smallest = ledger["smallest"].groupby("claim").first()
    across, up = smallest[ACCURACY], smallest[list(ATTACKS)].max()
    colours = dict(zip(ledger.index.unique("dataset"), itertools.cycle(COLOURS), strict=False))
    firm = counted(ledger).index.unique("dataset")
    marks = dict(zip(ATTACKS, "o^s", strict=True))
    for (dataset, colour), (attack, mark) in itertools.product(colours.items(), marks.items()):
        x, y = ledger.loc[(ACCURACY, dataset)], ledger.loc[(attack, dataset)]
        inside = colour if dataset in firm else "white"
        arms = [[[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]] for row in (x, y)]
        style: dict[str, Any] = {"fmt": mark, "color": colour, "ms": 7, "mfc": inside, "mew": 0.8, "elinewidth": 1.4}
        ax.errorbar(x["estimate"], y["estimate"], xerr=arms[0], yerr=arms[1], **style)
    reach = [1.25 * max(map(abs, limits)) for limits in (ax.get_xlim(), ax.get_ylim())]  # room for the corners' words
    ax.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    ax.locator_params(nbins=5)
    ax.axvspan(-across, across, color=GREY, alpha=0.13, lw=0)
    ax.axhspan(-up, up, color=GREY, alpha=0.13, lw=0)
    ax.fill_between([across, reach[0]], up, reach[1], color="#F0E442", alpha=0.28, lw=0)
    ax.axvline(0, color="black", lw=0.7)
    ax.axhline(0, color="black", lw=0.7)
    for (x, y), said in zip(itertools.product((0, 1), repeat=2), TABLE["corners"], strict=True):
        place: dict[str, Any] = {"ha": ("left", "right")[x], "va": ("bottom", "top")[y], "transform": ax.transAxes}
        ax.text(0.02 + 0.96 * x, 0.02 + 0.96 * y, said, style="italic", fontsize=10, color="#444444", **place)
    ax.set_xlabel(f"gain in test accuracy, {name} − SGD", fontsize=11)
    ax.set_ylabel(f"gain in an attack's AUC, {name} − SGD", fontsize=11)
    own = [Line2D([], [], color=colour, lw=3, label=title_of(dataset)) for dataset, colour in colours.items()]
    signs = [Line2D([], [], color=GREY, marker=mark, ls="", label=ATTACKS[attack]) for attack, mark in marks.items()]
    figure.legend(handles=own, loc="outside lower left", fontsize=10)
    figure.legend(handles=signs, loc="outside lower right", fontsize=10)
    return figure


def _finding(ledger: pd.DataFrame, name: str, claims: Mapping[str, str], holds: str, fails: str) -> str:
    """The data sets by what their verdicts say, the most frequent first; the measure is named where those of a data set differ.

    Of several claims the verdicts are counted, and only data sets that agree or disagree with the paper are named.
    """
    said: dict[str, list[str]] = {}
    measured = ledger["tried"] | (ledger["section"] != "lengths")
    asked = ledger[ledger.index.isin(claims, level="claim") & ledger.apply(was_asked, axis=1) & measured]
    for dataset, rows in asked.groupby("dataset", sort=False):
        for verdict, same in rows.groupby("verdict", sort=False):
            which = ", ".join(claims[claim] for claim, _ in same.index) if len(same) < len(rows) else ""
            if len(claims) == 1 and verdict != NOT_MEASURABLE:
                which = f"{same['estimate'].iloc[0]:+.4f}"
            said.setdefault(str(verdict), []).append(title_of(dataset, which))
    several, times = len(claims) > 1, asked["verdict"].value_counts()
    order = sorted(said, key=lambda verdict: (-times[verdict], [*TABLE["phrases"]].index(verdict)))
    counts = listed([f"{times[verdict]} {TABLE['times'][verdict]}" for verdict in order])
    made = len(asked.index.unique("dataset"))
    whole = f"{len(asked)} comparison{'s' * (len(asked) > 1)} on {made} data set{'s' * (made > 1)}"
    sentences = [f"{whole}: {counts}."] if several and order else []
    for verdict in order:
        if not several or verdict in (SUPPORTED, CONTRADICTED):
            what = (fails if verdict == CONTRADICTED else holds).format(name)
            sentences.append(f"{TABLE['phrases'][verdict].format(what)} {listed(said[verdict])}.")
    return " ".join(sentences)
