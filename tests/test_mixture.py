"""The mixture of Figure 5: closed forms, naive twins of both solvers, and the claim with the map of where it fails."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import binom, multivariate_normal, norm, ttest_rel

from samlib import SAM, inference
from samlib.mixture import (
    Mixture,
    PairedDraws,
    Predictor,
    draw_batches,
    errors,
    exposure,
    features,
    fit,
    fit_mlp,
    hidden_units,
    memorization,
    newton,
    offset_loss,
    paired_draws,
    population_fit,
    quadrature,
)  # fmt: skip
from samlib.theory import offset_gradient, sam_gradient

MIX = Mixture()
fixed = settings(derandomize=True, deadline=None, max_examples=40)


class Bayes:
    decision = staticmethod(MIX.decision)


# Model


def test_densities_and_bayes_rule_equal_scipys():
    x = np.random.default_rng(0).normal(size=(200, 2)) * 2
    red, blue = MIX.density(x).T
    typical, atypical, other = (
        multivariate_normal(mean, spread**2).pdf(x)
        for mean, spread in [((-1.3, -0.2), 0.6), ((2.2, 0.6), 0.35), ((0.6, 0), 0.55)]
    )
    np.testing.assert_allclose(red, 0.5 * (0.8 * typical + 0.2 * atypical), rtol=1e-12)
    np.testing.assert_allclose(blue, 0.5 * other, rtol=1e-12)
    np.testing.assert_array_equal(MIX.bayes(x), np.where(red >= blue, 1, -1))
    np.testing.assert_allclose(MIX.decision(x), np.log(red / blue), rtol=1e-9, atol=1e-12)


def test_bayes_rule_far_away_is_finite_and_a_class_without_mass_is_never_predicted():
    far = np.array([[1e4, 0], [-1e4, 3.0], [0, 1e4]])
    assert not np.isnan(MIX.decision(far)).any()
    assert (Mixture(red_share=0).bayes(far) == -1).all()
    assert (Mixture(red_share=1).bayes(far) == 1).all()
    assert not np.isnan(Mixture(atypical_share=0).decision(far)).any()


def test_quadrature_equals_half_planes_and_the_bayes_error_a_large_sample():
    x, cluster, weight = quadrature(MIX)
    for k, (mean, spread) in enumerate([(MIX.typical_mean, 0.6), (MIX.atypical_mean, 0.35), (MIX.blue_mean, 0.55)]):
        assert weight[cluster == k].sum() == pytest.approx(1, abs=1e-12)
        for angle, offset in [(0.3, 0.1), (1.2, -0.4), (2.5, 0.8)]:
            u = np.array([np.cos(angle), np.sin(angle)])
            mass = weight[cluster == k] @ ((x[cluster == k] - mean) @ u <= offset)
            assert mass == pytest.approx(norm.cdf(offset / spread), abs=1e-3)
    found = errors(Bayes, MIX)
    assert found["disagreement"] == 0
    x, y, atypical = MIX.sample_test(1_000_000, seed=3)
    wrong = MIX.bayes(x) != y
    assert found["error"] == pytest.approx(wrong.mean(), abs=4.5 * np.sqrt(0.056 / 1e6) + 1e-4)
    assert found["atypical_accuracy"] == pytest.approx(1 - wrong[atypical].mean(), abs=4.5 * np.sqrt(0.06 / 1e5) + 1e-4)
    assert found["error"] == pytest.approx(0.0555, abs=0.0015)  # the table's is from a finite test sample
    assert found["atypical_accuracy"] == pytest.approx(0.939, abs=0.001)


def test_samples_have_the_counts_the_laws_and_the_seeds_asked_for():
    x, y, atypical = MIX.sample(30_000, 20_000, 25_000, seed=4)
    assert x.shape == (75_000, 2)
    np.testing.assert_array_equal(y, [1] * 50_000 + [-1] * 25_000)
    np.testing.assert_array_equal(atypical, [False] * 30_000 + [True] * 20_000 + [False] * 25_000)
    for part, mean, spread in [
        (x[:30_000], MIX.typical_mean, 0.6), (x[atypical], MIX.atypical_mean, 0.35), (x[50_000:], MIX.blue_mean, 0.55),
    ]:  # fmt: skip
        assert np.abs(part.mean(0) - mean).max() < 4.5 * spread / np.sqrt(len(part))
        assert np.abs(part.std(0) / spread - 1).max() < 4.5 / np.sqrt(2 * len(part))
    np.testing.assert_array_equal(MIX.sample(5, 5, 5, seed=1)[0], MIX.sample(5, 5, 5, seed=1)[0])
    few, many = MIX.sample(5, 0, 7, seed=1)[0], MIX.sample(5, 9, 7, seed=1)[0]
    np.testing.assert_array_equal(few, np.concatenate([many[:5], many[14:]]))


def test_a_test_sample_follows_the_populations_shares():
    _, y, atypical = MIX.sample_test(10_000, seed=0)
    for count, share in [(atypical.sum(), 0.1), ((y == -1).sum(), 0.5)]:
        assert 1e-3 < binom.cdf(count, 10_000, share) < 1 - 1e-3


# Fits


def test_features_are_the_monomials_in_their_order():
    u, v = 0.3, -1.7
    found = features([[2 * u + 1, 2 * v - 1]], degree=3, origin=(1, -1))[0]
    wanted = [1, u, v, u * u, u * v, v * v, u**3, u**2 * v, u * v**2, v**3]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.slow
@fixed
@given(
    counts=st.tuples(*[st.integers(0, 30)] * 3).filter(any), seed=st.integers(0, 99), rho=st.floats(0, 5),
    degree=st.integers(1, 4), log_l2=st.floats(-5, -1),
)  # fmt: skip
def test_newton_finds_the_minimum_that_scipy_finds(counts, seed, rho, degree, log_l2):
    x, y, _ = MIX.sample(*counts, seed=seed)
    phi, l2 = features(x, degree), 10**log_l2
    w = newton(phi, y, rho, l2)
    gradient = offset_gradient(w, phi, y, rho) + l2 * w
    # l2-strong convexity: the distance to the minimizer is at most ||gradient|| / l2
    assert np.linalg.norm(gradient) < 1e-8 * l2 * max(1, np.linalg.norm(w))
    naive = minimize(offset_loss, np.zeros(phi.shape[1]), (phi, y, rho, l2), method="BFGS", options={"gtol": 1e-9})
    assert offset_loss(w, phi, y, rho, l2) <= naive.fun + 1e-12
    assert offset_loss(w, phi, y, rho, l2) == pytest.approx(naive.fun, abs=1e-6)


@fixed
@given(seed=st.integers(0, 999), rho=st.floats(0, 3), n=st.tuples(*[st.integers(1, 20)] * 3))
def test_a_fit_ignores_the_order_of_points_and_flips_with_the_labels(seed, rho, n):
    x, y, _ = MIX.sample(*n, seed=seed)
    w = fit(x, y, rho=rho).weights
    order = np.random.default_rng(seed).permutation(len(x))
    tolerance = 1e-7 * np.abs(w).max()
    np.testing.assert_allclose(fit(x[order], y[order], rho=rho).weights, w, atol=tolerance)
    np.testing.assert_allclose(fit(x, -y, rho=rho).weights, -w, atol=tolerance)


@pytest.mark.parametrize("rho", [0, 1, 20, 100])
@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 0, 3), (0, 5, 5), (40, 0, 40), (200, 100, 200)])
def test_no_draw_makes_a_fit_fail(counts, rho):
    x, y, _ = MIX.sample(*counts)
    for degree in (1, 5):
        assert np.isfinite(fit(x, y, rho=rho, degree=degree).weights).all()


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_the_minibatch_solver_is_the_librarys_optimizer_step_for_step(rho):
    x, y, _ = MIX.sample(20, 3, 20)
    steps, l2, lr = 60, 1e-2, 0.5
    found = fit(x, y, rho=rho, solver="minibatch", steps=steps, l2=l2, lr=lr, seed=5).weights
    phi, label = torch.from_numpy(features(x)), torch.from_numpy(y.astype(float))
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    optimizer = SAM([w], torch.optim.SGD, rho=rho, lr=lr, momentum=0.9, weight_decay=l2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.base_optimizer, steps)
    for batch in draw_batches(len(x), 4, steps, 5):

        def closure(batch=batch):
            loss = torch.nn.functional.softplus(-label[batch] * (phi[batch] @ w)).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        schedule.step()
    np.testing.assert_allclose(found, w.detach().numpy(), atol=1e-11)


def hidden_of(w, u, activation):
    """The scores of a network of width 5, by torch."""
    w, u = torch.from_numpy(w), torch.from_numpy(u)
    return (getattr(torch, activation)(u @ w[:10].reshape(2, 5) + w[10:15]) @ w[15:20] + w[20]).numpy()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_a_network_trains_as_torch_would(activation):
    x, y, _ = MIX.sample(20, 3, 20)
    options = {"rho": 0.2, "width": 5, "activation": activation, "batch_size": 8, "seed": 2}
    found = fit_mlp(x, y, steps=40, l2=1e-3, **options)
    # steps = 1 and lr = 0 leave the initial weights
    w = torch.from_numpy(fit_mlp(x, y, steps=1, lr=0, **options).weights).requires_grad_()
    rng = np.random.default_rng(2)
    rng.uniform(size=4 * 5 + 1)
    u, label = torch.from_numpy(x / 2), torch.from_numpy(y.astype(float))
    optimizer = SAM([w], torch.optim.SGD, rho=0.2, lr=0.3, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer.base_optimizer, 40)
    for batch in draw_batches(len(x), 8, 40, rng):

        def closure(batch=batch):
            hidden = getattr(torch, activation)(u[batch] @ w[:10].reshape(2, 5) + w[10:15])
            loss = torch.nn.functional.softplus(-label[batch] * (hidden @ w[15:20] + w[20])).mean()
            loss.backward()
            return loss

        optimizer.step(closure)
        schedule.step()
    np.testing.assert_allclose(found.weights, w.detach().numpy(), atol=1e-10)
    score = hidden_units(found.weights, x / 2, activation)[1]
    np.testing.assert_allclose(score, hidden_of(found.weights, x / 2, activation))
    np.testing.assert_allclose(found.decision(x), score)


def test_batch_one_sam_on_the_features_descends_the_objective_that_newton_solves():
    x, y, _ = MIX.sample(10, 3, 10)
    phi, w = features(x), np.random.default_rng(0).normal(size=6)
    for k in range(len(x)):
        one, label = phi[k : k + 1], y[k : k + 1]
        sam = sam_gradient(lambda v, one=one, label=label: offset_gradient(v, one, label, 0), w, 0.8)
        np.testing.assert_allclose(sam, offset_gradient(w, one, label, 0.8), atol=1e-12)


def test_rho_zero_is_sgd_and_full_batches_do_not_depend_on_the_seed():
    x, y, _ = MIX.sample(10, 3, 10)
    full = {"solver": "minibatch", "batch_size": 100, "steps": 50}
    np.testing.assert_array_equal(fit(x, y, seed=1, **full).weights, fit(x, y, seed=2, **full).weights)
    a, b = (fit(x, y, rho=rho, solver="minibatch", steps=50).weights for rho in (0.0, 1e-12))
    np.testing.assert_allclose(a, b, atol=1e-9)


def test_mass_weighs_the_examples_of_a_fit():
    x, y, _ = MIX.sample(10, 3, 10)
    twice = np.repeat(np.arange(len(x)), np.where(np.arange(len(x)) < 5, 2, 1))
    mass = np.where(np.arange(len(x)) < 5, 2, 1) / len(twice)
    np.testing.assert_allclose(
        fit(x, y, rho=1.0, mass=mass).weights, fit(x[twice], y[twice], rho=1.0).weights, rtol=1e-9
    )


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_the_fit_to_the_population_is_where_many_samples_lead(rho):
    many = errors(fit(*MIX.sample(160_000, 40_000, 200_000)[:2], rho=rho), MIX)["error"] - errors(MIX, MIX)["error"]
    assert population_fit(MIX, rho=rho) == pytest.approx(many, abs=2e-4)


# Measures


def test_the_advantage_of_a_draw_is_that_of_the_best_threshold():
    draw = MIX.sample(12, 3, 9, seed=8)
    model = fit(*draw[:2])
    x, cluster, weight = quadrature(MIX)
    label = np.where(cluster < 2, 1, -1)
    fresh = weight * (np.array([12, 3, 9]) / 24)[cluster]
    margin, fresh_margin = draw[1] * model.decision(draw[0]), label * model.decision(x)
    naive = max((margin >= tau).mean() - fresh[fresh_margin >= tau].sum() for tau in margin)
    assert errors(model, MIX, *draw)["advantage"] == pytest.approx(max(0, naive), abs=1e-12)


@pytest.mark.parametrize("rho", [0.0, 1.0])
def test_memorization_is_that_of_a_fit_without_the_point(rho):
    x, y, _ = MIX.sample(12, 2, 9, seed=8)
    found = memorization(x, y, rho=rho)
    for k in (0, 12, 20):
        inside, outside = fit(x, y, rho=rho), fit(np.delete(x, k, 0), np.delete(y, k), rho=rho)
        chance = [1 / (1 + np.exp(-y[k] * rule.decision(x[k : k + 1])[0])) for rule in (inside, outside)]
        assert found[k] == pytest.approx(chance[0] - chance[1], abs=1e-9)
    assert found.min() > -1e-3  # less only since the penalty weighs less beside one more point
    assert found.max() > 0.5


def test_exposure_is_the_auc_of_two_gaussians():
    rng = np.random.default_rng(0)
    x, y, _ = MIX.sample(12, 2, 9, seed=8)
    member = rng.random((60, 23)) < 0.5
    found = exposure(x, y, member, l2=0.01)
    logits = np.array([y * fit(x[seen], y[seen], l2=0.01).decision(x) for seen in member])
    for k in (0, 12, 20):
        inside, outside = logits[member[:, k], k], logits[~member[:, k], k]
        wanted = norm.cdf((inside.mean() - outside.mean()) / np.hypot(inside.std(), outside.std()))
        assert found[k] == pytest.approx(wanted, abs=1e-9)
    with pytest.raises(ValueError, match="member must have, for each point, a fit that saw it"):
        exposure(x, y, np.ones((4, 23)))


def test_constant_predictors_have_the_error_of_the_other_class_and_no_advantage():
    red = Predictor(np.array([1.0, 0, 0]), lambda w, points: features(points, 1) @ w)
    found = errors(red, MIX, *MIX.sample(4, 1, 5))
    assert found["error"] == pytest.approx(0.5)
    assert found["atypical_accuracy"] == pytest.approx(1)
    assert found["advantage"] == pytest.approx(0, abs=1e-12)


def test_a_paired_test_is_scipys_and_its_interval_covers():
    rng = np.random.default_rng(0)
    a = rng.normal(size=40)
    b = a + 0.3 + rng.normal(size=40)
    found, wanted = PairedDraws({"it": a}, {"it": b}).summary()["it"], ttest_rel(b, a)
    assert (found.t, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    ends = wanted.confidence_interval(1 - 0.05 / 2)  # two rows, whose intervals hold at once
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high))
    assert (found.low > 0) == (found.p < 0.05 / 2)
    edge = PairedDraws({"equal": a[:2], "less": [1.0, 2.0]}, {"equal": a[:2], "less": [0.0, 1.0]}).summary()
    assert edge.loc[["difference", "t", "p", "low", "high"], "equal"].tolist() == [0, 0, 1, 0, 0]
    assert edge.loc["t", "less"] == -np.inf
    assert edge.loc["p", "less"] == 0
    covered = 0
    for k in range(2000):
        low, high = inference.mean(np.random.default_rng((1, k)).normal(0.2, 1, (12, 1))).interval(0.05)
        covered += low <= 0.2 <= high
    assert 0.93 < covered / 2000 < 0.97


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Mixture(blue_spread=0), "blue_spread must be a finite number above 0"),
        (lambda: Mixture(red_share=1.1), "red_share must lie in"),
        (lambda: Mixture(atypical_mean=(1, 2, 3)), "atypical_mean must hold 2 coordinates"),
        (lambda: Mixture(typical_mean=(1, np.nan)), "typical_mean holds 1 NaN"),
        (lambda: MIX.sample(-1, 2, 2), "n_typical must be a finite number of at least 0, but it is -1"),
        (lambda: MIX.sample(1, 2.5, 2), "n_atypical must be a whole number"),
        (lambda: MIX.sample(1, 1, np.nan), "n_blue must be a finite number"),
        (lambda: MIX.sample(0, 0, 0), "all 0"),
        (lambda: MIX.sample_test(0), "n must be a finite number of at least 1"),
        (lambda: MIX.bayes([1, 2]), "x must have 2 dimension"),
        (lambda: MIX.bayes([[1, 2, 3]]), r"x must hold 2 coordinates for a point, but its shape is \(1, 3\)"),
        (lambda: features([[1, 2]], 0), "degree must be a finite number of at least 1"),
        (lambda: features([[1, 2]], scale=0), "scale must be a finite number above 0"),
        (lambda: features([[1, 2]], origin=(1,)), "origin must hold 2 coordinates"),
        (lambda: fit([[1, 2]], [0]), "y must hold only"),
        (lambda: fit([[1, 2]], [1, 1]), "y holds 2 labels, but x holds 1"),
        (lambda: fit([[1, np.inf]], [1]), "x holds 1 infinite"),
        (lambda: fit([[1, 2]], [1], rho=-1), "rho must be a finite number of at least 0"),
        (lambda: fit([[1, 2]], [1], rho="1"), "rho must be a number"),
        (lambda: fit([[1, 2]], [1], l2=0), "l2 must be positive"),
        (lambda: fit([[1, 2]], [1], mass=[0.5, 0.5]), "mass must hold a weight for each of the 1 points"),
        (lambda: fit([[1, 2]], [1], mass=[1.0], solver="minibatch"), "mass .* is for the Newton solver alone"),
        (lambda: exposure([[1, 2]], [1], [[1, 0]]), "member must have a column for each of the 1 points"),
        (lambda: fit([[1, 2]], [1], solver="adam"), "solver must be one of 'newton', 'minibatch'"),
        (lambda: fit([[1, 2]], [1], solver="minibatch", steps=0), "steps must be a finite number of at least 1"),
        (lambda: fit([[1, 2]], [1], solver="minibatch", batch_size=0), "batch_size must be"),
        (lambda: fit_mlp([[1, 2]], [1], activation="gelu"), "activation must be"),
        (lambda: fit_mlp([[1, 2]], [1], width=0), "width must be"),
        (lambda: paired_draws(1), "n_draws must be a finite number of at least 2"),
        (lambda: errors(Bayes, MIX, [[1, 2]], [1], [True, False]), "atypical has shape"),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
