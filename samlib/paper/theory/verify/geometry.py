"""Checks of Theorem 3, its warning, Propositions 3 and 4, and the G-path. Each returns a list of `Check`."""

from __future__ import annotations

import numpy as np
from scipy.stats import binom, chi2, kstest

from samlib.paper.theory import geometry as g
from samlib.paper.theory.model import DataModel, advantage, alignments
from samlib.paper.theory.verify.alignment import random_model
from samlib.paper.theory.verify.table import Check, above, at_least, equal, likely

ETAS = np.array([0, 0.1, 0.3, 1, 3, 10, 30])


def random_problem(rng, rank: int | None = None):
    """x (n, d), y (n,), Sigma (d, d) of the given rank (full by default), from `rng`."""
    n = int(rng.integers(2, 9))
    d = n + int(rng.integers(2, 15))
    factor = rng.standard_normal((d, rank or d + 2)) * np.exp(rng.normal(size=(d, 1)))
    return rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n), factor @ factor.T / factor.shape[1]


def theorem3(trials: int = 60, seed: int = 0) -> list[Check]:
    """Monotone v and norm, the KKT conditions, the derivative (iii), the limit (iv), the dichotomy (ii)."""
    rng = np.random.default_rng(seed)
    fall, growth, strict, kkt, slope, limit, fixed = ([] for _ in range(7))
    for k in range(trials):
        x, y, Sigma = random_problem(rng, rank=None if k % 3 else 2)
        path = g.contraction(x, y, Sigma, ETAS)
        kernel = np.linalg.svd(x)[2][len(x) :]
        scale = path.v[0]
        fall.append(-np.diff(path.v) / scale)
        growth.append(np.diff(path.squared_norm) / path.squared_norm[0])
        turns = np.linalg.norm(kernel @ Sigma @ path.w[0]) > 1e-8 * scale
        strict.append((-np.diff(path.v) > 0).all() == turns)
        G = np.eye(len(Sigma)) + ETAS[:, None, None] * Sigma
        pull = np.einsum("kde,ke->kd", G, path.w)
        kkt.append(np.abs(pull @ kernel.T).max(1) / np.linalg.norm(pull, axis=1))
        for eta in (0.3, 3.0):
            h = 1e-4 * eta
            low, high = g.contraction(x, y, Sigma, [eta - h, eta + h]).v
            exact = g.contraction_derivative(x, y, Sigma, eta)
            slope.append(((high - low) / (2 * h) - exact) / abs(exact))
        if k % 3:
            wanted = g.contraction_limit(x, y, Sigma)
            limit.append((g.contraction(x, y, Sigma, [1e9]).v[0] - wanted) / wanted)
        # Sigma whose pull on w_0 stays in the row space: every w_eta is w_0
        basis = np.linalg.qr(x.T)[0]
        core = rng.standard_normal((len(x), len(x)))
        apart = basis @ core @ core.T @ basis.T + kernel.T @ kernel * rng.uniform(0.1, 3)
        still = g.contraction(x, y, apart, ETAS)
        fixed.append(np.abs(still.w - still.w[0]).max() / np.abs(still.w).max())
    return [
        at_least("(i) v never rises", np.concatenate(fall), -1e-7, "least relative fall"),
        at_least("(i) the norm never falls", np.concatenate(growth), -1e-7, "least relative growth"),
        at_least(
            "(ii) v falls strictly if and only if the kernel part of Sigma w_0 is not 0", strict, 1, "share right"
        ),
        equal("(ii) otherwise w_eta stays w_0 (relative)", fixed, 1e-9),
        equal("KKT: G w is orthogonal to ker X (relative)", np.concatenate(kkt), 1e-7),
        equal("(iii) v' against central differences (relative)", slope, 1e-5),
        equal("(iv) limit of v (relative)", limit, 1e-6),
    ]


def no_contraction(trials: int = 40, seed: int = 0) -> list[Check]:
    """The warning: with the training Gram matrix, or the identity, v does not move; with population curvature it does."""
    rng, gram, identity, population = np.random.default_rng(seed), [], [], []
    for _ in range(trials):
        model = random_model(rng, sigma_par=0)
        z, y = model.sample(rng).z, np.ones(model.n)
        for Sigma, into in ((z.T @ z / len(z), gram), (np.eye(model.d), identity), (model.second_moment, population)):
            v = g.contraction(z, y, Sigma, ETAS).v
            into.append(v / v[0] - 1)
    return [
        equal("Gram matrix: v stays (relative)", np.concatenate(gram), 1e-9),
        equal("identity: v stays (relative)", np.concatenate(identity), 1e-9),
        above(
            "population curvature: v falls (relative, at the largest eta)", -np.array(population)[:, -1], "least fall"
        ),
    ]


def path_table(model: DataModel | None = None, etas=(0, 1, 2, 5, 30), seeds=range(6)) -> dict[str, np.ndarray]:
    """The exact G-path of the book's table: each measure (seeds, etas)."""
    return g.g_path(model or DataModel(), etas, seeds)


def path(trials: int = 6, seed: int = 0) -> list[Check]:
    """On every draw along the table's path: v and M fall, A, s and Adv* rise, Adv* >= 1 - v; the error turns."""
    table = path_table(seeds=range(seed, seed + trials))
    rises = {name: np.diff(values, axis=1) for name, values in table.items()}
    turn = np.minimum(table["error"][:, 0], table["error"][:, -1]) - table["error"].min(1)
    return [
        *(above(f"{name} falls on every draw", -rises[name], "least fall") for name in ("v", "M")),
        *(above(f"{name} rises on every draw", rises[name], "least rise") for name in ("A", "s", "advantage")),
        at_least("Adv* >= 1 - v", table["advantage"] - (1 - table["v"])),
        above("the error falls first, and then rises", turn, "least depth"),
    ]


