"""The zarr folder of one experiment: written whole by group, checked, opened as xarray."""

from __future__ import annotations

import errno
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import ZstdCodec

from samlib import __version__
from samlib.data import Dataset, cache_folder, load_dataset
from samlib.disk import in_a_sentence, reason
from samlib.experiment import FORMAT, Experiment
from samlib.models import build_model, image_shape
from samlib.training import group_size

PER_MODEL = ("train_loss", "train_accuracy", "test_accuracy")
FLAGS = ("diverged", "complete")
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
Folder = str | PathLike | None
SIGNALS = ("correct", "logit", "entropy", "modified_entropy")


def open_store(experiment: Experiment, cache_dir: Folder = None) -> Store:
    """The store of an experiment and its data; nothing is written yet.

    Raises ValueError if the data set cannot be loaded, or the model or the augmentation cannot take it.
    """
    dataset = load_dataset(experiment.dataset, pool=experiment.pool, image_size=experiment.image_size)
    check_takes(experiment, dataset.x_train.shape[1:], len(dataset.classes))
    return Store(cache_folder(cache_dir) / "runs", experiment, dataset)


def check_takes(experiment: Experiment, in_shape: tuple[int, ...], n_classes: int) -> None:
    """Raise ValueError if the experiment's model or its augmentation cannot take examples of a shape."""
    with torch.device("meta"):
        build_model(experiment.model, in_shape, n_classes, hidden=experiment.hidden, norm=experiment.norm)
    if experiment.augment:
        with in_a_sentence("augment shifts and mirrors images: "):
            image_shape(in_shape)


def layout(n_train: int, n_test: int) -> dict[str, tuple[str, int, type]]:
    """For each array: its dimension besides models, that size, and its type. `complete` is last: it says that all is there."""
    found: dict[str, tuple[str, int, type]] = {"member": ("example", n_train, bool)}
    for side, dim, n in (("", "example", n_train), ("test_", "test", n_test)):
        for name in SIGNALS:
            found[f"{side}{name}"] = dim, n, bool if name == "correct" else np.float32
    return found | dict.fromkeys(PER_MODEL, ("", 1, np.float64)) | dict.fromkeys(FLAGS, ("", 1, bool))


def stores_of(folder: Path, experiment: Experiment) -> list[Path]:
    """All stores of an experiment, on any data."""
    return sorted(folder.glob(f"{experiment.key}-*.zarr"))


def missing_in(path: Path, experiment: Experiment) -> list[range]:
    """The groups of models that are asked for and not complete in a store; the last may reach beyond `n_models`."""
    size = group_size(experiment.model_dump())
    groups = [range(start, start + size) for start in range(0, experiment.n_models, size)]
    if not (path / "complete" / "zarr.json").exists():
        return groups
    with _reading(path):
        done = np.asarray(zarr.open_array(path / "complete", mode="r")[:])
    return [group for group in groups if not done[group.start : group.stop].any()]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any error of zarr and its codecs for a damaged file into one sentence that names the store."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in CANNOT_WRITE:
            raise
        raise damaged(path, reason(error)) from None


def damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"The store {path} is damaged ({why}); delete that folder and run again.")


