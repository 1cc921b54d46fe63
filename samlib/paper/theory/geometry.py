"""Version four: minimum-G-norm interpolation (Theorem 3, its warning, the exact G-path), and attacks on a contracted score.

In Theorems 4 and 5 members have score 1, and non-members' scores are N(m, sd^2). In Theorem 5 noise of deviation nu is added to
both, and `sd_out` = sqrt(sd^2 + nu^2) is the deviation of a non-member's observed score. Arguments of both broadcast.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import simpson
from scipy.special import log_ndtr, ndtr, ndtri
from scipy.stats import norm

from samlib.paper.theory.checking import above, always, directions, equal, estimated, least
from samlib.paper.theory.model import Alignments, DataModel, advantage, alignments, error, variance

ETAS = np.array([0, 0.1, 0.3, 1, 3, 10, 30])  # the values that checks try


def min_norm(x, y, G) -> np.ndarray:
    """w_G = argmin w'Gw subject to x w = y.

    Parameters
    ----------
    x : (n, d) array
        Rows, of full rank.
    y : (n,) array
        Targets.
    G : (d, d) or (d,) array_like
        A positive definite matrix, or the diagonal of a diagonal one.

    Returns
    -------
    (d,) ndarray

    Examples
    --------
    >>> min_norm(np.array([[1.0, 1.0]]), np.array([1.0]), [1.0, 3.0])
    array([0.75, 0.25])
    """
    G = np.asarray(G, float)
    scaled = x.T / G[:, None] if G.ndim == 1 else np.linalg.solve(G, x.T)
    return scaled @ np.linalg.solve(x @ scaled, y)


class Contraction(NamedTuple):
    """A path w_eta of Theorem 3: w (k, d), and v (k,) = w' Sigma w."""

    w: np.ndarray
    v: np.ndarray


def contraction(x, y, Sigma, etas) -> Contraction:
    """Theorem 3: minimum-norm interpolators in the geometries G = I + eta Sigma.

    Parameters
    ----------
    x, y : array
        As for `min_norm`.
    Sigma : (d, d) array
        Curvature, positive semidefinite.
    etas : (k,) array_like
        Weights of the curvature, at least 0.

    Returns
    -------
    Contraction

    Examples
    --------
    >>> path = contraction(np.array([[1.0, 1.0]]), np.array([1.0]), np.diag([0.0, 2.0]), [0, 1])
    >>> path.v
    array([0.5  , 0.125])
    """
    w = np.stack([min_norm(x, y, np.eye(len(Sigma)) + eta * Sigma) for eta in etas])
    return Contraction(w, np.einsum("kd,de,ke->k", w, Sigma, w))


def contraction_derivative(x, y, Sigma, eta: float) -> float:
    """Theorem 3(iii): v'(eta) = -2 u'(Q' G Q)^-1 u with u = Q' Sigma w and Q a basis of ker x. Arguments as `contraction`.

    Examples
    --------
    >>> contraction_derivative(np.array([[1.0, 1.0]]), np.array([1.0]), np.diag([0.0, 2.0]), 0.0) < 0
    True
    """
    G = np.eye(len(Sigma)) + eta * Sigma
    kernel = np.linalg.svd(x)[2][len(x) :].T
    u = kernel.T @ Sigma @ min_norm(x, y, G)
    return float(-2 * u @ np.linalg.solve(kernel.T @ G @ kernel, u))


def summary(align: Alignments, pi: float) -> dict[str, np.ndarray]:
    """M, A, s, test error, Adv* and v of interpolators.

    Parameters
    ----------
    align : Alignments
    pi : float
        Minority share.

    Returns
    -------
    dict of str to float or ndarray

    Examples
    --------
    >>> list(summary(Alignments(0.9, 0.1, 0.3), 0.1))
    ['M', 'A', 's', 'error', 'advantage', 'v']
    """
    values = {"error": error(*align, pi), "advantage": advantage(*align, pi), "v": variance(*align, pi)}
    return align._asdict() | values


