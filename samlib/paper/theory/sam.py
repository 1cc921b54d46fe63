"""Actual SAM: linear models (Proposition 5) and diagonal networks (experiments E1 and E2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy.special import expit

from samlib.checks import as_array
from samlib.paper.theory.geometry import diagonal_alignments, match_g
from samlib.paper.theory.model import DataModel, advantage, alignments, best_advantage, error, variance


def offset_loss(w, phi, y, rho: float) -> float:
    """Eq. (13) with the logistic loss: mean log(1 + exp(-(y <w, phi> - rho ||phi||))), phi (n, p), y (n,), w (p,)."""
    return float(np.logaddexp(0, rho * np.linalg.norm(phi, axis=1) - y * (phi @ w)).mean())


def offset_gradient(w, phi, y, rho: float) -> np.ndarray:
    """Gradient of `offset_loss`, (p,)."""
    slope = -expit(rho * np.linalg.norm(phi, axis=1) - y * (phi @ w))
    return (slope * y) @ phi / len(y)


def sam_gradient(gradient: Callable, w, rho: float) -> np.ndarray:
    """SAM's gradient (Foret et al. 2021, eq. 3): `gradient` at w + rho g / ||g||, g = gradient(w)."""
    g = gradient(w)
    norm = np.linalg.norm(g)
    return gradient(w + rho / norm * g) if rho > 0 and norm > 0 else g


def linear_descent(
    x, y, *, rho: float, lr: float, steps: int, start, batch_size: int | None = None, seed=0
) -> np.ndarray:
    """SGD or SAM on the squared loss of a linear score (Proposition 5a): x (n, d), y (n,), start (d,), to (d,)."""
    rng, w = np.random.default_rng(seed), np.array(start, float)
    for _ in range(steps):
        rows = slice(None) if batch_size is None else rng.integers(0, len(x), batch_size)
        xb, yb = x[rows], y[rows]
        w -= lr * sam_gradient(lambda v, xb=xb, yb=yb: (xb @ v - yb) @ xb / len(yb), w, rho)
    return w


def diagonal_net(
    z, *, rho: float, lr: float, steps: int, init: float, full_batch: bool = False, seeds: Iterable[int] | None = None
) -> np.ndarray:
    """Train w = u^2 - v^2, theta = (u, v), to margin 1 by SGD or SAM, many runs at once: z (runs, n, d) to w (runs, d).

    Loss (margin - 1)^2 / 2, averaged over the batch; batch of 1 drawn with replacement from default_rng(seed) (seeds
    default to 0, 1, ...), or `full_batch`. theta starts at `init` in every coordinate.
    """
    z = as_array("z", z, ndim=3)
    runs, n, d = z.shape
    seeds = list(range(runs) if seeds is None else seeds)
    if len(seeds) != runs:
        raise ValueError(f"seeds must hold one seed per run ({runs}), but it holds {len(seeds)}.")
    rows = np.concatenate([z, -z], axis=2)
    theta = np.full((runs, 2 * d), float(init))
    gradient = _full_gradient(rows) if full_batch else None
    picks = None if full_batch else np.stack([np.random.default_rng(s).integers(0, n, steps) for s in seeds], axis=1)
    for step in range(steps):
        if picks is not None:
            gradient = _row_gradient(rows[np.arange(runs), picks[step]])
        g = gradient(theta)
        if rho > 0:
            norm = np.sqrt(np.einsum("rd,rd->r", g, g))
            g = gradient(theta + (rho / np.maximum(norm, 1e-300))[:, None] * g)
        theta -= lr * g
    return theta[:, :d] ** 2 - theta[:, d:] ** 2


def _row_gradient(row):
    def gradient(theta):
        t = theta * row
        return (2 * (np.einsum("rd,rd->r", t, theta) - 1))[:, None] * t

    return gradient


def _full_gradient(rows):
    transposed = np.ascontiguousarray(rows.transpose(0, 2, 1))

    def gradient(theta):
        residual = (rows @ (theta * theta)[..., None]) - 1
        return (2 / rows.shape[1]) * theta * (transposed @ residual)[..., 0]

    return gradient


def measure(w, z, model: DataModel) -> dict[str, np.ndarray]:
    """M, A, s, error, best-threshold advantage, v and largest residual, each (runs,): w (runs, d), z (runs, n, d)."""
    align = alignments(w, model)
    margins = np.einsum("rnd,rd->rn", z, w)
    return align._asdict() | {
        "error": error(*align, model.pi),
        "advantage": best_advantage(margins, *align, model.pi),
        "v": variance(*align, model.pi),
        "residual": np.abs(margins - 1).max(1),
    }


E1_ROWS = {
    "SGD": {"rho": 0.0, "lr": 0.02, "steps": 8_000},
    "GD": {"rho": 0.0, "lr": 0.03, "steps": 4_000, "full_batch": True},
    "SAM batch-1 rho=.05": {"rho": 0.05, "lr": 0.02, "steps": 20_000},
    "SAM full batch rho=.03": {"rho": 0.03, "lr": 0.03, "steps": 4_000, "full_batch": True},
    "SAM batch-1 rho=.3": {"rho": 0.3, "lr": 0.02, "steps": 20_000},
}


def training_rows(model: DataModel, seeds=range(6)) -> np.ndarray:
    """The signed training rows of several samples, (seeds, n, d)."""
    return np.stack([model.sample(seed).z for seed in seeds])


def e1(row: str, model: DataModel | None = None, seeds=range(6), steps: int | None = None) -> dict[str, np.ndarray]:
    """One row of experiment E1's table (a key of `E1_ROWS`): `measure` per seed; `steps` replaces the table's number."""
    if row not in E1_ROWS:
        raise ValueError(f"row must be one of {', '.join(E1_ROWS)}, not {row!r}.")
    model = model or DataModel()
    z = training_rows(model, seeds)
    options = E1_ROWS[row] | ({} if steps is None else {"steps": steps})
    return measure(diagonal_net(z, init=0.3, seeds=seeds, **options), z, model)


def e2(rho: float, model: DataModel | None = None, seeds=range(6), *, init: float = 1.0, steps: int = 8_000):
    """Experiment E2: full-batch SAM beside the exact minimum-norm interpolator of G = diag(g, 1, ..., 1) at the same M.

    Returns `measure` per seed with "g" (the matched g), "A_gap" and "s_gap" (SAM minus the interpolator), and "advantage"
    replaced by the interpolator formula Adv* at threshold 1.
    """
    model = model or DataModel()
    samples = [model.sample(seed) for seed in seeds]
    z = np.stack([sample.z for sample in samples])
    result = measure(diagonal_net(z, rho=rho, lr=0.01, steps=steps, init=init, full_batch=True), z, model)
    g = np.array([match_g(sample, model, M) for sample, M in zip(samples, result["M"], strict=True)])
    exact = [diagonal_alignments(sample, model, value) for sample, value in zip(samples, g, strict=True)]
    result["advantage"] = advantage(result["M"], result["A"], result["s"], model.pi)
    result |= {name + "_gap": result[name] - [getattr(one, name) for one in exact] for name in ("A", "s")}
    return result | {"g": g}
