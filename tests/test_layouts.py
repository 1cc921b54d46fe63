"""Data of one's own: every layout is read, or one sentence says what is missing; plans see the shape that is loaded."""

import io
import json
import os
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from samlib import load_dataset
from samlib.data import shape_of, tables

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (12, 6, 5, 3), np.uint8)


def picture(path, pixels=None, **options):
    """Write one image file; by default a small one in colour, another each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(COLOUR[0] if pixels is None else pixels)
    image.save(path, **options)
    return path


def classes(folder, names=("a", "b"), n=3, suffix=".png"):
    for c, name in enumerate(names):
        for i in range(n):
            picture(folder / name / f"{i}{suffix}", COLOUR[n * c + i])
    return folder


def loads(path, image_size=None):
    """Load it, and hold the plan's shape against what was loaded."""
    data, shape = load_dataset(path, image_size=image_size), shape_of(str(path), image_size)
    assert shape[:5] == (
        len(data.y_train),
        len(data.y_test),
        data.x_train.shape[1:],
        len(data.classes),
        data.x_train.dtype,
    )
    assert data.x_train.shape[1:] == data.x_test.shape[1:]
    assert (data.mean is not None) == shape.decoded
    return data


def refused(path, message, **options):
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(path, **options)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    with pytest.raises(ValueError, match=r"\.$"):
        shape_of(str(path))


# --- folders of images


def test_names_that_begin_with_a_dot_are_no_data(tmp_path):
    folder = classes(tmp_path / "mine")
    expected = loads(folder).checksum
    for name in (".ipynb_checkpoints/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", "__MACOSX/a/0.png"):
        picture(folder / name)
    for name in (".DS_Store", "Thumbs.db", "a/._1.png", "a/.DS_Store", "b/Thumbs.db", "a/._", "__MACOSX/a/._0.png"):
        (folder / name).write_bytes(b"no image")
    assert loads(folder).checksum == expected


@pytest.mark.parametrize("sides", [("train", "test"), ("train", "val"), ("Training", "validation"), ("",)])
@pytest.mark.parametrize("above", [".", "unpacked", "one/two"])
@pytest.mark.parametrize("below", [".", "deeper"])
@pytest.mark.parametrize("names", [("a", "b"), ("train", "car"), ("val", "test")])
def test_folder_layouts_that_are_read(tmp_path, sides, above, below, names):
    for side in sides:
        for name in names:
            for i in range(3):
                picture(tmp_path / "mine" / above / side / name / below / f"{i}.PNG", COLOUR[i])
    if (sides, below, names[0]) == (("",), "deeper", "train"):
        refused(tmp_path / "mine", "has train, and no test or val")  # may as well be the one side
        return
    data = loads(tmp_path / "mine")
    assert data.classes == tuple(sorted(names))
    n = 3 * len(names)
    assert (len(data.y_train), len(data.y_test)) == ((n - 1, 1) if sides == ("",) else (n, n))


@pytest.mark.parametrize("suffix", [".ppm", ".PGM", ".jp2", ".jfif", ".JPEG", ".webp", ".bmp", ".tif", ".gif"])
def test_kinds_of_image_files(tmp_path, suffix):
    folder = classes(tmp_path / "mine", suffix=".png")
    for i, path in enumerate(folder.rglob("*.png")):
        Image.fromarray(COLOUR[i]).save(
            path,
            {".jp2": "JPEG2000", ".jfif": "JPEG", ".pgm": "PPM"}.get(suffix.lower())
            or suffix[1:].upper().replace("TIF", "TIFF").replace("PPM", "PPM"),
        )
        path.rename(path.with_suffix(suffix))
    assert loads(folder).x_train.shape == (5, 6, 5, 3)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/0.png", "train/b/0.png"], "has train, and no test or val with one folder a class"),
        (["train/a/0.png", "train/b/0.png", "test/0.png"], "no test or val .*; the images in test have no class"),
        (["train/0.png", "test/0.png"], "has images right in test, train|has images right in train, test"),
        (["train/a/0.png", "train/a/1.png", "test/a/0.png"], "must hold images in one folder a class, .* it holds test, train"),
        (["train/a/0.png", "train/b/1.png", "test/c/0.png"], "y_test holds class c, which y_train does not"),
        (["test/a/0.png", "test/b/0.png"], "must hold images in one folder a class"),
        (["0.png", "1.png"], "must hold images in one folder a class"),
    ],
)  # fmt: skip
def test_folder_layouts_that_lack_something_are_one_sentence(tmp_path, files, message):
    for file in files:
        picture(tmp_path / "mine" / file)
    refused(tmp_path / "mine", message)


