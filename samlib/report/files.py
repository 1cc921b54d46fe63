"""Read signals from an untrusted file: no pickle is read, and every size is checked before memory is allocated.

A large array of a file stays on the disk, and a few of its columns are read at a time. `signals.schema.json` says what a file
may hold.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from samlib.checks import OneSentence, as_array, as_path
from samlib.disk import in_a_sentence, reason

SCHEMA: dict[str, Any] = json.loads(Path(__file__).with_name("signals.schema.json").read_text(encoding="utf-8"))
ARRAYS: dict[str, dict[str, Any]] = SCHEMA["properties"]
SIGNALS = ("logit", "loss", "probability")
OTHER_NAMES = {"label": "labels", "group": "groups", "test_label": "test_labels"}
LETTERS = 64  # in a group's name, at most
KINDS = {  # of numpy types, and what they mean
    "signal": ("fiu", "numbers"),
    "mask": ("biuf", "True and False"),
    "labels": ("iuf", "whole numbers (names may be groups)"),
    "names": ("iuU", f"whole numbers or texts of at most {LETTERS} letters"),
}
SMALL = 16 << 20  # bytes of an array that is held in memory
DESCRIPTION = 16 << 20  # bytes in which a file describes itself
VECTOR = 256 << 20  # bytes of the longest array with one axis, and of a zarr chunk
RATIO = 100  # how many times as large as in its file an array above SMALL may be
MOST_FILES = 100_000  # in a zarr folder
PATIENCE = 60  # seconds for the sizes of parquet columns


class BadFile(OneSentence):
    """A file of signals cannot be audited."""


class Mapped(np.memmap):
    """An array that `read` has mapped from a file. A caller's own mapping is none."""


Found = tuple[dict[str, np.ndarray], list[str]]


