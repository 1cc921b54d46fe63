"""Memorization (Figure 1; C3, C4, C5): which examples each optimizer memorizes, and whether attacks find these."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from samlib.audit import Pair, compared, link, memorization_table
from samlib.data import Dataset
from samlib.estimators import memorization, memorization_terms
from samlib.evaluation import ENOUGH
from samlib.inference import Effect, Reliability, crossing, deletions, jackknife, mean, reliability, shares
from samlib.paper.distances import atypicality, dataset_of
from samlib.paper.frames import EACH, Found, Frames, Section, counted, effects, ends
from samlib.paper.panels import BOTH, classes_of, image, interval_points, label_of, multiples, scroll, stairs, zero
from samlib.paper.sets import halves, model_groups, point_groups
from samlib.paper.style import GREEN, GREY, INK, RED, SAM, SGD, dataset_title

LOWEST, LOW = 0.1, 0.5  # scores below LOWEST are "the lowest range", from LOWEST to LOW "the lower score range"
MORE = 0.05  # C5 compares this share of examples at each end of the difference in memorization
BINS = np.linspace(-0.2, 1, 21)  # of Figure 1a; scores outside fall into the end bins
PICTURES = 5  # of the examples that differ most
OWN = "LiRA online"  # the attack whose success is linked to memorization


@counted()
def measure(pair: Pair) -> Frames:
    """Frames effects, means, density, agreement, reliability, examples, counts, most, link, link_bins of a pair of runs."""
    scores, examples, links = Scores(pair), _examples(pair), _linked(pair)
    counts = {"examples": len(examples), "without an estimate": examples["sgd"].isna().sum()}
    return {
        "effects": effects(decided(pair, scores)),
        "means": memorization_table(pair, EACH),
        "density": _density(scores),
        "agreement": _agreement(scores),
        "reliability": pd.DataFrame(scores.reliable, Reliability._fields).T,
        "examples": examples,
        "counts": pd.DataFrame({"number": counts}),
        "most": _most(pair, scores),
        "link": _links(links),
        "link_bins": _link_bins(links),
    }


def decided(pair: Pair, scores: Scores | None = None) -> dict[str, Found | None]:
    """What decides the claims of this section. `scores`: those of the pair, made here if None."""
    scores = scores or Scores(pair)
    pooled, difference = scores.reliable["pooled"], scores.reliable["difference"]
    found = {
        "C3": (lowest_range(pair, scores), pooled),
        "C4": (lower_scores(pair, scores), pooled),
        "C5": (more_memorized(pair, scores), difference),
    }
    return {claim: Found(effect, of) if effect else None for claim, (effect, of) in found.items()}


class Scores:
    """Memorization scores of a pair by any of its models. A mean over no models counts as 0, as in the published code.

    whole: of SGD and of SAM, the scores (examples,) by all models, and their terms.
    """

    def __init__(self, pair: Pair):
        self.of_models, self.member = model_groups(pair.sgd.model.values), pair.sgd.member.values
        self.correct = [runs.correct.values for runs in pair[:2]]
        every = np.ones(len(self.member), bool)
        self.whole = list(zip(self(every), self.terms(every), strict=True))

    def __call__(self, models: np.ndarray) -> np.ndarray:
        """Scores (2, examples) of SGD and of SAM by the models in a mask (models,)."""
        member = self.member[models]
        return np.array([memorization(correct[models], member, empty="zero").value for correct in self.correct])

    def terms(self, models: np.ndarray) -> list[np.ndarray]:
        """First-order terms (models, examples) of SGD's and of SAM's scores; NaN where there is no estimate."""
        return [memorization_terms(correct[models], self.member[models]) for correct in self.correct]

    @cached_property
    def in_halves(self) -> np.ndarray:
        """Scores by the two halves of each partition: (partitions, 2, 2, examples), SGD's and SAM's last but one."""
        return np.array([(self(half), self(~half)) for half in halves(self.of_models)])

    @cached_property
    def reliable(self) -> dict[str, Reliability]:
        """Split-half reliability of the scores: sgd, sam, pooled over both, and of the difference SAM - SGD."""
        weights = {"sgd": (1, 0), "sam": (0, 1), "pooled": (0.5, 0.5), "difference": (-1, 1)}
        first, second = self.in_halves.swapaxes(0, 1)
        return {name: reliability(w @ first, w @ second, len(self.member)) for name, w in weights.items()}


def lowest_range(pair: Pair, scores: Scores) -> Effect:
    """C3: the share of examples with memorization below LOWEST, SAM - SGD."""
    sgd, sam = (_below(*each, LOWEST) for each in scores.whole)
    return mean(sam - sgd)


def _below(score, terms, cut: float) -> np.ndarray:
    """Terms (models, examples) of the share of scores below a cut."""
    return (score < cut) - crossing(terms, cut)


def lower_scores(pair: Pair, scores: Scores) -> Effect | None:
    """C4: the difference in memorization, SAM - SGD, of examples with a pooled score from LOWEST to LOW.

    One half of the models chooses the examples; the other half measures the difference. This is the mean over many halves.
    Both the choosing and the measuring models have first-order terms. None if fewer than ENOUGH examples are chosen.
    """
    parts = []
    for half in halves(scores.of_models):
        for choose in (half, ~half):
            pooled, gain = scores(choose).mean(0), np.subtract(*scores(~choose)[::-1])
            if (chosen := (pooled >= LOWEST) & (pooled < LOW)).sum() < ENOUGH:
                return None
            value, terms = gain[chosen].mean(), np.empty(scores.member.shape)
            (sgd, sam), by = scores.terms(~choose), sum(scores.terms(choose)) / 2
            terms[~choose] = chosen * (gain + np.nan_to_num(sam - sgd - (sam - sgd).mean(0)) / (~choose).mean() - value)
            moved = (crossing(by, LOWEST) - crossing(by, LOW)) / choose.mean()
            terms[choose] = (chosen + moved) * (gain - value)
            parts.append(value + terms / chosen.mean())
    return mean(np.mean(parts, 0))


def more_memorized(pair: Pair, scores: Scores, data: Dataset | None = None) -> Effect | None:
    """C5: mean atypicality of the examples with the largest differences in memorization, minus that at the other end.

    The difference is SAM - SGD, and each end holds the share MORE of all examples. Noise puts examples of high variance at both
    ends, and these are atypical. So one end is compared with the other, not with all examples. data: those of the runs if None.
    Returns None if the data are not at hand or too few.
    """
    dataset = data or dataset_of(pair.sgd)
    n_ends = round(1 / MORE)
    if dataset is None or scores.member.shape[1] < n_ends * ENOUGH:
        return None
    away = atypicality(dataset)[pair.sgd.example.values]
    (sgd, sgd_terms), (sam, sam_terms) = scores.whole
    difference, terms = sam - sgd, sam_terms - sgd_terms
    lowest, *_, highest = shares(difference, n_ends)

    def end(weight, cut, sign):
        moved = crossing(terms, cut)
        at = away[(moved != 0).any(0) | (difference == cut)].mean()  # of examples that enter or leave the end
        return at + (weight + sign * moved) * (away - at) / weight.mean()

    top = end(highest, difference[highest > 0].min(), 1)
    return mean(top - end(lowest, difference[lowest > 0].max(), -1))


def _density(scores: Scores) -> pd.DataFrame:
    """Figure 1a: shares of examples in bins of memorization: left, right, sgd, sam, difference, low, high."""
    rows, below = [], [np.zeros(scores.member.shape)] * 2
    for left, right in itertools.pairwise(BINS):
        upto = [_below(*each, right if right < BINS[-1] else 2) for each in scores.whole]  # the last bin is open
        rows.append({"left": left, "right": right} | compared(upto[0] - below[0], upto[1] - below[1], EACH))
        below = upto
    return pd.DataFrame(rows)


def _agreement(scores: Scores) -> pd.DataFrame:
    """The numbers of Figure 1b: how SAM's scores relate to SGD's. Index name, column value.

    Only noise in SGD's scores biases the least-squares line; the orthogonal line treats both optimizers alike. The corrected
    correlation is what it would be without the noise of few models (Spearman 1904). It correlates SGD's scores by one half of
    the models with SAM's by the other half, and divides by the geometric mean of the two split-half correlations. It is NaN if
    one of these is not positive.
    """
    (x, _), (y, _) = scores.whole
    (sxx, sxy), (_, syy) = np.cov(x, y, bias=True)
    steep = (syy - sxx + np.hypot(syy - sxx, 2 * sxy)) / (2 * sxy) if sxy else np.nan
    slope, intercept = np.polyfit(x, y, 1) if sxx else (np.nan, np.nan)
    crossed = np.array([np.corrcoef([*a, *b]) for a, b in scores.in_halves]).mean(0)  # sgd, sam, then sgd, sam
    own, cross = (crossed[0, 2], crossed[1, 3]), (crossed[0, 3] + crossed[1, 2]) / 2
    values = {
        "Pearson correlation": np.corrcoef(x, y)[0, 1],
        "Spearman correlation": spearmanr(x, y)[0],
        "correlation corrected for noise": cross / np.sqrt(own[0] * own[1]) if min(own) > 0 else np.nan,
        "slope, least squares": slope,
        "intercept, least squares": intercept,
        "slope, orthogonal": steep,
        "intercept, orthogonal": y.mean() - steep * x.mean(),
    }
    return pd.DataFrame({"value": values})


def _examples(pair: Pair) -> pd.DataFrame:
    """For each example: label, memorization by each optimizer (NaN if there is no estimate), and how many models saw it."""
    columns = {"label": pair.sgd.label.values}
    for name, runs in zip(("sgd", "sam"), pair[:2], strict=True):
        found = memorization(runs.correct.values, runs.member.values, empty="nan")
        columns |= {name: found.value.astype(np.float32), "n_in": found.n_in.astype(np.int32)}
    return pd.DataFrame(columns, pair.sgd.indexes["example"])


def _most(pair: Pair, scores: Scores, k: int = 10) -> pd.DataFrame:
    """The k examples with the largest difference in memorization, SAM - SGD. Even-numbered models choose, odd ones measure.

    Columns: label; chosen by, the difference on even models; sgd, sam and difference, on odd models; atypicality, NaN if the
    data are not at hand.
    """
    even = pair.sgd.model.values % 2 == 0
    chosen_by, (sgd, sam) = np.subtract(*scores(even)[::-1]), scores(~even)
    columns = {"label": pair.sgd.label.values, "chosen by": chosen_by, "sgd": sgd, "sam": sam, "difference": sam - sgd}
    frame, dataset = pd.DataFrame(columns, pair.sgd.indexes["example"]), dataset_of(pair.sgd)
    frame["atypicality"] = np.nan if dataset is None else atypicality(dataset)[frame.index]
    return frame.sort_values(["chosen by", "example"], ascending=[False, True]).head(k)


def _linked(pair: Pair) -> dict[str, pd.DataFrame]:
    """Of SGD, SAM and their difference: memorization of each example, and the attack's success on it, as `audit.Link`.

    Empty if there are too few odd-numbered models to attack each of them with the others as shadows.
    """
    member = pair.sgd.member.values[pair.sgd.model.values % 2 == 1]
    if ((member.sum(0) >= 3) & ((~member).sum(0) >= 3)).sum() < 2:
        return {}
    sgd, sam = (pd.DataFrame(link(runs)._asdict()).set_index("example") for runs in pair[:2])
    return {"sgd": sgd, "sam": sam, "difference": sam - sgd}


def _links(linked: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rank correlations of memorization with the attack's success, with intervals: sgd, sam, and of their differences."""

    def correlation(kept):
        return spearmanr(*kept.T)[0] if np.ptp(kept, 0).all() else np.nan

    rows = {}
    for who, frame in linked.items():
        of, both = point_groups(frame.index), frame.to_numpy()
        effect = jackknife(deletions(lambda g, of=of, both=both: correlation(both[of != g]), of.max()), 1)
        rows[who] = ends(effect, "correlation")
    return pd.DataFrame.from_dict(rows, orient="index")


