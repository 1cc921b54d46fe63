"""Checks of Proposition 5 and of experiments E1 and E2, which train. Each returns a list of `Check`."""

from __future__ import annotations

import numpy as np
from scipy.stats import ttest_rel

from samlib.paper.theory import sam
from samlib.paper.theory.geometry import min_norm
from samlib.paper.theory.model import DataModel
from samlib.paper.theory.verify.table import Check, above, at_least, equal

E1_TABLE = (
    *((3, row) for row in ("SGD", "GD", "SAM batch-1 rho=.05", "SAM full batch rho=.03", "SAM batch-1 rho=.3")),
    *((12, row) for row in ("SGD", "SAM batch-1 rho=.05")),
)


def proposition5(trials: int = 8, seed: int = 0) -> list[Check]:
    """(a) Row space, and the common limit; (b) batch-1 SAM's gradient is that of eq. (13)."""
    rng = np.random.default_rng(seed)
    leak, limit, gradient = [], [], []
    for k in range(trials):
        n, d = 4, 12
        x, y, start = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n), rng.standard_normal(d)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        goal = start + min_norm(x, y - x @ start, np.ones(d))
        kernel = np.linalg.svd(x)[2][n:]
        for rho in (0.0, 0.5):
            for size in (1, None):
                w = sam.linear_descent(x, y, rho=rho, lr=0.3, steps=500, start=start, batch_size=size, seed=k)
                leak.append(np.abs(kernel @ (w - start)).max())
                # what separates it from the common point is its residual alone: none, no distance
                left = w - goal - np.linalg.pinv(x) @ (x @ w - y)
                limit.append(np.abs(left).max())
        for _ in range(50):
            phi, label = rng.standard_normal((1, d)) * 10 ** rng.uniform(-1, 1), rng.choice([-1.0, 1.0], 1)
            w, rho = rng.standard_normal(d), rng.uniform(0, 3)
            plain = lambda v, phi=phi, label=label: sam.offset_gradient(v, phi, label, 0.0)  # noqa: E731
            there = sam.offset_gradient(w, phi, label, rho)
            gradient.append((sam.sam_gradient(plain, w, rho) - there) / np.linalg.norm(phi))
    return [
        equal("(a) iterates stay in w_init + row(X)", leak, 1e-10),
        equal("(a) distance to the common interpolator is the residual's", limit, 1e-6),
        equal("(b) batch-1 SAM's gradient is that of eq. (13) (relative)", np.concatenate(gradient), 1e-12),
    ]


def experiment1(seeds=range(6), many=range(40)) -> tuple[dict[tuple[int, str], dict[str, np.ndarray]], list[Check]]:
    """E1's runs, {(q, row): measure: (seeds,)}: the signs of SAM minus its own baseline on every seed, the boundary at
    q = 12, and the reversal at rho = .3, whose last iterate is noisy: a paired t-test over the seeds `many`.
    """
    runs = {(q, row): sam.e1(row, DataModel(p=60 - q, q=q), seeds) for q, row in E1_TABLE}
    small, full, large = "SAM batch-1 rho=.05", "SAM full batch rho=.03", "SAM batch-1 rho=.3"
    checks = []
    for row, base in ((small, "SGD"), (full, "GD")):
        for name, sign in (("A", 1), ("M", -1), ("error", -1), ("advantage", 1), ("v", -1)):
            verb = "rises" if sign > 0 else "falls"
            change = sign * (runs[3, row][name] - runs[3, base][name])
            checks.append(above(f"{row}: {name} {verb} on every draw", change, "least change"))
    checks += [
        above(
            f"q = 12, {small}: {name} rises on every draw",
            runs[12, small][name] - runs[12, "SGD"][name],
            "least change",
        )
        for name in ("advantage", "error")
    ]
    base, other = (sam.e1(row, seeds=many) for row in ("SGD", large))
    checks += [
        at_least(f"{large}: {name} falls on average", ttest_rel(base[name], other[name]).statistic, 2, "paired t")
        for name in ("error", "advantage")
    ]
    return runs, [
        *checks,
        at_least("... where members are not pinned: mean largest residual", other["residual"].mean(), 0.1, "residual"),
        equal("SGD and GD reach the same error", runs[3, "SGD"]["error"] - runs[3, "GD"]["error"], 0.002),
    ]


def experiment2(
    rhos=(0.0, 0.02, 0.03, 0.04), seeds=range(6), **options
) -> tuple[dict[float, dict[str, np.ndarray]], list[Check]]:
    """E2's runs, {rho: measure: (seeds,)}, and how far SAM is from the exact G-path at the same M."""
    runs = {rho: sam.e2(rho, seeds=seeds, **options) for rho in rhos}
    gap = np.concatenate([np.concatenate([run["A_gap"], run["s_gap"]]) for run in runs.values()])
    g = np.stack([run["g"] for run in runs.values()])
    rise = np.diff(np.stack([run["advantage"] for run in runs.values()]), axis=0)
    return runs, [
        equal("SAM's A and s are those of the G-path at the same M", gap, 0.01),
        above("the matched g rises with rho, on every seed", np.diff(g, axis=0), "least rise"),
        above("Adv* rises with rho, on every seed", rise, "least rise"),
    ]
