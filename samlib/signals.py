"""Logits and labels to the per-example signals that every attack and estimator reads."""

from __future__ import annotations

import numpy as np
import torch

from samlib.checks import as_array, as_labels


def from_logits(logits, labels) -> dict[str, np.ndarray]:
    """The signals of logits (..., classes) for labels (...), or labels that broadcast to it, e.g. (n,) for (models, n, classes).

    Returns arrays (...), of the logits' precision but at least float32:
    `correct`, bool: the first largest logit is the label's. `logit` = log(p_y / (1 - p_y)) (Carlini et al. 2022, eq. 3);
    `entropy` of p in nats; `modified_entropy` = -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i) (Song and Mittal
    2021). No 1 - p is ever formed, so nothing saturates: a model that is sure to 1e-30 keeps a finite `logit`. For
    probabilities pass their logarithms; a probability of exactly 0 (-inf) gives infinite signals where the truth is infinite.

    Raises ValueError for fewer than 2 classes, NaN, logits of +inf or a row of -inf alone, and labels that do not fit.
    """
    z = as_array("logits", logits, infinite=True)
    if z.ndim == 0 or z.shape[-1] < 2:
        raise ValueError(f"logits must have at least 2 classes on their last axis, but their shape is {z.shape}.")
    z = z.astype(np.promote_types(z.dtype, np.float32) if z.dtype.kind == "f" else np.float32, copy=False)
    y = as_labels("labels", labels, z.shape[-1])
    try:
        y = np.broadcast_to(y, z.shape[:-1])
    except ValueError:
        raise ValueError(f"labels have shape {y.shape}, but logits have shape {z.shape}: they must agree.") from None
    if np.isinf(z.max(-1)).any():
        raise ValueError("logits must have a finite largest value in each row.")
    found = _from_tensors(*(torch.from_numpy(np.require(a, requirements=["C", "W"])) for a in (z, y)))
    return {name: values.numpy() for name, values in found.items()}


def _from_tensors(z: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """`from_logits` without its checks, on any device: logits (..., classes) and int64 labels (...) of the same shape."""
    top, y = z.argmax(-1, keepdim=True), y[..., None]
    largest = z.gather(-1, top)
    rest = z.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)  # of all but the largest
    total = largest + (rest - largest).exp().log1p()
    log_p = z - total
    p = log_p.exp()
    # exact to rounding for p <= 1/2, that is for all but the largest
    log_not_p = (-p).log1p().scatter(-1, top, rest - total)
    log_p_y, log_not_p_y, p_y = (a.gather(-1, y)[..., 0] for a in (log_p, log_not_p, p))
    correct = (top == y)[..., 0]
    wrong = torch.where(p > 0, p * log_not_p, 0).scatter(-1, y, 0)
    return {
        "correct": correct,
        "logit": torch.where(correct, (largest - rest)[..., 0], log_p_y - log_not_p_y),
        "entropy": -torch.where(p > 0, p * log_p, 0).sum(-1),
        "modified_entropy": -torch.where(p_y < 1, log_not_p_y.exp() * log_p_y, 0) - wrong.sum(-1),
    }
