"""The data model, alignments, the attacker and the gaps: Definitions 1, 3 and 4, Lemma 2, Proposition 2; random problems.

Almost everywhere, only three numbers of a linear score f_w(x) = <w, x> matter: its alignments M (majority) and A (minority),
and its nuisance scale s. Functions of (M, A, s) take numbers or arrays that broadcast.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from samlib.checks import as_array, as_number
from samlib.paper.theory.checking import equal, estimated, least


class Sample(NamedTuple):
    """Points x (n, d), labels y (n,) in {-1, 1}, which are of the minority (n,), and z = y x (n, d), which margins use."""

    x: np.ndarray
    y: np.ndarray
    minority: np.ndarray
    z: np.ndarray


@dataclass(frozen=True)
class DataModel:
    """Definition 1, with e1 and e2 the first two coordinates; the defaults are those of the book's tables.

    x = y mu + xi. The mean mu is a e1 for the majority and b e2 - c e1 for the minority; xi is Gaussian.

    Parameters
    ----------
    d : int
        Dimension, at least p + q + 3.
    p, q : int
        Numbers of majority and minority points in a training sample.
    a, b, c : float
        Lengths of the means; a and b are positive, c is at least 0.
    sigma, sigma_par : float
        Standard deviation of the noise outside the plane of e1 and e2 (positive), and inside it.
    pi : float
        Minority share of the population, between 0 and 1/2.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    Examples
    --------
    >>> model = DataModel(d=30, p=8, q=2)
    >>> model.n, model.sample(seed=0).x.shape
    (10, (10, 30))
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
        for name in ("p", "q"):
            as_number(name, getattr(self, name), 1, whole=True)
        as_number("d", self.d, self.n + 3, whole=True, why=" = p + q + 3")
        for name in ("a", "b", "c", "sigma", "sigma_par"):
            as_number(name, getattr(self, name), strict=name in ("a", "b", "sigma"))
        as_number("pi", self.pi, 0, 0.5, strict=True)

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
        """A training sample: p majority points, then q minority points. `seed` is a number or a generator."""
        return self._draw(np.repeat([False, True], [self.p, self.q]), np.random.default_rng(seed))

    def fresh(self, n: int, seed=0) -> Sample:
        """`n` fresh points of the population, each of the minority with probability pi."""
        rng = np.random.default_rng(seed)
        return self._draw(rng.random(n) < self.pi, rng)

    def _draw(self, minority, rng) -> Sample:
        y = rng.choice([-1.0, 1.0], len(minority))
        noise = rng.standard_normal((len(minority), self.d)) * np.sqrt(self.gamma)
        x = y[:, None] * np.where(minority[:, None], self.mu_min, self.mu_maj) + noise
        return Sample(x, y, minority, y[:, None] * x)


class Alignments(NamedTuple):
    """M, A and s of eq. (1): numbers for one w (d,), arrays (...) for w (..., d)."""

    M: np.ndarray
    A: np.ndarray
    s: np.ndarray


def alignments(w, model: DataModel) -> Alignments:
    """Eq. (1): M = <w, mu_maj>, A = <w, mu_min>, s = sqrt(w' Gamma w).

    Parameters
    ----------
    w : (..., d) array_like
        Weights.
    model : DataModel

    Returns
    -------
    Alignments

    Raises
    ------
    ValueError
        If the last axis of `w` does not hold d coordinates.

    Examples
    --------
    >>> model = DataModel()
    >>> float(alignments(model.mu_maj, model).M)
    2.25
    """
    w = as_array("w", w)
    if w.shape[-1] != model.d:
        raise ValueError(f"w must have {model.d} coordinates on its last axis, but its shape is {w.shape}.")
    return Alignments(w @ model.mu_maj, w @ model.mu_min, np.sqrt((w * w) @ model.gamma))


def interpolates(w, z, tolerance: float = 1e-9) -> bool:
    """Whether w (d,) gives each training row of z (n, d) the margin 1, to `tolerance`.

    Examples
    --------
    >>> interpolates([1.0, 0.0], np.array([[1.0, 5.0], [1.0, 7.0]]))
    True
    """
    return bool(np.abs(z @ w - 1).max() <= tolerance)


def fresh_below(tau, M, A, s, pi):
    """P(m_w < tau) for a fresh point.

    Parameters
    ----------
    tau : array_like
        Thresholds.
    M, A, s, pi : array_like
        Alignments, nuisance scale and minority share.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(fresh_below(1.0, 1.0, 1.0, 0.3, 0.1))
    0.5
    """
    return (1 - pi) * ndtr((tau - M) / s) + pi * ndtr((tau - A) / s)


def error(M, A, s, pi):
    """Test error (Definition 4), P(m_w < 0): (1 - pi) Phi(-M / s) + pi Phi(-A / s). Arguments as for `fresh_below`.

    Examples
    --------
    >>> float(error(0.0, 0.0, 1.0, 0.1))
    0.5
    """
    return fresh_below(0, M, A, s, pi)


