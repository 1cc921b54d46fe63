"""Inputs for loaders, as hypothesis draws them: valid, odd and damaged; and what must hold of each.

`INPUTS` has a strategy and a check for each loader; more can be added. `tests/benchmarks/fuzz_loaders.py` tries many.
"""

import functools
import io
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
from hypothesis import strategies as st
from PIL import Image

from samlib import load_dataset
from samlib.data import shape_of
from samlib.data.checked import check


class Input(NamedTuple):
    """Files by their path in a folder, the path to load, and the options."""

    files: dict[str, bytes]
    name: str
    options: dict


def load(given: Input) -> str:
    """"loaded" or "refused". Raises AssertionError where arrays or the sentence are not as they should be."""
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out, and Pillow's of odd metadata
        patch = __import__("pytest").MonkeyPatch()
        patch.setenv("SAMLIB_CACHE", f"{home}/cache")
        for name, content in given.files.items():
            path = Path(home, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            data = load_dataset(f"{home}/{given.name}", **given.options)
        except (ValueError, OSError) as error:
            said = str(error)
            assert said.endswith(".") and "\n" not in said and home in said and "()" not in said, said
            return "refused"
        finally:
            patch.undo()
        arrays = data.x_train, data.y_train, data.x_test, data.y_test
        check("it", *arrays, data.classes)
        assert data.x_train.dtype == data.x_test.dtype and data.y_train.dtype == data.y_test.dtype == np.int64
        assert (data.mean is not None) == (data.x_train.dtype == np.uint8 and data.x_train.shape[-1] in (1, 3))
        if set(given.options) <= {"image_size"}:
            shape = shape_of(f"{home}/{given.name}", **given.options)
            found = len(data.y_train), len(data.y_test), data.x_train.shape[1:], len(data.classes), data.x_train.dtype
            assert shape[:5] == found, (shape, found)
        return "loaded"


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file as it is, or cut, or with bytes changed, put in, or taken out, or all of one value."""
    kind = draw(st.sampled_from(["whole"] * 4 + ["cut", "flip", "flip", "insert", "remove", "other"]))
    at = draw(st.integers(0, len(content)))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        changed = bytearray(content)
        for i, bit in draw(st.lists(st.tuples(st.integers(0, max(len(content) - 1, 0)), st.integers(1, 255)), max_size=4)):
            if changed:
                changed[i] ^= bit
        return bytes(changed)
    if kind == "insert":
        return content[:at] + draw(st.binary(max_size=9)) + content[at:]
    if kind == "remove":
        return content[:at] + content[at + draw(st.integers(1, 99)) :]
    return draw(st.sampled_from([b"", b"PK", b"PAR1", b"\0" * 99, b"\x89PNG\r\n\x1a\n"])) if kind == "other" else content


@st.composite
def damaged_files(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    """All files whole, or one of them damaged."""
    name = draw(st.sampled_from([*files, *[None] * len(files)]))
    return files if name is None else files | {name: draw(damaged(files[name]))}


DTYPES = "f4 f8 f2 u1 u1 u1 i8 i4 u8 b1 U3 c8 M8[s] O S2 >f4 >i2 f16".split()
LABELS = "i8 i8 i8 u1 i4 f4 b1 U2 c8 S1 O u8".split()


@st.composite
def array(draw, shape, dtype, most):
    """Numbers from 0 to `most`; sometimes one that is out of the way."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        values = rng.integers(0, most + 1, shape).astype(dtype)
        odd = draw(st.sampled_from([None] * 6 + [np.nan, np.inf, -1, 1e39, 2**40, 0.5]))
        if odd is not None and values.size and values.dtype.kind in "fiu":
            values.flat[draw(st.integers(0, values.size - 1))] = np.array(odd).astype(dtype)
    return values


@st.composite
def npz(draw) -> Input:
    n, t = draw(st.integers(0, 9)), draw(st.integers(0, 4))
    shape = draw(st.sampled_from([(3,), (4,), (6, 5), (6, 5, 3), (3, 6, 5), (1, 4, 4), (3, 4, 3), (4, 4, 2), (), (0,), (2, 2, 2, 2)]))
    x_kind, y_kind = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(LABELS))
    most = draw(st.sampled_from([1, 16, 255, 70_000]))
    column = draw(st.sampled_from([()] * 5 + [(1,), (2,)]))
    other = draw(st.sampled_from([None] * 9 + [(5,), (2, 2)]))
    arrays = {
        "x_train": draw(array((n, *shape), x_kind, most)),
        "y_train": draw(array((n, *column), y_kind, draw(st.sampled_from([0, 1, 1, 2])))),
        "x_test": draw(array((t, *(shape if other is None else other)), draw(st.sampled_from([x_kind] * 5 + DTYPES)), most)),
        "y_test": draw(array((t, *column), y_kind, 1)),
    }
    for name in draw(st.lists(st.sampled_from([*arrays]), max_size=1)) if draw(st.integers(0, 5)) == 0 else ():
        del arrays[name]
    arrays |= draw(st.sampled_from([{}] * 5 + [{"more": np.zeros(3)}, {"x_train.npy": np.ones(2)}]))
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))) as file:
        for name, values in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, values)
            content = member.getvalue()
            if draw(st.integers(0, 19)) == 0:  # a header that lies
                claimed = draw(st.sampled_from([(10**12,), (-1,), (n, 10**9), (2**63, 2**63), (n,), (), (0,) * 40]))
                head = io.BytesIO()
                np.lib.format.write_array_header_1_0(head, {"descr": values.dtype.str, "fortran_order": True, "shape": claimed})
                content = head.getvalue() + content[128:]
            file.writestr(draw(st.sampled_from([f"{name}.npy"] * 9 + [name])), draw(damaged(content)) if draw(st.integers(0, 9)) == 0 else content)
    return Input(draw(damaged_files({"mine.npz": raw.getvalue()})), "mine.npz", {})


MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "I;16", "I", "F", "CMYK")
KINDS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF", "ppm": "PPM", "jp2": "JPEG2000"}
SIZES = ((5, 4), (5, 4), (5, 4), (4, 5), (1, 1), (16, 16))


@functools.cache
def picture(mode: str, suffix: str, size: tuple[int, int], seed: int, turned: bool) -> bytes:
    """An encoded image; of mode RGB where the format does not have the one that is asked for."""
    pixels = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (Image.new(mode, size, 7) if mode in ("I;16", "I", "F") else pixels.convert(mode), pixels):
        try:
            image.save(file := io.BytesIO(), KINDS[suffix], **({"exif": exif} if turned else {}))
            return file.getvalue()
        except (OSError, KeyError, ValueError):
            continue
    raise AssertionError(suffix)


@st.composite
def pictures(draw, n: int) -> tuple[str, list[bytes]]:
    """n encoded images and their suffix: mostly alike."""
    alike = draw(st.integers(0, 9)) < 7
    suffix, mode, size = draw(st.sampled_from([*KINDS])), draw(st.sampled_from(MODES)), draw(st.sampled_from(SIZES))
    found = []
    for i in range(n):
        if not alike:
            mode, size = draw(st.sampled_from(MODES)), draw(st.sampled_from(SIZES))
        found.append(picture(mode, suffix, size, i, not alike and draw(st.booleans())))
    return suffix, found


NAMES = ["a", "b", "a", "b", "c", ".hidden", "train", "test", "val", "ä b", "__MACOSX", "x.png"]


