"""Memorization, influence, influence entropy and entropy buckets (Feldman and Zhang 2020), from correctness and masks alone.

The influence of 50,000 examples on 10,000 test points is never whole in memory. It is computed in blocks of test points, by an
exact integer product of 0/1 matrices. Counts are exact, so an influence of 0 is exactly 0: in float32 up to 4,096 models, in
float64 up to 2^24; more are refused. (The module is not called memorization, because `samlib.memorization` is the function.)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from samlib.checks import as_array, as_choice, as_labels, as_member, as_number, same_shape

BLOCK_BYTES = 100 << 20  # of one block of influences in float32
WHOLE = 1 << 24  # float32 holds every whole number up to it; `influence_blocks` forms numbers up to n_models^2


class Estimate(NamedTuple):
    """Estimates of many differences between the share of in models that are right and that of out models.

    Attributes
    ----------
    value, stderr : array of float
        The differences, and their standard errors (binomial, each side apart).
    n_in, n_out : (examples,) int
        The number of models that saw each example, and the number that did not.
    """

    value: np.ndarray
    stderr: np.ndarray
    n_in: np.ndarray
    n_out: np.ndarray


def memorization(correct, member, *, empty: str = "nan") -> Estimate:
    """Estimate how much more often models are right on an example that they trained on.

    mem(i) is P[model is right on i | it saw i] - P[it is right on i | it did not] (Feldman and Zhang 2020, eq. 1 and 4).

    Parameters
    ----------
    correct : (models, examples) bool
        Whether model k is right on example i.
    member : (models, examples) bool
        Whether model k trained on example i.
    empty : str
        What stands for an example that all models or none saw. "nan": NaN, and a warning counts these examples.
        "zero": the missing share counts as 0, as in the published code.

    Returns
    -------
    Estimate
        `value` and `stderr` (examples,) float64, from -1 to 1.

    Raises
    ------
    ValueError
        If a value is not 0 or 1, shapes disagree, or there is one model.

    Examples
    --------
    >>> memorization([[1, 1], [0, 1], [0, 1], [1, 0]], [[1, 0], [0, 1], [1, 0], [0, 1]]).value
    array([ 0. , -0.5])
    """
    correct, member, n_in, n_out = _masks(correct, member, same=True)
    return _difference((correct & member).sum(0), correct.sum(0), n_in, n_out, empty)


def influence(correct_test, member, *, empty: str = "nan") -> Estimate:
    """Estimate how much more often models are right on a test point if they trained on an example.

    infl(z, i) is the difference of `memorization` for test point z (Feldman and Zhang 2020, eq. 2).

    Parameters
    ----------
    correct_test : (models, tests) bool
        Whether model k is right on test point z.
    member : (models, examples) bool
        Whether model k trained on example i.
    empty : str
        As for `memorization`.

    Returns
    -------
    Estimate
        `value` and `stderr` (tests, examples) float32, and the counts (examples,). `influence_blocks` gives the values in blocks,
        where the whole matrix is too large.

    Raises
    ------
    ValueError
        As `memorization`. Also if there are more than 2^24 models.

    Examples
    --------
    >>> influence([[1], [0], [1], [0]], [[1, 0], [0, 1], [1, 1], [0, 0]]).value
    array([[1., 0.]], dtype=float32)
    """
    correct_test, member, n_in, n_out = _masks(correct_test, member)
    right_in = np.concatenate([block for _, block in _products(correct_test, member)])
    return _difference(right_in, correct_test.sum(0)[:, None], n_in, n_out, empty, np.float32)


def influence_blocks(correct_test, member, *, empty: str = "nan") -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the values of `influence`, a block of test points at a time.

    Parameters
    ----------
    correct_test, member, empty
        As for `influence`.

    Yields
    ------
    rows : slice
        The test points of the block.
    values : (block, examples) float32

    Raises
    ------
    ValueError
        As `influence`.

    Examples
    --------
    >>> [(rows.stop, values.shape) for rows, values in influence_blocks([[1], [0]], [[1, 0], [0, 1]])]
    [(1, (1, 2))]
    """
    correct_test, member, n_in, n_out = _masks(correct_test, member)
    _warn_empty(n_in, n_out, empty)
    exact = np.float32 if len(member) ** 2 <= WHOLE else np.float64
    void, right = (n_in == 0) | (n_out == 0), correct_test.sum(0).astype(exact)
    seen, scale = n_in.astype(exact), np.full(len(n_in), np.nan, np.float32)
    scale[~void] = 1 / (n_in * n_out)[~void]
    for rows, block in _products(correct_test, member):
        # Whole numbers until they are scaled. So a zero influence is exactly 0, and rounding noise enters neither the entropy
        # nor the largest element.
        value = np.multiply(block, len(member), dtype=exact, casting="unsafe")
        value -= right[rows, None] * seen
        value = value.astype(np.float32, copy=False)
        value *= scale
        if empty == "zero" and void.any():
            right_in = block[:, void].astype(np.float32)
            value[:, void] = np.where(n_in[void] > 0, right_in, right_in - right[rows, None]) / len(member)
        yield rows, value


