"""One model at a time, through autograd and `torch.optim`: any architecture and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from itertools import chain
from types import FunctionType

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from samlib.models import build_model, image_shape
from samlib.optim import ASAM, GSAM, SAM, FriendlySAM, LookSAM
from samlib.training.common import Inputs, Streams, Training, clear, drive, evaluated, settings

SHARPNESS_AWARE = {"sam": SAM, "asam": ASAM, "gsam": GSAM, "looksam": LookSAM, "friendlysam": FriendlySAM}
# `torch.compile` by kind of device. On a CPU it gains a tenth at best, and compiling takes as long as a small model.
COMPILERS = {"cuda": "inductor"}
COMPILED = ", compiled"


class OneModel(Training):
    """One model, through autograd and `torch.optim`."""

    def __init__(self, recipe, inputs: Inputs, y: torch.Tensor, n: int, n_classes: int):
        super().__init__(recipe, inputs, y, n)
        with torch.device("meta"):  # `begin` overwrites all of it
            model = build_model(recipe["model"], inputs.shape, n_classes, hidden=recipe["hidden"], norm=recipe["norm"])
        self.model = model.to_empty(device=self.device).to(memory_format=torch.channels_last).train()
        self.called, self.n_classes = self.model, n_classes
        self.shifts = torch.zeros(n, 3, dtype=torch.int64, device=self.device)
        self.optimizer = make_optimizer(recipe, self.weights(), self.lr)
        self.period = self.optimizer.param_groups[0].get("k", 1)

    def begin(self, streams: Sequence[Streams], members: Sequence[np.ndarray]) -> None:
        super().begin()
        (self.streams,), (member,) = streams, members
        self.examples = np.flatnonzero(member)
        fresh = self.streams.build(self.recipe, self.inputs.shape, self.n_classes)
        with torch.no_grad():
            for old, new in zip(_tensors(self.model), _tensors(fresh), strict=True):
                old.copy_(new)
        clear(self.optimizer)

    def rewind(self, taken: int = 0) -> None:
        super().rewind(taken)
        for group in self.optimizer.param_groups:
            if "t" in group:  # LookSAM's place in its cycle
                group["t"] = taken

    def lay(self) -> None:
        """The order of the next epoch, and how it is augmented, to the device."""
        self.put(self.order, self.streams.epoch(self.examples))
        if self.recipe["augment"]:
            _, *sides = image_shape(self.inputs.shape)
            self.put(self.shifts, np.concatenate([self.streams.shifts(size, *sides) for size in self.batches]))
        self.at.zero_()

    def step(self, size: int) -> None:
        where = self.next(size)
        batch = self.order.index_select(0, where)
        x = self.inputs.stored[batch]
        if self.recipe["augment"]:
            x = self.inputs.augmented(x, self.shifts.index_select(0, where))
        x = self.inputs.prepared(x)
        self.optimizer.step(closures(self.called, self.recipe, x, self.y[batch], self.optimizer))

    def weights(self) -> list[torch.Tensor]:
        return list(self.model.parameters())

    def settle(self) -> None:
        """Take the averaged weights, with BatchNorm's statistics of their own (Izmailov et al. 2018, section 3.2)."""
        if not self.average:
            return
        with torch.no_grad():
            for p, value in zip(self.weights(), self.average.values, strict=True):
                p.copy_(value)
        members = torch.as_tensor(self.examples, device=self.device).split(self.batches)
        with autocast(self.recipe, self.device):
            update_bn((self.inputs.prepared(self.inputs.stored[batch]) for batch in members), self.model)

    def logits(self, inputs: Inputs, size: int) -> torch.Tensor:
        """Float32 logits (1, n, c) of all inputs, `size` at once."""
        self.model.eval()
        try:
            with torch.no_grad():
                x = inputs.stored.split(size)
                return torch.cat([self.model(inputs.prepared(part)).float() for part in x])[None]
        finally:
            self.model.train()


def _tensors(model: nn.Module):
    return chain(model.parameters(), model.buffers())


