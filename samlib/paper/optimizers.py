"""Other optimizers and architectures compared with SGD (Table 3; C14), and what pages of many settings share.

An optimizer is compared with SGD only if both fit the training examples about equally well, since leakage depends on how far
training went.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib.audit import Pair, attack_scores, compared
from samlib.estimators import memorization_terms
from samlib.evaluation import auc_terms
from samlib.experiment import WITHOUT_RADIUS
from samlib.inference import CONTRADICTED, INCONCLUSIVE, LEVEL, NO_DIFFERENCE, NOT_MEASURABLE, SUPPORTED, mean
from samlib.paper.cards import badge
from samlib.paper.claims import Claim, decide
from samlib.paper.draw import gaps
from samlib.paper.frames import Found, Frames, Section, counted, effects, table
from samlib.paper.lengths import TRAIN_LOSS
from samlib.paper.panels import listed, multiples, together
from samlib.paper.study import NO_PART, SHARPNESS_AWARE, TITLES
from samlib.paper.style import GREY, optimizer_title
from samlib.paper.tables import table as shown_table
from samlib.runs.store import PER_MODEL

ACCURACY, AUC, AUC_LIRA, MEMORIZATION = "test accuracy", "AUC, confidence", "AUC, LiRA online", "mean memorization"
MEASURES = (ACCURACY, MEMORIZATION, AUC, AUC_LIRA)
LEDGER = [
    "statistic", "text", "direction", "smallest", "estimate", "low", "high", "level", "p", "needed", "grown", "verdict",
]  # fmt: skip
PATTERN = {ACCURACY: 0.002, AUC: 0.005, AUC_LIRA: 0.005}  # what rises by C14, and the smallest rise that counts
SAID = {ACCURACY: "test accuracy", AUC: "the confidence attack", AUC_LIRA: "online LiRA"}  # in sentences
COMPARABLE = 2  # an optimizer is compared if its train loss and SGD's are within this factor


def measure(pairs: Mapping[str, Pair]) -> Frames:
    """Measure Table 3: accuracy, memorization and attacks of each optimizer beside SGD.

    Parameters
    ----------
    pairs : mapping
        From an optimizer's name to its pair with SGD, as those of `optimizer_pairs`, aligned.

    Returns
    -------
    dict of DataFrame
        "optimizers" (optimizer, measure): the table. "losses": both train losses, and whether they are comparable. "effects": a
        row "C14 <optimizer>, <measure>" for each of `PATTERN`, NaN where the losses are not comparable. "stores": what was
        trained.
    """
    losses, rows, decided = train_losses(pairs, "optimizer"), {}, {}
    for name, pair in pairs.items():
        for of in MEASURES:
            sgd, sam = terms(pair, of)
            rows[name, of] = compared(sgd, sam, LEVEL / (len(MEASURES) * len(pairs)))
            if of in PATTERN:
                decided[f"C14 {name}, {of}"] = Found(mean(sam - sgd)) if losses.loc[name, "comparable"] else None
    shown = {"optimizers": table(rows, "optimizer", "measure"), "losses": losses, "stores": stores(pairs)}
    return {"effects": effects(decided), **shown}


@counted()
def terms(pair: Pair, of: str) -> list[np.ndarray]:
    """First-order terms (models, points) of a measure, of SGD and of the other optimizer."""
    if of == ACCURACY:
        return [runs.test_correct.values.astype(float) for runs in pair[:2]]
    if of == AUC:  # of all examples: this attack needs no other models
        return [auc_terms(runs.logit.values, runs.member.values) for runs in pair[:2]]
    if of == AUC_LIRA:
        found = [attack_scores(runs, ("LiRA online",)) for runs in pair[:2]]
        return [auc_terms(each.scores["LiRA online"], each.member) for each in found]
    return [memorization_terms(runs.correct.values, runs.member.values) for runs in pair[:2]]


def train_losses(pairs: Mapping[Any, Pair], *names: str) -> pd.DataFrame:
    """Each pair's train losses (geometric means over models), and whether they are comparable: a factor of 2 at most."""
    rows = {}
    for key, pair in pairs.items():
        sgd, sam = (float(np.log(np.maximum(runs.train_loss.values, 1e-12)).mean()) for runs in pair[:2])
        rows[key] = {"sgd": math.exp(sgd), "sam": math.exp(sam), "comparable": abs(sam - sgd) <= math.log(COMPARABLE)}
    return table(rows, *names)


