"""The command line, as a user calls it: in a process of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from samlib import Experiment
from samlib import __version__ as version
from samlib.paper.claims import SECTIONS


def samlib(*arguments, cache=None):
    environment = os.environ | ({"SAMLIB_CACHE": str(cache)} if cache else {})
    return subprocess.run([sys.executable, "-m", "samlib", *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_help_teaches_every_parameter_and_its_default():
    overview = samlib("--help").stdout
    assert "Audit models of your own" in overview.split("Options:")[0]
    assert samlib("--version").stdout == f"{version}\n"
    for command in ("plan", "train", "attack", "memorize", "verdicts"):
        assert command in overview
    text = " ".join(samlib("train", "--help").stdout.split())
    for name in Experiment.model_fields:
        assert f"--{name.replace('_', '-')}" in text
    assert "[the data set's recipe]" in text
    assert "weights of SGD: sgd, sam, asam" in text
    assert "initial learning rate; it falls to 0 by a cosine over all steps [0.1]" in text
    assert "--precision <str>" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rho", "-1"], "samlib: Parameter 'rho' = -1.0: input should be greater than or equal to 0."),
        (["--dataset", "nothing"], "samlib: dataset 'nothing' is neither one of"),
        (["--optimizer", "sgd"], "samlib: optimizer must be one to compare SGD with"),
        (["--hidden", "12,x"], "samlib: Parameter 'hidden.1' = 'x': input should be a valid integer"),
        (["--epochs", "many"], "Invalid value for '--epochs'"),
        (["--rhoo", "1"], "No such option"),
    ],
)
def test_bad_input_is_one_sentence_and_a_status(arguments, message):
    done = samlib("train", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_plan_is_a_table_and_leaves_no_trace(small_npz, tmp_path):
    done = samlib("plan", "--dataset", str(small_npz), "--hidden", "8", "--n-models", "16", cache=tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("measuring") == 2
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[2] for row in rows[1:3]] == ["sgd", "sam"]
    assert rows[3][:4] == ["total", "32", "0", "32"]
    assert "Time: about " in done.stdout
    assert not (tmp_path / "new").exists()
    wrong = samlib("plan", "--profile", "evening", cache=tmp_path / "new")
    assert wrong.returncode == 1
    assert wrong.stderr == "samlib: profile must be one of 'quick', 'standard', 'paper', 'smoke', not 'evening'.\n"


@pytest.mark.slow
def test_train_attack_memorize_and_decide(small_npz, tmp_path):
    options = ["--dataset", str(small_npz), "--hidden", "8", "--epochs", "8", "--batch-size", "16", "--n-models", "24"]
    trained = samlib("train", *options, cache=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.count("24 models") == 2
    logs = [p.read_text() for p in tmp_path.rglob("*.jsonl")]
    assert sorted(json.loads(line)["models"] for log in logs for line in log.splitlines()) == sorted(
        2 * [[0, 8], [8, 16], [16, 24]]
    )
    attacked = samlib("attack", *options, cache=tmp_path)
    assert attacked.returncode == 0, attacked.stderr
    assert "LiRA online" in attacked.stdout
    assert "training" not in attacked.stderr  # what exists is not trained again
    assert "mean memorization" in samlib("memorize", *options, cache=tmp_path).stdout
    decided = samlib("verdicts", *options, cache=tmp_path)
    assert decided.returncode == 0, decided.stderr
    assert decided.stdout.startswith("C1. The paper says: SAM has lower test error than SGD.\n")
    kept = samlib("record", *options, "--folder", str(tmp_path / "kept"), "--signals", cache=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.split() == [str(path) for path in (tmp_path / "kept").iterdir()]
    (path,) = (tmp_path / "kept").iterdir()
    assert {file.name.partition(".")[0] for file in path.iterdir()} == {"about", "signals", "subclasses", *SECTIONS}


@pytest.mark.slow
def test_recorded_ablations_come_back_without_the_data(small_npz, tmp_path):
    from samlib import study
    from samlib.paper.records import read_about

    options = ["--dataset", str(small_npz), "--hidden", "8", "--epochs", "8", "--batch-size", "16", "--n-models", "16"]
    kept = samlib("record-ablations", *options, "--changed", "rho", "--folder", str(tmp_path / "kept"), cache=tmp_path)
    assert kept.returncode == 0, kept.stderr
    path = Path(kept.stdout.strip())
    parameters = read_about(path)["parameters"]
    assert parameters["changed"] == ["rho"]
    small_npz.unlink()
    found = study({**parameters, "results": str(tmp_path / "kept")})
    assert found.record(str(small_npz)) == path
    frames = found.frames("ablations")[str(small_npz)]
    assert {field for field, *_ in frames["ablations"].index} == {"rho"}
    assert found.origin().data.startswith("*Recorded: ")


@pytest.mark.slow
def test_optimizers_are_recorded_and_shown(small_npz, tmp_path):
    from samlib import study
    from samlib.paper.records import read_about

    options = ["--dataset", str(small_npz), "--hidden", "8", "--epochs", "2", "--batch-size", "16", "--n-models", "16"]
    kept = samlib(
        "record-optimizers", *options, "--optimizers", "ema", "--folder", str(tmp_path / "kept"), cache=tmp_path
    )
    assert kept.returncode == 0, kept.stderr
    about = read_about(Path(kept.stdout.strip()))
    assert not about["fixed"]  # as run 7 is
    small_npz.unlink()
    asked = about["parameters"] | {"n_models": 8, "seed": 5}  # more models of another seed are shown all the same
    found = study({**asked, "results": str(tmp_path / "kept")})
    assert list(found.frames("optimizers")[str(small_npz)]["losses"].index) == ["ema"]
    assert found.origin().data.startswith("*Recorded: 16 models")


@pytest.mark.slow
def test_a_job_goes_out_and_its_groups_come_back(small_npz, tmp_path):
    options = ["--dataset", str(small_npz), "--hidden", "8", "--epochs", "2", "--batch-size", "16", "--n-models", "64"]
    out = samlib("export-job", str(tmp_path / "job.npz"), *options, "--max-mb", "0.005", cache=tmp_path / "a")
    assert out.returncode == 0, out.stderr
    line = shlex.split(out.stdout.splitlines()[-1])
    assert line[:3] == ["python", "-m", "samlib.training"]
    assert len([word for word in line if word.endswith(".npz")]) > 1
    root = {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, *line[1:]], cwd=tmp_path, check=True, env=os.environ | root)
    groups = [str(path) for path in sorted((tmp_path / "groups").iterdir())]
    back = samlib("import-group", *groups, cache=tmp_path / "a")
    assert back.returncode == 0, back.stderr
    for optimizer in ("sgd", "sam rho 0.05"):
        assert f"small.npz mlp {optimizer}: 8 models from 56 on\n" in back.stdout
    trained = samlib(
        "train", *options, "--cluster", "tcp://127.0.0.1:1", cache=tmp_path / "a"
    )  # nothing is left to train
    assert trained.returncode == 0, trained.stderr
    wrong = samlib("import-group", *groups, *options, "--lr", "0.3", cache=tmp_path / "a")
    assert wrong.returncode == 1
    assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_explore_writes_one_page_and_says_where(tmp_path):
    done = samlib("explore", "--no-open", "--output", str(tmp_path / "new" / "page.html"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text()
    assert not re.search("https?://", text.replace("http://www.w3.org/2000/svg", ""))  # nothing to fetch
    (tmp_path / "file").touch()
    failed = samlib("explore", "--no-open", "--output", str(tmp_path / "file" / "page.html"))
    assert failed.returncode == 1
    assert failed.stderr.startswith("samlib: ")
    assert "Traceback" not in failed.stderr
