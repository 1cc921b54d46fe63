"""The first page: what was found in three sentences and one picture; and verdict cards, which every page shows.

A card keeps two things apart: what the paper says, and what each data set says of it. All is read from a frame of
`claims.ledger_of`, so no number and no outcome is typed by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samlib.data import shape_of
from samlib.inference import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, NOT_MEASURABLE, SUPPORTED
from samlib.models import build_model
from samlib.paper.claims import GENERATED, outlook
from samlib.paper.style import GREY, dataset_title, drawn


class Look(NamedTuple):
    """How a verdict looks, on light and on dark ground: a sign, colours of its label, and that of its interval."""

    sign: str
    ground: str
    ink: str
    line: str


LOOKS = {
    SUPPORTED: Look("●", "#cfe8d5", "#10341c", "#2b9a5d"),
    CONTRADICTED: Look("✕", "#f6cfc4", "#4d1508", "#d1493a"),
    NO_DIFFERENCE: Look("■", "#e3e3e3", "#222222", "#7d7d7d"),
    INCONCLUSIVE: Look("○", "#f7edc4", "#3d3307", "#b07a00"),
    NOT_MEASURABLE: Look("△", "#dfe3f3", "#1c2444", "#6b78c4"),
}
PLAIN = Look("∎", "#e3e3e3", "#222222", "#7d7d7d")  # what is proved gets no verdict
MARKS = {  # the same signs, as SVG around the origin
    SUPPORTED: '<circle r="4.5" fill="{0}"/>',
    CONTRADICTED: '<path d="M-4-4 4 4M-4 4 4-4" stroke="{0}" stroke-width="2.6"/>',
    NO_DIFFERENCE: '<path d="M-4-4H4V4H-4Z" fill="{0}"/>',
    INCONCLUSIVE: '<circle r="4.5" fill="none" stroke="{0}" stroke-width="2"/>',
    NOT_MEASURABLE: '<path d="M-5 4H5L0-5Z" fill="none" stroke="{0}" stroke-width="2"/>',
}
WIDE, HIGH = 220, 22  # units of a strip
ACCURACY, ATTACKS = "C1", {"C2 confidence": "confidence", "C2 LiRA": "LiRA", "C2 RMIA": "RMIA"}
# For each finding of the first page: its claims, what each measures, and what is said where they hold and where they do not.
FINDINGS = {
    "Accuracy": ({ACCURACY: "test accuracy"}, "{} tests better than SGD", "{} tests worse than SGD"),
    "Leakage": (ATTACKS, "{} is easier to attack than SGD", "{} is harder to attack than SGD"),
    "Memorization": (
        {"C3": "scores below .1", "C4": "scores of .1 to .5"},
        "{} memorizes more than SGD", "{} memorizes less than SGD",
    ),
}  # fmt: skip
PAGES = {  # the page that shows each section
    "membership": "membership_risk", "memorization": "memorization", "influence": "influence", "entropy": "influence_entropy",
    "lengths": "ablations",
}  # fmt: skip
COLOURS = ("#CC79A7", "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#333333")  # of data sets (Okabe and Ito 2008)


class Shown:
    """Something to show: HTML where it is rendered, Markdown where it is not, plain text in a terminal."""

    def __init__(self, html: str, markdown: str):
        self.html, self.markdown = html, markdown

    def _repr_html_(self) -> str:
        return self.html

    def _repr_markdown_(self) -> str:
        return self.markdown

    def __repr__(self) -> str:
        return self.markdown.replace("**", "")


def cards(ledger: pd.DataFrame, *, compact: bool = False, name: str = "SAM") -> Shown:
    """A card for each claim, in which a row for each data set shows its verdict and its interval.

    Parameters
    ----------
    ledger : DataFrame
        As `claims.ledger_of` gives it. Claims without a statistic on any data set are listed at the end.
    compact : bool
        Whether to leave out numbers and method, which the ledger's own page has.
    name : str
        The optimizer that stands in SAM's place here.

    Returns
    -------
    Shown
        Shows itself as HTML, Markdown or text.
    """
    parts = {str(claim): part.droplevel("claim") for claim, part in ledger.groupby("claim", sort=False)}
    known = {claim: part for claim, part in parts.items() if part["estimate"].notna().any()}
    html = "".join(_html(claim, part, compact, name) for claim, part in known.items())
    html = f'<div class="samlib-cards{" samlib-compact" if compact else ""}">{html}</div>'
    markdown = "\n\n".join(_markdown(claim, part, name) for claim, part in known.items())
    if rest := [claim for claim in parts if claim not in known]:
        said = f"These runs have no statistic for {'; '.join(rest)}."
        html, markdown = f"{html}<p>{escape(said)}</p>", f"{markdown}\n\n{said}".strip()
    return Shown(html, markdown)


def findings(ledger: pd.DataFrame, name: str = "SAM") -> Markdown:
    """Accuracy, leakage and memorization, a line each: which data sets agree with the paper, and which do not."""
    return Markdown(
        "\n\n".join(f"**{what}.** {_finding(ledger, *finding, name)}" for what, finding in FINDINGS.items())
    )


def surprise(ledger: pd.DataFrame, name: str = "SAM") -> Markdown:
    """Where the paper's surprise shows: better accuracy and more leakage at once, by the verdicts of both."""
    both: dict[str, list[str]] = {}
    verdicts = ledger["verdict"]
    datasets = list(dict.fromkeys(ledger.index.get_level_values("dataset")))
    for dataset in datasets:
        found = [word for claim, word in ATTACKS.items() if verdicts[claim, dataset] == SUPPORTED]
        if verdicts[ACCURACY, dataset] == SUPPORTED and found:
            both[dataset] = found
    shown = " and ".join(f"on {_title(d, ', '.join(words))}" for d, words in both.items())
    where = f"{shown}, of {len(datasets)} data sets" if both else f"on none of {len(datasets)} data sets"
    return Markdown(f"*{name} tests better and is easier to attack, both by enough to count, {where}.*")


