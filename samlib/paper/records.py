"""Records keep frames on disk: a reader sees them without training, and a page need not measure them twice.

A record is a folder. `about.json` has the provenance and a digest of every file; `<section>.<frame>.parquet` are the frames.
An optional `signals.zarr.zip` says which model was right on which example. It suffices to compute memorization and influence.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import zarr
from filelock import FileLock

from samlib import __version__
from samlib.audit import Pair, align
from samlib.checks import as_path
from samlib.data import NAMES, load_dataset
from samlib.data.files import sha256_of
from samlib.disk import in_a_sentence, whole
from samlib.experiment import Experiment
from samlib.paper.frames import Frames, Section
from samlib.runs.store import PER_MODEL

ABOUT, SIGNALS = "about.json", "signals.zarr.zip"
BOOLEANS = ("correct", "test_correct")
LABELS = ("label", "test_label", "subclass", "test_subclass")


def identity(experiments: Iterable[Experiment]) -> str:
    """A digest, 16 hex digits, of experiments and their numbers of models. Their order does not matter."""
    text = json.dumps(sorted({(e.key, e.n_models) for e in experiments}))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def provenance(runs: Iterable[xr.Dataset]) -> dict[str, Any]:
    """The provenance of runs, for a record: experiments, data, machines, time and version."""
    runs = {each.attrs["key"] + str(each.sizes["model"]): each for each in runs}.values()
    first = next(iter(runs)).attrs
    return {
        "experiments": [json.loads(each.attrs["experiment"]) for each in runs],
        "keys": [each.attrs["key"] for each in runs],
        "models": [each.sizes["model"] for each in runs],
        "diverged": [each.attrs["diverged"] for each in runs],
        "data_checksum": first["data_checksum"],
        "classes": list(first.get("classes", ())),
        "samlib": __version__,
        "machine": sorted({name for each in runs for name in each.attrs["machine"]}),
        "seconds": round(sum(each.attrs["seconds"] for each in runs), 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def save(
    folder: str | os.PathLike, frames: Mapping[str, Frames], about: Mapping[str, Any], signals: Pair | None = None
) -> Path:
    """Write frames, by section and name, as a record in `folder`, and return the record's path.

    Frames replace those of the same name in an existing record; its other frames stay. A killed process leaves the
    old record or the new one, whole.
    """
    experiments = [Experiment(**fields) for fields in about["experiments"]]
    name = Path(experiments[0].dataset).name
    others = sorted({e.optimizer for e in experiments} - {"sgd"})
    label = others[0] if len(others) == 1 else f"{len(experiments)}-settings"
    path = as_path("folder", folder) / f"{name}-{label}-{identity(experiments)}-{about['data_checksum'][:8]}"
    lock = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]  # not beside the record, which people keep
    with FileLock(Path(tempfile.gettempdir(), f"samlib-{lock}.lock")), whole(path) as partial:
        if path.exists():
            shutil.copytree(path, partial)
        partial.mkdir(exist_ok=True)
        for section, parts in frames.items():
            for frame, table in parts.items():
                table.to_parquet(partial / f"{section}.{frame}.parquet", compression="zstd")
        if signals is not None:
            _save_signals(partial / SIGNALS, signals)
        digests = {file.name: sha256_of(file) for file in sorted(partial.iterdir()) if file.name != ABOUT}
        (partial / ABOUT).write_text(json.dumps({**about, "files": digests}, indent=1, sort_keys=True) + "\n")
    return path


def find(folder: str | os.PathLike | None, experiments: Iterable[Experiment]) -> Path | None:
    """The record of these experiments in a folder, or None. If your own data are here, it must be a record of the same data."""
    if folder is None:
        return None
    experiments = list(experiments)
    paths = sorted(as_path("folder", folder).glob(f"*-{identity(experiments)}-*"))
    return next((path for path in paths if _is_record(path) and _of_its_data(path, experiments[0])), None)


def _is_record(path: Path) -> bool:
    """Whether a folder is a record, or was one until a writer was killed; one that is being written is none."""
    place = path.with_name(path.name.removesuffix(".replaced.partial"))
    return (path / ABOUT).exists() and (path.suffix != ".partial" or (place != path and not place.exists()))


def largest(folder: str | os.PathLike | None, experiments: Iterable[Experiment]) -> Path | None:
    """The record of these experiments that has the most models, with any seed; None if there is no record."""
    experiments, found = list(experiments), {}
    for path, about in records(folder).items():
        keys = {e.but(seed=about["experiments"][0]["seed"]).key for e in experiments}
        if keys == set(about["keys"]) and _of_its_data(path, experiments[0]):
            found[path] = min(about["models"])
    return max(found, key=lambda path: found[path], default=None)


def records(folder: str | os.PathLike | None) -> dict[Path, dict[str, Any]]:
    """All records in a folder: from the path of each to the contents of its `about.json`."""
    paths = sorted(path.parent for path in as_path("folder", folder).glob(f"*/{ABOUT}")) if folder else []
    return {path: read_about(path) for path in paths if _is_record(path)}


def read_about(path: Path) -> dict[str, Any]:
    """Read a record's `about.json`. Raises ValueError if it is damaged, or if this version would train other experiments."""
    with in_a_sentence(f"{path} is not a record (", "); record it again."):
        about = json.loads((path / ABOUT).read_text())
        same = [Experiment(**fields).key for fields in about["experiments"]] == about["keys"]
    if not same:
        raise ValueError(f"{path} was recorded from an experiment that this version would not train; record it again.")
    return about


