"""`run(experiment)`: plan groups of models, dispatch them with Dask, write and resume the store, open it as xarray.

A store is a zarr folder named by the experiment's key, a chunk a group of models. A group is trained and written whole,
then marked complete; that is the whole checkpoint. What differs from run to run (machine, seconds) is in a log
beside it, so that the store's bytes depend on the experiment alone.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from tqdm import tqdm
from zarr.codecs import ZstdCodec

from samlib import __version__
from samlib.data import Dataset, cache_folder, load_dataset
from samlib.experiment import FORMAT, Experiment
from samlib.training import group_size, train_group

PER_MODEL = ("train_loss", "train_accuracy", "test_accuracy")
FLAGS = ("diverged", "complete")
SIGNALS = ("correct", "logit", "entropy", "modified_entropy")
ATTEMPTS = 3  # rounds of dispatch before a group that workers keep losing is given up


def run(experiment: Experiment, *, cluster=None, cache_dir=None, progress: bool = True) -> xr.Dataset:
    """Train the experiment's models, or load those that exist, and return all of them as `Runs`.

    cluster: None for this machine (a process a core with one torch thread each, or a process a GPU), a scheduler's address
    ("tcp://..."), a `distributed.Client` or a Dask cluster object. Workers share no files: groups travel back as arrays.
    cache_dir: folder of the stores; `SAMLIB_CACHE` or the user's cache folder if None.

    Returns an `xarray.Dataset` with dims model, example, test: `member`, `correct`, `logit`, `entropy`,
    `modified_entropy` (model, example); the signals with the prefix `test_` (model, test); `train_loss`,
    `train_accuracy`, `test_accuracy` (model,); coordinates `model`, `label`, `test_label`; provenance as attributes.
    Models that diverged are left out and named in a warning and in the attribute `diverged`.

    A killed run goes on where it stopped; a second process that asks for the same experiment waits for the first.
    Raises ValueError where all models diverged or the store is damaged or made with other data, OSError where the cache
    cannot be written, RuntimeError where the cluster is lost (what was finished is kept).
    """
    dataset = load_dataset(experiment.dataset, pool=experiment.pool)
    store = Store(Path(cache_dir or cache_folder()) / "runs", experiment, dataset)
    if store.missing():
        with store.locked(progress):
            store.prepare()
            if missing := store.missing():
                _train_missing(store, missing, cluster, progress)
    return store.open()


class Store:
    """The zarr folder of one experiment."""

    def __init__(self, folder: Path, experiment: Experiment, dataset: Dataset):
        self.folder, self.experiment, self.dataset = folder, experiment, dataset
        self.path = folder / f"{experiment.key}.zarr"
        self.log = folder / f"{experiment.key}.jsonl"
        self.group = group_size(experiment.model)

    @contextmanager
    def locked(self, progress: bool) -> Iterator[None]:
        """Hold the store for writing; the system frees it when the process ends, however it ends."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / f"{self.experiment.key}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if progress:
                    print(f"{self.experiment}: another process is training it; waiting.", file=sys.stderr, flush=True)
                lock.acquire()
        except OSError as error:
            raise OSError(f"The cache {self.folder} cannot be written ({error}); set SAMLIB_CACHE.") from None
        with lock:
            yield

    def missing(self) -> list[range]:
        """The groups of models that are asked for and not complete; the last may reach beyond `n_models`."""
        done = np.zeros(0, bool)
        if (self.path / "complete" / "zarr.json").exists():
            done = self._read(lambda: zarr.open_array(self.path / "complete", mode="r")[:])
        starts = range(0, self.experiment.n_models, self.group)
        return [range(s, s + self.group) for s in starts if not done[s : s + self.group].any()]

    def prepare(self) -> None:
        """Make the arrays, or lengthen them, and sweep up what a killed writer left. Needs the lock."""
        for left in self.path.rglob("*.partial"):
            left.unlink()
        n, t = len(self.dataset.y_train), len(self.dataset.y_test)
        k = -(-self.experiment.n_models // self.group) * self.group
        group = zarr.open_group(self.path, mode="a")
        layout = [("member", "example", n)]
        layout += [(s, "example", n) for s in SIGNALS] + [(f"test_{s}", "test", t) for s in SIGNALS]
        layout += [
            (name, None, 0) for name in (*PER_MODEL, *FLAGS)
        ]  # `complete` last: it is what says that all is there
        for name, dim, size in layout:
            if name in group:
                if group[name].shape[0] < k:
                    group[name].resize((k, *group[name].shape[1:]))
                continue
            boolean = name in ("member", "correct", "test_correct", *FLAGS)
            group.create_array(
                name,
                shape=(k, size) if dim else (k,),
                chunks=(self.group, size) if dim else (self.group,),
                dtype=bool if boolean else np.float32 if dim else np.float64,
                fill_value=False if boolean else np.nan,
                compressors=ZstdCodec(level=1, checksum=True),
                dimension_names=("model", dim) if dim else ("model",),
            )
        if "key" not in group.attrs:
            group.attrs.update(
                key=self.experiment.key,
                format=FORMAT,
                experiment=self.experiment.model_dump(mode="json", exclude={"n_models"}),
                data_checksum=self.dataset.checksum,
            )
        self._check(dict(group.attrs))

    def write(self, models: range, result: dict[str, np.ndarray], seconds: float, where: str) -> None:
        """One group, whole, then marked complete. Needs the lock."""
        group, rows = zarr.open_group(self.path, mode="r+"), slice(models.start, models.stop)
        for name, values in result.items():
            group[name][rows] = values
        group["complete"][rows] = True
        entry = {
            "models": [models.start, models.stop],
            "seconds": round(seconds, 3),
            "machine": where,
            "samlib": __version__,
        }
        with self.log.open("a") as log:
            log.write(json.dumps(entry | {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}) + "\n")

    def open(self) -> xr.Dataset:
        """The complete models asked for, without the diverged, in memory, checked against their own summaries."""
        runs = self._read(lambda: xr.open_zarr(self.path, consolidated=False, chunks=None).load())
        self._check(runs.attrs)
        runs = runs.isel(model=slice(self.experiment.n_models)).assign_coords(
            model=np.arange(self.experiment.n_models),
            label=("example", self.dataset.y_train),
            test_label=("test", self.dataset.y_test),
        )
        fine = ~runs["diverged"].values
        train = (runs["correct"].values & runs["member"].values).sum(1) / np.maximum(runs["member"].values.sum(1), 1)
        test = runs["test_correct"].values.mean(1)
        holes = [np.isnan(runs[name].values[fine]).any() for name in runs if runs[name].dtype.kind == "f"]
        if any(holes) or not (
            np.array_equal(train, runs["train_accuracy"]) and np.allclose(test, runs["test_accuracy"])
        ):
            raise self._damaged("its signals and its summaries disagree")
        diverged = np.flatnonzero(~fine).tolist()
        if diverged:
            named = ", ".join(map(str, diverged[:20])) + (", ..." if len(diverged) > 20 else "")
            said = f"{len(diverged)} of {len(fine)} models of {self.experiment} diverged and are left out: {named}."
            if not fine.any():
                raise ValueError(f"{said} Lower lr or rho, or train for longer.")
            warnings.warn(said, stacklevel=3)
        order = ["member", *SIGNALS, *(f"test_{name}" for name in SIGNALS), *PER_MODEL]
        runs = runs.isel(model=fine)[order]
        runs.attrs = self._attributes(diverged)
        return runs

    def _attributes(self, diverged: list[int]) -> dict:
        entries = [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []
        return {
            "experiment": self.experiment.model_dump_json(),
            "key": self.experiment.key,
            "classes": list(self.dataset.classes),
            "data_checksum": self.dataset.checksum,
            "data_source": self.dataset.source,
            "diverged": diverged,
            "seconds": round(sum(entry["seconds"] for entry in entries), 3),  # of one core or one GPU
            "machine": sorted({entry["machine"] for entry in entries}),
            "samlib": sorted({entry["samlib"] for entry in entries}),
            "store": str(self.path),
        }

    def _check(self, attributes: dict) -> None:
        if attributes.get("format") != FORMAT or attributes.get("key") != self.experiment.key:
            raise self._damaged(f"its format is {attributes.get('format')!r}, not {FORMAT}")
        if attributes["data_checksum"] != self.dataset.checksum:
            raise ValueError(
                f"The store {self.path} was made with other data than {self.dataset.name} now holds; "
                "delete it, or give the data set another name."
            )

    def _read(self, read):
        try:
            return read()
        except Exception as error:  # zarr and its codecs raise many kinds for a damaged file
            raise self._damaged(" ".join(str(error).split()) or type(error).__name__) from None

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(f"The store {self.path} is damaged ({reason.rstrip('.')}); delete that folder and run again.")


def _train_missing(store: Store, missing: list[range], cluster, progress: bool) -> None:
    """Train on the cluster, writing each group as it comes; groups that workers lost are sent again."""
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    experiment, dataset = store.experiment, store.dataset
    recipe, data, wanted = experiment.model_dump(), dataset.arrays(), sum(map(len, missing))
    bar = tqdm(
        total=wanted, desc=f"training {experiment}", unit="model", disable=not progress, smoothing=0, mininterval=1
    )
    try:
        with bar, _client(cluster, len(missing)) as client:
            bar.unpause()
            for _ in range(ATTEMPTS):
                # Scattered once: the data set travels to each worker, not with each task.
                on_workers = client.scatter(data, broadcast=True)
                sent = {client.submit(_train, recipe, on_workers, models, pure=False): models for models in missing}
                for future in as_completed(sent, loop=client.loop):
                    if future.status == "finished":
                        store.write(sent[future], *future.result())
                        bar.update(len(sent[future]))
                        future.release()
                    elif future.status == "error" and not isinstance(future.exception(), KilledWorker):
                        future.result()
                if not (missing := store.missing()):
                    return
    except (OSError, TimeoutError) as error:
        if getattr(error, "errno", None) is not None:
            raise OSError(f"{store.path} could not be written ({error}); what was finished is kept.") from None
        raise RuntimeError(
            f"The Dask scheduler was lost ({error}); run again to go on from what is finished."
        ) from None
    lost = ", ".join(f"{models.start} to {models.stop - 1}" for models in missing)
    raise RuntimeError(f"Workers were lost {ATTEMPTS} times at models {lost}; run again to go on from the rest.")


def _train(recipe: dict, data: dict, models: range):
    """One group on a worker."""
    import torch

    start, device = time.perf_counter(), _device()
    if device == "cpu":
        torch.set_num_threads(1)
    result = train_group(recipe, data, models, device)
    kind = torch.cuda.get_device_name() if device != "cpu" else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return result, time.perf_counter() - start, f"{platform.machine()} {kind}, torch {torch.__version__}"


def _device() -> str:
    import torch
    from distributed import get_worker

    gpus = torch.cuda.device_count()
    name = get_worker().name
    return "cpu" if not gpus else f"cuda:{name % gpus if isinstance(name, int) else 0}"


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
    import torch
    from distributed import Client, LocalCluster

    workers = torch.cuda.device_count() or getattr(os, "process_cpu_count", os.cpu_count)()
    main = sys.modules["__main__"]
    file = main.__dict__.pop("__file__", None)
    spec, main.__spec__ = getattr(main, "__spec__", None), None
    # Workers are spawned; hiding the main module keeps them from running a script that has no __main__ guard again.
    try:
        with (
            LocalCluster(
                n_workers=max(1, min(workers, n_tasks)),
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any free port
                silence_logs=logging.ERROR,
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
    finally:
        if file is not None:
            main.__file__ = file
        main.__spec__ = spec