def test_what_of_a_folder_is_left_out_is_said(tmp_path):
    folder = classes(classes(classes(tmp_path / "mine" / "train").parent / "val").parent / "test").parent
    (folder / "train" / "c").mkdir()
    picture(folder / "0.png")
    picture(folder / "train" / "0.png")
    with pytest.warns(
        UserWarning, match=r"mine, left out: 1 images right in mine, 1 images right in train, c \(no images\), val\.$"
    ):
        assert len(load_dataset(folder).classes) == 2
    shape_of(str(folder))  # says nothing
    flat = classes(classes(tmp_path / "flat" / "train").parent / "val").parent
    picture(flat / "test" / "0.png")
    with pytest.warns(UserWarning, match="flat, left out: test"):
        assert len(load_dataset(flat).y_test) == 6


def test_links_are_followed_once_and_never_back_up(tmp_path):
    folder = classes(tmp_path / "mine")
    outside = classes(tmp_path / "elsewhere", ("c",)) / "c"
    (folder / "c").symlink_to(outside)
    for name in ("a/up", "a/self", "b/both"):
        (folder / name).symlink_to(folder)
    (outside / "back").symlink_to(outside)
    data = loads(folder)
    assert (data.classes, len(data.y_train) + len(data.y_test)) == (("a", "b", "c"), 9)
    (folder / "a" / "gone.png").symlink_to(tmp_path / "nowhere")
    refused(folder, r"gone\.png cannot be read \(No such file")
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "again").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "must hold images in one folder a class")


def test_a_pipe_that_is_called_an_image_is_no_file(tmp_path):
    folder = classes(tmp_path / "mine")
    os.mkfifo(folder / "a" / "pipe.png")
    assert len(loads(folder).y_train) == 5
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "There is no data set file")


# --- what becomes of pixels


def grey(i):
    return COLOUR[i, ..., 0]


@pytest.mark.parametrize("at", ["train/a/0.png", "train/b/2.png", "test/a/0.png"])
def test_colour_where_one_image_of_either_side_has_it(tmp_path, at):
    for side in ("train", "test"):
        for c in "ab":
            for i in range(3):
                picture(tmp_path / side / c / f"{i}.png", grey(i))
    assert loads(tmp_path).x_train.shape == (6, 6, 5, 1)
    picture(tmp_path / at, COLOUR[0])
    data = loads(tmp_path)
    assert (data.x_train.shape, data.x_test.shape) == ((6, 6, 5, 3), (6, 6, 5, 3))
    both = [*data.x_train, *data.x_test]
    assert sum(np.array_equal(x, COLOUR[0]) for x in both) == 1
    assert sum(np.array_equal(x, np.repeat(grey(1)[..., None], 3, -1)) for x in both) >= 3


def test_sizes_of_both_sides_must_agree(tmp_path):
    classes(classes(tmp_path / "train").parent / "test")
    picture(tmp_path / "test" / "b" / "2.png", COLOUR[0, :4])
    refused(tmp_path, r"test/b/2\.png has 4 x 5 pixels where .*train/.*\.png has 6 x 5; give image_size\.$")
    assert loads(tmp_path, 4).x_test.shape == (6, 4, 4, 3)


def pair_of(tmp_path, image, **options):
    """A folder where each image is this one; returns what it becomes."""
    for i in range(4):
        picture(
            tmp_path / "mine" / "ab"[i % 2] / f"{i}.{options.get('suffix', 'png')}",
            image,
            **{k: v for k, v in options.items() if k != "suffix"},
        )
    data = loads(tmp_path / "mine")
    assert (data.x_train == data.x_test[0]).all()
    return data.x_test[0]


