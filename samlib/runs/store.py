"""The zarr folder of one experiment: written whole by group, checked, opened as xarray."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import xarray as xr
import zarr
from filelock import FileLock, Timeout
from zarr.codecs import ZstdCodec

from samlib import __version__
from samlib.data import Dataset, cache_folder, load_dataset
from samlib.experiment import FORMAT, Experiment
from samlib.models import build_model, image_shape
from samlib.training import group_size

PER_MODEL = ("train_loss", "train_accuracy", "test_accuracy")
FLAGS = ("diverged", "complete")
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)
SIGNALS = ("correct", "logit", "entropy", "modified_entropy")


def open_store(experiment: Experiment, cache_dir=None) -> Store:
    """The store of an experiment and its data; nothing is written yet.

    Raises ValueError where the data set cannot be loaded, or is none that the model or the augmentation can take.
    """
    dataset = load_dataset(experiment.dataset, pool=experiment.pool, image_size=experiment.image_size)
    check_takes(experiment, dataset.x_train.shape[1:], len(dataset.classes))
    return Store(cache_folder(cache_dir) / "runs", experiment, dataset)


def check_takes(experiment: Experiment, in_shape: tuple[int, ...], n_classes: int) -> None:
    """Raises ValueError where the experiment's model or its augmentation cannot take examples of a shape."""
    import torch

    with torch.device("meta"):
        build_model(experiment.model, in_shape, n_classes, hidden=experiment.hidden, norm=experiment.norm)
    if experiment.augment:
        try:
            image_shape(in_shape)
        except ValueError as error:
            raise ValueError(f"augment shifts and mirrors images: {error}") from None


