"""Figures 2, 3 and 4: influence over memorization, entropy buckets, and the training examples that carry a test point."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Rectangle

from samlib.audit import Pair
from samlib.data import Dataset
from samlib.estimators import memorization
from samlib.paper.claims.entropy import (
    N_BUCKETS,
    Top,
    bucket_table,
    difficulty_table,
    distances,
    top,
    top_distances,
)
from samlib.paper.claims.influence import EDGES, differences, figure_2, influence_by_interval, of
from samlib.paper.claims.statistics import halves
from samlib.paper.figures.tables import table
from samlib.paper.style import GREEN, GREY, RED, SAM, SGD, WIDTH, class_title, drawn, needs_data

NEAR = 0.25  # of the class's typical distance: below, two images are called near duplicates
SHADES = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(EDGES) - 1))  # of the intervals of memorization


def _line(ax, x, y):
    """The green least-squares line over the range of x, and its slope."""
    slope, intercept = np.polyfit(x, y, 1) if np.ptp(x) > 0 else (0.0, y.mean())
    ends = np.array([x.min(), x.max()])
    return ax.plot(ends, slope * ends + intercept, color=GREEN, lw=2)[0], slope


@drawn
def influence_scatter(pair: Pair):
    """Figures 2a and 2b: influence of the chosen examples by models that did not choose them, over memorization.

    Grey: the influences that they were chosen by. Diamonds: the mean of each interval.
    """
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.3), sharex=True, sharey=True)
    drawn_as = {}
    for ax, colour, title, found in zip(axes, (SGD, SAM), ("SGD", pair.name), figure_2(pair).values(), strict=True):
        x, y = found.memorization, found.terms.mean(0)
        ax.axhline(0, color=GREY, lw=0.8)
        means = np.array([(x[i].mean(), y[i].mean()) for i in _intervals(found.interval)])
        marks = {
            "as chosen (even models)": ax.scatter(x, found.chosen_by, s=9, color="0.8", lw=0),
            "as measured (odd models)": ax.scatter(x, y, s=13, color=colour, alpha=0.8, lw=0),
            "mean of an interval, measured": ax.plot(*means.T, "D", color="black", ms=4.5)[0],
        }
        marks["least squares"], slope = _line(ax, x, y)
        ax.set(xlabel="memorization (even models)", title=f"{title}: slope {slope:+.3f}")
        for label, mark in marks.items():
            drawn_as.setdefault(label, []).append(mark)
    axes[0].set_ylabel("influence on a test point")
    figure.legend(
        [tuple(marks[1:]) if "measured (" not in label else tuple(marks) for label, marks in drawn_as.items()],
        drawn_as, loc="outside lower center", ncols=2, fontsize="small", handler_map={tuple: HandlerTuple(None)},
    )  # fmt: skip
    return figure


def _intervals(interval: np.ndarray) -> list[np.ndarray]:
    return [interval == j for j in np.unique(interval)]


def influence_table(pair: Pair):
    """Mean influence of all examples in each fifth of memorization, with the paired difference; how many examples first."""
    return table(influence_by_interval(pair), name=pair.name)


@drawn
def influence_differences(pair: Pair):
    """Figure 2c: SAM - SGD in influence (odd models) over the same in memorization (even models), with the regression line."""
    found = differences(pair)
    y = (found.sam - found.sgd).mean(0)
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, 3.3))
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=GREY, lw=0.8)
    for j in np.unique(found.interval):
        inside = found.interval == j
        label = f"{EDGES[j]:.1f} to {EDGES[j + 1]:.1f}"
        ax.scatter(found.memorization[inside], y[inside], s=16, color=SHADES[j], lw=0, label=label)
    line, slope = _line(ax, found.memorization, y)
    line.set_label(f"slope {slope:+.3f}")
    ax.set(xlabel=f"memorization, {pair.name} − SGD (even models)", ylabel=f"influence, {pair.name} − SGD (odd models)")
    ax.legend(title="mean memorization", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@drawn
def bucket_accuracy(pair: Pair):
    """Figure 4a: accuracy in each bucket of influence entropy, and SAM's gain with its 95 % interval."""
    frame = bucket_table(pair)
    x = np.array(frame.index)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9), width_ratios=(1.2, 1))
    for column, colour, label, shift in (("sgd", SGD, "SGD", -0.1), ("sam", SAM, pair.name, 0.1)):
        left.plot(x + shift, frame[column], "o", ms=7, color=colour, label=label)
    left.grid(axis="y", alpha=0.3)
    left.set(xlabel="bucket of entropy (1 = lowest)", ylabel="test accuracy", xticks=x)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    _gains(right, x, frame, f"accuracy, {pair.name} − SGD", colour="black")
    right.set_xlabel("bucket of entropy (1 = lowest)")
    return figure


