"""`plan(experiments)`: what would be trained, what exists, how long the rest takes on this machine, and the disk that it needs.

Seconds are measured: a few real steps by `train_group`, after one to warm up, on random data of the set's shape, and an
evaluation, each extrapolated. So nothing is downloaded, decoded or written, and a set that is not at hand is planned alike.
"""

from __future__ import annotations

import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from math import ceil
from typing import NamedTuple

import numpy as np
import pandas as pd

from samlib.data import NAMES, Shape, cache_folder, shape_of
from samlib.experiment import Experiment
from samlib.runs import n_workers
from samlib.runs.store import FLAGS, PER_MODEL, SIGNALS, Store, check_takes
from samlib.training import at_once, group_size, train_group
from samlib.training.common import sizes, subset_size

SLOW = 0.5  # seconds that the first batch may take on a CPU; after more, smaller ones stand for the recipe's
FEW = 32  # examples of such a batch
PERIOD = 5  # steps of LookSAM of which one is dear
MEASURED = 0.5  # seconds of steps, and of evaluation, that are enough to measure

FETCHED = "not at hand; fetched before the first model is trained."


def plan(experiments: Iterable[Experiment], *, cache_dir=None, progress: bool = True) -> pd.DataFrame:
    """A row for each experiment, before anything runs: columns

    `dataset`, `model`, `optimizer`, `rho`, `fraction`; `models` that are asked for, those `there` already, and `to train`
    (whole groups); `seconds a model` on one worker, NaN where none is to train; `hours` on this machine's workers; `bytes`
    of the signals to come, which compression makes fewer; `note`, whether the data are to be fetched, which store was counted
    where one's own data may have changed since, or why the experiment cannot run, in which case the counts are missing.

    Experiments of one shape and recipe share a measurement. Raises ValueError where none of the experiments can run, or a
    store is damaged.
    """
    rows, measured, folder = [], {}, cache_folder(cache_dir) / "runs"
    for e in dict.fromkeys(experiments):
        named = {
            "dataset": e.dataset,
            "model": e.model,
            "optimizer": e.optimizer,
            "rho": e.rho,
            "fraction": e.subset_fraction,
        }
        try:
            shape = _shape(e)
        except ValueError as error:
            rows.append(named | {"note": str(error)})
            continue
        store = Store(folder, e, None)
        missing = store.missing()
        new = sum(map(len, missing))
        seconds = np.nan
        if missing:
            if (same := _alike(e, shape)) not in measured:
                if progress:
                    print(f"measuring {e} ...", file=sys.stderr, flush=True)
                measured[same] = probe(e, shape)
            seconds = measured[same].seconds(e, shape) / store.group
        rows.append(named | {
            "models": e.n_models,
            "there": e.n_models - sum(min(group.stop, e.n_models) - group.start for group in missing),
            "to train": new,
            "seconds a model": seconds,
            "hours": ceil(len(missing) / n_workers()) * store.group * seconds / 3600 if missing else 0.0,
            "bytes": new * bytes_a_model(shape),
            "note": _note(store, new, shape),
        })  # fmt: skip
    if rows and all("models" not in row for row in rows):
        raise ValueError(rows[0]["note"])
    return pd.DataFrame(rows)


def _note(store: Store, new: int, shape: Shape) -> str:
    """Whether data are to be fetched; of one's own data the checksum, which the store's name has, is not known yet."""
    if not shape.at_hand:
        return FETCHED
    if store.experiment.dataset in NAMES or not store.paths or new >= store.experiment.n_models:
        return ""
    other = f"; {len(store.paths)} stores have this key, and the fullest is counted" if store.paths[1:] else ""
    return f"counted as there if the data have not changed since{other}."


def in_words(frame: pd.DataFrame, *, cache_dir=None) -> str:
    """A plan as a table, its totals, and a line for each data set that is to be fetched or left out."""
    fits = frame[frame["models"].notna()]
    total = fits[["models", "there", "to train", "hours", "bytes"]].sum()
    counts = {name: [f"{n:.0f}" for n in (*fits[name], total[name])] for name in ("models", "there", "to train")}
    table = pd.DataFrame({
        **{name: [*fits[name], ""] for name in ("dataset", "model", "optimizer")},
        **{name: [*fits[name].map("{:g}".format), ""] for name in ("rho", "fraction")},
        **counts,
        "s a model": [*fits["seconds a model"].map(_seconds), ""],
        "time": [_time(hours) for hours in (*fits["hours"], total["hours"])],
        "disk": [_size(n) for n in (*fits["bytes"], total["bytes"])],
    })  # fmt: skip
    table.loc[len(fits), "dataset"] = "total"
    lines = [table.to_string(index=False), ""]
    if total["to train"]:
        home = cache_folder(cache_dir)
        free = shutil.disk_usage(next(path for path in (home, *home.parents) if path.exists())).free
        lines += [
            f"Time: about {_time(total['hours'])} on {_machine()}, by steps measured just now on one of them, with random data.",
            f"Disk: at most {_size(total['bytes'])} of signals, before compression, in {home}; {_size(free)} are free.",
        ]
    else:
        lines.append("Nothing is left to train.")
    said = frame["note"].where(frame["models"].notna(), "left out; " + frame["note"])
    for dataset, note in said[said != ""].groupby(frame["dataset"], sort=False).first().items():
        lines.append(f"{dataset}: {note}")
    return "\n".join(lines)


