"""Checks of Theorems 4 and 5. Each returns a list of `Check`."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import norm

from samlib.paper.theory import attack
from samlib.paper.theory.geometry import g_path
from samlib.paper.theory.model import DataModel
from samlib.paper.theory.verify.table import Check, above, at_least, equal


def theorem4(trials: int = 20_000, seed: int = 0) -> list[Check]:
    """Monotone in the deviation, from both sides of the member level; the rule where m moves too; Markov's guarantee."""
    rng = np.random.default_rng(seed)
    m, sd = rng.uniform(-2, 3, trials), 10 ** rng.uniform(-1, 1, trials)
    wider = sd * (1 + 10 ** rng.uniform(-3, 0, trials))
    # log Phi, so that strict order survives where Phi rounds to 1
    fall = (log_ndtr((m - 1) / wider) - log_ndtr((m - 1) / sd)) * np.sign(1 - m)
    m2, sd2 = rng.uniform(-2, 0.99, trials), 10 ** rng.uniform(-1, 1, trials)
    below = m < 1
    risen = attack.threshold_advantage(m2, sd2) > attack.threshold_advantage(m, sd)
    rule = np.log1p(-m2[below]) - np.log1p(-m[below]) > np.log(sd2[below] / sd[below])
    ends = np.maximum((1 - m2[below]) / sd2[below], (1 - m[below]) / sd[below]) < 6  # beyond, Phi rounds to 1
    free = attack.label_free_advantage(sd)
    path = g_path(DataModel(), [0, 1, 5, 30], range(3))
    return [
        above(
            "falls with the deviation where m < 1, rises where m > 1", fall[np.abs(m - 1) > 1e-3], "least change of log"
        ),
        at_least(
            "with m moving: rises if and only if log(1 - m) falls less", (risen[below] == rule)[ends], 1, "share right"
        ),
        at_least("label-free attack falls with the deviation", free - attack.label_free_advantage(wider)),
        equal("label-free attack is a TV of half-lines", free - (norm.cdf(1 / sd) - norm.cdf(-1 / sd)), 1e-12),
        at_least("Adv* >= 1 - v on the G-path", path["advantage"] - attack.markov_advantage(path["v"])),
    ]


def random_lr(rng, trials: int):
    """m, sd_out, nu of Theorem 5, each (trials,), with nu < sd_out."""
    m, sd_out = rng.uniform(-1.5, 1.5, trials), 10 ** rng.uniform(-1, 0.7, trials)
    return m, sd_out, sd_out * 10 ** rng.uniform(-2, -0.05, trials)


def total_variation(m: float, sd_out: float, nu: float) -> float:
    """1/2 integral of |N(1, nu^2) - N(m, sd_out^2)|, by Simpson's rule between the sign changes and +-12 deviations."""
    low, high = attack.lr_interval(m, sd_out, nu)
    ends = np.unique([min(1 - 12 * nu, m - 12 * sd_out), 1 - 8 * nu, 1 + low, 1, 1 + high, 1 + 8 * nu,
                      max(1 + 12 * nu, m + 12 * sd_out)])  # fmt: skip
    total = 0.0
    for a, b in zip(ends[:-1], ends[1:], strict=True):
        t = np.linspace(a, b, 2001)
        f = np.abs(norm.pdf(t, 1, nu) - norm.pdf(t, m, sd_out))
        total += (b - a) / 6000 * (f[0] + f[-1] + 4 * f[1:-1:2].sum() + 2 * f[2:-1:2].sum())
    return total / 2


def theorem5(trials: int = 20_000, seed: int = 0) -> list[Check]:
    """Eq. (12) against quadrature and central differences; (a) to (d) never violated."""
    rng = np.random.default_rng(seed)
    m, sd_out, nu = random_lr(rng, trials)
    found = attack.lr_advantage(m, sd_out, nu)
    few = slice(0, 200)
    direct = [total_variation(*one) for one in zip(m[few], sd_out[few], nu[few], strict=True)]
    slope, h = attack.lr_advantage_derivative(m, sd_out, nu), 1e-5 * sd_out
    wide = sd_out > 1.01 * nu
    numeric = (attack.lr_advantage(m, sd_out + h, nu) - attack.lr_advantage(m, sd_out - h, nu)) / (2 * h)
    raised, lowered = attack.contraction_raises(m, sd_out, nu), attack.contraction_lowers(m, sd_out, nu)
    z1, z2 = attack.lr_roots(m, sd_out, nu)
    # sign of the derivative by logarithms: z phi(z) may round to 0 at both ends
    raises = np.log(z1[raised]) - z1[raised] ** 2 / 2 - (np.log(z2[raised]) - z2[raised] ** 2 / 2)
    lowers = slope[lowered]
    ratio = 10 ** rng.uniform(-0.7, 0.7, trials)  # (1 - m) / sd, the sign flips at 1
    ratio = ratio[np.abs(np.log(ratio)) > 0.05]
    limit = np.sign(attack.lr_advantage_derivative(0.0, 1 / ratio, 1e-6 / ratio)) == np.sign(1 - ratio)
    alpha = rng.uniform(1e-4, 0.499, trials)
    narrower = sd_out * rng.uniform(0.3, 0.999, trials)
    one_sided = attack.one_sided_log_tpr(alpha, m, narrower, nu) - attack.one_sided_log_tpr(alpha, m, sd_out, nu)
    return [
        equal("advantage is the total variation (quadrature)", found[few] - direct, 1e-7),
        equal("eq. (12): derivative against central differences", (slope - numeric)[wide], 1e-5),
        above("(a) contraction raises: log of z1 phi(z1) over z2 phi(z2)", raises),
        above("(b) contraction lowers: derivative", lowers),
        at_least("(c) as nu goes to 0 the sign flips at (1 - m) / sd = 1", limit, 1, "share right"),
        at_least("(d) one-sided test: contraction raises log TPR", one_sided),
    ]
