"""Threshold and likelihood-ratio attacks on a contracted score (Theorems 4 and 5).

Members sit at score 1; non-members are N(m, sd^2). In Theorem 5 both are seen through noise of deviation nu, and `sd_out`
= sqrt(sd^2 + nu^2) is the deviation of a non-member's observed score.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr, ndtr, ndtri


def threshold_advantage(m, sd):
    """Theorem 4: Adv* = Phi((1 - m) / sd) of a threshold on the signed margin."""
    return ndtr((1 - m) / sd)


def label_free_advantage(sd):
    """Theorem 4: advantage 2 Phi(1 / sd) - 1 of the attack abs(f) >= 1, which needs no label (m = 0)."""
    return 2 * ndtr(1 / sd) - 1


def markov_advantage(v):
    """Theorem 4's distribution-free guarantee: Adv* >= 1 - v, from Markov's inequality on f_w^2."""
    return 1 - v


class Interval(NamedTuple):
    """Accepted scores [1 + low, 1 + high] of the likelihood-ratio test, as offsets from the member level 1."""

    low: np.ndarray
    high: np.ndarray


def lr_interval(m, sd_out, nu) -> Interval:
    """Theorem 5: where N(1, nu^2) has at least the density of N(m, sd_out^2); needs sd_out > nu.

    Offsets from 1 rather than scores, so that nothing cancels as nu goes to 0.
    """
    if not np.all((np.asarray(nu) > 0) & (np.asarray(nu) < np.asarray(sd_out))):
        raise ValueError("nu must be positive and below sd_out.")
    excess, gap = sd_out**2 - nu**2, 1 - m
    root = nu * sd_out * np.sqrt(gap**2 + 2 * excess * np.log(sd_out / nu))
    return Interval((nu**2 * gap - root) / excess, (nu**2 * gap + root) / excess)


def lr_roots(m, sd_out, nu) -> tuple[np.ndarray, np.ndarray]:
    """z_1 < z_2 of Theorem 5: the interval's ends in units of the non-member law."""
    low, high = lr_interval(m, sd_out, nu)
    return (1 - m + low) / sd_out, (1 - m + high) / sd_out


def lr_advantage(m, sd_out, nu):
    """Theorem 5, eq. (12): advantage of the optimal test, the total-variation distance of the two laws."""
    low, high = lr_interval(m, sd_out, nu)
    z1, z2 = lr_roots(m, sd_out, nu)
    return (ndtr(high / nu) - ndtr(low / nu)) - (ndtr(z2) - ndtr(z1))


def lr_advantage_derivative(m, sd_out, nu):
    """Theorem 5, eq. (12): d Adv_LR / d sd_out = (z2 phi(z2) - z1 phi(z1)) / sd_out, by the envelope theorem."""
    z1, z2 = lr_roots(m, sd_out, nu)
    return (z2 * np.exp(-(z2**2) / 2) - z1 * np.exp(-(z1**2) / 2)) / np.sqrt(2 * np.pi) / sd_out


def contraction_raises(m, sd_out, nu):
    """Theorem 5(a): sufficient for contraction (a smaller sd_out) to raise the advantage."""
    far = 1 - m - sd_out
    return (far > 0) & (far**2 >= nu**2 * (1 + 2 * np.log(sd_out / nu)))


def contraction_lowers(m, sd_out, nu):
    """Theorem 5(b): sufficient for contraction to lower the advantage, -1 <= z1 < z2 <= 1."""
    z1, z2 = lr_roots(m, sd_out, nu)
    return (z1 >= -1) & (z2 <= 1)


def one_sided_tpr(alpha, m, sd_out, nu):
    """Theorem 5(d): TPR of the one-sided test (offline LiRA) at false-positive rate alpha."""
    return ndtr(((1 - m) + ndtri(alpha) * sd_out) / nu)


def one_sided_log_tpr(alpha, m, sd_out, nu):
    """Its logarithm, which keeps strict order where the rate itself rounds to 0 or 1."""
    return log_ndtr(((1 - m) + ndtri(alpha) * sd_out) / nu)
