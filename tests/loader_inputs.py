"""Inputs for loaders, as hypothesis draws them: valid, odd and damaged; and what must hold of each.

`INPUTS` has a strategy and a check for each loader; more can be added. `tests/benchmarks/fuzz_loaders.py` tries many.
"""

import functools
import io
import re
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
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
    """ "loaded" or "refused". Raises AssertionError where the arrays or the sentence are not as they should be."""
    with tempfile.TemporaryDirectory() as home, warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # of what is left out, and Pillow's of odd metadata
        patch.setenv("SAMLIB_CACHE", f"{home}/cache")
        for name, content in given.files.items():
            path = Path(home, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            data = load_dataset(f"{home}/{given.name}", **given.options)
        except (ValueError, OSError) as error:
            said = str(error)
            assert said.isprintable(), said
            assert re.search(r"[^\s.:(]\.$", said), said
            assert not re.search(r"[a-z] \( ?\)\.$|: ?\)", said.replace("shape ()", "")), said
            assert home in said, said
            return "refused"
        arrays = data.x_train, data.y_train, data.x_test, data.y_test
        check("it", arrays, data.classes)
        assert data.x_train.dtype == data.x_test.dtype
        assert data.y_train.dtype == data.y_test.dtype == np.int64
        assert (data.mean is not None) == (data.x_train.dtype == np.uint8)
        if set(given.options) <= {"image_size"}:
            shape = shape_of(f"{home}/{given.name}", **given.options)
            found = len(data.y_train), len(data.y_test), data.x_train.shape[1:], len(data.classes), data.x_train.dtype
            assert shape[:5] == found, (shape, found)
        return "loaded"


def mostly(usual, *odd, share=14):
    """One of the usual values, and once in so many one of the odd."""
    return st.integers(0, share).flatmap(lambda k: st.sampled_from(odd if k == share else usual))


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """A file that is cut, or with bytes changed, put in or taken out, or another."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "remove", "other"]))
    at = draw(st.integers(0, len(content)))
    if kind == "cut":
        return content[:at]
    if kind == "flip":
        changed = bytearray(content)
        for i, bits in draw(st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4)):
            if changed:
                changed[i % len(changed)] ^= bits
        return bytes(changed)
    if kind == "insert":
        return content[:at] + draw(st.binary(max_size=9)) + content[at:]
    if kind == "remove":
        return content[:at] + content[at + draw(st.integers(1, 99)) :]
    return draw(st.sampled_from([b"", b"PK", b"PAR1", b"\0" * 99, b"\x89PNG\r\n\x1a\n"]))


@st.composite
def damaged_files(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    """All files whole, or, once in three, one of them damaged."""
    if draw(st.integers(0, 2)) < 2:
        return files
    name = draw(st.sampled_from([*files]))
    return files | {name: draw(damaged(files[name]))}


DTYPES = ["f4", "f8", "f2", "u1", "i8", "u8", "b1", "U3", "c8", "M8[s]", "O", "S2", ">f4", ">i2", "f16"]
LABELS = ["u1", "i4", "f4", "b1", "U2", "c8", "S1", "O", "u8"]


@st.composite
def array(draw, shape, dtype, most):
    """Numbers from 0 to `most`, mostly; labels 0, 1, 0, 1 where that is 1."""
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = rng.integers(0, most + 1, shape).astype(dtype)
        odd = draw(mostly([None], np.nan, np.inf, -1, 1e39, 2**40, 0.5))
        if odd is not None and values.size and values.dtype.kind in "fiu":
            values.flat[draw(st.integers(0, values.size - 1))] = np.array(odd).astype(dtype)
    return values


def lying(values: np.ndarray, shape: tuple) -> bytes:
    """An .npy whose header claims another shape."""
    head = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(head, about)
    return head.getvalue() + values.tobytes()


@st.composite
def npz(draw) -> Input:
    n, t = draw(mostly(range(4, 10), 0, 1, 2, 3)), draw(mostly(range(1, 5), 0))
    usual = [(3,), (4,), (6, 5), (6, 5, 3), (3, 6, 5), (1, 4, 4), (3, 4, 3)]
    shape, most = draw(mostly(usual, (4, 4, 2), (), (0,), (2, 2, 2, 2))), draw(st.sampled_from([1, 16, 255, 70_000]))
    x_kind, y_kind = draw(mostly(["f4", "f8", "u1", "i8"], *DTYPES)), draw(mostly(["i8", "u1"], *LABELS))
    column = draw(mostly([()], (1,), (2,)))
    labels = np.resize(np.arange(draw(mostly([2, 3], 1))), (n + t, *column)).astype(y_kind)
    arrays = {
        "x_train": draw(array((n, *shape), x_kind, most)),
        "y_train": labels[:n],
        "x_test": draw(array((t, *draw(mostly([shape], (5,), (2, 2)))), draw(mostly([x_kind], *DTYPES)), most)),
        "y_test": draw(mostly([labels[n:]], labels[:t] + labels[:t] if labels.dtype.kind in "iuf" else labels[:0])),
    }
    arrays.pop(draw(mostly([None], *arrays)), None)
    arrays |= draw(mostly([{}], {"more": np.zeros(3)}, {"x_train.npy": np.ones(2)}))
    raw, compression = io.BytesIO(), draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    with zipfile.ZipFile(raw, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        for name, values in arrays.items():
            np.lib.format.write_array(member := io.BytesIO(), values)
            content = member.getvalue()
            if draw(st.integers(0, 40)) == 40 and values.dtype != object:
                shapes = [(10**12,), (-1,), (n, 10**9), (2**63, 2**63), (n,), (), (0,) * 40, (len(values), 10**7)]
                content = lying(values, draw(st.sampled_from(shapes)))
            elif draw(st.integers(0, 40)) == 40:
                content = draw(damaged(content))
            file.writestr(draw(mostly([f"{name}.npy"], name, share=40)), content)
    return Input(draw(damaged_files({"mine.npz": raw.getvalue()})), "mine.npz", {})


@functools.cache
def zeros(n: int) -> bytes:
    """A small file that holds n bytes of zeros as x_train."""
    np.savez_compressed(
        raw := io.BytesIO(), x_train=np.zeros((2, n // 2), np.uint8), y_train=[0, 1], x_test=[[0]], y_test=[0]
    )
    return raw.getvalue()


def bombs() -> st.SearchStrategy[Input]:
    """What is small on the disk and large in memory."""
    return st.sampled_from([1 << 25, 1 << 26, 1 << 28]).map(lambda n: Input({"mine.npz": zeros(n)}, "mine.npz", {}))


MODES = ("L", "RGB", "RGBA", "LA", "P", "1", "I;16", "CMYK")
KINDS = {
    "png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tif": "TIFF", "bmp": "BMP", "gif": "GIF", "ppm": "PPM", "jp2": "JPEG2000",
}  # fmt: skip
SIZES = ((5, 4), (4, 5), (1, 1), (16, 16))


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
    suffix, size = draw(st.sampled_from([*KINDS])), draw(st.sampled_from(SIZES))
    modes, sizes = draw(mostly([MODES[:1], MODES[1:2], MODES], ("L", "I"), ("F", "RGB"))), draw(mostly([[size]], SIZES))
    turned = draw(mostly([False], True))
    return suffix, [
        picture(draw(st.sampled_from(modes)), suffix, draw(st.sampled_from(sizes)), i, turned) for i in range(n)
    ]


NAMES = ["a", "b", "c", ".hidden", "train", "test", "val", "ä b", "__MACOSX", "x.png", ""]


@st.composite
def folder(draw) -> Input:
    n = draw(mostly(range(4, 10), 1, 2, 3))
    suffix, raw = draw(pictures(n))
    usual = [("train", "test"), ("train", "val"), ("",), ("Train", "test", "val")]
    sides, above = draw(mostly(usual, ("train",), ("test",), ("train", "flat"))), draw(mostly(["", "in/"], "train/"))
    below, orderly = draw(mostly(["", "deep/"], ".x/")), draw(st.integers(0, 3)) < 3
    files = {}
    for i, content in enumerate(raw):
        side = sides[i // 2 % len(sides)] if orderly else draw(st.sampled_from(sides))
        name = "ab"[i % 2] if orderly else draw(mostly(["a", "b"], *NAMES, share=5))
        end = suffix if orderly else draw(mostly([suffix], suffix.upper(), "png", "txt"))
        files["/".join(part for part in (f"mine/{above}{side}".rstrip("/"), name, f"{below}{i}.{end}") if part)] = (
            content
        )
    more = draw(
        st.lists(
            st.sampled_from([".DS_Store", "a/._0.png", "notes.txt", "d/.x", "a/.ipynb_checkpoints/0.png"]), max_size=2
        )
    )
    files |= {f"mine/{name}": b"\0" for name in more}
    files = {name: raw for name, raw in files.items() if not any(other.startswith(f"{name}/") for other in files)}
    options = draw(mostly([{}, {"image_size": 3}, {"image_size": 1}], {"label": "label"}))
    return Input(draw(damaged_files(files)), "mine", options)


SHARDS = [["{}.parquet"], ["data/{}-00000-of-00002.parquet", "data/{}-00001-of-00002.parquet"], ["{}/0.parquet"]]


@st.composite
def parquet(draw) -> Input:
    files, shards = {}, draw(mostly(SHARDS, ["{}-00000-of-00003.parquet"], ["{}.x.parquet"]))
    image, label = (
        draw(mostly(["img", "image", "picture"], "label")),
        draw(mostly(["label", "fine_label", "labels", "Class"], "id")),
    )
    kind = draw(mostly(["int", "text", "bool", "float", "category"], "negative", "none", "list", "huge"))
    layout = draw(mostly(["struct", "binary"], "text", "null"))
    about = draw(
        mostly([None, b'{"info": {"features": {"label": {"names": ["u", "v"]}}}}'], b"{", b'{"info": 3}', b"[]")
    )
    compression = draw(st.sampled_from(["snappy", "none", "zstd", "gzip"]))
    _, raw = draw(pictures(8))
    sides = draw(
        mostly([("train", "test"), ("train", "validation")], ("train",), ("test",), ("train", "test", "validation"))
    )
    for side in sides:
        for i, name in enumerate(shards):
            n = draw(mostly(range(2, 6), 0, 1))
            part = [raw[(3 * i + k) % 8] for k in range(n)]
            if n and draw(st.integers(0, 20)) == 20:
                part[-1] = draw(damaged(part[-1]))
            y = [k % draw(mostly([2], 1, 3, share=30)) for k in range(n)]
            labels = {
                "int": y, "text": [f"c{v}" for v in y], "bool": [v > 0 for v in y], "float": [v + 0.0 for v in y],
                "negative": [v - 1 for v in y], "none": [v or None for v in y], "list": [[v] for v in y],
                "category": pyarrow.array([f"c{v}" for v in y]).dictionary_encode(), "huge": [v << 40 for v in y],
            }[kind]  # fmt: skip
            values = {
                "struct": [{"bytes": one, "path": None} for one in part],
                "binary": pyarrow.array(part, pyarrow.binary()),
                "text": ["x"] * n,
                "null": [None] * n,
            }[layout]
            table = pyarrow.table({"more": range(n), image: values, label: labels})
            table = table.replace_schema_metadata({"huggingface": about} if about else None)
            pyarrow.parquet.write_table(table, file := io.BytesIO(), compression=compression)
            files[f"mine/{name.format(side)}"] = file.getvalue()
    options = draw(mostly([{}, {"image_size": 3}, {"label": label}], {"label": "more"}))
    return Input(draw(damaged_files(files)), "mine", options)


INPUTS = {
    "npz": (st.integers(0, 999).flatmap(lambda k: bombs() if k == 999 else npz()), load),
    "folder": (folder(), load),
    "parquet": (parquet(), load),
}
