"""The store of runs: extended, shared and damaged."""

import doctest
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from samlib import Experiment, host, load_dataset, run, runs
from samlib.planning import plan
from samlib.runs import Store, dispatch, transfer
from samlib.training import train_group


def experiment(path, **changes):
    fields = {"dataset": str(path), "hidden": (8,), "epochs": 2, "batch_size": 16, "n_models": 8}
    return Experiment(**fields | changes)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the stores in a cache."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.zarr/**/*")) if p.is_file()}


def trained(folder: Path) -> list[list[int]]:
    return sorted(json.loads(line)["models"] for p in folder.rglob("*.jsonl") for line in p.read_text().splitlines())


def script(path, cache, n_models=8, epochs=2) -> list[str]:
    code = (
        f"import samlib; samlib.run(samlib.Experiment(dataset={str(path)!r}, hidden=(8,), epochs={epochs}, batch_size=16,"
        f" n_models={n_models}), cache_dir={str(cache)!r})"
    )
    return [sys.executable, "-c", code]


@pytest.mark.slow
def test_runs_hold_what_was_trained(small_npz, client, tmp_path):
    sam = experiment(small_npz, optimizer="sam", rho=0.1, n_models=10)
    runs = run(sam, cluster=client, cache_dir=tmp_path)
    data = load_dataset(small_npz)
    arrays = {n: getattr(data, n) for n in ("x_train", "y_train", "x_test", "y_test")} | {"n_classes": 3}
    expected = [train_group(sam.model_dump(), arrays, range(s, s + 8)) for s in (0, 8)]
    assert isinstance(runs, xr.Dataset)
    assert dict(runs.sizes) == {"model": 10, "example": 120, "test": 40}
    for name, values in runs.items():
        np.testing.assert_allclose(
            values, np.concatenate([e[name] for e in expected])[:10], rtol=1e-4, atol=1e-5, err_msg=name
        )
    assert np.array_equal(runs.label, data.y_train)
    assert np.array_equal(runs.test_label, data.y_test)
    assert runs.attrs["data_checksum"] == data.checksum
    assert runs.attrs["data_source"] == "small.npz"
    assert runs.attrs["strategy"] == ["stacked 8, float32"]
    assert runs.attrs["seconds"] > 0
    assert Experiment(**json.loads(runs.attrs["experiment"])) == sam


@pytest.mark.slow
def test_what_exists_is_loaded_and_more_models_extend_it(small_npz, client, tmp_path):
    first = run(experiment(small_npz), cluster=client, cache_dir=tmp_path / "a")
    nowhere = "tcp://127.0.0.1:1"  # a scheduler that would fail if it were asked
    xr.testing.assert_identical(run(experiment(small_npz), cluster=nowhere, cache_dir=tmp_path / "a"), first)
    assert run(experiment(small_npz, n_models=3), cluster=nowhere, cache_dir=tmp_path / "a").sizes["model"] == 3
    more = run(experiment(small_npz, n_models=24), cluster=client, cache_dir=tmp_path / "a")
    assert trained(tmp_path / "a") == [[0, 8], [8, 16], [16, 24]]
    xr.testing.assert_equal(more.isel(model=slice(8)), first)
    run(experiment(small_npz, n_models=24), cluster=client, cache_dir=tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


@pytest.mark.slow
def test_the_same_bytes_from_one_worker_process_and_from_the_default_cluster(small_npz, client, tmp_path):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as one,
    ):
        run(
            experiment(small_npz, n_models=24),
            cluster=one.scheduler.address,
            cache_dir=tmp_path / "one",
            progress=False,
        )
    run(experiment(small_npz, n_models=24), cache_dir=tmp_path / "default", progress=False)
    assert content(tmp_path / "one") == content(tmp_path / "default")
    assert len(content(tmp_path / "one")) > 40


