"""Membership risk (Table 1; C1, C2, C15, C16): who generalizes better, and how well attacks tell members from non-members."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown

from samlib import audit
from samlib.audit import Attacked, Pair, attack_scores
from samlib.evaluation import ENOUGH, auc_terms, epsilon, roc, tpr_terms
from samlib.inference import Effect, mean
from samlib.paper import claims, panels
from samlib.paper.frames import EACH, Found, Frames, Section, counted, effects, ends, table
from samlib.paper.lengths import KEPT
from samlib.paper.panels import BOTH, DASHES, comparisons, histograms, label_of, listed, multiples, scroll, sign
from samlib.paper.style import GREY, INK
from samlib.report import tables

CLAIMED = {"C2 confidence": "confidence", "C2 LiRA": "LiRA online", "C2 RMIA": "RMIA offline"}
CURVES = ("confidence", "LiRA online", "RMIA online")
SHOWN = ("correctness", "confidence", "LiRA online", "RMIA offline")  # the attacks in the figure
OWN = "LiRA online"  # the attack for which each example's own false-positive rate is measured
WHO = ("sgd", "sam")
EPSILON = "epsilon, at least"
BINS = 90
WORDS = KEPT | {"higher": "is easier to attack", "lower": "is harder to attack"}  # by the sign of an attack's claim
SURE, RATE = "C16", 0.001  # the claim on members that are surely found, and its rate of false positives


@counted()
def measure(pair: Pair) -> Frames:
    """Frames effects, accuracy, attacks, roc, logits, own_rates, thresholds, models, counts, moments of a pair of runs."""
    found = [attack_scores(runs) for runs in pair[:2]]
    rates = {who: tables.own_rates(each.scores[OWN], each.member) for who, each in zip(WHO, found, strict=True)}
    counts = {"examples": pair.sgd.sizes["example"], "left out by the attacks": audit.left_out(pair.sgd)}
    return {
        "effects": effects(decided(pair, found)),
        "accuracy": audit.accuracy_table(pair, EACH),
        "attacks": _attacks(found),
        "roc": _curves(found),
        "logits": _logits(pair),
        "own_rates": pd.concat(rates, names=["optimizer"]).reset_index(0),
        "thresholds": audit.threshold_table(pair, EACH),
        "models": _models(pair, found),
        "counts": pd.DataFrame({"number": counts}),
        "moments": _moments(pair),
    }


def decided(pair: Pair, found: Sequence[Attacked] | None = None) -> dict[str, Found | None]:
    """What decides the claims of this section. found: `audit.attack_scores` of both runs, made here if None."""
    if found is None:
        found = [attack_scores(runs, tuple(CLAIMED.values())) for runs in pair[:2]]
    auc = {claim: _gap(_auc(each, attack) for each in found) for claim, attack in CLAIMED.items()}
    accuracy = _gap(runs.test_correct.values.astype(float) for runs in pair[:2])
    return {"C1": accuracy, **auc, "C15": output_spread(pair), "C16": tpr(found, RATE)}


def _gap(terms: Iterable[np.ndarray]) -> Found:
    """The mean of SAM's terms minus SGD's."""
    sgd, sam = terms
    return Found(mean(sam - sgd))


def _auc(found: Attacked, attack: str) -> np.ndarray:
    return auc_terms(found.scores[attack], found.member)


def tpr(found: Sequence[Attacked], rate: float) -> Found | None:
    """C16: the difference in TPR at a low FPR; None if it allows fewer than ENOUGH false positives."""
    if (~found[0].member).sum() * rate < ENOUGH:
        return None
    return _gap(tpr_terms(each.scores["LiRA online"], each.member, rate) for each in found)


def output_spread(pair: Pair) -> Found | None:
    """C15: the difference, SAM - SGD, in the log of a ratio: the logits' deviation over out models to the gap of in and out.

    Deviation and gap are means over examples, in logits. So a factor on all logits of an optimizer changes nothing. None if the
    interval of a gap reaches 0.
    """
    spread, apart = zip(*(_moment_terms(runs.logit.values, runs.member.values) for runs in pair[:2]), strict=True)
    if any(mean(terms).interval(EACH)[0] <= 0 for terms in apart):
        return None
    return _gap(_log_terms(s) - _log_terms(a) for s, a in zip(spread, apart, strict=True))


def _log_terms(terms: np.ndarray) -> np.ndarray:
    """First-order terms of the log of a mean; all 0 if the mean is not positive."""
    value = terms.mean()
    return np.log(value) + (terms - value) / value if value > 0 else np.zeros(terms.shape)


def _moment_terms(logit, member) -> tuple[np.ndarray, np.ndarray]:
    """First-order terms (models, examples) of each logit's deviation over out models, and of its in mean minus its out mean.

    Only examples that at least 2 models saw and at least 2 did not.
    """
    known = (member.sum(0) > 1) & ((~member).sum(0) > 1)
    logit, member = logit[:, known].astype(float), member[:, known]
    n_in, n = member.sum(0), (~member).sum(0)
    mean_in, mean_out = (logit * member).sum(0) / n_in, (logit * ~member).sum(0) / n
    squares = ~member * (logit - mean_out) ** 2
    deviation = np.sqrt(squares.sum(0) / (n - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where(deviation > 0, (squares / (n - 1) - ~member * deviation**2 / n) / (2 * deviation), 0)
    moved_apart = member * (logit - mean_in) / n_in - ~member * (logit - mean_out) / n
    return deviation + len(logit) * moved, mean_in - mean_out + len(logit) * moved_apart


def _attacks(found: Sequence[Attacked]) -> pd.DataFrame:
    """Table 1: index (attack, measure); sgd, sam, difference, each with its ends, and too_few.

    For EPSILON there are only the two lower bounds.
    """
    compared, bounds = audit.compare_attacks(found[0], found[1], confidence=1 - EACH), {}
    for attack in found[0].scores:
        sgd, sam = (epsilon(each.scores[attack], each.member, 1 - EACH) for each in found)
        bounds[attack, EPSILON] = {"sgd": sgd, "sam": sam, "too_few": False}
    parts = [audit.membership_table(compared, ends=True), table(bounds, "attack", "measure")]
    return pd.concat(parts).loc[list(found[0].scores)]


def _curves(found: Sequence[Attacked]) -> pd.DataFrame:
    """ROC curves on a logarithmic grid: attack, optimizer, fpr, tpr."""
    parts, floor = [], ENOUGH / (~found[0].member).sum()  # the rate of ENOUGH false positives
    for attack, (name, each) in itertools.product(CURVES, zip(WHO, found, strict=True)):
        curve = pd.DataFrame(dict(zip(("fpr", "tpr"), roc(each.scores[attack], each.member), strict=True)))
        at = np.unique(curve["fpr"].searchsorted(np.geomspace(floor, 1, 300)).clip(max=len(curve) - 1))
        parts.append(curve.iloc[at].astype(np.float32).assign(attack=attack, optimizer=name))
    return pd.concat(parts, ignore_index=True)


def _logits(pair: Pair) -> pd.DataFrame:
    """Counts of the true class's logit in bins, the last ones open: optimizer, member, left, right, count."""
    values, member, parts = [runs.logit.values for runs in pair[:2]], pair.sgd.member.values, []
    low, high = np.quantile(values, [0.0005, 0.9995])
    edges = np.linspace(low, high, BINS + 1)
    for (name, logit), inside in itertools.product(zip(WHO, np.clip(values, low, high), strict=True), (True, False)):
        part = {"left": edges[:-1], "right": edges[1:], "count": np.histogram(logit[member == inside], edges)[0]}
        parts.append(pd.DataFrame(part | {"optimizer": name, "member": inside}))
    return pd.concat(parts, ignore_index=True)


