"""A pair leaves as job files, is trained by torch and numpy alone, and its groups come back checked."""

import importlib.metadata
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from test_runs import content

import samlib
from samlib import Experiment, load_dataset, run_pairs
from samlib.experiment import pair
from samlib.runs import export_job, import_groups
from samlib.training import __main__ as bare_main
from samlib.training import train_group
from samlib.training.files import Packs, alone, decoded, encoded, read_jobs, write_job

NOWHERE = "tcp://127.0.0.1:1"  # a scheduler that would fail if it were asked
FIELDS = {"hidden": (8,), "epochs": 2, "batch_size": 16}


def experiment(path, **changes):
    fields = {"dataset": str(path), "n_models": 16, "optimizer": "sam"}
    return Experiment(**fields | FIELDS | changes)


def group(path, models=range(8), **changes):
    """A group as a file of its own."""
    sam = experiment(path, **changes)
    return {"key": sam.key, "models": models, **train_group(sam.model_dump(), load_dataset(path).arrays(), models)}


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """The command that runs a module in this interpreter with nothing but torch, numpy, what torch needs, and samlib."""
    folder, wanted, seen = tmp_path_factory.mktemp("bare"), ["torch", "numpy"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            package = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for top in {file.parts[0] for file in package.files if not file.parts[0].startswith((".", "__pycache__"))}:
            target = Path(package.locate_file(top))
            if not (folder / top).exists():
                (folder / top).symlink_to(target)
        for text in package.requires or ():
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                wanted.append(need.name)
    (folder / "samlib").symlink_to(Path(samlib.__file__).parent)
    code = f"import sys, runpy; sys.path.insert(0, {str(folder)!r}); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"
    return [sys.executable, "-I", "-S", "-c", code]


def in_bare(bare, *arguments, folder):
    return subprocess.run([*bare, "samlib.training", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
def test_nothing_else_can_be_imported_on_the_bare_machine(bare):
    for name, status in (
        ("torch", 0),
        ("pydantic", 1),
        ("xarray", 1),
        ("samlib.runs", 1),
        ("samlib.training.files", 0),
    ):
        done = subprocess.run(
            [*bare[:-1], bare[-1].partition(" runpy.run")[0] + f" import {name}"], capture_output=True
        )
        assert done.returncode == status, (name, done.stderr)


@pytest.mark.slow
def test_a_pair_there_and_back_is_the_store_of_a_run_here(bare, small_npz, client, tmp_path):
    experiments = pair(dataset=str(small_npz), n_models=20, **FIELDS | {"epochs": 60})
    first = export_job(experiments, tmp_path / "job", max_mb=0.005)  # no suffix is added
    parts = [first, *sorted(tmp_path.glob("job.*"))]
    assert len(parts) > 1
    assert all(path.stat().st_size <= 5_000 for path in parts)
    options = [*(path.name for path in parts), "--out", "groups", "--device", "cpu", "--max-mb", "0.06"]
    short = in_bare(bare, *options, "--minutes", "0.00001", folder=tmp_path)
    assert (short.returncode, short.stderr) == (0, "")
    assert "0 of 20 pairs" in short.stdout
    assert f"To go on: python -m samlib.training {' '.join(options)} --minutes 0.00001\n" in short.stdout
    done = in_bare(bare, *options, "--minutes", "10", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "20 of 20 pairs" in done.stdout
    assert "To go on" not in done.stdout
    said = [
        re.match(r"\S+ mlp (sgd|sam rho 0.05): models (\d+) to", line).groups() for line in done.stderr.splitlines()
    ]
    assert said == [(o, k) for k in ("0", "8", "16") for o in ("sgd", "sam rho 0.05")]
    files = sorted((tmp_path / "groups").glob("*"))
    assert len(files) > 1
    assert all(path.stat().st_size <= 60_000 for path in files)
    before = [path.read_bytes() for path in files]
    assert in_bare(bare, *options, folder=tmp_path).stderr == ""  # nothing is trained again
    assert [path.read_bytes() for path in files] == before
    back = import_groups(files, cache_dir=tmp_path / "a")
    assert sorted((e.optimizer, models.start) for e, models in back) == [
        (o, k) for o in ("sam", "sgd") for k in (0, 8, 16)
    ]
    imported = run_pairs({0: experiments}, cluster=NOWHERE, cache_dir=tmp_path / "a")[0]
    here = run_pairs({0: experiments}, cluster=client, cache_dir=tmp_path / "b", progress=False)[0]
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert imported["sam"].attrs["seconds"] > 0
    assert imported["sam"].attrs["machine"] == here["sam"].attrs["machine"]


@pytest.mark.slow
def test_killed_there_it_goes_on_and_loses_no_more_than_what_was_in_training(bare, small_npz, tmp_path):
    job = export_job(pair(dataset=str(small_npz), n_models=48, **FIELDS | {"epochs": 30}), tmp_path / "job.npz")
    command = [*bare, "samlib.training", str(job), "--out", "groups", "--device", "cpu", "--max-mb", "0.1"]
    for kill in range(3):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        said = [process.stderr.readline() for _ in range(2)]
        time.sleep(0.1 * kill)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        (tmp_path / "groups" / "groups-99.npz.partial").touch()  # of a writer that was killed
        there = Packs(tmp_path / "groups", 10**6, 8).there
        assert len(there) >= 2 * (kill + 1), said
        assert not list((tmp_path / "groups").glob("*.partial"))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 12 - len(there)
    assert not list((tmp_path / "groups").glob("*.partial"))
    assert len(import_groups(sorted((tmp_path / "groups").glob("*")), cache_dir=tmp_path / "a")) == 12


def test_a_folder_that_is_full_says_so_and_goes_on_in_another(small_npz, tmp_path, capsys):
    job = export_job(pair(dataset=str(small_npz), n_models=64, **FIELDS), tmp_path / "job.npz")
    options = [str(job), "--device", "cpu", "--max-mb", "0.1"]
    assert bare_main.main([*options, "--out", str(tmp_path / "one"), "--max-files", "1"]) == 0
    said = capsys.readouterr().out
    assert "It may hold no more: take these files home" in said
    n = int(re.search(r"(\d+) of 64 pairs", said)[1])
    assert 0 < n < 64
    assert len(list((tmp_path / "one").iterdir())) == 1
    assert len(import_groups((tmp_path / "one").iterdir(), cache_dir=tmp_path)) == n // 4  # both of each pair


def test_two_processes_do_not_write_to_one_folder(small_npz, tmp_path, capsys):
    job = export_job(pair(dataset=str(small_npz), n_models=8, **FIELDS), tmp_path / "job.npz")
    options = [str(job), "--device", "cpu", "--out", str(tmp_path / "groups")]
    with alone(tmp_path / "groups"):
        assert bare_main.main(options) == 1
    assert capsys.readouterr().err == f"samlib: Another process writes to {tmp_path / 'groups'}; give another folder.\n"
    assert bare_main.main(options) == 0


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["none.npz"], 1, r"^samlib: none\.npz is no job: No such file or directory\.$"),
        (["text"], 1, r"^samlib: text is no job: File is not a zip file\.$"),
        (["half.npz"], 1, r"^samlib: half\.npz is no job: "),
        (["job.npz"], 1, r"^samlib: job\.npz is one of \d parts of a job; give part 2 too\.$"),
        (["small.npz"], 1, r"^samlib: small\.npz is no job: it has no 'about'\.$"),
        (["job.npz", "--device", "tpu"], 2, "argument --device: must be cpu, cuda or cuda:1, not 'tpu'"),
        (["job.npz", "--device", "cuda:99"], 2, "argument --device: cannot use 'cuda:99'"),
        (["job.npz", "--minutes", "0"], 2, "argument --minutes: must be a positive number, not 0"),
        (["job.npz", "--minutes", "soon"], 2, "argument --minutes: must be a positive number, not soon"),
        (
            ["job.npz", "--out", "text"],
            1,
            r"^samlib: text cannot be made a folder \(File exists\); give another folder\.$",
        ),
        (
            ["whole.npz", "--max-mb", "0.01"],
            1,
            r"^samlib: A group of models may take \d+\.\d+ MB; give --max-mb at least",
        ),
        (["whole.npz", "--out", "text"], 1, r"^samlib: .*text"),
    ],
)
def test_what_is_wrong_there_is_one_sentence(small_npz, tmp_path, monkeypatch, capsys, options, status, message):
    monkeypatch.chdir(tmp_path)
    experiments = pair(dataset=str(small_npz), **FIELDS)
    export_job(experiments, "job.npz", max_mb=0.005)
    export_job(experiments, "whole.npz")
    Path("half.npz").write_bytes(Path("whole.npz").read_bytes()[:-200])
    Path("text").write_text("text")
    try:
        found = bare_main.main([*options, *([] if "--out" in options else ["--out", "groups"]), *(
            [] if "--device" in options else ["--device", "cpu"])])  # fmt: skip
    except SystemExit as error:
        found = error.code
    assert found == status
    said = capsys.readouterr().err.splitlines()[-1]
    assert re.search(message, said), said


def test_a_full_disk_there_is_one_sentence_and_what_was_finished_is_kept(small_npz, tmp_path, capsys):
    """A limit on the size of files stands for the full disk."""
    import resource

    job = export_job(pair(dataset=str(small_npz), n_models=64, **FIELDS), tmp_path / "job.npz")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        assert bare_main.main([str(job), "--device", "cpu", "--out", str(tmp_path / "groups")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("samlib: ")
    assert len(Packs(tmp_path / "groups", 10**6, 8).there) >= 2
    assert not list((tmp_path / "groups").glob("*.partial"))


@pytest.mark.slow
def test_help_teaches():
    done = subprocess.run([sys.executable, "-m", "samlib.training", "--help"], capture_output=True, text=True)
    for word in (
        "torch and numpy",
        "--minutes 12 --out groups",
        "samlib import-group groups/*.npz",
        "--max-files",
        "[16]",
    ):
        assert word in done.stdout


@pytest.mark.parametrize("name", ["job", "job.npz", "job.data", "new/folder/job"])
def test_a_job_is_where_it_says(small_npz, tmp_path, name):
    sam = experiment(small_npz)
    path = export_job(sam, tmp_path / name)
    assert path == tmp_path / name
    assert path.exists()
    assert [p for p in path.parent.iterdir() if p.name.startswith(".")] == []
    ((about, arrays),) = read_jobs([path])
    assert about["experiments"] == [
        {"key": sam.key, "name": str(sam), "n_models": 16, "recipe": sam.model_dump(mode="json")}
    ]
    for array, values in load_dataset(small_npz).arrays().items():
        np.testing.assert_array_equal(arrays[array], values)
        assert arrays[array].dtype == np.asarray(values).dtype


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 400), st.integers(3000, 9000), st.booleans(), st.randoms())
def test_jobs_in_parts_come_together_in_any_order(tmp_path, n, most, sparse, random):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 2, (n, 20)).astype(np.float32) if sparse else rng.normal(size=(n, 20)).astype(np.float32)
    arrays = {"x": x, "y": np.arange(n), "images": rng.integers(0, 256, (n, 2, 2, 1), np.uint8), "n_classes": 3}
    paths = write_job(tmp_path / "job.npz", {"experiments": [], "checksum": "c"}, arrays, most)
    assert all(path.stat().st_size <= most for path in paths)
    random.shuffle(paths)
    ((about, found),) = read_jobs(paths)
    assert about == {"format": 1, "experiments": [], "checksum": "c"}
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)


def test_two_jobs_on_the_same_data_share_sgd(small_npz, tmp_path, capsys):
    jobs = [
        str(export_job(pair(dataset=str(small_npz), n_models=8, rho=rho, **FIELDS), tmp_path / f"{rho}.npz"))
        for rho in (0.1, 0.2)
    ]
    assert bare_main.main([*jobs, "--device", "cpu", "--out", str(tmp_path / "groups")]) == 0
    trained = [line.partition(":")[0].partition("mlp ")[2] for line in capsys.readouterr().err.splitlines()]
    assert trained == ["sgd", "sam rho 0.1", "sam rho 0.2"]


def test_experiments_on_other_data_are_not_one_job(small_npz, tmp_path):
    other = {"a": experiment(small_npz), "b": experiment(small_npz, pool=60)}
    with pytest.raises(ValueError, match="must be on the same data"):
        export_job(other, tmp_path / "job.npz")


@given(st.integers(1, 9), st.integers(1, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_packing_rounds_nothing(k, n, mask, seed):
    rng = np.random.default_rng(seed)
    values = rng.random((k, n)) < 0.5 if mask else rng.integers(0, 2**32, (k, n), np.uint32).view(np.float32)
    assert decoded(encoded(values), n).tobytes() == values.tobytes()
