"""`run(experiment)`: plan groups of models, dispatch them with Dask, write and resume the store, open it as xarray.

A store is a zarr folder, named by the experiment's key and its data's checksum; a chunk is a group of models. A group is
trained and written whole, then marked complete: that is the whole checkpoint. What differs from run to run (machine, seconds)
is in a log beside it, so that on a CPU the store's bytes depend on the experiment alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from math import inf

import numpy as np
import xarray as xr
from filelock import Timeout
from tqdm import tqdm

from samlib.experiment import Experiment
from samlib.host import LOCAL, started
from samlib.runs.recorded import load_runs, save_runs
from samlib.runs.store import Store, open_store
from samlib.runs.transfer import export_job, import_group, import_groups
from samlib.training import at_once, machine, train_group
from samlib.training.box import Box, Work

__all__ = ["NothingWhole", "Store", "export_job", "import_group", "import_groups", "load_runs", "n_workers", "run"]
__all__ += ["run_pairs", "save_runs", "workers"]

ONE_AT_A_TIME = threading.Lock()
TROUBLE = ("out of memory", "compiler failed", "not captured")  # in a strategy, worth a line
ATTEMPTS = 3  # rounds of dispatch before a group that workers keep losing is given up


class NothingWhole(RuntimeError):
    """A time box ended before the first pair was whole."""


def run(
    experiment: Experiment,
    *,
    cluster=None,
    cache_dir=None,
    progress: bool = True,
    recorded=None,
    minutes: float | None = None,
) -> xr.Dataset:
    """Train the experiment's models, or load those that exist, and return all of them as `Runs`.

    cluster: None for this machine (a process a core with one torch thread each, or a process a GPU), a scheduler's address
    ("tcp://..."), a `distributed.Client` or a Dask cluster object. Workers share no files: groups travel back as arrays.
    cache_dir: folder of the stores; `SAMLIB_CACHE` or the user's cache folder if None.
    recorded: folder of recorded runs (`samlib record --signals`), which are returned where it holds these models.
    minutes: a time box, as for `run_pairs`.

    Returns an `xarray.Dataset` with dims model, example, test: `member`, `correct`, `logit`, `entropy`,
    `modified_entropy` (model, example); the signals with the prefix `test_` (model, test); `train_loss`,
    `train_accuracy`, `test_accuracy` (model,); coordinates `model`, `label`, `test_label`, and `subclass` and
    `test_subclass` where the data set knows them; provenance as attributes.
    Models that diverged are left out and named in a warning and in the attribute `diverged`.

    A killed run goes on where it stopped; a second process that asks for the same experiment waits for the first.
    Raises ValueError where `cluster` is none of these or is asynchronous, all models diverged, or the store is damaged.
    Raises OSError where the cache, or a worker's own disk, cannot be read or written. Raises RuntimeError where the
    cluster is closed or lost (what was finished is kept) or the store deleted meanwhile.
    """
    if recorded is not None and (found := load_runs(experiment, recorded)) is not None:
        return found
    if minutes is not None:
        options = {"cluster": cluster, "cache_dir": cache_dir, "progress": progress, "minutes": minutes}
        return run_pairs({"": {"": experiment}}, **options)[""][""]
    store = open_store(experiment, cache_dir)
    if store.missing():
        with store.locked(progress):
            store.prepare()
            if store.missing():
                _train_missing({"": store}, [("",)], cluster, progress)
    return store.open()


@contextmanager
def workers(experiments: Iterable[Experiment], *, cluster=None, cache_dir=None) -> Iterator:
    """One set of workers for several experiments: what `run(..., cluster=)` takes; None where nothing is left to train.

    Starting workers takes seconds, which many small experiments would each pay. `cluster` and `cache_dir` as for `run`.
    """
    missing = sum(len(open_store(experiment, cache_dir).missing()) for experiment in experiments)
    with _client(cluster, missing) if missing else nullcontext() as client:
        yield client


def run_pairs(
    pairs: Mapping[Hashable, Mapping[str, Experiment]], *, minutes: float | None = None, **options
) -> dict[Hashable, dict[str, xr.Dataset]]:
    """`run` of every experiment of many pairs: the same keys, runs in place of experiments.

    What several pairs share is run once. Options as `run`.

    minutes: a time box, counted from the call. Models k of all members of a pair are trained together, k from 0 upward.
    A model begins only if it is expected to end in time, as the slowest of its kind did. Call again to resume. Then only
    whole pairs are returned: models that all members have, perhaps fewer than `n_models`. The attribute `asked` says how
    many were asked for, `whole` how many are there, and `experiment` describes these. A pair without any is left out;
    raises NothingWhole, a RuntimeError, where all are.
    """
    experiments = {e.model_dump_json(): e for pair in pairs.values() for e in pair.values()}
    recorded = options.pop("recorded", None)
    runs = {name: load_runs(e, recorded) for name, e in experiments.items()} if recorded is not None else {}
    missing = {name: e for name, e in experiments.items() if runs.get(name) is None}
    if minutes is not None:
        return _run_in_box(pairs, missing, {n: r for n, r in runs.items() if r is not None}, minutes, **options)
    shared = {"cluster": options.pop("cluster", None), "cache_dir": options.get("cache_dir")}
    with workers(missing.values(), **shared) as client:
        runs |= {name: run(e, cluster=client, **options) for name, e in missing.items()}
    return {key: {name: runs[e.model_dump_json()] for name, e in pair.items()} for key, pair in pairs.items()}


def _run_in_box(pairs, experiments, recorded, minutes, *, cluster=None, cache_dir=None, progress=True):
    """`run_pairs` with `minutes`. experiments: by their JSON, those that are not among the `recorded` runs."""
    if isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < inf:
        raise ValueError(f"minutes must be a positive number, not {minutes!r}.")
    end, data, stores, paths = time.monotonic() + 60 * minutes, {}, {}, {}
    # experiments that differ in the number of models alone have one store, of the most
    for name, experiment in sorted(experiments.items(), key=lambda item: item[1].n_models):
        store = open_store(experiment, cache_dir)
        store.dataset = data.setdefault(store.dataset.checksum, store.dataset)  # one copy in memory
        paths[name] = str(store.path)
        stores[paths[name]] = store
    with ExitStack() as locks:
        try:
            # in one order, so that two processes never wait for each other
            for store in sorted(stores.values(), key=lambda store: store.path):
                if store.missing():
                    locks.enter_context(store.locked(progress, max(end - time.monotonic(), 0)))
                    store.prepare()
            if any(store.missing() for store in stores.values()) and time.monotonic() < end:
                named = [[paths.get(e.model_dump_json()) for e in pair.values()] for pair in pairs.values()]
                together = dict.fromkeys(tuple(path for path in pair if path) for pair in named)
                _train_missing(stores, list(together), cluster, progress, end)
        except Timeout:
            pass  # another process held a store until the end
    at_hand = {name: stores[path] for name, path in paths.items()}
    found = {key: whole for key, pair in pairs.items() if (whole := _whole(pair, at_hand, recorded))}
    if not found:
        raise NothingWhole(f"No pair of models was finished in {minutes:g} minutes; call again to go on.")
    return found


def _whole(pair: Mapping[str, Experiment], stores: Mapping[str, Store], recorded: Mapping[str, xr.Dataset]) -> dict:
    """The runs of one pair with the models that all its members have; empty where there are none."""
    names, asked = {name: e.model_dump_json() for name, e in pair.items()}, min(e.n_models for e in pair.values())
    absent = {k for e in names.values() if e in stores for models in stores[e].missing() for k in models}
    if not (models := [k for k in range(asked) if k not in absent]):
        return {}
    runs = {name: recorded[e] if e in recorded else stores[e].open(models) for name, e in names.items()}
    common = set.intersection(*({*found.model.values.tolist()} for found in runs.values()))
    for name, found in runs.items():
        there = pair[name].but(n_models=max(models[-1] + 1, 2)).model_dump_json()
        runs[name] = found.sel(model=[k for k in found.model.values if k in common])
        runs[name].attrs |= {"experiment": there, "asked": asked, "whole": len(models)}
    return runs


def _train_missing(
    stores: Mapping[str, Store], pairs: Sequence[tuple[str, ...]], cluster, progress: bool, end: float = inf
) -> None:
    """Train on the cluster what a `Box` chooses, writing each group as it comes; groups that workers lost are sent again.

    stores: locked and prepared where models are missing. pairs: their names, as for `Box`. end: by `time.monotonic`.
    """
    said, seconds, began = set(), {name: {} for name in stores}, time.monotonic()
    missing = [models for store in stores.values() for models in store.missing()]
    what = " and ".join(str(store.experiment) for store in stores.values())
    bar = tqdm(
        total=sum(map(len, missing)),
        desc=f"training {what if len(stores) < 3 else f'{len(stores)} experiments'}",
        unit="model",
        disable=not progress,
        smoothing=0,
        mininterval=1,
    )

    def write(name: str, groups: Sequence[range], results: Sequence[dict], seconds: float, where: str) -> None:
        store = stores[name]
        for models, result in zip(groups, results, strict=True):
            try:
                store.write(models, result, seconds / len(groups), where)
            except OSError as error:
                raise _Failed(f"The store {store.path} could not be written ({error})") from None
            for strategy in sorted(set(result["strategy"].tolist()) - said):
                said.add(strategy)
                if progress and any(trouble in strategy for trouble in TROUBLE):
                    bar.write(f"samlib: {strategy}", file=sys.stderr)
            bar.update(len(models))
        if progress and time.monotonic() > end:
            bar.write(f"samlib: models of {store.experiment} ended after the time was up.", file=sys.stderr)

    try:
        with bar, _client(cluster, len(missing)) as client:
            bar.unpause()
            closing = (time.monotonic() - began) / 2  # to close workers takes no longer than to start them
            for _ in range(ATTEMPTS):
                # Scattered once: the data set travels to each worker, not with each task. As one object under a name of its
                # own: the parts of a dict would be named by its keys, the same for every run on the cluster.
                data = {store.dataset.checksum: store.dataset.arrays() for store in stores.values()}
                held = dict(zip(data, client.scatter([*data.values()], broadcast=True, hash=False), strict=True))
                given = {n: (s.experiment.model_dump(), held[s.dataset.checksum]) for n, s in stores.items()}
                works = {name: _work(client, store, given[name], seconds[name]) for name, store in stores.items()}
                box = Box(pairs, works, end - closing)
                if not _round(client, box, given, write) or box.left() <= 0:
                    if progress and not bar.n:
                        bar.write("samlib: the time was up before training began; give more minutes.", file=sys.stderr)
                    return
                missing = [models for store in stores.values() for models in store.missing()]
    except _Failed as error:
        raise OSError(f"{error}; what was finished is kept.") from None
    except (OSError, TimeoutError) as error:
        raise RuntimeError(
            f"The Dask scheduler was lost ({error}); run again to go on from what is finished."
        ) from None
    lost = ", ".join(f"{models.start} to {models.stop - 1}" for models in missing)
    raise RuntimeError(f"Workers were lost {ATTEMPTS} times at models {lost}; run again to go on from the rest.")


class _Failed(Exception):
    """What ends a run as an OSError; from the cluster, an OSError says that the scheduler is gone."""


def _round(client, box: Box, given: Mapping[str, tuple], write: Callable[..., None]) -> bool:
    """Send out what the box gives until it has no more, and write what comes back. Returns whether workers lost some.

    given: what a task of each name gets: its recipe, and the data set as the workers hold it.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    sent, lost, waiting, looked = {}, False, as_completed(loop=client.loop), -inf
    while True:
        if sent and not waiting.has_ready() and time.monotonic() < looked + 1:
            time.sleep(0.01)
            continue
        if waiting.has_ready():
            future = next(waiting)
            name, groups, started = sent.pop(future)
            if future.status == "finished":
                write(name, groups, *future.result())
                box.finished(name, groups, time.monotonic() - started)
                future.release()
            elif future.status == "error" and not isinstance(error := future.exception(), KilledWorker):
                if not isinstance(error, OSError):
                    raise error
                # of the worker's own files, and not of the store
                raise _Failed(f"A worker could not train models {groups[0].start} to {groups[-1].stop - 1} ({error})")
            else:
                lost = True
        # Without an end Dask gets all at once, else only what can begin now. Workers may have joined meanwhile.
        looked, workers = time.monotonic(), inf if box.end == inf else max(1, len(client.nthreads()))
        while len(sent) < workers and (task := box.take()):
            future = client.submit(_train, *given[task[0]], task[1], pure=False)
            sent[future] = (*task, time.monotonic())
            waiting.add(future)
        if not sent:
            return lost