def _models(pair: Pair, found: Sequence[Attacked]) -> pd.DataFrame:
    """A row for each model: accuracies, loss, and the AUC of each attack."""
    parts = []
    for name, runs, each in zip(WHO, pair[:2], found, strict=True):
        columns = {c: runs[c].values for c in ("train_accuracy", "train_loss", "test_accuracy")}
        columns |= {f"AUC {attack}": _auc(each, attack).mean(1) for attack in each.scores}
        parts.append(pd.DataFrame(columns).astype(np.float32).assign(model=runs.model.values, optimizer=name))
    return pd.concat(parts, ignore_index=True)


def _moments(pair: Pair) -> pd.DataFrame:
    """For each example: how many models saw it, and the mean and deviation of its logit over in and over out models."""
    columns = {"n_in": pair.sgd.member.values.sum(0).astype(np.int32)}
    for name, runs in zip(WHO, pair[:2], strict=True):
        for where, logit in (("in", runs.logit.where(runs.member)), ("out", runs.logit.where(~runs.member))):
            columns[f"{name}_mean_{where}"] = logit.mean("model", dtype=float).values.astype(np.float32)
            columns[f"{name}_std_{where}"] = logit.std("model", dtype=float).values.astype(np.float32)
    return pd.DataFrame(columns, index=pair.sgd.indexes["example"])


