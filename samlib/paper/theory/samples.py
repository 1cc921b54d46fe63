"""Samples and their interpolators: Remark 1, Lemma 1 (near-orthogonality), Proposition 1 (pairs exist), Propositions 3 and 4.

Propositions 3 and 4 reduce the data model's interpolators to two by two matrices. They link alignment and contraction.
"""

import math
from dataclasses import replace

import numpy as np
from scipy.linalg import null_space
from scipy.optimize import brentq
from scipy.special import betainc, ndtr
from scipy.stats import binom, chi2, kstest

from samlib.checks import as_number
from samlib.paper.theory.checking import above, equal, estimated, least, likely, most
from samlib.paper.theory.geometry import min_norm
from samlib.paper.theory.model import Alignments, DataModel, Sample, advantage, alignments


def cap_bound(t, dim):
    """Lemma 1's bound on the measure of a cap {x on the unit sphere: x_1 >= t}: exp(-dim t^2 / 2) (Ball 1997).

    Parameters
    ----------
    t : array_like
        The cap's height, at least 0.
    dim : int or array_like of int
        The space's dimension.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(cap_bound(0.0, 10))
    1.0
    """
    return np.exp(-dim * np.square(t) / 2)


def cap_measure(t, dim):
    """The exact measure, for t in [0, 1]: half the regularized incomplete beta function at 1 - t^2. Arguments as `cap_bound`.

    Examples
    --------
    >>> float(cap_measure(0.0, 10))
    0.5
    """
    return 0.5 * betainc((dim - 1) / 2, 0.5, 1 - np.square(t))


def near_orthogonality(n: int, dim: int, delta: float, sigma: float = 1.0) -> tuple[float, float, float]:
    """Lemma 1, eq. (3): three bounds for Gaussian vectors, each with probability at least 1 - delta.

    Parameters
    ----------
    n, dim : int
        Number of vectors and their dimension, each at least 2.
    delta : float
        The probability that a bound may fail, between 0 and 1.
    sigma : float
        Deviation of a coordinate.

    Returns
    -------
    cosine, norm, plane : float
        Bounds on absolute cosines, on relative deviations of squared norms, and on absolute plane components.

    Raises
    ------
    ValueError
        If a number is outside its range.

    Examples
    --------
    >>> round(near_orthogonality(20, 80, 0.1)[0], 3)
    0.454
    """
    for name, value in (("n", n), ("dim", dim)):
        as_number(name, value, 2, whole=True)
    as_number("delta", delta, 0, 1, strict=True)
    x = math.log(2 * n / delta)
    cosine, norm = math.sqrt(2 * math.log(n * (n - 1) / delta) / dim), 2 * math.sqrt(x / dim) + 2 * x / dim
    return cosine, norm, sigma * math.sqrt(2 * math.log(4 * n / delta))


def matched_interpolator(z, model: DataModel, M: float, A: float, s: float) -> np.ndarray:
    """Proposition 1: an interpolator of z with given alignments M and A and nuisance scale s.

    Parameters
    ----------
    z : (n, d) array
        Signed training rows.
    model : DataModel
    M, A, s : float

    Returns
    -------
    (d,) ndarray

    Raises
    ------
    ValueError
        If s is below the smallest value that this construction reaches.

    Examples
    --------
    >>> model = DataModel(d=30, p=8, q=3)
    >>> w = matched_interpolator(model.sample().z, model, 0.5, 0.1, 5.0)
    >>> round(float(alignments(w, model).A), 6)
    0.1
    """
    rows = np.vstack([z, model.mu_maj, model.mu_min])
    w = np.linalg.lstsq(rows, np.r_[np.ones(len(z)), M, A], rcond=None)[0]
    free = null_space(rows)[:, 0]
    quadratic, half, rest = free**2 @ model.gamma, free @ (model.gamma * w), w**2 @ model.gamma - s**2
    root = half**2 - quadratic * rest
    if root < 0:
        reached = math.sqrt(w**2 @ model.gamma - half**2 / quadratic)
        raise ValueError(f"s must be at least {reached:.6g} for these alignments, but it is {s}.")
    return w + (math.sqrt(root) - half) / quadratic * free


