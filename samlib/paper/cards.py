"""The first page: what was found in three sentences, one picture and one table; and verdict cards, which every page shows.

A card keeps two things apart: what the paper says, and what each data set says of it. All is read from a frame of
`claims.ledger_of`, so no number and no outcome is typed by hand.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from samlib.data import shape_of
from samlib.inference import CONTRADICTED, SUPPORTED
from samlib.models import build_model
from samlib.paper.claims import GENERATED, outlook
from samlib.paper.panels import listed
from samlib.paper.style import GREY, dataset_title, drawn

TABLE = tomllib.loads(Path(__file__).with_name("cards.toml").read_text())
LOOKS = TABLE["look"]
ACCURACY, SURE = "C1", "C16"  # SURE: members that are found with hardly a false accusation
ATTACKS = {claim: word for claim, word in TABLE["finding"]["Leakage"]["claims"].items() if claim != SURE}  # by AUC
WIDE, NARROW, HIGH = 220, 110, 22  # units of a strip
COLOURS = ("#CC79A7", "#0072B2", "#E69F00", "#009E73", "#56B4E9", "#333333")  # of data sets (Okabe and Ito 2008)


class Shown(Markdown):
    """Something to show: HTML where it is rendered, Markdown where it is not, plain text in a terminal.

    Parameters
    ----------
    html, markdown : str
        The same in both languages.

    Examples
    --------
    >>> Shown("<b>Yes</b>", "**Yes**")
    Yes
    """

    def __init__(self, html: str, markdown: str):
        super().__init__(markdown)
        self.html = html

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.data.replace("**", "")


def glance(ledger: pd.DataFrame, name: str = "SAM") -> Shown:
    """The whole ledger in one table: a row for each claim, a column for each data set, the verdict's sign and strip in a cell.

    Parameters
    ----------
    ledger : DataFrame
        As `claims.ledger_of` gives it, with one column for each data set.
    name : str
        The optimizer that stands in SAM's place here.

    Returns
    -------
    Shown
        Shows itself as HTML, or as a table in Markdown.
    """
    columns, last = ledger.index.unique("dataset"), ""
    size = ledger.groupby("dataset")[["models", "source"]].first().loc[columns]
    heads = [f"{m // 2} + {m // 2}, {source}" for m, source in size.itertuples(index=False)]
    html = "".join(
        f'<th scope="col"><span>{escape(_title(column))}</span><br/><small>{head}</small></th>'
        for column, head in zip(columns, heads, strict=True)
    )
    html = f'<table class="samlib-glance"><thead><tr><th scope="col">{_says_who(name)}</th>{html}</tr></thead><tbody>'
    lines = [" | ".join([_says_who(name), *map(_title, columns)]), " | ".join(["---"] * (1 + len(columns)))]
    for claim, part in _parts(ledger).items():
        text = "" if part["text"].iloc[0] == last else part["text"].iloc[0]  # once for a claim's several measures
        last, reach = part["text"].iloc[0], _reach(part)
        link = f'<a href="ledger.html#{_anchor(claim)}" style="display:none"><b>{escape(claim)}</b></a>'
        link *= int(part["estimate"].notna().any())  # to a card, if there is one
        html += f'<tr><th scope="row">{link}<b>{escape(claim)}</b>{". " * bool(text)}{escape(text)}</th>'
        html += "".join(f"<td>{_sign(row)}{_strip(row, reach, NARROW)}</td>" for _, row in part.iterrows()) + "</tr>"
        lines.append(" | ".join([f"**{claim}.** {text}", *part["verdict"]]))
    return Shown(f"{html}</tbody></table>", "\n".join(f"| {line} |" for line in lines))


def cards(ledger: pd.DataFrame, *, name: str = "SAM") -> Shown:
    """A card for each claim, in which a row for each data set shows its verdict, its interval and its numbers.

    Parameters
    ----------
    ledger : DataFrame
        As `claims.ledger_of` gives it. Claims without a statistic on any data set are listed at the end.
    name : str
        The optimizer that stands in SAM's place here.

    Returns
    -------
    Shown
        Shows itself as HTML, Markdown or text.
    """
    parts = _parts(ledger)
    known = {claim: part for claim, part in parts.items() if part["estimate"].notna().any()}
    html = f'<div class="samlib-cards">{"".join(_html(claim, part, name) for claim, part in known.items())}</div>'
    markdown = "\n\n".join(_markdown(claim, part, name) for claim, part in known.items())
    if rest := [claim for claim in parts if claim not in known]:
        said = f"These runs have no statistic for {'; '.join(rest)}."
        html, markdown = f"{html}<p>{escape(said)}</p>", f"{markdown}\n\n{said}".strip()
    return Shown(html, markdown)


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
        Three paragraphs, and a line on which data sets are exploratory. A measure is named where the verdicts of one data
        set differ.
    """
    said = [f"**{what}.** {_finding(ledger, name, **of)}" for what, of in TABLE["finding"].items()]
    fixed = ledger["confirmatory"].groupby("dataset").first()[ledger.index.unique("dataset")]
    if len(tried := list(map(_title, fixed.index[~fixed.astype(bool)]))) < len(fixed) and tried:
        said.append(f"*Exploratory: {listed(tried)}. The other runs were fixed in writing before they were made.*")
    return Markdown("\n\n".join(said))


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
    holds = (ledger["verdict"] == SUPPORTED).unstack("dataset")[ledger.index.unique("dataset")]
    shown = [
        f"on {_title(dataset, ', '.join(word for attack, word in ATTACKS.items() if said[attack]))}"
        for dataset, said in holds.items()
        if said[ACCURACY] and said[list(ATTACKS)].any()
    ]
    where = f"{listed(shown)}, out of" if shown else "on none of"
    said = f"{name} tests better and is easier to attack by AUC, both by enough to count, {where} {holds.shape[1]} data sets"
    sure = [_title(dataset) for dataset, said in holds.items() if said[ACCURACY] and said[SURE]]
    other = f"it does both {f'on {listed(sure)}' if sure else 'on none'}"
    return Markdown(f"*{said}. By the members found while one non-member in a thousand is accused, {other}.*")


