"""The threshold attacks: a score from the target's probabilities alone, and a threshold that calls members.

A higher score means a likelier member, so losses and entropies are negated.
"""

from __future__ import annotations

import numpy as np

from samlib.checks import as_array, as_labels, as_member, same_shape, together


def correctness(probs, labels) -> np.ndarray:
    """Whether the target predicts the label (the gap attack of Yeom et al. 2018).

    Parameters
    ----------
    probs : (..., n, classes) array
        The target's probabilities.
    labels : (n,) int
        The true classes.

    Returns
    -------
    (..., n) float64 array
        1.0 if it does, else 0.0. Of equal probabilities, the first one is the prediction.

    Raises
    ------
    ValueError
        If a probability lies outside [0, 1], or a row does not sum to one. Also if there are fewer than two classes, or
        labels do not fit.

    Examples
    --------
    >>> correctness([[0.7, 0.3], [0.6, 0.4]], [0, 1])
    array([1., 0.])
    """
    p, y = _probabilities(probs, labels)
    return (p.argmax(-1) == y).astype(np.float64)


def confidence(probs, labels) -> np.ndarray:
    """The probability of the true class, p_y (Salem et al. 2019; Song and Mittal 2021).

    Parameters
    ----------
    probs : (..., n, classes) array
        The target's probabilities.
    labels : (n,) int
        The true classes.

    Returns
    -------
    (..., n) float64 array
        p_y, higher = more likely a member.

    Raises
    ------
    ValueError
        If a probability lies outside [0, 1], or a row does not sum to one. Also if there are fewer than two classes, or
        labels do not fit.

    Examples
    --------
    >>> confidence([[0.7, 0.3], [0.6, 0.4]], [0, 1])
    array([0.7, 0.4])
    """
    p, y = _probabilities(probs, labels)
    return _true(p, y)


def loss(probs, labels) -> np.ndarray:
    """The negated cross-entropy, log p_y (Yeom et al. 2018, adversary 2).

    Parameters
    ----------
    probs : (..., n, classes) array
        The target's probabilities.
    labels : (n,) int
        The true classes.

    Returns
    -------
    (..., n) float64 array
        log p_y, higher = more likely a member. It is at least -708.4: p_y = 0 counts as the smallest normal double.

    Raises
    ------
    ValueError
        If a probability lies outside [0, 1], or a row does not sum to one. Also if there are fewer than two classes, or
        labels do not fit.

    Examples
    --------
    >>> loss([[0.7, 0.3], [0.6, 0.4]], [0, 1]).round(2)
    array([-0.36, -0.92])
    """
    p, y = _probabilities(probs, labels)
    return _log(_true(p, y))


def entropy(probs, labels) -> np.ndarray:
    """The negated entropy of the prediction, sum_i p_i log p_i (Salem et al. 2019; Song and Mittal 2021).

    Parameters
    ----------
    probs : (..., n, classes) array
        The target's probabilities.
    labels : (n,) int
        The true classes.

    Returns
    -------
    (..., n) float64 array
        In nats, higher = more likely a member. The labels are checked, but they do not matter.

    Raises
    ------
    ValueError
        If a probability lies outside [0, 1], or a row does not sum to one. Also if there are fewer than two classes, or
        labels do not fit.

    Examples
    --------
    >>> entropy([[0.9, 0.1], [0.5, 0.5]], [0, 1]).round(2)
    array([-0.33, -0.69])
    """
    p, _ = _probabilities(probs, labels)
    return (p * _log(p)).sum(-1)


def modified_entropy(probs, labels) -> np.ndarray:
    """The negated modified entropy (Song and Mittal 2021): (1 - p_y) log p_y + sum_{i != y} p_i log(1 - p_i).

    Parameters
    ----------
    probs : (..., n, classes) array
        The target's probabilities.
    labels : (n,) int
        The true classes.

    Returns
    -------
    (..., n) float64 array
        In nats, higher = more likely a member. It is finite: the logarithm of 0 counts as -708.4, that of the smallest
        normal double. (The published code cuts at 1e-30.)

    Raises
    ------
    ValueError
        If a probability lies outside [0, 1], or a row does not sum to one. Also if there are fewer than two classes, or
        labels do not fit.

    Examples
    --------
    >>> modified_entropy([[0.9, 0.1], [0.9, 0.1]], [0, 1]).round(2)
    array([-0.02, -4.14])
    """
    p, y = _probabilities(probs, labels)
    p_y = _true(p, y)
    others = np.where(np.arange(p.shape[-1]) == y[:, None], 0, p)
    # for small p, log1p keeps digits that 1 - p would round away
    log_rest = np.where(others < 0.5, np.log1p(-np.minimum(others, 0.5)), _log(1 - others))
    return (1 - p_y) * _log(p_y) + (others * log_rest).sum(-1)