def check_remark1(problems):
    """Remark 1: minority accuracy is F_B(A), also for noise uniform on a sphere. Then F_B is the measure of a cap."""
    xi = problems.rng.standard_normal((problems.count(50_000), 12))
    w = xi[0] / np.linalg.norm(xi[0])
    B = -(xi[1:] @ w) / np.linalg.norm(xi[1:], axis=1)
    A = np.linspace(-0.9, 0.9, 7)
    upper = cap_measure(np.abs(A), 12)
    yield estimated("minority accuracy is F_B(A), sphere noise", B[:, None] <= A, np.where(A > 0, 1 - upper, upper))


def check_lemma1(problems):
    """Lemma 1: the bounds (3) hold as often as stated, and half of each bound would be too narrow."""
    t, dims = np.linspace(0, 0.95, 96)[:, None], np.array([2, 3, 5, 10, 30, 100, 300])
    yield least("exp(-D t^2 / 2) bounds a cap's measure: ratio - 1", cap_bound(t, dims) / cap_measure(t, dims) - 1)
    near = cap_bound(dims**-0.5, dims) / cap_measure(dims**-0.5, dims)
    yield most("... and at t = 1 / sqrt(D) is less than 4 times as large", near, 4, "ratio")
    n, dim, delta, sigma = 20, 80, 0.1, 0.7
    xi = sigma * problems.rng.standard_normal((problems.count(400), n, dim))
    norm, (i, k) = np.linalg.norm(xi, axis=2), np.triu_indices(n, 1)
    cosines = (xi @ xi.transpose(0, 2, 1))[:, i, k] / (norm[:, i] * norm[:, k])
    found = (cosines, norm**2 / (sigma**2 * dim) - 1, xi[:, :, :2].reshape(-1, 2 * n))
    bounds = near_orthogonality(n, dim, delta, sigma)
    for name, values, bound in zip(("cosines", "norms", "plane components"), found, bounds, strict=True):
        largest = np.abs(values).max(1)
        inside = binom.cdf((largest <= bound).sum(), len(largest), 1 - delta)
        yield likely(f"{name}: within the bound in at least 9 of 10 draws", inside)
        yield least(f"{name}: beyond half the bound in at least 1 of 10 draws", np.quantile(largest, 0.9) - bound / 2)


def check_proposition1(problems):
    """Proposition 1: matched pairs interpolate, and they have the alignments and the nuisance scale that were asked for."""
    for model in problems.models(40):
        z, wanted, s = model.sample(problems.rng).z, problems.rng.uniform(-1, 1, (2, 2)), 50.0
        pair = [matched_interpolator(z, model, M, A, s) for M, A in wanted]
        yield equal("both interpolate (relative to s)", [(z @ w - 1) / s for w in pair], 1e-9)
        off = [np.subtract(alignments(w, model), (*target, s)) / s for w, target in zip(pair, wanted, strict=True)]
        yield equal("both have the M, A and s asked for (relative to s)", off, 1e-9)


def diagonal_alignments(sample: Sample, model: DataModel, g: float) -> Alignments:
    """Alignments of the minimum-norm interpolator with G = diag(g, 1, ..., 1).

    Parameters
    ----------
    sample : Sample
        The training sample.
    model : DataModel
    g : float
        Penalty on the majority direction.

    Returns
    -------
    Alignments

    Examples
    --------
    >>> model = DataModel(d=30, p=8, q=2)
    >>> diagonal_alignments(model.sample(), model, 2.0).M < diagonal_alignments(model.sample(), model, 1.0).M
    np.True_
    """
    return alignments(min_norm(sample.z, np.ones(model.n), np.r_[g, np.ones(model.d - 1)]), model)


