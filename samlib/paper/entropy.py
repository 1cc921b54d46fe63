"""Influence entropy (Figures 3 and 4; C8, C9, C10), which is low if few training examples carry a test point."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from samlib.audit import Pair
from samlib.data import Dataset
from samlib.estimators import top_influences
from samlib.evaluation import ENOUGH
from samlib.inference import RELIABLE, Effect, Reliability, shares
from samlib.paper import buckets, panels
from samlib.paper.buckets import N_BUCKETS, NEAR, VALUES, Seen
from samlib.paper.distances import between, dataset_of
from samlib.paper.frames import Found, Frames, Section, contrast, effects, ends, one, table
from samlib.paper.panels import comparisons, interval_points, multiples, not_shown, together
from samlib.paper.sets import Models, models_of
from samlib.paper.style import GREY, INK, RED, WIDTH, dataset_title, drawn

BINS = np.linspace(-0.3, 1, 14)  # of Figures 4b and 4c; scores outside fall into the end bins
K = 10  # examples that Figure 3 shows beside each test point
EACH_END = 3  # test points that it shows from each end of the entropies
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
BUCKET = "bucket of entropy (1 = lowest)"
ENDS = "1 − 5"  # the first bucket minus the last
SHOWN = ("buckets", "difficulty", "tops", "histogram", "quantiles", "follows")  # frames that need enough models
FOLLOWED = ("the error of other models on the test point", "the memorization of its most influential example")


def measure(pair: Pair) -> Frames:
    """Frames effects, buckets, difficulty, tops, histogram, quantiles, follows, counts, reliability, gallery."""
    models, dataset = models_of(pair), dataset_of(pair.sgd)
    seen = buckets.look(models, dataset)
    found, reliable = buckets.measured(models, seen), buckets.entropy_reliability(models, seen)
    shown = _shown(seen, found) if found else dict.fromkeys(SHOWN, pd.DataFrame())
    return {
        "effects": effects(_decided(found, reliable)),
        **shown,
        "counts": _counts(seen),
        "reliability": pd.DataFrame({"pooled influence entropy": reliable}, Reliability._fields).T,
        "gallery": _gallery(models, seen, dataset),
    }


def decided(pair: Pair) -> dict[str, Found | None]:
    """The claims of this section."""
    models = models_of(pair)
    seen = buckets.look(models, dataset_of(pair.sgd))
    return _decided(buckets.measured(models, seen), buckets.entropy_reliability(models, seen))


def _decided(found: dict[str, Effect], reliable: Reliability) -> dict[str, Found | None]:
    """C8, C9, C10 and the control; None where a bucket has too few test points."""
    claims: dict[str, Found | None] = dict.fromkeys(("C8", "C9", "C10", "C9 beyond difficulty"))
    if not found:
        return claims
    for claim, value in (("C8", "distance"), ("C10", "memorization")):
        at = VALUES.index(value)
        if (found["points"].estimate[[0, N_BUCKETS - 1], at] >= ENOUGH).all():
            claims[claim] = Found(one(found["means"], -1, at), reliable)
    return claims | {"C9": Found(found["low gain"], reliable), "C9 beyond difficulty": Found(found["beyond"], reliable)}


def _shown(seen: Seen, found: dict[str, Effect]) -> Frames:
    """The frames SHOWN.

    buckets: Figure 4a, accuracies sgd, sam, difference, low, high, and the number of test points. difficulty: accuracies by
    (difficulty, 1 the hardest; entropy, low or high). tops: means over the test points of a bucket, by (value, bucket "1" to
    "5" or ENDS): mean, low, high, points. follows: rank correlations of the entropy with FOLLOWED, which other models measure.
    """
    means, points, number = found["means"], found["points"].estimate, range(1, N_BUCKETS + 1)
    of_buckets = contrast(*(one(means, slice(-1), column) for column in (0, 1, -1)))
    difficulty = contrast(*(one(found["difficulty"], ..., column) for column in range(3)))
    tops = ends(one(means, ..., slice(2, -1)), "mean") | {"points": points[:, 2:]}
    by = {"difficulty": number, "entropy": ("low", "high")}, {"value": VALUES[2:], "bucket": [*map(str, number), ENDS]}
    cells, names = (pd.MultiIndex.from_product(levels.values(), names=levels) for levels in by)
    frame = pd.DataFrame({name: each.T.ravel() for name, each in tops.items()}, names).dropna(subset="mean")
    return {
        "buckets": pd.DataFrame(of_buckets | {"points": points[:-1, 0]}, pd.Index(list(number), name="bucket")),
        "difficulty": pd.DataFrame({name: each.ravel() for name, each in difficulty.items()}, cells),
        "tops": frame.set_index(frame.index.remove_unused_levels()),
        "follows": pd.DataFrame(ends(found["follows"], "correlation"), FOLLOWED),
        **_spreads(seen),
    }


def _spreads(seen: Seen) -> Frames:
    """Memorization of the top examples in bins (bucket, left, right, share), and quantiles of their distances by bucket."""
    parts, histogram, quantiles = [], [], {}
    for place, other in seen.directions[..., 0]:
        choice = buckets.choose(seen, place, np.ones(len(seen.nearest), int))
        memorized, far = buckets.values_of(seen, choice, other)[2:4]
        for b, weight in enumerate(choice.bucket[0], 1):
            parts.append(pd.DataFrame({"bucket": b, "memorized": memorized, "far": far, "weight": weight}))
    for b, part in pd.concat(parts).query("weight > 0").groupby("bucket"):
        inside = part.dropna(subset="memorized")
        counts = np.histogram(inside["memorized"].clip(BINS[0], BINS[-1]), BINS, weights=inside["weight"])[0]
        columns = {"bucket": b, "left": BINS[:-1], "right": BINS[1:], "share": counts / counts.sum()}
        histogram.append(pd.DataFrame(columns))
        if len(inside := part.dropna(subset="far")):
            found = np.quantile(inside["far"], QUANTILES, weights=inside["weight"], method="inverted_cdf")
            quantiles[b] = dict(zip(map(str, QUANTILES), found, strict=True))
    return {"histogram": pd.concat(histogram, ignore_index=True), "quantiles": table(quantiles, "bucket")}


def _counts(seen: Seen) -> pd.DataFrame:
    """How many test points have an entropy, and why the others have none. Columns: by half of the models, and by all."""
    columns = {}
    for name, places in (("half", seen.directions[:, 0, 0]), ("all", [-1])):
        known, right = np.isfinite(seen.entropy[places]), seen.accuracy[places].mean(1) > 0.5
        columns[name] = [float(part.sum(1).mean()) for part in (known, ~known & right, ~known & ~right)]
    index = [
        "have an entropy",
        f"fewer than {buckets.FEWEST} models are wrong",
        f"fewer than {buckets.FEWEST} models are right",
    ]
    return pd.DataFrame(columns, index)


def _gallery(models: Models, seen: Seen, dataset: Dataset | None) -> pd.DataFrame:
    """The rows of Figure 3: in turn a test point of the first bucket and one of the last, of the same class if there is one.

    Test points of the largest influence come first, at most EACH_END of each bucket. Those of the first bucket differ in class.

    There is a row for each of a test point's K most influential examples of its class, the strongest first, by all models of
    both optimizers. Columns: row, test, label, bucket, entropy, example, influence, distance (of the example), nearest (the
    distance of the nearest example of the class). Distances are over the typical distance; NaN if the data are not at hand.
    """
    entropy, label, rows = seen.entropy[-1], models.test_label, list[int]()
    known = np.flatnonzero(np.isfinite(entropy))
    bucket = np.zeros(len(entropy), int)
    if len(known) >= N_BUCKETS:
        bucket[known] = shares(entropy[known], N_BUCKETS).argmax(0) + 1
    order = known[np.argsort(-seen.strength[known], kind="stable")]
    last = [i for i in order if bucket[i] == N_BUCKETS]
    for i in order[bucket[order] == 1]:
        if label[i] not in label[rows[::2]] and last and len(rows) < 2 * EACH_END:
            rows += [i, next((j for j in last if label[j] == label[i]), last[0])]
            last.remove(rows[-1])
    if not rows:
        return pd.DataFrame()
    some = np.flatnonzero(models.member.any(0) & ~models.member.all(0))
    correct, member = np.concatenate(models.test_correct)[:, rows], np.concatenate([models.member[:, some]] * 2)
    found, value = top_influences(correct, member, min(K, len(some)), labels=(label[rows], models.label[some]))
    row, rank = np.nonzero(np.isfinite(value))
    test, example = np.array(rows)[row], models.example[some[found[row, rank]]]
    far = np.nan if dataset is None else between(dataset, models.test[test], example).diagonal() / seen.typical[test]
    return pd.DataFrame({
        "row": row, "test": models.test[test], "label": label[test], "bucket": bucket[test], "entropy": entropy[test],
        "example": example, "influence": value[row, rank], "distance": far, "nearest": seen.nearest[test].astype(float),
    })  # fmt: skip


def bucket_accuracy(found: Section):
    """Figure 4a: accuracy in each bucket of influence entropy, and the gain with simultaneous intervals."""
    axis = {"xlabel": BUCKET, "xticks": range(1, N_BUCKETS + 1)}
    return comparisons(found, "buckets", "test accuracy", at=lambda r: r.index, axis=axis, height=1.7, sharex=True)


def gain_by_difficulty(found: Section):
    """The control: the gain at low and at high entropy, among test points of equal difficulty."""

    def draw(ax, difficulty):
        panels.zero(ax)
        for half, move, colour, fmt in (("low", -0.12, INK, "D"), ("high", 0.12, GREY, "o")):
            part = difficulty.xs(half, level="entropy")
            interval_points(ax, part.index + move, part, "difference", color=colour, fmt=fmt, label=f"{half} entropy")
        ax.set(xlabel="fifth by difficulty (1 = hardest)", xticks=range(1, N_BUCKETS + 1))
        ax.set(ylabel=f"accuracy, {found.name} − SGD")

    return multiples(found, ["difficulty"], draw, height=2.2, sharex=True)


def top_memorization(found: Section):
    """Figures 4b and 4c: pooled memorization of the most influential example, in the first, the last and all buckets.

    One half of the models chooses each test point's example. The other half measures its memorization.
    """

    def draw(first, last, each, tops, histogram):
        means = tops.loc["memorization"]
        for ax, b in ((first, 1), (last, N_BUCKETS)):
            panels.stairs(ax, histogram[histogram["bucket"] == b], "share", fill=True, color=GREY, alpha=0.75)
            ax.axvline(means.loc[f"{b}", "mean"], color=INK, lw=1.3, ls="--")
            ax.set(xlabel=f"memorization, bucket {b}", ylim=(0, 1.05 * histogram["share"].max()))
        first.set_ylabel("share of test points")
        part = means.drop(index=ENDS)
        interval_points(each, part.index.astype(int), part, "mean", color=INK)
        each.set(xlabel="bucket (1 = lowest)", ylabel="mean memorization", xticks=part.index.astype(int))

    return multiples(found, ["tops", "histogram"], draw, columns=3, height=1.8)


def bucket_distances(found: Section):
    """The distance of the most influential example, by bucket: quantiles, and the mean with simultaneous intervals.

    1 is the test point's typical (median) distance from its class. Examples below the dotted line are near duplicates.
    """

    def draw(ax, tops, quantiles):
        least, low, middle, high, most = (quantiles[f"{q}"] for q in QUANTILES)
        x = np.array(quantiles.index)
        ax.vlines(x, least, most, color=GREY, lw=1, label="10 % to 90 %")
        ax.bar(x, high - low, bottom=low, width=0.3, color="0.8", label="25 % to 75 %")
        ax.hlines(middle, x - 0.15, x + 0.15, color=INK, lw=1.3, label="median")
        part = tops.loc["distance"].drop(index=ENDS)
        interval_points(ax, part.index.astype(int) + 0.28, part, "mean", fmt="D", color=INK, label="mean")
        ax.axhline(NEAR, color=RED, lw=1, ls=":")
        ax.set(xlabel=BUCKET, ylabel="distance (1 = typical)", xticks=x)

    return multiples(found, ["tops", "quantiles"], draw, height=2.2, sharex=True, sharey=True)


def distance_table(found: Section):
    """The frame "tops" as a table: memorization and distances of the most influential examples in each bucket."""
    tops = found.stacked("tops")
    if tops.empty:
        return not_shown(found)
    cells = tops["mean"].map("{:.3f}".format)
    ends = tops.index.get_level_values("bucket") == ENDS
    cells[ends] += [f" ({low:+.3f} to {high:+.3f})" for low, high in tops.loc[ends, ["low", "high"]].to_numpy()]
    shown = cells.unstack("bucket", sort=False).rename(columns=lambda b: b if b == ENDS else f"bucket {b}")
    return panels.scroll(
        shown.fillna("").rename_axis([None, None]).rename_axis(None, axis=1).style, "Means over test points."
    )


def hardest(found: Section) -> Markdown:
    """Which bucket is the hardest for SGD on each data set, and in which one the other optimizer gains most.

    Nothing is said of buckets that are too noisy.
    """
    said = {}
    for title, frames in found.titled().items():
        if len(rows := frames["buckets"]):
            if (frames["reliability"]["value"] >= RELIABLE).all():
                hard, most = rows["sgd"].idxmin(), rows["difference"].idxmax()
                each = f"bucket {hard} is the hardest for SGD, and {found.name} gains most in bucket {most}."
            else:
                each = "the reliability is too low: these buckets do not say which test points are hard."
            said[title] = each
    return together(said)


def _pictured(data: Mapping[str, Dataset | None]) -> dict[str, Dataset]:
    return {name: own for name, own in data.items() if own is not None and own.x_train.ndim > 2}


@drawn
def figure_3(found: Section, data: Mapping[str, Dataset | None]) -> Figure | Markdown:
    """Boxed test images, each followed by its most influential training images with their influence; of images at hand.

    A red frame marks a training image that is a near duplicate of the test image (nearer than NEAR times the class's typical
    distance), or equal to it.
    """
    images = _pictured(data)
    frames = {name: found[name]["gallery"] for name in found if name in images and len(found[name]["gallery"])}
    rows = {name: [part for _, part in frame.groupby("row")] for name, frame in frames.items()}
    if not rows:
        return not_shown(found)
    many = [len(parts) for parts in rows.values()]
    figure = plt.figure(figsize=(WIDTH, 0.92 * sum(many) + 0.3 * len(many)))
    below = figure.subfigures(len(many), 1, squeeze=False, height_ratios=many).flat
    for panel, (name, parts) in zip(below, rows.items(), strict=True):
        panel.suptitle(found.titles[name], x=0, ha="left", fontsize="medium", fontweight="bold")
        for row, part in zip(panel.subplots(len(parts), K + 1, squeeze=False), parts, strict=True):
            first, own = next(part.itertuples()), images[name]
            panels.image(row[0], own.x_test[first.test], f"{own.classes[first.label]}\nbucket {first.bucket}", INK)
            for ax, each in zip(row[1:], part.itertuples(), strict=False):
                flag = "same, " if each.distance == 0 else "near, " if each.distance < NEAR else ""
                panels.image(ax, own.x_train[each.example], f"{flag}{each.influence:.2f}", RED if flag else None)
            for ax in row[1 + len(part) :]:
                ax.set_axis_off()
    return figure


def in_words(found: Section, data: Mapping[str, Dataset | None]):
    """Figure 3 of data sets without pictures: a test point of bucket 1 and one of bucket 5, and their influential examples."""
    images, rows = _pictured(data), {}
    for name in (name for name, frames in found.items() if len(frames["gallery"]) and name not in images):
        for _, part in found[name]["gallery"].query("row < 2").groupby("row"):
            first, influence = next(part.itertuples()), part["influence"]
            row = {
                "class": panels.classes_of(data[name], [first.label])[0],
                "bucket": f"{first.bucket}",
                "training examples": " ".join(map(str, part["example"])),
                "influence, first to last": f"{influence.iloc[0]:.2f} to {influence.iloc[-1]:.2f}",
            }
            if part["distance"].notna().all():
                row["distances of these (1 = typical of the class)"] = " ".join(f"{d:.2f}" for d in part["distance"])
                row["nearest of its class"] = f"{first.nearest:.2f}"
            rows[dataset_title(name), f"test point {first.test}"] = row
    if not rows:
        return Markdown("*The figure has all data sets.*")
    return pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(rows)).style