def threshold(shadow_scores, shadow_member, target_scores, *, shadow_labels=None, target_labels=None) -> np.ndarray:
    """Call members by the threshold that separates a shadow model's members best (Song and Mittal 2021).

    Parameters
    ----------
    shadow_scores : (n_s,) or (models, n_s) array
        Scores of the shadow models.
    shadow_member : bool, of the same shape
        True where a shadow model was trained on an example.
    target_scores : (n,) or (t, n) array
        The same score of one target model or of t models.
    shadow_labels, target_labels : (n_s,) and (n,) int, optional
        Class labels. If given, each class has a threshold of its own.

    Returns
    -------
    bool array of target_scores' shape
        True, a member, where the score reaches the threshold.

    Raises
    ------
    ValueError
        If shapes disagree, or a score is NaN or infinite. Also if only one of the labels is given, or shadow_member is
        all True or all False.

    Notes
    -----
    The threshold is the shadow score with the highest balanced accuracy, as in the published code. Of equally good ones
    it is the lowest. Scores are sorted, tied scores move together, and counts are compared as integers. A class without
    members or without non-members among the shadow's examples takes the threshold of all classes.

    Examples
    --------
    >>> threshold([0.1, 0.4, 0.6, 0.9], [False, False, True, True], [0.5, 0.7])
    array([False,  True])
    """
    scores = as_array("shadow_scores", shadow_scores, ndim=(1, 2))
    member = as_member("shadow_member", shadow_member, ndim=(1, 2))
    same_shape("shadow_scores", scores, "shadow_member", member)
    target = as_array("target_scores", target_scores, ndim=(1, 2))
    _need_both(member, "a threshold")
    everywhere = _best_threshold(scores, member)
    if not together("shadow_labels", shadow_labels, "target_labels", target_labels):
        return target >= everywhere
    y_shadow = _labels_of("shadow_scores", scores, "shadow_labels", shadow_labels)
    y = _labels_of("target_scores", target, "target_labels", target_labels)
    cuts = np.full(len(y), everywhere, np.float64)
    for c in np.unique(y):
        s, m = scores[..., y_shadow == c], member[..., y_shadow == c]
        if m.any() and not m.all():
            cuts[y == c] = _best_threshold(s, m)
    return target >= cuts


def _labels_of(scores_name: str, scores: np.ndarray, name: str, labels) -> np.ndarray:
    """The labels (n,) of scores (..., n)."""
    y = as_labels(name, labels, ndim=1)
    same_shape(name, y, scores_name, scores, slice(-1, None))
    return y


def _need_both(member: np.ndarray, what: str) -> None:
    if member.all() or not member.any():
        raise ValueError(f"shadow_member is {bool(member.any())} everywhere: {what} needs members and non-members.")


def _best_threshold(scores, member) -> np.number:
    """The lowest threshold of highest balanced accuracy. There are members and non-members."""
    order = np.argsort(scores, axis=None)
    s, m = scores.ravel()[order], member.ravel()[order]
    below = np.flatnonzero(np.r_[True, s[1:] != s[:-1]])  # scores below each candidate, since tied ones move together
    in_below = np.r_[0, np.cumsum(m)][below]
    gain = (below - in_below) * m.sum() - in_below * (~m).sum()  # orders as the balanced accuracy, in whole numbers
    return s[below[gain.argmax()]]


def _probabilities(probs, labels) -> tuple[np.ndarray, np.ndarray]:
    p = as_array("probs", probs)
    if p.ndim < 2 or p.shape[-1] < 2:
        raise ValueError(f"probs must be (..., n, classes) with at least two classes, but its shape is {p.shape}.")
    tolerance = 1e-3 if p.dtype == np.float64 else 1e-2  # float32 may come from bfloat16
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
    """The entry of the true class: values (..., n, classes) and y (n,) give (..., n)."""
    return values[..., np.arange(len(y)), y]


def _log(p) -> np.ndarray:
    return np.log(np.maximum(p, np.finfo(np.float64).tiny))
