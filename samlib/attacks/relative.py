"""Attacks that set the target's probability of an example against its average over shadow models: RMIA and BASE."""

from __future__ import annotations

import numpy as np

from samlib.attacks.likelihood import Moments, _as_moments, _need_sides, _targets
from samlib.checks import as_array, as_choice, as_number

_TINY = np.finfo(np.float64).tiny


def rmia(
    target,
    shadow,
    member=None,
    *,
    population,
    population_shadow,
    population_member=None,
    mode="offline",
    gamma=1.0,
    a=0.33,
) -> np.ndarray:
    """The robust attack (RMIA; Zarifzadeh et al. 2024, algorithms 1 and 2), on probabilities of the true class.

    target (n[, q]) for one target model or (t, n[, q]) for several; shadow (models, n[, q]); member (models, n);
    population (z,) or (t, z), the targets' probabilities of population points; population_shadow (models, z);
    population_member (models, z), or None where no shadow model saw the population. shadow and population_shadow may
    each be `Moments`, without their masks. Returns (n,) or (t, n) in [0, 1], higher = more likely a member.

    The score is the share of population points z that x dominates: ratio_x >= gamma * ratio_z, where ratio is the
    target's probability over P. Ties count (the paper's Pr(LR >= gamma); the authors' privacy meter has >), and 0 / 0
    counts as 0. Found by one sort and a binary search, equal to comparing all pairs.

    mode "online": P(x) is the mean of the in mean and the out mean, each over its own models, so that unequal numbers
    do not weigh. A population point that lacks one side has the mean of the other.
    mode "offline": P = ((1 + a) P_out + 1 - a) / 2, with P_out the mean over the models that did not see the point; the
    same for x and z, as in the authors' code. (That code averages the larger half of the models' signals, those of in
    models set to 0: the out mean where a point is out of exactly half of the models, and too high a value for a
    population that no model saw.)
    Queries q: x dominates z where more than half of its queries do (the paper's majority vote).

    Raises ValueError for NaN, probabilities outside [0, 1], shapes that disagree, one shadow model, a not in [0, 1],
    gamma not above 0, an example without out models or (online) without in models, a population point without out
    models (offline).
    """
    as_choice("mode", mode, ("online", "offline"))
    a, gamma = as_number("a", a, 0, 1), as_number("gamma", gamma, 0, strict=True)
    shadow, population_shadow = (
        given if isinstance(given, Moments) else as_array(name, given, ndim=(2, 3))
        for name, given in (("shadow", shadow), ("population_shadow", population_shadow))
    )
    x = _probability_moments("shadow", shadow, "member", member)
    if population_member is None and not isinstance(population_shadow, Moments):
        population_member = np.zeros(population_shadow.shape[:2], bool)
    z = _probability_moments("population_shadow", population_shadow, "population_member", population_member)
    raw = not (isinstance(shadow, Moments) or isinstance(population_shadow, Moments))
    if raw and len(shadow) != len(population_shadow):
        raise ValueError(f"population_shadow holds {len(population_shadow)} models, but shadow holds {len(shadow)}.")
    if z.mean_out.ndim != 1:
        raise ValueError("population_shadow must be (models, z): population points have one query each.")
    _need_sides(x, online=mode == "online", name="member")
    if mode == "offline":
        _need_sides(z, online=False, name="population_member")
    rows, stacked = _targets("target", target, x.mean_out.shape)
    z_rows, z_stacked = _targets("population", population, z.mean_out.shape)
    if stacked != z_stacked or len(rows) != len(z_rows):
        raise ValueError(
            f"target and population must hold the same target models, but their shapes are {rows.shape} and "
            f"{z_rows.shape}."
        )
    _in_unit_range("target", rows)
    _in_unit_range("population", z_rows)

    p_x, p_z = _average(x, mode, a), _average(z, mode, a)
    scores = np.empty((len(rows), len(x.n_in)))
    for k, (row, z_row) in enumerate(zip(rows, z_rows, strict=True)):
        with np.errstate(over="ignore"):
            ratio_x, ratio_z = row / p_x, gamma * (z_row / p_z)
        if ratio_x.ndim == 2:
            # More than half of the queries reach a value exactly where this one, of the middle, does.
            ratio_x = np.sort(ratio_x, axis=1)[:, (ratio_x.shape[1] - 1) // 2]
        scores[k] = np.searchsorted(np.sort(ratio_z), ratio_x, side="right") / len(ratio_z)
    return scores if stacked else scores[0]


def base(target, shadow, member=None, *, mode="online", a=0.33) -> np.ndarray:
    """The Bayes-optimal attack by a log-mean-exp threshold (BASE; Lassila et al. 2025), on true-class probabilities.

    target (n[, q]) or (t, n[, q]); shadow (models, n[, q]); member (models, n); or shadow is `Moments` (of
    probabilities: the same that `rmia` takes). Returns (n,) or (t, n), higher = more likely a member.

    "online": log p - log mean_k p_k over all shadow models, the mean of exp(-loss); it orders as RMIA's ratio_x where
    every example is in half of the models. "offline": log p - a log mean_k p_k over the out models, the scale a making
    up for the in models that are missing. Averaged over queries; a probability of 0 counts as the smallest normal
    double. Raises ValueError as `rmia`.
    """
    as_choice("mode", mode, ("online", "offline"))
    a = as_number("a", a, 0, 1)
    m = _probability_moments("shadow", shadow, "member", member)
    rows, stacked = _targets("target", target, m.mean_out.shape)
    _in_unit_range("target", rows)
    if mode == "offline":
        _need_sides(m, online=False, name="member")
        bound = a * np.log(np.maximum(m.mean_out, _TINY))
    else:
        n_in, n_out = (n.reshape(-1, *[1] * (m.mean_out.ndim - 1)) for n in (m.n_in, m.n_out))
        total = n_in * np.nan_to_num(m.mean_in) + n_out * np.nan_to_num(m.mean_out)
        bound = np.log(np.maximum(total / (n_in + n_out), _TINY))
    scores = np.log(np.maximum(rows.astype(np.float64), _TINY)) - bound
    scores = scores if scores.ndim == 2 else scores.mean(-1)
    return scores if stacked else scores[0]


def _average(m: Moments, mode, a) -> np.ndarray:
    """P, the average probability over models with and without the example, floored above zero."""
    if mode == "offline":
        p = ((1 + a) * m.mean_out + 1 - a) / 2
    else:
        n_in, n_out = (n.reshape(-1, *[1] * (m.mean_out.ndim - 1)) for n in (m.n_in, m.n_out))
        p = np.where(n_in == 0, m.mean_out, np.where(n_out == 0, m.mean_in, (m.mean_in + m.mean_out) / 2))
    return np.maximum(p, _TINY)


def _probability_moments(shadow_name, shadow, member_name, member) -> Moments:
    if not isinstance(shadow, Moments):
        shadow = as_array(shadow_name, shadow, ndim=(2, 3))
        _in_unit_range(shadow_name, shadow)
    m = _as_moments(shadow_name, shadow, member_name, member, deviations=False)
    if m.low < 0 or m.high > 1 + 1e-5:
        raise ValueError(f"{shadow_name} must be moments of probabilities, but the signals span {m.low} to {m.high}.")
    return m


def _in_unit_range(name, p) -> None:
    low, high = p.min(), p.max()
    if low < 0 or high > 1 + 1e-5:  # a float32 softmax may round past one
        raise ValueError(f"{name} must hold probabilities in [0, 1], but it spans {low:.6g} to {high:.6g}.")