def match_g(sample: Sample, model: DataModel, M: float) -> float:
    """The g at which `diagonal_alignments` has majority alignment M. Arguments as there.

    Raises
    ------
    ValueError
        If no g in [1e-3, 1e4] attains M.

    Examples
    --------
    >>> model = DataModel(d=30, p=8, q=2)
    >>> round(match_g(model.sample(), model, diagonal_alignments(model.sample(), model, 2.0).M), 6)
    2.0
    """

    def excess(log_g):
        return diagonal_alignments(sample, model, np.exp(log_g)).M - M

    low, high = np.log([1e-3, 1e4])
    if excess(low) < 0 or excess(high) > 0:
        raise ValueError(f"M = {M} is attained by no g in [1e-3, 1e4].")
    return float(np.exp(brentq(excess, low, high)))


def group_wishart(sample: Sample, model: DataModel) -> np.ndarray:
    """V of Proposition 3: V^-1 = T'(Xi Xi')^-1 T, with T the group indicators. Its law is sigma^2 W_2(d - n).

    Parameters
    ----------
    sample : Sample
        The training sample.
    model : DataModel

    Returns
    -------
    (2, 2) ndarray

    Examples
    --------
    >>> group_wishart(DataModel().sample(), DataModel()).shape
    (2, 2)
    """
    noise = sample.z[:, 2:]
    T = np.stack([~sample.minority / np.sqrt(model.p), sample.minority / np.sqrt(model.q)], axis=1)
    return np.linalg.inv(T.T @ np.linalg.solve(noise @ noise.T, T))


def reduction(V, D, model: DataModel) -> tuple[np.ndarray, np.ndarray, float]:
    """Proposition 3: the minimum-norm interpolator for the block-diagonal G = D (+) I, from the matrix V alone.

    Parameters
    ----------
    V, D : (2, 2) array
        V as `group_wishart` makes it; D is (I + eta E[xx']) / (1 + eta sigma^2) in the plane for G = I + eta E[xx'].
    model : DataModel
        Needs sigma_par = 0.

    Returns
    -------
    theta : (2,) ndarray
        The plane part of w.
    r : (2,) ndarray
        The group residuals.
    s : float

    Raises
    ------
    ValueError
        If sigma_par is not 0.

    Examples
    --------
    >>> reduction(np.eye(2), np.eye(2), DataModel())[0].shape
    (2,)
    """
    if model.sigma_par != 0:
        raise ValueError(f"sigma_par must be 0 for the exact reduction, but it is {model.sigma_par}.")
    t = np.sqrt([model.p, model.q])
    B = t[:, None] * [model.mu_maj[:2], model.mu_min[:2]]
    weight = B.T @ np.linalg.inv(V)
    theta = np.linalg.solve(D + weight @ B, weight @ t)
    r = t - B @ theta
    return theta, r, float(model.sigma * np.sqrt(r @ np.linalg.solve(V, r)))


def spread(model: DataModel) -> float:
    """lambda = sigma^2 (d - n): the mean of V is lambda I.

    Examples
    --------
    >>> spread(DataModel(d=70, sigma=1.0))
    10.0
    """
    return model.sigma**2 * (model.d - model.n)


def proposition4(g, model: DataModel) -> Alignments:
    """Proposition 4, eq. (12): alignments for D = diag(g, 1) and V = lambda I.

    Parameters
    ----------
    g : array_like
        Penalty on the majority direction.
    model : DataModel

    Returns
    -------
    Alignments

    Examples
    --------
    >>> M, A, s = proposition4(np.array([1.0, 10.0]), DataModel())
    >>> bool(M[1] < M[0]), bool(A[1] > A[0])
    (True, True)
    """
    p, q, a, b, c, lam = model.p, model.q, model.a, model.b, model.c, spread(model)
    E = lam * (lam + q * b**2)
    F = lam * (p * a**2 + q * c**2) + p * q * a**2 * b**2
    maj = lam * ((lam + q * b**2) * g + q * c * (a + c)) / (E * g + F)
    min_ = lam * (lam * g + p * a * (a + c)) / (E * g + F)
    return Alignments(1 - maj, 1 - min_, np.sqrt((p * maj**2 + q * min_**2) / (model.d - model.n)))


