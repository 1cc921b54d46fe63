"""Clusters of every kind: what is none is one sentence, and this machine's workers leave nothing behind."""

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import xarray as xr
from test_runs import experiment, script

from samlib import host, run
from samlib.runs import dispatch

pytestmark = pytest.mark.slow  # many, and `make quick` has others of these rooms


def test_what_is_no_cluster_is_one_sentence(small_npz, tmp_path):
    for wrong in (5, object(), {"address": "tcp://127.0.0.1:1"}, ["tcp://127.0.0.1:1"], b"tcp://127.0.0.1:1", True):
        with pytest.raises(
            ValueError, match=r"^cluster must be an address, a distributed.Client or a Dask cluster, not an? "
        ) as error:
            run(experiment(small_npz), cluster=wrong, cache_dir=tmp_path, progress=False)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["", "nowhere", "tcp://", "http://127.0.0.1:1"])
def test_an_address_without_a_scheduler_is_one_sentence(small_npz, tmp_path, address):
    with pytest.raises(RuntimeError, match=rf"^No Dask scheduler answers at '{address}' \(.*\)\.$") as error:
        run(experiment(small_npz), cluster=address, cache_dir=tmp_path, progress=False)
    assert "\n" not in str(error.value)


def test_an_asynchronous_client_or_cluster_is_one_sentence_and_works_from_a_thread(small_npz, client, tmp_path):
    from distributed import Client, LocalCluster

    async def attempt():
        options = {
            "dashboard_address": None,
            "silence_logs": 50,
            "processes": False,
            "n_workers": 1,
            "threads_per_worker": 1,
        }
        async with LocalCluster(asynchronous=True, **options) as cluster, Client(cluster, asynchronous=True) as theirs:
            for each in (theirs, cluster):
                with pytest.raises(
                    ValueError, match="^cluster must not be asynchronous.*: give the scheduler's address\\.$"
                ):
                    run(experiment(small_npz), cluster=each, cache_dir=tmp_path, progress=False)
            return await asyncio.to_thread(
                run, experiment(small_npz), cluster=theirs, cache_dir=tmp_path, progress=False
            )

    with ThreadPoolExecutor(1) as pool:  # in this thread a browser of other tests may have an event loop
        found = pool.submit(lambda: asyncio.run(attempt())).result()
    xr.testing.assert_equal(found, run(experiment(small_npz), cluster=client, cache_dir=tmp_path / "b", progress=False))


def test_a_closed_client_or_cluster_is_one_sentence(small_npz, client, tmp_path):
    from distributed import Client, LocalCluster

    closed = Client(client.scheduler.address, set_as_default=False)
    closed.close()
    with LocalCluster(n_workers=0, dashboard_address=None, silence_logs=50) as cluster:
        pass
    for each in (closed, cluster):
        with pytest.raises(RuntimeError, match=r"^The Dask client or cluster .* is closed; give an open one\.$"):
            run(experiment(small_npz), cluster=each, cache_dir=tmp_path, progress=False)


def broken(*_):
    raise OSError(28, "No space left on device", "/scratch/of/the/worker")


def test_a_worker_s_own_disk_is_not_taken_for_the_store(small_npz, client, tmp_path):
    """Also where Dask itself reads or writes there, outside of the task."""
    real = client.run(lambda: __import__("samlib.runs.dispatch").runs.dispatch.train_groups)
    client.run(lambda: setattr(__import__("samlib.runs.dispatch").runs.dispatch, "train_groups", broken))
    try:
        with pytest.raises(OSError, match="A worker could not train") as error:
            run(experiment(small_npz), cluster=client, cache_dir=tmp_path, progress=False)
    finally:
        client.run(
            lambda dask_worker: setattr(
                __import__("samlib.runs.dispatch").runs.dispatch, "train_groups", real[dask_worker.address]
            )
        )
    assert re.fullmatch(
        r"A worker could not train models 0 to 7 \(tcp://127\.0\.0\.1:\d+: .*No space left on device: '/scratch/of/the/worker'"
        r"\); what was finished is kept\.",
        str(error.value),
    )
    assert run(experiment(small_npz), cluster=client, cache_dir=tmp_path, progress=False).sizes["model"] == 8


@pytest.mark.slow
def test_two_threads_that_start_workers_at_once_edit_nothing(small_npz, tmp_path):
    """Nothing of this process changes at any moment, and each run has workers of its own."""
    main, before, seen, done = sys.modules["__main__"], dict(os.environ), set(), threading.Event()
    looks = main.__dict__.get("__file__"), main.__spec__

    def watch():
        while not done.wait(0.0005):
            seen.add((dict(os.environ) == before, (main.__dict__.get("__file__"), main.__spec__) == looks))

    found = {}

    def train(name):
        found[name] = run(experiment(small_npz, n_models=16), cache_dir=tmp_path / name, progress=False)

    watcher = threading.Thread(target=watch)
    threads = [threading.Thread(target=train, args=(name,)) for name in "ab"]
    for thread in (watcher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    watcher.join()
    assert seen == {(True, True)}
    xr.testing.assert_equal(found["a"], found["b"])


@pytest.mark.slow
def test_a_good_run_prints_its_progress_and_nothing_else(small_npz, tmp_path):
    done = subprocess.run(script(small_npz, tmp_path, 32), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(line.startswith("training ") for line in re.split(r"[\r\n]", done.stderr) if line.strip()), done.stderr


@pytest.mark.slow
def test_what_workers_print_is_passed_on_until_they_are_closed(capfd):
    """On a busy machine Dask has a traceback to print of nearly every worker that closes."""
    with dispatch.client_of(None, 1) as local:
        local.run(lambda: (os.write(2, b"to stderr\n"), os.write(1, b"to stdout\n")))
        local.run(lambda: __import__("atexit").register(os.write, 2, b"closing\n"))
        deadline = time.monotonic() + 60
        said = ""
        while "to stdout" not in said and time.monotonic() < deadline:
            said += capfd.readouterr().err
    assert "to stderr\nto stdout\n" in said
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_workers_end_with_the_process_that_asked_for_them(small_npz, tmp_path):
    import psutil

    start = "import signal\nfrom samlib.runs.dispatch import client_of\n"
    code = f"{start}with client_of(None, 1): print(1, flush=True); signal.pause()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout.readline() == "1\n"
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert len(children) >= 2
    assert not psutil.wait_procs(children, timeout=60)[1]


def test_workers_that_cannot_start_are_one_sentence(monkeypatch, capfd):
    monkeypatch.setattr(host, "START", "raise SystemExit('no such thing')")
    with pytest.raises(RuntimeError, match="The workers of this machine did not start"), host.started(1):
        pass
    assert "no such thing" in capfd.readouterr().err
