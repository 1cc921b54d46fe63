"""Intervals: exact ones of rates, the epsilon that an attack's counts refute, and the bootstrap over models and examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
from scipy import stats

from samlib.checks import as_array, as_generator, as_number, same_shape

MOST = 10_000_000  # resamples
_BLOCK = 2_000_000  # resampled weights held at once
_COUNTS = 2**53  # whole numbers that float64 holds


def clopper_pearson(successes, trials, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The exact binomial interval (low, high) of a rate (Clopper and Pearson 1934), for counts of any one shape, or one number.

    Raises ValueError for counts that are no counts, or a confidence outside (0, 1).
    """
    # In float64, since the difference of small integer types would wrap.
    k, n = as_array("successes", successes).astype(float), as_array("trials", trials).astype(float)
    if k.ndim and n.ndim:
        same_shape("successes", k, "trials", n)
    if (k < 0).any() or (k > n).any() or (n < 1).any() or (k != np.floor(k)).any() or (n != np.floor(n)).any():
        raise ValueError("successes must be whole numbers from 0 to trials, and trials whole numbers of at least 1.")
    tail = tail_of(confidence)
    with np.errstate(invalid="ignore"):
        low, high = stats.beta.ppf(tail, k, n - k + 1), stats.beta.ppf(1 - tail, k + 1, n - k)
    return np.where(k == 0, 0.0, low), np.where(k == n, 1.0, high)


def epsilon_lower_bound(
    true_positives, n_members, false_positives, n_nonmembers, *, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The differential-privacy epsilon that an attack's counts refute, at least 0 (Jagielski et al. 2020; Nasr et al. 2023).

    (epsilon, delta)-DP forces TPR <= e^epsilon FPR + delta, and the same of the true-negative and false-negative rates. The
    rates are Clopper and Pearson's worst ends, each at confidence 1 - (1 - confidence) / 2, so that both hold at once. The
    threshold must have been chosen on other data. Raises ValueError as `clopper_pearson`.
    """
    n_members = as_number("n_members", n_members, 1, _COUNTS, whole=True)
    n_nonmembers = as_number("n_nonmembers", n_nonmembers, 1, _COUNTS, whole=True)
    true_positives = as_number("true_positives", true_positives, 0, n_members, whole=True)
    false_positives = as_number("false_positives", false_positives, 0, n_nonmembers, whole=True)
    delta = as_number("delta", delta, 0, 1)
    tpr_low = clopper_pearson(true_positives, n_members, confidence)[0]  # a tail of (1 - confidence) / 2 each
    fpr_high = clopper_pearson(false_positives, n_nonmembers, confidence)[1]
    bounds = [0.0]
    for gain, loss in ((tpr_low, fpr_high), (1 - fpr_high, 1 - tpr_low)):
        if gain > delta:
            bounds.append(math.log((gain - delta) / loss))
    return float(max(bounds))


def two_way(terms, *, n_resamples: int = 2000, seed=0) -> np.ndarray:
    """Bootstrap replicates of means over models and examples: terms (..., models, examples) to (..., n_resamples).

    Models and examples are each drawn with replacement (a single model is kept); all leading matrices share the draws, so
    differences of replicates are paired. For a statistic that is not a mean, pass its first-order terms.
    Raises ValueError for NaN and for fewer than 2 dimensions.
    """
    terms = as_array("terms", terms).astype(float)
    if terms.ndim < 2:
        raise ValueError(f"terms must be (..., models, examples), but their shape is {terms.shape}.")
    flat, size = terms.reshape(-1, *terms.shape[-2:]), terms.shape[-2] * terms.shape[-1]

    def means(rows, columns):
        return np.stack([((rows @ matrix) * columns).sum(1) for matrix in flat], 1) / size

    drawn = resampled(terms.shape[-2:], means, n_resamples=n_resamples, seed=seed)
    return drawn.T.reshape(*terms.shape[:-2], len(drawn))


def resampled(shape: tuple[int, int], statistic: Callable, *, n_resamples: int = 2000, seed=0) -> np.ndarray:
    """Replicates of statistic(rows (b, models), columns (b, examples)) -> (b, ...), whole counts of how often each was drawn.

    Raises ValueError for a shape that is not two whole numbers of at least 1, and for n_resamples below 1.
    """
    sides = as_array("shape", shape, ndim=1)
    if len(sides) != 2:
        raise ValueError(f"shape must hold 2 numbers, of models and of examples, not {len(sides)}.")
    shape = tuple(as_number("shape", side, 1, MOST, whole=True) for side in sides)
    return np.concatenate([statistic(*weights) for weights in _weights(shape, n_resamples, seed)])


def _weights(shape: tuple[int, int], n_resamples: int, seed) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """How often each row and each column was drawn, in blocks of resamples: (block, rows), (block, columns)."""
    n_resamples = as_number("n_resamples", n_resamples, 1, MOST, whole=True)
    rng, step = as_generator(seed), max(1, _BLOCK // shape[1])
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        yield tuple(_counts(rng, size, n) if n > 1 else np.ones((size, 1)) for n in shape)


def _counts(rng, size: int, n: int) -> np.ndarray:
    picks = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, None]
    return np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(float)


def tail_of(confidence) -> float:
    """The share that an interval leaves out on each side."""
    return (1 - as_number("confidence", confidence, 0, 1, strict=True)) / 2
