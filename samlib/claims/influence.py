"""The measures of influence and of entropy buckets (C6 to C10), and the selections that their figures draw.

The largest of many noisy influences is mostly noise. So examples, test points and buckets are chosen on the even models, and
influence is measured on the odd ones; and only pairs of one class are looked at, which leaves fewer accidents (our choice).
"""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import spearmanr

from samlib.audit import Pair
from samlib.claims.statistics import Effect, gain, halves, mean
from samlib.data import Dataset, load_dataset
from samlib.estimators import (
    entropy_buckets,
    gain_beyond_difficulty,
    influential_by_interval,
    memorization,
    memorization_terms,
    streamed_entropy,
    strongest_influence,
    top_influences,
)  # fmt: skip
from samlib.evaluation import ENOUGH

EDGES = np.linspace(0, 1, 6)  # of the intervals of memorization
HIGHEST = len(EDGES) - 2  # the last interval
PER_INTERVAL = 20
FEWEST = 3  # models that must be right on a test point, and wrong, for it to have a most influential example
N_BUCKETS = 5


class Models(NamedTuple):
    """What influence is estimated from, bool (models, examples) or (models, tests), and the labels of both."""

    correct: np.ndarray
    test_correct: np.ndarray
    member: np.ndarray
    labels: tuple[np.ndarray, np.ndarray]  # of test points, of examples


def of(*many: xr.Dataset) -> Models:
    """The models of one run, or of several together (then influence is their mean)."""
    arrays = [np.concatenate([runs[n].values for runs in many]) for n in ("correct", "test_correct", "member")]
    return Models(*arrays, (many[0].test_label.values, many[0].label.values))


class Influential(NamedTuple):
    """Examples of highest influence in each interval of memorization; m of them.

    `example` (m,), `test`, the test point of its class that it influences most, `interval`, 0 the lowest, `memorization` and
    `chosen_by`, the influence, all on the models that it was chosen on; `terms` (models, m), whose column means are the
    influence of the same pairs on other models.
    """

    example: np.ndarray
    test: np.ndarray
    interval: np.ndarray
    memorization: np.ndarray
    chosen_by: np.ndarray
    terms: np.ndarray


def influential(first: Models, second: Models, k: int = PER_INTERVAL) -> Influential:
    """Choose k examples in each interval of memorization by `first`, and measure their influence by `second`.

    Horizontal position (memorization) and height (influence) thus come from different models: noise that both would share,
    through the models' subsets, cannot tie them.
    """
    score = memorization(first.correct, first.member, empty="zero").value
    strongest = strongest_influence(first.test_correct, first.member, labels=first.labels)
    chosen = influential_by_interval(np.maximum(score, 0), strongest.value, EDGES, k)  # noise may go below 0
    interval = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
    example = np.concatenate(chosen)
    test = strongest.test[example]
    terms = influence_terms(second, test, example)
    known = ~np.isnan(terms[0])
    parts = (example, test, interval, score[example], strongest.value[example])
    return Influential(*(part[known] for part in parts), terms[:, known])


def influence_terms(models: Models, test, example) -> np.ndarray:
    """First-order terms (models, pairs) of the influence of each pair of an example and a test point."""
    return memorization_terms(models.test_correct[:, test], models.member[:, example])


def figure_2(pair: Pair) -> dict[str, Influential]:
    """Figures 2a and 2b: what each optimizer's own models choose; keys "sgd" and "sam"."""
    first, second = halves(pair)
    return {name: influential(of(a), of(b)) for name, a, b in zip(("sgd", "sam"), first[:2], second[:2], strict=True)}


class Differences(NamedTuple):
    """Figure 2c, for m examples: `memorization` (m,), SAM's minus SGD's by the even models; `interval` of their mean
    memorization; `sgd` and `sam` (models, m), terms whose column means are the influences by the odd models."""

    memorization: np.ndarray
    interval: np.ndarray
    sgd: np.ndarray
    sam: np.ndarray