def g_path(model: DataModel, etas, seeds=range(6)) -> dict[str, np.ndarray]:
    """The exact G-path with population curvature, Sigma = E[xx'].

    Parameters
    ----------
    model : DataModel
    etas : (k,) array_like
        As for `contraction`.
    seeds : iterable of int
        One for each training sample.

    Returns
    -------
    dict of str to (seeds, etas) ndarray
        The measures of `summary`.

    Examples
    --------
    >>> path = g_path(DataModel(d=30, p=8, q=2), [0, 1], [0])
    >>> bool(path["v"][0, 1] < path["v"][0, 0])
    True
    """
    w = np.stack([contraction(model.sample(k).z, np.ones(model.n), model.second_moment, etas).w for k in seeds])
    return summary(alignments(w, model), model.pi)


def check_theorem3(problems):
    """Theorem 3: (i) to (iv), and the optimality condition, on random rows and curvatures of full and of low rank."""
    for x, y, Sigma in problems.linear(60):
        path, kernel = contraction(x, y, Sigma, ETAS), np.linalg.svd(x)[2][len(x) :]
        fall = -np.diff(path.v) / path.v[0]
        yield least("(i) v never rises", fall, -1e-7, "least relative fall")
        norm = (path.w**2).sum(1)
        yield least("(i) the norm never falls", np.diff(norm) / norm[0], -1e-7, "least relative growth")
        turns = np.linalg.norm(kernel @ Sigma @ path.w[0]) > 1e-8 * path.v[0]
        yield always("(ii) v falls strictly if and only if Sigma w_0 has a kernel part", (fall > 0).all() == turns)
        pull = path.w + ETAS[:, None] * (path.w @ Sigma)
        off = np.abs(pull @ kernel.T) / np.linalg.norm(pull, axis=1, keepdims=True)
        yield equal("optimality: G w is orthogonal to ker X (relative)", off, 1e-7)
        for eta in (0.3, 3.0):
            low, high = contraction(x, y, Sigma, [eta * (1 - 1e-4), eta * (1 + 1e-4)]).v
            ratio = (high - low) / (2e-4 * eta) / contraction_derivative(x, y, Sigma, eta)
            yield equal("(iii) v' against central differences (relative)", ratio - 1, 1e-5)
        if np.linalg.matrix_rank(Sigma) == len(Sigma):
            limit = y @ np.linalg.solve(x @ np.linalg.solve(Sigma, x.T), y)
            yield equal("(iv) limit of v (relative)", contraction(x, y, Sigma, [1e9]).v / limit - 1, 1e-6)
        root = np.linalg.qr(x.T)[0] @ problems.rng.standard_normal((len(x), len(x)))
        w = contraction(x, y, root @ root.T + problems.rng.uniform(0.1, 3) * kernel.T @ kernel, ETAS).w
        off = (w - w[0]) / np.abs(w).max()
        yield equal("(ii) w_eta stays w_0 where Sigma w_0 has no kernel part (relative)", off, 1e-9)


def check_warning(problems):
    """Theorem 3, warning: the training Gram matrix and the identity do not move v; population curvature does."""
    for model in problems.models(40, sigma_par=0):
        z = model.sample(problems.rng).z
        curvatures = (z.T @ z / len(z), np.eye(model.d), model.second_moment)
        *still, population = (contraction(z, np.ones(model.n), Sigma, ETAS).v for Sigma in curvatures)
        yield equal("Gram matrix and identity: v stays (relative)", [v / v[0] - 1 for v in still], 1e-9)
        yield above("population curvature: v falls", -np.diff(population) / population[0], "least relative fall")


def check_path(problems):
    """G-path: on every draw v and M fall, A, s and Adv* rise, Adv* >= 1 - v; the error falls first, and then rises."""
    table = g_path(DataModel(), (0, 1, 2, 5, 30), problems.rng.integers(0, 2**32, problems.count(6)))
    change = {name: np.diff(values, axis=1) for name, values in table.items()}
    yield from directions("along the path", change, v=-1, M=-1, A=1, s=1, advantage=1)
    yield least("Theorem 4's guarantee, Adv* >= 1 - v", table["advantage"] - (1 - table["v"]))
    turn = np.minimum(table["error"][:, 0], table["error"][:, -1]) - table["error"].min(1)
    yield above("the error falls first, and then rises", turn, "least depth")