def train_each(recipe: Mapping, data: Mapping, streams, members, device: str):
    """Train models one by one. Returns logits (k, n, c), (k, t, c) on the device, and how it was done.

    The data set lies on the device as stored; batches are cut, augmented and normalized there. Weights and images are
    channels-last, products bfloat16 where the recipe says so; weights, updates and evaluation are float32.
    """
    train, test = Inputs(data, "train", device), Inputs(data, "test", device)
    y = torch.tensor(np.asarray(data["y_train"]), device=device)
    one = OneModel(recipe, train, y, int(members[0].sum()), int(data["n_classes"]))
    said, results = compile_passes(one, COMPILERS.get(one.device.type)), []
    for stream, member in zip(streams, members, strict=True):
        one.begin([stream], [member])
        drive([one], recipe["epochs"])
        results.append([evaluated(one, side) for side in (train, test)])
    return *map(torch.cat, zip(*results, strict=True)), f"one at a time, channels-last{said}{one.trouble()}"


class Compiled(nn.Module):
    """A model whose passes are compiled. It is a module, so that hooks see its call; the call inside it is compiled alone."""

    def __init__(self, model: nn.Module, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x):
        return self.call(self.model, x)


def compile_passes(one: OneModel, backend: str | None) -> str:
    """Compile the training passes of a model. Says in words that it did, or why it could not."""
    if backend is None:
        return ""
    recipe = one.recipe
    parts = sorted({min(part, size) for size in set(one.batches) for part in _parts(size, recipe["m_sharpness"])})
    shape, device = one.inputs.shape, one.device
    call, said = _compiler(backend, str(one.model), device, shape, recipe["precision"], *parts)
    if not said:
        examples = [one.inputs.prepared(one.inputs.stored[:part]) for part in parts]
        said.append(_tried(Compiled(deepcopy(one.model), call), recipe, examples))
    if said[0] == COMPILED:
        one.called = Compiled(one.model, call)
    return said[0]


def _parts(size: int, m: int | None) -> set[int]:
    """The sizes of a batch's micro-batches."""
    return {size} if m is None else {min(m, size), size % m or m}


def _tried(model: nn.Module, recipe: Mapping, inputs: Sequence[torch.Tensor]) -> str:
    """Call a model, of which nothing is kept, with every size of input: compilers fail at the first call of each."""
    try:
        for x in inputs:
            with autocast(recipe, x.device):
                loss = model(x).float().sum()
            loss.backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds; what is not the compiler's fault, training itself will raise
        cause = getattr(error, "inner_exception", error)
        return f", compiler failed ({(str(cause).strip() or type(cause).__name__).splitlines()[0]})"
    return COMPILED


@lru_cache
def _compiler(backend: str, *what):
    """`torch.compile`, and what came of it, once for each architecture and set of batch sizes: all its models share it.

    torch compiles each batch size apart and keeps 8 results of one code object, so each call here makes a code object.
    """

    def call(model, x):
        return model(x)

    own = FunctionType(call.__code__.replace(), globals())
    return torch.compile(own, backend=backend, fullgraph=True, dynamic=False), []


def closures(model, recipe, x, y, optimizer):
    """What an optimizer's step calls: one function that computes the loss and its gradient, or one for each micro-batch."""
    m = recipe["m_sharpness"]

    def of(x, y, part):
        def closure():
            optimizer.zero_grad()
            with autocast(recipe, x.device):
                logits = model(x).float()
                loss = part * nn.functional.cross_entropy(logits, y, label_smoothing=recipe["label_smoothing"])
            loss.backward()
            return loss

        return closure

    if m is None or len(y) <= m:
        return of(x, y, 1.0)
    return [of(*pair, len(pair[1]) / len(y)) for pair in zip(x.split(m), y.split(m), strict=True)]


def autocast(recipe: Mapping, device: torch.device):
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe["precision"] == "bf16")


def make_optimizer(recipe: Mapping, parameters, lr: torch.Tensor) -> torch.optim.Optimizer:
    """The recipe's optimizer. A sharpness-aware one has its paper's other settings, and SGD below it."""
    given = settings(recipe, lr)
    if recipe["alpha"] is not None:
        given["alpha"] = recipe["alpha"]
    if recipe["optimizer"] in SHARPNESS_AWARE:
        return SHARPNESS_AWARE[recipe["optimizer"]](parameters, torch.optim.SGD, recipe["rho"], **given)
    return torch.optim.SGD(parameters, **given)
