"""Other optimizers and ablations: which experiments, and what is said of runs whose effects are known."""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from scipy.special import expit
from simulated import swapped

from samlib import Experiment, audit
from samlib.evaluation import auc_terms
from samlib.inference import CONTRADICTED, INCONCLUSIVE, LEVEL, NO_DIFFERENCE, NOT_MEASURABLE, SUPPORTED
from samlib.paper import optimizers, records, tables
from samlib.paper.frames import Section
from samlib.paper.study import ABLATIONS, ablation_pairs, from_parameters, in_profile, optimizer_pairs

matplotlib.use("Agg")


def run(
    seed,
    *,
    leak=0.5,
    skill=0.0,
    models=24,
    examples=300,
    tests=300,
    spread=0.3,
    push=0.0,
    loss=None,
    key=None,
    **fields,
):
    """Runs of models whose logits rise by `leak` on members, by `push` everywhere, and whose test accuracy rises with `skill`.

    leak, push: numbers, or one for each model. loss: the train loss of all; what the logits say if None.
    """
    rng = np.random.default_rng(0)  # what is paired: subsets, examples' difficulty
    member = rng.random((models, examples)) < 0.5
    easy, easy_test = 2 * rng.normal(size=examples), 2 * rng.normal(size=tests)
    rng = np.random.default_rng(seed)
    leak, push = (np.broadcast_to(each, models)[:, None] for each in (leak, push))
    z = {"": easy + push + leak * member + spread * rng.normal(size=(models, examples))}
    z["test_"] = easy_test + skill + spread * rng.normal(size=(models, tests))
    variables = {"member": (("model", "example"), member)}
    for prefix, logit in z.items():
        p, dims = expit(logit), ("model", "test" if prefix else "example")
        entropy = -p * np.log(p) - (1 - p) * np.log1p(-p)
        values = {"correct": logit > 0, "logit": logit.astype(np.float32), "entropy": entropy}
        values["modified_entropy"] = -2 * (1 - p) * np.log(p)
        variables |= {prefix + name: (dims, value) for name, value in values.items()}
    said = (member * np.logaddexp(0, -variables["logit"][1].astype(float))).sum(1) / member.sum(1)
    variables["train_loss"] = ("model", said if loss is None else np.full(models, loss))
    variables["train_accuracy"] = ("model", ((z[""] > 0) & member).sum(1) / member.sum(1))
    variables["test_accuracy"] = ("model", (z["test_"] > 0).mean(1))
    coordinates = {"model": np.arange(models), "example": np.arange(examples), "test": np.arange(tests)}
    coordinates |= {"label": ("example", np.arange(examples) % 3), "test_label": ("test", np.arange(tests) % 3)}
    experiment = Experiment(dataset="digits", n_models=models, **fields)
    about = {"data_checksum": "0" * 64, "seconds": 1.0, "machine": ["a machine"], "samlib": ["0"], "diverged": []}
    about |= {"experiment": experiment.model_dump_json(), "key": key or experiment.key}
    return xr.Dataset(variables, coordinates, about)


def pair_of(sgd, sam):
    return audit.Pair(sgd, sam, "SAM")


def shuffled(pair, seed=0):
    """The pair with its models, examples and test points in another order."""
    rng = np.random.default_rng(seed)
    order = {dim: rng.permutation(pair.sgd.sizes[dim]) for dim in ("model", "example", "test")}
    return audit.Pair(pair.sgd.isel(order), pair.sam.isel(order), pair.name)


@pytest.fixture(scope="module")
def pairs():
    """SAM leaks more and tests better; EMA the other way round; SWA is SGD; ASAM has not learned as much."""
    sgd, other = run(1, loss=1), run(2, leak=2.5, skill=1.0, loss=1.5, optimizer="sam")
    behind = run(2, leak=2.5, skill=1.0, loss=2.5, optimizer="asam")
    return {
        "sam": pair_of(sgd, other),
        "ema": pair_of(other, sgd),
        "swa": pair_of(sgd, sgd),
        "asam": pair_of(sgd, behind),
    }


@pytest.fixture(scope="module")
def table_3(pairs):
    return optimizers.measure(pairs)


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
    with pytest.raises(ValueError, match="architectures must be a list of some of mlp, cnn"):
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
    assert len({e.key for pair in pairs.values() for e in pair.values()}) == 31
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


@pytest.mark.slow
def test_seconds_are_those_of_the_models_shown(small_npz, client, tmp_path):
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


def test_table_3_is_what_the_runs_say(pairs, table_3):
    frame, shown = table_3["optimizers"], Section({"digits": table_3})
    row = frame.loc[("sam", "test accuracy")]
    sgd, sam = (float(runs.test_correct.mean()) for runs in pairs["sam"][:2])
    assert (row.sgd, row.sam, row.difference) == pytest.approx((sgd, sam, sam - sgd))
    row = frame.loc[("sam", "AUC, confidence")]
    expected = [auc_terms(runs.logit.values, runs.member.values).mean() for runs in pairs["sam"][:2]]
    assert [row.sgd, row.sam] == pytest.approx(expected)
    assert row.low < row.difference < row.high
    html = optimizers.optimizer_comparison(shown).to_html()
    assert f"{row.difference:+.5f}" in html
    assert "ASAM, not comparable" in html
    for ax, (_, part) in zip(
        optimizers.optimizer_differences(shown).axes, frame.groupby("measure", sort=False), strict=True
    ):
        np.testing.assert_allclose(ax.collections[-1].get_offsets()[:, 0], part["difference"])
        hollow = [tuple(colour) == (1, 1, 1, 1) for colour in ax.collections[-1].get_facecolors()]
        assert hollow == [False, False, False, True]
    plt.close("all")


