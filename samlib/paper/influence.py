"""Influence (Figure 2; C6, C7): which examples have a large influence on test points of their class, by their memorization.

A squared influence would count its own noise. So the energy of an example is a product: its influence by one third of the
models times its influence by another third, summed over the test points of its class. The last third measures the example's
memorization. Given the data, the energy is an unbiased estimate of a sum of squares. No test point is selected. Training
subsets that both optimizers share do no harm.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from samlib.audit import Pair
from samlib.estimators import influence, memorization
from samlib.evaluation import ENOUGH
from samlib.inference import Effect, Reliability, groups, jackknife, reliability
from samlib.paper.frames import EACH, Found, Frames, Section, contrast, effects, one
from samlib.paper.panels import BOTH, comparisons, label_of, multiples, zero
from samlib.paper.sets import PARTITIONS, Models, Sets, dealt, model_groups, models_of, point_groups, without_each
from samlib.paper.style import GREEN, INK

EDGES = np.linspace(0, 1, 6)  # of the intervals of memorization
INTERVALS = [f"{low:.1f} to {high:.1f}" for low, high in zip(EDGES[:-1], EDGES[1:], strict=True)]
LOWEST, MIDDLE, HIGHEST = 0, slice(2, 4), 4  # what C6 and C7 compare
MODEL_GROUPS, POINT_GROUPS = 48, 40  # at most; those of models form three equal thirds
FEWEST = 12  # models; with fewer, a third has too few
CHUNK = 128  # examples at a time, so that their influences stay in the processor's cache
PER_INTERVAL = 20  # examples that Figure 2 draws
MEASURES = "share of all energy", "energy of an example"
SHADES = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(INTERVALS)))


def measure(pair: Pair) -> Frames:
    """Frames effects, energy, chosen, reliability of a pair of runs."""
    models = models_of(pair)
    reliable, energy = pooled_reliability(models), energies(models)
    return {
        "effects": effects(_decided(energy, reliable)),
        "energy": _intervals(energy),
        "chosen": _chosen(models),
        "reliability": pd.DataFrame({"pooled memorization": reliable}, Reliability._fields).T,
    }


def decided(pair: Pair) -> dict[str, Found | None]:
    """The claims of this section."""
    models = models_of(pair)
    return _decided(energies(models), pooled_reliability(models))


def pooled_reliability(models: Models) -> Reliability:
    """The reliability of memorization by all models, pooled over both optimizers."""
    group = model_groups(models.model)
    kept = dealt(group.max(), 2)[0][:, 0, 0]  # one half of each partition
    score = Sets(np.concatenate([kept, ~kept]), group, models.member).memorization(models.correct.mean(0))
    first, second = np.split(score, 2)
    known = ~np.isnan(first + second).any(0)
    return reliability(first[:, known], second[:, known], len(group)) if known.any() else Reliability(0.0, np.inf)


class Energies(NamedTuple):
    """Effects of the energy of influence.

    share, each: Effects (3, intervals) of SGD, SAM and SAM - SGD. share is the part of all energy that lies in an interval of
    memorization. each is the mean energy of an example in it, divided by the mean over all examples and both optimizers.
    middle: Effect, C7. examples (intervals,): the number of examples in each interval.
    """

    share: Effect
    each: Effect
    middle: Effect
    examples: np.ndarray


def energies(models: Models) -> Energies | None:
    """The energy of influence by interval of memorization. None for fewer than FEWEST models, or if a total may be 0."""
    if len(models.model) < FEWEST:
        return None
    energy, count, energy_of, count_of = _sums(models)
    energy, count = without_each(without_each(energy, 1), 2), without_each(count, 1)[:, :, None]
    by_partition = _statistics(without_each(energy_of, 0), without_each(count_of, 0))
    found = {}
    for name, values in _statistics(energy, count).items():
        extra = np.nan_to_num(jackknife(by_partition[name], 1).stderr ** 2)
        found[name] = jackknife(values, 3, extra=extra, crossed=True)
    if (found.pop("total").interval(EACH)[0] <= 0).any():
        return None
    return Energies(**found, examples=count[0, 0, 0] / (3 * PARTITIONS))


def _statistics(energy, count) -> dict[str, np.ndarray]:
    """What `Energies` holds, and both totals. energy (..., 2, intervals); count of examples (..., intervals)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        total = energy.sum(-1)
        one = (total.sum(-1) / (2 * count.sum(-1)))[..., None]
        share, each = energy / total[..., None], energy / (count * one)[..., None, :]
        gap = energy[..., MIDDLE].sum(-1) / (count[..., MIDDLE].sum(-1, keepdims=True) * one) - each[..., LOWEST]
    share, each = (np.concatenate([x, x[..., 1:, :] - x[..., :1, :]], -2) for x in (share, each))
    return {"share": share, "each": each, "middle": gap[..., 1] - gap[..., 0], "total": total}