def _work(client, store: Store, given: tuple, seconds: dict[int, float]) -> Work:
    """What is to be trained for a store, in waves as the first worker to answer takes them: workers are thought alike."""
    from distributed import as_completed

    missing, experiment, wave = store.missing(), store.experiment, store.group
    if len(missing) > 1:
        wanted = sum(map(len, missing))
        asked = [
            client.submit(_at_once, *given, wanted, workers=[w], allow_other_workers=True, pure=False)
            for w in client.nthreads()
        ]
        wave = next((f.result() for f in as_completed(asked, loop=client.loop) if f.status == "finished"), wave)
    return Work(missing, experiment.n_models, store.group, wave, 2 if experiment.rho else 1, seconds)


def _at_once(recipe: dict, data: dict, wanted: int) -> int:
    with ONE_AT_A_TIME:  # a GPU is measured by training
        return at_once(recipe, data, _device(), wanted)


def _train(recipe: dict, data: dict, groups: Sequence[range]) -> tuple[list[dict], float, str]:
    """Groups on a worker; a task at a time, for random states and hooks are the process's, whatever threads the worker has."""
    import torch
    from distributed import get_worker

    with ONE_AT_A_TIME:
        start, device = time.perf_counter(), _device()
        if device == "cpu":
            torch.set_num_threads(1)
        try:
            result = train_group(recipe, data, [k for models in groups for k in models], device)
        except OSError as error:
            raise OSError(f"{get_worker().address}: {error}") from error
        seconds = time.perf_counter() - start
    cuts = np.cumsum([len(models) for models in groups])[:-1]
    parts = {name: np.split(values, cuts) for name, values in result.items()}
    return [{name: parts[name][i] for name in parts} for i in range(len(groups))], seconds, machine(device)


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

    if cluster is None:
        return _local_client(n_tasks)
    if not isinstance(cluster, (str, Client)) and not hasattr(cluster, "scheduler_address"):
        kind = type(cluster).__name__
        raise ValueError(f"cluster must be an address, a distributed.Client or a Dask cluster, not a {kind}.")
    if getattr(cluster, "asynchronous", False):
        raise ValueError(
            "cluster must not be asynchronous, for run waits for its models: give the scheduler's address."
        )
    if getattr(getattr(cluster, "status", None), "name", getattr(cluster, "status", None)) in ("closing", "closed"):
        raise RuntimeError("The Dask client or cluster that was given as cluster is closed; give an open one.")
    if isinstance(cluster, Client):
        return nullcontext(cluster)
    try:
        return Client(cluster, timeout="10s", set_as_default=False)
    except Exception as error:  # Dask raises many kinds
        reason = " ".join(str(error).split()).rstrip(".")
        raise RuntimeError(f"No Dask scheduler answers at {cluster!r} ({reason}).") from None


@contextmanager
def _local_client(n_tasks: int):
    from distributed import Client

    with started(max(1, min(n_workers(), n_tasks))) as address, Client(address, set_as_default=False) as client:
        yield client
