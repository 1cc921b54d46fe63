"""The mixture of Figure 5: three Gaussian clusters in the plane, their densities, Bayes rule, samples and quadrature."""

import functools
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from samlib.checks import as_array, as_number

RED, BLUE = 1, -1
CLUSTERS = ("typical", "atypical", "blue")


@dataclass(frozen=True)
class Mixture:
    """Three round Gaussian clusters in the plane: typical and atypical red (+1), blue (-1). Defaults: Figure 5's geometry.

    Parameters
    ----------
    typical_mean, atypical_mean, blue_mean : pair of float
        The clusters' centres.
    typical_spread, atypical_spread, blue_spread : float
        Their standard deviations on each axis, positive.
    atypical_share : float
        The atypical part of red, in 0 to 1.
    red_share : float
        Red's part of the population, in 0 to 1.

    Raises
    ------
    ValueError
        If a parameter is outside its range.

    Examples
    --------
    >>> mixture = Mixture()
    >>> mixture.shares
    array([0.4, 0.1, 0.5])
    >>> mixture.bayes([[-1.3, -0.2], [0.6, 0.0]])
    array([ 1, -1])
    """

    typical_mean: tuple[float, float] = (-1.3, -0.2)
    typical_spread: float = 0.6
    atypical_mean: tuple[float, float] = (2.2, 0.6)
    atypical_spread: float = 0.35
    blue_mean: tuple[float, float] = (0.6, 0.0)
    blue_spread: float = 0.55
    atypical_share: float = 0.2
    red_share: float = 0.5

    def __post_init__(self):
        for cluster in CLUSTERS:
            mean = as_points(f"{cluster}_mean", getattr(self, f"{cluster}_mean"), ndim=1)
            object.__setattr__(self, f"{cluster}_mean", tuple(mean.tolist()))
            as_number(f"{cluster}_spread", getattr(self, f"{cluster}_spread"), strict=True)
        for name in ("atypical_share", "red_share"):
            as_number(name, getattr(self, name), 0, 1)

    @property
    def shares(self) -> np.ndarray:
        """Population shares of the typical, atypical and blue clusters, (3,)."""
        red, atypical = self.red_share, self.atypical_share
        return np.array([red * (1 - atypical), red * atypical, 1 - red])

    @property
    def clusters(self) -> list[tuple[np.ndarray, float]]:
        """Mean (2,) and spread of the typical, atypical and blue cluster."""
        return [(np.array(getattr(self, f"{name}_mean")), getattr(self, f"{name}_spread")) for name in CLUSTERS]

    def log_densities(self, x) -> np.ndarray:
        """log p(x | cluster) for the typical, atypical and blue cluster: x (n, 2) to (n, 3)."""
        x = as_points("x", x)
        return np.stack([norm.logpdf(x, mean, spread).sum(1) for mean, spread in self.clusters], axis=1)

    def density(self, x) -> np.ndarray:
        """Joint densities p(x, red) and p(x, blue): x (n, 2) to (n, 2). Their sum is the density of x."""
        typical, atypical, blue = (np.exp(self.log_densities(x)) * self.shares).T
        return np.stack([typical + atypical, blue], axis=1)

    def decision(self, x) -> np.ndarray:
        """log p(x, red) - log p(x, blue), (n,), without overflow; infinite where a class has share 0.

        So the mixture is a predictor: its own Bayes rule.
        """
        with np.errstate(divide="ignore"):
            typical, atypical, blue = (self.log_densities(x) + np.log(self.shares)).T
        return np.logaddexp(typical, atypical) - blue

    def bayes(self, x) -> np.ndarray:
        """The Bayes-optimal label of each point, (n,) in {-1, 1}."""
        return as_signs(self.decision(x))

    def sample(self, n_typical: int, n_atypical: int, n_blue: int, seed=0):
        """Draw given counts of each cluster.

        Parameters
        ----------
        n_typical, n_atypical, n_blue : int
            Counts, not all 0.
        seed : int, tuple of int or numpy.random.Generator
            The typical and blue points of a seed do not depend on `n_atypical`.

        Returns
        -------
        x : (n, 2) ndarray
            Points, in cluster order.
        y : (n,) ndarray of int
            Labels in {-1, 1}.
        atypical : (n,) ndarray of bool

        Raises
        ------
        ValueError
            If a count is negative, or all are 0.
        """
        given = {"n_typical": n_typical, "n_atypical": n_atypical, "n_blue": n_blue}
        counts = [as_number(name, count, 0, whole=True) for name, count in given.items()]
        if not any(counts):
            raise ValueError("n_typical, n_atypical and n_blue are all 0: there is nothing to draw.")
        rng = np.random.default_rng(seed)
        noise = {k: rng.standard_normal((counts[k], 2)) for k in (0, 2, 1)}
        x = [mean + spread * noise[k] for k, (mean, spread) in enumerate(self.clusters)]
        return np.concatenate(x), np.repeat([RED, RED, BLUE], counts), np.repeat([False, True, False], counts)

    def sample_test(self, n: int, seed=0):
        """`sample` of n points, with random counts that follow the population's shares."""
        rng = np.random.default_rng(seed)
        typical, atypical, blue = rng.multinomial(as_number("n", n, 1, whole=True), self.shares)
        return self.sample(typical, atypical, blue, rng)


@functools.lru_cache(maxsize=8)
def quadrature(mixture: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A fixed midpoint rule for each cluster on +-5 standard deviations, step 1/16.

    Against closed forms the error of a half-plane's probability is below 1e-3 in the worst case and typically 1e-4. Unlike
    a test sample it is the same for every predictor.

    Parameters
    ----------
    mixture : Mixture

    Returns
    -------
    x : (n, 2) ndarray
        Points.
    cluster : (n,) ndarray of int
        0 to 2.
    weight : (n,) ndarray
        The weights of each cluster sum to 1.

    Examples
    --------
    >>> x, cluster, weight = quadrature(Mixture())
    >>> round(float(weight.sum()), 6)
    3.0
    """
    z = np.arange(-5 + 1 / 32, 5, 1 / 16)
    grid = np.stack(np.meshgrid(z, z, indexing="ij"), -1).reshape(-1, 2)
    weight = np.exp(-(grid**2).sum(1) / 2)
    x = np.concatenate([mean + spread * grid for mean, spread in mixture.clusters])
    return x, np.repeat(np.arange(3), len(grid)), np.tile(weight / weight.sum(), 3)


def as_points(name: str, value, ndim: int = 2) -> np.ndarray:
    """`value` as points of the plane, (n, 2); as one point, (2,), if `ndim` is 1. Raises ValueError for anything else.

    Examples
    --------
    >>> as_points("origin", (1, 2), ndim=1)
    array([1., 2.])
    """
    points = as_array(name, value, ndim=ndim).astype(float)
    if points.shape[-1] != 2:
        raise ValueError(f"{name} must hold 2 coordinates for a point, but its shape is {points.shape}.")
    return points


def as_signs(score: np.ndarray) -> np.ndarray:
    """Labels of scores (n,): red (+1) at 0 and above.

    Examples
    --------
    >>> as_signs(np.array([0.0, -1.0]))
    array([ 1, -1])
    """
    return np.where(score >= 0, RED, BLUE)
