"""The files that travel to a bare machine and back: jobs and packs. Needs torch and numpy alone.

All are `.npz` files. Each is written under another name first and renamed when it is whole.

A job is a zip of a data set and recipes, cut into parts. Each part carries the checksum of the whole.
A pack carries trained groups as folders, `<name>/<first model>/...`, and their recipe as `<name>/about`. The name joins
an experiment's key and its data's checksum. Nothing is rounded. Masks are stored as bits. The first bytes of all floats
lie together, then the second, and so on, since that compresses better.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import numpy as np

from samlib.disk import in_a_sentence, whole

FORMAT = 1
MB = 10**6
ABOUT = 2**18  # most bytes of a description
PACKED = 2**14  # most bytes of a pack's description once it is compressed
ENTRY = 400  # most bytes that a zip adds to an array


@contextmanager
def alone(folder: str | os.PathLike) -> Iterator[None]:
    """Lock a folder, and make it if needed. The lock ends with the process. Raises ValueError if it is locked."""
    import fcntl  # not on every system, and needed here alone

    with in_a_sentence(f"{folder} cannot be made a folder (", "); give another folder.", OSError):
        Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"Another process writes to {folder}; give another folder.") from None
    finally:
        os.close(handle)


def write_job(path: str | os.PathLike, about: Mapping, arrays: Mapping[str, np.ndarray], most: int) -> list[Path]:
    """Write a job to `job.npz`, `job.2.npz`, ..., each of at most `most` bytes, and return their paths. about: JSON."""
    packed = io.BytesIO()
    with ZipFile(packed, "w", ZIP_DEFLATED, compresslevel=1) as file:
        for name, values in {"about": _text({"format": FORMAT, **about}), **arrays}.items():
            _write(file, name, np.asarray(values))
    stream = packed.getvalue()
    same = {"format": FORMAT, "digest": hashlib.sha256(stream).hexdigest()}
    room = most - len(_text(same)) - 4 * ENTRY
    if room < 1:
        raise ValueError(f"A job needs files of at least {(most - room + 1) / MB:.3f} MB.")
    path, paths = Path(path), []
    parts = ceil(len(stream) / room)
    for part in range(1, parts + 1):
        paths.append(path if part == 1 else path.with_name(f"{path.stem}.{part}{path.suffix}"))
        piece = np.frombuffer(stream[(part - 1) * room : part * room], np.uint8)
        with whole(paths[-1]) as partial, partial.open("wb") as raw:  # given a path, savez would change its suffix
            np.savez(raw, about=_text({**same, "part": part, "parts": parts}), bytes=piece)
    return paths


def read_jobs(paths: Sequence[str | os.PathLike]) -> list[tuple[dict, dict]]:
    """Join parts of jobs. Returns, for each job, what `write_job` was told about it, and its arrays.

    Raises ValueError, in one sentence, if a file is no job or is damaged, or if a part is missing.
    """
    found: dict[str, dict[int, tuple]] = {}
    for path in paths:
        with opened(path, "is no job") as file:
            about = described(file, "about")
            piece = entry(file, "bytes", most=os.path.getsize(path)).tobytes()
            found.setdefault(about["digest"], {})[about["part"]] = piece, about["parts"], path
    jobs = []
    for digest, each in found.items():
        _, parts, path = next(iter(each.values()))
        if absent := sorted({*range(1, parts + 1)} - each.keys()):
            raise ValueError(f"{path} is one of {parts} parts of a job; give part {absent[0]} too.")
        stream = b"".join(each[part][0] for part in sorted(each))
        if hashlib.sha256(stream).hexdigest() != digest:
            raise ValueError(f"{path} and the other parts of its job are damaged; copy them again.")
        with in_a_sentence(f"{path} is no job: "), np.load(io.BytesIO(stream)) as file:
            arrays = {name: file[name] for name in file.files}
            jobs.append((json.loads(arrays.pop("about").tobytes()), arrays))
    return jobs


@contextmanager
def opened(path: str | os.PathLike, what: str) -> Iterator[ZipFile]:
    """Open an `.npz` as a zip. Any error inside becomes one ValueError that names the file."""
    with in_a_sentence(f"{path} {what}: "), ZipFile(path) as file:
        yield file


def entry(file: ZipFile, name: str, most: int = ABOUT) -> np.ndarray:
    """Read an array of a zip. Raises ValueError, before it reads, if the array has more than `most` bytes."""
    info, name = file.NameToInfo.get(f"{name}.npy"), name.rpartition("/")[2]
    if info is None:
        raise ValueError(f"it has no {name!r}")
    if info.file_size > most + ENTRY or info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        raise ValueError(f"{name} has {info.file_size} bytes or is packed in an unknown way")
    return np.lib.format.read_array(io.BytesIO(file.read(info)), allow_pickle=False)


def _text(about: Mapping) -> np.ndarray:
    """The JSON of a description, as bytes."""
    return np.frombuffer(json.dumps(about).encode(), np.uint8)


def described(file: ZipFile, name: str) -> dict:
    """Read a description."""
    about = json.loads(entry(file, name).tobytes())
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError("its format is not known; the version of samlib that wrote it can read it")
    return about


def encoded(values) -> np.ndarray:
    """Encode an array of `train_group` for a pack: float32 (k, n) as bytes (4, k, n), a mask as bits."""
    values = np.asarray(values)
    if values.ndim < 2:
        return values
    if values.dtype == bool:
        return np.packbits(values, axis=1)
    values = np.ascontiguousarray(values, np.float32)
    return np.ascontiguousarray(np.moveaxis(values.view(np.uint8).reshape(*values.shape, 4), -1, 0))


def decoded(packed: np.ndarray, n: int) -> np.ndarray:
    """Undo `encoded`: an array (k, n). Raises ValueError if `packed` has another shape or dtype."""
    if packed.dtype != np.uint8:
        raise ValueError(f"a signal is {packed.dtype}, not bytes")
    if packed.ndim == 2 and packed.shape[1] == ceil(n / 8):
        return np.unpackbits(packed, axis=1, count=n).astype(bool)
    if packed.ndim == 3 and packed.shape[0] == 4 and packed.shape[2] == n:
        return np.ascontiguousarray(np.moveaxis(packed, 0, -1)).view(np.float32)[..., 0]
    raise ValueError(f"signals have the shape {packed.shape}, which does not fit {n} examples")


def bound(k: int, n: int, t: int) -> int:
    """An upper bound on the bytes of a group of k models on n examples and t test points."""
    return 2 * k * ceil(n / 8) + k * ceil(t / 8) + 12 * k * (n + t) + 20 * ENTRY + 600 * k


class Packs:
    """The packs of a folder: `groups-1.npz`, ..., at most `files` of at most `most` bytes each.

    `there` holds (name, first model) of each group in them. Raises ValueError if a pack is damaged.
    """

    def __init__(self, folder: str | os.PathLike, most: int, files: int):
        self.folder, self.most, self.files = Path(folder), most, files
        self.there: set[tuple[str, int]] = set()
        for left in self.folder.glob("groups-*.partial"):  # of a writer that was killed
            left.unlink()
        for path in self.folder.glob("groups-*.npz"):
            with opened(path, "is damaged; move it away") as file:
                self.there |= set(groups_of(file))
        numbers = [path.stem.removeprefix("groups-") for path in self.folder.glob("groups-*.npz")]
        self.count = max((int(number) for number in numbers if number.isdecimal()), default=0)  # not a copy's

    def path(self, number: int) -> Path:
        return self.folder / f"groups-{number}.npz"

    def room(self, size: int) -> int:
        """How many more groups of `size` bytes the folder can take."""
        last = self.path(self.count)
        free = self.most - PACKED - last.stat().st_size if last.exists() else 0
        return max(free, 0) // size + max(self.files - self.count, 0) * ((self.most - PACKED) // size)

    def add(self, name: str, about: Mapping, models: range, result: Mapping[str, np.ndarray], size: int) -> None:
        """Write a group of at most `size` bytes. The file is replaced as a whole."""
        last = self.path(self.count)
        if not last.exists() or last.stat().st_size + size + PACKED > self.most:
            self.count += 1
            last = self.path(self.count)
        with whole(last) as partial:
            if last.exists():
                shutil.copyfile(last, partial)
            with ZipFile(partial, "a", ZIP_DEFLATED, compresslevel=1) as file:
                if f"{name}/about.npy" not in file.namelist():
                    _write(file, f"{name}/about", _text({"format": FORMAT, **about}))
                for array, values in {"models": models, **result}.items():
                    _write(file, f"{name}/{models.start}/{array}", encoded(values))
        self.there.add((name, models.start))


def _write(file: ZipFile, name: str, values: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w") as raw:  # without the time of day: equal results make equal files
        np.lib.format.write_array(raw, values, allow_pickle=False)


def groups_of(file: ZipFile) -> list[tuple[str, int]]:
    """(name, first model) of each group in a pack; empty for any other zip."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in file.namelist() if name.count("/") == 2)
    return [(name, int(start)) for name, start in (folder.split("/") for folder in folders)]