class Store:
    """The zarr folder of one experiment and one data set: `<key>-<16 digits of the data's checksum>.zarr`.

    Parameters
    ----------
    folder : pathlib.Path
        The folder of the stores.
    experiment : Experiment
        What is trained.
    dataset : Dataset
        On what.
    """

    def __init__(self, folder: Path, experiment: Experiment, dataset: Dataset):
        self.folder, self.experiment, self.dataset = folder, experiment, dataset
        name = f"{experiment.key}-{dataset.checksum[:16]}"
        self.path, self.log, self.lock = (folder / f"{name}.{kind}" for kind in ("zarr", "jsonl", "lock"))
        self.group = group_size(experiment.model_dump())
        self.layout = layout(len(dataset.y_train), len(dataset.y_test))

    @contextmanager
    def locked(self, progress: bool, seconds: float = -1) -> Iterator[None]:
        """Hold the store for writing; the system frees it when the process ends, however it ends.

        seconds: how long to wait for another process, without end if negative. Then raises filelock's Timeout.
        """
        lock = FileLock(self.lock)
        with in_a_sentence(f"The cache {self.folder} cannot be written (", "); set SAMLIB_CACHE.", OSError, OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                lock.acquire(timeout=0)
        if not lock.is_locked:
            if progress:
                print(f"{self.experiment}: another process is training it; waiting.", file=sys.stderr, flush=True)
            lock.acquire(timeout=seconds)
        try:
            yield
        finally:
            lock.release()

    def missing(self) -> list[range]:
        """The groups of models that are asked for and not complete."""
        return missing_in(self.path, self.experiment)

    def prepare(self) -> None:
        """Make the arrays, or lengthen them, and remove what a killed writer left. Needs the lock."""
        k = -(-self.experiment.n_models // self.group) * self.group
        with in_a_sentence(f"The store {self.path} could not be written (", ").", OSError, OSError):
            for left in self.path.rglob("*.partial"):
                left.unlink()
            with _reading(self.path):
                group = zarr.open_group(self.path, mode="a")
                found = {name: array for name in self.layout if isinstance(array := group.get(name), zarr.Array)}
            for name, (dim, size, kind) in self.layout.items():
                shape, dims = ((k, size), ("model", dim)) if dim else ((k,), ("model",))
                if name not in found:
                    how: dict[str, Any] = {"dtype": kind, "fill_value": False if kind is bool else np.nan}
                    how |= {"dimension_names": dims, "compressors": ZstdCodec(level=1, checksum=True)}
                    found[name] = group.create_array(name, shape=shape, chunks=(self.group, *shape[1:]), **how)
                elif found[name].shape[0] < k:
                    found[name].resize(shape)
            if "key" not in group.attrs:
                about: dict[str, Any] = {"key": self.experiment.key, "experiment": self.experiment.hashed}
                group.attrs.update(about | {"format": FORMAT, "data_checksum": self.dataset.checksum})
            self._check(dict(group.attrs))
        self.arrays = found  # kept open: to open them takes half as long as to write a group

    def write(self, models: range, result: dict[str, np.ndarray], seconds: float, where: str) -> None:
        """Write one group whole, then how it was made to the log, then mark it complete. Needs the lock and `prepare`."""
        if not (self.path / "zarr.json").exists():
            raise RuntimeError(f"The store {self.path} was deleted while its models were trained; run again.")
        rows = slice(models.start, models.stop)
        for name, values in result.items():
            if name != "strategy":
                self.arrays[name][rows] = values
        entry = {
            "models": [models.start, models.stop],
            "seconds": round(seconds, 3),
            "machine": where,
            "strategy": sorted(set(result["strategy"].tolist())),
            "samlib": __version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        text = self.log.read_bytes() if self.log.exists() else b""
        with self.log.open("a") as log:  # a full disk may have cut the last line short
            log.write("\n" * (not text.endswith(b"\n") and text != b"") + json.dumps(entry) + "\n")
        self.arrays["complete"][rows] = True

    def open(self, models: Sequence[int] | None = None) -> xr.Dataset:
        """Load all models, or those named, without the diverged ones. Signals are checked against the models' summaries."""
        chosen = np.arange(self.experiment.n_models) if models is None else np.asarray(models)
        data = self.dataset
        labels: dict[str, Any] = {"label": ("example", data.y_train), "test_label": ("test", data.y_test)}
        if data.subclass_train is not None:
            labels |= {"subclass": ("example", data.subclass_train), "test_subclass": ("test", data.subclass_test)}
        with _reading(self.path):
            # Arrays may be longer, if a process was killed while it lengthened them. They are read by name, since a
            # listing would warn of files that file managers hide in the folder.
            attributes, arrays = dict(zarr.open_group(self.path, mode="r").attrs), {}
            for name, (dim, _, _) in self.layout.items():
                values = zarr.open_array(self.path / name, mode="r")[: chosen.max() + 1]
                arrays[name] = (("model", dim) if dim else ("model",), values)
            runs = xr.Dataset(arrays)
        self._check(attributes)
        runs = runs.isel(model=chosen).assign_coords(labels | {"model": chosen})
        fine = ~runs["diverged"].values
        train = (runs["correct"].values & runs["member"].values).sum(1) / np.maximum(runs["member"].values.sum(1), 1)
        test, floats = runs["test_correct"].values.mean(1), [v for v in runs.values() if v.dtype.kind == "f"]
        same = np.array_equal(train, runs["train_accuracy"]) and np.allclose(test, runs["test_accuracy"])
        if not same or any(np.isnan(v.values[fine]).any() for v in floats):
            raise damaged(self.path, "its signals and its summaries disagree")
        if diverged := chosen[~fine].tolist():
            named = ", ".join(map(str, diverged[:20])) + (", ..." if len(diverged) > 20 else "")
            said = f"{len(diverged)} of {len(fine)} models of {self.experiment} diverged and are left out: {named}."
            if not fine.any():
                raise ValueError(f"{said} Lower lr or rho, or train for longer.")
            warnings.warn(said, stacklevel=4)
        runs = runs.isel(model=fine).drop_vars(FLAGS)
        runs.attrs = self._attributes(chosen, diverged)
        return runs

    def _attributes(self, models: np.ndarray, diverged: list[int]) -> dict[str, Any]:
        entries = {}  # by group, the last one: after a kill, a group is written again
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            with suppress(json.JSONDecodeError):
                entry = json.loads(line)
                share = float(np.isin(range(*entry["models"]), models).mean())
                entries[entry["models"][0]] = entry | {"seconds": share * entry["seconds"], "share": share}
        made = [entries[start] for start in sorted(entries) if entries[start]["share"]]
        return {
            "experiment": self.experiment.model_dump_json(),
            "key": self.experiment.key,
            "classes": list(self.dataset.classes),
            "data_checksum": self.dataset.checksum,
            "data_source": self.dataset.source,
            "diverged": diverged,
            "seconds": round(sum(entry["seconds"] for entry in made), 3),  # of one core or one GPU
            "machine": sorted({entry["machine"] for entry in made}),
            "strategy": sorted({said for entry in made for said in entry["strategy"]}),
            "samlib": sorted({entry["samlib"] for entry in made}),
            "store": str(self.path),
        }

    def _check(self, attributes: dict) -> None:
        if attributes.get("format") != FORMAT or attributes.get("key") != self.experiment.key:
            raise damaged(self.path, f"its format is {attributes.get('format')!r}, not {FORMAT}")
        if attributes["data_checksum"] != self.dataset.checksum:
            raise damaged(self.path, "its name and its data's checksum disagree")
