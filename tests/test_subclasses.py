"""The data set whose subclasses are known: what it is, how it travels, and what is measured against it."""

import numpy as np
import pandas as pd
import pytest
from samlib.claims import attacks_by_subclass, influence_by_subclass, memorization_by_subclass
from samlib.figures import origin, subclass_densities, subclass_differences, subclass_sentences, subclass_table

from samlib import Experiment, load_dataset, memorization, run
from samlib.audit import align, attack_scores
from samlib.data.generated import subclasses
from samlib.estimators import influence
from samlib.evaluation import evaluate
from samlib.runs import load_runs, save_runs


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
    assert found["subclass"][0].mean() == 0.25


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
    save_runs(pair.sgd, tmp_path)
    kept = load_runs(Experiment(optimizer="sgd", dataset="subclasses", n_models=32, epochs=4, pool=400), tmp_path)
    assert kept.subclass.equals(pair.sgd.subclass)
    assert kept.test_subclass.equals(pair.sgd.test_subclass)
    assert origin(pair).data.startswith("*Live: 32 models each of SGD and SAM on Subclasses")
    assert origin(pair._replace(sgd=kept)).data.startswith("*Recorded: 32 models")


@pytest.mark.slow
def test_the_tables_are_means_within_groups(pair):
    found = memorization_by_subclass(pair)
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
            rows = runs.test_subclass.values == code
            each = np.where(same[rows], carried[rows], 0).sum(0) / same[rows].sum(0)
            means = [each[runs.subclass.values == c].mean() for c in (0, 1)]
            table = influence_by_subclass(pair).loc[f"influence on the {group}", column]
            assert table.to_numpy() == pytest.approx([*means, means[1] - means[0]], abs=1e-6)
    scores = [attack_scores(runs) for runs in pair[:2]]
    table = attacks_by_subclass(pair, *scores)
    rare = pair.sgd.subclass.values == 1
    aucs = [
        evaluate(s[rare], m[rare]).auc.value
        for s, m in zip(scores[1].scores["confidence"], scores[1].member, strict=True)
    ]
    assert table.loc[("AUC, confidence", "minority"), "sam"] == pytest.approx(np.mean(aucs))
    assert (table["low"] <= table["difference"]).all()
    assert (table["difference"] <= table["high"]).all()


@pytest.mark.slow
def test_exchanging_the_optimizers_mirrors_every_difference(pair):
    here, there = (memorization_by_subclass(p) for p in (pair, pair._replace(sgd=pair.sam, sam=pair.sgd)))
    pd.testing.assert_series_equal(here["difference"], -there["difference"])
    assert np.allclose(here["low"], -there["high"], atol=1e-3)


@pytest.mark.slow
def test_figures_and_sentences_say_where_nothing_is_known(pair):
    table = memorization_by_subclass(pair)
    assert len(subclass_densities(pair).axes) == 2
    assert len(subclass_differences(table).axes) == 4
    assert "minority less the majority" in subclass_sentences(table).data
    unknown = pair._replace(sgd=pair.sgd.drop_vars("subclass"))
    assert memorization_by_subclass(unknown) is influence_by_subclass(unknown) is None
    for shown in (
        subclass_densities(unknown),
        subclass_differences(None),
        subclass_sentences(None),
        subclass_table(None),
    ):
        assert "nobody knows the subclasses" in shown.data
