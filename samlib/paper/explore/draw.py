"""The explorer's draw: a small generator that Python and JavaScript share bit for bit, so that both fit the same points."""

import numpy as np

from samlib.paper.mixture import BLUE, RED, Mixture


def mix(h: np.ndarray) -> np.ndarray:
    """A bijection of 32-bit words that flips every output bit with probability near 1/2: two multiply-xorshift rounds.

    The multipliers are Wellons's "lowbias32" (hash prospector, 2018).

    Parameters
    ----------
    h : (n,) uint32 array

    Returns
    -------
    (n,) uint32 ndarray

    Examples
    --------
    >>> mix(np.array([0], np.uint32))
    array([0], dtype=uint32)
    """
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D)
    h = (h ^ (h >> np.uint32(15))) * np.uint32(0x846CA68B)
    return h ^ (h >> np.uint32(16))


def uniforms(seed: int, stream: int, n: int) -> np.ndarray:
    """Uniform numbers in (0, 1), multiples of 2^-33: `mix` of a counter (steps of the golden ratio) from a key.

    Parameters
    ----------
    seed, stream : int
        Each pair of them has its own sequence.
    n : int
        How many. A longer sequence begins with the shorter one.

    Returns
    -------
    (n,) ndarray

    Examples
    --------
    >>> uniforms(0, 0, 2).tolist() == uniforms(0, 0, 3)[:2].tolist()
    True
    """
    key = mix(mix(np.array([seed], np.uint32)) + np.uint32(stream))
    counter = np.arange(1, n + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
    return (mix(key + counter) + 0.5) / 2.0**32


def normals(seed: int, stream: int, n: int) -> np.ndarray:
    """Independent standard normal points, by Box and Muller. Arguments as `uniforms`.

    Returns
    -------
    (n, 2) ndarray

    Examples
    --------
    >>> normals(0, 0, 3).shape
    (3, 2)
    """
    first, second = uniforms(seed, stream, 2 * n).reshape(n, 2).T
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def draw(n_typical: int, n_atypical: int, n_blue: int, seed: int = 0, mixture: Mixture | None = None):
    """As `Mixture.sample`, but from `normals`: more points move none of the others, and a browser draws the same.

    Parameters
    ----------
    n_typical, n_atypical, n_blue : int
        Counts of each cluster.
    seed : int
    mixture : Mixture, optional

    Returns
    -------
    x : (n, 2) ndarray
    y : (n,) ndarray of int
        Labels in {-1, 1}.
    atypical : (n,) ndarray of bool

    Examples
    --------
    >>> x, y, atypical = draw(5, 2, 3)
    >>> int(atypical.sum())
    2
    """
    mixture, counts = mixture or Mixture(), (n_typical, n_atypical, n_blue)
    x = [mean + spread * normals(seed, c, counts[c]) for c, (mean, spread) in enumerate(mixture.clusters)]
    return np.concatenate(x), np.repeat([RED, RED, BLUE], counts), np.repeat([False, True, False], counts)
