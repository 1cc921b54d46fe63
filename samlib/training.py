"""Train a group of models on one device: the hot loop. Knows nothing of files or clusters; needs torch and numpy alone.

Measured choice (see tests/benchmarks/bench_training.py): MLPs are trained stacked, K models as batched matrix products
with the backward pass written out; every other model goes one at a time through autograd.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, cos, pi

import numpy as np
import torch
from torch import nn

from samlib.models import build_model
from samlib.optim import SAM
from samlib.signals import from_logits

STACKED = ("mlp",)


def group_size(model: str) -> int:
    """How many models of an architecture make a group: the fastest stack on a CPU core, or one.

    Groups are always whole and aligned, [0, size), [size, 2 size), ...: kernels round by memory position, so only then is
    model k the same to the bit however many are asked for and whoever trains them.
    """
    return 8 if model in STACKED else 1


def train_group(recipe: Mapping, data: Mapping[str, np.ndarray], models: Sequence[int], device: str = "cpu") -> dict:
    """Train the models of the given indices and return their signals on every example of the pool and of the test set.

    recipe: the fields of an `Experiment`. data: `x_train` (n, ...), `y_train` (n,), `x_test` (t, ...), `y_test` (t,) and
    `n_classes`. Model k depends on (seed, k) alone: to the bit in the same group (`group_size`), to rounding in any other.

    Returns arrays with a leading axis over models: `member` (k, n) bool; `correct`, `logit`, `entropy` and
    `modified_entropy` (k, n); the same (k, t) with the prefix `test_`; `train_loss` (k,), the mean cross-entropy on the
    model's own subset, `train_accuracy`, `test_accuracy`; `diverged` (k,): NaN somewhere, or no better on its own
    subset than always guessing the commonest class.
    """
    train = train_stacked if recipe["model"] in STACKED else train_each
    y = np.asarray(data["y_train"])
    streams = [Streams(recipe["seed"], k) for k in models]
    members = np.stack([stream.member(len(y), recipe["subset_fraction"]) for stream in streams])
    logits, test_logits = train(recipe, data, streams, members, device)
    each = [
        summarize(on_pool, y, on_test, np.asarray(data["y_test"]), member)
        for on_pool, on_test, member in zip(logits, test_logits, members, strict=True)
    ]
    return {"member": members, **{name: np.stack([result[name] for result in each]) for name in each[0]}}


class Streams:
    """All that is random about model k of an experiment, from (seed, k) alone: its subset, initial weights, batch order."""

    def __init__(self, seed: int, k: int):
        sequence = [np.random.SeedSequence([seed, k, purpose]) for purpose in range(3)]
        self._subset, self._order = np.random.default_rng(sequence[0]), np.random.default_rng(sequence[1])
        self._init = int(sequence[2].generate_state(1, np.uint64)[0])

    def member(self, n: int, fraction: float) -> np.ndarray:
        """A subset of round(fraction n) examples, at least 1 and at most n - 1, as a mask (n,)."""
        mask = np.zeros(n, bool)
        mask[self._subset.permutation(n)[: min(max(round(fraction * n), 1), n - 1)]] = True
        return mask

    def epoch(self, examples: np.ndarray) -> np.ndarray:
        """The examples in the order of the next epoch."""
        return self._order.permutation(examples)

    def build(self, recipe: Mapping, in_shape: Sequence[int], n_classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._init)
            return build_model(recipe["model"], in_shape, n_classes, hidden=recipe["hidden"])


def cosine(step: int, steps: int) -> float:
    """The factor on the learning rate: 1 at the first step, towards 0 after the last (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + cos(pi * step / steps))


