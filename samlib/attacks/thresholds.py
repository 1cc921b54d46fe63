"""The threshold family: one signal per example from the target's probabilities alone, and the threshold that calls it.

Every score is higher for a likelier member, so losses and entropies are negated.
"""

from __future__ import annotations

import numpy as np

from samlib.checks import as_array, as_labels, as_member, same_shape


def correctness(probs, labels) -> np.ndarray:
    """1.0 where the target predicts the label, else 0.0 (the gap attack of Yeom et al. 2018).

    probs (..., n, classes), labels (n,); returns (..., n). The first of equal probabilities is the prediction.
    Raises ValueError where probabilities lie outside [0, 1], do not sum to one, are fewer than two a row, or where
    labels do not fit.
    """
    p, y = _probabilities(probs, labels)
    return (p.argmax(-1) == y).astype(np.float64)


def confidence(probs, labels) -> np.ndarray:
    """Probability of the true class, p_y (Salem et al. 2019; Song and Mittal 2021). Shapes and errors as `correctness`."""
    p, y = _probabilities(probs, labels)
    return _true(p, y)


def loss(probs, labels) -> np.ndarray:
    """Negated cross-entropy, log p_y (Yeom et al. 2018, adversary 2). Shapes and errors as `correctness`.

    A probability of zero counts as the smallest normal double, so the score is finite: -708.4.
    """
    p, y = _probabilities(probs, labels)
    return _log(_true(p, y))


def entropy(probs, labels) -> np.ndarray:
    """Negated entropy of the prediction, sum_i p_i log p_i, in nats (Salem et al. 2019; Song and Mittal 2021).

    The labels are checked and not used. Shapes and errors as `correctness`.
    """
    p, _ = _probabilities(probs, labels)
    return (p * _log(p)).sum(-1)


def modified_entropy(probs, labels) -> np.ndarray:
    """Negated modified entropy, -Mentr (Song and Mittal 2021): (1 - p_y) log p_y + sum_{i != y} p_i log(1 - p_i).

    Finite for saturated probabilities: logarithms of zero count as -708.4, the smallest normal double's (the published
    code cuts them at 1e-30). Shapes and errors as `correctness`.
    """
    p, y = _probabilities(probs, labels)
    p_y = _true(p, y)
    others = np.where(np.arange(p.shape[-1]) == y[:, None], 0, p)
    # Where p is small, log1p keeps what 1 - p would round away.
    log_rest = np.where(others < 0.5, np.log1p(-np.minimum(others, 0.5)), _log(1 - others))
    return (1 - p_y) * _log(p_y) + (others * log_rest).sum(-1)


def threshold(shadow_scores, shadow_member, target_scores, *, shadow_labels=None, target_labels=None) -> np.ndarray:
    """Membership by the threshold that separates a shadow model's members best (Song and Mittal 2021).

    shadow_scores (n_s,) or (models, n_s), shadow_member of the same shape; target_scores (n,) or (t, n). With
    shadow_labels (n_s,) and target_labels (n,), one threshold a class. Returns bool, of target_scores' shape: True, a
    member, where the score reaches the threshold.

    The threshold is the observed shadow score of highest balanced accuracy, as in the published code; among equally
    good ones the lowest. It is found by sorting, with tied scores moved together and counts compared as integers. A
    class that has no members or no non-members among the shadow's examples takes the global threshold.
    Raises ValueError where shapes disagree, scores are NaN or infinite, only one of the labels is given, or
    shadow_member is all True or all False.
    """
    scores = as_array("shadow_scores", shadow_scores, ndim=(1, 2))
    member = as_member("shadow_member", shadow_member, ndim=(1, 2))
    same_shape("shadow_scores", scores, "shadow_member", member)
    target = as_array("target_scores", target_scores, ndim=(1, 2))
    if member.all() or not member.any():
        raise ValueError(
            f"shadow_member is {bool(member.any())} everywhere: a threshold needs members and non-members."
        )
    if (shadow_labels is None) != (target_labels is None):
        raise ValueError("shadow_labels and target_labels must be given together or not at all.")

    if shadow_labels is None:
        return target >= _best_thresholds(scores.ravel(), member.ravel())[0]
    y_shadow = as_labels("shadow_labels", shadow_labels, ndim=1)
    y = as_labels("target_labels", target_labels, ndim=1)
    for side, labels, values in (("shadow", y_shadow, scores), ("target", y, target)):
        if labels.shape != values.shape[-1:]:
            raise ValueError(f"{side}_labels has shape {labels.shape}, but {side}_scores has shape {values.shape}.")
    n_classes = int(max(y_shadow.max(), y.max())) + 1
    if n_classes > 2**16:  # number the classes that occur, rather than hold a threshold for all below the largest
        occurring, index = np.unique(np.r_[y_shadow, y], return_inverse=True)
        y_shadow, y, n_classes = index[: len(y_shadow)], index[len(y_shadow) :], len(occurring)
    y_shadow = np.broadcast_to(y_shadow, scores.shape).ravel()
    cuts = _best_thresholds(scores.ravel(), member.ravel(), y_shadow, n_classes)
    if np.isnan(cuts[y]).any():
        cuts = np.where(np.isnan(cuts), _best_thresholds(scores.ravel(), member.ravel())[0], cuts)
    return target >= cuts[y]