def variance(M, A, s, pi):
    """Var f_w(x) = (1 - pi) M^2 + pi A^2 + s^2, the quantity v that a G-path contracts. Arguments as for `error`.

    Examples
    --------
    >>> variance(1.0, 0.0, 2.0, 0.5)
    4.5
    """
    return (1 - pi) * M**2 + pi * A**2 + s**2


def advantage(M, A, s, pi, tau=1.0):
    """Adv(w; tau) of eq. (2) for an interpolator: all members have margin 1. At tau = 1 it is Adv* (Lemma 3, eq. 5).

    Parameters
    ----------
    M, A, s, pi : array_like
        As for `error`.
    tau : array_like
        Thresholds.

    Returns
    -------
    float or ndarray

    Examples
    --------
    >>> float(advantage(1.0, 1.0, 0.3, 0.1))
    0.5
    """
    return fresh_below(tau, M, A, s, pi) - (np.asarray(tau) > 1)


def best_advantage(margins, M, A, s, pi):
    """Adv* of eq. (2) for any training margins. The best threshold among them attains the supremum.

    Parameters
    ----------
    margins : (..., n) array_like
        Training margins.
    M, A, s, pi : (...) array_like
        As for `error`.

    Returns
    -------
    float or (...) ndarray

    Examples
    --------
    >>> float(best_advantage([1.0, 1.0], 1.0, 1.0, 0.3, 0.1))
    0.5
    """
    tau = np.sort(margins, axis=-1)
    members_above = 1 - np.arange(tau.shape[-1]) / tau.shape[-1]
    M, A, s = (np.asarray(value)[..., None] for value in (M, A, s))
    return np.maximum(0, (members_above - 1 + fresh_below(tau, M, A, s, pi)).max(-1))


def gaps(w, sample: Sample, model: DataModel, minority: bool = False) -> tuple[float, float, float]:
    """The gaps of Definition 4, from a subclass's training margins and the exact law of its fresh margins.

    Parameters
    ----------
    w : (d,) array
        Weights.
    sample : Sample
        The training sample.
    model : DataModel
    minority : bool
        Of which subclass: the minority or the majority.

    Returns
    -------
    confidence, accuracy, advantage : float
        Confidence gap, accuracy gap, and the advantage at threshold 1.

    Examples
    --------
    >>> model = DataModel(sigma_par=0.1)
    >>> round(float(gaps(model.mu_maj, model.sample(), model, minority=True)[1]), 6) + 0.0
    0.0
    """
    M, A, s = alignments(w, model)
    mean, margins = A if minority else M, sample.z[sample.minority == minority] @ w
    at_one = (margins >= 1 - 1e-9).mean() - ndtr((mean - 1) / s)
    return margins.mean() - mean, (margins > 0).mean() - ndtr(mean / s), at_one


