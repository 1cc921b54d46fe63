"""Tables: digits, the binary sets of Shokri et al. (2017), and `.npz` files of one's own."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from samlib.data.files import checked_file, decoded, open_member

HOME = "https://raw.githubusercontent.com/privacytrustlab/datasets/169de9de00de049dd2e571cf7279e64698ac046a/"
# A sha256 of None has not been measured: the address pins the file by its commit, and the one found is recorded.
PUBLISHED = {
    "location30": (HOME + "dataset_location.tgz", "927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33"),
    "purchase100": (HOME + "dataset_purchase.tgz", None),
    "texas100": (HOME + "dataset_texas.tgz", None),
}
LONGEST = 2 << 30  # bytes of a text file in an archive


def digits() -> dict:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 8, 8)
    return {"arrays": split(images, y.astype(np.int64), 360), "classes": "0123456789", "source": "scikit-learn"}


def location30() -> dict:
    path, sha256 = checked_file("location30", *PUBLISHED["location30"])
    with open_member(path, "bangkok", limit=16 << 20, alone=True) as file:
        text = file.read().decode("ascii")
    table = np.loadtxt(io.StringIO(text.replace('"', "")), delimiter=",", dtype=np.float32)
    arrays = split(np.ascontiguousarray(table[:, 1:]), table[:, 0].astype(np.int64) - 1, 1000)
    return {"arrays": arrays, "classes": _numbers(30), "source": f"{path.name} sha256 {sha256}"}


def purchase100(n_test: int = 20_000) -> dict:
    """197,324 rows of a class 1 to 100 and 600 binary features; the first decoding takes about a minute."""

    def read(path):
        with open_member(path, "dataset_purchase", limit=LONGEST) as file:
            cells = [line.rstrip().partition(b",") for line in file if line.strip()]
        return _binary(row for _, _, row in cells), _classes(label for label, _, _ in cells)

    return _binary_set("purchase100", read, n_test)


def texas100(n_test: int = 7_330) -> dict:
    """67,330 rows of 6,169 binary features, and a class 1 to 100 for each in a second file."""

    def read(path):
        with open_member(path, "texas/100/labels", limit=1 << 20) as file:
            labels = file.read().split()
        with open_member(path, "texas/100/feats", limit=LONGEST) as file:
            return _binary(line.rstrip() for line in file if line.strip()), _classes(labels)

    return _binary_set("texas100", read, n_test)


def _binary_set(name: str, read, n_test: int) -> dict:
    path, sha256 = checked_file(name, *PUBLISHED[name])

    def make(folder: Path) -> dict:
        try:
            x, y = read(path)
        except ValueError as error:
            raise error if str(path) in str(error) else ValueError(f"{path} is not {name}: {error}.") from None
        if len(x) != len(y) or len(x) <= n_test:
            raise ValueError(f"{path} is not {name}: it has {len(x)} rows and {len(y)} labels.")
        for part, array in zip(("x_train", "y_train", "x_test", "y_test"), split(x, y, n_test), strict=True):
            np.save(folder / f"{part}.npy", array)
        return {}

    arrays, _ = decoded(name, sha256, make)
    checked = "" if PUBLISHED[name][1] else " (as found; none is published)"
    source = f"{path.name} sha256 {sha256}{checked}"
    return {
        "arrays": tuple(arrays[part] for part in ("x_train", "y_train", "x_test", "y_test")),
        "classes": _numbers(100),
        "source": source,
    }


def _binary(lines: Iterable[bytes]) -> np.ndarray:
    """Lines of comma-separated 0s and 1s as uint8 (rows, features)."""
    rows = []
    for number, line in enumerate(lines, 1):
        text = np.frombuffer(line, np.uint8)
        row = text[::2] - ord("0")
        if (
            len(text) % 2 == 0
            or (text[1::2] != ord(",")).any()
            or (row > 1).any()
            or len(row) != len(rows[0] if rows else row)
        ):
            raise ValueError(f"row {number} is not 0s and 1s separated by commas, as many as in the first")
        rows.append(row)
    if not rows:
        raise ValueError("it has no rows")
    return np.stack(rows)


def _classes(labels: Iterable[bytes]) -> np.ndarray:
    y = np.array([int(label.strip(b'"')) for label in labels], np.int64) - 1
    if len(y) and not 0 <= y.min() <= y.max() < 100:
        raise ValueError(f"its classes span {y.min() + 1} to {y.max() + 1}, not 1 to 100")
    return y


def _numbers(n: int) -> tuple[str, ...]:
    return tuple(str(c) for c in range(1, n + 1))


def split(x: np.ndarray, y: np.ndarray, n_test: int) -> tuple[np.ndarray, ...]:
    """A fixed random split, the same on every machine (the sources are sorted by class or by writer)."""
    order = np.random.default_rng(0).permutation(len(y))
    test, train = order[:n_test], order[n_test:]
    return x[train], y[train], x[test], y[test]


def from_npz(path: Path) -> dict:
    """`x_train, y_train, x_test, y_test` of a file; uint8 images (n, height, width, 1 or 3) stay as they are."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            x_train, y_train, x_test, y_test = (file[key] for key in ("x_train", "y_train", "x_test", "y_test"))
    except FileNotFoundError:
        raise ValueError(f"There is no data set file {path}.") from None
    except (KeyError, OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an .npz with x_train, y_train, x_test and y_test: {error}.") from None
    for side, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y) or len(x) == 0 or x.shape[1:] != x_train.shape[1:] or y.ndim != 1:
            raise ValueError(f"In {path}, x_{side} {x.shape} and y_{side} {y.shape} do not fit together.")
        if not np.isfinite(x).all():
            raise ValueError(f"In {path}, x_{side} holds values that are not finite.")
        if not np.issubdtype(y.dtype, np.integer) or y.min() < 0:
            raise ValueError(f"In {path}, y_{side} must hold whole numbers from 0.")
    if y_test.max() > y_train.max():
        raise ValueError(f"In {path}, y_test holds class {y_test.max()}, which y_train does not.")
    if not (x_train.dtype == x_test.dtype == np.uint8 and x_train.ndim == 4 and x_train.shape[-1] in (1, 3)):
        x_train, x_test = (np.ascontiguousarray(x, np.float32) for x in (x_train, x_test))
    return {
        "arrays": (x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)),
        "classes": tuple(str(c) for c in range(int(y_train.max()) + 1)),
        "source": path.name,
    }
