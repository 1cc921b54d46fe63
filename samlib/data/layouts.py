"""How data sets of one's own lie on the disk: folders of image files, and of parquet files with encoded images."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np

from samlib.data.checked import numbered
from samlib.data.files import reason, sha256_of
from samlib.data.images import SUFFIXES, Encoded

TRAIN, TEST = ("train", "training"), ("test", "testing", "val", "valid", "validation")  # the first that is there
SIDES = TRAIN + TEST
PART = re.compile(r"([a-z]+)(?:-(\d+)-of-(\d+)(?:-\w+)?)?\.parquet", re.IGNORECASE)
LABELS = re.compile(r"(.*_)?(labels?|class|target)", re.IGNORECASE)
BATCH = 128  # pictures of a parquet file in memory at once


def encoded(folder: Path, label: str | None = None) -> Encoded:
    """What a folder holds: the images and labels of both sides, nothing decoded.

    Raises ValueError, one sentence, where it is laid out otherwise, or files are missing, damaged or unreadable.
    """
    parts = parquet_parts(folder)
    return from_parquet(folder, parts, label) if parts else from_folder(folder, label)


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what file managers and notebooks hide there."""
    try:
        return sorted(path for path in folder.iterdir() if _seen(path.name))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({reason(error)}).") from None


def _seen(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"


def _list(names, most: int = 9) -> str:
    names = sorted(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "") or "nothing"


def parquet_parts(folder: Path) -> dict[str, list[Path]]:
    """The parquet files of each side, by its name in lower case: in the folder, or as near below it as they come.

    `train.parquet`, `train-00000-of-00002.parquet` or any name in a folder `train`. Raises ValueError where parts are
    missing or two places hold files.
    """
    for depth in range(3):
        found: dict[tuple[Path, str], list[Path]] = {}
        for path in sorted(folder.glob("*/" * depth + "*.parquet")):
            if all(map(_seen, path.relative_to(folder).parts)) and path.is_file():
                match = PART.fullmatch(path.name)
                if depth and path.parent.name.lower() in SIDES:
                    found.setdefault((path.parent.parent, path.parent.name.lower()), []).append(path)
                elif match and match[1].lower() in SIDES:
                    found.setdefault((path.parent, match[1].lower()), []).append(path)
        if len(homes := {home for home, _ in found}) > 1:
            raise ValueError(f"The folder {folder} holds data sets in {_list(homes)}; name one of them.")
        for (home, side), files in found.items():
            matches = [match for path in files if (match := PART.fullmatch(path.name)) and match[1].lower() == side]
            numbers, totals = sorted(int(m[2] or -1) for m in matches), {int(m[3]) for m in matches if m[3]}
            if (totals or len(matches) > 1) and (numbers, totals) != ([*range(len(numbers))], {len(numbers)}):
                said = _list(path.name for path in files)
                raise ValueError(f"The folder {home} must hold each part of {side} once, not {said}.")
        if found:
            return {side: files for (_, side), files in found.items()}
    return {}


def from_parquet(folder: Path, parts: dict[str, list[Path]], label: str | None) -> Encoded:
    """Parquet files with a column of encoded images, binary or structs of `bytes`, and a column of labels.

    The images are in `img` or `image`, else in the only such column. label: the name of the labels' column; if None,
    `label` or `fine_label`, else the first whose name ends in label, labels, class or target.
    """
    import pyarrow.parquet

    used = {side: next((n for n in names if n in parts), None) for side, names in (("train", TRAIN), ("test", TEST))}
    if missing := [side for side, name in used.items() if name is None]:
        said = _list(path.name for path in chain.from_iterable(parts.values()))
        raise ValueError(f"The folder {folder} has no {missing[0]}.parquet or parts of it; it holds {said}.")
    sides = {side: parts[name] for side, name in used.items()}
    left_out = parts.keys() - used.values()
    labels, images, names = {}, {}, None
    for side, paths in sides.items():
        labels[side], images[side] = [], []
        for path in paths:
            with _reading(path), pyarrow.parquet.ParquetFile(path) as file:
                image, column = _columns(file.schema_arrow, label)
                names = names or _names(file.schema_arrow, column)
                values = file.read([column])[column]
                if values.null_count:
                    raise ValueError(f"{values.null_count} of its rows have no {column}")
                if pyarrow.types.is_dictionary(values.type):
                    values = values.cast(values.type.value_type)
                labels[side].append(values.to_numpy())
                images[side].append((path, image, len(values)))
    y_train, y_test, classes = numbered(f"{folder}, column {column}", *map(np.concatenate, labels.values()), names)
    sums = {side: " ".join(map(sha256_of, paths)) for side, paths in sides.items()}

    def pictures(side: str) -> Iterator[tuple[str, io.BytesIO]]:
        for path, image, n in images[side]:
            with _reading(path), pyarrow.parquet.ParquetFile(path) as file:
                batches = file.iter_batches(BATCH, columns=[image])
                values = (value for batch in batches for value in batch.column(0).to_pylist())
                i = -1
                for i, value in enumerate(values):
                    raw = value.get("bytes") if isinstance(value, dict) else value
                    if not raw or i == n:
                        raise ValueError(f"row {i} has no image" if i < n else f"it has more images than {n} labels")
                    yield f"{path}, image {i},", io.BytesIO(raw)
                if i + 1 != n:
                    raise ValueError(f"it has {i + 1} images and {n} labels")

    return Encoded(
        folder.name,
        f"parquet {sums}",
        f"{folder.name} parquet sha256 train {sums['train']} test {sums['test']}",
        {side: lambda side=side: pictures(side) for side in sides},
        (y_train, y_test),
        classes,
        _list(left_out) if left_out else "",
    )


def _columns(schema, label: str | None) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    from pyarrow import types

    def holds_images(kind) -> bool:
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind)

    images = [column.name for column in schema if holds_images(column.type)]
    image = next((name for name in ("img", "image") if name in images), images[0] if len(images) == 1 else None)
    found = [name for name in schema.names if LABELS.fullmatch(name) and name != image]
    if label is not None:
        found = [name for name in schema.names if name == label != image]
    column = next((name for name in ("label", "fine_label") if name in found), found[0] if found else None)
    if image is None or column is None:
        said = _list(f"{column.name} ({column.type})" for column in schema)
        wanted = "labels" if label is None else f"labels {label!r}"
        raise ValueError(f"it needs one column of encoded images and one of {wanted}, and has {said}")
    return image, column