RAMP = (np.arange(48) * 1300).astype(np.uint16).reshape(6, 8)
GREY8 = np.linspace(0, 255, 48).astype(np.uint8).reshape(6, 8)


@pytest.mark.parametrize(("suffix", "dtype"), [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("pgm", "<u2")])
def test_sixteen_bits_become_eight_by_dividing_by_257(tmp_path, suffix, dtype):
    found = pair_of(tmp_path, Image.fromarray(RAMP.astype(dtype)), suffix=suffix)
    assert np.array_equal(found[..., 0], np.round(RAMP / 257))


def test_sixteen_bits_beside_colour(tmp_path):
    classes(tmp_path / "mine", ("a",))
    for i in range(3):
        picture(tmp_path / "mine" / "b" / f"{i}.png", Image.fromarray(RAMP[:, :5]))
    data = loads(tmp_path / "mine")
    assert (data.x_train == np.round(RAMP[:, :5, None] / 257)).all((1, 2, 3)).sum() >= 2


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_thirty_two_bits_have_no_white_and_are_refused(tmp_path, dtype):
    folder = classes(tmp_path / "mine")
    picture(folder / "b" / "9.tif", Image.fromarray(np.linspace(0, 1, 30).reshape(6, 5).astype(dtype)))
    with pytest.raises(
        ValueError, match=r"9\.tif cannot be decoded \(it holds 32-bit numbers, which have no fixed white; save"
    ):
        load_dataset(folder)


def test_one_bit_is_black_and_white(tmp_path):
    found = pair_of(tmp_path, Image.fromarray(GREY8 > 99))
    assert np.array_equal(found[..., 0], np.where(GREY8 > 99, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L"])
def test_transparent_pixels_are_white(tmp_path, mode):
    rgba = Image.fromarray(np.dstack([np.full((6, 8, 3), 40, np.uint8), np.where(GREY8 > 99, 255, 0).astype(np.uint8)]))
    if mode in ("RGBA", "LA"):
        found = pair_of(tmp_path, rgba.convert(mode))
    else:
        flat = Image.fromarray(np.where(GREY8 > 99, 1, 0).astype(np.uint8), "L" if mode == "L" else None)
        if mode != "L":
            flat = flat.convert("P") if mode == "P" else flat
            flat.putpalette([0, 0, 0, 40, 40, 40])
        else:
            flat = flat.point([0] + [40] * 255)
        found = pair_of(tmp_path, flat, transparency=0)
    assert found.shape[-1] == (1 if mode in ("LA", "L") else 3)
    assert np.array_equal(found[..., 0], np.where(GREY8 > 99, 40, 255))


def test_palettes_and_cmyk_are_colour(tmp_path):
    few = Image.fromarray(COLOUR[0]).quantize(16)
    assert np.array_equal(pair_of(tmp_path / "p", few), np.asarray(few.convert("RGB")))
    cmyk = Image.fromarray(COLOUR[0]).convert("CMYK")
    assert np.array_equal(pair_of(tmp_path / "c", cmyk, suffix="tif"), COLOUR[0])


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_a_photo_is_turned_as_its_exif_says(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    smooth = np.zeros((16, 24, 3), np.uint8)
    smooth[:8] = 255
    options = {"lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    found = pair_of(tmp_path, Image.fromarray(smooth), suffix=suffix, exif=exif, **options)
    assert np.abs(found.astype(int) - np.rot90(smooth, -1)).max() <= 4


# --- parquet


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def table(rows=range(6), **columns):
    given = {"image": [{"bytes": png(COLOUR[i]), "path": ""} for i in rows], "label": [i % 2 for i in rows]}
    return pyarrow.table({name: column for name, column in (given | columns).items() if column is not None})


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(content, path)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train.parquet"], "test.parquet"),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], "test-00000-of-00001.parquet"),
        (["data/train-00000-of-00002-0a.parquet", "data/train-00001-of-00002-2c.parquet"], "data/test-00000-of-00001.parquet"),
        (["plain_text/train-00000-of-00001.parquet"], "plain_text/validation-00000-of-00001.parquet"),
        (["train/0000.parquet", "train/0001.parquet"], "test/0000.parquet"),
        (["default/train/0000.parquet", "default/train/0001.parquet"], "default/validation/0000.parquet"),
        (["Train.parquet"], "val.parquet"),
    ],
)  # fmt: skip
def test_parts_of_parquet(tmp_path, train, test):
    each = 6 // len(train)
    for i, name in enumerate(train):
        write(tmp_path / name, table(range(i * each, (i + 1) * each)))
    write(tmp_path / test, table(range(6, 9)))
    data = loads(tmp_path)
    assert np.array_equal(data.x_train, COLOUR[:6])
    assert np.array_equal(data.x_test, COLOUR[6:9])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train.parquet"], r"has no test\.parquet or parts of it; it holds train\.parquet\.$"),
        (["test.parquet"], r"has no train\.parquet or parts of it; it holds test\.parquet"),
        (["train-00000-of-00002.parquet", "test.parquet"], "each part of train once, not train-00000-of-00002"),
        (["train.parquet", "train-00000-of-00001.parquet", "test.parquet"], "each part of train once, not train-0"),
        (["a/train.parquet", "b/train.parquet"], "holds data sets in .*/a, .*/b; name one of them"),
        (["some.parquet"], r"must hold images in one folder a class, or train\.parquet .*; it holds some\.parquet"),
    ],
)
def test_parquet_parts_that_are_missing_are_one_sentence(tmp_path, files, message):
    for name in files:
        write(tmp_path / "mine" / name, table())
    refused(tmp_path / "mine", message)


