"""Fuzz `samlib audit`: any file gives a report or one sentence; no other exception, no hang, bounded memory.

    python tests/benchmarks/fuzz_audit.py [files, 5000] [the first one's number, 0]

A file is made from its number: good arrays, some of them spoilt, written as npz, parquet or zarr, and perhaps damaged then.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zarr

from samlib import audit_file
from samlib.report import files as reader

SECONDS, MEGABYTES = 1.0, 600  # of processor time that a file may take, and that the process may grow by
PATIENCE = 3.0  # times SECONDS that are no hang: a new process that reads a parquet file's sizes takes most of one
ROOM = 16 << 20  # bytes that may be set apart for an array of a small file, in memory or on the disk


def arrays(rng) -> dict[str, np.ndarray]:
    """Good arrays of a small audit."""
    k, n, t = (int(rng.choice(sizes)) for sizes in ((1, 2, 3, 5, 10, 16), (1, 2, 7, 40, 80), (1, 5, 30)))
    member = rng.random((k, n)) < 0.5
    p = 1 / (1 + np.exp(-(rng.normal(size=(k, n)) + member)))
    test = rng.uniform(0.01, 0.99, (k, t))
    of = {"logit": lambda p: np.log(p / (1 - p)), "loss": lambda p: -np.log(p), "probability": lambda p: p}
    kind = rng.choice(list(of))
    found = {
        kind: of[kind](p).astype(rng.choice(["f4", "f8", "f2", ">f4"])),
        "member": member.astype(rng.choice(["?", "u1", "f4"])),
    }
    more = {
        f"test_{kind}": of[kind](test), "population": of[kind](test), "correct": p > 0.5, "test_correct": test > 0.5,
        "labels": rng.integers(0, 4, n), "groups": rng.choice(["a", "b", "<b>$x$</b>"], n), "test_labels": rng.integers(0, 4, t),
        "target": np.arange(k) == 0, "other": np.arange(3), "label": rng.integers(0, 2, n),
    }  # fmt: skip
    found |= {
        name: value
        for name, value in more.items()
        if rng.random() < (0.3 if name not in ("label", "population") else 0.03)
    }
    if k == 1 and rng.random() < 0.5:
        found = {name: value[0] if value.ndim == 2 else value for name, value in found.items()}
    return found


def spoil(found: dict[str, np.ndarray], rng) -> None:
    """Make one array wrong, or strange."""
    name = str(rng.choice(list(found)))
    a = np.atleast_1d(found[name])
    numbers = a.astype("f8") if a.dtype.kind in "biuf" else np.arange(a.size, dtype="f8").reshape(a.shape)
    with np.errstate(all="ignore"):
        ways = {
            "gone": lambda: found.pop(name),
            "NaN": lambda: _put(numbers, rng, np.nan),
            "infinite": lambda: _put(numbers, rng, rng.choice([np.inf, -np.inf])),
            "far": lambda: _put(numbers, rng, rng.choice([1e308, -1e308, 1e-320, 1e39])),
            "negative": lambda: -numbers - 1,
            "constant": lambda: np.full_like(numbers, rng.choice([0, 1, 0.5])),
            "one constant": lambda: np.concatenate([numbers[:1] * 0, numbers[1:]]),
            "no one": lambda: np.zeros(a.shape, bool),
            "every one": lambda: np.ones(a.shape, bool),
            "shorter": lambda: a[..., : a.shape[-1] // 2],
            "fewer": lambda: a[: len(a) // 2],
            "flat": lambda: a.ravel(),
            "deeper": lambda: a[..., None],
            "turned": lambda: np.asfortranarray(a.T),
            "scalar": lambda: np.array(1.0),
            "complex": lambda: numbers + 1j,
            "text": lambda: numbers.astype(str),
            "long text": lambda: np.full(a.shape, "x" * 99),
            "objects": lambda: a.astype(object),
            "times": lambda: numbers.astype("M8[s]"),
            "records": lambda: np.zeros(a.shape, [("a", "f4")]),
            "bytes": lambda: np.full(a.shape, b"abc"),
            "long double": lambda: numbers.astype(np.longdouble),
            "whole": lambda: np.nan_to_num(numbers).astype("i8") * 10**15,
            "strange text": lambda: np.full(a.shape, rng.choice(["\0", "\u202e\n", "${x}", "\ud7ff", "<script>"])),
        }
        made = ways[str(rng.choice(list(ways)))]()
    if name in found:
        found[name] = made


def _put(numbers: np.ndarray, rng, value: float) -> np.ndarray:
    if numbers.size:
        numbers.flat[int(rng.integers(numbers.size))] = value
    return numbers


def damage(content: bytes, rng) -> bytes:
    """Cut a file short, change bytes of it, or put others in."""
    content = bytearray(content)
    match rng.integers(4):
        case 0:
            return bytes(content[: int(rng.integers(len(content) + 1))])
        case 1:
            for at in rng.integers(len(content), size=int(rng.integers(1, 9))):
                content[at] = int(rng.integers(256))
        case 2:
            at = int(rng.integers(len(content)))
            content[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(9)))
        case _:  # a large number somewhere
            at = int(rng.integers(max(len(content) - 8, 1)))
            content[at : at + 8] = struct.pack("<q", int(rng.choice([-1, 2**31 - 1, 2**40, 2**62])))
    return bytes(content)


def npz(found: dict[str, np.ndarray], rng) -> bytes:
    """An npz file; entries may lie about their shape, be packed in other ways, or grow."""
    out = io.BytesIO()
    pack = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
                      p=[0.5, 0.3, 0.1, 0.05, 0.05])  # fmt: skip
    with zipfile.ZipFile(out, "w", int(pack)) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, a in found.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, a, allow_pickle=True)
            content = entry.getvalue()
            if rng.random() < 0.1:  # another shape than there are bytes
                shape = tuple(int(v) for v in rng.choice([0, 1, 3, 10**6, 10**12, -4], 2))
                head = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    head, {"descr": "<f8", "fortran_order": bool(rng.integers(2)), "shape": shape}
                )
                content = head.getvalue() + content[128:]
            elif rng.random() < 0.02:  # much from little
                head = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    head, {"descr": "<f4", "fortran_order": False, "shape": (16, 10**6)}
                )
                content = head.getvalue() + bytes(64 * 10**6)
            elif rng.random() < 0.05:
                content = damage(content, rng)
            archive.writestr(f"{name}.npy", content)
            if rng.random() < 0.03:
                archive.writestr(f"{name}.npy", content)
    return out.getvalue()


def parquet(found: dict[str, np.ndarray], rng) -> bytes:
    """A parquet file, a row an example; what does not fit is left out, or has rows of different lengths, or nulls."""
    n = next(iter(found.values())).shape[-1:] if found else (0,)
    columns = {}
    for name, a in found.items():
        if a.shape[-1:] == n and a.ndim in (1, 2) and a.dtype.kind in "biufUO":
            rows = (list(a.T) if a.ndim == 2 else a).copy() if a.ndim == 1 else [list(row) for row in a.T]
            rows = list(rows)
            if rows and rng.random() < 0.05:
                rows[0] = None
            if rows and a.ndim == 2 and rng.random() < 0.05 and rows[-1] is not None:
                rows[-1] = rows[-1][:-1]
            try:
                columns[name] = pa.array(rows)
            except (pa.ArrowException, TypeError, ValueError):
                columns[name] = pa.array([str(row) for row in rows])
    out = io.BytesIO()
    pa.parquet.write_table(
        pa.table(columns), out, compression=str(rng.choice(["none", "snappy", "zstd", "gzip"])),
        row_group_size=int(rng.choice([3, 1000])), use_dictionary=bool(rng.integers(2)),
    )  # fmt: skip
    return out.getvalue()


def zarr_folder(found: dict[str, np.ndarray], path: Path, rng) -> None:
    """A zarr folder, of which the descriptions may lie, chunks be damaged, and files be no files."""
    group = zarr.open_group(path, mode="w", zarr_format=int(rng.choice([2, 3])))
    for name, a in found.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                group.create_array(name, data=a, chunks=tuple(max(1, s // int(rng.integers(1, 4))) for s in a.shape))
        except (ValueError, TypeError, NotImplementedError, zarr.errors.BaseZarrError):
            continue
    files = [file for file in path.rglob("*") if file.is_file()]
    if not files or rng.random() < 0.4:
        return
    file = files[int(rng.integers(len(files)))]
    match rng.integers(6):
        case 0:
            file.write_bytes(damage(file.read_bytes(), rng))
        case 1:
            file.unlink()
        case 2:
            file.unlink()
            os.mkfifo(file) if rng.integers(2) else file.symlink_to("/dev/zero")
        case _:
            about = [f for f in files if f.name in ("zarr.json", ".zarray")]
            file = about[int(rng.integers(len(about)))] if about else file
            try:
                content = json.loads(file.read_text())
            except ValueError:
                return
            lies = {
                "shape": [10**9, 10**9], "chunks": [10**6, 10**6], "data_type": "bytes", "dtype": "|O",
                "filters": [{"id": "pickle"}], "compressor": {"id": "gzip", "level": 1},
                "codecs": [{"name": "numcodecs.pickle"}], "fill_value": "NaN",
                "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 1]}}, "zarr_format": 9,
            }  # fmt: skip
            for key in rng.choice(list(lies), 2, replace=False):
                content[key] = lies[key]
            file.write_text(json.dumps(content))


def lie(rng) -> bytes:
    """A small npz file whose directory and header say, both alike, that an array is large."""
    head, out = io.BytesIO(), io.BytesIO()
    shape = (10, int(rng.choice([10**5, 10**6, 5 * 10**7])))
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": bool(rng.integers(2)), "shape": shape})
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("logit.npy", head.getvalue() + rng.bytes(80))
        archive.writestr("member.npy", b"")
    content, size = bytearray(out.getvalue()), len(head.getvalue()) + 8 * shape[0] * shape[1]
    at = content.find(b"PK\x01\x02") + 20  # the packed and the unpacked size of the first entry
    content[at : at + 8] = struct.pack("<II", size // int(rng.choice([1, 50, 99])), size)
    return bytes(content)


def write(number: int, home: Path) -> Path:
    """The file of a number, in a folder."""
    rng = np.random.default_rng(number)
    found = arrays(rng)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2]))):
        if found:
            spoil(found, rng)
    kind = str(rng.choice(["npz", "parquet", "zarr", "noise", "lie"], p=[0.48, 0.3, 0.17, 0.03, 0.02]))
    path = home / f"signals.{kind}"
    if kind == "zarr":
        zarr_folder(found, path, rng)
        return path
    made = {
        "npz": lambda: npz(found, rng),
        "parquet": lambda: parquet(found, rng),
        "noise": lambda: rng.choice([b"", b"PK\x03\x04", b"PAR1"]) + rng.bytes(99),
        "lie": lambda: lie(rng),
    }
    content = made[kind]()
    path.write_bytes(damage(content, rng) if content and rng.random() < 0.3 else content)
    return path


def spent() -> float:
    """Seconds of processor time of this process and of those that it has started."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