def threshold_advantage(m, sd):
    """Theorem 4: Adv* = Phi((1 - m) / sd) of a threshold on the signed margin.

    Parameters
    ----------
    m, sd : array_like
        Mean and deviation of a non-member's score.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(threshold_advantage(1.0, 0.2))
    0.5
    """
    return ndtr((1 - m) / sd)


def lr_interval(m, sd_out, nu) -> tuple[np.ndarray, np.ndarray]:
    """Theorem 5: the interval on which N(1, nu^2) has at least the density of N(m, sd_out^2).

    Parameters
    ----------
    m, sd_out, nu : array_like
        Mean and deviation of a non-member's observed score, and deviation of the noise, below sd_out.

    Returns
    -------
    low, high : float or ndarray
        The test accepts [1 + low, 1 + high]. The ends are offsets from the member level, which keeps digits as nu goes to 0.

    Raises
    ------
    ValueError
        If nu is not positive, or not below sd_out.

    Examples
    --------
    >>> low, high = lr_interval(0.0, 0.5, 0.1)
    >>> bool(low < 0 < high)
    True
    """
    if not np.all((np.asarray(nu) > 0) & (np.asarray(nu) < np.asarray(sd_out))):
        raise ValueError("nu must be positive and below sd_out.")
    excess, gap = sd_out**2 - nu**2, 1 - m
    root = nu * sd_out * np.sqrt(gap**2 + 2 * excess * np.log(sd_out / nu))
    return (nu**2 * gap - root) / excess, (nu**2 * gap + root) / excess


def lr_roots(m, sd_out, nu) -> tuple[np.ndarray, np.ndarray]:
    """z_1 < z_2 of Theorem 5: the interval's ends in units of the non-member law. Arguments as `lr_interval`.

    Examples
    --------
    >>> z1, z2 = lr_roots(0.0, 0.5, 0.1)
    >>> bool(1 < z1 < z2)
    True
    """
    low, high = lr_interval(m, sd_out, nu)
    return (1 - m + low) / sd_out, (1 - m + high) / sd_out


def lr_advantage(m, sd_out, nu):
    """Theorem 5, eq. (11): advantage of the optimal test, the total variation of both laws. Arguments as `lr_interval`.

    Examples
    --------
    >>> bool(0 < lr_advantage(0.0, 0.5, 0.1) < 1)
    True
    """
    low, high = lr_interval(m, sd_out, nu)
    z1, z2 = lr_roots(m, sd_out, nu)
    return (ndtr(high / nu) - ndtr(low / nu)) - (ndtr(z2) - ndtr(z1))


def lr_advantage_derivative(m, sd_out, nu):
    """Theorem 5, eq. (11): d Adv_LR / d sd_out, by the envelope theorem. Arguments as `lr_interval`.

    Examples
    --------
    >>> bool(lr_advantage_derivative(0.0, 0.5, 0.1) < 0)
    True
    """
    z1, z2 = lr_roots(m, sd_out, nu)
    return (z2 * norm.pdf(z2) - z1 * norm.pdf(z1)) / sd_out


def one_sided_log_tpr(alpha, m, sd_out, nu):
    """Theorem 5(d): log TPR of the one-sided test (offline LiRA) at a false-positive rate.

    The logarithm keeps differences that the rate itself loses by rounding to 0 or 1.

    Parameters
    ----------
    alpha : array_like
        The false-positive rate, between 0 and 1.
    m, sd_out, nu : array_like
        As for `lr_interval`.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> round(float(one_sided_log_tpr(0.5, 1.0, 0.5, 0.1)), 4)
    -0.6931
    """
    return log_ndtr(((1 - m) + ndtri(alpha) * sd_out) / nu)