def attack_differences(found: Section):
    """Table 1 as a picture: the AUC of some attacks by both optimizers, and the paired difference, with intervals."""
    smallest = next(claim.smallest for claim in claims.CLAIMS if claim.id in CLAIMED)
    shared = {"sharex": "col", "sharey": True, "band": smallest, "height": 1.6}
    return comparisons(found, "attacks", "AUC", lambda whole: whole.xs("AUC", level=1).loc[list(SHOWN)], **shared)


def roc_curves(found: Section):
    """ROC curves of three attacks on logarithmic axes, all targets pooled, and by how much the two optimizers' differ.

    Left, grey: guessing. Right, the diamond is C16, with its interval.
    """

    def draw(left, right, curves, effects):
        grid = np.geomspace(curves["fpr"].min(), 1, 200)
        for attack in CURVES:
            rates = {}
            for who, colour in BOTH:
                part = curves[(curves["attack"] == attack) & (curves["optimizer"] == who)]
                label = f"{label_of(who, found.name)}, {attack}"
                left.plot(part["fpr"], part["tpr"], DASHES[attack], color=colour, lw=1.4, label=label)
                rates[who] = np.interp(grid, part["fpr"], part["tpr"])
            right.plot(grid, rates["sam"] - rates["sgd"], DASHES[attack], color=INK, lw=1.4)
        left.plot(grid, grid, color=GREY, lw=1, label="guessing")
        panels.zero(right)
        if SURE in effects.dropna().index:
            shown = pd.DataFrame([ends(Effect(*effects.loc[SURE, [*Effect._fields]]), "difference")])
            panels.interval_points(right, [RATE], shown, "difference", fmt="D", color=INK)
        left.set(xscale="log", yscale="log", ylabel="true-positive rate")
        right.set(xscale="log", ylabel=f"{found.name} − SGD")
        for ax in (left, right):
            ax.set_xlabel("false-positive rate")
            ax.grid(alpha=0.25, which="major")

    return multiples(found, ["roc", "effects"], draw, columns=2, height=1.8, sharex=True)


def confidence_distributions(found: Section):
    """The logit of the true class on members, filled, and on non-members, outlined; SGD beside SAM."""
    members = {"members": lambda rows: rows.query("member")}
    others = {"non-members": lambda rows: rows.query("not member")}
    label = r"$\log\,p_y/(1-p_y)$"
    return histograms(found, "logits", "count", members, others, label, height=1.6, sharey="row")


def own_rates(found: Section):
    """Each example's own false-positive rate at one pooled threshold; outlined, what chance alone would give."""
    own, chance = {"examples": lambda rows: rows}, {"chance alone": lambda rows: rows.assign(share=rows["chance"])}
    label = "own false-positive rate"
    return histograms(found, "own_rates", "share", own, chance, label, height=1.5, sharex=True, sharey="row")


def dispersion(found: Section):
    """A table of the variance of the examples' own false-positive rates, in multiples of chance."""
    rates = found.stacked("own_rates")
    shown = rates.groupby([rates.index.get_level_values(0), "optimizer"], sort=False)["dispersion"].first().unstack()
    return shown[list(WHO)].map("{:.1f}".format).set_axis(["SGD", found.name], axis=1).rename_axis(None).style


def attackers(found: Section) -> Markdown:
    """Say of each data set by which of the claimed attacks it is easier or harder to attack."""
    said = {}
    for title, frames in found.titled().items():
        signs = {attack: panels.sign_in(frames["effects"], claim) for claim, attack in CLAIMED.items()}
        by = {side: [attack for attack in signs if signs[attack] == side] for side in WORDS if side in signs.values()}
        words = "; ".join(f"{WORDS[side]} by {listed(attacks)}" for side, attacks in by.items())
        if {"higher", "lower"} <= {*by}:
            words += ". So the verdict depends on who attacks"
        if words:
            said[title] = f"{found.name} {words}."
    return panels.together(said)


def attack_table(found: Section):
    """Table 1: a row for each data set and attack; in a cell both optimizers and the difference, bold beyond 0."""
    whole = found.stacked("attacks")
    shown = whole.apply(_cell, axis=1).unstack("measure").reindex(pd.unique(whole.index.droplevel("measure")))
    shown = shown[whole.index.unique("measure")].fillna("not measured").rename_axis([None, None])
    return scroll(shown.style, f"In a cell: SGD → {found.name}.")


def _cell(row: pd.Series) -> str:
    if row["too_few"]:
        return "too few"
    both = f"{row['sgd']:.3f} → {row['sam']:.3f}"
    return both if np.isnan(row["difference"]) else f"{both}<br>{'<b>' if sign(row) else ''}{row['difference']:+.4f}"