def test_validation_beside_test_is_left_out_and_said(tmp_path):
    for side in ("train", "test", "validation"):
        write(tmp_path / f"{side}.parquet", table())
    with pytest.warns(UserWarning, match=r"left out: validation\.$"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"label": list("bababa")}, ("a", "b")),
        ({"label": pyarrow.array(list("bababa")).dictionary_encode()}, ("a", "b")),
        ({"label": [True, False] * 3}, ("False", "True")),
        ({"label": [1.0, 0.0] * 3}, ("0", "1")),
        ({"label": pyarrow.array([1, 0] * 3, pyarrow.uint8())}, ("0", "1")),
        ({"label": None, "labels": [1, 0] * 3}, ("0", "1")),
        ({"label": None, "Class": ["b", "a"] * 3, "id": range(6)}, ("a", "b")),
    ],
)
def test_labels_of_parquet(tmp_path, labels, expected):
    for side in ("train", "test"):
        write(tmp_path / f"{side}.parquet", table(**labels))
    data = loads(tmp_path)
    assert data.classes == expected
    assert data.y_train.dtype == np.int64
    assert np.array_equal(data.y_train, [1, 0] * 3)


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
@pytest.mark.parametrize("name", ["img", "picture"])
def test_plain_binary_images(tmp_path, kind, name):
    for side in ("train", "test"):
        write(
            tmp_path / f"{side}.parquet", table(image=None, **{name: pyarrow.array([png(x) for x in COLOUR[:6]], kind)})
        )
    assert np.array_equal(loads(tmp_path).x_train, COLOUR[:6])


def test_parquet_is_decoded_alike_on_both_sides(tmp_path):
    write(tmp_path / "train.parquet", table(image=[png(grey(i)) for i in range(6)]))
    write(tmp_path / "test.parquet", table())
    data = loads(tmp_path)
    assert np.array_equal(data.x_train[0], np.repeat(grey(0)[..., None], 3, -1))
    write(tmp_path / "test.parquet", table(image=[png(COLOUR[i, :3]) for i in range(6)]))
    refused(tmp_path, "test.parquet, image 0, has 3 x 5 pixels where .*train.parquet, image 0, has 6 x 5")


