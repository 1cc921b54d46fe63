"""How data sets of your own lie on the disk: folders of image files, and of parquet files with encoded images."""

import hashlib
import io
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from samlib.data.checked import SIDES, numbered
from samlib.data.files import local_file, sha256_of
from samlib.data.images import SUFFIXES, Encoded
from samlib.disk import in_a_sentence, reason

# the first is taken
NAMES = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
EVERY = NAMES["train"] + NAMES["test"]
PART = re.compile(r"([a-z]+)(?:-(\d+)-of-(\d+)(?:-\w+)?)?\.parquet", re.IGNORECASE)
LABELS = re.compile(r"(.*_)?(labels?|class|target)", re.IGNORECASE)
BATCH = 128  # pictures of a parquet file in memory at once


def encoded(folder: Path, label: str | None = None) -> Encoded:
    """What a folder holds: the images and labels of both sides; nothing is decoded.

    Raises ValueError, in one sentence, if the layout is unknown, or files are missing, damaged or unreadable.
    """
    return from_parquet(folder, label) or from_folder(folder, label)


def local_parquet(name: str) -> Encoded | None:
    """A published set's parquet files in the folder that `SAMLIB_DATA` names, if it has them."""
    folder = local_file(name, "")
    return from_parquet(folder) if folder else None


def listed(names: Iterable, most: int = 9) -> str:
    """Names in sorted order, for a message."""
    names = sorted(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "") or "nothing"


def _entries(folder: Path) -> list[str]:
    """The names in a folder that are not hidden."""
    return [path.name for path in folder.iterdir() if _seen(path.name)]


def _seen(name: str) -> bool:
    """Whether a name is not one of those that file managers and notebooks hide in a folder."""
    return not name.startswith(".") and name != "__MACOSX"


