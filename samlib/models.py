"""Model architectures as plain `torch.nn` modules."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import nn


def build_model(name: str, in_shape: Sequence[int], n_classes: int, *, hidden: Sequence[int] = (128, 128)) -> nn.Module:
    """A freshly initialized model (by torch's global random state) from inputs (batch, *in_shape) to logits (batch, n_classes).

    `mlp`: fully connected, ReLU between layers of the widths `hidden`. Raises ValueError for an unknown name.
    """
    if name != "mlp":
        raise ValueError(f"model {name!r} is not one of {', '.join(MODELS)}.")
    widths = (prod(in_shape), *hidden, n_classes)
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


MODELS = ("mlp",)
