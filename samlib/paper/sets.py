"""Memorization, and influence on a test point, by many sets of models at once.

A set consists of whole groups of models. So models are counted once for each group, not for each set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samlib.audit import Pair
from samlib.inference import partitions
from samlib.paper.crossfit import PARTITIONS


class Models(NamedTuple):
    """Both runs, sorted by the numbers of models, examples and test points, so no statistic depends on their first order.

    correct (2, models, examples), test_correct (2, models, tests) and member (models, examples) are bool. label (examples,) and
    test_label (tests,) are classes. model, example and test are numbers.
    """

    correct: np.ndarray
    test_correct: np.ndarray
    member: np.ndarray
    label: np.ndarray
    test_label: np.ndarray
    model: np.ndarray
    example: np.ndarray
    test: np.ndarray


def models_of(pair: Pair) -> Models:
    """The `Models` of a pair, from which influence is estimated."""
    stacked = ["correct", "test_correct"]
    sgd, sam = (runs[[*stacked, "member"]].sortby(["model", "example", "test"]).load() for runs in pair[:2])
    both = (np.stack([sgd[name].values, sam[name].values]) for name in stacked)
    return Models(*both, *(sgd[name].values for name in Models._fields[2:]))


def dealt(n_groups: int, parts: int) -> np.ndarray:
    """Split groups into equal parts, PARTITIONS times: which groups are kept, bool (partitions, parts, size + 1, groups).

    First comes the whole part, then the part without each of its groups in turn.
    """
    deals, size = partitions(n_groups, parts, PARTITIONS)[:PARTITIONS], n_groups // parts
    inside = np.argsort(deals, 1, kind="stable").reshape(-1, parts, size)
    kept = np.repeat((deals[:, None] == np.arange(parts)[:, None])[:, :, None], size + 1, 2)
    np.put_along_axis(kept[:, :, 1:], inside[..., None], False, -1)
    return kept


def lacking(kept: np.ndarray) -> np.ndarray:
    """The places along the third axis of `dealt` where group g is left out, (partitions, parts, groups + 1).

    The place is 0, the whole part, for g = 0 (none) and for a group that is not in the part.
    """
    return np.pad(kept.argmin(2), ((0, 0), (0, 0), (1, 0)))


class Influences:
    """Influence on one test point at a time, by many sets of models. A set consists of whole groups.

    kept: bool (sets, groups), the groups in each set. group: int (models,), from 1. member: bool (models, examples).
    """

    def __init__(self, kept, group, member):
        self.kept, self.member = kept.astype(np.float32), member.astype(np.float32)
        self.one = (group == np.arange(1, kept.shape[1] + 1)[:, None]).astype(np.float32)  # (groups, models)
        self.seen = self.one @ self.member
        self.models = self.kept @ self.one.sum(1)
        n_in = self.kept @ self.seen
        sides = n_in * (self.models[:, None] - n_in)
        self.scale = np.divide(1, sides, out=np.zeros_like(sides), where=sides > 0)

    def __call__(self, correct: np.ndarray) -> np.ndarray:
        """Influences float32 (sets, examples) on a test point; 0 if there is no estimate.

        correct: (models,), whether each model is right on the test point, or a mean over optimizers.
        """
        right = self.one * correct.astype(np.float32)
        counts = np.concatenate([right @ self.member, self.seen])
        weights = [self.models[:, None] * self.kept, -(self.kept @ right.sum(1))[:, None] * self.kept]
        value = np.concatenate(weights, 1) @ counts  # sums are exact, so an absent influence is exactly 0
        value *= self.scale
        return value


def memorization_by(kept, group, correct, member) -> np.ndarray:
    """`estimators.memorization` by many sets of whole groups of models: (sets, examples), NaN if there is no estimate.

    correct: (models, examples), or a mean over optimizers.
    """
    sets, one = kept.astype(float), (group == np.arange(1, kept.shape[1] + 1)[:, None]).astype(float)
    parts = member.astype(float), correct * member, correct.astype(float)
    n_in, right_in, right = (sets @ (one @ part) for part in parts)
    n_out = (sets @ one.sum(1))[:, None] - n_in
    with np.errstate(invalid="ignore", divide="ignore"):
        return right_in / n_in - (right - right_in) / n_out


def without_each(values: np.ndarray, axis: int) -> np.ndarray:
    """Sums over an axis: first over all of it, then without each place in turn. The axis grows by one."""
    total = values.sum(axis, keepdims=True)
    return np.concatenate([total, total - values], axis)