def check_proposition3(problems):
    """Proposition 3: the reduction against the interpolator in d dimensions; V's law; the bound and its tail."""
    for model in problems.models(40, sigma_par=0):
        sample, eta = model.sample(problems.rng), 10 ** problems.rng.uniform(-2, 2)
        V, lam, I = group_wishart(sample, model), spread(model), np.eye(2)
        D = (I + eta * model.second_moment[:2, :2]) / (1 + eta * model.sigma**2)
        (theta, _, s), (theta_bar, r_bar, _) = reduction(V, D, model), reduction(lam * I, D, model)
        w = min_norm(sample.z, np.ones(model.n), np.eye(model.d) + eta * model.second_moment)
        off = np.append(theta - w[:2], s - alignments(w, model).s) / np.linalg.norm(w)
        yield equal("the reduction is exact (theta and s, relative)", off, 1e-9)
        epsilon = np.linalg.norm(V / lam - I, 2)
        if epsilon < 1:
            bound = epsilon * np.linalg.norm(r_bar) / np.sqrt(lam * (1 - epsilon) * np.linalg.eigvalsh(D)[0])
            yield least("bound on ||theta - theta_bar||", bound - np.linalg.norm(theta - theta_bar))
    model, u = DataModel(d=400, p=17, q=3), np.array([0.6, 0.8])
    free = model.d - model.n
    samples = [model.sample(problems.rng) for _ in range(problems.count(300))]
    V = np.stack([group_wishart(sample, model) for sample in samples]) / model.sigma**2
    yield likely("u'V u is chi^2(d - n)", kstest(u @ V @ u, chi2(free).cdf).pvalue)
    yield likely("1 / (V^-1)_11 is chi^2(d - n - 1)", kstest(1 / np.linalg.inv(V)[:, 0, 0], chi2(free - 1).cdf).pvalue)
    rate = (np.sqrt(2) + 2) / np.sqrt(free)  # x = 2
    inside = np.linalg.norm(V / free - np.eye(2), 2, axis=(1, 2)) <= 2 * rate + rate**2
    yield likely("the tail holds as often as stated", binom.cdf(inside.sum(), len(V), 1 - 2 * np.exp(-(2**2) / 2)))


def check_proposition4(problems):
    """Proposition 4: eq. (12) against the reduction; how M, A, s and Adv* move with g; the rate and the ceiling."""
    weights = np.logspace(-2, 3, 101)
    for k, model in enumerate(problems.models(250, sigma_par=0)):
        if k % 5 == 0:
            model = replace(model, c=0.0)
        elif model.p * model.a < model.q * model.c:
            continue  # the proposition excludes this case
        M, A, s = proposition4(weights, model)
        for i in (0, 50, 100):
            theta, _, s_direct = reduction(spread(model) * np.eye(2), np.diag([weights[i], 1.0]), model)
            direct = theta @ model.mu_maj[:2], theta @ model.mu_min[:2], s_direct
            yield equal("eq. (12)", np.subtract(direct, (M[i], A[i], s[i])), 1e-10)
        yield above("M falls with g", -np.diff(M), "least fall")
        yield above("s rises with g", np.diff(s), "least rise")
        if model.c == 0:
            yield equal("A stays where c = 0", A - A[0], 1e-10)
            continue
        yield above("A rises with g where c > 0", np.diff(A), "least rise")
        rate = (M[0] - M[-1]) / (A[-1] - A[0])  # over the whole path, since small differences lose digits
        stated = model.a / model.c * (1 + model.q * model.b**2 / spread(model))
        yield equal("the exchange rate is constant (relative)", rate / stated - 1, 1e-8)
        yield above("A / s rises while A <= 0", np.diff(A / s)[A[1:] <= 0], "least rise")
        if model.q / model.n < 0.5:  # then it can be the population's minority share as well
            adv = advantage(M, A, s, model.q / model.n)
            turns = np.diff(adv) * np.where(M[1:] > A[1:], 1, np.where(M[:-1] < A[:-1], -1, 0))
            yield least("Adv* rises while M > A and falls after", turns, -1e-13, "least change")
            ceiling = ndtr(np.sqrt((model.d - model.n) / model.n))
            yield least("Adv* never exceeds its ceiling", ceiling - adv.max(), -1e-12)
