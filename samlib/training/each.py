"""Train one model at a time, of any architecture and with any optimizer, through autograd and `torch.optim`."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from itertools import chain
from types import FunctionType

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from samlib.models import build_model, image_shape
from samlib.optim import ASAM, GSAM, SAM, FriendlySAM, LookSAM
from samlib.training.common import Inputs, Streams, Training, on_device, trained

SHARPNESS_AWARE = {"sam": SAM, "asam": ASAM, "gsam": GSAM, "looksam": LookSAM, "friendlysam": FriendlySAM}
# The compiler of each kind of device. On a CPU it gains at most a tenth, and takes as long as training a small model.
COMPILERS = {"cuda": "inductor"}
COMPILED = ", compiled"


class OneModel(Training):
    """One model in training."""

    def __init__(self, recipe, inputs: Inputs, y: torch.Tensor, n: int, n_classes: int):
        super().__init__(recipe, inputs, y, n)
        with torch.device("meta"):  # `begin` sets all weights
            model = build_model(recipe["model"], inputs.shape, n_classes, hidden=recipe["hidden"], norm=recipe["norm"])
        self.model = model.to_empty(device=self.device).to(memory_format=torch.channels_last).train()
        self.called, self.n_classes = self.model, n_classes
        self.shifts = torch.zeros(n, 3, dtype=torch.int64, device=self.device)
        self.optimizer = make_optimizer(recipe, self.weights(), self.lr)
        self.period = self.optimizer.param_groups[0].get("k", 1)

    def begin(self, streams: Sequence[Streams], members: Sequence[np.ndarray]) -> None:
        super().begin(streams, members)
        fresh = streams[0].build(self.recipe, self.inputs.shape, self.n_classes)
        self.model.load_state_dict(fresh.state_dict())  # in place
        for value in chain.from_iterable(state.values() for state in self.optimizer.state.values()):
            if isinstance(value, torch.Tensor):
                value.zero_()  # a momentum of zero is that of a first step

    def rewind(self, taken: int = 0) -> None:
        super().rewind(taken)
        for group in self.optimizer.param_groups:
            if "t" in group:  # LookSAM counts its steps
                group["t"] = taken

    def lay(self) -> None:
        """Copy the order and the augmentation of the next epoch to the device."""
        super().lay()
        if self.recipe["augment"]:
            _, *sides = image_shape(self.inputs.shape)
            self.put(self.shifts, np.concatenate([self.streams[0].shifts(size, *sides) for size in self.batches]))

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
        """Take the averaged weights, and compute BatchNorm's statistics for them (Izmailov et al. 2018, section 3.2)."""
        super().settle()
        if not self.average:
            return
        members = torch.as_tensor(self.examples[0], device=self.device).split(self.batches)
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


def train_each(recipe: Mapping, data: Mapping, streams, members, device: str):
    """Train models one by one.

    The data stay on the device as they are stored. Batches are cut, augmented and normalized there. Weights and images
    are channels-last. Products are bfloat16 if the recipe says so; weights, updates and evaluation are float32.

    Parameters
    ----------
    recipe, data : mapping
        As in `train_group`.
    streams : sequence of Streams
        One for each model.
    members : (k, n) bool
        The subset of each model; all have one size.
    device : str
        As in `train_group`.

    Returns
    -------
    logits : (k, n, classes) float32 tensor
        Of the training side.
    test_logits : (k, t, classes) float32 tensor
    said : str
        How the models were trained.

    Examples
    --------
    >>> from samlib import Experiment, load_dataset
    >>> recipe = Experiment(dataset="digits", optimizer="gsam", hidden=(8,), epochs=1).model_dump()
    >>> data = load_dataset("digits").arrays()
    >>> stream = Streams(seed=0, k=0)
    >>> logits, test_logits, said = train_each(recipe, data, [stream], [stream.member(1437, 0.5)], "cpu")
    >>> logits.shape, said
    (torch.Size([1, 1437, 10]), 'one at a time, channels-last')
    """
    sides, y, n_classes = on_device(data, device)
    one = OneModel(recipe, sides[0], y, int(members[0].sum()), n_classes)
    said = compile_passes(one, COMPILERS.get(one.device.type))
    results = [trained([one], [([s], [m])], sides)[0] for s, m in zip(streams, members, strict=True)]
    return *map(torch.cat, zip(*results, strict=True)), f"one at a time, channels-last{said}{one.trouble()}"


