"""Definitions 1 to 4, Lemmas 1 to 3, Propositions 1 and 2, Theorems 1 and 2, Corollary 1, counterexamples."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from scipy.stats import norm

from samlib import theory
from samlib.theory import DataModel, Problems, above, always, equal, estimated, least, likely, log_mass, run

fixed = settings(derandomize=True, deadline=None, max_examples=200)
finite = {"allow_nan": False, "allow_infinity": False}
share = st.floats(0.01, 0.49)
spread = st.floats(0.03, 3)
pairs = st.tuples(st.floats(-0.5, 1.5), st.floats(1e-3, 1), st.floats(-1, 1), st.floats(1e-3, 1), spread, share).map(
    lambda v: {"M1": v[0], "A1": v[2] + v[3], "M2": v[0] + v[1], "A2": v[2], "s": v[4], "pi": v[5]}
)


def holds(name, given) -> None:
    checks = run(getattr(theory, f"check_{name}"), given)
    assert not [check for check in checks if not check.holds]


STATEMENTS = [
    name.removeprefix("check_") for name in dir(theory) if name.startswith("check_") and "experiment" not in name
]


@pytest.mark.parametrize("name", STATEMENTS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_statement_holds_on_random_parameters(name, seed):
    holds(name, Problems(seed))


def test_a_violated_check_says_so():
    assert not least("", [1.0, -1e-9]).holds
    assert not above("", [0.0]).holds
    assert above("", [1e-300]).holds
    assert not equal("", [np.nan], 1.0).holds
    assert not equal("", [0.0, -2.0], 1.0).holds
    assert not always("", [True, False]).holds
    assert not likely("", 1e-4).holds
    coin = np.random.default_rng(0).random(10_000) < 0.5
    assert estimated("", coin, 0.5).holds
    assert not estimated("", coin, 0.53).holds
    found = above("", [2.0, 1.0])
    assert (found.values, found.worst, found.allowed) == (2, 1.0, "above 0")
    assert equal("", [0.5, -2.0], 1.0).worst == 2


def test_a_claim_on_several_problems_is_one_and_holds_if_it_holds_on_each():
    problems = {"good": [[3.0], [1.0, 2.0], []], "bad": [[3.0], [-1.0], [4.0]], "none": [[], []]}

    def check(given):
        for values in given:
            yield above("it", values)

    found = {name: run(check, given) for name, given in problems.items()}
    assert [(len(checks), checks[0].values, checks[0].holds) for checks in found.values()] == [
        (1, 3, True), (1, 3, False), (1, 0, False),
    ]  # fmt: skip
    assert found["bad"][0].worst == -1
    assert found["good"][0].worst == 1


def test_the_gaps_of_a_model_are_those_that_points_show():
    holds("definitions", Problems(3, scale=4))


# Lemma 1


def test_caps_against_their_integral():
    for dim in (3, 10, 50):
        t = np.linspace(0, 0.9, 10)
        grid = np.linspace(0, np.pi, 200_001)
        density = np.sin(grid) ** (dim - 2)
        total = np.trapezoid(density, grid)
        naive = [np.trapezoid(np.where(np.cos(grid) >= v, density, 0), grid) / total for v in t]
        np.testing.assert_allclose(theory.cap_measure(t, dim), naive, atol=1e-4)


@fixed
@given(t=st.floats(0, 0.99), dim=st.integers(2, 2_000))
def test_a_caps_bound_is_never_below_its_measure(t, dim):
    assert theory.cap_measure(t, dim) <= theory.cap_bound(t, dim)


# Lemmas 2 and 3, Propositions 1 and 2


@fixed
@given(seed=st.integers(0, 2**32 - 1), minority=st.booleans())
def test_lemma2_the_gaps_of_any_interpolator(seed, minority):
    problems = Problems(seed)
    model = next(problems.models(1))
    sample = model.sample(problems.rng)
    w = problems.interpolator(sample.z)
    M, A, s = theory.alignments(w, model)
    confidence, accuracy, advantage = theory.gaps(w, sample, model, minority)
    mean = A if minority else M
    assert confidence == pytest.approx(1 - mean, abs=1e-9)
    assert accuracy == pytest.approx(norm.cdf(-mean / s), abs=1e-9)
    assert advantage == pytest.approx(norm.cdf(confidence / s), abs=1e-9)


@fixed
@given(
    M=st.floats(-2, 2), A=st.floats(-2, 2), s=spread, pi=share, tau=st.lists(st.floats(-4, 4), min_size=2, max_size=8)
)
def test_lemma3_the_best_threshold_is_the_member_level(M, A, s, pi, tau):
    tau = np.sort(tau)
    curve = theory.advantage(M, A, s, pi, tau)
    below = tau <= 1
    assert (np.diff(curve[below]) >= -1e-12).all()
    assert (curve[~below] <= 1e-12).all()
    best = theory.advantage(M, A, s, pi)
    assert best >= curve.max() - 1e-12
    assert best >= theory.error(M, A, s, pi) - 1e-12


@pytest.mark.slow
@fixed
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12))
def test_the_best_advantage_of_any_margins_is_that_of_the_best_threshold(seed, n):
    rng = np.random.default_rng(seed)
    margins, (M, A), s, pi = rng.normal(1, 0.3, n), rng.normal(size=2), rng.uniform(0.1, 1), rng.uniform(0.05, 0.4)
    fresh_above = lambda tau: 1 - theory.fresh_below(tau, M, A, s, pi)  # noqa: E731
    grid = np.concatenate([margins, np.linspace(-5, 5, 2_001)])
    naive = max((margins >= tau).mean() - fresh_above(tau) for tau in grid)
    assert theory.best_advantage(margins, M, A, s, pi) == pytest.approx(max(0, naive), abs=1e-12)


def test_an_unreachable_scale_is_refused_and_the_least_one_accepted():
    model = DataModel(d=30, p=8, q=3)
    z = model.sample(0).z
    with pytest.raises(ValueError, match="s must be at least") as caught:
        theory.matched_interpolator(z, model, 0.5, 0.1, 1e-6)
    least = float(str(caught.value).split("at least ")[1].split(" ")[0])
    w = theory.matched_interpolator(z, model, 0.5, 0.1, least * 1.001)
    assert theory.interpolates(w, z)


# Theorems 1 and 2, Corollary 1


def test_log_mass_is_the_log_of_the_mass_where_that_can_be_seen():
    low, width, s = np.random.default_rng(0).uniform([[-2], [0.01], [0.2]], [[2], [2], [2]], (3, 1000))
    mass = norm.cdf((low + width) / s) - norm.cdf(low / s)
    seen = mass > 1e-6  # the rest drowns in rounding
    np.testing.assert_allclose(log_mass(low, low + width, s)[seen], np.log(mass[seen]), rtol=1e-8)
    assert np.isfinite(log_mass(10.0, 11.0, 0.05))


@fixed
@given(pairs)
def test_theorem1_the_difference_and_its_condition(pair):
    M1, A1, M2, A2, s, pi = pair.values()
    found = theory.error_difference(M1, A1, M2, A2, pi, lambda t: ndtr(t / s))
    assert found == pytest.approx(theory.error(M2, A2, s, pi) - theory.error(M1, A1, s, pi), abs=1e-12)
    if theory.theorem1_condition(**pair):
        assert np.log(pi) + log_mass(A2, A1, s) > np.log1p(-pi) + log_mass(M1, M2, s)


@fixed
@given(pairs)
def test_theorem2_the_difference_and_its_condition(pair):
    M1, A1, M2, A2, s, pi = pair.values()
    found = theory.advantage_difference(M1, A1, M2, A2, pi, lambda t: ndtr(t / s))
    assert found == pytest.approx(theory.advantage(M1, A1, s, pi) - theory.advantage(M2, A2, s, pi), abs=1e-12)
    if theory.theorem2_condition(**pair):
        assert np.log1p(-pi) + log_mass(M1 - 1, M2 - 1, s) >= np.log(pi) + log_mass(A2 - 1, A1 - 1, s) - 1e-12


@fixed
@given(pairs, st.floats(0.05, 0.99))
def test_theorems_1_and_2_for_bounded_noise(pair, part):
    M1, A1, M2, A2, _, pi = pair.values()

    def triangle(beta):  # the distribution function of a triangular law on [-beta, beta]
        half = lambda t: 0.5 * np.clip(1 - np.abs(t) / beta, 0, 1) ** 2  # noqa: E731
        return lambda t: np.where(t < 0, half(t), 1 - half(t))

    if M1 > 1e-6:  # noise of smaller radius leaves the range of floating point
        cdf = triangle(part * M1)
        found = theory.error_difference(M1, A1, M2, A2, pi, cdf)
        assert found >= -1e-15
        assert (found > 0) == (cdf(A1) > cdf(A2))
    if A1 < 1 - 1e-6:
        cdf = triangle(part * (1 - A1))
        found = theory.advantage_difference(M1, A1, M2, A2, pi, cdf)
        assert found >= -1e-15
        assert (found > 0) == (cdf(M2 - 1) > cdf(M1 - 1))


@fixed
@given(M=st.floats(-1, 1.5), A=st.floats(-1, 1.5), s=st.floats(0.2, 3), log_kappa=st.floats(-3, 3), pi=share)
def test_corollary1_both_improve_exactly_inside_the_window(M, A, s, log_kappa, pi):
    kappa = 10**log_kappa
    low, high = theory.window(M, A)
    price = s**2 * np.log((1 - pi) * kappa / pi)
    assume(min(abs(price - low), abs(price - high)) > 1e-9)
    error_slope, advantage_slope = theory.slopes(M, A, s, kappa, pi)
    assert (error_slope < 0 < advantage_slope) == (low < price < high)
    assert high - low == pytest.approx(M - A, abs=1e-12)
    # the slopes are the derivatives
    h = 1e-6
    for f, slope_of in ((theory.error, error_slope), (theory.advantage, advantage_slope)):
        numeric = (f(M - kappa * h, A + h, s, pi) - f(M + kappa * h, A - h, s, pi)) / (2 * h)
        assert numeric == pytest.approx(slope_of, rel=1e-3, abs=1e-5 * (1 + kappa))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DataModel(p=0), "p must be a finite number of at least 1, but it is 0"),
        (lambda: DataModel(q=1.5), "q must be a whole number"),
        (lambda: DataModel(d=62), "d must be a finite number of at least 63 = p \\+ q \\+ 3, but it is 62"),
        (lambda: DataModel(a=0), "a must be a finite number above 0"),
        (lambda: DataModel(c=-1), "c must be a finite number of at least 0"),
        (lambda: DataModel(sigma=np.nan), "sigma must be a finite number above 0"),
        (lambda: DataModel(pi=0.5), "pi must lie strictly between"),
        (lambda: theory.alignments(np.zeros(3), DataModel()), "w must have 200 coordinates"),
        (lambda: theory.near_orthogonality(1, 5, 0.1), "n must be a finite number of at least 2"),
        (lambda: theory.near_orthogonality(3, 5, 1), "delta must lie strictly between 0 and 1"),
        (lambda: theory.reduction(np.eye(2), np.eye(2), DataModel(sigma_par=0.1)), "sigma_par must be 0"),
        (lambda: theory.match_g(DataModel().sample(), DataModel(), 3.0), "attained by no g"),
        (lambda: theory.lr_interval(0.0, 1.0, 1.0), "nu must be positive and below sd_out"),
        (lambda: theory.e1("Adam"), "row must be one of 'SGD'"),
        (
            lambda: theory.diagonal_net(np.ones((2, 3, 4)), rho=0, lr=1, steps=1, init=1, seeds=[0]),
            "seeds must hold one",
        ),
    ],
)
def test_bad_input_is_one_sentence_that_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