large: list[int] = []  # sizes above ROOM; an error would be taken for the parser's


def sparing(shape, dtype, size, room=reader._room):
    """`files._room`, with a note of sizes that no file of this script deserves."""
    if size > ROOM:
        large.append(size)
        raise MemoryError
    return room(shape, dtype, size)


reader._room = sparing


def try_one(number: int) -> str:
    """ "audited" or "refused". Raises AssertionError where it is neither, or takes too long, or too much."""
    home = Path(tempfile.mkdtemp())
    try:
        path = write(number, home)
        before, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, spent()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                json.loads(audit_file(path).json(), parse_constant=lambda word: 1 / 0)
                done = "audited"
            except (ValueError, OSError) as error:
                said, done = str(error), "refused"
                assert said.isprintable(), f"{number}: {said!r}"
                assert 20 < len(said) < 500, f"{number}: {said!r}"
                assert said.rstrip(")").endswith("."), f"{number}: {said!r}"
        assert not large, f"{number}: {large.pop()} bytes are set apart"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert grown < MEGABYTES, f"{number} grew by {grown:.0f} MB"
        seconds = spent() - cpu
        assert seconds < SECONDS * PATIENCE, f"{number} took {seconds:.1f} s"
        return done
    except Exception as error:
        raise AssertionError(f"file {number}: {type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    files, start = (int(v) for v in [*sys.argv[1:], *("5000", "0")[len(sys.argv) - 1 :]][:2])
    counts: Counter = Counter()
    try_one(0)  # imports
    longest, began = (0.0, -1), time.perf_counter()
    for number in range(start, start + files):
        clock = spent()
        print(number, end="\r", file=sys.stderr, flush=True)  # the last one, if it ends the process
        try:
            counts[try_one(number)] += 1
        except AssertionError as error:
            counts["FAILED"] += 1
            print(error, flush=True)
        longest = max(longest, (spent() - clock, number))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{dict(counts)}; longest {longest[0]:.2f} s (file {longest[1]}); peak {peak:.0f} MB; {time.perf_counter() - began:.0f} s"
    )
    sys.exit(counts["FAILED"] > 0)
