"""How missing models are trained: groups go out to Dask's workers, and come back to be written."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import inf
from typing import Any

import torch
from tqdm import tqdm

from samlib.disk import in_a_sentence
from samlib.host import LOCAL, started
from samlib.runs.store import Store
from samlib.training import at_once, train_groups
from samlib.training.box import Box, Work

ONE_AT_A_TIME = threading.Lock()
TROUBLE = ("out of memory", "compiler failed", "not captured")  # in a strategy, worth a line
ATTEMPTS = 3  # rounds of dispatch before a group that workers keep losing is given up


def train_missing(stores: Mapping[str, Store], pairs: Sequence, cluster: Any, progress: bool, end: float) -> None:
    """Train on the cluster what a `Box` chooses, and write each group when it comes. Groups that workers lost are sent again.

    stores: by name; locked and prepared if models are missing. pairs: tuples of these names, as for `Box`. end: by
    `time.monotonic`.
    """

    said: set[str] = set()
    missing, began = _missing(stores), time.monotonic()
    seconds: dict[str, dict[int, float]] = {name: {} for name in stores}  # of tasks, over all rounds
    what = " and ".join(str(store.experiment) for store in stores.values())
    what = f"training {what if len(stores) < 3 else f'{len(stores)} experiments'}"
    shown = {"unit": "model", "disable": not progress, "smoothing": 0, "mininterval": 1}
    bar = tqdm(total=sum(map(len, missing)), desc=what, **shown)

    def write(name: str, groups: Sequence[range], results: Sequence[dict], seconds: float, where: str) -> None:
        store = stores[name]
        for models, result in zip(groups, results, strict=True):
            with in_a_sentence(f"The store {store.path} could not be written (", ")", OSError, _Failed):
                store.write(models, result, seconds / len(groups), where)
            for strategy in sorted(set(result["strategy"].tolist()) - said):
                said.add(strategy)
                if progress and any(trouble in strategy for trouble in TROUBLE):
                    bar.write(f"samlib: {strategy}", file=sys.stderr)
            bar.update(len(models))
        if progress and time.monotonic() > end:
            bar.write(f"samlib: models of {store.experiment} ended after the time was up.", file=sys.stderr)

    try:
        with bar, client_of(cluster, len(missing)) as client:
            bar.unpause()
            closing = (time.monotonic() - began) / 2  # kept free to close them: half of what starting took
            for _ in range(ATTEMPTS):
                # Scattered once, so the data set travels to each worker, not with each task. It is one object with a name of
                # its own: Dask would name the parts of a dict by its keys, which are the same for every run on the cluster.
                data = {store.dataset.checksum: store.dataset.arrays() for store in stores.values()}
                held = dict(zip(data, client.scatter([*data.values()], broadcast=True, hash=False), strict=True))
                given = {n: (s.experiment.model_dump(), held[s.dataset.checksum]) for n, s in stores.items()}
                works = {name: _work(client, store, given[name], seconds[name]) for name, store in stores.items()}
                box = Box(pairs, works, end - closing)
                if not _round(client, box, given, write) or box.left() <= 0:
                    if progress and not bar.n:
                        bar.write("samlib: the time was up before training began; give more minutes.", file=sys.stderr)
                    return
    except _Failed as error:
        raise OSError(f"{error}; what was finished is kept.") from None
    except (OSError, TimeoutError) as error:
        raise RuntimeError(f"The Dask scheduler was lost ({error}); run again to resume.") from None
    lost = ", ".join(f"{models.start} to {models.stop - 1}" for models in _missing(stores))
    raise RuntimeError(f"Workers were lost {ATTEMPTS} times at models {lost}; run again for the rest.")


def _missing(stores: Mapping[str, Store]) -> list[range]:
    return [models for store in stores.values() for models in store.missing()]


class _Failed(Exception):
    """What ends a run as an OSError; an OSError from the cluster says that the scheduler is gone."""


def _round(client: Any, box: Box, given: Mapping[str, tuple], write: Callable[..., None]) -> bool:
    """Send out what the box gives until it has no more, and write what comes back. Returns whether workers lost some.

    given: what a task of each name gets: its recipe, and the data set as the workers hold it.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    sent: dict[Any, tuple] = {}
    lost, waiting = False, as_completed(loop=client.loop)
    while True:
        # Without a time limit Dask gets all tasks at once, else only those that can begin now. Workers may have joined.
        looked, free = time.monotonic(), inf if box.end == inf else max(1, len(client.nthreads()))
        while len(sent) < free and (task := box.take()):
            future = client.submit(_train, *given[task[0]], task[1], pure=False)
            sent[future] = (*task, time.monotonic())
            waiting.add(future)
        if not sent:
            return lost
        while not waiting.has_ready() and time.monotonic() < looked + 1:
            time.sleep(0.01)
        if not waiting.has_ready():
            continue
        future = next(waiting)
        name, groups, started = sent.pop(future)
        if future.status == "finished":
            write(name, groups, *future.result())
            box.finished(name, groups, time.monotonic() - started)
            future.release()
        elif future.status == "error" and not isinstance(error := future.exception(), KilledWorker):
            if not isinstance(error, OSError):
                raise error
            # the worker's own files failed, and not the store's
            raise _Failed(f"A worker could not train models {groups[0].start} to {groups[-1].stop - 1} ({error})")
        else:
            lost = True


