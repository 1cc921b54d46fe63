"""A notebook's one line: parameters checked, frames measured once, and records shown instead of training."""

import re

import pandas as pd
import pytest
from simulated import simulate

import samlib
from samlib.audit import align
from samlib.data import NotAtHand
from samlib.experiment import ParameterError
from samlib.paper import claims, memorization, notebook, records

SMALL = {"dataset": "digits", "n_models": 16, "epochs": 1}


def test_parameters_are_checked_before_anything_is_trained():
    found = samlib.study({**SMALL, "rho": 0.2, "results": None, "np": pd, "_private": 3})
    assert found.experiments["digits"]["sam"].rho == 0.2
    assert found.name == "SAM"
    several = samlib.study(
        {"datasets": ["digits", "subclasses"], "optimizer": "asam", "missing": {"x": "gone"}, "others": {}}
    )
    assert list(several.experiments) == ["digits", "subclasses"]
    assert several.name == "ASAM"
    assert several.missing == {"x": "gone"}
    assert next(iter(samlib.study({**SMALL, "changed": ["rho"]}).experiments["digits"]))[0] == "rho"
    assert list(samlib.study({**SMALL, "optimizers": ["ema"]}).experiments["digits"]) == ["ema"]
    for bad, said in (
        ({"rhoo": 1}, "There is no parameter 'rhoo'"),
        ({"rho": "much"}, "Parameter 'rho' = 'much'"),
        ({"datasets": "digits"}, "datasets must be a list"),
        ({"datasets": [3]}, "datasets must be a list"),
        ({"changed": ["colour"]}, "changed must be a list of some of"),
    ):
        with pytest.raises(ParameterError, match=said) as error:
            samlib.study({**SMALL, **bad})
        assert "\n" not in str(error.value)


def recorded(folder, models=16, **fields):
    """A record of simulated runs on digits, as if trained."""
    experiments = samlib.study({**SMALL, **fields, "n_models": models}).experiments["digits"]
    runs = align(
        {
            name: simulate(seed, leak=seed, skill=0, models=models).assign_attrs(
                experiment=e.model_dump_json(), key=e.key
            )
            for seed, (name, e) in enumerate(experiments.items(), 1)
        }
    )
    parts = {"memorization": memorization.measure(runs)}
    return records.save(folder, parts, records.provenance(runs[:2])), parts["memorization"]


def test_a_record_is_shown_and_nothing_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "run_pairs", lambda *a, **k: pytest.fail("models were trained"))
    path, measured = recorded(tmp_path)
    study = samlib.study({**SMALL, "results": str(tmp_path)})
    frames = study.frames("memorization")["digits"]
    for name, frame in measured.items():
        pd.testing.assert_frame_equal(frames[name], frame)
    assert study.record("digits") == path
    assert study.origin().data.startswith("*Recorded: 16 models of each optimizer on Digits")
    row = claims.decide(measured["effects"], [c for c in claims.CLAIMS if c.id == "C3"], 16)[0]
    card = study.verdict("C3").data
    assert card.startswith(f"**C3.** The paper says: {row['text']}")
    assert f"On Digits: **{row['verdict']}**. {row['estimate']:+.4f} (" in card
    assert "16 models of each, 1 epoch, recorded, exploratory" in card


def test_a_data_set_named_alone_is_the_only_one():
    both = {**SMALL, "datasets": ["location30", "subclasses"]}
    assert list(samlib.study(both).experiments) == ["digits"]
    assert list(samlib.study({**both, "dataset": None}).experiments) == ["location30", "subclasses"]


def test_a_page_shows_the_record_of_most_models_of_any_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "run_pairs", lambda *a, **k: pytest.fail("models were trained"))
    recorded(tmp_path)
    path, measured = recorded(tmp_path, models=24, seed=1)
    recorded(tmp_path, models=32, rho=0.2)  # of another radius, which nobody asked for
    study = samlib.study({**SMALL, "results": str(tmp_path)})
    found = study.frames("memorization")
    pd.testing.assert_frame_equal(found["digits"]["examples"], measured["examples"])
    assert study.shown("digits") == path
    assert found.titles == {"digits": "Digits: MLP, 24 + 24"}
    assert found.name == "SAM"
    said = study.origin()
    assert said.data.startswith("*Recorded: 24 models of each optimizer on Digits (MLP, pool all, 1 epochs)")
    assert said.metadata["runs"] == {"Digits": "Digits (MLP, pool all, 1 epochs, recorded: 24 of each)"}
    assert said.metadata["models"] == {"Digits": 48}
    assert re.fullmatch(r"\d+\.\d s on Digits \(.+\)", said.metadata["pair"]["Digits"])
    few = samlib.study({"dataset": "digits", "profile": "smoke", "epochs": 1, "results": str(tmp_path)})
    assert few.shown("digits") == path  # what a profile changes is no wish of the reader's


