"""Verdict cards, which every page shows, and the whole ledger in one table.

A card keeps two things apart: what the paper says, and what each data set says of it. All is read from a frame of
`claims.ledger_of`, so no number and no outcome is typed by hand.
"""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd
from IPython.display import Markdown

from samlib.paper import values
from samlib.paper.claims import GENERATED, outlook, was_asked
from samlib.paper.panels import listed
from samlib.paper.style import dataset_title

TABLE = values("cards")
LOOKS = TABLE["look"]
NOT_ASKED = "not asked"
WIDE, NARROW = 220, 110  # units of a strip


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
    who = "The paper says" if name == "SAM" else f"The paper says, with {name} in SAM's place"
    columns, last = ledger.groupby("dataset", sort=False)[["models", "source"]].first(), ""
    html = "".join(
        f'<th scope="col"><span>{escape(title_of(column))}</span><br/><small>{m // 2} + {m // 2}, {source}</small></th>'
        for column, m, source in columns.itertuples()
    )
    html = f'<table class="samlib-glance"><thead><tr><th scope="col">{who}</th>{html}</tr></thead><tbody>'
    lines = [" | ".join([who, *map(title_of, columns.index)]), " | ".join(["---"] * (1 + len(columns)))]
    for claim, part in _parts(ledger).items():
        text = "" if part["text"].iloc[0] == last else part["text"].iloc[0]  # once for a claim's several measures
        last, reach = part["text"].iloc[0], _reach(part)
        link = f'<a href="ledger.html#{_anchor(claim)}" style="display:none"><b>{escape(claim)}</b></a>'
        link *= int(part["estimate"].notna().any())  # to a card, if there is one
        html += f'<tr><th scope="row">{link}<b>{escape(claim)}</b>{". " * bool(text)}{escape(text)}</th>'
        cells = [(_verdict(row), _strip(row, reach, NARROW)) for _, row in part.iterrows()]
        html += "".join(f"<td>{badge(verdict)}{strip}</td>" for verdict, strip in cells) + "</tr>"
        lines.append(" | ".join([f"**{claim}.** {text}", *(verdict for verdict, _ in cells)]))
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
    lacking: dict[str, list[str]] = {}
    for claim, part in parts.items():
        if claim not in known:
            lacking.setdefault(" ".join(part.apply(outlook, axis=1).unique()), []).append(claim)
    for why, claims in lacking.items():
        said = f"These runs have no statistic for {'; '.join(claims)}. {why}"
        html, markdown = f"{html}<p>{escape(said)}</p>", f"{markdown}\n\n{said}".strip()
    return Shown(html, markdown)


def _numbers(row: pd.Series) -> str:
    """A row of the ledger in sentences, after its data set's name and verdict."""
    if math.isnan(row["estimate"]):
        return outlook(row)
    effect = f"{row['estimate']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})"
    runs = {True: "confirmatory", False: "exploratory"}.get(row["confirmatory"])  # a theorem has none
    if row["models"]:
        models = "runs of many lengths" if row.get("section") == "lengths" else f"{row['models'] // 2} models of each"
        runs = f"{models}, {row['source']}, {runs}"
    scores = f"its scores have a reliability of {row['reliability']:.3f}" if row.get("reliability", 1) < 1 else None
    return f"{'; '.join(filter(None, [effect, runs, scores]))}. {outlook(row)}".strip()


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


