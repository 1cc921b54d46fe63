"""Influence entropy (Figures 3 and 4; C8, C9, C10): whether a few training examples carry a test point, and what goes with it."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from samlib.audit import Pair
from samlib.evaluation import ENOUGH
from samlib.inference import Effect, Reliability
from samlib.paper.buckets import FEWEST, N_BUCKETS, VALUES, Seen, choose, entropy_reliability, look, measured, values_of
from samlib.paper.distances import dataset_of
from samlib.paper.frames import EACH, Found, Frames, contrast, effects, needs_rows, one, table
from samlib.paper.gallery import NEAR, gallery
from samlib.paper.sets import Models, models_of
from samlib.paper.style import GREY, RED, SAM, SGD, WIDTH, drawn

BINS = np.linspace(-0.3, 1, 14)  # of Figures 4b and 4c, scores beyond in the last ones
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
ENDS = "1 − 5"  # the first bucket less the last
FOLLOWED = ("the error of other models on the test point", "the memorization of its most influential example")


def measure(pair: Pair) -> Frames:
    """Frames effects, buckets, difficulty, tops, histogram, quantiles, follows, counts, reliability, gallery."""
    models, dataset = models_of(pair), dataset_of(pair.sgd)
    seen = look(models, dataset)
    found, reliable = measured(models, seen), entropy_reliability(models, seen)
    histogram, quantiles = _spreads(seen, seen.halves() if found else [])
    return {
        "effects": effects(_decided(found, reliable)),
        "buckets": _buckets(found),
        "difficulty": _difficulty(found),
        "tops": _tops(found),
        "histogram": histogram,
        "quantiles": quantiles,
        "follows": _follows(found),
        "counts": _counts(models, seen),
        "reliability": pd.DataFrame({"pooled influence entropy": reliable}, Reliability._fields).T,
        "gallery": gallery(models, seen.entropy[-1], seen.strength, dataset),
    }


def decided(pair: Pair) -> dict[str, Found | None]:
    """The claims of this section."""
    models = models_of(pair)
    seen = look(models, dataset_of(pair.sgd))
    return _decided(measured(models, seen), entropy_reliability(models, seen))


def _decided(found: dict[str, Effect], reliable: Reliability) -> dict[str, Found | None]:
    """C8, C9, C10 and the control; None where a bucket has too few test points."""
    claims: dict[str, Found | None] = dict.fromkeys(("C8", "C9", "C10", "C9 beyond difficulty"))
    if not found:
        return claims
    for claim, value in (("C8", "distance"), ("C10", "memorization")):
        if (found["points"].estimate[[0, -1], VALUES.index(value)] >= ENOUGH).all():
            claims[claim] = Found(one(found["ends"], VALUES.index(value)), reliable)
    return claims | {
        "C9": Found(one(found["low gain"]), reliable),
        "C9 beyond difficulty": Found(one(found["beyond"]), reliable),
    }


def _buckets(found: dict[str, Effect]) -> pd.DataFrame:
    """Figure 4a: index bucket; accuracy sgd, sam, difference, low, high, and how many test points."""
    rows = {}
    for b in range(N_BUCKETS) if found else ():
        parts = (one(found["means"], b, column) for column in (0, 1, -1))
        rows[b + 1] = contrast(*parts) | {"points": found["points"].estimate[b, 0]}
    return table(rows, "bucket")


def _difficulty(found: dict[str, Effect]) -> pd.DataFrame:
    """Index (difficulty, 1 the hardest; entropy, low or high); accuracy sgd, sam, difference, low, high."""
    rows = {}
    for b in range(N_BUCKETS) if found else ():
        for h, half in enumerate(("low", "high")):
            rows[b + 1, half] = contrast(*(one(found["difficulty"], b, h, column) for column in range(3)))
    return table(rows, "difficulty", "entropy")


def _tops(found: dict[str, Effect]) -> pd.DataFrame:
    """Means over the test points of a bucket: index (value, bucket "1" to "5" or "1 − 5"); mean, low, high, points."""
    rows = {}
    for column, value in enumerate(VALUES[2:], 2) if found else ():
        for b in range(N_BUCKETS + 1):
            last = b == N_BUCKETS
            effect = one(found["ends"], column) if last else one(found["means"], b, column)
            low, high = effect.interval(EACH)
            points = found["points"].estimate[:, column]
            if np.isfinite(effect.estimate):
                rows[value, ENDS if last else f"{b + 1}"] = {
                    "mean": float(effect.estimate), "low": float(low), "high": float(high),
                    "points": points[[0, -1]].sum() if last else points[b],
                }  # fmt: skip
    return table(rows, "value", "bucket")


def _follows(found: dict[str, Effect]) -> pd.DataFrame:
    """Rank correlations of the entropy with FOLLOWED, by models that did not make it: correlation, low, high."""
    if not found:
        return pd.DataFrame(columns=["correlation", "low", "high"])
    columns = dict(zip(("low", "high"), found["follows"].interval(EACH), strict=True))
    return pd.DataFrame({"correlation": found["follows"].estimate} | columns, FOLLOWED)


def _spreads(seen: Seen, halves: list[tuple[int, int]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Memorization of the top examples in bins (bucket, left, right, share), and quantiles of their distances by bucket."""
    parts = [pd.DataFrame(columns=["memorized", "far", "weight", "bucket"])]
    for place, other in halves:
        choice = choose(seen, place, np.ones(len(seen.nearest), int))
        memorized, far = values_of(seen, choice, other)[2:4]
        part = pd.DataFrame({"memorized": memorized, "far": far})
        parts += [part.assign(weight=choice.bucket[0, b], bucket=b + 1) for b in range(N_BUCKETS)]
    frame = pd.concat(parts[1:] or parts)
    histogram, quantiles = [], {}
    for b, part in frame[frame["weight"] > 0].groupby("bucket"):
        inside = part.dropna(subset="memorized")
        counts = np.histogram(np.clip(inside["memorized"], BINS[0], BINS[-1]), BINS, weights=inside["weight"])[0]
        columns = {"bucket": b, "left": BINS[:-1], "right": BINS[1:], "share": counts / counts.sum()}
        histogram.append(pd.DataFrame(columns))
        if len(inside := part.dropna(subset="far")):
            found = np.quantile(inside["far"], QUANTILES, weights=inside["weight"], method="inverted_cdf")
            quantiles[b] = dict(zip(map(str, QUANTILES), found, strict=True))
    empty = pd.DataFrame(columns=["bucket", "left", "right", "share"])
    return pd.concat(histogram, ignore_index=True) if histogram else empty, table(quantiles, "bucket")


