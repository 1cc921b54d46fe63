"""Generated data: classes of a majority and a rarer minority subclass, of which every example is known."""

from __future__ import annotations

import numpy as np


def subclasses(
    *,
    classes: int = 20,
    features: int = 256,
    a: float = 1.0,
    b: float = 0.8,
    c: float = 0.4,
    every: int = 5,
    noise: float = 0.16,
    n_train: int = 4000,
    n_test: int = 1000,
) -> dict:
    """Definition 1 of the theory for several classes, each in a plane of its own.

    The mean of class k's majority is a e_2k, that of its minority b e_2k+1 - c e_2k. All e are orthonormal and spread over
    all features; `features` is a power of two, at least 2 `classes`. One example in `every` of a class is of the minority.
    All have normal noise of deviation `noise` on each feature.

    Returns "arrays", "classes" and "source" as the other loaders, and "subclass": the training examples' and the test
    points' subclasses, int64, 0 for the majority and 1 for the minority. Rows go round the classes, so prefixes are balanced.
    """
    directions = np.ones((1, 1))
    while len(directions) < features:
        directions = np.block([[directions, directions], [directions, -directions]])
    directions /= np.sqrt(features)
    # numpy promises that this stream never changes; the grid hides how a machine rounds a logarithm
    random = np.random.RandomState(0)
    arrays, subclass = [], []
    for n in (n_train, n_test):
        y, rare = np.arange(n) % classes, np.arange(n) // classes % every == every - 1
        first, second = directions[2 * y], directions[2 * y + 1]
        x = np.where(rare[:, None], b * second - c * first, a * first) + noise * random.standard_normal((n, features))
        arrays += [(np.rint(x * 1024) / 1024).astype(np.float32), y.astype(np.int64)]
        subclass.append(rare.astype(np.int64))
    names = tuple(str(k + 1) for k in range(classes))
    return {"arrays": tuple(arrays), "classes": names, "source": "generated", "subclass": tuple(subclass)}
