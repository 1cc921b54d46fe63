"""One model at a time, through autograd and `torch.optim`: any architecture and optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from types import FunctionType

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from samlib.optim import ASAM, GSAM, SAM, FriendlySAM, LookSAM
from samlib.training.common import AVERAGED, Average, Inputs, rate, sizes

SHARPNESS_AWARE = {"sam": SAM, "asam": ASAM, "gsam": GSAM, "looksam": LookSAM, "friendlysam": FriendlySAM}
EVALUATED = 1024  # examples at once
# `torch.compile` by kind of device. On a CPU it gains a tenth at best, and compiling takes as long as a small model.
COMPILERS = {"cuda": "inductor"}
COMPILED = ", compiled"


def train_each(recipe: Mapping, data: Mapping, streams, members, device: str):
    """Train models one by one. Returns logits (k, n, c), (k, t, c) and how it was done.

    The data set lies on the device as stored; batches are cut, augmented and normalized there. Weights and images are
    channels-last, products bfloat16 where the recipe says so; weights, updates and evaluation are float32, with torch's usual
    rounding: a GPU's convolutions take TF32. On a GPU the two passes of a step are compiled, or, where that fails, made as
    they are, which is said with the reason.
    """
    train, test = Inputs(data, "train", device), Inputs(data, "test", device)
    y = torch.tensor(np.asarray(data["y_train"]), device=device)
    results, size = [], EVALUATED
    for stream, member in zip(streams, members, strict=True):
        model = stream.build(recipe, train.shape, int(data["n_classes"])).to(device, memory_format=torch.channels_last)
        how = train_one(model, recipe, train, y, stream, np.flatnonzero(member))
        logits = []
        for side in (train, test):
            values, size = evaluate(model, side, size)
            logits.append(values)
        results.append(logits)
    said = "" if size == EVALUATED else f", {size} evaluated at once: out of memory with more"
    return *(np.stack(part) for part in zip(*results, strict=True)), f"one at a time, channels-last{how}{said}"


def train_one(model: nn.Module, recipe: Mapping, inputs: Inputs, y: torch.Tensor, stream, examples: np.ndarray) -> str:
    """Train a model in place on the given examples (indices). Returns, in words, whether it was compiled."""
    model.train()
    parameters = list(model.parameters())
    optimizer = make_optimizer(recipe, parameters)
    batches = sizes(len(examples), recipe)
    steps, step = len(batches) * recipe["epochs"], 0
    average = Average(recipe, steps, len(batches)) if recipe["optimizer"] in AVERAGED else None
    called, said = compiled(model, recipe, inputs.prepared(inputs.stored[examples[: batches[0]]]), batches)
    for _ in range(recipe["epochs"]):
        order = torch.as_tensor(stream.epoch(examples), device=y.device)
        for batch in order.split(batches):
            x = inputs.stored[batch]
            x = inputs.prepared(inputs.augmented(x, stream) if recipe["augment"] else x)
            for group in optimizer.param_groups:
                group["lr"] = rate(recipe, step, steps)
            optimizer.step(closures(called, recipe, x, y[batch], optimizer))
            if average:
                average.update(step, parameters)
            step += 1
    if average:
        with torch.no_grad():
            for p, value in zip(parameters, average.values, strict=True):
                p.copy_(value)
        # BatchNorm's statistics are the averaged model's own (Izmailov et al. 2018, section 3.2)
        members = torch.as_tensor(examples, device=y.device).split(batches)
        with autocast(recipe, y.device):
            update_bn((inputs.prepared(inputs.stored[batch]) for batch in members), model)
    model.eval()
    return said


class Compiled(nn.Module):
    """The training passes of a model, compiled. A module, for what is called here and not compiled with it is hooks."""

    def __init__(self, model: nn.Module, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x):
        return self.call(self.model, x)


def compiled(model: nn.Module, recipe: Mapping, x: torch.Tensor, batches: Sequence[int]) -> tuple[nn.Module, str]:
    """The model for the passes of training, compiled for its device, and in words that it is, or why it is not.

    x: as many examples as the largest batch has. batches: the sizes of all.
    """
    backend = COMPILERS.get(x.device.type)
    if backend is None:
        return model, ""
    parts = sorted({len(part) for size in set(batches) for part in x[:size].split(recipe["m_sharpness"] or size)})
    call, said = _compiler(backend, str(model), x.device, x.shape[1:], recipe["precision"], *parts)
    if not said:
        said.append(_tried(Compiled(deepcopy(model), call), recipe, [x[:part] for part in parts]))
    return (Compiled(model, call) if said[0] == COMPILED else model), said[0]


def _tried(model: nn.Module, recipe: Mapping, inputs: Sequence[torch.Tensor]) -> str:
    """Call a model, of which nothing is kept, with a batch of each size, since a compiler fails at the first."""
    try:
        for x in inputs:
            with autocast(recipe, x.device):
                loss = model(x).float().sum()
            loss.backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds; what is not the compiler's fault, training itself will raise
        cause = getattr(error, "inner_exception", error)
        return f", not compiled ({(str(cause).strip() or type(cause).__name__).splitlines()[0]})"
    return COMPILED


@lru_cache
def _compiler(backend: str, *what):
    """`torch.compile`, and what came of it, once for each architecture and set of batch sizes: all its models share it.

    A batch size is a form of its own. torch keeps 8 forms of one code object, so each architecture has its own.
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


def make_optimizer(recipe: Mapping, parameters) -> torch.optim.Optimizer:
    """The recipe's optimizer; a sharpness-aware one has its paper's other settings, and SGD below it."""
    settings = {name: recipe[name] for name in ("lr", "momentum", "weight_decay")}
    if recipe["alpha"] is not None:
        settings["alpha"] = recipe["alpha"]
    if recipe["optimizer"] in SHARPNESS_AWARE:
        return SHARPNESS_AWARE[recipe["optimizer"]](parameters, torch.optim.SGD, recipe["rho"], **settings)
    return torch.optim.SGD(parameters, **settings)


@torch.no_grad()
def evaluate(model: nn.Module, inputs: Inputs, size: int = EVALUATED) -> tuple[np.ndarray, int]:
    """Float32 logits (n, c) of a model on all inputs, `size` at once, or half as many where that is more than fits."""
    parts, start = [], 0
    while start < len(inputs):
        try:
            logits = model(inputs.prepared(inputs.stored[start : start + size]))
            parts.append(logits.float().cpu())
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        start += size
    return torch.cat(parts).numpy(), size