class Store:
    """The zarr folder of one experiment and one data set: `<key>-<16 digits of the data's checksum>.zarr`.

    Without a data set, for plans, `paths` are all stores of the experiment, whatever data they were made with.
    """

    def __init__(self, folder: Path, experiment: Experiment, dataset: Dataset | None):
        self.folder, self.experiment, self.dataset = folder, experiment, dataset
        name = f"{experiment.key}-{dataset.checksum[:16] if dataset else '*'}"
        self.path, self.log, self.lock = (folder / f"{name}.{kind}" for kind in ("zarr", "jsonl", "lock"))
        self.paths = [self.path] if dataset else [*sorted(folder.glob(self.path.name)), *self._older()]
        self.group = group_size(experiment.model_dump())

    @contextmanager
    def locked(self, progress: bool, seconds: float = -1) -> Iterator[None]:
        """Hold the store for writing; the system frees it when the process ends, however it ends.

        seconds: how long to wait for another process; without end if negative. Then raises filelock's Timeout.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.lock)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if progress:
                    print(f"{self.experiment}: another process is training it; waiting.", file=sys.stderr, flush=True)
                lock.acquire(timeout=seconds)
        except Timeout:
            raise
        except OSError as error:
            raise OSError(f"The cache {self.folder} cannot be written ({error}); set SAMLIB_CACHE.") from None
        with lock:
            yield

    def missing(self) -> list[range]:
        """The groups of models that are asked for and not complete; the last may reach beyond `n_models`."""
        starts = range(0, self.experiment.n_models, self.group)
        every = [range(s, s + self.group) for s in starts]
        left = [every]
        for path in self.paths:
            if (path / "complete" / "zarr.json").exists():
                done = self._read(lambda path=path: zarr.open_array(path / "complete", mode="r")[:])
                left.append([group for group in every if not done[group.start : group.stop].any()])
        return min(left, key=len)

    def prepare(self) -> None:
        """Make the arrays, or lengthen them, and sweep up what a killed writer left. Needs the lock."""
        try:
            self._prepare()
        except OSError as error:
            raise OSError(f"The store {self.path} could not be written ({error}).") from None

    def _prepare(self) -> None:
        self._take_over()
        for left in self.path.rglob("*.partial"):
            left.unlink()
        k = -(-self.experiment.n_models // self.group) * self.group
        group = self._read(lambda: zarr.open_group(self.path, mode="a"))
        found = {}
        for name, dim, size in self._layout():
            found[name] = self._read(lambda name=name: group.get(name))
            if found[name] is not None:
                if found[name].shape[0] < k:
                    found[name].resize((k, *found[name].shape[1:]))
                continue
            boolean = name in ("member", "correct", "test_correct", *FLAGS)
            found[name] = group.create_array(
                name,
                shape=(k, size) if dim else (k,),
                chunks=(self.group, size) if dim else (self.group,),
                dtype=bool if boolean else np.float32 if dim else np.float64,
                fill_value=False if boolean else np.nan,
                compressors=ZstdCodec(level=1, checksum=True),
                dimension_names=("model", dim) if dim else ("model",),
            )
        if "key" not in group.attrs:
            about = self._about() | {"format": FORMAT, "data_checksum": self.dataset.checksum}
            group.attrs.update(about)
        self._check(dict(group.attrs))
        self.arrays = found  # kept open: to open them takes half as long as to write a group

    def _layout(self) -> list[tuple[str, str | None, int]]:
        """Name, dimension beside the models' and size of each array; `complete` last: it is what says that all is there."""
        sides = {"": ("example", len(self.dataset.y_train)), "test_": ("test", len(self.dataset.y_test))}
        signals = [(f"{side}{name}", *size) for side, size in sides.items() for name in SIGNALS]
        return [("member", *sides[""]), *signals, *((name, None, 0) for name in (*PER_MODEL, *FLAGS))]

    def _about(self) -> dict:
        return {"key": self.experiment.key, "experiment": self.experiment.hashed}

    def _older(self) -> list[Path]:
        """Stores of before their names had the data's checksum, and the key only the file name of a path."""
        fields = self.experiment.model_dump(mode="json", exclude={"n_models"})
        whole = hashlib.sha256(json.dumps([FORMAT, fields], sort_keys=True).encode()).hexdigest()[:16]
        paths = (self.folder / f"{key}.zarr" for key in dict.fromkeys((self.experiment.key, whole)))
        return [path for path in paths if path.exists()]

    def _take_over(self) -> None:
        """Give an older store of the same data its present name, so that nothing is trained twice."""
        for path in [] if self.path.exists() else self._older():
            with FileLock(path.with_suffix(".lock")), suppress(FileNotFoundError, ValueError, KeyError, TypeError):
                if json.loads((path / "zarr.json").read_text())["attributes"]["data_checksum"] == self.dataset.checksum:
                    zarr.open_group(path).attrs.update(self._about())
                    if (log := path.with_suffix(".jsonl")).exists():
                        log.rename(self.log)
                    path.rename(self.path)
                    return

    def write(self, models: range, result: dict[str, np.ndarray], seconds: float, where: str) -> None:
        """One group, whole, after `prepare`; how it was made goes to the log; then it is marked complete. Needs the lock."""
        result = dict(result)
        strategy = sorted(set(result.pop("strategy").tolist()))
        if not (self.path / "zarr.json").exists():
            raise RuntimeError(f"The store {self.path} was deleted while its models were trained; run again.")
        rows = slice(models.start, models.stop)
        for name, values in result.items():
            self.arrays[name][rows] = values
        entry = {
            "models": [models.start, models.stop],
            "seconds": round(seconds, 3),
            "machine": where,
            "strategy": strategy,
            "samlib": __version__,
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        with self.log.open("a") as log:
            log.write("\n" * self._torn() + json.dumps(entry) + "\n")
        self.arrays["complete"][rows] = True

    def _torn(self) -> bool:
        """Whether a full disk cut the log's last line short."""
        text = self.log.read_bytes() if self.log.exists() else b""
        return bool(text) and not text.endswith(b"\n")

    def _logged(self) -> list[dict]:
        """How each group that is asked for was made: its last entry, for one written before a kill was written again."""
        entries = {}
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            with suppress(json.JSONDecodeError):
                entry = json.loads(line)
                entries[entry["models"][0]] = entry
        return [entry for start, entry in sorted(entries.items()) if start < self.experiment.n_models]

    def open(self, models: Sequence[int] | None = None) -> xr.Dataset:
        """The models asked for, or those named, without the diverged, in memory, checked against their own summaries."""
        models = np.arange(self.experiment.n_models) if models is None else np.asarray(models)
        runs = self._read(lambda: self._opened(models.max() + 1))
        self._check(runs.attrs)
        runs = runs.isel(model=models).assign_coords(
            model=models,
            label=("example", self.dataset.y_train),
            test_label=("test", self.dataset.y_test),
        )
        if self.dataset.subclass_train is not None:
            runs = runs.assign_coords(
                subclass=("example", self.dataset.subclass_train), test_subclass=("test", self.dataset.subclass_test)
            )
        fine = ~runs["diverged"].values
        train = (runs["correct"].values & runs["member"].values).sum(1) / np.maximum(runs["member"].values.sum(1), 1)
        test = runs["test_correct"].values.mean(1)
        holes = [np.isnan(runs[name].values[fine]).any() for name in runs if runs[name].dtype.kind == "f"]
        if any(holes) or not (
            np.array_equal(train, runs["train_accuracy"]) and np.allclose(test, runs["test_accuracy"])
        ):
            raise self._damaged("its signals and its summaries disagree")
        diverged = models[~fine].tolist()
        if diverged:
            named = ", ".join(map(str, diverged[:20])) + (", ..." if len(diverged) > 20 else "")
            said = f"{len(diverged)} of {len(fine)} models of {self.experiment} diverged and are left out: {named}."
            if not fine.any():
                raise ValueError(f"{said} Lower lr or rho, or train for longer.")
            warnings.warn(said, stacklevel=3)
        order = ["member", *SIGNALS, *(f"test_{name}" for name in SIGNALS), *PER_MODEL]
        runs = runs.isel(model=fine)[order]
        runs.attrs = self._attributes(models, diverged)
        return runs

    def _opened(self, n: int) -> xr.Dataset:
        """The first n models of all arrays: more may just be made room for, array by array, or a kill has cut that short.

        By the arrays' names: a listing would warn of what file managers hide in the folder.
        """
        group = zarr.open_group(self.path, mode="r")
        dims = {name: ("model", dim) if dim else ("model",) for name, dim, _ in self._layout()}
        return xr.Dataset({name: (dims[name], group[name][:n]) for name in dims}, attrs=dict(group.attrs))

    def _attributes(self, models: np.ndarray, diverged: list[int]) -> dict:
        entries = [entry for entry in self._logged() if self._share(entry, models)]
        return {
            "experiment": self.experiment.model_dump_json(),
            "key": self.experiment.key,
            "classes": list(self.dataset.classes),
            "data_checksum": self.dataset.checksum,
            "data_source": self.dataset.source,
            "diverged": diverged,
            # of one core or one GPU
            "seconds": round(sum(self._share(entry, models) * entry["seconds"] for entry in entries), 3),
            "machine": sorted({entry["machine"] for entry in entries}),
            "strategy": sorted({said for entry in entries for said in entry["strategy"]}),
            "samlib": sorted({entry["samlib"] for entry in entries}),
            "store": str(self.path),
        }

    def _share(self, entry: dict, models: np.ndarray) -> float:
        """Of a group's models, those that are opened."""
        start, stop = entry["models"]
        return float(np.sum((models >= start) & (models < stop))) / (stop - start)

    def _check(self, attributes: dict) -> None:
        if attributes.get("format") != FORMAT or attributes.get("key") != self.experiment.key:
            raise self._damaged(f"its format is {attributes.get('format')!r}, not {FORMAT}")
        if attributes["data_checksum"] != self.dataset.checksum:
            raise self._damaged("its name and its data's checksum disagree")

    def _read(self, read):
        try:
            return read()
        except OSError as error:
            if error.errno in CANNOT_WRITE:
                raise
            raise self._damaged(" ".join(str(error).split())) from None
        except Exception as error:  # zarr and its codecs raise many kinds for a damaged file
            raise self._damaged(" ".join(str(error).split()) or type(error).__name__) from None

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(f"The store {self.path} is damaged ({reason.rstrip('.')}); delete that folder and run again.")
