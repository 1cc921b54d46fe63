"""The attacks without likelihoods: thresholds, population, difficulty calibration, label-only, quantile regression."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LinearRegression, QuantileRegressor

from samlib import attacks

SIGNALS = ("correctness", "confidence", "loss", "entropy", "modified_entropy")


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def naive_signal(name, p, y):
    """One example, from the definitions, with 0 log 0 = 0."""
    if name == "correctness":
        return float(max(range(len(p)), key=lambda i: p[i]) == y)
    if name == "confidence":
        return p[y]
    if name == "loss":
        return math.log(p[y])
    if name == "entropy":
        return sum(q * math.log(q) for q in p if q > 0)
    others = sum(q * math.log(1 - q) for i, q in enumerate(p) if i != y and q > 0)
    return (1 - p[y]) * math.log(p[y]) + others


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_equal_their_definitions(name):
    rng = np.random.default_rng(0)
    p, y = softmax(4 * rng.normal(size=(60, 5))), rng.integers(0, 5, 60)
    wanted = [naive_signal(name, row, label) for row, label in zip(p, y, strict=True)]
    np.testing.assert_allclose(getattr(attacks, name)(p, y), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_over_leading_axes_and_types(name):
    rng = np.random.default_rng(1)
    p, y = softmax(rng.normal(size=(3, 20, 4))), rng.integers(0, 4, 20)
    attack = getattr(attacks, name)
    np.testing.assert_array_equal(attack(p, y), [attack(one, y) for one in p])
    np.testing.assert_array_equal(attack(torch.from_numpy(p), torch.from_numpy(y)), attack(p, y))
    if name != "correctness":
        np.testing.assert_allclose(attack(p.astype(np.float32), y), attack(p, y), rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(attack(p.astype(np.float16), y), attack(p, y), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_of_saturated_probabilities(name):
    p = np.array([[1, 0, 0], [0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])
    score = getattr(attacks, name)(p, [0, 0, 0])
    assert np.isfinite(score).all()
    assert score[0] == score.max()  # certain and right: nothing is likelier a member
    if name in ("loss", "modified_entropy"):
        assert score[1] < -700 < score[2]  # certain and wrong: nothing is less likely one
    np.testing.assert_array_equal(getattr(attacks, name)(p[:2].astype(int), [0, 0]), score[:2])


def test_modified_entropy_tells_wrong_certainty_from_right_where_entropy_does_not():
    p = np.array([[0.9, 0.1], [0.9, 0.1]])
    right, wrong = attacks.modified_entropy(p, [0, 1])
    assert right > wrong
    assert len(set(attacks.entropy(p, [0, 1]))) == 1


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([[0.5, 0.6]], [0], "probs must sum to one"),
        ([[1.5, -0.5]], [0], r"probs must lie in \[0, 1\]"),
        ([[0.5, np.nan]], [0], "probs holds 1 NaN"),
        ([[0.5, np.inf]], [0], "probs holds 1 infinite"),
        ([[1.0]], [0], "at least two classes"),
        ([0.5, 0.5], [0], "at least two classes"),
        (np.zeros((0, 2)), [], "probs is empty"),
        ([[0.5, 0.5]], [2], "labels must lie in 0 to 1"),
        ([[0.5, 0.5]], [-1], "labels must lie in 0 to 1"),
        ([[0.5, 0.5]], [0.5], "labels must hold whole numbers"),
        ([[0.5, 0.5]], [0, 1], r"labels has shape \(2,\), but probs holds 1 examples"),
    ],
)
def test_signals_refuse_bad_input(name, probs, labels, message):
    with pytest.raises(ValueError, match=message):
        getattr(attacks, name)(np.asarray(probs), labels)


def naive_threshold(scores, member):
    """Every observed score tried against every score, as Song and Mittal's code does; lowest of equally good ones."""
    best, cut = -1.0, None
    n_in, n_out = int(member.sum()), int((~member).sum())
    for value in np.unique(scores):
        hits = sum(s >= value for s in scores[member]) * n_out + sum(s < value for s in scores[~member]) * n_in
        if hits > best:
            best, cut = hits, value
    return cut


few = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 3.0])
value = st.one_of(few, st.floats(-5, 5, allow_nan=False))
shadow = st.lists(st.tuples(value, st.booleans(), st.integers(0, 2)), min_size=2, max_size=30).filter(
    lambda rows: len({m for _, m, _ in rows}) == 2
)


