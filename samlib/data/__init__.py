"""Data sets as frozen arrays: a training pool that subsets are drawn from, and a test set that no model ever sees."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np

from samlib.checks import as_number
from samlib.data import generated, images, layouts, tables
from samlib.data.checked import check
from samlib.data.files import NotAtHand, cache_folder
from samlib.data.shapes import EMBEDDED, NAMES, Shape, local_parquet, own, refuse_options, shape_of

__all__ = ["EMBEDDED", "NAMES", "Dataset", "NotAtHand", "Shape", "cache_folder", "load_dataset", "shape_of"]

_TABLES = {
    "digits": tables.digits,
    "subclasses": generated.subclasses,
    "location30": tables.location30,
    "purchase100": tables.purchase100,
    "texas100": tables.texas100,
}


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Attributes: `x_train` (n, ...) and `y_train` (n,) int64, the pool; `x_test` (t, ...) and `y_test` (t,); `classes`, the
    class names, so that labels lie in 0 .. len(classes) - 1; `name`; `checksum`, the sha256 of the four arrays, which a
    store of runs records; `source`, which bytes they were read from.

    Images are uint8 (n, height, width, channels). Decoded images are mapped from a file that processes share. For images,
    `mean` and `std` are those of each channel of the whole training set, in units of 255, and models are fed
    (x / 255 - mean) / std. Other features stay as they are, and `mean` and `std` are None.

    `subclass_train` (n,) and `subclass_test` (t,), int64: the subclass of each example where that is known, as of
    `subclasses`, and then part of the checksum; else None.
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

    def arrays(self) -> dict:
        """What `samlib.training.train_group` takes: the four arrays, `n_classes`, and `mean` and `std` for images."""
        given = {name: getattr(self, name) for name in ("x_train", "y_train", "x_test", "y_test")}
        moments = {"mean": np.float32(self.mean), "std": np.float32(self.std)} if self.mean else {}
        return given | moments | {"n_classes": len(self.classes)}


def load_dataset(
    name_or_path: str | os.PathLike,
    *,
    pool: int | None = None,
    image_size: int | None = None,
    label: str | None = None,
) -> Dataset:
    """Load a data set by name, or from a file or folder of your own.

    Tables: `digits` (Alpaydin and Kaynak 1998; ships with scikit-learn): 1,437 8x8 images to draw from, 360 for test.
    `subclasses` (generated, `samlib.data.generated`): 4,000 + 1,000 rows of 256 features in 20 classes, each with a majority
    and a rarer minority, of which every example is known.
    `location30`, `purchase100`, `texas100` (Shokri et al. 2017): 4,010 + 1,000 rows of 446 binary features in 30 classes;
    177,324 + 20,000 of 600 and 60,000 + 7,330 of 6,169 in 100 classes; from the folder that `SAMLIB_DATA` names where that
    holds the published archive as `location30/dataset_location.tgz` and so on, else downloaded once.
    Images: `cifar10`, `cifar100`, `cifar100-coarse` (its 20 superclasses; Krizhevsky 2009), `fashion_mnist` (Xiao et al.
    2017); from `SAMLIB_DATA` where that holds `cifar10/train.parquet` and `test.parquet`, else by torchvision's download;
    always in the order of `images.canonical_order`, and CIFAR's pixels and labels are checked.

    Your own, by its path, or a folder in the one that `SAMLIB_DATA` names by its name:

    - an `.npz` of `x_train, y_train, x_test, y_test`. uint8 of three or four dimensions are images, with channels last or
      first; `tables.from_npz` has the rule.
    - a folder of parquet files: `train.parquet` or its parts, and those of `test` or `validation`, with a column of encoded
      images and one of labels. Whole numbers are the classes; texts and bools are numbered in sorted order.
    - a folder of images with one folder a class, below `train` and `test` or `val`, or without: then a fixed random fifth is
      for test. Names that begin with a dot are no data. A warning names what is left out.

    Images become uint8, colour on both sides where one image has it; a palette is colour. 16 bits become 8 by dividing by
    257; 32 bits are refused. Transparent pixels are white. Photos are turned as their EXIF data say. All must have one size,
    unless `image_size` is given; of several frames the first is read.

    pool: keep only the first that many training examples. image_size: crop the images of a folder to squares of that many
    pixels a side. label: the column of labels of a parquet folder; if None, `label` or `fine_label`, else the first whose
    name ends in label, labels, class or target.
    Raises ValueError, in one sentence, for an unknown name, a file that is missing, damaged or altered, or arrays that do not
    fit together; NotAtHand, a ValueError, where a public data set is not here and cannot be downloaded; OSError where the
    cache of decoded images cannot be written.
    """
    name = os.fspath(name_or_path)
    if name in _TABLES:
        refuse_options(name, image_size, label)
        found = _TABLES[name]()
    elif name in NAMES:
        refuse_options(name, image_size)
        path = local_parquet(name.removesuffix("-coarse"))
        found = images.named(name, label, path and layouts.encoded(path))
    elif (found := own(name, image_size, label)) is None:
        raise ValueError(
            f"dataset {name!r} is neither one of {', '.join(NAMES)} nor the path of an .npz file or an image folder."
        )
    check(name, *found["arrays"], found["classes"])
    arrays, mean, std, subclass = found["arrays"], None, None, found.get("subclass", ())
    if arrays[0].dtype == np.uint8 and arrays[0].ndim == 4:
        mean, std = images.statistics(arrays[0])
    if pool is not None:
        pool = as_number("pool", pool, 2, len(arrays[0]), whole=True, why=f", the training examples of {name}")
        arrays = (arrays[0][:pool], arrays[1][:pool], *arrays[2:])
        subclass = (subclass[0][:pool], subclass[1]) if subclass else ()
    digest = hashlib.sha256(f"{mean} {std}".encode() if mean else b"")
    for array in (*arrays, *subclass):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array))
        array.setflags(write=False)
    return Dataset(
        *arrays,
        classes=tuple(found["classes"]),
        name=name,
        checksum=digest.hexdigest(),
        source=found["source"],
        mean=mean,
        std=std,
        **dict(zip(("subclass_train", "subclass_test"), subclass, strict=False)),
    )
