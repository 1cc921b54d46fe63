"""Attacks without a likelihood: against a population, against an example's difficulty, and from labels alone."""

from __future__ import annotations

import numpy as np

from samlib.attacks.likelihood import EACH, _as_moments, _finite, _need_sides, _scored, _targets
from samlib.attacks.thresholds import _labels_of, _need_both
from samlib.checks import as_array, as_member, same_shape, together


def population(target, population, *, target_labels=None, population_labels=None) -> np.ndarray:
    """The population attack (Ye et al. 2022, attack P): rank an example among points outside the training set.

    Parameters
    ----------
    target : (n,) or (t, n) array
        Scores of one target model or of t models; any score that is higher for members.
    population : (z,) or (t, z) array
        The same score for points that the target did not train on.
    target_labels, population_labels : (n,) and (z,) int, optional
        Class labels. If given, a point is ranked within its class.

    Returns
    -------
    array of target's shape
        The share of population scores strictly below the example's; higher means a likelier member. Call an example a
        member if its share is at least 1 - alpha. Then the false-positive rate on the population is at most alpha, ties
        included.

    Raises
    ------
    ValueError
        If a score is NaN or infinite, or shapes disagree. Also if only one of the labels is given, or the population
        lacks a class of the target.

    Examples
    --------
    >>> population([0.5, 2.0], [0.0, 1.0, 1.0, 3.0])
    array([0.25, 0.75])
    """
    x, z = as_array("target", target, ndim=(1, 2)), as_array("population", population, ndim=(1, 2))
    if x.shape[:-1] != z.shape[:-1]:
        said = f"have shapes {x.shape}, {z.shape}"
        raise ValueError(f"target and population must hold the same target models, but {said}.")
    y, y_z = np.zeros(x.shape[-1], np.int64), np.zeros(z.shape[-1], np.int64)
    if together("target_labels", target_labels, "population_labels", population_labels):
        y = _labels_of("target", x, "target_labels", target_labels)
        y_z = _labels_of("population", z, "population_labels", population_labels)
    missing = np.setdiff1d(y, y_z)
    if missing.size:
        raise ValueError(f"population_labels lacks {missing.size} class(es) of target_labels, such as {missing[0]}.")
    scores = np.empty(x.shape)
    for c in np.unique(y):
        inside, ranked = y == c, np.sort(z[..., y_z == c], axis=-1)
        for k in np.ndindex(x.shape[:-1]):
            scores[k][inside] = np.searchsorted(ranked[k], x[k][inside], side="left") / ranked.shape[-1]
    return scores


def difficulty_calibration(target, shadow, member=None) -> np.ndarray:
    """Difficulty calibration (Watson et al. 2022): subtract the score's mean over models that did not see the example.

    Parameters
    ----------
    target : (n[, q]) or (t, n[, q]) array
        Scores of one target model or of t models; any score that is higher for members, such as a logit or log p_y.
        An axis q holds queries (augmented views); the result is averaged over it.
    shadow : (models, n[, q]) array or Moments
        The same score of the shadow models.
    member : (models, n) bool, optional
        True where a shadow model was trained on an example. Leave it out if shadow is `Moments`.

    Returns
    -------
    (n,) or (t, n) array
        Higher = more likely a member. Infinite signals count as `moments` says.

    Raises
    ------
    ValueError
        If a score is NaN, shapes disagree, or there is one shadow model. Also if all shadow models saw an example.

    Examples
    --------
    >>> shadow, member = [[4.0, 1.0], [0.0, 2.0], [1.0, 6.0]], [[1, 0], [0, 0], [0, 1]]
    >>> difficulty_calibration([2.0, 2.0], shadow, member)
    array([1.5, 0.5])
    """
    m = _as_moments(shadow, member)
    _need_sides(m, online=False)
    rows, stacked = _targets("target", target, m.mean_out.shape)
    return _scored((_finite(row, m.low, m.high) - m.mean_out for row in rows), stacked)


def label_only(target_correct, *, shadow_correct=None, shadow_member=None) -> np.ndarray:
    """The label-only attack by augmentation (Choquette-Choo et al. 2021): a member is right on many views.

    Parameters
    ----------
    target_correct : (n, q) or (t, n, q) bool
        Whether the target is right on each of q augmented views of an example.
    shadow_correct : (models, n_s, q) bool, optional
        The same for shadow models.
    shadow_member : (models, n_s) bool, optional
        True where a shadow model was trained on an example.

    Returns
    -------
    (n,) or (t, n) array
        Higher = more likely a member. Without shadow models it is the share of views that are right. With them it is
        the log-odds of a logistic regression of membership on the views. It is fitted to all shadow models together.
        (The paper trains a small network on the same vector.)

    Raises
    ------
    ValueError
        If a value is not 0 or 1, or shapes disagree. Also if only one of the shadow arguments is given, or shadow_member
        is all True or all False.

    Examples
    --------
    >>> label_only([[1, 1, 0, 1], [0, 1, 0, 0]])
    array([0.75, 0.25])
    """
    x = as_member("target_correct", target_correct, ndim=(2, 3))
    if not together("shadow_correct", shadow_correct, "shadow_member", shadow_member):
        return x.mean(-1)
    v = as_member("shadow_correct", shadow_correct, ndim=3)
    member = as_member("shadow_member", shadow_member, ndim=2)
    same_shape("shadow_member", member, "shadow_correct", v, EACH)
    if v.shape[-1] != x.shape[-1]:
        raise ValueError(f"shadow_correct has {v.shape[-1]} views an example, but target_correct has {x.shape[-1]}.")
    _need_both(member, "the fit")
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression().fit(v.reshape(-1, v.shape[-1]).astype(np.float64), member.ravel())
    return fit.decision_function(x.reshape(-1, x.shape[-1]).astype(np.float64)).reshape(x.shape[:-1])
