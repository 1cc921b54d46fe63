"""Cross-fitting: some models select and others measure, over many partitions. So no noise is both selected and measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from samlib.audit import Pair
from samlib.inference import Effect, groups, jackknife, partitions

PARTITIONS = 20
MODEL_GROUPS, POINT_GROUPS = 20, 20  # left out in turn


def model_groups(pair: Pair, most: int = MODEL_GROUPS) -> np.ndarray:
    """The group of each model (models,), from 1 to an even number of at most `most`. It depends on the models' numbers."""
    models = pair.sgd.model.values
    return groups(models, min(most, len(models) // 2 * 2))


def point_groups(pair: Pair, side: str = "example", most: int = POINT_GROUPS) -> np.ndarray:
    """The group of each example, or of each test point (side "test"): (n,). It depends on the points' numbers."""
    ids = pair.sgd[side].values
    return groups(ids, min(most, len(ids)))


def crossfit(group: np.ndarray, select: Callable, measure: Callable, statistic: Callable) -> Effect:
    """The effect of a statistic for which one half of the models selects and the other measures, in both directions.

    Parameters
    ----------
    group : int array (models,)
        What `model_groups` returns. Partitions split whole groups, and the jackknife leaves out one group at a time.
    select, measure : functions of a mask (models,)
        What the models in the mask choose, and what they measure.
    statistic : function of (selection, measurement)
        Its values, with all points and without each group of points: (point groups + 1, ...).

    Returns
    -------
    Effect
        The mean over partitions and both directions. Its variance has a part for models, one for points, and one for the
        finite number of partitions.
    """
    n_groups = int(group.max())
    deals = partitions(n_groups, 2, PARTITIONS)
    values: Any = 0
    wholes = []
    for deal in deals:
        first = deal[group - 1] == 0
        chosen, seen = select(first), measure(~first)
        each = [statistic(chosen, seen)]
        for g in range(1, n_groups + 1):
            kept = group != g
            inside = deal[g - 1] == 0
            each.append(statistic(select(first & kept), seen) if inside else statistic(chosen, measure(~first & kept)))
        wholes.append(each[0][0])
        values = values + np.array(each) / len(deals)
    both = np.array(wholes).reshape(2, PARTITIONS, *np.shape(wholes[0])).mean(0)  # the two directions of a partition
    return jackknife(values, 2, extra=np.nan_to_num(both.var(0, ddof=1) / PARTITIONS), crossed=True)


def each_left_out(statistic: Callable[[np.ndarray], Any], points: np.ndarray) -> np.ndarray:
    """statistic(kept) with all points and without each group of them: (groups + 1, ...)."""
    return np.array([statistic(points != h) for h in range(points.max() + 1)])


def halves(group: np.ndarray) -> list[np.ndarray]:
    """For each partition, one half of the models as a mask (models,). The other half is the rest."""
    return [deal[group - 1] == 0 for deal in partitions(int(group.max()), 2, PARTITIONS)[:PARTITIONS]]
