"""Writers, workers and schedulers killed at any moment: nothing is lost, and the store's bytes are those of a calm run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from test_runs import content, experiment, script, trained

from samlib import run


def finished(folder: Path) -> set[int]:
    """The first models of the groups that a cache's only store calls complete."""
    flags = [zarr.open_array(p.parent, mode="r")[:] for p in folder.rglob("*.zarr/complete/zarr.json")]
    return {int(k) for k in np.flatnonzero(flags[0]) if k % 8 == 0} if flags else set()


def at_first_group(folder: Path, kill) -> threading.Thread:
    """Kill when the first group stands in a store and others are still to come."""

    def wait():
        while not finished(folder):
            time.sleep(0.01)
        kill()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


class Kills:
    """What each kill left finished, to see that none of it is trained again."""

    def __init__(self, folder: Path):
        self.folder, self.left = folder, []

    def __len__(self) -> int:
        return len(self.left)

    def note(self) -> None:
        lines = [start for start, _ in trained(self.folder)]
        self.left.append({start: lines.count(start) for start in finished(self.folder)})

    def check(self) -> None:
        lines = [start for start, _ in trained(self.folder)]
        assert all(lines.count(start) == count for left in self.left for start, count in left.items())


@pytest.mark.slow
def test_killed_with_its_workers_and_started_again_it_ends_with_the_same_bytes(small_npz, tmp_path):
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    subprocess.run(script(small_npz, calm, 64, 40), check=True, capture_output=True)
    rng, kills = np.random.default_rng(0), Kills(rough)
    for _ in range(6):
        process = subprocess.Popen(script(small_npz, rough, 64, 40), stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            process.wait(timeout=2 + 3 * rng.random())
            break
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills.note()
    subprocess.run(script(small_npz, rough, 64, 40), check=True, capture_output=True)
    assert len(kills) > 0
    assert content(rough) == content(calm)
    kills.check()


RUNNER = """
import os, sys, distributed, samlib, zarr

experiment = samlib.Experiment(dataset=sys.argv[1], hidden=(8,), epochs=20, batch_size=16)
for n_models in sys.stdin:  # each line starts a run, in a process that has all imported
    pid = os.fork()
    if not pid:
        e = experiment.but(n_models=int(n_models))
        samlib.run(e, cluster=sys.argv[3], cache_dir=sys.argv[2], progress=False)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_in_a_row_lose_nothing(small_npz, client, tmp_path):
    """Of the process that writes the store; the workers live on, as on a cluster."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    rng, kills, n_models = np.random.default_rng(0), Kills(rough), 8
    command = [sys.executable, "-c", RUNNER, str(small_npz), str(rough), client.scheduler.address]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, bufsize=1, **pipes) as runner:

        def start() -> int:
            runner.stdin.write(f"{n_models}\n")
            return int(runner.stdout.readline())

        while len(kills) < 20:
            n_models = max(n_models, 8 * (len(finished(rough)) + 30))
            before, pid = len(finished(rough)), start()
            end = time.monotonic() + 10
            while len(kills) % 2 and len(finished(rough)) == before and time.monotonic() < end:
                time.sleep(0.01)  # every other kill strikes when groups are being written, however slow the machine is
            time.sleep(rng.random())
            with suppress(ProcessLookupError):  # it was done already
                os.kill(pid, signal.SIGKILL)
            status = int(runner.stdout.readline())
            assert status in (0, -signal.SIGKILL)
            if status:
                kills.note()
        start()
        assert runner.stdout.readline() == "0\n"
        runner.stdin.close()
    run(experiment(small_npz, epochs=20, n_models=n_models), cluster=client, cache_dir=calm, progress=False)
    assert content(rough) == content(calm)
    kills.check()
    assert len({len(left) for left in kills.left}) > 3  # many struck while groups were being written


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_loses_nothing(small_npz, tmp_path):
    from distributed import Client, LocalCluster

    slow = experiment(small_npz, n_models=64, epochs=60)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=60) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        killer = at_first_group(tmp_path / "hurt", lambda: os.kill(victim, signal.SIGKILL))
        run(slow, cluster=client, cache_dir=tmp_path / "hurt", progress=False)
        killer.join()
    run(slow, cache_dir=tmp_path / "calm", progress=False)
    assert content(tmp_path / "hurt") == content(tmp_path / "calm")


@pytest.mark.slow
def test_a_scheduler_that_dies_is_one_sentence_and_the_rest_is_done_later(small_npz, tmp_path):
    file = tmp_path / "scheduler.json"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = [subprocess.Popen([*scheduler, "--scheduler-file", str(file)], **quiet)]
    started.append(subprocess.Popen([*worker, "--scheduler-file", str(file), "--death-timeout", "5"], **quiet))
    many = experiment(small_npz, n_models=64, epochs=60)
    try:
        while not file.exists() or not file.read_text().endswith("}"):
            time.sleep(0.1)
        killer = at_first_group(tmp_path / "hurt", started[0].kill)
        with pytest.raises(RuntimeError, match=r"The Dask scheduler was lost .*; run again to resume"):
            run(many, cluster=json.loads(file.read_text())["address"], cache_dir=tmp_path / "hurt", progress=False)
        killer.join()
    finally:
        for process in started:
            process.kill()
            process.wait()
    run(many, cache_dir=tmp_path / "hurt", progress=False)
    run(many, cache_dir=tmp_path / "calm", progress=False)
    assert content(tmp_path / "hurt") == content(tmp_path / "calm")


@pytest.mark.slow
def test_a_store_that_another_lengthens_is_read_as_it_was(small_npz, client, tmp_path):
    few = experiment(small_npz)
    runs = run(few, cluster=client, cache_dir=tmp_path)
    # there the other was killed, or is not yet further
    zarr.open_array(Path(runs.attrs["store"]) / "member").resize((16, 120))
    xr.testing.assert_identical(run(few, cluster=client, cache_dir=tmp_path), runs)
    more = run(few.but(n_models=16), cluster=client, cache_dir=tmp_path)
    xr.testing.assert_equal(more.isel(model=slice(8)), runs)
