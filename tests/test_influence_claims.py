"""The influence and influence entropy pages on simulated runs: which examples carry which test points is known."""

import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from samlib import Experiment, audit, claims, figures
from samlib.claims import CONTRADICTED, NO_DIFFERENCE, SUPPORTED, distance, entropy, influence, statistics
from samlib.data import Dataset
from samlib.estimators import memorization

matplotlib.use("Agg")
MODELS, EXAMPLES, TESTS, CLASSES = 96, 200, 200, 4


def simulate(seed, carried, *, memorized=None, skill=0.7):
    """Runs in which example i raises by `carried[i]` the chance that test point i is right, and by `memorized[i]` its own.

    Subsets are the same for every seed, so that runs are paired.
    """
    member = np.random.default_rng(0).random((MODELS, EXAMPLES)) < 0.5
    rng = np.random.default_rng(seed)
    carried = np.asarray(carried, float)
    memorized = carried if memorized is None else np.asarray(memorized, float)
    correct = rng.random(member.shape) < np.where(member, 1.0, 1 - memorized)
    base = np.where(carried > 0, 0.5 - carried / 2, skill)
    test_correct = rng.random((MODELS, TESTS)) < base + carried * member
    return xr.Dataset(
        {
            "member": (("model", "example"), member),
            "correct": (("model", "example"), correct),
            "test_correct": (("model", "test"), test_correct),
        },
        {
            "model": np.arange(MODELS),
            "label": ("example", np.arange(EXAMPLES) % CLASSES),
            "test_label": ("test", np.arange(TESTS) % CLASSES),
        },
        {
            "data_checksum": "0" * 64,
            "seconds": 1.0,
            "machine": ["a machine"],
            "experiment": Experiment(dataset="digits").model_dump_json(),
        },
    )


def swapped(pair):
    return audit.Pair(pair.sam, pair.sgd, pair.name)


