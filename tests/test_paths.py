"""Paths and folders: `~` is the user's, and a relative one keeps its meaning."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from test_runs import experiment

import samlib
from samlib.checks import as_path
from samlib.data import cache_folder
from samlib.data.files import local_file
from samlib.paper import records
from samlib.runs.store import open_store


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_a_cache_at_home(home, monkeypatch, small_npz):
    monkeypatch.setenv("SAMLIB_CACHE", "~/c")
    assert cache_folder() == home / "c"
    assert open_store(experiment(small_npz)).folder == home / "c" / "runs"
    assert cache_folder("~/x") == home / "x"
    assert open_store(experiment(small_npz), "~/x").folder == home / "x" / "runs"
    assert cache_folder(Path("~/x")) == home / "x"


def test_a_relative_cache_stays_where_it_was_first_asked_for(home, monkeypatch):
    monkeypatch.setenv("SAMLIB_CACHE", "c")
    first = cache_folder()
    assert first == home.parent / "here" / "c"
    monkeypatch.chdir(home)
    assert cache_folder() == first
    # and in a process that is started elsewhere, as a notebook's kernel is
    code = "from samlib.data import cache_folder; print(cache_folder())"
    there = subprocess.run([sys.executable, "-c", code], cwd=home, capture_output=True, text=True, check=True)
    assert there.stdout == f"{first}\n"
    monkeypatch.setenv("SAMLIB_CACHE", "d")  # a new one is asked for first here
    assert cache_folder() == home / "d"


def test_data_at_home_and_in_a_relative_folder(home, monkeypatch):
    (home / "data" / "mine").mkdir(parents=True)
    monkeypatch.setenv("SAMLIB_DATA", "~/data")
    assert local_file("mine", "") == home / "data" / "mine"
    monkeypatch.chdir(home)
    monkeypatch.setenv("SAMLIB_DATA", "data")
    assert local_file("mine", "") == home / "data" / "mine"
    monkeypatch.chdir(home.parent)
    assert local_file("mine", "") == home / "data" / "mine"
    monkeypatch.delenv("SAMLIB_DATA")
    assert local_file("mine", "") is None


@pytest.mark.slow
def test_trained_models_are_found_again_from_another_folder(home, monkeypatch, small_npz, client):
    monkeypatch.setenv("SAMLIB_CACHE", "c")
    runs = samlib.run(experiment(small_npz), cluster=client, progress=False)
    monkeypatch.chdir(home)
    xr.testing.assert_identical(samlib.run(experiment(small_npz), cluster="tcp://127.0.0.1:1", progress=False), runs)
    path = records.save("~/records", {}, records.provenance([runs]))
    assert path.parent == home / "records"
    assert records.find("~/records", [experiment(small_npz)]) == path
    assert not list(home.parent.rglob("~"))


@pytest.mark.slow
def test_a_page_at_home(home):
    assert samlib.widgets.write_page("~/page/x.html") == home / "page" / "x.html"
    done = subprocess.run(
        [sys.executable, "-m", "samlib", "explore", "--no-open", "--output", "~/y.html"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{home / 'y.html'}\n"
    assert (home / "y.html").exists()


def test_what_is_no_path_is_one_sentence():
    for wrong in (5, "~nobody-at-all/x", object()):
        with pytest.raises(ValueError, match="^folder must be a path, not "):
            as_path("folder", wrong)
    with pytest.raises(ValueError, match="^cache_dir must be a path, not 5"):
        cache_folder(5)


def test_data_that_were_not_there_are_found_once_they_are(small_npz, tmp_path):
    """A load that fails, or finds other data, is not kept for later."""
    from samlib.paper.distances import dataset_of

    data = samlib.load_dataset(small_npz)
    about = json.dumps({"dataset": str(small_npz), "pool": None, "image_size": None})
    runs = xr.Dataset(attrs={"experiment": about, "data_checksum": data.checksum})
    content = small_npz.read_bytes()
    small_npz.unlink()
    assert dataset_of(runs) is None
    with np.load(io.BytesIO(content)) as file:
        np.savez(small_npz, **{**file, "y_train": np.roll(file["y_train"], 1)})
    assert dataset_of(runs) is None
    small_npz.write_bytes(content)
    assert dataset_of(runs).checksum == data.checksum
