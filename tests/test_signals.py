"""Signals against their definitions in high precision, at any scale of the logits."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samlib.signals import from_logits


def naive(row, y):
    """The definitions, in 400 digits."""
    with localcontext() as context:
        context.prec = 400
        e = [Decimal(float(z)).exp() for z in row]
        p = [v / sum(e) for v in e]
        wrong = sum(q * (1 - q).ln() for i, q in enumerate(p) if i != y)
        return {
            "logit": float((p[y] / (1 - p[y])).ln()),
            "entropy": float(-sum(q * q.ln() for q in p)),
            "modified_entropy": float(-(1 - p[y]) * p[y].ln() - wrong),
        }


@settings(max_examples=60, deadline=None)
@given(
    row=hnp.arrays(np.float32, st.integers(2, 6), elements=st.floats(-150, 150, width=32)),
    data=st.data(),
)
def test_signals_are_their_definitions_from_certainty_to_doubt(row, data):
    y = data.draw(st.integers(0, len(row) - 1))
    expected = naive(row, y)
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 2e-5)):
        found = from_logits(row.astype(dtype)[None], [y])
        assert found["correct"][0] == (row.argmax() == y)
        for name, value in expected.items():
            assert found[name].dtype == dtype
            assert found[name][0] == pytest.approx(value, rel=tolerance, abs=tolerance), name


def test_any_leading_axes_and_labels_that_broadcast():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 4, 5)), rng.integers(0, 5, 4)
    whole = from_logits(logits, labels)
    for k in range(3):
        for name, values in from_logits(logits[k], labels).items():
            assert np.array_equal(values, whole[name][k])


def test_a_shift_of_all_logits_changes_nothing_and_more_of_the_true_one_raises_the_logit():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(50, 4)), rng.integers(0, 4, 50)
    base, shifted = from_logits(logits, labels), from_logits(logits + 7.5, labels)
    for name in base:
        np.testing.assert_allclose(shifted[name], base[name], rtol=1e-12, atol=1e-12)
    raised = logits.copy()
    raised[np.arange(50), labels] += 0.25
    np.testing.assert_allclose(from_logits(raised, labels)["logit"], base["logit"] + 0.25)


def test_probabilities_of_zero_and_one():
    with np.errstate(divide="ignore"):
        found = from_logits(np.log([[1.0, 0, 0], [1.0, 0, 0], [0.5, 0.5, 0]]), [0, 1, 2])
    assert np.array_equal(found["logit"], [np.inf, -np.inf, -np.inf])
    np.testing.assert_allclose(found["entropy"], [0, 0, np.log(2)])
    assert np.array_equal(found["modified_entropy"], [0, np.inf, np.inf])


def test_torch_tensors_of_any_precision():
    import torch

    logits = torch.tensor([[1.0, 2.0], [3.0, -1.0]])
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert np.allclose(from_logits(logits.to(dtype), torch.tensor([0, 0]))["logit"], [-1, 4])


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 1)), [0, 0], "logits must have at least 2 classes"),
        (np.zeros((0, 3)), [], "logits is empty"),
        ([[np.nan, 0]], [0], "logits holds 1 NaN"),
        ([[np.inf, 0]], [0], "logits must have a finite largest value"),
        (np.zeros((2, 3)), [0, 3], "labels must lie in 0 to 2, but it spans 0 to 3"),
        (np.zeros((2, 3)), [0, -1], "labels must lie in 0 to 2"),
        (np.zeros((2, 3)), [0, 0.5], "labels must hold whole numbers"),
        (np.zeros((2, 3)), [0, 0, 0], r"labels have shape \(3,\), but logits have shape \(2, 3\)"),
    ],
)
def test_bad_input_is_one_sentence(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        from_logits(logits, labels)
