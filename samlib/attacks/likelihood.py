"""In and out moments of the shadow models' signals, and LiRA, which compares their Gaussians."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import log_ndtr

from samlib.checks import as_array, as_choice, as_member

_BLOCK = 1 << 17  # signals per block: 1 MB in float64, which stays in the cache over the passes
_FAR = 1e100  # squares of what lies further out, over a deviation of 1e-30, would overflow


class Moments(NamedTuple):
    """Per-example statistics of the shadow models that saw an example (in) and of those that did not (out).

    Deviations divide by n, not n - 1. A side without models is NaN.
    """

    mean_in: np.ndarray  # (n[, q])
    mean_out: np.ndarray  # (n[, q])
    std_in: np.ndarray  # (n[, q])
    std_out: np.ndarray  # (n[, q])
    n_in: np.ndarray  # (n,) models used on either side
    n_out: np.ndarray  # (n,)
    median_in: np.ndarray | None  # (n[, q]), on request
    median_out: np.ndarray | None
    low: float  # what stands for an infinite signal
    high: float


def moments(shadow, member, *, truncate=False, medians=False) -> Moments:
    """Moments of the shadow models' signals, for `lira`, `rmia`, `base` and `difficulty_calibration` to share.

    shadow (models, n[, q]) signals, member (models, n) masks. truncate uses, for every example, only the first m_in of
    its in models and the first m_out of its out models, where m_in and m_out are the smallest counts over examples
    (what the published LiRA script does); medians also computes the medians that variance="reference" centres on.

    An infinite signal (the logit of a saturated probability) counts as the largest (smallest) finite one of all models
    and examples, so that it does not swamp the deviations; as 1 (-1) where none is finite. No signal counts as more
    than 1e100 from zero.
    Raises ValueError for fewer than two models, NaN, and shapes that disagree.
    """
    return _moments("shadow", shadow, "member", member, truncate=truncate, medians=medians)


def lira(target, shadow, member=None, *, mode="online", variance="example", truncate=False) -> np.ndarray:
    """The likelihood-ratio attack (Carlini et al. 2022, algorithm 1) on logits log(p_y / (1 - p_y)).

    target (n[, q]) for one target model or (t, n[, q]) for several; shadow (models, n[, q]); member (models, n). Or
    shadow is a `Moments`, and member is left out. A trailing axis q holds queries (augmented views): log-likelihoods
    are averaged over it, as the published script does. Returns (n,) or (t, n), higher = more likely a member.

    mode
        "online": log N(target; in) - log N(target; out), the paper's eq. 2.
        "offline": the paper's one-sided test, eq. 4, against the out models alone. The score is -log Pr[Z > target],
        which orders as the paper's 1 - Pr[Z > target] and does not saturate at 1.
        "offline-two-sided": -log N(target; out), what the published script computes.
    variance
        "example": every example's own in and out deviations, around means. An example with a single model on a side
        takes that side's pooled deviation. (The published script with fix_variance=False has medians here.)
        "residual": one in and one out deviation, pooled over all examples after centring each on its own mean.
        "reference": the published script with fix_variance=True: medians as centres, and the deviation of all in
        signals together, uncentred, for both sides (offline: of all out signals).
    truncate
        Use only as many in (out) models per example as the example with the fewest has, as the published script does;
        default is all of them.

    1e-30 is added to each deviation, as in the published script. Infinite signals are clipped as `moments` says (for
    the target, at its own finite extremes where these lie further out).
    Raises ValueError for NaN, shapes that disagree, one shadow model, an example without in models (online) or without
    out models, and where no example has two models on a side that needs a deviation.
    """
    as_choice("mode", mode, ("online", "offline", "offline-two-sided"))
    as_choice("variance", variance, ("example", "residual", "reference"))
    m = _as_moments("shadow", shadow, "member", member, truncate=truncate, medians=variance == "reference")
    if variance == "reference" and m.median_out is None:
        raise ValueError("shadow must hold medians for variance='reference': build it with moments(..., medians=True).")
    _need_sides(m, online=mode == "online", name="member")
    rows, stacked = _targets("target", target, m.mean_out.shape)

    centre_in, centre_out = (m.mean_in, m.mean_out) if variance != "reference" else (m.median_in, m.median_out)
    std_out = _deviation(m.mean_out, m.std_out, m.n_out, variance, "out")
    if mode == "online":
        std_in = _deviation(m.mean_in, m.std_in, m.n_in, variance, "in")
        std_out = std_in if variance == "reference" else std_out

    scores = np.empty((len(rows), len(m.n_in)))
    for k, row in enumerate(rows):
        x = _finite(row, m.low, m.high)
        if mode == "online":
            score = _logpdf(x, centre_in, std_in) - _logpdf(x, centre_out, std_out)
        elif mode == "offline":
            score = -log_ndtr((centre_out - x) / std_out)
        else:
            score = -_logpdf(x, centre_out, std_out)
        scores[k] = score if score.ndim == 1 else score.mean(-1)
    return scores if stacked else scores[0]


def _deviation(mean, std, n, variance, side):
    if variance == "reference":
        # The deviation of everything together, from the parts: within examples plus between them.
        weight = n if std.ndim == 1 else n[:, None]
        total = n.sum() * (std.size // len(n))
        centre = (weight * mean).sum() / total
        return np.sqrt((weight * (std**2 + (mean - centre) ** 2)).sum() / total) + 1e-30
    if n.max() < 2:
        raise ValueError(f"member gives no example two {side} models: their deviation cannot be estimated.")
    weight = n if std.ndim == 1 else n[:, None]
    pooled = np.sqrt((weight * std**2).sum() / (n.sum() * (std.size // len(n))))
    if variance == "residual":
        return pooled + 1e-30
    return np.where(weight < 2, pooled, std) + 1e-30


def _logpdf(x, mean, std):
    return -0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)


def _moments(shadow_name, shadow, member_name, member, *, truncate=False, medians=False, deviations=True) -> Moments:
    truncate, medians = (bool(as_member(name, v, ndim=0)) for name, v in (("truncate", truncate), ("medians", medians)))
    x = as_array(shadow_name, shadow, ndim=(2, 3), infinite=True)
    member = as_member(member_name, member, ndim=2)
    if member.shape != x.shape[:2]:
        raise ValueError(
            f"{member_name} has shape {member.shape}, but {shadow_name} has shape {x.shape}: "
            "models and examples must agree."
        )
    if len(x) < 2:
        raise ValueError(f"{shadow_name} holds one model: at least two shadow models are needed.")
    n_models, n = member.shape
    low, high = float(x.min()), float(x.max())
    tame = low >= -_FAR and high <= _FAR
    if not tame:
        low, high = _finite_extremes(x)
    n_in = member.sum(0)
    counts = [n_in, n_models - n_in]
    most = [int(c.min()) if truncate else n_models for c in counts]

    narrow = np.float32 if x.dtype in (np.float16, np.float32) else np.float64
    found = [[np.full(x.shape[1:], np.nan) for _ in range(3)] for _ in counts]
    step = max(1, _BLOCK // (n_models * (x.size // member.size)))
    for start in range(0, n, step):
        block = slice(start, start + step)
        v = x[:, block].astype(np.float64) if tame else _finite(x[:, block], low, high)
        for mask, count, cap, (mean, std, median) in zip(
            (member[:, block], ~member[:, block]), counts, most, found, strict=True
        ):
            if cap < n_models:
                mask = mask & (np.cumsum(mask, 0, dtype=np.min_scalar_type(-n_models - 1)) <= cap)
            k = np.minimum(count[block], cap)
            k, mask = (k, mask) if v.ndim == 2 else (k[:, None], mask[..., None])
            w = mask.astype(np.float64)
            with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of a side without models
                mean[block] = np.einsum("k...,k...->...", w, v) / k
                if deviations:
                    residual = (v - mean[block]) * w
                    std[block] = np.sqrt(np.einsum("k...,k...->...", residual, residual) / k)
            if medians:
                median[block] = _median(np.where(mask, v, np.inf).astype(narrow), k)
    (mean_in, std_in, median_in), (mean_out, std_out, median_out) = found
    used_in, used_out = (np.minimum(count, cap) for count, cap in zip(counts, most, strict=True))
    if not medians:
        median_in = median_out = None
    return Moments(mean_in, mean_out, std_in, std_out, used_in, used_out, median_in, median_out, low, high)


def _median(v, k):
    """Medians over the k smallest models of v (models, n[, q])."""
    ranked = np.sort(np.ascontiguousarray(np.moveaxis(v, 0, -1)), axis=-1)
    k = np.broadcast_to(k, v.shape[1:])[..., None]
    lower, upper = (np.take_along_axis(ranked, np.maximum(i, 0), -1)[..., 0] for i in ((k - 1) // 2, k // 2))
    return np.where(k[..., 0] > 0, (lower.astype(np.float64) + upper) / 2, np.nan)


def _finite_extremes(x) -> tuple[float, float]:
    """The smallest and the largest finite value of x; -1 and 1 where there is none."""
    finite = np.isfinite(x)
    if not finite.any():
        return -1.0, 1.0
    return float(x.min(where=finite, initial=np.inf)), float(x.max(where=finite, initial=-np.inf))


def _finite(x, low, high) -> np.ndarray:
    """x in float64, an infinity replaced by the extreme of `low`, `high` and x's own finite values, all within _FAR."""
    v = x.astype(np.float64)
    infinite = np.isinf(v)
    if infinite.any():
        low = min(low, v.min(where=~infinite, initial=np.inf))
        high = max(high, v.max(where=~infinite, initial=-np.inf))
        v[infinite] = np.where(v[infinite] > 0, high, low)
    return v.clip(-_FAR, _FAR) if v.min() < -_FAR or v.max() > _FAR else v