@st.composite
def folder(draw) -> Input:
    n = draw(st.integers(1, 9))
    suffix, raw = draw(pictures(n))
    sides = draw(st.sampled_from([("train", "test"), ("train", "test"), ("train", "val"), ("",), ("",), ("train",), ("Train", "test", "val")]))
    above, below = draw(st.sampled_from(["", "", "", "in/", "train/"])), draw(st.sampled_from(["", "", "", "deep/", ".x/"]))
    orderly = draw(st.booleans())
    files = {}
    for i, content in enumerate(raw):
        side = sides[i // 2 % len(sides)] if orderly else draw(st.sampled_from(sides))
        name = "ab"[i % 2] if orderly else draw(st.sampled_from([*NAMES, ""]))
        end = suffix if orderly else draw(st.sampled_from([suffix] * 5 + [suffix.upper(), "png", "txt"]))
        files["/".join(part for part in (f"mine/{above}{side}", name, f"{below}{i}.{end}") if part)] = content
    files |= {f"mine/{name}": b"\0" for name in draw(st.lists(st.sampled_from([".DS_Store", "a/._0.png", "notes.txt", "d/.x"]), max_size=2))}
    files = {name: content for name, content in files.items() if not any(other.startswith(f"{name}/") for other in files)}
    options = draw(st.sampled_from([{}, {}, {"image_size": 3}, {"image_size": 1}, {"label": "label"}]))
    return Input(draw(damaged_files(files)), "mine", options)


SHARDS = [["{}.parquet"], ["{}.parquet"], ["data/{}-00000-of-00002.parquet", "data/{}-00001-of-00002.parquet"], ["{}/0.parquet"], ["{}-00000-of-00003.parquet"]]


@st.composite
def parquet(draw) -> Input:
    files, shards = {}, draw(st.sampled_from(SHARDS))
    image, label = draw(st.sampled_from(["img", "image", "picture"])), draw(st.sampled_from(["label", "fine_label", "labels", "Class", "id"]))
    kind = draw(st.sampled_from(["int", "int", "text", "bool", "float", "negative", "none", "list", "category", "huge"]))
    layout = draw(st.sampled_from(["struct", "struct", "binary", "text", "null"]))
    _, raw = draw(pictures(8))
    for side in draw(st.sampled_from([("train", "test")] * 4 + [("train", "validation"), ("train",), ("test",), ("train", "test", "validation")])):
        for i, name in enumerate(shards):
            n = draw(st.integers(0, 5))
            part = [raw[(3 * i + k) % 8] for k in range(n)]
            if n and draw(st.integers(0, 9)) == 0:
                part[-1] = draw(damaged(part[-1]))
            y = [k % 2 for k in range(n)] if draw(st.integers(0, 5)) else [draw(st.integers(0, 3)) for _ in range(n)]
            labels = {
                "int": y, "text": [f"c{v}" for v in y], "bool": [v > 0 for v in y], "float": [v + 0.0 for v in y],
                "negative": [v - 1 for v in y], "none": [v or None for v in y], "list": [[v] for v in y],
                "category": pyarrow.array([f"c{v}" for v in y]).dictionary_encode(), "huge": [v << 40 for v in y],
            }[kind]  # fmt: skip
            values = {
                "struct": [{"bytes": one, "path": None} for one in part], "binary": pyarrow.array(part, pyarrow.binary()),
                "text": ["x"] * n, "null": [None] * n,
            }[layout]  # fmt: skip
            table = pyarrow.table({image: values, label: labels, "more": range(n)})
            about = draw(st.sampled_from([None, None, b"{", b'{"info": {"features": {"label": {"names": ["u", "v"]}}}}', b'{"info": 3}']))
            table = table.replace_schema_metadata({"huggingface": about} if about else None)
            compression = draw(st.sampled_from(["snappy", "none", "zstd", "gzip"]))
            pyarrow.parquet.write_table(table, file := io.BytesIO(), compression=compression)
            files[f"mine/{name.format(side)}"] = file.getvalue()
    options = draw(st.sampled_from([{}, {}, {"image_size": 3}, {"label": "more"}, {"label": label}]))
    return Input(draw(damaged_files(files)), "mine", options)


INPUTS = {"npz": (npz(), load), "folder": (folder(), load), "parquet": (parquet(), load)}
