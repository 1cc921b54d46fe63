"""Runs of other base seeds beside a recorded one."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from samlib.paper import claims, seeds
from samlib.paper.frames import Section


def effects(**estimates):
    rows = {"estimate": list(estimates.values()), "by_models": 0.0008, "stderr": 1.0}
    return pd.DataFrame(rows, index=pd.Index([name.replace("_", " ") for name in estimates], name="claim"))


@pytest.fixture
def study():
    """Two other seeds, each with an error of sqrt(.0008 + .0008) = .04 beside the recorded run; a data set without."""
    others = {2: effects(C1=0.14, C2_LiRA=0.1, C8=-0.1, other=9.0), 3: effects(C1=0.0, C2_LiRA=0.2, C8=-0.2, other=9.0)}
    own = effects(C1=0.1, C2_LiRA=0.1, C8=0.0)
    kept = {"digits": {"effects": pd.concat(others, names=["seed"])}, "subclasses": {}}

    def frames(section, optional=False):
        if section == "seeds":
            return Section(kept)
        here = own if section == "membership" else own[:0]
        return Section({dataset: {"effects": here} for dataset in kept})

    return SimpleNamespace(frames=frames)


def test_a_seed_lies_so_many_standard_errors_by_models_from_the_recorded_run(study):
    found = seeds.apart(study)
    rows = found["digits"]["seeds"].set_index(["seed", "claim"])["apart"]
    assert rows.to_dict() == pytest.approx(
        {(2, "C1"): 1, (2, "C2 LiRA"): 0, (2, "C8"): -2.5, (3, "C1"): -2.5, (3, "C2 LiRA"): 2.5, (3, "C8"): -5}
    )
    assert found["subclasses"]["seeds"].empty


def test_only_what_every_seed_moves_to_one_side_is_named(study):
    found = seeds.apart(study)
    assert seeds.moved(found).data == "- **Digits**: C8."
    found["digits"]["seeds"]["apart"] *= -1
    assert seeds.moved(found).data == "- **Digits**: C8."
    found["digits"]["seeds"]["apart"] /= 10
    assert seeds.moved(found).data == "- **Digits**: none."
    assert seeds.moved(Section({"subclasses": found["subclasses"]})).data == "- none"


def test_the_figure_has_a_point_for_each_seed_and_claim(study):
    figure = seeds.other_seeds(seeds.apart(study))
    assert isinstance(figure, Figure)
    (ax,) = (ax for ax in figure.axes if ax.lines)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["C1", "C2 LiRA", "C8"]
    two, three = ax.lines
    np.testing.assert_allclose(two.get_xdata(), [1, 0, -2.5], atol=1e-9)
    assert list(three.get_ydata()) == [0, -1, -2]
    assert "not shown: Subclasses" in figure.legends[0].get_texts()[-1].get_text()
    alone = seeds.other_seeds(Section({"subclasses": {"seeds": pd.DataFrame()}}))
    assert "Not shown on Subclasses" in alone.data


def test_a_live_run_has_no_other_seeds():
    assert seeds.measure(None) == {}
    assert "seeds" not in claims.SECTIONS
