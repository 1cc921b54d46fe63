"""Influence entropy, cross-fitted: against a naive twin, its claims where the truth is known, and the optimizers exchanged."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from carried import CLASSES, carried, numbers, permuted
from scipy.stats import binom, rankdata, spearmanr
from simulated import simulate, swapped

from samlib import estimators
from samlib.audit import Pair, align
from samlib.data import Dataset
from samlib.inference import CONTRADICTED, SUPPORTED, groups, ranks, shares, verdict
from samlib.paper import buckets, entropy, panels
from samlib.paper.frames import EACH, Section, one
from samlib.paper.sets import halves, models_of

matplotlib.use("Agg")
CLAIMS = {"C8": (-1, 0.02), "C9": (1, 0.002), "C10": (1, 0.005), "C9 beyond difficulty": (1, 0.002)}
TESTS = 120


def verdicts(found):
    return {
        claim: found[claim]
        and verdict(found[claim].effect.estimate, *found[claim].effect.interval(EACH), *CLAIMS[claim])
        for claim in CLAIMS
    }


@pytest.fixture(scope="module")
def pair():
    """Test points 0 to 29 hang on one memorized example each, by which SAM gains there; the others on none."""
    influence = np.repeat([0.9, 0.0], [30, TESTS - 30])
    found = carried(1, influence, models=256)
    more = np.random.default_rng(0).random((256, TESTS)) < np.repeat([0.5, 0.0], [30, TESTS - 30])
    better = found.sam.test_correct.values | more
    return found._replace(sam=found.sam.assign(test_correct=(("model", "test"), better)))


def made(near, same=()):
    """Data in which the training examples of these indices are near the test points of the same index, others far."""
    rng = np.random.default_rng(0)
    x_test, x_train = rng.normal(size=(2, TESTS, 8)).astype(np.float32)
    x_train[near] = x_test[near] + 0.01
    same = np.asarray(same, int)
    x_train[same] = x_test[same]
    y = np.arange(TESTS) % CLASSES
    return Dataset(x_train, y, x_test, y, tuple("abc"), "made up", "0" * 64)


def distances_over_typical(dataset, tests, examples):
    """How far each test point is from its example, over its median distance from its class."""
    found = []
    for z, i in zip(tests, examples, strict=True):
        away = np.linalg.norm(dataset.x_train.astype(float) - dataset.x_test[z], axis=1)
        found.append(away[i] / np.median(away[dataset.y_train == dataset.y_test[z]]))
    return np.array(found)


def measured(pair, dataset, measure=entropy.measure):
    """What is measured where the data are at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entropy, "dataset_of", lambda runs: dataset)
        return measure(pair)


@pytest.fixture(scope="module")
def frames(pair):
    return measured(pair, made(np.arange(30)))


def test_weighted_shares_and_ranks_are_those_of_repeated_scores():
    rng = np.random.default_rng(0)
    for _ in range(40):
        scores, times = rng.integers(0, 9, 20), rng.integers(0, 3, 20)
        repeated = np.repeat(np.arange(20), times)
        expected = np.zeros((3, 20))
        np.add.at(expected.T, repeated, shares(scores[repeated], 3).T)
        np.testing.assert_allclose(shares(scores, 3, times), expected, atol=1e-12)
        np.testing.assert_allclose(ranks(scores, times)[repeated] + 0.5, rankdata(scores[repeated]))


def test_what_a_set_of_models_says_agrees_with_the_estimators(pair):
    models, dataset = models_of(pair), made(np.arange(5))
    seen = buckets.look(models, dataset)
    half, place = halves(groups(models.model, buckets.MODEL_GROUPS))[3], seen.directions[3, 0, 0]
    correct, member = np.concatenate(models.test_correct[:, half]), np.concatenate([models.member[half]] * 2)
    right = correct.sum(0)
    mixed = (right >= 3) & (len(correct) - right >= 3)
    assert np.array_equal(np.isfinite(seen.entropy[place]), mixed)
    np.testing.assert_allclose(
        seen.entropy[place][mixed],
        estimators.influence_entropy(estimators.influence(correct[:, mixed], member)),
        rtol=1e-5,
    )
    labels = models.test_label[mixed], models.label
    top = estimators.top_influences(correct[:, mixed], member, 1, labels=labels)[0][:, 0]
    assert np.array_equal(seen.top[place][mixed], top)
    far = distances_over_typical(dataset, np.flatnonzero(mixed), top)
    np.testing.assert_allclose(seen.far[place][mixed], far, rtol=1e-5)
    np.testing.assert_allclose(seen.accuracy[place], models.test_correct[:, half].mean(1), rtol=1e-6)
    both = np.concatenate(models.correct[:, half])
    np.testing.assert_allclose(seen.memorized[place], estimators.memorization(both, member).value)