def optimizer_ledger(frames: Frames) -> pd.DataFrame:
    """Decide C14 for each comparable optimizer and each measure of `PATTERN`.

    Parameters
    ----------
    frames : dict of DataFrame
        What `measure` returns.

    Returns
    -------
    DataFrame
        Index (optimizer, measure); columns statistic, text, direction, smallest, estimate, low, high, level, p, needed, grown,
        verdict. The family counts optimizers that are not comparable too.
    """
    fits, rows = frames["losses"]["comparable"], {}
    level = LEVEL / (len(MEASURES) * len(fits))  # the family has a row for each measure of each optimizer
    n_models = int(frames["stores"]["number of models"].iloc[0])
    for name in fits.index[fits]:
        for of, smallest in PATTERN.items():
            text = f"Every sharpness-aware optimizer {'tests better' if of == ACCURACY else 'is easier to attack'} than SGD."
            claim = Claim(f"C14 {name}, {of}", text, f"{of}, the optimizer - SGD", 1, smallest, "optimizers")
            (rows[name, of],) = decide(frames["effects"], [claim], n_models, level)
    return table(rows, "optimizer", "measure").reindex(columns=LEDGER)


def pattern(rows: pd.DataFrame) -> str:
    """The verdict of "better accuracy and easier to attack": supported where every part is, contradicted where any part is."""
    weakest_first = (CONTRADICTED, NOT_MEASURABLE, NO_DIFFERENCE, INCONCLUSIVE, SUPPORTED)
    return next(said for said in weakest_first if said in set(rows["verdict"]))


def patterns(found: Section) -> Markdown:
    """Say for each data set which optimizers show C14's pattern, and which cannot be compared with SGD."""
    said = {}
    for title, frames in found.titled().items():
        ledger, losses = optimizer_ledger(frames), frames["losses"]
        groups: dict[tuple[str, str], list[str]] = {}
        for name in losses.index[losses["comparable"]]:
            rows, whole = ledger.loc[name], pattern(ledger.loc[name])
            deciding = rows.index[rows["verdict"] == whole]
            why = f" ({listed([SAID[of] for of in deciding])})" * (len(deciding) < len(rows))
            blind = ", not looking for flat minima" * (name.partition(",")[0] not in SHARPNESS_AWARE)
            groups.setdefault((f"**{whole}**{why}", blind), []).append(optimizer_title(name))
        verdicts = [f"{verdict} for {listed(names)}{blind}" for (verdict, blind), names in groups.items()]
        apart = [
            f"{optimizer_title(name)} is not comparable: its train loss is {row['sam']:.2g}, and SGD's {row['sgd']:.2g}."
            for name, row in losses[~losses["comparable"]].iterrows()
        ]
        said[title] = " ".join([f"the pattern is {'; '.join(verdicts) or 'not decided'}.", *apart])
    return together(said)


def leakier(found: Section) -> Markdown:
    """Say which optimizers other than SAM are easier to attack than SGD by online LiRA, and whether they seek flat minima.

    Those that do not seek them are a comparison only if one of them tests better than SGD.
    """
    if not found:
        return Markdown("")
    rows = pd.concat({title: optimizer_ledger(frames) for title, frames in found.titled().items()})
    rows = rows[rows["verdict"] == SUPPORTED].index.to_frame(index=False, name=["dataset", "optimizer", "measure"])
    better = ((rows["measure"] == ACCURACY) & rows["optimizer"].isin(WITHOUT_RADIUS)).any()
    rows = rows[(rows["measure"] == AUC_LIRA) & (rows["optimizer"] != "sam")]
    flat = rows["optimizer"].isin(SHARPNESS_AWARE)
    none = "No optimizer without that search tests better than SGD here, so none of them can be compared."
    others = f"Of those without that search: {_on_each(rows[~flat])}." if better else none
    said = f"Of those that search for flat minima, easier to attack than SGD by LiRA: {_on_each(rows[flat])}."
    return Markdown(f"**Other optimizers.** {said} {others}")


