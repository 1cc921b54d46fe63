"""Minimum-G-norm interpolation: Theorem 3, the G-path, Propositions 3 and 4."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

from samlib.paper.theory.model import Alignments, DataModel, Sample, advantage, alignments, error, variance


def min_norm(x, y, G) -> np.ndarray:
    """w_G = argmin w'Gw subject to x w = y, for x (n, d) of full row rank and G (d, d) positive definite, or its diagonal."""
    G = np.asarray(G, float)
    scaled = x.T / G[:, None] if G.ndim == 1 else np.linalg.solve(G, x.T)
    return scaled @ np.linalg.solve(x @ scaled, y)


class Contraction(NamedTuple):
    """A path w_eta of Theorem 3: w (k, d), v (k,) = w' Sigma w, squared_norm (k,)."""

    w: np.ndarray
    v: np.ndarray
    squared_norm: np.ndarray


def contraction(x, y, Sigma, etas) -> Contraction:
    """Theorem 3: minimum-norm interpolators in the geometries G = I + eta Sigma."""
    w = np.stack([min_norm(x, y, np.eye(len(Sigma)) + eta * Sigma) for eta in etas])
    return Contraction(w, np.einsum("kd,de,ke->k", w, Sigma, w), (w**2).sum(1))


def contraction_derivative(x, y, Sigma, eta: float) -> float:
    """Theorem 3(iii): v'(eta) = -2 u'(Q' G Q)^-1 u with u = Q' Sigma w and Q a basis of ker x."""
    G = np.eye(len(Sigma)) + eta * Sigma
    kernel = np.linalg.svd(x)[2][len(x) :].T
    u = kernel.T @ Sigma @ min_norm(x, y, G)
    return float(-2 * u @ np.linalg.solve(kernel.T @ G @ kernel, u))


def contraction_limit(x, y, Sigma) -> float:
    """Theorem 3(iv): lim v = y'(x Sigma^-1 x')^-1 y for positive definite Sigma."""
    return float(y @ np.linalg.solve(x @ np.linalg.solve(Sigma, x.T), y))


def g_path(model: DataModel, etas, seeds=range(6)) -> dict[str, np.ndarray]:
    """The exact G-path with population curvature, Sigma = E[xx']: M, A, s, error, advantage, v, each (seeds, etas)."""
    w = np.stack([contraction(model.sample(k).z, np.ones(model.n), model.second_moment, etas).w for k in seeds])
    return summary(alignments(w, model), model.pi)


def summary(align: Alignments, pi: float) -> dict[str, np.ndarray]:
    """M, A, s, test error, Adv* and v of interpolators with the given alignments."""
    return align._asdict() | {f.__name__: f(*align, pi) for f in (error, advantage)} | {"v": variance(*align, pi)}


def match_g(sample: Sample, model: DataModel, M: float) -> float:
    """The g for which the minimum-norm interpolator of G = diag(g, 1, ..., 1) has majority alignment M.

    M falls from its limit at g = 0 towards 0; raises ValueError where no g in [1e-3, 1e4] attains it.
    """

    def excess(log_g):
        return diagonal_alignments(sample, model, np.exp(log_g)).M - M

    ends = np.log(1e-3), np.log(1e4)
    if excess(ends[0]) < 0 or excess(ends[1]) > 0:
        raise ValueError(f"M = {M} is attained by no g in [1e-3, 1e4].")
    return float(np.exp(brentq(excess, *ends)))


def diagonal_alignments(sample: Sample, model: DataModel, g: float) -> Alignments:
    """Alignments of the minimum-norm interpolator with G = diag(g, 1, ..., 1)."""
    G = np.ones(model.d)
    G[0] = g
    return alignments(min_norm(sample.z, np.ones(model.n), G), model)


def plane_metric(model: DataModel, eta: float) -> np.ndarray:
    """D of Proposition 3 for G = I + eta E[xx'], up to scale: (2, 2). Needs sigma_par = 0."""
    return (np.eye(2) + eta * model.second_moment[:2, :2]) / (1 + eta * model.sigma**2)


