"""Tables: digits, the binary sets of Shokri et al. (2017), and `.npz` files of one's own."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from samlib.data.checked import numbered
from samlib.data.files import checked_file, decoded, open_member, reason

HOME = "https://raw.githubusercontent.com/privacytrustlab/datasets/169de9de00de049dd2e571cf7279e64698ac046a/"
# A sha256 of None has not been measured: the address pins the file by its commit, and the one found is recorded.
PUBLISHED = {
    "location30": (HOME + "dataset_location.tgz", "927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33"),
    "purchase100": (HOME + "dataset_purchase.tgz", None),
    "texas100": (HOME + "dataset_texas.tgz", None),
}
LONGEST = 2 << 30  # bytes of a text file in an archive
PARTS = ("x_train", "y_train", "x_test", "y_test")
FEW, RATIO = 32 << 20, 300  # bytes that an array of any .npz may take, and how many times the file's it may be


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
        for part, array in zip(PARTS, split(x, y, n_test), strict=True):
            np.save(folder / f"{part}.npy", array)
        return {}

    arrays, _ = decoded(name, sha256, make)
    checked = "" if PUBLISHED[name][1] else " (as found; none is published)"
    source = f"{path.name} sha256 {sha256}{checked}"
    return {
        "arrays": tuple(arrays[part] for part in PARTS),
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
    """`x_train, y_train, x_test, y_test` of a file; labels as `checked.numbered` takes them, features float32 or images.

    uint8 of three or four dimensions are images: (n, h, w), (n, h, w, c) or (n, c, h, w), with c 1 or 3, become uint8
    (n, h, w, c); where both could be meant, channels are last. Other types count as uint8 where all values are whole, none
    is outside of 0 to 255 and some reach above 127. A table (n, features) that is so is divided by 255. All else is
    float32 as it is. An array may take at most `FEW` bytes, or `RATIO` times the file's.
    """
    if not path.is_file():
        raise ValueError(f"There is no data set file {path}.")
    try:
        limit = max(FEW, RATIO * path.stat().st_size)
        with zipfile.ZipFile(path) as file:
            members = {name.removesuffix(".npy"): name for name in file.namelist()}
            if missing := [part for part in PARTS if part not in members]:
                raise ValueError(f"it holds {', '.join(sorted(members)[:9]) or 'nothing'}, and no {missing[0]}")
            x_train, y_train, x_test, y_test = (_member(file, members[part], limit) for part in PARTS)
    except Exception as error:  # zipfile, its codecs and numpy raise many kinds for a damaged file
        raise ValueError(f"{path} is not an .npz with x_train, y_train, x_test and y_test: {reason(error)}.") from None
    x_train, x_test = _features(str(path), x_train, x_test)
    y_train, y_test, classes = numbered(str(path), y_train, y_test)
    return {
        "arrays": (x_train, y_train, x_test, y_test),
        "classes": classes,
        "source": path.name,
    }


def _member(file: zipfile.ZipFile, name: str, limit: int) -> np.ndarray:
    """An array of a zip file. Raises ValueError, before any of it is read, where its header claims what the file has not."""
    info, read = file.getinfo(name), np.lib.format
    with file.open(info) as raw:
        headers = {(1, 0): read.read_array_header_1_0, (2, 0): read.read_array_header_2_0}
        version = read.read_magic(raw)
        if version not in headers:
            raise ValueError(f"{name} is of a version {version} that is not read")
        shape, _, dtype = headers[version](raw)
        held = info.file_size - raw.tell()
    if dtype.kind not in "biufU" or min(shape, default=0) < 0:
        wanted = "numbers" if name.startswith("x") else "numbers or texts"
        raise ValueError(f"{name} must hold {wanted}, not {dtype} {shape}")
    if math.prod(shape) * dtype.itemsize != held or held > limit:
        raise ValueError(f"{name} claims {dtype} {shape}, and holds {held} of at most {limit} bytes")
    with file.open(info) as raw:
        return read.read_array(raw, allow_pickle=False)


def _features(where: str, x_train: np.ndarray, x_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as float32, or as uint8 (n, height, width, channels) where they are images: `from_npz` has the rule."""
    both, pixels = (x_train, x_test), False
    for side, x in zip(("train", "test"), both, strict=True):
        if x.dtype.kind == "U":
            raise ValueError(f"In {where}, x_{side} must hold numbers, not texts.")
    if x_train.size and x_test.size and x_train.shape[1:] == x_test.shape[1:] != ():
        stored = all(x.dtype == np.uint8 for x in both)
        if not stored and any(x.dtype == np.uint8 for x in both) and not all(map(_whole, both)):
            raise ValueError(f"In {where}, x_train is {x_train.dtype} and x_test {x_test.dtype}; give both one scale.")
        bright = all(map(_whole, both)) and max(x.max() for x in both) > 127
        pixels = bright or (stored and x_train.ndim in (3, 4))
    if pixels and x_train.ndim == 2:
        return tuple(x.astype(np.float32) / 255 for x in both)
    if pixels and x_train.ndim in (3, 4):
        if x_train.ndim == 3:
            both = [x[..., None] for x in both]
        elif x_train.shape[3] not in (1, 3) and x_train.shape[1] in (1, 3):
            both = [np.moveaxis(x, 1, 3) for x in both]
        if both[0].shape[3] in (1, 3):
            return tuple(np.ascontiguousarray(x, np.uint8) for x in both)
        if stored:
            raise ValueError(
                f"In {where}, images of shape {x_train.shape[1:]} have no first or last axis of 1 or 3 channels."
            )
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit becomes inf, which `check` refuses
        return tuple(np.ascontiguousarray(x, np.float32) for x in both)


def _whole(x: np.ndarray) -> bool:
    return x.dtype == np.uint8 or bool(
        0 <= x.min() <= x.max() <= 255 and (x.dtype.kind in "iu" or (x == np.floor(x)).all())
    )
