"""One source of random problems, for every check and for the ledger's rows on the theorems."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from samlib.paper.theory.model import DataModel


class Problems:
    """Random problems from one seed.

    Parameters
    ----------
    seed : int
        The source of randomness.
    scale : float
        Factor on the number of problems that a check asks for.

    Attributes
    ----------
    rng : numpy.random.Generator
        The generator that all problems come from.

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