def differences(pair: Pair, k: int = PER_INTERVAL) -> Differences:
    """SAM beside SGD, for examples and test points that both optimizers' even models chose together: neither is favoured."""
    first, second = halves(pair)
    found = influential(of(*first[:2]), of(*second[:2]), k)
    scores = [memorization(r.correct.values, r.member.values, empty="zero").value[found.example] for r in first[:2]]
    terms = [influence_terms(of(runs), found.test, found.example) for runs in second[:2]]
    return Differences(scores[1] - scores[0], found.interval, *terms)


def influence_by_interval(pair: Pair) -> pd.DataFrame:
    """Mean influence of all examples in each interval of memorization: columns sgd, sam, difference, low, high, examples."""
    found, rows = differences(pair, pair.sgd.sizes["example"]), {}
    for j, (low, high) in enumerate(zip(EDGES[:-1], EDGES[1:], strict=True)):
        inside = (found.interval == j).astype(float)
        if inside.sum() < ENOUGH:
            continue
        sgd, sam = (group_mean(terms, inside) for terms in (found.sgd, found.sam))
        rows[f"{low:.1f} to {high:.1f}"] = compared(sgd, sam) | {"examples": int(inside.sum())}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("memorization")


def compared(sgd: np.ndarray, sam: np.ndarray) -> dict[str, float]:
    """Means of two matrices of terms, and their difference with a 95 % interval."""
    found = mean(sam - sgd)
    low, high = np.quantile(found.replicates, [0.025, 0.975])
    return {"sgd": sgd.mean(), "sam": sam.mean(), "difference": found.estimate, "low": low, "high": high}


