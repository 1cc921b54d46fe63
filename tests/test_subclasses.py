"""The data set whose subclasses are known: what it is, how it travels, and what is measured against it."""

import numpy as np
import pandas as pd
import pytest
from simulated import swapped

from samlib import Experiment, load_dataset, memorization, run
from samlib.audit import align, attack_scores
from samlib.data.generated import subclasses
from samlib.estimators import influence
from samlib.evaluation import evaluate
from samlib.paper import records
from samlib.paper.frames import Section
from samlib.paper.subclasses import (
    BETWEEN,
    GROUPS,
    NAMES,
    measure,
    subclass_densities,
    subclass_differences,
    subclass_table,
)


@pytest.fixture(scope="module")
def data():
    return load_dataset("subclasses")


def test_it_is_the_same_on_every_machine(data):
    assert data.checksum == "9fda9ee638c8a16607037fb9e94ac213c7c07d5fba0703440eefbcb67741ee20"
    assert (data.x_train.shape, data.x_test.shape, len(data.classes)) == ((4000, 256), (1000, 256), 20)
    assert data.x_train.dtype == np.float32


def test_its_means_are_those_of_definition_1(data):
    """Anti-aligned within a class, -a c, orthogonal between classes; noise of one deviation; exact shares everywhere."""
    x, y, rare = data.x_train.astype(float), data.y_train, data.subclass_train == 1
    assert rare.mean() == (data.subclass_test == 1).mean() == 0.2
    means = np.stack([[x[(y == k) & (rare == side)].mean(0) for side in (False, True)] for k in range(20)])
    inner = np.einsum("iaf,jbf->iajb", means, means)
    own = inner[np.arange(20), :, np.arange(20)]
    assert own[:, 0, 0].mean() == pytest.approx(1, abs=0.06)
    assert own[:, 1, 1].mean() == pytest.approx(0.8**2 + 0.4**2, abs=0.2)  # 256 noise terms of .16**2 / 40
    assert own[:, 0, 1].mean() == pytest.approx(-0.4, abs=0.02)
    between = inner[~np.eye(20, dtype=bool)[:, None, :, None] & np.ones(inner.shape, bool)]
    assert np.abs(between).max() < 0.25
    noise = np.concatenate(
        [x[(y == k) & (rare == side)] - means[k, int(side)] for k in range(20) for side in (False, True)]
    )
    assert noise.std() == pytest.approx(0.16, abs=0.003)


def test_a_pool_cuts_the_subclasses_too_and_they_are_part_of_the_checksum_only_where_known(data):
    part = load_dataset("subclasses", pool=401)
    assert np.array_equal(part.subclass_train, data.subclass_train[:401])
    assert np.array_equal(part.subclass_test, data.subclass_test)
    assert load_dataset("digits").subclass_train is None
    # the checksum of digits before there were subclasses
    assert load_dataset("digits").checksum == "6c4413a27a79d7a3886a694ab01b580402544643d6833765d0b227978dee2172"
    found = subclasses(every=4)
    assert found.subclass[0].mean() == 0.25


@pytest.fixture(scope="module")
def pair(client, tmp_path_factory):
    fields = {"dataset": "subclasses", "n_models": 32, "epochs": 4, "pool": 400}
    cache = tmp_path_factory.mktemp("cache")
    runs = {o: run(Experiment(optimizer=o, **fields), cluster=client, cache_dir=cache) for o in ("sgd", "sam")}
    return align(runs)


@pytest.mark.slow
def test_runs_and_records_know_the_subclass_of_every_example(pair, data, tmp_path):
    assert np.array_equal(pair.sgd.subclass, data.subclass_train[:400])
    assert pair.sgd.subclass.dims == ("example",)
    assert np.array_equal(pair.sam.test_subclass, data.subclass_test)
    path = records.save(tmp_path, {}, records.provenance(pair[:2]), pair)
    kept = records.load_signals(path).sgd
    assert np.array_equal(kept.subclass, pair.sgd.subclass)
    assert np.array_equal(kept.test_subclass, pair.sgd.test_subclass)


@pytest.fixture(scope="module")
def frames(pair):
    return measure(pair)


