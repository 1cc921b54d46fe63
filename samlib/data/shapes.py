"""How large a data set is, for plans: known by name or read from its headers; nothing is downloaded, decoded or written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

from samlib.checks import as_number
from samlib.data import images, layouts, tables
from samlib.data.checked import check, check_labels
from samlib.data.files import cache_folder, local_file


class Shape(NamedTuple):
    """A data set's sizes; `example`, the shape of one as stored; `dtype` of its numbers; `at_hand`, whether it is here."""

    n_train: int
    n_test: int
    example: tuple[int, ...]
    classes: int
    dtype: str = "uint8"
    at_hand: bool = True

    @property
    def decoded(self) -> bool:
        """Images that are normalized by channel when they are used."""
        return self.dtype == "uint8" and len(self.example) == 3


KNOWN = {
    "digits": Shape(1437, 360, (8, 8), 10, "float32"),
    "location30": Shape(4010, 1000, (446,), 30, "float32"),
    "subclasses": Shape(4000, 1000, (256,), 20, "float32"),
    "purchase100": Shape(177_324, 20_000, (600,), 100),
    "texas100": Shape(60_000, 7_330, (6169,), 100),
    "cifar10": Shape(50_000, 10_000, (32, 32, 3), 10),
    "cifar100": Shape(50_000, 10_000, (32, 32, 3), 100),
    "cifar100-coarse": Shape(50_000, 10_000, (32, 32, 3), 20),
    "fashion_mnist": Shape(60_000, 10_000, (28, 28, 1), 10),
}
NAMES = tuple(KNOWN)
EMBEDDED = ("digits", "subclasses")  # need no file and no network


def own(name: str, image_size: int | None = None, label: str | None = None, pixels: bool = True) -> dict | None:
    """A data set of one's own by its path, or by a folder's name in `SAMLIB_DATA`; None where there is none.

    Without `pixels`, images are not decoded, and zeros that take no memory have their shape.
    """
    here = Path(os.path.expanduser(name))
    if name.lower().endswith(".npz"):
        refuse_options(name, image_size, label)
        return tables.from_npz(here)
    path = next((path for path in (here, local_file(name, "")) if name and path and path.is_dir()), None)
    if path is None:
        return None
    if image_size is not None:
        image_size = as_number(f"image_size for {path}", image_size, 1, whole=True)
    found = layouts.encoded(path, label)
    if found.left_out and pixels:
        warnings.warn(f"In {path}, left out: {found.left_out}.", stacklevel=3)
    check_labels(str(path), *found.labels, found.classes)
    return images.load(found, image_size, pixels)


def refuse_options(name: str, image_size: int | None, label: str | None = None) -> None:
    if image_size is not None or label is not None:
        raise ValueError(f"image_size and label are for folders of images, and {name} is none.")


def shape_of(name: str, image_size: int | None = None) -> Shape:
    """The shape of a data set, as `load_dataset` would return it without `pool`.

    Raises ValueError where there is no such data set, or its files cannot be read.
    """
    if name in KNOWN:
        refuse_options(name, image_size)
        return KNOWN[name]._replace(at_hand=_at_hand(name))
    if (found := own(name, image_size, pixels=False)) is None:
        raise ValueError(
            f"dataset {name!r} is not at hand: no known name, and no folder or file here or in $SAMLIB_DATA."
        )
    check(name, *found["arrays"], found["classes"])
    x, _, _, y_test = found["arrays"]
    return Shape(len(x), len(y_test), x.shape[1:], len(found["classes"]), str(x.dtype))


def local_parquet(name: str) -> Path | None:
    """The folder of a published set's parquet files in the one that `SAMLIB_DATA` names, where it has them."""
    path = local_file(name, "")
    return path if path and path.is_dir() and layouts.parquet_parts(path) else None


def _at_hand(name: str) -> bool:
    if name in EMBEDDED:
        return True
    if name in tables.PUBLISHED:
        file = tables.PUBLISHED[name][0].rsplit("/", 1)[-1]
        return local_file(name, file) is not None or (cache_folder() / "data" / name / file).exists()
    home = name.removesuffix("-coarse")
    kept = any((cache_folder() / "data").glob(f"{home}-*/facts.json"))
    return kept or local_parquet(home) is not None
