"""Equal train loss: curves that are known, with curvature, against naive twins, mirrors, nulls and coverage."""

import itertools
import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from simulated import swapped
from sklearn.metrics import roc_auc_score
from test_settings import pair_of, run, shuffled

from samlib import audit
from samlib.inference import CONTRADICTED, SUPPORTED, Effect, verdict
from samlib.paper import lengths
from samlib.paper.frames import EACH, Found, Section, effects

matplotlib.use("Agg")
LENGTHS = (2, 3, 4, 5, 6, 8)


def trained(epochs, slower=0.8, extra=0.0, models=16, examples=300):
    """Pairs of several lengths. Logits of all rise with the steps, members' faster and faster, and SAM takes fewer steps.

    At equal steps SAM leaks more by `extra`; without it, the two have one curve of leaking over loss.
    """
    rng = np.random.default_rng(7)
    pairs = {}
    for e in epochs:
        both = []
        for o, (pace, more) in enumerate(((1, 0), (slower, extra))):
            steps = pace * e * (1 + 0.03 * rng.normal(size=models))
            options = {"optimizer": "sam"} if o else {}
            both.append(
                run(
                    e + 50 * o,
                    leak=0.05 * steps**2 + more,
                    push=0.6 * steps,
                    models=models,
                    examples=examples,
                    skill=0.2 * e,
                    **options,
                )
            )
        pairs[e] = pair_of(*both)
    return pairs


@pytest.fixture(scope="module")
def pairs():
    return trained(LENGTHS)


@pytest.fixture(scope="module")
def frames(pairs):
    return lengths.measure(pairs)


def test_each_pair_is_matched_by_itself(pairs, frames):
    """A naive twin: for each model alone, its AUCs in the order of its losses, and a straight line between."""
    row = frames["equal_loss"].loc[("confidence", 0.5)]
    means, judged = [], audit.usable(pairs[2].sgd)[1]
    for o, name in enumerate(("sgd", "sam")):
        at = []
        for k in range(16):
            runs = [pairs[e][o].isel(model=k) for e in LENGTHS]
            loss = np.array([math.log(float(one.train_loss)) for one in runs])
            auc = np.array([roc_auc_score(one.member[judged], one.logit[judged]) for one in runs])
            order = np.argsort(loss)
            at.append(np.interp(math.log(row["train loss"]), loss[order], auc[order]))
        means.append(np.mean(at))
        assert row[name] == pytest.approx(means[-1], abs=1e-6)
    assert row.difference == pytest.approx(means[1] - means[0], abs=1e-6)


def test_losses_are_fractions_of_the_range_that_both_reach(frames):
    curves = frames["curves"].query("attack == 'LiRA'")
    ends = curves.groupby("optimizer")["train loss"].agg(["max", "min"])
    first, last = np.log(ends["max"].min()), np.log(ends["min"].max())
    for fraction in lengths.FRACTIONS.values():
        at = frames["equal_loss"].loc[("LiRA", fraction), "train loss"]
        assert math.log(at) == pytest.approx(first + fraction * (last - first))
    assert list(frames["effects"].index) == [
        f"C2 {a} at equal train loss, {f}" for a in ("confidence", "LiRA", "RMIA") for f in ("1/4", "1/2", "3/4")
    ]


def test_a_slower_optimizer_differs_as_trained_and_not_at_equal_loss(pairs, frames):
    for fraction in lengths.FRACTIONS.values():
        row = frames["equal_loss"].loc[("confidence", fraction)]
        assert row.note == ""
        assert row.low < 0 < row.high
        assert row.band_low < row.low
        assert row.high < row.band_high
        assert row.high - row.low < 0.03
    auc = [np.mean([roc_auc_score(m, s) for m, s in zip(r.member, r.logit, strict=True)]) for r in pairs[6][:2]]
    assert auc[1] - auc[0] < -0.03
    more = lengths.measure(trained(LENGTHS, extra=0.5))["equal_loss"]
    assert (more.loc["confidence"].loc[[0.25, 0.5, 0.75], "low"] > 0.01).all()


def known(rng, models=16, n=300, step=0.6, late=0.4, gap=0.01, bend=0.02, move=2.0, drift=True):
    """Losses and terms around two curves of known distance, for `at_loss`: examples move the loss as well as the AUC."""
    height, ease, both = rng.normal(size=n), rng.normal(size=n), []
    pair, lost = 0.004 * rng.normal(size=(models, 1)), step * np.arange(round(4.2 / step) + 1)
    for o in (0, 1):
        true = -1 - lost + late * o + 0.15 * rng.normal(size=(models, 1)) + 0.1 * rng.normal(size=(models, len(lost)))
        moved = 0.7 * ease + move * rng.normal(size=n) + 0.5 * rng.normal(size=(*true.shape, n))
        auc = 0.6 - 0.02 * true + bend * np.sin(true) + gap * o + pair / 2 + 0.002 * rng.normal(size=true.shape)
        terms = auc[..., None] + 0.05 * height + 0.03 * rng.normal(size=n) + 0.1 * rng.normal(size=moved.shape)
        away = (moved - moved.mean(2, keepdims=True)) * drift
        both.append(((true + moved.mean(2)).T, terms.swapaxes(0, 1), away.swapaxes(0, 1)))
    return both