def proposition3(trials: int = 300, seed: int = 0) -> list[Check]:
    """The 2 x 2 reduction against the interpolator in d dimensions; V's Wishart law; the bound and its tail."""
    rng = np.random.default_rng(seed)
    off, slack = [], []
    for _ in range(40):
        model = random_model(rng, sigma_par=0)
        sample, eta = model.sample(rng), 10 ** rng.uniform(-2, 2)
        V, D = g.group_wishart(sample, model), g.plane_metric(model, eta)
        found = g.reduction(V, D, model)
        w = g.min_norm(sample.z, np.ones(model.n), np.eye(model.d) + eta * model.second_moment)
        exact = alignments(w, model)
        off.append([*(found.theta - w[:2]), found.s - exact.s] / np.linalg.norm(w))
        lam = g.spread(model)
        epsilon = np.linalg.norm(V / lam - np.eye(2), 2)
        if epsilon < 1:
            bar = g.reduction(lam * np.eye(2), D, model).theta
            slack.append(g.reduction_bound(epsilon, D, model) - np.linalg.norm(found.theta - bar))
    model = DataModel(d=60, p=17, q=3)
    V = np.stack([g.group_wishart(model.sample(rng), model) for _ in range(trials)]) / model.sigma**2
    free = model.d - model.n
    angle = rng.uniform(0, np.pi, trials)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    laws = {
        "u'V u is chi^2(d - n)": (np.einsum("ki,kij,kj->k", direction, V, direction), chi2(free)),
        "1 / (V^-1)_11 is chi^2(d - n - 1)": (1 / np.linalg.inv(V)[:, 0, 0], chi2(free - 1)),
    }
    model = DataModel(d=2_000, p=17, q=3)
    wide = DataModel(d=400, p=17, q=3)
    x = 2.0
    epsilon, probability = g.wishart_tail(x, wide)
    V = np.stack([g.group_wishart(wide.sample(rng), wide) for _ in range(trials)])
    inside = (np.linalg.norm(V / g.spread(wide) - np.eye(2), 2, axis=(1, 2)) <= epsilon).sum()
    return [
        equal("the reduction is exact (theta and s, relative)", off, 1e-9),
        *(likely(f"{name}", kstest(values, law.cdf).pvalue, trials) for name, (values, law) in laws.items()),
        at_least("bound on ||theta - theta_bar||", slack),
        likely("the tail holds as often as stated", binom.cdf(inside, trials, probability), trials),
    ]


def random_matched(rng, **fixed) -> DataModel:
    """A model of Proposition 4: sigma_par = 0 and p a >= q c."""
    while True:
        model = random_model(rng, sigma_par=0, **fixed)
        if model.p * model.a >= model.q * model.c:
            return model


def proposition4(trials: int = 200, seed: int = 0) -> list[Check]:
    """Eq. (11) against the reduction with V = lambda I; the rate; monotone M, A, s; Adv*'s rise and ceiling; A <= 0."""
    rng = np.random.default_rng(seed)
    weights = np.logspace(-2, 3, 101)
    formula, rate, M_falls, A_rises, s_rises, still, rise, ceiling, minority = ([] for _ in range(9))
    for k in range(trials):
        model = random_matched(rng, **({"c": 0.0} if k % 5 == 0 else {}))
        M, A, s = path = g.proposition4(weights, model)
        for i in (0, 50, 100):
            direct = g.reduction(g.spread(model) * np.eye(2), np.diag([weights[i], 1.0]), model)
            wanted = [direct.theta[0] * model.a, direct.theta[1] * model.b - direct.theta[0] * model.c, direct.s]
            formula.append([part[i] for part in path] - np.array(wanted))
        M_falls.append(-np.diff(M))
        s_rises.append(np.diff(s))
        if model.c == 0:
            still.append(np.ptp(A))
            continue
        A_rises.append(np.diff(A))
        # M moves by kappa times A, over the whole path, so that no difference cancels
        rate.append((M[0] - M[-1]) / (g.proposition4_rate(model) * (A[-1] - A[0])) - 1)
        low = A[1:] <= 0
        minority.append(np.diff(A / s)[low])
        # with the population's share of minority points equal to the sample's
        if model.q / model.n < 0.5:
            adv = advantage(M, A, s, model.q / model.n)
            before, after = M[1:] > A[1:], M[:-1] < A[:-1]
            rise += [np.diff(adv)[before], -np.diff(adv)[after]]
            ceiling.append(g.advantage_ceiling(model) - adv.max())
    return [
        equal("eq. (11)", formula, 1e-10),
        above("M falls with g", np.concatenate(M_falls), "least fall"),
        above("A rises with g where c > 0", np.concatenate(A_rises), "least rise"),
        equal("A stays where c = 0", still, 1e-10),
        above("s rises with g", np.concatenate(s_rises), "least rise"),
        equal("the exchange rate is constant (relative)", rate, 1e-8),
        at_least("Adv* rises while M > A and falls after", np.concatenate(rise), -1e-13, "least change"),
        at_least("Adv* never exceeds its ceiling", ceiling, -1e-12),
        above("A / s rises while A <= 0", np.concatenate(minority), "least rise"),
    ]
