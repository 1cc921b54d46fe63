"""`run(experiment)`: plan groups of models, dispatch them with Dask, write and resume the store, open it as xarray.

A store is a zarr folder named by the experiment's key, a chunk a group of models. A group is trained and written whole,
then marked complete; that is the whole checkpoint. What differs from run to run (machine, seconds) is in a log
beside it, so that the store's bytes depend on the experiment alone.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

import xarray as xr
from tqdm import tqdm

from samlib.experiment import Experiment
from samlib.runs.recorded import load_runs, save_runs
from samlib.runs.store import Store, open_store
from samlib.runs.transfer import export_job, import_group
from samlib.training import train_group

__all__ = ["Store", "export_job", "import_group", "load_runs", "n_workers", "run", "run_pairs", "save_runs", "workers"]

# glibc gives large blocks back to the system after each step, as Dask tells it to, and takes page faults to get them
# again, which convolutional nets feel most.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
LOCAL = "SAMLIB_LOCAL_WORKER"  # set in workers of `_local_client`
ONE_AT_A_TIME = threading.Lock()
ATTEMPTS = 3  # rounds of dispatch before a group that workers keep losing is given up


def run(experiment: Experiment, *, cluster=None, cache_dir=None, progress: bool = True, recorded=None) -> xr.Dataset:
    """Train the experiment's models, or load those that exist, and return all of them as `Runs`.

    cluster: None for this machine (a process a core with one torch thread each, or a process a GPU), a scheduler's address
    ("tcp://..."), a `distributed.Client` or a Dask cluster object. Workers share no files: groups travel back as arrays.
    cache_dir: folder of the stores; `SAMLIB_CACHE` or the user's cache folder if None.
    recorded: folder of recorded runs (`samlib record --signals`), which are returned where it holds these models.

    Returns an `xarray.Dataset` with dims model, example, test: `member`, `correct`, `logit`, `entropy`,
    `modified_entropy` (model, example); the signals with the prefix `test_` (model, test); `train_loss`,
    `train_accuracy`, `test_accuracy` (model,); coordinates `model`, `label`, `test_label`, and `subclass` and
    `test_subclass` where the data set knows them; provenance as attributes.
    Models that diverged are left out and named in a warning and in the attribute `diverged`.

    A killed run goes on where it stopped; a second process that asks for the same experiment waits for the first.
    Raises ValueError where all models diverged or the store is damaged or made with other data, OSError where the cache
    cannot be written, RuntimeError where the cluster is lost (what was finished is kept) or the store deleted meanwhile.
    """
    if recorded is not None and (found := load_runs(experiment, recorded)) is not None:
        return found
    store = open_store(experiment, cache_dir)
    if store.missing():
        with store.locked(progress):
            store.prepare()
            if missing := store.missing():
                _train_missing(store, missing, cluster, progress)
    return store.open()


@contextmanager
def workers(experiments: Iterable[Experiment], *, cluster=None, cache_dir=None) -> Iterator:
    """One set of workers for several experiments: what `run(..., cluster=)` takes; None where nothing is left to train.

    Starting workers takes seconds, which many small experiments would each pay. `cluster` and `cache_dir` as for `run`.
    """
    missing = sum(len(open_store(experiment, cache_dir).missing()) for experiment in experiments)
    with _client(cluster, missing) if missing else nullcontext() as client:
        yield client


def run_pairs(pairs: Mapping[Hashable, Mapping[str, Experiment]], **options) -> dict[Hashable, dict[str, xr.Dataset]]:
    """`run` of every experiment of many pairs, e.g. of `experiment.ablation_pairs`: the same keys, runs in place of experiments.

    What several pairs share is run once. Options as `run`.
    """
    experiments = {e.model_dump_json(): e for pair in pairs.values() for e in pair.values()}
    shared = {"cluster": options.pop("cluster", None), "cache_dir": options.get("cache_dir")}
    recorded = options.pop("recorded", None)
    runs = {name: load_runs(e, recorded) for name, e in experiments.items()} if recorded is not None else {}
    missing = {name: e for name, e in experiments.items() if runs.get(name) is None}
    with workers(missing.values(), **shared) as client:
        runs |= {name: run(e, cluster=client, **options) for name, e in missing.items()}
    return {key: {name: runs[e.model_dump_json()] for name, e in pair.items()} for key, pair in pairs.items()}


def _train_missing(store: Store, missing: list[range], cluster, progress: bool) -> None:
    """Train on the cluster, writing each group as it comes; groups that workers lost are sent again."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    experiment, dataset, said = store.experiment, store.dataset, set()
    recipe, data, wanted = experiment.model_dump(), dataset.arrays(), sum(map(len, missing))
    bar = tqdm(
        total=wanted, desc=f"training {experiment}", unit="model", disable=not progress, smoothing=0, mininterval=1
    )
    try:
        with bar, _client(cluster, len(missing)) as client:
            bar.unpause()
            for _ in range(ATTEMPTS):
                # Scattered once: the data set travels to each worker, not with each task. As one object under a name of its
                # own: the parts of a dict would be named by its keys, the same for every run on the cluster.
                (on_workers,) = client.scatter([data], broadcast=True, hash=False)
                sent = {client.submit(_train, recipe, on_workers, models, pure=False): models for models in missing}
                for future in as_completed(sent, loop=client.loop):
                    if future.status == "finished":
                        result, seconds, where = future.result()
                        store.write(sent[future], result, seconds, where)
                        for strategy in sorted(set(result["strategy"].tolist()) - said):
                            said.add(strategy)
                            if progress and any(trouble in strategy for trouble in ("out of memory", "not compiled")):
                                bar.write(f"samlib: {strategy}", file=sys.stderr)
                        bar.update(len(sent[future]))
                        future.release()
                    elif future.status == "error" and not isinstance(future.exception(), KilledWorker):
                        future.result()
                if not (missing := store.missing()):
                    return
    except (OSError, TimeoutError) as error:
        if getattr(error, "errno", None) is not None:
            raise OSError(
                f"The store {store.path} could not be written ({error}); what was finished is kept."
            ) from None
        raise RuntimeError(
            f"The Dask scheduler was lost ({error}); run again to go on from what is finished."
        ) from None
    lost = ", ".join(f"{models.start} to {models.stop - 1}" for models in missing)
    raise RuntimeError(f"Workers were lost {ATTEMPTS} times at models {lost}; run again to go on from the rest.")