def decided(measure, name, *pairs):
    """The verdicts of one claim alone, on several pairs."""
    (claim,) = [c for c in (*claims.CLAIMS, *claims.CONTROLS) if c.id == name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*no estimate")
        return [claims.decide({name: measure(pair)}, (claim,), MODELS)[0] for pair in pairs]


@pytest.fixture(scope="module")
def pair():
    """SGD gives its influence to highly memorized examples alone; SAM to the middle range too, which it memorizes more."""
    memorized = np.repeat([0.9, 0.45, 0.0], [40, 80, 80])
    sgd = simulate(1, memorized * (memorized > 0.8), memorized=memorized * np.where(memorized > 0.8, 1, 0.7))
    return audit.Pair(sgd, simulate(2, memorized), "SAM")


def test_a_narrow_set_of_memorized_examples_is_seen_and_flips(pair):
    seen, flipped = decided(influence.leaning, "C6", pair, swapped(pair))
    assert (seen["verdict"], flipped["verdict"]) == (SUPPORTED, CONTRADICTED)
    assert seen["estimate"] == pytest.approx(-flipped["estimate"])
    found = influence.figure_2(pair)["sgd"]
    high = found.interval == influence.HIGHEST
    assert high.sum() >= 10
    assert np.mean(found.example[high] == found.test[high]) > 0.8  # example i is what test point i hangs on
    assert found.terms.mean(0)[high].mean() > 0.5


def test_influence_that_grows_with_memorization_has_a_slope_and_flips(pair):
    """The other way round: where SAM memorizes less, it gives more influence."""
    strong = np.repeat([0.8, 0.0], [100, 100])
    weak = np.repeat([0.8, 0.2, 0.0], [50, 50, 100])
    same = audit.Pair(simulate(3, strong), simulate(4, weak), "SAM")
    other = audit.Pair(simulate(3, strong, memorized=weak), simulate(4, weak, memorized=strong), "SAM")
    seen, flipped = decided(influence.slope, "C7", same, other)
    assert (seen["verdict"], flipped["verdict"]) == (SUPPORTED, CONTRADICTED), (seen, flipped)
    (again,) = decided(influence.slope, "C7", swapped(same))  # both differences change sign, so the slope stays
    assert again["estimate"] == pytest.approx(seen["estimate"], rel=0.3)


def test_without_any_influence_the_measured_one_is_zero_however_it_was_chosen():
    nothing = np.zeros(EXAMPLES)
    pair = audit.Pair(*(simulate(s, nothing, memorized=np.linspace(0, 1, EXAMPLES)) for s in (5, 6)), "SAM")
    for found in influence.figure_2(pair).values():
        assert found.chosen_by.mean() > 0.2  # the largest of many accidents
        assert abs(found.terms.mean()) < 0.03
    table = influence.influence_by_interval(pair)
    assert (np.abs(table[["sgd", "sam"]]) < 0.05).all(axis=None)
    assert ((table["low"] < 0.01) & (table["high"] > -0.01)).all()


def test_terms_are_memorization_between_test_points_and_examples(pair):
    test, example = np.array([3, 0, 7]), np.array([3, 5, 7])
    runs = pair.sam
    terms = influence.influence_terms(influence.of(runs), test, example)
    member = runs.member.values[:, example]
    expected = memorization(runs.test_correct.values[:, test], member).value
    np.testing.assert_allclose(terms.mean(0), expected)


@pytest.fixture
def near():
    """Makes data in which the training examples of given indices are near the test points of the same index, others far."""

    def make(is_near):
        rng = np.random.default_rng(0)
        x_test = rng.normal(size=(TESTS, 8)).astype(np.float32)
        x_train = rng.normal(size=(EXAMPLES, 8)).astype(np.float32)
        x_train[is_near] = x_test[is_near] + 0.01
        y = np.arange(TESTS) % CLASSES
        return Dataset(x_train, y, x_test, y, tuple("abcd"), "made up", "0" * 64)

    return make


def test_near_duplicates_of_low_entropy_are_seen_and_flip(near, monkeypatch):
    """Test points 0 to 99 hang on one example each (low entropy), the others on none."""
    carried = np.repeat([0.9, 0.0], [100, 100])
    pair = audit.Pair(simulate(1, carried), simulate(2, carried), "SAM")
    found = entropy.top(influence.of(*pair[:2]))
    assert (found.test[found.bucket == 1] < 100).mean() > 0.75  # accidents of 96 models hide some
    assert (found.test[found.bucket == entropy.N_BUCKETS] >= 100).mean() > 0.75
    rows = []
    best = dict(zip(found.test, found.example[:, 0], strict=True))
    for low in (True, False):
        dataset = near(np.arange(100 if low else 0))
        if not low:  # the chosen example of every test point of high entropy lies on that point
            for t in found.test[found.bucket == entropy.N_BUCKETS]:
                dataset.x_train[best[t]] = dataset.x_test[t] + 0.01
        monkeypatch.setattr(entropy, "dataset_of", lambda runs, dataset=dataset: dataset)
        rows += decided(entropy.near_duplicates, "C8", pair)
    assert [row["verdict"] for row in rows] == [SUPPORTED, CONTRADICTED], rows
    assert rows[0]["estimate"] < -0.5


@pytest.mark.slow
def test_the_interval_of_near_duplicates_knows_that_other_models_would_choose_otherwise(near, monkeypatch):
    """On the same test points, by models drawn anew: what changes is the choice alone, and the halves foretell how much."""
    dataset, carried = near(np.arange(100)), np.repeat([0.9, 0.0], [100, 100])
    monkeypatch.setattr(entropy, "dataset_of", lambda runs: dataset)
    found = [
        entropy.near_duplicates(audit.Pair(simulate(2 * s, carried), simulate(2 * s + 1, carried), "SAM"))
        for s in range(16)
    ]
    foretold = np.sqrt(np.mean([each.replicates.var() - each.example_sd**2 for each in found]))
    assert np.std([each.estimate for each in found], ddof=1) / foretold == pytest.approx(1, abs=0.45)


def test_without_the_data_at_hand_there_is_no_verdict(pair):
    assert entropy.near_duplicates(pair) is None  # the checksum is not that of digits


@pytest.mark.parametrize("far", [True, False])
def test_examples_that_sam_memorizes_more_are_atypical_or_the_reverse(monkeypatch, far):
    rng, y = np.random.default_rng(0), np.arange(EXAMPLES) % CLASSES
    direction = rng.normal(size=(EXAMPLES, 8))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    special = np.arange(EXAMPLES) % 20 == 3
    x = (direction * np.where(special, 5 if far else 0, 1)[:, None]).astype(np.float32)
    dataset = Dataset(x, y, x, y, tuple("abcd"), "made up", "0" * 64)
    assert (distance.atypicality(dataset)[special] > 0.5).all() == far
    monkeypatch.setattr(distance, "dataset_of", lambda runs: dataset)
    nothing = np.zeros(EXAMPLES)
    pair = audit.Pair(*(simulate(s, nothing, memorized=m) for s, m in ((1, nothing), (2, 0.9 * special))), "SAM")
    (row,) = decided(distance.more_memorized, "C5", pair)
    assert row["verdict"] == (SUPPORTED if far else CONTRADICTED)
    assert abs(row["estimate"]) > 0.3


def test_distances_are_those_of_the_class(near):
    dataset = near(np.array([8]))
    found = distance.distances(dataset, np.array([8, 5]), np.array([8, 1]))
    gap = np.linalg.norm(dataset.x_test[5] - dataset.x_train[1])
    np.testing.assert_allclose(found.example, [0.01 * np.sqrt(8), gap], rtol=1e-4)
    every = np.linalg.norm(dataset.x_train[1::CLASSES] - dataset.x_test[5], axis=1)
    assert found.nearest[1] == pytest.approx(every.min())
    assert found.typical[1] == pytest.approx(np.median(every))
    assert found.nearest[0] == pytest.approx(found.example[0])


def test_a_gain_at_low_entropy_is_seen_and_flips():
    carried = np.repeat([0.9, 0.0], [40, 160])
    sgd = sam = simulate(1, carried, skill=1)  # all agree on the other test points, so these come last
    better = sam.test_correct.values.copy()
    better[:, :40] |= np.random.default_rng(9).random((MODELS, 40)) < 0.5
    sam = sam.assign(test_correct=(("model", "test"), better))
    gain = audit.Pair(sgd, sam, "SAM")
    worse = sgd.test_correct.values & (
        np.random.default_rng(9).random((MODELS, TESTS)) < np.repeat([0.5, 1], [40, 160])
    )
    loss = audit.Pair(sgd, sgd.assign(test_correct=(("model", "test"), worse)), "SAM")
    rows = decided(entropy.low_entropy_gain, "C9", gain, loss, audit.Pair(sgd, sgd, "SAM"))
    assert [row["verdict"] for row in rows] == [SUPPORTED, CONTRADICTED, NO_DIFFERENCE]
    frame = entropy.bucket_table(gain)
    assert rows[0]["estimate"] == pytest.approx(frame["difference"][1] - frame["difference"][2:].mean(), abs=1e-6)


def numbers(ax):
    """Every coordinate that an axes shows, as points or lines."""
    shown = [np.asarray(line.get_xydata()).ravel() for line in ax.lines]
    shown += [np.asarray(c.get_offsets()).ravel() for c in ax.collections]
    return np.concatenate(shown)


def shows(ax, values):
    return all(np.isclose(numbers(ax), v, atol=1e-6).any() for v in np.ravel(values))


def test_the_figures_show_the_numbers(pair):
    scatter, found = figures.influence_scatter(pair), influence.figure_2(pair)
    for ax, each in zip(scatter.axes, found.values(), strict=True):
        assert shows(ax, each.terms.mean(0))
        assert shows(ax, each.chosen_by)
        slope = np.polyfit(each.memorization, each.terms.mean(0), 1)[0]
        assert f"slope {slope:+.3f}" in ax.get_title()
    differences = influence.differences(pair)
    ax = figures.influence_differences(pair).axes[0]
    assert shows(ax, (differences.sam - differences.sgd).mean(0))
    drawn = next(t for t in ax.get_legend_handles_labels()[1] if "slope" in t)
    assert float(drawn.split()[1]) == pytest.approx(influence.slope(pair).estimate, abs=6e-4)
    html = figures.influence_table(pair).to_html()
    for value in influence.influence_by_interval(pair)["difference"]:
        assert f"{value:+.4f}" in html
    left, right = figures.bucket_accuracy(pair).axes
    buckets = entropy.bucket_table(pair)
    assert shows(left, buckets[["sgd", "sam"]])
    assert shows(right, buckets["difference"])
    assert shows(figures.gain_by_difficulty(pair).axes[0], entropy.difficulty_table(pair)["difference"])
    titles = [ax.get_title() for ax in figures.top_memorization(pair).axes]
    top = entropy.top(influence.of(statistics.halves(pair)[0].sam))
    odd = statistics.halves(pair)[1].sam
    score = memorization(odd.correct.values, odd.member.values).value[top.example[:, 0]]
    assert titles == [
        f"bucket {b}: {(top.bucket == b).sum()} test points\nmean {score[top.bucket == b].mean():.2f} (dashed)"
        for b in (1, 5)
    ]
    plt.close("all")
