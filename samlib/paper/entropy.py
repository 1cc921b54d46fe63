"""Influence entropy (Figures 3 and 4; C8, C9, C10): whether a few training examples carry a test point, and what goes with it.

One half of the models makes the entropies and buckets, pooled over both optimizers, and the other half measures. A test point
that fewer than FEWEST models get right, or wrong, has no entropy: it is counted and lies in no bucket.
"""

from __future__ import annotations

from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from samlib.audit import Pair
from samlib.data import Dataset
from samlib.evaluation import ENOUGH
from samlib.inference import Effect, Reliability, groups, ranks, reliability, shares
from samlib.paper.crossfit import PARTITIONS, POINT_GROUPS, crossfit
from samlib.paper.distances import between, dataset_of
from samlib.paper.frames import EACH, Found, Frames, contrast, effects, table
from samlib.paper.gallery import NEAR, gallery
from samlib.paper.sets import Influences, Models, dealt, memorization_by, models_of
from samlib.paper.style import GREY, SAM, SGD, WIDTH, drawn

FEWEST = 3  # models that must be right on a test point, and wrong, for it to have an entropy
N_BUCKETS = 5
MODEL_GROUPS = 12  # at most, and two equal halves of them
TINY = np.float32(1e-30)  # stands for no influence: its part of an entropy is 0
BINS = np.linspace(-0.3, 1, 14)  # of Figures 4b and 4c, scores beyond in the last ones
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
FOLLOWED = ("the error of other models on the test point", "the memorization of its most influential example")


def measure(pair: Pair) -> Frames:
    """Frames effects, buckets, difficulty, memorization, distances, follows, counts, reliability, gallery of a pair of runs."""
    models, dataset = models_of(pair), dataset_of(pair.sgd)
    seen = look(models, dataset)
    found, reliable = measured(models, seen), entropy_reliability(seen)
    return {
        "effects": effects(_decided(found, reliable)),
        "buckets": _buckets(found),
        "difficulty": _difficulty(found),
        "memorization": _memorization(found, seen),
        "distances": _distances(found, seen),
        "follows": _follows(found),
        "counts": _counts(models, seen),
        "reliability": pd.DataFrame({"entropy, pooled": reliable}, Reliability._fields).T,
        "gallery": gallery(models, seen.entropy[-1], seen.strength, dataset),
    }


def decided(pair: Pair) -> dict[str, Found | None]:
    """The claims of this section."""
    models = models_of(pair)
    seen = look(models, dataset_of(pair.sgd))
    return _decided(measured(models, seen), entropy_reliability(seen))


class Seen(NamedTuple):
    """What many sets of models say; the last set holds all models.

    entropy (sets, tests), pooled over both optimizers, NaN where a test point has none; top (sets, tests), its most influential
    example, of its class, by place; strength (tests,), the influence of that by all models; accuracy (sets, 2, tests) of SGD
    and SAM; memorized (sets, examples), pooled. ratio (sets, tests), the distance of `top`, and nearest (tests,), that of the
    nearest example of the class, both over the class's typical (median) one; NaN where the data are not at hand.
    group (models,); sets (sets, groups) bool.
    """

    entropy: np.ndarray
    top: np.ndarray
    strength: np.ndarray
    accuracy: np.ndarray
    memorized: np.ndarray
    ratio: np.ndarray
    nearest: np.ndarray
    group: np.ndarray
    sets: np.ndarray

    def of(self, models: np.ndarray) -> int:
        """The place of the set of these models (bool)."""
        return self.places[models.tobytes()]


def look(models: Models, dataset: Dataset | None) -> Seen:
    """What halves of the models, halves without a group, and all models say."""
    n_groups = min(MODEL_GROUPS, len(models.model) // 2 * 2)
    group = groups(models.model, n_groups)
    kept, _ = dealt(n_groups, 2)
    sets = np.concatenate([kept.reshape(-1, n_groups), np.ones((1, n_groups), bool)])
    one = (group == np.arange(1, n_groups + 1)[:, None]).astype(np.float32)
    of_models = sets @ one.sum(1)
    right = np.array([sets.astype(np.float32) @ (one @ c.astype(np.float32)) for c in models.test_correct])
    pooled = models.test_correct.mean(0, dtype=np.float32)
    mixed = (right.sum(0) >= FEWEST) & (2 * of_models[:, None] - right.sum(0) >= FEWEST)
    entropy, ratio = (np.full(mixed.shape, np.nan, np.float32) for _ in range(2))
    top = np.zeros(mixed.shape, np.int32)
    strength, nearest = (np.full(len(models.test), np.nan, np.float32) for _ in range(2))
    influences = Influences(sets, group, models.member)
    for label in np.unique(models.test_label):
        own, tests = np.flatnonzero(models.label == label), np.flatnonzero(models.test_label == label)
        tests = tests[mixed[:, tests].any(0)]
        if not len(own) or not len(tests):
            continue
        for test in tests:
            value = influences(pooled[:, test])
            top[:, test] = own[value[:, own].argmax(1)]
            strength[test] = value[-1, own].max()
            entropy[:, test] = entropies(value)
        if dataset is not None:
            far = between(dataset, models.test[tests], models.example[own])
            far = far / np.median(far, 1, keepdims=True)
            nearest[tests] = far.min(1)
            ratio[:, tests] = far[np.arange(len(tests)), np.searchsorted(own, top[:, tests])]
    for part in (entropy, ratio):
        part[~mixed] = np.nan
    memorized = memorization_by(sets, group, models.correct.mean(0), models.member)
    accuracy = np.moveaxis(right, 0, 1) / of_models[:, None, None]
    return Seen(entropy, top, strength, accuracy, memorized, ratio, nearest, group, sets)


def entropies(value: np.ndarray) -> np.ndarray:
    """`estimators.influence_entropy` of float32 influences (sets, examples), some of them positive, which it overwrites."""
    np.maximum(value, TINY, out=value)
    total = value.sum(1)
    return np.log(total) - np.einsum("ij,ij->i", value, np.log(value)) / total