def test_a_straight_line_between_far_lengths_is_no_verdict():
    """Both optimizers have one curve, which bends; their lengths lie on different places of it."""
    options = {"late": 1.0, "gap": 0, "bend": 0.2, "move": 0.2}
    far, near = (known(np.random.default_rng(0), step=step, **options) for step in (2.1, 0.3))
    wrong = 0
    for fraction in lengths.FRACTIONS.values():
        row, found = lengths.at_loss(far, fraction)
        assert row["note"] == lengths.SPARSE
        assert found is None
        wrong += not row["low"] < 0 < row["high"]
        row, found = lengths.at_loss(near, fraction)
        assert row["note"] == ""
        assert row["low"] < 0 < row["high"]
        assert found.effect.estimate == row["difference"]
    assert wrong >= 2  # the line alone would have given a verdict


def test_two_lengths_or_no_loss_in_common_give_no_verdict(pairs):
    alone = lengths.measure({("rho", 0.1): pairs[2]})
    assert (alone["equal_loss"]["note"] == lengths.UNREACHED).all()
    lengths.matched_curves(alone["curves"]).canvas.draw()
    assert "too small" in lengths.along_loss(Section({"digits": alone})).data
    two = lengths.measure({("epochs", 2): pairs[2], ("rho", 0.1): pairs[4], ("epochs", 8): pairs[8]})
    assert sorted(set(two["curves"]["epochs"])) == [2, 8]
    assert two["effects"]["estimate"].isna().all()
    assert (two["equal_loss"].loc["confidence"].loc[[0.25, 0.5, 0.75], "note"] == lengths.SPARSE).all()
    apart = {e: pair_of(pair.sgd, pair.sam.assign(train_loss=1e3 * pair.sam.train_loss)) for e, pair in pairs.items()}
    none = lengths.measure(apart)
    assert none["effects"]["estimate"].isna().all()
    assert (none["equal_loss"]["note"] == lengths.UNREACHED).all()
    assert "Not measurable: not every model reaches this loss" in lengths.matched_sentence(none["equal_loss"], "RMIA")


def test_accuracy_that_no_longer_rises_is_marked(pairs):
    changed = {e: pair for e, pair in pairs.items()}
    early = changed[2].sgd.test_correct
    changed[8] = pair_of(changed[8].sgd.assign(test_correct=early), changed[8].sam)  # SGD overfits at last
    found = lengths.measure(changed)
    rising = found["curves"].query("attack == 'RMIA' and optimizer == 'sgd'").set_index("epochs")["rising"]
    assert rising[6]
    assert not rising[8]


def test_exchanging_the_optimizers_mirrors_and_order_changes_nothing(pairs, frames):
    there = lengths.measure({e: swapped(pair) for e, pair in pairs.items()})["equal_loss"]
    here = frames["equal_loss"]
    for one, other in (("difference", "difference"), ("low", "high"), ("band_low", "band_high")):
        np.testing.assert_array_equal(here[one], -there[other])
    assert here["note"].equals(there["note"])
    moved = lengths.measure({e: shuffled(pairs[e], seed=3) for e in reversed(LENGTHS)})["equal_loss"]
    np.testing.assert_allclose(moved["difference"], here["difference"], atol=1e-6)
    np.testing.assert_allclose(moved["high"], here["high"], atol=1e-5)
    assert lengths.decided(pairs).keys() == set(frames["effects"].index)


@pytest.mark.slow
def test_optimizers_exchanged_at_random_get_no_verdict():
    rng, decided = np.random.default_rng(0), 0
    pairs = trained(LENGTHS[::2], extra=0.3, models=20, examples=150)
    for _ in range(40):
        which = rng.random(20) < 0.5
        found = lengths.decided({e: swapped(pair, which) for e, pair in pairs.items()})
        said = [
            verdict(float(each.effect.estimate), *map(float, each.effect.interval(EACH)), 1, 0.005)
            for each in found.values()
            if each
        ]
        decided += SUPPORTED in said or CONTRADICTED in said
    assert decided <= 5  # of 40 sets


@pytest.mark.slow
def test_the_interval_covers_where_examples_move_the_loss_too():
    covered = {True: [], False: []}
    for drift in covered:
        rng = np.random.default_rng(2)
        for _ in range(150):
            found = lengths.at_loss(known(rng, drift=drift), 0.5)[1]
            low, high = found.effect.interval()
            covered[drift].append(low <= 0.01 <= high)
    assert 0.9 <= np.mean(covered[True]) <= 0.995
    assert np.mean(covered[False]) < 0.8  # without it the interval is too narrow


def test_numbers_beside_the_curves_lie_clear_of_each_other(frames):
    figure = lengths.matched_curves(frames["curves"])
    figure.canvas.draw()
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in ax.texts]
        assert [text.get_text() for text in ax.texts] == ["2", "8"] * 2
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close("all")