def _work(client: Any, store: Store, given: tuple, seconds: dict[int, float]) -> Work:
    """The `Work` of a store. The first worker to answer sets the size of a wave, since workers are taken to be alike."""
    from distributed import as_completed

    missing, experiment, wave = store.missing(), store.experiment, store.group
    if len(missing) > 1:
        options = {"allow_other_workers": True, "pure": False}
        wanted = sum(map(len, missing))
        asked = [client.submit(_at_once, *given, wanted, workers=[w], **options) for w in client.nthreads()]
        wave = next((f.result() for f in as_completed(asked, loop=client.loop) if f.status == "finished"), wave)
    return Work(missing, experiment.n_models, store.group, wave, 2 if experiment.rho else 1, seconds)


def _at_once(recipe: dict, data: dict, wanted: int) -> int:
    with ONE_AT_A_TIME:  # a GPU is measured by training
        return at_once(recipe, data, _device(), wanted)


def _train(recipe: dict, data: dict, groups: Sequence[range]) -> tuple[list[dict], float, str]:
    """Train groups on a worker, a task at a time, because its threads share random states and hooks."""
    from distributed import get_worker

    with ONE_AT_A_TIME:
        try:
            return train_groups(recipe, data, groups, _device())
        except OSError as error:
            raise OSError(f"{get_worker().address}: {error}") from error


def n_workers() -> int:
    """Return how many groups this machine trains at once: one on each GPU, or, without one, on each core.

    Examples
    --------
    >>> n_workers() >= 1
    True
    """
    return torch.cuda.device_count() or getattr(os, "process_cpu_count", os.cpu_count)() or 1


def _device() -> str:
    from distributed import get_worker

    if not (gpus := torch.cuda.device_count()):
        return "cpu"
    # Workers that `client_of` starts see all GPUs and are numbered for them; another cluster shows each worker its own.
    return f"cuda:{get_worker().name % gpus if LOCAL in os.environ else 0}"


@contextmanager
def client_of(cluster: Any, n_tasks: int) -> Iterator:
    """Yield a Dask client: the caller's own, or one that is closed afterwards. Without a cluster this machine trains."""
    from distributed import Client

    with ExitStack() as stack:
        patience = (
            {} if cluster is None else {"timeout": "10s"}
        )  # workers of this machine have Dask's own time to start
        if cluster is None:
            cluster = stack.enter_context(started(max(1, min(n_workers(), n_tasks))))
        if not isinstance(cluster, (str, Client)) and not hasattr(cluster, "scheduler_address"):
            kind = type(cluster).__name__
            raise ValueError(f"cluster must be an address, a distributed.Client or a Dask cluster, not a {kind}.")
        if getattr(cluster, "asynchronous", False):
            raise ValueError("cluster must not be asynchronous, because run waits: give the scheduler's address.")
        if getattr(getattr(cluster, "status", None), "name", getattr(cluster, "status", None)) in ("closing", "closed"):
            raise RuntimeError("The Dask client or cluster that was given as cluster is closed; give an open one.")
        if not isinstance(cluster, Client):
            with in_a_sentence(f"No Dask scheduler answers at {cluster!r} (", ").", becomes=RuntimeError):
                cluster = stack.enter_context(Client(cluster, set_as_default=False, **patience))
        yield cluster