def _gains(ax, x, frame: pd.DataFrame, label: str, *, colour, name: str | None = None, fmt: str = "D") -> None:
    ax.axhline(0, color=GREY, lw=1)
    gain = frame["difference"].to_numpy()
    error = np.maximum([gain - frame["low"], frame["high"] - gain], 0)
    ax.errorbar(x, gain, yerr=error, fmt=fmt, ms=5, color=colour, lw=1.3, label=name)
    ax.set(ylabel=label)
    ax.grid(axis="y", alpha=0.3)


@drawn
def top_memorization(pair: Pair):
    """Figures 4b and 4c: SAM's memorization of the most influential example of test points of the first and the last bucket."""
    first, second = halves(pair)
    found = top(of(first.sam))
    score = memorization(second.sam.correct.values, second.sam.member.values, empty="zero").value
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.7), sharex=True, sharey=True)
    edges = np.linspace(-0.3, 1, 14)
    for ax, b in zip(axes, (1, N_BUCKETS), strict=True):
        values = np.empty(0) if found is None else score[found.example[found.bucket == b, 0]]
        said = f"bucket {b}: {len(values)} test point" + "s" * (len(values) != 1)
        if len(values):
            share = np.histogram(np.clip(values, *edges[[0, -1]]), edges)[0] / len(values)
            ax.stairs(share, edges, fill=True, color=SAM, alpha=0.75)
            ax.axvline(values.mean(), color="black", lw=1.3, ls="--")
            said += f"\nmean {values.mean():.2f} (dashed)"
        ax.set(xlabel="memorization (odd models)", title=said)
    axes[0].set_ylabel("share of test points")
    return figure


@drawn
def gain_by_difficulty(pair: Pair):
    """The control: SAM's gain at low and at high entropy, among test points of equal difficulty."""
    frame = difficulty_table(pair)
    figure, ax = plt.subplots(figsize=(WIDTH * 0.72, 2.9))
    x = np.arange(1, N_BUCKETS + 1)
    label = f"accuracy, {pair.name} − SGD"
    for half, shift, colour, fmt in (("low", -0.12, "black", "D"), ("high", 0.12, GREY, "o")):
        part = frame.xs(half, level="entropy")
        _gains(ax, x + shift, part, label, colour=colour, name=f"{half} entropy", fmt=fmt)
    ax.set(xlabel="fifth by difficulty (1 = hardest)", xticks=x)
    ax.legend(fontsize="small", ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
    return figure


def gallery(pair: Pair, k: int = 10, n: int = 3) -> Top:
    """Test points for Figure 3: in turn one of the first bucket, one of the last (of the same class where that has one).

    In both buckets those whose most influential example has the largest influence, at most n of each, of different classes;
    by all models of both optimizers; each with its k most influential examples.
    Raises ValueError where the models disagree on too few test points.
    """
    found = top(of(pair.sgd, pair.sam), k)
    if found is None:
        raise ValueError("n_models must be larger: the models disagree on too few test points for buckets of entropy.")
    label, order, rows = pair.sgd.test_label.values[found.test], np.argsort(-found.value[:, 0], kind="stable"), []
    last = [i for i in order if found.bucket[i] == N_BUCKETS]
    for i in order[found.bucket[order] == 1]:
        if label[i] in label[rows[::2]] or not last or len(rows) >= 2 * n:
            continue
        other = next((j for j in last if label[j] == label[i]), last[0])
        last.remove(other)
        rows += [i, other]
    return Top(*(part[np.array(rows, int)] for part in found))


@drawn
def influential_images(pair: Pair, dataset: Dataset, *, k: int = 10, n: int = 3):
    """Figure 3: boxed test images, each followed by its k most influential training images with class and influence.

    A red frame flags a training image that is a near duplicate of the test image (NEAR of the class's typical distance), or
    the same to the pixel.
    """
    found = gallery(pair, k, n)
    rows = len(found.test)
    names = [class_title(dataset.classes[int(label)], 12) for label in dataset.y_test[found.test]]
    height = 0.66 + 0.11 * max(name.count("\n") + 2 for name in names)
    figure, axes = plt.subplots(rows, k + 1, figsize=(WIDTH, height * rows), squeeze=False)
    grey = "gray_r" if dataset.x_train.ndim == 3 else None
    for row, test in enumerate(found.test):
        near = distances(dataset, np.repeat(test, k), found.example[row])
        ratio = near.example / near.typical
        axes[row, 0].imshow(dataset.x_test[test], cmap=grey, interpolation="nearest")
        axes[row, 0].set_title(f"{names[row]}\nbucket {found.bucket[row]}", fontsize=6, fontweight="bold", pad=3)
        _frame(axes[row, 0], "black")
        for ax, example, value, away in zip(axes[row, 1:], found.example[row], found.value[row], ratio, strict=True):
            if not np.isfinite(value):
                continue
            ax.imshow(dataset.x_train[example], cmap=grey, interpolation="nearest")
            flag = "same, " if away == 0 else "near, " if away < NEAR else ""
            ax.set_title(f"{flag}{value:.2f}", fontsize=6.5, pad=3, color=RED if flag else "black")
            if flag:
                _frame(ax, RED)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure


def _frame(ax, colour: str) -> None:
    ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, fill=False, ec=colour, lw=2.2, clip_on=False))


