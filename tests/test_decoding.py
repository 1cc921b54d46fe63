"""What becomes of pixels: one rule over both sides, eight bits, upright, on white; and what an .npz holds."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_layouts import COLOUR, RNG, classes, grey, loads, picture, refused

from samlib import load_dataset
from samlib.data import shape_of, tables

# --- what becomes of pixels


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
    with pytest.raises(ValueError, match=r"9\.tif cannot be decoded \(it holds 32-bit numbers"):
        shape_of(str(folder))


@pytest.mark.parametrize("size", [0, -3, 2.5, "x"])
def test_a_size_that_no_image_has_is_refused_by_its_name(tmp_path, size):
    folder = classes(tmp_path / "mine")
    for reads in (load_dataset, shape_of):
        with pytest.raises(ValueError, match="^image_size .*mine"):
            reads(str(folder), image_size=size)


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
        ({"x_train": np.ones((10, 4), complex)}, "x_train must hold numbers, not complex128"),
        ({"x_train": np.full((10, 4), None)}, "mine.npz is not an .npz .*Object arrays cannot be loaded"),
        ({"x_train": np.ones((10, 4), "M8[s]")}, "x_train must hold numbers, not datetime64"),
        ({"x_train": np.ones(10)}, "x_train .* do not fit together"),
        ({"x_train": np.ones(())}, "x_train .* do not fit together"),
        ({"x_train": np.ones((10, 0)), "x_test": np.ones((10, 0))}, r"x_train \(10, 0\) .* do not fit together"),
        ({"x_train": np.ones((0, 4)), "y_train": np.ones(0, int)}, "y_train must be one label for each example"),
        ({"y_train": np.zeros(10, int), "y_test": np.zeros(10, int)}, "10 of one class; give at least two classes"),
        ({"y_train": np.eye(2, dtype=int)[np.arange(10) % 2]}, r"y_train must be one label .* has shape \(10, 2\)"),
        ({"y_train": np.arange(10) * 10**9}, r"y_train must hold whole numbers from 0 to 65535"),
        ({"y_train": np.full(10, np.nan)}, "y_train must hold whole numbers"),
        ({"y_train": np.full(10, np.inf)}, "y_train must hold whole numbers"),
        (
            {"x_train": np.full((10, 4), 200, np.uint8), "x_test": np.full((10, 4), 0.8)},
            "x_train is uint8 and x_test f",
        ),
        ({"y_train": np.full(10, b"a")}, r"y_train must hold whole numbers from 0 to 65535, or texts, not \|S1\.$"),
        ({"y_train": np.full(10, "a")}, "labels of one side are texts and those of the other are not"),
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
    for kind in (np.float16, np.float32, float):
        assert loads(npz(tmp_path, IMAGES, (np.arange(10) % 2).astype(kind))).classes == ("0", "1")
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
    refused(path, r"mine\.npz is not an \.npz with x_train, .*: \w.*\.$")


def test_a_zip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FEW", 1 << 20)
    path = tmp_path / "mine.npz"
    given = {"y_train": np.arange(2), "x_test": np.zeros((2, 1 << 21), np.uint8), "y_test": np.arange(2)}
    np.savez_compressed(path, x_train=np.zeros((2, 1 << 21), np.uint8), **given)
    refused(path, r"x_train would take 4194\d{3} bytes, more than the 2\d{6} that are read")
