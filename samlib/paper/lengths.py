"""Both optimizers at equal train loss (C2), from pairs trained for several lengths (numbers of epochs).

Each length is a run of its own with its own schedule. Leakage depends on how far training went. So each model's AUC is
interpolated between lengths, along the logarithm of its own train loss.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib.audit import Pair, attack_scores, usable
from samlib.evaluation import auc_terms
from samlib.inference import mean
from samlib.paper import claims
from samlib.paper.draw import gaps, panels
from samlib.paper.frames import EACH, Found, Frames, Section, contrast, counted, effects, table
from samlib.paper.panels import listed, multiples, sign_in, together
from samlib.paper.style import GREY, INK, SAM, SGD, drawn

KEPT = {
    "higher": "leaks more",
    "lower": "leaks less",
    "small": "shows no difference that counts",
    "open": "has no verdict",
}
DECIDED = ("higher", "lower")
ATTACKS = {"confidence": "confidence", "LiRA": "LiRA online", "RMIA": "RMIA offline"}
# of the way from the highest train loss that both reach to the lowest, in logarithms
FRACTIONS = {"1/4": 0.25, "1/2": 0.5, "3/4": 0.75}
CLAIMED = {f"C2 {a} at equal train loss, {said}": (a, f) for a in ATTACKS for said, f in FRACTIONS.items()}
GRID = np.linspace(0, 1, 17)  # the fractions at which the band is computed
SPARSE, UNREACHED = "lengths too far apart", "not every model reaches this loss"
TRAIN_LOSS, ACCURACY = "train loss", "test accuracy"
COLUMNS = ["sgd", "sam", "difference", "low", "high", "band_low", "band_high", "moved", TRAIN_LOSS, "note"]

Side = tuple[np.ndarray, np.ndarray, np.ndarray]  # of one optimizer: loss, terms, drift, as for `matched`


def measure(pairs: Mapping[Any, Pair]) -> Frames:
    """Compare two optimizers at equal train loss.

    Parameters
    ----------
    pairs : mapping
        Pairs of several lengths of training, which differ in their epochs alone. Keys are the epochs, or (field, value) as
        those of `ablation_pairs`, where only the field "epochs" counts.

    Returns
    -------
    dict of DataFrame
        "equal_loss" (attack, fraction): the difference at one train loss, and the ends low and high of its interval. band_low
        and band_high hold for all fractions at once. moved is the largest change if one length is left out. note says why
        nothing can be said. "effects": the rows of `FRACTIONS`, and models, the pairs of each length. "curves": means over
        models at each number of epochs.
    """
    curves, both = _trained(pairs)
    n_models = both["LiRA"][0][0].shape[1]
    rows = {(attack, f): at_loss(both[attack], f) for attack in ATTACKS for f in GRID}
    return {
        "effects": effects({claim: rows[key][1] for claim, key in CLAIMED.items()}).assign(models=n_models),
        "equal_loss": table({key: row for key, (row, _) in rows.items()}, "attack", "fraction"),
        "curves": curves,
    }


def decided(pairs: Mapping[Any, Pair]) -> dict[str, Found | None]:
    """Return what decides the rows of C2 at equal train loss; None if the lengths cannot decide a row.

    Parameters
    ----------
    pairs : mapping
        As for `measure`.

    Returns
    -------
    dict
        The keys are those of `CLAIMED`.
    """
    both = _trained(pairs)[1]
    return {claim: at_loss(both[attack], fraction)[1] for claim, (attack, fraction) in CLAIMED.items()}


@counted()
def _trained(pairs: Mapping[Any, Pair]) -> tuple[pd.DataFrame, dict[str, list[Side]]]:
    """The frame "curves", and what `at_loss` takes for each attack: the lengths as long as the loss falls.

    "curves" has means over models: epochs, train loss, test accuracy, falling, rising, optimizer, attack, auc.
    """
    keyed = [(*key, pair) if isinstance(key, tuple) else ("epochs", key, pair) for key, pair in pairs.items()]
    over = {value: pair for field, value, pair in keyed if field == "epochs"}
    if not over:  # a single length, which is compared with nothing
        over = {json.loads(keyed[0][-1].sgd.attrs["experiment"])["epochs"]: keyed[0][-1]}
    aligned = common_models([over[e] for e in sorted(over)])
    curves, both = {attack: list[pd.DataFrame]() for attack in ATTACKS}, {attack: list[Side]() for attack in ATTACKS}
    for name, several in (("sgd", [pair.sgd for pair in aligned]), ("sam", [pair.sam for pair in aligned])):
        found = [attack_scores(runs, tuple(ATTACKS.values())) for runs in several]
        loss = np.log([np.maximum(runs.train_loss.values, 1e-12) for runs in several])
        right = np.array([runs.test_correct.values.mean() for runs in several])
        drift, falling = np.array([_loss_terms(runs) for runs in several]), _leading(-loss.mean(1))
        means = {"epochs": sorted(over), TRAIN_LOSS: np.exp(loss.mean(1)), ACCURACY: right}
        means |= {"falling": falling, "rising": _leading(right), "optimizer": name}
        for attack, kind in ATTACKS.items():
            terms = np.array([auc_terms(each.scores[kind], each.member) for each in found], np.float32)
            curves[attack].append(pd.DataFrame(means | {"attack": attack, "auc": terms.mean((1, 2), dtype=float)}))
            both[attack].append((loss[falling], terms[falling], drift[falling]))
    return pd.concat(itertools.chain(*curves.values()), ignore_index=True), both


def common_models(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs, each with only the models that all of them hold."""
    common = sorted(set.intersection(*(set(pair.sgd.model.values.tolist()) for pair in pairs)))
    return [Pair(pair.sgd.sel(model=common), pair.sam.sel(model=common), pair.name) for pair in pairs]


