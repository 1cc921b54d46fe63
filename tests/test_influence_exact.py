"""Influence is exact for any number of models."""

import numpy as np
import pytest

import samlib
from samlib.estimators import influence_blocks


@pytest.mark.filterwarnings("ignore:.*no estimate")
@pytest.mark.parametrize("n_models", [4096, 4097, 5793])
def test_an_influence_of_zero_is_zero_at_any_number_of_models(n_models):
    """As many right in as out, in proportion: beyond 4,096 models the products of the counts are odd above 2^24."""
    rng = np.random.default_rng(n_models)
    member = np.ones((n_models, 40), bool)
    correct = rng.random((n_models, 30)) < 0.5
    for i in range(40):
        member[: 1 + 50 * i, i] = False
    exact = correct.T.astype(object) @ member.astype(object)
    n_in, right = member.sum(0).astype(object), correct.sum(0).astype(object)
    numerator = exact * n_models - right[:, None] * n_in
    value = np.concatenate([block for _, block in influence_blocks(correct, member)])
    assert np.array_equal(value == 0, numerator == 0)
    expected = numerator / (n_in * (n_models - n_in)).astype(float)
    np.testing.assert_allclose(value, expected.astype(float), rtol=3e-7)
    correct[:, 0] = True  # right everywhere: no influence
    assert (next(influence_blocks(correct, member))[1][0] == 0).all()


def test_more_models_than_counts_are_exact_for_are_refused():
    many = np.zeros((2**24 + 1, 1), bool)
    with pytest.raises(ValueError, match=r"^member must hold at most 16,777,216 models"):
        samlib.influence(many, many, empty="zero")
