"""Data sets: what is published is loaded; what is damaged or hostile is refused in a sentence and leaves nothing behind."""

import doctest
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samlib import Experiment, data, load_dataset
from samlib.data import files, generated, shape_of
from samlib.data.files import PUBLISHED


def published(patch, name="location30", url=None, sha256=None):
    """Let another address or checksum stand for the published one."""
    for field, value in (("url", url), ("sha256", sha256)):
        if value:
            patch.setitem(PUBLISHED[name], field, value)


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A function that writes a Location-30 archive into a SAMLIB_DATA folder, by default with the checksum it then has."""

    def write(entries, *, trusted=True, cut=None):
        import pooch

        folder = tmp_path / "data" / "location30"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "dataset_location.tgz"
        with tarfile.open(path, "w:gz") as tar:
            for entry, content in entries:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        if cut:
            path.write_bytes(path.read_bytes()[:cut])
        if trusted:
            published(monkeypatch, sha256=pooch.file_hash(str(path)))
        monkeypatch.setenv("SAMLIB_DATA", str(tmp_path / "data"))
        return path

    return write


def entry(name, **fields):
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_digits_is_whole_and_split_once():
    digits = load_dataset("digits")
    assert (digits.x_train.shape, digits.x_test.shape, len(digits.classes)) == ((1437, 8, 8), (360, 8, 8), 10)
    assert digits.x_train.dtype == np.float32
    assert 0 <= digits.x_train.min() < digits.x_train.max() == 1
    both = np.concatenate([digits.x_train, digits.x_test])
    from sklearn.datasets import load_digits

    assert sorted(map(bytes, both)) == sorted(map(bytes, (load_digits().images / 16).astype(np.float32)))
    assert load_dataset("digits").checksum == digits.checksum
    assert load_dataset("digits", pool=100).checksum != digits.checksum


def test_location30_as_published(public):
    location = public("location30")
    assert (location.x_train.shape, location.x_test.shape, len(location.classes)) == ((4010, 446), (1000, 446), 30)
    y = np.concatenate([location.y_train, location.y_test])
    counts = np.bincount(y)
    assert (counts.min(), counts.max(), len(counts)) == (97, 308, 30)
    assert set(np.unique(location.x_train)) == {0, 1}
    assert len(np.unique(np.concatenate([location.x_train, location.x_test]), axis=0)) == 5010


def test_arrays_are_frozen():
    digits = load_dataset("digits")
    with pytest.raises(ValueError, match="read-only"):
        digits.x_train[0] = 1


def test_location30_format(archive):
    rows = "".join(f'"{1 + i % 30}",' + ",".join(str((i + j) % 2) for j in range(4)) + "\n" for i in range(1100))
    archive([(entry("bangkok"), rows.encode())])
    location = load_dataset("location30")
    assert location.x_train.shape == (100, 4)
    assert set(np.concatenate([location.y_train, location.y_test])) == set(range(30))


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("../bangkok"), b'"1",0\n')],
        [(entry("/bangkok"), b'"1",0\n')],
        [(entry("bangkok", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")],
        [(entry("bangkok", type=tarfile.LNKTYPE, linkname="elsewhere"), b"")],
        [(entry("bangkok"), b'"1",0\n'), (entry("../../evil"), b"x")],
        [(entry("bangkok", type=tarfile.DIRTYPE), b"")],
        [],
    ],
    ids=["traversal", "absolute", "symlink", "hardlink", "second file", "folder", "empty"],
)
def test_a_hostile_archive_is_refused_even_with_a_matching_checksum(archive, entries, tmp_path):
    archive(entries)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must hold one plain file 'bangkok'"):
        load_dataset("location30")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_with_another_checksum_is_refused(archive, tmp_path):
    path = archive([(entry("bangkok"), b'"1",0\n')], trusted=False)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"is not the published location30: its sha256 is [0-9a-f]{64}, not") as error:
        load_dataset("location30")
    assert str(path) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("cut", [5, 60])
def test_a_truncated_archive_is_refused(archive, cut):
    archive([(entry("bangkok"), bytes(range(256)) * 20)], cut=cut)
    with pytest.raises(ValueError, match="is damaged"):
        load_dataset("location30")


@settings(max_examples=20, deadline=None)
@given(at=st.integers(0, 120), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes_the_checksum(at, bit, tmp_path_factory):
    import pooch

    folder = tmp_path_factory.mktemp("flip")
    path = folder / "location30" / "dataset_location.tgz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        info = entry("bangkok", size=6)
        tar.addfile(info, io.BytesIO(b'"1",0\n'))
    content = bytearray(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        published(patch, sha256=pooch.file_hash(str(path)))
        patch.setenv("SAMLIB_DATA", str(folder))
        content[at % len(content)] ^= 1 << bit
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not the published"):
            load_dataset("location30")


def test_a_failed_download_says_what_to_do_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("SAMLIB_DATA", raising=False)
    published(monkeypatch, url="http://127.0.0.1:9/dataset_location.tgz")
    with pytest.raises(
        ValueError, match=r"location30 could not be downloaded .*put dataset_location.tgz into \$SAMLIB_DATA"
    ):
        load_dataset("location30")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_download_with_another_checksum_is_refused_and_leaves_nothing(monkeypatch, tmp_path):
    import http.server
    import threading

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"not the file")

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("SAMLIB_DATA", raising=False)
        published(monkeypatch, url=f"http://127.0.0.1:{server.server_port}/dataset_location.tgz")
        with pytest.raises(ValueError, match=r"location30 could not be downloaded .*hash"):
            load_dataset("location30")
        server.shutdown()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_a_damaged_archive_in_the_cache_is_downloaded_again(monkeypatch, tmp_path):
    import hashlib
    import http.server
    import threading
    from functools import partial

    from samlib.data.files import archive_of, checked_file

    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "dataset_location.tgz").write_bytes(b"the file")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "site")
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.delenv("SAMLIB_DATA", raising=False)
        address, sha256 = f"http://127.0.0.1:{server.server_port}", hashlib.sha256(b"the file").hexdigest()
        published(monkeypatch, url=f"{address}/dataset_location.tgz", sha256=sha256)
        kept = archive_of("location30")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(b"half of it")
        assert checked_file("location30") == (kept, sha256)
        server.shutdown()
    assert kept.read_bytes() == b"the file"


def test_an_npz_of_your_own(small_npz):
    small = load_dataset(small_npz)
    assert (small.x_train.shape, small.x_test.shape, small.classes) == ((120, 6), (40, 6), ("0", "1", "2"))
    assert load_dataset(small_npz, pool=50).y_train.shape == (50,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_train": np.zeros(3, int)}, "x_train .* and y_train .* do not fit together"),
        ({"x_test": np.zeros((40, 5))}, "x_test .* and y_test .* do not fit together"),
        ({"x_train": np.full((120, 6), np.nan)}, "x_train holds values that are not finite"),
        ({"y_train": np.full(120, 0.5)}, "y_train must hold whole numbers"),
        ({"y_train": np.full(120, -1)}, "y_train must hold whole numbers from 0"),
        ({"y_train": np.zeros(120, int)}, "y_test holds class 2, which y_train does not"),
        ({"x_train": None}, "is not an .npz with x_train"),
    ],
)
def test_a_bad_npz_is_refused_in_a_sentence(small_npz, tmp_path, change, message):
    with np.load(small_npz) as file:
        arrays = {name: values for name, values in (dict(file) | change).items() if values is not None}
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_dataset(tmp_path / "bad.npz")


def test_other_bad_names(tmp_path):
    with pytest.raises(ValueError, match="dataset 'nothing' is neither one of digits, location30"):
        load_dataset("nothing")
    with pytest.raises(ValueError, match="There is no data set file"):
        load_dataset(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match="is not an .npz"):
        load_dataset(tmp_path / "text.npz")
    with pytest.raises(ValueError, match="pool must lie in 2 to 1437"):
        load_dataset("digits", pool=2000)
    for pool in (2000, 1, 2.5, "x", float("nan")):
        with pytest.raises(ValueError, match="^pool "):
            load_dataset("digits", pool=pool)
    assert len(load_dataset("digits", pool=np.float64(20)).y_train) == 20
    with pytest.raises(ValueError, match="image_size and label are for folders of images, and digits is none"):
        load_dataset("digits", image_size=32)


def test_a_path_from_the_user_s_folder_and_a_suffix_in_capitals(small_npz, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(small_npz, tmp_path / "MINE.NPZ")
    assert load_dataset("~/MINE.NPZ").checksum == load_dataset(small_npz).checksum
    assert shape_of("~/MINE.NPZ") == shape_of(str(small_npz))
    assert Experiment(dataset="~/MINE.NPZ").key == Experiment(dataset=tmp_path / "MINE.NPZ").key


PURCHASE = "".join(f"{1 + i % 100}," + ",".join(str((i >> j) & 1) for j in range(12)) + "\n" for i in range(300))
FEATS = "".join(",".join(str((i >> j) & 1) for j in range(12)) + "\n" for i in range(300))
LABELS = "".join(f"{1 + i % 100}\n" for i in range(300))


def binary_set(folder, monkeypatch, name, files):
    """Write the archive of a set where SAMLIB_DATA will find it, folders and all, as the published ones are made."""
    path = folder / name / f"dataset_{name.removesuffix('100')}.tgz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        for parent in sorted({p for file in files for p in Path(file).parents if p.name}):
            tar.addfile(entry(str(parent), type=tarfile.DIRTYPE))
        for file, text in files.items():
            tar.addfile(entry(file, size=len(text)), io.BytesIO(text.encode()))
    monkeypatch.setenv("SAMLIB_DATA", str(folder))
    monkeypatch.setitem(PUBLISHED[name], "n_test", 60)
    return path


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("purchase100", {"dataset_purchase": PURCHASE}),
        ("texas100", {"texas/100/feats": FEATS, "texas/100/labels": LABELS}),
    ],
)
def test_purchase100_and_texas100_formats(tmp_path, monkeypatch, name, files):
    import pooch

    path = binary_set(tmp_path, monkeypatch, name, files)
    found = load_dataset(name)
    assert (found.x_train.shape, found.x_test.shape, len(found.classes)) == ((240, 12), (60, 12), 100)
    assert found.x_train.dtype == np.uint8
    assert found.mean is None
    both, y = np.concatenate([found.x_train, found.x_test]), np.concatenate([found.y_train, found.y_test])
    rows = both @ (1 << np.arange(12))  # each row spells its number
    assert sorted(rows) == list(range(300))
    assert np.array_equal(rows % 100, y)
    assert found.source == f"{path.name} sha256 {pooch.file_hash(str(path))} (as found; none is published)"
    assert load_dataset(name, pool=10).y_train.shape == (10,)
    published(monkeypatch, name, sha256="0" * 64)
    with pytest.raises(ValueError, match=f"is not the published {name}"):
        load_dataset(name)


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        (
            "purchase100",
            {"dataset_purchase": PURCHASE + "5,0,1\n"},
            "number of columns changed from 13 to 3 at row 301",
        ),
        (
            "purchase100",
            {"dataset_purchase": PURCHASE + PURCHASE[:-2] + "2\n"},
            "it holds 2 where all features are 0 or 1",
        ),
        ("purchase100", {"dataset_purchase": PURCHASE.replace("1,", "101,", 1)}, "its classes span 1 to 101"),
        ("purchase100", {"dataset_purchase": "1,0\n"}, "it has 1 rows"),
        ("purchase100", {"dataset_purchase": ""}, "is not purchase100: it has 0 rows"),
        ("purchase100", {"purchase": PURCHASE}, "must hold one plain file 'dataset_purchase'"),
        ("texas100", {"texas/100/feats": FEATS, "texas/100/labels": LABELS[:-4]}, "it has 300 rows and 299 labels"),
        ("texas100", {"texas/100/labels": LABELS}, "must hold one plain file 'texas/100/feats'"),
        (
            "texas100",
            {"texas/100/feats": FEATS, "texas/100/labels": "a b"},
            "is not texas100: could not convert string",
        ),
    ],
)
def test_a_bad_binary_set_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, name, files, message):
    binary_set(tmp_path, monkeypatch, name, files)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(name)
    assert str(error.value).endswith(".")
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize("module", [data, files, generated])
def test_the_examples_of_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