def _loss_terms(runs) -> np.ndarray:
    """How each example moves the logarithm of a model's train loss, to first order: (models, examples), each row of mean 0."""
    member, kept = usable(runs)
    share = member * np.logaddexp(0, -runs.logit.values[:, kept].astype(float))
    inside = member.mean(1, keepdims=True)
    return (share / share.mean(1, keepdims=True) - member / inside).astype(np.float32)


def _leading(values: np.ndarray) -> np.ndarray:
    """A mask of the first values, as long as each exceeds the one before."""
    return np.r_[True, np.cumprod(np.diff(values) > 0).astype(bool)]


def matched(loss: np.ndarray, terms: np.ndarray, drift: np.ndarray, at: float) -> np.ndarray | None:
    """Interpolate each model's AUC to one train loss.

    A model's AUC is a straight line between the two lengths around that loss. An example that moves the loss moves the model
    along this line.

    Parameters
    ----------
    loss : float array (lengths, models)
        Logarithm of the train loss.
    terms, drift : float arrays (lengths, models, examples)
        How each example moves the AUC, and the logarithm of the loss.
    at : float
        The logarithm of the loss to interpolate to.

    Returns
    -------
    float array (models, examples) or None
        First-order terms of the AUC; None if a model does not reach this loss.
    """
    every, order = np.arange(loss.shape[1]), loss.argsort(0, kind="stable")
    below = (loss < at).sum(0)
    if not below.all() or (below == len(loss)).any():
        return None
    ends = [order[below - 1, every], order[below, every]]
    (low, high), auc = (loss[e, every] for e in ends), [terms[e, every] for e in ends]
    slope = (auc[1].mean() - auc[0].mean()) / (high - low).mean()
    share = ((at - low) / (high - low))[:, None]
    parts = [each - slope * drift[e, every] for e, each in zip(ends, auc, strict=True)]
    return (1 - share) * parts[0] + share * parts[1]


