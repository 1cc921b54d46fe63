"""A few of the inputs that `tests/benchmarks/fuzz_loaders.py` tries by the thousand."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loader_inputs import INPUTS


@pytest.mark.parametrize("name", INPUTS)
@settings(max_examples=20, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_loader_gives_arrays_that_fit_or_refuses_in_one_sentence(name, data):
    strategy, try_one = INPUTS[name]
    assert try_one(data.draw(strategy)) in ("loaded", "refused")