@pytest.mark.slow
def test_the_claims_agree_with_a_naive_twin(pair, frames):
    """The estimates: the mean over both directions of all partitions, each from the library's own estimators."""
    models, dataset = models_of(pair), made(np.arange(30))
    rows, of_halves = [], halves(groups(models.model, buckets.MODEL_GROUPS))
    for half in [*of_halves, *(~h for h in of_halves)]:
        found = []
        for chosen in (half, ~half):
            correct, member = (
                np.concatenate(models.test_correct[:, chosen]),
                np.concatenate([models.member[chosen]] * 2),
            )
            right = correct.sum(0)
            mixed = np.flatnonzero((right >= 3) & (len(correct) - right >= 3))
            best = np.full(TESTS, -1)
            labels = models.test_label[mixed], models.label
            best[mixed] = estimators.top_influences(correct[:, mixed], member, 1, labels=labels)[0][:, 0]
            found.append((mixed, correct, member, best))
        (mixed, correct, member, best), (other, _, others_member, others_best) = found
        value = estimators.influence_entropy(estimators.influence(correct[:, mixed], member))
        weights = np.zeros((5, TESTS))
        weights[:, mixed] = shares(value, 5)
        gain = models.test_correct[1, ~half].mean(0) - models.test_correct[0, ~half].mean(0)
        score = estimators.memorization(np.concatenate(models.correct[:, ~half]), others_member).value[best]
        far = np.zeros(TESTS)
        far[other] = distances_over_typical(dataset, other, others_best[other])
        gains, scores = ((weights * x).sum(1) / weights.sum(1) for x in (gain, score))
        weights *= np.isin(np.arange(TESTS), other)
        ratios = (weights * far).sum(1) / weights.sum(1)
        rows.append([ratios[0] - ratios[4], gains[0] - gains[1:].mean(), scores[0] - scores[4]])
    np.testing.assert_allclose(frames["effects"]["estimate"][["C8", "C9", "C10"]], np.mean(rows, 0), atol=1e-6)


def test_correlations_with_points_left_out_are_spearmans():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=40), rng.integers(0, 5, 40).astype(float)
    kept = (np.arange(40) % 4 != np.arange(5)[:, None]).astype(float)
    found = buckets.correlation(x, np.where(np.arange(40) == 7, np.nan, y), kept)
    there = np.arange(40) != 7
    expected = [spearmanr(x[there & (k > 0)], y[there & (k > 0)])[0] for k in kept]
    np.testing.assert_allclose(found, expected)


@pytest.mark.slow
def test_claims_are_seen_and_contrasts_mirror_while_pooled_ones_stay(pair):
    found, mirrored = (measured(each, made(np.arange(30)), entropy.decided) for each in (pair, swapped(pair)))
    assert verdicts(found) == {"C8": SUPPORTED, "C9": SUPPORTED, "C10": SUPPORTED, "C9 beyond difficulty": SUPPORTED}
    assert verdicts(mirrored)["C9"] == CONTRADICTED
    for claim, sign in {"C8": 1, "C9": -1, "C10": 1, "C9 beyond difficulty": -1}.items():
        assert found[claim].effect.estimate == pytest.approx(sign * mirrored[claim].effect.estimate, rel=1e-12)
        assert found[claim].effect.stderr == pytest.approx(mirrored[claim].effect.stderr, rel=1e-9)
        assert found[claim].reliability == mirrored[claim].reliability


