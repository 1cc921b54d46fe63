"""Audits of signals whose leak is known: what can be attacked, intervals, single examples, limits."""

import json
import math
import warnings

import numpy as np
import pytest
import xarray as xr
from scipy.special import expit
from simulated import simulate
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

import samlib
from samlib import attacks, audit
from samlib.inference import clopper_pearson
from samlib.report import attacking, audit_file, limits_of, opened, sample
from samlib.report.attacking import CONTROL, attack

pytestmark = pytest.mark.slow


def signals(k=32, n=600, leak=1.0, seed=0, tests=100):
    """Logits that rise by `leak` where a model was trained on an example."""
    rng = np.random.default_rng(seed)
    member = rng.random((k, n)) < 0.5
    logit = rng.normal(size=(k, n)) + rng.normal(size=n) + leak * member
    test = rng.normal(size=(k, tests)) + rng.normal(size=tests)
    return {"logit": logit, "member": member, "test_logit": test}


@pytest.fixture(scope="module")
def leaking():
    data = signals(40) | {"labels": np.arange(600) % 3, "groups": np.array(["<b>", "$x$"])[np.arange(600) % 2]}
    data["logit"][:, 7] += 15 * data["member"][:, 7]  # one example that nobody can miss
    data["logit"][:, data["labels"] == 2] += 2 * data["member"][:, data["labels"] == 2]
    return data, audit_file(data)


def value(found, attack, measure="auc"):
    rows = found.tables["risk"].set_index(["attack", "measure"])
    return rows.loc[(attack, measure)]


def test_attacks_are_those_of_the_library(leaking):
    data, found = leaking
    x, member = data["logit"].astype(np.float32), data["member"]
    others = np.arange(40) != 5
    score = attacks.lira(x[5], x[others], member[others], variance="residual")
    s = sample.scan(sample.given(samlib.report.files.read(data, max_gb=1)[0]))
    np.testing.assert_allclose(attack(s)["LiRA online"][5], score, rtol=1e-5)
    expected = np.mean([roc_auc_score(m, row) for m, row in zip(member, x, strict=True)])
    assert value(found, "confidence")["value"] == pytest.approx(expected)
    assert found.best == "LiRA online"
    assert value(found, "LiRA online")["low"] > 0.7
    control = value(found, CONTROL)
    assert control["low"] < 0.5 < control["high"]
    assert any("control agrees" in said for said in found.said["assumed"])


def test_parts_that_leak_more_stand_out_at_one_level(leaking):
    data, found = leaking
    parts = found.tables["parts"].set_index(["kind", "part"])
    assert list(parts.index.get_level_values("kind")) == ["class"] * 3 + ["group"] * 2
    assert parts.loc[("class", "2"), "low"] > parts.loc[("class", "0"), "high"]
    inside = data["labels"] == 1
    s = attack(sample.scan(sample.given(samlib.report.files.read(data, max_gb=1)[0])))
    alone = samlib.evaluate(s["LiRA online"].values[:, inside], data["member"][:, inside], confidence=1 - 0.05 / 5)
    assert parts.loc[("class", "1"), "low"] == pytest.approx(alone.auc.low)


def test_an_exposed_example_is_found_by_models_that_did_not_choose_it(leaking):
    _, found = leaking
    shown = found.tables["exposed"].set_index("example")
    planted = shown.loc[7]
    assert planted["found_hits"] == planted["found_models"]
    assert planted["accused_hits"] == 0
    assert shown["low"].iloc[0] == shown["low"].max()
    ends = clopper_pearson(planted["found_hits"], planted["found_models"], 1 - 0.05 / (2 * len(shown)))
    assert (planted["found_low"], planted["found_high"]) == pytest.approx(ends)
    assert found.tables["memorization"]["low"].min() > 0


