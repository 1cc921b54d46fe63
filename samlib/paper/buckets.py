"""Buckets of test points by influence entropy. One half of the models makes them; the other half measures in them.

A test point has no entropy, and lies in no bucket, if fewer than FEWEST models are right on it or fewer than FEWEST are wrong.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samlib.data import Dataset
from samlib.evaluation import ENOUGH
from samlib.inference import Effect, Reliability, from_half, jackknife, ranks, shares
from samlib.paper.distances import between
from samlib.paper.sets import PARTITIONS, Models, Sets, dealt, model_groups, point_groups

FEWEST = 3  # models that must be right on a test point, and wrong, for it to have an entropy
N_BUCKETS = 5
NEAR = 0.25  # of the class's typical distance; nearer examples are called near duplicates
MODEL_GROUPS = 12  # at most; an even number, for two equal halves
TINY = np.float32(1e-30)  # replaces an influence of 0 or less; its part of an entropy is 0
VALUES = (
    "sgd", "sam", "memorization", "distance", "distance, without exact duplicates", "near duplicate", "is the nearest",
    "distance of the nearest", "features that differ", "features that differ from the nearest",
)  # fmt: skip


class Seen(NamedTuple):
    """What many sets of models measure. The last set holds all models.

    entropy (sets, tests): pooled over both optimizers; NaN if a test point has none.
    top (sets, tests): the place of the test point's most influential example of its class.
    strength (tests,): the influence of that example, by all models.
    accuracy (sets, 2, tests): of SGD and SAM. memorized (sets, examples): memorization, pooled over both.
    far (sets, tests): the distance of `top`. nearest (tests,): that of the nearest example of the class. Both are over
    typical (tests,): the median distance of the class. NaN if the data are not at hand.
    binary: whether the features of the data are 0 and 1.
    directions (2 partitions, 2, groups + 1): the places of two halves, first whole, then without each group of models. The first
    half selects, and the second measures. The second partitions are the first ones with their halves exchanged.
    """

    entropy: np.ndarray
    top: np.ndarray
    strength: np.ndarray
    accuracy: np.ndarray
    memorized: np.ndarray
    far: np.ndarray
    nearest: np.ndarray
    typical: np.ndarray
    binary: bool
    directions: np.ndarray


def look(models: Models, dataset: Dataset | None) -> Seen:
    """Measure with halves of the models, with halves that lack one group, and with all models."""
    group = model_groups(models.model, MODEL_GROUPS)
    n_groups = group.max()
    kept, lacking = dealt(n_groups, 2)
    directions = np.arange(2 * PARTITIONS).reshape(-1, 2, 1) * kept.shape[2] + lacking
    directions = np.concatenate([directions, directions[:, ::-1]])
    sets = np.concatenate([kept.reshape(-1, n_groups), np.ones((1, n_groups), bool)])
    of_models = sets[:, group - 1]
    n, right = of_models.sum(1)[:, None], np.array([of_models @ c.astype(np.float32) for c in models.test_correct])
    mixed = (right.sum(0) >= FEWEST) & (2 * n - right.sum(0) >= FEWEST)
    entropy, far = (np.full(mixed.shape, np.nan, np.float32) for _ in range(2))
    strength, nearest, typical = (np.full(mixed.shape[1], np.nan, np.float32) for _ in range(3))
    top, by = np.zeros(mixed.shape, np.int32), Sets(sets, group, models.member)
    pooled = models.test_correct.mean(0, dtype=np.float32)
    for label in np.unique(models.test_label):
        own, tests = np.flatnonzero(models.label == label), np.flatnonzero(models.test_label == label)
        tests = tests[mixed[:, tests].any(0)]
        if not len(own) or not len(tests):
            continue
        for test in tests:
            value = by.influence(pooled[:, test])
            best = value[:, own].argmax(1)
            top[:, test], strength[test] = own[best], value[-1, own[best[-1]]]
            entropy[:, test] = entropies(value)
        if dataset is not None:
            away = between(dataset, models.test[tests], models.example[own])
            typical[tests], nearest[tests] = np.median(away, 1), away.min(1)
            far[:, tests] = away[np.arange(len(tests)), np.searchsorted(own, top[:, tests])]
    far, nearest = far / typical, nearest / typical
    far[~mixed] = entropy[~mixed] = np.nan
    binary = dataset is not None and bool(np.isin(dataset.x_train[:1000], (0, 1)).all())
    accuracy = np.moveaxis(right / n, 0, 1)
    memorized = by.memorization(models.correct.mean(0))
    return Seen(entropy, top, strength, accuracy, memorized, far, nearest, typical, binary, directions)


def entropies(value: np.ndarray) -> np.ndarray:
    """`estimators.influence_entropy` of float32 influences (sets, examples), some positive in each set. Overwrites them."""
    np.maximum(value, TINY, out=value)
    total = value.sum(1)
    return np.log(total) - np.einsum("ij,ij->i", value, np.log(value)) / total


class Choice(NamedTuple):
    """What one set of models chooses among its test points with an entropy: first with all, then without each group of them.

    place: that of the set. known (points,): the test points. kept (groups + 1, points): 0 in the group left out, else 1.
    bucket (groups + 1, N_BUCKETS, points): weights of the points in each bucket. cell (groups + 1, N_BUCKETS, 2, points):
    weights for low and high entropy within fifths by difficulty, the hardest first.
    """

    place: int
    known: np.ndarray
    kept: np.ndarray
    bucket: np.ndarray
    cell: np.ndarray


def choose(seen: Seen, place: int, points: np.ndarray) -> Choice:
    """The choice of the set of models at `place`. points (tests,): the group of each test point."""
    known = np.flatnonzero(np.isfinite(seen.entropy[place]))
    kept = (points[known] != np.arange(points.max() + 1)[:, None]).astype(float)
    entropy = seen.entropy[place, known]
    difficulty = shares(seen.accuracy[place].mean(0)[known], N_BUCKETS, kept)
    return Choice(place, known, kept, shares(entropy, N_BUCKETS, kept), shares(entropy, 2, difficulty))


def values_of(seen: Seen, choice: Choice, place: int) -> np.ndarray:
    """VALUES (values, points) of the chosen test points, measured by the set of models at `place`; NaN if there is none.

    Memorization is that of the example that the choosing models find most influential. Distances are those of the example that
    the measuring models find most influential.
    """
    at = choice.known
    far, nearest, typical = seen.far[place, at], seen.nearest[at], seen.typical[at]
    there, counted = np.where(np.isfinite(far), 1, np.nan), 1 if seen.binary else np.nan
    return np.array([
        *seen.accuracy[place][:, at], seen.memorized[place, seen.top[choice.place, at]],
        far, np.where(nearest > 0, far, np.nan), (far < NEAR) * there, (far <= nearest * (1 + 1e-6)) * there,
        nearest, (far * typical) ** 2 * counted, (nearest * typical) ** 2 * counted,
    ])  # fmt: skip


def statistics(seen: Seen, choice: Choice, place: int) -> dict[str, np.ndarray]:
    """What `measured` returns, of one choice: each with all test points and without each group of them (groups + 1, ...)."""
    values = values_of(seen, choice, place)
    there = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        points = choice.bucket @ there.T.astype(float)
        means = choice.bucket @ np.where(there, values, 0).T / points
        cells = choice.cell @ values[:2].T / choice.cell.sum(-1)[..., None]
    means, cells = (np.concatenate([x, x[..., 1:2] - x[..., :1]], -1) for x in (means, cells))
    gain, gap = means[..., -1], cells[..., -1]
    entropy, followed = seen.entropy[choice.place, choice.known], (-values[:2].mean(0), values[2])
    return {
        "means": np.concatenate([means, means[:, :1] - means[:, -1:]], 1),
        "points": np.concatenate([points, points[:, :1] + points[:, -1:]], 1),
        "low gain": gain[:, 0] - gain[:, 1:].mean(1), "difficulty": cells, "beyond": (gap[..., 0] - gap[..., 1]).mean(1),
        "follows": np.stack([correlation(entropy, each, choice.kept) for each in followed], -1),
    }  # fmt: skip


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Spearman's correlation of x and y (points,) with weights (..., points). Points where y is NaN do not count."""
    there = np.isfinite(y)
    if not there.any():
        return np.full(weights.shape[:-1], np.nan)
    weights = weights[..., there]
    with np.errstate(invalid="ignore", divide="ignore"):
        ranked = [ranks(v[there], weights) for v in (x, y)]
        a, b = (r - (r * weights).sum(-1, keepdims=True) / weights.sum(-1, keepdims=True) for r in ranked)
        return (weights * a * b).sum(-1) / np.sqrt((weights * a**2).sum(-1) * (weights * b**2).sum(-1))


