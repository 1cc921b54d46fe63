"""What every loader returns and what its arrays must be; labels of any kind as class numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_CLASSES = 1 << 16  # labels fit into uint16
SIDES = ("train", "test")
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x_train, y_train, x_test, y_test


class Loaded(NamedTuple):
    """A data set as a loader returns it: its arrays, class names, source in words, and subclasses of both sides if known."""

    arrays: Arrays
    classes: Sequence[str]
    source: str
    subclass: tuple[np.ndarray, ...] = ()


def check(where: str, arrays: Arrays, classes: Sequence[str]) -> None:
    """Raise ValueError, in one sentence, unless models can be trained and tested on the arrays.

    x (n, ...) is finite and of one shape on both sides; y (n,) is as `check_labels` says.
    """
    x_train, y_train, x_test, y_test = arrays
    for side, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or x.shape[1:] != x_train.shape[1:] or 0 in x.shape:
            wanted = "each label needs a row of features, of one shape on both sides"
            raise ValueError(f"In {where}, x_{side} {x.shape} and y_{side} {y.shape} do not fit together: {wanted}.")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"In {where}, x_{side} holds values that are not finite, or too large for {x.dtype}.")
    check_labels(where, y_train, y_test, classes)


def check_labels(where: str, y_train: np.ndarray, y_test: np.ndarray, classes: Sequence[str]) -> None:
    """Raise ValueError unless labels are in 0 .. len(classes) - 1, and training has two classes and all of the test's."""
    for side, y in zip(SIDES, (y_train, y_test), strict=True):
        if y.min() < 0 or y.max() >= len(classes):
            span = f"{y.min()} to {y.max()}"
            raise ValueError(f"In {where}, y_{side} spans {span}, which its {len(classes)} class names do not.")
    seen = np.bincount(y_train, minlength=len(classes)) > 0
    if not seen[y_test].all():
        unseen = classes[y_test[~seen[y_test]].max()]
        raise ValueError(f"In {where}, y_test holds class {unseen}, which y_train does not.")
    if seen.sum() < 2:
        raise ValueError(f"In {where}, y_train holds {len(y_train)} of one class; give at least two classes.")


def numbered(
    where: str, labels: Sequence[np.ndarray], names: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels of both sides, (n,) or (n, 1), as int64 (n,), and the names of their classes.

    Whole numbers, also as floats, are the classes, which `names` names; texts and bools are numbered in sorted order.
    Raises ValueError, in one sentence, for labels of another kind.
    """
    ys = [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in map(np.asarray, labels)]
    for side, y in zip(SIDES, ys, strict=True):
        if y.ndim != 1 or not len(y):
            raise ValueError(f"In {where}, y_{side} must be one label for each example, but has shape {y.shape}.")
    kinds = ["U" if y.dtype == object and all(isinstance(v, str) for v in y) else y.dtype.kind for y in ys]
    if kinds == ["U", "U"]:
        found, codes = np.unique(np.concatenate(ys), return_inverse=True)
        train, test = np.split(codes.astype(np.int64), [len(ys[0])])
        return train, test, tuple(map(str, found))
    if "U" in kinds:
        raise ValueError(f"In {where}, the labels of one side are texts and those of the other are not.")
    for side, y, kind in zip(SIDES, ys, kinds, strict=True):
        whole = kind in "biu" or (kind == "f" and (y == np.floor(y)).all())
        if not whole or not 0 <= float(y.min()) <= float(y.max()) < MOST_CLASSES:  # a float16 cannot hold so many
            given = f"{y.dtype} from {y.min()} to {y.max()}" if kind in "iuf" else y.dtype
            wanted = f"whole numbers from 0 to {MOST_CLASSES - 1}, or texts"
            raise ValueError(f"In {where}, y_{side} must hold {wanted}, not {given}.")
    if kinds == ["b", "b"]:
        names = ("False", "True")
    train, test = (y.astype(np.int64) for y in ys)
    return train, test, tuple(names or map(str, range(max(train.max(), test.max()) + 1)))
