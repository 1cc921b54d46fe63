"""Files of signals that nobody vouches for: every form reads the same, and what is wrong is one sentence that names it."""

import io
import json
import os
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr
from benchmarks import fuzz_audit as fuzz

import samlib
from samlib.report import files, sample
from samlib.report.files import SCHEMA, read

jsonschema = pytest.importorskip("jsonschema")


def good(k=4, n=30):
    rng = np.random.default_rng(0)
    member = rng.random((k, n)) < 0.5
    logit = (rng.normal(size=(k, n)) + member).astype(np.float32)
    return {"logit": logit, "member": member, "labels": np.arange(n) % 3}


def write(path, found, kind):
    if kind == "npz":
        np.savez(path, **found)
    elif kind == "packed npz":
        np.savez_compressed(path, **found)
    elif kind == "turned npz":
        np.savez(path, **{name: np.asfortranarray(a) for name, a in found.items()})
    elif kind == "parquet":
        columns = {name: list(a.T) if a.ndim == 2 else a for name, a in found.items()}
        pd.DataFrame(columns).to_parquet(path)
    else:
        group = zarr.open_group(path, mode="w", zarr_format=int(kind[-1]))
        for name, a in found.items():
            group.create_array(name, data=a, chunks=(2, 7)[: a.ndim] if a.ndim == 2 else (7,))
    return path


KINDS = ["npz", "packed npz", "turned npz", "parquet", "zarr 2", "zarr 3"]


@pytest.mark.parametrize("held", [True, False], ids=["in memory", "on the disk"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_reads_the_same(kind, held, tmp_path, monkeypatch):
    found = good()
    path = write(tmp_path / ("signals.npz" if "npz" in kind else "signals"), found, kind)
    if not held:
        monkeypatch.setattr(files, "SMALL", 64)
        monkeypatch.setattr(files, "RATIO", 10**9)
    arrays, unused = read(path, max_gb=1)
    assert unused == []
    assert isinstance(arrays["logit"], np.memmap) is not held
    for name, a in found.items():
        np.testing.assert_array_equal(arrays[name], a)
    logit, _, member = sample.columns(sample.given(arrays), slice(3, 9))
    np.testing.assert_array_equal(logit, found["logit"][:, 3:9])
    np.testing.assert_array_equal(member, found["member"][:, 3:9])


def spoilt(**changes):
    found = good() | changes
    return {name: a for name, a in found.items() if a is not None}


def put(name, at, value):
    found = good()
    found[name] = found[name].astype(float)
    found[name][at] = value
    return found


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (put("logit", (2, 5), np.nan), "logit is nan for model 2 on example 5"),
        (spoilt(logit=None, loss=put("logit", (1, 3), -9)["logit"] ** 3), "loss is -.* for model . on example ."),
        (
            spoilt(logit=None, probability=np.full((4, 30), 2.0)),
            "probability is 2 for model 0 on example 0; it must be from 0 to 1",
        ),
        (spoilt(logit=np.stack([*good()["logit"][:3], np.ones(30)])), "logit of model 3 is the same on all examples"),
        (spoilt(member=np.ones((4, 30), bool)), "member of model 0 must hold members and others"),
        (put("member", (0, 0), 0.5), "member must hold only True and False"),
        (spoilt(member=None), "must hold member and one of logit, loss, probability, and it holds"),
        (spoilt(loss=good()["logit"]), "The file holds logit and loss; keep one of them"),
        (spoilt(labels=np.arange(29)), "labels holds 29 examples, but logit holds 30"),
        (spoilt(labels=np.arange(30) - 1), "labels must lie in 0 to"),
        (spoilt(label=np.arange(30)), "labels is given twice"),
        (spoilt(label=np.arange(30)), "labels is given twice, as labels and label; keep one"),
        (spoilt(labels=np.array(["a"] * 30)), r"labels must hold whole numbers \(names may be groups\), not text"),
        (spoilt(member=np.ones((4, 30), bool)), "member of model 0 .*; add examples that it was not trained on, or"),
        (
            spoilt(member=good()["member"].T),
            "member holds 30 models, but logit holds 4; perhaps one of them is transposed",
        ),
        (
            spoilt(logit=good()["logit"].T, member=good()["member"].T),
            "labels holds 30 examples, but logit holds 4; perhaps all others are transposed",
        ),
        (spoilt(logit=good()["logit"].astype(complex)), "logit must hold numbers, not complex"),
        (spoilt(groups=np.array(["x" * 65] * 30)), "groups must hold whole numbers or texts of at most 64 letters"),
        (spoilt(target=np.zeros(4, bool)), "target must be True for at least one model"),
        (spoilt(logit=good()["logit"].astype(object)), "logit .*not object"),
    ],
)
def test_what_is_wrong_is_named(found, said, tmp_path):
    np.savez(tmp_path / "signals.npz", allow_pickle=True, **found)
    with pytest.raises(ValueError, match=said) as raised:
        sample.scan(sample.given(read(tmp_path / "signals.npz", max_gb=1)[0]))
    assert str(raised.value).endswith(".")