class Speed(NamedTuple):
    """Measured seconds of one group of models: of a `step`, of an `evaluated` example, and once (`fixed`)."""

    step: float
    evaluated: float
    fixed: float

    def seconds(self, experiment: Experiment, shape: Shape) -> float:
        """What a whole group takes."""
        steps = experiment.epochs * len(_sizes(experiment, shape))
        return self.fixed + steps * self.step + (shape.n_train + shape.n_test) * self.evaluated


def probe(experiment: Experiment, shape: Shape) -> Speed:
    """Measure one group on this machine's GPU, or on one core without; some seconds, most of them for large models."""
    import torch

    threads = torch.get_num_threads()
    recipe = experiment.model_dump() | {"lr": 1e-3, "subset_fraction": 0.5}  # noise is not to diverge
    batch = _sizes(experiment, shape)[0]
    if torch.cuda.device_count():
        return _probe_gpu(recipe, shape, batch, experiment.n_models)

    def seconds(examples: int, steps: int = 1, evaluated: int = 1) -> float:
        data = _noise(shape._replace(n_train=2 * examples, n_test=evaluated))
        start = time.process_time()  # of one thread: what else runs does not count
        train_group(recipe | {"epochs": steps}, data, range(group_size(recipe)))  # an epoch is a step
        return time.process_time() - start

    torch.set_num_threads(1)  # as a worker
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
    """As many models at once as a run would train, by their second run, which finds all captured."""
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
    """Seconds of one, from as many as take long enough to measure."""
    while (spent := seconds(n)) < MEASURED and n < most:
        n *= 4
    return max(spent, 0) / n


def bytes_a_model(shape: Shape) -> int:
    """What a store holds of one model, before compression."""
    signals = sum(1 if name == "correct" else 4 for name in SIGNALS)
    return shape.n_train * (1 + signals) + shape.n_test * signals + 8 * len(PER_MODEL) + len(FLAGS)


def _shape(e: Experiment) -> Shape:
    """What an experiment trains on, its pool instead of the whole training set. Raises ValueError as `run` would."""
    shape = shape_of(e.dataset, e.image_size)
    if e.pool is not None and e.pool > shape.n_train:
        raise ValueError(f"pool must lie in 2 to {shape.n_train}, the training examples of {e.dataset}, not {e.pool}.")
    check_takes(e, shape.example, shape.classes)
    return shape._replace(n_train=e.pool or shape.n_train)


def _sizes(e: Experiment, shape: Shape) -> list[int]:
    """Of an epoch's batches."""
    return sizes(subset_size(shape.n_train, e.subset_fraction), e.model_dump())


def _alike(e: Experiment, shape: Shape) -> tuple:
    """What a group's speed depends on."""
    fields = e.augment, e.model, e.hidden, e.norm, e.optimizer, e.rho > 0, e.m_sharpness, e.precision
    return *fields, _sizes(e, shape)[0], shape.example, shape.dtype


def _noise(shape: Shape) -> dict:
    """Random data of a shape, as `Dataset.arrays()`."""
    rng, data = np.random.default_rng(0), {"n_classes": shape.classes}
    for side, n in (("train", shape.n_train), ("test", shape.n_test)):
        x = rng.integers(0, 256 if shape.decoded else 2, (n, *shape.example), np.uint8)
        data |= {f"x_{side}": x.astype(shape.dtype), f"y_{side}": rng.integers(0, shape.classes, n)}
    channels = np.full(shape.example[-1], 0.5, np.float32)
    return data | ({"mean": channels, "std": channels} if shape.decoded else {})


def _machine() -> str:
    import torch

    if gpus := torch.cuda.device_count():
        return f"{gpus} {torch.cuda.get_device_name()}"
    return f"{n_workers()} cores ({platform.machine()}, {torch.backends.cpu.get_cpu_capability()})"


def _seconds(seconds: float) -> str:
    return "" if np.isnan(seconds) else f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _time(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min" if hours * 60 >= 1 else f"{3600 * hours:.0f} s"


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