def summarize(logits, y, test_logits, y_test, member) -> dict:
    """One model's signals and summaries from its float32 logits (n, classes) and (t, classes)."""
    signals, test = _signals(logits, y), _signals(test_logits, y_test)
    accuracy, commonest = signals["correct"][member].mean(), np.bincount(y[member]).max() / member.sum()
    with np.errstate(over="ignore", invalid="ignore"):
        loss = np.logaddexp(0, -signals["logit"][member].astype(np.float64)).mean()
    lost = np.isnan(signals["logit"]).any() or np.isnan(test["logit"]).any()
    return {
        **signals,
        **{f"test_{name}": values for name, values in test.items()},
        "train_loss": loss,
        "train_accuracy": accuracy,
        "test_accuracy": test["correct"].mean(),
        "diverged": lost or accuracy <= commonest,
    }


def _signals(logits: np.ndarray, y: np.ndarray) -> dict:
    if np.isfinite(logits).all():
        return from_logits(logits, y)
    # A lost model keeps NaN signals, so that nothing can average it in unseen; `correct` knows no NaN and is False.
    signals = from_logits(np.zeros_like(logits), y)
    return {name: np.full_like(values, False if values.dtype == bool else np.nan) for name, values in signals.items()}


def train_each(recipe, data, streams, members, device):
    """One model at a time through autograd and `torch.optim`: any architecture. Returns logits (k, n, c), (k, t, c)."""
    x, x_test, y = (torch.tensor(data[name], device=device) for name in ("x_train", "x_test", "y_train"))
    n_classes, results = data["n_classes"], []
    bf16 = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=recipe["precision"] == "bf16")
    for stream, member in zip(streams, members, strict=True):
        model = stream.build(recipe, x.shape[1:], n_classes).to(device).train()
        settings = {name: recipe[name] for name in ("lr", "momentum", "weight_decay")}
        sam = recipe["optimizer"] != "sgd"
        optimizer = (
            SAM(model.parameters(), torch.optim.SGD, recipe["rho"], recipe["optimizer"] == "asam", **settings)
            if sam
            else torch.optim.SGD(model.parameters(), **settings)
        )
        examples = np.flatnonzero(member)
        per_epoch = ceil(len(examples) / recipe["batch_size"])
        step, steps = 0, per_epoch * recipe["epochs"]
        for _ in range(recipe["epochs"]):
            order = torch.as_tensor(stream.epoch(examples), device=device)
            for batch in order.split(recipe["batch_size"]):

                def closure(batch=batch, model=model, optimizer=optimizer):
                    optimizer.zero_grad()
                    with bf16:
                        loss = nn.functional.cross_entropy(model(x[batch]).float(), y[batch])
                    loss.backward()
                    return loss

                for group in optimizer.param_groups:
                    group["lr"] = recipe["lr"] * cosine(step, steps)
                optimizer.step(closure)
                step += 1
        model.eval()
        with torch.no_grad():
            results.append([torch.cat([model(b) for b in z.split(1024)]).float().cpu().numpy() for z in (x, x_test)])
    return tuple(np.stack(part) for part in zip(*results, strict=True))


def train_stacked(recipe, data, streams, members, device):
    """K MLPs at once, as batched matrix products. Returns logits (k, n, c), (k, t, c), as `train_each` to rounding."""
    x, x_test, y = (torch.tensor(data[name], device=device) for name in ("x_train", "x_test", "y_train"))
    x, x_test = x.flatten(1), x_test.flatten(1)
    nets = Stack([stream.build(recipe, x.shape[1:], data["n_classes"]) for stream in streams], device)
    dtype = torch.bfloat16 if recipe["precision"] == "bf16" else torch.float32
    rounded, weights = x.to(dtype), nets.weights
    rho = recipe["rho"] if recipe["optimizer"] != "sgd" else 0.0
    velocity, moved, gradient = (torch.zeros_like(weights) for _ in range(3))
    examples = [np.flatnonzero(member) for member in members]
    size, batch_size = len(examples[0]), recipe["batch_size"]
    step, steps = 0, ceil(size / batch_size) * recipe["epochs"]
    for _ in range(recipe["epochs"]):
        order = np.stack([stream.epoch(e) for stream, e in zip(streams, examples, strict=True)])
        for start in range(0, size, batch_size):
            batch = torch.as_tensor(order[:, start : start + batch_size], device=device)  # (k, b)
            inputs = rounded.index_select(0, batch.reshape(-1)).view(*batch.shape, -1)  # (k, b, d)
            labels = y[batch]
            nets.gradient(weights, inputs, labels, gradient)
            if rho:
                _perturb(weights, gradient, rho, recipe["optimizer"] == "asam", moved)
                nets.gradient(moved, inputs, labels, gradient)
            if recipe["weight_decay"]:
                gradient.add_(weights, alpha=recipe["weight_decay"])
            if recipe["momentum"]:
                velocity.mul_(recipe["momentum"]).add_(gradient)
            weights.add_(velocity if recipe["momentum"] else gradient, alpha=-recipe["lr"] * cosine(step, steps))
            step += 1
    return nets.logits(x), nets.logits(x_test)


