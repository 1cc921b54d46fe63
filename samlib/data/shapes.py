"""How large a data set is, for plans: known by name or read from its headers; nothing is downloaded, decoded or written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from samlib.data import images, tables
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


def folder(name: str) -> Path | None:
    """The folder of that path, or of that name in `SAMLIB_DATA`, where there is one."""
    return next((path for path in (Path(name), local_file(name, "")) if path and path.is_dir()), None)


def shape_of(name: str, image_size: int | None = None) -> Shape:
    """The shape of a data set, as `load_dataset` would return it without `pool`.

    Raises ValueError where there is no such data set, or its files cannot be read.
    """
    if name in KNOWN:
        return KNOWN[name]._replace(at_hand=_at_hand(name))
    try:
        if name.endswith(".npz"):
            x, y, _, y_test = tables.from_npz(Path(name))["arrays"]
            return Shape(len(y), len(y_test), x.shape[1:], int(y.max()) + 1, str(x.dtype))
        if path := folder(name):
            return (_of_parquet if (path / "train.parquet").exists() else _of_folder)(path, image_size)
    except (OSError, LookupError, TypeError, StopIteration) as error:
        raise ValueError(f"{name} cannot be read: {' '.join(str(error).split()).rstrip('.')}.") from None
    raise ValueError(f"dataset {name!r} is not at hand: no known name, and no folder or file here or in $SAMLIB_DATA.")


def _at_hand(name: str) -> bool:
    if name in EMBEDDED:
        return True
    home = name.removesuffix("-coarse")
    file = tables.PUBLISHED[name][0].rsplit("/", 1)[-1] if name in tables.PUBLISHED else "train.parquet"
    kept = cache_folder() / "data"
    there = (kept / name / file).exists() or any(kept.glob(f"{home}-*/facts.json"))
    return local_file(home, file) is not None or there


def _of_folder(path: Path, image_size: int | None) -> Shape:
    from PIL import Image

    sides = {side: list(images.listed(path / side)) for side in ("train", "test")}
    if not (path / "train").is_dir():
        every = list(images.listed(path))
        n_test = max(1, len(every) // 5)  # as `images.from_folder` splits them
        sides = {"train": every[n_test:], "test": every[:n_test]}
    classes = {file.parent.name for files in sides.values() for file in files}
    if len(classes) < 2 or not all(sides.values()):
        raise ValueError(f"The folder {path} must hold images in one folder a class.")
    with Image.open(sides["train"][0]) as image:
        example = _pixels(image, image_size)
    return Shape(*map(len, sides.values()), example, len(classes))


def _of_parquet(path: Path, image_size: int | None) -> Shape:
    import io

    import pyarrow.parquet
    from PIL import Image

    train, test = (pyarrow.parquet.ParquetFile(path / f"{side}.parquet") for side in ("train", "test"))
    names = train.schema_arrow.names
    column = next(name for name in ("img", "image") if name in names)
    label = next(name for name in ("label", "fine_label") if name in names)
    first = next(train.iter_batches(1, columns=[column])).column(0)[0].as_py()
    with Image.open(io.BytesIO(first["bytes"])) as image:
        example = _pixels(image, image_size)
    classes = int(np.max(train.read([label])[label].to_numpy())) + 1
    return Shape(train.metadata.num_rows, test.metadata.num_rows, example, classes)


def _pixels(image, image_size: int | None) -> tuple[int, int, int]:
    width, height = (image_size, image_size) if image_size else image.size
    return height, width, 1 if image.mode in ("L", "1") else 3
