"""Parts that every trainer uses: random streams, schedules, inputs, weight averages, and the loop over steps."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from math import ceil, cos, pi

import numpy as np
import torch
from torch import nn

from samlib.models import build_model, image_shape

SWA_START = 0.75  # of the steps; then SWA holds the rate and starts to average (Izmailov et al. 2018, section 4)
EMA_DECAY = 0.99  # a memory of 100 steps; it is shorter in the first steps
AVERAGED = ("swa", "ema")
EVALUATED = {"cpu": 1024, "cuda": 8192}  # examples that are evaluated at once


def subset_size(n: int, fraction: float) -> int:
    """The number of examples, of n, that a model is trained on: round(fraction n), from 1 to n - 1."""
    return min(max(round(fraction * n), 1), n - 1)


class Streams:
    """The random choices of one model: its subset, initial weights, batch order and augmentation.

    All follow from (seed, k), so models k of two optimizers are paired. Each choice has a stream of its own. A stream
    moves on with each call.

    Parameters
    ----------
    seed : int
        The experiment's seed, at least 0.
    k : int
        The model's index, at least 0.

    Examples
    --------
    >>> stream = Streams(seed=0, k=3)
    >>> stream.member(6, 0.5).sum()
    np.int64(3)
    >>> sorted(stream.epoch(np.array([1, 4, 5])).tolist())
    [1, 4, 5]
    """

    def __init__(self, seed: int, k: int):
        subset, order, init, augment = (np.random.SeedSequence([seed, k, purpose]) for purpose in range(4))
        self._subset, self._order, self._augment = map(np.random.default_rng, (subset, order, augment))
        self._init = int(init.generate_state(1, np.uint64)[0])

    def member(self, n: int, fraction: float) -> np.ndarray:
        """Draw the model's subset, as a mask (n,) with `subset_size(n, fraction)` True values."""
        mask = np.zeros(n, bool)
        mask[self._subset.permutation(n)[: subset_size(n, fraction)]] = True
        return mask

    def epoch(self, examples: np.ndarray) -> np.ndarray:
        """Put the examples (indices) in the order of the next epoch."""
        return self._order.permutation(examples)

    def shifts(self, batch: int, height: int, width: int) -> np.ndarray:
        """Draw the augmentation of the next batch, int64 (batch, 3): pixels down, pixels right, 1 if mirrored.

        A shift is at most an eighth of the side (4 pixels of 32). Half of the images are mirrored.
        """
        moved = [self._augment.integers(-(side // 8), side // 8, batch, endpoint=True) for side in (height, width)]
        return np.stack([*moved, self._augment.random(batch) < 0.5], axis=1)

    def build(self, recipe: Mapping, in_shape: Sequence[int], n_classes: int) -> nn.Module:
        """Build the model with its initial weights. torch's own random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._init)
            return build_model(recipe["model"], in_shape, n_classes, hidden=recipe["hidden"], norm=recipe["norm"])


class Inputs:
    """The examples of one side, "train" or "test", on the device. Images stay uint8, so they take little memory."""

    def __init__(self, data: Mapping, side: str, device: str):
        self.stored = torch.tensor(np.asarray(data[f"x_{side}"]), device=device)
        self.shape = self.stored.shape[1:]
        self.scale = None
        if data.get("mean") is not None:
            # (x / 255 - mean) / std as one product and one sum; whole rows of pixels vectorize, 3 channels do not
            mean, std = (np.tile(np.asarray(data[name], np.float64), self.shape[1]) for name in ("mean", "std"))
            self.scale = torch.tensor(1 / (255 * std), dtype=torch.float32, device=device)
            self.shift = torch.tensor(-mean / std, dtype=torch.float32, device=device)

    def prepared(self, stored: torch.Tensor) -> torch.Tensor:
        """Convert stored examples to float32, and normalize images."""
        x = stored.float()
        if self.scale is not None:
            x.flatten(2).mul_(self.scale).add_(self.shift)  # rows (batch, height, width * channels), a view
        return x

    def augmented(self, stored: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
        """Shift and mirror each image (batch, *shape) by its row of `Streams.shifts`; borders are reflected."""
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
        """The indices (batch, side) of the pixels that a shift (batch, 1) brings to each place."""
        at = (torch.arange(side, device=shift.device) + shift).abs()
        return torch.minimum(at, 2 * (side - 1) - at)


def on_device(data: Mapping, device: str) -> tuple[list[Inputs], torch.Tensor, int]:
    """The examples of both sides, the labels of the pool, and the number of classes."""
    y = torch.tensor(np.asarray(data["y_train"]), device=device)
    return [Inputs(data, side, device) for side in ("train", "test")], y, int(data["n_classes"])


def cosine(step: float, steps: int) -> float:
    """The cosine factor on the learning rate (Loshchilov and Hutter 2017).

    Parameters
    ----------
    step : float
        From 0 to `steps`.
    steps : int
        The number of steps in all.

    Returns
    -------
    float
        1 at step 0, and 0 at step `steps`.

    Examples
    --------
    >>> cosine(0, 100), round(cosine(50, 100), 3)
    (1.0, 0.5)
    """
    return 0.5 * (1 + cos(pi * step / steps))


def rate(recipe: Mapping, step: int, steps: int) -> float:
    """The learning rate of a step: a cosine, which SWA holds from the start of its average."""
    return recipe["lr"] * cosine(min(step, SWA_START * steps) if recipe["optimizer"] == "swa" else step, steps)


def sizes(n: int, recipe: Mapping) -> list[int]:
    """The sizes of an epoch's batches: as few as `batch_size` allows, and equal to within one.

    A small last batch would weigh as much as a full one, and its noise would reach BatchNorm.
    """
    count = ceil(n / recipe["batch_size"])
    return [n // count + (i < n % count) for i in range(count)]


class Average:
    """A weight average: over the last quarter's epochs (SWA), or exponential (EMA; Kingma and Ba 2015, section 7.2).

    `torch.optim.swa_utils.AveragedModel` takes a module, not a stack, and its EMA has no short memory at first.
    """

    def __init__(self, recipe: Mapping, steps: int, per_epoch: int):
        self.kind, self.steps, self.per_epoch = recipe["optimizer"], steps, per_epoch
        self.count, self.values = 0, list[torch.Tensor]()

    @torch.no_grad()
    def update(self, step: int, weights: Sequence[torch.Tensor]) -> None:
        """Add the weights after a step (counted from 0), if that step counts."""
        if self.kind == "swa" and ((step + 1) % self.per_epoch or step + 1 < ceil(SWA_START * self.steps)):
            return
        self.count += 1
        if not self.values:
            self.values = [w.detach().clone() for w in weights]
        keep = 1 - 1 / self.count if self.kind == "swa" else min(EMA_DECAY, self.count / (9 + self.count))
        torch._foreach_lerp_(self.values, list(weights), 1 - keep)


class Training:
    """Models in training, each with the same number of examples.

    A step reads its batch and its learning rate on the device. It writes tensors in place and never replaces them, so a
    GPU can capture a step and replay it.
    """

    period = 1  # the kinds of steps repeat after so many; LookSAM has two kinds

    def __init__(self, recipe: Mapping, inputs: Inputs, y: torch.Tensor, n: int, models: Sequence[int] = ()):
        device = y.device
        self.recipe, self.inputs, self.y, self.device = recipe, inputs, y, device
        self.batches = sizes(n, recipe)
        self.steps = len(self.batches) * recipe["epochs"]
        rates = [rate(recipe, i, self.steps) for i in range(self.steps)]
        # a float64 rate rounds as Python's float does; a GPU's fused update takes float32
        self.rates = torch.tensor(rates, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        self.lr = self.rates[0].clone()
        self.order = torch.zeros(*models, n, dtype=torch.int64, device=device)
        self.at, self.done = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self.ahead = torch.arange(self.batches[0], device=device)
        self.run: Callable[[int], None] = self.step
        self.stream: torch.cuda.Stream | None = None
        self.evaluates = EVALUATED[device.type]
        self.taken = 0
        self.average: Average | None = None

    def begin(self, streams: Sequence[Streams], members: Sequence[np.ndarray]) -> None:
        """Start anew, with other models."""
        self.rewind()
        self.streams, self.examples = streams, [np.flatnonzero(member) for member in members]
        averaged = self.recipe["optimizer"] in AVERAGED
        self.average = Average(self.recipe, self.steps, len(self.batches)) if averaged else None

    def lay(self) -> None:
        """Copy the order of the next epoch to the device."""
        order = np.stack([s.epoch(e) for s, e in zip(self.streams, self.examples, strict=True)])
        self.put(self.order, order.reshape(self.order.shape))
        self.at.zero_()

    def step(self, size: int) -> None:
        """Take one step on a batch of `size` examples."""

    def weights(self) -> list[torch.Tensor]:
        """The tensors in training."""
        raise NotImplementedError

    def settle(self) -> None:
        """Put the average, if there is one, in the place of the weights."""
        if self.average:
            with torch.no_grad():
                torch._foreach_copy_(self.weights(), self.average.values)

    def logits(self, inputs: Inputs, size: int) -> torch.Tensor:
        """Float32 logits (k, n, c) of all inputs, `size` at once."""
        raise NotImplementedError

    def rewind(self, taken: int = 0) -> None:
        """Go back to the start of the epoch and the schedule; the next step is of the kind that follows `taken` steps."""
        self.taken = taken
        self.at.zero_()
        self.done.zero_()

    def put(self, place: torch.Tensor, values: np.ndarray) -> None:
        """Overwrite a tensor without waiting for the device."""
        source = torch.from_numpy(values)
        place.copy_(source.pin_memory() if self.device.type == "cuda" else source, non_blocking=True)

    def next(self, size: int) -> torch.Tensor:
        """The places (size,) of the next batch in the epoch's order. Also sets the learning rate and moves on."""
        where = self.at + self.ahead[:size]
        self.lr.copy_(self.rates.index_select(0, self.done)[0])
        self.at.add_(size)
        self.done.add_(1)
        return where

    def advance(self, size: int) -> None:
        """Take one step, or replay it if it was captured."""
        self.run(size)
        if self.average:
            self.average.update(self.taken, self.weights())
        self.taken += 1

    def trouble(self) -> str:
        """What went wrong and was worked around, in words."""
        less = self.evaluates < EVALUATED[self.device.type]
        return f", {self.evaluates} evaluated at once: out of memory with more" if less else ""

    def on_stream(self):
        """A context that sends kernels to this training's stream."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


def drive(trainings: Sequence[Training], epochs: int) -> None:
    """Train several at once, a step of each in turn. A GPU runs their streams side by side."""
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


def trained(trainings: Sequence[Training], parts: Sequence[tuple], sides: Sequence[Inputs]) -> list[list[torch.Tensor]]:
    """Let each training train a part of the models, (streams, members). Returns their logits on each side."""
    for training, part in zip(trainings, parts, strict=True):
        if training.stream is not None:  # an evaluation may still run on the usual stream
            training.stream.wait_stream(torch.cuda.current_stream())
        with training.on_stream():
            training.begin(*part)
    drive(trainings, trainings[0].recipe["epochs"])
    return [[evaluated(training, side) for side in sides] for training in trainings]


def evaluated(training: Training, inputs: Inputs) -> torch.Tensor:
    """Float32 logits (k, n, c) on the device. If memory runs out, half as many examples are evaluated at once."""
    while True:
        try:
            return training.logits(inputs, training.evaluates)
        except torch.OutOfMemoryError:
            if training.evaluates == 1:
                raise
        training.evaluates //= 2