def _perturb(weights, gradient, rho, adaptive, out):
    """out = weights + rho g / ||g||, each model (row) with its own norm; adaptive as in ASAM. A zero gradient moves nothing."""
    scaled = weights.abs().mul_(gradient) if adaptive else gradient
    norm = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    move = torch.where(norm > 0, rho / norm, 0)
    torch.addcmul(weights, scaled.mul_(weights.abs()) if adaptive else scaled, move, out=out)


class Stack:
    """K MLPs of one shape. `weights` (k, p) holds each model's parameters in one row, so SAM's norm is a row norm."""

    def __init__(self, models: Sequence[nn.Module], device: str):
        shapes = [layer.weight.shape for layer in models[0] if isinstance(layer, nn.Linear)]
        self.shapes = [(fan_in, fan_out) for fan_out, fan_in in shapes]
        rows = []
        for model in models:
            layers = [layer for layer in model if isinstance(layer, nn.Linear)]
            rows.append(torch.cat([part.detach().reshape(-1) for l in layers for part in (l.weight.T, l.bias)]))
        self.weights = torch.stack(rows).to(device)

    def layers(self, weights):
        """Views of (k, p) as the layers' matrices (k, fan_in, fan_out) and biases (k, 1, fan_out)."""
        start = 0
        for fan_in, fan_out in self.shapes:
            matrix = weights[:, start : start + fan_in * fan_out].unflatten(1, (fan_in, fan_out))
            start += (fan_in + 1) * fan_out
            yield matrix, weights[:, None, start - fan_out : start]

    def gradient(self, weights, inputs, labels, out):
        """out (k, p) = the gradient of each model's mean cross-entropy on its batch: inputs (k, b, d), labels (k, b)."""
        layers = [(matrix.to(inputs.dtype), bias.to(inputs.dtype)) for matrix, bias in self.layers(weights)]
        activations = [inputs]
        for i, (matrix, bias) in enumerate(layers):
            z = torch.baddbmm(bias, activations[-1], matrix)  # (k, b, fan_out)
            activations.append(z.relu_() if i < len(layers) - 1 else z)
        delta = torch.softmax(activations.pop().float(), -1)
        delta.scatter_add_(-1, labels[..., None], torch.full((), -1.0, device=delta.device).expand(*labels.shape, 1))
        delta = delta.div_(labels.shape[1]).to(inputs.dtype)
        grads = list(self.layers(out))
        for i in reversed(range(len(layers))):
            grads[i][0].copy_(torch.bmm(activations[i].mT, delta))
            grads[i][1].copy_(delta.sum(1, keepdim=True, dtype=torch.float32))
            if i:
                delta = torch.ops.aten.threshold_backward(torch.bmm(delta, layers[i][0].mT), activations[i], 0)

    def logits(self, x, block: int = 1024):
        """Float32 logits (k, n, c) of every model on x (n, d)."""
        parts = []
        for rows in x.split(block):
            z = rows.expand(len(self.weights), *rows.shape)
            for i, (matrix, bias) in enumerate(self.layers(self.weights)):
                z = torch.baddbmm(bias, z if i == 0 else z.relu_(), matrix)
            parts.append(z)
        return torch.cat(parts, 1).cpu().numpy()
