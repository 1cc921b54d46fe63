"""Data sets as frozen arrays: a training pool that subsets are drawn from, and a test set that no model trains on."""

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samlib.checks import as_number, shown
from samlib.data import generated, images, layouts, tables
from samlib.data.checked import Loaded, check
from samlib.data.files import PUBLISHED, NotAtHand, archive_of, cache_folder, local_file

__all__ = ["EMBEDDED", "NAMES", "Dataset", "NotAtHand", "Shape", "cache_folder", "load_dataset", "shape_of"]

_TABLES: dict[str, Callable[[], Loaded]] = {
    "digits": tables.digits,
    "subclasses": generated.subclasses,
    "location30": tables.location30,
    "purchase100": partial(tables.binary, "purchase100"),
    "texas100": partial(tables.binary, "texas100"),
}
NAMES = tuple(PUBLISHED)
EMBEDDED = ("digits", "subclasses")  # need no file and no network


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification data set.

    Models are fed images as (x / 255 - mean) / std, and other features as they are. Decoded images are mapped from a file
    that processes share.

    Attributes
    ----------
    x_train, x_test : numpy.ndarray, (n, ...) and (t, ...)
        The training pool and the test points: images as uint8 (n, height, width, channels), other features as float32 or
        uint8.
    y_train, y_test : numpy.ndarray of int64, (n,) and (t,)
        Labels in 0 .. len(classes) - 1.
    classes : tuple of str
        The names of the classes.
    name : str
        The name or path that was loaded.
    checksum : str
        The sha256 of the arrays, which a store of runs records.
    source : str
        Which bytes the arrays were read from.
    mean, std : tuple of float, optional
        Of each channel of the whole training set, in units of 255; None if `x_train` holds no images.
    subclass_train, subclass_test : numpy.ndarray of int64, (n,) and (t,), optional
        The subclass of each example, if it is known, as for `subclasses`; then it is part of the checksum.

    Examples
    --------
    >>> sorted(load_dataset("digits").arrays())
    ['n_classes', 'x_test', 'x_train', 'y_test', 'y_train']
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: tuple[str, ...]
    name: str
    checksum: str
    source: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    subclass_train: np.ndarray | None = None
    subclass_test: np.ndarray | None = None

    def arrays(self) -> dict[str, Any]:
        """Return what `samlib.training.train_group` takes: the four arrays, `n_classes`, and `mean` and `std` of images."""
        given = {name: getattr(self, name) for name in tables.PARTS}
        moments = {name: np.array(getattr(self, name), np.float32) for name in ("mean", "std") if self.mean}
        return given | moments | {"n_classes": len(self.classes)}


class Shape(NamedTuple):
    """How large a data set is.

    Attributes
    ----------
    n_train, n_test, classes : int
        The numbers of training examples, test points and classes.
    example : tuple of int
        The shape of one example, as stored.
    dtype : str
        The type of its numbers.
    at_hand : bool
        Whether the data set is on this machine.

    Examples
    --------
    >>> Shape(50_000, 10_000, (32, 32, 3), 10).decoded
    True
    """

    n_train: int
    n_test: int
    example: tuple[int, ...]
    classes: int
    dtype: str = "uint8"
    at_hand: bool = True

    @property
    def decoded(self) -> bool:
        """Whether the examples are images, which are normalized by channel when they are used."""
        return self.dtype == "uint8" and len(self.example) == 3