def test_where_nothing_leaks_nothing_is_found():
    """By chance alone: no attack beyond a coin, no example sure, no bound on epsilon, no memorization."""
    for seed in range(3):
        found = audit_file(signals(24, 300, leak=0, seed=seed))
        rows = found.tables["risk"]
        assert (rows["low"][rows["measure"] == "auc"] < 0.5).all()
        assert (rows["value"][rows["measure"] == "epsilon"] < 0.2).all()
        assert not (found.tables["exposed"]["low"] > 0).any()
        assert not (found.tables["influence"]["low"] > 0).any()
        assert found.tables["memorization"]["low"][0] < 0


def test_one_model_is_attacked_by_what_it_says_alone():
    data = signals(1, 2000, leak=1.5) | {"labels": np.arange(2000) % 4, "test_labels": np.arange(100) % 4}
    found = audit_file({name: each[0] if each.ndim == 2 else each for name, each in data.items()})
    assert set(found.tables["risk"]["attack"]) == {"correctness", "confidence", "population", "quantile regression"}
    assert set(found.lacking) >= {"shadows", "exposed", "memorization", "influence"}
    assert found.best == "population"
    assert value(found, "confidence")["low"] > 0.6
    grown = found.tables["more"]
    assert list(grown["examples"]) == [2000, 4000, 8000]
    assert (np.diff(grown["high"] - grown["low"]) < 0).all()


def test_a_target_with_shadows_is_the_only_one_that_is_attacked():
    data = signals(16, 500)
    found = audit_file(data | {"target": np.arange(16) == 3})
    others = np.arange(16) != 3
    kept = (data["member"][others].sum(0) >= 2) & ((~data["member"][others]).sum(0) >= 2)
    x = data["logit"][:, kept].astype(np.float32)
    scores = attacks.lira(x[3], x[others], data["member"][others][:, kept], variance="residual")
    assert value(found, "LiRA online")["value"] == pytest.approx(
        roc_auc_score(data["member"][3, kept], scores), abs=1e-6
    )
    assert {"own_rates", "exposed"} <= set(found.lacking)


def test_shadows_without_the_examples_allow_offline_attacks_alone():
    data = signals(12, 500)
    data["member"][1:] = False
    found = audit_file(data | {"target": np.arange(12) == 0})
    assert found.best == "LiRA offline"
    assert {"online", "memorization", "influence"} <= set(found.lacking)
    assert not {"LiRA online", "RMIA online"} & set(found.tables["risk"]["attack"])


def test_scores_that_are_tied_at_the_top_are_no_safety():
    """A forest says 1 of half of the others: no threshold accuses one in a hundred of them, and nobody is found."""
    data = signals(16)
    found = audit_file(
        {"probability": np.where(data["logit"] > 0, 1.0, expit(data["logit"])), "member": data["member"]}
    )
    row = value(found, "confidence", "tpr@0.01")
    assert row["note"] == "ties"
    assert math.isnan(row["value"])
    curve = found.tables["curves"].query("attack == 'confidence'").set_index("fpr")
    assert curve["tpr"].isna().to_numpy().tolist() == (curve.index < 0.4).tolist()  # 45 % of the others are tied
    alone = found._replace(tables={"risk": found.tables["risk"].query("attack == 'confidence'")})
    assert alone.above({"tpr@0.01": 0.5}) == [
        "tpr@0.01 cannot be measured: too many of the others share the highest score."
    ]
    assert alone.above({"auc": 0.99}) == []
    assert json.loads(found.json())["tables"]["risk"][3]["value"] is None


