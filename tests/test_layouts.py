"""Data of one's own: every layout is read, or one sentence says what is missing; plans see the shape that is loaded."""

import io
import json
import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from samlib import load_dataset
from samlib.data import shape_of

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


def grey(i):
    return COLOUR[i, ..., 0]


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


def test_folders_with_files_of_the_same_names_sizes_and_times_are_two(tmp_path):
    checksums = set()
    for number in range(2):
        folder = tmp_path / str(number) / "mine"
        for i in range(6):
            path = picture(folder / "ab"[i % 2] / f"{i}.bmp", COLOUR[6 * number + i])
            os.utime(path, (0, 0))
        checksums.add(loads(folder).checksum)
    assert len(checksums) == 2


def test_a_note_beside_the_unpacked_folder_is_no_layout(tmp_path):
    classes(tmp_path / "mine" / "unpacked")
    (tmp_path / "mine" / "README.txt").write_text("images")
    assert len(loads(tmp_path / "mine").y_train) == 5


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


def test_a_damaged_parquet_names_a_reason(tmp_path):
    """pyarrow's may end in a control character: "don't know what type: \\x0f"."""
    for side in ("train", "test"):
        write(tmp_path / f"{side}.parquet", table())
    raw, said = (tmp_path / "train.parquet").read_bytes(), set()
    for at in range(len(raw) - 60, len(raw)):
        for bits in (0x0F, 0xFF):
            (tmp_path / "train.parquet").write_bytes(raw[:at] + bytes([raw[at] ^ bits]) + raw[at + 1 :])
            try:
                load_dataset(tmp_path)
            except ValueError as error:
                said.add(str(error))
    assert len(said) > 3
    assert all(one.isprintable() and one.endswith(".") and not one.endswith((": .", "..")) for one in said)


def test_any_column_can_be_the_labels(tmp_path):
    features = {"info": {"features": {"kind": {"names": ["x", "y"]}}}}
    for side in ("train", "test"):
        content = table(label=None, kind=[0, 1] * 3)
        write(tmp_path / f"{side}.parquet", content.replace_schema_metadata({"huggingface": json.dumps(features)}))
    refused(tmp_path, r"one of labels, and has image \(struct<.*\), kind \(int64\)\.$")
    assert load_dataset(tmp_path, label="kind").classes == ("x", "y")


def test_bytes_inside_a_nested_struct_are_no_images(tmp_path):
    for side in ("train", "test"):
        meta = [{"more": {"bytes": b"x"}} for _ in range(6)]
        write(tmp_path / f"{side}.parquet", table(photo=table()["image"].to_pylist(), image=None, meta=meta))
    assert load_dataset(tmp_path).x_train.ndim == 4
