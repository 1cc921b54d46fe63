"""Images: pictures decoded once to uint8, both sides alike, and the published sets in one order."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from samlib.data.files import decoded, fetching, reason

TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "fashion_mnist": "FashionMNIST"}
# The sha256 of x_train, y_train, x_test and y_test one after the other, in our order; Fashion-MNIST's is not measured yet.
PINNED = {
    "cifar10": "aaa027d537692563cf8c097e77473f5444003508e9898186cf2c1204904d6bd7",
    "cifar100": "e29b20de058e10cf2fc67c453c46abf38393f96a075061d6c16ef0d29d939871",
}
# What is read. Others are left alone: some of Pillow's readers start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2",
}  # fmt: skip
LARGEST = 1 << 26  # pixels of an image
GREY = ("1", "L", "LA", "I", "F")
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


@dataclass(frozen=True)
class Encoded:
    """The pictures of both sides as they lie on the disk, and their labels.

    `stamp` names the bytes that the decoded copy comes from; `pictures[side]()` yields what an error calls each, and its
    file; `labels` are those of train and test; `left_out` says in words what of the folder is not used.
    """

    name: str
    stamp: str
    source: str = field(compare=False)
    pictures: dict[str, Callable[[], Iterator[tuple[str, Path | BinaryIO]]]] = field(compare=False)
    labels: tuple[np.ndarray, np.ndarray] = field(compare=False)
    classes: tuple[str, ...] = field(compare=False)
    left_out: str = field(default="", compare=False)


@contextmanager
def _opened(where: str, file: Path | BinaryIO):
    """A picture, its header read. What goes wrong with it, here or in the block, is one sentence that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"its {image.width} x {image.height} pixels are more than {LARGEST}")
            yield image
    except Exception as error:  # Pillow raises many kinds for damaged files
        said = "it is no image of a known format" if isinstance(error, UnidentifiedImageError) else reason(error)
        raise ValueError(f"{where} cannot be decoded ({said}).") from None


def _turned(image) -> bool:
    """Whether its EXIF data, found before the pixels, say that the picture is to be turned when shown."""
    return "exif" in image.info and image.getexif().get(0x0112, 1) != 1


def _sixteen(image) -> bool:
    """Whether a picture has 16 bits. Raises ValueError where it has 32."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise ValueError("it holds 32-bit numbers, which have no fixed white; save it with 8 or 16 bits")
    return sixteen


@functools.lru_cache(8)
def survey(encoded: Encoded, image_size: int | None) -> tuple[int, int, int]:
    """Height, width and channels of all decoded images, from their headers: colour where one of either side has it.

    Raises ValueError where one has no header, or where sizes differ and no `image_size` is given.
    """
    first, channels = None, 1
    for side in ("train", "test"):
        for where, file in encoded.pictures[side]():
            with _opened(where, file) as image:
                _sixteen(image)
                size = image.size[:: -1 if _turned(image) and image.getexif().get(0x0112) >= 5 else 1]
                channels = 1 if channels == 1 and image.mode.split(";")[0] in GREY else 3
            first = first or (where, size)
            if image_size is not None and channels == 3:
                return image_size, image_size, 3
            if image_size is None and size != first[1]:
                has, had = (f"{height} x {width}" for width, height in (size, first[1]))
                raise ValueError(f"{where} has {has} pixels where {first[0]} has {had}; give image_size.")
    width, height = (image_size, image_size) if image_size else first[1]
    return height, width, channels


def _pixels(image, channels: int, image_size: int | None) -> np.ndarray:
    """A picture's first frame as uint8 (height, width, channels), turned upright, on white where it is transparent."""
    from PIL import Image, ImageOps

    sixteen = _sixteen(image)
    if _turned(image):
        image = ImageOps.exif_transpose(image)
    if sixteen:
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("L" if channels == 1 else "RGB")
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size))
    return np.asarray(image).reshape(image.height, image.width, channels)


def _decode(encoded: Encoded, image_size: int | None, home: Path) -> dict:
    """Write `x_train.npy` and `x_test.npy`, uint8 (n, height, width, 1 or 3). Raises ValueError as `survey`."""
    shape = survey(encoded, image_size)
    for side, y in zip(("train", "test"), encoded.labels, strict=True):
        out = np.lib.format.open_memmap(home / f"x_{side}.npy", "w+", np.uint8, (len(y), *shape))
        for i, (where, file) in enumerate(encoded.pictures[side]()):
            with _opened(where, file) as image:
                out[i] = _pixels(image, shape[2], image_size)
        out.flush()
    return {}


