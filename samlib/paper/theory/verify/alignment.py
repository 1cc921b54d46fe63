"""Checks of Definitions 1 to 4, Lemmas 1 to 3, Propositions 1 and 2, Theorems 1 and 2, Corollary 1, counterexamples.

Each function draws its random parameters from `seed`, `trials` of them, and returns a list of `Check`.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr, ndtr
from scipy.stats import binom

from samlib.paper.theory import model as setup
from samlib.paper.theory import order
from samlib.paper.theory.model import DataModel, alignments
from samlib.paper.theory.verify.table import Check, above, at_least, equal, estimated, likely


def random_model(rng, **fixed) -> DataModel:
    """A data model with random sizes, means, noise and share of minority; `fixed` fields are kept."""
    p, q = int(rng.integers(4, 16)), int(rng.integers(1, 6))
    fields = {
        "d": p + q + int(rng.integers(4, 30)), "p": p, "q": q, "a": rng.uniform(0.5, 2), "b": rng.uniform(0.5, 2),
        "c": rng.uniform(0, 1.5), "sigma": rng.uniform(0.1, 1), "sigma_par": rng.choice([0, rng.uniform(0.05, 1)]),
        "pi": rng.uniform(0.02, 0.48),
    }  # fmt: skip
    return DataModel(**(fields | fixed))


def random_interpolator(rng, z) -> np.ndarray:
    """The minimum-norm interpolator of z (n, d) plus a random kernel direction of comparable size, (d,)."""
    w = np.linalg.lstsq(z, np.ones(len(z)), rcond=None)[0]
    kernel = np.linalg.svd(z)[2][len(z) :]
    return w + rng.uniform(0, 1) * np.linalg.norm(w) * (rng.standard_normal(len(kernel)) @ kernel) / len(kernel) ** 0.5


def random_pairs(rng, trials: int) -> dict[str, np.ndarray]:
    """Random MSA-ordered pairs of alignments with Gaussian nuisance: M1 <= M2, A1 > A2, shared s, and pi; each (trials,)."""
    M1, A2 = rng.uniform(-0.2, 1.3, trials), rng.uniform(-1, 1, trials)
    return {
        "M1": M1, "A1": A2 + 10 ** rng.uniform(-3, 0, trials), "M2": M1 + 10 ** rng.uniform(-3, 0, trials), "A2": A2,
        "s": 10 ** rng.uniform(-1.5, 0.3, trials), "pi": rng.uniform(0.01, 0.49, trials),
    }  # fmt: skip


def log_mass(low, high, s) -> np.ndarray:
    """log of the N(0, s^2) mass of (low, high], exact in the tails, where the mass itself rounds to 0."""
    flip = low + high > 0  # the upper tail by symmetry
    u, v = np.where(flip, -high, low) / s, np.where(flip, -low, high) / s
    return log_ndtr(v) + np.log(-np.expm1(log_ndtr(u) - log_ndtr(v)))


def definition1(trials: int = 100_000, seed: int = 0) -> list[Check]:
    """The laws of fresh margins, and err, Adv*, v, against a sample of `trials` fresh points."""
    rng = np.random.default_rng(seed)
    model = DataModel(d=40, p=14, q=4, sigma=0.4, sigma_par=0.2, pi=0.2)
    w = random_interpolator(rng, model.sample(seed).z)
    M, A, s = alignments(w, model)
    fresh = model.fresh(trials, seed=rng)
    margin = fresh.z @ w
    checks = []
    for name, rows, mean in (("majority", ~fresh.minority, M), ("minority", fresh.minority, A)):
        part = margin[rows]
        checks += [
            estimated(f"{name} margins have the stated mean", part.mean(), mean, s / len(part) ** 0.5),
            estimated(f"{name} margins have deviation s", part.std(), s, s / (2 * len(part)) ** 0.5),
        ]
    for name, found, exact in (
        ("err", margin <= 0, setup.error(M, A, s, model.pi)),
        ("Adv*", margin < 1, setup.advantage(M, A, s, model.pi)),
    ):
        checks.append(estimated(f"{name} of its formula", found.mean(), exact, (exact * (1 - exact) / trials) ** 0.5))
    second = margin**2
    checks.append(estimated("v is the variance of f", second.mean(), setup.variance(M, A, s, model.pi),
                            second.std() / trials**0.5))  # fmt: skip
    return checks


def remark1(trials: int = 50_000, seed: int = 0) -> list[Check]:
    """Minority accuracy is F_B(A) for noise that is not Gaussian: uniform on a sphere, whose F_B is a cap's measure."""
    rng, dim, radius = np.random.default_rng(seed), 12, 2.0
    xi = rng.standard_normal((trials, dim))
    xi *= radius / np.linalg.norm(xi, axis=1, keepdims=True)
    w = rng.standard_normal(dim)
    w /= np.linalg.norm(w)
    A = np.linspace(-0.9, 0.9, 7) * radius
    upper = setup.cap_measure(np.abs(A) / radius, dim)
    exact = np.where(A > 0, 1 - upper, upper)
    found = (A[:, None] + xi @ w > 0).mean(1)
    return [estimated("minority accuracy is F_B(A), sphere noise", found, exact, (exact * (1 - exact) / trials) ** 0.5)]


