"""Moments of the shadow models' signals, and LiRA, which compares two Gaussians with these moments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from samlib.checks import FAR, as_array, as_choice, as_member, same_shape

_BLOCK = 1 << 17  # signals in a block: 1 MB in float64, which stays in the cache over all passes
EACH = slice(2)  # the axes of models and examples


class Moments(NamedTuple):
    """Statistics of each example's signals, over models that saw it (in) and models that did not (out).

    `moments` computes them. They are NaN on a side without models. Deviations divide by n, not by n - 1.
    """

    mean_in: np.ndarray  # (n[, q])
    mean_out: np.ndarray  # (n[, q])
    std_in: np.ndarray  # (n[, q])
    std_out: np.ndarray  # (n[, q])
    n_in: np.ndarray  # (n,) models used
    n_out: np.ndarray  # (n,)
    median_in: np.ndarray | None  # (n[, q]), on request
    median_out: np.ndarray | None
    low: float  # stands for a signal of -inf
    high: float  # stands for a signal of inf

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """n_in and n_out with as many dimensions as the means."""
        n_in, n_out = (n.reshape(-1, *[1] * (self.mean_out.ndim - 1)) for n in (self.n_in, self.n_out))
        return n_in, n_out


def moments(shadow, member, *, truncate=False, medians=False) -> Moments:
    """Compute the moments of the shadow models' signals once, for several attacks.

    `lira`, `rmia`, `base` and `difficulty_calibration` take the result in the place of `shadow`.

    Parameters
    ----------
    shadow : (models, n[, q]) array
        Signals of at least two shadow models on n examples. A third axis q holds queries (augmented views).
    member : (models, n) bool
        True where a shadow model was trained on an example.
    truncate : bool
        Use the same number of in (out) models for each example: the fewest that any has. The first ones are used, as in
        the published LiRA script.
    medians : bool
        Also compute the medians that `lira` needs for variance="reference".

    Returns
    -------
    Moments

    Raises
    ------
    ValueError
        If there are fewer than two models, a signal is NaN, or shapes disagree.

    Notes
    -----
    The logit of a saturated probability is infinite. Such a signal counts as the largest (smallest) finite signal of all
    models and examples, and at least as 1 (at most as -1). Else it would swamp the deviations. No signal counts as more than
    1e100 from zero.

    Examples
    --------
    >>> m = moments([[4.0, 1.0], [0.0, 2.0], [1.0, 6.0]], [[1, 0], [0, 0], [0, 1]])
    >>> m.mean_in, m.mean_out, m.n_out
    (array([4., 6.]), array([0.5, 1.5]), array([2, 2]))
    """
    return _moments(shadow, member, truncate=truncate, medians=medians)


def leave_one_out(signals, member) -> Callable[[int], Moments]:
    """Prepare moments that leave out one model, for attacks on each model with the others as shadows.

    Sums over all models are taken once. So a target costs as much as one model, not as much as all of them.

    Parameters
    ----------
    signals : (models, n) array
        Signals of at least three models on n examples.
    member : (models, n) bool
        True where a model was trained on an example.

    Returns
    -------
    function
        From a model's number to the `Moments` of the others, equal to those of `moments` to rounding.

    Raises
    ------
    ValueError
        As `moments` does.

    Examples
    --------
    >>> signals, member = [[4.0, 1.0], [0.0, 2.0], [1.0, 6.0]], [[1, 0], [0, 0], [0, 1]]
    >>> leave_one_out(signals, member)(0).mean_out
    array([0.5, 2. ])
    """
    x, member = as_array("signals", signals, ndim=2, infinite=True), as_member("member", member, ndim=2)
    if len(x) < 3:
        raise ValueError("signals must hold at least three models: each is attacked by two others.")
    whole, lows, highs = _moments(x, member), x.min(1), x.max(1)

    def without(k: int) -> Moments:
        others = partial(np.delete, obj=k, axis=0)
        if max(-float(lows.min()), float(highs.max())) > FAR:  # the others decide what replaces an infinite signal
            return _moments(others(x), others(member))
        row = x[k].astype(float)
        mean_in, std_in, n_in, lost_in = _without(row, member[k], whole.mean_in, whole.std_in, whole.n_in)
        mean_out, std_out, n_out, lost_out = _without(row, ~member[k], whole.mean_out, whole.std_out, whole.n_out)
        lost = lost_in | lost_out
        if lost.any():
            exact = _moments(others(x[:, lost]), others(member[:, lost]))
            std_in[lost], std_out[lost] = exact.std_in, exact.std_out
        low, high = float(others(lows).min()), float(others(highs).max())
        return Moments(mean_in, mean_out, std_in, std_out, n_in, n_out, None, None, low, high)

    return without


def _without(row, own, mean, std, n) -> tuple[np.ndarray, ...]:
    """Take `row` out of n signals where `own` is True: mean, deviation and number of the rest, and where std is lost.

    It is lost where rounding spoils it.
    """
    left = n - own
    away = np.where(own, row - mean, 0)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0 gives NaN on a side without models
        squares = n * std**2 - away**2 - away**2 / left
        std = np.where(own, np.sqrt(squares.clip(0) / left), std)
        return np.where(own, mean - away / left, mean), std, left, own & (squares < 1e-6 * away**2) & (left > 0)


def lira(target, shadow, member=None, *, mode="online", variance="example", truncate=False) -> np.ndarray:
    """The likelihood-ratio attack (LiRA; Carlini et al. 2022, algorithm 1), on logits log(p_y / (1 - p_y)).

    Parameters
    ----------
    target : (n[, q]) or (t, n[, q]) array
        Logits of one target model or of t models. An axis q holds queries (augmented views). The log-likelihoods are
        averaged over it, as in the published script.
    shadow : (models, n[, q]) array or Moments
        Logits of the shadow models.
    member : (models, n) bool, optional
        True where a shadow model was trained on an example. Leave it out if shadow is `Moments`.
    mode : str
        "online": log N(target; in) - log N(target; out), the paper's eq. 2.
        "offline": the paper's one-sided test against the out models alone, eq. 4. The score is -log Pr[Z > target]. It
        orders as the paper's 1 - Pr[Z > target] and does not saturate at 1.
        "offline-two-sided": -log N(target; out), as the published script computes.
    variance : str
        "example": each example's own in and out deviations, around means. If an example has a single model on a side,
        that side's pooled deviation is used. (The published script with fix_variance=False takes medians here.)
        "residual": one in and one out deviation, pooled over all examples after each is centred on its own mean.
        Deviations divide by the number of models, as numpy's do: with 8 models they are a tenth too small.
        "reference": the published script with fix_variance=True. The centres are medians. The deviation is that of all
        in signals together, uncentred, for both sides (offline: of all out signals).
    truncate : bool
        Use the same number of in (out) models for each example: the fewest that any has, as in the published script.

    Returns
    -------
    (n,) or (t, n) array
        Higher = more likely a member.

    Raises
    ------
    ValueError
        If a logit is NaN, shapes disagree, or there is one shadow model. Also if an example has no out models or
        (online) no in models. Also if no example has two models on a side that needs a deviation.

    Notes
    -----
    1e-30 is added to each deviation, as in the published script. Infinite logits are clipped as `moments` says. The
    target's are clipped at its own finite extremes if these are further out.

    Examples
    --------
    >>> member = np.arange(8)[:, None] % 2 == np.array([0, 1])
    >>> shadow = np.where(member, 3.0, 0.0) + np.linspace(-1, 1, 8)[:, None]
    >>> lira([3.0, 0.0], shadow, member).round(1)
    array([ 10. , -12.1])
    """
    as_choice("mode", mode, ("online", "offline", "offline-two-sided"))
    as_choice("variance", variance, ("example", "residual", "reference"))
    m = _as_moments(shadow, member, truncate=truncate, medians=variance == "reference")
    centre_in, centre_out = (m.median_in, m.median_out) if variance == "reference" else (m.mean_in, m.mean_out)
    if centre_out is None:
        raise ValueError("shadow must hold medians for variance='reference': build it with moments(..., medians=True).")
    _need_sides(m, online=mode == "online")
    rows, stacked = _targets("target", target, m.mean_out.shape)
    n_in, n_out = m.counts()
    std_out = _deviation(m.mean_out, m.std_out, n_out, variance, "out")
    if mode == "online":
        std_in = _deviation(m.mean_in, m.std_in, n_in, variance, "in")
        std_out = std_in if variance == "reference" else std_out

    def score(x):
        if mode == "online":
            return _logpdf(x, centre_in, std_in) - _logpdf(x, centre_out, std_out)
        return -log_ndtr((centre_out - x) / std_out) if mode == "offline" else -_logpdf(x, centre_out, std_out)

    return _scored((score(_finite(row, m.low, m.high)) for row in rows), stacked)


def _scored(each: Iterable[np.ndarray], stacked: bool) -> np.ndarray:
    """Average each target model's scores over queries; (t, n) if stacked, else (n,)."""
    scores = [score if score.ndim == 1 else score.mean(-1) for score in each]
    return np.stack(scores) if stacked else scores[0]


