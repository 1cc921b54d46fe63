"""Train on a machine that has torch and numpy and nothing else: a job goes there as one file, groups come back as files.

There, with samlib installed by `pip install --no-deps`:

    import json, numpy as np
    from samlib.training import group_size, train_group

    job = np.load("job.npz")
    recipe = json.loads(str(job["recipe"]))
    for start in range(0, 64, group_size(recipe)):
        models = range(start, start + group_size(recipe))
        np.savez(f"group-{start}.npz", key=job["key"], models=models, **train_group(recipe, job, models, "cuda"))
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np

from samlib.experiment import Experiment
from samlib.runs.store import FLAGS, PER_MODEL, SIGNALS, Store, open_store
from samlib.training import Streams


def export_job(experiment: Experiment, path: str | os.PathLike) -> Path:
    """Write an experiment and its data as one `.npz`, all that `train_group` needs. Raises ValueError as `run` does."""
    path = Path(path)
    store = open_store(experiment)
    np.savez(
        path,
        key=experiment.key,
        recipe=json.dumps(experiment.model_dump(mode="json")),
        **store.dataset.arrays(),
    )
    return path


def import_group(experiment: Experiment, path: str | os.PathLike, *, cache_dir=None) -> range:
    """Put a group that was trained elsewhere into the experiment's store, and return its models' indices.

    path: an `.npz` of `key`, `models` and what `train_group` returned; `seconds` and `machine` where it has them. The key,
    the shapes and types, the members (derived again) and the summaries (computed again) must be those of the experiment.
    A group that the store has already is left as it is. Raises ValueError, in one sentence, where anything differs.
    """
    store = open_store(experiment, cache_dir)
    try:
        with Path(path).open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not an .npz of a group: {error}.") from None
    try:
        models = _check(store, found)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is no group of {experiment}: {reason}.") from None
    result = {name: found[name] for name in ("member", *_shapes(store, 0), "strategy")}
    store.experiment = experiment.but(n_models=max(experiment.n_models, models.stop))
    with store.locked(progress=True):
        store.prepare()
        if models in store.missing():
            seconds, where = float(found.get("seconds", 0)), str(found.get("machine", "imported"))
            store.write(models, result, seconds, where)
    return models


def _shapes(store: Store, k: int) -> dict[str, tuple[tuple[int, ...], type]]:
    n, t = len(store.dataset.y_train), len(store.dataset.y_test)
    sides = {"": n, "test_": t}
    signals = {
        f"{side}{s}": ((k, size), bool if s == "correct" else np.floating)
        for side, size in sides.items()
        for s in SIGNALS
    }
    return signals | {name: ((k,), np.floating) for name in PER_MODEL} | {FLAGS[0]: ((k,), bool)}


def _check(store: Store, found: dict[str, np.ndarray]) -> range:
    experiment, size = store.experiment, store.group
    if str(found["key"]) != experiment.key:
        raise ValueError(f"its key is {found['key']}, not {experiment.key}")
    indices = np.asarray(found["models"]).tolist()
    models = range(indices[0], indices[0] + size) if indices else range(0)
    if indices != list(models) or models.start % size or models.start < 0:
        raise ValueError(f"models {indices[:9]} are not one whole group of {size}")
    for name, (shape, kind) in _shapes(store, size).items():
        if found[name].shape != shape or not np.issubdtype(found[name].dtype, kind):
            raise ValueError(f"{name} is {found[name].dtype} {found[name].shape}, not {kind.__name__} {shape}")
    if found["strategy"].shape != (size,) or found["strategy"].dtype.kind != "U":
        raise ValueError("strategy is not a word for each model")
    n = len(store.dataset.y_train)
    member = np.stack([Streams(experiment.seed, k).member(n, experiment.subset_fraction) for k in models])
    if not np.array_equal(found["member"], member):
        raise ValueError("its members are not those that the seed gives")
    train = (found["correct"] & member).sum(1) / member.sum(1)
    if not np.allclose(train, found["train_accuracy"]) or not np.allclose(
        found["test_correct"].mean(1), found["test_accuracy"]
    ):
        raise ValueError("its signals and its summaries disagree")
    fine = ~found["diverged"]
    if any(
        np.isnan(found[name][fine]).any() for name, (_, kind) in _shapes(store, size).items() if kind is np.floating
    ):
        raise ValueError("it holds NaN in models that are not marked as diverged")
    return models
