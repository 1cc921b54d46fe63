"""Each notebook alone under papermill, with no network: with other parameters, without its data, and with bad input."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
pytestmark = [pytest.mark.slow]


def papermill(tmp_path, no_network, name, *parameters):
    source, output = NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(source), str(output), *parameters, "--no-progress-bar"]
    return subprocess.run(command, capture_output=True, text=True, env=no_network, cwd=tmp_path)


def test_a_notebook_runs_alone_with_other_parameters(tmp_path, no_network):
    done = papermill(tmp_path, no_network, "memorization", "-p", "dataset", "digits", "-p", "rho", "0.1", "-p", "n_models", "24",
                     "-p", "epochs", "3", "-p", "optimizer", "asam")  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = (tmp_path / "out.ipynb").read_text()
    assert "ASAM" in said
    assert "image/png" in said or "image/svg" in said


@pytest.mark.parametrize(
    "name",
    [
        "introduction",
        "ledger",
        "membership_risk",
        "attackers",
        "memorization",
        "influence",
        "influence_entropy",
        "other_optimizers",
    ],
)
def test_a_notebook_whose_data_cannot_be_had_says_what_to_do_and_nothing_else(tmp_path, no_network, name):
    done = papermill(
        tmp_path, no_network, name, *(["-p", "dataset", "location30"] if name == "other_optimizers" else [])
    )
    assert done.returncode == 1
    _, _, said = done.stderr.partition("NotAtHand: ")
    assert said.startswith("location30 could not be downloaded (no answer from raw.githubusercontent.com")
    assert "put dataset_location.tgz into $SAMLIB_DATA/location30/, or take the data set subclasses or digits." in said
    shown = [o for c in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for o in c.get("outputs", [])]
    (error,) = (o for o in shown if o["output_type"] == "error")
    assert len(error["traceback"]) == 1


def test_the_command_line_says_the_same_and_plans_without_data(no_network):
    command = [sys.executable, "-m", "samlib"]
    train = subprocess.run([*command, "train", "--n-models", "2"], capture_output=True, text=True, env=no_network)
    assert train.returncode == 1
    assert train.stderr.startswith("samlib: location30 could not be downloaded (")
    assert train.stderr.count("\n") == 1
    plan = subprocess.run(
        [*command, "plan", "--dataset", "location30", "--n-models", "8"], capture_output=True, text=True, env=no_network
    )
    assert plan.returncode == 0, plan.stderr
    assert "location30: not at hand" in plan.stdout


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (["-p", "rhoo", "0.1"], "ParameterError: There is no parameter 'rhoo', only dataset"),
        (["-p", "rho", "minus one"], "ParameterError: Parameter 'rho' = 'minus one': input should be a valid number"),
        (["-p", "dataset", "nothing"], "dataset 'nothing' is neither one of digits, location30"),
    ],
)
def test_a_bad_parameter_fails_at_once_with_one_sentence(tmp_path, no_network, parameters, message):
    done = papermill(tmp_path, no_network, "membership_risk", *parameters)
    assert done.returncode == 1
    assert message in done.stderr
    with contextlib.suppress(FileNotFoundError):
        assert "image/png" not in (tmp_path / "out.ipynb").read_text()
