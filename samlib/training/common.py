"""What both ways of training share: the random streams, the schedules, the inputs on the device, weight averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, cos, pi

import numpy as np
import torch
from torch import nn

from samlib.models import build_model, image_shape

# share of the steps after which SWA holds the learning rate and averages (Izmailov et al. 2018, section 4)
SWA_START = 0.75
EMA_DECAY = 0.99  # a memory of 100 steps, reached from shorter ones while the average is young
AVERAGED = ("swa", "ema")


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

    def crops(self, batch: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """For each image of the next batch, which rows (batch, height) and columns (batch, width) of it are seen.

        A crop shifted by up to an eighth of the side (4 pixels of 32), the border filled by reflection; half are mirrored.
        """
        seen = []
        for side in (height, width):
            shift = self._augment.integers(-(side // 8), side // 8, (batch, 1), endpoint=True)
            at = np.abs(np.arange(side) + shift)
            seen.append(np.minimum(at, 2 * (side - 1) - at))
        mirrored = self._augment.random(batch) < 0.5
        seen[1][mirrored] = seen[1][mirrored, ::-1]
        return seen[0], seen[1]

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

    def augmented(self, stored: torch.Tensor, stream: Streams) -> torch.Tensor:
        """Images (batch, *shape), each cropped and mirrored at random; gathered on the device."""
        _, height, width = image_shape(self.shape)
        rows, columns = (torch.as_tensor(at, device=stored.device) for at in stream.crops(len(stored), height, width))
        first = len(self.shape) == 3 and self.shape[2] not in (1, 3)
        x = stored.movedim(1, -1) if first else stored  # (batch, height, width, ...)
        each = torch.arange(len(x), device=x.device)[:, None, None]
        x = x[each, rows[:, :, None], columns[:, None, :]]
        return x.movedim(-1, 1) if first else x


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
        for value, w in zip(self.values, weights, strict=True):
            value.lerp_(w, 1 - keep)
