"""Other optimizers and ablations: which experiments, and what is said of runs whose effects are known."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from samlib.claims import CONTRADICTED, INCONCLUSIVE, NO_DIFFERENCE, SUPPORTED, settings
from test_claims import simulate

from samlib import Experiment, audit, claims, figures
from samlib.evaluation import auc_terms
from samlib.experiment import ABLATIONS, ablation_pairs, from_parameters, in_profile, optimizer_pairs

matplotlib.use("Agg")


def run(seed, *, leak=0.5, skill=0.0, models=24, loss=1.0, **fields):
    """`simulate` with a recipe of its own; seeds alike have noise alike."""
    runs = simulate(seed, leak=leak, skill=skill, models=models, spread=0.3)
    experiment = Experiment(dataset="digits", n_models=models, **fields)
    runs["train_loss"] = ("model", np.full(models, loss))
    return runs.assign_attrs(experiment=experiment.model_dump_json(), key=experiment.key)


def pair_of(sgd, sam):
    return audit.Pair(sgd, sam, "SAM")


@pytest.fixture(scope="module")
def optimizers():
    """SAM leaks more and tests better; EMA the other way round; SWA is SGD."""
    sgd, other = run(1), run(2, leak=2.5, skill=1.0, optimizer="sam")
    return {"sam": pair_of(sgd, other), "ema": pair_of(other, sgd), "swa": pair_of(sgd, sgd)}


def test_optimizers_share_sgd_and_have_radii_of_their_own():
    pairs = optimizer_pairs(dataset="digits")
    assert list(pairs) == ["sam", "asam", "gsam", "looksam", "friendlysam", "swa", "ema"]
    assert len({pair["sgd"].key for pair in pairs.values()}) == 1
    rho = {name: pair[name].rho for name, pair in pairs.items()}
    assert rho == {"sam": 0.05, "asam": 0.5, "gsam": 0.05, "looksam": 0.05, "friendlysam": 0.05, "swa": 0, "ema": 0}
    assert optimizer_pairs(["asam"], dataset="digits", rho=0.02)["asam"]["asam"].rho == 0.2
    both = optimizer_pairs(["asam"], ["cnn", "resnet9"], dataset="digits")
    assert list(both) == ["asam", "sam, cnn", "sam, resnet9"]
    assert {o: (e.model, e.optimizer, e.rho) for o, e in both["sam, cnn"].items()} == {
        "sgd": ("cnn", "sgd", 0), "sam": ("cnn", "sam", 0.05),
    }  # fmt: skip
    with pytest.raises(ValueError, match="architectures must be a list of names of models"):
        optimizer_pairs(["asam"], "cnn", dataset="digits")
    for wrong in ([], "sam", ["sgd"], ["magic"]):
        with pytest.raises(ValueError, match=r"optimizer|sgd"):
            optimizer_pairs(wrong, dataset="digits")


def test_ablations_change_one_field_at_a_time():
    pairs = ablation_pairs(dataset="digits")
    assert {field for field, _ in pairs} == ABLATIONS.keys() - {"norm", "augment"}  # an mlp has none of them
    base = pairs["rho", 0.05]
    for (field, value), pair in pairs.items():
        for name, experiment in pair.items():
            changed = {k for k, v in experiment.model_dump().items() if v != base[name].model_dump()[k]}
            assert changed <= {field}
        assert getattr(pair["sam"], field) == value
    assert len({e.key for pair in pairs.values() for e in pair.values()}) == 25
    assert {field for field, _ in ablation_pairs(["epochs"], dataset="digits")} == {"epochs"}
    for wrong in ([], "rho", ["lr"]):
        with pytest.raises(ValueError, match="changed must be a list of some of rho"):
            ablation_pairs(wrong, dataset="digits")


def test_what_plays_no_part_in_a_model_is_left_out_and_refused_by_name():
    convolutional = ablation_pairs(dataset="digits", model="cnn")
    assert {field for field, _ in convolutional} == ABLATIONS.keys()
    assert [value for field, value in convolutional if field == "norm"] == ["batch", "group", "none"]
    assert [value for field, value in convolutional if field == "augment"] == [False, True]
    assert len({pair["sam"].key for (field, _), pair in convolutional.items() if field == "norm"}) == 3
    assert {field for field, _ in ablation_pairs(dataset="digits", model="vit_tiny")} == ABLATIONS.keys() - {"norm"}
    for model, changed, name in (
        ("mlp", ["rho", "norm"], "norm"),
        ("mlp", ["augment"], "augment"),
        ("vit_tiny", ["norm"], "norm"),
    ):
        with pytest.raises(
            ValueError, match=f"changed cannot hold {name} where model is '{model}'; give another model."
        ):
            ablation_pairs(changed, dataset="digits", model=model)


def test_settings_that_are_no_numbers_have_words():
    made = ablation_pairs(["norm", "augment", "epochs"], dataset="digits", model="cnn", epochs=1)
    pairs = {}
    for k, (setting, two) in enumerate(made.items()):
        runs = [run(1), run(2 + k, leak=1 + 0.1 * k, optimizer="sam")]
        for each, e in zip(runs, two.values(), strict=True):
            each.attrs |= {"experiment": e.model_dump_json(), "key": e.key}
        pairs[setting] = pair_of(*runs)
    frame, recipe = claims.ablation_table(pairs), figures.recipe_of(pairs)
    assert list(frame.loc["augment"].index.unique("value")) == ["off", "on"]  # and not 1, which is a number of epochs
    assert (recipe["norm"], recipe["augment"], recipe["epochs"]) == ("batch", "off", 1)
    axes = figures.ablations(frame, recipe).axes
    labels = [[label.get_text() for label in ax.get_xticklabels()] for ax in axes[3:]]
    assert labels == [["1", "2"], ["batch", "group", "none"], ["off", "on"]]
    filled = [tuple(colour) != (1, 1, 1, 1) for colour in axes[4].collections[-1].get_facecolors()]
    assert filled == [True, False, False]
    gaps = frame.xs(("norm", "AUC, confidence"), level=("field", "measure"))["difference"]
    np.testing.assert_allclose(axes[4].collections[-1].get_offsets()[:, 1], gaps)
    labels = figures.gain_against_gain(frame, claims.explained(pairs)).axes[0].get_legend_handles_labels()[1]
    assert {"normalization", "augmentation"} < set(labels)
    table = figures.settings_table(pairs).data
    assert list(table["normalization"]) == ["batch"] * 2 + ["group"] * 2 + ["none"] * 2 + ["batch"] * 4
    assert list(table["augmentation"]) == ["off"] * 6 + ["on"] * 2 + ["off"] * 2
    plt.close("all")


def test_numbers_beside_the_curves_lie_clear_of_each_other():
    epochs = np.array([1, 2, 4, 8, 16])
    auc = 0.5 + 0.01 * np.stack([epochs, epochs + 0.5], 1)
    x = 1 - 0.5 ** np.stack([epochs, epochs + 0.1], 1)  # both curves saturate in one place
    curves = settings.Matched(x, auc, epochs, 0, 0, 0)
    figure = figures.matched_curves(curves, curves)
    figure.canvas.draw()
    for ax in figure.axes:
        boxes = [text.get_window_extent() for text in ax.texts]
        assert len(boxes) > 6
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close("all")


def test_seconds_are_those_of_the_models_shown(small_npz, client, tmp_path):
    import json
    from pathlib import Path

    import samlib

    experiment = Experiment(dataset=str(small_npz), hidden=(8,), epochs=1, batch_size=16, n_models=24)
    every = samlib.run(experiment, cluster=client, cache_dir=tmp_path)
    few = samlib.run(experiment.but(n_models=12), cluster=client, cache_dir=tmp_path)
    log = [json.loads(line) for line in Path(every.attrs["store"]).with_suffix(".jsonl").read_text().splitlines()]
    each = {entry["models"][0]: entry["seconds"] for entry in log}
    assert every.attrs["seconds"] == pytest.approx(sum(each.values()), abs=2e-3)
    assert few.attrs["seconds"] == pytest.approx(each[0] + each[8] / 2, abs=2e-3)


def test_a_notebooks_parameters_reach_the_pairs():
    made = from_parameters({"dataset": "digits", "changed": ["rho"], "profile": "smoke"}, make=ablation_pairs)
    assert {e.epochs for pair in made.values() for e in pair.values()} == {in_profile("smoke")["epochs"]}
    with pytest.raises(ValueError, match="magic"):
        from_parameters({"dataset": "digits", "magic": 1}, make=optimizer_pairs)


def test_table_3_is_what_the_runs_say(optimizers):
    frame = claims.optimizer_table(optimizers)
    row = frame.loc[("sam", "test accuracy")]
    sgd, sam = (float(runs.test_correct.mean()) for runs in optimizers["sam"][:2])
    assert (row.sgd, row.sam, row.difference) == pytest.approx((sgd, sam, sam - sgd))
    row = frame.loc[("sam", "AUC, confidence")]
    expected = [auc_terms(runs.logit.values, runs.member.values).mean() for runs in optimizers["sam"][:2]]
    assert [row.sgd, row.sam] == pytest.approx(expected)
    assert row.low < row.difference < row.high
    html = figures.optimizer_comparison(frame).to_html()
    assert f"{row.difference:+.5f}" in html
    axes = figures.optimizer_differences(frame).axes
    for ax, (_, part) in zip(axes, frame.groupby("measure", sort=False), strict=True):
        drawn = np.concatenate([line.get_xdata() for line in ax.lines])
        assert all(np.isclose(drawn, gap).any() for gap in part["difference"])
    plt.close("all")


def test_the_general_row_of_c14_is_the_mean_over_optimizers_and_flips(optimizers):
    given = {"sam": optimizers["sam"], "asam": optimizers["sam"], "gsam": optimizers["swa"], "swa": optimizers["ema"]}
    found = claims.optimizers_ledger(given)
    assert found.index.tolist() == [("C14 accuracy", "digits"), ("C14 confidence", "digits")]
    row = found.loc[("C14 accuracy", "digits")]
    gains = [float(p.sam.test_correct.mean() - p.sgd.test_correct.mean()) for p in (given["asam"], given["gsam"])]
    assert row.estimate == pytest.approx(np.mean(gains))
    assert "mean of asam, gsam, - SGD" in row.statistic
    assert row.models == 3 * given["sam"].sgd.sizes["model"]
    assert claims.optimizers_ledger({"asam": optimizers["sam"]})["verdict"].tolist() == [SUPPORTED, SUPPORTED]
    assert claims.optimizers_ledger({"asam": optimizers["ema"]})["verdict"].tolist() == [CONTRADICTED, CONTRADICTED]
    assert claims.optimizers_ledger({"sam": optimizers["sam"], "ema": optimizers["ema"]}).empty


def test_flipping_the_data_flips_c14(optimizers):
    ledger = claims.optimizer_ledger(optimizers)
    said = {name: settings.pattern(ledger.loc[name]) for name in optimizers}
    assert said == {"sam": SUPPORTED, "ema": CONTRADICTED, "swa": NO_DIFFERENCE}
    sentence = claims.pattern_sentence(ledger, "ema")
    assert sentence.startswith("**Contradicted, by its weakest part.** EMA, which averages weights")
    assert f"{ledger.loc[('ema', 'C1'), 'estimate']:+.4f}" in sentence
    mixed = ledger.loc["sam"].copy()
    mixed.loc["C1", "verdict"] = INCONCLUSIVE
    assert settings.pattern(mixed) == INCONCLUSIVE


def gains(leaks, skills):
    """A pair a setting, of which SAM leaks and tests better by so much."""
    return {
        ("rho", k): pair_of(run(1), run(2 + k, leak=0.5 + leak, skill=skill, optimizer="sam", rho=0.01 * (k + 1)))
        for k, (leak, skill) in enumerate(zip(leaks, skills, strict=True))
    }


def test_accuracy_explains_the_attack_or_does_not():
    skills = np.array([0.0, 0.3, 0.6, 0.9, 1.2])
    alone = claims.explained(gains(0.5 * skills, skills))
    assert abs(alone.intercept) < 0.01
    assert alone.share > 0.9
    beside = claims.explained(gains(0.5 * skills + 0.8, skills))
    assert beside.low > 0.02
    assert claims.explained_sentence(beside).startswith("**No, test accuracy alone does not explain it.**")
    less = claims.explained(gains(0.5 * skills - 0.5, skills))
    assert less.high < -0.005
    same = gains([1.0, 1.0], [0.0, 0.0])
    same = {key: pair_of(pair.sgd, pair.sam.assign(test_correct=pair.sgd.test_correct)) for key, pair in same.items()}
    assert claims.explained_sentence(claims.explained(same)).startswith("**Inconclusive.** The settings differ")


def test_noise_in_accuracy_bends_no_line():
    """A line through the origin with slope 1, noise in x as large as its spread: the naive line leaves the origin."""
    rng = np.random.default_rng(0)
    true, found, naive = np.linspace(0.5, 1.5, 40), [], []
    for _ in range(50):
        x = true[:, None] + 1.0 * rng.normal(size=(40, 16)) + rng.normal(size=16)  # of the model: shared
        y = true[:, None] + 0.1 * rng.normal(size=(40, 16))
        found.append(settings._line(x.mean(1), y.mean(1), settings._noise(x, y))[0])
        naive.append(settings._line(x.mean(1), y.mean(1), np.zeros(2))[0])
    assert np.median(found) == pytest.approx(1, abs=0.1)
    assert np.median(naive) < 0.7


def test_at_equal_loss_the_difference_is_that_of_the_curves():
    """Both curves rise with log loss; SAM's has its points elsewhere, and stands higher by what it leaks more."""

    def curves(extra):
        return {
            ("epochs", e): pair_of(
                run(1, leak=0.5 + 0.2 * e, loss=10.0**-e),
                run(1, leak=0.5 + 0.2 * (e - 0.5) + extra, loss=10.0 ** -(e - 0.5), optimizer="sam"),
            )
            for e in (1, 2, 3)
        }

    same, more = (claims.matched(curves(extra), claims.TRAIN_LOSS) for extra in (0.0, 0.5))
    assert same.difference == pytest.approx(0, abs=0.002)
    assert more.low > 0.01
    assert more.low <= more.difference <= more.high
    np.testing.assert_allclose(more.x[:, 0], [0.1, 0.01, 0.001])
    assert claims.matched_sentence(more, "train loss").startswith("**SAM leaks more at equal train loss.**")
    assert claims.matched_sentence(same, "train loss").startswith("**No difference that counts at equal train loss.**")
    less = claims.matched(curves(-0.5), claims.TRAIN_LOSS)
    assert claims.matched_sentence(less, "train loss").startswith("**SAM leaks less at equal train loss.**")
    far = {
        key: pair_of(pair.sgd, pair.sam.assign(train_loss=pair.sam.train_loss * 1e6)) for key, pair in curves(0).items()
    }
    assert "cannot be compared" in claims.matched_sentence(claims.matched(far, claims.TRAIN_LOSS), "train loss")


