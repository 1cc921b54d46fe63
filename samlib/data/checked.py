"""What every loader's arrays must be, and labels of any kind as class numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST_CLASSES = 1 << 16  # recorded runs keep labels as uint16


def check(where: str, x_train, y_train, x_test, y_test, classes: Sequence[str]) -> None:
    """Raises ValueError, one sentence, unless the four arrays are a data set that models can be trained and tested on.

    x (n, ...) of one shape and finite, y (n,) in 0 .. len(classes) - 1; two training examples of two classes at least, one
    test example, and no class in the test set that training lacks.
    """
    for side, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if y.ndim != 1 or x.ndim < 2 or len(x) != len(y) or x.shape[1:] != x_train.shape[1:] or 0 in x.shape:
            raise ValueError(
                f"In {where}, x_{side} {x.shape} and y_{side} {y.shape} do not fit together: each label needs a row of "
                "features, of one shape on both sides."
            )
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise ValueError(f"In {where}, x_{side} holds values that are not finite, or too large for {x.dtype}.")
    check_labels(where, y_train, y_test, classes)


def check_labels(where: str, y_train: np.ndarray, y_test: np.ndarray, classes: Sequence[str]) -> None:
    """What `check` says of labels (n,): a set of pictures is asked before they are decoded."""
    for side, y in (("train", y_train), ("test", y_test)):
        if y.min() < 0 or y.max() >= len(classes):
            raise ValueError(
                f"In {where}, y_{side} spans {y.min()} to {y.max()}, which its {len(classes)} class names do not."
            )
    seen = np.bincount(y_train, minlength=len(classes)) > 0
    if not seen[y_test].all():
        unseen = classes[y_test[~seen[y_test]].max()]
        raise ValueError(f"In {where}, y_test holds class {unseen}, which y_train does not.")
    if seen.sum() < 2:
        raise ValueError(
            f"In {where}, the training examples are {len(y_train)} of one class; give at least two classes."
        )


def numbered(where: str, y_train, y_test, names: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray, tuple]:
    """Labels (n,) or (n, 1) as int64 (n,), and the names of their classes.

    Whole numbers, also as floats, are the class; texts and bools are numbered in their sorted order. names: of the classes
    of whole numbers; the numbers themselves if None. Raises ValueError, one sentence, for labels of another kind.
    """
    ys = [y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y for y in map(np.asarray, (y_train, y_test))]
    for side, y in zip(("train", "test"), ys, strict=True):
        if y.ndim != 1 or not len(y):
            raise ValueError(f"In {where}, y_{side} must be one label for each example, but has shape {y.shape}.")
    kinds = ["U" if y.dtype == object and all(isinstance(v, str) for v in y) else y.dtype.kind for y in ys]
    if kinds == ["U", "U"]:
        names, codes = np.unique(np.concatenate(ys), return_inverse=True)
        train, test = np.split(codes.astype(np.int64), [len(ys[0])])
        return train, test, tuple(map(str, names))
    if "U" in kinds:
        raise ValueError(f"In {where}, the labels of one side are texts and those of the other are not.")
    for side, y, kind in zip(("train", "test"), ys, kinds, strict=True):
        whole = kind in "biu" or (kind == "f" and (y == np.floor(y)).all())
        if not whole or not 0 <= float(y.min()) <= float(y.max()) < MOST_CLASSES:  # which a float16 does not hold
            raise ValueError(
                f"In {where}, y_{side} must hold whole numbers from 0 to {MOST_CLASSES - 1}, or texts, not {_span(y)}."
            )
    if kinds == ["b", "b"]:
        names = ("False", "True")
    train, test = (y.astype(np.int64) for y in ys)
    return train, test, tuple(names or map(str, range(max(train.max(), test.max()) + 1)))


def _span(y: np.ndarray) -> str:
    return f"{y.dtype} from {y.min()} to {y.max()}" if y.dtype.kind in "iuf" else f"{y.dtype}"