def _sums(models: Models) -> tuple[np.ndarray, ...]:
    """Energy in intervals of memorization, summed over partitions and over the choices of the third for memorization.

    Returns energy (model groups + 1, example groups, test groups, 2, intervals): index 0 uses all models, index g leaves out
    group g. Then counts (model groups + 1, example groups, intervals): numbers of examples, alike. With all models, for each
    partition: energy (partitions, 2, intervals), counts (partitions, intervals).
    """
    n_groups = min(MODEL_GROUPS, len(models.model) // 3 * 3)
    group = groups(models.model, n_groups)
    of_example, of_test = (point_groups(ids, POINT_GROUPS) - 1 for ids in (models.example, models.test))
    kept, binning = dealt(n_groups, 3)
    sets, size, n_examples = kept.reshape(-1, n_groups), kept.shape[2], of_example.max() + 1
    # Without each group of models: which set of a third gives memorization, and which of `_products` the influences.
    first, second = np.roll(binning, 2, 1), np.roll(binning, 1, 1)
    product = np.where(second > 0, second + size - 1, first)
    # For each partition and without each group: an interval and a group of examples; the last place is for no estimate.
    shape = PARTITIONS, n_groups + 1, len(INTERVALS) * n_examples + 1
    energy, count = np.zeros((2, of_test.max() + 1, *shape)), np.zeros(shape)
    partition, without = (each[..., None, None] for each in np.ogrid[:PARTITIONS, : n_groups + 1])
    for own, tests in _chunks(models):
        by = Sets(sets, group, models.member[:, own])
        score = by.memorization(models.correct[..., own].mean(0))
        code = np.digitize(score, EDGES[1:-1]) * n_examples + of_example[own]
        code = np.where(np.isnan(score), shape[2] - 1, code).reshape(*kept.shape[:3], -1)
        code = np.take_along_axis(code, binning[..., None], 2).swapaxes(1, 2)
        place = np.ravel_multi_index(np.broadcast_arrays(partition, without, code), shape).ravel()
        count += np.bincount(place, minlength=count.size).reshape(shape)
        for o, correct in enumerate(models.test_correct):
            varied = tests[correct[:, tests].any(0) & ~correct[:, tests].all(0)]  # all others have no influence
            for t in np.unique(of_test[varied]):
                products = _products(by, correct[:, varied[of_test[varied] == t]], size)
                values = np.take_along_axis(products, product[..., None], 2).swapaxes(1, 2).ravel()
                energy[o, t] += np.bincount(place, values, count.size).reshape(shape)
    energy, count = (x[..., :-1].reshape(*x.shape[:-1], len(INTERVALS), -1) for x in (energy, count))
    whole, of = energy.sum(2).transpose(2, 4, 1, 0, 3), energy[:, :, :, 0].sum((1, -1)).swapaxes(0, 1)
    return whole, count.sum(0).swapaxes(1, 2), of, count[:, 0].sum(-1)


def _products(by: Sets, correct: np.ndarray, size: int) -> np.ndarray:
    """Products of the influences by two thirds, summed over test points. correct: (models, tests).

    Returns (partitions, thirds for memorization, sets, examples). The sets are: both thirds whole, then without each group of
    the first, then without each group of the second.
    """
    found = np.zeros((PARTITIONS, 3, 2 * size - 1, by.member.shape[1]), np.float32)
    for answers in correct.T:
        value = by.influence(answers).reshape(PARTITIONS, 3, size, -1)
        a, b = np.roll(value, 2, 1), np.roll(value, 1, 1)
        found[:, :, :size] += a * b[:, :, :1]
        found[:, :, size:] += a[:, :, :1] * b[:, :, 1:]
    return found


def _chunks(models: Models):
    """Yield (examples, tests), by place: for each class, some of its examples at a time and all its test points."""
    for label in np.unique(models.label):
        own, tests = np.flatnonzero(models.label == label), np.flatnonzero(models.test_label == label)
        if len(tests):
            yield from ((part, tests) for part in np.array_split(own, -(-len(own) // CHUNK)))


def _decided(found: Energies | None, reliable: Reliability) -> dict[str, Found | None]:
    """C6 and C7; None where too few examples lie in their intervals."""
    claims: dict[str, Found | None] = {"C6": None, "C7": None}
    if found is None:
        return claims
    if found.examples[HIGHEST] >= ENOUGH:
        claims["C6"] = Found(one(found.share, 2, HIGHEST), reliable)
    if min(found.examples[MIDDLE].sum(), found.examples[LOWEST]) >= ENOUGH:
        claims["C7"] = Found(found.middle, reliable)
    return claims


def _intervals(found: Energies | None) -> pd.DataFrame:
    """Index (measure, memorization); sgd, sam, difference, low, high, examples. Intervals of fewer than ENOUGH are left out."""
    if found is None:
        return pd.DataFrame()
    kept = found.examples >= ENOUGH
    parts = {}
    for measure, effect in zip(MEASURES, found[:2], strict=True):
        columns = contrast(*(one(effect, i, kept) for i in range(3))) | {"examples": found.examples[kept]}
        parts[measure] = pd.DataFrame(columns, np.array(INTERVALS)[kept])
    return pd.concat(parts, names=["measure", "memorization"])


def _chosen(models: Models) -> pd.DataFrame:
    """The rows of Figure 2: examples of largest influence, PER_INTERVAL in each interval of memorization, chosen by even models.

    Columns: by, who chose ("sgd", "sam", or "both" by their mean); example; test, the point of its class that the example
    influences most; interval of memorization, 0 the lowest. From even models: memorization_sgd, memorization_sam, and
    chosen_by, the largest influence. From odd models, which chose nothing: sgd and sam, the influence of the example on test.
    """
    halves_of = [models.model % 2 == parity for parity in (0, 1)]
    columns = ["by", "example", "test", "interval", "memorization_sgd", "memorization_sam", "chosen_by", "sgd", "sam"]
    known = np.all([models.member[half].any(0) & ~models.member[half].all(0) for half in halves_of], 0)
    parts = []
    for label in np.intersect1d(models.label[known], models.test_label):
        own, tests = np.flatnonzero(known & (models.label == label)), np.flatnonzero(models.test_label == label)
        members = [models.member[half][:, own] for half in halves_of]
        score = np.array([memorization(c[halves_of[0]][:, own], members[0]).value for c in models.correct])
        first, second = (
            np.array([influence(c[half][:, tests], member).value for c in models.test_correct])
            for half, member in zip(halves_of, members, strict=True)
        )
        choosers = ("sgd", first[0], score[0]), ("sam", first[1], score[1]), ("both", first.mean(0), score.mean(0))
        for by, mean, memorized in choosers:
            at, places = mean.argmax(0), np.arange(len(own))
            interval = np.digitize(memorized, EDGES[1:-1])
            values = by, models.example[own], models.test[tests[at]], interval, *score, mean[at, places]
            parts.append(pd.DataFrame(dict(zip(columns, (*values, *second[:, at, places]), strict=True))))
    if not parts:
        return pd.DataFrame()
    best = pd.concat(parts, ignore_index=True).sort_values(["chosen_by", "example"], ascending=[False, True])
    few = best.groupby(["by", "interval"]).head(PER_INTERVAL).sort_values(["by", "interval"], kind="stable")
    return few.astype({c: np.float32 for c in columns[4:]}).reset_index(drop=True)


def influence_scatter(found: Section):
    """Figures 2a and 2b: influence of the chosen examples by models that did not choose them, over memorization.

    Grey: the influences that they were chosen by. Diamonds: the mean of each interval.
    """

    def draw(left, right, chosen):
        for ax, (who, colour) in zip((left, right), BOTH, strict=True):
            part, memorized = chosen[chosen["by"] == who], f"memorization_{who}"
            zero(ax)
            ax.scatter(part[memorized], part["chosen_by"], s=7, color="0.75", lw=0, label="as chosen (even models)")
            said = f"as measured (odd models), {label_of(who, found.name)}"
            ax.scatter(part[memorized], part[who], s=10, color=colour, alpha=0.8, lw=0, label=said)
            means = part.groupby("interval")[[memorized, who]].mean().to_numpy()
            ax.plot(*means.T, "D", color=INK, ms=4, label="mean of an interval, measured")
            _line(ax, part[memorized], part[who])
            ax.set(xlabel="memorization (even models)", ylabel="influence" if ax is left else "")

    return multiples(found, ["chosen"], draw, columns=2, height=1.9, sharex=True, sharey=True)


def influence_differences(found: Section):
    """Figure 2c: differences, SAM - SGD, in influence (odd models) over those in memorization (even models); a regression line.

    Only a picture: both axes change sign if the optimizers are exchanged, so the slope cannot say which optimizer amplifies.
    """

    def draw(ax, chosen):
        part = chosen[chosen["by"] == "both"]
        x, y = part["memorization_sam"] - part["memorization_sgd"], part["sam"] - part["sgd"]
        zero(ax)
        zero(ax, upright=True)
        for j in np.unique(part["interval"].astype(int)):
            inside = part["interval"] == j
            ax.scatter(x[inside], y[inside], s=13, color=SHADES[j], lw=0, label=INTERVALS[j])
        _line(ax, x, y)
        said = f"{found.name} − SGD"
        ax.set(xlabel=f"memorization, {said}\n(even models)", ylabel=f"influence, {said} (odd models)")

    return multiples(found, ["chosen"], draw, height=2.6)


def _line(ax, x, y) -> None:
    """The green least-squares line over the range of x, with its slope."""
    if len(x) > 1 and np.ptp(x) > 0:
        slope, intercept = np.polyfit(x, y, 1)
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, slope * ends + intercept, color=GREEN, lw=2, label="least squares")
        ax.text(0.02, 0.96, f"slope {slope:+.3f}", transform=ax.transAxes, va="top", fontsize="small")


def influence_energy(found: Section, measure: str = MEASURES[0]):
    """One of MEASURES in each interval of memorization, for both optimizers, and the difference with its confidence interval.

    The share of all energy decides C6; the energy of an example, in units of the mean over all, decides C7.
    """
    ticks = {"xticks": np.arange(len(EDGES)) - 0.5, "xticklabels": [f"{e:.1f}" for e in EDGES]}
    return comparisons(
        found, "energy", measure, lambda whole: whole.loc[[measure]].droplevel("measure"),
        at=lambda rows: [INTERVALS.index(each) for each in rows.index],
        axis=ticks | {"xlabel": "memorization, pooled"}, height=1.6, sharex=True,
    )  # fmt: skip