def test_an_optimizer_that_has_not_learned_as_much_has_no_row_but_counts_in_the_family(pairs, table_3):
    """The mean over optimizers of different train loss, which C14 once was, compared what had gone differently far."""
    ledger = optimizers.optimizer_ledger(table_3)
    assert "asam" not in ledger.index.get_level_values("optimizer")
    assert np.isnan(table_3["effects"].loc["C14 asam, test accuracy", "estimate"])
    assert (ledger["level"] == LEVEL / 16).all()
    alone = optimizers.optimizer_ledger(optimizers.measure({"sam": pairs["sam"]})).loc["sam"]
    assert (alone["low"] > ledger.loc["sam", "low"]).all()
    shown = Section({"digits": table_3})
    assert "ASAM is not comparable: its train loss is 2.5, and SGD's 1." in optimizers.patterns(shown).data
    html = optimizers.verdict_table(shown).to_html()
    assert html.count("not compared") == 3
    none = optimizers.measure({"asam": pairs["asam"]})
    assert optimizers.optimizer_ledger(none).empty


def test_flipping_the_data_flips_c14(table_3):
    ledger = optimizers.optimizer_ledger(table_3)
    said = {name: optimizers.pattern(ledger.loc[name]) for name in ("sam", "ema", "swa")}
    assert said == {"sam": SUPPORTED, "ema": CONTRADICTED, "swa": NO_DIFFERENCE}
    for end, other in (("estimate", "estimate"), ("low", "high")):
        np.testing.assert_array_equal(ledger.loc["sam", end], -ledger.loc["ema", other])
    shown = Section({"digits": table_3})
    sentence = optimizers.patterns(shown).data
    assert sentence.startswith("On Digits the pattern is **supported** for SAM; ")
    assert "**contradicted** for EMA, not looking for flat minima" in sentence
    mixed = {**table_3, "effects": table_3["effects"].copy()}
    mixed["effects"].loc["C14 sam, test accuracy", "estimate"] *= -1
    assert (
        "the pattern is **contradicted** (test accuracy) for SAM;"
        in optimizers.patterns(Section({"digits": mixed})).data
    )
    assert f"{ledger.loc[('ema', 'test accuracy'), 'estimate']:+.4f}" in optimizers.verdict_table(shown).to_html()
    mixed = ledger.loc["sam"].copy()
    mixed.loc["test accuracy", "verdict"] = INCONCLUSIVE
    assert optimizers.pattern(mixed) == INCONCLUSIVE
    mixed.loc["test accuracy", "verdict"] = NOT_MEASURABLE
    assert optimizers.pattern(mixed) == NOT_MEASURABLE


def test_the_first_page_names_what_leaks_by_its_kind(pairs):
    both = optimizers.measure({"gsam": pairs["sam"], "swa": pairs["swa"]})
    said = optimizers.leakier(Section({"digits": both})).data
    assert said.endswith(
        "GSAM on Digits. No optimizer without that search tests better than SGD here, so none of them can be compared."
    )
    turned = optimizers.measure({"gsam": pairs["ema"], "swa": pairs["sam"]})
    said = optimizers.leakier(Section({"digits": both, "location30": turned})).data
    assert said.endswith(
        "easier to attack than SGD by LiRA: GSAM on Digits. Of those without that search: SWA on Location-30."
    )
    assert optimizers.leakier(Section({})).data == ""


def test_neither_order_nor_the_scale_of_logits_changes_c14(pairs, table_3):
    sgd, sam = pairs["sam"][:2]
    scaled = pair_of(sgd, sam.assign(logit=0.9 * sam.logit, test_logit=0.9 * sam.test_logit))
    expected = table_3["effects"].filter(like="C14 sam,", axis=0)
    for other in (scaled, shuffled(pairs["sam"])):
        found = optimizers.measure({"sam": other})["effects"]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.slow
def test_optimizers_exchanged_at_random_get_no_verdict():
    rng, decided = np.random.default_rng(0), 0
    push = 0.2 * rng.normal(size=(2, 24))
    pair = pair_of(run(1, leak=0.5 + push[0]), run(2, leak=0.7 + push[1], skill=0.1, optimizer="sam"))
    assert SUPPORTED in set(optimizers.optimizer_ledger(optimizers.measure({"sam": pair}))["verdict"])
    for _ in range(40):
        found = optimizers.measure({"sam": swapped(pair, rng.random(24) < 0.5)})
        decided += optimizers.optimizer_ledger(found)["verdict"].isin([SUPPORTED, CONTRADICTED]).any()
    assert decided <= 5  # of 40 sets, where a family errs at most once in 20: more have a probability below .02


def test_provenance_has_a_column_for_each_experiment():
    (path,) = (Path(__file__).parents[1] / "book" / "results").glob("digits-8-settings-*")
    about = records.read_about(path)
    shown = tables.provenance({**about, "live": False}).data
    assert len(shown.columns) == len(about["experiments"]) > 4