def at_loss(both: list[Side], fraction: float) -> tuple[dict, Found | None]:
    """Return a row of "equal_loss", and what decides it.

    Parameters
    ----------
    both : list of two tuples
        (loss, terms, drift) of SGD and of the other optimizer, as for `matched`.
    fraction : float
        How far down from the highest loss that both reach to the lowest, in means over models of the log loss.

    Returns
    -------
    row : dict
    found : Found or None
        None if the lengths do not reach this loss or are too far apart.
    """
    means = [loss.mean(1) for loss, *_ in both]
    first, last = min(each.max() for each in means), max(each.min() for each in means)
    at = first + fraction * (last - first)
    row: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan) | {TRAIN_LOSS: math.exp(at), "note": UNREACHED}
    found = [each for one in both if last < first and (each := matched(*one, at)) is not None]
    if len(found) < 2:
        return row, None
    sgd, sam, gap = mean(found[0]), mean(found[1]), mean(found[1] - found[0])
    row |= contrast(sgd, sam, gap)
    row["band_low"], row["band_high"] = (float(end) for end in gap.interval(EACH / len(GRID)))
    # Leaving out a length doubles the spacing there. So the row's own error is at most half of how far it then moves.
    row["moved"] = max(_moved(*one, at) for one in both)
    dense = row["moved"] < (row["high"] - row["low"]) / 3
    return row | {"note": "" if dense else SPARSE}, Found(gap) if dense else None


def _moved(loss: np.ndarray, terms: np.ndarray, drift: np.ndarray, at: float) -> float:
    """The largest move of the AUC at a loss if one interior length is left out; infinite if the AUC is then unknown."""
    auc = terms.mean(2, keepdims=True)
    still, found = np.zeros_like(auc), []
    for left_out in ([], *([j] for j in range(1, len(loss) - 1))):
        there, value, none = (np.delete(each, left_out, 0) for each in (loss, auc, still))
        each = matched(there, value, none, at)
        found.append(math.nan if each is None else float(each.mean()))
    moved = max((abs(each - found[0]) for each in found[1:]), default=math.inf)
    return math.inf if math.isnan(sum(found)) else moved


@drawn
def matched_curves(curves: pd.DataFrame, name: str = "SAM", attack: str = "confidence"):
    """An attack's AUC over train loss and over test accuracy, a point for each number of epochs, joined in order.

    Only filled points are compared: there the loss still falls, or the accuracy still rises. The first and the last point are
    labelled with their epochs.
    """
    figure, axes = panels(2, 3.1, sharey=True)
    curves = curves[curves["attack"] == attack]
    beside: dict[str, Any] = {"textcoords": "offset points", "fontsize": "small", "ha": "center", "va": "center"}
    upper = curves.groupby("optimizer")["auc"].mean().idxmax()
    for ax, x, used in zip(axes, (TRAIN_LOSS, ACCURACY), ("falling", "rising"), strict=True):
        for who, colour, label in (("sgd", SGD, "SGD"), ("sam", SAM, name)):
            part = curves[curves["optimizer"] == who]
            ax.plot(part[x], part["auc"], "-", color=colour, label=label)
            ax.scatter(part[x], part["auc"], s=30, zorder=3, ec=colour, fc=np.where(part[used], colour, "white"))
            away = (0, 10 if who == upper else -10)
            for row in part.iloc[[0, -1]].to_dict("records"):
                ax.annotate(row["epochs"], (row[x], row["auc"]), away, color=colour, **beside)
        ax.set(xlabel=x)
        ax.margins(0.08, 0.14)
        ax.grid(alpha=0.3)
    axes[0].set(xscale="log", ylabel=f"AUC, {attack}")
    axes[0].invert_xaxis()
    axes[1].legend(loc="best")
    return figure


def where(found: Section) -> Markdown:
    """Say at which train losses the band of `along_loss` lies clear of 0, for each data set and attack. found: as there."""
    said = []
    for title, equal in ((title, f["equal_loss"]) for title, f in found.titled().items() if "equal_loss" in f):
        each = []
        for attack, rows in equal.groupby(level="attack", sort=False):
            rows = rows[rows["note"] == ""]
            for word, clear in (("easier", rows["band_low"] > 0), ("harder", rows["band_high"] < 0)):
                if clear.any():
                    low, high = rows.loc[clear, TRAIN_LOSS].agg(["min", "max"])
                    each.append(f"{attack} {word} at {clear.sum()} of {len(rows)}, from {high:.2g} to {low:.2g}")
        said.append(f"- {title}: {'; '.join(each) or 'at none'}.")
    lead = (
        f"Train losses at which {found.name} is easier or harder to attack, by however little, where that can be said:"
    )
    return Markdown("\n".join([lead, "", *said]) if said else "")


