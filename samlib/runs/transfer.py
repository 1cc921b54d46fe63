"""Train on a machine that has torch and numpy and nothing else: jobs go there as files, groups of models come back as files.

There, `python -m samlib.training` trains (`samlib.training.files` has the formats); only the folder `samlib` has to be copied.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, log, prod
from os import PathLike
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from samlib.checks import as_number
from samlib.experiment import Experiment
from samlib.runs.store import Folder, Store, open_store
from samlib.training import Streams, summaries
from samlib.training.files import MB, decoded, described, entry, groups_of, opened, write_job

TEXT = 2**16  # bytes of a group's words
MOST = 2**24  # models of a store
Experiments = Experiment | Mapping[str, Experiment]
Group = tuple[range, dict[str, np.ndarray], float, str]  # models, arrays, seconds, machine


def export_job(experiments: Experiments, path: str | PathLike, *, max_mb: float = 60) -> Path:
    """Write a pair of experiments, or one, and their data as files for a bare machine.

    Parameters
    ----------
    experiments : Experiment or mapping of str to Experiment
        What to train, all on the same data.
    path : path
        The first file, such as job.npz. If one is not enough, job.2.npz, job.3.npz and so on follow beside it.
    max_mb : float
        The largest size of a file, in MB of 10^6 bytes.

    Returns
    -------
    pathlib.Path
        The first file.

    Raises
    ------
    ValueError
        If the experiments are not on the same data, and as `run` does.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     print(export_job(Experiment(dataset="digits"), f"{folder}/job.npz").name)
    job.npz
    """
    return write_parts(experiments, path, max_mb)[0]


def write_parts(experiments: Experiments, path: str | PathLike, max_mb: float = 60) -> list[Path]:
    """`export_job`, with the paths of all files."""
    max_mb = as_number("max_mb", max_mb, 0, strict=True)
    found = [experiments] if isinstance(experiments, Experiment) else list(experiments.values())
    datasets = {store.dataset.checksum: store.dataset for store in map(open_store, found)}
    if len(datasets) != 1:
        raise ValueError("experiments must be on the same data: write a job for each data set.")
    listed = [
        {"key": e.key, "name": str(e), "n_models": e.n_models, "recipe": e.model_dump(mode="json")} for e in found
    ]
    ((checksum, dataset),) = datasets.items()
    return write_job(path, {"experiments": listed, "checksum": checksum}, dataset.arrays(), int(max_mb * MB))


def import_group(experiment: Experiment, path: str | PathLike, *, cache_dir: Folder = None) -> range:
    """Put one group that was trained elsewhere into the experiment's store.

    Parameters
    ----------
    experiment : Experiment
        What was trained.
    path : path
        An `.npz` of `key`, `models` and what `train_group` returned, with `seconds` and `machine` if known. Or a pack of
        `python -m samlib.training`; then its last group counts.
    cache_dir : path, optional
        The folder of the stores, as for `run`.

    Returns
    -------
    range
        The indices of the models.

    Raises
    ------
    ValueError
        As `import_groups` does.

    Examples
    --------
    >>> import_group(Experiment(dataset="digits"), "/nowhere/group.npz")
    Traceback (most recent call last):
    ValueError: /nowhere/group.npz cannot be imported: No such file or directory.
    """
    return import_groups([path], [experiment], cache_dir=cache_dir)[-1][1]


def import_groups(
    paths: Iterable[str | PathLike], experiments: Sequence[Experiment] = (), *, cache_dir: Folder = None
) -> list[tuple[Experiment, range]]:
    """Put the groups of files into the stores of their experiments.

    The key, the data's checksum, and all shapes and types must be those of the experiment. The members are derived again and
    the summaries are computed again, and both must agree. A file is put in whole or not at all. A group that the store has
    already stays as it is.

    Parameters
    ----------
    paths : iterable of path
        Packs of `python -m samlib.training`, which say what they were trained for, or files as `import_group` takes them.
    experiments : sequence of Experiment
        Those that the groups may be of. They are needed for such files, and for a data set that has another path here.
    cache_dir : path, optional
        The folder of the stores, as for `run`.

    Returns
    -------
    list of (Experiment, range)
        The experiment of each group, and the indices of its models.

    Raises
    ------
    ValueError
        If anything differs; the message is one sentence. The files before that one are put in.

    Examples
    --------
    >>> import_groups([])
    []
    """
    stores: dict[str, Store] = {}
    found: list[tuple[Experiment, range]] = []
    given = {experiment.key: experiment for experiment in experiments}
    for path in paths:
        with opened(path, "cannot be imported") as file:
            names = groups_of(file) or [("", 0)]
            for name, start in names:
                if name not in stores or not name:
                    stores[name] = _store(file, name, given, cache_dir)
                _read(file, name, start, stores[name])
        for name, start in names:  # all are fine; each is read again, so that memory holds only one
            store = stores[name]
            with opened(path, "cannot be imported") as file:
                models, result, seconds, where = _read(file, name, start, store)
            store.experiment = store.experiment.but(n_models=max(store.experiment.n_models, models.stop))
            with store.locked(progress=True):
                store.prepare()
                if models in store.missing():
                    store.write(models, result, seconds, where)
            found.append((store.experiment, models))
    return found


def _store(file: ZipFile, name: str, given: Mapping[str, Experiment], cache_dir: Folder) -> Store:
    """The store of a pack's folder, or, without a name, of a file of one group."""
    if name:
        about = described(file, f"{name}/about")
        key, checksum, recipe = (about[field] for field in ("key", "checksum", "recipe"))
    else:
        key, checksum, recipe = str(entry(file, "key", TEXT)), "", {}
    if not (isinstance(key, str) and isinstance(checksum, str) and isinstance(recipe, dict)):
        raise ValueError("its description is no experiment's")
    if key not in given and (given or not name):
        raise ValueError(f"its key is {key}, not {' or '.join(given) or 'known'}; give the options of its experiment")
    experiment = given[key] if key in given else Experiment(**{**recipe, "n_models": 2})
    if experiment.key != key or name not in ("", f"{key}-{checksum[:16]}"):
        raise ValueError(f"its key is {key}, and this version of samlib would train {experiment.key}")
    store = open_store(experiment, cache_dir)
    if name and checksum != store.dataset.checksum:
        raise ValueError(f"it was trained on other data than {experiment.dataset} now holds")
    return store


