"""Which training points a fit memorizes, and which an attacker finds. Both measures need many fits, of milliseconds each."""

import numpy as np
from scipy.special import expit, ndtr

from samlib.checks import as_member
from samlib.paper.mixture.fitting import as_data, fit


def memorization(x, y, **options) -> np.ndarray:
    """How much more probable each point's label becomes by training on it: the exact leave-one-out difference.

    Parameters
    ----------
    x : (n, 2) array_like
        Points.
    y : (n,) array_like
        Labels in {-1, 1}.
    **options
        Options of `fit`.

    Returns
    -------
    (n,) ndarray
        P(label | x) under the fit to all points, less that under the fit to all others.

    References
    ----------
    Feldman and Zhang (2020), "What neural networks memorize and why". Here a label is drawn with its predicted probability.

    Examples
    --------
    >>> bool(memorization([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]], [1, 1, -1])[2] > 0.9)
    True
    """
    x, y = as_data(x, y)
    others = ~np.eye(len(x), dtype=bool)
    outside = [fit(x[kept], y[kept], **options).decision(x[~kept])[0] for kept in others]
    return expit(y * fit(x, y, **options).decision(x)) - expit(y * outside)


def exposure(x, y, member, **options) -> np.ndarray:
    """How well LiRA tells fits that saw a point from fits that did not: the AUC of two Gaussians, fitted to its logits.

    Parameters
    ----------
    x, y
        As for `memorization`.
    member : (fits, n) array_like of bool
        Which points each shadow fit sees.
    **options
        Options of `fit`.

    Returns
    -------
    (n,) ndarray
        Phi((mean in - mean out) / sqrt(variance in + variance out)) of the label's logit.

    Raises
    ------
    ValueError
        If `member` has another number of points, or all shadow fits saw a point, or none did.

    References
    ----------
    Carlini et al. (2022), "Membership inference attacks from first principles".

    Examples
    --------
    >>> member = [[1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 1, 0]]
    >>> bool(exposure([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]], [1, 1, -1], member)[2] > 0.9)
    True
    """
    x, y = as_data(x, y)
    member = as_member("member", member, ndim=2)
    if member.shape[1] != len(x):
        raise ValueError(f"member must have a column for each of the {len(x)} points, but its shape is {member.shape}.")
    if member.all(0).any() or not member.any(0).all():
        raise ValueError("member must have, for each point, a fit that saw it and one that did not.")
    logits = np.stack([y * fit(x[seen], y[seen], **options).decision(x) for seen in member])
    inside, outside = np.where(member, logits, np.nan), np.where(member, np.nan, logits)
    distance = np.nanmean(inside, axis=0) - np.nanmean(outside, axis=0)
    return ndtr(distance / np.sqrt(np.nanvar(inside, axis=0) + np.nanvar(outside, axis=0)))