def measured(models: Models, seen: Seen) -> dict[str, Effect]:
    """The effects of all statistics: one half of the models selects, the other measures, in both directions of each partition.

    means (buckets and ENDS, VALUES and the gain) and points (buckets and ENDS, VALUES), the number behind a mean. ENDS is the
    first bucket minus the last. low gain, beyond: of C9 and its control. difficulty (fifths, low or high entropy, SGD, SAM and
    the gain). follows (2,). A variance has a part for models, one for test points, and one for the finite number of partitions.

    Empty if a half of the models gives an entropy to too few test points, or if any set of models gives it to none.
    """
    known = np.isfinite(seen.entropy)
    if known[seen.directions[..., 0]].sum(-1).min() < N_BUCKETS * ENOUGH or not known.any(1).all():
        return {}
    points = point_groups(models.test)
    found = []
    for selecting, measuring in seen.directions:
        choices = {place: choose(seen, place, points) for place in set(selecting)}
        found.append([statistics(seen, choices[one], other) for one, other in zip(selecting, measuring, strict=True)])

    def effect(name: str) -> Effect:
        values = np.array([[each[name] for each in one] for one in found])
        of_partitions = values[:, 0, 0].reshape(2, PARTITIONS, *values.shape[3:]).mean(0)  # over both directions
        extra = np.nan_to_num(of_partitions.var(0, ddof=1) / PARTITIONS)
        return jackknife((values / len(values)).sum(0), 2, extra=extra, crossed=True)

    return {name: effect(name) for name in found[0][0]}


def entropy_reliability(models: Models, seen: Seen) -> Reliability:
    """The reliability of the entropy by all models, over test points with an entropy in both halves of a partition."""
    agreements = []
    for one, other in seen.entropy[seen.directions[:PARTITIONS, :, 0]]:
        known = np.isfinite(one + other)
        agreements.append(correlation(one[known], other[known], np.ones(known.sum())))
    return from_half(float(np.mean(np.nan_to_num(agreements))), len(models.model))
