"""Data model, alignments, attacker and gaps (Definitions 1 to 4, Lemmas 1 to 3, Propositions 1 and 2).

A linear score f_w(x) = <w, x> enters almost everywhere only through its alignments M (majority) and A (minority) and its
nuisance scale s; functions of (M, A, s) broadcast over arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import betainc, ndtr

from samlib.checks import as_array


class Sample(NamedTuple):
    """Points x (n, d), labels y (n,) in {-1, 1}, minority (n,) bool, and z = y x (n, d), the rows that margins use."""

    x: np.ndarray
    y: np.ndarray
    minority: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class DataModel:
    """Definition 1, with e1 and e2 the first two coordinates; the defaults are those of the book's tables.

    x = y mu + xi; mu = a e1 for the majority and b e2 - c e1 for the minority (probability `pi`); xi is Gaussian with
    deviation `sigma_par` in the plane of e1, e2 and `sigma` off it. A training sample has p majority and q minority points.
    Raises ValueError outside the definition's ranges.
    """

    d: int = 200
    p: int = 57
    q: int = 3
    a: float = 1.5
    b: float = 1.0
    c: float = 0.8
    sigma: float = 0.3
    sigma_par: float = 0.0
    pi: float = 0.1

    def __post_init__(self):
        for name in ("d", "p", "q"):
            if getattr(self, name) != int(getattr(self, name)) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, but it is {getattr(self, name)}.")
        if self.d < self.n + 3:
            raise ValueError(f"d must be at least p + q + 3 = {self.n + 3}, but it is {self.d}.")
        for name, least in {"a": False, "b": False, "sigma": False, "c": True, "sigma_par": True}.items():
            value = getattr(self, name)
            if not (value >= 0 if least else value > 0) or not math.isfinite(value):
                raise ValueError(
                    f"{name} must be {'at least 0' if least else 'positive'} and finite, but it is {value}."
                )
        if not 0 < self.pi < 0.5:
            raise ValueError(f"pi must lie strictly between 0 and 1/2, but it is {self.pi}.")

    @property
    def n(self) -> int:
        """Number of training points, p + q."""
        return self.p + self.q

    @property
    def mu_maj(self) -> np.ndarray:
        """Majority mean a e1, (d,)."""
        return np.pad([self.a], (0, self.d - 1))

    @property
    def mu_min(self) -> np.ndarray:
        """Minority mean b e2 - c e1, (d,)."""
        return np.pad([-self.c, self.b], (0, self.d - 2))

    @property
    def gamma(self) -> np.ndarray:
        """Diagonal of the noise covariance, (d,)."""
        return np.repeat([self.sigma_par**2, self.sigma**2], [2, self.d - 2])

    @property
    def second_moment(self) -> np.ndarray:
        """Population curvature E[x x'], (d, d)."""
        between = (1 - self.pi) * np.outer(self.mu_maj, self.mu_maj) + self.pi * np.outer(self.mu_min, self.mu_min)
        return between + np.diag(self.gamma)

    def sample(self, seed=0) -> Sample:
        """The training sample D: p majority points, then q minority points."""
        return self._draw(np.repeat([False, True], [self.p, self.q]), np.random.default_rng(seed))

    def fresh(self, n: int, seed=0) -> Sample:
        """n fresh points of the population, minority with probability pi."""
        rng = np.random.default_rng(seed)
        return self._draw(rng.random(n) < self.pi, rng)

    def _draw(self, minority, rng) -> Sample:
        y = rng.choice([-1.0, 1.0], len(minority))
        noise = rng.standard_normal((len(minority), self.d)) * np.sqrt(self.gamma)
        x = y[:, None] * np.where(minority[:, None], self.mu_min, self.mu_maj) + noise
        return Sample(x, y, minority, y[:, None] * x)


class Alignments(NamedTuple):
    """M, A and s of eq. (1): floats for one w (d,), arrays (...) for w (..., d)."""

    M: np.ndarray
    A: np.ndarray
    s: np.ndarray


def alignments(w, model: DataModel) -> Alignments:
    """Eq. (1): M = <w, mu_maj>, A = <w, mu_min>, s = sqrt(w' Gamma w), for w (..., d)."""
    w = as_array("w", w)
    if w.shape[-1] != model.d:
        raise ValueError(f"w must have {model.d} coordinates on its last axis, but its shape is {w.shape}.")
    return Alignments(w @ model.mu_maj, w @ model.mu_min, np.sqrt((w * w) @ model.gamma))


def interpolates(w, z, tolerance: float = 1e-9) -> bool:
    """Whether w (d,) gives every training row of z (n, d) the margin 1."""
    return bool(np.abs(z @ w - 1).max() <= tolerance)


def error(M, A, s, pi):
    """Test error (Definition 4): (1 - pi) Phi(-M / s) + pi Phi(-A / s)."""
    return (1 - pi) * ndtr(-M / s) + pi * ndtr(-A / s)


def variance(M, A, s, pi):
    """Var f_w(x) = (1 - pi) M^2 + pi A^2 + s^2, the quantity v that a G-path contracts."""
    return (1 - pi) * M**2 + pi * A**2 + s**2


def fresh_below(tau, M, A, s, pi):
    """P(m_w < tau) for a fresh point."""
    return (1 - pi) * ndtr((tau - M) / s) + pi * ndtr((tau - A) / s)


def advantage(M, A, s, pi, tau=1.0):
    """Adv(w; tau) of eq. (2) for an interpolator, whose members sit at 1; tau = 1 is Adv* (Lemma 3, eq. 5)."""
    return fresh_below(tau, M, A, s, pi) - (np.asarray(tau) > 1)


def best_advantage(margins, M, A, s, pi):
    """Adv* of eq. (2) for any training margins (..., n): the best threshold among them, where the supremum is attained."""
    tau = np.sort(margins, axis=-1)
    members_above = 1 - np.arange(tau.shape[-1]) / tau.shape[-1]
    M, A, s = (np.asarray(value)[..., None] for value in (M, A, s))
    return np.maximum(0, (members_above - 1 + fresh_below(tau, M, A, s, pi)).max(-1))


class Gaps(NamedTuple):
    """Definition 4 on one subclass: confidence gap, accuracy gap, and the advantage at threshold 1."""

    confidence: float
    accuracy: float
    advantage: float


def gaps(w, sample: Sample, model: DataModel, subclass: str = "maj") -> Gaps:
    """Definition 4, from the training margins of `subclass` ("maj" or "min") and its exact fresh law."""
    if subclass not in ("maj", "min"):
        raise ValueError(f'subclass must be "maj" or "min", not {subclass!r}.')
    M, A, s = alignments(w, model)
    rows, mean = (sample.minority, A) if subclass == "min" else (~sample.minority, M)
    margins = sample.z[rows] @ w
    below = ndtr((1 - mean) / s)
    return Gaps(margins.mean() - mean, (margins > 0).mean() - ndtr(mean / s), (margins >= 1 - 1e-9).mean() - 1 + below)


def matched_interpolator(z, model: DataModel, M: float, A: float, s: float) -> np.ndarray:
    """Proposition 1: an interpolator of z (n, d) with alignments M, A and nuisance scale s.

    Raises ValueError where s lies below what this construction reaches.
    """
    base = np.linalg.lstsq(z, np.ones(len(z)), rcond=None)[0]
    kernel = np.linalg.svd(z)[2][len(z) :].T
    means = np.stack([model.mu_maj, model.mu_min], axis=1)
    inner = kernel.T @ means
    w = base + kernel @ np.linalg.lstsq(inner.T, np.array([M, A]) - base @ means, rcond=None)[0]
    free = kernel @ np.linalg.svd(inner.T)[2][-1]
    quadratic, half, rest = free**2 @ model.gamma, free @ (model.gamma * w), w**2 @ model.gamma - s**2
    root = half**2 - quadratic * rest
    if root < 0:
        least = math.sqrt(w**2 @ model.gamma - half**2 / quadratic)
        raise ValueError(f"s must be at least {least:.6g} for these alignments, but it is {s}.")
    return w + (math.sqrt(root) - half) / quadratic * free


def matched_pair(z, model: DataModel, first, second, s: float) -> tuple[np.ndarray, np.ndarray]:
    """Proposition 1: two interpolators of z with the same s and alignments (M, A) = `first` and `second`."""
    return matched_interpolator(z, model, *first, s), matched_interpolator(z, model, *second, s)


def cap_bound(t, dim: int):
    """Lemma 1's bound on the measure of {x on the unit sphere: x_1 >= t}: exp(-dim t^2 / 2)."""
    return np.exp(-dim * np.square(t) / 2)


def cap_measure(t, dim: int):
    """Its exact value for t in [0, 1]: half the regularized incomplete beta function at 1 - t^2."""
    return 0.5 * betainc((dim - 1) / 2, 0.5, 1 - np.square(t))


class NearOrthogonality(NamedTuple):
    """Lemma 1's three bounds: on absolute cosines, on relative squared-norm deviations, on absolute inner products with e_k."""

    cosine: float
    norm: float
    plane: float


def near_orthogonality(n: int, dim: int, delta: float, sigma: float = 1.0) -> NearOrthogonality:
    """Lemma 1, eq. (3): bounds for n Gaussian vectors of deviation sigma in R^dim, each with probability >= 1 - delta."""
    if n < 2 or dim < 2 or not 0 < delta < 1:
        raise ValueError(f"n and dim must be at least 2 and delta in (0, 1), but they are {n}, {dim} and {delta}.")
    x = math.log(2 * n / delta)
    return NearOrthogonality(
        math.sqrt(2 * math.log(n * (n - 1) / delta) / dim),
        2 * math.sqrt(x / dim) + 2 * x / dim,
        sigma * math.sqrt(2 * math.log(4 * n / delta)),
    )
