"""`run(experiment)`: plan groups of models, dispatch them with Dask, write and resume the store, open it as xarray.

A store is a zarr folder, named by the experiment's key and its data's checksum; a chunk is a group of models. A group is
trained and written whole, then marked complete; there is no other checkpoint. A log file beside the store holds what differs
from run to run (machine, seconds). So on a CPU the store's bytes depend only on the experiment.
"""

import time
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from math import inf
from typing import Any

import xarray as xr
from filelock import Timeout

from samlib.checks import as_number, shown
from samlib.data import Dataset
from samlib.experiment import Experiment
from samlib.runs.dispatch import client_of, n_workers, train_missing
from samlib.runs.store import Folder, Store, open_store
from samlib.runs.transfer import export_job, import_group, import_groups

__all__ = ["NothingWhole", "Store", "export_job", "import_group", "import_groups", "n_workers", "run"]
__all__ += ["run_pairs", "workers"]
Pairs = Mapping[Hashable, Mapping[str, Experiment]]


class NothingWhole(RuntimeError):
    """A time box ended before the first pair was whole."""


def run(
    experiment: Experiment, *, cluster=None, cache_dir: Folder = None, progress=True, minutes: float | None = None
) -> xr.Dataset:
    """Train the experiment's models, or load those that exist, and return all of them.

    A killed run resumes where it stopped. A second process that asks for the same experiment waits for the first.

    Parameters
    ----------
    experiment : Experiment
        What to train.
    cluster : str, distributed.Client or Dask cluster, optional
        Where to train: a scheduler's address ("tcp://..."), a client or a cluster. None is this machine, with a process
        for each GPU or core. Workers share no files.
    cache_dir : path, optional
        The folder of the stores; `SAMLIB_CACHE` or the user's cache folder if None.
    progress : bool
        Whether to show a progress bar.
    minutes : float, optional
        A time box, as for `run_pairs`.

    Returns
    -------
    xarray.Dataset
        `member`, `correct` (bool), `logit`, `entropy`, `modified_entropy` (float32), each (model, example); the signals with
        the prefix `test_`, (model, test); `train_loss`, `train_accuracy`, `test_accuracy` (model,). Coordinates are `model`,
        `label`, `test_label`, and `subclass` and `test_subclass` if known. Attributes say where the runs come from. Models
        that diverged are left out, and named in a warning and in the attribute `diverged`.

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
    >>> runs = run(Experiment(dataset="digits", hidden=(32,), epochs=4, n_models=8), progress=False)
    >>> dict(runs.sizes)
    {'model': 8, 'example': 1437, 'test': 360}
    """
    if not isinstance(experiment, Experiment):
        raise ValueError(f"experiment must be an Experiment, not {shown(experiment)}.")
    found = run_pairs({"": {"": experiment}}, cluster=cluster, cache_dir=cache_dir, progress=progress, minutes=minutes)
    return found[""][""]


def run_pairs(
    pairs: Pairs, *, cluster=None, cache_dir: Folder = None, progress=True, minutes: float | None = None
) -> dict[Hashable, dict[str, xr.Dataset]]:
    """Run every experiment of many pairs. An experiment that several pairs share runs once.

    Models k of all members of a pair are trained together, k from 0 upward.

    Parameters
    ----------
    pairs : mapping
        Pairs by any key, each a mapping of names to experiments, as `samlib.experiment.pair` returns.
    cluster, cache_dir, progress
        As for `run`.
    minutes : float, optional
        A time box, counted from the call. A model begins only if one as slow as the slowest of its kind would end in time.
        Call again to resume.

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
    >>> found = run_pairs({"digits": pair(dataset="digits", hidden=(32,), epochs=4, n_models=8)}, progress=False)
    >>> [(name, runs.sizes["model"]) for name, runs in found["digits"].items()]
    [('sgd', 8), ('sam', 8)]
    """
    if not all(
        isinstance(two, Mapping) and all(isinstance(e, Experiment) for e in two.values()) for two in pairs.values()
    ):
        raise ValueError("pairs must map keys to pairs of experiments, as samlib.experiment.pair returns them.")
    if isinstance(minutes, bool):
        raise ValueError(f"minutes must be a number, not {minutes}.")
    minutes = None if minutes is None else as_number("minutes", minutes, 0, strict=True)
    end = inf if minutes is None else time.monotonic() + 60 * minutes
    data: dict[str, Dataset] = {}
    stores: dict[str, Store] = {}  # experiments that differ only in n_models share the largest one's
    sources: dict[Experiment, Store] = {}
    experiments = dict.fromkeys(e for pair in pairs.values() for e in pair.values())
    for experiment in sorted(experiments, key=lambda experiment: experiment.n_models):
        store = open_store(experiment, cache_dir)
        store.dataset = data.setdefault(store.dataset.checksum, store.dataset)  # one copy in memory
        sources[experiment] = stores[str(store.path)] = store
    with ExitStack() as locks:
        try:
            # in one order, so that two processes never wait for each other
            for store in sorted(stores.values(), key=lambda store: store.path):
                if store.missing():
                    locks.enter_context(store.locked(progress, max(end - time.monotonic(), 0)))
                    store.prepare()
            if any(store.missing() for store in stores.values()) and time.monotonic() < end:
                together = dict.fromkeys(tuple(str(sources[e].path) for e in pair.values()) for pair in pairs.values())
                train_missing(stores, [*together], cluster, progress, end)
        except Timeout:
            pass  # another process held a store until the end
    if minutes is None:
        runs = {experiment: store.open() for experiment, store in sources.items()}
        return {key: {name: runs[e] for name, e in pair.items()} for key, pair in pairs.items()}
    boxed = {key: whole for key, pair in pairs.items() if (whole := _whole(pair, sources))}
    if not boxed:
        raise NothingWhole(f"No pair of models was finished in {minutes:g} minutes; call again to resume.")
    return boxed


def _whole(pair: Mapping[str, Experiment], sources: Mapping[Experiment, Store]) -> dict[str, xr.Dataset]:
    """The runs of one pair with the models that all its members have; empty if there are none."""
    asked = min(e.n_models for e in pair.values())
    absent = {k for e in pair.values() for models in sources[e].missing() for k in models}
    if not (models := [k for k in range(asked) if k not in absent]):
        return {}
    runs = xr.align(*(sources[e].open(models) for e in pair.values()), exclude=("example", "test"), copy=False)
    for experiment, found in zip(pair.values(), runs, strict=True):
        there = experiment.but(n_models=max(models[-1] + 1, 2)).model_dump_json()
        found.attrs |= {"experiment": there, "asked": asked, "whole": len(models)}
    return dict(zip(pair, runs, strict=True))


@contextmanager
def workers(experiments: Iterable[Experiment], *, cluster: Any = None, cache_dir: Folder = None) -> Iterator:
    """Start one set of workers for several calls of `run`. Otherwise each call takes some seconds to start its own.

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
    """
    missing = sum(len(open_store(experiment, cache_dir).missing()) for experiment in experiments)
    with client_of(cluster, missing) if missing else nullcontext() as client:
        yield client
