"""The examples in docstrings run, and public functions and classes have one."""

import doctest
import inspect
import pkgutil
from importlib import import_module

import pytest

ROOMS = ["attacks", "checks", "estimators", "models", "optim", "sharpness", "signals", "training"]
MODULES = [f"samlib.{room}" for room in ROOMS] + [
    module.name
    for room in ROOMS
    for module in pkgutil.iter_modules(getattr(import_module(f"samlib.{room}"), "__path__", ()), f"samlib.{room}.")
    if not module.name.endswith("__main__")
]
# tuples of results, and layers, which `build_model` makes
NEED_NONE = {"Estimate", "Moments", "Effort", "Landscape", "Landscapes"} | {
    "ChannelsFirst", "Halve", "Layer", "Residual", "Scale", "ViT"
}  # fmt: skip


def public(room):
    module = import_module(f"samlib.{room}")
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        ours = (inspect.isfunction(value) or inspect.isclass(value)) and value.__module__.startswith(f"samlib.{room}")
        if ours and not name.startswith("_") and name not in NEED_NONE:
            yield f"{room}.{name}", value


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name):
    assert not doctest.testmod(import_module(name)).failed


@pytest.mark.parametrize(
    "value", [pytest.param(value, id=name) for room in ROOMS if room != "checks" for name, value in public(room)]
)
def test_a_public_name_has_an_example(value):
    assert doctest.DocTestParser().get_examples(inspect.getdoc(value))