def top_influences(correct_test, member, k: int, *, labels=None) -> tuple[np.ndarray, np.ndarray]:
    """Find the k most influential training examples of each test point.

    The matrix of influences is never held. Examples without an estimate are not chosen.

    Parameters
    ----------
    correct_test, member
        As for `influence`.
    k : int
        The number of examples for each test point.
    labels : pair of (tests,) and (examples,) int, optional
        Labels, to choose among the examples of the test point's own class. If there are fewer than k, the last values
        are -inf.

    Returns
    -------
    indices : (tests, k) int64
        Best first. Of equal values the lower index comes first.
    values : (tests, k) float32

    Raises
    ------
    ValueError
        If fewer than k examples have an estimate, or labels do not fit; also as `influence`.

    Examples
    --------
    >>> indices, values = top_influences([[1], [0], [1], [0]], [[1, 0], [0, 1], [1, 1], [0, 0]], k=1)
    >>> indices.tolist(), values.tolist()
    ([[0]], [[1.0]])
    """
    correct_test, member, n_in, n_out = _masks(correct_test, member)
    void = (n_in == 0) | (n_out == 0)
    k = as_number("k", k, 1, int((~void).sum()), whole=True, why=", the number of examples with an estimate")
    if labels is not None:
        if not isinstance(labels, (list, tuple)) or len(labels) != 2:
            raise ValueError("labels must be a pair: those of the tests and those of the examples.")
        of_tests, of_examples = (as_labels("labels", each, ndim=1) for each in labels)
        there, given = (correct_test.shape[1], member.shape[1]), (len(of_tests), len(of_examples))
        if given != there:
            raise ValueError(f"labels must hold {there[0]} of tests and {there[1]} of examples, but hold {given}.")
    indices = np.empty((correct_test.shape[1], k), np.int64)
    values = np.empty((correct_test.shape[1], k), np.float32)
    for rows, block in influence_blocks(correct_test, member):
        block[:, void] = -np.inf
        if labels is not None:
            block[of_tests[rows, None] != of_examples] = -np.inf
        indices[rows] = _top(block, k)
        values[rows] = np.take_along_axis(block, indices[rows], 1)
    return indices, values


def _top(block: np.ndarray, k: int) -> np.ndarray:
    """The indices (rows, k) of the largest values of each row, largest first."""
    found = np.empty((len(block), k), np.int64)
    for row, values in enumerate(block):
        candidates = np.flatnonzero(values >= np.partition(values, -k)[-k])
        # a stable sort breaks ties by index, so that every machine names the same examples
        found[row] = candidates[np.argsort(-values[candidates], kind="stable")[:k]]
    return found


def influence_entropy(influence) -> np.ndarray:
    """Compute how widely the influence on each test point is spread.

    I_ent(z) = -sum_i p_i log p_i, where p_i is max(infl(z, i), 0) over the sum of these. It is low if few training examples
    carry the test point; the paper calls such points atypical. The paper's exact form is not known to us; this one is ours.

    Parameters
    ----------
    influence : (tests, examples) array or Estimate
        Examples without an estimate (NaN) do not count.

    Returns
    -------
    (tests,) float64 array
        In nats. Without any positive influence it is the logarithm of the number of examples, as if spread evenly.

    Raises
    ------
    ValueError
        If `influence` does not have two dimensions, or is infinite.

    Examples
    --------
    >>> influence_entropy([[0.5, 0.5, -0.1], [0.2, 0.0, 0.0]]).round(3) + 0.0
    array([0.693, 0.   ])
    """
    value = influence.value if isinstance(influence, Estimate) else influence
    value = as_array("influence", value, ndim=2, missing=True).astype(float)
    known = ~np.isnan(value)
    value = np.where(value > 0, value, 0)  # NaN > 0 is False
    total = value.sum(1, keepdims=True)
    p = np.divide(value, total, out=known / np.maximum(known.sum(1, keepdims=True), 1), where=total > 0)
    return entr(p).sum(1)