class Reduction(NamedTuple):
    """Proposition 3: theta (2,), the plane part of w; r (2,), the group residuals; s."""

    theta: np.ndarray
    r: np.ndarray
    s: float


def group_wishart(sample: Sample, model: DataModel) -> np.ndarray:
    """V of Proposition 3, (2, 2), distributed as sigma^2 W_2(d - n): V^-1 = T'(Xi Xi')^-1 T, T the group indicators."""
    noise = sample.z[:, 2:]
    T = np.stack([~sample.minority / np.sqrt(model.p), sample.minority / np.sqrt(model.q)], axis=1)
    return np.linalg.inv(T.T @ np.linalg.solve(noise @ noise.T, T))


def group_means(model: DataModel) -> tuple[np.ndarray, np.ndarray]:
    """B (2, 2) and t (2,) of Proposition 3: the group means and targets, each scaled by the root of its count."""
    t = np.sqrt([model.p, model.q])
    return t[:, None] * np.stack([model.mu_maj[:2], model.mu_min[:2]]), t


def reduction(V, D, model: DataModel) -> Reduction:
    """Proposition 3: the interpolator of G = D + I (off-plane) from the 2 x 2 matrix V alone. Needs sigma_par = 0."""
    if model.sigma_par != 0:
        raise ValueError(f"sigma_par must be 0 for the exact reduction, but it is {model.sigma_par}.")
    B, t = group_means(model)
    weight = B.T @ np.linalg.inv(V)
    theta = np.linalg.solve(D + weight @ B, weight @ t)
    r = t - B @ theta
    return Reduction(theta, r, float(model.sigma * np.sqrt(r @ np.linalg.solve(V, r))))


def spread(model: DataModel) -> float:
    """lambda = sigma^2 (d - n): V's mean is lambda I."""
    return model.sigma**2 * (model.d - model.n)


def reduction_bound(epsilon, D, model: DataModel) -> float:
    """Proposition 3's bound on ||theta - theta_bar|| where ||V / lambda - I|| <= epsilon < 1."""
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must lie in [0, 1), but it is {epsilon}.")
    lam = spread(model)
    r = reduction(lam * np.eye(2), D, model).r
    return float(epsilon * np.linalg.norm(r) / np.sqrt(lam * (1 - epsilon) * np.linalg.eigvalsh(D)[0]))


def wishart_tail(x: float, model: DataModel) -> tuple[float, float]:
    """Proposition 3's tail: (epsilon, probability) with P(||V / lambda - I|| <= epsilon) >= probability."""
    rate = (np.sqrt(2) + x) / np.sqrt(model.d - model.n)
    return float(2 * rate + rate**2), float(1 - 2 * np.exp(-(x**2) / 2))


def proposition4(g, model: DataModel) -> Alignments:
    """Proposition 4, eq. (11): alignments for D = diag(g, 1) and V = lambda I; g may be an array."""
    p, q, a, b, c, lam = model.p, model.q, model.a, model.b, model.c, spread(model)
    E = lam * (lam + q * b**2)
    F = lam * (p * a**2 + q * c**2) + p * q * a**2 * b**2
    maj = lam * ((lam + q * b**2) * g + q * c * (a + c)) / (E * g + F)
    min_ = lam * (lam * g + p * a * (a + c)) / (E * g + F)
    return Alignments(1 - maj, 1 - min_, np.sqrt((p * maj**2 + q * min_**2) / (model.d - model.n)))


def proposition4_rate(model: DataModel) -> float:
    """The constant exchange rate of Proposition 4, (a / c)(1 + q b^2 / lambda). Needs c > 0."""
    if model.c == 0:
        raise ValueError("c must be positive: without geometric anti-alignment A does not move.")
    return model.a / model.c * (1 + model.q * model.b**2 / spread(model))


def advantage_ceiling(model: DataModel) -> float:
    """Proposition 4's maximum of Adv* when q / n = pi: Phi(sqrt((d - n) / n)), reached where M = A."""
    return float(ndtr(np.sqrt((model.d - model.n) / model.n)))