def _counts(models: Models, seen: Seen) -> pd.DataFrame:
    """How many test points have an entropy, by half of the models and by all: index what; columns half, all."""
    columns = {}
    n_all = 2 * len(models.model)
    for name, places, n in (("half", [a for a, _ in seen.halves()], n_all / 2), ("all", [-1], n_all)):
        right = seen.accuracy[places].mean(1) * n
        known = np.isfinite(seen.entropy[places])
        parts = known, ~known & (right > n / 2), ~known & (right <= n / 2)
        columns[name] = [float(part.sum(1).mean()) for part in parts]
    index = ["have an entropy", f"fewer than {FEWEST} models are wrong", f"fewer than {FEWEST} models are right"]
    return pd.DataFrame(columns, index)


@needs_rows
@drawn
def bucket_accuracy(buckets: pd.DataFrame, name: str = "SAM"):
    """Figure 4a: accuracy in each bucket of influence entropy, and the gain with simultaneous intervals."""
    x = np.array(buckets.index)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.2, 1))
    for who, colour, label, shift in (("sgd", SGD, "SGD", -0.1), ("sam", SAM, name, 0.1)):
        left.plot(x + shift, buckets[who], "o", ms=7, color=colour, label=label)
    left.grid(axis="y", alpha=0.3)
    left.set(xlabel="bucket of entropy (1 = lowest)", ylabel="test accuracy", xticks=x)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    _with_ends(right, x, buckets, "difference", f"accuracy, {name} − SGD")
    right.set(xlabel="bucket of entropy (1 = lowest)", xticks=x)
    return figure


