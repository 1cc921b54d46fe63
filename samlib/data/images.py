"""Images: pictures decoded once to uint8, both sides alike, and the published sets in one order."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from samlib.data.checked import SIDES, Loaded, check_labels
from samlib.data.files import PUBLISHED, decoded, fetching
from samlib.disk import in_a_sentence

# These are read. Others are not, because some of Pillow's readers start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")
SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2",
}  # fmt: skip
LARGEST = 1 << 26  # pixels of an image
GREY = ("1", "L", "LA", "I", "F")
ORIENTATION = 0x0112  # the EXIF tag


class Encoded(NamedTuple):
    """The pictures of both sides as they are stored, and their labels.

    `stamp` identifies the bytes that the decoded copy comes from. `pictures` and `labels` are those of train and of test;
    `pictures[0]()` yields each picture's name, for errors, and its file. `left_out` names what of the folder is not used.
    """

    folder: Path
    stamp: str
    source: str
    pictures: Sequence[Callable[[], Iterable[tuple[str, Path | BinaryIO]]]]
    labels: Sequence[np.ndarray]
    classes: Sequence[str]
    left_out: Sequence[str] = ()


@contextmanager
def _opened(where: str, file: Path | BinaryIO) -> Iterator[Any]:
    """A picture whose header is read. Any failure, here or in the block, becomes one sentence that names the picture."""
    from PIL import Image, UnidentifiedImageError

    with in_a_sentence(f"{where} cannot be decoded (", ")."):  # Pillow raises many kinds for damaged files
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError("it is no image of a known format") from None
        with image:
            if image.width * image.height > LARGEST:
                raise ValueError(f"its {image.width} x {image.height} pixels are more than {LARGEST}")
            yield image


def _turn(image: Any) -> int:
    """How the EXIF data before the pixels turn the picture: 1 not at all, 5 to 8 on its side."""
    return image.getexif().get(ORIENTATION, 1) if "exif" in image.info else 1


def _sixteen(image: Any) -> bool:
    """Whether a picture has 16 bits. Raises ValueError if it has 32."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not sixteen:
        raise ValueError("it holds 32-bit numbers, which have no fixed white; save it with 8 or 16 bits")
    return sixteen


def survey(encoded: Encoded, image_size: int | None) -> tuple[int, int, int]:
    """Height, width and channels of all decoded images, from their headers: colour if one of either side has it.

    Raises ValueError if one has no header, or if sizes differ and no `image_size` is given.
    """
    first, shape, channels = "", (image_size or 0, image_size or 0), 1
    for where, file in chain.from_iterable(pictures() for pictures in encoded.pictures):
        with _opened(where, file) as image:
            _sixteen(image)
            size = (image.width, image.height) if _turn(image) >= 5 else (image.height, image.width)
            channels = 1 if channels == 1 and image.mode.split(";")[0] in GREY else 3
        if image_size is None:
            first, shape = (first, shape) if first else (where, size)
            if size != shape:
                own, other = (f"{height} x {width}" for height, width in (size, shape))
                raise ValueError(f"{where} has {own} pixels where {first} has {other}; give image_size.")
        elif channels == 3:
            break
    return *shape, channels


def _pixels(image: Any, channels: int, image_size: int | None) -> np.ndarray:
    """A picture's first frame as uint8 (height, width, channels), turned upright, on white if it is transparent."""
    from PIL import Image, ImageOps

    sixteen = _sixteen(image)
    if _turn(image) != 1:
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


def _decode(encoded: Encoded, image_size: int | None, home: Path) -> None:
    """Write `x_train.npy` and `x_test.npy`, uint8 (n, height, width, 1 or 3). Raises ValueError as `survey`."""
    shape = survey(encoded, image_size)
    for side, y, pictures in zip(SIDES, encoded.labels, encoded.pictures, strict=True):
        out = np.lib.format.open_memmap(home / f"x_{side}.npy", "w+", np.uint8, (len(y), *shape))
        for i, (where, file) in enumerate(pictures()):
            with _opened(where, file) as image:
                out[i] = _pixels(image, shape[2], image_size)
        out.flush()