def _names(schema, column: str) -> list[str] | None:
    """The names of the classes of a column, where the schema has them as Hugging Face writes them."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][column]["names"]
        return [str(name) for name in names] if isinstance(names, list) else None
    except (KeyError, TypeError, ValueError):
        return None


@contextmanager
def _reading(path: Path):
    """What pyarrow raises for a damaged file is one sentence that names it."""
    import pyarrow

    try:
        yield
    except (OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError, OverflowError, MemoryError) as error:
        what = "cannot be read" if getattr(error, "strerror", None) else "is damaged or has another layout"
        raise ValueError(f"{path} {what}: {reason(error)}.") from None


def from_folder(folder: Path, label: str | None = None) -> Encoded:
    """Image files in one folder a class: in `train` and `test` or `val`, or right in the folder, of which a fifth is for test.

    That fifth is random and fixed. Images at any depth below a class's folder are of that class; a folder with one
    folder in it and no images is that folder. Files are in a fixed random order, so that a pool is a fair sample.
    """
    if label is not None:
        raise ValueError(f"In an image folder the class is the folder's name: {folder} has no label {label!r}.")
    home = folder
    while True:
        inside = _entries(home)
        below = [path for path in inside if path.is_dir()]
        if len(below) != 1 or below[0].name.lower() in SIDES or any(map(_is_image, inside)):
            break
        if Path(os.path.realpath(home)).is_relative_to(os.path.realpath(below[0])):
            break
        home = below[0]
    parts = {path.name.lower(): path for path in below}
    trees = {name: _classes(parts[name]) for name in SIDES if name in parts}
    train, test = (next((n for n in names if any(trees.get(n, {}).values())), None) for names in (TRAIN, TEST))
    if train is None:
        found, left_out = {"": _classes(home)}, _stray(home)
        direct = {name for name, path in parts.items() if name in SIDES and found[""][path.name]}
        if direct & {*TRAIN} and direct & {*TEST}:
            raise ValueError(
                f"The folder {home} has images right in {_list(direct)}; put them into one folder a class."
            )
    elif test is None:
        flat = [parts[name].name for name in TEST if name in parts and _images(parts[name])]
        said = f"; the images in {_list(flat)} have no class" if flat else ""
        raise ValueError(f"The folder {home} has {train}, and no test or val with one folder a class{said}.")
    else:
        found = {"train": trees[train], "test": trees[test]}
        left_out = [path.name for name, path in parts.items() if name not in (train, test) and _images(path)]
        left_out += [said for part in (home, parts[train], parts[test]) for said in _stray(part)]
    left_out += [f"{name} (no images)" for name, paths in next(iter(found.values())).items() if not paths]
    classes = sorted({name for part in found.values() for name, paths in part.items() if paths})
    if len(classes) < 2 or not all(any(part.values()) for part in found.values()):
        raise ValueError(
            f"The folder {folder} must hold images in one folder a class, or train.parquet and test.parquet; it holds "
            f"{_list(p.name for p in inside)}."
        )
    listed = {side: [(path, name) for name, paths in part.items() for path in paths] for side, part in found.items()}
    rng = np.random.default_rng(0)
    files = {side: [pairs[i] for i in rng.permutation(len(pairs))] for side, pairs in listed.items()}
    if "" in files:
        n_test = max(1, len(files[""]) // 5)
        files = {"train": files[""][n_test:], "test": files[""][:n_test]}
    described = []
    for path, _ in chain(files["train"], files["test"]):
        try:
            about = path.stat()
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({reason(error)}).") from None
        described.append((str(path.relative_to(home)), about.st_size, about.st_mtime_ns))
    stamp = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    return Encoded(
        folder.name,
        f"{os.path.realpath(home)} {stamp}",  # elsewhere, other images may have the same names, sizes and times
        f"{folder.name}, {len(described)} image files, listing sha256 {stamp}",
        {side: lambda pairs=pairs: ((str(path), path) for path, _ in pairs) for side, pairs in files.items()},
        tuple(np.array([classes.index(name) for _, name in files[side]], np.int64) for side in ("train", "test")),
        tuple(classes),
        _list(left_out) if left_out else "",
    )


def _classes(part: Path) -> dict[str, list[Path]]:
    """The images in each folder of a folder."""
    return {path.name: _images(path) for path in _entries(part) if path.is_dir()}


def _stray(part: Path) -> list[str]:
    """In words: the images in a folder that has one folder a class, but in none of these."""
    n = sum(map(_is_image, _entries(part)))
    return [f"{n} images right in {part.name}"] if n else []


def _images(folder: Path) -> list[Path]:
    """The image files at any depth below a folder; a link to a folder is followed once, and never back up."""
    found, seen = [], {os.path.realpath(path) for path in (folder, *folder.absolute().parents)}

    def refuse(error: OSError):
        raise ValueError(f"{error.filename} cannot be read ({reason(error)}).") from None

    for home, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        real = {name: os.path.realpath(os.path.join(home, name)) for name in folders if _seen(name)}
        folders[:] = [name for name, path in sorted(real.items()) if path not in seen]
        seen |= set(real.values())
        found += [path for name in names if _seen(name) and _is_image(path := Path(home, name))]
    return sorted(found)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists())
