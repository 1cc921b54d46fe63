"""A job leaves as one file, is trained by torch and numpy alone, and its groups come back checked."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

from samlib import Experiment, load_dataset, run, runs
from samlib.runs import export_job, import_group, transfer
from samlib.training import train_group

BARE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'xarray', 'zarr', 'dask', 'distributed', 'pydantic', 'pooch', 'scipy', 'sklearn',
                                  'pandas', 'tqdm', 'filelock', 'PIL', 'pyarrow', 'torchvision'}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def experiment(path, **changes):
    fields = {"dataset": str(path), "hidden": (8,), "epochs": 2, "batch_size": 16, "n_models": 16, "optimizer": "sam"}
    return Experiment(**fields | changes)


def group(path, models=range(8), **changes):
    """A group as a file, as the script of the docstring writes it."""
    sam = experiment(path, **changes)
    return {"key": sam.key, "models": models, **train_group(sam.model_dump(), load_dataset(path).arrays(), models)}


@pytest.mark.slow
def test_the_docstrings_script_on_a_bare_machine(small_npz, client, tmp_path):
    sam = experiment(small_npz)
    export_job(sam, tmp_path / "job.npz")
    lines = [line for line in transfer.__doc__.splitlines() if line.startswith("    ")]
    script = textwrap.dedent("\n".join(lines)).replace('"cuda"', '"cpu"').replace("range(0, 64,", "range(0, 16,")
    assert len(lines) <= 10
    done = subprocess.run([sys.executable, "-c", BARE + script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for start in (8, 0):
        assert import_group(sam, tmp_path / f"group-{start}.npz", cache_dir=tmp_path / "a") == range(start, start + 8)
    imported = run(sam, cluster="tcp://127.0.0.1:1", cache_dir=tmp_path / "a")  # nothing is left to train
    here = run(sam, cluster=client, cache_dir=tmp_path / "b")
    for name, values in here.items():
        np.testing.assert_allclose(imported[name], values, atol=1e-5, err_msg=name)
    assert imported.attrs["machine"] == ["imported"]
    assert imported.attrs["strategy"] == ["stacked 8, float32"]


def test_a_group_may_come_twice_and_may_lengthen_the_store(small_npz, tmp_path):
    np.savez(tmp_path / "g.npz", **group(small_npz, range(16, 24)), seconds=5.0, machine="elsewhere")
    small = experiment(small_npz, n_models=8)
    for _ in range(2):
        assert import_group(small, tmp_path / "g.npz", cache_dir=tmp_path) == range(16, 24)
    assert len(next((tmp_path / "runs").glob(f"{small.key}-*.jsonl")).read_text().splitlines()) == 1
    np.savez(tmp_path / "g.npz", **group(small_npz))
    import_group(small, tmp_path / "g.npz", cache_dir=tmp_path)
    opened = run(small, cluster="tcp://127.0.0.1:1", cache_dir=tmp_path)
    assert isinstance(opened, xr.Dataset)
    assert opened.attrs["machine"] == ["imported"]  # of the models asked for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "0" * 16}, "its key is 0000000000000000, not"),
        ({"models": range(4, 12)}, "are not one whole group of 8"),
        ({"models": range(5)}, "are not one whole group of 8"),
        ({"models": range(8, 16)}, "its members are not those that the seed gives"),
        ({"logit": np.zeros((8, 3), np.float32)}, r"logit is float32 \(8, 3\), not floating \(8, 120\)"),
        ({"correct": np.zeros((8, 120))}, r"correct is float64 \(8, 120\), not bool"),
        ({"train_accuracy": np.zeros(8)}, "its signals and its summaries disagree"),
        ({"entropy": np.full((8, 120), np.nan, np.float32)}, "it holds NaN"),
        ({"strategy": None}, "it has no 'strategy'"),
        ({"key": np.array(None, object)}, "is not an .npz of a group"),
    ],
)
def test_a_group_that_does_not_belong_is_one_sentence(small_npz, tmp_path, change, message):
    found = {name: values for name, values in (group(small_npz) | change).items() if values is not None}
    np.savez(tmp_path / "g.npz", **found)
    with pytest.raises(ValueError, match=message) as error:
        import_group(experiment(small_npz), tmp_path / "g.npz", cache_dir=tmp_path / "cache")
    assert str(tmp_path / "g.npz") in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.zarr"))


def test_no_file_and_half_a_file(small_npz, tmp_path):
    with pytest.raises(ValueError, match=r"is not an \.npz of a group"):
        import_group(experiment(small_npz), tmp_path / "none.npz", cache_dir=tmp_path)
    np.savez(tmp_path / "g.npz", **group(small_npz))
    (tmp_path / "g.npz").write_bytes((tmp_path / "g.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"is not an \.npz of a group"):
        import_group(experiment(small_npz), tmp_path / "g.npz", cache_dir=tmp_path)


def test_what_a_model_cannot_take_is_refused_before_any_work(small_npz, tmp_path):
    with pytest.raises(ValueError, match=r"model 'cnn' takes images: an input of shape \(6,\) is no image"):
        run(experiment(small_npz, model="cnn"), cluster="tcp://127.0.0.1:1", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"augment shifts and mirrors images: an input of shape \(6,\) is no image"):
        run(experiment(small_npz, augment=True), cluster="tcp://127.0.0.1:1", cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.zarr"))


@pytest.mark.slow
def test_image_models_run_through_the_store(tmp_path, client):
    rng = np.random.default_rng(0)
    arrays = {f"x_{s}": rng.integers(0, 256, (n, 8, 8, 3), np.uint8) for s, n in (("train", 40), ("test", 10))}
    np.savez(tmp_path / "i.npz", **arrays, y_train=np.arange(40) % 2, y_test=np.arange(10) % 2)
    fields = {"dataset": str(tmp_path / "i.npz"), "model": "cnn", "batch_size": 8, "precision": "bf16", "n_models": 3}
    one = Experiment(**fields, epochs=15, optimizer="looksam")
    opened = run(one, cluster=client, cache_dir=tmp_path)
    expected = train_group(one.model_dump(), load_dataset(tmp_path / "i.npz").arrays(), range(3))
    np.testing.assert_allclose(opened.logit, expected["logit"], atol=1e-5)
    assert opened.attrs["strategy"] == ["one at a time, channels-last, bf16"]
    assert runs.Store.__name__ == "Store"


def test_running_out_of_memory_is_said(small_npz, client, tmp_path, capsys, monkeypatch):
    result = group(small_npz)
    result.pop("key"), result.pop("models")
    result["strategy"] = np.array(["stacked 4, float32: out of memory with 8"] * 8)
    monkeypatch.setattr(runs, "_train", _Canned(result))
    opened = run(experiment(small_npz, n_models=8), cluster=client, cache_dir=tmp_path)
    assert "samlib: stacked 4, float32: out of memory with 8" in capsys.readouterr().err
    assert opened.attrs["strategy"] == ["stacked 4, float32: out of memory with 8"]


class _Canned:
    """A training task that returns what it was given."""

    def __init__(self, result):
        self.result = result

    def __call__(self, recipe, data, models):
        return self.result, 1.0, "here"
