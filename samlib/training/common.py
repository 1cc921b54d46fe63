"""What all ways of training share: random streams, schedules, inputs on the device, weight averages, the loop over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from math import ceil, cos, pi

import numpy as np
import torch
from torch import nn

from samlib.models import build_model, image_shape

# share of the steps after which SWA holds the learning rate and averages (Izmailov et al. 2018, section 4)
SWA_START = 0.75
EMA_DECAY = 0.99  # a memory of 100 steps, reached from shorter ones while the average is young
AVERAGED = ("swa", "ema")
EVALUATED = {"cpu": 1024, "cuda": 8192}  # examples at once


def subset_size(n: int, fraction: float) -> int:
    """How many of n examples a model is trained on: round(fraction n), at least 1 and at most n - 1."""
    return min(max(round(fraction * n), 1), n - 1)


class Streams:
    """All that is random about model k, from (seed, k) alone: its subset, initial weights, batch order, augmentation."""

    def __init__(self, seed: int, k: int):
        sequence = [np.random.SeedSequence([seed, k, purpose]) for purpose in range(4)]
        self._subset, self._order = np.random.default_rng(sequence[0]), np.random.default_rng(sequence[1])
        self._init = int(sequence[2].generate_state(1, np.uint64)[0])
        self._augment = np.random.default_rng(sequence[3])

    def member(self, n: int, fraction: float) -> np.ndarray:
        """A subset of `subset_size(n, fraction)` examples, as a mask (n,)."""
        mask = np.zeros(n, bool)
        mask[self._subset.permutation(n)[: subset_size(n, fraction)]] = True
        return mask

    def epoch(self, examples: np.ndarray) -> np.ndarray:
        """The examples in the order of the next epoch."""
        return self._order.permutation(examples)

    def shifts(self, batch: int, height: int, width: int) -> np.ndarray:
        """How each image of the next batch is augmented, int64 (batch, 3): pixels down, pixels right, 1 if mirrored.

        Shifts go up to an eighth of the side (4 pixels of 32); half of the images are mirrored.
        """
        moved = [self._augment.integers(-(side // 8), side // 8, batch, endpoint=True) for side in (height, width)]
        return np.stack([*moved, self._augment.random(batch) < 0.5], axis=1)

    def build(self, recipe: Mapping, in_shape: Sequence[int], n_classes: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._init)
            return build_model(recipe["model"], in_shape, n_classes, hidden=recipe["hidden"], norm=recipe["norm"])


class Inputs:
    """The examples of one side of a data set, resident on the device as they are stored: uint8 images stay small."""

    def __init__(self, data: Mapping, side: str, device: str):
        self.stored = torch.tensor(np.asarray(data[f"x_{side}"]), device=device)
        self.shape = self.stored.shape[1:]
        self.scale = None
        if data.get("mean") is not None:
            # (x / 255 - mean) / std as one product and one sum over whole rows of pixels, which vectorize as 3 channels do not
            mean, std = (np.tile(np.asarray(data[name], np.float64), self.shape[1]) for name in ("mean", "std"))
            self.scale, self.shift = (
                torch.tensor(v, dtype=torch.float32, device=device) for v in (1 / (255 * std), -mean / std)
            )

    def __len__(self) -> int:
        return len(self.stored)

    def prepared(self, stored: torch.Tensor) -> torch.Tensor:
        """Stored examples as the float32 that models take."""
        x = stored.float()
        if self.scale is not None:
            x.flatten(2).mul_(self.scale).add_(self.shift)  # rows (batch, height, width * channels), a view
        return x

    def augmented(self, stored: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        """Images (batch, *shape), each moved and mirrored by its row of `Streams.shifts`; borders are reflected."""
        _, height, width = image_shape(self.shape)
        down, right, mirrored = shifts.split(1, dim=1)
        rows, columns = (self._seen(side, by) for side, by in ((height, down), (width, right)))
        columns = torch.where(mirrored > 0, columns.flip(1), columns)
        first = len(self.shape) == 3 and self.shape[2] not in (1, 3)
        x = stored.movedim(1, -1) if first else stored  # (batch, height, width, ...)
        each = torch.arange(len(x), device=x.device)[:, None, None]
        x = x[each, rows[:, :, None], columns[:, None, :]]
        return x.movedim(-1, 1) if first else x

    @staticmethod
    def _seen(side: int, shift: torch.Tensor) -> torch.Tensor:
        """Which pixels of a side are seen after a shift (batch, 1), as indices (batch, side)."""
        at = (torch.arange(side, device=shift.device) + shift).abs()
        return torch.minimum(at, 2 * (side - 1) - at)


def cosine(step: int, steps: int) -> float:
    """The factor on the learning rate: 1 at the first step, towards 0 after the last (Loshchilov and Hutter 2017)."""
    return 0.5 * (1 + cos(pi * step / steps))


def rate(recipe: Mapping, step: int, steps: int) -> float:
    """The learning rate of a step: a cosine, which SWA leaves for a constant where its average starts."""
    return recipe["lr"] * cosine(min(step, SWA_START * steps) if recipe["optimizer"] == "swa" else step, steps)


def sizes(n: int, recipe: Mapping) -> list[int]:
    """The sizes of an epoch's batches: as few as `batch_size` allows, and equal to within one.

    A small remainder as the last batch would weigh as much as a full one, and BatchNorm would be fed its noise.
    """
    count = ceil(n / recipe["batch_size"])
    return [n // count + (i < n % count) for i in range(count)]


class Average:
    """An average of weights: of the last quarter's epochs (SWA) or exponential (EMA; Kingma and Ba 2015, section 7.2)."""

    def __init__(self, recipe: Mapping, steps: int, per_epoch: int):
        self.kind, self.steps, self.per_epoch = recipe["optimizer"], steps, per_epoch
        self.count, self.values = 0, []

    @torch.no_grad()
    def update(self, step: int, weights: Sequence[torch.Tensor]) -> None:
        """Take in the weights after the step of that index, where it counts; step runs from 0."""
        if self.kind == "swa" and ((step + 1) % self.per_epoch or step + 1 < ceil(SWA_START * self.steps)):
            return
        self.count += 1
        if not self.values:
            self.values = [w.detach().clone() for w in weights]
        keep = 1 - 1 / self.count if self.kind == "swa" else min(EMA_DECAY, self.count / (9 + self.count))
        torch._foreach_lerp_(self.values, list(weights), 1 - keep)