@pytest.mark.slow
def test_two_processes_at_once_share_the_work_of_one(small_npz, tmp_path):
    both = [
        subprocess.Popen(script(small_npz, tmp_path / "both", 16, 60), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert trained(tmp_path / "both") == [[0, 8], [8, 16]]
    subprocess.run(script(small_npz, tmp_path / "alone", 16, 60), check=True, capture_output=True)
    assert content(tmp_path / "both") == content(tmp_path / "alone")


@pytest.mark.slow
def test_a_script_without_a_main_guard_just_works(small_npz, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(script(small_npz, tmp_path / "cache")[2].replace("; ", "\n") + "\nprint('once')\n")
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr


@pytest.mark.slow
def test_local_workers_keep_their_memory(client):
    """Also beside a cluster of Dask's own settings; and the environment is as it was. They alone are marked as local."""
    before, names = dict(os.environ), (*host.KEEP_MEMORY, host.LOCAL)

    def at_start():
        """The environment that the process began with, which is what its allocator reads."""
        given = dict(entry.split("=", 1) for entry in Path("/proc/self/environ").read_text().split("\0") if entry)
        return {name: given.get(name) for name in names}

    with dispatch.client_of(None, 1) as local:
        (found,) = local.run(at_start).values()
    assert found == host.KEEP_MEMORY | {host.LOCAL: "1"}
    assert dict(os.environ) == before
    assert not any(client.run(lambda: host.LOCAL in os.environ).values())


@pytest.mark.parametrize(
    ("local", "name", "device"), [(True, 3, "cuda:1"), (False, 3, "cuda:0"), (False, "a", "cuda:0")]
)
def test_only_local_workers_share_out_the_gpus_they_see(monkeypatch, local, name, device):
    """A cluster of the caller's own, such as LocalCUDACluster, shows each worker its own GPU first."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("distributed.get_worker", lambda: SimpleNamespace(name=name))
    if local:
        monkeypatch.setenv(host.LOCAL, "1")
    assert dispatch._device() == device


@pytest.mark.slow
def test_a_worker_with_many_threads_trains_the_same_models(small_npz, client, tmp_path):
    """One group after the other: the random state of initial weights, and SAM's hook for BatchNorm, are the process's."""
    from distributed import Client, LocalCluster

    e = experiment(small_npz, optimizer="gsam", n_models=12)
    with (
        LocalCluster(n_workers=1, threads_per_worker=4, dashboard_address="127.0.0.1:0", silence_logs=50) as cluster,
        Client(cluster, set_as_default=False) as threads,
    ):
        run(e, cluster=threads, cache_dir=tmp_path / "threads", progress=False)
    run(e, cluster=client, cache_dir=tmp_path / "calm", progress=False)
    assert content(tmp_path / "threads") == content(tmp_path / "calm")


def test_models_that_diverge_are_named_and_left_out(small_npz, client, tmp_path):
    wild = experiment(
        small_npz, lr=1e-6
    )  # as good as untrained: some guess better than the commonest class, some do not
    with pytest.warns(UserWarning, match=r"\d of 8 models of .* diverged and are left out: \d") as said:
        runs = run(wild, cluster=client, cache_dir=tmp_path)
    gone = runs.attrs["diverged"]
    assert gone
    assert str(gone[0]) in str(said[0].message)
    assert sorted([*gone, *runs.model.values]) == list(range(8))
    assert not any(np.isnan(values).any() for name, values in runs.items())


def test_all_diverged_is_an_error(small_npz, client, tmp_path):
    with pytest.raises(ValueError, match=r"8 of 8 models of .* diverged .* Lower lr or rho"):
        run(experiment(small_npz, lr=1e30), cluster=client, cache_dir=tmp_path)


def chunk(folder: Path, name: str) -> Path:
    return next(p for p in folder.rglob(f"*.zarr/{name}/c/0*") if p.is_file() or (p / "0").is_file())


@pytest.mark.parametrize("name", ["logit", "test_entropy", "member", "correct", "train_loss", "complete"])
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_store_is_one_sentence(small_npz, client, tmp_path, name, damage):
    run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    path = chunk(tmp_path, name)
    path = path / "0" if path.is_dir() else path
    raw = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(raw[:-5])
    else:
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)
    if (name, damage) == ("complete", "gone"):  # nothing is marked complete: it is trained again
        before = content(tmp_path)
        run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
        assert content(tmp_path).keys() - before.keys() == {str(path.relative_to(tmp_path))}
        return
    with pytest.raises(ValueError, match=r"The store .* is damaged .* delete that folder and run again\.$") as error:
        run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [".", "logit", "complete"])
def test_a_store_whose_description_is_cut_is_one_sentence(small_npz, client, tmp_path, name):
    run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    path = next(tmp_path.rglob("*.zarr")) / name / "zarr.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"The store .* is damaged .* delete that folder and run again\.$") as error:
        run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_a_store_of_another_format_is_one_sentence(small_npz, client, tmp_path):
    run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    zarr.open_group(next(tmp_path.rglob("*.zarr"))).attrs["format"] = 0
    for n_models in (8, 16):
        with pytest.raises(
            ValueError, match=r"is damaged \(its format is 0, not \d\); delete that folder and run again"
        ):
            run(experiment(small_npz, n_models=n_models), cluster=client, cache_dir=tmp_path)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_was_finished_is_kept(small_npz, client, tmp_path):
    """A limit on the size of files stands for the full disk: both fail in the write itself."""
    import resource

    run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2500, before[1]))
    try:
        with pytest.raises(OSError, match=r"The store .* could not be written .*; what was finished is kept\.$"):
            run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert trained(tmp_path) == [[0, 8]]
    run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path)
    run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path / "calm")
    assert trained(tmp_path / "runs") == [[0, 8], [8, 16]]
    assert content(tmp_path / "runs") == content(tmp_path / "calm" / "runs")


def test_a_store_deleted_while_its_models_are_trained_is_one_sentence(small_npz, client, tmp_path, monkeypatch):
    write = Store.write

    def delete_before(store, models, *args):
        shutil.rmtree(store.path)
        write(store, models, *args)

    monkeypatch.setattr(Store, "write", delete_before)
    with pytest.raises(RuntimeError, match=r"The store .* was deleted while its models were trained; run again\.$"):
        run(experiment(small_npz), cluster=client, cache_dir=tmp_path, progress=False)
    monkeypatch.undo()
    assert run(experiment(small_npz), cluster=client, cache_dir=tmp_path, progress=False).sizes["model"] == 8


@pytest.mark.slow
def test_two_runs_with_other_data_on_one_cluster_do_not_mix(small_npz, client, tmp_path):
    """At the same time, from two threads: each must see its own data, whatever its parts are called."""
    with np.load(small_npz) as file:
        arrays = dict(file)
    paths = [tmp_path / f"{i}.npz" for i in range(3)]
    for i, path in enumerate(paths):
        np.savez(path, **arrays | {"y_train": (arrays["y_train"] + i) % 3, "y_test": (arrays["y_test"] + i) % 3})
    found = {}

    def train(path):
        found[path] = run(experiment(path, epochs=20), cluster=client, cache_dir=tmp_path, progress=False)

    threads = [threading.Thread(target=train, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for path in paths:
        given = load_dataset(path).arrays()
        expected = train_group(experiment(path, epochs=20).model_dump(), given, range(8))
        np.testing.assert_allclose(found[path].logit, expected["logit"], rtol=1e-3, atol=1e-3)


def changed(path, to):
    """The same data with one value changed, as another file."""
    with np.load(path) as file:
        arrays = dict(file)
    arrays["x_train"][0, 0] += 1
    to.parent.mkdir(exist_ok=True)
    np.savez(to, **arrays)
    return to


def test_two_files_of_one_name_are_two_stores_and_each_is_found_again(small_npz, client, tmp_path):
    other = changed(small_npz, tmp_path / "other" / small_npz.name)
    assert experiment(other).key == experiment(small_npz).key
    first, second = (run(experiment(path), cluster=client, cache_dir=tmp_path) for path in (small_npz, other))
    for path, found in ((small_npz, first), (other, second)):
        checksum = load_dataset(path).checksum
        assert found.attrs["data_checksum"] == checksum
        assert Path(found.attrs["store"]).name == f"{experiment(path).key}-{checksum[:16]}.zarr"
        assert sorted(p.name for p in (tmp_path / "runs").glob(f"*-{checksum[:16]}.*"))[:2] == [
            f"{experiment(path).key}-{checksum[:16]}.{kind}" for kind in ("jsonl", "lock")
        ]
        again = run(experiment(path), cluster="tcp://127.0.0.1:1", cache_dir=tmp_path)
        xr.testing.assert_identical(again, found)
    assert not first.equals(second)
    changed(small_npz, small_npz)  # the other file's content, in the first one's place
    assert run(experiment(small_npz), cluster="tcp://127.0.0.1:1", cache_dir=tmp_path).equals(second)


@pytest.mark.slow
def test_a_plan_counts_the_fullest_store_and_says_so(small_npz, client, tmp_path):
    other = changed(small_npz, tmp_path / "other" / small_npz.name)
    run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    run(experiment(other, n_models=16), cluster=client, cache_dir=tmp_path)
    row = plan([experiment(small_npz, n_models=16)], cache_dir=tmp_path, progress=False).iloc[0]
    assert (row["there"], row["to train"]) == (16, 0)
    assert "counted as there if the data have not changed since" in row["note"]
    assert "2 stores have this key, and the fullest is counted" in row["note"]


def test_what_a_file_manager_hides_in_a_store_is_no_member(small_npz, client, tmp_path):
    """zarr warns of it, and here a warning is an error."""
    first = run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    for folder in (first.attrs["store"], Path(first.attrs["store"]) / "logit"):
        for name in (".DS_Store", "._logit", ".ipynb_checkpoints"):
            (Path(folder) / name).write_bytes(b"no member")
    assert run(experiment(small_npz), cluster="tcp://127.0.0.1:1", cache_dir=tmp_path).equals(first)
    assert run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path).sizes["model"] == 16


def test_what_a_killed_writer_left_is_swept_up(small_npz, client, tmp_path):
    run(experiment(small_npz), cluster=client, cache_dir=tmp_path)
    left = chunk(tmp_path, "logit").with_suffix(".123.partial")
    left.write_bytes(b"half")
    run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path)
    assert not left.exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(small_npz, client, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"The cache .*file.* cannot be written .*; set SAMLIB_CACHE\."):
        run(experiment(small_npz), cluster=client, cache_dir=tmp_path / "file")


@pytest.mark.slow
def test_no_scheduler_at_the_address_is_one_sentence(small_npz, tmp_path):
    with pytest.raises(RuntimeError, match="No Dask scheduler"):
        run(experiment(small_npz), cluster="tcp://127.0.0.1:1", cache_dir=tmp_path, progress=False)


def test_progress_names_the_experiment_and_counts_models(small_npz, client, tmp_path, capsys):
    run(experiment(small_npz, n_models=16), cluster=client, cache_dir=tmp_path)
    said = capsys.readouterr().err
    assert re.search(r"training .*small.npz mlp sgd: 100%.* 16/16", said)
    run(experiment(small_npz, n_models=24), cluster=client, cache_dir=tmp_path, progress=False)
    assert capsys.readouterr().err == ""


def test_missing_groups(small_npz, tmp_path):
    store = Store(tmp_path, experiment(small_npz, n_models=17), load_dataset(small_npz))
    assert store.missing() == [range(0, 8), range(8, 16), range(16, 24)]


@pytest.mark.slow
@pytest.mark.parametrize("module", [runs, transfer, dispatch, host])
def test_the_examples_of_docstrings_run(module):
    results = doctest.testmod(module)
    assert results.attempted
    assert not results.failed