def test_the_ablations_figures_show_the_numbers():
    pairs = gains([0.5, 1.0, 1.5], [0.2, 0.4, 0.6])
    for n in (8, 16):
        few = [runs.isel(model=slice(n)) for runs in pairs["rho", 0][:2]]
        pairs["n_models", n] = audit.Pair(*few, "SAM")
    frame, found = claims.ablation_table(pairs), claims.explained(pairs)
    assert found.settings == 3
    figure = figures.ablations(frame, {"rho": 1, "n_models": 8})
    top, few, below, _ = figure.axes
    for ax, measure in ((top, "test accuracy"), (below, "AUC, confidence")):
        drawn = ax.collections[-1].get_offsets()[:, 1]
        np.testing.assert_allclose(drawn, frame.xs(("rho", measure), level=("field", "measure"))["difference"])
    assert [label.get_text() for label in figure.axes[3].get_xticklabels()] == ["8", "16"]
    ax = figures.gain_against_gain(frame, found).axes[0]
    labels = ax.get_legend_handles_labels()[1]
    assert "number of models" not in labels
    html = figures.settings_table(pairs).to_html()
    assert f"{float(pairs['rho', 2].sam.test_accuracy.mean()):.3f}" in html
    assert figures.recipe_of(pairs)["weight_decay"] == 5e-4
    plt.close("all")
