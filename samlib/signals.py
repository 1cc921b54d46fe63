"""Turn logits and labels into the signals of each example that attacks and estimators read."""

from __future__ import annotations

import numpy as np
import torch

from samlib.checks import as_array, as_labels


def from_logits(logits, labels) -> dict[str, np.ndarray]:
    """Compute the signals of logits.

    Parameters
    ----------
    logits : (..., classes) array
        At least 2 classes. For probabilities, pass their logarithms.
    labels : (...) int
        The true classes. They may broadcast, as (n,) to (models, n, classes).

    Returns
    -------
    dict of arrays (...), in the logits' precision but at least float32
        `correct`, bool: the first of the largest logits is the label's.
        `logit`: log(p_y / (1 - p_y)) (Carlini et al. 2022, eq. 3).
        `entropy` of p, in nats.
        `modified_entropy`: -(1 - p_y) log p_y - sum_{i != y} p_i log(1 - p_i) (Song and Mittal 2021).

    Raises
    ------
    ValueError
        If a logit is NaN or +inf, or all logits of a row are -inf. Also if there are fewer than 2 classes, or labels do
        not fit.

    Notes
    -----
    1 - p is never computed, so nothing saturates: at p_y = 1 - 1e-30 the `logit` is still finite. A probability of 0
    (-inf) gives an infinite signal where the exact value is infinite.

    Examples
    --------
    >>> found = from_logits([[2.0, 0.0], [1.0, 3.0]], [0, 0])
    >>> found["correct"], found["logit"]
    (array([ True, False]), array([ 2., -2.]))
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
    """`from_logits` without checks, on any device: logits (..., classes), int64 labels (...) of the same shape."""
    top, y = z.argmax(-1, keepdim=True), y[..., None]
    largest = z.gather(-1, top)
    rest = z.scatter(-1, top, -torch.inf).logsumexp(-1, keepdim=True)  # over all but the largest
    total = largest + (rest - largest).exp().log1p()
    log_p = z - total
    p = log_p.exp()
    # exact to rounding for p <= 1/2, so for all but the largest
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