def load(encoded: Encoded, image_size: int | None, pixels: bool = True) -> dict:
    """A set of pictures, decoded once; without `pixels`, zeros of its shape that take no memory."""
    if pixels:
        key = f"{encoded.stamp} {image_size}, both sides alike"
        x, _ = decoded(encoded.name, key, lambda home: _decode(encoded, image_size, home))
    else:
        shape = survey(encoded, image_size)
        sides = zip(("x_train", "x_test"), encoded.labels, strict=True)
        x = {side: np.broadcast_to(np.uint8(0), (len(y), *shape)) for side, y in sides}
    y_train, y_test = encoded.labels
    return {
        "arrays": (x["x_train"], y_train, x["x_test"], y_test),
        "classes": encoded.classes,
        "source": encoded.source,
    }


def canonical_order(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The order of a published set, whoever wrote its files: a permutation (n,) of its examples.

    Within a class by the sha256 of the pixels, then interleaved: the first of each class in the order of the classes, the
    second of each, and so on, without those that have run out. So row r has label r mod C while all C classes last.
    """
    sums = np.array([hashlib.sha256(np.ascontiguousarray(image)).digest() for image in x], "S32")
    order = np.lexsort((sums, y))
    place = np.arange(len(y)) - np.searchsorted(y[order], y[order])
    return order[np.lexsort((y[order], place))]


def named(name: str, label: str | None, local: Encoded | None) -> dict:
    """A published set in `canonical_order`: `local`, where its files are here, else by torchvision's download.

    A name that ends in "-coarse", or label "coarse_label", takes CIFAR-100's 20 superclasses. Raises ValueError where the
    arrays are not those that were published.
    """
    home, columns = name.removesuffix("-coarse"), ("label",)
    if home == "cifar100":
        columns = ("fine_label", "coarse_label")
    label = "coarse_label" if name != home else label or columns[0]
    if label not in columns:
        raise ValueError(f"There is no label {label!r} in {name}, only {', '.join(columns)}.")
    if local:
        stamp, source = local.stamp, local.source
    else:
        import torchvision

        part = getattr(torchvision.datasets, TORCHVISION[home])
        md5 = getattr(part, "tgz_md5", None) or " ".join(md5 for _, md5 in part.resources)
        stamp, source = f"torchvision {md5}", f"torchvision {TORCHVISION[home]} md5 {md5}"

    def make(folder: Path) -> dict:
        if local:
            _decode(local, None, folder)
            labels, classes = local.labels, local.classes
        else:
            labels, classes = _download(home, part, folder)
        digest = hashlib.sha256()
        for side, y in zip(("train", "test"), labels, strict=True):
            x = np.load(folder / f"x_{side}.npy")
            order = canonical_order(x, y)
            for letter, array in (("x", x[order]), ("y", y[order])):
                np.save(folder / f"{letter}_{side}.npy", array)
                digest.update(array)
        if PINNED.get(home, digest.hexdigest()) != digest.hexdigest():
            raise ValueError(
                f"{source.split(' sha256')[0]} is not the published {home}: the sha256 of its arrays is "
                f"{digest.hexdigest()}, not {PINNED[home]}."
            )
        return {"classes": classes}

    arrays, facts = decoded(home, f"{stamp} in order", make)
    classes, ys = tuple(facts["classes"]), [arrays["y_train"], arrays["y_test"]]
    if label == "coarse_label":
        classes, ys = COARSE_NAMES, [np.array(COARSE, np.int64)[y] for y in ys]
    return {"arrays": (arrays["x_train"], ys[0], arrays["x_test"], ys[1]), "classes": classes, "source": source}


def _download(name: str, part, folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """Write the images of one of torchvision's sets, which checks what it downloads; returns the labels and class names."""
    labels, url = [], getattr(part, "url", None) or next(iter(getattr(part, "mirrors", ())), None)
    for side in ("train", "test"):
        with fetching(name, url if side == "train" else None, "train.parquet and test.parquet"):
            found = part(folder / "download", train=side == "train", download=True)
        x = np.asarray(found.data)
        np.save(folder / f"x_{side}.npy", x if x.ndim == 4 else x[..., None])
        labels.append(np.asarray(found.targets, np.int64))
    shutil.rmtree(folder / "download", ignore_errors=True)
    return labels, list(found.classes)


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
