"""Properties of samples and their interpolators: Remark 1, Lemma 1 (near-orthogonality), Proposition 1 (pairs exist)."""

import math

import numpy as np
from scipy.linalg import null_space
from scipy.special import betainc
from scipy.stats import binom

from samlib.checks import as_number
from samlib.paper.theory.checking import equal, estimated, least, likely, most
from samlib.paper.theory.model import DataModel, alignments


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