def load(encoded: Encoded, image_size: int | None, pixels: bool = True) -> Loaded:
    """A set of pictures, decoded once; without `pixels`, zeros of its shape that take no memory."""
    y_train, y_test = encoded.labels
    check_labels(str(encoded.folder), y_train, y_test, encoded.classes)
    if pixels:
        key = f"{encoded.stamp} {image_size}, both sides alike"
        found, _ = decoded(encoded.folder.name, key, lambda home: _decode(encoded, image_size, home))
        x_train, x_test = found["x_train"], found["x_test"]
    else:
        shape = survey(encoded, image_size)
        x_train, x_test = (np.broadcast_to(np.uint8(0), (len(y), *shape)) for y in encoded.labels)
    return Loaded((x_train, y_train, x_test, y_test), encoded.classes, encoded.source)


def canonical_order(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The order of a published set, whoever wrote its files: a permutation (n,) of its examples.

    Within a class the order is by the sha256 of the pixels. Then classes take turns: the first example of each class, the
    second of each, and so on, without those that have run out. So row r has label r mod C while all C classes last.
    """
    sums = np.array([hashlib.sha256(image.tobytes()).digest() for image in x], "S32")
    order = np.lexsort((sums, y))
    place = np.arange(len(y)) - np.searchsorted(y[order], y[order])
    return order[np.lexsort((y[order], place))]


def named(name: str, local: Encoded | None) -> Loaded:
    """A published set in `canonical_order`: `local` if its files are here, else by torchvision's download.

    Raises ValueError if the arrays are not those that were published.
    """
    home = PUBLISHED[name].get("of", name)
    about = PUBLISHED[home]
    if local:
        stamp, source = local.stamp, local.source
    else:
        import torchvision

        part = getattr(torchvision.datasets, about["torchvision"])
        md5 = getattr(part, "tgz_md5", None) or " ".join(md5 for _, md5 in part.resources)
        stamp, source = f"torchvision {md5}", f"torchvision {about['torchvision']} md5 {md5}"

    def make(folder: Path) -> dict:
        if local:
            _decode(local, None, folder)
            labels, classes = local.labels, list(local.classes)
        else:
            labels, classes = _download(home, part, folder)
        digest = hashlib.sha256()
        for side, y in zip(SIDES, labels, strict=True):
            x = np.load(folder / f"x_{side}.npy")
            order = canonical_order(x, y)
            for letter, array in (("x", x[order]), ("y", y[order])):
                np.save(folder / f"{letter}_{side}.npy", array)
                digest.update(array.data)
        if (sha256 := digest.hexdigest()) != about.get("arrays", sha256):
            said = f"the sha256 of its arrays is {sha256}, not {about['arrays']}"
            raise ValueError(f"{source.split(' sha256')[0]} is not the published {home}: {said}.")
        return {"classes": classes}

    arrays, facts = decoded(home, f"{stamp} in order", make)
    classes, y_train, y_test = facts["classes"], arrays["y_train"], arrays["y_test"]
    if "superclass" in PUBLISHED[name]:
        classes, above = PUBLISHED[name]["names"], np.array(PUBLISHED[name]["superclass"], np.int64)
        y_train, y_test = above[y_train], above[y_test]
    return Loaded((arrays["x_train"], y_train, arrays["x_test"], y_test), classes, source)


def _download(name: str, part: Any, folder: Path) -> tuple[list[np.ndarray], list[str]]:
    """Write the images of one of torchvision's sets, which checks its downloads; returns the labels and class names."""
    labels, url = [], getattr(part, "url", None) or next(iter(getattr(part, "mirrors", ())), None)
    for side in SIDES:
        with fetching(name, url if side == "train" else None, "train.parquet and test.parquet"):
            found = part(folder / "download", train=side == "train", download=True)
        x = np.asarray(found.data)
        np.save(folder / f"x_{side}.npy", x if x.ndim == 4 else x[..., None])
        labels.append(np.asarray(found.targets, np.int64))
    shutil.rmtree(folder / "download", ignore_errors=True)
    return labels, list(found.classes)


def statistics(x: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of uint8 images (n, h, w, c), in units of 255, to four digits."""
    counts = np.zeros((x.shape[-1], 256), np.int64)
    for start in range(0, len(x), 4096):
        for c, channel in enumerate(np.moveaxis(x[start : start + 4096], -1, 0)):
            counts[c] += np.bincount(channel.ravel(), minlength=256)
    level, share = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = share @ level
    std = np.sqrt(np.maximum(share @ level**2 - mean**2, 0)).round(4)
    return tuple(mean.round(4).tolist()), tuple((std + (std == 0)).tolist())