def scale(about: Mapping[str, Mapping[str, Any]]) -> Markdown:
    """Say how small the experiments are: the network, the examples and the models behind each column of a ledger.

    Parameters
    ----------
    about : mapping
        From a column to `records.provenance` of its runs, as `Study.sources` gives them.

    Returns
    -------
    Markdown
        A caveat, and a line for each column.
    """
    said = [
        f"- {_title(column)}: {' + '.join(map(str, each['models']))} models, {_network(each['experiments'][0])}"
        for column, each in about.items()
    ]
    return Markdown(
        "*These experiments are small.* The paper's networks and data sets are larger, and its settings are not known to us. "
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

    A cross for each data set (its colour) and attack (its marker). The quadrant of the paper's surprise is shaded, and so
    are the bands of effects too small to count.

    Parameters
    ----------
    ledger, name
        As for `findings`.
    """
    figure, ax = plt.subplots(figsize=(5.4, 4.6))
    smallest = ledger["smallest"].groupby("claim").first()
    across, up = smallest[ACCURACY], smallest[list(ATTACKS)].max()
    colours = dict(zip(ledger.index.unique("dataset"), itertools.cycle(COLOURS), strict=False))
    marks = dict(zip(ATTACKS, "o^s", strict=True))
    for (dataset, colour), (attack, mark) in itertools.product(colours.items(), marks.items()):
        x, y = ledger.loc[(ACCURACY, dataset)], ledger.loc[(attack, dataset)]
        arms = [[[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]] for row in (x, y)]
        style: dict[str, Any] = {"fmt": mark, "color": colour, "ms": 7, "mec": "white", "mew": 0.8, "elinewidth": 1.4}
        ax.errorbar(x["estimate"], y["estimate"], xerr=arms[0], yerr=arms[1], **style)
    reach = [1.25 * max(map(abs, limits)) for limits in (ax.get_xlim(), ax.get_ylim())]  # room for the corners' words
    ax.set(xlim=(-reach[0], reach[0]), ylim=(-reach[1], reach[1]))
    ax.locator_params(nbins=5)
    ax.axvspan(-across, across, color=GREY, alpha=0.13, lw=0)
    ax.axhspan(-up, up, color=GREY, alpha=0.13, lw=0)
    ax.fill_between([across, reach[0]], up, reach[1], color="#F0E442", alpha=0.28, lw=0)
    ax.axvline(0, color="black", lw=0.7)
    ax.axhline(0, color="black", lw=0.7)
    corners = (
        "worse and\nleaks less",
        "worse and leakier",
        "better and\nleaks less",
        "better, leakier:\nthe paper's surprise",
    )
    for (x, y), said in zip(itertools.product((0, 1), repeat=2), corners, strict=True):
        place: dict[str, Any] = {"ha": ("left", "right")[x], "va": ("bottom", "top")[y], "transform": ax.transAxes}
        ax.text(0.02 + 0.96 * x, 0.02 + 0.96 * y, said, style="italic", fontsize=10, color="#444444", **place)
    ax.set_xlabel(f"gain in test accuracy, {name} − SGD", fontsize=11)
    ax.set_ylabel(f"gain in an attack's AUC, {name} − SGD", fontsize=11)
    own = [Line2D([], [], color=colour, lw=3, label=_title(dataset)) for dataset, colour in colours.items()]
    signs = [Line2D([], [], color=GREY, marker=mark, ls="", label=ATTACKS[attack]) for attack, mark in marks.items()]
    figure.legend(handles=own, loc="outside lower left", fontsize=10)
    figure.legend(handles=signs, loc="outside lower right", fontsize=10)
    return figure


def _numbers(row: pd.Series) -> str:
    """A row of the ledger in sentences, after its data set's name and verdict."""
    if math.isnan(row["estimate"]):
        return outlook(row)
    said = [f"{row['estimate']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"]
    if row["models"]:
        stage = "confirmatory" if row["confirmatory"] else "exploratory"
        models = "runs of many lengths" if row.get("section") == "lengths" else f"{row['models'] // 2} models of each"
        said.append(f"{models}, {row['source']}, {stage}")
    if row.get("reliability", 1) < 1:
        said.append(f"its scores have a reliability of {row['reliability']:.3f}")
    return f"{'; '.join(said)}. {outlook(row)}".strip()


def _method(part: pd.DataFrame, name: str) -> str:
    """How a claim is decided, and what the paper reports: the same for all data sets."""
    row = part.iloc[0]
    said = f"Measured, with a {1 - row['level']:.2%} interval: {row['statistic']}."
    if isinstance(rule := row.get("rule"), str):
        said += f" {rule}"
    elif row["smallest"]:
        more = "more" if row["direction"] > 0 else "less"
        who = "It is asked whether this is" if row.get("control") else "The paper claims"
        said += f" {who} {more} than zero; effects within {row['smallest']:g} do not count."
    said += f" {name} stands in SAM's place here." if name != "SAM" else ""
    return said + (f" The paper reports {row['reported']}." if row["reported"] else "")


def _says(row: pd.Series) -> str:
    return f"{'Reviewers ask whether this holds' if row.get('control') else 'The paper says'}: {row['text']}"


def _parts(ledger: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each claim, by data set."""
    return {str(claim): part.droplevel("claim") for claim, part in ledger.groupby("claim", sort=False)}


def _says_who(name: str) -> str:
    return "The paper says" if name == "SAM" else f"The paper says, with {name} in SAM's place"


def _rows(part: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """The rows of a card, each with its data set; those without an estimate stand last, together where they lack the same."""
    lacking = part[part["estimate"].isna()]
    rows = [(_title(dataset), row) for dataset, row in part.dropna(subset="estimate").iterrows()]
    why = lacking.apply(outlook, axis=1) if len(lacking) else pd.Series(dtype=str)
    return rows + [
        (listed(list(map(_title, same.index))), same.iloc[0]) for _, same in lacking.groupby(why, sort=False)
    ]


def _markdown(claim: str, part: pd.DataFrame, name: str) -> str:
    rows = [f"- On {where}: **{row['verdict']}**. {_numbers(row)}" for where, row in _rows(part)]
    return "\n".join([f"**{claim}.** {_says(part.iloc[0])}", "", *rows, "", _method(part, name)])


def _html(claim: str, part: pd.DataFrame, name: str) -> str:
    reach = _reach(part)
    items = "".join(
        f'<li><span class="samlib-on">On {escape(where)}:</span> {_sign(row, row["verdict"])} {_strip(row, reach)} '
        f'<span class="samlib-effect">{escape(_numbers(row))}</span></li>'
        for where, row in _rows(part)
    )
    ledger = {} if part.iloc[0].get("control") else {"Ledger": f"ledger.html#{_anchor(claim)}"}
    links = ledger | {"Rules": "../preregistration.html"}
    if "section" in part:
        section, figures = part["section"].iloc[0], TABLE["figures"]
        own = [figures[each] for each in (claim, section, claim.partition(" ")[0]) if each in figures]
        links |= {"Figure": own[0]} if own else {}  # a claim that is not the paper's has none
        links["Code"] = f"../_modules/samlib/paper/{section}.html#decided"
    # A page of the book shows these; elsewhere they would lead nowhere, and its style sheet alone brings them out.
    linked = " · ".join(f'<a href="{address}">{word}</a>' for word, address in links.items())
    return (
        f'<article class="samlib-card" id="{_anchor(claim)}">'
        f'<p class="samlib-claim"><b>{escape(claim)}.</b> {escape(_says(part.iloc[0]))}</p><ul>{items}</ul>'
        f'<p class="samlib-method">{escape(_method(part, name))}</p>'
        f'<p class="samlib-links" style="display:none">{linked}</p></article>'
    )


def _anchor(claim: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in claim.lower()).split())


def _sign(row: pd.Series, word: str = "") -> str:
    """The sign of a row's verdict on its ground, alone or before the word; what is not shown is there to be read aloud."""
    look = LOOKS[row["verdict"]]
    style = f"background:{look['ground']};color:{look['ink']};border-radius:.6em;padding:.05em .6em"
    sign = f'<span aria-hidden="true">{look["sign"]}</span>'
    if not word:
        return f'<span class="samlib-said" style="{style}" role="img" aria-label="{row["verdict"]}">{sign}</span>'
    return f'<span class="samlib-said" style="{style}">{sign} {word}</span>'


def _reach(part: pd.DataFrame) -> float:
    """Half of what the strips of a card show: its intervals and the smallest effect, unless one is far wider than another."""
    ends = part[["low", "high"]].abs().max(axis=1).dropna()
    return 1.15 * max(min(ends.max(), 3 * ends.median()), 1.5 * part["smallest"].iloc[0])


def _strip(row: pd.Series, reach: float, wide: int = WIDE) -> str:
    """A row's interval as inline SVG, with zero, the band of effects that do not count, and the side that the paper claims."""
    if math.isnan(row["estimate"]) or not row["smallest"]:
        return ""

    def at(value: float) -> float:
        return wide / 2 + max(-1.0, min(1.0, value / reach)) * (wide / 2 - 12)

    def arrow(tip: float, side: int, more: str) -> str:
        return f'<path d="M{tip:.1f} {HIGH / 2}l{-side * 6}-4v8z" {more}/>'

    band, look, side = at(row["smallest"]) - wide / 2, LOOKS[row["verdict"]], row["direction"]
    colour = look["line"]
    ends = ((row["low"], -1), (row["high"], 1))
    cut = "".join(arrow(at(end) + 6 * s, s, f'fill="{colour}"') for end, s in ends if s * end > reach)
    return (
        f'<svg viewBox="0 0 {wide} {HIGH}" width="{wide}" height="{HIGH}" role="img">'
        f"<title>{row['estimate']:+.4f}, {row['verdict']}</title>"
        f"<desc>Interval {row['low']:+.4f} to {row['high']:+.4f}; effects within {row['smallest']:g} of zero do not count.</desc>"
        f'<path d="M{wide / 2 - band:.1f} 2h{2 * band:.1f}v{HIGH - 4}h{-2 * band:.1f}z" fill="currentColor" opacity=".15"/>'
        f'<path d="M{wide / 2} 0v{HIGH}M8 {HIGH / 2}H{wide - 8}" stroke="currentColor" opacity=".4"/>'
        + arrow(wide / 2 + side * (wide / 2 - 1), side, 'fill="currentColor" opacity=".55"')
        + f'<path d="M{at(row["low"]):.1f} {HIGH / 2}H{at(row["high"]):.1f}" stroke="{colour}" stroke-width="3"/>{cut}'
        f'<g transform="translate({at(row["estimate"]):.1f} {HIGH / 2})">{look["mark"].format(colour)}</g></svg>'
    )


def _finding(ledger: pd.DataFrame, name: str, claims: Mapping[str, str], holds: str, fails: str) -> str:
    """The data sets by what their verdicts say; the measure is named where those of a data set differ."""
    said: dict[str, list[str]] = {}
    for dataset, rows in ledger[ledger.index.isin(claims, level="claim")].groupby("dataset", sort=False):
        for verdict, same in rows.groupby("verdict", sort=False):
            which = ", ".join(claims[claim] for claim, _ in same.index) if len(same) < len(rows) else ""
            if len(claims) == 1 and same["estimate"].notna().all():
                which = f"{same['estimate'].iloc[0]:+.4f}"
            said.setdefault(str(verdict), []).append(_title(dataset, which))
    whole = {SUPPORTED: holds.format(name), CONTRADICTED: fails.format(name)}
    phrases = {verdict: phrase.format(whole.get(verdict)) for verdict, phrase in TABLE["phrases"].items()}
    return " ".join(f"{phrase} {listed(said[verdict])}." for verdict, phrase in phrases.items() if verdict in said)


def _title(column: Any, more: str = "") -> str:
    """A column's data set, whether it is generated, and more; not where its models come from."""
    name = str(column).partition(",")[0]
    notes = [note for note in ("generated" if name in GENERATED else "", more) if note]
    title = dataset_title(name)
    return f"{title} ({'; '.join(notes)})".replace(") (", "; ") if notes else title
