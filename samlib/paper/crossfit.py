"""The parts that cross-fitting and the jackknife make of models and points. What some models select, others measure."""

from __future__ import annotations

import numpy as np

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
