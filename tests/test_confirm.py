"""The recorded runs that decide are those that were written down, trained in blocks, and kept whole."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from samlib.cli import app
from samlib.paper import claims, confirm, frames, records
from samlib.paper.study import CONFIRM

PAGE = Path(__file__).parents[1] / "book" / "preregistration.md"


@pytest.fixture
def few(monkeypatch, tmp_path):
    """A fixed run that takes seconds."""
    monkeypatch.setenv("SAMLIB_CACHE", str(tmp_path / "cache"))
    fixed = {"seed": 1, "n_models": 16, "epochs": 4, "hidden": (16,)}
    fixed |= {"lengths": {"n_models": 8, "epochs": [2, 4]}, "others": {"n_models": 8, "seeds": [2]}}
    monkeypatch.setitem(CONFIRM, "digits", fixed)
    return tmp_path / "results"


@pytest.mark.parametrize("dataset", CONFIRM)
def test_they_are_those_of_the_page(dataset):
    row = next(line for line in PAGE.read_text().splitlines() if re.match(rf"\| \d \| `{dataset}`", line))
    wanted = confirm.experiments(dataset)
    (main,) = (two["sam"] for (kind, _), two in wanted.items() if kind == "main")
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[2].startswith(f"`{main.model}`, {main.epochs}")
    assert cells[3] == f"{main.n_models:,}"
    assert cells[5] == str(main.seed)
    if over := [str(value) for kind, value in wanted if kind == "epochs"]:
        (n_models,) = {two["sgd"].n_models for (kind, _), two in wanted.items() if kind == "epochs"}
        assert cells[4].removesuffix(" epochs") == f"{n_models} pairs each of {', '.join(over)}"
    if others := {value: two["sgd"].n_models for (kind, value), two in wanted.items() if kind == "seed"}:
        assert others == {2: 256, 3: 256}
    assert "| 3 | each of these three again | the same | 256 and 256 | none | 2 and 3 |" in PAGE.read_text()


@pytest.mark.slow
def test_a_call_that_ends_early_says_so_and_a_later_one_keeps_the_record(few, monkeypatch, tmp_path):
    early = CliRunner().invoke(app, ["confirm", "digits", "--minutes", "0.0001", "--folder", str(few)])
    assert early.exit_code == 0, early.output
    assert "Not all models are there yet" in early.output
    assert not few.exists()
    assert "- Digits\n" in confirm.incomplete(few).data
    done = CliRunner().invoke(app, ["confirm", "digits", "--folder", str(few)])
    assert done.exit_code == 0, done.output
    (path,) = few.iterdir()
    assert str(path) in done.stdout.splitlines()
    assert "Digits" not in confirm.incomplete(few).data
    assert "- Location-30" in confirm.incomplete(few).data
    monkeypatch.setenv("SAMLIB_CACHE", str(tmp_path / "another machine's"))
    assert confirm.make("digits", few) == path
    assert not (tmp_path / "another machine's").exists()  # what has a record is not trained again
    about = json.loads((path / records.ABOUT).read_text())
    assert about["models"] == [16, 16]
    assert about["fixed"]
    assert about["all_seconds"] > about["seconds"]
    kept = {section: records.load(path, section) for section in (*confirm.SECTIONS, "lengths", "seeds")}
    assert records.sections(records.read_about(path)) == set(kept)
    assert kept["seeds"]["effects"].index.get_level_values("seed").unique().tolist() == [2]
    assert sorted(kept["lengths"]["curves"]["epochs"].unique()) == [2, 4]
    assert kept["shadows"]["shadows"].index.get_level_values("models").unique().tolist() == [8, 16]
    assert records.load_signals(path).sgd.sizes["model"] == 16


@pytest.mark.slow
def test_a_run_that_was_fixed_for_some_claims_decides_no_other(few, monkeypatch):
    short = {"seed": 1, "n_models": 8, "epochs": 2, "hidden": (16,), "decides": ["C1", "C2 RMIA"]}
    monkeypatch.setitem(CONFIRM, "digits", short)
    path = confirm.make("digits", few)
    assert records.sections(records.read_about(path)) == {"membership", "subclasses", "shadows"}
    effects = records.load(path, "membership")["effects"]
    assert sorted(effects.index) == ["C1", "C2 RMIA"]
    about = {**records.read_about(path), "live": False}
    ledger = claims.ledger_of({"digits": effects}, {"digits": claims.cost(about)})
    assert set(ledger.index[ledger["estimate"].notna()]) == {("C1", "digits"), ("C2 RMIA", "digits")}
    assert (ledger["level"] == frames.EACH).all()  # fewer rows do not make its intervals narrower
    assert claims.outlook(ledger.loc[("C16", "digits")]) == "This run was fixed to decide other claims."
    assert (ledger.loc[("C16", "digits"), "verdict"], bool(ledger["confirmatory"].all())) == ("not measurable", True)
    monkeypatch.setitem(CONFIRM, "digits", short | {"lengths": {"n_models": 8, "epochs": [1, 2]}})
    assert confirm.recorded(confirm.experiments("digits"), few) is None  # lengths were added, and the record lacks them


def test_a_data_set_without_a_fixed_run_is_named():
    with pytest.raises(ValueError, match="dataset"):
        confirm.experiments("purchase100")
