"""Runs as one small file each, for a reader who has no time to train them: what `run(..., recorded=folder)` looks for.

Masks as bits, logits and entropies in half precision, which moves a statistic in its fourth digit; the test points' entropies,
which nothing here reads, are left out.
"""

from __future__ import annotations

import hashlib
import json
import time
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from samlib.checks import as_path
from samlib.data import NAMES, load_dataset
from samlib.experiment import Experiment
from samlib.runs.store import PER_MODEL

BITS = {"member": "example", "correct": "example", "test_correct": "test"}
HALVES = {"logit": "example", "entropy": "example", "modified_entropy": "example", "test_logit": "test"}
LABELS = {"label": "example", "test_label": "test", "subclass": "example", "test_subclass": "test"}
ABOUT = (
    "experiment",
    "key",
    "classes",
    "data_checksum",
    "data_source",
    "diverged",
    "seconds",
    "machine",
    "strategy",
    "samlib",
)


def save_runs(runs: xr.Dataset, folder, signals: Sequence[str] = tuple(HALVES)) -> Path:
    """Write what `run` returned as a file into a folder; returns its path. signals: those of HALVES to keep."""
    arrays = {name: np.packbits(runs[name].values, axis=1) for name in BITS}
    arrays |= {name: _planes(runs[name].values.astype(np.float16)) for name in signals}
    arrays |= {name: runs[name].values for name in (*PER_MODEL, "model")}
    arrays |= {name: runs[name].values.astype(np.uint16) for name in LABELS if name in runs.coords}
    about = {name: runs.attrs[name] for name in ABOUT} | {"date": time.strftime("%Y-%m-%d", time.gmtime())}
    path = as_path("folder", folder) / f"{record_name(runs.attrs)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, about=json.dumps(about), digest=_digest(arrays, about), **arrays)
    return path


def record_name(about: Mapping) -> str:
    """The key, and for data of one's own a part of their checksum: other data may have the same key."""
    known = json.loads(about["experiment"])["dataset"] in NAMES
    return about["key"] if known else f"{about['key']}-{about['data_checksum'][:16]}"


def load_runs(experiment: Experiment, folder) -> xr.Dataset | None:
    """The recorded runs of an experiment, as `run` returns them, or None where the folder has none, or too few models.

    Data of one's own must be those of the record. Where they are not here, the only record under the key is taken.
    Raises ValueError, one sentence, for a file that is damaged or was changed.
    """
    home, key = as_path("folder", folder), experiment.key
    paths = [path for path in (home / f"{key}.npz", *home.glob(f"{key}-*.npz")) if path.exists()]
    found, checksum = {path: _read(path, key) for path in paths}, _checksum(experiment) if paths else None
    fitting = [path for path, (_, about) in found.items() if checksum in (None, about["data_checksum"])]
    if not fitting or (len(fitting) > 1 and checksum is None):
        return None
    path, (arrays, about) = fitting[-1], found[fitting[-1]]
    n_models = json.loads(about["experiment"])["n_models"]
    if n_models < experiment.n_models:
        return None
    sizes = {"example": len(arrays["label"]), "test": len(arrays["test_label"])}
    variables = {
        name: (("model", dim), np.unpackbits(arrays[name], axis=1, count=sizes[dim]).astype(bool))
        for name, dim in BITS.items()
    }
    kept = {name: dim for name, dim in HALVES.items() if name in arrays}
    variables |= {name: (("model", dim), _whole(arrays[name]).astype(np.float32)) for name, dim in kept.items()}
    variables |= {name: ("model", arrays[name]) for name in PER_MODEL}
    labels = {name: (dim, arrays[name].astype(np.int64)) for name, dim in LABELS.items() if name in arrays}
    attributes = about | {
        "experiment": experiment.model_dump_json(),
        "seconds": round(about["seconds"] * experiment.n_models / n_models, 3),
        "diverged": [k for k in about["diverged"] if k < experiment.n_models],
        "store": str(path),
    }
    runs = xr.Dataset(variables, {"model": arrays["model"]} | labels, attributes)
    return runs.sel(model=arrays["model"] < experiment.n_models)


def _checksum(experiment: Experiment) -> str | None:
    """Of data of one's own; None for data sets known by name, or where they are not here."""
    if experiment.dataset in NAMES:
        return None
    try:
        return load_dataset(experiment.dataset, pool=experiment.pool, image_size=experiment.image_size).checksum
    except (ValueError, OSError):
        return None


def _read(path: Path, key: str) -> tuple[dict[str, np.ndarray], dict]:
    """What a file holds: the arrays, and in words what they are of."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about, digest = json.loads(str(arrays.pop("about"))), str(arrays.pop("digest"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} holds no recorded runs ({error}); record them again.") from None
    if digest != _digest(arrays, about) or about["key"] != key:
        raise ValueError(f"{path} was changed after it was recorded; record it again.")
    return arrays, about


def _planes(values: np.ndarray) -> np.ndarray:
    """The low bytes, then the high ones, which compress better apart."""
    return np.ascontiguousarray(np.moveaxis(values.view(np.uint8).reshape(*values.shape, 2), -1, 0))


def _whole(planes: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(planes, 0, -1)).view(np.float16)[..., 0]


def _digest(arrays: dict[str, np.ndarray], about: dict) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.shape} {values.dtype}".encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