@settings(deadline=None, max_examples=150)
@given(shadow, st.lists(st.tuples(value, st.integers(0, 2)), min_size=1, max_size=10))
def test_threshold_equals_the_pairwise_search(rows, targets):
    s, m, y = (np.array(column) for column in zip(*rows, strict=True))
    t, y_t = (np.array(column) for column in zip(*targets, strict=True))
    everywhere = naive_threshold(s, m)
    np.testing.assert_array_equal(attacks.threshold(s, m, t), t >= everywhere)
    cuts = {c: naive_threshold(s[y == c], m[y == c]) if len(set(m[y == c])) == 2 else everywhere for c in range(3)}
    np.testing.assert_array_equal(
        attacks.threshold(s, m, t, shadow_labels=y, target_labels=y_t),
        [score >= cuts[c] for score, c in zip(t, y_t, strict=True)],
    )


def test_threshold_optimum_of_two_gaussians():
    # Unit Gaussians at 0 and 2: the best cut is 1, with balanced accuracy Phi(1) = 0.8413.
    rng = np.random.default_rng(2)
    member = np.arange(40_000) % 2 == 0
    s = rng.normal(size=40_000) + 2 * member
    grid = np.linspace(-1, 3, 4001)
    cut = grid[np.argmax(attacks.threshold(s, member, grid))]
    assert abs(cut - 1) < 0.1
    assert abs((attacks.threshold(s, member, s) == member).mean() - 0.8413) < 0.01


def test_threshold_metamorphic():
    rng = np.random.default_rng(3)
    s, m, t = rng.normal(size=50), rng.random(50) < 0.3, rng.normal(size=(4, 20))
    y, y_t = rng.integers(0, 3, 50), rng.integers(0, 3, 20)
    called = attacks.threshold(s, m, t)
    order = rng.permutation(50)
    np.testing.assert_array_equal(attacks.threshold(s[order], m[order], t), called)
    np.testing.assert_array_equal(attacks.threshold(s, m, t[:, ::-1]), called[:, ::-1])
    np.testing.assert_array_equal([attacks.threshold(s, m, row) for row in t], called)
    ones = {"shadow_labels": np.full(50, 7), "target_labels": np.full(20, 7)}
    np.testing.assert_array_equal(attacks.threshold(s, m, t, **ones), called)
    by_class = attacks.threshold(s, m, t, shadow_labels=y, target_labels=y_t)
    far = attacks.threshold(s, m, t, shadow_labels=10**12 * y, target_labels=10**12 * y_t)
    np.testing.assert_array_equal(far, by_class)
    np.testing.assert_array_equal(
        attacks.threshold(s.astype(np.float32), m, s.astype(np.float32)), attacks.threshold(s, m, s)
    )
    # Several shadow models are one pool.
    np.testing.assert_array_equal(
        attacks.threshold(s.reshape(2, 25), m.reshape(2, 25), t, shadow_labels=y[:25], target_labels=y_t),
        attacks.threshold(s, m, t, shadow_labels=np.tile(y[:25], 2), target_labels=y_t),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shadow_member": [True, True, True]}, "shadow_member is True everywhere"),
        ({"shadow_member": [False, False, False]}, "shadow_member is False everywhere"),
        ({"shadow_member": [0, 1, 2]}, "shadow_member must hold only True and False"),
        ({"shadow_member": [True, False]}, "shadow_scores has shape"),
        ({"shadow_scores": [0, np.nan, 1]}, "shadow_scores holds 1 NaN"),
        ({"target_scores": [np.inf, 0]}, "target_scores holds 1 infinite"),
        ({"target_scores": []}, "target_scores is empty"),
        ({"shadow_labels": [0, 1, 2]}, "must be given together"),
        ({"shadow_labels": [0, 1], "target_labels": [0, 0]}, r"shadow_labels has shape \(2,\)"),
        ({"shadow_labels": [0, 1, 2], "target_labels": [0]}, r"target_labels has shape \(1,\)"),
        ({"shadow_labels": [0, 1, 2], "target_labels": [0, -1]}, "target_labels must lie in 0"),
    ],
)
def test_threshold_refuses_bad_input(change, message):
    given = {"shadow_scores": [0.0, 1.0, 2.0], "shadow_member": [False, True, True], "target_scores": [0.0, 1.0]}
    with pytest.raises(ValueError, match=message):
        attacks.threshold(**(given | change))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(value, st.integers(0, 1)), min_size=1, max_size=15),
    st.lists(st.tuples(value, st.integers(0, 1)), min_size=1, max_size=15),
)
def test_population_counts_the_scores_below(targets, others):
    (x, y), (z, y_z) = ((np.array(column) for column in zip(*rows, strict=True)) for rows in (targets, others))
    np.testing.assert_array_equal(attacks.population(x, z), [np.mean([v < s for v in z]) for s in x])
    y_z = np.r_[y_z, 0, 1]
    z = np.r_[z, 0.0, 0.0]
    wanted = [np.mean([v < s for v in z[y_z == c]]) for s, c in zip(x, y, strict=True)]
    np.testing.assert_array_equal(attacks.population(x, z, target_labels=y, population_labels=y_z), wanted)


