"""Tables: digits, the binary sets of Shokri et al. (2017), and `.npz` files of your own."""

import warnings
import zipfile
from pathlib import Path

import numpy as np

from samlib.data.checked import SIDES, Arrays, Loaded, numbered
from samlib.data.files import PUBLISHED, checked_file, decoded, open_member
from samlib.disk import in_a_sentence, reason

LONGEST = 2 << 30  # bytes of a text file in an archive
PARTS = ("x_train", "y_train", "x_test", "y_test")
FEW, RATIO = 32 << 20, 300  # an array of an .npz may take so many bytes, or so many times the file's


def digits() -> Loaded:
    """scikit-learn's handwritten digits, float32 (n, 8, 8) from 0 to 1."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 8, 8)
    return Loaded(_split("digits", images, y), "0123456789", "scikit-learn")


def location30() -> Loaded:
    """Location-30, float32 (n, 446) of zeros and ones."""
    path, sha256 = checked_file("location30")
    arrays = _bits("location30", path, limit=16 << 20, alone=True)
    return Loaded(arrays, _names("location30"), f"{path.name} sha256 {sha256}")


def binary(name: str) -> Loaded:
    """Purchase-100 or Texas-100, uint8 (n, features) of zeros and ones; the first decoding takes some seconds."""
    path, sha256 = checked_file(name)

    def make(folder: Path) -> None:
        for part, array in zip(PARTS, _bits(name, path), strict=True):
            np.save(folder / f"{part}.npy", array)

    found = "" if "sha256" in PUBLISHED[name] else " (as found; none is published)"
    arrays, _ = decoded(name, sha256, make)
    x_train, y_train, x_test, y_test = (arrays[part] for part in PARTS)
    return Loaded((x_train, y_train, x_test, y_test), _names(name), f"{path.name} sha256 {sha256}{found}")


def _bits(name: str, path: Path, **options) -> Arrays:
    """The zeros and ones of a published archive, split. The class is in a file of its own, or else first in its row."""
    about = PUBLISHED[name]
    x = _numbers(name, path, about["rows"], **options)
    x, y = (x, _numbers(name, path, about["labels"])[:, 0]) if "labels" in about else (x[:, 1:], x[:, 0])
    with in_a_sentence(f"{path} is not {name}: "):
        if len(x) != len(y) or len(x) <= about["n_test"]:
            raise ValueError(f"it has {len(x)} rows and {len(y)} labels")
        if x.max() > 1:
            raise ValueError(f"it holds {x.max()} where all features are 0 or 1")
        if not 1 <= y.min() <= y.max() <= about["classes"]:
            raise ValueError(f"its classes span {y.min()} to {y.max()}, not 1 to {about['classes']}")
    return _split(name, np.ascontiguousarray(x), y.astype(np.int64) - 1)


def _numbers(name: str, archive: Path, member: str, *, limit: int = LONGEST, alone: bool = False) -> np.ndarray:
    """The comma-separated numbers of a file in an archive, (rows, columns); they may stand in quotes."""
    with open_member(archive, member, limit=limit, alone=alone) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of a file without rows; a check follows
        try:
            return np.loadtxt(file, delimiter=",", dtype=PUBLISHED[name]["dtype"], ndmin=2, quotechar='"')
        except ValueError as error:
            raise ValueError(f"{archive} is not {name}: {reason(error).partition(';')[0]}.") from None


def _names(name: str) -> tuple[str, ...]:
    return tuple(str(c + 1) for c in range(PUBLISHED[name]["classes"]))


def _split(name: str, x: np.ndarray, y: np.ndarray) -> Arrays:
    """A fixed random split, the same on every machine, because the sources are sorted by class or by writer."""
    order, n_test = np.random.default_rng(0).permutation(len(y)), PUBLISHED[name]["n_test"]
    test, train, y = order[:n_test], order[n_test:], y.astype(np.int64)
    return x[train], y[train], x[test], y[test]


def from_npz(path: Path) -> Loaded:
    """`x_train, y_train, x_test, y_test` of a file; labels as `checked.numbered` takes them, features float32 or images.

    uint8 of three or four dimensions are images: (n, h, w), (n, h, w, c) or (n, c, h, w), with c 1 or 3. They become uint8
    (n, h, w, c). If both could be meant, channels are last. Other types count as uint8 if all values are whole numbers
    from 0 to 255 and some are above 127. A table (n, features) of that kind is divided by 255. Everything else is float32
    as it is. An array may take at most `FEW` bytes, or `RATIO` times the file's.
    """
    if not path.is_file():
        raise ValueError(f"There is no data set file {path}.")
    arrays, limit = [], max(FEW, RATIO * path.stat().st_size)
    before = f"{path} is not an .npz with x_train, y_train, x_test and y_test: "
    with in_a_sentence(before), zipfile.ZipFile(path) as file:
        members = {name.removesuffix(".npy"): file.getinfo(name) for name in file.namelist()}
        for part in PARTS:
            if part not in members:
                raise ValueError(f"it holds {', '.join(sorted(members)[:9]) or 'nothing'}, and no {part}")
            if (size := members[part].file_size) > limit:
                raise ValueError(f"{part} would take {size} bytes, more than the {limit} that are read")
            with file.open(members[part]) as raw:
                arrays.append(np.lib.format.read_array(raw))
    x_train, x_test = _features(str(path), arrays[0], arrays[2])
    y_train, y_test, classes = numbered(str(path), arrays[1::2])
    return Loaded((x_train, y_train, x_test, y_test), classes, path.name)


def _features(where: str, x_train: np.ndarray, x_test: np.ndarray) -> list[np.ndarray]:
    """Both sides as float32, or as uint8 (n, height, width, channels) if they are images: `from_npz` has the rule."""
    both, pixels, stored = [x_train, x_test], False, x_train.dtype == x_test.dtype == np.uint8
    for side, x in zip(SIDES, both, strict=True):
        if x.dtype.kind not in "biuf":
            kind = "texts" if x.dtype.kind == "U" else x.dtype
            raise ValueError(f"In {where}, x_{side} must hold numbers, not {kind}.")
    if x_train.size and x_test.size and x_train.shape[1:] == x_test.shape[1:] != ():
        whole = all(0 <= x.min() <= x.max() <= 255 and (x.dtype.kind in "iu" or (x % 1 == 0).all()) for x in both)
        if not stored and np.uint8 in (x_train.dtype, x_test.dtype) and not whole:
            raise ValueError(f"In {where}, x_train is {x_train.dtype} and x_test {x_test.dtype}; give both one scale.")
        pixels = (whole and max(x.max() for x in both) > 127) or (stored and x_train.ndim in (3, 4))
    if pixels and x_train.ndim == 2:
        return [x.astype(np.float32) / 255 for x in both]
    if pixels and x_train.ndim in (3, 4):
        if x_train.ndim == 3:
            both = [x[..., None] for x in both]
        elif x_train.shape[3] not in (1, 3) and x_train.shape[1] in (1, 3):
            both = [np.moveaxis(x, 1, 3) for x in both]
        if both[0].shape[3] in (1, 3):
            return [np.ascontiguousarray(x, np.uint8) for x in both]
        if stored:
            shape = x_train.shape[1:]
            raise ValueError(f"In {where}, images of shape {shape} have no first or last axis of 1 or 3 channels.")
    with np.errstate(over="ignore", invalid="ignore"):  # too large numbers become inf, which `check` refuses
        return [np.ascontiguousarray(x, np.float32) for x in both]
