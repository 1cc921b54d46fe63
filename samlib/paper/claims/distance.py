"""Distances between data points, which no model changes, though models choose whose: the tools of C8, and C5 itself."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from samlib.audit import Pair
from samlib.data import Dataset, load_dataset
from samlib.estimators import memorization
from samlib.evaluation import ENOUGH
from samlib.paper.claims.statistics import Effect, mean

N_HALVES = 24
MORE = 0.05  # the share of examples that SAM memorizes more by most, whose atypicality C5 asks for


def by_halves(pair: Pair, terms: Callable[[Pair], np.ndarray | None]) -> Effect | None:
    """An Effect from first-order terms (1, points) of a statistic that models choose the points of.

    Choosing the largest is no smooth function of the models, so their share of the variance comes from random halves of them,
    each choosing anew (Politis and Romano 1994: at one half, the spread of subsamples needs no rescaling); the points' share
    is the bootstrap's. None where `terms` has none, for all models or for most halves.
    """
    whole = terms(pair)
    if whole is None:
        return None
    found, rng, n_models = mean(whole), np.random.default_rng(0), pair.sgd.sizes["model"]
    picks = (np.sort(rng.permutation(n_models)[: n_models // 2]) for _ in range(N_HALVES))
    parts = (terms(Pair(*(r.isel(model=p) for r in pair[:2]), pair.name)) for p in picks)
    values = [part.mean() for part in parts if part is not None]
    if len(values) < N_HALVES // 2:
        return None
    noise = np.std(values, ddof=1) * rng.standard_normal(len(found.replicates))
    return found._replace(replicates=found.replicates + noise)


@functools.lru_cache(2)
def _dataset(name: str, pool: int | None, image_size: int | None, checksum: str) -> Dataset:
    """The data set of that checksum. What raises is not kept, so that data are found once they are there."""
    found = load_dataset(name, pool=pool, image_size=image_size)
    if found.checksum != checksum:
        raise ValueError(f"{name} holds other data now.")
    return found


def dataset_of(runs: xr.Dataset) -> Dataset | None:
    """The data that the runs were trained on, or None where they are not at hand."""
    fields = json.loads(runs.attrs["experiment"])
    try:
        return _dataset(fields["dataset"], fields["pool"], fields["image_size"], runs.attrs["data_checksum"])
    except (ValueError, OSError):
        return None


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


def atypicality(dataset: Dataset) -> np.ndarray:
    """How atypical each training example is of its class, (n,): the share of it nearer to the class mean; 1 = the farthest."""
    x, y = dataset.x_train.reshape(len(dataset.y_train), -1), dataset.y_train
    share = np.empty(len(y))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        distance = np.linalg.norm(x[rows] - x[rows].mean(0), axis=1)
        share[rows] = np.argsort(np.argsort(distance)) / max(len(rows) - 1, 1)
    return share


def more_memorized(pair: Pair) -> Effect | None:
    """C5: mean atypicality of the share MORE of examples that SAM memorizes more by most, less that of all examples."""
    dataset = dataset_of(pair.sgd)
    if dataset is None:
        return None
    away = atypicality(dataset)
    away, k = away - away.mean(), round(MORE * len(away))

    def terms(part: Pair) -> np.ndarray | None:
        scores = [memorization(runs.correct.values, runs.member.values, empty="zero").value for runs in part[:2]]
        return away[np.argsort(scores[0] - scores[1], kind="stable")[:k]][None]

    return by_halves(pair, terms) if k >= ENOUGH else None