def test_a_name_that_is_nearly_known_is_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", **spoilt(logit=None, probabilities=np.ones((4, 30))))
    with pytest.raises(ValueError, match=r"holds member, labels, 'probabilities'; perhaps probability is meant\.$"):
        samlib.audit_file(tmp_path / "a.npz")


def test_a_file_that_was_cut_short_is_incomplete(tmp_path):
    write(tmp_path / "a.npz", good(), "npz")
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(files.BadFile, match=r"b\.npz is damaged, incomplete or has another layout"):
        read(tmp_path / "b.npz", max_gb=1)


def test_no_pickle_is_read(tmp_path):
    """An array of objects, and a zarr filter that would unpickle, run nothing."""

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "a.npz", logit=np.array([Trap()], object), member=good()["member"])
    path = write(tmp_path / "a.zarr", good(), "zarr 2")
    about = json.loads((path / "logit" / ".zarray").read_text())
    (path / "logit" / ".zarray").write_text(json.dumps(about | {"filters": [{"id": "pickle"}]}))
    for name in ("a.npz", "a.zarr"):
        with pytest.raises(ValueError, match="logit .*(object|pickle)"):
            read(tmp_path / name, max_gb=1)
    assert not (tmp_path / "sprung").exists()


def npz_entry(shape, content, path, packed=True):
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("logit.npy", head.getvalue() + content)
    return path


def test_sizes_are_checked_before_anything_is_allocated(tmp_path, monkeypatch):
    path = tmp_path / "signals.npz"
    room = files._room

    def small(shape, dtype, size):
        return room(shape, dtype, size) if size < 10**6 else pytest.fail(f"{size} bytes are set apart")

    monkeypatch.setattr(files, "_room", small)
    for number in range(9):  # the directory and the header say, both alike, that a small file holds a large array
        path.write_bytes(fuzz.lie(np.random.default_rng(number)))
        with pytest.raises(ValueError, match="logit would grow .* times|logit must be"):
            read(path, max_gb=64)
    with pytest.raises(ValueError, match=r"logit takes 4e\+09 GB, and at most 1 GB are read"):
        read(npz_entry((10**9, 10**9), b"", path), max_gb=1)
    with pytest.raises(ValueError, match="logit .*its header says 400 bytes, and there are 8"):
        read(npz_entry((10, 10), bytes(8), path), max_gb=1)
    with pytest.raises(ValueError, match="logit would grow .* times; write it without compression"):
        read(npz_entry((5, 10**6), bytes(20 * 10**6), path), max_gb=1)
    group = write(tmp_path / "lies.zarr", good(), "zarr 3")
    about = json.loads((group / "logit" / "zarr.json").read_text())
    for shape, said in (([10**9, 10**9], "takes 4e"), ([400, 3000], "too large, or missing")):
        (group / "logit" / "zarr.json").write_text(json.dumps(about | {"shape": shape}))
        with pytest.raises(ValueError, match=said):
            read(group, max_gb=1)


@pytest.mark.parametrize("packer", ["zstd", "blosc"])
def test_a_chunk_that_says_it_is_larger_is_not_unpacked(packer, tmp_path):
    from numcodecs import Blosc, Zstd

    path = write(tmp_path / "a.zarr", good(), "zarr 2" if packer == "blosc" else "zarr 3")
    chunk = next(file for file in (path / "logit").rglob("*") if file.is_file() and file.name[0] in "0123456789")
    chunk.write_bytes(bytes({"zstd": Zstd, "blosc": Blosc}[packer]().encode(bytes(10**6))))
    assert files._unpacked(chunk, packer) == 10**6
    with pytest.raises(ValueError, match="unpacks to more than 56 bytes"):
        read(path, max_gb=1)


def test_links_and_pipes_in_a_folder_are_refused(tmp_path):
    path = write(tmp_path / "a.zarr", good(), "zarr 3")
    os.mkfifo(path / "logit" / "c" / "pipe")
    with pytest.raises(ValueError, match="'pipe' in 'a.zarr' is a link or no plain file"):
        read(path, max_gb=1)
    os.mkfifo(tmp_path / "signals.npz")
    with pytest.raises(ValueError, match="is no npz file, parquet file or zarr folder"):
        read(tmp_path / "signals.npz", max_gb=1)
    with pytest.raises(ValueError, match="cannot be read"):
        samlib.audit_file(tmp_path / "nowhere.npz")