@pytest.mark.parametrize("k", [1, 16])
@pytest.mark.parametrize("kind", ["probability", "loss", "logit"])
def test_a_model_that_is_always_certain_is_ranked_right(k, kind):
    """A decision tree by the recipe of the README says 0 or 1 of every example."""
    x, y = load_digits(return_X_y=True)
    member = np.random.default_rng(0).random((k, len(x))) < 0.5
    trees = [DecisionTreeClassifier(random_state=0).fit(x[inside], y[inside]) for inside in member]
    p = np.array([tree.predict_proba(x)[np.arange(len(x)), y] for tree in trees])
    assert set(np.unique(p)) == {0, 1}
    with np.errstate(divide="ignore"):
        signal = {"probability": p, "loss": -np.log(p), "logit": np.log(p) - np.log1p(-p)}[kind]
    found = audit_file({kind: signal, "member": member})
    s = sample.scan(sample.given({kind: signal, "member": member}))
    made = attack(s, ("confidence",))
    p = p[:, made.examples]
    expected = np.mean([roc_auc_score(m, row) for m, row in zip(made.member, p, strict=True)])
    assert value(found, "confidence")["value"] == pytest.approx(expected)
    assert value(found, found.best)["low"] > 0.53
    assert not any("control disagrees" in said for said in found.said["assumed"])


def test_a_certain_answer_ranks_beyond_the_surest_other_one():
    """A forest says 1, 0.9, 0.5 and 0: four ranks. The logits of 1 and 0 are infinite."""
    rng = np.random.default_rng(0)
    member = rng.random((4, 900)) < 0.5
    p = np.array([0, 0.5, 0.9, 1])[np.clip(rng.integers(0, 3, (4, 900)) + member, 0, 3)]
    expected = np.mean([roc_auc_score(m, row) for m, row in zip(member, p, strict=True)])
    found = audit_file({"probability": p, "member": member})
    assert value(found, "confidence")["value"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("x", "wanted"),
    [([-np.inf, np.inf], [-1, 1]), ([-np.inf, 0, np.inf], [-1, 0, 1]), ([1, 2], [1, 2]),
     ([-np.inf, 3, np.inf], [-1, 3, 3.0000002]), ([-np.inf, -3, 5], [-3.0000002, -3, 5])],
)  # fmt: skip
def test_infinite_logits_become_the_next_numbers_in_single_precision(x, wanted):
    made = sample._finite(np.array([x], np.float32))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made[0], np.array(wanted, np.float32))


def test_where_classes_are_left_out_the_report_says_so():
    data = signals(8) | {"labels": np.arange(600) % 60, "groups": np.arange(600) % 3}
    found = audit_file(data)
    assert "Of the 63 classes or groups, only the 50 largest of each kind are shown." in found.said["given"]
    assert len(found.tables["parts"]) == 53


@pytest.mark.parametrize("kind", ["loss", "probability"])
def test_any_signal_says_the_same(kind):
    data = signals(12, 200)
    p = expit(data["logit"])
    other = {"loss": -np.log(p), "probability": p}[kind]
    found, again = (
        audit_file(data),
        audit_file({kind: other, "member": data["member"], "population": data["test_logit"] * 0 + 0.5}),
    )
    assert value(again, "LiRA online")["value"] == pytest.approx(value(found, "LiRA online")["value"], abs=1e-3)


def test_a_saturated_model_is_audited():
    data = signals(16, 200, leak=3)
    p = expit(20 * data["logit"]).astype(np.float32)
    assert (p == 1).any()
    found = audit_file({"probability": p, "member": data["member"]})
    rows = found.tables["risk"]
    assert "ties" in set(rows["note"])
    assert np.isfinite(rows.loc[rows["note"] != "ties", ["value", "low"]]).all(axis=None)


def test_members_from_elsewhere_are_told_by_the_control():
    """Where easy examples are members more often, the other models alone tell them, and the report says so."""
    rng = np.random.default_rng(0)
    ease = rng.normal(size=800)
    member = rng.random((20, 800)) < expit(1.5 * ease)
    found = audit_file({"logit": ease + 0.3 * rng.normal(size=(20, 800)), "member": member})
    assert any("control disagrees" in said for said in found.said["assumed"])