def load_dataset(
    name_or_path: str | os.PathLike, *, pool: int | None = None, image_size: int | None = None, label: str | None = None
) -> Dataset:
    """Load a data set by name, or from a file or folder of your own.

    Public data sets come from the folder that `SAMLIB_DATA` names, or else are downloaded once.

    ================== ==================================== ============ ===============================================
    name               training + test                      classes      source
    ================== ==================================== ============ ===============================================
    digits             1,437 + 360 images, 8 x 8            10           Alpaydin and Kaynak 1998; part of scikit-learn
    subclasses         4,000 + 1,000 rows of 256 features   20           generated: `samlib.data.generated.subclasses`
    location30         4,010 + 1,000 rows of 446 bits       30           Shokri et al. 2017, dataset_location.tgz
    purchase100        177,324 + 20,000 rows of 600 bits    100          Shokri et al. 2017, dataset_purchase.tgz
    texas100           60,000 + 7,330 rows of 6,169 bits    100          Shokri et al. 2017, dataset_texas.tgz
    cifar10            50,000 + 10,000 images, 32 x 32      10           Krizhevsky 2009, or train.parquet, test.parquet
    cifar100           the same                             100          the same
    cifar100-coarse    the same as cifar100                 20           the superclasses of cifar100
    fashion_mnist      60,000 + 10,000 images, 28 x 28      10           Xiao et al. 2017, or train.parquet, test.parquet
    ================== ==================================== ============ ===============================================

    The published image sets always have the order of `images.canonical_order`; the pixels and labels of CIFAR are checked.

    Your own data set is named by its path. A folder within the one that `SAMLIB_DATA` names needs only its name.

    - An `.npz` file of `x_train, y_train, x_test, y_test`. uint8 of three or four dimensions are images, with channels
      last or first; `tables.from_npz` has the rule.
    - A folder of parquet files: `train.parquet` or its parts, and those of `test` or `validation`, with a column of encoded
      images and one of labels. Whole numbers are the classes; texts and bools are numbered in sorted order.
    - A folder of images with one folder a class, below `train` and `test` or `val`. Without those, a fixed random fifth is
      for test. Names that begin with a dot are ignored. A warning names what else is left out.

    Images become uint8, in colour on both sides if one image is; a palette is colour. 16 bits become 8 by dividing by 257;
    32 bits are refused. Transparent pixels are white. Photos are turned as their EXIF data say. The first of several frames
    is read. All images must have one size, unless `image_size` is given.

    Parameters
    ----------
    name_or_path : str or path
        One of the names above, or the path of your own data.
    pool : int, optional
        Keep only so many training examples, the first.
    image_size : int, optional
        Crop the images of a folder to squares of so many pixels a side.
    label : str, optional
        The column of labels of a parquet folder; if None, `label` or `fine_label`, else the first whose name ends in label,
        labels, class or target.

    Returns
    -------
    Dataset
        The arrays are read-only.

    Raises
    ------
    NotAtHand
        A ValueError: a public data set is not here and cannot be downloaded.
    ValueError
        If the name is unknown, a file is missing, damaged or altered, or the arrays do not fit together.
    OSError
        If the cache of decoded images cannot be written.

    Examples
    --------
    >>> digits = load_dataset("digits", pool=100)
    >>> digits.x_train.shape, digits.x_test.shape, digits.classes[:3]
    ((100, 8, 8), (360, 8, 8), ('0', '1', '2'))
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise ValueError(f"name_or_path must be a name or a path, not {shown(name_or_path)}.")
    name = os.fspath(name_or_path)
    if name in PUBLISHED:
        _refuse_options(name, image_size, label)
        found = _TABLES[name]() if name in _TABLES else images.named(name, layouts.local_parquet(_home(name)))
    else:
        found = _own(name, image_size, label)
    check(name, found.arrays, found.classes)
    x_train, y_train, x_test, y_test = found.arrays
    mean, std, subclass = None, None, found.subclass
    if x_train.dtype == np.uint8 and x_train.ndim == 4:
        mean, std = images.statistics(x_train)
    if pool is not None:
        pool = as_number("pool", pool, 2, len(x_train), whole=True, why=f", the training examples of {name}")
        x_train, y_train = x_train[:pool], y_train[:pool]
        subclass = (subclass[0][:pool], subclass[1]) if subclass else ()
    arrays = (x_train, y_train, x_test, y_test)
    digest = hashlib.sha256(f"{mean} {std}".encode() if mean else b"")
    for array in (*arrays, *subclass):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
        array.setflags(write=False)
    return Dataset(*arrays, tuple(found.classes), name, digest.hexdigest(), found.source, mean, std, *subclass)


def shape_of(name: str, image_size: int | None = None) -> Shape:
    """Return how large a data set is, without reading it.

    The shapes of public data sets are known; those of your own are in the headers of the files. Nothing is downloaded,
    decoded or written.

    Parameters
    ----------
    name : str
        A name or path, as for `load_dataset`.
    image_size : int, optional
        As for `load_dataset`.

    Returns
    -------
    Shape
        The shape of what `load_dataset` would return without `pool`.

    Raises
    ------
    ValueError
        If there is no such data set, or its files cannot be read.

    Examples
    --------
    >>> shape_of("digits")
    Shape(n_train=1437, n_test=360, example=(8, 8), classes=10, dtype='float32', at_hand=True)
    """
    if name in PUBLISHED:
        _refuse_options(name, image_size)
        known = {field: PUBLISHED[name][field] for field in ("n_train", "n_test", "classes", "dtype")}
        return Shape(example=tuple(PUBLISHED[name]["example"]), at_hand=_at_hand(name), **known)
    found = _own(name, image_size, pixels=False)
    check(name, found.arrays, found.classes)
    x, _, _, y_test = found.arrays
    return Shape(len(x), len(y_test), x.shape[1:], len(found.classes), str(x.dtype))


def _own(name: str, image_size: int | None = None, label: str | None = None, pixels: bool = True) -> Loaded:
    """A data set of your own. Without `pixels`, images are not decoded: zeros that take no memory have their shape."""
    here = Path(os.path.expanduser(name))
    if name.lower().endswith(".npz"):
        _refuse_options(name, image_size, label)
        return tables.from_npz(here)
    path = next((path for path in (here, local_file(name, "")) if name and path and path.is_dir()), None)
    if path is None:
        raise ValueError(
            f"dataset {name!r} is neither one of {', '.join(NAMES)} nor an .npz file or a folder, here or in $SAMLIB_DATA."
        )
    if image_size is not None:
        image_size = as_number(f"image_size for {path}", image_size, 1, whole=True)
    found = layouts.encoded(path, label)
    if found.left_out and pixels:
        warnings.warn(f"In {path}, left out: {layouts.listed(found.left_out)}.", stacklevel=3)
    return images.load(found, image_size, pixels)


def _refuse_options(name: str, image_size: int | None, label: str | None = None) -> None:
    if image_size is not None or label is not None:
        raise ValueError(f"image_size and label are for folders of images, and {name} is none.")


def _home(name: str) -> str:
    """The data set whose files hold a published set: that of cifar100-coarse is cifar100."""
    return PUBLISHED[name].get("of", name)


def _at_hand(name: str) -> bool:
    if "url" in PUBLISHED[name]:
        return archive_of(name).exists()
    decoded = (cache_folder() / "data").glob(f"{_home(name)}-*/facts.json")
    return name in EMBEDDED or any(decoded) or layouts.local_parquet(_home(name)) is not None
