"""Memorization, influence and what is made of them, against naive twins and simulations with known answers."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import samlib
from samlib import estimators as room

NO_ESTIMATE = "ignore:.*no estimate"


def draw(seed, models=12, examples=9, tests=7):
    rng = np.random.default_rng(seed)
    return rng.random((models, examples)) < 0.6, rng.random((models, tests)) < 0.7, rng.random((models, examples)) < 0.5


def naive(correct, member):
    """Definition, one pair at a time: correct (models, tests), member (models, examples) to (tests, examples)."""
    value = np.full((correct.shape[1], member.shape[1]), np.nan)
    error = value.copy()
    for z in range(correct.shape[1]):
        for i in range(member.shape[1]):
            seen, unseen = correct[member[:, i], z], correct[~member[:, i], z]
            if len(seen) and len(unseen):
                value[z, i] = seen.mean() - unseen.mean()
                error[z, i] = np.sqrt(seen.var() / len(seen) + unseen.var() / len(unseen))
    return value, error


@pytest.mark.filterwarnings(NO_ESTIMATE)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), models=st.integers(2, 14), examples=st.integers(1, 9), tests=st.integers(1, 7))
def test_against_the_naive_twin(seed, models, examples, tests):
    correct, correct_test, member = draw(seed, models, examples, tests)
    found = samlib.memorization(correct, member)
    pairs = [naive(correct[:, [i]], member[:, [i]]) for i in range(examples)]
    np.testing.assert_allclose(found.value, [p[0][0, 0] for p in pairs], atol=1e-12)
    np.testing.assert_allclose(found.stderr, [p[1][0, 0] for p in pairs], atol=1e-12)
    assert np.array_equal(found.n_in, member.sum(0))
    assert np.array_equal(found.n_out, (~member).sum(0))
    value, error = naive(correct_test, member)
    found = samlib.influence(correct_test, member)
    np.testing.assert_allclose(found.value, value, atol=1e-6)
    np.testing.assert_allclose(found.stderr, error, atol=1e-6)
    known = int((~np.isnan(value[0])).sum())
    if known:
        k = min(3, known)
        indices, values = samlib.top_influences(correct_test, member, k)
        exact = found.value.copy()
        exact[np.isnan(exact)] = -np.inf
        streamed = np.concatenate([block for _, block in room.influence_blocks(correct_test, member)])
        np.testing.assert_allclose(streamed, found.value, atol=1e-6)
        order = np.argsort(-np.nan_to_num(streamed, nan=-np.inf), axis=1, kind="stable")[:, :k]
        assert np.array_equal(indices, order)
        np.testing.assert_allclose(values, np.take_along_axis(exact, order, 1), atol=1e-6)


def test_blocks_of_any_size_say_the_same(monkeypatch):
    _, correct_test, member = draw(3, 40, 500, 23)
    whole = samlib.influence(correct_test, member).value
    top = samlib.top_influences(correct_test, member, 6)
    monkeypatch.setattr(room, "BLOCK_BYTES", 4 * 500 * 5)
    assert len(list(room.influence_blocks(correct_test, member))) == 5
    for a, b in zip(top, samlib.top_influences(correct_test, member, 6), strict=True):
        assert np.array_equal(a, b)
    blocks = np.concatenate([block for _, block in room.influence_blocks(correct_test, member)])
    np.testing.assert_allclose(blocks, whole, atol=1e-6)


def test_permuting_examples_or_models_permutes_or_changes_nothing():
    correct, _, member = draw(1, 30, 20)
    value = samlib.memorization(correct, member).value
    order, models = np.random.default_rng(0).permutation(20), np.random.default_rng(1).permutation(30)
    np.testing.assert_array_equal(samlib.memorization(correct[:, order], member[:, order]).value, value[order])
    np.testing.assert_array_equal(samlib.memorization(correct[models], member[models]).value, value)


def test_the_estimate_is_unbiased_and_its_standard_error_is_its_spread():
    rng, p_in, p_out = np.random.default_rng(0), 0.9, 0.3
    member = rng.random((64, 3000)) < 0.5
    correct = rng.random((64, 3000)) < np.where(member, p_in, p_out)
    found = samlib.memorization(correct, member)
    spread = np.sqrt(p_in * (1 - p_in) / 32 + p_out * (1 - p_out) / 32)
    assert found.value.mean() == pytest.approx(p_in - p_out, abs=4 * spread / np.sqrt(3000))
    assert found.value.std() == pytest.approx(spread, rel=0.06)
    assert found.stderr.mean() == pytest.approx(spread, rel=0.06)


def test_an_example_in_all_or_none_of_the_models_is_counted_and_nan_or_by_convention_zero():
    correct, _, member = draw(2)
    member[:, 0], member[:, 1] = True, False
    with pytest.warns(UserWarning, match="2 of 9 examples were in all or in none of the models"):
        found = samlib.memorization(correct, member)
    assert np.isnan(found.value[:2]).all()
    assert np.isnan(found.stderr[:2]).all()
    assert not np.isnan(found.value[2:]).any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zero = samlib.memorization(correct, member, empty="zero")
    assert zero.value[0] == pytest.approx(correct[:, 0].mean())
    assert zero.value[1] == pytest.approx(-correct[:, 1].mean())
    with pytest.warns(UserWarning, match="no estimate"):
        nan = samlib.influence(correct, member).value
    assert np.isnan(nan[:, :2]).all()
    zero = samlib.influence(correct, member, empty="zero").value
    np.testing.assert_allclose(zero[:, 0], correct.mean(0), atol=1e-6)
    blocks = np.concatenate([b for _, b in room.influence_blocks(correct, member, empty="zero")])
    np.testing.assert_allclose(blocks, zero, atol=1e-6)
    with pytest.warns(UserWarning, match="no estimate"):
        assert samlib.top_influences(correct, member, 7)[0].min() >= 2


def test_top_influences_breaks_ties_by_index():
    member = np.array([[1, 0, 1, 0, 1, 0] * 50, [0, 1, 0, 1, 0, 1] * 50], bool)
    indices, values = samlib.top_influences(np.array([[1], [0]]), member, 4)
    assert indices.tolist() == [[0, 2, 4, 6]]
    assert values.tolist() == [[1, 1, 1, 1]]


def test_examples_without_an_estimate_do_not_count_in_entropy():
    assert samlib.influence_entropy(np.array([[np.nan, np.nan, -0.1, 0.0]])) == pytest.approx(np.log(2))


def test_influence_entropy_in_closed_form():
    assert samlib.influence_entropy([[0.5, -0.2, 0.0]]) == pytest.approx([0])
    assert samlib.influence_entropy([[0.1, 0.1, 0.1, -1.0, np.nan]]) == pytest.approx([np.log(3)])
    assert samlib.influence_entropy([[0.6, 0.3, 0.1]]) == pytest.approx([-sum(p * np.log(p) for p in (0.6, 0.3, 0.1))])
    assert samlib.influence_entropy([[0.0, -0.5, -0.1]]) == pytest.approx([np.log(3)])
    rng = np.random.default_rng(0)
    random = rng.normal(size=(5, 30))
    np.testing.assert_allclose(samlib.influence_entropy(random * 3.7), samlib.influence_entropy(random))
    assert (samlib.influence_entropy(random) < np.log(30)).all()


@given(n=st.integers(1, 60), buckets=st.integers(1, 8), seed=st.integers(0, 100))
def test_buckets_have_equal_counts_and_rise_with_entropy(n, buckets, seed):
    entropy = np.random.default_rng(seed).integers(0, 6, n) / 2
    if buckets > n:
        with pytest.raises(ValueError, match="n_buckets must lie in 1 to"):
            samlib.entropy_buckets(entropy, buckets)
        return
    found = samlib.entropy_buckets(entropy, buckets)
    counts = np.bincount(found, minlength=buckets + 1)[1:]
    assert counts.max() - counts.min() <= 1
    assert (np.diff(found[np.argsort(entropy, kind="stable")]) >= 0).all()


@pytest.mark.parametrize(
    ("correct", "member", "message"),
    [
        (np.ones((3, 4)), np.ones((3, 5)), r"correct has shape \(3, 4\), but member has shape \(3, 5\)"),
        (np.ones((1, 4)), np.ones((1, 4)), "member must hold at least 2 models, but it holds 1"),
        (np.ones((2, 0)), np.ones((2, 0)), "correct is empty"),
        (np.full((2, 3), 0.5), np.ones((2, 3)), "correct must hold only True and False"),
        (np.ones((2, 3)), np.full((2, 3), 2), "member must hold only True and False"),
        (np.ones(3), np.ones((2, 3)), r"correct must have 2 dimension\(s\), but its shape is \(3,\)"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "correct holds 6 NaN"),
    ],
)
def test_bad_input_is_one_sentence(correct, member, message):
    with pytest.raises(ValueError, match=message) as error:
        samlib.memorization(correct, member)
    assert "\n" not in str(error.value)


def test_bad_options_are_one_sentence():
    correct, correct_test, member = draw(0, 40)
    with pytest.raises(ValueError, match="k must lie in 1 to 9"):
        samlib.top_influences(correct_test, member, 10)
    with pytest.raises(ValueError, match="empty must be one of 'nan', 'zero', not 'none'"):
        samlib.memorization(correct, member, empty="none")
    with pytest.raises(ValueError, match=r"\(5,\) and \(40,\) must agree"):
        samlib.influence(correct_test[:5], member)


def test_no_influence_is_no_influence():
    """Test points that every model is right on, or wrong: zero to the bit, and the entropy of evenly spread influence."""
    rng = np.random.default_rng(0)
    member, correct = rng.random((31, 200)) < 0.6, rng.random((31, 40)) < 0.5
    correct[:, ::4], correct[:, 1::4] = True, False
    constant = np.arange(40) % 4 < 2
    block = np.concatenate([block for _, block in room.influence_blocks(correct, member)])
    assert (block[constant] == 0).all()
    np.testing.assert_allclose(block, samlib.influence(correct, member).value, atol=1e-6)
    entropy = room.influence_entropy(block)
    np.testing.assert_allclose(entropy, room.influence_entropy(samlib.influence(correct, member)), rtol=1e-6)
    np.testing.assert_allclose(entropy[constant], np.log(200))
    assert (entropy[~constant] < np.log(200)).all()


def test_only_pairs_of_one_class_where_labels_are_given():
    rng = np.random.default_rng(1)
    member, correct = rng.random((24, 60)) < 0.5, rng.random((24, 30)) < 0.5
    labels = rng.integers(0, 3, 30), rng.integers(0, 3, 60)
    expected = np.where(labels[0][:, None] == labels[1], samlib.influence(correct, member).value, -np.inf)
    indices, values = room.top_influences(correct, member, 2, labels=labels)
    np.testing.assert_array_equal(indices, np.argsort(-expected, axis=1, kind="stable")[:, :2])
    np.testing.assert_allclose(values, np.take_along_axis(expected, indices, 1), atol=1e-6)