def sections(about: Mapping[str, Any]) -> set[str]:
    """The names of the sections whose frames a record has. about: what `read_about` returns."""
    return {name.partition(".")[0] for name in about["files"] if name.endswith(".parquet")}


def of_section(folder: str | os.PathLike | None, section: str) -> Section:
    """The frames of a section in every record of a folder that has it, by data set; of several records, in the last."""
    having = {path: about for path, about in records(folder).items() if section in sections(about)}
    return Section({about["experiments"][0]["dataset"]: load(path, section) for path, about in having.items()})


def load(path: Path, section: str) -> Frames:
    """The frames of a section in a record; empty if it lacks the section. Raises ValueError if a file was changed."""
    digests = read_about(path)["files"]
    names = [name for name in digests if name.startswith(f"{section}.") and name.endswith(".parquet")]
    return {name.split(".")[1]: pd.read_parquet(_checked(path / name, digests)) for name in names}


def load_signals(path: Path) -> Pair:
    """The runs of a record as a pair: only `member`, `correct`, `test_correct`, and each model's loss and accuracies."""
    about = read_about(path)
    with zarr.storage.ZipStore(_checked(path / SIGNALS, about["files"]), mode="r") as store:
        kept = xr.open_zarr(store, consolidated=False).load()
    bits = {name: _unpacked(kept, name) for name in kept.data_vars if "byte" in kept[name].dims}
    bits |= {f"sam_{v}": bits[f"sam_{v}"] ^ bits[f"sgd_{v}"] for v in BOOLEANS}
    parts = {}
    for name, fields, key in zip(("sgd", "sam"), about["experiments"], about["keys"], strict=True):
        own = {v: bits[f"{name}_{v}"] for v in BOOLEANS} | {v: kept[f"{name}_{v}"] for v in PER_MODEL}
        attributes = {k: about[k] for k in ("data_checksum", "machine", "seconds", "date", "classes", "samlib")}
        attributes |= {"experiment": json.dumps(fields), "key": key, "diverged": []}
        parts[fields["optimizer"]] = xr.Dataset({"member": bits["member"], **own}, kept.coords, attributes)
    return align(parts)


def _save_signals(path: Path, pair: Pair) -> None:
    """Write the boolean signals with eight models in a byte. SAM's are stored as XOR with SGD's, which halves the file."""
    sgd, sam = pair[:2]
    arrays = {"member": sgd["member"]}
    for v in BOOLEANS:
        arrays |= {f"sgd_{v}": sgd[v], f"sam_{v}": sgd[v] ^ sam[v]}
    packed = {name: ((array.dims[1], "byte"), np.packbits(array.values.T, axis=1)) for name, array in arrays.items()}
    means = {f"{name}_{v}": ("model", runs[v].values) for name, runs in (("sgd", sgd), ("sam", sam)) for v in PER_MODEL}
    labels = {name: (sgd[name].dims, sgd[name].values.astype(np.int32)) for name in LABELS if name in sgd.coords}
    kept = xr.Dataset(packed | means, {"model": sgd.model.values} | labels)
    plain = {name: {"compressors": None, "chunks": array.shape} for name, array in kept.variables.items()}
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as packed_file:
        kept.to_zarr(folder, encoding=plain, consolidated=False)
        for file in sorted(Path(folder).rglob("*")):
            packed_file.write(file, file.relative_to(folder))


def _unpacked(kept: xr.Dataset, name: str) -> xr.DataArray:
    """A boolean signal (models, examples) of a record."""
    bits = np.unpackbits(kept[name].values, axis=1, count=kept.sizes["model"]).astype(bool).T
    return xr.DataArray(bits, dims=("model", kept[name].dims[0]))


def _checked(path: Path, digests: Mapping[str, str]) -> Path:
    if path.name not in digests or not path.exists():
        raise ValueError(f"{path.parent} has no {path.name}; record it again.")
    with in_a_sentence(f"{path} cannot be read (", "); record it again.", OSError):
        digest = sha256_of(path)
    if digest != digests[path.name]:
        raise ValueError(f"{path} was changed after it was recorded; record it again.")
    return path


def _of_its_data(path: Path, experiment: Experiment) -> bool:
    """Whether a record was made from the data that are here. True for data sets known by name, and if data cannot be loaded."""
    if experiment.dataset in NAMES:
        return True
    try:
        data = load_dataset(experiment.dataset, pool=experiment.pool, image_size=experiment.image_size)
    except (ValueError, OSError):
        return True
    return data.checksum.startswith(path.name.rpartition("-")[2])