def definition2(trials: int = 20, seed: int = 0) -> list[Check]:
    """The order holds where it should, is reflexive and transitive, and fails if one of its four conditions does."""
    rng, right = np.random.default_rng(seed), []
    for _ in range(trials):
        model = random_model(rng)
        z, big = model.sample(rng).z, 50.0
        first, second, third = (setup.matched_interpolator(z, model, 0.9 - t, t, big) for t in (0.4, 0.2, 0.0))
        holds = lambda u, v, z=z, model=model: order.msa_at_least(u, v, z, model, 1e-7)  # noqa: E731
        right += [holds(first, second), holds(second, third), holds(first, third), holds(first, first)]
        free, unmatched = first + 0.1, setup.matched_interpolator(z, model, 0.5, 0.4, 2 * big)
        aligned = setup.matched_interpolator(z, model, 0.95, 0.4, big)
        right += [not holds(second, first), not holds(free, first), not holds(unmatched, second)]
        right += [not holds(aligned, second)]
    return [at_least("the order holds, and fails, exactly where it should", np.array(right, float), 1, "share right")]


def definition3(trials: int = 100_000, seed: int = 0) -> list[Check]:
    """Adv(w; tau) at several thresholds, and its supremum over all, counted on members and fresh points."""
    model = DataModel(d=40, p=14, q=4, sigma=0.4, sigma_par=0.2, pi=0.2)
    sample, rng = model.sample(seed), np.random.default_rng(seed)
    w = random_interpolator(rng, sample.z)
    align = alignments(w, model)
    members, fresh = sample.z @ w, np.sort(model.fresh(trials, seed=rng).z @ w)
    tau = np.array([-0.5, 0.0, 0.5, 0.9, 0.999, 1.5])
    exact = setup.advantage(*align, model.pi, tau)
    found = (members[:, None] >= tau).mean(0) - (1 - np.searchsorted(fresh, tau) / trials)
    below = setup.fresh_below(tau, *align, model.pi)
    grid = np.concatenate([members, np.linspace(-3, 3, 6_001)])
    best = setup.best_advantage(members, *align, model.pi)
    return [
        estimated("Adv(tau) counted on points", found, exact, (below * (1 - below) / trials) ** 0.5),
        at_least("no threshold beats Adv*", best - setup.advantage(*align, model.pi, grid), -1e-9),
    ]


def definition4(trials: int = 100_000, seed: int = 0) -> list[Check]:
    """Both gaps of both subclasses against training points and fresh ones."""
    model = DataModel(d=40, p=14, q=4, sigma=0.4, sigma_par=0.2, pi=0.2)
    sample, rng = model.sample(seed), np.random.default_rng(seed)
    w = random_interpolator(rng, sample.z)
    fresh, checks = model.fresh(trials, seed=rng), []
    for name, rows, others in (
        ("maj", ~sample.minority, ~fresh.minority), ("min", sample.minority, fresh.minority),
    ):  # fmt: skip
        gaps, train, test = setup.gaps(w, sample, model, name), sample.z[rows] @ w, fresh.z[others] @ w
        for kind, ours, f in (
            ("confidence", gaps.confidence, lambda m: m),
            ("accuracy", gaps.accuracy, lambda m: m > 0),
        ):
            part = f(test) * 1.0
            se = max(part.std(), 1 / len(part)) / len(part) ** 0.5
            checks.append(estimated(f"{kind} gap, {name}", f(train).mean() - part.mean(), ours, se))
    return checks


