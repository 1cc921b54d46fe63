"""Records keep what they came from, and are refused where that is not what they say."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from simulated import simulate

from samlib.audit import Pair, align
from samlib.disk import whole
from samlib.experiment import Experiment, pair
from samlib.paper import frames, memorization, records


def of(experiments, **attributes):
    """A pair of simulated runs of these experiments."""
    return align(
        {
            name: simulate(seed, leak=1.0 * seed, skill=0).assign_attrs(
                experiment=e.model_dump_json(), key=e.key, classes=["a", "b", "c"], **attributes
            )
            for seed, (name, e) in enumerate(experiments.items(), 1)
        }
    )


@pytest.fixture(scope="module")
def experiments():
    return pair(dataset="digits", rho=0.05, n_models=24)


@pytest.fixture(scope="module")
def runs(experiments):
    return of(experiments)


def saved(runs, folder, signals=None):
    parts = {"memorization": {"a": pd.DataFrame({"x": [1.0, np.nan]}, ["p", "q"]), "b": pd.DataFrame({"y": ["z"]})}}
    return records.save(folder, parts, records.provenance(runs[:2]), signals), parts


def test_a_record_reads_back_as_it_was_measured(runs, experiments, tmp_path):
    parts = {"memorization": memorization.measure(runs)}
    path = records.save(tmp_path / "results", parts, records.provenance(runs[:2]))
    assert records.find(tmp_path / "results", experiments.values()) == path
    back = records.load(path, "memorization")
    assert back.keys() == parts["memorization"].keys()
    for name, frame in back.items():
        pd.testing.assert_frame_equal(frame, parts["memorization"][name])
    assert records.load(path, "membership") == {}
    about = records.read_about(path)
    assert about["models"] == [24, 24]
    assert about["seconds"] == 2
    assert sum(file.stat().st_size for file in path.iterdir()) < 100_000


def test_another_section_joins_a_record_and_a_measurement_again_replaces(runs, tmp_path):
    path, parts = saved(runs, tmp_path)
    about = records.provenance(runs[:2])
    records.save(tmp_path, {"influence": parts["memorization"]}, about)
    assert records.load(path, "memorization").keys() == records.load(path, "influence").keys() == {"a", "b"}
    records.save(tmp_path, {"influence": {"a": pd.DataFrame({"x": [2.0]})}}, about)
    assert records.load(path, "influence")["a"]["x"].tolist() == [2.0]
    assert list(records.records(tmp_path)) == [path]


def test_only_these_experiments_and_so_many_models_are_found(runs, experiments, tmp_path):
    saved(runs, tmp_path)
    for change in ({"n_models": 23}, {"seed": 1}, {"epochs": 3}):
        assert records.find(tmp_path, [e.but(**change) for e in experiments.values()]) is None
    assert records.find(tmp_path, list(experiments.values())[::-1]) is not None  # in any order
    assert records.find(tmp_path / "nowhere", experiments.values()) is None
    assert records.find(None, experiments.values()) is None


def test_the_signals_come_back_as_a_pair(runs, tmp_path):
    path, _ = saved(runs, tmp_path, signals=runs)
    back = records.load_signals(path)
    assert back.name == "SAM"
    for own, kept in zip(runs[:2], back[:2], strict=True):
        for name in ("member", "correct", "test_correct", "train_loss"):
            xr.testing.assert_equal(kept[name].drop_vars(kept[name].coords), own[name].drop_vars(own[name].coords))
        assert kept.attrs["key"] == own.attrs["key"]
    kept, own = (frames.effects(memorization.decided(each)) for each in (back, runs))
    pd.testing.assert_frame_equal(kept, own)
    (path / records.SIGNALS).write_bytes(b"junk")
    with pytest.raises(ValueError, match="was changed after it was recorded"):
        records.load_signals(path)


def test_a_record_that_was_changed_or_is_of_another_experiment_is_refused(runs, tmp_path, monkeypatch):
    path, parts = saved(runs, tmp_path)
    parts["memorization"]["a"].assign(x=7.0).to_parquet(path / "memorization.a.parquet")
    with pytest.raises(
        ValueError, match=r"memorization\.a\.parquet was changed after it was recorded; record it again\.$"
    ):
        records.load(path, "memorization")
    (path / "memorization.a.parquet").unlink()
    with pytest.raises(ValueError, match=r"has no memorization\.a\.parquet; record it again\.$"):
        records.load(path, "memorization")
    path, _ = saved(runs, tmp_path)
    monkeypatch.setattr("samlib.experiment.FORMAT", -1)
    with pytest.raises(ValueError, match="an experiment that this version would not train"):
        records.records(tmp_path)
    for junk in ("junk", "{}", json.dumps({"experiments": [{"dataset": 3}]}), json.dumps([1])):
        (path / records.ABOUT).write_text(junk)
        with pytest.raises(ValueError, match="is not a record") as error:
            records.read_about(path)
        assert "\n" not in str(error.value)


def test_records_of_other_data_lie_beside_each_other(small_npz, tmp_path):
    folder = tmp_path / "results"
    digests = {}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        with np.load(small_npz) as file:
            arrays = dict(file)
        np.savez(tmp_path / name / "mine.npz", **arrays | {"x_train": arrays["x_train"] + len(digests)})
        own = pair(dataset=str(tmp_path / name / "mine.npz"), hidden=(8,), n_models=24)
        from samlib import load_dataset

        digests[name] = load_dataset(own["sgd"].dataset).checksum
        saved(of(own, data_checksum=digests[name]), folder)
    assert len(records.records(folder)) == 2
    for name, checksum in digests.items():
        found = records.find(folder, pair(dataset=str(tmp_path / name / "mine.npz"), hidden=(8,), n_models=24).values())
        assert records.read_about(found)["data_checksum"] == checksum


def test_a_save_that_fails_leaves_what_was_there(runs, tmp_path):
    path, _ = saved(runs, tmp_path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}

    class Broken(pd.DataFrame):
        def to_parquet(self, *args, **kwargs):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.save(tmp_path, {"influence": {"a": Broken()}}, records.provenance(runs[:2]))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("renames", [1, 2])
@pytest.mark.slow
def test_a_process_killed_between_two_renames_loses_nothing(runs, experiments, tmp_path, renames):
    path, parts = saved(runs, tmp_path)
    code = """
