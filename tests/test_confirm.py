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
def test_a_call_that_ends_early_says_so_and_the_next_ones_keep_each_part(few, monkeypatch, tmp_path):
    early = CliRunner().invoke(app, ["confirm", "digits", "--minutes", "0.0001", "--folder", str(few)])
    assert early.exit_code == 0, early.output
    assert "Not all models are there yet" in early.output
    assert not few.exists()
    whole = CONFIRM["digits"]
    monkeypatch.setitem(CONFIRM, "digits", {name: whole[name] for name in whole if name not in ("lengths", "others")})
    path, missing = confirm.make("digits", few)
    assert missing == []
    first = json.loads((path / records.ABOUT).read_text())
    assert records.sections(path) == set(confirm.SECTIONS)
    monkeypatch.setitem(CONFIRM, "digits", whole)
    assert "- Digits: the runs of other lengths and the runs of other seeds\n" in confirm.incomplete(few).data
    monkeypatch.setenv("SAMLIB_CACHE", str(tmp_path / "another machine's"))
    asked = CliRunner().invoke(app, ["confirm", "digits", "--minutes", "0.0001", "--folder", str(few)])
    assert str(path) in asked.stdout.splitlines()
    assert "Not all models are there yet" in asked.output
    added = CliRunner().invoke(app, ["confirm", "digits", "--folder", str(few)])
    assert added.exit_code == 0, added.output
    assert str(path) in added.stdout.splitlines()
    assert [*few.iterdir()] == [path]
    trained = [
        json.loads(line) for log in tmp_path.glob("another*/runs/*.jsonl") for line in log.read_text().splitlines()
    ]
    assert (
        sum(end - start for start, end in (group["models"] for group in trained)) == 2 * 3 * 8
    )  # none of the main run
    about = json.loads((path / records.ABOUT).read_text())
    assert about["models"] == [16, 16]
    assert about["fixed"]
    assert first["all_seconds"] == pytest.approx(first["seconds"], abs=0.1) == pytest.approx(about["seconds"], abs=0.1)
    assert about["all_seconds"] > about["seconds"]
    assert {name: about["files"][name] for name in first["files"]} == first["files"]
    assert "Digits" not in confirm.incomplete(few).data
    assert (
        "- Location-30: the main run, the runs of other lengths and the runs of other seeds"
        in confirm.incomplete(few).data
    )
    frames = {section: records.load(path, section) for section in (*confirm.SECTIONS, "lengths", "seeds")}
    assert frames["seeds"]["effects"].index.get_level_values("seed").unique().tolist() == [2]
    assert sorted(frames["lengths"]["curves"]["epochs"].unique()) == [2, 4]
    assert frames["shadows"]["shadows"].index.get_level_values("models").unique().tolist() == [8, 16]
    assert records.load_signals(path).sgd.sizes["model"] == 16


def test_a_run_that_was_fixed_for_some_claims_decides_no_other(few, monkeypatch):
    short = {"seed": 1, "n_models": 8, "epochs": 2, "hidden": (16,), "decides": ["C1", "C2 RMIA"]}
    monkeypatch.setitem(CONFIRM, "digits", short)
    path, missing = confirm.make("digits", few)
    assert missing == []
    assert records.sections(path) == {"membership"}
    effects = records.load(path, "membership")["effects"]
    assert sorted(effects.index) == ["C1", "C2 RMIA"]
    about = {**records.read_about(path), "live": False}
    ledger = claims.ledger_of({"digits": effects}, {"digits": claims.cost(about)})
    assert set(ledger.index[ledger["estimate"].notna()]) == {("C1", "digits"), ("C2 RMIA", "digits")}
    assert (ledger["level"] == frames.EACH).all()  # fewer rows do not make its intervals narrower
    assert claims.outlook(ledger.loc[("C16", "digits")]) == "This run was fixed to decide other claims."
    assert (ledger.loc[("C16", "digits"), "verdict"], bool(ledger["confirmatory"].all())) == ("not measurable", True)


def test_a_data_set_without_a_fixed_run_is_named():
    with pytest.raises(ValueError, match="dataset"):
        confirm.experiments("purchase100")