def test_live_runs_of_more_models_are_shown_unless_the_data_are_gone(tmp_path, monkeypatch):
    path, _ = recorded(tmp_path)
    asked = {**SMALL, "n_models": 40, "results": str(tmp_path)}
    monkeypatch.setattr(notebook, "run_pairs", lambda *a, **k: {})
    assert samlib.study(asked).shown("digits") is None

    def gone(*args):
        raise NotAtHand("gone")

    monkeypatch.setattr(notebook, "run_pairs", gone)
    assert samlib.study(asked).shown("digits") == path
    with pytest.raises(NotAtHand):
        samlib.study({**asked, "results": None}).about("digits")


@pytest.mark.slow
def test_what_is_measured_is_kept_and_measured_once(tmp_path, monkeypatch):
    study = samlib.study({**SMALL, "results": str(tmp_path)})
    first = study.frames("memorization")["digits"]
    assert study.origin().data.startswith("*Live: 16 models of each optimizer on Digits")
    assert study.pairs["digits"].sgd.sizes["model"] == 16
    monkeypatch.setattr(memorization, "measure", lambda pair: pytest.fail("measured again"))
    again = samlib.study(SMALL).frames("memorization")["digits"]
    for name, frame in first.items():
        pd.testing.assert_frame_equal(again[name], frame)
    monkeypatch.setattr(notebook, "_code", lambda: "other code")  # another library measures anew
    with pytest.raises(pytest.fail.Exception, match="measured again"):
        samlib.study(SMALL).frames("memorization")


def effects(value):
    return pd.DataFrame(
        {"estimate": [value], "stderr": [0.001], "df": [50.0], "by_models": [1e-6], "reliability": [1.0]},
        index=pd.Index(["C1"], name="claim"),
    )


def test_the_ledger_of_a_study_stands_beside_its_records(tmp_path, monkeypatch):
    """Two records of one data set are two columns; of each data set the one of most models counts; other optimizers do not."""
    monkeypatch.setattr(claims, "SECTIONS", ("membership",))
    monkeypatch.setattr(notebook, "run_pairs", lambda *a, **k: pytest.fail("models were trained"))
    for seed, models, value, optimizer in (
        (0, 16, 0.02, "sam"),
        (1, 64, -0.02, "sam"),
        (2, 32, 0.0, "sam"),
        (3, 99, 9, "asam"),
    ):
        given = {**SMALL, "n_models": models, "seed": seed, "optimizer": optimizer}
        runs = [
            simulate(1, leak=1, skill=0, models=models).assign_attrs(experiment=e.model_dump_json(), key=e.key)
            for e in samlib.study(given).experiments["digits"].values()
        ]
        about = records.provenance(runs) | ({"fixed": True} if seed else {})
        lengths = effects(value).rename({"C1": "C2 LiRA at equal train loss, 1/2"})
        records.save(tmp_path, {"membership": {"effects": effects(value)}, "lengths": {"effects": lengths}}, about)
    study = samlib.study({**SMALL, "results": str(tmp_path)})
    ledger = study.ledger()
    own, *others = ledger.index.unique("dataset")
    assert own == "digits"
    assert len(others) == 2
    assert all(column.startswith("digits, recorded") for column in others)
    assert ledger.loc[("C1", own), "verdict"] == claims.SUPPORTED
    assert not ledger.loc[("C1", own), "confirmatory"]
    found = {ledger.loc[("C1", column), "models"]: ledger.loc[("C1", column)] for column in others}
    assert {models: row["verdict"] for models, row in found.items()} == {
        128: claims.CONTRADICTED,
        64: claims.INCONCLUSIVE,
    }
    assert all(row["confirmatory"] for row in found.values())
    assert list(ledger.index.unique("dataset")) == list(study.sources())
    assert (
        ledger.loc["C2 LiRA at equal train loss, 1/2", "estimate"] == ledger.loc["C1", "estimate"]
    ).all()  # its own too
    (largest,) = study.largest()
    assert ledger.loc[("C1", largest), "models"] == 128
    assert study.independent() == [largest]
    assert len(ledger) == 3 * len(claims.CLAIMS)
    assert ledger.loc[("C16", "digits"), "verdict"] == claims.NOT_MEASURABLE


@pytest.mark.parametrize(("fine", "kept"), [(8, "cifar100-coarse, recorded"), (32, "cifar100, recorded")])
def test_two_data_sets_of_the_same_images_count_once(tmp_path, monkeypatch, fine, kept):
    monkeypatch.setattr(claims, "SECTIONS", ("membership",))
    for dataset, models in (("digits", 16), ("cifar100-coarse", 16), ("cifar100", fine), ("subclasses", 16)):
        given = {"dataset": dataset, "n_models": models, "seed": 1}
        runs = [
            simulate(1, leak=1, skill=0, models=models).assign_attrs(experiment=e.model_dump_json(), key=e.key)
            for e in samlib.study(given).experiments[dataset].values()
        ]
        records.save(tmp_path, {"membership": {"effects": effects(0.1)}}, records.provenance(runs))
    study = samlib.study({**SMALL, "seed": 1, "epochs": None, "results": str(tmp_path)})
    assert {name.partition(",")[0] for name in study.largest()} == {
        "digits",
        "cifar100-coarse",
        "cifar100",
        "subclasses",
    }
    assert sorted(study.independent()) == sorted([kept, "digits"])