import os, pathlib, sys
from samlib.paper import records
left = [int(sys.argv[2])]
def killing(rename):
    def killed(self, target):
        rename(self, target)
        left[0] -= 1
        left[0] or os.kill(os.getpid(), 9)
    return killed
pathlib.Path.rename, pathlib.Path.replace = killing(pathlib.Path.rename), killing(pathlib.Path.replace)
about = records.read_about(pathlib.Path(sys.argv[1]))
path = pathlib.Path(sys.argv[1])
records.save(path.parent, {"influence": {"a": records.load(path, "memorization")["b"]}}, about)
"""
    done = subprocess.run([sys.executable, "-c", code, str(path), str(renames)], check=False)
    assert done.returncode == -9
    found = records.find(tmp_path, experiments.values())
    pd.testing.assert_frame_equal(records.load(found, "memorization")["b"], parts["memorization"]["b"])
    again, _ = saved(runs, tmp_path)
    assert again == path
    assert set(records.load(path, "influence")) == ({"a"} if renames == 2 else set())
    assert [*tmp_path.iterdir()] == [path]


def test_a_record_that_is_being_written_is_none(runs, tmp_path):
    path, _ = saved(runs, tmp_path)
    for name in (f"{path.name}.partial", f"{path.name}.replaced.partial"):
        shutil.copytree(path, tmp_path / name)
    assert list(records.records(tmp_path)) == [path]


def test_a_linked_folder_can_be_replaced_again(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "kept").symlink_to(tmp_path / "far")
    for name in ("first", "second"):
        with whole(tmp_path / "kept") as partial:
            partial.mkdir()
            (partial / name).touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["second"]


def test_a_folder_takes_the_place_of_a_folder_and_a_file_does_not(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "old").touch()
    with pytest.raises(OSError, match="irectory"), whole(tmp_path / "kept") as partial:
        partial.touch()
    assert (tmp_path / "kept" / "old").exists()
    with whole(tmp_path / "kept") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["new"]
    assert [*tmp_path.iterdir()] == [tmp_path / "kept"]


def test_the_identity_is_that_of_experiments_and_models_alone():
    one, two = Experiment(dataset="digits"), Experiment(dataset="digits", optimizer="sam")
    assert records.identity([one, two]) == records.identity([two, one, one])
    assert records.identity([one]) != records.identity([one.but(n_models=3)])


def test_a_pair_is_no_part_of_a_record_without_signals(runs, tmp_path):
    path, _ = saved(runs, tmp_path)
    with pytest.raises(ValueError, match="has no signals"):
        records.load_signals(path)
    assert isinstance(runs, Pair)