@needs_data
def distance_table(pair: Pair, dataset: Dataset):
    """How near the most influential example and the nearest one of the class are, first and last bucket of entropy.

    Means over test points; in units of the class's typical (median) distance, and for 0/1 features also in features that
    differ (Hamming).
    """
    result = top_distances(pair, dataset)
    rows = {}
    binary = bool(np.isin(dataset.x_train[:1000], (0, 1)).all())
    for b in (1, N_BUCKETS) if result else ():
        found, far = result
        inside = found.bucket == b
        part = {"test points": f"{inside.sum()}"}
        for name, values in (("most influential", far.example), ("nearest of its class", far.nearest)):
            if binary:
                part[f"{name}: features that differ"] = f"{(values[inside] ** 2).mean():.1f}"
            part[f"{name}: of the typical distance"] = f"{(values / far.typical)[inside].mean():.3f}"
        part["most influential is nearest"] = f"{(far.example <= far.nearest * (1 + 1e-6))[inside].mean():.1%}"
        part["near duplicates (most influential)"] = f"{(far.example < NEAR * far.typical)[inside].mean():.1%}"
        rows[f"bucket {b}"] = part
    return pd.DataFrame(rows).style


def gallery_table(pair: Pair, dataset: Dataset, *, k: int = 10, n: int = 3):
    """Figure 3 for data that are no images: each test point's class, and of its k most influential examples the distances."""
    found, rows = gallery(pair, k, n), {}
    for row, test in enumerate(found.test):
        far = distances(dataset, np.repeat(test, k), found.example[row])
        ratio = far.example / far.typical
        rows[f"test point {test}"] = {
            "class": dataset.classes[int(dataset.y_test[test])],
            "bucket": f"{found.bucket[row]}",
            "influence, first to last": f"{found.value[row, 0]:.2f} to {found.value[row, -1]:.2f}",
            "distances of these (1 = typical of the class)": " ".join(f"{value:.2f}" for value in ratio),
            "nearest of its class": f"{(far.nearest / far.typical)[0]:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").style


@needs_data
def figure_3(pair: Pair, dataset: Dataset):
    """Figure 3: `influential_images` where the data are images, else `gallery_table`."""
    is_image = dataset.x_train.ndim > 2
    return influential_images(pair, dataset) if is_image else gallery_table(pair, dataset)