class Compiled(nn.Module):
    """A model with compiled passes. Hooks run on this module; only the call inside it is compiled."""

    def __init__(self, model: nn.Module, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, x):
        return self.call(self.model, x)


def compile_passes(one: OneModel, backend: str | None) -> str:
    """Compile the training passes of a model. Returns, in words, that it did or why it could not."""
    if backend is None:
        return ""
    recipe = one.recipe
    cuts = [torch.arange(size).split(recipe["m_sharpness"] or size) for size in set(one.batches)]
    parts = sorted({len(part) for part in chain.from_iterable(cuts)})
    shape, device = one.inputs.shape, one.device
    call, said = _compiler(backend, str(one.model), device, shape, recipe["precision"], *parts)
    if not said:
        examples = [one.inputs.prepared(one.inputs.stored[:part]) for part in parts]
        said.append(_tried(Compiled(deepcopy(one.model), call), recipe, examples))
    if said[0] == COMPILED:
        one.called = Compiled(one.model, call)
    return said[0]


def _tried(model: nn.Module, recipe: Mapping, inputs: Sequence[torch.Tensor]) -> str:
    """Call a copy of a model with each size of input: a compiler fails at the first call with a size."""
    try:
        for x in inputs:
            with autocast(recipe, x.device):
                loss = model(x).float().sum()
            loss.backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # compilers raise many kinds; training will raise again any other error
        cause = getattr(error, "inner_exception", error)
        return f", compiler failed ({(str(cause).strip() or type(cause).__name__).splitlines()[0]})"
    return COMPILED


@lru_cache
def _compiler(backend: str, *what):
    """A compiled call, and a list for the outcome. All models of one architecture and set of batch sizes share it.

    torch keeps at most 8 compiled forms of a code object, and each batch size is a form. So each call here makes a
    code object of its own.
    """

    def call(model, x):
        return model(x)

    own = FunctionType(call.__code__.replace(), globals())
    return torch.compile(own, backend=backend, fullgraph=True, dynamic=False), []


def closures(model, recipe, x, y, optimizer):
    """The closure of an optimizer's step, which computes the loss and its gradient; a list of them for micro-batches."""

    def closure(x, y, share):
        optimizer.zero_grad()
        with autocast(recipe, x.device):
            logits = model(x).float()
            loss = share * nn.functional.cross_entropy(logits, y, label_smoothing=recipe["label_smoothing"])
        loss.backward()
        return loss

    m = recipe["m_sharpness"] or len(y)
    parts = zip(x.split(m), y.split(m), strict=True)
    found = [partial(closure, x_part, y_part, len(y_part) / len(y)) for x_part, y_part in parts]
    return found[0] if len(found) == 1 else found


def autocast(recipe: Mapping, device: torch.device):
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe["precision"] == "bf16")


def make_optimizer(recipe: Mapping, parameters, lr: torch.Tensor) -> torch.optim.Optimizer:
    """The recipe's optimizer. A sharpness-aware one steps with SGD; its other settings are its paper's."""
    given = {"lr": lr, "momentum": recipe["momentum"], "weight_decay": recipe["weight_decay"]}
    if lr.is_cuda:
        given["fused"] = True  # this form reads the rate on the device
    if recipe["alpha"] is not None:
        given["alpha"] = recipe["alpha"]
    if recipe["optimizer"] in SHARPNESS_AWARE:
        return SHARPNESS_AWARE[recipe["optimizer"]](parameters, torch.optim.SGD, recipe["rho"], **given)
    return torch.optim.SGD(parameters, **given)
