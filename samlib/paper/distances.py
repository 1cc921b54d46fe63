"""Distances between data points, for C5 and C8. Models choose the points, but distances depend on the data alone."""

from __future__ import annotations

import functools
import json

import numpy as np
import xarray as xr
from scipy.spatial.distance import cdist
from scipy.stats import rankdata

from samlib.data import Dataset, load_dataset


@functools.lru_cache(2)
def _dataset(name: str, pool: int | None, image_size: int | None, checksum: str) -> Dataset:
    """The data set, if it has that checksum. Errors are not cached, so data are found as soon as they are there."""
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


def between(dataset: Dataset, test: np.ndarray, example: np.ndarray) -> np.ndarray:
    """Euclidean distances of test points (m,) from examples (n,), both by index: float64 (m, n), exactly 0 for equal points.

    uint8 pixels are scaled to 0 to 1.
    """
    scale = 255 if dataset.x_train.dtype == np.uint8 else 1
    return cdist(*(x.reshape(len(x), -1) / scale for x in (dataset.x_test[test], dataset.x_train[example])))


def atypicality(dataset: Dataset) -> np.ndarray:
    """How atypical each training example is, (n,): the share of its class that is nearer to the class mean; 1 = the farthest.

    Examples at equal distances get the mean of their ranks.
    """
    x, y = dataset.x_train.reshape(len(dataset.y_train), -1), dataset.y_train
    share = np.empty(len(y))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        distance = np.linalg.norm(x[rows] - x[rows].mean(0), axis=1)
        share[rows] = (rankdata(distance) - 1) / max(len(rows) - 1, 1)
    return share