@needs_rows
@drawn
def gain_by_difficulty(difficulty: pd.DataFrame, name: str = "SAM"):
    """The control: the gain at low and at high entropy, among test points of equal difficulty."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, 2.9))
    for half, shift, colour, fmt in (("low", -0.12, "black", "D"), ("high", 0.12, GREY, "o")):
        part = difficulty.xs(half, level="entropy")
        shown = {"color": colour, "fmt": fmt, "label": f"{half} entropy"}
        _with_ends(ax, part.index + shift, part, "difference", f"accuracy, {name} − SGD", **shown)
    ax.set(xlabel="fifth by difficulty (1 = hardest)", xticks=range(1, N_BUCKETS + 1))
    ax.legend(fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def _with_ends(ax, x, frame: pd.DataFrame, column: str, said: str, *, color="black", fmt="D", **shown) -> None:
    """Points of a column with the intervals low, high around them, and a line at 0."""
    ends = np.abs(frame[["low", "high"]].T.to_numpy() - frame[column].to_numpy())
    ax.axhline(0, color=GREY, lw=1)
    ax.errorbar(x, frame[column], yerr=ends, ms=5, lw=1.3, color=color, fmt=fmt, **shown)
    ax.set_ylabel(said)
    ax.grid(axis="y", alpha=0.3)


@needs_rows
@drawn
def top_memorization(tops: pd.DataFrame, histogram: pd.DataFrame):
    """Figures 4b and 4c: pooled memorization of the most influential example, in the first and the last bucket and all.

    Each test point's example is the choosing models' own, and its memorization is by the models that did not choose.
    """
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.7), width_ratios=(1, 1, 0.9))
    means = tops.loc["memorization"]
    for ax, b in zip(axes, (1, N_BUCKETS), strict=False):
        part, mean = histogram[histogram["bucket"] == b], means.loc[f"{b}"]
        ax.stairs(part["share"], [*part["left"], part["right"].iloc[-1]], fill=True, color=GREY, alpha=0.75)
        ax.axvline(mean["mean"], color="black", lw=1.3, ls="--")
        said = f"bucket {b}: {mean['points']:.0f} test points\nmean {mean['mean']:.2f} (dashed)"
        ax.set(xlabel="memorization, pooled", ylim=(0, 1.05 * histogram["share"].max()))
        ax.set_title(said, fontsize="medium")
    axes[0].set_ylabel("share of test points")
    part = means.drop(index=ENDS)
    _with_ends(axes[2], part.index.astype(int), part, "mean", "mean memorization")
    axes[2].set(xlabel="bucket of entropy", xticks=part.index.astype(int))
    return figure


@needs_rows
@drawn
def bucket_distances(tops: pd.DataFrame, quantiles: pd.DataFrame):
    """How far the most influential example is, by bucket: its quantiles, and the mean with simultaneous intervals.

    1 is the typical distance of the test point from its class; dotted, below it are near duplicates.
    """
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, 2.9))
    least, low, middle, high, most = (quantiles[f"{q}"] for q in QUANTILES)
    x = np.array(quantiles.index)
    ax.vlines(x, least, most, color=GREY, lw=1, label="10 % to 90 %")
    ax.bar(x, high - low, bottom=low, width=0.3, color="0.85", label="25 % to 75 %")
    ax.hlines(middle, x - 0.15, x + 0.15, color="black", lw=1.3, label="median")
    part = tops.loc["distance"].drop(index=ENDS)
    _with_ends(ax, part.index.astype(int) + 0.28, part, "mean", "distance (1 = typical)", label="mean")
    ax.axhline(NEAR, color=RED, lw=1, ls=":")
    ax.set(xlabel="bucket of entropy (1 = lowest)", xticks=x)
    ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@needs_rows
def distance_table(tops: pd.DataFrame):
    """The frame "tops" as people read it: the most influential examples of the buckets, and how near they are."""
    cells = tops["mean"].map("{:.3f}".format)
    ends = tops.index.get_level_values("bucket") == ENDS
    cells[ends] += [f" ({low:+.3f} to {high:+.3f})" for low, high in tops.loc[ends, ["low", "high"]].to_numpy()]
    shown = cells.unstack("bucket").loc[tops.index.unique("value"), tops.index.unique("bucket")]
    return shown.rename(columns=lambda b: b if b == ENDS else f"bucket {b}").rename_axis(index=None, columns=None).style


def entropy_sentence(follows: pd.DataFrame) -> str:
    """What the frame "follows" says, in words."""
    if follows.empty:
        return "The models disagree on too few test points to say what entropy goes with."
    said = []
    for name, row in follows.iterrows():
        verb = "goes with" if row.low > 0 or row.high < 0 else "shows no relation to"
        said.append(
            f"{verb} {name} (rank correlation {row.correlation:+.2f}, interval {row.low:+.2f} to {row.high:+.2f})"
        )
    return f"Among the test points that models disagree on, influence entropy {said[0]} and {said[1]}."


def counts_sentence(counts: pd.DataFrame) -> str:
    """How many test points have an entropy and why the others have none, in words."""
    have, right, wrong = (f"{n:,.0f}" for n in counts["half"])
    return (
        f"Of {counts['half'].sum():,.0f} test points, {have} have an entropy by half of the models (a mean over partitions); "
        f"fewer than {FEWEST} models are wrong on {right}, and fewer than {FEWEST} are right on {wrong}."
    )