def test_population_controls_its_false_positives():
    rng = np.random.default_rng(4)
    z = rng.integers(0, 50, 1000).astype(float)  # heavily tied
    for alpha in (0.01, 0.05, 0.3):
        assert (attacks.population(z, z) >= 1 - alpha).mean() <= alpha
    stacked = attacks.population(np.stack([z[:30], -z[:30]]), np.stack([z, -z]))
    np.testing.assert_array_equal(stacked, [attacks.population(z[:30], z), attacks.population(-z[:30], -z)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [np.nan]}, "target holds 1 NaN"),
        ({"population": [np.inf]}, "population holds 1 infinite"),
        ({"population": [[0.0]]}, "same target models"),
        ({"target_labels": [0]}, "must be given together"),
        ({"target_labels": [1], "population_labels": [0]}, "population_labels lacks 1 class"),
        ({"target_labels": [1, 1], "population_labels": [0]}, r"target_labels has shape \(2,\)"),
    ],
)
def test_population_refuses_bad_input(change, message):
    with pytest.raises(ValueError, match=message):
        attacks.population(**({"target": [0.0], "population": [0.0]} | change))


def test_difficulty_calibration_subtracts_the_out_mean():
    rng = np.random.default_rng(5)
    shadow, member = rng.normal(size=(7, 12, 3)), rng.random((7, 12)) < 0.6
    member[0] = False
    target = rng.normal(size=(2, 12, 3))
    wanted = [
        [
            np.mean(
                [target[t, i, q] - np.mean([shadow[k, i, q] for k in range(7) if not member[k, i]]) for q in range(3)]
            )
            for i in range(12)
        ]
        for t in range(2)
    ]
    scores = attacks.difficulty_calibration(target, shadow, member)
    np.testing.assert_allclose(scores, wanted, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(attacks.difficulty_calibration(target[0], attacks.moments(shadow, member)), scores[0])
    member[:, 3] = True
    with pytest.raises(ValueError, match="member: 1 example.* no out model"):
        attacks.difficulty_calibration(target, shadow, member)


def test_difficulty_calibration_takes_away_difficulty():
    # Signals = difficulty (large spread) + 2 for members: raw AUC is near 1/2, calibrated near Phi(sqrt 2) = 0.92.
    rng = np.random.default_rng(6)
    difficulty, member = 30 * rng.normal(size=4000), rng.random((17, 4000)) < 0.5
    signal = difficulty + 2 * member + rng.normal(size=(17, 4000))
    score = attacks.difficulty_calibration(signal[0], signal[1:], member[1:])
    assert abs(auc(signal[0], member[0]) - 0.5) < 0.05
    assert abs(auc(score, member[0]) - 0.9125) < 0.02


def auc(scores, member):
    from scipy.stats import mannwhitneyu

    return mannwhitneyu(scores[member], scores[~member]).statistic / (member.sum() * (~member).sum())


def test_label_only_is_the_share_of_right_views():
    rng = np.random.default_rng(7)
    right = rng.random((2, 15, 6)) < 0.7
    wanted = [[sum(views) / 6 for views in model] for model in right]
    np.testing.assert_allclose(attacks.label_only(right), wanted)
    np.testing.assert_array_equal(attacks.label_only(right[1].astype(int)), wanted[1])


def test_label_only_learns_which_views_tell():
    # View 0 is right for members only; views 1 to 4 say nothing, so the share of right views is a poor score.
    rng = np.random.default_rng(8)
    member = rng.random((3, 2000)) < 0.5
    views = rng.random((3, 2000, 5)) < 0.5
    views[..., 0] = np.where(rng.random((3, 2000)) < 0.9, member, ~member)
    learned = attacks.label_only(views[0], shadow_correct=views[1:], shadow_member=member[1:])
    assert abs(auc(learned, member[0]) - 0.9) < 0.02
    assert auc(attacks.label_only(views[0]), member[0]) < 0.8
    stacked = attacks.label_only(views[:2], shadow_correct=views[1:], shadow_member=member[1:])
    np.testing.assert_array_equal(stacked[0], learned)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_correct": [[0.5, 1.0]]}, "target_correct must hold only True and False"),
        ({"shadow_member": None}, "must be given together"),
        ({"shadow_member": [[True, True]]}, "shadow_member is True everywhere"),
        ({"shadow_member": [[True, False, True]]}, "shadow_member has shape"),
        ({"shadow_correct": [[[1], [0]]]}, "shadow_correct has 1 views"),
    ],
)
def test_label_only_refuses_bad_input(change, message):
    given = {"target_correct": [[1, 0]], "shadow_correct": [[[1, 0], [0, 1]]], "shadow_member": [[True, False]]}
    with pytest.raises(ValueError, match=message):
        attacks.label_only(**(given | change))


