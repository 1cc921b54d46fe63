"""Synthetic runs with real structure: examples, models and test points differ, and membership shows more in some examples."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import expit

from samlib import Experiment, audit
from samlib.data import Dataset

# What an optimizer does: how much logits rise on members, on all points, and how much they are stretched.
SGD = {"leak": 1.0, "skill": 0.0, "scale": 1.0}
SAM = {"leak": 1.2, "skill": 0.15, "scale": 0.9}


def pair(rng, n_models=24, n=200, n_tests=200, sgd=SGD, sam=SAM, name="digits", carries=0.0) -> audit.Pair:
    """Paired runs in which models, examples and test points are all random, and each pair shares most of its noise.

    carries: how much of what seeing example i adds helps on test point i, too (n = n_tests), and some examples are hard.
    """
    member = rng.random((n_models, n)) < 0.5
    hard, exposed = rng.normal(1, 1.5, n), rng.gamma(1.0, 1.0, n)  # an example's margin, and what seeing it adds
    if carries:  # some examples are learned by those alone that saw them
        hard[: n // 8] -= 4
        exposed[: n // 8] += 6
    gentle = rng.normal(0, 0.3, n)  # how much more SAM adds
    hard_test = rng.normal(1, 1.5, n_tests)
    strength, luck = rng.normal(0, 0.15, n_models), rng.normal(0, 0.2, n_models)  # of a model
    noise, noise_test = rng.normal(size=(n_models, n)), rng.normal(size=(n_models, n_tests))
    found = {}
    for which, does in (("sgd", sgd), ("sam", sam)):
        own = rng.normal(0, 0.1, (2, n_models))
        adds = np.maximum(does["leak"] * exposed + (gentle if which == "sam" and sam != sgd else 0), 0)
        common = (luck + own[0] + does["skill"])[:, None]
        logit = hard + common + member * adds * (1 + strength + own[1])[:, None]
        logit = logit + 0.8 * noise + 0.5 * rng.normal(size=logit.shape)
        test = hard_test + common + 0.8 * noise_test + 0.5 * rng.normal(size=noise_test.shape)
        if carries:
            test = test + carries * member * adds
        found[which] = runs(member, does["scale"] * logit, does["scale"] * test, name)
    return audit.align(found)


def runs(member, logit, test_logit, name: str = "digits") -> xr.Dataset:
    """What `run` returns, of two classes, from the true class's logits."""
    (n_models, n), n_tests = member.shape, test_logit.shape[1]
    variables = {"member": (("model", "example"), member)}
    for prefix, dim, z in (("", "example", logit), ("test_", "test", test_logit)):
        variables |= {prefix + key: (("model", dim), v) for key, v in signals(z).items()}
    right, loss = logit > 0, np.logaddexp(0, -logit)
    variables |= {
        "train_accuracy": ("model", (right & member).sum(1) / member.sum(1)),
        "train_loss": ("model", (loss * member).sum(1) / member.sum(1)),
        "test_accuracy": ("model", (test_logit > 0).mean(1)),
    }
    coordinates = {
        "model": np.arange(n_models),
        "label": ("example", np.arange(n) % 3),
        "test_label": ("test", np.arange(n_tests) % 3),
    }
    attributes = {
        "data_checksum": "0" * 64,
        "seconds": 1.0,
        "machine": ["a machine"],
        "samlib": ["0"],
        "diverged": [],
        "key": "k",
        "experiment": Experiment(dataset=name).model_dump_json(),
    }
    return xr.Dataset(variables, coordinates, attributes)


def signals(logit) -> dict[str, np.ndarray]:
    """Signals of two classes from the true one's logit."""
    p, q = expit(logit), expit(-logit)
    entropy = p * np.logaddexp(0, -logit) + q * np.logaddexp(0, logit)
    return {
        "correct": logit > 0,
        "logit": logit.astype(np.float32),
        "entropy": entropy.astype(np.float32),
        "modified_entropy": (2 * q * np.logaddexp(0, -logit)).astype(np.float32),
    }


def stretched(pair: audit.Pair, factor: float) -> audit.Pair:
    """The pair with SAM's logits multiplied; what follows from them follows."""
    changed = {}
    for prefix in ("", "test_"):
        dims = pair.sam[f"{prefix}logit"].dims
        changed |= {prefix + k: (dims, v) for k, v in signals(factor * pair.sam[f"{prefix}logit"].values).items()}
    return pair._replace(sam=pair.sam.assign(changed))


def reordered(pair: audit.Pair, rng) -> audit.Pair:
    """The pair with its models, examples and test points in another order."""
    order = {dim: rng.permutation(pair.sgd.sizes[dim]) for dim in ("model", "example", "test")}
    return pair._replace(sgd=pair.sgd.isel(order), sam=pair.sam.isel(order))


def points(rng, n: int, n_tests: int = 10) -> Dataset:
    """Data of three classes in the order of `runs`, so that examples differ in how far they are from their class."""
    y, y_test = np.arange(n) % 3, np.arange(n_tests) % 3
    centre = 3 * rng.normal(size=(3, 4))
    x, x_test = (centre[of] + rng.normal(size=(len(of), 4)) for of in (y, y_test))
    return Dataset(x.astype(np.float32), y, x_test.astype(np.float32), y_test, ("a", "b", "c"), "points", "0" * 64)