@pytest.mark.slow
def test_buckets_dealt_at_random_get_a_verdict_no_oftener_than_the_level(pair):
    """C8 and C10 are pooled: to exchange optimizers changes nothing in them, so their null deals entropies to other points."""
    models = models_of(pair)
    seen = buckets.look(models, made(np.arange(30)))
    always, rng, draws, hits = np.flatnonzero(np.isfinite(seen.entropy).all(0)), np.random.default_rng(3), 24, {}
    for _ in range(draws):
        dealt = seen.entropy.copy()
        dealt[:, always] = seen.entropy[:, rng.permutation(always)]
        ends = buckets.measured(models, seen._replace(entropy=dealt))["means"]
        for claim, value in (("C8", "distance"), ("C10", "memorization")):
            low, high = one(ends, -1, buckets.VALUES.index(value)).interval(0.05)
            hits[claim] = hits.get(claim, 0) + int(low > 0 or high < 0)
    assert max(hits.values()) <= binom.ppf(0.999, draws, 0.05), hits


@pytest.mark.slow
def test_the_order_of_models_examples_and_tests_changes_nothing(pair, frames):
    again = measured(permuted(pair), made(np.arange(30)))
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame, again[name], check_exact=True, obj=name)


def test_points_that_all_models_agree_on_lie_in_no_bucket():
    """The fault of buckets that hold them: bucket 5 was made of points that no model gets right."""
    found = carried(2, np.repeat([0.9, 0.0], [60, 60]), models=48)
    agreed = {who: runs.test_correct.values.copy() for who, runs in zip(("sgd", "sam"), found[:2], strict=True)}
    for each in agreed.values():
        each[:, 60:80], each[:, 80:100] = True, False
    pair = found._replace(
        sgd=found.sgd.assign(test_correct=(("model", "test"), agreed["sgd"])),
        sam=found.sam.assign(test_correct=(("model", "test"), agreed["sam"])),
    )
    frames = entropy.measure(pair)
    assert frames["counts"]["all"].tolist() == [80, 20, 20]
    assert frames["buckets"]["points"].sum() == pytest.approx(frames["counts"]["half"].iloc[0])
    assert frames["buckets"][["sgd", "sam"]].to_numpy().max() < 0.9
    assert not frames["gallery"]["test"].isin(np.arange(60, 100)).any()


@pytest.mark.slow
def test_exact_duplicates_are_told_from_near_ones(pair):
    frames = measured(pair, made(np.arange(30), same=np.arange(10)))
    tops = frames["tops"]["mean"]
    assert tops["distance", entropy.ENDS] == frames["effects"]["estimate"]["C8"]
    assert tops["distance", "1"] < tops["distance, without exact duplicates", "1"] < 0.6
    points = frames["tops"]["points"]
    assert points["distance, without exact duplicates", "1"] < points["distance", "1"] - 5
    part = frames["gallery"].query("bucket == 1").groupby("row").first()
    assert (part["distance"] < buckets.NEAR).all()


@pytest.mark.slow
def test_without_the_data_there_is_no_distance_and_indices_stand_for_pictures(pair):
    frames = entropy.measure(pair)  # the checksum is not that of digits
    assert np.isnan(frames["effects"]["estimate"]["C8"])
    assert frames["effects"]["estimate"].drop("C8").notna().all()
    found = Section({"digits": frames})
    assert "Not shown" in entropy.bucket_distances(found).data
    assert "not at hand" in entropy.figure_3(found, {"digits": None}).data
    shown = entropy.in_words(found, {"digits": None}).data
    first = next(frames["gallery"].itertuples())
    assert shown.index[0] == ("Digits", f"test point {first.test}")
    assert shown["bucket"].tolist() == ["1", "5"]
    assert shown["training examples"].iloc[0].split()[0] == str(first.example)


@pytest.mark.parametrize("tied", [True, False])
def test_a_half_without_a_group_may_give_no_test_point_an_entropy(tied):
    """Of six models a half has three: each point may be right in three of its six outcomes, but not without a model."""
    runs = align({"sgd": simulate(1, leak=0.5, skill=0, tests=1000), "sam": simulate(2, leak=1, skill=0, tests=1000)})
    six, rng = [each.isel(model=slice(6)) for each in runs[:2]], np.random.default_rng(0)
    right = np.arange(6)[:, None] < 3
    given = [right | np.zeros((6, 1000), bool) if tied else rng.random((6, 1000)) < 0.5 for _ in six]
    six = [each.assign(test_correct=(each.test_correct.dims, own)) for each, own in zip(six, given, strict=True)]
    frames = entropy.measure(Pair(*six, "SAM"))
    assert frames["effects"]["estimate"].isna().all()
    assert frames["histogram"].empty