def _on_each(rows: pd.DataFrame) -> str:
    """The optimizers of each data set, in words."""
    names = rows["optimizer"].map(optimizer_title).groupby(rows["dataset"], sort=False).agg(list)
    return ", ".join(f"{listed(several)} on {dataset}" for dataset, several in names.items()) or "none"


def verdict_table(found: Section):
    """C14's verdicts: a row for each data set and optimizer, a column for each measure."""
    rows = {}
    for title, frames in found.titled().items():
        ledger = optimizer_ledger(frames)
        for name, comparable in frames["losses"]["comparable"].items():
            cells = ledger.loc[name].apply(_cell, axis=1) if comparable else dict.fromkeys(PATTERN, "not compared")
            rows[title, optimizer_title(name)] = dict(cells)
    return pd.DataFrame(rows).T.style


def _cell(row: pd.Series) -> str:
    return f"{badge(row['verdict'])} {row['estimate']:+.4f}<br>{row['low']:+.4f} to {row['high']:+.4f}"


def optimizer_comparison(found: Section):
    """Table 3: differences whose interval lies beyond zero in bold; an optimizer that is not comparable says so."""
    parts = {}
    for title, frames in found.titled().items():
        fits = frames["losses"]["comparable"]
        names = {name: optimizer_title(name) + ("" if fits[name] else ", not comparable") for name in fits.index}
        parts[title] = frames["optimizers"].rename(index=names, level="optimizer")
    return shown_table(pd.concat(parts), digits=4, name="other")


def optimizer_differences(found: Section):
    """Table 3 as a picture: each optimizer minus SGD in each measure, hollow where it is not comparable."""

    def draw(*axes_and_frames):
        *axes, frame, losses = axes_and_frames
        fits = losses["comparable"]
        place = -np.arange(len(fits))
        for ax, of in zip(axes, MEASURES, strict=True):
            gaps(ax, place, frame.xs(of, level="measure").loc[fits.index], filled=fits, across=True)
            ax.axvspan(-PATTERN.get(of, 0), PATTERN.get(of, 0), color=GREY, alpha=0.15, lw=0)
            ax.set(yticks=place, yticklabels=map(optimizer_title, fits.index), xlabel=of.replace(" ", "\n", 1))
            ax.grid(axis="x", alpha=0.3)
            ax.xaxis.set_major_locator(plt.MaxNLocator(2))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))  # short, so that none collide

    return multiples(found, ["optimizers", "losses"], draw, columns=len(MEASURES), height=2.4, sharey="row")


def stores(pairs: Mapping[Any, Pair]) -> pd.DataFrame:
    """What was trained for a page of many settings: a row for each store, with its accuracies and what its models cost."""
    found: dict[str, Any] = {}
    for runs in (runs for pair in pairs.values() for runs in pair[:2]):
        key = runs.attrs["key"]  # a setting of fewer models shows the first of them
        found[key] = max(found.get(key, runs), runs, key=lambda each: each.sizes["model"])
    rows = {}
    for key, runs in found.items():
        fields = json.loads(runs.attrs["experiment"])
        without = {name for name, models in NO_PART.items() if fields["model"] in models}
        rows[key] = {
            "model": fields["model"],
            "optimizer": fields["optimizer"],
            **{title: "" if name in without else label(fields[name]) for name, title in TITLES.items()},
            "diverged": len(runs.attrs["diverged"]),
            **{name.replace("_", " "): float(runs[name].mean()) for name in PER_MODEL},
            "core seconds": float(runs.attrs["seconds"]),
            "machine": ", ".join(runs.attrs["machine"]),
        }
    return table(rows, "store")


def settings_table(stores: pd.DataFrame):
    """The frame "stores" as a table, with rounded numbers."""
    digits = {TRAIN_LOSS: "{:.2g}", "train accuracy": "{:.3f}", ACCURACY: "{:.3f}", "core seconds": "{:.0f}"}
    return stores.assign(**{name: stores[name].map(form.format) for name, form in digits.items()}).style


def label(value: Any) -> str:
    """A setting's value as text: a word or a number."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value if isinstance(value, str) else f"{value:g}"
