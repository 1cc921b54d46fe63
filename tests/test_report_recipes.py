"""The recipes of book/audit.md write files that can be audited, and the page names every array."""

import re
from pathlib import Path

import numpy as np
import pytest

from samlib import audit_file
from samlib.report.files import ARRAYS
from samlib.report.tables import MEASURES

PAGE = (Path(__file__).parents[1] / "book" / "audit.md").read_text()
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