def test_too_few_models_give_no_claim_and_sentences():
    frames = entropy.measure(carried(0, np.zeros(40), models=4))
    assert frames["effects"]["estimate"].isna().all()
    found = Section({"digits": frames})
    for draw in (entropy.bucket_accuracy, entropy.gain_by_difficulty, entropy.top_memorization, entropy.distance_table):
        assert "Not shown on Digits" in draw(found).data
    nothing = Section({"digits": {"gallery": frames["gallery"].head(0)}})
    assert "Not shown on Digits" in entropy.figure_3(nothing, {"digits": None}).data
    assert panels.told(found, "follows").data == "*These runs are too small to say it.*"
    assert entropy.hardest(found).data == ""


def test_the_figures_show_the_numbers(frames):
    dataset, found = made(np.arange(30)), Section({"digits": frames})
    left, right = entropy.bucket_accuracy(found).axes
    assert np.isin(frames["buckets"][["sgd", "sam"]].to_numpy(), numbers(left)).all()
    assert np.isin(frames["buckets"]["difference"].to_numpy(), numbers(right)).all()
    ax = entropy.gain_by_difficulty(found).axes[0]
    assert np.isin(frames["difficulty"]["difference"].to_numpy(), numbers(ax)).all()
    tops = frames["tops"]["mean"]
    first, last, means = entropy.top_memorization(found).axes
    for b, ax in ((1, first), (5, last)):
        assert ax.get_xlabel() == f"memorization, bucket {b}"
        assert tops["memorization", f"{b}"] in ax.lines[0].get_xdata()
    assert np.isin(tops["memorization"].drop(entropy.ENDS).to_numpy(), numbers(means)).all()
    assert frames["histogram"].groupby("bucket")["share"].sum().to_numpy() == pytest.approx(1)
    ax = entropy.bucket_distances(found).axes[0]
    assert np.isin(tops["distance"].drop(entropy.ENDS).to_numpy(), numbers(ax)).all()
    table = entropy.distance_table(found).data
    assert f">{tops['distance', '1']:.3f}<" in table
    assert f">{tops['distance', entropy.ENDS]:.3f} (" in table
    value = frames["reliability"]["value"].iloc[0]
    assert panels.reliability_table(found).data["reliability"].iloc[0] == f"{value:.3f}"
    assert frames["effects"]["reliability"].unique() == pytest.approx(value)
    images = dataset.__class__(
        dataset.x_train.reshape(-1, 4, 2), dataset.y_train, dataset.x_test.reshape(-1, 4, 2), dataset.y_test, tuple("abc"),
        "images", "0" * 64,
    )  # fmt: skip
    figure = entropy.figure_3(found, {"digits": images})
    assert "all data sets" in entropy.in_words(found, {"digits": images}).data
    said = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert any(each.startswith("near, ") for each in said)
    row = frames["gallery"].iloc[1]
    assert any(each.endswith(f"{row['influence']:.2f}") for each in said)


def test_the_hardest_bucket_is_named_as_the_run_has_it(frames):
    """Text that follows the numbers cannot contradict them, whichever way they fall."""
    buckets = frames["buckets"]
    turned = buckets.set_axis(buckets.index[::-1]).sort_index()
    for each in (buckets, turned):
        hard, most = each["sgd"].idxmin(), each["difference"].idxmax()
        for value, wanted in (
            (0.6, f"On Digits bucket {hard} is the hardest for SGD, and SAM gains most in bucket {most}."),
            (0.4, "On Digits the reliability is too low: these buckets do not say which test points are hard."),
        ):
            reliability = pd.DataFrame({"value": [value]})
            assert entropy.hardest(Section({"digits": {"buckets": each, "reliability": reliability}})).data == wanted


def test_frames_are_recorded_as_parquet(frames, tmp_path):
    for name, frame in frames.items():
        frame.to_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), frame)
