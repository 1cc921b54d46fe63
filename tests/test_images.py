"""Image sets: decoded once, exactly, into a cache that processes share; damaged files are one sentence."""

import io
import json
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from samlib import load_dataset
from samlib.data import images
from samlib.data.files import PUBLISHED

HERE = Path(__file__).parents[2] / "shared" / "data"
LOCAL = os.environ.get("SAMLIB_DATA") or (str(HERE) if HERE.is_dir() else None)
RNG = np.random.default_rng(0)
COARSE = PUBLISHED["cifar100-coarse"]
PIXELS = {"train": RNG.integers(0, 256, (24, 6, 5, 3), np.uint8), "test": RNG.integers(0, 256, (9, 6, 5, 3), np.uint8)}
LABELS = {side: np.arange(len(x)) % 4 for side, x in PIXELS.items()}


def encode(pixels, format="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, format, lossless=True)
    return file.getvalue()


def write_parquet(folder, *, change=lambda side, columns: columns, names=True):
    """A data set in the Hugging Face layout, with fine and coarse labels."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {"fine_label": {"names": list("abcd")}, "coarse_label": {"names": ["ab", "cd"]}}
    for side, pixels in PIXELS.items():
        columns = {
            "img": [{"bytes": encode(x, "WEBP"), "path": "x.webp"} for x in pixels],
            "fine_label": LABELS[side],
            "coarse_label": LABELS[side] // 2,
        }
        table = pyarrow.table(change(side, columns))
        if names:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pyarrow.parquet.write_table(table, folder / f"{side}.parquet")
    return folder


def write_folder(folder, sides=("train", "test")):
    for side in sides:
        for i, (pixels, label) in enumerate(zip(PIXELS[side or "train"], LABELS[side or "train"], strict=True)):
            path = folder / side / f"class {label}" / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(pixels))
    return folder


def test_a_parquet_folder_by_path(tmp_path):
    found = load_dataset(write_parquet(tmp_path / "mine"))
    assert np.array_equal(found.x_train, PIXELS["train"])
    assert np.array_equal(found.x_test, PIXELS["test"])
    assert np.array_equal(found.y_test, LABELS["test"])
    assert found.classes == tuple("abcd")
    np.testing.assert_allclose(found.mean, PIXELS["train"].mean((0, 1, 2)) / 255, atol=1e-4)
    np.testing.assert_allclose(found.std, PIXELS["train"].std((0, 1, 2)) / 255, atol=1e-4)
    coarse = load_dataset(tmp_path / "mine", label="coarse_label", pool=10)
    assert np.array_equal(coarse.y_train, LABELS["train"][:10] // 2)
    assert (coarse.classes, coarse.mean) == (("ab", "cd"), found.mean)
    assert coarse.checksum != found.checksum
    with pytest.raises(ValueError, match=r"labels 'size', and has coarse_label \(int64\), fine_label \(int64\), img"):
        load_dataset(tmp_path / "mine", label="size")
    small = load_dataset(tmp_path / "mine", image_size=4)
    assert small.x_train.shape == (24, 4, 4, 3)
    given = found.arrays()
    assert (given["n_classes"], given["mean"].dtype, len(given)) == (4, np.float32, 7)


def test_classes_without_names_are_numbers_and_image_is_another_name_of_img(tmp_path):
    def change(side, columns):
        return {"image": columns["img"], "label": columns["fine_label"].astype(np.int32)}

    found = load_dataset(write_parquet(tmp_path / "mine", change=change, names=False))
    assert found.classes == ("0", "1", "2", "3")
    assert found.y_train.dtype == np.int64


def in_order():
    """What canonical order makes of PIXELS and LABELS: by hand, one class after the other."""
    import hashlib

    sides = []
    for side, x in PIXELS.items():
        classes = [
            sorted((hashlib.sha256(i.tobytes()).digest(), k) for k, i in enumerate(x) if LABELS[side][k] == c)
            for c in range(4)
        ]
        rows = [members[place][1] for place in range(len(x)) for members in classes if place < len(members)]
        sides += [x[rows], LABELS[side][rows]]
    return sides


def test_a_name_is_taken_from_the_folder_samlib_data_names_and_putin_order(tmp_path, monkeypatch):
    write_parquet(tmp_path / "data" / "cifar100")
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path / "data"))
    with pytest.raises(
        ValueError, match=r"cifar100 parquet is not the published cifar100: the sha256 of its arrays is"
    ):
        load_dataset("cifar100")
    assert not list((tmp_path / "cache").rglob("*.npy"))
    monkeypatch.delitem(PUBLISHED["cifar100"], "arrays")
    fine, coarse = load_dataset("cifar100"), load_dataset("cifar100-coarse")
    for found, expected in zip((fine.x_train, fine.y_train, fine.x_test, fine.y_test), in_order(), strict=True):
        assert np.array_equal(found, expected)
    assert (fine.classes, coarse.classes) == (tuple("abcd"), tuple(COARSE["names"]))
    assert np.array_equal(coarse.y_train, np.array(COARSE["superclass"])[fine.y_train])
    assert fine.source.startswith("cifar100 parquet sha256 train ")
    assert len(list((tmp_path / "cache" / "data").glob("cifar100-*/facts.json"))) == 1  # one decoding serves both
    with pytest.raises(ValueError, match="image_size and label are for folders of images"):
        load_dataset("cifar100", image_size=8)


def test_the_order_of_classes_of_unequal_sizes():
    x, y = RNG.integers(0, 256, (9, 2, 2, 1), np.uint8), np.array([2, 2, 2, 2, 0, 0, 1, 2, 1])
    order = images.canonical_order(x, y)
    assert y[order].tolist() == [0, 1, 2, 0, 1, 2, 2, 2, 2]
    assert sorted(order) == list(range(9))
    mixed = RNG.permutation(9)
    assert np.array_equal(x[mixed][images.canonical_order(x[mixed], y[mixed])], x[order])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.skipif(not LOCAL or not (Path(LOCAL) / "cifar10").is_dir(), reason="no CIFAR files (SAMLIB_DATA)")
def test_the_order_is_that_of_the_files_made_for_machines_without_a_network(monkeypatch, name):
    monkeypatch.setenv("SAMLIB_DATA", LOCAL)
    data = load_dataset(name)  # its checksum is pinned, and was measured on the files' own order
    as_it_lies = load_dataset(Path(LOCAL) / name)
    assert data.checksum == as_it_lies.checksum
    assert np.array_equal(data.y_train, np.arange(50_000) % len(data.classes))
    mixed = RNG.permutation(10_000)  # as another user's files may lie
    x, y = data.x_test[mixed], data.y_test[mixed]
    assert np.array_equal(x[images.canonical_order(x, y)], data.x_test)


def test_decoding_is_done_once_and_mapped(tmp_path, monkeypatch):
    folder = write_parquet(tmp_path / "mine")
    first = load_dataset(folder)
    monkeypatch.setattr(images, "_decode", lambda *_: pytest.fail("decoded again"))
    again = load_dataset(folder)
    assert again.checksum == first.checksum
    base = again.x_train
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        again.x_train[0] = 0


def test_a_changed_source_is_decoded_again(tmp_path):
    folder = write_parquet(tmp_path / "mine")
    first = load_dataset(folder)
    write_parquet(folder, change=lambda side, columns: columns | {"fine_label": (columns["fine_label"] + 1) % 4})
    assert np.array_equal(load_dataset(folder).y_train, (first.y_train + 1) % 4)


def _load(folder):
    return load_dataset(folder).checksum


def test_processes_at_once_share_one_decoding(tmp_path):
    folder = write_parquet(tmp_path / "mine")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert len(set(pool.map(_load, [folder] * 4))) == 1
    assert len(list((tmp_path / "cache" / "data").glob("mine-*/facts.json"))) == 1
    assert not list((tmp_path / "cache" / "data").glob("*.partial"))


def test_what_a_killed_decoding_left_is_swept_up(tmp_path):
    folder = write_parquet(tmp_path / "mine")
    first = load_dataset(folder)
    home = next((tmp_path / "cache" / "data").glob("mine-*/"))
    home.rename(home.with_suffix(".partial"))
    (home.with_suffix(".partial") / "x_train.npy").write_bytes(b"half")
    assert load_dataset(folder).checksum == first.checksum
    assert not home.with_suffix(".partial").exists()


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "facts"])
def test_a_damaged_decoded_copy_is_one_sentence(tmp_path, damage):
    folder = write_parquet(tmp_path / "mine")
    load_dataset(folder)
    home = next((tmp_path / "cache" / "data").glob("mine-*/"))
    path = home / ("facts.json" if damage == "facts" else "x_train.npy")
    raw = bytearray(path.read_bytes())
    path.unlink()
    if damage == "flip":
        raw[-1] ^= 1
    if damage != "gone":
        path.write_bytes(raw[: len(raw) // 2] if damage in ("cut", "facts") else raw)
    with pytest.raises(ValueError, match=r"The decoded copy .* is damaged .* delete that folder and run again\.$"):
        load_dataset(folder)


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAMLIB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"The cache .* cannot be written .*; set SAMLIB_CACHE\."):
        load_dataset(write_parquet(tmp_path / "mine"))


def _broken(side, columns):
    columns["img"][3]["bytes"] = columns["img"][3]["bytes"][:30]
    return columns


def _bomb(side, columns):
    header = encode(np.zeros((1, 1, 3), np.uint8))
    # the size in a PNG's header, with its checksum
    import struct
    import zlib

    size = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    columns["img"][0]["bytes"] = header[:12] + size + struct.pack(">I", zlib.crc32(size)) + header[33:]
    return columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_broken, r"train\.parquet, image 3, cannot be decoded"),
        (_bomb, r"train\.parquet, image 0, cannot be decoded .*decompression bomb"),
        (
            lambda side, c: {"fine_label": c["fine_label"]},
            "needs one column of encoded .*, and has fine_label \\(int64",
        ),
        (lambda side, c: {"img": c["img"]}, "one of labels, and has img \\(struct<bytes: binary"),
        (lambda side, c: c | {"fine_label": c["fine_label"] - 1}, "fine_label, y_train must hold .* from -1 to 2"),
        (
            lambda side, c: c | {"fine_label": c["fine_label"] + 1},
            "y_train spans 1 to 4, which its 4 class names do not",
        ),
        (lambda side, c: c | {"fine_label": c["fine_label"] * 0 + (side == "test")}, "y_test holds class b, which"),
        (lambda side, c: c | {"fine_label": c["fine_label"] * 0}, "24 of one class"),
        (lambda side, c: c | {"fine_label": [None, *c["fine_label"][1:]]}, "1 of its rows have no fine_label"),
        (lambda side, c: c | {"fine_label": c["fine_label"] + 0.5}, r"must hold .* float64 from 0\.5 to 3\.5"),
        (lambda side, c: {k: v[:0] for k, v in c.items()}, "needs one column of encoded images"),
        (lambda side, c: c | {"img": [{"bytes": None, "path": ""}] * len(c["img"])}, "row 0 has no image"),
        (
            lambda side, c: (
                c | {"img": [{"bytes": encode(PIXELS[side][0][: 6 - i % 2])} for i in range(len(c["img"]))]}
            ),
            "image 1, has 5 x 5 pixels where .*train.parquet, image 0, has 6 x 5; give image_size",
        ),
    ],
)
def test_a_bad_parquet_is_one_sentence_and_leaves_nothing(tmp_path, change, message):
    folder = write_parquet(tmp_path / "mine", change=change)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]


@pytest.mark.parametrize("at", [0, 0.5, 0.99])
def test_a_truncated_parquet_is_one_sentence(tmp_path, at):
    folder = write_parquet(tmp_path / "mine")
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[: int(at * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"train\.parquet is damaged or has another layout: \w.*\w\.$"):
        load_dataset(folder)
    (folder / "test.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no test\.parquet"):
        load_dataset(folder)


def test_an_image_folder_with_train_and_test(tmp_path):
    found = load_dataset(write_folder(tmp_path / "mine"))
    assert found.classes == tuple(f"class {c}" for c in range(4))
    for side, x, y in (("train", found.x_train, found.y_train), ("test", found.x_test, found.y_test)):
        where = [next(i for i, p in enumerate(PIXELS[side]) if np.array_equal(p, image)) for image in x]
        assert sorted(where) == list(range(len(PIXELS[side])))
        assert where != sorted(where)  # so that a pool is a fair sample
        assert np.array_equal(LABELS[side][where], y)
    assert load_dataset(tmp_path / "mine", image_size=3).x_train.shape == (24, 3, 3, 3)


def test_an_image_folder_without_train_and_test_is_split_once(tmp_path):
    found = load_dataset(write_folder(tmp_path / "mine", sides=("",)))
    assert (found.x_train.shape, found.x_test.shape) == ((20, 6, 5, 3), (4, 6, 5, 3))
    assert len(np.unique(np.concatenate([found.x_train, found.x_test]), axis=0)) == 24
    assert load_dataset(tmp_path / "mine").checksum == found.checksum


def test_grey_images_have_one_channel(tmp_path):
    for c in range(2):
        (tmp_path / "grey" / str(c)).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "grey" / str(c) / f"{i}.png").write_bytes(encode(PIXELS["train"][i + 4 * c, ..., 0]))
    found = load_dataset(tmp_path / "grey")
    assert found.x_train.shape == (7, 6, 5, 1)
    assert len(found.mean) == 1


def test_bad_image_folders(tmp_path):
    with pytest.raises(ValueError, match="must hold images in one folder a class, .*; it holds nothing"):
        load_dataset(tmp_path)
    folder = write_folder(tmp_path / "mine")
    (folder / "train" / "class 1" / "bad.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"bad\.png cannot be decoded \(it is no image of a known format\)\.$"):
        load_dataset(folder)
    (folder / "train" / "class 1" / "bad.png").write_bytes(encode(np.zeros((4, 4, 3), np.uint8)))
    with pytest.raises(ValueError, match=r"bad\.png has 4 x 4 pixels where .*\.png has 6 x 5; give image_size\.$"):
        load_dataset(folder)
    with pytest.raises(ValueError, match="has no label 'fine'"):
        load_dataset(folder, label="fine")


def test_statistics_are_those_of_the_pixels():
    mean, std = images.statistics(PIXELS["train"])
    np.testing.assert_allclose(mean, (PIXELS["train"] / 255).mean((0, 1, 2)), atol=6e-5)
    np.testing.assert_allclose(std, (PIXELS["train"] / 255).std((0, 1, 2)), atol=6e-5)
    assert images.statistics(np.zeros((2, 2, 2, 1), np.uint8)) == ((0.0,), (1.0,))
    between = np.repeat(np.uint8([51, 0]), [29, 3]).reshape(
        -1, 1, 1, 1
    )  # the mean is .18125; checksums hold how it is rounded
    assert images.statistics(between)[0] == (0.1813,)


def test_uint8_images_of_an_npz_stay_as_they_are(tmp_path):
    arrays = {f"{a}_{side}": b[side] for side in PIXELS for a, b in (("x", PIXELS), ("y", LABELS))}
    np.savez(tmp_path / "mine.npz", **arrays)
    found = load_dataset(tmp_path / "mine.npz")
    assert found.x_train.dtype == np.uint8
    assert len(found.mean) == 3


@pytest.mark.slow
@pytest.mark.skipif(
    not LOCAL or not (Path(LOCAL) / "cifar100" / "train.parquet").is_file(),
    reason="no cifar100/train.parquet in the folder that SAMLIB_DATA names",
)
def test_cifar100_as_published(monkeypatch):
    monkeypatch.setenv("SAMLIB_DATA", LOCAL)
    fine, coarse = load_dataset("cifar100"), load_dataset("cifar100-coarse", pool=5000)
    assert (fine.x_train.shape, fine.x_test.shape) == ((50_000, 32, 32, 3), (10_000, 32, 32, 3))
    assert set(np.bincount(fine.y_train)) == {500}
    np.testing.assert_allclose(fine.mean, [0.5071, 0.4865, 0.4409], atol=1e-4)
    np.testing.assert_allclose(fine.std, [0.2673, 0.2564, 0.2762], atol=1e-4)
    assert np.array_equal(coarse.y_train, np.array(COARSE["superclass"])[fine.y_train[:5000]])
    assert coarse.classes == tuple(COARSE["names"])
    assert set(np.bincount(coarse.y_train)) == {250}  # a prefix is balanced
