"""Groups that come back: what is put into a store, and what is refused."""

import numpy as np
import pytest
import xarray as xr
from benchmarks.fuzz_groups import Fuzzed, damages
from hypothesis import given, settings
from test_transfer import FIELDS, NOWHERE, experiment, group

from samlib import Experiment, load_dataset, run, runs
from samlib.experiment import pair
from samlib.runs import dispatch, export_job, import_group, import_groups
from samlib.training import __main__ as bare_main
from samlib.training import train_group


def test_a_group_may_come_twice_and_may_lengthen_the_store(small_npz, tmp_path):
    np.savez(tmp_path / "g.npz", **group(small_npz, range(16, 24)), seconds=5.0, machine="elsewhere")
    small = experiment(small_npz, n_models=8)
    for _ in range(2):
        assert import_group(small, tmp_path / "g.npz", cache_dir=tmp_path) == range(16, 24)
    (log,) = (tmp_path / "runs").glob(f"{small.key}*.jsonl")
    assert len(log.read_text().splitlines()) == 1
    np.savez(tmp_path / "g.npz", **group(small_npz))
    import_group(small, tmp_path / "g.npz", cache_dir=tmp_path)
    opened = run(small, cluster=NOWHERE, cache_dir=tmp_path)
    assert isinstance(opened, xr.Dataset)
    assert opened.attrs["machine"] == ["imported"]  # of the models asked for


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": "0" * 16}, "its key is 0000000000000000, not"),
        ({"models": range(4, 12)}, "are not one whole group of 8"),
        ({"models": range(5)}, "are not one whole group of 8"),
        ({"models": range(8, 16)}, "its members are not those that the seed gives"),
        ({"models": range(2**40, 2**40 + 8)}, "are not one whole group of 8"),
        ({"logit": np.zeros((8, 3), np.float32)}, r"logit is float32 \(8, 3\), not float32 \(8, 120\)"),
        ({"logit": np.zeros((8, 120))}, r"logit is float64 \(8, 120\), not float32 \(8, 120\)"),
        ({"correct": np.zeros((8, 120))}, r"correct is float64 \(8, 120\), not bool"),
        ({"train_accuracy": np.zeros(8)}, "its signals and its summaries disagree"),
        ({"train_loss": np.zeros(8)}, "its signals and its summaries disagree"),
        ({"diverged": np.ones(8, bool)}, "its signals and its summaries disagree: diverged is True, not False"),
        ({"entropy": np.full((8, 120), np.nan, np.float32)}, "it holds NaN"),
        ({"strategy": None}, "it has no 'strategy'"),
        ({"seconds": np.nan}, "seconds are nan"),
        ({"key": np.array(None, object)}, "cannot be imported"),
    ],
)
def test_a_group_that_does_not_belong_is_one_sentence(small_npz, tmp_path, change, message):
    found = {name: values for name, values in (group(small_npz) | change).items() if values is not None}
    np.savez(tmp_path / "g.npz", **found)
    with pytest.raises(ValueError, match=message) as error:
        import_group(experiment(small_npz), tmp_path / "g.npz", cache_dir=tmp_path / "cache")
    assert str(error.value).startswith(f"{tmp_path / 'g.npz'} cannot be imported: ")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.zarr"))


def test_accuracies_are_kept_to_the_last_digit(small_npz, tmp_path):
    """An accuracy that is off by rounding is taken, and the store, which asks for the last digit, still opens."""
    found = group(small_npz)
    found["train_accuracy"] = found["train_accuracy"] * (1 - 1e-12)
    np.savez(tmp_path / "g.npz", **found)
    import_group(experiment(small_npz), tmp_path / "g.npz", cache_dir=tmp_path)
    assert run(experiment(small_npz, n_models=8), cluster=NOWHERE, cache_dir=tmp_path).sizes["model"] == 8


def test_no_file_and_half_a_file(small_npz, tmp_path):
    with pytest.raises(ValueError, match=r"none\.npz cannot be imported: .*No such file"):
        import_group(experiment(small_npz), tmp_path / "none.npz", cache_dir=tmp_path)
    np.savez(tmp_path / "g.npz", **group(small_npz))
    (tmp_path / "g.npz").write_bytes((tmp_path / "g.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"g\.npz cannot be imported: "):
        import_group(experiment(small_npz), tmp_path / "g.npz", cache_dir=tmp_path)


def test_a_pack_of_another_version_or_other_data(small_npz, tmp_path):
    job = export_job(pair(dataset=str(small_npz), n_models=8, **FIELDS), tmp_path / "job.npz")
    assert bare_main.main([str(job), "--device", "cpu", "--out", str(tmp_path / "groups")]) == 0
    (pack,) = (tmp_path / "groups").iterdir()
    with pytest.raises(
        ValueError, match=r"its key is [0-9a-f]{16}, not [0-9a-f]{16}; give the options of its experiment"
    ):
        import_groups([pack], [experiment(small_npz, lr=0.3)], cache_dir=tmp_path / "a")
    with np.load(small_npz) as file:
        arrays = dict(file)
    arrays["x_train"][0, 0] += 1
    np.savez(small_npz, **arrays)
    with pytest.raises(ValueError, match=r"it was trained on other data than .*small\.npz now holds\.$"):
        import_groups([pack], cache_dir=tmp_path / "a")
    assert not list((tmp_path / "a").rglob("*.zarr"))


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    return Fuzzed(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(damage=damages)
def test_whatever_comes_back_is_imported_whole_or_refused_in_one_sentence(fuzzed, damage):
    fuzzed.check(damage)


def test_what_a_model_cannot_take_is_refused_before_any_work(small_npz, tmp_path):
    with pytest.raises(ValueError, match=r"model 'cnn' takes images: an input of shape \(6,\) is no image"):
        run(experiment(small_npz, model="cnn"), cluster=NOWHERE, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"augment shifts and mirrors images: an input of shape \(6,\) is no image"):
        run(experiment(small_npz, augment=True), cluster=NOWHERE, cache_dir=tmp_path)
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


@pytest.mark.slow
def test_running_out_of_memory_is_said(small_npz, client, tmp_path, capsys, monkeypatch):
    result = group(small_npz)
    result.pop("key"), result.pop("models")
    result["strategy"] = np.array(["stacked 4, float32: out of memory with 8"] * 8)
    monkeypatch.setattr(dispatch, "_train", _Canned(result))
    opened = run(experiment(small_npz, n_models=8), cluster=client, cache_dir=tmp_path)
    assert "samlib: stacked 4, float32: out of memory with 8" in capsys.readouterr().err
    assert opened.attrs["strategy"] == ["stacked 4, float32: out of memory with 8"]


class _Canned:
    """A training task that returns what it was given."""

    def __init__(self, result):
        self.result = result

    def __call__(self, recipe, data, groups):
        return [self.result] * len(groups), 1.0, "here"
