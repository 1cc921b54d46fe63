"""Generated data: each class has a majority and a rarer minority, and the subclass of every example is known."""

import numpy as np

from samlib.data.checked import Loaded


def subclasses(
    *, classes=20, features=256, a=1.0, b=0.8, c=0.4, every=5, noise=0.16, n_train=4000, n_test=1000
) -> Loaded:
    """Generate several classes as in Definition 1 of the theory, each in a plane of its own.

    The mean of class k's majority is a e_2k, and the mean of its minority b e_2k+1 - c e_2k. All e are orthonormal and
    spread over all features. Rows go round the classes, so that prefixes are balanced.

    Parameters
    ----------
    classes : int
        The number of classes.
    features : int
        A power of two, at least twice `classes`.
    a, b, c : float
        The lengths in the means above.
    every : int
        One example in so many of a class is of the minority.
    noise : float
        The standard deviation of normal noise on each feature.
    n_train, n_test : int
        The numbers of training examples and test points.

    Returns
    -------
    Loaded
        float32 arrays (n, features), and the subclass of each example: int64, 0 for the majority and 1 for the minority.

    Examples
    --------
    >>> found = subclasses(classes=2, features=4, n_train=10, n_test=2)
    >>> found.arrays[0].shape, found.subclass[0].tolist()
    ((10, 4), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    """
    from scipy.linalg import hadamard

    directions = hadamard(features) / np.sqrt(features)
    # numpy promises that this stream never changes; the grid hides how a machine rounds a logarithm
    random = np.random.RandomState(0)
    sides = []
    for n in (n_train, n_test):
        y, rare = np.arange(n) % classes, np.arange(n) // classes % every == every - 1
        first, second = directions[2 * y], directions[2 * y + 1]
        x = np.where(rare[:, None], b * second - c * first, a * first) + noise * random.standard_normal((n, features))
        sides.append(((np.rint(x * 1024) / 1024).astype(np.float32), y.astype(np.int64), rare.astype(np.int64)))
    (x_train, y_train, rare_train), (x_test, y_test, rare_test) = sides
    names = tuple(str(k + 1) for k in range(classes))
    return Loaded((x_train, y_train, x_test, y_test), names, "generated", (rare_train, rare_test))
