"""Runs of other base seeds beside a recorded one."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from simulated import simulate

import samlib
from samlib.paper import notebook, records, seeds
from samlib.paper.frames import Section


def effects(**estimates):
    rows = {"estimate": list(estimates.values()), "stderr": 1.0, "df": 50.0, "by_models": 0.0008, "reliability": 1.0}
    return pd.DataFrame(rows, index=pd.Index([name.replace("_", " ") for name in estimates], name="claim"))


OWN = effects(C1=0.1, C2_LiRA=0.1, C8=0.0)
OTHERS = pd.concat(
    {2: effects(C1=0.14, C2_LiRA=0.1, C8=-0.1, other=9.0), 3: effects(C1=0.0, C2_LiRA=0.2, C8=-0.2, other=9.0)},
    names=["seed"],
)


@pytest.fixture
def apart():
    """Two other seeds, each with an error of sqrt(.0008 + .0008) = .04 beside the recorded run."""
    return seeds.apart(Section({"digits": {"effects": OWN, "seeds": OTHERS}}))


def test_a_seed_lies_so_many_standard_errors_by_models_from_the_recorded_run(apart):
    rows = apart["digits"]["seeds"].set_index(["seed", "claim"])["apart"]
    assert rows.to_dict() == pytest.approx(
        {(2, "C1"): 1, (2, "C2 LiRA"): 0, (2, "C8"): -2.5, (3, "C1"): -2.5, (3, "C2 LiRA"): 2.5, (3, "C8"): -5}
    )


def test_only_what_every_seed_moves_to_one_side_is_named(apart):
    assert seeds.moved(apart).data == "- **Digits**: C8."
    apart["digits"]["seeds"]["apart"] *= -1
    assert seeds.moved(apart).data == "- **Digits**: C8."
    apart["digits"]["seeds"]["apart"] /= 10
    assert seeds.moved(apart).data == "- **Digits**: none."


def test_the_figure_has_a_point_for_each_seed_and_claim(apart):
    figure = seeds.other_seeds(apart)
    assert isinstance(figure, Figure)
    (ax,) = (ax for ax in figure.axes if ax.lines)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["C1", "C2 LiRA", "C8"]
    two, three = ax.lines
    np.testing.assert_allclose(two.get_xdata(), [1, 0, -2.5], atol=1e-9)
    assert list(three.get_ydata()) == [0, -1, -2]


def test_without_such_runs_the_page_says_so():
    none = seeds.apart(Section({}))
    assert "No run here was repeated" in seeds.other_seeds(none).data
    assert seeds.moved(none).data == "- none"


def test_the_record_of_most_models_is_shown_whether_its_data_are_at_hand_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "run_pairs", lambda *a, **k: pytest.fail("models were trained"))
    for dataset, models, seed in (("digits", 16, 0), ("location30", 16, 0), ("location30", 64, 1)):
        two = samlib.study({"dataset": dataset, "n_models": models, "seed": seed, "epochs": 1}).experiments[dataset]
        runs = [
            simulate(1, leak=1, skill=0, models=models).assign_attrs(experiment=e.model_dump_json(), key=e.key)
            for e in two.values()
        ]
        frames = {"membership": {"effects": OWN}} | ({"seeds": {"effects": OTHERS}} if models == 64 else {})
        records.save(tmp_path, frames, records.provenance(runs))
    study = samlib.study({"dataset": "digits", "n_models": 16, "epochs": 1, "results": str(tmp_path)})
    found = study.repeated()
    assert found.titles == {"location30": "Location-30: MLP, 64 + 64"}
    assert seeds.moved(seeds.apart(found)).data == "- **Location-30**: C8."