def kept(found: Section) -> Markdown:
    """Say of each attack whether its difference as trained is also there at equal train loss, half of the way down.

    found: the section "membership" joined by "lengths".
    """
    said = {}
    for title, frames in found.titled().items():
        at = ("", " at equal train loss, 1/2")
        signs = {a: tuple(sign_in(frames["effects"], f"C2 {a}{each}") or "" for each in at) for a in ATTACKS}
        sentences = []
        for trained, equal in filter(all, dict.fromkeys(signs.values())):
            attacks = [attack for attack in ATTACKS if signs[attack] == (trained, equal)]
            where = ", as trained and" if trained == equal else f" as trained, and {KEPT[equal]}"
            why = ""
            if trained in DECIDED:
                other = "had turned the sign" if equal in DECIDED else "could explain it"
                why = f"; the fit alone {'does not explain it' if trained == equal else other}"
            sentences.append(f"{KEPT[trained]} by {listed(attacks)}{where} at equal train loss{why}.")
        if sentences:
            said[title] = f"{found.name} {' It '.join(sentences)}"
    return together(said)


def along_loss(found: Section):
    """The difference in each attack's AUC at equal train loss, over the loss: a row for each data set, a column for each attack.

    The band holds along all losses at once. Marked are the ledger's rows, hollow where they have no verdict. A dotted line is
    the difference after the recipe's number of epochs, if known. found: the section "lengths", or "membership" joined by it.
    """

    smallest = next(claim.smallest for claim in claims.CLAIMS if claim.section == "lengths")

    def draw(*axes_and_rows):
        *axes, rows, trained = axes_and_rows
        for attack, ax in zip(ATTACKS, axes, strict=True):
            own = rows.loc[attack]
            known, named = own["difference"].notna().any(), own.loc[list(FRACTIONS.values())]
            ax.fill_between(own[TRAIN_LOSS], own["band_low"], own["band_high"], color=SAM, alpha=0.2, lw=0)
            ax.plot(own[TRAIN_LOSS], own["difference"], color=SAM)
            gaps(ax, named[TRAIN_LOSS], named, filled=named["note"] == "")
            if not known:
                ax.text(0.5, 0.5, "not measurable", transform=ax.transAxes, ha="center", va="bottom", fontsize="small")
            if (claim := f"C2 {attack}") in trained.index:
                ax.axhline(trained.loc[claim, "estimate"], color=INK, lw=1.2, ls=":", label="as trained")
            ax.axhspan(-smallest, smallest, color=GREY, alpha=0.15, lw=0)
            ax.set(xscale="log" if known else "linear", xlabel=f"{TRAIN_LOSS}: {attack}")
            ax.grid(axis="y", alpha=0.3)
            ax.invert_xaxis()
        axes[0].set_ylabel(f"AUC, {found.name} − SGD")

    rows = {}
    for dataset, frames in found.items():
        known = "equal_loss" in frames and frames["equal_loss"]["difference"].notna().any()
        rows[dataset] = frames if known else {**frames, "equal_loss": pd.DataFrame()}
    return multiples(found.but(rows), ["equal_loss", "effects"], draw, columns=len(ATTACKS), height=2.0, sharey="row")


def matched_sentence(equal_loss: pd.DataFrame, attack: str, name: str = "SAM") -> str:
    """An attack's rows of "equal_loss" in sentences."""
    head, said = f"**AUC, {attack}, at equal train loss.**", []
    (note, *others) = {equal_loss.loc[(attack, value)].note for value in FRACTIONS.values()}
    if note and not others:
        return f"{head} Not measurable: {note}."
    for fraction, value in FRACTIONS.items():
        row = equal_loss.loc[(attack, value)]
        found = f"{name}'s AUC differs from SGD's by {row.difference:+.4f} ({row.low:+.4f} to {row.high:+.4f})"
        at = f"At train loss {row[TRAIN_LOSS]:.2g} ({fraction} of the way down)"
        said.append(f"{at}: not measurable, {row.note}." if row.note else f"{at} {found}.")
    return f"{head} {' '.join(said)}"