def _best_thresholds(scores, member, labels=None, n_classes=1) -> np.ndarray:
    """The threshold of highest balanced accuracy in each class, (n_classes,); NaN where a class lacks either side."""
    order = np.argsort(scores)
    if labels is None:
        labels = np.zeros(len(scores), np.uint16)
    elif n_classes <= 2**16:
        labels = labels.astype(np.uint16)  # a stable sort of short integers is a radix sort
    if n_classes > 1:
        order = order[np.argsort(labels[order], kind="stable")]
    s, m, c = scores[order], member[order], labels[order]

    starts = np.r_[True, c[1:] != c[:-1]]
    candidate = np.flatnonzero(starts | np.r_[True, s[1:] != s[:-1]])
    first = np.flatnonzero(starts[candidate])  # the lowest candidate of each class that occurs
    sizes = np.diff(np.r_[first, len(candidate)])
    in_before = np.r_[0, np.cumsum(m)]
    bounds = np.r_[candidate[first], len(s)]
    n_in = np.diff(in_before[bounds])
    n_out = np.diff(bounds) - n_in
    # Members and non-members of the class strictly below each candidate.
    in_below = in_before[candidate] - np.repeat(in_before[bounds[:-1]], sizes)
    out_below = candidate - np.repeat(bounds[:-1], sizes) - in_below
    gain = np.repeat(n_in * n_out, sizes) - in_below * np.repeat(n_out, sizes) + out_below * np.repeat(n_in, sizes)
    best = np.repeat(np.maximum.reduceat(gain, first), sizes)
    hit = np.flatnonzero(gain == best)
    hit = hit[np.r_[True, c[candidate[hit[1:]]] != c[candidate[hit[:-1]]]]]
    cuts = np.full(n_classes, np.nan)
    cuts[c[candidate[hit]]] = np.where((n_in > 0) & (n_out > 0), s[candidate[hit]], np.nan)
    return cuts


def _probabilities(probs, labels) -> tuple[np.ndarray, np.ndarray]:
    p = as_array("probs", probs)
    if p.ndim < 2 or p.shape[-1] < 2:
        raise ValueError(f"probs must be (..., n, classes) with at least two classes, but its shape is {p.shape}.")
    tolerance = 1e-3 if p.dtype == np.float64 else 1e-2  # float32 may have been bfloat16
    p = p.astype(np.float64)
    if p.min() < -tolerance or p.max() > 1 + tolerance:
        raise ValueError(f"probs must lie in [0, 1], but they span {p.min():.6g} to {p.max():.6g}.")
    off = np.abs(p.sum(-1) - 1)
    if off.max() > tolerance:
        raise ValueError(f"probs must sum to one over the last axis, but {int((off > tolerance).sum())} row(s) do not.")
    y = as_labels("labels", labels, p.shape[-1], ndim=1)
    if y.shape != p.shape[-2:-1]:
        raise ValueError(f"labels has shape {y.shape}, but probs holds {p.shape[-2]} examples.")
    return p.clip(0, 1), y


def _true(values, y) -> np.ndarray:
    """The true class's entry: values (..., n, classes), y (n,) -> (..., n)."""
    return values[..., np.arange(len(y)), y]


def _log(p) -> np.ndarray:
    return np.log(np.maximum(p, np.finfo(np.float64).tiny))
