"""Images: torchvision's sets, Hugging Face parquet folders and folders of image files, decoded once to uint8."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from samlib.data.files import decoded, fetching, local_file, sha256_of

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
# The superclass of each class of CIFAR-100 (Krizhevsky 2009), which torchvision leaves out.
COARSE = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7, 6, 13, 15, 3, 15, 0, 11, 1, 10,
    12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10, 16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16,
    12, 1, 9, 19, 2, 10, 0, 1, 16, 12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)  # fmt: skip
COARSE_NAMES = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip


def named(name: str, image_size: int | None, label: str | None) -> dict:
    """A published set by name: as parquet from the folder SAMLIB_DATA where it is there, else by torchvision's download.

    A name that ends in "-coarse" takes CIFAR-100's 20 superclasses as labels.
    """
    home, coarse = name.removesuffix("-coarse"), name.endswith("-coarse")
    if coarse:
        label = "coarse_label"
    if path := local_file(home, "train.parquet"):
        return from_parquet(path.parent, image_size, label)
    _no_size(name, image_size)
    return from_torchvision(home, label)


def from_parquet(folder: Path, image_size: int | None, label: str | None) -> dict:
    """A folder of `train.parquet` and `test.parquet` in the Hugging Face image layout.

    A column `img` or `image` holds structs of bytes and path; whole-number columns whose name ends in "label" hold
    classes, named by the schema where it does. Raises ValueError for a file that is missing, damaged or laid out otherwise.
    """
    for side in ("train", "test"):
        if not (folder / f"{side}.parquet").is_file():
            raise ValueError(f"The folder {folder} has no {side}.parquet.")
    sums = {side: sha256_of(folder / f"{side}.parquet") for side in ("train", "test")}

    def make(home: Path) -> dict:
        names: dict[str, list[str]] = {}
        for side in ("train", "test"):
            names |= _read_parquet(folder / f"{side}.parquet", side, home, image_size)
        return {"classes": names}

    arrays, facts = decoded(folder.name, f"parquet {sums} {image_size}", make)
    return _pick(arrays, facts, label, f"{folder.name} parquet sha256 train {sums['train']} test {sums['test']}")


def _read_parquet(path: Path, side: str, home: Path, image_size: int | None) -> dict[str, list[str]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        column = next((name for name in ("img", "image") if name in schema.names), None)
        labels = [f.name for f in schema if f.name.endswith("label") and pyarrow.types.is_integer(f.type)]
        if column is None or not labels or file.metadata.num_rows == 0:
            raise ValueError(
                f"it needs rows of img and label, and has {file.metadata.num_rows} of {', '.join(schema.names)}"
            )
        images = (
            image["bytes"]
            for batch in file.iter_batches(1024, columns=[column])
            for image in batch.column(0).to_pylist()
        )
        _decode(images, file.metadata.num_rows, home / f"x_{side}.npy", image_size)
        table = file.read(labels)
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        names = {}
        for name in labels:
            y = table[name].to_numpy().astype(np.int64)
            names[name] = features.get(name, {}).get("names") or [str(c) for c in range(int(y.max()) + 1)]
            if y.min() < 0 or y.max() >= len(names[name]):
                raise ValueError(f"{name} spans {y.min()} to {y.max()}, which {len(names[name])} classes do not")
            np.save(home / f"{name}_{side}.npy", y)
    except OSError as error:
        if error.errno is not None and not isinstance(error, FileNotFoundError):  # the cache's disk, not the file
            raise
        raise ValueError(f"{path} is damaged: {error}.") from None
    except (pyarrow.ArrowException, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged or has another layout: {' '.join(str(error).split()).rstrip('.')}."
        ) from None
    return names if side == "train" else {}


def from_folder(folder: Path, image_size: int | None, label: str | None) -> dict:
    """Image files in one folder a class, `folder/class/file`, or `folder/train/class/file` beside `folder/test/...`.

    Without `train` and `test`, a fixed random fifth is the test set. Files are in a fixed random order, so that a pool is
    a fair sample. The decoded copy is found again by the files' names, sizes and times. Raises ValueError where classes
    are missing, an image cannot be decoded, or sizes differ and no `image_size` is given.
    """
    if label is not None:
        raise ValueError(f"In an image folder the class is the folder's name: {folder} has no label {label!r}.")
    parts = {side: folder / side for side in ("train", "test")} if (folder / "train").is_dir() else {"": folder}
    found = {side: list(listed(part)) for side, part in parts.items()}
    classes = sorted({path.parent.name for files in found.values() for path in files})
    if len(classes) < 2 or not all(found.values()):
        raise ValueError(
            f"The folder {folder} must hold images in one folder a class, or train.parquet and test.parquet."
        )
    rng = np.random.default_rng(0)
    files = {side: [paths[i] for i in rng.permutation(len(paths))] for side, paths in found.items()}
    if "" in files:
        n_test = max(1, len(files[""]) // 5)
        files = {"train": files[""][n_test:], "test": files[""][:n_test]}
    described = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for side in ("train", "test")
        for path in files[side]
    ]
    key = hashlib.sha256(json.dumps([described, image_size]).encode()).hexdigest()

    def make(home: Path) -> dict:
        for side, paths in files.items():
            _decode(map(_bytes, paths), len(paths), home / f"x_{side}.npy", image_size, paths)
            y = np.array([classes.index(path.parent.name) for path in paths], np.int64)
            np.save(home / f"label_{side}.npy", y)
        return {"classes": {"label": classes}}

    arrays, facts = decoded(folder.name, key, make)
    return _pick(arrays, facts, None, f"{folder.name}, {len(described)} image files, listing sha256 {key}")


def listed(folder: Path) -> Iterator[Path]:
    """The image files in the folders of a folder, sorted."""
    for path in sorted(folder.glob("*/*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            yield path


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None


def from_torchvision(name: str, label: str | None) -> dict:
    """CIFAR-10, CIFAR-100 or Fashion-MNIST by torchvision, which checks the published md5 of what it downloads."""
    import torchvision

    source = getattr(torchvision.datasets, TORCHVISION[name])
    md5 = getattr(source, "tgz_md5", None) or " ".join(md5 for _, md5 in source.resources)
    url = getattr(source, "url", None) or next(iter(getattr(source, "mirrors", ())), None)

    def make(home: Path) -> dict:
        names = []
        for side in ("train", "test"):
            with fetching(name, url if side == "train" else None, "train.parquet and test.parquet"):
                part = source(home / "download", train=side == "train", download=True)
            x = np.asarray(part.data)
            np.save(home / f"x_{side}.npy", x if x.ndim == 4 else x[..., None])
            y, names = np.asarray(part.targets, np.int64), list(part.classes)
            np.save(home / f"label_{side}.npy", y)
            if name == "cifar100":
                np.save(home / f"coarse_label_{side}.npy", np.array(COARSE, np.int64)[y])
        shutil.rmtree(home / "download", ignore_errors=True)
        return {"classes": {"label": names} | ({"coarse_label": list(COARSE_NAMES)} if name == "cifar100" else {})}

    arrays, facts = decoded(name, f"torchvision {md5}", make)
    return _pick(arrays, facts, label, f"torchvision {TORCHVISION[name]} md5 {md5}")


def _decode(
    images: Iterable[bytes], n: int, out: Path, image_size: int | None, names: list[Path] | None = None
) -> None:
    """Write n encoded images as uint8 (n, height, width, 1 or 3); with `image_size`, cropped to a square and resized.

    Grey or colour is decided by the first. Raises ValueError for one that cannot be decoded or has another size.
    """
    from PIL import Image, ImageOps

    array = mode = None
    for i, raw in enumerate(images):
        name = names[i] if names else f"image {i}"
        try:
            with Image.open(io.BytesIO(raw)) as image:
                mode = mode or ("L" if image.mode in ("L", "1") else "RGB")
                image = image.convert(mode)
        except (
            OSError,
            SyntaxError,
            ValueError,
            TypeError,
            Image.DecompressionBombError,
            Image.DecompressionBombWarning,
        ) as e:
            raise ValueError(f"{name} cannot be decoded ({str(e).rstrip('.')}).") from None
        if image_size is not None:
            image = ImageOps.fit(image, (image_size, image_size))
        pixels = np.asarray(image).reshape(image.height, image.width, -1)
        if array is None:
            array = np.lib.format.open_memmap(out, "w+", np.uint8, (n, *pixels.shape))
        if pixels.shape != array.shape[1:]:
            had, has = ("x".join(map(str, shape[:2])) for shape in (array.shape[1:], pixels.shape))
            raise ValueError(f"{name} has {has} pixels where the first has {had}; give image_size.")
        array[i] = pixels
    array.flush()


def _pick(arrays: dict[str, np.ndarray], facts: dict, label: str | None, source: str) -> dict:
    """One column of labels of a decoded set."""
    names = facts["classes"]
    label = label or next((name for name in ("label", "fine_label") if name in names), next(iter(names)))
    if label not in names:
        raise ValueError(f"There is no label {label!r} in {source.split()[0]}, only {', '.join(names)}.")
    y_train, y_test = arrays[f"{label}_train"], arrays[f"{label}_test"]
    return {
        "arrays": (arrays["x_train"], y_train, arrays["x_test"], y_test),
        "classes": names[label],
        "source": source,
    }


def _no_size(name: str, image_size: int | None) -> None:
    if image_size is not None:
        raise ValueError(f"image_size is for folders of images, and {name} is none.")


def statistics(x: np.ndarray, block: int = 4096) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (n, h, w, c), in units of 255, to four digits."""
    counts = np.zeros((x.shape[-1], 256), np.int64)
    for start in range(0, len(x), block):
        part = x[start : start + block]
        for c in range(x.shape[-1]):
            counts[c] += np.bincount(part[..., c].ravel(), minlength=256)
    level = np.arange(256) / 255
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ level
    std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0))
    return tuple(mean.round(4).tolist()), tuple((std.round(4) + (std.round(4) == 0)).tolist())