@pytest.mark.parametrize("code", [0xD800, 0x110000, 0xFFFFFFFF])
@pytest.mark.parametrize("kind", ["npz", "zarr 2"])
def test_names_that_are_not_unicode_are_refused(code, kind, tmp_path):
    """Half of a pair of codes reached pandas, which ended the process."""
    names = np.full(30, "abc")
    names.view(np.uint32)[4] = code
    path = write(tmp_path / ("signals.npz" if "npz" in kind else "signals"), good() | {"groups": names}, kind)
    with pytest.raises(ValueError, match="groups holds text that is not Unicode"):
        samlib.audit_file(path)


def test_names_that_mean_nothing_may_be_any_and_many():
    """One in braces was a KeyError. The time grew with the square of their number."""
    found, start = good() | {f"{{{i}}}": 0 for i in range(30_000)}, time.process_time()
    arrays, unused = read(found, max_gb=1)
    assert (arrays.keys(), len(unused)) == (good().keys(), 30_000)
    assert time.process_time() - start < 1
    assert any("'{1}'" in said for said in samlib.audit_file(good() | {"{1}": 0}).said["given"])


def test_the_schema_describes_what_is_read():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    found = {name: a.tolist() for name, a in good().items()}
    jsonschema.validate(found, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found | {"loss": [[1.0]]}, SCHEMA)


@pytest.mark.slow
def test_damaged_files_by_the_dozen():
    """More in `tests/benchmarks/fuzz_audit.py`."""
    done = [fuzz.try_one(number) for number in range(60)]
    assert {"audited", "refused"} == set(done)


def test_a_column_that_contradicts_itself_is_refused(tmp_path):
    """Its levels no longer fit its counts of levels. pyarrow ended the process where such a column is looked at."""
    path = write(tmp_path / "signals", good(), "parquet")
    content = path.read_bytes()
    optional, neither = b"\x25\x02\x18\x06labels", b"\x25\x2e\x18\x06labels"  # a field, as Thrift writes it
    assert content.count(optional) == 1
    path.write_bytes(content.replace(optional, neither))
    with pytest.raises(ValueError, match="the sizes of its columns cannot be read"):
        read(path, max_gb=1)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux says what is mapped")
def test_a_large_array_does_not_stay_mapped(tmp_path):
    """Else memory grows with the file, until the system takes it back."""
    rng = np.random.default_rng(0)
    member = rng.random((16, 400_000)) < 0.5
    np.savez(tmp_path / "signals.npz", logit=rng.normal(size=member.shape) + member, member=member)

    def mapped() -> int:
        return int(re.search(r"Rss:\s+(\d+)", Path("/proc/self/smaps_rollup").read_text()).group(1)) // 1024

    arrays, _ = read(tmp_path / "signals.npz", max_gb=1)
    data, before = sample.given(arrays), mapped()
    for start in range(0, member.shape[1], 10_000):
        sample.columns(data, slice(start, start + 10_000))
    assert isinstance(arrays["logit"], np.memmap)
    assert mapped() < before + 25  # of 51 MB


def test_a_caller_s_own_mapping_keeps_its_changes(tmp_path):
    """Memory is released of files that were read by their path alone."""
    found = good(8, 400)
    np.save(tmp_path / "logit.npy", found["logit"])
    own = np.load(tmp_path / "logit.npy", mmap_mode="c")
    own *= -1
    samlib.audit_file(found | {"logit": own})
    np.testing.assert_array_equal(own, -found["logit"])


def test_damaged_labels_that_are_large_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SMALL", 64)
    path = write(tmp_path / "signals.npz", good(), "npz")
    content, labels = path.read_bytes(), (np.arange(30) % 3).tobytes()
    assert content.count(labels) == 1
    path.write_bytes(content.replace(labels, b"\1" + labels[1:]))
    with pytest.raises(files.BadFile, match="labels is damaged"):
        read(path, max_gb=1)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FC00000])
def test_any_nan_is_named(bits):
    """One that signals (its first bit of fraction is 0) warned in a cast; the fuzzer found it."""
    logit = np.random.default_rng(0).normal(size=(4, 30)).astype("f4")
    logit.view("u4")[1, 7] = bits
    with pytest.raises(ValueError, match="logit is nan for model 1 on example 7"):
        samlib.audit_file({"logit": logit, "member": good()["member"]})


@pytest.mark.parametrize("wrong", [np.nan, 2.0])
def test_a_mask_that_is_none_is_a_bad_file(wrong):
    member = good()["member"].astype(float)
    member[1, 2] = wrong
    with pytest.raises(files.BadFile, match="member must hold only True and False"):
        samlib.audit_file(good() | {"member": member})