def lemma1(trials: int = 400, seed: int = 0) -> list[Check]:
    """Caps: bound over exact measure. Coverage of the three bounds at delta = 1/10 over `trials` draws."""
    t, dims = np.linspace(0, 0.95, 96)[:, None], np.array([2, 3, 5, 10, 30, 100, 300])
    slack = np.log(setup.cap_bound(t, dims)) - np.log(setup.cap_measure(t, dims))
    rng, n, dim, delta, sigma = np.random.default_rng(seed), 20, 80, 0.1, 0.7
    bounds, inside = setup.near_orthogonality(n, dim, delta, sigma), np.zeros((trials, 3), bool)
    for k in range(trials):
        xi = sigma * rng.standard_normal((n, dim))
        norm = np.linalg.norm(xi, axis=1)
        cosine = np.abs(np.triu(xi @ xi.T / np.outer(norm, norm), 1)).max()
        off = np.abs(norm**2 / (sigma**2 * dim) - 1).max()
        inside[k] = cosine <= bounds.cosine, off <= bounds.norm, np.abs(xi[:, :2]).max() <= bounds.plane
    names = ("cosines", "norms", "plane components")
    return [
        at_least("exp(-D t^2 / 2) bounds a cap's measure", slack, 0.0, "least log ratio"),
        *(
            likely(
                f"{name} within the bound in at least 90 of 100 draws",
                binom.cdf(inside[:, i].sum(), trials, 0.9),
                trials,
            )
            for i, name in enumerate(names)
        ),
    ]


def lemma2(trials: int = 100, seed: int = 0) -> list[Check]:
    """Eq. (4): both subclasses' confidence gap, accuracy gap and advantage at threshold 1, on random interpolators."""
    rng, off = np.random.default_rng(seed), {name: [] for name in ("gap", "noise", "accuracy", "advantage")}
    for _ in range(trials):
        model = random_model(rng)
        sample = model.sample(rng)
        w = random_interpolator(rng, sample.z)
        M, A, s = alignments(w, model)
        for name, mean, mu, rows in (
            ("maj", M, model.mu_maj, ~sample.minority), ("min", A, model.mu_min, sample.minority),
        ):  # fmt: skip
            gaps = setup.gaps(w, sample, model, name)
            off["gap"].append(gaps.confidence - (1 - mean))
            off["noise"].append(gaps.confidence - ((sample.z[rows] - mu) @ w).mean())
            off["accuracy"].append(gaps.accuracy - ndtr(-mean / s))
            off["advantage"].append(gaps.advantage - ndtr(gaps.confidence / s))
    return [
        equal("confidence gap is 1 - M (1 - A)", off["gap"], 1e-9),
        equal("confidence gap is the mean fitted noise", off["noise"], 1e-9),
        equal("accuracy gap is Phi(-M / s)", off["accuracy"], 1e-9),
        equal("advantage at 1 is Phi(gap / s)", off["advantage"], 1e-9),
    ]


def lemma3(trials: int = 2_000, seed: int = 0) -> list[Check]:
    """Adv(tau) rises to tau = 1 and is not positive beyond; Adv* is at least the error."""
    rng = np.random.default_rng(seed)
    M, A = rng.uniform(-1, 1.3, (2, trials, 1))
    s, pi = 10 ** rng.uniform(-1.5, 0.5, (trials, 1)), rng.uniform(0.01, 0.49, (trials, 1))
    tau = np.linspace(-2, 1, 151)
    curve = setup.advantage(M, A, s, pi, tau)
    beyond = setup.advantage(M, A, s, pi, np.linspace(1.001, 3, 50))
    return [
        at_least("Adv(tau) never falls on tau <= 1", np.diff(curve, axis=1).min(1), -1e-12, "least increment"),
        at_least("Adv(tau) <= 0 beyond 1", -beyond.max(1), -1e-12),
    ]


def proposition2(trials: int = 50_000, seed: int = 0) -> list[Check]:
    """Adv* is the attack's AUC (fresh margins against 1), and never below the error."""
    rng = np.random.default_rng(seed)
    M, A = rng.uniform(-1, 1, (2, 40))
    s, pi = 10 ** rng.uniform(-1, 0.3, 40), rng.uniform(0.01, 0.49, 40)
    minority = rng.random((trials, 40)) < pi
    auc = (np.where(minority, A, M) + s * rng.standard_normal((trials, 40)) < 1).mean(0)
    exact = setup.advantage(M, A, s, pi)
    M, A = rng.uniform(-1, 1.3, (2, trials))
    s, pi = 10 ** rng.uniform(-1.5, 0.5, trials), rng.uniform(0.01, 0.49, trials)
    return [
        estimated("AUC is Adv*", auc, exact, np.maximum(exact * (1 - exact) / trials, 1 / trials**2) ** 0.5),
        at_least("Adv* >= err", setup.advantage(M, A, s, pi) - setup.error(M, A, s, pi), -1e-12),
    ]


