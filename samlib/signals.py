"""Logits and labels to per-example signals (provisional)."""

import numpy as np


def from_logits(logits, labels):
    z = np.asarray(logits)
    y = np.broadcast_to(np.asarray(labels), z.shape[:-1])[..., None]
    top = z.max(-1, keepdims=True)
    logp = z - top - np.log(np.exp(z - top).sum(-1, keepdims=True))
    true = np.take_along_axis(z, y, -1)[..., 0]
    rest = z.copy()
    np.put_along_axis(rest, y, -np.inf, -1)
    rt = rest.max(-1, keepdims=True)
    logit = true - rt[..., 0] - np.log(np.exp(rest - rt).sum(-1))
    p = np.exp(logp)
    log1m = np.log1p(-np.minimum(p, 1 - 1e-7))
    me = -(p * log1m).sum(-1)
    py, lpy, l1 = (np.take_along_axis(a, y, -1)[..., 0] for a in (p, logp, log1m))
    me = me + py * l1 - (1 - py) * lpy
    return {
        "correct": z.argmax(-1) == y[..., 0],
        "logit": logit,
        "entropy": -(p * logp).sum(-1),
        "modified_entropy": me,
    }