def test_any_column_can_be_the_labels(tmp_path):
    features = {"info": {"features": {"kind": {"names": ["x", "y"]}}}}
    for side in ("train", "test"):
        content = table(label=None, kind=[0, 1] * 3)
        write(tmp_path / f"{side}.parquet", content.replace_schema_metadata({"huggingface": json.dumps(features)}))
    refused(tmp_path, r"one of labels, and has image \(struct<.*\), kind \(int64\)\.$")
    assert load_dataset(tmp_path, label="kind").classes == ("x", "y")


# --- npz


def npz(tmp_path, x_train, y_train=None, x_test=None, y_test=None):
    y_train = np.arange(len(x_train)) % 2 if y_train is None else y_train
    x_test, y_test = (x_train if x_test is None else x_test), (y_train if y_test is None else y_test)
    np.savez(tmp_path / "mine.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return tmp_path / "mine.npz"


IMAGES = RNG.integers(0, 256, (10, 6, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (IMAGES, IMAGES),
        (IMAGES[..., 0], IMAGES[..., :1]),  # as Keras's mnist.npz
        (np.moveaxis(IMAGES, 3, 1), IMAGES),
        (np.moveaxis(IMAGES[..., :1], 3, 1), IMAGES[..., :1]),
        (IMAGES[:, :3, :, :], IMAGES[:, :3, :, :]),  # (n, 3, h, 3): channels are last
        (IMAGES.astype(np.float32), IMAGES),
        (IMAGES.astype(np.int64)[..., 0], IMAGES[..., :1]),
        (IMAGES.reshape(10, -1), IMAGES.reshape(10, -1) / np.float32(255)),
        (IMAGES.reshape(10, -1).astype(float), IMAGES.reshape(10, -1) / np.float32(255)),
        (IMAGES[..., 0] // 16, IMAGES[..., :1] // 16),
        (IMAGES.reshape(10, -1) // 16, (IMAGES.reshape(10, -1) // 16).astype(np.float32)),  # digits of 0 to 16
        (IMAGES / 255, (IMAGES / 255).astype(np.float32)),
        (IMAGES.reshape(10, -1) * 10.0, (IMAGES.reshape(10, -1) * np.float32(10))),
        (IMAGES.astype(np.int64).reshape(10, -1) - 1000, (IMAGES.astype(np.float32).reshape(10, -1) - 1000)),
        (IMAGES[:, 0, :, 0] > 99, (IMAGES[:, 0, :, 0] > 99).astype(np.float32)),
    ],
)
def test_what_an_npz_holds_as_pixels_and_as_features(tmp_path, stored, expected):
    data = loads(npz(tmp_path, stored))
    assert (data.x_train.dtype, data.x_train.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(data.x_train, expected)
    assert np.array_equal(data.x_test, expected)
    assert data.x_train.flags.c_contiguous


def test_images_as_keras_stores_them_are_learned(tmp_path):
    """Raw pixels of up to 255 make SGD at the default learning rate diverge."""
    from samlib.training import train_group

    y = np.arange(60) % 2
    x = (100 * y[:, None, None] + RNG.integers(0, 100, (60, 8, 8))).astype(np.uint8)
    data = loads(npz(tmp_path, x, y.astype(np.uint8)[:, None]))
    from samlib import Experiment

    recipe = Experiment(dataset="mine", hidden=(8,), epochs=10, batch_size=16).model_dump()
    found = train_group(recipe, data.arrays(), range(2))
    assert not found["diverged"].any()
    assert found["test_accuracy"].min() > 0.9


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": np.full((10, 4), 1e39)}, "x_train holds values that are not finite, or too large for float32"),
        ({"x_test": np.full((10, 4), -1e39)}, "x_test holds values that are not finite"),
        ({"x_train": np.full((10, 4), "a")}, "x_train must hold numbers, not texts"),
        ({"x_train": np.ones((10, 4), complex)}, r"x_train\.npy must hold numbers, not complex128 \(10, 4\)"),
        ({"x_train": np.full((10, 4), None)}, r"x_train\.npy must hold numbers, not object"),
        ({"x_train": np.ones((10, 4), "M8[s]")}, r"x_train\.npy must hold numbers, not datetime64"),
        ({"x_train": np.ones(10)}, "x_train .* do not fit together"),
        ({"x_train": np.ones(())}, "x_train .* do not fit together"),
        ({"x_train": np.ones((10, 0)), "x_test": np.ones((10, 0))}, r"x_train \(10, 0\) .* do not fit together"),
        ({"x_train": np.ones((0, 4)), "y_train": np.ones(0, int)}, "y_train must be one label for each example"),
        ({"y_train": np.zeros(10, int), "y_test": np.zeros(10, int)}, "10 of one class; give at least two classes"),
        ({"y_train": np.eye(2, dtype=int)[np.arange(10) % 2]}, r"y_train must be one label .* not \(10, 2\)"),
        ({"y_train": np.arange(10) * 10**9}, r"y_train must hold whole numbers from 0 to 65535"),
        ({"y_train": np.full(10, np.nan)}, "y_train must hold whole numbers"),
        ({"y_train": np.full(10, np.inf)}, "y_train must hold whole numbers"),
        ({"y_train": np.full(10, "a")}, "y_test must hold|y_train must hold"),
        ({"x_train": np.ones((10, 4, 4, 2), np.uint8), "x_test": np.ones((10, 4, 4, 2), np.uint8)}, "1 or 3 channels"),
    ],
)
def test_an_npz_that_is_refused(tmp_path, arrays, message):
    given = {
        "x_train": np.ones((10, 4)),
        "y_train": np.arange(10) % 2,
        "x_test": np.ones((10, 4)),
        "y_test": np.arange(10) % 2,
    }
    np.savez(tmp_path / "mine.npz", **given | arrays)
    refused(tmp_path / "mine.npz", message)


def test_texts_and_whole_floats_are_labels_of_an_npz(tmp_path):
    data = loads(npz(tmp_path, IMAGES, np.array(["dog", "cat"] * 5)))
    assert (data.classes, data.y_train.tolist()) == (("cat", "dog"), [1, 0] * 5)
    assert loads(npz(tmp_path, IMAGES, np.arange(10) % 2.0)).classes == ("0", "1")
    assert loads(npz(tmp_path, IMAGES, np.arange(10) % 2 == 1)).classes == ("False", "True")


@pytest.mark.parametrize("at", [0, 10, 0.3, 0.7, 0.999])
def test_a_truncated_npz_is_one_sentence(tmp_path, at):
    path = npz(tmp_path, IMAGES)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(at * len(raw)) if at < 1 else at])
    refused(path, r"mine\.npz is not an \.npz with x_train, y_train, x_test and y_test: \w.*\.$")


