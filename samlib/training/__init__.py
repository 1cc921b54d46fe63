"""The hot loop: train models on one device. It needs torch and numpy alone, and knows no files and no clusters.

There are two trainers, chosen by measurement (tests/benchmarks). `stacked` trains K small MLPs at once, by batched
matrix products and a backward pass that is written out. `each` trains any other model, one at a time, by autograd. Both
keep their tensors in place (`common.Training`). A CPU runs the steps one by one, in one thread a process. A GPU captures
a step and replays it, for several models side by side (`captured`).

A machine with torch and numpy alone can train too: see `python -m samlib.training --help`. Then
`samlib.runs.import_group` puts the models into a store.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import ceil

import numpy as np
import torch

from samlib.signals import _from_tensors
from samlib.training import captured
from samlib.training.common import Streams, cosine, subset_size
from samlib.training.each import train_each
from samlib.training.stacked import Stack, is_stacked, train_stacked

AT_ONCE = 2**26  # the most logits that are turned into signals at once

__all__ = ["Stack", "Streams", "at_once", "cosine", "group_size", "machine", "summaries", "train_each"]
__all__ += ["train_group", "train_groups", "train_stacked"]


def group_size(recipe: Mapping) -> int:
    """The number of models in a group: the fastest stack on a CPU core, or one.

    Groups are whole and aligned: [0, size), [size, 2 size), and so on. How a kernel rounds depends on the position in
    memory. With fixed groups, model k has the same bits whoever trains it and however many models there are.

    Parameters
    ----------
    recipe : mapping
        The fields of an `Experiment`.

    Returns
    -------
    int

    Examples
    --------
    >>> group_size({"model": "mlp", "optimizer": "sam", "augment": False})
    8
    >>> group_size({"model": "cnn", "optimizer": "sam", "augment": False})
    1
    """
    return 8 if is_stacked(recipe) else 1


def at_once(recipe: Mapping, data: Mapping[str, np.ndarray], device: str, wanted: int) -> int:
    """The number of models that one call of `train_group` should train: whole groups.

    On a CPU this is one group. On a GPU the fastest number is measured. That takes some seconds, once in a process for a
    pair of recipes.

    Parameters
    ----------
    recipe, data, device
        As in `train_group`.
    wanted : int
        The number of models to train in all; the result is no more than that, in whole groups.

    Returns
    -------
    int

    Examples
    --------
    >>> at_once({"model": "mlp", "optimizer": "sgd", "augment": False}, {}, "cpu", wanted=100)
    8
    """
    size = group_size(recipe)
    if not _is_gpu(device):
        return size
    wanted = ceil(wanted / size) * size
    n = subset_size(len(data["y_train"]), recipe["subset_fraction"])
    waves = ceil(wanted / captured.strategy(recipe, data, n, device, wanted).at_once)
    return ceil(wanted / waves / size) * size


def _is_gpu(device: str) -> bool:
    return torch.device(device).type == "cuda"


def machine(device: str) -> str:
    """The processor or GPU, and the version of torch, in words.

    Parameters
    ----------
    device : str
        "cpu", "cuda" or "cuda:1".

    Returns
    -------
    str

    Examples
    --------
    >>> "CPU" in machine("cpu")
    True
    """
    kind = torch.cuda.get_device_name(device) if _is_gpu(device) else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.machine()} {kind}, torch {torch.__version__}"


def train_group(recipe: Mapping, data: Mapping, models: Sequence[int], device: str = "cpu", wanted: int = 0) -> dict:
    """Train models and return their signals on every example of the pool and of the test set.

    Parameters
    ----------
    recipe : mapping
        The fields of an `Experiment`.
    data : mapping
        As `Dataset.arrays()`: `x_train` (n, ...), `y_train` (n,), `x_test` (t, ...), `y_test` (t,), `n_classes`; for uint8
        images also `mean` and `std`, one number a channel.
    models : sequence of int
        The indices k of the models: one group (`group_size`) on a CPU, `at_once` models on a GPU.
    device : str
        "cpu", "cuda" or "cuda:1".
    wanted : int
        The number of models of this recipe that the process will train in all, if that is more.

    Returns
    -------
    dict of arrays, with a leading axis over the k models
        `member` (k, n) bool. `correct` bool, `logit`, `entropy` and `modified_entropy` float32, each (k, n). The same with
        the prefix `test_`, each (k, t). `train_loss` (k,), the mean cross-entropy on the model's own subset.
        `train_accuracy` and `test_accuracy` (k,). `diverged` (k,) bool: the model holds NaN, or on its own subset it is
        no better than always guessing the commonest class. `strategy` (k,), how it was trained, in words.

    Raises
    ------
    RuntimeError
        If the device's memory is too small for a single model. A group that is too large is trained in halves, and its
        `strategy` says so.

    Notes
    -----
    Model k depends on (seed, k) alone. On a CPU it has the same bits in the same group, and agrees to rounding in any
    other. On a GPU its subset, initial weights and order of examples are the same. GPU kernels are chosen by measurement
    and add in any order, so weights differ by rounding. The difference grows with the length of training. Float32
    convolutions use TF32 there, which rounds to 10 bits, unless `torch.backends.cudnn.allow_tf32` is off.

    Examples
    --------
    >>> from samlib import Experiment, load_dataset
    >>> recipe = Experiment(dataset="digits", optimizer="sam", hidden=(8,), epochs=1).model_dump()
    >>> data = load_dataset("digits").arrays()
    >>> result = train_group(recipe, data, models=range(8))
    >>> result["logit"].shape, str(result["strategy"][0])
    ((8, 1437), 'stacked 8, float32')
    """
    try:
        return _train_group(recipe, data, models, device, wanted)
    except torch.OutOfMemoryError:
        if len(models) == 1:
            model, size = recipe["model"], recipe["batch_size"]
            said = f"One {model} does not fit into the memory of {device} at batch_size {size}; lower that."
            raise RuntimeError(said) from None
    # not inside the handler: its traceback keeps the failed group's tensors alive
    half = len(models) // 2
    parts = [train_group(recipe, data, part, device, wanted) for part in (models[:half], models[half:])]
    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    result["strategy"] = np.array([f"{said}: out of memory with {len(models)}" for said in result["strategy"]])
    return result


def train_groups(recipe: Mapping, data: Mapping, groups: Sequence[range], device: str) -> tuple[list, float, str]:
    """Train whole groups together, as a worker does: on a CPU in one thread, since their number changes how sums round.

    Parameters
    ----------
    recipe, data, device
        As in `train_group`.
    groups : sequence of range
        The models of each group.

    Returns
    -------
    list of dict
        What `train_group` returns, for each group.
    float
        The seconds of all.
    str
        The `machine`.

    Examples
    --------
    >>> from samlib import Experiment, load_dataset
    >>> recipe = Experiment(dataset="digits", model="cnn", epochs=1, pool=20).model_dump()
    >>> results, seconds, where = train_groups(recipe, load_dataset("digits", pool=20).arrays(), [range(1)], "cpu")
    >>> results[0]["logit"].shape
    (1, 20)
    """
    if device == "cpu":
        torch.set_num_threads(1)
    start = time.perf_counter()
    result = train_group(recipe, data, [k for models in groups for k in models], device)
    seconds, cuts = time.perf_counter() - start, np.cumsum([0, *map(len, groups)])
    return [{name: v[a:b] for name, v in result.items()} for a, b in pairwise(cuts)], seconds, machine(device)


def _train_group(recipe: Mapping, data: Mapping, models: Sequence[int], device: str, wanted: int) -> dict:
    y, y_test = (np.asarray(data[name]) for name in ("y_train", "y_test"))
    streams = [Streams(recipe["seed"], k) for k in models]
    members = np.stack([stream.member(len(y), recipe["subset_fraction"]) for stream in streams])
    if _is_gpu(device):
        *logits, strategy = captured.train_captured(recipe, data, streams, members, device, wanted)
    else:
        train = train_stacked if is_stacked(recipe) else train_each
        *logits, strategy = train(recipe, data, streams, members, device)
    signals: dict[str, np.ndarray] = {}
    for side, z, labels in zip(("", "test_"), logits, (y, y_test), strict=True):
        signals |= {f"{side}{name}": values for name, values in _signals(z, labels).items()}
    each = [summaries({name: v[k] for name, v in signals.items()}, y, member) for k, member in enumerate(members)]
    return {
        "member": members,
        **signals,
        **{name: np.stack([summary[name] for summary in each]) for name in each[0]},
        "strategy": np.array([f"{strategy}, {recipe['precision']}"] * len(members)),
    }


def summaries(signals: Mapping[str, np.ndarray], y: np.ndarray, member: np.ndarray) -> dict:
    """Summarize one model: its loss, its accuracies, and whether it diverged.

    Parameters
    ----------
    signals : mapping of arrays
        `correct` and `logit` (n,); `test_correct` and `test_logit` (t,).
    y : (n,) int
        Labels of the pool.
    member : (n,) bool
        The model's subset.

    Returns
    -------
    dict
        `train_loss`, `train_accuracy`, `test_accuracy` and `diverged`, as `train_group` defines them.

    Examples
    --------
    >>> right, logit = np.array([True, True, False, True]), np.array([2.0, 1.0, -1.0, 3.0])
    >>> signals = {"correct": right, "logit": logit, "test_correct": right[:2], "test_logit": logit[:2]}
    >>> found = summaries(signals, y=np.array([0, 1, 0, 1]), member=right)
    >>> float(found["train_accuracy"]), round(float(found["train_loss"]), 3), bool(found["diverged"])
    (1.0, 0.163, False)
    """
    accuracy, commonest = signals["correct"][member].mean(), np.bincount(y[member]).max() / member.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        loss = np.logaddexp(0, -signals["logit"][member].astype(np.float64)).mean()
    lost = np.isnan(signals["logit"]).any() or np.isnan(signals["test_logit"]).any()
    return {
        "train_loss": loss,
        "train_accuracy": accuracy,
        "test_accuracy": signals["test_correct"].mean(),
        "diverged": lost or accuracy <= commonest,
    }


def _signals(logits: torch.Tensor, y: np.ndarray) -> dict[str, np.ndarray]:
    """Signals (k, n) of logits (k, n, c), computed on their device.

    A model with NaN logits gets NaN signals, so no mean can hide it. Its `correct` is False, since a bool cannot be NaN.
    """
    labels, parts = torch.tensor(y, device=logits.device), []
    for part in logits.split(max(1, AT_ONCE // logits[0].numel())):
        lost = ~part.isfinite().all(-1).all(-1)
        part = torch.where(lost[:, None, None], 0, part)
        found = _from_tensors(part, labels.expand(part.shape[:2]))
        for name, values in found.items():
            values[lost] = False if name == "correct" else torch.nan
        parts.append({name: values.cpu().numpy() for name, values in found.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
