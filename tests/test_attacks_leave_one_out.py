"""The moments of all models but one, from sums that are taken once, beside those of the models that remain."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samlib.attacks import leave_one_out, lira, moments


def without(signals, member, k):
    return moments(np.delete(signals, k, 0), np.delete(member, k, 0))


@given(
    st.integers(0, 2**32 - 1),
    st.integers(3, 9),
    st.sampled_from([0, 1e-3, 1, 1e6]),
    st.sampled_from([np.float32, np.float64]),
)
def test_they_are_those_of_the_models_that_remain(seed, n_models, outlier, dtype):
    rng = np.random.default_rng(seed)
    signals = (rng.normal(size=(n_models, 7)) * rng.choice([0, 1e-6, 1, 100], 7)).astype(dtype)
    signals[rng.integers(n_models)] += dtype(outlier)  # nothing of it may be left in the others' deviation
    member = rng.random(signals.shape) < 0.5
    found = leave_one_out(signals, member)
    for k in range(n_models):
        got, wanted = found(k), without(signals, member, k)
        for name in ("mean_in", "mean_out", "std_in", "std_out"):
            scale = (
                1e-9 * np.abs(signals).max()
                if name.startswith("mean")
                else 1e-9 * np.nan_to_num(getattr(wanted, name)).max()
            )
            np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), rtol=1e-6, atol=scale, err_msg=name)
        np.testing.assert_array_equal(got.n_in, wanted.n_in)
        np.testing.assert_array_equal(got.n_out, wanted.n_out)
        assert (got.low, got.high) == (wanted.low, wanted.high)


def test_an_infinite_signal_counts_as_the_largest_of_the_others():
    signals = np.array([[np.inf, 1.0], [5.0, 2.0], [3.0, 9.0], [2.0, 4.0]])
    member = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    for k in range(4):
        got, wanted = leave_one_out(signals, member)(k), without(signals, member, k)
        np.testing.assert_array_equal(got.mean_in, wanted.mean_in)
        assert got.high == wanted.high


def test_an_attack_takes_them():
    rng = np.random.default_rng(0)
    member = np.arange(8)[:, None] % 2 == np.arange(5) % 2
    signals = rng.normal(size=(8, 5)) + 2 * member
    scores = [lira(signals[k], leave_one_out(signals, member)(k)) for k in range(8)]
    naive = [lira(signals[k], np.delete(signals, k, 0), np.delete(member, k, 0)) for k in range(8)]
    np.testing.assert_allclose(scores, naive, rtol=1e-9)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="signals"):
        leave_one_out(np.full((3, 2), np.nan), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="member"):
        leave_one_out(np.zeros((3, 2)), np.zeros((3, 3), bool))
    with pytest.raises(ValueError, match="three"):
        leave_one_out(np.zeros((2, 2)), np.zeros((2, 2), bool))
