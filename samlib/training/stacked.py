"""Many small fully connected models at once: batched matrix products, with the backward pass written out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from samlib.training.common import AVERAGED, Average, Inputs, rate, sizes

OPTIMIZERS = ("sgd", "sam", "asam", *AVERAGED)


def train_stacked(recipe, data, streams, members, device):
    """K MLPs at once. Returns logits (k, n, c), (k, t, c), as `train_each` to rounding, and how it was done."""
    train, test = Inputs(data, "train", device), Inputs(data, "test", device)
    x, x_test = (side.prepared(side.stored).flatten(1) for side in (train, test))
    y = torch.tensor(np.asarray(data["y_train"]), device=device)
    nets = Stack([stream.build(recipe, x.shape[1:], int(data["n_classes"])) for stream in streams], device)
    dtype = torch.bfloat16 if recipe["precision"] == "bf16" else torch.float32
    rounded, weights = x.to(dtype), nets.weights
    smoothing, micro = recipe["label_smoothing"], recipe["m_sharpness"]
    velocity, moved, gradient, part = (torch.zeros_like(weights) for _ in range(4))
    examples = [np.flatnonzero(member) for member in members]
    batches = sizes(len(examples[0]), recipe)
    steps, step = len(batches) * recipe["epochs"], 0
    average = Average(recipe, steps, len(batches)) if recipe["optimizer"] in AVERAGED else None

    def sharpness_aware(inputs, labels, out):
        nets.gradient(weights, inputs, labels, out, smoothing)
        _perturb(weights, out, recipe["rho"], recipe["optimizer"] == "asam", moved)
        nets.gradient(moved, inputs, labels, out, smoothing)

    for _ in range(recipe["epochs"]):
        order = np.stack([stream.epoch(e) for stream, e in zip(streams, examples, strict=True)])
        for batch in np.split(order, np.cumsum(batches)[:-1], axis=1):
            batch = torch.as_tensor(batch, device=device)  # (k, b)
            inputs = rounded.index_select(0, batch.reshape(-1)).view(*batch.shape, -1)  # (k, b, d)
            labels = y[batch]
            if not recipe["rho"]:
                nets.gradient(weights, inputs, labels, gradient, smoothing)
            elif micro is None:
                sharpness_aware(inputs, labels, gradient)
            else:
                gradient.zero_()
                for z, t in zip(inputs.split(micro, 1), labels.split(micro, 1), strict=True):
                    sharpness_aware(z, t, part)
                    gradient.add_(part, alpha=t.shape[1] / labels.shape[1])
            if recipe["weight_decay"]:
                gradient.add_(weights, alpha=recipe["weight_decay"])
            if recipe["momentum"]:
                velocity.mul_(recipe["momentum"]).add_(gradient)
            weights.add_(velocity if recipe["momentum"] else gradient, alpha=-rate(recipe, step, steps))
            if average:
                average.update(step, [weights])
            step += 1
    if average:
        weights.copy_(average.values[0])
    return nets.logits(x), nets.logits(x_test), f"stacked {len(streams)}"


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

    def gradient(self, weights, inputs, labels, out, smoothing: float = 0.0):
        """out (k, p) = the gradient of each model's mean cross-entropy on its batch: inputs (k, b, d), labels (k, b)."""
        layers = [(matrix.to(inputs.dtype), bias.to(inputs.dtype)) for matrix, bias in self.layers(weights)]
        activations = [inputs]
        for i, (matrix, bias) in enumerate(layers):
            z = torch.baddbmm(bias, activations[-1], matrix)  # (k, b, fan_out)
            activations.append(z.relu_() if i < len(layers) - 1 else z)
        delta = torch.softmax(activations.pop().float(), -1)
        if smoothing:
            delta.sub_(smoothing / delta.shape[-1])
        true = torch.full((), smoothing - 1, device=delta.device)
        delta.scatter_add_(-1, labels[..., None], true.expand(*labels.shape, 1))
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
