"""Records keep what they came from, and are refused where that is not what they say."""

import json

import pandas as pd
import pytest
from test_claims import simulate

from samlib import claims, figures
from samlib.audit import align
from samlib.experiment import Experiment


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