def proposition1(trials: int = 40, seed: int = 0) -> list[Check]:
    """Matched pairs: both interpolate and have the alignments and the nuisance scale asked for."""
    rng, residual, off = np.random.default_rng(seed), [], []
    for _ in range(trials):
        model = random_model(rng)
        z = model.sample(rng).z
        targets = rng.uniform(-1, 1, (2, 2))
        s = 50.0
        for w, target in zip(setup.matched_pair(z, model, *targets, s), targets, strict=True):
            residual.append(np.abs(z @ w - 1).max() / s)
            off.append(np.abs(np.array(alignments(w, model)) - [*target, s]).max() / s)
    return [
        equal("both interpolate (relative to s)", residual, 1e-9),
        equal("both have the M, A and s asked for (relative to s)", off, 1e-9),
    ]


def theorem1(trials: int = 100_000, seed: int = 0) -> list[Check]:
    """Eq. (6); condition (7) is never followed by a larger error; bounded noise with a saturated majority."""
    rng = np.random.default_rng(seed)
    pair = random_pairs(rng, trials)
    M1, A1, M2, A2, s, pi = pair.values()
    formula = order.error_difference(M1, A1, M2, A2, pi, lambda t: ndtr(t / s))
    direct = setup.error(M2, A2, s, pi) - setup.error(M1, A1, s, pi)
    good = order.theorem1_condition(**pair)
    gain, loss = np.log(pi) + log_mass(A2, A1, s), np.log1p(-pi) + log_mass(M1, M2, s)
    beta = np.minimum(M1, 1)  # saturated: |B| <= beta <= M1
    cut = (beta > 0) & (-beta < A1) & (beta > A2)  # F_B((A2, A1]) > 0
    uniform = lambda t: np.clip((t + beta) / (2 * np.where(beta > 0, beta, 1)), 0, 1)  # noqa: E731
    bounded = order.error_difference(M1, A1, M2, A2, pi, uniform)
    return [
        equal("eq. (6)", formula - direct, 1e-12),
        above("under (7): log of minority gain over majority loss", (gain - loss)[good]),
        at_least("saturated majority: error never larger", bounded[beta > 0]),
        above("saturated majority: smaller where F_B((A2, A1]) > 0", bounded[cut]),
    ]


def theorem2(trials: int = 100_000, seed: int = 0) -> list[Check]:
    """Eq. (8); condition (9) is never followed by a smaller advantage; bounded noise with an unfitted minority."""
    rng = np.random.default_rng(seed)
    pair = random_pairs(rng, trials)
    M1, A1, M2, A2, s, pi = pair.values()
    formula = order.advantage_difference(M1, A1, M2, A2, pi, lambda t: ndtr(t / s))
    direct = setup.advantage(M1, A1, s, pi) - setup.advantage(M2, A2, s, pi)
    good = order.theorem2_condition(**pair)
    gain, loss = np.log1p(-pi) + log_mass(M1 - 1, M2 - 1, s), np.log(pi) + log_mass(A2 - 1, A1 - 1, s)
    beta = 0.99 * (1 - A1)  # A1 < 1 - beta
    low = beta > 0
    uniform = lambda t: np.clip((t + beta) / (2 * np.where(low, beta, 1)), 0, 1)  # noqa: E731
    bounded = order.advantage_difference(M1, A1, M2, A2, pi, uniform)
    moved = low & (-beta < M2 - 1) & (beta > M1 - 1)  # F_B((M1 - 1, M2 - 1]) > 0
    return [
        equal("eq. (8)", formula - direct, 1e-12),
        at_least("under (9): log of majority gain over minority loss", (gain - loss)[good]),
        at_least("bounded noise below the member level: advantage never smaller", bounded[low]),
        above("... and larger where F_B((M1 - 1, M2 - 1]) > 0", bounded[moved]),
    ]