def test_an_npz_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "mine.npz", images=IMAGES, labels=np.arange(10))
    refused(tmp_path / "mine.npz", "it holds images, labels, and no x_train")
    np.savez(tmp_path / "mine.npz", x_train=IMAGES, y_train=np.arange(10), x_test=IMAGES)
    refused(tmp_path / "mine.npz", "it holds x_test, x_train, y_train, and no y_test")


def header(shape, descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**62, 2**62), (-10, -4), (10, 5)])
def test_a_header_that_claims_what_the_file_has_not_is_refused_before_it_is_read(tmp_path, shape):
    path = npz(tmp_path, np.ones((10, 4), np.float32))
    with zipfile.ZipFile(path) as file:
        rest = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, raw in rest.items():
            file.writestr(name, header(shape) + bytes(160) if name == "x_train.npy" else raw)
    refused(path, r"x_train\.npy (claims|must hold)")


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FEW", 1 << 20)
    path = tmp_path / "mine.npz"
    given = {"y_train": np.arange(2), "x_test": np.zeros((2, 1 << 21), np.uint8), "y_test": np.arange(2)}
    np.savez_compressed(path, x_train=np.zeros((2, 1 << 21), np.uint8), **given)
    refused(path, r"x_train\.npy claims uint8 \(2, 2097152\), and holds 4194304 of at most 2\d{6} bytes")
