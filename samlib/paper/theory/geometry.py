"""Minimum-G-norm interpolation: Theorem 3, its warning, and the exact G-path."""

from typing import NamedTuple

import numpy as np

from samlib.paper.theory.checking import above, always, directions, equal, least
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
