"""The files that go to a bare machine and come back: a job, in parts, and groups, packed. Needs torch and numpy alone.

All are `.npz`, written aside and renamed when whole. A job is one stream of bytes, the data set's arrays one after the other,
cut into parts. A pack holds groups as folders, `<name>/<first model>/...`, beside `<name>/about`; the name is an experiment's
key and a data set's checksum. Nothing is rounded: masks are bits, and the bytes of floats lie apart, which compress better so.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil, prod
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np

FORMAT = 1
MB = 10**6
SAMPLED = 2**18  # bytes of an array, at each of three places, that tell whether to compress it pays
ABOUT = 2**18  # bytes that a description may have
PACKED = 2**14  # and those of a pack's, compressed
ENTRY = 400  # bytes at most that a zip adds to an array


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to, which takes this one's place when all is written. Makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def alone(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder, made where it is not there; the system frees it when the process ends. Raises ValueError if it is held."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made a folder ({error.strerror}); give another folder.") from None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"Another process writes to {folder}; give another folder.") from None
    finally:
        os.close(handle)


def write_job(path: str | os.PathLike, about: Mapping, arrays: Mapping[str, np.ndarray], most: int) -> list[Path]:
    """Write a job in files of at most `most` bytes, `job.npz`, `job.2.npz`, ...: returns their paths. about: JSON."""
    listed, stream = [], []
    for name, values in arrays.items():
        values = np.asarray(values, order="C")
        raw = memoryview(values.reshape(-1)).cast("B")
        packed = _pays(raw)
        stream.append(zlib.compress(raw, 1) if packed else raw)
        listed.append([name, values.dtype.str, values.shape, len(stream[-1]), packed])
    about = {"format": FORMAT, **about, "arrays": listed}
    about["digest"] = _digest(about, stream)
    room = most - len(_text(about)) - 4 * ENTRY
    if room < 1:
        raise ValueError(f"A job needs files of at least {(most - room + 1) / MB:.3f} MB.")
    total, path, paths = sum(map(len, stream)), Path(path), []
    parts = max(1, ceil(total / room))
    for part in range(parts):
        paths.append(path if part == 0 else path.with_name(f"{path.stem}.{part + 1}{path.suffix}"))
        cut = np.frombuffer(_cut(stream, part * room, (part + 1) * room), np.uint8)
        with whole(paths[-1]) as partial, partial.open("wb") as file:  # a file, for savez gives a path another suffix
            np.savez(file, about=_text({**about, "part": part + 1, "parts": parts}), bytes=cut)
    return paths


def _digest(about: Mapping, pieces: Sequence) -> str:
    """Of a job, whatever parts it is in."""
    own = {name: value for name, value in about.items() if name not in ("digest", "part", "parts")}
    digest = hashlib.sha256(json.dumps(own).encode())
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _pays(raw: memoryview) -> bool:
    """Whether compressing spares a tenth, judged by the beginning, the middle and the end."""
    ends = (0, (len(raw) - SAMPLED) // 2, len(raw) - SAMPLED) if len(raw) > 3 * SAMPLED else (0,)
    sample = b"".join(raw[at : at + (SAMPLED if len(ends) > 1 else len(raw))] for at in ends)
    return len(zlib.compress(sample, 1)) < 0.9 * len(sample)


def _cut(pieces: Sequence, start: int, stop: int) -> bytes:
    """Bytes start to stop of pieces laid end to end."""
    found, at = [], 0
    for piece in pieces:
        found.append(bytes(piece[max(start - at, 0) : max(stop - at, 0)]))
        at += len(piece)
    return b"".join(found)


def read_jobs(paths: Sequence[str | os.PathLike]) -> list[tuple[dict, dict]]:
    """The jobs whose parts these files are: what `write_job` was told of each, and its arrays.

    Raises ValueError, in one sentence, for a file that is no job or is damaged, and for a part that is missing.
    """
    found: dict[str, dict[int, tuple]] = {}
    for path in paths:
        with opened(path, "is no job") as file:
            about = described(file, "about")
            part, digest = (about[name] for name in ("part", "digest"))
            found.setdefault(digest, {})[part] = about, entry(file, "bytes", most=os.path.getsize(path)), path
    jobs = []
    for digest, parts in found.items():
        about, _, path = next(iter(parts.values()))
        if absent := sorted({*range(1, about["parts"] + 1)} - parts.keys()):
            raise ValueError(f"{path} is one of {about['parts']} parts of a job; give part {absent[0]} too.")
        stream = b"".join(parts[part][1].tobytes() for part in sorted(parts))
        if _digest(about, [stream]) != digest:
            raise ValueError(f"{path} and the other parts of its job are damaged; copy them again.")
        arrays, at = {}, 0
        for name, dtype, shape, size, packed in about["arrays"]:
            raw = stream[at : at + size]
            arrays[name] = np.frombuffer(zlib.decompress(raw) if packed else raw, dtype).reshape(shape)
            at += size
        jobs.append((about, arrays))
    return jobs


@contextmanager
def opened(path: str | os.PathLike, what: str) -> Iterator[ZipFile]:
    """An `.npz` as a zip. Whatever fails to be read from it becomes one ValueError that names the file."""
    try:
        with ZipFile(path) as file:
            yield file
    except KeyError as error:
        raise ValueError(f"{path} {what}: it has no {error}.") from None
    except Exception as error:  # zip, zlib, numpy and json raise many kinds for a damaged file
        said = getattr(error, "strerror", None) or str(error)  # without the path and the number
        raise ValueError(f"{path} {what}: {' '.join(said.split()).rstrip('.') or type(error).__name__}.") from None


def entry(file: ZipFile, name: str, most: int = ABOUT) -> np.ndarray:
    """An array of a zip, read only if it has at most so many bytes, whatever its headers say."""
    info, name = file.NameToInfo.get(f"{name}.npy"), name.rpartition("/")[2]
    if info is None:
        raise ValueError(f"it has no {name!r}")
    if info.file_size > most + ENTRY or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(f"{name} has {info.file_size} bytes or is packed in an unknown way")
    raw = io.BytesIO(file.read(info))
    if np.lib.format.read_magic(raw) != (1, 0):
        raise ValueError(f"{name} is no array")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(raw)
    if dtype.hasobject or prod(shape) * dtype.itemsize != info.file_size - raw.tell() or min(shape, default=0) < 0:
        raise ValueError(f"{name} is not the {dtype} {shape} that it says")
    values = np.frombuffer(raw.getbuffer(), dtype, offset=raw.tell()) if prod(shape) else np.empty(0, dtype)
    return values.reshape(shape, order="F" if fortran else "C")


def _text(about: Mapping) -> np.ndarray:
    """A description as the bytes of its JSON."""
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


def described(file: ZipFile, name: str) -> dict:
    """A description from its bytes."""
    about = json.loads(entry(file, name).tobytes())
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError("its format is not known; the version of samlib that wrote it can read it")
    return about


def encoded(values) -> np.ndarray:
    """An array of `train_group` as a pack holds it: signals float32 (k, n) as bytes (4, k, n), masks as bits."""
    values = np.asarray(values)
    if values.ndim < 2:
        return values
    if values.dtype == bool:
        return np.packbits(values, axis=1)
    values = np.ascontiguousarray(values, np.float32)
    return np.ascontiguousarray(np.moveaxis(values.view(np.uint8).reshape(*values.shape, 4), -1, 0))


def decoded(packed: np.ndarray, n: int) -> np.ndarray:
    """What `encoded` was given, (k, n). Raises ValueError where it cannot have been."""
    if packed.dtype != np.uint8:
        raise ValueError(f"a signal is {packed.dtype}, not bytes")
    if packed.ndim == 2 and packed.shape[1] == ceil(n / 8):
        return np.unpackbits(packed, axis=1, count=n).astype(bool)
    if packed.ndim == 3 and packed.shape[0] == 4 and packed.shape[2] == n:
        return np.ascontiguousarray(np.moveaxis(packed, 0, -1)).view(np.float32)[..., 0]
    raise ValueError(f"signals have the shape {packed.shape}, which is not of {n} examples")


def bound(k: int, n: int, t: int) -> int:
    """Bytes that a group of k models is sure to fit into, on n examples and t test points."""
    return 2 * k * ceil(n / 8) + k * ceil(t / 8) + 12 * k * (n + t) + 20 * ENTRY + 600 * k


class Packs:
    """The packs of a folder: `groups-1.npz`, ..., at most `files` of at most `most` bytes each.

    `there`: (name, first model) of the groups in them. Raises ValueError for a file that is damaged.
    """

    def __init__(self, folder: str | os.PathLike, most: int, files: int):
        self.folder, self.most, self.files, self.there = Path(folder), most, files, set()
        for left in self.folder.glob(".groups-*.partial"):
            left.unlink()  # of a writer that was killed
        for path in self.folder.glob("groups-*.npz"):
            with opened(path, "is damaged; move it away") as file:
                self.there |= set(groups_of(file))
        self.count = max((int(p.stem.partition("-")[2]) for p in self.folder.glob("groups-*.npz")), default=0)

    def path(self, number: int) -> Path:
        return self.folder / f"groups-{number}.npz"

    def room(self, size: int) -> int:
        """How many groups of at most so many bytes the folder can still take."""
        last = self.path(self.count)
        free = self.most - PACKED - last.stat().st_size if last.exists() else 0
        return max(free, 0) // size + max(self.files - self.count, 0) * ((self.most - PACKED) // size)

    def add(self, name: str, about: Mapping, groups: Sequence[tuple[range, Mapping[str, np.ndarray]]], size: int):
        """Write groups, each at most `size` bytes; files become whole one after the other."""
        groups = list(groups)
        while groups:
            last = self.path(self.count)
            if not last.exists() or last.stat().st_size + size + PACKED > self.most:
                self.count += 1
                last = self.path(self.count)
            with whole(last) as partial:
                if last.exists():
                    shutil.copyfile(last, partial)
                written, used = [], 0
                with ZipFile(partial, "a", ZIP_DEFLATED, compresslevel=1) as file:
                    if f"{name}/about.npy" not in file.namelist():
                        _write(file, f"{name}/about", _text({"format": FORMAT, **about}))
                    while groups and (not written or used + size + PACKED <= self.most):
                        models, result = groups.pop(0)
                        for array, values in {"models": models, **result}.items():
                            _write(file, f"{name}/{models.start}/{array}", encoded(values))
                        written.append((name, models.start))
                        used = file.fp.tell() + ENTRY * len(file.filelist)
            self.there |= set(written)


def _write(file: ZipFile, name: str, values: np.ndarray) -> None:
    info = ZipInfo(f"{name}.npy")  # without the time: what is equal is written equal
    info.compress_type = file.compression
    raw = io.BytesIO()
    np.lib.format.write_array(raw, values, version=(1, 0), allow_pickle=False)
    file.writestr(info, raw.getbuffer(), compresslevel=1)


def groups_of(file: ZipFile) -> list[tuple[str, int]]:
    """The groups of a pack, as (name, first model); none for a file of another kind."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in file.namelist() if name.count("/") == 2)
    return [(name, int(start)) for name, start in (folder.split("/") for folder in folders)]