def group_mean(terms: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """First-order terms (models, n) of a weighted mean over the columns, so that a resampled column changes its weight too."""
    known = ~np.isnan(terms).any(0)
    weights = np.where(known, weights, 0) / np.sum(weights[known])
    terms = np.where(known, terms, 0)
    value = (terms.mean(0) * weights).sum()
    return value + terms.shape[1] * weights * (terms - value)


def leaning(pair: Pair) -> Effect | None:
    """C6: influence of the highest interval of memorization minus of the middle ones (the lowest left out), SAM - SGD."""
    n, contrast = pair.sgd.sizes["example"], []
    for found in figure_2(pair).values():
        groups = found.interval == HIGHEST, (found.interval > 0) & (found.interval < HIGHEST)
        if min(group.sum() for group in groups) < ENOUGH:
            return None
        terms = np.zeros((len(found.terms), n))
        terms[:, found.example] = found.terms
        high, middle = (group_mean(terms, np.bincount(found.example[g], minlength=n)) for g in groups)
        contrast.append(high - middle)
    return mean(contrast[1] - contrast[0])


def slope(pair: Pair) -> Effect | None:
    """C7: the least-squares slope of the difference in influence over that in memorization."""
    found = differences(pair)
    x = found.memorization - found.memorization.mean()
    if len(x) < 2 * ENOUGH or not x.any():
        return None
    each = found.sam - found.sgd
    each = each - each.mean()
    value = (each.mean(0) * x).sum() / (x**2).sum()
    return mean(value + len(x) * x * (each - value * x) / (x**2).sum())


def mixed(correct: np.ndarray) -> np.ndarray:
    """Test points that at least FEWEST models are right on and FEWEST wrong; the others have no influence worth a name."""
    right = correct.sum(0)
    return (right >= FEWEST) & (len(correct) - right >= FEWEST)


def buckets(models: Models) -> np.ndarray:
    """Buckets by entropy of all test points, 1 to N_BUCKETS; points without any influence come last."""
    return entropy_buckets(streamed_entropy(models.test_correct, models.member), N_BUCKETS)


class Top(NamedTuple):
    """The most influential examples, of its own class, of each test point that the models disagree on; m test points.

    `test`, `bucket` (1 to N_BUCKETS, among these alone) and `entropy` (m,); `example` and `value` (m, k), best first.
    """

    test: np.ndarray
    bucket: np.ndarray
    entropy: np.ndarray
    example: np.ndarray
    value: np.ndarray


def top(models: Models, k: int = 1) -> Top | None:
    """The k most influential examples of each `mixed` test point; None where these are fewer than the buckets."""
    tests = np.flatnonzero(mixed(models.test_correct))
    if len(tests) < N_BUCKETS:
        return None
    correct = models.test_correct[:, tests]
    entropy = streamed_entropy(correct, models.member)
    labels = models.labels[0][tests], models.labels[1]
    best = top_influences(correct, models.member, k, labels=labels)
    return Top(tests, entropy_buckets(entropy, N_BUCKETS), entropy, *best)


def _ends(found: Top | None) -> list[np.ndarray] | None:
    """Which of the test points are of the first bucket and which of the last, or None where either has too few."""
    if found is None:
        return None
    ends = [found.bucket == b for b in (1, N_BUCKETS)]
    return ends if min(end.sum() for end in ends) >= ENOUGH else None


def low_entropy_gain(pair: Pair) -> Effect:
    """C9: the gain in accuracy in bucket 1 minus in the others."""
    first, second = halves(pair)
    lowest = buckets(of(first.sgd)) == 1
    return mean(gain(second) * np.where(lowest, 1 / lowest.mean(), -1 / (~lowest).mean()))


def bucket_table(pair: Pair) -> pd.DataFrame:
    """Figure 4a: accuracy in each bucket on the odd models, buckets by SGD's even ones; columns sgd, sam, difference, low, high."""
    first, second = halves(pair)
    bucket, rows = buckets(of(first.sgd)), {}
    for b in range(1, N_BUCKETS + 1):
        inside = (bucket == b).astype(float)
        rows[b] = compared(*(group_mean(runs.test_correct.values.astype(float), inside) for runs in second[:2]))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("bucket")


class Comparable(NamedTuple):
    """Test points that SGD's even models do not all agree on (the others have no entropy), m of them, and what these say.

    `entropy` and `difficulty` (m,), the latter an accuracy; `sgd` and `sam` (models, m), correctness of the odd models.
    """

    entropy: np.ndarray
    difficulty: np.ndarray
    sgd: np.ndarray
    sam: np.ndarray


def comparable(pair: Pair) -> Comparable:
    first, second = halves(pair)
    correct = first.sgd.test_correct.values
    tests = np.flatnonzero(correct.any(0) & ~correct.all(0))
    correct = correct[:, tests]
    odd = (runs.test_correct.values[:, tests].astype(float) for runs in second[:2])
    return Comparable(streamed_entropy(correct, first.sgd.member.values), correct.mean(0), *odd)


def beyond_difficulty(pair: Pair) -> Effect | None:
    """The gain at low entropy minus at high, among test points that are equally difficult."""
    found = comparable(pair)
    if len(found.entropy) < 2 * ENOUGH:
        return None
    weights = gain_beyond_difficulty(np.ones(len(found.entropy)), found.entropy, found.difficulty, N_BUCKETS)
    return mean((found.sam - found.sgd) * weights)


def difficulty_table(pair: Pair) -> pd.DataFrame:
    """What `beyond_difficulty` compares: rows (difficulty 1, the hardest, to 5; entropy low, high), columns as `bucket_table`."""
    found, rows = comparable(pair), {}
    bins = entropy_buckets(found.difficulty, N_BUCKETS)
    for b in range(1, N_BUCKETS + 1):
        inside = np.flatnonzero(bins == b)
        half = entropy_buckets(found.entropy[inside], 2)
        for h, name in ((1, "low"), (2, "high")):
            group = np.bincount(inside[half == h], minlength=len(bins)).astype(float)
            rows[b, name] = compared(group_mean(found.sgd, group), group_mean(found.sam, group))
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["difficulty", "entropy"])
    return frame


