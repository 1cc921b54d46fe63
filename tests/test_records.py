"""Records keep what they came from, and are refused where that is not what they say."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from test_claims import simulate

import samlib
from samlib import claims, figures
from samlib.audit import align
from samlib.experiment import Experiment
from samlib.runs import load_runs, save_runs


@pytest.fixture(scope="module")
def pair():
    fields = {"dataset": "digits", "rho": 0.05}
    runs = {
        name: simulate(seed, leak=leak, skill=leak / 4).assign_attrs(
            experiment=(e := Experiment(optimizer=name, **fields)).model_dump_json(), key=e.key
        )
        for seed, (name, leak) in enumerate({"sgd": 0.5, "sam": 2.0}.items(), 1)
    }
    return align(runs)


def test_a_record_reads_back_beside_a_live_ledger(pair, tmp_path):
    path = claims.record(pair, tmp_path / "results")
    assert path.stat().st_size < 100_000
    live = claims.ledger({"digits": pair})
    both = claims.with_recorded(live, tmp_path / "results")
    assert len(both) == 2 * len(live)
    kept = both.xs("digits, recorded", level="dataset")
    pd.testing.assert_frame_equal(kept, live.droplevel("dataset"), check_dtype=False)
    html = figures.overview(both).to_html()
    assert "Digits, recorded" in html
    rows = claims.provenance_of(tmp_path / "results")
    assert rows.loc[0, "models"] == "24 + 24"
    assert rows.loc[0, "core seconds"] == "2"
    pd.testing.assert_frame_equal(claims.with_recorded(live, None), live)
    assert claims.provenance_of(None).empty


def test_verdicts_are_those_recorded_of_just_these_models(pair, tmp_path):
    path = claims.record(pair, tmp_path)
    computed = claims.verdicts(pair)
    pd.testing.assert_frame_equal(claims.verdicts(pair, tmp_path), computed, check_dtype=False)
    rewrite_whole(path, "estimate", 7.0)
    assert (claims.verdicts(pair, tmp_path)["estimate"] == 7).all()
    fewer = type(pair)(*(runs.isel(model=slice(23)) for runs in pair[:2]), pair.name)
    other = type(pair)(*(runs.assign_attrs(data_checksum="f" * 64) for runs in pair[:2]), pair.name)
    for not_these in (fewer, other):
        assert not (claims.verdicts(not_these, tmp_path)["estimate"] == 7).any()


def test_records_of_other_data_lie_beside_each_other(pair, tmp_path):
    for checksum in ("0" * 64, "1" * 64):
        runs = (
            runs.assign_attrs(
                data_checksum=checksum, experiment=Experiment(dataset=f"{checksum[0]}/mine.npz").model_dump_json()
            )
            for runs in pair[:2]
        )
        claims.record(type(pair)(*runs, pair.name), tmp_path)
    assert len([*tmp_path.glob("*.parquet")]) == 2


def rewrite_whole(path, column, value):
    """A record with another number and the digest that belongs to it."""
    from samlib.claims import records

    frame, about = records.read(path)
    frame = frame.reset_index().assign(**{column: value})
    frame["dataset"] = frame["dataset"].str.removesuffix(records.SUFFIX)
    about["digest"] = records._digest(frame, about)
    rewrite(path, lambda f: f.__setitem__(column, value), lambda a: a.__setitem__("digest", about["digest"]))


def rewrite(path, change_frame=None, change_about=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about, frame = json.loads(table.schema.metadata[b"samlib"]), table.to_pandas()
    if change_frame:
        change_frame(frame)
    if change_about:
        change_about(about)
    pq.write_table(pa.Table.from_pandas(frame).replace_schema_metadata({"samlib": json.dumps(about)}), path)


def test_a_record_that_was_changed_or_is_of_another_experiment_is_refused(pair, tmp_path, monkeypatch):
    path = claims.record(pair, tmp_path)
    rewrite(path)
    claims.read(path)  # rewriting alone changes nothing
    rewrite(path, lambda frame: frame.__setitem__("verdict", "supported"))
    with pytest.raises(ValueError, match="was changed after it was recorded"):
        claims.read(path)
    path = claims.record(pair, tmp_path)
    rewrite(path, change_about=lambda about: about["means"].clear())
    with pytest.raises(ValueError, match="was changed after it was recorded"):
        claims.read(path)
    path = claims.record(pair, tmp_path)
    monkeypatch.setattr("samlib.experiment.FORMAT", -1)
    with pytest.raises(ValueError, match="an experiment that this version would not train"):
        claims.with_recorded(claims.ledger({"digits": pair}), tmp_path)
    (tmp_path / "junk.parquet").write_bytes(b"junk")
    with pytest.raises(ValueError, match="is not a record") as error:
        claims.read(tmp_path / "junk.parquet")
    assert "\n" not in str(error.value)


@pytest.fixture
def trained(small_npz, client, tmp_path):
    experiment = Experiment(dataset=str(small_npz), hidden=(8,), epochs=2, batch_size=16, n_models=16)
    return experiment, samlib.run(experiment, cluster=client, cache_dir=tmp_path / "store")


def test_recorded_runs_come_back_to_half_precision_and_need_no_data(trained, small_npz, tmp_path):
    experiment, runs = trained
    path = save_runs(runs, tmp_path / "results")
    small_npz.unlink()
    again = samlib.run(experiment, recorded=tmp_path / "results")
    for name in again:
        if runs[name].dtype == bool or runs[name].ndim == 1:
            xr.testing.assert_equal(again[name], runs[name])
        else:
            assert again[name].dtype == np.float32
            np.testing.assert_array_equal(again[name], runs[name].values.astype(np.float16).astype(np.float32))
    assert set(runs) - set(again) == {"test_entropy", "test_modified_entropy"}
    for name, value in runs.attrs.items():
        assert again.attrs[name] == (value if name != "store" else str(path)), name
    save_runs(runs, tmp_path / "some", ["logit"])
    assert set(samlib.run(experiment, recorded=tmp_path / "some")) == set(again) - {
        "entropy",
        "modified_entropy",
        "test_logit",
    }
    few = samlib.run(experiment.but(n_models=3), recorded=tmp_path / "results")
    xr.testing.assert_equal(few, again.isel(model=slice(3)))
    assert few.attrs["seconds"] == pytest.approx(runs.attrs["seconds"] * 3 / 16, abs=1e-3)


def test_records_of_two_files_of_one_name_are_two(trained, small_npz, client, tmp_path):
    first, runs = trained
    with np.load(small_npz) as file:
        arrays = dict(file)
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / small_npz.name, **arrays | {"x_train": arrays["x_train"] + 1})
    second = first.but(dataset=str(tmp_path / "other" / small_npz.name))
    save_runs(runs, tmp_path)
    assert second.key == first.key
    assert load_runs(second, tmp_path) is None
    save_runs(samlib.run(second, cluster=client, cache_dir=tmp_path / "store"), tmp_path)
    for experiment in (first, second):
        found = load_runs(experiment, tmp_path)
        assert found.attrs["data_checksum"] == samlib.load_dataset(experiment.dataset).checksum
    small_npz.unlink()
    assert load_runs(first, tmp_path) is None  # nothing says which of the two it was


def test_what_is_not_recorded_is_trained(trained, client, tmp_path):
    experiment, runs = trained
    save_runs(runs, tmp_path / "results")
    assert load_runs(experiment.but(n_models=24), tmp_path / "results") is None
    assert load_runs(experiment.but(seed=1), tmp_path / "results") is None
    assert load_runs(experiment, tmp_path / "nowhere") is None
    more = samlib.run(experiment.but(n_models=24), cluster=client, cache_dir=tmp_path / "store", recorded=tmp_path)
    assert more.sizes["model"] == 24


@pytest.mark.parametrize("damage", ["flip", "cut", "other key"])
def test_recorded_runs_that_were_changed_are_refused(trained, tmp_path, damage):
    experiment, runs = trained
    path = save_runs(runs, tmp_path)
    if damage == "other key":
        path = path.rename(tmp_path / f"{experiment.but(seed=1).key}.npz")
        experiment = experiment.but(seed=1)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        arrays["logit"][0, 0, 0] ^= 1
        np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"recorded.*record (it|them) again\.$") as error:
        samlib.run(experiment, recorded=tmp_path)
    assert "\n" not in str(error.value)