class Training:
    """Models in training, each with the same number of examples. A step finds its batch and its learning rate on the device.

    A step only overwrites what it uses and never replaces it, so that a GPU can capture one step and replay it.
    Subclasses have `begin(streams, members)`, `step(size)`, `weights()`, `settle()` and `logits(inputs)`.
    """

    period = 1  # steps until one is like another of its size; LookSAM has two kinds

    def __init__(self, recipe: Mapping, inputs: Inputs, y: torch.Tensor, n: int, models: Sequence[int] = ()):
        device = y.device
        self.recipe, self.inputs, self.y, self.device = recipe, inputs, y, device
        self.batches = sizes(n, recipe)
        self.steps = len(self.batches) * recipe["epochs"]
        # a float64 rate rounds as Python's float does; a GPU's fused update takes float32
        precision = torch.float64 if device.type == "cpu" else torch.float32
        self.rates = torch.tensor(
            [rate(recipe, i, self.steps) for i in range(self.steps)], dtype=precision, device=device
        )
        self.lr = self.rates[0].clone()
        self.order = torch.zeros(*models, n, dtype=torch.int64, device=device)
        self.at, self.done = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.ahead = torch.arange(self.batches[0], device=device)
        self.run, self.stream, self.evaluates = self.step, None, EVALUATED.get(device.type, 1024)
        self.taken, self.average = 0, None

    def rewind(self, taken: int = 0) -> None:
        """Go back to the start of an epoch and of the schedule, to take a step as after `taken` others."""
        self.taken = taken
        self.at.zero_()
        self.done.zero_()

    def begin(self) -> None:
        """Start anew, with other models."""
        self.rewind()
        averaged = self.recipe["optimizer"] in AVERAGED
        self.average = Average(self.recipe, self.steps, len(self.batches)) if averaged else None

    def put(self, place: torch.Tensor, values: np.ndarray) -> None:
        """Overwrite a tensor, without waiting for what the device still does."""
        values = torch.from_numpy(values)
        place.copy_(values.pin_memory() if self.device.type == "cuda" else values, non_blocking=True)

    def next(self, size: int) -> torch.Tensor:
        """Where the next batch stands in the epoch's order, (size,). Sets its learning rate and moves on."""
        where = self.at + self.ahead[:size]
        self.lr.copy_(self.rates.index_select(0, self.done)[0])
        self.at.add_(size)
        self.done.add_(1)
        return where

    def advance(self, size: int) -> None:
        """One step, by itself or as it was captured."""
        self.run(size)
        if self.average:
            self.average.update(self.taken, self.weights())
        self.taken += 1

    def trouble(self) -> str:
        """What did not go as usual, in words."""
        less = self.evaluates < EVALUATED.get(self.device.type, 1024)
        return f", {self.evaluates} evaluated at once: out of memory with more" if less else ""

    def on_stream(self):
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


def drive(trainings: Sequence[Training], epochs: int) -> None:
    """Train several at once, step by step in turn; a GPU works on their streams side by side."""
    for _ in range(epochs):
        for training in trainings:
            with training.on_stream():
                training.lay()
        for size in trainings[0].batches:
            for training in trainings:
                with training.on_stream():
                    training.advance(size)
    for training in trainings:
        with training.on_stream():
            training.settle()
        if training.stream is not None:
            training.stream.synchronize()


def evaluated(training: Training, inputs: Inputs) -> torch.Tensor:
    """Float32 logits (k, n, c) on the device, as many examples at once as fit into its memory."""
    while True:
        try:
            return training.logits(inputs, training.evaluates)
        except torch.OutOfMemoryError:
            if training.evaluates == 1:
                raise
        training.evaluates //= 2


def settings(recipe: Mapping, lr: torch.Tensor) -> dict:
    """Arguments of `torch.optim.SGD`. On a GPU its fused form takes the rate from the device."""
    fused = {"fused": True} if lr.device.type == "cuda" else {}
    return {"lr": lr, "momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"], **fused}


def clear(optimizer: torch.optim.Optimizer) -> None:
    """Zero an optimizer's state in place: a momentum of zero is that of a first step."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, torch.Tensor):
                value.zero_()
