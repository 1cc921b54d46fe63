"""The house rules that a file can break without any code failing."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "dask": "dask-core", "matplotlib": "matplotlib-base"}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def pyproject():
    import tomllib

    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_has_the_packages_and_bounds_of_pyproject():
    project = pyproject()
    wanted = {}
    for text in project["dependencies"] + project["optional-dependencies"]["book"]:
        requirement = Requirement(text)
        wanted[CONDA_NAMES.get(requirement.name, requirement.name)] = requirement.specifier
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in entries if isinstance(entry, dict))
    found = [Requirement(e.replace(" ", "")) for e in entries if isinstance(e, str)] + [
        Requirement(e) for e in pip if not e.startswith("-e")
    ]
    found = {r.name: r.specifier for r in found}
    assert str(found.pop("python")) == str(Requirement(f"python{project['requires-python']}").specifier)
    del found["pip"]
    assert found == wanted


def test_the_citation_has_the_version_of_the_package():
    import samlib

    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == samlib.__version__
    assert pyproject()["dynamic"] == ["version"]


def test_the_constraints_satisfy_pyproject():
    pinned = dict(line.lower().split("==") for line in (ROOT / "constraints.txt").read_text().split())
    project = pyproject()
    extras = [text for extra in ("book", "test", "lab") for text in project["optional-dependencies"][extra]]
    for text in project["dependencies"] + extras:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pinned[requirement.name]), text


@pytest.mark.parametrize("path", sorted((ROOT / "samlib").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_is_short(path):
    assert len(path.read_text().splitlines()) <= 400


def test_each_room_imports_from_below_only():
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_papers_rooms_keep_their_short_names():
    code = """
import pickle, sys
import samlib.theory.order, samlib.claims
from samlib.mixture import Mixture
from samlib.widgets import TheoryExplorer
import samlib.paper.theory.order as order, samlib.paper.claims as claims
assert samlib.theory.order is order and order.__name__ == order.__spec__.name == "samlib.paper.theory.order"
assert samlib.claims is claims and sys.modules["samlib.claims"] is claims
assert pickle.loads(pickle.dumps(Mixture())) == Mixture()
try:
    import samlib.claims.nowhere
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("a module that is not there was found")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_clean_and_parameterized(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    tagged = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert tagged == code[:1]
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_no_number_of_a_run_is_typed_into_a_notebooks_text(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(
                r"(?s)```.*?```|`.*?`|\$[^$]*\$|\([^)]*?\d{4}.*?\)", "", "".join(cell["source"])
            )  # code, formulas, citations
            assert not re.search(r"\d\.\d|\d\s?%", text)


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_the_code_is_linted_and_formatted(command):
    done = subprocess.run([sys.executable, "-m", "ruff", *command.split(), ROOT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_registry_host_or_machine_path_in_the_tree():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    hosts = [
        "pypi" + ".org",
        "files.pythonhosted" + ".org",
        "registry.npmjs" + ".org",
        "deb.debian" + ".org",
        "download.pytorch" + ".org",
        "/work" + "/",
    ]
    for file in files:
        text = (ROOT / file).read_text(errors="ignore")
        assert not [host for host in hosts if host in text], file


@pytest.mark.slow
def test_every_room_and_name_is_there_right_after_the_import():
    rooms = "attacks audit claims data estimators experiment figures mixture models optim runs signals theory training widgets"
    code = f"import samlib; [getattr(samlib, name) for name in {rooms.split()} + samlib.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_make_help_names_both_commands():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert re.search(r"make book .*book", done.stdout)
    assert re.search(r"make test .*test", done.stdout)
