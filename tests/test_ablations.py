"""Ablations: the line across settings, and the cards of other optimizers."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from simulated import swapped
from test_settings import pair_of, run, shuffled

from samlib import audit
from samlib.paper import ablations, optimizers
from samlib.paper.study import ablation_pairs

matplotlib.use("Agg")


def setting(k, leak, skill):
    """A pair of one setting, of which SAM leaks and tests better by so much."""
    sgd = run(100 + k, loss=1, key=f"sgd {k}")
    return pair_of(sgd, run(200 + k, leak=0.5 + leak, skill=skill, loss=1, optimizer="sam", key=f"sam {k}"))


def gains(leaks, skills):
    return {("rho", 0.01 * (k + 1)): setting(k, *both) for k, both in enumerate(zip(leaks, skills, strict=True))}


def test_a_card_of_c14_is_a_measure_and_its_rows_are_optimizers():
    from samlib.paper import cards, general

    names = ("sam", "gsam", "looksam", "ema")
    frames = optimizers.measure({name: setting(k, 0.3, 0.3) for k, name in enumerate(names)})
    about = {
        "experiments": [{"epochs": 40}],
        "models": [24, 24, 24, 24, 24],
        "seconds": 1,
        "machine": ["a"],
        "fixed": True,
    }
    ledger = general.optimizers_ledger(frames, "digits", about | {"live": False})
    assert set(ledger.index) == {
        (f"C14 {of}", f"Digits with {name}") for of in optimizers.PATTERN for name in ("GSAM", "LookSAM")
    }
    (accuracy,) = (of for of in optimizers.PATTERN if "accuracy" in of)
    row = ledger.loc[(f"C14 {accuracy}", "Digits with GSAM")]
    assert row["estimate"] == optimizers.optimizer_ledger(frames).loc[("gsam", accuracy), "estimate"]
    said = cards.cards(ledger).data
    assert "The paper says: Every sharpness-aware optimizer tests better than SGD." in said
    assert f"On Digits with LookSAM: **{ledger.loc[(f'C14 {accuracy}', 'Digits with LookSAM'), 'verdict']}**" in said
    assert "24 models of each, 40 epochs, recorded, confirmatory" in said
    unsure = optimizers.measure({"gsam": setting(3, 0.02, 0.02)})
    assert "**inconclusive**" in cards.cards(general.optimizers_ledger(unsure, "digits", about)).data
    assert f"{accuracy}, the optimizer - SGD." in said


SKILLS = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1])


def test_accuracy_explains_the_attack_or_does_not():
    alone, beside, less = (ablations.explained(gains(0.3 * SKILLS + extra, SKILLS)) for extra in (0, 0.8, -0.4))
    assert abs(alone.estimate[0]) < 0.01
    assert alone.share[0] > 0.9
    assert alone.settings[0] == 8
    assert beside.low[0] > 0.02
    assert ablations.explained_sentence(beside).startswith("**No, test accuracy alone does not explain it.**")
    assert less.high[0] < -0.005
    few = ablations.explained(gains(0.5 * SKILLS[:5], SKILLS[:5]))
    assert ablations.explained_sentence(few).startswith("**Not measurable.** 5 settings")
    one = setting(0, 1, 0)
    still = {key: one._replace(sam=one.sam.assign_attrs(key=f"{key}")) for key in gains(SKILLS, SKILLS)}
    assert ablations.explained(still).reliability[0] == 0
    same = gains(SKILLS, 0 * SKILLS)
    assert ablations.explained(same).reliability[0] < 0.5
    assert ablations.explained_sentence(ablations.explained(same)).startswith("**Not measurable.** 8 settings")


def test_exchanging_the_optimizers_mirrors_the_line():
    made = gains(0.5 * SKILLS + 0.8, SKILLS)
    here, there = (
        ablations.explained(each).iloc[0] for each in (made, {key: swapped(pair) for key, pair in made.items()})
    )
    assert here.slope == there.slope
    assert (here.estimate, here.low, here.high) == (-there.estimate, -there.high, -there.low)
    moved = ablations.explained({key: shuffled(pair) for key, pair in made.items()}).iloc[0]
    np.testing.assert_allclose(moved, here, rtol=1e-6)


def line_data(rng, settings=10, models=16, points=200, scatter=0.01, spread=0.01, noise=0.003, shift=0.02):
    """Settings around the line y = .01 + x / 2, with scatter of their own; models and points share noise over settings."""
    true = 0.01 + spread * rng.normal(size=settings)
    own = noise * models**0.5 * rng.normal(size=(settings, models, 1))
    shared = 0.004 * rng.normal(size=(models, 1))
    each = [shift * rng.normal(size=points) + shift / 2 * rng.normal(size=(settings, 1, points)) for _ in "xy"]
    x = true[:, None, None] + own + shared + each[0] + 0.3 * rng.normal(size=(settings, models, points))
    height = 0.01 + true / 2 + scatter * rng.normal(size=settings)
    y = height[:, None, None] + 0.3 * own + 0.5 * shared + each[1] + 0.3 * rng.normal(size=(settings, models, points))
    return x, y


def over_models_alone(x, y):
    """Half the width of the interval that takes the settings as given."""
    line = ablations.line(x, y)
    each = (y - line.slope * x).mean((0, 2))
    return 2 * each.std(ddof=1) / len(each) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("settings", [10, 20])
def test_the_interval_at_equal_accuracy_covers_and_holds_the_scatter_between_settings(settings):
    rng, covered, once = np.random.default_rng(settings), [], []
    while len(covered) < 150:
        x, y = line_data(rng, settings)
        found = ablations.line(x, y)
        if found.height:
            low, high = found.height.interval()
            covered.append(low <= 0.01 <= high)
            once.append(abs(found.height.estimate - 0.01) < over_models_alone(x, y))
    assert 0.9 <= np.mean(covered) <= 0.995
    assert np.mean(once) < 0.7


def test_noise_in_accuracy_bends_no_line():
    """A line of slope 1/2, noise in x nearly as large as its spread: the naive slope is much less."""
    rng, found, naive = np.random.default_rng(0), [], []
    for _ in range(40):
        x, y = line_data(rng, settings=40, noise=0.006, scatter=0.001)
        found.append(ablations.line(x, y).slope)
        naive.append(np.polyfit(x.mean((1, 2)), y.mean((1, 2)), 1)[0])
    assert np.nanmedian(found) == pytest.approx(0.5, abs=0.05)
    assert np.median(naive) < 0.42


def test_only_comparable_settings_make_the_line_and_the_others_are_listed():
    made = gains(0.3 * SKILLS, SKILLS)
    far = made["rho", 0.03]
    made["rho", 0.03] = pair_of(far.sgd, far.sam.assign(train_loss=3 * far.sam.train_loss))
    frames = ablations.measure(made)
    assert frames["explained"].settings[0] == 7
    frame = frames["ablations"]
    assert list(frame.index[~frame["comparable"]].unique("value")) == ["0.03"]
    assert ablations.left_out_sentence(frame).endswith("a factor of 2 apart: rho 0.03.")
    assert ablations.left_out_sentence(frame[frame["comparable"]]).startswith("In every setting")
    assert frames["explained"].equals(ablations.explained({k: v for k, v in made.items() if k[1] != 0.03}))


def test_settings_that_are_no_numbers_have_words():
    made = ablation_pairs(["norm", "augment", "epochs"], dataset="digits", model="cnn", epochs=1)
    pairs = {}
    for k, (name, two) in enumerate(made.items()):
        runs = [run(1), run(2 + k, leak=1 + 0.1 * k, optimizer="sam")]
        for each, e in zip(runs, two.values(), strict=True):
            each.attrs |= {"experiment": e.model_dump_json(), "key": e.key}
        pairs[name] = pair_of(*runs)
    frames = ablations.measure(pairs)
    frame = frames["ablations"]
    assert list(frame.loc["augment"].index.unique("value")) == ["off", "on"]
    axes = ablations.ablations(frame).axes
    labels = [[label.get_text() for label in ax.get_xticklabels()] for ax in axes[3:]]
    assert labels == [["1", "2"], ["batch", "group", "none"], ["off", "on"]]
    filled = [tuple(colour) != (1, 1, 1, 1) for colour in axes[4].collections[-1].get_facecolors()]
    assert filled == [True, False, False]
    gaps = frame.xs(("norm", "AUC, confidence"), level=("field", "measure"))["difference"]
    np.testing.assert_allclose(axes[4].collections[-1].get_offsets()[:, 1], gaps)
    labels = ablations.gain_against_gain(frame, frames["explained"]).axes[0].get_legend_handles_labels()[1]
    assert {"normalization", "augmentation"} < set(labels)
    table = optimizers.settings_table(frames["stores"]).data
    assert list(table["normalization"]) == ["batch"] * 2 + ["group"] * 2 + ["none"] * 2 + ["batch"] * 4
    assert list(table["augmentation"]) == ["off"] * 6 + ["on"] * 2 + ["off"] * 2
    plt.close("all")


def test_the_ablations_figures_show_the_numbers(tmp_path):
    pairs = gains(0.5 * SKILLS, SKILLS)
    for n in (8, 16):
        few = [runs.isel(model=slice(n)) for runs in pairs["rho", 0.01][:2]]
        pairs["n_models", n] = audit.Pair(*few, "SAM")
    frames = ablations.measure(pairs)
    frame, found = frames["ablations"], frames["explained"]
    assert found.settings[0] == 8
    figure = ablations.ablations(frame)
    top, _, below, _ = figure.axes
    for ax, of in ((top, "test accuracy"), (below, "AUC, confidence")):
        shown = ax.collections[-1].get_offsets()[:, 1]
        np.testing.assert_allclose(shown, frame.xs(("rho", of), level=("field", "measure"))["difference"])
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["8", "16"]
    ax = ablations.gain_against_gain(frame, found).axes[0]
    labels = ax.get_legend_handles_labels()[1]
    assert "number of models" not in labels
    assert "line of best fit" in labels
    html = optimizers.settings_table(frames["stores"]).to_html()
    assert f"{float(pairs['rho', 0.03].sam.test_accuracy.mean()):.3f}" in html
    for name, each in (frames | optimizers.measure({"sam": pairs["rho", 0.01]})).items():
        each.to_parquet(tmp_path / name)
    plt.close("all")
