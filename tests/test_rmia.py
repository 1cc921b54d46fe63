"""RMIA and BASE against twins written from the papers in loops, closed forms, and the relations they must keep."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_lira import auc, shadow_runs

from samlib import attacks


def naive_rmia(target, shadow, member, population, population_shadow, population_member, mode, gamma, a):
    """All pairs; target (n, q), shadow (models, n, q), population (z,), population_shadow (models, z)."""

    def average(values, seen):
        p_in = np.mean(values[seen]) if seen.any() else None
        p_out = np.mean(values[~seen]) if not seen.all() else None
        if mode == "offline":
            p = ((1 + a) * p_out + 1 - a) / 2
        else:
            p = p_out if p_in is None else p_in if p_out is None else (p_in + p_out) / 2
        return max(p, np.finfo(float).tiny)

    scores = []
    for i in range(len(target)):
        wins = 0
        for z in range(len(population)):
            ratio_z = population[z] / average(population_shadow[:, z], population_member[:, z])
            votes = 0
            for q in range(target.shape[1]):
                ratio_x = target[i, q] / average(shadow[:, i, q], member[:, i])
                votes += ratio_x >= gamma * ratio_z
            wins += votes > target.shape[1] / 2
        scores.append(wins / len(population))
    return scores


@pytest.mark.parametrize("mode", ["online", "offline"])
@settings(deadline=None, max_examples=80)
@given(
    run=shadow_runs(0, 1, 1 / 8),
    data=st.data(),
    gamma=st.sampled_from([0.5, 1.0, 1.5, 2.0]),
    a=st.sampled_from([0.0, 0.33, 1.0]),
)
def test_rmia_equals_all_pairs(run, data, gamma, a, mode):
    target, shadow, member = run
    grid = st.integers(0, 8).map(lambda k: k / 8)  # exact zeros and ones, and many ties
    size = data.draw(st.integers(1, 6))
    z = np.array(data.draw(st.lists(grid, min_size=size, max_size=size)))
    cells = size * len(shadow)
    z_shadow = np.array(data.draw(st.lists(grid, min_size=cells, max_size=cells))).reshape(len(shadow), size)
    z_member = np.array(data.draw(st.lists(st.booleans(), min_size=cells, max_size=cells))).reshape(z_shadow.shape)
    if mode == "offline":
        z_member[0] = False
    unseen = data.draw(st.booleans())
    mask = np.zeros_like(z_member) if unseen else z_member
    scores = attacks.rmia(
        target,
        shadow,
        member,
        population=z,
        population_shadow=z_shadow,
        population_member=None if unseen else z_member,
        mode=mode,
        gamma=gamma,
        a=a,
    )
    np.testing.assert_array_equal(scores, naive_rmia(target, shadow, member, z, z_shadow, mask, mode, gamma, a))


@pytest.fixture
def probabilities(gaussian):
    """True-class probabilities of 33 models on 600 examples and on a population of 400 that none saw."""
    signal, member = gaussian
    rng = np.random.default_rng(6)
    population = 2 * rng.normal(size=(1, 400)) + rng.normal(size=(33, 400))
    return 1 / (1 + np.exp(-signal)), member, 1 / (1 + np.exp(-population))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_rmia_metamorphic(probabilities, mode):
    p, member, z = probabilities
    options = {"mode": mode, "gamma": 1.25}
    target, shadow, seen = p[:3], p[3:], member[3:]
    shared = {"population": z[:3], "population_shadow": z[3:]}
    scores = attacks.rmia(target, shadow, seen, **shared, **options)
    # A last-bit change of a mean may move one comparison of 400.
    close = {"rtol": 0, "atol": 1.5 / 400}
    rng = np.random.default_rng(7)

    for k in range(3):
        one = attacks.rmia(target[k], shadow, seen, population=z[k], population_shadow=z[3:], **options)
        np.testing.assert_array_equal(one, scores[k])
    order, others, models = rng.permutation(600), rng.permutation(400), rng.permutation(30)
    permuted = attacks.rmia(
        target[:, order],
        shadow[models][:, order],
        seen[models][:, order],
        population=z[:3, others],
        population_shadow=z[3:][models][:, others],
        **options,
    )
    np.testing.assert_allclose(permuted, scores[:, order], **close)
    single = attacks.rmia(target[..., 0], shadow[..., 0], seen, **shared, **options)
    for copies in ([0, 0], [0, 0, 0]):
        copied = attacks.rmia(target[..., copies], shadow[..., copies], seen, **shared, **options)
        np.testing.assert_allclose(copied, single, **close)
    low = attacks.rmia(
        target.astype(np.float32),
        shadow.astype(np.float32),
        seen,
        population=torch.from_numpy(z[:3].astype(np.float32)),
        population_shadow=z[3:].astype(np.float32),
        **options,
    )
    np.testing.assert_allclose(low, scores, **close)
    given = attacks.rmia(
        target,
        attacks.moments(shadow, seen),
        population=z[:3],
        population_shadow=attacks.moments(z[3:], np.zeros((30, 400), bool)),
        **options,
    )
    np.testing.assert_array_equal(given, scores)
    harder = attacks.rmia(target, shadow, seen, **shared, mode=mode, gamma=2.0)
    assert (harder <= scores).all()
    assert (harder < scores).any()
    if mode == "offline":  # a model that saw everything is no out model; the population is one that it did see
        more = attacks.rmia(
            target,
            np.concatenate([shadow, np.zeros((1, 600, 2))]),
            np.concatenate([seen, np.ones((1, 600), bool)]),
            population=z[:3],
            population_shadow=np.concatenate([z[3:], np.zeros((1, 400))]),
            population_member=np.concatenate([np.zeros((30, 400), bool), np.ones((1, 400), bool)]),
            **options,
        )
        np.testing.assert_allclose(more, scores, **close)


def test_rmia_is_uniform_on_points_like_the_population(probabilities):
    # An example that no model saw is one more population point: its score is uniform, so its FPR is what it says.
    p, _, _ = probabilities
    rng = np.random.default_rng(8)
    logit = 2 * rng.normal(size=(1, 6000)) + rng.normal(size=(33, 6000))
    p = 1 / (1 + np.exp(-logit))
    x, z = p[:, :2000], p[:, 2000:]
    scores = attacks.rmia(x[0], x[1:], np.zeros((32, 2000), bool), population=z[0], population_shadow=z[1:])
    assert stats.kstest(scores, "uniform").pvalue > 0.01


def test_rmia_and_base_rank_members_first(probabilities):
    p, member, z = probabilities
    online, offline = (
        attacks.rmia(p[0], p[1:], member[1:], population=z[0], population_shadow=z[1:], mode=mode)
        for mode in ("online", "offline")
    )
    for scores in (online, offline, *(attacks.base(p[0], p[1:], member[1:], mode=m) for m in ("online", "offline"))):
        assert auc(scores, member[0]) > 0.75


def test_base_equals_log_mean_exp_of_losses(probabilities):
    p, member, _ = probabilities
    member = member.copy()
    member[:, 0], member[0] = True, False  # online takes an example that all (or none) of the models saw
    log_p = np.log(p)
    online = [
        np.mean([log_p[0, i, q] - np.log(np.mean(np.exp(log_p[1:, i, q]))) for q in range(2)]) for i in range(600)
    ]
    np.testing.assert_allclose(attacks.base(p[0], p[1:], member[1:]), online, rtol=1e-9)
    offline = [
        np.mean([log_p[0, i, q] - 0.4 * np.log(np.mean(p[1:][~member[1:, i], i, q])) for q in range(2)])
        for i in range(1, 600)
    ]
    scores = attacks.base(p[:2, 1:], p[1:, 1:], member[1:, 1:], mode="offline", a=0.4)
    np.testing.assert_allclose(scores[0], offline, rtol=1e-9)
    assert np.isfinite(attacks.base([0.0, 1.0], [[0, 0], [0, 0]], [[1, 0], [0, 1]])).all()


def test_base_orders_as_rmia_where_every_example_is_in_half_of_the_models(probabilities):
    p, _, z = probabilities
    member = np.arange(32)[:, None] % 2 == np.arange(600) % 2
    base = attacks.base(p[0, :, 0], p[1:, :, 0], member)
    rmia = attacks.rmia(p[0, :, 0], p[1:, :, 0], member, population=z[0], population_shadow=z[1:], mode="online")
    assert (np.diff(rmia[np.argsort(base)]) >= 0).all()
    assert len(np.unique(rmia)) > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": np.full(4, 1.5)}, r"target must hold probabilities in \[0, 1\]"),
        ({"target": np.full(4, np.nan)}, "target holds 4 NaN"),
        ({"target": np.full(5, 0.5)}, r"target has shape \(5,\)"),
        ({"shadow": np.full((6, 4), -0.1)}, r"shadow must hold probabilities in \[0, 1\]"),
        ({"shadow": np.full((1, 4), 0.5), "member": np.zeros((1, 4))}, "shadow holds one model"),
        ({"member": np.ones((6, 4), bool)}, r"member: 4 example\(s\) have no out model"),
        ({"member": np.zeros((6, 4), bool), "mode": "online"}, r"member: 4 example\(s\) have no in model"),
        ({"population": np.full(3, np.inf)}, "population must hold probabilities"),
        ({"population": np.full(2, 0.5)}, r"population has shape \(2,\)"),
        ({"population": np.full((2, 3), 0.5)}, "target and population must hold the same target models"),
        ({"population_shadow": np.full(3, 0.5)}, "population_shadow must have 2 or 3 dimension"),
        ({"population_shadow": np.full((6, 3, 2), 0.5)}, r"population_shadow must be \(models, z\)"),
        ({"population_shadow": np.full((5, 3), 0.5)}, "population_shadow holds 5 models, but shadow holds 6"),
        ({"population_member": np.zeros((6, 2))}, r"population_member has shape \(6, 2\)"),
        ({"population_member": np.ones((6, 3))}, r"population_member: 3 example\(s\) have no out model"),
        ({"gamma": 0.0}, "gamma must be a finite number above 0"),
        ({"gamma": np.nan}, "gamma must be a finite number above 0"),
        ({"a": 1.5}, r"a must lie in 0 to 1"),
        ({"mode": "offline-two-sided"}, "mode must be one of 'online', 'offline'"),
    ],
)
def test_rmia_refuses_bad_input(change, message):
    given = {
        "target": np.full(4, 0.5),
        "shadow": np.full((6, 4), 0.5),
        "member": np.arange(24).reshape(6, 4) < 12,
        "population": np.full(3, 0.5),
        "population_shadow": np.full((6, 3), 0.5),
    }
    with pytest.raises(ValueError, match=message):
        attacks.rmia(**(given | change))
