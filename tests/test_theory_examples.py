"""The examples in the docstrings of theory, mixture and their page run, and every public function has one."""

import doctest
import inspect

import pytest

from samlib.paper import descent
from samlib.paper.mixture import fitting, measures, model
from samlib.paper.theory import checking, geometry, order, sam, samples
from samlib.paper.theory import model as setup

ROOMS = [
    descent,
    fitting,
    measures,
    model,
    checking,
    geometry,
    order,
    sam,
    samples,
    setup,
]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_every_example_runs(room):
    assert doctest.testmod(room, optionflags=doctest.ELLIPSIS).failed == 0


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_every_public_function_has_an_example(room):
    for name, value in vars(room).items():
        if inspect.isfunction(value) and value.__module__ == room.__name__ and not name.startswith(("_", "check_")):
            assert ">>>" in inspect.getdoc(value), name
