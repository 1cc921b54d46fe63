"""The measures of influence entropy (C8 to C10) and of what its buckets hold, and the selections that Figures 3 and 4 draw.

Buckets and the most influential examples come from the even models, accuracies and memorization from the odd ones.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from samlib.audit import Pair, compared
from samlib.data import Dataset
from samlib.estimators import (
    entropy_buckets,
    gain_beyond_difficulty,
    memorization,
    memorization_terms,
    streamed_entropy,
    top_influences,
)
from samlib.evaluation import ENOUGH
from samlib.paper.claims.distance import Distances, by_halves, dataset_of, distances
from samlib.paper.claims.influence import Models, of
from samlib.paper.claims.statistics import Effect, gain, group_mean, halves, mean

FEWEST = 3  # models that must be right on a test point, and wrong, for it to have a most influential example
N_BUCKETS = 5


def mixed(correct: np.ndarray) -> np.ndarray:
    """Test points that at least FEWEST models are right on and FEWEST wrong; the others have no influence worth a name."""
    right = correct.sum(0)
    return (right >= FEWEST) & (len(correct) - right >= FEWEST)


def buckets(models: Models) -> np.ndarray:
    """Buckets by entropy of all test points, 1 to N_BUCKETS; points without any influence come last."""
    return entropy_buckets(streamed_entropy(models.test_correct, models.member), N_BUCKETS)


class Top(NamedTuple):
    """The most influential examples, of its own class, of each test point that the models disagree on; m test points.

    `test`, `bucket` (1 to N_BUCKETS, among these alone) and `entropy` (m,); `example` and `value` (m, k), best first.
    """

    test: np.ndarray
    bucket: np.ndarray
    entropy: np.ndarray
    example: np.ndarray
    value: np.ndarray


def top(models: Models, k: int = 1) -> Top | None:
    """The k most influential examples of each `mixed` test point; None where these are fewer than the buckets."""
    tests = np.flatnonzero(mixed(models.test_correct))
    if len(tests) < N_BUCKETS:
        return None
    correct = models.test_correct[:, tests]
    entropy = streamed_entropy(correct, models.member)
    labels = models.labels[0][tests], models.labels[1]
    best = top_influences(correct, models.member, k, labels=labels)
    return Top(tests, entropy_buckets(entropy, N_BUCKETS), entropy, *best)


def _ends(found: Top | None) -> list[np.ndarray] | None:
    """Which of the test points are of the first bucket and which of the last, or None where either has too few."""
    if found is None:
        return None
    ends = [found.bucket == b for b in (1, N_BUCKETS)]
    return ends if min(end.sum() for end in ends) >= ENOUGH else None


def low_entropy_gain(pair: Pair) -> Effect:
    """C9: the gain in accuracy in bucket 1 minus in the others."""
    first, second = halves(pair)
    lowest = buckets(of(first.sgd)) == 1
    return mean(gain(second) * np.where(lowest, 1 / lowest.mean(), -1 / (~lowest).mean()))


def bucket_table(pair: Pair) -> pd.DataFrame:
    """Figure 4a: accuracy by the odd models in buckets by SGD's even ones: columns sgd, sam, difference, low, high."""
    first, second = halves(pair)
    bucket, rows = buckets(of(first.sgd)), {}
    for b in range(1, N_BUCKETS + 1):
        inside = (bucket == b).astype(float)
        rows[b] = compared(*(group_mean(runs.test_correct.values.astype(float), inside) for runs in second[:2]))
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("bucket")


class Comparable(NamedTuple):
    """Test points that SGD's even models do not all agree on (the others have no entropy), m of them, and what these say.

    `entropy` and `difficulty` (m,), the latter an accuracy; `sgd` and `sam` (models, m), correctness of the odd models.
    """

    entropy: np.ndarray
    difficulty: np.ndarray
    sgd: np.ndarray
    sam: np.ndarray


def comparable(pair: Pair) -> Comparable:
    first, second = halves(pair)
    correct = first.sgd.test_correct.values
    tests = np.flatnonzero(correct.any(0) & ~correct.all(0))
    correct = correct[:, tests]
    odd = (runs.test_correct.values[:, tests].astype(float) for runs in second[:2])
    return Comparable(streamed_entropy(correct, first.sgd.member.values), correct.mean(0), *odd)