def _deviation(mean, std, n, variance, side):
    """The deviation of each example, or one for all; n is the number of models, broadcast to std."""
    total = n.sum() * (std.size // len(n))
    if variance == "reference":  # of all signals together: within examples, plus between them
        centre = (n * mean).sum() / total
        return np.sqrt((n * (std**2 + (mean - centre) ** 2)).sum() / total) + 1e-30
    if n.max() < 2:
        raise ValueError(f"member gives no example two {side} models: their deviation cannot be estimated.")
    pooled = np.sqrt((n * std**2).sum() / total)
    return (pooled if variance == "residual" else np.where(n < 2, pooled, std)) + 1e-30


def _logpdf(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def _moments(shadow, member, *, prefix="", truncate=False, medians=False) -> Moments:
    """`moments` of the arguments "<prefix>shadow" and "<prefix>member"."""
    truncate, medians = (bool(as_member(name, v, ndim=0)) for name, v in (("truncate", truncate), ("medians", medians)))
    shadow_name, member_name = f"{prefix}shadow", f"{prefix}member"
    x = as_array(shadow_name, shadow, ndim=(2, 3), infinite=True)
    member = as_member(member_name, member, ndim=2)
    same_shape(member_name, member, shadow_name, x, EACH)
    if len(x) < 2:
        raise ValueError(f"{shadow_name} holds one model: at least two shadow models are needed.")
    low, high = float(x.min()), float(x.max())
    if max(-low, high) > FAR:
        finite = x[np.isfinite(x)]
        low, high = float(finite.min(initial=-1)), float(finite.max(initial=1))
    sides = [member, ~member]
    if truncate:
        sides = [side & (side.cumsum(0) <= side.sum(0).min()) for side in sides]
    blocks, step = [], max(1, _BLOCK // (x.size // x.shape[1]))
    for start in range(0, x.shape[1], step):
        block = slice(start, start + step)
        v = _finite(x[:, block], low, high)
        blocks.append([part for side in sides for part in _side(v, side[:, block], medians)])
    mean_in, std_in, median_in, mean_out, std_out, median_out = map(np.concatenate, zip(*blocks, strict=True))
    n_in, n_out = (side.sum(0) for side in sides)
    m = Moments(mean_in, mean_out, std_in, std_out, n_in, n_out, median_in, median_out, low, high)
    return m if medians else m._replace(median_in=None, median_out=None)


def _side(v, mask, medians: bool) -> tuple[np.ndarray, ...]:
    """Mean, deviation and, on request, median of signals v (models, n[, q]) where mask (models, n) is True."""
    mask = mask.reshape(*mask.shape, *[1] * (v.ndim - 2))
    w, k = mask.astype(np.float64), mask.sum(0)
    with np.errstate(invalid="ignore"):  # 0 / 0 gives NaN on a side without models
        mean = np.einsum("k...,k...->...", w, v) / k
        residual = (v - mean) * w
        std = np.sqrt(np.einsum("k...,k...->...", residual, residual) / k)
    return mean, std, _median(np.where(mask, v, np.inf), k) if medians else mean


def _median(v, k):
    """Medians of the k smallest values over models, of v (models, n[, q])."""
    ranked = np.sort(np.ascontiguousarray(np.moveaxis(v, 0, -1)), axis=-1)
    k = np.broadcast_to(k, v.shape[1:])[..., None]
    lower, upper = (np.take_along_axis(ranked, np.maximum(i, 0), -1)[..., 0] for i in ((k - 1) // 2, k // 2))
    return np.where(k[..., 0] > 0, (lower + upper) / 2, np.nan)


def _finite(x, low, high) -> np.ndarray:
    """x in float64. Infinities become the extremes of low, high and x's finite values. All is clipped at FAR."""
    v = x.astype(np.float64)
    if max(-v.min(), v.max()) <= FAR:
        return v
    finite = np.isfinite(v)
    low, high = v.min(where=finite, initial=low), v.max(where=finite, initial=high)
    return np.where(finite, v, np.where(v > 0, high, low)).clip(-FAR, FAR)


def _as_moments(shadow, member, *, prefix="", **options) -> Moments:
    """The moments of shadow models, computed unless shadow holds them already."""
    if isinstance(shadow, Moments):
        if member is not None:
            raise ValueError(f"{prefix}member must be left out where {prefix}shadow is already Moments.")
        if as_member("truncate", options.get("truncate", False), ndim=0):
            raise ValueError("truncate must be given to moments() where shadow is already Moments.")
        return shadow
    if member is None:
        raise ValueError(f"{prefix}member is missing: (models, examples), True where a model trained on an example.")
    return _moments(shadow, member, prefix=prefix, **options)


def _need_sides(m: Moments, *, online: bool, prefix="") -> None:
    sides = {"out model (all shadow models saw them)": m.n_out, "in model, which mode='online' needs": m.n_in}
    for side, n in sides.items() if online else list(sides.items())[:1]:
        if without := int((n == 0).sum()):
            raise ValueError(f"{prefix}member: {without} example(s) have no {side}: leave these out.")


def _targets(name, target, shape) -> tuple[np.ndarray, bool]:
    """The target's signals as (t, n[, q]), and whether they were given with the axis t."""
    x = as_array(name, target, infinite=True)
    if x.shape == (*shape, 1) and x.shape[1:] != shape:  # a column
        x = x[..., 0]
    if x.shape != shape and x.shape[1:] != shape:
        raise ValueError(f"{name} has shape {x.shape}, but the shadow models' examples have shape {shape}.")
    return (x, True) if x.ndim > len(shape) else (x[None], False)