def scale(about: Mapping[str, Mapping[str, Any]]) -> Markdown:
    """How small the experiments are: the network, the examples and the models behind each column of a ledger."""
    said = [
        f"{_title(column)}: {' + '.join(map(str, each['models']))} models, {_network(each['experiments'][0])}"
        for column, each in about.items()
    ]
    return Markdown(
        f"These experiments are small ({'; '.join(said)}). The paper's networks and data sets are larger, and its settings are "
        "not known to us. A claim that is contradicted here may hold there."
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

    A cross for each data set (its colour) and attack (its marker). The quadrant of the paper's surprise is shaded, and so
    are the bands of effects too small to count.
    """
    figure, ax = plt.subplots(figsize=(5.4, 4.6))
    rows = ledger[ledger["estimate"].notna()]
    smallest = {claim: rows.loc[[claim], "smallest"].iloc[0] for claim in (ACCURACY, *ATTACKS) if claim in rows.index}
    colours = dict(zip(dict.fromkeys(ledger.index.get_level_values("dataset")), itertools.cycle(COLOURS), strict=False))
    for dataset, colour in colours.items():
        for claim, marker in zip(ATTACKS, "o^s", strict=True):
            if (ACCURACY, dataset) in rows.index and (claim, dataset) in rows.index:
                x, y = rows.loc[(ACCURACY, dataset)], rows.loc[(claim, dataset)]
                ax.plot([x["low"], x["high"]], [y["estimate"]] * 2, color=colour, lw=1.4, alpha=0.8)
                ax.plot([x["estimate"]] * 2, [y["low"], y["high"]], color=colour, lw=1.4, alpha=0.8)
                ax.plot(x["estimate"], y["estimate"], marker, color=colour, ms=7, mec="white", mew=0.8, zorder=3)
    reach = [1.25 * max(map(abs, limits)) for limits in (ax.get_xlim(), ax.get_ylim())]  # room for the corners' words
    ax.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    ax.locator_params(nbins=5)
    across, up = smallest.get(ACCURACY, 0), max((v for k, v in smallest.items() if k != ACCURACY), default=0)
    ax.axvspan(-across, across, color=GREY, alpha=0.13, lw=0)
    ax.axhspan(-up, up, color=GREY, alpha=0.13, lw=0)
    ax.fill_between([across, reach[0]], up, reach[1], color="#F0E442", alpha=0.28, lw=0)
    ax.axvline(0, color="black", lw=0.7)
    ax.axhline(0, color="black", lw=0.7)
    for x, y, said in (
        (1, 1, "better and leakier:\nthe paper's surprise"), (0, 1, "worse and leakier"), (1, 0, "better and\nleaks less"),
        (0, 0, "worse and\nleaks less"),
    ):  # fmt: skip
        ax.text(
            0.02 + 0.96 * x, 0.02 + 0.96 * y, said, transform=ax.transAxes, ha=("left", "right")[x], va=("bottom", "top")[y],
            style="italic", color="#444444", fontsize=10,
        )  # fmt: skip
    ax.set_xlabel(f"gain in test accuracy, {name} − SGD", fontsize=11)
    ax.set_ylabel(f"gain in an attack's AUC, {name} − SGD", fontsize=11)
    own = [Line2D([], [], color=c, lw=3, label=_title(d)) for d, c in colours.items()]
    marks = [
        Line2D([], [], color=GREY, marker=m, ls="", label=word) for m, word in zip("o^s", ATTACKS.values(), strict=True)
    ]
    for handles, side in ((own, "left"), (marks, "right")):
        figure.legend(handles=handles, loc=f"outside lower {side}", fontsize=10)
    return figure


def text_of(row: pd.Series) -> str:
    """A row of the ledger in sentences, after its data set's name and verdict."""
    if math.isnan(row["estimate"]):
        return outlook(row)
    said = [f"{row['estimate']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"]
    if row["models"]:
        stage = "confirmatory" if row["confirmatory"] else "exploratory"
        said.append(f"{row['models'] // 2} models of each, {row['source']}, {stage}")
    if row.get("reliability", 1) < 1:
        said.append(f"its scores have a reliability of {row['reliability']:.2f}")
    return f"{'; '.join(said)}. {outlook(row)}".strip()


def _method(part: pd.DataFrame, name: str) -> str:
    """How a claim is decided, and what the paper reports: the same for all data sets."""
    row = part.iloc[0]
    said = f"Measured, with a {1 - row['level']:.2%} interval: {row['statistic']}."
    if row["smallest"]:
        more = "more" if row["direction"] > 0 else "less"
        said += f" The paper claims {more} than zero; effects within {row['smallest']:g} do not count."
    said += f" {name} stands in SAM's place here." if name != "SAM" else ""
    return said + (f" The paper reports {row['reported']}." if row["reported"] else "")


def _says(row: pd.Series) -> str:
    return f"{'Reviewers ask whether this holds' if row.get('control') else 'The paper says'}: {row['text']}"


def _markdown(claim: str, part: pd.DataFrame, name: str) -> str:
    rows = [f"- On {_title(dataset)}: **{row['verdict']}**. {text_of(row)}" for dataset, row in part.iterrows()]
    return "\n".join([f"**{claim}.** {_says(part.iloc[0])}", "", *rows, "", _method(part, name)])


def _html(claim: str, part: pd.DataFrame, compact: bool, name: str) -> str:
    anchor = "-".join("".join(c if c.isalnum() else " " for c in claim.lower()).split())
    reach, items = _reach(part), []
    for dataset, row in part.iterrows():
        look, half = LOOKS.get(row["verdict"], PLAIN), row["models"] // 2
        style = f"background:{look.ground};color:{look.ink};border-radius:.6em;padding:.05em .6em"
        size = f" <small>{half} + {half}, {row['source']}</small>" if compact and half else ""
        items.append(
            f'<li><span class="samlib-on">On {escape(_title(dataset))}:{size}</span> <span class="samlib-said" style="{style}">'
            f'<span aria-hidden="true">{look.sign}</span> {row["verdict"]}</span> {_strip(row, reach)}'
            + ("</li>" if compact else f' <span class="samlib-numbers">{escape(text_of(row))}</span></li>')
        )
    links = {"Ledger": f"ledger.html#{anchor}", "Fixed beforehand": "../preregistration.html"}
    if "section" in part:
        section = part["section"].iloc[0]
        links |= {"Figures": f"{PAGES[section]}.html", "Code": f"../_modules/samlib/paper/{section}.html"}
    # A page of the book shows these; elsewhere they would lead nowhere, and its style sheet alone brings them out.
    linked = " · ".join(f'<a href="{address}">{word}</a>' for word, address in links.items())
    return (
        f'<article class="samlib-card" id="{anchor}">'
        f'<p class="samlib-claim"><b>{escape(claim)}.</b> {escape(_says(part.iloc[0]))}</p><ul>{"".join(items)}</ul>'
        + ("" if compact else f'<p class="samlib-method">{escape(_method(part, name))}</p>')
        + f'<p class="samlib-links" style="display:none">{linked}</p></article>'
    )


def _reach(part: pd.DataFrame) -> float:
    """Half of what the strips of a card show: its intervals and the smallest effect, unless one is far wider than another."""
    ends = part[["low", "high"]].abs().max(axis=1).dropna()
    return 1.15 * max(min(ends.max(), 3 * ends.median()), 1.5 * part["smallest"].iloc[0])


def _strip(row: pd.Series, reach: float) -> str:
    """A row's interval as inline SVG, with zero, the band of effects that do not count, and the side that the paper claims."""
    if math.isnan(row["estimate"]) or not row["smallest"]:
        return ""
    middle, look, side = HIGH / 2, LOOKS[row["verdict"]], row["direction"]

    def at(value: float) -> float:
        return WIDE / 2 + max(-1.0, min(1.0, value / reach)) * (WIDE / 2 - 12)

    band, edge = at(row["smallest"]) - WIDE / 2, WIDE / 2 + side * (WIDE / 2 - 1)
    cut = "".join(
        f'<path d="M{at(end) + sign * 5:.1f} {middle}l{-sign * 5}-4v8z" fill="{look.line}"/>'
        for end, sign in ((row["low"], -1), (row["high"], 1)) if sign * end > reach
    )  # fmt: skip
    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" width="{WIDE}" height="{HIGH}" role="img">'
        f"<title>{row['estimate']:+.4f}, {row['verdict']}</title>"
        f"<desc>Interval {row['low']:+.4f} to {row['high']:+.4f}; effects within {row['smallest']:g} of zero do not count.</desc>"
        f'<path d="M{WIDE / 2 - band:.1f} 2h{2 * band:.1f}v{HIGH - 4}h{-2 * band:.1f}z" fill="currentColor" opacity=".15"/>'
        f'<path d="M{WIDE / 2} 0v{HIGH}M8 {middle}H{WIDE - 8}" stroke="currentColor" opacity=".4"/>'
        f'<path d="M{edge:.0f} {middle}l{-side * 6}-4v8z" fill="currentColor" opacity=".55"/>'
        f'<path d="M{at(row["low"]):.1f} {middle}H{at(row["high"]):.1f}" stroke="{look.line}" stroke-width="3"/>{cut}'
        f'<g transform="translate({at(row["estimate"]):.1f} {middle})">{MARKS[row["verdict"]].format(look.line)}</g></svg>'
    )