class Problems:
    """Random problems, for every check and for the ledger's rows on the theorems. All come from the generator `rng`.

    Parameters
    ----------
    seed : int
        The source of randomness.
    scale : float
        Factor on the number of problems that a check asks for.

    Examples
    --------
    >>> problems = Problems(seed=0, scale=0.1)
    >>> problems.count(1000)
    100
    >>> M, A, s, pi = problems.alignments(1000)
    >>> M.shape
    (100,)
    """

    def __init__(self, seed: int = 0, scale: float = 1.0):
        self.rng, self.scale = np.random.default_rng(seed), scale

    def count(self, number: int) -> int:
        """`number` scaled, and at least 4."""
        return max(4, round(number * self.scale))

    def models(self, number: int, **fixed) -> Iterator[DataModel]:
        """`count(number)` data models with random sizes, means, noise and minority share. `fixed` sets fields for all."""
        for _ in range(self.count(number)):
            p, q, more = (int(k) for k in self.rng.integers((4, 1, 4), (16, 6, 30)))
            a, b, c, sigma, plane, pi = self.rng.uniform((0.5, 0.5, 0, 0.1, 0.05, 0.02), (2, 2, 1.5, 1, 1, 0.48))
            yield replace(DataModel(p + q + more, p, q, a, b, c, sigma, plane * self.rng.integers(2), pi), **fixed)

    def interpolator(self, z: np.ndarray) -> np.ndarray:
        """An interpolator of z (n, d): the one of minimum norm plus a random kernel direction, (d,)."""
        w = np.linalg.lstsq(z, np.ones(len(z)), rcond=None)[0]
        kernel = np.linalg.svd(z)[2][len(z) :]
        away = self.rng.standard_normal(len(kernel)) @ kernel / len(kernel) ** 0.5
        return w + self.rng.uniform(0, 1) * np.linalg.norm(w) * away

    def alignments(self, number: int) -> tuple[np.ndarray, ...]:
        """M, A, s and pi of `count(number)` models, an array each."""
        n, rng = self.count(number), self.rng
        M, A = rng.uniform(-1, 1.3, (2, n))
        return M, A, 10 ** rng.uniform(-1, 0.5, n), rng.uniform(0.01, 0.49, n)

    def pairs(self, number: int) -> dict[str, np.ndarray]:
        """`count(number)` pairs ordered by Definition 2: M1 <= M2, A1 > A2, a shared s, and pi, an array each."""
        n, rng = self.count(number), self.rng
        M1, A2, (paid, gained) = rng.uniform(-0.2, 1.3, n), rng.uniform(-1, 1, n), 10 ** rng.uniform(-3, 0, (2, n))
        s, pi = 10 ** rng.uniform(-1.5, 0.3, n), rng.uniform(0.01, 0.49, n)
        return {"M1": M1, "A1": A2 + gained, "M2": M1 + paid, "A2": A2, "s": s, "pi": pi}

    def linear(self, number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield `count(number)` times x (n, d), y (n,) and Sigma (d, d). Every third Sigma has rank 2."""
        rng = self.rng
        for k in range(self.count(number)):
            n = int(rng.integers(2, 9))
            d = n + int(rng.integers(2, 15))
            factor = rng.standard_normal((d, d + 2 if k % 3 else 2)) * np.exp(rng.normal(size=(d, 1)))
            yield rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n), factor @ factor.T / factor.shape[1]


def check_definitions(problems):
    """Definitions 1, 3 and 4: the formulas for margins, errors, advantages and gaps agree with counts of simulated points."""
    model = DataModel(d=40, p=14, q=4, sigma=0.4, sigma_par=0.2, pi=0.2)
    sample = model.sample(problems.rng)
    w, fresh = problems.interpolator(sample.z), model.fresh(problems.count(100_000), problems.rng)
    M, A, s = alignments(w, model)
    members, margin = sample.z @ w, fresh.z @ w
    for name, mean, minority in (("maj", M, False), ("min", A, True)):
        train, test = members[sample.minority == minority], margin[fresh.minority == minority]
        yield estimated(f"margins have the stated mean, {name}", test, mean)
        yield estimated(f"margins have variance s^2, {name}", (test - mean) ** 2, s**2)
        confidence, accuracy, _ = gaps(w, sample, model, minority)
        yield estimated(f"confidence gap, {name}", train.mean() - test, confidence)
        yield estimated(f"accuracy gap, {name}", (train > 0).mean() - (test > 0), accuracy)
    yield estimated("err", margin <= 0, error(M, A, s, model.pi))
    yield estimated("v is the variance of f", margin**2, variance(M, A, s, model.pi))
    tau = np.array([-0.5, 0.0, 0.5, 0.9, 0.999, 1.5])
    counted = (members[:, None] >= tau).mean(0) - (margin[:, None] >= tau)
    yield estimated("Adv(tau)", counted, advantage(M, A, s, model.pi, tau))
    best = best_advantage(members, M, A, s, model.pi)
    yield least("no threshold beats Adv*", best - advantage(M, A, s, model.pi, np.linspace(-3, 3, 6_001)), -1e-9)
    yield equal("Adv* is reached at the members' level", best - advantage(M, A, s, model.pi), 1e-9)


def check_lemma2(problems):
    """Lemma 2: the gaps of both subclasses, eq. (4), for random interpolators of random models."""
    for model in problems.models(100):
        sample = model.sample(problems.rng)
        w = problems.interpolator(sample.z)
        M, A, s = alignments(w, model)
        for minority, mean, mu in ((False, M, model.mu_maj), (True, A, model.mu_min)):
            noise = (sample.z[sample.minority == minority] - mu) @ w
            confidence, accuracy, leak = gaps(w, sample, model, minority)
            yield equal("confidence gap is the mean fitted noise", confidence - noise.mean(), 1e-9)
            yield equal("confidence gap is 1 - M (1 - A)", confidence - (1 - mean), 1e-9)
            yield equal("accuracy gap is Phi(-M / s)", accuracy - ndtr(-mean / s), 1e-9)
            yield equal("advantage at 1 is Phi(gap / s)", leak - ndtr(confidence / s), 1e-9)


def check_proposition2(problems):
    """Proposition 2: Adv* is the attack's AUC (fresh margins against members at 1), and it is never below the error."""
    M, A, s, pi = (values[:4] for values in problems.alignments(40))
    n = problems.count(50_000)
    share, noise = problems.rng.random((n, 4)), problems.rng.standard_normal((n, 4))
    yield estimated("AUC is Adv*", np.where(share < pi, A, M) + s * noise < 1, advantage(M, A, s, pi))
    many = problems.alignments(50_000)
    yield least("Adv* >= err", advantage(*many) - error(*many), -1e-12)
