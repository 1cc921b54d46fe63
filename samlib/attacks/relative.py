"""RMIA and BASE, which compare the target's probability of an example with its average over shadow models."""

from __future__ import annotations

import numpy as np

from samlib.attacks.likelihood import Moments, _as_moments, _need_sides, _scored, _targets
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

    Parameters
    ----------
    target : (n[, q]) or (t, n[, q]) array
        Probabilities of one target model or of t models. An axis q holds queries (augmented views).
    shadow : (models, n[, q]) array or Moments
        Probabilities of the shadow models.
    member : (models, n) bool, optional
        True where a shadow model was trained on an example. Leave it out if shadow is `Moments`.
    population : (z,) or (t, z) array
        The targets' probabilities of population points.
    population_shadow : (models, z) array or Moments
        The shadow models' probabilities of these points.
    population_member : (models, z) bool, optional
        True where a shadow model was trained on a population point. None means that none was.
    mode : str
        "online": P(x) is the mean of the in mean and the out mean. Each side has the same weight, whatever its number of
        models. If a population point lacks one side, P is the mean of the other.
        "offline": P = ((1 + a) P_out + 1 - a) / 2, as in the authors' code. P_out is the mean over models that did not
        see the point. This is the default here, while `lira` and `base` are online by default.
    gamma : float
        The factor, above 0, by which the example's ratio must exceed a population point's.
    a : float
        The offline correction, from 0 to 1.

    Returns
    -------
    (n,) or (t, n) array in [0, 1]
        The share of population points z that x dominates; higher means a likelier member. x dominates z if
        ratio_x >= gamma ratio_z. The ratio is the target's probability over P.

    Raises
    ------
    ValueError
        If a probability is NaN or outside [0, 1], or a or gamma is out of range. Also if shapes disagree, or there is one
        shadow model. Also if an example has no out models or (online) no in models. Offline also if a population point
        has no out models.

    Notes
    -----
    Ties count, as in the paper's Pr(LR >= gamma); the authors' privacy meter has >. 0 / 0 counts as 0. With queries, x
    dominates z if more than half of its queries do (the paper's majority vote). One sort and a binary search give the
    same scores as a comparison of all pairs.

    The authors' offline code sets the signals of in models to 0 and averages the larger half of all signals. This is the
    out mean if a point is out of exactly half of the models. If no model saw the population, the value is too high.

    Examples
    --------
    >>> shadow, member = [[0.9, 0.4], [0.2, 0.8]], [[1, 0], [0, 1]]
    >>> rmia([0.9, 0.3], shadow, member, population=[0.3, 0.6], population_shadow=[[0.3, 0.4], [0.3, 0.6]])
    array([1., 0.])
    """
    as_choice("mode", mode, ("online", "offline"))
    a, gamma = as_number("a", a, 0, 1), as_number("gamma", gamma, 0, strict=True)
    x, models = _probability_moments(shadow, member)
    z, z_models = _probability_moments(population_shadow, population_member, "population_")
    if None not in (models, z_models) and models != z_models:
        raise ValueError(f"population_shadow holds {z_models} models, but shadow holds {models}.")
    if z.mean_out.ndim != 1:
        raise ValueError("population_shadow must be (models, z): population points have one query each.")
    _need_sides(x, online=mode == "online")
    if mode == "offline":
        _need_sides(z, online=False, prefix="population_")
    rows, stacked = _targets("target", target, x.mean_out.shape)
    z_rows, z_stacked = _targets("population", population, z.mean_out.shape)
    if stacked != z_stacked or len(rows) != len(z_rows):
        said = f"their shapes are {rows.shape} and {z_rows.shape}"
        raise ValueError(f"target and population must hold the same target models, but {said}.")
    _in_unit_range("target", rows)
    _in_unit_range("population", z_rows)

    p_x, p_z = _average(x, mode, a), _average(z, mode, a)

    def score(row, z_row):
        with np.errstate(over="ignore"):
            ratio_x, ratio_z = row / p_x, gamma * (z_row / p_z)
        if ratio_x.ndim == 2:
            # more than half of the queries reach a value exactly if the middle one does
            ratio_x = np.sort(ratio_x, axis=1)[:, (ratio_x.shape[1] - 1) // 2]
        return np.searchsorted(np.sort(ratio_z), ratio_x, side="right") / len(ratio_z)

    return _scored(map(score, rows, z_rows), stacked)


def base(target, shadow, member=None, *, mode="online", a=0.33) -> np.ndarray:
    """The Bayes-optimal attack by a log-mean-exp threshold (BASE; Lassila et al. 2025), on true-class probabilities.

    Parameters
    ----------
    target : (n[, q]) or (t, n[, q]) array
        Probabilities of one target model or of t models. The result is averaged over queries q.
    shadow : (models, n[, q]) array or Moments
        Probabilities of the shadow models; `rmia` takes the same moments.
    member : (models, n) bool, optional
        True where a shadow model was trained on an example. Leave it out if shadow is `Moments`.
    mode : str
        "online": log p - log mean_k p_k over all shadow models, the mean of exp(-loss). It orders as RMIA's ratio_x if
        each example is in half of the models.
        "offline": log p - a log mean_k p_k over the out models. The scale a makes up for the missing in models.
    a : float
        The offline scale, from 0 to 1.

    Returns
    -------
    (n,) or (t, n) array
        Higher = more likely a member. A probability of 0 counts as the smallest normal double.

    Raises
    ------
    ValueError
        If a probability is NaN or outside [0, 1], or a is out of range. Also if shapes disagree, or there is one shadow
        model. Offline also if an example has no out models.

    Examples
    --------
    >>> base([0.8, 0.25], [[0.6, 0.5], [0.2, 0.5]], [[1, 0], [0, 1]]).round(3)
    array([ 0.693, -0.693])
    """
    as_choice("mode", mode, ("online", "offline"))
    a = as_number("a", a, 0, 1)
    m, _ = _probability_moments(shadow, member)
    rows, stacked = _targets("target", target, m.mean_out.shape)
    _in_unit_range("target", rows)
    if mode == "offline":
        _need_sides(m, online=False)
        bound = a * np.log(np.maximum(m.mean_out, _TINY))
    else:
        n_in, n_out = m.counts()
        total = n_in * np.nan_to_num(m.mean_in) + n_out * np.nan_to_num(m.mean_out)
        bound = np.log(np.maximum(total / (n_in + n_out), _TINY))
    return _scored((np.log(np.maximum(row.astype(np.float64), _TINY)) - bound for row in rows), stacked)


def _average(m: Moments, mode, a) -> np.ndarray:
    """P, the average probability over models with and without the example, kept above zero."""
    if mode == "offline":
        p = ((1 + a) * m.mean_out + 1 - a) / 2
    else:
        n_in, n_out = m.counts()
        p = np.where(n_in == 0, m.mean_out, np.where(n_out == 0, m.mean_in, (m.mean_in + m.mean_out) / 2))
    return np.maximum(p, _TINY)


def _probability_moments(shadow, member, prefix="") -> tuple[Moments, int | None]:
    """Moments of probabilities, and the number of models unless shadow is `Moments` already."""
    models = None
    if not isinstance(shadow, Moments):
        shadow = as_array(f"{prefix}shadow", shadow, ndim=(2, 3))
        _in_unit_range(f"{prefix}shadow", shadow)
        models = len(shadow)
        if prefix and member is None:  # no model saw the population
            member = np.zeros(shadow.shape[:2], bool)
    m = _as_moments(shadow, member, prefix=prefix)
    if m.low < 0 or m.high > 1 + 1e-5:
        raise ValueError(f"{prefix}shadow must be moments of probabilities, but signals span {m.low} to {m.high}.")
    return m, models


def _in_unit_range(name, p) -> None:
    low, high = p.min(), p.max()
    if low < 0 or high > 1 + 1e-5:  # a float32 softmax may round past one
        raise ValueError(f"{name} must hold probabilities in [0, 1], but it spans {low:.6g} to {high:.6g}.")