@pytest.mark.slow
def test_the_tables_are_means_within_groups(pair, frames):
    found, carries, told = (frames[name] for name in NAMES[:3])
    for column, runs in (("sgd", pair.sgd), ("sam", pair.sam)):
        score = memorization(runs.correct.values, runs.member.values).value
        means = [score[runs.subclass.values == code].mean() for code in (0, 1)]
        assert found.loc["memorization", column].to_numpy() == pytest.approx([*means, means[1] - means[0]])
        right = runs.test_correct.values.mean(0)
        means = [right[runs.test_subclass.values == code].mean() for code in (0, 1)]
        assert found.loc["test accuracy", column].to_numpy() == pytest.approx([*means, means[1] - means[0]])
        carried = influence(runs.test_correct.values, runs.member.values).value
        same = runs.test_label.values[:, None] == runs.label.values
        for code, group in enumerate(("majority", "minority")):
            pairs = same & (runs.test_subclass.values == code)[:, None]
            means = [carried[pairs & (runs.subclass.values == c)].mean(dtype=float) for c in (0, 1)]
            row = carries.loc[f"influence on the {group}", column]
            assert row.to_numpy() == pytest.approx([*means, means[1] - means[0]], abs=1e-6)
    attacked = attack_scores(pair.sam, ("confidence",))
    rare = pair.sgd.subclass.values == 1
    aucs = [
        evaluate(s[rare], m[rare]).auc.value
        for s, m in zip(attacked.scores["confidence"], attacked.member, strict=True)
    ]
    assert told.loc[("AUC, confidence", "minority"), "sam"] == pytest.approx(np.mean(aucs))
    for table in (found, carries, told):
        assert (table["low"] <= table["difference"]).all()
        assert (table["difference"] <= table["high"]).all()
        between = table.xs("minority − majority", level="group")["difference"]
        apart = table.xs("minority", level="group")["difference"] - table.xs("majority", level="group")["difference"]
        np.testing.assert_allclose(between, apart, atol=1e-12)
    assert frames["densities"].groupby(["optimizer", "group"])["share"].sum().to_numpy() == pytest.approx(1)


@pytest.mark.slow
def test_exchanging_the_optimizers_mirrors_every_difference_and_order_changes_nothing(pair, frames):
    there = measure(swapped(pair))
    rng = np.random.default_rng(0)
    order = {dim: rng.permutation(pair.sgd.sizes[dim]) for dim in ("model", "example", "test")}
    moved = measure(pair._replace(sgd=pair.sgd.isel(order), sam=pair.sam.isel(order)))
    for name in NAMES[:3]:
        np.testing.assert_allclose(frames[name]["difference"], -there[name]["difference"], atol=1e-15)
        np.testing.assert_allclose(frames[name]["low"], -there[name]["high"], atol=1e-15)
        pd.testing.assert_frame_equal(frames[name], moved[name], atol=1e-9)


@pytest.mark.slow
def test_influence_varies_over_test_points_too(pair, frames):
    """Its interval is wider than that of the models and examples, with the test points taken as given."""
    rows = frames["influence"].loc["influence on the minority"]
    ours = pair.sgd.subclass.values == 1
    gap = []
    for runs in pair[:2]:
        carried = influence(runs.test_correct.values, runs.member.values).value
        same = (runs.test_label.values[:, None] == runs.label.values) & (runs.test_subclass.values == 1)[:, None]
        gap.append(np.where(same, carried, np.nan)[:, ours])
    by_point = [row[~np.isnan(row)].mean() for row in gap[1] - gap[0] if not np.isnan(row).all()]
    points = np.std(by_point, ddof=1) / len(by_point) ** 0.5
    low, high = rows.loc["minority", ["low", "high"]]
    assert high - low > 2 * points


@pytest.mark.slow
def test_figures_and_sentences_say_where_nothing_is_known(pair, frames, tmp_path):
    unknown = measure(pair._replace(sgd=pair.sgd.drop_vars("subclass")))
    found = Section({"subclasses": frames, "digits": unknown})
    table = frames["memorization"]
    assert len(subclass_densities(found).axes) == 2
    axes = subclass_differences(found, "memorization").axes
    assert len(axes) == 2
    np.testing.assert_allclose(axes[1].lines[0].get_xdata().astype(float), table["difference"])
    said = subclass_table(found, "memorization").data
    assert said.index[:3].tolist() == [("Subclasses", "memorization", group) for group in (*GROUPS, BETWEEN)]
    assert said["difference"].tolist() == [f"{gap:+.4f}" for gap in table["difference"]]
    nothing = Section({"digits": unknown})
    hidden = (
        subclass_densities(nothing),
        subclass_differences(nothing, "attacks"),
        subclass_table(nothing, "influence"),
    )
    for show in hidden:
        assert "Not shown on Digits" in show.data
    for each in (frames, unknown):
        for name, frame in each.items():
            frame.to_parquet(tmp_path / name)