def read(source, *, max_gb: float) -> Found:
    """The arrays of a file, or of a mapping of arrays, and the names in it that are not in the schema.

    A large array of a file is `Mapped`. Raises ValueError if the file is of another kind or damaged, or an array is
    larger than `max_gb` or holds no numbers.
    """
    if hasattr(source, "data_vars"):  # labels are coordinates
        source = source.reset_coords().transpose("model", "example", "test", ..., missing_dims="ignore")
    if isinstance(source, Mapping):
        arrays = {str(name): getattr(value, "values", value) for name, value in source.items()}
        found, names = {}, _names(arrays)
        for key, name in names.items():
            value, texts = arrays[key], ARRAYS[name]["kind"] == "names"
            found[name] = np.asarray(value) if texts else as_array(name, value, infinite=True, missing=True)
        return found, sorted(arrays.keys() - names)
    path = as_path("path", source)
    with in_a_sentence(f"path {str(path)!r} cannot be read (", ").", (OSError, ValueError), BadFile):
        path.stat()
        head = np.fromfile(path, np.uint8, 4).tobytes() if path.is_file() else b""
    reader = _zarr if path.is_dir() else {b"PK\x03\x04": _npz, b"PAR1": _parquet}.get(head)
    if reader is None:
        raise BadFile(f"path {str(path)!r} is no npz file, parquet file or zarr folder.")
    with _parsed(path.name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a parser's remarks on a damaged header
        return reader(path, max_gb * 1e9)


def _names(found: Iterable[str]) -> dict[str, str]:
    """The known names, each with its name in the schema."""
    found = list(found)
    # A population has signals of the same kind as the signal itself.
    population = f"test_{next((name for name in SIGNALS if name in found), 'logit')}"
    others = OTHER_NAMES | {"population": population}
    names = [others.get(key, key) for key in found]
    if twice := [name for name in ARRAYS if names.count(name) > 1]:
        both = [key for key, name in zip(found, names, strict=True) if name == twice[0]]
        raise BadFile(f"{twice[0]} is given twice, as {' and '.join(both)}; keep one.")
    return {key: name for key, name in zip(found, names, strict=True) if name in ARRAYS}


@contextlib.contextmanager
def _parsed(what: str) -> Iterator[None]:
    """Turn any error of a parser inside the block into a BadFile of one sentence, which begins with `what`."""
    try:
        yield
    except BadFile:
        raise
    except Exception as error:  # parsers of hostile bytes raise anything
        raise BadFile(f"{what} is damaged, incomplete or has another layout ({reason(error)[:150]}).") from None


def _size(name: str, shape: tuple[int, ...], dtype: np.dtype, packed: int, most: float) -> int:
    """The bytes that an array will take, according to its file. Raises ValueError if it must not be read."""
    about, size = ARRAYS[name], math.prod(shape) * dtype.itemsize
    dims, most = about["dims"], VECTOR if len(about["dims"]) == 1 else most
    kinds, wanted = KINDS[about["kind"]]
    if dtype.kind not in kinds or dtype.itemsize > (4 * LETTERS if dtype.kind == "U" else 8):
        raise BadFile(f"{name} must hold {wanted}, not {'text' if dtype.kind in 'SU' else dtype}.")
    if len(shape) not in (len(dims), 1) or min(shape) < 1:
        raise BadFile(f"{name} must be ({', '.join(dims)}), but its shape is {shape}.")
    if size > most:
        raise BadFile(f"{name} takes {size / 1e9:.3g} GB, and at most {most / 1e9:.3g} GB are read.")
    if size > SMALL and size > RATIO * packed:
        raise BadFile(f"{name} would grow {size / max(packed, 1):.0f} times; write it without compression.")
    return size


def _room(shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
    """An array to write to, in memory or in a temporary file, which goes with the array."""
    if size <= SMALL:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile() as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk raises now; later it would end the process
        return Mapped(file, dtype, "w+", shape=shape)


def release(array) -> None:
    """Let go of the memory into which `read` has mapped an array's file. It is mapped again where the array is used."""
    ours = False
    while isinstance(array, np.ndarray):
        array, ours = array.base, ours or isinstance(array, Mapped)
    if ours and hasattr(array, "madvise"):  # some systems lack it, and drop the memory later
        array.madvise(mmap.MADV_DONTNEED)


def _npz(path: Path, most: float) -> Found:
    found: dict[str, np.ndarray] = {}
    headers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    whole = path.stat().st_size  # no entry takes more, whatever it says
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        keys = [info.filename.removesuffix(".npy") for info in entries]
        for key, name in (names := _names(keys)).items():
            info = entries[keys.index(key)]
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadFile(f"{name} must be stored as numpy.savez or savez_compressed writes it.")
            with _parsed(name), archive.open(info) as file:
                shape, fortran, dtype = headers[np.lib.format.read_magic(file)[0]](file)
                size = _size(name, shape, dtype, min(info.compress_size, whole), most)
                order: Literal["C", "F"] = "F" if fortran else "C"
                if size != info.file_size - file.tell():
                    raise ValueError(f"its header says {size} bytes, and there are {info.file_size - file.tell()}")
                if size <= SMALL:
                    found[name] = np.frombuffer(file.read(), dtype).reshape(shape, order=order)
                elif info.compress_type == zipfile.ZIP_STORED and len(shape) > 1:
                    found[name] = Mapped(path, dtype, "r", _start(path, info) + file.tell(), shape, order)
                else:
                    with tempfile.TemporaryFile() as copy:
                        shutil.copyfileobj(file, copy, SMALL)  # to the end, where the checksum is
                        copy.flush()
                        found[name] = Mapped(copy, dtype, "r", 0, shape, order)
    return found, sorted(set(keys) - names.keys())


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the content of a zip's entry begins in the file."""
    with path.open("rb") as raw:
        raw.seek(info.header_offset + 26)  # in the local header: the lengths of the name and the extra field
        return info.header_offset + 30 + int(np.frombuffer(raw.read(4), "<u2").sum())


def _zarr(path: Path, most: float) -> Found:
    import zarr

    inside = list(itertools.islice(path.rglob("*"), MOST_FILES + 1))
    if len(inside) > MOST_FILES:
        raise BadFile(f"path {str(path)!r} holds more than {MOST_FILES} files; write larger chunks.")
    if odd := [file.name for file in inside if file.is_symlink() or not (file.is_dir() or file.is_file())]:
        raise BadFile(f"{odd[0]!r} in {path.name!r} is a link or no plain file.")
    keys = sorted(file.name for file in path.iterdir() if file.is_dir())
    found: dict[str, np.ndarray] = {}
    for key, name in (names := _names(keys)).items():
        with _parsed(name):
            own = {file: file.stat().st_size for file in (path / key).rglob("*") if file.is_file()}
            about = {file for file in own if file.suffix == ".json" or file.name[0] == "."}
            if any(own[file] > DESCRIPTION for file in about):
                raise ValueError("its description is too long")
            array = zarr.open_array(path / key, mode="r")
            packer = _packer(array.metadata)
            size = _size(name, array.shape, array.dtype, sum(own.values()), most)
            chunk = math.prod(array.chunks) * array.dtype.itemsize
            if chunk > VECTOR or array.nchunks > max(1000, 10 * len(own)):
                raise ValueError(f"its chunks of {chunk} bytes are too large, or missing")
            for file in own.keys() - about:
                if not _unpacked(file, packer) <= chunk:
                    raise ValueError(f"chunk {file.name} unpacks to more than {chunk} bytes")
            found[name] = _room(array.shape, array.dtype, size)
            for corner in np.ndindex(array.cdata_shape):
                where = tuple(slice(k * step, (k + 1) * step) for k, step in zip(corner, array.chunks, strict=True))
                found[name][where] = array[where]
                release(found[name])
    return found, sorted(set(keys) - names.keys())


def _packer(about) -> str:
    """The compressor in a zarr array's metadata. Raises ValueError for codecs that run code, or unpack without a limit."""
    codecs = about.codecs if about.zarr_format == 3 else [*(about.filters or ()), about.compressor]
    used = [type(codec).__name__.lower().removesuffix("codec") for codec in codecs if codec]
    used = [name for name in used if name not in ("bytes", "crc32c", "transpose")]
    if used not in ([], ["zstd"], ["blosc"]):
        raise ValueError(f"it must hold numbers, compressed by zstd, blosc or not at all, not by {', '.join(used)}")
    return "".join(used)


def _unpacked(file: Path, packer: str) -> float:
    """The bytes that a chunk unpacks to, as it says itself; infinite if it does not say."""
    with file.open("rb") as opened:
        head = opened.read(18).ljust(18, b"\0")
    if packer == "blosc":
        return int.from_bytes(head[4:8], "little")
    if packer == "zstd":  # RFC 8878, section 3.1.1.1: the fifth byte gives the lengths of the fields
        start, width = 5 + (not head[4] & 32) + (0, 1, 2, 4)[head[4] & 3], (head[4] >> 5 & 1, 2, 4, 8)[head[4] >> 6]
        return int.from_bytes(head[start : start + width], "little") + 256 * (width == 2) if width else math.inf
    return file.stat().st_size - 4  # of a checksum, maybe


def _parquet(path: Path, most: float) -> Found:
    import pyarrow.parquet

    limits = {"thrift_string_size_limit": DESCRIPTION, "thrift_container_size_limit": 1_000_000}
    with pyarrow.parquet.ParquetFile(path, **limits) as file:
        rows, schema, rooms = file.metadata.num_rows, file.schema_arrow, {}
        names = {key: name for key, name in _names(schema.names).items() if "examples" in ARRAYS[name]["dims"]}
        sizes, whole = _parquet_sizes(path), path.stat().st_size
        for key, name in names.items():
            kind, (values, packed) = schema.field(key).type, sizes.get(key, (0, 0))
            shape: tuple[int, ...] = (rows,)
            if hasattr(kind, "value_type") and not hasattr(kind, "index_type"):  # lists
                if values % max(rows, 1):
                    raise BadFile(f"{name} must be a list of the same length in each row, one value for each model.")
                kind, shape = kind.value_type, (values // max(rows, 1), rows)
            dtype = np.dtype(f"U{LETTERS}" if str(kind).endswith("string") else kind.to_pandas_dtype())
            size = _size(name, shape, dtype, min(packed, whole), most)
            rooms[key] = _room(shape[::-1], dtype, size)
        row, at = sum(room[0].size for room in rooms.values()), 0
        for batch in file.iter_batches(max(1, SMALL // 8 // max(row, 1)), columns=list(names), use_threads=False):
            for key, room in rooms.items():
                with _parsed(names[key]):
                    room[at : at + len(batch)] = _block(batch.column(key), room.shape[1:])
                    release(room)
            at += len(batch)
        if at != rows:
            raise ValueError(f"it has {at} rows, and says {rows}")
    return {names[key]: room.T for key, room in rooms.items()}, sorted(set(schema.names) - names.keys())


def _parquet_sizes(path: Path) -> dict[str, list[int]]:
    """The number of values of each column, and its bytes in the file, as a process of its own finds them."""
    script = Path(__file__).with_name("parquet_sizes.py")
    command = [sys.executable, "-P", str(script), str(path)]
    asked = subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE)
    if asked.returncode:
        raise ValueError("the sizes of its columns cannot be read")
    return json.loads(asked.stdout)


def _block(column, models: tuple[int, ...]) -> np.ndarray:
    """A batch of a parquet column as (examples, *models), where `models` is the length of lists."""
    flat = column.flatten() if models else column
    if column.null_count or flat.null_count:
        raise ValueError("it has missing values")
    if models and (column.value_lengths().to_numpy() != models[0]).any():
        raise ValueError(f"each row must have {models[0]} values, one for each model")
    values = flat.to_numpy(zero_copy_only=False)
    if values.dtype == object and max(map(len, values)) > LETTERS:
        raise ValueError(f"a text has more than {LETTERS} letters")
    return values.reshape(-1, *models)
