"""Train models on one device: the hot loop. Knows nothing of files or clusters; needs torch and numpy alone.

One step is written once, over tensors that stay in place (`samlib.training.common.Training`), in two forms, each chosen by
measurement (tests/benchmarks). MLPs are trained as a stack: K models as batched matrix products, with the backward pass
written out (`stacked`). All other models go through autograd, each by itself (`each`). A CPU takes the steps as they are, in
one thread a process. A GPU captures a step and replays it, for several models side by side (`captured`).

A group can be trained where nothing but torch and numpy is installed (`python -m samlib.training --help`), and put into a
store later (`samlib.runs.import_group`).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import torch

from samlib.signals import _from_tensors
from samlib.training import captured
from samlib.training.common import Streams, cosine, subset_size
from samlib.training.each import train_each
from samlib.training.stacked import Stack, is_stacked, train_stacked

AT_ONCE = 2**26  # logits whose signals are computed at once

__all__ = ["Stack", "Streams", "at_once", "cosine", "group_size", "machine", "summaries", "train_each"]
__all__ += ["train_group", "train_stacked"]


def group_size(recipe: Mapping) -> int:
    """How many models of a recipe make a group: the fastest stack on a CPU core, or one.

    Groups are always whole and aligned, [0, size), [size, 2 size), ...: kernels round by memory position, so only then is
    model k the same to the bit however many are asked for and whoever trains them.
    """
    return 8 if is_stacked(recipe) else 1


def at_once(recipe: Mapping, data: Mapping[str, np.ndarray], device: str, wanted: int) -> int:
    """How many models one call of `train_group` should take of `wanted` ones: whole groups, as many as are fastest.

    A CPU takes one group. A GPU is measured for some seconds, once a process for a recipe and what is paired with it.
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
    """The processor or GPU and the version of torch, in words."""
    kind = torch.cuda.get_device_name(device) if _is_gpu(device) else f"CPU {torch.backends.cpu.get_cpu_capability()}"
    return f"{platform.machine()} {kind}, torch {torch.__version__}"


def train_group(
    recipe: Mapping, data: Mapping[str, np.ndarray], models: Sequence[int], device: str = "cpu", wanted: int = 0
) -> dict:
    """Train the models of the given indices and return their signals on every example of the pool and of the test set.

    recipe: the fields of an `Experiment`. data: `Dataset.arrays()`: `x_train` (n, ...), `y_train` (n,), `x_test` (t, ...),
    `y_test` (t,), `n_classes`, and for uint8 images `mean` and `std`. models: one group (`group_size`) on a CPU; on a GPU as
    many as `at_once` says. wanted: how many models of the recipe this process will train in all, where that is more.

    Model k depends on (seed, k) alone. On a CPU it is the same to the bit in the same group, and to rounding in any other. On
    a GPU its subset, initial weights and order of examples are the same. The kernels there are chosen by measurement and
    add in any order, so weights differ by rounding, which grows with the length of training. Convolutions in float32 take
    TF32 there, and round to 10 bits, unless `torch.backends.cudnn.allow_tf32` is off.

    Returns arrays with a leading axis over models: `member` (k, n) bool; `correct`, `logit`, `entropy` and
    `modified_entropy` (k, n); the same (k, t) with the prefix `test_`; `train_loss` (k,), the mean cross-entropy on the
    model's own subset, `train_accuracy`, `test_accuracy`; `diverged` (k,): NaN somewhere, or no better on its own
    subset than always guessing the commonest class; `strategy` (k,), how it was trained, in words.

    A group that is too large for the device's memory is trained in halves, and its strategy says so. Raises RuntimeError
    where a single model is too large.
    """
    try:
        return _train_group(recipe, data, models, device, wanted)
    except torch.OutOfMemoryError:
        if len(models) == 1:
            raise RuntimeError(
                f"One {recipe['model']} does not fit into the memory of {device} at batch_size {recipe['batch_size']}; "
                "lower that."
            ) from None
    # outside of the handler, whose traceback would keep the failed group's tensors alive
    half = len(models) // 2
    parts = [train_group(recipe, data, part, device, wanted) for part in (models[:half], models[half:])]
    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    result["strategy"] = np.array([f"{said}: out of memory with {len(models)}" for said in result["strategy"]])
    return result


def _train_group(recipe: Mapping, data: Mapping, models: Sequence[int], device: str, wanted: int) -> dict:
    y, y_test = (np.asarray(data[name]) for name in ("y_train", "y_test"))
    streams = [Streams(recipe["seed"], k) for k in models]
    members = np.stack([stream.member(len(y), recipe["subset_fraction"]) for stream in streams])
    if _is_gpu(device):
        *logits, strategy = captured.train_captured(recipe, data, streams, members, device, wanted)
    else:
        train = train_stacked if is_stacked(recipe) else train_each
        *logits, strategy = train(recipe, data, streams, members, device)
    signals = {}
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
    """What follows from one model's signals, (n,) and (t,): its loss, its accuracies, and whether it diverged."""
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
    """Signals (k, n) of logits (k, n, c), computed where they lie.

    A lost model keeps NaN, so that nothing can average it in unseen; `correct` knows no NaN and is False.
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