def test_points_that_no_model_saw_may_stand_among_the_examples():
    """Half of them then stand outside. Were they attacked too, pure noise would look like a leak."""
    data = signals(10, 400)
    data["member"][:, :160] = False
    del data["test_logit"]
    found = audit_file(data)
    assert "population" in set(found.tables["risk"]["attack"])
    assert "80 examples that no model saw are not attacked. They stand in for test points." in found.said["given"]
    assert not any("drawn at random" in said for said in found.said["given"])
    rng = np.random.default_rng(0)
    noise = {
        "logit": rng.normal(size=(1, 1000)),
        "member": np.arange(1000)[None] < 500,
        "labels": np.arange(1000) % 100,
    }
    alone = value(audit_file(noise), "population")
    assert alone["low"] < 0.5 < alone["high"]
    assert abs(alone["value"] - 0.5) < 0.05


def test_a_large_file_is_sampled_and_searched(monkeypatch):
    data = signals(32, 3000)
    data["logit"][:, 2999] += 15 * data["member"][:, 2999]
    monkeypatch.setattr(sample, "ATTACKED", 32 * 300)
    monkeypatch.setattr(sample, "BLOCK", 32 * 70)
    found = audit_file(data)
    assert found.tables["exposed"]["example"].iloc[0] == 2999
    assert any("300 examples, drawn at random" in said for said in found.said["given"])


def test_where_some_models_alone_are_attacked_as_many_are_of_odd_number_as_of_even(monkeypatch):
    """Every second of 31 would all be even, and no model would be left to measure single examples on."""
    monkeypatch.setattr(attacking, "SCORES", 1)
    found = audit_file(signals(31, 600))
    assert any(said.startswith("16 models, evenly spaced, are attacked") for said in found.said["given"])
    assert len(found.tables["exposed"]) > 0