def matched_monte_carlo(trials: int = 100_000, seed: int = 0) -> list[Check]:
    """Theorems 1 and 2 on a pair of real interpolators of one sample (Proposition 1), against `trials` fresh points."""
    model = DataModel(d=60, p=20, q=3, sigma=0.25, sigma_par=0.25, pi=0.2)
    z, fresh = model.sample(seed).z, model.fresh(trials, seed=(seed, 1))
    s = 0.5
    pair = setup.matched_pair(z, model, (0.7, 0.2), (0.8, -0.2), s)
    first, second = (fresh.z @ w for w in pair)
    cdf = lambda t: ndtr(t / s)  # noqa: E731
    checks = [
        at_least("the pair is ordered", float(order.msa_at_least(*pair, z, model, 1e-7)), 1, "holds"),
    ]
    for name, exact, sample in (
        ("err(w2) - err(w1)", order.error_difference, (second <= 0) * 1.0 - (first <= 0)),
        ("Adv*(w1) - Adv*(w2)", order.advantage_difference, (first < 1) * 1.0 - (second < 1)),
    ):
        wanted = exact(0.7, 0.2, 0.8, -0.2, model.pi, cdf)
        checks.append(estimated(f"{name} on fresh points", sample.mean(), wanted, sample.std() / trials**0.5))
    return checks


def corollary1(trials: int = 200_000, seed: int = 0) -> list[Check]:
    """Error falls and advantage rises along the path exactly inside the window (10); its width is M - A."""
    rng = np.random.default_rng(seed)
    M, A = rng.uniform(-1, 1.5, (2, trials))
    s, pi, kappa = 10 ** rng.uniform(-1, 0.5, trials), rng.uniform(0.01, 0.49, trials), 10 ** rng.uniform(-3, 3, trials)
    low, high = order.window(M, A)
    price = s**2 * np.log((1 - pi) * kappa / pi)
    # logarithms of the two slopes' ratios: signs survive where the slopes themselves round to 0
    error_slope = (price - high) / s**2
    direct = (np.log((1 - pi) * kappa) - M**2 / (2 * s**2)) - (np.log(pi) - A**2 / (2 * s**2))
    direct_advantage = (np.log((1 - pi) * kappa) - (1 - M) ** 2 / (2 * s**2)) - (np.log(pi) - (1 - A) ** 2 / (2 * s**2))
    inside = (low < price) & (price < high)
    clear = np.minimum(np.abs(price - low), np.abs(price - high)) > 1e-9
    both = (direct < 0) & (direct_advantage > 0)
    slope = order.slopes(M, A, s, kappa, pi)
    seen = (np.abs(slope.error) > 1e-200) & (np.abs(slope.advantage) > 1e-200) & clear
    seen_both = (slope.error < 0) & (slope.advantage > 0)
    return [
        equal("log slope ratio is (price - upper end) / s^2", (error_slope - direct) / (1 + np.abs(direct)), 1e-9),
        at_least("inside the window if and only if both improve", (inside == both)[clear], 1, "share right"),
        at_least("the same from the slopes themselves", (inside == seen_both)[seen], 1, "share right"),
        equal("width is M - A", high - low - (M - A), 1e-12),
        at_least("empty where A >= M", ~inside[A >= M], 1, "share right"),
    ]


def counterexamples() -> list[Check]:
    """CE1 to CE4, each by its own numbers."""
    free, (dear, unsaturated), (M, A) = order.ce1(), order.ce2(), order.ce3()
    kappa, s, pi = np.meshgrid(np.logspace(-4, 4, 81), np.logspace(-1, 1, 21), np.linspace(0.02, 0.48, 12))
    slope = order.slopes(M, A, s, kappa, pi)
    lone = order.ce4()
    return [
        above("CE1: without anti-alignment error falls", -free.error, "change"),
        above("CE1: and advantage falls too", -free.advantage, "change"),
        above("CE2: dear exchange: advantage rises", dear.advantage, "change"),
        above("CE2: and error rises", dear.error, "change"),
        above("CE2: unsaturated majority: advantage rises", unsaturated.advantage, "change"),
        above("CE2: and error rises", unsaturated.error, "change"),
        at_least("CE3: A >= M: never both", ~((slope.error < 0) & (slope.advantage > 0)), 1, "share right"),
        above("CE4: s alone raises error", max(c.error for c in lone), "change"),
        above("CE4: s alone lowers error", -min(c.error for c in lone), "change"),
        above("CE4: s alone raises advantage", max(c.advantage for c in lone), "change"),
        above("CE4: s alone lowers advantage", -min(c.advantage for c in lone), "change"),
    ]