def parquet_parts(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of each side, by its name in lower case: from the folder, else one level below it, else two.

    They are called `train.parquet`, `train-00000-of-00002.parquet` or anything in a folder `train`. Raises ValueError if
    parts are missing or two places hold files.
    """
    for depth in range(3):
        found: dict[tuple[Path, str], list[Path]] = defaultdict(list)
        for path in sorted(folder.glob("*/" * depth + "*.parquet")):
            home, name = path.parent, PART.fullmatch(path.name)
            side = name[1].lower() if name else ""
            if depth and home.name.lower() in EVERY:
                home, side = home.parent, home.name.lower()
            if side in EVERY and path.is_file() and all(map(_seen, path.relative_to(folder).parts)):
                found[home, side].append(path)
        if len(homes := {home for home, _ in found}) > 1:
            raise ValueError(f"The folder {folder} holds data sets in {listed(homes)}; name one of them.")
        for (home, side), paths in found.items():
            names = [path.name for path in paths]
            parts = [part for part in map(PART.fullmatch, names) if part and part[1].lower() == side]
            numbers = sorted((int(part[2] or 0), int(part[3] or 1)) for part in parts)
            if numbers != [(i, len(numbers)) for i in range(len(numbers))]:
                raise ValueError(f"The folder {home} must hold each part of {side} once, not {listed(names)}.")
        if found:
            return {side: paths for (_, side), paths in found.items()}
    return {}


def from_parquet(folder: Path, label: str | None = None) -> Encoded | None:
    """Parquet files with a column of encoded images, binary or structs of `bytes`, and a column of labels; None without any.

    The images are in `img` or `image`, else in the only such column. label: the name of the labels' column; if None,
    `label` or `fine_label`, else the first whose name ends in label, labels, class or target.
    """
    if not (parts := parquet_parts(folder)):
        return None
    used = [next((name for name in NAMES[side] if name in parts), "") for side in SIDES]
    for side, name in zip(SIDES, used, strict=True):
        if not name:
            said = listed(path.name for path in chain.from_iterable(parts.values()))
            raise ValueError(f"The folder {folder} has no {side}.parquet or parts of it; it holds {said}.")
    paths = [parts[name] for name in used]
    read = [[_labels(path, label) for path in each] for each in paths]
    _, column, names = read[0][0]
    y_train, y_test, classes = numbered(
        f"{folder}, column {column}", [np.concatenate([y for y, _, _ in each]) for each in read], names
    )
    sums = {side: " ".join(map(sha256_of, each)) for side, each in zip(SIDES, paths, strict=True)}
    source = f"{folder.name} parquet sha256 train {sums['train']} test {sums['test']}"
    pictures = [partial(_pictures, each, label) for each in paths]
    left_out = [*(parts.keys() - used)]
    return Encoded(folder, f"parquet {sums}", source, pictures, (y_train, y_test), classes, left_out)


@contextmanager
def _parquet(path: Path, label: str | None) -> Iterator[tuple[Any, str, str]]:
    """A parquet file, and the names of its columns of images and of labels.

    What pyarrow raises for a damaged file, here or in the block, is one sentence that names it.
    """
    import pyarrow.parquet

    with in_a_sentence(f"{path} is damaged or has another layout: "), pyarrow.parquet.ParquetFile(path) as file:
        yield file, *_columns(file.schema_arrow, label)


def _labels(path: Path, label: str | None) -> tuple[np.ndarray, str, list[str] | None]:
    """The labels of a file, the name of their column, and the names of their classes if the file has them."""
    with _parquet(path, label) as (file, _, column):
        values = file.read([column])[column]
        if values.null_count:
            raise ValueError(f"{values.null_count} of its rows have no {column}")
        return values.to_numpy(), column, _class_names(file.schema_arrow, column)


def _pictures(paths: list[Path], label: str | None) -> Iterator[tuple[str, io.BytesIO]]:
    for path in paths:
        with _parquet(path, label) as (file, image, _):
            batches = file.iter_batches(BATCH, columns=[image])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            for row, value in zip(range(file.metadata.num_rows), values, strict=True):
                raw = value.get("bytes") if isinstance(value, dict) else value
                if not raw:
                    raise ValueError(f"row {row} has no image")
                yield f"{path}, image {row},", io.BytesIO(raw)


def _columns(schema: Any, label: str | None) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    from pyarrow import types

    def holds_images(kind: Any) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind)

    images = [column.name for column in schema if holds_images(column.type)]
    image = next((name for name in ("img", "image") if name in images), images[0] if len(images) == 1 else None)
    wanted = [label] if label is not None else ["label", "fine_label", *filter(LABELS.fullmatch, schema.names)]
    column = next((name for name in wanted if name in schema.names and name != image), None)
    if image is None or column is None:
        said = listed(f"{column.name} ({column.type})" for column in schema)
        called = "labels" if label is None else f"labels {label!r}"
        raise ValueError(f"it needs one column of encoded images and one of {called}, and has {said}")
    return image, column


def _class_names(schema: Any, column: str) -> list[str] | None:
    """The names of the classes of a column, if the schema has them as Hugging Face writes them."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][column]["names"]
        return [str(name) for name in names] if isinstance(names, list) else None
    except (KeyError, TypeError, ValueError):
        return None


def from_folder(folder: Path, label: str | None = None) -> Encoded:
    """Image files in one folder a class: in `train` and `test` or `val`, or right in the folder; then a fifth is for test.

    That fifth is random and fixed. Images at any depth below a class's folder are of that class. If all images are in one
    subfolder, that one is read instead. Files are in a fixed random order, so that a pool is a fair sample.
    """
    if label is not None:
        raise ValueError(f"In an image folder the class is the folder's name: {folder} has no label {label!r}.")
    home, stats = folder, _images(folder)
    placed = [path.relative_to(folder).parts for path in stats]
    while len({parts[0] for parts in placed}) == 1 and placed[0][1:] and placed[0][0].lower() not in EVERY:
        home, placed = home / placed[0][0], [parts[1:] for parts in placed]
    # of each image, the first folder below `home` and the second, "" if there is none
    above = [(*parts[:-1], "", "")[:2] for parts in placed]
    tops, divided = {top for top, _ in above}, {top for top, below in above if below}
    named = {side: [t for name in NAMES[side] for t in sorted(tops) if t.lower() == name] for side in SIDES}
    train, test = (next((top for top in named[side] if top in divided), "") for side in SIDES)
    flat = {side: [top for top in named[side] if top not in divided] for side in SIDES}
    if train and not test:
        said = f"; the images in {listed(flat['test'])} have no class" if flat["test"] else ""
        raise ValueError(f"The folder {home} has {train}, and no test or val with one folder a class{said}.")
    if not train and flat["train"] and flat["test"]:
        said = listed(flat["train"] + flat["test"])
        raise ValueError(f"The folder {home} has images right in {said}; put them into one folder a class.")
    sides = (train, test) if train else ("",)
    if not train:
        above = [("", top) for top, _ in above]
    images = list(zip(stats, above, strict=True))
    read = [[(path, c) for path, (top, c) in images if top == side and c] for side in sides]
    classes = sorted({c for each in read for _, c in each})
    if len(classes) < 2:
        wanted, said = "images in one folder a class, or train.parquet and test.parquet", listed(_entries(home))
        raise ValueError(f"The folder {folder} must hold {wanted}; it holds {said}.")
    empty = {name for name in _entries(home / train) if (home / train / name).is_dir()} - {c for _, c in read[0]}
    loose = Counter(top or home.name for top, c in above if top in ("", *sides) and not c)
    left_out = [f"{n} images right in {name}" for name, n in loose.items()]
    left_out += [*{top for top, _ in above}.difference(sides, [""]), *(f"{name} (no images)" for name in empty)]
    rng = np.random.default_rng(0)
    files = [[each[i] for i in rng.permutation(len(each))] for each in read]
    if not train:
        n_test = max(1, len(files[0]) // 5)
        files = [files[0][n_test:], files[0][:n_test]]
    described = [(str(path.relative_to(home)), *stats[path]) for path, _ in chain(*files)]
    stamp = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    here = f"{os.path.realpath(home)} {stamp}"  # elsewhere, other images may have the same names, sizes and times
    source = f"{folder.name}, {len(described)} image files, listing sha256 {stamp}"
    pictures: list[Any] = [partial(list, [(str(path), path) for path, _ in each]) for each in files]
    labels = [np.array([classes.index(c) for _, c in each], np.int64) for each in files]
    return Encoded(folder, here, source, pictures, labels, classes, left_out)


def _images(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of the image files at any depth below a folder, sorted. Links to folders are followed once, but not up."""
    found, seen = {}, {os.path.realpath(path) for path in (folder, *folder.absolute().parents)}

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename} cannot be read ({reason(error)}).") from None

    for home, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = {name: os.path.realpath(os.path.join(home, name)) for name in folders if _seen(name)}
        folders[:] = [name for name, path in sorted(real.items()) if path not in seen]
        seen |= set(real.values())
        for path in (Path(home, name) for name in names if _seen(name) and Path(name).suffix.lower() in SUFFIXES):
            try:
                about = path.stat()
            except OSError as error:
                refuse(error)
            if S_ISREG(about.st_mode):  # a pipe is no image
                found[path] = about.st_size, about.st_mtime_ns
    return dict(sorted(found.items()))
