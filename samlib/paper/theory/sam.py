"""Actual SAM: linear models (Proposition 5) and diagonal networks (experiments E1 and E2)."""

from collections.abc import Iterable

import numpy as np
from scipy.stats import ttest_rel

from samlib.checks import as_array, as_choice
from samlib.paper.descent import descend, offset_gradient, offset_loss, sam_gradient  # noqa: F401
from samlib.paper.theory.checking import above, directions, equal, least
from samlib.paper.theory.geometry import min_norm, summary
from samlib.paper.theory.model import DataModel, alignments, best_advantage
from samlib.paper.theory.samples import diagonal_alignments, match_g


def linear_descent(x, y, *, rho: float, lr: float, steps: int, start, batch_size=None) -> np.ndarray:
    """SGD (rho = 0) or SAM on the squared loss of a linear score (Proposition 5a).

    Parameters
    ----------
    x : (n, d) array
        Rows.
    y : (n,) array
        Targets.
    rho, lr : float
        Radius and learning rate.
    steps : int
    start : (d,) array_like
        Initial weights.
    batch_size : int, optional
        Rows in a batch, drawn with replacement; None is the full batch.

    Returns
    -------
    (d,) ndarray

    Examples
    --------
    >>> linear_descent(np.eye(2), np.ones(2), rho=0.0, lr=2.0, steps=1, start=[0, 0])
    array([1., 1.])
    """
    rng, n = np.random.default_rng(0), len(x)
    batches = rng.integers(0, n, (steps, batch_size)) if batch_size else np.tile(np.arange(n), (steps, 1))
    return descend(lambda w, b: (x[b] @ w - y[b]) @ x[b] / len(b), start, batches, rho=rho, lr=lr)


def diagonal_net(z, *, rho: float, lr: float, steps: int, init: float, full_batch=False, seeds=None) -> np.ndarray:
    """Train w = u^2 - v^2 to margin 1 by SGD or SAM, many runs at once.

    The loss is (margin - 1)^2 / 2, averaged over the batch.

    Parameters
    ----------
    z : (runs, n, d) array_like
        Signed training rows.
    rho, lr : float
        Radius and learning rate.
    steps : int
    init : float
        The initial value of each coordinate of (u, v).
    full_batch : bool
        Whether a step uses all rows. If not, it uses one row, drawn with replacement.
    seeds : sequence of int, optional
        The seed of each run's draws; 0, 1, ... by default.

    Returns
    -------
    (runs, d) ndarray
        The trained w.

    Raises
    ------
    ValueError
        If the number of seeds differs from the number of runs.

    Examples
    --------
    >>> diagonal_net(np.ones((1, 1, 1)), rho=0.0, lr=0.1, steps=500, init=0.3).round(6)
    array([[1.]])
    """
    z = as_array("z", z, ndim=3)
    runs, n, d = z.shape
    seeds = range(runs) if seeds is None else seeds
    if len(seeds) != runs:
        raise ValueError(f"seeds must hold one seed per run ({runs}), but it holds {len(seeds)}.")
    rows = np.concatenate([z, -z], axis=2)

    def of_row(theta, pick):
        t = theta * rows[np.arange(runs), pick]
        return 2 * ((t * theta).sum(1, keepdims=True) - 1) * t

    def of_all(theta, _):
        residual = rows @ (theta * theta)[..., None] - 1
        return 2 / n * theta * (residual.transpose(0, 2, 1) @ rows)[:, 0]

    picks = np.stack([np.random.default_rng(seed).integers(0, n, steps) for seed in seeds], axis=1)
    theta = descend(of_all if full_batch else of_row, np.full((runs, 2 * d), init), picks, rho=rho, lr=lr)
    return theta[:, :d] ** 2 - theta[:, d:] ** 2


E1_ROWS: dict[str, dict] = {
    "SGD": {"rho": 0.0, "lr": 0.02, "steps": 8_000},
    "GD": {"rho": 0.0, "lr": 0.03, "steps": 4_000, "full_batch": True},
    "SAM batch-1 rho=.05": {"rho": 0.05, "lr": 0.02, "steps": 20_000},
    "SAM full batch rho=.03": {"rho": 0.03, "lr": 0.03, "steps": 4_000, "full_batch": True},
    "SAM batch-1 rho=.3": {"rho": 0.3, "lr": 0.02, "steps": 20_000},
}
SMALL, FULL, LARGE = tuple(E1_ROWS)[2:]
BASELINES = {SMALL: "SGD", FULL: "GD", LARGE: "SGD"}


def e1(row: str, model: DataModel | None = None, seeds: Iterable[int] = range(6)):
    """One row of experiment E1's table.

    Parameters
    ----------
    row : str
        A key of `E1_ROWS`.
    model : DataModel, optional
    seeds : iterable of int
        One for each training sample.

    Returns
    -------
    dict of str to (seeds,) ndarray
        As `summary`, with "residual", the largest. "advantage" is that of the best threshold.

    Raises
    ------
    ValueError
        If the row is unknown.

    Examples
    --------
    >>> e1("SGD", seeds=[0])["residual"].shape
    (1,)
    """
    options = E1_ROWS[as_choice("row", row, tuple(E1_ROWS))]
    model = model or DataModel()
    z = np.stack([model.sample(seed).z for seed in seeds])
    w = diagonal_net(z, init=0.3, seeds=seeds, **options)
    align, margins = alignments(w, model), np.einsum("rnd,rd->rn", z, w)
    best = best_advantage(margins, *align, model.pi)
    return summary(align, model.pi) | {"advantage": best, "residual": np.abs(margins - 1).max(1)}