def entropy_buckets(entropy, n_buckets: int = 5) -> np.ndarray:
    """Cut test points into buckets of equal count by entropy.

    Parameters
    ----------
    entropy : (tests,) array
    n_buckets : int
        At most the number of test points.

    Returns
    -------
    (tests,) int64 array
        From 1, the lowest entropy, to `n_buckets`. Of equal entropies the lower index comes first.

    Raises
    ------
    ValueError
        If an entropy is NaN, or there are fewer test points than buckets.

    Examples
    --------
    >>> entropy_buckets([0.3, 0.1, 0.2, 0.4], n_buckets=2)
    array([2, 1, 1, 2])
    """
    entropy = as_array("entropy", entropy, ndim=1)
    n_buckets = as_number("n_buckets", n_buckets, 1, len(entropy), whole=True, why=", the number of test points")
    bucket = np.empty(len(entropy), np.int64)
    bucket[np.argsort(entropy, kind="stable")] = np.arange(len(entropy)) * n_buckets // len(entropy) + 1
    return bucket


def _masks(correct, member, *, same: bool = False) -> tuple[np.ndarray, ...]:
    """Both as bool, and how many models saw each example and how many did not."""
    name = "correct" if same else "correct_test"
    correct, member = as_member(name, correct, ndim=2), as_member("member", member, ndim=2)
    same_shape(name, correct, "member", member, slice(1 + same))
    if len(member) < 2:
        raise ValueError("member must hold at least 2 models, but it holds 1.")
    return correct, member, member.sum(0), (~member).sum(0)


def _warn_empty(n_in, n_out, empty: str) -> None:
    as_choice("empty", empty, ("nan", "zero"))
    if empty == "nan" and (lost := int(((n_in == 0) | (n_out == 0)).sum())):
        said = f"{lost} of {len(n_in)} examples were in all or in none of the models: no estimate."
        warnings.warn(said, stacklevel=4)


def _difference(right_in, right, n_in, n_out, empty, dtype=np.float64) -> Estimate:
    """Mean in minus mean out from counts; `right_in` (..., examples), `right` broadcasts to it."""
    _warn_empty(n_in, n_out, empty)
    missing = np.nan if empty == "nan" else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        value, variance = np.zeros(()), np.zeros(())
        for count, n, sign in ((right_in, n_in, 1), (right - right_in, n_out, -1)):
            p = np.where(n > 0, (count / n).astype(dtype), missing)
            value, variance = value + sign * p, variance + np.where(n > 0, p * (1 - p) / n, missing)
        return Estimate(value.astype(dtype), np.sqrt(variance).astype(dtype), n_in, n_out)


def _products(correct_test, member) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of correct_test' member, exact counts (block, examples): how many models that saw i are right on z."""
    if len(member) > WHOLE:
        raise ValueError(f"member must hold at most {WHOLE:,} models, of which counts are exact, not {len(member):,}.")
    seen = member.astype(np.float32)
    step = max(1, BLOCK_BYTES // (4 * member.shape[1]))
    for start in range(0, correct_test.shape[1], step):
        rows = slice(start, min(start + step, correct_test.shape[1]))
        yield rows, correct_test[:, rows].T.astype(np.float32) @ seen


def memorization_terms(correct, member) -> np.ndarray:
    """Compute the first-order terms of `memorization`. Their means over models are its values.

    Parameters
    ----------
    correct, member
        As for `memorization`.

    Returns
    -------
    (models, examples) float64 array
        `inference.mean` of them gives the interval. NaN if there is no estimate.

    Raises
    ------
    ValueError
        As `memorization`.

    Examples
    --------
    >>> memorization_terms([[1], [0], [0], [1]], [[1], [0], [1], [0]]).mean(0)
    array([0.])
    """
    correct, member, *_ = _masks(correct, member, same=True)
    c, share = correct.astype(float), member.mean(0)
    share = np.where((share > 0) & (share < 1), share, np.nan)
    p_in, p_out = (c * member).mean(0) / share, (c * ~member).mean(0) / (1 - share)
    return p_in - p_out + np.where(member, (c - p_in) / share, (p_out - c) / (1 - share))
