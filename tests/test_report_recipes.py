"""The recipes of book/audit.md write files that can be audited, and the page names every array."""

import re
from pathlib import Path

import numpy as np
import pytest

from samlib import audit_file
from samlib.report.files import ARRAYS
from samlib.report.tables import MEASURES

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "book" / "audit.md").read_text()
README = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
RECIPES = dict(re.findall(r"```\{code-block\} python\n:name: recipe-(\w+)\n(.*?)```", PAGE, re.DOTALL))


def test_the_page_names_every_array_and_measure():
    assert [name for name in (*ARRAYS, *MEASURES) if f"`{name}`" not in PAGE] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sklearn", "boosting", "torch"])
def test_a_recipe_writes_a_file_that_is_audited(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = RECIPES[name]
    assert len(code.splitlines()) <= 16
    if name == "torch":
        import torch

        torch.manual_seed(0)
    exec(compile(code, name, "exec"), {})
    found = audit_file("signals.npz")
    assert found.best == "LiRA online"
    risk = found.tables["risk"].set_index(["attack", "measure"])
    assert 0.45 < risk.loc[("LiRA online", "auc"), "value"] < 0.9
    if name == "boosting":  # what is memorized is real
        assert found.tables["memorization"]["low"][0] > 0
        assert risk.loc[("LiRA online", "auc"), "low"] > 0.5
        with np.load("signals.npz") as file:
            assert file["correct"][file["member"]].mean() > 0.99


@pytest.mark.slow
def test_the_first_lines_of_the_readme_write_a_file_of_one_model(tmp_path, monkeypatch):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x, y, member = rng.normal(size=(300, 4)), rng.integers(0, 3, 300), rng.random(300) < 0.5
    monkeypatch.chdir(tmp_path)
    exec(
        README[0], {"np": np, "model": LogisticRegression().fit(x[member], y[member]), "x": x, "y": y, "member": member}
    )
    found = audit_file("signals.npz")
    assert found.best == "population"
    assert not found.guessed


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=["scikit-learn", "PyTorch"])
def test_the_lines_of_the_readme_write_such_a_file(part, tmp_path, monkeypatch):
    import torch
    from sklearn.linear_model import LogisticRegression

    lines = README[1].split("\n\n")[part]
    rng = np.random.default_rng(0)
    x, y, member = rng.normal(size=(90, 4)), rng.integers(0, 3, 90), rng.random((8, 90)) < 0.5
    models = [LogisticRegression().fit(x[inside], y[inside]) for inside in member]
    if part:
        x, y = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
        models = [torch.nn.Linear(4, 3) for _ in member]
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        exec(lines, {"np": np, "F": torch.nn.functional, "models": models, "x": x, "y": y, "member": member})
    assert audit_file("signals.npz").best == "LiRA online"
    assert not audit_file("signals.npz").guessed