def experiment1(seeds: Iterable[int] = range(6), many: Iterable[int] = range(40)) -> dict[tuple[int, str], dict]:
    """E1's runs: {(q, row): `e1`}. At rho = .3 the last iterate is noisy, so this row and SGD also run on `many` seeds.

    Examples
    --------
    >>> runs = experiment1(range(2), range(2))  # doctest: +SKIP
    """
    plan = [(3, row) for row in E1_ROWS] + [(12, "SGD"), (12, SMALL)]
    runs = {(q, row): e1(row, DataModel(p=60 - q, q=q), seeds) for q, row in plan}
    return runs | {(3, f"{row}, more draws"): e1(row, seeds=many) for row in ("SGD", LARGE)}


def e2(rho: float, seeds: Iterable[int] = range(6), *, init: float = 1.0, steps: int = 8_000):
    """Experiment E2: full-batch SAM, compared with the exact minimum-norm interpolator of G = diag(g, 1, ..., 1) at the same M.

    Parameters
    ----------
    rho : float
        SAM's radius.
    seeds : iterable of int
        As for `e1`.
    init : float
        The initial weights' size.
    steps : int

    Returns
    -------
    dict of str to (seeds,) ndarray
        As `summary`, with "g" (the matched g), "A_gap" and "s_gap" (SAM minus the interpolator). "advantage" is Adv* by the
        formula for interpolators, at threshold 1.

    Examples
    --------
    >>> sorted(e2(0.0, seeds=[0], steps=500))[:3]
    ['A', 'A_gap', 'M']
    """
    model = DataModel()
    samples = [model.sample(seed) for seed in seeds]
    w = diagonal_net([sample.z for sample in samples], rho=rho, lr=0.01, steps=steps, init=init, full_batch=True)
    found = summary(alignments(w, model), model.pi)
    gs = [match_g(sample, model, M) for sample, M in zip(samples, found["M"], strict=True)]
    _, A, s = np.transpose([diagonal_alignments(sample, model, g) for sample, g in zip(samples, gs, strict=True)])
    return found | {"g": np.array(gs), "A_gap": found["A"] - A, "s_gap": found["s"] - s}


def check_proposition5(problems):
    """Proposition 5: (a) SGD and SAM stay in w_init + row(X) and share a limit; (b) eq. (13) gives batch-1 SAM's gradient."""
    rng = problems.rng
    for _ in range(problems.count(8)):
        x, y, start = rng.standard_normal((4, 12)), rng.choice([-1.0, 1.0], 4), rng.standard_normal(12)
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        there = [linear_descent(x, y, rho=rho, lr=0.3, steps=200, start=start, batch_size=1) for rho in (0.0, 0.5)]
        kernel = np.linalg.svd(x)[2][4:]
        yield equal("(a) iterates stay in w_init + row(X)", [kernel @ (w - start) for w in there], 1e-10)
        yield above("(a) SAM takes another path than SGD", np.linalg.norm(there[1] - there[0]) - 0.01, "distance - .01")
        # SAM with a fixed radius circles the solution, so SGD finishes both runs
        ends = [linear_descent(x, y, rho=0.0, lr=1.5, steps=2_000, start=w) for w in there]
        yield equal("(a) both reach interpolation: residuals", [x @ w - y for w in ends], 1e-8)
        goal = start + min_norm(x, y - x @ start, np.ones(12))
        yield equal("(a) ... at the same point", [w - goal for w in ends], 1e-6)
        for _ in range(50):
            phi, label = rng.standard_normal((1, 12)) * 10 ** rng.uniform(-1, 1), rng.choice([-1.0, 1.0], 1)
            w, rho = rng.standard_normal(12), rng.uniform(0, 3)
            found = sam_gradient(lambda v, phi=phi, label=label: offset_gradient(v, phi, label, 0.0), w, rho)
            off = (found - offset_gradient(w, phi, label, rho)) / np.linalg.norm(phi)
            yield equal("(b) batch-1 SAM's gradient is that of eq. (13) (relative)", off, 1e-12)


def check_experiment1(runs):
    """E1: the signs of SAM minus its baseline, on every draw; the boundary at q = 12; the reversal at rho = .3."""
    for q, row in ((3, SMALL), (3, FULL), (12, SMALL)):
        run, base = runs[q, row], runs[q, BASELINES[row]]
        signs = {"A": 1, "M": -1, "error": -1, "advantage": 1, "v": -1} if q == 3 else {"advantage": 1, "error": 1}
        yield from directions(f"q = {q}, {row}", {name: run[name] - base[name] for name in run}, **signs)
    base, other = (runs[3, f"{row}, more draws"] for row in ("SGD", LARGE))
    for name in ("error", "advantage"):
        yield least(f"{LARGE}: {name} falls on average", ttest_rel(base[name], other[name]).statistic, 2, "paired t")
    yield least("... where members are not pinned: mean largest residual", other["residual"].mean(), 0.1, "residual")
    yield equal("SGD and GD reach the same error", runs[3, "SGD"]["error"] - runs[3, "GD"]["error"], 0.002)


def check_experiment2(runs):
    """E2: SAM lies on the exact G-path; the matched g and Adv* rise with rho, on every draw."""
    gap = [np.stack([run["A_gap"], run["s_gap"]]) for run in runs.values()]
    yield equal("SAM's A and s are those of the G-path at the same M", gap, 0.01)
    rises = {name: np.diff([run[name] for run in runs.values()], axis=0) for name in ("g", "advantage")}
    yield from directions("with rho", rises, g=1, advantage=1)
