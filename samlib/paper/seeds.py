"""Do other base seeds give the same estimates? A recorded run beside smaller runs that differ in their seed alone."""

from __future__ import annotations

import numpy as np
from IPython.display import Markdown

from samlib.paper import claims
from samlib.paper.frames import Section
from samlib.paper.panels import listed, multiples
from samlib.paper.style import INK

BAND = 2  # standard errors; if only chance moves estimates, about 95 of 100 lie within
MARKS = "osD^v"


def apart(repeated: Section) -> Section:
    """How far each other seed's estimate lies from the recorded one, in standard errors.

    Parameters
    ----------
    repeated : Section
        For each data set the frames "effects" and "seeds", as `Study.repeated` gives them.

    Returns
    -------
    Section
        For each data set the frame "seeds": seed, claim, apart. Only models contribute to the standard error, those of both
        runs, since the examples are the same.
    """
    rows = {}
    for dataset, frames in repeated.items():
        others = frames["seeds"]
        others = others[others.index.isin([claim.id for claim in claims.CLAIMS], level="claim")]
        own = frames["effects"].loc[others.index.get_level_values("claim")].set_index(others.index)
        found = (others["estimate"] - own["estimate"]) / np.sqrt(others["by_models"] + own["by_models"])
        rows[dataset] = {"seeds": found.rename("apart").dropna().reset_index()}
    return repeated.but(rows)


def other_seeds(found: Section):
    """Each other seed's estimate of each claim: how far it lies from the recorded one, and the band of chance."""
    if not found:
        return Markdown("*No run here was repeated with other seeds.*")
    known = {claim for frames in found.values() for claim in frames["seeds"]["claim"]}
    order = [claim.id for claim in claims.CLAIMS if claim.id in known]

    def draw(ax, rows):
        ax.axvspan(-BAND, BAND, color=INK, alpha=0.1, lw=0)
        for mark, (seed, own) in zip(MARKS, rows.groupby("seed"), strict=False):
            place = [-order.index(each) for each in own["claim"]]
            ax.plot(own["apart"], place, mark, color=INK, mfc="none", label=f"seed {seed}")
        ax.set(yticks=-np.arange(len(order)), yticklabels=order, xlabel="standard errors")
        ax.grid(axis="y", alpha=0.3)

    return multiples(found, ["seeds"], draw, height=3.2, sharex=True, sharey=True)


def moved(found: Section) -> Markdown:
    """Which claims all other seeds move beyond the band, and to the same side."""
    said = []
    for title, frames in found.titled().items():
        ends = frames["seeds"].groupby("claim")["apart"].agg(["min", "max"])
        beyond = ends.index[(ends["min"] > BAND) | (ends["max"] < -BAND)]
        names = [claim.id for claim in claims.CLAIMS if claim.id in beyond]
        said.append(f"- **{title}**: {listed(names) or 'none'}.")
    return Markdown("\n".join(said) or "- none")
