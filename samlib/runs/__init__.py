"""`run(experiment)`: plan groups of models, dispatch them with Dask, write and resume the store, open it as xarray.

A store is a zarr folder, named by the experiment's key and its data's checksum; a chunk is a group of models. A group is
trained and written whole, then marked complete: that is the whole checkpoint. Facts that differ from run to run (machine,
seconds) are in a log beside it, so that on a CPU the store's bytes depend on the experiment alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from math import inf
from typing import Any

import numpy as np
import xarray as xr
from filelock import Timeout
from tqdm import tqdm

from samlib.data import Dataset
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
    cluster: Any = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
    recorded: str | os.PathLike | None = None,
    minutes: float | None = None,
) -> xr.Dataset:
    """Train the experiment's models, or load those that exist, and return all of them.

    A killed run resumes where it stopped. A second process that asks for the same experiment waits for the first.

    Parameters
    ----------
    experiment : Experiment
        What to train.
    cluster : str, distributed.Client or Dask cluster, optional
        Where to train: a scheduler's address ("tcp://..."), a client or a cluster. None is this machine, with a process
        for each GPU, or, without one, for each core. Workers share no files: groups travel back as arrays.
    cache_dir : path, optional
        The folder of the stores; `SAMLIB_CACHE` or the user's cache folder if None.
    progress : bool
        Whether to show a progress bar.
    recorded : path, optional
        A folder of recorded runs (`samlib record --signals`), which are returned if it holds these models.
    minutes : float, optional
        A time box, as for `run_pairs`.

    Returns
    -------
    xarray.Dataset
        With the dimensions model, example and test: `member`, `correct`, `logit`, `entropy`, `modified_entropy` (model,
        example); the signals with the prefix `test_` (model, test); `train_loss`, `train_accuracy`, `test_accuracy`
        (model,). Masks are bool, signals float32. Coordinates are `model`, `label`, `test_label`, and, if the data set knows
        them, `subclass` and `test_subclass`. Attributes say where the runs come from. Models that diverged are left out,
        and named in a warning and in the attribute `diverged`.

    Raises
    ------
    ValueError
        If `cluster` is none of these or is asynchronous, all models diverged, or the store is damaged.
    OSError
        If the cache, or a worker's own disk, cannot be read or written.
    RuntimeError
        If the cluster is closed or lost (what was finished is kept), or the store is deleted meanwhile.

    Examples
    --------
    >>> runs = run(Experiment(dataset="digits", hidden=(8,), epochs=1, n_models=8), progress=False)
    >>> dict(runs.sizes)
    {'model': 8, 'example': 1437, 'test': 360}
    """
    options: dict[str, Any] = {"cluster": cluster, "cache_dir": cache_dir, "progress": progress, "recorded": recorded}
    return run_pairs({"": {"": experiment}}, minutes=minutes, **options)[""][""]


def run_pairs(
    pairs: Mapping[Hashable, Mapping[str, Experiment]],
    *,
    cluster: Any = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
    recorded: str | os.PathLike | None = None,
    minutes: float | None = None,
) -> dict[Hashable, dict[str, xr.Dataset]]:
    """Run every experiment of many pairs, and what several of them share once.

    Models k of all members of a pair are trained together, k from 0 upward.

    Parameters
    ----------
    pairs : mapping
        Pairs by any key, each a mapping of names to experiments, as `samlib.experiment.pair` returns.
    cluster, cache_dir, progress, recorded
        As for `run`.
    minutes : float, optional
        A time box, counted from the call. A model begins only if it is expected to end in time, as the slowest of its kind
        did. Call again to resume.

    Returns
    -------
    dict
        The same keys, with runs in place of experiments. In a time box, only whole pairs are returned: the models that all
        members have, perhaps fewer than `n_models`. The attribute `asked` says how many were asked for, `whole` how many
        are there, and `experiment` describes these. A pair without any is left out.

    Raises
    ------
    NothingWhole
        A RuntimeError: the time box ended before any pair had a model.
    ValueError, OSError, RuntimeError
        As `run` does.

    Examples
    --------
    >>> from samlib.experiment import pair
    >>> found = run_pairs({"digits": pair(dataset="digits", hidden=(8,), epochs=1, n_models=8)}, progress=False)
    >>> [(name, runs.sizes["model"]) for name, runs in found["digits"].items()]
    [('sgd', 8), ('sam', 8)]
    """
    if minutes is not None and (
        isinstance(minutes, bool) or not isinstance(minutes, int | float) or not 0 < minutes < inf
    ):
        raise ValueError(f"minutes must be a positive number, not {minutes!r}.")
    end = inf if minutes is None else time.monotonic() + 60 * minutes
    data: dict[str, Dataset] = {}
    stores: dict[str, Store] = {}
    sources: dict[str, Store | xr.Dataset] = {}  # of each experiment, by its JSON
    experiments = [e for pair in pairs.values() for e in pair.values()]
    # experiments that differ in the number of models alone have one store, of the most
    for experiment in sorted(experiments, key=lambda experiment: experiment.n_models):
        name = experiment.model_dump_json()
        found = None if name in sources or recorded is None else load_runs(experiment, recorded)
        if found is not None:
            sources[name] = found
        elif name not in sources:
            store = open_store(experiment, cache_dir)
            store.dataset = data.setdefault(store.dataset.checksum, store.dataset)  # one copy in memory
            sources[name] = stores[str(store.path)] = store
    named = {key: [sources[e.model_dump_json()] for e in pair.values()] for key, pair in pairs.items()}
    with ExitStack() as locks:
        try:
            # in one order, so that two processes never wait for each other
            for store in sorted(stores.values(), key=lambda store: store.path):
                if store.missing():
                    locks.enter_context(store.locked(progress, max(end - time.monotonic(), 0)))
                    store.prepare()
            if any(store.missing() for store in stores.values()) and time.monotonic() < end:
                together = [tuple(str(s.path) for s in pair if isinstance(s, Store)) for pair in named.values()]
                _train_missing(stores, [paths for paths in dict.fromkeys(together) if paths], cluster, progress, end)
        except Timeout:
            pass  # another process held a store until the end
    if minutes is None:
        runs = {name: source.open() if isinstance(source, Store) else source for name, source in sources.items()}
        return {key: {n: runs[e.model_dump_json()] for n, e in pair.items()} for key, pair in pairs.items()}
    boxed = {key: whole for key, pair in pairs.items() if (whole := _whole(pair, sources))}
    if not boxed:
        raise NothingWhole(f"No pair of models was finished in {minutes:g} minutes; call again to resume.")
    return boxed


def _whole(pair: Mapping[str, Experiment], sources: Mapping[str, Store | xr.Dataset]) -> dict[str, xr.Dataset]:
    """The runs of one pair with the models that all its members have; empty if there are none."""
    members, asked = (
        {name: sources[e.model_dump_json()] for name, e in pair.items()},
        min(e.n_models for e in pair.values()),
    )
    absent = {
        k for source in members.values() if isinstance(source, Store) for models in source.missing() for k in models
    }
    if not (models := [k for k in range(asked) if k not in absent]):
        return {}
    runs = {name: source.open(models) if isinstance(source, Store) else source for name, source in members.items()}
    common = set.intersection(*({*found.model.values.tolist()} for found in runs.values()))
    for name, found in runs.items():
        there = pair[name].but(n_models=max(models[-1] + 1, 2)).model_dump_json()
        runs[name] = found.sel(model=[k for k in found.model.values if k in common])
        runs[name].attrs |= {"experiment": there, "asked": asked, "whole": len(models)}
    return runs


@contextmanager
def workers(
    experiments: Iterable[Experiment], *, cluster: Any = None, cache_dir: str | os.PathLike | None = None
) -> Iterator:
    """Start one set of workers for several calls of `run`, which each would pay the seconds that it takes.

    Parameters
    ----------
    experiments : iterable of Experiment
        What will be run.
    cluster, cache_dir
        As for `run`.

    Yields
    ------
    distributed.Client or None
        What `run(..., cluster=)` takes; None if nothing is left to train.

    Examples
    --------
    >>> with workers([]) as client:
    ...     print(client)
    None
    """
    missing = sum(len(open_store(experiment, cache_dir).missing()) for experiment in experiments)
    with _client(cluster, missing) if missing else nullcontext() as client:
        yield client


def _train_missing(
    stores: Mapping[str, Store], pairs: Sequence[tuple[str, ...]], cluster, progress: bool, end: float = inf
) -> None:
    """Train on the cluster what a `Box` chooses, writing each group as it comes; groups that workers lost are sent again.

    stores: locked and prepared where models are missing. pairs: their names, as for `Box`. end: by `time.monotonic`.
    """
    said: set[str] = set()
    seconds: dict[str, dict[int, float]] = {name: {} for name in stores}
    began = time.monotonic()
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

    sent: dict[Any, tuple] = {}
    lost, waiting, looked = False, as_completed(loop=client.loop), -inf
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
