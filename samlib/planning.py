"""`plan(experiments)`: how many models would be trained, how many exist, and the time and disk that the rest takes here.

Seconds are measured by a few real steps of `train_group` and an evaluation, on random data of the set's shape. So nothing
is downloaded, decoded or written, and data that are not here are planned alike.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from samlib.data import NAMES, Shape, cache_folder, shape_of
from samlib.experiment import Experiment
from samlib.runs import n_workers
from samlib.runs.store import check_takes, layout, missing_in, stores_of
from samlib.training import at_once, group_size, machine, train_group
from samlib.training.common import sizes, subset_size

SLOW = 0.5  # seconds that the first batch may take on a CPU; if it takes longer, smaller batches are measured
FEW = 32  # examples of such a batch
PERIOD = 5  # LookSAM takes one expensive step in so many
MEASURED = 0.5  # seconds of steps, and of evaluation, that are enough to measure
COUNTED = ("models", "there", "to train", "hours", "bytes")


def plan(experiments: Iterable[Experiment], *, cache_dir: Any = None, progress: bool = True) -> pd.DataFrame:
    """Say what experiments would take, before anything runs.

    Parameters
    ----------
    experiments : iterable of Experiment
        Those of one shape and recipe share a measurement, which takes some seconds.
    cache_dir : path, optional
        The folder of the stores, as for `samlib.run`.
    progress : bool
        Whether to print which experiment is measured.

    Returns
    -------
    pandas.DataFrame
        A row for each experiment. `dataset`, `model`, `optimizer`, `rho` and `fraction` describe it. `models` are those
        that it asks for; of these some are `there`, and some `to train`, in whole groups. `seconds a model` is on one
        worker, NaN if none is to train. `hours` is on this machine's workers. `bytes` is the size of the signals before
        compression. The `note` says whether data are to be downloaded, or which store was counted if the data may have
        changed since. For an experiment that cannot run, it says why; then there are no numbers.

    Raises
    ------
    ValueError
        If none of the experiments can run, or a store is damaged.

    Examples
    --------
    >>> frame = plan([Experiment(dataset="digits", epochs=1, hidden=(8,), n_models=8)], cache_dir="/tmp/none", progress=False)
    >>> frame[["dataset", "models", "there", "to train", "bytes"]].values.tolist()
    [['digits', 8, 0, 8, 198592]]
    """
    rows, measured, folder, known = [], {}, cache_folder(cache_dir) / "runs", cache(shape_of)
    for e in dict.fromkeys(experiments):
        row = e.model_dump(include={"dataset", "model", "optimizer", "rho"}) | {"fraction": e.subset_fraction}
        rows.append(row)
        try:
            shape = _shape(e, known(e.dataset, e.image_size))
        except ValueError as error:
            row["note"] = str(error)
            continue
        stores, size = stores_of(folder, e), group_size(e.model_dump())
        missing = min((missing_in(path, e) for path in (folder / "none", *stores)), key=len)
        new, seconds = len(missing) * size, np.nan
        if missing:
            if (same := _alike(e, shape)) not in measured:
                if progress:
                    print(f"measuring {e} ...", file=sys.stderr, flush=True)
                measured[same] = probe(e, shape)
            seconds = measured[same].seconds(e, shape) / size
        row |= {
            "models": e.n_models,
            "there": e.n_models - sum(min(group.stop, e.n_models) - group.start for group in missing),
            "to train": new,
            "seconds a model": seconds,
            "hours": ceil(len(missing) / n_workers()) * size * seconds / 3600 if missing else 0.0,
            "bytes": new * bytes_a_model(shape),
            "note": _note(len(stores), e, new, shape),
        }
    if rows and all("models" not in row for row in rows):
        raise ValueError(rows[0]["note"])
    return pd.DataFrame(rows)


def in_words(frame: pd.DataFrame, *, cache_dir: Any = None) -> str:
    """Write a plan as text.

    Parameters
    ----------
    frame : pandas.DataFrame
        What `plan` returned.
    cache_dir : path, optional
        The folder of the stores, whose disk is measured.

    Returns
    -------
    str
        A table, its totals, and a line for each data set that is to be downloaded or left out.

    Examples
    --------
    >>> said = in_words(pd.DataFrame([{"dataset": "cifar10", "note": "there is no such file."}]).assign(
    ...     **dict.fromkeys(["model", "optimizer"], ""), **dict.fromkeys(["rho", "fraction", *COUNTED], np.nan)))
    >>> said.splitlines()[-1]
    'cifar10: left out; there is no such file.'
    """
    from dask.utils import format_bytes, format_time

    def spent(hours: float) -> str:
        return format_time(3600 * hours) if hours else ""

    fits = frame[frame["models"].notna()].astype({"rho": float})  # SGD has none
    total = fits[[*COUNTED]].sum()
    shown: dict[str, Callable] = dict.fromkeys(("rho", "fraction"), "{:g}".format)
    shown |= dict.fromkeys(COUNTED[:3], "{:.0f}".format) | {"a model": format_time, "time": spent, "disk": format_bytes}
    table = pd.concat([fits, pd.DataFrame([{"dataset": "total", **total, "seconds a model": np.nan}])])
    table = table.rename(columns={"seconds a model": "a model", "hours": "time", "bytes": "disk"})
    columns = ["dataset", "model", "optimizer", *shown]
    lines = [table.to_string(index=False, columns=columns, formatters=shown, na_rep=""), ""]
    if total["to train"]:
        home = cache_folder(cache_dir)
        free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
        device = "cuda" if torch.cuda.is_available() else "cpu"
        lines += [
            f"Time: about {spent(total['hours'])} on {n_workers()} workers ({machine(device)}), by steps measured just now "
            "on one of them, with random data.",
            f"Disk: at most {format_bytes(total['bytes'])} of signals, before compression, in {home}; {format_bytes(free)} free.",
        ]
    else:
        lines.append("Nothing is left to train.")
    said = frame["note"].where(frame["models"].notna(), "left out; " + frame["note"])
    first = said[said != ""].groupby(frame["dataset"], sort=False).first()
    return "\n".join([*lines, *(f"{name}: {note}" for name, note in first.items())])


class Speed(NamedTuple):
    """Measured seconds of one group of models.

    Attributes
    ----------
    step : float
        Of one step.
    evaluated : float
        Of the evaluation of one example.
    fixed : float
        Of everything that a group does once.

    Examples
    --------
    >>> digits = Experiment(dataset="digits", epochs=1, subset_fraction=0.5)  # 12 steps, 1,797 examples
    >>> Speed(step=1.0, evaluated=0.01, fixed=2.0).seconds(digits, shape_of("digits"))
    31.97
    """

    step: float
    evaluated: float
    fixed: float

    def seconds(self, experiment: Experiment, shape: Shape) -> float:
        """Return the seconds of a whole group."""
        steps = experiment.epochs * len(_sizes(experiment, shape))
        return self.fixed + steps * self.step + (shape.n_train + shape.n_test) * self.evaluated


def probe(experiment: Experiment, shape: Shape) -> Speed:
    """Measure the speed of one group on this machine's GPU, or on one core if it has none.

    Parameters
    ----------
    experiment : Experiment
        What to train. It takes some seconds, most of them for large models.
    shape : Shape
        The shape of its data, which are random.

    Returns
    -------
    Speed
        The measured seconds.

    Examples
    --------
    >>> probe(Experiment(dataset="digits", hidden=(8,), batch_size=8), shape_of("digits")).step > 0
    True
    """
    threads = torch.get_num_threads()
    recipe = experiment.model_dump() | {"lr": 1e-3, "subset_fraction": 0.5}  # noise must not diverge
    batch = _sizes(experiment, shape)[0]
    if torch.cuda.device_count():
        return _probe_gpu(recipe, shape, batch, experiment.n_models)

    def seconds(examples: int, steps: int = 1, evaluated: int = 1) -> float:
        data = _noise(shape._replace(n_train=2 * examples, n_test=evaluated))
        start = time.process_time()  # of one thread, so that other processes do not count
        train_group(recipe | {"epochs": steps}, data, range(group_size(recipe)))  # an epoch is a step
        return time.process_time() - start

    torch.set_num_threads(1)  # as in a worker
    try:
        few = min(batch, FEW)
        slow = seconds(few) > SLOW
        examples = few if slow else batch
        once = seconds(examples) if slow else min(seconds(examples), seconds(examples))
        first = PERIOD if experiment.optimizer == "looksam" else 1
        step = _slope(lambda n: seconds(examples, steps=1 + n) - once, first, 4**5)
        evaluated = _slope(lambda n: seconds(examples, evaluated=1 + n) - once, FEW, 4**4 * FEW)
    finally:
        torch.set_num_threads(threads)
    fixed = max(once - step - (2 * examples + 1) * evaluated, 0)
    return Speed(step * batch / examples, evaluated, fixed)


def _probe_gpu(recipe: dict, shape: Shape, batch: int, wanted: int) -> Speed:
    """Train as many models at once as a run would. The second run is measured, because the first one captures."""
    steps = 20
    data = _noise(shape._replace(n_train=2 * steps * batch, n_test=1))
    models = range(at_once(recipe, data, "cuda:0", wanted))
    groups = len(models) / group_size(recipe)

    def seconds(epochs: int) -> float:
        for _ in range(2):
            start = time.perf_counter()
            train_group(recipe | {"epochs": epochs}, data, models, "cuda:0", wanted)
        return (time.perf_counter() - start) / groups

    once = seconds(1)
    step = max(seconds(5) - once, 0) / (4 * steps)
    return Speed(step, max(once - steps * step, 0) / (2 * steps * batch), 0.0)


def _slope(seconds: Callable[[int], float], n: int, most: int) -> float:
    """The seconds for one, measured on as many as take long enough."""
    while (spent := seconds(n)) < MEASURED and n < most:
        n *= 4
    return max(spent, 0) / n


def bytes_a_model(shape: Shape) -> int:
    """Return the bytes that a store holds of one model before compression.

    Examples
    --------
    >>> bytes_a_model(shape_of("digits"))
    24824
    """
    arrays = layout(shape.n_train, shape.n_test).values()
    return sum(size * np.dtype(kind).itemsize for _, size, kind in arrays)


def _shape(e: Experiment, shape: Shape) -> Shape:
    """The shape of what an experiment trains on, a pool of the whole. Raises ValueError as `run` would."""
    if e.pool is not None and e.pool > shape.n_train:
        raise ValueError(f"pool must lie in 2 to {shape.n_train}, the training examples of {e.dataset}, not {e.pool}.")
    check_takes(e, shape.example, shape.classes)
    return shape._replace(n_train=e.pool or shape.n_train)


def _note(stores: int, e: Experiment, left: int, shape: Shape) -> str:
    """Whether data are to be downloaded. Your own data may have changed, because a plan does not read them."""
    if not shape.at_hand:
        return "not at hand; fetched before the first model is trained."
    if e.dataset in NAMES or not stores or left >= e.n_models:
        return ""
    other = f"; {stores} stores have this key, and the fullest is counted" if stores > 1 else ""
    return f"counted as there if the data have not changed since{other}."


def _sizes(e: Experiment, shape: Shape) -> list[int]:
    """The sizes of an epoch's batches."""
    return sizes(subset_size(shape.n_train, e.subset_fraction), e.model_dump())


def _alike(e: Experiment, shape: Shape) -> tuple:
    """What a group's speed depends on."""
    fields = e.augment, e.model, e.hidden, e.norm, e.optimizer, e.rho > 0, e.m_sharpness, e.precision
    return *fields, _sizes(e, shape)[0], shape.example, shape.dtype


def _noise(shape: Shape) -> dict[str, Any]:
    """Random data of a shape, as `Dataset.arrays()`."""
    data: dict[str, Any] = {"n_classes": shape.classes}
    rng = np.random.default_rng(0)
    for side, n in (("train", shape.n_train), ("test", shape.n_test)):
        x = rng.integers(0, 256 if shape.decoded else 2, (n, *shape.example), np.uint8)
        data |= {f"x_{side}": x.astype(shape.dtype), f"y_{side}": rng.integers(0, shape.classes, n)}
    moments = dict.fromkeys(("mean", "std") if shape.decoded else (), np.full(shape.example[-1], 0.5, np.float32))
    return data | moments