def what_entropy_follows(pair: Pair) -> pd.DataFrame:
    """Rank correlations of test points' influence entropy (SGD's even models), among points that the models disagree on.

    Rows: with their difficulty, with the memorization of their most influential example, both by the odd models; columns
    correlation, low, high (95 %, test points resampled). No rows where too few test points are left.
    """
    first, second = halves(pair)
    found = top(of(first.sgd))
    if found is None or len(found.test) < 3 * ENOUGH:
        return pd.DataFrame(columns=["correlation", "low", "high"])
    score = memorization(second.sgd.correct.values, second.sgd.member.values, empty="zero").value
    others = {
        "the test point's difficulty (error of other models)": -second.sgd.test_correct.values.mean(0)[found.test],
        "the memorization of its most influential example": score[found.example[:, 0]],
    }
    rng, rows = np.random.default_rng(0), {}
    for name, values in others.items():
        draws = [spearmanr(found.entropy[d], values[d])[0] for d in rng.integers(0, len(values), (500, len(values)))]
        ends = np.nanquantile(draws, [0.025, 0.975])
        rows[name] = dict(zip(("correlation", "low", "high"), (spearmanr(found.entropy, values)[0], *ends), strict=True))
    return pd.DataFrame.from_dict(rows, orient="index")


def top_memorization(pair: Pair) -> Effect | None:
    """C10: SAM's memorization of the top-1 influential example, bucket 1 minus the last bucket."""
    first, second = halves(pair)
    found = top(of(first.sam))
    if (ends := _ends(found)) is None:
        return None
    terms = memorization_terms(second.sam.correct.values, second.sam.member.values)
    counts = [np.bincount(found.example[end, 0], minlength=terms.shape[1]) for end in ends]
    return mean(group_mean(terms, counts[0]) - group_mean(terms, counts[1]))


@functools.lru_cache(2)
def _dataset(name: str, pool: int | None, image_size: int | None) -> Dataset | None:
    try:
        return load_dataset(name, pool=pool, image_size=image_size)
    except (ValueError, OSError):
        return None


def dataset_of(runs: xr.Dataset) -> Dataset | None:
    """The data that the runs were trained on, or None where they are not at hand."""
    fields = json.loads(runs.attrs["experiment"])
    found = _dataset(fields["dataset"], fields["pool"], fields["image_size"])
    return found if found and found.checksum == runs.attrs["data_checksum"] else None


class Distances(NamedTuple):
    """Of each test point: distance to `example`, to the `nearest` of its class, and the `typical` (median) one in it."""

    example: np.ndarray
    nearest: np.ndarray
    typical: np.ndarray


def distances(dataset: Dataset, test: np.ndarray, example: np.ndarray) -> Distances:
    """Euclidean distances of test points (m,) to an example each (m,) and to all examples of their class."""
    scale = 255 if dataset.x_train.dtype == np.uint8 else 1
    result = np.empty((3, len(test)))
    for label in np.unique(dataset.y_test[test]):
        rows = np.flatnonzero(dataset.y_test[test] == label)
        ours = np.flatnonzero(dataset.y_train == label)
        a, b, c = (
            x.reshape(len(x), -1).astype(np.float64) / scale
            for x in (dataset.x_test[test[rows]], dataset.x_train[ours], dataset.x_train[example[rows]])
        )
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        all_of_them = np.sqrt(np.maximum(squared, 0))
        result[:, rows] = np.linalg.norm(a - c, axis=1), all_of_them.min(1), np.median(all_of_them, 1)
    return Distances(*result)


def top_distances(pair: Pair, dataset: Dataset) -> tuple[Top, Distances] | None:
    """The top-1 influential examples by all models of both optimizers, and how far they are: distance chooses nothing here."""
    found = top(of(pair.sgd, pair.sam))
    return None if found is None else (found, distances(dataset, found.test, found.example[:, 0]))


def near_duplicates(pair: Pair) -> Effect | None:
    """C8: distance of the top-1 influential example over the class's typical one, bucket 1 minus the last bucket.

    Only test points are resampled: the distance is no property of models, and each point's choice is an accident of its own.
    """
    dataset = dataset_of(pair.sgd)
    found = None if dataset is None else top_distances(pair, dataset)
    if found is None or (ends := _ends(found[0])) is None:
        return None
    ratio = (found[1].example / found[1].typical)[None]
    return mean(group_mean(ratio, ends[0].astype(float)) - group_mean(ratio, ends[1].astype(float)))