@pytest.fixture(scope="module")
def hetero():
    """Non-members' scores are N(3 x, (0.5 + x)^2), x in [0, 1]; a target's members lie 3 deviations higher."""
    rng = np.random.default_rng(9)
    x, u = rng.random((1500, 1)), rng.random((2000, 1))
    member = rng.random(2000) < 0.5
    s = 3 * x[:, 0] + (0.5 + x[:, 0]) * rng.normal(size=1500)
    t = 3 * u[:, 0] + (0.5 + u[:, 0]) * (rng.normal(size=2000) + 3 * member)
    return x, s, u, t, member


def test_quantile_regression_gaussian_head(hetero):
    x, s, u, t, member = hetero
    score = attacks.quantile_regression(x, s, u, t)
    truth = (t - 3 * u[:, 0]) / (0.5 + u[:, 0])
    assert np.corrcoef(score, truth)[0, 1] > 0.95
    assert abs(score[~member].mean()) < 0.15
    assert abs(score[~member].std() - 1) < 0.1
    assert auc(score, member) > auc(t, member) + 0.05  # what the features are worth


@pytest.mark.parametrize("kind", ["default", "linear", "boosting"])
def test_quantile_regression_holds_its_false_positive_rates(hetero, kind):
    x, s, u, t, member = hetero
    alpha = np.array([0.05, 0.25])
    regressor = {
        "default": None,
        "linear": QuantileRegressor(alpha=0, solver="highs"),
        "boosting": GradientBoostingRegressor(loss="quantile", n_estimators=50, max_depth=2, random_state=0),
    }[kind]
    margin = attacks.quantile_regression(x, s, u, t, alpha=alpha, regressor=regressor)
    assert margin.shape == (2, 2000)
    rates = (margin[:, ~member] >= 0).mean(1)
    np.testing.assert_allclose(rates, alpha, atol=0.05)
    assert ((margin[:, member] >= 0).mean(1) > [0.7, 0.9]).all()
    if kind == "linear":
        one = attacks.quantile_regression(x[:, 0], s, u[:, 0], t, alpha=0.05, regressor=regressor)
        np.testing.assert_allclose(one, margin[0])


def test_quantile_regression_is_reproducible_and_equivariant(hetero):
    x, s, u, t, _ = (v[:200] for v in hetero)
    score = attacks.quantile_regression(x, s, u, t)
    np.testing.assert_array_equal(attacks.quantile_regression(x, s, u[::-1], t[::-1]), score[::-1])
    np.testing.assert_array_equal(attacks.quantile_regression(x, s, u, t), score)
    # Nothing to learn: equal scores everywhere give no division by zero.
    assert np.isfinite(attacks.quantile_regression(x, np.ones(200), u, t)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"public_scores": np.full(20, np.nan)}, "public_scores holds 20 NaN"),
        ({"public_scores": np.zeros(19)}, "public_features has shape .20, 2., but public_scores has shape .19,"),
        ({"target_scores": np.zeros(4)}, "target_features has shape .5, 2., but target_scores has shape .4,"),
        ({"target_features": np.zeros((5, 3))}, "target_features has shape"),
        ({"public_features": np.zeros((9, 2)), "public_scores": np.zeros(9)}, "at least 10"),
        ({"alpha": 0.0}, r"alpha must lie strictly between 0 and 1"),
        ({"alpha": [0.5, 1.0]}, r"alpha must lie strictly between 0 and 1"),
        ({"alpha": 0.1, "regressor": LinearRegression()}, "LinearRegression has no quantile loss"),
        ({"alpha": 0.1, "regressor": GradientBoostingRegressor()}, "GradientBoostingRegressor has no quantile loss"),
        ({"regressor": torch.nn.Linear(2, 1)}, "regressor must be a scikit-learn regressor"),
    ],
)
def test_quantile_regression_refuses_bad_input(change, message):
    given = {
        "public_features": np.zeros((20, 2)),
        "public_scores": np.zeros(20),
        "target_features": np.zeros((5, 2)),
        "target_scores": np.zeros(5),
    }
    with pytest.raises(ValueError, match=message):
        attacks.quantile_regression(**(given | change))
