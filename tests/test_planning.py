"""A plan says what a run then does: models, bytes, what is there; and it writes nothing."""

import doctest

import numpy as np
import pytest
import zarr
from test_images import write_parquet

from samlib import Experiment, load_dataset, planning, run
from samlib.data import NAMES, shape_of
from samlib.experiment import pair
from samlib.paper.study import planned


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def experiment(small_npz):
    return Experiment(dataset=str(small_npz), hidden=(8,), epochs=2, batch_size=16, n_models=20)


@pytest.fixture
def no_probe(monkeypatch):
    monkeypatch.setattr(planning, "probe", lambda experiment, shape: planning.Speed(2.0, 0.01, 1.0))


@pytest.mark.slow
def test_there_to_train_and_bytes_are_what_a_run_finds(experiment, client, tmp_path, no_probe):
    before = planning.plan([experiment], cache_dir=tmp_path, progress=False).iloc[0]
    assert (before["models"], before["there"], before["to train"]) == (20, 0, 24)  # whole groups of 8
    assert not (tmp_path / "runs").exists()
    runs = run(experiment.but(n_models=8), cluster=client, cache_dir=tmp_path)
    kept = files(tmp_path)
    between = planning.plan([experiment], cache_dir=tmp_path).iloc[0]
    assert (between["there"], between["to train"]) == (8, 16)
    assert files(tmp_path) == kept
    store = zarr.open_group(runs.attrs["store"], mode="r")
    assert sum(array.nbytes for _, array in store.arrays()) == between["bytes"] / 2
    run(experiment, cluster=client, cache_dir=tmp_path)
    after = planning.plan([experiment], cache_dir=tmp_path).iloc[0]
    assert (after["there"], after["to train"], after["bytes"], after["hours"]) == (20, 0, 0, 0)
    assert np.isnan(after["seconds a model"])
    said = planning.in_words(planning.plan([experiment], cache_dir=tmp_path))
    assert "Nothing is left to train." in said
    assert "None" not in said


def test_time_is_steps_and_evaluation_over_the_workers(experiment, tmp_path, no_probe, monkeypatch):
    monkeypatch.setattr(planning, "n_workers", lambda: 2)
    row = planning.plan([experiment], cache_dir=tmp_path).iloc[0]
    group = 1.0 + 2 * 4 * 2.0 + (120 + 40) * 0.01  # 60 members in batches of 15, twice
    assert row["seconds a model"] == pytest.approx(group / 8)
    assert row["hours"] == pytest.approx(2 * group / 3600)  # three groups on two workers


@pytest.mark.slow
def test_a_probe_measures_real_groups_of_any_kind_and_writes_nothing(experiment, tmp_path):
    for changes in ({}, {"optimizer": "sam"}, {"optimizer": "looksam"}, {"optimizer": "swa", "precision": "bf16"}):
        e = experiment.but(**changes)
        speed = planning.probe(e, shape_of(e.dataset))
        assert speed.step > 0
        assert min(speed) >= 0
    e = Experiment(dataset="cifar10", model="cnn", pool=100, epochs=1, augment=True)
    assert planning.probe(e, shape_of("cifar10")._replace(n_train=100)).step > 0
    assert not (tmp_path / "cache").exists()


def test_a_profile_is_planned_without_its_data(no_probe, tmp_path, monkeypatch):
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path))
    frame = planning.plan(e for two in planned("paper") for e in two.values())
    assert len(frame) == 20
    assert (frame["to train"].dropna() == 256).all()
    said = planning.in_words(frame)
    assert "cifar100: not at hand; fetched before the first model is trained." in said
    assert said.count("eyepacs: left out; dataset 'eyepacs' is neither one of") == 1
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match="dataset 'eyepacs' is neither one of"):
        planning.plan(pair(dataset="eyepacs").values())


def test_what_cannot_run_is_said_and_not_measured(no_probe):
    frame = planning.plan([*pair(dataset="digits").values(), *pair(dataset="location30", model="cnn").values()])
    assert list(frame["models"].isna()) == [False, False, True, True]
    assert "location30: left out; model 'cnn' takes images" in planning.in_words(frame)
    for fields, message in (({"pool": 5000}, "pool must lie in 2 to 4010"), ({"augment": True}, "is no image")):
        with pytest.raises(ValueError, match=message):
            planning.plan([Experiment(dataset="location30", **fields)])


@pytest.mark.parametrize("name", ["digits", "subclasses", "location30"])
def test_the_shapes_known_by_name_are_the_data_sets(name, public):
    data, shape = public(name), shape_of(name)
    assert shape.at_hand
    assert (*data.x_train.shape, len(data.y_test), len(data.classes)) == (
        shape.n_train, *shape.example, shape.n_test, shape.classes,
    )  # fmt: skip
    assert data.x_train.dtype == shape.dtype
    assert set(NAMES) > {"cifar10", "purchase100"}


def test_the_shape_of_ones_own_files_is_read_from_their_headers(small_npz, tmp_path, monkeypatch):
    from PIL import Image

    assert shape_of(str(small_npz)) == (120, 40, (6,), 3, "float32", True)
    for i in range(10):
        file = tmp_path / "mine" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (i, 0, 0)).save(file)
    monkeypatch.setenv("SAMLIB_DATA", str(tmp_path))  # a folder in it needs no path
    for size in (None, 5):
        data, shape = load_dataset("mine", image_size=size), shape_of("mine", size)
        assert shape == (len(data.y_train), len(data.y_test), data.x_train.shape[1:], 2, "uint8", True)
    (tmp_path / "mine" / "a" / "0.png").write_bytes(b"no image")
    for file in (tmp_path / "mine").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"mine/./\d\.png cannot be decoded"):
        shape_of("mine")


def test_the_shape_of_a_parquet_folder_is_read_without_decoding_it(tmp_path):
    write_parquet(tmp_path / "set")
    shape = shape_of(str(tmp_path / "set"))
    assert not (tmp_path / "cache").exists()
    data = load_dataset(tmp_path / "set")
    assert shape[:4] == (len(data.y_train), len(data.y_test), data.x_train.shape[1:], len(np.unique(data.y_train)))


@pytest.mark.slow
@pytest.mark.parametrize("module", [planning])
def test_the_examples_of_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