def test_the_figures_show_the_frames(frames, tmp_path):
    figure = lengths.along_loss(Section({"digits": frames}))
    rows = frames["equal_loss"].loc["RMIA"]
    top = figure.axes[2]
    np.testing.assert_allclose(top.lines[0].get_ydata(), rows["difference"])
    np.testing.assert_allclose(top.collections[-1].get_offsets()[:, 1], rows["difference"].loc[[0.25, 0.5, 0.75]])
    rows = frames["equal_loss"].loc["confidence"]
    said = lengths.matched_sentence(frames["equal_loss"], "confidence", "ASAM")
    assert f"ASAM's AUC differs from SGD's by {rows.loc[0.25, 'difference']:+.4f}" in said
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / name)
    plt.close("all")


def test_the_picture_of_all_data_sets_draws_the_rows_of_each_attack(frames):
    as_trained = effects(
        {f"C2 {attack}": Found(Effect(0.01 * k, 0.001, 9.0, 0.0)) for k, attack in enumerate(lengths.ATTACKS)}
    )
    found = Section({"digits": {"effects": as_trained}, "location30": {"effects": as_trained}}).joined(
        {"digits": frames}
    )
    assert [*found["digits"]["effects"].index] == [*as_trained.index, *frames["effects"].index]
    figure = lengths.along_loss(found)
    assert len(figure.axes) == len(lengths.ATTACKS)
    for k, (ax, attack) in enumerate(zip(figure.axes, lengths.ATTACKS, strict=True)):
        rows = frames["equal_loss"].loc[attack]
        assert [line.get_ydata()[0] for line in ax.lines if line.get_label() == "as trained"] == [0.01 * k]
        (line,) = (each for each in ax.lines if len(each.get_xdata()) == len(rows))
        assert np.allclose(line.get_ydata(), rows["difference"], equal_nan=True)
        assert ax.xaxis_inverted()
        assert attack in ax.get_xlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["as trained", "not shown: Location-30"]


def test_where_the_band_lies_clear_of_zero_is_said_by_its_train_losses(frames):
    equal = frames["equal_loss"].assign(band_low=-1.0, band_high=1.0, note="")
    found = Section({"digits": {**frames, "equal_loss": equal}})
    assert lengths.where(found).data.endswith("\n- Digits: at none.")
    n = len(lengths.GRID)
    some = [("LiRA", f) for f in lengths.GRID[2:5]]
    equal.loc[some, "band_low"] = 0.001
    equal.loc[[("RMIA", lengths.GRID[-1])], "band_high"] = -0.001
    equal.loc[[("confidence", 0.5)], ["band_low", "note"]] = 0.1, lengths.SPARSE  # cannot be said
    high, low = (f"{equal.loc[some[i], lengths.TRAIN_LOSS]:.2g}" for i in (0, -1))
    last = f"{equal.loc[('RMIA', lengths.GRID[-1]), lengths.TRAIN_LOSS]:.2g}"
    assert lengths.where(found).data.endswith(
        f"\n- Digits: LiRA easier at 3 of {n}, from {high} to {low}; RMIA harder at 1 of {n}, from {last} to {last}."
    )


def test_a_section_joined_by_the_lengths_is_told_of_both(frames):
    """Rows at equal loss say how many pairs a length has; the others do not, and are told all the same."""
    as_trained = (
        frames["effects"]
        .drop(columns="models")
        .iloc[[0]]
        .rename({"C2 confidence at equal train loss, 1/4": "C2 confidence"})
    )
    found = Section({"digits": {"effects": as_trained}}).joined({"digits": frames})
    assert lengths.kept(found).data.startswith("On Digits SAM ")


def test_what_stays_at_equal_loss_is_said_whichever_way_it_falls(frames):
    values = {"higher": (0.02, 1e-4), "lower": (-0.02, 1e-4), "small": (0.001, 1e-4), "open": (0.001, 0.1)}
    rows = [f"C2 {attack}{at}" for attack in lengths.ATTACKS for at in ("", " at equal train loss, 1/2")]
    base = frames["effects"].iloc[[0]]
    for trained, equal in itertools.product(values, repeat=2):
        effects = pd.concat([base] * len(rows)).set_axis(rows)
        effects["reliability"] = 1.0
        effects[["estimate", "stderr"]] = [values[each] for each in (trained, equal)] * len(lengths.ATTACKS)
        said = lengths.kept(Section({"digits": {"effects": effects}}, name="ASAM")).data
        assert said.startswith(f"On Digits ASAM {lengths.KEPT[trained]} by confidence, LiRA and RMIA")
        assert (", as trained and at equal train loss" in said) == (trained == equal)
        assert (f"and {lengths.KEPT[equal]} at equal" in said) == (trained != equal)
        assert ("had turned the sign" in said) == ({trained, equal} == {"higher", "lower"})
        assert ("does not explain it" in said) == (trained == equal and trained in lengths.DECIDED)