def _finding(ledger: pd.DataFrame, words: Mapping[str, str], holds: str, fails: str, name: str) -> str:
    """The data sets by what their verdicts say; the measure is named where those of a data set differ."""
    phrases = {
        SUPPORTED: f"As the paper says, {holds.format(name)} on", CONTRADICTED: f"Against the paper, {fails.format(name)} on",
        NO_DIFFERENCE: "No difference that counts:", INCONCLUSIVE: "Undecided:", NOT_MEASURABLE: "Not measurable:",
    }  # fmt: skip
    said: dict[str, list[str]] = {}
    part = ledger[ledger.index.get_level_values("claim").isin(words)]
    for dataset, rows in part.groupby("dataset", sort=False):
        for verdict, same in rows.groupby("verdict", sort=False):
            names = [words[claim] for claim in same.index.get_level_values("claim")]
            which = ", ".join(names) if len(same) < len(rows) else ""
            which = f"{same['estimate'].iloc[0]:+.4f}" if len(words) == 1 and same["estimate"].notna().all() else which
            said.setdefault(str(verdict), []).append(_title(dataset, which))
    return " ".join(f"{phrase} {_listed(said[verdict])}." for verdict, phrase in phrases.items() if verdict in said)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _title(column: Any, more: str = "") -> str:
    """A column's data set, whether it is generated, and more; not where its models come from."""
    name = str(column).partition(",")[0]
    notes = [note for note in ("generated" if name in GENERATED else "", more) if note]
    title = dataset_title(name)
    return f"{title} ({'; '.join(notes)})".replace(") (", "; ") if notes else title
