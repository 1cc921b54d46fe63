"""LiRA against a twin written from the paper in loops, closed forms, and the relations it must keep."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from samlib import attacks

MODES = ("online", "offline", "offline-two-sided")
VARIANCES = ("example", "residual", "reference")


def auc(scores, member):
    return stats.mannwhitneyu(scores[member], scores[~member]).statistic / (member.sum() * (~member).sum())


def naive_lira(target, shadow, member, mode, variance, truncate):
    """One example and query at a time; target (n, q), shadow (models, n, q). None where no deviation can be had."""
    n, queries = target.shape
    sides = [[shadow[keep[:, i], i] for i in range(n)] for keep in (member, ~member)]  # in, out: (models, q) each
    if truncate:
        sides = [[x[: min(map(len, side))] for x in side] for side in sides]
    if variance != "reference" and any(max(map(len, side)) < 2 for side in (sides if mode == "online" else sides[1:])):
        return None
    centre = [[(np.median if variance == "reference" else np.mean)(x, axis=0) for x in side] for side in sides]
    residuals = [np.concatenate([(x - x.mean(0)).ravel() for x in side]) for side in sides]
    pooled = [np.sqrt(np.mean(r**2)) for r in residuals]
    whole = [np.std(np.concatenate([x.ravel() for x in side])) for side in sides]
    scores = []
    for i in range(n):
        total = 0.0
        for q in range(queries):
            std = []
            for side in (0, 1):
                x = sides[side][i][:, q]
                own = np.std(x) if len(x) > 1 else pooled[side]
                shared = whole[0] if mode == "online" else whole[side]
                std.append({"example": own, "residual": pooled[side], "reference": shared}[variance] + 1e-30)
            log_in = stats.norm.logpdf(target[i, q], centre[0][i][q], std[0])
            log_out = stats.norm.logpdf(target[i, q], centre[1][i][q], std[1])
            tail = -stats.norm.logsf(target[i, q], centre[1][i][q], std[1])
            total += {"online": log_in - log_out, "offline": tail, "offline-two-sided": -log_out}[mode]
        scores.append(total / queries)
    return np.array(scores)


@st.composite
def shadow_runs(draw, low, high, unit, min_in=1):
    """Signals on a grid whose sums are exact, with many ties, and masks with an in and an out model everywhere."""
    models, n, queries = draw(st.integers(2, 7)), draw(st.integers(1, 5)), draw(st.integers(1, 3))
    grid = st.integers(int(low / unit), int(high / unit)).map(lambda k: k * unit)
    shadow = np.array(draw(st.lists(grid, min_size=models * n * queries, max_size=models * n * queries)))
    target = np.array(draw(st.lists(grid, min_size=n * queries, max_size=n * queries)))
    member = np.zeros((models, n), bool)
    for i in range(n):
        some = draw(st.lists(st.booleans(), min_size=models, max_size=models).filter(lambda m: 0 < sum(m) < len(m)))
        member[:, i] = some
    return target.reshape(n, queries), shadow.reshape(models, n, queries), member


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variance", VARIANCES)
@settings(deadline=None, max_examples=60)
@given(run=shadow_runs(-5, 5, 1 / 8), truncate=st.booleans())
def test_lira_equals_the_loop(run, truncate, mode, variance):
    target, shadow, member = run
    options = {"mode": mode, "variance": variance, "truncate": truncate}
    wanted = naive_lira(target, shadow, member, **options)
    if wanted is None:
        with pytest.raises(ValueError, match="their deviation cannot be estimated"):
            attacks.lira(target, shadow, member, **options)
        return
    np.testing.assert_allclose(attacks.lira(target, shadow, member, **options), wanted, rtol=1e-9, atol=1e-9)
    if target.shape[1] == 1:
        one = attacks.lira(target[:, 0], shadow[..., 0], member, **options)
        np.testing.assert_allclose(one, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variance", VARIANCES)
@pytest.mark.parametrize("truncate", [False, True])
def test_lira_on_many_models(gaussian, mode, variance, truncate, monkeypatch):
    signal, member = gaussian
    options = {"mode": mode, "variance": variance, "truncate": truncate}
    scores = attacks.lira(signal[0], signal[1:], member[1:], **options)
    np.testing.assert_allclose(scores, naive_lira(signal[0], signal[1:], member[1:], **options), rtol=1e-9)
    monkeypatch.setattr("samlib.attacks.likelihood._BLOCK", 1000)  # blocks of 15 examples
    np.testing.assert_allclose(attacks.lira(signal[0], signal[1:], member[1:], **options), scores, rtol=1e-12)


@pytest.mark.parametrize("separation", [0.5, 2.0])
def test_lira_roc_of_gaussian_signals(separation):
    # In N(difficulty + d, 1), out N(difficulty, 1), both known: the likelihood ratio has AUC Phi(d / sqrt 2) and
    # TPR Phi(Phi^-1(FPR) + d); the one-sided test against out has the same, a two-sided one less.
    rng = np.random.default_rng(1)
    n = 40_000
    difficulty, member = 3 * rng.normal(size=n), rng.random(n) < 0.5
    target = difficulty + separation * member + rng.normal(size=n)
    one, many = np.ones(n), np.full(n, 64)
    known = attacks.Moments(difficulty + separation, difficulty, one, one, many, many, None, None, -9, 9)
    curves = {}
    for mode in MODES:
        scores = attacks.lira(target, known, mode=mode)
        cut = np.quantile(scores[~member], 0.9)
        curves[mode] = auc(scores, member), (scores[member] > cut).mean()
    wanted = stats.norm.cdf(separation / np.sqrt(2)), stats.norm.cdf(stats.norm.ppf(0.1) + separation)
    np.testing.assert_allclose(curves["online"], wanted, atol=0.012)
    np.testing.assert_allclose(curves["offline"], wanted, atol=0.012)
    assert curves["offline-two-sided"][0] < wanted[0] - 0.03


def test_lira_with_shadow_models_nears_the_known_roc():
    # 64 models: means known to 1 / sqrt(32), so the attack at d = 2 loses little of Phi(sqrt 2) = 0.921.
    rng = np.random.default_rng(9)
    member = rng.random((65, 10_000)) < 0.5
    signal = 3 * rng.normal(size=10_000) + 2 * member + rng.normal(size=(65, 10_000))
    reached = {
        (mode, variance): auc(attacks.lira(signal[0], signal[1:], member[1:], mode=mode, variance=variance), member[0])
        for mode in ("online", "offline")
        for variance in ("example", "residual")
    }
    assert all(0.9 < value < 0.93 for value in reached.values()), reached


def test_lira_offline_orders_as_the_papers_probability_and_does_not_saturate():
    rng = np.random.default_rng(2)
    shadow = rng.normal(size=(40, 6))
    member = np.zeros((40, 6), bool)
    target = np.array([-3.0, -1.0, 0.0, 1.0, 20.0, 25.0])
    mean, std = shadow.mean(0), shadow.std(0)
    scores = attacks.lira(target, shadow, member, mode="offline")
    np.testing.assert_allclose(1 - np.exp(-scores), stats.norm.cdf(target, mean, std), atol=1e-12)
    same = attacks.lira([20.0, 25.0], shadow[:, :1].repeat(2, 1), member[:, :2], mode="offline")
    assert same[1] > same[0] + 100  # both probabilities are 1.0 in double precision


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variance", VARIANCES)
def test_lira_metamorphic(gaussian, mode, variance):
    signal, member = gaussian
    options = {"mode": mode, "variance": variance}
    target, shadow, seen = signal[:3], signal[3:], member[3:]
    scores = attacks.lira(target, shadow, seen, **options)
    close = {"rtol": 1e-9, "atol": 1e-12}
    rng = np.random.default_rng(3)

    for row, one in zip(target, scores, strict=True):  # stacked targets are one by one
        np.testing.assert_array_equal(attacks.lira(row, shadow, seen, **options), one)
    order = rng.permutation(600)  # examples
    permuted = attacks.lira(target[:, order], shadow[:, order], seen[:, order], **options)
    np.testing.assert_allclose(permuted, scores[:, order], **close)
    order = rng.permutation(30)  # shadow models
    np.testing.assert_allclose(attacks.lira(target, shadow[order], seen[order], **options), scores, **close)
    single = attacks.lira(target[..., 0], shadow[..., 0], seen, **options)  # identical queries are one
    copies = attacks.lira(target[..., [0, 0, 0]], shadow[..., [0, 0, 0]], seen, **options)
    np.testing.assert_allclose(copies, single, **close)
    np.testing.assert_allclose(attacks.lira(target + 7, shadow + 7, seen, **options), scores, rtol=1e-8)  # a shift
    low = attacks.lira(target.astype(np.float32), shadow.astype(np.float32), seen, **options)
    np.testing.assert_allclose(low, scores, rtol=2e-4, atol=2e-5)
    low = attacks.lira(target.astype(np.float16), shadow.astype(np.float16), seen, **options)
    np.testing.assert_allclose(low, scores, rtol=0.1, atol=0.05)
    as_torch = attacks.lira(*(torch.from_numpy(v) for v in (target, shadow, seen)), **options)
    np.testing.assert_array_equal(as_torch, scores)
    shared = attacks.moments(shadow, seen, medians=True)
    np.testing.assert_array_equal(attacks.lira(target, shared, **options), scores)
    if mode != "online":  # models that saw everything are no out models
        more = np.concatenate([shadow, 1e3 * np.ones((2, 600, 2))])
        everything = np.concatenate([seen, np.ones((2, 600), bool)])
        np.testing.assert_allclose(attacks.lira(target, more, everything, **options), scores, rtol=1e-12)


def test_lira_counts_in_full_or_truncated():
    # In models 0, 1, 2 of example 0, but only 0, 1 of example 1: truncated, model 2 no longer counts for example 0.
    rng = np.random.default_rng(4)
    shadow = rng.normal(size=(6, 2))
    member = np.array([[1, 1], [1, 1], [1, 0], [0, 0], [0, 0], [0, 0]], bool)
    changed = shadow.copy()
    changed[2, 0] += 5
    full, truncated = (
        [attacks.lira([0.0, 0.0], s, member, truncate=t)[0] for s in (shadow, changed)] for t in (False, True)
    )
    assert full[0] != full[1]
    assert truncated[0] == truncated[1]
    m = attacks.moments(shadow, member, truncate=True)
    assert m.n_in.tolist() == [2, 2]
    assert m.n_out.tolist() == [3, 3]
    assert attacks.moments(shadow, member).n_in.tolist() == [3, 2]


def test_infinities_of_both_signs_stay_apart():
    """Where the one finite signal is 0, both infinities counted as 0 too, and every score was the same."""
    member = np.arange(8)[:, None] % 2 == np.arange(6) % 2
    shadow = np.where(member, np.inf, np.where(np.arange(8)[:, None] < 4, 0, -np.inf))
    told = attacks.lira(np.array([np.inf, -np.inf, 0.0] * 2), shadow, member, variance="residual")
    assert (told[[0, 3]] > told[[2, 5]]).all()
    assert (told[[2, 5]] > told[[1, 4]]).all()
    m = attacks.moments(shadow, member)
    assert (m.low, m.high) == (-1, 1)


def test_lira_takes_infinite_logits_as_the_extremes():
    rng = np.random.default_rng(5)
    shadow, member = rng.normal(size=(20, 30)), rng.random((20, 30)) < 0.5
    target = rng.normal(size=(2, 30))
    low, high = shadow.min(), shadow.max()
    shadow[3, :5], shadow[4, 7] = np.inf, -np.inf
    target[0, 0], target[1, 1], target[0, 2] = np.inf, -np.inf, 9.0
    clipped, clipped_target = shadow.copy(), target.copy()
    clipped[3, :5], clipped[4, 7] = shadow[np.isfinite(shadow)].max(), shadow[np.isfinite(shadow)].min()
    # The target's own finite extreme where it lies further out: an infinity is not less than a finite signal.
    clipped_target[0, 0] = 9.0
    clipped_target[1, 1] = min(clipped.min(), target[1][np.isfinite(target[1])].min())
    for mode in MODES:
        for variance in VARIANCES:
            options = {"mode": mode, "variance": variance}
            scores = attacks.lira(target, shadow, member, **options)
            np.testing.assert_allclose(scores, attacks.lira(clipped_target, clipped, member, **options), rtol=1e-12)
            nothing_finite = attacks.lira(np.full(30, np.inf), np.where(member, np.inf, -np.inf), member, **options)
            assert np.isfinite(nothing_finite).all()
    assert low < 0 < high
    assert (attacks.lira(np.full(30, np.inf), np.where(member, np.inf, -np.inf), member) > 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variance", VARIANCES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_lira_is_finite_on_whatever_is_not_nan(mode, variance, data):
    anything = st.one_of(st.floats(allow_nan=False), st.sampled_from([0.0, np.inf, -np.inf, 1.8e308, 5e-324]))
    values = np.array(data.draw(st.lists(anything, min_size=15, max_size=15))).reshape(5, 3)
    member = np.array([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], bool)
    assert np.isfinite(attacks.lira(values[0], values[1:], member, mode=mode, variance=variance)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.full(4, np.nan)}, "target holds 4 NaN"),
        ({"target": np.zeros(5)}, r"target has shape \(5,\), but the shadow models' examples have shape \(4,\)"),
        ({"target": np.zeros((4, 2))}, r"target has shape \(4, 2\)"),
        ({"shadow": np.full((6, 4), np.nan)}, "shadow holds 24 NaN"),
        ({"shadow": np.zeros(4)}, r"shadow must have 2 or 3 dimension"),
        ({"shadow": np.zeros((6, 0)), "member": np.zeros((6, 0), bool)}, "shadow is empty"),
        ({"shadow": np.zeros((1, 4)), "member": np.ones((1, 4), bool)}, "shadow holds one model"),
        ({"member": np.zeros((5, 4), bool)}, r"member has shape \(5, 4\), but shadow has shape \(6, 4\)"),
        ({"member": np.full((6, 4), 2)}, "member must hold only True and False"),
        ({"member": np.ones((6, 4), bool)}, r"member: 4 example\(s\) have no out model"),
        ({"member": np.zeros((6, 4), bool)}, r"member: 4 example\(s\) have no in model"),
        ({"member": None}, "member is missing"),
        ({"mode": "both"}, "mode must be one of 'online', 'offline', 'offline-two-sided', not 'both'"),
        ({"variance": "fixed"}, "variance must be one of 'example', 'residual', 'reference'"),
        ({"member": np.arange(24).reshape(6, 4) < 4}, "no example two in models"),
    ],
)
def test_lira_refuses_bad_input(change, message):
    given = {
        "target": np.zeros(4),
        "shadow": np.zeros((6, 4)),
        "member": np.arange(24).reshape(6, 4) < 12,
    }
    with pytest.raises(ValueError, match=message):
        attacks.lira(**(given | change))


def test_moments_refuse_what_they_cannot_serve(gaussian):
    signal, member = gaussian
    plain = attacks.moments(signal, member)
    with pytest.raises(ValueError, match="shadow must hold medians"):
        attacks.lira(signal[0], plain, variance="reference")
    with pytest.raises(ValueError, match="member must be left out"):
        attacks.lira(signal[0], plain, member)
    with pytest.raises(ValueError, match="truncate must be given to moments"):
        attacks.lira(signal[0], plain, truncate=True)
    with pytest.raises(ValueError, match="shadow must be moments of probabilities"):
        attacks.base(np.full((600, 2), 0.5), plain)


def test_moments_equal_numpy(gaussian):
    signal, member = gaussian
    member = member.copy()
    member[:, 0], member[:, 1] = True, False
    m = attacks.moments(signal, member, medians=True)
    for side, keep in (("in", member), ("out", ~member)):
        assert getattr(m, f"n_{side}").tolist() == keep.sum(0).tolist()
        empty = keep.sum(0) == 0
        assert empty.sum() == 1
        for name in ("mean", "std", "median"):
            found = getattr(m, f"{name}_{side}")
            assert np.isnan(found[empty]).all()
            wanted = [getattr(np, name)(signal[keep[:, i], i], axis=0) for i in np.flatnonzero(~empty)]
            np.testing.assert_allclose(found[~empty], wanted, rtol=1e-11)


def test_importing_the_attacks_leaves_torch_and_scikit_learn_alone():
    code = "import sys, samlib.attacks; assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