def _read(file: ZipFile, name: str, start: int, store: Store) -> Group:
    """A group of the store. Raises ValueError if it is not one."""
    folder, size, names = f"{name}/{start}/" if name else "", store.group, file.namelist()
    indices = entry(file, f"{folder}models", TEXT).tolist()
    models = range(indices[0], indices[0] + size) if indices else range(0)
    if indices != list(models) or models.start % size or not 0 <= models.start < models.stop <= MOST:
        raise ValueError(f"models {indices[:9]} are not one whole group of {size}")
    result = {}
    for array, (dim, n, wanted) in store.layout.items():
        if array == "complete":
            continue
        shape, kind = (size, n) if dim else (size,), np.dtype(wanted)
        values = entry(file, folder + array, prod(shape) * 8)
        if name and dim:
            values = decoded(values, n)
        if values.shape != shape or values.dtype.kind != kind.kind or not np.can_cast(values.dtype, kind):
            raise ValueError(f"{array} is {values.dtype} {values.shape}, not {kind} {shape}")
        result[array] = values.astype(kind)  # a copy, which can be written to
    strategy = entry(file, f"{folder}strategy", TEXT * size)
    if strategy.shape != (size,) or strategy.dtype.kind != "U":
        raise ValueError("strategy is not a word for each model")
    _check(store, models, result)
    seconds = float(entry(file, f"{folder}seconds", TEXT)) if f"{folder}seconds.npy" in names else 0.0
    where = str(entry(file, f"{folder}machine", TEXT)) if f"{folder}machine.npy" in names else "imported"
    if not 0 <= seconds < inf:
        raise ValueError(f"seconds are {seconds}")
    return models, result | {"strategy": strategy}, seconds, where


def _check(store: Store, models: range, result: dict[str, np.ndarray]) -> None:
    """Raises ValueError unless members and summaries are those that follow from the seed and the signals."""
    experiment, y = store.experiment, store.dataset.y_train
    for side in ("", "test_"):
        correct, logit, entropy = (result[f"{side}{name}"] for name in ("correct", "logit", "entropy"))
        # p > 1/2 is correct, and no entropy is larger than that of equal p; up to rounding, and NaN passes
        if (~correct & (logit > 1e-3)).any() or (np.abs(entropy) > 1.001 * log(len(store.dataset.classes))).any():
            raise ValueError(f"its {side}signals contradict each other")
    member = np.stack([Streams(experiment.seed, k).member(len(y), experiment.subset_fraction) for k in models])
    if not np.array_equal(result["member"], member):
        raise ValueError("its members are not those that the seed gives")
    for i in range(len(models)):
        signals = {name: values[i] for name, values in result.items()}
        lost = [name for name in signals if signals[name].dtype.kind == "f" and np.isnan(signals[name]).any()]
        if lost and not signals["diverged"]:
            raise ValueError(f"it holds NaN in {lost[0]} of a model that is not marked as diverged")
        for name, value in summaries(signals, y, member[i]).items():
            if not np.isclose(value, signals[name], rtol=1e-6, equal_nan=True):
                raise ValueError(f"its signals and its summaries disagree: {name} is {signals[name]}, not {value}")
            result[name][i] = value  # to the last digit, which the store asks for