def _rows(part: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """The rows of a card, each with its data set; those without an estimate stand last, together where they lack the same."""
    part = part.sort_values("estimate", key=pd.isna, kind="stable")
    why = part.apply(outlook, axis=1).where(part["estimate"].isna(), part.index)  # one with an estimate stands alone
    return [(listed(list(map(title_of, same.index))), same.iloc[0]) for _, same in part.groupby(why, sort=False)]


def _markdown(claim: str, part: pd.DataFrame, name: str) -> str:
    rows = [f"- On {where}: **{_verdict(row)}**. {_numbers(row)}" for where, row in _rows(part)]
    return "\n".join([f"**{claim}.** {_says(part.iloc[0])}", "", *rows, "", _method(part, name)])


def _html(claim: str, part: pd.DataFrame, name: str) -> str:
    reach = _reach(part)
    items = "".join(
        f'<li><span class="samlib-on">On {escape(where)}:</span> {badge(_verdict(row), said=True)} {_strip(row, reach)} '
        f'<span class="samlib-effect">{escape(_numbers(row))}</span></li>'
        for where, row in _rows(part)
    )
    section, whole = part.iloc[0].get("section", ""), claim.partition(" ")[0]
    links = {
        "Ledger": None if part.iloc[0].get("control") else f"ledger.html#{_anchor(claim)}",
        "Rules": "../preregistration.html",
        "Figure": next(filter(None, map(TABLE["figures"].get, (claim, section, whole))), None),
        "Code": f"../_modules/samlib/paper/{TABLE['code'].get(whole, f'{section}.html#decided')}",
    }
    # A page of the book shows these; elsewhere they would lead nowhere, and its style sheet alone brings them out.
    linked = " · ".join(f'<a href="{address}">{word}</a>' for word, address in links.items() if address)
    return (
        f'<article class="samlib-card" id="{_anchor(claim)}">'
        f'<p class="samlib-claim"><b>{escape(claim)}.</b> {escape(_says(part.iloc[0]))}</p><ul>{items}</ul>'
        f'<p class="samlib-method">{escape(_method(part, name))}</p>'
        f'<p class="samlib-links" style="display:none">{linked}</p></article>'
    )


def _anchor(claim: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in claim.lower()).split())


def _verdict(row: pd.Series) -> str:
    """The verdict of a row as it is shown."""
    return row["verdict"] if was_asked(row) else NOT_ASKED


def badge(verdict: str, *, said: bool = False) -> str:
    """The sign of a verdict on its ground as HTML, alone or before the words; what is not shown is there to be read aloud."""
    look = LOOKS[verdict]
    style = f"background:{look['ground']};color:{look['ink']};border-radius:.6em;padding:.05em .6em"
    named, words = ("", f" {verdict}") if said else (f' role="img" aria-label="{verdict}"', "")
    return (
        f'<span class="samlib-said" style="{style}"{named}><span aria-hidden="true">{look["sign"]}</span>{words}</span>'
    )


def _reach(part: pd.DataFrame) -> float:
    """Half of what the strips of a card show: its intervals and the smallest effect, unless one is far wider than another."""
    ends = part[["low", "high"]].abs().max(axis=1).dropna()
    return 1.15 * max(min(ends.max(), 3 * ends.median()), 1.5 * part["smallest"].iloc[0])


def _strip(row: pd.Series, reach: float, wide: int = WIDE) -> str:
    """A row's interval as inline SVG, with zero, the band of effects that do not count, and the side that the paper claims."""
    if math.isnan(row["estimate"]) or not row["smallest"]:
        return ""

    half, colour = wide / 2, LOOKS[row["verdict"]]["line"]

    def at(value: float) -> float:
        return half + max(-1.0, min(1.0, value / reach)) * (half - 12)

    def arrow(tip: float, side: int, look: str) -> str:
        return TABLE["arrow"].format(tip=tip, back=-6 * side, look=look)

    side, ends = row["direction"], ((row["low"], -1), (row["high"], 1))
    more = {
        "claimed": arrow(half + side * (half - 1), side, 'fill="currentColor" opacity=".55"'),
        "cut": "".join(arrow(at(end) + 6 * s, s, f'fill="{colour}"') for end, s in ends if s * end > reach),
        "mark": LOOKS[row["verdict"]]["mark"].format(colour),
    }
    places = {name: at(row[name]) for name in ("low", "high", "estimate", "smallest")}
    band = places["smallest"] - half
    more |= {"left": half - band, "band": 2 * band, "right": wide - 8, "colour": colour}
    return TABLE["strip"].format(row=row, wide=wide, half=half, **more, **places)


def dataset_in(column: Any) -> str:
    """The data set of a column of the ledger."""
    return str(column).partition(",")[0]


def title_of(column: Any, more: str = "") -> str:
    """A column's data set, whether it is generated, and more; not where its models come from."""
    name = dataset_in(column)
    notes = [note for note in ("generated" if name in GENERATED else "", more) if note]
    title = dataset_title(name)
    return f"{title} ({'; '.join(notes)})".replace(") (", "; ") if notes else title
