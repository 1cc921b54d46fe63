"""Every interval and every verdict: effects with their standard errors, families, equivalence, reliability.

Two things vary: the models (their subsets and seeds) and the examples. `mean` estimates the variance of a mean over both.
`jackknife` serves all other statistics. Intervals depend on no seed and not on the order of models or examples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

from samlib.checks import FAR, as_array, as_labels, as_number, same_shape

LEVEL = 0.05  # the level of a whole family of claims
RELIABLE, WELL = 0.5, 0.8  # below RELIABLE nothing is decided; WELL is the reliability to aim at
SUPPORTED, CONTRADICTED, NO_DIFFERENCE, INCONCLUSIVE, NOT_MEASURABLE = VERDICTS = (
    "supported", "contradicted", "no difference that counts", "inconclusive", "not measurable",
)  # fmt: skip
_COUNTS = 2**53  # whole numbers that float64 holds


class Effect(NamedTuple):
    """An estimate with its standard error, each a float or an array of one shape.

    Attributes
    ----------
    estimate, stderr : float or array
        The value of the statistic and its standard error, over models and examples.
    df, by_models : float or array
        Degrees of freedom (Satterthwaite 1946), and the part of the variance that more models would reduce.
    """

    estimate: np.ndarray
    stderr: np.ndarray
    df: np.ndarray
    by_models: np.ndarray

    def interval(self, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
        """The ends (low, high) of the t interval that misses with probability `level`."""
        reach = stats.t.isf(level / 2, np.maximum(self.df, 1)) * self.stderr
        return self.estimate - reach, self.estimate + reach

    def p(self) -> np.ndarray:
        """The two-sided p-value of "the effect is 0"."""
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(self.estimate == 0, 0 * self.stderr, np.abs(self.estimate) / self.stderr)
        return 2 * stats.t.sf(t, np.maximum(self.df, 1))


def mean(terms) -> Effect:
    """The mean over models and examples of first-order terms.

    Parameters
    ----------
    terms : array (..., models, examples)
        Leading axes are separate statistics. With one model, only examples vary; with one example, only models.

    Returns
    -------
    Effect
        With the unbiased ANOVA variance of two crossed random factors: (MS_models + MS_examples - MS_residual) /
        (models * examples), never below MS_residual / (models * examples). Owen (2007), Satterthwaite (1946).

    Raises
    ------
    ValueError
        For NaN, for fewer than 2 dimensions, and for a single term.

    Examples
    --------
    >>> found = mean([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    >>> float(found.estimate), round(float(found.stderr), 3)
    (1.5, 0.764)
    """
    terms = as_array("terms", terms).astype(float)
    if terms.ndim < 2 or terms.shape[-2] * terms.shape[-1] < 2:
        wanted = "(..., models, examples), at least 2 of them"
        raise ValueError(f"terms must be {wanted}, but their shape is {terms.shape}.")
    shares = [terms.mean(-1), terms.mean(-2)]
    value = shares[0].mean(-1)
    rest = terms - shares[0][..., None] - shares[1][..., None, :] + value[..., None, None]
    n_models, n = terms.shape[-2:]
    parts: dict[tuple, tuple] = {}
    for axis, (share, size) in enumerate(zip(shares, (n_models, n), strict=True)):
        if size > 1:
            parts[(axis,)] = ((share - value[..., None]) ** 2).sum(-1) / (size * (size - 1)), size - 1
    if len(parts) == 2:
        df = (n_models - 1) * (n - 1)
        parts[0, 1] = (rest**2).sum((-2, -1)) / (df * n_models * n), df
    return _effect(value, parts)


def jackknife(values, factors: int = 2, *, extra=0.0, crossed: bool = False) -> Effect:
    """The effect of any statistic, from its values with groups left out. For statistics that are not means of terms.

    Parameters
    ----------
    values : array (groups + 1, ..., groups + 1, ...)
        One axis for each factor, the models first. Index 0 leaves nothing out, index g leaves out group g. More axes are
        separate statistics.
    factors : int
        How many of the first axes are factors: models and examples, and test points if they vary too.
    extra : float or array
        Variance to add from other sources, such as the partitions that a statistic averages over.
    crossed : bool
        Whether the statistic multiplies results of some models by results of others, or lets some choose what others measure.

    Returns
    -------
    Effect
        Its variance is the sum over single factors, minus the interactions, which single factors count twice. It is at least
        that of all factors left out together; if `crossed`, that of all but the models. Leaving out groups of models counts
        what is quadratic in them twice, and higher orders more often (Efron and Stein 1981). A NaN gives a NaN stderr.

    Raises
    ------
    ValueError
        If a factor has fewer than 2 groups.

    Examples
    --------
    >>> found = jackknife(deletions(lambda g, h: 2.0 if g else 1.0, 3, 3))
    >>> float(found.estimate)
    1.0
    """
    values = as_array("values", values, missing=True).astype(float)
    factors = as_number("factors", factors, whole=True)
    extra = as_array("extra", extra).astype(float)
    if not 1 <= factors <= values.ndim or min(values.shape[:factors]) < 3:
        raise ValueError(f"values must have {factors} axes of at least 3 (2 groups), not the shape {values.shape}.")
    parts: dict[tuple, tuple] = {}
    for size in range(1, factors + 1):
        for axes in itertools.combinations(range(factors), size):
            part = values[tuple(slice(1, None) if axis in axes else 0 for axis in range(factors))]
            scale, df = 1.0, 1
            for axis in range(size):
                part = part - part.mean(axis, keepdims=True)
                scale, df = scale * (part.shape[axis] - 1) / part.shape[axis], df * (part.shape[axis] - 1)
            parts[axes] = scale * (part**2).sum(tuple(range(size))), df
    return _effect(values[(0,) * factors], parts, extra, least=tuple(range(1, factors)) if crossed else None)


def crossing(terms, cut: float) -> np.ndarray:
    """How far each model moves each example's score over a cut, to first order: (models, examples).

    An example's score is the mean of its column of `terms` (models, examples). Whether the score lies above `cut` is a step
    function, which has no first-order terms. So the step is smoothed over two standard errors to either side, and the models'
    deviations are multiplied by its slope. A column with NaN gives 0. Add the result to the step before `mean`:

    >>> terms = np.array([[0.0, 1.0, 0.5], [0.5, 1.0, 0.0], [0.25, 1.0, 1.0]])
    >>> moved = crossing(terms, 0.5)
    >>> share = mean((terms.mean(0) > 0.5) + moved)
    >>> float(share.estimate)
    0.333...
    """
    terms = as_array("terms", terms, ndim=2, missing=True).astype(float)
    cut = as_number("cut", cut, -FAR, FAR)
    score = terms.mean(0)
    moved = terms - score
    moved[:, np.isnan(score)] = 0
    width = 2 * math.sqrt((moved**2).sum() / moved.shape[1] / max(len(moved) - 1, 1) / len(moved))
    return moved * (np.abs(score - cut) <= width) / (2 * width) if width > 0 else moved


def deletions(statistic: Callable, *groups: int) -> np.ndarray:
    """The `values` of `jackknife`: statistic(g, h, ...) for every choice of a group to leave out, 0 for none."""
    cells = itertools.product(*(range(n + 1) for n in groups))
    values = np.array([statistic(*cell) for cell in cells], float)
    return values.reshape(*(n + 1 for n in groups), *values.shape[1:])


def _effect(value, parts: dict, extra=0.0, least=None) -> Effect:
    """Add up variances by inclusion and exclusion. parts: variance and df of each set of factors. least: the floor's set."""
    variance = sum((-1) ** (len(axes) + 1) * part for axes, (part, _) in parts.items())
    variance = np.maximum(variance, parts[least or max(parts, key=len)][0])  # NaN stays NaN
    with np.errstate(divide="ignore", invalid="ignore"):
        # A part above the whole is counted more than once (see `jackknife`), or noise.
        sizes = (np.minimum(part, variance) if least else part for part, _ in parts.values())
        df = variance**2 / sum(size**2 / df for size, (_, df) in zip(sizes, parts.values(), strict=True))
    variance = variance + extra
    by_models = np.minimum(parts[(0,)][0] + extra, variance) if (0,) in parts else 0 * variance
    return Effect(value, np.sqrt(variance), np.where(variance == 0, np.inf, df), by_models)


def groups(ids, n_groups: int) -> np.ndarray:
    """The group of each of ids (n,), from 1 to `n_groups`, of nearly equal size. The order of the ids does not matter."""
    ids = as_labels("ids", ids, ndim=1).astype(np.uint64)
    n_groups = as_number("n_groups", n_groups, 1, len(ids), whole=True)
    mixed = ids * np.uint64(0x9E3779B97F4A7C15)  # Steele et al. 2014, SplitMix64's finalizer
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    rank = np.empty(len(ids), int)
    rank[np.lexsort((ids, mixed))] = np.arange(len(ids))
    return rank % n_groups + 1


def partitions(n_groups: int, parts: int, number: int = 20) -> np.ndarray:
    """`number` fixed random ways to split groups into equal parts: the part of each group, ints (number * parts, n_groups).

    Each way comes in every rotation of the parts, so every group is equally often in each part.
    """
    rng, dealt = np.random.default_rng(0), np.arange(n_groups) % parts
    drawn = np.array([rng.permutation(dealt) for _ in range(number)])
    return np.concatenate([(drawn + turn) % parts for turn in range(parts)])


def shares(scores, n_buckets: int, weights=None) -> np.ndarray:
    """The weight of each of scores (n,) in buckets of equal count, the lowest first: (n_buckets, n). Ties share their places.

    weights (..., n): how often each score counts, 1 if None. With weights, buckets have equal weight: (..., n_buckets, n).

    >>> shares([3, 1, 1, 2], 2)
    array([[0., 1., 1., 0.],
           [1., 0., 0., 1.]])
    """
    scores = as_array("scores", scores, ndim=1)
    n_buckets = as_number("n_buckets", n_buckets, 1, len(scores), whole=True)
    start, count, which = _places(scores, np.ones(len(scores)) if weights is None else weights)
    edges = (start[..., -1:] + count[..., -1:]) * np.linspace(0, 1, n_buckets + 1)
    stop = (start + count)[..., None, :]
    inside = np.minimum(stop, edges[..., 1:, None]) - np.maximum(start[..., None, :], edges[..., :-1, None])
    part = np.maximum(inside, 0) / np.where(count > 0, count, 1)[..., None, :]
    return part[..., which] * (1 if weights is None else weights[..., None, :])


def ranks(scores, weights) -> np.ndarray:
    """The rank of each of scores (n,): the middle of its places in sorted order. weights (..., n): how often each score counts.

    >>> ranks([3, 1, 1, 2], np.ones(4))
    array([3.5, 1. , 1. , 2.5])
    """
    scores = as_array("scores", scores, ndim=1)
    start, count, which = _places(scores, weights)
    return (start + count / 2)[..., which]


def _places(scores, weights):
    """For each distinct score, in order: the start and the number of its places, (..., distinct). Then each score's index."""
    weights = as_array("weights", weights)
    if weights.shape[-1:] != scores.shape:
        raise ValueError(f"weights must have {len(scores)} in their last axis, but their shape is {weights.shape}.")
    _, which = np.unique(scores, return_inverse=True)
    order = np.argsort(which, kind="stable")
    first = np.flatnonzero(np.diff(which[order], prepend=-1))
    count = np.add.reduceat(np.asarray(weights, float)[..., order], first, axis=-1)
    return np.cumsum(count, -1) - count, count, which


class Reliability(NamedTuple):
    """`value`: the correlation of scores with those of as many new models. `models`: the number that brings it to the goal."""

    value: float
    models: float


def reliability(first, second, n_models: int, goal: float = WELL) -> Reliability:
    """The reliability of scores from all models, by halves (Spearman 1910; Brown 1910).

    Parameters
    ----------
    first, second : arrays (partitions, n)
        Scores from the two halves of the models, for several partitions. Rank correlations are averaged.
    n_models, goal
        Models of both halves together, and the reliability to reach.

    Examples
    --------
    >>> reliability([[1, 2, 3, 4]], [[1, 2, 4, 3]], n_models=64).value
    0.888...
    """
    n_models, goal = as_number("n_models", n_models, 2, whole=True), as_number("goal", goal, 0, 1, strict=True)
    ours, theirs = (as_array(name, each, ndim=2).astype(float) for name, each in (("first", first), ("second", second)))
    same_shape("first", ours, "second", theirs)
    halves = [stats.spearmanr(a, b)[0] if np.ptp(a) and np.ptp(b) else 0.0 for a, b in zip(ours, theirs, strict=True)]
    return from_half(float(np.mean(halves)), n_models, goal)


def from_half(half: float, n_models: int, goal: float = WELL) -> Reliability:
    """The reliability of scores from all n_models, given the correlation between two halves; 0 if that is not positive."""
    whole = 2 * half / (1 + half) if half > 0 else 0.0
    return Reliability(whole, needed_models(whole, n_models, goal))


def needed_models(whole: float, n_models: int, goal: float) -> float:
    """The number of models with reliability `goal`, if `n_models` have reliability `whole`; infinite if that is 0."""
    return n_models * goal / (1 - goal) * (1 - whole) / whole if whole > 0 else math.inf


def verdict(estimate: float, low: float, high: float, direction: int, smallest: float) -> str:
    """One of `VERDICTS`, from an estimate and its simultaneous interval.

    Supported: the interval lies beyond zero in the claimed direction, and the estimate reaches the smallest effect that
    counts. Contradicted: the same in the other direction. No difference that counts: the interval lies within the smallest
    effect.

    >>> verdict(0.02, 0.01, 0.03, direction=1, smallest=0.005)
    'supported'
    """
    if math.isnan(low):
        return INCONCLUSIVE
    if direction < 0:
        estimate, low, high = -estimate, -high, -low
    if -smallest < low and high < smallest:
        return NO_DIFFERENCE
    if low > 0 and estimate >= smallest:
        return SUPPORTED
    return CONTRADICTED if high < 0 and estimate <= -smallest else INCONCLUSIVE


def to_decide(found: Effect, smallest: float, level: float, n_models: int) -> tuple[float, float]:
    """How many models would move the interval off zero, or into the smallest effect; NaN if models alone do not. Then: how
    many times as many examples that takes at least."""
    size = abs(float(found.estimate))
    target = ((size if size >= smallest else smallest - size) / stats.t.isf(level / 2, max(float(found.df), 1))) ** 2
    rest = float(found.stderr) ** 2 - float(found.by_models)
    models = math.nan if target <= rest else math.ceil(n_models * float(found.by_models) / (target - rest))
    return models, rest / target if target else math.inf


class Across(NamedTuple):
    """The random-effects mean with its interval; tau, the deviation between data sets; i2, its share of the scatter."""

    estimate: float
    low: float
    high: float
    tau: float
    i2: float


def across(estimates, stderrs, level: float = LEVEL) -> Across:
    """The mean over data sets by random effects, with the interval of Hartung and Knapp (2001); NaN for fewer than 2.

    estimates, stderrs: (data sets,). Estimates that agree by chance do not narrow the interval (Roever et al. 2015).

    >>> found = across([0.01, 0.02, 0.015], [0.004, 0.004, 0.004])
    >>> round(found.estimate, 4)
    0.015
    """
    from statsmodels.stats.meta_analysis import combine_effects

    estimates = as_array("estimates", estimates, ndim=1, empty=True).astype(float)
    stderrs = as_array("stderrs", stderrs, ndim=1, empty=True).astype(float)
    same_shape("estimates", estimates, "stderrs", stderrs)
    level = as_number("level", level, 0, 1, strict=True)
    if len(estimates) < 2 or (stderrs <= 0).any():
        return Across(*[math.nan] * 5)
    with np.errstate(divide="ignore"):  # estimates that are all alike
        found = combine_effects(estimates, stderrs**2, method_re="iterated", use_t=True, alpha=level)
    reach = stats.t.isf(level / 2, len(estimates) - 1) * max(found.sd_eff_w_re_hksj, found.sd_eff_w_re)
    value = float(found.mean_effect_re)
    return Across(value, value - reach, value + reach, math.sqrt(max(found.tau2, 0)), max(float(found.i2), 0.0))


def clopper_pearson(successes, trials, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The exact binomial interval (low, high) of a rate (Clopper and Pearson 1934). Counts have one shape, or are numbers.

    Raises ValueError if a count is not a whole number in range, or the confidence lies outside (0, 1).

    >>> low, high = clopper_pearson(0, 10)
    >>> float(low), round(float(high), 3)
    (0.0, 0.308)
    """
    from statsmodels.stats.proportion import proportion_confint

    # In float64, since the difference of small integer types would wrap.
    k, n = as_array("successes", successes).astype(float), as_array("trials", trials).astype(float)
    if k.ndim and n.ndim:
        same_shape("successes", k, "trials", n)
    if (k < 0).any() or (k > n).any() or (n < 1).any() or (k != np.floor(k)).any() or (n != np.floor(n)).any():
        raise ValueError("successes must be whole numbers from 0 to trials, and trials whole numbers of at least 1.")
    return proportion_confint(k, n, 1 - as_number("confidence", confidence, 0, 1, strict=True), method="beta")


def epsilon_lower_bound(
    true_positives, n_members, false_positives, n_nonmembers, *, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The differential-privacy epsilon that an attack's counts refute, at least 0 (Jagielski et al. 2020; Nasr et al. 2023).

    (epsilon, delta)-DP implies TPR <= e^epsilon FPR + delta, and the same for 1 - FPR and 1 - TPR. TPR and FPR are taken at the
    worst ends of Clopper and Pearson's intervals, which hold at once. The threshold must come from other data. Raises as
    `clopper_pearson`.
    """
    n_members = as_number("n_members", n_members, 1, _COUNTS, whole=True)
    n_nonmembers = as_number("n_nonmembers", n_nonmembers, 1, _COUNTS, whole=True)
    true_positives = as_number("true_positives", true_positives, 0, n_members, whole=True)
    false_positives = as_number("false_positives", false_positives, 0, n_nonmembers, whole=True)
    delta = as_number("delta", delta, 0, 1)
    tpr_low = clopper_pearson(true_positives, n_members, confidence)[0]  # a tail of (1 - confidence) / 2 each
    fpr_high = clopper_pearson(false_positives, n_nonmembers, confidence)[1]
    sides = (tpr_low, fpr_high), (1 - fpr_high, 1 - tpr_low)
    return max([0.0, *(math.log((gain - delta) / loss) for gain, loss in sides if gain > delta)])
