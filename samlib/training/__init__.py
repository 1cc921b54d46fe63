"""Train a group of models on one device: the hot loop. Knows nothing of files or clusters; needs torch and numpy alone.

Measured choice (tests/benchmarks): MLPs are trained stacked, K models as batched matrix products with the backward pass
written out (`samlib.training.stacked`); all else goes one at a time through autograd (`samlib.training.each`), where
channels-last and bfloat16 are what makes convolutional nets fast on a CPU. One thread a process in both cases. On a GPU, not
measured yet, the same groups are trained, and what goes through autograd is compiled.

A group can be trained where nothing but torch and numpy is installed (`python -m samlib.training --help`), and put into a
store later (`samlib.runs.import_group`).
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from samlib.signals import from_logits
from samlib.training import stacked
from samlib.training.common import Streams, cosine
from samlib.training.each import train_each
from samlib.training.stacked import Stack, train_stacked

__all__ = ["Stack", "Streams", "at_once", "cosine", "group_size", "machine", "summaries", "summarize", "train_each"]
__all__ += ["train_group", "train_stacked"]


def is_stacked(recipe: Mapping) -> bool:
    return recipe["model"] == "mlp" and recipe["optimizer"] in stacked.OPTIMIZERS and not recipe["augment"]


def group_size(recipe: Mapping) -> int:
    """How many models of a recipe make a group: the fastest stack on a CPU core, or one.

    Groups are always whole and aligned, [0, size), [size, 2 size), ...: kernels round by memory position, so only then is
    model k the same to the bit however many are asked for and whoever trains them.
    """
    return 8 if is_stacked(recipe) else 1


def at_once(recipe: Mapping, data: Mapping[str, np.ndarray], device: str, wanted: int) -> int:
    """How many models one call of `train_group` should take on a device: whole groups, and no more than `wanted` needs."""
    return group_size(recipe)


def machine(device: str) -> str:
    """The processor or GPU and the version of torch, in words."""
    kind = f"CPU {torch.backends.cpu.get_cpu_capability()}" if device == "cpu" else torch.cuda.get_device_name(device)
    return f"{platform.machine()} {kind}, torch {torch.__version__}"


def train_group(recipe: Mapping, data: Mapping[str, np.ndarray], models: Sequence[int], device: str = "cpu") -> dict:
    """Train the models of the given indices and return their signals on every example of the pool and of the test set.

    recipe: the fields of an `Experiment`. data: `Dataset.arrays()`: `x_train` (n, ...), `y_train` (n,), `x_test` (t, ...),
    `y_test` (t,), `n_classes`, and for uint8 images `mean` and `std`. Model k depends on (seed, k) alone: to the bit in the
    same group (`group_size`), to rounding in any other.

    Returns arrays with a leading axis over models: `member` (k, n) bool; `correct`, `logit`, `entropy` and
    `modified_entropy` (k, n); the same (k, t) with the prefix `test_`; `train_loss` (k,), the mean cross-entropy on the
    model's own subset, `train_accuracy`, `test_accuracy`; `diverged` (k,): NaN somewhere, or no better on its own
    subset than always guessing the commonest class; `strategy` (k,), how it was trained, in words.

    A group that is too large for the device's memory is trained in halves, and its strategy says so. Raises RuntimeError
    where a single model is too large.
    """
    try:
        return _train_group(recipe, data, models, device)
    except torch.OutOfMemoryError:
        if len(models) == 1:
            raise RuntimeError(
                f"One {recipe['model']} does not fit into the memory of {device} at batch_size {recipe['batch_size']}; "
                "lower that."
            ) from None
    # outside of the handler, whose traceback would keep the failed group's tensors alive
    half = len(models) // 2
    parts = [train_group(recipe, data, part, device) for part in (models[:half], models[half:])]
    result = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    result["strategy"] = np.array([f"{said}: out of memory with {len(models)}" for said in result["strategy"]])
    return result


def _train_group(recipe: Mapping, data: Mapping, models: Sequence[int], device: str) -> dict:
    train = train_stacked if is_stacked(recipe) else train_each
    y, y_test = (np.asarray(data[name]) for name in ("y_train", "y_test"))
    streams = [Streams(recipe["seed"], k) for k in models]
    members = np.stack([stream.member(len(y), recipe["subset_fraction"]) for stream in streams])
    logits, test_logits, strategy = train(recipe, data, streams, members, device)
    each = [
        summarize(on_pool, y, on_test, y_test, member)
        for on_pool, on_test, member in zip(logits, test_logits, members, strict=True)
    ]
    return {
        "member": members,
        **{name: np.stack([result[name] for result in each]) for name in each[0]},
        "strategy": np.array([f"{strategy}, {recipe['precision']}"] * len(members)),
    }


def summarize(logits, y, test_logits, y_test, member) -> dict:
    """One model's signals and summaries from its float32 logits (n, classes) and (t, classes)."""
    signals = _signals(logits, y) | {f"test_{name}": values for name, values in _signals(test_logits, y_test).items()}
    return signals | summaries(signals, y, member)


def summaries(signals: Mapping[str, np.ndarray], y: np.ndarray, member: np.ndarray) -> dict:
    """What follows from one model's signals: its loss, its accuracies, and whether it diverged."""
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


def _signals(logits: np.ndarray, y: np.ndarray) -> dict:
    if np.isfinite(logits).all():
        return from_logits(logits, y)
    # A lost model keeps NaN signals, so that nothing can average it in unseen; `correct` knows no NaN and is False.
    signals = from_logits(np.zeros_like(logits), y)
    return {name: np.full_like(values, False if values.dtype == bool else np.nan) for name, values in signals.items()}
