"""Data sets as frozen arrays: a training pool that subsets are drawn from, and a test set that no model ever sees."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LOCATION30_URL = (
    "https://raw.githubusercontent.com/privacytrustlab/datasets/"
    "169de9de00de049dd2e571cf7279e64698ac046a/dataset_location.tgz"
)
LOCATION30_SHA256 = "927203f85a868f8ee17a0ded1dc61699efe602167beabe34fbf45b4b1de94b33"


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Attributes: `x_train` (n, ...) float32 and `y_train` (n,) int64, the pool; `x_test` (t, ...) and `y_test` (t,);
    `classes`, the class names, so that labels lie in 0 .. len(classes) - 1; `name`; `checksum`, the sha256 of the four
    arrays, which a store of runs records.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    name: str
    checksum: str


def load_dataset(name_or_path: str | os.PathLike, *, pool: int | None = None) -> Dataset:
    """Load a data set by name (`digits`, `location30`) or from an `.npz` file of your own.

    `digits` (Alpaydin and Kaynak 1998) ships with scikit-learn: 1,437 8x8 images to draw from, 360 for test.
    `location30` (Shokri et al. 2017) has 4,010 binary vectors of 446 features to draw from and 1,000 for test, in 30
    classes; it is taken from the folder that `SAMLIB_DATA` names where that holds `location30/dataset_location.tgz`,
    else downloaded once; the sha256 is checked in both cases. An `.npz` holds `x_train, y_train, x_test, y_test`.

    `pool` keeps only the first that many training examples. Raises ValueError, in one sentence, for an unknown name, a
    file that is missing or altered, or arrays that do not fit together.
    """
    name = os.fspath(name_or_path)
    if name in _LOADERS:
        arrays, classes = _LOADERS[name]()
    elif name.endswith(".npz"):
        arrays, classes = _from_npz(Path(name))
    else:
        raise ValueError(f"dataset {name!r} is neither one of {', '.join(_LOADERS)} nor the path of an .npz file.")
    if pool is not None:
        if not 2 <= pool <= len(arrays[0]):
            raise ValueError(f"pool must lie in 2 to {len(arrays[0])}, the training examples of {name}, not {pool}.")
        arrays = (arrays[0][:pool], arrays[1][:pool], *arrays[2:])
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
        array.setflags(write=False)
    return Dataset(*arrays, classes=classes, name=name, checksum=digest.hexdigest())


def _digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    images = (x / 16).astype(np.float32).reshape(-1, 8, 8)
    return _split(images, y.astype(np.int64), n_test=360), tuple("0123456789")


def _location30():
    text = _only_file(_checked_file("location30", LOCATION30_URL, LOCATION30_SHA256), "bangkok", limit=16 << 20)
    table = np.loadtxt(io.StringIO(text.decode("ascii").replace('"', "")), delimiter=",", dtype=np.float32)
    y = table[:, 0].astype(np.int64) - 1
    return _split(np.ascontiguousarray(table[:, 1:]), y, n_test=1000), tuple(str(c) for c in range(1, 31))


_LOADERS = {"digits": _digits, "location30": _location30}


def _split(x: np.ndarray, y: np.ndarray, n_test: int):
    """A fixed random split, the same on every machine (the sources are sorted by class or by writer)."""
    order = np.random.default_rng(0).permutation(len(y))
    test, train = order[:n_test], order[n_test:]
    return x[train], y[train], x[test], y[test]


def _from_npz(path: Path):
    try:
        with np.load(path, allow_pickle=False) as file:
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
    x_train, x_test = (np.ascontiguousarray(x, np.float32) for x in (x_train, x_test))
    classes = tuple(str(c) for c in range(int(y_train.max()) + 1))
    return (x_train, y_train.astype(np.int64), x_test, y_test.astype(np.int64)), classes


def _checked_file(name: str, url: str, sha256: str) -> Path:
    """The file of a public data set, its checksum verified: from the folder SAMLIB_DATA, else downloaded and kept."""
    import pooch

    file_name = url.rsplit("/", 1)[-1]
    folder = os.environ.get("SAMLIB_DATA")
    if folder and (path := Path(folder) / name / file_name).exists():
        found = pooch.file_hash(str(path))
        if found != sha256:
            raise ValueError(f"{path} is not the published {name}: its sha256 is {found}, not {sha256}.")
        return path
    try:
        return Path(pooch.retrieve(url, sha256, fname=file_name, path=cache_folder() / "data" / name))
    except Exception as error:  # pooch passes on whatever the network raises
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{name} could not be downloaded ({reason}); put {file_name} into $SAMLIB_DATA/{name}/ instead."
        ) from None


def cache_folder() -> Path:
    """Where downloads and trained runs are kept: `SAMLIB_CACHE`, else the user's cache folder."""
    import pooch

    return Path(os.environ.get("SAMLIB_CACHE") or pooch.os_cache("samlib"))


def _only_file(archive: Path, member: str, limit: int) -> bytes:
    """The bytes of the one plain file `member` of a tar archive; nothing is ever unpacked to disk."""
    try:
        with tarfile.open(archive) as tar:
            entries = tar.getmembers()
            if [entry.name for entry in entries] != [member] or not entries[0].isreg() or entries[0].size > limit:
                names = ", ".join(repr(entry.name) for entry in entries[:5])
                raise ValueError(
                    f"{archive} must hold one plain file {member!r} of at most {limit} bytes, not {names}."
                )
            return tar.extractfile(entries[0]).read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"{archive} is damaged: {error}.") from None
