"""The MSA order, Theorems 1 and 2, the window of Corollary 1 and its counterexamples."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from samlib.paper.theory.model import DataModel, advantage, alignments, error, interpolates


def msa_at_least(w1, w2, z, model: DataModel, tolerance: float = 1e-9) -> bool:
    """Definition 2: whether w1 is at least w2 in the MSA order, that is (C1) to (C4) hold, each to `tolerance`."""
    first, second = alignments(w1, model), alignments(w2, model)
    return bool(
        interpolates(w1, z, tolerance)
        and interpolates(w2, z, tolerance)
        and abs(first.s - second.s) <= tolerance
        and second.A - tolerance <= first.A
        and second.M + tolerance >= first.M
    )


def exchange_rate(M1, A1, M2, A2):
    """kappa = (M2 - M1) / (A1 - A2) of Definition 2: majority alignment paid per unit of minority alignment."""
    return (M2 - M1) / (A1 - A2)


def error_difference(M1, A1, M2, A2, pi, cdf: Callable):
    """Theorem 1, eq. (6): err(w2) - err(w1) for a shared noise law F_B, given as its `cdf`."""
    return pi * (cdf(A1) - cdf(A2)) - (1 - pi) * (cdf(M2) - cdf(M1))


def advantage_difference(M1, A1, M2, A2, pi, cdf: Callable):
    """Theorem 2, eq. (8): Adv*(w1) - Adv*(w2), which is eq. (6) shifted by the member level 1, with the sign turned."""
    return (1 - pi) * (cdf(M2 - 1) - cdf(M1 - 1)) - pi * (cdf(A1 - 1) - cdf(A2 - 1))


def log_price(M1, A1, M2, A2, pi):
    """log Lambda of Definition 2, Lambda = (1 - pi) kappa / pi; -inf where kappa = 0."""
    with np.errstate(divide="ignore"):
        return np.log((1 - pi) / pi * exchange_rate(M1, A1, M2, A2))


def theorem1_condition(M1, A1, M2, A2, s, pi):
    """Theorem 1(ii), eq. (7): sufficient, for Gaussian noise, A1 > A2 and 0 <= M1 <= M2, for err(w1) < err(w2)."""
    return (M1 >= 0) & (s**2 * log_price(M1, A1, M2, A2, pi) <= (M1**2 - np.maximum(A1**2, A2**2)) / 2)


def theorem2_condition(M1, A1, M2, A2, s, pi):
    """Theorem 2(ii), eq. (9): sufficient, for Gaussian noise, A1 > A2 and M1 < M2, for Adv*(w1) >= Adv*(w2)."""
    farthest = np.maximum((1 - M1) ** 2, (1 - M2) ** 2)
    nearest = (1 - np.clip(1, A2, A1)) ** 2
    return (M1 < M2) & (s**2 * log_price(M1, A1, M2, A2, pi) >= (farthest - nearest) / 2)


class Slopes(NamedTuple):
    """Derivatives of test error and of Adv* per unit of A."""

    error: np.ndarray
    advantage: np.ndarray


def slopes(M, A, s, kappa, pi) -> Slopes:
    """Derivatives along a path of Corollary 1 (A' = 1, M' = -kappa, fixed s)."""

    def phi(t):
        return np.exp(-(t**2) / 2) / np.sqrt(2 * np.pi)

    return Slopes(
        ((1 - pi) * kappa * phi(M / s) - pi * phi(A / s)) / s,
        ((1 - pi) * kappa * phi((1 - M) / s) - pi * phi((1 - A) / s)) / s,
    )


def window(M, A):
    """Corollary 1, eq. (10): the open interval of s^2 log((1 - pi) kappa / pi) in which error falls and advantage rises.

    Returns (low, high), of width M - A; empty (low >= high) where A >= M.
    """
    high = (M**2 - A**2) / 2
    return high - (M - A), high


def kappa_window(M, A, s, pi):
    """Corollary 1 solved for kappa: (low, high), infinite where it exceeds floating point."""
    with np.errstate(over="ignore"):
        return tuple(pi / (1 - pi) * np.exp(np.asarray(bound) / s**2) for bound in window(M, A))


class Comparison(NamedTuple):
    """Two models by their alignments; the differences are w1 minus w2."""

    M1: float
    A1: float
    M2: float
    A2: float
    s1: float
    s2: float
    pi: float

    @property
    def error(self) -> float:
        """err(w1) - err(w2)."""
        return float(error(self.M1, self.A1, self.s1, self.pi) - error(self.M2, self.A2, self.s2, self.pi))

    @property
    def advantage(self) -> float:
        """Adv*(w1) - Adv*(w2)."""
        return float(advantage(self.M1, self.A1, self.s1, self.pi) - advantage(self.M2, self.A2, self.s2, self.pi))


def ce1() -> Comparison:
    """No anti-alignment (kappa = 0): more A lowers error and also lowers advantage, so Theorem 2 needs (C4)."""
    return Comparison(M1=0.9, A1=0.5, M2=0.9, A2=0.1, s1=0.4, s2=0.4, pi=0.1)


def ce2() -> tuple[Comparison, Comparison]:
    """kappa too large, and an unsaturated majority with a moderate kappa: advantage rises, but so does error."""
    dear = Comparison(M1=0.2, A1=0.0, M2=0.9, A2=-0.05, s1=0.2, s2=0.2, pi=0.1)
    unsaturated = Comparison(M1=0.1, A1=0.0, M2=0.3, A2=-0.2, s1=0.3, s2=0.3, pi=0.1)
    return dear, unsaturated


def ce3() -> tuple[float, float]:
    """Alignments (M, A) with A >= M: the window of Corollary 1 is empty, whatever kappa, s and pi."""
    return 0.3, 0.5


def ce4() -> tuple[Comparison, ...]:
    """Without (C2): M and A equal, s1 > s2 alone; between them error and advantage each go both ways."""
    return (
        Comparison(M1=0.9, A1=0.3, M2=0.9, A2=0.3, s1=0.3, s2=0.15, pi=0.1),
        Comparison(M1=0.9, A1=-0.3, M2=0.9, A2=-0.3, s1=0.3, s2=0.15, pi=0.1),
        Comparison(M1=1.2, A1=0.9, M2=1.2, A2=0.9, s1=0.3, s2=0.15, pi=0.1),
    )