def beyond_difficulty(pair: Pair) -> Effect | None:
    """The gain at low entropy minus at high, among test points that are equally difficult."""
    found = comparable(pair)
    if len(found.entropy) < 2 * ENOUGH:
        return None
    weights = gain_beyond_difficulty(np.ones(len(found.entropy)), found.entropy, found.difficulty, N_BUCKETS)
    return mean((found.sam - found.sgd) * weights)


def difficulty_table(pair: Pair) -> pd.DataFrame:
    """What `beyond_difficulty` compares: rows (difficulty 1, the hardest, to 5; entropy low, high), columns as `bucket_table`."""
    found, rows = comparable(pair), {}
    bins = entropy_buckets(found.difficulty, N_BUCKETS)
    for b in range(1, N_BUCKETS + 1):
        inside = np.flatnonzero(bins == b)
        half = entropy_buckets(found.entropy[inside], 2)
        for h, name in ((1, "low"), (2, "high")):
            group = np.bincount(inside[half == h], minlength=len(bins)).astype(float)
            rows[b, name] = compared(group_mean(found.sgd, group), group_mean(found.sam, group))
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["difficulty", "entropy"])
    return frame


def what_entropy_follows(pair: Pair) -> pd.DataFrame:
    """Rank correlations of test points' influence entropy (SGD's even models), among points that the models disagree on.

    Rows: with their difficulty, with the memorization of their most influential example, both by the odd models; columns
    correlation, low, high (95 %, test points resampled). No rows where too few test points are left.
    """
    first, second = halves(pair)
    found = top(of(first.sgd))
    if found is None or len(found.test) < 3 * ENOUGH:
        return pd.DataFrame(columns=["correlation", "low", "high"])
    score = memorization(second.sgd.correct.values, second.sgd.member.values, empty="zero").value
    others = {
        "the error of other models on the test point": -second.sgd.test_correct.values.mean(0)[found.test],
        "the memorization of its most influential example": score[found.example[:, 0]],
    }
    rng, rows = np.random.default_rng(0), {}
    for name, values in others.items():
        draws = [spearmanr(found.entropy[d], values[d])[0] for d in rng.integers(0, len(values), (500, len(values)))]
        ends = np.nanquantile(draws, [0.025, 0.975])
        rows[name] = dict(
            zip(("correlation", "low", "high"), (spearmanr(found.entropy, values)[0], *ends), strict=True)
        )
    return pd.DataFrame.from_dict(rows, orient="index")


def entropy_sentence(pair: Pair) -> str:
    """What `what_entropy_follows` says, in words."""
    frame = what_entropy_follows(pair)
    if frame.empty:
        return "The models disagree on too few test points to say what entropy goes with."
    said = []
    for name, row in frame.iterrows():
        verb = "goes with" if row.low > 0 or row.high < 0 else "shows no relation to"
        said.append(
            f"{verb} {name} (rank correlation {row.correlation:+.2f}, 95 % interval {row.low:+.2f} to {row.high:+.2f})"
        )
    return f"Among the test points that models disagree on, influence entropy {said[0]} and {said[1]}."


def top_memorization(pair: Pair) -> Effect | None:
    """C10: SAM's memorization of the top-1 influential example, bucket 1 minus the last bucket."""
    first, second = halves(pair)
    found = top(of(first.sam))
    if (ends := _ends(found)) is None:
        return None
    terms = memorization_terms(second.sam.correct.values, second.sam.member.values)[:, found.example[:, 0]]
    return mean(group_mean(terms, ends[0].astype(float)) - group_mean(terms, ends[1].astype(float)))


def top_distances(pair: Pair, dataset: Dataset) -> tuple[Top, Distances] | None:
    """The top-1 influential examples by all models of both optimizers, and how far they are: distance chooses nothing here."""
    found = top(of(pair.sgd, pair.sam))
    return None if found is None else (found, distances(dataset, found.test, found.example[:, 0]))


def near_duplicates(pair: Pair) -> Effect | None:
    """C8: distance of the top-1 influential example over the class's typical one, bucket 1 minus the last bucket."""
    dataset = dataset_of(pair.sgd)
    return None if dataset is None else by_halves(pair, lambda part: _duplicate_terms(part, dataset))


def _duplicate_terms(pair: Pair, dataset: Dataset) -> np.ndarray | None:
    """First-order terms (1, test points) of C8's statistic."""
    found = top_distances(pair, dataset)
    if found is None or (ends := _ends(found[0])) is None:
        return None
    ratio = (found[1].example / found[1].typical)[None]
    return group_mean(ratio, ends[0].astype(float)) - group_mean(ratio, ends[1].astype(float))
