"""Figures 1a, 1b and 1c: densities of memorization scores, SAM's against SGD's, and the examples that differ most."""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from samlib.audit import Pair, link
from samlib.data import Dataset
from samlib.estimators import memorization, weighted_memorization
from samlib.evaluation import resampled
from samlib.paper.claims import distance
from samlib.paper.style import GREEN, GREY, RED, SAM, SGD, WIDTH, class_title, drawn, needs_data


@drawn
def memorization_density(pair: Pair, *, n_bins: int = 20, n_resamples: int = 500):
    """Figure 1a: histograms of memorization scores on a logarithmic axis, with 95 % bands over models and examples."""
    edges = np.linspace(-0.2, 1.0, n_bins + 1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    shares = []
    for runs, colour, label in ((pair.sgd, SGD, "SGD"), (pair.sam, SAM, pair.name)):
        score = memorization(runs.correct.values, runs.member.values).value
        share = np.histogram(np.clip(score[~np.isnan(score)], *edges[[0, -1]]), edges)[0] / np.sum(~np.isnan(score))
        left.stairs(share, edges, color=colour, lw=1.6, label=label)
        shares.append(share)
    left.set(yscale="log", xlabel="memorization", ylabel="share of examples")
    left.legend()
    gap = shares[1] - shares[0]
    draws = _share_differences(pair, edges, n_resamples)
    low, high = np.quantile(draws - draws.mean(0) + gap, [0.025, 0.975], axis=0)
    centre = (edges[1:] + edges[:-1]) / 2
    right.axhline(0, color=GREY, lw=1)
    right.bar(centre, gap, width=0.85 * np.diff(edges), color=np.where(gap > 0, SAM, SGD), alpha=0.55)
    right.errorbar(centre, gap, yerr=np.maximum([gap - low, high - gap], 0), fmt="none", color="black", lw=1)
    right.set(xlabel="memorization", ylabel=f"share, {pair.name} − SGD")
    return figure


def _share_differences(pair: Pair, edges, n_resamples: int) -> np.ndarray:
    """Bootstrap replicates (resamples, bins) of the difference in the histograms' shares."""
    scores = [weighted_memorization(runs.correct.values, runs.member.values) for runs in (pair.sam, pair.sgd)]

    def shares(rows, columns):
        result = []
        for values in scores:
            score = values(rows)
            known = ~np.isnan(score)
            bins = np.clip(np.digitize(np.where(known, score, 0), edges) - 1, 0, len(edges) - 2)
            cell = bins + (len(edges) - 1) * np.arange(len(rows))[:, None]
            mass = np.bincount(cell[known], (columns * known)[known], minlength=len(rows) * (len(edges) - 1))
            result.append(mass.reshape(len(rows), -1) / (columns * known).sum(1, keepdims=True))
        return result[0] - result[1]

    return resampled(pair.sgd.member.shape, shares, n_resamples=n_resamples)


class Agreement(NamedTuple):
    """How SAM's scores go with SGD's: least squares and orthogonal slope and intercept, correlations, split-half reliability.

    `corrected` is the correlation of even-model scores of one with odd-model scores of the other, over the root of both
    reliabilities (Spearman 1904): what it would be without the noise of few models. NaN where a reliability is not positive.
    """

    pearson: float
    spearman: float
    corrected: float
    reliability_sgd: float
    reliability_sam: float
    slope: float
    intercept: float
    orthogonal_slope: float
    orthogonal_intercept: float


def agreement(pair: Pair) -> Agreement:
    """Figure 1b's numbers. Noise in SGD's scores alone bends the least-squares line; the orthogonal one treats both alike."""
    halves = {}
    for name, runs in (("sgd", pair.sgd), ("sam", pair.sam)):
        correct, member = runs.correct.values, runs.member.values
        halves[name] = [
            memorization(correct[s], member[s], empty="zero").value
            for s in (slice(None), slice(0, None, 2), slice(1, None, 2))
        ]
    x, y = halves["sgd"][0], halves["sam"][0]
    slope, intercept = np.polyfit(x, y, 1)
    sxx, syy, sxy = x.var(), y.var(), np.cov(x, y, bias=True)[0, 1]
    steep = (syy - sxx + np.hypot(syy - sxx, 2 * sxy)) / (2 * sxy)

    def correlation(a, b):
        return np.corrcoef(a, b)[0, 1]

    reliable = [correlation(*halves[name][1:]) for name in ("sgd", "sam")]
    cross = (correlation(halves["sgd"][1], halves["sam"][2]) + correlation(halves["sgd"][2], halves["sam"][1])) / 2
    corrected = cross / np.sqrt(reliable[0] * reliable[1]) if min(reliable) > 0 else np.nan
    values = (
        correlation(x, y),
        spearmanr(x, y)[0],
        corrected,
        *reliable,
        slope,
        intercept,
        steep,
        y.mean() - steep * x.mean(),
    )
    return Agreement(*(float(v) for v in values))


@drawn
def memorization_scatter(pair: Pair):
    """Figure 1b: SAM's memorization score of each example against SGD's, with both regression lines and the identity."""
    x, y = (memorization(runs.correct.values, runs.member.values).value for runs in (pair.sgd, pair.sam))
    found = agreement(pair)
    ends = np.array([min(np.nanmin(x), np.nanmin(y)), 1.0])
    figure, ax = plt.subplots(figsize=(WIDTH * 0.62, WIDTH * 0.56))
    ax.scatter(x, y, s=6, alpha=0.25, color="black", lw=0, rasterized=True)
    ax.plot(ends, ends, color=RED, lw=1.3, label="identity")
    ax.plot(ends, found.slope * ends + found.intercept, color=GREEN, lw=1.6, label="least squares")
    ax.plot(
        ends,
        found.orthogonal_slope * ends + found.orthogonal_intercept,
        "--",
        color=GREEN,
        lw=1.6,
        label="orthogonal",
    )
    ax.set(xlabel="memorization, SGD", ylabel=f"memorization, {pair.name}", aspect="equal")
    ax.legend(loc="upper left", fontsize="small")
    return figure


def differ_most(pair: Pair, k: int = 10) -> pd.DataFrame:
    """The k examples that SAM memorizes more by most, chosen on the even models and measured on the odd ones.

    Columns label, chosen by (the difference on even models), then sgd, sam and difference on the odd ones; index example.
    """
    even, odd = ({} for _ in range(2))
    for name, runs in (("sgd", pair.sgd), ("sam", pair.sam)):
        correct, member = runs.correct.values, runs.member.values
        for half, start in ((even, 0), (odd, 1)):
            half[name] = memorization(correct[start::2], member[start::2], empty="zero").value
    chosen = np.argsort(even["sgd"] - even["sam"], kind="stable")[:k]
    frame = pd.DataFrame({"label": pair.sgd.label.values, "chosen by": even["sam"] - even["sgd"], **odd})
    frame["difference"] = frame["sam"] - frame["sgd"]
    return frame.iloc[chosen].rename_axis("example")


@needs_data
@drawn
def examples(dataset: Dataset | None, frame: pd.DataFrame, *, per_row: int = 5):
    """Figure 1c: the examples of `differ_most` with their class and scores (on models that they were not chosen by).

    Images as images; other data as bars of their features, grey, over the class's mean, black.
    """
    rows, is_image = -(-len(frame) // per_row), dataset.x_train.ndim > 2
    names = [class_title(dataset.classes[int(label)], 19) for label in frame["label"]]
    height = (1.65 if is_image else 1.4) + 0.14 * max(name.count("\n") + 1 for name in names)
    figure, axes = plt.subplots(rows, per_row, figsize=(WIDTH, height * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, name, (example, row) in zip(axes.flat, names, frame.iterrows(), strict=False):
        x = dataset.x_train[example]
        if is_image:
            ax.imshow(x, cmap="gray_r" if x.ndim == 2 else None, interpolation="nearest")
        else:
            mean = dataset.x_train[dataset.y_train == int(row.label)].mean(0)
            kept = np.argsort(-mean, kind="stable")[:60]  # the features that are commonest in the class
            ax.bar(np.arange(len(kept)), x[kept], width=1, color="0.75")
            ax.step(np.arange(len(kept)), mean[kept], color="black", lw=1, where="mid")
        ax.set_title(f"{'' if is_image else 'class '}{name}\n{row.sgd:.2f} → {row.sam:.2f}", fontsize="small")
    return figure


def atypicality(dataset: Dataset | None, frame: pd.DataFrame) -> pd.DataFrame:
    """`differ_most` with how atypical each example is of its class (`claims.distance`); NaN where the data are not at hand."""
    return frame.assign(atypicality=np.nan if dataset is None else distance.atypicality(dataset)[frame.index])


@drawn
def link_curve(pair: Pair, *, attack: str = "LiRA online", n_bins: int = 10):
    """Per-example attack success over memorization, each from models that the other did not use; bars, two standard errors."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3), width_ratios=(1.2, 1))
    links = [link(runs, attack) for runs in (pair.sgd, pair.sam)]
    for found, colour, label, shift in zip(links, (SGD, SAM), ("SGD", pair.name), (-0.006, 0.006), strict=True):
        left.errorbar(
            *_binned(found.memorization, found.success, n_bins, shift),
            fmt="o-",
            ms=4,
            lw=1.3,
            color=colour,
            label=label,
        )
    left.axhline(0.5, color=GREY, lw=1, ls=":")
    left.set(xlabel="memorization", ylabel=f"{attack}: AUC on the example")
    left.legend(loc="lower right")
    gains = [b - a for a, b in ((links[0].memorization, links[1].memorization), (links[0].success, links[1].success))]
    right.errorbar(*_binned(*gains, n_bins, 0), fmt="o-", ms=4, lw=1.3, color="black")
    right.axhline(0, color=GREY, lw=1, ls=":")
    right.set(xlabel=f"memorization, {pair.name} − SGD", ylabel=f"AUC, {pair.name} − SGD")
    return figure


def _binned(x, y, n_bins: int, shift: float, least: int = 15):
    """Means of x and y in equal-width bins of x that hold at least so many examples, and two standard errors of y's."""
    edges = np.linspace(*np.quantile(x, [0.002, 0.998]), n_bins + 1)
    cell = np.clip(np.digitize(x, edges) - 1, 0, n_bins - 1)
    parts = [p for c in range(n_bins) if len(p := np.flatnonzero(cell == c)) >= least]
    error = [2 * y[p].std() / np.sqrt(len(p)) for p in parts]
    return [x[p].mean() + shift for p in parts], [y[p].mean() for p in parts], error


def link_sentence(pair: Pair, attack: str = "LiRA online") -> str:
    """The rank correlations behind `link_curve`, in words."""
    sgd, sam = (link(runs, attack) for runs in (pair.sgd, pair.sam))
    gain = spearmanr(sam.memorization - sgd.memorization, sam.success - sgd.success)
    said = [f"{name} {f.correlation:.2f} ({f.low:.2f} to {f.high:.2f})" for name, f in (("SGD", sgd), (pair.name, sam))]
    return (
        f"Rank correlation of memorization with the success of {attack}: {said[0]}, {said[1]} (95 % intervals over examples). "
        f"Of the two differences, {pair.name} − SGD, it is {gain[0]:.2f} (p = {gain[1]:.2g})."
    )