def _link_bins(linked: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The attack's success in ten bins of memorization, those that hold 15 examples: who, x, y, low, high."""
    rows = []
    for who, frame in linked.items():
        low, high = np.quantile(frame["memorization"], [0.002, 0.998])
        for _, inside in frame.groupby(np.digitize(frame["memorization"], np.linspace(low, high, 11)[1:-1])):
            if len(inside) >= 15:
                x, y = inside.to_numpy().T
                rows.append({"who": who, "x": x.mean(), **ends(mean(y[None]), "y")})
    return pd.DataFrame(rows)


def memorization_density(found: Section):
    """Figure 1a: shares of examples by memorization on a logarithmic axis, and their difference with simultaneous intervals."""

    def draw(left, right, density):
        for (who, colour), width in zip(BOTH, (3.2, 1.2), strict=True):  # the thin line does not hide the thick one
            shares = density.assign(share=density[who].where(density[who] > 1e-9, 0))  # anything less is rounding error
            stairs(left, shares, "share", color=colour, lw=width, label=label_of(who, found.name))
        interval_points(right, (density["left"] + density["right"]) / 2, density, "difference", color=INK, ms=3)
        zero(right)
        for ax in (left, right):
            ax.axvline(LOWEST, color=GREY, lw=0.8, ls=":")
        left.set(yscale="log", xlabel="memorization", ylabel="share of examples")
        right.set(xlabel="memorization", ylabel=f"{found.name} − SGD")

    return multiples(found, ["density"], draw, columns=2, height=1.7, sharex=True, sharey="col")


def memorization_scatter(found: Section):
    """Figure 1b: the other optimizer's score of each example against SGD's, with both regression lines and the identity."""

    def draw(ax, examples, agreement):
        value, ends = agreement["value"], np.array([examples[["sgd", "sam"]].min().min(), 1.0])
        ax.scatter(examples["sgd"], examples["sam"], s=6, alpha=0.25, color=INK, lw=0, rasterized=True)
        for kind, dash, width in (("least squares", "-", 3.2), ("orthogonal", "--", 1.8)):
            line = value[f"slope, {kind}"] * ends + value[f"intercept, {kind}"]
            ax.plot(ends, line, dash, color=GREEN if dash == "-" else INK, lw=width, label=kind)
        ax.plot(ends, ends, color=RED, lw=0.9, label="identity")
        ax.set(xlabel="memorization, SGD", ylabel=f"memorization, {found.name}", aspect="equal")

    return multiples(found, ["examples", "agreement"], draw, height=2.9, sharex=True, sharey=True)


def most_images(found: Section, data: Mapping[str, Dataset | None]):
    """Figure 1c, for image data: the examples that differ most, with their class and both scores, SGD's → the other's."""

    def draw(*row):
        for ax, (_, each) in zip(row[:-1], row[-1].iterrows(), strict=False):
            image(ax, each["picture"], f"{each['class']}\n{each['sgd']:.2f} → {each['sam']:.2f}")

    shown = {}
    for dataset, frames in found.items():
        most, own = frames["most"].head(PICTURES), data[dataset]
        if own is None or own.x_train.ndim == 2:
            most = most.head(0)
        else:
            most = most.assign(picture=list(own.x_train[most.index]), **{"class": classes_of(own, most["label"])})
        shown[dataset] = {"most": most}
    return multiples(found.but(shown), ["most"], draw, columns=PICTURES, height=1.9)


def most_table(found: Section, data: Mapping[str, Dataset | None]):
    """The same examples in numbers, for data of any kind, with the mean of each column."""
    parts = {}
    for dataset, frames in found.items():
        most, own = frames["most"], data[dataset]
        shown = most[["chosen by", "sgd", "sam", "difference", "atypicality"]]
        shown = pd.concat([shown, shown.mean().to_frame("mean").T]).map("{:.3f}".format)
        shown.insert(0, "class", [*classes_of(own, most["label"]), ""])
        parts[dataset_title(dataset)] = shown
    titles = {"chosen by": "difference that chose it", "sgd": "SGD", "sam": found.name}
    whole = pd.concat(parts).rename(columns=titles).replace("nan", "")
    return scroll(whole.style, "Measured by the models that did not choose.")


def link_curve(found: Section):
    """Attack success on an example over its memorization, with intervals. Different models measure the two."""

    def draw(left, right, bins):
        curves = (left, "sgd", SGD, -0.006), (left, "sam", SAM, 0.006), (right, "difference", INK, 0)
        for ax, who, colour, move in curves:
            part = bins[bins["who"] == who]
            shown = {} if ax is right else {"label": label_of(who, found.name)}
            interval_points(ax, part["x"] + move, part, "y", fmt="o-", color=colour, **shown)
        left.axhline(0.5, color=GREY, lw=1, ls=":")
        zero(right)
        left.set(xlabel="memorization", ylabel=f"AUC, {OWN}")
        right.locator_params(axis="x", nbins=4)
        right.set(xlabel=f"memorization, {found.name} − SGD", ylabel=f"AUC, {found.name} − SGD")

    return multiples(found, ["link_bins"], draw, columns=2, height=2.1, sharey="col")
