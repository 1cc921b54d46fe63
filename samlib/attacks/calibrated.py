"""Attacks that need no likelihood: against a population, against an example's difficulty, and from labels alone."""

from __future__ import annotations

import numpy as np

from samlib.attacks.likelihood import _as_moments, _finite, _need_sides, _targets
from samlib.checks import as_array, as_labels, as_member


def population(target, population, *, target_labels=None, population_labels=None) -> np.ndarray:
    """The population attack (Ye et al. 2022, attack P): an example's rank among points that the target did not train on.

    target (n,) and population (z,) hold any score of one target model that is higher for members, or (t, n) and (t, z)
    for several. With target_labels (n,) and population_labels (z,) a point is ranked within its class. Returns, in the
    shape of target, the share of population scores strictly below it, higher = more likely a member: calling members
    where this is at least 1 - alpha has a false-positive rate of at most alpha on the population, ties included.

    Raises ValueError for NaN or infinite scores, shapes that disagree, only one of the labels, and a target class that
    the population lacks.
    """
    x, z = as_array("target", target, ndim=(1, 2)), as_array("population", population, ndim=(1, 2))
    if x.shape[:-1] != z.shape[:-1]:
        raise ValueError(
            f"target and population must hold the same target models, but have shapes {x.shape}, {z.shape}."
        )
    if (target_labels is None) != (population_labels is None):
        raise ValueError("target_labels and population_labels must be given together or not at all.")
    if target_labels is None:
        y, y_z = np.zeros(x.shape[-1], np.int64), np.zeros(z.shape[-1], np.int64)
    else:
        y = as_labels("target_labels", target_labels, ndim=1)
        y_z = as_labels("population_labels", population_labels, ndim=1)
    for name, labels, size in (("target_labels", y, x.shape[-1]), ("population_labels", y_z, z.shape[-1])):
        if labels.shape != (size,):
            raise ValueError(f"{name} has shape {labels.shape}, but there are {size} examples.")
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
    """Difficulty calibration (Watson et al. 2022): the score less its mean over models that did not see the example.

    target (n[, q]) or (t, n[, q]), shadow (models, n[, q]): any score that is higher for members, such as a logit or
    log p_y; member (models, n); or shadow is `Moments`. Averaged over queries q. Returns (n,) or (t, n).
    Infinite signals count as `moments` says. Raises ValueError for NaN, shapes that disagree, one shadow model, and an
    example that every shadow model saw.
    """
    m = _as_moments("shadow", shadow, "member", member, deviations=False)
    _need_sides(m, online=False, name="member")
    rows, stacked = _targets("target", target, m.mean_out.shape)
    scores = np.stack([_finite(row, m.low, m.high) - m.mean_out for row in rows])
    scores = scores if scores.ndim == 2 else scores.mean(-1)
    return scores if stacked else scores[0]


def label_only(target_correct, *, shadow_correct=None, shadow_member=None) -> np.ndarray:
    """The label-only attack by augmentation (Choquette-Choo et al. 2021): right on many views, so a member.

    target_correct (n, q) or (t, n, q), bool: is the label predicted for each of q augmented views of an example.
    Returns (n,) or (t, n), higher = more likely a member: the share of views that are right; or, with shadow_correct
    (models, n_s, q) and shadow_member (models, n_s), the log-odds of a logistic regression of membership on the views,
    fitted to all the shadow models together (the paper trains a small network on the same vector).

    Raises ValueError for values other than 0 and 1, shapes that disagree, one of the shadow arguments alone, and a
    shadow_member that is all True or all False.
    """
    x = as_member("target_correct", target_correct, ndim=(2, 3))
    if (shadow_correct is None) != (shadow_member is None):
        raise ValueError("shadow_correct and shadow_member must be given together or not at all.")
    if shadow_correct is None:
        return x.mean(-1)
    v = as_member("shadow_correct", shadow_correct, ndim=3)
    member = as_member("shadow_member", shadow_member, ndim=2)
    if v.shape[:2] != member.shape:
        raise ValueError(f"shadow_member has shape {member.shape}, but shadow_correct has shape {v.shape}.")
    if v.shape[-1] != x.shape[-1]:
        raise ValueError(f"shadow_correct has {v.shape[-1]} views an example, but target_correct has {x.shape[-1]}.")
    if member.all() or not member.any():
        raise ValueError(f"shadow_member is {bool(member.any())} everywhere: the fit needs members and non-members.")
    from sklearn.linear_model import LogisticRegression

    fit = LogisticRegression().fit(v.reshape(-1, v.shape[-1]).astype(np.float64), member.ravel())
    return fit.decision_function(x.reshape(-1, x.shape[-1]).astype(np.float64)).reshape(x.shape[:-1])