def _train(recipe: dict, data: dict, models: range):
    """One group on a worker; one at a time, for random states and hooks are the process's, whatever threads the worker has."""
    import torch

    with ONE_AT_A_TIME:
        start, device = time.perf_counter(), _device()
        if device == "cpu":
            torch.set_num_threads(1)
        result = train_group(recipe, data, models, device)
        seconds = time.perf_counter() - start
    kind = torch.cuda.get_device_name() if device != "cpu" else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return result, seconds, f"{platform.machine()} {kind}, torch {torch.__version__}"


def n_workers() -> int:
    """How many groups this machine trains at once: one on each GPU, or, without, on each core."""
    import torch

    return torch.cuda.device_count() or getattr(os, "process_cpu_count", os.cpu_count)()


def _device() -> str:
    import torch
    from distributed import get_worker

    if not (gpus := torch.cuda.device_count()):
        return "cpu"
    # Only `_local_client`'s workers see all GPUs and are numbered for them; another cluster shows each worker its own.
    return f"cuda:{get_worker().name % gpus if LOCAL in os.environ else 0}"


def _client(cluster, n_tasks: int):
    """A context that yields a Dask client: the caller's own, or one that is closed afterwards."""
    from distributed import Client

    if isinstance(cluster, Client):
        return nullcontext(cluster)
    if cluster is None:
        return _local_client(n_tasks)
    try:
        return Client(cluster, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise RuntimeError(f"No Dask scheduler answers at {cluster!r} ({error}).") from None


@contextmanager
def _local_client(n_tasks: int):
    from distributed import Client, LocalCluster

    before = {name: os.environ.get(name) for name in KEEP_MEMORY}
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    spec, main.__spec__ = getattr(main, "__spec__", None), None
    # Workers are spawned; hiding the main module keeps them from running a script that has no __main__ guard again.
    os.environ |= KEEP_MEMORY  # over Dask's own settings, which an earlier cluster leaves in the environment
    try:
        with (
            LocalCluster(
                n_workers=max(1, min(n_workers(), n_tasks)),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any free port
                silence_logs=logging.ERROR,
                env={LOCAL: "1"},
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
    finally:
        if file is not None:
            main.__file__ = file
        main.__spec__ = spec
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
