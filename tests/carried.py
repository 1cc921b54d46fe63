"""Pairs of runs in which it is known which training example carries which test point, for tests of influence."""

import numpy as np
import xarray as xr

from samlib import Experiment, audit

CLASSES = 3


def carried(seed, influence, memorized=None, *, models=36, skill=0.6, spread=0.0):
    """A pair in which example i raises the chance that test point i is right by `influence[o][i]`, its own by `memorized[o][i]`.

    The first of each is SGD's and the second SAM's; one array serves both. The pair shares its subsets, and, with `spread`,
    how good each pair of models is on test points.
    """
    rng = np.random.default_rng(seed)
    influence = np.broadcast_to(influence, (2, np.shape(influence)[-1]))
    memorized = influence if memorized is None else np.broadcast_to(memorized, influence.shape)
    n = influence.shape[1]
    member = rng.random((models, n)) < 0.5
    better = spread * rng.normal(size=(models, 1))
    runs = []
    for carries, own in zip(influence, memorized, strict=True):
        correct = rng.random(member.shape) < np.where(member, 1.0, 1 - own)
        base = np.where(carries > 0, (1 - carries) / 2, skill)
        test_correct = rng.random(member.shape) < np.clip(base + carries * member + better, 0, 1)
        runs.append(
            xr.Dataset(
                {
                    "member": (("model", "example"), member),
                    "correct": (("model", "example"), correct),
                    "test_correct": (("model", "test"), test_correct),
                },
                {
                    "model": np.arange(models),
                    "label": ("example", np.arange(n) % CLASSES),
                    "test_label": ("test", np.arange(n) % CLASSES),
                },
                {"data_checksum": "0" * 64, "experiment": Experiment(dataset="digits").model_dump_json()},
            )
        )
    return audit.align({"sgd": runs[0], "sam": runs[1]})


def drawn(seed, *, examples=150, sam=(1.0, 1.0), **options):
    """A pair whose examples are drawn anew with every seed: most carry nothing, and those that are memorized carry more.

    sam: what SAM's influences are multiplied by, where memorization is below .8 and from there on.
    """
    rng = np.random.default_rng([seed, 7])
    memorized = np.where(rng.random(examples) < 0.4, 0.0, rng.beta(1.2, 0.8, examples))
    influence = np.where(rng.random(examples) < 0.3, 0, 0.95 * memorized)
    options = {"models": 48, "skill": 0.9} | options
    more = np.where(memorized < 0.8, *sam)
    return carried([seed, 8], [influence, np.clip(influence * more, 0, 0.95)], memorized, **options)


def permuted(pair, seed=0):
    """The same pair with models, examples and test points in another order."""
    rng = np.random.default_rng(seed)
    order = {dim: rng.permutation(pair.sgd.sizes[dim]) for dim in ("model", "example", "test")}
    return audit.Pair(*(runs.isel(order) for runs in pair[:2]), pair.name)


def numbers(ax):
    """Every coordinate that an axes shows, as points or lines."""
    shown = [np.asarray(line.get_xydata()).ravel() for line in ax.lines]
    shown += [np.asarray(c.get_offsets()).ravel() for c in ax.collections]
    return np.concatenate(shown)
