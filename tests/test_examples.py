"""The examples in docstrings run, and public functions and classes have one."""

import doctest
import inspect
import pkgutil
import re
import tomllib
from importlib import import_module
from pathlib import Path

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


GUIDE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
GUIDED = re.findall(r"^## Add (.*?)\n.*?^```python\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def test_the_guide_shows_each_way_to_add():
    assert [what for what, _ in GUIDED] == ["an attack", "a data set", "an optimizer", "a claim"]


@pytest.mark.parametrize("code", [pytest.param(code, id=what) for what, code in GUIDED])
def test_an_example_of_the_guide_runs_and_is_short(code, tmp_path, monkeypatch):
    assert code.count("\n") <= 30
    monkeypatch.chdir(tmp_path)
    from samlib import audit

    monkeypatch.setattr(audit, "ATTACKS", dict(audit.ATTACKS))
    exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "guide"})


def test_the_guide_draws_the_rooms_that_imports_are_held_to():
    """The picture of the floors against the contract that `make lint` checks, and against the files."""
    root = Path(__file__).parents[1]
    (picture,) = re.findall(r"!\[[^]]{100,}\]\((\S+)\)", GUIDE)
    rooms = re.findall(r'class="room" x="[\d.]+" y="(\d+)">(\w+)<', (root / picture).read_text())
    rows = [[name for at, name in rooms if at == y] for y in dict.fromkeys(at for at, _ in rooms)]
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    library = [layer.split(" | ") for layer in layers if layer not in ("__main__", "cli", "paper")]
    assert rows[-len(library) :] == library
    drawn, paper = {name for row in rows[: -len(library)] for name in row}, root / "samlib" / "paper"
    packages = {path.parent.name for path in paper.glob("*/__init__.py")}
    modules = {path.stem: path.read_text() for path in paper.glob("*.py")}
    sections = {name for name, text in modules.items() if "\ndef measure(" in text} - {
        "notebook"
    }  # it measures all sections
    assert packages | sections <= drawn <= packages | modules.keys()