def check_theorem4(problems):
    """Theorem 4: how both attacks' advantages change with the deviation and with m. `check_path` checks the guarantee."""
    n, rng = problems.count(20_000), problems.rng
    z, sd = rng.uniform(-5, 5, n), 10 ** rng.uniform(-1, 1, n)  # outside this range, Phi rounds to 0 or 1
    m, wider = 1 - z * sd, sd * (1 + 10 ** rng.uniform(-3, 0, n))
    fall = (threshold_advantage(m, sd) - threshold_advantage(m, wider)) * np.sign(1 - m)
    yield above("falls with the deviation where m < 1, rises where m > 1", fall[np.abs(z) > 1e-3], "least change")
    (m, m2), (sd, sd2) = rng.uniform(-2, 0.9, (2, n)), 10 ** rng.uniform(-0.4, 1, (2, n))
    rises, clear = np.log((1 - m2) / (1 - m)) > np.log(sd2 / sd), np.maximum((1 - m) / sd, (1 - m2) / sd2) < 6
    right = (threshold_advantage(m2, sd2) > threshold_advantage(m, sd)) == rises
    yield always("with m moving: rises if and only if log(1 - m) falls less", right[clear])
    deviations = np.array([0.5, 1.0, 2.0])
    below = np.abs(rng.standard_normal((problems.count(50_000), 1)) * deviations) < 1
    yield estimated("label-free attack, non-members counted", below, 2 * threshold_advantage(0, deviations) - 1)


def check_theorem5(problems):
    """Theorem 5: eq. (11) against an integral and central differences; (a) to (d) never violated."""
    n, rng = problems.count(20_000), problems.rng
    m, sd_out = rng.uniform(-1.5, 1.5, n), 10 ** rng.uniform(-1, 0.7, n)
    nu = sd_out * 10 ** rng.uniform(-2, -0.05, n)
    few = slice(200)
    t = np.linspace(1 - 9 * nu[few], 1 + 9 * nu[few], 20_001)  # where the member's density is not 0 in floating point
    more = np.maximum(norm.pdf(t, 1, nu[few]) - norm.pdf(t, m[few], sd_out[few]), 0)
    yield equal("advantage is the total variation", lr_advantage(m, sd_out, nu)[few] - simpson(more, t, axis=0), 1e-7)
    slope, h = lr_advantage_derivative(m, sd_out, nu), 1e-5 * sd_out
    numeric = (lr_advantage(m, sd_out + h, nu) - lr_advantage(m, sd_out - h, nu)) / (2 * h)
    yield equal("derivative against central differences", (slope - numeric)[sd_out > 1.01 * nu], 1e-5)
    # (a) by logarithms, since z phi(z) may round to 0 at both ends
    z1, z2 = lr_roots(m, sd_out, nu)
    far = 1 - m - sd_out
    raises = (far > 0) & (far**2 >= nu**2 * (1 + 2 * np.log(sd_out / nu)))
    ratio = np.log(z1[raises] / z2[raises]) + (z2**2 - z1**2)[raises] / 2
    yield above("(a) contraction raises: log of z1 phi(z1) over z2 phi(z2)", ratio)
    yield above("(b) contraction lowers: derivative", slope[(z1 >= -1) & (z2 <= 1)])
    ratio = 10 ** (np.linspace(0.02, 0.7, 50) * np.array([[1], [-1]]))  # (1 - m) / sd
    flips = np.sign(lr_advantage_derivative(0.0, 1 / ratio, 1e-6 / ratio)) == np.sign(1 - ratio)
    yield always("(c) as nu goes to 0 the sign flips at (1 - m) / sd = 1", flips)
    alpha, narrow = rng.uniform(1e-4, 0.499, n), sd_out * rng.uniform(0.3, 0.999, n)
    gain = one_sided_log_tpr(alpha, m, narrow, nu) - one_sided_log_tpr(alpha, m, sd_out, nu)
    yield least("(d) one-sided test: contraction raises log TPR", gain)
    member, rates = 1 + 0.1 * rng.standard_normal((problems.count(50_000), 1)), np.array([0.01, 0.1, 0.4])
    stated = np.exp(one_sided_log_tpr(rates, 0.6, 0.3, 0.1))
    yield estimated("(d) TPR counted", member > norm.isf(rates, 0.6, 0.3), stated)