def _as_moments(shadow_name, shadow, member_name, member, **options) -> Moments:
    if isinstance(shadow, Moments):
        if member is not None:
            raise ValueError(f"{member_name} must be left out where {shadow_name} is already Moments.")
        if as_member("truncate", options.get("truncate", False), ndim=0):
            raise ValueError("truncate must be given to moments() where shadow is already Moments.")
        return shadow
    if member is None:
        raise ValueError(f"{member_name} is missing: (models, examples), True where a model was trained on an example.")
    return _moments(shadow_name, shadow, member_name, member, **options)


def _need_sides(m: Moments, *, online: bool, name: str) -> None:
    lacking = int((m.n_out == 0).sum())
    if lacking:
        raise ValueError(
            f"{name}: {lacking} example(s) have no out model (all shadow models saw them): leave these out."
        )
    lacking = int((m.n_in == 0).sum()) if online else 0
    if lacking:
        raise ValueError(f"{name}: {lacking} example(s) have no in model, which mode='online' needs: leave these out.")


def _targets(name, target, shape) -> tuple[np.ndarray, bool]:
    """The target's signals as (t, n[, q]), and whether they came stacked like that."""
    x = as_array(name, target, infinite=True)
    if x.shape == (*shape, 1) and x.shape[1:] != shape:  # a column
        x = x[..., 0]
    if x.shape != shape and x.shape[1:] != shape:
        raise ValueError(f"{name} has shape {x.shape}, but the shadow models' examples have shape {shape}.")
    return (x, True) if x.ndim > len(shape) else (x[None], False)