def test_what_run_returns_can_be_audited():
    runs = simulate(1, leak=2.0, skill=0)
    found = audit.report(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = audit.attack_scores(runs, ("LiRA online",))
    whole = samlib.evaluate(scores.scores["LiRA online"], scores.member)
    assert value(found, "LiRA online")["value"] == pytest.approx(whole.auc.value, abs=1e-6)


def test_a_separated_part_is_not_certain():
    member = np.arange(30)[None] < 15
    whole = samlib.evaluate(member + 0.0, member)
    assert whole.auc.value == 1
    assert whole.auc.low == pytest.approx(clopper_pearson(15, 15)[0])
    assert whole.balanced_accuracy.low == pytest.approx(clopper_pearson(15, 15)[0])


def test_a_loss_by_the_name_of_a_logit_passes_no_limit():
    rng = np.random.default_rng(0)
    member = np.arange(400)[None] < 200
    loss = rng.exponential(size=(1, 400)) + 2.0 * ~member
    right, wrong = audit_file({"loss": loss, "member": member}), audit_file({"logit": loss, "member": member})
    assert right.above({"auc": 0.6})
    assert not any("must be named loss" in said for said in right.said["given"])
    assert wrong.above({"auc": 0.6})[0].startswith("auc of confidence is 0.")
    assert any("On members logit is lower" in said for said in wrong.said["given"])
    assert wrong.above({}) == wrong.above({"auc": 0.99})  # a warning, without a limit too


@pytest.mark.parametrize(
    "data", [signals(16, 200, leak=-6), signals(8, 2) | {"member": np.array([[0, 1], [1, 0]] * 4) == 1}]
)
def test_where_no_example_stands_out_none_is_shown(data):
    found = audit_file({name: data[name] for name in ("logit", "member")})
    assert not len(found.tables.get("exposed", ()))


def test_a_loss_of_any_size_is_a_logit():
    rng = np.random.default_rng(0)
    member = rng.random((1, 300)) < 0.5
    loss = rng.normal(1500, 20, (1, 300)) - 30 * member
    found, same = audit_file({"loss": loss, "member": member}), audit_file({"logit": -loss, "member": member})
    assert value(found, "confidence")["value"] == value(same, "confidence")["value"] > 0.7


def test_labels_of_a_data_set_of_xarray_are_read_in_any_order(leaking):
    data, found = leaking
    runs = xr.Dataset({name: (("model", "example"), data[name]) for name in ("logit", "member")})
    runs = runs.assign_coords(label=("example", data["labels"]))
    for each in (runs, runs.transpose("example", "model")):
        made = audit_file(each)
        assert set(made.tables["parts"]["part"]) == {"0", "1", "2"}
        assert value(made, "confidence")["value"] == value(found, "confidence")["value"]


def test_names_of_groups_are_texts_or_whole_numbers():
    data = signals(8, 60)
    for wrong in (np.array([None, "b"] * 30, object), np.linspace(0, 1, 60)):
        with pytest.raises(ValueError, match=r"^groups must hold whole numbers or texts, not "):
            audit_file(data | {"groups": wrong})
    assert len(audit_file(data | {"groups": np.array(["a", "b"] * 30, object)}).tables["parts"]) == 2


def test_limits(leaking):
    _, found = leaking
    said = found.above(limits_of(["auc=0.6", "tpr@0.1=1"]))
    assert len(said) == 1
    assert said[0].startswith("auc of ")
    assert "above 0.6; its interval begins at" in said[0]
    assert not found.above({"auc": 0.9999999})
    for text in ("auc", "auc=", "auc=x", "auc=nan", "what=1", "auc=1e999", "auc=60", "tpr@0.1=-1", "epsilon=-1"):
        with pytest.raises(ValueError, match="must be a measure and a number; measures are auc") as raised:
            limits_of([text])
        assert str(raised.value).count(f"{text!r}") == 1
    assert limits_of(["epsilon=3"]) == {"epsilon": 3}


@pytest.mark.parametrize("limit", [0.001, 0.999])
def test_a_rate_that_too_few_examples_allow_passes_no_limit(limit):
    """Its value is shown nowhere. Below the limit it passed in silence; above, it failed with that value."""
    found = audit_file(signals(8, 200))
    assert set(found.tables["risk"].query("measure == 'tpr@0.001'")["note"]) == {"too few"}
    said = "tpr@0.001 cannot be measured: there are too few of the others for such a rate."
    assert found.above({"tpr@0.001": limit}) == [said]


def test_an_example_that_is_accused_as_often_as_found_is_not_shown():
    found = audit_file(signals(12, 400, leak=0.3))
    assert 0 < len(found.tables["exposed"]) < 10
    assert (found.tables["exposed"]["gap"] > 0).all()


def test_what_was_read_and_how_lira_was_made_is_said(leaking):
    _, found = leaking
    assert found.said["given"][0].startswith(
        "Read from the file: logit, member, test_logit, labels, groups. Models: 40."
    )
    assert any(
        "LiRA online takes one deviation for all examples (variance residual)" in s for s in found.said["assumed"]
    )
    told = audit_file({"logit": signals(4)["logit"], "member": signals(4)["member"], "lables": np.zeros(600)})
    assert "Arrays whose names mean nothing here are not used: 'lables'; perhaps labels is meant." in told.said["given"]


def test_the_json_of_a_report_opens_as_the_same(leaking, tmp_path):
    _, found = leaking
    path = tmp_path / "report.json"
    path.write_text(found.json())
    again = opened(path)
    assert json.loads(path.read_text())["samlib"] == samlib.__version__
    assert again.said == found.said
    bare = found._replace(tables={"curves": found.tables["curves"].assign(tpr=np.nan)})
    path.write_text(bare.json())
    assert opened(path).tables["curves"]["tpr"].dtype == float  # else no figure of it can be drawn
    for name, table in found.tables.items():
        assert list(again.tables[name]["low" if "low" in table else table.columns[0]]) == pytest.approx(
            list(table["low" if "low" in table else table.columns[0]]), rel=1e-8, nan_ok=True
        )
