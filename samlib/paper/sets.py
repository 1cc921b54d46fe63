"""The parts that cross-fitting and the jackknife make of models and points, and estimates by many sets of models at once.

What some models select, others measure. A set consists of whole groups of models. So models are counted once for each group,
not for each set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samlib.audit import Pair
from samlib.inference import groups, partitions

PARTITIONS = 20
GROUPS = 20  # at most; left out in turn


def model_groups(ids, most: int = GROUPS) -> np.ndarray:
    """The group of each model (models,), from 1 to an even number of at most `most`. It depends on the models' numbers."""
    return groups(ids, min(most, len(ids) // 2 * 2))


def point_groups(ids, most: int = GROUPS) -> np.ndarray:
    """The group of each example or test point (n,), from 1 to at most `most`. It depends on the points' numbers."""
    return groups(ids, min(most, len(ids)))


def halves(group: np.ndarray) -> list[np.ndarray]:
    """For each partition, one half of the models as a mask (models,). The other half is the rest."""
    return [deal[group - 1] == 0 for deal in partitions(int(group.max()), 2, PARTITIONS)[:PARTITIONS]]


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


def dealt(n_groups: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Split groups into equal parts, PARTITIONS times.

    Returns which groups are kept, bool (partitions, parts, size + 1, groups): first comes the whole part, then the part without
    each of its groups in turn. Then the places along the third axis where group g is left out, (partitions, parts, groups + 1).
    The place is 0, the whole part, for g = 0 (none) and for a group that is not in the part.
    """
    deals, size = partitions(n_groups, parts, PARTITIONS)[:PARTITIONS], n_groups // parts
    inside = np.argsort(deals, 1, kind="stable").reshape(-1, parts, size)
    kept = np.repeat((deals[:, None] == np.arange(parts)[:, None])[:, :, None], size + 1, 2)
    np.put_along_axis(kept[:, :, 1:], inside[..., None], False, -1)
    return kept, np.pad(kept.argmin(2), ((0, 0), (0, 0), (1, 0)))


class Sets:
    """Memorization, and influence on one test point at a time, by many sets of models. A set consists of whole groups.

    kept: bool (sets, groups), the groups in each set. group: int (models,), from 1. member: bool (models, examples).
    """

    def __init__(self, kept, group, member):
        self.kept, self.member = kept.astype(np.float32), member.astype(np.float32)
        self.one = (group == np.arange(1, kept.shape[1] + 1)[:, None]).astype(np.float32)  # (groups, models)
        self.seen = self.one @ self.member
        self.models = (self.kept @ self.one.sum(1))[:, None]
        self.n_in = self.kept @ self.seen
        sides = self.n_in * (self.models - self.n_in)
        self.scale = np.divide(1, sides, out=np.zeros_like(sides), where=sides > 0)

    def memorization(self, correct: np.ndarray) -> np.ndarray:
        """`estimators.memorization` (sets, examples); NaN if there is no estimate.

        correct: (models, examples), or a mean over optimizers.
        """
        parts = correct * self.member, correct
        right_in, right = ((self.kept @ (self.one @ part.astype(np.float32))).astype(float) for part in parts)
        with np.errstate(invalid="ignore", divide="ignore"):
            return right_in / self.n_in - (right - right_in) / (self.models - self.n_in)

    def influence(self, correct: np.ndarray) -> np.ndarray:
        """Influences float32 (sets, examples) on a test point; 0 if there is no estimate.

        correct: (models,), whether each model is right on the test point, or a mean over optimizers.
        """
        right = self.one * correct.astype(np.float32)
        counts = np.concatenate([right @ self.member, self.seen])
        weights = [self.models * self.kept, -(self.kept @ right.sum(1))[:, None] * self.kept]
        value = np.concatenate(weights, 1) @ counts  # sums are exact, so an absent influence is exactly 0
        value *= self.scale
        return value


def without_each(values: np.ndarray, axis: int) -> np.ndarray:
    """Sums over an axis: first over all of it, then without each place in turn. The axis grows by one."""
    total = values.sum(axis, keepdims=True)
    return np.concatenate([total, total - values], axis)
